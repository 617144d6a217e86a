"""`POST /api/v1/lorawan/events?event=up`: what ChirpStack's HTTP integration posts.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.access.lorawan.service import NetworkServers
from tulou.kernel.http import API, body_bytes, json_response, route
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House


def routes(house: House) -> list[BaseRoute]:
    """The route."""
    servers = house.service(NetworkServers)

    async def take(request: Request, actor: Actor) -> Response:
        body = await body_bytes(request, house.settings.max_payload)
        return json_response({"taken": await servers.take(actor, request.query_params.get("event", ""), body)})

    return [route(house, "POST", API + "/lorawan/events", take)]
