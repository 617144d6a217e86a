"""The HTTP routes of firmware and roll-outs.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.access.ota.firmware import Firmwares, no_such_firmware
from tulou.access.ota.rollouts import Rollouts, no_such_rollout
from tulou.access.ota.tables import NewRollout
from tulou.kernel.errors import Invalid
from tulou.kernel.http import API, Handler, body_model, json_response, limit_of, path_number, route
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House


def _text(request: Request, name: str) -> str | None:
    return request.query_params.get(name) or None


def _stage(request: Request) -> int | None:
    raw = _text(request, "stage")
    if raw is not None and not (raw.isascii() and raw.isdigit() and len(raw) < 4):
        raise Invalid("stage 应为阶段序号", "stage is the number of a stage", field="stage", value=raw, rule=">= 1")
    return int(raw) if raw else None


def routes(house: House) -> list[BaseRoute]:
    """Every route of firmware and roll-outs."""
    firmwares, rollouts = house.service(Firmwares), house.service(Rollouts)

    async def firmware_create(request: Request, actor: Actor) -> Response:
        query = request.query_params
        for name in ("org", "type", "title", "version"):
            if not query.get(name):
                raise Invalid(f"缺少 {name}", f"{name} is missing", field=name, rule="required")
        made = await firmwares.create(
            actor, query["org"], query["type"], query["title"], query["version"], request.stream(), _text(request, "sha256")
        )
        return json_response(made, 201 if made["created"] else 200)

    async def firmware_list(request: Request, actor: Actor) -> Response:
        return json_response(await firmwares.find(
            actor, org=_text(request, "org"), kind=_text(request, "type"), limit=limit_of(request),
            after=_text(request, "after"),
        ))

    async def firmware_get(request: Request, actor: Actor) -> Response:
        return json_response(await firmwares.get(actor, path_number(request, "no", no_such_firmware)))

    async def firmware_delete(request: Request, actor: Actor) -> Response:
        await firmwares.delete(actor, path_number(request, "no", no_such_firmware))
        return Response(status_code=204)

    async def rollout_create(request: Request, actor: Actor) -> Response:
        return json_response(await rollouts.create(actor, await body_model(request, NewRollout)), 201)

    async def rollout_list(request: Request, actor: Actor) -> Response:
        return json_response(await rollouts.find(
            actor, org=_text(request, "org"), state=_text(request, "state"), limit=limit_of(request),
            after=_text(request, "after"),
        ))

    async def rollout_get(request: Request, actor: Actor) -> Response:
        return json_response(await rollouts.get(actor, path_number(request, "no", no_such_rollout)))

    async def rollout_devices(request: Request, actor: Actor) -> Response:
        return json_response(await rollouts.devices(
            actor, path_number(request, "no", no_such_rollout), state=_text(request, "state"), stage=_stage(request),
            limit=limit_of(request), after=_text(request, "after"),
        ))

    def steer(operation: Callable[[Actor, int], Awaitable[dict[str, Any]]]) -> Handler:
        async def handler(request: Request, actor: Actor) -> Response:
            return json_response(await operation(actor, path_number(request, "no", no_such_rollout)))

        return handler

    def at(method: str, path: str, handler: Handler) -> BaseRoute:
        return route(house, method, API + path, handler)

    return [
        at("GET", "/firmware", firmware_list),
        at("POST", "/firmware", firmware_create),
        at("GET", "/firmware/{no}", firmware_get),
        at("DELETE", "/firmware/{no}", firmware_delete),
        at("GET", "/rollouts", rollout_list),
        at("POST", "/rollouts", rollout_create),
        at("GET", "/rollouts/{no}", rollout_get),
        at("GET", "/rollouts/{no}/devices", rollout_devices),
        at("POST", "/rollouts/{no}/start", steer(rollouts.start)),
        at("POST", "/rollouts/{no}/pause", steer(rollouts.pause)),
        at("POST", "/rollouts/{no}/resume", steer(rollouts.resume)),
        at("POST", "/rollouts/{no}/abort", steer(rollouts.abort)),
        at("POST", "/rollouts/{no}/retry", steer(rollouts.retry)),
    ]
