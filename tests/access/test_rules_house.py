"""Rules in the house: declared over HTTP, evaluated on the stream, tested on history; the desk; who is told."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import psycopg
import pytest
import pytest_asyncio
import sqlalchemy as sa

from tests.access.conftest import ADMIN, Estate, eventually
from tests.access.receivers import HttpReceiver, SmtpReceiver
from tulou.access import Alarms
from tulou.access.models import alarms
from tulou.access.notify import Channels, alarm_outbox, signature
from tulou.access.rules.engine import Engine
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

BEGAN = datetime.now(UTC)


@dataclass
class Receivers:
    web: HttpReceiver
    sms: HttpReceiver
    mail: SmtpReceiver


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def receivers() -> AsyncIterator[Receivers]:
    made = Receivers(HttpReceiver(), HttpReceiver(), SmtpReceiver())
    servers = [await one.start() for one in (made.web, made.sms, made.mail)]
    yield made
    for server in servers:
        server.close()


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
async def estate(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, receivers: Receivers
) -> AsyncIterator[Estate]:
    """A house without a gateway that may speak to the receivers, on SQLite and on PostgreSQL."""
    database = ""
    if request.param == "postgresql":
        address: str = request.getfixturevalue("postgres_url")
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("CREATE DATABASE rules_house")
        database = address.rsplit("/", 1)[0] + "/rules_house"
    for receiver in (receivers.web.got, receivers.sms.got, receivers.mail.letters):
        receiver.clear()
    receivers.web.refused = 0
    house = House(Settings(
        database_url=database,
        home=tmp_path_factory.mktemp("rules") / "home", http_port=free_port(), mqtt_port=0, outbound_allow="127.0.0.1",
        smtp_host="127.0.0.1", smtp_port=receivers.mail.port, smtp_security="none", smtp_from="house@example.org",
        sms_url=f"http://127.0.0.1:{receivers.sms.port}/send", sms_authorization="Bearer key",
        sms_body='{"phone": "{to}", "content": "{text}"}',
    ))
    await house.start(("api", "writer", "rules", "worker"))
    made = Estate(house)
    yield made
    for client in made.clients:
        await client.aclose()
    await house.stop()


def rule(condition: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"org": "fuzhou", "name": "规则", "type": "AirQualityStation", "condition": condition} | more


async def make(estate: Estate, client: httpx.AsyncClient, condition: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A new rule, followed by now."""
    answer = await client.post("/rules", json=rule(condition, **more))
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    await followed(estate, made)
    return made


async def followed(estate: Estate, made: dict[str, Any]) -> None:
    about = made["condition"].get("property", "")
    identity = (made["type"], about, made["key"], made["version"])

    async def is_followed() -> bool:
        return estate.house.service(Engine).evaluator.rule(identity) is not None

    await eventually(is_followed)


async def alarms_of(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get("/alarms", params={**query, "limit": 200})
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def some(client: httpx.AsyncClient, many: int = 1, **query: Any) -> list[dict[str, Any]]:
    async def there() -> Any:
        found = await alarms_of(client, **query)
        return found if len(found) >= many else None

    found: list[dict[str, Any]] = await eventually(there)
    return found


@pytest.mark.asyncio(loop_scope="module")
async def test_a_spike_between_good_values_raises_and_clears(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "spike", type="Manhole")
    now = int(time.time() * 1000)
    story = [{"ts": now - 3000 + i * 1000, "values": {"tilt": v}} for i, v in enumerate((1, 90, 1))]
    answer = await estate.client().post(f"/{made['token']}/telemetry", json=story)
    assert answer.status_code == 200
    (found,) = await some(lin, no=made["no"], state="cleared")
    assert (found["rule"], found["value"]) == ("above", 90.0)
    assert datetime.fromisoformat(found["raised_at"]).timestamp() == pytest.approx(now / 1000 - 2)
    assert datetime.fromisoformat(found["cleared_at"]).timestamp() == pytest.approx(now / 1000 - 1)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_rule_belongs_to_its_organisation(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient
) -> None:
    bound = {"kind": "threshold", "property": "temperature", "above": 40}
    made = await make(estate, lin, bound, name="热", severity="minor")
    assert (made["key"], made["version"], made["enabled"]) == (f"rule-{made['id']}", 1, True)
    ours, theirs = await estate.device(lin, "fuzhou", "hot-1"), await estate.device(chen, "xiamen", "hot-2")
    await estate.say(theirs, temperature=50)
    await estate.say(ours, temperature=50)
    (found,) = await some(lin, rule=made["key"])
    assert (found["no"], found["title"], found["property"], found["severity"]) == (ours["no"], "热", "temperature", "minor")
    assert await alarms_of(chen, no=theirs["no"]) == []

    path = f"/rules/{made['id']}"
    for method, body in (("GET", None), ("PUT", rule(bound)), ("DELETE", None)):
        mine, absent = await chen.request(method, path, json=body), await chen.request(method, "/rules/999999", json=body)
        assert mine.status_code == absent.status_code == 404
        assert mine.text.replace(str(made["id"]), "?") == absent.text.replace("999999", "?")
    assert (await chen.get("/rules")).json()["items"] == []
    assert (await chen.post("/rules", json=rule(bound))).status_code == 403
    assert (await yang.get(path)).status_code == 200
    for answer in (await yang.put(path, json=rule(bound)), await yang.delete(path), await yang.post("/rules", json=rule(bound))):
        assert answer.status_code == 403


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("body", "field"), [
    (rule({"kind": "threshold", "property": "nothing", "above": 1}, type="WeatherStation"), "condition"),
    (rule({"kind": "threshold", "property": "pm25"}), "condition.threshold"),
    (rule({"kind": "expression", "raise_if": "windSpeed > 1 and nothing > 2"}, type="WeatherStation"), "condition"),
    (rule({"kind": "expression", "raise_if": "__import__('os')"}), "condition.expression.raise_if"),
    (rule({"kind": "threshold", "property": "pm25", "above": 1}, type="Nothing"), "type"),
    (rule({"kind": "threshold", "property": "pm25", "above": 1}, entities=["urn:ngsi-ld:T:1"]), "entities"),
    (rule({"kind": "threshold", "property": "pm25", "above": 1}, escalate_s=1), "escalate_s"),
])
async def test_a_rule_that_cannot_be_evaluated_is_refused(
    lin: httpx.AsyncClient, body: dict[str, Any], field: str
) -> None:
    answer = await lin.post("/rules", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["field"] == field


@pytest.mark.asyncio(loop_scope="module")
async def test_another_version_begins_anew_and_a_deleted_rule_clears(estate: Estate, lin: httpx.AsyncClient) -> None:
    device, other = await estate.device(lin, "fuzhou", "anew-1"), await estate.device(lin, "fuzhou", "anew-2")
    made = await make(estate, lin, {"kind": "threshold", "property": "so2", "above": 500}, entities=[device["entity_id"]])
    await estate.say(other, so2=600)
    await estate.say(device, so2=600)
    (first,) = await some(lin, rule=made["key"], state="open")
    assert first["no"] == device["no"]
    changed = await lin.put(f"/rules/{made['id']}", json=rule({"kind": "threshold", "property": "so2", "above": 700}))
    assert changed.json()["version"] == 2
    await followed(estate, changed.json())
    await some(lin, rule=made["key"], state="cleared")
    assert (await lin.get(f"/alarms/{first['id']}")).json()["history"][-1]["action"] == "cleared"
    await estate.say(other, so2=800)
    (second,) = await some(lin, rule=made["key"], state="open")
    assert second["no"] == other["no"]
    assert (await lin.delete(f"/rules/{made['id']}")).status_code == 204
    await some(lin, 2, rule=made["key"], state="cleared")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_test_on_history_gives_what_the_stream_gave(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "past")
    made = await make(estate, lin, {"kind": "expression", "raise_if": "no2 > 10 and o3 > no2 * 2", "for_s": 2})
    now = int(time.time() * 1000) - 60_000
    for step, (no2, o3) in enumerate(((5, 50), (20, 50), (20, 60), (20, 61), (20, 30), (30, 90), (1, 90), (30, 90))):
        answer = await estate.client().post(
            f"/{device['token']}/telemetry", json={"ts": now + step * 1000, "values": {"no2": no2, "o3": o3}}
        )
        assert answer.status_code == 200
    await some(lin, 2, rule=made["key"])
    await some(lin, 1, rule=made["key"], state="open")
    await estate.latest(lin, device, "no2", 30.0)
    times = {"start": BEGAN.isoformat(), "end": (datetime.now(UTC) + timedelta(minutes=1)).isoformat()}
    times["start"] = (BEGAN - timedelta(minutes=5)).isoformat()
    answer = await lin.post(f"/rules/{made['id']}/test", json=times)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["readings"] == 16
    real = await alarms_of(lin, rule=made["key"])
    expected = sorted([a["raised_at"] for a in real] + [a["cleared_at"] for a in real if a["cleared_at"]])
    assert sorted(_iso(c["at"]) for c in told["changes"]) == expected
    assert told["raised"] == len(real)
    assert len(await alarms_of(lin, rule=made["key"])) == len(real)
    tried = await lin.post("/rules/test", json={**times, "rule": rule({"kind": "threshold", "property": "no2", "above": 25})})
    assert (tried.json()["raised"], tried.json()["cleared"]) == (2, 1)
    backwards = await lin.post(f"/rules/{made['id']}/test", json={"start": times["end"], "end": times["start"]})
    assert backwards.status_code == 400


def _iso(micros: int) -> str:
    shown: str = orjson.loads(orjson.dumps(datetime.fromtimestamp(micros / 1e6, UTC), option=orjson.OPT_UTC_Z))
    return shown


@pytest.mark.asyncio(loop_scope="module")
async def test_absence_of_one_property_is_an_alarm(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "mute")
    made = await make(estate, lin, {"kind": "absence", "property": "co", "after_s": 1}, entities=[device["entity_id"]])
    await estate.say(device, co=1)
    (found,) = await some(lin, rule=made["key"], state="open")
    assert (found["property"], found["value"]) == ("co", None)
    await estate.say(device, co=2)
    await some(lin, rule=made["key"], state="cleared")
    assert (await lin.delete(f"/rules/{made['id']}")).status_code == 204


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_done_at_the_desk(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient
) -> None:
    made = [await estate.device(lin, "fuzhou", f"desk-{n}") for n in range(3)]
    watch = await make(estate, lin, {"kind": "threshold", "property": "pm10", "above": 300}, name="扬尘", severity="minor", escalate_s=60)
    for device in made:
        await estate.say(device, pm10=400)
    found = await some(lin, 3, rule=watch["key"], state="open")
    assert len({a["group_id"] for a in found}) == 1
    (root,) = await alarms_of(lin, rule=watch["key"], grouped=1)
    assert (root["id"], root["group_size"]) == (root["group_id"], 3)
    assert len(await alarms_of(lin, group=root["id"])) == 3

    path = f"/alarms/{root['id']}"
    assert (await lin.post(f"{path}/assign", json={"to": "user:chen"})).json()["field"] == "to"
    assert (await lin.post(f"{path}/assign", json={"to": "user:nobody"})).status_code == 400
    assert (await lin.post(f"{path}/assign", json={"to": "user:yang"})).json()["assigned_to"] == "user:yang"
    assert [a["id"] for a in await alarms_of(yang, assigned="user:yang")] == [root["id"]]
    assert (await lin.post(f"{path}/comment", json={"text": "已派车"})).status_code == 200
    until = datetime.now(UTC) + timedelta(hours=1)
    assert (await lin.post(f"{path}/silence", json={"until": (until - timedelta(days=1)).isoformat()})).status_code == 400
    assert (await lin.post(f"{path}/silence", json={"until": until.isoformat()})).json()["silenced_until"]
    for action, body in (("assign", {"to": None}), ("comment", {"text": "x"}), ("silence", {}), ("clear", {}), ("acknowledge", {})):
        assert (await chen.post(f"{path}/{action}", json=body)).status_code == 404
        assert (await yang.post(f"{path}/{action}", json=body)).status_code == 403

    service, db = estate.house.service(Alarms), estate.house.db
    late = alarms.update().where(alarms.c.group_id == root["id"]).values(escalate_at=datetime.now(UTC) - timedelta(seconds=1))
    await db.write(lambda c: c.execute(late) and None)
    await lin.post(f"/alarms/{found[0]['id']}/acknowledge")
    await service.escalate()
    severities = {a["id"]: a["severity"] for a in await alarms_of(lin, group=root["id"])}
    silent = root["id"]
    assert severities == {silent: "minor", found[1]["id"]: "major", found[0]["id"]: "minor"}

    cleared = await lin.post(f"{path}/clear")
    assert cleared.json()["cleared_by"] == "user:lin"
    assert (await lin.post(f"{path}/clear")).status_code == 409
    whole = (await yang.get(path)).json()
    assert [(h["action"], h["actor"]) for h in whole["history"]] == [
        ("assigned", "user:lin"), ("commented", "user:lin"), ("silenced", "user:lin"), ("cleared", "user:lin")
    ]
    device = next(d for d in made if d["no"] == root["no"])
    await estate.say(device, pm10=450)
    await estate.say(device, pm10=100)
    await estate.say(device, pm10=500)  # was over in between: raised anew, and silent as the one before
    again = await some(lin, 2, rule=watch["key"], no=root["no"])
    assert (again[0]["silenced_until"], again[0]["cleared_at"]) == (cleared.json()["silenced_until"], None)


@pytest.mark.asyncio(loop_scope="module")
async def test_people_are_told_by_webhook_mail_and_short_message(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient, receivers: Receivers
) -> None:
    def channel(address: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"org": "fuzhou", "name": "值班", "address": address, "types": ["NoiseStation"], **more}

    web = {"kind": "webhook", "url": f"http://127.0.0.1:{receivers.web.port}/hook"}
    hook = (await lin.post("/alarm-channels", json=channel(web))).json()
    mail = {"kind": "email", "to": ["a@example.org", "b@example.org"]}
    assert (await lin.post("/alarm-channels", json=channel(mail, least="major"))).status_code == 201
    assert (await lin.post("/alarm-channels", json=channel({"kind": "sms", "to": ["13800000000"]}))).status_code == 201
    for bad in (
        {"kind": "webhook", "url": "http://169.254.169.254/"}, {"kind": "email", "to": ["a@b\r\nBcc: c@d"]},
        {"kind": "sms", "to": ["1; drop"]}, {"kind": "email", "to": []},
    ):
        assert (await lin.post("/alarm-channels", json=channel(bad))).status_code == 400
    assert (await yang.post("/alarm-channels", json=channel(web))).status_code == 403
    assert (await chen.delete(f"/alarm-channels/{hook['id']}")).status_code == 404
    assert (await chen.get("/alarm-channels")).json()["items"] == []
    shown = (await yang.get("/alarm-channels")).json()["items"]
    assert len(shown) == 3
    assert hook["secret"] not in str(shown)

    receivers.web.answers += [500, 503]
    made = await make(estate, lin, {"kind": "threshold", "property": "LAmax", "above": 100}, type="NoiseStation", name="噪声", severity="minor")
    device = await estate.device(lin, "fuzhou", "loud", type="NoiseStation")
    await estate.say(device, LAmax=120)
    (raised,) = await some(lin, rule=made["key"])

    async def told() -> bool:
        return bool(receivers.web.got and receivers.sms.got)

    await eventually(told)
    headers, body = receivers.web.got[0]
    assert headers["tulou-signature"] == signature(hook["secret"], headers["tulou-timestamp"], body)
    assert abs(int(headers["tulou-timestamp"]) - time.time()) < 60
    document = orjson.loads(body)
    assert (document["event"], document["alarm"]["id"], document["alarm"]["title"]) == ("raised", raised["id"], "噪声")
    assert receivers.web.refused == 2
    headers, body = receivers.sms.got[0]
    assert headers["authorization"] == "Bearer key"
    assert orjson.loads(body)["phone"] == "13800000000"
    assert "噪声" in orjson.loads(body)["content"]
    assert not receivers.mail.letters  # minor is less than major

    late = alarms.update().where(alarms.c.id == raised["id"]).values(
        escalate_s=60, escalate_at=datetime.now(UTC) - timedelta(seconds=1)
    )
    await estate.house.db.write(lambda c: c.execute(late) and None)

    async def mailed() -> bool:
        return bool(receivers.mail.letters)

    await eventually(mailed)
    to, letter = receivers.mail.letters[0]
    assert to == ["a@example.org", "b@example.org"]
    assert "告警升级" in letter["Subject"]
    assert "噪声" in letter.get_content()
    assert len((await chen.get("/alarm-channels")).json()["items"]) == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_what_was_taken_and_not_sent_is_sent_after_a_crash(
    estate: Estate, lin: httpx.AsyncClient, receivers: Receivers
) -> None:
    """A process takes a notification, and ends before it has sent it: another sends it when the lease is over."""
    from tulou.access.notify import _take

    db = estate.house.db
    (hook,) = [c for c in (await lin.get("/alarm-channels")).json()["items"] if c["address"]["kind"] == "webhook"]
    (alarm,) = await db.read(lambda c: c.execute(sa.select(alarms).order_by(alarms.c.id.desc()).limit(1)).all())
    later = datetime.now(UTC) + timedelta(hours=1)
    entry = {"channel_id": hook["id"], "alarm_id": alarm.id, "event": "cleared", "created_at": later, "due_at": later}
    number = await db.write(lambda c: c.execute(alarm_outbox.insert().values(**entry)).inserted_primary_key[0])
    ready = alarm_outbox.update().where(alarm_outbox.c.id == number)

    def take(connection: sa.Connection) -> list[int]:
        connection.execute(ready.values(due_at=datetime.now(UTC)))
        return [item.id for item, _ in _take(connection, hook["id"])[1]]

    assert await db.write(take) == [number]
    assert await db.write(lambda c: _take(c, hook["id"])[1]) == []
    before = len(receivers.web.got)
    await db.write(lambda c: c.execute(ready.values(due_at=datetime.now(UTC))) and None)  # the lease is over

    async def told() -> bool:
        return len(receivers.web.got) > before

    await eventually(told)
    assert receivers.web.got[-1][0]["tulou-delivery"] == str(number)

    async def nothing_waits() -> bool:
        found = await estate.house.service(Channels).find(ADMIN)
        return all(c["waiting"] == 0 for c in found["items"] if c["id"] == hook["id"])

    await eventually(nothing_waits)  # the row goes when the receiver has answered
