"""Temporal evolutions as values: what is asked of them, how they are cut, judged and written.

Law: pure functions and small states that are fed; where the instances come from is `temporal`'s matter.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.5.6 to 4.5.9, 4.11, 5.2.20, 5.7.4.4, 6.3.10.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tulou.context import forms, journal, query
from tulou.context import selection as selecting
from tulou.context.aggregates import METHODS, Summary
from tulou.context.columns import micros
from tulou.context.errors import bad
from tulou.context.forms import Json, Reader
from tulou.context.journal import Point
from tulou.context.jsonld import Context, is_iri
from tulou.context.matching import EVERY
from tulou.context.paging import Cursor
from tulou.context.selection import Selection

ONLY_HISTORY = 1 << 61
"""Added to the number of an entity without a current state, so that cursors come to them last."""

_DURATION = re.compile(r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")


class Span(NamedTuple):
    """A temporal query: `start <= t < end` in µs by `timeproperty`, the newest `last` instances of each attribute.

    `style`: normalized, concise, temporalValues or aggregatedValues, which has `methods` per `period` µs. `names` are
    stored attribute names (None: all), `datasets` the wanted ones.
    """

    start: int | None = None
    end: int | None = None
    last: int | None = None
    style: str = "normalized"
    methods: tuple[str, ...] = ()
    period: int | None = None
    timeproperty: str = "observedAt"
    names: frozenset[str] | None = None
    datasets: frozenset[str] | None = None

    @property
    def windowed(self) -> bool:
        """Whether a time relation was given: then an instance must have the time property."""
        return self.start is not None or self.end is not None

    def covers(self, point: Point) -> bool:
        """Whether a point is in the time and of the datasets."""
        return (
            (self.start is None or point.time >= self.start) and (self.end is None or point.time < self.end)
            and (self.datasets is None or point.body.get("datasetId", "@none") in self.datasets)
        )


def duration(text: object) -> int | None:
    """Microseconds of an ISO 8601 duration; None for `PT0S`, which means the whole span. A month is 30 days.

    Raises `BadRequestData`.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None or not any(group is not None for group in match.groups()):
        raise bad("aggrPeriodDuration 应为 ISO 8601 时长（如 PT1H）", "aggrPeriodDuration must be an ISO 8601 duration",
                  field="aggrPeriodDuration", value=text, rule="CIM 009, 4.5.19")
    years, months, weeks, days, hours, minutes, seconds = (float(g or 0) for g in match.groups())
    total = (years * 365 + months * 30 + weeks * 7 + days) * 86400 + hours * 3600 + minutes * 60 + seconds
    return int(total * 1e6) or None


def span(parameters: Mapping[str, str], *, needed: bool, style: str) -> Span:
    """Read timerel, timeAt, endTimeAt, timeproperty, lastN, aggrMethods and aggrPeriodDuration (4.11, 5.7.3).

    Raises `BadRequestData`.
    """
    relation, at, until = (parameters.get(name) for name in ("timerel", "timeAt", "endTimeAt"))
    timeproperty = parameters.get("timeproperty", "observedAt")
    if timeproperty not in journal.PROPERTIES:
        raise bad(f"timeproperty 应为 {'、'.join(journal.PROPERTIES)}",
                  f"timeproperty must be among {', '.join(journal.PROPERTIES)}",
                  field="timeproperty", value=timeproperty, rule="CIM 009, 4.11")
    start = end = None
    if relation is None:
        if needed or at is not None:
            raise bad("缺少 timerel", "timerel is missing", field="timerel", rule="CIM 009, 4.11")
    elif relation not in ("before", "after", "between"):
        raise bad("timerel 应为 before、after、between", "timerel must be before, after or between",
                  field="timerel", value=relation, rule="CIM 009, 4.11")
    elif at is None:
        raise bad("缺少 timeAt", "timeAt is missing", field="timeAt", rule="CIM 009, 4.11")
    else:
        when = forms.micros(forms.datetime_text(at, "timeAt"))
        if relation == "before":
            end = when
        else:
            start = when
        if relation == "between":
            if until is None:
                raise bad("缺少 endTimeAt", "endTimeAt is missing", field="endTimeAt", rule="CIM 009, 4.11")
            end = forms.micros(forms.datetime_text(until, "endTimeAt"))
    last = None
    if "lastN" in parameters:
        raw = parameters["lastN"]
        if not (raw.isascii() and raw.isdigit() and 0 < int(raw[:9]) <= 1_000_000):
            raise bad("lastN 应为正整数", "lastN must be a positive integer", field="lastN", value=raw)
        last = int(raw[:9])
    methods: tuple[str, ...] = ()
    period = None
    if style == "aggregatedValues":
        methods = tuple(filter(None, parameters.get("aggrMethods", "").split(",")))
        if not methods or any(method not in METHODS for method in methods):
            raise bad(f"aggrMethods 应为 {', '.join(METHODS)}", f"aggrMethods must be among {', '.join(METHODS)}",
                      field="aggrMethods", value=parameters.get("aggrMethods"), rule="CIM 009, 4.5.19")
        period = duration(parameters["aggrPeriodDuration"]) if "aggrPeriodDuration" in parameters else None
    return Span(start, end, last, style, methods, period, timeproperty)


def provided(raw: object, context: Context, *, fragment: bool = False) -> tuple[Json, dict[str, list[Json]]]:
    """Read an EntityTemporal (5.2.20) or, with `fragment`, a part of one: (id and type, instances by stored name).

    A deleted instance, whose value is NGSI-LD Null, is allowed (5.5.4). Raises `BadRequestData`.
    """
    if not isinstance(raw, dict):
        raise bad("实体应为 JSON 对象", "an entity must be a JSON object", field="entity", rule="object")
    reader = Reader(context, nulls=True)
    strict = Reader(context)
    members = {name: value for name, value in raw.items() if name in ("id", "@id", "type", "@type", "expiresAt")}
    head = strict.fragment(members) if fragment else strict.entity(members)
    attributes: dict[str, list[Json]] = {}
    for name, value in raw.items():
        if name in members or name == "@context" or name in forms.SYSTEM:
            continue
        items = value if isinstance(value, list) and value and all(isinstance(item, dict) for item in value) else [value]
        if name == "scope":
            attributes["scope"] = [_scope(strict, item) for item in items]
            continue
        key = context.stored(name)
        if key in forms.ENTITY_MEMBERS or key in attributes:
            raise bad(f"属性 {name} 重复或不可用", f"attribute {name} is given twice or cannot be one", field=name)
        attributes[key] = [forms.instances(reader.attribute(name, item))[0] for item in items]
    if not attributes and fragment:
        raise bad("没有属性", "there is no attribute", field="entity", rule="CIM 009, 5.6.12")
    return head, attributes


def _scope(reader: Reader, raw: Any) -> Json:
    """An instance of the scope (4.5.6)."""
    if not isinstance(raw, dict):
        return {"type": "Property", "value": reader.scope(raw)}
    out: Json = {"type": "Property", "value": reader.scope({"type": "Property", **raw})}
    if "observedAt" in raw:
        out["observedAt"] = forms.datetime_text(raw["observedAt"], "scope.observedAt")
    return out


# ---- what is found ------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """An entity with a history. `no` is its number among current entities, `only` that among those without a state."""

    no: int | None
    only: int | None
    id: str
    org: str
    types: tuple[str, ...]
    created_at: int
    modified_at: int

    @property
    def numbers(self) -> list[int]:
        """Its numbers in the journal."""
        return [number for number in (self.no, -self.only if self.only else None) if number is not None]

    @property
    def cursor(self) -> int:
        """Its place in the order of pages."""
        return self.no if self.no is not None else ONLY_HISTORY + (self.only or 0)


class Evolution(NamedTuple):
    """An entity and the instances of its attributes by stored name, or their summaries."""

    entity: Found
    points: dict[str, list[Point]]
    kinds: dict[str, str]
    summaries: dict[str, list[Summary]]


class Told(NamedTuple):
    """What context sources told of an entity: (attribute, instance); `spare` by auxiliary source, which only counts where
    nobody else has the attribute; and the attributes that the house leaves to them, or `EVERY`."""

    points: Sequence[tuple[str, Point]] = ()
    spare: Sequence[Sequence[tuple[str, Point]]] = ()
    hidden: frozenset[str] = frozenset()

    def hides(self, name: str) -> bool:
        """Whether the house's own instances of an attribute do not count."""
        return self.hidden is EVERY or name in self.hidden


class Answer(NamedTuple):
    """Evolutions; where they were cut, (start, end) in µs; the neighbouring pages; the count where it was asked for."""

    evolutions: list[Evolution]
    cut: tuple[int, int] | None = None
    next: Cursor | None = None
    prev: Cursor | None = None
    total: int | None = None


class Gathered:
    """Points of several entities, at most about twice `limit` of them: what is beyond is dropped as it comes.

    With `last`, the newest `last` of each attribute and, if that is too much, the newest `limit` of all; else the oldest.
    """

    def __init__(self, limit: int, last: int | None) -> None:
        self.limit = limit
        self.last = last
        self.bound: int | None = None
        self.points: dict[tuple[int, str], dict[Any, Point]] = {}
        self.kinds: dict[tuple[int, str], str] = {}
        self.count = 0
        self._prune_at = 2 * limit + 2

    def add(self, of: int, name: str, point: Point, *, observed: bool) -> None:
        """Take a point of entity `of`; of several of one attribute, dataset and observedAt the last written stays.

        What is first told stands against another's of unknown or the same time of writing (4.5.5.3).
        """
        self.kinds.setdefault((of, name), point.body["type"])
        if self.bound is not None and (point.time < self.bound if self.last else point.time > self.bound):
            return
        own = self.points.setdefault((of, name), {})
        dataset = point.body.get("datasetId")
        key = (dataset, point.time) if observed and "observedAt" in point.body else (point.no, point.place, point.time)
        known = own.get(key)
        if known is None:
            self.count += 1
            own[key] = point
            if self.last and len(own) > 2 * self.last:
                self._newest(own)
        elif point.no >= known.no if point.source == known.source else _written(point) > _written(known):
            own[key] = point
        if self.count > self._prune_at:
            self._prune()
            self._prune_at = max(self._prune_at, 2 * self.count)

    def _newest(self, own: dict[Any, Point]) -> None:
        assert self.last is not None
        old = sorted(own, key=lambda key: own[key].time)[: -self.last]
        for key in old:
            del own[key]
        self.count -= len(old)

    def _times(self) -> list[int]:
        return sorted(point.time for own in self.points.values() for point in own.values())

    def _keep(self, wanted: Callable[[Point], bool]) -> None:
        for key, own in self.points.items():
            self.points[key] = {k: point for k, point in own.items() if wanted(point)}
        self.count = sum(map(len, self.points.values()))

    def _prune(self) -> None:
        if self.last:
            for own in self.points.values():
                self._newest(own)
        if self.count > self.limit:
            times = self._times()
            bound = self.bound = times[-self.limit - 1] if self.last else times[self.limit]
            self._keep((lambda p: p.time >= bound) if self.last else (lambda p: p.time <= bound))

    def finish(self) -> bool:
        """Keep what is to be shown; True if something was cut off. Instances of one time are never parted."""
        self._prune()
        if self.count > self.limit:
            times = self._times()
            at = times[-self.limit - 1] if self.last else times[self.limit]
            if at != (times[-1] if self.last else times[0]):
                self._keep((lambda p: p.time > at) if self.last else (lambda p: p.time < at))
        return self.bound is not None


def _written(point: Point) -> int:
    return micros(point.body["modifiedAt"]) if "modifiedAt" in point.body else point.at


class Judge:
    """Decides whether an entity satisfies a query by its instances, which are fed to it in parts (5.7.4.4).

    A condition holds if it holds for some instance; `!=` and `!~=` must hold for every one.
    """

    def __init__(self, selection: Selection, wanted: Span) -> None:
        self.selection = selection
        self.wanted = wanted.names
        self.state: dict[query.Term, list[bool]] = {term: [False, False] for term in _terms(selection.q)}
        self.hit = False
        self.placed = selection.geo is None
        self.universal = any(term.operator.startswith("!") for term in self.state)

    @property
    def names(self) -> frozenset[str] | None:
        """The attributes that it must see; None: any."""
        more = {term.path.names[0] for term in self.state if term.path.names}
        if self.selection.geo is not None:
            more.add(self.selection.geo.geoproperty)
        if self.wanted is None:
            return frozenset(more) or None  # a condition that holds has seen an instance
        return self.wanted | more

    def see(self, name: str) -> None:
        """Note that there is an instance of an attribute in the time, be it when its scope did not match."""
        self.hit = self.hit or (name != "scope" and (self.wanted is None or name in self.wanted))

    def feed(self, part: Json) -> None:
        """Take instances by attribute, `{stored name: [instances]}`."""
        for name in part:
            self.see(name)
        for term, state in self.state.items():
            if term.path.names and term.path.names[0] in part and query.matches(query.Term(term.path), part):
                state[query.matches(term, part)] = True
        if not self.placed and self.selection.geo is not None:
            self.placed = selecting.geo_matches(self.selection.geo, part)

    @property
    def holds(self) -> bool:
        """Whether what was fed so far satisfies the query."""
        return self.hit and self.placed and (self.selection.q is None or self._node(self.selection.q))

    @property
    def decided(self) -> bool:
        """Whether nothing that may follow can change that it holds."""
        return not self.universal and self.holds

    def _node(self, node: query.Node) -> bool:
        if isinstance(node, query.Term):
            no, yes = self.state[node]
            return yes and not (no and node.operator.startswith("!"))
        assert not isinstance(node, query.Linked)
        if isinstance(node, query.All):
            return all(map(self._node, node.parts))
        return any(map(self._node, node.parts))


def _terms(node: query.Node | None) -> Iterator[query.Term]:
    if isinstance(node, query.Term):
        yield node
    elif isinstance(node, query.All | query.Any_):
        for part in node.parts:
            yield from _terms(part)


class Scopes(NamedTuple):
    """When an entity's scopes satisfied a scope query: [from, to) in µs, and the instances that were valid then."""

    times: list[tuple[int, int]]
    points: list[Point]

    def has(self, time: int) -> bool:
        """Whether the scopes satisfied it then."""
        return any(start <= time < end for start, end in self.times)


Within = dict[int, Scopes]
"""Scopes by place in a list of entities; empty without a scope query."""


class Matches(NamedTuple):
    """Entities of a page of a query and their scopes; which of some ids are in the whole result (as far as it was looked
    at); and its size, None where it was not looked at to the end."""

    page: list[Found]
    within: Within
    held: set[str]
    total: int | None


def span_of(wanted: Span, first: int, last: int) -> tuple[int, int]:
    """The (start, end) of a cut answer (6.3.10): backwards with `lastN`, else forwards."""
    if wanted.last:
        return (wanted.end if wanted.end is not None else last), first
    return (wanted.start if wanted.start is not None else first), last


# ---- representation -----------------------------------------------------------------------------------------------

_VALUES = {
    "Property": "values", "GeoProperty": "values", "Relationship": "objects", "LanguageProperty": "languageMaps",
    "VocabProperty": "vocabs", "JsonProperty": "jsons", "ListProperty": "valueLists", "ListRelationship": "objectLists",
}
"""The member of the simplified temporal representation that holds the values (4.5.9)."""


def write(
    evolution: Evolution, wanted: Span, context: Context, *, system: bool = False, lang: str | None = None,
    keep: frozenset[str] | None = None, drop: frozenset[str] = frozenset(),
) -> Json:
    """An entity's temporal representation (4.5.6 to 4.5.9, 4.5.19). `keep` and `drop` are of its members `id`, `type`."""
    entity = evolution.entity
    types = [context.shown(name) for name in entity.types]
    out: Json = {"id": entity.id, "type": types[0] if len(types) == 1 else types}
    out = {name: value for name, value in out.items() if (keep is None or name in keep) and name not in drop}
    for name, summaries in evolution.summaries.items():
        items = [summary.shown() for summary in summaries]
        out[context.shown(name)] = items[0] if len(items) == 1 else items
    of = journal.owner(entity.org, entity.id)
    for name, points in sorted(evolution.points.items()):
        if lang is not None:
            points = [point._replace(body=forms.in_language(point.body, lang)) for point in points]
        shown = name if name == "scope" else context.shown(name)
        if wanted.style == "temporalValues":
            out[shown] = _values(points, evolution.kinds[name], context)
        else:
            items = [_instance(name, point, of, context, system) for point in points]
            if wanted.style == "concise":
                items = [{key: value for key, value in item.items() if key != "type"} for item in items]
            out[shown] = items
    if system and entity.modified_at:
        out["createdAt"], out["modifiedAt"] = forms.moment(entity.created_at), forms.moment(entity.modified_at)
    return out


def _instance(name: str, point: Point, of: str, context: Context, system: bool) -> Json:
    out = forms.rename(point.body, context, system)
    modified = out.pop("modifiedAt", None)
    if system and point.no >= 0 and "deletedAt" not in out:
        out["createdAt"] = forms.moment(point.at)
        out["modifiedAt"] = modified or out["createdAt"]
    if point.source is None:
        out["instanceId"] = journal.instance_id(of, name, point)
    elif point.place:
        out["instanceId"] = point.place
    return out


def _values(points: Sequence[Point], kind: str, context: Context) -> Any:
    groups: dict[tuple[str, str | None], list[Any]] = {}
    for point in points:
        body = point.body
        pair = [forms.simplified(body, context), forms.moment(point.time)]
        groups.setdefault((body["type"], body.get("datasetId")), []).append(pair)
    items = [
        {"type": type, **({"datasetId": dataset} if dataset else {}), _VALUES[type]: pairs}
        for (type, dataset), pairs in (groups or {(kind, None): []}).items()
    ]
    return items[0] if len(items) == 1 else items


def instance_uri(text: str) -> str:
    """Check an `instanceId`. Raises `BadRequestData` unless it is a URI."""
    if is_iri(text):
        return text
    raise bad("instanceId 应为 URI", "instanceId must be a URI", field="instanceId", value=text, rule="URI")
