"""Temporal evolution of entities: what the readings store holds, in NGSI-LD's temporal representations.

Law: only numeric and text readings of properties have a history; which entities one may ask about is decided by the
entities' service before anything is read here.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.5.6 to 4.5.9, 4.5.19, 4.11, 5.7.3, 5.7.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tulou.context import forms
from tulou.context.errors import bad
from tulou.context.forms import Json
from tulou.context.jsonld import Context
from tulou.context.service import ContextService
from tulou.context.store import Row
from tulou.kernel.policy import Actor, operation
from tulou.kernel.readings import METHODS

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ = "context.temporal.read"
INSTANCES = 1000
"""Most instances of one attribute in an answer."""

_DURATION = re.compile(r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
AGGREGATES = ("totalCount", "distinctCount", "sum", "avg", "min", "max", "stddev", "sumsq")


class Span(NamedTuple):
    """A temporal query: `start <= t < end` in µs, the newest `last` instances, aggregates per `period` µs."""

    start: int | None = None
    end: int | None = None
    last: int | None = None
    style: str = "normalized"
    methods: tuple[str, ...] = ()
    period: int | None = None


def duration(text: str) -> int | None:
    """Microseconds of an ISO 8601 duration; None for `PT0S`, which means the whole span. A month is 30 days.

    Raises `BadRequestData`.
    """
    match = _DURATION.fullmatch(text)
    if match is None or not any(group is not None for group in match.groups()):
        raise bad("aggrPeriodDuration 应为 ISO 8601 时长（如 PT1H）", "aggrPeriodDuration must be an ISO 8601 duration",
                  field="aggrPeriodDuration", value=text, rule="CIM 009, 4.5.19")
    years, months, weeks, days, hours, minutes, seconds = (float(g or 0) for g in match.groups())
    total = (years * 365 + months * 30 + weeks * 7 + days) * 86400 + hours * 3600 + minutes * 60 + seconds
    return int(total * 1e6) or None


def span(parameters: Mapping[str, str], *, needed: bool, style: str) -> Span:
    """Read timerel, timeAt, endTimeAt, lastN, aggrMethods and aggrPeriodDuration (4.11, 5.7.3). Raises `BadRequestData`."""
    relation, at, until = (parameters.get(name) for name in ("timerel", "timeAt", "endTimeAt"))
    if parameters.get("timeproperty", "observedAt") != "observedAt":
        raise bad("timeproperty 目前只支持 observedAt", "timeproperty: only observedAt is kept here",
                  field="timeproperty", value=parameters["timeproperty"])
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
            start = when + (relation == "after")
        if relation == "between":
            if until is None:
                raise bad("缺少 endTimeAt", "endTimeAt is missing", field="endTimeAt", rule="CIM 009, 4.11")
            end = forms.micros(forms.datetime_text(until, "endTimeAt"))
            start = when + 1
    last = None
    if "lastN" in parameters:
        raw = parameters["lastN"]
        if not (raw.isascii() and raw.isdigit() and 0 < int(raw[:9]) <= 1_000_000):
            raise bad("lastN 应为正整数", "lastN must be a positive integer", field="lastN", value=raw)
        last = min(int(raw[:9]), INSTANCES)
    methods: tuple[str, ...] = ()
    period = None
    if style == "aggregatedValues":
        methods = tuple(filter(None, parameters.get("aggrMethods", "").split(",")))
        if not methods or any(m not in AGGREGATES or m not in METHODS for m in methods):
            raise bad(f"aggrMethods 应为 {', '.join(AGGREGATES)}", f"aggrMethods must be among {', '.join(AGGREGATES)}",
                      field="aggrMethods", value=parameters.get("aggrMethods"), rule="CIM 009, 4.5.19")
        period = duration(parameters["aggrPeriodDuration"]) if "aggrPeriodDuration" in parameters else None
    return Span(start, end, last, style, methods, period)


class Temporal:
    """The operations on history."""

    def __init__(self, house: House, entities: ContextService) -> None:
        self.house = house
        self.policy = house.policy
        self.entities = entities

    @operation(READ)
    async def evolve(
        self, actor: Actor, rows: Sequence[Row], wanted: Span, names: Sequence[str] | None, context: Context
    ) -> tuple[list[Json], tuple[int, int] | None]:
        """Temporal representations of `rows`, which the actor was given by an operation on entities.

        `names` are stored attribute names, None for all. The second result is (first, last) µs of what is shown where
        it is not everything, for `Content-Range`; entities without any instance have no attributes.
        """
        orgs = self.policy.require_any(actor, READ)
        rows = [row for row in rows if row.org in orgs]
        shown = self.entities.names.shown
        properties = None if names is None else [shown(name) for name in names]
        numbers = [row.no for row in rows]
        if not numbers:
            return [], None
        if wanted.style == "aggregatedValues":
            return await self._aggregated(rows, wanted, properties, context), None
        history = await self.house.readings.history(
            numbers, properties, wanted.start, wanted.end, orgs=orgs, limit=(wanted.last or INSTANCES) + 1,
            order="desc" if wanted.last else "asc",
        )
        cut: list[int] = []
        documents: list[Json] = []
        for row in rows:
            document = self._head(row, context)
            for name, values in sorted(history.get(row.no, {}).items()):
                stored, unit, kind = self.entities._property(row.type, name)
                if not stored:
                    continue
                most = wanted.last or INSTANCES
                if len(values) > most:
                    values = values[:most]
                    if not wanted.last:
                        cut += [values[0].ts, values[-1].ts]
                points = [(_plain(value.value, kind), forms.moment(value.ts)) for value in values]
                if wanted.style == "temporalValues":
                    document[context.shown(stored)] = {"type": "Property", "values": [list(p) for p in points]}
                else:
                    extra = {"unitCode": unit} if unit else {}
                    document[context.shown(stored)] = [
                        {"type": "Property", "value": value, "observedAt": at, **extra} for value, at in points
                    ]
            documents.append(document)
        return documents, (min(cut), max(cut)) if cut else None

    def _head(self, row: Row, context: Context) -> Json:
        kind = row.document["type"]
        return {
            "id": row.id,
            "type": context.shown(kind) if isinstance(kind, str) else [context.shown(item) for item in kind],
        }

    async def _aggregated(
        self, rows: Sequence[Row], wanted: Span, properties: Sequence[str] | None, context: Context
    ) -> list[Json]:
        orgs = sorted({row.org for row in rows})
        found = await self.house.readings.aggregate(
            list(wanted.methods), orgs=orgs, entities=[row.no for row in rows], properties=properties,
            start=wanted.start, end=wanted.end, period=wanted.period,
        )
        by_entity: dict[int, dict[str, list[Any]]] = {}
        for bucket in found:
            if bucket.entity is not None and bucket.property is not None:
                by_entity.setdefault(bucket.entity, {}).setdefault(bucket.property, []).append(bucket)
        documents = []
        for row in rows:
            document = self._head(row, context)
            for name, buckets in sorted(by_entity.get(row.no, {}).items()):
                stored, _, _ = self.entities._property(row.type, name)
                if not stored:
                    continue
                attribute: Json = {"type": "Property"}
                for method in wanted.methods:
                    attribute[method] = [
                        [bucket.values[method], *_bounds(bucket.start, wanted)]
                        for bucket in sorted(buckets, key=lambda b: b.start or 0)
                        if bucket.values.get(method) is not None
                    ]
                document[context.shown(stored)] = attribute
            documents.append(document)
        return documents


def _bounds(start: int | None, wanted: Span) -> list[str | None]:
    first = start if start is not None else wanted.start
    last = first + wanted.period if wanted.period and first is not None else wanted.end
    return [forms.moment(first) if first is not None else None, forms.moment(last) if last is not None else None]


def _plain(value: float | str, kind: str) -> Any:
    return bool(value) if kind == "boolean" and isinstance(value, float) else value
