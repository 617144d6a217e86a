"""An edge and its hub, each a house of its own as `tulou` starts it, and a link between them that is cut, stalled and broken."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest

from tests.access.linking import Link
from tests.e2e.conftest import PASSWORD, Tulou, eventually

READINGS = "SELECT entity, property, ts, value, seq FROM readings ORDER BY entity, property, ts"
FRAMES = "SELECT entity, ts, raw, seq, frame FROM frames ORDER BY entity, seq, frame"


@dataclass
class House:
    """A running house, and its administrator."""

    tulou: Tulou
    client: httpx.Client

    @classmethod
    def started(cls, tulou: Tulou) -> House:
        tulou.start()
        house = cls(tulou, tulou.client())
        house.sign_in()
        return house

    def sign_in(self) -> None:
        self.client.cookies.clear()
        self.tulou._sign_in(self.client, PASSWORD)

    def get(self, path: str, **query: Any) -> Any:
        answer = self.client.get("/api/v1" + path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any, status: int = 201, **query: Any) -> Any:
        answer = self.client.post("/api/v1" + path, json=body, params=query)
        assert answer.status_code == status, answer.text
        return answer.json()

    def device(self, key: str, org: str = "fuzhou", kind: str = "AirQualityStation", **more: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.post("/devices", {"org": org, "type": kind, "name": f"站 {key}", "id": key, **more})
        return made

    def say(self, device: dict[str, Any], *bodies: Any) -> None:
        for body in bodies:
            answer = self.client.post(f"/api/v1/{device['token']}/telemetry", json=body)
            assert answer.status_code == 200, answer.text

    def rows(self, sql: str) -> list[Any]:
        answer = self.client.post("/api/v1/readings/sql", json={"sql": sql, "max_rows": 100_000})
        assert answer.status_code == 200, answer.text
        rows: list[Any] = answer.json()["rows"]
        return rows

    def entities(self) -> dict[int, str]:
        return {device["no"]: device["id"] for device in self.get("/devices", limit=1000)["items"]}

    def readings(self) -> list[tuple[Any, ...]]:
        """Every reading, by the device's id."""
        ids = self.entities()
        return sorted((ids[no], prop, ts, value) for no, prop, ts, value, _ in self.rows(READINGS) if no in ids)

    def frames(self) -> dict[str, list[str]]:
        """Raw messages of each device in the order in which they were stored."""
        ids, found = self.entities(), {}
        for no, _, raw, _, _ in self.rows(FRAMES):
            if no in ids:
                found.setdefault(ids[no], []).append(raw)
        return found

    def alarms(self) -> list[tuple[Any, ...]]:
        """Alarms but those of silence."""
        ids = self.entities()
        items = self.get("/alarms", limit=1000)["items"]
        return sorted((ids[a["no"]], a["property"], a["rule"], a["raised_at"], a["cleared_at"])
                      for a in items if a["no"] in ids and a["rule"] != "offline")


@dataclass
class Pair:
    """A hub, an edge of Fuzhou, and the link between them."""

    hub: House
    edge: House
    link: Link
    no: int
    token: str

    def caught_up(self, seconds: float = 60) -> None:
        """Everything that the edge has stored is at the hub."""
        def same() -> bool:
            mine = self.edge.readings()
            return bool(mine) and mine == self.hub.readings()

        eventually(same, seconds)

    def row(self) -> dict[str, Any]:
        found: dict[str, Any] = self.hub.get(f"/edges/{self.no}")
        return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("edge")
    hub = House.started(Tulou(folder / "hub", admin_password=PASSWORD))
    made = hub.post("/edges", {"org": "fuzhou", "name": "泵站"})
    link = Link(hub.tulou.http_port)
    edge = House.started(Tulou(folder / "at-edge", admin_password=PASSWORD, edge_hub=link.url, edge_token=made["token"]))
    yield Pair(hub, edge, link, made["no"], made["token"])
    link.close()
    edge.tulou.stop()
    hub.tulou.stop()


def batch_of(now: int, first: int, many: int, prop: str = "pm25") -> list[dict[str, Any]]:
    """Messages with times of their own, a second apart."""
    return [{"ts": now + 1000 * n, "values": {prop: float(first + n)}} for n in range(many)]


def test_readings_come_up_once_and_in_order_after_a_cut(pair: Pair) -> None:
    a, b = pair.edge.device("cut-a"), pair.edge.device("cut-b", lon=119.3, lat=26.1)
    now = int(time.time() * 1000) - 600_000
    pair.edge.say(a, *batch_of(now, 0, 5))
    pair.caught_up()
    there = next(d for d in pair.hub.get("/devices", limit=1000)["items"] if d["id"] == a["id"])
    assert (there["org"], there["type"], there["name"]) == ("fuzhou", "AirQualityStation", "站 cut-a")
    assert pair.row()["state"] == "connected"

    pair.link.be("cut")
    pair.edge.say(a, *batch_of(now + 60_000, 10, 60))
    pair.edge.say(b, *batch_of(now + 60_000, 100, 60), {"pm25": 7}, {"no2": 8.5, "state": "on"})
    eventually(lambda: len(pair.edge.readings()) == 5 + 120 + 3)
    assert len(pair.hub.readings()) == 5
    pair.link.be("open")
    pair.caught_up()
    assert pair.hub.frames() == pair.edge.frames()
    eventually(lambda: pair.row()["lag"] == 0)
    row = pair.row()
    assert (row["missed"], row["left_out"], row["devices"]) == (0, 0, 2)
