"""Ends an edge and its hub at random moments while the edge catches up, and compares what is left.

    python -m tests.durability.edge9 --rounds 10

Law: what the edge acknowledged is at the hub once, each device's messages in their order, and the hub's alarms are the edge's. In
each round the link is cut while devices speak, opened, broken somewhere in what passes, and one of the two is ended by `kill -9`,
or its nats-server is. Prints one JSON line; exit code 1 if the law is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.access.linking import Link
from tests.access.test_edge import House, Pair
from tests.e2e.conftest import PASSWORD, Tulou, alive, eventually


def nats_of(house: House) -> int:
    """The process number of the house's nats-server."""
    return next(pid for pid in house.tulou.pids() if "nats-server" in Path(f"/proc/{pid}/cmdline").read_text())


def main(args: argparse.Namespace) -> int:
    dice = random.Random(args.seed)
    ended: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hub = House.started(Tulou(folder / "hub", admin_password=PASSWORD))
        made = hub.post("/edges", {"org": "fuzhou", "name": "x"})
        link = Link(hub.tulou.http_port)
        edge = House.started(Tulou(folder / "edge", admin_password=PASSWORD, edge_hub=link.url, edge_token=made["token"]))
        pair = Pair(hub, edge, link, made["no"], made["token"])
        devices = [edge.device(f"d{n}", kind="Manhole" if n == 3 else "AirQualityStation") for n in range(4)]
        began = int(time.time() * 1000) - args.rounds * 3_600_000
        for round_ in range(args.rounds):
            link.be("cut")
            for step in range(args.steps):
                at = began + round_ * 3_600_000 + step * 1000
                for n, device in enumerate(devices):
                    values = {"tilt": 40.0 if step // 9 % 2 else 1.0} if n == 3 else {"pm25": float(round_ * 1000 + step)}
                    edge.say(device, {"ts": at, "values": values})
            link.break_after = dice.choice((0, 300, 1000, 4000, 20_000))
            link.be("open")
            time.sleep(dice.uniform(0, 1.2))
            house, whole = dice.choice((edge, hub)), dice.random() < 0.7
            what = ("edge" if house is edge else "hub") + ("" if whole else " nats")
            ended[what] = ended.get(what, 0) + 1
            if whole:
                below = house.tulou.kill()
                eventually(lambda below=below: not any(alive(pid) for pid in below))
                house.tulou.start()
                house.sign_in()
            else:
                os.kill(nats_of(house), signal.SIGKILL)
            link.break_after = 0
        try:
            pair.caught_up(120)
            eventually(lambda: hub.alarms() == edge.alarms(), 30)
            same = hub.frames() == edge.frames()
        except AssertionError:
            same = False
        row: dict[str, Any] = pair.row()
        print(json.dumps({"same": same, "acknowledged": edge.said, "edge": len(edge.readings()), "hub": len(hub.readings()),
                          "alarms": len(hub.alarms()), "ended": ended, "missed": row["missed"], "left_out": row["left_out"]}))
        link.close()
        edge.tulou.stop()
        hub.tulou.stop()
    return 0 if same and row["missed"] == 0 else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    raise SystemExit(main(parser.parse_args()))
