"""NGSI-LD entity representations: read normalised, concise and simplified; write those and GeoJSON.

Law: pure functions. What is read is checked completely and comes out in one form, the *stored form*: normalised,
names stored as `jsonld` says, a lone instance of an attribute as an object and several as an array of objects, no
system attributes. Everything else is made from that form.

Sources: ETSI GS CIM 009 v1.9.1 clauses 4.5.1 to 4.5.5, 4.5.18, 4.5.20 to 4.5.25, 4.6, 4.7, 4.8, 5.2.4 to 5.2.8.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from tulou.context import geo
from tulou.context.errors import BadRequestData, bad
from tulou.context.jsonld import Context, is_iri

if TYPE_CHECKING:
    from tulou.context.linked import Join

Json = dict[str, Any]

NULL = "urn:ngsi-ld:null"

VALUE_OF = {
    "Property": "value",
    "GeoProperty": "value",
    "Relationship": "object",
    "LanguageProperty": "languageMap",
    "VocabProperty": "vocab",
    "JsonProperty": "json",
    "ListProperty": "valueList",
    "ListRelationship": "objectList",
}
_KIND_OF = {
    "value": "Property",
    "object": "Relationship",
    "languageMap": "LanguageProperty",
    "vocab": "VocabProperty",
    "json": "JsonProperty",
    "valueList": "ListProperty",
    "objectList": "ListRelationship",
}
SYSTEM = frozenset({"createdAt", "modifiedAt", "deletedAt"})
_IGNORED = SYSTEM | {"instanceId"}
_OUTPUT_ONLY = frozenset({
    "previousValue", "previousObject", "previousLanguageMap", "previousVocab", "previousJson", "previousValueList",
    "previousObjectList", "entity", "entityList", "@context",
})
SEALED = frozenset({"entityIdSealed", "entityTypeSealed"})
"""Members of the Property `ngsildproof` alone (4.5.2.2)."""
MEMBERS = frozenset({
    "type", "datasetId", "observedAt", "unitCode", "objectType", "valueType", "lang", "expiresAt", "entity", "entityList",
    *_KIND_OF, *SEALED,
})
"""Members of an attribute that are not sub-attributes. `entity` and `entityList` are written already (see `linked`)."""
_NAMELESS = MEMBERS - {"vocab", "objectType", "valueType", "expiresAt", "entityTypeSealed"}
"""Members that hold no names: an instance of these alone looks the same under every context."""
_NEVER_ATTRIBUTES = frozenset({"datasetId", "instanceId", "observedAt", "unitCode", *_KIND_OF, *SEALED})
ENTITY_MEMBERS = frozenset({"id", "type", "scope", "@context", "expiresAt"})

PLACES = frozenset({"location", "observationSpace", "operationSpace"})
"""Attributes that are GeoProperties by definition (4.7.1)."""
PROOF = "ngsildproof"
_NOT_PLAIN = ENTITY_MEMBERS | SYSTEM | _NEVER_ATTRIBUTES | PLACES | {PROOF}
_COMMON = frozenset({"type", "value", "observedAt", "unitCode"})

MAX_SUB_DEPTH = 16
MAX_VALUE_DEPTH = 64
MAX_ATTRIBUTES = 5_000

_DATETIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)([.,]\d{1,9})?Z")
_SCOPE = re.compile(r"/?[^\W\d_]\w*(/[^\W\d_]\w*)*/?")
_LANG = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*|@none")


def datetime_text(text: object, field: str) -> str:
    """Check a UTC date-time with `Z` (clause 4.6.3); its digits are kept as they came. Raises `BadRequestData`."""
    found = _datetime(text) if isinstance(text, str) else None
    if found is not None:
        return found
    raise bad(
        f"{field} 应为 UTC 日期时间（如 2026-01-02T03:04:05Z）", f"{field} must be a UTC date-time with Z",
        field=field, value=text, rule="CIM 009, 4.6.3",
    )


@lru_cache(maxsize=8192)
def _datetime(text: str) -> str | None:
    match = _DATETIME.fullmatch(text)
    if match is None:
        return None
    try:
        year, month, day, hour, minute, second = (int(match.group(number)) for number in range(1, 7))
        dt.datetime(year, month, day, hour, minute, min(second, 59))
    except ValueError:
        return None
    return text.replace(",", ".") if second <= 60 else None


def micros(text: str) -> int:
    """Microseconds since the epoch of a checked date-time text."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    leap = whole.endswith(":60")
    seconds = dt.datetime.fromisoformat(whole[:-2] + "59" if leap else whole).replace(tzinfo=dt.UTC).timestamp() + leap
    return int(seconds) * 1_000_000 + (int(fraction[:6].ljust(6, "0")) if fraction else 0)


def moment(us: int) -> str:
    """The date-time text of microseconds since the epoch, in milliseconds or, where needed, microseconds."""
    text = _second(us // 1_000_000)
    fraction = us % 1_000_000
    if not fraction:
        return text + "Z"
    return f"{text}.{fraction:06d}Z" if fraction % 1000 else f"{text}.{fraction // 1000:03d}Z"


@lru_cache(maxsize=8192)
def _second(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")


# ---- reading ----------------------------------------------------------------------------------------------------


class Reader:
    """Reads what a client sent under one context.

    `nulls`: whether NGSI-LD Null (`urn:ngsi-ld:null`) is allowed, as in fragments that delete; `merging`: also inside
    values, as in fragments that are merged (clause 5.5.4). `simplified`: values are bare (clause 4.5.4), so an object
    without a `type` is a value.
    """

    __slots__ = ("context", "merging", "nulls", "simplified", "stored")

    def __init__(
        self, context: Context, *, nulls: bool = False, merging: bool = False, simplified: bool = False
    ) -> None:
        self.context = context
        self.stored = context.stored
        self.nulls = nulls or merging
        self.merging = merging
        self.simplified = simplified

    def entity(self, raw: object) -> Json:
        """A whole entity in stored form. Raises `BadRequestData` naming the member."""
        document = self.fragment(raw)
        if "id" not in document:
            raise bad("实体缺少 id", "the entity has no id", field="id", rule="CIM 009, 5.2.4")
        if "type" not in document:
            raise bad("实体缺少 type", "the entity has no type", field="type", rule="CIM 009, 5.2.4")
        return document

    def fragment(self, raw: object) -> Json:
        """An entity fragment in stored form: `id` and `type` may be missing."""
        if not isinstance(raw, dict):
            raise bad("实体应为 JSON 对象", "an entity must be a JSON object", field="entity", rule="object")
        if len(raw) > MAX_ATTRIBUTES:
            raise bad("实体的属性过多", "too many attributes", field="entity", rule=f"<= {MAX_ATTRIBUTES}")
        document: Json = {}
        known = self.context.seen
        for name, value in raw.items():
            if type(value) is dict:
                # The commonest attribute by far: a scalar with a time and a unit. It is kept as it is.
                scalar: Any = value.get("value")
                kind: Any = type(scalar)
                if (
                    kind is float or kind is int or kind is bool
                    or (kind is str and scalar != NULL and "\x00" not in scalar)
                ) and value.get("type") == "Property":
                    others = len(value) - 2
                    if others:
                        at: Any = value.get("observedAt")
                        if type(at) is str and _datetime(at) == at:
                            others -= 1
                        if others and type(value.get("unitCode")) is str:
                            others -= 1
                    if not others:
                        key = known.get(name) or self.stored(name)
                        if key not in document and key not in _NOT_PLAIN:
                            document[key] = value
                            continue
            if name == "id" or name == "@id":
                document["id"] = entity_id(value)
            elif name == "type" or name == "@type":
                document["type"] = self.types(value)
            elif name == "scope":
                document["scope"] = self.scope(value)
            elif name == "expiresAt":
                document["expiresAt"] = value if self._null(value) else datetime_text(value, "expiresAt")
            elif name == "@context" or name in SYSTEM:
                continue
            elif name in _NEVER_ATTRIBUTES and not (name in _KIND_OF and isinstance(value, dict) and value.get("type") in VALUE_OF):
                raise bad(f"{name} 不可作属性名", f"{name} cannot be an attribute", field=name, rule="CIM 009, 4.5.1")
            else:
                key = self.stored(name)
                if key in document:
                    raise bad(f"属性 {name} 重复", f"attribute {name} is given twice", field=name, rule="unique")
                document[key] = self.attribute(name, value)
                if key in PLACES or key == PROOF:
                    _defined(key, name, document[key])
        return document

    def types(self, raw: object) -> str | list[str]:
        """The `type` member: one name, or several in the order given."""
        if isinstance(raw, str):
            return self._type(raw)
        if isinstance(raw, list) and raw and len(raw) <= 100:
            names = list(dict.fromkeys(self._type(item) for item in raw))
            return names[0] if len(names) == 1 else names
        raise bad("type 应为名称或名称的数组", "type must be a name or an array of names", field="type", value=raw)

    def _type(self, raw: object) -> str:
        if not isinstance(raw, str) or raw == NULL or raw in ("id", "type"):
            raise bad("type 应为名称", "type must be a name", field="type", value=raw, rule="CIM 009, 4.6.2")
        return self.stored(raw)

    def scope(self, raw: object) -> str | list[str]:
        """The `scope` member (clause 4.18)."""
        if isinstance(raw, dict) and raw.get("type") in ("Property", None) and "value" in raw:
            raw = raw["value"]
        if self._null(raw):
            return NULL
        items = raw if isinstance(raw, list) else [raw]
        for item in items:
            if not isinstance(item, str) or len(item) > 1024 or not _SCOPE.fullmatch(item):
                raise bad("scope 应为 /a/b 形式的路径", "scope must be a path such as /a/b", field="scope", value=item)
        if not items:
            raise bad("scope 不可为空", "scope is empty", field="scope", rule="not empty")
        return raw  # type: ignore[return-value]

    def _null(self, value: object) -> bool:
        if value != NULL:
            return False
        if not self.nulls:
            raise bad("此处不可使用 urn:ngsi-ld:null", "NGSI-LD Null is not allowed here", value=NULL, rule="4.5.0")
        return True

    def attribute(self, name: str, raw: Any, depth: int = 0) -> Any:
        """An attribute: an instance, or an array of instances with distinct `datasetId`."""
        if isinstance(raw, dict):
            return self.instance(name, raw, depth)
        if isinstance(raw, list) and not self.simplified and _are_instances(raw):
            instances = [self.instance(name, item, depth) for item in raw]
            if len({item.get("datasetId") for item in instances}) < len(instances):
                raise bad(
                    f"{name} 有两个实例的 datasetId 相同", f"two instances of {name} have the same datasetId",
                    field=name, rule="CIM 009, 4.5.5",
                )
            return instances[0] if len(instances) == 1 else instances
        if raw is None:
            raise bad(f"{name} 不可为 null", f"{name} must not be null", field=name, rule="CIM 009, 4.5.2")
        if raw == NULL:
            self._null(raw)
        self._value(name, raw)
        return {"type": "Property", "value": raw}

    def instance(self, name: str, raw: Json, depth: int = 0) -> Json:
        """One instance of an attribute, normalised or concise."""
        kind: Any = raw.get("type")
        key = VALUE_OF.get(kind) if isinstance(kind, str) else None
        if key is None:
            if "@type" in raw and not self.simplified:
                return self.instance(name, {"type" if k == "@type" else k: v for k, v in raw.items()}, depth)
            if self.simplified and not (len(raw) == 1 and next(iter(raw)) in _SIMPLE_WRAPPED):
                if _is_geometry(raw) and "coordinates" in raw:
                    geo.check(raw, name)
                    return {"type": "GeoProperty", "value": raw}
                self._value(name, raw)
                return {"type": "Property", "value": raw}
            if _is_geometry(raw):
                geo.check(raw, name)
                return {"type": "GeoProperty", "value": raw}
            if kind is not None:
                raise bad(
                    f"{name}.type {str(kind)[:60]!r} 不是属性类别", f"{name}.type {str(kind)[:60]!r} is no attribute type",
                    field=f"{name}.type", value=kind, rule=", ".join(VALUE_OF),
                )
            for key, implied in _KIND_OF.items():
                if key in raw:
                    kind = implied
                    break
            else:
                raise bad(
                    f"{name} 既无 type 也无 value、object 等成员", f"{name} has neither a type nor a value or object",
                    field=name, rule="CIM 009, 4.5.1",
                )
            value = raw[key]
            if kind == "Property" and _is_geometry(value):
                kind = "GeoProperty"
        elif key not in raw:
            raise bad(f"{name} 缺少 {key}", f"{name} has no {key}", field=f"{name}.{key}", rule=f"{kind}: {key}")
        if depth > MAX_SUB_DEPTH:
            raise bad(f"{name} 的子属性嵌套过深", f"{name}: sub-attributes are nested too deeply", field=name)
        instance: Json = {"type": kind, key: self._checked(kind, name, raw[key])}
        if len(raw) > 1:
            self._members(name, kind, key, raw, instance, depth)
        return instance

    def _members(self, name: str, kind: str, key: str, raw: Json, instance: Json, depth: int) -> None:
        for member, value in raw.items():
            if member in SEALED:
                instance[member] = self._sealed(name, member, value)
                continue
            if member == key or member == "type":
                continue
            if member == "observedAt" or member == "expiresAt":
                instance[member] = value if self._null(value) else datetime_text(value, f"{name}.{member}")
            elif member == "unitCode":
                if not isinstance(value, str) or kind not in ("Property", "ListProperty"):
                    raise bad(
                        f"{name}.unitCode 应为文本，且只用于 Property", f"{name}.unitCode must be text, on a Property",
                        field=f"{name}.unitCode", value=value, rule="UN/CEFACT code",
                    )
                instance[member] = value
            elif member == "datasetId":
                if (not is_iri(value) and value != "@none") or value == NULL:
                    raise bad(
                        f"{name}.datasetId 应为 URI", f"{name}.datasetId must be a URI",
                        field=f"{name}.datasetId", value=value, rule="URI",
                    )
                if value not in ("urn:ngsi-ld:default", "@none"):
                    instance[member] = value
            elif member in ("objectType", "valueType"):
                if kind == "LanguageProperty" and member == "valueType" and value != "langString":
                    raise bad(f"{name}.valueType 应为 langString", f"{name}.valueType must be langString",
                              field=f"{name}.valueType", value=value, rule="CIM 009, 5.2.32")
                instance[member] = value if self._null(value) else self.types(value)
            elif member == "lang":
                instance[member] = value
            elif member in _KIND_OF:
                raise bad(
                    f"{name} 是 {kind}，不应有 {member}", f"{name} is a {kind} and cannot have {member}",
                    field=f"{name}.{member}", rule=f"{kind}: {key}",
                )
            elif member in _OUTPUT_ONLY:
                raise bad(f"{name} 不可含 {member}", f"{name} cannot have {member}", field=f"{name}.{member}",
                          rule="CIM 009, 4.5.2")
            elif member not in _IGNORED:
                stored = self.stored(member)
                instance[stored] = self.attribute(f"{name}.{member}", value, depth + 1)

    def _sealed(self, name: str, member: str, value: Any) -> Any:
        """What a proof was made of (4.5.2.2): the entity's id, or its types."""
        if self.stored(name) != PROOF:
            raise bad(f"{member} 只用于 {PROOF}", f"{member} belongs to {PROOF} alone", field=f"{name}.{member}",
                      rule="CIM 009, 4.5.2.2")
        return entity_id(value) if member == "entityIdSealed" else self.types(value)

    def _value(self, name: str, value: Any, *, null: bool = False) -> None:
        """Refuse values that the stores cannot hold (nested too deeply, text with U+0000), and Null inside them but for `null`."""
        if isinstance(value, int | float):
            return
        if isinstance(value, str):
            if "\x00" in value:
                raise bad(f"{name} 含有 U+0000", f"{name} contains U+0000", field=name, rule="no U+0000")
            return
        pending = [(value, 1)]
        while pending:
            item, depth = pending.pop()
            if depth > MAX_VALUE_DEPTH:
                raise bad(
                    f"{name} 嵌套超过 {MAX_VALUE_DEPTH} 层", f"{name} is nested deeper than {MAX_VALUE_DEPTH}",
                    field=name, rule=f"<= {MAX_VALUE_DEPTH} levels",
                )
            if isinstance(item, dict):
                if any("\x00" in key for key in item):
                    raise bad(f"{name} 含有 U+0000", f"{name} contains U+0000", field=name, rule="no U+0000")
                pending.extend((child, depth + 1) for child in item.values() if not isinstance(child, int | float))
            elif isinstance(item, list):
                pending.extend((child, depth + 1) for child in item if not isinstance(child, int | float))
            elif isinstance(item, str):
                if "\x00" in item:
                    raise bad(f"{name} 含有 U+0000", f"{name} contains U+0000", field=name, rule="no U+0000")
                if item == NULL and not self.merging and not null:
                    raise bad(f"{name} 的值之内不可有 urn:ngsi-ld:null", f"NGSI-LD Null is not allowed inside {name}",
                              field=name, value=NULL, rule="CIM 009, 5.5.4")

    def _checked(self, kind: str, name: str, value: Any) -> Any:
        if value is None:
            raise bad(f"{name} 的值不可为 null", f"{name}: the value must not be null", field=name, rule="4.5.2")
        if value == NULL and self._null(value):
            return value
        if kind == "Property":
            self._value(name, value)
            return value
        if kind == "GeoProperty":
            if isinstance(value, str):
                value = _decoded(value)
            geo.check(value, name)
            return value
        if kind == "Relationship":
            if is_iri(value) or (isinstance(value, list) and value and all(is_iri(item) for item in value)):
                return value
            raise bad(f"{name}.object 应为 URI 或 URI 的数组", f"{name}.object must be a URI or URIs",
                      field=f"{name}.object", value=value, rule="URI")
        if kind == "LanguageProperty":
            if isinstance(value, dict) and value:
                for tag, text in value.items():
                    if not _LANG.fullmatch(tag) or not _texts(text, null=self.nulls):
                        break
                else:
                    self._value(name, value, null=self.nulls)
                    return value
            raise bad(f"{name}.languageMap 应为 语言->文本", f"{name}.languageMap must map language tags to texts",
                      field=f"{name}.languageMap", value=value, rule="RFC 5646")
        if kind == "VocabProperty":
            if isinstance(value, str):
                return self.stored(value)
            if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
                return [self.stored(item) for item in value]
            raise bad(f"{name}.vocab 应为名称或名称的数组", f"{name}.vocab must be a name or names",
                      field=f"{name}.vocab", value=value, rule="CIM 009, 4.5.20")
        if kind == "JsonProperty":
            if isinstance(value, dict | list):
                self._value(name, value)
                return value
            raise bad(f"{name}.json 应为 JSON 对象或数组", f"{name}.json must be a JSON object or array",
                      field=f"{name}.json", value=value, rule="CIM 009, 4.5.24")
        if kind == "ListProperty":
            if isinstance(value, list):
                self._value(name, value)
                return value
            raise bad(f"{name}.valueList 应为数组", f"{name}.valueList must be an array",
                      field=f"{name}.valueList", value=value, rule="CIM 009, 4.5.21")
        if isinstance(value, list):
            uris = [item.get("object") if isinstance(item, dict) else item for item in value]
            if all(is_iri(item) for item in uris):
                return [{"object": item} for item in uris]
        raise bad(f"{name}.objectList 应为 URI 的数组", f"{name}.objectList must be an array of URIs",
                  field=f"{name}.objectList", value=value, rule="CIM 009, 4.5.22")


def _decoded(text: str) -> Any:
    """A geometry that came as the text of its JSON (4.7.2); the text itself if it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _defined(key: str, name: str, attribute: Any) -> None:
    """Refuse a place that is no GeoProperty (4.7.1), and a proof that is no Property with an object (4.5.2.2)."""
    for instance in instances(attribute):
        value = instance.get(VALUE_OF[instance["type"]])
        if value == NULL:
            continue
        if key in PLACES and instance["type"] != "GeoProperty":
            raise bad(f"{name} 应为 GeoProperty", f"{name} is a GeoProperty", field=f"{name}.type", value=instance["type"],
                      rule="CIM 009, 4.7.1")
        if key == PROOF and not (instance["type"] == "Property" and isinstance(value, dict)):
            raise bad(f"{name} 的值应为对象", f"the value of {name} must be an object", field=f"{name}.value", value=value,
                      rule="CIM 009, 4.5.2.2")


_SIMPLE_WRAPPED = frozenset({"languageMap", "vocab", "json", "valueList", "objectList"})


def _are_instances(items: list[Any]) -> bool:
    """Whether an array holds instances of an attribute, normalised or concise, rather than being a value."""
    marked = False
    for item in items:
        if not isinstance(item, dict):
            return False
        kind = item.get("type")
        typed = isinstance(kind, str) and kind in VALUE_OF
        if not typed and _KIND_OF.keys().isdisjoint(item):
            return False
        marked = marked or typed or "datasetId" in item
    return marked


def _is_geometry(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    kind = value.get("type")
    return isinstance(kind, str) and kind in geo.TYPES


def _texts(value: object, null: bool) -> bool:
    if isinstance(value, str):
        return null or value != NULL
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def entity_id(value: object) -> str:
    """Check an entity id. Raises `BadRequestData` unless it is a URI."""
    if isinstance(value, str) and is_iri(value) and value != NULL:
        return value
    raise bad(f"id {str(value)[:100]!r} 不是 URI", f"id {str(value)[:100]!r} is not a URI",
              field="id", value=value, rule="URI (RFC 3986)")


# ---- facts: what the columns of a stored entity hold --------------------------------------------------------------


class Facts(NamedTuple):
    """Columns derived from a document. The bounding box is None for a point or for no location."""

    type: str
    types: list[str] | None
    name: str | None
    synthetic: bool
    lon: float | None
    lat: float | None
    bbox: tuple[float, float, float, float] | None


def facts(document: Json) -> Facts:
    """The columns of a stored entity document."""
    kind = document["type"]
    first, several = (kind, None) if isinstance(kind, str) else (kind[0], kind)
    name = plain(document["name"]) if "name" in document else None
    lon = lat = None
    bbox = None
    location = default_instance(document["location"]) if "location" in document else None
    if location is not None and location.get("type") == "GeoProperty":
        geometry = location["value"]
        if geometry["type"] == "Point":
            lon, lat = geometry["coordinates"][:2]
        else:
            lon, lat, bbox = geo.extent(geometry)
    return Facts(
        first, several, name[:500] if isinstance(name, str) else None,
        "synthetic" in document and plain(document["synthetic"]) is True, lon, lat, bbox,
    )


def default_instance(attribute: Any) -> Json | None:
    """The instance without a `datasetId`, else the first; None for no attribute."""
    if isinstance(attribute, dict):
        return attribute
    if isinstance(attribute, list) and attribute:
        found: Json = next((item for item in attribute if "datasetId" not in item), attribute[0])
        return found
    return None


def plain(attribute: Any) -> Any:
    """The value of an attribute's default instance, whatever its kind; for a language map, Chinese before English."""
    instance = default_instance(attribute)
    if instance is None:
        return None
    value = instance.get(VALUE_OF[instance["type"]])
    if instance["type"] == "LanguageProperty" and isinstance(value, dict):
        text = value.get("zh") or value.get("zh-CN") or value.get("en") or next(iter(value.values()))
        return text[0] if isinstance(text, list) else text
    return value


def types_of(document: Json) -> list[str]:
    """The types of a stored document as a list."""
    kind = document["type"]
    return [kind] if isinstance(kind, str) else kind


def alive(document: Json, now: int) -> Json:
    """The document without the attributes, instances and sub-attributes whose `expiresAt` is past (4.22).

    The label `synthetic` stays: it says where the rest came from.
    """
    out: Json = {}
    for name, value in document.items():
        if name in ENTITY_MEMBERS or name == "synthetic":
            out[name] = value
        elif (kept := _kept(value, now)) is not None:
            out[name] = kept
    return out


def _kept(attribute: Any, now: int) -> Any:
    """What is left of an attribute, None if nothing is."""
    if isinstance(attribute, list):
        found = [kept for item in attribute if (kept := _kept(item, now)) is not None]
        return found[0] if len(found) == 1 else found or None
    if "expiresAt" in attribute and micros(attribute["expiresAt"]) <= now:
        return None
    subs = [name for name in attribute if name not in MEMBERS]
    if not subs:
        return attribute
    out = dict(attribute)
    for name in subs:
        out[name] = _kept(attribute[name], now)
        if out[name] is None:
            del out[name]
    return out


# ---- writing ------------------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """How to write entities. `keep` and `drop` are stored names (None: all; with `*` in `keep`, `id` and `type` are kept
    only if named); `lang` picks languages (4.5.18); `join` says which linked entities belong to the answer (4.5.23)."""

    style: str = "normalized"
    system: bool = False
    keep: frozenset[str] | None = None
    drop: frozenset[str] = frozenset()
    lang: str | None = None
    geometry: str = "location"
    datasets: frozenset[str] | None = None
    join: Join | None = None

    @property
    def whole(self) -> bool:
        """Whether a stored document is answered as it is, apart from its names."""
        return (
            self.style == "normalized" and not self.system and self.keep is None and not self.drop
            and self.lang is None and self.datasets is None and self.join is None
        )


STYLES = {
    "normalized": "normalized", "keyValues": "simplified", "simplified": "simplified", "concise": "concise",
}


def write(document: Json, context: Context, form: Form, times: Mapping[str, Any] | None = None) -> Json:
    """A stored document as a client sees it. `times` (see `stamp`) is needed for system attributes."""
    out: Json = {}
    shown = context.shown
    if form.whole:
        if context.identity and not _transient(document):
            return document
        known = context.shown_already.get
        for key, value in document.items():
            if type(value) is dict:
                out[known(key) or shown(key)] = value if value.keys() <= _NAMELESS else rename(value, context)
            elif key == "expiresAt":
                continue  # a system attribute (6.3.11)
            elif key == "type":
                out["type"] = shown(value) if isinstance(value, str) else [shown(item) for item in value]
            elif key in ENTITY_MEMBERS:
                out[key] = value
            else:
                out[shown(key)] = [rename(item, context) for item in value]
        return out
    keep, drop, style = form.keep, form.drop, form.style
    for key, value in document.items():
        if key in ENTITY_MEMBERS:
            if key in drop or (keep is not None and key not in keep and key not in ("id", "type")):
                continue
            if key == "expiresAt" and not form.system:
                continue
            if key == "type":
                out["type"] = shown(value) if isinstance(value, str) else [shown(item) for item in value]
            else:
                out[key] = value
            continue
        if (keep is not None and key not in keep) or key in drop:
            continue
        if form.datasets is not None:
            value = _of_datasets(value, form.datasets)
            if value is None:
                continue
        if form.lang is not None:
            value = _each(value, lambda item: in_language(item, form.lang or ""))
        if form.system and times is not None:
            value = stamp(key, value, times)
        name = shown(key)
        if style == "normalized":
            out[name] = _each(value, lambda item: rename(item, context, form.system))
        elif style == "simplified":
            out[name] = simplified(value, context)
        else:
            out[name] = _each_concise(value, context, form.system)
    if form.system and times is not None:
        out["createdAt"], out["modifiedAt"] = moment(times["@"][0]), moment(times["@"][1])
    return out


def _transient(node: Any) -> bool:
    """Whether an `expiresAt` is anywhere among the members of an entity or attribute."""
    if isinstance(node, list):
        return any(_transient(item) for item in node if isinstance(item, dict))
    return "expiresAt" in node or any(
        _transient(value) for name, value in node.items() if isinstance(value, dict | list) and name not in MEMBERS
    )


def _each(value: Any, change: Callable[[Json], Json]) -> Any:
    return [change(item) for item in value] if isinstance(value, list) else change(value)


def _of_datasets(value: Any, datasets: Collection[str]) -> Any:
    items = value if isinstance(value, list) else [value]
    found = [item for item in items if item.get("datasetId", "@none") in datasets]
    return None if not found else found[0] if len(found) == 1 else found


def stamp(name: str, value: Any, times: Mapping[str, Any]) -> Any:
    """An attribute with `createdAt` and `modifiedAt` (clause 4.8).

    `times` maps `@` to the entity's [created, modified], `*` to what holds for attributes not named, and a stored
    attribute name, or that name and a dataset id with a space between, to its own; microseconds.
    """
    def one(item: Json) -> Json:
        dataset = item.get("datasetId")
        pair = times.get(f"{name} {dataset}") if dataset else None
        pair = pair or times.get(name) or times.get("*") or [times["@"][0]] * 2
        stamped = {**item, "createdAt": moment(pair[0]), "modifiedAt": moment(pair[1])}
        for key, sub in item.items():
            if key not in MEMBERS:
                stamped[key] = stamp(name, sub, times)
        return stamped

    return _each(value, one)


def rename(instance: Json, context: Context, system: bool = False) -> Json:
    """An instance with the names of sub-attributes, vocabulary words and object types of `context`; `expiresAt` only
    with the system attributes."""
    shown = context.shown
    out: Json = {}
    for key, value in instance.items():
        if key == "expiresAt" and not system:
            continue
        if key in MEMBERS or key in SYSTEM:
            if key in ("objectType", "valueType", "entityTypeSealed") or (key == "vocab" and instance["type"] == "VocabProperty"):
                value = [shown(item) for item in value] if isinstance(value, list) else shown(value)
            out[key] = value
        else:
            out[shown(key)] = _each(value, lambda item: rename(item, context, system))
    return out


def in_language(instance: Json, lang: str) -> Json:
    """A LanguageProperty as a Property in the best language of `lang` (clause 4.5.18); others are unchanged."""
    if instance["type"] != "LanguageProperty":
        return instance
    table = instance["languageMap"]
    chosen = next(iter(table))
    for fallback in ("@none", "en"):
        if fallback in table:
            chosen = fallback
            break
    for wish in languages(lang):
        if wish == "*":
            break
        found = next((tag for tag in table if tag.lower() == wish), None)
        found = found or next((tag for tag in table if tag.lower().split("-")[0] == wish.split("-")[0]), None)
        if found:
            chosen = found
            break
    rest = {k: v for k, v in instance.items() if k not in ("type", "languageMap")}
    return {"type": "Property", "value": table[chosen], "lang": chosen, **rest}


def languages(header: str) -> list[str]:
    """Language ranges of an Accept-Language value, best first, in lower case (RFC 9110, 12.5.4)."""
    ranked = []
    for position, part in enumerate(header.split(",")):
        tag, *parameters = part.strip().split(";")
        quality = 1.0
        for parameter in parameters:
            key, _, number = parameter.strip().partition("=")
            if key == "q":
                try:
                    quality = float(number)
                except ValueError:
                    quality = 0.0
        if tag and quality > 0:
            ranked.append((-quality, position, tag.strip().lower()))
    return [tag for _, _, tag in sorted(ranked)]


def simplified(attribute: Any, context: Context) -> Any:
    """The simplified value of an attribute (clause 4.5.4)."""
    if isinstance(attribute, list):
        return {"dataset": {item.get("datasetId", "@none"): simplified(item, context) for item in attribute}}
    for inside in ("entity", "entityList"):
        if inside in attribute:
            return attribute[inside]
    kind = attribute["type"]
    key = VALUE_OF[kind]
    value = attribute[key]
    if kind in ("Property", "GeoProperty", "Relationship", "ListProperty"):
        return value
    if kind == "ListRelationship":
        return [item["object"] for item in value]
    if kind == "VocabProperty":
        value = [context.shown(v) for v in value] if isinstance(value, list) else context.shown(value)
    return {key: value}


def _each_concise(attribute: Any, context: Context, system: bool) -> Any:
    if isinstance(attribute, list):
        return [concise(item, context, lone=False, system=system) for item in attribute]
    return concise(attribute, context, system=system)


def concise(instance: Json, context: Context, *, lone: bool = True, system: bool = False) -> Any:
    """The concise form of one instance (clause 4.5.1)."""
    kind = instance["type"]
    key = VALUE_OF[kind]
    named = instance if context.identity and "expiresAt" not in instance else rename(instance, context, system)
    if lone and len(named) == 2 and kind in ("Property", "GeoProperty"):
        value = named[key]
        if kind == "GeoProperty" or not isinstance(value, dict | list):
            return value
    out: Json = {}
    for name, value in named.items():
        if name == "type":
            continue
        out[name] = value if name in MEMBERS or name in SYSTEM else _each_concise(value, _AS_IS, system)
    return out


class _AsIs(Context):
    """A context that changes no name: what is inside has been renamed already."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__({})
        self.identity = True

    def shown(self, stored: str) -> str:
        return stored


_AS_IS = _AsIs()


def feature(document: Json, written: Json, form: Form) -> Json:
    """A GeoJSON Feature (clause 5.2.29) of a written entity; `document` is the stored one."""
    instance = default_instance(document.get(form.geometry))
    geometry = instance["value"] if instance is not None and instance["type"] == "GeoProperty" else None
    properties = {key: value for key, value in written.items() if key not in ("id", "@context")}
    return {"id": document["id"], "type": "Feature", "geometry": geometry, "properties": properties}


# ---- changing -----------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """What an update did: stored attribute names changed (with dataset ids), and those refused with the reason."""

    updated: list[str]
    unchanged: list[tuple[str, str]]


def attributes(document: Json) -> Iterable[str]:
    """The stored attribute names of a document."""
    return (key for key in document if key not in ENTITY_MEMBERS)


def scopes(document: Json) -> list[str]:
    """The scopes of a stored document as a list."""
    scope = document.get("scope", [])
    return scope if isinstance(scope, list) else [scope]


def put_instance(document: Json, name: str, instance: Json) -> None:
    """Set one instance of an attribute, replacing the one with the same `datasetId`."""
    present = document.get(name)
    dataset = instance.get("datasetId")
    if present is None:
        document[name] = instance
    elif isinstance(present, dict):
        document[name] = instance if present.get("datasetId") == dataset else [present, instance]
    else:
        kept = [item for item in present if item.get("datasetId") != dataset]
        document[name] = [*kept, instance]


def find_instance(attribute: Any, dataset: str | None) -> Json | None:
    """The instance with this `datasetId` (None: the default one)."""
    items = attribute if isinstance(attribute, list) else [] if attribute is None else [attribute]
    return next((item for item in items if item.get("datasetId") == dataset), None)


def drop_instance(document: Json, name: str, dataset: str | None) -> bool:
    """Delete one instance; the attribute goes with its last one. False when there was none."""
    present = document.get(name)
    if find_instance(present, dataset) is None:
        return False
    if isinstance(present, dict):
        del document[name]
    else:
        kept = [item for item in present or [] if item.get("datasetId") != dataset]
        document[name] = kept[0] if len(kept) == 1 else kept
    return True


def instances(value: Any) -> list[Json]:
    """An attribute's instances as a list."""
    return value if isinstance(value, list) else [value]


def is_null(instance: Json) -> bool:
    """Whether the instance says to delete (NGSI-LD Null)."""
    value = instance.get(VALUE_OF[instance["type"]])
    return bool(value == NULL or (isinstance(value, dict) and value.get("@none") == NULL))


def _touch(times: Json, name: str, instance: Json, now: int, *, created: bool) -> None:
    dataset = instance.get("datasetId")
    key = f"{name} {dataset}" if dataset else name
    first = now if created else (times.get(key) or times.get("*") or [times["@"][0]])[0]
    times[key] = [first, now]


def add_types(document: Json, fragment: Json) -> bool:
    """Add the fragment's types to the document's (clause 5.5.8). True if any was new."""
    if "type" not in fragment:
        return False
    before = types_of(document)
    after = list(dict.fromkeys([*before, *types_of(fragment)]))
    if len(after) == len(before):
        return False
    document["type"] = after
    return True


def append(document: Json, times: Json, fragment: Json, now: int, *, overwrite: bool = True) -> Change:
    """Append attributes (clause 5.6.3): set what is new, replace what is there unless `overwrite` is False."""
    updated: list[str] = []
    refused: list[tuple[str, str]] = []
    if add_types(document, fragment):
        updated.append("type")
    if "scope" in fragment:
        # Scopes are a set: without overwriting, the new ones join those that are there.
        known_scopes = [] if overwrite else scopes(document)
        both = list(dict.fromkeys([*known_scopes, *scopes(fragment)]))
        document["scope"] = fragment["scope"] if not known_scopes else both
        updated.append("scope")
    for name in attributes(fragment):
        for instance in instances(fragment[name]):
            known = find_instance(document.get(name), instance.get("datasetId"))
            if known is not None and not overwrite:
                refused.append((name, "already exists and overwriting was not asked for"))
                continue
            if is_null(instance):
                if drop_instance(document, name, instance.get("datasetId")):
                    updated.append(name)
                continue
            put_instance(document, name, instance)
            _touch(times, name, instance, now, created=known is None)
            updated.append(name)
    return Change(updated, refused)


def update(document: Json, times: Json, fragment: Json, now: int) -> Change:
    """Update attributes (clause 5.6.2): replace those that exist, add those that do not, delete those given as Null.

    A scope is only replaced where there is one.
    """
    updated: list[str] = []
    refused: list[tuple[str, str]] = []
    if add_types(document, fragment):
        updated.append("type")
    if "scope" in fragment and "scope" not in document:
        refused.append(("scope", "the entity has no scope"))
    elif "scope" in fragment:
        _set_member(document, "scope", fragment["scope"])
        updated.append("scope")
    if "expiresAt" in fragment:
        _set_member(document, "expiresAt", fragment["expiresAt"])
        updated.append("expiresAt")
    for name in attributes(fragment):
        for instance in instances(fragment[name]):
            dataset = instance.get("datasetId")
            known = find_instance(document.get(name), dataset)
            if is_null(instance):
                if drop_instance(document, name, dataset):
                    updated.append(name)
                else:
                    refused.append((name, "the attribute has no such instance"))
                continue
            put_instance(document, name, instance)
            _touch(times, name, instance, now, created=known is None)
            updated.append(name)
    return Change(updated, refused)


def _set_member(document: Json, name: str, value: Any) -> None:
    if value == NULL:
        document.pop(name, None)
    else:
        document[name] = value


def merge(document: Json, times: Json, fragment: Json, now: int, *, observed_at: str | None = None) -> Change:
    """Merge an entity (clauses 5.5.12, 5.6.17): as a JSON merge patch, down into attributes and object values."""
    updated: list[str] = []
    if add_types(document, fragment):
        updated.append("type")
    for member in ("scope", "expiresAt"):
        if member in fragment:
            _set_member(document, member, fragment[member])
            updated.append(member)
    for name in attributes(fragment):
        for instance in instances(fragment[name]):
            dataset = instance.get("datasetId")
            known = find_instance(document.get(name), dataset)
            if is_null(instance):
                if drop_instance(document, name, dataset):
                    updated.append(name)
                continue
            if known is None:
                merged = without_nulls(instance)
            elif known["type"] != instance["type"]:
                raise BadRequestData(
                    f"{name} 是 {known['type']}，不可并入 {instance['type']}",
                    f"{name} is a {known['type']}; a {instance['type']} cannot be merged into it",
                    field=f"{name}.type", value=instance["type"], rule="same attribute type",
                )
            else:
                merged = merge_instance(known, instance)
            if observed_at is not None and "observedAt" not in instance and (known is None or "observedAt" in known):
                merged["observedAt"] = observed_at
            put_instance(document, name, merged)
            _touch(times, name, merged, now, created=known is None)
            updated.append(name)
    return Change(updated, [])


def merge_instance(known: Json, patch: Json, *, deep: bool = True) -> Json:
    """One instance with another's members on top; Null deletes. `deep` merges object values too (5.5.12)."""
    out = dict(known)
    for key, value in patch.items():
        if value == NULL or (key not in MEMBERS and isinstance(value, dict) and is_null(value)):
            out.pop(key, None)
        elif deep and key in ("value", "json", "languageMap"):
            out[key] = _merge_value(out.get(key), value)
        elif deep and key not in MEMBERS and isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merge_instance(out[key], value)
        else:
            out[key] = value
    return out


def _merge_value(known: Any, patch: Any) -> Any:
    if not isinstance(known, dict) or not isinstance(patch, dict) or "coordinates" in patch:
        return patch
    out = dict(known)
    for key, value in patch.items():
        if value is None or value == NULL:
            out.pop(key, None)
        else:
            out[key] = _merge_value(out.get(key), value)
    return out


def without_nulls(instance: Json) -> Json:
    """An instance less its members that are NGSI-LD Null."""
    return {
        key: value for key, value in instance.items()
        if value != NULL and not (key not in MEMBERS and isinstance(value, dict) and is_null(value))
    }
