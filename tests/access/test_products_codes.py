"""What a field protocol calls a property, and what becomes of it: pure, with frames of HJ 212."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from tests.access.test_hj212 import frame
from tulou.access.batch import BAD, GOOD, Batch, BatchBuilder
from tulou.access.products.kinds import kind_of, rules_of
from tulou.access.protocols.hj212 import codec
from tulou.access.telemetry import ANY, Chunk, Decoded, RuleBook, Rules, decode
from tulou.kernel.packs import Model

NOW_MS = 1_790_000_000_000
OF = ("fuzhou", "Monitor", 0)

Row = tuple[int, str, float | str, int]


def model(open: bool = False, **properties: Any) -> Model:
    label = {"zh": "甲", "en": "a"}
    return Model.model_validate({
        "label": label, "open": open, "properties": {name: {"label": label, **more} for name, more in properties.items()},
    })


def take(rules: Rules, *payloads: bytes) -> tuple[list[Row], Decoded]:
    """Rows (frame, property, value, quality) in order, and the outcome."""
    builder = BatchBuilder("hj212")
    outcome = decode([Chunk("hj212", 7, OF, rules, list(payloads), NOW_MS * 1000, codec=codec)], builder, NOW_MS)
    batch = Batch.decode(builder.encode())
    return sorted(
        (int(batch.r_frame[n]), batch.props[batch.r_prop[n]], batch.r_text[n] if n in batch.r_text else float(batch.r_val[n]),
         int(batch.r_quality[n])) for n in range(len(batch.r_val))
    ), outcome


def said(text: bytes) -> bytes:
    return frame(b"DataTime=20260401080000;" + text)


def test_codes_are_properties_with_the_rules_of_these() -> None:
    rules = Rules.of(model(cod={"codes": {"hj212": "w01018-Rtd"}, "max": 50}, flow={"codes": {"jt808": "w00000-Rtd"}}))
    rows, outcome = take(rules, said(b"w01018-Rtd=12.5"), said(b"w01018-Rtd=51"), said(b"w01018-Rtd=3;w00000-Rtd=1"))
    assert rows == [(0, "cod", 12.5, GOOD), (1, "cod", 51.0, BAD), (2, "cod", 3.0, GOOD)]
    assert [(one.refusal.rule, one.refusal.field) for one in outcome.dead] == [("unknown-property", "w00000-Rtd")], "another protocol's"
    assert take(Rules.of(model(True)), said(b"w01018-Rtd=1"))[0] == [(0, "w01018-Rtd", 1.0, GOOD)]


def test_quality_goes_with_the_value_and_scale_with_the_code() -> None:
    rules = Rules.of(model(True, a={"codes": {"hj212": "w01018-Rtd"}, "scale": 1000, "offset": -1}, b={"scale": 5},
                           flag={"kind": "string", "codes": {"hj212": "w01018-Flag"}, "scale": 2}))
    rows, outcome = take(rules, *[said(b"w01018-Rtd=%d.5,w01018-Flag=D;b-Rtd=1" % n) for n in range(3)])
    assert outcome.dead == []
    assert [row for row in rows if row[1] == "a"] == [(n, "a", n * 1000 + 499.0, BAD) for n in range(3)]
    assert {row[1:] for row in rows if row[1] != "a"} == {("flag", "D", GOOD), ("b-Rtd", 1.0, GOOD)}


def test_together_is_as_one_by_one_and_neighbours_are_not_lost() -> None:
    rules = Rules.of(model(cod={"codes": {"hj212": "w01018-Rtd"}}, state={"kind": "number", "codes": {"hj212": "w01018-Flag"}}))
    payloads = [said(b"w01018-Rtd=%d,w01018-Flag=N" % n) for n in range(3)]
    rows, outcome = take(rules, *payloads)
    assert rows == [(n, "cod", float(n), GOOD) for n in range(3)]
    assert [(one.refusal.rule, one.refusal.field) for one in outcome.dead] == [("kind", "state")] * 3
    for number, payload in enumerate(payloads):
        alone, _ = take(rules, payload)
        assert alone == [(0, "cod", float(number), GOOD)]


def test_a_value_by_its_property_gives_way_to_the_code_that_stands_for_it() -> None:
    named: dict[str, Any] = {"w21003-Rtd": {"codes": {"hj212": "w01018-Rtd"}}}
    rules = Rules.of(model(**named))
    rows, outcome = take(rules, said(b"w01018-Rtd=1;w21003-Rtd=2"))
    assert rows == [(0, "w21003-Rtd", 1.0, GOOD)]
    assert [(one.refusal.rule, one.refusal.field, one.refusal.value) for one in outcome.dead] == [("code", "w21003-Rtd", 2.0)]
    assert take(rules, said(b"w21003-Rtd=2"))[0] == [(0, "w21003-Rtd", 2.0, GOOD)]


def test_who_holds_rules_follows_them() -> None:
    book = RuleBook()
    held = book.of("Monitor")
    assert book.get("Elsewhere") is ANY
    assert take(held, said(b"w01018-Rtd=1"))[0] == [(0, "w01018-Rtd", 1.0, GOOD)]
    book.take({"Monitor": Rules.of(model(cod={"codes": {"hj212": "w01018-Rtd"}}))})
    assert take(held, said(b"w01018-Rtd=1"))[0] == [(0, "cod", 1.0, GOOD)]
    book.take({})
    assert take(held, said(b"w01018-Rtd=1"))[0] == [(0, "w01018-Rtd", 1.0, GOOD)]
    assert book.of("Monitor") is held
    assert take(ANY, said(b"w01018-Rtd=1"))[0] == [(0, "w01018-Rtd", 1.0, GOOD)]


def test_a_gateway_is_given_the_same_rules() -> None:
    declared = model(a={"codes": {"hj212": "x", "jt808": "y"}, "scale": 2, "min": 0, "lwm2m": "3303/0/5700"}, b={"kind": "json"})
    given = json.loads(json.dumps(kind_of(declared.model_dump(mode="json"))))
    ours, theirs = Rules.of(declared), rules_of(given)
    assert (ours.properties, ours.open) == (theirs.properties, theirs.open)
    for protocol in ("hj212", "jt808"):
        assert ours.codes[protocol].names(("x", "y", "z")) == theirs.codes[protocol].names(("x", "y", "z"))
    assert given["lwm2m"] == {"3303/0/5700": "a"}


@pytest.mark.parametrize("properties", [
    {"a": {"codes": {"hj212": "x"}}, "b": {"codes": {"hj212": "x"}}}, {"a": {"lwm2m": "1/2/3"}, "b": {"lwm2m": "1/2/3"}},
    {"a": {"codes": {"lwm2m": "1/2/3"}}}, {"a": {"codes": {"hj212": ""}}}, {"a": {"scale": 0}}, {"a": {"scale": float("inf")}},
    {"a": {"min": 2, "max": 1}}, {"a b": {}}, {"": {}}, {"x" * 129: {}}, {"a\n": {}},
])
def test_what_a_model_may_not_say(properties: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model(**properties)
