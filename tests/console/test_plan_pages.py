"""The plan on the console: a project from its registration to funds that a second person approved, an evaluation with an appeal, a task, and
the screen on a wall that loses the house and finds it again."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.console.conftest import PASSWORD, Browser, Tulou

ORG = "fujian.szb"
YEAR = dt.datetime.now(dt.UTC).year


def paper(kind: str, fen: int, day: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "fen": fen, "at": f"{day}T00:00:00+08:00", "key": f"{kind}{fen}{day}", "evidence_text": "资金文件", **more}


def person(house: Tulou, name: str, display: str, *roles: str) -> httpx.Client:
    """A new person with roles everywhere below the province, signed in."""
    with house.sign_in() as admin:
        grants = [{"org": "fujian", "role": role, "subtree": True} for role in roles]
        first = admin.post("/api/v1/users", json={"name": name, "display": display, "org": "fujian", "roles": grants}).json()["password"]
    client = house.client()
    client.post("/api/v1/session", json={"name": name, "password": first})
    client.post("/api/v1/session/password", json={"old": first, "new": PASSWORD + "2"})
    return client


@pytest.fixture(scope="module")
def second(house: Tulou) -> Iterator[httpx.Client]:
    """Another person than the administrator."""
    with contextlib.closing(person(house, "wangwu", "王五", "approver", "reporter", "steward")) as client:
        yield client


@pytest.fixture(scope="module")
def made(house: Tulou, second: httpx.Client) -> int:
    """Two projects with funds of two years from three sources; the first one's number."""
    with house.sign_in() as admin:
        numbers = []
        for code, task, title in (("C1-001", "C1", "东南大数据中心二期"), ("F7-001", "F7", "九龙江流域水质自动监测网")):
            answer = admin.post("/api/v1/plan/projects", json={
                "org": ORG, "code": code, "task": task, "title": title, "starts": f"{YEAR - 1}-03-01", "ends": f"{YEAR}-12-31", "place": "福州长乐",
                "lon": 119.53, "lat": 25.96,
            })
            assert answer.status_code == 201, answer.text
            numbers.append(answer.json()["no"])
        no = numbers[0]
        for title, due in (("土建竣工", f"{YEAR - 1}-10-31"), ("设备到货", f"{YEAR - 1}-12-20")):
            assert admin.post(f"/api/v1/plan/projects/{no}/milestones", json={"title": title, "due": due}).status_code == 201
        moves = [
            paper("planned", 42_000_000_000, f"{YEAR - 1}-12-01", source="budget"), paper("planned", 30_000_000_000, f"{YEAR - 1}-12-15", source="special_bonds"),
            paper("committed", 38_000_000_000, f"{YEAR - 1}-04-01", source="budget"), paper("committed", 30_000_000_000, f"{YEAR - 1}-05-01", source="special_bonds"),
            paper("received", 21_500_000_000, f"{YEAR - 1}-06-01", source="budget"), paper("received", 30_000_000_000, f"{YEAR - 1}-07-02", source="special_bonds"),
            paper("received", 6_000_000_000, f"{YEAR - 1}-09-02", source="own"), paper("spent", 18_000_000_000, f"{YEAR - 1}-08-05", source="special_bonds", use="works"),
            paper("spent", 9_120_000_000, f"{YEAR - 1}-10-11", source="budget", use="equipment"), paper("spent", 1_400_000_000, f"{YEAR - 1}-11-20", source="own", use="services"),
            {"kind": "granted", "resource": "land", "quantity": "120", "unit": "mu", "at": f"{YEAR - 1}-03-05T00:00:00+08:00", "key": "l", "evidence_text": "用地批复"},
            {"kind": "used", "resource": "land", "quantity": "96.5", "unit": "mu", "at": f"{YEAR - 1}-05-05T00:00:00+08:00", "key": "lu", "evidence_text": "供地"},
            {"kind": "granted", "resource": "energy", "quantity": "26000", "unit": "tce", "at": f"{YEAR - 1}-03-05T00:00:00+08:00", "key": "e", "evidence_text": "节能审查"},
        ]
        for one in moves:
            answer = admin.post(f"/api/v1/plan/projects/{no}/movements", json=one)
            assert answer.status_code == 201, answer.text
    waiting = [one["no"] for one in second.get(f"/api/v1/plan/projects/{no}").json()["movements"]]
    told = second.post(f"/api/v1/plan/projects/{no}/approve", json={"papers": waiting}).json()["items"]
    assert all("error" not in one for one in told), told
    return int(no)


def looks(page: Browser, name: str) -> None:
    """The page in English and dark, and narrow: nothing without a name, nothing from elsewhere, nothing wider than the window."""
    page.shot(name)
    page.switch("en", "dark", 1440)
    page.shot(f"{name}-en-dark")
    page.switch("zh", "light", 390)
    page.shot(f"{name}-narrow")
    assert page.script("return document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the window"
    page.switch("zh", "light", 1440)
    assert page.nameless() == []
    assert page.foreign() == []
    assert page.complaints() == []


def test_a_project_from_its_register_to_its_funds(page: Browser, made: int, second: httpx.Client) -> None:
    page.open("/plan/projects")
    page.sees("东南大数据中心二期")
    page.sees("逾期 2")
    looks(page, "projects")
    page.press("导入表格")
    page.sees("资金变动导入后仍须另一人审批")
    page.shot("projects-import")
    page.find(".ant-modal-close").click()
    page.open(f"/plan/projects/{made}")
    page.sees("2.85 亿元")
    page.find("[data-testid=funds] canvas")
    looks(page, "project")
    page.find("[data-testid=milestones] button").click()
    page.fill("#done_on", f"{YEAR - 1}-11-20\n")
    page.fill("#evidence_text", "竣工验收备案表")
    page.press("提交", ".ant-modal")
    page.sees("待审批")
    mine = page.all("[data-testid=milestones] .ant-btn-primary")
    mine[0].click()
    page.press("批准", ".ant-modal")
    page.sees("提交人不能复核自己的材料")
    page.shot("project-own-paper")
    number = second.get(f"/api/v1/plan/projects/{made}").json()["milestones"][0]["no"]
    assert second.post(f"/api/v1/plan/milestones/{number}/approve", json={"note": ""}).json()["state"] == "done"
    page.open(f"/plan/projects/{made}")
    page.sees("逾期完成")
    page.complaints()  # of the refusal
    page.open("/plan/tasks")
    page.find("h3")
    page.press("报告（Word）")
    if importlib.util.find_spec("docx") is None:
        page.sees("未安装 python-docx")  # said on the page itself
        page.complaints()
    page.open("/plan/tasks/C1")
    page.sees("东南大数据中心二期")
    looks(page, "task")
    page.complaints()


def test_an_evaluation_its_appeal_and_a_new_version(page: Browser, made: int, second: httpx.Client, house: Tulou) -> None:
    page.open("/plan/evaluations")
    page.sees("还没有公布的考评")
    page.shot("evaluations-none")
    page.press("起草考评")
    page.press("新建", ".ant-modal")
    page.sees(f"{YEAR - 1} 年 第 1 版（草稿）")
    page.press("公布")
    page.press("公布", ".ant-modal")
    page.sees("提交人不能复核自己的材料")
    page.find(".ant-modal-close").click()
    page.complaints()  # of the refusal
    assert second.post(f"/api/v1/plan/evaluations/{YEAR - 1}/1/publish").json()["state"] == "published"
    page.open("/plan/evaluations")
    page.sees("重算一致")
    looks(page, "evaluation")
    document = second.get(f"/api/v1/plan/evaluations/{YEAR - 1}").json()["document"]
    mine = next(row for row in document["agencies"] if row["id"] == ORG)
    assert mine["funds"][0]["spent"] == 28_520_000_000
    appeal = second.post(f"/api/v1/plan/evaluations/{YEAR - 1}/appeals", json={
        "org": ORG, "evidence_text": "年底支付凭证未及时登记", "corrections": [{"criterion": "funds", "subject": str(made), "field": "spent", "value": 40_000_000_000}],
    })
    assert appeal.status_code == 201, appeal.text
    page.open("/plan/evaluations")
    page.sees("年底支付凭证未及时登记")
    page.press("采纳")
    page.press("采纳", ".ant-modal")
    page.sees("提交人不能复核自己的材料")  # the administrator made the version
    page.shot("evaluation-own-paper")
    with contextlib.closing(person(house, "zhaoliu", "赵六", "approver")) as third:
        assert third.post(f"/api/v1/plan/appeals/{appeal.json()['no']}/uphold", json={"note": "属实"}).json()["made"] == 2
    page.open("/plan/evaluations")
    page.sees("经申诉更正")
    page.sees("产生第 2 版")
    page.shot("evaluation-second-version")
    page.complaints()


def test_what_is_open_to_others(page: Browser, second: httpx.Client) -> None:
    page.open("/plan/openings")
    page.sees("没有开放的设施或场景")
    for title, lon in (("远杆", 119.5), ("近杆", 119.31)):
        opened = second.post("/api/v1/plan/openings", json={"org": "fujian", "kind": "pole", "title": title, "lon": lon, "lat": 26.08, "places": 3})
        assert opened.status_code == 201, opened.text
    page.open("/plan/openings?near=119.3,26.08")
    page.sees("近杆")
    rows = page.until(lambda: [one.text for one in page.all("[data-testid=openings] tbody .link-cell")], "no rows")
    assert rows == ["近杆", "远杆"]
    page.press("近杆")
    page.press("申请", "[data-testid=opening]")
    page.pick("#org", "fuzhou")
    page.fill("#evidence_text", "挂载交通摄像机")
    page.press("提交", ".ant-modal")
    page.sees("待裁定")
    page.shot("opening")
    page.find(".ant-drawer-close").click()
    page.until(lambda: not page.all(".ant-drawer-open"), "the drawer stays")
    looks(page, "openings")


def test_the_screen_on_the_wall(page: Browser, made: int, house: Tulou) -> None:
    try:
        for width, height in ((1920, 1080), (3840, 1080)):
            page.size(width, height)
            page.driver.get(f"{house.url}/screen")
            page.find("[data-testid=wall]")
            page.sees("任务进度")
            page.sees("设备到货")
            page.sees("合成")  # things that do not exist are said to be so
            page.until(lambda: page.all(".wall-map canvas"), "no map")
            page.until(lambda: not page.all(".waiting"), "still loading")
            time.sleep(3)  # the map is drawn
            page.shot(f"screen-{width}")
            assert page.script("return document.documentElement.scrollHeight <= innerHeight && document.documentElement.scrollWidth <= innerWidth")
            cut = page.script(
                "return [...document.querySelectorAll('.wall-bars')].filter((e) => e.lastElementChild.getBoundingClientRect().bottom"
                " > e.parentElement.getBoundingClientRect().bottom).map((e) => e.className)"
            )
            assert cut == [], "bars that are not seen"
            small = page.script("return Math.min(...[...document.querySelectorAll('.wall-name, .wall-value')].map((e) => parseFloat(getComputedStyle(e).fontSize)))")
            assert small >= 14
        assert page.script("return getComputedStyle(document.querySelector('.wall')).backgroundColor") == "rgb(16, 22, 29)"
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        page.driver.execute_cdp_cmd("Network.enable", {})
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        page.find("[data-testid=away]")
        page.sees("连接中断")
        page.sees("东南大数据中心二期")
        page.shot("screen-away")
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**offline, "offline": False, "downloadThroughput": -1, "uploadThroughput": -1})
        page.until(lambda: not page.all("[data-testid=away]"), "it does not find the house again")
        page.sees("数据截至")
    finally:
        page.size(1440, 900)
    page.complaints()
    assert page.foreign() == []
