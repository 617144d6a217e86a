"""Durable OCPP messages through the gateway process, idle stations, and what checking a message costs; generator on the same cores.

    PYTHONPATH=src python bench/charging.py [--stations 200] [--window 1] [--seconds 5] [--idle 2000]

Each station keeps `window` MeterValues of 1.6 with five values unanswered (the standard's is one); an answer means that JetStream has
synced the message. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import uvloop
from websockets.frames import Frame, Opcode

from tulou.access.gateway import Config
from tulou.access.ocpp import schemas
from tulou.access.protocols import ocpp
from tulou.kernel.bus import Bus, NatsServer, StreamSpec, free_port
from tulou.kernel.settings import Settings

VALUES = [{"value": "230.1", "measurand": "Voltage", "phase": f"L{n}-N", "unit": "V", "context": "Sample.Periodic"} for n in (1, 2, 3)] + [
    {"value": "7.4", "measurand": "Power.Active.Import", "unit": "kW"}, {"value": "15012", "measurand": "Energy.Active.Import.Register", "unit": "Wh"},
]


def meter_values(number: int) -> dict[str, Any]:
    at = f"2026-04-{1 + number // 86400 % 28:02}T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z"
    return {"connectorId": 1, "transactionId": 17, "meterValue": [{"timestamp": at, "sampledValue": VALUES}]}


class Station(asyncio.Protocol):
    """Keeps a window full; answers are the frames after the handshake."""

    def __init__(self, number: int, frames: list[bytes], window: int) -> None:
        self.number, self.frames, self.window = number, frames, window
        self.rest, self.open, self.answered, self.sent = b"", False, 0, 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        name = f"CP-{self.number}"
        secret = base64.b64encode(f"{name}:token-{self.number}".encode()).decode()
        transport.write((
            f"GET /ocpp/{name} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: ocpp1.6\r\nAuthorization: Basic {secret}\r\n\r\n"
        ).encode())

    def begin(self) -> None:
        self.more(self.window if self.frames else 0)

    def more(self, count: int) -> None:
        for _ in range(count):
            self.transport.write(self.frames[self.sent % len(self.frames)])
            self.sent += 1

    def data_received(self, data: bytes) -> None:
        self.rest += data
        if not self.open:
            head, end, self.rest = self.rest.partition(b"\r\n\r\n")
            if not end:
                self.rest = head
                return
            assert b" 101 " in head, head
            self.open = True
        done = 0
        while len(self.rest) >= 2 and len(self.rest) >= 2 + (self.rest[1] & 0x7F):
            self.rest = self.rest[2 + self.rest[1] :]
            done += 1
        self.answered += done
        if done and self.frames:
            self.more(done)


def checking() -> dict[str, float]:
    """µs of processor time a message, by each validator, for ten sampled values."""
    from ocpp.messages import get_validator

    payload = meter_values(0)
    payload["meterValue"][0]["sampledValue"] = VALUES * 2
    status = {"connectorId": 1, "errorCode": "NoError", "status": "Available"}
    raw = ocpp.kept("1.6", "CP-1", orjson.dumps([2, "1", "MeterValues", payload]))

    def cost(work: Any, rounds: int) -> float:
        work()
        began = time.process_time()
        for _ in range(rounds):
            work()
        return round((time.process_time() - began) / rounds * 1e6, 1)

    return {
        "status, jsonschema": cost(lambda: get_validator(2, "StatusNotification", "1.6").validate(status), 500),
        "status, jsonschema-rs": cost(lambda: schemas.violation("1.6", "StatusNotification", status), 5000),
        "ten values, jsonschema": cost(lambda: get_validator(2, "MeterValues", "1.6").validate(payload), 200),
        "ten values, jsonschema-rs": cost(lambda: schemas.violation("1.6", "MeterValues", payload), 5000),
        "ten values, decoding": cost(lambda: ocpp.codec.decode(raw), 5000),
    }


async def measure(stations: int, window: int, seconds: float, idle: int) -> dict[str, Any]:
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
            db.execute("CREATE TABLE device_identities (protocol TEXT, identity TEXT, entity_no INTEGER, password_hash TEXT)")
            for no in range(stations + idle):
                db.execute("INSERT INTO devices VALUES (?, ?, 'fujian', 'Open', 3, ?, 'active')",
                           (f"d{no}", no + 1, hashlib.sha256(f"token-{no}".encode()).hexdigest()))
                db.execute("INSERT INTO device_identities VALUES ('ocpp', ?, ?, '')", (f"CP-{no}", no + 1))
        port = free_port()
        config = Config(port=0, ocpp_port=port, nats_url=nats.url, sql_url=f"sqlite:///{home / 'devices.db'}")
        gateway = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "tulou.access.gateway", config.to_json()], stderr=(home / "gateway.log").open("ab")
        )
        loop = asyncio.get_running_loop()

        def resident() -> int:
            return int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[1]) * 4096

        async def opened(numbers: range, busy: bool) -> list[Station]:
            made = []
            for no in numbers:
                frames = [Frame(Opcode.TEXT, orjson.dumps([2, str(k), "MeterValues", meter_values(no * 300 + k)])).serialize(mask=True)
                          for k in range(300)] if busy else []
                made.append((await loop.create_connection(lambda no=no, frames=frames: Station(no, frames, window), "127.0.0.1", port))[1])  # type: ignore[misc]
            while not all(one.open for one in made):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            return made

        try:
            for _ in range(200):
                with contextlib.suppress(OSError):
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                await asyncio.sleep(0.05)
            empty = resident()
            began = time.monotonic()
            await opened(range(stations, stations + idle), False)
            joined = idle / (time.monotonic() - began)
            full = resident()
            busy = await opened(range(stations), True)
            for one in busy:
                one.begin()
            await asyncio.sleep(1)
            before, began = sum(one.answered for one in busy), time.monotonic()
            await asyncio.sleep(seconds)
            rate = (sum(one.answered for one in busy) - before) / (time.monotonic() - began)
            last = resident()
        finally:
            gateway.terminate()
            gateway.wait()
            await bus.close()
            await nats.stop()
    return {"stations": stations, "window": window, "durable_per_second": round(rate), "idle": idle, "joined_per_second": round(joined),
            "gateway_mb": round(empty / 1e6, 1), "kb_an_idle_station": round((full - empty) / idle / 1e3, 1), "gateway_mb_at_the_end": round(last / 1e6, 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stations", type=int, default=200)
    parser.add_argument("--window", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--idle", type=int, default=2000)
    arguments = parser.parse_args()
    found = uvloop.run(measure(arguments.stations, arguments.window, arguments.seconds, arguments.idle))
    print(json.dumps({**found, "us_a_message": checking(), "load": round(os.getloadavg()[0], 1)}))
