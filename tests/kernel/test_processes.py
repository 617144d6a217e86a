"""Two processes of one house (two `House` objects on one database and one bus): what one revokes, the other refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import kernel_plugins
from tests.kernel.conftest import PASSWORD
from tulou.app import Front
from tulou.kernel.bus import NatsServer
from tulou.kernel.house import House
from tulou.kernel.organisations import Credentials, Organisations, People
from tulou.kernel.organisations.models import NewToken, NewUser, RoleGrant
from tulou.kernel.policy import Actor, Binding
from tulou.kernel.settings import Settings


@pytest.fixture
async def pair(tmp_path: Path, nats_server: NatsServer, database_url: str) -> AsyncIterator[tuple[House, House]]:
    settings = Settings(home=tmp_path / "home", database_url=database_url, nats_url=nats_server.url)
    houses = (House(settings, kernel_plugins()), House(settings, kernel_plugins()))
    for house in houses:
        await house.start(())
    yield houses
    for house in houses:
        await house.stop()


@pytest.fixture
async def robot(pair: tuple[House, House], admin: Actor) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the second process with a token that the first one issued, already cached by the second."""
    first, second = pair
    grants = [RoleGrant(org="fuzhou", role="admin", subtree=True)]
    person = NewUser(name="lin", display="林", org="fuzhou", password=PASSWORD, roles=grants)
    await first.service(People).create(admin, person)
    held = frozenset({Binding("fuzhou", "admin", True)})
    lin = Actor("user:lin", "林", "fuzhou", "user", held, None, "user:lin")
    made = await first.service(Credentials).create_token(lin, NewToken(name="t", org="fuzhou", scopes=["*"]))
    headers = {"authorization": f"Bearer {made['secret']}"}
    transport = httpx.ASGITransport(app=Front(second))
    async with httpx.AsyncClient(transport=transport, base_url="http://house", headers=headers) as client:
        assert (await client.get("/api/v1/users")).status_code == 200
        yield client


async def refused(client: httpx.AsyncClient) -> bool:
    for _ in range(100):
        if (await client.get("/api/v1/users")).status_code == 401:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_a_revoked_token(pair: tuple[House, House], robot: httpx.AsyncClient, admin: Actor) -> None:
    credentials = pair[0].service(Credentials)
    token = (await credentials.tokens(admin))[0]
    await credentials.revoke_token(admin, token["id"])
    assert await refused(robot)


async def test_a_disabled_person(pair: tuple[House, House], robot: httpx.AsyncClient, admin: Actor) -> None:
    people = pair[0].service(People)
    lin = next(p for p in await people.search(admin) if p["name"] == "lin")
    await people.disable(admin, lin["id"])
    assert await refused(robot)


async def test_a_suspended_organisation(pair: tuple[House, House], robot: httpx.AsyncClient, admin: Actor) -> None:
    await pair[0].service(Organisations).suspend(admin, "fuzhou")
    assert await refused(robot)
    await pair[0].service(Organisations).resume(admin, "fuzhou")
    for _ in range(100):
        if (await robot.get("/api/v1/users")).status_code == 200:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not resumed")


async def test_the_look_up_of_a_known_token_is_cheap(
    pair: tuple[House, House], robot: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached token is found without the store: break the store's door and ask again."""
    credentials = pair[1].service(Credentials)

    async def broken(*_: object) -> None:
        raise AssertionError("asked the store")

    monkeypatch.setattr(pair[1].db, "read", broken)
    value = robot.headers["authorization"].encode()
    scope = {"type": "http", "method": "POST", "headers": [(b"authorization", value)], "client": ("192.0.2.1", 1)}
    actor = await credentials.actor_of(scope)
    assert actor is not None
    assert actor.kind == "token"
