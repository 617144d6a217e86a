"""`/api/v1/devices/{id}/lwm2m` and below it the device's paths: GET reads, PUT writes, POST executes or observes, DELETE
observes no longer.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.access.lwm2m.service import WAIT, Lwm2m
from tulou.kernel.errors import Invalid
from tulou.kernel.http import API, body_model, flag, json_response, route
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House


class Written(BaseModel):
    """A value to write: of a resource, or an object of resource ids and values for an instance."""

    model_config = ConfigDict(extra="forbid")

    value: Any


class Executed(BaseModel):
    """Arguments of a resource to execute (V1_0, 5.4.5)."""

    model_config = ConfigDict(extra="forbid")

    arguments: str = Field(default="", max_length=1000)


def _wait(request: Request) -> float:
    text = request.query_params.get("wait")
    if text is None:
        return WAIT
    if not (text.isdecimal() and text.isascii() and len(text) < 5):
        raise Invalid("wait 须为整数秒", "wait is a whole number of seconds", field="wait", value=text, rule="seconds")
    return float(text)


def routes(house: House) -> list[BaseRoute]:
    """The routes."""
    lwm2m = house.service(Lwm2m)

    def where(request: Request) -> tuple[str, str]:
        return request.path_params["id"], request.path_params["path"]

    async def state(request: Request, actor: Actor) -> Response:
        return json_response(await lwm2m.state(actor, request.path_params["id"]))

    async def read(request: Request, actor: Actor) -> Response:
        return json_response(await lwm2m.read(actor, *where(request), wait=_wait(request)))

    async def write(request: Request, actor: Actor) -> Response:
        body = await body_model(request, Written)
        return json_response(await lwm2m.write(actor, *where(request), body.value, wait=_wait(request)))

    async def execute(request: Request, actor: Actor) -> Response:
        if flag(request, "observe"):
            return json_response(await lwm2m.observe(actor, *where(request), wait=_wait(request)))
        body = await body_model(request, Executed)
        return json_response(await lwm2m.execute(actor, *where(request), body.arguments, wait=_wait(request)))

    async def cancel(request: Request, actor: Actor) -> Response:
        return json_response(await lwm2m.cancel(actor, *where(request), wait=_wait(request)))

    path = API + "/devices/{id}/lwm2m"
    return [
        route(house, "GET", path, state), route(house, "GET", path + "/{path:path}", read),
        route(house, "PUT", path + "/{path:path}", write), route(house, "POST", path + "/{path:path}", execute),
        route(house, "DELETE", path + "/{path:path}", cancel),
    ]
