"""Snapshots over context sources (CIM 009, 5.16.1.4): a house and its sources, over real HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.context.test_distribution import EARLY, LATE, V1, World, vehicle, world
from tulou.context.service import now_us
from tulou.context.snapshots import ABANDONED_US

__all__ = ["world"]

VEHICLES = {"type": "Query", "entities": [{"type": "Vehicle"}]}


async def begin(world: World, *queries: dict[str, Any], **more: Any) -> str:
    answer = await world.near.post("/snapshots", json={"type": "Snapshot", "snapshotQueries": list(queries or (VEHICLES,))}, **more)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"].rpartition("/")[2]


async def ready(world: World, id: str) -> dict[str, Any]:
    for _ in range(200):
        found: dict[str, Any] = (await world.near.get(f"/snapshots/{id}")).json()
        if found["snapshotStatus"] != "preparing":
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("still preparing")


async def in_it(world: World, id: str, **parameters: Any) -> dict[str, dict[str, Any]]:
    answer = await world.near.get(
        "/entities", params={"type": "Vehicle", "options": "keyValues", **parameters}, headers={"ngsild-snapshot": id})
    assert answer.status_code == 200, answer.text
    return {item.pop("id")[-1]: item for item in answer.json()}


async def test_a_snapshot_is_filled_from_here_and_there(world: World) -> None:
    """5.16.1.4: queries are executed "following the behaviour described in clause 5.7.2.4"; it stays as it was then."""
    await world.near.post("/entities", json=vehicle(speed=(1, EARLY), brand="A"))
    await world.near.post("/entities", json=vehicle("urn:ngsi-ld:Vehicle:2", speed=20))
    await world.far.post("/entities", json=vehicle(speed=(2, LATE), colour="red"))
    await world.far.post("/entities", json=vehicle("urn:ngsi-ld:Vehicle:3", speed=30))
    await world.register()
    id = await begin(world)
    status = await ready(world, id)
    assert (status["snapshotStatus"], status["snapshotQueriesDetails"]) == ("success", [{"resultStatus": "success"}])
    await world.far.patch(f"/entities/{V1}/attrs", json={"colour": "blue"})
    await world.near.delete("/entities/urn:ngsi-ld:Vehicle:2?local=true")
    assert await in_it(world, id) == {
        "1": {"type": "Vehicle", "speed": 2, "brand": "A", "colour": "red"}, "2": {"type": "Vehicle", "speed": 20},
        "3": {"type": "Vehicle", "speed": 30},
    }
    assert (await in_it(world, id, q="speed>=20")).keys() == {"2", "3"}
    one = await world.near.get(f"/entities/{V1}", headers={"ngsild-snapshot": id})
    assert one.json()["colour"]["value"] == "red"
    copy = await world.near.post(f"/snapshots/{id}/clone", json={"type": "Snapshot"})
    assert (await in_it(world, copy.headers["location"].rpartition("/")[2])).keys() == {"1", "2", "3"}


async def test_its_queries_are_graded_one_by_one(world: World) -> None:
    """5.16.1.4: "partial, if at least one query or temporal query was executed successfully and yielded a result"."""
    await world.near.post("/entities", json=vehicle(brand="A"))
    await world.far.post("/entities", json=vehicle(speed=50))
    await world.register()
    nothing = {"type": "Query", "entities": [{"type": "Vehicle"}], "q": "speed>90"}
    both = {**VEHICLES, "q": 'speed>20;brand=="A"', "splitEntities": True}
    id = await begin(world, nothing, both)
    status = await ready(world, id)
    assert [item["resultStatus"] for item in status["snapshotQueriesDetails"]] == ["empty", "success"]
    assert status["snapshotStatus"] == "partial"
    assert await in_it(world, id) == {"1": {"type": "Vehicle", "speed": 50, "brand": "A"}}
    assert (await ready(world, await begin(world, nothing)))["snapshotStatus"] == "empty"


async def test_who_creates_it_does_not_wait_for_sources(world: World) -> None:
    """5.2.41: `preparing` first; a source that fails does not take the others' part away."""
    world.source.pause = 0.3
    await world.near.post("/entities", json=vehicle(brand="A"))
    await world.register(to="source")
    id = await begin(world)
    assert (await world.near.get(f"/snapshots/{id}")).json()["snapshotStatus"] == "preparing"
    assert (await world.near.post(f"/snapshots/{id}/clone", json={"type": "Snapshot"})).status_code == 422
    gone = await begin(world)
    assert (await world.near.delete(f"/snapshots/{gone}")).status_code == 204
    world.source.answer("GET", "/entities", 500, {})
    status = await ready(world, id)
    assert status["snapshotStatus"] == "success"
    assert "status 500" in status["snapshotQueriesDetails"][0]["errorDetails"][0]["detail"]
    assert (await in_it(world, id)).keys() == {"1"}
    assert (await world.near.get(f"/snapshots/{gone}")).status_code == 404


async def test_where_no_source_is_asked_it_is_filled_at_once(world: World) -> None:
    await world.near.post("/entities", json=vehicle(brand="A"))
    await world.register(to="source", information=[{"entities": [{"type": "Bus"}]}])
    id = await begin(world)
    assert (await world.near.get(f"/snapshots/{id}")).json()["snapshotStatus"] == "success"
    assert world.source.seen == []


async def test_what_is_held_elsewhere_alone_is_not_taken_from_here(world: World) -> None:
    """4.3.6.3 in 5.7.2.4."""
    info = [{"entities": [{"type": "Vehicle", "id": V1}], "propertyNames": ["speed"]}]
    await world.register(information=info, mode="redirect")
    await world.near.post("/entities?local=true", json=vehicle(speed=1, brand="A"))
    await world.far.post("/entities", json=vehicle(speed=2))
    id = await begin(world)
    await ready(world, id)
    assert await in_it(world, id) == {"1": {"type": "Vehicle", "speed": 2, "brand": "A"}}


async def test_one_that_nobody_prepares_any_more_has_failed(world: World) -> None:
    world.source.pause = 30.0
    await world.register(to="source")
    id = await begin(world)
    snapshots = world.door.snapshots
    await snapshots.abandon(now_us() - ABANDONED_US)
    assert (await world.near.get(f"/snapshots/{id}")).json()["snapshotStatus"] == "preparing"
    await snapshots.abandon(now_us())
    assert (await world.near.get(f"/snapshots/{id}")).json()["snapshotStatus"] == "failure"


async def test_the_policy_decides_before_anything_leaves_the_house(world: World) -> None:
    await world.register(to="source")
    for who in ("xiamen-viewer", "stranger"):
        answer = await world.near.post("/snapshots", json={"type": "Snapshot", "snapshotQueries": [VEHICLES]},
                                       headers={"authorization": f"Bearer {who}"})
        assert answer.status_code in (403, 404)
    assert world.source.seen == []
