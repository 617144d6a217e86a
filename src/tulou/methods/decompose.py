"""Seasonal decomposition by LOESS: trend, one or more seasons, residual.

Sources: STL (Cleveland, Cleveland, McRae & Terpenning 1990), MSTL (Bandara, Hyndman & Bergmeir 2021), both as in statsmodels. What is missing is
put in by linear interpolation for the fit, and has no residual.

Law: it looks at the whole series, so it is for looking back; a forecast must not be made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from statsmodels.tsa.seasonal import MSTL, STL

from tulou.methods.arrays import Floats, floats
from tulou.methods.errors import InvalidInput, at_least


@dataclass(frozen=True)
class Decomposition:
    """`trend` (n,), `seasonal` (n, number of periods), `residual` (n,), in the unit of the values; where there was one,
    value = trend + seasons + residual. `residual` is NaN where the value was."""

    trend: Floats
    seasonal: Floats
    residual: Floats


def decompose(values: ArrayLike, periods: Sequence[int], robust: bool = True) -> Decomposition:
    """STL with one period, MSTL with several (in steps, ascending: 24 and 168 for hours), of equally spaced `values` (n,).

    `robust`: outliers bend the fit little, and stay in the residual, when there are enough cycles (six or more of the longest
    period): of four, a season takes a spike for its own. `InvalidInput`: no period, one below 2, fewer than two full cycles of
    the longest, or more than half of the values missing.
    """
    array = floats("values", values, ndim=1)
    if not periods or list(periods) != sorted(set(periods)):
        raise InvalidInput(
            "periods 应为一个或多个递增的周期", "periods are not one or more, ascending",
            field="periods", value=list(periods), rule="ascending",
        )
    at_least("periods", periods[0], 2)
    at_least("len(values)", len(array), 2 * periods[-1] + 1)
    there = ~np.isnan(array)
    at_least("valid values", int(there.sum()), len(array) / 2)
    places = np.arange(len(array))
    filled = np.interp(places, places[there], array[there])
    if len(periods) == 1:
        found = STL(filled, period=periods[0], robust=robust).fit()
    else:
        found = MSTL(filled, periods=tuple(periods), stl_kwargs={"robust": robust}).fit()
    seasonal = np.asarray(found.seasonal, dtype=np.float64).reshape(len(array), len(periods))
    trend = np.asarray(found.trend, dtype=np.float64)
    return Decomposition(trend, seasonal, array - trend - seasonal.sum(axis=1))
