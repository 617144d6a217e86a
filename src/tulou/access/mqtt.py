"""MQTT 3.1.1 and 5.0 packets: an incremental parser of what clients send, and encoders of what a server sends.

Law: pure; bytes in, packets out, no I/O and no clock. Whatever the bytes are, the parser gives packets and at most
one `ProtocolError`, which names the normative statement that was broken: of the OASIS standard MQTT 3.1.1
(2014-10-29), or of MQTT 5.0 (2019-03-07) where the rule begins with "5.0". Properties of 5.0 are checked; kept are
those that a field below names.

PUBLISH packets come as runs: consecutive packets with the same first byte and topic share one `Publish` object, so
that a busy connection costs a few list appends a message. Within a run the bytes before the packet id (first byte,
length, topic) are looked up whole: what was parsed once with the same bytes need not be parsed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

SIZE_LIMIT = 268_435_455
"""Largest remaining length that the four length bytes can say (2.2.3)."""


class ProtocolError(Exception):
    """The peer broke the rule `rule` ("MQTT-3.3.1-4", or a clause such as "2.2.3"); the connection must close, and a
    client of 5.0 is told `reason`."""

    def __init__(self, rule: str, message: str, reason: int = 0x82) -> None:
        super().__init__(f"[{rule}] {message}")
        self.rule = rule
        self.reason = reason


@dataclass(slots=True)
class Properties:
    """Of a PUBLISH or a will (5.0, 3.3.2.3): `kept`, the bytes of those that are passed on unaltered and in order
    (payload format, content type, response topic, correlation data, user properties); the message expiry in seconds;
    the topic alias."""

    kept: bytes = b""
    expiry: int | None = None
    alias: int | None = None


@dataclass(slots=True)
class Will:
    """The message that a client leaves for the case that it vanishes; `delay` in seconds."""

    topic: bytes
    payload: bytes
    qos: int
    retain: bool
    delay: int = 0
    properties: Properties | None = None


@dataclass(slots=True)
class Connect:
    """CONNECT. When `level` is neither 4 nor 5 the rest is not read: the answer is return code 1 (MQTT-3.1.2-2).
    From `expiry` on what only 5.0 has (3.1.2.11); a `packet_limit` of 0 is none."""

    level: int
    client_id: str = ""
    clean: bool = True
    keep_alive: int = 0
    will: Will | None = None
    user: str | None = None
    password: bytes | None = None
    expiry: int = 0
    receive_maximum: int = 65_535
    packet_limit: int = 0
    alias_maximum: int = 0
    problems: bool = True
    method: str = ""


@dataclass(slots=True)
class Publish:
    """A run of PUBLISH packets with the same flags and topic; `ids` holds the two raw bytes of each packet id
    (nothing for QoS 0), parallel to `payloads`. `properties` are by index, of those packets that have any; an empty
    topic stands for an alias."""

    topic: bytes
    qos: int
    dup: bool
    retain: bool
    ids: list[bytes]
    payloads: list[bytes]
    properties: dict[int, Properties] | None = None


@dataclass(slots=True)
class Ack:
    """PUBACK, PUBREC, PUBREL or PUBCOMP from the client: `kind` is the packet type 4..7."""

    kind: int
    id: bytes
    reason: int = 0


@dataclass(slots=True)
class Subscribe:
    """SUBSCRIBE: topic filters with their options byte (QoS in the two lowest bits; 5.0, 3.8.3.1), and the
    subscription identifier, 0 without one."""

    id: bytes
    filters: list[tuple[str, int]]
    identifier: int = 0


@dataclass(slots=True)
class Unsubscribe:
    """UNSUBSCRIBE."""

    id: bytes
    filters: list[str]


@dataclass(slots=True)
class PingRequest:
    """PINGREQ."""


@dataclass(slots=True)
class Disconnect:
    """DISCONNECT: the client leaves in order, and takes its will back unless it says otherwise (5.0, 3.14.2.1).
    `expiry` is the session expiry that it asks for now, in seconds."""

    with_will: bool = False
    expiry: int | None = None


Packet: TypeAlias = Connect | Publish | Ack | Subscribe | Unsubscribe | PingRequest | Disconnect

_NAMES = {
    1: "CONNECT", 2: "CONNACK", 3: "PUBLISH", 4: "PUBACK", 5: "PUBREC", 6: "PUBREL", 7: "PUBCOMP", 8: "SUBSCRIBE",
    9: "SUBACK", 10: "UNSUBSCRIBE", 11: "UNSUBACK", 12: "PINGREQ", 13: "PINGRESP", 14: "DISCONNECT",
}

_WILL = 16
_PROPERTIES: dict[int, tuple[str, frozenset[int]]] = {
    0x01: ("byte", frozenset({3, _WILL})), 0x02: ("four", frozenset({3, _WILL})),
    0x03: ("text", frozenset({3, _WILL})), 0x08: ("text", frozenset({3, _WILL})),
    0x09: ("data", frozenset({3, _WILL})), 0x0B: ("length", frozenset({8})), 0x11: ("four", frozenset({1, 14})),
    0x15: ("text", frozenset({1})), 0x16: ("data", frozenset({1})), 0x17: ("byte", frozenset({1})),
    0x18: ("four", frozenset({_WILL})), 0x19: ("byte", frozenset({1})),
    0x1F: ("text", frozenset({4, 5, 6, 7, 14})), 0x21: ("two", frozenset({1})), 0x22: ("two", frozenset({1})),
    0x23: ("two", frozenset({3})),
    0x26: ("pair", frozenset({1, 3, 4, 5, 6, 7, 8, 10, 14, _WILL})), 0x27: ("four", frozenset({1})),
}
"""Property -> its data type and the packets that a client may put it in (5.0, 2.2.2.2)."""
_KEPT = frozenset({0x01, 0x03, 0x08, 0x09, 0x26})
_FLAGS, _POSITIVE = frozenset({0x01, 0x17, 0x19}), frozenset({0x0B, 0x21, 0x27})


_SIZES: dict[tuple[int, bytes, int], dict[bytes, int]] = {}
"""(first byte, topic field, limit) -> the bytes before the packet id -> size of the packet. Bounded; only PUBLISH of
3.1.1 with a packet id and a remaining length of two bytes."""


def _sizes(head: int, topic: bytes, limit: int) -> dict[bytes, int]:
    if len(_SIZES) >= 16:
        _SIZES.clear()
    return _SIZES.setdefault((head, topic, limit), {})


class Parser:
    """Parses the byte stream of one client, in pieces of any size.

    `limit` bounds the remaining length of a packet in bytes (at least 127), `connect_limit` that of CONNECT.
    Memory held is at most one packet.
    """

    __slots__ = ("_connected", "_dead", "_five", "_head", "_limit", "_need", "_rest", "_topic")

    def __init__(self, limit: int = 1 << 20, connect_limit: int = 1 << 14) -> None:
        self._limit = max(connect_limit, 127) | (max(limit, 127) << 32)
        self._rest: bytearray | None = None
        self._need = 0
        self._connected = False
        self._dead = False
        self._five = False
        self._head = -1
        self._topic = b""

    def feed(self, data: bytes) -> list[Packet | ProtocolError]:
        """The packets completed by `data`; the last item is a `ProtocolError` if a rule was broken, and from then
        on nothing is parsed."""
        if self._dead:
            return []
        rest = self._rest
        if rest is not None:
            rest += data
            if len(rest) < self._need:
                return []
            data = bytes(rest)
            self._rest = None
        out: list[Packet | ProtocolError] = []
        try:
            at = self._parse(data, out)
        except ProtocolError as error:
            self._dead = True
            out.append(error)
            return out
        if at < len(data):
            self._rest = bytearray(data[at:] if at else data)
        return out

    def _parse(self, data: bytes, out: list[Packet | ProtocolError]) -> int:
        """Append the packets of `data` to `out`; returns where the first incomplete one begins."""
        limit = self._limit >> 32 if self._connected else self._limit & 0xFFFFFFFF
        head_known, topic_known = self._head, self._topic
        topic_size = len(topic_known)
        five = self._five
        starts = data.startswith
        run: Publish | None = None
        at, length = 0, len(data)
        while length - at > 1:
            head = data[at]
            size = data[at + 1]
            body = at + 2
            if size > 127:
                if length - at < 3:
                    self._check_head(head)
                    self._need = 3
                    return at
                more = data[at + 2]
                size = size & 127 | (more & 127) << 7
                body = at + 3
                if more > 127:
                    shift = 14
                    while True:
                        if shift > 21:
                            self._check_head(head)
                            raise ProtocolError("2.2.3", "remaining length of more than four bytes")
                        if body >= length:
                            self._check_head(head)
                            self._need = body + 1 - at
                            return at
                        more = data[body]
                        body += 1
                        size |= (more & 127) << shift
                        if more < 128:
                            break
                        shift += 7
                if size > limit:
                    self._check_head(head)
                    raise ProtocolError("2.2.3", f"packet of {size} bytes; the limit here is {limit}", 0x95)
            end = body + size
            if end > length:
                self._check_head(head)
                self._need = end - at
                return at
            if head == head_known and starts(topic_known, body):
                payload = body + topic_size
                if head & 6:
                    packet_id = data[payload : payload + 2]
                    payload += 2
                if payload > end:
                    raise ProtocolError("3.3.2", "PUBLISH ends within its topic name or packet id")
                properties = None
                if five:
                    if payload < end and not data[payload]:
                        payload += 1
                    else:
                        fields = _Fields(data[payload:end], "PUBLISH")
                        values = fields.properties(3)
                        payload += fields.at
                        properties = Properties(fields.kept, values.get(0x02), values.get(0x23))
                    if topic_size == 2 and (properties is None or properties.alias is None):
                        raise ProtocolError("5.0 MQTT-3.3.2-8", "empty topic name without a topic alias")
                if run is None:
                    run = Publish(topic_known[2:], head >> 1 & 3, head & 8 != 0, head & 1 != 0, [], [])
                    ids, payloads = run.ids, run.payloads
                    out.append(run)
                if head & 6:
                    if packet_id == b"\0\0":
                        raise ProtocolError("MQTT-2.3.1-1", "PUBLISH with packet id 0")
                    ids.append(packet_id)
                if properties is not None:
                    if run.properties is None:
                        run.properties = {}
                    run.properties[len(payloads)] = properties
                payloads.append(data[payload:end])
                if not head & 6 or five:
                    at = end
                    continue
                sizes = _SIZES.get((head, topic_known, limit)) or _sizes(head, topic_known, limit)
                prefix = topic_size + 3
                if body - at == 3 and len(sizes) < 512:
                    sizes[data[at : at + prefix]] = end - at
                at = end
                known, add_id, add_payload = sizes.get, ids.append, payloads.append
                while True:
                    packet_size = known(data[at : at + prefix])
                    if packet_size is None or at + packet_size > length:
                        break
                    payload = at + prefix
                    packet_id = data[payload : payload + 2]
                    if packet_id == b"\0\0":
                        raise ProtocolError("MQTT-2.3.1-1", "PUBLISH with packet id 0")
                    add_id(packet_id)
                    at += packet_size
                    add_payload(data[payload + 2 : at])
                continue
            run = None
            if head & 0xF0 == 0x30:
                self._check_head(head)
                topic_known = self._publish_topic(data, body, end, five)
                topic_size = len(topic_known)
                head_known = head
                self._head, self._topic = head_known, topic_known
                continue  # the same packet again, now on the short way
            self._check_head(head)
            packet = _packet(head >> 4, data[body:end], five)
            out.append(packet)
            if isinstance(packet, Connect):
                self._connected = True
                five = self._five = packet.level == 5
                limit = self._limit >> 32
            at = end
        if at < length:
            self._need = 2
            self._check_head(data[at])
        return at

    def _check_head(self, head: int) -> None:
        """Refuse a first byte that no client may send now (2.2.1, 2.2.2)."""
        kind, flags = head >> 4, head & 15
        if not self._connected:
            if kind != 1:
                raise ProtocolError("MQTT-3.1.0-1", f"{_NAMES.get(kind, kind)} before CONNECT")
        elif kind == 1:
            raise ProtocolError("MQTT-3.1.0-2", "second CONNECT")
        if kind == 3:
            if flags & 6 == 6:
                raise ProtocolError("MQTT-3.3.1-4", "PUBLISH with QoS 3")
            if flags & 14 == 8:
                raise ProtocolError("MQTT-3.3.1-2", "PUBLISH with DUP and QoS 0")
        elif kind in (2, 9, 11, 13, 0, 15):
            raise ProtocolError("2.2.1", f"packet type {kind} ({_NAMES.get(kind, 'reserved')}) from a client")
        elif flags != (2 if kind in (6, 8, 10) else 0):
            rule = {6: "MQTT-3.6.1-1", 8: "MQTT-3.8.1-1", 10: "MQTT-3.10.1-1", 14: "MQTT-3.14.1-1"}
            raise ProtocolError(rule.get(kind, "MQTT-2.2.2-2"), f"{_NAMES[kind]} with flags {flags}")

    @staticmethod
    def _publish_topic(data: bytes, body: int, end: int, five: bool) -> bytes:
        """The topic field of a PUBLISH, with its two length bytes, checked (3.3.2.1, 4.7)."""
        topic_end = body + 2 + int.from_bytes(data[body : body + 2])
        if end - body < 2 or topic_end > end:
            raise ProtocolError("3.3.2", "PUBLISH ends within its topic name")
        topic = data[body + 2 : topic_end]
        _text(topic, "topic name")
        if not topic and not five:
            raise ProtocolError("MQTT-4.7.3-1", "empty topic name")
        if b"+" in topic or b"#" in topic:
            raise ProtocolError("MQTT-3.3.2-2", "wildcard in a topic name")
        return data[body:topic_end]


def _text(raw: bytes, what: str) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ProtocolError("MQTT-1.5.3-1", f"{what} is not UTF-8") from None
    if "\0" in text:
        raise ProtocolError("MQTT-1.5.3-2", f"{what} contains U+0000")
    return text


class _Fields:
    """Reads the fields of one packet body."""

    def __init__(self, body: bytes, name: str) -> None:
        self.body, self.name, self.at = body, name, 0
        self.kept = b""

    def take(self, size: int) -> bytes:
        piece = self.body[self.at : self.at + size]
        if len(piece) < size:
            raise ProtocolError("2.2.3", f"{self.name} ends too early")
        self.at += size
        return piece

    def data(self) -> bytes:
        return self.take(int.from_bytes(self.take(2)))

    def text(self, what: str) -> str:
        return _text(self.data(), what)

    def packet_id(self) -> bytes:
        packet_id = self.take(2)
        if packet_id == b"\0\0":
            raise ProtocolError("MQTT-2.3.1-1", f"{self.name} with packet id 0")
        return packet_id

    @property
    def left(self) -> int:
        return len(self.body) - self.at

    def length(self) -> int:
        """A variable byte integer (5.0, 1.5.5)."""
        value = 0
        for shift in (0, 7, 14, 21):
            digit = self.take(1)[0]
            value |= (digit & 127) << shift
            if digit < 128:
                return value
        raise ProtocolError("5.0 MQTT-1.5.5-1", f"variable byte integer of more than four bytes in {self.name}")

    def properties(self, kind: int) -> dict[int, Any]:
        """The properties of a packet of this type, less user properties (5.0, 2.2.2); `kept` has the bytes of those that
        are passed on."""
        fields = _Fields(self.take(self.length()), f"properties of {self.name}")
        values: dict[int, Any] = {}
        while fields.left:
            start = fields.at
            number = fields.length()
            form, where = _PROPERTIES.get(number, ("", frozenset()))
            if kind not in where:
                raise ProtocolError("5.0 2.2.2.2", f"property {number:#x} in {self.name}")
            if number in values:
                raise ProtocolError("5.0 2.2.2.2", f"property {number:#x} twice in {self.name}")
            if form == "text":
                values[number] = fields.text("property")
            elif form == "data":
                values[number] = fields.data()
            elif form == "pair":
                fields.text("user property")
                fields.text("user property")
            elif form == "length":
                values[number] = fields.length()
            else:
                values[number] = int.from_bytes(fields.take({"byte": 1, "two": 2, "four": 4}[form]))
            value: Any = values.get(number)
            if (number in _FLAGS and value > 1) or (number in _POSITIVE and not value):
                raise ProtocolError("5.0 2.2.2.2", f"property {number:#x} of {self.name} is {value}")
            if number == 0x08 and ("+" in value or "#" in value or not value):
                raise ProtocolError("5.0 MQTT-3.3.2-14", "wildcard in a response topic")
            if number in _KEPT:
                self.kept += fields.body[start : fields.at]
        return values

    def end(self) -> None:
        if self.left:
            raise ProtocolError("2.2.3", f"{self.name} has {self.left} bytes too many")


def _packet(kind: int, body: bytes, five: bool) -> Packet:
    fields = _Fields(body, _NAMES[kind])
    if kind == 1:
        return _connect(fields)
    if kind in (4, 5, 6, 7):
        packet_id = fields.packet_id()
        return Ack(kind, packet_id, _reason(fields, kind, five)[0])
    if kind == 8:
        packet_id = fields.packet_id()
        identifier = fields.properties(kind).get(0x0B, 0) if five else 0
        wanted: list[tuple[str, int]] = []
        while fields.left:
            topic = _topic_filter(fields)
            options = fields.take(1)[0]
            if options > 2 and not (five and options < 64 and options & 3 < 3 and options & 48 < 48):
                raise ProtocolError("MQTT-3.8.3-4", f"SUBSCRIBE with options byte {options}")
            if options & 4 and topic.startswith("$share/"):
                raise ProtocolError("5.0 MQTT-3.8.3-4", "no-local in a shared subscription")
            wanted.append((topic, options))
        if not wanted:
            raise ProtocolError("MQTT-3.8.3-3", "SUBSCRIBE without a topic filter")
        return Subscribe(packet_id, wanted, identifier)
    if kind == 10:
        packet_id = fields.packet_id()
        if five:
            fields.properties(kind)
        unwanted: list[str] = []
        while fields.left:
            unwanted.append(_topic_filter(fields))
        if not unwanted:
            raise ProtocolError("MQTT-3.10.3-2", "UNSUBSCRIBE without a topic filter")
        return Unsubscribe(packet_id, unwanted)
    if kind == 12:
        fields.end()
        return PingRequest()
    reason, values = _reason(fields, kind, five)
    return Disconnect(reason == 4, values.get(0x11))


def _reason(fields: _Fields, kind: int, five: bool) -> tuple[int, dict[int, Any]]:
    """The reason code and properties that 5.0 allows at the end of a packet; 0 where there are none."""
    reason, values = 0, {}
    if five and fields.left:
        reason = fields.take(1)[0]
        if fields.left:
            values = fields.properties(kind)
    fields.end()
    return reason, values


def _topic_filter(fields: _Fields) -> str:
    topic = fields.text("topic filter")
    if not topic:
        raise ProtocolError("MQTT-4.7.3-1", "empty topic filter")
    levels = topic.split("/")
    for number, level in enumerate(levels, 1):
        if "#" in level and (level != "#" or number != len(levels)):
            raise ProtocolError("MQTT-4.7.1-2", "'#' that is not the whole last level of a topic filter")
        if "+" in level and level != "+":
            raise ProtocolError("MQTT-4.7.1-3", "'+' that is not a whole level of a topic filter")
    return topic


def _connect(fields: _Fields) -> Connect:
    name = fields.data()
    level = fields.take(1)[0]
    if name != b"MQTT":
        if name == b"MQIsdp":
            return Connect(3)
        raise ProtocolError("MQTT-3.1.2-1", "protocol name is not MQTT")
    if level not in (4, 5):
        return Connect(level)
    five = level == 5
    flags = fields.take(1)[0]
    if flags & 1:
        raise ProtocolError("MQTT-3.1.2-3", "reserved connect flag is set")
    qos = flags >> 3 & 3
    if flags & 4:
        if qos == 3:
            raise ProtocolError("MQTT-3.1.2-14", "will with QoS 3")
    elif qos or flags & 32:
        raise ProtocolError("MQTT-3.1.2-13" if qos else "MQTT-3.1.2-15", "will QoS or will retain without a will")
    if flags & 64 and not flags & 128 and not five:
        raise ProtocolError("MQTT-3.1.2-22", "password without a user name")
    keep_alive = int.from_bytes(fields.take(2))
    values = fields.properties(1) if five else {}
    if 0x16 in values and 0x15 not in values:
        raise ProtocolError("5.0 3.1.2.11.10", "authentication data without a method")
    connect = Connect(
        level, fields.text("client id"), flags & 2 != 0, keep_alive, expiry=values.get(0x11, 0),
        receive_maximum=values.get(0x21, 65_535), packet_limit=values.get(0x27, 0),
        alias_maximum=values.get(0x22, 0), problems=values.get(0x17, 1) == 1, method=values.get(0x15, ""),
    )
    if flags & 4:
        fields.kept = b""
        left = fields.properties(_WILL) if five else {}
        topic = fields.data()
        _text(topic, "will topic")
        if not topic:
            raise ProtocolError("MQTT-4.7.3-1", "empty will topic")
        if b"+" in topic or b"#" in topic:
            raise ProtocolError("MQTT-4.7.1-1", "wildcard in a will topic")
        connect.will = Will(topic, fields.data(), qos, flags & 32 != 0, left.get(0x18, 0))
        if fields.kept or 0x02 in left:
            connect.will.properties = Properties(fields.kept, left.get(0x02))
    if flags & 128:
        connect.user = fields.text("user name")
    if flags & 64:
        connect.password = fields.data()
    fields.end()
    return connect


# What a server sends ----------------------------------------------------------------------------------------------

ACCEPTED, BAD_LEVEL, BAD_CLIENT_ID, UNAVAILABLE, BAD_USER, NOT_AUTHORISED = range(6)
"""Return codes of CONNACK (table 3.1)."""
_CONNACK_5 = (0x00, 0x84, 0x85, 0x88, 0x86, 0x87)
PROTOCOL_ERROR, SHUTTING_DOWN, KEEP_ALIVE, TAKEN_OVER, ADMINISTRATIVE = 0x82, 0x8B, 0x8D, 0x8E, 0x98
"""Reason codes of DISCONNECT (5.0, table 3-13)."""
NO_SUBSCRIPTION, UNSPECIFIED, SERVER_UNAVAILABLE, NOT_ALLOWED, BAD_METHOD = 0x11, 0x80, 0x88, 0x87, 0x8C
BAD_FILTER, BAD_TOPIC, ID_NOT_FOUND, OVER_RECEIVE_MAXIMUM, BAD_ALIAS, QUOTA = 0x8F, 0x90, 0x92, 0x93, 0x94, 0x97
"""Further reason codes (5.0, table 2-6)."""
PINGRESP = b"\xd0\x00"


def length(size: int) -> bytes:
    """The remaining length `size` in one to four bytes (2.2.3). Raises `ValueError` beyond `SIZE_LIMIT`."""
    if not 0 <= size <= SIZE_LIMIT:
        raise ValueError(f"remaining length {size} is outside 0..{SIZE_LIMIT}")
    out = bytearray()
    while True:
        size, digit = size >> 7, size & 127
        out.append(digit | 128 if size else digit)
        if not size:
            return bytes(out)


def connack(code: int, level: int = 4, *, client_id: str = "", packet_limit: int = 0) -> bytes:
    """CONNACK without a session. For 5.0 an accepted client learns what is not offered, the largest packet, and the
    client id if one was made for it (5.0, 3.2.2.3)."""
    if level != 5:
        return bytes((0x20, 2, 0, code))
    properties = b""
    if code == ACCEPTED:
        properties = b"\x11\0\0\0\0" + b"\x29\0" + b"\x2a\0"
        if packet_limit:
            properties += b"\x27" + packet_limit.to_bytes(4)
        if client_id:
            properties += b"\x12" + _field(client_id.encode())
    body = bytes((0, _CONNACK_5[code])) + length(len(properties)) + properties
    return b"\x20" + length(len(body)) + body


def welcome(level: int, present: bool, *, expiry: int | None = None, receive_maximum: int = 65_535, packet_limit: int = 0,
            client_id: str = "", keep_alive: int | None = None, alias_maximum: int = 0) -> bytes:
    """CONNACK of a session that is kept: everything is offered (5.0, 3.2.2.3). What differs from what the client asked
    for is told: the session `expiry`, the client id that was made for it, its keep alive."""
    if level != 5:
        return bytes((0x20, 2, present, 0))
    properties = b"\x21" + receive_maximum.to_bytes(2) + b"\x27" + packet_limit.to_bytes(4)
    if expiry is not None:
        properties += b"\x11" + expiry.to_bytes(4)
    if client_id:
        properties += b"\x12" + _field(client_id.encode())
    if keep_alive is not None:
        properties += b"\x13" + keep_alive.to_bytes(2)
    if alias_maximum:
        properties += b"\x22" + alias_maximum.to_bytes(2)
    body = bytes((present, 0)) + length(len(properties)) + properties
    return b"\x20" + length(len(body)) + body


def refusal(reason: int, why: str = "") -> bytes:
    """CONNACK of 5.0 with a reason code and a reason string."""
    body = bytes((0, reason)) + _why(why)
    return b"\x20" + length(len(body)) + body


def _why(text: str) -> bytes:
    """Properties with a reason string, or none."""
    raw = text.encode()[:1000].decode("utf-8", "ignore").encode()
    properties = b"\x1f" + _field(raw) if raw else b""
    return length(len(properties)) + properties


def acknowledgement(kind: int, packet_id: bytes, reason: int, why: str = "") -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP (packet type 4..7) of 5.0 with a reason code and a reason string."""
    body = packet_id + bytes((reason,)) + (_why(why) if why else b"")
    return bytes((kind << 4 | (2 if kind == 6 else 0),)) + length(len(body)) + body


def pubacks(ids: list[bytes]) -> bytes:
    """One PUBACK after another for the raw packet ids."""
    return b"\x40\x02" + b"\x40\x02".join(ids) if ids else b""


def pubrecs(ids: list[bytes]) -> bytes:
    """One PUBREC after another for the raw packet ids."""
    return b"\x50\x02" + b"\x50\x02".join(ids) if ids else b""


def pubrel(packet_id: bytes) -> bytes:
    """PUBREL."""
    return b"\x62\x02" + packet_id


def pubcomp(packet_id: bytes) -> bytes:
    """PUBCOMP."""
    return b"\x70\x02" + packet_id


def suback(packet_id: bytes, codes: list[int], level: int = 4) -> bytes:
    """SUBACK; a code is the QoS granted or a reason of 0x80 and above, of which 3.1.1 has only 0x80."""
    if level == 5:
        packet_id += b"\0"
    else:
        codes = [min(code, 0x80) for code in codes]
    return b"\x90" + length(len(packet_id) + len(codes)) + packet_id + bytes(codes)


def unsuback(packet_id: bytes, codes: Sequence[int] = (0,), level: int = 4) -> bytes:
    """UNSUBACK; only 5.0 has codes, one a filter."""
    body = packet_id + b"\0" + bytes(codes) if level == 5 else packet_id
    return b"\xb0" + length(len(body)) + body


def disconnect(reason: int, why: str = "") -> bytes:
    """DISCONNECT from the server, which only 5.0 has."""
    body = bytes((reason,)) + (_why(why) if why else b"")
    return b"\xe0" + length(len(body)) + body


def publish(topic: bytes, payload: bytes, qos: int = 0, packet_id: bytes = b"", *, dup: bool = False,
            retain: bool = False, level: int = 4, properties: bytes = b"") -> bytes:
    """PUBLISH; `packet_id` is two bytes for QoS 1 and 2, and empty for QoS 0. `properties` are for 5.0."""
    if level == 5:
        packet_id += (length(len(properties)) + properties) if properties else b"\0"
    body = len(topic).to_bytes(2) + topic + packet_id + payload
    return bytes((0x30 | dup << 3 | qos << 1 | retain,)) + length(len(body)) + body


# What a client sends: for load generators and tests -----------------------------------------------------------------

def connect(client_id: str, user: str | None = None, *, password: bytes | None = None, keep_alive: int = 0,
            clean: bool = True, will: Will | None = None, level: int = 4, properties: bytes = b"") -> bytes:
    """CONNECT; `properties` are for 5.0."""
    flags = clean << 1
    body = (length(len(properties)) + properties if level == 5 else b"") + _field(client_id.encode())
    if will:
        flags |= 4 | will.qos << 3 | will.retain << 5
        if level == 5:
            left = b"\x18" + will.delay.to_bytes(4) if will.delay else b""
            body += length(len(left)) + left
        body += _field(will.topic) + _field(will.payload)
    if user is not None:
        flags |= 128
        body += _field(user.encode())
    if password is not None:
        flags |= 64
        body += _field(password)
    body = b"\x00\x04MQTT" + bytes((level, flags)) + keep_alive.to_bytes(2) + body
    return b"\x10" + length(len(body)) + body


def subscribe(packet_id: bytes, filters: list[tuple[str, int]], level: int = 4) -> bytes:
    """SUBSCRIBE."""
    body = packet_id + (b"\0" if level == 5 else b"") + b"".join(_field(topic.encode()) + bytes((qos,)) for topic, qos in filters)
    return b"\x82" + length(len(body)) + body


def _field(raw: bytes) -> bytes:
    return len(raw).to_bytes(2) + raw
