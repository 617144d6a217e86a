"""The door that asks: meters behind transparent gateways (DTU) that dial in, or that the house dials.

Law: on a line one question is under way at a time, because a bus of meters knows no other way; an answer is kept and handed
to the ingestor as at the other doors, and the next question does not wait for the disk, but none is asked while the door
holds too much. A meter that does not answer costs one timeout a question, after three in a row one now and then, and never
the others' turn. Who a device is, and what is asked, are read from the relational store when a line opens.

A task belongs to a line, never to a message. Addresses that people named are judged by `kernel.outbound`.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from tulou.access.authenticate import DeviceIdentity, Identities, Throttle
from tulou.access.ingest import Ingestor, Item
from tulou.access.peer import Peer
from tulou.access.protocols import dtu
from tulou.access.protocols.cjt188 import codec as cjt188
from tulou.access.protocols.dlt645 import codec as dlt645
from tulou.access.protocols.modbus import codec as modbus
from tulou.access.protocols.polled import Ask, Meter, Point, sealed
from tulou.access.telemetry import ANY, Chunk, Refusal, Rules
from tulou.kernel.bus import end
from tulou.kernel.errors import Invalid, TulouError

if TYPE_CHECKING:
    from tulou.access.gateway import Gateway
    from tulou.kernel.outbound import Outbound
    from tulou.kernel.sql import Database

log = logging.getLogger("tulou.gateway")

METERS: Mapping[str, Meter] = {meter.name: meter for meter in (dlt645, cjt188, modbus)}
ROOM = 200
"""Bytes that an answer holds beside its frame while it waits."""
HEARD = 4096
"""Bytes that a line keeps of what it heard."""
SETTLED = 0.3
"""Seconds after which a registration packet without line end is whole."""
UNREGISTERED = 60
"""Seconds within which a gateway must say who it is."""
SILENT = 1800
"""Seconds without a byte after which a line is closed, so that the gateway dials anew."""
PATIENCE, REST, LONGEST_REST = 3, 30.0, 900.0
"""Failures in a row after which a meter rests, how long at first, and at most."""
SHOWN = 50
UNASKED = Refusal("unasked", "未询问而收到的数据", "data that nobody asked for", "frame")


@dataclass(slots=True, eq=False)
class Station:
    """A meter on a line, and how it fares."""

    meter: Meter
    address: str
    device: DeviceIdentity
    of: tuple[str, str, int]
    rules: Rules
    timeout: float
    failures: int = 0
    until: float = 0.0

    def failed(self, now: float) -> None:
        self.failures += 1
        if self.failures >= PATIENCE:
            self.until = now + min(REST * 2 ** min(self.failures - PATIENCE, 10), LONGEST_REST)


@dataclass(slots=True)
class Job:
    """A question that is asked again and again."""

    station: Station
    ask: Ask
    period: float


@dataclass(slots=True)
class Plan:
    """What is asked on the line of a device; without a host it dials in."""

    device: DeviceIdentity
    document: str
    jobs: list[Job]
    noise: list[bytes]
    host: str = ""
    port: int = 0
    stations: list[Station] = field(default_factory=list)


class Line(Peer):
    """One connection to a gateway. `plan` is None until it said who it is."""

    __slots__ = ("closed", "door", "heard", "plan", "question", "reply", "settling", "work")

    def __init__(self, door: PollDoor, plan: Plan | None = None) -> None:
        super().__init__(door.gateway)
        self.door, self.plan = door, plan
        self.heard = bytearray()
        self.question: Job | None = None
        self.reply: asyncio.Future[bytes] | None = None
        self.settling: asyncio.TimerHandle | None = None
        self.work: asyncio.Task[None] | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.door.lines.add(self)
        if self.door.gateway.crowded(self):
            self.close("too many connections")
        elif self.plan is not None:
            self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.settling is not None:
            self.settling.cancel()
        if self.work is not None:
            self.work.cancel()
        self.door.left(self)
        if not self.closed.done():
            self.closed.set_result(None)

    def close(self, why: str) -> None:
        if self.transport is not None:
            log.debug("closing the line of %s: %s", self.peer, why)
            self.transport.close()
            self.door.gateway.closing(self)

    def begin(self) -> None:
        """Start asking."""
        self.work = self.door.spawn(self._ask())

    def data_received(self, data: bytes) -> None:
        self.seen = self.clock.tick
        self.heard += data
        if self.plan is None:
            self._register()
            return
        for noise in self.plan.noise:
            if self.heard.startswith(noise) or self.heard.endswith(noise):
                self.heard = bytearray(self.heard.replace(noise, b""))
        if self.question is not None:
            self._answered(self.question)
        if len(self.heard) > HEARD:
            self.discard()

    # -- who it is

    def _register(self) -> None:
        if len(self.heard) > dtu.LONGEST:
            self.door.unknown += 1
            self.close("no registration packet")
        elif self.heard.endswith(b"\n"):
            self._settled()
        elif self.settling is None:
            self.settling = asyncio.get_running_loop().call_later(SETTLED, self._settled)

    def _settled(self) -> None:
        if self.plan is None and self.work is None and self.transport is not None:
            self.work = self.door.spawn(self._meet(bytes(self.heard)))

    async def _meet(self, packet: bytes) -> None:
        """Find the device that registers, and what is asked of it; then ask."""
        door = self.door
        identity = dtu.identity_of(packet)
        plan = None
        if door.throttle.wait(self.peer) <= 0:
            try:
                speaker = await door.identities.find(identity) if identity else None
                plan = None if speaker is None else await door.plan(speaker.device.entity)
            except Exception as error:
                log.warning("devices cannot be looked up: %r", error)
                self.close("devices cannot be looked up now")
                return
        if plan is None or plan.host:
            door.unknown += 1
            door.throttle.failed(self.peer)
            self.close("nobody's registration, or nothing to ask")
            return
        del self.heard[: len(packet)]
        plan.noise.append(packet)
        self.plan = plan
        for other in list(door.lines):
            if other is not self and other.plan is not None and other.plan.device.device_id == plan.device.device_id:
                other.close("the same gateway dialled anew")
        door.gateway.present(plan.device, True)
        await self._ask()

    # -- asking

    async def _ask(self) -> None:
        """Ask what is due, one question after another, until the line is closed."""
        plan, door = self.plan, self.door
        assert plan is not None
        loop = asyncio.get_running_loop()
        order = itertools.count()
        due = [(loop.time(), next(order), job) for job in plan.jobs]
        heapq.heapify(due)
        while self.transport is not None and due:
            at, _, job = due[0]
            if at > loop.time():
                await asyncio.sleep(at - loop.time())
                continue
            if door.pressed or self.reasons:
                await asyncio.sleep(1)
                continue
            now = loop.time()
            if job.station.until > now:
                heapq.heapreplace(due, (job.station.until, next(order), job))
                continue
            await self._exchange(job)
            now = loop.time()
            heapq.heapreplace(due, (max(at + job.period, now), next(order), job))

    async def _exchange(self, job: Job) -> None:
        door, station = self.door, job.station
        self.discard()
        door.asked += 1
        self.question, self.reply = job, asyncio.get_running_loop().create_future()
        self.send(job.ask.request)
        try:
            async with asyncio.timeout(station.timeout):
                answer = await self.reply
        except TimeoutError:
            door.timeouts += 1
            station.failed(asyncio.get_running_loop().time())
            return
        finally:
            self.question = self.reply = None
        assert self.plan is not None
        door.gateway.present(station.device, True)
        if station.device is not self.plan.device:
            door.gateway.present(self.plan.device, True)
        if station.meter.refusal(job.ask.request, answer) is not None:
            door.errors += 1
            station.failed(asyncio.get_running_loop().time())
        else:
            door.answered += 1
            station.failures = 0
        door.hand_in(station, sealed(job.ask, answer))

    def _answered(self, job: Job) -> None:
        """Look for the answer in what was heard; frames that are not the answer are dead letters."""
        station, request = job.station, job.ask.request
        while self.reply is not None and not self.reply.done():
            found = station.meter.find(request, bytes(self.heard))
            if found is None:
                return
            frame = bytes(self.heard[found[0] : found[1]])
            del self.heard[: found[1]]
            refusal = station.meter.answers(request, frame)
            if refusal is None:
                self.reply.set_result(frame)
                return
            self.door.mismatches += 1
            self.door.bury(self, station, sealed(job.ask, frame), refusal)

    def discard(self) -> None:
        """Drop what came before a question; it is a dead letter of the device whose line it is."""
        stray, self.heard = bytes(self.heard).strip(b"\xfe\0"), bytearray()
        if stray and self.plan is not None and self.plan.stations:
            self.door.stray += len(stray)
            self.door.bury(self, self.plan.stations[0], stray, UNASKED)


class PollDoor:
    """The lines, the listener for gateways that dial in, and a task for each that the house dials."""

    PLAN = (
        "SELECT d.entity_no, d.org, d.type, d.origin, d.id, p.document FROM device_polls p"
        " JOIN devices d ON d.entity_no = p.entity_no WHERE p.entity_no = ? AND d.status = 'active'"
    )
    DEVICE = "SELECT entity_no, org, type, origin, id FROM devices WHERE id = ? AND status = 'active'"
    DIALLED = (
        "SELECT d.entity_no, d.id FROM device_polls p JOIN devices d ON d.entity_no = p.entity_no"
        " WHERE p.dials AND d.status = 'active'"
    )

    def __init__(
        self, gateway: Gateway, db: Database, outbound: Callable[[], Outbound], port: int, tls_port: int
    ) -> None:
        self.gateway, self.db = gateway, db
        self._outbound = functools.cache(outbound)
        self.identities = Identities(db, "dtu", gateway.class_of)
        self.throttle = Throttle()
        self.lines: set[Line] = set()
        self.asked = self.answered = self.timeouts = self.errors = self.mismatches = self.stray = self.unknown = 0
        self.unreachable: dict[str, str] = {}
        self.ports: list[int] = []
        self.ingestors: dict[str, Ingestor] = {}
        self._listen = port, tls_port
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._dialling: dict[int, asyncio.Task[None]] = {}
        self._plan, self._device = db.point(self.PLAN), db.point(self.DEVICE)

    @property
    def pressed(self) -> bool:
        """Whether a door holds too much to ask for more."""
        return any(ingestor.pressed for ingestor in self.ingestors.values())

    async def start(self) -> None:
        """Open the listeners, and dial."""
        config, bus = self.gateway.config, self.gateway.bus
        self.ingestors = {
            name: Ingestor(bus.nc, bus.js, name=f"{config.name}-{name}", protocol=name, released=_released,
                           pressure=lambda on: None, high=config.high)
            for name in METERS
        }
        loop = asyncio.get_running_loop()
        for port, encrypted in zip(self._listen, (False, True), strict=True):
            if port:
                self._servers.append(await loop.create_server(
                    lambda: Line(self), config.host, max(port, 0), backlog=1024, **(self.gateway.tls() if encrypted else {}),
                ))
        self.ports = [server.sockets[0].getsockname()[1] for server in self._servers]
        self.changed("")

    async def close(self) -> None:
        """Stop asking, make durable what was answered, close every line."""
        for server in self._servers:
            server.close()
        await end(self._tasks, patience=0.5)
        await asyncio.gather(*(ingestor.close() for ingestor in self.ingestors.values()))
        for line in list(self.lines):
            line.close("the gateway stops")

    def spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def left(self, line: Line) -> None:
        self.lines.discard(line)
        self.gateway.closed(line)
        if line.plan is not None:
            self.gateway.present(line.plan.device, False)

    # -- plans

    async def plan(self, entity: int) -> Plan | None:
        """What is asked on the line of a device; None without a document."""
        row = await self._plan(entity)
        if row is None:
            return None
        device, document = DeviceIdentity.of(row), orjson.loads(row[5])
        heartbeat = document["heartbeat"]
        noise = bytes.fromhex(heartbeat[4:]) if heartbeat.startswith("hex:") else heartbeat.encode()
        plan = Plan(device, row[5], [], [noise] if noise else [], document["host"] or "", document["port"] or 0)
        for body in document["meters"]:
            whose = device
            if body["device"]:
                found = await self._device(body["device"])
                if found is None:
                    continue
                whose = DeviceIdentity.of(found)
            station = Station(METERS[body["protocol"]], body["address"], whose, *self.gateway.class_of(whose), body["timeout_s"])
            periods: dict[float, list[Point]] = {}
            for point in body["points"]:
                periods.setdefault(point["period_s"], []).append(
                    Point(point["property"], point["item"], point["type"], point["scale"]))
            try:
                plan.jobs += [
                    Job(station, ask, period) for period, points in periods.items()
                    for ask in station.meter.asks(station.address, points)
                ]
            except Invalid as error:
                log.warning("%s %s of %s cannot be asked: %s", body["protocol"], station.address, device.device_id, error.en)
                continue
            plan.stations.append(station)
        return plan

    def changed(self, device_id: str) -> None:
        """A device changed (empty: many): close the lines that concern it, and see whom to dial."""
        self.identities.forget(device_id)
        for line in list(self.lines):
            plan = line.plan
            if plan is not None and (
                not device_id or device_id in {plan.device.device_id, *(s.device.device_id for s in plan.stations)}
            ):
                line.close("a device was changed")
        self.spawn(self._redial(device_id))

    def missed(self) -> None:
        """Changes may have been told while the bus was away: close the lines whose document is another one now."""
        self.identities.forget("")
        self.spawn(self._recheck())

    async def _recheck(self) -> None:
        for line in list(self.lines):
            if line.plan is not None:
                row = await self._plan(line.plan.device.entity)
                if row is None or row[5] != line.plan.document:
                    line.close("what is asked was changed")
        await self._redial(None)

    async def _redial(self, device_id: str | None) -> None:
        """Dial whom nobody dials yet, and anew this device (empty: all)."""
        rows = await self.db.read(lambda c: c.execute(sa.text(self.DIALLED)).all())
        for entity, name in rows:
            if device_id in ("", name) or entity not in self._dialling:
                old = self._dialling.pop(entity, None)
                if old is not None:
                    await end([old], patience=0.5)
                self._dialling[entity] = self.spawn(self._dial(entity, name))

    async def _dial(self, entity: int, name: str) -> None:
        """Keep a line to a device open as long as its document asks for it."""
        pause = 1.0
        line: Line | None = None
        try:
            while True:
                plan = await self.plan(entity)
                if plan is None or not plan.host:
                    return
                try:
                    async with asyncio.timeout(10):
                        addresses = await self._outbound().addresses(plan.host, plan.port)
                        _, line = await asyncio.get_running_loop().create_connection(
                            functools.partial(Line, self, plan), addresses[0], plan.port)
                except (TulouError, OSError, TimeoutError) as error:
                    self.unreachable[name] = error.en if isinstance(error, TulouError) else repr(error)
                    if len(self.unreachable) > SHOWN:
                        del self.unreachable[next(iter(self.unreachable))]
                else:
                    self.unreachable.pop(name, None)
                    self.gateway.present(plan.device, True)
                    pause = 1.0
                    await asyncio.shield(line.closed)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 60.0)
        finally:
            self.unreachable.pop(name, None)
            if line is not None:
                line.close("dialled no more")
            if self._dialling.get(entity) is asyncio.current_task():
                del self._dialling[entity]

    # -- what was answered

    def hand_in(self, station: Station, raw: bytes, refusal: Refusal | None = None) -> None:
        """Give what is kept of an answer to the ingestor; with a `refusal` it is a dead letter. It is not kept where the organisation has as
        many readings as it may."""
        meter = self.gateway.meters.by_org.get(station.device.org)
        if meter is not None and meter.refuses(1):
            return
        name, rules = station.meter.name, station.rules if refusal is None else ANY
        ingestor = self.ingestors[name]
        ingestor.add(
            Chunk(name, station.device.entity, station.of, rules, [raw], ingestor.stamp(1), False, name, station.meter, refusal),
            None, len(raw) + ROOM,
        )

    def bury(self, line: Line, station: Station, raw: bytes, refusal: Refusal) -> None:
        """Keep what is no answer as a dead letter; beyond a burst of an address it is only counted."""
        if self.throttle.wait(line.peer) <= 0:
            self.throttle.failed(line.peer)
            self.hand_in(station, raw, refusal)

    def sweep(self) -> None:
        """Once a second: close lines that do not say who they are, or are silent."""
        tick = self.gateway.tick
        for line in list(self.lines):
            if tick - line.seen > (UNREGISTERED if line.plan is None else SILENT):
                line.close("silent")

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and the state now."""
        stations = [station for line in self.lines if line.plan is not None for station in line.plan.stations]
        down = [station for station in stations if station.failures >= PATIENCE]
        return {
            "connections": len(self.lines), "meters": len(stations), "asked": self.asked, "answered": self.answered,
            "timeouts": self.timeouts, "errors": self.errors, "mismatches": self.mismatches, "stray": self.stray,
            "unknown": self.unknown, "down": len(down),
            "down_meters": [f"{s.device.device_id} {s.meter.name} {s.address}" for s in down[:SHOWN]],
            "unreachable": dict(self.unreachable),
        }


def _released(items: list[Item]) -> None:
    """Nobody waits for an acknowledgement: the house asked."""
