"""How many readings a second 1,000 rules of every kind can follow, in one thread.

    PYTHONPATH=src python bench/rules.py [--rules 1000] [--readings 50000] [--seconds 20]

20 entity types with 5 properties each; 10,000 entities, of which each tells its five properties each second, in batches of
1,000 frames as gateways make them. Seven of ten rules are thresholds, the others of every other kind; one reading in a
hundred is beyond a bound. Measured is the evaluator with decoding, as the house runs it. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time

import numpy as np

from tulou.access.batch import Batch, BatchBuilder
from tulou.access.rules.evaluator import Evaluator
from tulou.access.rules.models import Absence, Expression, Geofence, Rate, Rule, Threshold

TYPES, PROPERTIES, FRAMES = 20, 5, 1000
SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [90, 0], [90, 90], [0, 90], [0, 0]]]}


def condition(n: int) -> Threshold | Rate | Absence | Geofence | Expression:
    """The condition of the n-th rule."""
    prop, other, kind = f"p{n // TYPES % PROPERTIES}", f"p{(n // TYPES + 1) % PROPERTIES}", n // TYPES % 10
    if kind == 0:
        return Rate(kind="rate", property=prop, above=95.0)
    if kind == 1:
        return Absence(kind="absence", property=prop, after_s=60)
    if kind == 2 and n % 3:
        return Geofence(kind="geofence", area=SQUARE, longitude="p0", latitude="p1", for_s=5)
    if kind == 2:
        return Expression(kind="expression", raise_if=f"{prop} > 99 and {other} > 90", for_s=5)
    return Threshold(property=prop, above=99.0 + n % 7 / 7, clear=90.0, for_s=n % 3 * 5)


def rules(count: int) -> list[Rule]:
    """Rules over all types, kinds mixed."""
    return [Rule(f"rule-{n}", f"T{n % TYPES}", condition(n), "major", id=n) for n in range(count)]


def messages(second: int, readings: int, dice: np.random.Generator) -> list[bytes]:
    """What gateways write in one second."""
    entities = readings // PROPERTIES
    values, out = dice.uniform(0, 100, (entities, PROPERTIES)), []
    for start in range(0, entities, FRAMES):
        builder = BatchBuilder("mqtt")
        for n in range(start, min(start + FRAMES, entities)):
            now = (1_800_000_000 + second) * 1_000_000 + n
            frame = builder.frames(n + 1, ("fuzhou", f"T{n % TYPES}", 0), now, [b"{}"])
            for p in range(PROPERTIES):
                builder.reading(frame, f"p{p}", now, float(values[n, p]))
        out.append(builder.encode())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--readings", type=int, default=50_000)
    parser.add_argument("--seconds", type=int, default=20)
    args = parser.parse_args()
    dice = np.random.default_rng(1)
    evaluator = Evaluator(rules(args.rules), {})
    count, changes, spent, worst = 0, 0, 0.0, 0.0
    for second in range(args.seconds + 1):
        bodies = messages(second, args.readings, dice)
        began = time.perf_counter()
        for half in (bodies[: len(bodies) // 2], bodies[len(bodies) // 2 :]):  # groups of half a second
            batches = [Batch.decode(body) for body in half]
            found = len(evaluator.take(batches))
            if second:
                changes += found
                count += sum(len(b.r_val) for b in batches)
        took = time.perf_counter() - began
        if second:  # the first makes room for the entities
            spent, worst = spent + took, max(worst, took)
    began = time.perf_counter()
    evaluator.snapshot()
    print(json.dumps({
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "rules": args.rules, "readings": count, "changes": changes,
        "readings_per_second": round(count / spent), "needed": args.readings,
        "times_needed": round(count / spent / args.readings, 2), "worst_second_ms": round(worst * 1000, 1),
        "snapshot_ms": round((time.perf_counter() - began) * 1000, 1),
    }))


if __name__ == "__main__":
    main()
