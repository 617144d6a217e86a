"""Alarms: what is kept of them, and the desk: seen, assigned, silenced, spoken of, cleared.

Law: at most one alarm is open per (entity, property, rule), which a unique index holds too. An alarm is known by the rule
and the time at which it was raised, so writing the same changes again changes nothing. What is sent to people is queued in
the transaction that raises or clears; an event is on the bus after its change is in SQL, and one that a crash kept back is
sent at the next start.

Alarms of one rule in one organisation that are raised within a minute of the first of them are one group, named by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import nats.errors
import numpy as np
import orjson
import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from tulou.access import notify
from tulou.access.directory import Directory
from tulou.access.models import alarm_notes, alarms
from tulou.access.presence import online
from tulou.access.rules.evaluator import Change
from tulou.access.rules.models import SEVERITIES, Presence, Rule
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound
from tulou.kernel.http import cursor, from_cursor
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.alarms")

READ, WRITE = "access.alarm.read", "access.alarm.write"
OFFLINE = Rule("offline", "", Presence(), "minor")
"""The rule that every device follows: heard within its model's `offline_after_s`."""
NONE_SENT, RAISED_SENT, CLEARED_SENT = 0, 1, 2
LIVE = "tulou.live.alarm"
"""Core NATS subject: what was raised, cleared or done, as the API shows alarms."""
TOGETHER = timedelta(seconds=60)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Assignment(_Body):
    """Who sees to an alarm: `user:<name>`; null for nobody."""

    to: str | None = Field(default=None, max_length=128)


class Silence(_Body):
    """Until when an alarm, and those of the same rule and entity after it, tell nobody; null ends it."""

    until: AwareDatetime | None = None


class Comment(_Body):
    """What is said of an alarm."""

    text: str = Field(min_length=1, max_length=4000)


def absence(directory: Directory, now: int, listening_since: int, is_open: Mapping[int, int]) -> list[Change]:
    """Alarms for devices that fell silent or spoke again; pure. `is_open`: entities whose alarm is open, since when.

    Only a device that has spoken can fall silent, and silence counts from when the house began to listen.
    """
    seen = directory.seen
    heard = np.where(seen > 0, np.maximum(seen, listening_since), 0)
    silent = (directory.device > 0) & (seen > 0) & ~np.asarray(online(heard, now, directory.offline_after(), directory.gone))
    changes = [
        Change("raised", no, OFFLINE, None, now, now) for no in directory.no[silent].tolist() if no not in is_open
    ]
    rows, _ = directory.rows(np.array(sorted(is_open), np.int64))
    quiet = silent[rows]
    known = directory.no[rows].tolist()
    back = [no for no, still in zip(known, quiet.tolist(), strict=True) if not still]
    gone = sorted(set(is_open).difference(known))
    return changes + [Change("cleared", no, OFFLINE, None, now, is_open[no]) for no in [*back, *gone]]


class Alarms:
    """The operations on alarms, and how changes become alarms (role `rules`)."""

    def __init__(self, house: House, directory: Directory) -> None:
        self.house = house
        self.policy = house.policy
        self.directory = directory
        self._news = asyncio.Event()

    # -- operations

    @operation(READ)
    async def find(
        self, actor: Actor, *, state: str | None = None, org: str | None = None, no: int | None = None,
        severity: str | None = None, assigned: str | None = None, rule: str | None = None, group: int | None = None,
        grouped: bool = False, limit: int = 50, after: str | None = None, count: bool = False,
    ) -> dict[str, Any]:
        """Alarms, newest first; `state` is open or cleared. `grouped` shows the first of each group only, with the
        number of alarms in it. Keyset-paged."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        for name, value, known in (("state", state, ("open", "cleared")), ("severity", severity, SEVERITIES)):
            if value is not None and value not in known:
                raise Invalid(
                    f"{name} 应为 {'、'.join(known)} 之一", f"{name} must be one of {', '.join(known)}", field=name, value=value,
                    rule=" | ".join(known),
                )
        last = from_cursor(after, 1)
        conditions = within(alarms.c.org, orgs)
        if state is not None:
            cleared = alarms.c.cleared_at
            conditions.append(cleared.is_(None) if state == "open" else cleared.is_not(None))
        for column, wanted in (
            (alarms.c.entity_no, no), (alarms.c.severity, severity), (alarms.c.assigned_to, assigned),
            (alarms.c.rule, rule), (alarms.c.group_id, group),
        ):
            if wanted is not None:
                conditions.append(column == wanted)
        if grouped:
            conditions.append(sa.or_(alarms.c.group_id.is_(None), alarms.c.group_id == alarms.c.id))
        page = sa.select(alarms).where(*conditions).order_by(alarms.c.id.desc()).limit(limit + 1)
        if last:
            page = page.where(alarms.c.id < int(last[0]))

        def read(connection: sa.Connection) -> tuple[Sequence[Any], dict[int, int]]:
            rows = connection.execute(page).all()
            groups = {row.group_id for row in rows if row.group_id is not None}
            sizes = sa.select(alarms.c.group_id, sa.func.count()).where(
                alarms.c.group_id.in_(groups), *within(alarms.c.org, orgs)
            ).group_by(alarms.c.group_id)
            return rows, {row[0]: row[1] for row in connection.execute(sizes)} if groups else {}

        rows, sizes = await self.house.db.read(read)
        answer: dict[str, Any] = {
            "items": [{**self.document(row), "group_size": sizes.get(row.group_id, 1)} for row in rows[:limit]],
            "next": cursor([rows[limit - 1].id]) if len(rows) > limit else None,
        }
        if count:
            number = sa.select(sa.func.count()).select_from(alarms).where(*conditions)
            answer["count"] = await self.house.db.read(lambda c: c.execute(number).scalar_one())
        return answer

    @operation(READ)
    async def get(self, actor: Actor, alarm_id: int) -> dict[str, Any]:
        """One alarm with its history: what was done about it, by whom. Raises `NotFound`."""
        row = await self._row(actor, alarm_id)
        query = sa.select(alarm_notes).where(alarm_notes.c.alarm_id == alarm_id).order_by(alarm_notes.c.id)
        notes = await self.house.db.read(lambda c: c.execute(query).all())
        return {
            **self.document(row),
            "history": [{"at": n.at, "actor": n.actor, "action": n.action, "text": n.text} for n in notes],
        }

    @operation(WRITE)
    async def acknowledge(self, actor: Actor, alarm_id: int) -> dict[str, Any]:
        """Note that the actor has seen the alarm; the first acknowledgement stands. Raises `NotFound`."""
        row = await self._row(actor, alarm_id, WRITE)
        if row.acknowledged_at is not None:
            return self.document(row)
        return await self._do(
            actor, row, "acknowledged", "", alarms.c.acknowledged_at.is_(None),
            acknowledged_by=actor.id, acknowledged_at=utcnow(), escalate_at=None,
        )

    @operation(WRITE)
    async def assign(self, actor: Actor, alarm_id: int, to: Assignment) -> dict[str, Any]:
        """Say who sees to the alarm: a person who may read it. Raises `NotFound`, `Invalid`."""
        row = await self._row(actor, alarm_id, WRITE)
        if to.to is not None:
            authenticator = self.house.authenticator
            person = await authenticator.actor_named(to.to) if authenticator and to.to.startswith("user:") else None
            if person is None or not self.policy.allows(person, READ, row.org):
                raise Invalid(
                    f"{to.to} 不是可查看此告警的用户", f"{to.to} is nobody who may see this alarm", field="to", value=to.to,
                    rule="user:<name> with access.alarm.read",
                )
        return await self._do(actor, row, "assigned", to.to or "", None, assigned_to=to.to)

    @operation(WRITE)
    async def silence(self, actor: Actor, alarm_id: int, silence: Silence) -> dict[str, Any]:
        """Tell nobody of this alarm, nor of later ones of its rule and entity, until then. Raises `NotFound`, `Invalid`."""
        row = await self._row(actor, alarm_id, WRITE)
        until = silence.until
        if until is not None and not utcnow() < until <= utcnow() + timedelta(days=90):
            raise Invalid(
                "until 应在今后 90 天之内", "until must be within the next 90 days", field="until", value=until.isoformat(),
                rule="now < until <= now + 90 d",
            )
        return await self._do(
            actor, row, "silenced", "" if until is None else until.astimezone(UTC).isoformat(), None, silenced_until=until
        )

    @operation(WRITE)
    async def comment(self, actor: Actor, alarm_id: int, comment: Comment) -> dict[str, Any]:
        """Write something into the alarm's history. Raises `NotFound`."""
        row = await self._row(actor, alarm_id, WRITE)
        return await self._do(actor, row, "commented", comment.text, None)

    @operation(WRITE)
    async def clear(self, actor: Actor, alarm_id: int) -> dict[str, Any]:
        """Clear by hand. The rule raises again only after its condition was over. Raises `NotFound`, `Conflict`."""
        row = await self._row(actor, alarm_id, WRITE)
        if row.cleared_at is not None:
            raise Conflict(f"告警 {alarm_id} 已解除", f"alarm {alarm_id} is cleared", field="id", value=alarm_id, rule="open")
        document = await self._do(
            actor, row, "cleared", "", alarms.c.cleared_at.is_(None), cleared_at=utcnow(), cleared_by=actor.id,
            escalate_at=None,
        )
        await self.directory.recount([row.entity_no])
        return document

    async def _row(self, actor: Actor, alarm_id: int, action: str = READ) -> Any:
        query = sa.select(alarms).where(alarms.c.id == alarm_id)
        row = await self.house.db.read(lambda c: c.execute(query).first())
        missing = NotFound(f"没有告警 {alarm_id}", f"no alarm {alarm_id}", field="id", value=alarm_id)
        return self.policy.require_seen(actor, READ, action, row, missing)

    async def _do(
        self, actor: Actor, row: Any, action: str, text: str, only: sa.ColumnElement[bool] | None, **values: Any
    ) -> dict[str, Any]:
        """Change an alarm, unless `only` holds no more, with a line in its history and in the audit."""
        mine = alarms.c.id == row.id if only is None else sa.and_(alarms.c.id == row.id, only)

        def write(connection: sa.Connection) -> Any:
            now = utcnow()
            changed = connection.execute(
                alarms.update().where(mine).values(updated_at=now, **values).returning(alarms)
            ).first()
            if changed is None:
                return connection.execute(sa.select(alarms).where(alarms.c.id == row.id)).first()
            _note(connection, row.id, actor.id, action, text, now)
            if action == "cleared":
                queue = notify.Queue(connection)
                queue.add(changed, "cleared", self._type(changed.entity_no))
                queue.put()
            audit.record(connection, actor, WRITE, row.org, f"alarm:{row.id}", {"change": action})
            return changed

        document = self.document(await self.house.db.write(write))
        await self._show([document])
        return document

    def _type(self, no: int) -> str:
        at = self.directory.row(no)
        return "" if at is None else self.directory.types[self.directory.type[at]]

    def document(self, row: Any) -> dict[str, Any]:
        """A row of `alarms` as the API shows it."""
        at = self.directory.row(row.entity_no)
        return {
            "id": row.id, "no": row.entity_no, "org": row.org,
            "entity_id": None if at is None else self.directory.ids[at],
            "name": None if at is None else self.directory.names[at],
            "type": self._type(row.entity_no) or None,
            "property": row.property, "rule": row.rule, "title": row.title, "severity": row.severity, "value": row.value,
            "synthetic": bool(row.synthetic), "raised_at": row.raised_at, "updated_at": row.updated_at,
            "cleared_at": row.cleared_at, "cleared_by": row.cleared_by, "acknowledged_by": row.acknowledged_by,
            "acknowledged_at": row.acknowledged_at, "assigned_to": row.assigned_to,
            "silenced_until": row.silenced_until, "group_id": row.group_id,
        }

    # -- from the evaluator

    async def apply(self, changes: Sequence[Change]) -> None:
        """Write changes to SQL, then publish their events. Writing the same changes again changes nothing."""
        directory = self.directory
        strange = {change.entity for change in changes if directory.row(change.entity) is None}
        if strange:  # made by another process within the last half second, or deleted
            await directory.refresh(strange)
        last = {(c.entity, c.rule.identity, c.raised_at): c for c in changes if c.kind == "worse"}
        wanted = [c for c in changes if c.kind != "worse" or last[c.entity, c.rule.identity, c.raised_at] is c]
        for start in range(0, len(wanted), 1000):
            ready = []
            for change in wanted[start : start + 1000]:
                at = directory.row(change.entity)
                org = None if at is None else directory.orgs[directory.org[at]]
                ready.append((change, org, self._type(change.entity), at is not None and bool(directory.synthetic[at])))

            def write(connection: sa.Connection, ready: Any = ready) -> list[Any]:
                book = _Book(connection)
                rows = [row for item in ready if (row := book.store(*item)) is not None]
                book.queue.put()
                return rows

            await self._tell(await self.house.db.write(write))

    async def clear_left(self, ids: Sequence[int]) -> None:
        """Clear alarms whose rule is evaluated no more."""
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            await self._tell(await self.house.db.write(lambda c, part=part: _clear_left(c, part, self._type)))  # type: ignore[misc]

    async def escalate(self) -> None:
        """Make alarms more severe that nobody has acknowledged in time."""
        query = sa.select(alarms).where(
            alarms.c.escalate_at <= utcnow(), alarms.c.cleared_at.is_(None), alarms.c.acknowledged_at.is_(None)
        ).limit(500)
        rows = await self.house.db.read(lambda c: c.execute(query).all())
        if not rows:
            return

        def write(connection: sa.Connection) -> list[Any]:
            now, done, queue = utcnow(), [], notify.Queue(connection)
            for row in rows:
                if row.silenced_until is not None and row.silenced_until > now:
                    connection.execute(
                        alarms.update().where(alarms.c.id == row.id).values(escalate_at=row.silenced_until)
                    )
                    continue
                worse = SEVERITIES[min(SEVERITIES.index(row.severity) + 1, len(SEVERITIES) - 1)]
                again = None if worse == SEVERITIES[-1] else now + timedelta(seconds=row.escalate_s)
                changed = connection.execute(
                    alarms.update().where(
                        alarms.c.id == row.id, alarms.c.escalate_at == row.escalate_at,
                        alarms.c.acknowledged_at.is_(None), alarms.c.cleared_at.is_(None),
                    ).values(severity=worse, escalate_at=again, updated_at=now).returning(alarms)
                ).first()
                if changed is not None:
                    _note(connection, row.id, "system:rules", "escalated", worse, now)
                    queue.add(changed, "escalated", self._type(row.entity_no))
                    done.append(changed)
            queue.put()
            return done

        await self._show([self.document(row) for row in await self.house.db.write(write)])

    async def _tell(self, rows: Sequence[Any]) -> None:
        await self.directory.recount([row.entity_no for row in rows])
        await self._show([self.document(row) for row in rows])
        self._news.set()

    async def announcing(self, _house: House) -> None:
        """Send events as alarms are raised and cleared, for ever: a storm of them holds up no evaluation."""
        while True:
            await self.announce()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._news.wait()
            self._news.clear()

    async def announce(self) -> None:
        """Send the events that are not sent yet."""
        query = sa.select(alarms).where(
            sa.or_(
                alarms.c.announced < RAISED_SENT,
                sa.and_(alarms.c.announced < CLEARED_SENT, alarms.c.cleared_at.is_not(None)),
            )
        ).order_by(alarms.c.id).limit(1000)
        while rows := await self.house.db.read(lambda c: c.execute(query).all()):
            await self._publish(rows)

    async def _publish(self, rows: Sequence[Any]) -> None:
        for start in range(0, len(rows), 64):
            await asyncio.gather(*(self._events(row) for row in rows[start : start + 64]))

        def write(connection: sa.Connection) -> None:
            for state, over in ((RAISED_SENT, False), (CLEARED_SENT, True)):
                told = [row.id for row in rows if (row.cleared_at is not None) == over]
                connection.execute(alarms.update().where(alarms.c.id.in_(told)).values(announced=state))

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


def _clear_left(connection: sa.Connection, ids: Sequence[int], type_of: Callable[[int], str]) -> list[Any]:
    now = utcnow()
    rows = list(connection.execute(
        alarms.update().where(alarms.c.id.in_(ids), alarms.c.cleared_at.is_(None))
        .values(cleared_at=now, updated_at=now, escalate_at=None).returning(alarms)
    ).all())
    queue = notify.Queue(connection)
    for row in rows:
        _note(connection, row.id, "system:rules", "cleared", "the rule was changed", now)
        queue.add(row, "cleared", type_of(row.entity_no))
    queue.put()
    return rows


class _Book:
    """Writes changes within one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.queue = notify.Queue(connection)
        self._firsts: dict[tuple[str, str, str], tuple[int, datetime]] = {}

    def store(self, change: Change, org: str | None, kind: str, synthetic: bool) -> Any:
        """Write one change; the row if it raised or cleared an alarm, None if there was nothing to do."""
        rule, execute = change.rule, self.connection.execute
        raised_at, at = moment(change.raised_at), moment(change.at)
        same = (
            (alarms.c.entity_no == change.entity) & (alarms.c.property == rule.about) & (alarms.c.rule == rule.key)
        )
        if change.kind == "raised":
            last = execute(sa.select(alarms).where(same).order_by(alarms.c.id.desc()).limit(1)).first()
            known = last is not None and last.rule_version == rule.version and last.raised_at >= raised_at
            if org is None or known:
                return None
            if last is not None and last.cleared_at is None:
                execute(alarms.update().where(alarms.c.id == last.id).values(cleared_at=at, updated_at=at))
            return self._raise(change, org, kind, synthetic, None if last is None else last.silenced_until)
        mine = same & (alarms.c.raised_at == raised_at) & alarms.c.cleared_at.is_(None)
        if change.kind == "worse":
            execute(alarms.update().where(mine).values(value=change.value, updated_at=at))
            return None
        over = execute(
            alarms.update().where(mine).values(cleared_at=at, updated_at=at, escalate_at=None).returning(alarms)
        ).first()
        if over is not None:
            self.queue.add(over, "cleared", kind)
        return over

    def _raise(self, change: Change, org: str, kind: str, synthetic: bool, silenced: datetime | None) -> Any:
        rule, now, raised_at = change.rule, utcnow(), moment(change.raised_at)
        first = self._first(org, rule, raised_at)
        row = self.connection.execute(alarms.insert().values(
            entity_no=change.entity, org=org, property=rule.about, rule=rule.key, rule_version=rule.version,
            title=rule.title, severity=rule.severity, value=change.value, synthetic=synthetic, raised_at=raised_at,
            updated_at=moment(change.at), announced=NONE_SENT, group_id=first,
            silenced_until=silenced if silenced is not None and silenced > now else None, escalate_s=rule.escalate_s,
            escalate_at=None if rule.escalate_s is None else now + timedelta(seconds=rule.escalate_s),
        ).returning(alarms)).one()
        if first is None:
            row = self.connection.execute(
                alarms.update().where(alarms.c.id == row.id).values(group_id=row.id).returning(alarms)
            ).one()
            self._firsts[org, rule.key, rule.about] = row.id, raised_at
        self.queue.add(row, "raised", kind)
        return row

    def _first(self, org: str, rule: Rule, raised_at: datetime) -> int | None:
        """The first alarm of the group that an alarm of this moment belongs to, if there is one."""
        key = org, rule.key, rule.about
        known = self._firsts.get(key)
        if known is None or abs(known[1] - raised_at) > TOGETHER:
            near = sa.select(alarms.c.id, alarms.c.raised_at).where(
                alarms.c.org == org, alarms.c.rule == rule.key, alarms.c.property == rule.about,
                alarms.c.id == alarms.c.group_id,
                alarms.c.raised_at.between(raised_at - TOGETHER, raised_at + TOGETHER),
            ).order_by(alarms.c.id.desc()).limit(1)
            found = self.connection.execute(near).first()
            if found is None:
                return None
            known = self._firsts[key] = found.id, found.raised_at
        return known[0]


def _note(connection: sa.Connection, alarm: int, actor: str, action: str, text: str, at: datetime) -> None:
    connection.execute(alarm_notes.insert().values(alarm_id=alarm, at=at, actor=actor, action=action, text=text))


def moment(micros: int) -> datetime:
    """µs since the epoch as a time; far beyond what a clock shows, the nearest that SQL can hold."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=min(max(micros, 0), 253_000_000_000_000_000))
