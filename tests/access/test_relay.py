"""What the writer has read reaches the rules of its process; and what does not, they read themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from nats.aio.msg import Msg

from tests.access.conftest import ADMIN, eventually
from tests.access.writing import NOVEMBER, batch
from tulou.access import Bulk, Devices
from tulou.access.batch import Batch
from tulou.access.models import alarms
from tulou.access.relay import Arrival, Relay
from tulou.access.rules import engine
from tulou.access.rules.engine import Engine
from tulou.access.writer import Writer
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.settings import Settings


def arrivals(*seqs: int, size: int = 10) -> list[Arrival]:
    return [Arrival(Msg(_client=None), seq, size, None) for seq in seqs]  # type: ignore[arg-type]


async def take(relay: Relay, position: int, size: int = 1000) -> list[int]:
    return [arrival.seq for arrival in await relay.take(position, size, 0.01)]


async def test_what_comes_behind_a_position() -> None:
    relay = Relay()
    assert not relay.reaches(0)
    relay.start(4, pending=0)
    assert relay.reaches(4)
    assert not relay.reaches(3)
    assert await take(relay, 4) == []
    relay.put(arrivals(5, 6, 7, 9), pending=2)
    assert relay.behind == 6
    assert await take(relay, 4, size=15) == [5, 6]
    assert await take(relay, 7) == [9]
    assert relay.behind == 2
    assert relay.reaches(9)
    assert not relay.reaches(7)
    relay.stop()
    assert not relay.reaches(9)


async def test_the_newest_is_kept() -> None:
    relay = Relay(limit=40)
    relay.start(0, pending=0)
    relay.put(arrivals(1, 2, 3), pending=0)
    relay.put(arrivals(4, 5, 6), pending=0)
    assert not relay.reaches(1)
    assert await take(relay, 1) == []
    assert await take(relay, 2) == [3, 4, 5, 6]


async def test_who_waits_is_told() -> None:
    relay = Relay()
    relay.start(0, pending=0)
    waiting = asyncio.create_task(relay.take(0, 1000, 10))
    await asyncio.sleep(0)
    relay.put(arrivals(1), pending=0)
    async with asyncio.timeout(1):
        assert [arrival.seq for arrival in await waiting] == [1]


@pytest.mark.parametrize("stuck", [False, True], ids=["writing", "stuck"])
async def test_a_message_is_decoded_once_and_a_stuck_writer_silences_no_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stuck: bool
) -> None:
    monkeypatch.setattr(engine, "LINGER", 0.02)
    if stuck:
        assert Writer.__init__.__kwdefaults__
        monkeypatch.setattr(engine, "PATIENCE", 0.3)
        monkeypatch.setitem(Writer.__init__.__kwdefaults__, "max_held_bytes", 100)
    house = House(Settings(home=tmp_path / "home", http_port=free_port(), mqtt_port=0))
    await house.start(("api", "writer", "rules", "worker"))
    try:
        if stuck:
            async def never(*_: Any) -> Any:
                await asyncio.Event().wait()

            monkeypatch.setattr(house.readings, "insert", never)
        items = [{"org": "fuzhou", "type": "Manhole", "name": "井", "id": f"r-{n}"} for n in range(20)]
        made = await house.service(Devices).create_many(ADMIN, Bulk(items=items))
        decoded, decode = [], Batch.decode
        monkeypatch.setattr(Batch, "decode", lambda body: (decoded.append(body), decode(body))[1])
        bodies = [batch([(line["no"], "tilt", NOVEMBER, 80.0)], of=("fuzhou", "Manhole", 0)) for line in made]
        for body in bodies:
            await house.bus.js.publish("tulou.readings.test", body)

        async def all_raised() -> bool:
            count = sa.select(sa.func.count()).select_from(alarms).where(alarms.c.rule != "offline")
            return bool(await house.db.read(lambda c: c.execute(count).scalar()) == len(bodies))

        async def all_judged() -> bool:
            return house.service(Engine).position == len(bodies)

        await eventually(all_raised)
        await eventually(all_judged)
        assert stuck or decoded == bodies
    finally:
        await house.stop()
