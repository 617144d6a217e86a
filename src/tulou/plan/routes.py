"""`/api/v1/plan`: the plan over HTTP, exactly as docs/api.md says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tulou.kernel.errors import NotFound
from tulou.kernel.http import API, body_json, body_model, checked, json_response, moment_of, path_number, route
from tulou.kernel.policy import Actor
from tulou.plan.models import Decision, NewDefinition, NewReport
from tulou.plan.overview import Overviews
from tulou.plan.projects.routes import attachment
from tulou.plan.service import Plans

if TYPE_CHECKING:
    from tulou.kernel.house import House


def routes(house: House) -> list[Route]:
    """The routes of the plan."""
    plans, overviews = house.service(Plans), house.service(Overviews)

    async def tasks(request: Request, actor: Actor) -> Response:
        return json_response(await plans.tasks(actor))

    async def task(request: Request, actor: Actor) -> Response:
        return json_response(await overviews.task(actor, request.path_params["id"]))

    async def screen(_request: Request, actor: Actor) -> Response:
        return json_response(await overviews.screen(actor))

    async def systems(request: Request, actor: Actor) -> Response:
        return json_response(await plans.systems(actor))

    async def targets(request: Request, actor: Actor) -> Response:
        return json_response(await plans.targets(actor))

    async def target(request: Request, actor: Actor) -> Response:
        return json_response(await plans.target(actor, request.path_params["id"]))

    async def submit(request: Request, actor: Actor) -> Response:
        report = await body_model(request, NewReport)
        return json_response(await plans.submit_report(actor, request.path_params["id"], report), 201)

    async def approve(request: Request, actor: Actor) -> Response:
        decision = checked(Decision, await _body(request))
        return json_response(await plans.approve(actor, _report_id(request), decision))

    async def reject(request: Request, actor: Actor) -> Response:
        decision = checked(Decision, await _body(request))
        return json_response(await plans.reject(actor, _report_id(request), decision))

    async def evidence(request: Request, actor: Actor) -> Response:
        name, content = await plans.evidence(actor, _report_id(request))
        return attachment(name, content)

    async def define(request: Request, actor: Actor) -> Response:
        new = await body_model(request, NewDefinition)
        return json_response(await plans.define(actor, request.path_params["id"], new.definition), 201)

    async def measure(request: Request, actor: Actor) -> Response:
        return json_response(await plans.measure(actor, request.query_params.get("target")), 201)

    async def score(request: Request, actor: Actor) -> Response:
        return json_response(await plans.score(actor, moment_of(request, "as_of")))

    async def file_score(request: Request, actor: Actor) -> Response:
        return json_response(await plans.file_score(actor, moment_of(request, "as_of")), 201)

    return [
        route(house, "GET", f"{API}/plan/tasks", tasks),
        route(house, "GET", f"{API}/plan/tasks/{{id}}", task),
        route(house, "GET", f"{API}/plan/screen", screen),
        route(house, "GET", f"{API}/plan/systems", systems),
        route(house, "GET", f"{API}/plan/targets", targets),
        route(house, "GET", f"{API}/plan/targets/{{id}}", target),
        route(house, "POST", f"{API}/plan/targets/{{id}}/reports", submit),
        route(house, "POST", f"{API}/plan/targets/{{id}}/definitions", define),
        route(house, "POST", f"{API}/plan/reports/{{id}}/approve", approve),
        route(house, "POST", f"{API}/plan/reports/{{id}}/reject", reject),
        route(house, "GET", f"{API}/plan/reports/{{id}}/evidence", evidence),
        route(house, "POST", f"{API}/plan/measurements", measure),
        route(house, "GET", f"{API}/plan/score", score),
        route(house, "POST", f"{API}/plan/score", file_score),
    ]


async def _body(request: Request) -> object:
    """The JSON body; none at all is an empty object."""
    return await body_json(request) if request.headers.get("content-length", "0") != "0" else {}


def _report_id(request: Request) -> int:
    return path_number(request, "id", lambda text: NotFound(
        f"没有上报 {text}", f"there is no report {text}", field="report", value=text
    ))
