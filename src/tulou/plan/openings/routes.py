"""`/api/v1/plan/openings` and applications over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tulou.kernel.errors import Invalid
from tulou.kernel.http import API, Handler, body_model, json_response, limit_of, path_number, route
from tulou.kernel.policy import Actor
from tulou.plan.models import Decision
from tulou.plan.openings.models import NewApplication, NewOpening, NewReview
from tulou.plan.openings.service import Openings, no_such_application, no_such_opening
from tulou.plan.projects.routes import attachment

if TYPE_CHECKING:
    from tulou.kernel.house import House


def routes(house: House) -> list[Route]:
    """The routes of openings."""
    openings = house.service(Openings)

    def no(request: Request) -> int:
        return path_number(request, "no", no_such_opening)

    def application(request: Request) -> int:
        return path_number(request, "no", no_such_application)

    async def find(request: Request, actor: Actor) -> Response:
        query = request.query_params
        near = _numbers(query["near"], "near", 2) if query.get("near") else None
        (within,) = _numbers(query.get("within_km") or "20", "within_km", 1)
        if not 0 < within <= 1000 or (near is not None and not (abs(near[0]) <= 180 and abs(near[1]) <= 90)):
            raise Invalid("near 应为 经度,纬度；within_km 应为 0 至 1000", "near is longitude,latitude; within_km is 0..1000", field="near",
                          value=query.get("near"), rule="longitude,latitude")
        found = await openings.find(
            actor, kind=query.get("kind") or None, org=query.get("org") or None, near=None if near is None else (near[0], near[1]),
            within_m=within * 1000, limit=limit_of(request, 100),
        )
        return json_response({"items": found})

    async def offer(request: Request, actor: Actor) -> Response:
        return json_response(await openings.offer(actor, await body_model(request, NewOpening)), 201)

    async def get(request: Request, actor: Actor) -> Response:
        return json_response(await openings.opening(actor, no(request)))

    async def close(request: Request, actor: Actor) -> Response:
        return json_response(await openings.close(actor, no(request)))

    async def apply(request: Request, actor: Actor) -> Response:
        return json_response(await openings.apply(actor, no(request), await body_model(request, NewApplication)), 201)

    async def review(request: Request, actor: Actor) -> Response:
        return json_response(await openings.review(actor, application(request), await body_model(request, NewReview)), 201)

    def decides(accepted: bool) -> Handler:
        async def decide(request: Request, actor: Actor) -> Response:
            return json_response(await openings.decide(actor, application(request), accepted, await body_model(request, Decision)))

        return decide

    async def end(request: Request, actor: Actor) -> Response:
        return json_response(await openings.end(actor, application(request)))

    async def evidence(request: Request, actor: Actor) -> Response:
        return attachment(*await openings.evidence(actor, application(request)))

    return [
        route(house, "GET", f"{API}/plan/openings", find),
        route(house, "POST", f"{API}/plan/openings", offer),
        route(house, "GET", f"{API}/plan/openings/{{no}}", get),
        route(house, "POST", f"{API}/plan/openings/{{no}}/close", close),
        route(house, "POST", f"{API}/plan/openings/{{no}}/applications", apply),
        route(house, "POST", f"{API}/plan/applications/{{no}}/reviews", review),
        route(house, "POST", f"{API}/plan/applications/{{no}}/accept", decides(True)),
        route(house, "POST", f"{API}/plan/applications/{{no}}/refuse", decides(False)),
        route(house, "POST", f"{API}/plan/applications/{{no}}/end", end),
        route(house, "GET", f"{API}/plan/applications/{{no}}/evidence", evidence),
    ]


def _numbers(text: str, name: str, count: int) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != count:
        raise Invalid(f"{name} 应为 {count} 个数", f"{name} must be {count} numbers", field=name, value=text, rule=f"{count} numbers")
    return found
