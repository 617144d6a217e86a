"""SensorThings over MQTT (OGC 18-088, clause 14), with Eclipse Paho as the client; what it is told is compared with what HTTP answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.access.conftest import ADMIN, Estate, eventually
from tulou.access.quotas.service import Quotas
from tulou.access.quotas.tables import Quota
from tulou.access.sensorthings.topics import concerns, created_at, resource
from tulou.kernel.bus import free_port
from tulou.kernel.errors import Invalid
from tulou.kernel.house import House
from tulou.kernel.settings import Settings


@pytest.mark.parametrize(("topic", "entity", "stream", "select"), [
    ("v1.1/Observations", None, None, ()),
    ("v1.1/Datastreams('17:pm25')/Observations?$select=result,phenomenonTime", 17, (17, "pm25"), ("result", "phenomenonTime")),
    ("v1.1/Things", None, None, ()), ("v1.1/Things(17)", 17, None, ()), ("v1.1/Locations(17)/location", 17, None, ()),
    ("v1.1/Datastreams('17:pm25')/description", 17, None, ()), ("v1.1/Things(17)/properties/type", 17, None, ()),
])
def test_topics_of_the_standard(topic: str, entity: int | None, stream: tuple[int, str] | None, select: tuple[str, ...]) -> None:
    asked = resource(topic)
    assert concerns(topic)
    assert (asked.entity, asked.stream, asked.select) == (entity, stream, select)


@pytest.mark.parametrize("topic", [
    "v1.1/Things/+", "v1.1/Things(1)/#", "v1.1/Observations?$filter=result gt 1", "v1.1/Things('x')", "v1.1/Sensors", "v1.1/Things(1)/Datastreams",
    "v1.1/Observations?$select=nothing", "v1.1/Datastreams(1)/Observations", "v1.1/Things(1)/nothing", "v1.1/Datastreams('1:a')/Observations(1)",
    "v1.1/Things(1", "v1.1/Observations/result",
])
def test_topics_that_are_not_offered(topic: str) -> None:
    with pytest.raises(Invalid):
        resource(topic)


def test_other_topics_are_the_organisations_own() -> None:
    assert not any(map(concerns, ("v1.1/plans", "v1.1/#", "v1.1/+/x", "v1.0/Things", "x/v1.1/Things", "v1.1/", "v1.1/Thingsx")))
    assert [created_at(f"v1.1/{path}") for path in ("Observations", "Datastreams('1:a')/Observations", "Things", "Observations?$select=id")] == [
        True, True, False, False]


class Client:
    """Paho, in its own thread; what it was told by topic."""

    def __init__(self, port: int, token: str, version: int = 5) -> None:
        self.told: list[tuple[str, Any]] = []
        self.codes: dict[int, list[int]] = {}
        self.acknowledged: dict[int, ReasonCode] = {}
        self.closed: list[int] = []
        self.paho = paho.Client(CallbackAPIVersion.VERSION2, client_id="", protocol=version)  # type: ignore[arg-type]
        self.paho.username_pw_set(token)
        self.paho.on_message = lambda _c, _d, m: self.told.append((m.topic, json.loads(m.payload)))
        self.paho.on_subscribe = lambda _c, _d, mid, codes, _p: self.codes.update({mid: [code.value for code in codes]})
        self.paho.on_publish = lambda _c, _d, mid, reason, _p: self.acknowledged.update({mid: reason})
        self.paho.on_disconnect = lambda _c, _d, _f, reason, _p: self.closed.append(reason.value)
        self.paho.reconnect_on_failure = False  # type: ignore[attr-defined]
        self.paho._reconnect_on_failure = False
        self.paho.connect("127.0.0.1", port)
        self.paho.loop_start()

    async def subscribe(self, *topics: str) -> list[int]:
        _, mid = self.paho.subscribe([(topic, SubscribeOptions(1)) for topic in topics])
        assert mid is not None

        async def answered() -> Any:
            return self.codes.get(mid)

        found: list[int] = await eventually(answered)
        return found

    async def publish(self, topic: str, body: Any, qos: int = 1) -> ReasonCode:
        mid = self.paho.publish(topic, body if isinstance(body, str) else json.dumps(body), qos).mid

        async def answered() -> Any:
            return [self.acknowledged[mid]] if mid in self.acknowledged else None

        found: ReasonCode = (await eventually(answered))[0]
        return found

    async def of(self, topic: str, count: int = 1) -> list[Any]:
        async def there() -> Any:
            found = [body for name, body in self.told if name == topic]
            return found if len(found) >= count else None

        found: list[Any] = await eventually(there)
        return found

    def stop(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def estate(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Estate]:
    port = free_port()
    house = House(Settings(
        home=tmp_path_factory.mktemp("estate") / "home", http_port=port, mqtt_port=free_port(), public_url=f"http://127.0.0.1:{port}",
    ))
    async with Estate.opened(house) as made:
        yield made


async def application(estate: Estate, person: httpx.AsyncClient, org: str, version: int = paho.MQTTv5, *scopes: str) -> Client:
    made = await person.post("/tokens", json={"name": "sta", "org": org, "scopes": list(scopes) or ["access.*"]})
    return Client(estate.house.settings.mqtt_port, made.json()["secret"], version)


@pytest.mark.conformance
@pytest.mark.asyncio(loop_scope="module")
async def test_observations_are_told_as_http_gives_them(
    estate: Estate, address: str, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient
) -> None:
    device, other = await estate.device(lin, "fuzhou", "sta-1"), await estate.device(chen, "xiamen", "sta-2")
    stream = f"v1.1/Datastreams('{device['no']}:pm25')/Observations"
    narrow, everything, theirs = f"{stream}?$select=result,phenomenonTime", "v1.1/Observations", f"v1.1/Datastreams('{other['no']}:pm25')/Observations"
    client = await application(estate, yang, "fuzhou")
    assert await client.subscribe(stream, narrow, everything, theirs) == [0, 0, 0, 0], "an Observation that may not be seen is told to nobody"
    assert await client.subscribe("v1.1/Things/+", "v1.1/Observations?$filter=result gt 1", "$share/g/v1.1/Observations") == [0x8F, 0x8F, 0x87]

    async def followed() -> bool:
        await estate.say(device, pm25=1)
        await asyncio.sleep(0.3)
        return bool(client.told)

    await eventually(followed)
    client.told.clear()
    await estate.say(other, pm25=3)
    await estate.say(device, **{"ts": 1_795_000_000_000, "values": {"pm25": 18.5, "pm10": 40}})
    (told,) = await client.of(stream)
    assert told["@iot.id"] == f"{device['no']}:pm25:1795000000000000"
    await estate.latest(yang, device, "pm25", 1)
    sta = httpx.AsyncClient(headers={"Authorization": f"Bearer {estate.house.local_token}"})

    async def stored() -> Any:
        answer = await sta.get(told["@iot.selfLink"])
        return answer.json() if answer.status_code == 200 else None

    assert await eventually(stored) == told
    assert await client.of(narrow) == [{"phenomenonTime": "2026-11-18T11:06:40Z", "result": 18.5}]
    assert {one["@iot.id"].split(":")[1] for one in await client.of(everything, 2)} == {"pm25", "pm10"}
    assert not [one for topic, one in client.told if topic == theirs or str(other["no"]) + ":" in one.get("@iot.id", "")]

    made = (await yang.get("/tokens")).json()["items"]
    for token in made:
        assert (await yang.delete(f"/tokens/{token['id']}")).status_code in (200, 204)

    async def cut_off() -> bool:
        return bool(client.closed)

    await eventually(cut_off)
    await sta.aclose()
    client.stop()


@pytest.mark.conformance
@pytest.mark.asyncio(loop_scope="module")
async def test_entities_properties_and_sets_are_told_when_they_change(
    estate: Estate, address: str, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    device, hidden = await estate.device(lin, "fuzhou", "sta-3"), await estate.device(chen, "xiamen", "sta-4")
    no = device["no"]
    root = (await estate.client(authorization=f"Bearer {estate.house.local_token}").get("http://house/sta/v1.1")).json()["serverSettings"]
    updates = "http://www.opengis.net/spec/iot_sensing/1.1/req/receive-updates-via-mqtt/receive-updates"
    assert updates in root["conformance"]
    assert root[updates]["endpoints"] == [f"mqtt://127.0.0.1:{estate.house.settings.mqtt_port}"]
    thing, name, place, theirs = f"v1.1/Things({no})", f"v1.1/Things({no})/name", f"v1.1/Locations({no})", f"v1.1/Things({hidden['no']})"
    small = f"v1.1/Things({no})?$select=name"
    client = await application(estate, lin, "fuzhou")
    assert await client.subscribe(thing, name, place, small, theirs, "v1.1/Things", "v1.1/Datastreams") == [0] * 7
    await asyncio.sleep(1.5)  # the follower opens with the next second

    async def moved(who: httpx.AsyncClient, whose: dict[str, Any], lon: float) -> None:
        url = f"{address.removesuffix('/api/v1')}/ngsi-ld/v1/entities/{whose['entity_id']}/attrs"
        body = {"location": {"type": "GeoProperty", "value": {"type": "Point", "coordinates": [lon, 26.1]}},
                "name": {"type": "Property", "value": f"站 {lon}"}}
        token = (await who.post("/tokens", json={"name": "m", "org": whose["org"], "scopes": ["context.*"]})).json()["secret"]
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as ngsi:
            answer = await ngsi.patch(url, json=body)
            assert answer.status_code in (204, 207), answer.text

    await moved(chen, hidden, 119.0)
    await moved(lin, device, 119.7)
    assert (await client.of(name))[-1] == {"name": "站 119.7"}
    assert (await client.of(place))[-1]["location"] == {"type": "Point", "coordinates": [119.7, 26.1]}
    (told,) = await client.of(thing)
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {estate.house.local_token}"}) as sta:
        assert (await sta.get(told["@iot.selfLink"])).json() == told
    assert await client.of(small) == [{"name": "站 119.7"}]
    assert told in await client.of("v1.1/Things")
    assert f"{no}:pm25" in {one["@iot.id"] for one in await client.of("v1.1/Datastreams")}
    fresh = await estate.device(lin, "fuzhou", "sta-5")

    async def new() -> bool:
        return any(topic == "v1.1/Things" and one["@iot.id"] == fresh["no"] for topic, one in client.told)

    await eventually(new)
    seen = [one.get("@iot.id") for topic, one in client.told if topic in (theirs, "v1.1/Things")]
    assert hidden["no"] not in seen, "another organisation's thing is told to nobody"
    client.stop()


@pytest.mark.conformance
@pytest.mark.asyncio(loop_scope="module")
async def test_observations_are_made_by_publishing(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient
) -> None:
    device, other = await estate.device(lin, "fuzhou", "sta-6"), await estate.device(chen, "xiamen", "sta-7")
    stream = f"v1.1/Datastreams('{device['no']}:pm25')/Observations"
    client = await application(estate, lin, "fuzhou")
    assert (await client.publish(stream, {"result": 21, "phenomenonTime": "2026-11-18T19:06:40+08:00"})).value == 0
    thing = await estate.latest(lin, device, "pm25", 21)
    assert thing["latest"]["pm25"]["ts"].startswith("2026-11-18T11:06:40")
    body = {"result": 22, "phenomenonTime": "2026-11-18T19:06:41+08:00", "Datastream": {"@iot.id": f"{device['no']}:pm25"}}
    assert (await client.publish("v1.1/Observations", body)).value == 0
    for topic, wrong, code in (
        (stream, "no json", 0x99), (stream, {"result": "x"}, 0x99), (stream, {"result": 1, "more": 1}, 0x99),
        (f"v1.1/Datastreams('{other['no']}:pm25')/Observations", {"result": 1}, 0x87), ("v1.1/Datastreams('999999:pm25')/Observations", {"result": 1}, 0x87),
        (stream, {"result": 23, "phenomenonTime": "2026-11-18T19:06:40+08:00"}, 0x83), ("v1.1/Things", {"name": "x"}, 0x87),
    ):
        assert (await client.publish(topic, wrong)).value == code, (topic, wrong)
    await estate.latest(lin, device, "pm25", 22)
    await estate.house.service(Quotas).put(ADMIN, "fuzhou", Quota(readings=0))
    assert (await client.publish(stream, {"result": 5})).value == 0x87
    await estate.house.service(Quotas).put(ADMIN, "fuzhou", Quota())

    looker = await application(estate, yang, "fuzhou")
    assert (await looker.publish(stream, {"result": 5})).value == 0x87, "who may only look makes none"
    looker.stop()
    client.paho.publish(stream, json.dumps({"result": 6}), 0)
    await estate.latest(lin, device, "pm25", 6)
    old = await application(estate, lin, "fuzhou", paho.MQTTv311)
    assert (await old.publish(stream, {"result": 7})).value == 0
    old.paho.publish(stream, "no json", 1)

    async def cut_off() -> bool:
        return bool(old.closed)

    await eventually(cut_off)
    client.stop()
    old.stop()
