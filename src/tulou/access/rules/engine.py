"""Evaluation on the stream: a durable consumer of READINGS beside the writer (docs/decisions/0012-rules.md).

Law: every accepted reading is evaluated, in the stream's order, whatever came between. Where the writer of the same process
has read a message it comes from there (`access.relay`), else from the stream. Changes are in SQL before the
evaluator's state is written down with the sequence of the last message it has seen (`rule_checkpoint`); after a crash the
state is read and the messages behind it are evaluated again, which gives the same changes, and writing those again changes
nothing. The writer keeps the messages that the checkpoint does not cover, as long as the stream is less than half full.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgpack
import nats.errors
import numpy as np
import orjson
import sqlalchemy as sa

from tulou.access.alarms import OFFLINE, Alarms, absence
from tulou.access.directory import Directory
from tulou.access.follower import Follower
from tulou.access.models import alarms
from tulou.access.relay import Arrival, Relay, read
from tulou.access.rules.evaluator import Change, Evaluator
from tulou.access.rules.models import rule_checkpoint
from tulou.access.rules.service import Rules
from tulou.access.writer import STREAM

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.rules")

DURABLE = "rules"
LINGER = 0.25
"""Seconds from the start of one group to the next."""
GROUP_BYTES = 16 << 20
PATIENCE = 3.0
"""Seconds without a word of the writer after which the stream is read beside it: the store may be away."""
BEHIND = 2_000_000
"""µs that the clock stays behind now while nothing comes: what is on its way to the stream may still contradict."""
CHECKPOINT_EVERY = 10.0
"""Seconds between checkpoints, or twenty times what one takes."""
LOOK_EVERY = 2.0
"""Seconds between looks at devices that fell silent, deleted things and what nobody acknowledged."""


class Engine:
    """The task of the role `rules`."""

    def __init__(self, house: House, directory: Directory, alarms: Alarms, rules: Rules) -> None:
        self.house, self.directory, self.alarms, self.rules = house, directory, alarms, rules
        self.evaluator = Evaluator((), {})
        """The rules that are followed now."""
        self.missed = 0
        """Messages that had left the stream before they were evaluated."""
        self.lag = 0
        self._stale = False
        self.position = 0
        """The sequence of the last message that was judged and whose alarms are in SQL."""
        self._kept = -1
        self._created: datetime
        self._follower = Follower(STREAM, DURABLE)
        self.relay = Relay()
        """Where a writer of this process puts what it has read."""
        self._heard = 0.0
        """When it last did, or waited for the stream."""
        house.packs.followers.append(lambda: self.changed(""))

    def changed(self, _key: str) -> None:
        """Rules or models were changed: take them before the next group."""
        self._stale = True

    async def run(self, _house: House) -> None:
        """Evaluate, for ever."""
        try:
            await self._run()
        finally:
            await self._follower.drop()

    async def _run(self) -> None:
        self.evaluator = await self._open()
        silent = await self._silent()
        began = now = _now()
        listening, told = False, 0.0
        looked = saved = time.monotonic()
        cost = 0.0
        while True:
            started = time.monotonic()
            if self._stale:
                self._stale = False
                self.evaluator = await self._renew(self.evaluator)
                await self._save(self.evaluator)
            evaluator = self.evaluator
            arrivals = await self._next()
            changes: list[Change] = []
            if arrivals:
                batches = [arrival.batch for arrival in arrivals if arrival.batch is not None]
                changes = await asyncio.to_thread(evaluator.take, batches)
            now = _now()
            if not self.lag:
                if not listening:
                    listening = True
                    evaluator.listen(now - BEHIND)
                changes += evaluator.tick(now - BEHIND)
            if started - looked > LOOK_EVERY:
                looked = started
                changes += await self._look(evaluator, silent, began, now)
            if changes:
                await self.alarms.apply(changes)
                for change in changes:
                    if change.rule is OFFLINE and change.kind == "raised":
                        silent[change.entity] = change.at
                    elif change.rule is OFFLINE:
                        silent.pop(change.entity, None)
            if arrivals:
                self.position = arrivals[-1].seq
            if self.position > self._kept and started - saved > max(CHECKPOINT_EVERY, 20 * cost):
                before = time.monotonic()
                await self._save(evaluator)
                saved = time.monotonic()
                cost = saved - before
            if started - told > 1:
                told = started
                await self._say()
            await asyncio.sleep(max(0.0, LINGER - (time.monotonic() - started)))

    # -- beginning

    async def _open(self) -> Evaluator:
        """The evaluator as it was, and where the stream goes on."""
        info = await self.house.bus.js.stream_info(STREAM)
        assert info.created is not None
        self._created = info.created
        row = await self.house.db.read(
            lambda c: c.execute(sa.select(rule_checkpoint).where(rule_checkpoint.c.stream == STREAM)).first()
        )
        await self._follower.drop()
        self._kept = -1
        evaluator = Evaluator(await self.rules.load(), self.house.packs.models)
        if row is not None:
            evaluator.restore(msgpack.unpackb(await asyncio.to_thread(zlib.decompress, row.state), strict_map_key=False))
        if row is not None and row.created == self._created:
            self.position = self._kept = row.seq
        else:  # the first start, or another stream: what was open is taken up, and what the stream still has is evaluated
            self.position = 0
            await self._take_up(evaluator)
        gap = (info.state.first_seq or 1) - 1 - self.position
        if gap > 0 and self._kept >= 0:
            self.missed += gap
            log.error("%d messages had left the stream before the rules saw them", gap)
        self.position = max(self.position, (info.state.first_seq or 1) - 1)
        await self._clear_left(evaluator)
        await self._save(evaluator)
        return evaluator

    async def _renew(self, old: Evaluator) -> Evaluator:
        """An evaluator of the rules as they are now, that remembers what the old one did."""
        evaluator = Evaluator(await self.rules.load(), self.house.packs.models)
        evaluator.restore(old.snapshot())
        await self._clear_left(evaluator)
        return evaluator

    async def _open_alarms(self) -> Sequence[Any]:
        query = sa.select(alarms).where(alarms.c.cleared_at.is_(None), alarms.c.rule != OFFLINE.key)
        return await self.house.db.read(lambda c: c.execute(query).all())

    async def _take_up(self, evaluator: Evaluator) -> None:
        for row in await self._open_alarms():
            at = self.directory.row(row.entity_no)
            if at is not None:
                kind, org = self.directory.types[self.directory.type[at]], self.directory.orgs[self.directory.org[at]]
                identity = (kind, row.property, row.rule, row.rule_version)
                if evaluator.rule(identity) is not None:
                    worst = math.nan if row.value is None else row.value
                    evaluator.reopen(identity, row.entity_no, org, round(row.raised_at.timestamp() * 1e6), worst)

    async def _clear_left(self, evaluator: Evaluator) -> None:
        """Clear what is open of rules that are no more, or are others now."""
        left = []
        for row in await self._open_alarms():
            at = self.directory.row(row.entity_no)
            kind = "" if at is None else self.directory.types[self.directory.type[at]]
            if at is None or evaluator.rule((kind, row.property, row.rule, row.rule_version)) is None:
                left.append(row.id)
        if left:
            await self.alarms.clear_left(left)

    async def _silent(self) -> dict[int, int]:
        query = sa.select(alarms.c.entity_no, alarms.c.raised_at).where(
            alarms.c.cleared_at.is_(None), alarms.c.rule == OFFLINE.key
        )
        rows = await self.house.db.read(lambda c: c.execute(query).all())
        return {no: round(at.timestamp() * 1e6) for no, at in rows}

    # -- the stream

    async def _next(self) -> list[Arrival]:
        """What has come, in the stream's order and without gaps; at most about `GROUP_BYTES`."""
        if self.relay.reaches(self.position):
            found = await self.relay.take(self.position, GROUP_BYTES, LINGER)
            if found:
                await self._follower.drop()
            if found or self.relay.quiet:
                self.lag, self._heard = self.relay.behind, time.monotonic()
                return found
            if time.monotonic() - self._heard < PATIENCE:
                self.lag = max(1, self.relay.behind)
                return []
        messages = await self._follower.read(self.house.bus, self.position, GROUP_BYTES)
        self.lag = self._follower.lag
        return await asyncio.to_thread(read, messages) if messages else []

    async def _save(self, evaluator: Evaluator) -> None:
        """Write the state down with the place in the stream that it is of."""
        state = await asyncio.to_thread(lambda: zlib.compress(msgpack.packb(evaluator.snapshot()), 1))
        row = {"stream": STREAM, "created": self._created, "seq": self.position, "state": state}

        def write(connection: sa.Connection) -> None:
            mine = rule_checkpoint.c.stream == STREAM
            if not connection.execute(rule_checkpoint.update().where(mine).values(**row)).rowcount:
                connection.execute(rule_checkpoint.insert().values(**row))

        await self.house.db.write(write)
        self._kept = self.position

    # -- now and then

    async def _look(self, evaluator: Evaluator, silent: dict[int, int], began: int, now: int) -> list[Change]:
        directory = self.directory
        changes = absence(directory, now, began, silent)
        watched = np.array(sorted(evaluator.entities()), np.int64)
        gone = watched[~directory.rows(watched)[1]].tolist()
        if gone:
            await directory.refresh(gone)
            changes += evaluator.drop({no for no in gone if directory.row(no) is None}, now)
        await self.alarms.escalate()
        return changes

    async def _say(self) -> None:
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.house.bus.nc.publish("tulou.stats.rules", orjson.dumps({
                "at": time.time(), "position": self.position, "lag": self.lag, "missed": self.missed,
                "checkpoint": self._kept,
            }))


def _now() -> int:
    return time.time_ns() // 1000
