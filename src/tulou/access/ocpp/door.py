"""The OCPP door: charging stations over WebSocket (RFC 6455) at `/ocpp/<identity>`, by OCPP-J 1.6 and 2.0.1.

Law: who comes in has proved who it is: HTTP Basic, the user name its identity, the password that of the identity or, where none is
set, the device's access token (security profile 1; over TLS 2). A message that says something is answered when the batch
that carries it is durable; heartbeats and cards at once. Messages of a station are served in their order. One call of the house at a
time is under way at a station, until it answers or `ANSWER` seconds have passed.

What a stranger can cost is bounded: `HEAD` bytes and `connect_timeout` seconds before he is known, a look-up for each of his address's
attempts. What a station can cost too: `LONGEST` bytes a message, 30 s to end it, letters for 20 bad messages in a row. One that is
silent beyond its heartbeat is asked by a ping and closed. An identity has one connection: a new one ends the one before, which may be half-open.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import http
import logging
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import nats.errors
import orjson
from websockets.datastructures import MultipleValuesError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from tulou.access.authenticate import Identities, Speaker, Throttle
from tulou.access.courier import LARGEST_ANSWER
from tulou.access.courier import Call as Command
from tulou.access.ingest import Ingestor, Item
from tulou.access.ocpp import ASK, schemas
from tulou.access.peer import AUTH, PRESSURE, WRITE, Peer, press
from tulou.access.protocols import ANSWERED, DENIED, REFUSED, UNKNOWN
from tulou.access.protocols import ocpp as m
from tulou.access.quotas.meters import USED_UP
from tulou.access.telemetry import Chunk, Refusal
from tulou.kernel.errors import Invalid

if TYPE_CHECKING:
    from tulou.access.gateway import Gateway

log = logging.getLogger("tulou.gateway")
_wire = logging.getLogger("tulou.gateway.websocket")
_wire.setLevel(logging.WARNING)  # below it the library logs headers, and so passwords

PATH = re.compile(r"/ocpp/([^/?#]+)/?(?:[?#].*)?")
HEAD = 16 << 10
"""Bytes of a handshake."""
LONGEST = 64 << 10
"""Bytes of a message. The longest that the standard's schemas are known to need, a report in parts, has some ten thousand."""
ROOM = 200
"""Bytes that a message holds beside its text while it waits."""
UNFINISHED = 30
ANSWER = 30
"""Seconds after which a call of the house counts as not answered, and for which the house is asked about a transaction."""
HEARTBEAT, LEAST, MOST = 200, 10, 3600
"""Seconds between heartbeats: where the model says nothing, at least, and at most."""
GRACE = 30
"""Seconds beyond the heartbeat after which a silent station is asked by a ping, and then for its pong."""
POLICY, RESTART, LATER, UNSUPPORTED, PROTOCOL = 1008, 1012, 1013, 1003, 1002
"""Codes of a closing WebSocket (RFC 6455, 7.4.1, and its registry)."""
ASKED = frozenset({"Authorize", "StartTransaction", "StopTransaction", "TransactionEvent"})
PLACES = 64
"""Transactions of a connection whose EVSE is remembered."""


def _subprotocol(_protocol: ServerProtocol, offered: Any) -> Subprotocol | None:
    """The preferred one of those that are offered; without one the handshake is completed, then closed (1.6J, 3.2; 2.0.1 part 4, 3.2)."""
    return next((Subprotocol(name) for name in m.SUBPROTOCOLS if name in offered), None)


def _extensions() -> list[ServerPerMessageDeflateFactory]:
    """Compression (2.0.1 part 4, 3.4) with windows of 4 KiB, so that it costs a station some tens of KiB."""
    return [ServerPerMessageDeflateFactory(server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5})]


class Target:
    """A station that takes commands."""

    __slots__ = ("bearer", "call", "connection", "entity", "id", "since")

    def __init__(self, connection: OcppConnection, entity: int) -> None:
        self.connection, self.entity = connection, entity
        self.bearer = m.codec.name
        self.call: Command | None = None
        self.id = ""
        self.since = 0

    def room(self) -> int:
        return int(self.call is None and self.connection.open and not self.connection.reasons & WRITE)

    def deliver(self, call: Command) -> None:
        connection, method = self.connection, call.method
        version, params = connection.version, orjson.loads(call.params)
        if method not in m.TOLD or not schemas.known(version, method):
            raise Invalid(f"此桩使用 OCPP {version}，没有 {method}", f"the station speaks OCPP {version}, which has no {method}", field="method",
                          value=method, rule=f"OCPP {version}")
        refusal = m.refusal_of(method, params, version)
        if refusal is not None:
            raise Invalid(refusal.zh, refusal.en, field=refusal.field, rule=refusal.rule)
        self.call, self.id, self.since = call, f"{call.no}.{call.attempt}", connection.clock.tick
        connection.say(m.call_frame(self.id, method, params))

    def answered(self, outcome: m.Outcome) -> None:
        """The station answered something."""
        call = self.call
        if call is None or outcome.id != self.id:
            return
        result = orjson.dumps(outcome.payload)
        error = outcome.error or m.outcome_of(outcome.payload)
        if len(result) > LARGEST_ANSWER:
            result, error = b"null", f"应答超过 {LARGEST_ANSWER} 字节 (the answer has more than {LARGEST_ANSWER} bytes)"
        self._ended(call, REFUSED if error else ANSWERED, result=result.decode(), **({"error": error} if error else {}))

    def late(self) -> None:
        """It did not answer in time; whether it did it is not known, and it is not told again."""
        if self.call is not None and self.connection.clock.tick - self.since > ANSWER:
            self._ended(self.call, REFUSED, error=f"{ANSWER} 秒内未答复，不知是否执行 (no answer within {ANSWER} s; unknown whether it was done)")

    def _ended(self, call: Command, what: str, **more: Any) -> None:
        courier = self.connection.door.gateway.courier
        courier.report(call.no, call.entity, what, **more)
        self.call = None
        courier.want(self)

    def end(self) -> None:
        """The connection ends."""
        self.connection.door.gateway.courier.gone(self, [self.call] if self.call is not None else [])
        self.call = None


class OcppConnection(Peer):
    """One connection. States: its handshake comes; it is being asked who it is; serving; closed."""

    __slots__ = ("asking", "begun", "credential", "door", "head", "identity", "partial", "pinged", "places", "protocol", "since", "speaker",
                 "target", "version", "waiting")

    def __init__(self, door: OcppDoor) -> None:
        super().__init__(door.gateway)
        self.door = door
        self.protocol: ServerProtocol | None = ServerProtocol(
            subprotocols=[Subprotocol(name) for name in m.SUBPROTOCOLS], select_subprotocol=_subprotocol, extensions=_extensions(),
            max_size=LONGEST, logger=_wire,
        )
        self.head: bytearray | None = bytearray()
        self.since = door.gateway.tick
        self.identity = ""
        self.version = ""
        self.speaker: Speaker | None = None
        self.target: Target | None = None
        self.partial: bytearray | None = None
        self.waiting: list[bytes] | None = None
        self.places: dict[str, int] = {}
        self.begun = self.pinged = 0

    @property
    def open(self) -> bool:
        """Whether messages are served."""
        return self.target is not None and self.protocol is not None and self.protocol.state is State.OPEN

    # What uvloop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.door.arrived(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = self.protocol = self.head = self.partial = self.waiting = None
        self.door.left(self)

    def eof_received(self) -> None:
        self.close("the station leaves")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.target is not None:
            self.door.gateway.courier.want(self.target)

    def data_received(self, data: bytes) -> None:
        if self.protocol is None:
            return
        if self.head is not None:
            self._handshake(data)
            return
        self.seen, self.pinged = self.clock.tick, 0
        self.protocol.receive_data(data)
        texts = self._texts()
        self._flush()
        if self.protocol is None:
            return
        if not self.protocol.reader.buffer and self.partial is None:
            self.begun = 0
        elif texts or not self.begun:
            self.begun = self.clock.tick + 1
        if self.waiting is not None:
            self.waiting += texts
        elif texts:
            self.take(texts)

    # The handshake

    def _handshake(self, data: bytes) -> None:
        """Collect the request; nothing may follow it before it is answered."""
        head, protocol = self.head, self.protocol
        assert head is not None
        assert protocol is not None
        looked = max(0, len(head) - 3)
        head += data
        end = head.find(b"\r\n\r\n", looked)
        if end < 0 and len(head) <= HEAD:
            return
        self.head = None
        if end < 0 or end + 4 != len(head) or end > HEAD:
            self.door.broken += 1
            self.close("not a handshake")
            return
        protocol.receive_data(bytes(head))
        request = next((event for event in protocol.events_received() if isinstance(event, Request)), None)
        if request is None:  # the library has answered what can be answered
            self.door.broken += 1
            self._flush()
            self.close("not a handshake")
            return
        self._recognise(request)

    def _recognise(self, request: Request) -> None:
        door = self.door
        found = PATH.fullmatch(request.path)
        identity = unquote(found[1]) if found else ""
        if not m.IDENTITY.fullmatch(identity):
            self._reject(404, "ws://host:port/ocpp/<identity>")
            return
        self.identity = identity
        credential = _credential(request, identity)
        if credential is None:
            door.refused[DENIED] += 1
            self._reject(401, "HTTP Basic: the identity and its password")
            return
        speaker = door.identities.known(identity.encode())
        if speaker is not None and door.proves(speaker, credential):
            self._welcome(request, speaker)
            return
        wait = door.throttle.wait(self.peer)
        if wait > 0:
            door.throttled += 1
            self._reject(429, "too many failed attempts from this address", **{"Retry-After": str(int(wait) + 1)})
        elif door.identities.stranger(identity.encode()):
            self._deny(UNKNOWN)
        else:
            self.pause(AUTH)
            door.gateway.spawn(self._ask(request, credential))

    async def _ask(self, request: Request, credential: bytes) -> None:
        """Look up the device and check its password."""
        door = self.door
        try:
            speaker = await door.identities.find(self.identity.encode())
            right = speaker is not None and await door.check(speaker, credential)
        except Exception as error:
            log.warning("devices cannot be looked up: %r", error)
            self._reject(503, "devices cannot be looked up now")
            return
        if self.protocol is None:
            return
        self.resume(AUTH)
        if speaker is None or not right:
            door.throttle.failed(self.peer)
            self._deny(UNKNOWN if speaker is None else DENIED)
        else:
            self._welcome(request, speaker)

    def _deny(self, why: str) -> None:
        self.door.refused[why] += 1
        self._reject(401, "unknown identity or wrong password")

    def _reject(self, status: int, why: str, **headers: str) -> None:
        if self.protocol is None:
            return
        response = self.protocol.reject(http.HTTPStatus(status), f"{why}\n")
        if status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="ocpp"'
        for name, value in headers.items():
            response.headers[name] = value
        self.protocol.send_response(response)
        self._flush()
        self.close(why)

    def _welcome(self, request: Request, speaker: Speaker) -> None:
        protocol = self.protocol
        assert protocol is not None
        response = protocol.accept(request)
        protocol.send_response(response)
        self._flush()
        if response.status_code != 101:
            self.door.broken += 1
            self.close("not a WebSocket")
        elif protocol.subprotocol is None:
            self.close("neither ocpp1.6 nor ocpp2.0.1", PROTOCOL)
        else:
            self.version = m.SUBPROTOCOLS[protocol.subprotocol]
            self.speaker = speaker
            self.seen = self.clock.tick
            self.target = Target(self, speaker.device.entity)
            self.door.welcomed(self)
            self.door.gateway.courier.ready(self.target)

    # Messages

    def _texts(self) -> list[bytes]:
        """The messages that are complete."""
        protocol = self.protocol
        assert protocol is not None
        texts: list[bytes] = []
        for event in protocol.events_received():
            if not isinstance(event, Frame):
                continue
            if event.opcode is Opcode.TEXT:
                if event.fin:
                    texts.append(bytes(event.data))
                else:
                    self.partial = bytearray(event.data)
            elif event.opcode is Opcode.CONT and self.partial is not None:
                self.partial += event.data
                if event.fin:
                    texts.append(bytes(self.partial))
                    self.partial = None
            elif event.opcode is Opcode.BINARY and protocol.state is State.OPEN:
                self.door.broken += 1
                protocol.fail(UNSUPPORTED, "OCPP-J is text")
        return texts

    def take(self, texts: list[bytes]) -> None:
        """Serve messages in their order; wait where the house must be asked."""
        for number, text in enumerate(texts):
            if not self.open:
                return
            one = m.read(text, self.version)
            if isinstance(one, m.Fault):
                self._fault(text, one)
            elif isinstance(one, m.Outcome):
                assert self.target is not None
                self.target.answered(one)
            elif one is not None:
                assert self.speaker is not None
                self.door.gateway.present(self.speaker.device, True)
                if one.action in ASKED and self._must_ask(one):
                    self.waiting = texts[number + 1 :]
                    self.pause(AUTH)
                    self.door.gateway.spawn(self._consult(text, one))
                    return
                self._serve(text, one)

    def _must_ask(self, call: m.Call) -> bool:
        """Whether the house knows something that the answer or the kept message needs."""
        if call.action != "TransactionEvent":
            return True
        known = self.places.get(_transaction(call))
        return "idToken" in call.payload or call.payload["eventType"] == "Started" or (known is None and "evse" not in call.payload)

    async def _consult(self, text: bytes, call: m.Call) -> None:
        """Ask the house. Its answer must not be made up: where it cannot be had, a card is refused with an error, and a transaction
        ends the connection, because the station says it again."""
        assert self.speaker is not None
        question = {"entity": self.speaker.device.entity, "org": self.speaker.device.org, **_question(call, self.version)}
        begun, pause = self.clock.tick, 0.2
        while self.open:
            try:
                answer = orjson.loads((await self.door.gateway.bus.nc.request(ASK, orjson.dumps(question), timeout=5)).data)
                break
            except (nats.errors.Error, TimeoutError, OSError) as error:
                log.warning("the house cannot be asked about a transaction now: %r", error)
                if not m.ACTIONS[self.version][call.action]:
                    self.say(m.error_frame(m.Fault(call.id, "InternalError", Refusal("house", "暂时无法查询", "cannot be looked up now"))))
                    answer = None
                    break
                if self.clock.tick - begun >= ANSWER:
                    self.close("the house cannot be asked", LATER)
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
        if not self.open:
            return
        if answer is not None:
            self._serve(text, call, **answer)
        texts, self.waiting = self.waiting or [], None
        self.resume(AUTH)
        self.take(texts)

    def _serve(self, text: bytes, call: m.Call, tag: str = "", transaction: int | None = None, place: int | None = None,
               start: int | None = None) -> None:
        """Answer at once, or hand in what is answered when it is durable."""
        door, speaker = self.door, self.speaker
        assert speaker is not None
        now = time.time_ns() // 1000
        payload = m.answer(self.version, call, now=now, interval=door.interval(speaker.device.type), tag=tag, transaction=transaction or 0)
        answer = m.result_frame(call.id, payload)
        if not m.ACTIONS[self.version][call.action]:
            self.say(answer)
            return
        if call.action == "TransactionEvent":
            place = self._placed(call, place)
        if call.action != "StartTransaction":
            transaction = None
        self._hand_in(call.id, m.kept(self.version, self.identity, text, transaction=transaction, place=place, start=start), answer)

    def _hand_in(self, number: str, raw: bytes, answer: bytes, refusal: Refusal | None = None) -> None:
        """Give what is kept of a message to the ingestor; it is answered when it is durable. It counts for the quota of its organisation:
        the station that is slowed down has its answer, and is not read until there is room. Where no more may be stored it is refused."""
        door, speaker = self.door, self.speaker
        assert speaker is not None
        meter = door.gateway.meters.by_org.get(speaker.device.org)
        if meter is not None:
            if meter.refuses(1):
                self.say(m.error_frame(m.Fault(number, "InternalError", Refusal("readings", *USED_UP, "org"))))
                return
            self.slow(meter, 1)
        name, size = m.codec.name, len(raw) + len(answer) + ROOM
        self.hold(size)
        door.ingestor.add(
            Chunk(name, speaker.device.entity, speaker.of, speaker.rules, [raw], door.ingestor.stamp(1), False, name, m.codec, refusal),
            (self, answer), size,
        )

    def _placed(self, call: m.Call, place: int | None) -> int | None:
        """The EVSE of a transaction, which is named once (2.0.1 part 2, TransactionEventRequest)."""
        key, evse = _transaction(call), call.payload.get("evse")
        place = evse["id"] if evse else place if place is not None else self.places.get(key)
        self.places.pop(key, None)
        if place is not None and call.payload["eventType"] != "Ended":
            self.places[key] = place
            if len(self.places) > PLACES:
                del self.places[next(iter(self.places))]
        return place

    def _fault(self, text: bytes, fault: m.Fault) -> None:
        """Refuse a message, when its dead letter is durable; beyond a burst there is no letter."""
        door, speaker = self.door, self.speaker
        assert speaker is not None
        door.broken += 1
        answer = m.error_frame(fault)
        device = speaker.device.device_id
        if door.letters.wait(device) > 0:
            door.unkept += 1
            if answer:
                self.say(answer)
            return
        door.letters.failed(device)
        self._hand_in(fault.id, m.kept(self.version, self.identity, text), answer, fault.refusal)

    # The other way

    def say(self, frame: bytes) -> None:
        """Send a message, if the connection is open."""
        if self.protocol is not None and self.protocol.state is State.OPEN:
            self.protocol.send_text(frame)
            self._flush()

    def ping(self) -> None:
        """Ask whether the station is there."""
        if self.protocol is not None and self.protocol.state is State.OPEN:
            self.pinged = self.clock.tick
            self.protocol.send_ping(b"")
            self._flush()

    def _flush(self) -> None:
        """Write what the protocol has to say; it ends with an empty one where the connection is to be closed."""
        assert self.protocol is not None
        ends = False
        for data in self.protocol.data_to_send():
            if data:
                self.send(data)
            else:
                ends = True
        if ends:
            self.close("the WebSocket is closed")

    def close(self, why: str, code: int = 0) -> None:
        """Close after what was written is sent; nothing more is read."""
        protocol, self.protocol = self.protocol, None
        if protocol is None or self.transport is None:
            return
        if code and protocol.state is State.OPEN:
            protocol.send_close(code, why)
            for data in protocol.data_to_send():
                self.send(data)
        log.debug("closing ocpp %s %r: %s", self.peer, self.identity, why)
        self.transport.close()
        self.door.gateway.closing(self)

    def take_no_commands(self) -> None:
        """What the station was told and did not answer may not have come."""
        target, self.target = self.target, None
        if target is not None:
            target.end()


def _credential(request: Request, identity: str) -> bytes | None:
    """The password of HTTP Basic (RFC 7617), if the user name is the identity."""
    try:
        scheme, _, told = request.headers.get("Authorization", "").partition(" ")
        user, colon, password = base64.b64decode(told.strip(), validate=True).partition(b":")
    except (MultipleValuesError, binascii.Error, ValueError):
        return None
    if scheme.lower() != "basic" or not colon or user != identity.encode() or not 0 < len(password) <= 256:
        return None
    return password


def _transaction(call: m.Call) -> str:
    return str(call.payload["transactionInfo"]["transactionId"])


def _question(call: m.Call, version: str) -> dict[str, Any]:
    """What the house is asked: the card, and a transaction that begins, or whose place is not known."""
    payload = call.payload
    question: dict[str, Any] = {"tag": m.tag_of(call), "free": payload.get("idToken", {}).get("type") == "NoAuthorization"}
    if call.action == "StartTransaction":
        question |= {"begin": [payload["connectorId"], payload["idTag"], payload["timestamp"], payload["meterStart"]],
                     "place": payload["connectorId"], "start": payload["meterStart"]}
    elif call.action == "StopTransaction":
        question["number"] = payload["transactionId"]
    elif call.action == "TransactionEvent":
        evse = payload.get("evse")
        if payload["eventType"] == "Started" and evse:
            question |= {"begin": [_transaction(call)], "place": evse["id"]}
        elif not evse:
            question["find"] = [_transaction(call)]
    return question


class OcppDoor:
    """The listeners, their connections and upkeep; a part of the gateway."""

    name = m.codec.name

    def __init__(self, gateway: Gateway, identities: Identities, port: int, tls_port: int) -> None:
        self.gateway, self.identities = gateway, identities
        self.throttle = Throttle()
        self.letters = Throttle()
        self.connections: set[OcppConnection] = set()
        self.stations: dict[str, OcppConnection] = {}
        self.broken = self.unkept = self.throttled = self.turned_away = self.timed_out = self.replaced = 0
        self.refused = {UNKNOWN: 0, DENIED: 0}
        self.ports: list[int] = []
        self._listen = port, tls_port
        self._servers: list[asyncio.Server] = []
        self.ingestor: Ingestor

    async def start(self) -> None:
        """Open the listeners; `ports` says where."""
        config, bus = self.gateway.config, self.gateway.bus
        self.ingestor = Ingestor(
            bus.nc, bus.js, name=f"{config.name}-{self.name}", protocol=self.name, released=self._released, pressure=self._press,
            high=config.high,
        )
        loop = asyncio.get_running_loop()
        for port, encrypted in zip(self._listen, (False, True), strict=True):
            if port:
                self._servers.append(await loop.create_server(
                    lambda: OcppConnection(self), config.host, max(port, 0), backlog=4096, **(self.gateway.tls() if encrypted else {}),
                ))
        self.ports = [server.sockets[0].getsockname()[1] for server in self._servers]

    async def close(self) -> None:
        """Stop listening, make durable what was read, close every connection."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.pause(PRESSURE)
        await self.ingestor.close()
        for connection in list(self.connections):
            connection.take_no_commands()
            connection.close("the gateway stops", RESTART)

    # Who it is

    def proves(self, speaker: Speaker, credential: bytes) -> bool:
        """Whether it is known that the credential is right."""
        if speaker.secret:
            return any(speaker.proves(form) for form in _forms(credential))
        device = self.gateway.authenticator.known(credential.decode("utf-8", "replace"))
        return device is not None and device.device_id == speaker.device.device_id

    async def check(self, speaker: Speaker, credential: bytes) -> bool:
        """Whether the credential is right: the password of the identity, else the device's access token."""
        if speaker.secret:
            for form in _forms(credential):
                if await speaker.check(form):
                    return True
            return False
        device = await self.gateway.authenticator.authenticate(credential.decode("utf-8", "replace"))
        return device is not None and device.device_id == speaker.device.device_id

    # Called by connections

    def arrived(self, connection: OcppConnection) -> None:
        self.connections.add(connection)
        if self.gateway.crowded(connection):
            self.turned_away += 1
            connection.close("too many connections")
        elif self.ingestor.pressed:
            connection.pause(PRESSURE)

    def welcomed(self, connection: OcppConnection) -> None:
        assert connection.speaker is not None
        before = self.stations.get(connection.identity)
        self.stations[connection.identity] = connection
        if before is not None:
            self.replaced += 1
            before.take_no_commands()
            before.close("a new connection of this identity", POLICY)
        self.gateway.present(connection.speaker.device, True)

    def left(self, connection: OcppConnection) -> None:
        self.connections.discard(connection)
        self.gateway.closed(connection)
        connection.take_no_commands()
        if self.stations.get(connection.identity) is connection:
            del self.stations[connection.identity]
            assert connection.speaker is not None
            self.gateway.present(connection.speaker.device, False)

    def interval(self, kind: str) -> int:
        """Seconds between heartbeats: three within the time after which a device of this type is offline."""
        after = self.gateway.kinds.get(kind, {}).get("offline_after_s")
        return HEARTBEAT if after is None else max(LEAST, min(MOST, int(after) // 3))

    # Called by the ingestor and the gateway

    def _released(self, items: list[Item]) -> None:
        for _, (connection, answer), size in items:
            connection.release(size)
            if answer:
                connection.say(answer)

    def _press(self, on: bool) -> None:
        log.warning("ocpp: reading %s, %d bytes held", "paused" if on else "resumed", self.ingestor.held)
        press(self.connections, on)

    def changed(self, device_id: str) -> None:
        """A device changed (empty: many): forget it, and close its connections."""
        self.identities.forget(device_id)
        for connection in list(self.connections):
            speaker = connection.speaker
            if speaker is not None and device_id in ("", speaker.device.device_id):
                connection.close("the device was changed", POLICY)

    def forget(self) -> None:
        """Changes may have been missed: look every device up again."""
        self.identities.forget("")

    def sweep(self) -> None:
        """Once a second: end handshakes and messages that do not end, ask the silent, give up calls without answer."""
        tick, limit = self.gateway.tick, self.gateway.config.connect_timeout
        for connection in list(self.connections):
            if connection.protocol is None or connection.reasons & ~WRITE:
                continue
            if connection.speaker is None:
                if tick - connection.since > limit:
                    self._late(connection, "no handshake in time")
                continue
            if connection.target is not None:
                connection.target.late()
            if connection.begun and tick + 1 - connection.begun > UNFINISHED:
                self._late(connection, "a message that does not end")
            elif connection.pinged:
                if tick - connection.pinged > GRACE:
                    self._late(connection, "silent")
            elif tick - connection.seen > self.interval(connection.speaker.device.type) + GRACE:
                connection.ping()

    def _late(self, connection: OcppConnection, why: str) -> None:
        self.timed_out += 1
        connection.close(why, POLICY)

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and the state now."""
        counters = self.ingestor.counters
        return {
            "connections": len(self.connections), "devices": len(self.stations), "accepted": counters.accepted, "acked": counters.acked,
            "dead": counters.dead, "unknown": self.refused[UNKNOWN], "denied": self.refused[DENIED], "broken": self.broken, "stray": 0,
            "throttled": self.throttled, "timed_out": self.timed_out, "turned_away": self.turned_away, "unkept": self.unkept,
            "replaced": self.replaced,
        }


def _forms(credential: bytes) -> list[bytes]:
    """A password as it may have been registered: as it is, or its hexadecimal digits where it is the binary key of 1.6 (AuthorizationKey)."""
    return [credential] if credential.isascii() and credential.decode().isprintable() else [credential.hex().encode(), credential]
