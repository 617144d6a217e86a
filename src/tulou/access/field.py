"""The doors for field protocols over TCP: HJ 212, JT/T 808, GB/T 32960 and what further codecs speak.

Law: as at the MQTT door, a message is answered when the batch that carries it is durable, and no task or future is
made for one. Each message names its device by the protocol's own identity (MN, terminal phone, VIN), so one connection
may carry many; who is not known is refused as the standard says, counted, and costs one look-up and one dead letter.

What a stranger can cost is bounded: bytes outside of frames and unfinished frames end a connection; unknown identities,
wrong passwords and broken frames count against their address, and beyond a burst are neither looked up nor kept.
Where receivers relay what everybody sends (`BroadcastCodec`) unknown identities are the rule: more of them are looked up,
none is kept, and they end no connection. Such protocols come over UDP too (`datagrams.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import orjson

from tulou.access.authenticate import Identities, Speaker, Throttle
from tulou.access.courier import Call
from tulou.access.datagrams import Datagrams
from tulou.access.ingest import Ingestor, Item
from tulou.access.peer import AUTH, PRESSURE, WRITE, Peer, press, write_answers
from tulou.access.protocols import (
    ANSWERED,
    DELIVERED,
    DENIED,
    OVER_QUOTA,
    UNKNOWN,
    BroadcastCodec,
    Broken,
    FieldCodec,
    Message,
    Reply,
    Session,
)
from tulou.access.telemetry import ANY, Chunk, Refusal
from tulou.kernel.errors import Invalid

if TYPE_CHECKING:
    from tulou.access.gateway import Gateway

log = logging.getLogger("tulou.gateway")

ROOM = 80
"""Bytes that a message holds beside its frame while it waits."""
UNFINISHED = 30
"""Seconds within which a frame that has begun must end."""
GARBAGE = 64 << 10
"""Bytes outside of sound frames after which a connection is closed."""
REFUSALS = 50
"""Refused messages after which a connection on which no known device spoke is closed."""
STRANGERS = 2000, 0.05
"""At a door of receivers: unknown identities of an address that are looked up in a row, and seconds for one more after
that."""
NOBODY = ("house", "", 0)
"""The class of dead letters that no device can be named for: the house's own."""
REASONS = {
    UNKNOWN: Refusal("identity", "没有设备登记此标识", "no active device has this identity", "identity"),
    DENIED: Refusal("password", "协议口令错误", "wrong protocol password", "password"),
}


class FieldTarget:
    """A device that takes commands on a connection, one at a time: the standards tell answers apart by little."""

    __slots__ = ("bearer", "connection", "entity", "identity", "inflight")

    def __init__(self, connection: FieldConnection, identity: bytes, speaker: Speaker) -> None:
        self.connection, self.identity, self.entity = connection, identity, speaker.device.entity
        self.bearer = connection.door.codec.name
        self.inflight: dict[Any, tuple[Call, bool]] = {}

    def room(self) -> int:
        if self.connection.session is None or self.connection.reasons & WRITE:
            return 0
        for key in [key for key, (call, _) in self.inflight.items() if call.late]:
            del self.inflight[key]
        return 1 - len(self.inflight)

    def deliver(self, call: Call) -> None:
        from pydantic import ValidationError

        door, session = self.connection.door, self.connection.session
        assert session is not None
        try:
            params = door.codec.methods[call.method].params.model_validate(orjson.loads(call.params))
        except (KeyError, ValidationError) as error:
            raise Invalid(f"{self.bearer} 不支持此命令：{error}", f"{self.bearer} has no such command: {error}") from None
        raw, key = session.command(self.identity, call.method, params, time.time_ns() // 1000)
        self.connection.send(raw)
        if key is None:
            door.gateway.courier.report(call.no, call.entity, DELIVERED)
        else:
            self.inflight[key] = call, False

    def replied(self, reply: Reply) -> None:
        """The device said something to a command."""
        call, delivered = self.inflight.get(reply.key, (None, False))
        if call is None:
            return
        courier = self.connection.door.gateway.courier
        if reply.what == DELIVERED:
            if not delivered:
                courier.report(call.no, call.entity, DELIVERED)
                self.inflight[reply.key] = call, True
            if call.answer:
                return
        elif reply.what == ANSWERED:
            courier.report(call.no, call.entity, ANSWERED, result=orjson.dumps(reply.result).decode())
        else:
            courier.report(call.no, call.entity, reply.what, error=reply.error)
        del self.inflight[reply.key]
        courier.want(self)

    def end(self) -> None:
        """The connection ends."""
        self.connection.door.gateway.courier.gone(self, [call for call, came in self.inflight.values() if not came])
        self.inflight.clear()


class FieldConnection(Peer):
    """One connection; `speakers` are the devices that have spoken on it, `proved` those whose password was right."""

    __slots__ = ("begun", "door", "garbage", "proved", "refused", "session", "speakers", "targets", "waiting")

    def __init__(self, door: FieldDoor) -> None:
        super().__init__(door.gateway)
        self.door = door
        self.session: Session | None = door.codec.session()
        self.speakers: dict[bytes, Speaker] = {}
        self.proved: set[bytes] = set()
        self.targets: dict[bytes, FieldTarget] = {}
        self.waiting: list[Message | Broken] | None = None
        self.begun = 0
        self.garbage = 0
        self.refused = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.door.arrived(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = self.session = self.waiting = self.answers = None
        self.door.left(self)

    def take_no_commands(self) -> None:
        """The connection ends: what its devices did not acknowledge may not have come."""
        for target in self.targets.values():
            target.end()
        self.targets.clear()

    def close(self, why: str) -> None:
        """Close after what was written is sent; nothing more is read."""
        self.session = None
        if self.transport is not None:
            log.debug("closing %s %s: %s", self.door.codec.name, self.peer, why)
            self.transport.close()
            self.door.gateway.closing(self)

    def data_received(self, data: bytes) -> None:
        session = self.session
        if session is None:
            return
        messages = session.feed(data)
        if not session.unfinished:
            self.begun = 0
        elif messages or not self.begun:
            self.begun = self.clock.tick + 1
        if session.skipped:
            self.stray(session.skipped)
            session.skipped = 0
        if self.waiting is not None:
            self.waiting += messages
        elif messages:
            self.take(messages)

    def take(self, messages: list[Message | Broken]) -> None:
        """Hand in what known devices say, refuse the others; wait where one must be looked up."""
        speakers, meters = self.speakers, self.door.gateway.meters.by_org
        raws: list[bytes] = []
        answers: list[bytes] = []
        whose: Speaker | None = None
        now = time.time_ns() // 1000
        for number, message in enumerate(messages):
            session = self.session
            if session is None:
                break
            if type(message) is Broken:
                self.broken(message)
                continue
            assert type(message) is Message
            identity = message.identity
            speaker = speakers.get(identity) or self.meet(identity)
            why = UNKNOWN
            if speaker is not None:
                right = True if not speaker.secret else self.proves(speaker, message)
                if self.session is None:  # it is one connection too many
                    break
                if right:
                    if whose is not speaker and raws and whose is not None:
                        self.hand_in(whose, raws, answers)
                        raws, answers = [], []
                    whose = speaker
                    if message.reply is not None and identity in self.targets:
                        self.targets[identity].replied(message.reply)
                    if not message.kept:
                        self.door.gateway.present(speaker.device, True)
                        self.send(session.accept(message, now))
                    elif meters and (meter := meters.get(speaker.device.org)) is not None and meter.refuses(1):
                        self.refuse(message, OVER_QUOTA)
                    else:
                        raws.append(message.raw)
                        answer = session.accept(message, now)
                        if answer:
                            answers.append(answer)
                    if message.last:
                        if raws:
                            self.hand_in(whose, raws, answers, True)
                            raws = []
                        else:
                            self.close("the device leaves")
                        self.session = None
                    continue
                why = DENIED if right is not None else ""
            elif not self.door.identities.stranger(identity):
                why = ""
            if not why and self.door.strangers.wait(self.peer) > 0:
                self.door.throttled += 1
                why = UNKNOWN if speaker is None else DENIED
            if why:
                self.refuse(message, why)
                continue
            self.waiting = messages[number:]
            self.pause(AUTH)
            self.door.gateway.spawn(self.ask(message))
            break
        if raws and whose is not None:
            self.hand_in(whose, raws, answers)

    def meet(self, identity: bytes) -> Speaker | None:
        """A device that speaks on this connection for the first time, if the cache has it."""
        speaker = self.door.identities.known(identity)
        if speaker is not None and not speaker.secret:
            self.welcome(identity, speaker)
        return speaker

    def welcome(self, identity: bytes, speaker: Speaker) -> None:
        same = self.door.speaking.get(speaker.device.device_id)
        if not self.door.broadcast and self.door.gateway.too_many(same) and same is not None and self not in same:
            self.door.turned_away += 1
            self.close("too many connections of this device")
            return
        self.speakers[identity] = speaker
        self.door.speaking.setdefault(speaker.device.device_id, set()).add(self)
        self.door.gateway.present(speaker.device, True)
        if self.door.codec.methods and identity not in self.targets:
            target = self.targets[identity] = FieldTarget(self, identity, speaker)
            self.door.gateway.courier.ready(target)

    def resume_writing(self) -> None:
        super().resume_writing()
        for target in self.targets.values():
            self.door.gateway.courier.want(target)

    def proves(self, speaker: Speaker, message: Message) -> bool | None:
        """Whether the device proved that it is who it says; None if its password must be checked first."""
        if message.credential is None:
            return message.identity in self.proved
        right = speaker.proves(message.credential)
        if right and message.identity not in self.proved:
            self.proved.add(message.identity)
            self.welcome(message.identity, speaker)
        return right

    async def ask(self, message: Message) -> None:
        """Look up the device, or check its password; then go on with what waits."""
        door = self.door
        why = ""
        try:
            speaker = await door.identities.find(message.identity)
            if speaker is None:
                why = UNKNOWN
            elif speaker.secret and message.credential is not None and not await speaker.check(message.credential):
                why = DENIED
        except Exception as error:
            log.warning("devices cannot be looked up: %r", error)
            self.close("devices cannot be looked up now")
            return
        messages, self.waiting = self.waiting or [], None
        if self.session is None:
            return
        self.resume(AUTH)
        if why:
            if not door.broadcast and door.throttle.wait(self.peer) <= 0:
                of, entity = (NOBODY, 0) if speaker is None else (speaker.of, speaker.device.entity)
                door.bury(message.raw, REASONS[why], of, entity)
            door.strangers.failed(self.peer)
            self.refuse(message, why)
            messages = messages[1:]
        self.take(messages)

    def hand_in(self, speaker: Speaker, raws: list[bytes], answers: list[bytes], last: bool = False) -> None:
        """Give messages of one device to the ingestor; they are answered when they are durable."""
        door = self.door
        ingestor, name = door.ingestor, door.codec.name
        size = sum(map(len, raws)) + ROOM * len(raws)
        self.seen = self.clock.tick
        self.hold(size)
        meter = door.gateway.meters.by_org.get(speaker.device.org)
        if meter is not None:
            self.slow(meter, len(raws))
        ingestor.add(
            Chunk(name, speaker.device.entity, speaker.of, speaker.rules, raws, ingestor.stamp(len(raws)), False, name,
                  door.codec),
            (self, answers[0] if len(answers) == 1 else b"".join(answers), last), size,
        )

    def refuse(self, message: Message, why: str) -> None:
        door = self.door
        door.refused[why] += 1
        if self.session is not None:
            answer = self.session.refuse(message, why)
            if answer:
                self.send(answer)
        self.refused += 1
        if door.broadcast:
            self.seen = self.clock.tick
        elif not self.speakers and self.refused >= REFUSALS:
            self.close("only unknown devices")

    def broken(self, broken: Broken) -> None:
        door = self.door
        door.broken += 1
        if door.throttle.wait(self.peer) <= 0:
            door.throttle.failed(self.peer)
            door.bury(broken.raw, broken.refusal, NOBODY, 0)
        self.stray(len(broken.raw))

    def stray(self, size: int) -> None:
        """Count bytes outside of sound frames."""
        self.door.stray += size
        self.garbage += size
        if self.garbage > GARBAGE:
            self.close("not this protocol")


class FieldDoor:
    """The listeners of one protocol, their connections and upkeep; a part of the gateway."""

    def __init__(
        self, gateway: Gateway, codec: FieldCodec, identities: Identities, port: int, tls_port: int, udp_port: int = 0
    ) -> None:
        self.gateway, self.codec, self.identities = gateway, codec, identities
        self.name = codec.name
        self.broadcast = isinstance(codec, BroadcastCodec)
        self.throttle = Throttle()
        self._strangers = Throttle(*STRANGERS)
        self.connections: set[FieldConnection] = set()
        self.speaking: dict[str, set[FieldConnection]] = {}
        self.answering: list[Peer] = []
        self.broken = self.stray = self.throttled = self.turned_away = self.timed_out = 0
        self.refused = {UNKNOWN: 0, DENIED: 0, OVER_QUOTA: 0}
        self.ports: list[int] = []
        self._listen = port, tls_port
        self._udp_port = udp_port
        self._servers: list[asyncio.Server] = []
        self.datagrams: Datagrams | None = None
        self.ingestor: Ingestor

    @property
    def strangers(self) -> Throttle:
        """Of unknown identities, by address."""
        return self._strangers if self.broadcast else self.throttle

    async def start(self) -> None:
        """Open the listeners; `ports` says where, UDP at the end."""
        config, bus = self.gateway.config, self.gateway.bus
        self.ingestor = Ingestor(
            bus.nc, bus.js, name=f"{config.name}-{self.codec.name}", protocol=self.codec.name, released=self._released,
            pressure=self._press, high=config.high,
        )
        loop = asyncio.get_running_loop()
        for port, encrypted in zip(self._listen, (False, True), strict=True):
            if port:
                self._servers.append(await loop.create_server(
                    lambda: FieldConnection(self), config.host, max(port, 0), backlog=4096,
                    **(self.gateway.tls() if encrypted else {}),
                ))
        self.ports = [server.sockets[0].getsockname()[1] for server in self._servers]
        if self._udp_port and isinstance(self.codec, BroadcastCodec):
            end = self.codec.datagram_end
            transport, self.datagrams = await loop.create_datagram_endpoint(
                lambda: Datagrams(lambda: FieldConnection(self), end), local_addr=(config.host, max(self._udp_port, 0)),
            )
            self.ports.append(transport.get_extra_info("sockname")[1])

    async def close(self) -> None:
        """Stop listening, make durable what was read, close every connection."""
        for server in self._servers:
            server.close()
        if self.datagrams is not None:
            self.datagrams.close()
        for connection in list(self.connections):
            connection.pause(PRESSURE)
        await self.ingestor.close()
        for connection in list(self.connections):
            connection.take_no_commands()
            connection.close("the gateway stops")

    def arrived(self, connection: FieldConnection) -> None:
        self.connections.add(connection)
        if self.gateway.crowded(connection):
            self.turned_away += 1
            connection.close("too many connections")
        elif self.ingestor.pressed:
            connection.pause(PRESSURE)

    def left(self, connection: FieldConnection) -> None:
        self.connections.discard(connection)
        self.gateway.closed(connection)
        connection.take_no_commands()
        for speaker in connection.speakers.values():
            same = self.speaking.get(speaker.device.device_id)
            if same is not None:
                same.discard(connection)
                if not same:
                    del self.speaking[speaker.device.device_id]
                    self.gateway.present(speaker.device, False)

    def bury(self, raw: bytes, refusal: Refusal, of: tuple[str, str, int], entity: int) -> None:
        """Keep a message that is not stored as a dead letter."""
        name = self.codec.name
        chunk = Chunk(name, entity, of, ANY, [raw], self.ingestor.stamp(1), False, name, self.codec, refusal)
        self.ingestor.add(chunk, None, len(raw) + ROOM)

    def _released(self, items: list[Item]) -> None:
        leaving = []
        for _, receipt, size in items:
            if receipt is None:
                continue
            connection, answer, last = receipt
            connection.release(size)
            if answer and connection.transport is not None:
                connection.answer(answer, self.answering)
            if last:
                leaving.append(connection)
        answering, self.answering = self.answering, []
        write_answers(answering)
        for connection in leaving:
            connection.close("the device leaves")

    def _press(self, on: bool) -> None:
        log.warning("%s: reading %s, %d bytes held", self.codec.name, "paused" if on else "resumed", self.ingestor.held)
        press(self.connections, on)

    def changed(self, device_id: str) -> None:
        """A device changed (empty: many): forget it, and close the connections on which it speaks."""
        self.identities.forget(device_id)
        which = self.speaking.get(device_id, set()) if device_id else self.connections
        for connection in list(which):
            if connection.speakers:
                connection.close("a device was changed")

    def forget(self) -> None:
        """Changes may have been missed: look every device up again."""
        self.identities.forget("")

    def sweep(self) -> None:
        """Once a second: close connections that are silent, or whose frame does not end."""
        if self.ingestor.pressed:
            return
        tick, idle, first = self.gateway.tick, self.codec.idle, self.codec.first
        late = [
            c for c in self.connections
            if not c.reasons and (tick - c.seen > (idle if c.speakers else first)
                                  or (c.begun and tick + 1 - c.begun > UNFINISHED))
        ]
        for connection in late:
            if connection.session is not None:
                self.timed_out += 1
                connection.close("silent, or a frame that does not end")

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and the state now."""
        counters = self.ingestor.counters
        return {
            "connections": len(self.connections), "devices": len(self.speaking), "accepted": counters.accepted,
            "acked": counters.acked, "dead": counters.dead, "unknown": self.refused[UNKNOWN],
            "denied": self.refused[DENIED], "over_quota": self.refused[OVER_QUOTA], "broken": self.broken, "stray": self.stray, "throttled": self.throttled,
            "timed_out": self.timed_out, "turned_away": self.turned_away,
            **({"dropped": self.datagrams.dropped} if self.datagrams is not None else {}),
        }
