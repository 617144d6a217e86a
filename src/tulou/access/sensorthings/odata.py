"""The request language of SensorThings: resource paths and query options (OGC 18-088, 9.2 and 9.3; OData 4.0 Part 2).

Law: pure; text in, a small tree out, and no look at what the names mean. Whatever the text is, the answer is a tree or
an `Invalid` that shows where it broke; neither depth nor length of a text can exhaust the program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from typing import Any

import shapely
from shapely.errors import ShapelyError

from tulou.kernel.errors import Invalid

DEEPEST = 40
"""Nesting of an expression or of `$expand`."""
LONGEST, MOST_TOKENS = 16_000, 2_000
"""Characters of one query option; words and marks of one expression."""
CHAIN = 50
"""Operands of one chain of arithmetic."""

COMPARISONS = frozenset({"eq", "ne", "gt", "ge", "lt", "le"})
ARITHMETIC = frozenset({"add", "sub", "mul", "div", "mod"})
GEOGRAPHY = frozenset({
    "geo.distance", "geo.length", "geo.intersects", "st_equals", "st_disjoint", "st_touches", "st_within", "st_overlaps",
    "st_crosses", "st_intersects", "st_contains", "st_relate",
})
ARGUMENTS: Mapping[str, tuple[int, int]] = {
    "substringof": (2, 2), "contains": (2, 2), "endswith": (2, 2), "startswith": (2, 2), "length": (1, 1),
    "indexof": (2, 2), "substring": (2, 3), "tolower": (1, 1), "toupper": (1, 1), "trim": (1, 1), "concat": (2, 2),
    "year": (1, 1), "month": (1, 1), "day": (1, 1), "hour": (1, 1), "minute": (1, 1), "second": (1, 1),
    "fractionalseconds": (1, 1), "date": (1, 1), "time": (1, 1), "totaloffsetminutes": (1, 1), "now": (0, 0),
    "mindatetime": (0, 0), "maxdatetime": (0, 0), "round": (1, 1), "floor": (1, 1), "ceiling": (1, 1),
    **dict.fromkeys(GEOGRAPHY, (2, 2)), "geo.length": (1, 1), "st_relate": (3, 3),
}
"""Functions (18-088, 9.3.3.5.2; `contains` is OData's) and how many arguments they take."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant: float, int, str, bool, None, datetime (UTC), date, time, timedelta or a shapely geometry."""

    value: Any


@dataclass(frozen=True, slots=True)
class Path:
    """A property, reached over navigation properties: `Thing/Locations/location`."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """An operator or a function with its arguments."""

    name: str
    args: tuple[Node, ...]


Node = Literal | Path | Call


@dataclass(frozen=True, slots=True)
class Options:
    """The query options of one collection or entity."""

    filter: Node | None = None
    expand: Mapping[str, Options] = field(default_factory=dict)
    select: tuple[str, ...] = ()
    orderby: tuple[tuple[Node, bool], ...] = ()
    """(expression, whether descending)."""
    top: int | None = None
    skip: int = 0
    count: bool = False
    skiptoken: str = ""
    data_array: bool = False
    raw: tuple[tuple[str, str], ...] = ()
    """The options as they were written, for links to the next page."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a resource path: a name, and the key in its parentheses."""

    name: str
    key: int | str | None = None


def bad(zh: str, en: str, *, field: str, value: Any = None, rule: str) -> Invalid:
    """The error of this language: `field` is the query option, or `path`."""
    return Invalid(zh, en, field=field, value=value, rule=rule)


_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+\- ]\d\d:?\d\d)"
_TOKEN = re.compile(
    rf"""\s*(?:
    (?P<time>{_TIME})
    |(?P<date>\d{{4}}-\d\d-\d\d(?![\dT]))
    |(?P<clock>\d\d:\d\d(?::\d\d(?:\.\d{{1,6}})?)?(?!\d))
    |(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<geo>geo(?:graphy|metry)'(?:[^']|'')*')
    |(?P<duration>duration'[^']*')
    |(?P<string>'(?:[^']|'')*')
    |(?P<name>@?[^\W\d][\w.]*(?:/@?[^\W\d][\w.:-]*)*)
    |(?P<mark>[(),-])
    )""",
    re.VERBOSE,
)
_POINT = re.compile(r"^\s*POINT\s*\(\s*([-\d.]+)\s*,\s*([-\d.]+)\s*\)\s*$", re.IGNORECASE)
"""A point with a comma, as the standard's own example has it (9.3.3.5.2); WKT has none."""
_DURATION = re.compile(
    r"(?P<sign>-?)P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)


def instant(text: str) -> datetime:
    """An ISO 8601 time with a zone, in UTC. Raises `ValueError`.

    A `+` that came through a form's decoding is a space.
    """
    whole = re.sub(r"(\.\d{6})\d+", r"\1", text.strip().replace(" ", "+").replace("Z", "+00:00"))
    when = datetime.fromisoformat(whole)
    if when.tzinfo is None:
        raise ValueError("no zone")
    return when.astimezone(UTC)


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None or text.endswith(("P", "T")):
        raise ValueError("not an ISO 8601 duration")
    parts = {name: float(match[name] or 0) for name in ("days", "hours", "minutes", "seconds")}
    return timedelta(**parts) * (-1 if match["sign"] else 1)


def _unquoted(text: str) -> str:
    return text[text.index("'") + 1 : -1].replace("''", "'")


class _Expression:
    """A recursive descent over the tokens of one expression."""

    def __init__(self, text: str, option: str) -> None:
        self.text, self.option = text, option
        self.depth = 0
        if "\0" in text:
            raise bad(f"{option} 不能含 NUL", f"{option} must not have NUL", field=option, rule="no NUL")
        self.tokens = list(self._split())
        if len(self.tokens) > MOST_TOKENS:
            raise bad(f"{option} 超过 {MOST_TOKENS} 个词", f"{option} has more than {MOST_TOKENS} words", field=option,
                      value=len(self.tokens), rule=f"<= {MOST_TOKENS}")
        self.at = 0

    def _split(self) -> Iterator[tuple[str, str, int]]:
        at, text = 0, self.text
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                raise self.broken(at)
            yield match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)
            at = match.end()

    def broken(self, at: int | None = None) -> Invalid:
        place = at if at is not None else self.tokens[self.at][2] if self.at < len(self.tokens) else len(self.text)
        shown = self.text[max(place - 10, 0) : place] + "▸" + self.text[place : place + 30]
        return bad(f"{self.option} 在第 {place + 1} 个字符处无法理解：{shown}",
                   f"{self.option} cannot be read at character {place + 1}: {shown}",
                   field=self.option, value=self.text, rule="18-088, 9.3.3.5")

    def peek(self, *words: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at][0] in ("name", "mark") and self.tokens[self.at][1] in words

    def take(self, word: str) -> None:
        if not self.peek(word):
            raise self.broken()
        self.at += 1

    def whole(self) -> Node:
        node = self.either()
        if self.at != len(self.tokens):
            raise self.broken()
        return node

    def either(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise bad(f"{self.option} 嵌套超过 {DEEPEST} 层", f"{self.option} is nested deeper than {DEEPEST}",
                      field=self.option, rule=f"depth <= {DEEPEST}")
        node = self._joined("or", lambda: self._joined("and", self.comparison))
        self.depth -= 1
        return node

    def _joined(self, word: str, inner: Callable[[], Node]) -> Node:
        """All that is joined by `and` or `or`, as one call."""
        args = [inner()]
        while self.peek(word):
            self.at += 1
            args.append(inner())
        return args[0] if len(args) == 1 else Call(word, tuple(args))

    def _left(self, words: tuple[str, ...], inner: Callable[[], Node]) -> Node:
        node, length = inner(), 1
        while self.peek(*words):
            name, length = self.tokens[self.at][1], length + 1
            if length > CHAIN:
                raise self.broken()
            self.at += 1
            node = Call(name, (node, inner()))
        return node

    def comparison(self) -> Node:
        node = self.sum()
        if self.peek(*COMPARISONS):
            name = self.tokens[self.at][1]
            self.at += 1
            node = Call(name, (node, self.sum()))
        return node

    def sum(self) -> Node:
        return self._left(("add", "sub"), lambda: self._left(("mul", "div", "mod"), self.unary))

    def unary(self) -> Node:
        signs: list[str] = []
        while self.peek("not", "-"):
            signs.append("not" if self.tokens[self.at][1] == "not" else "neg")
            self.at += 1
            if len(signs) > CHAIN:
                raise self.broken()
        node = self.primary()
        for name in reversed(signs):
            node = Call(name, (node,))
        return node

    def primary(self) -> Node:
        if self.at >= len(self.tokens):
            raise self.broken()
        kind, text, start = self.tokens[self.at]
        self.at += 1
        if kind == "mark":
            if text != "(":
                raise self.broken(start)
            node = self.either()
            self.take(")")
            return node
        if kind == "name":
            if self.peek("("):
                return self.function(text, start)
            if text in ("true", "false", "null"):
                return Literal({"true": True, "false": False, "null": None}[text])
            return Path(tuple(text.split("/")))
        try:
            return Literal(self.constant(kind, text))
        except (ValueError, OverflowError, ShapelyError):
            raise self.broken(start) from None

    def constant(self, kind: str, text: str) -> Any:
        match kind:
            case "number":
                return int(text) if text.isdigit() and len(text) < 19 else float(text)
            case "string":
                return _unquoted(text)
            case "time":
                return instant(text)
            case "date":
                return date.fromisoformat(text)
            case "clock":
                return time_of_day.fromisoformat(text)
            case "duration":
                return _duration(_unquoted(text))
        text = re.sub(r"^\s*SRID=\d+;", "", _unquoted(text))
        return shapely.from_wkt(_POINT.sub(r"POINT(\1 \2)", text))

    def function(self, name: str, start: int) -> Node:
        if name not in ARGUMENTS:
            raise bad(f"没有函数 {name}", f"there is no function {name}", field=self.option, value=name,
                      rule="18-088, 9.3.3.5.2")
        self.take("(")
        args: list[Node] = []
        while not self.peek(")"):
            args.append(self.either())
            if not self.peek(")"):
                self.take(",")
        self.take(")")
        few, many = ARGUMENTS[name]
        if not few <= len(args) <= many:
            raise bad(f"函数 {name} 应有 {few} 至 {many} 个参数", f"{name} takes {few} to {many} arguments",
                      field=self.option, value=len(args), rule=f"{few}..{many}")
        return Call(name, tuple(args))


def expression(text: str, option: str = "$filter") -> Node:
    """The tree of a `$filter` expression (18-088, 9.3.3.5). Raises `Invalid` with the place where it broke."""
    if len(text) > LONGEST:
        raise bad(f"{option} 超过 {LONGEST} 个字符", f"{option} is longer than {LONGEST} characters", field=option,
                  value=len(text), rule=f"<= {LONGEST}")
    return _Expression(text, option).whole()


def paths(node: Node) -> Iterator[Path]:
    """Every path in an expression."""
    if isinstance(node, Path):
        yield node
    elif isinstance(node, Call):
        for arg in node.args:
            yield from paths(arg)


def conjuncts(node: Node | None) -> list[Node]:
    """The parts that are joined by `and`."""
    if node is None:
        return []
    if isinstance(node, Call) and node.name == "and":
        return [part for arg in node.args for part in conjuncts(arg)]
    return [node]


def _pieces(text: str, mark: str, option: str) -> list[str]:
    """`text` cut at `mark` outside of quotes and parentheses."""
    pieces, depth, start, quoted = [], 0, 0, False
    for at, char in enumerate(text):
        if char == "'":
            quoted = not quoted
        elif quoted:
            continue
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        elif char == mark and depth == 0:
            pieces.append(text[start:at])
            start = at + 1
        if depth < 0:
            break
    if depth or quoted:
        raise bad(f"{option} 的括号或引号不成对", f"parentheses or quotes of {option} do not match", field=option,
                  value=text, rule="matching parentheses")
    return [piece.strip() for piece in [*pieces, text[start:]]]


def _whole(text: str, option: str) -> int:
    if not text.isdigit() or len(text) > 12:
        raise bad(f"{option} 应为非负整数", f"{option} must be a whole number, not negative", field=option, value=text,
                  rule=">= 0")
    return int(text)


def _orderby(text: str) -> tuple[tuple[Node, bool], ...]:
    keys = []
    for piece in _pieces(text, ",", "$orderby"):
        words = piece.rsplit(None, 1)
        direction = words[1].lower() if len(words) == 2 and words[1].lower() in ("asc", "desc") else ""
        keys.append((expression(words[0] if direction else piece, "$orderby"), direction == "desc"))
    return tuple(keys)


_NAME = re.compile(r"[A-Za-z]+")


def _expand(text: str, depth: int) -> dict[str, Options]:
    """`$expand`: names with options in parentheses, separated by semicolons, or paths (18-088, 9.3.2.1)."""
    if depth > DEEPEST:
        raise bad(f"$expand 嵌套超过 {DEEPEST} 层", f"$expand is nested deeper than {DEEPEST}", field="$expand",
                  rule=f"depth <= {DEEPEST}")
    wanted: dict[str, Options] = {}
    for piece in _pieces(text, ",", "$expand"):
        head, bracket, rest = piece.partition("(")
        names = head.strip().split("/")
        if not all(_NAME.fullmatch(name) for name in names) or (bracket and not rest.endswith(")")):
            raise bad(f"$expand 无法理解：{piece}", f"$expand cannot be read: {piece}", field="$expand", value=text,
                      rule="18-088, 9.3.2.1")
        inner = Options()
        if bracket:
            pairs = [part.partition("=") for part in _pieces(rest[:-1], ";", "$expand") if part]
            inner = options([(name.strip(), value) for name, _, value in pairs], depth + 1)
        for at in range(len(names) - 1, 0, -1):
            rest_of = "/".join(names[at:]) + (f"{bracket}{rest}" if bracket else "")
            inner = Options(expand={names[at]: inner}, raw=(("$expand", rest_of),))
        before = wanted.get(names[0])
        wanted[names[0]] = inner if before is None else replace(inner, expand={**before.expand, **inner.expand})
    return wanted


def options(pairs: list[tuple[str, str]], depth: int = 0) -> Options:
    """The query options of a request, or of one expanded navigation property. Raises `Invalid`.

    A name with `$` that the standard does not have is refused; one without is not ours to judge and is ignored.
    """
    found: dict[str, Any] = {}
    for name, text in pairs:
        if name in found:
            raise bad(f"{name} 出现多次", f"{name} is given more than once", field=name, rule="once")
        match name:
            case "$filter":
                found["filter"] = expression(text)
            case "$expand":
                if len(text) > LONGEST:
                    raise bad("$expand 过长", "$expand is too long", field=name, rule=f"<= {LONGEST}")
                found["expand"] = _expand(text, depth)
            case "$select":
                found["select"] = tuple(piece for piece in _pieces(text, ",", name) if piece)
            case "$orderby":
                found["orderby"] = _orderby(text)
            case "$top" | "$skip":
                found[name[1:]] = _whole(text, name)
            case "$count":
                if text not in ("true", "false"):
                    raise bad("$count 应为 true 或 false", "$count must be true or false", field=name, value=text,
                              rule="true | false")
                found["count"] = text == "true"
            case "$skiptoken":
                found["skiptoken"] = text
            case "$resultFormat" | "resultFormat":
                if text != "dataArray":
                    raise bad("$resultFormat 应为 dataArray", "$resultFormat must be dataArray", field=name, value=text,
                              rule="dataArray")
                found["data_array"] = True
            case _ if name.startswith("$"):
                raise bad(f"没有查询选项 {name}", f"there is no query option {name}", field=name, rule="18-088, 9.3.3")
    return Options(**found, raw=tuple(pairs))


_SEGMENT = re.compile(r"(?P<name>\$?@?[^/()']+)(?:\((?P<key>-?\d{1,18}|'(?:[^']|'')*')\))?(?:/|$)")


def resource(path: str) -> list[Segment]:
    """The segments of a decoded resource path (18-088, 9.2); slashes inside a quoted key belong to it."""
    segments: list[Segment] = []
    at, path = 0, path.strip("/") if not path.endswith("')/") else path.rstrip("/")
    while at < len(path):
        match = _SEGMENT.match(path, at)
        if match is None or len(segments) >= DEEPEST:
            raise bad(f"地址在第 {at + 1} 个字符处无法理解", f"the path cannot be read at character {at + 1}",
                      field="path", value=path, rule="18-088, 9.2")
        key = match["key"]
        segments.append(Segment(
            match["name"], None if key is None else _unquoted(key) if key.startswith("'") else int(key)
        ))
        at = match.end()
    return segments
