"""Jobs: long computations in processes of their own; queued in SQL, watched, cancelled, resumed after a crash.

A kind is contributed by the hook `jobs`: `JobKind(name, function)`, the function at the top of a module, called as
`function(context, **arguments)` in a fresh process (see `JobContext`). What it returns is the job's result (JSON).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.kernel.errors import Invalid
from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.http import API, cursor, from_cursor, json_response, limit_of, path_number, route
from tulou.kernel.jobs.process import Cancelled, JobContext
from tulou.kernel.jobs.service import Jobs
from tulou.kernel.jobs.worker import Worker
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House, Task

__all__ = ["Cancelled", "JobContext", "Jobs", "Worker"]

POLICIES = """
permit (principal, action, resource)
when {
  context.active && context.engine == "jobs" && context.thing == "job" &&
  (context.verb == "read" && context.roles.containsAny(["steward", "operator", "analyst", "viewer", "auditor"]) ||
   ["create", "manage"].contains(context.verb) && context.roles.containsAny(["steward", "operator"]))
};
"""


@hookimpl
def policies() -> str:
    return POLICIES


@hookimpl
def services(house: House) -> Sequence[object]:
    return [Jobs(house)]


@hookimpl
def tasks(house: House) -> Sequence[Task]:
    from tulou.kernel.house import Task

    return [Task("jobs.worker", "worker", Worker(house, house.service(Jobs)).run)]


@hookimpl
def routes(house: House) -> Sequence[BaseRoute]:
    jobs = house.service(Jobs)

    def number(request: Request) -> int:
        return path_number(request, "id", lambda raw: Invalid(
            "id 应为整数", "id must be an integer", field="id", value=raw, rule="integer"
        ))

    async def search(request: Request, actor: Actor) -> Response:
        query, limit = request.query_params, limit_of(request)
        after = from_cursor(query.get("after"), 1)
        items = await jobs.search(
            actor, state=query.get("state"), kind=query.get("kind"), org=query.get("org"), limit=limit,
            before=int(after[0]) if after else None,
        )
        return json_response({"items": items, "next": cursor([items[-1]["id"]]) if len(items) == limit else None})

    async def get(request: Request, actor: Actor) -> Response:
        return json_response(await jobs.get(actor, number(request)))

    async def cancel(request: Request, actor: Actor) -> Response:
        return json_response(await jobs.cancel(actor, number(request)))

    async def resume(request: Request, actor: Actor) -> Response:
        return json_response(await jobs.resume(actor, number(request)))

    return [
        route(house, "GET", f"{API}/jobs", search),
        route(house, "GET", f"{API}/jobs/{{id}}", get),
        route(house, "POST", f"{API}/jobs/{{id}}/cancel", cancel),
        route(house, "POST", f"{API}/jobs/{{id}}/resume", resume),
    ]
