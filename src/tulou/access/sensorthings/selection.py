"""What of a condition the stores can answer: SQL over entities, and conditions on readings with their time range.

Law: pure, and never wrong: `pushed` and `implied` select at least what the expression selects. Whatever is not pushed
is evaluated item by item by the caller, who bounds how many he looks at.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import shapely
import sqlalchemy as sa

from tulou.access.sensorthings.evaluate import kind_of, many, no_property
from tulou.access.sensorthings.model import (
    DATASTREAM,
    FIELDS,
    GEOJSON,
    HISTORICAL,
    NAVIGATION,
    OBSERVATION,
    PLACED,
    SENSOR,
    Vocabulary,
    micros_of,
    stream_key,
)
from tulou.access.sensorthings.odata import COMPARISONS, Call, Literal, Node, Path, bad
from tulou.context import entities
from tulou.kernel.readings import Condition, Constant, Field, Term

Expression = sa.ColumnElement[Any]
COLUMNS = entities.c
NAME = sa.func.coalesce(sa.func.nullif(COLUMNS.name, ""), COLUMNS.id)


class NotPushed(Exception):
    """SQL cannot say this on every store."""


def where_of(kind: str, parts: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The kind that a path's last navigation property leads to, and what is left of the path. Raises `Invalid`."""
    at = list(parts)
    while len(at) > 1 and at[0] in NAVIGATION[kind]:
        kind = NAVIGATION[kind][at.pop(0)][0]
    return kind, tuple(at)


@dataclass(frozen=True, slots=True)
class EntitySql:
    """Compiles expressions on items of `kind` whose facts are an entity's. `dialect` is SQLAlchemy's name of it."""

    words: Vocabulary
    kind: str
    dialect: str

    def pushed(self, node: Node) -> Expression:
        """The SQL of a condition. Raises `NotPushed`."""
        expression, kind = self._compile(node)
        if kind != "boolean":
            raise NotPushed
        return expression

    def sorted_by(self, node: Node) -> Expression:
        """The SQL of what to sort by. Raises `NotPushed`."""
        found, kind = self._compile(node)
        if kind not in ("number", "string") or isinstance(found, sa.BindParameter) or not any(_paths(node)):
            raise NotPushed  # a constant would be the number of a column
        return found

    def implied(self, node: Node) -> Expression | None:
        """SQL that holds wherever the condition holds, of those that cannot be pushed; None if there is none."""
        if not isinstance(node, Call):
            return None
        if node.name in ("or", "and"):
            parts = [self._best(arg) for arg in node.args]
            if node.name == "or":
                return None if any(part is None for part in parts) else sa.or_(*[p for p in parts if p is not None])
            known = [part for part in parts if part is not None]
            return sa.and_(*known) if known else None
        if node.name == "eq" and len(node.args) == 2:
            return self._stream_id(*node.args) or self._near(node)
        return self._near(node)

    def _best(self, node: Node) -> Expression | None:
        try:
            return self.pushed(node)
        except NotPushed:
            return self.implied(node)

    def _stream_id(self, left: Node, right: Node) -> Expression | None:
        path, literal = (left, right) if isinstance(left, Path) else (right, left)
        if not isinstance(path, Path) or not isinstance(literal, Literal):
            return None
        kind, rest = where_of(self.kind, path.parts)
        if kind != DATASTREAM or rest not in (("id",), ("@iot.id",)):
            return None
        key = stream_key(literal.value)
        return sa.false() if key is None else COLUMNS.no == key[0]

    def _near(self, node: Call) -> Expression | None:
        """The bounding box that a geospatial condition needs."""
        if node.name in ("lt", "le") and isinstance(node.args[0], Call) and node.args[0].name == "geo.distance":
            limit = node.args[1]
            reach = limit.value if isinstance(limit, Literal) else None
            return self._box(node.args[0].args, float(reach)) if isinstance(reach, int | float) else None
        if node.name in ("geo.intersects", "st_intersects", "st_within", "st_equals", "st_touches", "st_overlaps",
                         "st_crosses", "st_contains"):
            return self._box(node.args, 0.0)
        return None

    def _box(self, args: Sequence[Node], reach: float) -> Expression | None:
        path = next((arg for arg in args if isinstance(arg, Path)), None)
        literal = next((arg for arg in args if isinstance(arg, Literal)), None)
        if path is None or literal is None or not isinstance(literal.value, shapely.Geometry) or shapely.is_empty(
            literal.value
        ):
            return None
        kind, rest = where_of(self.kind, path.parts)
        if kind not in PLACED or rest not in (("location",), ("feature",)):
            return None
        west, south, east, north = shapely.bounds(literal.value).tolist()
        c = COLUMNS
        point = sa.and_(c.lon.between(west - reach, east + reach), c.lat.between(south - reach, north + reach))
        wide = sa.and_(c.west <= east + reach, c.east >= west - reach, c.south <= north + reach, c.north >= south - reach)
        return sa.or_(point, wide)

    # -- expressions

    def _compile(self, node: Node) -> tuple[Expression, str]:
        if isinstance(node, Literal):
            return self._literal(node)
        if isinstance(node, Path):
            return self._path(node)
        name = node.name
        if name in ("and", "or"):
            parts = [self.pushed(arg) for arg in node.args]
            return (sa.and_ if name == "and" else sa.or_)(*parts), "boolean"
        if name == "not":
            return sa.not_(self.pushed(node.args[0])), "boolean"
        args = [self._compile(arg) for arg in node.args]
        if name in COMPARISONS:
            return self._compare(name, args[0], args[1]), "boolean"
        return self._function(name, [arg for arg, _ in args], [kind for _, kind in args])

    def _literal(self, node: Literal) -> tuple[Expression, str]:
        kind = kind_of(node)
        if node.value is None:
            return sa.null(), "null"
        if kind == "boolean":
            return (sa.true() if node.value else sa.false()), "flag"
        if kind not in ("number", "string"):
            raise NotPushed
        return sa.literal(node.value), kind

    def _path(self, node: Path) -> tuple[Expression, str]:
        kind, rest = where_of(self.kind, node.parts)
        if kind == SENSOR and rest in (("id",), ("@iot.id",), ("name",)):
            return COLUMNS.type, "string"
        if kind not in PLACED:
            raise NotPushed
        match rest:
            case ("id",) | ("@iot.id",) if kind != HISTORICAL:
                return COLUMNS.no, "number"
            case ("name",) if kind != HISTORICAL:
                return NAME, "string"
            case ("description",) if kind != HISTORICAL:
                labels = {name: self.words.label(name) for name in self.words.models}
                return (sa.case(labels, value=COLUMNS.type, else_=COLUMNS.type) if labels else COLUMNS.type), "string"
            case ("encodingType",) if "encodingType" in FIELDS[kind]:
                return sa.literal(GEOJSON), "string"
            case ("properties", "type"):
                return COLUMNS.type, "string"
            case ("properties", "organisation"):
                return COLUMNS.org, "string"
            case ("properties", "id"):
                return COLUMNS.id, "string"
            case ("properties", "synthetic"):
                return COLUMNS.synthetic == sa.true(), "flag"
        if not rest or rest[0] not in FIELDS[kind]:
            raise no_property(node.parts, kind)
        raise NotPushed

    def _compare(self, name: str, left: tuple[Expression, str], right: tuple[Expression, str]) -> Expression:
        (one, one_kind), (two, two_kind) = left, right
        if "null" in (one_kind, two_kind):
            value = two if one_kind == "null" else one
            if name in ("eq", "ne"):
                return value.is_(None) if name == "eq" else value.is_not(None)
            return sa.false()
        kinds = {"flag" if kind == "boolean" else kind for kind in (one_kind, two_kind)}
        if len(kinds) > 1:  # a number is not a text
            return sa.true() if name == "ne" else sa.false()
        if kinds == {"flag"} and name not in ("eq", "ne"):
            raise NotPushed
        found: Expression = getattr(operator, name)(one, two)
        return found

    def _function(self, name: str, args: list[Expression], kinds: list[str]) -> tuple[Expression, str]:
        f = sa.func
        if name in ("add", "sub", "mul") and kinds == ["number", "number"]:
            one, two = args
            return {"add": one + two, "sub": one - two, "mul": one * two}[name], "number"
        if any(kind != "string" for kind in kinds):
            raise NotPushed
        find = f.strpos if self.dialect == "postgresql" else f.instr
        match name:
            case "contains":
                return find(args[0], args[1]) > 0, "boolean"
            case "substringof":
                return find(args[1], args[0]) > 0, "boolean"
            case "startswith":
                return f.substr(args[0], 1, f.length(args[1])) == args[1], "boolean"
            case "endswith":
                tail = f.substr(args[0], f.length(args[0]) - f.length(args[1]) + 1)
                return sa.and_(f.length(args[0]) >= f.length(args[1]), tail == args[1]), "boolean"
            case "length":
                return f.length(args[0]), "number"
            case "indexof":
                return find(args[0], args[1]) - 1, "number"
            case "trim":
                return f.trim(args[0]), "string"
            case "concat":
                return args[0].op("||")(args[1]), "string"
        raise NotPushed


def indexed(kind: str, node: Node) -> bool:
    """Whether a condition on items of `kind` names entities by what the table has an index for."""
    if not isinstance(node, Call):
        return False
    if node.name == "or":
        return all(indexed(kind, arg) for arg in node.args)
    if node.name == "and":
        return any(indexed(kind, arg) for arg in node.args)
    if node.name.startswith(("st_", "geo.")):
        return node.name not in ("st_disjoint", "st_relate")
    if node.name in ("lt", "le") and isinstance(node.args[0], Call) and node.args[0].name == "geo.distance":
        return True
    if node.name != "eq":
        return False
    places = [where_of(kind, arg.parts) for arg in node.args if isinstance(arg, Path)]
    return any(rest in (("id",), ("@iot.id",), ("properties", "type")) or (at == SENSOR and rest == ("name",))
               for at, rest in places)


def _storable(ts: int) -> int:
    """The time, or the end of the store's range (1970 to 2286) that it is beyond: no reading is there."""
    return min(max(ts, 0), 9_999_999_999_999_999)


@dataclass(slots=True)
class Asked:
    """What of a filter on Observations goes where: the range of time (µs, half open), a condition on readings, and
    conditions on their Datastreams."""

    start: int | None = None
    end: int | None = None
    condition: Condition | None = None
    streams: list[Node] = field(default_factory=list)
    empty: bool = False

    def since(self, ts: int) -> None:
        ts = _storable(ts)
        self.start = ts if self.start is None else max(self.start, ts)

    def until(self, ts: int) -> None:
        ts = _storable(ts)
        self.end = ts if self.end is None else min(self.end, ts)


_MIRRORED = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge", "eq": "eq", "ne": "ne"}
_TIMES = (("phenomenonTime",), ("resultTime",))


def asked_of(parts: Sequence[Node]) -> Asked:
    """Sort the conjuncts of a filter on Observations. Raises `Invalid` for what neither store can answer."""
    asked = Asked()
    conditions: list[Condition] = []
    for part in parts:
        roots = {path.parts[0] for path in _paths(part)}
        if roots and roots <= {"Datastream", "FeatureOfInterest"}:
            asked.streams.append(part)
        elif roots & {"Datastream", "FeatureOfInterest"}:
            raise bad("同一条件不能同时涉及读数与其数据流；请以 and 分开", "one condition cannot be about a reading and its "
                      "Datastream; separate them by and", field="$filter", rule="conditions of one store")
        elif not _within(asked, part):
            conditions.append(_condition(part))
    if conditions:
        asked.condition = _joined("and", conditions)
    return asked


def _paths(node: Node) -> list[Path]:
    if isinstance(node, Path):
        return [node]
    return [path for arg in node.args for path in _paths(arg)] if isinstance(node, Call) else []


def _within(asked: Asked, node: Node) -> bool:
    """Take a comparison of a time with a constant, or of the id, into the range. False if it is something else."""
    if isinstance(node, Literal):
        asked.empty |= node.value is not True
        return True
    if not isinstance(node, Call) or node.name not in _MIRRORED or node.name == "ne":
        return False
    left, right = node.args
    name = node.name
    if isinstance(left, Literal):
        left, right, name = right, left, _MIRRORED[name]
    if not isinstance(left, Path) or left.parts not in _TIMES or not isinstance(right, Literal):
        return False
    value = right.value
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        return False
    ts = micros_of(value)
    if name in ("gt", "ge", "eq"):
        asked.since(ts + (name == "gt"))
    if name in ("lt", "le", "eq"):
        asked.until(ts + (name != "lt"))
    return True


def _condition(node: Node, wanted: str = "") -> Condition:
    """A condition on readings; `wanted` says whether a bare `result` is a number or a text."""
    if isinstance(node, Literal):
        return _constant(node)
    if isinstance(node, Path):
        return _field(node, wanted)
    name = node.name
    if name in ("geo.distance", "geo.length", "time", "totaloffsetminutes") or name.startswith(("geo.", "st_")):
        raise bad(f"读数不能用 {name} 筛选", f"Observations cannot be filtered by {name}", field="$filter", value=name,
                  rule="a function of result, phenomenonTime or resultTime")
    if name in COMPARISONS:
        kinds = [kind_of(arg) for arg in node.args]
        of = "string" if "string" in kinds else "number"
        if any(isinstance(arg, Literal) and arg.value is None for arg in node.args):
            return Constant(name == "ne")  # what has no result is no Observation here
        args = tuple(_condition(arg, of) for arg in node.args)
        if any(isinstance(arg, Path) and arg.parts == ("resultQuality",) for arg in node.args):
            args = tuple(_quality(arg) for arg in args)
        term: Condition = Term(name, args)
        if of == "number" and any(path.parts == ("result",) for path in _paths(node)):
            number = Term("eq", (Field("value"), Field("value")))  # a text's value is not a number
            term = Term("or", (Term("not", (number,)), term)) if name == "ne" else Term("and", (number, term))
        return term
    if name in ("and", "or"):
        return _joined(name, [_condition(arg) for arg in node.args])
    if name == "substringof":
        return Term("contains", (_condition(node.args[1], "string"), _condition(node.args[0], "string")))
    if name == "substring" and len(node.args) == 3:
        name = "substring3"
    of = "string" if name in _TEXTUAL else "number"
    return Term(name, tuple(_condition(arg, of) for arg in node.args))


def _joined(name: str, args: list[Condition]) -> Condition:
    """Conditions joined by `and` or `or`, as a tree of little depth."""
    while len(args) > 1:
        pairs = [Term(name, (args[at], args[at + 1])) for at in range(0, len(args) - 1, 2)]
        args = [*pairs, *args[len(pairs) * 2 :]]
    return args[0]


_TEXTUAL = frozenset({
    "contains", "startswith", "endswith", "length", "indexof", "substring", "substring3", "tolower", "toupper", "trim",
    "concat",
})
_QUALITY = {"good": 0, "uncertain": 1, "bad": 2}


def _quality(node: Condition) -> Condition:
    return Constant(_QUALITY.get(node.value, 255)) if isinstance(node, Constant) and isinstance(node.value, str) else node


def _constant(node: Literal) -> Constant:
    match node.value:
        case bool() | int() | float() | str():
            return Constant(node.value)
        case datetime():
            return Constant(_storable(micros_of(node.value)), "time")
        case date():
            return Constant(node.value.isoformat(), "date")
    raise bad("读数不能与此常量比较", "Observations cannot be compared with this constant", field="$filter",
              value=str(node.value), rule="a number, a text, a time or a date")


def _field(node: Path, wanted: str) -> Field:
    match node.parts:
        case ("result",):
            return Field("text" if wanted == "string" else "value")
        case ("phenomenonTime",) | ("resultTime",):
            return Field("ts")
        case ("resultQuality",):
            return Field("quality")
    kind, rest = where_of(OBSERVATION, node.parts)
    if kind != OBSERVATION:
        raise many(node.parts)
    if rest and rest[0] in (*FIELDS[OBSERVATION], "id", "@iot.id"):
        raise bad(f"不能按 {'/'.join(rest)} 筛选读数", f"Observations cannot be filtered by {'/'.join(rest)}",
                  field="$filter", value="/".join(rest), rule="result | phenomenonTime | resultTime | resultQuality")
    raise no_property(node.parts, OBSERVATION)


def stream_conditions(parts: Sequence[Node], kind: str) -> list[Node]:
    """Of conjuncts on Datastreams (or on Observations by `Datastream/`), those that an entity type and a property's
    name decide."""
    decided = {"ObservedProperty", "Sensor", "unitOfMeasurement", "observationType"}
    found = []
    for part in parts:
        inner = [path.parts[1:] if kind == OBSERVATION else path.parts for path in _paths(part)]
        if inner and all(path and path[0] in decided for path in inner):
            found.append(part)
    return found
