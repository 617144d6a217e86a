"""The readings store over clickhouse-connect: chDB in the process, or a ClickHouse server by HTTP.

Law: the same SQL on both. A client is used by one thread at a time; one client writes, the others read. Numbers go
into the SQL as numbers, text always as bound parameters. No write is reported done before the engine's count of failed
writes was looked at (docs/decisions/0010-a-disk-that-refuses.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import hashlib
import itertools
import logging
import math
import os
import queue
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit, urlunsplit

import clickhouse_connect
import numpy as np
import pyarrow as pa
from clickhouse_connect import common
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError
from numpy.typing import NDArray

from tulou.kernel.errors import Invalid, Unavailable
from tulou.kernel.policy import Orgs
from tulou.kernel.readings import amend
from tulou.kernel.readings.amend import Reading, Touched
from tulou.kernel.readings.conditions import Condition, clickhouse
from tulou.kernel.readings.days import ZONE, day_of, start_of
from tulou.kernel.readings.interface import (
    METHODS,
    MOST_TESTED,
    OVER_READINGS,
    STATISTICS,
    Aggregate,
    Area,
    Asked,
    Figure,
    Frame,
    Grain,
    Hours,
    KeptFrame,
    OfThings,
    OrgFilter,
    Provenance,
    Series,
    Stored,
    Table,
    Value,
    value_of,
)
from tulou.kernel.readings.mirror import Mirror
from tulou.kernel.readings.rows import Frames, Rows
from tulou.kernel.readings.schema import (
    AREAS,
    DAYS,
    HOURS,
    HOURS_SPOKEN,
    LATEST,
    ROLLED,
    STATE,
    TABLES,
    ddl,
    quote,
    settings_of,
    table_ddl,
    ttl,
)

log = logging.getLogger("tulou.readings")

T = TypeVar("T")

HOUR = 3_600_000_000
DAY = 24 * HOUR
ROOM = 64 << 20
"""Bytes that must be free before the embedded engine is asked to write."""
WATCH_S = 2.0
"""How often the count of failed writes is looked at when nobody writes: merges write, too."""
PATIENCE_S = 60.0
"""How long a reader waits for an engine that is being opened again."""
CHUNK = 5_000
"""Numbers in one IN list: keeps a statement far below the server's limit on its size."""

SMALL = {
    "optimize_move_to_prewhere": 0, "compile_expressions": 0, "compile_aggregate_expressions": 0,
    "compile_sort_description": 0, "max_threads": 1,
}
"""Settings of queries about one or a few things: planning costs more than reading (measured: 11 -> 9 ms of CPU)."""

MERGED = {"do_not_merge_across_partitions_select_final": 1}
"""A month that rests is one part: FINAL has nothing to do there."""

PARQUET = {
    "output_format_parquet_compression_method": "zstd", "output_format_parquet_string_as_string": 0,
    "output_format_parquet_row_group_size": 200_000, "max_threads": 2,
}

MANY_PARTITIONS = {"max_partitions_per_insert_block": 0, "throw_on_max_partitions_per_insert_block": 0}
"""What comes late may be of any month."""

YIELDING = {"os_threads_nice_value_merge_mutate": 10}
"""Merges take the processor when inserts and queries leave it; MergeTree delays inserts before parts become too many."""

_COLUMNS = {table.name: [column.name for column in table.columns] for table in TABLES}


class ClickHouseReadings:
    """See `kernel.readings.Readings`."""

    def __init__(self, dsn: str, *, readers: int = 3) -> None:
        self.embedded = dsn.startswith("chdb:")
        address = urlsplit(dsn)
        self.cluster = "" if self.embedded else parse_qs(address.query).get("cluster", [""])[0]
        self.dsn = dsn if self.embedded else urlunsplit(address._replace(query=""))
        self.path = address.path if self.embedded else ""
        self._retention: dict[str, int] = {}
        self._mirror = Mirror()
        self._write_pool = ThreadPoolExecutor(1, thread_name_prefix="readings-write")
        self._read_pool = ThreadPoolExecutor(readers, thread_name_prefix="readings-read")
        self._clients: queue.SimpleQueue[Client] = queue.SimpleQueue()
        self._readers = readers
        self._writer: Client | None = None
        self._failed = 0
        self._watching: asyncio.Task[None] | None = None
        common.set_setting("autogenerate_session_id", False)
        if self.embedded:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
        self._open()

    def _open(self) -> Client:
        opened: list[Client] = []
        try:
            for _ in range(1 + self._readers):
                opened.append(self._connect())
            self._failed = failed_writes(opened[0])
        except (ClickHouseError, OSError) as error:
            for client in opened:
                client.close()
            raise Unavailable(f"无法打开读数库：{error}", f"cannot open the readings store: {error}") from error
        self._writer = opened[0]
        for client in opened[1:]:
            self._clients.put(client)
        return opened[0]

    def _connect(self) -> Client:
        if self.embedded:
            return clickhouse_connect.get_client(dsn=self.dsn, chdb_options=YIELDING)
        return clickhouse_connect.get_client(dsn=self.dsn)

    # -- threads

    async def _write(self, fn: Callable[[Client], T]) -> T:
        def run() -> T:
            client = self._writer or self._open()
            if self.embedded:
                free = os.statvfs(self.path)
                if free.f_bavail * free.f_frsize < ROOM:
                    raise Unavailable(
                        f"读数库所在磁盘将满（少于 {ROOM >> 20} MiB），暂停写入",
                        f"the disk of the readings store is nearly full (less than {ROOM >> 20} MiB); nothing is written",
                    )
            try:
                return fn(client)
            finally:
                self._look(client)

        return await self._in(self._write_pool, run)

    async def _read(self, fn: Callable[[Client], T]) -> T:
        def run() -> T:
            with self._reader() as client:
                return fn(client)

        return await self._in(self._read_pool, run)

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Client]:
        """A client to read with; while one is taken, the engine stays open."""
        try:
            client = self._clients.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise Unavailable("读数库正在重新打开", "the readings store is being opened again") from None
        try:
            yield client
        finally:
            self._clients.put(client)

    # -- writes that failed

    def _look(self, client: Client) -> None:
        """Open the engine again when a write of it failed since it was opened.

        It has parts then that are not whole. At the opening they are set aside, and what they were merged from is read
        again; what an insert wrote is not whole either, so `Unavailable` tells its caller that it is not stored.
        """
        if not self.embedded or failed_writes(client) == self._failed:
            return
        log.error("a write to the readings store's disk failed; the engine is opened again")
        aside = _set_aside(client)
        for _ in range(self._readers):
            self._clients.get().close()
        client.close()
        self._writer = None
        client = self._open()
        for table, part in _set_aside(client) - aside:
            log.warning("part %s of %s was not whole and is dropped; what it was made of is there", part, table)
            client.command(f"ALTER TABLE {table} DROP DETACHED PART '{part}' SETTINGS allow_drop_detached = 1")
        raise Unavailable("读数库的一次磁盘写入失败", "a write to the readings store's disk failed")

    async def _watch(self) -> None:
        """Look for failed writes while nobody writes."""
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await self._in(self._write_pool, lambda: self._look(self._writer or self._open()))
            except (Unavailable, ClickHouseError) as error:
                log.warning("the readings store: %s", error)

    async def _in(self, pool: ThreadPoolExecutor, fn: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, fn)
        except (OperationalError, OSError) as error:
            raise Unavailable(f"读数库不可用：{error}", f"the readings store is away: {error}") from error

    async def _columns(
        self, sql: str, parameters: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> list[Sequence[Any]]:
        """The columns of a query's answer; no columns when there are no rows."""
        def run(client: Client) -> list[Sequence[Any]]:
            result = client.query(sql, parameters=dict(parameters or {}), settings=dict(settings or {}),
                                  column_oriented=True)
            return list(result.result_columns)

        return await self._read(run)

    # -- schema

    async def ensure_schema(self, retention: Mapping[str, int]) -> None:
        def run(client: Client) -> None:
            self._cut_anew(client)
            for statement in ddl(self.cluster):
                client.command(statement)
            for table in TABLES:
                told = client.command(
                    "SELECT engine_full FROM system.tables WHERE database = currentDatabase() "
                    f"AND name = '{table.name}'"
                )
                wanted = (f"{name} = {value}" for name, value in settings_of(table, self.cluster).items())
                if missing := [setting for setting in wanted if setting not in str(told)]:
                    client.command(f"ALTER TABLE {table.name}{self._on} MODIFY SETTING {', '.join(missing)}")
            if self.embedded:
                self._mirror.load(client.query_arrow("""
                    SELECT entity, toString(property) AS property, toString(org) AS org,
                        toUnixTimestamp64Micro(l.ts) AS t, value, text, quality, origin FROM latest AS l FINAL"""))

        await self._write(run)
        await self.apply_retention(retention)
        if self.embedded and self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    def _cut_anew(self, client: Client) -> None:
        """Make the days anew from the hours where they are stored as an older version cut them. What is half done when the
        process dies is begun again; nobody writes yet."""
        told = client.query("SELECT sorting_key FROM system.tables WHERE database = currentDatabase() "
                            f"AND name = '{DAYS.name}'").result_rows
        if not told or told[0][0] == ", ".join(DAYS.order):
            return
        if self.cluster:
            raise Unavailable(
                f"集群上的表 {DAYS.name} 是旧版本的：请删除它和视图 {DAYS.name}_view，再由 readings_hour 重建",
                f"the table {DAYS.name} of the cluster is of an older version: drop it and its view, and fill it from readings_hour",
            )
        fresh = f"{DAYS.name}_fresh"
        log.warning("%s is made anew from %s", DAYS.name, HOURS.name)
        assert DAYS.view is not None
        client.command(f"DROP TABLE IF EXISTS {fresh} SYNC")
        client.command(table_ddl(DAYS, fresh))
        _command(client, f"INSERT INTO {fresh} ({', '.join(_COLUMNS[DAYS.name])}) "
                 f"SELECT {', '.join(_COLUMNS[DAYS.name])} FROM ({DAYS.view.select})", **MANY_PARTITIONS)
        client.command(f"DROP VIEW IF EXISTS {DAYS.name}_view SYNC")
        client.command(f"EXCHANGE TABLES {DAYS.name} AND {fresh}")
        client.command(f"DROP TABLE {fresh} SYNC")

    async def apply_retention(self, rules: Mapping[str, int]) -> None:
        for kind, days in rules.items():
            if days < 1:
                raise Invalid(f"类型 {kind} 的保留天数应不小于 1", f"retention of {kind} must be at least one day",
                              field=kind, value=days, rule=">= 1")
        wanted = _digest(rules)

        def run(client: Client) -> None:
            for table, statement in ttl(rules, self.cluster):
                comment = client.command(
                    f"SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = '{table.name}'"
                )
                if comment == wanted or (not rules and not comment):
                    continue
                client.command(statement)
                client.command(f"ALTER TABLE {table.name}{self._on} MODIFY COMMENT '{wanted}'")

        self._retention = dict(rules)
        await self._write(run)

    @property
    def _on(self) -> str:
        return f" ON CLUSTER '{self.cluster}'" if self.cluster else ""

    # -- writing

    async def insert(self, rows: Rows, frames: Frames, token: str) -> Rows:
        def run(client: Client) -> Rows:
            self._insert(client, rows, frames, token)
            last = rows.last()
            if len(last):
                _put(client, LATEST.name, last.arrow().select(_COLUMNS[LATEST.name]), token)
                hours = rows.hours()
                if len(hours):
                    _put(client, HOURS.name, hours, token)
            return last

        return await self._follow(await self._write(run))

    async def _follow(self, last: Rows) -> Rows:
        await self._in(self._write_pool, lambda: self._mirror.follow(last))
        return last

    def _insert(self, client: Client, rows: Rows, frames: Frames, token: str | None) -> None:
        if len(frames):
            _put(client, "frames", frames.arrow(), token)
        if len(rows):
            _put(client, "readings", rows.arrow(), token)

    async def recover(self, rows: Rows, missing: Rows, missing_frames: Frames, token: str) -> Rows:
        def run(client: Client) -> Rows:
            self._interrupt(client, token)
            self._insert(client, missing, missing_frames, None)
            last = rows.last()
            if len(last):
                _put(client, LATEST.name, last.arrow().select(_COLUMNS[LATEST.name]), None)
            self._reconcile(client, rows)
            return last

        return await self._follow(await self._write(run))

    def _interrupt(self, client: Client, token: str) -> None:
        """End inserts of this token that a server still runs for a connection that we lost."""
        if not self.embedded:
            for table in ("frames", "readings", LATEST.name, HOURS.name):
                client.command("KILL QUERY WHERE query_id = {id:String} SYNC", parameters={"id": f"{token}:{table}"})

    def _reconcile(self, client: Client, rows: Rows) -> None:
        """Add to each roll-up the difference between it and what it is made of, for the hours of these rows.

        Counts are compared; a difference carries sums and extremes with it. Hours that retention may already have
        thinned out are left alone.
        """
        hours = rows.ts // HOUR
        if self._retention:
            oldest = time.time_ns() // 1000 - min(self._retention.values()) * DAY
            kept = hours > oldest // HOUR + 1
            hours, entity = hours[kept], rows.entity[kept]
        else:
            entity = rows.entity
        each, of_each = np.unique(hours, return_inverse=True)
        days = np.array([day_of(hour * HOUR).toordinal() for hour in each.tolist()], np.int64)[of_each]
        for ordinal in np.unique(days).tolist():
            of_day = days == ordinal
            touched = np.unique(hours[of_day])
            span = _in(touched * 3600)
            day = dt.date.fromordinal(ordinal)
            first, end = start_of(day), start_of(day + dt.timedelta(days=1))
            on_day = f"hour >= toDateTime({first // 1_000_000}, 'UTC') AND hour < toDateTime({end // 1_000_000}, 'UTC')"
            for part in _chunks(np.unique(entity[of_day])):
                who = f"entity IN ({_in(part)})"
                within = f"ts >= {_time(first)} AND ts < {_time(end)}"
                _command(client, f"""
                    INSERT INTO readings_hour (entity, property, hour, org, type, origin, count, sum, min, max)
                    SELECT entity, property, h, org, type, origin, sum(c) AS n, sum(s), min(a), max(b) FROM (
                        SELECT entity, property, toStartOfHour(ts) AS h, org, type, origin, toInt64(count()) AS c,
                            sum(value) AS s, min(value) AS a, max(value) AS b FROM readings
                        WHERE {who} AND {within} AND toUnixTimestamp(toStartOfHour(ts)) IN ({span}) AND {ROLLED}
                        GROUP BY entity, property, h, org, type, origin
                        UNION ALL
                        SELECT entity, property, hour AS h, org, type, origin, -count AS c, -sum AS s, min AS a, max AS b
                        FROM readings_hour WHERE {who} AND {on_day} AND toUnixTimestamp(hour) IN ({span})
                    ) GROUP BY entity, property, h, org, type, origin HAVING n != 0""")
                _command(client, f"""
                    INSERT INTO readings_day (entity, property, day, org, type, origin, count, sum, min, max, hours)
                    SELECT entity, property, toDate('{day}'), org, type, origin, sum(c) AS n, sum(s), min(a), max(b), groupBitOr(spoken)
                    FROM (
                        SELECT entity, property, org, type, origin, sum(h.count) AS c, sum(h.sum) AS s, min(h.min) AS a,
                            max(h.max) AS b, {HOURS_SPOKEN} AS spoken
                        FROM readings_hour AS h WHERE {who} AND {on_day} GROUP BY entity, property, org, type, origin
                        UNION ALL
                        SELECT entity, property, org, type, origin, -count AS c, -sum AS s, min AS a, max AS b, hours AS spoken
                        FROM readings_day WHERE {who} AND day = toDate('{day}')
                    ) GROUP BY entity, property, org, type, origin HAVING n != 0""")
            _command(client, f"""
                INSERT INTO area_hour (org, type, property, origin, hour, count, sum, min, max)
                SELECT org, type, property, origin, hour, sum(c) AS n, sum(s), min(a), max(b) FROM (
                    SELECT org, type, property, origin, hour, count AS c, sum AS s, min AS a, max AS b
                    FROM readings_hour WHERE {on_day} AND toUnixTimestamp(hour) IN ({span})
                    UNION ALL
                    SELECT org, type, property, origin, hour, -count AS c, -sum AS s, min AS a, max AS b
                    FROM area_hour WHERE {on_day} AND toUnixTimestamp(hour) IN ({span})
                ) GROUP BY org, type, property, origin, hour HAVING n != 0""")

    async def stored(self, entity: NDArray[np.uint64], ts: NDArray[np.int64]) -> Stored:
        order = np.lexsort((ts, entity))
        entity, ts = entity[order], ts[order]
        first = np.ones(len(ts), bool)
        first[1:] = (entity[1:] != entity[:-1]) | (ts[1:] != ts[:-1])
        entity, ts = entity[first], ts[first]
        found: list[list[Sequence[Any]]] = []
        for at in range(0, len(entity), CHUNK):
            who, when = entity[at : at + CHUNK], ts[at : at + CHUNK]
            pairs = ", ".join(f"({e}, {t})" for e, t in zip(who.tolist(), when.tolist(), strict=True))
            found.append(await self._columns(f"""
                SELECT entity, property, toUnixTimestamp64Micro(ts) AS t, value, text FROM readings
                WHERE entity IN ({_in(np.unique(who))})
                    AND ts >= {_time(int(when.min()))} AND ts <= {_time(int(when.max()))} AND (entity, t) IN ({pairs})""",
                settings={"max_query_size": 4 << 20, "max_ast_elements": 1_000_000,
                          "max_expanded_ast_elements": 1_000_000},
            ))
        joined: list[list[Any]] = [[], [], [], [], []]
        for columns in found:
            for into, column in zip(joined, columns, strict=False):
                into.extend(column)
        return Stored(
            np.array(joined[0], np.uint64), joined[1], np.array(joined[2], np.int64), np.array(joined[3], np.float64),
            joined[4],
        )

    async def stored_frames(self, entity: NDArray[np.uint64], start: int, end: int) -> pa.Table:
        def run(client: Client) -> pa.Table:
            parts = [
                client.query_arrow(f"""
                    SELECT entity, toUnixTimestamp64Micro(ts) AS t, raw, seq, frame FROM frames
                    WHERE entity IN ({_in(part)}) AND ts >= {_time(start)} AND ts < {_time(end)}""", use_strings=False)
                for part in _chunks(np.unique(entity))
            ]
            return pa.concat_tables(parts)

        return await self._read(run)

    # -- amending

    async def kept_frames(
        self, protocol: str, start: int, end: int, *, orgs: OrgFilter, entity: int | None = None,
        after: tuple[int, int, int, int] | None = None, limit: int = 1000,
    ) -> list[KeptFrame]:
        where, bound = _where(entities=None if entity is None else [entity], orgs=orgs, start=start, end=end)
        where += " AND protocol = {protocol:String}"
        if after is not None:
            no, ts, seq, frame = map(int, after)
            where += f" AND entity >= {no} AND (entity, f.ts, seq, frame) > ({no}, {_time(ts)}, {seq}, {frame})"
        table = await self._read(lambda client: client.query_arrow(
            f"""SELECT toString(org) AS org, toString(type) AS type, entity, toUnixTimestamp64Micro(f.ts) AS t, seq, frame, raw
            FROM frames AS f WHERE {where} ORDER BY entity, f.ts, seq, frame LIMIT {int(limit)}""",
            parameters={**bound, "protocol": protocol}, use_strings=False))
        return [
            KeptFrame(org.decode(), kind.decode(), *rest)
            for org, kind, *rest in zip(*(column.to_pylist() for column in table.columns), strict=True)
        ]

    async def count_frames(
        self, protocol: str, start: int, end: int, *, orgs: OrgFilter, entity: int | None = None
    ) -> int:
        where, bound = _where(entities=None if entity is None else [entity], orgs=orgs, start=start, end=end)
        columns = await self._columns(
            f"SELECT count() FROM frames AS f WHERE {where} AND protocol = {{protocol:String}}",
            {**bound, "protocol": protocol})
        return int(columns[0][0])

    async def given_by(self, frames: Sequence[tuple[int, int, int]]) -> list[Reading]:
        entities, seqs = sorted({e for e, _, _ in frames}), [seq for _, seq, _ in frames]
        if not frames:
            return []
        listed = ", ".join(str(frame) for frame in frames)
        return await self._rows_of(f"""entity IN ({_in(entities)}) AND seq >= {min(seqs)} AND seq <= {max(seqs)}
            AND (entity, seq, frame) IN ({listed})""")

    async def twins(self, frames: Sequence[tuple[int, int, int]]) -> set[tuple[int, int, int]]:
        entities, seqs = sorted({e for e, _, _ in frames}), [seq for _, seq, _ in frames]
        if not frames:
            return set()
        columns = await self._columns(f"""
            SELECT entity, seq, frame FROM frames AS f WHERE entity IN ({_in(entities)}) AND seq >= {min(seqs)}
                AND seq <= {max(seqs)} AND (entity, seq, frame) IN ({", ".join(str(frame) for frame in frames)})
            GROUP BY entity, seq, frame HAVING uniqExact(f.ts) > 1""", settings=amend.ROOM)
        return set(zip(*columns, strict=True))

    async def stored_at(self, moments: Sequence[tuple[int, int]]) -> list[Reading]:
        found: list[Reading] = []
        for at in range(0, len(moments), CHUNK):
            part = moments[at : at + CHUNK]
            times = [ts for _, ts in part]
            found += await self._rows_of(f"""entity IN ({_in(sorted({e for e, _ in part}))})
                AND r.ts >= {_time(min(times))} AND r.ts <= {_time(max(times))}
                AND (entity, toUnixTimestamp64Micro(r.ts)) IN ({", ".join(map(str, part))})""")
        return found

    async def _rows_of(self, where: str) -> list[Reading]:
        columns = await self._columns(f"""
            SELECT toString(org), toString(type), entity, toString(property), toUnixTimestamp64Micro(r.ts), value, text,
                quality, origin, seq, frame
            FROM readings AS r WHERE {where}""", settings=amend.ROOM)
        return list(itertools.starmap(Reading, zip(*columns, strict=True)))

    async def amend(self, gone: Sequence[Reading], fresh: Rows) -> None:
        def run(client: Client) -> None:
            amend.take_out(client, self._on, gone)
            if len(fresh):
                _put(client, "readings", fresh.arrow(), None)

        await self._write(run)

    async def remake(self, touched: Touched, done: Callable[[str], None] = lambda step: None) -> list[Reading]:
        def run(client: Client) -> list[Reading]:
            amend.remake(client, self._on, touched, done)
            found = list(amend.latest_of(client, touched.latest))
            self._mirror.replace(touched.latest, found)
            return found

        return await self._write(run)

    async def watermarks(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        columns = await self._columns("SELECT entity, max(toUnixTimestamp64Micro(ts)) FROM latest GROUP BY entity")
        if not columns:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        return np.array(columns[0], np.uint64), np.array(columns[1], np.int64)

    # -- reading

    async def latest(
        self, entities: Sequence[int] | None, properties: Sequence[str] | None = None, *, orgs: OrgFilter
    ) -> dict[int, dict[str, Value]]:
        if self._mirror.ready:
            return await self._in(self._read_pool, lambda: self._mirror.get(entities, properties, _orgs(orgs)))
        out: dict[int, dict[str, Value]] = {}
        for part in [None] if entities is None else _chunks(np.array(entities, np.uint64)):
            where, bound = _where(entities=part, orgs=orgs, properties=properties)
            columns = await self._columns(f"""
                SELECT entity, property, toUnixTimestamp64Micro(ts), value, text, quality, origin
                FROM latest FINAL WHERE {where}""", bound)
            if columns:
                for entity, name, ts, value, text, quality, origin in zip(*columns, strict=True):
                    reading = Value(ts, value_of(value, text, quality), quality, origin)
                    known = out.get(entity)
                    if known is None:
                        out[entity] = {name: reading}
                    else:
                        known[name] = reading
        return out

    async def series(
        self, entity: int, property: str, start: int, end: int, points: int = 500, *, orgs: OrgFilter
    ) -> Series:
        if end <= start:
            return Series("raw", [], 0)
        step = math.ceil((end - start) / max(points, 1))
        if step >= DAY:
            return await self._rolled("day", entity, property, start, end, step, orgs)
        if step >= HOUR:
            return await self._rolled("hour", entity, property, start, end, step, orgs)
        where, bound = _where(entities=[entity], properties=[property], start=start, end=end, orgs=orgs)
        columns = await self._columns(f"""
            SELECT toUnixTimestamp64Micro(min(r.ts)) AS t, avg(r.value), min(r.value), max(r.value), count()
            FROM readings AS r WHERE {where} AND {ROLLED}
            GROUP BY intDiv(toUnixTimestamp64Micro(r.ts) - {start}, {step}) ORDER BY t""", bound, SMALL)
        if columns:
            return Series("raw", list(zip(*columns[:4], strict=True)), sum(columns[4]))
        return await self._rolled("hour", entity, property, start, end, max(step, HOUR), orgs)

    async def _rolled(
        self, by: Literal["hour", "day"], entity: int, property: str, start: int, end: int, step: int, orgs: OrgFilter
    ) -> Series:
        """Hours as they are; natural days, of which the first and the last may reach beyond what was asked for."""
        unit, moment = HOUR, "r.hour"
        first = start // HOUR * HOUR
        if by == "day":
            unit, moment = DAY, f"toDateTime(r.day, '{ZONE}')"
            first = start_of(day_of(start))
        first, step = first // 1_000_000, step // unit * unit // 1_000_000
        where, bound = _where(entities=[entity], properties=[property], orgs=orgs)
        if by == "day":
            where += f" AND r.day >= toDate('{day_of(start)}') AND r.day <= toDate('{day_of(end - 1)}')"
        else:
            where += f" AND r.hour >= toDateTime({first}, 'UTC') AND r.hour < toDateTime({-(-end // 1_000_000)}, 'UTC')"
        columns = await self._columns(f"""
            SELECT min(toUnixTimestamp({moment})) AS t, sum(r.sum) / sum(r.count), min(r.min), max(r.max), sum(r.count)
            FROM readings_{by} AS r WHERE {where} GROUP BY intDiv(toUnixTimestamp({moment}) - {first}, {step}) ORDER BY t""",
            bound, SMALL)
        if not columns:
            return Series(by, [], 0)
        times = [t * 1_000_000 for t in columns[0]]
        return Series(by, list(zip(times, *columns[1:4], strict=True)), sum(columns[4]))

    async def history(
        self, entities: Sequence[int], properties: Sequence[str] | None, start: int | None, end: int | None, *,
        orgs: OrgFilter, limit: int = 1000, order: Literal["asc", "desc"] = "asc",
    ) -> dict[int, dict[str, list[Value]]]:
        out: dict[int, dict[str, list[Value]]] = {}
        for part in _chunks(np.array(entities, np.uint64)):
            where, bound = _where(entities=part, orgs=orgs, properties=properties, start=start, end=end)
            direction = "ASC" if order == "asc" else "DESC"
            columns = await self._columns(f"""
                SELECT entity, property, toUnixTimestamp64Micro(r.ts), value, text, quality, origin FROM readings AS r
                WHERE {where} ORDER BY entity {direction}, property {direction}, r.ts {direction}
                LIMIT {int(limit)} BY entity, property""", bound, SMALL if len(part) < 10 else None)
            for entity, name, ts, value, text, quality, origin in zip(*columns, strict=True):
                out.setdefault(entity, {}).setdefault(name, []).append(
                    Value(ts, value_of(value, text, quality), quality, origin)
                )
        return out

    async def observations(
        self, entity: int, property: str, start: int | None, end: int | None, *, orgs: OrgFilter,
        where: Condition | None = None, order: Literal["ts", "value"] = "ts", descending: bool = True,
        newest_first: bool = True, skip: int = 0, limit: int = 100,
    ) -> list[Value]:
        condition, bound = _where(entities=[entity], properties=[property], start=start, end=end, orgs=orgs)
        if where is not None:
            condition += f" AND {clickhouse(where, bound)}"
        way = "DESC" if descending else "ASC"
        by = f"entity {way}, property {way}, r.ts {way}"  # the table's own order, read from the end that is asked for
        if order == "value":
            by = f"isNaN(r.value), r.value {way}, r.text {way}, r.ts {'DESC' if newest_first else 'ASC'}"
        columns = await self._tested(f"""
            SELECT toUnixTimestamp64Micro(r.ts), value, text, quality, origin FROM readings AS r
            WHERE {condition} ORDER BY {by} LIMIT {int(skip)}, {int(limit)}""", bound, where is not None or order != "ts")
        return [
            Value(ts, value_of(value, text, quality), quality, origin)
            for ts, value, text, quality, origin in zip(*columns, strict=True)
        ]

    async def tally(
        self, entity: int, property: str, start: int | None, end: int | None, *, orgs: OrgFilter,
        where: Condition | None = None,
    ) -> int:
        # An entity is of one organisation, so its latest value says whose the readings are; a condition on `org` would
        # keep the engine from counting by the index.
        if not await self.latest([entity], [property], orgs=orgs):
            return 0
        condition, bound = _where(entities=[entity], properties=[property], start=start, end=end)
        if where is not None:
            condition += f" AND {clickhouse(where, bound)}"
        columns = await self._tested(
            f"SELECT count() FROM readings AS r WHERE {condition}", bound, where is not None
        )
        return int(columns[0][0])

    async def _tested(self, sql: str, bound: Mapping[str, Any], tests: bool) -> list[Sequence[Any]]:
        """As `_columns`; where readings are tested one by one, no more than `MOST_TESTED`."""
        if not tests:
            return await self._columns(sql, bound, SMALL)
        try:
            return await self._columns(sql, bound, {"max_rows_to_read": MOST_TESTED})
        except DatabaseError as error:
            if "TOO_MANY_ROWS" not in str(error):
                raise
            raise Invalid(
                f"条件须逐个检查超过 {MOST_TESTED} 个读数，请缩短时间",
                f"the condition would test more than {MOST_TESTED} readings one by one; ask for less time",
                field="$filter", rule=f"<= {MOST_TESTED} readings",
            ) from None

    async def area_hour(
        self, orgs: OrgFilter, type: str, property: str, start: int, end: int, *, origins: Sequence[int] | None = None
    ) -> list[Area]:
        where, bound = _where(orgs=orgs, type=type, properties=[property], origins=origins)
        columns = await self._columns(f"""
            SELECT org, origin, toUnixTimestamp(h.hour) AS t, sum(h.count), sum(h.sum), min(h.min), max(h.max)
            FROM area_hour AS h
            WHERE {where} AND h.hour >= toDateTime({start // HOUR * 3600}, 'UTC')
                AND h.hour < toDateTime({-(-end // 1_000_000)}, 'UTC')
            GROUP BY org, origin, h.hour HAVING sum(h.count) > 0 ORDER BY t, org, origin""", bound)
        return [
            Area(org, origin, t * 1_000_000, count, total, low, high)
            for org, origin, t, count, total, low, high in zip(*columns, strict=True)
        ]

    async def hours(
        self, entities: Sequence[int], properties: Sequence[str], start: int, end: int, *, orgs: OrgFilter, energetic: bool = False,
    ) -> Hours:
        source, moment, mean, count, low, high = (
            f"readings AS h WHERE {ROLLED}".replace("value", "h.value"), "h.ts", "10 * log10(avg(exp10(h.value / 10)))", "count()",
            "min(h.value)", "max(h.value)",
        ) if energetic else (
            f"{HOURS.name} AS h WHERE h.count > 0", "h.hour", "sum(h.sum) / sum(h.count)", "sum(h.count)", "min(h.min)", "max(h.max)",
        )
        within = (f"{moment} >= toDateTime({start // HOUR * 3600}, 'UTC') AND {moment} < toDateTime({-(-end // HOUR) * 3600}, 'UTC')")
        parts = []
        for part in _chunks(np.array(entities, np.uint64)):
            where, bound = _where(entities=part, orgs=orgs, properties=properties)
            query = f"""
                SELECT toInt64(entity) AS e, toString(property) AS p, toInt64(toUnixTimestamp(toStartOfHour({moment}))) AS t,
                    toInt64({count}) AS n, {mean} AS v, {low} AS least, {high} AS most, toInt64(max(h.origin)) AS o
                FROM {source} AND {where} AND {within} GROUP BY e, p, t"""
            parts.append(await self._read(functools.partial(Client.query_arrow, query=query, parameters=bound, use_strings=True)))
        if not parts:
            none, empty = np.empty(0, np.int64), np.empty(0, np.float64)
            return Hours(none, [], none, none, empty, empty, empty, none)
        table = pa.concat_tables(parts)
        entity, hour, count, value, low, high, origin = (table.column(name).to_numpy() for name in ("e", "t", "n", "v", "least", "most", "o"))
        return Hours(entity, table.column("p").to_pylist(), hour, count, value, low, high, origin)

    async def indicator(self, asked: Asked, statistic: str, bound: float | None, grain: Grain | None) -> list[Figure]:
        over = statistic in OVER_READINGS
        if grain == "hour" and not over:
            raise Invalid(f"{statistic} 不能按小时计算", f"{statistic} is not computed by hours", field="grain", value=grain,
                          rule="day | month | year")
        if not asked.groups:
            return []
        source, day = (f"{AREAS.name} AS d", f"toDate(d.hour, '{ZONE}')") if over else (f"{DAYS.name} AS d FINAL", "d.day")
        moment = {
            None: "0", "hour": "toUnixTimestamp(d.hour)", "day": f"toUnixTimestamp(toDateTime({day}, '{ZONE}'))",
            "month": f"toUnixTimestamp(toDateTime(toStartOfMonth({day}), '{ZONE}'))",
            "year": f"toUnixTimestamp(toDateTime(toStartOfYear({day}), '{ZONE}'))",
        }[grain]
        where, parameters = _asked(asked, over)
        numbers = {group: n for n, group in enumerate(dict.fromkeys(asked.groups.values()))}
        names, parameters["groups"] = list(numbers), [numbers[group] for group in asked.groups.values()]
        parts, whole = _statistic(statistic, bound)
        columns = await self._columns(f"""
            SELECT grouping(g) AS all_groups, grouping(t) AS all_times, g, t, {whole}, sum(n) AS behind, sum(h)
            FROM (
                SELECT transform(d.org, {{orgs:Array(String)}}, {{groups:Array(UInt16)}}, toUInt16(0)) AS g, toUInt32({moment}) AS t, {parts},
                    {"sum(d.count) AS n, 0 AS h" if over else "count() AS n, sum(bitCount(d.hours)) AS h"}
                FROM {source} WHERE {where} GROUP BY g, t HAVING n > 0
            ) GROUP BY GROUPING SETS ((g, t), (t), (g), ()) HAVING behind > 0 ORDER BY t""", parameters, MERGED)
        return [
            Figure(None if every else names[group], None if always else t * 1_000_000, value, n, None if over else hours)
            for every, always, group, t, value, n, hours in zip(*columns, strict=True) if grain is not None or always
        ]

    async def of_things(self, asked: Asked, statistic: str, bound: float | None) -> OfThings:
        where, parameters = _asked(asked, False)
        parts, whole = _statistic(statistic, bound)
        table = await self._read(lambda client: client.query_arrow(f"""
            SELECT toInt64(entity), toFloat64({whole}), toInt64(sum(n)), toInt64(sum(h)), toInt64(max(newest)), toInt64(max(bits))
            FROM (
                SELECT d.entity AS entity, {parts}, {"sum(d.count)" if statistic in OVER_READINGS else "count()"} AS n,
                    sum(bitCount(d.hours)) AS h, max(d.day) AS newest, groupBitOr(bitShiftLeft(toUInt32(1), d.origin)) AS bits
                FROM {DAYS.name} AS d FINAL WHERE {where} GROUP BY d.entity HAVING sum(d.count) > 0
            ) GROUP BY entity""", parameters=parameters, settings=MERGED))
        return OfThings(*(column.to_numpy() for column in table.columns))

    async def provenance(self, asked: Asked, *, hours: bool = True) -> Provenance:
        where, parameters = _asked(asked, False)
        counts = ", ".join(f"sum(d.count * (d.origin = {origin}))" for origin in asked.origins)
        final = " FINAL" if hours else ""  # without the hours, keys that stand twice do no harm
        columns = await self._columns(f"""
            SELECT uniqExact(d.entity), {"sum(bitCount(d.hours))" if hours else "0"}, max(d.day), {counts}
            FROM {DAYS.name} AS d{final} WHERE {where} HAVING sum(d.count) > 0""", parameters, MERGED)
        if not columns:
            return Provenance(0, 0 if hours else None, None, {})
        things, spoken, newest, *by_origin = (column[0] for column in columns)
        return Provenance(
            things, spoken if hours else None, newest,
            {origin: int(n) for origin, n in zip(asked.origins, by_origin, strict=True) if n},
        )

    async def totals(self) -> dict[str, int]:
        today = time.time_ns() // 1000
        gone = " OR ".join(
            f"(type = {quote(kind)} AND h.hour < toDateTime({(today - days * DAY) // 1_000_000}, 'UTC'))" for kind, days in self._retention.items()
        )
        where = f" WHERE NOT ({gone})" if gone else ""
        columns = await self._columns(f"SELECT toString(org), sum(h.count) FROM {AREAS.name} AS h{where} GROUP BY org")
        return {org: int(count) for org, count in zip(*columns, strict=True)}

    async def frames(
        self, entity: int, *, orgs: OrgFilter, after: tuple[int, int, int] | None = None, limit: int = 50
    ) -> list[Frame]:
        where, bound = _where(entities=[entity], orgs=orgs)
        if after is not None:
            ts, seq, frame = (int(part) for part in after)
            where += f" AND f.ts <= {_time(ts)} AND (f.ts, seq, frame) < ({_time(ts)}, {seq}, {frame})"
        table = await self._read(lambda client: client.query_arrow(
            f"""SELECT toUnixTimestamp64Micro(f.ts) AS t, toString(protocol) AS protocol, raw, dup, seq, frame
            FROM frames AS f WHERE {where} ORDER BY f.ts DESC, seq DESC, frame DESC LIMIT {int(limit)}""",
            parameters=bound, use_strings=False))
        return [
            Frame(row["t"], row["protocol"].decode(), row["raw"], bool(row["dup"]), row["seq"], row["frame"])
            for row in table.to_pylist()
        ]

    async def aggregate(
        self, methods: Sequence[str], *, orgs: OrgFilter, entities: Sequence[int] | None = None,
        type: str | None = None, properties: Sequence[str] | None = None, start: int | None = None,
        end: int | None = None, period: int | None = None, origins: Sequence[int] | None = None,
        by: Sequence[Literal["entity", "property"]] = ("entity", "property"),
    ) -> list[Aggregate]:
        for method in methods:
            if method not in METHODS:
                raise Invalid(f"没有名为 {method} 的聚合", f"there is no aggregate {method}", field="aggrMethods",
                              value=method, rule=" | ".join(METHODS))
        if period is not None and (period < 1 or start is None):
            raise Invalid("聚合周期须为正，且须有开始时间", "a period must be positive and needs a start",
                          field="aggrPeriodDuration", value=period, rule="> 0")
        where, bound = _where(entities=entities, orgs=orgs, type=type, properties=properties, start=start, end=end,
                              origins=origins)
        keys = [f"r.{name}" for name in by]
        if period is not None:
            keys.append(f"intDiv(toUnixTimestamp64Micro(r.ts) - {start}, {period})")
        chosen = ", ".join([*keys, *(METHODS[method] for method in methods)])
        grouping = f"GROUP BY {', '.join(keys)} ORDER BY {', '.join(keys)}" if keys else "HAVING count() > 0"
        columns = await self._columns(
            f"SELECT {chosen} FROM readings AS r WHERE {where} AND r.quality < 2 {grouping}", bound
        )
        out = []
        for row in zip(*columns, strict=True):
            named = dict(zip(by, row, strict=False))
            at = len(by)
            bucket = None
            if period is not None and start is not None:
                bucket, at = start + row[at] * period, at + 1
            values = {
                method: None if value is None or value != value else float(value)
                for method, value in zip(methods, row[at:], strict=True)
            }
            out.append(Aggregate(named.get("entity"), named.get("property"), bucket, values))
        return out

    async def count(
        self, *, orgs: OrgFilter, type: str | None = None, property: str | None = None, start: int | None = None,
        end: int | None = None, origins: Sequence[int] | None = None,
    ) -> int:
        where, bound = _where(orgs=orgs, type=type, properties=None if property is None else [property], start=start,
                              end=end, origins=origins)
        return int((await self._columns(f"SELECT count() FROM readings AS r WHERE {where}", bound))[0][0])

    async def sql(self, query: str, *, seconds: float = 30, max_rows: int = 10_000) -> Table:
        limits = {"max_execution_time": seconds, "max_result_rows": max_rows, "max_memory_usage": 2 << 30}

        def run() -> Table:
            # A handle of its own: what a read-only handle may do can never be widened again, also not by us.
            with self._reader(), contextlib.closing(self._connect()) as client:
                if self.embedded:
                    for name, value in {**limits, "readonly": 1}.items():
                        client.command(f"SET {name} = {value}")
                result = client.query(query.rstrip().rstrip(";"), settings={} if self.embedded else {**limits, "readonly": 1})
                return Table(list(result.column_names), list(result.result_rows))

        try:
            return await self._in(self._read_pool, run)
        except DatabaseError as error:
            raise Invalid(f"查询被拒绝：{error}", f"the query was refused: {error}", field="query",
                          value=query) from error

    # -- care

    async def rebuild(self) -> None:
        """Make `latest` and the roll-ups from the readings, for readings that were loaded inside the engine."""
        def run(client: Client) -> None:
            for table in TABLES:
                if table.view:
                    client.command(f"TRUNCATE TABLE {table.name}{self._on}")
            for table in TABLES:
                if table.view and table.view.by_insert:
                    columns = "entity, property, hour, org, type, origin, count, sum, min, max"
                    if table is LATEST:
                        columns = f"entity, property, {STATE}"
                    _command(client, f"INSERT INTO {table.name} ({columns}) {table.view.select}")

        await self._write(run)

    async def delete_entities(self, numbers: Sequence[int]) -> None:
        def run(client: Client) -> None:
            for part in _chunks(np.unique(np.array(numbers, np.uint64))):
                who = f"entity IN ({_in(part)})"
                self._leave_areas(client, who)
                for name in ("readings", "frames", LATEST.name, DAYS.name, HOURS.name):
                    client.command(f"DELETE FROM {name}{self._on} WHERE {who}")
                self._mirror.forget(part)

        if len(numbers):
            await self._write(run)

    def _leave_areas(self, client: Client, who: str) -> None:
        """Make `area_hour` anew without these entities, for all hours in which their kinds have figures of them.

        Their own hours go last: a deletion that was cut short finds the same areas again.
        """
        touched = client.query(f"""
            SELECT toString(org), toString(type), min(toUnixTimestamp(hour)), max(toUnixTimestamp(hour))
            FROM {HOURS.name} WHERE {who} GROUP BY org, type""").result_rows
        if not touched:
            return
        where = " OR ".join(
            f"(org = {quote(org)} AND type = {quote(kind)} AND hour >= toDateTime({first}, 'UTC') "
            f"AND hour <= toDateTime({last}, 'UTC'))" for org, kind, first, last in touched
        )
        client.command(f"DELETE FROM {AREAS.name}{self._on} WHERE {where}")
        _command(client, f"""
            INSERT INTO {AREAS.name} (org, type, property, origin, hour, count, sum, min, max)
            SELECT org, type, property, origin, hour, sum(h.count), sum(h.sum), min(h.min), max(h.max)
            FROM {HOURS.name} AS h WHERE NOT {who} AND ({where}) GROUP BY org, type, property, origin, hour""")

    async def disk_usage(self) -> dict[str, dict[str, int]]:
        columns = await self._columns("""
            SELECT table, sum(rows), sum(bytes_on_disk), count() FROM system.parts
            WHERE database = currentDatabase() AND active GROUP BY table ORDER BY table""")
        out = {
            table: {"rows": rows, "bytes": size, "parts": parts}
            for table, rows, size, parts in zip(*columns, strict=True)
        }
        disks = await self._columns("SELECT min(free_space), sum(total_space) FROM system.disks")
        out["free"] = {"bytes": int(disks[0][0]), "total": int(disks[1][0])}
        return out

    async def health(self) -> dict[str, Any]:
        try:
            columns = await self._columns("""
                SELECT version(), (SELECT count() FROM system.parts WHERE active AND database = currentDatabase()),
                    (SELECT count() FROM system.merges), (SELECT count() FROM system.detached_parts)""")
        except (Unavailable, ClickHouseError) as error:
            return {"ok": False, "error": str(error)}
        names = ("version", "parts", "merges", "set_aside")
        return {"ok": True, **{name: column[0] for name, column in zip(names, columns, strict=True)}}

    async def dump(self, table: str, path: Path) -> None:
        def run(client: Client) -> None:
            stream: Any = client.raw_stream(f"SELECT * FROM {table}", fmt="Parquet", settings=PARQUET)
            with contextlib.closing(stream), path.open("wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)

        await self._read(run)

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        for pool in (self._write_pool, self._read_pool):
            await asyncio.to_thread(pool.shutdown)
        while not self._clients.empty():
            self._clients.get().close()
        if self._writer is not None:
            self._writer.close()


def failed_writes(client: Client) -> int:
    """How many writes of the engine failed. chDB counts them and goes on as if they had not."""
    rows = client.query("SELECT value FROM system.events WHERE event = 'WriteBufferFromFileDescriptorWriteFailed'")
    return int(rows.result_rows[0][0]) if rows.result_rows else 0


def _set_aside(client: Client) -> set[tuple[str, str]]:
    """Table and name of the parts that an opening found not whole."""
    rows = client.query("""
        SELECT table, name FROM system.detached_parts
        WHERE database = currentDatabase() AND reason = 'broken-on-start'""").result_rows
    return {(str(table), str(name)) for table, name in rows}


def _put(client: Client, table: str, rows: pa.Table, token: str | None) -> None:
    """Insert one Arrow table as one block, under `token` or without deduplication."""
    settings: dict[str, Any] = {
        "max_insert_block_size": 1 << 24, "min_insert_block_size_rows": 1 << 24, "min_insert_block_size_bytes": 1 << 32,
        **MANY_PARTITIONS,
    }
    if token is None:
        settings |= {"insert_deduplicate": 0, "deduplicate_blocks_in_dependent_materialized_views": 0}
    else:
        settings |= {
            "insert_deduplicate": 1, "deduplicate_blocks_in_dependent_materialized_views": 1,
            "insert_deduplication_token": f"{token}:{table}",
        }
        settings["query_id"] = f"{token}:{table}"
    client.insert_arrow(table, rows, settings=settings)


def _command(client: Client, sql: str, **settings: Any) -> None:
    client.command(sql, settings={
        "insert_deduplicate": 0, "deduplicate_blocks_in_dependent_materialized_views": 0, **settings,
    })


def _where(
    *, entities: Iterable[int] | None = None, orgs: OrgFilter = None, type: str | None = None,
    properties: Sequence[str] | None = None, start: int | None = None, end: int | None = None,
    origins: Sequence[int] | None = None,
) -> tuple[str, dict[str, Any]]:
    """A WHERE clause and its bound parameters; `start` and `end` are on the column ts."""
    terms: list[str] = []
    bound: dict[str, Any] = {}
    if entities is not None:
        listed = _in(entities)
        terms.append(f"entity IN ({listed})" if "," in listed else f"entity = {listed}")
    if properties is not None:
        if len(properties) == 1:
            terms.append("property = {property:String}")
            bound["property"] = properties[0]
        else:
            terms.append("property IN {properties:Array(String)}")
            bound["properties"] = list(properties)
    if type is not None:
        terms.append("type = {type:String}")
        bound["type"] = type
    allowed = _orgs(orgs)
    if allowed is not None:
        terms.append("org IN {orgs:Array(String)}")
        bound["orgs"] = allowed
    if origins is not None:
        terms.append(f"origin IN ({_in(origins)})")
    if start is not None:
        terms.append(f"ts >= {_time(start)}")
    if end is not None:
        terms.append(f"ts < {_time(end)}")
    return " AND ".join(terms) or "1", bound


def _asked(asked: Asked, by_hour: bool) -> tuple[str, dict[str, Any]]:
    """A WHERE clause on the rows `d` of the areas' hours or of the days, and its parameters."""
    time = f"d.day >= toDate('{asked.start}') AND d.day < toDate('{asked.end}')"
    if by_hour:
        time = (f"d.hour >= toDateTime({start_of(asked.start) // 1_000_000}, 'UTC') "
                f"AND d.hour < toDateTime({start_of(asked.end) // 1_000_000}, 'UTC')")
    return (
        f"d.property = {{property:String}} AND d.type IN {{types:Array(String)}} AND {time} "
        f"AND d.org IN {{orgs:Array(String)}} AND d.origin IN ({_in(asked.origins)})",
        {"property": asked.property, "types": list(asked.types), "orgs": list(asked.groups)},
    )


def _statistic(name: str, bound: float | None) -> tuple[str, str]:
    parts, whole = (half.format(bound=None if bound is None else repr(float(bound))) for half in STATISTICS[name])
    return parts, whole


def _orgs(orgs: OrgFilter) -> list[str] | None:
    if isinstance(orgs, Orgs):
        return None if orgs.all else sorted(orgs.ids)
    return None if orgs is None else sorted(orgs)


def _in(numbers: Iterable[int]) -> str:
    listed = numbers.tolist() if isinstance(numbers, np.ndarray) else [int(n) for n in numbers]
    return ", ".join(map(str, listed)) or "NULL"


def _chunks(numbers: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for at in range(0, len(numbers), CHUNK):
        yield numbers[at : at + CHUNK]


def _time(ts: int) -> str:
    return f"fromUnixTimestamp64Micro(toInt64({int(ts)}), 'UTC')"


def _digest(rules: Mapping[str, int]) -> str:
    if not rules:
        return ""
    text = ",".join(f"{kind}={days}" for kind, days in sorted(rules.items()))
    return "retention " + hashlib.sha256(text.encode()).hexdigest()[:16]
