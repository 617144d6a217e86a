"""Modbus: reading of registers and coils, as RTU over a transparent gateway and as TCP (Modbus Application Protocol V1.1b3,
Modbus over Serial Line V1.02, Modbus Messaging on TCP/IP V1.0b).

Law: pure. RTU: unit, function, data, CRC low byte first. TCP: transaction, 0, length, unit, function, data. An answer has
the request's unit and function (and transaction), or the function with its highest bit and why not.

A meter's address is `rtu:1` or `tcp:1`, the unit with the framing. A point's item is `holding:100`, `input:0`, `coil:3`
or `discrete:0`, counted from 0 as on the wire. Its `type` is int16, uint16 (which is meant if there is none), int32,
uint32, int64, uint64, float32, float64, with the highest word first, or `-swapped` with the lowest first; or `bit`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

from tulou.access.protocols import crc_16
from tulou.access.protocols.polled import Ask, Meter, Point, Unreadable, wrong
from tulou.access.telemetry import Refusal

FUNCTIONS = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
LAYOUTS = {"int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q", "float32": "f",
           "float64": "d"}
TYPES = ("bit", *LAYOUTS, *(f"{name}-swapped" for name in LAYOUTS if not name.endswith("16")))
EXCEPTIONS = {
    1: "功能码不支持 (illegal function)", 2: "地址无效 (illegal data address)", 3: "数量无效 (illegal data value)",
    4: "设备故障 (server device failure)", 5: "已受理 (acknowledge)", 6: "设备忙 (server device busy)",
    8: "存储校验错 (memory parity error)", 10: "网关路径不可用 (gateway path unavailable)",
    11: "网关目标无应答 (gateway target device failed to respond)",
}


def _layout(point: Point) -> tuple[str, bool]:
    name = point.type or "uint16"
    return LAYOUTS[name.removesuffix("-swapped")], name.endswith("-swapped")


class Modbus(Meter):
    """The codec."""

    name = "modbus"

    def asks(self, address: str, points: Sequence[Point]) -> list[Ask]:
        found = re.fullmatch(r"(rtu|tcp):(\d{1,3})", address, re.ASCII)
        if found is None or int(found[2]) > (247 if found[1] == "rtu" else 255):
            raise wrong("address", address, "rtu:1 .. rtu:247 | tcp:0 .. tcp:255", "地址应为 rtu: 或 tcp: 与单元号",
                        "an address is rtu: or tcp: and the unit")
        asks = []
        for number, point in enumerate(points, 1):
            item = re.fullmatch(r"(coil|discrete|holding|input):(\d{1,5})", point.item, re.ASCII)
            if item is None or int(item[2]) > 0xFFFF:
                raise wrong("item", point.item, "coil | discrete | holding | input, : and 0 to 65535", "应为区与地址，如 holding:100",
                            "an item is a table and a number, as holding:100")
            bits = item[1] in ("coil", "discrete")
            if point.type and (point.type not in TYPES or (point.type == "bit") is not bits):
                raise wrong("type", point.type, " | ".join(TYPES), f"{item[1]} 没有类型 {point.type}",
                            f"{item[1]} has no type {point.type}")
            count = 1 if bits else struct.calcsize(_layout(point)[0]) // 2
            inside = struct.pack(">BBHH", int(found[2]), FUNCTIONS[item[1]], int(item[2]), count)
            if found[1] == "rtu":
                request = inside + crc_16(inside).to_bytes(2, "little")
            else:
                request = struct.pack(">HHH", number & 0xFFFF, 0, len(inside)) + inside
            asks.append(Ask(request, (point,)))
        return asks

    def find(self, request: bytes, data: bytes) -> tuple[int, int] | None:
        if _tcp(request):
            for at in range(len(data) - 8):
                size = int.from_bytes(data[at + 4 : at + 6])
                if data[at + 2 : at + 4] == b"\0\0" and 3 <= size <= 254 and at + 6 + size <= len(data) and (
                    data[at : at + 2] == request[:2] or at == 0
                ):
                    return at, at + 6 + size
            return None
        for at in range(len(data) - 4):
            size = 5 if data[at + 1] & 0x80 else 5 + data[at + 2]
            if at + size <= len(data) and crc_16(data[at : at + size - 2]) == int.from_bytes(
                data[at + size - 2 : at + size], "little"
            ):
                return at, at + size
        return None

    def answers(self, request: bytes, answer: bytes) -> Refusal | None:
        if _tcp(request) and answer[:2] != request[:2]:
            return Refusal("transaction", "事务号不同", "another transaction", "transaction", int.from_bytes(answer[:2]))
        asked, said = _inside(request, request), _inside(request, answer)
        if said[0] != asked[0]:
            return Refusal("address", "应答来自另一设备", "the answer is of another device", "address", said[0])
        if said[1] & 0x7F != asked[1]:
            return Refusal("function", "应答的功能码不同", "the answer has another function", "function", said[1])
        if not said[1] & 0x80:
            count = int.from_bytes(asked[4:6])
            wanted = 2 * count if asked[1] in (3, 4) else (count + 7) // 8
            if len(said) < 3 or said[2] != wanted or len(said) != 3 + wanted:
                return Refusal("length", "应答的数据长度不同", "the answer has another amount of data", "length", len(said))
        return None

    def refusal(self, request: bytes, answer: bytes) -> Refusal | None:
        said = _inside(request, answer)
        if said[1] & 0x80:
            why = EXCEPTIONS.get(said[2], str(said[2]))
            return Refusal("refused", f"设备拒绝：{why}", f"the device refuses: {why}", "exception", said[2])
        return None

    def value(self, request: bytes, answer: bytes, point: Point) -> float | str:
        data = _inside(request, answer)[3:]
        if _inside(request, request)[1] in (1, 2):
            return float(data[0] & 1)
        code, swapped = _layout(point)
        if len(data) != struct.calcsize(code):
            raise Unreadable("数据长度与类型不符", "the amount of data is not that of the type")
        if swapped:
            data = b"".join(data[at : at + 2] for at in range(len(data) - 2, -1, -2))
        (number,) = struct.unpack(f">{code}", data)
        value = float(number) * (point.scale or 1.0)
        return value if code in "fd" else round(value, 9)


def _tcp(request: bytes) -> bool:
    """Whether a request is one of TCP: it has 12 bytes, that of RTU 8."""
    return len(request) == 12


def _inside(request: bytes, frame: bytes) -> bytes:
    """Unit, function and data of a sound frame, in the framing of the request."""
    return frame[6:] if _tcp(request) else frame[:-2]


codec = Modbus()
