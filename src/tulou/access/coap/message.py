"""CoAP messages: RFC 7252 (section 3), with the options of RFC 7641 (Observe), RFC 7959 (Block) and RFC 8516 (4.29).

Law: pure. `parse` reads any datagram or raises `Unreadable`; `Message.encode` writes one that `parse` reads back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tulou.access.coap import Unreadable

CON, NON, ACK, RST = range(4)

EMPTY, GET, POST, PUT, DELETE = range(5)
CREATED, DELETED, VALID, CHANGED, CONTENT, CONTINUE = 0x41, 0x42, 0x43, 0x44, 0x45, 0x5F
BAD_REQUEST, UNAUTHORIZED, BAD_OPTION, FORBIDDEN, NOT_FOUND, NOT_ALLOWED = 0x80, 0x81, 0x82, 0x83, 0x84, 0x85
INCOMPLETE, PRECONDITION_FAILED, TOO_LARGE, UNSUPPORTED_FORMAT, TOO_MANY = 0x88, 0x8C, 0x8D, 0x8F, 0x9D
INTERNAL_ERROR, UNAVAILABLE = 0xA0, 0xA3

IF_MATCH, URI_HOST, IF_NONE_MATCH, OBSERVE, URI_PORT, LOCATION_PATH, URI_PATH, CONTENT_FORMAT = 1, 3, 5, 6, 7, 8, 11, 12
MAX_AGE, URI_QUERY, ACCEPT, BLOCK2, BLOCK1, SIZE1, REQUEST_TAG = 14, 15, 17, 23, 27, 60, 292
UNDERSTOOD = frozenset({URI_HOST, URI_PORT, URI_PATH, URI_QUERY, ACCEPT, BLOCK1, BLOCK2})
"""Critical options (odd numbers) that are understood; any other is refused with 4.02 (5.4.1)."""

TEXT, LINKS, OPAQUE, JSON, CBOR = 0, 40, 42, 50, 60
SENML_JSON, SENML_CBOR = 110, 112
TLV, LWM2M_JSON = 11542, 11543
"""Content formats of the CoAP registry (RFC 7252, 12.3; RFC 8428, 12.3; LwM2M 1.0, 6.4)."""
BLOCK = 1024
"""Bytes of the blocks that are asked for and sent; the largest there are (RFC 7959, 2.2)."""


@dataclass(slots=True)
class Message:
    """One message. `kind` is CON, NON, ACK or RST; `code` is class << 5 | detail."""

    kind: int
    code: int
    id: int
    token: bytes = b""
    options: list[tuple[int, bytes]] = field(default_factory=list)
    payload: bytes = b""

    def all(self, number: int) -> list[bytes]:
        """The values of a repeatable option, in order."""
        return [value for name, value in self.options if name == number]

    def uint(self, number: int) -> int | None:
        """The value of a uint option (3.2), or None where it is absent."""
        for name, value in self.options:
            if name == number:
                return int.from_bytes(value)
        return None

    def texts(self, number: int) -> list[str]:
        """The values of a string option. Raises `Unreadable`."""
        try:
            return [value.decode() for value in self.all(number)]
        except UnicodeDecodeError:
            raise Unreadable("utf-8", "选项不是 UTF-8", "an option is not UTF-8", f"option {number}") from None

    def block(self, number: int) -> Block | None:
        """The value of Block1 or Block2. Raises `Unreadable`."""
        value = self.uint(number)
        if value is None:
            return None
        if value > 0xFFFFFF or value & 7 == 7:
            raise Unreadable("block", "Block 选项的 SZX 不能为 7", "SZX 7 of a block option is reserved (RFC 7959, 2.2)",
                             f"Block{1 if number == BLOCK1 else 2}", value)
        return Block(value >> 4, bool(value & 8), value & 7)

    def unknown(self) -> int | None:
        """The first critical option that is not understood."""
        return next((number for number, _ in self.options if number & 1 and number not in UNDERSTOOD), None)

    def encode(self) -> bytes:
        """The datagram (section 3)."""
        out = bytearray((0x40 | self.kind << 4 | len(self.token), self.code))
        out += self.id.to_bytes(2) + self.token
        last = 0
        for number, value in sorted(self.options, key=lambda option: option[0]):
            (delta, more), (length, longer) = _split(number - last), _split(len(value))
            out.append(delta << 4 | length)
            out += more + longer + value
            last = number
        if self.payload:
            out.append(0xFF)
            out += self.payload
        return bytes(out)


@dataclass(slots=True, frozen=True)
class Block:
    """A block option (RFC 7959, 2.2): number, whether more follow, size as exponent (16 << szx bytes)."""

    number: int
    more: bool
    szx: int

    @property
    def size(self) -> int:
        return 16 << self.szx

    def value(self) -> bytes:
        """The option's value."""
        return uint(self.number << 4 | self.more << 3 | self.szx)


def uint(value: int) -> bytes:
    """A uint option's value in the fewest bytes (3.2)."""
    return value.to_bytes((value.bit_length() + 7) // 8)


def path_options(path: Iterable[str], number: int = URI_PATH) -> list[tuple[int, bytes]]:
    """An option for each segment."""
    return [(number, segment.encode()) for segment in path]


def code_text(code: int) -> str:
    """As people write it: 2.04."""
    return f"{code >> 5}.{code & 31:02}"


def _split(value: int) -> tuple[int, bytes]:
    """The nibble and the extended bytes of an option's delta or length (3.1)."""
    if value < 13:
        return value, b""
    return (13, bytes((value - 13,))) if value < 269 else (14, (value - 269).to_bytes(2))


def parse(data: bytes) -> Message:
    """Read a datagram. Raises `Unreadable` naming what breaks the format (sections 3 and 3.1)."""
    if len(data) < 4:
        raise Unreadable("header", "不足 4 字节", "shorter than the header of 4 bytes")
    first, code = data[0], data[1]
    if first >> 6 != 1:
        raise Unreadable("version", "版本不是 1", "version is not 1", "Ver", first >> 6)
    size = first & 15
    at = 4 + size
    if size > 8 or at > len(data):
        raise Unreadable("token", "Token 长度有误", "token length is not 0 to 8, or beyond the end", "TKL", size)
    message = Message(first >> 4 & 3, code, data[2] << 8 | data[3], data[4:at])
    if not code and len(data) > 4:
        raise Unreadable("empty", "空消息带有内容", "an empty message has content (4.1)")
    if code >> 5 in (1, 6, 7):
        raise Unreadable("class", "代码类别保留", "reserved class of code", "Code", code)
    number, end, options = 0, len(data), message.options
    while at < end:
        head = data[at]
        at += 1
        if head == 0xFF:
            if at == end:
                raise Unreadable("payload", "载荷标记后无载荷", "payload marker without payload")
            message.payload = data[at:]
            break
        delta, length = head >> 4, head & 15
        if delta > 12:
            delta, at = _extended(data, at, delta)
        if length > 12:
            length, at = _extended(data, at, length)
        number += delta
        if number > 0xFFFF or at + length > end:
            raise Unreadable("option", "选项超出消息", "an option goes beyond the message", "option", number)
        options.append((number, data[at : at + length]))
        at += length
    return message


def _extended(data: bytes, at: int, nibble: int) -> tuple[int, int]:
    """An extended delta or length (3.1) and where it ends."""
    if nibble == 15:
        raise Unreadable("option", "选项头 15 保留", "15 is reserved in an option's header")
    size = nibble - 12
    if at + size > len(data):
        raise Unreadable("option", "选项头不完整", "an option's header goes beyond the message")
    return int.from_bytes(data[at : at + size]) + (13 if nibble == 13 else 269), at + size
