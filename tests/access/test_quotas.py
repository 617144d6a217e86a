"""Quotas: devices, messages a second and stored readings, at every door."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.access.conftest import ADMIN, Estate, eventually
from tests.access.test_field import Station
from tests.access.test_field import answer as answer_212
from tests.access.test_hj212 import MN, frame
from tulou.access import mqtt
from tulou.access.quotas import counting
from tulou.access.quotas.meters import Meters
from tulou.access.quotas.service import Quotas
from tulou.access.quotas.tables import Quota
from tulou.kernel.organisations import Organisations
from tulou.kernel.organisations.models import Application

TELEMETRY = b"v1/devices/me/telemetry"


def test_a_limit_holds_for_the_organisation_and_all_below_it() -> None:
    meters = Meters()
    meters.set({"fujian": 10, "fuzhou": 4}, {"fujian": None, "fuzhou": "fujian", "gulou": "fuzhou", "xiamen": "fujian"}, 0)
    assert set(meters.by_org) == {"fujian", "fuzhou", "gulou", "xiamen"}
    assert meters.by_org["gulou"].take(9, 0) == 4
    assert meters.by_org["fuzhou"].take(1, 0) == 0
    assert meters.by_org["xiamen"].take(9, 0) == 6, "what the city took is the province's too"
    assert meters.by_org["fuzhou"].retry_after(0) == pytest.approx(0.25)
    assert meters.by_org["gulou"].take(9, 0.5) == 2
    assert meters.report(1)["fuzhou"] == {"limit": 4, "rate": 6, "refused": 13}


def test_what_cannot_be_refused_is_owed() -> None:
    meters = Meters()
    meters.set({"fuzhou": 10}, {"fuzhou": None}, 0)
    assert meters.by_org["fuzhou"].owe(30, 0) == pytest.approx(2)
    assert meters.by_org["fuzhou"].take(1, 1) == 0
    meters.set({"fuzhou": 10, "xiamen": 1}, {}, 1)
    assert meters.by_org["fuzhou"].wait(1) == pytest.approx(1), "a limit that stays the same keeps what is owed"
    meters.set({}, {"fuzhou": None}, 2)
    assert not meters.by_org


def test_who_has_as_many_readings_as_he_may_is_refused_with_all_below_him() -> None:
    meters = Meters()
    meters.set({"fuzhou": 10}, {"fuzhou": None, "gulou": "fuzhou", "xiamen": None}, 0, ["fuzhou"])
    assert set(meters.by_org) == {"fuzhou", "gulou"}
    assert meters.by_org["gulou"].refuses(2)
    assert meters.by_org["fuzhou"].take(1, 0) == 0
    assert meters.by_org["fuzhou"].retry_after(0) == 60
    assert meters.report(1) == {"fuzhou": {"limit": 10, "rate": 0, "refused": 3}}
    meters.set({}, {"fuzhou": None, "gulou": "fuzhou"}, 1, ["gulou"])
    assert meters.by_org["gulou"].wait(1) == 0
    assert meters.report(2) == {"gulou": {"refused": 0}}
    meters.set({}, {"fuzhou": None}, 2)
    assert not meters.by_org


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def below(estate: Estate) -> str:
    """An organisation below Fuzhou."""
    organisations = estate.house.service(Organisations)
    await organisations.apply(ADMIN, Application(id="gulou", name_zh="鼓楼", name_en="Gulou", kind="county", parent="fuzhou"))
    row = organisations.rows["gulou"]
    row["applied_by"] = "user:else"
    await organisations.approve(ADMIN, "gulou")
    return "gulou"


@pytest.mark.asyncio(loop_scope="module")
async def test_the_organisation_above_sets_it_and_nobody_else(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, below: str
) -> None:
    boss = await estate.person("boss", "fuzhou", "admin")
    for client, org, status in (
        (lin, "fuzhou", 403), (boss, "fuzhou", 403), (chen, "fuzhou", 404), (lin, below, 403), (boss, below, 200), (boss, "nowhere", 404)
    ):
        answer = await client.put(f"/orgs/{org}/quota", json={"devices": 1})
        assert answer.status_code == status, (org, answer.text)
    assert (await boss.put(f"/orgs/{below}/quota", json={"devices": -1})).json()["field"] == "devices"
    await estate.device(boss, below, "quota-1")
    full = await boss.post("/devices", json={"org": below, "type": "AirQualityStation", "name": "x", "id": "quota-2"})
    assert (full.status_code, full.json()["type"]) == (403, "urn:tulou:error:over-quota")
    again = await boss.post("/devices", json={"org": below, "type": "AirQualityStation", "name": "x", "id": "quota-1"})
    assert again.status_code == 200, "what is there already takes no room"
    await estate.house.service(Quotas).put(ADMIN, "fuzhou", Quota(devices=3))
    await boss.put(f"/orgs/{below}/quota", json={})
    lines = [{"org": org, "type": "AirQualityStation", "name": "x", "id": f"bulk-{n}"} for n, org in enumerate([below, "fuzhou"] * 2)]
    made = (await boss.post("/devices/bulk", json={"items": lines})).json()["items"]
    assert ["error" in line for line in made] == [False, False, True, True], "below counts for above"
    shown = (await boss.get(f"/orgs/{below}/quota")).json()
    assert shown["above"] == [{"org": "fuzhou", "devices": 3, "messages_s": None, "readings": None}]
    assert shown["use"]["devices"] == 2
    assert (await boss.get("/orgs/fuzhou/quota")).json()["use"]["devices"] == 3
    await estate.house.service(Quotas).put(ADMIN, "fuzhou", Quota())
    assert (await chen.get(f"/orgs/{below}/quota")).status_code == 404


class Device:
    """A bare client of MQTT."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def enter(cls, estate: Estate, token: str, level: int) -> Device:
        made = cls(*await asyncio.open_connection("127.0.0.1", estate.house.settings.mqtt_port))
        made.writer.write(mqtt.connect("", token, level=level))
        assert (await made.packet())[0] == 0x20
        return made

    async def packet(self) -> bytes:
        head = await asyncio.wait_for(self.reader.readexactly(2), 20)
        return head + await self.reader.readexactly(head[1])

    def say(self, count: int, level: int) -> None:
        self.writer.write(b"".join(
            mqtt.publish(TELEMETRY, b'{"pm25": %d}' % n, 1, n.to_bytes(2), level=level) for n in range(1, count + 1)
        ))


@pytest.mark.asyncio(loop_scope="module")
async def test_messages_beyond_it_are_refused_or_slowed_down_and_none_is_lost(
    estate: Estate, chen: httpx.AsyncClient
) -> None:
    quotas = estate.house.service(Quotas)
    device = await estate.device(chen, "xiamen", "rate-1")

    async def limited(rate: float | None) -> None:
        await quotas.put(ADMIN, "xiamen", Quota(messages_s=rate))

        async def told() -> bool:
            body = estate.house.service(Quotas).reported()
            return any(one.get("xiamen", {}).get("limit") == rate for one in body)

        await eventually(told)

    await limited(0.1)
    five = await Device.enter(estate, device["token"], 5)
    five.say(5, 5)
    answers = [await five.packet() for _ in range(5)]
    assert [answer[2:4] for answer in answers] == [n.to_bytes(2) for n in range(1, 6)], "in their order"
    assert [answer[4:5] for answer in answers] == [b"", *[b"\x97"] * 4]
    five.writer.close()

    http = estate.client()
    assert (await http.post(f"/{device['token']}/telemetry", json={"pm25": 1})).status_code == 200
    refused = await http.post(f"/{device['token']}/telemetry", json={"pm25": 1})
    assert (refused.status_code, refused.json()["rule"]) == (429, "messages a second")
    assert int(refused.headers["retry-after"]) >= 9

    async def counted() -> bool:
        shown = (await chen.get("/orgs/xiamen/quota")).json()
        return shown["limits"]["messages_s"] == 0.1 and shown["use"]["refused"] == 5

    await eventually(counted)

    await limited(20)
    began = time.monotonic()
    three = await Device.enter(estate, device["token"], 4)
    for _ in range(3):
        three.say(20, 4)
        assert {(await three.packet())[0] for _ in range(20)} == {0x40}
    three.writer.write(b"\xc0\x00")
    assert await three.packet() == mqtt.PINGRESP
    assert time.monotonic() - began > 1.5, "sixty messages at twenty a second, of which a second's worth may come at once"
    three.writer.close()
    await limited(None)
    assert (await http.post(f"/{device['token']}/telemetry", json={"pm25": 1})).status_code == 200


def coap(port: int, token: str) -> dict[str, Any]:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "aiocoap.cli.client", "-m", "POST", "--payload", '{"pm25": 1}', "--content-format", "application/json",
         f"coap://127.0.0.1:{port}/api/v1/{token}/telemetry"], capture_output=True, text=True, timeout=30,
    )
    return {"text": done.stdout + done.stderr}


@pytest.mark.asyncio(loop_scope="module")
async def test_coap_is_told_too(estate: Estate, chen: httpx.AsyncClient) -> None:
    quotas = estate.house.service(Quotas)
    device = await estate.device(chen, "xiamen", "rate-2")
    await quotas.put(ADMIN, "xiamen", Quota(messages_s=0.011))
    port = estate.house.settings.coap_port

    async def refused() -> bool:
        told = (await asyncio.to_thread(coap, port, device["token"]))["text"]
        return re.search(r"4\.29", told) is not None

    await eventually(refused)
    await quotas.put(ADMIN, "xiamen", Quota())


async def readings_limited(estate: Estate, org: str, most: int | None) -> None:
    """Limit stored readings, and wait until the gateway knows whether they are used up."""
    shown = await estate.house.service(Quotas).put(ADMIN, org, Quota(readings=most))
    used_up = most is not None and shown["use"]["readings"] >= most

    async def told() -> bool:
        return all((org in one) is used_up for one in estate.house.service(Quotas).reported())

    await eventually(told)


@pytest.mark.asyncio(loop_scope="module")
async def test_readings_are_counted_and_those_beyond_the_quota_refused_at_every_door(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    device = await estate.device(chen, "xiamen", "full-1")
    station = await estate.device(chen, "xiamen", "full-2", type="Device", protocol="hj212", identity=MN.decode())
    other = await estate.device(lin, "fuzhou", "full-3")
    await readings_limited(estate, "xiamen", None)
    http, path = estate.client(), f"/{device['token']}/telemetry"
    for value in (1, 2, 3):
        assert (await http.post(path, json={"ts": 1_775_000_000_000 + value, "values": {"pm25": value}})).status_code == 200
    await estate.latest(chen, device, "pm25", 3)
    await counting.count(estate.house)
    used = (await chen.get("/orgs/xiamen/quota")).json()["use"]["readings"]
    assert used >= 3
    await readings_limited(estate, "xiamen", used + 1)
    assert (await http.post(path, json={"pm25": 4})).status_code == 200
    await estate.latest(chen, device, "pm25", 4)
    await counting.count(estate.house)

    async def shut() -> bool:
        own = estate.house.service(Quotas)
        return all("xiamen" in one for one in [own.meters.report(time.monotonic()), *own.reported()])

    await eventually(shut)
    answer = await http.post(path, json={"pm25": 5})
    assert (answer.status_code, answer.json()["type"], answer.json()["rule"]) == (403, "urn:tulou:error:over-quota", "readings")
    assert (await http.post(f"/{other['token']}/telemetry", json={"pm25": 5})).status_code == 200, "another organisation's goes on"

    five = await Device.enter(estate, device["token"], 5)
    five.say(2, 5)
    assert [(await five.packet())[2:5] for _ in range(2)] == [b"\x00\x01\x97", b"\x00\x02\x97"]
    five.writer.write(mqtt.publish(TELEMETRY, b'{"pm25": 6}', 0, level=5))
    told = await five.packet()
    assert (told[0], told[2]) == (0xE0, 0x97), "QoS 0 cannot be answered: the connection ends"
    three = await Device.enter(estate, device["token"], 4)
    three.say(1, 4)
    assert await asyncio.wait_for(three.reader.read(), 20) == b""
    assert re.search(r"4\.29", (await asyncio.to_thread(coap, estate.house.settings.coap_port, device["token"]))["text"])
    field = await Station.connect(estate.house.settings.fields["hj212"][0])
    for _ in range(2):
        field.send(frame(b"DataTime=20260401080000;w01018-Rtd=12.5"))
        assert await field.line() == answer_212(MN, b"QnRtn=2", 9011)

    async def counted() -> bool:
        return bool((await chen.get("/orgs/xiamen/quota")).json()["use"]["refused"] >= 7)

    await eventually(counted)
    assert (await chen.get("/orgs/xiamen/quota")).json()["use"]["readings"] == used + 1
    await readings_limited(estate, "xiamen", None)
    field.send(frame(b"DataTime=20260401080000;w01018-Rtd=12.5"))
    assert await field.line() == answer_212()
    await estate.latest(chen, station, "w01018-Rtd", 12.5)
    assert (await chen.get(f"/things/{device['no']}")).json()["latest"]["pm25"]["value"] == 4, "nothing that was refused is stored"
