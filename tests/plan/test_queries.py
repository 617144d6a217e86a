"""Definitions of targets: what may be said, and what comes out, without any store."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tulou.plan.queries import Count, Definition, Selection, Sum, Tally, digest, evaluate, rounded

NOW = dt.datetime(2022, 6, 1, tzinfo=dt.UTC)
NOTE = {"note_zh": "说明", "note_en": "note"}
COUNT = {"types": ["Site5G"], "reported_within_days": 7}


class Found:
    """Facts that answer from a list, in order."""

    def __init__(self, *tallies: Tally) -> None:
        self.tallies = list(tallies)

    async def tally(self, selection: Selection, at: dt.datetime) -> Tally:
        return self.tallies.pop(0)


def definition(query: Any) -> Definition:
    return Definition.model_validate({"query": query, **NOTE})


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"count": COUNT, "sum": {**COUNT, "property": "x"}},
        {"count": {"types": [], "reported_within_days": 7}},
        {"count": {"types": ["Site5G"]}},
        {"count": {**COUNT, "reported_within_days": 0}},
        {"count": {**COUNT, "reported_within_days": 367}},
        {"count": {**COUNT, "types": ["*", "Site5G"]}},
        {"count": {**COUNT, "types": ["x' OR 1=1"]}},
        {"count": {**COUNT, "where": [{"property": "a"}]}},
        {"count": {**COUNT, "where": [{"property": "a", "any_of": ["b"], "at_least": 1}]}},
        {"count": {**COUNT, "where": [{"property": "a; DROP", "any_of": ["b"]}]}},
        {"count": {**COUNT, "origin": 3}},
        {"sum": COUNT},
        {"share": {"part": COUNT}},
        "all",
    ],
)
def test_what_may_not_be_said(query: Any) -> None:
    with pytest.raises(ValidationError):
        definition(query)


async def test_without_a_query_nothing_is_measured() -> None:
    assert await evaluate(definition("none"), Found(), NOW) is None


async def test_nothing_registered_is_no_value_and_nothing_heard_is_zero() -> None:
    one = definition({"count": COUNT})
    nothing = await evaluate(one, Found(Tally(0, 0, None, None)), NOW)
    silent = await evaluate(one, Found(Tally(9, 0, None, None)), NOW)
    assert nothing is not None
    assert nothing.value is None
    assert silent is not None
    assert (silent.value, silent.known, silent.reported) == (0, 9, 0)


async def test_a_factor_brings_a_sum_to_the_target_s_unit() -> None:
    one = definition({"sum": {**COUNT, "property": "ifHighSpeed", "factor": "0.000001"}})
    outcome = await evaluate(one, Found(Tally(2, 2, Decimal("40100000"), NOW)), NOW)
    assert outcome is not None
    assert outcome.value == Decimal("40.1")


async def test_a_share_of_nothing_is_no_value() -> None:
    one = definition({"share": {"part": COUNT, "whole": COUNT}})
    third = await evaluate(one, Found(Tally(3, 3, Decimal(1), NOW), Tally(3, 3, Decimal(3), NOW)), NOW)
    empty = await evaluate(one, Found(Tally(3, 0, None, None), Tally(3, 0, None, None)), NOW)
    assert third is not None
    assert third.value == Decimal("33.333333")
    assert empty is not None
    assert empty.value is None


def test_a_definition_reads_as_a_sentence() -> None:
    rack = definition({"count": {
        "types": ["RackPDU"], "reported_within_days": 7, "distinct": "rack",
        "where": [{"property": "activePower", "at_least": 50}],
    }})
    assert rack.text() == "count of different rack over RackPDU where activePower >= 50 reported within 7 days"
    assert definition("none").text() == "none"


selections = st.fixed_dictionaries(
    {"types": st.lists(st.sampled_from(["A", "B", "C"]), min_size=1, max_size=3), "reported_within_days": st.integers(1, 366)},
    optional={"where": st.lists(st.one_of(
        st.builds(lambda v: {"property": "p", "any_of": v}, st.lists(st.text(max_size=5), min_size=1, max_size=3)),
        st.builds(lambda v: {"property": "q", "at_least": v}, st.floats(allow_nan=False, allow_infinity=False)),
    ), max_size=3)},
)


@given(selections, st.sampled_from(["count", "sum"]))
def test_a_stored_definition_is_the_same_definition(selection: dict[str, Any], kind: str) -> None:
    more = {"property": "x"} if kind == "sum" else {}
    one = definition({kind: {**selection, **more}})
    again = Definition.model_validate(one.document())
    assert again == one
    assert again.digest() == one.digest() == digest(one.document())
    assert isinstance(getattr(again.query, kind), Sum if kind == "sum" else Count)


@given(st.decimals(min_value=0, max_value=10**15, places=9))
def test_rounding_keeps_six_places_and_is_stable(value: Decimal) -> None:
    once = rounded(value)
    assert abs(once - value) <= Decimal("0.0000005")
    assert rounded(once) == once
    assert format(rounded(once), "f") == format(once, "f")
    assert "E" not in str(once).upper() or once < Decimal("0.00001")
