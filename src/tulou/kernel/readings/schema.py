"""The readings store as definitions: tables, columns, order, partitions, views and retention.

Law: the ClickHouse DDL is generated from these definitions and nothing else, for one engine in the process (chDB) and
for a cluster. Every table keeps a deduplication window, so an insert with a token that it has seen adds nothing; every
part is synced, of an insert before it returns; and what a merge has replaced stays until its successor is known whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tulou.kernel.readings.days import ZONE

DEDUPLICATION_WINDOW = 10_000
"""Insert tokens that each table remembers."""

OLD_PARTS_S = 120
"""Seconds that parts stay after a merge has replaced them (docs/decisions/0010-a-disk-that-refuses.md)."""

TEXT = "LowCardinality(String)"
TIME = "DateTime64(6, 'UTC')"
HOUR = "DateTime('UTC')"
ROLLED = "isFinite(value) AND quality < 2"
"""Which readings enter the roll-ups: numbers that are not bad."""


@dataclass(frozen=True)
class Column:
    """A column: its ClickHouse type and its codecs. Codecs were chosen by measuring; see docs/benchmarks.md."""

    name: str
    type: str
    codec: str = "ZSTD(1)"

    def ddl(self) -> str:
        return f"{self.name} {self.type} CODEC({self.codec})"


@dataclass(frozen=True)
class View:
    """What a table is made of: `select` over `source`, which keeps it as a materialised view.

    With `by_insert` there is no such view: whoever inserts into `source` inserts the same rows here, made from the
    columns he holds (docs/decisions/0005-roll-ups-by-the-writer.md); the select is then the definition that repairs
    and rebuilds follow.
    """

    source: str
    select: str
    by_insert: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the MergeTree family. `expires` is the time column that retention counts from."""

    name: str
    columns: tuple[Column, ...]
    order: tuple[str, ...]
    engine: str = "MergeTree"
    arguments: str = ""
    partition: str = ""
    view: View | None = None
    expires: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


_CLASS = (Column("org", TEXT), Column("type", TEXT))
_SUMS = (
    Column("count", "SimpleAggregateFunction(sum, Int64)"),
    Column("sum", "SimpleAggregateFunction(sum, Float64)"),
    Column("min", "SimpleAggregateFunction(min, Float64)"),
    Column("max", "SimpleAggregateFunction(max, Float64)"),
)
_FOLD = "sum(h.count) AS count, sum(h.sum) AS sum, min(h.min) AS min, max(h.max) AS max"
STATE = "org, type, ts, value, text, quality, origin"

READINGS = Table(
    "readings",
    (
        *_CLASS,
        Column("entity", "UInt64", "Delta, ZSTD(1)"),
        Column("property", TEXT),
        Column("ts", TIME, "Delta, ZSTD(1)"),
        Column("value", "Float64"),
        Column("text", "String"),
        Column("quality", "UInt8"),
        Column("origin", "UInt8"),
        Column("seq", "UInt64", "Delta, ZSTD(1)"),
        Column("frame", "UInt32"),
    ),
    order=("entity", "property", "ts"),
    partition="toYYYYMM(ts)",
    expires="ts",
)

FRAMES = Table(
    "frames",
    (
        *_CLASS,
        Column("entity", "UInt64", "Delta, ZSTD(1)"),
        Column("ts", TIME, "Delta, ZSTD(1)"),
        Column("protocol", TEXT),
        Column("raw", "String"),
        Column("dup", "UInt8"),
        Column("seq", "UInt64", "Delta, ZSTD(1)"),
        Column("frame", "UInt32"),
    ),
    order=("entity", "ts", "seq", "frame"),
    partition="toYYYYMM(ts)",
    expires="ts",
)

LATEST = Table(
    "latest",
    (
        Column("entity", "UInt64", "Delta, ZSTD(1)"),
        Column("property", TEXT),
        *_CLASS,
        Column("ts", TIME),
        Column("value", "Float64"),
        Column("text", "String"),
        Column("quality", "UInt8"),
        Column("origin", "UInt8"),
    ),
    order=("entity", "property"),
    engine="ReplacingMergeTree",
    arguments="ts",
    settings={"index_granularity": "256"},
    view=View(
        "readings",
        "SELECT entity, property, "
        + ", ".join(f"s.{i} AS {name}" for i, name in enumerate(STATE.split(", "), 1))
        + " FROM (SELECT entity, property, argMax(("
        + ", ".join(f"r.{name}" for name in STATE.split(", "))
        + "), r.ts) AS s FROM readings AS r GROUP BY entity, property)",
        by_insert=True,
    ),
)

HOURS = Table(
    "readings_hour",
    (
        Column("entity", "UInt64", "Delta, ZSTD(1)"),
        Column("property", TEXT),
        Column("hour", HOUR, "Delta, ZSTD(1)"),
        *_CLASS,
        Column("origin", "UInt8"),
        *_SUMS,
    ),
    order=("entity", "property", "hour", "org", "type", "origin"),
    engine="AggregatingMergeTree",
    partition="toYYYYMM(hour)",
    view=View(
        "readings",
        "SELECT entity, property, toStartOfHour(r.ts) AS hour, org, type, origin, toInt64(count()) AS count, "
        "sum(r.value) AS sum, min(r.value) AS min, max(r.value) AS max "
        f"FROM readings AS r WHERE {ROLLED} GROUP BY entity, property, hour, org, type, origin",
        by_insert=True,
    ),
)

DAY_OF_HOUR = f"toDate(h.hour, '{ZONE}')"
"""The natural day of a row `h` of `readings_hour`."""
HOURS_SPOKEN = f"groupBitOr(bitShiftLeft(toUInt32(1), toHour(h.hour, '{ZONE}')))"
"""Which hours of that day have numbers: bit 0 is the hour after midnight. Hours that come twice are counted once."""

DAYS = Table(
    "readings_day",
    (
        Column("entity", "UInt64", "Delta, ZSTD(1)"),
        Column("property", TEXT),
        Column("day", "Date"),
        *_CLASS,
        Column("origin", "UInt8"),
        *(Column(column.name, column.type, "LZ4") for column in _SUMS),
        Column("hours", "SimpleAggregateFunction(groupBitOr, UInt32)"),
    ),
    order=("property", "entity", "day", "org", "type", "origin"),
    engine="AggregatingMergeTree",
    partition="toYYYYMM(day)",
    settings={"min_age_to_force_merge_seconds": "86400", "min_age_to_force_merge_on_partition_only": "1"},
    view=View(
        "readings_hour",
        f"SELECT entity, property, {DAY_OF_HOUR} AS day, org, type, origin, {_FOLD}, {HOURS_SPOKEN} AS hours "
        "FROM readings_hour AS h GROUP BY entity, property, day, org, type, origin",
    ),
)
"""Days are natural days of Asia/Shanghai, ordered by property first: an indicator reads one property of all things of a
kind. A month that rests becomes one part, in which every key stands once (docs/decisions/0017-indicators.md)."""

AREAS = Table(
    "area_hour",
    (*_CLASS, Column("property", TEXT), Column("origin", "UInt8"), Column("hour", HOUR), *_SUMS),
    order=("type", "property", "hour", "org", "origin"),
    engine="AggregatingMergeTree",
    partition="toYear(hour)",
    view=View(
        "readings_hour",
        f"SELECT org, type, property, origin, h.hour AS hour, {_FOLD} FROM readings_hour AS h "
        "GROUP BY org, type, property, origin, hour",
    ),
)

TABLES = (READINGS, FRAMES, LATEST, HOURS, DAYS, AREAS)


def ddl(cluster: str = "") -> Iterator[str]:
    """Statements that create what is missing, tables before the views that feed them.

    `cluster` names a ClickHouse cluster of one shard and many replicas: the engines become Replicated*, whose
    deduplication window is replicated too. Without it the engines are those of a single server or chDB.
    """
    on = f" ON CLUSTER '{cluster}'" if cluster else ""
    for table in TABLES:
        yield table_ddl(table, cluster=cluster)
    for table in TABLES:
        if table.view and not table.view.by_insert:
            yield (
                f"CREATE MATERIALIZED VIEW IF NOT EXISTS {table.name}_view{on} TO {table.name} AS {table.view.select}"
            )


def table_ddl(table: Table, name: str = "", cluster: str = "") -> str:
    """The statement that creates a table, under another `name` if given."""
    on = f" ON CLUSTER '{cluster}'" if cluster else ""
    arguments = table.arguments
    engine = table.engine
    if cluster:
        engine = f"Replicated{engine}"
        path = f"'/clickhouse/tables/{{database}}/{table.name}', '{{replica}}'"
        arguments = f"{path}, {arguments}" if arguments else path
    columns = ", ".join(column.ddl() for column in table.columns)
    partition = f" PARTITION BY {table.partition}" if table.partition else ""
    chosen = ", ".join(f"{key} = {value}" for key, value in settings_of(table, cluster).items())
    return (
        f"CREATE TABLE IF NOT EXISTS {name or table.name}{on} ({columns}) ENGINE = {engine}({arguments})"
        f"{partition} ORDER BY ({', '.join(table.order)}) SETTINGS {chosen}"
    )


def settings_of(table: Table, cluster: str = "") -> dict[str, str]:
    """The MergeTree settings of a table."""
    settings = {
        "fsync_after_insert": "1", "fsync_part_directory": "1", "min_rows_to_fsync_after_merge": "1",
        "old_parts_lifetime": str(OLD_PARTS_S), **table.settings,
    }
    if cluster:
        settings["replicated_deduplication_window"] = str(DEDUPLICATION_WINDOW)
        settings["replicated_deduplication_window_seconds"] = str(30 * 86400)
    else:
        settings["non_replicated_deduplication_window"] = str(DEDUPLICATION_WINDOW)
    return settings


def ttl(rules: Mapping[str, int], cluster: str = "") -> Iterator[tuple[Table, str]]:
    """Per table with raw data, the statement that makes rows of a type expire after its days; `{}` removes expiry.

    Roll-ups are kept: they are what remains of expired readings.
    """
    on = f" ON CLUSTER '{cluster}'" if cluster else ""
    for table in TABLES:
        if not table.expires:
            continue
        if rules:
            terms = ", ".join(
                f"toDateTime({table.expires}) + toIntervalDay({int(days)}) DELETE WHERE type = {quote(kind)}"
                for kind, days in sorted(rules.items())
            )
            yield table, f"ALTER TABLE {table.name}{on} MODIFY TTL {terms}"
        else:
            yield table, f"ALTER TABLE {table.name}{on} REMOVE TTL"


def quote(text: str) -> str:
    """A ClickHouse string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
