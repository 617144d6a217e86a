"""GB/T 28181 in a whole house, with SIPp as the device (its own digest, its own transactions) in a process of its own, and tshark as
the judge of what went over the wire. Scenarios: `sipp/`."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio

from tests.access.camera import REALM, SERVER, Camera, Said
from tests.access.conftest import Estate, eventually
from tests.access.test_gateway import command
from tulou.access.live import Hub
from tulou.access.supervise import gateway_config
from tulou.kernel.bus import free_port
from tulou.kernel.errors import Invalid
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
SCENARIOS = Path(__file__).parent / "sipp"
SECRET = "sesame2026"
sipp_there = pytest.mark.skipif(shutil.which("sipp") is None, reason="sipp is not installed (Debian package sip-tester)")


class MediaServer:
    """A media server by the contract of docs/gb28181.md: where streams go, and what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, Any]] = []
        self.answer: tuple[int, Any] = (200, {"ip": "127.0.0.1", "port": 30000})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                size = next((int(line.split(":")[1]) for line in head.lower().split("\r\n") if line.startswith("content-length")), 0)
                body = await reader.readexactly(size)
                self.told.append((method, path, orjson.loads(body or b"null")))
                status, answer = self.answer if method == "POST" else (204, None)
                data = b"" if answer is None else orjson.dumps(answer)
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data))

    def of(self, method: str) -> list[Any]:
        return [(path, body) for how, path, body in self.told if how == method]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def media() -> AsyncIterator[tuple[MediaServer, int]]:
    made = MediaServer()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    yield made, server.sockets[0].getsockname()[1]
    server.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def estate(tmp_path_factory: pytest.TempPathFactory, media: tuple[MediaServer, int]) -> AsyncIterator[Estate]:
    """The house with the door of GB/T 28181."""
    home = tmp_path_factory.mktemp("estate") / "home"
    house = House(Settings(
        home=home, http_port=free_port(), mqtt_port=0, gb28181_port=free_port(), gb28181_media=f"http://127.0.0.1:{media[1]}/calls",
        outbound_allow=f"127.0.0.1:{media[1]}",
    ))
    async with Estate.opened(house) as made:
        yield made


async def sipp(estate: Estate, scenario: str, code: str, transport: str, *more: str, secret: str = SECRET) -> tuple[int, str]:
    """Run a scenario once; its exit status and what it wrote."""
    return await command(
        "sipp", f"127.0.0.1:{estate.house.settings.gb28181_port}", "-sf", str(SCENARIOS / f"{scenario}.xml"), "-m", "1", "-t", transport,
        "-i", "127.0.0.1", "-p", str(free_port()), "-nostdin", "-timeout", "60s", "-key", "code", code, "-key", "server", SERVER,
        "-key", "realm", REALM, "-au", code, "-ap", secret, *more,
    )


async def camera_of(estate: Estate, code: str, **changes: Any) -> Camera:
    made = await Camera(estate.house.settings.gb28181_port, code, SECRET, **changes).open()
    assert (await made.register()).status == 200
    return made


async def values(client: httpx.AsyncClient, device: dict[str, Any], wanted: str) -> dict[str, Any]:
    """The latest values of a device, once it has one of this name."""
    async def there() -> Any:
        thing = (await client.get(f"/things/{device['no']}")).json()
        found = {name: of["value"] for name, of in thing["latest"].items()}
        return found if wanted in found else None

    found: dict[str, Any] = await eventually(there)
    return found


@pytest.mark.conformance
@sipp_there
@pytest.mark.parametrize(("transport", "code"), [("u1", "34020000001110000001"), ("t1", "34020000001110000002")])
async def test_sipp_registers_speaks_and_leaves(estate: Estate, lin: httpx.AsyncClient, transport: str, code: str) -> None:
    device = await estate.device(lin, "fuzhou", f"nvr-{transport}", type="Device", protocol="gb28181", identity=code, password=SECRET)
    status, out = await sipp(estate, "device", code, transport)
    assert status == 0, out
    found = await values(lin, device, "longitude")
    assert (found["status"], found["alarmPriority"], found["alarmMethod"], found["alarmDescription"]) == ("OK", 4, 2, "lens covered")
    assert (found["longitude"], found["latitude"], found["speed"]) == (119.31, 26.11, 12.5)
    frames = (await lin.get(f"/things/{device['no']}/frames")).json()["items"]
    assert {frame["protocol"] for frame in frames} == {"gb28181"}
    assert len(frames) == 3  # the second keepalive said nothing new

    async def away() -> bool:
        state: str = (await lin.get(f"/things/{device['no']}")).json()["state"]
        return state == "offline"

    await eventually(away)  # it left: at once, not when its model's time is up
    status, out = await sipp(estate, "refused", code, transport, secret="wrong")
    assert status == 0, out


@pytest.mark.conformance
@sipp_there
@pytest.mark.parametrize(("transport", "code"), [("u1", "34020000001180000001"), ("t1", "34020000001180000002")])
async def test_sipp_answers_the_catalogue_in_two_messages(estate: Estate, lin: httpx.AsyncClient, transport: str, code: str) -> None:
    device = await estate.device(lin, "fuzhou", f"catalogue-{transport}", type="Device", protocol="gb28181", identity=code, password=SECRET)
    status, out = await sipp(estate, "recorder", code, transport, "-oocsf", str(SCENARIOS / "catalogue.xml"))
    assert status == 97, out  # it ended itself when both parts were answered 200
    found = await values(lin, device, "channel.34020000001310000002")
    assert found["channelCount"] == 2
    first, second = (orjson.loads(found[f"channel.3402000000131000000{n}"]) for n in (1, 2))
    assert (first["name"], second["name"], second["status"], second["longitude"]) == ("Gate 1", "Gate 2", "ON", 119.2)


def response(camera: Camera, said: Said, command: str, more: str) -> str:
    return f"<Response><CmdType>{command}</CmdType><SN>{said.text('SN')}</SN><DeviceID>{camera.code}</DeviceID>{more}</Response>"


def told(camera: Camera, what: str) -> list[Said]:
    return [said for said in camera.told if what.encode() in said.body or said.method == what]


async def test_commands_and_their_answers(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient) -> None:
    code = "34020000001320000011"
    device = await estate.device(lin, "fuzhou", "dome", type="Device", protocol="gb28181", identity=code, password=SECRET)
    path = f"/devices/{device['id']}/commands"

    async def send(method: str, wait: int = 20, **params: Any) -> dict[str, Any]:
        answer = await lin.post(path, params={"wait": wait}, json={"method": method, "params": params, "expires_s": 60})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    waiting = await send("ptz", 0, pan=-32, zoom=2)
    assert (waiting["state"], waiting["bearer"]) == ("waiting", "gb28181")
    camera = await camera_of(estate, code)
    done = (await lin.get(f"/commands/{waiting['no']}", params={"wait": 20})).json()
    assert (done["state"], done["result"]) == ("done", {"status": 200})
    (move,) = told(camera, "<PTZCmd>")
    assert move.text("PTZCmd") == "A50F01122000200" + "7"  # A5+0F+01+12+20+00+20 = 107h

    def answers(said: Said) -> tuple[int, list[str]]:
        if b"RecordCmd" in said.body:
            return 200, [response(camera, said, "DeviceControl", "<Result>OK</Result>")]
        if b"GuardCmd" in said.body:
            return 200, [response(camera, said, "DeviceControl", "<Result>ERROR</Result>")]
        if b"RecordInfo" in said.body:
            item = "<Item><DeviceID>{0}</DeviceID><Name>x</Name><StartTime>2026-04-01T0{1}:00:00</StartTime></Item>"
            return 200, [response(camera, said, "RecordInfo", f"<SumNum>3</SumNum><RecordList Num='{n}'>" + "".join(
                item.format(code, at) for at in part) + "</RecordList>") for n, part in ((2, (1, 2)), (1, (3,)))]
        if b"DeviceStatus" in said.body:
            return 200, [response(camera, said, "DeviceStatus", "<Result>OK</Result><Online>ONLINE</Online><Status>OK</Status>")]
        return (200 if b"TeleBoot" in said.body else 488), []

    camera.answers = answers
    assert (await send("record", on=True))["state"] == "done"
    failed = await send("guard", on=False)
    assert (failed["state"], failed["error"]) == ("failed", "设备回答 ERROR (the device answered ERROR)")
    found = (await send("record_info", start="2026-04-01T00:00:00+08:00", end="2026-04-01T12:00:00+08:00"))["result"]
    assert (found["total"], found["complete"], [item["StartTime"][11:13] for item in found["items"]]) == (3, True, ["01", "02", "03"])
    (asked,) = told(camera, "RecordInfo")
    assert asked.text("StartTime") == "2026-04-01T00:00:00"
    assert (await send("device_status"))["result"]["Online"] == "ONLINE"
    assert (await values(lin, device, "deviceOnline"))["deviceStatus"] == "OK"
    assert (await send("reboot"))["state"] == "done"
    assert (await send("presets"))["error"] == "设备回答 488 (the device answered 488)"
    bad = await lin.post(path, json={"method": "preset", "params": {"action": "call", "number": 0}})
    assert (bad.status_code, bad.json()["field"]) == (400, "params.number")
    # another organisation does not see it, and who may look may not tell
    assert (await chen.post(path, json={"method": "reboot", "params": {}})).status_code == 404
    assert (await yang.post(path, json={"method": "reboot", "params": {}})).status_code == 403
    await camera.close()


async def test_a_command_waits_for_a_stream_that_broke(estate: Estate, lin: httpx.AsyncClient) -> None:
    code = "34020000001320000016"
    device = await estate.device(lin, "fuzhou", "broken", type="Device", protocol="gb28181", identity=code, password=SECRET)
    camera = await camera_of(estate, code, stream=True)
    await camera.close()

    async def closed() -> bool:  # the gateway says so each second
        return all(body["fields"]["gb28181"]["connections"] == 0 for body in estate.house.service(Hub).told("gateway"))

    await eventually(closed)
    sent = await lin.post(f"/devices/{device['id']}/commands", json={"method": "reboot", "params": {}, "expires_s": 120})
    waiting = (await lin.get(f"/commands/{sent.json()['no']}", params={"wait": 1})).json()
    assert (waiting["state"], waiting["attempts"]) == ("waiting", 0)
    again = await Camera(estate.house.settings.gb28181_port, code, SECRET, stream=True).open()
    assert (await again.keepalive()).status == 200
    done = (await lin.get(f"/commands/{waiting['no']}", params={"wait": 20})).json()
    assert (done["state"], len(told(again, "TeleBoot"))) == ("done", 1)
    await again.close()


async def test_subscriptions_are_made_and_notified(estate: Estate, lin: httpx.AsyncClient) -> None:
    code = "34020000001320000012"
    device = await estate.device(lin, "fuzhou", "mobile", type="Device", protocol="gb28181", identity=code, password=SECRET)
    camera = await camera_of(estate, code, stream=True)
    answer = await lin.post(f"/devices/{device['id']}/commands", params={"wait": 20}, json={
        "method": "subscribe", "params": {"event": "MobilePosition", "seconds": 600, "interval": 10}})
    assert answer.json()["state"] == "done", answer.text
    (subscribed,) = told(camera, "SUBSCRIBE")
    assert (subscribed["event"], subscribed["expires"], subscribed.text("Interval")) == ("presence", "600", "10")
    notice = (f"<Notify><CmdType>MobilePosition</CmdType><SN>4</SN><DeviceID>{code}</DeviceID><Time>2026-04-01T08:00:01</Time>"
              "<Longitude>119.4</Longitude><Latitude>26.2</Latitude></Notify>")
    assert (await camera.say(notice, "NOTIFY", headers=("Event: presence", "Subscription-State: active"), call_id=subscribed["call-id"])).status == 200
    assert (await values(lin, device, "longitude"))["latitude"] == 26.2
    answer = await lin.post(f"/devices/{device['id']}/commands", params={"wait": 20}, json={
        "method": "subscribe", "params": {"event": "MobilePosition", "seconds": 0}})
    assert answer.json()["state"] == "done"
    ended = told(camera, "SUBSCRIBE")[-1]
    assert (ended["call-id"], ended["expires"], ended["cseq"]) == (subscribed["call-id"], "0", "2 SUBSCRIBE")
    await camera.close()


async def test_play_stop_and_the_media_server(estate: Estate, lin: httpx.AsyncClient, media: tuple[MediaServer, int]) -> None:
    code, server = "34020000001320000013", media[0]
    device = await estate.device(lin, "fuzhou", "player", type="Device", protocol="gb28181", identity=code, password=SECRET)
    camera = await camera_of(estate, code)

    async def send(method: str, **params: Any) -> dict[str, Any]:
        answer = await lin.post(f"/devices/{device['id']}/commands", params={"wait": 20}, json={"method": method, "params": params})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    done = await send("play")
    assert done["state"] == "done", done
    live = done["result"]
    assert (live["ssrc"][:6], live["kind"], live["device"]["port"]) == ("000000", "live", 15060)
    (invited,) = told(camera, "INVITE")
    assert f"y={live['ssrc']}".encode() in invited.body
    assert b"m=video 30000 RTP/AVP 96 97 98\r\n" in invited.body
    assert invited["subject"] == f"{code}:{live['ssrc']},{SERVER}:0"
    await eventually(lambda: _done(told(camera, "ACK")))
    (opened,) = server.of("POST")
    assert (opened[0], opened[1]["channel"], opened[1]["ssrc"], opened[1]["transport"]) == ("/calls", code, live["ssrc"], "udp")
    assert server.of("PUT") == [(f"/calls/{live['session']}", {"sdp": camera.sdp.decode()})]
    assert (await send("stop", session=live["session"]))["state"] == "done"
    await eventually(lambda: _done(told(camera, "BYE")))
    await eventually(lambda: _done(server.of("DELETE")))
    assert server.of("DELETE") == [(f"/calls/{live['session']}", None)]
    assert (await send("stop", session=live["session"]))["state"] == "failed"
    # a recording: the device says that it is over
    past = (await send("playback", start="2026-04-01T00:00:00+08:00", end="2026-04-01T01:00:00+08:00", transport="tcp-passive"))["result"]
    asked = told(camera, "INVITE")[-1].body
    assert past["ssrc"][0] == "1"
    assert b"s=Playback\r\n" in asked
    assert b"t=1774972800 1774976400\r\n" in asked
    assert b"TCP/RTP/AVP 96 97 98\r\na=recvonly" in asked
    assert b"a=setup:passive" in asked
    assert (await camera.say(f"<Notify><CmdType>MediaStatus</CmdType><SN>9</SN><DeviceID>{code}</DeviceID><NotifyType>121</NotifyType></Notify>")).status == 200
    await eventually(lambda: _done(len(server.of("DELETE")) == 2))
    # the device ends one itself; one that is refused is closed at the media server; one that the media server refuses is not begun
    third = (await send("play"))["result"]
    invited = told(camera, "INVITE")[-1]
    ended = await camera.send(camera.build("BYE", [], call_id=invited["call-id"]))
    assert ended.status == 200
    await eventually(lambda: _done((f"/calls/{third['session']}", None) in server.of("DELETE")))
    camera.answers = lambda said: (486, [])
    assert (await send("play"))["error"] == "设备回答 486 (the device answered 486)"
    await eventually(lambda: _done(len(server.of("DELETE")) == 4))
    assert told(camera, "ACK")[-1]["cseq"] == told(camera, "INVITE")[-1]["cseq"].replace("INVITE", "ACK")
    before = len(told(camera, "INVITE"))
    server.answer = (503, None)
    assert "503" in (await send("play"))["error"]
    server.answer = (200, {"ip": "127.0.0.1", "port": "x"})
    assert "ip, port" in (await send("play"))["error"]
    assert len(told(camera, "INVITE")) == before
    await camera.close()


async def _done(what: Any) -> Any:
    return what


async def test_frames_are_read_again_and_letters_replayed(estate: Estate, lin: httpx.AsyncClient) -> None:
    code = "34020000001320000014"
    device = await estate.device(lin, "fuzhou", "letters", type="Device", protocol="gb28181", identity=code, password=SECRET)
    camera = await camera_of(estate, code)
    assert (await camera.say("<Notify><CmdType>Dance</CmdType></Notify>")).status == 400

    async def found() -> Any:
        items = (await lin.get("/dead-letters")).json()["items"]
        return [item for item in items if item["entity"] == device["no"] and not item["replayed_at"]]

    (letter,) = await eventually(found)
    assert (letter["protocol"], letter["field"]) == ("gb28181", "CmdType")
    (line,) = (await lin.post("/dead-letters/replay", json={"ids": [letter["id"]]})).json()["items"]
    assert line["ok"] is True
    await camera.say(f"<Response><CmdType>DeviceInfo</CmdType><SN>1</SN><DeviceID>{code}</DeviceID><DeviceName>门口</DeviceName></Response>")
    assert (await values(lin, device, "deviceName"))["deviceName"] == "门口"
    admin = await estate.person("redecoder", "fuzhou", "admin")
    run = await admin.post("/redecodes", json={"protocol": "gb28181", "from": "2026-01-01T00:00:00Z", "device": device["id"], "dry_run": True})
    assert run.status_code == 202, run.text

    async def over() -> Any:
        state = (await admin.get(f"/redecodes/{run.json()['id']}")).json()
        return state if state["state"] == "done" else None

    counts = (await eventually(over))["counts"]
    assert (counts["frames"] >= 1, counts["changed"], counts["added"], counts["removed"]) == (True, 0, 0, 0)
    await camera.close()


@pytest.mark.conformance
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed (Debian package tshark)")
async def test_tshark_reads_what_is_said(estate: Estate, lin: httpx.AsyncClient, media: tuple[MediaServer, int], tmp_path: Path) -> None:
    code, port = "34020000001320000015", estate.house.settings.gb28181_port
    device = await estate.device(lin, "fuzhou", "wire", type="Device", protocol="gb28181", identity=code, password=SECRET)
    media[0].answer = (200, {"ip": "127.0.0.1", "port": 30000})
    capture = await asyncio.create_subprocess_exec(
        "tshark", "-i", "lo", "-f", f"udp port {port}", "-w", str(tmp_path / "wire.pcap"), stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )
    assert capture.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(20):
            while b"Capturing on" not in said and (line := await capture.stderr.readline()):
                said += line
        if b"Capturing on" not in said:
            pytest.skip(f"no right to capture on lo: {said.decode()[-200:]}")
        camera = await camera_of(estate, code)

        async def captured() -> bool:  # from when it is announced it may still take a moment until packets are seen
            await camera.keepalive()
            return (tmp_path / "wire.pcap").exists() and (tmp_path / "wire.pcap").stat().st_size > 600

        await eventually(captured)
        await camera.register()
        played = await lin.post(f"/devices/{device['id']}/commands", params={"wait": 20}, json={"method": "play", "params": {}})
        await lin.post(f"/devices/{device['id']}/commands", params={"wait": 20}, json={
            "method": "stop", "params": {"session": played.json()["result"]["session"]}})
        await eventually(lambda: _done(told(camera, "BYE")))
        await camera.keepalive()
        last = f"CSeq: {camera.cseq} MESSAGE".encode()
        await eventually(lambda: _done((tmp_path / "wire.pcap").read_bytes().count(last) == 2))
        await camera.close()
    finally:
        if capture.returncode is None:
            capture.send_signal(signal.SIGINT)
        await capture.wait()
    status, out = await command("tshark", "-r", str(tmp_path / "wire.pcap"), "-d", f"udp.port=={port},sip", "-T", "pdml", "-Y", f"udp.srcport=={port}")
    assert status == 0
    packets = ElementTree.fromstring(out[out.index("<?xml") :]).findall("packet")
    fields = [{field.get("name"): field.get("show") for field in packet.iter("field")} for packet in packets]
    methods = {of["sip.Method"] for of in fields if "sip.Method" in of}
    codes = {of["sip.Status-Code"] for of in fields if "sip.Status-Code" in of}
    assert ({"INVITE", "ACK", "BYE"} <= methods, {"200", "401"} <= codes) == (True, True), (methods, codes)
    assert not [of for of in fields if "_ws.malformed" in of or "_ws.expert" in of]
    (offer,) = [of for of in fields if of.get("sdp.media.media") == "video"]
    assert (offer["sdp.media.port"], offer["sdp.connection_info.address"]) == ("30000", "127.0.0.1")


@pytest.mark.parametrize(("settings", "field"), [
    ({"gb28181_id": "123"}, "gb28181_id"), ({"gb28181_realm": 'a"b'}, "gb28181_id"), ({"field_ports": "gb28181=5060"}, "field_ports"),
])
async def test_wrong_settings_are_named(estate: Estate, settings: dict[str, Any], field: str) -> None:
    house = House(Settings(home=estate.house.settings.home, **settings))
    house.bus = estate.house.bus
    with pytest.raises(Invalid) as refused:
        gateway_config(house)
    assert refused.value.field == field


async def test_without_a_media_server_nothing_is_played(tmp_path: Path) -> None:
    from tulou.access.gb28181.media import MediaServer as Client
    from tulou.kernel.outbound import Outbound, Refused

    with pytest.raises(Invalid) as refused:
        await Client("", lambda: Outbound(Settings())).open({})
    assert refused.value.field == "gb28181_media"
    with pytest.raises(Refused):  # its address is judged like every other
        await Client("http://127.0.0.1:9/x", lambda: Outbound(Settings())).open({})
