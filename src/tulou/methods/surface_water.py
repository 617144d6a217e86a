"""Quality of surface water: the class of each item, of a section, of a river; exceedance and main pollutants.

Sources: GB 3838-2002, table 1 (24 basic items) and clause 5.1 (the worst single item decides); 地表水环境质量评价办法(试行), 环办〔2011〕22号:
21 items without temperature, total nitrogen and faecal coliforms decide; main pollutants; grades of rivers. Saturation of
dissolved oxygen: 468 / (31.6 + t), HJ 2.3-2018, annex D.

Law: a class is 1 to 5 or 6 (劣Ⅴ类, worse than V); 0 says that nothing was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tulou.methods.arrays import Floats, Ints, floats, together
from tulou.methods.errors import InvalidInput, one_of

Body = Literal["river", "lake"]


@dataclass(frozen=True)
class Standard:
    """Limits of classes I to V by item, mg/L (faecal coliforms: /L); upper ones, of dissolved oxygen (`DO`) lower ones.

    `lake`: what differs in lakes and reservoirs. `ph`: the range of every class.
    """

    standard: str
    valid_from: date
    limits: Mapping[str, tuple[float, float, float, float, float]]
    lake: Mapping[str, tuple[float, float, float, float, float]]
    ph: tuple[float, float]


GB_3838_2002 = Standard(
    standard="GB 3838-2002",
    valid_from=date(2002, 6, 1),
    limits={
        "DO": (7.5, 6, 5, 3, 2),
        "CODMn": (2, 4, 6, 10, 15),
        "COD": (15, 15, 20, 30, 40),
        "BOD5": (3, 3, 4, 6, 10),
        "NH3-N": (0.15, 0.5, 1.0, 1.5, 2.0),
        "TP": (0.02, 0.1, 0.2, 0.3, 0.4),
        "TN": (0.2, 0.5, 1.0, 1.5, 2.0),
        "Cu": (0.01, 1.0, 1.0, 1.0, 1.0),
        "Zn": (0.05, 1.0, 1.0, 2.0, 2.0),
        "F": (1.0, 1.0, 1.0, 1.5, 1.5),
        "Se": (0.01, 0.01, 0.01, 0.02, 0.02),
        "As": (0.05, 0.05, 0.05, 0.1, 0.1),
        "Hg": (0.00005, 0.00005, 0.0001, 0.001, 0.001),
        "Cd": (0.001, 0.005, 0.005, 0.005, 0.01),
        "Cr6": (0.01, 0.05, 0.05, 0.05, 0.1),
        "Pb": (0.01, 0.01, 0.05, 0.05, 0.1),
        "CN": (0.005, 0.05, 0.2, 0.2, 0.2),
        "phenols": (0.002, 0.002, 0.005, 0.01, 0.1),
        "oil": (0.05, 0.05, 0.05, 0.5, 1.0),
        "LAS": (0.2, 0.2, 0.2, 0.3, 0.3),
        "S": (0.05, 0.1, 0.2, 0.5, 1.0),
        "coliforms": (200, 2000, 10000, 20000, 40000),
    },
    lake={"TP": (0.01, 0.025, 0.05, 0.1, 0.2)},
    ph=(6.0, 9.0),
)
EDITIONS = (GB_3838_2002,)

APART = ("TN", "coliforms")  # classed, but they do not decide (环办〔2011〕22号, 一(一)1)
TOXIC = ("CN", "Cu", "Zn", "As", "Hg", "Cd", "Cr6", "Pb")  # cyanide and heavy metals come first among the main pollutants
CLASSES = ("", "Ⅰ类", "Ⅱ类", "Ⅲ类", "Ⅳ类", "Ⅴ类", "劣Ⅴ类")
GRADES = (
    ("", "", ""), ("优", "excellent", "蓝色"), ("优", "excellent", "蓝色"), ("良好", "good", "绿色"),
    ("轻度污染", "lightly polluted", "黄色"), ("中度污染", "moderately polluted", "橙色"),
    ("重度污染", "heavily polluted", "红色"),
)


def oxygen_saturation(celsius: ArrayLike) -> Floats:
    """Dissolved oxygen of saturated fresh water at one atmosphere, mg/L, shape of `celsius` (°C)."""
    return 468.0 / (31.6 + floats("celsius", celsius))


def item_class(
    item: str, values: ArrayLike, body: Body = "river", celsius: ArrayLike | None = None, standard: Standard = GB_3838_2002
) -> Ints:
    """Class of one item (`pH` or a name of `standard.limits`), shape of `values` (mg/L); 0 for NaN and below zero.

    Dissolved oxygen of class I is 7.5 mg/L, or 90 % of saturation where the water's temperature `celsius` is given. Total
    phosphorus has limits of its own in a lake. pH within its range is class I, else worse than V. `InvalidInput` for other items.
    """
    one_of("item", item, ("pH", *standard.limits))
    one_of("body", body, ("river", "lake"))
    array = floats(item, values)
    valid = array >= 0
    if item == "pH":
        low, high = standard.ph
        return np.where(valid, np.where((array >= low) & (array <= high), 1, 6), 0).astype(np.int64)
    if item == "DO":
        limits = np.array(standard.limits["DO"])
        found = 1 + np.count_nonzero(array[..., None] < limits, axis=-1)
        if celsius is not None:
            found = np.where(array >= 0.9 * oxygen_saturation(celsius), 1, found)
    else:
        limits = np.array((standard.lake if body == "lake" else standard.limits).get(item, standard.limits[item]))
        found = 1 + np.count_nonzero(array[..., None] > limits, axis=-1)
    return np.where(valid, found, 0).astype(np.int64)


def exceedance(
    item: str, values: ArrayLike, target: int = 3, body: Body = "river", standard: Standard = GB_3838_2002
) -> Floats:
    """How many times a limit is exceeded, C / S - 1, shape of `values`; 0 where it is kept, NaN where nothing was measured.

    `target`: the class whose limit counts (III unless the section has another). pH and dissolved oxygen have no such number (环办
    〔2011〕22号): `InvalidInput`.
    """
    if item in ("pH", "DO"):
        raise InvalidInput(
            f"{item} 不计算超标倍数", f"{item} has no exceedance multiple", field="item", value=item, rule="环办〔2011〕22号"
        )
    one_of("item", item, standard.limits)
    one_of("target", target, (1, 2, 3, 4, 5))
    limit = (standard.lake if body == "lake" else standard.limits).get(item, standard.limits[item])[target - 1]
    array = floats(item, values)
    return np.where(array >= 0, np.maximum(array / limit - 1, 0), np.nan)


@dataclass(frozen=True)
class Water:
    """`overall` and `items`: classes of the sections; `main`: for each section, in C order, its main pollutants and by how many times
    class III is exceeded (None for pH and dissolved oxygen), at most three, worst first; none up to class III."""

    overall: Ints
    items: dict[str, Ints]
    main: list[list[tuple[str, float | None]]]


def assess(
    values: Mapping[str, ArrayLike], body: Body = "river", celsius: ArrayLike | None = None,
    standard: Standard = GB_3838_2002,
) -> Water:
    """Single-factor assessment of `values` by item (mg/L), arrays of one shape (sections).

    Main pollutants of a section worse than class III: cyanide and heavy metals that exceed III first, then the items of the worst
    class, among equals the greatest exceedance; pH and dissolved oxygen, which have none, after those of their class.
    """
    given = together(values)
    items = {item: item_class(item, array, body, celsius, standard) for item, array in given.items()}
    deciding = [found for item, found in items.items() if item not in APART]
    overall = np.asarray(np.max(deciding, axis=0) if deciding else np.zeros((), np.int64))
    multiples = {item: exceedance(item, given[item], 3, body, standard) for item in given if item not in ("pH", "DO")}
    main: list[list[tuple[str, float | None]]] = []
    for place in range(overall.size):
        over = []
        for item, found in items.items():
            grade = int(np.broadcast_to(found, overall.shape).flat[place])
            if grade > 3 and item not in APART:
                multiple = float(multiples[item].flat[place]) if item in multiples else None
                over.append((item not in TOXIC, -grade, 0.0 if multiple is None else -multiple, item, multiple))
        over.sort(key=lambda entry: entry[:4])
        main.append([(item, multiple) for *_, item, multiple in over[:3]])
    return Water(overall, items, main)


def river_grade(overall: ArrayLike) -> tuple[str, str]:
    """Grade of a river or basin, Chinese and English, from the classes (n,) of its sections, of which there are five or more.

    环办〔2011〕22号, 二(一)2: by the shares of classes I to III and of worse than V. With fewer sections the concentrations are averaged and
    assessed as one section: `InvalidInput`. Sections of class 0 do not count.
    """
    classes = np.asarray(overall)
    classes = classes[classes > 0]
    if len(classes) < 5:
        raise InvalidInput(
            "少于 5 个断面时应先求各断面浓度均值再评价", "with fewer than five sections assess the means of the concentrations",
            field="overall", value=len(classes), rule=">= 5",
        )
    good, bad = np.mean(classes <= 3), np.mean(classes == 6)
    if good >= 0.9:
        return "优", "excellent"
    if good >= 0.75:
        return "良好", "good"
    if bad < 0.2:
        return "轻度污染", "lightly polluted"
    return ("中度污染", "moderately polluted") if bad < 0.4 else ("重度污染", "heavily polluted")
