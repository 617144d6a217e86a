"""The HTTP routes of products.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.access.products.service import Products
from tulou.access.products.tables import Draft, NewProduct, ProductChange
from tulou.kernel.http import API, Handler, body_model, json_response, limit_of, route
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House


def routes(house: House) -> list[BaseRoute]:
    """Every route of products."""
    products = house.service(Products)

    async def product_list(request: Request, actor: Actor) -> Response:
        query = request.query_params
        return json_response(await products.find(
            actor, org=query.get("org") or None, limit=limit_of(request), after=query.get("after") or None,
        ))

    async def product_create(request: Request, actor: Actor) -> Response:
        return json_response(await products.create(actor, await body_model(request, NewProduct)), 201)

    async def product_check(request: Request, actor: Actor) -> Response:
        return json_response(await products.check(actor, await body_model(request, Draft)))

    async def product_get(request: Request, actor: Actor) -> Response:
        return json_response(await products.get(actor, request.path_params["name"]))

    async def product_replace(request: Request, actor: Actor) -> Response:
        name = request.path_params["name"]
        return json_response(await products.replace(actor, name, await body_model(request, ProductChange)))

    async def product_delete(request: Request, actor: Actor) -> Response:
        await products.delete(actor, request.path_params["name"])
        return Response(status_code=204)

    def at(method: str, path: str, handler: Handler) -> BaseRoute:
        return route(house, method, API + path, handler)

    return [
        at("GET", "/products", product_list),
        at("POST", "/products", product_create),
        at("POST", "/products/check", product_check),
        at("GET", "/products/{name}", product_get),
        at("PUT", "/products/{name}", product_replace),
        at("DELETE", "/products/{name}", product_delete),
    ]
