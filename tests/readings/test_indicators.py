"""Statistics from the roll-ups are those of the readings, however the readings came and went."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import numpy as np
import pytest

from tests.readings.test_readings import HOUR, Reading, columns, put
from tulou.kernel.errors import Invalid
from tulou.kernel.readings import OVER_READINGS, Asked, Readings, day_of, start_of
from tulou.kernel.readings.amend import Reading as Amended
from tulou.kernel.readings.amend import Touched
from tulou.kernel.readings.clickhouse import ClickHouseReadings
from tulou.kernel.readings.schema import DAYS

FIRST = dt.date(2025, 12, 30)
SPAN = 40
ORGS = {"fuzhou": "city", "cangshan": "city", "xiamen": "island"}
OF = {1: ("fuzhou", "Air", 0), 2: ("fuzhou", "Air", 0), 3: ("cangshan", "Air", 0), 4: ("xiamen", "Air", 0), 5: ("xiamen", "Air", 3),
      6: ("elsewhere", "Air", 0), 7: ("fuzhou", "Water", 0)}
ASKED = Asked(ORGS, ["Air"], "pm25", FIRST, FIRST + dt.timedelta(days=SPAN), [0])


def some(seed: int) -> list[tuple[Reading, tuple[str, str, int]]]:
    """A few hundred readings of every kind of thing, in random hours of forty days and beyond."""
    chance = random.Random(seed)
    begin = start_of(FIRST) - 2 * 24 * HOUR
    found: dict[tuple[int, str, int], tuple[Reading, tuple[str, str, int]]] = {}
    for _ in range(600):
        no = chance.choice(list(OF))
        reading = (no, chance.choice(["pm25", "pm25", "o3"]), begin + chance.randrange((SPAN + 4) * 96) * HOUR // 4, float(chance.randrange(100)))
        found[reading[:3]] = (reading, OF[no])
    return list(found.values())


async def store(readings: Readings, given: list[tuple[Reading, tuple[str, str, int]]], token: str = "t") -> None:
    for n, of in enumerate(dict.fromkeys(of for _, of in given)):
        await put(readings, [reading for reading, own in given if own == of], token=f"{token}{n}", of=of, seq=n + 1)


def start(ts: int, grain: str | None) -> int | None:
    day = day_of(ts)
    return {
        None: None, "hour": ts // HOUR * HOUR, "day": start_of(day), "month": start_of(day.replace(day=1)),
        "year": start_of(day.replace(month=1, day=1)),
    }[grain]


def wanted(given: list[tuple[Reading, tuple[str, str, int]]], statistic: str, bound: float, grain: str | None) -> dict[Any, float]:
    """What `Readings.indicator` should say, from the readings one by one."""
    rows = [
        (reading, ORGS[of[0]]) for reading, of in given
        if of[0] in ORGS and of[1:] == ("Air", 0) and reading[1] == "pm25"
        and ASKED.start <= day_of(reading[2]) < ASKED.end
    ]
    out: dict[Any, float] = {}
    keys = {(g, t) for reading, group in rows for g in (None, group) for t in (None, start(reading[2], grain))}
    for g, t in keys:
        own = [r for r, group in rows if g in (None, group) and t in (None, start(r[2], grain))]
        values = [r[3] for r in own]
        days: dict[Any, list[float]] = {}
        for r in own:
            days.setdefault((r[0], day_of(r[2])), []).append(r[3])
        means = [sum(v) / len(v) for v in days.values()]
        out[g, t] = {
            "mean": sum(values) / len(values), "min": min(values), "max": max(values), "sum": sum(values), "count": len(values),
            "above": sum(m > bound for m in means) / len(means), "below": sum(m < bound for m in means) / len(means),
            "percentile": float(np.percentile(means, bound)), "hours": len({(r[0], r[2] // HOUR) for r in own}),
        }[statistic]
    return out


async def agrees(readings: Readings, given: list[tuple[Reading, tuple[str, str, int]]], grains: tuple[str | None, ...] = (None, "day")) -> None:
    for statistic in ("mean", "min", "max", "sum", "count", "above", "below", "percentile", "hours"):
        for grain in grains if statistic in ("mean", "above") else (None, "month"):
            figures = await readings.indicator(ASKED, statistic, 60.0, grain)  # type: ignore[arg-type]
            found = {(f.group, f.start): f.value for f in figures}
            assert len(found) == len(figures)
            assert found == pytest.approx(wanted(given, statistic, 60.0, grain)), (statistic, grain)
            assert {f.hours is None for f in figures} == {statistic in OVER_READINGS}
    real = [r for r, of in given if of[0] in ORGS and of[1:] == ("Air", 0) and r[1] == "pm25" and ASKED.start <= day_of(r[2]) < ASKED.end]
    things = await readings.of_things(ASKED, "mean", None)
    assert {int(no): value for no, value in zip(things.entity, things.value, strict=True)} == pytest.approx({
        no: np.mean([r[3] for r in real if r[0] == no]) for no in {r[0] for r in real}
    })
    assert (await readings.provenance(ASKED, hours=False)).hours is None
    made = await readings.provenance(ASKED)
    assert made == (len({r[0] for r in real}), len({(r[0], r[2] // HOUR) for r in real}), max(day_of(r[2]) for r in real), {0: len(real)})
    assert int(things.hours.sum()) == made.hours


async def test_statistics_are_those_of_the_readings(readings: Readings) -> None:
    given = some(1)
    half = len(given) // 2
    await store(readings, given[:half], "a")
    await store(readings, given[half:], "b")  # the same hours again: parts that no merge has seen
    await agrees(readings, given, (None, "day", "month", "year"))
    hourly = await readings.indicator(ASKED, "mean", None, "hour")
    assert {(f.group, f.start): f.value for f in hourly} == pytest.approx(wanted(given, "mean", 0, "hour"))
    assert await readings.indicator(Asked({}, ["Air"], "pm25", FIRST, ASKED.end, [0]), "mean", None, "day") == []
    assert (await readings.provenance(Asked({}, ["Air"], "pm25", FIRST, ASKED.end, [0]))).things == 0
    synthetic = Asked(ORGS, ["Air"], "pm25", FIRST, ASKED.end, [0, 3])
    assert set((await readings.provenance(synthetic)).origins) == {0, 3}
    with pytest.raises(Invalid, match="not computed by hours"):
        await readings.indicator(ASKED, "above", 1.0, "hour")


async def test_statistics_follow_what_is_recovered_amended_and_deleted(readings: Readings) -> None:
    given = some(2)
    await store(readings, given)
    air = [reading for reading, of in given if of == OF[1]][:12]
    rows, frames = columns([(*reading[:2], reading[2] + HOUR // 8, reading[3]) for reading in air])
    known = await readings.stored(rows.entity, rows.ts)
    assert len(known.entity) == 0
    await readings.recover(rows, rows, frames.where(np.zeros(len(frames), bool)), "lost")
    given += [((int(e), rows.properties[p], int(t), v), OF[1]) for e, p, t, v in
              zip(rows.entity.tolist(), rows.property.tolist(), rows.ts.tolist(), rows.value.tolist(), strict=True)]
    await agrees(readings, given)

    gone = [(reading, of) for reading, of in given if of == OF[1]][::20]
    moments = await readings.stored_at([(reading[0], reading[2]) for reading, _ in gone])
    taken = [m for m in moments if (m.entity, m.property, m.ts) in {reading[:3] for reading, _ in gone}]
    assert len(taken) == len(gone)
    await readings.amend(taken, rows.where(np.zeros(len(rows), bool)))
    await readings.remake(touched(taken))
    given = [one for one in given if one not in gone]
    await agrees(readings, given)

    await readings.delete_entities([2, 4])
    await agrees(readings, [(reading, of) for reading, of in given if reading[0] not in (2, 4)])


def touched(taken: list[Amended]) -> Touched:
    return Touched(
        sorted({r.entity for r in taken}), sorted({r.ts // HOUR for r in taken}), sorted({(r.org, r.type) for r in taken}),
        sorted({(r.entity, r.property) for r in taken}),
    )


async def test_days_that_an_older_version_cut_are_made_anew(engine: ClickHouseReadings, readings: Readings) -> None:
    given = some(3)
    await store(readings, given)
    expected = set(await readings.indicator(ASKED, "hours", None, "day"))

    def older(client: Any) -> None:
        client.command(f"DROP VIEW {DAYS.name}_view SYNC")
        client.command(f"DROP TABLE {DAYS.name} SYNC")
        client.command(f"""
            CREATE TABLE {DAYS.name} (entity UInt64, property LowCardinality(String), day Date, org LowCardinality(String),
                type LowCardinality(String), origin UInt8, count SimpleAggregateFunction(sum, Int64),
                sum SimpleAggregateFunction(sum, Float64), min SimpleAggregateFunction(min, Float64),
                max SimpleAggregateFunction(max, Float64))
            ENGINE = AggregatingMergeTree PARTITION BY toYear(day) ORDER BY (entity, property, day, org, type, origin)""")
        client.command(f"CREATE TABLE {DAYS.name}_fresh (x UInt8) ENGINE = MergeTree ORDER BY x")  # a process that died

    await engine._write(older)
    await readings.ensure_schema({})
    await readings.ensure_schema({})
    assert set(await readings.indicator(ASKED, "hours", None, "day")) == expected
    await put(readings, [(1, "pm25", start_of(FIRST) + 5, 1.0)], token="new")  # and they go on
    grown = await readings.indicator(ASKED, "count", None, None)
    assert {f.group: f.count for f in grown}[None] == 1 + sum(
        of[0] in ORGS and of[1:] == ("Air", 0) and r[1] == "pm25" and ASKED.start <= day_of(r[2]) < ASKED.end for r, of in given
    )


def test_a_day_begins_at_midnight_in_shanghai() -> None:
    assert start_of(FIRST) == int(dt.datetime(2025, 12, 29, 16, tzinfo=dt.UTC).timestamp()) * 1_000_000
    assert day_of(start_of(FIRST)) == FIRST
    assert day_of(start_of(FIRST) - 1) == FIRST - dt.timedelta(days=1)
