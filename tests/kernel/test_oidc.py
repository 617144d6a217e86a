"""OpenID Connect against a real provider (oidc-provider-mock: authlib's authorization server on Flask), on a free port."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwk, jwt
from joserfc.errors import JoseError

from tests.conftest import kernel_plugins
from tests.kernel.conftest import PASSWORD
from tulou.app import Front
from tulou.kernel.house import House
from tulou.kernel.organisations import People
from tulou.kernel.organisations.models import NewUser, oidc_requests
from tulou.kernel.organisations.oidc import SignInByOidc
from tulou.kernel.policy import Actor
from tulou.kernel.settings import Settings

warnings.simplefilter("ignore")
provider_package = pytest.importorskip("oidc_provider_mock")
flask = pytest.importorskip("flask")
make_server = pytest.importorskip("werkzeug.serving").make_server


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    people = [
        provider_package.User(
            sub="lin-1",
            claims={"email": "lin@fuzhou.example", "email_verified": True, "preferred_username": "lin", "name": "林"},
        ),
        provider_package.User(
            sub="mallory-1", claims={"email": "lin@fuzhou.example", "email_verified": False, "preferred_username": "lin"}
        ),
    ]
    app = provider_package.app(user_claims=people)
    challenges: dict[str, str] = {}

    @app.after_request
    def remember(response: Any) -> Any:
        code = parse_qs(urlsplit(response.location or "").query).get("code")
        if code:
            challenges[code[0]] = flask.request.args.get("code_challenge", "")
        return response

    @app.before_request
    def check_verifier() -> tuple[dict[str, str], int] | None:
        """RFC 7636, 4.6, which this provider leaves out."""
        if flask.request.form.get("grant_type") != "authorization_code":
            return None
        digest = hashlib.sha256(flask.request.form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if challenges.get(flask.request.form.get("code", "")) not in (challenge, None):
            return {"error": "invalid_grant"}, 400
        return None

    server = make_server("localhost", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def oidc_house(provider: str, tmp_path: Path) -> AsyncIterator[House]:
    settings = Settings(home=tmp_path / "home", oidc_issuer=provider, oidc_client_id="tulou", oidc_client_secret="s3cret")
    house = House(settings, kernel_plugins())
    await house.start((), bus=False)
    yield house
    await house.stop()


def browser(house: House) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=Front(house)), base_url="http://house")


async def authorize(client: httpx.AsyncClient, subject: str) -> str:
    """What a person does: follow our redirect, sign in at the provider; returns the address he is sent back to."""
    begun = await client.get("/api/v1/oidc/login")
    assert begun.status_code == 303
    query = parse_qs(urlsplit(begun.headers["location"]).query)
    assert query["response_type"] == ["code"]
    assert query["code_challenge_method"] == ["S256"]
    assert re.fullmatch(r"[\w-]{43}", query["code_challenge"][0])
    assert query["redirect_uri"] == ["http://house/api/v1/oidc/callback"]
    async with httpx.AsyncClient() as outside:
        answer = await outside.post(begun.headers["location"], data={"sub": subject})
    assert answer.status_code in (302, 303), answer.text
    return answer.headers["location"]


async def make_lin(house: House, admin: Actor) -> int:
    person = NewUser(name="lin", display="林", org="fuzhou", password=PASSWORD, email="Lin@Fuzhou.example")
    return int((await house.service(People).create(admin, person))["id"])


async def test_a_known_person_is_linked_by_verified_mail_then_by_subject(oidc_house: House, admin: Actor) -> None:
    number = await make_lin(oidc_house, admin)
    async with browser(oidc_house) as client:
        back = await client.get(await authorize(client, "lin-1"))
        assert back.status_code == 303, back.text
        assert back.headers["location"] == "/"
        cookie = next(c for c in back.headers.get_list("set-cookie") if c.startswith("tulou_session")).lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        session = await client.get("/api/v1/session")
        assert session.json()["user"]["id"] == number
    async with browser(oidc_house) as client:
        assert (await client.get(await authorize(client, "lin-1"))).status_code == 303


async def test_an_unverified_mail_links_nobody(oidc_house: House, admin: Actor) -> None:
    await make_lin(oidc_house, admin)
    async with browser(oidc_house) as client:
        back = await client.get(await authorize(client, "mallory-1"))
        assert back.status_code == 403
        assert (await client.get("/api/v1/session")).status_code == 401
    waiting = await oidc_house.service(People).search(admin, state="pending")
    assert [(p["state"], p["roles"], p["org"]) for p in waiting] == [("pending", [], "house")]


async def test_a_stranger_waits_until_he_is_enabled(oidc_house: House, admin: Actor) -> None:
    async with browser(oidc_house) as client:
        refused = await client.get(await authorize(client, "stranger"))
        assert refused.status_code == 403
        assert "管理员" in refused.text
    people = oidc_house.service(People)
    waiting = (await people.search(admin, state="pending"))[0]
    await people.enable(admin, waiting["id"])
    async with browser(oidc_house) as client:
        assert (await client.get(await authorize(client, "stranger"))).status_code == 303
        session = (await client.get("/api/v1/session")).json()
        assert session["roles"] == []


async def test_strangers_are_refused_where_the_settings_say_so(oidc_house: House, admin: Actor) -> None:
    service = oidc_house.service(SignInByOidc)
    service.settings = dataclasses.replace(service.settings, oidc_unknown="refuse")
    async with browser(oidc_house) as client:
        assert (await client.get(await authorize(client, "stranger"))).status_code == 401
    assert await oidc_house.service(People).search(admin, state="pending") == []


async def test_the_answer_counts_once_and_only_in_the_browser_that_asked(oidc_house: House, admin: Actor) -> None:
    await make_lin(oidc_house, admin)
    async with browser(oidc_house) as victim, browser(oidc_house) as attacker:
        address = await authorize(attacker, "lin-1")
        assert (await victim.get(address)).status_code == 401
        assert (await attacker.get(address)).status_code == 303
        assert (await attacker.get(address)).status_code == 401


async def test_the_code_is_of_no_use_without_our_verifier(oidc_house: House) -> None:
    async with browser(oidc_house) as client:
        address = await authorize(client, "lin-1")
        other = oidc_requests.update().values(verifier="another-verifier-of-forty-three-characters-x")
        await oidc_house.db.write(lambda c: c.execute(other) and None)
        assert (await client.get(address)).status_code == 401


async def test_a_forged_state_or_code_is_refused(oidc_house: House) -> None:
    async with browser(oidc_house) as client:
        address = await authorize(client, "lin-1")
        assert (await client.get("/api/v1/oidc/callback?state=x&code=y")).status_code == 401
        assert (await client.get("/api/v1/oidc/callback")).status_code == 400
        forged = re.sub(r"code=[^&]+", "code=forged", address)
        assert (await client.get(forged)).status_code == 401
        assert (await client.get("/api/v1/oidc/callback?error=access_denied")).status_code == 401


@pytest.mark.parametrize("claim", ["nonce", "aud", "iss", "exp", "key"])
async def test_an_id_token_that_is_not_for_us_is_refused(oidc_house: House, claim: str) -> None:
    """Tokens signed with the provider's real key, or another, with one claim wrong (Core 1.0, 3.1.3.7)."""
    service = oidc_house.service(SignInByOidc)
    key, other = jwk.RSAKey.generate_key(2048), jwk.RSAKey.generate_key(2048)
    issuer = (await service.metadata())["issuer"]
    now = int(time.time())
    claims = {"iss": issuer, "aud": "tulou", "sub": "lin-1", "exp": now + 300, "iat": now, "nonce": "n"}
    wrong = {"nonce": "other", "aud": "another-client", "iss": "https://elsewhere.example", "exp": now - 300}

    async def check(token: str) -> None:
        service._keys = jwk.KeySet([key])
        service._metadata["jwks_uri"] = f"{issuer}/jwks"
        await service._claims(token, "n")

    await check(jwt.encode({"alg": "RS256"}, claims, key))
    bad = claims if claim == "key" else {**claims, claim: wrong[claim]}
    with pytest.raises((JoseError, ValueError)):
        await check(jwt.encode({"alg": "RS256"}, bad, other if claim == "key" else key))


async def test_without_an_issuer_there_is_no_such_door(kernel: House) -> None:
    async with browser(kernel) as client:
        assert (await client.get("/api/v1/oidc/login")).status_code == 404
