"""The order of entities (CIM 009 v1.9.1, 4.23, 5.2.43): what SQL sorts and what is sorted here agree."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tulou.context import ordering
from tulou.context.errors import BadRequestData
from tulou.context.jsonld import CORE

VALUES: list[Any] = [5, -1.5, 2**40, "b", "a", "B", "é", "", "厦门", True, False, [1], {"k": 1}]


@pytest.fixture
async def mixed(api: httpx.AsyncClient) -> httpx.AsyncClient:
    entities = [
        {"id": f"urn:x:{n:02}", "type": "Mixed", "v": {"type": "Property", "value": value, "sub": {"type": "Property", "value": -n}}}
        for n, value in enumerate(VALUES)
    ]
    entities += [
        {"id": "urn:x:90", "type": "Mixed"},
        {"id": "urn:x:91", "type": "Mixed", "v": [
            {"type": "Property", "value": 99, "datasetId": "urn:d:1"}, {"type": "Property", "value": 6}]},
        {"id": "urn:x:92", "type": "Mixed", "v": {"type": "Relationship", "object": "urn:x:1"}},
    ]
    made = await api.post("/entityOperations/create", json=entities)
    assert made.status_code == 201, made.text
    return api


async def ids(api: httpx.AsyncClient, **parameters: Any) -> list[str]:
    answer = await api.get("/entities", params={"type": "Mixed", "limit": 100, **parameters})
    assert answer.status_code == 200, answer.text
    return [item["id"].rpartition(":")[2] for item in answer.json()]


async def test_kinds_then_values_and_nothing_last(mixed: httpx.AsyncClient) -> None:
    rising = await ids(mixed, orderBy="v")
    assert rising[:4] == ["01", "00", "91", "02"]  # numbers, the default instance of several
    assert rising[4:11] == ["07", "05", "04", "03", "92", "06", "08"]  # texts by code point, a URI among them
    assert rising[11:] == ["12", "11", "10", "09", "90"]  # object, array, false, true; and what has none
    falling = await ids(mixed, orderBy="v;desc")
    assert falling == [*reversed(rising[:-1]), "90"]
    assert await ids(mixed, orderBy="v.sub") == [f"{n:02}" for n in range(len(VALUES) - 1, -1, -1)] + ["90", "91", "92"]


async def test_sorted_here_as_in_sql(mixed: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = ("v", "v;desc", "v.sub;desc", "id;desc", "type,v", "createdAt;desc,id", "v.createdAt,id;desc", "v[k],id", "modifiedAt")
    in_sql = [await ids(mixed, orderBy=text) for text in orders]
    monkeypatch.setattr(ordering.Ordering, "in_sql", property(lambda _self: False))
    assert [await ids(mixed, orderBy=text) for text in orders] == in_sql


async def test_pages_of_an_order(mixed: httpx.AsyncClient) -> None:
    whole = await ids(mixed, orderBy="v;desc,id")
    url: str | None = "/entities?" + str(httpx.QueryParams({"type": "Mixed", "limit": 5, "orderBy": "v;desc,id", "count": "true"}))
    seen: list[str] = []
    while url:
        answer = await mixed.get(url)
        assert answer.headers["ngsild-results-count"] == str(len(whole))
        seen += [item["id"].rpartition(":")[2] for item in answer.json()]
        url = answer.links.get("next", {}).get("url")
        url = f"http://tulou.test{url}" if url else None
    assert seen == whole
    assert "prev" in answer.links
    refused = await mixed.get("/entities", params={"type": "Mixed", "orderBy": "v", "cursor": "PjE"})
    assert refused.status_code == 400


async def test_distance(api: httpx.AsyncClient) -> None:
    for n, where in enumerate(([118.0, 24.0], [118.5, 24.0], [119.5, 24.0])):
        await api.post("/entities", json={"id": f"urn:x:{n}", "type": "Mixed", "location": {
            "type": "GeoProperty", "value": {"type": "Point", "coordinates": where}}})
    line = {"type": "LineString", "coordinates": [[118.9, 23], [118.9, 25]]}
    await api.post("/entities", json={"id": "urn:x:3", "type": "Mixed", "location": {"type": "GeoProperty", "value": line}})
    await api.post("/entities", json={"id": "urn:x:4", "type": "Mixed"})
    assert await ids(api, orderBy="location;dist-asc", orderFrom="[119.4,24]") == ["2", "3", "1", "0", "4"]
    assert await ids(api, orderBy="location;dist-desc", orderFrom="[119.4,24]") == ["0", "1", "3", "2", "4"]
    near = {"georel": "near;maxDistance==100000", "geometry": "Point", "coordinates": "[119,24]"}
    assert await ids(api, orderBy="id;desc", **near) == ["3", "2", "1"]
    body = {"type": "Query", "entities": [{"type": "Mixed"}],
            "ordering": {"orderBy": ["location;dist-asc"], "coordinates": [118, 24], "geometry": "Point"}}
    assert (await api.post("/entityOperations/query", json=body)).json()[0]["id"] == "urn:x:0"
    for bad in ({"orderBy": "location;dist-asc"}, {"orderBy": "location;dist-asc", "orderFrom": "[200,1]"}, {"orderBy": "a;up"},
                {"orderBy": ""}, {"orderBy": "a b"}, {"orderBy": ",".join("abcdefghijkl")}, {"orderBy": "name", "collation": "!!"},
                {"orderBy": "name", "collation": "zh"}, {"orderBy": "a;dist-asc", "orderFrom": "x"}):
        answer = await api.get("/entities", params={"type": "Mixed", **bad})
        assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (400, "BadRequestData"), bad


async def test_collation(api: httpx.AsyncClient) -> None:
    for n, word in enumerate(("Zebra", "Ähre", "b", "á", "A", "a", "Ahne")):
        await api.post("/entities", json={"id": f"urn:x:{n}", "type": "Mixed", "word": word})
    found = await api.get("/entities", params={"type": "Mixed", "orderBy": "word", "collation": "und", "options": "keyValues"})
    assert [item["word"] for item in found.json()] == ["a", "A", "á", "Ahne", "Ähre", "b", "Zebra"]


def test_collations_are_offered_or_refused() -> None:
    words = ["Ärger", "Afrika", "Adler"]
    assert sorted(words, key=ordering.collation_of("de")) == ["Adler", "Afrika", "Ärger"]
    assert sorted(words, key=ordering.collation_of("de-u-co-phonebk")) == ["Adler", "Ärger", "Afrika"]
    key = ordering.collation_of("und-u-ks-level1")
    assert key("a") == key("Á")
    for tag in ("", "x", "zh", "sv", "en-u-co-phonebk", "not a tag!!", 5, "en-u-co", "en-u-xx-yyy"):
        with pytest.raises(BadRequestData):
            ordering.collation_of(tag)


async def test_too_many_to_sort(mixed: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "MAX_SORTED", 5)
    assert (await mixed.get("/entities", params={"type": "Mixed", "orderBy": "v"})).status_code == 403
    assert (await mixed.get("/entities", params={"type": "Mixed", "orderBy": "id;desc", "limit": 2})).status_code == 200


def test_members_are_split_outside_brackets() -> None:
    assert ordering.split('a;desc,b[c,d],"e"') == ["a;desc", "b[c,d]", '"e"']
    assert ordering.parse(["a[k];desc"], CORE).keys[0].path.trail == ("k",)
