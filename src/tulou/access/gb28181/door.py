"""The SIP server of the gateway for GB/T 28181: registrations, what devices say, what they are told.

Law: 200 is sent after what is kept of a message, or a registration, is synced in JetStream; a message that comes twice is stored
once and answered twice. A device is found by its code, an identity of the protocol `gb28181`; where a password is set it proves it at
REGISTER (`digest`), and what it says afterwards has to come from the address it registered from: the protocol has no other proof. Answers
and requests go where datagrams came from, never to an address that a message names. Who is not recognised costs no memory: nonces are
sealed, not stored, look-ups and answers of an address are limited.

Registrations survive a restart (stream GB28181, by code). A device is online from each of its messages until three keepalives are
missed or its registration ends, whichever is first, and never after.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import nats.errors
import orjson

from tulou.access.authenticate import Identities, LookUps, Speaker, Throttle
from tulou.access.coap import Unreadable
from tulou.access.coap.endpoint import Recent
from tulou.access.gb28181 import digest, manscdp, sip
from tulou.access.gb28181.calls import Calls
from tulou.access.gb28181.commands import SipCommands, SipTarget
from tulou.access.gb28181.media import MediaServer
from tulou.access.gb28181.registration import LONGEST_PERIOD, PERIOD, Registration, Subscription, Way
from tulou.access.gb28181.sip import Message
from tulou.access.gb28181.transactions import Transactions
from tulou.access.ingest import Ingestor, Item
from tulou.access.messages import read
from tulou.access.peer import HELD, PRESSURE, Peer, press
from tulou.access.protocols import BEIJING
from tulou.access.protocols.gb28181 import METHODS, codec, request
from tulou.access.telemetry import Chunk, DeadLetter, Refusal

if TYPE_CHECKING:
    from tulou.access.gateway import Gateway

log = logging.getLogger("tulou.gb28181")

ROOM = 600
"""Bytes that a message holds beside its text while it waits."""
SUBJECT = "tulou.gb28181"
STREAM = "GB28181"
EXPIRES, LEAST, LONGEST = 3600, 60, 7 * 86400
"""Seconds of a registration that does not say; at least; at most."""
ASKING, ASKING_OF = 500, 8
"""Look-ups of devices under way, and of one address."""
ANSWERS, ANSWERS_PAUSE = 500, 0.01
"""Answers over UDP to strangers of an address in a row, then one each so many seconds: a forged source is not flooded."""
KEEPING = 1000
"""Registrations on their way to the disk."""
AT_ONCE = 50
"""New devices that are asked about themselves at the same time."""
UNFINISHED, BARE = 30, 60
"""Seconds within which a message that has begun on a stream ends, and after which one on which no device registered is closed."""
WHOLE = frozenset({"xml", "dtd", "encoding", "root", "command", "code", "size", "method"})
"""Refusals of a message as a whole, which is answered 400."""
OVER_QUOTA = "warning", '399 tulou "the organisation has sent as many messages as it may"'
ALLOW = ("allow", "REGISTER, MESSAGE, NOTIFY, BYE, ACK, OPTIONS")


class SipConnection(Peer):
    """A stream of messages. `registrations` are the devices that registered over it."""

    __slots__ = ("begun", "door", "encrypted", "framer", "registrations", "way")

    def __init__(self, door: SipDoor, encrypted: bool) -> None:
        super().__init__(door.gateway)
        self.door, self.encrypted = door, encrypted
        self.framer: sip.Framer | None = sip.Framer()
        self.registrations: set[str] = set()
        self.begun = 0
        self.way = Way("", 0, self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername") or ("", 0)
        self.way = Way(peer[0], peer[1], self)
        self.door.arrived(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = self.framer = None
        self.door.left(self)

    def close(self, why: str) -> None:
        """Close after what was written is sent; nothing more is read."""
        self.framer = None
        if self.transport is not None:
            log.debug("closing %s: %s", self.peer, why)
            self.transport.close()
            self.door.gateway.closing(self)

    def data_received(self, data: bytes) -> None:
        framer = self.framer
        if framer is None:
            return
        self.seen = self.clock.tick
        found = framer.feed(data)
        if not framer.unfinished:
            self.begun = 0
        elif found or not self.begun:
            self.begun = self.clock.tick + 1
        for message, raw in found:
            if self.framer is None:
                return
            self.door.take(message, raw, self.way)
        if framer.broken is not None:
            self.door.broken += 1
            self.close(str(framer.broken))
        elif framer.pings:
            framer.pings = 0
            self.send(b"\r\n")


class SipDoor(asyncio.DatagramProtocol):
    """The listeners and registrations; a part of the gateway. `settings` has port, tls_port, server and realm."""

    name = codec.name

    def __init__(self, gateway: Gateway, identities: Identities, server: MediaServer, settings: Mapping[str, Any]) -> None:
        self.gateway, self.identities = gateway, identities
        self.server, self.realm = str(settings["server"]), str(settings["realm"])
        self.registrations: dict[str, Registration] = {}
        self.links: set[SipConnection] = set()
        self.bare: set[SipConnection] = set()
        self.throttle, self.strangers = Throttle(), Throttle(ANSWERS, ANSWERS_PAUSE)
        self.nonces, self.recent = digest.Nonces(), Recent()
        self.requests, self.calls = Transactions(self.write), Calls(self, server)
        self.commands = SipCommands(self)
        self.mark = f"z9hG4bK{secrets.token_hex(4)}"
        """With which branches of ours begin."""
        self.ports: list[int] = []
        self.ingestor: Ingestor
        self.unknown = self.denied = self.broken = self.throttled = self.timed_out = self.turned_away = self.registered = 0
        self.repeats = self.datagrams = 0
        self.unknown_codes: dict[str, None] = {}
        self._listen = int(settings["port"]), int(settings["tls_port"])
        self._servers: list[asyncio.Server] = []
        self._transport: asyncio.DatagramTransport | None = None
        self._asking = LookUps(ASKING, ASKING_OF)
        self._registering_now = 0
        self._refusals: dict[int, Refusal] = {}
        self._number = random.randrange(1, 1 << 20)  # noqa: S311 - only to tell runs apart
        self._tag = secrets.token_hex(4)
        self._local: dict[str, str] = {}
        self._introducing = asyncio.Semaphore(AT_ONCE)

    async def start(self) -> None:
        """Restore registrations, open the listeners; `ports` says where: UDP, TCP, TLS."""
        config, bus = self.gateway.config, self.gateway.bus
        self.ingestor = Ingestor(
            bus.nc, bus.js, name=f"{config.name}-{self.name}", protocol=self.name, released=self._released,
            pressure=self._press, high=config.high, refused=self._letter,
        )
        await self._restore()
        loop = asyncio.get_running_loop()
        port, tls_port = self._listen
        if port:
            self._servers.append(await loop.create_server(lambda: SipConnection(self, False), config.host, max(port, 0), backlog=4096))
            port = self._servers[0].sockets[0].getsockname()[1]
            transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(config.host, port))
            self._transport = transport
            with contextlib.suppress(OSError, AttributeError):
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        if tls_port:
            self._servers.append(await loop.create_server(
                lambda: SipConnection(self, True), config.host, max(tls_port, 0), backlog=4096, **self.gateway.tls()
            ))
        self.ports = [server.sockets[0].getsockname()[1] for server in self._servers]

    async def close(self) -> None:
        """Stop listening, end calls, make durable and answer what was taken."""
        for server in self._servers:
            server.close()
        for link in self.links:
            link.pause(PRESSURE)
        await self.calls.close()
        await self.ingestor.close()
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        for link in list(self.links):
            link.close("the gateway stops")

    @property
    def connections(self) -> Collection[Any]:
        """The devices that are registered, and the streams on which none is."""
        return range(len(self.registrations) + len(self.bare))

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def error_received(self, exc: Exception) -> None:
        log.debug("a datagram was not delivered: %r", exc)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self.datagrams += 1
        if not data.strip(b"\r\n\0 "):  # keeps a NAT open
            return
        try:
            message = sip.parse(data)
        except Unreadable as error:  # not answered: nothing in it can be trusted
            self.broken += 1
            log.debug("not SIP from %s: %s", addr[0], error)
            return
        self.take(message, data, Way(addr[0], addr[1]))

    def arrived(self, link: SipConnection) -> None:
        self.links.add(link)
        self.bare.add(link)
        if self.gateway.crowded(link):
            self.turned_away += 1
            link.close("too many connections")
        elif self.ingestor.pressed:
            link.pause(PRESSURE)

    def left(self, link: SipConnection) -> None:
        self.links.discard(link)
        self.bare.discard(link)
        self.gateway.closed(link)
        for identity in link.registrations:
            registration = self.registrations.get(identity)
            if registration is not None and registration.way.link is link:
                self._withdraw(registration)

    # Messages

    def take(self, message: Message, raw: bytes, way: Way) -> None:
        """Handle a message."""
        try:
            if message.status:
                self._answered(message, way)
            elif message.method == "REGISTER":
                self._register(message, way)
            elif message.method in ("MESSAGE", "NOTIFY"):
                self._said(message, raw, way)
            elif message.method == "BYE":
                ended = self.calls.bye(message.get("call-id"), way.host)
                self._stranger(message, way, 200 if ended else 481)
            elif message.method == "OPTIONS":
                self._stranger(message, way, 200, [ALLOW])
            elif message.method != "ACK":
                self._stranger(message, way, 405, [ALLOW])
        except Unreadable as error:
            self.broken += 1
            if message.method and message.method != "ACK":
                self._stranger(message, way, 400, [_warning(error.refusal)])
        except Exception:  # what one message makes go wrong must not close the socket of all
            log.exception("defect in GB/T 28181")

    def send(self, way: Way, message: Message) -> bytes:
        """Write a message; its bytes."""
        data = message.encode()
        self.write(way, data)
        return data

    def write(self, way: Way, data: bytes) -> None:
        if way.link is not None:
            way.link.send(data)
        elif self._transport is not None:
            self._transport.sendto(data, (way.host, way.port))

    def _reply(self, request: Message, way: Way, status: int, more: Sequence[tuple[str, str]] = ()) -> bytes:
        return self.send(way, sip.answer(request, status, (way.host, way.port), self._tag, more))

    def _stranger(self, request: Message, way: Way, status: int, more: Sequence[tuple[str, str]] = ()) -> None:
        """Answer who proved nothing."""
        if way.link is None:
            if self.strangers.wait(way.host) > 0:
                self.throttled += 1
                return
            self.strangers.failed(way.host)
        self._reply(request, way, status, more)

    # Registration (9.1)

    def _register(self, message: Message, way: Way) -> None:
        to, _ = sip.address(message.get("to"), "To")
        identity = to.user
        if not manscdp.CODE.fullmatch(identity) or message.sender != identity:
            raise Unreadable("code", "From 与 To 须为同一 20 位国标编码", "From and To have the same code of 20 digits", "To", identity[:40])
        expires = message.number("expires")
        if expires is None:
            said = sip.params(message.get("contact").rpartition(">")[2]).get("expires", "")
            expires = int(said) if said.isdecimal() and said.isascii() and len(said) <= 10 else EXPIRES
        if 0 < expires < LEAST:
            expires = LEAST
        credentials = digest.parse(message.get("authorization")) if message.get("authorization") else None
        if self._again(identity, message, way):
            return
        speaker = self.identities.known(identity.encode())
        if speaker is not None:
            self._admit(message, way, speaker, identity, min(expires, LONGEST), credentials)
        elif self.identities.stranger(identity.encode()):
            self._refuse(message, way, identity, credentials)
        elif credentials is not None and self._fresh(credentials, way) and self.throttle.wait(way.host) > 0:
            self.throttled += 1
        elif self._asking.begin(way.host):
            self.gateway.spawn(self._look(message, way, identity, min(expires, LONGEST), credentials))
        else:
            self._challenge(message, way, self.realm, False)

    def _fresh(self, credentials: dict[str, str], way: Way) -> bool:
        """Whether the nonce is of us, for this address, and young: who says so receives what is sent there."""
        return self.nonces.judge(credentials["nonce"], int(time.time()), way.host) == digest.FRESH

    async def _look(self, message: Message, way: Way, identity: str, expires: int, credentials: dict[str, str] | None) -> None:
        try:
            speaker = await self.identities.find(identity.encode())
        except Exception as error:
            log.warning("devices cannot be looked up: %r", error)
            self._stranger(message, way, 503)
            return
        finally:
            self._asking.end(way.host)
        try:
            if speaker is None:
                self._refuse(message, way, identity, credentials)
            else:
                self._admit(message, way, speaker, identity, expires, credentials)
        except Unreadable as error:
            self._stranger(message, way, 400, [_warning(error.refusal)])

    def _refuse(self, message: Message, way: Way, identity: str, credentials: dict[str, str] | None) -> None:
        """Nobody has this code; as for a wrong password, it shows after the challenge."""
        if credentials is None or not self._fresh(credentials, way):
            self._challenge(message, way, self.realm, credentials is not None)
            return
        self.throttle.failed(way.host)
        self.unknown += 1
        self.unknown_codes.pop(identity, None)
        self.unknown_codes[identity] = None
        if len(self.unknown_codes) > 10:
            del self.unknown_codes[next(iter(self.unknown_codes))]
        self._stranger(message, way, 403)

    def _challenge(self, message: Message, way: Way, realm: str, stale: bool) -> None:
        nonce = self.nonces.make(int(time.time()), way.host)
        algorithms = (digest.SHA256, digest.MD5) if message.get("x-gb-ver").startswith("3") else (digest.MD5,)
        self._stranger(message, way, 401, [("www-authenticate", digest.challenge(realm, nonce, one, stale)) for one in algorithms])

    def _admit(
        self, message: Message, way: Way, speaker: Speaker, identity: str, expires: int, credentials: dict[str, str] | None
    ) -> None:
        """Let a device that is known register, if it proves its password where one is set."""
        if speaker.secret:
            realm = digest.realm_of(speaker.secret)
            if credentials is None or not self._fresh(credentials, way):
                self._challenge(message, way, realm, credentials is not None)
                return
            if self.throttle.wait(way.host) > 0:
                self.throttled += 1
                return
            right = credentials["username"] == identity and credentials.get("realm", realm) == realm and digest.proves(
                speaker.secret, "REGISTER", credentials)
            if not right:
                self.denied += 1
                self.throttle.failed(way.host)
                self._stranger(message, way, 403)
                return
            if not self.nonces.use(credentials["nonce"], credentials.get("nc") if "qop" in credentials else None):
                self._challenge(message, way, realm, True)
                return
        if self._registering_now >= KEEPING:  # it comes again
            self.throttled += 1
            return
        self._registering_now += 1
        key = _key(message, way)
        self.recent.put(identity, key, b"")
        self.gateway.spawn(self._registering(message, way, speaker, identity, expires, key))

    async def _registering(
        self, message: Message, way: Way, speaker: Speaker, identity: str, expires: int, key: Any
    ) -> None:
        """Answer when the registration is durable."""
        before = self.registrations.get(identity)
        now = time.time()
        contact = message.get("contact")
        more = [("date", datetime.now(BEIJING).strftime("%Y-%m-%dT%H:%M:%S.000")), ("expires", str(expires))]
        made = Registration(identity, speaker, way, now + expires, message.get("x-gb-ver")[:8], int(now * 1e6))
        if before is not None:
            made.period, made.status, made.subscriptions = before.period, before.status, before.subscriptions
        try:
            await self.keep(identity, made.record() if expires else b"", expires)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            log.warning("a registration cannot be kept: %r", error)
            self.recent.put(identity, key, self._reply(message, way, 503, [("retry-after", "30")]))
            return
        finally:
            self._registering_now -= 1
        if not expires:
            gone = self.registrations.get(identity)
            if gone is not None:
                self.drop(gone)
        else:
            self._welcome(made, self.registrations.get(identity))
            if contact:
                more.append(("contact", contact))
        self.recent.put(identity, key, self._reply(message, way, 200, more))
        if expires and before is None:
            self.gateway.spawn(self._introduce(made))

    async def keep(self, identity: str, record: bytes, seconds: float) -> None:
        """Make a registration durable. Raises what the bus raises."""
        await self.gateway.bus.js.publish(
            f"{SUBJECT}.{self.gateway.config.name}.{identity}", record, timeout=5.0, msg_ttl=max(1.0, seconds + 1)
        )

    def _welcome(self, made: Registration, before: Registration | None) -> None:
        """Begin a registration, or go on with one from another REGISTER."""
        if before is not None and (before.speaker.device, before.speaker.secret) == (made.speaker.device, made.speaker.secret):
            self._moved(before, made.way)
            before.speaker, before.expires, before.edition = made.speaker, made.expires, made.edition
            made = before
        elif before is not None:
            self.drop(before, told=False)
        self.registrations[made.identity] = made
        self.registered += 1
        if made.way.link is not None:
            made.way.link.registrations.add(made.identity)
            self.bare.discard(made.way.link)
        self._heard(made)

    async def _restore(self) -> None:
        """Registrations of an earlier run; the rest is as if the gateway had not stopped."""
        prefix = f"{SUBJECT}.{self.gateway.config.name}."
        async for _, _, data in read(self.gateway.bus, STREAM, prefix + "*"):
            if not data:
                continue
            kept = orjson.loads(data)
            speaker = await self.identities.find(kept["identity"].encode())
            if speaker is None or kept["expires"] < time.time():
                continue
            made = Registration(
                kept["identity"], speaker, Way(kept["host"], kept["port"]), kept["expires"], kept["edition"], kept["heard"], kept["period"],
                subscriptions={event: Subscription(event, seconds, interval, of) for event, seconds, interval, of in kept["subscriptions"]},
            )
            if kept["transport"] != "UDP":  # its stream ended with us: it is silent until it comes back
                made.way.port = 0
            self.registrations[made.identity] = made
            self.gateway.present(speaker.device, True, at=made.heard, gone=made.until)

    async def _introduce(self, registration: Registration) -> None:
        """Ask a new device who it is and what it has (9.5); its answers become readings like anything it says."""
        async with self._introducing:
            bodies = [request(method, METHODS[method].params(), self.serial(), registration.identity)[0] for method in ("device_info", "catalog")]
            await asyncio.gather(*(
                self.requests.attempt(registration.way, self.request_to(registration, "MESSAGE", registration.identity, body=body))
                for body in bodies
            ))

    def drop(self, registration: Registration, told: bool = True) -> None:
        """End a registration."""
        registration.gone = True
        self._sleeps(registration)
        if self.registrations.get(registration.identity) is registration:
            del self.registrations[registration.identity]
        link = registration.way.link
        if link is not None:
            link.registrations.discard(registration.identity)
            if not link.registrations and link in self.links:
                self.bare.add(link)
        if told:
            now = time.time_ns() // 1000
            self.gateway.present(registration.speaker.device, False, gone=min(now, registration.until))

    def _sleeps(self, registration: Registration) -> None:
        """The device is offline: it takes no commands, its calls are over."""
        self._withdraw(registration)
        self.calls.gone(registration)

    def _withdraw(self, registration: Registration) -> None:
        """The device takes no commands until it is heard again."""
        registration.awake = False
        if registration.target is not None:
            self.gateway.courier.gone(registration.target, ())
            registration.target = None

    def _heard(self, registration: Registration) -> None:
        registration.heard = time.time_ns() // 1000
        self.gateway.present(registration.speaker.device, True, gone=registration.until)
        if not registration.awake:
            registration.awake = True
            registration.target = SipTarget(self, registration)
            self.gateway.courier.ready(registration.target)

    # What devices say

    def _again(self, identity: str, message: Message, way: Way) -> bool:
        """Whether the message came before; it is answered again if it was."""
        before = self.recent.get(identity, _key(message, way))
        if before is None:
            return False
        self.repeats += 1
        if before:
            self.write(way, before)
        return True

    def _said(self, message: Message, raw: bytes, way: Way) -> None:
        """A MESSAGE or NOTIFY: kept, then answered."""
        registration = self.registrations.get(message.sender)
        if registration is None or registration.way.host != way.host or registration.expires < time.time():
            self.unknown += 1
            self._stranger(message, way, 403)
            return
        identity = registration.identity
        if self._again(identity, message, way):
            return
        if registration.way.link is not way.link or registration.way.port != way.port:  # behind a NAT, or a stream anew
            self._moved(registration, way)
        beats = False
        root: manscdp.Element | None = None
        with contextlib.suppress(Unreadable):  # the codec says what is wrong, and it is kept so
            root = manscdp.parse(message.body)
            beats = root.get("CmdType") == "Keepalive"
        if beats:
            self._beat(registration)
        self._heard(registration)
        if way.link is None and (self.ingestor.pressed or registration.held > HELD):
            return  # not answered: it comes again
        key = _key(message, way)
        meter = self.gateway.meters.by_org.get(registration.speaker.device.org)
        asked = root is not None and root.name == "Response"
        if meter is not None and not beats and not (not meter.refuses(1) if asked else meter.take(1, time.monotonic())):
            after = str(int(meter.retry_after(time.monotonic())) + 1)
            self.recent.put(identity, key, self._reply(message, way, 503, [("retry-after", after), OVER_QUOTA]))
            return
        if beats and root is not None:
            status = root.get("Status") or "OK"
            if (status == registration.status and root.find("Info") is None) or (meter is not None and meter.refuses(1)):
                self.recent.put(identity, key, self._reply(message, way, 200))
                return
            registration.status = status
        if meter is not None and (beats or asked):
            meter.owe(1, time.monotonic())
        self.recent.put(identity, key, b"")
        if root is not None:
            self._heed(registration, message, root)
        size = len(raw) + ROOM
        registration.held += size
        if way.link is not None:
            way.link.hold(size)
        speaker = registration.speaker
        self.ingestor.add(
            Chunk(self.name, speaker.device.entity, speaker.of, speaker.rules, [raw], self.ingestor.stamp(1), False, self.name, codec),
            (registration, message, way, key), size,
        )

    def _beat(self, registration: Registration) -> None:
        now = time.monotonic()
        if registration.beat:
            gap = now - registration.beat
            registration.period = max(PERIOD, min(LONGEST_PERIOD, max(gap, registration.period * 0.9)))
        registration.beat = now

    def _moved(self, registration: Registration, way: Way) -> None:
        old = registration.way.link
        if old is not None and old is not way.link:
            old.registrations.discard(registration.identity)
            if not old.registrations and old in self.links:
                self.bare.add(old)
        registration.way = way
        if way.link is not None:
            way.link.registrations.add(registration.identity)
            self.bare.discard(way.link)

    def _heed(self, registration: Registration, message: Message, root: manscdp.Element) -> None:
        """What a message says to a query, a call or a subscription."""
        command = root.get("CmdType")
        if root.name == "Response":
            self.commands.heed(registration.identity, root)
        elif command == "MediaStatus" and root.get("NotifyType") == "121":
            self.calls.finished(registration, root.get("DeviceID"))
        if message.method == "NOTIFY" and message.get("subscription-state").lower().startswith("terminated"):
            for subscription in registration.subscriptions.values():
                if ("call-id", message.get("call-id")) in subscription.dialog:
                    subscription.dialog, subscription.until = [], 0.0

    def _letter(self, letter: DeadLetter) -> None:
        if letter.refusal.rule in WHOLE:
            self._refusals.setdefault(letter.ts, letter.refusal)

    def _released(self, items: list[Item]) -> None:
        for chunk, (registration, message, way, key), size in items:
            registration.held -= size
            if way.link is not None:
                way.link.release(size)
            refusal = self._refusals.pop(chunk.ts, None)
            self.recent.put(registration.identity, key, self._reply(message, way, 400 if refusal else 200, [_warning(refusal)] if refusal else []))

    def _press(self, on: bool) -> None:
        log.warning("gb28181: reading %s, %d bytes held", "paused" if on else "resumed", self.ingestor.held)
        press(self.links, on)

    # Requests of our own

    def serial(self) -> int:
        """The next SN."""
        self._number = self._number % 0x7FFFFFFF + 1
        return self._number

    def _address(self, way: Way) -> str:
        """Our address as this device sees it: host and port."""
        if way.link is not None and way.link.transport is not None:
            name = way.link.transport.get_extra_info("sockname")
            host, port = name[0], name[1]
        else:
            port = self.ports[0] if self.ports else 5060
            host = self._local.get(way.host, "")
            if not host:
                if len(self._local) > 10_000:
                    self._local.clear()
                host = self._local[way.host] = _toward(way.host)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def contact(self, way: Way) -> str:
        return f"<sip:{self.server}@{self._address(way)}>"

    def _via(self, way: Way) -> tuple[str, str]:
        return "via", f"SIP/2.0/{way.transport} {self._address(way)};rport;branch={self.mark}{secrets.token_hex(8)}"

    def request_to(
        self, registration: Registration, method: str, user: str, *, body: bytes = b"", more: Sequence[tuple[str, str]] = ()
    ) -> Message:
        """A request to a device, outside of dialogs. A body is MANSCDP unless `more` says what it is."""
        way = registration.way
        host = f"[{way.host}]" if ":" in way.host else way.host
        kind = [] if any(name == "content-type" for name, _ in more) else [("content-type", "Application/MANSCDP+xml")]
        return Message(method, f"sip:{user}@{host}:{way.port}", headers=[
            self._via(way), ("from", f"<sip:{self.server}@{self.realm}>;tag={secrets.token_hex(6)}"), ("to", f"<sip:{user}@{host}:{way.port}>"),
            ("call-id", f"{secrets.token_hex(12)}@{self.server}"), ("cseq", f"1 {method}"), ("max-forwards", "70"), *kind, *more,
        ], body=body)

    def within(
        self, method: str, target: str, of: Sequence[tuple[str, str]], cseq: int, way: Way, *, body: bytes = b"",
        more: Sequence[tuple[str, str]] = (),
    ) -> Message:
        """A request within a dialog."""
        return Message(method, target, headers=[self._via(way), *of, ("cseq", f"{cseq} {method}"), ("max-forwards", "70"), *more], body=body)

    def _answered(self, message: Message, way: Way) -> None:
        if not self.requests.answered(message, way.host) and 200 <= message.status < 300 and message.cseq[1] == "INVITE":
            self.calls.stray(message, way)

    # Upkeep

    def changed(self, device_id: str) -> None:
        """A device changed (empty: many): whoever is not the same any more has to register again."""
        self.identities.forget(device_id)
        for registration in [r for r in self.registrations.values() if not device_id or r.speaker.device.device_id == device_id]:
            self.gateway.spawn(self._check(registration))

    async def _check(self, registration: Registration) -> None:
        try:
            speaker = await self.identities.find(registration.identity.encode())
        except Exception as error:  # it is not known to be wrong
            log.warning("devices cannot be looked up: %r", error)
            return
        old = registration.speaker
        if speaker is not None and (speaker.device, speaker.secret) == (old.device, old.secret):
            registration.speaker = speaker
        else:
            self.drop(registration)

    def forget(self) -> None:
        """Changes, and signs of life, may have been missed."""
        self.changed("")
        for registration in self.registrations.values():
            self.gateway.present(registration.speaker.device, True, at=registration.heard, gone=registration.until)

    def sweep(self) -> None:
        """Once a second: what is too late."""
        tick, now = self.gateway.tick, time.time()
        for link in [c for c in self.links if not c.reasons]:
            late = (link.begun and tick + 1 - link.begun > UNFINISHED) or (link in self.bare and tick - link.seen > BARE)
            if late and link.framer is not None:
                self.timed_out += 1
                link.close("silent, or a message that does not end")
        if tick % 5:
            return
        micros = int(now * 1e6)
        for registration in list(self.registrations.values()):
            if registration.expires < now:
                self.drop(registration)
            elif registration.until < micros:
                if registration.awake:
                    self._sleeps(registration)
            elif registration.awake:
                for wanted in registration.subscriptions.values():
                    if wanted.until - min(30, wanted.seconds / 4) < now and not wanted.busy:
                        wanted.busy = True
                        self.gateway.spawn(self.commands.renew(registration, wanted))
        self.nonces.sweep(int(now))
        self.recent.sweep()

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and the state now."""
        counters = self.ingestor.counters
        return {
            "connections": len(self.links), "devices": len(self.registrations), "accepted": counters.accepted,
            "acked": counters.acked, "dead": counters.dead, "unknown": self.unknown, "denied": self.denied, "broken": self.broken,
            "stray": 0, "throttled": self.throttled, "timed_out": self.timed_out, "turned_away": self.turned_away,
            "registered": self.registered, "datagrams": self.datagrams, "repeats": self.repeats, "unanswered": self.requests.unanswered,
            "calls": len(self.calls.of_id), "unknown_codes": list(self.unknown_codes),
        }


def _key(message: Message, way: Way) -> tuple[object, ...]:
    """What a message is known by when it comes again (RFC 3261, 17.2.3)."""
    return way.host, way.port, message.get("call-id"), message.get("cseq"), message.branch


def _warning(refusal: Refusal) -> tuple[str, str]:
    """A Warning header (20.43), in ASCII."""
    place = f"{refusal.field}: " if refusal.field else ""
    text = f"{place}{refusal.en}"[:160].encode("ascii", "replace").decode().replace('"', "'").replace("\\", "/")
    return "warning", f'399 tulou "{text}"'


def _toward(host: str) -> str:
    """The address of this machine that packets to a host leave from."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return host


