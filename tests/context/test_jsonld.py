"""Contexts (CIM 009 v1.9.1, 4.4, 5.5.5, 5.5.7): expansion, compaction, the core always last, nothing fetched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.context.errors import BadRequestData, LdContextNotAvailable
from tulou.context.jsonld import CORE, CORE_URL, DEFAULT_VOCAB, Context, Contexts, house_document, link_context
from tulou.kernel.packs import Model, Property, Text

USER = {
    "ex": "https://example.org/#", "speed": "ex:speed", "Vehicle": {"@id": "https://example.org/#Vehicle"},
    "location": "https://evil.org/location", "name": "https://schema.org/name",
}


@pytest.fixture
def contexts() -> Contexts:
    made = Contexts(origins=["https://tulou.example"])
    made.put("https://example.org/user.jsonld", {"@context": USER})
    made.put("https://example.org/both.jsonld", {"@context": ["https://example.org/user.jsonld", CORE_URL]})
    return made


def test_the_core_has_the_terms_of_annex_b() -> None:
    assert CORE.expand("value") == "https://uri.etsi.org/ngsi-ld/hasValue"
    assert CORE.expand("object") == "https://uri.etsi.org/ngsi-ld/hasObject"
    assert CORE.expand("description") == "http://purl.org/dc/terms/description"
    assert CORE.expand("Point") == "https://purl.org/geojson/vocab#Point"
    assert CORE.expand("temperature") == DEFAULT_VOCAB + "temperature"
    assert CORE.expand("ngsi-ld:anything") == "https://uri.etsi.org/ngsi-ld/anything"


@pytest.mark.parametrize("spec", ["https://example.org/user.jsonld", "https://example.org/both.jsonld", USER,
                                  [USER], [CORE_URL, USER], {"@context": USER}, [[USER], CORE_URL]])
def test_every_way_to_give_a_context(contexts: Contexts, spec: object) -> None:
    context = contexts.get(spec)
    assert context.expand("speed") == "https://example.org/#speed"
    assert context.stored("Vehicle") == "https://example.org/#Vehicle"
    assert context.shown("https://example.org/#Vehicle") == "Vehicle"


def test_the_core_takes_precedence_wherever_it_stands(contexts: Contexts) -> None:
    assert contexts.get([CORE_URL, USER]).expand("location") == "https://uri.etsi.org/ngsi-ld/location"


def test_without_a_term_the_full_name_is_shown(contexts: Contexts) -> None:
    assert CORE.shown("https://example.org/#speed") == "https://example.org/#speed"
    # the user's `name` is another one, so the default vocabulary's is a compact IRI (JSON-LD 1.1 API, 6.2.2)
    assert contexts.get(USER).shown("name") == "ngsi-ld:default-context/name"
    assert contexts.get(USER).expand("ngsi-ld:default-context/name") == DEFAULT_VOCAB + "name"


def test_two_contexts_meet_in_the_stored_name(contexts: Contexts) -> None:
    other = contexts.get({"Geschwindigkeit": "https://example.org/#speed"})
    assert other.stored("Geschwindigkeit") == contexts.get(USER).stored("speed")
    assert other.shown(contexts.get(USER).stored("speed")) == "Geschwindigkeit"


@pytest.mark.parametrize("url", ["https://example.org/none.jsonld", "http://127.0.0.1:1/x.jsonld",
                                 "https://uri.etsi.org/ngsi-ld/v1/ngsi-ld-core-context-non-existing.jsonld"])
def test_nothing_is_fetched(contexts: Contexts, url: str) -> None:
    with pytest.raises(LdContextNotAvailable) as refused:
        contexts.get(url)
    assert refused.value.status == 504


@pytest.mark.parametrize("version", ["", "-v1.3", "-v1.6", "-v1.8", "-v1.9"])
def test_every_published_core_address_is_the_core(contexts: Contexts, version: str) -> None:
    found = contexts.get(f"https://uri.etsi.org/ngsi-ld/v1/ngsi-ld-core-context{version}.jsonld")
    assert found.expand("location") == CORE.expand("location")


@pytest.mark.parametrize(
    "spec",
    [42, "not a uri", {"a": 1}, {"a": {"@id": "https://e.org/a", "@context": {}}}, {"a": "b:x", "b": "a:y"},
     {"@import": "https://example.org/user.jsonld"}, [[[[[[[[[[USER]]]]]]]]]], [USER] * 101,
     {f"t{n}": f"https://e.org/{n}" for n in range(20_001)}],
)
def test_malformed_contexts_are_refused(contexts: Contexts, spec: object) -> None:
    with pytest.raises(BadRequestData):
        contexts.get(spec)


@pytest.mark.parametrize("name", ["", "a b", "<x>", "a\"b", "a'b", "9a", "a;b", "a(b)", "a\x00", "x" * 2000, "@type", "a=b"])
def test_names_that_are_neither_terms_nor_iris(name: str) -> None:
    with pytest.raises(BadRequestData):
        CORE.stored(name)


def test_the_houses_context_names_its_models() -> None:
    text = Text(zh="甲", en="a")
    model = Model(label=text, iri="https://e.org/T", properties={
        "pm25": Property(label=text, iri="https://e.org/pm25"), "note": Property(label=text), "location": Property(label=text),
    })
    document = house_document({"T": model})
    context = Contexts().get(document["@context"])
    assert context.stored("pm25") == "https://e.org/pm25"
    assert context.shown(context.stored("pm25")) == "pm25"
    assert context.stored("note") == "note"
    assert context.stored("T") == "https://e.org/T"
    clash = Model(label=text, properties={"pm25": Property(label=text, iri="https://other.org/pm25")})
    with pytest.raises(BadRequestData):
        house_document({"T": model, "U": clash})


def test_link_header() -> None:
    relation = 'rel="http://www.w3.org/ns/json-ld#context"; type="application/ld+json"'
    assert link_context(f"<https://e.org/c.jsonld>; {relation}") == "https://e.org/c.jsonld"
    assert link_context('</next>; rel="next"') is None
    with pytest.raises(BadRequestData):
        link_context(f"<https://e.org/c>; {relation}, <https://e.org/d>; {relation}")


terms = st.sampled_from(["a", "b", "speed", "location", "value", "Ä", "名"])
iris = st.sampled_from(
    ["https://e.org/x", "https://e.org/#y", DEFAULT_VOCAB + "a", DEFAULT_VOCAB + "z", "https://uri.etsi.org/ngsi-ld/location",
     "urn:a:b", "https://uri.etsi.org/ngsi-ld/nothing"]
)


@given(st.dictionaries(terms, iris), st.one_of(terms, iris))
def test_what_is_shown_means_what_is_stored(definitions: dict[str, str], name: str) -> None:
    context: Context = Contexts().get(definitions)
    stored = context.stored(name)
    assert context.stored(context.shown(stored)) == stored
    assert CORE.stored(stored) == stored
    assert CORE.expand(stored) == context.expand(name)
