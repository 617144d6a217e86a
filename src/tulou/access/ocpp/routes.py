"""The HTTP routes of the cards that may charge.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.access.ocpp.service import Charging, no_such_tag
from tulou.access.ocpp.tables import IdTag
from tulou.kernel.http import API, body_model, json_response, limit_of, path_number, route
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House


def routes(house: House) -> list[BaseRoute]:
    """Every route of cards."""
    charging = house.service(Charging)

    async def find(request: Request, actor: Actor) -> Response:
        query = request.query_params
        return json_response(await charging.find(
            actor, org=query.get("org") or None, limit=limit_of(request), after=query.get("after") or None,
        ))

    async def put(request: Request, actor: Actor) -> Response:
        return json_response(await charging.put(actor, await body_model(request, IdTag)))

    async def delete(request: Request, actor: Actor) -> Response:
        await charging.delete(actor, path_number(request, "no", no_such_tag))
        return Response(status_code=204)

    return [
        route(house, "GET", f"{API}/id-tags", find),
        route(house, "PUT", f"{API}/id-tags", put),
        route(house, "DELETE", f"{API}/id-tags/{{no}}", delete),
    ]
