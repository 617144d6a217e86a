"""The HTTP routes of device certificates and their authorities.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.access.certificates.service import Certificates, no_such_authority, no_such_certificate
from tulou.access.certificates.tables import NewAuthority, NewCertificate, Proof
from tulou.kernel.errors import Invalid
from tulou.kernel.http import API, Handler, body_model, json_response, limit_of, path_number, route
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House

MOST_DAYS = 3650


def _text(request: Request, name: str) -> str | None:
    return request.query_params.get(name) or None


def _days(request: Request) -> int:
    raw = request.query_params.get("days", "30")
    if not (raw.isascii() and raw.isdigit() and len(raw) < 5 and int(raw) <= MOST_DAYS):
        raise Invalid(f"days 应为 0 至 {MOST_DAYS}", f"days is 0 to {MOST_DAYS}", field="days", value=raw, rule=f"0..{MOST_DAYS}")
    return int(raw)


def routes(house: House) -> list[BaseRoute]:
    """Every route of certificates and authorities."""
    certificates = house.service(Certificates)

    async def certificate_list(request: Request, actor: Actor) -> Response:
        return json_response(await certificates.find(actor, request.path_params["id"]))

    async def certificate_add(request: Request, actor: Actor) -> Response:
        new = await body_model(request, NewCertificate)
        return json_response(await certificates.add(actor, request.path_params["id"], new), 201)

    async def certificate_revoke(request: Request, actor: Actor) -> Response:
        number = path_number(request, "no", no_such_certificate)
        return json_response(await certificates.revoke(actor, request.path_params["id"], number))

    async def certificate_expiring(request: Request, actor: Actor) -> Response:
        return json_response(await certificates.expiring(
            actor, days=_days(request), org=_text(request, "org"), limit=limit_of(request), after=_text(request, "after"),
        ))

    async def authority_list(request: Request, actor: Actor) -> Response:
        return json_response(await certificates.authorities(
            actor, org=_text(request, "org"), limit=limit_of(request), after=_text(request, "after"),
        ))

    async def authority_register(request: Request, actor: Actor) -> Response:
        return json_response(await certificates.register(actor, await body_model(request, NewAuthority)), 201)

    async def authority_prove(request: Request, actor: Actor) -> Response:
        proof = await body_model(request, Proof)
        return json_response(await certificates.prove(actor, path_number(request, "no", no_such_authority), proof))

    async def authority_withdraw(request: Request, actor: Actor) -> Response:
        return json_response(await certificates.withdraw(actor, path_number(request, "no", no_such_authority)))

    def at(method: str, path: str, handler: Handler) -> BaseRoute:
        return route(house, method, API + path, handler)

    return [
        at("GET", "/devices/{id}/certificates", certificate_list),
        at("POST", "/devices/{id}/certificates", certificate_add),
        at("DELETE", "/devices/{id}/certificates/{no}", certificate_revoke),
        at("GET", "/device-certificates", certificate_expiring),
        at("GET", "/device-authorities", authority_list),
        at("POST", "/device-authorities", authority_register),
        at("POST", "/device-authorities/{no}/prove", authority_prove),
        at("DELETE", "/device-authorities/{no}", authority_withdraw),
    ]
