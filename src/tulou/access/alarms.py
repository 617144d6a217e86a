"""Alarms: raised and cleared by the thresholds of a model's properties, and by a device's silence.

Law: `Evaluator` is pure and replayable: the same values and ticks in the same order give the same changes. At most one
alarm is open per (entity, property, rule), which a unique index holds too. A change is in SQL before its event is on
the bus, and an event that a crash kept back is sent at the next start.

A threshold `above: 150, clear: 115, for_s: 600` raises when the value stays above 150 for 600 s and clears when it comes
down to 115 (to 150 without `clear`); `below` is the mirror image. Time is that of the readings; between readings the
last value holds, and the clock's tick completes the duration. A reading older than the last one changes nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import nats.errors
import numpy as np
import orjson
import sqlalchemy as sa

from tulou.access.directory import Directory
from tulou.access.models import alarms
from tulou.access.presence import SECOND, online
from tulou.context import ContextService, current_numbers
from tulou.kernel import audit
from tulou.kernel.errors import Invalid, NotFound
from tulou.kernel.http import cursor, from_cursor
from tulou.kernel.packs import Model, Threshold
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.alarms")

READ, WRITE = "access.alarm.read", "access.alarm.write"
OFFLINE = "offline"
OFFLINE_SEVERITY = "minor"
NONE_SENT, RAISED_SENT, CLEARED_SENT = 0, 1, 2
LIVE = "tulou.live.alarm"
"""Core NATS subject: what was raised, cleared or acknowledged, as the API shows alarms."""


class Rule(NamedTuple):
    """One bound of a threshold: `name` is above or below; `clear` is the value that ends it."""

    name: str
    bound: float
    clear: float
    hold: int
    severity: str

    def breaks(self, value: float) -> bool:
        return value > self.bound if self.name == "above" else value < self.bound

    def clears(self, value: float) -> bool:
        return value <= self.clear if self.name == "above" else value >= self.clear

    def worse(self, value: float, than: float) -> bool:
        return value > than if self.name == "above" else value < than


def rules_of(threshold: Threshold | None) -> tuple[Rule, ...]:
    """The rules of a property's threshold."""
    if threshold is None:
        return ()
    found = []
    hold = threshold.for_s * SECOND
    if threshold.above is not None:
        clear = threshold.above if threshold.clear is None else min(threshold.clear, threshold.above)
        found.append(Rule("above", threshold.above, clear, hold, threshold.severity))
    if threshold.below is not None:
        clear = threshold.below if threshold.clear is None else max(threshold.clear, threshold.below)
        found.append(Rule("below", threshold.below, clear, hold, threshold.severity))
    return tuple(found)


class Watch(NamedTuple):
    """The rules of a property, and the range outside of which a value is a fault of the sensor and not looked at."""

    rules: tuple[Rule, ...]
    low: float = -math.inf
    high: float = math.inf


def watches(models: Mapping[str, Model]) -> dict[tuple[str, str], Watch]:
    """(type, property) -> watch, of the properties that have a threshold."""
    return {
        (kind, name): Watch(
            rules, -math.inf if prop.min is None else prop.min, math.inf if prop.max is None else prop.max
        )
        for kind, model in models.items()
        for name, prop in model.properties.items()
        if (rules := rules_of(prop.alarm))
    }


class Change(NamedTuple):
    """What the evaluator decided; `at` is µs. `worse` means an open alarm reached a new extreme."""

    kind: Literal["raised", "worse", "cleared"]
    entity: int
    property: str
    rule: str
    severity: str
    value: float | None
    at: int


@dataclass(slots=True)
class _State:
    """A rule of one entity's property: since when it is broken, its worst value, and whether its alarm is open."""

    since: int | None = None
    worst: float = math.nan
    open: bool = False


@dataclass(slots=True)
class Evaluator:
    """The state machine over (entity, property, rule)."""

    watches: Mapping[tuple[str, str], Watch]
    _states: dict[tuple[int, str, str], _State] = field(default_factory=dict)
    _last: dict[tuple[int, str], int] = field(default_factory=dict)
    _due: list[tuple[int, int, str, Rule]] = field(default_factory=list)

    def restore(self, entity: int, prop: str, rule: str, since: int, worst: float) -> None:
        """An alarm that is open already."""
        self._states[entity, prop, rule] = _State(since, worst, True)

    def value(self, entity: int, kind: str, prop: str, ts: int, value: float) -> list[Change]:
        """A reading of an entity of type `kind`."""
        watch = self.watches.get((kind, prop))
        if watch is None or not watch.low <= value <= watch.high or ts <= self._last.get((entity, prop), -1):
            return []
        self._last[entity, prop] = ts
        changes: list[Change] = []
        for rule in watch.rules:
            key = (entity, prop, rule.name)
            state = self._states.get(key)
            if state is None:
                if not rule.breaks(value):
                    continue
                state = self._states[key] = _State()
            if state.open:
                if rule.clears(value):
                    del self._states[key]
                    changes.append(Change("cleared", entity, prop, rule.name, rule.severity, value, ts))
                elif rule.worse(value, state.worst) or math.isnan(state.worst):
                    state.worst = value
                    changes.append(Change("worse", entity, prop, rule.name, rule.severity, value, ts))
            elif not rule.breaks(value):
                del self._states[key]
            else:
                if state.since is None:
                    state.since, state.worst = ts, value
                    if rule.hold:
                        heapq.heappush(self._due, (ts + rule.hold, entity, prop, rule))
                elif rule.worse(value, state.worst):
                    state.worst = value
                if ts - state.since >= rule.hold:
                    changes.append(self._raise(state, entity, prop, rule, ts))
        return changes

    def tick(self, now: int) -> list[Change]:
        """The clock reached `now` (µs): durations that nothing contradicted are complete."""
        changes: list[Change] = []
        while self._due and self._due[0][0] <= now:
            due, entity, prop, rule = heapq.heappop(self._due)
            state = self._states.get((entity, prop, rule.name))
            if state is not None and not state.open and state.since is not None and state.since + rule.hold <= due:
                changes.append(self._raise(state, entity, prop, rule, due))
        return changes

    def entities(self) -> set[int]:
        """Entities with a value beyond a bound."""
        return {entity for entity, _, _ in self._states}

    def drop(self, gone: Collection[int], now: int) -> list[Change]:
        """These entities exist no more: forget them, and clear what is open."""
        keys = [key for key in self._states if key[0] in gone]
        changes = [Change("cleared", *key, "", None, now) for key in keys if self._states[key].open]
        for key in keys:
            del self._states[key]
        for known in [known for known in self._last if known[0] in gone]:
            del self._last[known]
        return changes

    def _raise(self, state: _State, entity: int, prop: str, rule: Rule, at: int) -> Change:
        state.open = True
        return Change("raised", entity, prop, rule.name, rule.severity, state.worst, at)


def absence(directory: Directory, now: int, listening_since: int, is_open: set[int]) -> list[Change]:
    """Alarms for devices that fell silent or spoke again; pure. `is_open` are entities whose alarm is open.

    Only a device that has spoken can fall silent, and silence counts from when the house began to listen.
    """
    seen = directory.seen
    heard = np.where(seen > 0, np.maximum(seen, listening_since), 0)
    silent = (directory.device > 0) & (seen > 0) & ~np.asarray(online(heard, now, directory.offline_after()))
    nos = directory.no[silent].tolist()
    changes = [
        Change("raised", no, "", OFFLINE, OFFLINE_SEVERITY, None, now) for no in nos if no not in is_open
    ]
    rows, _ = directory.rows(np.array(sorted(is_open), np.int64))
    quiet = silent[rows]
    back = [no for no, still in zip(directory.no[rows].tolist(), quiet.tolist(), strict=True) if not still]
    gone = is_open.difference(directory.no[rows].tolist())
    return changes + [Change("cleared", no, "", OFFLINE, OFFLINE_SEVERITY, None, now) for no in [*back, *sorted(gone)]]


class Alarms:
    """The operations on alarms, and the task that raises and clears them (role `rules`)."""

    def __init__(self, house: House, directory: Directory) -> None:
        self.house = house
        self.policy = house.policy
        self.directory = directory
        self.watches = watches(house.packs.models)
        self.watched = {prop for _, prop in self.watches}
        self._waiting: dict[tuple[int, str], tuple[int, float]] = {}
        self._listening = False

    # -- operations

    @operation(READ)
    async def find(
        self, actor: Actor, *, state: str | None = None, org: str | None = None, no: int | None = None,
        limit: int = 50, after: str | None = None, count: bool = False,
    ) -> dict[str, Any]:
        """Alarms, newest first; `state` is open or cleared. Keyset-paged."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        if state not in (None, "open", "cleared"):
            raise Invalid(
                "state 应为 open 或 cleared", "state must be open or cleared", field="state", value=state,
                rule="open | cleared",
            )
        last = from_cursor(after, 1)
        conditions: list[sa.ColumnElement[bool]] = []
        if not orgs.all:
            conditions.append(alarms.c.org.in_(sorted(orgs.ids)))
        if state is not None:
            cleared = alarms.c.cleared_at
            conditions.append(cleared.is_(None) if state == "open" else cleared.is_not(None))
        if no is not None:
            conditions.append(alarms.c.entity_no == no)
        page = sa.select(alarms).where(*conditions).order_by(alarms.c.id.desc()).limit(limit + 1)
        if last:
            page = page.where(alarms.c.id < int(last[0]))
        rows = await self.house.db.read(lambda c: c.execute(page).all())
        answer: dict[str, Any] = {
            "items": [self.document(row) for row in rows[:limit]],
            "next": cursor([rows[limit - 1].id]) if len(rows) > limit else None,
        }
        if count:
            number = sa.select(sa.func.count()).select_from(alarms).where(*conditions)
            answer["count"] = await self.house.db.read(lambda c: c.execute(number).scalar_one())
        return answer

    @operation(WRITE)
    async def acknowledge(self, actor: Actor, alarm_id: int) -> dict[str, Any]:
        """Note that the actor has seen the alarm; the first acknowledgement stands. Raises `NotFound`."""
        visible = self.policy.require_any(actor, READ)
        query = sa.select(alarms).where(alarms.c.id == alarm_id)
        row = await self.house.db.read(lambda c: c.execute(query).first())
        if row is None or row.org not in visible:
            raise NotFound(f"没有告警 {alarm_id}", f"no alarm {alarm_id}", field="id", value=alarm_id)
        self.policy.require(actor, WRITE, row.org)

        def write(connection: sa.Connection) -> Any:
            now = utcnow()
            changed = connection.execute(
                alarms.update().where(alarms.c.id == alarm_id, alarms.c.acknowledged_at.is_(None))
                .values(acknowledged_by=actor.id, acknowledged_at=now, updated_at=now).returning(alarms)
            ).first()
            if changed is None:
                return connection.execute(query).first()
            audit.record(connection, actor, WRITE, row.org, f"alarm:{alarm_id}", {"change": "acknowledged"})
            return changed

        document = self.document(await self.house.db.write(write))
        await self._show([document])
        return document

    def document(self, row: Any) -> dict[str, Any]:
        """A row of `alarms` as the API shows it."""
        at = self.directory.row(row.entity_no)
        return {
            "id": row.id, "no": row.entity_no, "org": row.org,
            "entity_id": None if at is None else self.directory.ids[at],
            "name": None if at is None else self.directory.names[at],
            "type": None if at is None else self.directory.types[self.directory.type[at]],
            "property": row.property, "rule": row.rule, "severity": row.severity, "value": row.value,
            "synthetic": bool(row.synthetic), "raised_at": row.raised_at, "updated_at": row.updated_at,
            "cleared_at": row.cleared_at, "acknowledged_by": row.acknowledged_by,
            "acknowledged_at": row.acknowledged_at,
        }

    # -- the task

    def latest(self, items: Iterable[Sequence[Any]]) -> None:
        """Take coalesced latest values `[no, property, ts (µs), value]`; the newest of each waits for the task."""
        if not self._listening:
            return
        watched, waiting = self.watched, self._waiting
        for no, prop, ts, value in items:
            if prop in watched and isinstance(value, int | float):
                known = waiting.get((no, prop))
                if known is None or ts > known[0]:
                    waiting[no, prop] = (ts, float(value))

    async def run(self, _house: House) -> None:
        """Evaluate, for ever. Starts from the alarms that are open in SQL."""
        directory = self.directory
        evaluator = Evaluator(self.watches)
        silent: set[int] = set()
        rows = await self.house.db.read(
            lambda c: c.execute(sa.select(alarms).where(alarms.c.cleared_at.is_(None))).all()
        )
        for row in rows:
            if row.rule == OFFLINE:
                silent.add(row.entity_no)
            else:
                worst = math.nan if row.value is None else row.value
                evaluator.restore(row.entity_no, row.property, row.rule, _micros(row.raised_at), worst)
        await self._announce()
        began = time.time_ns() // 1000
        self._listening = True
        await self._current()
        beat = 0
        try:
            while True:
                await asyncio.sleep(0.5)
                taken, self._waiting = self._waiting, {}
                strange = {no for no, _ in taken if directory.row(no) is None}
                if strange:  # made by another process within the last half second, or deleted
                    await directory.refresh(strange)
                changes: list[Change] = []
                for (no, prop), (ts, value) in taken.items():
                    at = directory.row(no)
                    if at is not None:
                        changes += evaluator.value(no, directory.types[directory.type[at]], prop, ts, value)
                now = time.time_ns() // 1000
                changes += evaluator.tick(now)
                beat += 1
                if beat % 4 == 0:
                    gone = {no for no in evaluator.entities() if directory.row(no) is None}
                    if gone:
                        changes += evaluator.drop(gone, now)
                    changes += absence(directory, now, began, silent)
                if changes:
                    await self._apply(changes)
                    for change in changes:
                        if change.rule == OFFLINE:
                            (silent.add if change.kind == "raised" else silent.discard)(change.entity)
        finally:
            self._listening = False
            self._waiting = {}

    async def _current(self) -> None:
        """Begin from the values that are known, so that a restart neither forgets nor takes old news for new."""
        if not self.watched:
            return
        if not hasattr(self.house, "readings"):  # a process of its own for the rules: the entities' documents say it
            wanted: dict[str, list[str]] = {}
            for kind, prop in self.watches:
                wanted.setdefault(kind, []).append(prop)
            self.latest(await current_numbers(self.house.service(ContextService), wanted))
            return
        known = await self.house.readings.latest(None, sorted(self.watched), orgs=None)
        self.latest((no, prop, v.ts, v.value) for no, values in known.items() for prop, v in values.items())

    async def _apply(self, changes: Sequence[Change]) -> None:
        """Write changes to SQL, then publish their events. Writing the same changes again changes nothing."""
        directory = self.directory
        for start in range(0, len(changes), 1000):
            ready = []
            for change in changes[start : start + 1000]:
                at = directory.row(change.entity)
                org = None if at is None else directory.orgs[directory.org[at]]
                ready.append((change, org, at is not None and bool(directory.synthetic[at])))

            def write(connection: sa.Connection, ready: Any = ready) -> list[Any]:
                return [row for item in ready if (row := _store(connection, *item)) is not None]

            rows = await self.house.db.write(write)
            await directory.recount([row.entity_no for row in rows])
            await self._publish(rows)
            await self._show([self.document(row) for row in rows])

    async def _announce(self) -> None:
        """Send the events that a crash kept back."""
        query = sa.select(alarms).where(
            sa.or_(
                alarms.c.announced < RAISED_SENT,
                sa.and_(alarms.c.announced < CLEARED_SENT, alarms.c.cleared_at.is_not(None)),
            )
        )
        rows = await self.house.db.read(lambda c: c.execute(query).all())
        for start in range(0, len(rows), 1000):
            await self._publish(rows[start : start + 1000])

    async def _publish(self, rows: Sequence[Any]) -> None:
        for start in range(0, len(rows), 64):
            await asyncio.gather(*(self._events(row) for row in rows[start : start + 64]))
        if not rows:
            return

        def write(connection: sa.Connection) -> None:
            for row in rows:
                state = RAISED_SENT if row.cleared_at is None else CLEARED_SENT
                connection.execute(alarms.update().where(alarms.c.id == row.id).values(announced=state))

        await self.house.db.write(write)

    async def _events(self, row: Any) -> None:
        body = orjson.dumps(self.document(row), option=orjson.OPT_UTC_Z)
        kinds = [] if row.announced >= RAISED_SENT else ["raised"]
        if row.cleared_at is not None:
            kinds.append("cleared")
        for kind in kinds:
            await self.house.bus.js.publish(
                f"tulou.events.alarm.{kind}", body, headers={"Nats-Msg-Id": f"alarm-{row.id}-{kind}"}
            )

    async def _show(self, documents: list[dict[str, Any]]) -> None:
        if not documents:
            return
        try:
            await self.house.bus.nc.publish(LIVE, orjson.dumps(documents, option=orjson.OPT_UTC_Z))
        except (nats.errors.Error, OSError) as error:
            log.debug("alarms are not shown live: %r", error)


def _store(connection: sa.Connection, change: Change, org: str | None, synthetic: bool) -> Any:
    """Write one change; the row if it raised or cleared an alarm, None if there was nothing to do."""
    at = datetime.fromtimestamp(change.at / 1e6, UTC)
    mine = (
        (alarms.c.entity_no == change.entity) & (alarms.c.property == change.property)
        & (alarms.c.rule == change.rule) & alarms.c.cleared_at.is_(None)
    )
    if change.kind == "raised":
        if org is None or connection.execute(sa.select(alarms.c.id).where(mine)).first() is not None:
            return None
        return connection.execute(
            alarms.insert().values(
                entity_no=change.entity, org=org, property=change.property, rule=change.rule,
                severity=change.severity, value=change.value, synthetic=synthetic, raised_at=at, updated_at=at,
                announced=NONE_SENT,
            ).returning(alarms)
        ).first()
    if change.kind == "worse":
        connection.execute(alarms.update().where(mine).values(value=change.value, updated_at=at))
        return None
    return connection.execute(
        alarms.update().where(mine).values(cleared_at=at, updated_at=at).returning(alarms)
    ).first()


def _micros(when: datetime) -> int:
    return int(when.timestamp() * 1e6)
