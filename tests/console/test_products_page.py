"""The product editor in Chromium against a running house: made by a person, used by a device that speaks MQTT."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from .conftest import Browser, Tulou

pytestmark = pytest.mark.browser

LOOKS = (("zh", "light", 1440), ("en", "dark", 1440), ("en", "light", 390), ("zh", "dark", 390))


def wide(page: Browser) -> bool:
    return bool(page.script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def choose(page: Browser, text: str) -> bool:
    """Press the option that says this."""
    for option in page.all(".ant-select-item-option"):
        if option.is_displayed() and text in option.text:
            option.click()
            return True
    return False


def test_a_product_is_made_and_its_device_speaks(page: Browser, house: Tulou, devices: list[dict[str, Any]]) -> None:
    page.open("/products")
    page.sees("还没有产品")
    page.press("新建产品")
    page.sees("基本信息")
    page.fill("#name", "1st")
    page.sees("字母开头，只含字母、数字、下划线与连字符，至多")
    page.fill("#name", "AirQualityStation")
    page.sees("类型 AirQualityStation 属于包 ecology")
    page.fill("#name", "OutfallMonitor")
    page.pick("#org", "fuzhou")
    page.fill("#label_zh", "排口监测仪")
    page.press("新建", "[data-testid=product] .page-head")
    page.sees("至少 1 个字符")
    page.fill("#label_en", "Outfall monitor")
    page.press("添加属性")
    page.fill("#properties_0_name", "cod")
    page.fill("#properties_0_label_zh", "化学需氧量")
    page.fill("#properties_0_label_en", "COD")
    page.fill("#properties_0_unit", "毫克每升")
    page.until(lambda: choose(page, "mg/L"), "no unit is suggested")
    page.until(lambda: page.find("#properties_0_symbol").get_attribute("value") == "mg/L", "no symbol")
    page.fill("#properties_0_min", "50")
    page.fill("#properties_0_max", "5")
    page.sees("最小值 50 大于最大值 5")
    page.fill("#properties_0_min", "0")
    page.fill("#properties_0_max", "500")
    page.find("[data-testid=property] .ant-collapse-header").click()
    page.press("添加代码", "[data-testid=property]")
    page.fill("#properties_0_codes_0_protocol", "hj212")
    page.fill("#properties_0_codes_0_code", "w01018-Rtd")
    page.press("添加命令")
    page.fill("#commands_0_name", "rinse")
    page.fill("#commands_0_label_zh", "清洗")
    page.fill("#commands_0_label_en", "Rinse")
    page.press("添加参数")
    page.fill("#commands_0_params_0_name", "seconds")
    page.fill("#commands_0_params_0_label_zh", "秒数")
    page.fill("#commands_0_params_0_label_en", "Seconds")
    assert page.nameless() == []
    for language, theme, width in LOOKS:
        page.switch(language, theme, width)
        assert wide(page)
        page.shot(f"product-{language}-{theme}-{width}")
    page.switch("zh", "light", 1440)
    page.press("新建", "[data-testid=product] .page-head")
    page.sees("版本 1")
    page.driver.get_log("browser")  # type: ignore[no-untyped-call]
    with house.sign_in() as client:
        made = client.get("/api/v1/products/OutfallMonitor").json()["model"]
        assert made["properties"]["cod"] | {"label": None} == made["properties"]["cod"] | {
            "label": None, "unit": "M1", "symbol": "mg/L", "min": 0, "max": 500, "codes": {"hj212": "w01018-Rtd"},
        }
        assert made["commands"]["rinse"]["params"]["seconds"]["kind"] == "number"

    page.open("/things")
    page.press("新建设备")
    page.pick("#org", "fuzhou")
    page.pick("#type", "排口监测仪")
    page.fill(".ant-modal #name", "一号排口")
    page.fill(".ant-modal #id", "outfall-1")
    page.press("新建", ".ant-modal")
    token = page.find("[data-testid=secret]").text
    with house.sign_in() as client:
        no = client.get("/api/v1/devices/fuzhou:outfall-1").json()["no"]

        def heard() -> bool:
            said = json.dumps({"cod": 501})
            sent = ["mosquitto_pub", "-p", str(house.mqtt_port), "-q", "1", "-u", token, "-t", "v1/devices/me/telemetry", "-m", said]
            subprocess.run(sent, check=True, timeout=30)
            latest = client.get(f"/api/v1/things/{no}").json()["latest"]
            return bool(latest.get("cod", {}).get("quality") == 2)

        page.until(heard, "out of range is not seen")
    page.open("/products")
    page.sees("排口监测仪")
    page.until(lambda: page.find("a[href='/things?type=OutfallMonitor']").text == "1", "its device is not counted")
    for language, theme, width in LOOKS:
        page.switch(language, theme, width)
        assert wide(page)
        page.shot(f"products-{language}-{theme}-{width}")
    page.switch("zh", "light", 1440)
    page.press("编辑", "[data-testid=products]")
    page.fill("#properties_0_max", "900")
    page.press("保存")
    page.sees("版本 2")
    page.find("#properties_0_kind").send_keys(Keys.ENTER)
    page.until(lambda: choose(page, "文本"), "no kinds")
    page.sees("已有 OutfallMonitor 类型的实体")
    page.open("/products/OutfallMonitor")
    page.press("删除")
    page.press("删除", ".ant-modal-confirm")
    page.sees("尚有 1 个 OutfallMonitor 类型的实体")
    with house.sign_in() as client:
        entity = client.get("/api/v1/devices/fuzhou:outfall-1").json()["entity_id"]
        assert client.delete(f"/ngsi-ld/v1/entities/{entity}").status_code == 204
    page.open("/products/OutfallMonitor")
    page.driver.get_log("browser")  # type: ignore[no-untyped-call]  # the refusal
    page.press("删除")
    page.press("删除", ".ant-modal-confirm")
    page.sees("还没有产品")
    assert page.complaints() == []
    assert page.foreign() == []
