"""Rules of organisations: their operations, and all rules as they are evaluated.

Law: a rule names a type that a pack declares and properties that this type has, and entities that its organisation has;
a change makes another version of it, which begins anew: what the version before had raised is cleared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from tulou.access.batch import Batch
from tulou.access.directory import Directory
from tulou.access.products.offers import must_offer, offered
from tulou.access.rules.declared import must_fit, of_packs
from tulou.access.rules.evaluator import Change, Evaluator
from tulou.access.rules.models import Condition, NewRule, Rule, key_of, rules
from tulou.context import entities
from tulou.kernel import audit
from tulou.kernel.errors import Invalid, NotFound, Unavailable
from tulou.kernel.http import page
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.rules")

READ, WRITE = "access.rule.read", "access.rule.write"
PER_ORG = 10_000
READINGS = 1_000_000
"""Readings that one test may replay."""
CHANGES = 1_000
"""Changes that one test shows."""
_CONDITION: TypeAdapter[Condition] = TypeAdapter(Condition)


class Rules:
    """The operations on rules."""

    def __init__(self, house: House, directory: Directory) -> None:
        self.house = house
        self.policy = house.policy
        self.directory = directory
        self.declared = of_packs(self.house.packs)
        """The rules of packs, and the thresholds of products."""
        house.packs.followers.append(self._follow)

    def _follow(self) -> None:
        self.declared = of_packs(self.house.packs)

    @operation(READ)
    async def find(
        self, actor: Actor, *, org: str | None = None, kind: str | None = None, limit: int = 50, after: str | None = None
    ) -> dict[str, Any]:
        """Rules of organisations, newest first. Keyset-paged. `declared` are those of packs, which apply to everyone."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        query = sa.select(rules)
        query = query.where(*within(rules.c.org, orgs))
        if kind is not None:
            query = query.where(rules.c.type == kind)
        rows, more = await page(self.house.db, query, rules.c.id, limit, after, newest=True)
        known = offered(self.house, orgs)
        return {
            "items": [_document(row) for row in rows],
            "next": more,
            "declared": [
                {"key": rule.key, "name": rule.title, "type": rule.type, "severity": rule.severity,
                 "condition": rule.condition.model_dump(exclude_none=True)}
                for rule in self.declared if kind in (None, rule.type) and rule.type in known
            ],
        }

    @operation(READ)
    async def get(self, actor: Actor, rule_id: int) -> dict[str, Any]:
        """One rule. Raises `NotFound`."""
        return _document(await self._row(actor, rule_id))

    @operation(WRITE)
    async def create(self, actor: Actor, new: NewRule) -> dict[str, Any]:
        """Make a rule; it is evaluated from the next readings on. Raises `Invalid`."""
        self.policy.require(actor, WRITE, new.org)
        await self._check(new)

        def write(connection: sa.Connection) -> Any:
            mine = sa.select(sa.func.count()).select_from(rules).where(rules.c.org == new.org)
            if connection.execute(mine).scalar_one() >= PER_ORG:
                raise Invalid(
                    f"{new.org} 的规则已达 {PER_ORG} 条", f"{new.org} has {PER_ORG} rules", field="org", value=new.org,
                    rule=f"<= {PER_ORG}",
                )
            now = utcnow()
            row = connection.execute(rules.insert().values(
                **_values(new), version=1, created_at=now, created_by=actor.id, updated_at=now
            ).returning(rules)).one()
            audit.record(connection, actor, WRITE, new.org, f"rule:{row.id}", {"change": "created"})
            return row

        return await self._changed(await self.house.db.write(write))

    @operation(WRITE)
    async def change(self, actor: Actor, rule_id: int, new: NewRule) -> dict[str, Any]:
        """Replace what a rule says; its organisation stays. Raises `NotFound`, `Invalid`."""
        row = await self._row(actor, rule_id, WRITE)
        if new.org != row.org:
            raise Invalid("机构不可更改", "the organisation cannot be changed", field="org", value=new.org, rule=row.org)
        await self._check(new)

        def write(connection: sa.Connection) -> Any:
            changed = connection.execute(
                rules.update().where(rules.c.id == rule_id)
                .values(**_values(new), version=rules.c.version + 1, updated_at=utcnow()).returning(rules)
            ).first()
            if changed is None:
                raise _no_such(rule_id)
            audit.record(connection, actor, WRITE, row.org, f"rule:{rule_id}", {"change": "changed"})
            return changed

        return await self._changed(await self.house.db.write(write))

    @operation(WRITE)
    async def delete(self, actor: Actor, rule_id: int) -> None:
        """Delete a rule; what it had raised is cleared. Raises `NotFound`."""
        row = await self._row(actor, rule_id, WRITE)

        def write(connection: sa.Connection) -> None:
            connection.execute(rules.delete().where(rules.c.id == rule_id))
            audit.record(connection, actor, WRITE, row.org, f"rule:{rule_id}", {"change": "deleted"})

        await self.house.db.write(write)
        await self.house.bus.changed("rules", str(rule_id))

    @operation(READ)
    async def test(self, actor: Actor, rule_id: int, start: int, end: int) -> dict[str, Any]:
        """What the rule would have raised and cleared by the readings of [start, end) (µs), in the order in which they
        came. Raises nothing itself. Raises `NotFound`, `Invalid`."""
        row = await self._row(actor, rule_id)
        return await self._replay(_rule(row, await self._numbers([row])), row.org, start, end)

    @operation(READ)
    async def try_out(self, actor: Actor, new: NewRule, start: int, end: int) -> dict[str, Any]:
        """As `test`, of a rule that is not made yet."""
        self.policy.require(actor, READ, new.org)
        await self._check(new)
        numbers = await self._ids({(new.org, id) for id in new.entities or ()})
        only = None if new.entities is None else frozenset(numbers.values())
        rule = Rule("new", new.type, new.condition, new.severity, new.name, new.org, only)
        return await self._replay(rule, new.org, start, end)

    # -- for the house

    async def load(self) -> list[Rule]:
        """All rules that are to be evaluated."""
        query = sa.select(rules).where(rules.c.enabled.is_(True)).order_by(rules.c.id)
        rows = await self.house.db.read(lambda c: c.execute(query).all())
        numbers = await self._numbers(rows)
        found = list(self.declared)
        for row in rows:
            try:
                found.append(_rule(row, numbers))
            except ValidationError as error:  # made by another version of the house
                log.error("rule %s is not evaluated: %s", row.id, error)
        return found

    async def _numbers(self, rows: Sequence[Any]) -> dict[tuple[str, str], int]:
        return await self._ids({(row.org, id) for row in rows for id in row.entities or ()})

    async def _ids(self, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """The numbers of those entities that exist."""
        ids, found = sorted({id for _, id in wanted}), {}
        for start in range(0, len(ids), 500):
            query = sa.select(entities.c.org, entities.c.id, entities.c.no).where(entities.c.id.in_(ids[start : start + 500]))
            for org, id, no in await self.house.db.read(lambda c, q=query: c.execute(q).all()):  # type: ignore[misc]
                if (org, id) in wanted:
                    found[org, id] = no
        return found

    # -- checks

    async def _row(self, actor: Actor, rule_id: int, action: str = READ) -> Any:
        query = sa.select(rules).where(rules.c.id == rule_id)
        row = await self.house.db.read(lambda c: c.execute(query).first())
        return self.policy.require_seen(actor, READ, action, row, _no_such(rule_id))

    async def _check(self, new: NewRule) -> None:
        must_fit(new, must_offer(self.house, new.type, new.org))
        wanted = {(new.org, id) for id in new.entities or ()}
        missing = sorted(id for _, id in wanted.difference(await self._ids(wanted)))
        if missing:
            raise Invalid(
                f"{new.org} 没有实体 {missing[0]}", f"{new.org} has no entity {missing[0]}", field="entities", value=missing[0],
                rule="entity of the organisation",
            )

    async def _changed(self, row: Any) -> dict[str, Any]:
        await self.house.bus.changed("rules", str(row.id))
        return _document(row)

    # -- history

    async def _replay(self, rule: Rule, org: str, start: int, end: int) -> dict[str, Any]:
        if not start < end:
            raise Invalid("to 应晚于 from", "to must be later than from", field="to", value=end, rule="from < to")
        if not hasattr(self.house, "readings"):
            raise Unavailable("此进程不读取历史", "this process has no readings store", rule="role api or writer")
        names = ", ".join(_quoted(name) for name in rule.condition.names())
        where = f"org = {_quoted(org)} AND type = {_quoted(rule.type)} AND ts >= {_time(start)} AND ts < {_time(end)}"
        if rule.entities is not None:
            where += f" AND entity IN ({', '.join(map(str, sorted(rule.entities))) or '0'})"
        values = await self.house.readings.sql(
            f"SELECT entity, property, toUnixTimestamp64Micro(ts), value, quality, seq, frame FROM readings WHERE {where} "
            f"AND property IN ({names}) ORDER BY seq, frame, ts LIMIT {READINGS + 1}", seconds=60, max_rows=READINGS + 1,
        )
        if len(values.rows) > READINGS:
            raise Invalid(
                f"此时段的读数超过 {READINGS} 个", f"more than {READINGS} readings in this time", field="to", value=end,
                rule=f"<= {READINGS} readings",
            )
        frames = await self.house.readings.sql(
            f"SELECT seq, frame, toUnixTimestamp64Micro(ts) FROM frames WHERE org = {_quoted(org)} AND "
            f"type = {_quoted(rule.type)} AND (seq, frame) IN (SELECT seq, frame FROM readings WHERE {where} "
            f"AND property IN ({names}))", seconds=60, max_rows=READINGS,
        )
        received = {(seq, frame): at for seq, frame, at in frames.rows}
        evaluator = Evaluator([rule], self.house.packs.models)
        changes = await asyncio.to_thread(lambda: evaluator.take([_batch(values.rows, received, org, rule.type)]))
        changes = [change for change in changes if change.kind != "worse"]
        return {
            "readings": len(values.rows), "raised": sum(change.kind == "raised" for change in changes),
            "cleared": sum(change.kind == "cleared" for change in changes),
            "changes": [self._shown(change) for change in changes[:CHANGES]],
        }

    def _shown(self, change: Change) -> dict[str, Any]:
        at = self.directory.row(change.entity)
        return {
            "kind": change.kind, "no": change.entity, "entity_id": None if at is None else self.directory.ids[at],
            "name": None if at is None else self.directory.names[at], "value": change.value, "at": change.at,
        }


def _batch(rows: Sequence[Sequence[Any]], received: dict[tuple[int, int], int], org: str, kind: str) -> Batch:
    """Stored readings as the batch that they came in. A frame that is kept no more was received when its reading says."""
    frames: dict[tuple[int, int], int] = {}
    props: dict[str, int] = {}
    f_entity: list[int] = []
    f_ts: list[int] = []
    r_frame: list[int] = []
    for entity, _, ts, _, _, seq, frame in rows:
        number = frames.setdefault((seq, frame), len(frames))
        if number == len(f_ts):
            f_entity.append(entity)
            f_ts.append(received.get((seq, frame), ts))
        r_frame.append(number)
    prop = [props.setdefault(row[1], len(props)) for row in rows]

    def column(at: int, of: Any) -> NDArray[Any]:
        return np.array([row[at] for row in rows], of)

    count = len(f_ts)
    return Batch(
        protocol="", classes=[(org, kind, 0)], f_entity=np.array(f_entity, np.uint64), f_ts=np.array(f_ts, np.int64),
        f_class=np.zeros(count, np.uint16), f_len=np.zeros(count, np.uint32), f_dup=np.zeros(count, np.uint8), f_raw=b"",
        props=list(props), r_frame=np.array(r_frame, np.uint32), r_entity=column(0, np.uint64),
        r_prop=np.array(prop, np.uint16), r_ts=column(2, np.int64), r_val=column(3, np.float64), r_text={},
        r_quality=column(4, np.uint8),
    )


def _rule(row: Any, numbers: dict[tuple[str, str], int]) -> Rule:
    only = None if row.entities is None else frozenset(
        numbers[row.org, id] for id in row.entities if (row.org, id) in numbers
    )
    return Rule(
        key_of(row.id), row.type, _CONDITION.validate_python(row.condition), row.severity, row.name, row.org, only, row.id,
        row.version, row.escalate_s,
    )


def _values(new: NewRule) -> dict[str, Any]:
    return {
        "org": new.org, "name": new.name, "type": new.type, "entities": sa.null() if new.entities is None else new.entities,
        "condition": new.condition.model_dump(exclude_none=True), "severity": new.severity, "escalate_s": new.escalate_s,
        "enabled": new.enabled,
    }


def _document(row: Any) -> dict[str, Any]:
    """A row of `rules` as the API shows it."""
    return {
        "id": row.id, "key": key_of(row.id), "org": row.org, "name": row.name, "type": row.type, "entities": row.entities,
        "condition": row.condition, "severity": row.severity, "escalate_s": row.escalate_s, "enabled": bool(row.enabled),
        "version": row.version, "created_at": row.created_at, "created_by": row.created_by, "updated_at": row.updated_at,
    }


def _no_such(rule_id: int) -> NotFound:
    return NotFound(f"没有规则 {rule_id}", f"no rule {rule_id}", field="id", value=rule_id)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _time(micros: int) -> str:
    return f"fromUnixTimestamp64Micro(toInt64({micros}), 'UTC')"
