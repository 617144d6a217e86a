"""What the tests of the writer share: a bus, an SQLite file and a readings store in a temporary folder."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tulou.access.batch import BatchBuilder
from tulou.access.writer import Writer
from tulou.kernel.bus import Bus
from tulou.kernel.readings import Readings, Rows
from tulou.kernel.sql import Database

CLASS = ("fuzhou", "AirQualityObserved", 0)
NOVEMBER = 1_795_428_000_000_000
"""2026-11-23T10:00:00Z in µs."""

Reading = tuple[int, str, int, float | str]


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


def batch(
    readings: Iterable[Reading], *, of: tuple[str, str, int] = CLASS, received: int = NOVEMBER, dup: bool = False,
    raw: Callable[[Reading], bytes] = lambda reading: repr(reading).encode(),
) -> bytes:
    """A batch of one frame per reading (entity, property, ts, value)."""
    builder = BatchBuilder("mqtt")
    for i, reading in enumerate(readings):
        entity, name, ts, value = reading
        frame = builder.frames(entity, of, received + i, [raw(reading)], dup)
        if isinstance(value, str):
            builder.reading(frame, name, ts, float("nan"), value)
        else:
            builder.reading(frame, name, ts, value)
    return builder.encode()


@dataclass
class Pipe:
    """A store, a bus and a database; `run` starts a writer on them and waits until the stream is worked off."""

    home: Path
    bus: Bus
    db: Database
    readings: Readings
    latest: dict[tuple[int, str], float | str] = field(default_factory=dict)
    newest: dict[tuple[int, str], int] = field(default_factory=dict)
    told: int = 0

    async def publish(self, *bodies: bytes) -> None:
        for body in bodies:
            await self.bus.js.publish("tulou.readings.test", body)

    async def on_latest(self, rows: Rows) -> None:
        self.told += 1
        for entity, name, ts, value, _, _ in rows.tuples():
            if ts >= self.newest.get((entity, name), ts):
                self.newest[entity, name] = ts
                self.latest[entity, name] = value

    def writer(self, **options: Any) -> Writer:
        return Writer(self.readings, self.db, self.bus, self.on_latest, linger=0.02, **options)

    async def run(self, writer: Writer | None = None) -> Writer:
        """Run a writer until everything published is stored and acknowledged, then stop it."""
        writer = writer or self.writer()
        task = asyncio.create_task(writer.run())
        last = (await self.bus.js.stream_info("READINGS")).state.last_seq
        try:
            async with asyncio.timeout(30):
                while writer.floor < last and not task.done():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        return writer

    async def killed(self, step: str, after: int = 1) -> None:
        """Run a writer that dies when it comes to `step` for the `after`-th time."""
        left = [after]

        def fault(at: str) -> None:
            if at == step:
                left[0] -= 1
                if not left[0]:
                    raise Killed(at)

        writer = self.writer(fault=fault)
        task = asyncio.create_task(writer.run())
        with contextlib.suppress(Killed):
            async with asyncio.timeout(30):
                await task

    async def sums(self) -> dict[str, int]:
        """How many readings each table says there are."""
        answer = await self.readings.sql("""
            SELECT (SELECT count() FROM readings), (SELECT uniqExact(entity, property, ts) FROM readings),
                (SELECT sum(count) FROM readings_hour), (SELECT sum(count) FROM readings_day),
                (SELECT sum(count) FROM area_hour), (SELECT count() FROM frames)""")
        return dict(zip(("rows", "distinct", "hour", "day", "area", "frames"), answer.rows[0], strict=True))

    async def check(self, expected: list[Reading], *, frames: int | None = None) -> None:
        """Everything expected is stored once, and every derived table agrees."""
        numbers = sum(not isinstance(value, str) for *_, value in expected)
        assert await self.sums() == {
            "rows": len(expected), "distinct": len(expected), "hour": numbers, "day": numbers, "area": numbers,
            "frames": len(expected) if frames is None else frames,
        }
        stored = await self.readings.history(sorted({e for e, *_ in expected}), None, None, None, orgs=None)
        assert sorted(
            (entity, name, value.ts, str(value.value))
            for entity, properties in stored.items() for name, values in properties.items() for value in values
        ) == sorted((entity, name, ts, str(value)) for entity, name, ts, value in expected)
        newest: dict[tuple[int, str], tuple[int, float | str]] = {}
        for entity, name, ts, value in expected:
            newest[entity, name] = max(newest.get((entity, name), (0, 0.0)), (ts, value), key=lambda pair: pair[0])
        table = await self.readings.sql("SELECT entity, property, value, text FROM latest FINAL", max_rows=100_000)
        assert {(e, name): text if value != value else value for e, name, value, text in table.rows} == {
            key: value for key, (_, value) in newest.items()
        }
        found = await self.readings.latest(None, orgs=None)
        assert {
            (entity, name): (value.ts, value.value)
            for entity, properties in found.items() for name, value in properties.items()
        } == newest
        assert self.latest == {key: value for key, (_, value) in newest.items()}
