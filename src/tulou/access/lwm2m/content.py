"""What a path's payload says, in every content format of LwM2M 1.0 (6.4) and 1.1 (7.4), and the way back.

Law: pure. Formats: plain text (0), opaque (42), CBOR (60), TLV (11542), LwM2M JSON (11543), SenML JSON (110) and CBOR
(112). A value's type is the registry's; TLV values without one stay bytes.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import cbor2
import orjson

from tulou.access.coap import Unreadable, senml
from tulou.access.coap import message as m
from tulou.access.lwm2m import objects, tlv

Path = tuple[int, ...]
Value = float | bool | str | bytes

FORMATS = frozenset({m.TEXT, m.OPAQUE, m.CBOR, m.TLV, m.LWM2M_JSON, m.SENML_JSON, m.SENML_CBOR})
STORABLE = re.compile(r"/?\d{1,5}(/\d{1,5}){0,3}", re.ASCII)


LINK = re.compile(r"\d{1,5}:\d{1,5}", re.ASCII)
BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


@dataclass(slots=True, frozen=True)
class Node:
    """A resource's (or a resource instance's) value. `time` is as in SenML: 0 for now."""

    path: Path
    value: Value
    time: float = 0.0


def path_of(text: str, field: str = "path") -> Path:
    """`/3303/0/5700` as numbers; the root is empty. Raises `Unreadable`."""
    if text in ("", "/"):
        return ()
    if not STORABLE.fullmatch(text):
        raise Unreadable("path", "路径应为 对象/实例/资源", "a path is object/instance/resource, in numbers", field, text[:80])
    path = tuple(int(part) for part in text.strip("/").split("/"))
    if max(path) > 0xFFFF:
        raise Unreadable("path", "编号超过 65535", "an id is above 65535", field, text[:80])
    return path


def text_of(path: Path) -> str:
    """As people and property names write it: 3303/0/5700."""
    return "/".join(map(str, path))


def decode(base: Path, content_format: int | None, raw: bytes) -> list[Node]:
    """The values that the payload says of `base` and what is below it. Raises `Unreadable`."""
    if content_format == m.TLV:
        return _from_tlv(base, tlv.decode(raw))
    if content_format == m.LWM2M_JSON:
        return _from_json(base, raw)
    if content_format in (m.SENML_JSON, m.SENML_CBOR):
        read = senml.from_json if content_format == m.SENML_JSON else senml.from_cbor
        return [_of_record(record) for record in read(raw) if record.value is not None or record.link]
    if len(base) < 3:
        raise Unreadable("format", "此格式只用于单个资源", "this content format is for a single resource (6.4)", "Content-Format", content_format)
    if content_format in (None, m.TEXT):
        return [Node(base, _from_text(base, raw))]
    if content_format == m.OPAQUE:
        return [Node(base, raw)]
    if content_format == m.CBOR:
        return [Node(base, _scalar(senml.plain_cbor(raw), text_of(base)))]
    raise Unreadable("format", "不支持的内容格式", "content format not read", "Content-Format", content_format)


def _of_record(record: senml.Record) -> Node:
    path = path_of(record.name, "n")
    if len(path) < 3:
        raise Unreadable("path", "名称须为资源路径", "a record names a resource", "n", record.name[:80])
    return Node(path, record.link if record.value is None else record.value, record.time)


def _scalar(value: Any, field: str) -> Value:
    if type(value) in (int, float, bool, str, bytes):
        scalar: Value = value
        return scalar
    raise Unreadable("kind", "不是单个值", "not a single value", field)


def _from_text(path: Path, raw: bytes) -> Value:
    """Plain text (6.4.1): numbers in decimal, booleans 0 or 1, opaque values in base64, times in seconds."""
    kind = _kind(path)
    try:
        text = raw.decode()
        if kind == objects.FLOAT:
            value = float(text)
            if math.isfinite(value):
                return value
            raise ValueError
        if kind in (objects.INTEGER, objects.UNSIGNED, objects.TIME):
            number = int(text) if len(text) <= 20 else None
            if number is None or not -(1 << 63) <= number < 1 << 64:
                raise ValueError
            return number
        if kind == objects.BOOLEAN:
            return {"0": False, "1": True}[text]
        if kind == objects.OPAQUE:
            return base64.b64decode(text, validate=True)
    except (ValueError, KeyError):
        raise Unreadable("text", "文本不是该类型的值", f"the text is no value of the type {kind}", text_of(path), raw[:40].decode("utf-8", "replace")) from None
    return text


def _kind(path: Path) -> str:
    known = objects.resource(path)
    return known.type if known is not None else ""


# TLV


def _from_tlv(base: Path, entries: tuple[tlv.Entry, ...]) -> list[Node]:
    nodes: list[Node] = []
    for entry in entries:
        if entry.kind == tlv.INSTANCE:
            path: Path = (base[0] if base else 0, entry.id)
            if not base or (len(base) > 1 and base[1] != entry.id):
                raise Unreadable("path", "实例不在所问路径下", "an instance that is not below what was asked", text_of(path))
            assert isinstance(entry.value, tuple)
            nodes += _from_tlv(path, entry.value)
        elif entry.kind == tlv.RESOURCE_INSTANCE:
            if len(base) < 3:
                raise Unreadable("path", "资源实例没有资源", "a resource instance without resource", text_of(base))
            nodes.append(_of_bytes((*base[:3], entry.id), entry.value))
        else:
            if len(base) < 2 or (len(base) > 2 and base[2] != entry.id):
                raise Unreadable("path", "资源不在所问路径下", "a resource that is not below what was asked", text_of((*base, entry.id)))
            path = (*base[:2], entry.id)
            if entry.kind == tlv.RESOURCE:
                nodes.append(_of_bytes(path, entry.value))
            else:
                assert isinstance(entry.value, tuple)
                nodes += [_of_bytes((*path, one.id), one.value) for one in entry.value]
    return nodes


def _of_bytes(path: Path, raw: bytes | tuple[tlv.Entry, ...]) -> Node:
    """A value of TLV by the resource's type (V1_0, appendix C)."""
    assert isinstance(raw, bytes)
    kind, size = _kind(path), len(raw)
    try:
        if kind in (objects.INTEGER, objects.TIME):
            if size not in (1, 2, 4, 8):
                raise ValueError
            return Node(path, int.from_bytes(raw, signed=True))
        if kind == objects.UNSIGNED:
            if size not in (1, 2, 4, 8):
                raise ValueError
            return Node(path, int.from_bytes(raw))
        if kind == objects.FLOAT:
            return Node(path, struct.unpack({4: ">f", 8: ">d"}[size], raw)[0])
        if kind == objects.BOOLEAN:
            return Node(path, {b"\0": False, b"\1": True}[raw])
        if kind in (objects.STRING, objects.CORE_LINK):
            return Node(path, raw.decode())
        if kind == objects.OBJECT_LINK:
            if size != 4:
                raise ValueError
            return Node(path, f"{int.from_bytes(raw[:2])}:{int.from_bytes(raw[2:])}")
    except (ValueError, KeyError):
        raise Unreadable("tlv", "值的字节不是该类型", f"the bytes are no value of the type {kind}", text_of(path), raw[:16].hex()) from None
    return Node(path, raw)


def to_tlv(path: Path, value: Any) -> tlv.Entry:
    """A resource's value as an entry. Raises `Unreadable` if it is not of the resource's type."""
    return tlv.Entry(tlv.RESOURCE, path[2], _to_bytes(path, value))


def _to_bytes(path: Path, said: Any) -> bytes:
    value = typed(path, said)
    kind = _kind(path)
    if isinstance(value, bool):
        return b"\1" if value else b"\0"
    if kind == objects.UNSIGNED:
        number = int(value)
        return number.to_bytes(next(size for size in (1, 2, 4, 8) if number < 1 << 8 * size))
    if isinstance(value, int):
        return value.to_bytes(next(size for size in (1, 2, 4, 8) if -1 << 8 * size - 1 <= value < 1 << 8 * size - 1), signed=True)
    if isinstance(value, float):
        return struct.pack(">d", value)
    if isinstance(value, bytes):
        return value
    if kind == objects.OBJECT_LINK:
        first, _, second = value.partition(":")
        return int(first).to_bytes(2) + int(second).to_bytes(2)
    return value.encode()


def typed(path: Path, value: Any) -> Value:
    """The value as the resource's type takes it; opaque ones are base64 text. Raises `Unreadable`."""
    kind = _kind(path)
    if not _fits(kind, value):
        raise Unreadable("kind", "值不是该资源的类型", f"the value is not of the resource's type {kind or '(unknown)'}", text_of(path), str(value)[:40])
    if kind == objects.OPAQUE:
        return base64.b64decode(value)
    right: Value = float(value) if kind == objects.FLOAT else value
    return right


def _fits(kind: str, value: Any) -> bool:
    whole = type(value) is int
    match kind:
        case objects.FLOAT:
            return (whole and abs(value) < 1 << 64) or (type(value) is float and math.isfinite(value))
        case objects.INTEGER | objects.TIME:
            return whole and -(1 << 63) <= value < 1 << 63
        case objects.UNSIGNED:
            return whole and 0 <= value < 1 << 64
        case objects.BOOLEAN:
            return type(value) is bool
        case objects.STRING | objects.CORE_LINK:
            return type(value) is str
        case objects.OBJECT_LINK:
            return type(value) is str and bool(LINK.fullmatch(value)) and max(map(int, value.split(":"))) <= 0xFFFF
        case objects.OPAQUE:
            return type(value) is str and bool(BASE64.fullmatch(value)) and len(value) % 4 == 0
    return type(value) in (str, bool) or (whole and abs(value) < 1 << 63) or (type(value) is float and math.isfinite(value))


def encode(path: Path, value: Any, content_format: int) -> bytes:
    """A resource's value, or an instance's (an object of resource ids and values), to write. Raises `Unreadable`."""
    resources: dict[Path, Any]
    if len(path) == 2 and isinstance(value, dict) and value:
        resources = {(*path, *path_of(str(key), "value")): one for key, one in value.items()}
    elif len(path) >= 3 and not isinstance(value, dict | list):
        resources = {path: value}
    else:
        raise Unreadable("path", "可写资源，或以对象写实例", "a resource can be written, or an instance with an object", "path", text_of(path))
    if any(len(one) < 3 for one in resources):
        raise Unreadable("path", "资源编号有误", "resource ids are numbers", "value")
    if content_format == m.TLV:
        if len(path) == 4:
            return tlv.encode([tlv.Entry(tlv.RESOURCE_INSTANCE, path[3], _to_bytes(path, value))])
        return tlv.encode([to_tlv(one, said) for one, said in resources.items()])
    records = [_record(one, typed(one, said)) for one, said in resources.items()]
    if content_format == m.SENML_CBOR:
        return senml.to_cbor(records)
    if content_format == m.SENML_JSON:
        return senml.to_json(records)
    if content_format == m.LWM2M_JSON:
        return _to_json(resources)
    if len(path) < 3:
        raise Unreadable("format", "此格式只用于单个资源", "this content format is for a single resource", "Content-Format", content_format)
    right = typed(path, value)
    if content_format == m.CBOR:
        packed: bytes = cbor2.dumps(right)
        return packed
    if isinstance(right, bool):
        return b"1" if right else b"0"
    if isinstance(right, bytes):
        return right if content_format == m.OPAQUE else base64.b64encode(right)
    return str(right).encode()


def _record(path: Path, value: Value) -> senml.Record:
    name = "/" + text_of(path)
    if _kind(path) == objects.OBJECT_LINK:
        return senml.Record(name, None, link=str(value))
    return senml.Record(name, value)


# LwM2M JSON (V1_0, 6.4.4)


def _from_json(base: Path, raw: bytes) -> list[Node]:
    try:
        document = orjson.loads(raw)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise Unreadable("json", "不是 JSON", f"not JSON: {str(error)[:120]}") from None
    if not isinstance(document, dict) or not isinstance(document.get("e"), list):
        raise Unreadable("json", "缺少数组 e", "the array e is missing (6.4.4)", "e")
    name, at = document.get("bn", ""), document.get("bt", 0)
    if not isinstance(name, str) or type(at) not in (int, float) or len(document["e"]) > senml.RECORDS:
        raise Unreadable("json", "bn、bt 有误，或 e 过长", "bn is a text, bt a number, and e not too long", "bn")
    nodes = []
    for number, item in enumerate(document["e"]):
        place = f"e[{number}]"
        if not isinstance(item, dict) or not isinstance(item.get("n", ""), str) or type(item.get("t", 0)) not in (int, float):
            raise Unreadable("json", "元素有误", "an item of e is not one", place)
        own = item.get("n", "")
        path = path_of(name + own if name else "/".join(filter(None, (text_of(base), own.strip("/")))), f"{place}.n")
        given = [key for key in ("v", "sv", "bv", "ov") if key in item]
        if len(path) < 3 or len(given) != 1:
            raise Unreadable("json", "元素须有资源路径与一个值", "an item has the path of a resource and one value", place)
        value = item[given[0]]
        right = {"v": type(value) in (int, float), "bv": isinstance(value, bool)}.get(given[0], isinstance(value, str))
        if not right:
            raise Unreadable("kind", "值的类型有误", "a value of the wrong type", f"{place}.{given[0]}")
        if given[0] == "sv" and _kind(path) == objects.OPAQUE:
            try:
                value = base64.b64decode(value, validate=True)
            except ValueError:
                raise Unreadable("base64", "不是 base64", "not base64", f"{place}.sv") from None
        nodes.append(Node(path, value, float(at) + float(item.get("t", 0))))
    return nodes


def _to_json(resources: dict[Path, Any]) -> bytes:
    items = []
    for path, said in resources.items():
        value = typed(path, said)
        item: dict[str, Any] = {"n": text_of(path[2:])}
        if isinstance(value, bool):
            item["bv"] = value
        elif isinstance(value, int | float):
            item["v"] = value
        elif isinstance(value, bytes):
            item["sv"] = base64.b64encode(value).decode()
        elif _kind(path) == objects.OBJECT_LINK:
            item["ov"] = value
        else:
            item["sv"] = value
        items.append(item)
    first = next(iter(resources))
    return orjson.dumps({"bn": f"/{text_of(first[:2])}/", "e": items})
