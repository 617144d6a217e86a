"""What the pack promises: its levels are the bounds of the standards that its definitions name."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tulou.kernel.packs import Pack
from tulou.methods import surface_water
from tulou.methods.aqi import HJ_633_2012, assess


def test_levels_of_particles_are_those_of_the_index(pack: Pack) -> None:
    ends = [level.below for level in pack.section("indicators")["pm25_mean"].levels]
    found = assess({"PM2.5_24h": ends[:-1]}, HJ_633_2012).iaqi["PM2.5"]
    assert found.tolist() == [50, 100, 150, 200, 300]
    assert ends[-1] is None


@pytest.mark.parametrize(("indicator", "parameter"), [("oxygen_mean", "DO"), ("ammonia_mean", "NH3-N")])
def test_levels_of_water_are_the_classes(pack: Pack, indicator: str, parameter: str) -> None:
    levels = pack.section("indicators")[indicator].levels
    for level, after in pairwise(levels):
        within = [level.below - 0.001, level.below + 0.001]
        classes = [surface_water.CLASSES[one] for one in surface_water.assess({parameter: within}).overall]
        assert classes == [level.label.zh, after.label.zh], level
