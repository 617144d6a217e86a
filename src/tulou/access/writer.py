"""The writer: batches from the stream READINGS into the readings store, each reading exactly once.

Law: a reading is (entity, property, ts). A group of messages is stated in SQL before it is stored and acknowledged
only after it is stored and the entities' current state is committed. A group of which it is unknown what was stored
(a crash, a refusing store) is formed again from the same messages and completed by looking: what is missing is
stored, what is there is left, and roll-ups are made to agree. So nothing is lost and nothing counts twice, whatever
the moment of a crash, and the deduplication token is a second belt.

A repeat with the same value is dropped; one with another value goes to the dead letters as a conflict. A message
that MQTT marks as re-sent and that has no device time is a repeat if the same payload of the same entity was stored
within the last hour.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgpack
import nats.errors
import numpy as np
import orjson
import pyarrow as pa
import sqlalchemy as sa
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError
from numpy.typing import NDArray

from tulou.access.batch import Batch
from tulou.access.edge.tables import edges, uplink_position
from tulou.access.relay import Arrival, Relay, read
from tulou.access.rules.models import rule_checkpoint
from tulou.kernel.bus import Bus, end
from tulou.kernel.house import asked_to_end
from tulou.kernel.policy import ROOT
from tulou.kernel.readings import Class, Frames, Readings, Rows, Stored, raw_column
from tulou.kernel.sql import Database, UtcDateTime, metadata

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.writer")

STREAM = "READINGS"
DURABLE = "writer"
HEARD = "tulou.live.heard"
"""Core NATS subject: the entities of a group that is stored, and when each was heard (µs), as two lists."""
HEARD_AT_ONCE = 50_000
HOUR = 3_600_000_000

writer_intent = sa.Table(
    "writer_intent", metadata,
    sa.Column("stream", sa.String(64), primary_key=True),
    sa.Column("created", UtcDateTime, nullable=False),
    sa.Column("floor", sa.BigInteger, nullable=False),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("last", sa.BigInteger, nullable=False),
)
"""Everything up to `floor` is stored; `first`..`last` may be (0 when no group is under way). `created` is the
stream's: another one means that its numbers began anew."""

OnLatest = Callable[[Rows], Awaitable[None]]
"""Takes the newest row of each (entity, property) of a group. It must ignore what is older than what it has."""


@dataclass(slots=True)
class Counters:
    """Counts since the start."""

    readings: int = 0
    frames: int = 0
    groups: int = 0
    repeats: int = 0
    conflicts: int = 0
    recovered: int = 0
    lag: int = 0
    error: str = ""


@dataclass(slots=True)
class Letter:
    """A dead letter on its way; `id` makes a second publish a repeat for the stream."""

    org: str
    id: str
    body: dict[str, Any]


@dataclass(slots=True)
class Decoded:
    """Columns of a group: readings in the store's order, each with the place of its frame in `frames`; which of them
    may repeat another one of the group."""

    rows: Rows
    frames: Frames
    place: NDArray[np.intp]
    repeated: NDArray[np.bool_]


@dataclass(slots=True)
class Group:
    """Consecutive messages that are stored together."""

    arrivals: list[Arrival]
    first: int
    last: int
    era: str
    decoded: Decoded
    unsure: bool = False
    stored: bool = False
    latest: Rows | None = None
    letters: list[Letter] = field(default_factory=list)

    @property
    def token(self) -> str:
        return f"{STREAM}:{self.era}:{self.first}-{self.last}"


class Decoder:
    """Turns batches into columns with names and classes numbered alike in all of them."""

    def __init__(self) -> None:
        self._properties: dict[str, int] = {}
        self._classes: dict[Class, int] = {}
        self._protocols: dict[str, int] = {}

    def decode(self, batches: Sequence[tuple[int, Batch]]) -> Decoded:
        """Columns of batches, each with its sequence in the stream."""
        if len(self._properties) > 50_000 or len(self._classes) > 50_000:
            self._properties, self._classes = {}, {}
        r_prop, r_of, f_of, f_protocol, raws, places, text, at, before = [], [], [], [], [], [], {}, 0, 0
        for _, b in batches:
            names = np.array([self._properties.setdefault(p, len(self._properties)) for p in b.props], np.int32)
            of = np.array([self._classes.setdefault(c, len(self._classes)) for c in b.classes], np.int32)
            r_prop.append(names[b.r_prop])
            f_of.append(of[b.f_class])
            r_of.append(f_of[-1][b.r_frame])
            protocol = self._protocols.setdefault(b.protocol, len(self._protocols))
            f_protocol.append(np.full(len(b.f_entity), protocol, np.int32))
            raws.append(raw_column(b.f_len, b.f_raw))
            places.append(b.r_frame.astype(np.intp) + before)
            before += len(b.f_entity)
            for row, value in b.r_text.items():
                text[at + row] = value
            at += len(b.r_val)
        classes, properties, protocols = list(self._classes), list(self._properties), list(self._protocols)

        def join(columns: list[NDArray[Any]], kind: Any) -> NDArray[Any]:
            return np.concatenate(columns).astype(kind, copy=False) if columns else np.empty(0, kind)

        rows = Rows(
            join([b.r_entity for _, b in batches], np.uint64), join(r_prop, np.int32),
            join([b.r_ts for _, b in batches], np.int64), join([b.r_val for _, b in batches], np.float64),
            join([b.r_quality for _, b in batches], np.uint8), join(r_of, np.int32),
            join([np.full(len(b.r_val), seq, np.uint64) for seq, b in batches], np.uint64),
            join([b.r_frame for _, b in batches], np.uint32), properties, classes, text,
        )
        frames = Frames(
            join([b.f_entity for _, b in batches], np.uint64), join([b.f_ts for _, b in batches], np.int64),
            join(f_of, np.int32), join(f_protocol, np.int32), join([b.f_dup for _, b in batches], np.uint8),
            join([np.full(len(b.f_entity), seq, np.uint64) for seq, b in batches], np.uint64),
            join([np.arange(len(b.f_entity), dtype=np.uint32) for _, b in batches], np.uint32),
            pa.concat_arrays(raws) if raws else pa.array([], pa.large_binary()), classes, protocols,
        )
        order = rows.order()
        rows, place = rows.take(order), join(places, np.intp)[order]
        return Decoded(rows, frames, place, repeated(rows))


class Watermarks:
    """The time of the newest reading by entity number; what is not newer than it may be a repeat."""

    def __init__(self) -> None:
        self._newest = np.full(1024, np.iinfo(np.int64).min, np.int64)

    def raise_to(self, entity: NDArray[np.uint64], ts: NDArray[np.int64]) -> None:
        """Note readings."""
        if len(entity):
            self._grow(int(entity.max()))
            np.maximum.at(self._newest, entity.astype(np.int64), ts)

    def reached(self, entity: NDArray[np.uint64], ts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which readings are not newer than what is known."""
        self._grow(int(entity.max()))
        known: NDArray[np.bool_] = ts <= self._newest[entity.astype(np.int64)]
        return known

    def _grow(self, entity: int) -> None:
        if entity >= len(self._newest):
            more = np.full(max(entity + 1, 2 * len(self._newest)), np.iinfo(np.int64).min, np.int64)
            more[: len(self._newest)] = self._newest
            self._newest = more


class Gate:
    """Who passes may write to the readings store: the writer with a group, or an amendment of what is stored, one at a
    time. `watermarks` are what the writer knows of what is stored; an amendment raises them for what it adds."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.watermarks = Watermarks()


def repeated(rows: Rows) -> NDArray[np.bool_]:
    """Rows whose identity may occur more than once among them (a hash decides: never misses, rarely errs)."""
    with np.errstate(over="ignore"):
        mixed = rows.entity * np.uint64(0x9E3779B97F4A7C15) ^ rows.ts.view(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        mixed ^= mixed >> np.uint64(29)
        mixed = (mixed + rows.property.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(32)
    ordered = np.sort(mixed)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.isin(mixed, twice) if len(twice) else np.zeros(len(mixed), bool)


def heard(decoded: Decoded) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The entities that sent frames, or of which others' frames spoke, and when the last was received."""
    rows, frames, place = decoded.rows, decoded.frames, decoded.place
    others = np.flatnonzero(rows.entity != frames.entity[place])
    entity, at = np.unique(np.concatenate([frames.entity, rows.entity[others]]), return_inverse=True)
    when = np.zeros(len(entity), np.int64)
    np.maximum.at(when, at, np.concatenate([frames.ts, frames.ts[place[others]]]))
    return entity, when


class Writer:
    """Runs the consumer. `fault` is called with the name of every step, so that tests can stop there."""

    def __init__(
        self, readings: Readings, db: Database, bus: Bus, on_latest: OnLatest | None = None, *,
        linger: float = 0.25, max_rows_bytes: int = 32 << 20, max_held_bytes: int = 64 << 20,
        fault: Callable[[str], None] = lambda step: None, gate: Gate | None = None, relay: Relay | None = None,
        uplink: bool = False,
    ) -> None:
        self.readings, self.db, self.bus, self.on_latest = readings, db, bus, on_latest
        self.counters = Counters()
        self._gate, self._relay = gate or Gate(), relay or Relay(0)
        self._linger, self._group_bytes, self._held_bytes = linger, max_rows_bytes, max_held_bytes
        self._fault = fault
        self._uplink = uplink
        self._decoder, self._watermarks = Decoder(), self._gate.watermarks
        self._created: dt.datetime
        self._floor = 0
        self._stated = 0
        self._intent: tuple[int, int] | None = None
        self._position = 0
        self._arrivals: deque[Arrival] = deque()
        self._oldest: Msg | None = None
        self._held = 0
        self._arrived, self._room = asyncio.Event(), asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def _era(self) -> str:
        """Tells the sequence numbers of this stream from those of one that had its name before."""
        return self._created.strftime("%Y%m%dT%H%M%S%f")

    @property
    def floor(self) -> int:
        """The stream sequence up to which everything is stored and acknowledged."""
        return self._floor

    # -- life

    async def run(self) -> None:
        """Until cancelled. The group under way is finished first, for at most ten seconds."""
        await self._open()
        if asked_to_end():
            return
        self._stopping.clear()
        loop = asyncio.create_task(self._groups())
        helpers = [asyncio.create_task(self._fetch()), asyncio.create_task(self._tell())]
        try:
            done, _ = await asyncio.wait({loop, *helpers}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._stopping.set()
            self._arrived.set()
            await asyncio.wait([loop], timeout=10)
            await end([loop, *helpers], patience=0.5)

    async def _open(self) -> None:
        info = await self.bus.js.stream_info(STREAM)
        assert info.created is not None
        self._created = info.created
        row = await self.db.read(
            lambda c: c.execute(sa.select(writer_intent).where(writer_intent.c.stream == STREAM)).first()
        )
        if row is None or row.created != self._created:
            self._floor, self._intent = 0, None
        else:
            self._floor = row.floor
            self._intent = (row.first, row.last) if row.last > row.floor else None
        self._stated = self._floor
        self._position = self._floor
        self._relay.start(self._floor, info.state.last_seq - self._floor)
        self._watermarks.raise_to(*await self.readings.watermarks())

    async def _state(self, first: int, last: int) -> None:
        """Write down the floor and the group under way (0, 0 for none)."""
        row = {"stream": STREAM, "created": self._created, "floor": self._floor, "first": first, "last": last}

        def write(connection: sa.Connection) -> None:
            changed = connection.execute(
                sa.update(writer_intent).where(writer_intent.c.stream == STREAM).values(**row)
            ).rowcount
            if not changed:
                connection.execute(sa.insert(writer_intent).values(**row))

        await self.db.write(write)
        self._stated = self._floor

    # -- receiving

    async def _fetch(self) -> None:
        """Keep messages at hand, in the stream's order and without gaps.

        The consumer is made anew from our own position whenever a delivery was lost, so redelivery is not needed.
        """
        subscription: JetStreamContext.PullSubscription | None = None
        js, expected = self.bus.js, 1
        try:
            while not self._stopping.is_set():
                if self._held >= self._held_bytes:
                    self._relay.quiet = False
                    self._room.clear()
                    await self._room.wait()
                try:
                    if subscription is None:
                        with contextlib.suppress(NotFoundError):
                            await js.delete_consumer(STREAM, DURABLE)
                        await js.add_consumer(STREAM, ConsumerConfig(
                            durable_name=DURABLE, ack_policy=AckPolicy.ALL, ack_wait=3600, max_ack_pending=20_000,
                            deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._position + 1,
                        ))
                        subscription = await js.pull_subscribe_bind(DURABLE, STREAM)
                        expected = 1
                    self._relay.quiet = not self._relay.pending
                    messages = await subscription.fetch(64, timeout=5)
                    self._relay.quiet = False
                except (nats.errors.TimeoutError, TimeoutError):
                    self._relay.pending = 0
                    continue
                except (nats.errors.Error, OSError) as error:
                    log.debug("fetch: %r", error)
                    self._relay.quiet = False
                    await _drop(subscription)
                    subscription = None
                    await asyncio.sleep(0.2)
                    continue
                following = []
                for message in messages:
                    place = message.metadata.sequence
                    if place.consumer != expected:
                        log.warning("a delivery was lost; reading the stream again from %d", self._position + 1)
                        await _drop(subscription)
                        subscription = None
                        break
                    expected += 1
                    if place.stream > self._position:
                        following.append(message)
                if following:
                    arrivals = await asyncio.to_thread(read, following)
                    pending = following[-1].metadata.num_pending
                    self._position = arrivals[-1].seq
                    self._arrivals.extend(arrivals)
                    self._held += sum(arrival.size for arrival in arrivals)
                    self.counters.lag = pending + len(self._arrivals)
                    self._relay.put(arrivals, pending)
                self._arrived.set()
        finally:
            self._relay.stop()
            await _drop(subscription)

    async def _next(self, before: asyncio.Task[None] | None) -> Group | None:
        """The next group: after a crash the one that was stated, else what has arrived. None when stopping.

        While the group `before` is being stored, what arrives is collected, up to the size of a group.
        """
        if self._intent is not None:
            first, last = self._intent
            await self._until(lambda: bool(self._arrivals) and self._position >= last, last)
            if self._stopping.is_set():
                return None
            self._intent = None
            taken = []
            while self._arrivals and self._arrivals[0].seq <= last:
                taken.append(self._arrivals.popleft())
            self._release(taken)
            if taken:
                return await self._decoded(taken, first, last, unsure=True)
        await self._until(lambda: bool(self._arrivals), before=before)
        linger = time.monotonic() + self._linger
        while self._held < self._group_bytes and not self._stopping.is_set():
            left = linger - time.monotonic()
            if left <= 0 and (before is None or before.done()):
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(left, 0.01)):
                    await self._stopping.wait()
        if self._stopping.is_set():
            return None
        taken, size = [], 0
        while self._arrivals and size < self._group_bytes:
            taken.append(self._arrivals.popleft())
            size += taken[-1].size
        self._release(taken)
        return await self._decoded(taken, taken[0].seq, taken[-1].seq)

    async def _decoded(self, arrivals: list[Arrival], first: int, last: int, *, unsure: bool = False) -> Group:
        batches = [(arrival.seq, arrival.batch) for arrival in arrivals if arrival.batch is not None]
        decoded = await asyncio.to_thread(self._decoder.decode, batches)
        self._fault("decoded")
        return Group(arrivals, first, last, self._era, decoded, unsure)

    async def _until(
        self, ready: Callable[[], bool], last: int = 0, before: asyncio.Task[None] | None = None
    ) -> None:
        idle_since = time.monotonic()
        while not ready() and not self._stopping.is_set():
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._arrived.wait()
            if before is not None and before.done():
                before.result()
            if ready():
                return
            if last and time.monotonic() - idle_since > 2:
                with contextlib.suppress(nats.errors.Error, TimeoutError):
                    info = await self.bus.js.stream_info(STREAM)
                    if info.state.last_seq <= self._position:  # the stream no longer has what was stated
                        return
            elif not last and self._stated < self._floor and (before is None or before.done()):
                await self._state(0, 0)

    def _release(self, arrivals: list[Arrival]) -> None:
        self._held -= sum(arrival.size for arrival in arrivals)
        self._room.set()

    # -- storing

    async def _groups(self) -> None:
        """Store group after group; the next one is collected and decoded while one is stored."""
        storing: asyncio.Task[None] | None = None
        try:
            while not self._stopping.is_set():
                group = await self._next(storing)
                if storing is not None:
                    await storing
                if group is None:
                    return
                storing = asyncio.create_task(self._until_stored(group))
                storing.add_done_callback(lambda _: self._arrived.set())
        finally:
            if storing is not None:
                await storing

    async def _until_stored(self, group: Group) -> None:
        """Try until the group is stored, or the writer is stopping."""
        self._oldest = group.arrivals[0].message
        pause = 0.1
        while True:
            try:
                async with self._gate.lock:
                    await self._group(group)
            except Exception as error:
                told, self.counters.error = self.counters.error, f"{type(error).__name__}: {error}"
                if told != self.counters.error:
                    log.exception("group %s could not be stored; trying until it is", group.token)
                else:
                    log.warning("group %s: %s; again in %.1f s", group.token, self.counters.error, pause)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stopping.wait()
                if self._stopping.is_set():
                    return
                pause = min(pause * 2, 15.0)
                continue
            if self.counters.error:
                log.warning("group %s is stored; the writer goes on", group.token)
                self.counters.error = ""
            break
        self._oldest = None

    async def _group(self, group: Group) -> None:
        if not group.stored:
            await self._store(group)
        for letter in group.letters:
            await self.bus.js.publish(
                f"tulou.dead.{letter.org}", msgpack.packb(letter.body), headers={"Nats-Msg-Id": letter.id}
            )
        group.letters = []
        self._fault("dead")
        if group.latest is not None and len(group.latest) and self.on_latest is not None:
            await self.on_latest(group.latest)
        group.latest = None
        await self._heard(group.decoded)
        self._fault("latest")
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            # Our own floor counts; the acknowledgement tells the server, and a later one covers a lost one.
            await group.arrivals[-1].message.ack_sync(timeout=5)
        self._fault("acknowledged")
        self._floor = max(self._floor, group.last)
        self.counters.groups += 1

    async def _store(self, group: Group) -> None:
        rows, frames = group.decoded.rows, group.decoded.frames
        screened = await self._screen(group.decoded, everything=group.unsure)
        fresh, kept = rows.where(screened.fresh), frames.where(screened.kept)
        if group.unsure:
            truth = rows.where(~(screened.conflict | screened.void))
            group.latest = await self.readings.recover(truth, fresh, kept, group.token)
            self.counters.recovered += 1
        else:
            await self._state(group.first, group.last)
            self._fault("stated")
            group.unsure = True
            group.latest = await self.readings.insert(fresh, kept, group.token)
        self._fault("inserted")
        group.stored = True
        self._watermarks.raise_to(rows.entity, rows.ts)
        group.letters = [*_conflicts(rows, frames, screened), *_unreadable(group.arrivals)]
        conflicts = int(screened.conflict.sum())
        self.counters.readings += len(fresh)
        self.counters.frames += len(kept)
        self.counters.conflicts += conflicts
        self.counters.repeats += len(rows) - len(fresh) - conflicts

    async def _screen(self, decoded: Decoded, *, everything: bool) -> Screened:
        """Decide what is new. Only rows that may be repeats are looked up, or `everything` after a failure."""
        rows, frames, place = decoded.rows, decoded.frames, decoded.place
        again = await self._sent_again(rows, frames, place)
        void = again[place]
        repeat, conflict = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
        if len(rows):
            suspect = ~void
            if not everything:
                suspect &= self._watermarks.reached(rows.entity, rows.ts) | decoded.repeated
            at = np.flatnonzero(suspect)
            if len(at):
                stored = await self.readings.stored(rows.entity[at], rows.ts[at])
                repeat[at], conflict[at] = await asyncio.to_thread(judge, rows.take(at), stored)
        fresh = ~(void | repeat | conflict)
        readings_in = np.bincount(place, minlength=len(frames))
        fresh_in = np.bincount(place, weights=fresh, minlength=len(frames))
        kept = ~again & ((readings_in == 0) | (fresh_in > 0))
        if everything and len(frames):
            # Frames are stored before their readings, so one without new readings need not be looked for.
            found = await self.readings.stored_frames(frames.entity, int(frames.ts.min()), int(frames.ts.max()) + 1)
            kept &= ~np.isin(_key(frames.seq, frames.frame), _key(_np(found, "seq"), _np(found, "frame")))
        return Screened(fresh, conflict, void, kept, place)

    async def _sent_again(self, rows: Rows, frames: Frames, place: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Frames that MQTT marks as re-sent, without device time, and whose payload came within the last hour."""
        again = np.zeros(len(frames), bool)
        if not frames.dup.any():
            return again
        timeless = np.zeros(len(frames), bool)
        timeless[place[rows.ts == frames.ts[place]]] = True
        asked = np.flatnonzero((frames.dup != 0) & timeless)
        if not len(asked):
            return again
        when = frames.ts[asked]
        found = await self.readings.stored_frames(frames.entity[asked], int(when.min()) - HOUR, int(when.max()) + 1)
        names = ("entity", "raw", "t", "seq", "frame")
        seen: dict[tuple[int, bytes], dict[tuple[int, int], int]] = {}
        for entity, raw, ts, seq, frame in zip(*(found.column(name).to_pylist() for name in names), strict=True):
            seen.setdefault((entity, raw), {})[seq, frame] = ts
        near = np.flatnonzero(np.isin(frames.entity, frames.entity[asked]))
        wanted = set(asked.tolist())
        for i, raw in zip(near.tolist(), frames.raw.take(pa.array(near)).to_pylist(), strict=True):
            own, ts = (int(frames.seq[i]), int(frames.frame[i])), int(frames.ts[i])
            others = seen.setdefault((int(frames.entity[i]), raw), {})
            again[i] = i in wanted and own not in others and any(0 <= ts - other <= HOUR for other in others.values())
            if not again[i]:
                others[own] = ts
        return again

    # -- telling

    async def _heard(self, decoded: Decoded) -> None:
        """Say when the entities of a group were heard: what is lost here is only late."""
        if not len(decoded.frames):
            return
        entity, when = await asyncio.to_thread(heard, decoded)
        with contextlib.suppress(nats.errors.Error, OSError):
            for at in range(0, len(entity), HEARD_AT_ONCE):
                columns = [entity[at : at + HEARD_AT_ONCE], when[at : at + HEARD_AT_ONCE]]
                await self.bus.nc.publish(HEARD, orjson.dumps(columns, option=orjson.OPT_SERIALIZE_NUMPY))

    def _age(self) -> float:
        """Seconds since the oldest message that is not stored was published; 0 without one."""
        oldest = self._oldest or (self._arrivals[0].message if self._arrivals else None)
        if oldest is None:
            return 0.0
        return round(max(0.0, time.time() - oldest.metadata.timestamp.timestamp()), 3)

    async def _tell(self) -> None:
        """Publish figures every second, and now and then purge the stream below the floor."""
        before, then, purged = 0, time.monotonic(), 0
        for tick in itertools.count():
            await asyncio.sleep(1)
            now = time.monotonic()
            rate, before, then = (self.counters.readings - before) / (now - then), self.counters.readings, now
            with contextlib.suppress(nats.errors.Error, OSError):
                await self.bus.nc.publish("tulou.stats.writer", orjson.dumps({
                    "at": time.time(), "stored": self.counters.readings, "frames": self.counters.frames,
                    "groups": self.counters.groups, "repeats": self.counters.repeats,
                    "conflicts": self.counters.conflicts, "recovered": self.counters.recovered,
                    "lag": self.counters.lag if self._arrivals else 0, "lag_s": self._age(),
                    "error": self.counters.error,
                    "rows_per_second": round(rate, 1), "floor": self._floor,
                }))
            if tick % 5 == 4 and self._stated > purged:
                with contextlib.suppress(nats.errors.Error, TimeoutError):
                    done = await self._done_with()
                    if done > purged:
                        await self.bus.js.purge_stream(STREAM, seq=done + 1)
                        purged = done

    async def _done_with(self) -> int:
        """Up to where nobody needs the stream: what is stored, what the rules' checkpoint covers, what the hub has of an edge,
        and what edges have under way here. Rules that are far behind, or run no more, are waited for until the stream is half
        full, and the hub until it is three quarters full, then the oldest eighth goes: taking readings in comes first."""
        here = rule_checkpoint.c.stream == STREAM, rule_checkpoint.c.created == self._created
        there = uplink_position.c.stream == STREAM, uplink_position.c.created == self._created

        def read(connection: sa.Connection) -> tuple[int | None, int | None, int | None]:
            sent = connection.scalar(sa.select(uplink_position.c.seq).where(*there)) or 0 if self._uplink else None
            under_way = connection.scalar(sa.select(sa.func.min(edges.c.floor)))
            return connection.scalar(sa.select(rule_checkpoint.c.seq).where(*here)), sent, under_way

        judged, sent, under_way = await self.db.read(read)
        others = min([self._stated, *(seq for seq in (sent, under_way) if seq is not None)])
        done = others if judged is None else min(others, judged)
        if done == self._stated:
            return done
        info = await self.bus.js.stream_info(STREAM)
        full, held = info.config.max_bytes or 0, info.state.bytes
        if full > 0 and held > full / 2 and done < others:
            log.warning("the rules are behind and the stream is half full: they will miss messages up to %d", others)
            done = others
        if full > 0 and held > full * 3 / 4 and done < self._stated:
            done = max(done, min(self._stated, (info.state.first_seq or 1) + info.state.messages // 8))
            log.warning("the hub is away and the stream is three quarters full: it will miss messages up to %d", done)
        return done


@dataclass(slots=True)
class Screened:
    """Masks over rows (`fresh`, `conflict`, `void`: of a re-sent frame) and frames (`kept`), and each row's frame."""

    fresh: NDArray[np.bool_]
    conflict: NDArray[np.bool_]
    void: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    place: NDArray[np.intp]


def judge(rows: Rows, stored: Stored) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows repeat, and which contradict, a stored reading or an earlier row of the same identity."""
    number = {name: i for i, name in enumerate(rows.properties)}
    known = len(stored.ts)
    texts: dict[str, int] = {"": 0}
    text = np.zeros(known + len(rows), np.int64)
    for at, string in chain(enumerate(stored.text), ((known + row, string) for row, string in rows.text.items())):
        if string:
            text[at] = texts.setdefault(string, len(texts))
    entity = np.concatenate([stored.entity, rows.entity])
    prop = np.concatenate([np.array([number.get(p, -1) for p in stored.property], np.int32), rows.property])
    ts = np.concatenate([stored.ts, rows.ts])
    value = np.concatenate([stored.value, rows.value])
    order = np.lexsort((ts, prop, entity))  # stable: stored rows come first in a run
    starts = np.empty(len(order), bool)
    starts[0] = True
    for column, begin in ((entity, True), (prop, False), (ts, False)):
        differs = column[order][1:] != column[order][:-1]
        starts[1:] = differs if begin else starts[1:] | differs
    head = order[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
    equal = ((value[order] == value[head]) | (np.isnan(value[order]) & np.isnan(value[head]))) & (
        text[order] == text[head]
    )
    repeat, conflict = np.zeros(len(order), bool), np.zeros(len(order), bool)
    repeat[order] = ~starts & equal
    conflict[order] = ~starts & ~equal
    return repeat[known:], conflict[known:]


def _key(seq: NDArray[np.uint64], frame: NDArray[np.uint32]) -> NDArray[np.uint64]:
    return seq.astype(np.uint64) << np.uint64(24) | frame.astype(np.uint64)


def _np(table: pa.Table, column: str) -> NDArray[Any]:
    out: NDArray[Any] = table.column(column).to_numpy()
    return out


def _conflicts(rows: Rows, frames: Frames, screened: Screened) -> list[Letter]:
    """A dead letter per frame with contradicting readings."""
    at = np.flatnonzero(screened.conflict)
    names: dict[int, list[str]] = {}
    for place, prop in zip(screened.place[at].tolist(), rows.property[at].tolist(), strict=True):
        names.setdefault(place, []).append(rows.properties[prop])
    out = []
    for i, properties in sorted(names.items()):
        listed = ", ".join(dict.fromkeys(properties))
        org = frames.classes[frames.of[i]][0]
        out.append(Letter(org, f"conflict-{frames.seq[i]}-{frames.frame[i]}", {
            "entity": int(frames.entity[i]), "org": org, "protocol": frames.protocols[frames.protocol[i]],
            "topic": "", "ts": int(frames.ts[i]), "raw": frames.raw[i].as_py(), "field": listed,
            "reason": f"同一时刻已存有不同的值：{listed} (another value of the same time is stored: {listed})",
        }))
    return out


def _unreadable(arrivals: list[Arrival]) -> list[Letter]:
    return [
        Letter(ROOT, f"unreadable-{arrival.seq}", {
            "entity": 0, "org": ROOT, "protocol": "", "topic": STREAM, "ts": time.time_ns() // 1000,
            "raw": arrival.message.data[: 1 << 20], "field": "", "reason": arrival.why,
        })
        for arrival in arrivals if arrival.batch is None
    ]


async def _drop(subscription: JetStreamContext.PullSubscription | None) -> None:
    if subscription is not None:
        with contextlib.suppress(nats.errors.Error, OSError):
            await subscription.unsubscribe()


async def run(house: House, on_latest: OnLatest | None = None, gate: Gate | None = None, relay: Relay | None = None) -> None:
    """The background task of the role `writer`."""
    await Writer(
        house.readings, house.db, house.bus, on_latest, gate=gate, relay=relay, uplink=bool(house.settings.edge_hub)
    ).run()
