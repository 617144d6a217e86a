"""The HTTP routes of edges: `/edges` for people, `/edge/...` for edges with their token.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tulou.access.edge.service import Announcement, Edges, Reports, no_such_edge
from tulou.access.edge.tables import NewEdge
from tulou.access.edge.wire import LARGEST
from tulou.access.http import timeout_of
from tulou.kernel.errors import TulouError
from tulou.kernel.http import (
    API,
    Handler,
    body_bytes,
    body_model,
    defect_response,
    json_response,
    limit_of,
    path_number,
    problem_response,
    route,
)
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.edge")


def routes(house: House) -> list[BaseRoute]:
    """Every route of edges."""
    edges = house.service(Edges)

    async def edge_list(request: Request, actor: Actor) -> Response:
        query = request.query_params
        return json_response(await edges.find(
            actor, org=query.get("org") or None, limit=limit_of(request), after=query.get("after") or None,
        ))

    async def edge_create(request: Request, actor: Actor) -> Response:
        return json_response(await edges.create(actor, await body_model(request, NewEdge)), 201)

    async def edge_get(request: Request, actor: Actor) -> Response:
        return json_response(await edges.get(actor, path_number(request, "no", no_such_edge)))

    async def edge_revoke(request: Request, actor: Actor) -> Response:
        return json_response(await edges.revoke(actor, path_number(request, "no", no_such_edge)))

    async def meet(request: Request, actor: Actor, no: int) -> Response:
        return json_response(await edges.meet(actor, no, request.query_params.get("era", "")))

    async def take(request: Request, actor: Actor, no: int) -> Response:
        body = await body_bytes(request, LARGEST)
        return json_response(await edges.take(actor, no, body, request.headers.get("content-encoding") == "deflate"))

    async def announce(request: Request, actor: Actor, no: int) -> Response:
        return json_response(await edges.announce(actor, no, await body_model(request, Announcement)))

    async def orders(request: Request, actor: Actor, no: int) -> Response:
        return json_response(await edges.orders(actor, no, timeout_of(request)))

    async def reported(request: Request, actor: Actor, no: int) -> Response:
        await edges.reported(actor, no, await body_model(request, Reports))
        return json_response({})

    def at(method: str, path: str, handler: Handler) -> BaseRoute:
        return route(house, method, API + path, handler)

    def of_edge(method: str, path: str, handle: Callable[[Request, Actor, int], Awaitable[Response]]) -> BaseRoute:
        """A route whose actor is the edge of the token."""

        async def endpoint(request: Request) -> Response:
            try:
                kind, _, token = request.headers.get("authorization", "").partition(" ")
                address = request.client.host if request.client else ""
                actor, no = await edges.admitted(token.strip() if kind.lower() == "bearer" else "", address)
                return await handle(request, actor, no)
            except TulouError as error:
                return problem_response(error)
            except Exception:
                log.exception("defect in %s %s", method, path)
                return defect_response()

        return Route(f"{API}/edge/{path}", endpoint, methods=[method])

    return [
        at("GET", "/edges", edge_list),
        at("POST", "/edges", edge_create),
        at("GET", "/edges/{no}", edge_get),
        at("DELETE", "/edges/{no}", edge_revoke),
        of_edge("GET", "position", meet),
        of_edge("POST", "readings", take),
        of_edge("POST", "entities", announce),
        of_edge("GET", "commands", orders),
        of_edge("POST", "reports", reported),
    ]
