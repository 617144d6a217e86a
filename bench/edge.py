"""How fast an edge that was cut off catches up, beside a plain NATS leaf node whose stream the hub sources.

    PYTHONPATH=src python bench/edge.py [--messages 5000] [--frames 50] [--devices 1000]

The same messages stand in the stream of the edge both times; the hub knows the devices. `uplink`: the edge's task brings them by HTTP to a hub that runs as
`tulou up --role api`, which numbers them anew and publishes them, durable before it answers. `leaf`: two nats-servers, joined as
leaf node and hub, both with `sync_interval: always`; the hub's stream sources the edge's and changes nothing in it. One JSON object:
messages, frames and megabytes a second of each until the hub has all, and their ratio. All on the loopback address.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import nats
import uvloop
from nats.js.api import ExternalStream, StorageType, StreamConfig, StreamSource

from tulou.access import Bulk, Devices
from tulou.access.batch import BatchBuilder
from tulou.access.edge.uplink import Uplink
from tulou.kernel.bus import die_with_parent, free_port, nats_server_binary
from tulou.kernel.house import House
from tulou.kernel.policy import system
from tulou.kernel.settings import Settings

STREAM = "READINGS"
PASSWORD = "a-house-of-rammed-earth-1308"


def messages(args: argparse.Namespace, nos: list[int]) -> list[bytes]:
    """What a gateway writes: batches of frames with five readings each, labelled synthetic."""
    out, at = [], time.time_ns() // 1000 - 3_600_000_000
    for n in range(args.messages):
        builder = BatchBuilder("mqtt")
        for i in range(args.frames):
            no, now = nos[(n * args.frames + i) % len(nos)], at + n * args.frames + i
            values = {f"p{p}": round((n * 7 + i * p) % 1000 / 10, 1) for p in range(5)}
            frame = builder.frames(no, ("fuzhou", "Device", 3), now, [json.dumps(values).encode()])
            for name, value in values.items():
                builder.reading(frame, name, now, value)
        out.append(builder.encode())
    return out


async def fill(js: Any, bodies: list[bytes]) -> None:
    for start in range(0, len(bodies), 200):
        await asyncio.gather(*(js.publish("tulou.readings.bench", body, timeout=30) for body in bodies[start : start + 200]))


async def uplink(args: argparse.Namespace, folder: Path) -> tuple[float, list[bytes]]:
    """Seconds until the hub has everything; and the messages."""
    port = free_port()
    env = {**os.environ, "TULOU_HOME": str(folder / "hub"), "TULOU_HTTP_PORT": str(port), "TULOU_MQTT_PORT": "0",
           "TULOU_ADMIN_PASSWORD": PASSWORD}
    hub = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "tulou", "up", "--role", "api"], env=env, stdout=subprocess.PIPE, preexec_fn=die_with_parent
    )
    assert hub.stdout is not None
    await asyncio.to_thread(hub.stdout.readline)
    edge: House | None = None
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", headers={"x-tulou": "1"}, timeout=60) as client:
            run = json.loads((folder / "hub" / "run.json").read_text())
            client.headers["authorization"] = f"Bearer {run['token']}"
            token = (await client.post("/edges", json={"org": "fuzhou", "name": "bench"})).json()["token"]
        edge = House(Settings(home=folder / "edge", edge_hub=f"http://127.0.0.1:{port}", edge_token=token))
        await edge.start(("api",))
        made = await edge.service(Devices).create_many(system("bench"), Bulk(items=[
            {"org": "fuzhou", "type": "Device", "name": f"d{n}", "id": f"d{n}", "synthetic": True} for n in range(args.devices)
        ]))
        bodies = messages(args, [one["no"] for one in made])
        known = messages(argparse.Namespace(messages=1, frames=args.devices), [one["no"] for one in made])
        await fill(edge.bus.js, known)
        await brought(edge, len(known))
        await fill(edge.bus.js, bodies)
        return await brought(edge, len(known) + len(bodies)), bodies
    finally:
        if edge is not None:
            await edge.stop()
        hub.kill()
        hub.wait()


async def brought(edge: House, last: int) -> float:
    """Seconds until the hub has the edge's stream up to `last`."""
    service, began = edge.service(Uplink), time.monotonic()
    task = asyncio.create_task(service.run(edge))
    while service.position < last:
        if task.done():
            task.result()
        await asyncio.sleep(0.01)
    took = time.monotonic() - began
    task.cancel()
    await asyncio.wait([task])
    return took


async def leaf(bodies: list[bytes], folder: Path) -> float:
    """Seconds until a hub that sources the stream of a leaf node has everything."""
    ports = {name: free_port() for name in ("hub", "edge", "join")}
    joined = {
        "hub": f"leafnodes {{ listen: 127.0.0.1:{ports['join']} }}",
        "edge": f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{ports["join"]}" }} ] }}',
    }
    servers = []
    for name, more in joined.items():
        config = folder / f"{name}.conf"
        config.write_text(
            f'listen: 127.0.0.1:{ports[name]}\nserver_name: "{name}"\nmax_payload: 8388608\n{more}\n'
            f'jetstream {{ store_dir: "{folder / name}-js", domain: {name}, sync_interval: always }}\n'
        )
        servers.append(subprocess.Popen(  # noqa: ASYNC220
            [nats_server_binary(Settings()), "-c", config], stderr=(folder / f"{name}.log").open("wb"), preexec_fn=die_with_parent
        ))
    try:
        await asyncio.sleep(1)
        hub, edge = [await nats.connect(f"nats://127.0.0.1:{ports[name]}") for name in ("hub", "edge")]
        await edge.jetstream().add_stream(StreamConfig(name=STREAM, subjects=["tulou.readings.>"], storage=StorageType.FILE))
        await fill(edge.jetstream(), bodies)
        js, began = hub.jetstream(), time.monotonic()
        await js.add_stream(StreamConfig(name=STREAM, storage=StorageType.FILE, sources=[
            StreamSource(name=STREAM, external=ExternalStream(api="$JS.edge.API")),
        ]))
        while (await js.stream_info(STREAM)).state.messages < len(bodies):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        took = time.monotonic() - began
        await hub.close()
        await edge.close()
        return took
    finally:
        for server in servers:
            server.kill()
            server.wait()


async def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ours, bodies = await uplink(args, Path(folder))
        theirs = await leaf(bodies, Path(folder))
    size = sum(map(len, bodies)) / 1e6

    def of(seconds: float) -> dict[str, float]:
        return {"seconds": round(seconds, 2), "messages_s": round(len(bodies) / seconds), "megabytes_s": round(size / seconds, 1),
                "frames_s": round(len(bodies) * args.frames / seconds)}

    print(json.dumps({
        "messages": len(bodies), "frames": args.frames, "bytes": round(size / len(bodies) * 1e6), "load": os.getloadavg()[0],
        "uplink": of(ours), "leaf": of(theirs), "ratio": round(theirs / ours, 2),
    }))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--devices", type=int, default=1000)
    uvloop.run(main(parser.parse_args()))
