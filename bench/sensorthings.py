"""SensorThings over many readings, through the house's own HTTP routes in one process.

    PYTHONPATH=src python bench/sensorthings.py [--rows 5000000] [--repeat 50]

Readings are SYNTHETIC, made inside the engine and marked so (origin 3): a fifth of them in one Datastream, a reading
each 30 seconds, the others in 4,000 Datastreams. Prints one JSON object: milliseconds, median and worst of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import sqlalchemy as sa
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from tulou.access import Directory
from tulou.app import Front
from tulou.context import entities
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.readings.clickhouse import ClickHouseReadings
from tulou.kernel.settings import Settings

THINGS, KIND, PROPERTIES = 2_000, "AirQualityStation", ("pm25", "o3")
END = 1_795_737_600
"""2026-11-27T00:00:00Z in s: after the last reading."""


async def fill(house: House, rows: int) -> float:
    """Things in SQL, readings in the engine, roll-ups and latest values made from them. Returns seconds."""
    now = time.time_ns() // 1000
    things = [
        {
            "no": no, "id": f"urn:ngsi-ld:{KIND}:bench-{no}", "org": "fuzhou", "type": KIND, "name": f"合成·站 {no:04}",
            "doc": {"id": f"urn:ngsi-ld:{KIND}:bench-{no}", "type": KIND}, "synthetic": True, "lon": 119 + no / 4000,
            "lat": 26.0, "created_at": now, "modified_at": now, "version": 1,
        }
        for no in range(1, THINGS + 1)
    ]

    def write(connection: sa.Connection) -> None:
        connection.execute(entities.insert(), things)

    await house.db.write(write)
    await house.service(Directory).reload()
    readings = house.readings
    assert isinstance(readings, ClickHouseReadings)
    columns = "org, type, entity, property, ts, value, quality, origin, seq, frame"
    one, rest = rows // 5, rows - rows // 5
    streams = THINGS * len(PROPERTIES)
    names = ", ".join(f"'{name}'" for name in PROPERTIES)
    began = time.perf_counter()
    for sql in (
        f"""SELECT 'fuzhou', '{KIND}', 1, 'pm10', fromUnixTimestamp64Micro(toInt64({END} - 30 * (number + 1)) * 1000000, 'UTC'),
            round(50 + 40 * sin(number / 500), 1), 0, 3, number, 0 FROM numbers({one})""",
        f"""SELECT 'fuzhou', '{KIND}', intDiv(s, {len(PROPERTIES)}) + 1, [{names}][s % {len(PROPERTIES)} + 1],
            fromUnixTimestamp64Micro(toInt64({END} - 300 * (step + 1)) * 1000000 + s, 'UTC'), number % 100, 0, 3, number, 1
            FROM (SELECT number, number % {streams} AS s, intDiv(number, {streams}) AS step FROM numbers({rest}))""",
    ):
        await readings._write(lambda client, sql=sql: client.command(
            f"INSERT INTO readings ({columns}) {sql}", settings={"min_insert_block_size_rows": 1_000_000}))
    await readings.rebuild()
    await readings.ensure_schema({})  # what was made inside the engine did not pass through the mirror
    return time.perf_counter() - began


async def main(rows: int, repeat: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        house = House(Settings(home=Path(folder) / "home", http_port=free_port(), mqtt_port=0))
        await house.start(("api",))
        try:
            load = await fill(house, rows)
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(app=Front(house)), base_url="http://house/sta/v1.1/", timeout=60,
                headers={"authorization": f"Bearer {house.local_token}"},
            )
            stream = "Datastreams('1:pm10')"
            day = quote("phenomenonTime ge 2026-11-26T00:00:00Z and phenomenonTime lt 2026-11-27T00:00:00Z")
            dirty = quote("result gt 89.5 and phenomenonTime ge 2026-11-01T00:00:00Z")
            pm25 = quote("ObservedProperty/name eq 'pm25'")
            asks = {
                "latest Observation of 100 Datastreams ($expand)":
                    f"Datastreams?$top=100&$filter={pm25}&$expand=Observations($top=1;$orderby=phenomenonTime desc)",
                "one day of a Datastream, newest 1,000 of 2,880": f"{stream}/Observations?$top=1000&$filter={day}",
                "the same as dataArray": f"{stream}/Observations?$top=1000&$filter={day}&$resultFormat=dataArray",
                f"$count of a Datastream ({rows // 5:,})": f"{stream}/Observations?$count=true&$top=0",
                "$count of its last day": f"{stream}/Observations?$count=true&$top=0&$filter={day}",
                "newest Observation of a Datastream": f"{stream}/Observations?$top=1",
                "newest 100 whose result is over 89.5, of November": f"{stream}/Observations?$top=100&$filter={dirty}",
                "100 Things with their Datastreams": "Things?$top=100&$expand=Datastreams",
                "$count of Datastreams": "Datastreams?$count=true&$top=0",
                "a Thing by its name": "Things?$filter=" + quote("name eq '合成·站 1500'"),
                "Things within 0.01 degrees": "Things?$filter=" + quote(
                    "geo.distance(Locations/location, geography'POINT(119.25 26)') lt 0.01"),
            }
            out: dict[str, Any] = {
                "rows": rows, "load_s": round(load, 1), "python": platform.python_version(),
                "cpus": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "ms": {},
            }
            for name, path in asks.items():
                times = []
                for at in range(repeat + 3):
                    began = time.perf_counter()
                    answer = await client.get(path)
                    times.append((time.perf_counter() - began) * 1000)
                    assert answer.status_code == 200, answer.text
                    if at == 0:
                        body = answer.json()
                        found = body.get("@iot.count", len(body["value"]))
                out["ms"][name] = {
                    "median": round(statistics.median(times[3:]), 2), "worst": round(max(times[3:]), 2), "found": found,
                    "bytes": len(answer.content),
                }
            await client.aclose()
        finally:
            await house.stop()
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--repeat", type=int, default=50)
    options = parser.parse_args()
    print(json.dumps(uvloop.run(main(options.rows, options.repeat)), indent=1, ensure_ascii=False))
