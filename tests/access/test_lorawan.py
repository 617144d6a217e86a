"""Events of ChirpStack v4: the examples of its documentation (`chirpstack-docs`, integrations/events.md) as golden input,
and the way into a house. No network server was started: there is none among the packages."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest

from tests.access.conftest import Estate
from tulou.access.batch import BAD
from tulou.access.lorawan.events import codec, sealed
from tulou.kernel.errors import Invalid

EUI = "0101010101010101"
INFO = {
    "tenantId": "52f14cd4-c6f1-4fbd-8f87-4025e1d49242",
    "tenantName": "ChirpStack",
    "applicationId": "17c82e96-be03-4f38-aef3-f83d48582d97",
    "applicationName": "Test application",
    "deviceProfileId": "14855bf7-d10d-4aee-b618-ebfcb64dc7ad",
    "deviceProfileName": "Test device-profile",
    "deviceName": "Test device",
    "devEui": EUI,
    "tags": {"key": "value"},
}
UP: dict[str, Any] = {
    "deduplicationId": "3ac7e3c4-4401-4b8d-9386-a5c902f9202d",
    "time": "2022-07-18T09:34:15.775023242+00:00",
    "deviceInfo": INFO,
    "devAddr": "00189440",
    "dr": 1,
    "fPort": 1,
    "data": "qg==",
    "rxInfo": [
        {
            "gatewayId": "0016c001f153a14c",
            "uplinkId": 4217106255,
            "rssi": -36,
            "snr": 10.5,
            "context": "E3OWOQ==",
            "metadata": {"region_name": "eu868", "region_common_name": "EU868"},
        }
    ],
    "txInfo": {
        "frequency": 867100000,
        "modulation": {"lora": {"bandwidth": 125000, "spreadingFactor": 11, "codeRate": "CR_4_5"}},
    },
}
LINK = {
    "lora.rssi": -36,
    "lora.snr": 10.5,
    "lora.gateways": 1,
    "lora.gateway": "0016c001f153a14c",
    "lora.frequency": 867100000,
    "lora.dr": 1,
    "lora.fCnt": 0,
    "lora.fPort": 1,
}
DOCUMENTED: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "up": (UP, 1_658_136_855_775_023, {**LINK, "lora.data": "qg=="}),
    "status": (
        {
            "deduplicationId": "bf2a9746-1c8b-49be-a92e-f0b89c8534e4",
            "time": "2022-07-18T09:35:06.927172638+00:00",
            "deviceInfo": INFO,
            "margin": 10,
            "batteryLevel": 88.3,
        },
        1_658_136_906_927_172,
        {"lora.margin": 10, "lora.battery": 88.3, "lora.externalPower": 0},
    ),
    "join": (
        {
            "deduplicationId": "c9dbe358-2578-4fb7-b295-66b44edc45a6",
            "time": "2022-07-18T09:33:28.823500726+00:00",
            "deviceInfo": INFO,
            "devAddr": "00189440",
        },
        1_658_136_808_823_500,
        {"lora.devAddr": "00189440"},
    ),
    "ack": (
        {
            "deduplicationId": "856a03e7-80f6-4c26-b971-9dcb34a59c2e",
            "time": "2022-07-18T09:38:49.235700766+00:00",
            "deviceInfo": INFO,
            "queueItemId": "1bbcab1d-6ec6-4136-b3f5-d63be1dc08de",
            "acknowledged": True,
            "fCntDown": 3,
        },
        1_658_137_129_235_700,
        {"lora.acknowledged": 1, "lora.fCntDown": 3},
    ),
    "txack": (
        {
            "downlinkId": 3461958127,
            "time": "2022-07-18T09:37:48.929184085+00:00",
            "deviceInfo": INFO,
            "queueItemId": "42cb6459-a640-46ec-9623-bdff39dc4736",
            "fCntDown": 2,
            "gatewayId": "0016c001f153a14c",
        },
        1_658_137_068_929_184,
        {"lora.fCntDown": 2},
    ),
    "log": (
        {
            "time": "2022-07-18T09:39:57.311414029+00:00",
            "deviceInfo": INFO,
            "level": "ERROR",
            "code": "UPLINK_MIC",
            "description": "MIC of join-request is invalid, make sure keys are correct",
            "context": {"deduplication_id": "x"},
        },
        1_658_137_197_311_414,
        {"lora.log": "ERROR UPLINK_MIC: MIC of join-request is invalid, make sure keys are correct"},
    ),
    "location": (
        {
            "deduplicationId": "63d870b9-b769-4d88-8b33-8e43f58851a7",
            "time": "2022-07-18T09:55:11.059481003+00:00",
            "deviceInfo": INFO,
            "location": {"latitude": 37.344214, "longitude": -8.839375, "altitude": 2},
        },
        1_658_138_111_059_481,
        {"latitude": 37.344214, "longitude": -8.839375, "altitude": 2},
    ),
}


def raw(name: str, event: dict[str, Any]) -> bytes:
    return sealed(name, json.dumps(event).encode())


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_a_documented_event_is_read(name: str) -> None:
    event, at, wanted = DOCUMENTED[name]
    assert codec.identify(raw(name, event)) == EUI.encode()
    ((ts, values, worse),), refusals = codec.decode(raw(name, event))
    assert (refusals, worse) == ([], None)
    assert abs(ts - at) <= 1
    assert values == wanted


def test_what_the_codec_of_chirpstack_made_is_the_readings() -> None:
    event = {
        **UP,
        "object": {"temperature": 21.5, "open": True, "name": "门", "none": None, "deep": {"a": {"b": 1}}, "list": [1, 2]},
    }
    ((_, values, _),), _ = codec.decode(raw("up", event))
    assert values == {**LINK, "temperature": 21.5, "open": 1, "name": "门", "deep.a.b": 1, "list": "[1,2]"}


def test_the_strongest_gateway_says_how_it_was_heard_and_zeros_are_left_out() -> None:
    event = {**UP, "rxInfo": [{"gatewayId": "a", "rssi": -90, "snr": -3}, {"gatewayId": "b", "rssi": -40}]}
    del event["dr"]
    ((_, values, _),), _ = codec.decode(raw("up", event))
    assert (
        values["lora.gateway"],
        values["lora.rssi"],
        values["lora.snr"],
        values["lora.gateways"],
        values["lora.dr"],
    ) == ("b", -40, 0, 2, 0)


def test_a_battery_that_is_not_known_is_no_number_and_one_that_is_not_there_no_reading() -> None:
    status = DOCUMENTED["status"][0]
    ((_, values, worse),), _ = codec.decode(raw("status", {**status, "batteryLevelUnavailable": True}))
    assert math.isnan(values["lora.battery"])  # type: ignore[arg-type]
    assert worse == {"lora.battery": BAD}
    ((_, values, _),), _ = codec.decode(raw("status", {**status, "externalPowerSource": True}))
    assert "lora.battery" not in values
    assert values["lora.externalPower"] == 1


@pytest.mark.parametrize(
    ("kept", "rule"),
    [
        (b"", "json"),
        (b"up\n[1]", "object"),
        (b"up\n{", "json"),
        (b"down\n{}", "event"),
        (raw("up", {**UP, "time": "now"}), "time"),
        (raw("up", {**UP, "dr": "x"}), "number"),
        (raw("location", {"deviceInfo": INFO}), "location"),
        (raw("up", {**UP, "rxInfo": [{"rssi": "x"}]}), "number"),
    ],
)
def test_what_cannot_be_read_is_named(kept: bytes, rule: str) -> None:
    samples, (refusal,) = codec.decode(kept)
    assert (samples, refusal.rule) == ([], rule)


def test_a_dev_eui_is_compared_in_small_letters() -> None:
    assert codec.identity("00-16-C0-01-F1-53-A1-4C") == b"0016c001f153a14c"
    assert codec.identify(raw("up", {"deviceInfo": {"devEui": "0016C001F153A14C"}})) == b"0016c001f153a14c"
    for text in ("", "0101", "010101010101010g"):
        with pytest.raises(Invalid):
            codec.identity(text)


@pytest.mark.asyncio(loop_scope="module")
async def test_from_an_event_to_a_value_that_is_read(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient
) -> None:
    device = await estate.device(lin, "fuzhou", "door-1", type="Device", protocol="lorawan", identity=EUI.upper())
    secret = (await lin.post("/tokens", json={"name": "lns", "org": "fuzhou", "scopes": ["access.uplink.*"]})).json()[
        "secret"
    ]
    chirpstack = estate.client(authorization=f"Bearer {secret}")

    async def post(event: dict[str, Any], name: str = "up", client: httpx.AsyncClient = chirpstack) -> httpx.Response:
        return await client.post("/lorawan/events", params={"event": name}, json=event)

    answer = await post({**UP, "object": {"open": True, "battery": 3.1}})
    assert (answer.status_code, answer.json()) == (200, {"taken": True})
    thing = await estate.latest(lin, device, "battery", 3.1)
    assert thing["latest"]["open"]["ts"].startswith("2022-07-18T09:34:15.775")
    assert (await post({**UP, "object": {"open": True, "battery": 3.1}})).json() == {"taken": False}
    frames = (await lin.get(f"/things/{device['no']}/frames")).json()["items"]
    assert [frame["protocol"] for frame in frames] == ["lorawan"]
    assert frames[0]["raw"].startswith('up\n{"deduplicationId"')
    assert (await post(DOCUMENTED["status"][0], "status")).status_code == 200
    await estate.latest(lin, device, "lora.battery", 88.3)

    assert (await post(UP, "down")).json()["field"] == "event"
    assert (await post({**UP, "deduplicationId": "1", "time": "now"})).json()["field"] == "time"
    assert (await chirpstack.get(f"/devices/{device['id']}")).status_code in (403, 404)
    stranger = {**UP, "deviceInfo": {**INFO, "devEui": "02" * 8}}
    other, missing = await post(UP, client=chen), await post(stranger, client=chen)
    assert (other.status_code, missing.status_code) == (404, 404)
    assert other.json()["detail"].replace(EUI, "") == missing.json()["detail"].replace("02" * 8, "")
    assert (await post(UP, client=yang)).status_code == 403
    assert (await post(UP, client=estate.client())).status_code == 401
