"""The context engine alone on the ground floor, its door called as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pluggy
import pytest
import sqlalchemy as sa

from tulou.context import ContextService
from tulou.context.routes import Door
from tulou.kernel import hookspecs
from tulou.kernel.house import House
from tulou.kernel.organisations import Organisations
from tulou.kernel.policy import ROOT, Actor, Binding
from tulou.kernel.settings import Settings

KERNEL = (
    "tulou.kernel.organisations.hooks", "tulou.kernel.audit", "tulou.kernel.jobs", "tulou.kernel.workflows", "tulou.kernel.system",
    "tulou.context.hooks", "tests.engine_sections", "tulou.packs.hooks",
)
XIAMEN, FUZHOU = "xiamen", "fuzhou"


def person(org: str, role: str, *, subtree: bool = False, name: str | None = None) -> Actor:
    """Someone who holds one role in one organisation."""
    id = f"user:{name or org + '-' + role}"
    return Actor(id, id, org, "user", frozenset({Binding(org, role, subtree)}), None, id)


ACTORS = {
    "xiamen": person(XIAMEN, "steward"),
    "fuzhou": person(FUZHOU, "steward"),
    "xiamen-viewer": person(XIAMEN, "viewer"),
    "stranger": Actor("user:stranger", "stranger", XIAMEN, "user", frozenset(), None, "user:stranger"),
    "admin": Actor("user:admin", "admin", ROOT, "user", frozenset({Binding(ROOT, "platform_admin", True)}), None, "a"),
}


class ByName:
    """Finds the actor of a test by the bearer name; the real one is tested with the kernel."""

    async def actor_of(self, scope: Any) -> Actor | None:
        for name, value in scope["headers"]:
            if name == b"authorization":
                return ACTORS[value.decode().removeprefix("Bearer ")]
        return None

    async def actor_named(self, id: str) -> Actor | None:
        return next((actor for actor in ACTORS.values() if actor.id == id), None)


def plugins() -> pluggy.PluginManager:
    """The ground floor with the context engine."""
    manager = pluggy.PluginManager("tulou")
    manager.add_hookspecs(hookspecs)
    for name in KERNEL:
        manager.register(import_module(name), name)
    return manager


@pytest.fixture
async def ground(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """A house of the ground floor and the context engine, on SQLite and PostgreSQL; no bus, no readings."""
    house = House(Settings(home=tmp_path / "home", database_url=database_url, outbound_allow="127.0.0.0/8"), plugins())
    await house.start((), bus=False)
    assert {XIAMEN, FUZHOU} <= house.service(Organisations).rows.keys()
    house.authenticator = ByName()  # type: ignore[assignment]
    yield house
    await house.stop()


@pytest.fixture
def service(ground: House) -> ContextService:
    """The entities' service."""
    return ground.service(ContextService)


class Client(httpx.AsyncClient):
    """Speaks to the door as one actor."""


@pytest.fixture
async def door(ground: House) -> AsyncIterator[Any]:
    """A function: actor's name -> HTTP client of `/ngsi-ld/v1`."""
    transport = httpx.ASGITransport(Door(ground), raise_app_exceptions=True)
    clients: list[httpx.AsyncClient] = []

    def client(name: str | None = "xiamen") -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {name}"} if name else {}
        made = httpx.AsyncClient(transport=transport, base_url="http://tulou.test/ngsi-ld/v1", headers=headers)
        clients.append(made)
        return made

    yield client
    for made in clients:
        await made.aclose()


@pytest.fixture
async def api(door: Any) -> httpx.AsyncClient:
    """The door as Xiamen's steward."""
    return door("xiamen")  # type: ignore[no-any-return]


def execute(house: House, sql: str) -> list[Any]:
    """Rows of a statement, for looking behind the door."""
    with house.db.engine.connect() as connection:
        return list(connection.execute(sa.text(sql)))
