"""MQTT sessions (MQTT 5.0, 4.1): what a client has subscribed to, what is under way to it, and from where it goes on.

Law: pure; no I/O and no clock of its own. A message has a position (sequence of its batch in the log << 16 | its place
in it), and positions only grow. A session says of itself "everything up to `position` was matched with my filters, and
this is what of it is not delivered yet", so that it can always go on by reading the log; its memory is therefore bounded
(`QUEUE`, `QUEUE_BYTES`, and the same of what is in flight) however slow or absent the client is.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from tulou.access import mqtt
from tulou.access.topics import Subscriptions, shared

QUEUE, QUEUE_BYTES = 1000, 1 << 20
"""Messages that wait for one client in memory; what is more is read from the log later."""
WINDOW, WINDOW_BYTES = 1000, 1 << 20
"""Messages of QoS 1 and 2 under way to one client, at most."""
CHUNK = 64 << 10
"""Bytes that are written at once."""
NEVER = 0xFFFF_FFFF
"""Session expiry of a session that does not end (3.1.2.11.2)."""
QUEUED, SENT, RELEASED = 0, 1, 2
"""Of a delivery: waits; was sent; was received by the client (PUBREC), which waits for PUBREL."""
PLACES = 0xFFFF
"""Places in a batch."""


def session_key(space: str, owner: str, client_id: str) -> bytes:
    """16 bytes for the session of a client id of an owner in a topic space."""
    return hashlib.sha256(f"{space}\0{owner}\0{client_id}".encode()).digest()[:16]


@dataclass(slots=True)
class Message:
    """An application message as the log has it. `expires` is in seconds since 1970, 0 for never; `source` is the session
    that published it."""

    position: int
    topic: bytes
    payload: bytes
    qos: int
    retain: bool
    properties: bytes
    expires: float
    source: bytes

    @property
    def size(self) -> int:
        return len(self.topic) + len(self.payload) + len(self.properties) + 200


@dataclass(slots=True)
class Subscription:
    """A filter with its options (5.0, 3.8.3.1). It is about messages after `since`."""

    filter: str
    qos: int
    no_local: bool
    as_published: bool
    handling: int
    identifier: int
    since: int

    @property
    def share(self) -> bool:
        return self.filter.startswith("$share/")


@dataclass(slots=True)
class Delivery:
    """A message on its way to a client. `message` is None when it must be read from the log first, or is not needed any
    more. `share` is the shared subscription it came by; `stored` says that it was retained before the subscription."""

    position: int
    message: Message | None
    qos: int
    retain: bool
    identifiers: tuple[int, ...] = ()
    share: str = ""
    packet_id: int = 0
    state: int = QUEUED
    stored: bool = False


@dataclass(slots=True)
class Client:
    """What the present connection of a session has agreed on: protocol level, Receive Maximum, Maximum Packet Size (0:
    none), Topic Alias Maximum; and what it has under way."""

    level: int
    window: int = WINDOW
    packet_limit: int = 0
    alias_maximum: int = 0
    aliases: dict[bytes, int] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)
    sent_bytes: int = 0

    def encode(self, delivery: Delivery, message: Message, now: float) -> bytes:
        """The PUBLISH, empty if the client would not take one of this size (MQTT-3.1.2-25)."""
        packet_id = delivery.packet_id.to_bytes(2) if delivery.qos else b""
        dup = delivery.state == SENT
        topic, properties, new = message.topic, b"", False
        if self.level == 5:
            properties = message.properties
            if message.expires:
                properties += b"\x02" + max(1, int(message.expires - now)).to_bytes(4)
            for identifier in delivery.identifiers:
                properties += b"\x0b" + mqtt.length(identifier)
            if self.alias_maximum:
                alias = self.aliases.get(topic, 0)
                if alias:
                    topic = b""
                elif len(self.aliases) < self.alias_maximum:
                    alias, new = len(self.aliases) + 1, True
                if alias:
                    properties += b"\x23" + alias.to_bytes(2)
        packet = mqtt.publish(topic, message.payload, delivery.qos, packet_id, dup=dup, retain=delivery.retain,
                              level=self.level, properties=properties)
        if self.packet_limit and len(packet) > self.packet_limit:
            return b""
        if new:
            self.aliases[topic] = alias
        return packet


class Session:
    """One session. `live`: its filters are in the tree, and it gets messages as they come; else it goes on from
    `position`. `expiry` is in seconds; `until` is when it ends, 0 while the client is there."""

    __slots__ = ("client_id", "expiry", "filters", "groups", "inflight", "key", "live", "next_id", "owner", "position",
                 "queue", "queue_bytes", "received", "shares", "space", "subscriptions", "until", "will", "will_at")

    def __init__(self, space: str, owner: str, client_id: str, position: int) -> None:
        self.space, self.owner, self.client_id = space, owner, client_id
        self.key = session_key(space, owner, client_id)
        self.expiry = 0
        self.until = 0.0
        self.subscriptions: dict[str, Subscription] = {}
        self.filters: Subscriptions[str, Subscription] = Subscriptions()
        self.queue: deque[Delivery] = deque()
        self.queue_bytes = 0
        self.inflight: dict[int, Delivery] = {}
        self.received: dict[int, bool] = {}
        """Packet ids of QoS 2 that the client has not released, and whether their messages are durable."""
        self.shares: dict[str, Subscription] = {}
        self.groups: dict[str, int] = {}
        """Shared subscriptions and how far they were dealt out, as read from the record."""
        self.live = False
        self.position = position
        self.next_id = 0
        self.will: mqtt.Will | None = None
        self.will_at = 0.0

    # Subscriptions

    def subscribe(self, subscription: Subscription) -> Subscription | None:
        """Put the subscription in place of the earlier one of the same filter, which is returned."""
        before = self.subscriptions.get(subscription.filter)
        if before is not None:
            subscription.since = before.since
        self.subscriptions[subscription.filter] = subscription
        if subscription.share:
            self.shares[subscription.filter] = subscription
        else:
            self.filters.add(subscription.filter.encode(), subscription.filter, subscription)
        return before

    def unsubscribe(self, wanted: str) -> Subscription | None:
        """Take the subscription away; None if there is none."""
        before = self.subscriptions.pop(wanted, None)
        if before is not None:
            self.shares.pop(wanted, None)
            self.filters.remove(wanted.encode(), wanted)
        return before

    def meets(self, message: Message) -> list[Subscription]:
        """The plain subscriptions that the message meets."""
        return [subscription for _, subscription in self.filters.match(message.topic)]

    # On the way out

    @property
    def full(self) -> bool:
        return len(self.queue) >= QUEUE or self.queue_bytes >= QUEUE_BYTES

    @property
    def hungry(self) -> bool:
        """Whether it is worth reading on."""
        return len(self.queue) <= QUEUE // 2 and self.queue_bytes <= QUEUE_BYTES // 2

    def offer(self, message: Message, subscriptions: Sequence[Subscription]) -> bool:
        """Queue one copy for all the subscriptions that it meets, with the highest QoS of them (3.3.4). False if there
        is no room; True also where nothing is to be sent."""
        qos, as_published, meant = 0, False, False
        identifiers: tuple[int, ...] = ()
        for subscription in subscriptions:
            if message.position <= subscription.since or (subscription.no_local and message.source == self.key):
                continue
            meant = True
            qos = max(qos, subscription.qos)
            as_published = as_published or subscription.as_published
            if subscription.identifier:
                identifiers += (subscription.identifier,)
        if not meant:
            return True
        if self.full:
            return False
        share = subscriptions[0].filter if subscriptions[0].share else ""
        self._queue(Delivery(
            message.position, message, min(qos, message.qos), message.retain and as_published, identifiers, share
        ))
        return True

    def retained(self, message: Message, subscription: Subscription) -> None:
        """Queue a retained message for a new subscription (3.3.1.3)."""
        identifiers = (subscription.identifier,) if subscription.identifier else ()
        self._queue(Delivery(
            message.position, message, min(subscription.qos, message.qos), True, identifiers, stored=True
        ))

    def _queue(self, delivery: Delivery) -> None:
        self.queue.append(delivery)
        assert delivery.message is not None
        self.queue_bytes += delivery.message.size

    def pump(self, client: Client, now: float) -> tuple[bytes, bool]:
        """What may be sent now, about `CHUNK` bytes of it at most, and whether a packet id was bound to a message of
        QoS 2, which must be kept before it is sent."""
        out: list[bytes] = []
        size, bound = 0, False
        queue = self.queue
        while queue and size < CHUNK:
            delivery = queue[0]
            message = delivery.message
            if delivery.qos and delivery.packet_id not in client.sent and (
                len(client.sent) >= client.window or client.sent_bytes >= WINDOW_BYTES
            ):
                break
            queue.popleft()
            if message is not None:
                self.queue_bytes -= message.size
            if delivery.state == RELEASED:
                packet = mqtt.pubrel(delivery.packet_id.to_bytes(2))
                client.sent[delivery.packet_id] = 0
            elif message is None or (delivery.state == QUEUED and message.expires and message.expires <= now):
                self.inflight.pop(delivery.packet_id, None)
                continue
            else:
                if delivery.qos and not delivery.packet_id:
                    delivery.packet_id = self._free_id()
                packet = client.encode(delivery, message, now)
                if not packet:
                    self.inflight.pop(delivery.packet_id, None)
                    continue
                if delivery.qos:
                    delivery.state = SENT
                    bound = bound or delivery.qos == 2
                    self.inflight[delivery.packet_id] = delivery
                    client.sent[delivery.packet_id] = message.size
                    client.sent_bytes += message.size
            out.append(packet)
            size += len(packet)
        return b"".join(out), bound

    def _free_id(self) -> int:
        while True:
            self.next_id = self.next_id % 65_535 + 1
            if self.next_id not in self.inflight:
                return self.next_id

    def acknowledged(self, client: Client, kind: int, packet_id: int, reason: int) -> bool:
        """PUBACK, PUBREC or PUBCOMP came; whether PUBREL is to be sent for it."""
        delivery = self.inflight.get(packet_id)
        if delivery is None:
            return kind == 5 and reason < 0x80 and client.level == 4
        if kind == 5 and reason < 0x80:
            if delivery.qos != 2:
                return False
            delivery.state = RELEASED
            delivery.message = None
            client.sent_bytes -= client.sent.get(packet_id, 0)
            client.sent[packet_id] = 0
            return True
        if (kind == 4) != (delivery.qos == 1) or (kind == 7 and delivery.state != RELEASED):
            return False
        del self.inflight[packet_id]
        client.sent_bytes -= client.sent.pop(packet_id, 0)
        return False

    # Coming and going

    def park(self, head: int) -> list[Delivery]:
        """The client is away; `head` is how far the log was matched if the session was live. What was not sent yet is
        left to be read from the log, except retained messages, which are not found there by position. Returns what was
        dealt to it of shared subscriptions and not sent."""
        if self.live:
            self.position = head
            self.live = False
        kept: deque[Delivery] = deque()
        dealt: list[Delivery] = []
        first = 0
        for delivery in self.queue:
            if delivery.packet_id:
                continue  # in flight from before
            if delivery.share:
                dealt.append(delivery)
            elif delivery.stored:
                if delivery.qos:
                    delivery.message = None
                    kept.append(delivery)
            elif not first:
                first = delivery.position
        if first:
            self.position = min(self.position, first - 1)
        for delivery in self.inflight.values():
            delivery.message = None
        self.queue = kept
        self.queue_bytes = 0
        return dealt

    def missing(self) -> list[Delivery]:
        """Deliveries whose message must be read from the log before they can be sent again."""
        return [
            delivery for delivery in [*self.inflight.values(), *self.queue]
            if delivery.message is None and delivery.state != RELEASED
        ]

    def resume(self) -> None:
        """The client is back: what was in flight is sent again first, in its order (MQTT-4.4.0-1, 4.6.0-1)."""
        self.queue.extendleft(reversed(self.inflight.values()))
        self.queue_bytes = sum(d.message.size for d in self.queue if d.message is not None)

    # The record

    def record(self, head: int, written: int, groups: dict[str, int]) -> bytes:
        """The session as it is kept. `head` is how far the log was matched by now, `written` the last position that is in
        `received` if it has to be, `groups` how far shared subscriptions were dealt out."""
        position = head if self.live else self.position
        out = []
        first = 0
        for delivery in self.queue:
            if delivery.packet_id or delivery.share:
                continue
            if delivery.stored:
                if delivery.qos:
                    out.append(delivery)
            elif not first:
                first = delivery.position
        if first:
            position = min(position, first - 1)
        dealt = [delivery for delivery in self.queue if delivery.share and not delivery.packet_id]
        will = self.will
        packed: bytes = msgpack.packb({
            "v": 1, "space": self.space, "owner": self.owner, "client_id": self.client_id, "expiry": self.expiry,
            "until": self.until, "position": position, "written": written, "next_id": self.next_id,
            "subscriptions": [
                [s.filter, s.qos, s.no_local, s.as_published, s.handling, s.identifier, s.since]
                for s in self.subscriptions.values()
            ],
            "out": [
                [d.position, d.qos, d.retain, d.identifiers, d.share, d.packet_id, d.state, d.stored]
                for d in [*self.inflight.values(), *out, *dealt]
            ],
            "received": list(self.received), "groups": groups,
            "will": None if will is None else [
                will.topic, will.payload, will.qos, will.retain, will.delay,
                None if will.properties is None else [will.properties.kept, will.properties.expiry],
            ],
            "will_at": self.will_at,
        })
        return packed

    @classmethod
    def from_record(cls, data: bytes) -> Session:
        """The session as it was kept. Raises `ValueError` or `KeyError` if it is not a record."""
        body: dict[str, Any] = msgpack.unpackb(data)
        session = cls(body["space"], body["owner"], body["client_id"], body["position"])
        session.expiry, session.until = body["expiry"], body["until"]
        session.next_id = body["next_id"]
        for entry in body["subscriptions"]:
            session.subscribe(Subscription(*entry))
        for position, qos, retain, identifiers, share, packet_id, state, stored in body["out"]:
            delivery = Delivery(position, None, qos, retain, tuple(identifiers), share, packet_id, state, stored)
            if packet_id:
                session.inflight[packet_id] = delivery
            else:
                session.queue.append(delivery)
        session.received = dict.fromkeys(body["received"], True)
        session.groups = body["groups"]
        if body["will"] is not None:
            topic, payload, qos, retain, delay, properties = body["will"]
            session.will = mqtt.Will(topic, payload, qos, retain, delay,
                                     None if properties is None else mqtt.Properties(*properties))
        session.will_at = body["will_at"]
        return session


def record_written(data: bytes) -> int:
    """`written` of a record."""
    written: int = msgpack.unpackb(data)["written"]
    return written


class Group:
    """The clients of one shared subscription (4.8.2): each message goes to one of them that has room, in turn."""

    __slots__ = ("filter", "live", "members", "position", "wanted")

    def __init__(self, wanted: str, position: int) -> None:
        self.filter = wanted
        share = shared(wanted)
        assert share is not None
        self.wanted = share[1].encode()
        self.position = position
        self.live = True
        self.members: dict[bytes, tuple[Session, Subscription]] = {}
        """By session key, absent ones too, so that the group outlives connections; those that are live get messages."""

    def offer(self, message: Message, present: Iterable[bytes]) -> Session | None:
        """Deal the message out; returns who got it, None if nobody can take it now. `present` are the keys of sessions
        whose client is there."""
        there = set(present)
        for key, (session, subscription) in list(self.members.items()):
            if key in there and not session.full and session.offer(message, [subscription]):
                self.members[key] = self.members.pop(key)
                return session
        return None
