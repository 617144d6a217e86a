"""Limits of ambient air: GB 3095, basic items of table 1.

Sources: GB 3095-2012 with its amendment 1 (2018), table 1, nationwide from 2016-01-01; GB 3095-2026, table 1 and clause 4.4:
limits of a transition from 2026-03-01 to 2030-12-31, stricter ones after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from tulou.methods import dated


@dataclass(frozen=True)
class Limits:
    """Limits of one edition: `grade_1` and `grade_2` by indicator (`SO2_year`, `SO2_24h`, `SO2_1h`, ...), in µg/m³; CO in mg/m³."""

    standard: str
    valid_from: date
    grade_1: Mapping[str, float]
    grade_2: Mapping[str, float]


_NAMES = (
    "SO2_year", "SO2_24h", "SO2_1h", "NO2_year", "NO2_24h", "NO2_1h", "CO_24h", "CO_1h", "O3_8h", "O3_1h",
    "PM10_year", "PM10_24h", "PM2.5_year", "PM2.5_24h",
)


def _limits(standard: str, valid_from: date, grade_1: tuple[float, ...], grade_2: tuple[float, ...]) -> Limits:
    return Limits(
        standard, valid_from, dict(zip(_NAMES, grade_1, strict=True)), dict(zip(_NAMES, grade_2, strict=True))
    )


EDITIONS = (
    _limits("GB 3095-2012", date(2016, 1, 1),
            (20, 50, 150, 40, 80, 200, 4, 10, 100, 160, 40, 50, 15, 35),
            (60, 150, 500, 40, 80, 200, 4, 10, 160, 200, 70, 150, 35, 75)),
    _limits("GB 3095-2026, transition", date(2026, 3, 1),
            (20, 50, 150, 40, 80, 200, 4, 10, 100, 160, 40, 50, 15, 35),
            (60, 150, 500, 40, 80, 200, 4, 10, 160, 200, 60, 120, 30, 60)),
    _limits("GB 3095-2026", date(2031, 1, 1),
            (20, 50, 150, 30, 50, 200, 4, 10, 100, 160, 20, 50, 10, 25),
            (20, 50, 150, 30, 50, 200, 4, 10, 160, 200, 50, 100, 25, 50)),
)


def limits(on: date) -> Limits:
    """The limits in force on the day `on`. `InvalidInput` before 2016."""
    return dated.in_force(EDITIONS, on)
