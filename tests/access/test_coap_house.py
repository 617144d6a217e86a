"""CoAP and LwM2M in a whole house: from what a person registers to what a person reads, and who may ask what."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import aiocoap
import httpx
import pytest

from tests.access.conftest import Estate, eventually
from tests.access.test_gateway import command
from tests.access.test_lwm2m import Client
from tulou.access.live import Hub
from tulou.access.supervise import gateway_config
from tulou.kernel.bus import free_port
from tulou.kernel.errors import Invalid
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


async def aiocoap_client(estate: Estate, token: str, payload: str, content_format: str) -> str:
    _, out = await command(
        sys.executable, "-W", "ignore", "-m", "aiocoap.cli.client", "-m", "POST", "--payload", payload, "--content-format", content_format,
        f"coap://127.0.0.1:{estate.house.settings.coap_port}/api/v1/{token}/telemetry",
    )
    return out


@pytest.mark.conformance
async def test_from_a_datagram_to_a_value_that_is_read(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "coap", type="Device")
    assert await aiocoap_client(estate, device["token"], '{"temperature": 21.5}', "application/json") == ""
    await estate.latest(lin, device, "temperature", 21.5)
    assert await aiocoap_client(estate, device["token"], '[{"n":"humidity","v":60}]', "application/senml+json") == ""
    await estate.latest(lin, device, "humidity", 60)
    frames = (await lin.get(f"/things/{device['no']}/frames")).json()["items"]
    assert {frame["protocol"] for frame in frames} == {"coap"}
    assert (await lin.post(f"/devices/{device['id']}/disable")).status_code == 200

    async def refused() -> bool:
        return "4.01" in await aiocoap_client(estate, device["token"], '{"temperature": 1}', "application/json")

    await eventually(refused)


async def test_a_dead_letter_is_replayed_through_its_codec(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "letters", type="Device")
    assert "4.00" in await aiocoap_client(estate, device["token"], '[{"n":"a b","v":1}]', "application/senml+json")

    async def found() -> Any:
        items = (await lin.get("/dead-letters")).json()["items"]
        return [item for item in items if item["entity"] == device["no"] and not item["replayed_at"]]

    (letter,) = await eventually(found)
    assert (letter["protocol"], letter["topic"], letter["field"]) == ("coap", "telemetry", "[0].n")
    (line,) = (await lin.post("/dead-letters/replay", json={"ids": [letter["id"]]})).json()["items"]
    assert line["ok"] is True  # it is put through the same codec, refused again, and is a letter again
    await eventually(found)


class Door:
    """Where a client finds the house."""

    def __init__(self, port: int) -> None:
        self.ports = [port]


async def client_of(estate: Estate, endpoint: str) -> Client:
    client = await Client(Door(estate.house.settings.coap_port)).open()  # type: ignore[arg-type]
    assert (await client.register(endpoint)).code == aiocoap.CREATED
    return client


async def test_lwm2m_from_registration_to_readings_and_back(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "lwm2m", type="Device", protocol="lwm2m", identity="urn:imei:350001230000009")
    base = f"/devices/{device['id']}/lwm2m"
    assert (await lin.get(base)).status_code == 409
    client = await client_of(estate, "urn:imei:350001230000009")
    await estate.latest(lin, device, "3303/0/5700", 21.5)
    client.temperature.say(22.5)
    await estate.latest(lin, device, "3303/0/5700", 22.5)
    state = (await lin.get(base)).json()
    assert (state["endpoint"], state["observed"]) == ("urn:imei:350001230000009", ["3303/0"])
    read = await yang.get(f"{base}/3303/0")
    assert (read.status_code, read.json()["values"]["3303/0/5701"]) == (200, "Cel")
    assert (await lin.put(f"{base}/3303/0/5700", json={"value": 4})).json()["code"] == "2.04"
    assert (await lin.post(f"{base}/3/0/4", json={})).json()["code"] == "2.04"
    assert [told[0] for told in client.single.told] == ["put", "post"]
    assert (await lin.post(f"{base}/3303/0/5700?observe=1")).status_code == 200
    assert (await lin.delete(f"{base}/3303/0/5700")).status_code == 200
    gone = await lin.get(f"{base}/9/9/9")
    assert (gone.status_code, gone.json()["rule"]) == (400, "CoAP 4.04")
    wrong = await lin.put(f"{base}/3303/0/5700", json={"value": "warm"})
    assert (wrong.status_code, wrong.json()["field"]) == (400, "3303/0/5700")
    # another organisation does not see it, and who may look may not change
    assert [(await chen.get(base)).status_code, (await chen.put(f"{base}/3/0/1", json={"value": 1})).status_code] == [404, 404]
    assert (await yang.put(f"{base}/3303/0/5700", json={"value": 4})).status_code == 403
    assert (await yang.post(f"{base}/3303/0?observe=1")).status_code == 403
    (figures,) = estate.house.service(Hub).told("gateway")
    assert {"coap", "lwm2m"} <= set(figures["fields"])
    assert figures["connections"] >= 2
    await client.close()


async def test_commands_over_lwm2m_wait_for_the_device(estate: Estate, lin: httpx.AsyncClient) -> None:
    endpoint = "urn:imei:350001230000010"
    device = await estate.device(lin, "fuzhou", "lwm2m-commands", type="Device", protocol="lwm2m", identity=endpoint)
    path = f"/devices/{device['id']}/commands"

    async def send(method: str, wait: int = 20, **params: Any) -> dict[str, Any]:
        answer = await lin.post(path, params={"wait": wait}, json={"method": method, "params": params, "expires_s": 600})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    waiting = await send("write", 0, path="3303/0/5700", value=4)
    assert (waiting["state"], waiting["bearer"]) == ("waiting", "lwm2m")
    client = await client_of(estate, endpoint)
    done = (await lin.get(f"/commands/{waiting['no']}", params={"wait": 20})).json()
    assert (done["state"], [told[0] for told in client.single.told]) == ("done", ["put"])
    told = await send("read", path="3303/0")
    assert told["state"] == "done", told
    assert told["result"]["3303/0/5701"] == "Cel"
    assert (await send("execute", path="3/0/4"))["state"] == "done"
    failed = await send("read", path="9/9/9")
    assert (failed["state"], failed["error"][:4]) == ("failed", "4.04")
    assert (await send("execute", path="3303/0"))["error"] == "只有资源可执行 (only a resource can be executed)"
    bad = await lin.post(path, json={"method": "write", "params": {"path": "a/b", "value": 1}})
    assert (bad.status_code, bad.json()["field"]) == (400, "params.path")
    await client.close()


@pytest.mark.conformance
@pytest.mark.skipif("WAKAAMA_CLIENT" not in os.environ, reason="WAKAAMA_CLIENT is the path of wakaama's lwm2mclient")
@pytest.mark.parametrize("block", ["1024", "64"])
async def test_wakaama(estate: Estate, lin: httpx.AsyncClient, block: str) -> None:
    endpoint = f"wakaama-{block}"
    device = await estate.device(lin, "fuzhou", endpoint, type="Device", protocol="lwm2m", identity=endpoint)
    base = f"/devices/{device['id']}/lwm2m"
    process = await asyncio.create_subprocess_exec(
        os.environ["WAKAAMA_CLIENT"], "-4", "-n", endpoint, "-h", "127.0.0.1", "-p", str(estate.house.settings.coap_port), "-l", str(free_port()),
        "-S", block, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    try:
        await estate.latest(lin, device, "3/0/9", 100)
        state = (await lin.get(base)).json()
        assert (state["version"], state["observed"]) == ("1.1", ["3/0", "4/0", "6/0"])
        assert (await lin.get(f"{base}/3/0")).json()["values"]["3/0/0"] == "Open Mobile Alliance"
        assert (await lin.get(f"{base}/3/0/7")).json()["values"] == {"3/0/7/0": 3800, "3/0/7/1": 5000}
        assert (await lin.put(f"{base}/3/0/14", json={"value": "+08:00"})).json()["code"] == "2.04"
        assert (await lin.get(f"{base}/3/0/14")).json()["values"] == {"3/0/14": "+08:00"}
        assert (await lin.put(f"{base}/31024/10", json={"value": {"1": 7, "3": 1.5}})).json()["code"] == "2.04"
        assert (await lin.post(f"{base}/3/0/12", json={})).json()["code"] == "2.04"
        assert [(await lin.get(f"{base}/9/9/9")).json()["rule"], (await lin.put(f"{base}/3/0/9", json={"value": 1})).json()["rule"]] == [
            "CoAP 4.04", "CoAP 4.05"]
        process.stdin.write(b"change /3/0/9 33\n")
        await process.stdin.drain()
        await estate.latest(lin, device, "3/0/9", 33)
        assert (await lin.post(f"{base}/31024/10?observe=1")).status_code == 200
        assert (await lin.delete(f"{base}/31024/10")).status_code == 200
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(("settings", "field"), [
    ({"lwm2m": "open", "coap_port": 5683}, "lwm2m"), ({"lwm2m": "nosec"}, "lwm2m"), ({"field_ports": "coap=5683"}, "field_ports"),
])
async def test_wrong_settings_are_named(estate: Estate, settings: dict[str, Any], field: str) -> None:
    house = House(Settings(home=estate.house.settings.home, **settings))
    house.bus = estate.house.bus
    with pytest.raises(Invalid) as refused:
        gateway_config(house)
    assert refused.value.field == field
