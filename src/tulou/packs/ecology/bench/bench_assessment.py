"""How long the assessment of a day takes for 10,000 stations, without the store: the whole province has fewer."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

import numpy as np

from tulou.packs.ecology import assessment

STATIONS = 10_000
NOW = dt.date(2026, 11, 27)


def quickest(work: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return 1000 * min(times)


def test_a_day_of_ten_thousand_stations(figure: Callable[[str, float, str], None]) -> None:
    random = np.random.default_rng(1)
    air = {name: random.gamma(4, 10, (STATIONS, 48)) for name in assessment.AIR}
    figure("air_day_10000", quickest(lambda: assessment.air(air, NOW)), "ms")
    water = {name: random.gamma(4, 0.2, (STATIONS, 24)) for name in assessment.WATER}
    celsius, lake, interval = np.full((STATIONS, 24), 20.0), np.zeros(STATIONS, bool), np.full(STATIONS, 3600.0)
    figure("water_day_10000", quickest(lambda: assessment.water(water, celsius, lake, interval)), "ms")
    levels, zones = random.normal(55, 5, (STATIONS, 24)), ["2"] * STATIONS
    figure("noise_day_10000", quickest(lambda: assessment.sound(levels, zones)), "ms")
