"""`/api/v1/indicators`, `/dashboards` and `/layers`, exactly as docs/indicators.md says.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.indicators.dashboards import Dashboards
from tulou.indicators.models import Area
from tulou.indicators.service import GRAINS, Indicators, Question
from tulou.kernel.errors import Invalid
from tulou.kernel.http import API, flag, json_response, limit_of, route
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House

GROUPS = (*get_args(Area), "thing")


def routes(house: House) -> list[BaseRoute]:
    """Every route of the engine."""
    indicators, dashboards = house.service(Indicators), house.service(Dashboards)

    async def find(request: Request, actor: Actor) -> Response:
        return json_response({"items": await indicators.find(actor)})

    async def answer(request: Request, actor: Actor) -> Response:
        pack, id, question = request.path_params["pack"], request.path_params["id"], _question(request)
        if _one_of(request, "format", ("json", "csv")) != "csv":
            return json_response(await indicators.answer(actor, pack, id, question))
        text = await indicators.table(actor, pack, id, question)
        headers = {"content-disposition": f'attachment; filename="{pack}-{id}.csv"', "cache-control": "private, no-store"}
        return Response("\ufeff" + text, 200, headers, "text/csv; charset=utf-8")  # spreadsheets know UTF-8 by the mark

    async def pages(request: Request, actor: Actor) -> Response:
        return json_response({"items": await dashboards.find(actor)})

    async def page(request: Request, actor: Actor) -> Response:
        return json_response(await dashboards.get(actor, request.path_params["pack"], request.path_params["id"]))

    async def layer(request: Request, actor: Actor) -> Response:
        return json_response(await dashboards.layer(actor, request.path_params["pack"], request.path_params["id"], _question(request)))

    return [
        route(house, "GET", f"{API}/indicators", find),
        route(house, "GET", f"{API}/indicators/{{pack}}/{{id}}", answer),
        route(house, "GET", f"{API}/dashboards", pages),
        route(house, "GET", f"{API}/dashboards/{{pack}}/{{id}}", page),
        route(house, "GET", f"{API}/layers/{{pack}}/{{id}}", layer),
    ]


def _question(request: Request) -> Question:
    group = _one_of(request, "group", GROUPS)
    return Question(
        start=_day(request, "from"), end=_day(request, "to"), grain=_one_of(request, "grain", GRAINS),  # type: ignore[arg-type]
        area=None if group == "thing" else group, things=group == "thing",  # type: ignore[arg-type]
        org=request.query_params.get("org") or None, synthetic=bool(flag(request, "synthetic")), before=bool(flag(request, "before")),
        most=limit_of(request, default=100, most=20_000),
    )


def _one_of(request: Request, name: str, known: tuple[str, ...]) -> str | None:
    raw = request.query_params.get(name) or None
    if raw is not None and raw not in known:
        raise Invalid(f"{name} 应为 {'、'.join(known)} 之一", f"{name} must be one of {', '.join(known)}", field=name, value=raw,
                      rule=" | ".join(known))
    return raw


def _day(request: Request, name: str) -> dt.date | None:
    raw = request.query_params.get(name)
    if not raw:
        return None
    try:
        day = dt.datetime.strptime(raw, "%Y-%m-%d").date()
    except ValueError:
        day = None
    if day is None or not 1980 <= day.year <= 2100:
        raise Invalid(f"{name} 应为 1980 至 2100 年的日期，如 2026-11-28", f"{name} must be a date of 1980 to 2100, such as 2026-11-28",
                      field=name, value=raw, rule="YYYY-MM-DD")
    return day
