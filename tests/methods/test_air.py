"""Limits, validity and the composite index of ambient air.

Published figures: 河源市城市环境空气质量状况 (2022年2月), composite index 1.73; 奈曼旗大镇 (first quarter), 3.14; GB 3095-2026, tables 1 and 4.
"""

from __future__ import annotations

from datetime import date
from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.methods import air_limits, air_statistics, composite_index
from tulou.methods.arrays import half_even
from tulou.methods.errors import InvalidInput

OLD = air_limits.limits(date(2022, 2, 1))


@pytest.mark.parametrize(
    ("value", "decimals", "rounded"),
    [(0.275, 2, 0.28), (0.325, 2, 0.32), (0.225, 2, 0.22), (34.5, 0, 34), (35.5, 0, 36), (1.25, 1, 1.2), (1.251, 1, 1.3), (-2.5, 0, -2)],
)
def test_gb_t_8170_gives_the_half_to_the_even(value: float, decimals: int, rounded: float) -> None:
    assert float(half_even(value, decimals)) == pytest.approx(rounded, abs=1e-12)


@given(st.floats(0, 1e5), st.integers(0, 3))
def test_rounding_is_near_and_done_once(value: float, decimals: int) -> None:
    once = half_even(value, decimals)
    assert abs(float(once) - value) <= 0.5 * 10**-decimals + 1e-6
    assert half_even(once, decimals) == once


def test_limits_get_stricter_by_their_day() -> None:
    """GB 3095-2026, table 1 and 4.4."""
    wanted = [("2026-02-28", 35, 75), ("2026-03-01", 30, 60), ("2030-12-31", 30, 60), ("2031-01-01", 25, 50)]
    for day, year, daily in wanted:
        grade = air_limits.limits(date.fromisoformat(day)).grade_2
        assert (grade["PM2.5_year"], grade["PM2.5_24h"]) == (year, daily)
    for edition in air_limits.EDITIONS:
        assert all(edition.grade_1[name] <= limit for name, limit in edition.grade_2.items())


@pytest.mark.parametrize(
    ("concentrations", "index", "main"),
    [
        ({"SO2": 3, "NO2": 13, "PM10": 16, "PM2.5": 13, "CO": 0.9, "O3": 87}, 1.73, "O3"),
        ({"SO2": 9, "NO2": 14, "PM10": 77, "PM2.5": 23, "CO": 1.1, "O3": 96}, 3.14, "PM10"),
    ],
    ids=["Heyuan", "Naiman"],
)
def test_published_composite_indices(concentrations: dict[str, float], index: float, main: str) -> None:
    found = composite_index.composite(concentrations, OLD)
    assert float(found.index) == pytest.approx(index, abs=1e-9)
    assert [name for name, is_main in found.main.items() if is_main] == [main]


def test_composite_of_cities_and_their_places() -> None:
    one = {"SO2": 6, "NO2": 20, "PM10": 35, "PM2.5": 21, "CO": 1.0, "O3": 120}
    found = composite_index.composite({**one, "PM2.5": [21, 35, 21, nan]}, OLD)
    assert found.index.tolist()[:3] == pytest.approx([2.7, 3.1, 2.7])
    assert composite_index.rank(found.index).tolist() == [1, 3, 1, 0]
    with pytest.raises(InvalidInput, match="six pollutants"):
        composite_index.composite({"SO2": 6}, OLD)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.floats(0.5, 3))
def test_places_do_not_depend_on_the_scale(values: list[int], factor: float) -> None:
    index = np.array(values, dtype=float)
    places = composite_index.rank(index)
    assert places.min() == 1
    assert composite_index.rank(index * factor).tolist() == places.tolist()


def hours(valid: int, value: float = 40.0) -> np.ndarray:
    day = np.full(24, nan)
    day[:valid] = value
    return day


def test_a_day_needs_twenty_hours() -> None:
    np.testing.assert_equal(air_statistics.daily_mean([hours(24), hours(20), hours(19)]), [40, 40, nan])


def test_eight_hours_need_six() -> None:
    series = np.arange(12.0)
    series[[0, 1]] = nan
    assert isnan(air_statistics.moving_8h(series)[6])
    assert air_statistics.moving_8h(series)[7] == np.mean(series[2:8])
    series[2] = nan
    assert isnan(air_statistics.moving_8h(series)[7])
    assert np.isnan(air_statistics.moving_8h([1.0, 2.0])).all()


def test_the_greatest_eight_hours_of_a_day_need_fourteen_of_seventeen() -> None:
    """HJ 663-2013; above the limit fewer suffice."""
    rising = np.arange(24.0)
    assert float(air_statistics.daily_max_8h(rising)) == np.mean(rising[16:])
    late = np.full(24, nan)
    late[6:] = 100.0  # the first mean with six hours ends at 12 o'clock: 13 means
    assert isnan(float(air_statistics.daily_max_8h(late)))
    assert float(air_statistics.daily_max_8h(late + 61)) == 161.0
    late[5] = 100.0
    assert float(air_statistics.daily_max_8h(late)) == 100.0


def test_months_and_years_need_their_days() -> None:
    month = np.full(31, 10.0)
    month[:4] = nan
    assert air_statistics.monthly_mean(month, 1) == 10.0
    month[4] = nan
    assert isnan(air_statistics.monthly_mean(month, 1))
    assert air_statistics.monthly_mean(month[:30], 2) == 10.0  # 25 days
    year = np.full(366, 5.0)
    assert air_statistics.annual_mean(year, 2024) == 5.0
    year[31:35] = nan  # February of a leap year keeps 25
    assert air_statistics.year_counts(year, 2024)
    year[35] = nan
    assert not air_statistics.year_counts(year, 2024)
    spread = np.full(365, 5.0)
    for start in np.cumsum([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30]):
        spread[start : start + 3] = nan
    assert air_statistics.year_counts(spread, 2023)  # 329
    spread[np.cumsum([5, 31, 28, 31, 30, 31])] = nan
    assert not air_statistics.year_counts(spread, 2023)  # 323, although most months have 27
    with pytest.raises(InvalidInput, match="365"):
        air_statistics.year_counts(year, 2023)


def test_percentiles_by_annex_a() -> None:
    """k = 1 + (n - 1) p: of 1 to 21, the 90th percentile is the 19th value; of 1 to 10 it lies at 9.1."""
    assert air_statistics.percentile(np.arange(1.0, 22), 90) == 19
    assert air_statistics.percentile([*range(1, 11), nan], 90) == pytest.approx(9.1)
    assert isnan(air_statistics.percentile([nan], 90))
    with pytest.raises(InvalidInput, match="0 and 100"):
        air_statistics.percentile([1.0], 101)
