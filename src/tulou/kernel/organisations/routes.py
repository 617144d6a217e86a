"""`/api/v1`: session, organisations, people, tokens."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tulou import __version__
from tulou.kernel.errors import Forbidden, Invalid, TulouError, Unauthenticated
from tulou.kernel.http import (
    API,
    Handler,
    body_bytes,
    body_json,
    body_model,
    checked,
    cursor,
    defect_response,
    from_cursor,
    json_response,
    limit_of,
    parsed,
    path_number,
    problem_response,
    route,
)
from tulou.kernel.organisations.credentials import COOKIE, Credentials, address_of
from tulou.kernel.organisations.models import (
    Application,
    Decision,
    NewToken,
    NewUser,
    PasswordChange,
    RoleGrants,
    SignIn,
)
from tulou.kernel.organisations.service import Organisations, People
from tulou.kernel.policy import ANONYMOUS, Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.http")


def set_session_cookie(house: House, request: Request, response: Response, secret: str) -> None:
    """Hand the browser its session: unreadable to scripts, never sent by other sites, only over TLS where there is."""
    secure = request.url.scheme == "https" or house.settings.public_url.startswith("https:")
    response.set_cookie(
        COOKIE, secret, max_age=house.settings.session_hours * 3600, path="/", httponly=True, samesite="strict",
        secure=secure,
    )


def open_route(house: House, method: str, path: str, handler: Handler) -> Route:
    """A route that a stale session does not close: signing in and out, and asking whether one is signed in."""

    async def endpoint(request: Request) -> Response:
        try:
            try:
                actor = await house.actor(request.scope)
            except (Unauthenticated, Forbidden):
                if method == "DELETE" and request.headers.get("x-tulou") is None:
                    raise
                actor = ANONYMOUS
            return await handler(request, actor)
        except TulouError as error:
            return problem_response(error)
        except Exception:
            log.exception("defect in %s %s", method, path)
            return defect_response()

    return Route(path, endpoint, methods=[method])


def number(request: Request, name: str = "id") -> int:
    """An integer path parameter. Raises `Invalid`."""
    return path_number(request, name, lambda raw: Invalid(
        f"{name} 应为整数", f"{name} must be an integer", field=name, value=raw, rule="integer"
    ))


def after_number(request: Request) -> int | None:
    """The cursor of a list ordered by a number."""
    values = from_cursor(request.query_params.get("after"), 1)
    if values is None:
        return None
    if not isinstance(values[0], int):
        raise Invalid("after 不是有效的游标", "after is not a cursor of this list", field="after", rule="cursor")
    return values[0]


def routes(house: House) -> list[BaseRoute]:
    """Routes of organisations, people and credentials."""
    orgs, people, credentials = house.service(Organisations), house.service(People), house.service(Credentials)
    about = {"oidc": bool(house.settings.oidc_issuer), "version": __version__}

    async def session(request: Request, actor: Actor) -> Response:
        if actor.kind == "anonymous":
            return json_response(about, 401)
        return json_response({**await credentials.session(actor), **about})

    async def sign_in(request: Request, _actor: Actor) -> Response:
        kind = request.headers.get("content-type", "")
        if not kind.startswith("application/json"):  # what another site's form cannot send
            raise Invalid(
                "Content-Type 应为 application/json", "Content-Type must be application/json",
                field="Content-Type", value=kind, rule="application/json",
            )
        body = await body_model(request, SignIn)
        secret = await credentials.sign_in(body.name, body.password, address_of(request.scope))
        found = await credentials.actor_of_session(secret)
        response = json_response({**await credentials.session(found), **about})
        set_session_cookie(house, request, response, secret)
        return response

    async def sign_out(request: Request, actor: Actor) -> Response:
        secret = request.cookies.get(COOKIE)
        if secret:
            await credentials.sign_out(secret, actor)
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    async def change_password(request: Request, actor: Actor) -> Response:
        body = await body_model(request, PasswordChange)
        secret = await credentials.change_password(actor, body.old, body.new, address_of(request.scope))
        response = Response(status_code=204)
        set_session_cookie(house, request, response, secret)
        return response

    async def list_orgs(request: Request, actor: Actor) -> Response:
        limit = limit_of(request)
        after = from_cursor(request.query_params.get("after"), 1)
        items = await orgs.search(
            actor, state=request.query_params.get("state") or None, limit=limit, after=str(after[0]) if after else None
        )
        return json_response({"items": items, "next": cursor([items[-1]["id"]]) if len(items) == limit else None})

    async def apply(request: Request, actor: Actor) -> Response:
        return json_response(await orgs.apply(actor, await body_model(request, Application)), 201)

    def decide(operation: Callable[[Actor, str, str], Awaitable[dict[str, Any]]]) -> Handler:
        async def handler(request: Request, actor: Actor) -> Response:
            data = await body_bytes(request)
            decision = checked(Decision, parsed(data)) if data else Decision()
            return json_response(await operation(actor, request.path_params["id"], decision.reason))

        return handler

    async def list_users(request: Request, actor: Actor) -> Response:
        limit = limit_of(request)
        items = await people.search(
            actor, org=request.query_params.get("org") or None, state=request.query_params.get("state") or None,
            limit=limit, after=after_number(request),
        )
        return json_response({"items": items, "next": cursor([items[-1]["id"]]) if len(items) == limit else None})

    async def create_user(request: Request, actor: Actor) -> Response:
        return json_response(await people.create(actor, await body_model(request, NewUser)), 201)

    async def disable(request: Request, actor: Actor) -> Response:
        await people.disable(actor, number(request))
        return Response(status_code=204)

    async def enable(request: Request, actor: Actor) -> Response:
        await people.enable(actor, number(request))
        return Response(status_code=204)

    async def reset_password(request: Request, actor: Actor) -> Response:
        return json_response({"password": await people.reset_password(actor, number(request))})

    async def set_roles(request: Request, actor: Actor) -> Response:
        data = await body_json(request)
        grants = checked(RoleGrants, {"roles": data} if isinstance(data, list) else data)
        return json_response(await people.set_roles(actor, number(request), grants.roles))

    async def list_tokens(request: Request, actor: Actor) -> Response:
        limit = limit_of(request)
        items = await credentials.tokens(
            actor, org=request.query_params.get("org") or None, limit=limit, after=after_number(request)
        )
        return json_response({"items": items, "next": cursor([items[-1]["id"]]) if len(items) == limit else None})

    async def create_token(request: Request, actor: Actor) -> Response:
        return json_response(await credentials.create_token(actor, await body_model(request, NewToken)), 201)

    async def revoke_token(request: Request, actor: Actor) -> Response:
        await credentials.revoke_token(actor, number(request))
        return Response(status_code=204)

    unsigned = [("GET", session), ("POST", sign_in), ("DELETE", sign_out)]
    table: list[tuple[str, str, Handler]] = [
        ("POST", "/session/password", change_password),
        ("GET", "/orgs", list_orgs),
        ("POST", "/orgs", apply),
        ("POST", "/orgs/{id}/approve", decide(orgs.approve)),
        ("POST", "/orgs/{id}/reject", decide(orgs.reject)),
        ("POST", "/orgs/{id}/suspend", decide(orgs.suspend)),
        ("POST", "/orgs/{id}/resume", decide(orgs.resume)),
        ("GET", "/users", list_users),
        ("POST", "/users", create_user),
        ("POST", "/users/{id}/disable", disable),
        ("POST", "/users/{id}/enable", enable),
        ("POST", "/users/{id}/password", reset_password),
        ("PUT", "/users/{id}/roles", set_roles),
        ("GET", "/tokens", list_tokens),
        ("POST", "/tokens", create_token),
        ("DELETE", "/tokens/{id}", revoke_token),
    ]
    return [
        *[open_route(house, method, f"{API}/session", handler) for method, handler in unsigned],
        *[route(house, method, API + path, handler) for method, path, handler in table],
    ]
