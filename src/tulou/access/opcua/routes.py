"""`/api/v1/devices/{id}/opcua`: the server of a device; below it `nodes`, what is there, and `certificate`, the
house's own.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.access.opcua.service import OBJECTS, OpcUaServer, OpcUaServers
from tulou.kernel.http import API, body_model, json_response, route
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House


def routes(house: House) -> list[BaseRoute]:
    """The routes."""
    servers = house.service(OpcUaServers)

    async def get(request: Request, actor: Actor) -> Response:
        return json_response(await servers.get(actor, request.path_params["id"]))

    async def put(request: Request, actor: Actor) -> Response:
        return json_response(await servers.put(actor, request.path_params["id"], await body_model(request, OpcUaServer)))

    async def delete(request: Request, actor: Actor) -> Response:
        await servers.delete(actor, request.path_params["id"])
        return Response(status_code=204)

    async def nodes(request: Request, actor: Actor) -> Response:
        return json_response(
            await servers.browse(actor, request.path_params["id"], request.query_params.get("node", OBJECTS))
        )

    async def certificate(request: Request, actor: Actor) -> Response:
        return Response(await servers.certificate(actor, request.path_params["id"]), media_type="application/x-pem-file")

    path = API + "/devices/{id}/opcua"
    return [
        route(house, "GET", path, get), route(house, "PUT", path, put), route(house, "DELETE", path, delete),
        route(house, "GET", path + "/nodes", nodes), route(house, "GET", path + "/certificate", certificate),
    ]
