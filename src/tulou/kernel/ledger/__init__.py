"""The ledger: double entry for money and for other quantities that are granted and used.

It stands on the ground floor because engines below the plan will bill by it, and imports only go down. Face: `Ledger` (operations), and
for engines that book within their own transactions `open_account`, `enter`, `reversal`, `balances`, `months`, `Draft`, and the tables
`accounts` and `entries` to say which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.http import API, body_model, json_response, limit_of, moment_of, path_number, route
from tulou.kernel.ledger.service import (
    FUJIAN,
    Balance,
    Draft,
    Ledger,
    NewAccount,
    NewEntry,
    NewPosting,
    Reversal,
    balances,
    enter,
    months,
    no_such_account,
    no_such_entry,
    open_account,
    reversal,
)
from tulou.kernel.ledger.tables import accounts, entries
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House

__all__ = [
    "FUJIAN", "Balance", "Draft", "Ledger", "NewAccount", "NewEntry", "NewPosting", "Reversal", "accounts", "balances", "enter", "entries",
    "months", "open_account", "reversal",
]

POLICIES = """
// The books of an organisation are read by those who answer for it, and kept by its stewards.
permit (principal, action, resource)
when {
  context.active && context.engine == "ledger" && context.verb == "read" &&
  context.roles.containsAny(["steward", "analyst", "auditor", "reporter", "approver"])
};

permit (principal, action, resource)
when { context.active && context.engine == "ledger" && context.verb == "create" && context.roles.contains("steward") };
"""


@hookimpl
def policies() -> str:
    return POLICIES


@hookimpl
def services(house: House) -> Sequence[object]:
    return [Ledger(house)]


@hookimpl
def routes(house: House) -> Sequence[BaseRoute]:
    ledger = house.service(Ledger)

    async def list_accounts(request: Request, actor: Actor) -> Response:
        query = request.query_params
        return json_response(await ledger.accounts(
            actor, org=query.get("org") or None, subject=query.get("subject") or None, at=moment_of(request, "as_of"),
            limit=limit_of(request, 200), after=query.get("after") or None,
        ))

    async def open_(request: Request, actor: Actor) -> Response:
        return json_response(await ledger.open(actor, await body_model(request, NewAccount)), 201)

    async def statement(request: Request, actor: Actor) -> Response:
        return json_response(await ledger.statement(
            actor, path_number(request, "no", no_such_account), since=moment_of(request, "since"), until=moment_of(request, "until"),
            limit=limit_of(request, 100), after=request.query_params.get("after") or None,
        ))

    async def list_entries(request: Request, actor: Actor) -> Response:
        query = request.query_params
        return json_response(await ledger.entries(
            actor, org=query.get("org") or None, subject=query.get("subject") or None, limit=limit_of(request), after=query.get("after") or None,
        ))

    async def make(request: Request, actor: Actor) -> Response:
        return json_response(await ledger.enter(actor, await body_model(request, NewEntry)), 201)

    async def entry(request: Request, actor: Actor) -> Response:
        return json_response(await ledger.entry(actor, path_number(request, "no", no_such_entry)))

    async def reverse(request: Request, actor: Actor) -> Response:
        why = await body_model(request, Reversal)
        return json_response(await ledger.reverse(actor, path_number(request, "no", no_such_entry), why), 201)

    async def verify(_request: Request, actor: Actor) -> Response:
        return json_response(await ledger.verify(actor))

    return [
        route(house, "GET", f"{API}/ledger/accounts", list_accounts),
        route(house, "POST", f"{API}/ledger/accounts", open_),
        route(house, "GET", f"{API}/ledger/accounts/{{no}}/statement", statement),
        route(house, "GET", f"{API}/ledger/entries", list_entries),
        route(house, "POST", f"{API}/ledger/entries", make),
        route(house, "GET", f"{API}/ledger/entries/{{no}}", entry),
        route(house, "POST", f"{API}/ledger/entries/{{no}}/reverse", reverse),
        route(house, "GET", f"{API}/ledger/verify", verify),
    ]
