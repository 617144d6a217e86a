"""The made-up province: which devices stand where, how they are registered, what they publish, and how they go.

Law: a demo device is known by its id (`urn:ngsi-ld:<Type>:demo-<city>-<number>`) and by its name, which begins with
合成 (synthetic); both are the same on every run with the same seed, so starting again makes nothing twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx
import orjson

from tulou.demo import land
from tulou.demo.publisher import Publisher
from tulou.demo.signals import SIGNALS, Signal

SYNTHETIC = 3
CITIES = tuple(land.outlines())
POPULATION = {
    "fuzhou": 8.4, "xiamen": 5.3, "zhangzhou": 5.1, "quanzhou": 8.8, "sanming": 2.5, "putian": 3.2, "nanping": 2.7,
    "longyan": 2.7, "ningde": 3.1, "pingtan": 0.4,
}  # fmt: skip
"""Rough weights (millions of people), so that large cities get more devices."""
SHARES = {
    "AirQualityStation": (10, 0.25), "WaterQualityStation": (8, 0.6), "WeatherStation": (10, 0.8),
    "NoiseStation": (8, 0.06), "Manhole": (22, 0.07), "StreetLight": (24, 0.07), "SmartMeter": (12, 0.1),
    "Site5G": (6, 0.15),
}  # fmt: skip
"""Entity type -> (share in percent, spread around the city's centre in degrees)."""


@dataclass(frozen=True)
class Device:
    """A made-up device."""

    id: str
    org: str
    type: str
    number: int
    lon: float
    lat: float


def devices(
    count: int, cities: Sequence[str], seed: str, centres: dict[str, tuple[float, float]] | None = None
) -> list[Device]:
    """`count` devices over `cities`, in proportion to people and to the shares of the types.

    The first n devices of a larger count are the same as with n, so that a demo can grow.
    """
    random = Random(f"{seed}/where")  # noqa: S311
    weights = [POPULATION[city] for city in cities]
    types, shares = list(SHARES), [share for share, _ in SHARES.values()]
    numbers: dict[tuple[str, str], int] = {}
    made = []
    for _ in range(count):
        city = random.choices(cities, weights)[0]
        kind = random.choices(types, shares)[0]
        number = numbers[city, kind] = numbers.get((city, kind), 0) + 1
        lon, lat = land.place(city, random, (centres or {}).get(city), SHARES[kind][1])
        made.append(Device(f"urn:ngsi-ld:{kind}:demo-{city}-{number:05}", city, kind, number, lon, lat))
    return made
