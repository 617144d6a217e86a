"""What a pack declares: the sections `indicators` and `dashboards` (with layers).

Law: pure and checked when it is read. A definition says in words and in terms what is computed; whatever refers to a type, a
property, an indicator, a layer or a workflow that is not there is an error with file and place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from tulou.kernel.packs import Bound, Model, Name, Pack, Packs, Section, Strict, Text, broken
from tulou.kernel.readings import OVER_READINGS
from tulou.kernel.workflows import declared as declared_workflows

Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Reference = Annotated[str, Field(pattern=r"^([a-z][a-z0-9_-]{0,62}/)?[a-z][a-z0-9_]{0,62}$")]
"""An indicator or a layer: its id, with the pack's name and a stroke before it where the pack is another."""

Statistic = Literal["mean", "min", "max", "sum", "count", "last", "above", "below", "percentile", "capture"]
Area = Literal["province", "city", "county"]

ORIGINS: Mapping[str, int] = {"measured": 0, "reported": 1, "estimated": 2, "synthetic": 3}
"""Origins of readings by name (docs/architecture.md). What is synthetic counts where the asker says so, never by declaration."""

SHARES = frozenset({"above", "below", "capture"})
"""Statistics that are parts of a whole: answered in per cent."""


class Problem(NamedTuple):
    """What refers to nothing, or contradicts a model: the place within the declaration, the value, the rule in both languages."""

    place: tuple[str | int, ...]
    value: str
    zh: str
    en: str


class Words(Strict):
    """What is counted and how, in words, in Chinese and English."""

    zh: str = Field(min_length=1, max_length=1000)
    en: str = Field(min_length=1, max_length=1000)


class Level(Strict):
    """A step of a scale: values below `below` that are in no step before it. The last step has no end. Steps without a `colour` go from
    green to maroon, from what is better."""

    label: Text
    below: Bound | None = None
    colour: Literal["blue", "cyan", "green", "yellow", "orange", "red", "purple", "maroon", "grey"] | None = None


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
        if self.grain == "hour" and self.statistic not in OVER_READINGS:
            raise broken("grain", f"{self.statistic} 不能按小时计算", f"{self.statistic} is not computed by hours")
        if self.goal is not None and self.better is None:
            raise broken("better", "有目标值时须说明高者为优还是低者为优", "a goal needs `better`: higher or lower")
        _levels(self.levels)
        return self

    def problems(self, models: Mapping[str, Model]) -> Iterator[Problem]:
        """References to no type or property, and a unit that is not the property's."""
        for at, kind in enumerate(self.types):
            model = models.get(kind)
            prop = model.properties.get(self.property) if model else None
            if model is None:
                yield missing(("types", at), kind, "类型", "type")
            elif prop is None:
                if not model.open:
                    yield missing(("property",), self.property, f"{kind} 的属性", f"property of {kind}")
            elif prop.kind != "number":
                yield Problem(("property",), self.property, f"{kind} 的属性 {self.property} 不是数值", f"{self.property} of {kind} is no number")
            elif self.statistic not in SHARES | {"count", "sum"} and self.unit != prop.symbol:
                yield Problem(("unit",), self.unit, f"{kind} 的属性 {self.property} 的单位是 {prop.symbol}", f"the unit of {self.property} of {kind} is {prop.symbol}")


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


class Part(Strict):
    """Widgets under a heading."""

    title: Text | None = None
    widgets: list[Widget] = Field(min_length=1, max_length=40)


class Dashboard(Strict):
    """A page."""

    title: Text
    note: Words | None = None
    sections: list[Part] = Field(min_length=1, max_length=20)


class Pages(Strict):
    """The section `dashboards` of a pack."""

    layers: dict[Id, Layer] = Field(default_factory=dict, max_length=100)
    dashboards: dict[Id, Dashboard] = Field(default_factory=dict, max_length=50)

    def problems(self, pack: str, known: Catalogue, models: Mapping[str, Model], workflows: Collection[str]) -> Iterator[Problem]:
        """References of this file, which is of `pack`, to what is not `known`; its own layers are known, too."""
        for name, layer in self.layers.items():
            if layer.indicator is not None and full(pack, layer.indicator) not in known.indicators:
                yield missing(("layers", name, "indicator"), full(pack, layer.indicator), "指标", "indicator")
            for at, kind in enumerate(layer.types):
                model = models.get(kind)
                if model is None:
                    yield missing(("layers", name, "types", at), kind, "类型", "type")
                elif layer.property is not None and not model.open and layer.property not in model.properties:
                    yield missing(("layers", name, "property"), layer.property, f"{kind} 的属性", f"property of {kind}")
        layers = known.layers.keys() | {f"{pack}/{name}" for name in self.layers}
        for name, page in self.dashboards.items():
            for s, section in enumerate(page.sections):
                for w, widget in enumerate(section.widgets):
                    for problem in _of_widget(widget, pack, known.indicators, layers, models, workflows):
                        yield problem._replace(place=("dashboards", name, "sections", s, "widgets", w, *problem.place))

    def resolved(self, pack: str, indicators: Mapping[str, Indicator]) -> Pages:
        """The same with full references, and with the types of layers of indicators."""
        layers = {
            name: layer if layer.indicator is None else layer.model_copy(update={
                "indicator": full(pack, layer.indicator), "types": indicators[full(pack, layer.indicator)].types})
            for name, layer in self.layers.items()
        }
        return Pages(layers=layers, dashboards={
            name: page.model_copy(update={"sections": [
                section.model_copy(update={"widgets": [_resolved(widget, pack) for widget in section.widgets]}) for section in page.sections
            ]}) for name, page in self.dashboards.items()
        })


class Catalogue(NamedTuple):
    """What packs declare, by `pack/id`."""

    indicators: dict[str, Indicator]
    layers: dict[str, Layer]
    dashboards: dict[str, Dashboard]


def full(pack: str, reference: str) -> str:
    """`pack/id` of a reference that was made within a pack."""
    return reference if "/" in reference else f"{pack}/{reference}"


def missing(place: tuple[str | int, ...], name: str, zh: str, en: str) -> Problem:
    """A reference to what is not there."""
    return Problem(place, name, f"没有{zh} {name}", f"there is no {en} {name}")


def _of_widget(
    widget: Widget, pack: str, indicators: Mapping[str, Indicator], layers: Collection[str], models: Mapping[str, Model],
    workflows: Collection[str],
) -> Iterator[Problem]:
    if isinstance(widget, Tile | Chart | Ranking):
        reference = full(pack, widget.indicator)
        one = indicators.get(reference)
        if one is None:
            yield missing(("indicator",), reference, "指标", "indicator")
        elif isinstance(widget, Ranking) and not one.ranking:
            yield Problem(("indicator",), reference, f"指标 {reference} 不作排名", f"the indicator {reference} ranks no things")
        elif isinstance(widget, Chart) and widget.area is not None and widget.area not in one.areas:
            yield Problem(("area",), widget.area, f"指标 {reference} 不按此级汇总", f"the indicator {reference} is not offered by this level")
        elif isinstance(widget, Chart) and widget.by == "time" and one.statistic == "last":
            yield Problem(("by",), "time", "最新值没有历史曲线", "a last value has no course")
    elif isinstance(widget, Map):
        if full(pack, widget.layer) not in layers:
            yield missing(("layer",), full(pack, widget.layer), "图层", "layer")
    elif isinstance(widget, Items):
        if widget.workflow not in workflows:
            yield missing(("workflow",), widget.workflow, "工作流", "workflow")
    elif isinstance(widget, Things):
        if widget.type not in models:
            yield missing(("type",), widget.type, "类型", "type")
    else:
        for at, kind in enumerate(widget.types):
            if kind not in models:
                yield missing(("types", at), kind, "类型", "type")


def _resolved(widget: Widget, pack: str) -> Widget:
    if isinstance(widget, Tile | Chart | Ranking):
        return widget.model_copy(update={"indicator": full(pack, widget.indicator)})
    return widget.model_copy(update={"layer": full(pack, widget.layer)}) if isinstance(widget, Map) else widget


def declared(packs: Packs) -> Catalogue:
    """What the packs declare, with full references."""
    found = Catalogue({}, {}, {})
    for pack, indicators in packs.section("indicators"):
        found.indicators.update({f"{pack.name}/{name}": one for name, one in indicators.items()})
    for pack, pages in packs.section("dashboards"):
        full_ = pages.resolved(pack.name, found.indicators)
        found.layers.update({f"{pack.name}/{name}": layer for name, layer in full_.layers.items()})
        found.dashboards.update({f"{pack.name}/{name}": page for name, page in full_.dashboards.items()})
    return found


def check_indicators(indicators: Mapping[str, Indicator], _pack: Pack, packs: Packs) -> Iterator[PydanticCustomError]:
    """What is wrong with the section `indicators` of a pack, among those before it."""
    for name, one in indicators.items():
        for problem in one.problems(packs.own):
            yield broken("declared", problem.zh, problem.en, (name, *problem.place))


def check_pages(pages: Pages, pack: Pack, packs: Packs) -> Iterator[PydanticCustomError]:
    """What is wrong with the section `dashboards` of a pack, among those before it."""
    known = declared(packs)
    known.indicators.update({f"{pack.name}/{name}": one for name, one in (pack.section("indicators") or {}).items()})
    workflows = {*declared_workflows(packs), *(pack.section("workflows") or ())}
    for problem in pages.problems(pack.name, known, packs.own, workflows):
        yield broken("declared", problem.zh, problem.en, problem.place)


SECTIONS = {"indicators": Section(dict[Id, Indicator], check_indicators), "dashboards": Section(Pages, check_pages)}
