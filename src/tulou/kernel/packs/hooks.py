"""What the packs' mechanism contributes to the house: routes, a check, the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.http import API, json_response, route
from tulou.kernel.packs.collection import left_out_finding
from tulou.kernel.packs.register import PackRegister
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import Check, House

POLICIES = """
// What fields the house serves is open to everyone who is signed in.
permit (principal, action, resource)
when { context.active && context.engine == "packs" && context.verb == "read" && ["user", "token"].contains(context.kind) };
"""


@hookimpl
def policies() -> str:
    return POLICIES


@hookimpl
def services(house: House) -> Sequence[object]:
    return [PackRegister(house)]


@hookimpl
async def started(house: House) -> None:
    if "api" in house.roles:
        await house.service(PackRegister).record_changes()


@hookimpl
def checks(house: House) -> Sequence[Check]:
    from tulou.kernel.house import Check

    async def whole() -> tuple[bool, str, str]:
        return left_out_finding(house.packs)

    return [Check("packs", whole)]


@hookimpl
def routes(house: House) -> Sequence[BaseRoute]:
    register = house.service(PackRegister)

    async def find(_request: Request, actor: Actor) -> Response:
        return json_response(await register.find(actor))

    async def schema(_request: Request, actor: Actor) -> Response:
        return json_response(await register.schema(actor))

    async def get(request: Request, actor: Actor) -> Response:
        return json_response(await register.get(actor, request.path_params["name"]))

    return [
        route(house, "GET", f"{API}/packs", find),
        route(house, "GET", f"{API}/packs/schema", schema),
        route(house, "GET", f"{API}/packs/{{name}}", get),
    ]
