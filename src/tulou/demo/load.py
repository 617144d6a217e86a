"""A cheap MQTT 3.1.1 load generator: packets are built once, acknowledgements are counted by their bytes.

    python -m tulou.demo.load --port 1883 --tokens tokens.txt --connections 50 --window 50 --qos 1 --seconds 10
    python -m tulou.demo.load --port 1883 --tokens tokens.txt --idle 10000 --pid <server>

Each message is one telemetry object of five properties, about 120 bytes. Prints one JSON line. Latency is from the
write of a message to the read of its PUBACK, by groups of messages that were written together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import time
from collections import deque
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import cast

import uvloop

from tulou.access import mqtt

TOPIC = b"v1/devices/me/telemetry"
CYCLE = 4096


def payloads(count: int, seed: int = 1) -> list[bytes]:
    """Telemetry objects of five properties of a WeatherStation, about 110 bytes each."""
    rng = random.Random(seed)  # noqa: S311
    return [
        json.dumps({
            "temperature": round(rng.uniform(-5, 40), 2), "relativeHumidity": round(rng.uniform(20, 99), 2),
            "atmosphericPressure": round(rng.uniform(980, 1040), 2), "windSpeed": round(rng.uniform(0, 15), 2),
            "precipitation": round(rng.uniform(0, 20), 2),
        }, separators=(",", ":")).encode()
        for _ in range(count)
    ]


class Page:
    """`CYCLE` PUBLISH packets one after another, and where each begins."""

    def __init__(self, qos: int) -> None:
        packets = [
            mqtt.publish(TOPIC, payload, qos, number.to_bytes(2) if qos else b"")
            for number, payload in enumerate(payloads(CYCLE), 1)
        ]
        self.data = b"".join(packets) * 2
        self.starts = [0]
        for packet in packets * 2:
            self.starts.append(self.starts[-1] + len(packet))
        self.size = sum(b - a for a, b in pairwise(self.starts)) / len(packets) / 2

    def run(self, at: int, count: int) -> bytes:
        at %= CYCLE
        return self.data[self.starts[at] : self.starts[at + count]]


class Client(asyncio.Protocol):
    """One device."""

    def __init__(self, load: Load, token: str) -> None:
        self.load, self.token = load, token
        self.sent = self.acked = 0
        self.half = 0
        self.flights: deque[tuple[int, float]] = deque()
        self.connected = False
        self.can_write = True
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(mqtt.connect(f"load-{id(self):x}", self.token, keep_alive=0))

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.lost += 1
        if not self.finished.done():
            self.finished.set_result(None)

    def pause_writing(self) -> None:
        self.can_write = False

    def resume_writing(self) -> None:
        self.can_write = True
        if self.connected and not self.load.qos:
            self.pump()

    def begin(self) -> None:
        if self.load.qos:
            self.send(self.load.window)
        else:
            self.pump()

    def pump(self) -> None:
        """QoS 0: as much as the socket takes, in turns with the other connections."""
        load = self.load
        if time.perf_counter() >= load.until:
            if not self.finished.done():
                self.transport.write(b"\xc0\x00")
            return
        if self.can_write:
            self.transport.write(load.page.run(self.sent, 500))
            self.sent += 500
            asyncio.get_running_loop().call_soon(self.pump)

    def send(self, count: int) -> None:
        self.transport.write(self.load.page.run(self.sent, count))
        self.sent += count
        self.flights.append((count, time.perf_counter()))

    def data_received(self, data: bytes) -> None:
        load = self.load
        if not self.connected:
            if len(data) < 4 or data[3] != 0:
                load.refused += 1
                self.transport.close()
                return
            self.connected = True
            load.ready += 1
            if load.ready + load.refused == load.connections:
                load.all_ready.set()
            return
        if not load.qos:
            if not self.finished.done():
                self.finished.set_result(None)
            return
        size = len(data) + self.half
        count, self.half = size >> 2, size & 3
        self.acked += count
        now = time.perf_counter()
        flights, left = self.flights, count
        while left:
            many, at = flights[0]
            if many <= left:
                flights.popleft()
                left -= many
                load.latencies.append((now - at, many))
            else:
                flights[0] = (many - left, at)
                load.latencies.append((now - at, left))
                left = 0
        if now < load.until:
            self.send(count)
        elif self.acked == self.sent and not self.finished.done():
            self.finished.set_result(None)


class Load:
    """A run: connect all, send for `seconds`, wait for every acknowledgement."""

    def __init__(self, connections: int, window: int, qos: int, seconds: float) -> None:
        self.connections, self.window, self.qos, self.seconds = connections, min(window, CYCLE - 1), qos, seconds
        self.page = Page(qos)
        self.until = 0.0
        self.ready = self.refused = self.lost = 0
        self.all_ready = asyncio.Event()
        self.latencies: list[tuple[float, int]] = []

    async def run(self, host: str, port: int, tokens: list[str]) -> dict[str, float]:
        """Returns counts, messages/s and latency percentiles in ms."""
        loop = asyncio.get_running_loop()
        clients = []
        for number in range(self.connections):
            client = Client(self, tokens[number % len(tokens)])
            await loop.create_connection(partial(_same, client), host, port)
            clients.append(client)
        await asyncio.wait_for(self.all_ready.wait(), 30)
        began = time.perf_counter()
        self.until = began + self.seconds
        for client in clients:
            if client.connected:
                client.begin()
        await asyncio.wait([client.finished for client in clients if client.connected], timeout=60)
        took = time.perf_counter() - began
        sent = sum(client.sent for client in clients)
        acked = sum(client.acked for client in clients) if self.qos else sent
        for client in clients:
            client.transport.close()
        result = {
            "connections": self.connections, "window": self.window, "qos": self.qos, "seconds": round(took, 3),
            "sent": sent, "acked": acked, "messages_per_second": round(acked / took), "refused": self.refused,
            "bytes_per_message": round(self.page.size, 1), "load_cpu_us": round(cpu(os.getpid()) / acked * 1e6, 2),
        }
        if self.latencies:
            self.latencies.sort()
            total, seen = sum(many for _, many in self.latencies), 0
            for latency, many in self.latencies:
                before, seen = seen, seen + many
                for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
                    if before < total * share <= seen:
                        result[name] = round(latency * 1000, 2)
        return result


class Idle(asyncio.Protocol):
    """A connection that only says CONNECT."""

    def __init__(self, token: str, accepted: list[int]) -> None:
        self.token, self.accepted = token, accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(mqtt.connect(f"idle-{id(self):x}", self.token, keep_alive=0))

    def data_received(self, data: bytes) -> None:
        self.accepted[0] += data[:4] == b"\x20\x02\x00\x00"


async def idle(host: str, port: int, tokens: list[str], count: int, pid: int, hold: float) -> dict[str, float]:
    """Open `count` connections and report the server's resident memory (bytes)."""
    loop = asyncio.get_running_loop()
    accepted = [0]
    before = memory(pid)
    began = time.perf_counter()
    transports = []
    for start in range(0, count, 200):
        opened = await asyncio.gather(*(
            loop.create_connection(
                lambda n=number: Idle(tokens[n % len(tokens)], accepted), host, port,
                local_addr=(f"127.0.0.{2 + number // 20_000}", 0) if host.startswith("127.") else None,
            )
            for number in range(start, min(start + 200, count))
        ))
        transports += [transport for transport, _ in opened]
    while accepted[0] < count and time.perf_counter() - began < 60:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    took = time.perf_counter() - began
    await asyncio.sleep(hold)
    after = memory(pid)
    for transport in transports:
        transport.close()
    return {"idle": count, "accepted": accepted[0], "seconds": round(took, 2), "rss_before": before, "rss": after}


def _same(client: Client) -> Client:
    return client


def memory(pid: int) -> int:
    """Resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() if pid else 0


def cpu(pid: int) -> float:
    """Processor time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=1883)
    arguments.add_argument("--tokens", type=Path, help="file with one access token a line")
    arguments.add_argument("--connections", type=int, default=50)
    arguments.add_argument("--window", type=int, default=50)
    arguments.add_argument("--qos", type=int, choices=(0, 1), default=1)
    arguments.add_argument("--seconds", type=float, default=5.0)
    arguments.add_argument("--idle", type=int, default=0)
    arguments.add_argument("--pid", type=int, default=0, help="the server, to report its memory")
    arguments.add_argument("--hold", type=float, default=2.0)
    options = arguments.parse_args()
    tokens = options.tokens.read_text().split() if options.tokens else ["anyone"]
    raise_file_limit()

    async def run() -> dict[str, float]:
        if options.idle:
            return await idle(options.host, options.port, tokens, options.idle, options.pid, options.hold)
        load = Load(options.connections, options.window, options.qos, options.seconds)
        return await load.run(options.host, options.port, tokens)

    print(json.dumps(uvloop.run(run())))


if __name__ == "__main__":
    main()
