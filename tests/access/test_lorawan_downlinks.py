"""Downlinks to devices of LoRaWAN: over a real broker (mosquitto) to a program that speaks as ChirpStack documents it
(`tests/conformance/chirpstack.py`). No network server was started: there is none among the packages."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa
from pydantic import ValidationError

from tests.access.conftest import Estate, eventually
from tests.access.test_devices_commands import Tulou, tulou  # noqa: F401 - a fixture
from tulou.access.live import Hub
from tulou.access.lorawan.downlinks import Downlink, Item, command, item_of, outcome
from tulou.access.lorawan.tables import lorawan_devices
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

ROOT = Path(__file__).parents[2]
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
APPLICATION, EUI = "17c82e96-be03-4f38-aef3-f83d48582d97", "0202020202020202"
there = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


@pytest.mark.parametrize("item", [Item(1, 1, False), Item(2**53, 2**40, True)])
def test_the_id_of_an_item_says_the_command_and_its_entity(item: Item) -> None:
    found = uuid.UUID(item.id)
    assert (found.version, found.variant) == (8, uuid.RFC_4122)
    assert item_of(item.id) == item


@pytest.mark.parametrize("text", [None, "", "x", "25f04a4c-4cc2-43b8-8d07-e7d8a76eb792", str(uuid.UUID(int=0)), 7])
def test_other_ids_are_not_ours(text: object) -> None:
    assert item_of(text) is None


def test_a_command_is_what_the_proto_says() -> None:
    said = json.loads(command(7, 3, EUI, Downlink(fPort=2, data="AQI=", confirmed=True), 1_795_000_000_123))
    assert said == {"id": Item(7, 3, True).id, "devEui": EUI, "confirmed": True, "fPort": 2, "expiresAt": "2026-11-18T11:06:40.123Z", "data": "AQI="}
    assert json.loads(command(7, 3, EUI, Downlink(fPort=2, object={"on": True}), 0))["object"] == {"on": True}


@pytest.mark.parametrize("wrong", [
    {"fPort": 0, "data": ""}, {"fPort": 224, "data": ""}, {"fPort": 1}, {"fPort": 1, "data": "", "object": {}}, {"fPort": 1, "data": "%"},
    {"fPort": 1, "data": base64.b64encode(bytes(243)).decode()}, {"fPort": 1, "data": "", "more": 1},
])
def test_what_is_no_downlink_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Downlink.model_validate(wrong)


def test_what_events_say_of_a_command() -> None:
    plain, asked = Item(7, 3, False), Item(7, 3, True)
    assert outcome("txack", {"queueItemId": asked.id}) == (asked, {"what": "delivered"})
    assert outcome("txack", {"queueItemId": plain.id, "gatewayId": "a"}) == (plain, {"what": "answered", "result": '{"gateway":"a","fCntDown":0}'})
    assert outcome("ack", {"queueItemId": asked.id, "acknowledged": True, "fCntDown": 4}) == (asked, {"what": "answered", "result": '{"fCntDown":4}'})
    assert outcome("ack", {"queueItemId": asked.id}) == (asked, {"what": "refused", "error": "设备未确认 (the device did not acknowledge)"})
    told = {"code": "EXPIRED", "description": "late", "context": {"queue_item_id": plain.id}}
    assert outcome("log", told) == (plain, {"what": "refused", "error": "EXPIRED: late"})
    for event, said in (("log", {**told, "code": "UPLINK_MIC"}), ("log", {**told, "context": 1}), ("up", told), ("ack", {"queueItemId": "x"}), ("txack", {})):
        assert outcome(event, said) is None


# -- in a house


class ChirpStack:
    """The process, told line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, port: int, url: str, token: str, *login: str, application: str = APPLICATION) -> ChirpStack:
        made = cls(await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.conformance.chirpstack", str(port), url, token, application, *login, cwd=ROOT,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        ))
        assert await made._line() == "listening"
        return made

    async def _line(self) -> Any:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            return json.loads(await self.process.stdout.readline())

    async def tell(self, words: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(words.encode() + b"\n")
        said: dict[str, Any] = await self._line()
        return said

    async def queued(self, eui: str = EUI, count: int = 1) -> list[dict[str, Any]]:
        async def there() -> Any:
            queue = (await self.tell(f"queue {eui}"))["queue"]
            return queue if len(queue) == count else None

        found: list[dict[str, Any]] = await eventually(there)
        return found

    async def stop(self) -> None:
        self.process.kill()
        await self.process.wait()


class Broker:
    """mosquitto with a password, on a port that stays."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        subprocess.run(["mosquitto_passwd", "-b", "-c", str(home / "passwords"), "tulou", "secret"], check=True, capture_output=True)
        (home / "m.conf").write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {home / 'passwords'}\nuser root\n")
        self.start()

    def start(self) -> None:
        assert MOSQUITTO is not None
        self.process = subprocess.Popen([MOSQUITTO, "-c", str(self.home / "m.conf")], stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    made = Broker(tmp_path_factory.mktemp("broker"))
    yield made
    made.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def estate(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> AsyncIterator[Estate]:
    house = House(Settings(
        home=tmp_path_factory.mktemp("estate") / "home", http_port=free_port(), mqtt_port=free_port(), outbound_allow=f"127.0.0.1:{broker.port}",
    ))
    async with Estate.opened(house) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def token(lin: httpx.AsyncClient) -> str:
    made = await lin.post("/tokens", json={"name": "lns", "org": "fuzhou", "scopes": ["access.uplink.*"]})
    secret: str = made.json()["secret"]
    return secret


@pytest_asyncio.fixture(loop_scope="module")
async def chirpstack(broker: Broker, address: str, token: str) -> AsyncIterator[ChirpStack]:
    made = await ChirpStack.start(broker.port, f"{address}/lorawan/events", token, "tulou", "secret")
    yield made
    await made.stop()


async def send(client: httpx.AsyncClient, device: dict[str, Any], wait: int = 0, **params: Any) -> dict[str, Any]:
    more = {name: params.pop(name) for name in ("expires_s", "key", "repeat") if name in params}
    answer = await client.post(f"/devices/{device['id']}/commands", params={"wait": wait},
                               json={"method": "downlink", "params": params, "expires_s": 60, **more})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def state(client: httpx.AsyncClient, made: dict[str, Any], wanted: str) -> dict[str, Any]:
    async def there() -> Any:
        now = (await client.get(f"/commands/{made['no']}")).json()
        return now if now["state"] == wanted else None

    found: dict[str, Any] = await eventually(there)
    return found


def door(estate: Estate) -> dict[str, Any]:
    said = estate.house.service(Hub).told("gateway")
    found: dict[str, Any] = said[0]["fields"].get("lorawan", {}) if said else {}
    return found


@there
@pytest.mark.conformance
@pytest.mark.asyncio(loop_scope="module")
async def test_commands_go_to_the_network_server_and_its_events_end_them(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient, broker: Broker, chirpstack: ChirpStack,
    tulou: Tulou,  # noqa: F811
) -> None:
    path = "/orgs/fuzhou/lorawan"
    server = {"url": f"mqtt://127.0.0.1:{broker.port}", "user": "tulou", "password": "secret"}
    assert (await lin.get(path)).status_code == 404
    assert (await yang.put(path, json=server)).status_code == 403
    assert (await chen.put(path, json=server)).status_code == 404
    refused = await lin.put(path, json={"url": "mqtt://127.0.0.1:1"})
    assert (refused.status_code, refused.json()["type"].rsplit(":", 1)[1]) == (400, "address-refused")
    shown = await lin.put(path, json=server)
    assert (shown.status_code, shown.json()["password"]) == (200, True)
    assert "secret" not in (await yang.get(path)).text
    assert (await tulou("lorawan", "fuzhou"))["url"] == server["url"]

    device = await estate.device(lin, "fuzhou", "lid", type="Device", protocol="lorawan", identity=EUI)
    assert set((await lin.get(f"/devices/{device['id']}/methods")).json()["lorawan"]) == {"downlink"}
    wrong = await lin.post(f"/devices/{device['id']}/commands", json={"method": "downlink", "params": {"fPort": 0, "data": ""}})
    assert (wrong.status_code, wrong.json()["field"]) == (400, "params.fPort")

    early = await send(lin, device, fPort=3, data="AQID")
    assert early["state"] == "waiting", "its application is not known yet"
    await chirpstack.tell(f"up {EUI} level=1")
    (item,) = await chirpstack.queued()
    assert (item["data"], item["fPort"], item["confirmed"]) == ("010203", 3, False)
    assert (await state(lin, early, "sent"))["bearer"] == "lorawan"
    await chirpstack.tell(f"up {EUI} level=2")
    done = await state(lin, early, "done")
    assert done["result"] == {"gateway": "0016c001f153a14c", "fCntDown": 0}

    confirmed = await send(lin, device, fPort=4, object={"valve": "open"}, confirmed=True)
    assert (await chirpstack.queued())[0]["object"] == {"valve": "open"}
    await chirpstack.tell(f"up {EUI}")
    assert (await state(lin, confirmed, "delivered"))["result"] is None
    await chirpstack.tell(f"ack {EUI}")
    assert (await state(lin, confirmed, "done"))["result"] == {"fCntDown": 1}

    missed = await send(lin, device, fPort=4, data="AA==", confirmed=True)
    await chirpstack.queued()
    await chirpstack.tell(f"up {EUI}")
    await chirpstack.tell(f"nack {EUI}")
    assert "did not acknowledge" in (await state(lin, missed, "failed"))["error"]

    large = await send(lin, device, fPort=4, data=base64.b64encode(bytes(60)).decode())
    await chirpstack.queued()
    await chirpstack.tell(f"up {EUI}")
    assert (await state(lin, large, "failed"))["error"].startswith("DOWNLINK_PAYLOAD_SIZE")

    late = await send(lin, device, fPort=4, data="AA==", expires_s=1)
    await chirpstack.queued()
    assert (await state(lin, late, "expired"))["result"] is None
    said = await chirpstack.tell(f"up {EUI}")
    assert said == {"queue": [], "refused": []}, "the network server had the expiry too, and sent nothing"

    other = await estate.device(lin, "fuzhou", "other", type="Device", protocol="lorawan", identity="03" * 8)
    open_one = await send(lin, device, fPort=5, data="AA==", confirmed=True)
    (item,) = await chirpstack.queued()
    await chirpstack.tell(f"events {'03' * 8} {item['id']} ack")
    assert (await lin.get(f"/commands/{open_one['no']}")).json()["state"] == "sent", "another device's event ends no command"
    assert (await lin.delete(f"/devices/{other['id']}")).status_code == 204
    await chirpstack.tell(f"up {EUI}")
    await chirpstack.tell(f"ack {EUI}")
    await state(lin, open_one, "done")
    assert door(estate) | {"servers": 1, "connections": 1, "unreachable": {}} == door(estate)


@there
@pytest.mark.asyncio(loop_scope="module")
async def test_a_broker_that_dies_and_a_server_that_does_not_listen_lose_no_command(
    estate: Estate, lin: httpx.AsyncClient, broker: Broker, address: str, token: str
) -> None:
    device = (await lin.get("/devices/fuzhou:lid")).json()

    async def deaf() -> bool:
        return "does not subscribe" in door(estate).get("unreachable", {}).get("fuzhou", "")

    made = await send(lin, device, fPort=1, data="BB==")
    await eventually(deaf)  # mosquitto says that nobody subscribes
    await state(lin, made, "waiting")
    chirpstack = await ChirpStack.start(broker.port, f"{address}/lorawan/events", token, "tulou", "secret")
    await eventually(lambda: chirpstack.queued(), 40)
    await state(lin, made, "sent")

    broker.kill()

    async def cut_off() -> bool:
        return door(estate).get("connections") == 0

    await eventually(cut_off)
    second = await send(lin, device, fPort=1, data="CC==")
    assert second["state"] == "waiting"
    broker.start()
    assert [one["data"] for one in await eventually(lambda: chirpstack.queued(count=2), 40)] == ["04", "08"]
    assert (await lin.get(f"/commands/{made['no']}")).json()["attempts"] == 2
    for _ in range(2):
        await chirpstack.tell(f"up {EUI}")
    await state(lin, made, "done")
    await state(lin, second, "done")
    await chirpstack.stop()


@there
@pytest.mark.asyncio(loop_scope="module")
async def test_a_gateway_that_is_killed_sends_what_is_queued_no_second_time(
    estate: Estate, lin: httpx.AsyncClient, chirpstack: ChirpStack
) -> None:
    device = (await lin.get("/devices/fuzhou:lid")).json()
    made = await send(lin, device, fPort=1, data="DD==", repeat=False)
    (item,) = await chirpstack.queued()

    async def handed_on() -> Any:
        said = estate.house.service(Hub).told("gateway")
        return said and said[0]["commands"]["handed_on"]

    await eventually(handed_on)
    pid = estate.house.service(Hub).told("gateway")[0]["pid"]
    os.kill(pid, 9)

    async def again() -> Any:
        said = estate.house.service(Hub).told("gateway")
        return said and said[0]["pid"] != pid and door(estate).get("connections")

    await eventually(again, 40)
    fresh = await send(lin, device, fPort=1, data="EE==")
    queue = await chirpstack.queued(count=2)
    assert queue[0]["id"] == item["id"]
    assert (await lin.get(f"/commands/{made['no']}")).json()["attempts"] == 1, "what the network server has is not returned"
    for _ in range(2):
        await chirpstack.tell(f"up {EUI}")
    await state(lin, made, "done")
    await state(lin, fresh, "done")

    query = sa.select(sa.func.count()).select_from(lorawan_devices)
    assert await estate.house.db.read(lambda c: c.execute(query).scalar()) == 1
    assert (await lin.delete(f"/devices/{device['id']}")).status_code == 204
    assert await estate.house.db.read(lambda c: c.execute(query).scalar()) == 0
    assert (await lin.delete("/orgs/fuzhou/lorawan")).status_code == 204

    async def gone() -> bool:
        return not door(estate)

    await eventually(gone)
