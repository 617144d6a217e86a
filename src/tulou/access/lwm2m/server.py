"""The LwM2M server of the gateway (V1_0 and V1_1): registrations at `/rd`, observation, and requests of people.

Law: a device is found by its endpoint name, an identity of the protocol `lwm2m`; without DTLS there is no other proof, so
this belongs into closed networks. A notification is acknowledged after what it says is synced in JetStream. One request
at a time goes to a device; one that sleeps (queue mode) is asked after its next update. Registrations live in memory: after a restart of the
gateway an update is answered 4.04, on which a client registers again (V1_0, 5.3.2).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from tulou.access.authenticate import Identities, Speaker
from tulou.access.coap import Unreadable
from tulou.access.coap import message as m
from tulou.access.coap.door import CoapDoor
from tulou.access.coap.endpoint import Address, Lost, Observation, Request, diagnosis, told
from tulou.access.coap.message import Message
from tulou.access.coap.payload import kept
from tulou.access.courier import RETURNED, Call
from tulou.access.ingest import Ingestor, Item
from tulou.access.lwm2m import content, links, objects
from tulou.access.lwm2m.kept import codec
from tulou.access.peer import HELD
from tulou.access.protocols import ANSWERED, REFUSED
from tulou.access.telemetry import Chunk

if TYPE_CHECKING:
    from tulou.access.gateway import Gateway

log = logging.getLogger("tulou.lwm2m")

VERSIONS = frozenset({"1.0", "1.1"})
LIFETIME = 86400
"""Seconds of a registration that does not say (V1_0, 5.3.1)."""
GRACE = 10
"""Seconds that an update may be late."""
AWAKE = 60.0
"""Seconds for which a device of queue mode listens after it spoke (V1_0, 8.3; MAX_TRANSMIT_WAIT is 93)."""
OBSERVED = 100
"""Paths that are observed of one device."""
WAITING = 20
"""Requests of people that may wait for one device."""
AT_ONCE = 200
"""Devices that observations are being set up with at the same time."""
ROOM = 400
WHO, ASK = "tulou.lwm2m.who", "tulou.lwm2m.ask"
FORMATS = (m.TLV, m.SENML_CBOR, m.SENML_JSON, m.LWM2M_JSON)
"""Formats to write in, in the order of preference."""


@dataclass(slots=True, eq=False)
class Registration:
    """A device that is registered."""

    id: str
    endpoint: str
    speaker: Speaker
    peer: Address
    version: str
    lifetime: int
    queue: bool
    paths: list[content.Path]
    formats: frozenset[int]
    seen: int
    observations: dict[content.Path, Observation] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    spoke: asyncio.Event = field(default_factory=asyncio.Event)
    awake_until: float = 0.0
    waiting: int = 0
    held: int = 0
    gone: bool = False
    watching: bool = False
    target: Lwm2mTarget | None = None

    def document(self) -> dict[str, Any]:
        """As people see it."""
        return {
            "endpoint": self.endpoint, "version": self.version, "lifetime": self.lifetime, "queue_mode": self.queue,
            "paths": [content.text_of(path) for path in self.paths],
            "observed": [content.text_of(path) for path in self.observations],
        }

    @property
    def writes(self) -> int:
        """The content format to write in: TLV unless the device announced others."""
        return next((one for one in FORMATS if one in self.formats), m.TLV) if self.formats else m.TLV


class Lwm2mTarget:
    """A registered device that takes commands, one at a time; one that sleeps takes them when it is awake."""

    def __init__(self, door: Lwm2mDoor, registration: Registration) -> None:
        self.door, self.registration = door, registration
        self.entity, self.bearer = registration.speaker.device.entity, door.name
        self.busy: Call | None = None

    def room(self) -> int:
        return 0 if self.busy is not None or self.registration.gone else 1

    def deliver(self, call: Call) -> None:
        self.busy = call
        self.door.gateway.spawn(self._carry_out(call))

    async def _carry_out(self, call: Call) -> None:
        courier = self.door.gateway.courier
        question = {"device": self.registration.speaker.device.device_id, "op": call.method, **orjson.loads(call.params)}
        try:
            answer = await self.door.ask({**question, "wait": max(0.0, call.expires / 1000 - time.time())})
        except Lost:  # it may have come, or not
            courier.report(call.no, call.entity, RETURNED, attempt=call.attempt)
        except Unreadable as error:
            courier.report(call.no, call.entity, REFUSED, error=f"{error.refusal.zh} ({error.refusal.en})")
        else:
            if answer["code"].startswith("2."):
                courier.report(call.no, call.entity, ANSWERED, result=orjson.dumps(answer.get("values", {})).decode())
            else:
                courier.report(call.no, call.entity, REFUSED, error=f"{answer['code']} {answer['told']}".strip())
        finally:
            self.busy = None
            courier.want(self)


class Lwm2mDoor:
    """Registrations and what is asked of them, at the socket of the CoAP door."""

    name = codec.name

    def __init__(self, gateway: Gateway, coap: CoapDoor, identities: Identities) -> None:
        self.gateway, self.coap, self.identities = gateway, coap, identities
        self.endpoint = coap.endpoint
        coap.branches["rd"] = self
        self.ports: list[int] = []
        self.registrations: dict[str, Registration] = {}
        self.of_device: dict[str, Registration] = {}
        self.unknown = self.registered = self.notified = self.unfit = 0
        self.ingestor: Ingestor
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._subscriptions: list[Any] = []

    @property
    def connections(self) -> Collection[Any]:
        """The devices that are registered."""
        return self.registrations

    async def start(self) -> None:
        """Take registrations, and questions from the bus."""
        config, bus = self.gateway.config, self.gateway.bus
        self.ingestor = Ingestor(
            bus.nc, bus.js, name=f"{config.name}-{self.name}", protocol=self.name, released=self._released,
            pressure=lambda on: None, high=config.high,
        )
        self.ports = list(self.coap.ports)
        self._subscriptions = [
            await bus.nc.subscribe(WHO, cb=self._who), await bus.nc.subscribe(f"{ASK}.{config.name}", cb=self._asked),
        ]

    async def close(self) -> None:
        """Make durable and acknowledge what was taken."""
        for subscription in self._subscriptions:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()
        await self.ingestor.close()

    # Registration (V1_0, 5.3 and 8.2.3)

    def serve(self, request: Request) -> None:
        """A request at `/rd`."""
        code, path = request.message.code, request.path
        if len(path) == 1 and code == m.POST:
            self._register(request)
        elif len(path) == 2 and code in (m.POST, m.PUT, m.DELETE):
            registration = self.registrations.get(path[1])
            if registration is None:
                request.answer(m.NOT_FOUND, told("没有此注册，请重新注册", "no such registration; register again", "location", path[1][:40]))
            elif not request.repeated(registration.speaker.device.device_id):
                if code == m.DELETE:
                    self.drop(registration)
                    request.answer(m.DELETED)
                else:
                    self._update(request, registration)
        else:
            request.answer(m.NOT_ALLOWED if len(path) <= 2 else m.NOT_FOUND)

    def _register(self, request: Request) -> None:
        query = _query(request.message)
        endpoint = query.get("ep", "").encode()
        if not 1 <= len(endpoint) <= 64:
            raise Unreadable("endpoint", "缺少端点名 ep，或超过 64 字节", "the endpoint name ep is missing or longer than 64 bytes", "ep")
        speaker = self.identities.known(endpoint)
        if speaker is not None:
            self._accept(request, speaker, query)
        elif self.identities.stranger(endpoint):
            self._refuse(request)
        elif self.coap.may_ask(request):
            self.gateway.spawn(self._look(request, endpoint, query))

    async def _look(self, request: Request, endpoint: bytes, query: dict[str, str]) -> None:
        try:
            speaker = await self.identities.find(endpoint)
        except Exception as error:
            log.warning("devices cannot be looked up: %r", error)
            self.coap.away(request)
            return
        finally:
            self.coap.asked(request)
        if speaker is None:
            self.coap.throttle.failed(str(request.peer[0]))
            self._refuse(request)
            return
        try:
            self._accept(request, speaker, query)
        except Unreadable as error:
            request.answer(m.BAD_REQUEST, diagnosis(error))

    def _refuse(self, request: Request) -> None:
        self.unknown += 1
        request.answer(m.FORBIDDEN, told("没有设备登记此端点名", "no active device has this endpoint name", "ep"))

    def _accept(self, request: Request, speaker: Speaker, query: dict[str, str]) -> None:
        device = speaker.device
        if request.repeated(device.device_id):
            return
        version = query.get("lwm2m", "1.0")
        if version not in VERSIONS:
            request.answer(m.PRECONDITION_FAILED, told("版本须为 1.0 或 1.1", "the version is 1.0 or 1.1", "lwm2m", version[:20]))
            return
        lifetime, queue = _lifetime(query.get("lt"), LIFETIME), "Q" in query.get("b", "U") or "Q" in query
        code, payload, echo = self.endpoint.transfers.take(request)
        options = [(m.BLOCK1, echo)] if echo else []
        if code:
            request.answer(code, payload, *options)
            return
        paths, formats = _announced(payload)
        before = self.of_device.get(device.device_id)
        if before is not None:
            self.drop(before)
        made = Registration(
            secrets.token_urlsafe(9), query["ep"], speaker, request.peer, version, lifetime, queue, paths, formats,
            self.gateway.tick,
        )
        self.registrations[made.id] = self.of_device[device.device_id] = made
        self.registered += 1
        self.gateway.present(device, True)
        made.target = Lwm2mTarget(self, made)
        self.gateway.courier.ready(made.target)
        request.answer(m.CREATED, b"", *m.path_options(("rd", made.id), m.LOCATION_PATH), *options)
        self._heard(made)

    def _update(self, request: Request, registration: Registration) -> None:
        query = _query(request.message)
        registration.lifetime = _lifetime(query.get("lt"), registration.lifetime)
        if "b" in query or "Q" in query:
            registration.queue = "Q" in query.get("b", "") or "Q" in query
        if request.message.payload:
            registration.paths, registration.formats = _announced(request.message.payload)
        if request.peer != registration.peer:  # another address: observations are of the old one (RFC 7641, 1.4)
            self._unwatch(registration)
            registration.peer = request.peer
        self.gateway.present(registration.speaker.device, True)
        request.answer(m.CHANGED)
        self._heard(registration)

    def _heard(self, registration: Registration) -> None:
        """The device spoke: it is awake, and what is missing of its observations is asked for."""
        registration.seen = self.gateway.tick
        registration.awake_until = asyncio.get_running_loop().time() + AWAKE
        registration.spoke.set()
        if not registration.watching:
            registration.watching = True
            self.gateway.spawn(self._watch(registration))

    def drop(self, registration: Registration) -> None:
        """End a registration; what it observes is forgotten."""
        registration.gone = True
        registration.spoke.set()
        if registration.target is not None:
            self.gateway.courier.gone(registration.target, ())
        self._unwatch(registration)
        self.registrations.pop(registration.id, None)
        device = registration.speaker.device
        if self.of_device.get(device.device_id) is registration:
            del self.of_device[device.device_id]
            self.gateway.present(device, False)

    def _unwatch(self, registration: Registration) -> None:
        for observation in registration.observations.values():
            self.endpoint.unobserve(observation)
        registration.observations.clear()

    # Observation (V1_0, 5.5)

    def wanted(self, registration: Registration) -> list[content.Path]:
        """What is observed of a device: the resources that its model maps, else instances with numeric resources."""
        mapped = self._mapping(registration)
        if mapped:
            here = {path[:2] for path in registration.paths}
            return [path for path in map(content.path_of, mapped) if path[:2] in here][:OBSERVED]
        return [path for path in registration.paths if objects.observed(path)][:OBSERVED]

    def _mapping(self, registration: Registration) -> dict[str, str]:
        found: dict[str, str] = self.gateway.kinds.get(registration.speaker.of[1], {}).get("lwm2m", {})
        return found

    async def _watch(self, registration: Registration) -> None:
        try:
            async with self._at_once:
                for path in self.wanted(registration):
                    if registration.gone:
                        return
                    if path not in registration.observations:
                        async with registration.lock:
                            await self._observe(registration, path)
        except (Lost, Unreadable) as error:
            log.debug("%s is not observed: %s", registration.endpoint, error)
        finally:
            registration.watching = False

    async def _observe(self, registration: Registration, path: content.Path) -> Message:
        """Observe a path; its first value is a reading. Raises `Lost`."""
        def take(observation: Observation, message: Message) -> None:
            self._notified(registration, path, observation, message)

        observation = Observation(registration.peer, tuple(map(str, path)), take)
        answer = await self.endpoint.observe(observation)
        if answer.code == m.CONTENT:
            if answer.uint(m.OBSERVE) is not None:
                if registration.gone:
                    self.endpoint.unobserve(observation)
                else:
                    registration.observations[path] = observation
            self._hand_in(registration, path, answer, None)
        return answer

    def _notified(
        self, registration: Registration, path: content.Path, observation: Observation, message: Message
    ) -> None:
        """A notification: stored, then acknowledged."""
        key = (registration.peer, message.id)
        owner = registration.speaker.device.device_id
        before = self.endpoint.recent.get(owner, key)
        if before is not None:
            self.endpoint.repeats += 1
            if before:
                self.endpoint.send(before, registration.peer)
            return
        if message.code != m.CONTENT:  # it ends so (RFC 7641, 4.2)
            registration.observations.pop(path, None)
            self.endpoint.unobserve(observation)
            self.endpoint.received(message, registration.peer)
            return
        if self.ingestor.pressed or self.ingestor.failing or registration.held > HELD:
            return  # not acknowledged: it comes again
        self.endpoint.recent.put(owner, key, b"")
        registration.seen = self.gateway.tick
        registration.awake_until = asyncio.get_running_loop().time() + AWAKE
        self.notified += 1
        block = message.block(m.BLOCK2)
        if block is not None and block.more:
            self.gateway.spawn(self._rest(registration, path, message))
        else:
            self._hand_in(registration, path, message, message)

    async def _rest(self, registration: Registration, path: content.Path, message: Message) -> None:
        """The further blocks of a notification (RFC 7959, 2.6)."""
        with contextlib.suppress(Lost, Unreadable):
            async with registration.lock:
                whole = await self.endpoint.rest(registration.peer, list(map(str, path)), message)
            self._hand_in(registration, path, whole, message)

    def _hand_in(self, registration: Registration, path: content.Path, message: Message, notice: Message | None) -> None:
        """Give what a device said to the ingestor; `notice` is acknowledged when it is durable, and never if no more may be stored."""
        speaker, at = registration.speaker, self.ingestor.stamp(1)
        meter = self.gateway.meters.by_org.get(speaker.device.org)
        if meter is not None:
            if meter.refuses(1):
                return
            meter.owe(1, time.monotonic())
        named = [f"as={name}={where}" for where, name in self._mapping(registration).items()
                 if content.path_of(where)[: len(path)] == path]
        said = message.uint(m.CONTENT_FORMAT)
        raw = kept([str(part) for part in path], m.TEXT if said is None else said, message.payload, at, f"ep={registration.endpoint}",
                   *named)
        size = len(raw) + ROOM
        registration.held += size
        self.ingestor.add(
            Chunk(self.name, speaker.device.entity, speaker.of, speaker.rules, [raw], at, False, self.name, codec),
            (registration, notice), size,
        )

    def _released(self, items: list[Item]) -> None:
        for _, (registration, notice), size in items:
            registration.held -= size
            if notice is not None and notice.kind == m.CON:
                data = Message(m.ACK, 0, notice.id).encode()
                self.endpoint.recent.put(registration.speaker.device.device_id, (registration.peer, notice.id), data)
                self.endpoint.send(data, registration.peer)

    # Requests of people

    async def _who(self, question: Any) -> None:
        """Which gateway has the device? It answers; the others are silent."""
        if question.data.decode() in self.of_device:
            await question.respond(self.gateway.config.name.encode())

    async def _asked(self, question: Any) -> None:
        self.gateway.spawn(self._answer(question))

    async def _answer(self, question: Any) -> None:
        try:
            answer = await self.ask(orjson.loads(question.data))
        except Unreadable as error:
            r = error.refusal
            answer = {"error": "invalid", "zh": r.zh, "en": r.en, "field": r.field, "rule": r.rule}
        except Lost as error:
            answer = {"error": "away", "zh": "设备没有应答", "en": str(error)}
        except Exception:
            log.exception("defect in a request to a device")
            answer = {"error": "defect", "zh": "内部错误", "en": "internal error"}
        with contextlib.suppress(Exception):
            await question.respond(orjson.dumps(answer))

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Carry out `{device, op, path, value?, wait}`; op is state, read, write, execute, observe or cancel. Raises
        `Lost`, `Unreadable`."""
        registration = self.of_device.get(question["device"])
        if registration is None:
            raise Lost("the device is not registered")
        op, path = question["op"], content.path_of(question.get("path", ""))
        if op == "state":
            return {"state": registration.document()}
        payload, options, code = b"", [], m.GET
        if op == "write":
            form = registration.writes
            code, payload = m.PUT if len(path) >= 3 else m.POST, content.encode(path, question["value"], form)
            options = [(m.CONTENT_FORMAT, m.uint(form))]
        elif op == "execute":
            code, payload = m.POST, str(question.get("value") or "").encode()
            if len(path) != 3:
                raise Unreadable("path", "只有资源可执行", "only a resource can be executed", "path", content.text_of(path))
        async with self._turn(registration, float(question.get("wait", 30))):
            if op == "observe":
                answer = await self._observe_anew(registration, path)
            elif op == "cancel":
                observation = registration.observations.pop(path, None)
                if observation is None:
                    raise Unreadable("observed", "此路径未被观察", "this path is not observed", "path", content.text_of(path))
                self.endpoint.unobserve(observation)
                answer = await self.endpoint.request(registration.peer, m.GET, observation.path, options=[(m.OBSERVE, b"\1")],
                                                     token=observation.token)
            else:
                answer = await self.endpoint.request(registration.peer, code, list(map(str, path)), options=options, payload=payload)
        if answer.code == m.CONTENT:
            nodes = content.decode(path, answer.uint(m.CONTENT_FORMAT), answer.payload)
            return {"code": m.code_text(answer.code), "values": {content.text_of(node.path): _shown(node.value) for node in nodes}}
        return {"code": m.code_text(answer.code), "told": answer.payload[:200].decode("utf-8", "replace")}

    async def _observe_anew(self, registration: Registration, path: content.Path) -> Message:
        if len(registration.observations) >= OBSERVED and path not in registration.observations:
            raise Unreadable("observed", f"已观察 {OBSERVED} 个路径", f"{OBSERVED} paths are observed already", "path")
        before = registration.observations.pop(path, None)
        if before is not None:
            self.endpoint.unobserve(before)
        return await self._observe(registration, path)

    @asynccontextmanager
    async def _turn(self, registration: Registration, wait: float) -> AsyncIterator[None]:
        """Wait, up to `wait` seconds, until the device listens and no other request goes to it."""
        if registration.waiting >= WAITING:
            raise Lost(f"{WAITING} requests wait for this device already")
        registration.waiting += 1
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(wait):
                await registration.lock.acquire()
                try:
                    while registration.queue and loop.time() > registration.awake_until and not registration.gone:
                        registration.spoke.clear()
                        await registration.spoke.wait()
                except BaseException:
                    registration.lock.release()
                    raise
        except TimeoutError:
            raise Lost("the device sleeps, or is busy") from None
        finally:
            registration.waiting -= 1
        try:
            if registration.gone:
                raise Lost("the device is not registered any more")
            yield
        finally:
            registration.lock.release()

    # Upkeep

    def changed(self, device_id: str) -> None:
        """A device changed (empty: many): its registration ends, and it may register again if it still may."""
        self.identities.forget(device_id)
        which = [self.of_device.get(device_id)] if device_id else list(self.of_device.values())
        for registration in which:
            if registration is not None:
                self.drop(registration)

    def forget(self) -> None:
        """Changes may have been missed: look every device up again when it registers."""
        self.identities.forget("")

    def sweep(self) -> None:
        """Once a second: end the registrations whose lifetime is over (V1_0, 5.3.1)."""
        tick = self.gateway.tick
        for registration in [r for r in self.registrations.values() if tick - r.seen > r.lifetime + GRACE]:
            self.drop(registration)

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and the state now."""
        counters = self.ingestor.counters
        return {
            "connections": len(self.registrations), "devices": len(self.registrations), "accepted": counters.accepted,
            "acked": counters.acked, "dead": counters.dead, "unknown": self.unknown, "denied": 0, "broken": 0, "stray": 0,
            "throttled": 0, "timed_out": 0, "turned_away": 0, "registered": self.registered, "notified": self.notified,
            "observed": sum(len(r.observations) for r in self.registrations.values()),
        }


def _query(message: Message) -> dict[str, str]:
    """Uri-Query as names and values; a name alone has an empty value."""
    found = {}
    for text in message.texts(m.URI_QUERY):
        name, _, value = text.partition("=")
        found[name] = value
    return found


def _lifetime(text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    if not (text.isdecimal() and text.isascii() and len(text) <= 10 and int(text) > 0):
        raise Unreadable("lifetime", "lt 须为正整数秒", "lt is a positive number of seconds", "lt", text[:20])
    return int(text)


def _announced(payload: bytes) -> tuple[list[content.Path], frozenset[int]]:
    """The instances (and objects without) that links announce below the root path, and the content formats. Raises `Unreadable`."""
    paths: list[content.Path] = []
    formats, root = frozenset[int](), ""
    found = links.decode(payload)
    for link in found:
        if link.attributes.get("rt") == "oma.lwm2m":
            root = link.target.rstrip("/")
            formats = frozenset(int(one) for one in link.attributes.get("ct", "").split() if one.isdecimal() and len(one) < 6)
    for link in found:
        if root and link.target.startswith(root + "/"):
            link.target = link.target.removeprefix(root)
        path = link.path
        if path is not None:
            paths.append(path[:2])
    return paths, formats


def _shown(value: content.Value) -> float | str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
