"""The request language of SensorThings (OGC 18-088, 9.2 and 9.3), and what of a condition a store is asked."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.access.sensorthings.evaluate import evaluate, folded
from tulou.access.sensorthings.odata import Call, Literal, Path, Segment, expression, options, resource
from tulou.access.sensorthings.selection import asked_of
from tulou.kernel.errors import Invalid
from tulou.kernel.readings import Constant, Field, Term


def value(text: str, **names: object) -> object:
    return evaluate(expression(text), lambda path: names.get("/".join(path)))


@pytest.mark.parametrize(("text", "expected"), [
    ("result gt 5", True), ("result ge 10.5", True), ("result lt 5", False), ("result le 10.5", True),
    ("result eq 10.5", True), ("result ne 10.5", False),
    ("result gt 5 and name eq 'x'", False), ("result gt 50 or name eq '福州'", True), ("not (result gt 50)", True),
    ("result add 2 sub 1 eq 11.5", True), ("result mul 2 eq 21", True), ("result div 2 eq 5.25", True),
    ("1 add 2 mul 3 eq 7", True), ("(1 add 2) mul 3 eq 9", True), ("7 mod 4 eq 3", True), ("-result lt 0", True),
    ("substringof('州', name)", True), ("endswith(name, '州')", True), ("startswith(name, '州')", False),
    ("length(name) eq 2", True), ("indexof(name, '州') eq 1", True), ("substring(name, 1) eq '州'", True),
    ("substring('abcdef', 1, 2) eq 'bc'", True), ("tolower('AbC') eq 'abc'", True), ("toupper('AbC') eq 'ABC'", True),
    ("trim('  x ') eq 'x'", True), ("concat(concat(name, '，'), '福建') eq '福州，福建'", True),
    ("year(time) eq 2026", True), ("month(time) eq 11", True), ("day(time) eq 27", True), ("hour(time) eq 10", True),
    ("minute(time) eq 30", True), ("second(time) eq 15", True), ("fractionalseconds(time) eq 0.25", True),
    ("date(time) eq 2026-11-27", True), ("time(time) eq 10:30:15.25", True), ("totaloffsetminutes(time) eq 0", True),
    ("time lt now() add duration'P36500D'", True), ("mindatetime() lt maxdatetime()", True),
    ("time ge 2026-11-27T18:30:15.250+08:00", True), ("time sub duration'PT30M15.25S' eq 2026-11-27T10:00:00Z", True),
    ("round(result) eq 11", True), ("floor(result) eq 10", True), ("ceiling(result) eq 11", True),
    ("geo.distance(location, geography'POINT(119.3 26.1)') lt 0.01", True),
    ("geo.length(geography'LINESTRING(0 0, 3 4)') eq 5", True),
    ("st_within(location, geography'POLYGON((119 26, 120 26, 120 27, 119 27, 119 26))')", True),
    ("st_disjoint(location, geography'POINT(0 0)')", True), ("st_equals(location, geography'POINT(119.3 26.1)')", True),
    ("geo.intersects(location, geography'LINESTRING(119.3 26, 119.3 27)')", True),
    ("st_relate(location, geography'POINT(119.3 26.1)', '0FFFFFFF2')", True),
    ("missing gt 3", False), ("missing eq null", True), ("name ne null", True), ("name eq 5", False), ("name gt 5", False),
    ("'it''s' eq 'it''s'", True), ("true and result gt 0", True),
])
def test_the_operators_and_functions_of_the_standard(text: str, expected: bool) -> None:
    """18-088, 9.3.3.5.1 and 9.3.3.5.2."""
    assert value(
        text, result=10.5, name="福州", time=datetime(2026, 11, 27, 10, 30, 15, 250_000, tzinfo=UTC),
        location={"type": "Point", "coordinates": [119.3, 26.1]},
    ) is expected


@pytest.mark.parametrize("text", [
    "", "result gt", "result gt 5 and", "(result gt 5", "result gt 5)", "nosuch(result)", "length()", "length(a, b)",
    "'open", "result % 5", "a eq 2026-13-45T00:00:00Z", "geography'POINT(x)' eq a", "(" * 100 + "1" + ")" * 100,
    "duration'x' eq a", "a b c", "x" * 20_000, "not " * 60 + "true", "1" + " add 1" * 60 + " eq 1", "name eq '\0'",
    " or ".join(["id eq 1"] * 600),
])
def test_what_cannot_be_read_says_where(text: str) -> None:
    with pytest.raises(Invalid) as raised:
        expression(text)
    assert raised.value.field == "$filter"


@given(st.text(alphabet="abc '()/,$;=0123456789.-:TZ+@州", max_size=60))
def test_any_text_is_a_tree_or_an_error(text: str) -> None:
    for read in (expression, resource, lambda t: options([("$expand", t)]), lambda t: options([("$orderby", t)])):
        with contextlib.suppress(Invalid):
            read(text)


def test_a_long_condition_is_not_a_deep_one() -> None:
    many = " or ".join(f"id eq {n}" for n in range(400))
    node = expression(many)
    assert isinstance(node, Call)
    assert len(node.args) == 400
    assert value(many, id=399) is True
    assert asked_of([expression(" or ".join(f"result eq {n}" for n in range(400)))]).condition is not None


def test_options_inside_expand() -> None:
    """18-088, 9.3.2.1: options of an expanded property are separated by semicolons, paths by slashes."""
    found = options([
        ("$expand", "Datastreams($select=id,name;$expand=Observations($top=1;$orderby=phenomenonTime desc;"
                    "$filter=result gt 5 and startswith(result,'a;b')),ObservedProperty;$count=true),Locations"),
        ("$select", "id,name"), ("$top", "5"), ("$count", "true"),
    ])
    streams = found.expand["Datastreams"]
    assert (found.select, found.top, found.count, set(found.expand)) == (("id", "name"), 5, True, {"Datastreams", "Locations"})
    assert (streams.select, streams.count, set(streams.expand)) == (("id", "name"), True, {"Observations", "ObservedProperty"})
    assert streams.expand["Observations"].orderby == ((Path(("phenomenonTime",)), True),)
    assert options([("$expand", "Datastreams/ObservedProperty,Datastreams/Sensor")]).expand["Datastreams"].expand.keys() == {
        "ObservedProperty", "Sensor",
    }


@pytest.mark.parametrize(("name", "text"), [
    ("$top", "-1"), ("$top", "x"), ("$skip", "1.5"), ("$count", "yes"), ("$search", "x"), ("$expand", "A(B"),
    ("$expand", "A($top=1"), ("$resultFormat", "csv"), ("$orderby", ""),
])
def test_options_that_break_a_rule(name: str, text: str) -> None:
    with pytest.raises(Invalid):
        options([(name, text)])


def test_paths_have_keys_with_anything_in_them() -> None:
    """18-088, 9.2: keys are numbers or quoted; a quote is doubled."""
    assert resource("Things(1)/Datastreams('1:a/b(c)''d')/Observations/$ref") == [
        Segment("Things", 1), Segment("Datastreams", "1:a/b(c)'d"), Segment("Observations"), Segment("$ref"),
    ]
    assert resource("") == resource("/") == []
    with pytest.raises(Invalid):
        resource("Things(1")


def test_constants_are_computed_once() -> None:
    node = folded(expression("phenomenonTime gt 2026-11-27T00:00:00Z sub duration'PT1H'"))
    assert node == Call("gt", (Path(("phenomenonTime",)), Literal(datetime(2026, 11, 26, 23, tzinfo=UTC))))
    assert folded(expression("2026-11-27 lt 2026-11-28")) == Literal(date(2026, 11, 27) < date(2026, 11, 28))
    assert folded(expression("duration'PT90S'")) == Literal(timedelta(seconds=90))


def test_time_becomes_the_range_of_the_index() -> None:
    asked = asked_of([
        expression("phenomenonTime ge 2026-11-27T00:00:00Z"), expression("2026-11-28T00:00:00Z gt resultTime"),
        expression("result gt 30"), expression("Datastream/Thing/name eq 'x'"),
    ])
    day = 1_795_737_600_000_000
    assert (asked.start, asked.end) == (day, day + 86_400_000_000)
    number = Term("eq", (Field("value"), Field("value")))
    assert asked.condition == Term("and", (number, Term("gt", (Field("value"), Constant(30)))))
    assert asked.streams == [expression("Datastream/Thing/name eq 'x'")]
    at = asked_of([expression("phenomenonTime eq 2026-11-27T00:00:00Z")])
    assert (at.start, at.end) == (day, day + 1)
    text = asked_of([expression("result eq 'on'")])
    assert text.condition == Term("eq", (Field("text"), Constant("on")))


@pytest.mark.parametrize("text", [
    "result gt 5 or Datastream/Thing/id eq 1", "parameters/origin eq 'measured'", "nosuch eq 1",
    "geo.distance(result, geography'POINT(0 0)') lt 1",
])
def test_conditions_that_no_store_answers_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        asked_of([expression(text)])
