"""`/sta/v1.1`: SensorThings over HTTP (OGC 18-088, clauses 9, 10 and 13).

Law: a route turns a request into one service call and its result into a response. An error is the house's problem
document, with `code` and `message` beside it for clients that look for those.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tulou.access.sensorthings import odata
from tulou.access.sensorthings.service import LIMITS_EN, LIMITS_ZH, NotOffered, SensorThings
from tulou.kernel.errors import TulouError
from tulou.kernel.http import body_json, defect_response, json_response, problem_response
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.sensorthings")

STA = "/sta/v1.1"


def query_of(request: Request) -> odata.Options:
    """The query options as they were written, in order; a `+` is a space, as in a form."""
    pairs = [part.partition("=") for part in request.scope["query_string"].decode("latin-1").split("&") if part]
    return odata.options([(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs])


def error_response(error: TulouError) -> Response:
    """The problem document with `code` and `message`."""
    answer = problem_response(error)
    body = {**error.problem(), "code": error.status, "message": error.both}
    headers = {name: value for name, value in answer.headers.items() if name not in ("content-length", "content-type")}
    return Response(orjson.dumps(body), error.status, headers, "application/problem+json")


def routes(house: House) -> list[BaseRoute]:
    """The service root and everything below it."""
    service = house.service(SensorThings)

    def base(request: Request) -> str:
        return (house.settings.public_url or str(request.base_url)).rstrip("/") + STA

    async def get(request: Request, actor: Actor) -> Response:
        segments = odata.resource(request.path_params.get("path", ""))
        if not segments:
            return json_response(await service.index(actor, base(request)))
        answer = await service.read(actor, segments, query_of(request), base(request))
        if answer.empty:
            return Response(status_code=204)
        if answer.text is not None:
            return Response(answer.text, 200, {"cache-control": "no-store"}, "text/plain; charset=utf-8")
        return json_response(answer.body)

    async def post(request: Request, actor: Actor) -> Response:
        segments = odata.resource(request.path_params.get("path", ""))
        if [part.name for part in segments] == ["CreateObservations"]:
            return json_response(await service.create_array(actor, await body_json(request), base(request)), 201)
        made = await service.create(actor, segments, await body_json(request), base(request))
        return Response(status_code=201, headers={"location": made, "cache-control": "no-store"})

    async def other(_request: Request, _actor: Actor) -> Response:
        raise NotOffered(LIMITS_ZH, LIMITS_EN, field="method", rule="GET | POST Observations | POST CreateObservations")

    def at(path: str, methods: list[str], handler: Callable[[Request, Actor], Awaitable[Response]]) -> BaseRoute:
        async def endpoint(request: Request) -> Response:
            try:
                return await handler(request, await house.actor(request.scope))
            except TulouError as error:
                return error_response(error)
            except Exception:
                log.exception("defect in %s %s", request.method, path)
                return defect_response()

        return Route(path, endpoint, methods=methods)

    below = STA + "/{path:path}"
    return [
        at(STA, ["GET"], get), at(below, ["GET"], get), at(below, ["POST"], post),
        at(below, ["PUT", "PATCH", "DELETE"], other),
    ]
