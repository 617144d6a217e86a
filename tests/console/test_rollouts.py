"""A firmware roll-out on the console, from the file to the abort, with devices that report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.console.conftest import Browser, Tulou


@pytest.fixture(scope="module")
def stations(house: Tulou, secret: str) -> list[dict[str, Any]]:
    items = [{"org": "fuzhou", "type": "AirQualityStation", "name": f"站 {n}", "id": f"fw-{n}"} for n in range(10)]
    with house.sign_in() as client:
        answer = client.post("/api/v1/devices/bulk", json={"items": items})
        assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


def say(house: Tulou, station: dict[str, Any], **values: Any) -> None:
    with house.client() as client:
        assert client.post(f"/api/v1/{station['token']}/telemetry", json=values).status_code == 200


def test_from_the_file_to_the_abort(
    page: Browser, house: Tulou, stations: list[dict[str, Any]], tmp_path: Path
) -> None:
    image = tmp_path / "station-2.1.bin"
    image.write_bytes(b"firmware" * 50_000)
    page.open("/rollouts")
    page.sees("还没有发布")
    page.press("上传固件")
    page.pick("#org", "fuzhou")
    page.pick("#type", "空气")
    page.fill("#title", "station")
    page.fill("#version", "2.1")
    page.find("input[type=file]").send_keys(str(image))
    page.press("上传固件", ".ant-modal-footer")
    page.until(lambda: "390 KiB" in page.find("[data-testid=firmware]").text or "391 KiB" in page.text(), "no package")

    page.press("新建发布")
    page.fill("#name", "空气站 2.1")
    page.fill("#q", "fw-")
    for field, value in (("wait_s", "0"), ("updated_min", "100"), ("failed_max", "30")):
        page.fill(f"#{field}", value)
    page.shot("rollout-new")
    page.press("保存为草稿")
    page.sees("草稿")
    page.press("开始")
    page.sees("进行中")

    def devices(state: str) -> list[dict[str, Any]]:
        with house.sign_in() as client:
            found: list[dict[str, Any]] = client.get("/api/v1/rollouts/1/devices", params={"state": state}).json()["items"]
            return found

    def told() -> list[dict[str, Any]]:
        ids = {one["device"] for one in devices("told")}
        return [station for station in stations if station["id"] in ids]

    first = page.until(told, "nobody is told")
    assert len(first) == 1, "a tenth, in the first two stages"
    say(house, first[0], fw_state="UPDATED", current_fw_title="station", current_fw_version="2.1")
    page.sees("已升级 1 / 10")
    page.find(".ant-table-row-expand-icon").click()
    page.sees("第 3 阶段，至 50%")
    second = page.until(lambda: len(told()) == 4 and told(), "the third stage is not told")
    for station in second[:2]:
        say(house, station, fw_state="UPDATED", current_fw_title="station", current_fw_version="2.1")
    say(house, second[2], fw_state="FAILED", fw_error="no space left")
    page.sees("已升级 3 / 10，失败 1")
    page.until(lambda: page.find("[data-testid=stages]").text.count("已升级\n") >= 4, "no stages")
    page.shot("rollout-running")
    say(house, second[3], fw_state="FAILED", fw_error="no space left")
    page.sees("已中止")
    page.sees("4 台中 2 台失败，上限 30%")
    page.shot("rollout-aborted")
    page.switch("en", "dark", 1440)
    page.sees("2 of 4 devices failed, at most 30 % may")
    page.shot("rollout-aborted-en-dark")
    page.switch("en", "light", 390)
    assert page.script("return document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    page.shot("rollout-aborted-390")
    assert page.nameless() == []
    assert page.foreign() == []
    assert len(devices("withdrawn")) == 5
