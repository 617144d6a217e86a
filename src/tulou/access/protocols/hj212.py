"""HJ 212-2017, data transmission of online monitoring systems for pollution discharge; frames of HJ/T 212-2005 too.

Law: pure. `##`, four digits of length, the segment, four hexadecimal digits of CRC (annex A), CR LF (6.3). A data
command is answered with 9014, a notice with 9013, only if bit A of Flag asks for it (6.3.3). What is kept of a frame
has stars for its password, so its CRC no longer fits.

A value keeps the name it has in the frame, `w01018-Rtd`; those of minutes, hours and days (CN 2051, 2061, 2031), whose
times coincide, are told apart by `-minute`, `-hour`, `-day`. Times are Beijing time.
"""

from __future__ import annotations

import re

from tulou.access.batch import BAD, UNCERTAIN
from tulou.access.protocols import UNKNOWN, Broken, Message, Sample, beijing
from tulou.access.telemetry import Refusal
from tulou.kernel.errors import Invalid

START, END = b"##", b"\r\n"
AROUND = 12
"""Bytes of a frame beside its segment: start, length, CRC, end."""
HELD_PARTS = 64

DATA_ANSWER, NOTICE_ANSWER, REQUEST_ANSWER = 9014, 9013, 9011
NOTICES = frozenset({1013})
ANSWERS = frozenset({9011, 9012, 9013, 9014})
SPANS = {2051: "-minute", 2061: "-hour", 2031: "-day", 2041: "-day"}
STAMPED = frozenset({2011, 2051, 2061, 2031})
"""Commands whose values are at DataTime (table 9); in others the time is that of QN."""
FLAGS = {
    "N": 0,  # normal
    "S": UNCERTAIN,  # entered by hand
    "T": UNCERTAIN,  # above the upper limit of measurement
    "F": BAD, "M": BAD, "D": BAD, "C": BAD, "B": BAD,  # stopped, maintenance, fault, calibration, no communication
}
"""Quality of the data flags (table 8); a letter that the standard does not have is uncertain."""
WORDS = ("Flag", "Info", "Time")
"""Ends of names whose values are text, also where they look like numbers."""
MEASURES = frozenset({"Rtd", "Avg", "Min", "Max", "Cou", "ZsRtd", "ZsAvg", "ZsMin", "ZsMax", "Data", "DayData",
                      "NightData"})
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
PASSWORD = re.compile(rb"PW=([^;&]*)")


def _table() -> list[int]:
    out = []
    for register in range(256):
        for _ in range(8):
            register = register >> 1 ^ (0xA001 if register & 1 else 0)
        out.append(register)
    return out


_TABLE = _table()
_STEPS = [bytes(high >> 8 for high in _TABLE)]
while len(_STEPS) < 14:
    _STEPS.append(_STEPS[-1].translate(_STEPS[-1]))
"""`_STEPS[k]` maps the register's high byte over 2**k zero bytes."""


def crc(segment: bytes) -> int:
    """The CRC of annex A: register FFFF; per byte it is shifted right by eight and combined with the byte, then eight
    times shifted right, combined with A001 where a one falls out.

    As the low byte is lost each time, the next register depends on (high byte xor data byte) only, linearly; so the
    text is folded: its first half, moved over the length of the second, is combined with the second.
    """
    size = len(segment)
    if not size:
        return 0xFFFF
    folded = (int.from_bytes(segment) ^ 0xFF << 8 * (size - 1)).to_bytes(size)
    power = (size - 1).bit_length()
    while power > 4:
        power -= 1
        half = 1 << power
        over = size - half
        if over > 0:
            moved = int.from_bytes(folded[:over].translate(_STEPS[power]))
            folded = (moved ^ int.from_bytes(folded[over:])).to_bytes(half)
            size = half
    step, high = _STEPS[0], 0
    for byte in folded[:-1]:
        high = step[high ^ byte]
    return _TABLE[high ^ folded[-1]]


def frame(segment: bytes) -> bytes:
    """A segment with start, length, CRC and end. Raises `ValueError` beyond 9,999 bytes."""
    if len(segment) > 9999:
        raise ValueError("a segment has at most 9,999 bytes")
    return b"##%04d%b%04X\r\n" % (len(segment), segment, crc(segment))


def command(number: int, *, qn: bytes, st: bytes, mn: bytes, password: bytes = b"", flag: int = 5,
            values: bytes = b"") -> bytes:
    """A command of the centre, such as 1012 (set the clock), 1062 (real-time interval), 3012 (sample now), with its
    `values` (`RtdInterval=30`). Flag 5 asks for an answer, by the 2017 edition."""
    return frame(b"QN=%b;ST=%b;CN=%d;PW=%b;MN=%b;Flag=%d;CP=&&%b&&" % (qn, st, number, password, mn, flag, values))


def _fields(segment: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """The fields before CP, and what stands between its `&&`."""
    head, _, rest = segment.partition(b"CP=&&")
    fields = {}
    for part in head.split(b";"):
        name, _, value = part.partition(b"=")
        fields[name] = value
    return fields, rest.removesuffix(b"&&")


def _without_password(raw: bytes) -> bytes:
    """The same number of bytes with stars for the password."""
    return PASSWORD.sub(lambda found: b"PW=" + b"*" * len(found[1]), raw)


class Session:
    """The frames of one connection, and the first parts of messages in several packets."""

    def __init__(self) -> None:
        self.skipped = 0
        self._rest = b""
        self._firsts: dict[tuple[bytes, bytes], bytes] = {}

    @property
    def unfinished(self) -> int:
        return len(self._rest)

    def feed(self, data: bytes) -> list[Message | Broken]:
        if self._rest:
            data = self._rest + data
        out: list[Message | Broken] = []
        at, length = 0, len(data)
        while True:
            start = data.find(START, at)
            if start < 0:
                keep = 1 if length > at and data[-1] == 35 else 0
                self.skipped += length - at - keep
                at = length - keep
                break
            self.skipped += start - at
            at = start
            digits = data[at + 2 : at + 6]
            if not digits.isdigit() and digits:
                if digits[:1] == b"#" or len(digits) == 4 or not digits.rstrip(b"#").isdigit():
                    self.skipped += 1
                    at += 1
                    continue
                break
            if len(digits) < 4:
                break
            end = at + AROUND + int(digits)
            if end > length:
                break
            segment, check, tail = data[at + 6 : end - 6], data[end - 6 : end - 2], data[end - 2 : end]
            refusal = None
            if tail != END:
                refusal = Refusal("length", "长度与内容不符", "the length does not lead to CR LF", "length", int(digits))
            else:
                try:
                    right = int(check, 16) == crc(segment)
                except ValueError:
                    right = False
                if not right:
                    refusal = Refusal("checksum", "CRC 校验错误", "wrong CRC", "CRC", check.decode("ascii", "replace"))
            if refusal is not None:
                another = data.find(START, at + 2, end + 1)
                stop = end if another < 0 else another
                out.append(Broken(_without_password(data[at:stop]), refusal))
                at = stop
                continue
            out.append(self._message(data[at:end], segment))
            at = end
        self._rest = data[at:]
        return out

    def _message(self, raw: bytes, segment: bytes) -> Message | Broken:
        fields, values = _fields(segment)
        get = fields.get
        try:
            number = int(get(b"CN", b""))
            flag = int(get(b"Flag") or b"0")
            identity = fields[b"MN"]
        except (KeyError, ValueError):
            return Broken(_without_password(raw), Refusal(
                "header", "缺少 CN 或 MN，或 Flag 不是数", "no CN or MN, or Flag is no number", "CN"
            ))
        password = get(b"PW", b"")
        raw = raw.replace(b"PW=" + password, b"PW=" + b"*" * len(password), 1)
        if flag & 2 and get(b"PNO") and number in STAMPED:
            raw = self._part(raw, fields, values)
        return Message(identity, number, raw, (fields, number, flag), credential=password)

    def _part(self, raw: bytes, fields: dict[bytes, bytes], values: bytes) -> bytes:
        """A packet of several. One that does not repeat DataTime is kept together with the first, which has it."""
        key = fields.get(b"MN", b""), fields.get(b"QN", b"")
        if b"DataTime=" in values:
            if fields[b"PNO"].lstrip(b"0") == b"1":
                self._firsts[key] = raw
                if len(self._firsts) > HELD_PARTS:
                    del self._firsts[next(iter(self._firsts))]
            return raw
        return self._firsts.get(key, b"") + raw

    def accept(self, message: Message, now: int) -> bytes:
        fields, number, flag = message.receipt
        if not flag & 1 or number in ANSWERS:
            return b""
        return self._answer(fields, NOTICE_ANSWER if number in NOTICES else DATA_ANSWER, flag, b"")

    def refuse(self, message: Message, why: str) -> bytes:
        fields, number, flag = message.receipt
        if not flag & 1 or number in ANSWERS:
            return b""
        return self._answer(fields, REQUEST_ANSWER, flag, b"QnRtn=4" if why == UNKNOWN else b"QnRtn=3")

    @staticmethod
    def _answer(fields: dict[bytes, bytes], number: int, flag: int, values: bytes) -> bytes:
        """An answer carries the request's QN and its edition (the upper bits of Flag), and system 91 (table 5)."""
        return command(number, qn=fields.get(b"QN", b""), st=b"91", mn=fields[b"MN"],
                       password=fields.get(b"PW", b""), flag=flag & 0xFC, values=values)


def _text(raw: bytes) -> str:
    for encoding in ("ascii", "utf-8", "gb18030"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


class Hj212:
    """The codec."""

    name = "hj212"
    idle = 7200.0
    first = 600.0
    passwords = True

    def session(self) -> Session:
        return Session()

    def identity(self, text: str) -> bytes:
        """An MN: 24 letters and digits by the 2017 edition (6.3.3), 14 by that of 2005; other lengths occur."""
        if not re.fullmatch(r"[A-Za-z0-9]{1,27}", text):
            raise Invalid("MN 应为字母与数字，2017 版 24 位", "an MN is letters and digits, 24 by the 2017 edition",
                          field="identity", value=text, rule="HJ 212-2017 6.3.3")
        return text.encode()

    def identify(self, raw: bytes) -> bytes:
        return _fields(raw[6:])[0].get(b"MN", b"")

    def masked(self, raw: bytes) -> bytes:
        return _without_password(raw)

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        samples: list[Sample] = []
        refusals: list[Refusal] = []
        at, observed = 0, 0
        while at < len(raw):
            size = raw[at + 2 : at + 6]
            fields, body = _fields(raw[at + 6 : at + 6 + int(size)]) if size.isdigit() else ({}, b"")
            if not fields.get(b"CN", b"").isdigit():  # a broken frame that is sent through the door again
                refusals.append(Refusal("header", "不是帧，或缺少 CN", "not a frame, or without CN", "CN"))
                break
            at += AROUND + int(size)
            observed = self._values(fields, _text(body), observed, samples, refusals)
        return samples, refusals

    def _values(
        self, fields: dict[bytes, bytes], body: str, before: int, samples: list[Sample], refusals: list[Refusal]
    ) -> int:
        """The values of one frame; returns its DataTime, which the next of the same message may not repeat."""
        number = int(fields[b"CN"])
        span = SPANS.get(number, "")
        observed = before
        values: dict[str, float | str] = {}
        worse: dict[str, int] | None = None
        for item in body.split(";"):
            quality, begun = 0, len(values)
            for pair in item.split(","):
                name, _, value = pair.partition("=")
                if not value:
                    continue
                if name == "DataTime":
                    try:
                        observed = beijing(value)
                    except ValueError:
                        refusals.append(Refusal("time", "DataTime 不是 YYYYMMDDhhmmss", "DataTime is not YYYYMMDDhhmmss",
                                                "DataTime", value[:80]))
                        return before
                    continue
                kind = name.rpartition("-")[2]
                if kind == "Flag":
                    quality = FLAGS.get(value, UNCERTAIN)
                elif not kind.endswith(WORDS):
                    if NUMBER.fullmatch(value):
                        values[name + span] = float(value)
                        continue
                    if kind in MEASURES:
                        refusals.append(Refusal("number", "不是数", "not a number", name[:128], value[:80]))
                        continue
                values[name + span] = value
            if quality:
                worse = worse or {}
                worse.update((name, quality) for name in list(values)[begun:] if not name.endswith("Flag" + span))
        if number in STAMPED and not observed:
            refusals.append(Refusal("time", "数据没有 DataTime", "data without DataTime", "DataTime"))
            return before
        if values:
            samples.append((observed or self._sent(fields), values, worse))
        return observed

    @staticmethod
    def _sent(fields: dict[bytes, bytes]) -> int:
        try:
            return beijing(fields.get(b"QN", b"")[:14].decode("ascii", "replace"))
        except ValueError:
            return 0


codec = Hj212()
