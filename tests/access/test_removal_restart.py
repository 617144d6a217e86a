"""A removal that a crash cut short is completed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.access.conftest import ADMIN, eventually
from tests.access.test_removal import nothing_queued, queued, rows_of
from tulou.access import Alarms, Devices, Directory, NewDevice
from tulou.app import Front
from tulou.context import ContextService
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.settings import Settings


async def test_a_removal_goes_on_after_a_crash(tmp_path: Path, database_url: str) -> None:
    """On SQLite and on PostgreSQL: the house ends after the entity is deleted and before anything else is done."""
    settings = Settings(home=tmp_path / "home", http_port=free_port(), mqtt_port=0, database_url=database_url)
    house = House(settings)
    await house.start(("api", "writer", "rules", "worker"))
    made = await house.service(Devices).create(ADMIN, NewDevice(org="fuzhou", type="Manhole", name="井", id="c-1"))
    no: int = made["no"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=Front(house)), base_url="http://house") as client:
        assert (await client.post(f"/api/v1/{made['token']}/telemetry", json={"tilt": 40})).status_code == 200

    async def open_alarms(of: House) -> list[Any]:
        found = await of.service(Alarms).find(ADMIN, state="open")
        return [item["no"] for item in found["items"]]

    async def raised() -> bool:
        return await open_alarms(house) == [no] and await rows_of(house, [no]) > 0

    await eventually(raised)
    await house.stop()

    again = House(settings)
    await again.start(("api",))  # nothing here works off the queue
    try:
        await again.service(ContextService).delete(ADMIN, made["entity_id"], tenant="fuzhou")
        assert await queued(again) == [no]
        assert await rows_of(again, [no]) > 0
        assert await open_alarms(again) == [no]
    finally:
        await again.stop()

    again = House(settings)
    await again.start(("api", "writer", "rules", "worker"))
    try:
        await eventually(lambda: nothing_queued(again))
        assert await rows_of(again, [no]) == 0

        async def cleared() -> bool:
            return await open_alarms(again) == []

        await eventually(cleared)
        assert again.service(Directory).alarms.sum() == 0
        assert (await again.service(Devices).find(ADMIN, count=True))["count"] == 0
    finally:
        await again.stop()
