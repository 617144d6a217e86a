"""How many readings a second 1,000 rules of every kind can follow.

    PYTHONPATH=src python bench/rules.py [--rules 1000] [--readings 50000] [--seconds 10]

20 entity types with 5 properties each; 10,000 entities, of which each tells its five properties each second, in batches of
1,000 frames as gateways make them. Seven of ten rules are thresholds, the others of every other kind. Two figures, as one
JSON object: `evaluator`, decoding and judging alone, in groups of half a second, one reading in a hundred beyond a bound; and
`stream`, the house's task of the role `rules` that works off a stream of as many seconds, alarms and checkpoints in SQL
included, one reading in ten thousand beyond.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
import uvloop

from tulou.access import Bulk, Devices, Rules
from tulou.access.batch import Batch, BatchBuilder
from tulou.access.models import alarms
from tulou.access.rules.engine import Engine
from tulou.access.rules.evaluator import Evaluator
from tulou.access.rules.models import Absence, Expression, Geofence, NewRule, Rate, Rule, Threshold
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.policy import system
from tulou.kernel.settings import Settings

TYPES, PROPERTIES, FRAMES = 20, 5, 1000
BULK = 5000
BEGAN = time.time_ns() // 1000
SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [100, 0], [100, 90], [0, 90], [0, 0]]]}


def condition(n: int, bound: float) -> Threshold | Rate | Absence | Geofence | Expression:
    """The condition of the n-th rule, for values of 0 to 100."""
    prop, other, kind = f"p{n // TYPES % PROPERTIES}", f"p{(n // TYPES + 1) % PROPERTIES}", n // TYPES % 10
    if kind == 0:
        return Rate(kind="rate", property=prop, above=bound - 4)
    if kind == 1:
        return Absence(kind="absence", property=prop, after_s=60)
    if kind == 2 and n % 3:
        return Geofence(kind="geofence", area=SQUARE, when="outside", longitude="p0", latitude="p1", for_s=5)
    if kind == 2:
        return Expression(kind="expression", raise_if=f"{prop} > {bound} and {other} > 90", for_s=5)
    return Threshold(property=prop, above=bound + n % 7 * (100 - bound) / 7, clear=bound - 9, for_s=n % 3 * 5)


def messages(second: int, readings: int, dice: np.random.Generator, nos: Sequence[int]) -> list[bytes]:
    """What gateways write in one second."""
    values, out = dice.uniform(0, 100, (readings // PROPERTIES, PROPERTIES)), []
    values[:, 1] *= 0.9  # the latitude of the geofences, which are kept
    for start in range(0, len(values), FRAMES):
        builder = BatchBuilder("mqtt")
        for n in range(start, min(start + FRAMES, len(values))):
            now = BEGAN + second * 1_000_000 + n
            frame = builder.frames(nos[n], ("fuzhou", f"T{n % TYPES}", 0), now, [b"{}"])
            for p in range(PROPERTIES):
                builder.reading(frame, f"p{p}", now, float(values[n, p]))
        out.append(builder.encode())
    return out


def evaluator(args: argparse.Namespace) -> dict[str, Any]:
    """Decoding and judging alone."""
    dice, nos = np.random.default_rng(1), range(1, args.readings // PROPERTIES + 1)
    rules = [Rule(f"rule-{n}", f"T{n % TYPES}", condition(n, 99.0), "major") for n in range(args.rules)]
    judge, count, changes, spent = Evaluator(rules, {}), 0, 0, 0.0
    for second in range(args.seconds + 1):
        bodies = messages(second, args.readings, dice, nos)
        began = time.perf_counter()
        for half in (bodies[: len(bodies) // 2], bodies[len(bodies) // 2 :]):
            batches = [Batch.decode(body) for body in half]
            found = len(judge.take(batches))
            if second:  # the first makes room for the entities
                changes += found
                count += sum(len(b.r_val) for b in batches)
        if second:
            spent += time.perf_counter() - began
    began = time.perf_counter()
    judge.snapshot()
    return {"readings": count, "changes": changes, "readings_per_second": round(count / spent),
            "snapshot_ms": round((time.perf_counter() - began) * 1000, 1)}


async def stream(args: argparse.Namespace) -> dict[str, Any]:
    """The task of the role `rules`, which works off a stream."""
    with tempfile.TemporaryDirectory() as folder:
        pack = Path(folder) / "pack"
        pack.mkdir()
        label = {"zh": "量", "en": "quantity"}
        model = {"label": label, "properties": {f"p{p}": {"label": label} for p in range(PROPERTIES)}}
        (pack / "pack.yaml").write_text(json.dumps(
            {"name": "bench", "version": "1", "label": label, "models": {f"T{n}": model for n in range(TYPES)}}
        ), "utf-8")
        house = House(Settings(home=Path(folder) / "home", http_port=free_port(), mqtt_port=0, packs=str(pack)))
        await house.start(("api", "rules"))
        actor, dice = system("bench"), np.random.default_rng(1)
        try:
            items = [
                {"org": "fuzhou", "type": f"T{n % TYPES}", "name": f"{n}", "id": f"b{n}", "synthetic": True}
                for n in range(args.readings // PROPERTIES)
            ]
            nos: list[int] = []
            for start in range(0, len(items), BULK):
                made = await house.service(Devices).create_many(actor, Bulk(items=items[start : start + BULK]))
                nos += [line["no"] for line in made]
            for n in range(args.rules):
                rule = {"org": "fuzhou", "name": f"{n}", "type": f"T{n % TYPES}", "condition": condition(n, 99.99)}
                await house.service(Rules).create(actor, NewRule.model_validate(rule))
            async with house.paused("rules"):
                for second in range(args.seconds):
                    for body in await asyncio.to_thread(messages, second, args.readings, dice, nos):
                        await house.bus.js.publish("tulou.readings.bench", body)
            last = (await house.bus.js.stream_info("READINGS")).state.last_seq
            engine = house.service(Engine)
            began = time.perf_counter()
            while engine.position < last:  # noqa: ASYNC110 - as one who looks at a clock
                await asyncio.sleep(0.01)
            spent = time.perf_counter() - began
            raised = await house.db.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(alarms)).scalar_one())
            count = args.seconds * args.readings
            return {"readings": count, "alarms": raised, "readings_per_second": round(count / spent)}
        finally:
            await house.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--readings", type=int, default=50_000)
    parser.add_argument("--seconds", type=int, default=10)
    args = parser.parse_args()
    figures = {"evaluator": evaluator(args), "stream": uvloop.run(stream(args))}
    print(json.dumps({
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
                   f"Python {platform.python_version()}",
        "rules": args.rules, "needed": args.readings, **figures,
        "met": all(part["readings_per_second"] >= args.readings for part in figures.values()),
    }))


if __name__ == "__main__":
    main()
