"""Durable CoAP messages through the gateway process, load generator on the same cores.

    PYTHONPATH=src python bench/coap.py [--clients 50] [--window 10] [--messages 60000]

Each client is a socket of one of 100 devices that keeps `window` confirmable messages of five JSON readings unanswered; 2.04 means that
JetStream has synced the message. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from tulou.access.coap import message as m
from tulou.access.coap.message import Message
from tulou.access.gateway import Config
from tulou.access.supervise import coap_ping
from tulou.kernel.bus import Bus, NatsServer, StreamSpec, free_port
from tulou.kernel.settings import Settings

DEVICES = 100


class Run:
    """What is left to send and to come."""

    def __init__(self, messages: int) -> None:
        self.left, self.due, self.bad = messages, messages, 0
        self.done = asyncio.get_running_loop().create_future()


class Client(asyncio.DatagramProtocol):
    """Keeps a window full."""

    def __init__(self, run: Run, device: int, window: int) -> None:
        self.run, self.window, self.number = run, window, 0
        self.path = m.path_options(("api", "v1", f"token-{device}", "telemetry"))

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def begin(self) -> None:
        for _ in range(self.window):
            self.send()

    def send(self) -> None:
        if self.run.left:
            self.run.left -= 1
            self.number = self.number + 1 & 0xFFFF
            body = b'{"pm25":%d.5,"pm10":40,"temperature":21.5,"humidity":60,"battery":3.6}' % (self.number % 90)
            self.transport.sendto(Message(m.CON, m.POST, self.number, b"tk", self.path, body).encode())

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.run.due -= 1
        self.run.bad += data[1] != m.CHANGED
        if self.run.due:
            self.send()
        else:
            self.run.done.set_result(None)


async def measure(clients: int, window: int, messages: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        nats = NatsServer(Settings(home=home))
        await nats.start()
        bus = Bus(nats.url)
        await bus.connect()
        await bus.ensure([StreamSpec("READINGS", ("tulou.readings.>",), 4 << 30), StreamSpec("DEAD", ("tulou.dead.>",), 1 << 28)])
        with sqlite3.connect(home / "devices.db") as db:
            db.execute("CREATE TABLE devices (id TEXT PRIMARY KEY, entity_no INTEGER, org TEXT, type TEXT, origin INTEGER,"
                       " token_hash TEXT UNIQUE, status TEXT)")
            db.executemany("INSERT INTO devices VALUES (?, ?, 'fujian', 'Open', 3, ?, 'active')", [
                (f"d{no}", 100 + no, hashlib.sha256(f"token-{no}".encode()).hexdigest()) for no in range(DEVICES)
            ])
        db.close()
        port = free_port()
        config = Config(port=0, coap_port=port, nats_url=nats.url, sql_url=f"sqlite:///{home / 'devices.db'}")
        gateway = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "tulou.access.gateway", config.to_json()], stderr=subprocess.DEVNULL
        )
        loop, run = asyncio.get_running_loop(), Run(messages)
        for _ in range(50):
            try:
                await coap_ping("127.0.0.1", port)
                break
            except OSError:
                await asyncio.sleep(0.1)
        made = [
            (await loop.create_datagram_endpoint(lambda no=no: Client(run, no % DEVICES, window), remote_addr=("127.0.0.1", port)))[1]
            for no in range(clients)
        ]
        begun = time.perf_counter()
        for client in made:
            client.begin()
        await asyncio.wait_for(run.done, 55)
        seconds = time.perf_counter() - begun
        resident = int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[1]) * 4096  # noqa: ASYNC240
        gateway.terminate()
        gateway.wait()
        await bus.close()
        await nats.stop()
    return {"clients": clients, "window": window, "messages": messages, "not_2.04": run.bad, "per_second": round(messages / seconds),
            "gateway_mb": resident >> 20}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument("--messages", type=int, default=60_000)
    arguments = parser.parse_args()
    print(json.dumps(uvloop.run(measure(arguments.clients, arguments.window, arguments.messages))))
