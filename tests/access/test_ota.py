"""Firmware from a person's upload to devices that download, verify and install it, in stages; and one that cannot."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import paho.mqtt.client as paho
import pytest
import sqlalchemy as sa
from paho.mqtt.enums import CallbackAPIVersion

from tests.access.conftest import Estate, eventually
from tulou.access.models import devices
from tulou.access.ota import firmware as packages
from tulou.access.ota.rollouts import Rollouts
from tulou.kernel.audit import audit_log

pytestmark = pytest.mark.asyncio(loop_scope="module")

IMAGE = os.urandom(300_001)
STAGE = {"percent": 100, "wait_s": 0, "updated_min": 100, "failed_max": 0, "silent_max": 0}


class Device:
    """A device on the client of Eclipse Paho that updates itself as integrators know it: chunks, checksum, reports."""

    def __init__(self, estate: Estate, token: str, *, size: int = 65_536, broken: bool = False) -> None:
        self.size, self.broken = size, broken
        self.download = 0
        self.image = bytearray()
        self.wanted: dict[str, Any] = {}
        self.heard: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.installed: list[bytes] = []
        self.ready = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.client = paho.Client(CallbackAPIVersion.VERSION2)
        self.client.username_pw_set(token)
        self.client.on_connect = lambda client, *_: client.subscribe([
            ("v1/devices/me/attributes", 1), ("v2/fw/response/+/chunk/+", 1), ("v2/fw/error", 1),
        ])
        self.client.on_subscribe = lambda _client, _data, _mid, codes, _properties: (
            None if any(code.is_failure for code in codes) else loop.call_soon_threadsafe(self.ready.set)
        )
        self.client.on_message = self.message
        self.client.connect("127.0.0.1", estate.house.settings.mqtt_port)
        self.client.loop_start()

    async def __aenter__(self) -> Device:
        await asyncio.wait_for(self.ready.wait(), 15)
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)

    def say(self, **values: Any) -> None:
        self.client.publish("v1/devices/me/telemetry", json.dumps(values), 1)

    def ask(self, number: int) -> None:
        self.client.publish(f"v2/fw/request/{self.download}/chunk/{number}", str(self.size), 1)

    def message(self, _client: Any, _data: Any, message: Any) -> None:
        if message.topic == "v2/fw/error":
            self.errors.append(message.payload.decode())
        elif message.topic == "v1/devices/me/attributes":
            self.attributes(json.loads(message.payload))
        else:
            _, _, _, download, _, number = message.topic.split("/")
            if int(download) == self.download:  # told again, it began again
                self.chunk(int(number), message.payload)

    def attributes(self, values: dict[str, Any]) -> None:
        self.heard.append(values)
        if "fw_version" not in values:
            return
        self.wanted, self.image = values, bytearray()
        self.download += 1
        self.say(fw_state="DOWNLOADING")
        self.ask(0)

    def chunk(self, number: int, part: bytes) -> None:
        self.image += part
        if len(self.image) < self.wanted["fw_size"]:
            self.ask(number + 1)
            return
        self.say(fw_state="DOWNLOADED")
        whole = hashlib.new(self.wanted["fw_checksum_algorithm"], self.image).hexdigest() == self.wanted["fw_checksum"]
        if not whole or self.broken:
            self.say(fw_state="FAILED", fw_error="no space left")
            return
        self.installed.append(bytes(self.image))
        for state in ("VERIFIED", "UPDATING"):
            self.say(fw_state=state)
        self.say(fw_state="UPDATED", current_fw_title=self.wanted["fw_title"], current_fw_version=self.wanted["fw_version"])


async def uploaded(
    client: httpx.AsyncClient, version: str, image: bytes = IMAGE, *, org: str = "fuzhou", kind: str = "AirQualityStation"
) -> dict[str, Any]:
    answer = await client.post("/firmware", params={
        "org": org, "type": kind, "title": "station", "version": version, "sha256": hashlib.sha256(image).hexdigest(),
    }, content=image)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def begun(client: httpx.AsyncClient, package: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = await client.post("/rollouts", json={"firmware": package["no"], "name": "r", "stages": [STAGE], **more})
    assert answer.status_code == 201, answer.text
    started = await client.post(f"/rollouts/{answer.json()['no']}/start")
    assert started.status_code == 200, started.text
    made: dict[str, Any] = started.json()
    return made


async def comes_to(client: httpx.AsyncClient, rollout: dict[str, Any], state: str) -> dict[str, Any]:
    async def now() -> Any:
        found = (await client.get(f"/rollouts/{rollout['no']}")).json()
        return found if found["state"] == state else None

    found: dict[str, Any] = await eventually(now, 60)
    return found


async def in_state(client: httpx.AsyncClient, rollout: dict[str, Any], state: str, count: int) -> list[dict[str, Any]]:
    async def now() -> Any:
        items = (await client.get(f"/rollouts/{rollout['no']}/devices", params={"state": state})).json()["items"]
        return items if len(items) == count else None

    found: list[dict[str, Any]] = await eventually(now, 30)
    return found


async def desired(client: httpx.AsyncClient, device: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/devices/{device['id']}/shadow")).json()["desired"]
    return found


async def test_packages(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await uploaded(lin, "0.1", b"one")
    assert (made["size"], made["sha256"], made["created"]) == (3, hashlib.sha256(b"one").hexdigest(), True)
    where = {"org": "fuzhou", "type": "AirQualityStation", "title": "station", "version": "0.1"}
    again = await lin.post("/firmware", params=where, content=b"one")
    assert (again.status_code, again.json()["no"], again.json()["created"]) == (200, made["no"], False)
    assert (await lin.post("/firmware", params=where, content=b"two")).status_code == 409
    objects = estate.house.service(packages.Firmwares).objects
    before = await objects.list("fuzhou", "firmware/")
    for wrong, field in (({"sha256": "0" * 64}, "sha256"), ({"type": "None"}, "type"), ({"title": "\n"}, "title")):
        answer = await lin.post("/firmware", params={**where, "version": "0.2", **wrong}, content=b"x")
        assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert (await lin.post("/firmware", params={**where, "version": "0.2"}, content=b"")).json()["field"] == "body"

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 10

    monkeypatch.setattr(packages, "LARGEST", 40)
    assert (await lin.post("/firmware", params={**where, "version": "0.3"}, content=endless())).status_code == 413
    assert await objects.list("fuzhou", "firmware/") == before, "what was refused is not kept"

    assert (await yang.get(f"/firmware/{made['no']}")).json()["title"] == "station"
    assert (await yang.post("/firmware", params=where, content=b"one")).status_code == 403
    assert (await yang.delete(f"/firmware/{made['no']}")).status_code == 403
    for answer in (await chen.get(f"/firmware/{made['no']}"), await chen.delete(f"/firmware/{made['no']}"),
                   await chen.post("/rollouts", json={"firmware": made["no"], "name": "x"})):
        assert (answer.status_code, answer.json()["detail_en"]) == (404, f"no firmware {made['no']}")
    assert (await chen.post("/firmware", params=where, content=b"one")).status_code == 403
    assert (await chen.get("/firmware")).json()["items"] == []

    draft = (await lin.post("/rollouts", json={"firmware": made["no"], "name": "d"})).json()
    assert (draft["state"], [stage["percent"] for stage in draft["stages"]]) == ("draft", [1, 10, 50, 100])
    used = await lin.delete(f"/firmware/{made['no']}")
    assert (used.status_code, used.json()["rule"]) == (409, "no roll-out that has not ended")
    assert (await chen.post(f"/rollouts/{draft['no']}/abort")).status_code == 404
    assert (await yang.post(f"/rollouts/{draft['no']}/abort")).status_code == 403
    assert (await lin.post(f"/rollouts/{draft['no']}/abort")).json()["state"] == "aborted"
    await eventually(lambda: _deleted(lin, made))
    assert (await lin.get(f"/firmware/{made['no']}")).status_code == 404
    assert len(await objects.list("fuzhou", "firmware/")) == len(before) - 1


async def _deleted(client: httpx.AsyncClient, package: dict[str, Any]) -> bool:
    return (await client.delete(f"/firmware/{package['no']}")).status_code == 204


async def test_devices_download_verify_and_install_stage_after_stage(estate: Estate, lin: httpx.AsyncClient) -> None:
    package = await uploaded(lin, "1.0")
    made = [await estate.device(lin, "fuzhou", f"staged-{number}") for number in range(4)]
    there = [Device(estate, device["token"]) for device in made]
    try:
        for device in there:
            await asyncio.wait_for(device.ready.wait(), 15)
        rollout = await begun(lin, package, q="staged-", stages=[{**STAGE, "percent": 25}, {**STAGE, "percent": 100}])
        assert sum(stage["waiting"] + stage["told"] + stage["updated"] for stage in rollout["stages"]) == 4
        done = await comes_to(lin, rollout, "done")
    finally:
        for device in there:
            await device.__aexit__()
    assert [stage["updated"] for stage in done["stages"]] == [1, 3]
    assert [device.installed for device in there] == [[IMAGE]] * 4
    items = (await lin.get(f"/rollouts/{rollout['no']}/devices")).json()["items"]
    first = next(item for item in items if item["stage"] == 1)
    assert all(item["told_at"] >= first["ended_at"] for item in items if item["stage"] == 2), "the gate passed first"
    assert (await desired(lin, made[0]))["fw_checksum"] == hashlib.sha256(IMAGE).hexdigest()


async def test_a_device_that_fails_aborts_the_rollout_and_the_others_are_let_alone(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    package = await uploaded(lin, "2.0")
    made = [await estate.device(lin, "fuzhou", f"doomed-{number}") for number in range(3)]
    for device in made:
        await lin.patch(f"/devices/{device['id']}/shadow", json={"desired": {"fw_title": "station", "fw_version": "0.9"}})
    there = [Device(estate, device["token"], broken=True) for device in made]
    try:
        for device in there:
            await asyncio.wait_for(device.ready.wait(), 15)
            device.heard.clear()
        rollout = await begun(lin, package, q="doomed-", stages=[{**STAGE, "percent": 30}, STAGE])
        ended = await comes_to(lin, rollout, "aborted")
        assert "1 of 1 devices failed" in ended["reason"]
        assert [(stage["failed"], stage["withdrawn"]) for stage in ended["stages"]] == [(1, 0), (0, 2)]
        failed = (await in_state(lin, rollout, "failed", 1))[0]
        assert failed["error"] == "no space left"

        async def taken_back() -> bool:
            return all([(await desired(lin, device)) == {"fw_title": "station", "fw_version": "0.9"} for device in made])

        await eventually(taken_back)
        told = [device for device in there if any(heard.get("fw_version") == "2.0" for heard in device.heard)]
        assert len(told) == 1, "the devices of the later stage heard nothing"
        await eventually(lambda: _heard(told[0], {"fw_title": "station", "fw_version": "0.9"}))
    finally:
        for device in there:
            await device.__aexit__()
    for what in ("start", "pause", "resume", "abort", "retry"):
        assert (await lin.post(f"/rollouts/{rollout['no']}/{what}")).status_code == 409
        assert (await chen.post(f"/rollouts/{rollout['no']}/{what}")).status_code == 404
    assert (await chen.get(f"/rollouts/{rollout['no']}")).status_code == 404
    assert (await chen.get(f"/rollouts/{rollout['no']}/devices")).status_code == 404
    assert (await chen.get("/rollouts")).json()["items"] == []


async def _heard(device: Device, values: dict[str, Any]) -> bool:
    return any(values.items() <= heard.items() for heard in device.heard)


async def test_a_failed_device_is_told_again(estate: Estate, lin: httpx.AsyncClient) -> None:
    package = await uploaded(lin, "3.0")
    device = await estate.device(lin, "fuzhou", "again")
    async with Device(estate, device["token"], broken=True) as there:
        rollout = await begun(lin, package, devices=[device["id"]], stages=[{**STAGE, "failed_max": 100}])
        done = await comes_to(lin, rollout, "done")
        assert done["stages"][0]["failed"] == 1
        there.broken = False
        assert (await lin.post(f"/rollouts/{rollout['no']}/retry")).json()["state"] == "running"
        await comes_to(lin, rollout, "done")
    assert (await in_state(lin, rollout, "updated", 1))[0]["attempts"] == 2
    assert there.installed == [IMAGE]


async def test_pause_abort_time_limit_and_one_rollout_at_a_time(estate: Estate, lin: httpx.AsyncClient) -> None:
    package = await uploaded(lin, "4.0")
    device = await estate.device(lin, "fuzhou", "mute")
    rollout = await begun(lin, package, devices=[device["id"]], stages=[{**STAGE, "failed_max": 100}])
    await in_state(lin, rollout, "told", 1)
    second = (await lin.post("/rollouts", json={"firmware": package["no"], "name": "2", "devices": [device["id"]]})).json()
    busy = await lin.post(f"/rollouts/{second['no']}/start")
    assert (busy.status_code, busy.json()["value"]) == (409, device["id"])
    assert (await lin.post(f"/rollouts/{rollout['no']}/pause")).json()["state"] == "paused"
    assert (await lin.post(f"/rollouts/{rollout['no']}/resume")).json()["state"] == "running"
    assert (await lin.post(f"/rollouts/{rollout['no']}/abort")).json()["stages"][0]["withdrawn"] == 1

    async def empty() -> bool:
        return await desired(lin, device) == {}

    await eventually(empty)
    strangers = await lin.post("/rollouts", json={"firmware": package["no"], "name": "3", "devices": ["xiamen:x"]})
    wrong = await lin.post(f"/rollouts/{strangers.json()['no']}/start")
    assert (wrong.status_code, wrong.json()["field"], wrong.json()["value"]) == (400, "devices", "xiamen:x")
    slow = await begun(lin, package, devices=[device["id"]], device_s=1)
    assert "1 of 1 devices failed" in (await comes_to(lin, slow, "aborted"))["reason"]
    assert "1 s" in (await in_state(lin, slow, "failed", 1))[0]["error"]


async def test_devices_that_fall_silent_stop_it(estate: Estate, lin: httpx.AsyncClient) -> None:
    package = await uploaded(lin, "5.0")
    device = await estate.device(lin, "fuzhou", "silent")

    async def seen(at: int) -> None:
        change = devices.update().where(devices.c.entity_no == device["no"]).values(seen_at=at)
        await estate.house.db.write(lambda c: c.execute(change))

    await seen(2_000_000_000_000_000)
    await estate.say(device, current_fw_title="station", current_fw_version="5.0")
    await estate.latest(lin, device, "current_fw_version", "5.0")
    rollout = await begun(lin, package, devices=[device["id"]], device_s=4, stages=[{**STAGE, "wait_s": 4}])
    await in_state(lin, rollout, "updated", 1)

    async def aborted() -> Any:
        await seen(1)
        found = (await lin.get(f"/rollouts/{rollout['no']}")).json()
        return found if found["state"] != "running" else None

    assert "1 of 1 devices fell silent" in (await eventually(aborted, 60))["reason"]


async def test_a_worker_that_is_killed_at_any_point_goes_on(estate: Estate, lin: httpx.AsyncClient) -> None:
    """What one process committed and did not say, another says."""
    package = await uploaded(lin, "6.0")
    device = await estate.device(lin, "fuzhou", "killed")
    rollouts = estate.house.service(Rollouts)
    async with estate.house.paused("worker"):
        rollout = await begun(lin, package, devices=[device["id"]])

        async def dies() -> None:
            raise asyncio.CancelledError

        killed = Rollouts(estate.house, rollouts.firmwares, rollouts.shadows)
        killed._announce = dies  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await killed.carry_on(await rollouts._row(rollout["no"]))
        assert (await in_state(lin, rollout, "told", 1))[0]["attempts"] == 1
        there = Device(estate, device["token"])
        await asyncio.wait_for(there.ready.wait(), 15)
    await comes_to(lin, rollout, "done")
    await there.__aexit__()
    assert (await in_state(lin, rollout, "updated", 1))[0]["attempts"] == 1


async def test_a_device_gets_its_own_firmware_only(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient) -> None:
    package = await uploaded(lin, "7.0")
    device = await estate.device(lin, "fuzhou", "owner")
    theirs = await estate.device(chen, "xiamen", "thief")
    await uploaded(chen, "0.0", b"theirs", org="xiamen")
    await lin.patch(f"/devices/{device['id']}/shadow", json={"desired": {"fw_title": "station", "fw_version": "7.0"}})
    await chen.patch(f"/devices/{theirs['id']}/shadow", json={"desired": {"fw_title": "station", "fw_version": "7.0"}})
    client, path = estate.client(), f"/{device['token']}/firmware"
    named = {"title": "station", "version": "7.0"}
    assert (await client.get(f"/{theirs['token']}/firmware", params=named)).status_code == 404
    assert (await client.get(path, params={**named, "version": "1.0"})).status_code == 404
    whole = await client.get(path, params=named)
    assert (whole.content, whole.headers["etag"]) == (IMAGE, f'"{package["sha256"]}"')
    parts = [(await client.get(path, params={**named, "size": 100_000, "chunk": n})).content for n in range(5)]
    assert ([len(part) for part in parts], b"".join(parts)) == ([100_000, 100_000, 100_000, 1, 0], IMAGE)
    for asked, first, last in (("bytes=0-9", 0, 9), ("bytes=300000-", 300_000, 300_000), ("bytes=-5", 299_996, 300_000),
                               ("bytes=299999-900000", 299_999, 300_000)):
        some = await client.get(path, headers={"range": asked})
        assert (some.status_code, some.content) == (206, IMAGE[first : last + 1])
        assert some.headers["content-range"] == f"bytes {first}-{last}/{len(IMAGE)}"
    beyond = await client.get(path, headers={"range": "bytes=300001-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(IMAGE)}")
    assert (await client.get(path, headers={"range": "bytes=5-4"})).status_code == 200
    assert (await client.get(path, params={"size": "9999999", "chunk": 0})).json()["field"] == "size"
    assert (await client.get(path, params={"size": "-1"})).json()["field"] == "size"
    async with Device(estate, theirs["token"]) as thief:
        thief.ask(0)
        await eventually(lambda: _said(thief, "no firmware is assigned"))
        thief.size = 1 << 20
        thief.ask(0)
        await eventually(lambda: _said(thief, "1..524288"))
        assert not thief.installed


async def _said(device: Device, text: str) -> bool:
    return any(text in error for error in device.errors)


async def test_a_connection_has_so_many_requests_under_way(estate: Estate, lin: httpx.AsyncClient) -> None:
    await uploaded(lin, "8.0")
    device = await estate.device(lin, "fuzhou", "greedy")
    async with Device(estate, device["token"], size=1) as there:
        for number in range(200):
            there.ask(number)
        await eventually(lambda: _said(there, "more than 4 requests under way"))
        there.say(pm25=1)
        await estate.latest(lin, device, "pm25", 1)


async def test_audited(estate: Estate, lin: httpx.AsyncClient) -> None:
    query = sa.select(audit_log.c.action, audit_log.c.actor).where(audit_log.c.subject.like("rollout %")).distinct()
    found = {tuple(row) for row in await estate.house.db.read(lambda c: c.execute(query).all())}
    assert {("access.shadow.write", "system:access.rollouts"), ("access.rollout.write", "system:access.rollouts")} <= found
    assert any(action == "access.rollout.create" and actor.startswith("user:") for action, actor in found)
