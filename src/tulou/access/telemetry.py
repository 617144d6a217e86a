"""Payloads of `v1/devices/me/telemetry` and `v1/devices/me/attributes`, the convention that integrators know; and frames
of field protocols, which their codec reads.

Law: pure; payloads in, rows of a batch and dead letters out. A payload that breaks a rule costs only itself, and a
reading that breaks its model's rule costs only that reading; the neighbours are stored.

Telemetry is `{"name": value, ...}`, `{"ts": milliseconds, "values": {...}}`, or a list of those. Attributes are one
object. Numbers and booleans (as 1 and 0) are stored as float64, texts as text, objects and arrays as JSON text.

`decode` works on many messages at once: messages whose objects have the same names in the same order become columns
by a few calls that run in C (`map`, `zip`, `array.extend`); whatever is unusual falls back to one message at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from tulou.access.batch import BAD, GOOD, BatchBuilder

if TYPE_CHECKING:
    from tulou.access.protocols import Codec
    from tulou.kernel.packs import Packs

TELEMETRY, ATTRIBUTES, UNKNOWN = "telemetry", "attributes", "unknown"

MAX_READINGS = 10_000
MAX_NAME = 128
MAX_NAMES_CACHED = 4096
EARLIEST_MS = 946_684_800_000
"""2000-01-01T00:00:00Z; an earlier time is a device without a clock, or seconds sent as milliseconds."""
SKEW_MS = 24 * 3600 * 1000
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a payload, or the part of it that `field` names, was not stored."""

    rule: str
    zh: str
    en: str
    field: str = ""
    value: Any = None

    @property
    def reason(self) -> str:
        return f"{self.zh} ({self.en})"


class Property(Protocol):
    """What a model says of a property: `kind` is number, boolean, string or json; the bounds are inclusive; `codes`, `scale` and
    `offset` as `kernel.packs.Property` has them."""

    @property
    def kind(self) -> str: ...
    @property
    def min(self) -> float | None: ...
    @property
    def max(self) -> float | None: ...
    @property
    def codes(self) -> Mapping[str, str]: ...
    @property
    def scale(self) -> float: ...
    @property
    def offset(self) -> float: ...


class Model(Protocol):
    """An entity type as it is declared; `open` models take properties they do not name."""

    @property
    def open(self) -> bool: ...
    @property
    def properties(self) -> Mapping[str, Any]: ...


UPDATES = ("fw_state", "fw_error", "current_fw_title", "current_fw_version")
"""What every device may say of its firmware, whatever its model."""


Said = tuple[str, float, float]
"""What a code of a protocol stands for: the property, the factor, the summand."""


class Rules:
    """What readings of one entity type must keep to, with the shapes of objects already judged against it.

    `properties` maps a name to (kind, min, max), `codes` a field protocol to what its codes stand for.
    """

    __slots__ = ("codes", "open", "properties", "shapes")

    def __init__(
        self, properties: Mapping[str, tuple[str, float | None, float | None]] | None = None, *, open: bool = True,
        codes: Mapping[str, Mapping[str, Said]] | None = None,
    ) -> None:
        self.properties = {**dict.fromkeys(UPDATES, ("", None, None)), **(properties or {})}
        self.open = open
        self.codes = {protocol: Codes(said) for protocol, said in (codes or {}).items() if said}
        self.shapes: dict[tuple[str, ...], _Shape] = {}

    def become(self, other: Rules) -> None:
        """Say from now on what `other` says, to everyone who holds this object."""
        self.properties, self.open, self.codes, self.shapes = other.properties, other.open, other.codes, {}

    @classmethod
    def of(cls, model: Model) -> Rules:
        """The rules of a model."""
        codes: dict[str, dict[str, Said]] = {}
        for name, p in model.properties.items():
            for protocol, code in p.codes.items():
                codes.setdefault(protocol, {})[code] = name, p.scale, p.offset
        return cls({name: (p.kind, p.min, p.max) for name, p in model.properties.items()}, open=model.open, codes=codes)

    def shape(self, names: tuple[str, ...]) -> _Shape:
        """The judgement on objects with exactly these names, in this order."""
        shape = self.shapes.get(names)
        if shape is None:
            if len(self.shapes) >= MAX_NAMES_CACHED or len(names) > 200:
                self.shapes.clear()
            shape = self.shapes[names] = _Shape(self, names)
        return shape


class Codes:
    """What the codes of one field protocol stand for, in one entity type."""

    __slots__ = ("_names", "_said")

    def __init__(self, said: Mapping[str, Said]) -> None:
        self._said = dict(said)
        self._names: dict[tuple[str, ...], tuple[tuple[str, ...], bool]] = {}

    def names(self, codes: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
        """The properties that these codes stand for, one for each (others are named by themselves), and whether that is all:
        no value is to be scaled, and no two are one property."""
        found = self._names.get(codes)
        if found is None:
            if len(self._names) >= MAX_NAMES_CACHED:
                self._names.clear()
            said = [self._said.get(code, (code, 1.0, 0.0)) for code in codes]
            names = tuple(name for name, _, _ in said)
            found = names, len({*names}) == len(names) and all(of[1:] == (1.0, 0.0) for of in said)
            self._names[codes] = found
        return found

    def read(self, values: Mapping[str, Any], worse: Mapping[str, int] | None) -> tuple[dict[str, Any], dict[str, int], list[str]]:
        """Values and the quality of those that are not good, by property; and codes of which nothing is taken: they have the
        name of a property that another code stands for here."""
        taken: dict[str, Any] = {}
        quality: dict[str, int] = {}
        twice: list[str] = []
        meant = {self._said[code][0] for code in values if code in self._said}
        for code, value in values.items():
            name, scale, offset = self._said.get(code, (code, 1.0, 0.0))
            if code not in self._said and name in meant:
                twice.append(code)
                continue
            taken[name] = value * scale + offset if (scale, offset) != (1.0, 0.0) and type(value) in _NUMBERS else value
            if worse and code in worse:
                quality[name] = worse[code]
        return taken, quality, twice


ANY = Rules()
"""The rules of a type that nobody declares: everything that the payload convention allows."""


class RuleBook:
    """The rules of every type. A type's rules stay one object while what they say changes, so who holds them follows."""

    def __init__(self) -> None:
        self._rules: dict[str, Rules] = {}

    @classmethod
    def of_packs(cls, packs: Packs) -> RuleBook:
        """The rules of the house's models, which follow them."""
        book = cls()

        def follow() -> None:
            book.take({name: Rules.of(model) for name, model in packs.models.items()})

        follow()
        packs.followers.append(follow)
        return book

    def get(self, kind: str) -> Rules:
        """The rules for what comes now."""
        return self._rules.get(kind, ANY)

    def of(self, kind: str) -> Rules:
        """The rules to hold for what is still to come, be it that the type is declared later."""
        return self._rules.setdefault(kind, Rules())

    def take(self, rules: Mapping[str, Rules]) -> None:
        """These are the rules of the types that are declared, from now on."""
        for kind in {*self._rules, *rules}:
            self.of(kind).become(rules.get(kind, ANY))


_NUMBERS = frozenset({int, float})
_NUMERIC = frozenset({int, float, bool})
_TYPES = {"number": _NUMBERS, "boolean": frozenset({bool}), "string": frozenset(), "json": _NUMERIC, "": _NUMERIC}


class _Shape:
    """Objects with the same names. `plain`: values may go into the columns if their types are those of `columns`:
    per name the types that are numbers here, whether text is allowed, and the bounds."""

    __slots__ = ("columns", "names", "plain", "stamped")

    def __init__(self, rules: Rules, names: tuple[str, ...]) -> None:
        self.names = names
        self.stamped = names == ("ts", "values")
        self.plain = 0 < len(names) <= MAX_READINGS and not ("ts" in names and "values" in names)
        self.columns: list[tuple[frozenset[type], bool, tuple[float, float] | None]] = []
        for name in names:
            rule = rules.properties.get(name)
            kind, low, high = rule or ("", None, None)
            if rule is None and (not rules.open or name_refusal(name) is not None):
                self.plain = False
            bounds = None
            if low is not None or high is not None:
                bounds = (float("-inf") if low is None else low, float("inf") if high is None else high)
            self.columns.append((_TYPES[kind], kind in ("", "string", "json"), bounds))


@dataclass(slots=True)
class Chunk:
    """Payloads of one entity on one topic, in the order of arrival: what a door hands in.

    `of` is (org, type, origin); `ts` is when the first was received, in µs, and the others count up from it. With a
    `codec` the payloads are its messages; with a `refusal` they are dead letters for that reason.
    """

    kind: str
    entity: int
    of: tuple[str, str, int]
    rules: Rules
    payloads: list[bytes]
    ts: int
    dup: bool = False
    topic: str = ""
    codec: Codec | None = None
    refusal: Refusal | None = None


@dataclass(slots=True)
class DeadLetter:
    """A payload, or a part of it, that was refused."""

    entity: int
    org: str
    topic: str
    ts: int
    raw: bytes
    refusal: Refusal


@dataclass(slots=True)
class Decoded:
    """Counts of what went into a batch, and what did not."""

    frames: int = 0
    readings: int = 0
    dead: list[DeadLetter] = field(default_factory=list)


def name_refusal(name: str) -> Refusal | None:
    """Why this cannot be a property's name, or None."""
    if not name:
        return Refusal("name", "属性名为空", "empty property name")
    if len(name) > MAX_NAME:
        return Refusal("name-length", f"属性名超过 {MAX_NAME} 个字符", f"property name longer than {MAX_NAME} characters",
                       name[:MAX_NAME])
    if not name.isprintable():
        return Refusal("name-characters", "属性名含控制字符", "property name has control characters", repr(name))
    return None


def decode(chunks: Sequence[Chunk], builder: BatchBuilder, now_ms: int) -> Decoded:
    """Append the chunks' frames and readings to the builder; what is refused comes back as dead letters.

    `now_ms` is the wall clock, against which clock skew is judged. Raises only `BatchFull`.
    """
    decoded = Decoded()
    groups: dict[tuple[int, str], list[Chunk]] = {}
    for chunk in chunks:
        if chunk.refusal is not None:
            _bury([chunk], chunk.refusal, decoded)
            continue
        key = (id(chunk.rules), chunk.kind)
        group = groups.get(key)
        if group is None:
            groups[key] = [chunk]
        else:
            group.append(chunk)
    for group in groups.values():
        _decode_group(group, builder, now_ms, decoded)
    decoded.frames = len(builder.raws)
    decoded.readings = len(builder.r_val)
    return decoded


def _decode_group(group: list[Chunk], builder: BatchBuilder, now_ms: int, decoded: Decoded) -> None:
    rules, kind = group[0].rules, group[0].kind
    if kind == UNKNOWN:
        _bury(group, Refusal("topic", "没有此主题", "no such topic"), decoded)
        return
    if group[0].codec is not None:
        _decode_frames(group, group[0].codec, builder, now_ms, decoded)
        return
    first = len(builder.raws)
    try:
        docs = list(map(orjson.loads, chain.from_iterable([chunk.payloads for chunk in group])))
        alike = {dict}.issuperset(map(type, docs))
    except (orjson.JSONDecodeError, RecursionError):
        docs, alike = _one_by_one(group, builder, decoded), False
    else:
        for chunk in group:
            builder.frames(chunk.entity, chunk.of, chunk.ts, chunk.payloads, chunk.dup)
    one = _OneMessage(builder, rules, kind, now_ms, decoded, group[0])
    if not alike:
        for frame, doc in enumerate(docs, first):
            if type(doc) is not list or not _store_list(frame, doc, one):
                one.store(frame, doc)
        return
    shapes = rules.shapes
    names = list(map(tuple, docs))
    known = list(map(shapes.get, names))
    kinds = dict.fromkeys(known)
    if None in kinds:
        known = list(map(rules.shape, names))
        kinds = dict.fromkeys(known)
    if len(kinds) == 1 and (shape := known[0]) is not None:
        _store_alike(shape, range(first, first + len(docs)), docs, one)
        return
    apart: dict[Any, tuple[list[int], list[Any]]] = {shape: ([], []) for shape in kinds}
    for frame, (shape, doc) in enumerate(zip(known, docs, strict=True), first):
        frames, same = apart[shape]
        frames.append(frame)
        same.append(doc)
    for shape, (frames, same) in apart.items():
        _store_alike(shape, frames, same, one)


def _bury(group: list[Chunk], refusal: Refusal, decoded: Decoded) -> None:
    decoded.dead.extend(
        DeadLetter(chunk.entity, chunk.of[0], chunk.topic, chunk.ts + number, raw, refusal)
        for chunk in group for number, raw in enumerate(chunk.payloads)
    )


def _decode_frames(
    group: list[Chunk], codec: Codec, builder: BatchBuilder, now_ms: int, decoded: Decoded
) -> None:
    """Store what a field protocol's messages say. Samples with the same names become columns together."""
    one = _OneMessage(builder, group[0].rules, group[0].kind, now_ms, decoded, group[0])
    latest = (now_ms + SKEW_MS) * 1000
    alike: dict[tuple[str, ...], tuple[list[int], list[tuple[Any, ...]], array[int], list[Any]]] = {}
    read, names_of = codec.decode, alike.get
    for chunk in group:
        frame = builder.frames(chunk.entity, chunk.of, chunk.ts, chunk.payloads, chunk.dup)
        for raw in chunk.payloads:
            samples, refusals = read(raw)
            for refusal in refusals:
                one.refuse(frame, refusal)
            for ts, values, worse in samples:
                if not ts:
                    ts = builder.f_ts[frame]
                elif not EARLIEST_MS * 1000 <= ts <= latest:
                    one.refuse(frame, _untimely(ts // 1000, ""))
                    continue
                names = tuple(values)
                same = names_of(names)
                if same is None:
                    same = alike[names] = ([], [], array("q"), [])
                same[0].append(frame)
                same[1].append(tuple(values.values()))
                same[2].append(ts)
                same[3].append(worse)
            frame += 1
    codes = one.rules.codes.get(codec.name)
    for names, (frames, rows, stamps, qualities) in alike.items():
        first, count, known = len(builder.r_val), len(rows), names
        if codes is not None:
            known, plain = codes.names(names)
            if not plain:
                names = known = _renamed(codes, names, frames, rows, qualities, one)
        if not _store_columns(one.rules.shape(known), frames, rows, stamps, one):
            for number, row, ts, worse in zip(frames, rows, stamps, qualities, strict=True):
                doc = dict(zip(names, row, strict=True))
                if codes is not None and names is not known:
                    doc, worse, _ = codes.read(doc, worse)
                one.store_values(number, doc, ts, "", worse)
            continue
        places = {name: first + column * count for column, name in enumerate(names)}
        for at, worse in enumerate(qualities):
            for name, quality in (worse or {}).items():
                if name in places:
                    spot = places[name] + at
                    builder.worse[spot] = max(quality, builder.worse.get(spot, GOOD))


def _renamed(
    codes: Codes, names: tuple[str, ...], frames: Sequence[int], rows: list[tuple[Any, ...]], qualities: list[Any], one: _OneMessage
) -> tuple[str, ...]:
    """Put properties in the place of codes in these messages, which have the same ones; returns their names."""
    read: dict[str, Any] = {}
    for at, (frame, row, worse) in enumerate(zip(frames, rows, qualities, strict=True)):
        doc = dict(zip(names, row, strict=True))
        read, qualities[at], twice = codes.read(doc, worse)
        rows[at] = tuple(read.values())
        for code in twice:
            one.refuse(frame, Refusal("code", "另有代码对应此属性", "another code stands for this property", code, _short(doc[code])))
    return tuple(read)


def _untimely(ms: int, place: str) -> Refusal:
    """The refusal of a time before 2000 or in the future."""
    if ms < EARLIEST_MS:
        return Refusal("ts-past", "ts 早于 2000 年（应为毫秒）", "ts is before the year 2000 (it is in milliseconds)",
                       f"{place}ts", ms)
    return Refusal("ts-future", "ts 在 24 小时以后", "ts is more than 24 hours in the future", f"{place}ts", ms)


def _one_by_one(group: list[Chunk], builder: BatchBuilder, decoded: Decoded) -> list[Any]:
    """As the first step of `_decode_group`, where some payload is not JSON: that one becomes a dead letter."""
    docs = []
    for chunk in group:
        for number, raw in enumerate(chunk.payloads):
            try:
                doc = orjson.loads(raw)
            except (orjson.JSONDecodeError, RecursionError) as error:
                decoded.dead.append(DeadLetter(
                    chunk.entity, chunk.of[0], chunk.topic or chunk.kind, chunk.ts + number, raw, _not_json(raw, error)
                ))
                continue
            docs.append(doc)
            builder.frames(chunk.entity, chunk.of, chunk.ts + number, (raw,), chunk.dup)
    return docs


def _not_json(raw: bytes, error: Exception) -> Refusal:
    text = str(error)
    if not raw:
        return Refusal("empty", "内容为空", "empty payload")
    if "depth" in text or isinstance(error, RecursionError):
        return Refusal("depth", "JSON 嵌套过深", f"JSON nested too deeply: {text}")
    if "infinity" in text:
        return Refusal("float64", "数值超出 float64 范围", f"number beyond float64: {text}")
    try:
        raw.decode()
    except UnicodeDecodeError as where:
        return Refusal("utf-8", f"第 {where.start} 字节起不是 UTF-8", f"not UTF-8 from byte {where.start}")
    return Refusal("json", "不是 JSON（NaN 与 Infinity 也不是）", f"not JSON (nor are NaN and Infinity): {text}")


def _store_alike(shape: _Shape, frames: Sequence[int], docs: list[dict[str, Any]], one: _OneMessage) -> None:
    """Store messages whose objects have the same names."""
    if one.kind == TELEMETRY and shape.stamped:
        inside = _unstamp(docs, one)
        if inside is not None:
            apart: dict[tuple[str, ...], tuple[list[int], list[Any], array[int]]] = {}
            for frame, doc, ts in zip(frames, *inside, strict=True):
                names = tuple(doc)
                same = apart.get(names)
                if same is None:
                    same = apart[names] = ([], [], array("q"))
                same[0].append(frame)
                same[1].append(doc)
                same[2].append(ts)
            for names, (some, same_docs, stamps) in apart.items():
                if not _store_columns(one.rules.shape(names), some, _rows(same_docs), stamps, one):
                    for frame, doc, ts in zip(some, same_docs, stamps, strict=True):
                        one.store_values(frame, doc, ts, "values.")
            return
    elif _store_columns(shape, frames, _rows(docs), None, one):
        return
    for frame, doc in zip(frames, docs, strict=True):
        one.store(frame, doc)


def _store_list(frame: int, items: list[Any], one: _OneMessage) -> bool:
    """Store a list whose items are alike. False, with nothing stored, if they are not."""
    if one.kind != TELEMETRY or not items or not {dict}.issuperset(map(type, items)):
        return False
    stamps = None
    names = set(map(tuple, items))
    if names == {("ts", "values")}:
        inside = _unstamp(items, one)
        if inside is None:
            return False
        items, stamps = inside
        names = set(map(tuple, items))
    if len(names) != 1 or len(items) * len(items[0]) > MAX_READINGS:
        return False
    return _store_columns(one.rules.shape(names.pop()), [frame] * len(items), _rows(items), stamps, one)


def _unstamp(docs: list[dict[str, Any]], one: _OneMessage) -> tuple[list[dict[str, Any]], array[int]] | None:
    """The objects within `{"ts":..,"values":{..}}` and their times in µs; None if any breaks a rule."""
    times = [doc["ts"] for doc in docs]
    inner = [doc["values"] for doc in docs]
    if (
        {int}.issuperset(map(type, times)) and {dict}.issuperset(map(type, inner))
        and all(inner) and min(times) >= EARLIEST_MS and max(times) <= one.now_ms + SKEW_MS
    ):
        return inner, array("q", [ms * 1000 for ms in times])
    return None


def _rows(docs: list[dict[str, Any]]) -> Iterable[Iterable[Any]]:
    return map(dict.values, docs)


def _store_columns(
    shape: _Shape, frames: Sequence[int], rows: Iterable[Iterable[Any]], stamps: array[int] | None, one: _OneMessage
) -> bool:
    """The fast path, column by column. False, with nothing stored, if some value is not what its column takes."""
    if not shape.plain:
        return False
    builder, count = one.builder, len(frames)
    columns = list(zip(*rows, strict=True))
    measured: list[array[float] | None] = []
    for column, (numbers, text, _) in zip(columns, shape.columns, strict=True):
        if numbers is _NUMERIC or numbers.issuperset(map(type, column)):
            try:
                measured.append(array("d", column))
                continue
            except TypeError:
                pass
        if not text or not {str}.issuperset(map(type, column)):
            return False
        measured.append(None)
    props = list(map(builder.prop, shape.names))
    entities, times = builder.f_entity, builder.f_ts
    if isinstance(frames, range):
        entities, times = entities[frames.start : frames.stop], times[frames.start : frames.stop]
    else:
        entities = array("Q", map(entities.__getitem__, frames))
        if stamps is None:
            times = array("q", map(times.__getitem__, frames))
    if stamps is not None:
        times = stamps
    values = builder.r_val
    for column, known, prop, (_, _, bounds) in zip(columns, measured, props, shape.columns, strict=True):
        row = len(values)
        builder.r_prop.extend(array("H", (prop,)) * count)
        if known is None:
            values.extend(array("d", (NAN,)) * count)
            builder.r_text.update(zip(range(row, row + count), column, strict=True))
            continue
        values.extend(known)
        if bounds is not None:
            low, high = bounds
            if not (min(column) >= low and max(column) <= high):  # so also where one is not a number
                for at, value in enumerate(column, row):
                    if not low <= value <= high:
                        builder.worse[at] = BAD
    width = len(columns)
    builder.r_frame.extend(array("I", frames) * width)
    builder.r_entity.extend(entities * width)
    builder.r_ts.extend(times * width)
    return True


class _OneMessage:
    """The general path: stores one decoded payload after another."""

    __slots__ = ("builder", "decoded", "kind", "now_ms", "rules", "topic")

    def __init__(self, builder: BatchBuilder, rules: Rules, kind: str, now_ms: int, decoded: Decoded,
                 chunk: Chunk) -> None:
        self.builder, self.rules, self.kind, self.now_ms, self.decoded = builder, rules, kind, now_ms, decoded
        self.topic = chunk.topic or kind

    def refuse(self, frame: int, refusal: Refusal) -> None:
        builder = self.builder
        self.decoded.dead.append(DeadLetter(
            builder.f_entity[frame], builder.org_of(frame), self.topic, builder.f_ts[frame], builder.raws[frame],
            refusal,
        ))

    def store(self, frame: int, doc: Any) -> None:
        """Store what the payload says, by the convention of its topic."""
        received = self.builder.f_ts[frame]
        if type(doc) is dict:
            if not doc:
                self.refuse(frame, Refusal("empty", "对象为空", "empty object"))
            elif self._too_many(frame, (doc,)):
                pass
            elif self.kind == TELEMETRY and "ts" in doc and "values" in doc:
                self._store_stamped(frame, doc, "")
            else:
                self.store_values(frame, doc, received, "")
        elif type(doc) is list and self.kind == TELEMETRY:
            if not doc:
                self.refuse(frame, Refusal("empty", "列表为空", "empty list"))
            elif not self._too_many(frame, doc):
                for number, item in enumerate(doc):
                    if type(item) is not dict:
                        self.refuse(frame, Refusal("object", "列表元素不是对象", "list item is not an object",
                                                   f"[{number}]", _short(item)))
                    elif "ts" in item and "values" in item:
                        self._store_stamped(frame, item, f"[{number}].")
                    elif not item:
                        self.refuse(frame, Refusal("empty", "对象为空", "empty object", f"[{number}]"))
                    else:
                        self.store_values(frame, item, received, f"[{number}].")
        else:
            self.refuse(frame, Refusal("object", "内容不是 JSON 对象", "payload is not a JSON object", "", _short(doc)))

    def _too_many(self, frame: int, items: Iterable[Any]) -> bool:
        count = 0
        for item in items:
            if type(item) is dict:
                values = item.get("values") if "ts" in item else None
                count += len(values) if type(values) is dict else len(item)
            else:
                count += 1
        if count <= MAX_READINGS:
            return False
        self.refuse(frame, Refusal("count", f"一条消息的读数超过 {MAX_READINGS} 个",
                                   f"more than {MAX_READINGS} readings in one message", "", count))
        return True

    def _store_stamped(self, frame: int, doc: dict[str, Any], place: str) -> None:
        ms, values = doc["ts"], doc["values"]
        if type(ms) is not int:
            refusal = Refusal("ts", "ts 不是整数毫秒", "ts is not whole milliseconds", f"{place}ts", _short(ms))
        elif not EARLIEST_MS <= ms <= self.now_ms + SKEW_MS:
            refusal = _untimely(ms, place)
        elif type(values) is not dict:
            refusal = Refusal("object", "values 不是对象", "values is not an object", f"{place}values", _short(values))
        elif not values:
            refusal = Refusal("empty", "values 为空", "values is empty", f"{place}values")
        else:
            self.store_values(frame, values, ms * 1000, f"{place}values.")
            return
        self.refuse(frame, refusal)

    def store_values(
        self, frame: int, values: dict[str, Any], ts: int, place: str, worse: Mapping[str, int] | None = None
    ) -> None:
        """Store the readings of one object, all at `ts` (µs); `place` names the object in refusals, `worse` has the
        quality of those that are not good."""
        builder, rules = self.builder, self.rules
        if not values:
            self.refuse(frame, Refusal("empty", "对象为空", "empty object", place.rstrip(".")))
        quality = (worse or {}).get
        for name, value in values.items():
            rule = rules.properties.get(name)
            kind = type(value)
            refusal = name_refusal(name) if rule is None else None
            if refusal is not None:
                pass
            elif rule is None and not rules.open:
                refusal = Refusal("unknown-property", "型号没有此属性", "the model has no such property", place + name)
            elif value is None:
                refusal = Refusal("null", "值为 null", "the value is null", place + name)
            elif rule is not None and not _fits(rule[0], value):
                refusal = Refusal("kind", f"值的类型不是 {rule[0]}", f"the value is not a {rule[0]}", place + name,
                                  _short(value))
            elif kind is int or kind is float or kind is bool:
                number = float(value)
                good = rule is None or (
                    (rule[1] is None or number >= rule[1]) and (rule[2] is None or number <= rule[2])
                )
                builder.reading(frame, name, ts, number, None, quality(name, GOOD) if good else BAD)
            elif kind is str:
                builder.reading(frame, name, ts, NAN, value, quality(name, GOOD))
            else:
                try:
                    text = orjson.dumps(value).decode()
                except (orjson.JSONEncodeError, RecursionError):
                    refusal = Refusal("depth", "JSON 嵌套过深", "JSON nested too deeply", place + name)
                else:
                    builder.reading(frame, name, ts, NAN, text)
            if refusal is not None:
                self.refuse(frame, refusal)


def _fits(kind: str, value: Any) -> bool:
    of = type(value)
    if kind == "number":
        return of is int or of is float
    if kind == "boolean":
        return of is bool or (of is int and value in (0, 1))
    if kind == "string":
        return of is str
    return True


def _short(value: Any) -> Any:
    if isinstance(value, int | float | bool) or value is None:
        return value
    if isinstance(value, str):
        return value[:80]
    return type(value).__name__
