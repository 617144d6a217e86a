"""The HTTP routes of provisioning: keys for people, and `POST /api/v1/provision` for devices.

Law: a route turns a request into one service call and its result into a response. A device is answered by the convention:
200, and the status in the body.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tulou.access.provisioning.service import LARGEST, Provisioning, no_such_key
from tulou.access.provisioning.tables import KeyChange, NewKey
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

log = logging.getLogger("tulou.access.provisioning")


def routes(house: House) -> list[BaseRoute]:
    """Every route of provisioning."""
    provisioning = house.service(Provisioning)

    async def key_list(request: Request, actor: Actor) -> Response:
        query = request.query_params
        return json_response(await provisioning.find(
            actor, org=query.get("org") or None, limit=limit_of(request), after=query.get("after") or None,
        ))

    async def key_create(request: Request, actor: Actor) -> Response:
        return json_response(await provisioning.create(actor, await body_model(request, NewKey)), 201)

    async def key_change(request: Request, actor: Actor) -> Response:
        change = await body_model(request, KeyChange)
        return json_response(await provisioning.change(actor, path_number(request, "no", no_such_key), change))

    async def key_delete(request: Request, actor: Actor) -> Response:
        await provisioning.delete(actor, path_number(request, "no", no_such_key))
        return Response(status_code=204)

    async def provision(request: Request) -> Response:
        try:
            body = await body_bytes(request, LARGEST)
            return json_response(await provisioning.provision(body, request.client.host if request.client else ""))
        except TulouError as error:
            return problem_response(error)
        except Exception:
            log.exception("defect in provisioning")
            return defect_response()

    def at(method: str, path: str, handler: Handler) -> BaseRoute:
        return route(house, method, API + path, handler)

    return [
        at("GET", "/provision-keys", key_list),
        at("POST", "/provision-keys", key_create),
        at("PATCH", "/provision-keys/{no}", key_change),
        at("DELETE", "/provision-keys/{no}", key_delete),
        Route(f"{API}/provision", provision, methods=["POST"]),
    ]
