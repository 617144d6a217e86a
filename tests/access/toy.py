"""The toy protocol of docs/codecs.md: lines `$GATE01,SECRET,20260401080000,2.35,OK*5C`, ended by a line feed.

Law: pure. A dollar sign, identity, password, Beijing time, level in metres, state, a star, the exclusive or of what stands
between dollar sign and star in two hexadecimal digits. An answer is `!GATE01*` with the same check.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tulou.access.batch import BAD
from tulou.access.protocols import Broken, Message, Method, Sample, beijing, xor
from tulou.access.telemetry import Refusal
from tulou.kernel.errors import Invalid

LONGEST = 256


def line(words: bytes, mark: bytes = b"$") -> bytes:
    return mark + words + b"*%02X\n" % xor(words)


class Session:
    """The lines of one connection."""

    def __init__(self) -> None:
        self.skipped = 0
        self._rest = b""

    @property
    def unfinished(self) -> int:
        return len(self._rest)

    def feed(self, data: bytes) -> list[Message | Broken]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        out = [one for words in lines if (one := self._message(words)) is not None]
        if len(self._rest) > LONGEST:
            self.skipped += len(self._rest)
            self._rest = b""
        return out

    def _message(self, words: bytes) -> Message | Broken | None:
        start = words.rfind(b"$")
        self.skipped += len(words) if start < 0 else start
        if start < 0:
            return None
        raw = words[start:] + b"\n"
        inside, _, check = words[start + 1 :].rpartition(b"*")
        if check != b"%02X" % xor(inside):
            return Broken(codec.masked(raw), Refusal("checksum", "校验码错误", "wrong check", "checksum", check.decode("latin-1")))
        parts = inside.split(b",")
        if len(parts) != 5:
            return Broken(codec.masked(raw), Refusal("fields", "应有 5 个字段", "there are 5 fields", "fields", len(parts)))
        return Message(parts[0], 1, codec.masked(raw), parts[0], credential=parts[1])

    def accept(self, message: Message, now: int) -> bytes:
        return line(message.receipt, b"!")

    def refuse(self, message: Message, why: str) -> bytes:
        return b""


class Toy:
    """The codec."""

    name = "toy"
    idle = 600.0
    first = 60.0
    passwords = True
    methods: Mapping[str, Method] = {}

    def session(self) -> Session:
        return Session()

    def identity(self, text: str) -> bytes:
        if not re.fullmatch(r"[A-Z0-9]{1,16}", text):
            raise Invalid("标识为 1 至 16 位大写字母与数字", "an identity is 1 to 16 capital letters and digits", field="identity",
                          value=text, rule="[A-Z0-9]{1,16}")
        return text.encode()

    def identify(self, raw: bytes) -> bytes:
        return raw[1:].partition(b",")[0]

    def masked(self, raw: bytes) -> bytes:
        """Stars for the password; the check no longer fits."""
        return re.sub(rb"(\$[^,*$]*,)([^,*$]*)", lambda found: found[1] + b"*" * len(found[2]), raw)

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        parts = raw[1:].rpartition(b"*")[0].split(b",")
        if len(parts) != 5:
            return [], [Refusal("fields", "应有 5 个字段", "there are 5 fields", "fields", len(parts))]
        when, level, state = (part.decode("ascii", "replace") for part in parts[2:])
        try:
            observed = beijing(when)
        except ValueError:
            return [], [Refusal("time", "时间不是 YYYYMMDDhhmmss", "the time is not YYYYMMDDhhmmss", "time", when)]
        if not re.fullmatch(r"-?\d{1,6}(\.\d{1,6})?", level, re.ASCII):
            return [], [Refusal("number", "水位不是数", "the level is no number", "level", level)]
        return [(observed, {"level": float(level), "state": state}, {"level": BAD} if state != "OK" else None)], []


codec = Toy()
