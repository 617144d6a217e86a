"""Applications' messages from publisher to subscriber, against mosquitto, in one run on one machine.

    PYTHONPATH=src:. python bench/broker.py [--seconds 3] [--pairs 4] [--window 50]

Pairs of a publisher and a subscriber on a topic of their own. mosquitto keeps nothing; here every message is synced before it
is acknowledged and delivered. Prints JSON: messages per second that arrived, and milliseconds from sending to arrival of
single messages (median, 99 %), by QoS.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from tests.access.test_broker import App
from tests.conformance.mqtt import start

from tulou.access import mqtt
from tulou.kernel.bus import free_port


async def pair(port: int, number: int, qos: int, options: argparse.Namespace) -> int:
    """Messages that arrived."""
    topic = f"bench/{number}"
    listener = await App.connect(port, f"listener-{number}")
    await listener.subscribe((topic, qos))
    speaker = await App.connect(port, f"speaker-{number}")
    until = time.monotonic() + options.seconds
    room = asyncio.Semaphore(options.window)
    arrived = 0

    async def listen() -> None:
        nonlocal arrived
        while True:
            head, body = await listener.packet(60)
            if head >> 4 == 3:
                _, _, head, packet_id = listener.read(head, body)
                arrived += 1
                room.release()
                if head & 6 == 4:
                    listener.send(mqtt.pubrecs([packet_id.to_bytes(2)]))
            elif head >> 4 == 6:
                listener.send(mqtt.pubcomp(body[:2]))
            elif not head:
                return

    async def acknowledge() -> None:
        while True:
            head, body = await speaker.packet(60)
            if head == 0x50:
                speaker.send(mqtt.pubrel(body[:2]))
            elif not head:
                return

    tasks = [asyncio.create_task(listen()), asyncio.create_task(acknowledge())]
    sent = 0
    while time.monotonic() < until:
        await room.acquire()
        sent += 1
        speaker.send(mqtt.publish(topic.encode(), b"x" * 100, qos, (sent % 60_000 + 1).to_bytes(2) if qos else b"", level=5))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return arrived


async def latency(port: int, qos: int) -> tuple[float, float]:
    listener, speaker = await App.connect(port, "l"), await App.connect(port, "s")
    await listener.subscribe(("latency", qos))
    took = []
    for number in range(1, 301):
        began = time.perf_counter()
        speaker.send(mqtt.publish(b"latency", b"x", qos, number.to_bytes(2) if qos else b"", level=5))
        await listener.message()
        took.append((time.perf_counter() - began) * 1000)
        if qos:
            await speaker.packet()
    return round(statistics.median(took), 2), round(sorted(took)[-3], 2)


async def measure(port: int, options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for qos in (0, 1, 2):
        counts = await asyncio.gather(*(pair(port, number, qos, options) for number in range(options.pairs)))
        found[f"QoS {qos} messages/s"] = round(sum(counts) / options.seconds)
    for qos in (0, 1):
        found[f"QoS {qos} ms"] = await latency(port, qos)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--window", type=int, default=50)
    options = parser.parse_args()
    results = {}
    for broker in ("mosquitto", "tulou"):
        with tempfile.TemporaryDirectory() as folder:
            port = free_port()
            process = start(broker, Path(folder), port)
            try:
                results[broker] = uvloop.run(measure(port, options))
            finally:
                process.terminate()
                process.wait(30)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
