"""Products: who declares and sees them, what is refused, and devices of one that was made while gateway and house run."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.access.conftest import Estate, eventually
from tests.access.test_devices_commands import Tulou, tulou  # noqa: F401 - a fixture
from tests.access.test_field import Station, answer
from tests.access.test_field_house import port
from tests.access.test_hj212 import frame
from tests.access.test_quotas import below  # noqa: F401 - a fixture

pytestmark = pytest.mark.asyncio(loop_scope="module")


def text(zh: str, en: str) -> dict[str, str]:
    return {"zh": zh, "en": en}


def model(**properties: Any) -> dict[str, Any]:
    known = {name: {"label": text(name, name), **more} for name, more in properties.items()}
    return {"label": text("排口监测仪", "Outfall monitor"), "properties": known}


FLOW = {"unit": "MQH", "symbol": "m³/h", "min": 0, "max": 500}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def su(estate: Estate) -> httpx.AsyncClient:
    """A steward of Fuzhou."""
    return await estate.person("su", "fuzhou", "steward")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wu(estate: Estate) -> httpx.AsyncClient:
    """An administrator of Xiamen."""
    return await estate.person("wu", "xiamen", "admin")


async def make(client: httpx.AsyncClient, name: str, org: str = "fuzhou", **properties: Any) -> dict[str, Any]:
    answer = await client.post("/products", json={"org": org, "name": name, "model": model(**properties or {"seepage": FLOW})})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def publish(estate: Estate, device: dict[str, Any], **values: Any) -> None:
    """By mosquitto_pub, acknowledged."""
    command = ["mosquitto_pub", "-p", str(estate.house.settings.mqtt_port), "-q", "1", "-u", device["token"],
               "-t", "v1/devices/me/telemetry", "-m", json.dumps(values)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


async def quality(client: httpx.AsyncClient, device: dict[str, Any], prop: str, value: Any) -> int:
    async def seen() -> Any:
        found = (await client.get(f"/things/{device['no']}")).json()["latest"].get(prop, {})
        return found if found.get("value") == value else None

    return int((await eventually(seen))["quality"])


async def test_who_declares_products_and_who_sees_them(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient, su: httpx.AsyncClient,
    wu: httpx.AsyncClient, below: str,  # noqa: F811
) -> None:
    body = {"org": "fuzhou", "name": "Seen", "model": model(seepage=FLOW)}
    for client in (lin, yang, chen, wu):
        assert (await client.post("/products", json=body)).status_code == 403
    made = await make(su, "Seen")
    assert (made["org"], made["version"], made["entities"], made["model"]["properties"]["seepage"]["max"]) == ("fuzhou", 1, 0, 500)
    county = await estate.person("county", below, "admin")
    for client, status in ((lin, 200), (yang, 200), (county, 200), (chen, 404), (wu, 404)):
        assert (await client.get("/products/Seen")).status_code == status
        listed = [one["name"] for one in (await client.get("/products")).json()["items"]]
        assert ("Seen" in listed) is (status == 200)
        types = {one["type"]: one for one in (await client.get("/models")).json()}
        assert ("Seen" in types) is (status == 200)
        if status == 200:
            assert (types["Seen"]["pack"], types["Seen"]["org"]) == ("product of fuzhou", "fuzhou")
        rules = (await client.get("/rules")).json()["declared"]
        assert rules
        assert all(one["type"] != "Seen" for one in rules)
        made_so = {"org": "xiamen" if client in (chen, wu) else "fuzhou", "type": "Seen", "name": "x", "id": "seen"}
        if client in (chen, wu):
            answer = await client.post("/provision-keys", json=made_so | {"name": "x", "id": None})
            assert answer.status_code in (400, 403)
            refused = await wu.post("/devices", json=made_so)
            unknown = await wu.post("/devices", json=made_so | {"type": "Nowhere"})
            assert (refused.status_code, unknown.status_code) == (400, 400)
            assert refused.text.replace("Seen", "Nowhere") == unknown.text, "as if it were not there"
    assert (await county.put("/products/Seen", json={"model": model(), "version": 1})).status_code == 403, "of the city"
    assert (await lin.put("/products/Seen", json={"model": model(), "version": 1})).status_code == 403
    assert (await wu.put("/products/Seen", json={"model": model(), "version": 1})).status_code == 404
    assert (await wu.delete("/products/Seen")).status_code == 404
    taken = await wu.post("/products", json=body | {"org": "xiamen"})
    assert (taken.status_code, taken.json()["field"]) == (409, "name")
    made_device = await county.post("/devices", json={"org": below, "type": "Seen", "name": "x", "id": "of-the-county"})
    assert made_device.status_code == 201, "a product of the organisation above"
    context = (await chen.get("http://house/ngsi-ld/contexts/tulou.jsonld")).json()["@context"][0]
    assert "AirQualityStation" in context
    assert not {"Seen", "seepage"} & context.keys(), "names are not everybody's"
    admin = estate.client(authorization=f"Bearer {estate.house.local_token}")
    audited = (await admin.get("/audit", params={"action": "access.product.create"})).json()["items"]
    assert [one["actor"] for one in audited if one["subject"] == "product Seen"] != []


async def test_what_a_product_may_not_say(su: httpx.AsyncClient, wu: httpx.AsyncClient) -> None:
    async def refused(name: str, said: dict[str, Any], status: int, field: str) -> None:
        answer = await su.post("/products", json={"org": "fuzhou", "name": name, "model": said})
        assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text
        assert answer.json()["detail_zh"] != answer.json()["detail_en"]
        told = (await su.post("/products/check", json={"org": "fuzhou", "name": name, "model": said})).json()["errors"]
        assert told[0]["field"] == field

    await refused("AirQualityStation", model(a={}), 409, "name")
    await refused("1st", model(a={}), 400, "name")
    await refused("Wrong", model(a={"min": 3, "max": 1}), 400, "model.properties.a")
    await refused("Wrong", model(a={"codes": {"hj212": "x"}}, b={"codes": {"hj212": "x"}}), 400, "model")
    await refused("Wrong", model(a={"codes": {"hj213": "x"}}), 400, "model.properties.a.codes")
    await refused("Wrong", model(a={"codes": {"lwm2m": "3303/0/5700"}}), 400, "model.properties.a")
    await refused("Wrong", model(temperature={"iri": "https://example.org/temperature"}), 400, "model.properties.temperature.iri")
    await refused("Wrong", model(a={"iri": "no iri"}), 400, "model.properties.a.iri")
    await refused("Wrong", model(location={}), 400, "model.properties.location.iri")
    await refused("Wrong", {**model(a={}), "retention_days": 0}, 400, "model.retention_days")
    await refused("Wrong", model(a={"iri": "https://example.org/own"}), 400, "model.properties.a.iri")
    several = {"label": {"zh": ""}, "properties": {"b-": {"label": text("b", "b"), "kind": "colour"}}}
    told = (await su.post("/products/check", json={"org": "fuzhou", "name": "Fine", "model": several})).json()["errors"]
    assert {one["field"] for one in told} == {"model.label.zh", "model.label.en", "model.properties.b-.kind"}
    both = {"org": "fuzhou", "name": "AirQualityStation", "model": several}
    assert len((await su.post("/products/check", json=both)).json()["errors"]) == 4, "what is wrong with the name too"
    fine = {"org": "fuzhou", "name": "Fine", "model": model(a={}, temperature={"min": -40})}
    assert (await su.post("/products/check", json=fine)).json() == {"errors": []}
    assert (await su.get("/products/Fine")).status_code == 404, "nothing is made by looking"
    assert (await wu.post("/products/check", json=fine)).status_code == 403


async def test_a_name_that_others_entities_have_is_taken(estate: Estate, su: httpx.AsyncClient, chen: httpx.AsyncClient) -> None:
    entity = {"id": "urn:ngsi-ld:Wharf:1", "type": "Wharf"}
    assert (await chen.post("http://house/ngsi-ld/v1/entities", json=entity)).status_code == 201
    answer = await su.post("/products", json={"org": "fuzhou", "name": "Wharf", "model": model(a={})})
    assert (answer.status_code, answer.json()["detail_en"]) == (409, "the name Wharf is taken")


async def test_a_device_of_a_new_product_speaks_to_the_gateway_that_runs(
    estate: Estate, su: httpx.AsyncClient, lin: httpx.AsyncClient
) -> None:
    await make(su, "Outfall", seepage=FLOW, note={"kind": "string"})
    device = await estate.device(lin, "fuzhou", "outfall-1", type="Outfall")
    thing = (await lin.get(f"/things/{device['no']}")).json()
    assert [one["name"] for one in thing["model"]["properties"]] == ["seepage", "note"]

    async def refused() -> Any:
        await publish(estate, device, seepage=10.0, speed=1)
        letters = (await lin.get("/dead-letters", params={"entity": device["no"]})).json()["items"]
        return [one for one in letters if one["entity"] == device["no"] and one["field"] == "speed"]

    await eventually(refused)
    assert await quality(lin, device, "seepage", 10.0) == 0
    await publish(estate, device, seepage=501)
    assert await quality(lin, device, "seepage", 501) == 2, "out of range"

    changed = await su.put("/products/Outfall", json={"model": model(seepage={**FLOW, "max": 900}, speed={}, note={"kind": "string"}), "version": 1})
    assert (changed.status_code, changed.json()["version"], changed.json()["entities"]) == (200, 2, 1)
    stale = await su.put("/products/Outfall", json={"model": model(seepage=FLOW), "version": 1})
    assert (stale.status_code, stale.json()["rule"]) == (409, "2")

    async def good() -> bool:
        await publish(estate, device, seepage=502, speed=3)
        found = (await lin.get(f"/things/{device['no']}")).json()["latest"]
        return bool(found["seepage"]["value"] == 502 and found["seepage"]["quality"] == 0 and found.get("speed", {}).get("value") == 3)

    await eventually(good)
    await estate.say(device, seepage=901)
    assert await quality(lin, device, "seepage", 901) == 2, "the door of HTTP follows too"
    entity = (await lin.get(f"http://house/ngsi-ld/v1/entities/{device['entity_id']}")).json()
    assert entity["seepage"]["unitCode"] == "MQH"

    again = model(seepage={**FLOW, "kind": "string"}, note={"kind": "string"})
    kind = await su.put("/products/Outfall", json={"model": again, "version": 2})
    assert (kind.status_code, kind.json()["field"]) == (409, "model.properties.seepage.kind")
    without = await su.put("/products/Outfall", json={"model": model(note={"kind": "string"}), "version": 2})
    assert without.status_code == 200
    back = await su.put("/products/Outfall", json={"model": again, "version": 3})
    assert back.status_code == 409, "what was taken out comes back as it was"
    assert (await su.delete("/products/Outfall")).status_code == 409
    assert (await lin.delete(f"http://house/ngsi-ld/v1/entities/{device['entity_id']}")).status_code == 204
    assert (await su.delete("/products/Outfall")).status_code == 204
    assert (await lin.get("/products/Outfall")).status_code == 404
    assert "Outfall" not in {one["type"] for one in (await lin.get("/models")).json()}


async def test_codes_of_a_protocol_become_properties(estate: Estate, su: httpx.AsyncClient, lin: httpx.AsyncClient) -> None:
    await make(su, "Monitor", cod={"unit": "M1", "min": 0, "max": 1000, "codes": {"hj212": "w01018-Rtd"}},
               ammonia={"unit": "GQ", "codes": {"hj212": "w21003-Rtd"}, "scale": 1000}, state={"kind": "string", "codes": {"hj212": "w01018-Flag"}})
    mn = b"PRODUCT000000000000000001"[:24]
    device = await estate.device(lin, "fuzhou", "monitor-1", type="Monitor", protocol="hj212", identity=mn.decode())
    station = await Station.connect(port(estate))
    station.send(frame(b"DataTime=20260401080000;w01018-Rtd=12.5,w01018-Flag=N;w21003-Rtd=0.35,w21003-Flag=D", mn=mn))
    assert await station.line() == answer(mn)
    thing = await estate.latest(lin, device, "cod", 12.5)
    latest = thing["latest"]
    assert (latest["cod"]["unit"], latest["ammonia"]["value"], latest["ammonia"]["quality"], latest["state"]["value"]) == ("M1", 350.0, 2, "N")
    assert not {"w01018-Rtd", "w21003-Rtd"} & latest.keys()
    entity = (await lin.get(f"http://house/ngsi-ld/v1/entities/{device['entity_id']}")).json()
    assert (entity["cod"]["value"], entity["cod"]["unitCode"], entity["cod"]["observedAt"]) == (12.5, "M1", "2026-04-01T00:00:00Z")
    admin = estate.client(authorization=f"Bearer {estate.house.local_token}")

    async def reread(**counts: int) -> None:
        body = {"protocol": "hj212", "from": "2026-01-01T00:00:00Z", "device": device["id"]}
        run = (await admin.post("/redecodes", json=body)).json()

        async def done() -> Any:
            found = (await admin.get(f"/redecodes/{run['id']}")).json()
            return found if found["state"] == "done" else None

        told = (await eventually(done))["counts"]
        assert {name: told[name] for name in ("changed", "added", "removed", *counts)} == {"changed": 0, "added": 0, "removed": 0, **counts}

    await reread(frames=1)
    said = model(cod={"unit": "M1", "min": 0, "max": 1000, "codes": {"hj212": "w01018-Rtd"}}, ammonia={"unit": "GQ"},
                 nh3={"codes": {"hj212": "w21003-Rtd"}}, state={"kind": "string", "codes": {"hj212": "w01018-Flag"}})
    assert (await su.put("/products/Monitor", json={"model": said, "version": 1})).status_code == 200
    await reread(frames=1, added=1, removed=1)
    await estate.latest(lin, device, "nh3", 0.35)


async def test_from_the_command_line(tulou: Tulou, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "pump.yaml"
    file.write_text("""
Pump:
  label: {zh: 泵, en: Pump}
  properties:
    speed: {label: {zh: 转速, en: Speed}, unit: RPM, min: 0, max: 3000, codes: {modbus: speed}}
  commands:
    start: {label: {zh: 启动, en: Start}}
""", "utf-8")
    await tulou("product", "set", str(file), code=2)
    (made,) = (await tulou("product", "set", str(file), "--org", "fuzhou"))["items"]
    assert (made["version"], made["properties"], made["commands"]) == (1, 1, 1)
    file.write_text(file.read_text("utf-8").replace("3000", "3600"), "utf-8")
    (changed,) = (await tulou("product", "set", str(file)))["items"]
    assert (changed["version"], changed["model"]["properties"]["speed"]["max"]) == (2, 3600)
    assert [one["name"] for one in (await tulou("product", "list", "--org", "fuzhou"))["items"] if one["name"] == "Pump"]
    assert (await tulou("product", "show", "Pump"))["model"]["commands"]["start"]["answer"] is True
    await tulou("product", "delete", "Pump")
    await tulou("product", "show", "Pump", code=1)


async def test_an_iri_of_its_own_is_given_by_who_administers_the_house(estate: Estate, su: httpx.AsyncClient, lin: httpx.AsyncClient) -> None:
    admin = estate.client(authorization=f"Bearer {estate.house.local_token}")
    said = model(clarity={"iri": "https://example.org/clarity"}, depth={})
    answer = await admin.post("/products", json={"org": "fuzhou", "name": "Secchi", "model": said})
    assert answer.status_code == 201, answer.text
    names = estate.house.packs.models["Secchi"].properties
    assert (names["clarity"].iri, names["depth"].iri) == ("https://example.org/clarity", "")
    context = (await lin.get("http://house/ngsi-ld/contexts/tulou.jsonld")).json()["@context"][0]
    assert context["clarity"] == "https://example.org/clarity"
    device = await estate.device(lin, "fuzhou", "secchi-1", type="Secchi")
    await estate.say(device, clarity=3)
    await estate.latest(lin, device, "clarity", 3)
    core = {"accept": "application/ld+json", "link": '<https://uri.etsi.org/ngsi-ld/v1/ngsi-ld-core-context-v1.9.jsonld>; '
            'rel="http://www.w3.org/ns/json-ld#context"; type="application/ld+json"'}
    entity = (await lin.get(f"http://house/ngsi-ld/v1/entities/{device['entity_id']}", headers=core)).json()
    assert entity["https://example.org/clarity"]["value"] == 3
    assert (await su.put("/products/Secchi", json={"model": said, "version": 1})).status_code == 200, "it stays"
    made = await make(su, "Other", clarity={})
    assert made["model"]["properties"]["clarity"]["iri"] == ""
    assert estate.house.packs.models["Other"].properties["clarity"].iri == "https://example.org/clarity", "one name, one IRI"


async def test_what_was_announced_while_the_bus_was_away_is_read_when_it_is_back(
    estate: Estate, su: httpx.AsyncClient, lin: httpx.AsyncClient
) -> None:
    await make(su, "Buoy", height={"max": 10})
    device = await estate.device(lin, "fuzhou", "buoy-1", type="Buoy")
    await publish(estate, device, height=5)
    assert await quality(lin, device, "height", 5) == 0
    nats = estate.house.nats
    assert nats is not None
    process = nats.child.process
    assert process is not None
    process.kill()
    await process.wait()
    changed = asyncio.create_task(su.put("/products/Buoy", json={"model": model(height={"max": 20}), "version": 1}))
    assert (await changed).status_code == 200

    async def follows() -> bool:
        await publish(estate, device, height=15)
        found = (await lin.get(f"/things/{device['no']}")).json()["latest"]["height"]
        return bool(found["value"] == 15 and found["quality"] == 0)

    await eventually(follows, 40)
