"""Operations on jobs: submit, list, watch, cancel, resume.

Law: a job belongs to an organisation and to whoever submitted it; what it may touch is decided when it is submitted,
by the engine whose kind it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound
from tulou.kernel.jobs.models import job_lines, jobs
from tulou.kernel.policy import ROOT, Actor, operation, refusal
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House, JobKind

QUEUED_PER_ORG = 100
OPEN = ("queued", "running")


def document(row: Any) -> dict[str, Any]:
    """A job as the API shows it."""
    def at(name: str) -> str | None:
        value = getattr(row, name)
        return value.isoformat() if value else None

    return {
        "id": row.id, "kind": row.kind, "org": row.org, "actor": row.actor, "state": row.state, "cancel": row.cancel,
        "progress": row.progress, "total": row.total, "attempts": row.attempts, "created_at": at("created_at"),
        "started_at": at("started_at"), "ended_at": at("ended_at"), "error": row.error,
    }


class Jobs:
    """Jobs of the house. `kinds` are those that plugins contribute by the hook `jobs`."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.policy = house.policy
        self.wake = asyncio.Event()
        self._kinds: dict[str, JobKind] | None = None

    @property
    def kinds(self) -> dict[str, JobKind]:
        """Kinds by name."""
        if self._kinds is None:
            self._kinds = {kind.name: kind for part in self.house.hooks.hook.jobs(house=self.house) for kind in part}
        return self._kinds

    async def _stir(self) -> None:
        self.wake.set()
        if hasattr(self.house, "bus"):
            await self.house.bus.changed("jobs")

    @operation("jobs.job.create")
    async def submit(self, actor: Actor, kind: str, org: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        """Queue a job of `kind` for `org`. Raises `Conflict` when the organisation's queue is full."""
        self.policy.require(actor, "jobs.job.create", org)
        if kind not in self.kinds:
            raise Invalid(
                f"没有任务类型 {kind}", f"no kind of job {kind}", field="kind", value=kind, rule=", ".join(sorted(self.kinds))
            )

        def write(connection: sa.Connection) -> Any:
            waiting = connection.execute(
                sa.select(sa.func.count()).where(jobs.c.org == org, jobs.c.state.in_(OPEN))
            ).scalar_one()
            if waiting >= QUEUED_PER_ORG:
                raise Conflict(
                    f"组织 {org} 已有 {waiting} 个未完成任务", f"{org} has {waiting} unfinished jobs",
                    field="org", value=org, rule=f"< {QUEUED_PER_ORG}",
                )
            key = connection.execute(
                jobs.insert().values(
                    kind=kind, org=org, actor=actor.id, arguments=arguments or {}, state="queued", cancel=False,
                    attempts=0, progress=0, created_at=utcnow(),
                )
            ).inserted_primary_key
            assert key is not None
            audit.record(connection, actor, "jobs.job.create", org, f"job:{key[0]}", {"kind": kind})
            return connection.execute(sa.select(jobs).where(jobs.c.id == key[0])).one()

        row = await self.house.db.write(write)
        await self._stir()
        return document(row)

    @operation("jobs.job.read")
    async def search(
        self, actor: Actor, *, state: str | None = None, kind: str | None = None, org: str | None = None,
        limit: int = 50, before: int | None = None,
    ) -> list[dict[str, Any]]:
        """Jobs of the organisations whose jobs the actor may read, newest first."""
        orgs = self.policy.require_any(actor, "jobs.job.read").narrow(org)
        if not orgs:
            return []
        query = sa.select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        query = query.where(*within(jobs.c.org, orgs))
        for column, value in ((jobs.c.state, state), (jobs.c.kind, kind)):
            if value:
                query = query.where(column == value)
        if before is not None:
            query = query.where(jobs.c.id < before)
        return [document(row) for row in await self.house.db.read(lambda c: c.execute(query).all())]

    async def _row(self, actor: Actor, job_id: int, action: str) -> Any:
        row = await self.house.db.read(lambda c: c.execute(sa.select(jobs).where(jobs.c.id == job_id)).first())
        if not self.policy.allows(actor, "jobs.job.read", row.org if row else ROOT) or row is None:
            if actor.kind == "anonymous":
                raise refusal(actor, action)
            raise NotFound(f"没有任务 {job_id}", f"there is no job {job_id}", field="id", value=job_id)
        if action != "jobs.job.read":
            self.policy.require(actor, action, row.org)
        return row

    @operation("jobs.job.read")
    async def get(self, actor: Actor, job_id: int) -> dict[str, Any]:
        """A job with its arguments, result and the tail of its log."""
        row = await self._row(actor, job_id, "jobs.job.read")
        query = sa.select(job_lines).where(job_lines.c.job_id == job_id).order_by(job_lines.c.id)
        lines = await self.house.db.read(lambda c: c.execute(query).all())
        log = [{"at": line.at.isoformat(), "line": line.line} for line in lines]
        return {**document(row), "arguments": row.arguments, "result": row.result, "log": log}

    @operation("jobs.job.manage")
    async def cancel(self, actor: Actor, job_id: int) -> dict[str, Any]:
        """Cancel: a queued job at once, a running one when it next reports, or by force after ten seconds."""
        row = await self._row(actor, job_id, "jobs.job.manage")

        def write(connection: sa.Connection) -> Any:
            here = jobs.c.id == job_id
            ended = connection.execute(
                jobs.update().where(here, jobs.c.state == "queued")
                .values(state="cancelled", cancel=True, ended_at=utcnow())
            ).rowcount
            if not ended and not connection.execute(
                jobs.update().where(here, jobs.c.state == "running").values(cancel=True)
            ).rowcount:
                raise Conflict(f"任务 {job_id} 已结束", f"job {job_id} has ended", field="state", value=row.state)
            audit.record(connection, actor, "jobs.job.cancel", row.org, f"job:{job_id}")
            return connection.execute(sa.select(jobs).where(here)).one()

        found = await self.house.db.write(write)
        await self._stir()
        return document(found)

    @operation("jobs.job.manage")
    async def resume(self, actor: Actor, job_id: int) -> dict[str, Any]:
        """Queue a failed or cancelled job again; it goes on from its last checkpoint."""
        row = await self._row(actor, job_id, "jobs.job.manage")

        def write(connection: sa.Connection) -> Any:
            here = jobs.c.id == job_id
            changed = connection.execute(
                jobs.update().where(here, jobs.c.state.in_(("failed", "cancelled")))
                .values(state="queued", cancel=False, attempts=0, error=None, ended_at=None)
            ).rowcount
            if not changed:
                raise Conflict(
                    f"任务 {job_id} 的状态为 {row.state}", f"job {job_id} is {row.state}",
                    field="state", value=row.state, rule="failed or cancelled",
                )
            audit.record(connection, actor, "jobs.job.resume", row.org, f"job:{job_id}")
            return connection.execute(sa.select(jobs).where(here)).one()

        found = await self.house.db.write(write)
        await self._stir()
        return document(found)
