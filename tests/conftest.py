"""Shared fixtures: real servers on free ports of the loopback address, in temporary folders, gone after the test."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import pwd
import random
import select
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import argon2
import paho.mqtt.client as paho
import pluggy
import psycopg
import pytest
import sqlalchemy as sa

from tulou.kernel import bus, hookspecs, migrate
from tulou.kernel.bus import NatsServer, free_port
from tulou.kernel.house import House
from tulou.kernel.organisations import passwords
from tulou.kernel.policy import ROOT, Actor, Binding
from tulou.kernel.settings import Settings
from tulou.kernel.sql import Database

LONGEST = (
    "console/test_browser.py", "e2e/test_roles.py", "durability/", "access/test_redecode", "access/test_rules_crash.py",
    "console/test_entity_page.py", "e2e/", "kernel/test_backup.py", "kernel/test_jobs.py", "console/",
)
"""Files that take longest: those that run side by side begin with them, so that none is left over at the end; not two browsers
at once."""

KERNEL = (
    "tulou.kernel.organisations.hooks", "tulou.kernel.audit", "tulou.kernel.jobs", "tulou.kernel.workflows", "tulou.kernel.packs.hooks",
    "tulou.kernel.ledger", "tulou.kernel.system", "tests.engine_sections", "tulou.packs.hooks",
)


def _own_ports() -> None:
    """Each of the processes that run tests side by side chooses from ports of its own: a port is free when it is chosen, and used
    seconds later."""
    worker, together = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = bus.PORTS[int(worker.removeprefix("gw")) :: together]
    bus._ports = itertools.cycle(random.sample(mine, len(mine)))


_own_ports()
gc.set_threshold(50_000, 20, 100)  # as `tulou` itself


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent

    def turn(item: pytest.Item) -> int:
        name = item.path.relative_to(here).as_posix()
        return next((i for i, start in enumerate(LONGEST) if name.startswith(start)), len(LONGEST))

    items.sort(key=turn)


@pytest.fixture(scope="session", autouse=True)
def quick_schemas() -> Iterator[None]:
    """The first empty store of a kind gets its tables by the revisions; the next ones get a copy of that."""
    by_revisions = migrate.upgrade
    made: dict[tuple[str, tuple[Path, ...]], Any] = {}

    def upgrade(db: Database, folders: Iterable[Path]) -> None:
        which = db.dialect, tuple(sorted(set(folders)))
        with db.engine.connect() as connection:
            empty = not sa.inspect(connection).get_table_names()
        if not empty or (db.dialect == "postgresql" and not db.url.database.startswith("t")):
            by_revisions(db, folders)
        elif db.dialect == "sqlite":
            with contextlib.closing(db.engine.raw_connection()) as connection:
                if which in made:
                    made[which].backup(connection.driver_connection)
                    return
            by_revisions(db, folders)
            made[which] = sqlite3.connect(":memory:", check_same_thread=False)
            with contextlib.closing(db.engine.raw_connection()) as connection:
                connection.driver_connection.backup(made[which])
        else:
            if which not in made:
                by_revisions(db, folders)
            db.engine.dispose()
            admin = db.url.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
            with psycopg.connect(admin, autocommit=True) as connection:
                if which in made:
                    connection.execute(f"DROP DATABASE {db.url.database}")
                    connection.execute(f"CREATE DATABASE {db.url.database} TEMPLATE {made[which]} STRATEGY file_copy")
                else:
                    connection.execute(f"CREATE DATABASE made{len(made)} TEMPLATE {db.url.database}")
                    made[which] = f"made{len(made)}"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "upgrade", upgrade)
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_hashes() -> Iterator[None]:
    """argon2id with the least memory: the tests make hundreds of hashes (test_sessions checks the real parameters)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_hasher", argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        yield


class Poll:
    """`select` by poll(2): select(2), with which paho waits, knows no descriptor beyond 1,023, and chDB leaves three
    behind with every thread that asked it, so that a process which opens many houses has more."""

    error = OSError

    @staticmethod
    def select(readers: Any, writers: Any, errors: Any, timeout: float | None = None) -> tuple[list[Any], list[Any], list[Any]]:
        poll, by = select.poll(), {}
        for wanted, event in ((readers, select.POLLIN), (writers, select.POLLOUT)):
            for one in wanted:
                number = one if isinstance(one, int) else one.fileno()
                known = by.get(number, (one, 0))
                by[number] = one, known[1] | event
        for number, (_, events) in by.items():
            poll.register(number, events)
        ready = dict(poll.poll(None if timeout is None else timeout * 1000))
        broken = select.POLLHUP | select.POLLERR | select.POLLNVAL

        def of(wanted: Any, event: int) -> list[Any]:
            return [one for one in wanted
                    if ready.get(one if isinstance(one, int) else one.fileno(), 0) & (event | broken)]

        return of(readers, select.POLLIN), of(writers, select.POLLOUT), []


paho.select = Poll


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A private PostgreSQL cluster; every test that wants a database of its own makes one in it."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    found = programs[-1] if programs else None
    initdb = str(found / "initdb") if found else shutil.which("initdb")
    postgres = str(found / "postgres") if found else shutil.which("postgres")
    if not initdb or not postgres:
        pytest.skip("PostgreSQL is not installed (no initdb in /usr/lib/postgresql or PATH)")
    memory = Path("/dev/shm")  # a new database is a thousand new files
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30
    folder = Path(tempfile.mkdtemp(prefix="tulou-postgres-", dir=memory if roomy else None))
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
        [postgres, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F", "-c", "max_wal_size=128MB"],
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


