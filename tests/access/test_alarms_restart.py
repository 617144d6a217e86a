"""What a restart of the house keeps of presence and alarms."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.access.conftest import ADMIN, eventually
from tulou.access import Alarms, Bulk, Devices, Directory, NewDevice
from tulou.app import Front
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

ROLES = ("api", "writer", "rules", "worker")


async def say(house: House, token: str, **values: float) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=Front(house)), base_url="http://house") as client:
        answer = await client.post(f"/api/v1/{token}/telemetry", json=values)
        assert answer.status_code == 200, answer.text


async def test_a_restart_keeps_what_was_seen_and_what_is_open(tmp_path: Path, database_url: str) -> None:
    """On SQLite and on PostgreSQL."""
    settings = Settings(home=tmp_path / "home", http_port=free_port(), mqtt_port=0, database_url=database_url)
    house = House(settings)
    await house.start(ROLES)
    service = house.service(Devices)
    made = [
        await service.create(ADMIN, NewDevice(org="fuzhou", type="Manhole", name=f"井 {n}", id=f"w-{n}"))
        for n in range(3)
    ]
    items = [{"org": "fuzhou", "type": "Manhole", "name": "井", "id": f"w-{n}"} for n in range(5)]
    lines = await service.create_many(ADMIN, Bulk(items=items))
    assert [line["created"] for line in lines] == [False, False, False, True, True]
    await service.delete(ADMIN, "fuzhou:w-4")
    page = await service.find(ADMIN, q="W-", count=True)
    assert page["count"] == 4
    no = made[0]["no"]
    await say(house, made[0]["token"], tilt=40)
    await say(house, made[1]["token"], tilt=1)

    async def open_alarms(of: House) -> list[int]:
        found = await of.service(Alarms).find(ADMIN, state="open")
        return [item["no"] for item in found["items"]]

    async def raised() -> bool:
        return await open_alarms(house) == [no]

    await eventually(raised)
    directory = house.service(Directory)
    await eventually(lambda: _spoke(directory, made[1]["no"]))
    before = directory.seen.copy()
    await house.stop()

    again = House(settings)
    await again.start(ROLES)
    try:
        directory = again.service(Directory)
        assert directory.seen.tolist() == before.tolist()
        assert directory.states().tolist() == [1, 0, 2, 2, 0]  # in alarm, fine, never heard, without a device
        assert await open_alarms(again) == [no]
        await say(again, made[0]["token"], tilt=41)
        await eventually(lambda: _newer(directory, no, int(before[0])))
        assert await open_alarms(again) == [no]
        await say(again, made[0]["token"], tilt=1)

        async def cleared() -> bool:
            return await open_alarms(again) == []

        await eventually(cleared)
        every = await again.service(Alarms).find(ADMIN, no=no)
        assert len(every["items"]) == 1
        assert directory.states().tolist()[0] == 0
    finally:
        await again.stop()


async def _spoke(directory: Directory, no: int) -> bool:
    row = directory.row(no)
    return row is not None and bool(directory.seen[row])


async def _newer(directory: Directory, no: int, than: int) -> bool:
    row = directory.row(no)
    return row is not None and int(directory.seen[row]) > than
