"""AQI by HJ 633-2012 and HJ 633-2026: their tables word for word, rounding, what is beyond a column, what is missing.

Worked numbers: 2012, table 1; 2026, tables 1 and 3, clauses 4.2.6, 4.3.1, 5.3; the published tests of a tool for HJ 633-2026 (PM2.5 of 75 is 114,
PM10 of 150 is 112); `Fraction` as judge of the rounding.
"""

from __future__ import annotations

from datetime import date
from fractions import Fraction
from math import ceil, isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.methods import aqi
from tulou.methods.aqi import HJ_633_2012, HJ_633_2026, INDEX, assess, iaqi
from tulou.methods.errors import InvalidInput

EDITIONS = pytest.mark.parametrize("edition", aqi.EDITIONS, ids=lambda edition: edition.standard)
CLEAN = {"SO2_24h": 5, "NO2_24h": 10, "CO_24h": 0.4, "O3_8h": 60, "PM10_24h": 20, "PM2.5_24h": 10}


def test_an_edition_counts_from_its_day() -> None:
    assert aqi.edition(date(2026, 2, 28)) is HJ_633_2012
    assert aqi.edition(date(2026, 3, 1)) is HJ_633_2026
    with pytest.raises(InvalidInput, match="HJ 633-2012") as raised:
        aqi.edition(date(2015, 12, 31))
    assert (raised.value.field, raised.value.value) == ("on", date(2015, 12, 31))
    assert "实施日期" in raised.value.zh


@EDITIONS
def test_breakpoints_have_the_index_of_their_row(edition: aqi.Edition) -> None:
    for indicator, limits in edition.breakpoints.items():
        assert iaqi(indicator, limits, edition).tolist() == INDEX[: len(limits)].tolist()


def test_the_editions_differ_in_particles_alone() -> None:
    old, new = HJ_633_2012.breakpoints, HJ_633_2026.breakpoints
    assert {name for name in old if old[name] != new[name]} == {"PM10_24h", "PM2.5_24h"}
    assert (old["PM2.5_24h"][2], new["PM2.5_24h"][2]) == (75, 60)
    assert (old["PM10_24h"][2], new["PM10_24h"][2]) == (150, 120)


@pytest.mark.parametrize(
    ("edition", "indicator", "concentration", "index"),
    [
        (HJ_633_2026, "PM2.5_24h", 75, 114), (HJ_633_2026, "PM10_24h", 150, 112), (HJ_633_2012, "PM2.5_24h", 75, 100),
        (HJ_633_2012, "PM10_24h", 150, 100), (HJ_633_2026, "NO2_1h", 350, 115), (HJ_633_2026, "PM2.5_1h", 60, 100),
        (HJ_633_2012, "CO_24h", 2.8, 70),  # 69.99999999999999 or 70.00000000000001 in binary
        (HJ_633_2026, "PM2.5_24h", 800, 500), (HJ_633_2012, "O3_8h", 800, 300), (HJ_633_2012, "O3_8h", 801, nan),
        (HJ_633_2026, "O3_8h", 801, 300), (HJ_633_2012, "SO2_1h", 801, nan), (HJ_633_2026, "SO2_1h", 2000, 200),
        (HJ_633_2012, "O3_8h", 800.4, 300),  # rounds to 800
        (HJ_633_2012, "PM2.5_24h", 35.5, 52), (HJ_633_2012, "PM2.5_24h", 34.5, 49),  # 36 and 34: half to even
        (HJ_633_2012, "PM2.5_24h", nan, nan), (HJ_633_2012, "PM2.5_24h", -3, nan), (HJ_633_2012, "PM2.5_24h", np.inf, nan),
    ],
)
def test_iaqi(edition: aqi.Edition, indicator: str, concentration: float, index: float) -> None:
    np.testing.assert_equal(float(iaqi(indicator, concentration, edition)), index)


@EDITIONS
@given(data=st.data())
def test_iaqi_is_the_exact_value_rounded_up(edition: aqi.Edition, data: st.DataObject) -> None:
    """4.2 and 6.2 of 2012; 4.2.4 and 4.2.6 of 2026."""
    indicator = data.draw(st.sampled_from(sorted(edition.breakpoints)))
    limits = edition.breakpoints[indicator]
    tenths = data.draw(st.integers(0, limits[-1] * 10))
    c = Fraction(tenths, 10) if indicator.startswith("CO") else Fraction(tenths // 10)
    row = max(1, next(row for row, limit in enumerate(limits) if c <= limit))
    low, high = limits[row - 1 : row + 1]
    exact = Fraction(int(INDEX[row] - INDEX[row - 1]), high - low) * (c - low) + int(INDEX[row - 1])
    assert float(iaqi(indicator, float(c), edition)) == ceil(exact)


@EDITIONS
@given(data=st.data())
def test_more_of_a_pollutant_is_never_better(edition: aqi.Edition, data: st.DataObject) -> None:
    indicator = data.draw(st.sampled_from(sorted(set(edition.breakpoints) - {"SO2_1h", "O3_8h"})))
    concentrations = np.sort(data.draw(st.lists(st.floats(0, 5000), min_size=2, max_size=20)))
    assert np.all(np.diff(iaqi(indicator, concentrations, edition)) >= 0)


def test_the_worst_pollutant_is_the_aqi_and_primary_above_50() -> None:
    found = assess(CLEAN | {"PM2.5_24h": [10, 60, 115], "PM10_24h": [20, 120, 20]}, HJ_633_2026)
    assert found.aqi.tolist() == [30, 100, 150]
    assert found.level.tolist() == [1, 2, 3]
    assert [aqi.CATEGORIES[level - 1].zh for level in found.level] == ["优", "良", "轻度污染"]
    assert found.primary["PM2.5"].tolist() == [False, True, True]
    assert found.primary["PM10"].tolist() == [False, True, False]  # 并列
    assert found.primary["O3"].tolist() == [False, False, False]
    assert found.non_attainment["PM2.5"].tolist() == [False, False, True]


@given(st.permutations(sorted(CLEAN)))
def test_the_order_of_pollutants_does_not_matter(order: list[str]) -> None:
    assert float(assess({name: CLEAN[name] for name in order}, HJ_633_2012).aqi) == 30


@pytest.mark.parametrize(("index", "level"), [(50, 1), (51, 2), (100, 2), (101, 3), (150, 3), (200, 4), (201, 5), (300, 5), (301, 6)])
def test_levels(index: int, level: int) -> None:
    exact = np.interp(index, INDEX, HJ_633_2012.breakpoints["NO2_1h"])
    found = assess({"NO2_1h": np.floor(exact)}, HJ_633_2012, "realtime")
    assert (int(found.aqi), int(found.level)) == (index, level)


def test_2012_reports_ozone_above_800_by_the_hour() -> None:
    """Table 1, note 3; without the hour there is none."""
    by_hour = assess(CLEAN | {"O3_8h": [790, 810], "O3_1h": [400, 1000]}, HJ_633_2012)
    assert by_hour.iaqi["O3"].tolist() == [299, 400]
    alone = assess(CLEAN | {"O3_8h": 810}, HJ_633_2012)
    assert isnan(float(alone.iaqi["O3"]))
    assert bool(alone.missing["O3"])


def test_2012_reports_sulphur_dioxide_above_800_by_the_day() -> None:
    """Table 1, note 2; below it the day does not count in real time."""
    found = assess({"SO2_1h": [700, 900], "SO2_24h": [1600, 475]}, HJ_633_2012, "realtime")
    assert found.iaqi["SO2"].tolist() == [167, 150]


def test_2012_takes_moving_days_of_particles_in_real_time_and_2026_hours() -> None:
    assert float(assess({"PM2.5_24h": 75}, HJ_633_2012, "realtime").aqi) == 100
    hours = {"SO2_1h": 1, "NO2_1h": 1, "CO_1h": 0.1, "O3_1h": 1, "PM10_1h": 1}
    assert float(assess(hours | {"PM2.5_1h": 60}, HJ_633_2026, "realtime").aqi) == 100
    with pytest.raises(InvalidInput, match=r"PM2\.5_24h"):
        assess({"PM2.5_24h": 75}, HJ_633_2026, "realtime")


def test_2026_withholds_a_good_aqi_when_a_pollutant_is_missing() -> None:
    """5.3.1: above 100 it is told all the same; 5.3.2: unless the plan does not measure it."""
    part = {name: [value] * 2 for name, value in CLEAN.items() if name != "CO_24h"} | {"PM2.5_24h": [40, 80]}
    found = assess(part, HJ_633_2026)
    np.testing.assert_equal(found.aqi, [nan, 119])
    assert found.level.tolist() == [0, 3]
    assert found.primary["PM2.5"].tolist() == [False, True]
    assert found.missing["CO"].all()
    assert assess(part, HJ_633_2026, not_monitored={"CO"}).aqi.tolist() == [60, 119]
    assert assess(part, HJ_633_2012).aqi.tolist() == [57, 107]


def test_a_missing_value_costs_no_neighbour() -> None:
    found = assess(CLEAN | {"PM2.5_24h": [10, nan, 10]}, HJ_633_2012)
    assert found.aqi.tolist() == [30, 30, 30]
    assert found.missing["PM2.5"].tolist() == [False, True, False]


def test_nothing_measured_is_no_air_quality() -> None:
    found = assess({}, HJ_633_2012)
    assert isnan(float(found.aqi))
    assert int(found.level) == 0


@pytest.mark.parametrize(
    ("values", "field"),
    [({"PM2.5": 3}, "indicator"), ({"PM2.5_24h": "much"}, "PM2.5_24h"), ({"PM2.5_24h": [1, 2], "SO2_24h": [1, 2, 3]}, "values")],
)
def test_what_is_asked_wrongly_is_named(values: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        assess(values, HJ_633_2012)  # type: ignore[arg-type]
    assert raised.value.field == field
