"""Operations on projects: register, milestones, movements of funds and quotas, both with a second person; figures from the ledger.

Law: a project is seen by whoever has a role in the organisation that leads it, or above. A movement that is approved, its entry in the
ledger and the audit are one transaction. What was approved is not changed: a wrong movement is undone by its reversal.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tulou.kernel import audit, ledger
from tulou.kernel.errors import Conflict, Invalid, NotFound, TulouError
from tulou.kernel.http import page
from tulou.kernel.ledger import FUJIAN
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow, within
from tulou.plan.document import Plan
from tulou.plan.models import Decision, moment
from tulou.plan.papers import Paper, a_person, file_kept, file_of, keep, name_of, not_own, person_of
from tulou.plan.projects import funds
from tulou.plan.projects.models import (
    Decisions,
    NewMilestone,
    NewMovement,
    NewProject,
    Reached,
    Undo,
    plan_milestones,
    plan_movements,
    plan_projects,
)
from tulou.plan.queries import Tally

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, WRITE, DECIDE = "plan.project.read", "plan.project.create", "plan.project.approve"
TOGETHER = 500
"""Lines of an import that are one transaction."""
_projects, _milestones, _movements = plan_projects.c, plan_milestones.c, plan_movements.c


def no_such_project(no: object) -> NotFound:
    return NotFound(f"没有项目 {no}", f"there is no project {no}", field="project", value=no)


def no_such_milestone(no: object) -> NotFound:
    return NotFound(f"没有里程碑 {no}", f"there is no milestone {no}", field="milestone", value=no)


def no_such_movement(no: object) -> NotFound:
    return NotFound(f"没有变动 {no}", f"there is no movement {no}", field="movement", value=no)


def today(at: dt.datetime | None = None) -> dt.date:
    """The day in Fujian, now or at a moment."""
    return (at or utcnow()).astimezone(FUJIAN).date()


def _reached_by(day: dt.date) -> sa.ColumnElement[bool]:
    return sa.and_(_milestones.state == "done", _milestones.done_on <= day)


class Projects:
    """The register of projects of the plan's tasks."""

    def __init__(self, house: House, plan: Plan) -> None:
        self.db, self.policy, self.plan = house.db, house.policy, plan

    # -- the register

    @operation(WRITE)
    async def put(self, actor: Actor, new: NewProject) -> dict[str, Any]:
        """Register a project, or change what is said of the one of this code: the project, with `outcome` created, changed or unchanged."""
        self._may_put(actor, new)
        no, outcome = await self.db.write(lambda c: self._put(c, actor, new))
        return {**await self._shown(no), "outcome": outcome}

    def _may_put(self, actor: Actor, new: NewProject) -> None:
        self.policy.require(actor, WRITE, new.org)
        if new.task not in self.plan.tasks:
            raise Invalid(f"没有任务 {new.task}", f"there is no task {new.task}", field="task", value=new.task, rule="a task of the plan")
        target = self.plan.targets.get(new.target) if new.target else None
        if new.target and (target is None or target.task != new.task):
            raise Invalid(
                f"目标 {new.target} 不属于任务 {new.task}", f"{new.target} is not a target of task {new.task}", field="target", value=new.target,
                rule=" | ".join(one.id for one in self.plan.targets_of(new.task)) or "none",
            )

    @staticmethod
    def _put(connection: sa.Connection, actor: Actor, new: NewProject) -> tuple[int, str]:
        values = new.model_dump()
        row = _find(connection, new.org, new.code)
        if row is not None:
            changed = {name: str(value) for name, value in values.items() if getattr(row, name) != value}
            if not changed:
                return row.no, "unchanged"
            for name in ("task", "target", "synthetic"):  # what a second person's word on a milestone counts to
                if name in changed:
                    raise Conflict(
                        f"项目的 {name} 登记后不能改", f"the {name} of a project is not changed", field=name, value=changed[name],
                        rule=str(getattr(row, name)),
                    )
            connection.execute(plan_projects.update().where(_projects.no == row.no).values(**values))
            audit.record(connection, actor, WRITE, new.org, f"project {row.no}", changed)
            return row.no, "changed"
        try:
            with connection.begin_nested():
                no = connection.execute(plan_projects.insert().values(
                    **values, created_by=person_of(actor), created_at=utcnow()
                ).returning(_projects.no)).scalar_one()
        except sa.exc.IntegrityError:
            raise Invalid(f"没有组织 {new.org}", f"there is no organisation {new.org}", field="org", value=new.org, rule="organisation") from None
        audit.record(connection, actor, WRITE, new.org, f"project {no}", {"code": new.code, "task": new.task})
        return int(no), "created"

    async def _shown(self, no: int) -> dict[str, Any]:
        return await self.db.read(lambda c: _documents(c, [_project(c, no)], None)[0])

    @operation(READ)
    async def find(
        self, actor: Actor, *, task: str | None = None, org: str | None = None, target: str | None = None, late: bool = False,
        limit: int = 50, after: str | None = None,
    ) -> dict[str, Any]:
        """Projects, newest first, with their funds and their milestones' counts: `{items, next}`. `late`: those with a late milestone."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        query = sa.select(plan_projects).where(*within(_projects.org, orgs))
        for column, value in ((_projects.task, task), (_projects.target, target)):
            if value is not None:
                query = query.where(column == value)
        if late:
            query = query.where(sa.exists().where(_milestones.project == _projects.no, _milestones.state != "done", _milestones.due < today()))
        found, more = await page(self.db, query, _projects.no, limit, after, newest=True)
        return {"items": await self.db.read(lambda c: _documents(c, found, None)), "next": more}

    @operation(READ)
    async def project(self, actor: Actor, no: int, at: dt.datetime | None = None) -> dict[str, Any]:
        """A project with its milestones, its movements (newest 500), its funds as of `at` or of all that was entered, and by month."""
        row = await self._seen(actor, no)

        def read(connection: sa.Connection) -> dict[str, Any]:
            made = connection.execute(
                sa.select(plan_movements).where(_movements.project == no).order_by(_movements.no.desc()).limit(500)
            ).all()
            marks = connection.execute(
                sa.select(plan_milestones).where(_milestones.project == no).order_by(_milestones.due, _milestones.no)
            ).all()
            return {
                **_documents(connection, [row], at)[0],
                "milestones": [milestone_document(one) for one in marks],
                "movements": [movement_document(one) for one in made],
                "months": funds.by_month(ledger.months(connection, funds.subject(no))),
            }

        return {
            **await self.db.read(read), "may_write": self.policy.allows(actor, WRITE, row.org),
            "may_decide": self.policy.allows(actor, DECIDE, row.org),
        }

    @operation(READ)
    async def overview(self, actor: Actor, at: dt.datetime | None = None) -> dict[str, Any]:
        """All projects that the actor may see, together: counts, funds, and by task `{tasks: {N1: {projects, late, total}}}`. Synthetic
        projects are counted apart (`synthetic`) and in nothing else."""
        orgs = self.policy.require_any(actor, READ)
        return await self.db.read(lambda c: overview(c, within(_projects.org, orgs), at))

    @operation(READ)
    async def late(self, actor: Actor, at: dt.datetime | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """Milestones of projects that the actor may see, that are late as of the day of `at`, the oldest first, with `org`,
        `project_title`. None of synthetic projects."""
        orgs = self.policy.require_any(actor, READ)
        day = today(at)
        query = (
            sa.select(plan_milestones, _projects.org, _projects.title.label("project_title"))
            .join(plan_projects, _projects.no == _milestones.project)
            .where(*within(_projects.org, orgs), _projects.synthetic.is_(False), _milestones.due < day, sa.not_(_reached_by(day)))
            .order_by(_milestones.due, _milestones.no).limit(limit)
        )
        rows = await self.db.read(lambda c: c.execute(query).all())
        return [{**milestone_document(row), "org": row.org, "project_title": row.project_title} for row in rows]

    async def _seen(self, actor: Actor, no: int, action: str = READ) -> Any:
        row = await self.db.read(lambda c: _project(c, no))
        return self.policy.require_seen(actor, READ, action, row, no_such_project(no))

    # -- milestones

    @operation(WRITE)
    async def plan_milestone(self, actor: Actor, project: int, new: NewMilestone) -> dict[str, Any]:
        """Set a milestone. One of the same title and day is answered again; `Conflict` where the title has another day."""
        row = await self._seen(actor, project, WRITE)
        return milestone_document(await self.db.write(lambda c: self._milestone(c, actor, row, new)[0]))

    @staticmethod
    def _milestone(connection: sa.Connection, actor: Actor, project: Any, new: NewMilestone) -> tuple[Any, str]:
        there = connection.execute(
            sa.select(plan_milestones).where(_milestones.project == project.no, _milestones.title == new.title)
        ).first()
        if there is not None:
            if (there.due, there.final) != (new.due, new.final):
                raise Conflict(
                    f"里程碑“{new.title}”的期限是 {there.due}，不能改", f"the milestone is due {there.due}, which is not changed", field="due",
                    value=str(new.due), rule=str(there.due),
                )
            return there, "unchanged"
        made = connection.execute(plan_milestones.insert().values(
            project=project.no, title=new.title, due=new.due, final=new.final, state="planned"
        ).returning(plan_milestones)).one()
        audit.record(connection, actor, WRITE, project.org, f"project {project.no}", {"milestone": made.no, "due": str(new.due)})
        return made, "created"

    @operation(WRITE)
    async def reached(self, actor: Actor, milestone: int, paper: Reached) -> dict[str, Any]:
        """Report with evidence that a milestone was reached, for somebody else to approve."""
        row, project = await self._milestone_seen(actor, milestone, WRITE)
        person = a_person(actor)
        if paper.done_on > today():
            raise Invalid("完成日期不能在将来", "done_on must not be in the future", field="done_on", value=str(paper.done_on), rule="<= today")
        content = file_of(paper)

        def write(connection: sa.Connection) -> Any:
            made = connection.execute(plan_milestones.update().where(_milestones.no == milestone, _milestones.state == "planned").values(
                state="reported", done_on=paper.done_on, note=None, **_submitted(connection, actor, person, paper, content)
            ).returning(plan_milestones)).first()
            if made is None:
                raise Conflict("里程碑已上报或已完成", "the milestone was reported or is done", field="state", value=row.state, rule="planned")
            audit.record(connection, actor, WRITE, project.org, f"project {project.no}", {"milestone": milestone, "done_on": str(paper.done_on)})
            return made

        return milestone_document(await self.db.write(write))

    @operation(DECIDE)
    async def decide_milestone(self, actor: Actor, milestone: int, done: bool, decision: Decision) -> dict[str, Any]:
        """Say that a reported milestone is done, or send it back and say why. Never by who reported it."""
        row, project = await self._milestone_seen(actor, milestone, DECIDE)
        person = a_person(actor)
        _why(done, decision.note)
        not_own(person, row.submitted_by)
        to: dict[str, Any] = {"state": "done", **_decided(actor, person, decision.note)} if done else {
            "state": "planned", "note": decision.note, "done_on": None
        }

        def write(connection: sa.Connection) -> Any:
            made = connection.execute(plan_milestones.update().where(
                _milestones.no == milestone, _milestones.state == "reported", _milestones.submitted_by != person
            ).values(**to).returning(plan_milestones)).first()
            if made is None:
                raise Conflict("里程碑不在待审核状态", "the milestone does not wait for a decision", field="state", value=row.state, rule="reported")
            audit.record(connection, actor, DECIDE, project.org, f"project {project.no}", {"milestone": milestone, "state": made.state})
            return made

        return milestone_document(await self.db.write(write))

    async def _milestone_seen(self, actor: Actor, no: int, action: str) -> tuple[Any, Any]:
        return await self._part_seen(actor, plan_milestones, no, action, no_such_milestone(no))

    async def _part_seen(self, actor: Actor, table: sa.Table, no: int, action: str, missing: TulouError) -> tuple[Any, Any]:
        """A row of a project's part, and the project, if the actor may see it."""
        def read(connection: sa.Connection) -> tuple[Any, Any]:
            row = connection.execute(sa.select(table).where(table.c.no == no)).first()
            return row, row and _project(connection, row.project)

        row, project = await self.db.read(read)
        return row, self.policy.require_seen(actor, READ, action, project, missing)

    # -- movements

    @operation(WRITE)
    async def submit(self, actor: Actor, project: int, new: NewMovement) -> dict[str, Any]:
        """Submit a movement of funds or a quota for somebody else to approve. With the same key again: the movement that is there."""
        row = await self._seen(actor, project, WRITE)
        return movement_document(await self.db.write(lambda c: self._submit(c, actor, row, new)[0]))

    @staticmethod
    def _submit(connection: sa.Connection, actor: Actor, project: Any, new: NewMovement) -> tuple[Any, str]:
        person, content = a_person(actor), file_of(new)
        amount, unit = new.parts()
        if new.kind != "planned" and new.at > utcnow():
            raise Invalid("只有计划数可以在将来", "only what is planned may lie in the future", field="at", value=moment(new.at), rule="<= now")
        said = {
            "kind": new.kind, "source": new.source, "use": new.use, "resource": new.resource, "unit": unit, "amount": amount,
            "at": new.at.astimezone(dt.UTC), "evidence_text": new.evidence_text,
        }
        there = connection.execute(
            sa.select(plan_movements).where(_movements.project == project.no, _movements.key == new.key)
        ).first()
        if there is not None:
            if {name: getattr(there, name) for name in said} != said:
                raise Conflict(
                    f"键 {new.key} 已用于另一笔变动 {there.no}", f"the key {new.key} was used for another movement, {there.no}", field="key",
                    value=new.key, rule="unique",
                )
            return there, "unchanged"
        return _insert_movement(connection, actor, person, project, {
            **said, "key": new.key, **_submitted(connection, actor, person, new, content)
        }), "created"

    @operation(WRITE)
    async def undo(self, actor: Actor, movement: int, paper: Undo) -> dict[str, Any]:
        """Submit the reversal of an approved movement for somebody else to approve. Once: the reversal that is there."""
        row, project = await self._part_seen(actor, plan_movements, movement, WRITE, no_such_movement(movement))
        person, content = a_person(actor), file_of(paper)
        if row.state != "approved" or row.reverses is not None:
            raise Conflict("只有已通过的变动可以冲销", "only an approved movement is reversed", field="state", value=row.state, rule="approved")
        key = f"reverses:{movement}"

        def write(connection: sa.Connection) -> Any:
            there = connection.execute(sa.select(plan_movements).where(
                _movements.project == row.project, _movements.reverses == movement, _movements.state != "rejected"
            )).first()
            tried = connection.execute(sa.select(sa.func.count()).where(_movements.project == row.project, _movements.reverses == movement))
            return there or _insert_movement(connection, actor, person, project, {
                "kind": row.kind, "source": row.source, "use": row.use, "resource": row.resource, "unit": row.unit, "amount": row.amount,
                "at": max(row.at, utcnow()), "key": f"{key}:{tried.scalar_one()}", "reverses": movement,
                **_submitted(connection, actor, person, paper, content),
            })

        return movement_document(await self.db.write(write))

    @operation(DECIDE)
    async def decide(self, actor: Actor, project: int, approved: bool, decisions: Decisions) -> list[dict[str, Any]]:
        """Approve movements of a project, in the order in which they were submitted, or refuse them all and say why. What one cannot be
        decided on for says so in its `error` (its `detail_zh`, `detail_en`); the others are decided."""
        row = await self._seen(actor, project, DECIDE)
        person = a_person(actor)
        _why(approved, decisions.note)

        def write(connection: sa.Connection) -> list[dict[str, Any]]:
            audit.hold(connection)
            def decides(no: int) -> dict[str, Any]:
                return movement_document(self._decide(connection, actor, person, row, no, approved, decisions.note))

            return [_line({"no": no}, connection, functools.partial(decides, no)) for no in sorted(set(decisions.papers))]

        return await self.db.write(write)

    @staticmethod
    def _decide(connection: sa.Connection, actor: Actor, person: str, project: Any, no: int, approved: bool, note: str) -> Any:
        row = connection.execute(
            sa.select(plan_movements).where(_movements.no == no, _movements.project == project.no).with_for_update()
        ).first()
        if row is None:
            raise no_such_movement(no)
        if row.state != "submitted":
            raise Conflict(f"这笔变动已由 {row.decided_name} 处理", f"the movement was decided by {row.decided_name}", field="state", value=row.state,
                           rule="submitted")
        not_own(person, row.submitted_by)
        entry = _book(connection, actor, project, row) if approved else None
        audit.record(connection, actor, DECIDE, project.org, f"project {project.no}", {"movement": no, "entry": entry})
        return connection.execute(plan_movements.update().where(_movements.no == no).values(
            state="approved" if approved else "rejected", entry=entry, **_decided(actor, person, note)
        ).returning(plan_movements)).one()

    @operation(READ)
    async def evidence(self, actor: Actor, of: str, no: int) -> tuple[str, bytes]:
        """The evidence file of a milestone or a movement (`of`): its name and content. Raises `NotFound` if it has none."""
        table, missing = (plan_milestones, no_such_milestone(no)) if of == "milestone" else (plan_movements, no_such_movement(no))
        row, _ = await self._part_seen(actor, table, no, READ, missing)
        return await self.db.read(lambda c: file_kept(c, row, f"{of}-{no}"))

    # -- many at once

    @operation(WRITE)
    async def bring_in(self, actor: Actor, lines: Sequence[tuple[int, Callable[[], Any]]]) -> list[dict[str, Any]]:
        """Put lines of an import, each a number and what reads it into a `NewProject`, or into an organisation and code of a project with
        a `NewMilestone` or a `NewMovement`: for each its `line`, and `outcome` or `error`. Each asks whether the actor may write in its own
        organisation. Some hundreds are one transaction, so what is asked for again after a lost answer is unchanged."""
        self.policy.require_any(actor, WRITE)
        answers: list[dict[str, Any]] = []
        for start in range(0, len(lines), TOGETHER):
            some = lines[start : start + TOGETHER]

            def write(connection: sa.Connection, some: Sequence[tuple[int, Callable[[], Any]]] = some) -> list[dict[str, Any]]:
                return [
                    _line({"line": number}, connection, functools.partial(self._bring, connection, actor, read)) for number, read in some
                ]

            answers += await self.db.write(write)
        return answers

    def _bring(self, connection: sa.Connection, actor: Actor, reads: Callable[[], Any]) -> dict[str, Any]:
        read = reads()
        if isinstance(read, NewProject):
            self._may_put(actor, read)
            no, outcome = self._put(connection, actor, read)
            return {"project": no, "outcome": outcome}
        org, code, new = read
        self.policy.require(actor, WRITE, org)
        project = _find(connection, org, code)
        if project is None:
            raise NotFound(f"没有项目 {org} {code}", f"there is no project {org} {code}", field="code", value=code, rule="a project's code")
        enter = self._milestone if isinstance(new, NewMilestone) else self._submit
        made, outcome = enter(connection, actor, project, new)
        return {"project": project.no, "no": made.no, "outcome": outcome}


def _line(head: dict[str, Any], connection: sa.Connection, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `do` answers, or its refusal, which undoes nothing but its own."""
    try:
        with connection.begin_nested():
            return {**head, **do()}
    except TulouError as error:
        return {**head, "error": error.problem()}


def _why(agreed: bool, note: str) -> None:
    if not agreed and not note.strip():
        raise Invalid("退回须说明理由", "a refusal says why", field="note", value="", rule="not empty")


def _submitted(connection: sa.Connection, actor: Actor, person: str, paper: Paper, content: bytes | None) -> dict[str, Any]:
    return {
        "evidence_text": paper.evidence_text, "evidence_name": paper.evidence_name, "evidence_sha256": keep(connection, content),
        "submitted_by": person, "submitted_name": name_of(actor), "submitted_at": utcnow(),
    }


def _decided(actor: Actor, person: str, note: str) -> dict[str, Any]:
    return {"decided_by": person, "decided_name": name_of(actor), "decided_at": utcnow(), "note": note}


def _insert_movement(connection: sa.Connection, actor: Actor, person: str, project: Any, values: dict[str, Any]) -> Any:
    row = connection.execute(plan_movements.insert().values(project=project.no, state="submitted", **values).returning(plan_movements)).one()
    detail = {"movement": row.no, "kind": row.kind, "amount": row.amount, "unit": row.unit, "reverses": row.reverses}
    audit.record(connection, actor, WRITE, project.org, f"project {project.no}", detail)
    return row


def _book(connection: sa.Connection, actor: Actor, project: Any, row: Any) -> int:
    """The ledger's entry of a movement."""
    if row.reverses is not None:
        undone = connection.execute(sa.select(_movements.entry).where(_movements.no == row.reverses)).scalar_one()
        entry = connection.execute(sa.select(ledger.entries).where(ledger.entries.c.no == undone)).one()
        return int(ledger.enter(connection, actor, ledger.reversal(connection, entry, row.evidence_text, row.at)).no)
    numbers = [
        ledger.open_account(
            connection, org=project.org, code=f"project/{project.no}/{one.code}", kind=one.kind, unit=row.unit, label=one.label,
            subject=funds.subject(project.no), engine=funds.ENGINE, guarded=one.guarded,
        ) for one in funds.sides(row.kind, row.source, row.use, row.resource)
    ]
    return int(ledger.enter(connection, actor, ledger.Draft(
        project.org, row.unit, row.at, row.evidence_text, {numbers[0]: row.amount, numbers[1]: -row.amount}, funds.subject(project.no),
        funds.ENGINE, f"movement:{row.no}",
    )).no)


def _project(connection: sa.Connection, no: int) -> Any:
    return connection.execute(sa.select(plan_projects).where(_projects.no == no)).first()


def _find(connection: sa.Connection, org: str, code: str) -> Any:
    return connection.execute(sa.select(plan_projects).where(_projects.org == org, _projects.code == code)).first()


def _counts(connection: sa.Connection, of: Any, at: dt.datetime | None) -> dict[int, dict[str, int]]:
    """By project, as of a day: how many milestones there are, are done, and are late; and whether a final one is done (`finished`)."""
    reached = _reached_by(today(at))
    late = sa.case((sa.and_(sa.not_(reached), _milestones.due < today(at)), 1), else_=0)
    done = sa.case((reached, 1), else_=0)
    rows = connection.execute(sa.select(
        _milestones.project, sa.func.count(), sa.func.sum(done), sa.func.sum(late), sa.func.max(sa.case((_milestones.final, done), else_=0)),
    ).where(_milestones.project.in_(of)).group_by(_milestones.project))
    return {row[0]: {"milestones": row[1], "done": int(row[2]), "late": int(row[3]), "finished": int(row[4])} for row in rows}


NO_MILESTONES = {"milestones": 0, "done": 0, "late": 0, "finished": 0}


def _documents(connection: sa.Connection, rows: Sequence[Any], at: dt.datetime | None) -> list[dict[str, Any]]:
    counts = _counts(connection, [row.no for row in rows], at)
    by_subject: dict[str, list[Any]] = {}
    subjects = [funds.subject(row.no) for row in rows]
    for one in ledger.balances(connection, ledger.accounts.c.subject.in_(subjects), at):
        by_subject.setdefault(f"project:{one.code.split('/')[1]}", []).append(one)
    return [{
        **{name: getattr(row, name) for name in (*NewProject.model_fields, "no", "created_by", "created_at")},
        **counts.get(row.no, NO_MILESTONES), "funds": funds.figures(by_subject.get(funds.subject(row.no), [])),
    } for row in rows]


def overview(connection: sa.Connection, visible: Sequence[Any], at: dt.datetime | None) -> dict[str, Any]:
    """See `Projects.overview`."""
    rows = connection.execute(sa.select(_projects.no, _projects.task, _projects.synthetic).where(*visible)).all()
    real = {row.no: row.task for row in rows if not row.synthetic}
    counts = _counts(connection, sa.select(_projects.no).where(*visible, _projects.synthetic.is_(False)), at)
    by_task: dict[str, list[Any]] = {}
    for one in ledger.balances(connection, ledger.accounts.c.engine == funds.ENGINE, at):
        task = real.get(int(one.code.split("/")[1]))
        if task is not None:
            by_task.setdefault(task, []).append(one)
    tasks = {}
    for task in sorted(set(real.values())):
        mine = [counts.get(no, NO_MILESTONES) for no, own in real.items() if own == task]
        tasks[task] = {
            "projects": len(mine), **{name: sum(one[name] for one in mine) for name in NO_MILESTONES},
            "funds": funds.figures(by_task.get(task, [])),
        }
    return {
        "projects": len(real), "synthetic": len(rows) - len(real),
        **{name: sum(one[name] for one in tasks.values()) for name in NO_MILESTONES},
        "funds": funds.figures([one for some in by_task.values() for one in some]), "tasks": tasks,
    }


def finished(connection: sa.Connection, target: str) -> Tally:
    """See `queries.Facts.finished`."""
    mine = sa.select(_projects.no).where(_projects.target == target, _projects.synthetic.is_(False))
    known = connection.execute(sa.select(sa.func.count()).select_from(mine.subquery())).scalar_one()
    done, newest = connection.execute(
        sa.select(sa.func.count(sa.distinct(_milestones.project)), sa.func.max(_milestones.decided_at))
        .where(_milestones.project.in_(mine), _milestones.final, _milestones.state == "done")
    ).one()
    return Tally(known, done, Decimal(done) if known else None, newest)


def milestone_document(row: Any) -> dict[str, Any]:
    """A milestone as the API shows it. `late`: not done and past its day, or done after it."""
    return {
        **{name: getattr(row, name) for name in ("no", "project", "title", "due", "final", "state", "done_on")}, **paper_document(row),
        "late": (row.done_on if row.state == "done" else today()) > row.due,
    }


def movement_document(row: Any) -> dict[str, Any]:
    """A movement as the API shows it."""
    names = ("no", "project", "kind", "source", "use", "resource", "unit", "amount", "at", "key", "state", "reverses", "entry")
    return {**{name: getattr(row, name) for name in names}, **paper_document(row)}


def paper_document(row: Any) -> dict[str, Any]:
    """What was submitted and decided, as the API shows it."""
    names = ("evidence_text", "evidence_name", "submitted_by", "submitted_name", "submitted_at", "decided_by", "decided_name", "decided_at", "note")
    return {name: getattr(row, name) for name in names}
