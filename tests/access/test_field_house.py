"""Field protocols in a whole house: from the identity that a person registers to the value that a person reads."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.access.conftest import Estate, eventually
from tests.access.test_devices_commands import Tulou, tulou  # noqa: F401 - a fixture
from tests.access.test_field import Station, answer
from tests.access.test_hj212 import MN, frame
from tulou.kernel.errors import Invalid
from tulou.kernel.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


def port(estate: Estate, protocol: str = "hj212") -> int:
    return estate.house.settings.fields[protocol][0]


async def register(estate: Estate, client: httpx.AsyncClient, key: str, identity: str, **more: Any) -> dict[str, Any]:
    return await estate.device(
        client, "fuzhou", key, type="Device", **{"protocol": "hj212", "identity": identity, **more}
    )


async def test_from_a_frame_to_a_value_that_is_read(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await register(estate, lin, "outfall", MN.decode(), password="123456")
    shown = (await lin.get(f"/devices/{device['id']}")).json()
    assert shown["identities"] == [{"protocol": "hj212", "identity": MN.decode(), "password": True}]
    sent = frame(b"DataTime=20260401080000;w01018-Rtd=12.5,w01018-Flag=N;w21003-Rtd=0.35,w21003-Flag=D")
    station = await Station.connect(port(estate))
    station.send(sent)
    assert await station.line() == answer()
    thing = await estate.latest(lin, device, "w01018-Rtd", 12.5)
    assert thing["latest"]["w21003-Rtd"]["quality"] == 2
    assert thing["latest"]["w01018-Rtd"]["ts"].startswith("2026-04-01T00:00:00")
    assert thing["latest"]["w01018-Flag"]["value"] == "N"
    (kept,) = (await lin.get(f"/things/{device['no']}/frames")).json()["items"]
    assert kept["raw"] == sent.replace(b"PW=123456", b"PW=******").decode()
    assert kept["protocol"] == "hj212"


async def test_a_dead_letter_of_nobody_becomes_its_devices_when_replayed(estate: Estate, lin: httpx.AsyncClient) -> None:
    mn = b"010000A8900016F000169D10"
    station = await Station.connect(port(estate))
    station.send(frame(b"DataTime=20260401080000;w01018-Rtd=7", mn=mn))
    assert await station.line() == answer(mn, b"QnRtn=4", 9011)
    admin = estate.client(authorization=f"Bearer {estate.house.local_token}")

    async def found() -> Any:
        items = (await admin.get("/dead-letters", params={"org": "house"})).json().get("items", [])
        return [item for item in items if mn.decode() in item["raw"]]

    (letter,) = await eventually(found)
    assert "PW=******" in letter["raw"]
    assert [item for item in (await lin.get("/dead-letters")).json()["items"] if item["id"] == letter["id"]] == []
    device = await register(estate, lin, "late", mn.decode())
    (line,) = (await admin.post("/dead-letters/replay", json={"ids": [letter["id"]]})).json()["items"]
    assert line["ok"] is True
    await estate.latest(lin, device, "w01018-Rtd", 7)


async def test_an_identity_is_one_devices(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient) -> None:
    mine = await register(estate, lin, "mine", "MINE01")
    assert (await lin.post("/devices", json={
        "org": "fuzhou", "type": "Device", "name": "x", "id": "mine", "protocol": "hj212", "identity": "MINE01",
    })).status_code == 200
    taken = await chen.post("/devices", json={
        "org": "xiamen", "type": "Device", "name": "x", "id": "theirs", "protocol": "hj212", "identity": "MINE01",
    })
    assert (taken.status_code, taken.json()["field"]) == (409, "identity")
    assert "fuzhou" not in taken.text
    other = await estate.device(chen, "xiamen", "other", type="Device")
    path = f"/devices/{other['id']}/identities"
    assert (await chen.post(path, json={"protocol": "hj212", "identity": "MINE01"})).status_code == 409
    assert (await chen.post(path, json={"protocol": "hj212", "identity": "OTHER1"})).status_code == 200
    assert (await lin.post(path, json={"protocol": "hj212", "identity": "OTHER2"})).status_code == 404
    assert (await chen.delete(f"{path}/hj212/MINE01")).status_code == 404
    assert (await lin.delete(f"/devices/{mine['id']}")).status_code == 204
    assert (await chen.post(path, json={"protocol": "hj212", "identity": "MINE01"})).status_code == 200


@pytest.mark.parametrize(("body", "field"), [
    ({"protocol": "hj212", "identity": "a;b"}, "identity"), ({"protocol": "nmea", "identity": "a"}, "protocol"),
    ({"protocol": "hj212"}, "identity"), ({"identity": "a"}, "protocol"), ({"password": "a"}, "protocol"),
])
async def test_a_wrong_identity_is_named(
    lin: httpx.AsyncClient, body: dict[str, str], field: str
) -> None:
    answer = await lin.post("/devices", json={"org": "fuzhou", "type": "Device", "name": "x", "id": "wrong", **body})
    assert (answer.status_code, answer.json()["field"]) == (400, field)


async def test_a_new_identity_is_heard_and_one_taken_away_refused(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "changing", type="Device")
    mn = b"CHANGING01"
    sent = frame(b"DataTime=20260401080000;w01018-Rtd=1", mn=mn)
    station = await Station.connect(port(estate))
    station.send(sent)
    assert b"QnRtn=4" in await station.line()
    path = f"/devices/{device['id']}/identities"
    assert (await lin.post(path, json={"protocol": "hj212", "identity": mn.decode()})).status_code == 200

    async def heard() -> bool:
        station.send(sent)
        return b"CN=9014" in await station.line()

    await eventually(heard)
    assert (await lin.delete(f"{path}/hj212/{mn.decode()}")).status_code == 204
    assert await station.line() == b""


async def test_from_the_command_line(estate: Estate, tulou: Tulou) -> None:  # noqa: F811
    made = await tulou("device", "create", "--org", "fuzhou", "--type", "Device", "--name", "排口", "--id", "o-1",
                       "--protocol", "hj212", "--identity", "CLI01")
    await tulou("device", "identity", made["id"], "--protocol", "hj212", "--identity", "CLI02")
    await tulou("device", "identity", made["id"], "--protocol", "hj212", "--identity", "CLI01", "--remove")
    shown = await tulou("device", "show", made["id"])
    assert shown["identities"] == [{"protocol": "hj212", "identity": "CLI02", "password": False}]


async def test_a_heard_device_is_online(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await register(estate, lin, "online", "ONLINE01")
    station = await Station.connect(port(estate))
    station.send(frame(b"DataTime=20260401080000;w01018-Rtd=1", mn=b"ONLINE01"))
    assert b"CN=9014" in await station.line()

    async def online() -> bool:
        return bool((await lin.get(f"/things/{device['no']}")).json()["state"] == "ok")

    await eventually(online)


@pytest.mark.parametrize("text", ["hj212", "hj212=x", "hj212=1,hj212=2", "hj212=70000"])
async def test_ports_are_written_as_protocol_and_number(text: str) -> None:
    with pytest.raises(Invalid):
        _ = Settings(field_ports=text).fields
    await asyncio.sleep(0)
