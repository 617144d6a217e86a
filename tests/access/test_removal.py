"""What a deleted entity leaves behind goes too; a deleted device leaves all."""

from __future__ import annotations

import httpx
import pytest
import sqlalchemy as sa

from tests.access.conftest import Estate, eventually
from tulou.access import Hub
from tulou.context import removed
from tulou.kernel.house import House
from tulou.kernel.policy import Orgs

EVERYTHING = Orgs(True, frozenset())


async def rows_of(house: House, numbers: list[int]) -> int:
    """Rows of any table of the readings store that are of these entities."""
    tables = ("readings", "frames", "latest", "readings_hour", "readings_day")
    listed = ", ".join(map(str, numbers))
    found = [(await house.readings.sql(f"SELECT count() FROM {t} WHERE entity IN ({listed})")).rows[0][0] for t in tables]
    return sum(found)


async def queued(house: House) -> list[int]:
    return await house.db.read(lambda c: list(c.execute(sa.select(removed.c.no)).scalars()))


async def nothing_queued(house: House) -> bool:
    return not await queued(house)


@pytest.mark.asyncio(loop_scope="module")
async def test_readings_device_and_alarms_go_with_the_entity(estate: Estate, lin: httpx.AsyncClient) -> None:
    house = estate.house
    one, other, kept = [await estate.device(lin, "fuzhou", f"gone-{i}", type="Manhole") for i in range(3)]
    for device, tilt in ((one, 20.0), (other, 30.0), (kept, 1.0)):
        await estate.say(device, tilt=tilt)
        await estate.latest(lin, device, "tilt", tilt)
    numbers = [one["no"], other["no"]]

    async def opened() -> bool:
        items = (await lin.get("/alarms", params={"state": "open"})).json()["items"]
        return {item["no"] for item in items} >= set(numbers)

    await eventually(opened)
    tenant = {"NGSILD-Tenant": "fuzhou"}
    ngsi_ld = "http://house/ngsi-ld/v1"
    assert (await lin.delete(f"{ngsi_ld}/entities/{one['entity_id']}", headers=tenant)).status_code == 204
    batch = await lin.post(f"{ngsi_ld}/entityOperations/delete", json=[other["entity_id"]], headers=tenant)
    assert batch.status_code == 204
    await eventually(lambda: nothing_queued(house))
    assert await rows_of(house, numbers) == 0
    assert await rows_of(house, [kept["no"]]) > 0
    area = await house.readings.sql("SELECT sum(count), max(max) FROM area_hour WHERE type = 'Manhole' AND property = 'tilt'")
    hours = await house.readings.sql("SELECT sum(count), max(max) FROM readings_hour WHERE type = 'Manhole' AND property = 'tilt'")
    assert area.rows == hours.rows

    async def agreed() -> bool:
        items = (await lin.get("/alarms", params={"state": "open"})).json()["items"]
        counted = house.service(Hub).counters(EVERYTHING)["alarms_open"]
        return not {item["no"] for item in items} & set(numbers) and counted == len(items)

    await eventually(agreed)
    assert (await lin.get(f"/devices/{one['id']}")).status_code == 404
    refused = await estate.client().post(f"/{one['token']}/telemetry", json={"tilt": 2})
    assert refused.status_code == 401
    again = await estate.device(lin, "fuzhou", "gone-0", type="Manhole")
    assert again["created"]
    assert again["no"] > kept["no"]


@pytest.mark.asyncio(loop_scope="module")
async def test_the_readings_of_a_deleted_device_stay(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "history-1", type="Manhole")
    await estate.say(made, tilt=3)
    await estate.latest(lin, made, "tilt", 3.0)
    assert (await lin.delete(f"/devices/{made['id']}")).status_code == 204
    assert await nothing_queued(estate.house)
    assert await rows_of(estate.house, [made["no"]]) > 0
