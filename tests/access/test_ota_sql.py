"""A roll-out on SQLite and on PostgreSQL: done, aborted and taken back, told again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.access.conftest import ADMIN, eventually
from tulou.access import Bulk, Devices
from tulou.access.ota.firmware import Firmwares
from tulou.access.ota.rollouts import Rollouts
from tulou.access.ota.tables import NewRollout
from tulou.access.shadow import Desire, Shadows
from tulou.app import Front
from tulou.kernel.bus import free_port
from tulou.kernel.errors import Conflict
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

GATE = {"wait_s": 0, "updated_min": 50, "failed_max": 50, "silent_max": 100}


async def image() -> AsyncIterator[bytes]:
    yield b"image"


async def test_a_rollout(tmp_path: Path, database_url: str) -> None:
    house = House(Settings(home=tmp_path / "home", http_port=free_port(), mqtt_port=0, database_url=database_url))
    await house.start(("api", "writer", "worker"))
    rollouts, shadows = house.service(Rollouts), house.service(Shadows)
    items = [{"org": "fuzhou", "type": "Manhole", "name": "井", "id": f"w-{n}"} for n in range(8)]
    tokens = {one["id"]: one["token"] for one in await house.service(Devices).create_many(ADMIN, Bulk(items=items))}
    package = await house.service(Firmwares).create(ADMIN, "fuzhou", "Manhole", "lid", "2", image())
    for device in tokens:
        await shadows.change(ADMIN, device, Desire(desired={"fw_version": "1", "other": 7}))

    async def begin(**more: Any) -> int:
        body = {"firmware": package["no"], "name": "r", "stages": [{"percent": p, **GATE} for p in (50, 100)], **more}
        no: int = (await rollouts.create(ADMIN, NewRollout.model_validate(body)))["no"]
        await rollouts.start(ADMIN, no)
        return no

    async def say(device: str, **values: str) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=Front(house)), base_url="http://house") as client:
            assert (await client.post(f"/api/v1/{tokens[device]}/telemetry", json=values)).status_code == 200

    async def those(no: int, state: str, count: int) -> list[str]:
        async def now() -> list[str]:
            found = [one["device"] for one in (await rollouts.devices(ADMIN, no, state=state))["items"]]
            return found if len(found) == count else []

        found: list[str] = await eventually(now, 30)
        return found

    async def state(no: int, *states: str) -> bool:
        return (await rollouts.get(ADMIN, no))["state"] in states

    aborted = await begin()
    with pytest.raises(Conflict, match="has not ended"):
        await begin(devices=[min(tokens)])
    await rollouts.abort(ADMIN, aborted + 1)
    first = await those(aborted, "told", 4)
    await say(first[0], fw_state="UPDATED", current_fw_title="lid", current_fw_version="2")
    await those(aborted, "updated", 1)
    for device in first[1:]:
        await say(device, fw_state="FAILED", fw_error="rust")
    await eventually(lambda: state(aborted, "aborted"), 30)
    stages = (await rollouts.get(ADMIN, aborted))["stages"]
    assert [(one["updated"], one["failed"], one["withdrawn"]) for one in stages] == [(1, 3, 0), (0, 0, 4)]

    async def taken_back() -> bool:
        desired = {device: (await shadows.get(ADMIN, device))["desired"] for device in tokens}
        kept = desired.pop(first[0])
        return kept["fw_version"] == "2" and all(one == {"fw_version": "1", "other": 7} for one in desired.values())

    await eventually(taken_back, 30)

    done = await begin()
    for device in tokens:
        await say(device, current_fw_title="lid", current_fw_version="2")
    await eventually(lambda: state(done, "done"), 30)
    assert len((await rollouts.devices(ADMIN, done, state="updated"))["items"]) == 8
    with pytest.raises(Conflict, match="no device failed"):
        await rollouts.retry(ADMIN, done)
    await house.service(Devices).delete(ADMIN, min(tokens))
    assert len((await rollouts.devices(ADMIN, done))["items"]) == 7
    await house.service(Firmwares).delete(ADMIN, package["no"])
    assert (await rollouts.get(ADMIN, done))["title"] is None
    await house.stop()
