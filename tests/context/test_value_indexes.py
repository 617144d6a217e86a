"""Indexes over attribute values: the same answers with them as without, and never another organisation's."""

from __future__ import annotations

import random
from typing import Any

import httpx
import pytest

from tests.context.conftest import ACTORS
from tulou.context import ContextService, query, value_indexes
from tulou.context.errors import AlreadyExists, BadRequestData
from tulou.kernel.errors import Forbidden, NotFound
from tulou.kernel.house import House

ADMIN = ACTORS["admin"]
VALUES: list[Any] = [
    *range(-5, 40), 3.25, 1e300, "a", "b", "30", "ü", True, False, [1, 30], ["a"], {"x": 30}, "",
]
QUERIES = [
    "level==30", "level>30", "level>=30", "level<0", "level<=0", "level==3..7", 'level=="a"', 'level=="30"', 'level>"a"',
    'level<"b"', 'level=="a".."b"', "level==true", "level==3,4,30", 'level==30;name=="n30"', "level>1000", "level!=30",
    "level", "level==3.25", "to==urn:x:2", 'level>10|name=="n1"', "level~=a",
]


async def fill(api: httpx.AsyncClient) -> None:
    batch: list[dict[str, Any]] = [
        {"id": f"urn:x:{n}", "type": "Tank" if n % 2 else "Well", "name": f"n{n}", "level": {"type": "Property", "value": value}}
        for n, value in enumerate(VALUES)
    ]
    batch += [
        {"id": "urn:x:none", "type": "Tank", "name": "n"},
        {"id": "urn:x:two", "type": ["Tank", "Deep"], "level": [
            {"type": "Property", "value": 1}, {"type": "Property", "value": 30, "datasetId": "urn:d:1"}]},
        {"id": "urn:x:lang", "type": "Tank", "level": {"type": "LanguageProperty", "languageMap": {"zh": "a"}}},
        {"id": "urn:x:list", "type": "Tank", "level": {"type": "ListProperty", "valueList": [30]}},
        {"id": "urn:x:rel", "type": "Tank", "to": {"type": "Relationship", "object": "urn:x:2"}},
        {"id": "urn:x:rels", "type": "Tank", "to": {"type": "Relationship", "object": ["urn:x:1", "urn:x:2"]}},
    ]
    made = await api.post("/entityOperations/create", json=batch)
    assert made.status_code == 201, made.text


async def answers(api: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for q in QUERIES:
        for type in ("Tank", "Tank,Well", "Deep"):
            all_of_them = await api.get("/entities", params={"type": type, "q": q, "limit": 100, "count": "true"})
            assert all_of_them.status_code == 200, (q, all_of_them.text)
            ids = [item["id"] for item in all_of_them.json()]
            paged: list[str] = []
            address: str = "/entities"
            parameters: dict[str, Any] | None = {"type": type, "q": q, "limit": 3}
            while True:
                page = await api.get(address, params=parameters)
                paged += [item["id"] for item in page.json()]
                links = [link for link in page.headers.get_list("link") if 'rel="next"' in link]
                if not links:
                    break
                address, parameters = links[0].partition("<")[2].partition(">")[0].removeprefix("/ngsi-ld/v1"), None
            found[f"{type} {q}"] = (ids, paged, all_of_them.headers["ngsild-results-count"])
    return found


async def test_the_same_answers_with_an_index(api: httpx.AsyncClient, ground: House) -> None:
    """Every kind of value and condition of 4.9: what an index proposes holds all that satisfies the condition."""
    indexes = ground.service(ContextService).indexes
    await fill(api)
    before = await answers(api)
    for name in ("level", "to"):
        await indexes.add(ADMIN, name)
    assert await indexes.search(ADMIN) == ["level", "to"]
    assert await answers(api) == before
    assert all(ids == paged for ids, paged, _ in before.values())
    for name in ("level", "to"):
        await indexes.remove(ADMIN, name)
    assert await answers(api) == before


async def test_an_index_follows_writes(api: httpx.AsyncClient, ground: House) -> None:
    indexes = ground.service(ContextService).indexes
    await indexes.add(ADMIN, "level")
    await fill(api)
    rng = random.Random(7)
    for n in range(60):
        await api.patch(f"/entities/urn:x:{rng.randrange(len(VALUES))}", json={"level": {"type": "Property", "value": 900 + n}})
    await api.delete("/entities/urn:x:3")
    after = await answers(api)
    await indexes.remove(ADMIN, "level")
    assert await answers(api) == after


async def test_where_most_satisfy_it_nothing_is_proposed(
    api: httpx.AsyncClient, ground: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value_indexes, "MOST", 10)
    indexes = ground.service(ContextService).indexes
    await fill(api)
    await indexes.add(ADMIN, "level")
    names = ground.service(ContextService).names

    def proposed(q: str) -> list[int] | None:
        return ground.db.read_now(lambda c: indexes.propose(indexes.store.cursor(c), query.parse(q, names)))

    assert proposed("level>0") is None
    few = proposed("level>38")
    assert few is not None
    assert few == sorted(few)
    assert proposed('name=="n1"') is None
    assert proposed('level>0;level==3.25') is not None


async def test_another_organisations_entities_stay_unseen(door: Any, ground: House) -> None:
    mine, theirs = door("xiamen"), door("fuzhou")
    await ground.service(ContextService).indexes.add(ADMIN, "level")
    await theirs.post("/entities", json={"id": "urn:x:secret", "type": "Tank", "level": {"type": "Property", "value": 77}})
    found = await mine.get("/entities", params={"type": "Tank", "q": "level==77", "count": "true"})
    assert (found.json(), found.headers["ngsild-results-count"]) == ([], "0")


async def test_only_operators_of_the_house_make_indexes(ground: House) -> None:
    indexes = ground.service(ContextService).indexes
    for actor in (ACTORS["xiamen"], ACTORS["stranger"]):
        with pytest.raises(Forbidden):
            await indexes.add(actor, "level")
        with pytest.raises(Forbidden):
            await indexes.search(actor)
    await indexes.add(ADMIN, "level")
    with pytest.raises(AlreadyExists):
        await indexes.add(ADMIN, "level")
    with pytest.raises(BadRequestData):
        await indexes.add(ADMIN, "http://x/?a=%27")
    with pytest.raises(NotFound):
        await indexes.remove(ADMIN, "depth")
