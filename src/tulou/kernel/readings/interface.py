"""The interface of the readings store, which every engine fulfils and one test-suite checks.

Law: times are integer µs since the epoch, UTC, ranges are `start <= ts < end`. `orgs` names the organisations whose
rows may come back (a `policy.Orgs` or ids); `None` means the whole house.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tulou.kernel.policy import Orgs
from tulou.kernel.readings.amend import Reading, Touched
from tulou.kernel.readings.conditions import Condition
from tulou.kernel.readings.rows import Frames, Rows

OrgFilter = Orgs | Collection[str] | None

METHODS: Mapping[str, str] = {
    "totalCount": "toFloat64(count())",
    "distinctCount": "toFloat64(uniqExact(r.value, r.text))",
    "sum": "sumOrNullIf(r.value, isFinite(r.value))",
    "avg": "avgOrNullIf(r.value, isFinite(r.value))",
    "min": "minOrNullIf(r.value, isFinite(r.value))",
    "max": "maxOrNullIf(r.value, isFinite(r.value))",
    "stddev": "stddevPopOrNullIf(r.value, isFinite(r.value))",
    "sumsq": "sumOrNullIf(r.value * r.value, isFinite(r.value))",
    "entities": "toFloat64(uniqExact(r.entity))",
    "last": "argMaxOrNullIf(r.value, r.ts, isFinite(r.value))",
}
"""Aggregates by name: those of NGSI-LD (ETSI GS CIM 009, 4.5.19), `entities` (how many) and `last`."""


STATISTICS: Mapping[str, tuple[str, str]] = {
    "mean": ("sum(d.sum) AS a, sum(d.count) AS b", "sum(a) / sum(b)"),
    "min": ("min(d.min) AS a", "min(a)"),
    "max": ("max(d.max) AS a", "max(a)"),
    "sum": ("sum(d.sum) AS a", "sum(a)"),
    "count": ("sum(d.count) AS a", "toFloat64(sum(a))"),
    "above": ("countIf(d.sum / d.count > {bound}) AS a, count() AS b", "sum(a) / sum(b)"),
    "below": ("countIf(d.sum / d.count < {bound}) AS a, count() AS b", "sum(a) / sum(b)"),
    "percentile": (
        "quantileExactInclusiveState({bound} / 100)(d.sum / d.count) AS a", "quantileExactInclusiveMerge({bound} / 100)(a)",
    ),
    "hours": ("sum(bitCount(d.hours)) AS a", "toFloat64(sum(a))"),
}
"""What `indicator` and `of_things` compute: of rows `d` of a roll-up, and of what was made of parts of them. The first five are
over readings, so each reading weighs the same. `above` and `below` are shares, and `percentile` is, of the means of things' natural
days: percentiles as HJ 663-2013 has them (linear between neighbours). `hours` counts hours of things that have numbers."""

OVER_READINGS = frozenset({"mean", "min", "max", "sum", "count"})
"""Those of `STATISTICS` that need no look at single things."""

Grain = Literal["hour", "day", "month", "year"]


MOST_TESTED = 10_000_000
"""Readings that one query tests one by one."""


class Value(NamedTuple):
    """A reading of a known entity and property; a text value is a str, None a number that was said to be invalid."""

    ts: int
    value: float | str | None
    quality: int
    origin: int


def value_of(value: float, text: str, quality: int) -> float | str | None:
    """The value of a row: not-a-number stands for a text, and in a bad reading without one for no value."""
    if value == value:
        return value
    return None if quality == 2 and not text else text


class Frame(NamedTuple):
    """A raw device message."""

    ts: int
    protocol: str
    raw: bytes
    dup: bool
    seq: int
    frame: int


class KeptFrame(NamedTuple):
    """A raw device message as it is read again; `entity`, `ts`, `seq`, `frame` is the order of the table."""

    org: str
    type: str
    entity: int
    ts: int
    seq: int
    frame: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class Area:
    """An hour of a property over the things of a type in an organisation."""

    org: str
    origin: int
    hour: int
    count: int
    sum: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours of things, as columns, without order: `hour` is its first moment in s since the epoch, `value` the mean of the `count`
    numbers that are not bad, `low` and `high` their range, `origin` the greatest of their origins."""

    entity: NDArray[np.int64]
    property: list[str]
    hour: NDArray[np.int64]
    count: NDArray[np.int64]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    origin: NDArray[np.int64]


class Aggregate(NamedTuple):
    """Aggregates of a bucket: `start` in µs (None without `period`), `values` by name, None where undefined."""

    entity: int | None
    property: str | None
    start: int | None
    values: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """A statistic of a group (None: of all groups together) in the grain that begins at `start` µs (None: in the whole
    range), and how many readings, or natural days of things, are behind it; where it is of days also how many hours of things
    have numbers."""

    group: str | None
    start: int | None
    value: float
    count: int
    hours: int | None


@dataclass(frozen=True, slots=True)
class OfThings:
    """A statistic of single things, as columns; `count` is as in `Figure`, `hours` are those with numbers, `newest` is the last natural
    day with some (days since the epoch), `origins` has the bit 1 << origin of each origin."""

    entity: NDArray[np.int64]
    value: NDArray[np.float64]
    count: NDArray[np.int64]
    hours: NDArray[np.int64]
    newest: NDArray[np.int64]
    origins: NDArray[np.int64]


class Provenance(NamedTuple):
    """What is behind a statistic: things with numbers, hours of things with numbers (None: not counted), the last natural
    day with some, and numbers by origin."""

    things: int
    hours: int | None
    newest: dt.date | None
    origins: dict[int, int]


@dataclass(frozen=True, slots=True)
class Asked:
    """Numbers of a property of things of some types in [start, end) natural days, of these origins and of organisations by
    the group that each belongs to."""

    groups: Mapping[str, str]
    types: Sequence[str]
    property: str
    start: dt.date
    end: dt.date
    origins: Sequence[int]


@dataclass(frozen=True, slots=True)
class Series:
    """Points of a property: (µs, average, minimum, maximum), ascending; `count` is the readings behind them."""

    resolution: Literal["raw", "hour", "day"]
    points: list[tuple[int, float, float, float]]
    count: int


@dataclass(frozen=True, slots=True)
class Table:
    """The answer to a free query."""

    columns: list[str]
    rows: list[Sequence[Any]]


@dataclass(slots=True)
class Stored:
    """Identities and values found in the store, as columns."""

    entity: NDArray[np.uint64]
    property: list[str]
    ts: NDArray[np.int64]
    value: NDArray[np.float64]
    text: list[str]


class Readings(Protocol):
    """A readings store. Raises `Unavailable` when the engine cannot be reached."""

    async def ensure_schema(self, retention: Mapping[str, int]) -> None:
        """Create what is missing and apply retention."""
        ...

    async def apply_retention(self, rules: Mapping[str, int]) -> None:
        """Let raw readings and frames of a type expire after its days; types not named are kept for ever."""
        ...

    async def insert(self, rows: Rows, frames: Frames, token: str) -> Rows:
        """Store a group (rows in `Rows.order`) in one block per table under deduplication tokens; returns when it is
        on disk, with the newest row of each (entity, property).

        The token is of the group: the same token with the same group adds nothing. When this raises, it is not
        known what was stored: call `recover`.
        """
        ...

    async def recover(self, rows: Rows, missing: Rows, missing_frames: Frames, token: str) -> Rows:
        """Finish a group of which it is unknown what was stored: end what still runs under `token`, store what is
        missing, then make roll-ups and latest values agree with the group's `rows`. Returns the newest row of each
        (entity, property) of `rows`. May itself be repeated."""
        ...

    async def stored(self, entity: NDArray[np.uint64], ts: NDArray[np.int64]) -> Stored:
        """Readings stored for any of these (entity, ts)."""
        ...

    async def stored_frames(self, entity: NDArray[np.uint64], start: int, end: int) -> pa.Table:
        """Frames of these entities received in the range: columns entity, ts, raw, seq, frame."""
        ...

    async def kept_frames(
        self, protocol: str, start: int, end: int, *, orgs: OrgFilter, entity: int | None = None,
        after: tuple[int, int, int, int] | None = None, limit: int = 1000,
    ) -> list[KeptFrame]:
        """Frames of a protocol received in the range, in the order of (entity, ts, seq, frame), from `after` on."""
        ...

    async def count_frames(
        self, protocol: str, start: int, end: int, *, orgs: OrgFilter, entity: int | None = None
    ) -> int:
        """How many frames `kept_frames` would give."""
        ...

    async def given_by(self, frames: Sequence[tuple[int, int, int]]) -> list[Reading]:
        """The stored readings that came in these (entity, seq, frame)."""
        ...

    async def twins(self, frames: Sequence[tuple[int, int, int]]) -> set[tuple[int, int, int]]:
        """Which of these (entity, seq, frame) are of two stored frames: the stream was made anew, and its numbers with it."""
        ...

    async def stored_at(self, moments: Sequence[tuple[int, int]]) -> list[Reading]:
        """The stored readings of any of these (entity, ts)."""
        ...

    async def amend(self, gone: Sequence[Reading], fresh: Rows) -> None:
        """Take readings out and put others in; only for the one writer. What is made of readings does not follow: call
        `remake`. When this raises, it is not known what was done: find out what is still to do, and do it again."""
        ...

    async def remake(self, touched: Touched, done: Callable[[str], None] = lambda step: None) -> list[Reading]:
        """Make roll-ups and latest values of what an amendment touched from the readings, and return those latest values
        (one is missing where no reading is left). May be repeated; `done` is told after each table."""
        ...

    async def watermarks(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Every entity and the time of its newest reading."""
        ...

    async def latest(
        self, entities: Sequence[int] | None, properties: Sequence[str] | None = None, *, orgs: OrgFilter
    ) -> dict[int, dict[str, Value]]:
        """The newest reading of each property; `entities` None means all of `orgs`."""
        ...

    async def series(
        self, entity: int, property: str, start: int, end: int, points: int = 500, *, orgs: OrgFilter
    ) -> Series:
        """At most about `points` points of a numeric property, of whichever resolution gives them."""
        ...

    async def history(
        self, entities: Sequence[int], properties: Sequence[str] | None, start: int | None, end: int | None, *,
        orgs: OrgFilter, limit: int = 1000, order: Literal["asc", "desc"] = "asc",
    ) -> dict[int, dict[str, list[Value]]]:
        """Readings of each (entity, property), at most `limit` of each, in the order asked for."""
        ...

    async def observations(
        self, entity: int, property: str, start: int | None, end: int | None, *, orgs: OrgFilter,
        where: Condition | None = None, order: Literal["ts", "value"] = "ts", descending: bool = True,
        newest_first: bool = True, skip: int = 0, limit: int = 100,
    ) -> list[Value]:
        """Readings of one property in order; `newest_first` is about equal values. By time and without `where` only what
        is answered is read; otherwise at most `MOST_TESTED` are looked at. Raises `Invalid` for more: ask for less time."""
        ...

    async def tally(
        self, entity: int, property: str, start: int | None, end: int | None, *, orgs: OrgFilter,
        where: Condition | None = None,
    ) -> int:
        """How many readings of one property: by the index; with `where` as `observations`."""
        ...

    async def area_hour(
        self, orgs: OrgFilter, type: str, property: str, start: int, end: int, *, origins: Sequence[int] | None = None
    ) -> list[Area]:
        """Hourly figures over all things of a type, by organisation and origin."""
        ...

    async def hours(
        self, entities: Sequence[int], properties: Sequence[str], start: int, end: int, *, orgs: OrgFilter, energetic: bool = False,
    ) -> Hours:
        """The hours of things in [start, end), whole hours, from the roll-ups. `energetic`: the mean of levels in dB is that of
        their energies, 10 lg(mean of 10^(L/10)); roll-ups have none, so then the readings are read."""
        ...

    async def indicator(self, asked: Asked, statistic: str, bound: float | None, grain: Grain | None) -> list[Figure]:
        """A statistic (`STATISTICS`) from the roll-ups: of each group and of all together, in each grain and in the whole
        range; without `grain` in the whole range alone. By hours only what is `OVER_READINGS`."""
        ...

    async def of_things(self, asked: Asked, statistic: str, bound: float | None) -> OfThings:
        """A statistic of each thing in the whole range, from the natural days."""
        ...

    async def provenance(self, asked: Asked, *, hours: bool = True) -> Provenance:
        """What is behind the statistics of these numbers. Hours cost twice the rest; `indicator` says them of days, too."""
        ...

    async def totals(self) -> dict[str, int]:
        """Readings by organisation, from the coarsest roll-up: numbers that are not bad, and that retention has not let expire."""
        ...

    async def frames(
        self, entity: int, *, orgs: OrgFilter, after: tuple[int, int, int] | None = None, limit: int = 50
    ) -> list[Frame]:
        """Raw frames, newest first; `after` is the (ts, seq, frame) of the last one seen."""
        ...

    async def aggregate(
        self, methods: Sequence[str], *, orgs: OrgFilter, entities: Sequence[int] | None = None,
        type: str | None = None, properties: Sequence[str] | None = None, start: int | None = None,
        end: int | None = None, period: int | None = None, origins: Sequence[int] | None = None,
        by: Sequence[Literal["entity", "property"]] = ("entity", "property"),
    ) -> list[Aggregate]:
        """Aggregates named in `METHODS` over readings that are not bad, per `period` µs counted from `start`.

        Raises `Invalid` for a method that does not exist.
        """
        ...

    async def count(
        self, *, orgs: OrgFilter, type: str | None = None, property: str | None = None, start: int | None = None,
        end: int | None = None, origins: Sequence[int] | None = None,
    ) -> int:
        """How many readings."""
        ...

    async def sql(self, query: str, *, seconds: float = 30, max_rows: int = 10_000) -> Table:
        """A read-only query of the whole house, bounded in time and rows. Raises `Invalid` when it is refused."""
        ...

    async def delete_entities(self, numbers: Sequence[int]) -> None:
        """Remove the readings, frames, latest values and roll-ups of entities, and their part in the areas' hours.

        Can be done again: one that was cut short is completed. Their space on disk is freed when parts are merged.
        """
        ...

    async def dump(self, table: str, path: Path) -> None:
        """Write a whole table of the store (`schema.TABLES`) to a Parquet file."""
        ...

    async def disk_usage(self) -> dict[str, dict[str, int]]:
        """Rows and bytes by table, and under `free` the bytes free on its disk."""
        ...

    async def health(self) -> dict[str, Any]:
        """`ok`, the engine's version, parts, merges under way, parts that were not whole and are set aside; never raises."""
        ...

    async def close(self) -> None:
        """Close the store; calls under way finish first."""
        ...
