"""The console in Chromium against a running house: what people see and do.

The first tests use the printed password, so they come first; pytest keeps the order of the file.
"""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from .conftest import NO_WEBGL, PASSWORD, Browser, Tulou

pytestmark = pytest.mark.browser

PAGES = {
    "cockpit": "/",
    "things": "/things",
    "thing": "/things/1",
    "chart": "/things/1?tab=chart",
    "frames": "/things/1?tab=frames",
    "document": "/things/1?tab=document",
    "device": "/things/1?tab=device",
    "targets": "/plan/targets",
    "target": "/plan/targets/5g-stations",
    "tasks": "/plan/tasks",
    "organisations": "/organisations",
    "people": "/people",
    "tokens": "/tokens",
    "alarms": "/alarms",
    "rules": "/rules",
    "dead-letters": "/dead-letters",
    "provisioning": "/provisioning",
    "products": "/products",
    "edges": "/edges",
    "rollouts": "/rollouts",
    "jobs": "/jobs",
    "audit": "/audit",
    "system": "/system",
}
LOOKS = [[("zh", "light", 1440), ("en", "dark", 1440)], [("en", "light", 390), ("zh", "dark", 390)]]
"""Each first look is loaded, the second one switched to."""


def test_the_first_password_signs_in_once_and_must_be_changed(browser: Browser, fresh: str) -> None:
    browser.cookie(None)
    browser.settings()
    browser.open("/things")
    browser.sees("登录")
    browser.fill("input[autocomplete=username]", "admin")
    browser.fill("input[type=password]", "wrong")
    browser.find("input[type=password]").send_keys(Keys.ENTER)
    browser.find("[role=alert]")
    browser.shot("sign-in-refused")
    browser.fill("input[type=password]", fresh)
    browser.find("input[type=password]").send_keys(Keys.ENTER)
    browser.sees("首次登录须先修改初始口令")
    browser.shot("change-password")
    old, new, again = browser.all("input[type=password]")
    old.send_keys(fresh)
    new.send_keys("short")
    again.send_keys("other", Keys.ENTER)
    browser.sees("至少 8 个字符")
    browser.sees("两次输入的新口令不一致")
    for field in (new, again):
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(PASSWORD)
    again.send_keys(Keys.ENTER)
    browser.sees("共 0 个")
    assert browser.driver.current_url.endswith("/things")
    assert browser.foreign() == []


def test_signing_out_ends_the_session(browser: Browser) -> None:
    browser.open("/things")
    secret = browser.driver.get_cookie("tulou_session")
    assert secret is not None
    assert secret["httpOnly"]
    assert secret["sameSite"] == "Strict"
    browser.find("[data-testid=account]").click()
    browser.until(lambda: [e for e in browser.all("[role=menuitem]") if "退出登录" in e.text], "no menu")
    next(e for e in browser.all("[role=menuitem]") if "退出登录" in e.text).click()
    browser.sees("用户名")
    with httpx.Client(base_url=browser.base, cookies={"tulou_session": secret["value"]}, trust_env=False) as client:
        assert client.get("/api/v1/session").status_code == 401


@pytest.mark.parametrize("name", PAGES)
def test_every_page_in_two_languages_two_lights_two_widths(page: Browser, name: str) -> None:
    """Nothing comes from elsewhere, nothing fails, nothing jumps, nothing overflows, everything has a name."""
    for looks in LOOKS:
        for turn, (language, theme, width) in enumerate(looks):
            if turn == 0:
                page.size(width, 844 if width < 600 else 900)
                page.settings(language, theme)
                page.open(PAGES[name])
            else:
                page.switch(language, theme, width)
            if name == "cockpit":
                page.find("[data-testid=map][data-ready=true]")
            if name == "chart":
                page.find("[data-testid=chart] canvas")
            page.shot(f"{name}-{language}-{theme}-{width}")
            assert page.script("return document.documentElement.lang") == {"zh": "zh-CN", "en": "en"}[language]
            assert page.script("return document.documentElement.dataset.theme") == theme
            assert page.script("return document.querySelectorAll('h1').length") == 1
            assert page.script("return document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
            assert page.nameless() == []
            if turn == 0:
                assert page.script("return window.shifted") < 0.1
        assert page.foreign() == []
        assert page.complaints() == []


def test_the_cockpit_shows_things_where_they_are(page: Browser, devices: list[dict[str, Any]]) -> None:
    page.open("/")
    page.find("[data-testid=map][data-ready=true]")
    page.sees("图中 43 个实体")
    page.sees("合成数据 synthetic：40 个实体")
    page.sees("坐标基准未声明")
    x, y = page.place(116.73, 24.72)

    def hovered() -> bool:
        page.mouse("mouseMoved", x - 30, y - 30)
        page.mouse("mouseMoved", x, y)
        return "永定气象站" in page.text()

    page.until(hovered, "no thing at its place")
    page.shot("cockpit-hover")
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)
    page.until(lambda: "相对湿度" in page.text() or "气温" in page.text(), "no drawer")
    page.shot("cockpit-drawer")
    assert "永定气象站" in page.find(".ant-drawer-title").text
    assert page.complaints() == []


def test_without_webgl_a_simple_map_is_drawn(
    house: Tulou, secret: str, devices: list[dict[str, Any]], tmp_path: Any
) -> None:
    plain = Browser(house.url, tmp_path / "chromium", *NO_WEBGL)
    try:
        plain.cookie(secret)
        plain.settings()
        plain.open("/")
        plain.find("[data-testid=map-simple] canvas")
        plain.sees("此浏览器不支持 WebGL")
        plain.shot("cockpit-simple")
        assert plain.complaints() == []
    finally:
        plain.driver.quit()


def test_a_reading_appears_without_reloading(page: Browser, house: Tulou, devices: list[dict[str, Any]]) -> None:
    page.open(f"/things/{devices[1]['no']}")
    page.find("[data-testid=latest]")
    with house.client() as device:
        sent = device.post(f"/api/v1/{devices[1]['token']}/telemetry", json={"temperature": 31.7})
        assert sent.status_code in (200, 204)
    page.until(lambda: "31.7" in page.find("[data-testid=latest]").text, "the new value does not appear")


def test_many_tabs_and_pages_left_behind_take_no_connection_from_the_one_that_is_seen(page: Browser) -> None:
    """A browser has six connections for a house; each page that is seen keeps one for what is new."""
    first = page.driver.current_window_handle
    tabs = []
    try:
        for _ in range(8):
            page.driver.switch_to.new_window("tab")
            tabs.append(page.driver.current_window_handle)
            page.open("/things")
            page.find(".live-mark.on")
        for _ in range(8):
            page.open("/system")
            page.find(".live-mark.on")
    finally:
        for tab in tabs:
            page.driver.switch_to.window(tab)
            page.driver.close()
        page.driver.switch_to.window(first)
    page.open("/things")
    page.find(".live-mark.on")


def test_search_filters_and_the_slash_key(page: Browser) -> None:
    page.open("/things")
    page.sees("共 43 个")
    page.find("body").send_keys("/")
    page.until(lambda: page.script("return document.activeElement.matches('[data-search], [data-search] *')"), "no focus")
    focused = page.driver.switch_to.active_element
    focused.send_keys("武夷山")
    page.sees("共 1 个")
    page.until(lambda: "武夷山气象站" in page.find("[data-testid=things]").text, "not found")
    focused.send_keys(Keys.CONTROL, "a")
    focused.send_keys("no such thing")
    page.sees("没有符合条件的物")
    page.shot("things-empty")
    page.press("清除筛选")
    page.sees("共 43 个")
    page.open("/things?synthetic=1")
    page.sees("共 40 个")
    page.until(lambda: "合成井盖" in page.find("[data-testid=things]").text, "no synthetic things")


def test_the_chart_says_its_resolution(page: Browser) -> None:
    page.open("/things/1?tab=chart")
    page.until(lambda: "原始读数" in page.find("[data-testid=resolution]").text, "no raw readings")
    next(e for e in page.all(".ant-segmented-item") if e.text == "1 年").click()
    page.until(lambda: "汇总" in page.find("[data-testid=resolution]").text, "no roll-up")
    page.shot("chart-year")


def test_a_report_needs_a_second_person(page: Browser, house: Tulou) -> None:
    page.open("/plan/targets/gigabit-access")
    page.press("上报数值")
    page.fill(".ant-modal input[role=spinbutton]", "1")
    date = page.find(".ant-modal .ant-picker input")
    date.send_keys("2026-01-31", Keys.ENTER)
    page.fill(".ant-modal textarea", "测试：通信业统计月报第 3 页")
    page.shot("report-form")
    page.press("提 交" if "提 交" in page.text() else "提交", ".ant-modal")
    page.sees("待审批")
    page.press("批准")
    page.press("批准", ".ant-modal")
    page.until(lambda: page.all(".ant-modal [role=alert]"), "the same person is not refused")
    page.shot("report-second-person")
    page.press("取消", ".ant-modal")
    with house.sign_in() as admin:
        target = admin.get("/api/v1/plan/targets/gigabit-access").json()
        person = {
            "name": "approver", "display": "王五", "org": "fujian",
            "roles": [{"org": "fujian", "role": "approver", "subtree": True}],
        }  # fmt: skip
        first = admin.post("/api/v1/users", json=person).json()["password"]
    with house.client() as approver:
        approver.post("/api/v1/session", json={"name": "approver", "password": first})
        approver.post("/api/v1/session/password", json={"old": first, "new": PASSWORD + "2"})
        done = approver.post(f"/api/v1/plan/reports/{target['reports'][0]['id']}/approve", json={"note": "属实"})
        assert done.status_code == 200, done.text
    page.open("/plan/targets/gigabit-access")
    page.sees("已批准")
    page.sees("王五")
    page.sees("上报")


def test_a_token_is_shown_once(page: Browser) -> None:
    page.open("/tokens")
    page.press("新建令牌")
    page.fill(".ant-modal #name", "读取程序")
    scopes = page.find(".ant-modal #scopes")
    scopes.send_keys("context.*", Keys.ENTER)
    page.find(".ant-modal-title").click()
    page.until(lambda: not any(e.is_displayed() for e in page.all(".ant-select-dropdown")), "the list stays open")
    page.press("新建", ".ant-modal")
    secret = page.find("[data-testid=secret]").text
    assert secret.startswith("tulou_")
    page.shot("token-once")
    page.press("关闭", ".ant-modal")
    page.open("/tokens")
    page.sees("读取程序")
    assert secret not in page.script("return document.documentElement.outerHTML")


def test_an_organisation_applies(page: Browser) -> None:
    page.open("/organisations")
    page.sees("福州")
    page.press("申请加入")
    page.fill(".ant-modal #name_zh", "福州测试水务")
    page.fill(".ant-modal #name_en", "Fuzhou Test Water")
    page.fill(".ant-modal #id", "Not A Slug")
    page.press("提交", ".ant-modal")
    page.until(lambda: page.all(".ant-form-item-explain-error"), "a bad id is not refused")
    page.fill(".ant-modal #id", "test-water")
    page.press("提交", ".ant-modal")
    page.sees("待批准")
    page.shot("organisation-applied")


def test_a_refusal_names_field_value_and_rule_in_the_readers_language(page: Browser) -> None:
    page.open("/things/999999")
    page.sees("没有编号为 999999 的实体")
    page.sees("字段")
    page.settings("en")
    page.open("/things/999999")
    page.sees("no thing 999999")
    page.sees("Field")


def test_dead_letters_show_the_frame_and_the_reason(page: Browser) -> None:
    page.open("/dead-letters")
    page.until(lambda: page.all("[data-testid=dead-letters] .ant-table-row"), "no dead letter")
    page.find("[data-testid=dead-letters] .ant-table-row").click()
    page.until(lambda: '"hot"' in page.text(), "no raw frame")
    assert "temperature" in page.text()
    page.shot("dead-letters-open")


def test_the_audit_verifies(page: Browser) -> None:
    page.open("/audit")
    page.press("校验哈希链")
    page.sees("校验通过")
    page.sees("access.device.create")


def test_keyboard_alone_reaches_content_and_pages(page: Browser) -> None:
    page.open("/things")
    body = page.find("body")
    page.script("document.activeElement.blur(); window.focus()")
    body.send_keys(Keys.TAB)
    skip = page.driver.switch_to.active_element
    assert skip.text == "跳到正文"
    assert skip.is_displayed()
    skip.send_keys(Keys.ENTER)
    assert page.script("return location.hash") == "#content"
    page.script("document.activeElement.blur()")
    page.find("body").send_keys("g")
    page.find("body").send_keys("l")
    page.until(lambda: page.driver.current_url.endswith("/audit"), "g then l does not go to the audit")
    page.settled()
    page.find(".sider-menu a").send_keys(Keys.NULL)
    page.find("body").send_keys(Keys.TAB)
    width = page.script(
        "const e = document.activeElement; e.focus({focusVisible: true});"
        "const s = getComputedStyle(e); return s.outlineStyle !== 'none' || s.boxShadow !== 'none' || e.tagName === 'BODY'"
    )
    assert width


def test_the_menu_holds_what_one_may_do(page: Browser, house: Tulou) -> None:
    with house.sign_in() as admin:
        person = {
            "name": "auditor", "display": "审计员", "org": "fujian",
            "roles": [{"org": "fujian", "role": "auditor", "subtree": True}],
        }  # fmt: skip
        first = admin.post("/api/v1/users", json=person).json()["password"]
    with house.client() as client:
        client.post("/api/v1/session", json={"name": "auditor", "password": first})
        client.post("/api/v1/session/password", json={"old": first, "new": PASSWORD + "3"})
        page.cookie(client.cookies["tulou_session"])
        can = client.get("/api/v1/session").json()["can"]
    assert "audit.record.read" in can
    assert "access.device.create" not in can
    page.open("/audit")
    menu = page.find(".sider-menu").text
    assert "审计" in menu
    assert ("告警" in menu) == ("access.alarm.read" in can)
    assert ("系统健康" in menu) == ("house.system.read" in can)
    page.shot("menu-auditor")


def test_language_and_theme_are_chosen_and_kept(page: Browser) -> None:
    page.open("/things")
    page.find("[data-testid=language]").click()
    page.sees("Things")
    page.find("[data-testid=theme]").click()
    page.until(lambda: [e for e in page.all("[role=menuitem]") if e.text == "Dark"], "no themes")
    next(e for e in page.all("[role=menuitem]") if e.text == "Dark").click()
    page.until(lambda: page.script("return document.documentElement.dataset.theme") == "dark", "not dark")
    page.open("/things")
    page.sees("Things")
    assert page.script("return document.documentElement.dataset.theme") == "dark"


@pytest.mark.slow
def test_a_hundred_thousand_things(house: Tulou, page: Browser) -> None:
    """The map and the list with 100,000 things: everything is there, and the page answers."""
    began = time.monotonic()
    with house.sign_in() as client:
        for start in range(0, 100_000, 10_000):
            items = [
                {
                    "org": "quanzhou", "type": "StreetLight", "name": f"合成路灯 {n:06}", "id": f"light-{n}",
                    "synthetic": True, "lon": 117.6 + n % 400 * 0.004, "lat": 24.6 + n // 400 * 0.004,
                }
                for n in range(start, start + 10_000)
            ]  # fmt: skip
            answer = client.post("/api/v1/devices/bulk", json={"items": items}, timeout=120)
            assert answer.status_code == 200, answer.text
    print(f"registered in {time.monotonic() - began:.1f} s")
    page.open("/")
    page.find("[data-testid=map][data-ready=true]")
    page.sees("图中 100,043 个实体")
    page.shot("cockpit-100000")
    navigation = page.script(
        "return performance.getEntriesByType('paint').map((e) => [e.name, Math.round(e.startTime)])"
    )
    print(f"paint {navigation}")
    page.open("/things")
    page.sees("共 100,043 个")
    page.find("input[data-search], [data-search] input").send_keys("合成路灯 099999")
    page.sees("共 1 个")
    assert page.complaints() == []
    assert page.foreign() == []
