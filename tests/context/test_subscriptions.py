"""Subscriptions (CIM 009 v1.9.1, 5.8): what notifies, and that no notification is lost or sent out of order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from tulou.context import Subscriptions
from tulou.context.delivery import QUEUE
from tulou.kernel.house import House

from .conftest import execute


class Receiver:
    """An HTTP server that keeps what it is sent; `refuse` of the next requests are answered with 503."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[bytes] = []
        self.refuse = 0
        self.arrived = asyncio.Event()
        self.uri = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                body = await reader.readexactly(length)
                if self.refuse:
                    self.refuse -= 1
                    status = b"503 Service Unavailable"
                else:
                    status = b"200 OK"
                    self.headers.append(head)
                    self.bodies.append(orjson.loads(body))
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                self.arrived.set()
        except asyncio.IncompleteReadError:
            writer.close()

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.bodies) < count:
                self.arrived.clear()
                await self.arrived.wait()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/notify"
    yield made
    server.close()


@pytest.fixture
async def worker(ground: House) -> AsyncIterator[None]:
    """The delivering task, running."""
    task = asyncio.create_task(ground.service(Subscriptions).deliver(ground))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def subscription(uri: str, **more: Any) -> dict[str, Any]:
    notification = {"endpoint": {"uri": uri}, **more.pop("notification", {})}
    return {"type": "Subscription", "entities": [{"type": "T"}], "notification": notification, **more}


def waiting(house: House) -> int:
    return int(execute(house, "SELECT count(*) FROM notification_outbox")[0][0])


async def test_what_notifies(api: httpx.AsyncClient, ground: House) -> None:
    cases: list[tuple[dict[str, Any], list[int]]] = [
        # notifications after: create, change of a, change of b, add c, delete c, delete the entity
        ({}, [1, 1, 1, 1, 0, 0]),
        ({"watchedAttributes": ["a"]}, [1, 1, 0, 0, 0, 0]),
        ({"q": "a>5"}, [0, 1, 1, 1, 0, 0]),
        ({"notificationTrigger": ["entityCreated"]}, [1, 0, 0, 0, 0, 0]),
        ({"notificationTrigger": ["entityUpdated"]}, [0, 1, 1, 1, 1, 0]),
        ({"notificationTrigger": ["entityDeleted", "attributeDeleted"]}, [0, 0, 0, 0, 1, 1]),
        ({"entities": [{"type": "Other"}]}, [0] * 6), ({"entities": [{"type": "T", "idPattern": "nothing"}]}, [0] * 6),
        ({"isActive": False}, [0] * 6), ({"throttling": 3600}, [1, 0, 0, 0, 0, 0]),
        ({"geoQ": {"georel": "near;maxDistance==10", "geometry": "Point", "coordinates": [0, 0]}}, [0] * 6),
        ({"notification": {"attributes": ["c"]}}, [0, 0, 0, 1, 0, 0]),
    ]
    for more, expected in cases:
        made = await api.post("/subscriptions", json=subscription("http://127.0.0.1:9/x", **{k: dict(v) if isinstance(v, dict) else v for k, v in more.items()}))
        assert made.status_code == 201, made.text
        counts = []
        for method, url, body in (
            ("POST", "/entities", {"id": "urn:x:1", "type": "T", "a": 1, "b": 1}), ("PATCH", "/entities/urn:x:1", {"a": 9}),
            ("PATCH", "/entities/urn:x:1/attrs", {"b": 2}), ("POST", "/entities/urn:x:1/attrs", {"c": 1}),
            ("DELETE", "/entities/urn:x:1/attrs/c", None), ("DELETE", "/entities/urn:x:1", None),
        ):
            before = waiting(ground)
            assert (await api.request(method, url, json=body)).is_success
            counts.append(waiting(ground) - before)
        assert counts == expected, more
        assert (await api.delete(made.headers["location"].replace("/ngsi-ld/v1", ""))).status_code == 204
        assert waiting(ground) == 0  # with the subscription goes what it had still to deliver


async def test_delivery(api: httpx.AsyncClient, receiver: Receiver, worker: None) -> None:
    made = await api.post("/subscriptions", json=subscription(receiver.uri, notification={
        "format": "keyValues", "attributes": ["a"],
        "endpoint": {"uri": receiver.uri, "accept": "application/ld+json", "receiverInfo": [{"key": "X-Key", "value": "secret"}]}}))
    await api.post("/entities", json={"id": "urn:x:1", "type": "T", "a": 1, "b": 2})
    await receiver.wait(1)
    body = receiver.bodies[0]
    assert body["type"] == "Notification"
    assert body["subscriptionId"] == made.headers["location"].rpartition("/")[2]
    # 6.3.8: as JSON-LD every entity is a document of its own, with its @context
    assert body["data"] == [{"id": "urn:x:1", "type": "T", "a": 1, "@context": body["@context"]}]
    assert body["@context"].endswith("/ngsi-ld/contexts/tulou.jsonld")
    assert b"ngsild-tenant: xiamen" in receiver.headers[0].lower()
    assert b"x-key: secret" in receiver.headers[0].lower()
    async with asyncio.timeout(10):
        while True:
            shown = (await api.get(made.headers["location"].replace("/ngsi-ld/v1", ""))).json()
            if shown["notification"].get("timesSent"):
                break
            await asyncio.sleep(0.05)
    assert shown["status"] == "active"
    assert shown["notification"]["status"] == "ok"


async def test_a_failing_receiver_gets_everything_in_order_later(api: httpx.AsyncClient, receiver: Receiver, worker: None) -> None:
    receiver.refuse = 2
    await api.post("/subscriptions", json=subscription(receiver.uri))
    for n in range(5):
        await api.post("/entityOperations/upsert", json=[{"id": "urn:x:1", "type": "T", "a": n}])
    await receiver.wait(5)
    assert [body["data"][0]["a"]["value"] for body in receiver.bodies] == [0, 1, 2, 3, 4]


async def test_the_outbox_survives_the_worker(api: httpx.AsyncClient, receiver: Receiver, ground: House) -> None:
    await api.post("/subscriptions", json=subscription(receiver.uri))
    await api.post("/entities", json={"id": "urn:x:1", "type": "T", "a": 1})
    assert waiting(ground) == 1
    again = Subscriptions(ground)  # as a process that starts later
    again.attach(ground.service(Subscriptions).entities)
    task = asyncio.create_task(again.deliver(ground))
    await receiver.wait(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_refused_change_notifies_nobody(api: httpx.AsyncClient, ground: House) -> None:
    await api.post("/subscriptions", json=subscription("http://127.0.0.1:9/x"))
    await api.post("/entities", json={"id": "urn:x:1", "type": "T", "a": 1})
    before = waiting(ground)
    assert (await api.post("/entities", json={"id": "urn:x:1", "type": "T", "a": 1})).status_code == 409
    assert (await api.patch("/entities/urn:x:1", json={"a": {"object": "urn:x:2"}})).status_code == 400
    assert waiting(ground) == before


async def test_giving_up_is_bounded_and_counted(api: httpx.AsyncClient, ground: House, receiver: Receiver) -> None:
    """What cannot be delivered is given up when it is older than `notification_hours`, or one of more than `QUEUE`."""
    made = await api.post("/subscriptions", json=subscription(receiver.uri))
    for n in range(3):
        await api.post("/entityOperations/upsert", json=[{"id": "urn:x:1", "type": "T", "a": n}])
    delivery = ground.service(Subscriptions).delivery
    with ground.db.engine.begin() as connection:  # a receiver that is away for an hour, or for ten, misses nothing
        connection.exec_driver_sql("UPDATE notification_outbox SET created_at=created_at-36000000000")
    await delivery.bound()
    assert waiting(ground) == 3
    with ground.db.engine.begin() as connection:
        day = ground.settings.notification_hours * 3_600_000_000
        connection.exec_driver_sql(
            f"UPDATE notification_outbox SET created_at=created_at-{day} WHERE no=(SELECT min(no) FROM notification_outbox)"
        )
    await delivery.bound()
    assert waiting(ground) == 2
    with ground.db.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO notification_outbox (subscription,body,created_at) "
            f"SELECT o.subscription,o.body,o.created_at FROM notification_outbox o, ({numbers(QUEUE // 2)}) n"
        )
    assert waiting(ground) == QUEUE + 2
    await delivery.bound()
    assert waiting(ground) == QUEUE
    shown = (await api.get(made.headers["location"].replace("/ngsi-ld/v1", ""))).json()["notification"]
    assert (shown["timesFailed"], shown["status"]) == (3, "failed")
    assert "more than 10000 waiting" in shown["lastFailureReason"]


def numbers(count: int) -> str:
    """SQL of `count` rows, on both stores."""
    return f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{count}) SELECT i FROM n"


async def test_reading_and_changing_subscriptions(api: httpx.AsyncClient) -> None:
    made = await api.post("/subscriptions", json={"id": "urn:s:1", **subscription("http://127.0.0.1:9/x", description="d")})
    assert made.status_code == 201
    assert (await api.post("/subscriptions", json={"id": "urn:s:1", **subscription("http://127.0.0.1:9/x")})).status_code == 409
    assert (await api.patch("/subscriptions/urn:s:1", json={"isActive": False, "description": "urn:ngsi-ld:null"})).status_code == 204
    shown = (await api.get("/subscriptions/urn:s:1")).json()
    assert shown["status"] == "paused"
    assert "description" not in shown
    for n in range(2, 6):
        await api.post("/subscriptions", json={"id": f"urn:s:{n}", **subscription("http://127.0.0.1:9/x")})
    page = await api.get("/subscriptions?limit=3&count=true")
    assert (len(page.json()), page.headers["ngsild-results-count"]) == (3, "5")
    assert page.links["next"]["url"] == "/ngsi-ld/v1/subscriptions?limit=3&offset=3&count=true"
    rest = await api.get("http://tulou.test" + page.links["next"]["url"])
    assert len(rest.json()) == 2
    assert rest.links["prev"]["url"] == "/ngsi-ld/v1/subscriptions?limit=3&offset=0&count=true"
    assert (await api.delete("/subscriptions/urn:s:1")).status_code == 204
    assert (await api.get("/subscriptions/urn:s:1")).status_code == 404
    base = subscription("http://127.0.0.1:9/x")
    for bad in (
        {}, [], {**base, "type": "X"}, {**base, "entities": []}, {**base, "entities": [{}]}, {**base, "q": "a=="}, {**base, "throttling": -1},
        {**base, "expiresAt": "2000-01-01T00:00:00Z"}, {**base, "nonsense": 1}, {**base, "notification": {}}, {**base, "geoQ": {"georel": "x"}},
        subscription("file:///etc/passwd"), subscription("http://user:pw@e.org/"), subscription("x"), {**base, "watchedAttributes": []},
        {**base, "notificationTrigger": [{}]}, {**base, "entities": [{"type": "T", "idPattern": "("}]}, {**base, "timeInterval": 5, "throttling": 5},
        subscription("http://e.org/", notification={"endpoint": {"uri": "http://e.org/", "receiverInfo": [{"key": "a\r\nb", "value": "x"}]}}),
        subscription("http://e.org/", notification={"endpoint": {"uri": "http://e.org/", "notifierInfo": [{"key": "a", "value": 1}]}}),
        subscription("http://e.org/", notification={"showChanges": True, "format": "keyValues"}),  # 5.2.14
        subscription("http://e.org/", notification={"pick": ["a"], "omit": ["a"]}), subscription("http://e.org/", notification={"pick": ["a"], "attributes": ["b"]}),
        subscription("http://e.org/", notification={"nonsense": 1}), subscription("http://e.org/", notification={"join": "x"}),
        subscription("http://e.org/", notification={"join": "flat", "joinLevel": 99}), {**base, "csf": "(("}, {**base, "datasetId": [1]},
        subscription("mqtt://e.org"), subscription("mqtt://e.org/a/#"), subscription("ws://e.org/"),
        subscription("mqtt://e.org/a", notification={"endpoint": {"uri": "mqtt://e.org/a", "notifierInfo": [{"key": "MQTT-QoS", "value": "3"}]}}),
        subscription("http://169.254.169.254/latest"), subscription("http://[::1]:9/"), subscription("mqtt://[::1]/t"),
    ):
        answer = await api.post("/subscriptions", json=bad)
        assert answer.status_code == 400, bad
