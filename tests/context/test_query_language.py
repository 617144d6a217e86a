"""The query language (CIM 009 v1.9.1, 4.9): its grammar, its semantics, and that three readings of it agree."""

from __future__ import annotations

import sqlite3
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tulou.context import query
from tulou.context.errors import BadRequestData
from tulou.context.jsonld import CORE
from tulou.context.query import All, Any_, Path, Range, Term, Value
from tulou.context.store import _regexp

DOCUMENT = {
    "id": "urn:ngsi-ld:Building:1",
    "type": "Building",
    "temperature": {"type": "Property", "value": 20, "observedAt": "2017-12-24T12:00:00Z", "unitCode": "CEL"},
    "brandName": {"type": "Property", "value": "Mercedes"},
    "colours": {"type": "Property", "value": ["blue", "red", "green"]},
    "open": {"type": "Property", "value": True},
    "isParked": {
        "type": "Relationship", "object": "urn:ngsi-ld:OffStreetParking:Downtown1",
        "providedBy": {"type": "Relationship", "object": "urn:ngsi-ld:Person:Bob"},
    },
    "owners": {"type": "Relationship", "object": ["urn:x:1", "urn:x:2"]},
    "address": {"type": "Property", "value": {"city": "Berlin", "street": {"name": "Ulrich"}}},
    "sensor": {
        "type": "Property", "value": 40,
        "rawdata": {"type": "Property", "value": {"airquality": {"particulate": 40}}},
    },
    "street": {"type": "LanguageProperty", "languageMap": {"fr": "Grand Place", "nl": ["Grote Markt", "Markt"]}},
    "category": {"type": "VocabProperty", "vocab": "commercial"},
    "tickets": {"type": "JsonProperty", "json": {"id": "85a6", "value": "late"}},
    "path": {"type": "ListProperty", "valueList": [1, 2, 3]},
    "rooms": {"type": "ListRelationship", "objectList": [{"object": "urn:room:1"}, {"object": "urn:room:2"}]},
    "speed": [
        {"type": "Property", "value": 50},
        {"type": "Property", "value": 55.5, "datasetId": "urn:ngsi-ld:gps"},
    ],
}


def holds(text: str, document: dict[str, Any] = DOCUMENT) -> bool:
    return query.matches(query.parse(text, CORE), document)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # the examples of the clause
        ("temperature", True), ("temperature==20", True), ('brandName!="Mercedes"', False), ("humidity", False),
        ('isParked=="urn:ngsi-ld:OffStreetParking:Downtown1"', True), ('speed>50;brandName!="Mercedes"', False),
        ("isParked==urn:ngsi-ld:OffStreetParking:Downtown1", True),
        ('((speed>50|rpm>3000);brandName=="Mercedes")', True), ("(temperature>=20;temperature<=25)|capacity<=10", True),
        ("temperature.observedAt>=2017-12-24T12:00:00Z", True), ("temperature.observedAt>2017-12-24T12:00:00Z", False),
        ('temperature.observedAt>="2017-12-24T12:00:00Z"', True), ("temperature.unitCode==\"CEL\"", True),
        ('address[city]=="Berlin"', True), ('address[street.name]=="Ulrich"', True), ("address[town]", False),
        ("sensor.rawdata[airquality.particulate]==40", True), ('isParked.providedBy=="urn:ngsi-ld:Person:Bob"', True),
        # and binds before or
        ("temperature==1|temperature==20;humidity", False), ("temperature==20|humidity;humidity", True),
        # lists, ranges, arrays
        ("temperature==10..20", True), ("temperature!=10..20", False), ("temperature==1,20", True),
        ("temperature==21..30", False), ('colours=="red"', True), ('colours=="pink"', False), ('colours!="red"', False),
        ('colours!="pink"', True), ('colours=="pink","blue"', True), ("owners==urn:x:2", True), ("rooms==urn:room:2", True),
        ("path==3", True), ("path>3", False), ("speed==55.5", True), ("speed>60", False), ("speed!=55.5", False),
        # types are not mixed
        ('temperature=="20"', False), ('temperature!="20"', True), ("open==true", True), ("open==1", False),
        ("open==false", False), ("open!=false", True), ("brandName>1", False), ('brandName>"A"', True),
        # a relationship only has == and !=
        ('tickets[value]=="late"', True), ('tickets[id]!="x"', True),
        # languages
        ('street=="Grand Place"', True), ('street[fr]=="Grand Place"', True), ('street[nl]=="Grand Place"', False),
        ('street[nl]=="Markt"', True), ('street[*]=="Markt"', True), ('street[*]!="Markt"', False), ("street[de]", False),
        # patterns
        ("brandName~=^Mer", True), ('brandName~="M.*s$"', True), ("brandName!~=^B", True), ("brandName~=(a|b);x", False),
        ("temperature~=2", False), ("temperature!~=2", False), ("colours~=^r", True), ("brandName~=(?i)mERC", True),
        # a negation still needs the attribute
        ("humidity!=1", False), ("humidity!~=x", False),
    ],
)
def test_meaning(text: str, expected: bool) -> None:
    assert holds(text) is expected
    assert on_sqlite(query.parse(text, CORE), DOCUMENT) is expected


def test_a_vocabulary_word_is_compared_as_a_name() -> None:
    assert query.matches(query.parse("category==commercial", CORE, expand=frozenset({"category"})), DOCUMENT)
    iri = "https://uri.etsi.org/ngsi-ld/default-context/commercial"
    assert query.matches(query.parse(f'category=="{iri}"', CORE, expand=frozenset({"category"})), DOCUMENT)


@pytest.mark.parametrize(
    "text",
    [
        "", ";", "a==", "a=='x'", "==1", "a=1", "(a", "a)", "a;;b", "a|", "a[", "a[]", "a[b", "a..b", "a>true", "a>1..2", 'a=="x',
        "a==1..", 'a==1.."b"', "a~=", "a~=(", "a~=[", "a==\"\\u0000\"", "a b", "a;b c", "1a==1", "a{b}==1", "a==1e999",
        "temperature.observedAt.x", "a.observedAt[x]", "(" * 60 + "a" + ")" * 60, ";".join("a" * 300), "a" * 9000,
        "a==1;DROP TABLE entities", "a'==1", 'a"b==1', "a==2020-13-45T00:00:00Z", "a~=" + "x" * 2000,
    ],
)
def test_what_is_not_in_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(BadRequestData) as refused:
        query.parse(text, CORE)
    assert refused.value.field in ("q", "name")


def test_what_looks_like_sql_is_only_a_value() -> None:
    hostile = "'; DROP TABLE entities; --"
    node = query.parse(f'brandName=="{hostile}"', CORE)
    for sql, parameters in (query.compile_sqlite(node), query.compile_postgres(node)):
        assert hostile not in sql
        assert hostile in parameters
        assert "brandName" not in sql
    assert on_sqlite(node, {"x": {"type": "Property", "value": 1}}) is False


def test_a_hostile_pattern_takes_linear_time() -> None:
    document = {"a": {"type": "Property", "value": "a" * 5000 + "!"}}
    assert holds("a~=^(a+)+$", document) is False


def test_names_follow_the_context() -> None:
    node = query.parse("ngsi-ld:location==1", CORE)
    assert isinstance(node, Term)
    assert node.path.names == ("location",)


# ---- agreement of the three readings ------------------------------------------------------------------------------

_sqlite = sqlite3.connect(":memory:")
_sqlite.create_function("regexp", 2, _regexp, deterministic=True)


def on_sqlite(node: query.Node, document: dict[str, Any]) -> bool:
    sql, parameters = query.compile_sqlite(node, "e.doc")
    row = _sqlite.execute(
        f"SELECT ({sql}) FROM (SELECT ? AS doc, NULL AS times, 0 AS created_at, 0 AS modified_at) e",
        [*parameters, orjson.dumps(document).decode()],
    ).fetchone()
    return bool(row[0])


names = st.sampled_from(["a", "b", "https://e.org/#c"])
numbers = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 1.5, -2.25]))
texts = st.sampled_from(["", "a", "ab", "B", "é", "z'", '"', "x;y", "%", "urn:x:1", "2020-01-01T00:00:00Z", "厦门"])
scalars = st.one_of(numbers, texts, st.booleans())
values = st.one_of(
    scalars, st.lists(scalars, max_size=3),
    st.dictionaries(st.sampled_from(["k", "m"]), st.one_of(scalars, st.lists(scalars, max_size=2)), max_size=2),
    st.none().map(lambda _: {"k": {"m": 1}}),
)
times = st.sampled_from(["2020-01-01T00:00:00Z", "2020-01-01T00:00:00.5Z", "2021-06-01T12:00:00Z"])


def instances(depth: int = 1) -> st.SearchStrategy[dict[str, Any]]:
    kinds = st.one_of(
        st.fixed_dictionaries({"type": st.just("Property"), "value": values}),
        st.fixed_dictionaries({"type": st.just("Relationship"), "object": st.one_of(texts, st.lists(texts, min_size=1))}),
        st.fixed_dictionaries(
            {"type": st.just("LanguageProperty"), "languageMap": st.dictionaries(
                st.sampled_from(["k", "m"]), st.one_of(texts, st.lists(texts, min_size=1, max_size=2)), min_size=1)}
        ),
        st.fixed_dictionaries({"type": st.just("ListProperty"), "valueList": st.lists(scalars, max_size=3)}),
        st.fixed_dictionaries({"type": st.just("VocabProperty"), "vocab": st.one_of(texts, st.lists(texts, min_size=1))}),
        st.fixed_dictionaries({"type": st.just("JsonProperty"), "json": values}),
        st.fixed_dictionaries(
            {"type": st.just("ListRelationship"),
             "objectList": st.lists(st.fixed_dictionaries({"object": texts}), max_size=2)}
        ),
    )
    subs: dict[str, Any] = {"observedAt": times}
    if depth:
        subs["s"] = instances(depth - 1)
    return st.builds(lambda base, extra: {**base, **extra}, kinds, st.fixed_dictionaries({}, optional=subs))


documents = st.fixed_dictionaries(
    {"id": st.just("urn:x:1"), "type": st.just("T")},
    optional={name: st.one_of(instances(), st.lists(instances(), min_size=2, max_size=2)) for name in ("a", "b", "https://e.org/#c")},
)
literals = st.one_of(
    numbers.map(lambda v: Value("number", v)), texts.map(lambda v: Value("text", v)),
    st.booleans().map(lambda v: Value("bool", v)), times.map(lambda v: Value("time", v)),
)
ranges = st.one_of(
    st.builds(Range, numbers.map(lambda v: Value("number", v)), numbers.map(lambda v: Value("number", v))),
    st.builds(Range, texts.map(lambda v: Value("text", v)), texts.map(lambda v: Value("text", v))),
)
paths = st.one_of(
    st.builds(lambda n: Path((n,)), names), st.builds(lambda n: Path((n, "s")), names),
    st.builds(lambda n, t: Path((n,), t), names, st.sampled_from([("k",), ("k", "m"), ("*",)])),
    st.builds(lambda n: Path((n,), (), "observedAt"), names),
)
terms = st.one_of(
    st.builds(Term, paths),
    st.builds(lambda p, o, v: Term(p, o, tuple(v)), paths, st.sampled_from(["==", "!="]),
              st.lists(st.one_of(literals, ranges), min_size=1, max_size=2)),
    st.builds(lambda p, o, v: Term(p, o, (v,)), paths, st.sampled_from([">", ">=", "<", "<="]),
              literals.filter(lambda v: v.kind != "bool")),
    st.builds(lambda p, o, v: Term(p, o, (Value("text", v),)), paths, st.sampled_from(["~=", "!~="]),
              st.sampled_from(["a", "^a", "b$", "."])),
)
nodes = st.recursive(
    terms, lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda p: All(tuple(p))),
        st.lists(inner, min_size=2, max_size=3).map(lambda p: Any_(tuple(p))),
    ), max_leaves=4,
)


@settings(max_examples=250, deadline=None)
@given(nodes, documents)
def test_sqlite_agrees_with_python(node: query.Node, document: dict[str, Any]) -> None:
    assert on_sqlite(node, document) == query.matches(node, document)


@pytest.mark.postgres
def test_postgres_agrees_with_python(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(nodes, documents)
        def agree(node: query.Node, document: dict[str, Any]) -> None:
            sql, parameters = query.compile_postgres(node, "e.doc")
            text = f"SELECT ({sql}) FROM (SELECT ?::jsonb AS doc, NULL::jsonb AS times, 0 AS created_at) e"
            # the document comes last in the text but is needed by what is before it: the marks are in order
            row = connection.execute(text.replace("?", "%s"), [*parameters, orjson.dumps(document).decode()]).fetchone()
            assert row is not None
            assert bool(row[0]) == query.matches(node, document)

        agree()


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        node = query.parse(text, CORE)
    except BadRequestData:
        return
    for compiled in (query.compile_sqlite, query.compile_postgres):
        sql, parameters = compiled(node)
        assert sql.count("?") == len(parameters)
    on_sqlite(node, DOCUMENT)
    query.matches(node, DOCUMENT)


