"""Entries by hand that a second person has approved: the means of hours that become readings of the origin `reported`.

Law: an entry fills what is missing or bad and never replaces a good value; what became of it is kept. The workflow
`ecology_entry` says who enters and who approves.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tulou.access import Directory
from tulou.kernel.readings import Reading, day_of
from tulou.kernel.sql import utcnow
from tulou.kernel.workflows import items
from tulou.packs.ecology.tables import ask_for, entries

if TYPE_CHECKING:
    from tulou.kernel.house import House

WORKFLOW = "ecology_entry"
REPORTED, BAD = 1, 2
AT_ONCE = 500


class Refused(Exception):
    """Why an approved entry is not stored."""

    def __init__(self, zh: str, en: str) -> None:
        super().__init__(en)
        self.zh, self.en = zh, en


async def approved(house: House) -> Sequence[Any]:
    """Approved items of which nothing has become yet, the oldest first."""
    query = sa.select(items.c.no, items.c.org, items.c.fields).where(
        items.c.workflow == WORKFLOW, items.c.state == "approved", items.c.no.not_in(sa.select(entries.c.item))
    ).order_by(items.c.no).limit(AT_ONCE)
    return await house.db.read(lambda c: c.execute(query).all())


async def reading_of(house: House, item: Any, hour_properties: frozenset[str]) -> tuple[list[Reading], Reading]:
    """What an item puts in, and the bad reading that gives way. Raises `Refused`."""
    said, directory = item.fields, house.service(Directory)
    row = directory.row(int(said["station"]))
    if row is None or directory.orgs[directory.org[row]] != item.org:
        raise Refused(f"{item.org} 没有站点 {said['station']:g}", f"there is no station {said['station']:g} of {item.org}")
    kind = directory.types[directory.type[row]]
    prop = house.packs.models[kind].properties.get(said["property"])
    if prop is None or said["property"] not in hour_properties:
        raise Refused(f"{said['property']} 不是 {kind} 的小时均值", f"{said['property']} is no mean of an hour of {kind}")
    value = float(said["value"])
    if not (math.isfinite(value) and (prop.min is None or value >= prop.min) and (prop.max is None or value <= prop.max)):
        raise Refused(f"数值 {value:g} 超出范围", f"the value {value:g} is out of range")
    try:
        at = dt.datetime.fromisoformat(said["hour"])
    except ValueError:
        raise Refused(f"hour 不是时间：{said['hour']}", f"hour is no time: {said['hour']}") from None
    if at.tzinfo is None or at.minute or at.second or at.microsecond or at > utcnow() - dt.timedelta(hours=1):
        raise Refused("hour 应为已结束小时的整点，并带时区", "hour is the full hour of one that is over, with its zone")
    ts = int(at.timestamp()) * 1_000_000
    days = house.packs.models[kind].retention_days
    if days is not None and at < utcnow() - dt.timedelta(days=days - 2):
        raise Refused(f"早于保留期 {days} 天", f"before the {days} days that readings are kept")
    there = [r for r in await house.readings.stored_at([(int(directory.no[row]), ts)]) if r.property == said["property"]]
    if any(r.quality < BAD for r in there):
        raise Refused("该小时已有有效数值", "there is a value of this hour that is not bad")
    origin = 3 if directory.synthetic[row] else REPORTED
    return there, Reading(item.org, kind, int(directory.no[row]), said["property"], ts, value, "", 0, origin, 0, 0)


def done(item: int, reading: Reading | None, why: Refused | None) -> Callable[[sa.Connection], None]:
    """Note what became of an item, and ask for its day (and the next, into which moving means reach) again."""

    def write(connection: sa.Connection) -> None:
        connection.execute(entries.insert().values(
            item=item, at=utcnow(), stored=reading is not None, zh=why.zh if why else "", en=why.en if why else ""))
        if reading is not None:
            day = day_of(reading.ts)
            ask_for(connection, [day, day + dt.timedelta(days=1)])

    return write
