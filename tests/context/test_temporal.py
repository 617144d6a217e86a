"""The temporal representation of entities: what is provided, what writes leave, and how it is asked for.

The sentences are of ETSI GS CIM 009 v1.9.1.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tulou.context import ContextService, journal
from tulou.context.routes import Door
from tulou.context.temporal import Temporal
from tulou.kernel.house import House
from tulou.kernel.policy import Orgs

from .conftest import ByName, execute
from .test_current_state import KIND, T0, stored

EVER = {"timerel": "after", "timeAt": "1970-01-01T00:00:00Z"}
X = "/temporal/entities/urn:x:1"


def at(minute: int, value: Any, **more: Any) -> dict[str, Any]:
    return {"type": "Property", "value": value, "observedAt": f"2026-01-01T00:{minute:02d}:00Z", **more}


async def provide(api: httpx.AsyncClient, id: str = "urn:x:1", type: Any = "Vehicle", **attributes: Any) -> int:
    return (await api.post("/temporal/entities", json={"id": id, "type": type, **attributes})).status_code


async def evolution(api: httpx.AsyncClient, id: str = "urn:x:1", **parameters: Any) -> Any:
    answer = await api.get(f"/temporal/entities/{id}", params=parameters)
    assert answer.status_code in (200, 206), answer.text
    return answer.json()


async def values(api: httpx.AsyncClient, name: str = "speed", **parameters: Any) -> list[Any]:
    return [item["value"] for item in (await evolution(api, **parameters)).get(name, [])]


async def matching(api: httpx.AsyncClient, **parameters: Any) -> list[str]:
    answer = await api.get("/temporal/entities", params={**EVER, **parameters})
    assert answer.status_code == 200, answer.text
    return [item["id"].rpartition(":")[2] for item in answer.json()]


# ---- 5.6.11 to 5.6.16: provision


async def test_a_history_without_a_current_state(api: httpx.AsyncClient) -> None:
    assert await provide(api, speed=[at(1, 10), at(2, 20)]) == 201
    assert (await api.get("/entities/urn:x:1")).status_code == 404
    assert (await api.get("/entities", params={"type": "Vehicle"})).json() == []
    found = await evolution(api)
    assert [(i["value"], i["observedAt"]) for i in found["speed"]] == [(10, "2026-01-01T00:01:00Z"), (20, "2026-01-01T00:02:00Z")]
    # "If the NGSI-LD endpoint already knows about this Temporal Evolution": more is added, types are joined
    assert await provide(api, type=["Vehicle", "Truck"], speed=[at(3, 30)], fuel=at(3, 1)) == 204
    assert (await evolution(api))["type"] == ["Vehicle", "Truck"]
    assert await values(api) == [10, 20, 30]
    assert await matching(api, type="Truck") == ["1"]


async def test_what_was_observed_at_one_time_is_one_instance(api: httpx.AsyncClient) -> None:
    await provide(api, speed=[at(1, 10), at(2, 20), at(2, 21, datasetId="urn:d")])
    await provide(api, speed=[at(2, 22)])
    assert await values(api) == [10, 21, 22]
    assert await values(api, timeproperty="modifiedAt") == [10, 20, 21, 22]
    shown = {i["value"]: i["instanceId"] for i in (await evolution(api))["speed"]}
    assert (await api.delete(f"{X}/attrs/speed/{shown[22]}")).status_code == 204
    assert await values(api) == [10, 21]  # what it had taken the place of does not come back


async def test_an_instance_is_modified_and_keeps_its_id(api: httpx.AsyncClient) -> None:
    await provide(api, speed=[at(1, 10), at(2, 20)], name="x")
    before = (await evolution(api, options="sysAttrs"))["speed"]
    one = before[0]["instanceId"]
    assert (await api.patch(f"{X}/attrs/speed/{one}", json={"type": "Property", "value": 11})).status_code == 204
    after = (await evolution(api, options="sysAttrs"))["speed"]
    assert [(i["value"], i["instanceId"]) for i in after] == [(11, one), (20, before[1]["instanceId"])]
    assert after[0]["observedAt"] == before[0]["observedAt"]
    assert after[0]["createdAt"] == before[0]["createdAt"] < after[0]["modifiedAt"]
    assert (await api.patch(f"{X}/attrs/speed/{one}", json={"type": "Relationship", "object": "urn:o"})).status_code == 400
    assert (await api.delete(f"{X}/attrs/speed/{one}")).status_code == 204
    assert (await api.delete(f"{X}/attrs/speed/{one}")).status_code == 404
    left = (await evolution(api))["speed"]
    assert [(i["value"], i["instanceId"]) for i in left] == [(20, before[1]["instanceId"])]
    for path, status in ((f"{X}/attrs/speed/x", 400), (f"{X}/attrs/other/{before[1]['instanceId']}", 404),
                         (f"{X}/attrs/speed/urn:ngsi-ld:Instance:0000000000000000-1-0.0", 404),
                         (f"/temporal/entities/urn:x:2/attrs/speed/{one}", 404)):
        assert (await api.delete(path)).status_code == status, path


async def test_attributes_are_added_and_deleted(api: httpx.AsyncClient) -> None:
    await provide(api, speed=[at(1, 10), at(2, 20, datasetId="urn:d")])
    assert (await api.post(f"{X}/attrs", json={"heading": [at(1, 90)]})).status_code == 204
    assert await values(api, "heading") == [90]
    assert (await api.post("/temporal/entities/urn:x:9/attrs", json={"heading": [at(1, 90)]})).status_code == 404
    assert (await api.post(f"{X}/attrs", json={})).status_code == 400
    # 5.6.13: without datasetId and deleteAll the default instances go
    assert (await api.delete(f"{X}/attrs/speed")).status_code == 204
    assert await values(api) == [20]
    assert (await api.delete(f"{X}/attrs/speed")).status_code == 404
    assert (await api.delete(f"{X}/attrs/speed?deleteAll=true")).status_code == 204
    assert "speed" not in await evolution(api)
    assert (await api.delete(X)).status_code == 204
    assert (await api.get(X)).status_code == 404
    assert (await api.delete(X)).status_code == 404


@pytest.mark.parametrize("bad", [
    {"type": "Vehicle"}, {"id": "x", "type": "Vehicle"}, {"id": "urn:x:1"}, {"id": "urn:x:1", "type": "V", "expiresAt": "urn:ngsi-ld:null"},
    {"id": "urn:x:1", "type": "V", "speed": [{"type": "Property"}]}, {"id": "urn:x:1", "type": "V", "speed": [{"type": "Nonsense", "value": 1}]},
    {"id": "urn:x:1", "type": "V", "speed": [{"type": "Property", "value": 1, "observedAt": "2026-01-01T00:00:00+08:00"}]},
    {"id": "urn:x:1", "type": "V", "scope": [{"type": "Property", "value": "a b"}]}, [],
])
async def test_what_is_no_temporal_entity_is_refused_and_nothing_is_stored(api: httpx.AsyncClient, ground: House, bad: Any) -> None:
    assert (await api.post("/temporal/entities", json=bad)).status_code == 400
    assert execute(ground, "SELECT (SELECT count(*) FROM attribute_history) + (SELECT count(*) FROM temporal_entities)")[0][0] == 0


# ---- what the core interface leaves


async def test_every_write_leaves_its_trace(api: httpx.AsyncClient) -> None:
    def value(number: int) -> dict[str, Any]:
        return {"type": "Property", "value": number}

    base = "/entities/urn:x:1"
    assert (await api.post("/entities", json={"id": "urn:x:1", "type": "Vehicle", "speed": value(1), "kept": value(0)})).status_code == 201
    await api.patch(f"{base}/attrs/speed", json=value(2))
    await api.patch(f"{base}/attrs", json={"speed": value(3)})
    await api.post(f"{base}/attrs", json={"speed": value(4)})
    await api.patch(base, json={"speed": value(5)})
    await api.put(f"{base}/attrs/speed", json=value(6))
    await api.put(base, json={"type": "Vehicle", "speed": value(7), "kept": value(0)})
    entity = {"id": "urn:x:1", "type": "Vehicle", "kept": value(0)}
    for number, kind in ((8, "upsert"), (9, "update"), (10, "merge"), (11, "upsert?options=update")):
        assert (await api.post(f"/entityOperations/{kind}", json=[{**entity, "speed": value(number)}])).status_code in (201, 204)
    assert await values(api) == list(range(1, 12))
    by_time = (await evolution(api, timeproperty="modifiedAt", options="temporalValues", **EVER))["speed"]["values"]
    assert by_time == sorted(by_time, key=lambda pair: pair[1])
    assert [pair[0] for pair in by_time] == list(range(1, 12))


async def test_only_what_changed_is_kept(api: httpx.AsyncClient) -> None:
    await api.post("/entities", json={"id": "urn:x:1", "type": "Vehicle", "name": "x", "speed": [
        {"type": "Property", "value": 1}, {"type": "Property", "value": 5, "datasetId": "urn:d"}]})
    await api.patch("/entities/urn:x:1/attrs/speed", json={"type": "Property", "value": 2})
    found = await evolution(api)
    assert len(found["name"]) == 1
    assert [(i["value"], i.get("datasetId")) for i in found["speed"]] == [(1, None), (5, "urn:d"), (2, None)]
    refused = await api.post("/entities", json={"id": "urn:x:1", "type": "Vehicle", "speed": {"type": "Property", "value": 9}})
    assert refused.status_code == 409
    assert len((await evolution(api))["speed"]) == 3  # a write that did not happen leaves nothing


async def test_the_end_of_an_attribute_is_told_by_deletedat(api: httpx.AsyncClient) -> None:
    for name, attribute, value in (
        ("speed", {"type": "Property", "value": 1}, {"value": "urn:ngsi-ld:null"}),
        ("parked", {"type": "Relationship", "object": "urn:o:1"}, {"object": "urn:ngsi-ld:null"}),
        ("label", {"type": "LanguageProperty", "languageMap": {"en": "x"}}, {"languageMap": {"@none": "urn:ngsi-ld:null"}}),
    ):
        await api.post("/entities", json={"id": "urn:x:1", "type": "Vehicle", name: attribute, "other": "x"})
        assert (await api.delete(f"/entities/urn:x:1/attrs/{name}")).status_code == 204
        found = await evolution(api, timeproperty="deletedAt")
        assert found.keys() == {"id", "type", name}
        (gone,) = found[name]
        assert {k: v for k, v in gone.items() if k not in ("instanceId", "deletedAt")} == {"type": attribute["type"], **value}
        assert "deletedAt" in gone
        assert len((await evolution(api))[name]) == 1
        await api.delete("/entities/urn:x:1")
    # a document that takes the place of another ends what it does not have any more
    await api.post("/entityOperations/upsert", json=[{"id": "urn:x:1", "type": "Vehicle", "speed": 1, "other": "x"}])
    await api.post("/entityOperations/upsert", json=[{"id": "urn:x:1", "type": "Vehicle", "other": "y"}])
    assert (await evolution(api, timeproperty="deletedAt", options="temporalValues"))["speed"]["values"][0][0] == "urn:ngsi-ld:null"


async def test_scopes_are_properties_with_a_time(api: httpx.AsyncClient) -> None:
    """4.5.6: "the observedAt sub-Property should be set as a copy of the modifiedAt sub-Property"."""
    await api.post("/entities", json={"id": "urn:x:1", "type": "Vehicle", "scope": "/Old"})
    await api.patch("/entities/urn:x:1", json={"scope": "/New"})
    await api.delete("/entities/urn:x:1/attrs/scope")
    old, new = (await evolution(api, options="sysAttrs"))["scope"]
    assert (old["value"], new["value"], new["type"]) == ("/Old", "/New", "Property")
    assert new["observedAt"] == new["modifiedAt"]
    assert (await evolution(api, timeproperty="deletedAt"))["scope"][0]["value"] == []


async def test_the_history_goes_with_the_entity(api: httpx.AsyncClient, service: ContextService, ground: House) -> None:
    await provide(api, speed=[at(1, 1)])
    await api.post("/entities", json={"id": "urn:x:1", "type": "Vehicle", "speed": {"type": "Property", "value": 2}})
    assert await values(api) == [1, 2]  # both are one entity's
    assert (await api.delete("/entities/urn:x:1")).status_code == 204
    assert (await api.get(X)).status_code == 404
    assert await provide(api, speed=[at(1, 3)]) == 201
    assert await values(api) == [3]
    while await ground.db.write(service.journal.sweep):
        pass
    assert execute(ground, "SELECT count(*) FROM attribute_history")[0][0] == 1
    assert execute(ground, "SELECT count(*) FROM removed_history")[0][0] == 0


async def test_where_rows_are_is_noted_once_and_placed_in_order(
    api: httpx.AsyncClient, service: ContextService, ground: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite an entity's rows are found through two tables, however the two share them; elsewhere by the index."""
    monkeypatch.setattr(journal, "RECENT", 7)
    monkeypatch.setattr(journal, "ROWS", 4)
    for turn in range(1, 8):
        await api.post("/entityOperations/upsert", json=[
            {"id": f"urn:x:{n}", "type": "Vehicle", "speed": at(60 - turn if n == 2 else turn, turn)} for n in (1, 2, 3)
        ])
    for n in (1, 2, 3):
        found = [item["value"] for item in (await evolution(api, f"urn:x:{n}"))["speed"]]
        assert sorted(found) == [1, 2, 3, 4, 5, 6, 7], n
        assert [item["value"] for item in (await evolution(api, f"urn:x:{n}", lastN=2))["speed"]] in ([6, 7], [7, 6], [2, 1], [1, 2])
    assert await values(api, timerel="between", timeAt=EVER["timeAt"], endTimeAt="2026-01-01T00:03:00Z") == [1, 2]
    one = (await evolution(api))["speed"][0]["instanceId"]
    assert (await api.patch(f"{X}/attrs/speed/{one}", json=at(30, 1))).status_code == 204
    assert await values(api, timerel="after", timeAt="2026-01-01T00:20:00Z") == [1]
    await api.delete("/entities/urn:x:3")
    while await ground.db.write(service.journal.sweep):
        pass
    if ground.db.dialect == "sqlite":
        placed, recent = (execute(ground, f"SELECT no,entity,last,first FROM history_{part}") for part in ("places", "recent"))
        assert placed
        assert sorted(placed + recent) == execute(ground, "SELECT no,entity,last,first FROM attribute_history ORDER BY no")


async def test_a_models_retention_bounds_its_history(api: httpx.AsyncClient, service: ContextService, ground: House) -> None:
    kind, days = next(iter(ground.retention().items()))
    for id, type in (("urn:x:1", kind), ("urn:x:2", "Kept")):
        await api.post("/entities", json={"id": id, "type": type, "speed": 1})
    with ground.db.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE attribute_history SET at=at-{(days + 1) * 86_400_000_000}")
    await api.patch("/entities/urn:x:1/attrs/speed", json={"type": "Property", "value": 2})
    await service.journal.retain(ground)
    assert await values(api) == [2]
    assert len((await evolution(api, "urn:x:2"))["speed"]) == 1


# ---- 4.11, 5.7.3, 5.7.4: asking


async def test_bounds(api: httpx.AsyncClient) -> None:
    """"before" is exclusive, "after" inclusive; of "between" the lower bound is included, the upper is not."""
    await provide(api, speed=[at(n, n) for n in range(1, 6)])
    three = "2026-01-01T00:03:00.000Z"
    assert await values(api, timerel="before", timeAt=three) == [1, 2]
    assert await values(api, timerel="after", timeAt=three) == [3, 4, 5]
    assert await values(api, timerel="between", timeAt="2026-01-01T00:02:00Z", endTimeAt=three) == [2]
    assert await values(api, lastN=2) == [4, 5]
    assert await values(api, lastN=2, timerel="before", timeAt=three) == [1, 2]
    for bad in ({"timerel": "during", "timeAt": three}, {"timerel": "between", "timeAt": three}, {"timerel": "after", "timeAt": "2026-01-01"},
                {"timeproperty": "seenAt"}, {"lastN": "0"}, {"lastN": "1.5"}):
        assert (await api.get(X, params=bad)).status_code == 400, bad


async def test_forms(api: httpx.AsyncClient) -> None:
    point = {"type": "Point", "coordinates": [1.0, 2.0]}
    await provide(
        api, speed=[at(1, 1, unitCode="KMH"), at(2, 2, datasetId="urn:d")], place={"type": "GeoProperty", "value": point},
        parts={"type": "ListProperty", "valueList": [1, 2]}, route={"type": "ListRelationship", "objectList": ["urn:a:1", "urn:a:2"]},
        label={"type": "LanguageProperty", "languageMap": {"en": "hello", "zh": "你好"}}, kind={"type": "VocabProperty", "vocab": "fast"},
        raw={"type": "JsonProperty", "json": {"a": 1}})
    found = await evolution(api, options="temporalValues")
    assert found["speed"] == [
        {"type": "Property", "values": [[1, "2026-01-01T00:01:00Z"]]},
        {"type": "Property", "datasetId": "urn:d", "values": [[2, "2026-01-01T00:02:00Z"]]},
    ]
    assert {name: found[name][key][0][0] for name, key in (
        ("place", "values"), ("parts", "valueLists"), ("route", "objectLists"), ("label", "languageMaps"), ("kind", "vocabs"), ("raw", "jsons"))
    } == {"place": point, "parts": [1, 2], "route": ["urn:a:1", "urn:a:2"], "label": {"languageMap": {"en": "hello", "zh": "你好"}},
          "kind": {"vocab": "fast"}, "raw": {"json": {"a": 1}}}
    assert (await evolution(api, lang="zh"))["label"][0]["value"] == "你好"
    assert (await evolution(api, pick="id,speed")).keys() == {"id", "speed"}
    assert (await evolution(api, attrs="speed", datasetId="@none"))["speed"][0]["value"] == 1
    assert "speed" not in await evolution(api, omit="speed,type")
    for params, status in (({"pick": "none"}, 404), ({"attrs": "none"}, 404), ({"pick": "a", "attrs": "b"}, 400), ({"pick": "speed", "omit": "speed"}, 400),
                           ({"options": "nonsense"}, 400), ({"format": "nonsense"}, 400)):
        assert (await api.get(X, params=params)).status_code == status, params


async def test_conditions_are_judged_on_the_instances_of_the_time(api: httpx.AsyncClient) -> None:
    """5.7.4.4: "checked against all the Attribute instances resulting from the initial filtering"."""
    await provide(api, "urn:x:1", speed=[at(1, 90), at(5, 10)], place={"type": "GeoProperty", "value": {"type": "Point", "coordinates": [1, 1]}, "observedAt": "2026-01-01T00:05:00Z"})
    await provide(api, "urn:x:2", speed=[at(5, 50), at(6, 10)], name=[at(5, "z")])
    await provide(api, "urn:x:3", speed=[at(1, 99)])
    window = {"type": "Vehicle", "timerel": "after", "timeAt": "2026-01-01T00:04:00Z"}
    assert await matching(api, **window) == ["1", "2"]
    assert await matching(api, **window, q="speed>40") == ["2"]
    assert await matching(api, **window, q="speed!=50") == ["1"]
    assert await matching(api, **window, q='speed>40;name=="z"') == ["2"]
    assert await matching(api, **window, q='speed>60|name=="z"') == ["2"]
    assert await matching(api, **window, attrs="name") == ["2"]
    assert await matching(api, **window, georel="near;maxDistance==10", geometry="Point", coordinates="[1,1]", geoproperty="place") == ["1"]
    assert await matching(api, type="Vehicle", id="urn:x:3") == ["3"]
    assert await matching(api, type="Vehicle", idPattern=".*2$") == ["2"]
    assert (await api.get("/temporal/entities", params={**EVER, "id": "urn:x:1"})).status_code == 400


async def test_instances_are_those_of_the_times_in_which_the_scope_matched(api: httpx.AsyncClient) -> None:
    await provide(api, "urn:x:1", scope=[at(1, "/A"), at(10, "/B")], speed=[at(5, 5), at(15, 15)])
    await provide(api, "urn:x:2", speed=[at(5, 5)])
    found = (await api.get("/temporal/entities", params={"type": "Vehicle", **EVER, "scopeQ": "/B"})).json()
    assert [(item["id"], [i["value"] for i in item["speed"]], [i["value"] for i in item["scope"]]) for item in found] == [("urn:x:1", [15], ["/B"])]
    # 4.18: "valid from the time it has been set"; 5.7.4.4 selects entities by it, with or without instances of those times
    await provide(api, "urn:x:3", scope=[at(10, "/B")], speed=[at(5, 5)])
    found = (await api.get("/temporal/entities", params={"type": "Vehicle", **EVER, "scopeQ": "/B", "id": "urn:x:3"})).json()
    assert [(item["id"], item.keys()) for item in found] == [("urn:x:3", {"id", "type", "scope"})]
    before = {"timerel": "before", "timeAt": "2026-01-01T00:08:00Z"}
    assert (await api.get("/temporal/entities", params={"type": "Vehicle", **before, "scopeQ": "/B"})).json() == []


async def test_pages_of_entities(api: httpx.AsyncClient) -> None:
    for n in range(7):
        if n % 2:
            await api.post("/entities", json={"id": f"urn:x:{n}", "type": "Vehicle", "speed": {"type": "Property", "value": n, "observedAt": "2026-01-01T00:01:00Z"}})
        else:
            await provide(api, f"urn:x:{n}", speed=[at(1, n)])
    params: dict[str, Any] = {"type": "Vehicle", "q": "speed>0", **EVER, "limit": "2", "count": "true"}
    seen: list[str] = []
    url: str | None = None
    while True:
        answer = await api.get("/temporal/entities", params=params) if url is None else await api.get(url)
        assert answer.headers["ngsild-results-count"] == "6"
        seen += [item["id"][-1] for item in answer.json()]
        url = answer.links.get("next", {}).get("url")
        if url is None:
            break
        url = "http://tulou.test" + url
    assert seen == ["1", "3", "5", "2", "4", "6"]
    assert [item["id"][-1] for item in (await api.get("http://tulou.test" + answer.links["prev"]["url"])).json()] == ["5", "2"]
    assert await matching(api, type="Vehicle", orderBy="id;desc", limit="3", offset="1") == ["5", "4", "3"]
    assert (await api.get("/temporal/entities", params={"type": "Vehicle", **EVER, "orderBy": "speed"})).status_code == 400


async def test_an_answer_that_is_too_large_is_cut_at_a_time_and_says_where(api: httpx.AsyncClient, ground: House) -> None:
    """6.3.10: forwards from the start of the time; with lastN backwards from its end."""
    await provide(api, speed=[at(n, n) for n in range(10)], fuel=[at(n, n) for n in range(5, 30)])
    ground.service(Temporal).limit = 12
    first = await api.get(X, params=EVER)
    assert first.status_code == 206
    assert first.headers["content-range"] == "date-time 1970-01-01T00:00:00-2026-01-01T00:07:00/*"
    assert ([i["value"] for i in first.json()["speed"]], [i["value"] for i in first.json()["fuel"]]) == ([0, 1, 2, 3, 4, 5, 6, 7], [5, 6, 7])
    newest = await api.get(X, params={"lastN": "20", "timerel": "before", "timeAt": "2026-02-01T00:00:00Z"})
    assert newest.headers["content-range"] == "date-time 2026-02-01T00:00:00-2026-01-01T00:18:00/20"
    assert ([i["value"] for i in newest.json()["fuel"]], newest.json()["speed"]) == (list(range(18, 30)), [])
    assert (await api.get(X, params={**EVER, "attrs": "speed"})).status_code == 200


async def test_aggregates(api: httpx.AsyncClient) -> None:
    await provide(api, speed=[at(0, 1), at(10, 3), at(40, 8)], name=[at(0, "b"), at(1, "a")], on=[at(0, True), at(1, False)])
    asked = {"options": "aggregatedValues", "aggrMethods": "avg,totalCount,max,stddev", "aggrPeriodDuration": "PT30M"}
    found = await evolution(api, timerel="after", timeAt="2026-01-01T00:00:00Z", **asked)
    assert found["speed"] == {"type": "Property",
        "avg": [[2.0, "2026-01-01T00:00:00Z", "2026-01-01T00:30:00Z"], [8.0, "2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"]],
        "totalCount": [[2, "2026-01-01T00:00:00Z", "2026-01-01T00:30:00Z"], [1, "2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"]],
        "max": [[3.0, "2026-01-01T00:00:00Z", "2026-01-01T00:30:00Z"], [8.0, "2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"]],
        "stddev": [[1.0, "2026-01-01T00:00:00Z", "2026-01-01T00:30:00Z"], [0.0, "2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"]]}
    assert (found["name"]["max"][0][0], found["on"]["avg"][0][0]) == ("b", 0.5)
    by_post = await api.post("/temporal/entityOperations/query", json={
        "type": "Query", "entities": [{"type": "Vehicle"}], "temporalQ": {**EVER, "aggrMethods": ["sum"]}})
    assert by_post.json()[0]["speed"]["sum"][0][0] == 12.0


# ---- whose it is


async def test_an_organisation_learns_nothing_of_anothers_history(door: Any) -> None:
    mine, theirs, viewer = door("xiamen"), door("fuzhou"), door("xiamen-viewer")
    assert await provide(mine, speed=[at(1, 1)]) == 201
    instance = (await evolution(mine))["speed"][0]["instanceId"]
    for call in (theirs.get(X), theirs.delete(X), theirs.post(f"{X}/attrs", json={"a": 1}), theirs.delete(f"{X}/attrs/speed"),
                 theirs.delete(f"{X}/attrs/speed/{instance}"), theirs.patch(f"{X}/attrs/speed/{instance}", json={"type": "Property", "value": 2}),
                 theirs.get(X, headers={"NGSILD-Tenant": "xiamen"})):
        assert (await call).status_code == 404
    assert await matching(theirs, type="Vehicle") == []
    assert await provide(theirs, speed=[at(1, 2)]) == 201  # as if there were none
    assert (await values(mine), await values(theirs)) == ([1], [2])
    assert (await evolution(theirs))["speed"][0]["instanceId"] != instance
    assert await values(viewer) == [1]
    assert await provide(viewer, "urn:x:5", speed=[at(1, 1)]) == 403
    assert (await viewer.delete(X)).status_code == 403


# ---- beside what devices sent


async def test_readings_and_the_journal_are_one_history(house: House) -> None:
    service = house.service(ContextService)
    no = await service.ensure_entity("xiamen", KIND, "urn:x:1", "站")
    await house.readings.insert(*stored(no, [10.0, 20.0, 30.0, 40.0]), "test")
    house.authenticator = ByName()  # type: ignore[assignment]
    transport = httpx.ASGITransport(Door(house))
    async with httpx.AsyncClient(transport=transport, base_url="http://t/ngsi-ld/v1", headers={"authorization": "Bearer xiamen"}) as api:
        await api.post("/temporal/entities", json={"id": "urn:x:1", "type": KIND, "pm25": [at(1, 21), at(9, 99)]})
        assert await values(api, "pm25") == [10.0, 21, 30.0, 40.0, 99]  # what was said later of the same minute stands
        assert await values(api, "pm25", lastN=2) == [40.0, 99]
        assert await values(api, "pm25", timeproperty="createdAt") == [21, 99]  # when a reading came is not kept
        assert await matching(api, type=KIND, q="pm25>35;pm25<36") == ["1"]
        assert await matching(api, type=KIND, q="pm25==40") == ["1"]
        assert await matching(api, type=KIND, q="pm25>100") == []
        total = await evolution(api, options="aggregatedValues", aggrMethods="max,min", **EVER)
        assert (total["pm25"]["max"][0][0], total["pm25"]["min"][0][0]) == (99.0, 10.0)
        reading = (await evolution(api))["pm25"][0]["instanceId"]
        for refused in (await api.delete(f"{X}/attrs/pm25/{reading}"), await api.delete(X), await api.delete(f"{X}/attrs/pm25")):
            assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (422, "OperationNotSupported")
        history = await house.readings.history([no], None, None, None, orgs=Orgs(True, frozenset()))
        assert [value.ts for value in history[no]["pm25"]] == [T0 + n * 60_000_000 for n in range(4)]


# ---- entity maps (5.5.14, 5.7.3.4, 5.7.4.4)


async def test_an_entity_map_fixes_which_histories_are_walked(api: httpx.AsyncClient, door: Any) -> None:
    for n in range(3):
        assert await provide(api, f"urn:x:{n}", speed=[at(1, n)]) == 201
    made = await api.get("/temporal/entities", params={**EVER, "type": "Vehicle", "limit": 2, "entityMap": "true"})
    assert (made.status_code, [item["id"] for item in made.json()]) == (201, ["urn:x:0", "urn:x:1"])
    assert 'rel="next"' in made.headers["link"]
    place = {"NGSILD-EntityMap": made.headers["ngsild-entitymap"]}
    shown = await api.get(made.headers["ngsild-entitymap"].removeprefix("/ngsi-ld/v1"))
    assert shown.json()["entityMap"] == {f"urn:x:{n}": ["@none"] for n in range(3)}
    # "If a live map is given it fixes the result": what came later is not in it, what went is not shown
    assert await provide(api, "urn:x:9", speed=[at(1, 9)]) == 201
    assert (await api.delete("/temporal/entities/urn:x:2")).status_code == 204
    for offset, ids in ((0, ["urn:x:0", "urn:x:1"]), (2, []), (4, [])):
        page = await api.get(
            "/temporal/entities", params={**EVER, "type": "Vehicle", "limit": 2, "offset": offset, "count": "true"}, headers=place
        )
        assert (page.status_code, [item["id"] for item in page.json()]) == (200, ids)
        assert page.headers["ngsild-entitymap"] == made.headers["ngsild-entitymap"]
        assert page.headers["ngsild-results-count"] == "3"
    one = await api.get("/temporal/entities", params={**EVER, "id": "urn:x:1,urn:x:9", "type": "Vehicle"}, headers=place)
    assert [item["id"] for item in one.json()] == ["urn:x:1"]
    # another's map, or none: "a new EntityMap shall be created"
    other = await door("xiamen-viewer").get("/temporal/entities", params={**EVER, "type": "Vehicle"}, headers=place)
    assert other.status_code == 201
    assert other.headers["ngsild-entitymap"] != made.headers["ngsild-entitymap"]
    retrieved = await api.get(X, params={**EVER, "entityMap": "true"})
    assert retrieved.status_code == 200
    own = await api.get(retrieved.headers["ngsild-entitymap"].removeprefix("/ngsi-ld/v1"))
    assert own.json()["entityMap"] == {"urn:x:1": ["@none"]}
    refused = await api.get("/temporal/entities", params={**EVER, "type": "Vehicle", "entityMap": "true", "nonsense": 1})
    assert refused.status_code == 400


async def test_which_context_names_a_history(api: httpx.AsyncClient) -> None:
    """5.5.5: as with entities, the house's default context names an answer only where a name in it needs that."""
    assert await provide(api, "urn:x:plain", "Plain", colour=[at(1, "red")]) == 201
    assert await provide(api, "urn:x:house", "Plain", colour=[at(1, "red")], pm25=[at(1, 2)]) == 201
    assert await provide(api, "urn:x:inner", "Plain", colour=[at(1, "red", pm25={"type": "Property", "value": 1})]) == 201
    for id, own in (("plain", False), ("house", True), ("inner", True)):
        one = await api.get(f"/temporal/entities/urn:x:{id}")
        some = await api.get("/temporal/entities", params={**EVER, "type": "Plain", "id": f"urn:x:{id}"})
        for answer in (one, some):
            assert ("tulou.jsonld" in answer.headers["link"]) is own, id
        assert "colour" in one.json()
