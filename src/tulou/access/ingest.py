"""The way in, shared by every door: authenticated payloads are batched, and released once JetStream has them.

Law: nothing is released (acknowledged to a device) before the batch that carries it, and its dead letters, are
synced. Batches are released in the order in which they were made, so that a connection's acknowledgements keep
their order. A device that sends rubbish waits for its dead letters, each of which costs a disk write; the others do
not wait with it. While the bus refuses, the same batch is published again with the same `Nats-Msg-Id`, and what is held
stays bounded because the door is told to stop reading.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import msgpack
from nats.aio.client import Client
from nats.js import JetStreamContext

from tulou.access.batch import BatchBuilder, BatchFull
from tulou.access.telemetry import Chunk, DeadLetter, Refusal, decode
from tulou.kernel.errors import Unavailable

log = logging.getLogger("tulou.ingest")

LETTERS_AT_ONCE = 32

Item = tuple[Chunk, Any, int]
"""A chunk, the door's own receipt for it, and the bytes that it holds."""


@dataclass(slots=True)
class Counters:
    """Counts since the start."""

    accepted: int = 0
    acked: int = 0
    readings: int = 0
    dead: int = 0
    bytes: int = 0
    batches: int = 0
    retries: int = 0


@dataclass(slots=True, eq=False)
class _Lag:
    """Items of one entity in one flight that wait for dead letters: their own, or those of an earlier flight."""

    letters: int = 0
    landed: bool = False
    items: list[Item] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Flight:
    """A batch under way: `parts` are (message, id) to publish."""

    items: list[Item]
    done: bool = False
    parts: list[tuple[bytes, str]] = field(default_factory=list)
    lags: dict[int, _Lag] = field(default_factory=dict)


def settle(items: list[Item]) -> None:
    """Who waits for these (`Ingestor.submit`) waits no more: they are durable."""
    for _, future, _ in items:
        if not future.done():
            future.set_result(None)


class Ingestor:
    """Batches chunks into the stream READINGS and their dead letters into DEAD.

    `released(items)` is called, in order, with the items that have become durable. `pressure(True)` asks the door to
    stop reading when more than `high` bytes are held, `pressure(False)` to go on below half of it.
    A batch is sent at the end of the loop's turn when none is under way, else when it has `batch_messages` or
    `batch_bytes`, or is `linger` seconds old; at most `in_flight` are under way. `refused(letter)` tells a
    door that answers with the reason what is not stored, before the message is released.
    """

    def __init__(
        self, nc: Client, js: JetStreamContext, *, name: str, protocol: str,
        released: Callable[[list[Item]], None], pressure: Callable[[bool], None],
        batch_messages: int = 1000, batch_bytes: int = 256 << 10, in_flight: int = 4, high: int = 64 << 20,
        linger: float = 0.002, publish_timeout: float = 5.0, refused: Callable[[DeadLetter], None] | None = None,
    ) -> None:
        self.nc, self.js = nc, js
        self.name, self.protocol = name, protocol
        self.subject = f"tulou.readings.{name}"
        self.counters = Counters()
        self.held = 0
        self.pressed = False
        self.failing = ""
        self._released, self._pressure, self._refused = released, pressure, refused
        self._batch_messages, self._batch_bytes = batch_messages, batch_bytes
        self._in_flight, self._high, self._linger = in_flight, high, linger
        self._timeout = publish_timeout
        self._waiting: deque[Item] = deque()
        self._waiting_messages = 0
        self._waiting_bytes = 0
        self._flights: deque[_Flight] = deque()
        self._lagging: dict[int, deque[_Lag]] = {}
        self._letters: deque[tuple[DeadLetter, str, _Lag]] = deque()
        self._carriers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_ts = 0
        self._run = secrets.token_hex(8)
        self._number = 0
        self._loop = asyncio.get_running_loop()

    def stamp(self, count: int) -> int:
        """Receive time in µs for the first of `count` messages; times never repeat within this door."""
        now = max(time.time_ns() // 1000, self._last_ts + 1)
        self._last_ts = now + count - 1
        return now

    def add(self, chunk: Chunk, receipt: Any, size: int) -> None:
        """Take a chunk that holds `size` bytes; it comes back through `released` once durable."""
        count = len(chunk.payloads)
        self._waiting.append((chunk, receipt, size))
        self._waiting_messages += count
        self._waiting_bytes += size
        self.counters.accepted += count
        self.counters.bytes += size
        self.held += size
        if self.held > self._high and not self.pressed:
            self.pressed = True
            self._pressure(True)
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._turn)

    async def submit(self, chunk: Chunk) -> None:
        """Take a chunk and return when it is durable; for doors that answer one request at a time.

        The door's `released` must be `settle`, or set the future that it finds as the receipt. Raises `Unavailable` when too much is
        held already; nothing was accepted then.
        """
        if self.pressed:
            raise Unavailable("入口积压，请稍后重试", "the door is holding too much; try again later",
                              rule="bounded memory")
        future: asyncio.Future[None] = self._loop.create_future()
        self.add(chunk, future, sum(map(len, chunk.payloads)) + 200)
        await future

    async def close(self, timeout: float = 5.0) -> None:
        """Send what waits and wait for it up to `timeout` seconds; what is not durable then was not acknowledged."""
        deadline = self._loop.time() + timeout
        while (self._waiting or self._flights or self._lagging) and self._loop.time() < deadline:
            self._flush(force=True)
            await asyncio.sleep(0.005)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _turn(self) -> None:
        self._soon = False
        self._flush()

    def _late(self) -> None:
        self._timer = None
        self._flush(force=True)

    def _flush(self, force: bool = False) -> None:
        while self._waiting and len(self._flights) < self._in_flight and (
            force or not self._flights or self._waiting_messages >= self._batch_messages
            or self._waiting_bytes >= self._batch_bytes
        ):
            self._send()
        if self._waiting and self._timer is None and len(self._flights) < self._in_flight:
            self._timer = self._loop.call_later(self._linger, self._late)

    def _send(self) -> None:
        items: list[Item] = []
        messages = size = 0
        waiting = self._waiting
        while waiting and messages < self._batch_messages and size < self._batch_bytes:
            item = waiting.popleft()
            items.append(item)
            messages += len(item[0].payloads)
            size += item[2]
        self._waiting_messages -= messages
        self._waiting_bytes -= size
        flight = _Flight(items)
        if self._lagging:
            for item in items:
                if item[0].entity in self._lagging:
                    self._lag(flight, item[0].entity)
        self._encode([item[0] for item in items], flight)
        self._flights.append(flight)
        self._spawn(self._fly(flight))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lag(self, flight: _Flight, entity: int) -> _Lag:
        """The lag of the entity in this flight, begun if there is none."""
        lag = flight.lags.get(entity)
        if lag is None:
            lag = flight.lags[entity] = _Lag()
            self._lagging.setdefault(entity, deque()).append(lag)
        return lag

    def _encode(self, chunks: list[Chunk], flight: _Flight) -> None:
        """Decode the chunks into messages to publish; in halves when one message cannot take them all."""
        builder = BatchBuilder(self.protocol)
        limit = self.nc.max_payload - 1024
        try:
            decoded = decode(chunks, builder, time.time_ns() // 1_000_000)
            body = builder.encode() if decoded.frames else b""
        except BatchFull:
            body, decoded = None, None
        except Exception:  # a defect of ours must not cost the neighbours: narrow it down to its message
            log.exception("decoding failed")
            body, decoded = None, None
        if body is None or decoded is None or len(body) > limit:
            if len(chunks) > 1:
                middle = len(chunks) // 2
                self._encode(chunks[:middle], flight)
                self._encode(chunks[middle:], flight)
                return
            chunk = chunks[0]
            if len(chunk.payloads) > 1:
                middle = len(chunk.payloads) // 2
                self._encode([_part(chunk, 0, middle)], flight)
                self._encode([_part(chunk, middle, len(chunk.payloads))], flight)
                return
            body = b""
            letters = [DeadLetter(
                chunk.entity, chunk.of[0], chunk.topic or chunk.kind, chunk.ts, chunk.payloads[0],
                Refusal("batch", "消息无法放入一个批次", "the message does not fit into a batch"),
            )]
        else:
            letters = decoded.dead
            self.counters.readings += decoded.readings
        if body:
            flight.parts.append((body, self._next_id()))
            self.counters.batches += 1
        for letter in letters:
            if self._refused is not None:
                self._refused(letter)
            lag = self._lag(flight, letter.entity)
            lag.letters += 1
            self._letters.append((letter, self._next_id(), lag))
        if letters:
            self.counters.dead += len(letters)
            while self._carriers < min(LETTERS_AT_ONCE, len(self._letters)):
                self._carriers += 1
                self._spawn(self._carry())

    def _next_id(self) -> str:
        self._number += 1
        return f"{self._run}-{self._number}"

    def _dead(self, letter: DeadLetter) -> bytes:
        raw, reason = letter.raw, letter.refusal.reason
        most = self.nc.max_payload - 8192
        if len(raw) > most:
            reason = f"{reason}；原文 {len(raw)} 字节，只留 {most} (the first {most} of {len(raw)} bytes are kept)"
            raw = raw[:most]
        packed: bytes = msgpack.packb({
            "entity": letter.entity, "org": letter.org, "protocol": self.protocol, "topic": letter.topic,
            "ts": letter.ts, "raw": raw, "reason": reason, "field": letter.refusal.field,
        })
        return packed

    async def _fly(self, flight: _Flight) -> None:
        parts = flight.parts
        if len(parts) == 1:
            await self._publish(self.subject, *parts[0])
        elif parts:
            await asyncio.gather(*(self._publish(self.subject, body, message_id) for body, message_id in parts))
        flight.parts = []
        flight.done = True
        self._land()

    async def _carry(self) -> None:
        """Publish dead letters until there are none."""
        letters = self._letters
        try:
            while letters:
                letter, message_id, lag = letters.popleft()
                await self._publish(f"tulou.dead.{letter.org}", self._dead(letter), message_id)
                lag.letters -= 1
                if not lag.letters and lag.landed:
                    self._release(self._caught_up(letter.entity))
        finally:
            self._carriers -= 1

    def _caught_up(self, entity: int) -> list[Item]:
        """The entity's items that wait for nothing any more, in order."""
        lags = self._lagging.get(entity)
        items: list[Item] = []
        while lags and lags[0].landed and not lags[0].letters:
            items += lags.popleft().items
        if lags is not None and not lags:
            del self._lagging[entity]
        return items

    async def _publish(self, subject: str, body: bytes, message_id: str) -> None:
        """Publish until it is durable; a repeat carries the same id, so that the stream drops it."""
        pause = 0.05
        while True:
            try:
                await self.js.publish(subject, body, timeout=self._timeout, headers={"Nats-Msg-Id": message_id})
            except Exception as error:  # whatever it is, what was not stored must not be given up
                self.counters.retries += 1
                if not self.failing:
                    log.warning("publish to %s failed, acknowledgements wait: %r", subject, error)
                self.failing = repr(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            else:
                if self.failing:
                    log.warning("publish to %s works again", subject)
                    self.failing = ""
                return

    def _land(self) -> None:
        flights = self._flights
        while flights and flights[0].done:
            flight = flights.popleft()
            items = flight.items
            if flight.lags:
                items = []
                for item in flight.items:
                    lag = flight.lags.get(item[0].entity)
                    (items if lag is None else lag.items).append(item)
                for entity, lag in flight.lags.items():
                    lag.landed = True
                    items += self._caught_up(entity)
            self._release(items)
        self._flush()

    def _release(self, items: list[Item]) -> None:
        if not items:
            return
        self.held -= sum(item[2] for item in items)
        self.counters.acked += sum(len(item[0].payloads) for item in items)
        self._released(items)
        if self.pressed and self.held < self._high // 2:
            self.pressed = False
            self._pressure(False)


def _part(chunk: Chunk, start: int, stop: int) -> Chunk:
    return Chunk(chunk.kind, chunk.entity, chunk.of, chunk.rules, chunk.payloads[start:stop], chunk.ts + start,
                 chunk.dup, chunk.topic, chunk.codec, chunk.refusal)
