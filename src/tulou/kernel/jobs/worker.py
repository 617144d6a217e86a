"""The worker: takes queued jobs in order and runs each in a process of its own.

Law: a job is taken by one worker at a time, and given back when that worker is gone: at once if its process has ended
on this machine, else after `SILENCE` seconds without a sign of life. After `ATTEMPTS` crashes it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import multiprocessing
import os
import secrets
import socket
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tulou.kernel import audit
from tulou.kernel.jobs import process
from tulou.kernel.jobs.models import job_lines, jobs
from tulou.kernel.jobs.service import Jobs
from tulou.kernel.sql import utcnow

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.jobs")

ATTEMPTS = 3
SILENCE = 30.0
GRACE = 10.0
LINES = 500
KEEP_DAYS = 30


class Worker:
    """Runs jobs until cancelled."""

    def __init__(self, house: House, service: Jobs) -> None:
        self.house = house
        self.service = service
        self.name = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._running: dict[int, tuple[asyncio.Task[None], Connection, SpawnProcess]] = {}
        self._killed: set[int] = set()

    async def run(self, _house: House) -> None:
        """The background task of the role `worker`."""
        if hasattr(self.house, "bus"):
            await self.house.bus.on_changed("jobs", lambda _key: self.service.wake.set())
        turn = 0
        try:
            while True:
                if turn % 5 == 0:
                    await self._give_back()
                    await self._sign_of_life()
                if turn % 3600 == 0:
                    await self._sweep()
                turn += 1
                await self._cancel_asked()
                while len(self._running) < self.house.settings.jobs_parallel and await self._take():
                    pass
                self.service.wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self.service.wake.wait()
        finally:
            for task, _, child in list(self._running.values()):
                child.kill()
                task.cancel()
            await asyncio.gather(*[task for task, _, _ in self._running.values()], return_exceptions=True)

    async def _give_back(self) -> None:
        host = self.name.split("/")[0]
        old = utcnow() - dt.timedelta(seconds=SILENCE)

        def write(connection: sa.Connection) -> None:
            query = sa.select(jobs.c.id, jobs.c.org, jobs.c.worker, jobs.c.seen_at, jobs.c.attempts, jobs.c.cancel)
            for row in connection.execute(query.where(jobs.c.state == "running")).all():
                machine, pid, _ = (row.worker or "//").split("/")
                gone = machine == host and row.worker != self.name and (int(pid) == os.getpid() or not _alive(int(pid)))
                if row.worker == self.name or not (gone or row.seen_at < old):
                    continue
                state = "cancelled" if row.cancel else "queued" if row.attempts < ATTEMPTS else "failed"
                connection.execute(
                    jobs.update().where(jobs.c.id == row.id, jobs.c.worker == row.worker).values(
                        state=state, worker=None, ended_at=None if state == "queued" else utcnow(),
                        error=f"worker lost {row.attempts} times" if state == "failed" else None,
                    )
                )
                connection.execute(
                    job_lines.insert().values(job_id=row.id, at=utcnow(), line=f"worker {row.worker} is gone: {state}")
                )

        lost = sa.select(sa.func.count()).where(jobs.c.state == "running", jobs.c.worker != self.name)
        if await self.house.db.read(lambda c: c.execute(lost).scalar_one()):
            await self.house.db.write(write)

    async def _sign_of_life(self) -> None:
        if self._running:
            alive = jobs.update().where(jobs.c.worker == self.name, jobs.c.state == "running").values(seen_at=utcnow())
            await self.house.db.write(lambda c: c.execute(alive) and None)

    async def _sweep(self) -> None:
        old = utcnow() - dt.timedelta(days=KEEP_DAYS)
        ended = jobs.delete().where(jobs.c.state.in_(("done", "failed", "cancelled")), jobs.c.ended_at < old)
        await self.house.db.write(lambda c: c.execute(ended) and None)

    async def _cancel_asked(self) -> None:
        if not self._running:
            return
        query = sa.select(jobs.c.id).where(jobs.c.id.in_(list(self._running)), jobs.c.cancel)
        for job_id in await self.house.db.read(lambda c: c.execute(query).scalars().all()):
            entry = self._running.get(job_id)
            if entry is None or job_id in self._killed:
                continue
            self._killed.add(job_id)
            with contextlib.suppress(OSError):
                entry[1].send("cancel")
            asyncio.get_running_loop().call_later(GRACE, _kill, entry[2])

    async def _take(self) -> bool:
        """Take the oldest queued job whose organisation is below its limit; False when there is none."""
        def take(connection: sa.Connection) -> Any:
            busy = (
                sa.select(jobs.c.org).where(jobs.c.state == "running").group_by(jobs.c.org)
                .having(sa.func.count() >= self.house.settings.jobs_per_org)
            )
            query = sa.select(jobs).where(jobs.c.state == "queued", jobs.c.org.not_in(busy)).order_by(jobs.c.id).limit(1)
            row = connection.execute(query.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            connection.execute(
                jobs.update().where(jobs.c.id == row.id, jobs.c.state == "queued").values(
                    state="running", worker=self.name, seen_at=utcnow(), attempts=row.attempts + 1,
                    started_at=row.started_at or utcnow(),
                )
            )
            return row

        waiting = sa.select(jobs.c.id).where(jobs.c.state == "queued").limit(1)
        if await self.house.db.read(lambda c: c.execute(waiting).first()) is None:
            return False
        row: Any = await self.house.db.write(take)
        if row is None:
            return False
        kind = self.service.kinds.get(row.kind)
        if kind is None:
            await self._end(row, "failed", error=f"no kind of job {row.kind} in this house")
            return True
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        child = multiprocessing.get_context("spawn").Process(
            target=process.main, name=f"tulou-job-{row.id}", daemon=True,
            args=(theirs, kind.run.__module__, kind.run.__qualname__, row.checkpoint or {}, row.arguments),
        )
        child.start()
        theirs.close()
        task = asyncio.create_task(self._follow(row, ours, child), name=f"job-{row.id}")
        self._running[row.id] = (task, ours, child)
        return True

    async def _follow(self, row: Any, pipe: Connection, child: SpawnProcess) -> None:
        try:
            ended = await asyncio.to_thread(self._listen, row.id, pipe)
            await asyncio.to_thread(child.join, GRACE)
            state: str = ended[0] if ended else "lost"
            value: Any = ended[1] if ended else None
            if state == "done":
                await self._end(row, "done", result=value)
            elif state == "failed":
                await self._end(row, "failed", error=value[0], line=value[1])
            elif state == "cancelled" or row.id in self._killed:
                await self._end(row, "cancelled")
            elif row.attempts + 1 < ATTEMPTS:
                await self._end(row, "queued", line=f"the process ended with {child.exitcode}; trying again")
            else:
                await self._end(row, "failed", error=f"the process ended with {child.exitcode}, {ATTEMPTS} times")
        except Exception:
            log.exception("job %s", row.id)
        finally:
            pipe.close()
            self._running.pop(row.id, None)
            self._killed.discard(row.id)
            self.service.wake.set()

    def _listen(self, job_id: int, pipe: Connection) -> tuple[str, Any] | None:
        """Write what the process says until it ends: its last word, or None when it died without one (in a thread)."""
        while True:
            try:
                what, value = pipe.recv()
            except (EOFError, OSError):
                return None
            if what == "progress":
                values = {"progress": value[0]} if value[1] is None else {"progress": value[0], "total": value[1]}
                self.house.db.write_soon(_setter(job_id, values))
            elif what == "log":
                self.house.db.write_soon(partial(_add_line, job_id=job_id, line=value))
            elif what == "save":
                self.house.db.write_soon(_setter(job_id, {"checkpoint": value})).result()
                pipe.send("saved")
            else:
                return what, value

    async def _end(
        self, row: Any, state: str, *, result: Any = None, error: str | None = None, line: str | None = None
    ) -> None:
        def write(connection: sa.Connection) -> None:
            connection.execute(
                jobs.update().where(jobs.c.id == row.id, jobs.c.worker == self.name).values(
                    state=state, result=result, error=error, worker=None,
                    ended_at=None if state == "queued" else utcnow(),
                )
            )
            if line:
                _add_line(connection, row.id, line)
            if state != "queued":
                audit.record(
                    connection, row.actor, f"jobs.job.{state}", row.org, f"job:{row.id}",
                    {"kind": row.kind, "error": error}, "ok" if state != "failed" else "failed",
                )

        await self.house.db.write(write)


def _setter(job_id: int, values: dict[str, Any]) -> Callable[[sa.Connection], None]:
    statement = jobs.update().where(jobs.c.id == job_id).values(**values)

    def write(connection: sa.Connection) -> None:
        connection.execute(statement)

    return write


def _add_line(connection: sa.Connection, job_id: int, line: str) -> None:
    key = connection.execute(
        job_lines.insert().values(job_id=job_id, at=utcnow(), line=str(line)[:4000])
    ).inserted_primary_key
    assert key is not None
    if key[0] % 50 == 0:
        last = (
            sa.select(job_lines.c.id).where(job_lines.c.job_id == job_id)
            .order_by(job_lines.c.id.desc()).offset(LINES).limit(1)
        )
        floor = connection.execute(last).scalar()
        if floor is not None:
            connection.execute(job_lines.delete().where(job_lines.c.job_id == job_id, job_lines.c.id <= floor))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _kill(child: SpawnProcess) -> None:
    with contextlib.suppress(ValueError):
        if child.is_alive():
            child.kill()
