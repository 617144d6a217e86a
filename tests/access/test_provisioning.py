"""Provisioning: tb-mqtt-client and HTTP as they come, against a gateway in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.access.conftest import Estate
from tests.access.test_certificates import openssl
from tulou.access import mqtt

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENT = """
import json, sys
from tb_device_mqtt import TBDeviceMqttClient
key, secret, port, more = sys.argv[1:5]
print(json.dumps(TBDeviceMqttClient.provision("127.0.0.1", key, secret, port=int(port), **json.loads(more))))
"""


async def new_key(client: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    body = {"org": "fuzhou", "type": "AirQualityStation", "name": "批次", **more}
    answer = await client.post("/provision-keys", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def by_client(estate: Estate, key: dict[str, Any], **more: Any) -> dict[str, Any] | None:
    """The provision call of tb-mqtt-client, in its own process."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", CLIENT, key["key"], key["secret"], str(estate.house.settings.mqtt_port), json.dumps(more)],
        capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] | None = json.loads(done.stdout.splitlines()[-1])
    return answer


def asked(key: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"provisionDeviceKey": key["key"], "provisionDeviceSecret": key["secret"], **more}


async def by_http(estate: Estate, key: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = await estate.client().post("/provision", json=asked(key, **more))
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.mark.conformance
async def test_a_device_comes_by_itself_with_the_client_that_integrators_use(estate: Estate, lin: httpx.AsyncClient) -> None:
    key = await new_key(lin)
    told = await by_client(estate, key, device_name="tb-1")
    assert told is not None
    assert (told["status"], told["credentialsType"]) == ("SUCCESS", "ACCESS_TOKEN")
    device = (await lin.get("/devices/fuzhou:tb-1")).json()
    await estate.say({"token": told["credentialsValue"]}, pm25=5)
    await estate.latest(lin, device, "pm25", 5)
    assert (await lin.get("/provision-keys")).json()["items"][0]["made"] == 1
    assert await by_client(estate, key, device_name="tb-1") is None, "it exists"
    assert (await lin.get("/provision-keys")).json()["items"][0]["made"] == 1


async def test_only_known_devices_that_were_never_heard(estate: Estate, lin: httpx.AsyncClient) -> None:
    key = await new_key(lin, strategy="known")
    waiting = await estate.device(lin, "fuzhou", "known-1")
    await estate.device(lin, "fuzhou", "known-2")
    await estate.house.db.write(lambda c: c.exec_driver_sql("UPDATE devices SET seen_at = 1 WHERE id = 'fuzhou:known-2'") and None)
    assert (await by_http(estate, key, deviceName="known-0"))["status"] == "NOT_FOUND"
    assert (await by_http(estate, key, deviceName="known-2"))["status"] == "NOT_FOUND"
    told = await by_http(estate, key, deviceName="known-1")
    assert told["status"] == "SUCCESS"
    assert (await estate.client().post(f"/{waiting['token']}/telemetry", json={"pm25": 1})).status_code == 401
    await estate.say({"token": told["credentialsValue"]}, pm25=1)
    assert (await by_http(estate, key, deviceName="known-1"))["status"] == "NOT_FOUND", "only once"


async def test_certificates_of_its_own_or_for_a_request(estate: Estate, lin: httpx.AsyncClient, tmp_path: Path) -> None:
    key = await new_key(lin)
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "own.key", "-out", "own.pem", "-days", "5", "-subj", "/CN=own",
            folder=tmp_path)
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "csr.key", "-out", "csr.pem", "-subj", "/CN=csr", folder=tmp_path)
    own, csr = ((tmp_path / f"{name}.pem").read_text() for name in ("own", "csr"))
    told = await by_client(estate, key, device_name="tls-1", hash=own)
    assert told is not None
    assert (told["status"], told["credentialsType"]) == ("SUCCESS", "X509_CERTIFICATE")
    again = await by_http(estate, key, deviceName="tls-2", credentialsType="X509_CERTIFICATE", hash=own)
    assert again["status"] == "FAILURE"
    assert (await lin.get("/devices/fuzhou:tls-2")).status_code == 404, "nothing is left of what was refused"
    issued = await by_http(estate, key, deviceName="tls-2", credentialsType="X509_CERTIFICATE", csr=csr)
    assert issued["status"] == "SUCCESS"
    (tmp_path / "issued.pem").write_text(issued["credentialsValue"])
    (tmp_path / "authority.pem").write_text(issued["authorityCertificate"])
    openssl("verify", "-CAfile", "authority.pem", "-purpose", "sslclient", "issued.pem", folder=tmp_path)
    assert (await lin.get("/provision-keys")).json()["items"][0]["made"] == 2


async def test_bounds_of_a_key(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient) -> None:
    key = await new_key(lin, most=1)
    assert (await by_http(estate, key))["status"] == "SUCCESS", "without a name it gets one"
    assert (await by_http(estate, key))["status"] == "FAILURE"
    path = f"/provision-keys/{key['no']}"
    assert (await lin.patch(path, json={"most": None})).json()["most"] is None
    assert (await by_http(estate, key))["status"] == "SUCCESS"
    for change, undo in (
        ({"enabled": False}, {"enabled": True}),
        ({"expires_at": (dt.datetime.now(dt.UTC) - dt.timedelta(1)).isoformat()}, {"expires_at": None}),
    ):
        await lin.patch(path, json=change)
        assert (await by_http(estate, key))["status"] == "FAILURE"
        await lin.patch(path, json=undo)
        assert (await by_http(estate, key))["status"] == "SUCCESS"
    for more in ({"token": "mine"}, {"credentialsType": "MQTT_BASIC"}, {"deviceName": "a b"}, {"credentialsType": "X509_CERTIFICATE"}):
        assert (await by_http(estate, key, **more))["status"] == "FAILURE", more
    assert (await chen.patch(path, json={"enabled": False})).status_code == 404
    assert not (await chen.get("/provision-keys")).json()["items"]
    assert (await yang.post("/provision-keys", json={"org": "fuzhou", "type": "AirQualityStation", "name": "x"})).status_code == 403
    assert "secret" not in (await lin.get("/provision-keys")).text
    assert (await lin.delete(path)).status_code == 204
    assert (await by_http(estate, key))["status"] == "NOT_FOUND"


async def test_guessing_is_slowed_down(estate: Estate, lin: httpx.AsyncClient) -> None:
    key = await new_key(lin)
    app = httpx.AsyncClient(transport=httpx.ASGITransport(app=estate.app, client=("10.9.8.7", 1)), base_url="http://house/api/v1")
    async with app:
        answers = [await app.post("/provision", json=asked({**key, "secret": f"guess-{n}"})) for n in range(12)]
        assert [a.json().get("status") for a in answers[:10]] == ["NOT_FOUND"] * 10
        assert answers[-1].status_code == 429
        assert (await app.post("/provision", json=asked(key))).status_code == 429, "the right one too, from there"
    assert (await by_http(estate, key))["status"] == "SUCCESS", "from elsewhere"
    same = {json.dumps(a.json()) for a in answers[:10]}
    unknown = await estate.client().post("/provision", json=asked({"key": "none", "secret": "x"}))
    assert same == {json.dumps(unknown.json())}, "a wrong secret is answered like a key that there is not"


async def test_a_connection_that_provisions_may_do_nothing_else(estate: Estate) -> None:
    for packet in (
        mqtt.publish(b"v1/devices/me/telemetry", b"{}"), mqtt.publish(b"/provision/request", b"x" * 40_000),
        b"".join(mqtt.publish(b"/provision/request", b"{}") for _ in range(3)),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", estate.house.settings.mqtt_port)
        writer.write(mqtt.connect("x", "provision"))
        assert await reader.readexactly(4) == mqtt.connack(0)
        writer.write(mqtt.subscribe(b"\0\1", [("#", 0), ("/provision/response", 1)]))
        assert await reader.readexactly(6) == b"\x90\x04\x00\x01\x80\x00"
        writer.write(packet)
        assert not (await asyncio.wait_for(reader.read(), 20)).startswith(b"\x40")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
