"""The embedded engine on a disk that refuses to write: it goes on as if nothing had been, the house does not."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver._backend.chdb_backend import ChdbBackend
from clickhouse_connect.driver.client import Client

from tests.readings.test_readings import T0, columns, put
from tulou.kernel.errors import Unavailable
from tulou.kernel.readings import Readings, clickhouse, open_readings


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Readings]:
    store = open_readings(f"chdb:///{tmp_path / 'readings'}")
    await store.ensure_schema({})
    yield store
    await store.close()


@contextlib.contextmanager
def refusing(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def some(first: int, count: int) -> list[tuple[int, str, int, float]]:
    return [(n % 7, "pm25", T0 + n * 60_000_000, n / 3) for n in range(first, first + count)]


async def whole(store: Readings, count: int) -> None:
    """Every reading can be read, and the roll-ups count them."""
    told = await store.sql("""
        SELECT (SELECT count() FROM readings WHERE value >= 0 AND ts > 0 AND seq > 0),
            (SELECT count() FROM frames WHERE length(raw) > 0), (SELECT sum(count) FROM readings_hour),
            (SELECT sum(count) FROM readings_day), (SELECT sum(count) FROM area_hour)""")
    assert told.rows == [(count,) * 5]
    aside = await store.sql("SELECT name FROM system.detached_parts")
    assert aside.rows == [], "what was not whole takes no room"


@pytest.mark.parametrize("size", [0, 100, 3000])
async def test_an_insert_that_the_disk_refuses_is_said_to_be_refused(
    embedded: Readings, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = ChdbBackend._query_locked

    def limited(backend: ChdbBackend, sql: Any, *rest: Any) -> Any:
        """The driver hands rows over in a file of its own; only the engine meets the limit."""
        with refusing(size) if sql.startswith("INSERT INTO") else contextlib.nullcontext():
            return query(backend, sql, *rest)

    await put(embedded, some(0, 500), "a")
    rows, frames = columns(some(500, 2000))
    monkeypatch.setattr(ChdbBackend, "_query_locked", limited)
    with pytest.raises(Unavailable):
        await embedded.insert(rows, frames, "b")
    monkeypatch.undo()
    await embedded.recover(rows, rows, frames, "b")
    await whole(embedded, 2500)
    await put(embedded, some(2500, 10), "c")
    await whole(embedded, 2510)


async def test_a_full_folder_of_temporary_files_is_told(embedded: Readings) -> None:
    with refusing(100), pytest.raises(Unavailable):
        await put(embedded, some(0, 500), "a")
    await put(embedded, some(0, 500), "a")
    await whole(embedded, 500)


@pytest.mark.parametrize("size", [0, 100, 3000])
async def test_a_merge_that_the_disk_refuses_loses_nothing(
    embedded: Readings, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clickhouse, "WATCH_S", 0.1)
    for n in range(5):
        await put(embedded, some(n * 500, 500), f"t{n}")

    def merge(client: Client) -> None:
        for table in ("readings", "frames", "readings_hour", "readings_day", "area_hour", "latest"):
            client.command(f"OPTIMIZE TABLE {table} FINAL")

    with refusing(size):
        await embedded._read(merge)  # type: ignore[attr-defined]
    opened = embedded._writer  # type: ignore[attr-defined]
    async with asyncio.timeout(20):
        while embedded._writer is opened:  # type: ignore[attr-defined]  # noqa: ASYNC110 - the watch tells nobody
            await asyncio.sleep(0.05)
    await whole(embedded, 2500)
    await put(embedded, some(2500, 10), "more")
    await whole(embedded, 2510)


async def test_little_room_is_not_used(embedded: Readings, monkeypatch: pytest.MonkeyPatch) -> None:
    await put(embedded, some(0, 10), "a")
    monkeypatch.setattr(clickhouse, "ROOM", 1 << 60)
    with pytest.raises(Unavailable, match="nearly full"):
        await put(embedded, some(10, 10), "b")
    monkeypatch.undo()
    await put(embedded, some(10, 10), "b")
    await whole(embedded, 20)


async def test_a_store_of_other_settings_gets_those_of_today(embedded: Readings) -> None:
    def old(client: Client) -> None:
        client.command("ALTER TABLE frames MODIFY SETTING old_parts_lifetime = 7")

    asked = "SELECT count() FROM system.tables WHERE engine_full LIKE '%old_parts_lifetime = 120%'"
    await embedded._write(old)  # type: ignore[attr-defined]
    before = (await embedded.sql(asked)).rows[0][0]
    await embedded.ensure_schema({})
    assert (before, (await embedded.sql(asked)).rows[0][0]) == (5, 6)
