"""What points to an entity and what looks at it: relationships (4.5.3) and subscriptions (5.2.12, 5.8.6)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.context.conftest import ACTORS, FUZHOU, XIAMEN
from tulou.context import ContextService, Neighbours, Subscriptions, neighbours
from tulou.context.neighbours import pointing
from tulou.kernel.errors import Forbidden, NotFound
from tulou.kernel.house import House

BUILDING, OTHER = "urn:ngsi-ld:Building:土楼", "urn:ngsi-ld:Building:2"


def room(key: str, **attributes: Any) -> dict[str, Any]:
    return {"id": f"urn:ngsi-ld:Room:{key}", "type": "Room", **attributes}


def link(object: Any) -> dict[str, Any]:
    return {"type": "Relationship", "object": object}


@pytest.fixture
def around(ground: House) -> Neighbours:
    return ground.service(Neighbours)


async def test_every_kind_of_relationship_points(service: ContextService, around: Neighbours) -> None:
    """4.5.3: a Relationship has an object, one or several; 4.5.22: a ListRelationship has objects in order; 4.5.2: an
    attribute may have relationships of its own."""
    warmth = {"type": "Property", "value": 20, "measuredIn": link(BUILDING)}
    several = [link(OTHER), {**link(BUILDING), "datasetId": "urn:ngsi-ld:dataset:1"}]
    rooms = [
        room("plain", locatedIn=link(BUILDING)),
        room("many", locatedIn=link([OTHER, BUILDING])),
        room("list", visits={"type": "ListRelationship", "objectList": [{"object": OTHER}, {"object": BUILDING}]}),
        room("nested", warmth=warmth),
        room("instances", locatedIn=several),
        room("elsewhere", locatedIn=link(OTHER)),
        room("only-says-so", remark={"type": "Property", "value": BUILDING}),
    ]
    for document in rooms:
        await service.create(ACTORS["xiamen"], document)
    found, more = await around.incoming(ACTORS["xiamen"], BUILDING)
    assert more is None
    assert [(item.id.rpartition(":")[2], item.paths) for item in found] == [
        ("plain", ["locatedIn"]), ("many", ["locatedIn"]), ("list", ["visits"]),
        ("nested", ["warmth.measuredIn"]), ("instances", ["locatedIn"]),
    ]


async def test_pages_of_incoming_lose_and_repeat_nothing(
    service: ContextService, around: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(11):
        await service.create(ACTORS["xiamen"], room(f"{n:02}", **({"in": link(BUILDING)} if n % 3 == 0 else {})))
        await service.create(ACTORS["fuzhou"], room(f"f{n:02}", **{"in": link(BUILDING)}))
    for look, limit in ((4, 50), (100, 1), (3, 1)):
        monkeypatch.setattr(neighbours, "LOOK", look)
        seen: list[str] = []
        after: int | None = 0
        while after is not None:
            found, after = await around.incoming(ACTORS["xiamen"], BUILDING, limit=limit, after=after)
            seen += [item.id for item in found]
        assert seen == [f"urn:ngsi-ld:Room:{n:02}" for n in (0, 3, 6, 9)], (look, limit)


async def test_what_one_may_not_read_does_not_point(service: ContextService, around: Neighbours) -> None:
    await service.create(ACTORS["fuzhou"], room("secret", locatedIn=link(BUILDING)))
    assert await around.incoming(ACTORS["xiamen"], BUILDING) == ([], None)
    assert len((await around.incoming(ACTORS["admin"], BUILDING))[0]) == 1
    with pytest.raises(Forbidden):
        await around.incoming(ACTORS["stranger"], BUILDING)


def test_a_path_is_followed_to_its_depth() -> None:
    deep = {"type": "Property", "value": {"type": "Relationship", "object": BUILDING}, "a": {**link(OTHER), "b": link(BUILDING)}}
    assert list(pointing({"id": "x:1", "type": "T", "p": deep}, BUILDING)) == [("p", "a", "b")]


def subscription(id: str, entities: Any = None, **more: Any) -> dict[str, Any]:
    base = {
        "id": f"urn:ngsi-ld:Subscription:{id}", "type": "Subscription",
        "notification": {"endpoint": {"uri": "http://127.0.0.1:9/x", "accept": "application/json"}}, **more,
    }
    return base | ({"entities": entities} if entities else {"watchedAttributes": ["warmth"]})


async def test_subscriptions_that_name_an_entity(
    ground: House, service: ContextService, around: Neighbours
) -> None:
    """5.2.12: `entities` names by type, id and idPattern; `q` and the rest are conditions on what is named so."""
    document = room("1", warmth={"type": "Property", "value": 20}, locatedIn=link(BUILDING))
    await service.create(ACTORS["xiamen"], document)
    await service.create(ACTORS["xiamen"], {"id": BUILDING, "type": "Building", "floors": {"type": "Property", "value": 4}})
    subscriptions = ground.service(Subscriptions)
    kind = {"type": "Room"}
    wanted = {
        "by-type": subscription("by-type", [kind]),
        "by-id": subscription("by-id", [{**kind, "id": document["id"]}]),
        "by-pattern": subscription("by-pattern", [{**kind, "idPattern": ".*:Room:[0-9]$"}]),
        "any": subscription("any"),
        "warm": subscription("warm", [kind], q="warmth>19"),
        "hot": subscription("hot", [kind], q="warmth>30"),
        "through": subscription("through", [kind], q="locatedIn{floors}>3"),
        "hourly": subscription("hourly", [kind], timeInterval=3600),
        "other-type": subscription("other-type", [{"type": "Building"}]),
        "other-id": subscription("other-id", [{**kind, "id": "urn:ngsi-ld:Room:2"}]),
        "paused": subscription("paused", [kind], isActive=False),
    }
    for each in wanted.values():
        await subscriptions.create(ACTORS["xiamen"], each, None)
    found = await around.subscriptions(ACTORS["xiamen-viewer"], document["id"])
    assert {item["id"].rpartition(":")[2]: hold for item, hold in found} == {
        "by-type": True, "by-id": True, "by-pattern": True, "any": True, "warm": True, "hot": False, "through": True,
        "hourly": True,
    }
    assert all(item["status"] == "active" for item, _ in found)


async def test_subscriptions_of_others_are_not_seen(
    ground: House, service: ContextService, around: Neighbours
) -> None:
    for who in ("xiamen", "fuzhou"):
        await service.create(ACTORS[who], room("same"))
        await ground.service(Subscriptions).create(ACTORS[who], subscription(f"of-{who}", [{"type": "Room"}]), None)
    id = "urn:ngsi-ld:Room:same"
    for who, org in (("xiamen", XIAMEN), ("fuzhou", FUZHOU)):
        found = await around.subscriptions(ACTORS[who], id, tenant=org)
        assert [item["id"] for item, _ in found] == [f"urn:ngsi-ld:Subscription:of-{who}"]
    with pytest.raises(NotFound):
        await around.subscriptions(ACTORS["xiamen"], id, tenant=FUZHOU)
    with pytest.raises(Forbidden):
        await around.subscriptions(ACTORS["stranger"], id)
