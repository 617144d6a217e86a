"""`/api/v1/plan/projects`, milestones and movements over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tulou.kernel.errors import NotFound
from tulou.kernel.http import (
    API,
    Handler,
    body_bytes,
    body_model,
    flag,
    json_response,
    limit_of,
    moment_of,
    path_number,
    route,
)
from tulou.kernel.policy import Actor
from tulou.plan.models import Decision
from tulou.plan.projects.models import Decisions, NewMilestone, NewMovement, NewProject, Reached, Undo
from tulou.plan.projects.service import Projects, no_such_milestone, no_such_movement, no_such_project
from tulou.plan.projects.table import lines

if TYPE_CHECKING:
    from tulou.kernel.house import House

LARGEST_TABLE = 32 << 20


def routes(house: House) -> list[Route]:
    """The routes of projects."""
    projects = house.service(Projects)

    def no(request: Request) -> int:
        return path_number(request, "no", no_such_project)

    async def find(request: Request, actor: Actor) -> Response:
        asked = {name: request.query_params.get(name) or None for name in ("task", "org", "target", "after")}
        return json_response(await projects.find(actor, **asked, late=bool(flag(request, "late")), limit=limit_of(request)))

    async def put(request: Request, actor: Actor) -> Response:
        made = await projects.put(actor, await body_model(request, NewProject))
        return json_response(made, 201 if made["outcome"] == "created" else 200)

    async def overview(request: Request, actor: Actor) -> Response:
        return json_response(await projects.overview(actor, moment_of(request, "as_of")))

    async def get(request: Request, actor: Actor) -> Response:
        return json_response(await projects.project(actor, no(request), moment_of(request, "as_of")))

    async def bring(request: Request, actor: Actor) -> Response:
        table = lines(request.path_params["what"], await body_bytes(request, LARGEST_TABLE))
        answers = await projects.bring_in(actor, table)
        counts = {name: sum(one.get("outcome", "error") == name for one in answers) for name in ("created", "changed", "unchanged", "error")}
        return json_response({"counts": counts, "lines": answers})

    async def milestone(request: Request, actor: Actor) -> Response:
        return json_response(await projects.plan_milestone(actor, no(request), await body_model(request, NewMilestone)), 201)

    async def reached(request: Request, actor: Actor) -> Response:
        number = path_number(request, "no", no_such_milestone)
        return json_response(await projects.reached(actor, number, await body_model(request, Reached)))

    def decides_milestone(done: bool) -> Handler:
        async def decide(request: Request, actor: Actor) -> Response:
            number = path_number(request, "no", no_such_milestone)
            return json_response(await projects.decide_milestone(actor, number, done, await body_model(request, Decision)))

        return decide

    async def submit(request: Request, actor: Actor) -> Response:
        return json_response(await projects.submit(actor, no(request), await body_model(request, NewMovement)), 201)

    async def undo(request: Request, actor: Actor) -> Response:
        number = path_number(request, "no", no_such_movement)
        return json_response(await projects.undo(actor, number, await body_model(request, Undo)), 201)

    def decides(approved: bool) -> Handler:
        async def decide(request: Request, actor: Actor) -> Response:
            return json_response({"items": await projects.decide(actor, no(request), approved, await body_model(request, Decisions))})

        return decide

    def evidence_of(what: str, missing: Callable[[object], NotFound]) -> Handler:
        async def evidence(request: Request, actor: Actor) -> Response:
            name, content = await projects.evidence(actor, what, path_number(request, "no", missing))
            return attachment(name, content)

        return evidence

    return [
        route(house, "GET", f"{API}/plan/projects", find),
        route(house, "POST", f"{API}/plan/projects", put),
        route(house, "GET", f"{API}/plan/projects/overview", overview),
        route(house, "POST", f"{API}/plan/import/{{what}}", bring),
        route(house, "GET", f"{API}/plan/projects/{{no}}", get),
        route(house, "POST", f"{API}/plan/projects/{{no}}/milestones", milestone),
        route(house, "POST", f"{API}/plan/projects/{{no}}/movements", submit),
        route(house, "POST", f"{API}/plan/projects/{{no}}/approve", decides(True)),
        route(house, "POST", f"{API}/plan/projects/{{no}}/reject", decides(False)),
        route(house, "POST", f"{API}/plan/milestones/{{no}}/reached", reached),
        route(house, "POST", f"{API}/plan/milestones/{{no}}/approve", decides_milestone(True)),
        route(house, "POST", f"{API}/plan/milestones/{{no}}/reject", decides_milestone(False)),
        route(house, "GET", f"{API}/plan/milestones/{{no}}/evidence", evidence_of("milestone", no_such_milestone)),
        route(house, "POST", f"{API}/plan/movements/{{no}}/undo", undo),
        route(house, "GET", f"{API}/plan/movements/{{no}}/evidence", evidence_of("movement", no_such_movement)),
    ]


def attachment(name: str, content: bytes, media: str = "application/octet-stream") -> Response:
    """A file to keep."""
    headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(name)}", "cache-control": "private, no-store"}
    return Response(content, 200, headers, media)
