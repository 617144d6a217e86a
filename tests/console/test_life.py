"""What people do about the life of devices on the console: keys, groups, certificates, quotas, claiming."""

from __future__ import annotations

from typing import Any

import pytest

from tests.console.conftest import Browser, Tulou


@pytest.fixture(scope="module")
def station(house: Tulou, secret: str) -> dict[str, Any]:
    body = {"org": "fuzhou", "type": "AirQualityStation", "name": "闽江口站", "id": "life-1"}
    with house.sign_in() as client:
        answer = client.post("/api/v1/devices", json=body)
        assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_a_key_by_which_a_device_comes(page: Browser, house: Tulou, station: dict[str, Any]) -> None:
    page.open("/provisioning")
    page.sees("还没有开通密钥")
    page.press("新建开通密钥")
    page.fill("#name", "2026 年批次")
    page.pick("#org", "fuzhou")
    page.pick("#type", "空气")
    page.fill("#most", "1")
    page.press("新建", ".ant-modal")
    key, secret = page.find("[data-testid=secret]").text.split()
    with house.client() as client:
        body = {"provisionDeviceKey": key, "provisionDeviceSecret": secret, "deviceName": "life-2"}
        assert client.post("/api/v1/provision", json=body).json()["status"] == "SUCCESS"
    page.open("/provisioning")
    page.sees("1 / 1")
    page.find("[data-testid=keys] .ant-switch").click()
    page.until(lambda: not page.all("[data-testid=keys] .ant-switch-checked"), "the key is still enabled")

    page.press("新建分组")
    page.pick("#org", "fuzhou")
    page.fill("#name", "河口")
    page.press("确定", ".ant-modal")
    page.press("增减设备")
    page.fill("#add", station["id"])
    page.press("确定", ".ant-modal")
    page.sees("加入 1 台，移出 0 台")
    page.until(lambda: not page.all(".ant-modal-mask"), "the dialog stays")
    page.shot("provisioning")
    page.switch("en", "dark", 1440)
    page.sees("Provisioning keys")
    page.shot("provisioning-en-dark")
    page.switch("zh", "light", 390)
    assert page.script("return document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    assert page.nameless() == []
    page.size(1440, 900)
    page.find("[data-testid=groups] a").click()
    page.sees("共 1 个")
    page.sees("闽江口站")
    assert page.foreign() == []


def test_a_certificate_on_the_page_of_the_device(page: Browser, house: Tulou, station: dict[str, Any]) -> None:
    page.open(f"/entities/{station['entity_id']}?org=fuzhou&tab=device")
    page.press("添加证书")
    page.press("提交", ".ant-modal")
    page.sees("私钥只提供这一次")
    page.button("key.pem")
    page.shot("certificate-once")
    page.press("关闭", ".ant-modal")
    page.sees("CN=life-1")
    page.sees("未使用")
    page.until(lambda: not page.all(".ant-modal-mask"), "the dialog stays")
    page.shot("certificates")
    page.press("吊销", "[data-testid=certificates]")
    page.press("吊销", ".ant-modal")
    page.sees("已吊销")
    page.press("允许认领")
    page.press("确定", ".ant-modal")
    page.sees("认领密码，有效至")
    secret = page.find("[data-testid=secret]").text
    page.open("/things")
    page.press("认领设备")
    page.fill("#device", station["id"])
    page.fill("#secret", secret)
    page.pick("#org", "xiamen")
    page.press("认领设备", ".ant-modal")
    page.sees("已认领为 xiamen:life-1")
    assert page.foreign() == []


def test_a_quota_beside_what_is_used(page: Browser, house: Tulou, station: dict[str, Any]) -> None:
    page.open("/organisations")
    page.find("[aria-label='配额 fuzhou']").click()
    page.find("[data-testid=quota-devices]")
    page.fill("#devices", "100")
    page.press("保存", ".ant-modal")
    page.until(lambda: not page.all(".ant-modal-mask"), "the dialog stays")
    page.find("[aria-label='配额 fuzhou']").click()
    page.until(lambda: page.all("[data-testid=quota-devices] .ant-progress"), "no share of the limit")
    page.sees("现用")
    page.find("[data-testid=quota-readings]")
    page.until(lambda: page.find("#devices").get_attribute("value") == "100", "the limit is not in the form")
    page.until(lambda: not page.all(".ant-zoom-enter, .ant-zoom-appear, .ant-fade-enter"), "it moves")
    page.shot("quota")
    with house.sign_in() as client:
        assert client.get("/api/v1/orgs/fuzhou/quota").json()["limits"] == {"devices": 100, "messages_s": None, "readings": None}
