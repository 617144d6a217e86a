"""What is kept of a data change notification of OPC UA, and its values.

Law: pure. The binary notification names its values by handles that one connection made up, so what is kept says what they
stood for. It is a line of JSON, `{"changes": [[property, node, type, value, status, source, server, scale], ...]}`: the
built-in type of part 6 (5.1.2) by its name; the value as JSON (bytes as base64, times as ISO 8601, texts of several
languages as their text, what is no number of JSON as `nan`, `inf`, `-inf`); the status code as a number; both timestamps in
µs since the epoch, 0 without one.

The severity of the status code (part 4, 7.39: its two highest bits) is the quality: good, uncertain, bad. The time is the
source's, else the server's, else that of receipt. Numbers are multiplied by `scale`; booleans are 0 and 1; arrays are the
text of JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson
from pydantic import Field

from tulou.access.batch import BAD, GOOD, UNCERTAIN
from tulou.access.protocols import Method, Sample
from tulou.access.protocols.params import Params, labelled
from tulou.access.telemetry import EARLIEST_MS, NAN, Refusal
from tulou.kernel.errors import Invalid

NUMBERS = frozenset({
    "Boolean", "SByte", "Byte", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float", "Double", "StatusCode",
})
TEXTS = frozenset({
    "String", "DateTime", "Guid", "ByteString", "XmlElement", "NodeId", "ExpandedNodeId", "QualifiedName", "LocalizedText",
})
OVERFLOW = 0x480
"""Bits of a status code: the server's queue of this item was full, and values were dropped (part 4, 7.39.1)."""


class Change(NamedTuple):
    """A value of a node, as it is kept."""

    property: str
    node: str
    type: str
    value: Any
    status: int
    source: int
    server: int
    scale: float


def sealed(changes: Iterable[Change]) -> bytes:
    """What is kept of changes."""
    return orjson.dumps({"changes": [list(change) for change in changes]}, option=orjson.OPT_NON_STR_KEYS)


class Write(Params):
    """A value for a variable; it is converted to the node's own type."""

    node: str = labelled("节点", "node", min_length=3, max_length=512, description="ns=2;s=Setpoint")
    value: Any = labelled("值", "value")


class Call(Params):
    """A method of an object."""

    object: str = labelled("对象节点", "object", min_length=3, max_length=512)
    method: str = labelled("方法节点", "method", min_length=3, max_length=512)
    arguments: list[Any] = Field(
        default_factory=list, max_length=50, title="参数", json_schema_extra={"title_en": "arguments"}
    )


class OpcUa:
    """The codec (`protocols.Codec`)."""

    name = "opcua"
    passwords = False
    methods: Mapping[str, Method] = {
        "write": Method("写入变量", "write a variable", Write), "call": Method("调用方法", "call a method", Call),
    }

    def identity(self, text: str) -> bytes:
        raise Invalid(
            "OPC UA 服务器由平台连接，设备无需标识（见 tulou device opcua）",
            "servers of OPC UA are connected to by the house; they have no identity (see tulou device opcua)",
            field="protocol", value="opcua", rule="a protocol whose devices speak by themselves",
        )

    def identify(self, raw: bytes) -> bytes:
        return b""

    def masked(self, raw: bytes) -> bytes:
        return raw

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        try:
            changes = [Change(*change) for change in orjson.loads(raw)["changes"]]
        except (orjson.JSONDecodeError, TypeError, KeyError):
            return [], [Refusal("kept", "不是保留的数据变化", "not data changes that were kept")]
        samples: dict[int, list[tuple[dict[str, float | str], dict[str, int]]]] = {}
        refusals: list[Refusal] = []
        for change in changes:
            try:
                value = _value(change)
                quality, at = _quality(change), _time(change)
                name = str(change.property)
            except (TypeError, ValueError, OverflowError):
                refusals.append(Refusal("value", f"无法读取 {change.type} 类型的值", f"a value of type {change.type} cannot be read",
                                        str(change.property), str(change.node)))
                continue
            same = samples.setdefault(at, [])
            if not same or name in same[-1][0]:
                same.append(({}, {}))
            values, worse = same[-1]
            values[name] = value
            if quality != GOOD:
                worse[name] = quality
        return [(at, values, worse or None) for at, same in samples.items() for values, worse in same], refusals


def _value(change: Change) -> float | str:
    """Raises what it must for a value that is none."""
    value = change.value
    if value is None:
        return NAN
    if isinstance(value, list | dict):
        if change.type not in NUMBERS | TEXTS | {"Variant"}:
            raise ValueError(change.type)
        return orjson.dumps(value).decode()
    if change.type in NUMBERS:
        return float(value) * change.scale
    if change.type in TEXTS and isinstance(value, str):
        return value
    raise ValueError(change.type)


def _quality(change: Change) -> int:
    if change.value is None or (change.value == "nan" and change.type in NUMBERS):
        return BAD
    return (GOOD, UNCERTAIN, BAD, BAD)[change.status >> 30 & 3]


def _time(change: Change) -> int:
    """µs; a server's clock that says a time before 2000 says none."""
    return next((at for at in (change.source, change.server) if isinstance(at, int) and at >= EARLIEST_MS * 1000), 0)


codec = OpcUa()
