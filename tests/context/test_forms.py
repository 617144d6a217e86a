"""Entity representations (CIM 009 v1.9.1, 4.5): what is read comes out the same in every form; what is wrong is named."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.context import forms
from tulou.context.errors import BadRequestData
from tulou.context.forms import Form, Reader, write
from tulou.context.jsonld import CORE, Contexts

ID = "urn:ngsi-ld:T:1"
USER = Contexts().get({"pm25": "https://e.org/pm25", "T": "https://e.org/T", "quality": "https://e.org/q", "good": "https://e.org/good"})


def read(attributes: dict[str, Any], **options: Any) -> dict[str, Any]:
    return Reader(CORE, **options).entity({"id": ID, "type": "T", **attributes})


NORMALISED: dict[str, Any] = {
    "temperature": {"type": "Property", "value": 21.5, "observedAt": "2026-01-01T00:00:00Z", "unitCode": "CEL",
                    "accuracy": {"type": "Property", "value": 0.1}},
    "place": {"type": "Relationship", "object": "urn:ngsi-ld:Place:1", "objectType": "Place"},
    "location": {"type": "GeoProperty", "value": {"type": "Point", "coordinates": [118.1, 24.5]}},
    "label": {"type": "LanguageProperty", "languageMap": {"zh": "厦门", "en": "Xiamen"}},
    "state": {"type": "VocabProperty", "vocab": "good"},
    "raw": {"type": "JsonProperty", "json": {"a": [1, {"b": None}]}},
    "path": {"type": "ListProperty", "valueList": [1, "x", True]},
    "rooms": {"type": "ListRelationship", "objectList": [{"object": "urn:r:1"}]},
    "speed": [{"type": "Property", "value": 1}, {"type": "Property", "value": 2, "datasetId": "urn:d:1"}],
    "note": {"type": "Property", "value": {"deep": {"x": [1, 2]}}},
}


@pytest.mark.parametrize("name", NORMALISED)
def test_normalised_is_kept(name: str) -> None:
    document = read({name: NORMALISED[name]})
    assert document[name] == NORMALISED[name]
    assert write(document, CORE, Form()) == document


@pytest.mark.parametrize("name", NORMALISED)
def test_concise_means_the_same(name: str) -> None:
    document = read({name: NORMALISED[name]})
    concise = write(document, CORE, Form("concise"))
    assert read({name: concise[name]}) == document


def test_simplified() -> None:
    shown = write(read(NORMALISED), CORE, Form("simplified"))
    assert shown["temperature"] == 21.5
    assert shown["place"] == "urn:ngsi-ld:Place:1"
    assert shown["location"] == {"type": "Point", "coordinates": [118.1, 24.5]}
    assert shown["label"] == {"languageMap": {"zh": "厦门", "en": "Xiamen"}}
    assert shown["state"] == {"vocab": "good"}
    assert shown["rooms"] == ["urn:r:1"]
    assert shown["speed"] == {"dataset": {"@none": 1, "urn:d:1": 2}}
    assert Reader(CORE, simplified=True).fragment({"a": {"x": 1}, "b": 2})["a"] == {"type": "Property", "value": {"x": 1}}


def test_concise_examples_of_the_standard() -> None:
    document = read({"a": 1, "b": "x", "c": {"value": 2, "unitCode": "CEL"}, "d": {"object": "urn:x:1"},
                     "e": {"type": "Point", "coordinates": [1, 2]}, "f": [1, 2], "g": {"value": {"type": "Point", "coordinates": [1, 2]}}})
    kinds = {name: document[name]["type"] for name in "abcdefg"}
    assert kinds == {"a": "Property", "b": "Property", "c": "Property", "d": "Relationship", "e": "GeoProperty",
                     "f": "Property", "g": "GeoProperty"}


def test_names_are_translated_down_to_sub_attributes_and_words() -> None:
    document = Reader(USER).entity({
        "id": ID, "type": "T", "pm25": {"type": "Property", "value": 1, "quality": {"type": "VocabProperty", "vocab": "good"}},
    })
    assert document["type"] == "https://e.org/T"
    assert document["https://e.org/pm25"]["https://e.org/q"]["vocab"] == "https://e.org/good"
    assert write(document, USER, Form())["pm25"]["quality"]["vocab"] == "good"
    assert "https://e.org/pm25" in write(document, CORE, Form())


def test_language_filter() -> None:
    document = read({"label": NORMALISED["label"]})
    shown = write(document, CORE, Form(lang="fr;q=0.5,en"))
    assert shown["label"] == {"type": "Property", "value": "Xiamen", "lang": "en"}


def test_system_attributes_are_made_not_read() -> None:
    document = read({"a": {"type": "Property", "value": 1, "createdAt": "x", "modifiedAt": 7}, "createdAt": "nonsense"})
    assert document["a"] == {"type": "Property", "value": 1}
    shown = write(document, CORE, Form(system=True), {"@": [0, 1_500_000], "a": [0, 1_000_000]})
    assert shown["createdAt"] == "1970-01-01T00:00:00Z"
    assert shown["modifiedAt"] == "1970-01-01T00:00:01.500Z"
    assert shown["a"]["modifiedAt"] == "1970-01-01T00:00:01Z"


deep: Any = 1
for _ in range(200):
    deep = [deep]


@pytest.mark.parametrize(
    "attribute",
    [
        None, {}, {"type": "Property"}, {"type": "Property", "value": None}, {"type": "Nonsense", "value": 1},
        {"type": "Relationship", "object": "not a uri"}, {"type": "Relationship", "object": 1}, {"type": "Relationship", "value": 1},
        {"type": "Property", "value": 1, "object": "urn:x:1"}, {"type": "Property", "value": 1, "observedAt": "yesterday"},
        {"type": "Property", "value": 1, "observedAt": 5}, {"type": "Property", "value": 1, "observedAt": None},
        {"type": "Property", "value": 1, "observedAt": "2026-02-30T00:00:00Z"}, {"type": "Property", "value": 1, "unitCode": 5},
        {"type": "Property", "value": 1, "datasetId": "no uri"}, {"type": "GeoProperty", "value": {"type": "Point"}},
        {"type": "GeoProperty", "value": {"type": "Point", "coordinates": [181, 0]}},
        {"type": "GeoProperty", "value": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 1]]]}},
        {"type": "GeoProperty", "value": {"type": "GeometryCollection", "geometries": []}},
        {"type": "GeoProperty", "value": {"type": "Point", "coordinates": ["1", "2"]}},
        {"type": "GeoProperty", "value": {"type": "Point", "coordinates": [True, 1]}},
        {"type": "LanguageProperty", "languageMap": {}}, {"type": "LanguageProperty", "languageMap": {"zh": 5}},
        {"type": "VocabProperty", "vocab": 1}, {"type": "JsonProperty", "json": "x"}, {"type": "ListProperty", "valueList": 1},
        {"type": "ListRelationship", "objectList": ["x y"]}, {"type": "Property", "value": deep},
        {"type": "Property", "value": "a\x00b"}, {"type": "Property", "value": {"k\x00": 1}}, "urn:ngsi-ld:null",
        {"type": "Property", "value": "urn:ngsi-ld:null"}, {"type": "Property", "value": 1, "previousValue": 2},
        [{"type": "Property", "value": 1}, {"type": "Property", "value": 2}], {"type": ["Property"], "value": 1},
    ],
    ids=lambda a: str(a)[:60],
)
def test_wrong_attributes_are_refused_by_name(attribute: Any) -> None:
    with pytest.raises(BadRequestData) as refused:
        read({"a": attribute})
    assert refused.value.zh
    assert refused.value.en


@pytest.mark.parametrize(
    "entity",
    [None, [], 1, {}, {"id": ID}, {"type": "T"}, {"id": "x", "type": "T"}, {"id": 5, "type": "T"}, {"id": ID, "type": ""},
     {"id": ID, "type": []}, {"id": ID, "type": [1]}, {"id": ID, "type": "a b"}, {"id": "urn:a b", "type": "T"},
     {"id": ID, "type": "T", "bad name": 1}, {"id": ID, "type": "T", "scope": "a b"}, {"id": ID, "type": "T", "scope": []},
     {"id": ID, "type": "T", "expiresAt": "soon"}, {"id": "urn:x:\u200b", "type": "T"},
     {"id": ID, "type": "T", "observedAt": {"type": "Property", "value": 1}}],
)
def test_wrong_entities_are_refused(entity: Any) -> None:
    with pytest.raises(BadRequestData):
        Reader(CORE).entity(entity)


def test_a_date_time_is_in_utc() -> None:
    assert forms.datetime_text("2026-01-01T00:00:00,5Z", "t") == "2026-01-01T00:00:00.5Z"
    with pytest.raises(BadRequestData):
        forms.datetime_text("2026-01-01T08:00:00+08:00", "t")
    assert forms.micros("2026-01-01T00:00:00.5Z") == 1_767_225_600_500_000
    assert forms.moment(1_767_225_600_500_000) == "2026-01-01T00:00:00.500Z"


@given(st.integers(0, 253_000_000_000_000_000))
def test_times_go_there_and_back(us: int) -> None:
    assert forms.micros(forms.moment(us)) == us


json_values = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False),
              st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(json_values)
def test_any_value_survives(value: Any) -> None:
    if isinstance(value, dict) and value.get("type") in forms.geo.TYPES:
        return
    document = read({"a": {"type": "Property", "value": value}})
    again = orjson.loads(orjson.dumps(document))
    assert again["a"] == {"type": "Property", "value": value}
    assert Reader(CORE).entity(write(document, CORE, Form())) == document


@given(st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
                    lambda i: st.one_of(st.lists(i, max_size=3), st.dictionaries(
                        st.sampled_from(["type", "value", "object", "datasetId", "observedAt", "a", "languageMap", "vocab", "json"]),
                        i, max_size=4)), max_leaves=10))
def test_anything_is_read_or_refused(raw: Any) -> None:
    try:
        document = read({"a": raw})
    except BadRequestData:
        return
    for style in ("normalized", "concise", "simplified"):
        write(document, CORE, Form(style))
        write(document, USER, Form(style, lang="zh"))
    forms.facts(document)
