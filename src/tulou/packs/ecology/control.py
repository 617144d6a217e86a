"""Automatic control of hours: values that are stuck, and spikes.

Law: pure. The bounds are rules of the house, chosen so that what they find is hardly air or water: no standard at hand has numbers.
What is outside a property's range is marked bad as it comes (the model), and what a station's flags say too (docs/access.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tulou.methods.arrays import Floats

SPIKE: Mapping[str, float] = {
    "pm25": 500, "pm10": 1000, "so2": 500, "no2": 300, "co": 20, "o3": 300, "pH": 2, "O2": 10, "CODMn": 30, "NH4": 10, "TP": 3,
}
"""An hour that is so far above or below both its neighbours is a spike."""
STUCK: Mapping[str, int] = {"pm25": 12, "pm10": 12, "no2": 12, "o3": 12, "CODMn": 24, "NH4": 24}
"""So many hours with one single value are stuck; sulphur dioxide and carbon monoxide lie at their limit of detection for days."""


class Mark(NamedTuple):
    """An hour (its place) that is bad, by which rule."""

    station: int
    hour: int
    rule: str
    zh: str
    en: str


def control(name: str, mean: Floats, low: Floats, high: Floats) -> Iterator[Mark]:
    """The bad hours of a property `name` at stations (stations, hours); NaN where there is nothing."""
    if name in SPIKE:
        before, here, after = mean[:, :-2], mean[:, 1:-1], mean[:, 2:]
        rise, fall = here - before, here - after
        for station, hour in zip(*np.nonzero((np.sign(rise) == np.sign(fall)) & (np.minimum(abs(rise), abs(fall)) > SPIKE[name])), strict=True):
            yield Mark(int(station), int(hour) + 1, "spike", f"与前后小时相差均超过 {SPIKE[name]:g}", f"more than {SPIKE[name]:g} from both neighbours")
    if name in STUCK:
        least = STUCK[name]
        for station in range(len(mean)):
            for begin, end in _runs(low[station], high[station]):
                if end - begin >= least:
                    for hour in range(begin, end):
                        yield Mark(station, hour, "stuck", f"连续 {end - begin} 小时数值不变", f"one value for {end - begin} hours")


def _runs(low: Floats, high: Floats) -> Iterator[tuple[int, int]]:
    """Runs of hours, one after the other, in which there is one value."""
    flat: NDArray[np.bool_] = low == high
    begin = 0
    for hour in range(1, len(low) + 1):
        if hour == len(low) or not (flat[hour] and flat[hour - 1] and low[hour] == low[hour - 1]):
            if flat[begin]:
                yield begin, hour
            begin = hour
