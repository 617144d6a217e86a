"""Durable frames of the field protocols through the gateway process, load generator on the same cores.

    PYTHONPATH=src python bench/field.py [--seconds 3] [--connections 50] [--window 50] [--rounds 1]

Each connection is a device that keeps `window` frames unanswered; an answer means that JetStream has synced the frame.
Every frame differs in its time or value. Prints one JSON object, with the processor time that
each process takes for a frame: the gateway, which has one core at most, is the wall.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from tulou.access import gateway
from tulou.access.protocols import gb32960, hj212, jt808
from tulou.kernel.bus import Bus, NatsServer, StreamSpec, free_port
from tulou.kernel.settings import Settings


def hj212_frame(device: int, number: int) -> bytes:
    mn = b"010000A8900016F0%08d" % device
    values = b";".join(b"w0101%d-Rtd=%d.%d,w0101%d-Flag=N" % (f, number % 90, f, f) for f in range(5))
    return hj212.command(2011, qn=b"20260401080000%03d" % (number % 1000), st=b"32", mn=mn, password=b"123456",
                         values=b"DataTime=20260401%02d%02d%02d;" % (number // 3600 % 24, number // 60 % 60, number % 60)
                         + values)


def jt808_frame(device: int, number: int) -> bytes:
    body = bytes.fromhex("0000000000000003018D1E50071BFE4600280258005A2604010800") + bytes.fromhex(f"{number % 60:02d}")
    body += bytes.fromhex("0104000003E8020200373001") + b"\x1f" + b"\x2a\x02" + (number & 0xFFFF).to_bytes(2)
    return jt808.frame(0x0200, bytes.fromhex(f"{13800000000 + device:012d}"), number & 0xFFFF, body)


def gb32960_frame(device: int, number: int) -> bytes:
    when = bytes((26, 4, 1, number // 3600 % 24, number // 60 % 60, number % 60))
    body = bytes.fromhex("010103010258000030390E10277464012E27103200"
                         "020101015055F04E84460E102774" "0500071BFE46018D1E50" "06010510680109" "0FA001034101023C")
    return gb32960.frame(2, 0xFE, b"LFV%014d" % device, when + body)


IDENTITIES: dict[str, Callable[[int], str]] = {
    "hj212": lambda n: f"010000A8900016F0{n:08d}", "jt808": lambda n: str(13800000000 + n), "gb32960": lambda n: f"LFV{n:014d}",
}
FRAMES = {"hj212": hj212_frame, "jt808": jt808_frame, "gb32960": gb32960_frame}
ENDS = {"hj212": 99, "jt808": 20, "gb32960": 31}


class Client(asyncio.Protocol):
    """Keeps a window full; answers are counted by their bytes."""

    def __init__(self, frames: list[bytes], size: int, window: int) -> None:
        self.frames, self.size, self.window = frames, size, window
        self.sent = self.got = self.answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.more(self.window)

    def more(self, count: int) -> None:
        start = self.sent % (len(self.frames) - self.window)
        self.transport.write(b"".join(self.frames[start : start + count]))  # type: ignore[attr-defined]
        self.sent += count

    def data_received(self, data: bytes) -> None:
        self.got += len(data)
        done = min(self.got // self.size, self.sent) - self.answered
        if done:
            self.answered += done
            self.more(done)


def cpu_us(pid: int) -> float:
    """Processor time of a process, in µs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1e6


async def measure(
    protocol: str, home: Path, bus: NatsServer, seconds: float, connections: int, window: int
) -> tuple[float, dict[str, float]]:
    """Frames answered a second, and the processor time of each process for a frame (µs)."""
    path, port = home / f"{protocol}.db", free_port()
    path.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE devices (id TEXT, entity_no INTEGER, org TEXT, type TEXT, origin INTEGER, status TEXT,"
                   " token_hash TEXT)")
        db.execute("CREATE TABLE device_identities (protocol TEXT, identity TEXT, entity_no INTEGER, password_hash TEXT)")
        for n in range(connections):
            db.execute("INSERT INTO devices VALUES (?, ?, 'fujian', 'Device', 3, 'active', ?)", (f"d{n}", n + 1, str(n)))
            db.execute("INSERT INTO device_identities VALUES (?, ?, ?, '')", (protocol, IDENTITIES[protocol](n), n + 1))
    config = gateway.Config(
        port=0, nats_url=bus.url, sql_url=f"sqlite:///{path}",
        fields={protocol: {"codec": f"tulou.access.protocols.{protocol}", "port": port, "tls_port": 0}},
    )
    process = subprocess.Popen([sys.executable, "-m", "tulou.access.gateway", config.to_json()],  # noqa: ASYNC220
                               stderr=(home / "gateway.log").open("ab"))
    try:
        sent = [[FRAMES[protocol](n, k) for k in range(600)] for n in range(connections)]
        size = ENDS[protocol]
        if protocol == "hj212":
            session = hj212.Session()
            (message,) = session.feed(sent[0][0])
            size = len(session.accept(message, 0))  # type: ignore[arg-type]
        for _ in range(300):
            with contextlib.suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
                break
            await asyncio.sleep(0.02)
        loop = asyncio.get_running_loop()
        clients = [Client(own, size, window) for own in sent]
        for client in clients:
            await loop.create_connection(lambda c=client: c, "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.sleep(1)
        pids = {"gateway": process.pid, "nats-server": bus.child.pid or 0, "generator": os.getpid()}
        took = {name: cpu_us(pid) for name, pid in pids.items()}
        before, began = sum(c.answered for c in clients), time.monotonic()
        await asyncio.sleep(seconds)
        frames, lasted = sum(c.answered for c in clients) - before, time.monotonic() - began
        return frames / lasted, {name: round((cpu_us(pid) - took[name]) / max(frames, 1), 1) for name, pid in pids.items()}
    finally:
        process.terminate()
        process.wait()


async def run(seconds: float, connections: int, window: int, rounds: int) -> dict[str, dict[str, list[Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        server = NatsServer(Settings(home=home))
        await server.start()
        bus = Bus(server.url)
        await bus.connect()
        await bus.ensure([StreamSpec("READINGS", ("tulou.readings.>",), 8 << 30), StreamSpec("DEAD", ("tulou.dead.>",), 1 << 30)])
        rates: dict[str, list[Any]] = {name: [] for name in FRAMES}
        times: dict[str, list[Any]] = {name: [] for name in FRAMES}
        for _ in range(rounds):
            for name in FRAMES:
                rate, took = await measure(name, home, server, seconds, connections, window)
                rates[name].append(round(rate))
                times[name].append(took)
        await bus.close()
        await server.stop()
        return {"durable_frames_per_second": rates, "processor_us_a_frame": times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--window", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    print(json.dumps(uvloop.run(run(**vars(options)))))


if __name__ == "__main__":
    main()
