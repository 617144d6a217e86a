"""An expression's value for one item: for what lives in memory, and for conditions that no store can answer.

Law: pure. `null` spreads through operators and functions (OData 4.0 Part 2, 5.1.1.1.12 and 4.01 null propagation); what
cannot be compared is unequal. A path that leads to many entities is refused: its answer would be a hidden scan.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import shape

from tulou.access.sensorthings.model import FIELDS, NAVIGATION, Item, Vocabulary
from tulou.access.sensorthings.odata import ARITHMETIC, COMPARISONS, GEOGRAPHY, Call, Literal, Node, Path, bad
from tulou.kernel.errors import Invalid

Resolve = Callable[[tuple[str, ...]], Any]


def no_property(path: tuple[str, ...], kind: str) -> Invalid:
    """The error for a name that an entity does not have."""
    shown = "/".join(path)
    return bad(f"{kind} 没有属性 {shown}", f"{kind} has no property {shown}", field="path", value=shown,
               rule="18-088, clause 8")


def many(path: tuple[str, ...]) -> Invalid:
    """The error for a condition over a collection that has no index."""
    shown = "/".join(path)
    return bad(
        f"条件 {shown} 须逐个查看集合成员，没有索引可答；请从该集合开始查询",
        f"the condition {shown} would have to look at every member of a collection; start from that collection",
        field="$filter", value=shown, rule="no condition without an index",
    )


def resolve(words: Vocabulary, kind: str, item: Item, path: tuple[str, ...]) -> Any:
    """The value of a path from an item. Raises `Invalid` for a name that there is not, and for many entities."""
    at: tuple[str, Item | None] = (kind, item)
    for number, name in enumerate(path):
        here, there = at
        if name in ("id", "@iot.id") and number == len(path) - 1:
            return None if there is None else words.id(here, there)
        if name in NAVIGATION[here]:
            if there is None:
                to, several = NAVIGATION[here][name]
                if several and to not in ("Location", "Thing", "HistoricalLocation"):
                    raise many(path)
                at = (to, None)
                continue
            step = words.follow(here, there, name)
            if step is None:
                raise many(path)
            at = step
            continue
        if name not in FIELDS[here]:
            raise no_property(path, here)
        value = None if there is None else words.field(here, there, name)
        for key in path[number + 1 :]:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value
    raise no_property(path, kind)


def holds(node: Node, resolver: Resolve) -> bool:
    """Whether a condition is true."""
    return evaluate(node, resolver) is True


def evaluate(node: Node, resolver: Resolve) -> Any:
    """The value of an expression. Raises `Invalid` for arguments of the wrong type."""
    if isinstance(node, Literal):
        return node.value
    if isinstance(node, Path):
        return resolver(node.parts)
    name = node.name
    if name in ("and", "or"):
        return _logic(name, [evaluate(arg, resolver) for arg in node.args])
    args = [evaluate(arg, resolver) for arg in node.args]
    if name in ("eq", "ne"):
        return _equal(*args) is (name == "eq")
    if any(arg is None for arg in args):
        return None if name not in COMPARISONS else False
    try:
        if name in COMPARISONS:
            left, right = _alike(*args)
            return _ORDER[name](left, right)
        if name in GEOGRAPHY:
            return _geography(name, args)
        return _FUNCTIONS[name](*args)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError, ShapelyError, KeyError):
        if name in COMPARISONS:
            return False
        raise bad(f"{name} 的参数类型不对", f"{name} cannot take these arguments", field="$filter",
                  value=", ".join(str(arg)[:40] for arg in args), rule=name) from None


def _logic(name: str, args: list[Any]) -> bool | None:
    decisive = name == "or"
    if any(arg is decisive for arg in args):
        return decisive
    return None if any(arg is None for arg in args) else not decisive


def _alike(left: Any, right: Any) -> tuple[Any, Any]:
    """Both as times where one is a time and the other its text."""
    if isinstance(left, datetime) and isinstance(right, date) and not isinstance(right, datetime):
        return left, datetime(right.year, right.month, right.day, tzinfo=UTC)
    if isinstance(right, datetime) and isinstance(left, date) and not isinstance(left, datetime):
        return datetime(left.year, left.month, left.day, tzinfo=UTC), right
    if isinstance(left, bool) is not isinstance(right, bool):
        raise TypeError
    return left, right


def _equal(left: Any, right: Any) -> bool:
    try:
        left, right = _alike(left, right)
    except TypeError:
        return False
    if isinstance(left, shapely.Geometry) or isinstance(right, shapely.Geometry):
        try:
            left, right = _shape(left), _shape(right)
        except (TypeError, ValueError, AttributeError, KeyError, ShapelyError):
            return False
        return left is not None and right is not None and bool(shapely.equals(left, right))
    return bool(left == right)


_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le,
}


@lru_cache(1024)
def _parsed(text: bytes) -> shapely.Geometry:
    return shape(orjson.loads(text))


def _shape(value: Any) -> shapely.Geometry | None:
    """A geometry of a literal or of GeoJSON; None for what has no place."""
    if isinstance(value, shapely.Geometry):
        return value
    if isinstance(value, Mapping):
        if value.get("type") == "Feature":
            return _shape(value.get("geometry"))
        return _parsed(orjson.dumps(value))
    if value is None:
        return None
    raise TypeError


_PREDICATES = {
    "geo.intersects": "intersects", "st_intersects": "intersects", "st_equals": "equals", "st_disjoint": "disjoint",
    "st_touches": "touches", "st_within": "within", "st_overlaps": "overlaps", "st_crosses": "crosses",
    "st_contains": "contains",
}


def _geography(name: str, args: list[Any]) -> Any:
    """Geospatial functions (18-088, 9.3.3.5.2); distance and length in degrees, as planar coordinates have it."""
    one = _shape(args[0])
    if one is None:
        return None
    if name == "geo.length":
        return float(shapely.length(one))
    two = _shape(args[1])
    if two is None:
        return None
    if name == "geo.distance":
        return float(shapely.distance(one, two))
    if name == "st_relate":
        return bool(shapely.relate_pattern(one, two, _text(args[2])))
    return bool(getattr(shapely, _PREDICATES[name])(one, two))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _divide(left: Any, right: Any) -> float:
    return float(left) / float(right)


def _offset(_when: datetime) -> int:
    return 0  # every time here is UTC


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "not": operator.not_, "neg": operator.neg, "add": operator.add, "sub": operator.sub, "mul": operator.mul,
    "div": _divide, "mod": math.fmod,
    "substringof": lambda part, text: _text(part) in _text(text), "contains": lambda text, part: _text(part) in _text(text),
    "startswith": lambda text, part: _text(text).startswith(_text(part)),
    "endswith": lambda text, part: _text(text).endswith(_text(part)),
    "length": lambda text: len(_text(text)), "indexof": lambda text, part: _text(text).find(_text(part)),
    "substring": lambda text, start, count=None: (
        _text(text)[int(start) :] if count is None else _text(text)[int(start) : int(start) + int(count)]
    ),
    "tolower": lambda text: _text(text).lower(), "toupper": lambda text: _text(text).upper(),
    "trim": lambda text: _text(text).strip(), "concat": lambda one, two: _text(one) + _text(two),
    "year": lambda when: when.year, "month": lambda when: when.month, "day": lambda when: when.day,
    "hour": lambda when: when.hour, "minute": lambda when: when.minute, "second": lambda when: when.second,
    "fractionalseconds": lambda when: when.microsecond / 1e6, "date": lambda when: when.date(),
    "time": lambda when: when.time(), "totaloffsetminutes": _offset,
    "now": lambda: datetime.now(UTC), "mindatetime": lambda: datetime(1, 1, 1, tzinfo=UTC),
    "maxdatetime": lambda: datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    "round": lambda number: math.floor(number + 0.5), "floor": math.floor, "ceiling": math.ceil,
}


def _nowhere(path: tuple[str, ...]) -> Any:
    raise AssertionError(path)


def folded(node: Node) -> Node:
    """The same expression with every part that is constant computed: `now() sub duration'PT1H'` becomes a time."""
    if not isinstance(node, Call):
        return node
    args = tuple(folded(arg) for arg in node.args)
    if all(isinstance(arg, Literal) for arg in args):
        return Literal(evaluate(Call(node.name, args), _nowhere))
    return Call(node.name, args)


def kind_of(node: Node) -> str:
    """What an expression gives, where that is plain: `number`, `string`, `boolean`, `time`, `geo`, or empty."""
    if isinstance(node, Path):
        return ""
    if isinstance(node, Literal):
        match node.value:
            case bool():
                return "boolean"
            case int() | float():
                return "number"
            case str():
                return "string"
            case datetime() | date() | timedelta():
                return "time"
            case shapely.Geometry():
                return "geo"
        return ""
    if node.name in ("tolower", "toupper", "trim", "concat", "substring"):
        return "string"
    if node.name in ARITHMETIC or node.name in (
        "neg", "length", "indexof", "year", "month", "day", "hour", "minute", "second", "fractionalseconds", "round",
        "floor", "ceiling", "totaloffsetminutes", "geo.distance", "geo.length",
    ):
        return "number"
    return "time" if node.name in ("date", "time", "now", "mindatetime", "maxdatetime") else "boolean"
