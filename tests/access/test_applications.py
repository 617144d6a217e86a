"""Applications at the MQTT door of a whole house: who they are, what they may, and that organisations do not meet."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.access.conftest import ADMIN, PASSWORD, Estate, eventually
from tests.access.test_broker import NEVER, App
from tulou.access import mqtt
from tulou.kernel.organisations import Organisations

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def token(client: httpx.AsyncClient, org: str, *scopes: str) -> dict[str, str]:
    """A new API token of the person."""
    answer = await client.post("/tokens", json={"name": "app", "org": org, "scopes": list(scopes or ("*",))})
    assert answer.status_code == 201, answer.text
    made: dict[str, str] = answer.json()
    return made


async def refusal(estate: Estate, level: int = 5, **hello: object) -> int:
    """The code that CONNACK refuses with."""
    app = App(*await asyncio.open_connection("127.0.0.1", estate.house.settings.mqtt_port), level)
    app.send(mqtt.connect("refused", level=level, **hello))  # type: ignore[arg-type]
    head, body = await app.packet()
    assert head == 0x20
    assert (await app.packet())[0] == 0
    return body[1]


async def connect(estate: Estate, secret: str, client_id: str, **more: object) -> App:
    return await App.connect(estate.house.settings.mqtt_port, client_id, user=secret, **more)


async def test_a_token_is_a_user_name_or_a_password_and_a_person_has_both(estate: Estate, lin: httpx.AsyncClient) -> None:
    secret = (await token(lin, "fuzhou"))["secret"]
    port = estate.house.settings.mqtt_port
    for hello in ({"user": secret}, {"user": "robot", "password": secret.encode()},
                  {"user": "lin", "password": f"{PASSWORD}!".encode()}):
        for level in (4, 5):
            app = await App.connect(port, "who", level=level, **hello)
            assert await app.subscribe(("a", 1)) == b"\1"
    assert await refusal(estate, user="lin", password=b"wrong") == 0x87
    assert await refusal(estate, user=secret + "x") == 0x87
    assert await refusal(estate, 4, user="tulou_no_such") == 5
    assert await refusal(estate) == 0x87


async def test_organisations_do_not_meet(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient) -> None:
    fuzhou = await connect(estate, (await token(lin, "fuzhou"))["secret"], "same")
    xiamen = await connect(estate, (await token(chen, "xiamen"))["secret"], "same")
    for app in (fuzhou, xiamen):
        assert await app.subscribe(("#", 1), ("$share/g/#", 1)) == b"\1\1"
    assert await fuzhou.publish("plan/secret", b"of fuzhou", retain=True) == 0
    got = [(await fuzhou.message())[:2] for _ in range(2)]
    assert got == [("plan/secret", b"of fuzhou")] * 2
    assert await xiamen.silent()
    assert await xiamen.subscribe(("plan/+", 1), number=2) == b"\1"
    assert await xiamen.silent()
    assert await fuzhou.subscribe(("$tulou/xiamen/#", 0), ("$tulou/nowhere/#", 0)) == b"\x87\x87"
    assert await fuzhou.publish("plan/secret", b"", retain=True) == 0


async def test_a_viewer_reads_and_does_not_write(estate: Estate, lin: httpx.AsyncClient, yang: httpx.AsyncClient) -> None:
    secret = (await token(yang, "fuzhou"))["secret"]
    viewer = await connect(estate, secret, "viewer")
    assert await viewer.subscribe(("a/#", 1)) == b"\1"
    assert await viewer.publish("a", b"x") == 0x87
    writer = await connect(estate, (await token(lin, "fuzhou", "access.topic.write"))["secret"], "writer")
    assert await writer.subscribe(("a/#", 1), ("$tulou/+/+/+/telemetry", 0)) == b"\x87\x87"
    assert await writer.publish("a", b"x") == 0
    assert (await viewer.message())[1] == b"x"
    old = await connect(estate, secret, "viewer-4", level=4)
    old.send(mqtt.publish(b"a", b"x", 1, b"\0\1"))
    assert (await old.packet())[0] == 0
    assert await refusal(estate, user=(await token(lin, "fuzhou", "context.*"))["secret"]) == 0x87
    assert await refusal(estate, user=secret, will=mqtt.Will(b"a", b"x", 0, False)) == 0x87


async def test_telemetry_of_devices_one_may_read(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "heard")
    fuzhou = await connect(estate, (await token(lin, "fuzhou"))["secret"], "t1")
    xiamen = await connect(estate, (await token(chen, "xiamen"))["secret"], "t2")
    assert await fuzhou.subscribe(("$tulou/fuzhou/+/+/telemetry", 2), ("#", 0)) == b"\0\0"
    assert await xiamen.subscribe(("$tulou/#", 0), ("#", 0)) == b"\0\0"

    async def heard() -> bool:
        await estate.say(device, pm25=18.5)
        try:
            topic, payload, _, _ = await fuzhou.message(1)
        except TimeoutError:
            return False
        assert topic == f"$tulou/fuzhou/AirQualityStation/{device['no']}/telemetry"
        assert json.loads(payload)["values"] == {"pm25": 18.5}
        return True

    await eventually(heard)
    assert await xiamen.silent()


async def test_a_revoked_token_is_out_at_once_and_its_session_is_nobody_elses(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    made = await token(lin, "fuzhou")
    app = await connect(estate, made["secret"], "revoked", properties=NEVER)
    assert await app.subscribe(("r", 1)) == b"\1"
    assert (await lin.delete(f"/tokens/{made['id']}")).status_code == 204
    head, body = await app.packet()
    assert (head, body[0]) == (0xE0, 0x87)
    assert (await app.packet())[0] == 0
    assert await refusal(estate, user=made["secret"]) == 0x87
    stranger = await connect(estate, (await token(chen, "xiamen"))["secret"], "revoked", clean=False)
    assert stranger.present == 0
    again = await connect(estate, (await token(lin, "fuzhou"))["secret"], "revoked", clean=False)
    assert again.present == 1


async def test_a_session_that_comes_back_with_fewer_rights_loses_what_they_covered(
    estate: Estate, lin: httpx.AsyncClient
) -> None:
    app = await connect(estate, (await token(lin, "fuzhou"))["secret"], "fewer", properties=NEVER)
    assert await app.subscribe(("f/#", 1)) == b"\1"
    await app.vanish()
    speaker = await connect(estate, (await token(lin, "fuzhou", "access.topic.write"))["secret"], "speaker")
    assert await speaker.publish("f/1", b"x") == 0
    again = await connect(
        estate, (await token(lin, "fuzhou", "access.topic.write"))["secret"], "fewer", clean=False, properties=NEVER
    )
    assert again.present == 1
    assert await again.silent()


async def test_a_suspended_organisation_is_out_at_once(estate: Estate, chen: httpx.AsyncClient) -> None:
    secret = (await token(chen, "xiamen"))["secret"]
    app = await connect(estate, secret, "suspended")
    orgs = estate.house.service(Organisations)
    await orgs.suspend(ADMIN, "xiamen", "test")
    try:
        assert (await app.packet())[0] == 0xE0
        assert await refusal(estate, user=secret) == 0x87
    finally:
        await orgs.resume(ADMIN, "xiamen", "test")
    await connect(estate, secret, "resumed")
