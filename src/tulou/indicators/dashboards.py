"""Dashboards and layers of maps: the pages that packs declare.

Law: a page is open to everyone who is signed in, and holds no figure; every figure on it is asked for through an operation that
asks the policy. Things of a layer are those of organisations that the asker sees.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from tulou.indicators.models import Layer
from tulou.indicators.service import MOST_DAYS, READ, VALUE, Indicators, Question
from tulou.kernel.errors import NotFound
from tulou.kernel.policy import Actor, operation
from tulou.kernel.readings import day_of

if TYPE_CHECKING:
    from tulou.kernel.house import House


class Dashboards:
    """The dashboards and layers of the packs."""

    def __init__(self, house: House, indicators: Indicators) -> None:
        self.house = house
        self.policy = house.policy
        self.indicators = indicators
        self.catalogue = indicators.catalogue

    @operation("indicators.dashboard.read")
    async def find(self, actor: Actor) -> list[dict[str, Any]]:
        """The pages, by pack."""
        self.policy.require_any(actor, "indicators.dashboard.read")
        return [
            {
                "pack": pack, "id": id, "title": page.title.model_dump(), "pack_label": self.house.packs.packs[pack].label.model_dump(),
                "version": self.house.packs.packs[pack].version,
            }
            for (pack, id), page in ((key.split("/"), page) for key, page in self.catalogue.dashboards.items())
        ]

    @operation("indicators.dashboard.read")
    async def get(self, actor: Actor, pack: str, id: str) -> dict[str, Any]:
        """One page, with the definitions of the indicators and layers that it shows. Raises `NotFound`."""
        self.policy.require_any(actor, "indicators.dashboard.read")
        key = f"{pack}/{id}"
        page = self.catalogue.dashboards.get(key)
        if page is None:
            raise NotFound(f"没有看板 {key}", f"there is no dashboard {key}", field="id", value=key)
        widgets = [widget for section in page.sections for widget in section.widgets]
        layers = {widget.layer for widget in widgets if widget.kind == "map"}
        used = {widget.indicator for widget in widgets if widget.kind in ("tile", "line", "bar", "ranking")}
        used |= {layer.indicator for layer in map(self.catalogue.layers.__getitem__, layers) if layer.indicator is not None}
        return {
            "pack": pack, "id": id, "pack_label": self.house.packs.packs[pack].label.model_dump(), **page.model_dump(mode="json"),
            "indicators": {name: self.indicators.definition(name) for name in sorted(used)},
            "layers": {name: self._layer(self.catalogue.layers[name]) for name in sorted(layers)},
        }

    def _layer(self, layer: Layer) -> dict[str, Any]:
        """A layer with the unit and the levels of what colours it."""
        if layer.indicator is not None:
            one = self.catalogue.indicators[layer.indicator]
            more: dict[str, Any] = {"unit": one.unit, "property_label": one.label.model_dump()}
            return {**layer.model_dump(mode="json"), "levels": [level.model_dump(mode="json") for level in one.levels], "better": one.better, **more}
        prop = self.house.packs.own[layer.types[0]].properties.get(layer.property or "")
        return {
            **layer.model_dump(mode="json"), "unit": prop.symbol if prop else "",
            "property_label": prop.label.model_dump() if prop else {"zh": layer.property, "en": layer.property},
        }

    @operation(VALUE)
    async def layer(self, actor: Actor, pack: str, id: str, question: Question) -> dict[str, Any]:
        """The things of a layer as columns, with their values (None where there is none). Raises `NotFound`."""
        visible = self.policy.visible(actor, VALUE)
        self.policy.require_any(actor, READ)
        key = f"{pack}/{id}"
        layer = self.catalogue.layers.get(key)
        if layer is None:
            raise NotFound(f"没有图层 {key}", f"there is no layer {key}", field="id", value=key)
        directory = self.indicators.directory
        if layer.indicator is not None:
            one = self.catalogue.indicators[layer.indicator]
            start, end, _ = self.indicators.time_of(one, question)
            scope = self.indicators.scope(visible, one.types, one.property, one.origins, question, start, end)
            if one.statistic == "last":
                entity, value, _, _ = await self.indicators.last(scope)
            else:
                found = await self.indicators.of_things(one, scope)
                entity, value = found.entity, found.value
        else:
            end = day_of(time.time_ns() // 1000) + dt.timedelta(days=1)
            scope = self.indicators.scope(visible, layer.types, layer.property or "", ["measured"], question, end - dt.timedelta(MOST_DAYS), end)
            entity, value, _, _ = await self.indicators.last(scope)
        rows = scope.rows[np.isfinite(directory.lon[scope.rows])]
        values = np.full(directory.size, np.nan)
        at, known = directory.rows(entity)
        values[at] = value[known]
        codes = directory.org[rows]
        return {
            "layer": self._layer(layer), "synthetic": bool(directory.synthetic[rows].any()), "elsewhere": len(scope.rows) - len(rows),
            "no": directory.no[rows].tolist(), "name": [directory.names[row] for row in rows.tolist()],
            "org": [directory.orgs[code] for code in codes.tolist()],
            "lon": directory.lon[rows].tolist(), "lat": directory.lat[rows].tolist(), "made_up": directory.synthetic[rows].tolist(),
            "value": [None if value != value else value for value in values[rows].tolist()],
        }


