"""Operations on the plan: tasks, targets, reports with a second person, definitions, measurements, scores, systems.

Law: the actor comes first and the policy is asked here. A figure always says where it came from. A report is submitted
and decided by people, and never by the same one; the store refuses it too.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound
from tulou.kernel.policy import Actor, operation, system
from tulou.kernel.sql import utcnow
from tulou.plan.document import Plan, Target, load_plan
from tulou.plan.models import (
    Decision,
    NewReport,
    moment,
    plan_definitions,
    plan_measurements,
    plan_reports,
    plan_scores,
)
from tulou.plan.papers import a_person, file_kept, file_of, keep, name_of, not_own, person_of
from tulou.plan.queries import Definition, Facts, canonical, digest, evaluate
from tulou.plan.scores import (
    DefinitionVersion,
    Measurement,
    Report,
    Standing,
    in_force,
    number,
    score_document,
    standing,
)
from tulou.plan.systems import Declaration, SystemState, collect, counts

if TYPE_CHECKING:
    from tulou.kernel.house import House

KEEP_UNCHANGED = dt.timedelta(minutes=10)
"""An unchanged measurement is stored again only after this long."""
TREND_POINTS = 60

_definitions, _measurements, _reports = plan_definitions.c, plan_measurements.c, plan_reports.c


class Plans:
    """The plan of the house. `facts` finds what the house measures; `declarations` what engines say of the systems."""

    def __init__(
        self, house: House, facts: Facts, declarations: Callable[[], Iterable[Mapping[str, Declaration]]]
    ) -> None:
        self.db = house.db
        self.policy = house.policy
        self.models = house.packs.models
        self.names = {o.id: o.label for pack in house.packs.packs.values() for o in pack.organisations}
        self.plan: Plan = load_plan(house.packs)
        self.facts = facts
        self.states: dict[str, SystemState] = collect(self.plan, declarations())
        self.figures: dict[str, dict[str, int]] = {"targets": {}, "systems": counts(self.states.values())}
        """The last `summary`, for pages that ask often."""
        self._trends: dict[str, tuple[tuple[str, str], list[Any]]] = {}

    @property
    def org(self) -> str:
        """The organisation that the plan belongs to."""
        return self.plan.head.organisation

    # tasks and systems

    @operation("plan.task.read")
    async def tasks(self, actor: Actor) -> list[dict[str, Any]]:
        """Every task with its agencies, its targets' ids and its systems' states, in the plan's order."""
        self.policy.require(actor, "plan.task.read", self.org)
        titles = {section.id: section for section in self.plan.head.sections}
        return [
            {
                "id": task.id,
                "no": no,
                "section": titles[self.plan.sections[task.id]].id,
                "section_zh": titles[self.plan.sections[task.id]].title_zh,
                "section_en": titles[self.plan.sections[task.id]].title_en,
                "title_zh": task.title_zh,
                "title_en": task.title_en,
                "summary_zh": task.summary_zh,
                "summary_en": task.summary_en,
                "agencies": [self._agency(org) for org in task.agencies],
                "targets": [target.id for target in self.plan.targets_of(task.id)],
                "systems": [self._system(one.id) for one in task.systems],
            }
            for no, task in enumerate(self.plan.tasks.values(), 1)
        ]

    @operation("plan.system.read")
    async def systems(self, actor: Actor) -> dict[str, Any]:
        """Every system with its job, room, door, outside check and state: `{items, counts}`."""
        self.policy.require(actor, "plan.system.read", self.org)
        items = [{**one.model_dump(), **self.states[one.id]._asdict()} for one in self.plan.systems.values()]
        return {"items": items, "counts": counts(self.states.values())}

    def _agency(self, org: str) -> dict[str, str]:
        return {"id": org, "name_zh": self.names[org].zh, "name_en": self.names[org].en}

    def _system(self, system_id: str) -> dict[str, Any]:
        one = self.plan.systems[system_id]
        return {"id": one.id, "title_zh": one.title_zh, "title_en": one.title_en, "state": self.states[one.id].state}

    # targets

    @operation("plan.target.read")
    async def targets(self, actor: Actor) -> list[dict[str, Any]]:
        """Every target with its value, state, as-of time, trend and why, in the plan's order."""
        self.policy.require(actor, "plan.target.read", self.org)
        now = utcnow()
        return await self.db.read(lambda c: [self._document(c, one, now) for one in self.plan.targets.values()])

    @operation("plan.target.read")
    async def target(self, actor: Actor, target_id: str) -> dict[str, Any]:
        """One target with its definitions and last measurements, and the reports that the actor may see."""
        self.policy.require(actor, "plan.target.read", self.org)
        target = self._target(target_id)
        every = self.policy.allows(actor, "plan.report.read", target.lead)
        now = utcnow()

        def read(connection: sa.Connection) -> dict[str, Any]:
            reports = sa.select(*_report_columns()).where(_reports.target == target.id)
            if not every:
                reports = reports.where(_reports.submitted_by == person_of(actor))
            rows = connection.execute(reports.order_by(_reports.id.desc()).limit(200)).all()
            last = _measured(connection, target.id, 200, now)
            return {
                **self._document(connection, target, now),
                "definitions": [
                    {
                        "version": v.version, "query": v.definition.text(), "definition": v.definition.document(),
                        "since": moment(v.since), "by": v.by, "source": v.source,
                    }
                    for v in _versions(connection, target.id)
                ],
                "reports": [_report_document(row) for row in rows],
                "measurements": [
                    {
                        "as_of": moment(m.as_of), "value": number(m.value), "version": m.version, "known": m.known,
                        "reported": m.reported, "newest": moment(m.newest) if m.newest else None,
                    }
                    for m in last
                ],
            }

        return await self.db.read(read)

    @operation("plan.target.read")
    async def summary(self, actor: Actor) -> dict[str, dict[str, int]]:
        """Counts for the cockpit: `{targets: {measured, reported, no_data, met, total}, systems: {works, ..}}`."""
        self.policy.require(actor, "plan.target.read", self.org)
        return await self.refresh_figures()

    async def refresh_figures(self) -> dict[str, dict[str, int]]:
        """Count anew what `summary` shows, and keep it in `figures`."""
        standings = await self.db.read(lambda c: self.standings(c, utcnow()))
        states = [one.state for one in standings.values()]
        met = sum(
            one.value is not None and self.plan.targets[key].met(one.value) for key, one in standings.items()
        )
        kinds = {state: states.count(state) for state in ("measured", "reported", "no_data")}
        self.figures = {
            "targets": {**kinds, "met": met, "total": len(states)}, "systems": counts(self.states.values())
        }
        return self.figures

    def _target(self, target_id: str) -> Target:
        target = self.plan.targets.get(target_id)
        if target is None:
            raise NotFound(f"没有目标 {target_id}", f"there is no target {target_id}", field="target", value=target_id)
        return target

    def standings(self, connection: sa.Connection, at: dt.datetime) -> dict[str, Standing]:
        """What is known of every target at a moment."""
        return {key: _standing(connection, key, at) for key in self.plan.targets}

    def _document(self, connection: sa.Connection, target: Target, at: dt.datetime) -> dict[str, Any]:
        now = _standing(connection, target.id, at)
        current = in_force(_versions(connection, target.id), at)
        return {
            "id": target.id,
            "title_zh": target.title_zh,
            "title_en": target.title_en,
            "task": target.task,
            "systems": target.systems,
            "lead": self._agency(target.lead),
            "unit": target.unit_zh,
            "unit_zh": target.unit_zh,
            "unit_en": target.unit_en,
            "goal": number(target.goal),
            "compare": target.compare,
            "deadline": self.plan.deadline(target).isoformat(),
            "weight": target.weight,
            "value": number(now.value),
            "state": now.state,
            "met": None if now.value is None else target.met(now.value),
            "as_of": moment(now.as_of) if now.as_of else None,
            "trend": self._trend(connection, target.id, now, at),
            "why_zh": now.why_zh,
            "why_en": now.why_en,
            "version": now.version,
            "query": current.definition.text() if current else "none",
            "note_zh": current.definition.note_zh if current else "",
            "note_en": current.definition.note_en if current else "",
        }

    def _trend(self, connection: sa.Connection, target: str, now: Standing, at: dt.datetime) -> list[Any]:
        """The trend, made anew only when what the target stands on has changed."""
        known = self._trends.get(target)
        if known is None or known[0] != (now.state, now.source):
            known = self._trends[target] = ((now.state, now.source), _trend(connection, target, now.source, at))
        return known[1]

    # reports

    @operation("plan.report.create")
    async def submit_report(self, actor: Actor, target_id: str, report: NewReport) -> dict[str, Any]:
        """Report a figure with evidence, for somebody else to approve. By a reporter of the lead agency."""
        target = self._target(target_id)
        self.policy.require(actor, "plan.report.create", target.lead)
        person = a_person(actor)
        now = utcnow()
        if report.as_of > now:
            raise Invalid(
                "截至时间不能在将来", "as_of must not be in the future", field="as_of", value=report.as_of.isoformat(),
                rule="<= now",
            )
        content = file_of(report)

        def write(connection: sa.Connection) -> dict[str, Any]:
            sha256 = keep(connection, content)
            key = connection.execute(
                plan_reports.insert().values(
                    target=target.id, org=target.lead, value=report.value, as_of=report.as_of,
                    evidence_text=report.evidence_text, evidence_name=report.evidence_name, evidence_sha256=sha256,
                    state="submitted", submitted_by=person, submitted_name=name_of(actor), submitted_at=now,
                )
            ).inserted_primary_key
            assert key is not None
            detail = {"report": key[0], "value": format(report.value, "f"), "evidence": sha256}
            audit.record(connection, actor, "plan.report.create", target.lead, target.id, detail)
            return _report_document(_report(connection, key[0]))

        return await self.db.write(write)

    @operation("plan.report.approve")
    async def approve(self, actor: Actor, report_id: int, decision: Decision) -> dict[str, Any]:
        """Accept a report. Raises `Forbidden` for its author, `Conflict` when it is decided already."""
        return await self._decide(actor, report_id, "approved", decision.note)

    @operation("plan.report.approve")
    async def reject(self, actor: Actor, report_id: int, decision: Decision) -> dict[str, Any]:
        """Refuse a report, saying why. Raises as `approve`, and `Invalid` without a note."""
        if not decision.note.strip():
            self.policy.require(actor, "plan.report.approve", (await self._row(actor, report_id)).org)
            raise Invalid("退回须说明理由", "a rejection says why", field="note", value="", rule="not empty")
        return await self._decide(actor, report_id, "rejected", decision.note)

    async def _decide(
        self, actor: Actor, report_id: int, state: Literal["approved", "rejected"], note: str
    ) -> dict[str, Any]:
        row = await self._row(actor, report_id)
        self.policy.require(actor, "plan.report.approve", row.org)
        person = a_person(actor)
        not_own(person, row.submitted_by)

        def write(connection: sa.Connection) -> dict[str, Any]:
            mine = _reports.id == report_id, _reports.state == "submitted", _reports.submitted_by != person
            done = connection.execute(
                plan_reports.update().where(*mine).values(
                    state=state, decided_by=person, decided_name=name_of(actor), decided_at=utcnow(), note=note
                )
            )
            fresh = _report(connection, report_id)
            if done.rowcount != 1:
                raise Conflict(
                    f"这份上报已由 {fresh.decided_name} 处理", f"the report was decided by {fresh.decided_name}",
                    field="state", value=fresh.state, rule="submitted",
                )
            audit.record(connection, actor, "plan.report.approve", row.org, row.target, {"report": report_id, "state": state})
            return _report_document(fresh)

        decided = await self.db.write(write)
        await self.refresh_figures()
        return decided

    @operation("plan.report.read")
    async def evidence(self, actor: Actor, report_id: int) -> tuple[str, bytes]:
        """The evidence file of a report: its name and content. Raises `NotFound` if it has none."""
        row = await self._row(actor, report_id)
        return await self.db.read(lambda c: file_kept(c, row, f"report-{report_id}"))

    async def _row(self, actor: Actor, report_id: int) -> Any:
        """The report, if the actor may see it; else `NotFound`, as if there were none."""
        row = await self.db.read(lambda c: _report(c, report_id))
        may = row is not None and self.policy.allows(actor, "plan.report.read", row.org)
        mine = row is not None and row.submitted_by == person_of(actor)
        if row is None or not (may or mine):
            self.policy.require(actor, "plan.target.read", self.org)
            raise NotFound(f"没有上报 {report_id}", f"there is no report {report_id}", field="report", value=report_id)
        return row

    # definitions and measurements

    async def seed(self) -> int:
        """Store the pack's definitions that are new or changed since the pack's last ones; returns how many."""
        source = f"pack:{self.plan.head.id}@{self.plan.version}"
        wanted = {key: target.definition for key, target in self.plan.targets.items()}

        def fresh(connection: sa.Connection) -> dict[str, Definition]:
            rows = connection.execute(
                sa.select(_definitions.target, _definitions.digest)
                .where(_definitions.source.like("pack:%")).order_by(_definitions.version)
            )
            known = {row.target: row.digest for row in rows}
            return {key: one for key, one in wanted.items() if known.get(key) != one.digest()}

        def write(connection: sa.Connection) -> int:
            found = fresh(connection)
            for key, definition in found.items():
                version = _add_version(connection, key, definition, source, system("plan"))
                audit.record(
                    connection, system("plan"), "plan.definition.create", self.org, key,
                    {"version": version, "digest": definition.digest(), "source": source},
                )
            return len(found)

        return await self.db.write(write) if await self.db.read(fresh) else 0

    @operation("plan.definition.create")
    async def define(self, actor: Actor, target_id: str, definition: Definition) -> dict[str, Any]:
        """Put a new version of a target's definition in force. Raises `Conflict` if it says the same as the present."""
        self.policy.require(actor, "plan.definition.create", self.org)
        target = self._target(target_id)
        for problem in definition.problems(self.models):
            raise Invalid(
                f"口径的 {problem.field}：{problem.value} 不合规则“{problem.rule}”",
                f"definition: {problem.field}: {problem.value} is not {problem.rule}",
                field=f"definition.{problem.field}", value=problem.value, rule=problem.rule,
            )

        def write(connection: sa.Connection) -> int:
            current = in_force(_versions(connection, target.id), utcnow())
            if current is not None and current.definition.digest() == definition.digest():
                raise Conflict(
                    f"与现行第 {current.version} 版相同", f"the same as version {current.version}, which is in force",
                    field="definition", value=current.version, rule="different",
                )
            version = _add_version(connection, target.id, definition, "house", actor)
            audit.record(
                connection, actor, "plan.definition.create", self.org, target.id,
                {"version": version, "digest": definition.digest()},
            )
            return version

        version = await self.db.write(write)
        return {"target": target.id, "version": version, "query": definition.text(), "definition": definition.document()}

    @operation("plan.measurement.create")
    async def measure(self, actor: Actor, target_id: str | None = None) -> list[dict[str, Any]]:
        """Evaluate the definitions in force now and store the results: all targets, or one."""
        self.policy.require(actor, "plan.measurement.create", self.org)
        chosen = [self._target(target_id).id] if target_id else list(self.plan.targets)
        stored = await self._measure(chosen, always=True)
        await audit.note(self.db, actor, "plan.measurement.create", self.org, target_id or "", {"stored": len(stored)})
        return stored

    async def measure_due(self) -> int:
        """The periodic measurement: stores what changed, and what was last stored long ago. Returns rows stored."""
        return len(await self._measure(list(self.plan.targets), always=False))

    async def _measure(self, targets: Sequence[str], *, always: bool) -> list[dict[str, Any]]:
        stored = []
        for key in targets:
            at = utcnow()
            versions = await self.db.read(lambda c, key=key: _versions(c, key))  # type: ignore[misc]
            current = in_force(versions, at)
            outcome = await evaluate(current.definition, self.facts, at) if current else None
            if current is None or outcome is None:
                continue
            row = {"target": key, "version": current.version, "as_of": at, **outcome._asdict()}

            def write(connection: sa.Connection, row: dict[str, Any] = row) -> bool:
                last = next(iter(_measured(connection, row["target"], 1, row["as_of"])), None)
                same = last is not None and (last.value, last.version) == (row["value"], row["version"])
                if same and last is not None and not always and row["as_of"] - last.as_of < KEEP_UNCHANGED:
                    return False
                connection.execute(plan_measurements.insert().values(**row))
                return True

            if await self.db.write(write):
                stored.append({**row, "as_of": moment(at), "value": number(outcome.value),
                               "newest": moment(outcome.newest) if outcome.newest else None})
        return stored

    # scores

    @operation("plan.score.read")
    async def score(self, actor: Actor, as_of: dt.datetime | None = None) -> dict[str, Any]:
        """The plan's score as of a moment, from what was stored by then: the same question gets the same bytes."""
        self.policy.require(actor, "plan.score.read", self.org)
        at = as_of or utcnow()
        if at > utcnow():
            raise Invalid("不能给将来打分", "as_of must not be in the future", field="as_of", value=moment(at), rule="<= now")
        document = score_document(self.plan, await self.db.read(lambda c: self.standings(c, at)), at)
        return {**document, "digest": digest(document)}

    @operation("plan.score.create")
    async def file_score(self, actor: Actor, as_of: dt.datetime | None = None) -> dict[str, Any]:
        """As `score`, and keep it with its inputs in the record. Idempotent."""
        self.policy.require(actor, "plan.score.create", self.org)
        scored = await self.score(actor, as_of)
        key, document = scored["digest"], {k: v for k, v in scored.items() if k != "digest"}

        def write(connection: sa.Connection) -> None:
            if connection.execute(sa.select(plan_scores.c.digest).where(plan_scores.c.digest == key)).first():
                return
            connection.execute(
                plan_scores.insert().values(
                    digest=key, as_of=dt.datetime.fromisoformat(document["as_of"]),
                    document=canonical(document).decode(), made_by=actor.id, made_at=utcnow(),
                )
            )
            audit.record(connection, actor, "plan.score.create", self.org, self.plan.head.id, {"digest": key})

        await self.db.write(write)
        return scored


def _versions(connection: sa.Connection, target: str) -> list[DefinitionVersion]:
    rows = connection.execute(
        sa.select(plan_definitions).where(_definitions.target == target).order_by(_definitions.version)
    )
    return [
        DefinitionVersion(row.version, Definition.model_validate(row.document), row.since, row.by, row.source)
        for row in rows
    ]


def _add_version(
    connection: sa.Connection, target: str, definition: Definition, source: str, actor: Actor
) -> int:
    top = connection.execute(sa.select(sa.func.max(_definitions.version)).where(_definitions.target == target)).scalar()
    version = (top or 0) + 1
    connection.execute(
        plan_definitions.insert().values(
            target=target, version=version, document=definition.document(), digest=definition.digest(),
            source=source, since=utcnow(), by=person_of(actor),
        )
    )
    return version


def _measured(connection: sa.Connection, target: str, limit: int, at: dt.datetime) -> list[Measurement]:
    """The newest measurements of a target by `at`, newest first."""
    names = [plan_measurements.c[name] for name in Measurement._fields]
    rows = connection.execute(
        sa.select(*names).where(_measurements.target == target, _measurements.as_of <= at)
        .order_by(_measurements.as_of.desc(), _measurements.id.desc()).limit(limit)
    )
    return [Measurement(*row) for row in rows]


def _standing(connection: sa.Connection, target: str, at: dt.datetime) -> Standing:
    versions = _versions(connection, target)
    current = in_force(versions, at)
    names = [plan_measurements.c[name] for name in Measurement._fields]
    last = connection.execute(
        sa.select(*names)
        .where(
            _measurements.target == target, _measurements.as_of <= at,
            _measurements.version == (current.version if current else 0),
        )
        .order_by(_measurements.as_of.desc(), _measurements.id.desc()).limit(1)
    )
    reports = connection.execute(
        sa.select(*[plan_reports.c[name] for name in Report._fields])
        .where(
            _reports.target == target, _reports.state == "approved", _reports.as_of <= at, _reports.decided_at <= at
        )
        .order_by(_reports.as_of.desc(), _reports.decided_at.desc(), _reports.id.desc()).limit(1)
    )
    return standing(versions, [Measurement(*row) for row in last], [Report(*row) for row in reports], at)


def _trend(connection: sa.Connection, target: str, source: str, at: dt.datetime) -> list[list[float | int | None]]:
    """Up to `TREND_POINTS` points `[ms, value]` over the whole history, oldest first, the newest among them:
    measurements, or approved reports of a target that stands on one."""
    by_report = source.startswith("report:")
    of = plan_reports.c if by_report else plan_measurements.c
    mine = [of.target == target, of.as_of <= at, of.value.is_not(None)]
    if by_report:
        mine.append(_reports.state == "approved")
    count = connection.execute(sa.select(sa.func.count()).where(*mine)).scalar() or 0
    place = sa.func.row_number().over(order_by=(of.as_of.desc(), of.id.desc())).label("place")
    ranked = sa.select(of.as_of, of.value, place).where(*mine).subquery()
    stride = max(1, -(-count // TREND_POINTS))
    rows = connection.execute(
        sa.select(ranked.c.as_of, ranked.c.value).where((ranked.c.place - 1) % stride == 0).order_by(ranked.c.place.desc())
    )
    return [[int(row.as_of.timestamp() * 1000), number(row.value)] for row in rows]


def _report_columns() -> list[Any]:
    return [plan_reports.c[name] for name in plan_reports.c.keys()]  # noqa: SIM118 (a column collection, not a dict)


def _report(connection: sa.Connection, report_id: int) -> Any:
    return connection.execute(sa.select(*_report_columns()).where(_reports.id == report_id)).first()


def _report_document(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "target": row.target,
        "org": row.org,
        "value": number(row.value),
        "as_of": moment(row.as_of),
        "evidence_text": row.evidence_text,
        "evidence_name": row.evidence_name,
        "evidence_sha256": row.evidence_sha256,
        "state": row.state,
        "submitted_by": row.submitted_by,
        "submitted_name": row.submitted_name,
        "submitted_at": moment(row.submitted_at),
        "decided_by": row.decided_by,
        "decided_name": row.decided_name,
        "decided_at": moment(row.decided_at) if row.decided_at else None,
        "note": row.note,
    }
