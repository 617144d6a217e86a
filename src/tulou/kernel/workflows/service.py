"""Operations on the items of workflows: make, look at, move; and what the house does when time is up.

Law: a step, the item's new state, what is due then and the audit are one transaction, under the item's lock. A step says which one it
follows (`step`), so that nobody moves what another has moved meanwhile; with a `key` it may be asked for again, and is made once.
What a deadline does is a step like any other, made by the house if the item is still where the deadline began.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from tulou.kernel.http import json_text, page
from tulou.kernel.packs import Property, check_values
from tulou.kernel.policy import Actor, operation, refusal, system
from tulou.kernel.sql import utcnow, within
from tulou.kernel.workflows.definition import Transition, Workflow
from tulou.kernel.workflows.tables import due, items, steps

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, CREATE, MOVE = "workflow.item.read", "workflow.item.create", "workflow.item.move"
HOUSE = system("workflows")
MOST_FIELDS = 256 << 10
"""Bytes of an item's fields."""
TOGETHER = 200
"""Deadlines that are looked at in one turn."""


class NewItem(BaseModel):
    """An item to make. `subject` is what it is about, such as an entity's id; `key` makes it once however often it is asked for."""

    model_config = ConfigDict(extra="forbid")

    workflow: str = Field(max_length=64)
    org: str = Field(max_length=64)
    title: str = Field(min_length=1, max_length=256)
    subject: str = Field(default="", max_length=1024)
    fields: dict[str, Any] = Field(default_factory=dict)
    assignee: str = Field(default="", max_length=128)
    key: str | None = Field(default=None, min_length=1, max_length=128)


class Move(BaseModel):
    """A step to make. `step` is the number of the step after which it is made."""

    model_config = ConfigDict(extra="forbid")

    transition: str = Field(max_length=64)
    step: int = Field(ge=0)
    comment: str = Field(default="", max_length=4096)
    fields: dict[str, Any] = Field(default_factory=dict)
    assignee: str | None = Field(default=None, max_length=128)
    key: str | None = Field(default=None, min_length=1, max_length=128)


def no_such_item(no: object) -> NotFound:
    """There is no such item, or none that the actor may see."""
    return NotFound(f"没有事项 {no}", f"there is no item {no}", field="no", value=no)


def _instant(at: dt.datetime | None) -> str | None:
    return at.isoformat() if at else None


def document(row: Any) -> dict[str, Any]:
    """An item as the API shows it."""
    return {
        "no": row.no, "workflow": row.workflow, "org": row.org, "title": row.title, "subject": row.subject, "state": row.state,
        "final": row.final, "step": row.step, "level": row.level, "fields": row.fields, "assignee": row.assignee,
        "created_by": row.created_by, "created_at": _instant(row.created_at), "entered_at": _instant(row.entered_at),
        "due_at": _instant(row.due_at),
    }


def _step(row: Any) -> dict[str, Any]:
    return {
        "number": row.number, "transition": row.transition, "source": row.source, "target": row.target, "actor": row.actor,
        "comment": row.comment, "fields": row.fields, "at": _instant(row.at),
    }


class Workflows:
    """Items of the workflows that packs and engines declare. `now` is the clock."""

    def __init__(self, house: House, definitions: Mapping[str, Workflow], now: Callable[[], dt.datetime] = utcnow) -> None:
        self.house, self.db, self.policy = house, house.db, house.policy
        self.definitions = definitions
        self.now = now
        self.wake = asyncio.Event()

    # -- what there is

    @operation(READ)
    async def workflows(self, actor: Actor) -> list[dict[str, Any]]:
        """The workflows, with their states, transitions and fields, and whether the actor may make items somewhere (`may_create`)."""
        self.policy.require_any(actor, READ)
        return [{
            "name": name, **one.model_dump(), "may_create": any(self.policy.visible(actor, CREATE, needs=role) for role in one.create),
        } for name, one in sorted(self.definitions.items())]

    def _workflow(self, name: str) -> Workflow:
        found = self.definitions.get(name)
        if found is None:
            raise Invalid(f"没有工作流 {name}", f"there is no workflow {name}", field="workflow", value=name,
                          rule=" | ".join(sorted(self.definitions)))
        return found

    def _may(self, actor: Actor, action: str, org: str, roles: Iterable[str]) -> bool:
        return any(self.policy.allows(actor, action, org, needs=role) for role in roles)

    def _require(self, actor: Actor, action: str, org: str, roles: Iterable[str]) -> None:
        if not self._may(actor, action, org, roles):
            raise refusal(actor, action)

    @operation(CREATE)
    async def create(self, actor: Actor, new: NewItem) -> dict[str, Any]:
        """Make an item in its first state. With a `key` that was used before in this workflow and organisation: the item of then."""
        workflow = self._workflow(new.workflow)
        self._require(actor, CREATE, new.org, workflow.create)
        check_values(_among(workflow, workflow.asks, workflow.needs), new.fields, workflow.needs, "fields")
        json_text(new.fields, "fields", MOST_FIELDS)

        def write(connection: sa.Connection) -> Any:
            if new.key is not None:
                known = connection.execute(sa.select(items).where(
                    items.c.org == new.org, items.c.workflow == new.workflow, items.c.key == new.key
                )).first()
                if known is not None:
                    return known
            at = self.now()
            row = connection.execute(items.insert().values(
                workflow=new.workflow, org=new.org, title=new.title, subject=new.subject, state=workflow.initial,
                final=workflow.states[workflow.initial].final, step=0, level=0, fields=new.fields, assignee=new.assignee,
                created_by=actor.id, created_at=at, entered_at=at, due_at=_first(workflow, workflow.initial, at), key=new.key,
            ).returning(items)).one()
            connection.execute(steps.insert().values(
                item=row.no, number=0, transition="", source="", target=workflow.initial, actor=actor.id, person=_person(actor),
                comment="", fields=new.fields, at=at,
            ))
            self._begin(connection, row, workflow)
            audit.record(connection, actor, CREATE, new.org, f"item {row.no}", {"workflow": new.workflow, "title": new.title})
            return row

        try:
            row = await self.db.write(write)
        except sa.exc.IntegrityError as error:
            if new.key is None:
                raise Invalid(f"没有组织 {new.org}", f"there is no organisation {new.org}", field="org", value=new.org) from error
            row = await self.db.write(write)  # another process made it at the same moment
        await self._changed(row.no)
        return document(row)

    @staticmethod
    def _begin(connection: sa.Connection, row: Any, workflow: Workflow) -> None:
        """Note when the deadlines of the state are that the item has just entered."""
        deadlines = workflow.states[row.state].deadlines
        if deadlines:
            connection.execute(due.insert(), [
                {"item": row.no, "deadline": number, "step": row.step, "at": row.entered_at + dt.timedelta(seconds=one.after_s)}
                for number, one in enumerate(deadlines)
            ])

    # -- looking

    @operation(READ)
    async def get(self, actor: Actor, no: int) -> dict[str, Any]:
        """An item with its steps, and the transitions that the actor may make now (`may`)."""
        row = await self._row(actor, no)
        query = sa.select(steps).where(steps.c.item == no).order_by(steps.c.number)
        made = await self.db.read(lambda c: c.execute(query).all())
        workflow = self.definitions.get(row.workflow)
        may = [] if workflow is None else [
            name for name, one in workflow.transitions.items()
            if row.state in one.source and self._may(actor, MOVE, row.org, one.roles)
            and self._second(one, made, actor) is None
        ]
        return {**document(row), "steps": [_step(one) for one in made], "may": may}

    async def _row(self, actor: Actor, no: int) -> Any:
        row = await self.db.read(lambda c: c.execute(sa.select(items).where(items.c.no == no)).first())
        return self.policy.require_seen(actor, READ, READ, row, no_such_item(no))

    @operation(READ)
    async def find(
        self, actor: Actor, *, workflow: str | None = None, state: str | None = None, org: str | None = None, subject: str | None = None,
        assignee: str | None = None, open: bool | None = None, inbox: bool = False, limit: int = 50, after: str | None = None,
    ) -> dict[str, Any]:
        """Items, newest first: `{items, next}`. `inbox`: those on which the actor may make a step now."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        query = sa.select(items).where(*within(items.c.org, orgs))
        for column, value in ((items.c.workflow, workflow), (items.c.state, state), (items.c.subject, subject), (items.c.assignee, assignee)):
            if value is not None:
                query = query.where(column == value)
        if open is not None:
            query = query.where(items.c.final == (not open))
        if inbox:
            query = query.where(items.c.final.is_(False), sa.or_(sa.false(), *self._movable(actor)))
        found, more = await page(self.db, query, items.c.no, limit, after, newest=True)
        return {"items": [document(row) for row in found], "next": more}

    def _movable(self, actor: Actor) -> list[sa.ColumnElement[bool]]:
        """Conditions of the states in which the actor may make a step, by his roles."""
        found: list[sa.ColumnElement[bool]] = []
        for name, workflow in self.definitions.items():
            by_role: dict[str, set[str]] = {}
            for one in workflow.transitions.values():
                for role in one.roles:
                    by_role.setdefault(role, set()).update(one.source)
            for role, states in by_role.items():
                orgs = self.policy.visible(actor, MOVE, needs=role)
                if orgs:
                    found.append(sa.and_(items.c.workflow == name, items.c.state.in_(sorted(states)), *within(items.c.org, orgs)))
        return found

    # -- moving

    @operation(MOVE)
    async def move(self, actor: Actor, no: int, move: Move) -> dict[str, Any]:
        """Make a step. Raises `NotFound`, `Invalid`, `Forbidden`; `Conflict` where the item has moved on since `move.step`, or the
        transition does not begin in its state. A step with a `key` that was made answers the item as it is."""
        seen = await self._row(actor, no)
        workflow = self._workflow(seen.workflow)
        transition = workflow.transitions.get(move.transition)
        if transition is None:
            raise Invalid(f"没有步骤 {move.transition}", f"there is no transition {move.transition}", field="transition",
                          value=move.transition, rule=" | ".join(workflow.transitions))
        self._require(actor, MOVE, seen.org, transition.roles)
        check_values(_among(workflow, transition.asks, transition.needs), move.fields, transition.needs, "fields")
        if transition.comment and not move.comment.strip():
            raise Invalid("请填写意见", "comment is missing", field="comment", rule="required")

        def write(connection: sa.Connection) -> Any:
            row = connection.execute(sa.select(items).where(items.c.no == no).with_for_update()).first()
            if row is None:
                raise no_such_item(no)
            if move.key is not None and connection.execute(
                sa.select(steps.c.number).where(steps.c.item == no, steps.c.key == move.key)
            ).first() is not None:
                return row
            if row.step != move.step:
                raise Conflict(f"事项 {no} 已到第 {row.step} 步", f"item {no} is at step {row.step}", field="step", value=move.step,
                               rule=f"= {row.step}")
            if row.state not in transition.source:
                raise Conflict(f"{move.transition} 不能从 {row.state} 开始", f"{move.transition} does not begin in {row.state}",
                               field="transition", value=move.transition, rule=" | ".join(transition.source))
            made = connection.execute(sa.select(steps).where(steps.c.item == no).order_by(steps.c.number)).all()
            same = self._second(transition, made, actor)
            if same is not None:
                raise Forbidden(f"{move.transition} 须由 {same} 以外的人进行", f"{move.transition} needs another person than the one of {same}",
                                field="transition", value=move.transition, rule=f"not by who made {same}")
            return self._make(connection, actor, row, workflow, move.transition, transition, move)

        row = await self.db.write(write)
        await self._changed(no)
        return document(row)

    @staticmethod
    def _second(transition: Transition, made: Any, actor: Actor) -> str | None:
        """The transition of `not_by` whose last maker is this person."""
        for name in transition.not_by:
            last = next((one for one in reversed(made) if one.transition == name), None)
            if last is not None and last.person == _person(actor):
                return name
        return None

    def _make(
        self, connection: sa.Connection, actor: Actor, row: Any, workflow: Workflow, name: str, transition: Transition, move: Move | None
    ) -> Any:
        at, step = self.now(), row.step + 1
        given = move.fields if move else {}
        fields = {**row.fields, **given}
        json_text(fields, "fields", MOST_FIELDS)
        connection.execute(steps.insert().values(
            item=row.no, number=step, transition=name, source=row.state, target=transition.target, actor=actor.id,
            person=_person(actor), comment=move.comment if move else "", fields=given, key=move.key if move else None, at=at,
        ))
        connection.execute(due.delete().where(due.c.item == row.no))
        changed = connection.execute(items.update().where(items.c.no == row.no, items.c.step == row.step).values(
            state=transition.target, final=workflow.states[transition.target].final, step=step, level=0, fields=fields, entered_at=at,
            due_at=_first(workflow, transition.target, at),
            assignee=row.assignee if move is None or move.assignee is None else move.assignee,
        ).returning(items)).one()
        self._begin(connection, changed, workflow)
        audit.record(connection, actor, MOVE, row.org, f"item {row.no}", {"transition": name, "from": row.state, "to": transition.target,
                                                                          "step": step})
        return changed

    # -- time

    async def run(self, _house: House) -> None:
        """The background task: does what is due."""
        while True:
            while await self.turn():
                pass
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.wake.wait()
            self.wake.clear()

    async def turn(self) -> int:
        """Do what is due, at most `TOGETHER`; how many there were."""
        query = sa.select(due.c.item, due.c.deadline).join(items, items.c.no == due.c.item).where(
            due.c.at <= self.now(), items.c.workflow.in_(list(self.definitions))
        ).order_by(due.c.at).limit(TOGETHER)
        late = await self.db.read(lambda c: c.execute(query).all())
        for item, deadline in late:
            if await self.db.write(functools.partial(self._late, no=item, number=deadline)):
                await self._changed(item)
        return len(late)

    def _late(self, connection: sa.Connection, no: int, number: int) -> bool:
        """What the deadline does, if the item is still where it began. Nothing where another worker did it."""
        row = connection.execute(sa.select(items).where(items.c.no == no).with_for_update()).first()
        here = (due.c.item == no) & (due.c.deadline == number)
        mine = connection.execute(sa.select(due).where(here)).first()
        now = self.now()
        if row is None or mine is None or mine.at > now:
            return False
        workflow = self.definitions[row.workflow]
        deadlines = workflow.states[row.state].deadlines if row.state in workflow.states else []
        if mine.step != row.step or number >= len(deadlines):  # the pack has changed
            connection.execute(due.delete().where(here))
            return False
        deadline = deadlines[number]
        if deadline.then is not None:
            self._make(connection, HOUSE, row, workflow, deadline.then, workflow.transitions[deadline.then], None)
            return True
        if deadline.every_s is None:
            connection.execute(due.delete().where(here))
        else:
            missed = int((now - mine.at).total_seconds() // deadline.every_s)
            connection.execute(due.update().where(here).values(at=mine.at + dt.timedelta(seconds=deadline.every_s * (missed + 1))))
        connection.execute(items.update().where(items.c.no == no).values(
            level=row.level + 1, due_at=connection.execute(sa.select(sa.func.min(due.c.at)).where(due.c.item == no)).scalar_one(),
        ))
        audit.record(connection, HOUSE, "workflow.item.escalate", row.org, f"item {no}", {"state": row.state, "level": row.level + 1})
        return True

    async def _changed(self, no: int) -> None:
        self.wake.set()
        await self.house.changed("workflows", str(no))


def _person(actor: Actor) -> str:
    return actor.person or actor.id


def _among(workflow: Workflow, asks: Iterable[str], needs: Iterable[str]) -> dict[str, Property]:
    """The fields that may be given."""
    return {name: workflow.fields[name] for name in (*asks, *needs)}


def _first(workflow: Workflow, state: str, at: dt.datetime) -> dt.datetime | None:
    """When the first deadline of `state` is that was entered `at`."""
    return min((at + dt.timedelta(seconds=one.after_s) for one in workflow.states[state].deadlines), default=None)
