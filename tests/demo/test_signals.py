"""The made-up devices stay within what their models allow, and tell the same story again."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.demo import land
from tulou.demo.province import CITIES, POPULATION, SHARES, devices
from tulou.demo.signals import SIGNALS, Signal
from tulou.kernel.plugins import plugins, read_packs

MODELS = read_packs(plugins()).models
times = st.floats(min_value=1_700_000_000, max_value=2_000_000_000)


@pytest.mark.parametrize("kind", SIGNALS)
@given(seed=st.text(max_size=20), t=times)
def test_every_value_is_one_that_the_model_allows(kind: str, seed: str, t: float) -> None:
    model = MODELS[kind]
    for name, value in SIGNALS[kind](Signal(seed), t).items():
        rule = model.properties[name]
        if rule.kind == "number":
            assert isinstance(value, int | float)
            assert not isinstance(value, bool)
            assert rule.min is None or value >= rule.min, name
            assert rule.max is None or value <= rule.max, name
        elif rule.kind == "boolean":
            assert isinstance(value, bool)
        else:
            assert isinstance(value, str)


@given(seed=st.text(max_size=20), t=times)
def test_the_same_device_at_the_same_time_says_the_same(seed: str, t: float) -> None:
    for signal in SIGNALS.values():
        assert signal(Signal(seed), t) == signal(Signal(seed), t)


def test_a_day_has_a_rhythm() -> None:
    midnight = 1_760_000_000 // 86_400 * 86_400 - 8 * 3_600
    weather = [SIGNALS["WeatherStation"](Signal("a"), midnight + h * 3_600)["temperature"] for h in range(24)]
    assert max(weather[12:18]) == max(weather)  # type: ignore[type-var]
    light = [SIGNALS["StreetLight"](Signal("a"), midnight + h * 3_600)["powerState"] for h in range(24)]
    assert (light[12], light[22]) == ("off", "on")


def test_every_city_has_land_and_people() -> None:
    assert set(CITIES) == set(POPULATION)
    for city in CITIES:
        lon, lat = land.place(city, Random(1))
        assert any(land.inside(lon, lat, ring) for ring in land.outlines()[city])
        assert not any(land.inside(lon, lat, r) for other in CITIES if other != city for r in land.outlines()[other])


def test_the_types_are_the_models_of_the_base_pack() -> None:
    assert set(SHARES) == set(SIGNALS) <= set(MODELS)
    assert sum(share for share, _ in SHARES.values()) == 100


def test_a_demo_can_grow() -> None:
    assert devices(40, CITIES, "s") == devices(90, CITIES, "s")[:40]
    assert len({d.id for d in devices(400, CITIES, "s")}) == 400
