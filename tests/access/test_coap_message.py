"""CoAP messages and SenML: pure readers. Examples are those of RFC 7252 and RFC 8428; any other bytes are refused in one way."""

from __future__ import annotations

import contextlib
import time

import aiocoap
import cbor2
import orjson
import pytest
from aiocoap.optiontypes import OpaqueOption, UintOption
from hypothesis import given
from hypothesis import strategies as st

from tulou.access.coap import Unreadable, senml
from tulou.access.coap import message as m
from tulou.access.coap.endpoint import Recent, Request, Transfers
from tulou.access.coap.message import Block, Message, parse
from tulou.access.coap.payload import codec, kept

messages = st.builds(
    Message, st.integers(0, 3), st.sampled_from([1, 2, 3, 4, 0x44, 0x45, 0x84, 0xA0]), st.integers(0, 0xFFFF), st.binary(max_size=8),
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=400)), max_size=6), st.binary(max_size=50),
)


def test_the_examples_of_appendix_a() -> None:
    """Figure 16: confirmable GET of /temperature, and its piggybacked response."""
    asked = bytes.fromhex("40017d34bb") + b"temperature"
    assert parse(asked) == Message(m.CON, m.GET, 0x7D34, b"", [(m.URI_PATH, b"temperature")])
    answer = bytes.fromhex("60457d34ff") + b"22.3 C"
    assert parse(answer) == Message(m.ACK, m.CONTENT, 0x7D34, b"", [], b"22.3 C")
    assert [parse(data).encode() for data in (asked, answer)] == [asked, answer]
    assert m.code_text(m.TOO_MANY) == "4.29"


@given(messages)
def test_what_is_written_is_read_back(message: Message) -> None:
    back = parse(message.encode())
    assert sorted(back.options, key=lambda option: option[0]) == sorted(message.options, key=lambda option: option[0])
    assert (back.kind, back.code, back.id, back.token, back.payload) == (
        message.kind, message.code, message.id, message.token, message.payload)


@given(messages)
def test_another_implementation_reads_the_same(message: Message) -> None:
    message.options = [option for option in message.options if option[0] not in _FORMATTED]
    theirs = aiocoap.Message.decode(message.encode())
    assert (int(theirs.mtype), int(theirs.code), theirs.mid, theirs.token, theirs.payload) == (
        message.kind, message.code, message.id, message.token, message.payload)
    assert [(int(o.number), o.encode()) for o in theirs.opt.option_list()] == sorted(message.options, key=lambda o: o[0])


_FORMATTED = {int(number) for number in aiocoap.OptionNumber if number.format is not OpaqueOption} | {
    int(number) for number in aiocoap.OptionNumber if number.format is UintOption}


@given(st.binary(max_size=80))
def test_any_datagram_is_read_or_refused(data: bytes) -> None:
    try:
        message: object = parse(data)
        assert isinstance(message, Message)
        message.block(m.BLOCK1)
        message.texts(m.URI_PATH)
    except Unreadable as error:
        message = error.refusal.reason
    assert message


@pytest.mark.parametrize("bad", [
    "", "4001", "80017d34", "49017d34000000000000000000", "40007d34ff00", "40217d34", "40017d34ff", "40017d34f0", "40017d34d0", "40017d34b2aa",
    "40017d340f", "40c17d34", "40017d34eaffff",
])
def test_format_errors(bad: str) -> None:
    with pytest.raises(Unreadable):
        parse(bytes.fromhex(bad))


def test_a_block_is_number_more_and_size() -> None:
    """RFC 7959, 2.2."""
    message = Message(m.CON, m.POST, 1, b"", [(m.BLOCK1, m.uint(2 << 4 | 8 | 2))])
    assert message.block(m.BLOCK1) == Block(2, True, 2)
    assert Block(2, True, 2).size == 64
    assert Block(0, False, 0).value() == b""
    with pytest.raises(Unreadable):
        Message(m.CON, m.POST, 1, b"", [(m.BLOCK1, b"\x07")]).block(m.BLOCK1)


# SenML


def values(records: list[senml.Record]) -> list[tuple[object, ...]]:
    return [(record.name, record.value, record.time, record.unit) for record in records]


def test_the_examples_of_rfc_8428() -> None:
    """5.1.1 to 5.1.3, in JSON."""
    assert values(senml.from_json(b'[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]')) == [
        ("urn:dev:ow:10e2073a01080063", 23.1, 0.0, "Cel")]
    two = b"""[ {"bn":"urn:dev:ow:10e2073a01080063:","n":"voltage","u":"V","v":120.1}, {"n":"current","u":"A","v":1.2} ]"""
    assert values(senml.from_json(two)) == [
        ("urn:dev:ow:10e2073a01080063:voltage", 120.1, 0.0, "V"), ("urn:dev:ow:10e2073a01080063:current", 1.2, 0.0, "A")]
    many = b"""[ {"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09, "bu":"A","bver":5, "n":"voltage","u":"V","v":120.1},
      {"n":"current","t":-5,"v":1.2}, {"n":"current","t":-4,"v":1.3}, {"n":"current","v":1.7} ]"""
    read = senml.from_json(many)
    assert [record.time for record in read] == [1276020076.001, 1276020071.001, 1276020072.001, 1276020076.001]
    assert [record.unit for record in read] == ["V", "A", "A", "A"]


def test_the_example_of_cbor() -> None:
    """Section 6: the same pack in CBOR, with the labels of table 4."""
    raw = bytes.fromhex(
        "87a721781b75726e3a6465763a6f773a3130653230373361303130383030363a22fb41d303a15b00106223614120050067766f6c7461"
        "676501615602fb405e066666666666a3006763757272656e74062402fb3ff3333333333333a3006763757272656e74062302fb3ff4cc"
        "cccccccccda3006763757272656e74062202fb3ff6666666666666a3006763757272656e74062102f93e00a3006763757272656e7406"
        "2002fb3ff999999999999aa3006763757272656e74060002fb3ffb333333333333")
    read = senml.from_cbor(raw)
    assert [record.value for record in read] == [120.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]
    assert read[1].name == "urn:dev:ow:10e2073a0108006:current"
    assert read[1].time == pytest.approx(1276020071.001, abs=0.001)


@pytest.mark.parametrize(("bad", "field"), [
    (b"{}", ""), (b"[]", ""), (b"[1]", "[0]"), (b'[{"n":"a","v":"x"}]', "[0].v"), (b'[{"n":"a","v":1,"vs":"x"}]', "[0]"),
    (b'[{"n":"a"}]', "[0]"), (b'[{"n":"a b","v":1}]', "[0].n"), (b'[{"n":"a","v":1,"must_":1}]', "[0].must_"),
    (b'[{"bver":11,"n":"a","v":1}]', "[0].bver"), (b'[{"n":"a","vd":"\\u00e9"}]', "[0].vd"),
])
def test_a_pack_that_breaks_a_rule_is_refused_whole(bad: bytes, field: str) -> None:
    with pytest.raises(Unreadable) as refused:
        senml.from_json(bad)
    assert refused.value.refusal.field == field


names = st.from_regex(senml.NAME, fullmatch=True)
records = st.lists(st.builds(
    senml.Record, names,
    st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text(max_size=20), st.binary(max_size=20)),
    st.sampled_from([0.0, -5.0, 1.7e9]), st.sampled_from(["", "Cel"]),
), min_size=1, max_size=5)


@given(records)
def test_senml_round_trips(pack: list[senml.Record]) -> None:
    assert senml.from_json(senml.to_json(pack)) == pack
    assert senml.from_cbor(senml.to_cbor(pack)) == pack


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), 1 << 63), st.floats(), st.text(max_size=8), st.binary(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(
        st.one_of(st.sampled_from(["n", "v", "t", "bn", "bt", "bv", "vs", "vd", "ts", "values"]), st.integers(-7, 9)), inner, max_size=4)),
    max_leaves=12,
)


@given(st.one_of(st.binary(max_size=60), plain.map(cbor2.dumps), plain.map(lambda v: orjson.dumps(v, default=str, option=orjson.OPT_NON_STR_KEYS)
                                                                          if not isinstance(v, bytes) else v)))
def test_any_payload_is_values_or_refusals(payload: bytes) -> None:
    for content_format in (60, 110, 112):
        samples, refusals = codec.decode(kept(["telemetry"], content_format, payload, 1))
        assert samples or refusals
    for read in (senml.from_json, senml.from_cbor, senml.plain_cbor):
        with contextlib.suppress(Unreadable):
            read(payload)


def test_senml_times_and_names_become_readings() -> None:
    at = 1_775_001_600_000_000
    pack = b'[{"bn":"urn:dev:mac:0024befffe804ff1:","n":"t","v":1},{"n":"t","t":-2,"v":2},{"n":"t","t":1775001600,"v":3},{"n":"x","s":1}]'
    samples, refusals = codec.decode(kept(["telemetry"], 110, pack, at))
    assert samples == [(0, {"t": 1.0}, None), (at - 2_000_000, {"t": 2.0}, None), (at, {"t": 3.0}, None)]
    assert [refusal.field for refusal in refusals] == ["[3]"]


def test_a_kept_message_can_be_told_from_json() -> None:
    assert codec.decode(b' {"ts":1775001600000,"values":{"a":1}}') == ([(1_775_001_600_000_000, {"a": 1}, None)], [])
    assert codec.decode(kept(["attributes"], 60, cbor2.dumps({"ts": 1, "values": 2}), 1))[0] == [(0, {"ts": 1, "values": 2}, None)]


# Bounds


def request(number: int = 1, block: Block | None = None, payload: bytes = b"", tag: bytes = b"") -> Request:
    options = ([(m.BLOCK1, block.value())] if block else []) + ([(m.REQUEST_TAG, tag)] if tag else [])
    return Request(None, Message(m.CON, m.POST, number, b"", options, payload), ("127.0.0.1", 1), ["a"], "owner")  # type: ignore[arg-type]


def test_blocks_are_joined_and_what_is_missing_is_said() -> None:
    """RFC 7959, 2.5 and 2.9.2."""
    transfers = Transfers(100)
    assert transfers.take(request(1, Block(0, True, 0), b"0123456789abcdef"))[0] == m.CONTINUE
    assert transfers.take(request(2, Block(2, True, 0), b"0123456789abcdef"))[0] == m.INCOMPLETE
    assert transfers.take(request(3, Block(1, False, 0), b"end"))[:2] == (0, b"0123456789abcdefend")
    assert transfers.held == 0
    assert transfers.take(request(4, Block(1, False, 0), b"end"))[0] == m.INCOMPLETE
    with pytest.raises(Unreadable):
        transfers.take(request(5, Block(0, True, 0), b"short"))


def test_unfinished_blocks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    transfers = Transfers(40)
    for number in range(3):
        code, _, _ = transfers.take(request(number, Block(number, True, 0), bytes(16)))
    assert code == m.TOO_LARGE
    for number in range(50):
        transfers.take(request(number, Block(0, True, 0), bytes(16), tag=b"%d" % number))
    assert transfers.held == 4 * 16
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 121)
    transfers.sweep()
    assert (transfers.held, transfers._owners) == (0, {})


def test_remembered_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    recent = Recent(per_owner=3, most=5)
    for number in range(10):
        recent.put("a", (("h", 1), number), b"x")
    assert (recent.count, recent.get("a", (("h", 1), 9)), recent.get("a", (("h", 1), 6))) == (3, b"x", None)
    for number in range(3):
        recent.put("b", (("h", 1), number), b"y")
    assert (recent.count, list(recent)) == (3, ["b"])
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 248)
    assert recent.sweep() == ["b"]
    assert recent.count == 0


