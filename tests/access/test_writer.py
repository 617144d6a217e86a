"""The writer's law: a reading is (entity, property, ts); it is stored once and counted once, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from tests.access.writing import CLASS, NOVEMBER, Killed, Pipe, Reading, batch
from tulou.access.edge.tables import edges, uplink_position
from tulou.access.writer import repeated
from tulou.kernel.bus import Bus, NatsServer, StreamSpec
from tulou.kernel.readings import Readings, Rows, clickhouse, open_readings
from tulou.kernel.readings.schema import TABLES
from tulou.kernel.sql import Database, metadata

STEPS = ("decoded", "stated", "inserted", "dead", "latest", "acknowledged")
HOUR = 3_600_000_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Readings]:
    """One engine for the module: opening one takes most of a second."""
    import asyncio

    readings = open_readings(f"chdb:///{tmp_path_factory.mktemp('readings')}")
    yield readings
    asyncio.run(readings.close())


@pytest.fixture
async def pipe(store: Readings, nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Pipe]:
    assert isinstance(store, clickhouse.ClickHouseReadings)

    def drop(client: Any) -> None:
        for table in TABLES:
            client.command(f"DROP VIEW IF EXISTS {table.name}_view SYNC")
        for table in TABLES:
            client.command(f"DROP TABLE IF EXISTS {table.name} SYNC")

    await store._write(drop)
    await store.ensure_schema({})
    bus = Bus(nats_server.url)
    await bus.connect()
    await bus.ensure([
        StreamSpec("READINGS", ("tulou.readings.>",), 1 << 28), StreamSpec("DEAD", ("tulou.dead.>",), 1 << 28),
    ])
    db = Database(f"sqlite:///{tmp_path / 'writer.db'}")
    metadata.create_all(db.engine)
    yield Pipe(tmp_path, bus, db, store)
    await db.close()
    await bus.close()


def months() -> list[Reading]:
    """Readings of 20 things around midnight of the first of December (UTC): two months, days and hours."""
    december = NOVEMBER + (7 * 24 + 14) * HOUR
    return [
        (entity, name, december + (step - 2) * HOUR // 2 + entity, float(entity * 10 + step))
        for step in range(4) for entity in range(1, 21) for name in ("pm25", "no2")
    ]


async def letters(pipe: Pipe) -> list[dict[str, Any]]:
    state = (await pipe.bus.js.stream_info("DEAD")).state
    return [
        msgpack.unpackb((await pipe.bus.js.get_msg("DEAD", seq)).data)
        for seq in range(state.first_seq, state.last_seq + 1) if state.messages
    ]


async def test_a_batch_becomes_readings_rollups_latest_and_frames(pipe: Pipe) -> None:
    expected: list[Reading] = [
        (1, "pm25", NOVEMBER, 12.5), (1, "state", NOVEMBER, "开"), (2, "pm25", NOVEMBER + 1, 80.0),
        (1, "pm25", NOVEMBER + HOUR, 13.5),
    ]
    await pipe.publish(batch(expected[:2]), batch(expected[2:]))
    writer = await pipe.run()
    await pipe.check(expected)
    assert writer.counters.groups >= 1
    hours = await pipe.readings.area_hour(None, CLASS[1], "pm25", NOVEMBER, NOVEMBER + 2 * HOUR)
    assert [(h.count, h.sum, h.min, h.max) for h in hours] == [(2, 92.5, 12.5, 80.0), (1, 13.5, 13.5, 13.5)]
    frames = await pipe.readings.frames(2, orgs=None)
    assert [frame.raw for frame in frames] == [repr(expected[2]).encode()]


async def test_messages_are_acknowledged_and_the_floor_is_written(pipe: Pipe) -> None:
    await pipe.publish(*(batch([(1, "a", NOVEMBER + i, float(i))]) for i in range(5)))
    await pipe.run()
    info = await pipe.bus.js.consumer_info("READINGS", "writer")
    assert info.ack_floor.stream_seq == 5
    await pipe.publish(batch([(1, "a", NOVEMBER + 9, 9.0)]))
    await pipe.run()
    rows = pipe.db.read_now(lambda c: c.exec_driver_sql("SELECT floor FROM writer_intent").fetchall())
    assert rows[0][0] in (5, 6)  # the last floor may wait for the next group


@pytest.mark.parametrize("step", STEPS)
async def test_killed_between_two_steps_nothing_is_lost_or_counted_twice(pipe: Pipe, step: str) -> None:
    expected = months()
    await pipe.publish(batch(expected[:70]), batch(expected[70:]))
    await pipe.killed(step)
    await pipe.killed("inserted" if step == "stated" else step)
    await pipe.run()
    await pipe.check(expected)
    assert await letters(pipe) == []


@pytest.mark.parametrize("table", ["frames", "readings"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_around_each_insert(
    pipe: Pipe, table: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = months()
    await pipe.publish(batch(expected))
    put = clickhouse._put

    def dying(client: Any, name: str, rows: Any, token: str | None) -> None:
        if when == "after" or name != table:
            put(client, name, rows, token)
        if name == table:
            raise Killed(name)

    monkeypatch.setattr(clickhouse, "_put", dying)
    await pipe.killed("never")
    monkeypatch.undo()
    await pipe.run()
    await pipe.check(expected)


@pytest.mark.parametrize("table", ["frames", "readings"])
@pytest.mark.parametrize("part", [slice(0, 1), slice(0, 80), slice(80, 160)])
async def test_a_part_of_the_group_was_stored(
    pipe: Pipe, part: slice, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash between the commits of two months' parts: some rows with roll-ups are there, others not."""
    expected = months()
    await pipe.publish(batch(expected))
    put = clickhouse._put

    def partly(client: Any, name: str, rows: Any, token: str | None) -> None:
        put(client, name, rows.slice(part.start, part.stop - part.start) if name == table else rows, token)
        if name == table:
            raise Killed(name)

    monkeypatch.setattr(clickhouse, "_put", partly)
    await pipe.killed("never")
    monkeypatch.undo()
    await pipe.run()
    await pipe.check(expected)


@pytest.mark.parametrize("view", ["latest", "readings_hour", "readings_day", "area_hour"])
@pytest.mark.parametrize("missing", [True, False])
async def test_a_view_was_fed_without_its_table_or_not_fed(pipe: Pipe, view: str, missing: bool) -> None:
    """As after a crash between the commits of a table and of its views, in either order."""
    expected = months()
    await pipe.publish(batch(expected))
    await pipe.killed("inserted")
    assert isinstance(pipe.readings, clickhouse.ClickHouseReadings)

    def tear(client: Any) -> None:
        if missing:
            client.command(f"TRUNCATE TABLE {view}")
            if view == "readings_hour":
                client.command("TRUNCATE TABLE area_hour")
        else:
            for table in ("readings", "frames"):
                client.command(f"TRUNCATE TABLE {table}")

    await pipe.readings._write(tear)
    await pipe.run()
    await pipe.check(expected)


async def test_a_token_remembered_for_rows_that_were_lost_does_not_swallow_them(pipe: Pipe) -> None:
    """MergeTree writes its deduplication log before it commits the part: a crash between loses the rows."""
    expected = months()
    await pipe.publish(batch(expected))
    await pipe.killed("stated")
    assert isinstance(pipe.readings, clickhouse.ClickHouseReadings)
    created = (await pipe.bus.js.stream_info("READINGS")).created
    assert created is not None
    token = f"READINGS:{created:%Y%m%dT%H%M%S%f}:1-1"
    for table, flag in (("readings", "quality"), ("frames", "dup")):
        await pipe.readings._write(lambda client, table=table, flag=flag: client.command(
            f"INSERT INTO {table} (entity, ts, {flag}) VALUES (99, '2026-11-30', 2), (99, '2026-12-01', 2)",
            settings={"insert_deduplication_token": f"{token}:{table}"}))
    await pipe.readings.delete_entities([99])
    await pipe.run()
    await pipe.check(expected)


async def test_the_token_drops_a_group_that_is_inserted_again(pipe: Pipe) -> None:
    rows = Rows(
        np.array([1, 2], np.uint64), np.zeros(2, np.int32), np.array([NOVEMBER, NOVEMBER + 40 * 24 * HOUR]),
        np.array([1.0, 2.0]), np.zeros(2, np.uint8), np.zeros(2, np.int32), np.ones(2, np.uint64),
        np.zeros(2, np.uint32), ["a"], [CLASS],
    )
    from tulou.access.writer import Decoder

    frames = Decoder().decode([]).frames
    for _ in range(3):
        await pipe.readings.insert(rows, frames, "READINGS:7-9")
    assert await pipe.sums() == {"rows": 2, "distinct": 2, "hour": 2, "day": 2, "area": 2, "frames": 0}


async def test_a_repeat_is_dropped_and_a_contradiction_is_a_dead_letter(pipe: Pipe) -> None:
    first: list[Reading] = [(1, "a", NOVEMBER, 1.0), (1, "b", NOVEMBER, "x"), (2, "a", NOVEMBER, 2.0)]
    await pipe.publish(batch(first))
    await pipe.run()
    await pipe.publish(batch([
        (1, "a", NOVEMBER, 1.0), (1, "b", NOVEMBER, "x"), (2, "a", NOVEMBER, 3.0), (1, "b", NOVEMBER, "y"),
    ]))
    writer = await pipe.run()
    await pipe.check(first)
    assert (writer.counters.repeats, writer.counters.conflicts) == (2, 2)
    dead = await letters(pipe)
    assert [(d["entity"], d["org"], d["field"], d["raw"]) for d in dead] == [
        (2, "fuzhou", "a", repr((2, "a", NOVEMBER, 3.0)).encode()),
        (1, "fuzhou", "b", repr((1, "b", NOVEMBER, "y")).encode()),
    ]
    assert "已存有" in dead[0]["reason"]


async def test_repeats_and_contradictions_within_a_group(pipe: Pipe) -> None:
    await pipe.publish(batch([(1, "a", NOVEMBER, 1.0), (1, "a", NOVEMBER, 1.0)]), batch([(1, "a", NOVEMBER, 5.0)]))
    await pipe.run()
    await pipe.check([(1, "a", NOVEMBER, 1.0)])
    assert [d["field"] for d in await letters(pipe)] == ["a"]


async def test_late_readings_are_stored_and_counted_once_and_do_not_become_the_latest(pipe: Pipe) -> None:
    expected: list[Reading] = [(1, "a", NOVEMBER + i * HOUR, float(i)) for i in range(5)]
    await pipe.publish(batch(expected[3:]))
    await pipe.run()
    await pipe.publish(batch(expected[:4]))
    await pipe.run()
    await pipe.check(expected)


async def test_a_resent_frame_without_device_time_is_a_repeat(pipe: Pipe) -> None:
    def timeless(received: int, value: float) -> Reading:
        return (1, "a", received, value)

    def raw(reading: Reading) -> bytes:
        return b'{"a": %r}' % reading[3]

    one, two = timeless(NOVEMBER, 1.0), timeless(NOVEMBER + 100, 2.0)
    await pipe.publish(batch([one], received=one[2], raw=raw))
    await pipe.run()
    # Sent again after a lost acknowledgement: same payload, received later. The second was never received.
    await pipe.publish(
        batch([timeless(NOVEMBER + 50, 1.0)], received=NOVEMBER + 50, dup=True, raw=raw),
        batch([two], received=two[2], dup=True, raw=raw),
        batch([timeless(NOVEMBER + 200, 2.0)], received=NOVEMBER + 200, dup=True, raw=raw),
    )
    await pipe.run()
    await pipe.check([one, two])
    # The same payload as a new message is a new reading, and a re-sent one is one again after more than an hour.
    three, four = timeless(NOVEMBER + 300, 2.0), timeless(NOVEMBER + 2 * HOUR, 2.0)
    await pipe.publish(batch([three], received=three[2], raw=raw), batch([four], received=four[2], dup=True, raw=raw))
    await pipe.run()
    await pipe.check([one, two, three, four])


async def test_killed_while_resent_frames_are_stored(pipe: Pipe) -> None:
    reading: Reading = (1, "a", NOVEMBER, 1.0)
    await pipe.publish(batch([reading], received=NOVEMBER, dup=True))
    await pipe.killed("inserted")
    await pipe.run()
    await pipe.check([reading])


async def test_a_refusing_store_means_no_acknowledgement_and_the_same_group_again(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = months()
    await pipe.publish(batch(expected))
    put, failures = clickhouse._put, []

    def refusing(client: Any, name: str, rows: Any, token: str | None) -> None:
        if len(failures) < 4:
            failures.append(name)
            raise OSError(28, "No space left on device")
        put(client, name, rows, token)

    monkeypatch.setattr(clickhouse, "_put", refusing)
    writer = await pipe.run()
    assert len(failures) == 4
    assert (writer.counters.error, writer.counters.recovered) == ("", 1)
    await pipe.check(expected)


async def test_a_message_that_is_no_batch_is_a_dead_letter_and_its_neighbours_are_stored(pipe: Pipe) -> None:
    reading: Reading = (1, "a", NOVEMBER, 1.0)
    await pipe.publish(b"\xc1nonsense", batch([reading]), msgpack.packb({"v": 9}))
    await pipe.run()
    await pipe.check([reading])
    assert [d["raw"] for d in await letters(pipe)] == [b"\xc1nonsense", msgpack.packb({"v": 9})]


async def test_a_stream_that_began_anew_is_read_from_its_beginning(pipe: Pipe) -> None:
    await pipe.publish(*(batch([(1, "a", NOVEMBER + i, 0.0)]) for i in range(3)))
    await pipe.run()
    await pipe.bus.js.delete_stream("READINGS")
    await pipe.bus.ensure([StreamSpec("READINGS", ("tulou.readings.>",), 1 << 28)])
    await pipe.publish(batch([(1, "a", NOVEMBER + 3, 0.0)]))
    await pipe.run()
    await pipe.check([(1, "a", NOVEMBER + i, 0.0) for i in range(4)])


def test_rows_of_one_identity_are_found() -> None:
    rng = np.random.default_rng(7)
    n = 20_000
    entity, prop = rng.integers(1, 50, n).astype(np.uint64), rng.integers(0, 5, n).astype(np.int32)
    ts = NOVEMBER + rng.integers(0, 1000, n)
    empty = np.zeros(n, np.int32)
    rows = Rows(entity, prop, ts, np.zeros(n), np.zeros(n, np.uint8), empty, np.ones(n, np.uint64),
                np.zeros(n, np.uint32), [], [])
    _, inverse, counts = np.unique(np.stack([entity.astype(np.int64), prop, ts]), axis=1, return_inverse=True,
                                   return_counts=True)
    assert (repeated(rows) == (counts[inverse.ravel()] > 1)).all()


async def test_the_stream_keeps_what_the_hub_does_not_have(pipe: Pipe) -> None:
    """An edge's writer purges up to where the hub is; what an edge has under way at the hub stays; a stream that fills loses
    the oldest, so that readings go on being taken in."""
    async def up_to() -> int:
        return await writer._done_with()

    await pipe.publish(*(batch([(1, "pm25", NOVEMBER + n, float(n))]) for n in range(80)))
    alone, writer = await pipe.run(), await pipe.run(pipe.writer(uplink=True))
    assert await alone._done_with() == 80
    assert await up_to() == 0, "the hub was never met"
    place = {"stream": "READINGS", "created": writer._created, "era": "e", "seq": 30}
    await pipe.db.write(lambda c: c.execute(uplink_position.insert().values(**place)) and None)
    assert await up_to() == 30
    await pipe.db.write(lambda c: c.execute(edges.insert().values(
        org="fuzhou", name="x", token_hash="x", token_prefix="x", created_at=writer._created, created_by="x", era="e", last=0, floor=20,
        lag=0, lag_s=0.0, missed=0, left_out=0,
    )) and None)
    assert (await up_to(), await alone._done_with()) == (20, 20)

    held = (await pipe.bus.js.stream_info("READINGS")).state.bytes
    await pipe.bus.ensure([StreamSpec("READINGS", ("tulou.readings.>",), held * 5 // 4)])
    assert await up_to() == 20, "held back by an edge that is being taken"
    await pipe.db.write(lambda c: c.execute(edges.update().values(floor=None)) and None)
    await pipe.db.write(lambda c: c.execute(uplink_position.update().values(seq=0)) and None)
    assert await up_to() == 11, "the oldest eighth"


@pytest.mark.slow
async def test_a_stream_that_is_nearly_full_is_relieved_also_after_a_restart(pipe: Pipe) -> None:
    await pipe.publish(*(batch([(1, "pm25", NOVEMBER + n, float(n))]) for n in range(80)))
    await pipe.run(pipe.writer(uplink=True))
    held = (await pipe.bus.js.stream_info("READINGS")).state.bytes
    await pipe.bus.ensure([StreamSpec("READINGS", ("tulou.readings.>",), held * 5 // 4)])
    writer = asyncio.create_task(pipe.writer(uplink=True).run())
    try:
        async with asyncio.timeout(20):
            while (await pipe.bus.js.stream_info("READINGS")).state.first_seq < 12:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    finally:
        writer.cancel()
        await asyncio.wait([writer])
