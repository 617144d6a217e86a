"""The rule editor and the alarm desk in Chromium against a running house."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Browser, Tulou

pytestmark = pytest.mark.browser


def test_a_rule_is_made_its_alarm_is_seen_to_and_it_is_deleted(
    page: Browser, house: Tulou, devices: list[dict[str, Any]]
) -> None:
    page.open("/rules")
    page.sees("风速 > 17.2，持续 120 秒")  # of the base pack
    page.press("新建规则")
    page.fill("#name", "高温")
    page.pick("#org", "fuzhou")
    page.pick("#type", "WeatherStation")
    page.pick("#property", "temperature")
    page.fill("#bound", "35")
    page.shot("rule-form")
    page.press("新建", ".ant-modal")
    page.sees("气温 > 35")
    page.press("在历史上试运行", "[data-testid=rules]")
    page.sees("会告警 0 次")

    with house.sign_in() as client:
        path = f"/api/v1/{devices[0]['token']}/telemetry"

        def raised() -> bool:
            client.post(path, json={"temperature": 41})
            return bool(client.get("/api/v1/alarms", params={"no": devices[0]["no"]}).json()["items"])

        page.until(raised, "no alarm")
    page.open("/alarms?mine=1")
    page.sees("没有符合条件的告警")
    page.open("/alarms?grouped=1&severity=major")
    page.sees("高温")
    page.until(lambda: page.button("详情", "[data-testid=alarms]").click() or True, "no details")
    page.press("指派给我", "[data-testid=alarm]")
    page.fill("[data-testid=alarm] textarea", "已派车")
    page.press("备注", "[data-testid=alarm]")
    page.sees("admin 备注 已派车")
    page.press("确认", "[data-testid=alarm]")
    page.press("1 小时", "[data-testid=alarm]")
    page.sees("静默至")
    page.shot("alarm-drawer")
    page.press("手工解除", "[data-testid=alarm]")
    page.press("手工解除", ".ant-modal-confirm")
    page.sees("admin 解除")
    history = page.find("[data-testid=history]").text
    assert [word for word in ("指派", "备注", "确认", "静默", "解除") if word in history] == ["指派", "备注", "确认", "静默", "解除"]

    page.open("/rules")
    page.press("新建渠道", "[data-testid=channels]")
    page.fill(".ant-modal #name", "值班室")
    page.pick(".ant-modal #org", "fuzhou")
    page.fill(".ant-modal #url", "http://127.0.0.1/")
    page.press("新建", ".ant-modal")
    page.sees("loopback")
    page.fill(".ant-modal #url", "http://10.9.9.9/hook")
    page.press("新建", ".ant-modal")
    assert len(page.find("[data-testid=secret]").text) == 43
    page.press("关闭", ".ant-modal")
    page.sees("http://10.9.9.9/hook")
    page.shot("rules-and-channels")
    page.press("删除", "[data-testid=channels]")
    page.press("删除", ".ant-modal-confirm")
    page.sees("还没有通知渠道")
    page.driver.get_log("browser")  # the refusal
    page.press("删除", "[data-testid=rules]")
    page.press("删除", ".ant-modal-confirm")
    page.sees("还没有规则")
    assert page.complaints() == []
    assert page.foreign() == []
