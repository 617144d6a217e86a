"""Stations and their hours, as `assessment` takes them.

Law: for the house: nobody's rights are asked here. Times are s since the epoch at whole hours; days are natural days of Asia/Shanghai.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tulou.access import Directory
from tulou.context import ContextService, current_values
from tulou.kernel.errors import Unavailable
from tulou.kernel.readings import start_of
from tulou.methods.arrays import Floats
from tulou.packs.ecology import assessment
from tulou.packs.ecology.assessment import LEAD, Hours

if TYPE_CHECKING:
    from tulou.kernel.house import House

KINDS: Mapping[str, str] = {"air": "AirQualityStation", "water": "WaterQualityStation", "noise": "NoiseStation"}
INTERVAL_S: Mapping[str, float] = {"air": 300.0, "water": 14_400.0, "noise": 60.0}
"""The interval of reports of a station that says none (`reportInterval`)."""
SYNTHETIC = 3
HOUR_S = 3600


@dataclass(frozen=True)
class Stations:
    """Stations of one kind: numbers, organisations, what each says of itself, whether it is synthetic, and its interval of reports."""

    kind: str
    no: NDArray[np.int64]
    name: list[str]
    org: list[str]
    synthetic: NDArray[np.bool_]
    about: list[dict[str, Any]]
    interval_s: NDArray[np.float64]

    @property
    def type(self) -> str:
        """Their entity type."""
        return KINDS[self.kind]

    def said(self, name: str) -> list[str | None]:
        """A text that each says of itself."""
        return [value if isinstance(value := one.get(name), str) else None for one in self.about]


async def stations(house: House, kind: str, rows: Iterable[int] | None = None) -> Stations:
    """The stations of a kind in these rows of the directory, or all. Raises `Unavailable` where no directory is kept."""
    directory = house.service(Directory)
    if not directory.kept or not hasattr(house, "readings"):
        raise Unavailable("本进程没有读数库", "this process has no readings store", field="readings")
    chosen = np.flatnonzero(directory.of_types([KINDS[kind]])) if rows is None else np.array(list(rows), np.intp)
    nos = directory.no[chosen]
    said = await current_values(house.service(ContextService), nos.tolist(), ["reportInterval", "zone", "waterBody"]) if len(nos) else {}
    about = [said.get(int(no), {}) for no in nos]
    interval = [one.get("reportInterval") for one in about]
    return Stations(
        kind, nos, [directory.names[row] for row in chosen.tolist()], [directory.orgs[code] for code in directory.org[chosen]],
        directory.synthetic[chosen] != 0, about,
        np.array([float(one) if isinstance(one, int | float) and one > 0 else INTERVAL_S[kind] for one in interval]),
    )


async def hours_of(
    house: House, of: Stations, properties: Mapping[str, str], start: int, count: int, *, energetic: bool = False
) -> dict[str, Hours]:
    """The hours of quantities by name (`properties` has the property of each), `count` of them from `start` (s) on."""
    names = [*properties.values(), *(f"{prop}Hour" for prop in properties.values())]
    found = await house.readings.hours(
        of.no.tolist(), names, start * 1_000_000, (start + count * HOUR_S) * 1_000_000, orgs=None, energetic=energetic)
    order = np.argsort(of.no)
    place = order[np.searchsorted(of.no[order], found.entity)] if len(of.no) else np.zeros(0, np.intp)
    at = (found.hour - start) // HOUR_S
    said = np.array(found.property, dtype=object)
    shape = len(of.no), count
    made: dict[str, Hours] = {}
    for name, prop in properties.items():
        mean, own = np.full(shape, np.nan), np.full(shape, np.nan)
        number, origin, own_origin = (np.zeros(shape, np.int64) for _ in range(3))
        here = said == prop
        mean[place[here], at[here]], number[place[here], at[here]] = found.value[here], found.count[here]
        origin[place[here], at[here]] = found.origin[here]
        here = said == f"{prop}Hour"
        own[place[here], at[here]], own_origin[place[here], at[here]] = found.value[here], found.origin[here]
        made[name] = assessment.hours(mean, number, origin, own, own_origin, of.interval_s)
    return made


async def spread_of(
    house: House, of: Stations, properties: Sequence[str], start: int, count: int
) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Mean, least and greatest value of the hours of properties, (stations, count) each, from `start` (s) on."""
    found = await house.readings.hours(of.no.tolist(), properties, start * 1_000_000, (start + count * HOUR_S) * 1_000_000, orgs=None)
    order = np.argsort(of.no)
    place, at = order[np.searchsorted(of.no[order], found.entity)], (found.hour - start) // HOUR_S
    said = np.array(found.property, dtype=object)
    made = {}
    for name in properties:
        here = said == name
        parts = tuple(np.full((len(of.no), count), np.nan) for _ in range(3))
        for into, values in zip(parts, (found.value, found.low, found.high), strict=True):
            into[place[here], at[here]] = values[here]
        made[name] = parts[0], parts[1], parts[2]
    return made


@dataclass(frozen=True)
class Day:
    """A natural day of stations: their hours (those of air have the day before in front), and what they amount to."""

    day: dt.date
    of: Stations
    hours: dict[str, Hours]
    found: assessment.Air | assessment.Water | assessment.Noise

    def weakest(self, names: Sequence[str]) -> NDArray[np.int64]:
        """The weakest origin, the greatest number, of the hours that count of these quantities: (stations, hours), 0 where there is none."""
        parts = [np.where(np.isnan(self.hours[name].value), 0, self.hours[name].origin) for name in names]
        return np.where(self.of.synthetic[:, None], SYNTHETIC, np.maximum.reduce(parts))


async def day_of_stations(house: House, of: Stations, day: dt.date) -> Day:
    """A day of stations. Hours that are not over count as far as they are there: the caller leaves them out."""
    start = start_of(day) // 1_000_000
    if of.kind == "air":
        hours = await hours_of(house, of, assessment.AIR, start - LEAD * HOUR_S, LEAD + 24)
        return Day(day, of, hours, assessment.air({name: one.value for name, one in hours.items()}, day))
    if of.kind == "water":
        hours = await hours_of(house, of, {**assessment.WATER, "temperature": assessment.WATER_TEMPERATURE}, start, 24)
        values = {name: one.value for name, one in hours.items()}
        celsius = values.pop("temperature")
        lake = np.array([one == "lake" for one in of.said("waterBody")], bool)
        return Day(day, of, hours, assessment.water(values, celsius, lake, of.interval_s))
    hours = await hours_of(house, of, {"LAeq": assessment.NOISE}, start, 24, energetic=True)
    return Day(day, of, hours, assessment.sound(hours["LAeq"].value, of.said("zone")))
