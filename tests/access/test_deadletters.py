"""Dead letters: kept with their raw message, seen only by who may, replayed through the door they came in by."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import httpx
import msgpack
import pytest
import sqlalchemy as sa

from tests.access.conftest import Estate, eventually
from tulou.access import deadletters
from tulou.access.deadletters import dead_letters
from tulou.kernel.policy import Orgs
from tulou.kernel.sql import utcnow

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def found(client: httpx.AsyncClient, device: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """The letters of a device, newest first."""
    answer = await client.get("/dead-letters", params={"limit": 1000, **more})
    assert answer.status_code == 200, answer.text
    return [item for item in answer.json()["items"] if item["entity"] == device["no"]]


async def publish(estate: Estate, device: dict[str, Any], **letter: Any) -> None:
    await estate.house.bus.js.publish("tulou.dead.fuzhou", msgpack.packb({
        "entity": device["no"], "org": "fuzhou", "protocol": "mqtt", "topic": "telemetry",
        "ts": time.time_ns() // 1000, "raw": b"{}", "reason": "坏 (bad)", "field": None, **letter,
    }))


async def test_a_refused_message_is_kept_as_it_came_with_the_reason(
    estate: Estate, lin: httpx.AsyncClient, yang: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    device = await estate.device(lin, "fuzhou", "letters", type="WeatherStation")
    await estate.client().post(f"/{device['token']}/telemetry", json={"windSpeed": 20, "no-such-property": 1})

    async def there() -> Any:
        return await found(lin, device)

    (letter,) = await eventually(there)
    assert letter["raw"] == '{"windSpeed":20,"no-such-property":1}'
    assert (letter["encoding"], letter["org"], letter["replayed_at"]) == ("utf-8", "fuzhou", None)
    assert "no-such-property" in (letter["field"] or "") + letter["reason"]
    assert await found(yang, device) == [letter]
    assert await found(chen, device) == []
    refused = await chen.post("/dead-letters/replay", json={"ids": [letter["id"]]})
    assert [("ok" in line, line["error"]["status"]) for line in refused.json()["items"]] == [(False, 404)]


async def test_what_is_not_text_is_shown_as_base64_and_no_letter_stops_the_queue(
    estate: Estate, lin: httpx.AsyncClient
) -> None:
    device = await estate.device(lin, "fuzhou", "binary")
    await estate.house.bus.js.publish("tulou.dead.fuzhou", b"\xc1 not msgpack")
    await publish(estate, device, raw=b"\xff\x00")

    async def there() -> Any:
        return await found(lin, device)

    (letter,) = await eventually(there)
    assert (letter["raw"], letter["encoding"]) == ("/wA=", "base64")
    rows = await estate.house.db.read(
        lambda c: c.execute(sa.select(dead_letters).where(dead_letters.c.raw == b"\xc1 not msgpack")).all()
    )
    assert [(row.org, row.entity_no) for row in rows] == [("house", 0)]


async def test_replaying_stores_what_is_good_now_and_nothing_twice(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "replayed")
    received = time.time_ns() // 1000 - 5_000_000
    await publish(estate, device, raw=b'{"pm25": 33}', ts=received)

    async def there() -> Any:
        return await found(lin, device)

    (letter,) = await eventually(there)
    for _ in range(2):
        answer = await lin.post("/dead-letters/replay", json={"ids": [letter["id"], 10**9]})
        lines = {line["id"]: line for line in answer.json()["items"]}
        assert lines[letter["id"]].get("ok") is True, lines
        assert lines[10**9]["error"]["status"] == 404
    await estate.latest(lin, device, "pm25", 33)
    history = await estate.house.readings.history([device["no"]], None, None, None, orgs=Orgs(True, frozenset()))
    assert [(v.ts, v.value) for v in history[device["no"]]["pm25"]] == [(received, 33.0)]
    (letter,) = await found(lin, device)
    assert letter["replayed_at"] is not None


async def test_a_letter_of_an_unknown_topic_or_device_is_not_replayed(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "unknown")
    await publish(estate, device, topic="some/where")
    await publish(estate, {"no": 987_654_321})

    async def there() -> Any:
        items = (await lin.get("/dead-letters", params={"limit": 1000})).json()["items"]
        mine = [item["id"] for item in items if item["entity"] in (device["no"], 987_654_321)]
        return mine if len(mine) == 2 else None

    answer = await lin.post("/dead-letters/replay", json={"ids": await eventually(there)})
    assert sorted(line["error"]["status"] for line in answer.json()["items"]) == [404, 409]


async def test_letters_are_bounded_in_age_and_number(
    estate: Estate, lin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(*ages: int) -> list[dict[str, Any]]:
        return [
            {"stream_id": f"test-{age}", "at": utcnow() - dt.timedelta(days=age), "org": "fuzhou", "entity_no": 5,
             "protocol": "mqtt", "topic": "", "raw": b"", "reason": "", "field": ""}
            for age in ages
        ]

    async def ids() -> list[str]:
        query = sa.select(dead_letters.c.stream_id).where(dead_letters.c.stream_id.like("test-%"))
        return sorted(await estate.house.db.read(lambda c: c.scalars(query).all()))

    await estate.house.db.write(lambda c: deadletters._store(c, rows(40, 3, 2, 1), prune=True))
    assert await ids() == ["test-1", "test-2", "test-3"]
    await estate.house.db.write(lambda c: deadletters._store(c, rows(1), prune=False))
    assert await ids() == ["test-1", "test-2", "test-3"]
    monkeypatch.setattr(deadletters, "MOST", 2)
    await estate.house.db.write(lambda c: deadletters._store(c, [], prune=True))
    assert await ids() == ["test-1", "test-2"]
