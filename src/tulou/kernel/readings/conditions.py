"""Conditions on readings that a store can test by itself: a small tree, and its SQL for ClickHouse.

Law: pure. Only what is listed here becomes SQL, and only with arguments of the types listed; constants are always bound
parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tulou.kernel.errors import Invalid

FIELDS: Mapping[str, tuple[str, str]] = {
    "value": ("r.value", "number"), "text": ("r.text", "text"), "ts": ("r.ts", "time"), "quality": ("r.quality", "number"),
    "origin": ("r.origin", "number"),
}
"""Column of a field, and its type: number, text, time, date or bool."""

_COMPARISONS = {"eq": "=", "ne": "!=", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_OPERATORS: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "and": ("({} AND {})", ("bool", "bool"), "bool"), "or": ("({} OR {})", ("bool", "bool"), "bool"),
    "not": ("(NOT {})", ("bool",), "bool"), "neg": ("(-{})", ("number",), "number"),
    **{name: (f"({{}} {sign} {{}})", ("number", "number"), "number")
       for name, sign in {"add": "+", "sub": "-", "mul": "*", "div": "/"}.items()},
    "mod": ("(toFloat64({}) % toFloat64({}))", ("number", "number"), "number"),
    "round": ("floor({} + 0.5)", ("number",), "number"), "floor": ("floor({})", ("number",), "number"),
    "ceiling": ("ceil({})", ("number",), "number"),
    "length": ("toInt64(lengthUTF8({}))", ("text",), "number"), "tolower": ("lowerUTF8({})", ("text",), "text"),
    "toupper": ("upperUTF8({})", ("text",), "text"), "trim": ("trimBoth({})", ("text",), "text"),
    "concat": ("concat({}, {})", ("text", "text"), "text"), "contains": ("(position({}, {}) > 0)", ("text", "text"), "bool"),
    "startswith": ("startsWith({}, {})", ("text", "text"), "bool"), "endswith": ("endsWith({}, {})", ("text", "text"), "bool"),
    "indexof": ("(toInt64(positionUTF8({}, {})) - 1)", ("text", "text"), "number"),
    "substring": ("substringUTF8({}, toInt64(greatest({}, 0)) + 1)", ("text", "number"), "text"),
    "substring3": (
        "substringUTF8({}, toInt64(greatest({}, 0)) + 1, toInt64(greatest({}, 0)))", ("text", "number", "number"), "text"),
    **{name: (f"{function}({{}})", ("time",), "number") for name, function in {
        "year": "toYear", "month": "toMonth", "day": "toDayOfMonth", "hour": "toHour", "minute": "toMinute",
        "second": "toSecond"}.items()},
    "fractionalseconds": ("((toUnixTimestamp64Micro({}) % 1000000) / 1000000)", ("time",), "number"),
    "date": ("toDate32({})", ("time",), "date"),
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
    sql, kind = _compiled(node, bound)
    if kind != "bool":
        raise _refused("$filter", "a condition")
    return sql


def _compiled(node: Condition, bound: dict[str, Any]) -> tuple[str, str]:
    if isinstance(node, Field):
        return FIELDS[node.name]
    if isinstance(node, Constant):
        return _constant(node, bound)
    args = [_compiled(arg, bound) for arg in node.args]
    kinds = tuple(kind for _, kind in args)
    if node.name in _COMPARISONS and len(args) == 2:
        one, two = args[0][0], args[1][0]
        if set(kinds) == {"bool", "number"}:  # booleans are stored as 1 and 0
            one, two = f"toFloat64({one})", f"toFloat64({two})"
        elif kinds[0] != kinds[1]:
            raise _refused(node.name, "two values of one type")
        return f"({one} {_COMPARISONS[node.name]} {two})", "bool"
    if node.name not in _OPERATORS:
        raise _refused(node.name, " | ".join(sorted({*_OPERATORS, *_COMPARISONS})))
    form, wanted, kind = _OPERATORS[node.name]
    if kinds != wanted:
        raise _refused(node.name, ", ".join(wanted))
    return form.format(*(sql for sql, _ in args)), kind


def _constant(node: Constant, bound: dict[str, Any]) -> tuple[str, str]:
    value = node.value
    if isinstance(value, bool):
        return ("true" if value else "false"), "bool"
    name = f"c{len(bound)}"
    bound[name] = value
    if node.kind == "time":
        return f"fromUnixTimestamp64Micro({{{name}:Int64}}, 'UTC')", "time"
    if node.kind == "date":
        return f"toDate32({{{name}:String}})", "date"
    return (f"{{{name}:String}}", "text") if isinstance(value, str) else (f"{{{name}:Float64}}", "number")


def _refused(name: str, rule: str) -> Invalid:
    return Invalid(f"读数库不能计算 {name}", f"the readings store cannot compute {name}", field="$filter", value=name, rule=rule)
