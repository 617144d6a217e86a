"""What is polled, in a whole house: from the document that a person writes to the value that a person reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.access.conftest import Estate, eventually
from tests.access.test_devices_commands import Tulou, tulou  # noqa: F401 - a fixture
from tests.access.test_field_house import port, register
from tests.access.test_poll_door import Dtu, electric, reply
from tests.conformance.meters import ADDRESS

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def gateway(estate: Estate, client: httpx.AsyncClient, key: str) -> dict[str, Any]:
    return await register(estate, client, key, key, protocol="dtu")


async def test_from_a_document_to_a_value_that_is_read(
    estate: Estate, lin: httpx.AsyncClient, yang: httpx.AsyncClient, tulou: Tulou, tmp_path: Path,  # noqa: F811
) -> None:
    device = await gateway(estate, lin, "DTU77")
    meter = await estate.device(lin, "fuzhou", "meter-77", type="Device")
    file = tmp_path / "poll.yaml"
    file.write_text(f"""
meters:
  - protocol: dlt645
    address: "{ADDRESS}"
    device: {meter['id']}
    points: [{{property: voltage, item: "02010100", period_s: 1}}]
""")
    shown = await tulou("device", "poll", device["id"], str(file))
    assert shown["meters"][0]["points"] == [{"property": "voltage", "item": "02010100", "period_s": 1}]
    assert await tulou("device", "poll", device["id"]) == shown
    dtu = await Dtu.dial(port(estate, "dtu"), b"DTU77\n")
    await dtu.question()
    dtu.writer.write(reply(ADDRESS, "02010100", "0522"))
    await estate.latest(lin, meter, "voltage", 220.5, "ok")
    (kept, *_) = (await lin.get(f"/things/{meter['no']}/frames")).json()["items"]
    assert kept["protocol"] == "dlt645"

    async def counted() -> Any:
        admin = estate.client(authorization=f"Bearer {estate.house.local_token}")
        doors = (await admin.get("/system")).json().get("access.field_doors", [])
        return [door for door in doors if door["name"] == "dtu" and door["answered"]]

    (door,) = await eventually(counted)
    assert door["meters"] == 1
    assert (await yang.get(f"/devices/{device['id']}/poll")).status_code == 200
    assert (await yang.delete(f"/devices/{device['id']}/poll")).status_code == 403
    await tulou("device", "poll", device["id"], "--remove")
    while await dtu.question():  # one may have been under way
        pass
    assert (await lin.get(f"/devices/{device['id']}/poll")).status_code == 404


@pytest.mark.parametrize(("change", "field"), [
    ({"meters": []}, "meters"), ({"host": "10.0.0.1"}, "port"), ({"heartbeat": "hex:1"}, "heartbeat"), ({"host": "169.254.169.254", "port": 80}, "url"),
    ({"meters": [electric("energy", address="1")]}, "meters[0].address"),
    ({"meters": [{**electric("energy"), "points": [{"property": "x", "item": "zz"}]}]}, "meters[0].item"),
    ({"meters": [electric("energy"), electric("energy")]}, "meters[1].points"),
    ({"meters": [electric("energy", protocol="nmea")]}, "meters.0.protocol"),
    ({"meters": [electric("energy", device="fuzhou:nobody")]}, "id"),
])
async def test_a_wrong_document_is_named(
    estate: Estate, lin: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    device = (await lin.get("/devices", params={"q": "DTU78"})).json()["items"]
    made = device[0] if device else await gateway(estate, lin, "DTU78")
    body = {"meters": [electric("energy")], **change}
    answer = await lin.put(f"/devices/{made['id']}/poll", content=json.dumps(body))
    assert answer.status_code in (400, 404), answer.text
    assert (answer.json().get("field") or "") == field, answer.text


async def test_a_document_is_of_its_organisation(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    mine = await gateway(estate, lin, "DTU79")
    theirs = await estate.device(chen, "xiamen", "meter-79", type="Device")
    body = {"meters": [electric("energy")]}
    assert (await chen.put(f"/devices/{mine['id']}/poll", json=body)).status_code == 404
    assert (await chen.get(f"/devices/{mine['id']}/poll")).status_code == 404
    other = {"meters": [electric("energy", device=theirs["id"])]}
    assert (await lin.put(f"/devices/{mine['id']}/poll", json=other)).status_code == 404
    assert (await lin.put(f"/devices/{mine['id']}/poll", json=body)).status_code == 200
    assert (await lin.delete(f"/devices/{mine['id']}")).status_code == 204
    again = await gateway(estate, lin, "DTU79")
    assert (await lin.get(f"/devices/{again['id']}/poll")).status_code == 404


async def test_a_polled_protocol_has_no_identities(lin: httpx.AsyncClient) -> None:
    answer = await lin.post("/devices", json={
        "org": "fuzhou", "type": "Device", "name": "x", "id": "polled", "protocol": "dlt645", "identity": "1",
    })
    assert (answer.status_code, answer.json()["field"]) == (400, "protocol")
