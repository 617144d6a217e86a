"""Messages a second, and stored readings, at the doors that people's devices, servers and network servers come in by: SIPp as a camera, a charging station of
PyPI `ocpp`, a server of asyncua, events of ChirpStack by HTTP."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import websockets
from websockets.typing import Subprotocol

from tests.access.camera import Camera
from tests.access.conftest import ADMIN, Estate, eventually
from tests.access.test_gb28181_house import SECRET, sipp, sipp_there
from tests.access.test_lorawan import UP
from tests.access.test_ocpp_house import PASSWORD, station, url_of
from tests.access.test_opcua import Plant
from tulou.access.live import Hub
from tulou.access.quotas.service import Quotas
from tulou.access.quotas.tables import Quota
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def estate(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Estate]:
    house = House(Settings(
        home=tmp_path_factory.mktemp("estate") / "home", http_port=free_port(), mqtt_port=0, gb28181_port=free_port(),
        ocpp_port=free_port(), outbound_allow="127.0.0.1",
    ))
    async with Estate.opened(house) as made:
        yield made


async def limited(estate: Estate, rate: float | None) -> None:
    """Limit Xiamen, and wait until the gateway knows."""
    await estate.house.service(Quotas).put(ADMIN, "xiamen", Quota(messages_s=rate))

    async def told() -> bool:
        return [one.get("limit") for one in used(estate)] == ([rate] if rate else [])

    await eventually(told)


def used(estate: Estate) -> list[dict[str, float]]:
    """What the gateway says of Xiamen's quota."""
    return [found["xiamen"] for body in estate.house.service(Hub).told("gateway") if "xiamen" in (found := body["quotas"])]


@sipp_there
async def test_a_camera_is_told_when_to_come_again_and_its_keepalives_are_never_refused(estate: Estate, chen: httpx.AsyncClient) -> None:
    await limited(estate, None)
    for transport, code in (("u1", "34020000001320000008"), ("t1", "34020000001320000009")):
        device = await estate.device(chen, "xiamen", code, type="Device", protocol="gb28181", identity=code, password=SECRET)
        await limited(estate, 0.34)
        status, out = await sipp(estate, "over_quota", code, transport)
        assert status == 0, out
        await limited(estate, None)

        async def stored(device: dict[str, Any] = device) -> list[str]:
            return [frame["raw"] for frame in (await chen.get(f"/things/{device['no']}/frames")).json()["items"] if "Alarm" in frame["raw"]]

        await eventually(stored)
        assert len(await stored()) == 1, "what was refused is not stored"


async def test_a_charging_station_is_slowed_down_and_loses_nothing(estate: Estate, chen: httpx.AsyncClient) -> None:
    device = await estate.device(chen, "xiamen", "CP-q", type="EVChargingStation", protocol="ocpp", identity="CP-q", password=PASSWORD)
    await limited(estate, 2)
    began = time.monotonic()
    async with station(url_of(estate), "1.6", "CP-q") as cp:
        await cp.until("ready")
        assert time.monotonic() - began > 1, "six messages that are kept at two a second, of which a second's worth may come at once"
        assert [name for name, _ in cp.said][:2] == ["BootNotification", "Heartbeat"]
        await estate.latest(chen, device, "connector1-transactionEvent", "Ended")
    assert used(estate)[0]["refused"] == 0
    await limited(estate, None)


async def test_a_server_of_opc_ua_keeps_what_is_too_much_until_there_is_room(
    estate: Estate, chen: httpx.AsyncClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plant = await Plant(tmp_path_factory.mktemp("plant"), free_port()).start()
    try:
        device = await estate.device(chen, "xiamen", "works", type="Device")
        await limited(estate, 1)
        began = time.monotonic()
        put = await chen.put(f"/devices/{device['id']}/opcua", json={
            "url": f"opc.tcp://127.0.0.1:{plant.port}/plant", "publish_ms": 50, "nodes": [{"node": "ns=2;s=Level", "property": "level", "queue": 100}],
        })
        assert put.status_code == 200, put.text
        await estate.latest(chen, device, "level", 1)
        for level in (2, 3, 4):
            await plant.tell(f"level {level}")
        await estate.latest(chen, device, "level", 4)
        assert time.monotonic() - began > 1
        series = (await chen.get(f"/things/{device['no']}/series", params={"property": "level"})).json()
        assert series["count"] == 4, "none is lost"
        await limited(estate, None)
    finally:
        await plant.kill()


async def test_a_network_server_is_told_when_to_come_again(estate: Estate, chen: httpx.AsyncClient) -> None:
    await estate.device(chen, "xiamen", "lid", type="Device", protocol="lorawan", identity=UP["deviceInfo"]["devEui"])
    await limited(estate, 0.05)

    async def post(number: int) -> httpx.Response:
        return await chen.post("/lorawan/events", params={"event": "up"}, json={**UP, "deduplicationId": str(number)})

    assert (await post(1)).json() == {"taken": True}
    refused = await post(2)
    assert (refused.status_code, refused.json()["rule"]) == (429, "messages a second")
    assert int(refused.headers["retry-after"]) >= 19
    assert (await post(1)).json() == {"taken": False}, "a repeat costs nothing"
    await limited(estate, None)
    assert (await post(2)).json() == {"taken": True}, "what was refused is not remembered as taken"


async def test_where_no_more_readings_may_be_stored_each_door_says_so(
    estate: Estate, chen: httpx.AsyncClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    code, identity = "34020000001320000010", "CP-full"
    camera = await estate.device(chen, "xiamen", code, type="Device", protocol="gb28181", identity=code)
    await estate.device(chen, "xiamen", identity, type="EVChargingStation", protocol="ocpp", identity=identity, password=PASSWORD)
    works = await estate.device(chen, "xiamen", "works-full", type="Device")
    plant = await Plant(tmp_path_factory.mktemp("plant"), free_port()).start()
    await estate.house.service(Quotas).put(ADMIN, "xiamen", Quota(readings=0))

    async def shut() -> bool:
        return "xiamen" in estate.house.service(Hub).told("gateway")[0]["quotas"]

    try:
        await eventually(shut)
        refused = await chen.post("/lorawan/events", params={"event": "up"}, json={**UP, "deduplicationId": "full"})
        assert (refused.status_code, refused.json()["rule"]) == (403, "readings")

        one = await Camera(estate.house.settings.gb28181_port, code, "").open()
        assert (await one.register()).status == 200
        alarm = f"<Notify><CmdType>Alarm</CmdType><SN>2</SN><DeviceID>{code}</DeviceID><AlarmPriority>4</AlarmPriority></Notify>"
        answer = await one.say(alarm)
        assert (answer.status, answer["retry-after"]) == (503, "61")
        assert (await one.keepalive()).status == 200, "it is there all the same"
        await one.close()

        url = f"{url_of(estate)}/{identity}"
        async with websockets.connect(url, subprotocols=[Subprotocol("ocpp1.6")], additional_headers={"Authorization": basic(identity)}) as cp:
            await cp.send('[2,"1","BootNotification",{"chargePointVendor":"V","chargePointModel":"M"}]')
            kind, number, error, text, _ = json.loads(await cp.recv())
            assert (kind, number, error, "存储" in text) == (4, "1", "InternalError", True)
            await cp.send('[2,"2","Heartbeat",{}]')
            assert json.loads(await cp.recv())[:2] == [3, "2"]

        put = await chen.put(f"/devices/{works['id']}/opcua", json={
            "url": f"opc.tcp://127.0.0.1:{plant.port}/plant", "nodes": [{"node": "ns=2;s=Level", "property": "level"}]})
        assert put.status_code == 200, put.text

        async def away() -> bool:
            said = estate.house.service(Hub).told("gateway")[0]["fields"].get("opcua", {}).get("unreachable", {})
            return "quota of stored readings" in said.get(works["id"], "")

        await eventually(away)
        assert (await chen.get(f"/things/{camera['no']}/frames")).json()["items"] == []
        await limited(estate, None)
        await estate.latest(chen, works, "level", 1)
    finally:
        await plant.kill()


def basic(identity: str) -> str:
    return "Basic " + base64.b64encode(f"{identity}:{PASSWORD}".encode()).decode()
