"""Aggregates of instances per period (clause 4.5.19): of the journal's here, of readings by their store.

Law: pure functions. Text has a count, distinct values, a least and a greatest; numbers and booleans (0, 1) and the
lengths of arrays have all; what is else is only counted. Periods count from the start of the query, or the first instance.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.5.19 and 4.5.19.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from tulou.context.forms import Json, moment

METHODS = ("totalCount", "distinctCount", "sum", "avg", "min", "max", "stddev", "sumsq")
_PARTIAL = ("totalCount", "sum", "sumsq", "min", "max")
_COUNTS = frozenset({"totalCount", "distinctCount"})

Values = Mapping[str, Any]
"""Aggregates by method; None where undefined."""


class Summary(NamedTuple):
    """Aggregates of one attribute and dataset: rows `[value, from, to]` by method."""

    kind: str
    dataset: str | None
    rows: dict[str, list[list[Any]]]

    def shown(self) -> Json:
        """The aggregated temporal representation."""
        return {"type": self.kind, **({"datasetId": self.dataset} if self.dataset else {}), **self.rows}


class Series(NamedTuple):
    """Instances of one attribute and dataset: (µs, value) by what tells them apart."""

    kind: str
    values: dict[Any, tuple[int, Any]]

    def buckets(self, methods: Sequence[str], origin: int, period: int | None) -> dict[int, dict[str, Any]]:
        """Aggregates by number of period."""
        groups: dict[int, list[Any]] = {}
        for time, value in self.values.values():
            groups.setdefault((time - origin) // period if period else 0, []).append(value)
        return {number: aggregate(group, methods) for number, group in groups.items()}


def aggregate(values: Sequence[Any], methods: Sequence[str]) -> dict[str, Any]:
    """The aggregates of values."""
    numbers = [float(len(v) if isinstance(v, list) else v) for v in values if isinstance(v, int | float | list)]
    texts = [value for value in values if isinstance(value, str)]
    out: dict[str, Any] = {}
    for method in methods:
        if method == "totalCount":
            out[method] = len(values)
        elif method == "distinctCount":
            out[method] = len({orjson.dumps(value, option=orjson.OPT_SORT_KEYS) for value in values})
        elif method in ("min", "max") and texts and not numbers:
            out[method] = min(texts) if method == "min" else max(texts)
        else:
            out[method] = _number(method, numbers) if numbers else None
    return out


def _number(method: str, numbers: Sequence[float]) -> float:
    total, squares, count = math.fsum(numbers), math.fsum(n * n for n in numbers), len(numbers)
    match method:
        case "sum":
            return total
        case "sumsq":
            return squares
        case "avg":
            return total / count
        case "min":
            return min(numbers)
        case "max":
            return max(numbers)
    return math.sqrt(max(0.0, math.fsum((n - total / count) ** 2 for n in numbers) / count))


def needed(methods: Sequence[str]) -> list[str]:
    """What the readings store must give so that its aggregates can be merged with the journal's."""
    return list(dict.fromkeys([*methods, *_PARTIAL]))


def merged(left: Values, right: Values) -> dict[str, Any]:
    """Aggregates of two disjoint groups of numbers together. Values distinct in each count twice if both have them."""
    out: dict[str, Any] = {}
    count = (left["totalCount"] or 0) + (right["totalCount"] or 0)

    def both(method: str, how: Any) -> Any:
        known = [v for v in (left.get(method), right.get(method)) if isinstance(v, int | float)]
        return how(known) if known else None

    total, squares = both("sum", math.fsum), both("sumsq", math.fsum)
    for method in {**left, **right}:
        if method in _COUNTS:
            out[method] = both(method, sum)
        elif method in ("sum", "sumsq"):
            out[method] = total if method == "sum" else squares
        elif method in ("min", "max"):
            out[method] = both(method, min if method == "min" else max)
        elif total is None or squares is None or not count:
            out[method] = None
        elif method == "avg":
            out[method] = total / count
        else:
            out[method] = math.sqrt(max(0.0, squares / count - (total / count) ** 2))
    return out


def rows(
    buckets: Mapping[int, Values], methods: Sequence[str], origin: int, period: int | None, end: int
) -> dict[str, list[list[Any]]]:
    """`[value, from, to]` by method and period; without a period, over the whole time of the query."""
    out: dict[str, list[list[Any]]] = {}
    for method in methods:
        shown = []
        for number, values in sorted(buckets.items()):
            value = values.get(method)
            if value is None:
                continue
            first = origin + number * period if period else origin
            last = first + period if period else end
            value = int(value) if method in _COUNTS else value
            shown.append([value, moment(first), moment(last)])
        out[method] = shown
    return out
