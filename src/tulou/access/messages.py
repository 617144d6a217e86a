"""Applications' messages, retained messages and session records in JetStream: the streams MQTT, MQTT_RETAINED and
MQTT_SESSIONS.

Law: a message is released (acknowledged to its publisher) only when the batch that carries it, and if it is retained its
record, are synced. A topic space has one batch under way at a time, so the log has a client's messages in the order in
which they came (4.6.0-6); while one is under way the next one fills. A repeat carries the same id, so that the stream
drops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgpack
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from tulou.access.sessions import PLACES, Message
from tulou.kernel.bus import Bus, end

log = logging.getLogger("tulou.messages")

LOG, RETAINED, SESSIONS = "MQTT", "MQTT_RETAINED", "MQTT_SESSIONS"
SUBJECTS = {LOG: "tulou.mqtt.log", RETAINED: "tulou.mqtt.retained", SESSIONS: "tulou.mqtt.session"}
BATCH, BATCH_BYTES = 1000, 256 << 10
GONE = 60.0
"""Seconds that the mark of a deleted record is kept."""
HEARTBEAT = 5.0

Row = tuple[bytes, bytes, int, bytes, float, bytes, int]
"""topic, payload, QoS and 4 if retained, properties, expires, source, packet id of a QoS 2 message (0: none)"""


def encode(rows: list[Row]) -> bytes:
    """A batch of the log."""
    packed: bytes = msgpack.packb([1, rows])
    return packed


def decode(sequence: int, data: bytes) -> list[tuple[Message, int]]:
    """The messages of a batch, each with the packet id that its publisher gave it if it has QoS 2."""
    version, rows = msgpack.unpackb(data)
    if version != 1:
        raise ValueError(f"unknown batch version {version}")
    return [
        (Message(sequence << 16 | place, topic, payload, flags & 3, flags & 4 != 0, properties, expires, source), packet_id)
        for place, (topic, payload, flags, properties, expires, source, packet_id) in enumerate(rows)
    ]


def encode_retained(message: Message) -> bytes:
    """The record of a retained message."""
    packed: bytes = msgpack.packb([
        message.position, message.topic, message.payload, message.qos, message.properties, message.expires, message.source
    ])
    return packed


def decode_retained(data: bytes) -> Message:
    position, topic, payload, qos, properties, expires, source = msgpack.unpackb(data)
    return Message(position, topic, payload, qos, True, properties, expires, source)


def retained_subject(space: str, topic: bytes) -> str:
    return f"{SUBJECTS[RETAINED]}.{space}.{hashlib.sha256(topic).hexdigest()[:40]}"


class _Lane:
    """What waits of one topic space."""

    __slots__ = ("flying", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[tuple[Row, Any, int]] = deque()
        self.flying = False


class MessageLog:
    """Writes. `released(space, position, retained, receipts)` is called with what has become durable, in order by topic
    space: the last position, the retained messages, the receipts. `pressure(on)` asks the door to stop reading while more than `high` bytes are held."""

    def __init__(self, bus: Bus, released: Callable[[str, int, list[Message], list[Any]], None], pressure: Callable[[bool], None], *,
                 high: int = 64 << 20) -> None:
        self.bus = bus
        self.held = 0
        self.pressed = False
        self.failing = ""
        self.accepted = self.batches = 0
        self._released, self._pressure, self._high = released, pressure, high
        self._lanes: dict[str, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._run = secrets.token_hex(8)
        self._number = 0

    def add(self, space: str, row: Row, receipt: Any) -> None:
        """Take a message."""
        lane = self._lanes.get(space)
        if lane is None:
            lane = self._lanes[space] = _Lane()
        size = len(row[0]) + len(row[1]) + len(row[3]) + 200
        lane.waiting.append((row, receipt, size))
        self.accepted += 1
        self.held += size
        if self.held > self._high and not self.pressed:
            self.pressed = True
            self._pressure(True)
        if not lane.flying:
            lane.flying = True
            self.spawn(self._fly(space, lane))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fly(self, space: str, lane: _Lane) -> None:
        """Write the lane's batches, one after the other, until nothing waits."""
        await asyncio.sleep(0)
        waiting = lane.waiting
        while waiting:
            taken: list[tuple[Row, Any, int]] = []
            size = 0
            while waiting and len(taken) < BATCH and size < BATCH_BYTES:
                taken.append(waiting.popleft())
                size += taken[-1][2]
            rows = [row for row, _, _ in taken]
            sequence = await self.publish(f"{SUBJECTS[LOG]}.{space}", encode(rows), repeat=True)
            self.batches += 1
            retained: dict[bytes, Message] = {}
            for place, (topic, payload, flags, properties, expires, source, _) in enumerate(rows):
                if flags & 4:
                    retained.pop(topic, None)
                    retained[topic] = Message(
                        sequence << 16 | place, topic, payload, flags & 3, True, properties, expires, source
                    )
            if retained:
                await asyncio.gather(*(self._retain(space, message) for message in retained.values()))
            self.held -= size
            self._released(
                space, sequence << 16 | PLACES, list(retained.values()), [receipt for _, receipt, _ in taken]
            )
            if self.pressed and self.held < self._high // 2:
                self.pressed = False
                self._pressure(False)
        lane.flying = False
        del self._lanes[space]

    async def _retain(self, space: str, message: Message) -> None:
        subject = retained_subject(space, message.topic)
        if not message.payload:
            await self.publish(subject, b"", ttl=GONE)
            return
        ttl = max(1.0, message.expires - time.time() + 1) if message.expires else None
        await self.publish(subject, encode_retained(message), ttl=ttl)

    async def publish(self, subject: str, data: bytes, *, ttl: float | None = None, repeat: bool = False) -> int:
        """Publish until it is durable; returns the sequence. `repeat`: a second try must not be stored twice."""
        headers: dict[str, Any] | None = None
        if repeat:
            self._number += 1
            headers = {"Nats-Msg-Id": f"{self._run}-{self._number}"}
        pause = 0.05
        while True:
            try:
                done = await self.bus.js.publish(subject, data, timeout=5.0, headers=headers, msg_ttl=ttl)
            except Exception as error:  # whatever it is, what was not stored must not be given up
                if not self.failing:
                    log.warning("publish to %s failed, acknowledgements wait: %r", subject, error)
                self.failing = repr(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            else:
                self.failing = ""
                return int(done.seq)

    async def drain(self, timeout: float = 5.0) -> None:
        """Write what waits, up to `timeout` seconds."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=timeout)

    async def close(self) -> None:
        """As `drain`; what is not durable then was not acknowledged."""
        await self.drain()
        await end(self._tasks, patience=0.5)


async def read(bus: Bus, stream: str, subject: str, start: int = 1) -> AsyncIterator[tuple[int, str, bytes]]:
    """(sequence, subject, data) of what the stream has now from `start` on."""
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=max(1, start), ack_policy=AckPolicy.NONE,
        filter_subject=subject, mem_storage=True, inactive_threshold=30.0, num_replicas=1,
    )
    subscription = await bus.js.pull_subscribe(subject, stream=stream, config=config)
    try:
        pending = (await subscription.consumer_info()).num_pending or 0
        while pending:
            for message in await subscription.fetch(min(16, pending), timeout=5):
                metadata = message.metadata
                pending = metadata.num_pending
                yield metadata.sequence.stream, message.subject, message.data
    finally:
        with contextlib.suppress(Exception):
            await subscription.unsubscribe()


async def fetch(bus: Bus, position: int) -> Message | None:
    """One message of the log by its position; None if it is not there any more."""
    try:
        found = await bus.js.get_msg(LOG, position >> 16)
    except NotFoundError:
        return None
    batch = decode(position >> 16, found.data or b"")
    place = position & PLACES
    return batch[place][0] if place < len(batch) else None


class Follower:
    """Hands every message of a stream to `deliver(sequence, subject, data)`, in order and without gaps, from `start` on;
    without `start`, those that come from now on, and gaps are not made good. Call `watch` each second."""

    def __init__(self, bus: Bus, stream: str, subject: str, deliver: Callable[[int, str, bytes], None],
                 start: int | None = None) -> None:
        self.bus, self.stream, self.subject, self.deliver = bus, stream, subject, deliver
        self.last = start - 1 if start is not None else None
        self._consumed = 0
        self._heard = 0.0
        self._subscription: Any = None
        self._reconnects = -1
        self._broken = False

    async def open(self) -> None:
        """Begin, or begin again behind the last message that was delivered."""
        await self.close()
        inbox = self.bus.nc.new_inbox()
        self._consumed, self._broken = 0, False
        self._heard = time.monotonic()
        self._reconnects = self.bus.nc.stats["reconnects"]
        self._subscription = await self.bus.nc.subscribe(inbox, cb=self._take)
        where: dict[str, Any] = {"deliver_policy": DeliverPolicy.NEW} if self.last is None else {
            "deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": self.last + 1,
        }
        await self.bus.js.add_consumer(self.stream, ConsumerConfig(
            deliver_subject=inbox, ack_policy=AckPolicy.NONE, filter_subject=self.subject, mem_storage=True,
            inactive_threshold=30.0, idle_heartbeat=HEARTBEAT, num_replicas=1, **where,
        ))

    async def close(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()

    async def watch(self) -> None:
        """Begin again if something was missed, or the server has fallen silent."""
        nc = self.bus.nc
        silent = time.monotonic() - self._heard > 3 * HEARTBEAT
        if nc.is_connected and (self._broken or silent or self._reconnects != nc.stats["reconnects"]):
            await self.open()

    async def _take(self, message: Msg) -> None:
        self._heard = time.monotonic()
        if self._broken:
            return
        headers = message.headers
        if not message.reply or (headers is not None and "Status" in headers):
            last = (headers or {}).get("Nats-Last-Consumer")
            if last is not None and int(last) > self._consumed:
                self._broken = True
            return
        sequence = message.metadata.sequence
        if sequence.consumer != self._consumed + 1:
            self._broken = True
            return
        self._consumed = sequence.consumer
        if self.last is not None:
            self.last = sequence.stream
        try:
            self.deliver(sequence.stream, message.subject, message.data)
        except Exception:  # a defect of ours, or a message that is not ours, must not stop the others
            log.exception("message %s of %s could not be handled", sequence.stream, self.stream)
