"""Distributed operations on history (CIM 009, 5.6.11 to 5.6.16, 5.7.3, 5.7.4): a house and its sources, over real HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.context.test_distribution import V1, World, vehicle, world
from tulou.context import source_history

__all__ = ["world"]

READS = ["retrieveTemporal", "queryTemporal"]
WRITES = [
    "upsertTemporal", "appendAttrsTemporal", "deleteAttrsTemporal", "updateAttrInstanceTemporal", "deleteAttrInstanceTemporal",
    "deleteTemporal",
]
EVER = {"timerel": "after", "timeAt": "2000-01-01T00:00:00Z"}
T1 = f"/temporal/entities/{V1}"


def at(minute: int, value: Any, **more: Any) -> dict[str, Any]:
    return {"type": "Property", "value": value, "observedAt": f"2026-01-01T00:{minute:02d}:00Z", **more}


def series(id: str = V1, **attributes: Any) -> dict[str, Any]:
    return {"id": id, "type": "Vehicle", **attributes}


async def provide(client: Any, id: str = V1, **attributes: Any) -> None:
    answer = await client.post("/temporal/entities?local=true", json=series(id, **attributes))
    assert answer.status_code in (201, 204), answer.text


async def history(world: World, id: str = V1, status: int = 200, **parameters: Any) -> Any:
    answer = await world.near.get(f"/temporal/entities/{id}", params=parameters)
    assert answer.status_code == status, answer.text
    return answer.json()


async def speeds(world: World, **parameters: Any) -> list[Any]:
    return [item["value"] for item in (await history(world, **parameters))["speed"]]


async def matching(world: World, **parameters: Any) -> list[str]:
    answer = await world.near.get("/temporal/entities", params={"type": "Vehicle", **EVER, **parameters})
    assert answer.status_code == 200, answer.text
    return [item["id"].rpartition(":")[2] for item in answer.json()]


# ---- reading


async def test_instances_of_all_are_one_series(world: World) -> None:
    """5.7.3.4: what sources have is "merged together ... according to the algorithm defined in clause 4.5.5"; lastN counts
    "within the concerned temporal interval"."""
    await provide(world.near, speed=[at(1, 10), at(3, 30)], brand=at(1, "A"))
    await provide(world.far, speed=[at(2, 20), at(3, 31), at(4, 40, datasetId="urn:d")], colour=[at(2, "red")])
    id = await world.register(operations=READS)
    assert await speeds(world) == [10, 20, 31, 40]  # of one time the last written
    assert await speeds(world, local="true") == [10, 30]
    assert (await history(world)).keys() == {"id", "type", "speed", "brand", "colour"}
    assert await speeds(world, lastN="2", attrs="speed") == [31, 40]
    assert await speeds(world, timerel="between", timeAt="2026-01-01T00:02:00Z", endTimeAt="2026-01-01T00:03:00Z") == [20]
    assert await speeds(world, datasetId="urn:d") == [40]
    pairs = (await history(world, options="temporalValues", attrs="colour,brand"))
    assert pairs["colour"]["values"] == [["red", "2026-01-01T00:02:00Z"]]
    assert await history(world, "urn:ngsi-ld:Vehicle:404", 404)
    stamped = (await history(world, options="sysAttrs"))["colour"][0]
    there = (await world.far.get(T1, params={"options": "sysAttrs"})).json()["colour"][0]
    assert stamped == there  # an instance keeps its id, and its times are those of its source
    assert await matching(world, q="speed==40") == ["1"]
    await world.near.delete(f"/csourceRegistrations/{id}")
    assert await speeds(world) == [10, 30]


async def test_a_deletion_elsewhere_is_an_instance_like_any_other(world: World) -> None:
    """4.5.7, 4.11: it is seen by `deletedAt`."""
    await world.far.post("/entities", json=vehicle(speed=5))
    await world.far.delete(f"/entities/{V1}/attrs/speed")
    await world.register(operations=READS)
    (gone,) = (await history(world, timeproperty="deletedAt", **EVER))["speed"]
    assert gone["value"] == "urn:ngsi-ld:null"
    assert "deletedAt" in gone
    assert await speeds(world, timeproperty="createdAt", **EVER) == [5]
    assert (await history(world, timeproperty="createdAt", timerel="after", timeAt="2100-01-01T00:00:00Z")).keys() == {"id", "type"}


async def test_aggregates_are_of_the_whole_series(world: World) -> None:
    """4.5.19 over 5.7.4.4: not of each source's own."""
    await provide(world.near, speed=[at(1, 10), at(2, 20)])
    await provide(world.far, speed=[at(2, 20), at(3, 60)])
    await world.register(operations=READS)
    asked = {"format": "aggregatedValues", "aggrMethods": "avg,totalCount,distinctCount", "timerel": "between",
             "timeAt": "2026-01-01T00:00:00Z", "endTimeAt": "2026-01-01T00:10:00Z"}
    ends = ["2026-01-01T00:00:00Z", "2026-01-01T00:10:00Z"]
    found = {"type": "Property", "avg": [[30, *ends]], "totalCount": [[3, *ends]], "distinctCount": [[3, *ends]]}
    assert (await history(world, **asked))["speed"] == found
    (one,) = (await world.near.get("/temporal/entities", params={"type": "Vehicle", **asked})).json()
    assert one["speed"] == found
    by_minute = (await history(world, **asked, aggrPeriodDuration="PT2M"))["speed"]["avg"]
    assert [value for value, _, _ in by_minute] == [10, 40]


async def test_a_query_is_the_union_and_its_pages_part_it(world: World) -> None:
    """5.7.4.4, 5.5.9: each source judges its own; by POST as by GET (6.24)."""
    for n in range(4):
        await provide(world.near, f"urn:ngsi-ld:Vehicle:{n}", speed=[at(1, n)])
        await provide(world.far, f"urn:ngsi-ld:Vehicle:{n + 2}", speed=[at(2, 10 * n)], scope=[at(1, "/Far")])
    await world.register(operations=READS)
    seen: list[str] = []
    url: str | None = "/temporal/entities?type=Vehicle&timerel=after&timeAt=2020-01-01T00:00:00Z&limit=4&count=true"
    while url:
        page = await world.near.get(url)
        assert page.headers["ngsild-results-count"] == "6"
        seen += [item["id"][-1] for item in page.json()]
        links = [part for part in page.headers.get_list("link") if 'rel="next"' in part]
        url = links[0].partition("<")[2].partition(">")[0].removeprefix("/ngsi-ld/v1") if links else None
    assert seen == list("012345")
    assert await matching(world, limit="2", offset="3") == ["3", "4"]
    assert await matching(world, q="speed>=20") == ["4", "5"]
    assert await matching(world, scopeQ="/Far") == ["2", "3", "4", "5"]
    assert await matching(world, idPattern="[05]$") == ["0", "5"]
    assert await matching(world, local="true") == ["0", "1", "2", "3"]
    posted = await world.near.post("/temporal/entityOperations/query", json={
        "type": "Query", "entities": [{"type": "Vehicle"}], "q": "speed==30", "temporalQ": EVER})
    assert [item["speed"][0]["value"] for item in posted.json()] == [30]
    ordered = await world.near.get("/temporal/entities", params={"type": "Vehicle", **EVER, "orderBy": "id"})
    assert ordered.status_code == 400


async def test_filters_that_cannot_travel_are_applied_here(world: World) -> None:
    """4.3.6.6: an inline context has no address to give; what `q` names is judged by the house."""
    context = {"speed": "https://example.org/speed"}
    for id, value in (("urn:ngsi-ld:Vehicle:1", 10), ("urn:ngsi-ld:Vehicle:2", 90)):
        body = {**series(id, speed=[at(1, value)], load=[at(1, 1)]), "@context": context}
        await world.far.post("/temporal/entities", json=body, headers={"content-type": "application/ld+json"})
    await world.register(operations=READS)
    found = await world.near.post("/temporal/entityOperations/query", headers={"content-type": "application/ld+json"}, json={
        "@context": context, "type": "Query", "entities": [{"type": "Vehicle"}], "q": "speed>50", "attrs": ["load"],
        "temporalQ": EVER})
    assert [(item["id"][-1], item.keys()) for item in found.json()] == [("2", {"id", "type", "load"})]


async def test_where_a_source_cuts_its_history_the_answer_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """6.3.10: 206 with a Content-Range; who asks on from there gets all of it. Aggregates ask on by themselves."""
    await provide(world.near, speed=[at(minute, minute) for minute in range(0, 20, 2)])
    await provide(world.far, speed=[at(minute, minute) for minute in range(1, 20, 2)])
    await provide(world.far, "urn:ngsi-ld:Vehicle:2", speed=[at(minute, minute) for minute in range(30)])
    await world.register(operations=READS)
    world.far_door.history.limit = 4
    first = await world.near.get(T1)
    assert (first.status_code, first.headers["content-range"]) == (
        206, "date-time 2026-01-01T00:00:00-2026-01-01T00:07:00/*")
    assert [item["value"] for item in first.json()["speed"]] == list(range(8))
    newest = await world.near.get(T1, params={"lastN": "8"})
    assert [item["value"] for item in newest.json()["speed"]] == list(range(13, 20))
    assert newest.headers["content-range"] == "date-time 2026-01-01T00:19:00-2026-01-01T00:13:00/8"
    seen, start = set(), "2026-01-01T00:00:00Z"
    for _ in range(9):
        page = await world.near.get("/temporal/entities", params={"type": "Vehicle", "timerel": "after", "timeAt": start,
                                                                  "limit": "1"})
        seen |= {item["value"] for item in page.json()[0]["speed"]}
        if page.status_code == 200:
            break
        start = page.headers["content-range"].removeprefix("date-time ")[20:39] + "Z"
    assert seen == set(range(20))
    counted = {**EVER, "format": "aggregatedValues", "aggrMethods": "totalCount"}
    one = (await world.near.get(T1, params=counted)).json()
    assert one["speed"]["totalCount"][0][0] == 20
    monkeypatch.setattr(source_history, "IDS", 1)  # each of a page asked for apart
    both = (await world.near.get("/temporal/entities", params={"type": "Vehicle", **counted})).json()
    assert [item["speed"]["totalCount"][0][0] for item in both] == [20, 30]


async def test_a_source_is_asked_on_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_history, "MAX_LIMIT", 2)
    for n in range(5):
        await provide(world.far, f"urn:ngsi-ld:Vehicle:{n}", speed=[at(1, n)])
    await world.register(operations=READS)
    assert await matching(world) == list("01234")
    monkeypatch.setattr(source_history, "MAX_INSTANCES", 4)
    many = await world.near.get("/temporal/entities", params={"type": "Vehicle", **EVER})
    assert (many.status_code, many.json()["type"].rpartition("/")[2]) == (403, "TooManyResults")


async def test_auxiliary_histories_only_fill_gaps(world: World) -> None:
    """4.3.6.2: an auxiliary source "never overrides data held directly"."""
    await provide(world.near, speed=[at(1, 10)])
    await provide(world.far, speed=[at(2, 20)], colour=[at(1, "red")])
    await world.register(operations=READS, mode="auxiliary")
    assert await speeds(world) == [10]
    assert (await history(world))["colour"][0]["value"] == "red"


async def test_what_is_held_elsewhere_alone_is_not_taken_from_here(world: World) -> None:
    """4.3.6.3, for sources that offer the history; one that does not leaves it to the house."""
    await provide(world.near, speed=[at(1, 10)], brand=[at(1, "A")])
    info = [{"entities": [{"type": "Vehicle", "id": V1}], "propertyNames": ["speed"]}]
    id = await world.register(information=info, mode="exclusive", operations=["retrieveEntity"])
    assert await speeds(world) == [10]
    await world.near.patch(f"/csourceRegistrations/{id}", json={"operations": READS})
    assert (await history(world)).keys() == {"id", "type", "brand"}
    await provide(world.far, speed=[at(2, 20)], colour=[at(2, "red")])
    assert await speeds(world) == [20]
    assert (await history(world)).keys() == {"id", "type", "speed", "brand"}
    (found,) = (await world.near.get("/temporal/entities", params={"type": "Vehicle", **EVER})).json()
    assert [item["value"] for item in found["speed"]] == [20]


async def test_a_source_is_asked_for_no_more_than_it_offers(world: World) -> None:
    """4.3.6.1, and 5.2.9: a query "is matched against the observationInterval for overlap"."""
    info = [{"entities": [{"type": "Vehicle", "idPattern": "Vehicle:1$"}], "propertyNames": ["speed"]}]
    interval = {"startAt": "2026-01-01T00:00:00Z", "endAt": "2026-02-01T00:00:00Z"}
    await world.register(to="source", information=info, operations=READS, observationInterval=interval)
    answer = series(speed=[at(1, 1, instanceId="urn:i:1", createdAt="2026-01-02T00:00:00Z"), at(2, 2, instanceId="urn:i:2")],
                    secret=[at(1, 2)])
    world.source.answer("GET", T1, 200, answer)
    world.source.answer("GET", "/temporal/entities", 200, [answer])
    found = await history(world, options="sysAttrs")
    assert found.keys() == {"id", "type", "speed"}  # times that the source does not tell are not made up
    assert [(item["instanceId"], item.get("createdAt")) for item in found["speed"]] == [
        ("urn:i:1", "2026-01-02T00:00:00Z"), ("urn:i:2", None)]
    assert "attrs=speed" in world.source.seen[0][1]
    assert await matching(world, q="speed>0", lastN="3") == ["1"]
    asked = world.source.seen[1][1].partition("?")[2]
    assert asked == ("type=Vehicle&idPattern=Vehicle:1$&attrs=speed&q=speed%3E0&timerel=after&timeAt=2000-01-01T00:00:00Z"
                     "&lastN=3&options=sysAttrs&limit=1000").replace("$", "%24"), asked
    for path in ("/temporal/entities/urn:ngsi-ld:Vehicle:2", f"{T1}?attrs=colour", f"{T1}?local=true",
                 f"{T1}?timerel=after&timeAt=2026-03-01T00:00:00Z", f"{T1}?timerel=after&timeAt=2026-01-01T00:00:00Z&timeproperty=createdAt",
                 "/temporal/entities?type=Bus&timerel=after&timeAt=2026-01-01T00:00:00Z",
                 "/temporal/entities?type=Vehicle&timerel=before&timeAt=2025-01-01T00:00:00Z", f"/entities/{V1}"):
        await world.near.get(path)
    assert len(world.source.seen) == 2


async def test_a_source_without_retrieval_is_queried(world: World) -> None:
    await provide(world.far, speed=[at(1, 10)])
    await world.register(operations=["queryTemporal"])
    assert await speeds(world) == [10]


async def test_what_a_source_does_wrong_is_a_warning_for_readers(world: World) -> None:
    """Table 6.3.17-1; a 404 "should not be considered as abnormal"."""
    await provide(world.near, speed=[at(1, 1)])
    id = await world.register(to="source", operations=READS)
    for status, body, code in ((404, {}, None), (500, {}, "299"), (200, b"no json", "111"), (200, {"id": 1}, "111"),
                               (200, {**series(), "speed": [{"type": "Nonsense"}]}, "111"), (200, [], None)):
        world.source.answer("GET", T1, status, body)
        world.source.answer("GET", "/temporal/entities", status, body)
        for path in (T1, f"/temporal/entities?type=Vehicle&timerel=after&timeAt={EVER['timeAt']}"):
            answer = await world.near.get(path)
            found = answer.json() if path == T1 else answer.json()[0]
            assert found["speed"][0]["value"] == 1
            warning = answer.headers.get("ngsild-warning")
            if path == T1:
                assert (warning is None) if code is None else (warning or "").startswith(f"{code} {id} "), (status, warning)
    await world.near.delete(f"/csourceRegistrations/{id}")
    await world.register("http://127.0.0.1:9", operations=READS)
    answer = await world.near.get("/temporal/entities/urn:ngsi-ld:Vehicle:404")
    assert answer.status_code == 404
    assert answer.headers["ngsild-warning"].startswith("199 ")


async def test_a_slow_source_is_given_up(world: World) -> None:
    """5.2.34: timeout in milliseconds."""
    world.source.pause = 30.0
    await provide(world.near, speed=[at(1, 1)])
    await world.register(to="source", operations=READS, management={"timeout": 100})
    answer = await world.near.get(T1)
    assert answer.json()["speed"][0]["value"] == 1
    assert answer.headers["ngsild-warning"].startswith("199 ")


async def test_loops_end(world: World) -> None:
    """6.3.18: a request that has been here does not go on; a source in the chain is not asked."""
    await provide(world.near, speed=[at(1, 1)])
    await world.register(to="source", contextSourceAlias="met-before", operations=READS)
    await world.near.get(T1, headers={"via": "1.1 met-before"})
    alias = (await world.near.get("/info/sourceIdentity")).json()["contextSourceAlias"]
    answer = await world.near.get(T1, headers={"via": f"1.1 {alias}"})
    assert answer.json()["speed"][0]["value"] == 1
    assert "loop" in answer.headers["ngsild-warning"]
    await world.register(to="source", mode="redirect", operations=WRITES, information=[{"entities": [{"id": "urn:x:1"}]}])
    assert (await world.near.delete("/temporal/entities/urn:x:1", headers={"via": f"1.1 {alias}"})).status_code == 508
    assert world.source.seen == []


async def test_a_map_of_histories_says_where_they_are_held(world: World) -> None:
    """5.7.4.4, 5.2.39: '@none' and the registrations; a query by the map answers from there."""
    await provide(world.near, "urn:ngsi-ld:Vehicle:0", speed=[at(1, 1)])
    for n in range(2):
        await provide(world.far, f"urn:ngsi-ld:Vehicle:{n}", speed=[at(2, 2)])
    id = await world.register(operations=READS)
    made = await world.near.get("/temporal/entities", params={"type": "Vehicle", **EVER, "entityMap": "true"})
    assert made.status_code == 201
    where = made.headers["ngsild-entitymap"]
    map_ = (await world.near.get(where.removeprefix("/ngsi-ld/v1"))).json()["entityMap"]
    assert map_ == {"urn:ngsi-ld:Vehicle:0": ["@none", id], "urn:ngsi-ld:Vehicle:1": [id]}
    again = await world.near.get("/temporal/entities", params={"type": "Vehicle", **EVER}, headers={"ngsild-entitymap": where})
    assert [[i["value"] for i in item["speed"]] for item in again.json()] == [[1, 2], [2]]
    one = await world.near.get("/temporal/entities/urn:ngsi-ld:Vehicle:1?entityMap=true")
    map_ = (await world.near.get(one.headers["ngsild-entitymap"].removeprefix("/ngsi-ld/v1"))).json()["entityMap"]
    assert map_ == {"urn:ngsi-ld:Vehicle:1": [id]}


# ---- writing


async def there(world: World, id: str = V1) -> dict[str, list[Any]]:
    """What the far house holds: values by attribute."""
    answer = await world.far.get(f"/temporal/entities/{id}")
    return {} if answer.status_code == 404 else {
        name: [item["value"] for item in own] for name, own in answer.json().items() if name not in ("id", "type")}


async def here(world: World, id: str = V1) -> dict[str, list[Any]]:
    """The same of the near house alone."""
    answer = await world.near.get(f"/temporal/entities/{id}?local=true")
    return {} if answer.status_code == 404 else {
        name: [item["value"] for item in own] for name, own in answer.json().items() if name not in ("id", "type")}


async def test_a_history_is_written_where_its_parts_belong(world: World) -> None:
    """5.6.11 to 5.6.16 over 4.3.6.3: an exclusive source gets its attributes and nothing else, and the house no more of them."""
    info = [{"entities": [{"type": "Vehicle", "id": V1}], "propertyNames": ["speed"]}]
    await world.register(information=info, mode="exclusive", operations=[*READS, *WRITES])
    made = await world.near.post("/temporal/entities", json=series(speed=[at(1, 10)], brand=[at(1, "A")]))
    assert (made.status_code, made.headers["location"]) == (201, f"/ngsi-ld/v1{T1}")
    assert (await here(world), await there(world)) == ({"brand": ["A"]}, {"speed": [10]})
    assert (await world.near.post("/temporal/entities", json=series(speed=[at(2, 20)]))).status_code == 204
    assert (await world.near.post(f"{T1}/attrs", json={"speed": [at(3, 30)], "brand": [at(2, "B")]})).status_code == 204
    assert (await here(world), await there(world)) == ({"brand": ["A", "B"]}, {"speed": [10, 20, 30]})
    found = await history(world)
    second, first_brand = found["speed"][1]["instanceId"], found["brand"][0]["instanceId"]
    assert (await world.near.patch(f"{T1}/attrs/speed/{second}", json={"value": 21})).status_code == 204
    assert (await world.near.delete(f"{T1}/attrs/speed/{found['speed'][0]['instanceId']}")).status_code == 204
    assert (await world.near.patch(f"{T1}/attrs/brand/{first_brand}", json={"value": "C"})).status_code == 204
    assert (await here(world), await there(world)) == ({"brand": ["C", "B"]}, {"speed": [21, 30]})
    assert (await world.near.delete(f"{T1}/attrs/speed/urn:ngsi-ld:Instance:none")).status_code == 404
    assert (await world.near.delete(f"{T1}/attrs/speed")).status_code == 204
    assert (await there(world)).keys() == set()
    assert (await world.near.delete(T1)).status_code == 204
    assert (await world.near.get(T1)).status_code == 404


async def test_an_instance_is_changed_wherever_it_is(world: World) -> None:
    """5.6.14, 5.6.15: of several who have the attribute one has the instance."""
    await provide(world.near, speed=[at(1, 10)])
    await provide(world.far, speed=[at(2, 20)])
    await world.register(operations=[*READS, *WRITES])
    one, two = (item["instanceId"] for item in (await history(world))["speed"])
    for id, value in ((one, 11), (two, 21)):
        assert (await world.near.patch(f"{T1}/attrs/speed/{id}", json={"value": value})).status_code == 204
    assert (await here(world), await there(world)) == ({"speed": [11]}, {"speed": [21]})
    for id in (one, two):
        assert (await world.near.delete(f"{T1}/attrs/speed/{id}")).status_code == 204
    assert (await world.near.delete(f"{T1}/attrs/speed/{two}")).status_code == 404


async def test_both_have_what_an_inclusive_source_is_offered(world: World) -> None:
    """4.3.6.2; 6.3.17: what was done in part is a 207."""
    id = await world.register(operations=WRITES)
    assert (await world.near.post("/temporal/entities", json=series(speed=[at(1, 10)]))).status_code == 201
    assert await here(world) == await there(world) == {"speed": [10]}
    await world.near.delete(f"/csourceRegistrations/{id}")
    id = await world.register(to="source", operations=WRITES)
    world.source.answer("POST", "/temporal/entities", 500, {"title": "broken"})
    world.source.answer("POST", f"{T1}/attrs", 500, {"title": "broken"})
    partly = await world.near.post("/temporal/entities", json=series(speed=[at(2, 20)]))
    assert partly.status_code == 207
    assert partly.json()["success"] == [V1]
    assert [(item["entityId"], item["registrationId"]) for item in partly.json()["errors"]] == [(V1, id)]
    partly = await world.near.post(f"{T1}/attrs", json={"speed": [at(3, 30)]})
    assert (partly.status_code, partly.json()["notUpdated"][0]["registrationId"]) == (207, id)
    assert (await here(world))["speed"] == [10, 20, 30]


async def test_who_alone_may_hold_it_must_offer_the_operation(world: World) -> None:
    """4.3.6.3: else a Conflict, and nothing is written here."""
    await world.register(to="source", mode="redirect", operations=["retrieveEntity"])
    answer = await world.near.post("/temporal/entities", json=series(speed=[at(1, 10)]))
    assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (409, "Conflict")
    assert world.source.seen == []
    assert await here(world) == {}


# ---- who may


async def test_the_policy_decides_before_anything_leaves_the_house(world: World) -> None:
    await provide(world.near, speed=[at(1, 10)])
    await world.register(to="source", operations=[*READS, *WRITES])
    writes = (
        ("POST", "/temporal/entities", series(speed=[at(1, 1)])), ("POST", f"{T1}/attrs", {"speed": [at(1, 1)]}),
        ("DELETE", f"{T1}/attrs/speed", None), ("PATCH", f"{T1}/attrs/speed/urn:i:1", {"value": 1}),
        ("DELETE", f"{T1}/attrs/speed/urn:i:1", None), ("DELETE", T1, None),
    )
    world.near.headers["authorization"] = "Bearer xiamen-viewer"
    for method, path, body in writes:
        assert (await world.near.request(method, path, json=body)).status_code == 403, (method, path)
    world.near.headers["authorization"] = "Bearer stranger"
    assert (await world.near.get(T1)).status_code in (403, 404)
    assert (await world.near.get("/temporal/entities", params={"type": "Vehicle", **EVER})).status_code in (403, 404)
    world.near.headers["authorization"] = "Bearer fuzhou"  # 4.14: another tenant's registrations
    await world.near.get(T1)
    await world.near.get("/temporal/entities", params={"type": "Vehicle", **EVER})
    assert (await world.near.post("/temporal/entities", json=series(speed=[at(1, 1)]))).status_code == 201
    assert (await world.near.delete(T1)).status_code == 204
    assert world.source.seen == []
