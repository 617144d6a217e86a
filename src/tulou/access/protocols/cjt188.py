"""CJ/T 188-2004 and -2018, data transmission of household meters (water, heat, gas): reading of the measured data.

Law: pure. FE before a frame; 68, type of meter, address of 7 bytes BCD, control, length, data, sum of all bytes since 68,
16 (clause 5). Low bytes go first. Reading is control 01 with the identifier and a running number, answered by 81 with
them and the data, or by C1 with the meter's state.

A meter's address is its type and number, 2 and 14 digits (`10` cold water, `20` heat, `30` gas). A point's item is a field
of the data 901F: `volume`, `settledVolume`, `time`, `status`; of heat meters also `heat`, `settledHeat`, `power`, `flow`,
`supplyTemperature`, `returnTemperature`, `hours`. Volumes become cubic metres, heat kWh, power kW, flow m3/h. Meters
that want the identifier's bytes the other way (the editions and makers differ) are asked so with `type` `swapped`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tulou.access.protocols import beijing
from tulou.access.protocols.polled import Ask, Meter, Point, Unreadable, bcd, wrong
from tulou.access.telemetry import NAN, Refusal

READ, ANSWER, FAILED = 0x01, 0x81, 0xC1
PLAIN, SWAPPED = b"\x1f\x90", b"\x90\x1f"
UNITS = {
    0x02: 0.001, 0x05: 1.0, 0x08: 1000.0, 0x0A: 100_000.0, 0x01: 1 / 3.6e6, 0x0B: 1 / 3600, 0x0E: 1 / 3.6, 0x11: 1000 / 3.6,
    0x13: 100_000 / 3.6, 0x14: 0.001, 0x17: 1.0, 0x1A: 1000.0, 0x29: 0.001, 0x2C: 1.0, 0x32: 0.001, 0x35: 1.0,
}
"""Units (table 5) -> what their numbers are multiplied by: Wh, kWh, MWh, 100 MWh, J, kJ, MJ, GJ, 100 GJ; W, kW, MW; L, m3;
L/h, m3/h."""
COLD = {"volume": (0, 2), "settledVolume": (5, 2)}
HEAT = {"settledHeat": (0, 2), "heat": (5, 2), "power": (10, 2), "flow": (15, 4), "volume": (20, 2)}
"""Fields of four bytes and a unit: where they begin, and decimals."""
HEAT_REST = {"supplyTemperature": (25, 3, 2), "returnTemperature": (28, 3, 2), "hours": (31, 3, 0)}
FIELDS = {*COLD, *HEAT, *HEAT_REST, "time", "status"}


def frame(address: str, control: int, data: bytes) -> bytes:
    """A frame with the bytes before it that wake the meter; `address` is 16 digits: type, then number."""
    inside = b"\x68" + bytes.fromhex(address[:2]) + bytes.fromhex(address[2:])[::-1] + bytes((control, len(data))) + data
    return b"\xfe\xfe\xfe\xfe" + inside + bytes((sum(inside) & 0xFF, 0x16))


class Cjt188(Meter):
    """The codec."""

    name = "cjt188"

    def asks(self, address: str, points: Sequence[Point]) -> list[Ask]:
        if not re.fullmatch(r"[1-4]\d{15}", address, re.ASCII):
            raise wrong("address", address, "CJ/T 188 5.2", "表地址应为 16 位数字：类型 2 位与表号 14 位",
                        "a meter's address is 16 digits: its type and its number of 14")
        fields = {"time", "status", *(HEAT | HEAT_REST if address[0] == "2" else COLD)}
        asks: dict[bytes, list[Point]] = {}
        for point in points:
            if point.item not in fields:
                raise wrong("item", point.item, " | ".join(sorted(fields)), f"没有数据项 {point.item}",
                            f"there is no item {point.item}")
            if point.type not in ("", "swapped"):
                raise wrong("type", point.type, "swapped", f"没有类型 {point.type}", f"there is no type {point.type}")
            asks.setdefault(SWAPPED if point.type else PLAIN, []).append(point)
        return [Ask(frame(address, READ, order + b"\0"), tuple(same)) for order, same in asks.items()]

    def find(self, request: bytes, data: bytes) -> tuple[int, int] | None:
        at = data.find(b"\x68")
        while at >= 0:
            if len(data) > at + 10:
                end = at + 13 + data[at + 10]
                if data[end - 1 : end] == b"\x16" and sum(data[at : end - 2]) & 0xFF == data[end - 2]:
                    return at, end
            at = data.find(b"\x68", at + 1)
        return None

    def answers(self, request: bytes, answer: bytes) -> Refusal | None:
        asked = request.lstrip(b"\xfe")
        if answer[1:9] != asked[1:9]:
            return Refusal("address", "应答来自另一块表", "the answer is of another meter", "address",
                           answer[1:2].hex() + answer[8:1:-1].hex())
        if answer[9] not in (ANSWER, FAILED):
            return Refusal("control", "不是读数据的应答", "not an answer to a reading", "control", answer[9])
        if answer[9] == ANSWER and answer[11:13] != asked[11:13]:
            return Refusal("identifier", "应答的数据标识不同", "the answer has another identifier", "item", answer[11:13].hex())
        return None

    def refusal(self, request: bytes, answer: bytes) -> Refusal | None:
        if answer[9] == FAILED:
            return Refusal("refused", "表拒绝", "the meter refuses", "status", answer[12:-2].hex())
        return None

    def value(self, request: bytes, answer: bytes, point: Point) -> float | str:
        data = answer[14:-2]
        heat = answer[1] >> 4 == 2
        tail = 34 if heat else 10
        if len(data) < tail + 9:
            raise Unreadable("数据过短", "the data are too short")
        if point.item == "status":
            return float(int.from_bytes(data[tail + 7 : tail + 9], "little"))
        if point.item == "time":
            digits = data[tail : tail + 7][::-1].hex()
            try:
                beijing(digits)
            except ValueError:
                raise Unreadable("时间无效", "the time is invalid") from None
            return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}T{digits[8:10]}:{digits[10:12]}:{digits[12:]}+08:00"
        scale = point.scale or 1.0
        if heat and point.item in HEAT_REST:
            at, size, decimals = HEAT_REST[point.item]
            return _number(data[at : at + size], decimals, scale)
        at, decimals = (HEAT if heat else COLD)[point.item]
        unit = UNITS.get(data[at + 4])
        number = _number(data[at : at + 4], decimals, scale)
        if unit is None and number == number:
            raise Unreadable(f"单位 {data[at + 4]:02X} 未知", f"unit {data[at + 4]:02X} is not known")
        return round(number * (unit or 1.0), 9)


def _number(raw: bytes, decimals: int, scale: float) -> float:
    if raw.strip(b"\xff") == b"" or raw.strip(b"\xee") == b"":
        return NAN
    number = bcd(raw)
    if number != number:
        raise Unreadable("不是 BCD 码", "not BCD")
    return round(number / 10.0**decimals * scale, 9)


codec = Cjt188()
