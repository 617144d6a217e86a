"""The HTTP routes of groups of devices.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.access.groups.service import Groups, no_such_group
from tulou.access.groups.tables import GroupChange, Members, NewGroup
from tulou.kernel.http import API, Handler, body_model, json_response, limit_of, path_number, route
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House


def routes(house: House) -> list[BaseRoute]:
    """Every route of groups."""
    groups = house.service(Groups)

    def number(request: Request) -> int:
        return path_number(request, "no", no_such_group)

    async def group_list(request: Request, actor: Actor) -> Response:
        query = request.query_params
        return json_response(await groups.find(
            actor, org=query.get("org") or None, limit=limit_of(request), after=query.get("after") or None,
        ))

    async def group_create(request: Request, actor: Actor) -> Response:
        return json_response(await groups.create(actor, await body_model(request, NewGroup)), 201)

    async def group_get(request: Request, actor: Actor) -> Response:
        return json_response(await groups.get(actor, number(request)))

    async def group_change(request: Request, actor: Actor) -> Response:
        return json_response(await groups.change(actor, number(request), await body_model(request, GroupChange)))

    async def group_delete(request: Request, actor: Actor) -> Response:
        await groups.delete(actor, number(request))
        return Response(status_code=204)

    async def group_devices(request: Request, actor: Actor) -> Response:
        return json_response(await groups.regroup(actor, number(request), await body_model(request, Members)))

    def at(method: str, path: str, handler: Handler) -> BaseRoute:
        return route(house, method, API + path, handler)

    return [
        at("GET", "/device-groups", group_list),
        at("POST", "/device-groups", group_create),
        at("GET", "/device-groups/{no}", group_get),
        at("PATCH", "/device-groups/{no}", group_change),
        at("DELETE", "/device-groups/{no}", group_delete),
        at("POST", "/device-groups/{no}/devices", group_devices),
    ]
