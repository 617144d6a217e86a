"""`/api/v1/ecology`, as docs/ecology.md says.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.kernel.errors import Invalid, NotFound
from tulou.kernel.http import API, body_model, flag, json_response, limit_of, path_number, route
from tulou.kernel.policy import Actor
from tulou.kernel.readings import day_of
from tulou.kernel.workflows import no_such_item
from tulou.packs.ecology.service import Ecology
from tulou.packs.ecology.stations import KINDS
from tulou.packs.ecology.warnings import NewWarning, Warnings, no_such_warning

if TYPE_CHECKING:
    from tulou.kernel.house import House

BASE = f"{API}/ecology"


def no_such_station(no: object) -> NotFound:
    """There is no such station, or none that the actor may see."""
    return NotFound(f"没有站点 {no}", f"there is no station {no}", field="station", value=no)


def routes(house: House) -> list[BaseRoute]:
    """Every route of the pack."""
    ecology, warnings = house.service(Ecology), house.service(Warnings)

    async def station(request: Request, actor: Actor) -> Response:
        kind, no = _kind(request), path_number(request, "station", no_such_station)
        return json_response(await ecology.station(actor, kind, no, _day(request, "day")))

    async def capture(request: Request, actor: Actor) -> Response:
        kind, no = _kind(request), path_number(request, "station", no_such_station)
        start, end = _span(request)
        return json_response(await ecology.capture(actor, kind, no, start, end))

    async def ranking(request: Request, actor: Actor) -> Response:
        by = request.query_params.get("by") or "city"
        if by not in ("city", "station"):
            raise Invalid("by 应为 city 或 station", "by is city or station", field="by", value=by, rule="city | station")
        day = _day(request, "day") or day_of(int(dt.datetime.now(dt.UTC).timestamp() * 1e6)) - dt.timedelta(days=1)
        return json_response(await ecology.ranking(actor, day, by, bool(flag(request, "synthetic"))))

    async def entry(request: Request, actor: Actor) -> Response:
        return json_response(await ecology.entry(actor, path_number(request, "item", no_such_item)))

    async def derive(request: Request, actor: Actor) -> Response:
        start, end = _span(request)
        return json_response(await ecology.derive(actor, start, end), 202)

    async def find(request: Request, actor: Actor) -> Response:
        return json_response(await warnings.find(actor, limit=limit_of(request), after=request.query_params.get("after") or None))

    async def draft(request: Request, actor: Actor) -> Response:
        return json_response(await warnings.draft(actor, await body_model(request, NewWarning)), 201)

    async def warning(request: Request, actor: Actor) -> Response:
        return json_response(await warnings.get(actor, path_number(request, "id", no_such_warning)))

    async def sign(request: Request, actor: Actor) -> Response:
        return json_response(await warnings.sign(actor, path_number(request, "id", no_such_warning)))

    async def drop(request: Request, actor: Actor) -> Response:
        await warnings.drop(actor, path_number(request, "id", no_such_warning))
        return Response(status_code=204)

    async def xml(request: Request, actor: Actor) -> Response:
        return Response(await warnings.xml(actor, path_number(request, "id", no_such_warning)), media_type="application/cap+xml")

    return [
        route(house, "GET", f"{BASE}/warnings", find),
        route(house, "POST", f"{BASE}/warnings", draft),
        route(house, "GET", f"{BASE}/warnings/{{id}}.xml", xml),
        route(house, "GET", f"{BASE}/warnings/{{id}}", warning),
        route(house, "DELETE", f"{BASE}/warnings/{{id}}", drop),
        route(house, "POST", f"{BASE}/warnings/{{id}}/signature", sign),
        route(house, "GET", f"{BASE}/air", ranking),
        route(house, "POST", f"{BASE}/derivations", derive),
        route(house, "GET", f"{BASE}/entries/{{item}}", entry),
        route(house, "GET", f"{BASE}/{{kind}}/{{station}}", station),
        route(house, "GET", f"{BASE}/{{kind}}/{{station}}/capture", capture),
    ]


def _kind(request: Request) -> str:
    kind: str = request.path_params["kind"]
    if kind not in KINDS:
        raise NotFound("没有这个地址", "no such address", field="path", value=kind, rule=" | ".join(KINDS))
    return kind


def _span(request: Request) -> tuple[dt.date, dt.date]:
    start, end = _day(request, "from"), _day(request, "to")
    if start is None or end is None:
        name = "from" if start is None else "to"
        raise Invalid(f"缺少 {name}", f"{name} is missing", field=name, rule="YYYY-MM-DD")
    return start, end


def _day(request: Request, name: str) -> dt.date | None:
    raw = request.query_params.get(name)
    if not raw:
        return None
    try:
        return dt.datetime.strptime(raw, "%Y-%m-%d").date()
    except ValueError:
        raise Invalid(f"{name} 应为日期，如 2026-11-28", f"{name} must be a date such as 2026-11-28", field=name, value=raw,
                      rule="YYYY-MM-DD") from None
