"""The CoAP door: `POST /api/v1/{token}/telemetry` and `/attributes` over UDP, the convention that integrators know; what devices
read and observe is in `observe.py`.

Law: 2.04 is sent after the batch that carries the message is synced in JetStream. What was refused is answered with 4.00
naming the field, and kept as a dead letter; what could be read beside it is stored. A message that comes twice is
stored once. While the bus is away nothing is accepted: 5.03 with Max-Age. Unknown tokens cost an address one look-up
each, of few at once, and hold nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Protocol

from tulou.access.authenticate import DeviceIdentity, LookUps, Throttle
from tulou.access.coap import Unreadable
from tulou.access.coap import message as m
from tulou.access.coap.endpoint import Endpoint, Holding, Request, diagnosis, told
from tulou.access.coap.observe import Observers
from tulou.access.coap.payload import AS_JSON, READ, codec, kept
from tulou.access.ingest import Ingestor, Item
from tulou.access.peer import HELD
from tulou.access.quotas.meters import USED_UP
from tulou.access.telemetry import ATTRIBUTES, TELEMETRY, Chunk, DeadLetter, Refusal

if TYPE_CHECKING:
    from tulou.access.gateway import Gateway

log = logging.getLogger("tulou.coap")

ROOM = 400
"""Bytes that a message holds beside its payload while it waits."""
ASKING, ASKING_OF = 500, 8
"""Look-ups under way, and of one address; what is more is dropped, and comes again by retransmission."""
RPC, COMMAND_NO = "rpc", re.compile("[0-9]{1,18}", re.ASCII)
LATER = (m.MAX_AGE, m.uint(5))
"""With 5.03: when to try again, in seconds (RFC 7252, 5.9.3.4)."""
CATALOGUE = b"</api/v1>;rt=\"tulou.telemetry\";ct=\"50 60 110 112\";obs"


class Branch(Protocol):
    """What serves paths beside telemetry at the same socket."""

    def serve(self, request: Request) -> None: ...
    async def close(self) -> None: ...


class CoapDoor:
    """The socket, and telemetry by token; a part of the gateway. `branches` serve other first segments of paths."""

    name = "coap"

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway = gateway
        self.throttle = Throttle()
        self.endpoint = Endpoint(self.serve, gateway.config.max_packet)
        self.branches: dict[str, Branch] = {}
        self.observers = Observers(self)
        self.ports: list[int] = []
        self.ingestor: Ingestor
        self.refused = self.throttled = self.dropped = self.unavailable = 0
        self._port = port
        self._held = Holding(HELD)
        self._asking = LookUps(ASKING, ASKING_OF)
        self._refusals: dict[int, Refusal] = {}

    async def start(self) -> None:
        """Open the socket; `ports` says where."""
        config, bus = self.gateway.config, self.gateway.bus
        self.ingestor = Ingestor(
            bus.nc, bus.js, name=f"{config.name}-coap", protocol=self.name, released=self._released,
            pressure=self._press, high=config.high, refused=self._letter,
        )
        self.ports = [await self.endpoint.open(config.host, self._port)]

    async def close(self) -> None:
        """Make durable and answer what was taken, then close the socket."""
        self.endpoint.serve = lambda request: None
        self.observers.close()
        await asyncio.gather(self.ingestor.close(), *(branch.close() for branch in self.branches.values()))
        self.endpoint.close()

    @property
    def connections(self) -> Collection[Any]:
        """The devices that spoke within the lifetime of an exchange."""
        return self.endpoint.recent

    # Requests

    def serve(self, request: Request) -> None:
        """Answer one request, now or when it is durable."""
        path, code = request.path, request.message.code
        unknown = request.message.unknown()
        if unknown is not None:
            request.answer(m.BAD_OPTION, told("不支持的必需选项", "critical option not understood", "option", unknown))
        elif path and path[0] in self.branches:
            self.branches[path[0]].serve(request)
        elif len(path) == 4 and path[:2] == ["api", "v1"] and path[3] in (TELEMETRY, ATTRIBUTES, RPC):
            token, kind = path[2:]
            if code == m.POST and kind != RPC:
                self._recognise(request, token, lambda device: self._take(request, device, kind))
            elif code == m.GET and kind != TELEMETRY:
                self._recognise(request, token, lambda device: self.observers.get(request, device, token, kind))
            else:
                request.answer(m.NOT_ALLOWED)
        elif len(path) == 5 and path[:2] == ["api", "v1"] and path[3] == RPC and COMMAND_NO.fullmatch(path[4]):
            if code == m.POST:
                self._recognise(request, path[2], lambda device: self.observers.answered(request, device, int(path[4])))
            else:
                request.answer(m.NOT_ALLOWED)
        elif path == [".well-known", "core"] and code == m.GET:
            request.answer(m.CONTENT, CATALOGUE, (m.CONTENT_FORMAT, m.uint(m.LINKS)))
        else:
            request.answer(m.NOT_FOUND)

    def _recognise(self, request: Request, token: str, serve: Callable[[DeviceIdentity], None]) -> None:
        known = self.gateway.authenticator.known(token)
        if known is not None:
            serve(known)
        elif self.may_ask(request):
            self.gateway.spawn(self._ask(request, token, serve))

    def may_ask(self, request: Request) -> bool:
        """Whether a device may be looked up for this request, which then counts until `asked`; if not, it was answered or dropped."""
        host = str(request.peer[0])
        wait = self.throttle.wait(host)
        if wait > 0:
            self.throttled += 1
            request.answer(m.TOO_MANY, told("无效凭证尝试过多", "too many unknown credentials from this address"),
                           (m.MAX_AGE, m.uint(int(wait) + 1)))
            return False
        if not self._asking.begin(host):
            self.dropped += 1
            return False
        return True

    def asked(self, request: Request) -> None:
        """The look-up has ended."""
        self._asking.end(str(request.peer[0]))

    async def _ask(self, request: Request, token: str, serve: Callable[[DeviceIdentity], None]) -> None:
        try:
            device = await self.gateway.authenticator.authenticate(token)
        except Exception as error:
            log.warning("devices cannot be looked up: %r", error)
            self.away(request)
            return
        finally:
            self.asked(request)
        if device is None:
            self.refused += 1
            self.throttle.failed(str(request.peer[0]))
            request.answer(m.UNAUTHORIZED, told("设备令牌无效", "unknown access token", "token"))
            return
        try:
            serve(device)
        except Unreadable as error:
            request.answer(m.BAD_REQUEST, diagnosis(error))

    def away(self, request: Request) -> None:
        """Nothing can be accepted now."""
        self.unavailable += 1
        request.answer(m.UNAVAILABLE, told("暂时无法接收，请稍后重试", "nothing can be accepted now; try again later"), LATER)

    def heard(self, request: Request, device: DeviceIdentity) -> bool:
        """Remember the message as the device's. False if it came before."""
        if device.device_id not in self.endpoint.recent:
            self.gateway.present(device, True)
        return not request.repeated(device.device_id)

    def _take(self, request: Request, device: DeviceIdentity, kind: str) -> None:
        if not self.heard(request, device):
            return
        code, payload, echo = self.endpoint.transfers.take(request)
        options = [(m.BLOCK1, echo)] if echo else []
        if code:
            if code == m.TOO_LARGE:
                most = self.gateway.config.max_packet
                payload = told("消息过大", "the message is too large", "payload", f"> {most}")
                options.append((m.SIZE1, m.uint(most)))
            request.answer(code, payload, *options)
            return
        content_format = request.message.uint(m.CONTENT_FORMAT)
        if content_format not in AS_JSON and content_format not in READ:
            request.answer(m.UNSUPPORTED_FORMAT, told("不支持的内容格式", "content format not read: 50, 60, 110, 112",
                                                      "Content-Format", content_format), *options)
            return
        ingestor = self.ingestor
        if ingestor.pressed or ingestor.failing:
            self.away(request)
            return
        size = len(payload) + ROOM
        if self._held.full(device.device_id):
            request.answer(m.TOO_MANY, told("该设备待写入的消息过多", "too much of this device waits to be stored"),
                           (m.MAX_AGE, m.uint(1)), *options)
            return
        meter = self.gateway.meters.by_org.get(device.org)
        if meter is not None and not meter.take(1, now := time.monotonic()):
            why = USED_UP if meter.shut else ("机构的消息配额已用尽", "the organisation's quota of messages is used up")
            request.answer(m.TOO_MANY, told(*why),
                           (m.MAX_AGE, m.uint(int(meter.retry_after(now)) + 1)), *options)
            return
        of, rules = self.gateway.class_of(device)
        at = ingestor.stamp(1)
        if content_format in AS_JSON:
            chunk = Chunk(kind, device.entity, of, rules, [payload], at)
        else:
            assert content_format is not None
            raw = kept([kind], content_format, payload, at)
            chunk = Chunk(self.name, device.entity, of, rules, [raw], at, False, kind, codec)
        self._held.add(device.device_id, size)
        ingestor.add(chunk, (request, options, device.device_id), size)

    # Called by the ingestor and the gateway

    def _released(self, items: list[Item]) -> None:
        for chunk, (request, options, device_id), size in items:
            self._held.release(device_id, size)
            refusal = self._refusals.pop(chunk.ts, None)
            if refusal is None:
                request.answer(m.CHANGED, b"", *options)
            else:
                request.answer(m.BAD_REQUEST, told(refusal.zh, refusal.en, refusal.field, refusal.value), *options)

    def _letter(self, letter: DeadLetter) -> None:
        """Something of a message was refused; its time of receipt, which is its alone, says which message it is."""
        self._refusals.setdefault(letter.ts, letter.refusal)

    def _press(self, on: bool) -> None:
        log.warning("coap: %s, %d bytes held", "refusing" if on else "accepting", self.ingestor.held)

    def changed(self, device_id: str) -> None:
        """A device changed. Its token is asked for with every message; what it observes may have to end."""
        self.observers.changed(device_id)

    def forget(self) -> None:
        """Changes may have been missed."""
        self.observers.changed("")

    def sweep(self) -> None:
        """Once a second: drop what is too old."""
        if self.gateway.tick % 10 == 0:
            self.endpoint.sweep()
            self.observers.sweep()

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and the state now."""
        counters, endpoint = self.ingestor.counters, self.endpoint
        return {
            "connections": len(self.connections), "devices": len(self.connections), "accepted": counters.accepted,
            "acked": counters.acked, "dead": counters.dead, "unknown": self.refused, "denied": 0,
            "broken": endpoint.broken, "stray": 0, "throttled": self.throttled, "timed_out": 0,
            "turned_away": self.dropped, "datagrams": endpoint.received_count, "repeats": endpoint.repeats,
            "unavailable": self.unavailable, "remembered": endpoint.recent.count, "blocks_held": endpoint.transfers.held,
            "observers": len(self.observers),
        }
