"""Jobs in real processes: results, logs, cancel, crash and resume, limits."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import kinds
from tests.kernel.conftest import Persons
from tulou.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from tulou.kernel.house import House, JobKind
from tulou.kernel.jobs import Jobs, Worker
from tulou.kernel.jobs import service as jobs_service
from tulou.kernel.jobs import worker as jobs_worker
from tulou.kernel.jobs.models import jobs
from tulou.kernel.policy import Actor, Binding
from tulou.kernel.sql import utcnow


@pytest.fixture
def service(kernel: House) -> Jobs:
    found = kernel.service(Jobs)
    names = ("add", "break_down", "endless", "steps", "always_dies", "chatty")
    found._kinds = {name: JobKind(name, getattr(kinds, name)) for name in names}
    return found


@pytest.fixture
async def worker(kernel: House, service: Jobs) -> AsyncIterator[Worker]:
    made = Worker(kernel, service)
    task = asyncio.create_task(made.run(kernel))
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def ended(service: Jobs, admin: Actor, job_id: int) -> dict[str, Any]:
    for _ in range(1500):
        job = await service.get(admin, job_id)
        if job["state"] in ("done", "failed", "cancelled"):
            return job
        await asyncio.sleep(0.02)
    raise AssertionError(job)


async def appears(path: Path) -> None:
    while not path.exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.02)


async def test_a_job_has_result_progress_and_log(service: Jobs, worker: Worker, admin: Actor) -> None:
    job = await service.submit(admin, "add", "fuzhou", {"a": 2, "b": 3})
    done = await ended(service, admin, job["id"])
    assert (done["state"], done["result"], done["progress"], done["total"]) == ("done", {"sum": 5}, 1, 1)
    assert [entry["line"] for entry in done["log"]] == ["adding 2 and 3"]


async def test_a_failure_says_what_and_where(service: Jobs, worker: Worker, admin: Actor) -> None:
    job = await service.submit(admin, "break_down", "fuzhou")
    done = await ended(service, admin, job["id"])
    assert done["state"] == "failed"
    assert done["error"] == "ValueError: of no use"
    assert "break_down" in done["log"][-1]["line"]


async def test_a_killed_job_goes_on_from_its_checkpoint(
    service: Jobs, worker: Worker, admin: Actor, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    job = await service.submit(admin, "steps", "fuzhou", {"record": str(record), "die_at": 6})
    done = await ended(service, admin, job["id"])
    assert (done["state"], done["result"], done["attempts"]) == ("done", {"began": 6}, 2)
    assert record.read_text().split() == [str(n) for n in range(10)]


async def test_a_job_that_always_dies_fails_in_the_end(service: Jobs, worker: Worker, admin: Actor) -> None:
    job = await service.submit(admin, "always_dies", "fuzhou")
    done = await ended(service, admin, job["id"])
    assert (done["state"], done["attempts"]) == ("failed", jobs_worker.ATTEMPTS)


async def test_a_job_of_a_dead_worker_is_taken_again(service: Jobs, kernel: House, admin: Actor) -> None:
    job = await service.submit(admin, "add", "fuzhou", {"a": 1, "b": 1})
    lost = {"state": "running", "worker": "elsewhere/1/x", "attempts": 1, "seen_at": utcnow() - dt.timedelta(minutes=5)}
    await kernel.db.write(lambda c: c.execute(jobs.update().values(**lost)) and None)
    task = asyncio.create_task(Worker(kernel, service).run(kernel))
    done = await ended(service, admin, job["id"])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert done["state"] == "done"
    assert "elsewhere" in done["log"][0]["line"]


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_running_job_is_cancelled_even_if_it_does_not_listen(
    service: Jobs, worker: Worker, admin: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    monkeypatch.setattr(jobs_worker, "GRACE", 0.3)
    started = tmp_path / "started"
    job = await service.submit(admin, "endless", "fuzhou", {"started": str(started), "deaf": deaf})
    await appears(started)
    await service.cancel(admin, job["id"])
    assert (await ended(service, admin, job["id"]))["state"] == "cancelled"
    with pytest.raises(Conflict):
        await service.cancel(admin, job["id"])


async def test_a_cancelled_job_can_be_resumed(service: Jobs, admin: Actor, kernel: House) -> None:
    job = await service.submit(admin, "add", "fuzhou", {"a": 1, "b": 2})
    assert (await service.cancel(admin, job["id"]))["state"] == "cancelled"
    assert (await service.resume(admin, job["id"]))["state"] == "queued"
    task = asyncio.create_task(Worker(kernel, service).run(kernel))
    assert (await ended(service, admin, job["id"]))["result"] == {"sum": 3}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_one_organisation_cannot_take_every_slot(
    service: Jobs, kernel: House, worker: Worker, admin: Actor, tmp_path: Path
) -> None:
    object.__setattr__(kernel.settings, "jobs_per_org", 1)
    first, second = tmp_path / "first", tmp_path / "second"
    hog = await service.submit(admin, "endless", "fuzhou", {"started": str(first)})
    waits = await service.submit(admin, "endless", "fuzhou", {"started": str(second)})
    await appears(first)
    other = await service.submit(admin, "add", "xiamen", {"a": 1, "b": 1})
    assert (await ended(service, admin, other["id"]))["state"] == "done"
    assert (await service.get(admin, waits["id"]))["state"] == "queued"
    for job in (waits, hog):
        await service.cancel(admin, job["id"])
    assert (await ended(service, admin, hog["id"]))["state"] == "cancelled"


async def test_the_queue_of_an_organisation_is_bounded(
    service: Jobs, admin: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_service, "QUEUED_PER_ORG", 2)
    for _ in range(2):
        await service.submit(admin, "add", "fuzhou", {"a": 1, "b": 1})
    with pytest.raises(Conflict):
        await service.submit(admin, "add", "fuzhou", {"a": 1, "b": 1})
    await service.submit(admin, "add", "xiamen", {"a": 1, "b": 1})


async def test_the_log_keeps_its_tail(service: Jobs, worker: Worker, admin: Actor) -> None:
    job = await service.submit(admin, "chatty", "fuzhou")
    done = await ended(service, admin, job["id"])
    assert 500 <= len(done["log"]) <= 550
    assert done["log"][-1]["line"] == "line 1499"


async def test_jobs_of_others_do_not_exist(service: Jobs, admin: Actor) -> None:
    job = await service.submit(admin, "add", "fuzhou", {"a": 1, "b": 1})
    other = Actor("user:wu", "wu", "xiamen", "user", frozenset({Binding("xiamen", "admin", True)}), None, "user:wu")
    with pytest.raises(NotFound):
        await service.get(other, job["id"])
    with pytest.raises(NotFound):
        await service.cancel(other, job["id"])
    assert await service.search(other) == []
    with pytest.raises(Forbidden):
        await service.submit(other, "add", "fuzhou", {"a": 1, "b": 1})
    viewer = Actor("user:li", "li", "fuzhou", "user", frozenset({Binding("fuzhou", "viewer")}), None, "user:li")
    with pytest.raises(Forbidden):
        await service.cancel(viewer, job["id"])


async def test_an_unknown_kind_is_refused(service: Jobs, admin: Actor) -> None:
    with pytest.raises(Invalid) as raised:
        await service.submit(admin, "no-such", "fuzhou")
    assert raised.value.field == "kind"


async def test_the_routes(service: Jobs, persons: Persons, admin: Actor) -> None:
    boss = await persons.administrator()
    job = await service.submit(admin, "add", "fuzhou", {"a": 1, "b": 1})
    assert [j["id"] for j in (await boss.get("/api/v1/jobs?state=queued")).json()["items"]] == [job["id"]]
    assert (await boss.get(f"/api/v1/jobs/{job['id']}")).json()["arguments"] == {"a": 1, "b": 1}
    assert (await boss.post(f"/api/v1/jobs/{job['id']}/cancel")).json()["state"] == "cancelled"
    assert (await boss.get("/api/v1/jobs/abc")).status_code == 400
