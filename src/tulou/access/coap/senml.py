"""SenML (RFC 8428), JSON (110) and CBOR (112) representations.

Law: pure. A pack is read into resolved records (4.6: base fields are applied), or refused whole with one `Unreadable`.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cbor2
import orjson

from tulou.access.coap import Unreadable

VERSION = 10
"""The version of RFC 8428 (4.4)."""
ABSOLUTE = 1 << 28
"""Times from here on are seconds since 1970; smaller ones are relative to now (4.5.3)."""
RECORDS = 10_000
DEPTH = 16
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9:./_-]*")
"""What a resolved name may be (4.5.1)."""
LABELS = {-1: "bver", -2: "bn", -3: "bt", -4: "bu", -5: "bv", -6: "bs", 0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb",
          5: "s", 6: "t", 7: "ut", 8: "vd"}
"""CBOR labels (table 4)."""
NUMBERS = ("bver", "bt", "bv", "bs", "v", "s", "t", "ut")
VALUES = ("v", "vs", "vb", "vd")
BASE = frozenset({"bn", "bt", "bu", "bv", "bs", "bver"})
TAGS = (*range(6), 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
"""CBOR tags for which the decoder would do more than read."""

Value = float | bool | str | bytes


@dataclass(slots=True, frozen=True)
class Record:
    """A resolved record. `time` is seconds: since 1970 from `ABSOLUTE` on, else relative to now. `value` is None where
    only a sum was given. `base` is the base name that was in force."""

    name: str
    value: Value | None
    time: float = 0.0
    unit: str = ""
    base: str = ""
    link: str = ""


def plain_cbor(raw: bytes) -> Any:
    """CBOR (RFC 8949) as JSON's values and byte strings, without tags. Raises `Unreadable`."""
    try:
        found = cbor2.loads(raw, max_depth=DEPTH, allow_duplicate_keys=False, tag_hook=_tag, semantic_decoders=dict.fromkeys(TAGS, _tag))
        _plain(found, DEPTH)
    except Unreadable:
        raise
    except Exception as error:  # the decoder has no single root for what foreign bytes make it raise
        raise Unreadable("cbor", "不是可读的 CBOR", f"not CBOR: {str(error)[:120]}") from None
    return found


def _tag(*_: Any) -> Any:
    raise Unreadable("cbor-tag", "CBOR 标签不支持", "CBOR tags are not taken")


def _plain(value: Any, depth: int) -> None:
    kind = type(value)
    if kind in (float, bool, str, bytes) or value is None:
        return
    if kind is int and -(1 << 64) <= value < 1 << 64:
        return
    if depth and kind is list:
        for item in value:
            _plain(item, depth - 1)
        return
    if depth and kind is dict:
        for key, item in value.items():
            if type(key) not in (str, int):
                raise Unreadable("cbor-key", "CBOR 映射键须为文本或整数", "CBOR map keys are text or integers")
            _plain(item, depth - 1)
        return
    raise Unreadable("cbor", "CBOR 值类型不支持", f"CBOR values of type {kind.__name__} are not taken, nor deep nesting")


def from_json(raw: bytes) -> list[Record]:
    """Read a pack in JSON (section 5). Raises `Unreadable`."""
    try:
        pack = orjson.loads(raw)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise Unreadable("json", "不是 JSON", f"not JSON: {str(error)[:120]}") from None
    return _resolve(pack)


def from_cbor(raw: bytes) -> list[Record]:
    """Read a pack in CBOR (section 6). Raises `Unreadable`."""
    pack = plain_cbor(raw)
    if isinstance(pack, list):
        pack = [
            {LABELS.get(key, key) if isinstance(key, int) else key: value for key, value in item.items()}
            if isinstance(item, dict) else item for item in pack
        ]
    return _resolve(pack)


def _resolve(pack: Any) -> list[Record]:
    if not isinstance(pack, list) or not pack:
        raise Unreadable("pack", "SenML 须为非空数组", "SenML is an array that is not empty (section 5)")
    if len(pack) > RECORDS:
        raise Unreadable("count", f"超过 {RECORDS} 条记录", f"more than {RECORDS} records", "", len(pack))
    base: dict[str, Any] = {"bn": "", "bt": 0.0, "bu": ""}
    records = []
    for number, item in enumerate(pack):
        place = f"[{number}]"
        if not isinstance(item, dict):
            raise Unreadable("record", "记录不是对象", "a record is not an object", place)
        for key, value in item.items():
            _check(key, value, place)
        base.update({key: item[key] for key in ("bn", "bt", "bu", "bv") if key in item})
        if item.get("bver", VERSION) > VERSION:
            raise Unreadable("version", f"SenML 版本高于 {VERSION}", f"SenML version above {VERSION} (4.4)",
                             f"{place}.bver", item["bver"])
        given = [key for key in VALUES if key in item]
        link = item.get("vlo", "")
        if len(given) > 1:
            raise Unreadable("value", "一条记录只能有一个值", "a record has one value (4.2)", place)
        if not given and "s" not in item and not link:
            if BASE.issuperset(item):
                continue
            if "bv" not in base:
                raise Unreadable("value", "记录没有值", "a record without value or sum (4.2)", place)
        name = base["bn"] + item.get("n", "")
        time = base["bt"] + item.get("t", 0.0)
        if not math.isfinite(time):
            raise Unreadable("time", "时间不是有限数", "a time that is not finite", f"{place}.t")
        said: Value | None = None
        if given:
            said = item[given[0]]
            if given[0] == "v":
                said = float(item["v"]) + float(base.get("bv", 0.0))
            elif given[0] == "vd" and isinstance(said, str):
                said = _bytes(said, place)
        elif "s" not in item and not link:
            said = float(base["bv"])
        records.append(Record(_named(name, place), said, float(time), item.get("u", base["bu"]), base["bn"], link))
    return records


def _named(name: str, place: str) -> str:
    if not NAME.fullmatch(name) and not name.startswith("/"):
        raise Unreadable("name", "名称字符不合规则", "a name is letters, digits and -:./_ and begins with a letter or digit (4.5.1)",
                         f"{place}.n", name[:80])
    return name


def _check(key: Any, value: Any, place: str) -> None:
    """Whether a field has its type (table 2), and is understood where it must be (4.4)."""
    if isinstance(key, int):
        return
    if key in NUMBERS:
        right = type(value) in (int, float)
    elif key in ("bn", "n", "u", "bu", "vs", "vlo"):
        right = isinstance(value, str)
    elif key == "vb":
        right = isinstance(value, bool)
    elif key == "vd":
        right = isinstance(value, str | bytes)
    elif key.endswith("_"):
        raise Unreadable("understood", "必须理解的字段未知", "a field that must be understood is not known (4.4)", f"{place}.{key[:40]}")
    else:
        return
    if not right:
        raise Unreadable("kind", "字段类型有误", "a field has the wrong type (table 2)", f"{place}.{key}")


def _bytes(text: str, place: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise Unreadable("base64", "vd 不是 base64url", "vd is not base64url", f"{place}.vd") from None


def _documents(records: Iterable[Record], cbor: bool) -> list[dict[str, Any]]:
    out = []
    for record in records:
        document: dict[str, Any] = {"n": record.name}
        if record.unit:
            document["u"] = record.unit
        value = record.value
        if record.link:
            document["vlo"] = record.link
        elif isinstance(value, bool):
            document["vb"] = value
        elif isinstance(value, str):
            document["vs"] = value
        elif isinstance(value, bytes):
            document["vd"] = value if cbor else base64.urlsafe_b64encode(value).rstrip(b"=").decode()
        elif value is not None:
            whole = isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53
            document["v"] = int(value) if whole else value
        if record.time:
            document["t"] = record.time
        out.append(document)
    return out


def to_json(records: Iterable[Record]) -> bytes:
    """Records as a pack in JSON."""
    return orjson.dumps(_documents(records, False))


def to_cbor(records: Iterable[Record]) -> bytes:
    """Records as a pack in CBOR."""
    label = {name: number for number, name in LABELS.items()}
    packed: bytes = cbor2.dumps([
        {label.get(key, key): value for key, value in document.items()} for document in _documents(records, True)
    ])
    return packed
