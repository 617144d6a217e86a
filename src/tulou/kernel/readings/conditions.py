"""Conditions on readings that a store can test by itself: a small tree, and its SQL for ClickHouse.

Law: pure. Only what is listed here becomes SQL; constants are always bound parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tulou.kernel.errors import Invalid

FIELDS = {"value": "r.value", "text": "r.text", "ts": "r.ts", "quality": "r.quality", "origin": "r.origin"}

_OPERATORS = {
    "and": "({} AND {})", "or": "({} OR {})", "not": "(NOT {})", "neg": "(-{})",
    "eq": "({} = {})", "ne": "({} != {})", "gt": "({} > {})", "ge": "({} >= {})", "lt": "({} < {})", "le": "({} <= {})",
    "add": "({} + {})", "sub": "({} - {})", "mul": "({} * {})", "div": "({} / {})", "mod": "({} % {})",
    "round": "floor({} + 0.5)", "floor": "floor({})", "ceiling": "ceil({})",
    "length": "toInt64(lengthUTF8({}))", "tolower": "lowerUTF8({})", "toupper": "upperUTF8({})",
    "trim": "trimBoth({})", "concat": "concat({}, {})", "contains": "(position({}, {}) > 0)",
    "startswith": "startsWith({}, {})", "endswith": "endsWith({}, {})",
    "indexof": "(toInt64(positionUTF8({}, {})) - 1)", "substring": "substringUTF8({}, toInt64({}) + 1)",
    "substring3": "substringUTF8({}, toInt64({}) + 1, toInt64({}))",
    "year": "toYear({})", "month": "toMonth({})", "day": "toDayOfMonth({})", "hour": "toHour({})",
    "minute": "toMinute({})", "second": "toSecond({})", "date": "toDate({})",
    "fractionalseconds": "((toUnixTimestamp64Micro({}) % 1000000) / 1000000)",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a reading: `value`, `text`, `ts`, `quality` or `origin`."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A value; a `time` is µs since the epoch, a `date` its ISO 8601 text."""

    value: float | int | str | bool
    kind: Literal["", "time", "date"] = ""


@dataclass(frozen=True, slots=True)
class Term:
    """An operator or function on conditions."""

    name: str
    args: tuple[Condition, ...]


Condition = Field | Constant | Term


def clickhouse(node: Condition, bound: dict[str, Any]) -> str:
    """The SQL of a condition over `readings AS r`; constants go into `bound`. Raises `Invalid` for what has no SQL."""
    if isinstance(node, Field):
        return FIELDS[node.name]
    if isinstance(node, Constant):
        value = node.value
        if isinstance(value, bool):
            return "true" if value else "false"
        name = f"c{len(bound)}"
        bound[name] = value
        if node.kind == "time":
            return f"fromUnixTimestamp64Micro({{{name}:Int64}}, 'UTC')"
        if node.kind == "date":
            return f"toDate({{{name}:String}})"
        return f"{{{name}:{'String' if isinstance(value, str) else 'Float64'}}}"
    form = _OPERATORS.get(node.name)
    if form is None or form.count("{}") != len(node.args):
        raise Invalid(f"读数库不能计算 {node.name}", f"the readings store cannot compute {node.name}", field="$filter",
                      value=node.name, rule=" | ".join(sorted(_OPERATORS)))
    return form.format(*(clickhouse(arg, bound) for arg in node.args))
