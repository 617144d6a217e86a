"""Durable ingest against mosquitto's bare acceptance, in one run on one machine.

    PYTHONPATH=src python bench/ingest.py [--seconds 5] [--connections 50] [--window 50] [--rounds 3]

1. mosquitto (Debian package; limits raised, nothing subscribes, so it stores nothing): QoS 1 messages acknowledged;
2. the gateway with `nats-server` (`sync_interval: always`): QoS 1 messages acknowledged, each durable;
3. `tulou up`, the whole house: until every acknowledged message can be queried over HTTP.

The load generator runs on the same cores. Prints one JSON object with every round and the ratios of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import uvloop

from tulou.access import gateway
from tulou.demo import load as mqtt_load
from tulou.kernel.bus import Bus, NatsServer, StreamSpec, free_port
from tulou.kernel.settings import Settings

STREAMS = (
    StreamSpec("READINGS", ("tulou.readings.>",), 8 << 30),
    StreamSpec("DEAD", ("tulou.dead.>",), 1 << 30),
)


def tokens_for(count: int) -> list[str]:
    return [f"bench-token-{number:05d}" for number in range(count)]


def devices_table(path: Path, tokens: list[str]) -> None:
    """A table `devices` as the gateway reads it."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE devices (id TEXT PRIMARY KEY, entity_no INTEGER, org TEXT, type TEXT, origin INTEGER,"
                   " token_hash TEXT UNIQUE, status TEXT)")
        db.executemany("INSERT INTO devices VALUES (?, ?, 'fujian', 'WeatherStation', 3, ?, 'active')", [
            (f"d{number}", number + 1, hashlib.sha256(token.encode()).hexdigest())
            for number, token in enumerate(tokens)
        ])
    db.close()


def start_gateway(home: Path, nats_url: str, port: int) -> subprocess.Popen[bytes]:
    config = gateway.Config(port=port, nats_url=nats_url, sql_url=f"sqlite:///{home / 'devices.db'}",
                            name="bench", max_connections=20_000)
    return subprocess.Popen([sys.executable, "-m", "tulou.access.gateway", config.to_json()],
                            stderr=(home / "gateway.log").open("ab"))


async def until_open(port: int) -> None:
    for _ in range(300):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return
    raise TimeoutError(f"nothing listens on {port}")


async def load(port: int, options: argparse.Namespace, tokens_file: Path, **changes: Any) -> dict[str, Any]:
    """Run the load generator as its own process."""
    wanted = {"connections": options.connections, "window": options.window, "qos": 1, "seconds": options.seconds,
              **changes}
    arguments = [f"--{name}={value}" for name, value in wanted.items()]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tulou.demo.load", f"--port={port}", f"--tokens={tokens_file}", *arguments,
        stdout=subprocess.PIPE,
    )
    out, _ = await process.communicate()
    result: dict[str, Any] = json.loads(out)
    return result


async def mosquitto(home: Path, options: argparse.Namespace, tokens_file: Path, persistence: bool) -> dict[str, Any]:
    port = free_port()
    config = home / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\n"
                      f"max_queued_messages 0\npersistence {'true' if persistence else 'false'}\n"
                      f"persistence_location {home}/\nlog_type error\n")
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    process = subprocess.Popen(  # noqa: ASYNC220 - one exec before anything is timed
        [program, "-c", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        await until_open(port)
        return await load(port, options, tokens_file)
    finally:
        process.terminate()
        process.wait()


async def ours(home: Path, options: argparse.Namespace, tokens_file: Path, tokens: list[str]) -> dict[str, Any]:
    nats = NatsServer(Settings(home=home))
    await nats.start()
    bus = Bus(nats.url)
    await bus.connect()
    await bus.ensure(STREAMS)
    devices_table(home / "devices.db", tokens)
    port = free_port()
    process = start_gateway(home, nats.url, port)
    try:
        await until_open(port)
        idle = await load(port, options, tokens_file, idle=10_000, pid=process.pid) if options.more else None
        pids = {"gateway": process.pid, "nats": nats.child.pid or 0}
        before = {name: mqtt_load.cpu(pid) for name, pid in pids.items()}
        result: dict[str, Any] = await load(port, options, tokens_file)
        for name, pid in pids.items():
            result[f"{name}_cpu_us"] = round((mqtt_load.cpu(pid) - before[name]) / result["acked"] * 1e6, 2)
        result["gateway_rss"] = mqtt_load.memory(process.pid)
        info = await bus.js.stream_info("READINGS")
        result["stream_messages"], result["stream_bytes"] = info.state.messages, info.state.bytes
        if options.more:
            result["window_1"] = await load(port, options, tokens_file, connections=1, window=1, seconds=2)
            result["qos_0"] = await load(port, options, tokens_file, qos=0, seconds=2)
            result["idle"] = idle
        return result
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        await bus.close()
        await nats.stop()


PASSWORD = "bench-of-rammed-earth-1308"


async def whole(home: Path, options: argparse.Namespace, tokens_file: Path) -> dict[str, Any]:
    """The whole house, as users start it. The rate counts the time until all readings are queryable."""
    http, port = free_port(), free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("TULOU_")},
        "TULOU_HOME": str(home / "house"), "TULOU_HTTP_PORT": str(http), "TULOU_MQTT_PORT": str(port),
        "TULOU_ADMIN_PASSWORD": PASSWORD,
    }
    (home / "house").mkdir()
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "tulou", "up"], env=environment, stdout=subprocess.DEVNULL,
        stderr=(home / "house.log").open("ab"),
    )
    try:
        await until_open(port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http}/api/v1", headers={"x-tulou": "1"},
                                     timeout=60, trust_env=False) as client:
            await _ready(client)
            answer = await client.post("/session", json={"name": "admin", "password": PASSWORD})
            answer.raise_for_status()
            answer = await client.post("/devices/bulk", json={"items": [
                {"org": "fuzhou", "type": "WeatherStation", "name": f"bench {number}", "id": f"bench{number}",
                 "synthetic": True} for number in range(options.connections)
            ]})
            answer.raise_for_status()
            tokens_file.write_text(  # noqa: ASYNC240 - before anything is timed
                "\n".join(item["token"] for item in answer.json()["items"])
            )
            processes = _children(process.pid)
            before = {name: mqtt_load.cpu(pid) for name, pid in processes}
            result = await load(port, options, tokens_file)
            began, wanted = time.perf_counter(), result["acked"] * 5
            while (stored := await _count(client)) < wanted and time.perf_counter() - began < 120:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            took = result["seconds"] + time.perf_counter() - began
            status = (await client.get("/system")).json()
            batches = [told["acked"] / max(1, told["batches"]) for told in status.get("access.gateways", [])]
            result |= {
                "accepted_per_second": result["messages_per_second"], "seconds_until_queryable": round(took, 3),
                "messages_per_second": round(result["acked"] / took) if stored >= wanted else 0,
                "messages_per_batch": [round(each) for each in batches], "readings_wanted": wanted, "readings_stored": stored, "readings_per_second": round(stored / took),
                "memory": {name: mqtt_load.memory(pid) for name, pid in processes},
                "cpu_us": {
                    name: round((mqtt_load.cpu(pid) - before[name]) / result["acked"] * 1e6, 2) for name, pid in processes
                },
            }
            return result
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


async def _ready(client: httpx.AsyncClient) -> None:
    for _ in range(200):
        try:
            if (await client.get("/session")).status_code in (200, 401):
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.05)


async def _count(client: httpx.AsyncClient) -> int:
    answer = await client.post("/readings/sql", json={"sql": "SELECT count() FROM readings"})
    answer.raise_for_status()
    return int(answer.json()["rows"][0][0])


def _children(pid: int) -> list[tuple[str, int]]:
    """The house's processes: (short name, pid)."""
    found = [("main", pid)]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            command = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        if fields[1] == str(pid):
            name = "gateway" if "tulou.access.gateway" in command else Path(command.split("\0")[0]).name
            found.append((name, int(stat.parent.name)))
    return found


async def run(options: argparse.Namespace) -> dict[str, Any]:
    mqtt_load.raise_file_limit()
    tokens = tokens_for(1000)
    report: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count(), "rounds": []}
    for number in range(options.rounds):
        row: dict[str, Any] = {}
        options.more = number == 0 and not options.brief
        with tempfile.TemporaryDirectory(prefix="tulou-bench-", ignore_cleanup_errors=True) as folder:
            home = Path(folder)
            tokens_file = home / "tokens"
            tokens_file.write_text("\n".join(tokens))
            if not options.only_ours:
                row["mosquitto"] = await mosquitto(home, options, tokens_file, persistence=False)
                row["mosquitto_persistence"] = await mosquitto(home, options, tokens_file, persistence=True)
            row["gateway"] = await ours(home, options, tokens_file, tokens)
            if not options.no_house:
                row["house"] = await whole(home, options, tokens_file)
        report["rounds"].append(row)
        print(json.dumps(row), file=sys.stderr)
    medians = {
        name: statistics.median(row[name]["messages_per_second"] for row in report["rounds"])
        for name in report["rounds"][0]
    }
    report["messages_per_second"] = medians
    if "mosquitto" in medians:
        report["ratio_to_mosquitto"] = {
            name: round(value / medians["mosquitto"], 2) for name, value in medians.items() if name != "mosquitto"
        }
    return report


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=5.0)
    arguments.add_argument("--connections", type=int, default=50)
    arguments.add_argument("--window", type=int, default=50)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--only-ours", action="store_true", help="leave mosquitto out")
    arguments.add_argument("--brief", action="store_true", help="leave out window 1, QoS 0 and idle connections")
    arguments.add_argument("--no-house", action="store_true", help="leave the whole house out")
    options = arguments.parse_args()
    print(json.dumps(uvloop.run(run(options)), indent=1))


if __name__ == "__main__":
    main()
