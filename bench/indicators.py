"""Indicators over a year of 10,000 stations, asked over the house's HTTP routes; beside PostgreSQL with a table of days.

Readings are SYNTHETIC, made inside the engine as hours and marked so (origin 3): one property goes the way of the house (hours, and by
their views days and areas); its neighbours, which indicators must not read, are made as days and areas alone. What the house does with a
month that rests for a day, one part, is done at once for all but the last month. Run `python bench/indicators.py [--stations N]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import httpx
import psycopg

from tulou.access import Directory
from tulou.access import directory as directory_module
from tulou.access.directory import Thing
from tulou.app import Front, collect_rarely
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.readings import start_of
from tulou.kernel.readings.clickhouse import ClickHouseReadings
from tulou.kernel.readings.schema import AREAS, DAYS
from tulou.kernel.settings import Settings

YEAR = 2025
FIRST, END = dt.date(YEAR, 1, 1), dt.date(YEAR + 1, 1, 1)
CITIES = ("fuzhou", "xiamen", "putian", "sanming", "quanzhou", "zhangzhou", "nanping", "longyan", "ningde")
NEIGHBOURS = ("pm10", "so2", "no2", "co", "o3")
GOAL = 200
YEARLY = {"from": str(FIRST), "to": str(END), "synthetic": 1}
QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "province mean by day": ("pm25_mean", {"grain": "day"}),
    "cities by month": ("pm25_mean", {"grain": "month", "group": "city"}),
    "ranking of all stations": ("pm25_mean", {"group": "thing"}),
    "capture rate, cities by month": ("pm25_capture", {"grain": "month", "group": "city"}),
    "share of station-days, by month": ("pm25_days_within", {"grain": "month"}),
}
PEER = {
    "province mean by day": "SELECT day, sum(sum) / sum(count) FROM d GROUP BY day ORDER BY day",
    "cities by month": "SELECT org, date_trunc('month', day) AS m, sum(sum) / sum(count) FROM d GROUP BY org, m",
    "ranking of all stations": "SELECT entity, sum(sum) / sum(count) AS v FROM d GROUP BY entity ORDER BY v LIMIT 100",
    "capture rate, cities by month": "SELECT org, date_trunc('month', day) AS m, sum(bit_count(hours::bit(24))) FROM d GROUP BY org, m",
    "share of station-days, by month": "SELECT date_trunc('month', day) AS m, avg((sum / count < 75)::int) FROM d GROUP BY m",
}


async def load(house: House, stations: int) -> float:
    """The stations in the directory, their year in the store. Returns seconds."""
    readings, directory = house.readings, house.service(Directory)
    assert isinstance(readings, ClickHouseReadings)
    await directory.add([Thing(
        n + 1, f"urn:ngsi-ld:AirQualityStation:s{n}", CITIES[n % 9], "AirQualityStation", f"合成空气站 {n:05}", True,
        118 + n % 100 / 100, 25 + n % 97 / 97, True,
    ) for n in range(stations)])
    began = time.perf_counter()

    async def run(sql: str) -> None:
        await readings._write(lambda client: client.command(sql, settings={
            "max_insert_threads": 2, "min_insert_block_size_rows": 4_000_000, "max_partitions_per_insert_block": 0}))

    org = "[" + ", ".join(f"'{city}'" for city in CITIES) + "][e % 9 + 1]"
    for month in range(1, 13):
        first = dt.date(YEAR, month, 1)
        end = dt.date(YEAR + month // 12, month % 12 + 1, 1)
        hours = (end - first).days * 24
        await run(f"""
            INSERT INTO readings_hour (entity, property, hour, org, type, origin, count, sum, min, max)
            SELECT e + 1, 'pm25', toDateTime({start_of(first) // 1_000_000} + h * 3600, 'UTC'), {org}, 'AirQualityStation', 3, 12,
                12 * v, v - 3, v + 3
            FROM (SELECT intDiv(number, {hours}) AS e, number % {hours} AS h,
                    round(35 + 20 * sin(e) + 12 * sin(h / 24 + {month}) + cityHash64(number) % 1000 / 50, 1) AS v
                FROM numbers({hours * stations})) WHERE cityHash64(e, h, {month}) % 50 != 0""")
        print(f"  {first:%Y-%m}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    names = ", ".join(f"'{name}'" for name in NEIGHBOURS)
    for table in (DAYS, AREAS):
        columns = ", ".join(column.name for column in table.columns)
        await run(f"INSERT INTO {table.name} ({columns}) SELECT {columns.replace('property', 'p')} FROM (SELECT * FROM {table.name} "
                  f"WHERE property = 'pm25') ARRAY JOIN [{names}] AS p")
    for month in range(1, 12):
        await run(f"OPTIMIZE TABLE {DAYS.name} PARTITION {YEAR}{month:02} FINAL")
    return time.perf_counter() - began


async def measure(name: str, call: Callable[[], Awaitable[Any]], runs: int) -> dict[str, Any]:
    """p50 and p95 in ms over `runs` calls after three to warm up."""
    times = []
    for n in range(runs + 3):
        began = time.perf_counter()
        await call()
        if n >= 3:
            times.append((time.perf_counter() - began) * 1000)
    cuts = statistics.quantiles(times, n=20)
    return {"question": name, "p50_ms": round(cuts[9], 1), "p95_ms": round(cuts[18], 1)}


async def ask(house: House, stations: int, runs: int) -> list[dict[str, Any]]:
    """The questions, with policy, JSON and HTTP in one process."""
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=Front(house)), base_url="http://house/api/v1", timeout=60,
                               headers={"authorization": f"Bearer {house.local_token}"})
    answers = []

    async def one(id: str, params: dict[str, Any]) -> None:
        answer = (await client.get(f"/indicators/environment/{id}", params={**YEARLY, **params})).raise_for_status().json()
        assert answer["provenance"]["known"] == answer["provenance"]["reporting"] == stations
        assert answer["ranking"] or answer["series"]

    for name, (id, params) in QUESTIONS.items():
        answers.append(await measure(name, lambda id=id, params=params: one(id, params), runs))  # type: ignore[misc]

    async def layer() -> None:
        shown = (await client.get("/layers/environment/pm25", params=YEARLY)).raise_for_status().json()
        assert len(shown["no"]) == stations

    answers.append(await measure("layer of the map", layer, runs))
    await client.aclose()
    return answers


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL of its own; empty where none is installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        yield ""
        return
    folder = Path(tempfile.mkdtemp(prefix="tulou-bench-postgres-"))
    shutil.chown(folder, "postgres")
    port = free_port()
    quiet: dict[str, Any] = {"user": "postgres", "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([programs[-1] / "initdb", "-D", folder / "data", "-U", "bench", "--auth=trust"], check=True, **quiet)
    server = subprocess.Popen([
        programs[-1] / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-c", "shared_buffers=1GB", "-c", "work_mem=256MB",
    ], **quiet)
    try:
        time.sleep(3)
        yield f"postgresql://bench@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


async def peer(house: House, runs: int) -> dict[str, dict[str, Any]]:
    """The same from PostgreSQL with a table of the days of this property alone, in order and indexed; no policy, no HTTP."""
    found: dict[str, dict[str, Any]] = {}
    with postgresql() as address:
        if not address:
            return found
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("CREATE TABLE d (entity bigint, day date, org text, count bigint, sum float8, min float8, max float8, hours int)")
            rows = await house.readings.sql(
                f"SELECT entity, day, org, count, sum, min, max, hours FROM {DAYS.name} FINAL WHERE property = 'pm25' ORDER BY entity, day",
                seconds=300, max_rows=1 << 40)
            with connection.cursor().copy("COPY d FROM STDIN") as copy:
                for row in rows.rows:
                    copy.write_row(row)
            connection.execute("CREATE INDEX ON d (day)")
            connection.execute("VACUUM ANALYZE d")
            for name, sql in PEER.items():
                async def one(sql: str = sql) -> None:
                    connection.execute(sql).fetchall()

                found[name] = await measure(name, one, runs)
    return found


async def main() -> None:
    """Load, ask, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stations", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    directory_module.CHECK_EVERY = 10**9  # it would find that SQL has none of them
    with tempfile.TemporaryDirectory(prefix="tulou-bench-") as name:
        house = House(Settings(home=Path(name) / "home", http_port=free_port(), mqtt_port=0))
        await house.start(("api",))
        try:
            seconds = await load(house, options.stations)
            collect_rarely()
            answers = await ask(house, options.stations, options.runs)
            usage = await house.readings.disk_usage()
            beside = await peer(house, options.runs)
        finally:
            await house.stop()
    tables = {table: {key: usage[table][key] for key in ("rows", "bytes", "parts")} for table in ("readings_hour", DAYS.name, AREAS.name)}
    if options.json:
        print(json.dumps({"stations": options.stations, "load_s": seconds, "questions": answers, "postgresql": beside, "tables": tables}, indent=1))
        return
    print(f"{options.stations:,} synthetic stations, a year of hours ({tables['readings_hour']['rows']:,} rows) and {len(NEIGHBOURS)} neighbouring "
          f"properties as days; made in {seconds:.0f} s; {DAYS.name} {tables[DAYS.name]['rows']:,} rows, {tables[DAYS.name]['bytes'] / 1e6:.0f} MB")
    for answer in answers:
        other = beside.get(answer["question"])
        print(f"  {answer['question']:<34} p50 {answer['p50_ms']:>7} ms   p95 {answer['p95_ms']:>7} ms   goal {GOAL} ms"
              + (f"   PostgreSQL, days alone: p50 {other['p50_ms']} p95 {other['p95_ms']} ms" if other else ""))


if __name__ == "__main__":
    asyncio.run(main())
