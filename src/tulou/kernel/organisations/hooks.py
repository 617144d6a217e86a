"""What organisations contribute to the house: services, routes, policies, seeds, commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.organisations import oidc
from tulou.kernel.organisations import routes as org_routes
from tulou.kernel.organisations.credentials import Credentials
from tulou.kernel.organisations.service import Organisations, People

if TYPE_CHECKING:
    from tulou.kernel.house import House, Task

POLICIES = """
// Anyone who holds a role in an organisation may read its entry in the tree, and may make tokens of his own rights there.
permit (principal, action, resource)
when {
  context.active && context.engine == "organisations" && context.thing == "org" && context.verb == "read" &&
  context.roles.containsAny(
    ["admin", "steward", "operator", "analyst", "viewer", "auditor", "reporter", "approver"]
  )
};
permit (principal, action, resource)
when {
  context.active && context.kind == "user" && context.engine == "organisations" && context.thing == "token" &&
  context.verb == "create" && context.roles.containsAny(
    ["admin", "steward", "operator", "analyst", "viewer", "auditor", "reporter", "approver"]
  )
};
// Whoever belongs to an active organisation may apply for a further one.
permit (principal, action, resource)
when {
  context.active && context.home && context.engine == "organisations" && context.thing == "application" &&
  context.verb == "create"
};
"""


@hookimpl
def policies() -> str:
    return POLICIES


@hookimpl
def services(house: House) -> Sequence[object]:
    orgs = Organisations(house)
    credentials = Credentials(house, orgs)
    house.authenticator = credentials
    return [orgs, credentials, People(house, orgs, credentials), oidc.SignInByOidc(house, credentials)]


@hookimpl
def routes(house: House) -> Sequence[BaseRoute]:
    return [*org_routes.routes(house), *oidc.routes(house)]


@hookimpl
def tasks(house: House) -> Sequence[Task]:
    from tulou.kernel.house import Task

    credentials = house.service(Credentials)
    return [
        Task("organisations.housekeeping", role, credentials.keep_house)
        for role in ("api", "gateway", "worker") if role in house.roles
    ][:1]


@hookimpl
async def started(house: House) -> None:
    orgs, credentials = house.service(Organisations), house.service(Credentials)
    if "api" in house.roles or not house.roles:
        await orgs.seed()
        await credentials.first_administrator()
    else:
        await orgs.reload()
    if hasattr(house, "bus"):
        await house.bus.on_changed("organisations", lambda _key: orgs.reload())
        await house.bus.on_changed("tokens", lambda _key: credentials.forget())
