"""What notifications say (CIM 009 v1.9.1, 5.8.6 with 5.2.14, 5.3.1, 4.5.5, 4.5.23, 4.8, 4.21), and the index that finds
the subscriptions a change concerns."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tulou.context import notifications
from tulou.context.jsonld import CORE, Contexts
from tulou.context.subscription_form import checked, stored_document
from tulou.context.watching import Active, Changed, Index, compiled
from tulou.kernel.house import House

from .conftest import execute

NULL = "urn:ngsi-ld:null"
ENTITY: dict[str, Any] = {
    "id": "urn:x:1", "type": "T", "p": {"type": "Property", "value": 1}, "g": {"type": "Point", "coordinates": [1, 2]},
    "r": {"type": "Relationship", "object": "urn:x:2"}, "l": {"type": "LanguageProperty", "languageMap": {"en": "a"}},
    "v": {"type": "VocabProperty", "vocab": "word"}, "j": {"type": "JsonProperty", "json": {"a": 1}},
    "several": [{"type": "Property", "value": 1}, {"type": "Property", "value": 2, "datasetId": "urn:d:2"}],
}


async def subscribe(api: httpx.AsyncClient, **more: Any) -> None:
    notification = {"endpoint": {"uri": "http://127.0.0.1:9/x", **more.pop("endpoint", {})}, **more.pop("notification", {})}
    made = await api.post("/subscriptions", json={"type": "Subscription", "entities": [{"type": "T"}], "notification": notification, **more})
    assert made.status_code == 201, made.text


def told(house: House) -> list[Any]:
    """The data of every queued notification, in order; and the queue emptied."""
    rows = execute(house, "SELECT body FROM notification_outbox ORDER BY no")
    with house.db.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM notification_outbox")
    return [(row[0] if isinstance(row[0], dict) else orjson.loads(row[0]))["data"] for row in rows]


async def test_deleted_attributes_are_null(api: httpx.AsyncClient, ground: House) -> None:
    """5.8.6 and 4.5.0: what was deleted is NGSI-LD Null, in the member that held its value."""
    await subscribe(api, notificationTrigger=["attributeDeleted"])
    await subscribe(api, notificationTrigger=["attributeDeleted"], notification={"format": "keyValues"})
    await api.post("/entities", json=ENTITY)
    assert told(ground) == []
    expected = {
        "p": ({"type": "Property", "value": NULL}, NULL), "g": ({"type": "GeoProperty", "value": NULL}, NULL),
        "r": ({"type": "Relationship", "object": NULL}, NULL),
        "l": ({"type": "LanguageProperty", "languageMap": {"@none": NULL}}, {"languageMap": {"@none": NULL}}),
        "v": ({"type": "VocabProperty", "vocab": NULL}, {"vocab": NULL}), "j": ({"type": "JsonProperty", "json": NULL}, {"json": NULL}),
    }
    for name, (normalized, simplified) in expected.items():
        assert (await api.delete(f"/entities/urn:x:1/attrs/{name}")).status_code == 204
        [first], [second] = told(ground)
        assert (first[name], second[name]) == (normalized, simplified)
        assert first["several"] == ENTITY["several"]
    await api.delete("/entities/urn:x:1/attrs/several?datasetId=urn:d:2")
    [first], [second] = told(ground)
    assert first["several"] == [{"type": "Property", "value": 1}, {"type": "Property", "value": NULL, "datasetId": "urn:d:2"}]
    assert second["several"] == {"dataset": {"@none": 1, "urn:d:2": NULL}}
    await api.patch("/entities/urn:x:1", json={"several": NULL})  # a merge that deletes (5.5.12)
    assert [data[0]["several"] for data in told(ground)] == [{"type": "Property", "value": NULL}, NULL]


async def test_previous_values(api: httpx.AsyncClient, ground: House) -> None:
    """5.2.14: showChanges gives the previous value where there was one: modifications and deletions, not creations."""
    await subscribe(api, notification={"showChanges": True}, notificationTrigger=["entityCreated", "entityUpdated", "entityDeleted"])
    await subscribe(api, notification={"showChanges": True, "format": "concise"}, notificationTrigger=["entityUpdated"])
    await api.post("/entities", json=ENTITY)
    [[created]] = told(ground)
    assert "previous" not in str(created)
    changes = {
        "p": ({"type": "Property", "value": 2}, {"value": 2, "previousValue": 1}),
        "g": ({"type": "Point", "coordinates": [3, 4]}, {"value": {"type": "Point", "coordinates": [3, 4]}, "previousValue": {"type": "Point", "coordinates": [1, 2]}}),
        "r": ({"type": "Relationship", "object": "urn:x:3"}, {"object": "urn:x:3", "previousObject": "urn:x:2"}),
        "l": ({"type": "LanguageProperty", "languageMap": {"fr": "b"}}, {"languageMap": {"fr": "b"}, "previousLanguageMap": {"en": "a"}}),
        "v": ({"type": "VocabProperty", "vocab": "other"}, {"vocab": "other", "previousVocab": "word"}),
        "j": ({"type": "JsonProperty", "json": {"b": 2}}, {"json": {"b": 2}, "previousJson": {"a": 1}}),
    }
    for name, (value, expected) in changes.items():
        assert (await api.patch("/entities/urn:x:1/attrs", json={name: value})).status_code == 204
        [first], [second] = told(ground)
        assert {k: v for k, v in first[name].items() if k != "type"} == expected
        assert second[name] == expected
        assert sum("previous" in key for part in first.values() if isinstance(part, dict) for key in part) == 1
    await api.post("/entities/urn:x:1/attrs", json={"fresh": 1})
    assert all("previous" not in str(data[0]["fresh"]) for data in told(ground))
    await api.delete("/entities/urn:x:1/attrs/p")
    [first], _ = told(ground)
    assert first["p"] == {"type": "Property", "value": NULL, "previousValue": 2}
    await api.delete("/entities/urn:x:1")
    [[gone]] = told(ground)
    assert gone["r"] == {"type": "Relationship", "object": NULL, "previousObject": "urn:x:3"}
    assert gone["deletedAt"]


async def test_deleted_entities(api: httpx.AsyncClient, ground: House) -> None:
    await subscribe(api, notificationTrigger=["entityDeleted"], notification={"format": "keyValues"})
    await subscribe(api, notificationTrigger=["entityDeleted"], notification={"sysAttrs": True})
    await subscribe(api, notificationTrigger=["attributeDeleted"], watchedAttributes=["p"], notification={"sysAttrs": True})
    await subscribe(api, notificationTrigger=["attributeDeleted"], watchedAttributes=["other"])
    await subscribe(api, notificationTrigger=["entityDeleted"], notification={"sysAttrs": True, "showChanges": True})
    await api.post("/entities", json=ENTITY)
    assert (await api.delete("/entities/urn:x:1")).status_code == 204
    [plain], [system], [attribute], [changes] = told(ground)
    assert {"deletedAt", "modifiedAt", "previousValue"} <= changes["p"].keys()
    assert sorted(plain) == ["deletedAt", "id", "type"]
    assert sorted(system) == ["createdAt", "deletedAt", "id", "modifiedAt", "type"]
    assert sorted(attribute) == ["createdAt", "deletedAt", "id", "modifiedAt", "p", "type"]
    assert sorted(attribute["p"]) == ["createdAt", "deletedAt", "modifiedAt", "type", "value"]


async def test_system_attributes_say_when_it_was(api: httpx.AsyncClient, ground: House) -> None:
    await subscribe(api, notificationTrigger=["attributeUpdated"], notification={"sysAttrs": True})
    await api.post("/entities", json={"id": "urn:x:1", "type": "T", "a": 1, "b": 1})
    await api.patch("/entities/urn:x:1", json={"a": 2})
    [[entity]] = told(ground)
    shown = (await api.get("/entities/urn:x:1?options=sysAttrs")).json()
    assert entity == shown
    assert entity["a"]["modifiedAt"] > entity["a"]["createdAt"] == entity["b"]["modifiedAt"]


async def test_members_and_instances_that_are_shown(api: httpx.AsyncClient, ground: House) -> None:
    """4.21: pick names every member that is shown; omit leaves out. 4.5.5: datasetId filters instances."""
    await subscribe(api, notification={"pick": ["id", "p"], "format": "keyValues"})
    await subscribe(api, notification={"omit": ["type", "p", "several", "g"], "format": "keyValues"})
    await subscribe(api, notification={"attributes": ["p"], "format": "keyValues"})
    await subscribe(api, datasetId=["urn:d:2"])
    await api.post("/entities", json=ENTITY)
    assert told(ground) == [
        [{"id": "urn:x:1", "p": 1}],
        [{"id": "urn:x:1", "r": "urn:x:2", "l": {"languageMap": {"en": "a"}}, "v": {"vocab": "word"}, "j": {"json": {"a": 1}}}],
        [{"id": "urn:x:1", "type": "T", "p": 1}],
        [{"id": "urn:x:1", "type": "T", "several": ENTITY["several"][1]}],
    ]


async def test_instances_trigger_for_themselves(api: httpx.AsyncClient, ground: House) -> None:
    """4.5.5: an attribute's instances are created, updated and deleted each for itself."""
    for trigger in ("attributeCreated", "attributeUpdated", "attributeDeleted"):
        await subscribe(api, description=trigger, notificationTrigger=[trigger])
    await api.post("/entities", json=ENTITY)
    names = {row[0]: row[1] for row in execute(ground, "SELECT no,doc FROM subscriptions")}
    names = {no: (doc if isinstance(doc, dict) else orjson.loads(doc))["description"] for no, doc in names.items()}

    def triggered() -> list[str]:
        found = [names[row[0]] for row in execute(ground, "SELECT subscription FROM notification_outbox ORDER BY no")]
        told(ground)
        return found

    assert triggered() == ["attributeCreated"]
    await api.post("/entities/urn:x:1/attrs", json={"several": {"type": "Property", "value": 9, "datasetId": "urn:d:3"}})
    assert triggered() == ["attributeCreated"]
    await api.post("/entities/urn:x:1/attrs", json={"several": {"type": "Property", "value": 10, "datasetId": "urn:d:3"}})
    assert triggered() == ["attributeUpdated"]
    await api.delete("/entities/urn:x:1/attrs/several?datasetId=urn:d:3")
    assert triggered() == ["attributeDeleted"]


async def test_linked_entities(api: httpx.AsyncClient, ground: House) -> None:
    """4.5.23: join says what relationships point to, `joinLevel` steps far; what is not there is left out."""
    await api.post("/entities", json={"id": "urn:x:2", "type": "City", "name": "Fuzhou", "in": {"object": "urn:x:3"}, "bad": {"object": "urn:x:404"}})
    await api.post("/entities", json={"id": "urn:x:3", "type": "Province", "name": "Fujian"})
    for join, level in (("flat", 1), ("flat", 2), ("inline", 1), ("inline", 2)):
        await subscribe(api, notification={"join": join, "joinLevel": level, "format": "keyValues", "attributes": ["r"]})
    await subscribe(api, notification={"join": "inline", "attributes": ["r"]})
    await api.post("/entities", json=ENTITY)
    flat1, flat2, inline1, inline2, normal = told(ground)
    city = {"id": "urn:x:2", "type": "City", "name": "Fuzhou", "in": "urn:x:3", "bad": "urn:x:404"}
    province = {"id": "urn:x:3", "type": "Province", "name": "Fujian"}
    assert flat1 == [{"id": "urn:x:1", "type": "T", "r": "urn:x:2"}, city]
    assert flat2 == [*flat1, province]
    assert inline1 == [{"id": "urn:x:1", "type": "T", "r": city}]
    assert inline2 == [{"id": "urn:x:1", "type": "T", "r": {**city, "in": province}}]
    assert normal[0]["r"]["object"] == "urn:x:2"
    assert normal[0]["r"]["entity"]["name"] == {"type": "Property", "value": "Fuzhou"}


async def test_linked_entities_of_another_organisation_are_not_told(api: httpx.AsyncClient, door: Any, ground: House) -> None:
    await door("fuzhou").post("/entities", json={"id": "urn:x:2", "type": "Secret", "name": "Fuzhou's"})
    await subscribe(api, notification={"join": "flat"})
    await api.post("/entities", json=ENTITY)
    assert "Secret" not in str(told(ground))


async def test_names_follow_the_context_of_who_asks(api: httpx.AsyncClient) -> None:
    """5.5.7: a subscription's names are expanded when it is written and compacted for whoever reads it."""
    mine = {"Auto": "https://example.org/Vehicle", "tempo": "https://example.org/speed"}
    made = await api.post("/jsonldContexts", json={"@context": mine})
    link = {"link": f'<{made.headers["location"]}>; rel="http://www.w3.org/ns/json-ld#context"; type="application/ld+json"'}
    body = {"id": "urn:s:1", "type": "Subscription", "entities": [{"type": "(Auto,Bus);Red"}], "watchedAttributes": ["tempo"], "q": "tempo>5",
            "notification": {"endpoint": {"uri": "http://127.0.0.1:9/x"}, "attributes": ["tempo"]}}
    assert (await api.post("/subscriptions", json=body, headers=link)).status_code == 201
    assert (await api.get("/subscriptions/urn:s:1", headers=link)).json()["entities"] == body["entities"]
    shown = (await api.get("/subscriptions/urn:s:1")).json()
    assert shown["entities"] == [{"type": "(https://example.org/Vehicle,Bus);Red"}]
    assert shown["notification"]["attributes"] == shown["watchedAttributes"] == ["https://example.org/speed"]
    # an update under another context leaves alone what it does not name, and the words of q
    assert (await api.patch("/subscriptions/urn:s:1", json={"watchedAttributes": ["https://example.org/speed", "other"]})).status_code == 204
    shown = (await api.get("/subscriptions/urn:s:1", headers=link)).json()
    assert (shown["watchedAttributes"], shown["q"], shown["entities"]) == (["tempo", "other"], "tempo>5", body["entities"])
    # 5.8.2: a fragment's notification is a whole one
    assert (await api.patch("/subscriptions/urn:s:1", json={"notification": {"format": "keyValues"}})).status_code == 400


# ---- the index -----------------------------------------------------------------------------------------------------

KNOWN = Contexts()


def active(no: int, **members: Any) -> Active:
    raw = {"type": "Subscription", "notification": {"endpoint": {"uri": "http://e.org/"}}, **members}
    return compiled(KNOWN, CORE, no, f"urn:s:{no}", "o", stored_document(checked(raw), CORE, None), None, None)


names = st.sampled_from(["a", "b", "c"])
values = st.sampled_from([-1, 0, 1, 1.5, 2, True, "x", "y", [1, "x"], ["y", 5]])
conditions = st.one_of(
    st.builds("{}{}{}".format, names, st.sampled_from(["==", "!=", ">", ">=", "<", "<="]), st.sampled_from([0, 1, 1.5, 2, '"x"'])),
    st.builds("{}{}{}".format, names, st.sampled_from(["==", "!="]), st.sampled_from(["true", "1..2", '1,"x"'])),
    names,
)
queries = st.one_of(st.none(), conditions, st.builds("{};{}".format, conditions, conditions), st.builds("{}|{}".format, conditions, conditions))
selectors = st.fixed_dictionaries(
    {"type": st.sampled_from(["T", "U", "*", "T,U", "T;U", "(T;U)|V"])},
    optional={"id": st.sampled_from(["urn:x:1", ["urn:x:1", "urn:x:2"]]), "idPattern": st.just("urn:x:.*")},
)
subscriptions = st.fixed_dictionaries(
    {"q": queries},
    optional={
        "entities": st.lists(selectors, min_size=1, max_size=2), "watchedAttributes": st.lists(names, min_size=1, max_size=2),
        "notificationTrigger": st.lists(st.sampled_from(["entityCreated", "entityUpdated", "entityDeleted", "attributeCreated", "attributeUpdated", "attributeDeleted"]), min_size=1, max_size=3),
    },
).filter(lambda s: "entities" in s or "watchedAttributes" in s).map(lambda s: {k: v for k, v in s.items() if v is not None})
documents = st.builds(
    lambda id, kind, attributes: {"id": id, "type": kind, **{k: {"type": "Property", "value": v} for k, v in attributes.items()}},
    st.sampled_from(["urn:x:1", "urn:x:2", "urn:x:3"]), st.sampled_from(["T", "U", "V", ["T", "U"]]), st.dictionaries(names, values),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(subscriptions, max_size=8), documents, documents, st.sampled_from(["entityCreated", "entityUpdated", "entityDeleted"]))
def test_the_index_misses_none(found: list[dict[str, Any]], before: dict[str, Any], after: dict[str, Any], trigger: str) -> None:
    """What the index offers holds every subscription that a look at all of them would tell."""
    every = [active(no, **members) for no, members in enumerate(found)]
    before = {**before, "id": after["id"], "type": after["type"]}
    changed = {name for name in (*before, *after) if name not in ("id", "type") and before.get(name) != after.get(name)}
    change = Changed("o", after, changed if trigger == "entityUpdated" else None, trigger, before if trigger == "entityUpdated" else None)
    wanted = [item.no for item in every if notifications.datum(item, change, 1) is not None]
    offered = [item.no for item in Index(every).offered(change)]
    assert [no for no in offered if no in wanted] == wanted


@pytest.mark.parametrize(
    "members", [{"id": "urn:x:{}"}, {"q": "a>{}"}, {"q": "a<-{}"}, {"q": 'b=="{}"'}, {"q": "a>=0;c=={}"}, {"watchedAttributes": ["w{}"]}]
)
def test_the_index_offers_few(members: dict[str, Any]) -> None:
    def filled(number: int) -> dict[str, Any]:
        text = orjson.dumps(members).decode().replace("{}", str(number))
        own = orjson.loads(text)
        kind = {"type": "T", **({"id": own.pop("id")} if "id" in own else {})}
        return {"entities": [kind], **own}

    index = Index([active(number, **filled(number)) for number in range(1, 500)])
    document = {"id": "urn:x:7", "type": "T", **{k: {"type": "Property", "value": v} for k, v in (("a", 3), ("b", "7"), ("c", 7), ("w7", 1))}}
    assert len(index.offered(Changed("o", document, {"a", "b", "c", "w7"}, "entityUpdated", document))) <= 3
