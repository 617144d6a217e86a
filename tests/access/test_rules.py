"""The evaluator: what each kind of rule raises and clears, and that nothing depends on how the stream is cut."""

from __future__ import annotations

import itertools
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tulou.access.batch import BAD, Batch, BatchBuilder
from tulou.access.rules.evaluator import Change, Evaluator
from tulou.access.rules.expression import parse
from tulou.access.rules.models import Absence, Expression, Geofence, NewRule, Rate, Rule, Threshold, of_models
from tulou.kernel.packs import Model, Property, Text
from tulou.kernel.packs import Threshold as Declared

S = 1_000_000
TEXT = Text(zh="量", en="quantity")
MODELS = {"T": Model(label=TEXT, properties={"p": Property(label=TEXT, min=-100, max=100)})}
SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]]}


def batch(*frames: tuple[int, int, list[tuple[str, int, float]]], org: str = "fuzhou", kind: str = "T") -> Batch:
    """Frames of (entity, received at in s, readings of (property, ts in s, value))."""
    builder = BatchBuilder("mqtt")
    for entity, received, readings in frames:
        frame = builder.frames(entity, (org, kind, 0), received * S, [b""])
        for name, ts, value in readings:
            builder.reading(frame, name, ts * S, value)
    return Batch.decode(builder.encode())


def brought(*frames: tuple[int, int, list[tuple[str, int, float]]]) -> Batch:
    """As `batch`, by an edge."""
    made = batch(*frames)
    made.edge = "1"
    return made


def say(e: Evaluator, entity: int, at: int, **values: float) -> list[tuple[str, str, int]]:
    return kinds(e.take([batch((entity, at, [(name, at, value) for name, value in values.items()]))]))


def kinds(changes: list[Change]) -> list[tuple[str, str, int]]:
    return [(c.kind, c.rule.key, c.at // S) for c in changes]


def evaluator(*conditions: Any, **more: Any) -> Evaluator:
    return Evaluator([Rule(f"r{i}", "T", c, "major", **more) for i, c in enumerate(conditions)], MODELS)


def test_a_threshold_with_duration_and_hysteresis() -> None:
    e = evaluator(Threshold(property="p", above=10, clear=7, for_s=5))
    assert say(e, 1, 0, p=11) == []
    assert say(e, 1, 4, p=12) == []
    assert say(e, 1, 5, p=11) == [("raised", "r0", 5)]
    assert say(e, 1, 6, p=9) == []  # below the bound, not yet at `clear`
    assert say(e, 1, 7, p=13) == [("worse", "r0", 7)]
    assert say(e, 1, 8, p=7) == [("cleared", "r0", 8)]


def test_a_dip_starts_the_duration_again_and_silence_completes_it() -> None:
    e = evaluator(Threshold(property="p", below=2, for_s=5))
    say(e, 1, 0, p=1)
    say(e, 1, 3, p=9)
    say(e, 1, 4, p=1)
    say(e, 1, 5, p=-50)
    assert e.tick(8 * S) == []
    raised = e.tick(60 * S)
    assert kinds(raised) == [("raised", "r0", 9)]
    assert raised[0].value == -50
    assert e.tick(61 * S) == []


def test_late_and_repeated_and_faulty_values_change_nothing() -> None:
    e = evaluator(Threshold(property="p", above=10))
    say(e, 1, 10, p=5)
    for ts, value in ((9, 50), (10, 50), (11, float("nan")), (12, 1e9), (13, -101)):
        assert say(e, 1, ts, p=value) == []
    assert say(e, 1, 20, other=50) == []
    assert e.take([batch((1, 21, [("p", 21, 50)]), kind="U")]) == []
    bad = batch((1, 22, [("p", 22, 50)]))
    bad.r_quality = np.array([BAD], np.uint8)
    assert e.take([bad]) == []


def test_a_spike_between_two_good_values_of_one_frame_is_seen() -> None:
    e = evaluator(Threshold(property="p", above=10))
    assert kinds(e.take([batch((1, 9, [("p", 1, 5), ("p", 2, 50), ("p", 3, 5)]))])) == [
        ("raised", "r0", 2), ("cleared", "r0", 3)
    ]


def test_a_rate_is_of_one_reading_to_the_next() -> None:
    e = evaluator(Rate(kind="rate", property="p", above=6, per_s=60, for_s=0), Rate(kind="rate", property="p", below=-60, per_s=60))
    assert say(e, 1, 0, p=50) == []
    assert say(e, 1, 10, p=51) == []
    assert say(e, 1, 20, p=53) == [("raised", "r0", 20)]
    assert say(e, 1, 30, p=54) == [("cleared", "r0", 30)]
    assert say(e, 1, 31, p=40) == [("raised", "r1", 31)]


def test_absence_counts_from_the_last_value_heard() -> None:
    e = evaluator(Absence(kind="absence", property="p", after_s=60))
    assert say(e, 1, 0, p=1) == []
    assert say(e, 2, 55, p=1) == []
    assert say(e, 2, 70, p=1) == [("raised", "r0", 60)]
    assert say(e, 1, 90, p=1) == [("cleared", "r0", 90)]
    assert say(e, 1, 200, p=1) == [("raised", "r0", 150), ("cleared", "r0", 200), ("raised", "r0", 130)]
    e.listen(1000 * S)
    assert kinds(e.tick(1060 * S)) == []
    assert kinds(e.tick(1061 * S)) == [("raised", "r0", 1060)]


def test_a_geofence_takes_both_coordinates_of_a_frame_together() -> None:
    e = evaluator(Geofence(kind="geofence", area=SQUARE), Geofence(kind="geofence", area=SQUARE, when="inside", for_s=5))
    assert say(e, 1, 0, longitude=5) == []  # where it is, is not known yet
    assert say(e, 1, 1, latitude=5) == []
    assert say(e, 1, 9, longitude=50, latitude=50) == [("raised", "r0", 9), ("raised", "r1", 6), ("cleared", "r1", 9)]
    assert say(e, 1, 10, longitude=10, latitude=10) == [("cleared", "r0", 10)]


def test_an_expression_sees_the_latest_of_every_property() -> None:
    e = evaluator(Expression(kind="expression", raise_if="p > 60 and abs(q) < 0.5", clear_if="p < 50"))
    assert say(e, 1, 0, p=70) == []
    assert say(e, 1, 1, q=0.1) == [("raised", "r0", 1)]
    assert say(e, 1, 2, q=9) == []
    assert say(e, 1, 3, p=40) == [("cleared", "r0", 3)]
    assert say(e, 1, 4, p=70, q=9) == []


def test_a_rule_watches_its_organisation_and_its_entities() -> None:
    rules = [
        Rule("ours", "T", Threshold(property="p", above=1), "major", org="fuzhou"),
        Rule("one", "T", Threshold(property="p", above=1), "major", org="fuzhou", entities=frozenset({2})),
    ]
    e = Evaluator(rules, MODELS)
    assert say(e, 1, 0, p=5) == [("raised", "ours", 0)]
    assert say(e, 2, 0, p=5) == [("raised", "ours", 0), ("raised", "one", 0)]
    assert e.take([batch((3, 0, [("p", 0, 5)]), org="xiamen")]) == []


def test_the_thresholds_of_a_model_are_rules() -> None:
    model = Model(label=TEXT, properties={"p": Property(label=TEXT, alarm=Declared(above=9, below=6, clear=7, for_s=3))})
    above, below = of_models({"T": model})
    assert (above.key, below.key, above.about) == ("above", "below", "p")
    assert above.condition == Threshold(property="p", above=9, clear=7, for_s=3)
    assert below.condition == Threshold(property="p", below=6, clear=7, for_s=3)


def test_what_is_gone_is_cleared_and_what_was_open_is_taken_up() -> None:
    e = evaluator(Threshold(property="p", above=10))
    e.reopen(("T", "p", "r0", 1), 7, "fuzhou", 5 * S, 12.0)
    assert e.entities() == {7}
    assert say(e, 7, 8, p=11) == []
    assert kinds(e.drop({7}, 9 * S)) == [("cleared", "r0", 9)]
    assert e.entities() == set()


@pytest.mark.parametrize("text", [
    "p", "1 > 0", "p > 1 and q", "p.real > 1", "p[0] > 1", "__import__('os') == 1", "open(p) > 1", "p ** 9 > 1",
    "(lambda: 1)() > p", "p > 'a'", "p > 1; q", "[p for p in q] == 1", "p if q else 1", "abs(p, q) > 1", "p is 1",
    "True > p", "p >", "not p", "p > 1 " + "and p > 1 " * 60, "p > " + "(" * 300 + "1" + ")" * 300, "f'{p}' > 1",
    "p > 1e999", "(p := 1) > 0",
])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_expressions_are_arithmetic_on_columns() -> None:
    e = parse("0 < a - 2 * b <= 10 or not (max(a, b) % 3 == 1) and sqrt(a) / b >= -1")
    assert e.properties == ("a", "b")
    a, b = np.array([12.0, 100, np.nan, 9]), np.array([1.0, 1, 1, 0])
    assert e.holds({"a": a, "b": b}).tolist() == [True, False, False, True]


@pytest.mark.parametrize("condition", [
    {"kind": "threshold", "property": "p"}, {"kind": "threshold", "property": "p", "above": 1, "below": 0},
    {"kind": "threshold", "property": "p", "above": 1, "clear": 2}, {"kind": "threshold", "property": "p", "above": "NaN"},
    {"kind": "rate", "property": "p", "above": 1, "per_s": 0}, {"kind": "absence", "property": "p", "after_s": 0},
    {"kind": "geofence", "area": {"type": "Point", "coordinates": [0, 0]}},
    {"kind": "geofence", "area": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}},
    {"kind": "geofence", "area": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}},
    {"kind": "geofence", "area": {"type": "Polygon", "coordinates": [[[0, 0], [999, 1], [1, 0], [0, 0]]]}},
    {"kind": "expression", "raise_if": "import os"}, {"kind": "other"}, {},
])
def test_what_is_no_condition_is_refused(condition: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NewRule.model_validate({"org": "fuzhou", "name": "n", "type": "T", "condition": condition})


# --- replay ---------------------------------------------------------------------------------------------------------

EVERY = [
    Rule("high", "T", Threshold(property="p", above=10, clear=7, for_s=5), "major"),
    Rule("low", "T", Threshold(property="p", below=2), "minor"),
    Rule("jump", "T", Rate(kind="rate", property="p", above=4), "minor"),
    Rule("quiet", "T", Absence(kind="absence", property="q", after_s=6), "minor"),
    Rule("fence", "T", Geofence(kind="geofence", area=SQUARE, longitude="p", latitude="q", for_s=2), "minor"),
    Rule("both", "T", Expression(kind="expression", raise_if="p > 8 and q > 8", clear_if="p < 5", for_s=3), "minor"),
]

Frame = tuple[int, int, list[tuple[str, int, float]]]
frames = st.lists(st.tuples(
    st.integers(1, 3), st.integers(0, 4),
    st.lists(st.tuples(st.sampled_from("pq"), st.integers(-6, 2), st.integers(-1, 14).map(float)), min_size=1, max_size=4),
), max_size=30)


def received(steps: list[Frame]) -> list[Frame]:
    """Frames in their order: each some seconds after the one before, its readings about then."""
    now, out = 100, []
    for entity, step, readings in steps:
        now += step
        out.append((entity, now, [(name, now + back, value) for name, back, value in readings]))
    return out


def log(changes: list[Change]) -> list[tuple[Any, ...]]:
    """Raised and cleared; within one group, what different entities and rules did has no order among them."""
    return sorted((c.entity, c.rule.key, c.raised_at, c.kind, c.at, c.value) for c in changes if c.kind != "worse")


@settings(max_examples=300, deadline=None)
@given(frames, st.data())
def test_the_result_does_not_depend_on_how_the_stream_is_cut(steps: list[Frame], data: st.DataObject) -> None:
    story = received(steps)
    whole = Evaluator(EVERY, MODELS)
    expected = log(whole.take([batch(*story)]) if story else [])
    single = Evaluator(EVERY, MODELS)
    assert log([c for frame in story for c in single.take([batch(frame)])]) == expected
    cuts = sorted(data.draw(st.sets(st.integers(0, len(story)), max_size=4)) | {0, len(story)})
    parts = [story[a:b] for a, b in itertools.pairwise(cuts)]
    some = Evaluator(EVERY, MODELS)
    found: list[Change] = []
    for part in parts:
        found += some.take([batch(frame) for frame in part])
        again = Evaluator(EVERY, MODELS)  # as after a crash: another process, from what was kept
        again.restore(msgpack.unpackb(msgpack.packb(some.snapshot()), strict_map_key=False))
        some = again
    assert log(found) == expected


@settings(max_examples=200, deadline=None)
@given(frames)
def test_every_alarm_opens_and_closes_once(steps: list[Frame]) -> None:
    e = Evaluator(EVERY, MODELS)
    is_open: dict[tuple[int, str], int] = {}
    for frame in received(steps):
        for c in e.take([batch(frame)]):
            key = (c.entity, c.rule.key)
            if c.kind == "raised":
                assert key not in is_open
                is_open[key] = c.raised_at
            else:
                assert is_open[key] == c.raised_at
            if c.kind == "cleared":
                del is_open[key]


def test_what_an_edge_brings_late_is_judged_by_its_own_time() -> None:
    """A duration that the edge's later reading contradicts is not complete because the hub's clock is far beyond it."""
    e = evaluator(Threshold(property="p", above=10, clear=7, for_s=60))
    assert say(e, 9, 10_000, p=1) == []
    assert kinds(e.take([brought((1, 100, [("p", 100, 11)]))])) == []
    assert kinds(e.take([brought((1, 130, [("p", 130, 5)]))])) == [], "contradicted"
    assert kinds(e.take([brought((1, 200, [("p", 200, 11)]))])) == []
    assert kinds(e.take([brought((1, 230, [("p", 230, 12)]))])) == []
    kept, again = e.snapshot(), evaluator(Threshold(property="p", above=10, clear=7, for_s=60))
    again.restore(msgpack.unpackb(msgpack.packb(kept), strict_map_key=False))
    for one in (e, again):
        assert kinds(one.tick(10_059 * S)) == []
        assert kinds(one.take([brought((1, 260, [("p", 260, 11)]))])) == [("raised", "r0", 260)]
        assert kinds(one.take([brought((1, 270, [("p", 270, 5)]))])) == [("cleared", "r0", 270)]
        assert kinds(one.take([brought((1, 300, [("p", 300, 12)]))])) == []
        assert kinds(one.tick(10_118 * S)) == []
        assert kinds(one.tick(10_119 * S)) == [("raised", "r0", 360)], "nothing followed for as long"
        assert say(one, 9, 10_130, p=11) == [], "others' clock goes on"
        assert kinds(one.take([brought((1, 99_999, [("p", 99_999, 1)]))])) == [("cleared", "r0", 99_999)]
        assert one.clock == 10_130 * S, "an edge's clock that is wrong is its own"
