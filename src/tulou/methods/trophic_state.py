"""Comprehensive trophic state index of lakes and reservoirs, TLI(Σ).

Source: 湖泊(水库)富营养化评价方法及分级技术规定, 中国环境监测总站, 总站生字〔2001〕090号: five parameters, weights from the correlation with
chlorophyll a in 26 lakes, five grades.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tulou.methods.arrays import Floats, Ints, together
from tulou.methods.errors import InvalidInput

# TLI(j) = 10 (a + b ln c), with the unit of c
PARAMETERS = {
    "chla": (2.5, 1.086),  # mg/m³
    "TP": (9.436, 1.624),  # mg/L
    "TN": (5.453, 1.694),  # mg/L
    "SD": (5.118, -1.94),  # m, transparency
    "CODMn": (0.109, 2.661),  # mg/L
}
CORRELATION_SQUARED = {"chla": 1.0, "TP": 0.7056, "TN": 0.6724, "SD": 0.6889, "CODMn": 0.6889}
GRADES = (
    ("贫营养", "oligotrophic"), ("中营养", "mesotrophic"), ("轻度富营养", "lightly eutrophic"),
    ("中度富营养", "moderately eutrophic"), ("重度富营养", "hypereutrophic"),
)


@dataclass(frozen=True)
class Trophic:
    """`index`: TLI(Σ), NaN when a parameter is missing. `grade`: 1 to 5 (`GRADES[grade - 1]`), 0 for none. `single`: TLI(j)."""

    index: Floats
    grade: Ints
    single: dict[str, Floats]


def assess(values: Mapping[str, ArrayLike]) -> Trophic:
    """TLI(Σ) of `values`: all of chla (mg/m³), TP, TN, CODMn (mg/L), SD (m), arrays of one shape. What is not above zero is missing.

    Grades: below 30, up to 50, up to 60, up to 70, above 70. `InvalidInput` when one of the five is not there at all.
    """
    if set(values) != set(PARAMETERS):
        raise InvalidInput(
            f"应给出五项参数：{', '.join(PARAMETERS)}", f"the five parameters are needed: {', '.join(PARAMETERS)}",
            field="values", value=sorted(values), rule="five parameters",
        )
    given = together(values)
    single = {}
    for name, (constant, slope) in PARAMETERS.items():
        positive = np.where(given[name] > 0, given[name], np.nan)
        single[name] = 10 * (constant + slope * np.log(positive))
    total = sum(CORRELATION_SQUARED.values())
    index = np.sum([CORRELATION_SQUARED[name] / total * single[name] for name in PARAMETERS], axis=0)
    grade = 1 + (index >= 30).astype(np.int64) + (index > 50) + (index > 60) + (index > 70)
    return Trophic(np.asarray(index), np.where(np.isnan(index), 0, grade).astype(np.int64), single)
