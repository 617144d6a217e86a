"""What hours of stations amount to, by national standards: AQI of hours and days, classes of water, noise by day and by night.

Law: pure. Arrays are (stations, hours); a missing or invalid hour is NaN. What the rules of a standard do not let be told is not told,
and `why` says which rule. The mathematics is that of `tulou.methods`; here is which hours count.

Sources: HJ 633-2012 and HJ 633-2026 by the day's edition; GB 3095, table 4 (45 minutes an hour, 20 hours a day, 6 of 8, 14 means of
eight hours); GB 3838-2002 with 环办〔2011〕22号; GB 3096-2008 (every hour of the day or night). How many hours make a day of an automatic
water station no text at hand says: two thirds of those due are asked for (`WATER_SHARE`), a rule of the house.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tulou.methods import air_statistics, aqi, noise, surface_water
from tulou.methods.arrays import Floats, half_even

LEAD = 24
"""Hours before the day that moving means of its hours reach back to."""
MINUTES_OF_AN_HOUR = 45
"""GB 3095, table 4."""
WATER_SHARE = 2 / 3
WATER_NEEDS = ("DO", "CODMn", "NH3-N", "TP")
"""Items without which an automatic station has no class: a class of fewer would be of something else."""

AIR: Mapping[str, str] = {"SO2": "so2", "NO2": "no2", "CO": "co", "O3": "o3", "PM10": "pm10", "PM2.5": "pm25"}
"""Properties of pollutants; the station's own mean of an hour is `<property>Hour`."""
WATER: Mapping[str, str] = {
    "pH": "pH", "DO": "O2", "CODMn": "CODMn", "NH3-N": "NH4", "TP": "TP", "TN": "TN", "COD": "COD", "BOD5": "BOD5", "F": "fluoride",
    "Cu": "copper", "Zn": "zinc", "As": "arsenic", "Hg": "mercury", "Cd": "cadmium", "Cr6": "chromiumVI", "Pb": "lead", "CN": "cyanide",
    "phenols": "volatilePhenols", "oil": "petroleum", "LAS": "anionicSurfactants", "S": "sulphide",
}
"""Properties of items of GB 3838-2002. Selenium and faecal coliforms have none."""
WATER_TEMPERATURE = "temperature"
NOISE = "LAeq"
PLACES: Mapping[str, int] = {"pH": 2, "DO": 2, "CODMn": 1, "NH3-N": 2, "TP": 3, "TN": 2}
"""Decimal places to which means of water are rounded before they are judged; three, where none are named. A rule of the house."""


class Reason(NamedTuple):
    """Why something is not told: a rule by name, and what it says."""

    rule: str
    zh: str
    en: str


@dataclass(frozen=True)
class Hours:
    """Hours of one quantity at stations: `value` is NaN where invalid, `count` the readings behind it, `own` says that the station's
    own mean of the hour is used, `origin` is the greatest of the readings' (0 where there is none)."""

    value: Floats
    count: NDArray[np.int64]
    own: NDArray[np.bool_]
    origin: NDArray[np.int64]


def hours(
    mean: Floats, count: NDArray[np.int64], origin: NDArray[np.int64], own: Floats, own_origin: NDArray[np.int64],
    interval_s: NDArray[np.float64],
) -> Hours:
    """The hours that count: the station's own mean where there is one, else the mean of its readings if they cover 45 minutes at the
    interval (stations,) at which it reports; of stations that report less often than hourly each reading stands for its hour."""
    has_own = ~np.isnan(own)
    covered = count * np.maximum(interval_s, 1)[:, None] >= MINUTES_OF_AN_HOUR * 60
    value = np.where(has_own, own, np.where(covered & (count > 0), mean, np.nan))
    return Hours(value, np.where(has_own, 1, count), has_own, np.where(has_own, own_origin, origin))


def why_no_hour(of: Hours, station: int, hour: int, interval_s: float) -> Reason | None:
    """Why an hour does not count."""
    if not np.isnan(of.value[station, hour]):
        return None
    count = int(of.count[station, hour])
    if not count:
        return Reason("absent", "没有有效读数", "no valid reading")
    return Reason(
        "GB 3095, table 4", f"仅 {count} 个读数，按 {interval_s:g} 秒间隔不足 45 分钟",
        f"{count} readings only, less than 45 minutes at an interval of {interval_s:g} s",
    )


def _moving(values: Floats, width: int, least: int) -> Floats:
    """Means of the `width` hours that end with each of the last `shape[1] - LEAD` hours."""
    windows = np.lib.stride_tricks.sliding_window_view(values, width, axis=-1)
    count = np.count_nonzero(~np.isnan(windows), axis=-1)
    found = np.where(count >= least, np.nansum(windows, axis=-1) / np.maximum(count, 1), np.nan)
    return found[:, LEAD - width + 1 :]


@dataclass(frozen=True)
class Air:
    """A day of stations: `day` and `hour` are the assessments, (stations,) and (stations, 24); `means` the day's values by indicator;
    `valid` the hours of the day that count, by pollutant."""

    edition: aqi.Edition
    day: aqi.AirQuality
    hour: aqi.AirQuality
    means: dict[str, Floats]
    valid: dict[str, NDArray[np.int64]]

    def why(self, station: int) -> Iterator[tuple[str, Reason]]:
        """The pollutants without an IAQI of the day, and why."""
        for name, missing in self.day.missing.items():
            if missing[station]:
                count = int(self.valid[name][station])
                asked = ("至少 14 个 8 小时滑动平均", "14 means of eight hours") if name == "O3" else ("至少 20 小时", "20 hours")
                yield name, Reason(
                    "GB 3095, table 4", f"当日有效 {count} 小时，应有{asked[0]}", f"{count} valid hours of the day; {asked[1]} are needed")

    def why_no_aqi(self, station: int) -> Reason | None:
        """Why there is no AQI of the day."""
        if not np.isnan(self.day.aqi[station]):
            return None
        names = [name for name, missing in self.day.missing.items() if missing[station]]
        if len(names) == len(aqi.POLLUTANTS):
            return Reason("GB 3095, table 4", "没有一项污染物数据有效", "no pollutant has enough valid data")
        listed = ", ".join(names)
        return Reason("HJ 633-2026, 5.3.1", f"缺 {listed} 且其余分指数不超过 100", f"{listed} missing, and no other index above 100")


def air(values: Mapping[str, Floats], day: dt.date) -> Air:
    """A day from hours of the six pollutants (stations, 24 + 24): the day before, then the day. Editions by date."""
    edition = aqi.edition(day)
    today = {name: array[:, LEAD:] for name, array in values.items()}
    means = {
        f"{name}_24h": air_statistics.daily_mean(array) for name, array in today.items() if name != "O3"
    } | {"O3_8h": air_statistics.daily_max_8h(today["O3"])}
    if edition is aqi.HJ_633_2012:
        real = {f"{name}_1h": today[name] for name in ("SO2", "NO2", "CO", "O3")}
        real["O3_8h"] = _moving(values["O3"], 8, air_statistics.HOURS_OF_EIGHT)
        real |= {f"{name}_24h": _moving(values[name], 24, air_statistics.HOURS_OF_A_DAY) for name in ("SO2", "PM10", "PM2.5")}
    else:
        real = {f"{name}_1h": array for name, array in today.items()}
    return Air(
        edition, aqi.assess(means, edition), aqi.assess(real, edition, "realtime"), means,
        {name: np.count_nonzero(~np.isnan(array), axis=-1) for name, array in today.items()},
    )


@dataclass(frozen=True)
class Water:
    """A day of stations: `overall` class (0 where there is none), `items` classes, `means`, `hours` that count and `due` ones, `main`."""

    overall: NDArray[np.int64]
    items: dict[str, NDArray[np.int64]]
    means: dict[str, Floats]
    hours: dict[str, NDArray[np.int64]]
    due: NDArray[np.int64]
    main: list[list[tuple[str, float | None]]]

    def why(self, station: int) -> Iterator[tuple[str, Reason]]:
        """The needed items that have no mean of the day, and why."""
        for name in WATER_NEEDS:
            if np.isnan(self.means[name][station]):
                count, due = int(self.hours[name][station]), int(self.due[station])
                yield name, Reason("two thirds of the hours due", f"当日有 {count} 个时段，应有 {due} 个的三分之二",
                                   f"{count} hours of the day; two thirds of {due} are needed")


def water(
    values: Mapping[str, Floats], celsius: Floats, lake: NDArray[np.bool_], interval_s: NDArray[np.float64]
) -> Water:
    """A day from hours (stations, 24) of the items of `WATER`; those of no station may be left out, but not `WATER_NEEDS`."""
    due = np.ceil(np.minimum(24, 86400 / np.maximum(interval_s, 1))).astype(np.int64)
    counts = {name: np.count_nonzero(~np.isnan(array), axis=-1) for name, array in values.items()}
    means = {
        name: half_even(np.where(counts[name] >= due * WATER_SHARE, np.nansum(array, axis=-1) / np.maximum(counts[name], 1), np.nan),
                        PLACES.get(name, 3) if name not in ("Hg", "Cd") else 5)
        for name, array in values.items()
    }
    warm = np.count_nonzero(~np.isnan(celsius), axis=-1)
    degrees = np.where(warm > 0, np.nansum(celsius, axis=-1) / np.maximum(warm, 1), np.nan)
    river, still = surface_water.assess(means, "river", degrees), surface_water.assess(means, "lake", degrees)
    enough = ~np.logical_or.reduce([np.isnan(means[name]) for name in WATER_NEEDS])
    return Water(
        np.where(enough, np.where(lake, still.overall, river.overall), 0),
        {name: np.where(lake, still.items[name], river.items[name]) for name in means}, means, counts, due,
        [(still if lake[n] else river).main[n] for n in range(len(due))],
    )


@dataclass(frozen=True)
class Noise:
    """A day of stations: Ld and Ln, rounded to 0.1 dB(A) (NaN where an hour is missing); `over` the limit of the zone by day and by
    night, NaN without zone or level."""

    day: Floats
    night: Floats
    day_over: Floats
    night_over: Floats
    hours: NDArray[np.int64]

    def why(self, station: int, zone: str | None) -> Iterator[tuple[str, Reason]]:
        """What is not told, and why."""
        for name, level, needed in (("Ld", self.day, 16), ("Ln", self.night, 8)):
            if np.isnan(level[station]):
                yield name, Reason("GB 3096-2008", f"缺小时数据，应有全部 {needed} 小时", f"hours are missing; all {needed} are needed")
        if zone not in noise.GB_3096_2008.zones:
            yield "zone", Reason("GB 3096-2008, 5.1", "未登记声环境功能区", "the station has no acoustic zone")


def sound(levels: Floats, zones: Sequence[str | None]) -> Noise:
    """A day from the equivalent levels of hours (stations, 24) and the stations' zones."""
    by_day, by_night = (half_even(found, 1) for found in noise.day_night(levels))
    day_over, night_over = np.full(len(zones), np.nan), np.full(len(zones), np.nan)
    for zone in noise.GB_3096_2008.zones:
        here = np.array([one == zone for one in zones], bool)
        if here.any():
            found = noise.assess(zone, by_day[here], by_night[here])
            day_over[here], night_over[here] = found.day_over, found.night_over
    return Noise(by_day, by_night, day_over, night_over, np.count_nonzero(~np.isnan(levels), axis=-1))


def category(value: float) -> dict[str, Any] | None:
    """The category of an AQI as JSON."""
    if np.isnan(value):
        return None
    one = aqi.CATEGORIES[int(np.searchsorted([50, 100, 150, 200, 300], value))]
    return {"level": one.level, "zh": one.zh, "en": one.en, "colour": "#{:02x}{:02x}{:02x}".format(*one.rgb)}


def primary(of: aqi.AirQuality, at: tuple[int, ...]) -> list[str]:
    """The primary pollutants."""
    return [name for name, is_primary in of.primary.items() if is_primary[at]]
