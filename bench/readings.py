"""The readings store at size: latest values, an entity's last day, and a province's hourly averages.

Readings are SYNTHETIC, made inside the engine and marked so (origin 3). Run `python bench/readings.py [--rows N]`;
the store is in a temporary folder and removed afterwards. Latencies are those of the `Readings` interface, in one
process, Python objects included, with garbage collected as the house does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import httpx

from tulou.access import Directory
from tulou.access import directory as directory_module
from tulou.access.directory import Thing
from tulou.app import Front, collect_rarely
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.http import cursor
from tulou.kernel.readings import open_readings
from tulou.kernel.readings.clickhouse import ClickHouseReadings
from tulou.kernel.settings import Settings

ENTITIES, PROPERTIES, STEP = 20_000, ("pm25", "pm10", "no2", "o3", "so2"), 300
CHUNK = 10_000_000
START = 1_788_220_800
"""2026-09-01T00:00:00Z in s; a reading of each property every five minutes."""
GOALS = {"latest of 1,000 things": 10, "one thing's last day": 10, "a province's hours": 100, "latest of one device": 50}


async def load(readings: ClickHouseReadings, rows: int) -> float:
    """Store synthetic readings in the order of time, as devices would send them. Returns seconds."""
    names = ", ".join(f"'{name}'" for name in PROPERTIES)
    per_step = ENTITIES * len(PROPERTIES)
    began = time.perf_counter()
    for first in range(0, rows, CHUNK):
        count = min(CHUNK, rows - first)
        sql = f"""
            INSERT INTO readings (org, type, entity, property, ts, value, quality, origin, seq, frame)
            SELECT concat('county', toString(e % 100)), concat('Type', toString(e % 14)), e + 1, [{names}][p + 1],
                fromUnixTimestamp64Micro(toInt64({START} + step * {STEP}) * 1000000 + e, 'UTC'),
                round(20 + 10 * sin(step / 50 + e) + (number * 7919 % 100) / 50, 2), 0, 3, step, e
            FROM (SELECT number, intDiv(number, {per_step}) AS step, number % {ENTITIES} AS e,
                intDiv(number, {ENTITIES}) % {len(PROPERTIES)} AS p FROM numbers({first}, {count}))"""
        await readings._write(lambda client, sql=sql: client.command(
            sql, settings={"max_insert_threads": 2, "min_insert_block_size_rows": 1_000_000}))
        print(f"  {first + count:,} rows, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return time.perf_counter() - began


async def settle(readings: ClickHouseReadings, seconds: float = 120) -> None:
    """Wait until background merges rest."""
    quiet, deadline = 0, time.monotonic() + seconds
    while quiet < 3 and time.monotonic() < deadline:
        quiet = quiet + 1 if (await readings.health())["merges"] == 0 else 0
        await asyncio.sleep(1)


async def measure(name: str, call: Callable[[], Awaitable[Any]], runs: int) -> dict[str, Any]:
    """p50 and p99 in ms over `runs` calls after ten to warm up."""
    for _ in range(10):
        await call()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        await call()
        times.append((time.perf_counter() - began) * 1000)
    cuts = statistics.quantiles(times, n=100)
    return {"query": name, "p50_ms": round(cuts[49], 2), "p99_ms": round(cuts[98], 2), "goal_ms": GOALS.get(name)}


async def queries(readings: ClickHouseReadings, rows: int, runs: int) -> list[dict[str, Any]]:
    """The three questions of the specification and a few beside them."""
    steps = rows // (ENTITIES * len(PROPERTIES))
    end = (START + steps * STEP) * 1_000_000
    day = 86_400_000_000
    pick = random.Random(1)

    async def latest() -> None:
        found = await readings.latest(pick.sample(range(1, ENTITIES + 1), 1000), orgs=None)
        assert len(found) == 1000
        assert all(len(found[no]) == len(PROPERTIES) for no in found)

    async def last_day() -> None:
        series = await readings.series(pick.randint(1, ENTITIES), "pm25", end - day, end, 500, orgs=None)
        assert series.resolution == "raw"
        assert series.count >= min(280, steps)

    async def hours() -> None:
        areas = await readings.area_hour(None, "Type3", "pm25", end - 3 * day, end)
        assert len(areas) >= min(72, steps // 12)

    async def week() -> None:
        series = await readings.series(pick.randint(1, ENTITIES), "no2", end - 30 * day, end, 500, orgs=None)
        assert series.resolution == "hour"
        assert series.points

    async def history() -> None:
        found = await readings.history([pick.randint(1, ENTITIES)], None, end - day, end, orgs=None)
        assert found

    return [
        await measure("latest of 1,000 things", latest, runs),
        await measure("one thing's last day", last_day, runs),
        await measure("a province's hours", hours, runs),
        await measure("one thing's last 30 days (hours)", week, runs),
        await measure("one thing's last day, all properties, every reading", history, runs),
    ]


async def of_devices(count: int, runs: int) -> dict[str, Any]:
    """Latest values of so many SYNTHETIC devices, made inside the engine, and of as many things in the directory, made in memory:
    nothing of them is in SQL. Beside the `Readings` interface, pages of the list are asked as the console asks for them."""
    directory_module.CHECK_EVERY = 10**9  # it would find that SQL has none of them
    with tempfile.TemporaryDirectory(prefix="tulou-bench-") as name:
        house = House(Settings(home=Path(name) / "home", http_port=free_port(), mqtt_port=0))
        await house.start(("api",))
        try:
            readings, directory = house.readings, house.service(Directory)
            assert isinstance(readings, ClickHouseReadings)
            began = time.perf_counter()
            for first in range(0, count, CHUNK // 10):
                chunk = range(first, min(first + CHUNK // 10, count))
                await readings._write(lambda client, chunk=chunk: client.command(f"""
                    INSERT INTO latest (entity, property, org, type, ts, value, text, quality, origin)
                    SELECT number + 1, p, concat('county', toString(number % 100)), 'StreetLight',
                        fromUnixTimestamp64Micro(toInt64({START}) * 1000000 + cityHash64(number) % 86400000000, 'UTC'),
                        cityHash64(number, p) % 10000 / 100, '', 0, 3
                    FROM numbers({chunk.start}, {len(chunk)}) ARRAY JOIN ['powerConsumption', 'voltage'] AS p"""))
                await directory.add([Thing(
                    n + 1, f"urn:ngsi-ld:StreetLight:light-{n}", f"county{n % 100}", "StreetLight", f"合成路灯 {n:08}", True,
                    118 + n % 1000 / 1000, 25 + n % 997 / 1000, True,
                ) for n in chunk])
            directory.heard(directory.no, time.time_ns() // 1000)
            directory.stored[:] = directory.seen
            load = time.perf_counter() - began
            await settle(readings)
            await readings.ensure_schema({})
            collect_rarely()
            pick = random.Random(1)
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app=Front(house)), base_url="http://house/api/v1",
                                       timeout=60, headers={"authorization": f"Bearer {house.local_token}"})

            async def latest(of: int) -> None:
                found = await readings.latest(pick.sample(range(1, count + 1), of), orgs=None)
                assert len(found) == of

            async def page(**params: Any) -> None:
                found = (await client.get("/things", params={"limit": 100, **params})).raise_for_status().json()
                assert len(found["items"]) == params.get("limit", 100)
                assert all(len(item["latest"]) == 2 for item in found["items"])

            answers = [
                await measure("latest of one device", lambda: latest(1), runs),
                await measure("latest of 1,000 devices", lambda: latest(1000), runs),
                await measure("a page of 100 things", page, runs),
                await measure("a page somewhere", lambda: page(after=cursor([pick.randint(1, count // 2)])), runs),
                await measure("a page of one organisation", lambda: page(org=f"county{pick.randint(0, 99)}"), runs),
                await measure("a page of a type and state", lambda: page(type="StreetLight", state="ok"), runs),
                await measure("how many there are, and one", lambda: page(limit=1, count=1), max(runs // 10, 10)),
            ]
            usage = await readings.disk_usage()
            await client.aclose()
        finally:
            await house.stop()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"devices": count, "load_s": round(load, 1), "bytes": usage["latest"]["bytes"], "peak_gib": round(peak, 1), "queries": answers}


async def main() -> None:
    """Load, let merges rest, ask, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="use this folder and leave it; a full one is not loaded again")
    parser.add_argument("--devices", type=int, help="the latest values of so many devices instead, and lists of them")
    options = parser.parse_args()
    if options.devices:
        report = await of_devices(options.devices, options.runs)
        print(f"{report['devices']:,} synthetic devices of two values; made in {report['load_s']} s; "
              f"{report['bytes'] / 1e9:.2f} GB of latest values, {report['peak_gib']} GiB at most in memory")
        show(report["queries"])
        return
    folder = options.keep or Path(tempfile.mkdtemp(prefix="tulou-bench-"))
    readings = open_readings(f"chdb:///{folder.absolute()}/readings")
    assert isinstance(readings, ClickHouseReadings)
    try:
        await readings.ensure_schema({})
        seconds = None
        if await readings.count(orgs=None) == 0:
            seconds = await load(readings, options.rows)
            await readings.rebuild()
            await settle(readings)
            await readings.ensure_schema({})  # what was made inside the engine did not pass through the mirror
        collect_rarely()
        answers = await queries(readings, options.rows, options.runs)
        usage = await readings.disk_usage()
    finally:
        await readings.close()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    size = sum(table["bytes"] for name, table in usage.items() if name != "free")
    report = {
        "rows": usage["readings"]["rows"], "load_s": seconds and round(seconds, 1), "bytes": size,
        "bytes_per_reading": round(usage["readings"]["bytes"] / usage["readings"]["rows"], 2), "queries": answers,
        "tables": usage,
    }
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{report['rows']:,} synthetic readings of {ENTITIES:,} things; loaded in {report['load_s']} s; "
          f"{size / 1e9:.2f} GB with roll-ups, {report['bytes_per_reading']} bytes a reading alone")
    show(answers)


def show(answers: list[dict[str, Any]]) -> None:
    """A line for each question."""
    for answer in answers:
        goal = f"goal {answer['goal_ms']} ms" if answer["goal_ms"] else ""
        print(f"  {answer['query']:<55} p50 {answer['p50_ms']:>7} ms   p99 {answer['p99_ms']:>7} ms   {goal}")


if __name__ == "__main__":
    asyncio.run(main())
