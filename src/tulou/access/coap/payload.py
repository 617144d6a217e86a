"""What devices send over CoAP as telemetry or attributes, in each content format, and the form in which it is kept.

Law: pure. JSON is kept as it came. Another format is kept as a CoAP message (POST, its kind as Uri-Path, its
Content-Format, when it was received as Uri-Query), so that it can be read again by anything that reads CoAP; the first
byte tells the two apart, because no JSON begins with it.

CBOR says what JSON says (`telemetry.py`). Of SenML the property is the record's name without a base name that is a URN.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import orjson

from tulou.access.coap import Unreadable, senml
from tulou.access.coap.message import (
    CBOR,
    CONTENT_FORMAT,
    JSON,
    NON,
    OPAQUE,
    POST,
    SENML_CBOR,
    SENML_JSON,
    TEXT,
    URI_QUERY,
    Message,
    parse,
    path_options,
    uint,
)
from tulou.access.protocols import Method, Sample
from tulou.access.telemetry import MAX_READINGS, TELEMETRY, Refusal
from tulou.kernel.errors import Invalid

AS_JSON = frozenset({None, TEXT, OPAQUE, JSON})
"""Content formats whose payload is taken as JSON: many clients name none, or the wrong one."""
READ = frozenset({CBOR, SENML_JSON, SENML_CBOR})
KEPT = 0x40 | NON << 4
"""First byte of a kept message."""


def kept(path: list[str], content_format: int, payload: bytes, at: int, *query: str) -> bytes:
    """A payload in the form in which it is kept; `at` is when it was received, in µs."""
    options = [(CONTENT_FORMAT, uint(content_format)), *path_options(path),
               *path_options((f"at={at}", *query), URI_QUERY)]
    return Message(NON, POST, 0, b"", options, payload).encode()


def queried(message: Message, name: str) -> str:
    """The value of a kept message's query; empty if it has none. Raises `Unreadable`."""
    return next((text[len(name) + 1 :] for text in message.texts(URI_QUERY) if text.startswith(f"{name}=")), "")


def received(message: Message) -> int:
    """When a kept message was received, in µs; 0 if it does not say."""
    at = queried(message, "at")
    return int(at) if at.isdecimal() and at.isascii() and len(at) < 18 else 0


def micros(seconds: float, at: int) -> int:
    """µs since 1970 of a SenML time (4.5.3); 0, which is when it was received, for "now"."""
    if seconds >= senml.ABSOLUTE:
        return round(seconds * 1e6) if seconds < 1e12 else 1 << 62
    return at + round(seconds * 1e6) if seconds else 0


class Payloads:
    """The codec of kept messages (`protocols.Codec`)."""

    name = "coap"
    passwords = False
    methods: Mapping[str, Method] = {}

    def identity(self, text: str) -> bytes:
        raise Invalid("CoAP 设备凭令牌接入，无协议标识", "devices of CoAP have tokens and no identity", field="protocol", value="coap")

    def identify(self, raw: bytes) -> bytes:
        return b""

    def masked(self, raw: bytes) -> bytes:
        return raw

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        """The values of a kept message."""
        try:
            if raw[:1] != bytes((KEPT,)):
                return _samples(_json(raw), True)
            message = parse(raw)
            content_format = message.uint(CONTENT_FORMAT)
            if content_format == CBOR:
                return _samples(senml.plain_cbor(message.payload), message.texts(11) == [TELEMETRY])
            read = senml.from_json if content_format == SENML_JSON else senml.from_cbor
            return of_records(read(message.payload), received(message))
        except Unreadable as error:
            return [], [error.refusal]


def _json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise Unreadable("json", "不是 JSON", f"not JSON: {str(error)[:120]}") from None


def of_records(records: list[senml.Record], at: int) -> tuple[list[Sample], list[Refusal]]:
    """SenML records as samples: one for each time."""
    samples: dict[int, dict[str, float | str]] = {}
    refusals = []
    for number, record in enumerate(records):
        if record.value is None:
            refusals.append(Refusal("sum", "只有累计值或链接的记录不存", "a record of a sum or link only is not stored", f"[{number}]"))
            continue
        name = record.name
        if record.base.startswith("urn:") and name != record.base:
            name = name.removeprefix(record.base)
        samples.setdefault(micros(record.time, at), {})[name] = stored(record.value)
    if not records:
        refusals.append(Refusal("empty", "没有记录", "a pack without records"))
    return [(ts, values, None) for ts, values in samples.items()], refusals


def stored(value: senml.Value) -> float | str:
    """A value as a reading has it: bytes as base64 text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _samples(document: Any, stamped: bool) -> tuple[list[Sample], list[Refusal]]:
    """Samples of telemetry (`stamped`) or attributes that were read into plain values."""
    items = document if isinstance(document, list) and stamped else [document]
    samples: list[Sample] = []
    refusals: list[Refusal] = []
    if items == []:
        refusals.append(Refusal("empty", "列表为空", "empty list"))
    count = 0
    for number, item in enumerate(items):
        place = f"[{number}]" if items is document else ""
        ts: Any = 0
        values = item
        if stamped and isinstance(item, dict) and "ts" in item and "values" in item:
            ts, values = item["ts"], item["values"]
        if type(ts) is not int or abs(ts) > 1 << 52:
            refusals.append(Refusal("ts", "ts 不是整数毫秒", "ts is not whole milliseconds", f"{place}ts"))
        elif not isinstance(values, dict) or not values:
            refusals.append(Refusal("object", "内容不是有内容的对象", "the payload is not an object that holds something", place))
        elif not all(isinstance(name, str) for name in values):
            refusals.append(Refusal("name", "属性名须为文本", "property names are texts", place))
        else:
            count += len(values)
            samples.append((ts * 1000 or (1 if values is not item else 0), {k: _value(v) for k, v in values.items()}, None))
    if count > MAX_READINGS:
        return [], [Refusal("count", f"一条消息的读数超过 {MAX_READINGS} 个",
                            f"more than {MAX_READINGS} readings in one message", "", count)]
    return samples, refusals


def _value(value: Any) -> Any:
    """A plain value; bytes within it as base64 text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _value(item) for key, item in value.items()}
    return value


codec = Payloads()
