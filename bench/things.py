"""Search, map, overview and live batch over many entities, through the house's own HTTP routes in one process.

    PYTHONPATH=src python bench/things.py [--entities 100000] [--repeat 15]

Synthetic entities over Fujian, each with a device and one latest reading. Bulk creation is measured on the first
5,000; the others go into SQL directly. Prints one JSON object: milliseconds, median and worst of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import sqlalchemy as sa
import uvloop

from tulou.access import Bulk, Devices, Directory, Hub
from tulou.access.directory import COLUMNS
from tulou.access.models import devices
from tulou.app import Front
from tulou.context import entities
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.policy import Orgs, system
from tulou.kernel.readings import Frames, Rows
from tulou.kernel.settings import Settings
from tulou.kernel.sql import utcnow

CITIES = ("fuzhou", "xiamen", "quanzhou", "zhangzhou", "putian", "sanming", "nanping", "longyan", "ningde")
TYPES = ("AirQualityStation", "Manhole", "StreetLight", "SmartMeter", "NoiseStation")
BULK = 5000


def items(count: int) -> list[dict[str, Any]]:
    dice = random.Random(1)
    return [
        {
            "org": dice.choice(CITIES), "type": dice.choice(TYPES), "name": f"合成·设备 {n:06}", "id": f"bench-{n}",
            "lon": dice.uniform(116, 120), "lat": dice.uniform(24, 28), "synthetic": True,
        }
        for n in range(count)
    ]


async def fill(house: House, wanted: list[dict[str, Any]]) -> dict[str, float]:
    began = time.perf_counter()
    lines = await house.service(Devices).create_many(system("bench"), Bulk(items=wanted[:BULK]))
    assert not any("error" in line for line in lines)
    bulk = len(lines) / (time.perf_counter() - began)
    now = time.time_ns() // 1000
    rows = [
        {
            "id": f"urn:ngsi-ld:{d['type']}:{d['id']}", "org": d["org"], "type": d["type"], "name": d["name"],
            "doc": {"id": f"urn:ngsi-ld:{d['type']}:{d['id']}", "type": d["type"]}, "synthetic": True,
            "lon": d["lon"], "lat": d["lat"], "created_at": now, "modified_at": now, "version": 1, "no": BULK + n + 1,
        }
        for n, d in enumerate(wanted[BULK:])
    ]
    owners = [
        {
            "entity_no": r["no"], "id": f"{r['org']}:{r['no']}", "org": r["org"], "entity_id": r["id"],
            "type": r["type"], "name": r["name"], "origin": 3, "token_hash": str(r["no"]), "token_prefix": "x",
            "status": "active", "created_at": utcnow(), "created_by": "bench", "seen_at": now,
        }
        for r in rows
    ]

    def write(connection: sa.Connection) -> None:
        connection.execute(entities.insert(), rows)
        connection.execute(devices.insert(), owners)

    await house.db.write(write)
    count = len(wanted)
    no = np.arange(1, count + 1, dtype=np.uint64)
    none = np.zeros(count, np.int32)
    readings = Rows(
        no, none, np.full(count, now), np.random.default_rng(1).random(count) * 100, np.zeros(count, np.uint8), none,
        no, np.zeros(count, np.uint32), ["batteryLevel"], [("fuzhou", "Manhole", 3)],
    )
    empty = np.zeros(0, np.int64)
    frames = Frames(
        empty.astype(np.uint64), empty, empty.astype(np.int32), empty.astype(np.int32), empty.astype(np.uint8),
        empty.astype(np.uint64), empty.astype(np.uint32), pa.array([], pa.large_binary()), [("x", "x", 3)], ["x"],
    )
    await house.readings.insert(readings, frames, "bench")
    began = time.perf_counter()
    await house.service(Directory).reload()
    return {"bulk_create_per_s": round(bulk), "directory_reload_ms": round((time.perf_counter() - began) * 1000, 1)}


async def timed(repeat: int, call: Any) -> dict[str, float]:
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        await call()
        times.append((time.perf_counter() - began) * 1000)
    return {"median": round(statistics.median(times), 2), "worst": round(max(times), 2)}


async def main(count: int, repeat: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        house = House(Settings(home=Path(folder) / "home", http_port=free_port(), mqtt_port=0))
        await house.start(("api",))
        out: dict[str, Any] = {
            "entities": count, "python": platform.python_version(), "cpus": len(os.sched_getaffinity(0))
        }
        try:
            out.update(await fill(house, items(count)))
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(app=Front(house)), base_url="http://house/api/v1", timeout=60,
                headers={"authorization": f"Bearer {house.local_token}", "accept-encoding": "gzip"},
            )
            directory = house.service(Directory)

            async def get(path: str, **headers: str) -> httpx.Response:
                request = client.build_request("GET", path, headers=headers)
                answer = await client.send(request, stream=True)  # a browser's decoding is not the house's time
                out.setdefault("bytes", {})[path] = sum([len(part) async for part in answer.aiter_raw()])
                assert answer.status_code in (200, 304), answer.status_code
                return answer

            async def cold() -> None:
                directory.version += 1
                await get("/map")

            async def state_changed() -> None:
                directory.heard(np.array([random.randint(1, count)], np.int64), time.time_ns() // 1000)
                directory.alarms[random.randrange(count)] ^= 1
                await get("/map")

            etag = (await get("/map")).headers["etag"]
            rare, common = f"{count - 7:06}", "设备"
            out["ms"] = {
                "map, rows changed": await timed(repeat, cold),
                "map, states changed": await timed(repeat, state_changed),
                "map, not modified": await timed(repeat, lambda: get("/map", **{"if-none-match": etag})),
                "things, first page": await timed(repeat, lambda: get("/things")),
                "things, first page with count": await timed(repeat, lambda: get("/things?count=1")),
                "things, rare part of a name": await timed(repeat, lambda: get(f"/things?q={rare}&count=1")),
                "things, common part of a name": await timed(repeat, lambda: get(f"/things?q={common}&count=1")),
                "things, no match": await timed(repeat, lambda: get("/things?q=absent")),
                "things, one type offline": await timed(repeat, lambda: get("/things?type=Manhole&state=offline&count=1")),
                "thing": await timed(repeat, lambda: get("/things/77")),
                "overview": await timed(repeat, lambda: get("/overview")),
            }
            hub = house.service(Hub)
            taken = {(no, "batteryLevel"): (no, "batteryLevel", 1, 1.0) for no in range(1, count + 1)}

            async def batch() -> None:
                made = hub._batch(taken, Orgs(False, frozenset({"fuzhou"})))
                assert made is not None
                assert made.event

            out["ms"]["live, a value of every entity in one second"] = await timed(repeat, batch)
            texts = [*directory.ids, *directory.names, *directory.keys]
            columns = sum(getattr(directory, name).nbytes for name, *_ in COLUMNS)
            out["directory_mb"] = round((sum(map(sys.getsizeof, texts)) + len(texts) * 8 + columns) / 2**20, 1)
            await client.aclose()
        finally:
            await house.stop()
        return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=15)
    options = parser.parse_args()
    print(json.dumps(uvloop.run(main(options.entities, options.repeat)), ensure_ascii=False, indent=2))
