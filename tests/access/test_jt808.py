"""JT/T 808: frames written byte by byte from the standard's tables, and frames that no one should have sent."""

from __future__ import annotations

from functools import reduce
from operator import xor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.access.protocols import Broken, Message, jt808
from tulou.kernel.errors import Invalid

PHONE = bytes.fromhex("013812345678")
PHONE_2019 = bytes.fromhex("00000000013812345678")
IDENTITY = b"13812345678"


def frame(number: int, body: bytes, *, serial: int = 1, phone: bytes = PHONE, part: tuple[int, int] | None = None,
          encrypted: bool = False) -> bytes:
    """A frame by 4.4, independent of the encoder; ten bytes of phone make it one of 2019."""
    attributes = len(body) | (0x4000 if len(phone) == 10 else 0) | (0x2000 if part else 0) | (0x400 if encrypted else 0)
    inside = number.to_bytes(2) + attributes.to_bytes(2) + (b"\1" if len(phone) == 10 else b"") + phone + serial.to_bytes(2)
    if part:
        inside += part[0].to_bytes(2) + part[1].to_bytes(2)
    inside += body
    inside += bytes((reduce(xor, inside),))
    escaped = b"".join({0x7E: b"\x7d\x02", 0x7D: b"\x7d\x01"}.get(byte, bytes((byte,))) for byte in inside)
    return b"\x7e" + escaped + b"\x7e"


POINT = bytes.fromhex(
    "00000001"  # alarm: emergency
    "00000003"  # status: ACC on, fixed, north, east
    "018D1E50"  # 26.025552 N
    "071BFE46"  # 119.275078 E
    "0028" "0258" "005A"  # 40 m, 60.0 km/h, 90 degrees
    "260401080000"  # 2026-04-01 08:00:00 in Beijing
    "0104000003E8" "02020037" "3001" "1F" "310109"  # 100.0 km, 5.5 L, signal 31, nine satellites
)
LOCATION = frame(0x0200, POINT)
VALUES = {
    "latitude": 26.025552, "longitude": 119.275078, "altitude": 40.0, "speed": 60.0, "direction": 90.0, "alarm": 1.0,
    "status": 3.0, "acc": 1.0, "mileage": 100.0, "fuel": 5.5, "signalStrength": 31.0, "satellites": 9.0,
}
EIGHT = 1_775_001_600_000_000
"""2026-04-01T00:00:00Z in µs."""


def messages(*pieces: bytes) -> list[Message | Broken]:
    session = jt808.Session()
    return [message for piece in pieces for message in session.feed(piece)]


def one(raw: bytes) -> tuple[jt808.Session, Message]:
    session = jt808.Session()
    (message,) = session.feed(raw)
    assert isinstance(message, Message)
    return session, message


def raws(found: list[Message | Broken]) -> list[bytes]:
    return [message.raw for message in found if isinstance(message, Message)]


def test_the_standards_example_of_escaping() -> None:
    assert jt808.escape(bytes.fromhex("307e087d55")) == bytes.fromhex("307d02087d0155")  # 4.4.2


def test_the_encoder_makes_the_same_frames() -> None:
    assert jt808.frame(0x0200, PHONE, 1, POINT) == LOCATION
    assert jt808.frame(0x0200, PHONE_2019, 1, POINT, 1) == frame(0x0200, POINT, phone=PHONE_2019)


@pytest.mark.parametrize("phone", [PHONE, PHONE_2019])
def test_a_location_has_its_values_in_both_editions(phone: bytes) -> None:
    session, message = one(frame(0x0200, POINT, phone=phone, serial=0x7E7D))
    assert (message.identity, message.command) == (IDENTITY, 0x0200)
    (sample,), refusals = jt808.codec.decode(message.raw)
    assert (sample, refusals) == ((EIGHT, VALUES, None), [])
    reply = frame(0x8001, bytes.fromhex("7E7D" "0200" "00"), phone=phone, serial=1)
    assert session.accept(message, 0) == reply


def test_south_and_west_and_no_fix() -> None:
    body = POINT[:4] + bytes.fromhex("0000000C") + POINT[8:28]
    ((_, values, worse),), _ = jt808.codec.decode(frame(0x0200, body))
    assert (values["latitude"], values["longitude"], values["acc"]) == (-26.025552, -119.275078, 0.0)
    assert worse is not None
    assert set(worse) == {"latitude", "longitude", "altitude", "speed", "direction"}
    assert set(worse.values()) == {2}


def test_a_terminal_without_a_clock_has_the_time_of_receipt() -> None:
    ((observed, _, _),), refusals = jt808.codec.decode(frame(0x0200, POINT[:22] + bytes(6)))
    assert (observed, refusals) == (0, [])


@pytest.mark.parametrize(("body", "rule"), [
    (POINT[:22] + b"\x26\x13\x01\x08\0\0", "time"), (POINT[:22] + b"\xff" * 6, "time"), (POINT[:27], "length"), (b"", "length"),
])
def test_a_location_that_cannot_be_read_is_refused(body: bytes, rule: str) -> None:
    samples, (refusal,) = jt808.codec.decode(frame(0x0200, body))
    assert (samples, refusal.rule) == ([], rule)


def test_a_cut_item_costs_only_itself() -> None:
    ((_, values, _),), (refusal,) = jt808.codec.decode(frame(0x0200, POINT[:34] + b"\x02\x02\x00"))
    assert values["mileage"] == 100.0
    assert (refusal.rule, refusal.field) == ("length", "0x02")


def test_a_batch_of_locations() -> None:
    later = POINT[:22] + bytes.fromhex("260401080030")
    body = b"\0\2\0" + len(POINT).to_bytes(2) + POINT + len(later).to_bytes(2) + later
    samples, refusals = jt808.codec.decode(frame(0x0704, body))
    assert [ts for ts, _, _ in samples] == [EIGHT, EIGHT + 30_000_000]
    assert refusals == []
    samples, (refusal,) = jt808.codec.decode(frame(0x0704, body[:-1]))
    assert (len(samples), refusal.field) == (1, "[1]")


@pytest.mark.parametrize(("phone", "sizes"), [(PHONE, (5, 20, 7)), (PHONE_2019, (11, 30, 30)), (PHONE, (5, 8, 7))])
def test_a_registration_is_read_and_given_a_code(phone: bytes, sizes: tuple[int, int, int]) -> None:
    words = [word.ljust(size, b"\0") for word, size in zip((b"MAKER", b"T-808", b"ID00001"), sizes, strict=True)]
    body = bytes.fromhex("0023 0064") + b"".join(words) + b"\2" + "闽A12345".encode("gb18030")
    session, message = one(frame(0x0100, body, phone=phone, serial=7))
    ((_, values, _),), _ = jt808.codec.decode(message.raw)
    assert values == {
        "province": 35.0, "city": 100.0, "maker": "MAKER", "terminalModel": "T-808", "terminalId": "ID00001",
        "plateColour": 2.0, "plate": "闽A12345",
    }
    assert session.accept(message, 0) == frame(0x8100, b"\0\7\0" + IDENTITY, phone=phone)
    assert session.refuse(message, "unknown") == frame(0x8100, b"\0\7\4", phone=phone, serial=2)
    assert session.refuse(message, "denied") == frame(0x8100, b"\0\7\3", phone=phone, serial=3)


def test_an_authentication_is_a_credential_and_not_kept() -> None:
    session, message = one(frame(0x0102, b"code"))
    assert (message.credential, message.kept) == (b"code", False)
    assert session.accept(message, 0) == frame(0x8001, bytes.fromhex("0001" "0102" "00"))
    assert session.refuse(message, "denied") == frame(0x8001, bytes.fromhex("0001" "0102" "01"), serial=2)
    _, message = one(frame(0x0102, b"\4code" + b"3" * 15 + b"V1".ljust(20, b"\0"), phone=PHONE_2019))
    assert message.credential == b"code"


def test_heartbeats_replies_and_what_is_not_spoken() -> None:
    session, message = one(frame(0x0002, b""))
    assert not message.kept
    assert session.accept(message, 0) == frame(0x8001, bytes.fromhex("0001" "0002" "00"))
    session, message = one(frame(0x0001, bytes.fromhex("0001" "8103" "00")))
    assert session.accept(message, 0) == b""
    session, message = one(frame(0x0900, b"\x41"))
    assert session.accept(message, 0) == frame(0x8001, bytes.fromhex("0001" "0900" "03"))
    assert jt808.codec.decode(message.raw)[1][0].rule == "message"
    _, message = one(frame(0x0003, b""))
    assert message.last


def test_a_media_event() -> None:
    ((_, values, _),), _ = jt808.codec.decode(frame(0x0800, bytes.fromhex("00000009" "00" "00" "01" "03")))
    assert values == {"mediaId": 9.0, "mediaType": 0.0, "mediaFormat": 0.0, "mediaEvent": 1.0, "mediaChannel": 3.0}


def test_commands() -> None:
    assert jt808.parameters({0x0001: (60).to_bytes(4)}) == bytes.fromhex("01" "00000001" "04" "0000003C")
    assert jt808.text("减速") == b"\1" + "减速".encode("gbk")


def test_packets_are_kept_each_and_read_together() -> None:
    body = b"\0\2\0" + (len(POINT).to_bytes(2) + POINT) * 2
    first = frame(0x0704, body[:40], serial=10, part=(2, 1))
    second = frame(0x0704, body[40:], serial=11, part=(2, 2))
    session = jt808.Session()
    (message,) = session.feed(first)
    assert isinstance(message, Message)
    assert session.accept(message, 0) == frame(0x8001, bytes.fromhex("000A" "0704" "00"))
    assert jt808.codec.decode(message.raw) == ([], [])
    (message,) = session.feed(second)
    assert isinstance(message, Message)
    assert message.raw == first + second
    assert len(jt808.codec.decode(message.raw)[0]) == 2
    assert session.accept(message, 0) == frame(0x8001, bytes.fromhex("000B" "0704" "00"), serial=2)


def test_missing_packets_are_asked_for() -> None:
    parts = [frame(0x0704, b"x", serial=9 + number, part=(4, number)) for number in range(1, 5)]
    session = jt808.Session()
    (last,) = [m for raw in (parts[0], parts[3]) for m in session.feed(raw)][1:]
    assert isinstance(last, Message)
    assert session.accept(last, 0) == frame(0x8001, bytes.fromhex("000D" "0704" "00")) + frame(
        0x8003, bytes.fromhex("000A" "02" "0002" "0003"), serial=2
    )
    assert raws([m for raw in parts[1:3] for m in session.feed(raw)]) == [parts[1], b"".join(parts)]


def test_waiting_packets_are_bounded() -> None:
    session = jt808.Session()
    for number in range(500):
        session.feed(frame(0x0704, bytes(1000), serial=number * 20, part=(9, 1)))
    assert sum(len(raw) for parts in session._parts.values() for raw in parts.values()) <= jt808.HELD_BYTES + 1100
    assert len(session._parts) <= jt808.HELD_PARTS + 1


@pytest.mark.parametrize(("text", "identity"), [("013812345678", IDENTITY), ("13812345678", IDENTITY),
                                                ("00000000013812345678", IDENTITY)])
def test_a_phone_is_the_same_with_and_without_zeros(text: str, identity: bytes) -> None:
    assert jt808.codec.identity(text) == identity


@pytest.mark.parametrize("text", ["", "0", "1" * 21, "1a", "１"])
def test_a_phone_is_digits(text: str) -> None:
    with pytest.raises(Invalid):
        jt808.codec.identity(text)


@pytest.mark.parametrize(("bad", "rule"), [
    (LOCATION[:-2] + b"\x00\x7e", "checksum"), (b"\x7e" + LOCATION[1:-1] + b"\x7d\x03\x7e", "escape"),
    (frame(0x0200, POINT)[:1] + b"\x02\x00\x00\x05" + PHONE + b"\0\1" + POINT
     + bytes((reduce(xor, b"\x02\x00\x00\x05" + PHONE + b"\0\1" + POINT),)) + b"\x7e", "length"),
    (frame(0x0704, b"x", part=(2, 3)), "part"), (b"\x7e" + b"x" * 3000 + b"\x7e", "length"),
])
def test_a_broken_frame_costs_no_neighbour(bad: bytes, rule: str) -> None:
    found = messages(LOCATION + bad + LOCATION + LOCATION)
    assert raws(found) == [LOCATION] * 3
    assert [b.refusal.rule for b in found if isinstance(b, Broken)] == [rule]


def test_an_encrypted_body_is_refused_and_answered_as_unsupported() -> None:
    session, message = one(frame(0x0200, POINT, encrypted=True))
    assert jt808.codec.decode(message.raw)[1][0].rule == "encrypted"
    assert session.accept(message, 0)[-3:-2] == b"\3"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
def test_a_stream_may_be_cut_anywhere(size: int) -> None:
    stream = b"noise" + LOCATION + b"rubbish" + LOCATION + b"\x7e" + LOCATION
    session = jt808.Session()
    found = [m for at in range(0, len(stream), size) for m in session.feed(stream[at : at + size])]
    assert raws(found) == [LOCATION] * 3
    assert session.skipped == len(b"noiserubbish")
    assert session.unfinished == 0


@given(st.lists(st.one_of(st.just(LOCATION), st.binary(max_size=40).filter(lambda b: b"\x7e" not in b)), max_size=12),
       st.lists(st.integers(1, 60), max_size=60))
def test_neighbours_of_garbage_are_not_lost(parts: list[bytes], cuts: list[int]) -> None:
    stream, session, found = b"".join(parts), jt808.Session(), []
    for cut in [*cuts, len(stream)]:
        found += session.feed(stream[:cut])
        stream = stream[cut:]
    assert raws(found) == [part for part in parts if part == LOCATION]


@given(st.lists(st.one_of(st.binary(max_size=200), st.just(b"\x7e"), st.just(LOCATION),
                          st.builds(lambda b, n: frame(n, b), st.binary(max_size=80), st.integers(0, 0xFFFF)),
                          st.builds(lambda b, n: frame(0x0704, b, part=(3, n)), st.binary(max_size=80), st.integers(1, 3)))))
def test_nothing_makes_it_fail_or_hold_more_than_a_frame(parts: list[bytes]) -> None:
    session = jt808.Session()
    for part in parts:
        for message in session.feed(part):
            if isinstance(message, Message):
                jt808.codec.decode(message.raw)
                session.accept(message, 0)
                session.refuse(message, "unknown")
        assert session.unfinished <= jt808.LONGEST
