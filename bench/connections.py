"""What idle connections cost the gateway: MQTT 3.1.1 and 5, HJ 212, JT/T 808 and OCPP 1.6, a fifth each, every one of a device that said who it is.

    PYTHONPATH=src python bench/connections.py [--connections 10000]

Each sends one message, which is stored, and is silent from then on. Prints one JSON object: the gateway's resident memory before and after,
also beside as many connections that say nothing at all, and which of them are still there.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from tulou.access import mqtt
from tulou.access.gateway import Config
from tulou.access.protocols import hj212, jt808
from tulou.kernel.bus import Bus, NatsServer, StreamSpec, free_port
from tulou.kernel.settings import Settings

KINDS = ("mqtt", "mqtt5", "hj212", "jt808", "ocpp")
LIMIT_MB = 150
"""The bound that ten thousand mixed connections are to stay below."""


def identities(no: int) -> dict[str, str]:
    """Who a device is in each protocol."""
    return {"hj212": f"010000A8900016F0{no:08d}", "jt808": str(13800000000 + no), "ocpp": f"CP-{no}"}


def first(kind: str, no: int) -> bytes:
    """What a device of this kind sends first."""
    if kind in ("mqtt", "mqtt5"):
        level = 5 if kind == "mqtt5" else 4
        return mqtt.connect(f"c{no}", f"token-{no}", level=level) + mqtt.publish(b"v1/devices/me/telemetry", b'{"a": 1}', 1, b"\0\1", level=level)
    if kind == "hj212":
        return hj212.command(2011, qn=b"20260401080000000", st=b"32", mn=identities(no)[kind].encode(), password=b"123456",
                             values=b"DataTime=20260401080000;w01018-Rtd=12.5,w01018-Flag=N")
    if kind == "jt808":
        position = bytes.fromhex("0000000000000003018D1E50071BFE4600280258005A260401080000")
        return jt808.frame(0x0200, bytes.fromhex(f"{identities(no)[kind]:0>12}"), 1, position)
    secret = base64.b64encode(f"CP-{no}:token-{no}".encode()).decode()
    return (
        f"GET /ocpp/CP-{no} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: ocpp1.6\r\nAuthorization: Basic {secret}\r\n\r\n"
    ).encode()


class Client(asyncio.Protocol):
    """Says one thing, and counts what it is answered."""

    def __init__(self, said: bytes) -> None:
        self.said, self.answered, self.open = said, 0, False

    def connection_made(self, transport: Any) -> None:
        self.transport, self.open = transport, True
        if self.said:
            transport.write(self.said)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False

    def data_received(self, data: bytes) -> None:
        self.answered += len(data)


async def measure(connections: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        nats = NatsServer(Settings(home=home))
        await nats.start()
        bus = Bus(nats.url)
        await bus.connect()
        await bus.ensure([StreamSpec("READINGS", ("tulou.readings.>",), 4 << 30), StreamSpec("DEAD", ("tulou.dead.>",), 1 << 28)])
        with contextlib.closing(sqlite3.connect(home / "devices.db")) as db, db:
            db.execute("CREATE TABLE devices (id TEXT PRIMARY KEY, entity_no INTEGER, org TEXT, type TEXT, origin INTEGER,"
                       " token_hash TEXT UNIQUE, status TEXT)")
            db.execute("CREATE TABLE device_identities (protocol TEXT, identity TEXT, entity_no INTEGER, password_hash TEXT,"
                       " PRIMARY KEY (protocol, identity))")
            for no in range(connections):
                db.execute("INSERT INTO devices VALUES (?, ?, 'fujian', 'Open', 3, ?, 'active')",
                           (f"d{no}", no + 1, hashlib.sha256(f"token-{no}".encode()).hexdigest()))
                for protocol, identity in identities(no).items():
                    db.execute("INSERT INTO device_identities VALUES (?, ?, ?, '')", (protocol, identity, no + 1))
        ports = {kind: free_port() for kind in ("mqtt", "hj212", "jt808", "ocpp")}
        ports["mqtt5"] = ports["mqtt"]
        config = Config(
            port=ports["mqtt"], ocpp_port=ports["ocpp"], nats_url=nats.url, sql_url=f"sqlite:///{home / 'devices.db'}", connect_timeout=600,
            fields={name: {"codec": f"tulou.access.protocols.{name}", "port": ports[name], "tls_port": 0} for name in ("hj212", "jt808")},
        )
        gateway = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "tulou.access.gateway", config.to_json()], stderr=(home / "gateway.log").open("ab")
        )
        loop = asyncio.get_running_loop()

        def resident() -> float:
            return round(int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6, 1)

        async def opened(said: list[tuple[str, bytes]]) -> list[Client]:
            made: list[Client] = []
            for start in range(0, len(said), 200):
                made += [pair[1] for pair in await asyncio.gather(*(
                    loop.create_connection(lambda data=data: Client(data), "127.0.0.1", ports[kind]) for kind, data in said[start : start + 200]  # type: ignore[misc]
                ))]
            return made

        try:
            for port in ports.values():
                for _ in range(200):
                    with contextlib.suppress(OSError):
                        (await asyncio.open_connection("127.0.0.1", port))[1].close()
                        break
                    await asyncio.sleep(0.05)
            await asyncio.sleep(1)
            empty, began = resident(), time.monotonic()
            known = await opened([(KINDS[no % len(KINDS)], first(KINDS[no % len(KINDS)], no)) for no in range(connections)])
            for _ in range(600):
                if all(one.answered for one in known):
                    break
                await asyncio.sleep(0.1)
            joined = time.monotonic() - began
            await asyncio.sleep(3)
            idle = resident()
            there = {kind: sum(one.open and one.answered > 0 for one in known[at :: len(KINDS)]) for at, kind in enumerate(KINDS)}
            silent = await opened([(KINDS[no % len(KINDS)], b"") for no in range(connections // 2)])
            await asyncio.sleep(3)
            beside = resident()
            for one in known + silent:
                one.transport.abort()
            await asyncio.sleep(3)
            left = resident()
        finally:
            gateway.terminate()
            gateway.wait()
            await bus.close()
            await nats.stop()
    return {
        "connections": connections, "there": there, "seconds_to_join": round(joined, 1), "gateway_mb": empty, "gateway_mb_idle": idle,
        "kb_a_connection": round((idle - empty) * 1e3 / connections, 1), "gateway_mb_beside_silent": beside, "silent": len(silent),
        "gateway_mb_after": left, "limit_mb": LIMIT_MB, "of_limit": round(idle / LIMIT_MB, 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps({**uvloop.run(measure(arguments.connections)), "load": round(os.getloadavg()[0], 1)}))
