"""Subscriptions at context sources (CIM 009 v1.9.1, 5.8.1.4, 5.8.2.4, 5.8.5.4, 5.8.6), over real HTTP between two real houses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tulou.context import Subscriptions
from tulou.context.remote_subscriptions import NOTIFIED, RemoteSubscriptions

from .conftest import execute
from .test_distribution import V1, World, vehicle, world  # noqa: F401  fixture
from .test_subscriptions import Receiver, receiver  # noqa: F401  fixture


@pytest.fixture
async def running(world: World) -> AsyncIterator[World]:  # noqa: F811
    """The two houses with their workers; the near one knows its own address."""
    near_url = str(world.near.base_url).partition("/ngsi-ld")[0]
    near, far = world.door.house, world.far_door.house
    tasks = []
    for house, url in ((near, near_url), (far, world.far_url)):
        subscriptions = house.service(Subscriptions)
        subscriptions.address = lambda path, url=url: url + path  # type: ignore[method-assign,misc]
        tasks += [
            asyncio.create_task(subscriptions.deliver(house)), asyncio.create_task(house.service(RemoteSubscriptions).run(house)),
        ]
    yield world
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def asking(receiver: Receiver, **more: Any) -> dict[str, Any]:  # noqa: F811
    notification = {"endpoint": {"uri": receiver.uri}, **more.pop("notification", {})}
    return {"type": "Subscription", "entities": [{"type": "Vehicle"}], "notification": notification, **more}


async def subscribe(world: World, receiver: Receiver, **more: Any) -> str:  # noqa: F811
    made = await world.near.post("/subscriptions", json=asking(receiver, **more))
    assert made.status_code == 201, made.text
    return made.headers["location"].rpartition("/")[2]


async def until(condition: Any) -> Any:
    async with asyncio.timeout(20):
        while True:
            found = condition()
            found = await found if asyncio.iscoroutine(found) else found
            if found:
                return found
            await asyncio.sleep(0.02)


async def copies(world: World) -> list[dict[str, Any]]:  # noqa: F811
    """What the far house holds."""
    return (await world.far.get("/subscriptions")).json()  # type: ignore[no-any-return]


async def agreed(world: World, count: int = 1) -> list[dict[str, Any]]:  # noqa: F811
    """The copies, once there are so many and the near house knows that they were accepted."""
    async def both() -> list[dict[str, Any]] | None:
        rows = execute(world.door.house, "SELECT count(*) FROM remote_subscriptions WHERE sent IS NOT NULL AND gone_at IS NULL")
        every = execute(world.door.house, "SELECT count(*) FROM remote_subscriptions")
        found = await copies(world)
        return [found] if rows[0][0] == every[0][0] == len(found) == count else None  # type: ignore[list-item]

    return (await until(both))[0]  # type: ignore[no-any-return]


async def settled(receiver: Receiver, count: int) -> list[dict[str, Any]]:  # noqa: F811
    """The notifications, once so many have come and none more in a moment."""
    await receiver.wait(count)
    await asyncio.sleep(0.3)
    assert len(receiver.bodies) == count, receiver.bodies
    return receiver.bodies


async def test_a_subscriber_hears_of_what_a_source_holds(running: World, receiver: Receiver) -> None:  # noqa: F811
    """5.8.1.4: 'forwarded to the Context Source as a new Subscription where the notification endpoint is set to that of the
    local Broker'; 5.8.6: 'using this local Subscription identifier instead of the subscriptionId received'."""
    await running.register()
    id = await subscribe(running, receiver, q="speed>10", notification={"attributes": ["speed"]})
    copy, = await agreed(running)
    assert copy["notification"]["endpoint"]["uri"].endswith(NOTIFIED)
    assert receiver.uri not in str(copy)
    assert "attributes" not in copy["notification"]
    assert copy["q"] == "speed>10"
    await running.far.post("/entities", json=vehicle(speed=50, colour="red"))
    await running.far.post("/entities", json=vehicle("urn:ngsi-ld:Vehicle:2", speed=5))
    await running.far.post("/entities", json={"id": "urn:ngsi-ld:Bus:1", "type": "Bus", "speed": {"type": "Property", "value": 99}})
    body, = await settled(receiver, 1)
    assert body["subscriptionId"] == id
    assert body["data"] == [{"id": V1, "type": "Vehicle", "speed": {"type": "Property", "value": 50}}]
    # 5.8.2.4: the change of the subscription reaches the source
    assert (await running.near.patch(f"/subscriptions/{id}", json={"q": "speed>100", "notification": {
        "format": "keyValues", "endpoint": {"uri": receiver.uri}}})).status_code == 204
    await until(lambda: _accepted_q(running) == "speed>100")
    await running.far.patch(f"/entities/{V1}/attrs", json={"speed": 60})
    await running.far.patch(f"/entities/{V1}/attrs", json={"speed": 150})
    assert (await settled(receiver, 2))[1]["data"] == [{"id": V1, "type": "Vehicle", "speed": 150, "colour": "red"}]
    # paused, it is not held at the source; deleted, neither
    await running.near.patch(f"/subscriptions/{id}", json={"isActive": False})
    await agreed(running, 0)
    await running.near.patch(f"/subscriptions/{id}", json={"isActive": True})
    await agreed(running, 1)
    assert (await running.near.delete(f"/subscriptions/{id}")).status_code == 204
    await agreed(running, 0)
    await running.far.patch(f"/entities/{V1}/attrs", json={"speed": 777})
    await settled(receiver, 2)


def _accepted_q(world: World) -> Any:  # noqa: F811
    """The `q` that the far house has answered for: its row changes before what it matches by does."""
    (sent,), = execute(world.door.house, "SELECT sent FROM remote_subscriptions")
    return (json.loads(sent) if isinstance(sent, str) else sent)["q"]


async def test_registrations_that_come_change_and_go(running: World, receiver: Receiver) -> None:  # noqa: F811
    """5.8.1.4, 5.3.3: newlyMatching, updated and noLongerMatching; the copy is 'reduced to what is matched by the
    registration information'."""
    await subscribe(running, receiver)
    assert await copies(running) == []
    registered = await running.register(information=[{"entities": [{"type": "Vehicle"}], "propertyNames": ["speed"]}])
    copy, = await agreed(running)
    assert copy["watchedAttributes"] == ["speed"]
    await running.far.post("/entities", json=vehicle(speed=1, colour="red"))
    assert (await settled(receiver, 1))[0]["data"] == [{"id": V1, "type": "Vehicle", "speed": {"type": "Property", "value": 1}}], (
        "a source is believed only about what it is registered for"
    )
    await running.far.patch(f"/entities/{V1}/attrs", json={"colour": "blue"})
    await settled(receiver, 1)
    changed = await running.near.patch(f"/csourceRegistrations/{registered}", json={
        "information": [{"entities": [{"type": "Vehicle"}], "propertyNames": ["colour"]}]})
    assert changed.status_code == 204, changed.text

    async def moved() -> bool:
        found = await copies(running)
        return len(found) == 1 and found[0]["watchedAttributes"] == ["colour"]

    await until(moved)
    await agreed(running)
    await running.far.patch(f"/entities/{V1}/attrs", json={"colour": "green"})
    assert (await settled(receiver, 2))[1]["data"][0]["colour"]["value"] == "green"
    await running.near.delete(f"/csourceRegistrations/{registered}")
    await agreed(running, 0)
    await running.near.post("/entities", json=vehicle("urn:ngsi-ld:Vehicle:9", speed=3))
    assert (await settled(receiver, 3))[2]["data"][0]["id"] == "urn:ngsi-ld:Vehicle:9"


@pytest.mark.parametrize("more", [
    {"localOnly": True}, {"entities": [{"type": "Bus"}]}, {"entities": [{"type": "Vehicle", "id": "urn:ngsi-ld:Vehicle:7"}]},
    {"watchedAttributes": ["weight"]}, {"csf": 'name=="elsewhere"'}, {"isActive": False}, {"timeInterval": 3600},
])
async def test_what_concerns_no_source_goes_to_none(running: World, receiver: Receiver, more: dict[str, Any]) -> None:  # noqa: F811
    await running.register(information=[{"entities": [{"type": "Vehicle", "id": V1}], "propertyNames": ["speed"]}], name={
        "type": "Property", "value": "here"})
    await running.register(operations=["retrieveOps"])
    await subscribe(running, receiver, **more)
    await running.door.remote.reconcile()
    assert execute(running.door.house, "SELECT count(*) FROM remote_subscriptions")[0][0] == 0
    assert await copies(running) == []


async def test_deletions_reach_the_subscriber(running: World, receiver: Receiver) -> None:  # noqa: F811
    """5.8.6: a deleted attribute is NGSI-LD Null, with what it was where changes are to be shown; of a deleted entity
    'only the deletedAt system property shall be provided'."""
    await running.register()
    await subscribe(running, receiver, notificationTrigger=["attributeUpdated", "attributeDeleted", "entityDeleted"], notification={
        "showChanges": True, "endpoint": {"uri": receiver.uri}})
    await agreed(running)
    await running.far.post("/entities", json=vehicle(speed=1, colour="red"))
    await running.far.patch(f"/entities/{V1}/attrs", json={"speed": 2})
    await running.far.delete(f"/entities/{V1}/attrs/colour")
    await running.far.delete(f"/entities/{V1}")
    updated, removed, gone = (body["data"][0] for body in await settled(receiver, 3))
    assert updated["speed"] == {"type": "Property", "value": 2, "previousValue": 1}
    assert removed["colour"] == {"type": "Property", "value": "urn:ngsi-ld:null", "previousValue": "red"}
    assert gone["id"] == V1
    assert "deletedAt" in gone
    assert gone["speed"]["previousValue"] == 2


async def test_parts_of_an_entity_are_put_together(running: World, receiver: Receiver) -> None:  # noqa: F811
    """5.8.6 with splitEntities: 'The retrieved Entities then shall be merged [...] All Entities that do not match the query
    [...] shall be removed'; the source itself is asked without it."""
    await running.register()
    await running.near.post("/entities", json=vehicle(brand="Tesla"))
    await subscribe(running, receiver, q='speed>20;brand=="Tesla"', splitEntities=True)
    copy, = await agreed(running)
    assert "q" not in copy
    await running.far.post("/entities", json=vehicle(speed=10))
    await running.far.patch(f"/entities/{V1}/attrs", json={"speed": 42})
    body, = await settled(receiver, 1)
    assert {name: value["value"] for name, value in body["data"][0].items() if isinstance(value, dict)} == {
        "speed": 42, "brand": "Tesla"}


async def test_an_interval_covers_the_sources(running: World, receiver: Receiver) -> None:  # noqa: F811
    """5.8.6: 'the notification message shall include all the subscribed Entities that match'."""
    await running.register()
    await running.near.post("/entities", json=vehicle("urn:ngsi-ld:Vehicle:2", speed=30))
    await running.far.post("/entities", json=vehicle(speed=50))
    await running.far.post("/entities", json=vehicle("urn:ngsi-ld:Vehicle:3", speed=1))
    await subscribe(running, receiver, timeInterval=3600, q="speed>10")
    body, = await settled(receiver, 1)
    assert [item["id"] for item in body["data"]] == ["urn:ngsi-ld:Vehicle:2", V1]


async def test_nobody_else_is_believed(running: World, receiver: Receiver) -> None:  # noqa: F811
    """5.8.6: only a notification 'that has a mapping to a local Subscription identifier' is passed on."""
    await running.register(information=[{"entities": [{"type": "Vehicle", "id": V1}], "propertyNames": ["speed"]}])
    id = await subscribe(running, receiver)
    copy, = await agreed(running)
    door = httpx.AsyncClient(base_url=str(running.near.base_url).partition("/ngsi-ld")[0])
    data = [vehicle(speed=1, colour="red"), vehicle("urn:ngsi-ld:Vehicle:2", speed=1), {"id": V1, "type": "Bus"}, {"id": "x"}, 7]

    async def send(subscription: Any, data: Any = data) -> int:
        answer = await door.post(NOTIFIED, json={
            "id": "urn:ngsi-ld:Notification:1", "type": "Notification", "subscriptionId": subscription, "data": data})
        return answer.status_code

    assert await send(id) == 404, "the subscriber's own identifier is none of a source's"
    assert await send("urn:ngsi-ld:Subscription:distsub-" + "0" * 32) == 404
    assert await send(copy["id"], {"type": "FeatureCollection"}) == 400
    assert await send(None) == 400
    assert (await door.get(NOTIFIED)).status_code == 405
    assert await send(copy["id"]) == 200
    body, = await settled(receiver, 1)
    assert body["data"] == [vehicle(speed=1)]
    await running.near.delete(f"/subscriptions/{id}")
    assert await send(copy["id"]) == 404
    await door.aclose()


async def test_a_source_that_is_down_is_asked_until_it_answers(running: World, receiver: Receiver) -> None:  # noqa: F811
    """What the house asked for before it ended is neither lost nor left behind at the source."""
    remote, source = running.door.remote, running.source
    source.answer("POST", "/subscriptions", 503)
    await running.register(to="source")
    id = await subscribe(running, receiver)
    await until(lambda: source.seen)
    rows = execute(running.door.house, "SELECT id,sent FROM remote_subscriptions")
    assert len(rows) == 1
    assert rows[0][1] is None
    source.answer("POST", "/subscriptions", 409)  # it had been created, and the house does not know
    source.answer("PATCH", f"/subscriptions/{rows[0][0]}", 204)
    await until(lambda: execute(running.door.house, "SELECT sent FROM remote_subscriptions")[0][0])
    assert {request[3]["id"] for request in source.seen if request[0] == "POST"} == {rows[0][0]}
    assert all(request[2]["via"] for request in source.seen)
    source.answer("DELETE", f"/subscriptions/{rows[0][0]}", 503)
    await running.near.delete(f"/subscriptions/{id}")
    await until(lambda: any(request[0] == "DELETE" for request in source.seen))
    assert execute(running.door.house, "SELECT count(*) FROM remote_subscriptions")[0][0] == 1
    source.answer("DELETE", f"/subscriptions/{rows[0][0]}", 204)
    await until(lambda: not execute(running.door.house, "SELECT 1 FROM remote_subscriptions"))
    await remote.reconcile()


async def test_houses_that_register_each_other_do_not_chase_their_tails(running: World, receiver: Receiver) -> None:  # noqa: F811
    """6.3.17: a loop is detected by `Via`."""
    await running.register()
    near_url = str(running.near.base_url).partition("/ngsi-ld")[0]
    made = await running.far.post("/csourceRegistrations", json={
        "type": "ContextSourceRegistration", "information": [{"entities": [{"type": "Vehicle"}]}], "endpoint": near_url})
    assert made.status_code == 201
    await subscribe(running, receiver)
    await agreed(running)
    await until(lambda: execute(running.far_door.house, "SELECT 1 FROM remote_subscriptions"))
    await asyncio.sleep(0.5)
    assert len((await running.near.get("/subscriptions")).json()) == 1
    await running.far.post("/entities", json=vehicle(speed=1))
    await settled(receiver, 1)
