"""Sign-in by an OpenID Connect provider: authorization code with PKCE (OpenID Connect Core 1.0, 3.1; RFC 7636).

Law: the answer is accepted once, only in the browser that asked (a cookie beside `state`), only with our nonce in an
ID token that the issuer signed for us. A stranger gets an account without roles that waits for an administrator.
"""

from __future__ import annotations

import datetime as dt
import html
import secrets
import time
import warnings
from typing import TYPE_CHECKING, Any

import httpx
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from tulou.kernel import audit
from tulou.kernel.errors import Invalid, NotFound, TulouError, Unauthenticated, Unavailable
from tulou.kernel.http import API
from tulou.kernel.organisations.credentials import Credentials, address_of, fingerprint
from tulou.kernel.organisations.models import normal_name, oidc_requests, users
from tulou.kernel.organisations.routes import open_route, set_session_cookie
from tulou.kernel.organisations.service import insert_user
from tulou.kernel.policy import Actor
from tulou.kernel.sql import utcnow

if TYPE_CHECKING:
    from authlib.integrations.httpx_client import AsyncOAuth2Client
    from joserfc.jwk import KeySet

    from tulou.kernel.house import House

COOKIE = "tulou_oidc"
MINUTES = 10
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
"""Signatures that an ID token may carry: asymmetric ones only, never `none`, never our own secret."""


class SignInByOidc:
    """The relying party. Not operations: they make an actor of nobody."""

    def __init__(self, house: House, credentials: Credentials) -> None:
        self.house = house
        self.settings = house.settings
        self.credentials = credentials
        self._metadata: dict[str, Any] = {}
        self._keys: KeySet | None = None
        self._read_at = 0.0

    async def metadata(self) -> dict[str, Any]:
        """The provider's metadata, read when first needed and again each hour (OpenID Connect Discovery 1.0, 4)."""
        issuer = self.settings.oidc_issuer
        if not issuer:
            raise NotFound("未启用 OIDC 登录", "OIDC sign-in is off", field="oidc_issuer")
        if not self._metadata or time.monotonic() - self._read_at > 3600:
            found = await self._get(issuer.rstrip("/") + "/.well-known/openid-configuration")
            if str(found.get("issuer", "")).rstrip("/") != issuer.rstrip("/"):
                raise Unavailable(
                    "OIDC 提供方的 issuer 与设置不符", "the provider's issuer is not the one in the settings",
                    field="issuer", value=found.get("issuer"), rule=issuer,
                )
            self._metadata, self._keys, self._read_at = found, None, time.monotonic()
        return self._metadata

    async def _get(self, url: str) -> dict[str, Any]:
        try:
            async with httpx.AsyncClient(timeout=10) as client:
                response = await client.get(url)
                response.raise_for_status()
                data: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"无法访问 OIDC 提供方：{error}", f"cannot reach the OIDC provider: {error}") from error
        return data

    def _client(self, redirect_uri: str) -> AsyncOAuth2Client:
        from authlib.deprecate import AuthlibDeprecationWarning

        with warnings.catch_warnings():  # authlib announces the end of its httpx client on standard error
            warnings.simplefilter("ignore", AuthlibDeprecationWarning)
            from authlib.integrations.httpx_client import AsyncOAuth2Client

        return AsyncOAuth2Client(
            self.settings.oidc_client_id, self.settings.oidc_client_secret or None, scope="openid profile email",
            redirect_uri=redirect_uri, code_challenge_method="S256", timeout=10,
            token_endpoint_auth_method="client_secret_basic" if self.settings.oidc_client_secret else "none",
        )

    async def begin(self, redirect_uri: str) -> tuple[str, str]:
        """Start a sign-in: (address to send the browser to, secret for the browser's cookie)."""
        provider = await self.metadata()
        state, nonce, verifier, browser = (secrets.token_urlsafe(32) for _ in range(4))
        async with self._client(redirect_uri) as client:
            url, _ = client.create_authorization_url(
                provider["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier
            )

        def write(connection: sa.Connection) -> None:
            connection.execute(oidc_requests.delete().where(oidc_requests.c.expires_at < utcnow()))
            connection.execute(
                oidc_requests.insert().values(
                    state=fingerprint(state), browser=fingerprint(browser), nonce=nonce, verifier=verifier,
                    redirect_uri=redirect_uri, expires_at=utcnow() + dt.timedelta(minutes=MINUTES),
                )
            )

        await self.house.db.write(write)
        return str(url), browser

    async def finish(self, state: str, browser: str, code: str, address: str) -> str:
        """Take the provider's answer; returns the secret of a new session. Raises `Unauthenticated` or `Forbidden`."""
        from authlib.common.errors import AuthlibBaseError
        from joserfc.errors import JoseError

        self.credentials.by_address.check(address)
        where = (oidc_requests.c.state == fingerprint(state), oidc_requests.c.browser == fingerprint(browser))

        def take(connection: sa.Connection) -> Any:
            row = connection.execute(sa.select(oidc_requests).where(*where)).first()
            if row is not None:
                connection.execute(oidc_requests.delete().where(*where))
            return row

        asked = await self.house.db.write(take)
        if asked is None or asked.expires_at < utcnow():
            self.credentials.by_address.failed(address)
            raise Unauthenticated(
                "登录请求不存在、已过期或来自另一浏览器", "no such sign-in request in this browser; start again",
                field="state", rule="one use, same browser, 10 minutes",
            )
        provider = await self.metadata()
        try:
            async with self._client(asked.redirect_uri) as client:
                answer = await client.fetch_token(
                    provider["token_endpoint"], code=code, grant_type="authorization_code",
                    code_verifier=asked.verifier,
                )
            claims = await self._claims(str(answer.get("id_token", "")), asked.nonce)
        except (AuthlibBaseError, JoseError, httpx.HTTPError, ValueError) as error:
            self.credentials.by_address.failed(address)
            raise Unauthenticated(
                f"身份提供方的应答无效：{type(error).__name__}", f"the provider's answer does not hold: {type(error).__name__}",
                rule="valid code and ID token",
            ) from error
        row = await self._person(claims)
        return await self.credentials.open_session(row, "oidc", address)

    async def _claims(self, token: str, nonce: str) -> dict[str, Any]:
        """The ID token's claims once signature, issuer, audience, times and nonce hold (Core 1.0, 3.1.3.7)."""
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        provider = await self.metadata()
        for attempt in (0, 1):
            if self._keys is None:
                self._keys = KeySet.import_key_set(await self._get(provider["jwks_uri"]))  # type: ignore[arg-type]
            try:
                claims: dict[str, Any] = jwt.decode(token, self._keys, algorithms=ALGORITHMS).claims
                break
            except (JoseError, ValueError):
                if attempt:
                    raise
                self._keys = None  # the provider may have changed its keys
        client_id = self.settings.oidc_client_id
        jwt.JWTClaimsRegistry(
            leeway=60,
            iss={"essential": True, "value": provider["issuer"]},
            aud={"essential": True, "value": client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        ).validate(claims)
        audience = claims["aud"]
        if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != client_id:
            raise ValueError("azp")
        return claims

    async def _person(self, claims: dict[str, Any]) -> Any:
        """The person of the claims: by subject, else linked by the rule of `oidc_link`, else by `oidc_unknown`."""
        issuer, subject = self.settings.oidc_issuer, str(claims["sub"])[:255]
        email = str(claims.get("email") or "").casefold() if claims.get("email_verified") is True else ""
        wanted = normal_name(str(claims.get("preferred_username") or ""))
        link, unknown = self.settings.oidc_link, self.settings.oidc_unknown

        def write(connection: sa.Connection) -> Any:
            same = sa.select(users).where(users.c.oidc_issuer == issuer, users.c.oidc_subject == subject)
            row = connection.execute(same).first()
            if row is not None:
                return row
            rule = None
            if link == "email" and email:
                rule = sa.func.lower(users.c.email) == email
            elif link == "name" and wanted:
                rule = users.c.name == wanted
            if rule is not None:
                found = connection.execute(sa.select(users).where(rule, users.c.oidc_subject.is_(None)).limit(2)).all()
                if len(found) == 1:
                    connection.execute(
                        users.update().where(users.c.id == found[0].id)
                        .values(oidc_issuer=issuer, oidc_subject=subject)
                    )
                    audit.record(
                        connection, f"user:{found[0].name}", "organisations.user.link", found[0].org,
                        f"user:{found[0].name}", {"issuer": issuer, "by": link},
                    )
                    return connection.execute(same).one()
            if unknown == "refuse":
                return None
            name = f"oidc-{fingerprint(f'{issuer} {subject}')[:12]}"
            insert_user(
                connection, name=name, display=str(claims.get("name") or wanted or email or name)[:200],
                org=self.settings.oidc_org, password_hash=None, state="active" if unknown == "active" else "pending",
                must_change_password=False, email=email or None, oidc_issuer=issuer, oidc_subject=subject,
            )
            audit.record(
                connection, f"user:{name}", "organisations.user.create", self.settings.oidc_org, f"user:{name}",
                {"issuer": issuer, "state": unknown},
            )
            return connection.execute(same).one()

        row = await self.house.db.write(write)
        if row is None:
            raise Unauthenticated("没有与此身份对应的用户", "no person of this house has this identity", rule="known person")
        return row


def routes(house: House) -> list[BaseRoute]:
    """`/api/v1/oidc/login` and `/api/v1/oidc/callback`."""
    oidc = house.service(SignInByOidc)

    def redirect_uri(request: Request) -> str:
        base = house.settings.public_url.rstrip("/") or str(request.base_url).rstrip("/")
        return f"{base}{API}/oidc/callback"

    async def login(request: Request, _actor: Actor) -> Response:
        url, browser = await oidc.begin(redirect_uri(request))
        response = RedirectResponse(url, 303, {"cache-control": "no-store"})
        response.set_cookie(
            COOKIE, browser, max_age=MINUTES * 60, path=f"{API}/oidc", httponly=True, samesite="lax",
            secure=redirect_uri(request).startswith("https:"),
        )
        return response

    async def callback(request: Request, _actor: Actor) -> Response:
        query = request.query_params
        try:
            if "error" in query:
                raise Unauthenticated(
                    f"身份提供方拒绝：{query['error'][:100]}", f"the provider refused: {query['error'][:100]}",
                )
            if not query.get("state") or not query.get("code"):
                raise Invalid("缺少 state 或 code", "state or code is missing", field="state", rule="present")
            secret = await oidc.finish(
                query["state"], request.cookies.get(COOKIE, ""), query["code"], address_of(request.scope)
            )
        except TulouError as error:
            return _page(error)
        response = RedirectResponse("/", 303, {"cache-control": "no-store"})
        set_session_cookie(house, request, response, secret)
        response.delete_cookie(COOKIE, path=f"{API}/oidc")
        return response

    return [
        open_route(house, "GET", f"{API}/oidc/login", login),
        open_route(house, "GET", f"{API}/oidc/callback", callback),
    ]


def _page(error: TulouError) -> Response:
    """The refusal for a person's browser."""
    text = (
        "<!doctype html><html lang=zh><meta charset=utf-8><title>土楼</title>"
        f"<p>{html.escape(error.zh)}</p><p lang=en>{html.escape(error.en)}</p><p><a href='/'>返回 / back</a></p></html>"
    )
    return Response(text, error.status, {"cache-control": "no-store"}, "text/html; charset=utf-8")
