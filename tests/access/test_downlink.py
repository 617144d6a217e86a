"""Commands to devices, from the person who sends one to the device that does it, on every bearer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import paho.mqtt.client as paho
import pytest
import pytest_asyncio
from paho.mqtt.enums import CallbackAPIVersion

from tests.access import test_gb32960, test_jt808
from tests.access.conftest import Estate, eventually
from tests.access.test_field import Station
from tests.access.test_field_house import port, register
from tests.access.test_hj212 import frame
from tulou.access import mqtt
from tulou.access.protocols import sl651
from tulou.kernel.packs import Command, Model, Property, Text

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = "v1/devices/me/rpc/request/+"


class Client:
    """A device on the client of Eclipse Paho, unmodified. `does` answers a command, or does not (None)."""

    def __init__(self, at: int, token: str, does: Callable[[dict[str, Any]], Any] = lambda _call: {"ok": True}, *,
                 protocol: int = paho.MQTTv311, qos: int = 1) -> None:
        self.calls: list[tuple[int, dict[str, Any]]] = []
        self.ready = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self.client.username_pw_set(token)

        def connected(client: Any, *_: Any) -> None:
            client.subscribe(REQUESTS, qos)

        def message(client: Any, _data: Any, message: Any) -> None:
            number, call = int(message.topic.rsplit("/", 1)[1]), json.loads(message.payload)
            self.calls.append((number, call))
            answer = does(call)
            if answer is not None:
                client.publish(f"v1/devices/me/rpc/response/{number}", json.dumps(answer), 1)

        self.client.on_connect, self.client.on_message = connected, message
        self.client.on_subscribe = lambda *_: loop.call_soon_threadsafe(self.ready.set)
        self.client.connect("127.0.0.1", at)
        self.client.loop_start()

    async def __aenter__(self) -> Client:
        await asyncio.wait_for(self.ready.wait(), 15)
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)


class Raw:
    """A device of bare bytes, which acknowledges nothing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, at: int, token: str) -> Raw:
        made = cls(*await asyncio.open_connection("127.0.0.1", at))
        made.writer.write(mqtt.connect("raw", token) + mqtt.subscribe(b"\0\1", [(REQUESTS, 1)]))
        assert await asyncio.wait_for(made.reader.readexactly(9), 15) == b"\x20\x02\0\0\x90\x03\0\1\1"
        return made

    async def request(self) -> int:
        """The number of the command in the next PUBLISH."""
        head, size = await asyncio.wait_for(self.reader.readexactly(2), 15)
        assert head >> 4 == 3
        packet = await self.reader.readexactly(size)
        topic = packet[2 : 2 + int.from_bytes(packet[:2])]
        return int(topic.rsplit(b"/", 1)[1])


def mqtt_port(estate: Estate) -> int:
    return estate.house.settings.mqtt_port


async def send(client: httpx.AsyncClient, device: dict[str, Any], method: str, wait: int = 20, **more: Any) -> dict[str, Any]:
    answer = await client.post(f"/devices/{device['id']}/commands", params={"wait": wait}, json={"method": method, **more})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ended(client: httpx.AsyncClient, no: int) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/commands/{no}", params={"wait": 30})).json()
    return found


async def in_state(client: httpx.AsyncClient, no: int, state: str) -> dict[str, Any]:
    async def now() -> Any:
        found = (await client.get(f"/commands/{no}")).json()
        return found if found["state"] == state else None

    found: dict[str, Any] = await eventually(now)
    return found


@pytest_asyncio.fixture(loop_scope="module")
async def device(estate: Estate, lin: httpx.AsyncClient, request: pytest.FixtureRequest) -> dict[str, Any]:
    key = "".join(letter for letter in request.node.name if letter.isalnum())[:60]
    return await estate.device(lin, "fuzhou", key, type="Device")


@pytest.mark.parametrize(("protocol", "qos"), [(paho.MQTTv311, 1), (paho.MQTTv5, 1), (paho.MQTTv311, 0)])
async def test_a_command_and_its_answer(
    estate: Estate, lin: httpx.AsyncClient, device: dict[str, Any], protocol: int, qos: int
) -> None:
    async with Client(mqtt_port(estate), device["token"], lambda call: {"pumps": call["params"]["on"]}, protocol=protocol,
                      qos=qos) as there:
        done = await send(lin, device, "pumps", params={"on": 3, "名": "泵"})
    assert (done["state"], done["result"], done["attempts"], done["error"]) == ("done", {"pumps": 3}, 1, None)
    assert done["sent_at"] <= done["delivered_at"] <= done["ended_at"]
    assert there.calls == [(done["no"], {"method": "pumps", "params": {"on": 3, "名": "泵"}})]


async def test_a_command_waits_for_its_device(estate: Estate, lin: httpx.AsyncClient, device: dict[str, Any]) -> None:
    waiting = [await send(lin, device, f"m{number}", 0, expires_s=3600) for number in range(12)]
    assert {one["state"] for one in waiting} == {"waiting"}
    assert [one["no"] for one in (await lin.get(f"/devices/{device['id']}/commands", params={"state": "open"})).json()["items"]] == [
        one["no"] for one in reversed(waiting)
    ]
    async with Client(mqtt_port(estate), device["token"]) as there:
        for one in waiting:
            assert (await ended(lin, one["no"]))["state"] == "done"
    assert [call["method"] for _, call in there.calls] == [f"m{number}" for number in range(12)]


async def test_what_wants_no_answer_is_done_when_it_is_there(
    estate: Estate, lin: httpx.AsyncClient, device: dict[str, Any]
) -> None:
    async with Client(mqtt_port(estate), device["token"], lambda _call: None):
        done = await send(lin, device, "blink", answer=False)
    assert (done["state"], done["result"]) == ("done", None)


async def test_what_expired_is_not_sent_and_there_is_an_event(
    estate: Estate, lin: httpx.AsyncClient, device: dict[str, Any]
) -> None:
    late = await send(lin, device, "late", 20, expires_s=1)
    assert late["state"] == "expired"
    async with Client(mqtt_port(estate), device["token"]) as there:
        assert (await send(lin, device, "now"))["state"] == "done"
    assert [call["method"] for _, call in there.calls] == ["now"]

    async def announced() -> Any:
        message = await estate.house.bus.js.get_last_msg("EVENTS", "tulou.events.command.done")
        return json.loads(message.data or b"{}")["method"] == "now"

    await eventually(announced)
    expired = await estate.house.bus.js.get_last_msg("EVENTS", "tulou.events.command.expired")
    assert json.loads(expired.data or b"{}")["no"] == late["no"]


async def test_an_answer_that_comes_too_late_is_kept(estate: Estate, lin: httpx.AsyncClient, device: dict[str, Any]) -> None:
    async with Client(mqtt_port(estate), device["token"], lambda _call: None) as there:
        late = await send(lin, device, "slow", 20, expires_s=1)
        assert late["state"] == "expired"
        there.client.publish(f"v1/devices/me/rpc/response/{late['no']}", b'"at last"', 1)

        async def kept() -> Any:
            return (await lin.get(f"/commands/{late['no']}")).json()["result"] == "at last"

        await eventually(kept)
    assert (await lin.get(f"/commands/{late['no']}")).json()["state"] == "expired"


async def test_where_it_is_unknown_whether_it_came(estate: Estate, lin: httpx.AsyncClient, device: dict[str, Any]) -> None:
    """The connection ends without PUBACK: sent again under the same number, unless it may not be repeated."""
    raw = await Raw.connect(mqtt_port(estate), device["token"])
    again = await send(lin, device, "again", 0, expires_s=600)
    never = await send(lin, device, "never", 0, expires_s=600, repeat=False)
    assert [await raw.request(), await raw.request()] == [again["no"], never["no"]]
    assert (await in_state(lin, again["no"], "sent"))["attempts"] == 1
    raw.writer.transport.abort()
    failed = await ended(lin, never["no"])
    assert failed["state"] == "failed"
    assert "unknown whether it arrived" in failed["error"]
    async with Client(mqtt_port(estate), device["token"]) as there:
        done = await ended(lin, again["no"])
    assert (done["state"], done["attempts"]) == ("done", 2)
    assert [number for number, _ in there.calls] == [again["no"]]


async def test_a_killed_gateway_sends_what_may_not_have_come_again(
    estate: Estate, lin: httpx.AsyncClient, device: dict[str, Any]
) -> None:
    raw = await Raw.connect(mqtt_port(estate), device["token"])
    sent = await send(lin, device, "after-a-crash", 0, expires_s=600)
    assert await raw.request() == sent["no"]
    waiting = await send(lin, await estate.device(lin, "fuzhou", "bystander", type="Device"), "x", 0, expires_s=600)
    (gateway,) = [child for child in estate.house.children if child.name == "gateway"]
    assert gateway.pid
    os.kill(gateway.pid, signal.SIGKILL)

    async def back() -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", mqtt_port(estate))
            writer.close()
            return True
        return False

    await asyncio.sleep(0.5)
    await eventually(back, 30)
    async with Client(mqtt_port(estate), device["token"]):
        done = await ended(lin, sent["no"])
    assert (done["state"], done["attempts"]) == ("done", 2)
    assert (await lin.get(f"/commands/{waiting['no']}")).json()["state"] == "waiting"


async def test_over_http(estate: Estate, lin: httpx.AsyncClient, device: dict[str, Any]) -> None:
    there = estate.client()
    assert (await there.get(f"/{device['token']}/rpc", params={"timeout": 50})).status_code == 408
    asking = asyncio.create_task(there.get(f"/{device['token']}/rpc", params={"timeout": 20000}))
    await asyncio.sleep(0.1)
    sent = await send(lin, device, "report", 0, params=[1, 2])
    asked = (await asking).json()
    assert asked == {"id": str(sent["no"]), "method": "report", "params": [1, 2]}
    assert (await lin.get(f"/commands/{sent['no']}")).json()["state"] == "delivered"
    assert (await there.post(f"/{device['token']}/rpc/{sent['no']}", content=b"\xff not JSON")).status_code == 200
    done = await ended(lin, sent["no"])
    assert (done["state"], done["result"]) == ("done", "\ufffd not JSON")
    one_way = await send(lin, device, "note", 0, answer=False)
    assert (await there.get(f"/{device['token']}/rpc")).json()["method"] == "note"
    assert (await ended(lin, one_way["no"]))["state"] == "done"
    assert (await there.post(f"/{device['token']}/rpc/9999999", content=b"{}")).status_code == 404
    assert (await there.get("/wrongtoken/rpc")).status_code == 401


async def test_nobody_sees_or_answers_anothers(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient, device: dict[str, Any]
) -> None:
    sent = await send(lin, device, "secret", 0, expires_s=600)
    theirs = await estate.device(chen, "xiamen", "spy", type="Device")
    assert (await chen.get(f"/commands/{sent['no']}")).status_code == 404
    assert (await chen.delete(f"/commands/{sent['no']}")).status_code == 404
    assert (await chen.get(f"/devices/{device['id']}/commands")).status_code == 404
    assert (await chen.post(f"/devices/{device['id']}/commands", json={"method": "x"})).status_code == 404
    assert [one for one in (await chen.get("/commands")).json()["items"] if one["org"] != "xiamen"] == []
    assert (await yang.get(f"/commands/{sent['no']}")).status_code == 200
    assert (await yang.delete(f"/commands/{sent['no']}")).status_code == 403
    assert (await yang.post(f"/devices/{device['id']}/commands", json={"method": "x"})).status_code == 403
    answer = await estate.client().post(f"/{theirs['token']}/rpc/{sent['no']}", content=b'"forged"')
    assert answer.status_code == 404
    async with Client(mqtt_port(estate), theirs["token"]) as there:
        there.client.publish(f"v1/devices/me/rpc/response/{sent['no']}", b'"forged"', 1).wait_for_publish(10)
        assert (await send(chen, theirs, "mine"))["state"] == "done"
    assert [call["method"] for _, call in there.calls] == ["mine"]
    assert (await lin.get(f"/commands/{sent['no']}")).json()["state"] == "waiting"


async def test_the_same_key_is_the_same_command(lin: httpx.AsyncClient, device: dict[str, Any]) -> None:
    first = await send(lin, device, "open", 0, key="order-7", params={"gate": 1})
    assert (await send(lin, device, "open", 0, key="order-7", params={"gate": 1}))["no"] == first["no"]
    other = await lin.post(f"/devices/{device['id']}/commands", json={"method": "close", "key": "order-7"})
    assert (other.status_code, other.json()["field"]) == (409, "key")


async def test_cancelled_deleted_and_too_many(estate: Estate, lin: httpx.AsyncClient, device: dict[str, Any]) -> None:
    first = await send(lin, device, "x", 0)
    assert (await lin.delete(f"/commands/{first['no']}")).json()["state"] == "cancelled"
    assert (await lin.delete(f"/commands/{first['no']}")).status_code == 409
    sent = [await send(lin, device, "x", 0) for _ in range(100)]
    full = await lin.post(f"/devices/{device['id']}/commands", json={"method": "x"})
    assert (full.status_code, full.headers["retry-after"]) == (429, "60")
    assert (await lin.delete(f"/devices/{device['id']}")).status_code == 204
    assert (await lin.get(f"/commands/{sent[-1]['no']}")).json()["state"] == "cancelled"


@pytest_asyncio.fixture(loop_scope="module")
async def valve(estate: Estate) -> AsyncIterator[Model]:
    """A model that says what its devices are told."""
    text = Text(zh="开度", en="opening")
    model = Model(label=text, open=True, commands={
        "set_opening": Command(label=text, params={"opening": Property(label=text, min=0, max=100, symbol="%"),
                                                   "why": Property(label=text, kind="string")},
                               optional=["why"], repeat=False, expires_s=5),
    })
    estate.house.packs.models["Valve"] = model
    yield model
    del estate.house.packs.models["Valve"]


async def test_a_model_says_what_its_devices_are_told(estate: Estate, lin: httpx.AsyncClient, valve: Model) -> None:
    device = await estate.device(lin, "fuzhou", "valve", type="Valve")
    path = f"/devices/{device['id']}"
    (method,) = (await lin.get(f"{path}/methods")).json()["json"].items()
    assert method[0] == "set_opening"
    assert method[1]["schema"]["properties"]["opening"] == {
        "title": "开度", "title_en": "opening", "type": "number", "minimum": 0.0, "maximum": 100.0, "unit": "%",
    }
    for params, field in (({}, "params.opening"), ({"opening": 101}, "params.opening"), ({"opening": "x"}, "params.opening"),
                          ({"opening": 1, "speed": 2}, "params.speed"), ([], "params")):
        refused = await lin.post(f"{path}/commands", json={"method": "set_opening", "params": params})
        assert (refused.status_code, refused.json()["field"]) == (400, field)
    assert (await lin.post(f"{path}/commands", json={"method": "explode"})).json()["field"] == "method"
    sent = await send(lin, device, "set_opening", 0, params={"opening": 30, "why": "检修"})
    assert (sent["repeat"], sent["answer"]) == (False, True)
    for body, field in (({"method": "x", "params": "n" * 70_000}, "params"), ({"method": ""}, "method"),
                        ({"method": "x", "expires_s": 0}, "expires_s"), ({"method": "x", "bearer": "hj212"}, "bearer")):
        refused = await lin.post(f"/devices/{(await estate.device(lin, 'fuzhou', f'bad-{field}', type='Device'))['id']}/commands",
                                 json=body)
        assert (refused.status_code in (400, 413), refused.json()["field"]) == (True, field), refused.text


MN = b"010000A8900016F000169DD7"
DATA = b"DataTime=20260401080000;w01018-Rtd=12.5,w01018-Flag=N"


def reply(cn: int, qn: bytes, values: bytes) -> bytes:
    from tests.access.test_hj212 import crc

    segment = b"QN=%b;ST=91;CN=%d;PW=123456;MN=%b;Flag=4;CP=&&%b&&" % (qn, cn, MN, values)
    return b"##%04d%b%04X\r\n" % (len(segment), segment, crc(segment))


async def test_commands_of_hj212(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await register(estate, lin, "hj-commands", MN.decode(), password="123456")
    station = await Station.connect(port(estate))
    station.send(frame(DATA, mn=MN))
    await station.line()
    sending = asyncio.create_task(send(lin, device, "set_realtime_interval", params={"seconds": 30}))
    request = await station.line()
    qn = request[9:26]
    assert request[6:] == b"QN=%b;ST=31;CN=1062;PW=123456;MN=%b;Flag=5;CP=&&RtdInterval=30&&" % (qn, MN) + request[-6:]
    station.send(reply(9011, qn, b"QnRtn=1"))
    station.send(reply(9012, qn, b"ExeRtn=1"))
    assert ((await sending)["state"], (await sending)["bearer"]) == ("done", "hj212")

    sending = asyncio.create_task(send(lin, device, "read_clock"))
    qn = (await station.line())[9:26]
    station.send(reply(9011, qn, b"QnRtn=1"))
    station.send(reply(1011, qn, b"SystemTime=20260401080000"))
    station.send(reply(9012, qn, b"ExeRtn=1"))
    assert (await sending)["result"] == {"SystemTime": "20260401080000"}

    sending = asyncio.create_task(send(lin, device, "minutes", params={"begin": "20260401000000", "end": "20260401010000"}))
    qn = (await station.line())[9:26]
    station.send(reply(9011, qn, b"QnRtn=1"))
    station.send(reply(2051, qn, b"DataTime=20260401001000;w01018-Avg=11.5,w01018-Flag=N"))
    station.send(reply(9012, qn, b"ExeRtn=1"))
    assert (await sending)["result"] == {"frames": 1}
    await estate.latest(lin, device, "w01018-Avg-minute", 11.5)

    sending = asyncio.create_task(send(lin, device, "command", params={"cn": 3999, "values": {"a": 1}}))
    qn = (await station.line())[9:26]
    station.send(reply(9011, qn, b"QnRtn=8"))
    failed = await sending
    assert (failed["state"], failed["error"]) == ("failed", "QnRtn=8：CN 错误 (wrong CN)")
    bad = await lin.post(f"/devices/{device['id']}/commands",
                         json={"method": "command", "params": {"cn": 1062, "values": {"a": "1&&;PW=x"}}})
    assert (bad.status_code, bad.json()["field"].startswith("params.values")) == (400, True)
    assert (await lin.get(f"/things/{device['no']}")).json()["latest"].keys().isdisjoint({"QnRtn", "ExeRtn"})


async def test_hj212_commands_wait_and_go_one_at_a_time(estate: Estate, lin: httpx.AsyncClient) -> None:
    mn = b"010000A8900016F000169DD8"
    device = await register(estate, lin, "hj-later", mn.decode())
    first = await send(lin, device, "sample", 0, expires_s=600)
    second = await send(lin, device, "clean", 0, expires_s=600)
    station = await Station.connect(port(estate))
    station.send(frame(DATA, mn=mn))
    assert b"CN=9014" in await station.line()
    request = await station.line()
    assert b"CN=3012" in request
    assert await station.silent()
    station.writer.close()
    await in_state(lin, first["no"], "waiting")
    station = await Station.connect(port(estate))
    station.send(frame(DATA, mn=mn))
    assert b"CN=9014" in await station.line()
    request = await station.line()
    assert b"CN=3012" in request
    segment = b"QN=%b;ST=91;CN=9012;PW=;MN=%b;Flag=4;CP=&&ExeRtn=1&&" % (request[9:26], mn)
    from tests.access.test_hj212 import crc

    station.send(b"##%04d%b%04X\r\n" % (len(segment), segment, crc(segment)))
    assert b"CN=3013" in await station.line()
    assert (await ended(lin, first["no"]))["attempts"] == 2
    assert (await lin.delete(f"/commands/{second['no']}")).status_code == 200


async def packet(station: Station, mark: bytes = b"\x7e") -> bytes:
    """The next frame of JT/T 808, without escapes."""
    await asyncio.wait_for(station.reader.readuntil(mark), 15)
    piece = (await asyncio.wait_for(station.reader.readuntil(mark), 15))[:-1]
    return piece.replace(b"\x7d\x02", b"\x7e").replace(b"\x7d\x01", b"\x7d")


async def test_commands_of_jt808(estate: Estate, lin: httpx.AsyncClient) -> None:
    phone = bytes.fromhex("013812340808")
    device = await register(estate, lin, "bus-commands", "13812340808", protocol="jt808")
    station = await Station.connect(port(estate, "jt808"))
    station.send(test_jt808.frame(0x0200, test_jt808.POINT, phone=phone))
    await packet(station)

    def says(number: int, body: bytes) -> None:
        station.send(test_jt808.frame(number, body, phone=phone))

    sending = asyncio.create_task(send(lin, device, "text", params={"text": "前方拥堵", "flags": 12}))
    asked = await packet(station)
    assert (asked[:2], asked[4:10], asked[12:-1]) == (b"\x83\x00", phone, b"\x0c" + "前方拥堵".encode("gb18030"))
    says(0x0001, asked[10:12] + asked[:2] + b"\0")
    assert (await sending)["result"] == {"result": 0}

    sending = asyncio.create_task(send(lin, device, "set_parameters", params={"parameters": [
        {"id": "0x0029", "value": 30}, {"id": 0x13, "value": "gps.example"}, {"id": 0x31, "value": 200},
    ]}))
    asked = await packet(station)
    assert asked[12:-1] == bytes.fromhex("03 00000029 04 0000001E 00000013 0B") + b"gps.example" + bytes.fromhex("00000031 02 00C8")
    says(0x0001, asked[10:12] + asked[:2] + b"\3")
    assert (await sending)["error"] == "结果 3：不支持 (not supported)"

    sending = asyncio.create_task(send(lin, device, "read_some_parameters", params={"ids": ["0x0029", "0x0013"]}))
    asked = await packet(station)
    assert asked[:2] + asked[12:-1] == bytes.fromhex("8106 02 00000029 00000013")
    says(0x0104, asked[10:12] + bytes.fromhex("02 00000029 04 0000001E 00000013 0B") + b"gps.example")
    assert (await sending)["result"] == {"0x0029": 30, "0x0013": "gps.example"}

    await packet(station)  # the reply to 0104
    sending = asyncio.create_task(send(lin, device, "locate"))
    asked = await packet(station)
    says(0x0001, asked[10:12] + asked[:2] + b"\0")
    says(0x0201, asked[10:12] + test_jt808.POINT)
    found = (await sending)["result"]
    assert {name: found[name] for name in test_jt808.VALUES if name in found}.items() <= test_jt808.VALUES.items()
    assert found["latitude"] == test_jt808.VALUES["latitude"]
    bad = await lin.post(f"/devices/{device['id']}/commands", json={
        "method": "set_parameters", "params": {"parameters": [{"id": 0x29, "value": 1 << 40}]},
    })
    assert (await ended(lin, bad.json()["no"]))["state"] == "failed"


async def test_commands_of_gb32960(estate: Estate, lin: httpx.AsyncClient) -> None:
    vin = b"LFV2A21K8G4000808"
    device = await register(estate, lin, "car-commands", vin.decode(), protocol="gb32960")
    station = await Station.connect(port(estate, "gb32960"))
    station.send(test_gb32960.frame(0x07, b"", vin=vin))
    await station.reader.readexactly(25)

    async def asked() -> bytes:
        head = await asyncio.wait_for(station.reader.readexactly(24), 15)
        return head + await station.reader.readexactly(int.from_bytes(head[22:]) + 1)

    sending = asyncio.create_task(send(lin, device, "read_parameters", params={"names": ["report_period_s", "public_domain_length", "public_domain"]}))
    request = await asked()
    assert (request[:4], request[4:21], request[30:-1]) == (b"##\x80\xfe", vin, b"\x03\x02\x0d\x0e")
    station.send(test_gb32960.frame(0x80, request[24:30] + b"\x03\x02\x00\x0a\x0d\x03\x0eabc", mark=1, vin=vin))
    assert (await sending)["result"] == {"report_period_s": 10, "public_domain_length": 3, "public_domain": "abc"}

    sending = asyncio.create_task(send(lin, device, "set_parameters", params={"values": {"report_period_s": 30, "public_domain": "ev.example"}}))
    request = await asked()
    assert request[30:-1] == b"\x03\x02\x00\x1e\x0d\x0a\x0eev.example"
    station.send(test_gb32960.frame(0x81, request[24:30], mark=2, vin=vin))
    assert (await sending)["state"] == "failed"

    sending = asyncio.create_task(send(lin, device, "control", params={"control": "alarm", "level": 2}))
    request = await asked()
    assert request[30:-1] == b"\x06\x02"
    station.send(test_gb32960.frame(0x82, request[24:30], mark=1, vin=vin))
    assert (await sending)["state"] == "done"


async def test_queries_of_sl651(estate: Estate, lin: httpx.AsyncClient) -> None:
    number = "0034567890"
    device = await register(estate, lin, "river-commands", number, protocol="sl651")
    station = await Station.connect(port(estate, "sl651"))

    def says(function: int, body: str) -> None:
        station.send(sl651.frame(function, number, bytes.fromhex(body), end=3, up=True, centre=7, password=b"\x12\x34"))

    async def hears() -> bytes:
        head = await asyncio.wait_for(station.reader.readexactly(14), 15)
        return head + await station.reader.readexactly((int.from_bytes(head[11:13]) & 0xFFF) + 3)

    says(0x2F, "0001260401080000")
    sending = asyncio.create_task(send(lin, device, "read_elements", params={"elements": [{"name": "Z", "size": 4, "decimals": 3}]}))
    asked = await hears()
    assert asked[:11] == bytes.fromhex("7E7E") + bytes.fromhex(number) + b"\x07\x12\x34\x3a"
    assert asked[22:-3] == bytes.fromhex("3923")
    says(0x3A, "0001260401080100" "F1F1" + number + "48" "F0F0" "2604010801" "3923" "00012345")
    assert (await sending)["result"]["Z"] == 12.345
    bad = await lin.post(f"/devices/{device['id']}/commands", json={
        "method": "read_elements", "params": {"elements": [{"name": "nothing", "size": 4, "decimals": 3}]},
    })
    assert bad.json()["field"] == "params.elements.0.name"


@pytest.mark.parametrize("path", ["/commands/²", "/things/²", "/rules/²", "/alarms/²", "/redecodes/²", "/rollouts/²", "/firmware/²"])
async def test_digits_that_are_no_number_are_not_found(lin: httpx.AsyncClient, path: str) -> None:
    assert (await lin.get(path)).status_code == 404
