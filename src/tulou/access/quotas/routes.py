"""The HTTP routes of quotas.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.access.quotas.service import Quotas
from tulou.access.quotas.tables import Quota
from tulou.kernel.http import API, body_model, json_response, route
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House


def routes(house: House) -> list[BaseRoute]:
    """Every route of quotas."""
    quotas = house.service(Quotas)

    async def get(request: Request, actor: Actor) -> Response:
        return json_response(await quotas.get(actor, request.path_params["id"]))

    async def put(request: Request, actor: Actor) -> Response:
        return json_response(await quotas.put(actor, request.path_params["id"], await body_model(request, Quota)))

    path = f"{API}/orgs/{{id}}/quota"
    return [route(house, "GET", path, get), route(house, "PUT", path, put)]
