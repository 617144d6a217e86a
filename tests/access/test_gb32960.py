"""GB/T 32960.3: frames written byte by byte from the standard's tables, and frames that no one should have sent."""

from __future__ import annotations

import math
from functools import reduce
from operator import xor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.access.protocols import Broken, Message, gb32960
from tulou.access.protocols import xor as folded
from tulou.kernel.errors import Invalid

VIN = b"LFV2A21K8G4000001"
EIGHT = 1_775_001_600_000_000
"""2026-04-01T00:00:00Z in µs; in Beijing it is eight o'clock."""
WHEN = bytes.fromhex("1A0401080000")


def frame(number: int, data: bytes, *, mark: int = 0xFE, vin: bytes = VIN, start: bytes = b"##", encryption: int = 1) -> bytes:
    """A frame by 6.2, independent of the encoder."""
    inside = bytes((number, mark)) + vin + bytes((encryption,)) + len(data).to_bytes(2) + data
    return start + inside + bytes((reduce(xor, inside),))


VEHICLE = bytes.fromhex("01" "01" "03" "01" "0258" "00003039" "0E10" "2774" "64" "01" "2E" "2710" "32" "00")
MOTORS = bytes.fromhex("02" "01" "01" "01" "50" "55F0" "4E84" "46" "0E10" "2774")
ENGINE = bytes.fromhex("04" "02" "03E8" "0064")
POSITION = bytes.fromhex("05" "00" "071BFE46" "018D1E50")
EXTREMES = bytes.fromhex("06" "01" "05" "1068" "01" "09" "0FA0" "01" "03" "41" "01" "02" "3C")
ALARMS = bytes.fromhex("07" "01" "00000010" "01" "DEADBEEF" "00" "00" "00")
CELLS = bytes.fromhex("08" "01" "01" "0E10" "2774" "0060" "0001" "03" "1068" "FFFF" "0FA0")
TEMPERATURES = bytes.fromhex("09" "01" "01" "0003" "41" "FE" "3C")
ALL = frame(0x02, WHEN + VEHICLE + MOTORS + ENGINE + POSITION + EXTREMES + ALARMS + CELLS + TEMPERATURES)
VALUES = {
    "vehicleState": 1, "chargeState": 3, "operationMode": 1, "speed": 60.0, "mileage": 1234.5, "voltage": 360.0,
    "current": 10.0, "soc": 100, "dcdcState": 1, "gear": 14, "drivingForce": 1, "brakingForce": 0,
    "insulationResistance": 10000, "accelerator": 50, "brake": 0,
    "motor1State": 1, "motor1ControllerTemperature": 40, "motor1Speed": 2000, "motor1Torque": 10.0,
    "motor1Temperature": 30, "motor1Voltage": 360.0, "motor1Current": 10.0,
    "engineState": 2, "engineSpeed": 1000, "fuelRate": 1.0, "positioned": 1, "longitude": 119.275078, "latitude": 26.025552,
    "maxVoltageBattery": 1, "maxVoltageCell": 5, "maxCellVoltage": 4.2, "minVoltageBattery": 1, "minVoltageCell": 9,
    "minCellVoltage": 4.0, "maxTemperatureBattery": 1, "maxTemperatureProbe": 3, "maxTemperature": 25,
    "minTemperatureBattery": 1, "minTemperatureProbe": 2, "minTemperature": 20,
    "alarmLevel": 1, "alarmFlags": 16, "batteryFaults": "deadbeef",
    "battery1Voltage": 360.0, "battery1Current": 10.0, "battery1Cells": 96, "battery1CellVoltages": "[4.200,null,4.000]",
    "battery1Temperatures": "[25,null,20]",
}


def messages(*pieces: bytes) -> list[Message | Broken]:
    session = gb32960.Session()
    return [message for piece in pieces for message in session.feed(piece)]


def one(raw: bytes) -> tuple[gb32960.Session, Message]:
    session = gb32960.Session()
    (message,) = session.feed(raw)
    assert isinstance(message, Message)
    return session, message


def raws(found: list[Message | Broken]) -> list[bytes]:
    return [message.raw for message in found if isinstance(message, Message)]


@pytest.mark.parametrize("number", [0x02, 0x03])
def test_every_kind_of_data(number: int) -> None:
    raw = frame(number, ALL[24:-1])
    session, message = one(raw)
    assert (message.identity, message.command, message.raw) == (VIN, number, raw)
    ((observed, values, worse),), refusals = gb32960.codec.decode(raw)
    assert (observed, values, worse, refusals) == (EIGHT, VALUES, None, [])
    assert session.accept(message, 0) == frame(number, WHEN, mark=1)
    assert session.refuse(message, "unknown") == frame(number, WHEN, mark=2)


def test_a_fuel_cell() -> None:
    unit = bytes.fromhex("03" "0E10" "0064" "0064" "0002" "41" "42" "0258" "01" "0064" "02" "015E" "01" "01")
    ((_, values, worse),), _ = gb32960.codec.decode(frame(2, WHEN + unit))
    assert (values["fuelCellVoltage"], values["fuelCellTemperatures"], values["hydrogenMaxTemperature"]) == (360.0, "[25,26]", 20.0)
    assert (values["hydrogenMaxPressure"], worse) == (35.0, None)


@pytest.mark.parametrize(("raw", "name"), [
    (b"\xff\xfe", "speed"), (b"\xff\xff", "speed"),
])
def test_abnormal_and_invalid_are_quality_and_no_number(raw: bytes, name: str) -> None:
    body = VEHICLE[:4] + raw + b"\xff\xff\xff\xff" + VEHICLE[10:14] + b"\xfe" + VEHICLE[15:]
    ((_, values, worse),), _ = gb32960.codec.decode(frame(2, WHEN + body))
    assert worse == {name: 2, "mileage": 2, "soc": 2}
    assert all(math.isnan(float(values[bad])) for bad in worse)
    assert values["voltage"] == 360.0


def test_a_position_without_a_fix_is_bad() -> None:
    ((_, values, worse),), _ = gb32960.codec.decode(frame(2, WHEN + b"\x05\x07" + POSITION[2:]))
    assert (values["positioned"], values["longitude"], values["latitude"]) == (0.0, -119.275078, -26.025552)
    assert worse == {"longitude": 2, "latitude": 2}


def test_a_makers_own_data_is_passed_over() -> None:
    ((_, values, _),), refusals = gb32960.codec.decode(frame(2, WHEN + b"\x80\0\3abc" + POSITION))
    assert ("latitude" in values, refusals) == (True, [])


@pytest.mark.parametrize(("data", "rule", "place"), [
    (WHEN + POSITION + VEHICLE[:-1], "length", "0x01"), (WHEN + POSITION + b"\x80\x00\x09abc", "length", "0x80"),
    (WHEN + POSITION + b"\x2a\0\0", "unit", "0x2A"),
])
def test_what_cannot_be_read_costs_no_data_before_it(data: bytes, rule: str, place: str) -> None:
    ((_, values, _),), (refusal,) = gb32960.codec.decode(frame(2, data))
    assert "latitude" in values
    assert (refusal.rule, refusal.field) == (rule, place)


@pytest.mark.parametrize("when", [b"", WHEN[:5], bytes.fromhex("1A0D01080000"), bytes.fromhex("1A0401180000"), b"\xff" * 6])
def test_data_without_a_time_is_refused(when: bytes) -> None:
    samples, (refusal,) = gb32960.codec.decode(frame(2, when))
    assert (samples, refusal.rule) == ([], "time")


def test_login_and_logout() -> None:
    data = WHEN + b"\0\1" + b"89860012345678901234" + b"\2\4" + b"AAAABBBB"
    session, message = one(frame(1, data))
    ((_, values, _),), _ = gb32960.codec.decode(message.raw)
    assert values == {"loginSerial": 1.0, "iccid": "89860012345678901234", "batteryCodes": "AAAA BBBB"}
    assert session.accept(message, 0) == frame(1, WHEN, mark=1)
    session, message = one(frame(4, WHEN + b"\0\1"))
    assert (message.last, message.kept) == (True, True)
    assert gb32960.codec.decode(message.raw) == ([], [])


def test_heartbeat_and_clock_are_answered_at_once() -> None:
    session, message = one(frame(7, b""))
    assert not message.kept
    assert session.accept(message, EIGHT) == frame(7, b"", mark=1)
    session, message = one(frame(8, b""))
    assert session.accept(message, EIGHT) == frame(8, WHEN, mark=1)
    session, message = one(frame(7, b"", mark=1))
    assert session.accept(message, EIGHT) == b""


def test_a_platforms_password_is_not_kept() -> None:
    session, message = one(frame(5, WHEN + b"\0\1" + b"platform0001" + b"secret".ljust(20, b"\0") + b"\1"))
    assert (b"secret" in message.raw, message.kept) == (False, False)
    assert session.accept(message, 0) == frame(5, WHEN, mark=2)


def test_encryption_and_other_commands_are_refused() -> None:
    session, message = one(frame(2, b"x" * 32, encryption=3))
    assert gb32960.codec.decode(message.raw)[1][0].rule == "encrypted"
    assert session.accept(message, 0)[3] == 2
    assert gb32960.codec.decode(frame(0x80, WHEN))[1][0].rule == "command"


def test_the_edition_of_2025() -> None:
    vehicle = VEHICLE[:12] + bytes.fromhex("7594") + VEHICLE[14:19]
    motors = bytes.fromhex("02" "01" "01" "01" "50" "84D0" "00030DA4" "46")
    position = POSITION[:2] + b"\1" + POSITION[2:]
    alarms = bytes.fromhex("06" "01" "00000010" "00" "00" "00" "00" "01" "0401")
    cells = bytes.fromhex("07" "01" "01" "0E10" "7594" "0002" "1068" "0FA0")
    temperatures = bytes.fromhex("08" "01" "01" "0001" "41")
    raw = frame(2, WHEN + vehicle + motors + bytes.fromhex("04" "03E8") + position + alarms + cells + temperatures
                + b"\xff\x01" + b"s" * 20, start=b"$$")
    session, message = one(raw)
    ((_, values, worse),), refusals = gb32960.codec.decode(raw)
    assert (refusals, worse) == ([], None)
    shared = {name: value for name, value in VALUES.items() if name in values and name != "battery1CellVoltages"}
    assert {name: values[name] for name in shared} | {"battery1Temperatures": "[25,null,20]"} == shared
    assert (values["coordinateSystem"], values["battery1CellVoltages"]) == (1.0, "[4.200,4.000]")
    assert session.refuse(message, "unknown") == frame(2, WHEN, mark=4, start=b"$$")


def test_the_encoder_makes_the_same_frames() -> None:
    assert gb32960.frame(2, 0xFE, VIN, ALL[24:-1]) == ALL


@pytest.mark.parametrize("text", ["", VIN.decode()[1:], "LFV2A21K8G40000 1", "闽" * 17])
def test_a_vin_is_seventeen(text: str) -> None:
    with pytest.raises(Invalid):
        gb32960.codec.identity(text)


SMALL = frame(2, WHEN + POSITION)


@pytest.mark.parametrize("bad", [
    SMALL[:-1] + bytes((SMALL[-1] ^ 1,)), SMALL[:23] + b"\x30" + SMALL[24:], SMALL[:23] + b"\x01" + SMALL[24:], SMALL[:30],
])
def test_a_broken_frame_costs_no_neighbour(bad: bytes) -> None:
    found = messages(SMALL + bad + SMALL * 20)
    assert raws(found) == [SMALL] * 21
    assert {b.refusal.rule for b in found if isinstance(b, Broken)} <= {"checksum"}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 23, 64])
def test_a_stream_may_be_cut_anywhere(size: int) -> None:
    stream = b"noise#" + SMALL + b"rubbish##$" + SMALL + b"$" + SMALL
    session = gb32960.Session()
    found = [m for at in range(0, len(stream), size) for m in session.feed(stream[at : at + size])]
    assert raws(found) == [SMALL] * 3
    assert session.skipped == len(stream) - 3 * len(SMALL)
    assert session.unfinished == 0


@given(st.lists(st.one_of(st.just(SMALL), st.binary(max_size=40).filter(lambda b: not {35, 36} & set(b))), max_size=12),
       st.lists(st.integers(1, 60), max_size=60))
def test_neighbours_of_garbage_are_not_lost(parts: list[bytes], cuts: list[int]) -> None:
    stream, session, found = b"".join(parts), gb32960.Session(), []
    for cut in [*cuts, len(stream)]:
        found += session.feed(stream[:cut])
        stream = stream[cut:]
    assert raws(found) == [part for part in parts if part == SMALL]


@given(st.lists(st.one_of(
    st.binary(max_size=100), st.sampled_from([SMALL[:n] for n in range(30)]), st.just(ALL),
    st.builds(lambda n, b, s: frame(n, WHEN + b, start=s), st.integers(1, 0xFE), st.binary(max_size=120),
              st.sampled_from([b"##", b"$$"])),
    st.builds(lambda b, s: frame(2, WHEN + b, start=s),
              st.lists(st.builds(lambda k, b: bytes((k,)) + b, st.integers(1, 9), st.binary(max_size=40))).map(b"".join),
              st.sampled_from([b"##", b"$$"])),
)))
def test_nothing_makes_it_fail_or_hold_more_than_a_frame(parts: list[bytes]) -> None:
    session = gb32960.Session()
    for part in parts:
        for message in session.feed(part):
            if isinstance(message, Message):
                gb32960.codec.decode(message.raw)
                session.accept(message, EIGHT)
                session.refuse(message, "unknown")
        assert session.unfinished <= 65535 + 25


@given(st.binary(min_size=1, max_size=600))
def test_the_folded_check_is_that_of_6_2(data: bytes) -> None:
    assert folded(data) == reduce(xor, data)


KINDS = [VEHICLE, VEHICLE[:19], MOTORS, b"\x02\x02" + MOTORS[2:] + b"\x07" + MOTORS[3:], b"\x02\x00", b"\x02\x05" + MOTORS[2:] * 5,
         ENGINE, POSITION, POSITION[:1] + b"\x07" + POSITION[2:], EXTREMES, ALARMS, b"\x07\x02" + bytes(8), b"\x06\x02" + bytes(9),
         CELLS, TEMPERATURES, b"\x80\x00\x01\x00", b"\x05\x01\x02" + POSITION[2:]]


@given(st.lists(st.one_of(st.sampled_from(KINDS), st.sampled_from(KINDS).map(lambda kind: kind[:1] + b"\xff" * (len(kind) - 1))), max_size=7),
       st.integers(0, 30), st.sampled_from([b"##", b"$$"]))
def test_kinds_read_in_one_go_are_those_read_alone(kinds: list[bytes], cut: int, start: bytes) -> None:
    data = b"".join(kinds)
    raw = frame(2, WHEN + data[: max(0, len(data) - cut)], start=start)
    together = [gb32960.codec.decode(raw) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gb32960.Edition, "begin", lambda *_: 0)
        alone = gb32960.codec.decode(raw)
    assert repr(together[0][1]) == repr(alone[1])
    for samples, _ in together:
        assert [(ts, sorted(values), worse and sorted(worse.items())) for ts, values, worse in samples] == [
            (ts, sorted(values), worse and sorted(worse.items())) for ts, values, worse in alone[0]
        ]
        for (_, values, _), (_, others, _) in zip(samples, alone[0], strict=True):
            assert all(value == others[name] or (value != value and others[name] != others[name]) for name, value in values.items())
