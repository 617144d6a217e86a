"""JT/T 808, terminal communication protocol of road transport vehicles' satellite positioning: editions 2013 and 2019.

Law: pure. A frame stands between two 7E; in it 7D 02 is 7E and 7D 01 is 7D; its last byte makes the exclusive or of all
zero (4.4). The 2019 header is told by bit 14 of the attributes. Big-endian; times are BCD in Beijing time.

What is kept of an authentication has stars for its body, so that its check no longer fits.

A message in several packets (bit 13) is read when all are there; each packet is kept, and answered, for itself, because
terminals wait for that; after the last one, those that are missing are asked for with 0x8003.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from tulou.access.batch import BAD
from tulou.access.protocols import (
    ANSWERED,
    DELIVERED,
    DENIED,
    REFUSED,
    Broken,
    Message,
    Method,
    Reply,
    Sample,
    beijing,
    identity_in,
    remember,
    xor,
)
from tulou.access.protocols.params import NoParams, Params, labelled
from tulou.access.telemetry import Refusal
from tulou.kernel.errors import Invalid

MARK = b"\x7e"
SHORTEST = 13
"""A header of 2013 and the check byte."""
LONGEST = 2 * (21 + 1023 + 1) + 2
HELD_PARTS, HELD_BYTES = 16, 64 << 10

GENERAL_REPLY, HEARTBEAT, LOGOUT, REGISTER, AUTHENTICATE = 0x0001, 0x0002, 0x0003, 0x0100, 0x0102
LOCATION, LOCATION_REPLY, LOCATIONS, MEDIA_EVENT, MEDIA = 0x0200, 0x0201, 0x0704, 0x0800, 0x0801
PARAMETERS, ATTRIBUTES, VEHICLE = 0x0104, 0x0107, 0x0500
PLATFORM_REPLY, RESEND, REGISTER_REPLY, SET_PARAMETERS, TEXT = 0x8001, 0x8003, 0x8100, 0x8103, 0x8300
READ_PARAMETERS, CONTROL, READ_SOME_PARAMETERS, READ_ATTRIBUTES = 0x8104, 0x8105, 0x8106, 0x8107
LOCATE, TRACK, CONTROL_VEHICLE = 0x8201, 0x8202, 0x8500
DONE, FAILED, UNSUPPORTED = 0, 1, 3
"""Results of the platform's general reply (table 5)."""
TERMINAL_KNOWN, NO_TERMINAL = 3, 4
"""Results of the reply to a registration (table 8)."""
SPOKEN = frozenset({GENERAL_REPLY, HEARTBEAT, LOGOUT, REGISTER, AUTHENTICATE, LOCATION, LOCATION_REPLY, LOCATIONS,
                    MEDIA_EVENT, PARAMETERS, ATTRIBUTES, VEHICLE})
REPLIES = {READ_PARAMETERS: PARAMETERS, READ_SOME_PARAMETERS: PARAMETERS, READ_ATTRIBUTES: ATTRIBUTES,
           LOCATE: LOCATION_REPLY, CONTROL_VEHICLE: VEHICLE}
"""Command -> the message that answers it, where that is not the terminal's general reply."""
RESULTS = {1: ("失败", "failed"), 2: ("消息有误", "the message is wrong"), 3: ("不支持", "not supported")}
"""Results of the terminal's general reply (table 4), beside 0, which is success."""
HELD_PEERS, HELD_COMMANDS = 4096, 64

_HEAD = struct.Struct(">HH")
_POINT = struct.Struct(">IIIIHHH6s")
_EVENT = struct.Struct(">IBBBB")


@dataclass(slots=True)
class Header:
    """The header of a frame (4.4.3). `phone` are its BCD bytes; `version` is None in the 2013 edition; `part` of
    `total` is 0 of 0 where the message is one packet."""

    number: int
    phone: bytes
    serial: int
    version: int | None
    encrypted: bool
    total: int
    part: int

    @property
    def identity(self) -> bytes:
        return self.phone.hex().lstrip("0").encode() or b"0"


def _number(value: Any) -> Any:
    return int(value, 16) if isinstance(value, str) and re.fullmatch(r"0x[0-9A-Fa-f]{1,8}", value) else value


def _hex(value: str) -> str:
    bytes.fromhex(value)
    return value


ParameterId = Annotated[int, BeforeValidator(_number), Field(ge=0, le=0xFFFFFFFF, description="0x0029")]


class Parameter(Params):
    """A parameter (table 12): a number of `size` bytes, a text, or bytes as `hex`."""

    id: ParameterId
    value: int | str | None = None
    size: int | None = Field(default=None, ge=1, le=8)
    hex: Annotated[str, AfterValidator(_hex)] | None = None

    @property
    def raw(self) -> bytes:
        if self.hex is not None:
            return bytes.fromhex(self.hex)
        if isinstance(self.value, int):
            return self.value.to_bytes(self.size or _size(self.id))
        return (self.value or "").encode("gb18030")


class SetParameters(Params):
    parameters: list[Parameter] = Field(min_length=1, max_length=60)


class Parameters(Params):
    ids: list[ParameterId] = Field(min_length=1, max_length=120)


class Control(Params):
    """8.9: 1 upgrade, 2 connect to a server, 3 off, 4 reset, 5 factory settings, 6 no data, 7 no radio."""

    word: int = labelled("命令字", "command word", ge=1, le=255)
    parameters: str = labelled("命令参数", "parameters", default="", max_length=500)


class Track(Params):
    """8.20: an interval of 0 s ends it."""

    seconds: int = labelled("间隔（秒）", "interval (s)", ge=0, le=0xFFFF)
    duration: int = labelled("有效期（秒）", "for (s)", default=0, ge=0, le=0xFFFFFFFF)


class Words(Params):
    """8.26: `flags` bit 0 urgent, 2 on the display, 3 read out; `kind` is of 2019: 1 notice, 2 service."""

    text: str = labelled("文本", "text", min_length=1, max_length=500)
    flags: int = labelled("标志", "flags", default=0x0C, ge=0, le=255)
    kind: int = labelled("类型（2019）", "kind (2019)", default=1, ge=1, le=2)


class Doors(Params):
    locked: bool = labelled("加锁", "locked")


class Other(Params):
    """Any message of the platform: its body as `hex`; the terminal's general reply is awaited."""

    message: Annotated[int, BeforeValidator(_number), Field(ge=0x8000, le=0xFFFF)]
    hex: Annotated[str, AfterValidator(_hex), Field(max_length=2000)] = ""


METHODS: dict[str, tuple[int, str, str, type[BaseModel]]] = {
    "set_parameters": (SET_PARAMETERS, "设置终端参数", "set parameters", SetParameters),
    "read_parameters": (READ_PARAMETERS, "查询全部终端参数", "read every parameter", NoParams),
    "read_some_parameters": (READ_SOME_PARAMETERS, "查询指定终端参数", "read some parameters", Parameters),
    "control": (CONTROL, "终端控制", "control the terminal", Control),
    "read_attributes": (READ_ATTRIBUTES, "查询终端属性", "read the terminal's attributes", NoParams),
    "locate": (LOCATE, "位置信息查询", "ask for the location", NoParams),
    "track": (TRACK, "临时位置跟踪", "track for a while", Track),
    "text": (TEXT, "文本信息下发", "send a text", Words),
    "lock_doors": (CONTROL_VEHICLE, "车门加锁或解锁", "lock or unlock the doors", Doors),
    "message": (0, "其他消息", "another message", Other),
}
"""Messages of the platform (8): number, what people read, parameters."""
_TEXTS = frozenset([*range(0x10, 0x18), 0x1A, 0x1D, *range(0x23, 0x27), *range(0x40, 0x45), 0x48, 0x49, 0x83])
_WORDS = frozenset({0x31, 0x5B, 0x5C, 0x5D, 0x5E, 0x81, 0x82, 0x101, 0x103})
_BYTES = frozenset({0x84, 0x90, 0x91, 0x92, 0x94})


def _size(parameter: int) -> int:
    """Bytes of a numeric parameter (table 12)."""
    return 2 if parameter in _WORDS else 1 if parameter in _BYTES else 4


def _body(method: str, params: Any, version: int | None) -> tuple[int, bytes]:
    """Number and body of a command. Raises `OverflowError` for a number that does not fit."""
    number = METHODS[method][0]
    if isinstance(params, Other):
        return params.message, bytes.fromhex(params.hex)
    if isinstance(params, SetParameters):
        return number, parameters({one.id: one.raw for one in params.parameters})
    if isinstance(params, Parameters):
        return number, bytes((len(params.ids),)) + b"".join(one.to_bytes(4) for one in params.ids)
    if isinstance(params, Control):
        return number, bytes((params.word,)) + params.parameters.encode("gb18030")
    if isinstance(params, Track):
        return number, params.seconds.to_bytes(2) + (params.duration.to_bytes(4) if params.seconds else b"")
    if isinstance(params, Words):
        return number, text(params.text, params.flags, None if version is None else params.kind)
    if isinstance(params, Doors):  # 2019 has a count and an id (8.29); 2013 one byte of flags (8.30)
        flag = bytes((params.locked,))
        return number, flag if version is None else b"\0\1\0\1" + flag
    return number, b""


def escape(data: bytes) -> bytes:
    return data.replace(b"\x7d", b"\x7d\x01").replace(b"\x7e", b"\x7d\x02")


def frame(number: int, phone: bytes, serial: int, body: bytes, version: int | None = None) -> bytes:
    """A frame; `phone` is BCD of 6 bytes, of 10 with a `version` (2019). Raises `ValueError` beyond 1,023 bytes."""
    if len(body) > 1023 or len(phone) != (6 if version is None else 10):
        raise ValueError("a body has at most 1,023 bytes, a phone 6 (2013) or 10 (2019)")
    edition = b"" if version is None else bytes((version,))
    attributes = len(body) | (0 if version is None else 1 << 14)
    inside = _HEAD.pack(number, attributes) + edition + phone + serial.to_bytes(2) + body
    return MARK + escape(inside + bytes((xor(inside),))) + MARK


def parameters(values: dict[int, bytes]) -> bytes:
    """The body of 0x8103, which sets parameters of the terminal: their number, id and value each (8.8)."""
    items = [key.to_bytes(4) + bytes((len(value),)) + value for key, value in values.items()]
    return bytes((len(items),)) + b"".join(items)


def text(words: str, flags: int = 0x01, kind: int | None = None) -> bytes:
    """The body of 0x8300, a text to show or read out; the 2019 edition has a `kind` (1 notice, 2 service)."""
    return bytes((flags,)) + (b"" if kind is None else bytes((kind,))) + words.encode("gb18030")


def _without_code(raw: bytes) -> bytes:
    """The same with stars for the bodies of authentications (8.5), also in frames that are broken."""
    if b"\x01\x02" not in raw:
        return raw
    pieces = raw.split(MARK)
    for place, piece in enumerate(pieces):
        plain = piece.replace(b"\x7d\x02", MARK).replace(b"\x7d\x01", b"\x7d")
        if plain.startswith(AUTHENTICATE.to_bytes(2)):
            attributes = int.from_bytes(plain[2:4])
            start = (15 if attributes & 0x4000 else 10) + (6 if attributes & 0x2000 else 2)
            pieces[place] = escape(plain[:start] + b"*" * (len(plain) - start))
    return MARK.join(pieces)


def _unpack(piece: bytes) -> tuple[Header, bytes] | Refusal:
    """Header and body of what stands between two marks."""
    if b"\x7d" in piece:
        if piece.count(b"\x7d") != piece.count(b"\x7d\x01") + piece.count(b"\x7d\x02"):
            return Refusal("escape", "转义错误：7D 之后应为 01 或 02", "wrong escape: after 7D comes 01 or 02", "escape")
        piece = piece.replace(b"\x7d\x02", MARK).replace(b"\x7d\x01", b"\x7d")
    if xor(piece):
        return Refusal("checksum", "校验码错误", "wrong check byte", "checksum", piece[-1])
    number, attributes = _HEAD.unpack_from(piece)
    at = 4
    version = None
    if attributes & 0x4000:
        version, at = piece[4], 5
    phone_end = at + (6 if version is None else 10)
    start = phone_end + (6 if attributes & 0x2000 else 2)
    if len(piece) - 1 - start != attributes & 0x3FF:
        return Refusal("length", "长度与内容不符", "the length is not that of the body", "length", attributes & 0x3FF)
    serial = int.from_bytes(piece[phone_end : phone_end + 2])
    total = part = 0
    if attributes & 0x2000:
        total = int.from_bytes(piece[phone_end + 2 : phone_end + 4])
        part = int.from_bytes(piece[phone_end + 4 : phone_end + 6])
        if not 1 <= part <= total:
            return Refusal("part", "分包序号不在 1 与总数之间", "a packet's number is not between 1 and their count", "part", part)
    return Header(number, piece[at:phone_end], serial, version, bool(attributes & 0x1C00), total, part), piece[start:-1]


class Session:
    """The frames of one connection, packets that wait for others, and the serial number of answers."""

    def __init__(self) -> None:
        self.skipped = 0
        self._rest = b""
        self._serial = 0
        self._parts: dict[tuple[bytes, int, int], dict[int, bytes]] = {}
        self._peers: dict[bytes, Header] = {}
        self._asked: dict[int, int] = {}

    @property
    def unfinished(self) -> int:
        return len(self._rest) - 1 if len(self._rest) > 1 else 0

    def feed(self, data: bytes) -> list[Message | Broken]:
        first, *pieces = (self._rest + data).split(MARK)
        self.skipped += len(first)
        if not pieces:
            self._rest = b""
            return []
        out: list[Message | Broken] = []
        rest = pieces.pop()
        for piece in pieces:
            if len(piece) < SHORTEST:
                self.skipped += len(piece)
                continue
            raw = MARK + piece + MARK
            found = _unpack(piece) if len(raw) <= LONGEST else Refusal("length", "帧过长", "the frame is too long", "length")
            out.append(Broken(_without_code(raw), found) if isinstance(found, Refusal) else self._message(raw, *found))
        if len(rest) > LONGEST:
            self.skipped += len(rest)
            rest = b""
        self._rest = MARK + rest
        return out

    def _message(self, raw: bytes, header: Header, body: bytes) -> Message:
        number = header.number
        remember(self._peers, header.identity, header, HELD_PEERS)
        if number == AUTHENTICATE:
            return Message(header.identity, number, _without_code(raw), header, False, _code(header, body))
        if header.total and number in SPOKEN:
            return self._part(raw, header)
        kept = number not in (HEARTBEAT, GENERAL_REPLY, MEDIA)
        reply = self._reply(number, body) if self._asked else None
        return Message(header.identity, number, raw, header, kept, last=number == LOGOUT, reply=reply)

    def command(self, identity: bytes, method: str, params: Any, now: int) -> tuple[bytes, int]:
        header = self._peers[identity]
        try:
            number, body = _body(method, params, header.version)
            raw = self._send(header, number, body)
        except (OverflowError, ValueError) as error:
            raise Invalid(f"参数写不进消息：{error}", f"the parameters do not fit: {error}", field="params") from None
        remember(self._asked, self._serial, number, HELD_COMMANDS)
        return raw, self._serial

    def _reply(self, number: int, body: bytes) -> Reply | None:
        """What a message says to a command, whose serial number it carries; 0x0107 carries none."""
        if number == ATTRIBUTES:
            serial = next((serial for serial, asked in self._asked.items() if asked == READ_ATTRIBUTES), -1)
        else:
            serial = int.from_bytes(body[:2])
        asked = self._asked.get(serial)
        if asked is None:
            return None
        if number == GENERAL_REPLY and len(body) >= 5 and int.from_bytes(body[2:4]) == asked:
            if body[4] == DONE and asked in REPLIES:
                return Reply(serial, DELIVERED)
            del self._asked[serial]
            if body[4] == DONE:
                return Reply(serial, ANSWERED, {"result": DONE})
            zh, en = RESULTS.get(body[4], ("未知错误", "unknown error"))
            return Reply(serial, REFUSED, error=f"结果 {body[4]}：{zh} ({en})")
        if REPLIES.get(asked) != number:
            return None
        del self._asked[serial]
        if number == PARAMETERS:
            return Reply(serial, ANSWERED, _parameters(body))
        if number == ATTRIBUTES:
            return Reply(serial, ANSWERED, {"hex": body.hex()})
        samples: list[Sample] = []
        try:
            _location(body[2:], samples, [])
        except (struct.error, IndexError):
            return Reply(serial, ANSWERED, {"hex": body.hex()})
        return Reply(serial, ANSWERED, samples[0][1] if samples else {})

    def _part(self, raw: bytes, header: Header) -> Message:
        """A packet of several: alone, or with all others when it is the one that was missing."""
        key = (header.phone, header.number, (header.serial - header.part) & 0xFFFF)
        parts = self._parts.setdefault(key, {})
        parts[header.part] = raw
        if len(parts) == header.total:
            del self._parts[key]
            raw = b"".join(parts[number] for number in range(1, header.total + 1))
            if self._asked:
                bodies = [found[1] for part in raw.split(MARK) if part and not isinstance(found := _unpack(part), Refusal)]
                return Message(header.identity, header.number, raw, header,
                               reply=self._reply(header.number, b"".join(bodies)))
        else:
            while len(self._parts) > HELD_PARTS or sum(
                len(one) for parts in self._parts.values() for one in parts.values()
            ) > HELD_BYTES:
                del self._parts[next(iter(self._parts))]
        return Message(header.identity, header.number, raw, header)

    def _send(self, header: Header, number: int, body: bytes) -> bytes:
        self._serial = self._serial + 1 & 0xFFFF
        return frame(number, header.phone, self._serial, body, header.version)

    def _general(self, header: Header, result: int) -> bytes:
        return self._send(
            header, PLATFORM_REPLY, header.serial.to_bytes(2) + header.number.to_bytes(2) + bytes((result,))
        )

    def accept(self, message: Message, now: int) -> bytes:
        header: Header = message.receipt
        number = header.number
        if number == GENERAL_REPLY:
            return b""
        if number == REGISTER:
            return self._send(header, REGISTER_REPLY, header.serial.to_bytes(2) + bytes((DONE,)) + header.identity)
        answer = self._general(header, DONE if number in SPOKEN and not header.encrypted else UNSUPPORTED)
        if header.total and header.part == header.total:
            answer += self._missing(header)
        return answer

    def _missing(self, header: Header) -> bytes:
        first = header.serial - header.part & 0xFFFF
        parts = self._parts.get((header.phone, header.number, first))
        if not parts:
            return b""
        wanted = [number for number in range(1, header.total + 1) if number not in parts][:255]
        return self._send(header, RESEND, (first + 1 & 0xFFFF).to_bytes(2) + bytes((len(wanted),)) + b"".join(
            number.to_bytes(2) for number in wanted
        ))

    def refuse(self, message: Message, why: str) -> bytes:
        header: Header = message.receipt
        if header.number == GENERAL_REPLY:
            return b""
        if header.number == REGISTER:
            result = TERMINAL_KNOWN if why == DENIED else NO_TERMINAL
            return self._send(header, REGISTER_REPLY, header.serial.to_bytes(2) + bytes((result,)))
        return self._general(header, FAILED)


def _parameters(body: bytes) -> dict[str, int | str]:
    """0x0104 (8.11): parameters by id; texts as text, numbers of up to four bytes as numbers, others as hex."""
    found: dict[str, int | str] = {}
    at = 3
    while at + 5 <= len(body):
        parameter, size = int.from_bytes(body[at : at + 4]), body[at + 4]
        raw = body[at + 5 : at + 5 + size]
        at += 5 + size
        found[f"0x{parameter:04X}"] = (
            raw.rstrip(b"\0").decode("gb18030", "replace") if parameter in _TEXTS
            else int.from_bytes(raw) if 1 <= len(raw) <= 4 else raw.hex()
        )
    return found


def _code(header: Header, body: bytes) -> bytes:
    """The authentication code (8.5): the whole body, in the 2019 edition with its length before it."""
    if header.version is None:
        return body
    return body[1 : 1 + body[0]] if body else b""


class Jt808:
    """The codec."""

    name = "jt808"
    idle = 900.0
    first = 60.0
    passwords = True
    methods: Mapping[str, Method] = {name: Method(zh, en, params) for name, (_, zh, en, params) in METHODS.items()}

    def session(self) -> Session:
        return Session()

    def identity(self, text: str) -> bytes:
        """The terminal's phone number: 12 digits (2013) or 20 (2019), with or without the zeros before it."""
        digits = text.lstrip("0")
        if not re.fullmatch(r"[0-9]{1,20}", text) or not digits:
            raise Invalid("终端手机号应为 1 至 20 位数字", "a terminal's phone is 1 to 20 digits", field="identity",
                          value=text, rule="JT/T 808 4.4.3")
        return digits.encode()

    def identify(self, raw: bytes) -> bytes:
        return identity_in(Session(), raw)

    def masked(self, raw: bytes) -> bytes:
        return _without_code(raw)

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        bodies: list[bytes] = []
        header = None
        for piece in raw.split(MARK):
            if piece:
                if len(piece) < SHORTEST:
                    return [], [Refusal("length", "帧过短", "the frame is too short", "length", len(piece))]
                found = _unpack(piece)
                if isinstance(found, Refusal):
                    return [], [found]
                header, body = found
                bodies.append(body)
        if header is None or len(bodies) < header.total:
            return [], []
        if header.encrypted:
            return [], [Refusal("encrypted", "消息体已加密", "the body is encrypted", "encryption")]
        samples: list[Sample] = []
        refusals: list[Refusal] = []
        body = bodies[0] if len(bodies) == 1 else b"".join(bodies)
        try:
            if header.number == LOCATION:
                _location(body, samples, refusals)
            elif header.number == LOCATIONS:
                _locations(body, samples, refusals)
            elif header.number in (LOCATION_REPLY, VEHICLE):
                _location(body[2:], samples, refusals)
            elif header.number == REGISTER:
                samples.append((0, _registration(header, body), None))
            elif header.number == MEDIA_EVENT:
                names = ("mediaId", "mediaType", "mediaFormat", "mediaEvent", "mediaChannel")
                samples.append((0, dict(zip(names, map(float, _EVENT.unpack_from(body)), strict=True)), None))
            elif header.number not in SPOKEN:
                refusals.append(Refusal("message", f"不支持消息 0x{header.number:04X}",
                                        f"message 0x{header.number:04X} is not spoken", "message", header.number))
        except (struct.error, IndexError):
            refusals.append(Refusal("length", "消息体过短", "the body is too short", f"0x{header.number:04X}", len(body)))
        return samples, refusals


def _locations(body: bytes, samples: list[Sample], refusals: list[Refusal]) -> None:
    """0x0704: a number of items, their kind, then length and location each (8.49)."""
    at = 3
    for number in range(int.from_bytes(body[:2])):
        size = int.from_bytes(body[at : at + 2])
        if len(body) < at + 2 + size or not size:
            refusals.append(Refusal("length", "消息体过短", "the body is too short", f"[{number}]", len(body)))
            return
        _location(body[at + 2 : at + 2 + size], samples, refusals)
        at += 2 + size


def _location(body: bytes, samples: list[Sample], refusals: list[Refusal]) -> None:
    """0x0200: alarm and status words, position, and items of id, length and value (8.18)."""
    alarm, status, latitude, longitude, altitude, speed, direction, when = _POINT.unpack_from(body)
    digits = when.hex()
    try:
        observed = beijing("20" + digits) if digits != "000000000000" else 0
    except ValueError:
        refusals.append(Refusal("time", "时间不是 BCD YYMMDDhhmmss", "the time is not BCD YYMMDDhhmmss", "time", digits))
        return
    values: dict[str, float | str] = {
        "latitude": (-latitude if status & 4 else latitude) / 1e6,
        "longitude": (-longitude if status & 8 else longitude) / 1e6,
        "altitude": float(altitude), "speed": speed / 10, "direction": float(direction), "alarm": float(alarm),
        "status": float(status), "acc": float(status & 1),
    }
    at, end = 28, len(body)
    while at + 2 <= end:
        item, size = body[at], body[at + 1]
        value = body[at + 2 : at + 2 + size]
        at += 2 + size
        if len(value) < size:
            refusals.append(Refusal("length", "附加信息项过短", "an additional item is too short", f"0x{item:02X}", size))
            break
        known = ITEMS.get(item)
        if known is not None and known[0] == size:
            number = int.from_bytes(value)
            if item == 0x2B:
                values["analog0"], values["analog1"] = float(number & 0xFFFF), float(number >> 16)
            elif item == 0x06:
                values[known[1]] = float(-(number & 0x7FFF) if number & 0x8000 else number)
            else:
                values[known[1]] = number / known[2]
    samples.append((observed, values, None if status & 2 else UNFIXED))


ITEMS: dict[int, tuple[int, str, int]] = {
    0x01: (4, "mileage", 10), 0x02: (2, "fuel", 10), 0x03: (2, "recorderSpeed", 10), 0x04: (2, "confirmedAlarm", 1),
    0x06: (2, "carriageTemperature", 1), 0x25: (4, "signals", 1), 0x2A: (2, "io", 1), 0x2B: (4, "analog0", 1),
    0x30: (1, "signalStrength", 1), 0x31: (1, "satellites", 1),
}
"""Additional items (table 27): id -> length, name, divisor. Others, and those of makers, are in the raw frame only."""
UNFIXED = {"latitude": BAD, "longitude": BAD, "altitude": BAD, "speed": BAD, "direction": BAD}
"""Quality while the receiver has no fix (bit 1 of the status)."""


def _registration(header: Header, body: bytes) -> dict[str, float | str]:
    """0x0100 (8.3): the fields of 2019 are longer; a body too short for 2013 has the shorter model of 2011."""
    if header.version is not None:
        maker, model, terminal = 11, 30, 30
    else:
        maker, model, terminal = 5, 20 if len(body) >= 37 else 8, 7
    cuts = [4, 4 + maker, 4 + maker + model, 4 + maker + model + terminal]
    province, city = _HEAD.unpack_from(body)
    found: dict[str, float | str] = {
        "province": float(province), "city": float(city), "plateColour": float(body[cuts[3]]),
    }
    texts = [body[a:b] for a, b in zip(cuts, [*cuts[1:], None], strict=True)]
    texts[3] = texts[3][1:]
    for name, raw in zip(("maker", "terminalModel", "terminalId", "plate"), texts, strict=True):
        value = raw.strip(b"\0 ").decode("gb18030", "replace")
        if value:
            found[name] = value
    return found


codec = Jt808()
