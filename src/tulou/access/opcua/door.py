"""The part of the gateway that connects to servers of OPC UA: a task for each, which subscribes, and comes back when it was
cut off.

Law: what a server says is acknowledged to it when it is durable, and nothing is taken while the door holds too much: then
the server queues. A connection that ends is tried again after ever longer pauses, of a minute at most. What is asked for is
read from the relational store when a connection is made; the addresses that people named are judged by `kernel.outbound`,
each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nats.errors
import orjson
import sqlalchemy as sa

from tulou.access.authenticate import DeviceIdentity
from tulou.access.courier import RETURNED, Call
from tulou.access.ingest import Ingestor, settle
from tulou.access.protocols import ANSWERED, REFUSED
from tulou.access.quotas.meters import USED_UP
from tulou.access.telemetry import Chunk, Rules
from tulou.kernel.bus import end
from tulou.kernel.errors import Invalid, TulouError, Unavailable, said

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from tulou.access.gateway import Gateway
    from tulou.access.opcua.kept import Change
    from tulou.access.opcua.link import Item as Monitored
    from tulou.access.opcua.link import Link, Server
    from tulou.kernel.outbound import Outbound
    from tulou.kernel.sql import Database

log = logging.getLogger("tulou.gateway")

WHO, ASK = "tulou.opcua.who", "tulou.opcua.ask"
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
LONGEST_WAIT = 120.0
"""Seconds for which a notification waits for its organisation's quota: far less than a subscription outlives without requests."""
SHOWN = 50
PORT = 4840
"""That of `opc.tcp` (part 6, 7.2)."""
AGAIN = "连接已断，正在重连 (the connection was lost; connecting again)"


class Station:
    """Whose readings some nodes are."""

    __slots__ = ("device", "of", "rules")

    def __init__(self, device: DeviceIdentity, of: tuple[str, str, int], rules: Rules) -> None:
        self.device, self.of, self.rules = device, of, rules


class OpcUaTarget:
    """A server that takes commands, one at a time."""

    bearer = "opcua"

    def __init__(self, door: OpcUaDoor, link: Link, entity: int) -> None:
        self.door, self.link, self.entity = door, link, entity
        self.busy: Call | None = None

    def room(self) -> int:
        return 0 if self.busy is not None or not self.link.up else 1

    def deliver(self, call: Call) -> None:
        self.busy = call
        self.door.spawn(self._carry_out(call))

    async def _carry_out(self, call: Call) -> None:
        from asyncua import ua

        from tulou.access.opcua.link import Lost

        courier = self.door.gateway.courier
        try:
            result = await self.link.command(call.method, orjson.loads(call.params))
        except Lost:  # it may have come, or not
            courier.report(call.no, call.entity, RETURNED, attempt=call.attempt)
        except (TulouError, ua.UaError) as error:
            courier.report(call.no, call.entity, REFUSED, error=said(error))
        else:
            courier.report(call.no, call.entity, ANSWERED, result=orjson.dumps(result).decode())
        finally:
            self.busy = None
            courier.want(self)


class OpcUaDoor:
    """The links, one for each device that has a server; a `gateway.Door` that nobody comes in by."""

    name = "opcua"
    PLAN = (
        "SELECT d.entity_no, d.org, d.type, d.origin, d.id, o.document FROM device_opcua o"
        " JOIN devices d ON d.entity_no = o.entity_no WHERE o.entity_no = ? AND d.status = 'active'"
    )
    DEVICE = "SELECT entity_no, org, type, origin, id FROM devices WHERE id = ? AND status = 'active'"
    ALL = (
        "SELECT d.entity_no, d.id, o.document FROM device_opcua o JOIN devices d ON d.entity_no = o.entity_no"
        " WHERE d.status = 'active'"
    )

    def __init__(self, gateway: Gateway, db: Database, outbound: Callable[[], Outbound], home: Path) -> None:
        self.gateway, self.db, self.home = gateway, db, home
        self._outbound = functools.cache(outbound)
        self.ports: list[int] = []
        self.connections: set[Link] = set()
        self.links: dict[str, Link] = {}
        self.unreachable: dict[str, str] = {}
        self.counters: Any = None
        self.ingestor: Ingestor
        self._tasks: set[asyncio.Task[Any]] = set()
        self._running: dict[int, tuple[str, str, frozenset[str], asyncio.Task[Any]]] = {}
        self._changes: set[str | None] = set()
        self._rearranging = False
        self._plan, self._device = db.point(self.PLAN), db.point(self.DEVICE)
        self._subscriptions: list[Any] = []
        self._room = asyncio.Event()
        self._room.set()

    async def start(self) -> None:
        """Connect to the servers that there are."""
        config, bus = self.gateway.config, self.gateway.bus
        self.ingestor = Ingestor(
            bus.nc, bus.js, name=f"{config.name}-opcua", protocol=self.name, released=settle, pressure=self._press,
            high=config.high,
        )
        self._subscriptions = [
            await bus.nc.subscribe(WHO, cb=self._who), await bus.nc.subscribe(f"{ASK}.{config.name}", cb=self._asked),
        ]
        self.changed("")

    async def close(self) -> None:
        """End every session; what was taken is made durable."""
        for subscription in self._subscriptions:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()
        await end(self._tasks, patience=4)
        await self.ingestor.close()

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def changed(self, device_id: str) -> None:
        self._note(device_id)

    def forget(self) -> None:
        self._note(None)

    def _note(self, change: str | None) -> None:
        """What came while the servers are looked up is looked at together, once, after that."""
        self._changes.add(change)
        if not self._rearranging:
            self._rearranging = True
            self.spawn(self._rearrange())

    def sweep(self) -> None:
        """Once a second: look at the links."""
        for link in self.links.values():
            link.look()

    async def _rearrange(self) -> None:
        """Begin anew with what concerns the devices that changed (empty: all; None: whose document is another one now), begin
        what is new, end what is no more."""
        try:
            while self._changes:
                changes, self._changes = self._changes, set()
                try:
                    rows = await self.db.read(lambda c: c.execute(sa.text(self.ALL)).all())
                except Exception as error:
                    log.warning("servers of OPC UA cannot be looked up: %r", error)
                    continue
                wanted = {int(entity): (str(name), str(document)) for entity, name, document in rows}
                for entity, (name, document, concerned, task) in list(self._running.items()):
                    same = wanted.get(entity) == (name, document)
                    if not same or "" in changes or name in changes or changes & concerned:
                        del self._running[entity]
                        await end([task], patience=4)
                for entity, (name, document) in wanted.items():
                    if entity not in self._running:
                        body = orjson.loads(document)
                        concerned = frozenset(one["device"] for one in (*body["nodes"], *body["folders"]) if one["device"])
                        self._running[entity] = name, document, concerned, self.spawn(self._keep(entity, name))
        finally:
            self._rearranging = False

    def _press(self, on: bool) -> None:
        if on:
            self._room.clear()
        else:
            self._room.set()

    # -- a server

    async def _keep(self, entity: int, name: str) -> None:
        """Keep a link to the server of a device, for as long as its document says so."""
        try:
            from asyncua import ua

            from tulou.access.opcua.link import Counters, Link
        except ImportError as error:
            self._away(name, f"OPC UA 需要 asyncua，请安装 tulou[opcua] (OPC UA needs asyncua; install tulou[opcua]: {error})")
            return
        if self.counters is None:
            self.counters = Counters()
        pause = FIRST_PAUSE
        try:
            while True:
                found = await self._server(entity)
                if found is None:
                    return
                device, server = found
                link = Link(
                    server, self.home, self.counters, functools.partial(self._judged, server), self._take,
                    functools.partial(self.gateway.present, device, True), functools.partial(self._turned, device),
                )
                target = OpcUaTarget(self, link, entity)
                try:
                    if self.gateway.crowded():
                        raise Unavailable("连接数已满", "too many connections", rule="max_connections")
                    self._admitted(server)
                    self.connections.add(link)
                    async with asyncio.timeout(60):
                        await link.open()
                    self.links[name] = link
                    self.gateway.courier.ready(target)
                    pause = FIRST_PAUSE
                    await link.lost.wait()
                    self._away(name, link.why or AGAIN)
                except (TulouError, ua.UaError, OSError, TimeoutError, ValueError) as error:
                    self._away(name, said(error) or repr(error))
                finally:
                    self.links.pop(name, None)
                    self.connections.discard(link)
                    self.gateway.courier.gone(target, ())
                    await asyncio.shield(link.close())
                    self.gateway.present(device, False)
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - not all at once
                pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            self.unreachable.pop(name, None)

    async def _judged(self, server: Server) -> str:
        return (await self._outbound().addresses(server.host, server.port))[0]

    def _turned(self, device: DeviceIdentity, up: bool) -> None:
        """The connection to a server came, or went."""
        self.gateway.present(device, up)
        if up:
            self.unreachable.pop(device.device_id, None)
        else:
            self._away(device.device_id, AGAIN)

    def _away(self, name: str, why: str) -> None:
        self.unreachable[name] = why
        if len(self.unreachable) > SHOWN:
            del self.unreachable[next(iter(self.unreachable))]

    async def _server(self, entity: int) -> tuple[DeviceIdentity, Server] | None:
        """What the document of a device asks for; None without one."""
        from tulou.access.opcua.link import Folder, Server
        from tulou.access.opcua.link import Item as Monitored

        row = await self._plan(entity)
        if row is None:
            return None
        device, body = DeviceIdentity.of(row), orjson.loads(row[5])
        own = Station(device, *self.gateway.class_of(device))

        async def whose(name: str | None) -> Station | None:
            if not name:
                return own
            found = await self._device(name)
            return None if found is None else Station(DeviceIdentity.of(found), *self.gateway.class_of(DeviceIdentity.of(found)))

        url = urlsplit(body["url"])
        items = [
            Monitored(one["node"], one["property"], station, one["sampling_ms"], one["queue"], one["deadband"], one["scale"])
            for one in body["nodes"] if (station := await whose(one["device"])) is not None
        ]
        folders = [
            Folder(
                one["node"],
                one["depth"],
                one["prefix"],
                station,
                one["sampling_ms"],
                one["queue"],
                one["deadband"],
                one["scale"],
            )
            for one in body["folders"]
            if (station := await whose(one["device"])) is not None
        ]
        return device, Server(
            body["url"],
            url.hostname or "",
            url.port or PORT,
            body["security"],
            body["server_certificate"] or "",
            body["user"] or "",
            body["password"] or "",
            body["publish_ms"],
            items,
            folders,
            frozenset(body["commands"]),
        )

    async def _take(self, changes: list[tuple[Monitored, Change]]) -> None:
        """Make changes durable, for each device that they are of."""
        from tulou.access.opcua.kept import sealed

        whose: dict[int, tuple[Station, list[Change]]] = {}
        for item, change in changes:
            station: Station = item.whose
            whose.setdefault(station.device.entity, (station, []))[1].append(change)
        await self._room.wait()
        await self._paid([station.device.org for station, _ in whose.values()])
        await asyncio.gather(*(self._store(station, sealed(some)) for station, some in whose.values()))

    async def _paid(self, orgs: Sequence[str]) -> None:
        """Count a message of each, and wait until none is owed, or not limited any more; not so long that the subscription ends. Raises
        `Unavailable` where no more may be stored."""
        by_org, now = self.gateway.meters.by_org, time.monotonic()
        if not by_org:
            return
        for org in orgs:
            if org in by_org:
                if by_org[org].refuses(1):
                    raise Unavailable(*USED_UP, field="org", value=org, rule="readings")
                by_org[org].owe(1, now)
        until = now + LONGEST_WAIT
        while True:
            wait = self._owed(orgs)
            if wait <= 0 or time.monotonic() > until:
                return
            await asyncio.sleep(min(wait, 1.0))

    def _admitted(self, server: Server) -> None:
        """Raises `Unavailable` where nothing more may be stored of what a server says."""
        for org in {of.whose.device.org for some in (server.items, server.folders) for of in some}:
            meter = self.gateway.meters.by_org.get(org)
            if meter is not None and meter.shut:
                raise Unavailable(*USED_UP, field="org", value=org, rule="readings")

    def _owed(self, orgs: Sequence[str]) -> float:
        by_org, now = self.gateway.meters.by_org, time.monotonic()
        return max((by_org[org].wait(now) for org in orgs if org in by_org), default=0.0)

    async def _store(self, station: Station, raw: bytes) -> None:
        from tulou.access.opcua.kept import codec

        self.gateway.present(station.device, True)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ingestor.add(
            Chunk(
                self.name,
                station.device.entity,
                station.of,
                station.rules,
                [raw],
                self.ingestor.stamp(1),
                False,
                self.name,
                codec,
            ),
            future,
            len(raw) + 200,
        )
        await future

    # -- what people ask

    async def _who(self, message: Msg) -> None:
        name = message.data.decode()
        if name in self.links or name in self.unreachable:
            await message.respond(self.gateway.config.name.encode())

    async def _asked(self, message: Msg) -> None:
        self.spawn(self._answer(message))

    async def _answer(self, message: Msg) -> None:
        from asyncua import ua

        from tulou.access.opcua.link import Lost

        question = orjson.loads(message.data)
        link = self.links.get(question["device"])
        answer: dict[str, Any]
        try:
            if link is None or not link.up:
                raise Lost(self.unreachable.get(question["device"], "not connected"))
            async with asyncio.timeout(20):
                answer = await link.browse(question["node"])
        except Invalid as error:
            answer = {"error": "invalid", "zh": error.zh, "en": error.en, "rule": error.rule}
        except ua.UaStatusCodeError as error:
            answer = {"error": "status", "en": said(error)}
        except (Lost, ua.UaError, OSError, TimeoutError) as error:
            answer = {"error": "away", "en": said(error)}
        with contextlib.suppress(nats.errors.Error):
            await message.respond(orjson.dumps(answer))

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and the state now; empty where there is no server."""
        if not self._running:
            return {}
        counters = self.counters
        figures = {key: getattr(counters, key) for key in counters.__slots__} if counters is not None else {}
        refused = {f"{name} {node}": why for name, link in self.links.items() for node, why in link.refused.items()}
        return {
            "servers": len(self._running),
            "connections": sum(link.up for link in self.links.values()),
            **figures,
            "unreachable": dict(self.unreachable),
            "refused_nodes": dict(list(refused.items())[:SHOWN]),
        }
