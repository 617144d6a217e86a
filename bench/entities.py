"""Many entities: `tulou context load` of millions, then what single questions cost among them.

Law: the house is started as its users start it, in a process of its own, and is asked over HTTP with the policy on; the
relational store syncs every commit. Entities are synthetic and say so: three types in each of three organisations, 500 to
900 bytes a document. What was measured is printed with the processor time that it took; a JSON line comes last.

Run: `python bench/entities.py [--entities 1000000,10000000] [--minutes 15] [--folder DIR]`
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tulou.kernel.bus import free_port

ORGS = ("fuzhou", "xiamen", "quanzhou")
TYPES = {
    "AirQualityStation": ("pm25", "pm10", "so2", "no2", "temperature"),
    "StreetLamp": ("power", "voltage", "current", "dimming"),
    "WaterMeter": ("volume", "flow", "pressure", "battery"),
}
ASKED = 300


def line(n: int) -> str:
    """The n-th entity of an organisation, as JSON."""
    kind = list(TYPES)[n % 3]
    lon, lat = 116.0 + n * 7919 % 400_000 / 1e5, 23.5 + n * 104_729 % 450_000 / 1e5
    values = ",".join(
        f'"{name}":{{"type":"Property","value":{(n * 31 + i * 17) % 2000 / 10},"unitCode":"GQ","observedAt":"2026-01-01T00:00:00Z"}}'
        for i, name in enumerate(TYPES[kind])
    )
    return (
        f'{{"id":"urn:ngsi-ld:{kind}:{n:09d}","type":"{kind}","name":{{"type":"Property","value":"设施 {n}"}},'
        f'"synthetic":{{"type":"Property","value":true}},"location":{{"type":"GeoProperty","value":{{"type":"Point",'
        f'"coordinates":[{lon:.5f},{lat:.5f}]}}}},{values}}}\n'
    )


def written(path: Path, numbers: range) -> int:
    """Write entities to a file; its size in bytes."""
    with path.open("w", encoding="utf-8", buffering=1 << 20) as out:
        out.writelines(map(line, numbers))
    return path.stat().st_size


def cpu_s(pid: int) -> float:
    """Processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> dict[str, int]:
    """Resident memory of a process in MB: all of it, and what is its own (without mapped files)."""
    lines = dict(row.split(":", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) // 1024 for name, key in (("rss", "VmRSS"), ("own", "RssAnon"))}


def asked(client: httpx.Client, pid: int, request: Callable[[], tuple[str, dict[str, Any]]], times: int) -> dict[str, float]:
    """p50 and p99 in ms of one question after the other, and the house's CPU ms for each."""
    took = []
    began = cpu_s(pid)
    for _ in range(times):
        path, parameters = request()
        at = time.perf_counter()
        answer = client.get(path, params=parameters)
        took.append((time.perf_counter() - at) * 1000)
        answer.raise_for_status()
    took.sort()
    return {
        "p50_ms": round(statistics.median(took), 2), "p99_ms": round(took[min(len(took) - 1, int(len(took) * 0.99))], 2),
        "cpu_ms": round((cpu_s(pid) - began) * 1000 / times, 2), "n": times,
    }


def questions(client: httpx.Client, each: int) -> Iterator[tuple[str, int, Callable[[], tuple[str, dict[str, Any]]]]]:
    """Name, how often, and the request, of an organisation with `each` entities."""
    dice = random.Random(1)
    base = "/ngsi-ld/v1/"

    def some() -> str:
        n = dice.randrange(each)
        return f"urn:ngsi-ld:{list(TYPES)[n % 3]}:{n:09d}"

    def box() -> dict[str, Any]:
        lon, lat, size = 116 + dice.random() * 3.9, 23.5 + dice.random() * 4.4, 0.01
        ring = [[lon, lat], [lon + size, lat], [lon + size, lat + size], [lon, lat + size], [lon, lat]]
        return {"georel": "within", "geometry": "Polygon", "coordinates": json.dumps([ring])}

    after, pages = base + "entities?type=StreetLamp&limit=1000", each // 6000
    for _ in range(pages):
        after = client.get(after).links["next"]["url"]
    yield "retrieve", ASKED, lambda: (f"{base}entities/{some()}", {})
    yield "type, limit 20", ASKED, lambda: (base + "entities", {"type": "StreetLamp", "limit": 20})
    yield "type and q, limit 20", ASKED, lambda: (
        base + "entities", {"type": "StreetLamp", "q": f"power>{dice.randrange(150)}", "limit": 20})
    if pages:
        cursor = {**httpx.URL(after).params, "limit": 20}
        yield "page deep inside, limit 20", ASKED, lambda: (base + "entities", cursor)
    yield "count of a type", ASKED, lambda: (base + "entities", {"type": "StreetLamp", "limit": 0, "count": "true"})
    yield "count with q", 3, lambda: (
        base + "entities", {"type": "StreetLamp", "q": "power>100", "limit": 0, "count": "true"})
    yield "box of 1 km, limit 20", 50, lambda: (base + "entities", {"type": "StreetLamp", "limit": 20, **box()})
    yield "history of one, lastN 1", ASKED, lambda: (f"{base}temporal/entities/{some()}", {"lastN": 1})
    yield "types", 50, lambda: (base + "types", {})
    yield "attributes of a type", 5, lambda: (base + "types/StreetLamp", {})
    yield "attributes", 3, lambda: (base + "attributes", {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", default="1000000", help="how many there are when questions are asked, in steps")
    parser.add_argument("--minutes", type=float, default=15, help="no step begins, and loading ends, after so long")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--batch", default="5000")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="tulou-entities-"))
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    environment = {
        **os.environ, "TULOU_HOME": str(folder / "home"), "TULOU_HTTP_PORT": str(port), "TULOU_MQTT_PORT": "0",
        "TULOU_LANG": "en",
    }
    tulou = [sys.executable, "-m", "tulou"]
    house = subprocess.Popen([*tulou, "up", "--role", "api,worker"], env=environment)
    figures: dict[str, Any] = {"cores": os.cpu_count(), "steps": []}
    until = time.monotonic() + options.minutes * 60
    try:
        run = folder / "home" / "run.json"
        while not run.exists():
            time.sleep(0.2)
        found = json.loads(run.read_text())
        pid = found["pid"]
        client = httpx.Client(base_url=found["address"], timeout=600, trust_env=False, headers={
            "authorization": f"Bearer {found['token']}", "ngsild-tenant": ORGS[0]})
        done = 0
        for total in map(int, options.entities.split(",")):
            step: dict[str, Any] = {}
            size = count = 0
            house_cpu, own_cpu, seconds = cpu_s(pid), resource.getrusage(resource.RUSAGE_CHILDREN), 0.0
            while done < total and time.monotonic() < until:
                upto = min(total, done + 600_000)
                for org in ORGS:
                    path = folder / f"{org}.ndjson"
                    size += written(path, range(done // 3, upto // 3))
                    began = time.perf_counter()
                    subprocess.run(
                        [*tulou, "--json", "context", "load", str(path), "--org", org, "--batch", options.batch], env=environment,
                        check=True, stdout=subprocess.DEVNULL,
                    )
                    seconds += time.perf_counter() - began
                    path.unlink()
                count += upto - done
                done = upto
                print(f"{done:>9} entities, {count / seconds:8.0f}/s so far", flush=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if not count:
                break
            step["entities"], step["bytes_each"] = done, round(size / count)
            step["load"] = {
                "per_second": round(count / seconds), "seconds": round(seconds, 1),
                "house_cpu_us_each": round((cpu_s(pid) - house_cpu) * 1e6 / count, 1),
                "command_cpu_us_each": round((after.ru_utime + after.ru_stime - own_cpu.ru_utime - own_cpu.ru_stime) * 1e6 / count, 1),
            }
            step["memory_mb"] = memory_mb(pid)
            step["store_gb"] = round(sum(f.stat().st_size for f in (folder / "home").glob("*.db*")) / 1e9, 2)
            print(json.dumps(step), flush=True)
            for name, times, request in questions(client, done // 3):
                step[name] = asked(client, pid, request, times)
                print(f"{name:28} {step[name]}", flush=True)
            step["memory_mb_after"] = memory_mb(pid)
            figures["steps"].append(step)
        print(json.dumps(figures))
    finally:
        house.send_signal(signal.SIGTERM)
        house.wait(60)
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
