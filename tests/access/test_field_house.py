"""Field protocols in a whole house: from the identity that a person registers to the value that a person reads."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.access import test_gb32960, test_jt808, test_sl651
from tests.access.conftest import Estate, eventually
from tests.access.test_devices_commands import Tulou, tulou  # noqa: F401 - a fixture
from tests.access.test_field import Station, answer
from tests.access.test_hj212 import MN, frame
from tulou.access.protocols import crc_16
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
    assert thing["device"]["identities"] == shown["identities"]
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


async def exchange(station: Station, sent: bytes, size: int) -> bytes:
    station.send(sent)
    async with asyncio.timeout(20):
        return await station.reader.readexactly(size)


async def test_a_vehicle_terminal_registers_authenticates_and_is_read(estate: Estate, lin: httpx.AsyncClient) -> None:
    body = bytes.fromhex("00230064") + b"MAKER" + bytes(20) + b"ID00001" + b"\2" + "闽A12345".encode("gbk")
    hello = test_jt808.frame(0x0100, body)
    refused = test_jt808.frame(0x8100, b"\0\1\4")
    station = await Station.connect(port(estate, "jt808"))
    assert await exchange(station, hello, len(refused)) == refused
    device = await register(estate, lin, "bus", "013812345678", protocol="jt808")

    async def registered() -> bool:
        again = await Station.connect(port(estate, "jt808"))
        known = test_jt808.frame(0x8100, b"\0\1\0" + test_jt808.IDENTITY)
        again.send(hello)
        async with asyncio.timeout(20):
            answer = await again.reader.readexactly(len(refused))
            if answer == refused:
                return False
            answer += await again.reader.readexactly(len(known) - len(refused))
        assert answer == known
        for serial, (number, body) in enumerate([(0x0102, test_jt808.IDENTITY), (0x0002, b""), (0x0200, test_jt808.POINT)], 2):
            reply = test_jt808.frame(0x8001, serial.to_bytes(2) + number.to_bytes(2) + b"\0", serial=serial)
            assert await exchange(again, test_jt808.frame(number, body, serial=serial), len(reply)) == reply
        return True

    await eventually(registered)
    thing = await estate.latest(lin, device, "speed", 60.0)
    assert thing["latest"]["plate"]["value"] == "闽A12345"
    assert thing["latest"]["latitude"]["value"] == 26.025552


async def test_a_terminal_with_a_code_speaks_only_after_it_proved_it(estate: Estate, lin: httpx.AsyncClient) -> None:
    phone = bytes.fromhex("013900000001")
    device = await register(estate, lin, "coach", "13900000001", protocol="jt808", password="code")
    station = await Station.connect(port(estate, "jt808"))
    steps = [(0x0200, test_jt808.POINT, 1), (0x0102, b"wrong", 1), (0x0102, b"code", 0), (0x0200, test_jt808.POINT, 0)]
    for serial, (number, body, result) in enumerate(steps, 1):
        reply = test_jt808.frame(
            0x8001, serial.to_bytes(2) + number.to_bytes(2) + bytes((result,)), serial=serial, phone=phone
        )
        sent = test_jt808.frame(number, body, serial=serial, phone=phone)
        assert await exchange(station, sent, len(reply)) == reply
    await estate.latest(lin, device, "speed", 60.0)


async def test_an_electric_vehicle_logs_in_reports_and_leaves(estate: Estate, lin: httpx.AsyncClient) -> None:
    frame, when = test_gb32960.frame, test_gb32960.WHEN
    device = await register(estate, lin, "ev", test_gb32960.VIN.decode(), protocol="gb32960")
    station = await Station.connect(port(estate, "gb32960"))
    login = frame(1, when + b"\0\1" + b"8" * 20 + b"\0\0")
    invalid = frame(3, when[:-1] + b"\1" + b"\x05\1" + bytes(8))
    for sent in (login, test_gb32960.ALL, invalid, frame(7, b"")):
        reply = frame(sent[2], b"" if sent[2] == 7 else sent[24:30], mark=1)
        assert await exchange(station, sent, len(reply)) == reply
    await exchange(station, frame(4, when + b"\0\1"), 31)
    assert await station.reader.read() == b""
    thing = await estate.latest(lin, device, "positioned", 0.0)
    assert thing["latest"]["maxCellVoltage"]["value"] == 4.2
    assert thing["latest"]["latitude"]["quality"] == 2
    wrong = {"protocol": "gb32960", "identity": "A" * 17, "password": "x"}
    assert (await lin.post(f"/devices/{device['id']}/identities", json=wrong)).json()["field"] == "password"


async def test_a_value_that_is_no_number_is_null_of_bad_quality(estate: Estate, lin: httpx.AsyncClient) -> None:
    vin = b"LFV2A21K8G4000002"
    device = await register(estate, lin, "ev2", vin.decode(), protocol="gb32960")
    station = await Station.connect(port(estate, "gb32960"))
    body = test_gb32960.VEHICLE[:4] + b"\xff\xff" + test_gb32960.VEHICLE[6:]
    sent = test_gb32960.frame(2, test_gb32960.WHEN + body, vin=vin)
    assert len(await exchange(station, sent, 31)) == 31
    thing = await estate.latest(lin, device, "soc", 100)
    assert (thing["latest"]["speed"]["value"], thing["latest"]["speed"]["quality"]) == (None, 2)


async def test_a_hydrological_station(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await register(estate, lin, "river", "12345678", protocol="sl651", password="1234")
    assert (await lin.get(f"/devices/{device['id']}")).json()["identities"][0]["identity"] == "0012345678"
    sent = test_sl651.raw(test_sl651.UPLINKS["MAKER 32"]).replace(b"\x04\xd2", b"\x12\x34", 1)[:-2]
    station = await Station.connect(port(estate, "sl651"))
    station.send(sent + crc_16(sent).to_bytes(2))
    async with asyncio.timeout(20):
        answered = await station.reader.readexactly(25)
    assert (answered[10], answered[-3]) == (0x32, 4)
    await estate.latest(lin, device, "Z", 14.42)
    (kept,) = (await lin.get(f"/things/{device['no']}/frames")).json()["items"]
    assert "1234" not in kept["raw"]
    other = test_sl651.raw(test_sl651.UPLINKS["MAKER 33"])
    station.send(other)
    assert await station.silent()
