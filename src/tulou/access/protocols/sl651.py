"""SL 651-2014, communication protocol of hydrological monitoring data; both codings, HEX/BCD and ASCII.

Law: pure. 7E7E (ASCII: SOH), centre, station, password, function, direction and length, STX or SYN, body, ETX or ETB, CRC
of polynomial x16+x15+x2+1, high byte first (6.2.3, 6.4, 6.5). The length tells where a frame ends; nothing is escaped.
What is kept of a frame has zeros for its password, so its CRC no longer fits.

A report is confirmed: EOT after ETX, ACK after ETB (M2, 6.3.1.2). Packets (SYN, M3) are confirmed once, when all are
there, and after the last one those that are missing are asked for with NAK. Each packet is kept for itself; the one that
completes a message is kept with all others. A link report (2F) has no answer (6.6.4.2).

A value has the name of annex C: `Z`, `PT`, `VT`; an identifier that the annex does not have its hexadecimal digits.
Times are Beijing time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from tulou.access.batch import BAD
from tulou.access.protocols import (
    ANSWERED,
    BEIJING,
    Broken,
    Message,
    Method,
    Reply,
    Sample,
    beijing,
    crc_16,
    remember,
)
from tulou.access.protocols.params import NoParams, Params, labelled
from tulou.access.telemetry import NAN, Refusal
from tulou.kernel.errors import Invalid

HEX, SOH = b"\x7e\x7e", b"\x01"
STX, SYN, ETX, ETB, ENQ, EOT, ACK, NAK, ESC = 0x02, 0x16, 0x03, 0x17, 0x05, 0x04, 0x06, 0x15, 0x1B
"""Control characters (table 10)."""
LINK, TEST, UNIFORM, TIMED, ADDED, HOURLY, MANUAL, PICTURE = range(0x2F, 0x37)
NOW, SPAN, MANUAL_REPLY, ELEMENTS, STATE = 0x37, 0x38, 0x39, 0x3A, 0x46
SPOKEN = frozenset({LINK, TEST, UNIFORM, TIMED, ADDED, HOURLY, MANUAL, NOW, SPAN, MANUAL_REPLY, ELEMENTS, STATE})
HELD_PARTS, HELD_BYTES, ASKED, HELD_PEERS = 16, 64 << 10, 8, 4096
"""Messages in packets that a connection waits for, bytes that it keeps of them, packets that it asks for at a time."""

_DIGITS = re.compile(rb"[0-9A-Fa-f]*")
_NAMES = (
    "AC AI C DR DT ED EJ FL GH GN GS GT GTP H HW M10 M20 M30 M40 M50 M60 M80 M100 MST NS P1 P2 P3 P6 P12 PD PJ PN01 PN05 "
    "PN10 PN30 PR PT Q Q1 Q2 Q3 Q4 Q5 Q6 Q7 Q8 QA QZ SW UC UE US VA VJ VT Z ZB ZU Z1 Z2 Z3 Z4 Z5 Z6 Z7 Z8 SQ ZT pH DO COND "
    "TURB CODMN REDOX NH4N TP TN TOC CU ZN SE AS THG CD PB CHLA WP1 WP2 WP3 WP4 WP5 WP6 WP7 WP8 SYL1 SYL2 SYL3 SYL4 SYL5 "
    "SYL6 SYL7 SYL8 SBL1 SBL2 SBL3 SBL4 SBL5 SBL6 SBL7 SBL8 VTA VTB VTC VIA VIB VIC"
)
NAMES = dict(enumerate(_NAMES.split(), 1))
"""Identifiers of annex C from 01 to 75."""
CODES = {name: code for code, name in NAMES.items()}
STEP, STATUS = 0x04, 0x45
SERIES = {0xF4: ("DRP", 1, 10.0), **{0xF4 + n: (f"DRZ{n}", 2, 100.0) for n in range(1, 9)}}
"""Identifiers of twelve values at five minutes: name, bytes of a value, divisor (table C.1, 5 to 13)."""
_SERIES = {name: (width, divisor) for name, width, divisor in SERIES.values()}
FIVE_MINUTES = 300_000_000


@dataclass(slots=True)
class Header:
    """What stands before the body. `total` and `part` are 0 where the message is one frame; `body` has neither them nor
    the control characters."""

    text: bool
    centre: int
    station: str
    password: bytes
    function: int
    end: int
    total: int
    part: int
    body: bytes

    @property
    def serial(self) -> int:
        """The running number, which a first packet and a message in one frame have (6.6.2.4)."""
        if self.part > 1:
            return 0
        try:
            return int(self.body[:4], 16) if self.text else int.from_bytes(self.body[:2])
        except ValueError:
            return 0


def frame(
    function: int, station: str, body: bytes, *, centre: int = 1, password: bytes = b"\0\0", end: int = ENQ, up: bool = False,
    text: bool = False, packet: tuple[int, int] | None = None,
) -> bytes:
    """A frame of the centre (with `up`: of a station); `packet` is (number of packets, which one). Raises `ValueError`."""
    if len(station) != 10 or not 0 <= centre <= 255 or len(password) != 2:
        raise ValueError("a station has 10 digits, a centre is 0 to 255, a password has 2 bytes")
    parts = b"" if packet is None else (packet[0] << 12 | packet[1]).to_bytes(3)
    if text:
        parts = parts.hex().upper().encode()
    size = len(parts) + len(body)
    if size > 4095:
        raise ValueError("a body has at most 4,095 bytes")
    size |= 0 if up else 0x8000
    start = bytes((STX if packet is None else SYN,))
    address = [bytes((centre,)), bytes.fromhex(station)]
    head = b"".join([*(address if up else address[::-1]), password, bytes((function,)), size.to_bytes(2)])
    if text:
        whole = SOH + head.hex().upper().encode() + start + parts + body + bytes((end,))
        return whole + b"%04X" % crc_16(whole)
    whole = HEX + head + start + parts + body + bytes((end,))
    return whole + crc_16(whole).to_bytes(2)


def stamp(serial: int, us: int, text: bool = False) -> bytes:
    """What a body begins with: running number and time of sending (table 25)."""
    digits = f"{serial:04X}{datetime.fromtimestamp(us / 1e6, BEIJING):%y%m%d%H%M%S}"
    return digits.encode() if text else bytes.fromhex(digits)


def query(function: int, station: str, us: int, parameters: bytes = b"", **how: int | bytes) -> bytes:
    """A query of the centre: its running number is 0 and it ends with ENQ (6.6.2.4, table 10). `parameters` are those of
    the function, such as `identifiers(...)` for 3A."""
    return frame(function, station, stamp(0, us) + parameters, **how)  # type: ignore[arg-type]


def identifiers(*wanted: tuple[str, int, int]) -> bytes:
    """Identifiers of elements: name, bytes and decimals of the value (table 26)."""
    return b"".join(bytes((CODES[name], size << 3 | decimals)) for name, size, decimals in wanted)


def span(first: str, last: str, minutes: int, wanted: tuple[str, int, int]) -> bytes:
    """The parameters of 38: from, to (YYMMDDHH), step, and the element (table 44)."""
    step = f"{minutes // 1440:02d}{minutes // 60 % 24:02d}{minutes % 60:02d}"
    return bytes.fromhex(first + last + "0418" + step) + identifiers(wanted)


def _element(name: str) -> str:
    if name not in CODES:
        raise ValueError("an element of annex C")
    return name


def _hour(value: str) -> str:
    beijing(value + "0000")
    return value


class Element(Params):
    """An element of annex C, with the bytes and decimals of its value."""

    name: Annotated[str, AfterValidator(_element)] = labelled("要素", "element")
    size: int = labelled("字节数", "bytes", ge=1, le=31)
    decimals: int = labelled("小数位", "decimals", ge=0, le=7)


class Elements(Params):
    elements: list[Element] = Field(min_length=1, max_length=50)


class Period(Element):
    begin: Annotated[str, AfterValidator(_hour)] = labelled("开始", "begin", description="YYYYMMDDhh")
    end: Annotated[str, AfterValidator(_hour)] = labelled("结束", "end", description="YYYYMMDDhh")
    minutes: int = labelled("步长（分钟）", "step (min)", default=60, ge=1, le=31 * 1440)


METHODS: dict[str, tuple[int, str, str, type[BaseModel]]] = {
    "read_now": (NOW, "查询实时数据", "read real-time data", NoParams),
    "read_period": (SPAN, "查询时段数据", "read data of a period", Period),
    "read_manual": (MANUAL_REPLY, "查询人工置数", "read values entered by hand", NoParams),
    "read_elements": (ELEMENTS, "查询指定要素", "read some elements", Elements),
    "read_state": (STATE, "查询状态和报警信息", "read state and alarms", NoParams),
}
"""Queries of the centre: function, what people read, parameters."""


def _parameters(params: Any) -> bytes:
    if isinstance(params, Period):
        return span(params.begin[2:], params.end[2:], params.minutes, (params.name, params.size, params.decimals))
    if isinstance(params, Elements):
        return identifiers(*((one.name, one.size, one.decimals) for one in params.elements))
    return b""


def _start(data: bytes, at: int) -> int:
    """Where a frame may begin from `at` on, or the end of the data."""
    while at < len(data):
        if data.startswith(HEX, at) or data[at:] == b"\x7e":
            return at
        if data[at] == 1:
            digits = _DIGITS.match(data, at + 1)
            assert digits is not None
            if digits.end() >= min(at + 23, len(data)):
                return at
        at += 1
    return at


def _fields(data: bytes, at: int) -> tuple[int, int, bool] | None:
    """Where a frame's body begins and where the frame ends, and whether it is ASCII; None when too little is there."""
    text = data[at] == 1
    head = at + (23 if text else 13)
    if len(data) <= head:
        return None
    size = int(data[head - 4 : head], 16) if text else int.from_bytes(data[head - 2 : head])
    if data[head] != SYN:
        size &= 0x0FFF
    return head + 1, head + 2 + size + (4 if text else 2), text


def _header(data: bytes, at: int, start: int, end: int, text: bool) -> Header:
    head = bytes.fromhex(data[at + 1 : start - 1].decode()) if text else data[at + 2 : start - 1]
    tail = end - (4 if text else 2)
    total = part = 0
    if data[start - 1] == SYN:
        size = 6 if text else 3
        raw = data[start : start + size]
        try:
            number = int(raw, 16) if text else int.from_bytes(raw)
        except ValueError:
            number = 0
        total, part = number >> 12, number & 0xFFF
        start += size
    return Header(text, head[0], head[1:6].hex().upper(), head[6:8], head[8], data[tail - 1], total, part,
                  data[start : tail - 1])


def _wrong(data: bytes, at: int, start: int, end: int, text: bool) -> Refusal | None:
    """Why this is no frame of a station."""
    if data[start - 1] not in (STX, SYN):
        return Refusal("start", "报文起始符不是 STX 或 SYN", "the body does not begin with STX or SYN", "start", data[start - 1])
    tail = end - (4 if text else 2)
    check = crc_16(data[at:tail])
    told = data[tail:end].upper() if text else int.from_bytes(data[tail:end])
    if told != (b"%04X" % check if text else check):
        if data[tail - 1] not in (ETX, ETB):
            return Refusal("length", "按长度计，报文不以 ETX 或 ETB 结束", "by its length the frame does not end with ETX or ETB",
                           "length", end - start)
        return Refusal("crc", "校验码错误", "wrong CRC", "crc", data[tail:end].hex())
    if data[start - 1] == STX and (data[start - 5] == 0x38 if text else data[start - 3] & 0x80):
        return Refusal("direction", "不是上行报文", "not a frame of a station", "direction")
    if data[tail - 1] not in (ETX, ETB):
        return Refusal("end", "上行报文应以 ETX 或 ETB 结束", "a station's frame ends with ETX or ETB", "end", data[tail - 1])
    if data[start - 1] == SYN:
        header = _header(data, at, start, end, text)
        if not 1 <= header.part <= header.total:
            return Refusal("part", "包序列号不在 1 与总数之间", "a packet's number is not between 1 and their count", "part",
                           header.part)
    return None


def _without_password(data: bytes) -> bytes:
    """The same with zeros for the password of every frame in it."""
    out = bytearray(data)
    at = _start(data, 0)
    while at < len(data):
        text = data[at] == 1
        first, last = (at + 13, at + 17) if text else (at + 8, at + 10)
        last = min(last, len(data))
        if first < last:
            out[first:last] = (b"0" if text else b"\0") * (last - first)
        found = _fields(data, at)
        at = len(data) if found is None else _start(data, found[1] if found[1] <= len(data) else at + 1)
    return bytes(out)


@dataclass(slots=True)
class _Parts:
    serial: int
    raws: dict[int, bytes]


class Session:
    """The frames of one connection, and packets that wait for others."""

    def __init__(self) -> None:
        self.skipped = 0
        self._rest = b""
        self._parts: dict[tuple[str, int, int], _Parts] = {}
        self._whole: tuple[str, int, int, int] | None = None
        self._peers: dict[bytes, Header] = {}
        self._asked: set[tuple[bytes, int]] = set()

    @property
    def unfinished(self) -> int:
        return len(self._rest)

    def feed(self, data: bytes) -> list[Message | Broken]:
        if self._rest:
            data = self._rest + data
        out: list[Message | Broken] = []
        at = 0
        while at < len(data):
            start = _start(data, at)
            self.skipped += start - at
            at = start
            if at == len(data):
                break
            found = _fields(data, at)
            if found is None:
                break
            body, end, text = found
            unsound = data[body - 1] not in (STX, SYN)
            if end > len(data) and not unsound:
                break
            refusal = _wrong(data, at, body, end, text)
            if refusal is not None:
                stop = min(_start(data, at + 1), len(data) if unsound else end)
                out.append(Broken(_without_password(data[at:stop]), refusal))
                at = stop
                continue
            out.append(self._message(data[at:end], _header(data, at, body, end, text)))
            at = end
        self._rest = data[at:]
        return out

    def _message(self, raw: bytes, header: Header) -> Message:
        raw = _without_password(raw)
        if header.total:
            raw = self._part(raw, header)
        identity = header.station.encode()
        remember(self._peers, identity, header, HELD_PEERS)
        reply = None
        asked = identity, header.function
        if asked in self._asked and (not header.total or (self._whole or ())[:3] == (
            header.station, header.function, header.total
        )):
            self._asked.discard(asked)
            values: dict[str, float | str] = {}
            for _, found, _ in codec.decode(raw)[0]:
                values.update(found)
            reply = Reply(header.function, ANSWERED, {name: None if v != v else v for name, v in values.items()})
        return Message(identity, header.function, raw, header, header.function != LINK,
                       header.password.hex().upper().encode(), reply=reply)

    def command(self, identity: bytes, method: str, params: Any, now: int) -> tuple[bytes, int]:
        """The answer has the query's function; centre, password and coding are those of the station's own frames."""
        header, function = self._peers[identity], METHODS[method][0]
        if header.text and not isinstance(params, NoParams):
            raise Invalid("ASCII 编码的查询参数尚不支持", "parameters in the ASCII coding are not spoken", field="params",
                          rule="HEX/BCD")
        if len(self._asked) >= HELD_PARTS:
            self._asked.clear()
        self._asked.add((identity, function))
        return frame(
            function, header.station, stamp(0, now, header.text) + _parameters(params), centre=header.centre,
            password=header.password, text=header.text,
        ), function

    def _part(self, raw: bytes, header: Header) -> bytes:
        """A packet of several: alone, or with all others when it is the one that was missing. Of pictures only the numbers
        are remembered."""
        key = header.station, header.function, header.total
        parts = self._parts.setdefault(key, _Parts(0, {}))
        if header.part == 1:
            parts.serial = header.serial
        parts.raws[header.part] = b"" if header.function == PICTURE else raw
        if len(parts.raws) == header.total:
            del self._parts[key]
            self._whole = (*key, parts.serial)
            return raw if header.function == PICTURE else b"".join(parts.raws[n] for n in range(1, header.total + 1))
        while len(self._parts) > HELD_PARTS or sum(
            len(one) for held in self._parts.values() for one in held.raws.values()
        ) > HELD_BYTES:
            del self._parts[next(iter(self._parts))]
        return raw

    def accept(self, message: Message, now: int) -> bytes:
        header: Header = message.receipt
        if header.function == LINK:
            return b""
        if not header.total:
            return self._answer(header, header.serial, now, EOT if header.end == ETX else ACK)
        key = header.station, header.function, header.total
        if self._whole is not None and self._whole[:3] == key:
            serial, self._whole = self._whole[3], None
            return self._answer(header, serial, now, EOT, (header.total, header.total))
        parts = self._parts.get(key)
        if header.end != ETX or parts is None:
            return b""
        missing = [number for number in range(1, header.total + 1) if number not in parts.raws][:ASKED]
        return b"".join(self._answer(header, parts.serial, now, NAK, (header.total, number)) for number in missing)

    def refuse(self, message: Message, why: str) -> bytes:
        """What is invalid is not answered (6.3.1.2)."""
        return b""

    @staticmethod
    def _answer(header: Header, serial: int, now: int, end: int, packet: tuple[int, int] | None = None) -> bytes:
        return frame(
            header.function, header.station, stamp(serial, now, header.text), centre=header.centre, password=header.password,
            end=end, text=header.text, packet=packet,
        )


class Sl651:
    """The codec."""

    name = "sl651"
    idle = 7200.0
    first = 600.0
    passwords = True
    methods: Mapping[str, Method] = {name: Method(zh, en, params) for name, (_, zh, en, params) in METHODS.items()}

    def session(self) -> Session:
        return Session()

    def identity(self, text: str) -> bytes:
        """A station's address: 10 hexadecimal digits, or the 8 of a hydrological station (6.2.3.2)."""
        if not re.fullmatch(r"[0-9A-Fa-f]{8}|[0-9A-Fa-f]{10}", text, re.ASCII):
            raise Invalid("遥测站地址应为 8 或 10 位十六进制数字", "a station's address is 8 or 10 hexadecimal digits",
                          field="identity", value=text, rule="SL 651-2014 6.2.3.2")
        return text.upper().zfill(10).encode()

    def identify(self, raw: bytes) -> bytes:
        header = next(iter(_headers(raw)), None)
        return b"" if header is None else header.station.encode()

    def masked(self, raw: bytes) -> bytes:
        return _without_password(raw)

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        headers = _headers(raw)
        if not headers:
            return [], [Refusal("frame", "不是报文", "not a frame")]
        first = headers[0]
        function = first.function
        if function not in SPOKEN:
            if first.part > 1:  # the first packet says it
                return [], []
            return [], [Refusal("function", f"不支持功能码 {function:02X}", f"function {function:02X} is not spoken",
                                "function", function)]
        if len(headers) < first.total:
            return [], []
        reader = _Reader(first)
        body = b"".join(header.body for header in headers)
        (reader.text if first.text else reader.binary)(body)
        return reader.samples, reader.refusals


def _headers(raw: bytes) -> list[Header]:
    """The frames of a kept message, whose check codes no longer fit."""
    out = []
    at = _start(raw, 0)
    while at < len(raw):
        found = _fields(raw, at)
        if found is None or found[1] > len(raw):
            break
        out.append(_header(raw, at, *found))
        at = _start(raw, found[1])
    return out


class _Reader:
    """Reads a body: elements follow the time at which they were observed (6.6.2.11)."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.samples: list[Sample] = []
        self.refusals: list[Refusal] = []
        self.observed = 0
        self.step = -1  # none was given; 0: five minutes, hour after hour (table C.3)

    def refuse(self, rule: str, zh: str, en: str, field: str = "", value: object = None) -> None:
        self.refusals.append(Refusal(rule, zh, en, field, value))

    def put(self, name: str, value: float | str, at: int | None = None) -> None:
        """Add a value; values of one time become one sample."""
        ts = self.observed if at is None else at
        bad = isinstance(value, float) and value != value
        if self.samples and self.samples[-1][0] == ts and name not in self.samples[-1][1]:
            self.samples[-1][1][name] = value
            worse = self.samples[-1][2]
        else:
            worse = {}
            self.samples.append((ts, {name: value}, worse))
        if bad:
            assert isinstance(worse, dict)
            worse[name] = BAD

    def time(self, digits: str, field: str) -> bool:
        try:
            self.observed = beijing("20" + digits.ljust(12, "0"))
        except ValueError:
            self.refuse("time", "时间不是 BCD 年月日时分", "the time is not BCD of year, month, day, hour, minute", field, digits)
            return False
        return True

    def set_step(self, days: int, hours: int, minutes: int) -> None:
        self.step = ((days * 24 + hours) * 60 + minutes) * 60_000_000

    # -- HEX/BCD (6.6.3)

    def binary(self, body: bytes) -> None:
        if not self.time(body[2:8].hex(), "sent"):
            return
        at, end = 8, len(body)
        while at + 2 <= end:
            code, shape = body[at], body[at + 1]
            at += 2
            if code == 0xF0:
                if not self.time(body[at : at + 5].hex(), "TT"):
                    return
                at += 5
            elif code == 0xF1:
                if body[at : at + 5].hex().upper() != self.header.station:
                    self.refuse("station", "报文含其他测站的数据，未读", "the frame has data of another station, which are not read",
                                "ST", body[at : at + 5].hex())
                    return
                at += 5 if self.header.function == STATE else 6
            elif code == 0xF2:
                self.put("RGZS", _word(body[at:]))
                return
            elif code in SERIES:
                at = self._series(code, body, at)
            elif code in (0xF3, 0xFD, 0xFE):
                self.refuse("element", "不支持图片与批量数据", "pictures and bulk data are not spoken", f"{code:02X}", end - at)
                return
            else:
                name = NAMES.get(code, f"{code:02X}")
                if code == 0xFF:
                    name = f"FF{shape:02X}"
                    shape = body[at] if at < end else 0
                    at += 1
                at = self._element(code, name, shape, body, at)
            if at > end:
                self.refuse("length", "正文过短", "the body is too short", f"{code:02X}", end)
                return
        if at < end:
            self.refuse("length", "正文末尾多出字节", "a byte is left at the end of the body", "body", end - at)

    def _series(self, code: int, body: bytes, at: int) -> int:
        name, width, divisor = SERIES[code]
        size = 12 * width
        if self.step == 0:
            size = max(size, (len(body) - at) // width * width)
        raw = body[at : at + size]
        if len(raw) == size:
            self._values(name, raw, width, divisor)
        return at + size

    def _values(self, name: str, raw: bytes, width: int, divisor: float) -> None:
        """Values at five minutes, the first at the time of observation (table 36)."""
        none = (1 << 8 * width) - 1
        for place in range(len(raw) // width):
            number = int.from_bytes(raw[place * width : place * width + width])
            self.put(name, NAN if number == none else number / divisor, self.observed + place * FIVE_MINUTES)

    def _element(self, code: int, name: str, shape: int, body: bytes, at: int) -> int:
        size, decimals = shape >> 3, shape & 7
        raw = body[at : at + size]
        if len(raw) < size:
            return at + size
        if not size:
            self.refuse("definition", "数据定义的字节数为 0", "the definition says that the value has no bytes", name, shape)
            return at
        if code == STEP:
            digits = raw.hex()
            if size == 3 and digits.isdigit():
                self.set_step(int(digits[:2]), int(digits[2:4]), int(digits[4:]))
            else:
                self.refuse("step", "时间步长码不是 3 字节 BCD", "the step is not 3 bytes of BCD", name, digits)
            return at + size
        if code == STATUS:
            self.put(name, float(int.from_bytes(raw)))
            return at + size
        if self.step < 0:
            self._number(name, raw, decimals, self.observed)
            return at + size
        place = 0
        while at + size <= len(body):
            self._number(name, body[at : at + size], decimals, self.observed + place * (self.step or FIVE_MINUTES))
            at, place = at + size, place + 1
        return at

    def _number(self, name: str, raw: bytes, decimals: int, at: int) -> None:
        """BCD; FF before it is a minus (6.6.3.3), nothing but F is no value (6.6.4.4)."""
        digits = raw.hex()
        if digits.strip("f") == "":
            self.put(name, NAN, at)
            return
        sign = 1
        if raw[0] == 0xFF:
            sign, digits = -1, digits[2:]
        if not digits.isdigit():
            self.refuse("number", "不是 BCD 码", "not BCD", name, raw.hex())
            return
        self.put(name, sign * int(digits) / 10**decimals, at)

    # -- ASCII (6.6.2)

    def text(self, body: bytes) -> None:
        words = _word(body)
        if not self.time(words[4:16], "sent"):
            return
        rest = words[16:].lstrip(" ")
        if rest.startswith("RGZS"):
            self.put("RGZS", rest[4:].strip(" "))
            return
        tokens = rest.split(" ")
        while tokens and not tokens[-1]:
            tokens.pop()
        at = 0
        while at + 1 < len(tokens):
            name, value = tokens[at], tokens[at + 1]
            at += 2
            if name == "TT":
                if not self.time(value, "TT"):
                    return
            elif name == "ST":
                if value.upper() != self.header.station:
                    self.refuse("station", "报文含其他测站的数据，未读", "the frame has data of another station, which are not read",
                                "ST", value)
                    return
                at += self.header.function != STATE
            elif re.fullmatch(r"DR[DHN]\d\d", name):
                unit = "DHN".index(name[2])
                self.set_step(*(int(name[3:]) if place == unit else 0 for place in range(3)))
                at -= not re.fullmatch(r"\d{1,3}", value)
                if self.step > 0:
                    self._rows(tokens[at:])
                    return
            elif name in _SERIES:
                self._text_series(name, value)
            elif name in ("PIC", "DATA"):
                self.refuse("element", "不支持图片与批量数据", "pictures and bulk data are not spoken", name)
                return
            elif name == "ZT":
                self._text_number(name, value, self.observed, 16)
            else:
                self._text_number(name, value, self.observed)
        if at < len(tokens):
            self.refuse("length", "标识符没有数据", "an identifier without value", tokens[at][:16])

    def _rows(self, tokens: list[str]) -> None:
        """Identifiers, then a value of each, time after time; M where there is none (6.6.4.4)."""
        count = next((n for n, token in enumerate(tokens) if re.fullmatch(r"[-+.\d]+|M", token)), len(tokens))
        names = tokens[:count]
        for place, token in enumerate(tokens[count:] if names else []):
            self._text_number(names[place % count], token, self.observed + place // count * self.step)

    def _text_series(self, name: str, value: str) -> None:
        width, divisor = _SERIES[name]
        if len(value) % (24 * width) or not re.fullmatch("[0-9A-Fa-f]+", value):
            self.refuse("series", "不是 12 组十六进制数", "not twelve hexadecimal values", name, value[:80])
            return
        self._values(name, bytes.fromhex(value), width, divisor)

    def _text_number(self, name: str, value: str, at: int, base: int = 10) -> None:
        if value == "M":
            self.put(name, NAN, at)
        elif base == 16 and re.fullmatch(r"[0-9A-Fa-f]{1,8}", value):
            self.put(name, float(int(value, 16)), at)
        elif base == 10 and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", value, re.ASCII):
            self.put(name, float(value), at)
        else:
            self.refuse("number", "不是数", "not a number", name[:64], value[:80])


def _word(raw: bytes) -> str:
    try:
        return raw.decode("gb18030")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


codec = Sl651()
