"""Trends: Theil-Sen slope and Mann-Kendall, also by season.

Sources: Sen 1968 (slope); Mann 1945, Kendall 1975 (test, with ties); Hirsch, Slack & Smith 1982 (seasons); Hirsch & Slack 1984 (seasons that
depend on each other). Computed by scipy.stats.theilslopes and pymannkendall; both take every pair, so n is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymannkendall
from numpy.typing import ArrayLike
from scipy import stats

from tulou.methods.arrays import floats
from tulou.methods.errors import InvalidInput, at_least

MOST = 5000  # values: 12.5 million pairs


@dataclass(frozen=True)
class Slope:
    """`slope` per unit of time with its interval `low` to `high`; `intercept`: median of values - slope x median of times."""

    slope: float
    intercept: float
    low: float
    high: float


def theil_sen(values: ArrayLike, times: ArrayLike | None = None, confidence: float = 0.95) -> Slope:
    """Theil-Sen slope of `values` (n,) at `times` (n,), in any unit, by default 0, 1, ...; NaN values do not count.

    `InvalidInput` with fewer than two values, more than 5000, or lengths that differ.
    """
    y = floats("values", values, ndim=1)
    x = np.arange(len(y), dtype=np.float64) if times is None else floats("times", times, ndim=1)
    if x.shape != y.shape:
        raise InvalidInput(
            "values 与 times 长度不同", "values and times differ in length", field="times", value=x.shape, rule=f"== {y.shape}"
        )
    there = ~np.isnan(y) & ~np.isnan(x)
    _bounded(int(there.sum()), 2)
    found = stats.theilslopes(y[there], x[there], alpha=confidence)
    return Slope(float(found.slope), float(found.intercept), float(found.low_slope), float(found.high_slope))


@dataclass(frozen=True)
class Trend:
    """`direction`: -1, 0 or 1, 0 where `p` (two-sided) is not below alpha. `s`: Kendall's S; `variance`: of S, with ties; `z`: with the
    correction of continuity; `tau`; `slope`: Sen's, per step, by season per year of `period` steps."""

    direction: int
    p: float
    z: float
    tau: float
    s: float
    variance: float
    slope: float


def mann_kendall(values: ArrayLike, alpha: float = 0.05) -> Trend:
    """Mann-Kendall test of `values` (n,), equally spaced, NaN where missing. `InvalidInput` with fewer than 4, more than 5000."""
    array = floats("values", values, ndim=1)
    _bounded(int(np.count_nonzero(~np.isnan(array))), 4)
    return _trend(pymannkendall.original_test(array, alpha=alpha))


def seasonal_mann_kendall(values: ArrayLike, period: int = 12, alpha: float = 0.05, dependent: bool = False) -> Trend:
    """Mann-Kendall within each of `period` seasons, summed. `dependent`: with the covariances of the seasons (Hirsch & Slack), which a
    series of a few years cannot bear: ten years or more are advised there.

    `InvalidInput` with a period below 2, fewer than two full periods, or more than 5000 values.
    """
    array = floats("values", values, ndim=1)
    at_least("period", period, 2)
    _bounded(len(array), 2 * period)
    test = pymannkendall.correlated_seasonal_test if dependent else pymannkendall.seasonal_test
    return _trend(test(array, period=period, alpha=alpha))


def _bounded(count: int, least: int) -> None:
    if not least <= count <= MOST:
        raise InvalidInput(
            f"有效值 {count} 个，应在 {least} 与 {MOST} 之间", f"{count} values, not between {least} and {MOST}",
            field="values", value=count, rule=f"{least}..{MOST}",
        )


def _trend(found: Any) -> Trend:
    direction = {"increasing": 1, "decreasing": -1, "no trend": 0}[found.trend]
    numbers = (found.p, found.z, found.Tau, found.s, found.var_s, found.slope)
    return Trend(direction, *(float(number) for number in numbers))
