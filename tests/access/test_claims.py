"""Claiming: the device goes on speaking, the history stays where it was."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import httpx
import pytest
import sqlalchemy as sa

from tests.access.conftest import Estate, eventually
from tulou.access.models import device_claims
from tulou.kernel.audit import audit_log

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENT = """
import sys, time
from tb_device_mqtt import TBDeviceMqttClient
client = TBDeviceMqttClient("127.0.0.1", int(sys.argv[1]), sys.argv[2])
client.connect(timeout=20)
deadline = time.monotonic() + 20
while not client.is_connected() and time.monotonic() < deadline:
    time.sleep(0.05)
print(client.claim("pressed-button", 60_000).get())
client.disconnect()
"""


async def test_a_device_moves_and_its_history_stays(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "moves-1", protocol="hj212", identity="MOVES1")
    await estate.say(device, pm25=11)
    await estate.latest(lin, device, "pm25", 11)
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", CLIENT, str(estate.house.settings.mqtt_port), device["token"]],
        capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 0, done.stderr

    async def armed() -> bool:
        query = sa.select(device_claims).where(device_claims.c.entity_no == device["no"])
        return await estate.house.db.read(lambda c: c.execute(query).first()) is not None

    await eventually(armed)
    body = {"device": device["id"], "secret": "pressed-button", "org": "xiamen"}
    for wrong in ({"secret": "another-one"}, {"device": "fuzhou:nothing"}):
        assert (await chen.post("/claims", json={**body, **wrong})).status_code == 404
    assert (await chen.post("/claims", json={**body, "org": "fuzhou"})).status_code == 403
    group = (await lin.post("/device-groups", json={"org": "fuzhou", "name": "moves"})).json()
    await lin.post(f"/device-groups/{group['no']}/devices", json={"add": [device["id"]]})
    answer = await chen.post("/claims", json=body)
    assert answer.status_code == 201, answer.text
    moved = answer.json()
    assert (moved["id"], moved["org"]) == ("xiamen:moves-1", "xiamen")
    assert moved["no"] != device["no"]
    assert (await chen.post("/claims", json=body)).status_code == 404, "once"

    await estate.say(device, pm25=22)
    await estate.latest(chen, moved, "pm25", 22)
    assert (await chen.get(f"/things/{device['no']}")).status_code == 404
    kept = (await lin.get(f"/things/{device['no']}")).json()
    assert kept["latest"]["pm25"]["value"] == 11
    assert (await lin.get(f"/things/{moved['no']}")).status_code == 404
    assert (await lin.get(f"/devices/{device['id']}")).status_code == 404
    assert (await chen.get(f"/devices/{moved['id']}")).json()["identities"] == [
        {"protocol": "hj212", "identity": "MOVES1", "password": False}
    ]
    assert (await lin.get(f"/device-groups/{group['no']}")).json()["devices"] == 0
    query = sa.select(audit_log.c.org).where(audit_log.c.subject.in_([device["id"], moved["id"]])).order_by(audit_log.c.seq.desc())
    assert (await estate.house.db.read(lambda c: c.execute(query.limit(2)).scalars().all())) == ["fuzhou", "xiamen"]


async def test_a_sticker_ends_and_guessing_is_slowed_down(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "sticker-1")
    path = f"/devices/{device['id']}/claim"
    made = (await lin.post(path, json={"seconds": 3600})).json()
    assert (await chen.post(path, json={})).status_code == 404
    assert (await lin.delete(path)).status_code == 204
    body = {"device": device["id"], "secret": made["secret"], "org": "xiamen"}
    assert (await chen.post("/claims", json=body)).status_code == 404
    made = (await lin.post(path, json={})).json()
    late = device_claims.update().values(expires_at=sa.text("'2020-01-01 00:00:00'"))
    await estate.house.db.write(lambda c: c.execute(late) and None)
    assert (await chen.post("/claims", json={**body, "secret": made["secret"]})).status_code == 404
    made = (await lin.post(path, json={"secret": "on-the-sticker"})).json()
    answers = [(await chen.post("/claims", json={**body, "secret": f"guess-{n}"})).status_code for n in range(6)]
    assert answers[-1] == 429
    assert (await chen.post("/claims", json={**body, "secret": made["secret"]})).status_code == 429
    assert (await estate.client().post(f"/{device['token']}/claim", json={"secretKey": "x"})).status_code == 400
    assert (await estate.client().post(f"/{device['token']}/claim", json={"secretKey": "long enough"})).status_code == 200
