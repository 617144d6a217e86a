"""Air quality index of China: IAQI, AQI, primary and non-attainment pollutants, levels and colours.

Sources: HJ 633-2012, tables 1, 2, A.1 and clauses 4.2 to 4.4, 5.1, 6.2; HJ 633-2026, tables 1 and 3 and clauses 4.2, 4.3, 5.3. Both
round every IAQI up to a whole number; whole numbers are used to do it, since in binary 25 x (2.8 - 2) + 50 is a little more than 70.
Concentrations are rounded by GB/T 8170 first: CO to 0.1 mg/m³, the others to 1 µg/m³ (HJ 633-2026, 4.2.2; for 2012 it is what
GB 3095-2012 and practice have, HJ 633-2012 itself is silent).

Law: an IAQI depends on one pollutant alone; a missing pollutant is named, and never counts as clean.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tulou.methods import dated
from tulou.methods.arrays import Bools, Floats, Ints, floats, half_even, together
from tulou.methods.errors import one_of

POLLUTANTS = ("SO2", "NO2", "CO", "O3", "PM10", "PM2.5")
INDEX = np.array([0, 50, 100, 150, 200, 300, 400, 500], dtype=np.int64)
Report = Literal["daily", "realtime"]


@dataclass(frozen=True)
class Edition:
    """One edition of HJ 633.

    `breakpoints`: concentrations of the index values 0, 50, ... by indicator, in µg/m³, CO in mg/m³. `beyond`: the IAQI above the last
    breakpoint of a column that ends early; None: that of the indicator in `instead`. `reports`: the indicators of each pollutant, the
    worst of which counts. `withholds`: an AQI of at most 100 is not told when a pollutant is missing (HJ 633-2026, 5.3.1).
    """

    standard: str
    valid_from: date
    breakpoints: Mapping[str, tuple[int, ...]]
    beyond: Mapping[str, int | None]
    instead: Mapping[str, str]
    reports: Mapping[Report, Mapping[str, tuple[str, ...]]]
    withholds: bool


@dataclass(frozen=True)
class Category:
    """A level of table 2 (2012) or 1 (2026) with its colour on screens (HJ 633-2012, table A.1)."""

    level: int
    zh: str
    en: str
    colour: str
    rgb: tuple[int, int, int]


CATEGORIES = (
    Category(1, "优", "Excellent", "绿色", (0, 228, 0)),
    Category(2, "良", "Good", "黄色", (255, 255, 0)),
    Category(3, "轻度污染", "Lightly polluted", "橙色", (255, 126, 0)),
    Category(4, "中度污染", "Moderately polluted", "红色", (255, 0, 0)),
    Category(5, "重度污染", "Heavily polluted", "紫色", (153, 0, 76)),
    Category(6, "严重污染", "Severely polluted", "褐红色", (126, 0, 35)),
)

_BREAKPOINTS: dict[str, tuple[int, ...]] = {
    "SO2_24h": (0, 50, 150, 475, 800, 1600, 2100, 2620),
    "SO2_1h": (0, 150, 500, 650, 800),
    "NO2_24h": (0, 40, 80, 180, 280, 565, 750, 940),
    "NO2_1h": (0, 100, 200, 700, 1200, 2340, 3090, 3840),
    "CO_24h": (0, 2, 4, 14, 24, 36, 48, 60),
    "CO_1h": (0, 5, 10, 35, 60, 90, 120, 150),
    "O3_8h": (0, 100, 160, 215, 265, 800),
    "O3_1h": (0, 160, 200, 300, 400, 800, 1000, 1200),
}
_PM10_2026 = (0, 50, 120, 250, 350, 420, 500, 600)
_PM25_2026 = (0, 35, 60, 115, 150, 250, 350, 500)

HJ_633_2012 = Edition(
    standard="HJ 633-2012",
    valid_from=date(2016, 1, 1),  # nationwide, with GB 3095-2012; cities took it up from 2012 on
    breakpoints=_BREAKPOINTS | {
        "PM10_24h": (0, 50, 150, 250, 350, 420, 500, 600), "PM2.5_24h": (0, 35, 75, 115, 150, 250, 350, 500)
    },
    beyond={"SO2_1h": None, "O3_8h": None},
    instead={"SO2_1h": "SO2_24h", "O3_8h": "O3_1h"},
    reports={
        "daily": {
            "SO2": ("SO2_24h",), "NO2": ("NO2_24h",), "CO": ("CO_24h",), "O3": ("O3_8h", "O3_1h"),
            "PM10": ("PM10_24h",), "PM2.5": ("PM2.5_24h",),
        },
        "realtime": {
            "SO2": ("SO2_1h",), "NO2": ("NO2_1h",), "CO": ("CO_1h",), "O3": ("O3_1h", "O3_8h"),
            "PM10": ("PM10_24h",), "PM2.5": ("PM2.5_24h",),
        },
    },
    withholds=False,
)

HJ_633_2026 = Edition(
    standard="HJ 633-2026",
    valid_from=date(2026, 3, 1),
    breakpoints=_BREAKPOINTS | {
        "PM10_24h": _PM10_2026, "PM10_1h": _PM10_2026, "PM2.5_24h": _PM25_2026, "PM2.5_1h": _PM25_2026
    },
    beyond={"SO2_1h": 200, "O3_8h": 300},
    instead={},
    reports={
        "daily": {
            "SO2": ("SO2_24h",), "NO2": ("NO2_24h",), "CO": ("CO_24h",), "O3": ("O3_8h",),
            "PM10": ("PM10_24h",), "PM2.5": ("PM2.5_24h",),
        },
        "realtime": {pollutant: (f"{pollutant}_1h",) for pollutant in POLLUTANTS},
    },
    withholds=True,
)

EDITIONS = (HJ_633_2012, HJ_633_2026)


def edition(on: date) -> Edition:
    """The edition in force on the day `on`. `InvalidInput` before 2016: name `HJ_633_2012` for a city that used it earlier."""
    return dated.in_force(EDITIONS, on)


def iaqi(indicator: str, concentration: ArrayLike, edition: Edition) -> Floats:
    """IAQI of one indicator (`PM2.5_24h`, `O3_8h`, ...), shape of `concentration`; whole numbers from 0 to 500, or NaN.

    `concentration`: µg/m³, CO in mg/m³. NaN for what is missing or negative, and above the end of a column that this edition does not
    continue (2012: SO2 of one hour and O3 of eight hours above 800 µg/m³). Above the last breakpoint of a full column it stays 500.
    `InvalidInput` for an indicator that the edition does not have.
    """
    one_of("indicator", indicator, edition.breakpoints)
    decimals = 1 if indicator.startswith("CO_") else 0
    limits = np.array(edition.breakpoints[indicator], dtype=np.int64) * 10**decimals
    rounded = half_even(floats("concentration", concentration), decimals)
    valid = np.isfinite(rounded) & (rounded >= 0)
    units = np.minimum(np.where(valid, np.rint(rounded * 10**decimals), 0), limits[-1] + 1).astype(np.int64)
    upper = np.clip(np.searchsorted(limits, units), 1, len(limits) - 1)
    low, high = limits[upper - 1], limits[upper]
    rise = (INDEX[upper] - INDEX[upper - 1]) * (units - low)
    value = (INDEX[upper - 1] - (-rise // (high - low))).astype(np.float64)
    beyond = edition.beyond.get(indicator, int(INDEX[len(limits) - 1]))
    value = np.where(units > limits[-1], np.nan if beyond is None else beyond, value)
    return np.where(valid, value, np.nan)


@dataclass(frozen=True)
class AirQuality:
    """An assessment; every array has the shape of the concentrations, the mappings have the six pollutants as keys.

    `aqi`: NaN where there is none. `level`: 1 to 6 (`CATEGORIES[level - 1]`), 0 where there is no AQI. `primary`: IAQI is the greatest
    and the AQI above 50. `non_attainment`: IAQI above 100. `missing`: no IAQI.
    """

    edition: Edition
    aqi: Floats
    level: Ints
    iaqi: dict[str, Floats]
    primary: dict[str, Bools]
    non_attainment: dict[str, Bools]
    missing: dict[str, Bools]


def assess(
    concentrations: Mapping[str, ArrayLike], edition: Edition, report: Report = "daily", not_monitored: Collection[str] = ()
) -> AirQuality:
    """AQI of `concentrations` by indicator (µg/m³, CO in mg/m³), arrays of one shape.

    2012, daily: SO2, NO2, CO, PM10, PM2.5 of 24 hours, `O3_8h` and, where given, `O3_1h` (5.1.2 lists both; daily reports in use
    give eight hours alone). 2012, real time: hours of SO2, NO2, CO, O3, `O3_8h`, and moving days of PM10 and PM2.5; `SO2_24h` counts
    where `SO2_1h` is above 800. 2026: the six of 4.2.2 or 4.2.3. `not_monitored`: pollutants that the plan does not measure and that
    5.3.2 of 2026 lets be missing. `InvalidInput` for other indicators, pollutants or shapes.
    """
    one_of("report", report, edition.reports)
    wanted = edition.reports[report]
    used = {name for names in wanted.values() for name in names}
    used |= {edition.instead[name] for name in used if name in edition.instead}
    for name in concentrations:
        one_of("indicator", name, sorted(used))
    for name in not_monitored:
        one_of("not_monitored", name, POLLUTANTS)
    given = together(concentrations)
    shape = next((array.shape for array in given.values()), ())
    single = {name: iaqi(name, given[name], edition) if name in given else np.full(shape, np.nan) for name in used}
    for name, other in edition.instead.items():
        if name in given:
            over = half_even(given[name]) > edition.breakpoints[name][-1]
            single[name] = np.where(over, single[other], single[name])
    index = {
        pollutant: np.fmax.reduce([single[name] for name in names]) for pollutant, names in wanted.items()
    }
    aqi = np.asarray(np.fmax.reduce(list(index.values())))
    missing = {pollutant: np.isnan(value) for pollutant, value in index.items()}
    if edition.withholds:
        counts = np.logical_or.reduce([missing[name] for name in POLLUTANTS if name not in not_monitored])
        aqi = np.where(counts & (aqi <= 100), np.nan, aqi)
    return AirQuality(
        edition=edition,
        aqi=aqi,
        level=np.where(np.isnan(aqi), 0, np.searchsorted([50, 100, 150, 200, 300], aqi) + 1).astype(np.int64),
        iaqi=index,
        primary={name: (value == aqi) & (aqi > 50) for name, value in index.items()},
        non_attainment={name: value > 100 for name, value in index.items()},
        missing=missing,
    )
