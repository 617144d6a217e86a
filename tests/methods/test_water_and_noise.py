"""Surface water, lakes, noise: GB 3838-2002, 环办〔2011〕22号, TLI(Σ) of 2001, GB 3096-2008."""

from __future__ import annotations

from math import isnan, log, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.methods import noise, trophic_state
from tulou.methods import surface_water as water
from tulou.methods.errors import InvalidInput

ITEMS = sorted(set(water.GB_3838_2002.limits) - {"DO"})


@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("body", ["river", "lake"])
def test_a_limit_belongs_to_its_class(item: str, body: water.Body) -> None:
    """Table 1: at most the limit. Where two classes share one, the better of them."""
    limits = np.array((water.GB_3838_2002.lake if body == "lake" else {}).get(item, water.GB_3838_2002.limits[item]))
    best = [1 + int(np.flatnonzero(limits == limit)[0]) for limit in limits]
    assert water.item_class(item, limits, body).tolist() == best
    assert int(water.item_class(item, limits[-1] * 1.001, body)) == 6
    assert int(water.item_class(item, 0, body)) == 1


def test_phosphorus_is_judged_more_strictly_in_lakes() -> None:
    assert int(water.item_class("TP", 0.1)) == 2
    assert int(water.item_class("TP", 0.1, "lake")) == 4


def test_acidity_has_a_range_and_no_classes() -> None:
    assert water.item_class("pH", [5.9, 6.0, 7.5, 9.0, 9.1, nan]).tolist() == [6, 1, 1, 1, 6, 0]


def test_oxygen_is_better_the_more_there_is() -> None:
    assert water.item_class("DO", [8, 7.5, 7, 6, 5, 3, 2, 1.9, nan]).tolist() == [1, 1, 2, 2, 3, 4, 5, 6, 0]


def test_ninety_percent_of_saturation_is_class_one() -> None:
    """Warm water holds less than 7.5 mg/L: 468 / (31.6 + 30) = 7.6, of which 90 % are 6.84."""
    assert float(water.oxygen_saturation(30)) == pytest.approx(7.597, abs=1e-3)
    assert int(water.item_class("DO", 6.9)) == 2
    assert int(water.item_class("DO", 6.9, celsius=30)) == 1
    assert int(water.item_class("DO", 6.8, celsius=30)) == 2


@given(st.sampled_from(ITEMS), st.lists(st.floats(0, 1e5), min_size=2, max_size=20), st.sampled_from(["river", "lake"]))
def test_more_of_an_item_is_never_a_better_class(item: str, values: list[float], body: water.Body) -> None:
    assert np.all(np.diff(water.item_class(item, np.sort(values), body)) >= 0)


def test_the_worst_item_is_the_class_of_a_section() -> None:
    found = water.assess({
        "pH": [7, 7, 7, nan], "DO": [8, 5.5, 4, nan], "NH3-N": [0.1, 0.9, 2.5, nan], "TN": [9, 9, 9, 9], "coliforms": [1, 1, 99999, nan]
    })
    assert found.overall.tolist() == [1, 3, 6, 0]  # total nitrogen and coliforms are classed, and do not decide
    assert found.items["TN"].tolist() == [6, 6, 6, 6]
    assert [water.CLASSES[number] for number in found.overall[:3]] == ["Ⅰ类", "Ⅲ类", "劣Ⅴ类"]
    assert found.main == [[], [], [("NH3-N", pytest.approx(1.5)), ("DO", None)], []]


def test_main_pollutants_are_three_with_heavy_metals_first() -> None:
    found = water.assess({"CODMn": 13.2, "COD": 35, "NH3-N": 1.9, "TP": 0.35, "Pb": 0.06, "DO": 2.5})
    assert int(found.overall) == 5
    assert found.main == [[("Pb", pytest.approx(0.2)), ("CODMn", pytest.approx(1.2)), ("NH3-N", pytest.approx(0.9))]]


def test_exceedance_is_of_the_target_and_not_of_oxygen() -> None:
    assert water.exceedance("CODMn", [6, 13.2, nan]).tolist()[:2] == pytest.approx([0, 1.2])
    assert float(water.exceedance("TP", 0.1, target=2, body="lake")) == pytest.approx(3)
    for item in ("pH", "DO"):
        with pytest.raises(InvalidInput) as raised:
            water.exceedance(item, 1)
        assert raised.value.rule == "环办〔2011〕22号"


@pytest.mark.parametrize(
    ("classes", "grade"),
    [
        ([1] * 9 + [4], "优"), ([2] * 8 + [6] * 2, "良好"), ([3] * 7 + [6] + [4] * 2, "轻度污染"),
        ([3] * 7 + [6] * 3, "中度污染"), ([3] * 3 + [6] * 4 + [5] * 3, "重度污染"), ([1, 1, 1, 1, 1, 0], "优"),
    ],
)
def test_grades_of_rivers(classes: list[int], grade: str) -> None:
    assert water.river_grade(classes)[0] == grade


def test_few_sections_are_averaged_first() -> None:
    with pytest.raises(InvalidInput, match="five"):
        water.river_grade([1, 2, 3, 0, 0])


def test_trophic_state_by_hand() -> None:
    """The published weights 0.2663, 0.1879, 0.1790, 0.1834, 0.1834 give the same to their four places."""
    lake = {"chla": 12.0, "TP": 0.045, "TN": 1.1, "SD": 0.8, "CODMn": 4.2}
    by_hand = (
        0.2663 * 10 * (2.5 + 1.086 * log(12)) + 0.1879 * 10 * (9.436 + 1.624 * log(0.045)) + 0.1790 * 10 * (5.453 + 1.694 * log(1.1))
        + 0.1834 * 10 * (5.118 - 1.94 * log(0.8)) + 0.1834 * 10 * (0.109 + 2.661 * log(4.2))
    )
    found = trophic_state.assess(lake)
    assert float(found.index) == pytest.approx(by_hand, abs=0.01)
    assert trophic_state.GRADES[int(found.grade) - 1] == ("中营养", "mesotrophic")


def test_trophic_state_has_chlorophyll_as_its_measure() -> None:
    """1000 mg/m³ are 100, and 2.5 times more is 10 points more (Song et al., J. Lake Sci. 36 (2024) 987)."""
    single = trophic_state.assess({"chla": [1000, 400], "TP": 1, "TN": 1, "SD": 1, "CODMn": 1}).single["chla"]
    assert single[0] == pytest.approx(100, abs=0.1)
    assert single[0] - single[1] == pytest.approx(10, abs=0.1)


@given(st.fixed_dictionaries({name: st.floats(0.01, 100) for name in trophic_state.PARAMETERS}), st.sampled_from(["chla", "TP", "TN", "CODMn", "SD"]))
def test_nutrients_raise_the_index_and_transparency_lowers_it(lake: dict[str, float], name: str) -> None:
    more = trophic_state.assess(lake | {name: lake[name] * 1.5}).index - trophic_state.assess(lake).index
    assert (more < 0) == (name == "SD")


def test_a_lake_with_a_missing_parameter_has_no_index() -> None:
    found = trophic_state.assess({"chla": [10, nan, 0], "TP": 0.05, "TN": 1, "SD": 1, "CODMn": 4})
    assert np.isnan(found.index).tolist() == [False, True, True]
    assert found.grade.tolist()[1:] == [0, 0]
    with pytest.raises(InvalidInput, match="five parameters"):
        trophic_state.assess({"chla": 10})


def test_equivalent_level_of_two_is_that_of_their_energy() -> None:
    assert float(noise.equivalent([60, 60])) == pytest.approx(60)
    assert float(noise.equivalent([63.0103, -np.inf])) == pytest.approx(63.0103)  # what is not finite is missing
    assert float(noise.equivalent([70, 60])) == pytest.approx(67.404, abs=1e-3)
    assert isnan(float(noise.equivalent([nan, nan])))


@given(st.lists(st.floats(20, 110), min_size=1, max_size=30), st.floats(-10, 10))
def test_a_shift_of_all_levels_shifts_the_equivalent_level(levels: list[float], shift: float) -> None:
    one, other = noise.equivalent(levels), noise.equivalent(np.array(levels) + shift)
    assert float(other - one) == pytest.approx(shift, abs=1e-6)
    assert np.mean(levels) - 1e-9 <= float(one) <= max(levels) + 1e-9


def test_day_is_six_to_twenty_two() -> None:
    hours = np.full(24, 45.0)
    hours[6:22] = 60.0
    ld, ln = noise.day_night(hours)
    assert (float(ld), float(ln)) == (pytest.approx(60), pytest.approx(45))
    hours[3] = nan
    ld, ln = noise.day_night([hours, hours])
    assert not np.isnan(ld).any()
    assert np.isnan(ln).all()


def test_the_penalty_at_night_makes_four_times_the_energy_of_a_steady_level() -> None:
    """(16 + 8 x 10) / 24 = 4, so 6.02 dB. The 6.4 dB of the US EPA's Levels Document are of a night of nine hours, 22 to 7."""
    assert float(noise.ldn(60, 60)) == pytest.approx(66.0206, abs=1e-4)
    assert float(noise.ldn(65, 55)) == pytest.approx(65)


@pytest.mark.parametrize(("zone", "day", "night"), [("0", 50, 40), ("1", 55, 45), ("2", 60, 50), ("3", 65, 55), ("4a", 70, 55), ("4b", 70, 60)])
def test_limits_of_zones(zone: str, day: float, night: float) -> None:
    """GB 3096-2008, table 1; 5.4: sudden noise at most 15 dB above."""
    found = noise.assess(zone, [day, day + 0.1, day, nan], [night, night, night + 2, night], [night + 15, nan, nan, night + 15])
    assert found.attained.tolist() == [True, False, False, False]
    assert found.night_over.tolist() == pytest.approx([0, 0, 2, 0])
    assert not bool(noise.assess(zone, day, night, night + 16).attained)


def test_zone_four_must_say_which() -> None:
    with pytest.raises(InvalidInput, match="4a"):
        noise.assess("4", 60, 50)
