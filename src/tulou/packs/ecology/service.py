"""What people ask of the pack: a station's day with reasons, rankings, capture, and days to derive again.

Law: an answer is computed from the hours of now, by the same functions that the derived readings come of. A station that the asker may
not see does not exist. What is not told is null, and `why` says which rule keeps it back.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from tulou.access import Directory
from tulou.kernel import audit
from tulou.kernel.errors import Invalid, NotFound
from tulou.kernel.organisations import Organisations
from tulou.kernel.policy import ROOT, Actor, Orgs, operation
from tulou.kernel.readings import day_of, start_of
from tulou.kernel.workflows import Workflows
from tulou.methods import aqi, noise, surface_water
from tulou.methods.errors import InvalidInput
from tulou.packs.ecology import assessment
from tulou.packs.ecology.assessment import LEAD, Reason
from tulou.packs.ecology.derive import Deriver
from tulou.packs.ecology.stations import HOUR_S, KINDS, Day, Stations, day_of_stations, hours_of, stations
from tulou.packs.ecology.tables import ask_for, entries, marks

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ = "ecology.assessment.read"
DERIVE = "ecology.derivation.create"
ORIGINS = ("measured", "reported", "estimated", "synthetic")
MOST_DAYS = 400
CITY_SHARE = 0.75
"""Of the stations of a city so many must have a value, that the city has one. A rule of the house."""
QUANTITIES = {"air": assessment.AIR, "water": assessment.WATER, "noise": {"LAeq": assessment.NOISE}}


class Ecology:
    """The assessments."""

    def __init__(self, house: House) -> None:
        self.house, self.db, self.policy = house, house.db, house.policy
        self.deriver = Deriver(house)

    # -- a station

    @operation(READ)
    async def station(self, actor: Actor, kind: str, no: int, day: dt.date | None = None) -> dict[str, Any]:
        """A station's day (today unless named), from hours that are over. Raises `NotFound`, `Invalid`."""
        orgs = self.policy.require_any(actor, READ)
        of = await stations(self.house, kind, self._rows(orgs, kind, no))
        day = day or day_of(time.time_ns() // 1000)
        found = await self._day(of, day)
        if isinstance(found.found, assessment.Air):
            body = _air(found, found.found)
        elif isinstance(found.found, assessment.Water):
            body = _water(found, found.found)
        else:
            body = _noise(found, found.found)
        noted = sa.select(marks).where(marks.c.entity == no, marks.c.hour >= start_of(day) // 1_000_000,
                                       marks.c.hour < start_of(day) // 1_000_000 + 24 * HOUR_S)
        return {
            "station": {"no": no, "name": of.name[0], "org": of.org[0], "synthetic": bool(of.synthetic[0]), "interval_s": float(of.interval_s[0])},
            "day": day, "complete": _over(day), **body,
            "marked": [
                {"property": row.property, "at": _moment(row.hour), "rule": row.rule, "zh": row.zh, "en": row.en}
                for row in await self.db.read(lambda c: c.execute(noted).all())
            ],
        }

    def _rows(self, orgs: Orgs, kind: str, no: int) -> list[int]:
        directory = self.house.service(Directory)
        row = directory.row(no)
        if row is None or directory.types[directory.type[row]] != KINDS[kind] or directory.orgs[directory.org[row]] not in orgs:
            raise NotFound(f"没有站点 {no}", f"there is no station {no}", field="station", value=no)
        return [row]

    async def _day(self, of: Stations, day: dt.date) -> Day:
        try:
            return await day_of_stations(self.house, of, day)
        except InvalidInput as error:
            raise Invalid(error.zh, str(error), field="day", value=str(day), rule=error.rule) from error

    # -- many

    @operation(READ)
    async def ranking(self, actor: Actor, day: dt.date, by: str = "city", synthetic: bool = False) -> dict[str, Any]:
        """AQI of a day, of cities (of the means of their stations' values) or of stations, the cleanest first; who has none comes last,
        with why. Raises `Invalid`."""
        orgs = self.policy.require_any(actor, READ)
        directory = self.house.service(Directory)
        mask = directory.within(orgs) & directory.of_types([KINDS["air"]])
        if not synthetic:
            mask &= directory.synthetic == 0
        of = await stations(self.house, "air", np.flatnonzero(mask).tolist())
        found = await self._day(of, day)
        assert isinstance(found.found, assessment.Air)
        air = found.found
        if not _over(day):
            raise Invalid("该日尚未结束", "the day is not over", field="day", value=str(day), rule="a day that is over")
        if by == "city":
            items = self._cities(of, air)
        else:
            items = [
                {"no": int(of.no[n]), "name": of.name[n], "org": of.org[n], "synthetic": bool(of.synthetic[n]), **_index(air.day, n),
                 "why": _reason(air.why_no_aqi(n))} for n in range(len(of.no))
            ]
        values = np.array([np.nan if item["aqi"] is None else item["aqi"] for item in items])
        places = np.searchsorted(np.sort(values[~np.isnan(values)]), values) + 1
        for item, place in zip(items, places.tolist(), strict=True):
            item["place"] = None if item["aqi"] is None else place
        items.sort(key=lambda item: (item["place"] is None, item["place"] or 0))
        return {"day": day, "by": by, "edition": air.edition.standard, "synthetic": synthetic, "items": items}

    def _cities(self, of: Stations, air: assessment.Air) -> list[dict[str, Any]]:
        rows = self.house.service(Organisations).rows
        city = [next((org for org in self.policy.ancestors(one) if rows.get(org, {}).get("kind") == "city"), one) for one in of.org]
        names = sorted(set(city))
        members = [np.array([one == name for one in city], bool) for name in names]
        means: dict[str, Any] = {}
        for indicator, values in air.means.items():
            there = [values[here][~np.isnan(values[here])] for here in members]
            means[indicator] = np.array([
                part.mean() if len(part) and len(part) >= CITY_SHARE * here.sum() else np.nan for part, here in zip(there, members, strict=True)
            ])
        found = aqi.assess(means, air.edition) if names else None
        items = []
        for n, name in enumerate(names):
            assert found is not None
            missing = [pollutant for pollutant, is_missing in found.missing.items() if is_missing[n]]
            why = None if not np.isnan(found.aqi[n]) else Reason(
                "75 %", f"缺 {', '.join(missing)}：有值的站点不足 75%", f"{', '.join(missing)} missing: fewer than 75 % of the stations have a value")
            items.append({
                "org": name, "name": rows.get(name, {}).get("name_zh", name), "name_en": rows.get(name, {}).get("name_en", name),
                "stations": int(members[n].sum()), "synthetic": bool(of.synthetic[members[n]].any()), **_index(found, n), "why": _reason(why),
            })
        return items

    @operation(READ)
    async def capture(self, actor: Actor, kind: str, no: int, start: dt.date, end: dt.date) -> dict[str, Any]:
        """Of each quantity of a station the hours in [start, end) that count, of those that are over (per cent). Raises `NotFound`, `Invalid`."""
        orgs = self.policy.require_any(actor, READ)
        of = await stations(self.house, kind, self._rows(orgs, kind, no))
        if not 0 < (end - start).days <= MOST_DAYS:
            raise Invalid(f"from 应早于 to，至多 {MOST_DAYS} 天", f"from is before to, by {MOST_DAYS} days at most", field="from", value=str(start),
                          rule=f"1..{MOST_DAYS} days")
        first = start_of(start) // 1_000_000
        over = max(0, (min(start_of(end), time.time_ns() // 1000) // 1_000_000 - first) // HOUR_S)
        due_each = 24 if kind != "water" else min(24, int(np.ceil(86400 / of.interval_s[0])))
        expected = over * due_each / 24
        found = await hours_of(self.house, of, QUANTITIES[kind], first, max(1, over))
        return {"station": no, "from": start, "to": end, "expected": expected, "items": [
            {"name": name, "valid": (valid := int(np.count_nonzero(~np.isnan(one.value[0])))),
             "capture": round(min(100.0, 100 * valid / expected), 2) if expected else None}
            for name, one in found.items() if one.count.any() or name in assessment.AIR or name in assessment.WATER_NEEDS
        ]}

    @operation("workflow.item.read")
    async def entry(self, actor: Actor, item: int) -> dict[str, Any]:
        """What became of an entry by hand: `stored`, or why not; `waiting` until the writer has looked. Raises `NotFound`."""
        await self.house.service(Workflows).get(actor, item)
        row = await self.db.read(lambda c: c.execute(sa.select(entries).where(entries.c.item == item)).first())
        if row is None:
            return {"item": item, "state": "waiting", "why": None}
        return {"item": item, "state": "stored" if row.stored else "refused", "why": None if row.stored else {"zh": row.zh, "en": row.en}}

    # -- again

    @operation(DERIVE)
    async def derive(self, actor: Actor, start: dt.date, end: dt.date) -> dict[str, Any]:
        """Derive the days in [start, end) again, of every station of the house. Raises `Invalid`."""
        self.policy.require(actor, DERIVE, ROOT)
        days = (end - start).days
        if not 0 < days <= MOST_DAYS:
            raise Invalid(f"from 应早于 to，至多 {MOST_DAYS} 天", f"from is before to, by {MOST_DAYS} days at most", field="from", value=str(start),
                          rule=f"1..{MOST_DAYS} days")
        asked = [start + dt.timedelta(days=n) for n in range(days)]

        def write(connection: sa.Connection) -> None:
            ask_for(connection, asked)
            audit.record(connection, actor, DERIVE, ROOT, "ecology", {"from": str(start), "to": str(end)})

        await self.db.write(write)
        self.deriver.wake.set()
        return {"days": days}


def _over(day: dt.date) -> bool:
    return time.time_ns() // 1000 >= start_of(day + dt.timedelta(days=1))


def _moment(at: int) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat()


def _reason(why: Reason | None) -> dict[str, str] | None:
    return why and why._asdict()


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _index(of: aqi.AirQuality, *at: int) -> dict[str, Any]:
    """AQI, category and primary pollutants of one place."""
    value = float(of.aqi[at])
    return {"aqi": _number(value), "category": assessment.category(value), "primary": [] if np.isnan(value) else assessment.primary(of, at)}


def _air(day: Day, found: assessment.Air) -> dict[str, Any]:
    start, why = start_of(day.day) // 1_000_000, dict(found.why(0))
    over = _over(day.day)
    pollutants = {}
    for name, hours in day.hours.items():
        mean = found.means["O3_8h" if name == "O3" else f"{name}_24h"][0]
        pollutants[name] = {
            "property": assessment.AIR[name], "unit": "mg/m³" if name == "CO" else "µg/m³", "value": _number(mean),
            "iaqi": _number(found.day.iaqi[name][0]), "hours": int(found.valid[name][0]), "own_hours": int(hours.own[0, LEAD:].sum()),
            "why": _reason(why.get(name)),
        }
    hours_said = []
    for hour in range(24):
        if start + (hour + 1) * HOUR_S > time.time():
            break
        reasons = {
            name: _reason(reason) for name, of in day.hours.items()
            if (reason := assessment.why_no_hour(of, 0, hour + LEAD, float(day.of.interval_s[0])))
        }
        hours_said.append({
            "at": _moment(start + hour * HOUR_S), **_index(found.hour, 0, hour),
            "iaqi": {name: _number(one[0, hour]) for name, one in found.hour.iaqi.items()}, "why": reasons,
        })
    told = _index(found.day, 0) if over else {"aqi": None, "category": None, "primary": []}
    unfinished = Reason("natural day", "该日尚未结束", "the day is not over")
    return {
        "edition": found.edition.standard, "origin": ORIGINS[int(day.weakest(list(assessment.AIR))[0, LEAD:].max())], **told,
        "why": _reason(found.why_no_aqi(0) if over else unfinished), "pollutants": pollutants, "hours": hours_said,
    }


def _water(day: Day, found: assessment.Water) -> dict[str, Any]:
    grade, over = int(found.overall[0]), _over(day.day)
    return {
        "edition": surface_water.GB_3838_2002.standard, "origin": ORIGINS[int(day.weakest(list(found.items))[0].max())],
        "body": "lake" if day.of.said("waterBody")[0] == "lake" else "river",
        "class": grade if grade and over else None, "class_name": surface_water.CLASSES[grade] if grade and over else None,
        "main": [{"item": name, "exceedance": multiple} for name, multiple in found.main[0]] if grade and over else [],
        "items": {
            name: {"property": assessment.WATER[name], "value": _number(found.means[name][0]), "class": int(found.items[name][0]) or None,
                   "hours": int(found.hours[name][0])}
            for name in found.means if found.hours[name][0] or name in assessment.WATER_NEEDS
        },
        "why": {name: _reason(why) for name, why in found.why(0)} if over else
        {"day": _reason(Reason("natural day", "该日尚未结束", "the day is not over"))},
    }


def _noise(day: Day, found: assessment.Noise) -> dict[str, Any]:
    zone = day.of.said("zone")[0]
    return {
        "edition": noise.GB_3096_2008.standard, "origin": ORIGINS[int(day.weakest(["LAeq"])[0].max())], "zone": zone,
        "Ld": _number(found.day[0]), "Ln": _number(found.night[0]), "day_over": _number(found.day_over[0]),
        "night_over": _number(found.night_over[0]), "hours": int(found.hours[0]),
        "why": {name: _reason(why) for name, why in found.why(0, zone)},
    }


async def keep_deriving(house: House) -> None:
    """The task."""
    await asyncio.sleep(0)
    await house.service(Ecology).deriver.run(house)
