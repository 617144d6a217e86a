"""The house: its settings, stores and services put together for one process.

Law: nothing is global. A process makes one `House`, starts it with the roles it plays, and hands it to every engine
through the hooks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import nats.errors
import pluggy

import tulou
from tulou.kernel.bus import Bus, Child, NatsServer, StreamSpec, end
from tulou.kernel.errors import Unauthenticated
from tulou.kernel.http import Scope, header
from tulou.kernel.outbound import Outbound
from tulou.kernel.packs import Model
from tulou.kernel.plugins import flat, plugins, read_packs
from tulou.kernel.policy import ANONYMOUS, Actor, Policy, system
from tulou.kernel.readings import Readings, open_readings
from tulou.kernel.settings import Settings
from tulou.kernel.sql import Database

log = logging.getLogger("tulou.house")

S = TypeVar("S")
ASGI = Callable[[Scope, Callable[..., Awaitable[Any]], Callable[..., Awaitable[Any]]], Awaitable[None]]


@dataclass(frozen=True)
class Task:
    """A background task: `run(house)` until cancelled; started again when it raises."""

    name: str
    role: str
    run: Callable[[House], Awaitable[None]]


@dataclass(frozen=True)
class Check:
    """A check of `tulou doctor`: `run()` -> (ok, zh, en)."""

    name: str
    run: Callable[[], Awaitable[tuple[bool, str, str]]]


@dataclass(frozen=True)
class JobKind:
    """A kind of job: `run(context, **arguments)` in the worker (see `kernel.jobs`)."""

    name: str
    run: Callable[..., Any]


class Authenticator(Protocol):
    """Finds who is asking (kernel.organisations)."""

    async def actor_of(self, scope: Scope) -> Actor | None:
        """The actor of a request's token or session; None without credentials. Raises `Unauthenticated`."""
        ...

    async def actor_named(self, id: str) -> Actor | None:
        """Whom this actor's id stands for now, for work that he left to the house; None for one who may do nothing."""
        ...


class House:
    """Everything that a process of the house holds. `await start(roles)`, then `await stop()`."""

    def __init__(self, settings: Settings, manager: pluggy.PluginManager | None = None) -> None:
        self.settings = settings
        self.hooks = manager or plugins()
        self.packs = read_packs(self.hooks, settings)
        self.packs.whole(Path(tulou.__file__).parent)
        for out in self.packs.left_out:
            for problem in out.problems:
                log.error("pack %s is left out: %s / %s", out.name, *(problem.text(lang, out.folder.name) for lang in ("zh", "en")))
        self.policy = Policy(reversed(self.hooks.hook.policies()))
        self.outbound = Outbound(settings)
        self.roles: tuple[str, ...] = ()
        self.began = time.time()
        self.db: Database
        self.bus: Bus
        self.readings: Readings
        self.nats: NatsServer | None = None
        self.children: list[Child] = []
        self.authenticator: Authenticator | None = None
        self.local_token = secrets.token_urlsafe(32)
        self._local_authorization = f"Bearer {self.local_token}"
        self._services: dict[type[Any], Any] = {}
        self._tasks: dict[asyncio.Task[None], Task] = {}
        self._stopping = False

    def service(self, cls: type[S]) -> S:
        """The service of class `cls`."""
        found: S = self._services[cls]
        return found

    def has_service(self, cls: type[Any]) -> bool:
        """Whether `cls` is registered."""
        return cls in self._services

    async def changed(self, what: str, key: str = "") -> None:
        """Tell every process that cached rows of `what` are stale (`Bus.changed`), after the change was committed. Where the bus
        is away, its client delivers this when it is back."""
        if not hasattr(self, "bus"):
            return
        try:
            await self.bus.changed(what, key)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            log.warning("%s %s changed, but the bus is away: %r", what, key, error)

    async def declare(self, models: Mapping[str, tuple[str, Model]]) -> None:
        """The types that organisations declare are these from now on, to everyone in this process (`Packs.declare`)."""
        if self.packs.declare(models):
            for follow in self.packs.followers:
                waiting = follow()
                if waiting is not None:
                    await waiting

    async def actor(self, scope: Scope) -> Actor:
        """Who asks: the actor of the token or session, or `ANONYMOUS`. Raises `Unauthenticated` for a bad one."""
        if self.local_token and header(scope, b"authorization") == self._local_authorization:
            return system("cli")
        if self.authenticator is None:
            raise Unauthenticated("无法验证身份", "no authenticator")
        return await self.authenticator.actor_of(scope) or ANONYMOUS

    def open_database(self) -> Database:
        """Open the relational store, bring its tables up to date, and read the models that it has."""
        from tulou.kernel.migrate import upgrade

        self.settings.home.mkdir(parents=True, exist_ok=True)
        self.db = Database(self.settings.sql_url)
        upgrade(self.db, self.hooks.hook.migrations())
        self.packs.declare({name: of for part in self.hooks.hook.models(house=self) for name, of in part.items()})
        return self.db

    def open_services(self) -> None:
        """Make every engine's services, lowest floor first (the stores are open by now)."""
        for plugin in [self.hooks.get_plugin(name) for name, _ in self.hooks.list_name_plugin()]:
            make = getattr(plugin, "services", None)
            for service in make(self) if make else ():
                self._services[type(service)] = service

    async def start(self, roles: tuple[str, ...] = ("api", "writer", "rules", "worker"), *, bus: bool = True) -> None:
        """Open stores, bus and services, seed, and start the background tasks of `roles`."""
        self.roles = roles
        self.settings.home.mkdir(parents=True, exist_ok=True)
        self.settings.home.chmod(0o700)
        readings: asyncio.Task[Readings] | None = None
        if "api" in roles or "writer" in roles:
            readings = asyncio.create_task(asyncio.to_thread(open_readings, self.settings.readings_dsn))
        if bus:
            url = self.settings.nats_url
            if not url:
                self.nats = NatsServer(self.settings)
                await self.nats.start()
                self.children.append(self.nats.child)
                url = self.nats.url
            self.bus = Bus(url, replicas=self.settings.nats_replicas)
            await self.bus.connect()
            specs: list[StreamSpec] = flat(self.hooks.hook.streams(house=self))
            await self.bus.ensure(specs)
        await asyncio.to_thread(self.open_database)
        if readings is not None:
            self.readings = await readings
            await self.readings.ensure_schema(self.retention())
        self.open_services()
        async with self.db.alone():  # processes that start at the same moment seed one after the other
            for hook in reversed(self.hooks.hook.started(house=self)):
                await hook
        for task in flat(self.hooks.hook.tasks(house=self)):
            if task.role in roles:
                self._begin(task)

    def retention(self) -> dict[str, int]:
        """Days to keep, by entity type, of the models that say so."""
        return {name: m.retention_days for name, m in self.packs.models.items() if m.retention_days}

    async def _keep(self, task: Task) -> None:
        pause = 0.2
        while True:
            try:
                await task.run(self)
                return
            except asyncio.CancelledError:
                raise
            except Exception:
                if asked_to_end():
                    log.exception("task %s failed while it ended", task.name)
                    return
                log.exception("task %s failed; starting it again in %.1f s", task.name, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 15.0)

    def _begin(self, task: Task) -> None:
        if not self._stopping:
            self._tasks[asyncio.create_task(self._keep(task), name=task.name)] = task

    @contextlib.asynccontextmanager
    async def paused(self, role: str) -> AsyncIterator[None]:
        """Without the background tasks of `role` in this process: each ends what it has begun, and begins anew after."""
        mine = {running: task for running, task in self._tasks.items() if task.role == role}
        try:
            await end(mine)
            yield
        finally:
            for running, task in mine.items():  # one that we were not let wait for begins anew when it has ended
                running.add_done_callback(lambda ended, task=task: self._again(ended, task))  # type: ignore[misc]

    def _again(self, ended: asyncio.Task[None], task: Task) -> None:
        if self._tasks.pop(ended, None) is not None:
            self._begin(task)

    async def stop(self) -> None:
        """Stop tasks, then close everything, in the reverse order of opening."""
        self._stopping = True
        await end(self._tasks)
        for child in reversed(self.children):
            if self.nats is None or child is not self.nats.child:
                await child.stop()
        await self.outbound.close()
        if hasattr(self, "bus"):
            await self.bus.close()
        if hasattr(self, "readings"):
            await self.readings.close()
        if hasattr(self, "db"):
            await self.db.close()
        if self.nats is not None:
            await self.nats.stop()

    def figures(self) -> Mapping[str, Any]:
        """Merged figures of every engine for the system page."""
        merged: dict[str, Any] = {}
        for part in self.hooks.hook.status(house=self):
            merged.update(part)
        return merged


def asked_to_end() -> bool:
    """Whether the task that runs now was cancelled, be it that the cancellation was lost since."""
    running = asyncio.current_task()
    return running is not None and running.cancelling() > 0


def rss_bytes(pid: int) -> int:
    """Resident memory of a process in bytes, 0 when it is gone (Linux)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
