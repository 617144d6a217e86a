"""The part of the gateway that hands commands for devices of LoRaWAN to their network servers.

Law: a device takes commands here while the broker of its organisation's server, or of the nearest one above that has one, is connected, and
its application is known from its events. What becomes of a command the network server's events say, which come by HTTP (`service.py`).
Everything is read from the relational store, anew when it changed.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tulou.kernel.bus import end
from tulou.kernel.errors import TulouError, said

if TYPE_CHECKING:
    from tulou.access.courier import Call
    from tulou.access.gateway import Gateway
    from tulou.access.lorawan.link import Link
    from tulou.kernel.outbound import Outbound
    from tulou.kernel.sql import Database

log = logging.getLogger("tulou.gateway")

BEARER = "lorawan"
AT_ONCE = 4
"""Commands of a device that a broker has not acknowledged yet."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
SETTLE = 1.0
"""Seconds between two looks at what changed."""


class LoRaTarget:
    """A device whose network server is connected."""

    bearer = BEARER
    __slots__ = ("application", "dev_eui", "entity", "inflight", "link")

    def __init__(self, entity: int, dev_eui: str, application: str) -> None:
        self.entity, self.dev_eui, self.application = entity, dev_eui, application
        self.link: Link | None = None
        self.inflight = 0

    @property
    def who(self) -> tuple[str, str]:
        return self.dev_eui, self.application

    def room(self) -> int:
        return AT_ONCE - self.inflight if self.link is not None and self.link.takes else 0

    def deliver(self, call: Call) -> None:
        assert self.link is not None
        self.link.send(self, call)


class DownlinkDoor:
    """The servers, each with a task that keeps its connection."""

    SERVERS = "SELECT s.org, s.document FROM lorawan_servers s"
    DEVICES = (
        "SELECT l.entity_no, d.org, l.dev_eui, l.application FROM lorawan_devices l"
        " JOIN devices d ON d.entity_no = l.entity_no AND d.status = 'active'"
        " JOIN device_identities i ON i.entity_no = l.entity_no AND i.protocol = 'lorawan' AND i.identity = l.dev_eui"
    )
    PARENTS = "SELECT id, parent FROM organisations"

    def __init__(self, gateway: Gateway, db: Database, outbound: Callable[[], Outbound]) -> None:
        self.gateway, self.db = gateway, db
        self._outbound = functools.cache(outbound)
        self.links: dict[str, Link] = {}
        self.unreachable: dict[str, str] = {}
        self._targets: dict[str, dict[int, LoRaTarget]] = {}
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect to the servers that there are."""
        await self.gateway.bus.on_changed("lorawan", lambda _key: self._news.set())
        self._news.set()
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """End every connection."""
        if self._task is not None:
            await end([self._task, *(task for _, task in self._running.values())], patience=2)

    def changed(self, _device_id: str) -> None:
        """A device changed."""
        if self._running:
            self._news.set()

    def missed(self) -> None:
        """Changes may have been missed."""
        self._news.set()

    async def _follow(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._rearrange()
            except Exception as error:
                log.warning("network servers of LoRaWAN cannot be looked up: %r", error)
                self._news.set()
            await asyncio.sleep(SETTLE)

    async def _rearrange(self) -> None:
        servers: dict[str, str] = dict(await self._all(self.SERVERS))
        devices = await self._all(self.DEVICES) if servers else ()
        parents: dict[str, str | None] = dict(await self._all(self.PARENTS)) if servers else {}
        of: dict[str, str | None] = {}

        def server_of(org: str) -> str | None:
            seen: set[str] = set()
            current: str | None = org
            while current is not None and current not in servers and current not in seen:
                seen.add(current)
                current = parents.get(current)
            return current if current in servers else None

        wanted: dict[str, dict[int, tuple[str, str]]] = {org: {} for org in servers}
        for entity, org, dev_eui, application in devices:
            if org not in of:
                of[org] = server_of(org)
            where = of[org]
            if where is not None:
                wanted[where][int(entity)] = dev_eui, application
        for org, (document, task) in list(self._running.items()):
            if servers.get(org) != document:
                del self._running[org]
                await end([task], patience=2)
        for org in list(self._targets):
            self._assign(org, wanted.get(org, {}))
        for org, document in servers.items():
            if org not in self._running:
                self._targets[org] = {}
                self._assign(org, wanted[org])
                self._running[org] = document, asyncio.create_task(self._keep(org, document))
        for org in self._targets.keys() - servers.keys():
            del self._targets[org]

    async def _all(self, query: str) -> Sequence[Any]:
        return await self.db.read(lambda c: c.execute(sa.text(query)).all())

    def _assign(self, org: str, wanted: dict[int, tuple[str, str]]) -> None:
        """These are the devices of a server now."""
        here, link = self._targets[org], self.links.get(org)
        for entity, target in list(here.items()):
            if wanted.get(entity) != target.who:
                del here[entity]
                self._withdraw(target)
        for entity, who in wanted.items():
            if entity not in here:
                here[entity] = LoRaTarget(entity, *who)
                if link is not None:
                    self._offer(here[entity], link)

    def _offer(self, target: LoRaTarget, link: Link) -> None:
        target.link = link
        self.gateway.courier.ready(target)

    def _withdraw(self, target: LoRaTarget) -> None:
        if target.link is not None:
            target.link = None
            self.gateway.courier.gone(target, ())

    async def _keep(self, org: str, document: str) -> None:
        """Keep a connection to the broker of a server."""
        from tulou.access.lorawan.link import Link
        from tulou.access.lorawan.tables import NetworkServer
        from tulou.kernel.outbound import target_of

        server, pause = NetworkServer.model_validate_json(document), FIRST_PAUSE
        at = target_of(server.url, ("mqtt", "mqtts"))

        async def judged() -> str:
            return (await self._outbound().addresses(at.host, at.port))[0]

        try:
            while True:
                link = Link(server, at, judged, self.gateway.courier)
                try:
                    await link.open()
                    self.links[org], pause = link, FIRST_PAUSE
                    self.unreachable.pop(org, None)
                    for target in self._targets[org].values():
                        self._offer(target, link)
                    await link.lost.wait()
                    self.unreachable[org] = link.why
                except (TulouError, OSError, TimeoutError, ValueError) as error:
                    self.unreachable[org] = said(error)
                finally:
                    self.links.pop(org, None)
                    for target in self._targets.get(org, {}).values():
                        self._withdraw(target)
                    await asyncio.shield(link.close())
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - not all at once
                pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            self.unreachable.pop(org, None)

    def stats(self) -> dict[str, Any]:
        """The state now; empty where there is no server."""
        if not self._running:
            return {}
        deaf = {org: link.why for org, link in self.links.items() if not link.takes}
        return {"servers": len(self._running), "connections": len(self.links), "devices": sum(map(len, self._targets.values())),
                "unreachable": {**self.unreachable, **deaf}}
