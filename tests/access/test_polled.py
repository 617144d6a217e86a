"""Codecs of polled meters: published questions and answers, and what is no answer.

Sources: NOVICE, "CJ/T 188 水表协议解析" (cnblogs.com/myzony/p/10897895 and its copies; their answer ends with the check sum 08, which
is wrong: FOX has the same answer with 13); FOX, the examples of a Java driver of CJ/T 188; MBUS, NODE, HEAT, comments of three programs that read heat meters;
Modbus Application Protocol V1.1b3 6.3 and Modbus over Serial Line V1.02; the frames of DL/T 645 are those of the standard's
form as PyPI `dlt645` makes them (tests/conformance/test_poll.py has that package as the meter).
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tulou.access.protocols import crc_16
from tulou.access.protocols.cjt188 import codec as cjt188
from tulou.access.protocols.dlt645 import codec as dlt645
from tulou.access.protocols.dlt645 import frame
from tulou.access.protocols.modbus import codec as modbus
from tulou.access.protocols.polled import Ask, Meter, Point, sealed
from tulou.kernel.errors import Invalid


def hexes(text: str) -> bytes:
    return bytes.fromhex(text)


def read(meter: Meter, ask: Ask, answer: bytes) -> dict[str, Any]:
    samples, refusals = meter.decode(sealed(ask, answer))
    assert refusals == []
    return samples[0][1]


WATER = tuple(Point(name, name) for name in ("volume", "settledVolume", "time", "status"))
HEAT = tuple(Point(name, name) for name in (
    "heat", "settledHeat", "power", "flow", "volume", "supplyTemperature", "returnTemperature", "hours", "time"))


def test_a_water_meter_is_asked_and_read() -> None:
    (ask,) = cjt188.asks("1078330011223344", WATER)
    assert ask.request == hexes("FE FE FE FE 68 10 44 33 22 11 00 33 78 01 03 1F 90 00 80 16")  # NOVICE
    answer = hexes("FE FE FE FE 68 10 44 33 22 11 00 33 78 81 16 1F 90 00 00 77 66 55 2C 00 77 66 55 2C 31 01 22 11 05 15 20 21 84")
    assert read(cjt188, ask, answer + hexes("13 16")) == {  # FOX
        "volume": 556677.0, "settledVolume": 556677.0, "time": "2015-05-11T22:01:31+08:00", "status": float(0x8421),
    }
    assert cjt188.find(ask.request, answer + hexes("08 16")) is None  # NOVICE


@pytest.mark.parametrize(("answer", "address", "volume"), [
    ("FE FE FE 68 10 01 00 00 05 08 00 00 81 16 90 1F 00 00 23 01 00 2C 00 00 00 00 2C 00 00 00 00 00 00 00 00 00 48 16",
     "1000000805000001", 123.0),  # FOX
    ("FE FE FE 68 10 18 02 12 20 20 00 00 81 16 90 1F 00 00 02 00 00 2C 00 02 00 00 2C 00 00 00 00 00 00 00 00 FF 85 16",
     "1000002020120218", 2.0),  # FOX
])
def test_meters_that_swap_the_identifier(answer: str, address: str, volume: float) -> None:
    (ask,) = cjt188.asks(address, [Point("v", "volume", "swapped")])
    assert read(cjt188, ask, hexes(answer)) == {"v": volume}


@pytest.mark.parametrize(("answer", "address", "expected"), [
    ("68 20 51 21 31 17 00 11 11 81 2E 1F 90 12 00 00 00 00 05 00 00 00 00 05 00 00 00 00 14 00 00 00 00 35 19 00 00 00 2C 76 30 00 "
     "68 30 00 73 02 00 32 41 11 12 09 07 20 04 00 E9 16", "2011110017312151",
     {"heat": 0.0, "volume": 0.19, "supplyTemperature": 30.76, "returnTemperature": 30.68, "hours": 273.0, "power": 0.0,
      "time": "2007-09-12T11:41:32+08:00"}),  # MBUS
    ("FE FE 68 20 13 47 06 12 00 74 00 81 2E 1F 90 00 00 00 00 00 05 00 00 00 00 05 00 00 00 00 17 00 00 00 00 35 00 00 00 00 2C "
     "02 23 00 11 23 00 34 58 00 09 49 12 05 09 23 20 00 08 F0 16", "2000740012064713",
     {"supplyTemperature": 23.02, "returnTemperature": 23.11, "hours": 5834.0, "time": "2023-09-05T12:49:09+08:00"}),  # HEAT
    ("68 25 12 19 24 18 27 31 00 81 2E 1F 90 03 11 74 02 00 05 88 27 44 05 05 00 00 00 00 17 00 00 00 00 35 08 56 71 00 2C 79 26 00 "
     "64 26 00 66 47 07 11 52 17 03 09 25 20 00 05 2A 16", "2500312718241912",
     {"settledHeat": 274.11, "heat": 54427.88, "volume": 7156.08, "supplyTemperature": 26.79, "hours": 74766.0}),  # NODE
])
def test_heat_meters(answer: str, address: str, expected: dict[str, Any]) -> None:
    (ask,) = cjt188.asks(address, HEAT)
    found = read(cjt188, ask, hexes(answer))
    assert {name: found[name] for name in expected} == expected


def test_an_electricity_meter_is_asked_and_read() -> None:
    points = [Point("energy", "00010000"), Point("voltage", "02010100"), Point("power", "02030000"), Point("no", "04000401", "hex")]
    asks = dlt645.asks("000000123456", points)
    assert asks[0].request == hexes("FEFEFEFE 68 563412000000 68 11 04 33333433 4E 16")
    for ask, data, expected in zip(asks, ("78563412", "0522", "450180", "060504030201"), (
        123456.78, 220.5, -0.0145, "010203040506"), strict=True):
        item = bytes(byte - 0x33 & 0xFF for byte in ask.request[14:18])
        answer = frame("000000123456", 0x91, item + hexes(data))
        assert list(read(dlt645, ask, answer).values()) == [expected]
    total = dlt645.asks("000000123456", [Point("e", "00000000")])[0].request
    assert total.endswith(hexes("68 56 34 12 00 00 00 68 11 04 33 33 33 33 4D 16"))  # as PyPI python-dlt645 0.1.4 makes it
    refused = frame("000000123456", 0xD1, b"\x02")
    _, (refusal,) = dlt645.decode(sealed(asks[0], refused))
    assert "no such data" in refusal.en
    assert dlt645.decode(sealed(asks[1], frame("000000123456", 0x91, hexes("00010102") + b"\xff\xff")))[0][0][2] == {"voltage": 2}


def test_answers_that_are_not_to_the_question_are_told_apart() -> None:
    energy, voltage = dlt645.asks("000000123456", [Point("e", "00010000"), Point("v", "02010100")])
    other = frame("000000654321", 0x91, hexes("00000100") + hexes("78563412"))
    later = frame("000000123456", 0x91, hexes("00010102") + hexes("0522"))
    for answer, field in ((other, "address"), (later, "item")):
        at, end = dlt645.find(energy.request, answer) or (0, 0)
        refusal = dlt645.answers(energy.request, answer[at:end])
        assert refusal is not None
        assert refusal.field == field
        assert dlt645.decode(sealed(energy, answer))[1] == [refusal]
    at, end = dlt645.find(voltage.request, later) or (0, 0)
    assert dlt645.answers(voltage.request, later[at:end]) is None


def test_modbus_as_its_documents_have_it() -> None:
    (ask,) = modbus.asks("rtu:17", [Point("a", "holding:107")])
    assert ask.request == hexes("11 03 00 6B 00 01") + crc_16(hexes("11 03 00 6B 00 01")).to_bytes(2, "little")
    assert modbus.asks("rtu:1", [Point("a", "holding:0", "float32")])[0].request == hexes("01 03 00 00 00 02 C4 0B")
    answer = hexes("11 03 02 02 2B")
    assert read(modbus, ask, answer + crc_16(answer).to_bytes(2, "little")) == {"a": 555.0}  # 6.3
    (ask,) = modbus.asks("tcp:1", [Point("b", "input:8")])
    assert ask.request == hexes("0001 0000 0006 01 04 0008 0001")
    assert read(modbus, ask, hexes("0001 0000 0005 01 04 02 000A")) == {"b": 10.0}  # 6.4
    _, (refusal,) = modbus.decode(sealed(ask, hexes("0001 0000 0003 01 84 02")))
    assert "illegal data address" in refusal.en


@pytest.mark.parametrize(("kind", "value"), [
    ("int16", -5), ("uint16", 65000), ("int32", -70_000), ("uint32", 4_000_000_000), ("float32", 1.5), ("float64", -2.25),
    ("int64", -(1 << 40)), ("uint32-swapped", 70_000), ("float32-swapped", 0.5),
])
def test_modbus_types(kind: str, value: float) -> None:
    code = {"int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "float32": "f", "float64": "d", "int64": "q"}
    data = struct.pack(f">{code[kind.removesuffix('-swapped')]}", value)
    if kind.endswith("swapped"):
        data = data[2:] + data[:2]
    (ask,) = modbus.asks("rtu:1", [Point("x", "holding:1", kind, 2.0)])
    answer = bytes((1, 3, len(data))) + data
    assert read(modbus, ask, answer + crc_16(answer).to_bytes(2, "little")) == {"x": value * 2}


@pytest.mark.parametrize(("meter", "address", "point", "field"), [
    (dlt645, "12345", Point("e", "00010000"), "address"), (dlt645, "000000123456", Point("e", "1"), "item"),
    (dlt645, "000000123456", Point("e", "04000101"), "type"), (dlt645, "000000123456", Point("e", "04000101", "text"), "type"),
    (cjt188, "1", Point("e", "volume"), "address"), (cjt188, "1078330011223344", Point("e", "heat"), "item"),
    (modbus, "rtu:300", Point("e", "holding:0"), "address"), (modbus, "rtu:1", Point("e", "holding"), "item"),
    (modbus, "rtu:1", Point("e", "coil:0", "int16"), "type"), (modbus, "rtu:1", Point("e", "holding:0", "bit"), "type"),
])
def test_what_cannot_be_asked_is_named(meter: Meter, address: str, point: Point, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        meter.asks(address, [point])
    assert refused.value.field == field
    with pytest.raises(Invalid):
        meter.identity("1")
