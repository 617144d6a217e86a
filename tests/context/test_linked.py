"""Linked entities (CIM 009 v1.9.1, 4.5.23, 4.9, 4.21): inline and flat, projections, q through links, and who sees what."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tulou.context.errors import BadRequestData
from tulou.context.jsonld import CORE
from tulou.context.projection import depth, parse
from tulou.context.query import Linked
from tulou.context.query import parse as parse_q
from tulou.kernel.house import House

BUILDING, CITY, COUNTRY = "urn:x:building", "urn:x:city", "urn:x:country"


def relationship(target: Any, **more: Any) -> dict[str, Any]:
    return {"type": "Relationship", "object": target, **more}


@pytest.fixture
async def town(api: httpx.AsyncClient) -> httpx.AsyncClient:
    made = await api.post("/entityOperations/create", json=[
        {"id": BUILDING, "type": "Building", "name": "tulou", "locatedAt": relationship(CITY)},
        {"id": CITY, "type": "City", "name": "Nanjing", "inCountry": relationship(COUNTRY), "twin": relationship(BUILDING)},
        {"id": COUNTRY, "type": "Country", "name": "China", "population": 1_400_000_000},
    ])
    assert made.status_code == 201, made.text
    return api


async def test_inline_and_flat(town: httpx.AsyncClient) -> None:
    one = (await town.get(f"/entities/{BUILDING}", params={"join": "inline"})).json()
    assert one["locatedAt"]["entity"]["name"]["value"] == "Nanjing"
    assert "entity" not in one["locatedAt"]["entity"]["inCountry"]  # joinLevel is 1 where it is not given
    two = (await town.get(f"/entities/{BUILDING}", params={"join": "inline", "joinLevel": 2})).json()
    assert two["locatedAt"]["entity"]["inCountry"]["entity"]["id"] == COUNTRY
    assert "entity" not in two["locatedAt"]["entity"]["twin"]  # a link back to its own path is not followed
    simple = (await town.get(f"/entities/{BUILDING}", params={"join": "inline", "joinLevel": 2, "options": "keyValues"})).json()
    assert simple["locatedAt"] == {
        "id": CITY, "type": "City", "name": "Nanjing", "twin": BUILDING,
        "inCountry": {"id": COUNTRY, "type": "Country", "name": "China", "population": 1_400_000_000},
    }
    flat = (await town.get(f"/entities/{BUILDING}", params={"join": "flat", "joinLevel": 2})).json()
    assert [item["id"] for item in flat] == [BUILDING, CITY, COUNTRY]
    assert flat[0]["locatedAt"] == relationship(CITY)
    kept = (await town.get(f"/entities/{BUILDING}", params={"join": "flat", "joinLevel": 5, "containedBy": CITY})).json()
    assert kept["id"] == BUILDING  # nothing linked is left, so it is the entity alone
    stamped = (await town.get(f"/entities/{BUILDING}", params={"join": "inline", "options": "sysAttrs"})).json()
    assert {"createdAt", "modifiedAt"} <= stamped["locatedAt"]["entity"].keys()


async def test_every_shape_of_relationship(api: httpx.AsyncClient) -> None:
    await api.post("/entityOperations/create", json=[{"id": f"urn:x:{n}", "type": "T", "n": n} for n in range(4)])
    await api.post("/entities", json={
        "id": "urn:x:hub", "type": "Hub", "many": relationship(["urn:x:0", "urn:x:none", "urn:x:1"]),
        "twice": [relationship("urn:x:2"), relationship("urn:x:3", datasetId="urn:d:1")],
        "row": {"type": "ListRelationship", "objectList": ["urn:x:3", "urn:x:0"]}, "lost": relationship("urn:x:none"),
    })
    hub = (await api.get("/entities/urn:x:hub", params={"join": "inline"})).json()
    assert [item["id"] for item in hub["many"]["entity"]] == ["urn:x:0", "urn:x:1"]
    assert [item["entity"]["id"] for item in hub["twice"]] == ["urn:x:2", "urn:x:3"]
    assert [item["id"] for item in hub["row"]["entityList"]] == ["urn:x:3", "urn:x:0"]
    assert hub["lost"] == relationship("urn:x:none")
    flat = (await api.get("/entities", params={"type": "Hub", "join": "flat"})).json()
    assert sorted(item["id"] for item in flat) == ["urn:x:0", "urn:x:1", "urn:x:2", "urn:x:3", "urn:x:hub"]
    places = await api.get("/entities/urn:x:hub", params={"join": "flat"}, headers={"accept": "application/geo+json"})
    assert (places.json()["type"], len(places.json()["features"])) == ("FeatureCollection", 5)


async def test_projections_reach_into_linked_entities(town: httpx.AsyncClient) -> None:
    picked = {"join": "inline", "joinLevel": 2, "pick": "id,locatedAt{name|inCountry{population}}"}
    assert (await town.get(f"/entities/{BUILDING}", params=picked)).json() == {
        "id": BUILDING, "locatedAt": relationship(CITY, entity={
            "name": {"type": "Property", "value": "Nanjing"},
            "inCountry": relationship(COUNTRY, entity={"population": {"type": "Property", "value": 1_400_000_000}}),
        }),
    }
    omitted = {"join": "flat", "joinLevel": 2, "omit": "name,locatedAt{twin,inCountry{name}}", "type": "Building"}
    found = (await town.get("/entities", params=omitted)).json()
    assert [sorted(item) for item in found] == [
        ["id", "locatedAt", "type"], ["id", "inCountry", "name", "type"], ["id", "population", "type"]]
    body = {"type": "Query", "entities": [{"type": "Building"}], "join": "inline", "pick": ["id", "locatedAt{name}"]}
    posted = (await town.post("/entityOperations/query", json=body)).json()
    assert posted[0]["locatedAt"]["entity"] == {"name": {"type": "Property", "value": "Nanjing"}}
    for bad in ({"pick": "locatedAt{name}"}, {"pick": "a{b{c}}", "join": "inline"}, {"omit": "a{b{c}}", "join": "flat"},
                {"join": "sideways"}, {"join": "inline", "joinLevel": "0"}, {"join": "inline", "joinLevel": "11"},
                {"join": "inline", "containedBy": "no uri"}):
        for url in (f"/entities/{BUILDING}", "/entities?type=Building"):
            answer = await town.get(url, params={**dict(httpx.URL(url).params), **bad})
            assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (400, "BadRequestData"), bad


@pytest.mark.parametrize("text", ["", "a,,b", "a,", "{a}", "a{b", "a{}", "a{{b}", "a{,b}", "a;b", "a}b", "a b", "a{b}c", "{" * 30])
def test_what_is_no_projection_is_refused(text: str) -> None:
    with pytest.raises(BadRequestData):
        parse(text, CORE, "pick")


def test_a_projection_is_a_tree() -> None:
    tree = parse("id,a{b,c{d}}|https://e.org/#x", CORE, "pick")
    assert tree == {"id": None, "a": {"b": None, "c": {"d": None}}, "https://e.org/#x": None}
    assert depth(tree) == 2


def test_q_through_links_is_bounded_by_the_levels() -> None:
    node = parse_q('a{T:b{c}}=="x"', CORE, levels=2)
    assert isinstance(node, Linked)
    assert (node.relation, node.hint) == (("a",), "T")
    for text, levels in (('a{b}=="x"', 0), ('a{b{c}}=="x"', 1), ("a{b", 2), ("a.observedAt{b}", 2), ("a[k]{b}", 2), ("a{}", 2)):
        with pytest.raises(BadRequestData):
            parse_q(text, CORE, levels=levels)


async def test_q_through_links(town: httpx.AsyncClient) -> None:
    await town.post("/entities", json={"id": "urn:x:other", "type": "Building", "owner": {
        "type": "ListRelationship", "objectList": [CITY, COUNTRY]}, "locatedAt": [
            relationship("urn:x:none"), relationship(COUNTRY, datasetId="urn:d:1")]})

    async def ids(q: str, level: int = 2) -> list[str]:
        answer = await town.get("/entities", params={"type": "Building", "q": q, "join": "inline", "joinLevel": level})
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()]

    assert await ids('locatedAt{name}=="Nanjing"') == [BUILDING]
    assert await ids("locatedAt{City:name}") == [BUILDING]
    assert await ids("locatedAt{Country:name}") == ["urn:x:other"]
    assert await ids("locatedAt{inCountry{population}}>1000") == [BUILDING]
    assert await ids("owner{population}") == ["urn:x:other"]
    assert await ids('locatedAt{name}~="^(Nan|Chi)"|owner{name}=="x"') == [BUILDING, "urn:x:other"]
    assert await ids('locatedAt{name}!="Nanjing"') == ["urn:x:other"]
    assert (await town.get("/entities", params={"type": "Building", "q": "locatedAt{name}"})).status_code == 400


async def test_a_subscriptions_q_follows_links(town: httpx.AsyncClient, ground: House) -> None:
    """4.9 in 5.2.12: the condition is on the entity that is linked to, as it is when the linking one changes."""
    for name in ("Nanjing", "Elsewhere"):
        made = await town.post("/subscriptions", json={
            "id": f"urn:sub:{name}", "type": "Subscription", "entities": [{"type": "Building"}],
            "q": f'locatedAt{{name}}=="{name}"', "notification": {"endpoint": {"uri": "http://127.0.0.1:9/x"}},
        })
        assert made.status_code == 201, made.text
    await town.patch(f"/entities/{BUILDING}/attrs", json={"storeys": {"type": "Property", "value": 3}})
    told = ground.db.read_now(lambda c: c.exec_driver_sql(
        "SELECT s.id FROM notification_outbox o JOIN subscriptions s ON s.no=o.subscription").fetchall())
    assert [row[0] for row in told] == ["urn:sub:Nanjing"]


async def test_a_strangers_entity_is_never_linked(door: Any, ground: House) -> None:
    """What an actor may not see stays a URI, inside answers, beside them and in q."""
    mine, theirs = door("xiamen"), door("fuzhou")
    await theirs.post("/entities", json={"id": "urn:x:secret", "type": "Secret", "name": "hidden"})
    await mine.post("/entities", json={"id": "urn:x:open", "type": "Open", "to": relationship("urn:x:secret")})
    for style in ("inline", "flat"):
        found = await mine.get("/entities/urn:x:open", params={"join": style, "joinLevel": 3})
        assert "hidden" not in found.text
        assert found.json()["to"] == relationship("urn:x:secret")
    q = {"type": "Open", "join": "inline", "count": "true"}
    for condition in ("to{name}", 'to{name}=="hidden"', 'to{name}!="x"', "to{Secret:name}", "to{createdAt}"):
        answer = await mine.get("/entities", params={**q, "q": condition})
        assert (answer.json(), answer.headers["ngsild-results-count"]) == ([], "0"), condition
    both = await door("admin").get("/entities/urn:x:open", params={"join": "inline"})
    assert both.json()["to"]["entity"]["name"]["value"] == "hidden"
    # one id in two organisations: a link means the linking entity's own
    await mine.post("/entities", json={"id": "urn:x:secret", "type": "Mine", "name": "ours"})
    for who in ("xiamen", "admin"):
        found = await door(who).get("/entities/urn:x:open", params={"join": "inline"})
        assert found.json()["to"]["entity"]["name"]["value"] == "ours"
    assert len((await mine.get("/entities", params={**q, "q": 'to{name}=="ours"'})).json()) == 1
