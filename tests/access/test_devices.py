"""Devices: created once, known by a token that is shown once, forgotten at once, and unknown to other organisations."""

from __future__ import annotations

import asyncio
import hashlib

import httpx
import paho.mqtt.client as paho
import pytest
import sqlalchemy as sa

from tests.access.conftest import ADMIN, Estate, eventually
from tulou.access import NewDevice, devices
from tulou.access.service import Devices, new_token
from tulou.kernel.audit import audit_log
from tulou.kernel.errors import Conflict, Forbidden, Invalid
from tulou.kernel.organisations import Organisations
from tulou.kernel.policy import Actor, Binding

pytestmark = pytest.mark.asyncio(loop_scope="module")


def code_of(estate: Estate, token: str) -> int:
    """The CONNACK return code that a connection with this token gets."""
    codes: list[int] = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION1, client_id="t")
    client.username_pw_set(token)
    client.on_connect = lambda _c, _u, _f, code: codes.append(code)
    client.connect("127.0.0.1", estate.house.settings.mqtt_port)
    while not codes:
        client.loop(0.05)
    client.disconnect()
    return codes[0]


async def test_a_token_is_shown_once_and_only_its_hash_is_kept(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "once")
    shown = (await lin.get(f"/devices/{made['id']}")).json()
    assert shown["token_prefix"] == made["token"][:6]
    assert "token" not in shown
    assert "token_hash" not in shown
    row = await estate.house.db.read(
        lambda c: c.execute(sa.select(devices).where(devices.c.id == made["id"])).mappings().one()
    )
    assert row["token_hash"] == hashlib.sha256(made["token"].encode()).hexdigest()
    assert made["token"] not in str(dict(row))
    assert len({new_token() for _ in range(1000)}) == 1000


async def test_creating_is_idempotent_on_the_id(estate: Estate, lin: httpx.AsyncClient) -> None:
    first = await estate.device(lin, "fuzhou", "twice")
    body = {"org": "fuzhou", "type": "AirQualityStation", "name": "x", "id": "twice"}
    again = await lin.post("/devices", json=body)
    assert again.status_code == 200
    assert (again.json()["created"], again.json()["no"]) == (False, first["no"])
    assert "token" not in again.json()
    qualified = await lin.post("/devices", json={**body, "id": first["id"]})
    assert qualified.json()["id"] == first["id"]
    for change in ({"type": "Manhole"}, {"synthetic": True}):
        refused = await lin.post("/devices", json={**body, **change})
        assert (refused.status_code, refused.json()["field"]) == (409, "id")


async def test_two_at_once_make_one(estate: Estate) -> None:
    service = estate.house.service(Devices)
    new = NewDevice(org="fuzhou", type="Device", name="x", id="race")
    made = await asyncio.gather(*(service.create(ADMIN, new) for _ in range(20)))
    assert len({d["no"] for d in made}) == 1
    assert [d["created"] for d in made].count(True) == 1


async def test_a_synthetic_device_cannot_speak_for_a_real_entity(estate: Estate) -> None:
    service = estate.house.service(Devices)
    urn = "urn:ngsi-ld:Device:real-1"
    await service.create(ADMIN, NewDevice(org="fuzhou", type="Device", name="x", id=urn))
    await service.delete(ADMIN, f"fuzhou:{urn}")
    with pytest.raises(Conflict):
        await service.create(ADMIN, NewDevice(org="fuzhou", type="Device", name="x", id=urn, synthetic=True))
    again = await service.create(ADMIN, NewDevice(org="fuzhou", type="Device", name="x", id=urn))
    assert again["created"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"type": "NoSuchModel"}, "type"), ({"id": "a b"}, "id"), ({"id": "../x"}, "id"), ({"lon": 181}, "lon"),
        ({"lat": "north"}, "lat"), ({"name": ""}, "name"), ({"colour": "red"}, "colour"), ({"id": "x" * 201}, "id"),
    ],
)
async def test_bad_input_names_the_field(lin: httpx.AsyncClient, change: dict[str, object], field: str) -> None:
    body = {"org": "fuzhou", "type": "Device", "name": "x", "id": "bad"}
    answer = await lin.post("/devices", json={**body, **change})
    assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
    assert answer.json()["detail_zh"]


async def test_there_is_no_device_of_no_organisation(estate: Estate) -> None:
    new = NewDevice(org="atlantis", type="Device", name="x")
    with pytest.raises(Invalid) as caught:
        await estate.house.service(Devices).create(ADMIN, new)
    assert caught.value.field == "org"


async def test_a_disabled_or_deleted_or_rotated_token_is_refused_at_once(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "doomed")
    await estate.say(made, pm25=1)
    assert await asyncio.to_thread(code_of, estate, made["token"]) == 0

    async def refused(token: str) -> bool:
        http = await estate.client().post(f"/{token}/telemetry", json={"pm25": 2})
        return http.status_code == 401 and await asyncio.to_thread(code_of, estate, token) == 5

    fresh = (await lin.post(f"/devices/{made['id']}/token")).json()["token"]
    await eventually(lambda: refused(made["token"]))
    await estate.say({"token": fresh}, pm25=3)
    assert (await lin.post(f"/devices/{made['id']}/disable")).json()["status"] == "disabled"
    await eventually(lambda: refused(fresh))
    assert (await lin.post(f"/devices/{made['id']}/enable")).json()["status"] == "active"
    assert (await estate.client().post(f"/{fresh}/telemetry", json={"pm25": 4})).status_code == 200
    assert (await lin.delete(f"/devices/{made['id']}")).status_code == 204
    await eventually(lambda: refused(fresh))
    assert (await lin.get(f"/devices/{made['id']}")).status_code == 404
    assert (await lin.get(f"/things/{made['no']}")).json()["device"] is None


async def test_a_connected_device_is_disconnected(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "online")
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    up = asyncio.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION1, client_id="online", reconnect_on_failure=False)
    client.username_pw_set(made["token"])
    client.on_connect = lambda *_a: loop.call_soon_threadsafe(up.set)
    client.on_disconnect = lambda *_a: loop.call_soon_threadsafe(gone.set)
    client.connect("127.0.0.1", estate.house.settings.mqtt_port)
    client.loop_start()
    try:
        await asyncio.wait_for(up.wait(), 10)
        await lin.post(f"/devices/{made['id']}/disable")
        await asyncio.wait_for(gone.wait(), 10)
    finally:
        client.loop_stop()


async def test_devices_of_a_suspended_organisation_are_refused(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "in-suspended")
    stopped = await estate.device(lin, "fuzhou", "stopped-before")
    await lin.post(f"/devices/{stopped['id']}/disable")
    await estate.say(made, pm25=1)
    organisations = estate.house.service(Organisations)

    async def answers(code: int) -> bool:
        return (await estate.client().post(f"/{made['token']}/telemetry", json={"pm25": 2})).status_code == code

    await organisations.suspend(ADMIN, "fuzhou", "test")
    try:
        await eventually(lambda: answers(401))
        assert await asyncio.to_thread(code_of, estate, made["token"]) == 5
    finally:
        await organisations.resume(ADMIN, "fuzhou", "test")
    await eventually(lambda: answers(200))
    assert (await lin.get(f"/devices/{made['id']}")).json()["status"] == "active"
    assert (await lin.get(f"/devices/{stopped['id']}")).json()["status"] == "disabled"


async def test_bulk_answers_line_by_line_and_repeats_nothing(estate: Estate, lin: httpx.AsyncClient) -> None:
    items: list[object] = [
        {"org": "fuzhou", "type": "Manhole", "name": f"井 {i}", "id": f"m-{i}", "synthetic": True} for i in range(300)
    ]
    items[7] = {"org": "fuzhou", "type": "Manhole", "name": "井", "id": "m 7"}
    items[8] = {"org": "xiamen", "type": "Manhole", "name": "井", "id": "m-8"}
    items[9] = "not an object"
    lines = (await lin.post("/devices/bulk", json={"items": items})).json()["items"]
    assert [line["line"] for line in lines] == list(range(1, 301))
    errors = {line["line"]: line["error"] for line in lines if "error" in line}
    assert {n: e["status"] for n, e in errors.items()} == {8: 400, 9: 403, 10: 400}
    assert errors[8]["field"] == "id"
    assert sum("token" in line for line in lines) == 297
    again = (await lin.post("/devices/bulk", json={"items": items})).json()["items"]
    assert not any("token" in line for line in again)
    assert [line.get("no") for line in again] == [line.get("no") for line in lines]
    count = (await lin.get("/devices", params={"type": "Manhole", "count": 1})).json()["count"]
    assert count == 297
    things = (await lin.get("/things", params={"type": "Manhole", "synthetic": 1, "count": 1})).json()
    assert things["count"] == 297


async def test_pages_cover_everything_once(lin: httpx.AsyncClient) -> None:
    seen: list[str] = []
    after = None
    while True:
        query = {"limit": 50, "type": "Manhole", **({"after": after} if after else {})}
        page = (await lin.get("/devices", params=query)).json()
        seen += [item["id"] for item in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 297
    assert (await lin.get("/devices", params={"after": "nonsense"})).status_code == 400


async def test_every_change_is_in_the_audit(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "audited")
    for step in ("token", "disable", "enable"):
        await lin.post(f"/devices/{made['id']}/{step}")
    await lin.delete(f"/devices/{made['id']}")
    query = sa.select(audit_log).where(audit_log.c.subject == made["id"]).order_by(audit_log.c.seq)
    rows = await estate.house.db.read(lambda c: c.execute(query).all())
    verbs = [row.action.rsplit(".", 1)[1] for row in rows]
    assert verbs == ["create", "write", "write", "write", "delete"]
    assert {row.actor for row in rows} == {"user:lin"}
    assert made["token"] not in "".join(row.detail for row in rows)


async def test_other_organisations_cannot_tell_that_a_device_exists(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    mine = await estate.device(lin, "fuzhou", "secret")
    absent = "fuzhou:no-such-device"
    calls = [
        ("GET", "/devices/{}"), ("DELETE", "/devices/{}"), ("POST", "/devices/{}/token"),
        ("POST", "/devices/{}/disable"), ("POST", "/devices/{}/enable"),
    ]
    for method, path in calls:
        there = await chen.request(method, path.format(mine["id"]))
        nowhere = await chen.request(method, path.format(absent))
        assert there.status_code == nowhere.status_code == 404
        assert there.text.replace(mine["id"], "?") == nowhere.text.replace(absent, "?")
    for query in ({"org": "fuzhou"}, {"q": "secret"}, {}):
        page = (await chen.get("/devices", params={**query, "count": 1, "limit": 1000})).json()
        assert not any(item["org"] == "fuzhou" for item in page["items"])
        assert page["count"] == len(page["items"])
    taken = await chen.post("/devices", json={"org": "fuzhou", "type": "Device", "name": "x", "id": "secret"})
    free = await chen.post("/devices", json={"org": "fuzhou", "type": "Device", "name": "x", "id": "not-taken"})
    assert taken.status_code == free.status_code == 403
    assert taken.text == free.text
    # The same key is free in one's own organisation, and means another device.
    own = await estate.device(chen, "xiamen", "secret")
    assert own["no"] != mine["no"]
    assert (await lin.get(f"/devices/{mine['id']}")).json()["status"] == "active"


async def test_a_viewer_sees_and_changes_nothing(estate: Estate, lin: httpx.AsyncClient, yang: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "seen")
    assert (await yang.get(f"/devices/{made['id']}")).status_code == 200
    for method, path in (("DELETE", ""), ("POST", "/token"), ("POST", "/disable")):
        assert (await yang.request(method, f"/devices/{made['id']}{path}")).status_code == 403
    assert (await lin.get(f"/devices/{made['id']}")).json()["status"] == "active"


async def test_nobody_without_credentials(estate: Estate) -> None:
    for path in ("/devices", "/things", "/map", "/overview", "/live", "/alarms", "/dead-letters", "/models"):
        assert (await estate.client().get(path)).status_code == 401, path
    assert (await estate.client().post("/no-such-token/telemetry", json={"a": 1})).status_code == 401


async def test_a_token_of_narrow_scope_creates_nothing(estate: Estate) -> None:
    actor = Actor(
        "token:x", "x", "fuzhou", "token", frozenset({Binding("fuzhou", "operator")}), frozenset({"access.*.read"})
    )
    with pytest.raises(Forbidden):
        await estate.house.service(Devices).create(actor, NewDevice(org="fuzhou", type="Device", name="x"))


async def test_token_guessing_is_throttled(estate: Estate) -> None:
    codes = [(await estate.client().post(f"/guess-{i}/telemetry", json={"a": 1})).status_code for i in range(40)]
    assert codes[0] == 401
    assert codes[-1] == 429
