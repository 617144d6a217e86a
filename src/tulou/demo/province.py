"""The made-up province: which devices stand where, how they are registered, what they publish, and how they go.

Law: a demo device is known by its key (`demo-<city>-<number>`) and by its name, which begins with 合成 (synthetic);
both are the same on every run, so starting again makes nothing twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Self

import httpx
import orjson

from tulou.demo import land
from tulou.demo.publisher import Publisher
from tulou.demo.signals import SIGNALS, Signal

MARK = "合成"
BATCH = 500
CITIES = tuple(land.outlines())
POPULATION = {
    "fuzhou": 8.4, "xiamen": 5.3, "zhangzhou": 5.1, "quanzhou": 8.8, "sanming": 2.5, "putian": 3.2, "nanping": 2.7,
    "longyan": 2.7, "ningde": 3.1, "pingtan": 0.4,
}
"""Rough weights (millions of people), so that large cities get more devices."""
SHARES = {
    "AirQualityStation": (10, 0.25), "WaterQualityStation": (8, 0.6), "WeatherStation": (10, 0.8),
    "NoiseStation": (8, 0.06), "Manhole": (22, 0.07), "StreetLight": (24, 0.07), "SmartMeter": (12, 0.1),
    "Site5G": (6, 0.15),
}
"""Entity type -> (share in percent, spread around the city's centre in degrees)."""


@dataclass(frozen=True)
class Device:
    """A made-up device: its key, its city's organisation, its type and place."""

    key: str
    org: str
    type: str
    lon: float
    lat: float

    @property
    def id(self) -> str:
        """Its id in the house."""
        return f"{self.org}:{self.key}"

    @property
    def entity(self) -> str:
        """The id of the entity that it speaks for."""
        return f"urn:ngsi-ld:{self.type}:{self.key}"


def devices(
    count: int, cities: Sequence[str], seed: str, centres: dict[str, tuple[float, float]] | None = None
) -> list[Device]:
    """`count` devices over `cities`, in proportion to people and to the shares of the types.

    The first n devices of a larger count are the same as with n, so that a demo can grow.
    """
    random = Random(f"{seed}/where")  # noqa: S311
    weights = [POPULATION[city] for city in cities]
    types, shares = list(SHARES), [share for share, _ in SHARES.values()]
    numbers = dict.fromkeys(cities, 0)
    made = []
    for _ in range(count):
        city = random.choices(cities, weights)[0]
        kind = random.choices(types, shares)[0]
        numbers[city] += 1
        lon, lat = land.place(city, random, (centres or {}).get(city), SHARES[kind][1])
        made.append(Device(f"demo-{city}-{numbers[city]:05}", city, kind, lon, lat))
    return made


class House:
    """The running house as a stranger sees it: an address, a token, HTTP. Use as `async with`."""

    def __init__(self, address: str, token: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=address, headers={"authorization": f"Bearer {token}"}, timeout=120, verify=False,  # noqa: S501
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._http.aclose()

    async def ask(self, method: str, path: str, *, gone_is_fine: bool = False, **kwargs: Any) -> Any:
        """The parsed answer. Raises `RuntimeError` with the house's own words."""
        answer = await self._http.request(method, path, **kwargs)
        if answer.status_code == 404 and gone_is_fine:
            return None
        if answer.status_code >= 400:
            try:
                problem = orjson.loads(answer.content)
                message = problem.get("detail_zh") or problem.get("detail") or problem.get("title")
            except ValueError:
                message = answer.text
            raise RuntimeError(f"{method} {path}: {answer.status_code} {message}")
        return orjson.loads(answer.content) if answer.content else None

    async def pages(self, path: str, **params: Any) -> list[Any]:
        """Every item of a keyset-paged list."""
        items: list[Any] = []
        after = None
        while True:
            page = await self.ask("GET", path, params={**params, "limit": 500, **({"after": after} if after else {})})
            items += page["items"]
            after = page["next"]
            if not after:
                return items

    async def centres(self) -> tuple[dict[str, str], dict[str, tuple[float, float]]]:
        """Names and seats of the organisations that have a place."""
        orgs = await self.pages("/api/v1/orgs")
        seats = {o["id"]: (o["lon"], o["lat"]) for o in orgs if o.get("lon") is not None}
        return {o["id"]: o["name_zh"] for o in orgs}, seats

    async def labels(self) -> dict[str, str]:
        """Chinese names of the entity types."""
        return {m["type"]: m["label_zh"] for m in await self.ask("GET", "/api/v1/models")}

    async def register(self, wanted: Sequence[Device], progress: Callable[[int], None]) -> dict[str, str]:
        """Create the devices that are missing; returns every device's token by its id.

        A device that is there already gets a new token, because tokens are shown once.
        """
        names, _ = await self.centres()
        labels = await self.labels()
        tokens: dict[str, str] = {}
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            lines = await self.ask(
                "POST", "/api/v1/devices/bulk",
                json={
                    "items": [
                        {
                            "org": d.org, "type": d.type, "id": d.key, "lon": d.lon, "lat": d.lat, "synthetic": True,
                            "name": f"{MARK}·{names[d.org]}·{labels[d.type]} {d.key[-5:]}",
                        }
                        for d in part
                    ]
                },
            )
            room = asyncio.Semaphore(64)

            async def token(device: Device, line: dict[str, Any], room: asyncio.Semaphore = room) -> str:
                if "error" in line:
                    raise RuntimeError(f"{device.id}: {line['error'].get('detail_zh') or line['error']}")
                if line.get("token"):
                    return str(line["token"])
                async with room:
                    return str((await self.ask("POST", f"/api/v1/devices/{device.id}/token"))["token"])

            answers = lines["items"] if isinstance(lines, dict) else lines
            found = await asyncio.gather(*(token(d, line) for d, line in zip(part, answers, strict=True)))
            tokens.update(zip((d.id for d in part), found, strict=True))
            progress(len(part))
        return tokens

    async def remove(self, progress: Callable[[int, int], None], prefix: str = "demo-") -> int:
        """Delete every demo device whose key begins with `prefix`, and its entity; returns how many. Their readings go too."""
        things = [
            t for t in await self.pages("/api/v1/things", synthetic="1", q=prefix)
            if t["id"].rsplit(":", 1)[-1].startswith(prefix)
        ]
        room, gone = asyncio.Semaphore(16), 0

        async def one(thing: dict[str, Any]) -> None:
            nonlocal gone
            key = thing["id"].rsplit(":", 1)[-1]
            async with room:
                await self.ask("DELETE", f"/api/v1/devices/{thing['org']}:{key}", gone_is_fine=True)
                await self.ask(
                    "DELETE", f"/ngsi-ld/v1/entities/{thing['id']}",
                    headers={"NGSILD-Tenant": thing["org"]}, gone_is_fine=True,
                )
            gone += 1
            progress(gone, len(things))

        await asyncio.gather(*(one(thing) for thing in things))
        return gone


class Traffic:
    """The devices' connections and what has been sent; one task a device, each reconnecting by itself."""

    def __init__(self, host: str, port: int, tokens: dict[str, str], seed: str) -> None:
        self.host, self.port, self.tokens, self.seed = host, port, tokens, seed
        self.messages = self.readings = self.connected = self.lost = 0
        self._opening = asyncio.Semaphore(50)

    async def history(self, device: Device, hours: float, every: float) -> None:
        """Publish what the device would have said in the last `hours`, one message each `every` seconds."""
        now = time.time()
        moments = [now - hours * 3_600 + i * every for i in range(int(hours * 3_600 / every))]
        moments = [t // every * every for t in moments]
        signal, say = Signal(f"{self.seed}/{device.key}"), SIGNALS[device.type]
        async with Publisher(self.host, self.port, self.tokens[device.id]) as publisher:
            for start in range(0, len(moments), 20):
                batch = [{"ts": int(t * 1000), "values": say(signal, t)} for t in moments[start : start + 20]]
                await publisher.publish(orjson.dumps(batch))
                self._count(1, sum(len(m["values"]) for m in batch))  # type: ignore[arg-type, misc]

    async def live(self, device: Device, every: float, start: float) -> None:
        """Publish every `every` seconds until cancelled, first after `start` seconds; reconnect when the house was away."""
        signal, say = Signal(f"{self.seed}/{device.key}"), SIGNALS[device.type]
        await asyncio.sleep(start)
        due = time.time()
        pause = 1.0
        while True:
            try:
                async with self._opening:
                    publisher = await Publisher(self.host, self.port, self.tokens[device.id], client_id=device.key).__aenter__()
            except OSError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 30)
                continue
            self.connected += 1
            pause = 1.0
            try:
                while True:
                    now = time.time()
                    values = say(signal, now)
                    await publisher.publish(orjson.dumps({"ts": int(now * 1000), "values": values}))
                    self._count(1, len(values))
                    due = max(due + every, now)
                    await asyncio.sleep(due - time.time())
            except OSError:
                self.lost += 1
            finally:
                self.connected -= 1
                await publisher.__aexit__()

    def _count(self, messages: int, readings: int) -> None:
        self.messages += messages
        self.readings += readings
