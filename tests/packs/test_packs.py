"""The packs that ship: one meaning per name, units by code, bounds that make sense."""

from __future__ import annotations

import math
import re

import pytest

from tulou.kernel.packs import Model, Property
from tulou.kernel.plugins import plugins, read_packs

PACKS = read_packs(plugins())
MODELS = sorted(PACKS.models.items())
REC20 = {
    "P1", "CEL", "GQ", "GP", "Q30", "M1", "G42", "A97", "MTS", "DD", "MMT", "2N", "MTR", "WTT", "VLT", "AMP", "KWH",
    "HTZ", "C62", "E20", "WHR", "SEC",
}  # fmt: skip
"""The codes of UN/CEFACT Recommendation 20 in use, each looked up in the published list."""


def properties() -> list[tuple[str, str, Property]]:
    return [(kind, name, one) for kind, model in MODELS for name, one in model.properties.items()]


@pytest.mark.parametrize(("kind", "model"), MODELS)
def test_a_model_is_named_in_both_languages_and_says_when_a_thing_is_offline(kind: str, model: Model) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]+", kind)
    assert model.label.zh
    assert model.label.en
    assert model.icon
    assert model.retention_days
    assert model.offline_after_s >= 60


def test_a_property_name_has_one_iri_unit_and_kind_in_every_model() -> None:
    seen: dict[str, tuple[str, str, str]] = {}
    for kind, name, one in properties():
        assert seen.setdefault(name, (one.iri, one.unit, one.kind)) == (one.iri, one.unit, one.kind), f"{kind}.{name}"


def test_units_are_codes_of_recommendation_20() -> None:
    assert {one.unit for _, _, one in properties() if one.unit} <= REC20


def test_ranges_and_alarm_bounds_agree() -> None:
    for kind, name, one in properties():
        at = f"{kind}.{name}"
        if one.kind != "number":
            assert (one.min, one.max, one.alarm) == (None, None, None), at
            continue
        assert one.min is not None, at
        low, high = one.min, math.inf if one.max is None else one.max
        assert low < high, at
        if one.alarm is None:
            continue
        bounds = [bound for bound in (one.alarm.above, one.alarm.below, one.alarm.clear) if bound is not None]
        assert bounds, at
        assert all(low <= bound <= high for bound in bounds), at
        if one.alarm.above is not None and one.alarm.clear is not None:
            assert one.alarm.clear < one.alarm.above, at
        if one.alarm.below is not None and one.alarm.above is None and one.alarm.clear is not None:
            assert one.alarm.clear > one.alarm.below, at


def test_models_are_closed_but_where_devices_name_their_own_parts() -> None:
    assert {kind for kind, model in MODELS if model.open} == {
        "Device", "EVChargingStation",
        "AirQualityStation", "WaterQualityStation", "WasteWaterOutlet", "FlueGasOutlet", "NoiseStation",  # HJ 212: flags, least and greatest values
    }


def test_organisations_form_a_tree_below_the_province() -> None:
    seeds = {o.id: o for o in PACKS.packs["plan"].organisations}
    assert [o.id for o in seeds.values() if o.parent is None] == ["fujian"]
    assert all(o.parent in seeds for o in seeds.values() if o.parent)
    cities = [o for o in seeds.values() if o.kind == "city"]
    assert len(cities) == 10
    for city in cities:
        assert re.fullmatch(r"3501\d\d|350\d00", city.code)
        assert 115.8 < (city.lon or 0) < 120.8, city.id
        assert 23.5 < (city.lat or 0) < 28.4, city.id
    assert len([o for o in seeds.values() if o.kind == "department"]) == 16
