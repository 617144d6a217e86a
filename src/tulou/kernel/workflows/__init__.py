"""Workflows: items that people move through states, by rules and deadlines that packs and engines declare.

Face: `Workflows` (operations), `Workflow` (a definition), `items` (the table, for who acts on what was decided). A pack declares its workflows in the section `workflows`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.http import API, body_model, flag, json_response, limit_of, path_number, route
from tulou.kernel.packs import Pack, Packs, Section, broken
from tulou.kernel.policy import Actor
from tulou.kernel.workflows.definition import Name, Workflow
from tulou.kernel.workflows.service import Move, NewItem, Workflows, no_such_item
from tulou.kernel.workflows.tables import items

if TYPE_CHECKING:
    from tulou.kernel.house import House, Task

__all__ = ["Move", "NewItem", "Workflow", "Workflows", "items", "no_such_item"]

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
    """The workflows of the packs by name."""
    return {name: workflow for _, workflows in packs.section("workflows") for name, workflow in workflows.items()}


def _check(workflows: dict[str, Workflow], _pack: Pack, packs: Packs) -> Iterator[PydanticCustomError]:
    there = declared(packs)
    for name in workflows:
        if name in there:
            yield broken("unique", f"工作流 {name} 已由别的包声明", f"the workflow {name} is declared by another pack", (name,))


@hookimpl
def sections() -> Mapping[str, Section]:
    return {"workflows": Section(dict[Name, Workflow], _check)}


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
