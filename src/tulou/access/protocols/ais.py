"""AIS (ITU-R M.1371-5) in sentences of NMEA 0183 (IEC 61162-1), as receivers and base stations relay it: `!AIVDM`,
`!AIVDO`.

Law: pure. A sentence is `!`, talker, VDM or VDO, number of sentences, which one, sequence id, channel, payload, fill bits,
`*` and the exclusive or of what stands between `!` and `*`; a line ends it. Before it may stand a tag block (IEC 61162-450,
4.0 of NMEA 0183), `\\s:STATION,c:1775001600*hh\\`, of which the source and the time are read; one whose check is wrong is
none. Behind it may stand fields of the United States Coast Guard, of which the time is read. The payload is the message in
six bits a character. The layouts are those of the text "AIVDM/AIVDO protocol decoding" of gpsd, not read against M.1371
itself.

A message of several sentences is read when they came in their order, with others between them; of what is missing a part
when the next one came, or 64 sentences later, the rest is `Broken`. Nobody is answered. Other sound sentences (`$AIALR`,
`!AIVSI`) are passed over.

A device is a ship, base station or aid by its MMSI; one receiver relays those of hundreds. The receiver is a device by its
name in the tag block, with `s:` before it. What stands for "not available" is not-a-number of quality 2; a text that is
empty is no reading. The time is that of the tag block, a base station's own (4, 11), else that of receipt: a position says
only the second.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from tulou.access.batch import BAD, UNCERTAIN
from tulou.access.protocols import Broken, Message, Method, Sample, xor
from tulou.access.telemetry import NAN, Refusal
from tulou.kernel.errors import Invalid

LONGEST = 1024
"""Bytes without a line's end after which the oldest are passed over; `KEPT` remain, in which a sentence may have begun."""
KEPT = 512
HELD_GROUPS, HELD_SENTENCES = 16, 64
"""Messages in several sentences that a connection waits for, and for how many sentences."""

_TOKEN = re.compile(rb"(?:\\[^\\!$\r\n]{0,200}\\)?[!$][^!$\\\r\n]*")
_SENTENCE = re.compile(
    rb"(?:\\([^\\]*)\\)?!([A-Z0-9]{2}VD[MO],([1-9]),([1-9]),([0-9]?),([^,*]{0,2}),([0-W`-w]{1,400}),([0-5]))\*([0-9A-Fa-f]{2})(.*)",
    re.S,
)
_VDM = re.compile(rb"(?:\\[^\\]*\\)?![A-Z0-9]{2}VD[MO],")
_SOUND = re.compile(rb"(?:\\[^\\]*\\)?[!$]([^*]*)\*([0-9A-Fa-f]{2})")
_TAG = re.compile(rb"([^*]*)\*([0-9A-Fa-f]{2})")
_SOURCE, _TIME = re.compile(rb"(?:^|,)s:([^,:]{1,15})"), re.compile(rb"(?:^|,)c:([0-9]{9,13})(?:,|$)")
_COAST_GUARD = re.compile(rb",([0-9]{9,10})\s*$")
_BASE64 = bytes.maketrans(
    bytes((*range(48, 88), *range(96, 120))), b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
)
_TEXT = "@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_ !\"#$%&'()*+,-./0123456789:;<=>?"
"""Six-bit characters."""


class Sentence(NamedTuple):
    """A sound sentence. `at` is the µs of its tag block, 0 without one; `source` who relays it, empty if that is not
    said."""

    raw: bytes
    total: int
    part: int
    group: tuple[bytes, bytes, int]
    payload: bytes
    fill: int
    at: int
    source: bytes


class Bits:
    """The bits of a message."""

    __slots__ = ("number", "size")

    def __init__(self, payload: bytes, fill: int) -> None:
        padded = payload.translate(_BASE64) + b"A" * (-len(payload) % 4)
        self.number = int.from_bytes(binascii.a2b_base64(padded))
        self.size = 6 * len(payload) - fill
        self.number >>= 6 * len(padded) - self.size

    def unsigned(self, start: int, width: int) -> int:
        """Raises `IndexError` beyond the end."""
        left = self.size - start - width
        if left < 0:
            raise IndexError(start)
        return self.number >> left & (1 << width) - 1

    def signed(self, start: int, width: int) -> int:
        found = self.unsigned(start, width)
        return found - (1 << width) if found >> width - 1 else found

    def text(self, start: int, width: int) -> str:
        """Six-bit characters up to the first `@`, without spaces at the end."""
        found = self.unsigned(start, width)
        characters = "".join(_TEXT[found >> at & 63] for at in range(width - 6, -1, -6))
        return characters.partition("@")[0].rstrip()


def _read(token: bytes) -> Sentence | Broken | None:
    """A sentence of AIS, a broken one, or None for another sound sentence. Raises `ValueError` for what is none at all."""
    found = _SENTENCE.fullmatch(token)
    if found is None:
        sound = _SOUND.match(token)
        if _VDM.match(token):
            return Broken(token + b"\r\n", Refusal("sentence", "不是 AIS 语句", "not a sentence of AIS", "sentence"))
        if sound is None or int(sound[2], 16) != xor(sound[1]):
            raise ValueError
        return None
    tag, inside, total, part, sequence, channel, payload, fill, check, behind = found.groups()
    raw = token + b"\r\n"
    if int(check, 16) != xor(inside):
        return Broken(raw, Refusal("checksum", "校验码错误", "wrong check", "checksum", check.decode()))
    if int(part) > int(total):
        return Broken(raw, Refusal("part", "语句序号大于总数", "more sentences than there are", "part", int(part)))
    at, source = 0, b""
    own = _TAG.fullmatch(tag) if tag else None
    if own is not None and int(own[2], 16) == xor(own[1]):
        who, when = _SOURCE.search(own[1]), _TIME.search(own[1])
        source = who[1] if who else b""
        at = _micros(int(when[1])) if when else 0
    elif behind and (when := _COAST_GUARD.search(behind)):
        at = int(when[1]) * 1_000_000
    return Sentence(raw, int(total), int(part), (sequence, channel, int(total)), payload, int(fill), at, source)


def _micros(stamp: int) -> int:
    """A time of a tag block: seconds, or milliseconds."""
    return stamp * 1000 if stamp >= 10**11 else stamp * 1_000_000


def _lines(data: bytes) -> tuple[list[Sentence | Broken], int]:
    """What whole lines say, and how many bytes are none of it."""
    found: list[Sentence | Broken] = []
    strange = at = 0
    for match in _TOKEN.finditer(data):
        strange += len(b"".join(data[at : match.start()].split()))
        at = match.end()
        token = match[0].rstrip()
        try:
            one = _read(token)
        except ValueError:
            strange += len(token)
            continue
        if one is not None:
            found.append(one)
    return found, strange + len(b"".join(data[at:].split()))


class Session:
    """The sentences of one connection, or of one address over UDP. What waits for other parts is bounded, and not
    `unfinished`: a part that was lost on the air never comes."""

    def __init__(self) -> None:
        self.skipped = 0
        self._rest = b""
        self._groups: dict[tuple[bytes, bytes, int], tuple[int, list[Sentence]]] = {}
        self._count = 0

    @property
    def unfinished(self) -> int:
        return len(self._rest)

    def feed(self, data: bytes) -> list[Message | Broken]:
        lines, end, rest = (self._rest + data).rpartition(b"\n")
        if len(rest) > LONGEST:
            self.skipped += len(rest) - KEPT
            rest = rest[-KEPT:]
        self._rest = rest
        out: list[Message | Broken] = []
        if not end:
            return out
        found, strange = _lines(lines)
        self.skipped += strange
        for one in found:
            if type(one) is Broken:
                out.append(one)
            else:
                assert type(one) is Sentence
                self._take(one, out)
        return out

    def _take(self, one: Sentence, out: list[Message | Broken]) -> None:
        self._count += 1
        if one.source:
            out.append(Message(b"s:" + one.source, 0, b"", kept=False))
        if one.total == 1:
            out.append(_message([one]))
            return
        groups = self._groups
        begun, parts = groups.pop(one.group, (self._count, []))
        if parts and one.part != len(parts) + 1:
            out.append(_lost(parts))
            begun, parts = self._count, []
        if one.part != len(parts) + 1:
            out.append(_lost([one]))
        elif one.part == one.total:
            out.append(_message([*parts, one]))
        else:
            groups[one.group] = begun, [*parts, one]
        for key in [key for key, (since, _) in groups.items() if self._count - since > HELD_SENTENCES]:
            out.append(_lost(groups.pop(key)[1]))
        if len(groups) > HELD_GROUPS:
            out.append(_lost(groups.pop(next(iter(groups)))[1]))

    def accept(self, message: Message, now: int) -> bytes:
        return b""

    def refuse(self, message: Message, why: str) -> bytes:
        return b""

    def command(self, identity: bytes, method: str, params: object, now: int) -> tuple[bytes, object]:
        raise Invalid("AIS 只收不发", "AIS is only listened to", field="method", value=method, rule="no commands")


def _message(parts: list[Sentence]) -> Message | Broken:
    raw = b"".join(part.raw for part in parts)
    try:
        bits = Bits(parts[0].payload, parts[0].fill)
        kind, mmsi = bits.unsigned(0, 6), bits.unsigned(8, 30)
    except IndexError:
        return Broken(
            raw,
            Refusal(
                "length", "消息过短，没有 MMSI", "the message is too short for an MMSI", "payload", len(parts[0].payload)
            ),
        )
    return Message(b"%09d" % mmsi, kind, raw)


def _lost(parts: list[Sentence]) -> Broken:
    return Broken(
        b"".join(part.raw for part in parts),
        Refusal(
            "part",
            f"消息共 {parts[0].total} 句，其余未收到",
            f"the message has {parts[0].total} sentences; the others did not come",
            "part",
            parts[-1].part,
        ),
    )


class _Reading:
    """What is read of one message: values by name, their quality where it is not good, and what could not be read."""

    def __init__(self, bits: Bits) -> None:
        self.bits = bits
        self.values: dict[str, float | str] = {}
        self.worse: dict[str, int] = {}
        self.refusals: list[Refusal] = []

    def number(self, name: str, start: int, width: int, none: int | None = None, divisor: float = 1.0) -> None:
        found = self.bits.unsigned(start, width)
        self.put(name, NAN if found == none else found / divisor)

    def put(self, name: str, value: float) -> None:
        self.values[name] = value
        if value != value:
            self.worse[name] = BAD

    def text(self, name: str, start: int, width: int) -> None:
        found = self.bits.text(start, width)
        if found:
            self.values[name] = found

    def position(self, start: int, width: int = 28, unit: float = 600_000.0) -> None:
        """Longitude, then latitude of one bit less; 181 and 91 degrees are none."""
        for name, at, size, most in (("longitude", start, width, 180), ("latitude", start + width, width - 1, 90)):
            found = self.bits.signed(at, size) / unit
            if abs(found) <= most:
                self.put(name, found)
            elif found == most + 1:
                self.put(name, NAN)
            else:
                self.refusals.append(
                    Refusal("range", f"{name} 超出 ±{most} 度", f"{name} is beyond {most} degrees", name, found)
                )

    def course(self, start: int) -> None:
        """Course over ground in tenths of a degree; 360 is none."""
        found = self.bits.unsigned(start, 12)
        self.put("cog", found / 10 if found < 3600 else NAN)

    def heading(self, start: int) -> None:
        found = self.bits.unsigned(start, 9)
        self.put("heading", float(found) if found < 360 else NAN)

    def fixed(self, second: int) -> None:
        """How the position was made, by the second: 61 by hand, 62 dead reckoning, 63 by nothing that works."""
        quality = {61: UNCERTAIN, 62: UNCERTAIN, 63: BAD}.get(self.bits.unsigned(second, 6))
        if quality is not None:
            for name in ("longitude", "latitude"):
                if name in self.values:
                    self.worse[name] = max(quality, self.worse.get(name, 0))

    def size(self, start: int) -> None:
        """Metres from the position's reference point to bow, stern, port and starboard; all of 0 are none."""
        widths = (("toBow", 0, 9), ("toStern", 9, 9), ("toPort", 18, 6), ("toStarboard", 24, 6))
        nothing = not self.bits.unsigned(start, 30)
        for name, at, width in widths:
            self.put(name, NAN if nothing else float(self.bits.unsigned(start + at, width)))


def _class_a(of: _Reading) -> None:
    """1, 2, 3. Of a rate of turn of ±127 it is only known that it is more than 5° in 30 s."""
    of.number("navigationStatus", 38, 4, 15)
    turn = of.bits.signed(42, 8)
    of.put(
        "rateOfTurn",
        NAN if turn == -128 else (1 if turn > 0 else -1) * (10.0 if abs(turn) == 127 else round((turn / 4.733) ** 2, 1)),
    )
    if abs(turn) == 127:
        of.worse["rateOfTurn"] = UNCERTAIN
    of.number("sog", 50, 10, 1023, 10)
    of.number("positionAccuracy", 60, 1)
    of.position(61)
    of.course(116)
    of.heading(128)
    of.fixed(137)


def _base_station(of: _Reading) -> None:
    """4, 11; the time is that of the sample."""
    of.number("positionAccuracy", 78, 1)
    of.position(79)


def _voyage(of: _Reading) -> None:
    """5. The time of arrival has no year: `05-15T16:00Z`, or `05-15` without the time."""
    imo = of.bits.unsigned(40, 30)
    if imo:
        of.values["imo"] = str(imo)
    of.text("callSign", 70, 42)
    of.text("shipName", 112, 120)
    of.number("shipType", 232, 8, 0)
    of.size(240)
    month, day, hour, minute = (of.bits.unsigned(at, width) for at, width in ((274, 4), (278, 5), (283, 5), (288, 6)))
    if 1 <= month <= 12 and day >= 1:
        of.values["eta"] = f"{month:02}-{day:02}" + (f"T{hour:02}:{minute:02}Z" if hour < 24 and minute < 60 else "")
    of.number("draught", 294, 8, 0, 10)
    of.text("destination", 302, 120)


def _aircraft(of: _Reading) -> None:
    """9: whole knots."""
    of.number("altitude", 38, 12, 4095)
    of.number("sog", 50, 10, 1023)
    of.number("positionAccuracy", 60, 1)
    of.position(61)
    of.course(116)
    of.fixed(128)


def _class_b(of: _Reading) -> None:
    """18."""
    of.number("sog", 46, 10, 1023, 10)
    of.number("positionAccuracy", 56, 1)
    of.position(57)
    of.course(112)
    of.heading(124)
    of.fixed(133)


def _class_b_extended(of: _Reading) -> None:
    """19."""
    _class_b(of)
    of.text("shipName", 143, 120)
    of.number("shipType", 263, 8, 0)
    of.size(271)


def _aid(of: _Reading) -> None:
    """21; a long name goes on at the end. Off position counts only where the second is one."""
    of.number("aidType", 38, 5, 0)
    more = of.bits.text(272, min((of.bits.size - 272) // 6, 14) * 6) if of.bits.size >= 278 else ""
    name = of.bits.text(43, 120)
    if name:
        of.values["aidName"] = name + more if len(name) == 20 else name
    of.number("positionAccuracy", 163, 1)
    of.position(164)
    of.size(219)
    of.fixed(253)
    of.put("offPosition", float(of.bits.unsigned(259, 1)) if of.bits.unsigned(253, 6) < 60 else NAN)
    of.number("virtual", 269, 1)


def _static_b(of: _Reading) -> None:
    """24: part A has the name, part B the rest; an auxiliary craft (98...) names its mother ship instead of a size."""
    part = of.bits.unsigned(38, 2)
    if part == 0:
        of.text("shipName", 40, 120)
    elif part == 1:
        of.number("shipType", 40, 8, 0)
        of.text("vendor", 48, 18)
        of.text("callSign", 90, 42)
        if of.bits.unsigned(8, 30) // 10_000_000 == 98:
            of.values["motherShip"] = f"{of.bits.unsigned(132, 30):09}"
        else:
            of.size(132)
    else:
        of.refusals.append(Refusal("part", "消息 24 只有 A、B 两部分", "message 24 has parts A and B only", "part", part))


def _long_range(of: _Reading) -> None:
    """27: tenths of minutes, whole knots and degrees."""
    of.number("positionAccuracy", 38, 1)
    of.number("navigationStatus", 40, 4, 15)
    of.position(44, 18, 600.0)
    of.number("sog", 79, 6, 63)
    course = of.bits.unsigned(85, 9)
    of.put("cog", float(course) if course < 360 else NAN)


MESSAGES = {
    1: _class_a, 2: _class_a, 3: _class_a, 4: _base_station, 5: _voyage, 9: _aircraft, 11: _base_station, 18: _class_b,
    19: _class_b_extended, 21: _aid, 24: _static_b, 27: _long_range,
}
"""What is read. Others (6 to 8, 10, 12 to 17, 20, 22, 23, 25, 26) are kept, and say nothing of the device that is a
reading."""


def _own_time(bits: Bits) -> int:
    """The UTC of a base station's report in µs; 0 if it has none."""
    widths = ((38, 14), (52, 4), (56, 5), (61, 5), (66, 6), (72, 6))
    try:
        return int(datetime(*(bits.unsigned(at, width) for at, width in widths), tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[misc, arg-type]
    except ValueError:
        return 0


class Ais:
    """The codec."""

    name = "ais"
    idle = first = 1800.0
    passwords = False
    methods: Mapping[str, Method] = {}
    datagram_end = b"\n"

    def session(self) -> Session:
        return Session()

    def identity(self, text: str) -> bytes:
        """An MMSI of nine digits, or `s:` and the name of a receiver in its tag blocks."""
        if not re.fullmatch(r"[0-9]{9}|s:[!-)+\-.-9;-\[\]-~]{1,15}", text):
            raise Invalid(
                "标识为九位 MMSI，或 s: 加接收站名（1 至 15 个字符）",
                "an identity is an MMSI of nine digits, or s: and the name of a receiver of 1 to 15 characters",
                field="identity",
                value=text,
                rule="M.1371, annex 1, 3.1; s:NAME",
            )
        return text.encode()

    def identify(self, raw: bytes) -> bytes:
        found = (one for one in Session().feed(raw + b"\n") if isinstance(one, Message) and one.kept)
        return next((one.identity for one in found), b"")

    def masked(self, raw: bytes) -> bytes:
        return raw

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        found, _ = _lines(raw)
        parts = [one for one in found if type(one) is Sentence]
        broken = [one.refusal for one in found if type(one) is Broken]
        if broken:
            return [], broken[:1]
        if not parts or [one.part for one in parts] != list(range(1, parts[0].total + 1)):
            return [], [Refusal("part", "不是完整的 AIS 消息", "not a whole message of AIS", "part", len(parts))]
        bits = Bits(b"".join(one.payload for one in parts), parts[-1].fill)
        at = parts[0].at
        kind = bits.unsigned(0, 6) if bits.size >= 38 else 0
        if not 1 <= kind <= 27:
            return [], [Refusal("message", f"没有消息 {kind}", f"there is no message {kind}", "message", kind)]
        read = MESSAGES.get(kind)
        if read is None:
            return [], []
        of = _Reading(bits)
        try:
            read(of)
            if kind in (4, 11):
                at = _own_time(bits) or at
        except IndexError:
            of.refusals.append(Refusal("length", f"消息 {kind} 过短", f"message {kind} is too short", "payload", bits.size))
        return ([(at, of.values, of.worse or None)] if of.values else []), of.refusals


codec = Ais()
