"""HJ 212-2017, data transmission of online monitoring systems for pollution discharge; frames of HJ/T 212-2005 too.

Law: pure. `##`, four digits of length, the segment, four hexadecimal digits of CRC (annex A), CR LF (6.3). A data
command is answered with 9014, a notice with 9013, only if bit A of Flag asks for it (6.3.3). What is kept of a frame
has stars for its password, so its CRC no longer fits.

A value keeps the name it has in the frame, `w01018-Rtd`; those of minutes, hours and days (CN 2051, 2061, 2031), whose
times coincide, are told apart by `-minute`, `-hour`, `-day`. Times are Beijing time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

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


_STEPS = [bytes(high >> 8 for high in CRC_16)]
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
    return CRC_16[high ^ folded[-1]]


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
        self._peers: dict[bytes, tuple[bytes, bytes, int]] = {}
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
        remember(self._peers, identity, (get(b"ST", b""), password, flag & 0xFC), HELD_PEERS)
        raw = raw.replace(b"PW=" + password, b"PW=" + b"*" * len(password), 1)
        if flag & 2 and get(b"PNO") and number in STAMPED:
            raw = self._part(raw, fields, values)
        reply = self._reply(number, get(b"QN", b""), values) if self._asked else None
        return Message(identity, number, raw, (fields, number, flag), credential=password, reply=reply)

    def command(self, identity: bytes, method: str, params: Any, now: int) -> tuple[bytes, bytes]:
        """The password is that which the device itself sends."""
        self._qn = max(self._qn + 1, now // 1000)
        at = datetime.fromtimestamp(self._qn / 1000, BEIJING)
        qn = at.strftime("%Y%m%d%H%M%S").encode() + b"%03d" % (self._qn % 1000)
        if isinstance(params, Other):
            number, values = params.cn, params.values
        else:
            number, values = COMMANDS[method][0], params.model_dump(by_alias=True, exclude_none=True)
        st, password, edition = self._peers[identity]
        text = ";".join(f"{name}={value}" for name, value in values.items()).encode("gb18030")
        remember(self._asked, qn, {}, HELD_PARTS)
        return command(number, qn=qn, st=st, mn=identity, password=password, flag=edition | 1, values=text), qn

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

    def _part(self, raw: bytes, fields: dict[bytes, bytes], values: bytes) -> bytes:
        """A packet of several. One that does not repeat DataTime is kept together with the first, which has it."""
        key = fields.get(b"MN", b""), fields.get(b"QN", b"")
        if b"DataTime=" in values:
            if fields[b"PNO"].lstrip(b"0") == b"1":
                remember(self._firsts, key, raw, HELD_PARTS)
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
        return self._answer(fields, REQUEST_ANSWER, flag, REFUSED_AS[why])

    @staticmethod
    def _answer(fields: dict[bytes, bytes], number: int, flag: int, values: bytes) -> bytes:
        """An answer carries the request's QN and its edition (the upper bits of Flag), and system 91 (table 5)."""
        return command(number, qn=fields.get(b"QN", b""), st=b"91", mn=fields[b"MN"],
                       password=fields.get(b"PW", b""), flag=flag & 0xFC, values=values)


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
        if number in ANSWERS:
            return before
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
