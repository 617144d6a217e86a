"""What a pack declares: indicators (`data: {indicators: ...}`), dashboards and layers (`data: {dashboards: ...}`).

Law: pure and checked when it is read. A definition says in words and in terms what is computed; whatever refers to a type, a
property, an indicator, a layer or a workflow that is not there is an error with file and place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from tulou.kernel.errors import Invalid
from tulou.kernel.packs import Bound, Model, Name, Pack, Packs, Strict, Text, broken, refused

Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Reference = Annotated[str, Field(pattern=r"^([a-z][a-z0-9_-]{0,62}/)?[a-z][a-z0-9_]{0,62}$")]
"""An indicator or a layer: its id, with the pack's name and a stroke before it where the pack is another."""

Statistic = Literal["mean", "min", "max", "sum", "count", "last", "above", "below", "percentile", "capture"]
Area = Literal["province", "city", "county"]
Declared = TypeVar("Declared", bound=Strict)

ORIGINS: Mapping[str, int] = {"measured": 0, "reported": 1, "estimated": 2, "synthetic": 3}
"""Origins of readings by name (docs/architecture.md). What is synthetic counts where the asker says so, never by declaration."""

SHARES = frozenset({"above", "below", "capture"})
"""Statistics that are parts of a whole: answered in per cent."""


class Words(Strict):
    """What is counted and how, in words, in Chinese and English."""

    zh: str = Field(min_length=1, max_length=1000)
    en: str = Field(min_length=1, max_length=1000)


class Level(Strict):
    """A step of a scale: values below `below` that are in no step before it. The last step has no end."""

    label: Text
    below: Bound | None = None


def _levels(levels: list[Level]) -> None:
    ends = [level.below for level in levels]
    if ends and (ends[-1] is not None or None in ends[:-1]):
        raise broken("levels", "除最后一级外各级都要有上界 below，最后一级没有", "every level has an end `below` but the last, which has none")
    bounds = [end for end in ends if end is not None]
    if bounds != sorted(set(bounds)):
        raise broken("levels", "各级的上界须递增", "the ends of levels ascend")


class Indicator(Strict):
    """A query over the readings of things: `statistic` of `property` of all things of `types`.

    mean, min, max, sum and count are over readings; last over the last reading of each thing; above and below are the share of
    things' days (per cent) whose mean is beyond `bound`; percentile is the `bound`-th of things' daily means; capture is hours with
    numbers of all hours of the registered things (per cent). Days are natural days of Asia/Shanghai.

    `owner` is the organisation that answers for the definition, and `version` counts its changes. `areas` are the levels of
    organisations by which it is offered, `days` and `grain` what is shown to who says nothing, `goal`, `better` and `levels` what is
    good and how it is coloured.
    """

    label: Text
    definition: Words
    unit: str = Field(default="", max_length=32)
    owner: str = Field(min_length=1, max_length=64)
    version: int = Field(default=1, ge=1)
    types: list[Name] = Field(min_length=1, max_length=20)
    property: Name
    statistic: Statistic
    bound: Bound | None = None
    origins: list[Literal["measured", "reported", "estimated"]] = Field(default=["measured"], min_length=1)
    grain: Literal["hour", "day", "month", "year"] = "day"
    days: int = Field(default=30, ge=1, le=3660)
    areas: list[Area] = Field(default_factory=list)
    ranking: bool = True
    goal: Bound | None = None
    better: Literal["higher", "lower"] | None = None
    levels: list[Level] = Field(default_factory=list, max_length=12)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.bound is None) == (self.statistic in ("above", "below", "percentile")):
            raise broken("bound", "above、below 与 percentile 须有 bound，其他统计没有", "above, below and percentile have a bound, and no others do")
        if self.statistic == "percentile" and not 0 <= (self.bound or 0) <= 100:
            raise broken("bound", "百分位应为 0 至 100", "a percentile is 0 to 100")
        if self.statistic in SHARES and self.unit != "%":
            raise broken("unit", "比例的单位是 %", "the unit of a share is %")
        if self.grain == "hour" and self.statistic not in ("mean", "min", "max", "sum", "count"):
            raise broken("grain", f"{self.statistic} 不能按小时计算", f"{self.statistic} is not computed by hours")
        if self.goal is not None and self.better is None:
            raise broken("better", "有目标值时须说明高者为优还是低者为优", "a goal needs `better`: higher or lower")
        _levels(self.levels)
        return self

    def problems(self, models: Mapping[str, Model]) -> Iterator[tuple[str, str, str, str]]:
        """(field, value, rule zh, rule en) of what refers to no model, or contradicts one."""
        for at, kind in enumerate(self.types):
            model = models.get(kind)
            prop = model.properties.get(self.property) if model else None
            if model is None:
                yield f"types.{at}", kind, f"没有类型 {kind}", f"there is no type {kind}"
            elif prop is None:
                if not model.open:
                    yield "property", self.property, f"类型 {kind} 没有属性 {self.property}", f"type {kind} has no property {self.property}"
            elif prop.kind != "number":
                yield "property", self.property, f"类型 {kind} 的属性 {self.property} 不是数值", f"property {self.property} of {kind} is no number"
            elif self.statistic not in SHARES | {"count", "sum"} and self.unit != prop.symbol:
                yield "unit", self.unit, f"类型 {kind} 的属性 {self.property} 的单位是 {prop.symbol}", f"the unit of {self.property} of {kind} is {prop.symbol}"


class Layer(Strict):
    """A layer of a map: things of `types`, coloured by the latest value of `property` by `levels`, or by the value that `indicator`
    has for each; then `types` and levels are the indicator's."""

    label: Text
    types: list[Name] = Field(default_factory=list, max_length=20)
    property: Name | None = None
    indicator: Reference | None = None
    better: Literal["higher", "lower"] | None = None
    levels: list[Level] = Field(default_factory=list, max_length=12)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.indicator is None) != bool(self.types and self.property):
            raise broken("layer", "图层要么有 indicator，要么有 types 与 property", "a layer has an indicator, or types and a property")
        if self.indicator is not None and (self.levels or self.better):
            raise broken("layer", "按指标着色时，分级是指标的", "the levels of a layer of an indicator are the indicator's")
        _levels(self.levels)
        return self


class Tile(Strict):
    """An indicator's value, its change against the same time before, and its course."""

    kind: Literal["tile"]
    indicator: Reference


class Chart(Strict):
    """An indicator over time, or by areas side by side; `area` draws a line for each."""

    kind: Literal["line", "bar"]
    indicator: Reference
    by: Literal["time", "area"] = "time"
    area: Area | None = None
    title: Text | None = None
    wide: bool = False

    @model_validator(mode="after")
    def _areas(self) -> Self:
        if self.by == "area" and self.area is None:
            raise broken("area", "按区域比较时须有 area", "a comparison by areas needs `area`")
        return self


class Ranking(Strict):
    """Things in the order of an indicator, best first; `most` of them."""

    kind: Literal["ranking"]
    indicator: Reference
    most: int = Field(default=10, ge=1, le=100)
    title: Text | None = None
    wide: bool = False


class Map(Strict):
    """A map with a layer."""

    kind: Literal["map"]
    layer: Reference
    title: Text | None = None
    wide: bool = True


class Things(Strict):
    """Things of a type, with their state."""

    kind: Literal["things"]
    type: Name
    most: int = Field(default=10, ge=1, le=100)
    title: Text | None = None
    wide: bool = False


class Alarms(Strict):
    """Open alarms of things of types."""

    kind: Literal["alarms"]
    types: list[Name] = Field(min_length=1, max_length=20)
    title: Text | None = None
    wide: bool = False


class Items(Strict):
    """Open items of a workflow."""

    kind: Literal["items"]
    workflow: Id
    title: Text | None = None
    wide: bool = False


Widget = Annotated[Tile | Chart | Ranking | Map | Things | Alarms | Items, Field(discriminator="kind")]


class Section(Strict):
    """Widgets under a heading."""

    title: Text | None = None
    widgets: list[Widget] = Field(min_length=1, max_length=40)


class Dashboard(Strict):
    """A page."""

    title: Text
    note: Words | None = None
    sections: list[Section] = Field(min_length=1, max_length=20)


class Pages(Strict):
    """The file of a pack that `dashboards` names."""

    layers: dict[Id, Layer] = Field(default_factory=dict, max_length=100)
    dashboards: dict[Id, Dashboard] = Field(default_factory=dict, max_length=50)


class Catalogue(NamedTuple):
    """What all packs declare, by `pack/id`."""

    indicators: dict[str, Indicator]
    layers: dict[str, Layer]
    dashboards: dict[str, Dashboard]


def full(pack: str, reference: str) -> str:
    """`pack/id` of a reference that was made within a pack."""
    return reference if "/" in reference else f"{pack}/{reference}"


def declared(packs: Packs, workflows: Collection[str]) -> Catalogue:
    """The indicators, layers and dashboards of the packs; references of layers and widgets are full. Raises `Invalid` naming file,
    place and rule."""
    indicators: dict[str, Indicator] = {}
    for pack in packs.packs.values():
        path, body = section(pack, "indicators")
        for name, one in _each(path, body, Indicator).items():
            for field, value, zh, en in one.problems(packs.own):
                raise _wrong(path, f"{name}.{field}", value, zh, en)
            indicators[f"{pack.name}/{name}"] = one
    layers: dict[str, Layer] = {}
    files: list[tuple[Pack, Path, Pages]] = []
    for pack in packs.packs.values():
        path, body = section(pack, "dashboards")
        try:
            pages = Pages.model_validate(body)
        except ValidationError as error:
            raise refused(path, error) from None
        files.append((pack, path, pages))
        for name, layer in pages.layers.items():
            at = f"layers.{name}"
            if layer.indicator is not None:
                reference = full(pack.name, layer.indicator)
                _there(path, f"{at}.indicator", reference, indicators, "指标", "indicator")
                layer = layer.model_copy(update={"indicator": reference, "types": indicators[reference].types})
            for place, kind in enumerate(layer.types):
                model = packs.own.get(kind)
                _there(path, f"{at}.types.{place}", kind, packs.own, "类型", "type")
                assert model is not None
                if layer.property is not None and not model.open:
                    _there(path, f"{at}.property", layer.property, model.properties, f"{kind} 的属性", f"property of {kind}")
            layers[f"{pack.name}/{name}"] = layer
    dashboards: dict[str, Dashboard] = {}
    for pack, path, pages in files:
        for name, page in pages.dashboards.items():
            sections = [
                section_.model_copy(update={"widgets": [
                    _resolved(pack, path, f"dashboards.{name}.sections.{s}.widgets.{w}", widget, indicators, layers, packs.own, workflows)
                    for w, widget in enumerate(section_.widgets)
                ]}) for s, section_ in enumerate(page.sections)
            ]
            dashboards[f"{pack.name}/{name}"] = page.model_copy(update={"sections": sections})
    return Catalogue(indicators, layers, dashboards)


def section(pack: Pack, name: str) -> tuple[Path, Any]:
    """A part of a pack's declarations, empty where it has none, and the file in which it stands."""
    return (pack.folder / pack.data[name], pack.read(name) or {}) if name in pack.data else (pack.folder / "pack.yaml", {})


def _each(path: Path, body: Any, of: type[Declared]) -> dict[str, Declared]:
    class File(Strict):
        items: dict[Id, of]  # type: ignore[valid-type]

    try:
        return File.model_validate({"items": body}).items
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        raise _wrong(path, place, first.get("input"), first.get("ctx", {}).get("zh") or first["msg"], first["msg"]) from None


def _wrong(path: Path, place: str, value: Any, zh: str, en: str) -> Invalid:
    return Invalid(f"{path} 的 {place}：{zh}", f"{path}: {place}: {en}", field=place, value=value, rule="declared")


def _there(path: Path, place: str, name: str, known: Collection[str], zh: str, en: str) -> None:
    if name not in known:
        raise _wrong(path, place, name, f"没有{zh} {name}", f"there is no {en} {name}")


def _resolved(
    pack: Pack, path: Path, place: str, widget: Any, indicators: Mapping[str, Indicator], layers: Mapping[str, Layer],
    models: Mapping[str, Model], workflows: Collection[str],
) -> Any:
    """The widget with full references."""
    if isinstance(widget, Tile | Chart | Ranking):
        reference = full(pack.name, widget.indicator)
        _there(path, f"{place}.indicator", reference, indicators, "指标", "indicator")
        one = indicators[reference]
        if isinstance(widget, Chart):
            if widget.area is not None and widget.area not in one.areas:
                raise _wrong(path, f"{place}.area", widget.area, f"指标 {reference} 不按此级汇总", f"the indicator {reference} is not offered by this level")
            if widget.by == "time" and one.statistic == "last":
                raise _wrong(path, f"{place}.by", "time", "最新值没有历史曲线", "a last value has no course")
        if isinstance(widget, Ranking) and not one.ranking:
            raise _wrong(path, f"{place}.indicator", reference, f"指标 {reference} 不作排名", f"the indicator {reference} ranks no things")
        return widget.model_copy(update={"indicator": reference})
    if isinstance(widget, Map):
        reference = full(pack.name, widget.layer)
        _there(path, f"{place}.layer", reference, layers, "图层", "layer")
        return widget.model_copy(update={"layer": reference})
    if isinstance(widget, Items):
        _there(path, f"{place}.workflow", widget.workflow, workflows, "工作流", "workflow")
    for at, kind in enumerate([widget.type] if isinstance(widget, Things) else widget.types if isinstance(widget, Alarms) else []):
        _there(path, f"{place}.type" if isinstance(widget, Things) else f"{place}.types.{at}", kind, models, "类型", "type")
    return widget
