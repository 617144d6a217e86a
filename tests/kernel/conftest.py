"""The ground floor over its real HTTP routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from tulou.app import Front
from tulou.kernel.house import House
from tulou.kernel.organisations import Credentials, People
from tulou.kernel.organisations.credentials import first_password
from tulou.kernel.organisations.models import NewUser, RoleGrant
from tulou.kernel.policy import Actor

PASSWORD = "a long enough passphrase"


Connect = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def connect(kernel: House) -> AsyncIterator[Connect]:
    """Makes clients of the house's HTTP routes: `connect(address)`; each has cookies of its own."""
    app = Front(kernel)
    made: list[httpx.AsyncClient] = []

    def make(address: str = "192.0.2.1", headers: dict[str, str] | None = None) -> httpx.AsyncClient:
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app, client=(address, 1)), base_url="http://house",
            headers=headers or {},
        )
        made.append(client)
        return client

    yield make
    for client in made:
        await client.aclose()


class Persons:
    """Makes people directly and signs them in over HTTP."""

    def __init__(self, house: House, connect: Connect, admin: Actor) -> None:
        self.house, self.connect, self.admin = house, connect, admin

    async def make(self, name: str, org: str, *roles: tuple[str, str, bool]) -> int:
        grants = [RoleGrant(org=o, role=r, subtree=s) for o, r, s in roles]  # type: ignore[arg-type]
        person = NewUser(name=name, display=name, org=org, password=PASSWORD, roles=grants)
        made = await self.house.service(People).create(self.admin, person)
        return int(made["id"])

    async def sign_in(self, name: str, org: str | None = None, *roles: tuple[str, str, bool]) -> httpx.AsyncClient:
        """A signed-in client of `name`, who is made first when an organisation is given."""
        if org is not None:
            await self.make(name, org, *roles)
        client = self.connect()
        client.headers["x-tulou"] = "1"
        answer = await client.post("/api/v1/session", json={"name": name, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        if answer.json()["user"]["must_change_password"]:
            new = PASSWORD + "!"
            changed = await client.post("/api/v1/session/password", json={"old": PASSWORD, "new": new})
            assert changed.status_code == 204, changed.text
        return client

    async def administrator(self) -> httpx.AsyncClient:
        """The first administrator, whose random password has been changed to PASSWORD."""
        client = self.connect("192.0.2.99")
        client.headers["x-tulou"] = "1"
        first = first_password(self.house.settings.home)
        await client.post("/api/v1/session", json={"name": "admin", "password": first})
        answer = await client.post("/api/v1/session/password", json={"old": first, "new": PASSWORD})
        assert answer.status_code == 204, answer.text
        return client


@pytest.fixture
def persons(kernel: House, connect: Connect, admin: Actor) -> Persons:
    return Persons(kernel, connect, admin)


@pytest.fixture
def credentials(kernel: House) -> Credentials:
    return kernel.service(Credentials)
