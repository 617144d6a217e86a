"""NGSI-LD under load: retrieve, durable single update, batch upsert, query and projection of last values.

Law: requests go through the started house's own HTTP server, with a real token and the policy on, from `wrk` on the
same machine; what was measured is printed, with the load that made it. The relational store syncs every commit.

Run: `python bench/ngsild.py [--entities 20000] [--seconds 8]`; a JSON line of figures comes last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tulou.app import Running, collect_rarely
from tulou.context import ContextService, Update
from tulou.kernel.bus import free_port
from tulou.kernel.organisations.credentials import Credentials
from tulou.kernel.organisations.models import NewToken, NewUser, RoleGrant
from tulou.kernel.organisations.service import People
from tulou.kernel.policy import ROOT, Actor, Binding
from tulou.kernel.settings import Settings

ORG = "xiamen"
KIND = "AirQualityStation"
PROPERTIES = ("pm25", "pm10", "so2", "no2", "o3", "temperature")

RANDOM_PATH = """
math.randomseed(os.time())
local token = "%(token)s"
request = function()
  local n = math.random(0, %(entities)d - 1)
  return wrk.format("GET", "/ngsi-ld/v1/entities/urn:ngsi-ld:AirQualityStation:" .. n, {["authorization"] = "Bearer " .. token})
end
"""
UPDATE = """
math.randomseed(os.time())
local h = {["authorization"] = "Bearer %(token)s", ["content-type"] = "application/json"}
request = function()
  local n = math.random(0, %(entities)d - 1)
  return wrk.format("PATCH", "/ngsi-ld/v1/entities/urn:ngsi-ld:AirQualityStation:" .. n .. "/attrs/pm25", h,
    '{"type":"Property","value":' .. math.random(0, 500) .. ',"unitCode":"GQ"}')
end
"""
QUERY = """
math.randomseed(os.time())
local h = {["authorization"] = "Bearer %(token)s"}
request = function()
  return wrk.format("GET", "/ngsi-ld/v1/entities?type=AirQualityStation&q=pm25%%3E" .. math.random(0, 50) .. "&limit=20", h)
end
"""
UPSERT = """
local f = io.open("%(body)s", "rb")
local body = f:read("*a")
f:close()
local h = {["authorization"] = "Bearer %(token)s", ["content-type"] = "application/json"}
request = function() return wrk.format("POST", "/ngsi-ld/v1/entityOperations/upsert", h, body) end
"""


def entity(n: int) -> dict[str, Any]:
    """A station with six properties, synthetic and labelled so."""
    observed = "2026-01-01T00:00:00Z"
    return {
        "id": f"urn:ngsi-ld:{KIND}:{n}",
        "type": KIND,
        "name": {"type": "Property", "value": f"测站 {n}"},
        "synthetic": {"type": "Property", "value": True},
        "location": {"type": "GeoProperty", "value": {
            "type": "Point", "coordinates": [117.5 + (n * 7919 % 100_000) / 1e5, 24.0 + (n * 104_729 % 100_000) / 1e5],
        }},
        **{p: {"type": "Property", "value": (n * 31 + i * 17) % 200, "observedAt": observed, "unitCode": "GQ"}
           for i, p in enumerate(PROPERTIES)},
    }


async def token_of(house: Any) -> str:
    """A token of a new steward of the organisation."""
    admin = Actor("user:bench", "bench", ROOT, "user", frozenset({Binding(ROOT, "platform_admin", True)}), None, "user:bench")
    people, credentials = house.service(People), house.service(Credentials)
    password = "Bench-" + os.urandom(9).hex()
    await people.create(admin, NewUser(
        name="bench-steward", display="bench", org=ORG, password=password, roles=[RoleGrant(org=ORG, role="steward")],
    ))
    secret = await credentials.sign_in("bench-steward", password, "127.0.0.1")
    actor = await credentials.actor_of_session(secret)
    with_change = await credentials.change_password(actor, password, "Changed-" + os.urandom(9).hex())
    actor = await credentials.actor_of_session(with_change)
    made = await credentials.create_token(actor, NewToken(name="bench", org=ORG, scopes=["context.*"], expires_at=None))
    return str(made["token"])


async def wrk(url: str, script: str, folder: Path, *, seconds: int, connections: int) -> dict[str, float]:
    """Run wrk with one thread; requests/s, latencies in ms, and answers that were not 2xx."""
    path = folder / "load.lua"
    path.write_text(script)
    run = await asyncio.create_subprocess_exec(
        "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(path), url,
        stdout=asyncio.subprocess.PIPE,
    )
    out = (await run.communicate())[0].decode()
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    found = {"per_second": float(rate.group(1)) if rate else 0.0}
    for percent in ("50%", "99%"):
        match = re.search(rf"^\s+{percent}\s+([\d.]+)(us|ms|s)", out, re.M)
        if match:
            found["p" + percent[:-1] + "_ms"] = float(match.group(1)) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match.group(2)]
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    found["refused"] = float(bad.group(1)) if bad else 0.0
    return found


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=20_000)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--only", default="retrieve,update,upsert,query,project")
    parser.add_argument("--no-history", action="store_true", help="with entity_history = false")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed (Debian package wrk)")
    folder = Path(tempfile.mkdtemp(prefix="tulou-bench-"))
    settings = Settings(home=folder / "home", http_port=free_port(), mqtt_port=0, admin_password="Bench-" + os.urandom(9).hex(), entity_history=not options.no_history)
    running = Running(settings, ("api", "worker"))
    await running.start()
    collect_rarely()
    house = running.house
    url = f"http://127.0.0.1:{settings.http_port}"
    figures: dict[str, Any] = {"cores": os.cpu_count(), "entities": options.entities}
    try:
        token = await token_of(house)
        context = house.service(ContextService)
        from tulou.context.forms import Reader

        reader = Reader(context.names)
        steward = Actor("user:load", "load", ORG, "user", frozenset({Binding(ORG, "steward", False)}), None, "user:load")
        began = time.perf_counter()
        for at in range(0, options.entities, 5_000):
            documents = [reader.entity(entity(n)) for n in range(at, min(at + 5_000, options.entities))]
            await context.upsert_many(steward, documents)
        figures["load_entities_per_second"] = round(options.entities / (time.perf_counter() - began))
        names = {"token": token, "entities": options.entities, "body": str(folder / "batch.json")}
        (folder / "batch.json").write_text(json.dumps([entity(n) for n in range(1_000)], ensure_ascii=False))
        for name, script, connections in (
            ("retrieve", RANDOM_PATH, 32), ("update", UPDATE, 64), ("query", QUERY, 16), ("upsert", UPSERT, 4),
        ):
            if name in options.only:
                found = await wrk(url, script % names, folder, seconds=options.seconds, connections=connections)
                if name == "upsert":
                    found["entities_per_second"] = round(found["per_second"] * 1_000)
                figures[name] = found
                print(name, found, flush=True)
        if "project" in options.only:
            numbers = [row[0] for row in await house.db.read(
                lambda c: c.exec_driver_sql("SELECT no FROM entities ORDER BY no LIMIT 10000").fetchall()
            )]
            began, count, turn = time.perf_counter(), 0, 0
            while time.perf_counter() - began < options.seconds:
                turn += 1
                ts = 1_800_000_000_000_000 + turn * 1_000_000
                part = numbers[(turn % 2) * 5_000 : (turn % 2) * 5_000 + 5_000]
                count += await context.project([Update(no, p, ts, float(turn)) for no in part for p in PROPERTIES[:5]])
            figures["project"] = {"entities_per_second": round(count / (time.perf_counter() - began)), "values_each": 5}
            print("project", figures["project"], flush=True)
    finally:
        await running.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    import uvloop

    subprocess.run(["sync"], check=False)
    uvloop.run(main())
