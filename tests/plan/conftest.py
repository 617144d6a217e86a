"""The plan on the ground floor: both relational stores, no bus, no readings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.conftest import kernel_plugins

import tulou.plan.hooks
from tulou.kernel.house import House
from tulou.kernel.policy import Actor, Binding
from tulou.kernel.settings import Settings
from tulou.plan.service import Plans


@pytest.fixture
async def plan_house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """The ground floor with the plan engine, on SQLite and PostgreSQL in turn."""
    manager = kernel_plugins()
    manager.register(tulou.plan.hooks, "tulou.plan.hooks")
    house = House(Settings(home=tmp_path / "home", database_url=database_url), manager)
    await house.start((), bus=False)
    yield house
    await house.stop()


@pytest.fixture
def plans(plan_house: House) -> Plans:
    """The service."""
    return plan_house.service(Plans)


@pytest.fixture
def person() -> Callable[..., Actor]:
    """Makes people: `person("li", "fujian.txglj", "reporter")` with roles in their own organisation."""

    def make(name: str, org: str, *roles: str, subtree: bool = False) -> Actor:
        bindings = frozenset(Binding(org, role, subtree) for role in roles)
        return Actor(f"user:{name}", name, org, "user", bindings, None, f"user:{name}")

    return make
