"""Ends the house at random moments under QoS 1 load, and counts what is left.

    python -m tests.durability.kill9 --rounds 50 --what tree      kill -9 of the whole process tree
    python -m tests.durability.kill9 --rounds 20 --what nats      kill -9 of nats-server alone
    python -m tests.durability.kill9 --rounds 20 --what gateway   kill -9 of the gateway alone
    python -m tests.durability.kill9 --rounds 5 --what disk       the disk is full for a while (a loop device; root)

Law: a number that was acknowledged is stored exactly once; one that was not is stored at most once; and every roll-up
counts what is stored. Devices send numbers that never repeat; half of them send their own time, half do not. What is
not acknowledged is sent again with the DUP flag, as MQTT demands. Prints one JSON line of figures; exit code 1 if the
law is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tulou.access import mqtt
from tulou.kernel.bus import free_port
from tulou.kernel.readings import open_readings

PASSWORD = "durability-9-test"
TOPIC = b"v1/devices/me/telemetry"
ROOT = Path(__file__).parents[2]


class Tree:
    """`tulou up` and its children, in a process group of their own."""

    def __init__(self, home: Path, log: Path) -> None:
        self.home, self.log = home, log
        self.http, self.mqtt = free_port(), free_port()
        self.process: asyncio.subprocess.Process | None = None
        self.starts: list[float] = []

    async def start(self) -> None:
        """Start and wait until both doors are open."""
        began = time.monotonic()
        env = {
            **os.environ, "TULOU_HOME": str(self.home), "TULOU_HTTP_PORT": str(self.http),
            "TULOU_MQTT_PORT": str(self.mqtt), "TULOU_ADMIN_PASSWORD": PASSWORD, "PYTHONPATH": str(ROOT / "src"),
        }
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tulou", "up", env=env, stdout=log, stderr=log, start_new_session=True,
            )
        async with asyncio.timeout(90):
            while True:
                if self.process.returncode is not None:
                    raise RuntimeError(f"the house ended with {self.process.returncode}; see {self.log}")
                try:
                    async with httpx.AsyncClient() as client:
                        if (await client.get(f"http://127.0.0.1:{self.http}/healthz")).status_code == 200:
                            break
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)
        self.starts.append(time.monotonic() - began)

    async def kill(self) -> None:
        """kill -9 of the whole group; returns when nothing of it is left."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        while _group(self.process.pid):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)

    def child(self, name: str) -> int | None:
        """The process id of a child by a word of its command line."""
        assert self.process is not None
        return next((pid for pid, line in _group(self.process.pid) if name in line and pid != self.process.pid), None)

    async def stop(self) -> int:
        """End in order; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        try:
            return await asyncio.wait_for(self.process.wait(), 60)
        finally:
            await self.kill()


def _group(leader: int) -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if int(stat[2]) == leader and stat[0] != "Z":
                    found.append((int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
    return found


@dataclass
class Device:
    """A client that sends numbers, keeps what is not acknowledged, and sends that again."""

    entity: int
    token: str
    timed: bool
    base: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    next: int = 1
    waiting: dict[int, int] = field(default_factory=dict)
    acked: set[int] = field(default_factory=set)
    resent: int = 0
    connections: int = 0
    busy: bool = True

    def payload(self, number: int) -> bytes:
        if self.timed:
            return json.dumps({"ts": self.base + number, "values": {"n": number, "half": number / 2}}).encode()
        return json.dumps({"n": number, "half": number / 2}).encode()

    async def run(self, port: int, window: int, pause: float) -> None:
        """Send until `busy` is false and everything is acknowledged."""
        while self.busy or self.waiting:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            try:
                await self._talk(reader, writer, window, pause)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                await asyncio.sleep(0.02)
            finally:
                writer.close()

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int, pause: float
    ) -> None:
        writer.write(mqtt.connect(f"d{self.entity}", self.token))
        if (await asyncio.wait_for(reader.readexactly(4), 10))[3] != 0:
            await asyncio.sleep(0.2)
            raise OSError("refused")
        self.connections += 1
        ids = {number % 65535 + 1: number for number in self.waiting}
        for number in sorted(self.waiting):
            self.resent += 1
            writer.write(mqtt.publish(TOPIC, self.payload(number), 1, (number % 65535 + 1).to_bytes(2), dup=True))

        async def listen() -> None:
            while True:
                head = await reader.readexactly(2)
                body = await reader.readexactly(head[1])
                if head[0] == 0x40:
                    number = ids.pop(int.from_bytes(body[:2]))
                    self.acked.add(number)
                    del self.waiting[number]

        listening = asyncio.create_task(listen())
        try:
            while (self.busy or self.waiting) and not listening.done():
                if self.busy and len(self.waiting) < window:
                    number = self.next
                    self.next += 1
                    self.waiting[number] = ids[number % 65535 + 1] = number
                    writer.write(mqtt.publish(TOPIC, self.payload(number), 1, (number % 65535 + 1).to_bytes(2)))
                    if pause or number % 20 == 0:
                        await asyncio.sleep(pause)
                else:
                    await writer.drain()
                    await asyncio.sleep(0.002)
            if listening.done():
                listening.result()
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, asyncio.IncompleteReadError, KeyError):
                await listening


async def enrol(tree: Tree, count: int) -> list[Device]:
    """Create devices through the house's own API."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{tree.http}/api/v1", headers={"X-Tulou": "1"}) as client:
        answer = await client.post("/session", json={"name": "admin", "password": PASSWORD})
        answer.raise_for_status()
        devices = []
        for number in range(count):
            answer = await client.post("/devices", json={
                "org": "fuzhou", "type": "Device", "name": f"durability {number}", "id": f"durability-{number}",
                "synthetic": True,
            })
            answer.raise_for_status()
            body = answer.json()
            devices.append(Device(body["no"], body["token"], timed=number % 2 == 0))
        return devices


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """An ext4 file system of that size on a loop device."""
    image, point = folder / "disk.img", folder / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=True)


def fill(folder: Path) -> Path:
    """Write until the disk is full."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 512):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    return ballast


async def strike(tree: Tree, what: str, pick: random.Random) -> None:
    """One blow, and the house is whole again."""
    if what == "tree":
        await tree.kill()
        await tree.start()
    elif what == "disk":
        ballast = await asyncio.to_thread(fill, tree.home)
        await asyncio.sleep(pick.uniform(1, 4))
        ballast.unlink(missing_ok=True)
        assert tree.process is not None
        if tree.process.returncode is not None:
            raise RuntimeError("the house ended because the disk was full")
    else:
        name = {"nats": "nats-server", "gateway": "tulou.access.gateway"}[what]
        async with asyncio.timeout(60):
            while (pid := tree.child(name)) is None:  # noqa: ASYNC110 - a blow at nothing is none
                await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGKILL)


async def settle(tree: Tree, entities: int, seconds: float = 120) -> None:
    """Wait until the writer has worked the stream off."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{tree.http}/api/v1", headers={"X-Tulou": "1"}) as client:
        answer = await client.post("/session", json={"name": "admin", "password": PASSWORD})
        answer.raise_for_status()
        quiet, deadline, ingest = 0, time.monotonic() + seconds, {}
        while quiet < 4:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the writer did not come to the end of the stream: {ingest}")
            await asyncio.sleep(1)
            system = (await client.get("/system")).json()
            ingest = system.get("ingest", {})
            idle = not ingest.get("waiting") and not ingest.get("lag_s") and not ingest.get("readings_per_second")
            quiet = quiet + 1 if idle else 0


async def count(home: Path, devices: list[Device]) -> dict[str, Any]:
    """Compare the store with what the devices know."""
    readings = open_readings(f"chdb:///{(home / 'readings').absolute()}")
    figures: dict[str, Any] = {"lost": 0, "twice": 0, "invented": 0, "wrong_time": 0, "unacknowledged_but_stored": 0}
    try:
        for device in devices:
            table = await readings.sql(
                f"SELECT property, toInt64(value * if(property = 'half', 2, 1)) AS n, count(), "
                f"min(toUnixTimestamp64Milli(ts)) FROM readings WHERE entity = {device.entity} GROUP BY ALL",
                seconds=120, max_rows=50_000_000,
            )
            for name in ("n", "half"):
                stored = {row[1]: row for row in table.rows if row[0] == name}
                figures["lost"] += len(device.acked - stored.keys())
                figures["twice"] += sum(row[2] - 1 for row in stored.values())
                figures["invented"] += sum(n >= device.next for n in stored)
                figures["unacknowledged_but_stored"] += len(stored.keys() - device.acked)
                if device.timed:
                    figures["wrong_time"] += sum(row[3] != device.base + n for n, row in stored.items())
        row = (await readings.sql("""
            SELECT (SELECT count() FROM readings), (SELECT uniqExact(entity, property, ts) FROM readings),
                (SELECT sum(count) FROM readings_hour), (SELECT sum(count) FROM readings_day),
                (SELECT sum(count) FROM area_hour), (SELECT count() FROM frames)""", seconds=120)).rows[0]
        figures |= dict(zip(("readings", "identities", "in_hours", "in_days", "in_areas", "frames"), row, strict=True))
        latest = await readings.latest([device.entity for device in devices], ["n"], orgs=None)
        figures["latest_wrong"] = sum(
            latest.get(d.entity, {}).get("n") is None or latest[d.entity]["n"].value < max(d.acked, default=0)
            for d in devices if d.timed
        )
    finally:
        await readings.close()
    return figures


def broken(figures: dict[str, Any]) -> bool:
    """Whether the law was broken."""
    return any(figures[name] for name in ("lost", "twice", "invented", "wrong_time", "latest_wrong")) or not (
        figures["readings"] == figures["identities"] == figures["in_hours"] == figures["in_days"] == figures["in_areas"]
        and figures["frames"] * 2 == figures["readings"]
    )


async def trial(
    what: str, rounds: int, *, devices: int = 8, window: int = 50, pause: float = 0.0, shortest: float = 0.3,
    longest: float = 3.0, seed: int | None = None, folder: Path | None = None, disk_mb: int = 400,
) -> dict[str, Any]:
    """Run `rounds` blows and return the figures. `pause` is each device's, in seconds between messages."""
    seed = random.randrange(1 << 30) if seed is None else seed
    pick = random.Random(seed)
    base = Path(folder or tempfile.mkdtemp(prefix="tulou-durability-"))
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(base, disk_mb)) if what == "disk" else base
        tree = Tree(disk / "home", base / "house.log")
        tree.home.mkdir()
        began = time.monotonic()
        try:
            await tree.start()
            fleet = await enrol(tree, devices)
            sending = [asyncio.create_task(device.run(tree.mqtt, window, pause)) for device in fleet]
            for number in range(rounds):
                before = sum(len(d.acked) for d in fleet)
                async with asyncio.timeout(120):  # a blow at a house that has not come back is none
                    while sum(len(d.acked) for d in fleet) == before:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                await asyncio.sleep(pick.uniform(shortest, longest))
                await strike(tree, what, pick)
                print(f"round {number + 1}: acknowledged {sum(len(d.acked) for d in fleet):,}, "
                      f"sent again {sum(d.resent for d in fleet):,}", file=sys.stderr, flush=True)
            await asyncio.sleep(1)
            for device in fleet:
                device.busy = False
            async with asyncio.timeout(120):
                await asyncio.gather(*sending)
            await settle(tree, devices)
            code = await tree.stop()
        finally:
            if tree.process is not None and tree.process.returncode is None:
                await tree.kill()
        figures = await count(tree.home, fleet)
        figures |= {
            "what": what, "rounds": rounds, "seed": seed, "exit_code": code, "seconds": round(time.monotonic() - began),
            "acknowledged": sum(len(d.acked) for d in fleet), "sent_again": sum(d.resent for d in fleet),
            "connections": sum(d.connections for d in fleet), "slowest_start_s": round(max(tree.starts), 2),
        }
        figures["holds"] = not broken(figures)
    if folder is None and figures["holds"]:
        shutil.rmtree(base, ignore_errors=True)
    elif not figures["holds"]:
        print(f"kept for looking at: {base}", file=sys.stderr)
    return figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--what", choices=("tree", "nats", "gateway", "disk"), default="tree")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--window", type=int, default=50)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--longest", type=float, default=3.0)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    figures = asyncio.run(trial(
        options.what, options.rounds, devices=options.devices, window=options.window, pause=options.pause,
        longest=options.longest, seed=options.seed,
    ))
    print(json.dumps(figures))
    sys.exit(0 if figures["holds"] else 1)


if __name__ == "__main__":
    main()
