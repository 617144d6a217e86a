"""Amending what is stored: readings taken out and put in, and the roll-ups and latest values made to follow.

Law: only who is the one writer may call these (see `access.writer.Gate`). Each step can be repeated and makes its table
from the one before it, never from itself, so steps that were cut short are completed by doing all of them again. Between
two steps a roll-up's hours may be missing for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tulou.kernel.readings.days import day_of
from tulou.kernel.readings.schema import AREAS, DAY_OF_HOUR, DAYS, HOURS, LATEST, STATE, quote

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

AT_ONCE = 50_000
"""Readings, or pairs, that one statement names."""
ROOM = {"max_query_size": 16 << 20, "max_ast_elements": 2_000_000, "max_expanded_ast_elements": 2_000_000}


class Reading(NamedTuple):
    """A row of `readings`; `value` is NaN for text. `seq` and `frame` say which stored frame gave it."""

    org: str
    type: str
    entity: int
    property: str
    ts: int
    value: float
    text: str
    quality: int
    origin: int
    seq: int
    frame: int


def identity(reading: Reading) -> tuple[int, str, int]:
    """What makes it the same reading (docs/decisions/0002-identity-of-a-reading.md)."""
    return reading[2:5]


def content(reading: Reading) -> tuple[Any, ...]:
    """What it says; comparable, not-a-number too."""
    number = None if reading.value != reading.value else reading.value
    return number, reading.text, reading.quality, reading.origin, reading.org, reading.type


@dataclass(slots=True)
class Touched:
    """What must be made anew after an amendment: hours (since the epoch) of entities, the areas of (org, type), and
    latest values of (entity, property)."""

    entities: list[int]
    hours: list[int]
    classes: list[tuple[str, str]]
    latest: list[tuple[int, str]]


def take_out(client: Client, on: str, gone: Sequence[Reading]) -> None:
    """Remove these readings, by their identities; as texts, which ClickHouse reads five times as fast as tuples."""
    for part in _parts(gone):
        listed = ", ".join(quote(f"{r.entity} {r.ts} {r.property}") for r in part)
        who = ", ".join(map(str, sorted({r.entity for r in part})))
        first, last = min(r.ts for r in part), max(r.ts for r in part)
        _do(client, f"""
            DELETE FROM readings{on} WHERE entity IN ({who}) AND ts >= {_time(first)} AND ts <= {_time(last)}
                AND concat(toString(entity), ' ', toString(toUnixTimestamp64Micro(ts)), ' ', property) IN ({listed})""")


def remake(client: Client, on: str, touched: Touched, done: Callable[[str], None]) -> None:
    """Make hours, days, areas and latest values of what was touched from the readings; `done` is told each step."""
    hours = ", ".join(str(hour * 3600) for hour in touched.hours)
    dates = ", ".join(f"toDate('{day}')" for day in sorted({day_of(hour * 3_600_000_000) for hour in touched.hours}))
    if touched.hours:
        at = f"hour IN ({_moments(touched.hours)})"
        for part in _parts(touched.entities):
            who = f"entity IN ({', '.join(map(str, part))})"
            _do(client, f"DELETE FROM {HOURS.name}{on} WHERE {who} AND {at}")
            assert HOURS.view is not None
            select = HOURS.view.select.replace(
                " GROUP BY", f" AND {who} AND r.ts >= {_time(min(touched.hours) * 3_600_000_000)} "
                f"AND r.ts < {_time((max(touched.hours) + 1) * 3_600_000_000)} "
                f"AND toUnixTimestamp(toStartOfHour(r.ts)) IN ({hours}) GROUP BY")
            _do(client, f"INSERT INTO {HOURS.name} (entity, property, hour, org, type, origin, count, sum, min, max) {select}")
        done("hours")
        for part in _parts(touched.entities):
            who = f"entity IN ({', '.join(map(str, part))})"
            _do(client, f"DELETE FROM {DAYS.name}{on} WHERE {who} AND day IN ({dates})")
            assert DAYS.view is not None
            select = DAYS.view.select.replace(" GROUP BY", f" WHERE {who} AND {DAY_OF_HOUR} IN ({dates}) GROUP BY")
            _do(client, f"INSERT INTO {DAYS.name} (entity, property, day, org, type, origin, count, sum, min, max, hours) {select}")
        done("days")
        for org, kind in touched.classes:
            of = f"org = {quote(org)} AND type = {quote(kind)} AND {at}"
            _do(client, f"DELETE FROM {AREAS.name}{on} WHERE {of}")
            _do(client, f"""
                INSERT INTO {AREAS.name} (org, type, property, origin, hour, count, sum, min, max)
                SELECT org, type, property, origin, hour, sum(h.count), sum(h.sum), min(h.min), max(h.max)
                FROM {HOURS.name} AS h WHERE {of} GROUP BY org, type, property, origin, hour""")
        done("areas")
    for pairs in _parts(touched.latest):
        _do(client, f"DELETE FROM {LATEST.name}{on} WHERE {_of_pairs(pairs)}")
        assert LATEST.view is not None
        select = LATEST.view.select.replace(" GROUP BY", f" WHERE {_of_pairs(pairs)} GROUP BY")
        _do(client, f"INSERT INTO {LATEST.name} (entity, property, {STATE}) {select}")
    done("latest")


def latest_of(client: Client, pairs: Sequence[tuple[int, str]]) -> Iterator[Reading]:
    """The rows of `latest` of these (entity, property)."""
    for part in _parts(pairs):
        for row in client.query(f"""
            SELECT toString(org), toString(type), entity, toString(property), toUnixTimestamp64Micro(l.ts), value, text,
                quality, origin
            FROM {LATEST.name} AS l FINAL WHERE {_of_pairs(part)}""", settings=ROOM).result_rows:
            yield Reading._make([*row, 0, 0])


def _of_pairs(pairs: Iterable[tuple[int, str]]) -> str:
    listed = ", ".join(quote(f"{entity} {name}") for entity, name in pairs)
    who = ", ".join(map(str, sorted({entity for entity, _ in pairs})))
    return f"entity IN ({who}) AND concat(toString(entity), ' ', property) IN ({listed})"


def _moments(hours: Iterable[int]) -> str:
    return ", ".join(f"toDateTime({hour * 3600}, 'UTC')" for hour in hours)


def _time(ts: int) -> str:
    return f"fromUnixTimestamp64Micro(toInt64({int(ts)}), 'UTC')"


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for at in range(0, len(items), AT_ONCE):
        yield items[at : at + AT_ONCE]


def _do(client: Client, sql: str) -> None:
    client.command(sql, settings={
        "insert_deduplicate": 0, "deduplicate_blocks_in_dependent_materialized_views": 0, **ROOM,
    })
