"""Large batches read beside the house: the same entities, the same errors, and no batch lost with the process."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tulou.context import ContextService, batch_reader
from tulou.context.batch_reader import BatchReader, rows, serve
from tulou.context.jsonld import CORE
from tulou.kernel.house import House

from .conftest import execute

MANY = 300


def vehicle(n: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"urn:x:{n}", "type": "Vehicle", "name": {"type": "Property", "value": f"车 {n}"},
        "location": {"type": "GeoProperty", "value": {"type": "Point", "coordinates": [118 + n / 1000, 24.5]}},
        "speed": {"type": "Property", "value": n, "observedAt": "2026-01-01T00:00:00Z", "unitCode": "KMH"}, **more,
    }


def fleet(**more: Any) -> list[dict[str, Any]]:
    return [vehicle(n, **more) for n in range(MANY)]


@pytest.fixture
async def reader(service: ContextService, ground: House) -> AsyncIterator[BatchReader]:
    """The service's reader, its process started."""
    task = asyncio.create_task(service.reader.run(ground))
    service.reader._wanted.set()
    await started(service.reader)
    yield service.reader
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert service.reader._process is None


async def until(check: Callable[[], Any]) -> Any:
    async with asyncio.timeout(30):
        while True:
            if found := check():
                return found
            await asyncio.sleep(0.01)


async def started(reader: BatchReader, *, besides: int = 0) -> int:
    """The number of its process, once it has one that is another."""
    process = await until(lambda: reader._process is not None and reader._process.pid != besides and reader._process)
    return int(process.pid)


def stored(ground: House) -> list[Any]:
    columns = "id,org,type,types,name,doc,synthetic,lon,lat,west,south,east,north,expires_at"
    return execute(ground, f"SELECT {columns} FROM entities ORDER BY id")


async def test_what_is_read_beside_is_what_is_read_here(
    api: httpx.AsyncClient, service: ContextService, ground: House, reader: BatchReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    read = reader.read

    async def counting(*arguments: Any) -> Any:
        found = await read(*arguments)
        counted.append(-1 if found is None else len(found))
        return found

    monkeypatch.setattr(reader, "read", counting)
    odd = {"own:term": 1, "heading": [{"type": "Property", "value": 1, "datasetId": "urn:d:1"}, {"type": "Property", "value": 2}],
           "name": "简", "expiresAt": "2099-01-01T00:00:00Z"}
    found = []
    for least in (0, 10**9):
        monkeypatch.setattr("tulou.context.routes.LEAST", least)
        made = await api.post("/entityOperations/upsert", json=fleet(**odd))
        assert made.status_code == 201
        assert len(made.json()) == MANY
        assert (await api.post("/entityOperations/upsert", json=fleet(speed=5, wheels=4))).status_code == 204
        assert (await api.post("/entityOperations/upsert?options=update", json=fleet(doors=3))).status_code == 204
        again = await api.post("/entityOperations/create", json=fleet())
        assert (again.status_code, len(again.json()["errors"])) == (207, MANY)
        journal = "SELECT type,whole,doc FROM attribute_history ORDER BY no"
        times = ("createdAt", "modifiedAt")
        assert not any(name in str(stored(ground)) for name in times)
        found.append((stored(ground), execute(ground, journal)))
        await api.post("/entityOperations/delete", json=[vehicle(n)["id"] for n in range(MANY)])
        while await ground.db.write(service.journal.sweep):
            pass
    assert counted == [MANY] * 4
    assert found[0] == found[1]


@pytest.mark.parametrize("wrong", [
    {"id": "no uri"}, {"type": None}, {"speed": {"type": "Nonsense", "value": 1}}, {"@context": []}, {"speed": None},
])
async def test_a_batch_with_an_error_is_read_here(api: httpx.AsyncClient, reader: BatchReader, wrong: Any) -> None:
    body = [*fleet(), {**vehicle(MANY), **wrong}]
    answer = await api.post("/entityOperations/upsert", json=body)
    assert answer.status_code == 207
    assert len(answer.json()["success"]) == MANY
    assert len(answer.json()["errors"]) == 1


@pytest.mark.parametrize("body", [b"[" * 50_000, b'{"a":' + b"1" * 40_000 + b"}", b"[" + b"1," * 20_000 + b"1]", b"x" * 40_000])
async def test_rubbish_is_refused_and_the_process_goes_on(api: httpx.AsyncClient, reader: BatchReader, body: bytes) -> None:
    pid = await started(reader)
    answer = await api.post("/entityOperations/upsert", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (207, 400)
    assert (await api.post("/entityOperations/upsert", json=fleet())).status_code == 201
    assert await started(reader) == pid


async def test_who_may_not_write_is_refused_before_anything_is_read(door: Any, ground: House, reader: BatchReader) -> None:
    assert (await door("xiamen-viewer").post("/entityOperations/upsert", json=fleet())).status_code == 403
    assert (await door(None).post("/entityOperations/upsert", json=fleet())).status_code == 401
    answer = await door("xiamen").post("/entityOperations/upsert", json=fleet(), headers={"NGSILD-Tenant": "fuzhou"})
    assert answer.status_code in (403, 404)
    assert stored(ground) == []


async def test_a_killed_process_takes_no_batch_with_it(api: httpx.AsyncClient, ground: House, reader: BatchReader) -> None:
    for _ in range(3):
        pid = await started(reader)
        batches = [asyncio.create_task(api.post("/entityOperations/upsert", json=fleet())) for _ in range(4)]
        await asyncio.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        assert {(await batch).status_code for batch in batches} <= {201, 204}
        assert (await api.post("/entityOperations/upsert", json=fleet())).status_code == 204
        reader._wanted.set()
        await started(reader, besides=pid)
    assert len(stored(ground)) == MANY


async def test_it_ends_when_idle_and_starts_again(
    api: httpx.AsyncClient, service: ContextService, ground: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_reader, "IDLE", 0.2)
    task = asyncio.create_task(service.reader.run(ground))
    for status in (201, 204):
        assert (await api.post("/entityOperations/upsert", json=fleet())).status_code == status
        pid = await started(service.reader)
        await until(lambda pid=pid: not Path(f"/proc/{pid}").exists())
        assert service.reader._process is None
    task.cancel()


def test_the_process_ends_with_its_source() -> None:
    sink = io.BytesIO()
    serve(io.BytesIO(b""), sink)
    assert sink.getvalue() == b""


def test_only_whole_entities_of_plain_json() -> None:
    now = time.time_ns() // 1000
    found = rows(json.dumps(fleet()).encode(), CORE, CORE, "xiamen", now)
    assert found is not None
    assert [row[0] for row, _ in found] == [vehicle(n)["id"] for n in range(MANY)]
    for body in (b"{}", b"1", b'[{"@context": [], "id": "urn:x:1", "type": "T"}]', b"[1]"):
        assert rows(body, CORE, CORE, "xiamen", now) is None
