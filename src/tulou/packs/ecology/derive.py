"""Derived readings: what the assessments give is stored as readings of the stations, and corrected when their data change.

Law: what is stored of a day is what its data give now: what is the same is left, what differs is replaced, what cannot be given any more
is taken out, and nothing is there twice. A value is at the first moment of its hour or day. Its origin is the weakest of the hours that
it is made of: what comes of synthetic data is synthetic. The last `DAYS` days are looked at again and again, others when they are asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from tulou.access import Amender, Redecodes, told
from tulou.kernel.readings import Reading, day_of, start_of
from tulou.kernel.readings.amend import content, identity
from tulou.kernel.sql import utcnow
from tulou.methods import aqi
from tulou.packs.ecology import assessment, entries
from tulou.packs.ecology.control import SPIKE, STUCK, Mark, control
from tulou.packs.ecology.stations import HOUR_S, KINDS, Day, day_of_stations, spread_of, stations
from tulou.packs.ecology.tables import due, marks, pending

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.ecology")

DAYS = 3
PERIOD_S = 300.0
DERIVED: Mapping[str, frozenset[str]] = {
    "air": frozenset({
        "aqi", "primaryPollutant", "aqiHour", "primaryPollutantHour", "iaqiSO2", "iaqiNO2", "iaqiCO", "iaqiO3", "iaqiPM10", "iaqiPM25",
    }),
    "water": frozenset({"waterClass", "mainPollutants"}),
    "noise": frozenset({"Ld", "Ln", "dayAttained", "nightAttained"}),
}
"""Properties that are the house's alone, by kind of station."""
CONTROL_LEAD = max(STUCK.values())
"""Hours before the day that a run of stuck values may have begun in."""
MOST_MARKED = 100_000
NONE = "-"
"""The text where no pollutant is the primary one: of clean air, of water up to class III."""
BAD = 2
HOURLY = frozenset({f"{name}Hour" for name in (*assessment.AIR.values(), *assessment.WATER.values(), assessment.NOISE)})
"""Means of hours that may be entered by hand, where the model has them."""


class Given(NamedTuple):
    """A derived value: of which station (its place), property, when (s), number or text, origin."""

    station: int
    property: str
    at: int
    value: float
    text: str
    origin: int


def given(day: Day, now: int) -> Iterator[Given]:
    """What a day gives at `now` (s): of hours that are over, and of the day when it is over."""
    start = start_of(day.day) // 1_000_000
    found, over = day.found, now >= start + 24 * HOUR_S
    if isinstance(found, assessment.Air):
        yield from _air(day, found, start, now, over)
    elif over and isinstance(found, assessment.Water):
        weakest = day.weakest(list(found.items)).max(axis=1)
        for station in np.flatnonzero(found.overall).tolist():
            origin = int(weakest[station])
            yield Given(station, "waterClass", start, float(found.overall[station]), "", origin)
            yield Given(station, "mainPollutants", start, np.nan, ", ".join(name for name, _ in found.main[station]) or NONE, origin)
    elif over and isinstance(found, assessment.Noise):
        weakest = day.weakest(["LAeq"]).max(axis=1)
        for name, values in (
            ("Ld", found.day), ("Ln", found.night), ("dayAttained", np.where(np.isnan(found.day_over), np.nan, found.day_over == 0)),
            ("nightAttained", np.where(np.isnan(found.night_over), np.nan, found.night_over == 0)),
        ):
            for station in np.flatnonzero(~np.isnan(values)).tolist():
                yield Given(station, name, start, float(values[station]), "", int(weakest[station]))


def _air(day: Day, found: assessment.Air, start: int, now: int, over: bool) -> Iterator[Given]:
    weakest = day.weakest(list(assessment.AIR))
    of_hour = weakest[:, assessment.LEAD :]
    if found.edition is aqi.HJ_633_2012:  # its moving means reach back over 24 hours
        of_hour = np.lib.stride_tricks.sliding_window_view(weakest, assessment.LEAD, axis=1)[:, 1:].max(axis=-1)
    texts = _primary(found.hour)
    for station, hour in np.argwhere(~np.isnan(found.hour.aqi)).tolist():
        at = start + hour * HOUR_S
        if at + HOUR_S <= now:
            origin = int(of_hour[station, hour])
            yield Given(station, "aqiHour", at, float(found.hour.aqi[station, hour]), "", origin)
            yield Given(station, "primaryPollutantHour", at, np.nan, texts[station, hour], origin)
    if not over:
        return
    for name, index in found.day.iaqi.items():
        own = day.weakest([name])[:, assessment.LEAD :].max(axis=1)
        for station in np.flatnonzero(~np.isnan(index)).tolist():
            yield Given(station, f"iaqi{name.replace('.', '')}", start, float(index[station]), "", int(own[station]))
    of_day, words = weakest[:, assessment.LEAD :].max(axis=1), _primary(found.day)
    for station in np.flatnonzero(~np.isnan(found.day.aqi)).tolist():
        yield Given(station, "aqi", start, float(found.day.aqi[station]), "", int(of_day[station]))
        yield Given(station, "primaryPollutant", start, np.nan, words[station], int(of_day[station]))


def _primary(of: aqi.AirQuality) -> NDArray[np.object_]:
    """The primary pollutants of each place, as they are stored."""
    names = list(of.primary)
    code = sum((of.primary[name].astype(np.int64) << bit for bit, name in enumerate(names)), np.zeros(of.aqi.shape, np.int64))
    said = np.array([
        ", ".join(name for bit, name in enumerate(names) if number >> bit & 1) or NONE for number in range(1 << len(names))
    ], dtype=object)
    found: NDArray[np.object_] = said[code]
    return found


class Deriver:
    """The task of the role `writer`. `now` is the clock (s); `fault` is called with the name of every step of an amendment."""

    def __init__(self, house: House, now: Callable[[], float] = time.time, fault: Callable[[str], None] = lambda step: None) -> None:
        self.house, self.db, self.now, self.fault = house, house.db, now, fault
        self.wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self.gate = house.service(Redecodes).gate

    @cached_property
    def amender(self) -> Amender:
        """Made when it is used: a process of other roles has no readings store."""
        return Amender(self.house.readings, self.gate, told(self.house), self.fault)

    async def run(self, _house: House) -> None:
        """Until cancelled."""
        while True:
            self.wake.clear()
            await self.turn()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S):
                    await self.wake.wait()

    async def turn(self) -> int:
        """Bring derived readings up to date; how many were put in or taken out."""
        async with self._turn:
            return await self._days()

    async def _days(self) -> int:
        await self.finish()
        await self._enter()
        today = day_of(int(self.now() * 1e6))
        asked = set(await self.db.read(lambda c: c.execute(sa.select(due.c.day)).scalars().all()))
        oldest = {kind: today - dt.timedelta(days=days - 2) for kind, days in self.house.retention().items()}
        changed = 0
        for day in sorted({today - dt.timedelta(days=back) for back in range(DAYS)} | asked):
            for kind, type in KINDS.items():
                if day >= oldest.get(type, day):  # older hours cannot be made again: their readings have expired
                    await self.control(kind, day)
                    changed += await self.derive(kind, day)
            if day in asked:
                await self.db.write(lambda c, day=day: c.execute(due.delete().where(due.c.day == day)) and None)  # type: ignore[misc]
        return changed

    async def derive(self, kind: str, day: dt.date) -> int:
        """One day of the stations of a kind."""
        of = await stations(self.house, kind)
        if not len(of.no) or (kind == "air" and day < aqi.EDITIONS[0].valid_from):
            return 0
        found = await day_of_stations(self.house, of, day)
        fresh = [
            Reading(of.org[one.station], of.type, int(of.no[one.station]), one.property, one.at * 1_000_000, one.value, one.text, 0, one.origin, 0, 0)
            for one in await asyncio.to_thread(lambda: list(given(found, int(self.now()))))
        ]
        start = start_of(day)
        moments = [(no, start + hour * HOUR_S * 1_000_000) for no in of.no.tolist() for hour in range(24)]
        async with self.gate.lock:
            stored = [r for r in await self.house.readings.stored_at(moments) if r.property in DERIVED[kind]]
            return await self.replace(stored, fresh)

    async def _enter(self) -> None:
        """Store the entries by hand that were approved."""
        for item in await entries.approved(self.house):
            async with self.gate.lock:
                try:
                    there, reading = await entries.reading_of(self.house, item, HOURLY)
                except entries.Refused as why:
                    await self.db.write(entries.done(item.no, None, why))
                    continue
                await self.replace(there, [reading], entries.done(item.no, reading, None), again=False)

    async def control(self, kind: str, day: dt.date) -> int:
        """Mark the readings of bad hours of a day; how many."""
        of = await stations(self.house, kind)
        names = [name for name in {*SPIKE, *STUCK} if name in self.house.packs.models[of.type].properties]
        if not len(of.no) or not names:
            return 0
        start = start_of(day) // 1_000_000 - CONTROL_LEAD * HOUR_S
        found = await spread_of(self.house, of, [*names, *(f"{name}Hour" for name in names)], start, CONTROL_LEAD + 24 + 1)
        marked = 0
        stuck = sa.select(marks.c.entity, marks.c.property, marks.c.hour, marks.c.value).where(
            marks.c.rule == "stuck", marks.c.property.in_(list(found)), marks.c.hour >= start, marks.c.hour < start + (CONTROL_LEAD + 25) * HOUR_S)
        place = {no: at for at, no in enumerate(of.no.tolist())}
        for no, name, hour, value in await self.db.read(lambda c: c.execute(stuck).all()):
            for part in found[name] if no in place else ():  # what was marked before goes on being stuck
                part[place[no], (hour - start) // HOUR_S] = value
        for name, (mean, low, high) in found.items():
            bad = list(control(name.removesuffix("Hour"), mean, low, high))
            for station in sorted({mark.station for mark in bad}):
                marked += await self._mark(int(of.no[station]), name, start, [(mark, float(mean[station, mark.hour])) for mark in bad if mark.station == station])
        return marked

    async def _mark(self, no: int, name: str, start: int, bad: Sequence[tuple[Mark, float]]) -> int:
        hours = {start + mark.hour * HOUR_S: (mark, value) for mark, value in bad}
        begin, end = min(hours) * 1_000_000, (max(hours) + HOUR_S) * 1_000_000
        async with self.gate.lock:
            seen = await self.house.readings.observations(no, name, begin, end, orgs=None, limit=MOST_MARKED)
            moments = [(no, one.ts) for one in seen if one.ts // 1_000_000 // HOUR_S * HOUR_S in hours]
            stored = [r for r in await self.house.readings.stored_at(moments) if r.property == name and r.quality < BAD]

            def note(connection: sa.Connection) -> None:
                for hour, (mark, value) in hours.items():
                    connection.execute(marks.delete().where(marks.c.entity == no, marks.c.property == name, marks.c.hour == hour))
                    connection.execute(marks.insert().values(
                        entity=no, property=name, hour=hour, rule=mark.rule, value=value, zh=mark.zh, en=mark.en, at=utcnow()))

            return await self.replace(stored, [r._replace(quality=BAD) for r in stored], note, again=False) // 2

    async def replace(
        self, stored: Sequence[Reading], wanted: Sequence[Reading], note: Callable[[sa.Connection], None] = lambda connection: None,
        again: bool = True,
    ) -> int:
        """Make `stored` be `wanted`; whoever calls it holds the gate. `note` is written with what is to be touched; unless the same would
        be wanted `again` after a crash, what is to be put in is written too. How many readings were put in or taken out."""
        there = {identity(r): r for r in stored}
        keep = {key for r in wanted if (key := identity(r)) in there and content(there[key]) == content(r)}
        gone = [r for key, r in there.items() if key not in keep]
        fresh = [r for r in wanted if identity(r) not in keep]
        if gone or fresh:
            touches = await self.amender.touches(gone, fresh)
            kept = [] if again else [[None if part != part else part for part in r] for r in fresh]

            def state(connection: sa.Connection) -> None:
                connection.execute(pending.insert().values(no=1, touches={**touches, "fresh": kept}))
                note(connection)

            await self.db.write(state)
            self.fault("stated")
            await self.amender.amend(touches, gone, fresh)
            await self.db.write(lambda c: c.execute(pending.delete()) and None)
        return len(gone) + len(fresh)

    async def finish(self) -> None:
        """End what a crash has cut short: what was to be put in is there, and roll-ups and latest values follow the readings."""
        async with self.gate.lock:
            touches = await self.db.read(lambda c: c.execute(sa.select(pending.c.touches)).scalar())
            if touches is None:
                return
            fresh = [Reading._make([np.nan if part is None else part for part in row]) for row in touches.get("fresh", [])]
            there = {identity(r): r for r in await self.house.readings.stored_at([(r.entity, r.ts) for r in fresh])} if fresh else {}
            missing = [r for r in fresh if identity(r) not in there or content(there[identity(r)]) != content(r)]
            await self.amender.amend(touches, [there[key] for r in missing if (key := identity(r)) in there], missing)
            await self.db.write(lambda c: c.execute(pending.delete()) and None)
