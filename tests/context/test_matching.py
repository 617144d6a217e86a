"""Which source serves which part (CIM 009, 5.12 and 4.3.6): the pure rules, case by case."""

from __future__ import annotations

import pytest

from tulou.context.distribution import parts_of
from tulou.context.forwarding import chain_of
from tulou.context.matching import EVERY, EntityInfo, Index, Info, Portion, Registration, narrowed
from tulou.context.selection import Selector

ONE, TWO = "urn:v:1", "urn:v:2"


def entity(*types: str, id: str | None = None, pattern: str | None = None) -> EntityInfo:
    """An EntityInfo."""
    return EntityInfo(frozenset(types), id, pattern)


def source(no: int, mode: str, *names: str, operations: str = "createEntity", **members: str) -> Registration:
    """A registration of vehicles."""
    return Registration(
        no, f"urn:r:{no}", "org", mode, frozenset(operations.split()), (Info((entity("Vehicle"),), frozenset(names)),), "http://x",
        alias=members.get("alias"),
    )


@pytest.mark.parametrize(("info", "selector", "expected"), [
    # 5.12: "The EntityInfo contains neither an id nor an idPattern"
    (entity("A"), Selector("A", (ONE,)), ("A", (ONE,), None)),
    # "One of the specified Entity identifiers matches the id in the EntityInfo"
    (entity("A", id=ONE), Selector("A", (ONE, TWO)), ("A", (ONE,), None)),
    (entity("A", id=ONE), Selector("A", (TWO,)), None),
    # "At least one of the specified Entity identifiers matches the idPattern in the EntityInfo"
    (entity("A", pattern="1$"), Selector("A", (ONE, TWO)), ("A", (ONE,), None)),
    # "The specified id pattern matches the id in the EntityInfo"
    (entity("A", id=ONE), Selector("A", (), "v:1"), ("A", (ONE,), None)),
    (entity("A", id=ONE), Selector("A", (), "v:2"), None),
    # "Both a specified id pattern and an idPattern in the Entity Info are present"
    (entity("A", pattern="1$"), Selector("A", (), "2$"), ("A", (), "2$")),
    # 4.3.6.1: "the distributed request does not contain additional types"
    (entity("A", "B"), Selector(("or", ("A", "C"))), ("A", (), None)),
    (entity("A", "B"), Selector(None, (ONE,)), (("or", ("A", "B")), (ONE,), None)),
    (entity("A"), Selector("B", (ONE,)), None),
    (entity(id=ONE), Selector("B"), ("B", (ONE,), None)),
])
def test_a_query_is_narrowed_to_what_is_offered(info: EntityInfo, selector: Selector, expected: tuple[object, ...] | None) -> None:
    found = narrowed(Info((info,), frozenset()), [selector], None)
    assert found == ([] if expected is None else [Portion(*expected, None)])  # type: ignore[arg-type]


def test_attributes_are_narrowed_too() -> None:
    info = Info((entity("A"),), frozenset({"speed", "load"}))
    assert narrowed(info, [Selector("A")], frozenset({"speed", "colour"})) == [Portion("A", (), None, frozenset({"speed"}))]
    assert narrowed(info, [Selector("A")], frozenset({"colour"})) == []
    assert narrowed(info, [], None) == [Portion("A", (), None, frozenset({"speed", "load"}))]


def test_an_index_finds_what_a_walk_over_all_finds() -> None:
    many = [
        Registration(no, f"urn:r:{no}", "org", "inclusive", frozenset(), (Info((entity(*types, id=id, pattern=pattern),), frozenset()),), "http://x")
        for no, (types, id, pattern) in enumerate(
            (types, id, pattern) for types in ((), ("A",), ("A", "B"), ("C",)) for id, pattern in ((None, None), (ONE, None), (None, "2$"))
        )
    ]
    index = Index(many)
    for types in (None, ["A"], ["B", "C"], ["D"]):
        for id in (ONE, TWO, "urn:v:3"):
            found = [item.no for item, _ in index.serving(id, types, 0)]
            assert found == [item.no for item in many if item.names(id, types) is not None], (types, id)


def test_exclusive_before_redirect_before_the_house_and_inclusive_sources() -> None:
    """5.6.1.4: what is taken is 'not processed further'; an inclusive copy holds the rest only, as does the house."""
    regs = [source(1, "inclusive"), source(2, "redirect", "speed", "load"), source(3, "exclusive", "speed"), source(4, "auxiliary")]
    serving = [(item, item.names(ONE, ["Vehicle"]) or EVERY) for item in regs]
    parts = parts_of(frozenset({"speed", "load", "brand"}), serving, ["createEntity"])
    assert [(part.registration.no if part.registration else 0, sorted(part.names)) for part in parts] == [
        (3, ["speed"]), (2, ["load"]), (1, ["brand"]), (0, ["brand"]),
    ]
    lone = parts_of(frozenset({"speed"}), serving[2:3], ["updateEntity"])
    assert [(part.refused, sorted(part.names)) for part in lone] == [(True, ["speed"])], "refused, and not done here instead"


def test_a_source_met_before_is_passed_over() -> None:
    """4.3.6.4: 'no registration shall match if the contextSourceAlias can be found within the listing'."""
    index = Index([source(1, "inclusive", alias="first"), source(2, "inclusive", alias="second")])
    chain = chain_of("1.1 first, HTTP/1.1 other:80 (a comment)")
    assert chain == ("first", "other:80")
    assert [item.no for item, _ in index.serving(ONE, ["Vehicle"], 0, chain)] == [2]
