"""`tulou bench`: what the running house takes on this machine, from QoS 1 messages to queryable readings.

Law: the load goes through the same doors as any device's, is marked synthetic, and is removed afterwards. The figure
includes the load generator, which runs on the same cores.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import httpx
import orjson

from tulou.demo.province import Device, House

PATIENCE = 300.0
"""Seconds to wait until what was accepted can be queried."""


@click.command()
@click.option("--connections", default=50, show_default=True, type=click.IntRange(1, 5_000), help="连接数 / connections")
@click.option("--window", default=50, show_default=True, type=click.IntRange(1, 4_000), help="每连接未确认的消息数 / unacknowledged messages per connection")
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(1, 600), help="发送时长（秒）/ seconds to send for")
@click.pass_obj
def bench(session: Any, connections: int, window: int, seconds: float) -> None:
    """测量：这台机器上的土楼每秒能收下、落盘并可查询多少条消息（合成数据，测完即删）。
    Measure how many messages a second the running house accepts, stores and can query (synthetic, removed afterwards)."""
    run = session.running()
    if run is None:
        session.stop("土楼没有运行：请先 tulou up", "the house is not running: start it with `tulou up`", 3)
    if not session.settings.mqtt_port:
        session.stop("MQTT 端口已关闭（TULOU_MQTT_PORT=0）", "the MQTT port is closed (TULOU_MQTT_PORT=0)")
    try:
        answer = asyncio.run(_measure(session, run, connections, window, seconds))
    except (RuntimeError, OSError, httpx.HTTPError, subprocess.CalledProcessError) as error:
        session.stop(str(error) or repr(error), str(error) or repr(error))
    session.output(answer)


async def _measure(session: Any, run: dict[str, Any], connections: int, window: int, seconds: float) -> dict[str, Any]:
    bind = session.settings.bind
    host = "127.0.0.1" if bind in ("0.0.0.0", "::", "") else bind  # noqa: S104
    wanted = [Device(f"demo-bench-{n:05}", "fuzhou", "WeatherStation", 119.3, 26.07) for n in range(connections)]
    async with House(run["address"], run["token"]) as house:
        tokens = await house.register(wanted, lambda _done: None)
        try:
            things = await house.pages("/api/v1/things", synthetic="1", q="demo-bench-")
            numbers = ", ".join(str(thing["no"]) for thing in things)
            counting = f"SELECT count() AS n FROM readings WHERE entity IN ({numbers}) AND origin = 3"
            before = await _count(house, counting)
            with tempfile.NamedTemporaryFile("w", prefix="tulou-bench-", suffix=".tokens") as file:
                file.write("\n".join(tokens.values()))
                file.flush()
                sent = await asyncio.to_thread(_load, host, session.settings.mqtt_port, Path(file.name), connections, window, seconds)
            began = time.monotonic()
            missing = sent["acked"] * 5
            while missing and time.monotonic() - began < PATIENCE:
                missing = before + sent["acked"] * 5 - await _count(house, counting)
                await asyncio.sleep(0.2 if missing else 0)
            took = sent["seconds"] + time.monotonic() - began
        finally:
            await house.remove(lambda _done, _total: None, "demo-bench-")
    return {
        "synthetic": True, "connections": connections, "window": window, "messages": sent["acked"],
        "accepted_per_second": sent["messages_per_second"], "p50_ms": sent.get("p50_ms"), "p99_ms": sent.get("p99_ms"),
        "seconds_until_queryable": round(took, 2), "queryable_per_second": round(sent["acked"] / took) if not missing else None,
        "readings_missing": missing,
    }


async def _count(house: House, sql: str) -> int:
    answer = await house.ask("POST", "/api/v1/readings/sql", json={"sql": sql})
    return int(answer["rows"][0][0])


def _load(host: str, port: int, tokens: Path, connections: int, window: int, seconds: float) -> dict[str, Any]:
    """Run the load generator in a process of its own, so that it has an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tulou.demo.load", f"--host={host}", f"--port={port}", f"--tokens={tokens}",
         f"--connections={connections}", f"--window={window}", f"--seconds={seconds}"],
        check=True, capture_output=True,
    )
    result: dict[str, Any] = orjson.loads(done.stdout)
    return result
