"""Operations on the annual evaluation: draft, publish, appeal, decide, finish.

Law: nobody decides on his own paper. Who made a draft does not publish it; an appeal is decided by another person than the appellant, of
another organisation, who did not make the version. An appeal that is upheld makes a new version from corrected inputs; no version is
overwritten, and each can be computed again from itself.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from tulou.kernel.organisations.models import organisations
from tulou.kernel.policy import EVERYWHERE, Actor, Orgs, operation
from tulou.kernel.sql import utcnow, within
from tulou.kernel.workflows import Workflow
from tulou.plan.evaluation import inputs
from tulou.plan.evaluation.formula import Correction, Formula, corrected, in_force, recomputed
from tulou.plan.evaluation.models import NewAppeal, NewEvaluation, Verdict, plan_appeals, plan_evaluations
from tulou.plan.papers import a_person, file_kept, file_of, keep, name_of, not_own
from tulou.plan.projects.service import paper_document
from tulou.plan.queries import canonical, digest
from tulou.plan.service import Plans

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, DRAFTS, MAKE, PUBLISH = "plan.evaluation.read", "plan.draft.read", "plan.evaluation.create", "plan.evaluation.approve"
SEE, APPEAL, JUDGE = "plan.appeal.read", "plan.appeal.create", "plan.appeal.approve"
_of, _appeals = plan_evaluations.c, plan_appeals.c


def no_such_evaluation(year: object, version: object = "") -> NotFound:
    said = f"{year} {version}".strip()
    return NotFound(f"没有考评 {said}", f"there is no evaluation {said}", field="year", value=said)


def no_such_appeal(no: object) -> NotFound:
    return NotFound(f"没有申诉 {no}", f"there is no appeal {no}", field="appeal", value=no)


class Evaluations:
    """The evaluations of the plan. `now` is the clock."""

    def __init__(
        self, house: House, plans: Plans, formulas: Sequence[Formula], workflow: Workflow | None, now: Callable[[], dt.datetime] = utcnow
    ) -> None:
        self.db, self.policy, self.plans = house.db, house.policy, plans
        self.formulas, self.workflow, self.now = formulas, workflow, now

    @property
    def org(self) -> str:
        """The organisation that evaluates: the plan's."""
        return self.plans.org

    # -- looking

    @operation(READ)
    async def evaluations(self, actor: Actor) -> list[dict[str, Any]]:
        """Every version, newest first, without its document; drafts only for those who make, publish or audit them."""
        self.policy.require(actor, READ, self.org)
        query = sa.select(plan_evaluations).order_by(_of.year.desc(), _of.version.desc())
        if not self.policy.allows(actor, DRAFTS, self.org):
            query = query.where(_of.published_by.is_not(None))
        rows = await self.db.read(lambda c: c.execute(query).all())
        return [{**_head(row), "score": orjson.loads(row.document)["score"]} for row in rows]

    @operation(READ)
    async def evaluation(self, actor: Actor, year: int, version: int | None = None) -> dict[str, Any]:
        """A version, or the one in force, with its document, the appeals that the actor may see, and whether the document gives its
        digest when it is computed again (`recomputes`)."""
        self.policy.require(actor, READ, self.org)
        drafts = self.policy.allows(actor, DRAFTS, self.org)
        seen = self._seen(actor)
        which = _of.state.in_(("published", "final")) if version is None else _of.version == version

        def read(connection: sa.Connection) -> tuple[Any, Sequence[Any]]:
            row = connection.execute(sa.select(plan_evaluations).where(_of.year == year, which)).first()
            query = sa.select(plan_appeals).where(_appeals.year == year, *within(_appeals.org, seen)).order_by(_appeals.no)
            return row, connection.execute(query).all()

        row, appeals = await self.db.read(read)
        if row is None or (row.published_by is None and not drafts):
            raise no_such_evaluation(year, version or "")
        document = orjson.loads(row.document)
        return {
            **_head(row), "document": document, "recomputes": digest(recomputed(document)) == row.digest,
            "appeals": [_appeal(one) for one in appeals], "appeal_until": _until(row, document),
        }

    # -- making

    @operation(MAKE)
    async def draft(self, actor: Actor, new: NewEvaluation) -> dict[str, Any]:
        """Evaluate a year up to its end, or up to now while it runs: a draft, in place of the draft that there was. Raises `Conflict` where
        the year's evaluation was published."""
        self.policy.require(actor, MAKE, self.org)
        person, year = a_person(actor), new.year
        first, last = inputs.bounds(year)
        if first > self.now():
            raise Invalid(f"{year} 年还没有开始", f"{year} has not begun", field="year", value=year, rule="<= this year")
        formula, at = in_force(self.formulas, year), min(last, self.now())

        def write(connection: sa.Connection) -> Any:
            audit.hold(connection)
            there = connection.execute(sa.select(_of.version, _of.state).where(_of.year == year).order_by(_of.version)).all()
            if any(row.state in ("published", "final") for row in there):
                raise Conflict(f"{year} 年考评已公布，只能经申诉改正", f"the evaluation of {year} is published; only an appeal changes it", field="year",
                               value=year, rule="not published")
            orgs = {org: list(self.policy.ancestors(org)) for org in self._organisations(connection)}
            document = inputs.document(
                connection, self.plans.plan, formula, year, at, self.plans.standings(connection, at), self.workflow, orgs
            )
            connection.execute(plan_evaluations.update().where(_of.year == year, _of.state == "draft").values(state="dropped"))
            return self._insert(connection, actor, person, document, there[-1].version + 1 if there else 1, {"state": "draft"})

        return _head(await self.db.write(write))

    @staticmethod
    def _organisations(connection: sa.Connection) -> list[str]:
        return [row.id for row in connection.execute(sa.select(organisations.c.id))]

    def _insert(self, connection: sa.Connection, actor: Actor, person: str, document: dict[str, Any], version: int, more: dict[str, Any]) -> Any:
        row = connection.execute(plan_evaluations.insert().values(
            year=document["year"], version=version, method=document["method"], digest=digest(document), document=canonical(document).decode(),
            made_by=person, made_name=name_of(actor), made_at=self.now(), **more,
        ).returning(plan_evaluations)).one()
        detail = {"version": version, "state": row.state, "digest": row.digest, "appeal": row.appeal}
        audit.record(connection, actor, MAKE, self.org, f"evaluation {row.year}", detail)
        return row

    @operation(PUBLISH)
    async def publish(self, actor: Actor, year: int, version: int) -> dict[str, Any]:
        """Publish a draft. By another person than the one who made it."""
        return await self._sign(actor, year, version, "draft", "published")

    @operation(PUBLISH)
    async def finish(self, actor: Actor, year: int, version: int) -> dict[str, Any]:
        """Make the published version final: when the time for appeals is over, and none waits."""
        return await self._sign(actor, year, version, "published", "final")

    async def _sign(self, actor: Actor, year: int, version: int, source: str, target: str) -> dict[str, Any]:
        self.policy.require(actor, PUBLISH, self.org)
        person = a_person(actor)

        def write(connection: sa.Connection) -> Any:
            audit.hold(connection)
            row = connection.execute(sa.select(plan_evaluations).where(_of.year == year, _of.version == version)).first()
            if row is None:
                raise no_such_evaluation(year, version)
            if row.state != source:
                raise Conflict(f"第 {version} 版不在“{source}”状态", f"version {version} is {row.state}", field="state", value=row.state, rule=source)
            values: dict[str, Any] = {"state": target}
            if target == "published":
                not_own(person, row.made_by)
                values |= {"published_by": person, "published_name": name_of(actor), "published_at": self.now()}
            else:
                self._may_finish(connection, row)
                values |= {"finished_by": person, "finished_at": self.now()}
            audit.record(connection, actor, PUBLISH, self.org, f"evaluation {year}", {"version": version, "state": target})
            return connection.execute(
                plan_evaluations.update().where(_of.year == year, _of.version == version).values(**values).returning(plan_evaluations)
            ).one()

        return _head(await self.db.write(write))

    def _may_finish(self, connection: sa.Connection, row: Any) -> None:
        waiting = connection.execute(sa.select(_appeals.no).where(_appeals.year == row.year, _appeals.state == "submitted")).scalars().all()
        if waiting:
            raise Conflict("还有申诉待裁定", "appeals wait for a decision", field="appeals", value=", ".join(map(str, waiting)), rule="none")
        until = _until(row, orjson.loads(row.document))
        if until is not None and self.now() < until:
            raise Conflict("申诉期未满", "the time for appeals is not over", field="year", value=row.year, rule=f">= {until.isoformat()}")

    # -- appeals

    @operation(APPEAL)
    async def appeal(self, actor: Actor, year: int, new: NewAppeal) -> dict[str, Any]:
        """Appeal against the published version, for an agency that it scores. One at a time."""
        self.policy.require(actor, APPEAL, new.org)
        person, content = a_person(actor), file_of(new)

        def write(connection: sa.Connection) -> Any:
            audit.hold(connection)
            row = connection.execute(sa.select(plan_evaluations).where(_of.year == year, _of.state == "published")).first()
            if row is None:
                raise no_such_evaluation(year)
            document = orjson.loads(row.document)
            until = _until(row, document)
            if until is not None and self.now() >= until:
                raise Conflict("申诉期已过", "the time for appeals is over", field="year", value=year, rule=f"< {until.isoformat()}")
            waiting = sa.select(_appeals.no).where(_appeals.year == year, _appeals.org == new.org, _appeals.state == "submitted")
            if connection.execute(waiting).first():
                raise Conflict("已有一份申诉待裁定", "an appeal of the agency waits for a decision", field="org", value=new.org, rule="one at a time")
            corrected(document, new.org, 0, new.corrections)
            made = connection.execute(plan_appeals.insert().values(
                year=year, version=row.version, org=new.org, state="submitted",
                corrections=[one.model_dump(mode="json") for one in new.corrections],
                evidence_text=new.evidence_text, evidence_name=new.evidence_name, evidence_sha256=keep(connection, content), submitted_by=person,
                submitted_name=name_of(actor), submitted_at=self.now(),
            ).returning(plan_appeals)).one()
            audit.record(connection, actor, APPEAL, new.org, f"evaluation {year}", {"appeal": made.no, "version": row.version})
            return made

        return _appeal(await self.db.write(write))

    @operation(JUDGE)
    async def decide(self, actor: Actor, no: int, upheld: bool, verdict: Verdict) -> dict[str, Any]:
        """Uphold an appeal, whole or in part, which makes a new version; or reject it, saying why. By another person than the appellant, of
        another organisation, who did not make the version."""
        seen = await self._appeal_seen(actor, no)
        self.policy.require(actor, JUDGE, self.org)
        person = a_person(actor)
        if not upheld and not verdict.note.strip():
            raise Invalid("驳回须说明理由", "a rejection says why", field="note", value="", rule="not empty")
        if actor.org == seen.org:
            raise Forbidden("申诉单位的人不能裁定本单位的申诉", "nobody decides on an appeal of his own organisation", field="org", value=actor.org,
                            rule="another organisation")

        def write(connection: sa.Connection) -> Any:
            audit.hold(connection)
            appeal = connection.execute(sa.select(plan_appeals).where(_appeals.no == no)).one()
            if appeal.state != "submitted":
                raise Conflict(
                    f"申诉已由 {appeal.decided_name} 裁定", f"the appeal was decided by {appeal.decided_name}", field="state", value=appeal.state,
                    rule="submitted",
                )
            row = connection.execute(sa.select(plan_evaluations).where(_of.year == appeal.year, _of.state == "published")).one()
            first = connection.execute(sa.select(plan_evaluations).where(_of.year == appeal.year, _of.version == appeal.version)).one()
            not_own(person, appeal.submitted_by, first.made_by)
            made = self._new_version(connection, actor, person, row, appeal, verdict) if upheld else None
            audit.record(connection, actor, JUDGE, appeal.org, f"evaluation {appeal.year}", {"appeal": no, "upheld": upheld, "version": made})
            return connection.execute(plan_appeals.update().where(_appeals.no == no).values(
                state="upheld" if upheld else "rejected", made=made, decided_by=person, decided_name=name_of(actor), decided_at=self.now(),
                note=verdict.note,
            ).returning(plan_appeals)).one()

        return _appeal(await self.db.write(write))

    def _new_version(self, connection: sa.Connection, actor: Actor, person: str, row: Any, appeal: Any, verdict: Verdict) -> int:
        accepted = verdict.corrections or [Correction.model_validate(one) for one in appeal.corrections]
        document = recomputed(corrected(orjson.loads(row.document), appeal.org, appeal.no, accepted))
        connection.execute(plan_evaluations.update().where(_of.year == row.year, _of.version == row.version).values(state="superseded"))
        version = connection.execute(sa.select(sa.func.max(_of.version)).where(_of.year == row.year)).scalar_one() + 1
        self._insert(connection, actor, person, document, version, {
            "state": "published", "appeal": appeal.no, "published_by": person, "published_name": name_of(actor), "published_at": self.now(),
        })
        return int(version)

    async def _appeal_seen(self, actor: Actor, no: int) -> Any:
        row = await self.db.read(lambda c: c.execute(sa.select(plan_appeals).where(_appeals.no == no)).first())
        if row is None or row.org not in self._seen(actor):
            self.policy.require(actor, READ, self.org)
            raise no_such_appeal(no)
        return row

    def _seen(self, actor: Actor) -> Orgs:
        """Whose appeals the actor may see: those of his organisations, and all of them for the plan's own office."""
        return EVERYWHERE if self.policy.allows(actor, SEE, self.org) else self.policy.visible(actor, SEE)

    @operation(SEE)
    async def evidence(self, actor: Actor, no: int) -> tuple[str, bytes]:
        """The evidence file of an appeal: its name and content. Raises `NotFound` if it has none."""
        row = await self._appeal_seen(actor, no)
        return await self.db.read(lambda c: file_kept(c, row, f"appeal-{no}"))


def _until(row: Any, document: dict[str, Any]) -> dt.datetime | None:
    """Until when one may appeal against a version."""
    return row.published_at + dt.timedelta(days=document["formula"]["appeal_days"]) if row.published_at else None


def _head(row: Any) -> dict[str, Any]:
    names = ("year", "version", "state", "method", "digest", "appeal", "made_by", "made_name", "made_at", "published_by", "published_name",
             "published_at", "finished_by", "finished_at")
    return {name: getattr(row, name) for name in names}


def _appeal(row: Any) -> dict[str, Any]:
    return {**{name: getattr(row, name) for name in ("no", "year", "version", "org", "corrections", "state", "made")}, **paper_document(row)}
