"""The live stream of a page (`GET /api/v1/live`, server-sent events), and the counters behind it.

Law: what a stream carries is filtered by the organisations that its actor may see at that moment; they are looked up
again with the session itself, and the stream ends with it. Memory is bounded: one batch a second is shared by all who
may see the same, a slow client keeps the last few and loses older ones, and always gets the newest counters.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import sqlalchemy as sa
from nats.aio.msg import Msg

from tulou.access.alarms import LIVE as ALARM
from tulou.access.deadletters import dead_letters
from tulou.access.directory import Directory
from tulou.access.presence import online
from tulou.access.things import value_of
from tulou.access.writer import HEARD
from tulou.kernel.errors import Throttled, TulouError, Unavailable
from tulou.kernel.policy import Actor, Orgs, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.live")

READ, READ_ALARMS = "access.thing.read", "access.alarm.read"
LATEST, PRESENCE = "tulou.live.latest", "tulou.presence"
STATS = "tulou.stats.*"
CLIENTS = 1000
ITEMS = 5000
"""Latest values in one event; of more, a fair sample."""
BEHIND = 4
"""Batches that a slow client keeps."""
RECHECK = 10.0
"""Seconds between looks at whether the session still holds and what it may see."""
SAMPLES = 60

TOTALS = "SELECT org, sum(count) FROM area_hour GROUP BY org"
"""Readings so far by organisation, from the coarsest roll-up."""


Item = tuple[int, str, int, Any]
"""A latest value on the bus: entity number, property, µs, value."""


class Batch:
    """What one set of organisations gets in one second. `latest` maps (no, property) to the item as JSON."""

    __slots__ = ("_event", "latest")

    def __init__(self, latest: dict[tuple[int, str], bytes]) -> None:
        self.latest = latest
        self._event: bytes | None = None

    @property
    def event(self) -> bytes:
        """The event, made once for all who get it."""
        if self._event is None:
            self._event = b"event: latest\ndata: [" + b",".join(self.latest.values()) + b"]\n\n"
        return self._event


class Client:
    """A listening page: what it may see, and what waits for it."""

    def __init__(self, orgs: Orgs, alarm_orgs: Orgs) -> None:
        self.orgs = orgs
        self.alarm_orgs = alarm_orgs
        self.counters: bytes | None = None
        self.batches: deque[Batch] = deque(maxlen=BEHIND)
        self.alarms: deque[bytes] = deque(maxlen=200)
        self.ready = asyncio.Event()
        self.ended = False

    def take(self) -> bytes:
        """Everything that waits, as events."""
        self.ready.clear()
        parts = [b"event: alarm\ndata: " + alarm + b"\n\n" for alarm in self.alarms]
        self.alarms.clear()
        if len(self.batches) == 1:
            parts.append(self.batches[0].event)
        elif self.batches:
            merged: dict[tuple[int, str], bytes] = {}
            for batch in self.batches:
                merged.update(batch.latest)
            parts.append(Batch(merged).event)
        self.batches.clear()
        if self.counters is not None:
            parts.append(b"event: counters\ndata: " + self.counters + b"\n\n")
            self.counters = None
        return b"".join(parts)


class Hub:
    """Listens to the bus for this process, keeps the directory's signs of life, and feeds the clients."""

    def __init__(self, house: House, directory: Directory) -> None:
        self.house = house
        self.policy = house.policy
        self.directory = directory
        self.clients: set[Client] = set()
        self.closed = False
        """Set by `close`: the house stops and takes no new client."""
        self.stats: dict[str, dict[str, Any]] = {}
        self._pending: dict[tuple[int, str], Item] = {}
        self._samples: deque[tuple[float, dict[str, int]]] = deque(maxlen=SAMPLES + 1)
        self._letters: dict[str, int] = {}

    # -- from the bus

    async def run(self, _house: House) -> None:
        """Listen and feed, for ever."""
        nc = self.house.bus.nc
        subscriptions = [
            await nc.subscribe(subject, cb=handler)
            for subject, handler in (
                (LATEST, self._latest), (PRESENCE, self._present), (STATS, self._stats), (ALARM, self._alarm),
                (HEARD, self._heard),
            )
        ]
        sampler = asyncio.create_task(self._sample()) if hasattr(self.house, "readings") else None
        try:
            due = time.monotonic()
            while True:
                due = max(due + 1, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
                self._beat()
        finally:
            if sampler is not None:
                sampler.cancel()
            self.end()
            for subscription in subscriptions:
                await subscription.unsubscribe()

    def close(self) -> None:
        """End every stream and take no new one: an HTTP server that stops waits for its streams."""
        self.closed = True
        self.end()

    def end(self) -> None:
        """End every stream; pages come back by themselves."""
        for client in self.clients:
            client.ended = True
            client.ready.set()

    async def _latest(self, message: Msg) -> None:
        items: list[Item] = orjson.loads(message.data)
        if self.clients:
            pending = self._pending
            for item in items:
                known = pending.get((item[0], item[1]))
                if known is None or item[2] >= known[2]:
                    pending[item[0], item[1]] = item

    async def _heard(self, message: Msg) -> None:
        nos, times = (np.array(column, np.int64) for column in orjson.loads(message.data))
        self.directory.heard(nos, np.minimum(times, time.time_ns() // 1000))

    async def _present(self, message: Msg) -> None:
        told = orjson.loads(message.data)
        for name, marks, take in (
            ("at", [mark for mark in told if mark["online"]], self.directory.heard),
            ("gone", [mark for mark in told if "gone" in mark], self.directory.leaves),
        ):
            take(np.array([mark["entity"] for mark in marks], np.int64), np.array([mark[name] for mark in marks], np.int64))

    async def _stats(self, message: Msg) -> None:
        kind = message.subject.rsplit(".", 1)[-1]
        body = orjson.loads(message.data)
        self.stats[f"{kind}:{body.get('name', '')}"] = {**body, "heard": time.time()}

    async def _alarm(self, message: Msg) -> None:
        documents = orjson.loads(message.data)
        if "rules" not in self.house.roles:  # where the rules run, they see to it themselves
            await self.directory.recount([document["no"] for document in documents])
        for document in documents:
            event = orjson.dumps(document)
            for client in self.clients:
                if document["org"] in client.alarm_orgs:
                    client.alarms.append(event)
                    client.ready.set()

    def told(self, kind: str) -> list[dict[str, Any]]:
        """What gateways or writers said of themselves in the last five seconds."""
        now = time.time()
        return [
            {k: v for k, v in body.items() if k != "heard"} for key, body in self.stats.items()
            if key.startswith(f"{kind}:") and now - body["heard"] < 5
        ]

    async def _sample(self) -> None:
        """Each two seconds, readings and dead letters so far by organisation."""
        letters = (
            sa.select(dead_letters.c.org, sa.func.count()).where(dead_letters.c.replayed_at.is_(None))
            .group_by(dead_letters.c.org)
        )
        while True:
            rows = await self.house.db.read(lambda c: c.execute(letters).all())
            self._letters = {row[0]: row[1] for row in rows}
            try:
                table = await self.house.readings.sql(TOTALS, max_rows=100_000)
                self._samples.append((time.time(), {str(org): int(count) for org, count in table.rows}))
            except TulouError as error:
                log.debug("totals: %r", error)
            await asyncio.sleep(2)

    # -- counters

    def counters(self, orgs: Orgs) -> dict[str, Any]:
        """What the overview counts, of these organisations."""
        directory = self.directory
        mask = directory.within(orgs)
        devices = mask & (directory.device > 0)
        here = np.asarray(online(directory.seen, time.time_ns() // 1000, directory.offline_after(), directory.gone))
        rate = self.rate(orgs)
        return {
            "entities": int(mask.sum()), "devices": int(devices.sum()), "online": int((devices & here).sum()),
            "readings_total": _sum(self._samples[-1][1], orgs) if self._samples else 0,
            "readings_per_second": rate[-1][1] if rate else 0.0,
            "alarms_open": int(directory.alarms[mask].sum()), "dead_letters": _sum(self._letters, orgs),
        }

    def rate(self, orgs: Orgs) -> list[list[float]]:
        """Readings stored per second, `[ms, n]`, one for each of the last samples."""
        sums = [(at, _sum(totals, orgs)) for at, totals in self._samples]
        return [
            [round(at * 1000), round(max(0, now - before) / max(at - then, 0.001), 1)]
            for (then, before), (at, now) in itertools.pairwise(sums)
        ]

    # -- clients

    def _beat(self) -> None:
        taken, self._pending = self._pending, {}
        shared: dict[Orgs, tuple[Batch | None, bytes]] = {}
        for client in self.clients:
            made = shared.get(client.orgs)
            if made is None:
                made = shared[client.orgs] = (
                    self._batch(taken, client.orgs), orjson.dumps(self.counters(client.orgs))
                )
            if made[0] is not None:
                client.batches.append(made[0])
            client.counters = made[1]
            client.ready.set()

    def _batch(self, taken: dict[tuple[int, str], Item], orgs: Orgs) -> Batch | None:
        directory = self.directory
        items: dict[tuple[int, str], bytes] = {}
        keys = list(taken)
        rows, known = directory.rows(np.array([no for no, _ in keys], np.int64))
        visible = directory.within(orgs)[rows]
        allowed = np.flatnonzero(known)[visible]
        places = dict(zip(allowed.tolist(), rows[visible].tolist(), strict=True))
        chosen = list(places)
        if len(chosen) > ITEMS:
            chosen = random.sample(chosen, ITEMS)
        models, types = self.house.packs.models, directory.types
        for index in chosen:
            item = taken[keys[index]]
            model = models.get(types[directory.type[places[index]]])
            no, name, ts, value = item
            prop = model.properties.get(name) if model else None
            items[keys[index]] = orjson.dumps(
                {"no": no, "property": name, "ts": ts // 1000, "value": value_of(prop, value)}
            )
        return Batch(items) if items else None

    @operation(READ)
    async def listen(self, actor: Actor, again: Callable[[], Awaitable[Actor]]) -> AsyncIterator[bytes]:
        """Events for `actor`, until the session ends. `again()` says who it is now, or raises when it is over."""
        orgs = self.policy.require_any(actor, READ)
        if self.closed:
            raise Unavailable("土楼正在停止", "the house is stopping", rule="running")
        if len(self.clients) >= CLIENTS:
            raise Throttled("实时连接过多", "too many live streams", retry_after=10, rule=f"<= {CLIENTS}")
        return self._events(Client(orgs, self.policy.visible(actor, READ_ALARMS)), again)

    async def _events(self, client: Client, again: Callable[[], Awaitable[Actor]]) -> AsyncIterator[bytes]:
        self.clients.add(client)
        try:
            yield b"retry: 3000\nevent: counters\ndata: " + orjson.dumps(self.counters(client.orgs)) + b"\n\n"
            checked = time.monotonic()
            while True:
                await client.ready.wait()
                if time.monotonic() - checked > RECHECK:
                    checked = time.monotonic()
                    try:
                        now = await again()
                    except TulouError:
                        return
                    orgs, alarm_orgs = self.policy.visible(now, READ), self.policy.visible(now, READ_ALARMS)
                    if (orgs, alarm_orgs) != (client.orgs, client.alarm_orgs):
                        client.orgs, client.alarm_orgs = orgs, alarm_orgs
                        client.batches.clear()
                        client.alarms.clear()
                        client.counters = None
                    if not orgs:
                        return
                if client.ended:
                    return
                events = client.take()
                if events:
                    yield events
        finally:
            self.clients.discard(client)


def _sum(totals: dict[str, int], orgs: Orgs) -> int:
    return sum(count for org, count in totals.items() if org in orgs)
