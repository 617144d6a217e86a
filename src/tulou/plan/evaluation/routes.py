"""`/api/v1/plan/evaluations` and appeals over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tulou.kernel.http import API, Handler, body_model, json_response, path_number, route
from tulou.kernel.policy import Actor
from tulou.plan.evaluation.models import NewAppeal, NewEvaluation, Verdict
from tulou.plan.evaluation.service import Evaluations, no_such_appeal, no_such_evaluation
from tulou.plan.projects.routes import attachment

if TYPE_CHECKING:
    from tulou.kernel.house import House


def routes(house: House) -> list[Route]:
    """The routes of evaluations."""
    evaluations = house.service(Evaluations)

    def year(request: Request) -> int:
        return path_number(request, "year", no_such_evaluation)

    def version(request: Request) -> int:
        return path_number(request, "version", lambda text: no_such_evaluation(request.path_params["year"], text))

    async def find(_request: Request, actor: Actor) -> Response:
        return json_response({"items": await evaluations.evaluations(actor)})

    async def draft(request: Request, actor: Actor) -> Response:
        return json_response(await evaluations.draft(actor, await body_model(request, NewEvaluation)), 201)

    async def current(request: Request, actor: Actor) -> Response:
        return json_response(await evaluations.evaluation(actor, year(request)))

    async def get(request: Request, actor: Actor) -> Response:
        return json_response(await evaluations.evaluation(actor, year(request), version(request)))

    async def publish(request: Request, actor: Actor) -> Response:
        return json_response(await evaluations.publish(actor, year(request), version(request)))

    async def finish(request: Request, actor: Actor) -> Response:
        return json_response(await evaluations.finish(actor, year(request), version(request)))

    async def appeal(request: Request, actor: Actor) -> Response:
        return json_response(await evaluations.appeal(actor, year(request), await body_model(request, NewAppeal)), 201)

    def decides(upheld: bool) -> Handler:
        async def decide(request: Request, actor: Actor) -> Response:
            no = path_number(request, "no", no_such_appeal)
            return json_response(await evaluations.decide(actor, no, upheld, await body_model(request, Verdict)))

        return decide

    async def evidence(request: Request, actor: Actor) -> Response:
        return attachment(*await evaluations.evidence(actor, path_number(request, "no", no_such_appeal)))

    base = f"{API}/plan/evaluations"
    return [
        route(house, "GET", base, find),
        route(house, "POST", base, draft),
        route(house, "GET", f"{base}/{{year}}", current),
        route(house, "GET", f"{base}/{{year}}/{{version}}", get),
        route(house, "POST", f"{base}/{{year}}/{{version}}/publish", publish),
        route(house, "POST", f"{base}/{{year}}/{{version}}/finish", finish),
        route(house, "POST", f"{base}/{{year}}/appeals", appeal),
        route(house, "POST", f"{API}/plan/appeals/{{no}}/uphold", decides(True)),
        route(house, "POST", f"{API}/plan/appeals/{{no}}/reject", decides(False)),
        route(house, "GET", f"{API}/plan/appeals/{{no}}/evidence", evidence),
    ]
