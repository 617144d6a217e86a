"""Workflows: items that people move through states, by rules and deadlines that packs and engines declare.

Face: `Workflows` (operations), `Workflow` (a definition). A pack declares its workflows in the file that its `data` names `workflows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.kernel.errors import Invalid
from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.http import API, body_model, flag, json_response, limit_of, path_number, route
from tulou.kernel.packs import Packs, refused
from tulou.kernel.policy import Actor
from tulou.kernel.workflows.definition import Workflow
from tulou.kernel.workflows.service import Move, NewItem, Workflows, no_such_item

if TYPE_CHECKING:
    from tulou.kernel.house import House, Task

__all__ = ["Move", "NewItem", "Workflow", "Workflows"]

POLICIES = """
// Whoever has a role in an organisation sees its items; who makes or moves one is said by the workflow, as the role that it `needs`.
permit (principal, action, resource)
when {
  context.active && context.engine == "workflow" && context.verb == "read" &&
  context.roles.containsAny(["steward", "operator", "analyst", "viewer", "auditor", "reporter", "approver"])
};

permit (principal, action, resource)
when {
  context.active && context.engine == "workflow" && ["create", "move"].contains(context.verb) && context has needs &&
  context.roles.contains(context.needs)
};
"""


def declared(packs: Packs) -> dict[str, Workflow]:
    """The workflows of the packs by name. Raises `Invalid` naming file, place and rule."""
    found: dict[str, Workflow] = {}
    for pack in packs.packs.values():
        if "workflows" not in pack.data:
            continue
        path = pack.folder / pack.data["workflows"]
        for name, body in (pack.read("workflows") or {}).items():
            if name in found:
                raise Invalid(f"{path}：工作流 {name} 重复", f"{path}: the workflow {name} is declared twice", field=name, rule="unique name")
            try:
                found[name] = Workflow.model_validate(body)
            except ValidationError as error:
                raise refused(path, error, name) from None
    return found


@hookimpl
def policies() -> str:
    return POLICIES


@hookimpl
def services(house: House) -> Sequence[object]:
    return [Workflows(house, declared(house.packs))]


@hookimpl
def tasks(house: House) -> Sequence[Task]:
    from tulou.kernel.house import Task

    return [Task("workflows.due", "worker", house.service(Workflows).run)]


@hookimpl
def routes(house: House) -> Sequence[BaseRoute]:
    workflows = house.service(Workflows)

    async def definitions(_request: Request, actor: Actor) -> Response:
        return json_response({"items": await workflows.workflows(actor)})

    async def find(request: Request, actor: Actor) -> Response:
        query = request.query_params
        asked: dict[str, Any] = {name: query.get(name) or None for name in ("workflow", "state", "org", "subject", "assignee", "after")}
        return json_response(await workflows.find(
            actor, **asked, open=flag(request, "open"), inbox=bool(flag(request, "inbox")), limit=limit_of(request)
        ))

    async def create(request: Request, actor: Actor) -> Response:
        return json_response(await workflows.create(actor, await body_model(request, NewItem)), 201)

    async def get(request: Request, actor: Actor) -> Response:
        return json_response(await workflows.get(actor, path_number(request, "no", no_such_item)))

    async def move(request: Request, actor: Actor) -> Response:
        return json_response(await workflows.move(
            actor, path_number(request, "no", no_such_item), await body_model(request, Move)
        ))

    return [
        route(house, "GET", f"{API}/workflows", definitions),
        route(house, "GET", f"{API}/items", find),
        route(house, "POST", f"{API}/items", create),
        route(house, "GET", f"{API}/items/{{no}}", get),
        route(house, "POST", f"{API}/items/{{no}}/steps", move),
    ]
