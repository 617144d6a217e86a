"""Statistics of ambient air and when they count: how many hours make a day, how many days a month or a year.

Sources: GB 3095-2012, table 4, and GB 3095-2026, table 4 (the same numbers for the six basic items); HJ 663-2013 and HJ 663-2026, clause
6.1.2 (the day's greatest 8-hour mean of ozone, the same in both); HJ 663-2013, annex A (percentiles).

Law: too few values give NaN, never a mean of what happens to be there. Days and years are of local time: the caller cuts them.
"""

from __future__ import annotations

from calendar import monthrange

import numpy as np
from numpy.typing import ArrayLike

from tulou.methods.arrays import Floats, floats, half_even
from tulou.methods.errors import InvalidInput

HOURS_OF_A_DAY = 20
HOURS_OF_EIGHT = 6
EIGHTS_OF_A_DAY = 14
DAYS_OF_A_MONTH, DAYS_OF_FEBRUARY, DAYS_OF_A_YEAR = 27, 25, 324
O3_8H_LIMIT = 160.0  # µg/m³, grade 2, the same in both editions of GB 3095
PERCENTILES = {"SO2": 98.0, "NO2": 98.0, "CO": 95.0, "O3": 90.0, "PM10": 95.0, "PM2.5": 95.0}  # HJ 663-2013, table 3


def _mean(values: Floats, least: int) -> Floats:
    count = np.count_nonzero(~np.isnan(values), axis=-1)
    total = np.nansum(values, axis=-1)
    return np.where(count >= least, total / np.maximum(count, 1), np.nan)


def _days(field: str, hours: ArrayLike) -> Floats:
    array = floats(field, hours)
    if array.ndim == 0 or array.shape[-1] != 24:
        raise InvalidInput(
            f"{field} 的最后一维应为 24 小时", f"the last axis of {field} is not 24 hours",
            field=field, value=array.shape, rule="shape[-1] == 24",
        )
    return array


def daily_mean(hours: ArrayLike) -> Floats:
    """Mean of each natural day: `hours` (..., 24) to (...). NaN with fewer than 20 hours."""
    return _mean(_days("hours", hours), HOURS_OF_A_DAY)


def moving_8h(hours: ArrayLike) -> Floats:
    """Mean of the eight hours that end with each hour: (n,) to (n,). NaN with fewer than 6 of the 8, and for the first seven."""
    array = floats("hours", hours, ndim=1)
    result = np.full(array.shape, np.nan)
    if len(array) >= 8:
        result[7:] = _mean(np.lib.stride_tricks.sliding_window_view(array, 8), HOURS_OF_EIGHT)
    return result


def daily_max_8h(hours: ArrayLike) -> Floats:
    """Greatest 8-hour mean of ozone of each natural day: `hours` (..., 24), the first being 0 to 1 o'clock, to (...), µg/m³.

    The means that end between 8 and 24 o'clock count, 17 of them, so that none reaches into the day before. NaN with fewer than 14,
    unless the greatest of those there are is above 160 µg/m³ already.
    """
    array = _days("hours", hours)
    eights = _mean(np.lib.stride_tricks.sliding_window_view(array, 8, axis=-1), HOURS_OF_EIGHT)
    count = np.count_nonzero(~np.isnan(eights), axis=-1)
    greatest = np.fmax.reduce(eights, axis=-1)
    return np.where((count >= EIGHTS_OF_A_DAY) | (half_even(greatest) > O3_8H_LIMIT), greatest, np.nan)


def monthly_mean(days: ArrayLike, month: int) -> float:
    """Mean of a calendar month from its daily values (n,). NaN with fewer than 27 days, in February 25."""
    return float(_mean(floats("days", days, ndim=1), _days_of(month)))


def year_counts(days: ArrayLike, year: int) -> bool:
    """Whether the daily values of a year (365 or 366,) suffice: 324 days, and 27 of each month (25 of February)."""
    array = floats("days", days, ndim=1)
    lengths = [monthrange(year, month)[1] for month in range(1, 13)]
    if len(array) != sum(lengths):
        raise InvalidInput(
            f"{year} 年有 {sum(lengths)} 天，给出 {len(array)} 个日值", f"{year} has {sum(lengths)} days, not {len(array)}",
            field="days", value=len(array), rule=f"== {sum(lengths)}",
        )
    there = ~np.isnan(array)
    months = np.split(there, np.cumsum(lengths)[:-1])
    enough = all(np.count_nonzero(days) >= _days_of(month) for month, days in enumerate(months, 1))
    return bool(enough and np.count_nonzero(there) >= DAYS_OF_A_YEAR)


def annual_mean(days: ArrayLike, year: int) -> float:
    """Mean of a calendar year from its daily values (365 or 366,). NaN when `year_counts` says no."""
    array = floats("days", days, ndim=1)
    return float(np.nanmean(array)) if year_counts(array, year) else float("nan")


def percentile(values: ArrayLike, percent: float) -> float:
    """The `percent`th percentile of daily values (n,), HJ 663-2013 annex A: linear between the neighbours of place 1 + (n - 1) p.

    NaN without a value. For a year's, ask `year_counts` first. `InvalidInput` for a percentage outside 0 to 100.
    """
    if not 0 <= percent <= 100:
        raise InvalidInput(
            "percent 应在 0 与 100 之间", "percent is not between 0 and 100", field="percent", value=percent, rule="0..100"
        )
    array = floats("values", values, ndim=1)
    array = array[~np.isnan(array)]
    return float(np.percentile(array, percent)) if len(array) else float("nan")


def _days_of(month: int) -> int:
    if month not in range(1, 13):
        raise InvalidInput("month 应为 1 至 12", "month is not 1 to 12", field="month", value=month, rule="1..12")
    return DAYS_OF_FEBRUARY if month == 2 else DAYS_OF_A_MONTH
