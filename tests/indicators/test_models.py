"""What packs may declare, and how a mistake is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tulou.indicators.models import Catalogue, Indicator, Level, declared
from tulou.kernel.errors import Invalid
from tulou.kernel.packs import Packs
from tulou.kernel.plugins import plugins, read_packs
from tulou.packs.hooks import packs as folders

ALL = read_packs(plugins())
WORKFLOWS = ["supervision", "ecology_entry"]
LABEL = {"zh": "名", "en": "name"}
MEAN: dict[str, Any] = {
    "label": LABEL, "definition": LABEL, "unit": "µg/m³", "owner": "fujian", "types": ["AirQualityStation"], "property": "pm25", "statistic": "mean",
}
TILE = {"kind": "tile", "indicator": "mine"}


def catalogue(tmp_path: Path, indicators: Any = None, dashboards: Any = None) -> Catalogue:
    """The catalogue of the house's packs and one more."""
    folder = tmp_path / "more"
    folder.mkdir(exist_ok=True)
    for name, body in (("indicators", indicators), ("dashboards", dashboards)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(body, allow_unicode=True))
    (folder / "pack.yaml").write_text(yaml.safe_dump({
        "name": "more", "version": "1", "label": LABEL, "data": {"indicators": "indicators.yaml", "dashboards": "dashboards.yaml"},
    }))
    return declared(Packs([*folders(), folder], ALL.known), WORKFLOWS)


def page(*widgets: dict[str, Any], **layers: Any) -> dict[str, Any]:
    return {"layers": layers, "dashboards": {"page": {"title": LABEL, "sections": [{"widgets": list(widgets)}]}}}


def test_the_packs_that_ship_are_sound() -> None:
    found = declared(ALL, WORKFLOWS)
    assert found.indicators
    for key, one in found.indicators.items():
        assert key.startswith(("ecology/", "environment/"))
        assert any(seed.id == one.owner for pack in ALL.packs.values() for seed in pack.organisations), key
        assert one.label.zh != one.label.en


def test_references_are_made_full(tmp_path: Path) -> None:
    found = catalogue(tmp_path, {"mine": MEAN}, page(
        TILE, {"kind": "line", "indicator": "environment/no2_mean"}, {"kind": "map", "layer": "here"}, here={"label": LABEL, "indicator": "mine"},
    ))
    widgets = found.dashboards["more/page"].sections[0].widgets
    assert [getattr(widget, "indicator", getattr(widget, "layer", "")) for widget in widgets] == ["more/mine", "environment/no2_mean", "more/here"]
    assert found.layers["more/here"].types == ["AirQualityStation"]
    assert catalogue(tmp_path).dashboards.keys() == {"ecology/assessment", "environment/overview"}  # empty files declare nothing


@pytest.mark.parametrize(("change", "place", "rule"), [
    ({"types": ["NoSuch"]}, "mine.types.0", "there is no type NoSuch"),
    ({"types": ["WeatherStation"], "property": "pm1"}, "mine.property", "there is no property of WeatherStation pm1"),
    ({"types": ["Manhole"], "property": "coverOpen", "unit": ""}, "mine.property", "is no number"),
    ({"unit": "mg/m³"}, "mine.unit", "the unit of pm25 of AirQualityStation is µg/m³"),
    ({"statistic": "median"}, "mine.statistic", "Input should be"),
    ({"statistic": "above", "unit": "%"}, "mine", "have a bound"),
    ({"bound": 3}, "mine", "have a bound"),
    ({"statistic": "percentile", "bound": 101}, "mine", "0 to 100"),
    ({"statistic": "capture"}, "mine", "the unit of a share is %"),
    ({"statistic": "capture", "unit": "%", "grain": "hour"}, "mine", "not computed by hours"),
    ({"goal": 3}, "mine", "a goal needs"),
    ({"levels": [{"label": LABEL, "below": 3}]}, "mine", "but the last"),
    ({"levels": [{"label": LABEL, "below": 3}, {"label": LABEL, "below": 2}, {"label": LABEL}]}, "mine", "ascend"),
    ({"origins": ["synthetic"]}, "mine.origins.0", "Input should be"),
    ({"colour": "red"}, "mine.colour", "Extra inputs"),
])
def test_a_mistake_in_an_indicator_is_named(tmp_path: Path, change: dict[str, Any], place: str, rule: str) -> None:
    with pytest.raises(Invalid, match=rule) as caught:
        catalogue(tmp_path, {"mine": {**MEAN, **change}})
    assert caught.value.field == place
    assert "indicators.yaml" in caught.value.zh
    assert "indicators.yaml" in caught.value.en


@pytest.mark.parametrize(("body", "place", "rule"), [
    (page({"kind": "tile", "indicator": "none"}), "dashboards.page.sections.0.widgets.0.indicator", "there is no indicator more/none"),
    (page({"kind": "map", "layer": "none"}), "dashboards.page.sections.0.widgets.0.layer", "there is no layer more/none"),
    (page({"kind": "items", "workflow": "none"}), "dashboards.page.sections.0.widgets.0.workflow", "there is no workflow none"),
    (page({"kind": "things", "type": "NoSuch"}), "dashboards.page.sections.0.widgets.0.type", "there is no type NoSuch"),
    (page({"kind": "alarms", "types": ["Manhole", "NoSuch"]}), "dashboards.page.sections.0.widgets.0.types.1", "there is no type NoSuch"),
    (page({"kind": "bar", "indicator": "mine", "by": "area", "area": "city"}), "dashboards.page.sections.0.widgets.0.area", "not offered"),
    (page({"kind": "bar", "indicator": "mine", "by": "area"}), "dashboards.page.sections.0.widgets.0", "needs `area`"),
    (page({"kind": "pie", "indicator": "mine"}), "dashboards.page.sections.0.widgets.0", "does not match"),
    (page(TILE, here={"label": LABEL}), "layers.here", "a layer has"),
    (page(TILE, here={"label": LABEL, "types": ["Manhole"], "property": "pm25"}), "layers.here.property", "there is no property of Manhole pm25"),
    (page(TILE, here={"label": LABEL, "indicator": "mine", "better": "lower"}), "layers.here", "are the indicator's"),
])
def test_a_mistake_in_a_page_is_named(tmp_path: Path, body: Any, place: str, rule: str) -> None:
    with pytest.raises(Invalid, match=rule) as caught:
        catalogue(tmp_path, {"mine": MEAN}, body)
    assert caught.value.field == place
    assert "dashboards.yaml" in caught.value.en


@given(st.lists(st.floats(-1e6, 1e6), max_size=8))
def test_levels_ascend_and_end_open(ends: list[float]) -> None:
    levels = [{"label": LABEL, "below": end} for end in ends] + [{"label": LABEL}]
    if ends == sorted(set(ends)):
        assert len(Indicator.model_validate({**MEAN, "levels": levels}).levels) == len(ends) + 1
    else:
        with pytest.raises(ValueError, match="ascend"):
            Indicator.model_validate({**MEAN, "levels": levels})
    assert Level.model_validate(levels[-1]).below is None
