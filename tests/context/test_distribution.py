"""Distributed operations (CIM 009, 4.3.6): a house and its sources, over real HTTP. The far house is a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.context.conftest import ACTORS, ByName, plugins
from tests.context.serving import Source, served
from tulou.context.routes import Door
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

V1 = "urn:ngsi-ld:Vehicle:1"
EARLY, LATE = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
WRITES = ["redirectionOps"]
BATCHES = ["redirectionOps", "createBatch", "upsertBatch", "updateBatch", "mergeBatch", "deleteBatch"]


class AsXiamen(ByName):
    """At the far house, whoever shows no name is Xiamen's steward: a source is not sent its caller's credentials."""

    async def actor_of(self, scope: Any) -> Any:
        return await super().actor_of(scope) or ACTORS["xiamen"]


class World(NamedTuple):
    """Clients of the near and the far house, the far one's address, a source that is told what to answer, its address, and
    the doors of the two houses."""

    near: httpx.AsyncClient
    far: httpx.AsyncClient
    far_url: str
    source: Source
    source_url: str
    door: Door
    far_door: Door

    async def register(self, endpoint: str | None = None, *, to: str = "far", **members: Any) -> str:
        """Register vehicles at the far house, or at the source; returns the id."""
        url = endpoint or (self.far_url if to == "far" else self.source_url)
        answer = await self.near.post("/csourceRegistrations", json={
            "type": "ContextSourceRegistration", "information": [{"entities": [{"type": "Vehicle"}]}], "endpoint": url, **members,
        })
        assert answer.status_code == 201, answer.text
        return answer.headers["location"].rsplit("/", 1)[1]


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Two houses and a source."""
    allowed = {"outbound_allow": "127.0.0.0/8"}
    near = House(Settings(home=tmp_path / "near", database_url=database_url, **allowed), plugins())
    far = House(Settings(home=tmp_path / "far", **allowed), plugins())
    await near.start((), bus=False)
    await far.start((), bus=False)
    near.authenticator, far.authenticator = ByName(), AsXiamen()  # type: ignore[assignment]
    source = Source()
    near_door, far_door = Door(near), Door(far)
    async with (
        served(far_door) as far_url, served(source) as source_url, served(near_door) as near_url,
        httpx.AsyncClient(base_url=f"{near_url}/ngsi-ld/v1", headers={"authorization": "Bearer xiamen"}) as here,
        httpx.AsyncClient(base_url=f"{far_url}/ngsi-ld/v1") as there,
    ):
        yield World(here, there, far_url, source, source_url, near_door, far_door)
    await near.stop()
    await far.stop()


def vehicle(id: str = V1, **values: Any) -> dict[str, Any]:
    """A vehicle with these property values; a pair is a value and when it was observed."""
    return {"id": id, "type": "Vehicle", **{
        name: {"type": "Property", "value": value[0], "observedAt": value[1]} if isinstance(value, tuple)
        else {"type": "Property", "value": value} for name, value in values.items()
    }}


async def get(client: httpx.AsyncClient, id: str = V1, **parameters: str) -> dict[str, Any]:
    """An entity's values."""
    answer = await client.get(f"/entities/{id}", params={"options": "keyValues", **parameters})
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


# ---- reading


async def test_an_entity_is_put_together_and_of_two_values_the_recent_one_counts(world: World) -> None:
    """4.3.6.2 inclusive: 'all results will be integrated in the final response'; 4.5.5.3: the most recent observedAt."""
    await world.near.post("/entities", json=vehicle(speed=(1, EARLY), load=(1, LATE), brand="A"))
    await world.far.post("/entities", json=vehicle(speed=(2, LATE), load=(2, EARLY), colour="red"))
    await world.register()
    assert await get(world.near) == {"id": V1, "type": "Vehicle", "speed": 2, "load": 1, "brand": "A", "colour": "red"}
    assert "colour" not in await get(world.near, local="true")
    assert (await world.near.get(f"/entities/{V1}", params={"attrs": "colour"})).json().keys() == {"id", "type", "colour"}
    stamped = (await world.near.get(f"/entities/{V1}", params={"options": "sysAttrs"})).json()
    far = (await world.far.get(f"/entities/{V1}", params={"options": "sysAttrs"})).json()
    assert stamped["colour"]["modifiedAt"] == far["colour"]["modifiedAt"]


async def test_auxiliary_data_only_fill_gaps(world: World) -> None:
    """4.3.6.2: 'an auxiliary Context Source Registration never overrides data held directly within a Context Broker'."""
    await world.near.post("/entities", json=vehicle(speed=(1, EARLY)))
    await world.far.post("/entities", json=vehicle(speed=(2, LATE), colour="red"))
    await world.register(mode="auxiliary")
    assert await get(world.near) == {"id": V1, "type": "Vehicle", "speed": 1, "colour": "red"}
    assert (await world.near.patch(f"/entities/{V1}/attrs", json={"speed": 9})).status_code == 204
    assert (await get(world.far))["speed"] == 2, "auxiliary sources are never written to"


async def test_a_source_is_asked_for_no_more_than_it_offers(world: World) -> None:
    """4.3.6.1: 'all constraints specified in the registration shall be respected'."""
    info = [{"entities": [{"type": "Vehicle", "idPattern": "Vehicle:1$"}], "propertyNames": ["speed"]}]
    await world.register(to="source", information=info)
    world.source.answer("GET", f"/entities/{V1}", 200, vehicle(speed=1, secret=2))
    assert await get(world.near) == {"id": V1, "type": "Vehicle", "speed": 1}
    assert "attrs=speed" in world.source.seen[0][1]
    for path in ("/entities/urn:ngsi-ld:Vehicle:2", f"/entities/{V1}?attrs=colour", "/entities?type=Bus",
                 "/entities?type=Vehicle&id=urn:ngsi-ld:Vehicle:2", "/entities?type=Vehicle&attrs=colour",
                 f"/entities/{V1}?local=true"):
        await world.near.get(path)
    assert len(world.source.seen) == 1
    await world.near.get("/entities", params={"type": "Vehicle,Bus", "id": f"{V1},urn:ngsi-ld:Vehicle:2", "q": "speed>0"})
    asked = world.source.seen[1][1]
    assert f"type=Vehicle&id={V1}&attrs=speed&q=speed%3E0" in asked, asked


async def test_a_query_is_the_union_and_pages_walk_all_of_it_once(world: World) -> None:
    """5.7.2.4, 5.5.9: local entities, entities of both, entities of the source; count as 6.3.13."""
    for number in range(5):
        await world.near.post("/entities", json=vehicle(f"urn:ngsi-ld:Vehicle:{number}", speed=number))
        await world.far.post("/entities", json=vehicle(f"urn:ngsi-ld:Vehicle:{number + 3}", colour="red"))
    await world.register()
    url: str | None = "/entities?type=Vehicle&limit=3&count=true&options=keyValues"
    seen: list[dict[str, Any]] = []
    while url:
        page = await world.near.get(url)
        assert page.status_code == 200, page.text
        assert page.headers["ngsild-results-count"] == "8"
        seen += page.json()
        links = [part for part in page.headers.get_list("link") if 'rel="next"' in part]
        url = links[0].partition("<")[2].partition(">")[0].removeprefix("/ngsi-ld/v1") if links else None
    assert sorted(item["id"] for item in seen) == [f"urn:ngsi-ld:Vehicle:{n}" for n in range(8)]
    both = next(item for item in seen if item["id"].endswith(":4"))
    assert (both["speed"], both["colour"]) == (4, "red")


async def test_split_entities_are_filtered_after_they_are_put_together(world: World) -> None:
    """5.7.2.4: with the split entities flag 'the filters shall be removed before forwarding' and applied to the aggregate."""
    await world.near.post("/entities", json=vehicle(brand="A"))
    await world.far.post("/entities", json=vehicle(speed=50))
    await world.register()
    query = {"type": "Vehicle", "q": 'speed>20;brand=="A"'}
    assert (await world.near.get("/entities", params=query)).json() == []
    found = (await world.near.get("/entities", params={**query, "splitEntities": "true"})).json()
    assert [item["id"] for item in found] == [V1]
    body = {"type": "Query", "entities": [{"type": "Vehicle"}], "q": query["q"], "splitEntities": True}
    posted = await world.near.post("/entityOperations/query", json=body)
    assert posted.status_code in (200, 400)


async def test_what_a_source_does_wrong_is_a_warning_for_readers(world: World) -> None:
    """Table 6.3.17-1: 199 no response, 111 invalid, 299 error response; a 404 'should not be considered as abnormal'."""
    await world.near.post("/entities", json=vehicle(speed=1))
    id = await world.register(to="source")
    path = f"/entities/{V1}"
    for status, body, code in ((404, {}, None), (500, {}, "299"), (200, b"no json", "111"), (200, {"id": 1}, "111"), (200, [], None)):
        world.source.answer("GET", path, status, body)
        answer = await world.near.get(path)
        assert answer.json()["speed"]["value"] == 1
        warning = answer.headers.get("ngsild-warning")
        assert (warning is None) if code is None else (warning is not None and warning.startswith(f"{code} {id} ")), (status, warning)
    await world.register("http://127.0.0.1:9")
    answer = await world.near.get("/entities/urn:ngsi-ld:Vehicle:404")
    assert answer.status_code == 404
    assert answer.headers["ngsild-warning"].startswith("199 ")


async def test_a_slow_source_is_given_up_and_left_alone_for_its_cooldown(world: World) -> None:
    """5.2.34: timeout and cooldown in milliseconds; within the cooldown 'a timeout error response is returned'."""
    world.source.pause = 30.0
    await world.register(to="source", management={"timeout": 1000, "cooldown": 60_000})
    for _ in range(3):
        answer = await world.near.get(f"/entities/{V1}")
        assert answer.status_code == 404
        assert answer.headers["ngsild-warning"].startswith("199 ")
    assert len(world.source.seen) == 1


async def test_types_and_attributes_of_sources_are_found_where_they_are_registered(world: World) -> None:
    """5.7.5 to 5.7.10 over 4.3.6: lists, details and counts; 4.3.6.1: of no more than is registered."""
    await world.near.post("/entities", json=vehicle(brand="A"))
    await world.far.post("/entities", json=vehicle(speed=1))
    await world.far.post("/entities", json={**vehicle("urn:ngsi-ld:Secret:1", hidden=1), "type": "Secret"})
    await world.register()
    assert (await world.near.get("/types")).json()["typeList"] == ["Vehicle"]
    assert (await world.near.get("/attributes")).json()["attributeList"] == ["brand", "speed"]
    assert (await world.near.get("/attributes?local=true")).json()["attributeList"] == ["brand"]
    about = (await world.near.get("/types/Vehicle")).json()
    assert about["entityCount"] == 2
    assert [item["attributeName"] for item in about["attributeDetails"]] == ["brand", "speed"]
    assert (await world.near.get("/attributes/speed")).json()["attributeCount"] == 1
    assert (await world.near.get("/types/Secret")).status_code == 404
    assert (await world.near.get("/attributes/hidden")).status_code == 404


# ---- what travels


async def test_nothing_of_the_caller_travels_but_what_the_registration_asks_for(world: World) -> None:
    """4.3.6.5, 4.14, 6.3.18, 6.3.19: own headers, the registration's tenant, the Via chain; never the caller's credentials."""
    await world.register(to="source", tenant="theirs", localOnly=True, contextSourceInfo=[
        {"key": "Authorization", "value": "Bearer of-the-source"}, {"key": "X-User", "value": "urn:ngsi-ld:request"},
        {"key": "X-None", "value": "urn:ngsi-ld:request"}, {"key": "Via", "value": "1.1 evil"}, {"key": "Cookie", "value": "a=b"},
    ])
    await world.near.get(f"/entities/{V1}", headers={"x-user": "li", "cookie": "session=1", "via": "1.1 first", "ngsild-tenant": "xiamen"})
    _, path, headers, _ = world.source.seen[0]
    alias = (await world.near.get("/info/sourceIdentity")).json()["contextSourceAlias"]
    assert headers["authorization"] == "Bearer of-the-source"
    assert headers["x-user"] == "li"
    assert headers["ngsild-tenant"] == "theirs"
    assert headers["via"] == f"1.1 first, 1.1 {alias}"
    assert not headers.keys() & {"cookie", "x-none"}
    assert "local=true" in path


async def test_without_its_own_the_source_gets_no_credentials_and_no_tenant(world: World) -> None:
    await world.register(to="source")
    await world.near.get(f"/entities/{V1}", headers={"ngsild-tenant": "xiamen"})
    assert not world.source.seen[0][2].keys() & {"authorization", "cookie", "ngsild-tenant"}


async def test_names_keep_their_meaning_on_the_way(world: World) -> None:
    """4.3.6.6: an inline context has no address to give, so names travel as IRIs; jsonldContext asks for another one."""
    await world.register(mode="redirect", operations=WRITES, information=[{"entities": [{"id": V1}]}])
    body = {**vehicle(speed=1), "@context": {"Vehicle": "https://example.org/Vehicle", "speed": "https://example.org/speed"}}
    made = await world.near.post("/entities", json=body, headers={"content-type": "application/ld+json"})
    assert made.status_code == 201, made.text
    far = (await world.far.get(f"/entities/{V1}")).json()
    assert far["type"] == "https://example.org/Vehicle"
    assert far["https://example.org/speed"]["value"] == 1
    assert (await world.near.get(f"/entities/{V1}")).json() == far


async def test_loops_end(world: World) -> None:
    """6.3.17: 508 'if the single registered source is registered to redirect back'; else the looping source drops out."""
    await world.register()
    near = str(world.near.base_url).removesuffix("/ngsi-ld/v1/")
    back = {"type": "ContextSourceRegistration", "information": [{"entities": [{"type": "Vehicle"}]}], "endpoint": near,
            "contextSourceInfo": [{"key": "Authorization", "value": "Bearer xiamen"}]}
    assert (await world.far.post("/csourceRegistrations", json=back)).status_code == 201
    await world.near.post("/entities", json=vehicle(speed=1), params={"local": "true"})
    await world.far.post("/entities", json=vehicle("urn:ngsi-ld:Vehicle:2", speed=2), params={"local": "true"})
    found = await world.near.get("/entities?type=Vehicle")
    assert sorted(item["id"] for item in found.json()) == [V1, "urn:ngsi-ld:Vehicle:2"]
    alias = (await world.near.get("/info/sourceIdentity")).json()["contextSourceAlias"]
    await world.register(mode="redirect", operations=WRITES, information=[{"entities": [{"id": "urn:x:1"}]}])
    answer = await world.near.delete("/entities/urn:x:1", headers={"via": f"1.1 {alias}"})
    assert answer.status_code == 508, answer.text
    await world.register(to="source", contextSourceAlias="met-before", information=[{"entities": [{"type": "Bus"}]}])
    await world.near.get("/entities?type=Bus", headers={"via": "1.1 met-before"})
    assert world.source.seen == []


# ---- writing


async def test_exclusive_attributes_go_to_their_source_and_the_rest_stays(world: World) -> None:
    """5.6.1.4: matching attributes are forwarded, 'then removed from the Entity and not processed further'."""
    await world.register(
        mode="exclusive", operations=WRITES,
        information=[{"entities": [{"id": V1, "type": "Vehicle"}], "propertyNames": ["speed"]}],
    )
    assert (await world.near.post("/entities", json=vehicle(speed=1, brand="A"))).status_code == 201
    assert await get(world.near, local="true") == {"id": V1, "type": "Vehicle", "brand": "A"}
    assert await get(world.far) == {"id": V1, "type": "Vehicle", "speed": 1}
    assert await get(world.near) == {"id": V1, "type": "Vehicle", "brand": "A", "speed": 1}
    assert (await world.near.patch(f"/entities/{V1}", json={"speed": {"type": "Property", "value": 2}, "brand": "B"})).status_code == 204
    assert (await world.near.patch(f"/entities/{V1}/attrs/speed", json={"value": 3})).status_code == 204
    assert await get(world.near) == {"id": V1, "type": "Vehicle", "brand": "B", "speed": 3}
    assert (await world.near.delete(f"/entities/{V1}/attrs/speed")).status_code == 204
    assert await get(world.near) == {"id": V1, "type": "Vehicle", "brand": "B"}
    assert (await world.near.delete(f"/entities/{V1}")).status_code == 204
    assert (await world.far.get(f"/entities/{V1}")).status_code == 404


async def test_redirected_entities_are_never_held_here(world: World) -> None:
    """4.3.6.3: 'the Context Broker itself is not permitted to hold context data about the registered Entities'."""
    await world.register(mode="redirect", operations=WRITES)
    assert (await world.near.post("/entities", json=vehicle(speed=1))).status_code == 201
    assert (await world.near.get(f"/entities/{V1}", params={"local": "true"})).status_code == 404
    assert (await world.near.post(f"/entities/{V1}/attrs", json={"colour": "red"})).status_code == 204
    assert (await world.near.put(f"/entities/{V1}", json=vehicle(speed=5))).status_code == 204
    assert await get(world.far) == await get(world.near) == {"id": V1, "type": "Vehicle", "speed": 5}
    assert (await world.near.post("/entities", json=vehicle(speed=1))).status_code == 409
    assert (await world.near.delete("/entities?type=Vehicle")).status_code == 204
    assert (await world.far.get(f"/entities/{V1}")).status_code == 404
    assert (await world.near.delete(f"/entities/{V1}")).status_code == 404


async def test_an_operation_that_the_only_source_does_not_offer_is_a_conflict(world: World) -> None:
    """5.6.1.4, 5.6.2.4: 'an error of type Conflict'; the source is not asked."""
    await world.register(to="source", mode="redirect", operations=["retrieveOps"])
    for answer in (
        await world.near.post("/entities", json=vehicle(speed=1)), await world.near.patch(f"/entities/{V1}/attrs", json={"speed": 1}),
        await world.near.patch(f"/entities/{V1}", json={"speed": 1}),
    ):
        assert answer.status_code == 409
        assert answer.json()["type"] == "https://uri.etsi.org/ngsi-ld/errors/Conflict"
    assert world.source.seen == []
    assert (await world.near.get(f"/entities/{V1}", params={"local": "true"})).status_code == 404


async def test_partial_success_says_what_failed_where(world: World) -> None:
    """5.2.16 to 5.2.19: BatchOperationResult for entities, UpdateResult for attributes, with the registration."""
    id = await world.register(to="source", operations=WRITES)
    world.source.answer("POST", "/entities", 201)
    await world.near.post("/entities", json=vehicle(speed=1))
    answer = await world.near.post("/entities", json=vehicle(speed=1))
    assert answer.status_code == 207
    assert answer.json()["success"] == [V1]
    assert [(item["entityId"], item["error"]["status"], item.get("registrationId")) for item in answer.json()["errors"]] == [(V1, 409, None)]
    answer = await world.near.patch(f"/entities/{V1}/attrs", json={"speed": 2})
    assert answer.status_code == 207
    assert answer.json().keys() == {"updated", "notUpdated"}
    assert answer.json()["updated"] == ["speed"]
    assert [{k: v for k, v in item.items() if k != "reason"} for item in answer.json()["notUpdated"]] == [
        {"attributeName": "speed", "registrationId": id},
    ]


async def test_a_batch_reaches_every_source_with_its_entities_alone(world: World) -> None:
    """5.6.7.4: 'remove from IN all Entities not matched by CSR'; one request a source; every id once in the result."""
    info = [{"entities": [{"idPattern": "^urn:far:"}]}]
    await world.register(mode="redirect", operations=BATCHES, information=info)
    await world.register(to="source", mode="redirect", operations=["createEntity"], information=[{"entities": [{"idPattern": "^urn:one:"}]}])
    world.source.answer("POST", "/entities", 201)
    batch = [vehicle(id, speed=1) for id in ("urn:far:1", "urn:near:1", "urn:far:2", "urn:one:1")]
    answer = await world.near.post("/entityOperations/create", json=batch)
    assert answer.status_code == 201, answer.text
    assert sorted(answer.json()) == sorted(item["id"] for item in batch)
    assert [item["id"] for item in (await world.near.get("/entities?type=Vehicle&local=true")).json()] == ["urn:near:1"]
    assert [item["id"] for item in (await world.far.get("/entities?type=Vehicle")).json()] == ["urn:far:1", "urn:far:2"]
    assert [body["id"] for _, _, _, body in world.source.seen] == ["urn:one:1"]
    again = await world.near.post("/entityOperations/upsert?options=update", json=[vehicle("urn:far:1", load=2), vehicle("urn:near:2", load=2)])
    assert again.status_code == 201
    assert again.json() == ["urn:near:2"]
    assert await get(world.far, "urn:far:1") == {"id": "urn:far:1", "type": "Vehicle", "speed": 1, "load": 2}
    gone = await world.near.post("/entityOperations/delete", json=["urn:far:1", "urn:far:9", "urn:near:1"])
    assert gone.status_code == 207
    assert sorted(gone.json()["success"]) == ["urn:far:1", "urn:near:1"]
    assert [item["entityId"] for item in gone.json()["errors"]] == ["urn:far:9"]
    assert (await world.near.post("/entityOperations/create", json=[{"id": "no uri"}])).status_code == 207


async def test_a_purge_takes_no_more_than_what_is_registered(world: World) -> None:
    """5.6.21 within 4.3.6.1: only the registered entities, and of them only the registered attributes."""
    info = [{"entities": [{"type": "Vehicle", "idPattern": "^urn:far:"}], "propertyNames": ["speed"]}]
    await world.register(to="source", mode="redirect", operations=WRITES, information=info)
    await world.register(to="source", operations=WRITES, information=[{"entities": [{"type": "Bus"}]}])
    world.source.answer("DELETE", "/entities", 204)
    await world.near.post("/entities", json=vehicle(brand="A"))
    assert (await world.near.delete("/entities?type=Vehicle,Bus")).status_code == 204
    assert sorted(path.partition("?")[2] for _, path, _, _ in world.source.seen) == [
        "type=Bus", "type=Vehicle&idPattern=%5Eurn:far:&drop=speed",
    ]
    assert (await world.near.get(f"/entities/{V1}?local=true")).status_code == 404


# ---- who may


async def test_the_policy_decides_before_anything_leaves_the_house(world: World) -> None:
    await world.register(to="source", operations=WRITES)
    world.near.headers["authorization"] = "Bearer xiamen-viewer"
    for method, path, body in (
        ("POST", "/entities", vehicle(speed=1)), ("PATCH", f"/entities/{V1}", {"speed": 1}), ("DELETE", f"/entities/{V1}", None),
        ("POST", f"/entities/{V1}/attrs", {"speed": 1}), ("DELETE", f"/entities/{V1}/attrs/speed", None),
        ("DELETE", "/entities?type=Vehicle", None), ("POST", "/entityOperations/upsert", [vehicle(speed=1)]),
        ("POST", "/entityOperations/delete", [V1]),
    ):
        answer = await world.near.request(method, path, json=body)
        assert answer.status_code == 403, (method, path, answer.text)
    world.near.headers["authorization"] = "Bearer stranger"
    assert (await world.near.get(f"/entities/{V1}")).status_code in (403, 404)
    assert world.source.seen == []


async def test_a_registration_serves_its_organisation_alone(world: World) -> None:
    """4.14: operations 'never have any effect on the information of other Tenants'."""
    await world.register(to="source", operations=BATCHES)
    world.near.headers["authorization"] = "Bearer fuzhou"
    await world.near.get(f"/entities/{V1}")
    await world.near.get("/entities?type=Vehicle")
    assert (await world.near.post("/entities", json=vehicle(speed=1))).status_code == 201
    assert (await world.near.post("/entityOperations/upsert", json=[vehicle("urn:f:2", speed=1)])).status_code == 201
    assert (await world.near.delete(f"/entities/{V1}")).status_code == 204
    assert world.source.seen == []


# ---- entity maps


async def test_a_map_fixes_what_is_walked_and_is_its_makers_alone(world: World) -> None:
    """5.5.9.3: pages fill up, what no longer fits leaves the map; 5.2.39: '@none' and the registrations; 4.14."""
    for number in range(4):
        await world.near.post("/entities", json=vehicle(f"urn:ngsi-ld:Vehicle:{number}", speed=number))
    await world.far.post("/entities", json=vehicle("urn:ngsi-ld:Vehicle:3", colour="red"))
    await world.far.post("/entities", json=vehicle("urn:ngsi-ld:Vehicle:4", colour="red"))
    id = await world.register()
    made = await world.near.get("/entities?type=Vehicle&entityMap=true&limit=2")
    assert made.status_code == 201
    assert len(made.json()) == 2
    where = made.headers["ngsild-entitymap"]
    found = (await world.near.get(where.removeprefix("/ngsi-ld/v1"))).json()
    assert found["entityMap"] == {
        **{f"urn:ngsi-ld:Vehicle:{n}": ["@none"] for n in range(3)}, "urn:ngsi-ld:Vehicle:3": ["@none", id],
        "urn:ngsi-ld:Vehicle:4": [id],
    }
    await world.near.delete("/entities/urn:ngsi-ld:Vehicle:1?local=true")
    await world.near.post("/entities?local=true", json=vehicle("urn:ngsi-ld:Vehicle:9", speed=9))
    seen: list[str] = []
    for offset in (0, 2):
        page = await world.near.get(f"/entities?type=Vehicle&limit=2&offset={offset}", headers={"ngsild-entitymap": where})
        assert page.status_code == 200
        seen += [item["id"] for item in page.json()]
    assert seen == [f"urn:ngsi-ld:Vehicle:{n}" for n in (0, 2, 3, 4)]
    other = {"authorization": "Bearer xiamen-viewer"}
    for method in ("GET", "PATCH", "DELETE"):
        answer = await world.near.request(method, where.removeprefix("/ngsi-ld/v1"), headers=other, json={})
        assert answer.status_code in (403, 404)
    assert (await world.near.patch(where.removeprefix("/ngsi-ld/v1"), json={"expiresAt": "2000-01-01T00:00:00Z"})).status_code == 204
    assert (await world.near.get(where.removeprefix("/ngsi-ld/v1"))).status_code == 404


async def test_a_retrieval_makes_a_map_of_where_the_entity_is_held(world: World) -> None:
    """5.7.1.4: "If a flag to return an EntityMap was present in the request, and no EntityMap currently exists, then a new
    EntityMap shall be created"."""
    one = "urn:ngsi-ld:Vehicle:1"
    await world.near.post("/entities", json=vehicle(one, speed=1))
    await world.far.post("/entities", json=vehicle(one, colour="red"))

    async def held(answer: httpx.Response) -> Any:
        return (await world.near.get(answer.headers["ngsild-entitymap"].removeprefix("/ngsi-ld/v1"))).json()["entityMap"]

    alone = await world.near.get(f"/entities/{one}?entityMap=true")
    assert (alone.status_code, await held(alone)) == (200, {one: ["@none"]})
    id = await world.register()
    made = await world.near.get(f"/entities/{one}?entityMap=true&attrs=speed")
    assert (made.status_code, await held(made)) == (200, {one: ["@none", id]})
    where = made.headers["ngsild-entitymap"]
    for given, same in ((where, True), ("urn:ngsi-ld:entitymap:none", False)):
        again = await world.near.get(f"/entities/{one}", headers={"ngsild-entitymap": given})
        assert (again.headers["ngsild-entitymap"] == where) is same
    assert (await world.near.get("/entities/urn:ngsi-ld:Vehicle:2?entityMap=true")).status_code == 404


async def test_a_context_counts_once_for_a_distributed_request(world: World) -> None:
    """5.13.3: numberOfHits is how often a context was used, not how often a request looked it up."""
    await world.register()
    made = await world.near.post("/jsonldContexts", json={"@context": {"Vehicle": "https://example.org/Vehicle"}})
    place = made.headers["location"]
    link = {"link": f'<{place}>; rel="http://www.w3.org/ns/json-ld#context"; type="application/ld+json"'}
    assert (await world.near.get("/entities?type=Vehicle", headers=link)).status_code == 200
    assert (await world.near.post("/entityOperations/query", headers=link, json={
        "type": "Query", "entities": [{"type": "Vehicle"}]})).status_code == 200
    details = await world.near.get(place.removeprefix("/ngsi-ld/v1"), params={"details": "true"})
    assert details.json()["numberOfHits"] == 2
