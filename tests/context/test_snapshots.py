"""Snapshots (CIM 009 v1.9.1, 5.16, 6.3.22): a moment that stays, for those who may see what is in it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tulou.context import snapshots
from tulou.kernel.house import House

from .conftest import execute


async def make(api: httpx.AsyncClient, *queries: dict[str, Any], **more: Any) -> str:
    answer = await api.post("/snapshots", json={
        "type": "Snapshot", "snapshotQueries": [{"type": "Query", **query} for query in queries], **more})
    assert answer.status_code == 201, answer.text
    return answer.headers["location"].rpartition("/")[2]


@pytest.fixture
async def cars(api: httpx.AsyncClient) -> httpx.AsyncClient:
    await api.post("/entityOperations/create", json=[
        {"id": f"urn:x:{n}", "type": "Car", "speed": n * 10, "location": {"type": "Point", "coordinates": [118 + n / 10, 24]},
         "next": {"object": f"urn:x:{n + 1}"}}
        for n in range(6)
    ])
    return api


async def test_a_snapshot_is_a_moment(cars: httpx.AsyncClient) -> None:
    id = await make(cars, {"entities": [{"type": "Car"}], "q": "speed>=20"}, {"entities": [{"type": "Car"}], "geoQ": {
        "georel": "near;maxDistance==1000", "geometry": "Point", "coordinates": [118, 24]}})
    status = (await cars.get(f"/snapshots/{id}")).json()
    assert (status["snapshotStatus"], status["snapshotPriority"]) == ("success", 5)
    assert [item["resultStatus"] for item in status["snapshotQueriesDetails"]] == ["success", "success"]
    assert {"createdAt", "lastUsedAt", "expiresAt"} <= status.keys()
    await cars.patch("/entities/urn:x:3", json={"speed": 1})
    await cars.delete("/entities/urn:x:4")
    await cars.post("/entities", json={"id": "urn:x:9", "type": "Car", "speed": 90})
    then = {"ngsild-snapshot": id}

    async def ids(**parameters: Any) -> list[str]:
        answer = await cars.get("/entities", params={"type": "Car", **parameters}, headers=then)
        assert (answer.status_code, answer.headers["ngsild-snapshot"]) == (200, id), answer.text
        return [item["id"].rpartition(":")[2] for item in answer.json()]

    assert sorted(await ids()) == ["0", "2", "3", "4", "5"]
    assert await ids(q="speed==30") == ["3"]
    assert await ids(orderBy="speed;desc", limit=2) == ["5", "4"]
    assert await ids(georel="near;maxDistance==1000", geometry="Point", coordinates="[118.4,24]") == ["4"]
    assert await ids(q="next{speed}==40", join="inline") == ["3"]
    one = (await cars.get("/entities/urn:x:3", params={"join": "inline"}, headers=then)).json()
    assert (one["speed"]["value"], one["next"]["entity"]["speed"]["value"]) == (30, 40)
    posted = await cars.post("/entityOperations/query", json={"type": "Query", "entities": [{"type": "Car"}]}, headers=then)
    assert len(posted.json()) == 5
    assert (await cars.get("/entities/urn:x:9", headers=then)).status_code == 404
    assert (await cars.patch("/entities/urn:x:3", json={"speed": 2}, headers=then)).status_code == 422
    assert (await cars.get("/types", headers=then)).status_code == 422
    assert (await cars.get("/entities?type=Car", headers={"ngsild-snapshot": "urn:x:none"})).status_code == 404


async def test_update_clone_delete_purge(cars: httpx.AsyncClient, ground: House) -> None:
    id = await make(cars, {"entities": [{"type": "Car"}]})
    changed = await cars.patch(f"/snapshots/{id}", json={"snapshotPriority": 2, "snapshotLifetime": "P2D"})
    assert (changed.status_code, changed.json()["snapshotPriority"]) == (200, 2)
    copy = (await cars.post(f"/snapshots/{id}/clone", json={"type": "Snapshot", "snapshotPriority": 9})).headers["location"]
    copy = copy.rpartition("/")[2]
    assert (await cars.delete("/snapshots", params={"q": "snapshotPriority<5"})).status_code == 204
    assert (await cars.get(f"/snapshots/{id}")).status_code == 404
    assert (await cars.get(f"/snapshots/{copy}")).json()["snapshotStatus"] == "success"
    assert len((await cars.get("/entities?type=Car", headers={"ngsild-snapshot": copy})).json()) == 6
    for q in ("speed>50", "snapshotPriority.x==1", None):
        assert (await cars.delete("/snapshots", params={"q": q} if q else {})).status_code == 400
    assert (await cars.delete("/snapshots", params={"q": 'createdAt>"2020-01-01T00:00:00Z";snapshotStatus=="success"'})).status_code == 204
    assert execute(ground, "SELECT count(*) FROM snapshot_entities")[0][0] == 0
    assert (await cars.delete(f"/snapshots/{copy}")).status_code == 404


async def test_what_is_refused(cars: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = [{"type": "Query", "entities": [{"type": "Car"}]}]
    for bad in ({"type": "Snapshot"}, {"type": "X", "snapshotQueries": queries}, {"type": "Snapshot", "snapshotQueries": []},
                {"type": "Snapshot", "snapshotQueries": [{**queries[0], "temporalQ": {}}]},
                {"type": "Snapshot", "snapshotQueries": queries, "snapshotPriority": 11},
                {"type": "Snapshot", "snapshotQueries": queries, "snapshotLifetime": "soon"},
                {"type": "Snapshot", "snapshotQueries": queries, "snapshotStatus": "success"},
                {"type": "Snapshot", "snapshotQueries": queries, "id": "no uri"},
                {"type": "Snapshot", "snapshotQueries": [{"type": "Query", "q": "a=="}]}):
        assert (await cars.post("/snapshots", json=bad)).status_code == 400, bad
    offered = await cars.post("/snapshots", json={"type": "Snapshot", "snapshotQueries": queries, "endpoint": {"uri": "http://a/"}})
    assert (offered.status_code, offered.json()["type"].rpartition("/")[2]) == (422, "OperationNotSupported")
    id = await make(cars, {"entities": [{"type": "Car"}]}, id="urn:x:snap")
    assert (await cars.post("/snapshots", json={"type": "Snapshot", "snapshotQueries": queries, "id": id})).status_code == 409
    assert (await cars.patch(f"/snapshots/{id}", json={"snapshotQueries": []})).status_code == 400
    monkeypatch.setattr(snapshots, "MAX_ENTITIES", 3)
    half = await make(cars, {"entities": [{"type": "Nothing"}]}, {"entities": [{"type": "Car"}]})
    assert (await cars.get(f"/snapshots/{half}")).json()["snapshotStatus"] == "partial"


async def test_a_stranger_neither_sees_nor_infers(door: Any, cars: httpx.AsyncClient) -> None:
    id = await make(cars, {"entities": [{"type": "Car"}]})
    for who in ("fuzhou", "stranger"):
        other = door(who)
        for answer in (await other.get(f"/snapshots/{id}"), await other.get("/entities?type=Car", headers={"ngsild-snapshot": id}),
                       await other.patch(f"/snapshots/{id}", json={"snapshotPriority": 1}), await other.delete(f"/snapshots/{id}"),
                       await other.post(f"/snapshots/{id}/clone", json={})):
            assert answer.status_code in (403, 404), answer.text
            assert "urn:x:" not in answer.text
    viewer = door("xiamen-viewer")
    assert len((await viewer.get("/entities?type=Car", headers={"ngsild-snapshot": id})).json()) == 6
    assert (await viewer.delete(f"/snapshots/{id}")).status_code == 403
    # a snapshot of two organisations shows each his own part
    await door("fuzhou").post("/entities", json={"id": "urn:f:1", "type": "Car"})
    whole = (await door("admin").post("/snapshots", json={"type": "Snapshot", "snapshotQueries": [
        {"type": "Query", "entities": [{"type": "Car"}]}]}, headers={"ngsild-tenant": "xiamen"})).headers["location"].rpartition("/")[2]
    assert (await door("fuzhou").get("/entities?type=Car", headers={"ngsild-snapshot": whole})).status_code == 404
