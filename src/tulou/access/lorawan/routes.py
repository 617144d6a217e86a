"""`POST /api/v1/lorawan/events?event=up`: what ChirpStack's HTTP integration posts; `/api/v1/orgs/{id}/lorawan`: the organisation's server.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.access.lorawan.servers import LoRaWanServers
from tulou.access.lorawan.service import NetworkServers
from tulou.access.lorawan.tables import NetworkServer
from tulou.kernel.http import API, body_bytes, body_model, json_response, route
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House


def routes(house: House) -> list[BaseRoute]:
    """The routes."""
    servers, told = house.service(NetworkServers), house.service(LoRaWanServers)

    async def take(request: Request, actor: Actor) -> Response:
        body = await body_bytes(request, house.settings.max_payload)
        return json_response({"taken": await servers.take(actor, request.query_params.get("event", ""), body)})

    async def get(request: Request, actor: Actor) -> Response:
        return json_response(await told.get(actor, request.path_params["id"]))

    async def put(request: Request, actor: Actor) -> Response:
        return json_response(await told.put(actor, request.path_params["id"], await body_model(request, NetworkServer)))

    async def delete(request: Request, actor: Actor) -> Response:
        await told.delete(actor, request.path_params["id"])
        return Response(status_code=204)

    path = API + "/orgs/{id}/lorawan"
    return [
        route(house, "POST", API + "/lorawan/events", take),
        route(house, "GET", path, get), route(house, "PUT", path, put), route(house, "DELETE", path, delete),
    ]
