"""`/api/v1/context`: what operators of the house do with entities: indexes over values, counting anew.

Law: as of every door: a request becomes one service call and its result an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.context.service import ContextService
from tulou.kernel.http import API, body_model, json_response, route
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House


class NewIndex(BaseModel):
    """The attribute to index, as the house's context names it."""

    model_config = ConfigDict(extra="forbid")

    attribute: str = Field(min_length=1, max_length=1024)


def routes(house: House) -> list[BaseRoute]:
    """Indexes: list, add, remove; counts: anew."""
    entities = house.service(ContextService)
    indexes = entities.indexes

    async def search(_request: Request, actor: Actor) -> Response:
        return json_response({"items": await indexes.search(actor)})

    async def add(request: Request, actor: Actor) -> Response:
        await indexes.add(actor, (await body_model(request, NewIndex)).attribute)
        return Response(status_code=201)

    async def remove(request: Request, actor: Actor) -> Response:
        await indexes.remove(actor, request.path_params["attribute"])
        return Response(status_code=204)

    async def recount(_request: Request, actor: Actor) -> Response:
        return json_response({"kinds": await entities.recount(actor)})

    return [
        route(house, "POST", f"{API}/context/recount", recount),
        route(house, "GET", f"{API}/context/indexes", search), route(house, "POST", f"{API}/context/indexes", add),
        route(house, "DELETE", f"{API}/context/indexes/{{attribute:path}}", remove),
    ]
