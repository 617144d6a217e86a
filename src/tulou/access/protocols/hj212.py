"""HJ 212-2017, data transmission of online monitoring systems for pollution discharge; frames of HJ/T 212-2005 too.

Law: pure. `##`, four digits of length, the segment, four hexadecimal digits of CRC (annex A), CR LF (6.3). A data
command is answered with 9014, a notice with 9013, only if bit A of Flag asks for it (6.3.3). What is kept of a frame
has stars for its password, so its CRC no longer fits.

A value keeps the name it has in the frame, `w01018-Rtd`; those of minutes, hours and days (CN 2051, 2061, 2031), whose
times coincide, are told apart by `-minute`, `-hour`, `-day`. Times are Beijing time.
"""

from __future__ import annotations

import functools
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BaseModel, Field

from tulou.access.batch import BAD, UNCERTAIN
from tulou.access.protocols import (
    ANSWERED,
    BEIJING,
    CRC_16,
    DELIVERED,
    DENIED,
    OVER_QUOTA,
    REFUSED,
    UNKNOWN,
    Broken,
    Message,
    Method,
    Reply,
    Sample,
    beijing,
    remember,
)
from tulou.access.protocols.params import NoParams, Params, labelled
from tulou.access.telemetry import Refusal
from tulou.kernel.errors import Invalid

START, END = b"##", b"\r\n"
AROUND = 12
"""Bytes of a frame beside its segment: start, length, CRC, end."""
CP = b"CP=&&"
HEADS, HEAD_BYTES = 16384, 160
"""Fields before CP that are remembered, by all connections together, and the longest."""
LAYOUTS, LAYOUT_BYTES = 1024, 1024
"""Orders of names in data that are remembered, and the longest data."""
HELD_PARTS = 64
HELD_PEERS = 4096
"""Devices of one connection whose system, password and edition are remembered."""

DATA_ANSWER, NOTICE_ANSWER, EXECUTED, REQUEST_ANSWER = 9014, 9013, 9012, 9011
NOTICES = frozenset({1013})
REFUSED_AS = {UNKNOWN: b"QnRtn=4", DENIED: b"QnRtn=3", OVER_QUOTA: b"QnRtn=2"}
"""The result of a request that is refused (table 7): wrong MN, wrong password, refused."""
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
DIGITS = re.compile(r"[0-9.eE+,-]*")
"""What numbers between commas consist of."""
PASSWORD = re.compile(rb"PW=([^;&]*)")


REQUEST_RESULTS = {
    "2": ("请求被拒绝", "refused"), "3": ("密码错误", "wrong PW"), "4": ("MN 错误", "wrong MN"), "5": ("ST 错误", "wrong ST"),
    "6": ("Flag 错误", "wrong Flag"), "7": ("QN 错误", "wrong QN"), "8": ("CN 错误", "wrong CN"), "9": ("CRC 错误", "wrong CRC"),
}
"""QnRtn of 9011 (table 6), beside 1, which is that it will be done."""
EXECUTION_RESULTS = {
    "2": ("执行失败，原因未知", "failed, it is unknown why"), "3": ("命令请求条件错误", "wrong conditions"), "4": ("通讯超时", "timeout"),
    "5": ("系统繁忙", "busy"), "6": ("系统故障", "fault"), "100": ("没有数据", "no data"),
}
"""ExeRtn of 9012 (table 7), beside 1, which is success."""


def _word(value: str) -> str:
    if not re.fullmatch(r"[^;,&=#\r\n\0]{1,256}", value):
        raise ValueError("no ; , & = # and no line end")
    return value


def _moment(value: str) -> str:
    beijing(value)
    return value


Word = Annotated[str, AfterValidator(_word)]
Moment = Annotated[str, AfterValidator(_moment)]


class Timeouts(Params):
    seconds: int = labelled("超时时间（秒）", "timeout (s)", alias="OverTime", ge=1, le=99999)
    repeats: int = labelled("重发次数", "repeats", alias="ReCount", ge=0, le=99)


class Seconds(Params):
    seconds: int = labelled("间隔（秒）", "interval (s)", alias="RtdInterval", ge=1, le=9999)


class Minutes(Params):
    minutes: int = labelled("间隔（分钟）", "interval (min)", alias="MinInterval", ge=1, le=99)


class Pollutant(Params):
    pollutant: Word | None = labelled("污染物编码", "pollutant code", default=None, alias="PolId")


class Clock(Pollutant):
    time: Moment = labelled("时间", "time", alias="SystemTime", description="YYYYMMDDhhmmss")


class Span(Params):
    begin: Moment = labelled("开始时间", "begin", alias="BeginTime", description="YYYYMMDDhhmmss")
    end: Moment = labelled("结束时间", "end", alias="EndTime", description="YYYYMMDDhhmmss")


class Sampling(Params):
    pollutant: Word = labelled("污染物编码", "pollutant code", alias="PolId")
    start: Word = labelled("开始时间", "start", alias="CstartTime", description="hhmmss")
    hours: int = labelled("周期（小时）", "cycle (h)", alias="Ctime", ge=1, le=24)


class Information(Params):
    pollutant: Word = labelled("污染物编码", "pollutant code", alias="PolId")
    information: Word = labelled("信息编码", "information code", alias="InfoId")


class Other(Params):
    """Any command of the standard, or of a maker."""

    cn: int = Field(ge=1000, le=9999)
    values: dict[Word, Word | int | float] = Field(default_factory=dict)


COMMANDS: dict[str, tuple[int, str, str, type[BaseModel]]] = {
    "set_timeouts": (1000, "设置超时时间与重发次数", "set timeout and repeats", Timeouts),
    "read_clock": (1011, "提取现场机时间", "read the clock", Pollutant),
    "set_clock": (1012, "设置现场机时间", "set the clock", Clock),
    "read_realtime_interval": (1061, "提取实时数据间隔", "read the interval of real-time data", NoParams),
    "set_realtime_interval": (1062, "设置实时数据间隔", "set the interval of real-time data", Seconds),
    "read_minute_interval": (1063, "提取分钟数据间隔", "read the interval of minute data", NoParams),
    "set_minute_interval": (1064, "设置分钟数据间隔", "set the interval of minute data", Minutes),
    "realtime": (2011, "取实时数据", "send real-time data", NoParams),
    "stop_realtime": (2012, "停止实时数据", "stop real-time data", NoParams),
    "days": (2031, "取日历史数据", "send history by day", Span),
    "minutes": (2051, "取分钟历史数据", "send history by minute", Span),
    "hours": (2061, "取小时历史数据", "send history by hour", Span),
    "calibrate": (3011, "零点与量程校准", "calibrate zero and span", Pollutant),
    "sample": (3012, "即时采样", "sample now", Pollutant),
    "clean": (3013, "启动清洗或反吹", "clean or blow back", Pollutant),
    "compare": (3014, "比对采样", "sample for comparison", Pollutant),
    "keep_sample": (3015, "超标留样", "keep a sample", NoParams),
    "set_sampling": (3016, "设置采样时间周期", "set the cycle of sampling", Sampling),
    "read_sampling": (3017, "提取采样时间周期", "read the cycle of sampling", Pollutant),
    "read_device": (3019, "提取设备唯一标识", "read the unique mark of the device", Pollutant),
    "read_information": (3020, "提取现场机信息", "read information of the device", Information),
}
"""Commands of the centre (table 9): CN, what people read, parameters."""


_STEP = bytes(high >> 8 for high in CRC_16)
"""The register's high byte after a byte, by its exclusive or with the high byte before."""


def crc(segment: bytes) -> int:
    """The CRC of annex A: register FFFF; per byte it is shifted right by eight and combined with the byte, then eight
    times shifted right, combined with A001 where a one falls out.

    As the low byte is lost each time, the next register depends on (high byte xor data byte) only, linearly; and eight
    such steps over zeros change nothing. So bytes that are a multiple of eight apart are combined first, halves of the
    text at a time; the last eight bytes of the number are what remains.
    """
    size = len(segment)
    if not size:
        return 0xFFFF
    folded = int.from_bytes(segment) ^ 0xFF << 8 * (size - 1)
    half = 32 << (size - 1 >> 3).bit_length()
    while half > 32:
        folded ^= folded >> half
        half >>= 1
    a, b, c, d, e, f, g, h = (folded & 0xFFFFFFFFFFFFFFFF).to_bytes(8)
    step = _STEP
    return CRC_16[step[step[step[step[step[step[step[a] ^ b] ^ c] ^ d] ^ e] ^ f] ^ g] ^ h]


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


@dataclass(slots=True)
class Head:
    """The fields before CP beside QN, which are the same in many frames: with bytes as they are, None for what is missing or no
    number. `kept` has stars for the password; `about` is what the device's answers say after QN and CN, before CP."""

    cn: bytes
    number: int | None
    flag: int | None
    identity: bytes | None
    password: bytes
    system: bytes
    packet: bytes
    qn: bytes | None
    kept: bytes
    about: bytes


def _number(digits: bytes) -> int | None:
    try:
        return int(digits)
    except ValueError:
        return None


def _read_head(text: bytes) -> Head:
    parts = text.split(b";")
    fields = {}
    for part in parts:
        name, _, value = part.partition(b"=")
        fields[name] = value
    get = fields.get
    cn, password, flag, identity = get(b"CN", b""), get(b"PW", b""), _number(get(b"Flag") or b"0"), get(b"MN")
    return Head(
        cn, _number(cn), flag, identity, password, get(b"ST", b""), get(b"PNO", b""), get(b"QN"),
        b";".join(b"PW=" + b"*" * (len(part) - 3) if part.startswith(b"PW=") else part for part in parts),
        b"PW=%b;MN=%b;Flag=%d" % (password, identity or b"", (flag or 0) & 0xFC),
    )


_known_head = functools.lru_cache(HEADS)(_read_head)


def _split(segment: bytes) -> tuple[bytes, Head, int, int]:
    """QN, the other fields before CP, where they begin, and where CP begins."""
    end = segment.find(CP)
    if end < 0:
        end = len(segment)
    begin = segment.find(b";", 0, end) + 1 if segment.startswith(b"QN=") else 0
    text = segment[begin:end]
    head = _known_head(text) if len(text) <= HEAD_BYTES else _read_head(text)
    return (segment[3 : begin - 1] if begin else b"") if head.qn is None else head.qn, head, begin, end


def _values(segment: bytes, end: int) -> bytes:
    """What stands between the `&&` of CP, which begins at `end`."""
    return segment[end + len(CP) :].removesuffix(b"&&")


def _without_password(raw: bytes) -> bytes:
    """The same number of bytes with stars for the password."""
    return PASSWORD.sub(lambda found: b"PW=" + b"*" * len(found[1]), raw)


class Session:
    """The frames of one connection, and the first parts of messages in several packets."""

    def __init__(self) -> None:
        self.skipped = 0
        self._rest = b""
        self._firsts: dict[tuple[bytes, bytes], bytes] = {}
        self._peers: dict[bytes, Head] = {}
        self._last: Head | None = None
        self._asked: dict[bytes, dict[str, Any]] = {}
        self._qn = 0

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
        qn, head, begin, end = _split(segment)
        number, flag, identity = head.number, head.flag, head.identity
        if number is None or flag is None or identity is None:
            return Broken(_without_password(raw), Refusal(
                "header", "缺少 CN 或 MN，或 Flag 不是数", "no CN or MN, or Flag is no number", "CN"
            ))
        if head is not self._last:
            self._last = head
            remember(self._peers, identity, head, HELD_PEERS)
        raw = raw[: 6 + begin] + head.kept + raw[6 + end :]
        if flag & 2 and head.packet and number in STAMPED:
            raw = self._part(raw, identity, qn, head.packet, segment[end:])
        reply = self._reply(number, qn, _values(segment, end)) if self._asked else None
        return Message(identity, number, raw, (qn, head), True, head.password, False, reply)

    def command(self, identity: bytes, method: str, params: Any, now: int) -> tuple[bytes, bytes]:
        """The password is that which the device itself sends."""
        self._qn = max(self._qn + 1, now // 1000)
        at = datetime.fromtimestamp(self._qn / 1000, BEIJING)
        qn = at.strftime("%Y%m%d%H%M%S").encode() + b"%03d" % (self._qn % 1000)
        if isinstance(params, Other):
            number, values = params.cn, params.values
        else:
            number, values = COMMANDS[method][0], params.model_dump(by_alias=True, exclude_none=True)
        head = self._peers[identity]
        text = ";".join(f"{name}={value}" for name, value in values.items()).encode("gb18030")
        remember(self._asked, qn, {}, HELD_PARTS)
        return command(number, qn=qn, st=head.system, mn=identity, password=head.password,
                       flag=(head.flag or 0) & 0xFC | 1, values=text), qn

    def _reply(self, number: int, qn: bytes, values: bytes) -> Reply | None:
        """What a frame says to a command: 9011 that it will be done, then data, 9012 that it was done (6.5)."""
        asked = self._asked.get(qn)
        if asked is None:
            return None
        found = {}
        for pair in _text(values).replace(";", ",").split(","):
            name, _, value = pair.partition("=")
            if value:
                found[name] = value
        if number == REQUEST_ANSWER:
            code = found.get("QnRtn", "")
            if code == "1":
                return Reply(qn, DELIVERED)
            del self._asked[qn]
            return Reply(qn, REFUSED, error=_why("QnRtn", code, REQUEST_RESULTS))
        if number in (EXECUTED, NOTICE_ANSWER):
            del self._asked[qn]
            code = found.get("ExeRtn", "1" if number == NOTICE_ANSWER else "")
            if code == "1":
                return Reply(qn, ANSWERED, asked)
            return Reply(qn, REFUSED, error=_why("ExeRtn", code, EXECUTION_RESULTS))
        if number in STAMPED:
            asked["frames"] = asked.get("frames", 0) + 1
        elif number not in ANSWERS and len(asked) < HELD_PARTS:
            asked.update(found)
        return Reply(qn, DELIVERED)

    def _part(self, raw: bytes, identity: bytes, qn: bytes, packet: bytes, values: bytes) -> bytes:
        """A packet of several. One that does not repeat DataTime is kept together with the first, which has it."""
        key = identity, qn
        if b"DataTime=" in values:
            if packet.lstrip(b"0") == b"1":
                remember(self._firsts, key, raw, HELD_PARTS)
            return raw
        return self._firsts.get(key, b"") + raw

    def accept(self, message: Message, now: int) -> bytes:
        number = message.command
        return self._answer(message, NOTICE_ANSWER if number in NOTICES else DATA_ANSWER, b"")

    def refuse(self, message: Message, why: str) -> bytes:
        return self._answer(message, REQUEST_ANSWER, REFUSED_AS[why])

    @staticmethod
    def _answer(message: Message, number: int, values: bytes) -> bytes:
        """An answer carries the request's QN and its edition (the upper bits of Flag), and system 91 (table 5)."""
        qn, head = message.receipt
        if not head.flag & 1 or message.command in ANSWERS:
            return b""
        return frame(b"QN=%b;ST=91;CN=%d;%b;CP=&&%b&&" % (qn, number, head.about, values))


def _why(name: str, code: str, known: dict[str, tuple[str, str]]) -> str:
    zh, en = known.get(code, ("未知错误", "unknown error"))
    return f"{name}={code}：{zh} ({en})"


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
    methods: Mapping[str, Method] = {
        **{name: Method(zh, en, params) for name, (_, zh, en, params) in COMMANDS.items()},
        "command": Method("其他命令", "another command", Other),
    }

    def session(self) -> Session:
        return Session()

    def identity(self, text: str) -> bytes:
        """An MN: 24 letters and digits by the 2017 edition (6.3.3), 14 by that of 2005; other lengths occur."""
        if not re.fullmatch(r"[A-Za-z0-9]{1,27}", text):
            raise Invalid("MN 应为字母与数字，2017 版 24 位", "an MN is letters and digits, 24 by the 2017 edition",
                          field="identity", value=text, rule="HJ 212-2017 6.3.3")
        return text.encode()

    def identify(self, raw: bytes) -> bytes:
        return _split(raw[6:])[1].identity or b""

    def masked(self, raw: bytes) -> bytes:
        return _without_password(raw)

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        samples: list[Sample] = []
        refusals: list[Refusal] = []
        at, observed = 0, 0
        while at < len(raw):
            digits = raw[at + 2 : at + 6]
            size = int(digits) if digits.isdigit() else 0
            segment = raw[at + 6 : at + 6 + size]
            qn, head, _, end = _split(segment)
            if not head.cn.isdigit():  # a broken frame that is sent through the door again
                refusals.append(Refusal("header", "不是帧，或缺少 CN", "not a frame, or without CN", "CN"))
                break
            at += AROUND + size
            number = int(head.cn)
            if number in ANSWERS:
                continue
            body = _values(segment, end)
            found = _read_alike(number, body, observed)
            if found is None:
                found = _read_any(number, _text(body), observed, refusals)
            observed, values, worse = found
            if values:
                samples.append((observed or _sent(qn), values, worse))
        return samples, refusals


Found = tuple[int, dict[str, float | str], dict[str, int] | None]
"""DataTime, which the next frame of the same message may not repeat, values, and the quality of those that are not good."""


def _read_any(number: int, body: str, before: int, refusals: list[Refusal]) -> Found:
    """The data of one frame, whatever they look like."""
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
                    return before, {}, None
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
        return before, {}, None
    return observed, values, worse


Pick = Callable[[list[str]], Sequence[str]]


def _pick(places: list[int]) -> Pick:
    return itemgetter(*places) if len(places) > 1 else lambda words: [words[place] for place in places]


@dataclass(slots=True)
class Layout:
    """Where values stand in data with the same names: `time` is the place of DataTime (-1 if there is none); `names` are those of the
    numbers, then of the texts; `flags` are places among the texts, with the names of the values that they are about."""

    time: int
    names: tuple[str, ...]
    numbers: Pick
    texts: Pick
    flags: tuple[tuple[int, tuple[str, ...]], ...]


@functools.lru_cache(LAYOUTS)
def _layout(span: str, marked: tuple[str, ...]) -> Layout | None:
    """The layout of data with these names, each but the first with the mark before it (`;` begins an item); None if some have none,
    or if a name is there twice."""
    names = [name[number > 0 :] for number, name in enumerate(marked)]
    if len(set(names)) < len(names) or not {",", ";"}.issuperset(name[:1] for name in marked[1:]):
        return None
    time = names.index("DataTime") if "DataTime" in names else -1
    numbers: list[int] = []
    texts: list[int] = []
    flags, flag = [], -1
    item: list[str] = []
    for place, (name, after) in enumerate(zip(names, [*marked[1:], ";"], strict=True)):
        kind = name.rpartition("-")[2]
        if place != time:
            if kind == "Flag":
                flag = len(texts)
            (texts if kind.endswith(WORDS) else numbers).append(place)
            if not name.endswith("Flag"):
                item.append(name + span)
        if after[0] == ";":
            if flag >= 0:
                flags.append((flag, tuple(item)))
            item, flag = [], -1
    return Layout(time, tuple(names[place] + span for place in numbers + texts), _pick(numbers), _pick(texts), tuple(flags))


def _read_alike(number: int, body: bytes, before: int) -> Found | None:
    """The data of one frame, by what is known of others with the same names in the same order; None if they must be read
    one by one: all that is unusual, and all that is refused."""
    if len(body) > LAYOUT_BYTES or not body.isascii():
        return None
    parts = body.decode().replace(",", "=,").replace(";", "=;").split("=")
    names, words = tuple(parts[::2]), parts[1::2]
    if body.count(b"=") != len(names):
        return None
    layout = _layout(SPANS.get(number, ""), names)
    if layout is None or "" in words:
        return None
    numbers = ",".join(layout.numbers(words))
    if not DIGITS.fullmatch(numbers):
        return None
    try:
        observed = beijing(words[layout.time]) if layout.time >= 0 else before
        measured = orjson.loads(f"[{numbers}]")  # quicker than `float`, which takes more: `+1`, `.5`
    except ValueError:
        return None
    if number in STAMPED and not observed:
        return None
    texts = layout.texts(words)
    worse: dict[str, int] | None = None
    for place, about in layout.flags:
        quality = FLAGS.get(texts[place], UNCERTAIN)
        if quality:
            worse = worse or {}
            worse.update(dict.fromkeys(about, quality))
    return observed, dict(zip(layout.names, [*array("d", measured), *texts], strict=True)), worse


def _sent(qn: bytes) -> int:
    try:
        return beijing(qn[:14].decode("ascii", "replace"))
    except ValueError:
        return 0


codec = Hj212()
