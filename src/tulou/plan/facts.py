"""What the house measures, for the definitions of targets: one query over the latest readings, one over the register.

Law: only origin 0 (measured) counts, never a bad reading, never one from the future. Sums are made in decimals, so the
order in which a store adds cannot change the result.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tulou.context import entities
from tulou.kernel.errors import Unavailable
from tulou.kernel.readings.schema import quote
from tulou.plan.queries import EVERY, PLACES, Condition, Count, Selection, Sum, Tally

if TYPE_CHECKING:
    from tulou.kernel.house import House

MEASURED = 0
"""`origin` of a measured reading (docs/architecture.md)."""
BAD = 2
"""`quality` of a bad reading."""
SECONDS = 120


class MeasuredFacts:
    """`queries.Facts` over the readings store and the register of entities."""

    def __init__(self, house: House) -> None:
        self.house = house

    async def tally(self, selection: Selection, at: dt.datetime) -> Tally:
        """See `queries.Facts`. Raises `Unavailable` where this process has no readings store."""
        if not hasattr(self.house, "readings"):
            raise Unavailable("本进程没有打开读数库", "this process has no readings store", field="readings")
        known = int(await self.house.db.read(lambda c: c.execute(registered(selection)).scalar() or 0))
        if known == 0:
            return Tally(0, 0, None, None)
        table = await self.house.readings.sql(spoken(selection, at), seconds=SECONDS, max_rows=1)
        reported, newest, value = table.rows[0]
        if not reported:
            return Tally(known, 0, None, None)
        return Tally(known, int(reported), Decimal(str(value)), _time(int(newest)))


def registered(selection: Selection) -> sa.Select[Any]:
    """How many entities of the types are registered that are not synthetic."""
    query = sa.select(sa.func.count()).select_from(entities).where(entities.c.synthetic.is_(False))
    return query if EVERY in selection.types else query.where(entities.c.type.in_(selection.types))


def spoken(selection: Selection, at: dt.datetime) -> str:
    """ClickHouse SQL with one row: how many spoke, their newest reading in µs (of those that fulfil the conditions
    and count), and the count or sum."""
    micros = _micros(at)
    since = _micros(at - dt.timedelta(days=selection.reported_within_days))
    filters = [
        f"origin = {MEASURED}", f"quality < {BAD}", f"toUnixTimestamp64Micro(ts) > {since}",
        f"toUnixTimestamp64Micro(ts) <= {micros}",
    ]
    if EVERY not in selection.types:
        filters.append(f"type IN ({_list(selection.types)})")
    conditions = [_condition(one) for one in selection.where] or ["1"]
    columns, value = "", "countIf(fits)"
    if isinstance(selection, Sum):
        name = quote(selection.property)
        columns = (
            f", countIf(property = {name} AND isFinite(value)) > 0 AS has"
            f", toDecimal256(anyIf(value, property = {name} AND isFinite(value)), {-int(PLACES.log10())}) AS part"
        )
        value = "sumIf(part, fits AND has)"
    elif isinstance(selection, Count) and selection.distinct is not None:
        name = quote(selection.distinct)
        columns = (
            f", countIf(property = {name}) > 0 AS has"
            f", anyIf((text, isNaN(value) ? 0 : value), property = {name}) AS part"
        )
        value = "uniqExactIf((org, part), fits AND has)"
    return (
        f"SELECT count() AS reported, toUnixTimestamp64Micro(maxIf(newest, fits)), toString({value}) FROM ("
        f"SELECT entity, any(r.org) AS org, max(r.ts) AS newest, {' AND '.join(conditions)} AS fits{columns} "
        f"FROM (SELECT entity, org, property, ts, value, text FROM latest FINAL WHERE {' AND '.join(filters)}) AS r "
        "GROUP BY entity)"
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


def _list(values: Sequence[str]) -> str:
    return ", ".join(quote(value) for value in values)


def _micros(at: dt.datetime) -> int:
    return (at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _time(micros: int) -> dt.datetime | None:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=micros) if micros > 0 else None
