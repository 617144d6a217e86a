"""What the house measures, for the definitions of targets: the latest readings of what stands in the directory.

Law: only origin 0 (measured) counts, never a bad reading, never one from the future, and only of things that are
registered now and are not synthetic. Sums are made in decimals, so the order of adding cannot change the result.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tulou.access import Directory
from tulou.kernel.errors import Unavailable
from tulou.kernel.readings.schema import quote
from tulou.plan.projects.service import finished
from tulou.plan.queries import EVERY, Condition, Count, Selection, Sum, Tally

if TYPE_CHECKING:
    from tulou.kernel.house import House

MEASURED = 0
"""`origin` of a measured reading (docs/architecture.md)."""
BAD = 2
"""`quality` of a bad reading."""
SPAN = 100_000
"""Entity numbers asked for at once: keeps memory and each pause of the event loop small."""
SECONDS = 60


class Part(NamedTuple):
    """Things of a span that spoke: `fits` says whether the conditions hold, `newest` is in µs since the epoch;
    `part` is the number to add (None: none) or the value to tell apart (None: none), by the kind of selection."""

    entity: NDArray[np.int64]
    fits: NDArray[np.bool_]
    newest: NDArray[np.int64]
    part: Sequence[Any]


class MeasuredFacts:
    """`queries.Facts` over the readings store and the directory of this process."""

    def __init__(self, house: House) -> None:
        self.house = house

    async def tally(self, selection: Selection, at: dt.datetime) -> Tally:
        """See `queries.Facts`. Raises `Unavailable` in a process without readings store and directory."""
        if not hasattr(self.house, "readings") or not self.house.has_service(Directory):
            raise Unavailable("本进程没有读数库", "this process has no readings store", field="readings")
        directory = self.house.service(Directory)
        real = self._real(directory, selection)
        if not len(real):
            return Tally(0, 0, None, None)
        reported, newest, parts = 0, 0, []
        for start in range(int(real[0]), int(real[-1]) + 1, SPAN):
            own = real[np.searchsorted(real, start) : np.searchsorted(real, start + SPAN)]
            if not len(own):
                continue
            span = await self._span(selection, at, start)
            registered = np.isin(span.entity, own, assume_unique=True)
            counts = registered & span.fits
            reported += int(registered.sum())
            newest = max(newest, int(span.newest[counts].max(initial=0)))
            parts += [span.part[row] for row in np.flatnonzero(counts).tolist()]
        return Tally(len(real), reported, _value(selection, parts) if reported else None, _time(newest))

    async def finished(self, target: str) -> Tally:
        """See `queries.Facts`."""
        return await self.house.db.read(lambda c: finished(c, target))

    @staticmethod
    def _real(directory: Directory, selection: Selection) -> NDArray[np.int64]:
        """Numbers of the registered things of these types that are not synthetic, ascending."""
        mask = directory.synthetic == 0
        if EVERY not in selection.types:
            mask &= directory.of_types(selection.types)
        real: NDArray[np.int64] = directory.no[mask]
        return real

    async def _span(self, selection: Selection, at: dt.datetime, start: int) -> Part:
        table = await self.house.readings.sql(spoken(selection, at, start, start + SPAN), seconds=SECONDS, max_rows=1)
        entity, fits, newest, part = table.rows[0]
        return Part(np.array(entity, np.int64), np.array(fits, bool), np.array(newest, np.int64), part)


def spoken(selection: Selection, at: dt.datetime, start: int, end: int) -> str:
    """ClickHouse SQL with one row of arrays (`Part`): what spoke among the entities `start <= no < end`."""
    filters = [
        f"entity >= {start}", f"entity < {end}", f"origin = {MEASURED}", f"quality < {BAD}",
        f"toUnixTimestamp64Micro(ts) > {_micros(at - dt.timedelta(days=selection.reported_within_days))}",
        f"toUnixTimestamp64Micro(ts) <= {_micros(at)}",
    ]
    if EVERY not in selection.types:
        filters.append(f"type IN ({_list(selection.types)})")
    conditions = [_condition(one) for one in selection.where] or ["1"]
    part = "1"
    if isinstance(selection, Sum):
        name = f"property = {quote(selection.property)} AND isFinite(value)"
        part = f"countIf({name}) > 0 ? toString(anyIf(value, {name})) : ''"
    elif isinstance(selection, Count) and selection.distinct is not None:
        name = f"property = {quote(selection.distinct)}"
        part = f"countIf({name}) > 0 ? concat(any(org), '\\n', anyIf(isNaN(value) ? text : toString(value), {name})) : ''"
    return (
        "SELECT groupArray(entity), groupArray(fits), groupArray(newest), groupArray(part) FROM ("
        f"SELECT entity, toUInt8({' AND '.join(conditions)}) AS fits, max(toUnixTimestamp64Micro(ts)) AS newest, "
        f"{part} AS part FROM latest FINAL WHERE {' AND '.join(filters)} GROUP BY entity)"
    )


def _condition(one: Condition) -> str:
    holds = [f"property = {quote(one.property)}"]
    if one.any_of is not None:
        holds.append(f"text IN ({_list(one.any_of)})")
    if one.at_least is not None:
        holds.append(f"value >= {float(one.at_least)!r}")
    if one.at_most is not None:
        holds.append(f"value <= {float(one.at_most)!r}")
    return f"countIf({' AND '.join(holds)}) > 0"


def _value(selection: Selection, parts: Iterable[Any]) -> Decimal:
    """The count or sum of what fits; in `parts`, an empty text is a thing without the property."""
    if isinstance(selection, Sum):
        return sum((Decimal(part) for part in parts if part), Decimal(0))
    if isinstance(selection, Count) and selection.distinct is not None:
        return Decimal(len({part for part in parts if part}))
    return Decimal(sum(1 for _ in parts))


def _list(values: Sequence[str]) -> str:
    return ", ".join(quote(value) for value in values)


def _micros(at: dt.datetime) -> int:
    return (at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _time(micros: int) -> dt.datetime | None:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=micros) if micros > 0 else None
