"""Groups of devices: a filter of lists, and whom a roll-out is for."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.access.conftest import Estate

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_group_is_of_one_organisation_and_filters_lists(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient
) -> None:
    devices = [await estate.device(lin, "fuzhou", f"group-{n}") for n in range(3)]
    theirs = await estate.device(chen, "xiamen", "group-9")
    group = (await lin.post("/device-groups", json={"org": "fuzhou", "name": "河口"})).json()
    other = (await lin.post("/device-groups", json={"org": "fuzhou", "name": "山区"})).json()
    assert (await lin.post("/device-groups", json={"org": "fuzhou", "name": "河口"})).status_code == 409
    path = f"/device-groups/{group['no']}"
    told = (await lin.post(f"{path}/devices", json={"add": [devices[0]["id"], devices[1]["id"], theirs["id"], "fuzhou:no"]})).json()
    assert told == {"added": 2, "removed": 0, "unknown": [theirs["id"], "fuzhou:no"]}
    assert (await lin.post(f"{path}/devices", json={"add": [devices[0]["id"]]})).json()["added"] == 0
    await lin.post(f"/device-groups/{other['no']}/devices", json={"add": [devices[0]["id"]]})

    async def listed(client: httpx.AsyncClient, no: int, of: str = "/devices") -> list[int]:
        page = (await client.get(f"{of}?group={no}&count=1")).json()
        assert page["count"] == len(page["items"])
        return [one["no"] for one in page["items"]]

    first, second, _ = (device["no"] for device in devices)
    for of in ("/devices", "/things"):
        assert await listed(lin, group["no"], of) == [first, second]
        assert await listed(yang, other["no"], of) == [first]
        assert await listed(chen, group["no"], of) == [], "as if it were not there"
    assert (await lin.get("/devices?group=x")).status_code == 400
    assert (await chen.get(path)).status_code == 404
    assert (await chen.post(f"{path}/devices", json={"add": [theirs["id"]]})).status_code == 404
    assert (await yang.post(f"{path}/devices", json={"remove": [devices[0]["id"]]})).status_code == 403
    assert (await lin.patch(path, json={"name": "闽江口"})).json()["name"] == "闽江口"
    assert (await lin.post(f"{path}/devices", json={"remove": [devices[1]["id"]]})).json()["removed"] == 1
    await lin.delete(f"/devices/{devices[0]['id']}")
    shown = {one["no"]: one["devices"] for one in (await lin.get("/device-groups")).json()["items"]}
    assert (shown[group["no"]], shown[other["no"]]) == (0, 0), "a deleted device is in no group"
    assert (await lin.delete(path)).status_code == 204
    assert (await lin.get(path)).status_code == 404


async def test_a_rollout_is_for_a_group(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient) -> None:
    devices = [await estate.device(lin, "fuzhou", f"rolled-{n}") for n in range(2)]
    await estate.device(lin, "fuzhou", "rolled-not")
    group = (await lin.post("/device-groups", json={"org": "fuzhou", "name": "升级"})).json()
    await lin.post(f"/device-groups/{group['no']}/devices", json={"add": [device["id"] for device in devices]})
    query = {"org": "fuzhou", "type": "AirQualityStation", "title": "grouped", "version": "1"}
    firmware = (await lin.post("/firmware", params=query, content=b"x" * 100)).json()
    theirs = (await chen.post("/device-groups", json={"org": "xiamen", "name": "x"})).json()
    body: dict[str, Any] = {"firmware": firmware["no"], "name": "x", "group": theirs["no"]}
    refused = await lin.post("/rollouts", json=body)
    assert (refused.status_code, refused.json()["field"]) == (400, "group")
    made = (await lin.post("/rollouts", json={**body, "group": group["no"]})).json()
    assert made["selection"]["group"] == group["no"]
    assert (await lin.post(f"/rollouts/{made['no']}/start")).status_code == 200
    chosen = (await lin.get(f"/rollouts/{made['no']}/devices")).json()["items"]
    assert [one["device"] for one in chosen] == [device["id"] for device in devices]
    await lin.post(f"/rollouts/{made['no']}/abort")
