"""SIP as GB/T 28181 speaks it: a subset of RFC 3261 (messages, compact forms, folding, framing of streams).

Law: pure. A message has at most `LARGEST` bytes and `HEADERS` headers; over a stream its end is said by Content-Length and by
nothing else, so one without it, or that is no SIP, ends the stream. Header texts are bytes in disguise (latin-1), so that what
is mirrored into an answer is what came. An answer to a request has no body, and is not longer than the request but for a few
headers of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from tulou.access.coap import Unreadable

LARGEST = 65_535
"""Bytes of a message."""
HEAD, HEADERS = 16 << 10, 100
"""Bytes, and number, of its headers."""
VERSION = "SIP/2.0"
COMPACT = {
    "a": "accept-contact", "b": "referred-by", "c": "content-type", "d": "request-disposition", "e": "content-encoding",
    "f": "from", "i": "call-id", "j": "reject-contact", "k": "supported", "l": "content-length", "m": "contact",
    "o": "event", "r": "refer-to", "s": "subject", "t": "to", "u": "allow-events", "v": "via", "x": "session-expires",
}
"""RFC 3261, 7.3.3 and 20, and the registry."""
WRITTEN = {"call-id": "Call-ID", "cseq": "CSeq", "www-authenticate": "WWW-Authenticate", "x-gb-ver": "X-GB-Ver"}
REASONS = {
    100: "Trying", 200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 405: "Method Not Allowed",
    481: "Call/Transaction Does Not Exist", 486: "Busy Here", 503: "Service Unavailable",
}
KNOWN = {
    **{name.title(): name for name in COMPACT.values()}, **{text: name for name, text in WRITTEN.items()},
    **{name.title(): name for name in ("authorization", "expires", "max-forwards", "date", "user-agent", "subscription-state", "warning")},
}
"""Names as they are mostly written."""
_REQUEST = re.compile(r"([A-Z]{1,20}) (\S{1,400}) SIP/2\.0")
_STATUS = re.compile(r"SIP/2\.0 ([1-6][0-9]{2})(?: .{0,200})?")
_NAME = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]{1,64}")
_URI = re.compile(r"sips?:(?:([^@;?:\s<>]{0,128})(?::[^@\s<>]{0,64})?@)?(\[[0-9A-Fa-f:.]+\]|[^\s:;?<>@\[\]]{1,255})(?::([0-9]{1,5}))?(?:[;?]\S*)?")
_PARAM = re.compile(r';\s*([A-Za-z0-9\-.!%*_+`\'~]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^;,\s"]*))?')
_CSEQ = re.compile(r"([0-9]{1,10})\s+([A-Z]{1,20})")
START = re.compile(rb"(?:[A-Z]{1,20} [^ \r\n]{1,400} SIP/2\.0|SIP/2\.0 [1-6][0-9]{2}[^\r\n]{0,200})\r?\n")
MANDATORY = ("via", "from", "to", "call-id", "cseq")


@dataclass(slots=True)
class Uri:
    """A SIP address: user, host, port (0: none is named)."""

    user: str
    host: str
    port: int = 0


@dataclass(slots=True)
class Message:
    """A request (`method` and `uri`) or a response (`status`). Headers are (name in small letters, text), in order."""

    method: str = ""
    uri: str = ""
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def get(self, name: str) -> str:
        """The first header of a name; empty if there is none."""
        for key, text in self.headers:
            if key == name:
                return text
        return ""

    def all(self, name: str) -> list[str]:
        return [text for key, text in self.headers if key == name]

    def number(self, name: str) -> int | None:
        """A header that is a number. Raises `Unreadable`."""
        text = self.get(name)
        if not text:
            return None
        if not (text.isdecimal() and text.isascii() and len(text) <= 10):
            raise unreadable(name, text, "须为非负整数", "is a number")
        return int(text)

    @property
    def cseq(self) -> tuple[int, str]:
        """Number and method of CSeq. Raises `Unreadable`."""
        found = _CSEQ.fullmatch(self.get("cseq"))
        if found is None:
            raise unreadable("CSeq", self.get("cseq"), "须为序号与方法", "is a number and a method")
        return int(found[1]), found[2]

    @property
    def branch(self) -> str:
        """Of the topmost Via; empty if it has none."""
        return params(self.get("via").partition(",")[0]).get("branch", "")

    @property
    def sender(self) -> str:
        """The user in From. Raises `Unreadable`."""
        return address(self.get("from"), "From")[0].user

    @property
    def tag(self) -> str:
        """Of To: the dialog's end that answers."""
        return address(self.get("to"), "To")[1].get("tag", "")

    def encode(self) -> bytes:
        start = f"{self.method} {self.uri} {VERSION}" if self.method else f"{VERSION} {self.status} {REASONS.get(self.status, 'Unknown')}"
        lines = [start, *(f"{WRITTEN.get(name) or name.title()}: {text}" for name, text in self.headers if name != "content-length")]
        return "\r\n".join([*lines, f"Content-Length: {len(self.body)}", "", ""]).encode("latin-1", "replace") + self.body


def unreadable(name: str, text: str, zh: str, en: str) -> Unreadable:
    return Unreadable("sip", f"{name} {zh}", f"{name} {en} (RFC 3261)", name, text[:80])


def uri(text: str, name: str) -> Uri:
    """Raises `Unreadable`, naming the header."""
    found = _URI.fullmatch(text)
    if found is None or int(found[3] or 0) > 65535:
        raise unreadable(name, text, "须为 SIP 地址", "is a SIP address")
    return Uri(found[1] or "", found[2], int(found[3] or 0))


def address(text: str, name: str) -> tuple[Uri, dict[str, str]]:
    """The address in From, To or Contact, and its parameters. Raises `Unreadable`."""
    before, bracket, rest = text.partition("<") if not text.startswith('"') else _quoted(text)
    if bracket:
        inside, closed, after = rest.partition(">")
        if not closed:
            raise unreadable(name, text, "缺少 >", "lacks >")
        return uri(inside.strip(), name), params(after)
    plain, _, after = before.partition(";")
    return uri(plain.strip(), name), params(";" + after if after else "")


def _quoted(text: str) -> tuple[str, str, str]:
    at = 1
    while at < len(text) and text[at] != '"':
        at += 2 if text[at] == "\\" else 1
    return text[at + 1 :].partition("<") if at < len(text) else ("", "", "")


def params(text: str) -> dict[str, str]:
    """`;name=value` as names in small letters and values without quotes; the first of a name counts."""
    found: dict[str, str] = {}
    for one in _PARAM.finditer(text):
        found.setdefault(one[1].lower(), (one[2] or "").strip('"'))
    return found


def _head(head: bytes) -> Message:
    """The start line and headers. Raises `Unreadable`."""
    if len(head) > HEAD:
        raise Unreadable("length", "头部过长", "the headers are too long", "headers", len(head))
    plain = head.decode("latin-1").replace("\r\n", "\n")
    first, *lines = plain.split("\n")
    if "\r" in plain or "\0" in plain:
        raise unreadable("header", first, "含控制字符", "has control characters")
    message = Message()
    if found := _REQUEST.fullmatch(first):
        message.method, message.uri = found[1], found[2]
    elif found := _STATUS.fullmatch(first):
        message.status = int(found[1])
    else:
        raise Unreadable("start", "首行不是 SIP 请求或应答", "the first line is no request or response of SIP", "start line", first[:80])
    for line in lines:
        if line[:1] in (" ", "\t"):
            if not message.headers:
                raise unreadable("header", line, "续行之前没有头", "continues nothing")
            name, text = message.headers[-1]
            message.headers[-1] = name, f"{text} {line.strip()}"
            continue
        name, colon, text = line.partition(":")
        known = KNOWN.get(name)
        if known is None:
            known = name.rstrip(" \t").lower()
            if not colon or not _NAME.fullmatch(known):
                raise unreadable("header", line, "须为 名: 值", "is name: text")
            known = COMPACT.get(known, known)
        message.headers.append((known, text.strip()))
        if len(message.headers) > HEADERS:
            raise Unreadable("count", f"头多于 {HEADERS} 个", f"more than {HEADERS} headers", "headers")
    for name in MANDATORY:
        if not message.get(name):
            raise unreadable(name, "", "缺少", "is missing")
    if message.method and message.cseq[1] != message.method:
        raise unreadable("CSeq", message.get("cseq"), "方法与首行不同", "is of another method")
    return message


def _split(raw: bytes, start: int = 0) -> tuple[int, int]:
    """Where the headers end and the body begins; -1 if they do not end."""
    at, bare = raw.find(b"\r\n\r\n", start), raw.find(b"\n\n", start)
    if bare >= 0 and (at < 0 or bare < at):
        return bare, bare + 2
    return at, at + 4


def parse(raw: bytes) -> Message:
    """A message that is whole, as a datagram is: without Content-Length its body goes to the end. Raises `Unreadable`."""
    if len(raw) > LARGEST:
        raise Unreadable("length", "消息过长", "the message is too long", "message", len(raw))
    end, begin = _split(raw)
    if end < 0:
        raise Unreadable("end", "头部没有结束", "the headers do not end", "headers")
    message = _head(raw[:end])
    size = message.number("content-length")
    message.body = raw[begin:] if size is None else raw[begin : begin + size]
    if size is not None and len(message.body) < size:
        raise unreadable("Content-Length", str(size), "大于内容", "is more than there is")
    return message


class Framer:
    """The messages of a stream (RFC 3261, 18.3). `broken` is why no more can be read of it."""

    def __init__(self) -> None:
        self.broken: Unreadable | None = None
        self.pings = 0
        self._rest = bytearray()
        self._wanted = self._lines = 0

    @property
    def unfinished(self) -> int:
        """Bytes of a message that has begun."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[tuple[Message, bytes]]:
        """The messages that `data` completes, with their bytes."""
        found: list[tuple[Message, bytes]] = []
        rest = self._rest
        rest += data
        while self.broken is None:
            if rest.startswith((b"\r", b"\n")):  # keep-alive between messages (RFC 5626, 3.5.1)
                blank = len(rest) - len(rest.lstrip(b"\r\n"))
                self._lines += rest[:blank].count(b"\n")
                self.pings, self._lines = self.pings + self._lines // 2, self._lines % 2
                del rest[:blank]
            if len(rest) < self._wanted or not rest:
                break
            try:
                size = self._size(rest)
                if not size:
                    break
                raw = bytes(rest[:size])
                found.append((parse(raw), raw))
            except Unreadable as error:
                self.broken = error
                break
            del rest[:size]
            self._wanted = self._lines = 0
        if self.broken is not None:
            rest.clear()
        return found

    def _size(self, rest: bytearray) -> int:
        """Bytes of the first message; 0 if it is not whole. Raises `Unreadable`."""
        end, begin = _split(bytes(rest[: HEAD + 4]))
        if end < 0:
            if len(rest) > HEAD:
                raise Unreadable("length", "头部过长", "the headers are too long", "headers", len(rest))
            if (b"\n" in rest[:700] and not START.match(rest)) or (b"\n" not in rest and len(rest) > 700):
                raise Unreadable("start", "首行不是 SIP 请求或应答", "the first line is no request or response of SIP", "start line")
            return 0
        length = _head(bytes(rest[:end])).number("content-length")
        if length is None:
            raise unreadable("Content-Length", "", "在 TCP 上必须有", "is required over TCP")
        if begin + length > LARGEST:
            raise Unreadable("length", "消息过长", "the message is too long", "message", begin + length)
        self._wanted = begin + length
        return self._wanted if len(rest) >= self._wanted else 0


def answer(request: Message, status: int, source: tuple[str, int], tag: str, more: Iterable[tuple[str, str]] = ()) -> Message:
    """The response to a request that came from `source` (8.2.6), whatever its Via says (18.2.1, RFC 3581)."""
    vias = request.all("via")
    top, comma, others = vias[0].partition(",")
    top = re.sub(r";\s*(?:received|rport)\s*(?:=[^;,\s]*)?(?=[;,\s]|$)", "", top, flags=re.IGNORECASE)
    to = request.get("to")
    if "tag" not in params(to.rpartition(">")[2]) and "tag" not in params(to):
        to += f";tag={tag}"
    return Message(status=status, headers=[
        ("via", f"{top};received={source[0]};rport={source[1]}{comma}{others}"), *(("via", via) for via in vias[1:]),
        ("from", request.get("from")), ("to", to), ("call-id", request.get("call-id")), ("cseq", request.get("cseq")), *more,
    ])
