"""A server of OPC UA in a whole house: from the document that a person writes to the value that is read, what is found
there, and commands."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography import x509

from tests.access.conftest import Estate, eventually
from tests.access.test_devices_commands import Tulou, tulou  # noqa: F401 - a fixture
from tests.access.test_opcua import Plant
from tulou.access.opcua.certificate import URI
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def estate(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Estate]:
    """A house that may dial this machine."""
    house = House(
        Settings(
            home=tmp_path_factory.mktemp("works") / "home",
            http_port=free_port(),
            mqtt_port=free_port(),
            outbound_allow="127.0.0.1",
        )
    )
    async with Estate.opened(house) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    plant = await Plant(tmp_path_factory.mktemp("plant"), free_port(), "secure").start()
    yield plant
    await plant.kill()


def document(plant: Plant, **more: Any) -> dict[str, Any]:
    return {
        "url": f"opc.tcp://127.0.0.1:{plant.port}/plant",
        "security": "SignAndEncrypt",
        "server_certificate": plant.first,
        "user": "operator",
        "password": "secret",
        "publish_ms": 100,
        "nodes": [{"node": "ns=2;s=Level", "property": "level", "scale": 100}],
        "commands": ["ns=2;s=Setpoint", "ns=2;s=Double"],
        **more,
    }


async def test_from_a_document_to_values_what_is_there_and_commands(
    estate: Estate,
    lin: httpx.AsyncClient,
    chen: httpx.AsyncClient,
    yang: httpx.AsyncClient,
    plant: Plant,
    tulou: Tulou,  # noqa: F811
    tmp_path: Path,
) -> None:
    device = await estate.device(lin, "fuzhou", "works", type="Device")
    path = f"/devices/{device['id']}/opcua"
    assert (await lin.get(path)).status_code == 404
    assert (await lin.get(path + "/nodes")).status_code == 409
    file = tmp_path / "server.json"
    file.write_text(json.dumps(document(plant)))
    shown = await tulou("device", "opcua", device["id"], str(file))
    assert shown["password"] is True
    assert "secret" not in (await lin.get(path)).text
    await plant.tell("level 2.5")
    await estate.latest(lin, device, "level", 250.0, "ok")
    (kept, *_) = (await lin.get(f"/things/{device['no']}/frames")).json()["items"]
    assert kept["protocol"] == "opcua"

    found = await tulou("device", "browse", device["id"], "ns=2;s=Tank")
    assert {item["name"]: item.get("value") for item in found}["Name"] == "一号罐"
    assert {"node": "ns=2;s=Double", "name": "Double", "label": "Double", "class": "Method"} in found
    top = (await yang.get(path + "/nodes")).json()["items"]
    assert {"Server", "Plant"} <= {item["name"] for item in top}
    for node, status in (("ns=2;s=Nothing", 400), ("nsu=urn:none;s=A", 400)):
        assert (await lin.get(path + "/nodes", params={"node": node})).status_code == status

    methods = (await lin.get(f"/devices/{device['id']}/methods")).json()
    assert set(methods["opcua"]) == {"write", "call"}
    done = (await lin.post(f"/devices/{device['id']}/commands?wait=20", json={
        "method": "write", "params": {"node": "ns=2;s=Setpoint", "value": 42}})).json()
    assert (done["state"], done["bearer"]) == ("done", "opcua")
    assert await plant.tell("get Setpoint") == "42.0"
    done = (await lin.post(f"/devices/{device['id']}/commands?wait=20", json={
        "method": "call", "params": {"object": "ns=2;s=Tank", "method": "ns=2;s=Double", "arguments": [4]}})).json()
    assert (done["state"], done["result"]) == ("done", [8.0])
    failed = (await lin.post(f"/devices/{device['id']}/commands?wait=20", json={
        "method": "write", "params": {"node": "ns=2;s=Level", "value": 1}})).json()
    assert failed["state"] == "failed"
    assert "ns=2;s=Level" in failed["error"]

    kept_password = document(plant, publish_ms=200)
    del kept_password["password"]
    assert (await lin.put(path, json=kept_password)).json()["password"] is True
    await plant.tell("level 3.5")
    await estate.latest(lin, device, "level", 350.0)

    assert (await yang.get(path)).status_code == 200
    assert (await yang.put(path, json=document(plant))).status_code == 403
    for answer in (
        await chen.get(path),
        await chen.get(path + "/nodes"),
        await chen.put(path, json=document(plant)),
        await chen.delete(path),
    ):
        assert (answer.status_code, "works" in answer.json()["detail"]) == (404, True)

    async def counted() -> Any:
        admin = estate.client(authorization=f"Bearer {estate.house.local_token}")
        doors = (await admin.get("/system")).json().get("access.field_doors", [])
        return [door for door in doors if door["name"] == "opcua" and door["connections"]]

    (door,) = await eventually(counted)
    assert door["servers"] == 1
    certificate = x509.load_pem_x509_certificate((await lin.get(path + "/certificate")).content)
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == [URI]
    assert (await lin.delete(path)).status_code == 204
    assert (await lin.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"url": "http://127.0.0.1"}, "url"),
        ({"url": "opc.tcp://127.0.0.1:0/x"}, "url"),
        ({"url": "opc.tcp://user:x@127.0.0.1"}, "url"),
        ({"server_certificate": None}, "server_certificate"),
        ({"nodes": [], "commands": []}, "nodes"),
        ({"nodes": [{"node": "Level", "property": "level"}]}, "nodes[0].node"),
        ({"nodes": [{"node": f"i={n}", "property": "level"} for n in (1, 2)]}, "nodes[1].property"),
        ({"publish_ms": 1}, "publish_ms"),
        ({"folders": [{"node": "i=85", "depth": 9}]}, "folders[0].depth"),
    ],
)
async def test_what_is_wrong_in_a_document_is_named(
    estate: Estate, lin: httpx.AsyncClient, plant: Plant, change: dict[str, Any], field: str
) -> None:
    device = (await lin.post("/devices", json={"org": "fuzhou", "type": "Device", "name": "w", "id": "wrong"})).json()
    answer = await lin.put(f"/devices/{device['id']}/opcua", json=document(plant, **change))
    assert (answer.status_code, answer.json()["field"].replace(".0", "[0]")) == (400, field), answer.text


async def test_an_address_inside_that_is_not_allowed_is_refused(lin: httpx.AsyncClient, plant: Plant) -> None:
    device = (await lin.post("/devices", json={"org": "fuzhou", "type": "Device", "name": "w", "id": "wrong"})).json()
    answer = await lin.put(f"/devices/{device['id']}/opcua", json=document(plant, url="opc.tcp://127.0.0.2/x"))
    assert answer.status_code == 400
    assert answer.json()["type"].endswith("address-refused")
