"""A whole house with two organisations' people, shared by the tests of a module."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import httpx
import pytest
import pytest_asyncio
from granian.constants import Interfaces
from granian.server.embed import Server

from tulou import access
from tulou.app import Front
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.organisations import People
from tulou.kernel.organisations.models import NewUser, RoleGrant
from tulou.kernel.policy import ROOT, Actor, Binding
from tulou.kernel.settings import Settings

PASSWORD = "a long enough passphrase"
ADMIN = Actor("user:admin", "admin", ROOT, "user", frozenset({Binding(ROOT, "platform_admin", True)}))


async def eventually(check: Callable[[], Awaitable[Any]], seconds: float = 60) -> Any:
    """The first true answer of `check`, asked again and again."""
    until = time.monotonic() + seconds
    while True:
        answer = await check()
        if answer:
            return answer
        assert time.monotonic() < until, f"not within {seconds} s"
        await asyncio.sleep(0.05)


FIELDS = ("hj212", "jt808", "gb32960", "sl651", "dtu")


class Estate:
    """The house, and signed-in people: `lin` operates Fuzhou, `chen` operates Xiamen, `yang` may look at Fuzhou."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.app = Front(house)
        self.clients: list[httpx.AsyncClient] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, house: House, *roles: str) -> AsyncIterator[Self]:
        """The house started with these roles, or all, and a gateway; it ends in any case, because a process has one readings store."""
        await house.start(roles or ("gateway", "api", "writer", "rules", "worker"))
        try:
            await access.start_gateway(house)
            made = cls(house)
            yield made
            for client in made.clients:
                await client.aclose()
        finally:
            await house.stop()

    def client(self, **headers: str) -> httpx.AsyncClient:
        made = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.app), base_url="http://house/api/v1", headers=headers, timeout=30
        )
        self.clients.append(made)
        return made

    async def person(self, name: str, org: str, role: str, *others: str) -> httpx.AsyncClient:
        """A new person with a role in an organisation, and in others, signed in."""
        grants = [RoleGrant(org=each, role=role, subtree=True) for each in (org, *others)]  # type: ignore[arg-type]
        await self.house.service(People).create(
            ADMIN, NewUser(name=name, display=name, org=org, password=PASSWORD, roles=grants)
        )
        client = self.client(**{"x-tulou": "1"})
        answer = await client.post("/session", json={"name": name, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        if answer.json()["user"]["must_change_password"]:
            changed = await client.post("/session/password", json={"old": PASSWORD, "new": PASSWORD + "!"})
            assert changed.status_code == 204, changed.text
        return client

    async def device(self, client: httpx.AsyncClient, org: str, key: str, **more: Any) -> dict[str, Any]:
        """A new device, with its token."""
        body = {"org": org, "type": "AirQualityStation", "name": f"站 {key}", "id": key, "lon": 119.3, "lat": 26.1}
        answer = await client.post("/devices", json={**body, **more})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def say(self, device: dict[str, Any], **values: Any) -> None:
        """A message of the device, over HTTP."""
        answer = await self.client().post(f"/{device['token']}/telemetry", json=values)
        assert answer.status_code == 200, answer.text

    async def latest(
        self, client: httpx.AsyncClient, device: dict[str, Any], prop: str, value: Any, state: str | None = None
    ) -> dict[str, Any]:
        """The thing, once its latest value of `prop` is `value`, and it is in `state`: signs of life go another way."""

        async def seen() -> Any:
            thing = (await client.get(f"/things/{device['no']}")).json()
            return thing if thing["latest"].get(prop, {}).get("value") == value and state in (None, thing["state"]) else None

        found: dict[str, Any] = await eventually(seen)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def estate(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Estate]:
    """The house with every role and a gateway."""
    home = tmp_path_factory.mktemp("estate") / "home"
    ports = ",".join(f"{name}={free_port()}" for name in FIELDS)
    house = House(Settings(
        home=home, http_port=free_port(), mqtt_port=free_port(), field_ports=ports, coap_port=free_port(), lwm2m="nosec",
        ocpp_port=free_port(),
    ))
    async with Estate.opened(house) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lin(estate: Estate) -> httpx.AsyncClient:
    return await estate.person("lin", "fuzhou", "operator")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chen(estate: Estate) -> httpx.AsyncClient:
    return await estate.person("chen", "xiamen", "operator")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def yang(estate: Estate) -> httpx.AsyncClient:
    return await estate.person("yang", "fuzhou", "viewer")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(estate: Estate) -> AsyncIterator[str]:
    """The house served by the server that serves it in earnest."""
    port = estate.house.settings.http_port
    server = Server(
        estate.app, address="127.0.0.1", port=port, interface=Interfaces.ASGINL, log_enabled=False, websockets=False
    )
    serving = asyncio.create_task(server.serve())
    url = f"http://127.0.0.1:{port}/api/v1"
    async with httpx.AsyncClient() as client:

        async def up() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return (await client.get(f"{url}/models")).status_code == 401
            return False

        await eventually(up)
    yield url
    server.stop()
    await asyncio.wait([serving], timeout=10)
