"""DL/T 645-2007, communication protocol of multi-function watt-hour meters: reading data.

Law: pure. FE before a frame; 68, address of 6 bytes BCD, 68, control, length, data with 33H added to each byte, sum of
all bytes since the first 68, 16 (clause 5). Low bytes go first. Reading is control 11 with the data identifier, answered
by 91 with it and the value, or by D1 with why not (7.1).

A point's item is the identifier, `00010000`. Its layout follows from the class of the identifier (annex A): energies
XXXXXX.XX, voltages XXX.X, currents XXX.XXX and powers XX.XXXX with a sign bit, factors X.XXX, frequency XX.XX. Where that
is not known, `type` is `bcd` (unsigned), `bcd-signed` (the highest bit is the sign) or `hex` (text), with a `scale`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tulou.access.protocols.polled import Ask, Meter, Point, Unreadable, bcd, wrong
from tulou.access.telemetry import NAN, Refusal

READ, ANSWER, MORE, FAILED = 0x11, 0x91, 0xB1, 0xD1
TYPES = ("", "bcd", "bcd-signed", "hex")
LAYOUTS: tuple[tuple[str, int, bool, float], ...] = (
    ("00", 4, False, 0.01), ("0201", 2, False, 0.1), ("0202", 3, True, 0.001), ("0203", 3, True, 0.0001),
    ("0204", 3, True, 0.0001), ("0205", 3, True, 0.0001), ("0206", 2, True, 0.001), ("0207", 2, False, 0.1),
    ("02800001", 3, True, 0.001), ("02800002", 2, False, 0.01), ("02800007", 2, True, 0.1), ("02800008", 2, False, 0.01),
    ("02800009", 2, False, 0.01), ("0280000A", 4, False, 1.0),
)
"""Beginning of an identifier -> bytes of the value, whether its highest bit is a sign, factor (table A.1 and A.3)."""
ERRORS = ("其他错误 (other)", "无请求数据 (no such data)", "密码错或未授权 (password, or no right)", "通信速率不能更改 (rate fixed)",
          "年时区数超 (time zones)", "日时段数超 (periods)", "费率数超 (tariffs)")
"""Bits of the error word (table 4)."""


def frame(address: str, control: int, data: bytes) -> bytes:
    """A frame with the bytes before it that wake the meter. `address` is 12 digits, the highest first."""
    inside = b"\x68" + bytes.fromhex(address)[::-1] + bytes((0x68, control, len(data))) + bytes(
        byte + 0x33 & 0xFF for byte in data)
    return b"\xfe\xfe\xfe\xfe" + inside + bytes((sum(inside) & 0xFF, 0x16))


def _data(answer: bytes) -> bytes:
    return bytes(byte - 0x33 & 0xFF for byte in answer[10:-2])


class Dlt645(Meter):
    """The codec."""

    name = "dlt645"

    def asks(self, address: str, points: Sequence[Point]) -> list[Ask]:
        if not re.fullmatch(r"\d{12}", address, re.ASCII):
            raise wrong("address", address, "DL/T 645-2007 5.1", "表地址应为 12 位数字", "a meter's address is 12 digits")
        asks: dict[str, list[Point]] = {}
        for point in points:
            item = point.item.upper()
            if not re.fullmatch(r"[0-9A-F]{8}", item):
                raise wrong("item", point.item, "DL/T 645-2007 annex A", "数据标识应为 8 位十六进制数字", "an identifier is 8 hexadecimal digits")
            if point.type not in TYPES:
                raise wrong("type", point.type, " | ".join(TYPES[1:]), f"没有类型 {point.type}", f"there is no type {point.type}")
            if not point.type and _layout(item) is None:
                raise wrong("type", point.item, " | ".join(TYPES[1:]), "此数据标识的格式未知，须给出 type 与 scale",
                            "the layout of this identifier is not known here: give a type and a scale")
            asks.setdefault(item, []).append(point)
        return [Ask(frame(address, READ, bytes.fromhex(item)[::-1]), tuple(same)) for item, same in asks.items()]

    def find(self, request: bytes, data: bytes) -> tuple[int, int] | None:
        at = data.find(b"\x68")
        while at >= 0:
            if data[at + 7 : at + 8] == b"\x68" and len(data) > at + 9:
                end = at + 12 + data[at + 9]
                if data[end - 1 : end] == b"\x16" and sum(data[at : end - 2]) & 0xFF == data[end - 2]:
                    return at, end
            at = data.find(b"\x68", at + 1)
        return None

    def answers(self, request: bytes, answer: bytes) -> Refusal | None:
        asked = request.lstrip(b"\xfe")
        if answer[1:7] != asked[1:7]:
            return Refusal("address", "应答来自另一块表", "the answer is of another meter", "address", answer[6:0:-1].hex())
        control = answer[8]
        if control not in (ANSWER, MORE, FAILED):
            return Refusal("control", "不是读数据的应答", "not an answer to a reading", "control", control)
        if control != FAILED and answer[10:14] != asked[10:14]:
            return Refusal("identifier", "应答的数据标识不同", "the answer has another identifier", "item",
                           _data(answer)[3::-1].hex())
        return None

    def refusal(self, request: bytes, answer: bytes) -> Refusal | None:
        if answer[8] == FAILED:
            word = _data(answer)[0] if len(answer) > 12 else 0
            why = "；".join(text for bit, text in enumerate(ERRORS) if word >> bit & 1) or "未说明 (not said)"
            return Refusal("refused", f"表拒绝：{why}", f"the meter refuses: {why}", "error", word)
        if answer[8] == MORE:
            return Refusal("more", "不支持后续帧", "frames that follow are not spoken", "control", answer[8])
        return None

    def value(self, request: bytes, answer: bytes, point: Point) -> float | str:
        raw = _data(answer)[4:]
        layout = _layout(point.item.upper())
        size, signed, factor = len(raw), point.type == "bcd-signed", 1.0
        if not point.type and layout is not None:
            size, signed, factor = layout
        if point.type == "hex":
            return raw[::-1].hex().upper()
        if not raw or len(raw) < size:
            raise Unreadable("数据过短", "the value is too short")
        raw = raw[:size]
        if raw.strip(b"\xff") == b"":
            return NAN
        sign = 1
        if signed and raw[-1] & 0x80:
            sign, raw = -1, raw[:-1] + bytes((raw[-1] & 0x7F,))
        number = bcd(raw)
        if number != number:
            raise Unreadable("不是 BCD 码", "not BCD")
        return round(sign * number * (point.scale or factor), 9)


def _layout(item: str) -> tuple[int, bool, float] | None:
    for beginning, size, signed, factor in LAYOUTS:
        if item.startswith(beginning):
            return size, signed, factor
    return None


codec = Dlt645()
