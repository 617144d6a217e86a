"""Upstream attribution on rivers made up for the test, and trends: scipy's Kendall tau as judge of Mann-Kendall, the Nile's flow (1871 to 1970,
shipped with statsmodels) as public series."""

from __future__ import annotations

from math import exp, nan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.datasets import nile

from tulou.methods import trend
from tulou.methods.errors import InvalidInput
from tulou.methods.river import Reach, attribute, travel

# mine -> a -> section; farm -> b -> section, town at b; mill below the section
RIVER = (
    Reach("mine", "a", 10), Reach("a", "section", 5), Reach("farm", "b", 2), Reach("b", "section", 4), Reach("section", "mill", 3)
)
LOADS = {"mine": 60.0, "farm": 30.0, "b": 10.0, "mill": 500.0}


def test_only_what_flows_to_the_section_is_a_candidate() -> None:
    found = attribute(RIVER, "section", LOADS)
    assert [(one.node, one.hours, one.share) for one in found] == [("mine", 15, 0.6), ("farm", 6, 0.3), ("b", 4, 0.1)]
    assert [one.consistent for one in found] == [None] * 3
    assert [one.node for one in attribute(RIVER, "section", LOADS, horizon=6)] == ["farm", "b"]


def test_what_left_when_the_water_needed_it_comes_first() -> None:
    """The section exceeds from hour 100 on: the farm's water, discharged at 93, needs 6 hours; the mine's came 40 hours too early."""
    found = attribute(RIVER, "section", LOADS, seen=100, since={"farm": 93, "mine": 45})
    assert [(one.node, one.consistent) for one in found] == [("farm", True), ("b", None), ("mine", False)]


def test_a_load_decays_on_the_way() -> None:
    found = {one.node: one for one in attribute(RIVER, "section", LOADS, decay=0.5)}
    assert found["mine"].arrives == pytest.approx(60 * exp(-0.5 * 15 / 24))
    assert sum(one.share for one in found.values()) == pytest.approx(1)


def test_a_river_that_divides_carries_parts() -> None:
    """Three quarters take 2 hours, one quarter takes 10: 4 on the mean; where the branch leaves, its part is lost."""
    island = (Reach("top", "left", 1, 0.75), Reach("top", "right", 5, 0.25), Reach("left", "end", 1), Reach("right", "end", 5))
    assert travel(island, "end") == {"left": (1, 1), "right": (5, 1), "top": (4, 1)}
    assert travel(island, "left")["top"] == (1, 0.75)


@pytest.mark.parametrize(
    ("reaches", "section", "field"),
    [
        ([Reach("a", "b", 1), Reach("b", "a", 1)], "a", "reaches"), ([Reach("a", "b", -1)], "b", "hours"),
        ([Reach("a", "b", 1, 0.7), Reach("a", "c", 1, 0.7)], "b", "share"), ([Reach("a", "b", 1)], "c", "section"),
        ([Reach("a", "b", nan)], "b", "hours"),
    ],
)
def test_a_river_that_cannot_be_is_refused(reaches: list[Reach], section: str, field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        travel(reaches, section)
    assert raised.value.field == field


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 100)), min_size=1, max_size=12), st.floats(0, 2), st.floats(0.1, 10))
def test_shares_add_up_and_do_not_depend_on_the_unit(chain: list[tuple[float, float]], decay: float, factor: float) -> None:
    reaches = [Reach(str(place), str(place + 1), hours) for place, (hours, _) in enumerate(chain)]
    loads = {str(place): load + 1 for place, (_, load) in enumerate(chain)}
    found = attribute(reaches, str(len(chain)), loads, decay=decay)
    assert sum(one.share for one in found) == pytest.approx(1)
    other = attribute(reaches, str(len(chain)), {node: load * factor for node, load in loads.items()}, decay=decay)
    assert {one.node: pytest.approx(one.share) for one in found} == {one.node: one.share for one in other}


def kendall(values: np.ndarray) -> tuple[float, float]:
    """S and the z without correction of continuity, by scipy: from tau-a and from its asymptotic p-value with ties."""
    places = np.arange(len(values))
    signs = np.sign(values[:, None] - values[None, :])[np.tril_indices(len(values), -1)].sum()
    p = stats.kendalltau(places, values, method="asymptotic").pvalue
    return float(signs), float(stats.norm.isf(p / 2))


@given(st.lists(st.integers(0, 12), min_size=5, max_size=40).filter(lambda values: len(set(values)) > 1))
def test_mann_kendall_with_ties_agrees_with_kendalls_tau(values: list[int]) -> None:
    array = np.array(values, dtype=float)
    found = trend.mann_kendall(array)
    s, z = kendall(array)
    assert found.s == s
    assert abs(s) / sqrt(found.variance) == pytest.approx(z, abs=1e-6)
    assert found.z == pytest.approx(np.sign(s) * max(abs(s) - 1, 0) / sqrt(found.variance))


def test_the_nile_fell() -> None:
    flow = nile.load_pandas().data["volume"].to_numpy()
    found = trend.mann_kendall(flow)
    s, _ = kendall(flow)
    assert (found.direction, found.s) == (-1, s)
    assert found.p < 1e-3
    slope = trend.theil_sen(flow, np.arange(1871, 1971))
    assert slope.slope == pytest.approx(found.slope)
    assert slope.low < slope.slope < slope.high < 0
    assert slope.slope == pytest.approx(np.median([(flow[j] - flow[i]) / (j - i) for i in range(100) for j in range(i + 1, 100)]))


@given(st.lists(st.floats(-100, 100), min_size=4, max_size=30), st.floats(0.01, 100), st.floats(-100, 100))
def test_units_change_the_slope_and_not_the_test(values: list[float], factor: float, shift: float) -> None:
    array = np.round(values, 3)
    one, other = trend.mann_kendall(array), trend.mann_kendall(np.round(array * factor + shift, 9))
    assert (one.s, one.p) == (other.s, other.p)
    assert trend.theil_sen(array * factor).slope == pytest.approx(trend.theil_sen(array).slope * factor, abs=1e-6)


def test_seasons_hide_no_trend_and_make_none() -> None:
    """Synthetic: a cycle of twelve, with and without a rise of 0.6 a year, seed 4."""
    months = np.arange(240)
    noise = np.random.default_rng(4).normal(0, 1, 240)
    cycle = 10 * np.sin(2 * np.pi * months / 12)
    assert trend.seasonal_mann_kendall(cycle + noise).direction == 0
    rising = trend.seasonal_mann_kendall(cycle + noise + 0.05 * months)
    assert rising.direction == 1
    assert rising.slope == pytest.approx(0.6, abs=0.1)
    assert trend.seasonal_mann_kendall(cycle + noise + 0.05 * months, dependent=True).direction == 1
    parts = [trend.mann_kendall((cycle + noise)[month::12]) for month in range(12)]
    whole = trend.seasonal_mann_kendall(cycle + noise)
    assert whole.s == sum(part.s for part in parts)
    assert whole.variance == pytest.approx(sum(part.variance for part in parts))


def test_gaps_do_not_count_and_too_little_is_refused() -> None:
    assert trend.mann_kendall([1, nan, 2, 3, nan, 4, 5]).s == 10
    assert trend.theil_sen([0, nan, 2, 3]).slope == 1
    with pytest.raises(InvalidInput, match="between 4"):
        trend.mann_kendall([1, 2, nan, 3])
    with pytest.raises(InvalidInput, match="5000"):
        trend.mann_kendall(np.arange(5001.0))
