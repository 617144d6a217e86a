"""What a device is to be: set by a person, heard by the device, also when it was away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import paho.mqtt.client as paho
import pytest
import pytest_asyncio
from paho.mqtt.enums import CallbackAPIVersion

from tests.access.conftest import Estate, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOPIC = "v1/devices/me/attributes"


class Client:
    """A device on the client of Eclipse Paho, which listens to its attributes."""

    def __init__(self, estate: Estate, token: str, protocol: int = paho.MQTTv311) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.ready = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self.client.username_pw_set(token)
        self.client.on_connect = lambda client, *_: client.subscribe([(TOPIC, 1), (f"{TOPIC}/response/+", 1)])
        self.client.on_subscribe = lambda *_: loop.call_soon_threadsafe(self.ready.set)
        self.client.on_message = lambda _client, _data, message: self.heard.append((message.topic, json.loads(message.payload)))
        self.client.connect("127.0.0.1", estate.house.settings.mqtt_port)
        self.client.loop_start()

    async def __aenter__(self) -> Client:
        await asyncio.wait_for(self.ready.wait(), 15)
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)

    async def hears(self, topic: str, values: Any) -> None:
        async def there() -> bool:
            return (topic, values) in self.heard

        await eventually(there)


@pytest_asyncio.fixture(loop_scope="module")
async def device(estate: Estate, lin: httpx.AsyncClient, request: pytest.FixtureRequest) -> dict[str, Any]:
    key = "".join(letter for letter in request.node.name if letter.isalnum())[:60]
    return await estate.device(lin, "fuzhou", key, type="Device")


async def desire(client: httpx.AsyncClient, device: dict[str, Any], version: int | None = None, **values: Any) -> httpx.Response:
    return await client.patch(f"/devices/{device['id']}/shadow", json={"desired": values, "version": version})


@pytest.mark.parametrize("protocol", [paho.MQTTv311, paho.MQTTv5])
async def test_a_device_hears_what_it_is_to_be_and_says_what_it_is(
    estate: Estate, lin: httpx.AsyncClient, device: dict[str, Any], protocol: int
) -> None:
    path = f"/devices/{device['id']}/shadow"
    empty = (await lin.get(path)).json()
    assert empty == {"desired": {}, "reported": {}, "delta": {}, "version": 0, "changed_at": None, "changed_by": None}
    async with Client(estate, device["token"], protocol) as there:
        set_ = (await desire(lin, device, interval=30, mode="节能", plan={"a": [1]})).json()
        assert (set_["version"], set_["delta"]) == (1, set_["desired"])
        await there.hears(TOPIC, {"interval": 30, "mode": "节能", "plan": {"a": [1]}})
        there.client.publish(TOPIC, json.dumps({"interval": 30, "mode": "全开", "plan": {"a": [1]}}), 1)

        async def reported() -> Any:
            return (await lin.get(path)).json()["delta"] == {"mode": "节能"}

        await eventually(reported)
        assert (await lin.get(path)).json()["reported"]["mode"] == "全开"
        await desire(lin, device, mode=None, extra=True)
        await there.hears(TOPIC, {"extra": True, "deleted": ["mode"]})
        there.client.publish(f"{TOPIC}/request/7", json.dumps({"clientKeys": "mode", "sharedKeys": "interval,none"}), 1)
        await there.hears(f"{TOPIC}/response/7", {"client": {"mode": "全开"}, "shared": {"interval": 30}})
        there.client.publish(f"{TOPIC}/request/8", b"[", 1)
        await there.hears(f"{TOPIC}/response/8", {"error": "not a JSON object"})


async def test_a_device_that_was_away_is_told_the_difference(
    estate: Estate, lin: httpx.AsyncClient, device: dict[str, Any]
) -> None:
    await estate.say(device, interval=10)
    await estate.latest(lin, device, "interval", 10)
    await desire(lin, device, interval=10, valve="shut")
    async with Client(estate, device["token"]) as there:
        await there.hears(TOPIC, {"valve": "shut"})
    await estate.say(device, valve="shut")
    await estate.latest(lin, device, "valve", "shut")
    async with Client(estate, device["token"]) as there:
        await desire(lin, device, valve="open")
        await there.hears(TOPIC, {"valve": "open"})
    assert {json.dumps(said) for _, said in there.heard} == {'{"valve": "open"}'}, "it may hear the same twice"


async def test_over_http(estate: Estate, lin: httpx.AsyncClient, device: dict[str, Any]) -> None:
    there, token = estate.client(), device["token"]
    asking = asyncio.create_task(there.get(f"/{token}/attributes/updates", params={"timeout": 20000}))
    await asyncio.sleep(0.2)
    await desire(lin, device, interval=5)
    assert (await asking).json() == {"interval": 5}
    assert (await there.get(f"/{token}/attributes/updates", params={"timeout": 10})).status_code == 408
    assert (await there.get(f"/{token}/attributes", params={"sharedKeys": "interval"})).json() == {"shared": {"interval": 5}}
    everything = (await there.get(f"/{token}/attributes")).json()
    assert everything["shared"] == {"interval": 5}
    assert everything["client"]["name"].startswith("站")
    assert (await there.get("/nobody/attributes")).status_code == 401


async def test_versions_and_bounds(lin: httpx.AsyncClient, device: dict[str, Any]) -> None:
    assert (await desire(lin, device, 0, a=1)).json()["version"] == 1
    stale = await desire(lin, device, 0, a=2)
    assert (stale.status_code, stale.json()["field"]) == (409, "version")
    assert (await desire(lin, device, 1, a=1)).json()["version"] == 1, "nothing changed"
    many = await asyncio.gather(*(desire(lin, device, None, **{f"k{n}": n}) for n in range(20)))
    assert sorted(answer.json()["version"] for answer in many)[-1] == 21
    assert (await lin.get(f"/devices/{device['id']}/shadow")).json()["desired"] == {"a": 1} | {f"k{n}": n for n in range(20)}
    assert (await desire(lin, device, None, big="x" * 70_000)).status_code == 413
    assert (await lin.patch(f"/devices/{device['id']}/shadow", json={"wanted": 1})).status_code == 400


async def test_nobody_touches_anothers(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient, device: dict[str, Any]
) -> None:
    await desire(lin, device, secret=1)
    path = f"/devices/{device['id']}/shadow"
    assert (await chen.get(path)).status_code == 404
    assert (await desire(chen, device, secret=2)).status_code == 404
    assert (await yang.get(path)).json()["desired"] == {"secret": 1}
    assert (await desire(yang, device, secret=2)).status_code == 403
    theirs = await estate.device(chen, "xiamen", "curious", type="Device")
    async with Client(estate, theirs["token"]) as there:
        await desire(lin, device, secret=3)
        await desire(chen, theirs, mine=1)
        await there.hears(TOPIC, {"mine": 1})
    assert there.heard == [(TOPIC, {"mine": 1})]
    assert (await lin.delete(f"/devices/{device['id']}")).status_code == 204
    again = await estate.device(lin, "fuzhou", device["id"].split(":")[1], type="Device")
    assert (await lin.get(f"/devices/{again['id']}/shadow")).json()["version"] == 0
