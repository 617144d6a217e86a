"""An edge and its hub, each a house of its own as `tulou` starts it, and a link between them that is cut, stalled and broken."""

from __future__ import annotations

import datetime as dt
import secrets
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import msgpack
import pytest

from tests.access.linking import Link
from tests.access.writing import batch
from tests.e2e.conftest import PASSWORD, Tulou, alive, eventually
from tulou.packs.ecology.derive import DERIVED

READINGS = "SELECT entity, property, ts, value, seq FROM readings ORDER BY entity, property, ts"
FRAMES = "SELECT entity, ts, raw, seq, frame FROM frames ORDER BY entity, seq, frame"


@dataclass
class House:
    """A running house, and its administrator."""

    tulou: Tulou
    client: httpx.Client
    said: int = 0
    """Readings of devices that were acknowledged."""

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
            self.said += len(body.get("values", body))

    def rows(self, sql: str) -> list[Any]:
        answer = self.client.post("/api/v1/readings/sql", json={"sql": sql, "max_rows": 100_000})
        assert answer.status_code == 200, answer.text
        rows: list[Any] = answer.json()["rows"]
        return rows

    def entities(self) -> dict[int, str]:
        """The ids of Fuzhou's devices, which are the edge's, by number."""
        return {device["no"]: device["id"] for device in self.get("/devices", limit=1000, org="fuzhou")["items"]}

    def readings(self) -> list[tuple[Any, ...]]:
        """Every reading that a device said, by its id."""
        ids, made = self.entities(), DERIVED["air"]
        return sorted((ids[no], prop, ts, value) for no, prop, ts, value, _ in self.rows(READINGS) if no in ids and prop not in made)

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
        """Everything that the edge acknowledged is stored, there and at the hub."""
        def same() -> bool:
            mine = self.edge.readings()
            return len(mine) == self.edge.said and mine == self.hub.readings()

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
    pair.edge.say(b, *batch_of(now + 60_000, 100, 60), {"pm25": 7}, {"pm10": 8.5})
    eventually(lambda: len(pair.edge.readings()) == pair.edge.said)
    assert len(pair.hub.readings()) == 5
    pair.link.be("open")
    pair.caught_up()
    assert pair.hub.frames() == pair.edge.frames()
    eventually(lambda: pair.row()["lag"] == 0)
    row = pair.row()
    assert (row["missed"], row["left_out"], row["devices"]) == (0, 0, 2)


def test_a_link_that_stalls_and_breaks_loses_and_doubles_nothing(pair: Pair) -> None:
    device = pair.edge.device("breaks")
    now = int(time.time() * 1000) - 600_000
    pair.edge.say(device, *batch_of(now, 0, 3))
    pair.caught_up()
    for round_, after in enumerate((200, 900, 5_000, 20_000), 1):
        pair.link.be("stalled")
        pair.edge.say(device, *batch_of(now + round_ * 60_000, round_ * 100, 40))
        time.sleep(0.5)
        pair.link.break_after = after
        pair.link.be("open")
        time.sleep(0.5)
    pair.link.break_after = 0
    pair.caught_up()
    assert pair.hub.frames() == pair.edge.frames()


def test_presence_is_of_the_last_frame_and_not_of_catching_up(pair: Pair) -> None:
    """A device that fell silent during the cut does not come alive because its messages arrive."""
    spoke, speaks = pair.edge.device("spoke"), pair.edge.device("speaks")
    pair.edge.say(spoke, {"pm25": 1})
    pair.edge.say(speaks, {"pm25": 1})
    pair.caught_up()
    pair.link.be("cut")
    pair.edge.say(spoke, {"pm25": 2})
    before = time.time()
    time.sleep(2)
    pair.edge.say(speaks, {"pm25": 2})
    pair.link.be("open")
    pair.caught_up()

    def seen(device: dict[str, Any]) -> float:
        no = next(no for no, name in pair.hub.entities().items() if name == device["id"])
        thing = pair.hub.get(f"/things/{no}")
        return dt.datetime.fromisoformat(thing["last_seen"]).timestamp() if thing["last_seen"] else 0.0

    eventually(lambda: seen(speaks) > before + 1)
    assert seen(spoke) <= before


def test_commands_go_down_once_and_not_after_their_time(pair: Pair) -> None:
    device = pair.edge.device("told", kind="Manhole")
    pair.edge.say(device, {"tilt": 1})
    pair.caught_up()
    assert pair.hub.get("/devices/fuzhou:told/methods") == {"edge": None}

    # One that is answered while the link is there.
    sent = pair.hub.post("/devices/fuzhou:told/commands", {"method": "open", "params": {"by": 3}, "expires_s": 60})
    assert sent["bearer"] == "edge"
    polled = pair.edge.client.get(f"/api/v1/{device['token']}/rpc", params={"timeout": 20_000}, timeout=30).json()
    assert (polled["method"], polled["params"]) == ("open", {"by": 3})
    pair.edge.client.post(f"/api/v1/{device['token']}/rpc/{polled['id']}", json={"angle": 30})
    done = pair.hub.get(f"/commands/{sent['no']}", wait=20)
    assert (done["state"], done["result"]) == ("done", {"angle": 30})

    # The link is cut: one expires, one waits, one may not be repeated.
    pair.link.be("cut")
    dead = pair.hub.post("/devices/fuzhou:told/commands", {"method": "late", "expires_s": 2})
    alive = pair.hub.post("/devices/fuzhou:told/commands", {"method": "waits", "expires_s": 120})
    once = pair.hub.post("/devices/fuzhou:told/commands", {"method": "once", "expires_s": 120, "repeat": False, "answer": False})
    eventually(lambda: pair.hub.get(f"/commands/{dead['no']}")["state"] == "expired")
    pair.link.be("open")
    got = [pair.edge.client.get(f"/api/v1/{device['token']}/rpc", params={"timeout": 40_000}, timeout=60).json() for _ in range(2)]
    assert [one["method"] for one in got] == ["waits", "once"]
    pair.edge.client.post(f"/api/v1/{device['token']}/rpc/{got[0]['id']}", json=True)
    assert pair.hub.get(f"/commands/{alive['no']}", wait=20)["state"] == "done"
    assert pair.hub.get(f"/commands/{once['no']}", wait=20)["state"] == "done"
    assert pair.hub.get(f"/commands/{dead['no']}")["state"] == "expired"
    told = pair.edge.get("/devices/fuzhou:told/commands")["items"]
    assert [one["method"] for one in told] == ["once", "waits", "open"], "each once, and not the one that expired"

    # What the edge refuses is refused at the hub, with the reason.
    other = pair.edge.device("told-hj", protocol="hj212", identity="EDGE0000001")
    pair.edge.say(other, {"pm25": 1})
    pair.caught_up()
    bad = pair.hub.post("/devices/fuzhou:told-hj/commands", {"method": "no-such-method"}, wait=20)
    assert bad["state"] == "failed"
    assert "no-such-method" in bad["error"]


def test_what_a_device_is_to_be_goes_down(pair: Pair) -> None:
    """The hub's desired state is the edge's, also after a cut; what the edge wants itself stays, firmware is not an edge's."""
    device = pair.edge.device("shadowed")
    pair.edge.say(device, {"pm25": 1})
    pair.caught_up()
    pair.edge.client.patch("/api/v1/devices/fuzhou:shadowed/shadow", json={"desired": {"own": 1}})

    def desire(**names: Any) -> None:
        answer = pair.hub.client.patch("/api/v1/devices/fuzhou:shadowed/shadow", json={"desired": names})
        assert answer.status_code == 200, answer.text

    def desired() -> dict[str, Any]:
        found: dict[str, Any] = pair.edge.get("/devices/fuzhou:shadowed/shadow")["desired"]
        return found

    desire(interval=30, mode="day", fw_title="x")
    eventually(lambda: desired() == {"own": 1, "interval": 30, "mode": "day"})
    pair.link.be("cut")
    desire(interval=60, mode=None)
    desire(pm25=2.0)
    time.sleep(1)
    assert desired()["interval"] == 30
    pair.link.be("open")
    eventually(lambda: desired() == {"own": 1, "interval": 60, "pm25": 2.0}, 60)
    told = pair.edge.client.get(f"/api/v1/{device['token']}/attributes", params={"sharedKeys": "interval,pm25"}).json()
    assert told == {"shared": {"interval": 60, "pm25": 2.0}}
    pair.edge.say(device, {"pm25": 2.0})
    eventually(lambda: pair.hub.get("/devices/fuzhou:shadowed/shadow")["reported"] == {"pm25": 2.0})


def asked(pair: Pair, path: str, token: str, method: str = "POST", **more: Any) -> httpx.Response:
    return httpx.request(method, f"{pair.hub.tulou.url}/api/v1/edge/{path}", headers={"authorization": f"Bearer {token}"} | more.pop(
        "headers", {}), trust_env=False, timeout=30, **more)


def group(era: str, after: int, *messages: tuple[int, bytes]) -> bytes:
    packed: bytes = msgpack.packb({"v": 1, "era": era, "after": after, "messages": messages, "lag": 0, "lag_s": 0.0, "missed": 0})
    return packed


def test_strangers_and_hostile_edges_change_nothing(pair: Pair) -> None:
    hub, mine = pair.hub, pair.edge.device("held")
    pair.edge.say(mine, {"pm25": 1})
    pair.caught_up()
    victim = hub.device("victim", org="xiamen")
    hostile = hub.post("/edges", {"org": "xiamen", "name": "生人"})
    before = hub.readings(), hub.get("/devices", limit=1000), hub.frames()

    for token in ("tulou_", "tulou_edge_" + secrets.token_urlsafe(24), victim["token"]):
        assert asked(pair, "position", token, "GET", params={"era": "x"}).status_code in (401, 429)
    assert hub.client.get("/api/v1/edge/position", params={"era": "x"}).status_code == 401, "not for people"
    as_edge = {"authorization": f"Bearer {hostile['token']}"}
    assert httpx.get(f"{hub.tulou.url}/api/v1/devices", headers=as_edge, trust_env=False).status_code == 401, "for nothing else"

    token = hostile["token"]
    assert asked(pair, "position", token, "GET", params={"era": "e"}).json()["last"] == 0
    assert asked(pair, "position", token, "GET", params={"era": ""}).status_code == 400

    def announce(**more: Any) -> Any:
        entity = {"entity": 1, "org": "xiamen", "type": "AirQualityStation", "id": "urn:ngsi-ld:AirQualityStation:x", "name": "x", "key": "x"}
        return asked(pair, "entities", token, json={"era": "e", "entities": [entity | more]})

    for wrong in ({"org": "fuzhou"}, {"org": "fuzhou", "key": "held", "id": mine["entity_id"]}, {"type": "Nothing"}, {"org": "nowhere"},
                  {"id": "urn:ngsi-ld:AirQualityStation:other"}, {"key": None, "org": "fuzhou", "id": mine["entity_id"]}):
        assert announce(**wrong).json()["items"][0]["error"]["status"] in (400, 403), wrong
    assert announce(entity=-1).status_code == 400
    assert announce(era=1).status_code == 400

    body = batch([(mine["no"], "pm25", now_us(), 66.0)], of=("fuzhou", "AirQualityStation", 0))
    answer = asked(pair, "readings", token, content=group("e", 0, (1, body)))
    assert answer.json() == {"last": 0, "unknown": [mine["no"]]}, "another's number is nobody's here"
    deflated = {"content-encoding": "deflate"}
    for status, content, headers in (
        (400, b"garbage", {}), (400, group("e", 0, (1, b"garbage")), {}), (400, group("e", 0, (1, msgpack.packb({"v": 1}))), {}),
        (400, group("e", 0, (2, body), (1, body)), {}), (400, group("e", -1, (1, body)), {}), (400, msgpack.packb([1]), {}),
        (409, group("other", 0, (1, body)), {}), (409, group("e", 5, (6, body)), {}),
        (400, b"not deflated", deflated), (400, zlib.compress(body)[:-9], deflated),
        (413, bytes(13 << 20), {}), (413, zlib.compress(bytes(64 << 20)), deflated),
        (400, group("e", 0, (1, body.replace(b"\xa4pm25", b"\xa4p\n25"))), {}),
    ):
        answer = asked(pair, "readings", token, content=content, headers=headers)
        assert answer.status_code == status, (answer.text, content[:80])
        assert answer.json()["detail_zh"], "it says why"
    assert asked(pair, "reports", token, json={"items": [{"no": 1, "what": "answered", "result": 1}]}).status_code == 404
    assert asked(pair, "reports", token, json={"shadows": [{"entity": mine["no"], "version": 9}]}).status_code == 200, "of nobody"
    assert (hub.readings(), hub.get("/devices", limit=1000), hub.frames()) == before

    # What was taken is not taken again, and times that no door takes are left out.
    assert announce().json()["items"][0]["no"]
    now = now_us()
    body = batch([(1, "pm25", now, 1.0), (1, "pm25", now + 40 * 86_400_000_000, 2.0), (1, "pm25", 5, 3.0)],
                 of=("fuzhou", "Pump", 3), received=now + 86_400_000_000)
    for again in (200, 409, 409):
        assert asked(pair, "readings", token, content=group("e", 0, (7, body))).status_code == again
    kept = eventually(lambda: hub.rows("SELECT type, origin, value FROM readings WHERE org = 'xiamen'"))
    assert kept == [["AirQualityStation", 0, 1.0]], "whose and what it is, the hub knows itself"
    assert hub.get(f"/edges/{hostile['no']}")["left_out"] == 2

    # Revoked is out, at once; another organisation neither sees nor revokes.
    assert hub.client.delete(f"/api/v1/edges/{hostile['no']}").json()["state"] == "revoked"
    assert asked(pair, "position", token, "GET", params={"era": "e"}).status_code == 401
    hub.post("/edges", {"org": "xiamen", "name": "生人"})
    hub.post("/edges", {"org": "xiamen", "name": "生人"}, status=409)
    hub.post("/edges", {"org": "nowhere", "name": "x"}, status=400)


def now_us() -> int:
    return time.time_ns() // 1000


@pytest.mark.slow
def test_kill_9_of_edge_and_hub_while_catching_up(pair: Pair) -> None:
    hub, edge = pair.hub, pair.edge
    devices = [edge.device(f"killed-{n}", kind="Manhole" if n == 2 else "AirQualityStation") for n in range(3)]
    pair.link.be("cut")
    now = int(time.time() * 1000) - 3_600_000
    for step in range(60):
        for n, device in enumerate(devices):
            values = {"tilt": 40.0 if step // 10 % 2 else float(step % 3)} if n == 2 else {"pm25": float(n * 1000 + step)}
            edge.say(device, {"ts": now + 1000 * step, "values": values})
    for house in (edge, hub):
        at = pair.row()["last"] if house is edge else 0
        pair.link.be("open")
        if house is edge and at == pair.row()["last"]:
            time.sleep(0.3)
        pair.link.break_after = 700
        time.sleep(0.2)
        below = house.tulou.kill()
        eventually(lambda below=below: not any(alive(pid) for pid in below))
        house.tulou.start()
        house.sign_in()
        edge.say(devices[0], {"pm25": 5.0 + at})
    pair.caught_up()
    assert hub.frames() == edge.frames()
    eventually(lambda: hub.alarms() and hub.alarms() == edge.alarms())
    order = hub.rows("SELECT entity, groupArray(ts) AS t, arraySort(t) = t FROM (SELECT entity, ts, seq, frame FROM frames ORDER BY seq, frame) GROUP BY entity")
    assert all(row[2] for row in order), "each device's messages in the order in which they were sent"
    assert pair.row()["missed"] == 0
