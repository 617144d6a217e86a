"""What a readings store must do, whichever engine is behind it."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.kernel.errors import Invalid
from tulou.kernel.policy import Orgs
from tulou.kernel.readings import Constant, Field, Frames, Readings, Rows, Term, raw_column
from tulou.kernel.readings.schema import ddl, ttl

HOUR = 3_600_000_000
DAY = 24 * HOUR
T0 = 1_795_392_000_000_000
"""2026-11-23T00:00:00Z in µs."""
FUZHOU, XIAMEN, DEMO = ("fuzhou", "Air", 0), ("xiamen", "Air", 0), ("fuzhou", "Air", 3)

Reading = tuple[int, str, int, Any]


def columns(
    readings: Sequence[Reading], of: tuple[str, str, int] = FUZHOU, quality: int = 0, seq: int = 1
) -> tuple[Rows, Frames]:
    """Rows of one class, each in a frame of its own."""
    n = len(readings)
    names = list(dict.fromkeys(name for _, name, _, _ in readings))
    entity = np.array([r[0] for r in readings], np.uint64)
    ts = np.array([r[2] for r in readings], np.int64)
    rows = Rows(
        entity, np.array([names.index(r[1]) for r in readings], np.int32), ts,
        np.array([math.nan if isinstance(r[3], str) else r[3] for r in readings], np.float64),
        np.full(n, quality, np.uint8), np.zeros(n, np.int32), np.full(n, seq, np.uint64),
        np.arange(n, dtype=np.uint32), names, [of], {i: r[3] for i, r in enumerate(readings) if isinstance(r[3], str)},
    )
    raws = [repr(r[3]).encode() + b"\xff" for r in readings]
    frames = Frames(
        entity, ts, rows.of, np.zeros(n, np.int32), np.zeros(n, np.uint8), rows.seq, rows.frame,
        raw_column(np.array([len(raw) for raw in raws], np.uint32), b"".join(raws)), [of], ["mqtt"],
    )
    return rows.take(rows.order()), frames


async def put(store: Readings, readings: Sequence[Reading], token: str = "t", **options: Any) -> None:
    await store.insert(*columns(readings, **options), token)


async def test_the_latest_value_of_each_property(readings: Readings) -> None:
    await put(readings, [(1, "pm25", T0, 1.0), (1, "pm25", T0 + 5, 2.0), (1, "mode", T0, "自动"), (2, "pm25", T0, 9.0)])
    await put(readings, [(1, "pm25", T0 + 1, 7.0)], token="late")
    found = await readings.latest([1, 2, 3], orgs=None)
    assert {no: {name: (v.ts, v.value) for name, v in values.items()} for no, values in found.items()} == {
        1: {"pm25": (T0 + 5, 2.0), "mode": (T0, "自动")}, 2: {"pm25": (T0, 9.0)},
    }
    assert await readings.latest([1], ["mode"], orgs=None) == {1: {"mode": (T0, "自动", 0, 0)}}
    assert set(await readings.latest(None, orgs=None)) == {1, 2}
    assert await readings.latest([], orgs=None) == {}


async def test_readings_are_counted_by_organisation_as_long_as_they_are_kept(readings: Readings) -> None:
    assert await readings.totals() == {}
    now = time.time_ns() // 1000
    await put(readings, [(1, "pm25", now, 1.0), (1, "mode", now, "自动"), (1, "pm25", now - 40 * DAY, 1.0)], of=FUZHOU)
    await put(readings, [(2, "pm25", now - 40 * DAY, 2.0)], of=XIAMEN, token="u", seq=2)
    assert await readings.totals() == {"fuzhou": 2, "xiamen": 1}
    await readings.apply_retention({"Air": 30, "o'Brien": 3})
    assert await readings.totals() == {"fuzhou": 1}
    await readings.apply_retention({"Air": 50})
    assert await readings.totals() == {"fuzhou": 2, "xiamen": 1}
    await readings.apply_retention({})


@pytest.mark.parametrize("orgs", [["xiamen"], Orgs(False, frozenset({"xiamen"})), {"xiamen", "o'Brien\\"}])
async def test_only_rows_of_the_named_organisations_come_back(readings: Readings, orgs: Any) -> None:
    await put(readings, [(1, "pm25", T0, 1.0)], of=FUZHOU)
    await put(readings, [(2, "pm25", T0, 2.0)], of=XIAMEN, token="u", seq=2)
    span = (T0 - DAY, T0 + DAY)
    assert set(await readings.latest([1, 2], orgs=orgs)) == {2}
    assert set(await readings.history([1, 2], None, None, None, orgs=orgs)) == {2}
    assert [a.org for a in await readings.area_hour(orgs, "Air", "pm25", *span)] == ["xiamen"]
    assert await readings.frames(1, orgs=orgs) == []
    assert len(await readings.frames(2, orgs=orgs)) == 1
    assert await readings.count(orgs=orgs) == 1
    assert [a.values["sum"] for a in await readings.aggregate(["sum"], orgs=orgs, by=())] == [2.0]
    for days in (1, 40, 4000):
        wide = (T0 - days * DAY, T0 + days * DAY)
        assert (await readings.series(1, "pm25", *wide, 100, orgs=orgs)).points == []
        assert (await readings.series(2, "pm25", *wide, 100, orgs=orgs)).count == 1


async def test_no_organisation_means_no_rows(readings: Readings) -> None:
    await put(readings, [(1, "pm25", T0, 1.0)])
    nobody = Orgs(False, frozenset())
    assert await readings.latest([1], orgs=nobody) == {}
    assert await readings.count(orgs=nobody) == 0
    assert await readings.area_hour([], "Air", "pm25", T0 - DAY, T0 + DAY) == []
    assert await readings.count(orgs=Orgs(True, frozenset())) == 1


async def test_a_series_is_raw_hourly_or_daily_as_the_points_allow(readings: Readings) -> None:
    values = [(1, "t", T0 + i * HOUR // 4, float(i % 10)) for i in range(4 * 24 * 20)]
    await put(readings, values)
    day = await readings.series(1, "t", T0, T0 + DAY, 96, orgs=None)
    assert (day.resolution, day.count, len(day.points)) == ("raw", 96, 96)
    assert day.points[3] == (T0 + 3 * HOUR // 4, 3.0, 3.0, 3.0)
    fewer = await readings.series(1, "t", T0, T0 + DAY, 32, orgs=None)
    assert len(fewer.points) == 32
    assert fewer.points[0] == (T0, 1.0, 0.0, 2.0)
    week = await readings.series(1, "t", T0, T0 + 7 * DAY, 168, orgs=None)
    assert (week.resolution, len(week.points), week.count) == ("hour", 168, 672)
    assert week.points[1] == (T0 + HOUR, 5.5, 4.0, 7.0)
    long = await readings.series(1, "t", T0, T0 + 20 * DAY, 20, orgs=None)
    midnight = T0 - 8 * HOUR  # natural days of Asia/Shanghai
    assert (long.resolution, len(long.points), long.count) == ("day", 21, len(values))
    assert [p[0] for p in long.points] == [midnight + i * DAY for i in range(21)]
    assert long.points[0][1:] == (sum(v for *_, ts, v in values if ts < midnight + DAY) / 64, 0.0, 9.0)
    coarse = await readings.series(1, "t", T0, T0 + 20 * DAY, 5, orgs=None)
    assert [p[0] for p in coarse.points] == [midnight + i * 4 * DAY for i in range(6)]
    assert (await readings.series(1, "t", T0, T0, 5, orgs=None)).points == []


async def test_history_limits_each_property(readings: Readings) -> None:
    await put(readings, [(no, name, T0 + i, float(i)) for no in (1, 2) for name in "ab" for i in range(10)])
    newest = await readings.history([1, 2], None, None, None, orgs=None, limit=3, order="desc")
    assert {no: {name: [v.value for v in values] for name, values in found.items()} for no, found in newest.items()} == {
        no: {"a": [9, 8, 7], "b": [9, 8, 7]} for no in (1, 2)
    }
    some = await readings.history([1], ["b"], T0 + 2, T0 + 5, orgs=None)
    assert [v.ts for v in some[1]["b"]] == [T0 + 2, T0 + 3, T0 + 4]


async def test_frames_are_paged_from_the_newest(readings: Readings) -> None:
    await put(readings, [(1, "a", T0 + i // 2, float(i)) for i in range(10)])
    seen: list[Any] = []
    after = None
    while page := await readings.frames(1, orgs=None, after=after, limit=3):
        seen += page
        after = (page[-1].ts, page[-1].seq, page[-1].frame)
    assert [frame.frame for frame in seen] == list(reversed(range(10)))
    assert seen[-1].raw == b"0.0\xff"
    assert (seen[-1].protocol, seen[-1].dup) == ("mqtt", False)


async def test_bad_and_text_readings_stay_out_of_the_rollups(readings: Readings) -> None:
    await put(readings, [(1, "a", T0, 1.0), (1, "a", T0 + 1, "text"), (1, "a", T0 + 2, math.inf)])
    await put(readings, [(1, "a", T0 + 3, 1000.0)], quality=2, token="bad")
    await put(readings, [(1, "a", T0 + 4, 3.0)], quality=1, token="uncertain")
    hours = await readings.area_hour(None, "Air", "a", T0, T0 + HOUR)
    assert [(h.count, h.sum, h.min, h.max) for h in hours] == [(2, 4.0, 1.0, 3.0)]
    assert await readings.count(orgs=None) == 5


async def test_a_number_that_is_none(readings: Readings) -> None:
    """A device says that it has no number (GB/T 32960: FE, FF): not a text, and not an empty one."""
    await put(readings, [(1, "soc", T0, math.nan), (1, "mode", T0, "")], quality=2)
    await put(readings, [(2, "mode", T0, ""), (2, "soc", T0, 5.0)], token="u", seq=2)
    for found in (await readings.latest([1, 2], orgs=None), {
        no: {name: values[0] for name, values in own.items()}
        for no, own in (await readings.history([1, 2], None, None, None, orgs=None)).items()
    }):
        assert {no: {name: v.value for name, v in own.items()} for no, own in found.items()} == {
            1: {"soc": None, "mode": None}, 2: {"soc": 5.0, "mode": ""},
        }
    assert (await readings.series(1, "soc", T0 - HOUR, T0 + HOUR, orgs=None)).points == []


async def test_areas_tell_measured_from_synthetic(readings: Readings) -> None:
    await put(readings, [(1, "a", T0, 1.0), (2, "a", T0 + HOUR, 2.0)], of=FUZHOU)
    await put(readings, [(3, "a", T0, 100.0)], of=DEMO, token="demo")
    hours = await readings.area_hour(None, "Air", "a", T0, T0 + 2 * HOUR, origins=[0])
    assert [(h.hour, h.origin, h.sum) for h in hours] == [(T0, 0, 1.0), (T0 + HOUR, 0, 2.0)]
    assert len(await readings.area_hour(None, "Air", "a", T0, T0 + 2 * HOUR)) == 3
    assert await readings.count(orgs=None, origins=[0]) == 2


async def test_aggregates_by_name(readings: Readings) -> None:
    await put(readings, [(1, "a", T0 + i * HOUR, float(i)) for i in range(4)] + [(2, "a", T0, 10.0), (2, "b", T0, "x")])
    (whole,) = await readings.aggregate(
        ["totalCount", "distinctCount", "sum", "avg", "min", "max", "stddev", "sumsq", "last"], orgs=None,
        entities=[1], properties=["a"],
    )
    assert (whole.entity, whole.property, whole.start) == (1, "a", None)
    assert whole.values == {
        "totalCount": 4, "distinctCount": 4, "sum": 6, "avg": 1.5, "min": 0, "max": 3,
        "stddev": pytest.approx(math.sqrt(1.25)), "sumsq": 14, "last": 3,
    }
    periods = await readings.aggregate(["sum"], orgs=None, entities=[1], start=T0, end=T0 + 4 * HOUR, period=2 * HOUR)
    assert [(p.start, p.values["sum"]) for p in periods] == [(T0, 1.0), (T0 + 2 * HOUR, 5.0)]
    (text,) = await readings.aggregate(["avg", "min", "totalCount"], orgs=None, entities=[2], properties=["b"])
    assert text.values == {"avg": None, "min": None, "totalCount": 1}
    (reporting,) = await readings.aggregate(["entities"], orgs=None, type="Air", by=())
    assert reporting.values == {"entities": 2}
    assert await readings.aggregate(["sum"], orgs=None, type="Other", by=()) == []
    with pytest.raises(Invalid, match="no aggregate median"):
        await readings.aggregate(["median"], orgs=None)


async def test_the_same_token_adds_nothing(readings: Readings) -> None:
    values = [(1, "a", T0, 1.0), (1, "a", T0 + 40 * DAY, 2.0)]
    for _ in range(3):
        await put(readings, values, token="READINGS:1-2")
    await put(readings, [(1, "a", T0 + 1, 3.0)], token="READINGS:3-3")
    hours = await readings.area_hour(None, "Air", "a", T0, T0 + 50 * DAY)
    assert (await readings.count(orgs=None), sum(h.count for h in hours)) == (3, 3)
    assert len(await readings.frames(1, orgs=None)) == 3


async def test_recovery_completes_what_is_missing(readings: Readings) -> None:
    rows, frames = columns([(no, "a", T0 + no * HOUR, float(no)) for no in range(1, 30)])
    half = np.arange(29) < 12
    await readings.insert(rows.where(half), frames.where(half), "x")
    for _ in range(2):
        stored = await readings.stored(rows.entity, rows.ts)
        missing = rows.where(~np.isin(rows.entity, stored.entity))
        kept = frames.where(~np.isin(frames.entity, stored.entity))
        await readings.recover(rows, missing, kept, "x")
    hours = await readings.area_hour(None, "Air", "a", T0, T0 + 2 * DAY)
    assert sum(h.count for h in hours) == await readings.count(orgs=None) == 29
    assert len(await readings.latest(None, orgs=None)) == 29


async def test_stored_identities_and_watermarks(readings: Readings) -> None:
    await put(readings, [(1, "a", T0, 1.0), (1, "b", T0, "文"), (2, "a", T0 + 7, 2.0)])
    found = await readings.stored(np.array([1, 1, 2, 3], np.uint64), np.array([T0, T0, T0, T0]))
    assert sorted(zip(found.entity.tolist(), found.property, found.ts.tolist(), found.text, strict=True)) == [
        (1, "a", T0, ""), (1, "b", T0, "文"),
    ]
    entity, ts = await readings.watermarks()
    assert dict(zip(entity.tolist(), ts.tolist(), strict=True)) == {1: T0, 2: T0 + 7}
    frames = await readings.stored_frames(np.array([2], np.uint64), T0, T0 + 8)
    assert frames.column("raw").to_pylist() == [b"2.0\xff"]


async def test_free_queries_only_read_and_are_bounded(readings: Readings) -> None:
    await put(readings, [(1, "a", T0, 1.0)])
    table = await readings.sql("SELECT entity, value FROM readings;")
    assert (table.columns, table.rows) == (["entity", "value"], [(1, 1.0)])
    for query in (
        "DROP TABLE readings", "INSERT INTO latest SELECT * FROM latest", "TRUNCATE TABLE readings",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')", "SET readonly = 0",
        "SELECT 1 SETTINGS max_execution_time = 0", "SELECT nonsense",
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
    ):
        with pytest.raises(Invalid):
            await readings.sql(query)
    with pytest.raises(Invalid):
        await readings.sql("SELECT * FROM numbers(1000000)", max_rows=10)
    assert await readings.count(orgs=None) == 1


async def test_entities_can_be_removed(readings: Readings) -> None:
    """And the areas' hours are as if they had never been, extremes too."""
    hours = [T0, T0 + HOUR, T0 + 3 * HOUR]
    kept = [(2, "a", t, 2.0) for t in hours]
    gone = [(1, "a", t, 1.0) for t in (*hours, T0 + 30 * DAY)] + [(3, "a", t, 3.0) for t in hours]
    texts = [(1, "mode", T0, "自动"), (2, "mode", T0, "手动")]
    await put(readings, [*kept, *gone, *texts])
    await put(readings, [(1, "a", T0, 5.0), (4, "a", T0, 5.0)], of=XIAMEN, token="x")
    await readings.delete_entities([])
    for _ in range(2):  # again, as after a crash
        await readings.delete_entities([1, 3])
        assert set(await readings.latest(None, orgs=None)) == {2, 4}
        assert (await readings.latest([2], ["mode"], orgs=None))[2]["mode"].value == "手动"
        assert (await readings.count(orgs=None), await readings.frames(1, orgs=None)) == (5, [])
        assert (await readings.series(1, "a", T0 - 40 * DAY, T0 + DAY, orgs=None)).points == []
        areas = await readings.area_hour(None, "Air", "a", T0, T0 + 40 * DAY)
        assert sorted((a.org, a.hour, a.count, a.sum, a.min, a.max) for a in areas) == sorted([
            *(("fuzhou", t, 1, 2.0, 2.0, 2.0) for t in hours), ("xiamen", T0, 1, 5.0, 5.0, 5.0),
        ])


async def test_readings_expire_by_type_and_rollups_stay(readings: Readings) -> None:
    old = round(dt.datetime.now(dt.UTC).timestamp() - 100 * 86400) * 1_000_000
    await readings.apply_retention({"Air": 30})
    await put(readings, [(1, "a", old, 1.0)])
    await put(readings, [(2, "a", old, 2.0)], of=("fuzhou", "Water", 0), token="water")
    await readings._write(lambda client: client.command("OPTIMIZE TABLE readings FINAL"))  # type: ignore[attr-defined]
    assert set(await readings.history([1, 2], None, None, None, orgs=None)) == {2}
    assert [h.count for h in await readings.area_hour(None, "Air", "a", old - HOUR, old + HOUR)] == [1]
    await readings.apply_retention({})
    with pytest.raises(Invalid, match="at least one day"):
        await readings.apply_retention({"Air": 0})


async def test_the_schema_is_made_once_and_figures_are_told(readings: Readings) -> None:
    await put(readings, [(1, "a", T0, 1.0)])
    await readings.ensure_schema({"Air": 400})
    await readings.ensure_schema({"Air": 400})
    usage = await readings.disk_usage()
    assert usage["readings"]["rows"] == 1
    assert usage["free"]["bytes"] > 0
    health = await readings.health()
    assert health["ok"]
    assert health["version"]


async def test_many_things_at_once(readings: Readings) -> None:
    await put(readings, [(no, "a", T0 + no, float(no)) for no in range(1, 12_001)])
    assert len(await readings.latest(range(1, 12_001), orgs=None)) == 12_000
    assert len((await readings.stored(np.arange(1, 12_001, dtype=np.uint64), T0 + np.arange(1, 12_001))).ts) == 12_000


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from("ab"), st.integers(0, 5), st.one_of(
    st.floats(allow_nan=False), st.text(max_size=3))), max_size=30))
def test_the_last_of_each_property(readings: list[Reading]) -> None:
    rows, _ = columns(readings)
    expected: dict[tuple[int, str], tuple[int, Any]] = {}
    for entity, name, ts, value in readings:
        if ts >= expected.get((entity, name), (0, None))[0]:
            expected[entity, name] = (ts, value)
    assert {(e, p): (ts, v) for e, p, ts, v, _, _ in rows.last().tuples()} == expected


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_raw_payloads_become_a_column_without_copying(raws: list[bytes]) -> None:
    column = raw_column(np.array([len(r) for r in raws], np.uint32), b"".join(raws))
    assert column.to_pylist() == raws
    assert column.type == pa.large_binary()


def test_a_cluster_gets_replicated_engines_of_the_same_tables() -> None:
    single, cluster = list(ddl()), list(ddl("fujian"))
    assert len(single) == len(cluster)
    assert all(" ON CLUSTER 'fujian'" in statement for statement in cluster)
    tables = [statement for statement in cluster if "TABLE" in statement]
    assert all("Replicated" in s and "replicated_deduplication_window" in s for s in tables)
    assert "ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/latest', '{replica}', ts)" in tables[2]
    assert next(s for _, s in ttl({"O'Hara": 3}, "fujian")).endswith("DELETE WHERE type = 'O\\'Hara'")


async def test_observations_of_one_property_in_order(readings: Readings) -> None:
    await put(readings, [(1, "pm25", T0 + n * HOUR, float(n)) for n in range(48)] + [(2, "pm25", T0, 99.0)])
    await put(readings, [(1, "mode", T0, "自动"), (1, "mode", T0 + HOUR, "手动")], token="text")

    async def ask(*args: Any, **options: Any) -> list[Any]:
        return [v.value for v in await readings.observations(1, *args, orgs=["fuzhou"], **options)]

    assert await ask("pm25", None, None, limit=3) == [47, 46, 45]
    assert await ask("pm25", T0 + HOUR, T0 + 4 * HOUR) == [3, 2, 1]
    assert await ask("pm25", None, None, descending=False, skip=10, limit=2) == [10, 11]
    even = Term("eq", (Term("mod", (Field("value"), Constant(2))), Constant(0)))
    assert await ask("pm25", T0, T0 + 6 * HOUR, where=even) == [4, 2, 0]
    assert await ask("pm25", None, None, order="value", limit=2) == [47, 46]
    assert await ask("mode", None, None, where=Term("startswith", (Field("text"), Constant("手")))) == ["手动"]
    late = Term("ge", (Field("ts"), Constant(T0 + 47 * HOUR, "time")))
    assert await ask("pm25", None, None, where=late) == [47]
    day = Term("eq", (Term("date", (Field("ts"),)), Constant("2026-11-24", "date")))
    assert len(await ask("pm25", None, None, where=day)) == 24
    assert await readings.observations(1, "pm25", None, None, orgs=["xiamen"]) == []


async def test_a_tally_counts_one_property(readings: Readings) -> None:
    await put(readings, [(1, "pm25", T0 + n * HOUR, float(n)) for n in range(48)])
    assert await readings.tally(1, "pm25", None, None, orgs=["fuzhou"]) == 48
    assert await readings.tally(1, "pm25", T0 + HOUR, T0 + 3 * HOUR, orgs=None) == 2
    assert await readings.tally(1, "pm25", None, None, orgs=None, where=Term("gt", (Field("value"), Constant(40)))) == 7
    for orgs in ([], ["xiamen"]):
        assert await readings.tally(1, "pm25", None, None, orgs=orgs) == 0
    assert await readings.tally(1, "o3", None, None, orgs=None) == 0


async def test_what_would_test_too_many_readings_is_refused(
    readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tulou.kernel.readings.clickhouse.MOST_TESTED", 10)
    await put(readings, [(1, "pm25", T0 + n * HOUR, float(n)) for n in range(48)])
    high = Term("gt", (Field("value"), Constant(40)))
    with pytest.raises(Invalid) as raised:
        await readings.observations(1, "pm25", None, None, orgs=None, where=high)
    assert raised.value.rule == "<= 10 readings"
    assert len(await readings.observations(1, "pm25", None, None, orgs=None)) == 48
    with pytest.raises(Invalid, match="cannot compute"):
        await readings.observations(1, "pm25", None, None, orgs=None, where=Term("sleep", (Constant(1),)))


async def test_hours_of_things_and_levels_by_their_energy(readings: Readings) -> None:
    await put(readings, [(1, "LAeq", T0, 50.0), (1, "LAeq", T0 + 1, 60.0), (1, "pm25", T0 + HOUR, 7.0), (2, "pm25", T0 + HOUR, 9.0)])
    await put(readings, [(1, "pm25", T0 + HOUR + 1, 8.0)], of=DEMO, token="made up", seq=2)
    await put(readings, [(1, "pm25", T0 + HOUR + 2, 999.0)], quality=2, token="bad", seq=3)

    async def hours(energetic: bool = False) -> dict[tuple[int, str, int], tuple[int, float, float, float, int]]:
        found = await readings.hours([1, 2], ["LAeq", "pm25"], T0, T0 + 2 * HOUR, orgs=None, energetic=energetic)
        return {
            (e, p, (t * 1_000_000 - T0) // HOUR): (n, pytest.approx(v), low, high, o) for e, p, t, n, v, low, high, o in zip(
                found.entity.tolist(), found.property, found.hour.tolist(), found.count.tolist(), found.value.tolist(), found.low.tolist(),
                found.high.tolist(), found.origin.tolist(), strict=True)
        }

    plain = {(1, "LAeq", 0): (2, 55, 50, 60, 0), (1, "pm25", 1): (2, 7.5, 7, 8, 3), (2, "pm25", 1): (1, 9, 9, 9, 0)}
    assert await hours() == plain
    loud = 10 * math.log10((10**5 + 10**6) / 2)
    assert {key: value for key, value in (await hours(energetic=True)).items() if key[1] == "LAeq"} == {(1, "LAeq", 0): (2, loud, 50, 60, 0)}
    assert (await readings.hours([], ["pm25"], T0, T0 + HOUR, orgs=None)).property == []
    assert (await readings.hours([1], ["pm25"], T0, T0 + 2 * HOUR, orgs=["xiamen"])).count.tolist() == []
