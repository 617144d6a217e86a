"""Shared fixtures: real servers on free ports of the loopback address, in temporary folders, gone after the test."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import import_module
from pathlib import Path

import pluggy
import psycopg
import pytest

from tulou.kernel import hookspecs
from tulou.kernel.bus import NatsServer, free_port
from tulou.kernel.house import House
from tulou.kernel.policy import ROOT, Actor, Binding
from tulou.kernel.settings import Settings
from tulou.kernel.sql import Database

KERNEL = (
    "tulou.kernel.organisations.hooks", "tulou.kernel.audit", "tulou.kernel.jobs", "tulou.kernel.system",
    "tulou.packs.hooks",
)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A private PostgreSQL cluster; every test that wants a database of its own makes one in it."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    found = programs[-1] if programs else None
    initdb = str(found / "initdb") if found else shutil.which("initdb")
    postgres = str(found / "postgres") if found else shutil.which("postgres")
    if not initdb or not postgres:
        pytest.skip("PostgreSQL is not installed (no initdb in /usr/lib/postgresql or PATH)")
    folder = Path(tempfile.mkdtemp(prefix="tulou-postgres-"))
    who: dict[str, object] = {}
    if os.geteuid() == 0:  # postgres refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            account = pwd.getpwnam("nobody")
        os.chown(folder, account.pw_uid, account.pw_gid)
        who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data, port = folder / "data", free_port()
    subprocess.run(
        [initdb, "-D", data, "-U", "tulou", "--auth=trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8"],
        check=True, cwd=folder, stdout=subprocess.DEVNULL, **who,  # type: ignore[call-overload]
    )
    server = subprocess.Popen(
        [postgres, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("wb"), **who,  # type: ignore[call-overload]
    )
    url = f"postgresql://tulou@127.0.0.1:{port}/postgres"
    try:
        for _ in range(200):
            if server.poll() is not None:
                pytest.fail(f"PostgreSQL ended with {server.returncode}: {(folder / 'log').read_text()}")
            try:
                psycopg.connect(url, connect_timeout=2).close()
                break
            except psycopg.OperationalError:


                time.sleep(0.05)
        else:
            pytest.fail("PostgreSQL did not come up in 10 s")
        yield url
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


_numbers = iter(range(1, 1_000_000))


@pytest.fixture
def new_postgres(postgres_url: str) -> Iterator[Callable[[], str]]:
    """Makes empty PostgreSQL databases: a function that returns the address of a fresh one."""
    made: list[str] = []

    def make() -> str:
        name = f"t{next(_numbers)}"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        made.append(name)
        return postgres_url.rsplit("/", 1)[0] + f"/{name}"

    yield make
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The value of the setting `database_url`: empty for SQLite in the home, or a fresh PostgreSQL database."""
    if request.param == "sqlite":
        return ""
    make: Callable[[], str] = request.getfixturevalue("new_postgres")
    return make()


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty relational store, SQLite and PostgreSQL in turn."""
    db = Database(Settings(home=tmp_path, database_url=database_url).sql_url)
    yield db
    await db.close()


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A started `nats-server` with JetStream in a temporary folder; `.url` is its address."""
    server = NatsServer(Settings(home=tmp_path / "bus-home"))
    await server.start()
    yield server
    await server.stop()


def kernel_plugins() -> pluggy.PluginManager:
    """The plugins of the ground floor and the packs, without the engines."""
    manager = pluggy.PluginManager("tulou")
    manager.add_hookspecs(hookspecs)
    for name in KERNEL:
        manager.register(import_module(name), name)
    return manager


@pytest.fixture
async def kernel(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """The ground floor alone on both relational stores: no bus, no readings, no engines; quick to start."""
    house = House(Settings(home=tmp_path / "home", database_url=database_url), kernel_plugins())
    await house.start((), bus=False)
    yield house
    await house.stop()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A whole started house in a temporary home with the role `api`: bus, readings, every engine."""
    home = House(Settings(home=tmp_path / "home", http_port=free_port(), mqtt_port=0))
    await home.start(("api",))
    yield home
    await home.stop()


@pytest.fixture
def admin() -> Actor:
    """A platform administrator."""
    return Actor(
        "user:admin", "管理员", ROOT, "user", frozenset({Binding(ROOT, "platform_admin", True)}), None, "user:admin"
    )


@pytest.fixture
def nobody() -> Actor:
    """A person of an organisation that does not exist, without any role."""
    return Actor("user:nobody", "nobody", "no-such-org", "user", frozenset(), None, "user:nobody")


