"""Composite index of ambient air (环境空气质量综合指数) and the ranking of cities by it.

Sources: HJ 663-2013, clause 5.4 (single indices and their sum); 城市环境空气质量排名技术规定 (2014, 2018). Concentrations are rounded as
for the AQI, each single index by GB/T 8170 to two places, then summed: so the published figures of Heyuan (February 2022: 1.73) and
Naiman (first quarter: 3.14) come out, and with unrounded parts they do not.

Not here: the composite index of HJ 663-2026, in force since 2026-03-01, whose text was not at hand. For later months this is no official
figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tulou.methods.air_limits import Limits
from tulou.methods.aqi import POLLUTANTS
from tulou.methods.arrays import Bools, Floats, Ints, floats, half_even, together
from tulou.methods.errors import InvalidInput

LIMIT_OF = {
    "SO2": "SO2_year", "NO2": "NO2_year", "CO": "CO_24h", "O3": "O3_8h", "PM10": "PM10_year", "PM2.5": "PM2.5_year"
}


@dataclass(frozen=True)
class Composite:
    """`index`: the sum, NaN when one of the six is missing. `single`: by pollutant. `main`: has the greatest single index."""

    index: Floats
    single: dict[str, Floats]
    main: dict[str, Bools]


def composite(concentrations: Mapping[str, ArrayLike], limits: Limits) -> Composite:
    """Composite index of a month, quarter or year, arrays of one shape (cities).

    `concentrations`, of all six pollutants, µg/m³, CO in mg/m³: means of the period; of CO the 95th percentile of daily means, of O3 the
    90th of the daily maxima of eight hours. `limits`: those of grade 2 count, for the year; for CO the day's, for O3 the eight hours'.
    `InvalidInput` when one of the six is not there at all.
    """
    if set(concentrations) != set(POLLUTANTS):
        raise InvalidInput(
            f"应给出六项污染物：{', '.join(POLLUTANTS)}", f"the six pollutants are needed: {', '.join(POLLUTANTS)}",
            field="concentrations", value=sorted(concentrations), rule="six pollutants",
        )
    given = together(concentrations)
    single = {
        name: half_even(half_even(given[name], 1 if name == "CO" else 0) / limits.grade_2[LIMIT_OF[name]], 2)
        for name in POLLUTANTS
    }
    index = half_even(np.sum([single[name] for name in POLLUTANTS], axis=0), 2)
    greatest = np.max([single[name] for name in POLLUTANTS], axis=0)
    return Composite(index, single, {name: value == greatest for name, value in single.items()})


def rank(index: ArrayLike) -> Ints:
    """Places of cities by `index` (n,), the least first; equals share a place and the next ones are left out; 0 for NaN."""
    values = floats("index", index, ndim=1)
    place = np.searchsorted(np.sort(values[~np.isnan(values)]), values) + 1
    return np.where(np.isnan(values), 0, place).astype(np.int64)
