"""Subscriptions under load: what ten thousand of them cost the writing of state, and how fast notifications leave.

Law: the real service with its store (SQLite, every commit synced) in this process, no HTTP before it; the receiver is a
process of its own on the same machine. What was measured is printed.

Run: `python bench/subscriptions.py [--subscriptions 10000] [--seconds 3] [--notifications 10000]`; a JSON line of figures
comes last.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pluggy
import uvloop

from tulou.context import ContextService, Subscriptions, Update
from tulou.kernel import hookspecs
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.policy import Actor, Binding
from tulou.kernel.settings import Settings

PLUGINS = (
    "tulou.kernel.organisations.hooks", "tulou.kernel.audit", "tulou.kernel.jobs", "tulou.kernel.workflows", "tulou.kernel.system",
    "tulou.context.hooks", "tulou.packs.hooks",
)
ORG, KIND = "xiamen", "AirQualityStation"
ACTOR = Actor("user:bench", "bench", ORG, "user", frozenset({Binding(ORG, "steward")}), None, "user:bench")
ENTITIES = 2_000


class Everyone:
    """Knows the one actor of this benchmark."""

    async def actor_of(self, _scope: Any) -> Actor | None:
        return ACTOR

    async def actor_named(self, _id: str) -> Actor | None:
        return ACTOR


def receive(port: int, count: Any) -> None:
    """A receiver that answers 204 as soon as it has the request."""
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                at = head.lower().index(b"content-length:") + 15
                await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
                count.value += 1
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()

    async def main() -> None:
        await (await asyncio.start_server(serve, "127.0.0.1", port)).serve_forever()

    uvloop.run(main())


def subscription(uri: str, entity: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "Subscription", "entities": [{"type": KIND, **(entity or {})}], "notification": {"endpoint": {"uri": uri}}, **more}


def kinds(uri: str) -> dict[str, Callable[[int], dict[str, Any]]]:
    """Ten thousand subscriptions to one type, of which a write of pm25 in 0..500 makes few or none match."""
    return {
        "one entity each": lambda n: subscription(uri, {"id": f"urn:ngsi-ld:{KIND}:{n + ENTITIES - 10}"}),
        "q, a bound each": lambda n: subscription(uri, q=f"pm25>{499.9 + n}"),
        "one attribute each": lambda n: subscription(uri, watchedAttributes=[f"attribute{n}"]),
        "q on another value": lambda n: subscription(uri, q=f'district=="d{n + 1}"'),
    }


async def fill(house: House, make: Callable[[int], dict[str, Any]], count: int) -> float:
    """Create subscriptions, 200 at once; how many a second."""
    service, began = house.service(Subscriptions), time.perf_counter()
    for at in range(0, count, 200):
        await asyncio.gather(*(service.create(ACTOR, make(n), None) for n in range(at, min(at + 200, count))))
    return count / (time.perf_counter() - began)


async def clear(house: House) -> None:
    def write(connection: Any) -> None:
        connection.exec_driver_sql("DELETE FROM notification_outbox")
        connection.exec_driver_sql("DELETE FROM subscriptions")

    await house.db.write(write)
    await house.service(Subscriptions).reload()


async def writes(house: House, numbers: list[int], seconds: float) -> tuple[float, float, float, float]:
    """(projected updates a second in groups of 1,000, single durable updates a second by 32 at once), then the processor
    time in µs that one of each took: it depends less on what else the machine does."""
    service = house.service(ContextService)
    clock, done, end = int(time.time() * 1e6), 0, time.perf_counter() + seconds
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() < end:
        clock += 1
        await service.project([Update(no, "pm25", clock, random.uniform(0, 500)) for no in random.sample(numbers, 1000)])
        done += 1000
    projected, projected_cpu = done / (time.perf_counter() - began), (time.process_time() - cpu) / done * 1e6
    done, end = 0, time.perf_counter() + seconds

    async def one() -> None:
        nonlocal done
        while time.perf_counter() < end:
            value = {"type": "Property", "value": random.uniform(0, 500)}
            await service.append(ACTOR, f"urn:ngsi-ld:{KIND}:{random.randrange(ENTITIES)}", {"pm25": value})
            done += 1

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one() for _ in range(32)))
    single, single_cpu = done / (time.perf_counter() - began), (time.process_time() - cpu) / done * 1e6
    return projected, single, projected_cpu, single_cpu


async def delivered(house: House, uri: str, total: int, count: Any) -> float:
    """Notifications a second from a full outbox to a fast receiver, by ten subscriptions."""
    service = house.service(Subscriptions)
    await fill(house, lambda n: subscription(f"{uri}/{n}"), 10)
    entities = house.service(ContextService)
    for n in range(total // 10):
        await entities.append(ACTOR, f"urn:ngsi-ld:{KIND}:{n % ENTITIES}", {"pm25": {"type": "Property", "value": n}})
    count.value = 0
    began = time.perf_counter()
    task = asyncio.create_task(service.deliver(house))
    while count.value < total:  # noqa: ASYNC110  another process counts
        await asyncio.sleep(0.01)
    rate = total / (time.perf_counter() - began)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return rate


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscriptions", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--notifications", type=int, default=10_000)
    options = parser.parse_args()
    manager = pluggy.PluginManager("tulou")
    manager.add_hookspecs(hookspecs)
    for name in PLUGINS:
        manager.register(import_module(name), name)
    context = multiprocessing.get_context("spawn")
    count, port = context.Value("q", 0, lock=False), free_port()
    receiver = context.Process(target=receive, args=(port, count), daemon=True)
    receiver.start()
    uri = f"http://127.0.0.1:{port}"
    figures: dict[str, Any] = {"load": os.getloadavg()[0], "subscriptions": options.subscriptions}
    with tempfile.TemporaryDirectory() as folder:
        house = House(Settings(home=Path(folder), outbound_allow="127.0.0.0/8"), manager)
        await house.start((), bus=False)
        house.authenticator = Everyone()
        service = house.service(ContextService)
        numbers = [
            await service.ensure_entity(ORG, KIND, f"urn:ngsi-ld:{KIND}:{n}", f"测站 {n}", 118.0, 24.5, synthetic=True)
            for n in range(ENTITIES)
        ]
        await writes(house, numbers, 0.5)
        gc.freeze()  # as `tulou.app.up` does
        gc.set_threshold(50_000, 20, 100)
        for name, make in {"none": None, **kinds(uri)}.items():
            created = 0.0 if make is None else await fill(house, make, options.subscriptions)
            projected, single, projected_cpu, single_cpu = await writes(house, numbers, options.seconds)
            figures[name] = {"projected": round(projected), "single": round(single), "created": round(created),
                             "projected_cpu_us": round(projected_cpu, 1), "single_cpu_us": round(single_cpu, 1)}
            print(f"{name:22} {projected:9,.0f} projected/s ({projected_cpu:.0f} µs of processor) {single:9,.0f} single updates/s "
                  f"({single_cpu:.0f} µs); made at {created:,.0f}/s", flush=True)
            await clear(house)
            gc.collect()
        figures["delivered"] = round(await delivered(house, uri, options.notifications, count))
        print(f"delivered              {figures['delivered']:9,} notifications/s", flush=True)
        await house.stop()
    receiver.terminate()
    print(json.dumps(figures, ensure_ascii=False))


if __name__ == "__main__":
    uvloop.run(main())
