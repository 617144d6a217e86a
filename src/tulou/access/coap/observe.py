"""What devices read and observe over CoAP (RFC 7641): `GET /api/v1/{token}/attributes` and `/rpc`, the convention that
integrators know; `POST /api/v1/{token}/rpc/{number}` answers a command.

Law: an observed `/attributes` is what the device is to be and is not yet, so a newer notification stands for those before it
and a deletion leaves nothing to say. An observed `/rpc` is the next command, confirmable: the device has it when it
acknowledges, and the next goes out when it has answered, where an answer is wanted: a client may skip what is superseded (3.4).
Each notification waits for the one before it; a device that does not answer, or
answers with a reset, observes no more (4.5). Observers are few for each device, and are asked every hour whether they live.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import nats.errors
import orjson

from tulou.access.attributes import ASK, DELTA, names
from tulou.access.authenticate import DeviceIdentity
from tulou.access.coap import message as m
from tulou.access.coap.endpoint import Address, Holding, Lost, Request, told
from tulou.access.courier import JSON, Call, answer_of
from tulou.access.peer import HELD
from tulou.access.protocols import ANSWERED, DELIVERED
from tulou.kernel.errors import TooLarge

if TYPE_CHECKING:
    from tulou.access.coap.door import CoapDoor

log = logging.getLogger("tulou.coap")

OBSERVERS = 4
"""Observations of a device; of more the oldest ends."""
HOUR = 3600
"""Seconds that what was told is fresh (Max-Age), and after which a silent observer is asked whether it lives."""
PINGS = 100
"""Observers that are asked at a time."""
LARGEST = m.BLOCK
"""Bytes of a notification: one block."""
ROOM = 400

Key = tuple[Address, bytes]


class Observer:
    """One observation of a device: by its address and the token of its request (3.1)."""

    def __init__(self, observers: Observers, request: Request, device: DeviceIdentity, token: str) -> None:
        self.observers, self.device, self.token = observers, device, token
        self.endpoint, self.peer, self.key = request.endpoint, request.peer, (request.peer, request.message.token)
        self.entity = device.entity
        self.seen = time.monotonic()
        self.ended = False
        self._number = 1

    def options(self) -> list[tuple[int, bytes]]:
        """Of the next answer or notification; the numbers grow (3.4)."""
        self._number = self._number + 1 & 0xFFFFFF
        return [(m.OBSERVE, m.uint(self._number)), (m.CONTENT_FORMAT, m.uint(m.JSON)), (m.MAX_AGE, m.uint(HOUR))]

    async def notify(self, payload: bytes) -> None:
        """Tell the device, and wait until it has it. Raises `Lost`, and the observation has ended."""
        try:
            await self.endpoint.notify(self.peer, self.key[1], self.options(), payload)
        except Lost:
            self.observers.drop(self)
            raise
        self.heard()

    async def ping(self) -> None:
        """End the observation if the device does not answer."""
        try:
            await self.endpoint.ping(self.peer)
        except Lost:
            self.observers.drop(self)
        else:
            self.heard()

    def heard(self) -> None:
        self.seen = time.monotonic()
        self.observers.door.gateway.present(self.device, True)

    def begin(self) -> None:
        """Its first answer is being made."""

    def opened(self) -> None:
        """Its first answer was sent."""

    def end(self) -> None:
        """It observes no more."""


class AttributesObserver(Observer):
    """Wants to know what it is to be."""

    def __init__(self, observers: Observers, request: Request, device: DeviceIdentity, token: str) -> None:
        super().__init__(observers, request, device, token)
        self._changed, self._telling = False, True

    def begin(self) -> None:
        self.observers.door.gateway.attributes.watch(self, self.entity)

    def opened(self) -> None:
        self._telling = False
        if self._changed:
            self.told(b"", 0)

    def end(self) -> None:
        self.observers.door.gateway.attributes.leave(self, self.entity)

    def told(self, _change: bytes, _qos: int) -> None:
        """What it is to be has changed."""
        self._changed = True
        if not self._telling:
            self._telling = True
            self.observers.door.gateway.spawn(self._tell())

    async def _tell(self) -> None:
        try:
            while self._changed and not self.ended:
                self._changed = False
                payload = await self.observers.delta(self.entity)
                if len(payload) > LARGEST:
                    payload = b'{"error":"too large for a notification, read it"}'
                await self.notify(payload)
        except Lost:
            log.debug("%s observes no more", self.device.device_id)
        except (nats.errors.Error, TimeoutError, OSError):
            self._changed = True  # `Attributes.again` comes when the bus is back
        finally:
            self._telling = False


class CommandsObserver(Observer):
    """Takes commands, one at a time."""

    bearer = JSON

    def __init__(self, observers: Observers, request: Request, device: DeviceIdentity, token: str) -> None:
        super().__init__(observers, request, device, token)
        self.courier = observers.door.gateway.courier
        self._sending: Call | None = None
        self._answering: Call | None = None

    def opened(self) -> None:
        self.courier.ready(self)

    def end(self) -> None:
        sending, self._sending = self._sending, None
        self.courier.gone(self, [] if sending is None else [sending])

    def room(self) -> int:
        if self._answering is not None and self._answering.late:
            self._answering = None
        return 0 if self.ended or self._sending is not None or self._answering is not None else 1

    def deliver(self, call: Call) -> None:
        payload = b'{"id":%d,"method":%b,"params":%b}' % (call.no, orjson.dumps(call.method), call.params.encode())
        if len(payload) > LARGEST:
            raise TooLarge(f"命令 {len(payload)} 字节，一个 CoAP 通知至多 {LARGEST} 字节",
                           f"the command has {len(payload)} bytes, a notification of CoAP {LARGEST} at most")
        self._sending = call
        self._answering = call if call.answer else None
        self.observers.door.gateway.spawn(self._carry(call, payload))

    async def _carry(self, call: Call, payload: bytes) -> None:
        try:
            await self.notify(payload)
        except Lost:  # `end` has said so
            return
        if self._sending is call:
            self._sending = None
            self.courier.report(call.no, call.entity, DELIVERED)
            self.courier.want(self)

    def answered(self, no: int) -> None:
        """The device has answered a command."""
        if self._answering is not None and self._answering.no == no:
            self._answering = None
            self.courier.want(self)


KINDS: dict[str, type[Observer]] = {"attributes": AttributesObserver, "rpc": CommandsObserver}


class Observers:
    """The observations of one door, and what is read without observing."""

    def __init__(self, door: CoapDoor) -> None:
        self.door = door
        self._of: dict[str, OrderedDict[Key, Observer]] = {}
        self.held = Holding(HELD)

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    # Requests of recognised devices

    def get(self, request: Request, device: DeviceIdentity, token: str, kind: str) -> None:
        """Read, observe (Observe 0), or observe no more (Observe 1)."""
        if not self.door.heard(request, device):
            return
        observe, key = request.message.uint(m.OBSERVE), (request.peer, request.message.token)
        of = self._of.get(device.device_id, OrderedDict())
        observer = of.get(key)
        if observe == 0 and isinstance(observer, KINDS[kind]):  # it makes sure (3.3.1)
            self.door.gateway.spawn(self._answer(request, observer, kind))
            return
        if observer is not None:
            self.drop(observer)
        if observe != 0:
            self._read(request, device, kind)
            return
        observer = KINDS[kind](self, request, device, token)
        of = self._of.setdefault(device.device_id, OrderedDict())
        of[key] = observer
        if len(of) > OBSERVERS:
            self.drop(next(iter(of.values())))
        observer.begin()
        self.door.gateway.spawn(self._begin(request, observer, kind))

    async def _begin(self, request: Request, observer: Observer, kind: str) -> None:
        if await self._answer(request, observer, kind) and not observer.ended:
            observer.opened()

    async def _answer(self, request: Request, observer: Observer, kind: str) -> bool:
        """Answer what begins or renews an observation; whether it stands."""
        payload = b""
        if kind == "attributes":
            try:
                payload = await self.delta(observer.entity)
            except (nats.errors.Error, TimeoutError, OSError):
                self.drop(observer)
                self.door.away(request)
                return False
        if len(payload) > LARGEST:
            self.drop(observer)
            request.answer(m.TOO_LARGE, told("应告知的属性过大，请分项读取", "too much to tell at once; read it by name", "attributes", len(payload)))
            return False
        observer.seen = time.monotonic()
        request.answer(m.CONTENT, payload, *observer.options())
        return True

    def _read(self, request: Request, device: DeviceIdentity, kind: str) -> None:
        if kind != "attributes":
            request.answer(m.BAD_REQUEST, told("命令须带 Observe 订阅", "commands are observed: Observe is missing", "Observe"))
            return
        query: dict[str, str] = {}
        for part in request.message.texts(m.URI_QUERY):
            name, _, value = part.partition("=")
            query[name] = value
        asked = {"entity": device.entity, "client": names(query.get("clientKeys")), "shared": names(query.get("sharedKeys"))}
        self.door.gateway.spawn(self._values(request, asked, request.message.block(m.BLOCK2)))

    async def _values(self, request: Request, asked: dict[str, Any], block: m.Block | None) -> None:
        try:
            payload = (await self.door.gateway.bus.nc.request(ASK, orjson.dumps(asked), timeout=10)).data
        except (nats.errors.Error, TimeoutError, OSError):
            self.door.away(request)
            return
        options = [(m.CONTENT_FORMAT, m.uint(m.JSON))]
        if block is not None or len(payload) > m.BLOCK:
            block = block or m.Block(0, False, 6)
            at = block.number * block.size
            options.append((m.BLOCK2, m.Block(block.number, at + block.size < len(payload), block.szx).value()))
            if at and at >= len(payload):
                request.answer(m.BAD_REQUEST, told("没有此块", "there is no such block", "Block2", block.number))
                return
            payload = payload[at : at + block.size]
        request.answer(m.CONTENT, payload, *options)

    def answered(self, request: Request, device: DeviceIdentity, no: int) -> None:
        """The device's answer to a command; 2.04 when the report is durable."""
        if not self.door.heard(request, device):
            return
        code, payload, echo = self.door.endpoint.transfers.take(request)
        options = [(m.BLOCK1, echo)] if echo else []
        if code:
            request.answer(code, payload, *options)
            return
        size = len(payload) + ROOM
        if self.held.full(device.device_id):
            request.answer(m.TOO_MANY, told("该设备待记录的应答过多", "too many answers of this device wait"), (m.MAX_AGE, m.uint(1)), *options)
            return
        self.held.add(device.device_id, size)
        for observer in self._of.get(device.device_id, {}).values():
            if isinstance(observer, CommandsObserver):
                observer.answered(no)
        self.door.gateway.courier.report(
            no, device.entity, ANSWERED, receipt=(_Receipt(self, request, options, device.device_id), None, size), **answer_of(payload),
        )

    async def delta(self, entity: int) -> bytes:
        """What a device is to be and is not yet. Raises what the bus raises."""
        reply = await self.door.gateway.bus.nc.request(DELTA, orjson.dumps({"entities": [entity]}), timeout=10)
        return orjson.dumps(orjson.loads(reply.data).get(str(entity), {}))

    # Ends

    def drop(self, observer: Observer) -> None:
        """It observes no more."""
        if observer.ended:
            return
        observer.ended = True
        of = self._of.get(observer.device.device_id)
        if of is not None and of.get(observer.key) is observer:
            del of[observer.key]
            if not of:
                del self._of[observer.device.device_id]
        observer.end()

    def changed(self, device_id: str) -> None:
        """A device changed (empty: many): whose token counts no more observes no more."""
        which = [*self._of.get(device_id, {}).values()] if device_id else [one for of in self._of.values() for one in of.values()]
        if which:
            self.door.gateway.spawn(self._verify(which))

    async def _verify(self, which: list[Observer]) -> None:
        for observer in which:
            try:
                device = await self.door.gateway.authenticator.authenticate(observer.token)
            except Exception as error:
                log.warning("devices cannot be looked up: %r", error)
                return
            if not observer.ended and (device is None or device.entity != observer.entity):
                self.drop(observer)
                final = m.Message(m.NON, m.UNAUTHORIZED, observer.endpoint.next_id(), observer.key[1])
                observer.endpoint.send(final.encode(), observer.peer)

    def sweep(self) -> None:
        """Now and then: ask who was silent for an hour."""
        before = time.monotonic() - HOUR
        silent = [one for of in self._of.values() for one in of.values() if one.seen < before][:PINGS]
        for observer in silent:
            observer.seen = time.monotonic()
            self.door.gateway.spawn(observer.ping())

    def close(self) -> None:
        for of in list(self._of.values()):
            for observer in list(of.values()):
                self.drop(observer)


class _Receipt:
    """What the courier gives back when an answer is durable; as a connection's."""

    def __init__(self, observers: Observers, request: Request, options: list[tuple[int, bytes]], device_id: str) -> None:
        self._observers, self._request, self._options, self._device_id = observers, request, options, device_id

    def release(self, size: int) -> None:
        self._observers.held.release(self._device_id, size)

    def acknowledge(self, _run: Any) -> None:
        self._request.answer(m.CHANGED, b"", *self._options)
