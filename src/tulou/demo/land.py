"""Where the demo puts its devices: points on the land of each city (`land.json`, made by `scripts/demo_land.py`).

Law: pure; the same random generator gives the same points. Longitude and latitude in degrees; the outlines' datum is
undeclared by their source, which is good enough for devices that do not exist.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from random import Random

Ring = list[list[float]]


@cache
def outlines() -> dict[str, list[Ring]]:
    """Outer rings of every city, by organisation id, largest first."""
    land: dict[str, list[Ring]] = json.loads(files("tulou.demo").joinpath("land.json").read_text("utf-8"))
    return land


def inside(lon: float, lat: float, ring: Ring) -> bool:
    """Whether a point is inside a ring, by the even-odd rule."""
    odd = False
    for (x1, y1), (x2, y2) in zip(ring, ring[1:] + ring[:1], strict=True):
        if (y1 > lat) != (y2 > lat) and lon < (x2 - x1) * (lat - y1) / (y2 - y1) + x1:
            odd = not odd
    return odd


def place(city: str, random: Random, centre: tuple[float, float] | None = None, spread: float = 0.0) -> tuple[float, float]:
    """A random point (lon, lat) on the land of `city`.

    With `centre` and `spread` (degrees) it is drawn from a normal distribution around the centre, as street lights
    and manholes cluster in towns; points in the sea or in the next city are drawn again.
    """
    rings = outlines()[city]
    west, east = min(p[0] for r in rings for p in r), max(p[0] for r in rings for p in r)
    south, north = min(p[1] for r in rings for p in r), max(p[1] for r in rings for p in r)
    for attempt in range(1000):
        if centre is not None and attempt < 200:
            lon, lat = random.gauss(centre[0], spread), random.gauss(centre[1], spread)
        else:
            lon, lat = random.uniform(west, east), random.uniform(south, north)
        if any(inside(lon, lat, ring) for ring in rings):
            return round(lon, 5), round(lat, 5)
    raise ValueError(f"{city}: no land found")
