"""What every codec keeps to, whatever the bytes are: the law of tulou.access.protocols, for each one that is registered."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.access import test_ais, test_gb32960, test_hj212, test_jt808, test_sl651, toy
from tulou.access import hooks
from tulou.access.poll_door import METERS
from tulou.access.protocols import Broken, FieldCodec, Message, load
from tulou.access.protocols.polled import Ask, Point, sealed
from tulou.access.telemetry import Refusal

MOST = 70_000
"""Bytes that a session may hold of an unfinished frame."""


@dataclass
class Example:
    """A codec with good frames of one device; `secret` is the password in those that carry one."""

    codec: Any
    frames: list[bytes]
    secret: bytes = b""


EXAMPLES = {
    "hj212": Example(load("tulou.access.protocols.hj212"), [
        test_hj212.frame(b"DataTime=202604010800%02d;w01018-Rtd=%d,w01018-Flag=N" % (n, n)) for n in range(3)
    ], b"123456"),
    "jt808": Example(load("tulou.access.protocols.jt808"), [
        *(test_jt808.frame(0x0200, test_jt808.POINT, serial=n) for n in range(3)), test_jt808.frame(0x0102, b"CODE2026"),
    ], b"CODE"),
    "gb32960": Example(load("tulou.access.protocols.gb32960"), [
        test_gb32960.frame(2, test_gb32960.WHEN + test_gb32960.VEHICLE + test_gb32960.ENGINE), test_gb32960.frame(7, b""),
        test_gb32960.frame(2, test_gb32960.WHEN + test_gb32960.MOTORS),
        test_gb32960.frame(5, test_gb32960.WHEN + b"\0\1" + b"USER".ljust(12, b"\0") + b"SECRET2026".ljust(20, b"\0") + b"\1"),
    ], b"SECRET"),
    "sl651": Example(load("tulou.access.protocols.sl651"), [
        test_sl651.raw(test_sl651.UPLINKS[name]) for name in ("ARTICLE 32", "PARSER 34", "LIBRARY 31")
    ] + [test_sl651.text("ST 1234567890 H TT 2506011200 Z 12.345 ")]),
    "ais": Example(load("tulou.access.protocols.ais"), [
        test_ais.MOORED + b"\r\n", b"".join(part + b"\r\n" for part in test_ais.DIADEM), test_ais.position(lon=600_000, lat=600_000),
    ]),
    "toy": Example(toy.codec, [toy.line(b"GATE01,SECRET,202604010800%02d,2.35,OK" % n) for n in range(3)], b"SECRET"),
}
SPOKEN = sorted(EXAMPLES)


def test_every_registered_codec_is_here() -> None:
    registered = {name for name, where in hooks.protocols().items() if isinstance(load(where), FieldCodec)}
    assert registered - set(METERS) - {"dtu"} == set(EXAMPLES) - {"toy"}
    assert set(METERS) <= registered


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(at)]


def feed(codec: Any, parts: list[bytes]) -> list[Message | Broken]:
    """The session's law while it is fed: it never raises, holds little, and says only messages and broken frames."""
    session = codec.session()
    out: list[Message | Broken] = []
    for part in parts:
        found = session.feed(part)
        assert all(isinstance(one, Message | Broken) for one in found)
        assert 0 <= session.unfinished <= MOST
        assert session.skipped >= 0
        out += found
        for one in found:
            if isinstance(one, Message):
                assert isinstance(session.accept(one, 1_775_001_600_000_000), bytes)
                assert isinstance(session.refuse(one, "unknown"), bytes)
                assert isinstance(session.refuse(one, "denied"), bytes)
    return out


def judged(codec: Any, raw: bytes) -> None:
    samples, refusals = codec.decode(raw)
    assert all(isinstance(one, Refusal) for one in refusals)
    for ts, values, worse in samples:
        assert isinstance(ts, int)
        assert all(isinstance(name, str) and isinstance(value, float | str) for name, value in values.items())
        assert set(worse or ()) <= set(values)
    assert isinstance(codec.identify(raw), bytes)
    assert isinstance(codec.masked(raw), bytes)


@pytest.mark.parametrize("name", SPOKEN)
@given(data=st.binary(max_size=600), cuts=st.lists(st.integers(0, 600), max_size=6))
@example(data=b"\0", cuts=[])
@settings(max_examples=300, deadline=None)
def test_any_bytes_in_any_pieces(name: str, data: bytes, cuts: list[int]) -> None:
    codec = EXAMPLES[name].codec
    for one in feed(codec, pieces(data, cuts)):
        judged(codec, one.raw)
    judged(codec, data)


@pytest.mark.parametrize("name", SPOKEN)
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 400), which=st.integers(0, 2),
       cuts=st.lists(st.integers(0, 3000), max_size=6))
@settings(max_examples=40, deadline=None)
def test_the_neighbours_of_a_bad_frame_survive(
    name: str, at: int, byte: int, cut: int, which: int, cuts: list[int]
) -> None:
    """A frame with one byte changed, or without its end, among good ones: the one before it is read, and those after it,
    at the latest when as many bytes came as the length that it claims."""
    codec, frames = EXAMPLES[name].codec, EXAMPLES[name].frames
    bad = bytearray(frames[which % len(frames)])
    bad[at % len(bad)] = byte
    spoilt = bytes(bad[: len(bad) - cut % len(bad)] if cut % 2 else bad)
    good = frames[0]
    after = MOST // len(good) + 20
    found = feed(codec, pieces(good + spoilt + good * after, cuts))
    (read,) = feed(codec, [good])
    assert isinstance(found[0], Message)
    assert [one.raw for one in found[-15:]] == [read.raw] * 15
    for one in found[:5]:
        judged(codec, one.raw)


@pytest.mark.parametrize("name", SPOKEN)
def test_pieces_do_not_change_what_is_read(name: str) -> None:
    codec, frames = EXAMPLES[name].codec, EXAMPLES[name].frames
    data = b"".join(frames)
    whole = [one.raw for one in feed(codec, [data])]
    assert len(whole) == len(frames)
    for size in (1, 2, 7):
        assert [one.raw for one in feed(codec, [data[at : at + size] for at in range(0, len(data), size)])] == whole


@pytest.mark.parametrize("name", [name for name in SPOKEN if EXAMPLES[name].secret])
def test_the_password_is_in_nothing_that_is_kept(name: str) -> None:
    shown = EXAMPLES[name]
    secret = [frame for frame in shown.frames if shown.secret in frame]
    assert secret
    for frame in secret:
        for sent in (frame, frame.replace(b"2026", b"2027")):  # also of a frame that is broken
            for one in feed(shown.codec, [sent]):
                assert shown.secret not in one.raw
            assert shown.secret not in shown.codec.masked(sent)


@pytest.mark.parametrize("name", sorted(METERS))
@given(data=st.binary(max_size=300), other=st.binary(max_size=40))
@settings(max_examples=150, deadline=None)
def test_polled_codecs_read_any_answer(name: str, data: bytes, other: bytes) -> None:
    meter = METERS[name]
    address, point = {
        "dlt645": ("000000123456", Point("x", "00010000")), "cjt188": ("2000000000000001", Point("x", "heat")),
        "modbus": ("rtu:1", Point("x", "holding:0", "float32")),
    }[name]
    asks = [*meter.asks(address, [point]), *(modbus_tcp(meter) if name == "modbus" else []), Ask(other, (point,))]
    for ask in asks:
        for answer in (data, ask.request + data, data + ask.request):
            if ask.request is not other:
                found = meter.find(ask.request, answer)
                if found is not None:
                    assert 0 <= found[0] < found[1] <= len(answer)
                    frame = answer[found[0] : found[1]]
                    if meter.answers(ask.request, frame) is None:
                        meter.refusal(ask.request, frame)
            judged(meter, sealed(ask, answer))
    judged(meter, data)


def modbus_tcp(meter: Any) -> list[Ask]:
    found: list[Ask] = meter.asks("tcp:1", [Point("x", "coil:0")])
    return found
