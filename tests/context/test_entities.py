"""Entities through the door (CIM 009 v1.9.1, 5.6, 5.7, 6): every operation, and what hostile input gets."""

from __future__ import annotations

from typing import Any

import httpx
import orjson

from tulou.context import ContextService
from tulou.context.jsonld import CORE as CORE_CONTEXT
from tulou.context.transient import Transient
from tulou.kernel.house import House

from .conftest import execute

KIND = "AirQualityStation"
CORE = "https://uri.etsi.org/ngsi-ld/v1/ngsi-ld-core-context-v1.9.jsonld"
REL = 'rel="http://www.w3.org/ns/json-ld#context"; type="application/ld+json"'


def station(n: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": f"urn:ngsi-ld:{KIND}:{n}", "type": KIND, "name": {"type": "Property", "value": f"站 {n}"},
        "pm25": {"type": "Property", "value": n, "observedAt": "2026-01-01T00:00:00Z", "unitCode": "GQ"},
        "location": {"type": "GeoProperty", "value": {"type": "Point", "coordinates": [118.0 + n / 100, 24.5]}}, **more,
    }


def path(n: int = 1) -> str:
    return f"/entities/urn:ngsi-ld:{KIND}:{n}"


async def test_create_retrieve_delete(api: httpx.AsyncClient) -> None:
    made = await api.post("/entities", json=station())
    assert made.status_code == 201
    assert made.headers["location"] == "/ngsi-ld/v1" + path()
    assert (await api.post("/entities", json=station())).status_code == 409
    found = await api.get(path())
    assert found.status_code == 200
    assert found.json() == station()
    assert "tulou.jsonld" in found.headers["link"]
    assert (await api.delete(path())).status_code == 204
    assert (await api.get(path())).status_code == 404
    assert (await api.delete(path())).status_code == 404


async def test_contexts_of_requests(api: httpx.AsyncClient) -> None:
    await api.post("/entities", json=station())
    full = (await api.get(path(), headers={"link": f"<{CORE}>; {REL}"})).json()
    assert full["https://smartdatamodels.org/dataModel.Environment/pm25"]["value"] == 1
    ld = (await api.get(path(), headers={"accept": "application/ld+json"})).json()
    assert ld["@context"][0].endswith("/ngsi-ld/contexts/tulou.jsonld")
    served = await api.get("http://tulou.test/ngsi-ld/contexts/tulou.jsonld")
    assert served.json()["@context"][0]["pm25"].startswith("https://smartdatamodels.org/")
    made = await api.post("/entities", content=orjson.dumps({
        "@context": [{"Stufe": "https://smartdatamodels.org/dataModel.Environment/pm25"}, CORE], "id": "urn:x:2", "type": KIND, "Stufe": 7,
    }), headers={"content-type": "application/ld+json"})
    assert made.status_code == 201
    assert (await api.get("/entities/urn:x:2")).json()["pm25"]["value"] == 7
    unknown = await api.get(path(), headers={"link": f"<https://e.org/none.jsonld>; {REL}"})
    assert unknown.status_code == 504
    assert unknown.json()["type"].endswith("/LdContextNotAvailable")
    stored = await api.post("/jsonldContexts", json={"@context": {"feinstaub": "https://smartdatamodels.org/dataModel.Environment/pm25"}})
    url = stored.headers["location"]
    shown = (await api.get(path(), headers={"link": f"<http://tulou.test{url}>; {REL}"})).json()
    assert shown["feinstaub"]["value"] == 1
    for address in (f"http://tulou.test{url}", "http://tulou.test/ngsi-ld/contexts/tulou.jsonld"):
        served = await api.get(address, headers={"accept": "application/ld+json"})
        assert (served.status_code, served.headers["content-type"]) == (200, "application/ld+json")
        again = await api.get(address, headers={"accept": "application/ld+json", "if-none-match": f'"other", W/{served.headers["etag"]}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", served.headers["etag"])
        assert (await api.get(address, headers={"if-none-match": '"other"'})).content == served.content


HOSTILE: list[tuple[bytes, dict[str, str], int]] = [
    (b"{", {"content-type": "application/json"}, 400), (b"", {"content-type": "application/json"}, 400),
    (b"[" * 10_000 + b"]" * 10_000, {"content-type": "application/json"}, 400),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, {"content-type": "application/json"}, 400),
    (b'{"id":"urn:x:1","type":"T","a":NaN}', {"content-type": "application/json"}, 400),
    (b'{"id":"urn:x:1","type":"T","a":Infinity}', {"content-type": "application/json"}, 400),
    (b'{"id":"urn:x:1","type":"T","a":1e400}', {"content-type": "application/json"}, 400),
    (b'{"id":"urn:x:1","type":"T","a":"\xff"}', {"content-type": "application/json"}, 400),
    (b'{"id":"urn:x:1","type":"T","a":"\\u0000"}', {"content-type": "application/json"}, 400),
    (b'{"id":"urn:x:1","type":"T","a":{"type":"Property","value":' + b"[" * 500 + b"]" * 500 + b"}}",
     {"content-type": "application/json"}, 400),
    (b"<x/>", {"content-type": "text/xml"}, 415), (b"{}", {}, 415),
    (b'{"@context":[],"id":"urn:x:1","type":"T"}', {"content-type": "application/json"}, 400),
    (b'{"id":"urn:x:1","type":"T"}', {"content-type": "application/ld+json"}, 400),
    (b'{"id":"urn:x:1","type":"T"}', {"content-type": "application/json", "accept": "image/png"}, 201),
]


async def test_hostile_bodies(api: httpx.AsyncClient) -> None:
    for body, headers, status in HOSTILE:
        answer = await api.post("/entities", content=body, headers=headers)
        assert answer.status_code == status, body[:60]
        if status == 400:
            problem = answer.json()
            assert problem["type"].rpartition("/")[2] in ("BadRequestData", "InvalidRequest")
            assert problem["detail_zh"]
        assert (await api.get("/types")).status_code == 200


async def test_too_large_and_without_length(api: httpx.AsyncClient) -> None:
    answer = await api.post("/entities", content=b"x", headers={"content-type": "application/json", "content-length": "99999999999"})
    assert answer.status_code == 413

    async def chunks() -> Any:
        yield b"{}"

    assert (await api.post("/entities", content=chunks(), headers={"content-type": "application/json"})).status_code == 411


async def test_representations(api: httpx.AsyncClient) -> None:
    await api.post("/entities", json=station())
    simple = (await api.get(path(), params={"options": "keyValues"})).json()
    assert simple["pm25"] == 1
    assert (await api.get(path(), params={"format": "concise"})).json()["name"] == "站 1"
    place = await api.get(path(), headers={"accept": "application/geo+json"})
    assert place.headers["content-type"] == "application/geo+json"
    assert place.json()["geometry"] == {"type": "Point", "coordinates": [118.01, 24.5]}
    assert set((await api.get(path(), params={"attrs": "pm25"})).json()) == {"id", "type", "pm25"}
    assert set((await api.get(path(), params={"pick": "id,pm25"})).json()) == {"id", "pm25"}
    assert "pm25" not in (await api.get(path(), params={"omit": "pm25"})).json()
    assert (await api.get(path(), params={"attrs": "nothing"})).status_code == 404
    refused = await api.get(path(), params={"nonsense": "1"})
    assert refused.json()["type"].endswith("InvalidRequest")
    # 5.5.3: "implementations shall use the standard JSON MIME type ("application/json") when reporting errors"
    assert refused.headers["content-type"] == "application/json"
    assert "createdAt" in (await api.get(path(), params={"options": "sysAttrs"})).json()["pm25"]
    assert (await api.get(path(), headers={"accept": "image/png"})).status_code == 406
    assert (await api.put("/types")).status_code == 405
    assert (await api.get("/nonsense")).status_code == 404


async def test_updates(api: httpx.AsyncClient) -> None:
    await api.post("/entities", json=station())
    assert (await api.patch(path() + "/attrs/pm25", json={"value": 9})).status_code == 204
    kept = (await api.get(path())).json()["pm25"]
    assert kept == {"type": "Property", "value": 9, "observedAt": "2026-01-01T00:00:00Z", "unitCode": "GQ"}  # 5.6.4 merges
    assert (await api.patch(path() + "/attrs", json={"pm25": {"type": "Property", "value": 10}})).status_code == 204
    assert (await api.get(path())).json()["pm25"] == {"type": "Property", "value": 10}  # 5.6.2 replaces
    refused = await api.patch(path() + "/attrs", json={"added": 1, "pm25": 11, "scope": "/Fujian"})  # 5.6.2
    assert refused.status_code == 207
    assert refused.json()["notUpdated"][0]["attributeName"] == CORE_CONTEXT.expand("scope")
    assert (await api.get(path())).json()["added"] == {"type": "Property", "value": 1}
    assert (await api.post(path() + "/attrs", json={"extra": 1})).status_code == 204
    once = await api.post(path() + "/attrs?options=noOverwrite", json={"extra": 2, "more": 3})
    assert once.status_code == 207
    assert once.json()["updated"] == [CORE_CONTEXT.expand("more")]
    assert (await api.patch(path(), json={"extra": {"value": {"a": 1, "b": 2}}, "more": "urn:ngsi-ld:null"})).status_code == 204
    assert (await api.patch(path(), json={"extra": {"value": {"b": 3}}})).status_code == 204
    merged = (await api.get(path())).json()
    assert merged["extra"]["value"] == {"a": 1, "b": 3}
    assert "more" not in merged
    two = {"type": "Property", "value": 5, "datasetId": "urn:d:1"}
    await api.post(path() + "/attrs", json={"pm25": two})
    assert len((await api.get(path())).json()["pm25"]) == 2
    assert (await api.delete(path() + "/attrs/pm25?datasetId=urn:d:1")).status_code == 204
    assert (await api.delete(path() + "/attrs/pm25")).status_code == 204
    assert (await api.delete(path() + "/attrs/pm25")).status_code == 404
    assert (await api.put(path(), json={"type": KIND, "only": 1})).status_code == 204
    assert set((await api.get(path())).json()) == {"id", "type", "only"}
    assert (await api.patch("/entities/urn:x:none/attrs", json={"a": 1})).status_code == 404


async def test_system_times_follow_changes(api: httpx.AsyncClient) -> None:
    await api.post("/entities", json=station())
    before = (await api.get(path(), params={"options": "sysAttrs"})).json()
    await api.patch(path() + "/attrs", json={"pm25": 2})
    after = (await api.get(path(), params={"options": "sysAttrs"})).json()
    assert after["createdAt"] == before["createdAt"]
    assert after["modifiedAt"] > before["modifiedAt"]
    assert after["name"]["modifiedAt"] == before["name"]["modifiedAt"]
    assert after["pm25"]["modifiedAt"] > after["pm25"]["createdAt"]
    moment = before["modifiedAt"]
    found = await api.get("/entities", params={"type": KIND, "q": f"pm25.modifiedAt>{moment}"})
    assert len(found.json()) == 1
    assert (await api.get("/entities", params={"type": KIND, "q": f"name.modifiedAt>{moment}"})).json() == []


async def test_query(api: httpx.AsyncClient) -> None:
    await api.post("/entityOperations/create", json=[station(n) for n in range(1, 31)])
    await api.post("/entities", json={"id": "urn:x:both", "type": [KIND, "Landmark"], "pm25": 100})

    async def ids(**parameters: Any) -> list[str]:
        answer = await api.get("/entities", params={"limit": 100, **parameters})
        assert answer.status_code == 200, answer.text
        return [item["id"].rpartition(":")[2] for item in answer.json()]

    assert await ids(type=KIND, q="pm25>=29") == ["29", "30", "both"]
    assert await ids(type="Landmark") == ["both"]
    assert await ids(type=f"({KIND};Landmark),Nothing") == ["both"]
    assert await ids(type=KIND, idPattern=":[12]$") == ["1", "2"]
    assert await ids(type=KIND, id=f"urn:ngsi-ld:{KIND}:3,urn:ngsi-ld:{KIND}:4") == ["3", "4"]
    assert await ids(attrs="location", q='name=="站 7"|name~=^站.*8$') == ["7", "8", "18", "28"]
    near = {"georel": "near;maxDistance==1500", "geometry": "Point", "coordinates": "[118.05,24.5]"}
    assert await ids(type=KIND, **near) == ["4", "5", "6"]
    box = {"georel": "within", "geometry": "Polygon",
           "coordinates": "[[[118.095,24],[118.125,24],[118.125,25],[118.095,25],[118.095,24]]]"}
    assert await ids(**box) == ["10", "11", "12"]
    assert await ids(type=KIND, q="pm25>10", **box) == ["11", "12"]
    assert len(await ids(georel="disjoint", geometry="Polygon", coordinates=box["coordinates"])) == 27
    answer = await api.get("/entities", params={"type": KIND, "limit": 0, "count": "true"})
    assert (answer.json(), answer.headers["ngsild-results-count"]) == ([], "31")
    by_post = await api.post("/entityOperations/query", json={
        "type": "Query", "entities": [{"type": KIND, "idPattern": ".*:1$"}], "q": "pm25<5", "attrs": ["pm25"]})
    assert [set(item) for item in by_post.json()] == [{"id", "type", "pm25"}]
    for bad in ({}, {"type": KIND, "limit": "-1"}, {"type": KIND, "limit": "x"}, {"type": KIND, "q": "a=="}, {"type": KIND, "cursor": "x"},
                {"type": KIND, "idPattern": "("}, {"type": "(("}, {"georel": "near", "geometry": "Point", "coordinates": "[1,1]"},
                {"georel": "within", "geometry": "Point", "coordinates": "[1"}, {"type": KIND, "offset": "99999999999"}, {"id": "no"}):
        answer = await api.get("/entities", params=bad)
        assert answer.status_code == 400, bad
    assert (await api.get("/entities", params={"type": KIND, "limit": "5000"})).status_code == 403


async def test_paging_there_and_back(api: httpx.AsyncClient) -> None:
    await api.post("/entityOperations/create", json=[station(n) for n in range(25)])
    box = {"georel": "within", "geometry": "Polygon", "coordinates": "[[[117,24],[119,24],[119,25],[117,25],[117,24]]]"}
    for extra in ({}, box):
        url: str | None = "/entities?" + str(httpx.QueryParams({"type": KIND, "limit": 10, **extra}))
        seen: list[str] = []
        pages: list[httpx.Response] = []
        while url:
            answer = await api.get(url)
            pages.append(answer)
            seen += [item["id"] for item in answer.json()]
            url = answer.links.get("next", {}).get("url")
            url = f"http://tulou.test{url}" if url else None
            if len(pages) == 1 and not extra:
                await api.delete(path(3))  # what was shown is deleted: nothing is repeated or left out after it
        assert len(seen) == len(set(seen)) == (25 if not extra else 24)
        back = await api.get("http://tulou.test" + pages[-1].links["prev"]["url"])
        assert [item["id"] for item in back.json()] == [item["id"] for item in pages[-2].json()]
        assert "prev" not in pages[0].links


async def test_batches(api: httpx.AsyncClient, ground: House) -> None:
    created = await api.post("/entityOperations/create", json=[station(1), station(2)])
    assert (created.status_code, len(created.json())) == (201, 2)
    again = await api.post("/entityOperations/create", json=[station(2), station(3), station(3), {"id": "urn:x:9"}, 7])
    assert again.status_code == 207
    assert again.json()["success"] == [f"urn:ngsi-ld:{KIND}:3"]
    assert len(again.json()["errors"]) == 4
    assert all(item["error"]["type"] for item in again.json()["errors"])
    assert (await api.post("/entityOperations/upsert", json=[station(1, pm25=77), station(2)])).status_code == 204
    assert (await api.get(path(1))).json()["pm25"]["value"] == 77
    assert (await api.post("/entityOperations/upsert?options=update", json=[{"id": station(1)["id"], "type": KIND, "x": 1}])).status_code == 204
    assert {"x", "pm25"} <= (await api.get(path(1))).json().keys()
    mixed = await api.post("/entityOperations/upsert", json=[station(1), station(40)])
    assert (mixed.status_code, mixed.json()) == (201, [f"urn:ngsi-ld:{KIND}:40"])
    update = await api.post("/entityOperations/update", json=[{"id": station(1)["id"], "pm25": 3}, {"id": "urn:x:none", "pm25": 3}])
    assert (update.status_code, update.json()["errors"][0]["entityId"]) == (207, "urn:x:none")
    assert (await api.post("/entityOperations/merge", json=[{"id": station(1)["id"], "pm25": "urn:ngsi-ld:null"}])).status_code == 204
    assert "pm25" not in (await api.get(path(1))).json()
    twice = await api.post("/entityOperations/upsert", json=[station(50, pm25=1), station(50, pm25=2)])
    assert twice.status_code in (201, 204)
    assert (await api.get(path(50))).json()["pm25"]["value"] == 2
    gone = await api.post("/entityOperations/delete", json=[station(1)["id"], "urn:x:none"])
    assert (gone.status_code, gone.json()["success"]) == (207, [station(1)["id"]])
    for bad in ([], {}, "x"):
        assert (await api.post("/entityOperations/upsert", json=bad)).status_code == 400
    assert execute(ground, "SELECT count(*) FROM entities")[0][0] == 4


async def test_synthetic_stays_labelled(api: httpx.AsyncClient, service: ContextService, ground: House) -> None:
    no = await service.ensure_entity("xiamen", KIND, station()["id"], "合成", 118.0, 24.5, True)
    assert no == await service.ensure_entity("xiamen", KIND, station()["id"], "合成", 118.0, 24.5, True)
    await api.delete(path() + "/attrs/synthetic")
    await api.put(path(), json={"type": KIND, "pm25": 1})
    await api.post("/entityOperations/upsert", json=[station()])
    await api.patch(path(), json={"synthetic": False})
    assert (await api.get(path())).json()["synthetic"] == {"type": "Property", "value": True}
    assert bool(execute(ground, "SELECT synthetic FROM entities")[0][0]) is True


async def test_discovery(api: httpx.AsyncClient) -> None:
    await api.post("/entities", json=station())
    await api.post("/entities", json={"id": "urn:x:1", "type": ["Landmark", KIND], "pm25": {"object": "urn:x:2"}})
    assert (await api.get("/types")).json()["typeList"] == [KIND, "Landmark"]
    about = (await api.get(f"/types/{KIND}")).json()
    assert about["entityCount"] == 2
    pm25 = (await api.get("/attributes/pm25")).json()
    assert (pm25["attributeCount"], pm25["attributeTypes"]) == (2, ["Property", "Relationship"])
    assert (await api.get("/types/None")).status_code == 404
    assert "location" in (await api.get("/attributes")).json()["attributeList"]


async def test_a_type_selector_gates_every_write(api: httpx.AsyncClient) -> None:
    """5.6.2 to 5.6.6, 5.6.17, 5.6.18 with 4.17: an entity of another type is not found."""
    await api.post("/entities", json=station(extra=1))
    await api.post("/entities", json={"id": "urn:x:plain", "type": "Plain"})
    for url in (path(), "/entities/urn:x:plain"):
        assert (await api.get(url, params={"type": "Landmark"})).status_code == 404
        assert (await api.get(url, params={"type": f"{KIND},Plain"})).status_code == 200
    for method, url, body in (
        ("PATCH", path(), {"pm25": 2}), ("PUT", path(), {"type": KIND, "pm25": 2}), ("POST", path() + "/attrs", {"pm25": 2}),
        ("PATCH", path() + "/attrs", {"pm25": 2}), ("PATCH", path() + "/attrs/pm25", {"value": 2}),
        ("PUT", path() + "/attrs/pm25", {"type": "Property", "value": 2}), ("DELETE", path() + "/attrs/pm25", None), ("DELETE", path(), None),
    ):
        assert (await api.request(method, url, params={"type": "Landmark"}, json=body)).status_code == 404, (method, url)
        assert (await api.get(path())).json()["pm25"]["value"] == 1
        answer = await api.request(method, url, params={"type": f"{KIND},Landmark"}, json=body)
        assert answer.status_code == 204, answer.text
        await api.post("/entityOperations/upsert", json=[station()])


async def test_purge_of_attributes(api: httpx.AsyncClient) -> None:
    """5.6.21: `drop` names what goes, `keep` what stays; the entities stay either way."""
    await api.post("/entityOperations/create", json=[station(n) for n in range(3)] + [{"id": "urn:x:1", "type": "Other", "pm25": 1}])
    assert (await api.delete("/entities", params={"type": KIND, "drop": "pm25", "q": "pm25>0"})).status_code == 204
    assert ["pm25" in (await api.get(path(n))).json() for n in range(3)] == [True, False, False]
    assert (await api.delete("/entities", params={"type": KIND, "keep": "name"})).status_code == 204
    assert (await api.get(path(0))).json().keys() == {"id", "type", "name"}
    assert "pm25" in (await api.get("/entities/urn:x:1")).json()
    assert (await api.get("/entities", params={"georel": "near;maxDistance==9000000", "geometry": "Point", "coordinates": "[118,24]"})).json() == []
    for bad in ({"type": KIND, "keep": "a", "drop": "b"}, {"drop": "a"}, {"attrs": "createdAt"}, {"q": 'modifiedAt>"2020-01-01T00:00:00Z"'}):
        assert (await api.delete("/entities", params=bad)).status_code == 400, bad


async def test_null_is_refused_but_where_it_deletes(api: httpx.AsyncClient) -> None:
    """5.5.4: not in creations, and inside values only where an entity is merged."""
    null = "urn:ngsi-ld:null"
    for bad in ({"id": null}, {"scope": null}, {"pm25": null}, {"a": {"value": {"k": {"m": null}}}}, {"a": {"json": {"k": null}}},
                {"a": {"languageMap": {"@none": null}}}, {"a": {"value": 1, "datasetId": null}}):
        assert (await api.post("/entities", json=station(**bad))).status_code == 400, bad
    await api.post("/entities", json=station(address={"value": {"a": 1, "b": 2}}, words={"languageMap": {"zh": "x"}}))
    assert (await api.patch(path() + "/attrs/address", json={"value": {"a": null}})).status_code == 400
    assert (await api.patch(path() + "/attrs/pm25", json={"datasetId": null})).status_code == 400
    assert (await api.patch(path(), json={"address": {"value": {"a": null}}})).status_code == 204
    assert (await api.get(path())).json()["address"]["value"] == {"b": 2}
    assert (await api.patch(path() + "/attrs", json={"words": {"languageMap": {"@none": null}}})).status_code == 204
    assert "words" not in (await api.get(path())).json()
    mixed = await api.post("/entityOperations/create", json=[station(9), None])
    assert (mixed.status_code, (await api.get(path(9))).status_code) == (400, 404)


async def test_what_the_standard_defines_by_name(api: httpx.AsyncClient) -> None:
    """4.5.2.2 ngsildproof, 4.7.1 location, 4.7.2 encoded geometries, 4.5.5.1 @none, 5.2.32 valueType."""
    proof = {"type": "Property", "entityIdSealed": "urn:x:1", "entityTypeSealed": KIND, "value": {"type": "DataIntegrityProof"}}
    text = '{"type": "Point", "coordinates": [117.5, 24]}'
    made = await api.post("/entities", json=station(
        ngsildproof=proof, observationSpace={"type": "GeoProperty", "value": text},
        two=[{"type": "Property", "value": 1, "datasetId": "@none"}, {"type": "Property", "value": 2, "datasetId": "urn:d:1"}]))
    assert made.status_code == 201, made.text
    found = (await api.get(path())).json()
    assert found["ngsildproof"] == proof
    assert found["observationSpace"]["value"]["coordinates"] == [117.5, 24]
    assert found["two"][0] == {"type": "Property", "value": 1}
    for bad in ({"location": 5}, {"location": {"type": "Property", "value": 5}}, {"location": {"type": "GeoProperty", "value": "{"}},
                {"ngsildproof": {"type": "Property", "value": "x"}}, {"ngsildproof": {**proof, "entityIdSealed": 5}},
                {"a": {"type": "Property", "value": 1, "entityIdSealed": "urn:x:1"}}, {"type": "type"},
                {"a": {"type": "LanguageProperty", "languageMap": {"en": "x"}, "valueType": "text"}},
                {"a": [{"type": "Property", "value": 1}, {"type": "Property", "value": 1, "datasetId": "@none"}]}):
        assert (await api.post("/entities", json={**station(2), **bad})).status_code == 400, bad


async def test_transient_attributes(api: httpx.AsyncClient) -> None:
    """4.22: an attribute, an instance and a sub-attribute are gone when their time has come; the others stay."""
    past, future = "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z"
    await api.post("/entities", json=station(
        gone={"value": 1, "expiresAt": past}, stays={"value": 1, "expiresAt": future, "sub": {"value": 2, "expiresAt": past}},
        some=[{"type": "Property", "value": 1}, {"type": "Property", "value": 2, "datasetId": "urn:d:1", "expiresAt": past}]))
    for parameters in ({}, {"format": "concise"}, {"options": "sysAttrs"}, {"pick": "gone,stays,some"}):
        one = (await api.get(path(), params=parameters)).json()
        listed = (await api.get("/entities", params={"type": KIND, **parameters})).json()[0]
        assert listed == one
        assert "gone" not in one
        if parameters.get("format") == "concise":
            assert one["stays"] == 1
        else:
            assert ("expiresAt" in one["stays"]) is ("options" in parameters)
            assert "sub" not in one["stays"]
        assert not isinstance(one["some"], list)
    assert (await api.patch(path() + "/attrs/gone", json={"value": 2})).status_code == 404
    assert (await api.post(path() + "/attrs?options=noOverwrite", json={"gone": 3})).status_code == 204
    assert (await api.get(path())).json()["gone"]["value"] == 3


async def test_what_has_expired_is_cleaned(api: httpx.AsyncClient, ground: House, service: ContextService) -> None:
    """4.22: the store forgets it, too; queries and counts then agree with the answers."""
    past, future = "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z"
    await api.post("/entityOperations/create", json=[
        station(1, gone={"value": 1, "expiresAt": past}), station(2, kept={"value": 1, "expiresAt": future}), station(3)])
    before = (await api.get(path(1), params={"options": "sysAttrs"})).json()
    worker = Transient(ground, service)
    assert (await worker.turn(), await worker.turn()) == (1, 0)
    assert len(execute(ground, "SELECT no FROM transient_entities")) == 1  # what still holds one
    assert "gone" not in execute(ground, f"SELECT CAST(doc AS TEXT) FROM entities WHERE id='{station(1)['id']}'")[0][0]
    answer = await api.get("/entities", params={"type": KIND, "q": "gone|kept", "count": "true"})
    assert ([item["id"] for item in answer.json()], answer.headers["ngsild-results-count"]) == ([station(2)["id"]], "1")
    after = (await api.get(path(1), params={"options": "sysAttrs"})).json()
    assert after["pm25"] == before["pm25"]


async def test_the_context_of_an_answer(api: httpx.AsyncClient) -> None:
    """5.5.5: the house's context serves where none is given; an answer names it only where a name of the house's needs it."""
    await api.post("/entities", json=station())
    await api.post("/entities", json={"id": "urn:x:plain", "type": "Plain", "colour": "red"})
    house, core = (await api.get(path())).headers["link"], (await api.get("/entities/urn:x:plain")).headers["link"]
    assert "tulou.jsonld" in house
    assert core == f"<{CORE}>; {REL}"
    for parameters in ({"options": "keyValues"}, {"attrs": "colour"}, {"options": "sysAttrs"}):
        assert (await api.get("/entities/urn:x:plain", params=parameters)).headers["link"] == core
    assert (await api.get("/entities", params={"type": "Plain"})).headers["link"] == core
    assert "tulou.jsonld" in (await api.get("/entities", params={"type": f"Plain,{KIND}"})).headers["link"]
    ld = await api.get("/entities/urn:x:plain", headers={"accept": "application/ld+json"})
    assert ld.json()["@context"] == CORE
    assert (await api.get("/entities/urn:x:plain", headers={"ngsild-tenant": "xiamen"})).headers["ngsild-tenant"] == "xiamen"


async def test_offsets_lead_to_offsets(api: httpx.AsyncClient) -> None:
    """6.3.10: who pages by offset is led on by offsets."""
    await api.post("/entityOperations/create", json=[station(n) for n in range(5)])
    middle = await api.get("/entities", params={"type": KIND, "limit": 2, "offset": 2})
    assert middle.links["next"]["url"] == f"/ngsi-ld/v1/entities?limit=2&offset=4&type={KIND}"
    assert middle.links["prev"]["url"] == f"/ngsi-ld/v1/entities?limit=2&offset=0&type={KIND}"
    assert "cursor=" in (await api.get("/entities", params={"type": KIND, "limit": 2})).links["next"]["url"]


async def test_vocabulary_words_are_iris(api: httpx.AsyncClient) -> None:
    """4.9, EXAMPLE 12: a word equals a VocabProperty through expandValues, or as its IRI."""
    await api.post("/entities", json=station(category={"vocab": "commercial"}))
    whole = "https://uri.etsi.org/ngsi-ld/default-context/commercial"
    for q, expand, hits in (("category==commercial", "category", 1), ("category==commercial", None, 0), (f'category=="{whole}"', None, 1),
                            ("category!=commercial", "category", 0), ("category!=commercial", None, 1)):
        parameters = {"type": KIND, "q": q, **({"expandValues": expand} if expand else {})}
        assert len((await api.get("/entities", params=parameters)).json()) == hits, q


async def test_an_earlier_version_is_preferred(api: httpx.AsyncClient) -> None:
    """4.3.6.8: kinds that the version does not know become Properties, and the answer says so."""
    await api.post("/entities", json=station(
        word={"vocab": "x", "sub": {"json": {"a": 1}}}, row={"type": "ListRelationship", "objectList": ["urn:x:1"]}, text={"languageMap": {"zh": "y"}}))
    old = await api.get(path(), headers={"prefer": "return=representation, ngsi-ld=1.5"})
    assert (old.status_code, old.headers["preference-applied"]) == (203, "ngsi-ld=1.5")
    assert old.json()["word"] == {"type": "Property", "value": "x", "sub": {"type": "Property", "value": {"a": 1}}}
    assert old.json()["row"] == {"type": "Relationship", "object": ["urn:x:1"]}
    assert old.json()["text"]["type"] == "LanguageProperty"
    listed = await api.get("/entities", params={"type": KIND}, headers={"prefer": "ngsi-ld=1.3"})
    assert (listed.status_code, listed.json()[0]["text"]) == (203, {"type": "Property", "value": {"zh": "y"}})
    new = await api.get(path(), headers={"prefer": "ngsi-ld=1.9"})
    assert (new.status_code, new.headers["preference-applied"], new.json()["word"]["type"]) == (200, "ngsi-ld=1.9", "VocabProperty")
