"""The codec kit: what a field protocol over TCP must say of itself, one pure file per standard.

Law: pure; bytes in, messages and bytes out, no I/O and no clock. Whatever the bytes are, a session gives messages and
`Broken` frames, holds at most one unfinished frame, and loses no neighbour of a bad one: after a bad frame it looks for
the next start mark within it. Raw frames are kept as they came, because makers deviate and frames are read again.

A new protocol is a module with a `codec` (see `Codec`), named by the hook `protocols`; a setting gives it a port. What
is not written in a frame (which device an identity is, whether a message is durable, when to give up) is the door's.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from tulou.access.telemetry import Refusal

if TYPE_CHECKING:
    from pydantic import BaseModel

K = TypeVar("K")
V = TypeVar("V")

BEIJING = timezone(timedelta(hours=8))
DELIVERED, ANSWERED, REFUSED = "delivered", "answered", "refused"
"""What becomes of a command: the device has it; it did it; it (or the door) will not."""
UNKNOWN, DENIED, OVER_QUOTA = "unknown", "denied", "over_quota"
"""Why a message is refused: its identity is nobody's, or its credential is wrong."""

Sample = tuple[int, dict[str, float | str], Mapping[str, int] | None]
"""Values observed at one time: µs since the epoch (0: when the frame was received), values by property name, and the
quality of those that are not good."""


@dataclass(frozen=True, slots=True)
class Method:
    """A command that devices of a protocol take: what people read, and its parameters."""

    zh: str
    en: str
    params: type[BaseModel]

    @property
    def label(self) -> dict[str, str]:
        return {"zh": self.zh, "en": self.en}

    @property
    def schema(self) -> dict[str, Any]:
        """A JSON Schema of the parameters."""
        return self.params.model_json_schema()


@dataclass(slots=True)
class Reply:
    """What a device said to the command that is known by `key`: it took it (`DELIVERED`), did it (`ANSWERED`, with the
    result) or not (`REFUSED`, with why in Chinese and English)."""

    key: Any
    what: str
    result: Any = None
    error: str = ""


@dataclass(slots=True)
class Message:
    """What a device said in one frame (or in several, joined). `raw` is kept, unless `kept` is false: then it carries
    nothing to store and is answered at once. `receipt` is the codec's own, for its answer. `reply`: it is about a
    command."""

    identity: bytes
    command: int
    raw: bytes
    receipt: Any = None
    kept: bool = True
    credential: bytes | None = None
    last: bool = False
    reply: Reply | None = None


@dataclass(slots=True)
class Broken:
    """Bytes that began as a frame and are none: not answered, because nothing in them can be trusted."""

    raw: bytes
    refusal: Refusal


class Session(Protocol):
    """One connection's state: the unfinished frame, serial numbers, parts that wait for each other. `skipped` counts
    bytes outside of frames."""

    skipped: int

    @property
    def unfinished(self) -> int:
        """Bytes held of a frame, or of a message whose other parts are missing."""
        ...

    def feed(self, data: bytes) -> list[Message | Broken]:
        """The messages that `data` completes, in order."""
        ...

    def accept(self, message: Message, now: int) -> bytes:
        """The answer, at `now` (µs), to a message that is durable (or not kept); empty if it wants none."""
        ...

    def refuse(self, message: Message, why: str) -> bytes:
        """The answer to a message of `UNKNOWN` identity, whose credential is `DENIED`, or that is not stored because its organisation has
        as much as it may (`OVER_QUOTA`); empty if there is none."""
        ...

    def command(self, identity: bytes, method: str, params: Any, now: int) -> tuple[bytes, Any]:
        """A command at `now` (µs) to a device that has spoken here, and the key of `Reply` (None: nothing replies).
        `params` are of the method's model. Raises `Invalid`."""
        ...


class Codec(Protocol):
    """The kept messages of a protocol. `passwords`: whether the protocol carries one; `methods`: the commands that its
    devices take, by name."""

    name: str
    passwords: bool
    methods: Mapping[str, Method]

    def identity(self, text: str) -> bytes:
        """The identity as frames are compared by it. Raises `Invalid`."""
        ...

    def identify(self, raw: bytes) -> bytes:
        """The identity in a kept message; empty if there is none."""
        ...

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        """The values of a kept message, and what of it could not be read."""
        ...

    def masked(self, raw: bytes) -> bytes:
        """The message as people may see it: without credentials."""
        ...


@runtime_checkable
class Digested(Protocol):
    """A protocol whose devices prove their password without sending it."""

    def secret(self, identity: str, password: str, realm: str) -> str:
        """What is kept of a password: what both sides compute from it."""
        ...


@runtime_checkable
class FieldCodec(Codec, Protocol):
    """A field protocol over TCP. `idle` and `first` are seconds without a known device's message after which a
    connection is closed: later, and at its beginning."""

    idle: float
    first: float

    def session(self) -> Session:
        """The state of a new connection."""
        ...


@runtime_checkable
class BroadcastCodec(FieldCodec, Protocol):
    """A field protocol whose connections relay what everybody sends, as a receiver of ships does: who is unknown is the rule, only
    counted, and nothing of it is kept. It may come over UDP; `datagram_end` ends what a datagram began."""

    datagram_end: bytes


def identity_in(session: Session, raw: bytes) -> bytes:
    """The identity in a kept message, as a fresh session reads it; empty if there is none."""
    return next((message.identity for message in session.feed(raw) if isinstance(message, Message)), b"")


@functools.cache
def load(where: str) -> Codec:
    """The codec of a module, by its dotted name."""
    found: Codec = import_module(where).codec
    return found


@functools.lru_cache(8192)
def beijing(digits: str) -> int:
    """µs since the epoch of YYYYMMDDhhmmss in Beijing time. Raises `ValueError`."""
    if len(digits) != 14 or not digits.isdigit() or not digits.isascii():
        raise ValueError(digits)
    at = datetime(int(digits[:4]), int(digits[4:6]), int(digits[6:8]), int(digits[8:10]), int(digits[10:12]),
                  int(digits[12:]), tzinfo=BEIJING)
    return int(at.timestamp()) * 1_000_000


def xor(data: bytes) -> int:
    """The exclusive or of all bytes, by folding halves onto the lower ones; what stands above them does not matter."""
    folded = int.from_bytes(data)
    half = 4 << (len(data) - 1).bit_length()
    while half > 4:
        folded ^= folded >> half
        half >>= 1
    return folded & 0xFF


def remember(held: dict[K, V], key: K, value: V, most: int) -> None:
    """Put an entry at the end of what a session holds, and drop the oldest beyond so many."""
    held.pop(key, None)
    held[key] = value
    if len(held) > most:
        del held[next(iter(held))]


def _crc_16() -> list[int]:
    out = []
    for register in range(256):
        for _ in range(8):
            register = register >> 1 ^ (0xA001 if register & 1 else 0)
        out.append(register)
    return out


CRC_16 = _crc_16()
"""The register after each byte, of the polynomial x16+x15+x2+1 with the lowest bit first."""


def crc_16(data: bytes) -> int:
    """The check of Modbus (V1.02, 6.2.2) and of SL 651-2014 (table 11)."""
    register = 0xFFFF
    for byte in data:
        register = register >> 8 ^ CRC_16[(register ^ byte) & 0xFF]
    return register
