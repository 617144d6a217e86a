"""A crash between a reading, its alarm and what people are told: the same alarms as without one, and everybody is told."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa

from tests.access.conftest import ADMIN, eventually
from tests.access.receivers import HttpReceiver
from tests.access.test_writer import pipe, store  # noqa: F401
from tests.access.writing import NOVEMBER, Pipe, Reading, batch
from tests.durability.kill9 import PASSWORD, Tree
from tulou.access import Bulk, Devices
from tulou.access.batch import Batch
from tulou.access.models import alarms
from tulou.access.rules import engine
from tulou.access.rules.evaluator import Evaluator
from tulou.access.rules.models import NewRule, rule_checkpoint
from tulou.access.rules.service import Rules
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

S = 1_000_000


def story(numbers: list[int]) -> list[list[Reading]]:
    """What devices tell now of a night that is over: tilt and water level of every shaft, half of them beyond a bound."""
    dice, out = random.Random(7), []
    start = time.time_ns() // 1000 - 3 * 3_600 * S
    for step in range(120):
        now = start + step * 20 * S
        readings: list[Reading] = [
            (no, name, now + no, float(dice.choice(values)))
            for no in numbers for name, values in (("tilt", (1, 10, 20, 40)), ("waterLevel", (0.5, 1.2, 2, 3)))
            if dice.random() < 0.8
        ]
        if readings:
            out.append(readings)
    return out


async def test_alarms_after_crashes_are_those_of_one_run(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite and on PostgreSQL: the engine ends at any moment and writes nothing down when it does; the writer, from
    which it has most of the messages, ends now and then too."""
    monkeypatch.setattr(engine, "CHECKPOINT_EVERY", 0.2)
    monkeypatch.setattr(engine, "LINGER", 0.02)
    house = House(Settings(home=tmp_path / "home", http_port=free_port(), mqtt_port=0, database_url=database_url))
    await house.start(("api", "writer", "rules", "worker"))
    house.service(engine.Engine).relay._limit = 5_000
    try:
        items = [{"org": "fuzhou", "type": "Manhole", "name": "井", "id": f"k-{n}"} for n in range(8)]
        made = await house.service(Devices).create_many(ADMIN, Bulk(items=items))
        both = {"kind": "expression", "raise_if": "tilt > 15 and waterLevel > 1", "clear_if": "tilt < 5", "for_s": 30}
        rule = await house.service(Rules).create(ADMIN, NewRule.model_validate(
            {"org": "fuzhou", "name": "both", "type": "Manhole", "condition": both}
        ))

        async def is_followed() -> bool:
            return house.service(engine.Engine).evaluator.rule((rule["type"], "", rule["key"], rule["version"])) is not None

        await eventually(is_followed)
        dice, bodies = random.Random(3), []

        async def speak() -> None:
            for readings in story([line["no"] for line in made]):
                bodies.append(batch(readings, of=("fuzhou", "Manhole", 0), received=time.time_ns() // 1000))
                await house.bus.js.publish("tulou.readings.test", bodies[-1])
                await asyncio.sleep(0.02)

        speaking = asyncio.create_task(speak())
        while not speaking.done():
            await asyncio.sleep(dice.uniform(0.05, 0.5))
            async with house.paused(dice.choice(("rules", "rules", "writer"))):
                await asyncio.sleep(0.05)
        await speaking
        last = (await house.bus.js.stream_info("READINGS")).state.last_seq
        kept = sa.select(rule_checkpoint.c.seq)

        async def caught_up() -> bool:
            return bool(await house.db.read(lambda c: c.execute(kept).scalar()) == last)

        await eventually(caught_up)
        whole = Evaluator(await house.service(Rules).load(), house.packs.models)
        expected: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for change in whole.take([Batch.decode(body) for body in bodies]):
            key = (change.entity, change.rule.about, change.rule.key, change.raised_at)
            if change.kind == "cleared":
                expected[key] = (expected[key][0], change.at)
            else:
                expected[key] = (change.value, None)
        rows = await house.db.read(lambda c: c.execute(sa.select(alarms).where(alarms.c.rule != "offline")).all())
        found = {
            (r.entity_no, r.property, r.rule, micros(r.raised_at)): (r.value, r.cleared_at and micros(r.cleared_at))
            for r in rows
        }
        assert len(found) == len(rows)
        assert len(found) > 100
        assert found == expected
    finally:
        await house.stop()


def micros(when: datetime) -> int:
    return round((when - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)


async def test_the_writer_keeps_what_the_rules_have_not_seen(pipe: Pipe) -> None:  # noqa: F811
    await pipe.publish(*[batch([(1, "pm25", NOVEMBER + n, float(n))]) for n in range(9)])
    created = (await pipe.bus.js.stream_info("READINGS")).created
    row = {"stream": "READINGS", "created": created, "seq": 4, "state": b""}
    writer = await pipe.run()
    assert writer.floor == 9
    await writer._state(0, 0)
    assert await writer._done_with() == 9  # nobody has ever evaluated this stream
    await pipe.db.write(lambda c: c.execute(rule_checkpoint.insert().values(**row)) and None)
    assert await writer._done_with() == 4
    config = (await pipe.bus.js.stream_info("READINGS")).config
    config.max_bytes = (await pipe.bus.js.stream_info("READINGS")).state.bytes + 100
    await pipe.bus.js.update_stream(config)
    assert await writer._done_with() == 9  # half full: taking readings in comes first


@pytest.mark.slow
async def test_kill_9_neither_loses_an_alarm_nor_its_notification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole process tree is killed again and again while devices raise alarms and a webhook is told of them."""
    monkeypatch.setenv("TULOU_OUTBOUND_ALLOW", "127.0.0.1")
    receiver, tree, dice = HttpReceiver(), Tree(tmp_path / "home", tmp_path / "log"), random.Random(5)
    server = await receiver.start()
    await tree.start()
    url = f"http://127.0.0.1:{tree.http}/api/v1"
    async with httpx.AsyncClient(headers={"x-tulou": "1"}, timeout=10) as client:
        try:
            await client.post(f"{url}/session", json={"name": "admin", "password": PASSWORD})
            address = {"kind": "webhook", "url": f"http://127.0.0.1:{receiver.port}/"}
            made = await client.post(f"{url}/alarm-channels", json={"org": "fuzhou", "name": "w", "address": address})
            assert made.status_code == 201, made.text
            body = {"items": [{"org": "fuzhou", "type": "Manhole", "name": "井", "id": f"c-{n}"} for n in range(40)]}
            devices = (await client.post(f"{url}/devices/bulk", json=body)).json()["items"]

            async def speak(device: dict[str, Any], ts: int, tilt: float) -> None:
                while True:
                    try:
                        answer = await client.post(
                            f"{url}/{device['token']}/telemetry", json={"ts": ts, "values": {"tilt": tilt}}, timeout=3
                        )
                        if answer.status_code == 200:
                            return
                    except httpx.TransportError:
                        pass
                    await asyncio.sleep(0.1)

            async def night() -> None:
                now = int(time.time() * 1000)
                for device in devices:
                    for at, tilt in enumerate((1, 50, 1, 60)):
                        await speak(device, now + at, tilt)

            speaking = asyncio.create_task(night())
            for _ in range(3):
                await asyncio.sleep(dice.uniform(0.3, 1.5))
                await tree.kill()
                await tree.start()
            await speaking

            async def all_there() -> Any:
                found = (await client.get(f"{url}/alarms", params={"limit": 500, "rule": "above"})).json()["items"]
                return found if len(found) >= 80 and sum(a["cleared_at"] is not None for a in found) >= 40 else None

            found = await eventually(all_there, 60)
            assert len(found) == 80
            wanted = {("raised", a["id"]) for a in found} | {("cleared", a["id"]) for a in found if a["cleared_at"]}

            async def told() -> bool:
                return {(d["event"], d["alarm"]["id"]) for d in map(orjson.loads, (b for _, b in receiver.got))} >= wanted

            await eventually(told, 120)
        finally:
            server.close()
            await tree.kill()
