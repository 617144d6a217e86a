"""Registrations with digest, and durable alarms, of GB/T 28181 through the gateway process; load generator on the same cores.

    PYTHONPATH=src python bench/gb28181.py [--devices 2000] [--clients 50] [--window 8] [--messages 40000]

Every device registers once (REGISTER, 401, REGISTER, 200), 100 at a time, from 100 addresses; 200 means that JetStream has synced the registration. Then
each of `clients` devices keeps `window` alarms of eight readings unanswered; 200 means that the batch is synced. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from tulou.access.gateway import Config
from tulou.access.gb28181 import digest
from tulou.access.supervise import tcp_ping
from tulou.kernel.bus import Bus, NatsServer, StreamSpec, free_port
from tulou.kernel.settings import Settings

SERVER, REALM, PASSWORD = "35000000002000000001", "3500000000", "secret"
AT_ONCE = 100
ALARM = (
    '<?xml version="1.0" encoding="GB2312"?>\r\n<Notify><CmdType>Alarm</CmdType><SN>1</SN><DeviceID>{0}</DeviceID><AlarmPriority>1</AlarmPriority>'
    "<AlarmMethod>5</AlarmMethod><AlarmTime>2026-04-01T08:00:00</AlarmTime><AlarmDescription>x</AlarmDescription><Longitude>119.3</Longitude>"
    "<Latitude>26.1</Latitude><Info><AlarmType>6</AlarmType></Info></Notify>"
)


def code_of(number: int) -> str:
    return f"3402000000132{number:07d}"


class Device(asyncio.DatagramProtocol):
    """A socket that asks and hears answers; requests of the house are answered 200."""

    def __init__(self, number: int) -> None:
        self.code, self.number = code_of(number), 0
        self.waiting: asyncio.Future[bytes] | None = None
        self.run: Run | None = None
        self.bad = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def build(self, method: str, headers: str, body: bytes = b"") -> bytes:
        self.number += 1
        to = self.code if method == "REGISTER" else SERVER
        return (f"{method} sip:{SERVER}@{REALM} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:1;rport;branch=z9hG4bK{self.number}\r\n"
                f"From: <sip:{self.code}@{REALM}>;tag=1\r\nTo: <sip:{to}@{REALM}>\r\nCall-ID: {self.number}\r\nCSeq: {self.number} {method}\r\n"
                f"Max-Forwards: 70\r\n{headers}Content-Length: {len(body)}\r\n\r\n").encode() + body

    async def ask(self, data: bytes) -> bytes:
        while True:
            self.waiting = asyncio.get_running_loop().create_future()
            self.transport.sendto(data)
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self.waiting, 2)

    async def register(self) -> None:
        answer = await self.ask(self.build("REGISTER", "Contact: <sip:a@127.0.0.1:1>\r\nExpires: 3600\r\n"))
        found = re.search(rb'nonce="([0-9a-f]+)"', answer)
        assert found is not None, answer
        said = {"nonce": found[1].decode(), "uri": f"sip:{SERVER}@{REALM}"}
        proof = digest.response("MD5", digest.hashed("MD5", self.code, REALM, PASSWORD), "REGISTER", said)
        answer = await self.ask(self.build("REGISTER", f'Contact: <sip:a@127.0.0.1:1>\r\nExpires: 3600\r\nAuthorization: Digest username="{self.code}", '
                                           f'realm="{REALM}", nonce="{said["nonce"]}", uri="{said["uri"]}", response="{proof}"\r\n'))
        self.bad += not answer.startswith(b"SIP/2.0 200")

    def alarm(self) -> None:
        assert self.run is not None
        if self.run.left:
            self.run.left -= 1
            self.transport.sendto(self.build("MESSAGE", "Content-Type: Application/MANSCDP+xml\r\n", ALARM.format(self.code).encode()))

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if not data.startswith(b"SIP/2.0"):
            head = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
            kept = [line for line in head if line.startswith((b"Via", b"From", b"To", b"Call-ID", b"CSeq"))]
            self.transport.sendto(b"\r\n".join([b"SIP/2.0 200 OK", *kept, b"Content-Length: 0", b"", b""]))
        elif self.run is not None:
            self.bad += not data.startswith(b"SIP/2.0 200")
            self.run.due -= 1
            if self.run.due:
                self.alarm()
            elif not self.run.done.done():
                self.run.done.set_result(None)
        elif self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(data)


class Run:
    """What is left to send and to come."""

    def __init__(self, messages: int) -> None:
        self.left, self.due = messages, messages
        self.done = asyncio.get_running_loop().create_future()


async def measure(devices: int, clients: int, window: int, messages: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        nats = NatsServer(Settings(home=home))
        await nats.start()
        bus = Bus(nats.url)
        await bus.connect()
        await bus.ensure([
            StreamSpec("READINGS", ("tulou.readings.>",), 4 << 30), StreamSpec("DEAD", ("tulou.dead.>",), 1 << 28),
            StreamSpec("GB28181", ("tulou.gb28181.>",), 1 << 28, last_only=True), StreamSpec("COMMANDS", ("tulou.commands.>",), 1 << 28),
        ])
        with sqlite3.connect(home / "devices.db") as db:
            db.execute("CREATE TABLE devices (id TEXT PRIMARY KEY, entity_no INTEGER, org TEXT, type TEXT, origin INTEGER,"
                       " token_hash TEXT UNIQUE, status TEXT)")
            db.execute("CREATE TABLE device_identities (protocol TEXT, identity TEXT, entity_no INTEGER, password_hash TEXT,"
                       " PRIMARY KEY (protocol, identity))")
            for no in range(devices):
                db.execute("INSERT INTO devices VALUES (?, ?, 'fujian', 'Open', 3, ?, 'active')", (f"d{no}", 100 + no, hashlib.sha256(b"%d" % no).hexdigest()))
                db.execute("INSERT INTO device_identities VALUES ('gb28181', ?, ?, ?)", (code_of(no), 100 + no, digest.secret(code_of(no), REALM, PASSWORD)))
        db.close()
        port = free_port()
        config = Config(port=0, nats_url=nats.url, sql_url=f"sqlite:///{home / 'devices.db'}",
                        gb28181={"port": port, "tls_port": 0, "server": SERVER, "realm": REALM, "media": ""})
        gateway = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "tulou.access.gateway", config.to_json()], stderr=subprocess.DEVNULL
        )
        loop = asyncio.get_running_loop()
        for _ in range(100):
            try:
                await tcp_ping("127.0.0.1", port)
                break
            except OSError:
                await asyncio.sleep(0.1)
        made = [(await loop.create_datagram_endpoint(lambda no=no: Device(no), local_addr=(f"127.0.1.{no % 100 + 1}", 0), remote_addr=("127.0.0.1", port)))[1] for no in range(devices)]
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(device: Device) -> None:
            async with gate:
                await device.register()

        begun = time.perf_counter()
        await asyncio.gather(*map(one, made))
        registering = time.perf_counter() - begun
        await asyncio.sleep(2)  # what the house asks new devices is answered
        run = Run(messages)
        speaking = made[:clients]
        begun = time.perf_counter()
        for device in speaking:
            device.run = run
            for _ in range(window):
                device.alarm()
        await asyncio.wait_for(run.done, 90)
        seconds = time.perf_counter() - begun
        resident = int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[1]) * 4096  # noqa: ASYNC240
        gateway.terminate()
        gateway.wait()
        await bus.close()
        await nats.stop()
    return {
        "devices": devices, "registrations_per_second": round(devices / registering), "clients": clients, "window": window, "messages": messages,
        "durable_alarms_per_second": round(messages / seconds), "not_200": sum(device.bad for device in made), "gateway_mb": resident >> 20,
        "load": [round(one, 1) for one in os.getloadavg()],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--messages", type=int, default=40_000)
    arguments = parser.parse_args()
    print(json.dumps(uvloop.run(measure(arguments.devices, arguments.clients, arguments.window, arguments.messages))))
