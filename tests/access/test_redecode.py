"""Frames read again: after it everything is as if the mended codec had been there from the start."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from tests.access.test_writer import pipe, store  # noqa: F401 - fixtures
from tests.access.writing import CLASS, NOVEMBER, Killed, Pipe
from tulou.access.batch import BatchBuilder
from tulou.access.protocols import Sample
from tulou.access.redecode import Redecoder, redecodes
from tulou.access.telemetry import ANY, NAN, Chunk, Refusal, decode
from tulou.access.writer import Gate
from tulou.kernel.readings import Reading
from tulou.kernel.sql import utcnow

HOUR = 3_600_000_000
STEPS = ("decoded", "stated", "amended", "hours", "days", "areas", "latest", "remade", "told")
Row = tuple[Any, ...]


class Mended:
    """A codec of JSON frames: lists of (µs after November, name, value, quality)."""

    name = "toy"

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        samples: list[Sample] = []
        for ts, name, value, quality in orjson.loads(raw):
            samples.append((NOVEMBER + ts, {name: NAN if value is None else value}, {name: quality}))
        return samples, []


class Wrong(Mended):
    """The same with a bug of each kind: a wrong value, time, name, quality, one that is left out, one too many."""

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        samples: list[Sample] = []
        for ts, values, worse in super().decode(raw)[0]:
            (name, value), = values.items()
            if name == "wrong" and isinstance(value, float):
                samples.append((ts, {name: value * 10}, worse))
            elif name == "late":
                samples.append((ts + 5 * HOUR, values, worse))
            elif name == "renamed":
                samples.append((ts, {"nemared": value}, {"nemared": 0}))
            elif name == "marked":
                samples.append((ts, values, {name: 2}))
            elif name != "missed":
                samples.append((ts, values, worse))
            if name == "right":
                samples.append((ts, {"ghost": 1.0}, {}))
        return samples, []


def frames(seed: int) -> list[tuple[int, bytes]]:
    """Frames of six things over three days, some of which say the same again, or something else of the same time."""
    chance = random.Random(seed)
    out = []
    for _ in range(chance.randrange(20, 60)):
        said = [
            (chance.randrange(40) * 2 * HOUR + chance.randrange(3),
             chance.choice(["right", "wrong", "late", "renamed", "marked", "missed", "word"]),
             chance.choice([float(chance.randrange(50)), None, "文"]), chance.choice([0, 0, 1]))
            for _ in range(chance.randrange(4))
        ]
        out.append((chance.randrange(1, 7), orjson.dumps(said)))
    return out


async def told_by(pipe: Pipe, codec: Mended, said: Iterable[tuple[int, bytes]], seed: int) -> None:  # noqa: F811
    """Batches as the door makes them, through the writer."""
    chance = random.Random(seed)
    waiting = list(said)
    received = NOVEMBER
    while waiting:
        builder = BatchBuilder("toy")
        part, waiting = waiting[: 7], waiting[7:]
        for entity, raw in part:
            received += chance.randrange(1, 2 * HOUR)
            decode([Chunk("toy", entity, CLASS, ANY, [raw], received, False, "toy", codec)], builder, received // 1000)  # type: ignore[arg-type]
        await pipe.publish(builder.encode())
    await pipe.run()


async def kept(pipe: Pipe) -> list[tuple[int, int, int, int, bytes]]:  # noqa: F811
    table = await pipe.readings.sql(
        "SELECT seq, frame, entity, toUnixTimestamp64Micro(ts), raw FROM frames ORDER BY seq, frame")
    return [(s, f, e, t, raw if isinstance(raw, bytes) else raw.encode()) for s, f, e, t, raw in table.rows]


def oracle(said: list[tuple[int, int, int, int, bytes]], codec: Mended) -> dict[str, list[Row]]:
    """What the tables hold if this codec read these frames in the order of the stream."""
    first: dict[tuple[int, str, int], Row] = {}
    for seq, number, entity, received, raw in said:
        for ts, values, worse in codec.decode(raw)[0]:
            if ts > received + 24 * HOUR:
                continue
            for name, value in values.items():
                text = value if isinstance(value, str) else ""
                figure = NAN if isinstance(value, str) else value
                row = (None if figure != figure else figure, text, (worse or {}).get(name, 0), seq, number)
                first.setdefault((entity, name, ts), row)
    out: dict[str, list[Row]] = {"readings": sorted(((*key, *row) for key, row in first.items()), key=str)}
    for table, cut in (("hour", lambda e, p, t: (e, p, t // HOUR)), ("day", lambda e, p, t: (e, p, (t // HOUR + 8) // 24)),
                       ("area", lambda e, p, t: (p, t // HOUR))):
        sums: dict[Row, list[float]] = {}
        for (entity, name, ts), row in first.items():
            if row[0] is not None and row[2] < 2:
                sums.setdefault(cut(entity, name, ts), []).append(row[0])
        out[table] = sorted((*key, len(v), sum(v), min(v), max(v)) for key, v in sums.items())
    spoken: dict[Row, set[int]] = {}
    for (entity, name, ts), row in first.items():
        if row[0] is not None and row[2] < 2:
            local = ts // HOUR + 8
            spoken.setdefault((entity, name, local // 24), set()).add(local % 24)
    out["day"] = [(*row, sum(1 << hour for hour in spoken[row[:3]])) for row in out["day"]]
    newest: dict[tuple[int, str], Row] = {}
    for (entity, name, ts), row in sorted(first.items()):
        newest[entity, name] = (ts, *row[:3])
    out["latest"] = sorted(((*key, *row) for key, row in newest.items()), key=str)
    return out


def _none(row: Row) -> Row:
    return tuple(None if value != value else value for value in row)


async def stored(pipe: Pipe) -> dict[str, list[Row]]:  # noqa: F811
    """The same from the store."""
    ask = pipe.readings.sql
    sums = "sum(count) AS n, sum(sum), min(min), max(max)"
    queries = {
        "readings": "SELECT entity, property, toUnixTimestamp64Micro(ts), value, text, quality, seq, frame FROM readings",
        "hour": f"SELECT entity, property, intDiv(toUnixTimestamp(hour), 3600) AS h, {sums} FROM readings_hour "
                "GROUP BY entity, property, h HAVING n != 0",
        "day": f"SELECT entity, property, toUInt32(day) AS d, {sums}, groupBitOr(hours) FROM readings_day "
               "GROUP BY entity, property, d HAVING n != 0",
        "area": f"SELECT property, intDiv(toUnixTimestamp(hour), 3600) AS h, {sums} FROM area_hour "
                "GROUP BY property, h HAVING n != 0",
        "latest": "SELECT entity, property, toUnixTimestamp64Micro(l.ts), value, text, quality FROM latest AS l FINAL",
    }
    found = {}
    for name, query in queries.items():
        rows = [_none(tuple(row)) for row in (await ask(query, max_rows=100_000)).rows]
        found[name] = sorted(rows, key=str if name in ("readings", "latest") else None)
    return found


class Told:
    """The current state of entities, as those see it who follow."""

    def __init__(self, pipe: Pipe) -> None:  # noqa: F811
        self.known = {key: (ts, pipe.latest[key]) for key, ts in pipe.newest.items()}

    async def amended(self, latest: list[Reading], amended: dict[int, dict[str, int]]) -> None:
        for entity, names in amended.items():
            for name, ts in names.items():
                if self.known.get((entity, name), (0, 0))[0] == ts:
                    del self.known[entity, name]
        for r in latest:
            if r.ts > self.known.get((r.entity, r.property), (-1, 0))[0]:
                self.known[r.entity, r.property] = (r.ts, r.text or r.value)

    def rows(self) -> list[Row]:
        return sorted(((*key, ts, str(value)) for key, (ts, value) in self.known.items()), key=str)


async def new_run(pipe: Pipe, **changes: Any) -> int:  # noqa: F811
    values = {
        "protocol": "toy", "org": "house", "orgs": None, "start": 0, "end": 1 << 60, "dry_run": False, "state": "queued",
        "cancel": False, "counts": {}, "examples": [], "error": "", "created_at": utcnow(), "created_by": "test", **changes,
    }
    insert = redecodes.insert().values(values).returning(redecodes.c.id)
    return await pipe.db.write(lambda c: int(c.execute(insert).scalar_one()))


async def row_of(pipe: Pipe, number: int) -> Any:  # noqa: F811
    query = sa.select(redecodes).where(redecodes.c.id == number)
    return await pipe.db.read(lambda c: c.execute(query).one())


async def redecode(
    pipe: Pipe, number: int, told: Told, gate: Gate | None = None,  # noqa: F811
    fault: Callable[[str], None] = lambda step: None,
) -> dict[str, int]:
    work = Redecoder(
        pipe.readings, pipe.db, gate or Gate(), Mended(), lambda kind: ANY, {}, told.amended, most=9, fault=fault,  # type: ignore[arg-type]
    )
    await work.run(await row_of(pipe, number))
    row = await row_of(pipe, number)
    assert row.pending is None
    counts: dict[str, int] = row.counts
    return counts


async def check(pipe: Pipe, told: Told) -> None:  # noqa: F811
    expected = oracle(await kept(pipe), Mended())
    found = await stored(pipe)
    for name in expected:
        assert found[name] == expected[name], name
    mirror = await pipe.readings.latest(None, orgs=None)
    assert sorted(
        ((entity, name, v.ts) for entity, names in mirror.items() for name, v in names.items()), key=str
    ) == [row[:3] for row in expected["latest"]]
    assert told.rows() == sorted(
        ((e, p, ts, str(text or (NAN if value is None else value))) for e, p, ts, value, text, _ in expected["latest"]),
        key=str)


@pytest.mark.parametrize("seed", range(5))
async def test_everything_is_as_the_mended_codec_would_have_made_it(pipe: Pipe, seed: int) -> None:  # noqa: F811
    await told_by(pipe, Wrong(), frames(seed), seed)
    said = await kept(pipe)
    before = await stored(pipe)
    assert before["readings"] == oracle(said, Wrong())["readings"]
    told = Told(pipe)
    dry = await redecode(pipe, await new_run(pipe, dry_run=True), told)
    assert await stored(pipe) == before
    counts = await redecode(pipe, await new_run(pipe), told)
    await check(pipe, told)
    assert await kept(pipe) == said
    assert counts["frames"] == dry["frames"] == len(said)
    was = {row[:3]: row[3:6] for row in before["readings"]}
    now = {row[:3]: row[3:6] for row in (await stored(pipe))["readings"]}
    assert counts["removed"] - counts["added"] == len(was) - len(now)
    again = await redecode(pipe, await new_run(pipe), told)
    assert (again["changed"], again["added"], again["removed"]) == (0, 0, 0)
    await check(pipe, told)


@pytest.mark.parametrize("step", STEPS)
async def test_a_run_that_was_killed_goes_on_to_the_same_end(pipe: Pipe, step: str) -> None:  # noqa: F811
    seed = 100 + STEPS.index(step)
    await told_by(pipe, Wrong(), frames(seed), seed)
    told, number = Told(pipe), await new_run(pipe)
    for after in (1, 2):
        left = [after]

        def fault(at: str, left: list[int] = left) -> None:
            if at == step:
                left[0] -= 1
                if not left[0]:
                    raise Killed(at)

        with contextlib.suppress(Killed):
            await redecode(pipe, number, told, fault=fault)
    counts = await redecode(pipe, number, told)
    assert counts["frames"] == len(await kept(pipe))
    await check(pipe, told)


async def test_the_writer_goes_on_beside_it(pipe: Pipe) -> None:  # noqa: F811
    await told_by(pipe, Wrong(), frames(7), 7)
    told, gate = Told(pipe), Gate()
    writer = pipe.writer(gate=gate)
    later = [(entity, orjson.dumps([(50 * 2 * HOUR + number, "right", float(number), 0)]))
             for number in range(30) for entity in (1, 2)]
    work = asyncio.create_task(redecode(pipe, await new_run(pipe), told, gate))
    builder = BatchBuilder("toy")
    at = NOVEMBER + 120 * HOUR
    decode([
        Chunk("toy", entity, CLASS, ANY, [raw], at + i, False, "toy", Mended()) for i, (entity, raw) in enumerate(later)  # type: ignore[arg-type]
    ], builder, at // 1000)
    await pipe.publish(builder.encode())
    await pipe.run(writer)
    await work
    told.known.update({key: (ts, pipe.latest[key]) for key, ts in pipe.newest.items()
                       if ts > told.known.get(key, (-1, 0))[0] and key[1] == "right"})
    await check(pipe, told)


async def test_what_an_amendment_adds_is_a_repeat_when_it_is_sent_again(pipe: Pipe) -> None:  # noqa: F811
    raw = orjson.dumps([(0, "right", 1.0, 0), (3 * HOUR, "missed", 2.0, 0)])
    await told_by(pipe, Wrong(), [(1, raw)], 1)
    gate = Gate()
    writer = pipe.writer(gate=gate)
    await redecode(pipe, await new_run(pipe), Told(pipe), gate)
    builder = BatchBuilder("toy")
    decode([Chunk("toy", 1, CLASS, ANY, [raw], NOVEMBER + 9 * HOUR, False, "toy", Mended())], builder, NOVEMBER // 1000)  # type: ignore[arg-type]
    await pipe.publish(builder.encode())
    await pipe.run(writer)
    assert (writer.counters.repeats, writer.counters.conflicts) == (2, 0)


async def test_a_codec_that_fails_on_a_frame_leaves_its_readings(pipe: Pipe) -> None:  # noqa: F811
    class Failing(Mended):
        def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
            if b"13.0" in raw:
                raise ZeroDivisionError
            return super().decode(raw)

    raws = [orjson.dumps([(n, "wrong", float(n), 0)]) for n in (12, 13, 14)]
    await told_by(pipe, Wrong(), [(1, raw) for raw in raws], 1)
    number = await new_run(pipe)
    work = Redecoder(pipe.readings, pipe.db, Gate(), Failing(), lambda kind: ANY, {}, Told(pipe).amended)  # type: ignore[arg-type]
    await work.run(await row_of(pipe, number))
    counts = (await row_of(pipe, number)).counts
    assert (counts["frames"], counts["changed"], counts["unread"], counts["refused"]) == (3, 2, 1, 1)
    assert [row[3] for row in sorted((await stored(pipe))["readings"])] == [12.0, 130.0, 14.0]
