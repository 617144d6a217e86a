"""What the engine contributes to the house."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tulou.indicators.dashboards import Dashboards
from tulou.indicators.models import SECTIONS, declared
from tulou.indicators.service import Indicators
from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.packs import Section

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from tulou.kernel.house import House

POLICIES = """
// What is counted, and the pages that show it, are open to everyone who is signed in; values are of whoever sees the things.
permit (principal, action, resource)
when {
  context.active && context.engine == "indicators" && context.verb == "read" && ["indicator", "dashboard"].contains(context.thing) &&
  ["user", "token"].contains(context.kind)
};

permit (principal, action, resource)
when {
  context.active && context.engine == "indicators" && context.thing == "value" && context.verb == "read" &&
  context.roles.containsAny(["steward", "operator", "analyst", "viewer"])
};
"""


@hookimpl
def sections() -> Mapping[str, Section]:
    """`indicators`, `dashboards`."""
    return SECTIONS


@hookimpl
def policies() -> str:
    """Who may read definitions, pages and values."""
    return POLICIES


@hookimpl
def services(house: House) -> Sequence[object]:
    """`Indicators`, `Dashboards`."""
    indicators = Indicators(house, declared(house.packs))
    return [indicators, Dashboards(house, indicators)]


@hookimpl
def routes(house: House) -> Sequence[BaseRoute]:
    """`/api/v1/indicators`, `/api/v1/dashboards`, `/api/v1/layers`."""
    from tulou.indicators.routes import routes as indicator_routes

    return indicator_routes(house)
