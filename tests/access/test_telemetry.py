"""The payload convention: what is stored, what is refused, and that a bad neighbour costs nobody else."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.access.batch import BAD, GOOD, Batch, BatchBuilder
from tulou.access.telemetry import ANY, ATTRIBUTES, TELEMETRY, UNKNOWN, Chunk, Decoded, Rules, decode

NOW_MS = 1_790_000_000_000
RECEIVED = NOW_MS * 1000
OF = ("fujian", "AirQualityObserved", 0)
AIR = Rules({"pm25": ("number", 0, 1000), "status": ("string", None, None), "on": ("boolean", None, None),
             "extra": ("json", None, None), "t": ("number", None, None)}, open=False)

Row = tuple[int, str, int, float | str, int]


def take(*payloads: bytes, kind: str = TELEMETRY, rules: Rules = ANY) -> tuple[list[Row], Decoded]:
    """Rows (frame, property, ts, value or text, quality) and the outcome."""
    builder = BatchBuilder("mqtt")
    outcome = decode([Chunk(kind, 7, OF, rules, list(payloads), RECEIVED)], builder, NOW_MS)
    batch = Batch.decode(builder.encode())
    rows: list[Row] = []
    for n in range(len(batch.r_val)):
        value = batch.r_text[n] if n in batch.r_text else float(batch.r_val[n])
        rows.append((int(batch.r_frame[n]), batch.props[batch.r_prop[n]], int(batch.r_ts[n]), value,
                     int(batch.r_quality[n])))
    return rows, outcome


def refused(payload: bytes, kind: str = TELEMETRY, rules: Rules = ANY) -> tuple[str, str]:
    """Rule and field of the only refusal of a payload of which nothing is stored."""
    rows, outcome = take(payload, kind=kind, rules=rules)
    assert rows == []
    (letter,) = outcome.dead
    assert letter.raw == payload
    assert letter.entity == 7
    assert letter.org == "fujian"
    assert letter.refusal.zh
    assert letter.refusal.en
    return letter.refusal.rule, letter.refusal.field


def test_object() -> None:
    rows, outcome = take(b'{"a":1,"b":2.5,"c":true,"d":"x","e":{"f":[1]},"g":[1,2]}')
    assert rows == [
        (0, "a", RECEIVED, 1.0, GOOD), (0, "b", RECEIVED, 2.5, GOOD), (0, "c", RECEIVED, 1.0, GOOD),
        (0, "d", RECEIVED, "x", GOOD), (0, "e", RECEIVED, '{"f":[1]}', GOOD), (0, "g", RECEIVED, "[1,2]", GOOD),
    ]
    assert outcome.dead == []


def test_object_with_time() -> None:
    assert take(b'{"ts":1700000000123,"values":{"a":1}}')[0] == [(0, "a", 1_700_000_000_123_000, 1.0, GOOD)]
    assert take(b'{"values":{"a":"x"},"ts":1700000000123}')[0] == [(0, "a", 1_700_000_000_123_000, "x", GOOD)]


def test_list() -> None:
    rows, _ = take(b'[{"ts":1700000000000,"values":{"a":1}},{"ts":1700000001000,"values":{"a":2}},{"a":3}]')
    assert sorted((row[2], row[3]) for row in rows) == [
        (1_700_000_000_000_000, 1.0), (1_700_000_001_000_000, 2.0), (RECEIVED, 3.0),
    ]


def test_ts_alone_is_an_ordinary_property() -> None:
    assert take(b'{"ts":5}')[0] == [(0, "ts", RECEIVED, 5.0, GOOD)]


def test_attributes_are_one_object_whatever_its_names() -> None:
    rows, _ = take(b'{"ts":5,"values":{"a":1},"fw":"1.2"}', kind=ATTRIBUTES)
    assert rows == [(0, "ts", RECEIVED, 5.0, GOOD), (0, "values", RECEIVED, '{"a":1}', GOOD),
                    (0, "fw", RECEIVED, "1.2", GOOD)]
    assert refused(b'[{"a":1}]', kind=ATTRIBUTES) == ("object", "")


def test_messages_without_time_get_times_that_never_repeat() -> None:
    rows, _ = take(b'{"a":1}', b'{"a":2}', b'{"b":3}')
    assert [row[2] for row in rows] == [RECEIVED, RECEIVED + 1, RECEIVED + 2]


@pytest.mark.parametrize(("payload", "rule", "field"), [
    (b"", "empty", ""), (b"{}", "empty", ""), (b"[]", "empty", ""), (b"[{}]", "empty", "[0]"),
    (b"hello", "json", ""), (b'{"a":}', "json", ""), (b'{"a":1}{"b":2}', "json", ""), (b'{"a":1},{"b":2}', "json", ""),
    (b'{"a":NaN}', "json", ""), (b'{"a":Infinity}', "json", ""), (b'{"a":-Infinity}', "json", ""),
    (b'{"a":1e999}', "float64", ""), (b'{"a":-1' + b"0" * 400 + b"}", "float64", ""),
    (b'{"a":"\xff"}', "utf-8", ""), (b"\xff\xfe{}", "utf-8", ""),
    (b"[" * 10_000 + b"]" * 10_000, "depth", ""), (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "depth", ""),
    (b'{"a":' + b"[" * 500 + b"]" * 500 + b"}", "depth", "a"),
    (b"5", "object", ""), (b'"x"', "object", ""), (b"null", "object", ""), (b"[5]", "object", "[0]"),
    (b'{"ts":"x","values":{"a":1}}', "ts", "ts"), (b'{"ts":1.5,"values":{"a":1}}', "ts", "ts"),
    (b'{"ts":true,"values":{"a":1}}', "ts", "ts"), (b'{"ts":null,"values":{"a":1}}', "ts", "ts"),
    (b'{"ts":1700000000,"values":{"a":1}}', "ts-past", "ts"), (b'{"ts":-1,"values":{"a":1}}', "ts-past", "ts"),
    (b'{"ts":%d,"values":{"a":1}}' % (NOW_MS + 24 * 3600 * 1000 + 1), "ts-future", "ts"),
    (b'{"ts":18446744073709551615,"values":{"a":1}}', "ts-future", "ts"),
    (b'{"ts":1700000000000,"values":[1]}', "object", "values"),
    (b'{"ts":1700000000000,"values":{}}', "empty", "values"),
    (b'{"":1}', "name", ""), (b'{"' + b"n" * 129 + b'":1}', "name-length", "n" * 128),
    (b'{"a\\u0000b":1}', "name-characters", "'a\\x00b'"), (b'{"a":null}', "null", "a"),
    (json.dumps({f"p{n}": n for n in range(10_001)}).encode(), "count", ""),
    (json.dumps([{"ts": 1_700_000_000_000 + n, "values": {"a": 1, "b": 2}} for n in range(5001)]).encode(), "count", ""),
])
def test_refusals(payload: bytes, rule: str, field: str) -> None:
    assert refused(payload) == (rule, field)


def test_ten_thousand_readings_are_allowed() -> None:
    rows, outcome = take(json.dumps({f"p{n}": n for n in range(10_000)}).encode())
    assert len(rows) == 10_000
    assert outcome.dead == []


def test_unknown_topic() -> None:
    assert refused(b"x", kind=UNKNOWN) == ("topic", "")


@pytest.mark.parametrize("bad", [b"", b"{", b"[" * 10_000, b'{"a":1e999}', b"\xff", b"[1]", b"5", b'{"a":null}'])
def test_neighbours_of_a_bad_message_are_stored(bad: bytes) -> None:
    rows, outcome = take(b'{"a":1}', bad, b'{"a":2}')
    assert [row[3] for row in rows] == [1.0, 2.0]
    assert [row[2] for row in rows] == [RECEIVED, RECEIVED + 2]
    assert [(letter.raw, letter.ts) for letter in outcome.dead] == [(bad, RECEIVED + 1)]


def test_one_bad_item_of_a_list_costs_only_itself() -> None:
    rows, outcome = take(b'[{"ts":1700000000000,"values":{"a":1}},{"ts":5,"values":{"a":2}},{"a":3}]')
    assert [row[3] for row in rows] == [1.0, 3.0]
    assert [(d.refusal.rule, d.refusal.field) for d in outcome.dead] == [("ts-past", "[1].ts")]


def test_a_closed_model_refuses_the_reading_and_keeps_its_neighbours() -> None:
    rows, outcome = take(b'{"pm25":12,"pm26":1,"status":"ok","on":true,"t":true,"extra":[1]}', rules=AIR)
    assert [(row[1], row[3]) for row in rows] == [("pm25", 12.0), ("status", "ok"), ("on", 1.0), ("extra", "[1]")]
    assert [(d.refusal.rule, d.refusal.field) for d in outcome.dead] == [("unknown-property", "pm26"), ("kind", "t")]


def test_an_open_model_keeps_unknown_properties() -> None:
    rows, outcome = take(b'{"pm25":12,"new":1}', rules=Rules({"pm25": ("number", 0, 1000)}, open=True))
    assert len(rows) == 2
    assert outcome.dead == []


@pytest.mark.parametrize("payload", [b'{"pm25":"12"}', b'{"pm25":true}', b'{"status":1}', b'{"on":2}', b'{"on":"x"}'])
def test_out_of_type(payload: bytes) -> None:
    assert refused(payload, rules=AIR)[0] == "kind"


def test_out_of_range_is_stored_as_bad() -> None:
    payloads = [b'{"pm25":-1,"t":1}', b'{"pm25":0,"t":2}', b'{"pm25":1000,"t":3}', b'{"pm25":1001,"t":4}']
    for together in (True, False):
        got = [take(*payloads, rules=AIR)[0]] if together else [take(p, rules=AIR)[0] for p in payloads]
        rows = [(row[3], row[4]) for some in got for row in some if row[1] == "pm25"]
        assert rows == [(-1.0, BAD), (0.0, GOOD), (1000.0, GOOD), (1001.0, BAD)]
    stamped = b'{"ts":1700000000000,"values":{"pm25":2000}}'
    assert take(stamped, rules=AIR)[0][0][4] == BAD


numbers = st.one_of(st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False))
values = st.one_of(numbers, numbers, numbers, st.booleans(), st.text(max_size=5), st.none(), st.lists(st.integers(0, 9)))
objects = st.dictionaries(st.sampled_from(["a", "b", "pm25", "status", "on", "t", "", "ts", "values"]), values,
                          max_size=5)
stamped = st.fixed_dictionaries({"ts": st.one_of(st.integers(1_600_000_000_000, NOW_MS), values), "values": st.one_of(
    objects, values)})
messages = st.one_of(objects, stamped, st.lists(st.one_of(objects, stamped, values), max_size=4), values)
raws = st.one_of(messages.map(lambda m: json.dumps(m).encode()), st.binary(max_size=10))


@given(st.lists(raws, min_size=1, max_size=12), st.sampled_from([TELEMETRY, ATTRIBUTES]), st.booleans())
def test_together_is_the_same_as_one_by_one(payloads: list[bytes], kind: str, closed: bool) -> None:
    rules = AIR if closed else Rules()
    rows, outcome = take(*payloads, kind=kind, rules=rules)
    apart_rows: list[Any] = []
    apart_dead: list[Any] = []
    frame = 0
    for number, payload in enumerate(payloads):
        builder = BatchBuilder("mqtt")
        one = decode([Chunk(kind, 7, OF, Rules(rules.properties, open=rules.open), [payload], RECEIVED + number)],
                     builder, NOW_MS)
        batch = Batch.decode(builder.encode())
        apart_rows += [
            (frame, batch.props[batch.r_prop[n]], int(batch.r_ts[n]),
             batch.r_text[n] if n in batch.r_text else float(batch.r_val[n]), int(batch.r_quality[n]))
            for n in range(len(batch.r_val))
        ]
        frame += one.frames
        apart_dead += [(letter.ts, letter.raw, letter.refusal) for letter in one.dead]

    def key(item: Any) -> str:
        return repr(item)

    assert sorted(rows, key=key) == sorted(apart_rows, key=key)
    dead = [(letter.ts, letter.raw, letter.refusal) for letter in outcome.dead]
    assert sorted(dead, key=key) == sorted(apart_dead, key=key)
    assert not any(isinstance(row[3], float) and math.isnan(row[3]) for row in rows)
