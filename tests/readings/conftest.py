"""The same store behind two drivers: chDB in this process, and chDB behind ClickHouse's HTTP interface."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tulou.kernel.readings import Readings, open_readings
from tulou.kernel.readings.clickhouse import ClickHouseReadings
from tulou.kernel.readings.schema import TABLES


@pytest.fixture(scope="session", params=["chdb", "http"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseReadings]:
    """An open store, for the whole session."""
    folder = tmp_path_factory.mktemp("readings")
    server = None
    if request.param == "http":
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.readings.clickhouse_http", str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], text=True,
        )
        assert server.stdout is not None
        dsn = f"http://default:@127.0.0.1:{int(server.stdout.readline())}/default"
    else:
        dsn = f"chdb:///{folder}"
    readings = open_readings(dsn)
    assert isinstance(readings, ClickHouseReadings)
    yield readings
    asyncio.run(readings.close())
    if server is not None:
        server.communicate(timeout=20)


@pytest.fixture
async def readings(engine: ClickHouseReadings) -> Readings:
    """The store with empty tables."""
    def drop(client: Any) -> None:
        for table in TABLES:
            client.command(f"DROP VIEW IF EXISTS {table.name}_view SYNC")
        for table in TABLES:
            client.command(f"DROP TABLE IF EXISTS {table.name} SYNC")

    await engine._write(drop)
    await engine.ensure_schema({})
    return engine
