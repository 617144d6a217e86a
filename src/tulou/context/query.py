"""The NGSI-LD query language `q`: parsed once into a tree, then evaluated in Python or compiled to SQL.

Law: the three readings (Python, SQLite, PostgreSQL) agree, and a test holds them to it. Nothing a client wrote becomes
SQL text: names and values travel as parameters only, and a regular expression is run by RE2 in linear time.

Source: ETSI GS CIM 009 v1.9.1 clause 4.9.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import orjson
import re2

from tulou.context.errors import BadRequestData, bad
from tulou.context.forms import VALUE_OF, datetime_text
from tulou.context.jsonld import CORE, Context, check_name

MAX_LENGTH = 8_192
MAX_TERMS = 200
MAX_NESTING = 50

Scalar = bool | int | float | str
Kind = Literal["bool", "number", "text", "time"]


@dataclass(frozen=True, slots=True)
class Value:
    """A literal. `kind` time: a date-time, date or time, compared in time order and never quoted."""

    kind: Kind
    value: Scalar


@dataclass(frozen=True, slots=True)
class Range:
    """`low..high`, both included."""

    low: Value
    high: Value


@dataclass(frozen=True, slots=True)
class Path:
    """`names` are stored attribute names from the entity down; `trail` are members of a compound value.

    `core` is a member of the last attribute that is no attribute itself (`observedAt`, `unitCode`, ...).
    """

    names: tuple[str, ...]
    trail: tuple[str, ...] = ()
    core: str | None = None


@dataclass(frozen=True, slots=True)
class Term:
    """One condition. `operator` "" asks for existence; otherwise `==  !=  >  >=  <  <=  ~=  !~=`."""

    path: Path
    operator: str = ""
    values: tuple[Value | Range, ...] = ()


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds (`;`)."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Any_:
    """Some part holds (`|`)."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Linked:
    """`relation{inner}`: some entity that a Relationship at `relation` links to satisfies `inner` (4.9, EXAMPLE 13).

    `hint`: the stored name of the only type to be considered (`relation{Type:attribute}`).
    """

    relation: tuple[str, ...]
    hint: str | None
    inner: Term | Linked


Node = Term | All | Any_ | Linked

CORE_MEMBERS = frozenset(
    {"observedAt", "unitCode", "datasetId", "objectType", "valueType", "expiresAt", "createdAt", "modifiedAt"}
)

TIMES = frozenset({"observedAt", "expiresAt", "createdAt", "modifiedAt"})

_NAME = re.compile(r"[^\W\d_][\w:/#%+@-]*")
_TRAIL = re.compile(r"[^\[\].;|()=!<>~\"\s]+|\"(?:[^\"\\]|\\.)*\"")
_OPERATOR = re.compile(r"==|!=|>=|<=|>|<|!~=|~=")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w:-])")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_TIME = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?Z|\d{4}-\d\d-\d\d(?!\d)"
    r"|\d\d:\d\d:\d\d(?:[.,]\d+)?Z"
)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s;|,()<>\"]+")
_BARE = re.compile(r"[^\W\d_][\w-]*")
_HINT = re.compile(r"([^\W\d_]\w*):(?!//)(?=[^\W\d_])")


# ---- parsing ------------------------------------------------------------------------------------------------------


class _Parser:
    def __init__(self, text: str, context: Context, vocab: frozenset[str], levels: int) -> None:
        self.levels = levels
        self.text = text
        self.at = 0
        self.context = context
        self.vocab = vocab
        self.terms = 0

    def fail(self, zh: str, en: str) -> BadRequestData:
        return bad(f"q 第 {self.at + 1} 个字符处：{zh}", f"q, character {self.at + 1}: {en}",
                   field="q", value=self.text, rule="CIM 009, 4.9")

    def take(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self.text, self.at)
        if match is None:
            return None
        self.at = match.end()
        return match.group()

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def expect(self, char: str) -> None:
        if self.peek() != char:
            raise self.fail(f"应为 {char}", f"expected {char}")
        self.at += 1

    def parse(self) -> Node:
        node = self.alternatives(0)
        if self.at < len(self.text):
            raise self.fail(f"多余的 {self.peek()!r}", f"unexpected {self.peek()!r}")
        return node

    def alternatives(self, depth: int) -> Node:
        if depth > MAX_NESTING:
            raise self.fail("括号嵌套过深", f"nested deeper than {MAX_NESTING}")
        parts = [self.conjunction(depth)]
        while self.peek() == "|":
            self.at += 1
            parts.append(self.conjunction(depth))
        return parts[0] if len(parts) == 1 else Any_(tuple(parts))

    def conjunction(self, depth: int) -> Node:
        parts = [self.operand(depth)]
        while self.peek() == ";":
            self.at += 1
            parts.append(self.operand(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def operand(self, depth: int) -> Node:
        if self.peek() == "(":
            self.at += 1
            node = self.alternatives(depth + 1)
            self.expect(")")
            return node
        self.terms += 1
        if self.terms > MAX_TERMS:
            raise self.fail("条件过多", f"more than {MAX_TERMS} terms")
        path = self.path()
        links: list[tuple[tuple[str, ...], str | None]] = []
        while self.peek() == "{":
            if path.core is not None or path.trail:
                raise self.fail("花括号前应为 Relationship 的名称", "braces follow the name of a Relationship")
            if len(links) >= self.levels:
                raise self.fail(f"查询深入的关联实体多于 joinLevel（{self.levels}）",
                                f"too deep query: it follows more links than join and joinLevel ({self.levels})")
            self.at += 1
            links.append((path.names, self.hint()))
            path = self.path()
        for _ in links:
            self.expect("}")
        found: Term | Linked = self.condition(path)
        for relation, hint in reversed(links):
            found = Linked(relation, hint, found)
        return found

    def hint(self) -> str | None:
        """The entity type before a colon at the start of a linked path; a prefix of the context is none."""
        match = _HINT.match(self.text, self.at)
        if match is None or self.context.terms.get(match.group(1), "")[-1:] in ("/", "#", ":"):
            return None
        self.at = match.end()
        return self.context.stored(match.group(1))

    def condition(self, path: Path) -> Term:
        """What follows a path: nothing (it exists), or an operator and its values."""
        operator = self.take(_OPERATOR) or ""
        if not operator:
            return Term(path)
        if operator in ("~=", "!~="):
            return Term(path, operator, (Value("text", self.pattern()),))
        vocab = bool(path.names) and path.names[0] in self.vocab
        values: list[Value | Range] = [self.value(vocab)]
        if operator in ("==", "!="):
            while self.peek() == ",":
                self.at += 1
                values.append(self.value(vocab))
        elif isinstance(values[0], Range) or values[0].kind == "bool":
            raise self.fail(f"{operator} 只能与数字、文本或时间比较", f"{operator} needs a number, a text or a time")
        if path.core in TIMES:
            values = [self.timed(value) for value in values]
        return Term(path, operator, tuple(values))

    def timed(self, value: Value | Range) -> Value | Range:
        """A quoted date-time compared with a time member is a time."""
        if isinstance(value, Range):
            low, high = self.timed(value.low), self.timed(value.high)
            assert isinstance(low, Value)
            assert isinstance(high, Value)
            return Range(low, high)
        if value.kind == "text" and _TIME.fullmatch(str(value.value)):
            text = str(value.value)
            return Value("time", datetime_text(text, "q") if "T" in text else text)
        return value

    def path(self) -> Path:
        names: list[str] = []
        core: str | None = None
        while True:
            name = self.take(_NAME)
            if name is None:
                raise self.fail("应为属性名", "expected an attribute name")
            if core is not None:
                raise self.fail(f"{core} 之下没有子属性", f"{core} has no sub-attributes")
            if name in CORE_MEMBERS:
                core = name
            else:
                names.append(self.context.stored(name))
            if self.peek() != ".":
                break
            self.at += 1
            if len(names) > 16:
                raise self.fail("属性路径过长", "attribute path is too long")
        trail: list[str] = []
        if self.peek() == "[":
            self.at += 1
            while True:
                member = self.take(_TRAIL)
                if member is None or len(trail) > 16:
                    raise self.fail("应为成员名", "expected a member name")
                trail.append(orjson.loads(member) if member[0] == '"' else member)
                if self.peek() != ".":
                    break
                self.at += 1
            self.expect("]")
        if core is not None and trail:
            raise self.fail(f"{core} 不是复合值", f"{core} is not a compound value")
        for name in (*names, *trail):
            if '"' in name or "\\" in name or "\x00" in name:
                raise self.fail("名称中不可有引号、反斜线或 U+0000", "a name cannot contain a quote, backslash or U+0000")
        return Path(tuple(names), tuple(trail), core)

    def value(self, vocab: bool) -> Value | Range:
        low = self.literal(vocab)
        if self.text.startswith("..", self.at):
            self.at += 2
            high = self.literal(vocab)
            if low.kind != high.kind or low.kind == "bool":
                raise self.fail("范围两端类型应相同", "both ends of a range must be of one kind")
            return Range(low, high)
        return low

    def literal(self, vocab: bool) -> Value:
        text = self.take(_STRING)
        if text is not None:
            try:
                word = orjson.loads(text)
            except orjson.JSONDecodeError:
                raise self.fail("文本不是有效的 JSON 文本", "not a JSON string") from None
            if "\x00" in word:
                raise self.fail("文本中不可有 U+0000", "a text cannot contain U+0000")
            return Value("text", self.expanded(word) if vocab else word)
        text = self.take(_TIME)
        if text is not None:
            return Value("time", datetime_text(text, "q") if "T" in text else text)
        text = self.take(_NUMBER)
        if text is not None:
            try:
                return Value("number", orjson.loads(text))
            except orjson.JSONDecodeError:
                raise self.fail("数字过大", "the number is too large") from None
        text = self.take(_URI)
        if text is not None:
            if ".." in text:
                cut = text.index("..")
                self.at -= len(text) - cut
                text = text[:cut]
            return Value("text", self.expanded(text) if vocab else text)
        text = self.take(_BARE)
        if text in ("true", "false"):
            return Value("bool", text == "true")
        if text is not None:
            return Value("text", self.expanded(text) if vocab else text)
        raise self.fail("应为数字、带双引号的文本、时间、true、false 或 URI",
                        "expected a number, a quoted text, a time, true, false or a URI")

    def expanded(self, word: str) -> str:
        """The IRI of a vocabulary word."""
        check_name(word)
        return self.context.expand(word)

    def pattern(self) -> str:
        quoted = self.take(_STRING)
        if quoted is not None and self.peek() in ("", ";", "|", ")"):
            pattern: str = orjson.loads(quoted)
        else:
            if quoted is not None:
                self.at -= len(quoted)
            pattern = self.bare_pattern()
        try:
            regexp(pattern)
        except re2.error as error:
            raise self.fail(f"正则表达式无效：{error}", f"not a regular expression: {error}") from None
        return pattern

    def bare_pattern(self) -> str:
        """An unquoted pattern: to the next `;`, `|` or unbalanced `)` outside brackets and parentheses."""
        start, depth, inside = self.at, 0, False
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "\\":
                self.at += 2
                continue
            if inside:
                inside = char != "]"
            elif char == "[":
                inside = True
            elif char == "(":
                depth += 1
            elif char == ")":
                if depth == 0:
                    break
                depth -= 1
            elif char in ";|" and depth == 0:
                break
            self.at += 1
        self.at = min(self.at, len(self.text))
        if self.at == start:
            raise self.fail("应为正则表达式", "expected a regular expression")
        return self.text[start : self.at]


@lru_cache(maxsize=2048)
def regexp(pattern: str) -> Any:
    """A compiled RE2 pattern. Raises `re2.error`."""
    options = re2.Options()
    options.max_mem = 1 << 20
    options.log_errors = False
    if "\x00" in pattern or len(pattern) > 1000:
        raise re2.error("too long")
    return re2.compile(pattern, options)


@lru_cache(maxsize=1024)
def parse(text: str, context: Context, *, expand: frozenset[str] = frozenset(), levels: int = 0) -> Node:
    """Parse `q` under a context; `expand` are stored names whose values are vocabulary words (`expandValues`), and
    `levels` is how many links it may follow (`joinLevel`).

    Raises `BadRequestData` with the character's position.
    """
    if not text or len(text) > MAX_LENGTH:
        raise bad("q 为空或过长", "q is empty or too long", field="q", value=text, rule=f"1..{MAX_LENGTH} characters")
    return _Parser(text, context, expand, levels).parse()


def parse_path(text: str, context: Context, field: str) -> Path:
    """An attribute path alone, such as `a.b`, `a[member]` or `a.createdAt`. Raises `BadRequestData` naming `field`."""
    parser = _Parser(text, context, frozenset(), 0)
    try:
        path = parser.path()
    except BadRequestData as error:
        raise bad(error.zh, error.en, field=field, value=text, rule="CIM 009, 4.9") from None
    if parser.at < len(text):
        raise bad(f"{field} 中的 {text!r} 不是属性路径", f"{text!r} in {field} is not an attribute path", field=field,
                  value=text, rule="CIM 009, 4.9")
    return path


def terms(node: Node) -> Iterator[Term]:
    """Every condition of a query, those on linked entities included."""
    if isinstance(node, Term):
        yield node
    elif isinstance(node, Linked):
        yield from terms(node.inner)
    else:
        for part in node.parts:
            yield from terms(part)


def paths(node: Node) -> Iterator[Path]:
    """Every path of the entity itself that a query mentions."""
    if isinstance(node, Term):
        yield node.path
    elif isinstance(node, Linked):
        yield Path(node.relation)
    else:
        for part in node.parts:
            yield from paths(part)


def links(node: Node) -> bool:
    """Whether a query follows relationships."""
    return isinstance(node, Linked) or (not isinstance(node, Term) and any(links(part) for part in node.parts))


# ---- evaluation in Python -----------------------------------------------------------------------------------------

Times = Callable[[str | None], tuple[str, str]]
"""createdAt and modifiedAt of an attribute (stored name), or of the entity for None."""


def matches(node: Node, document: dict[str, Any], times: Times | None = None) -> bool:
    """Whether a stored document satisfies the query. What needs a linked entity does not hold: it is in the store."""
    if isinstance(node, Term):
        return _term(node, document, times)
    if isinstance(node, Linked):
        return False
    if isinstance(node, All):
        return all(matches(part, document, times) for part in node.parts)
    return any(matches(part, document, times) for part in node.parts)


def _term(term: Term, document: dict[str, Any], times: Times | None) -> bool:
    targets = _targets(term.path, term.operator, document, times)
    if targets is None:
        return False
    if not term.operator:
        return True
    if term.operator in ("!=", "!~="):
        if not targets:
            return False
        if term.operator == "!~=":
            texts = [item for item in _flat(targets) if isinstance(item, str)]
            return bool(texts) and not any(_one("~=", term.values[0], item) for item in texts)
        return not _equal(term, targets)
    if term.operator == "==":
        return _equal(term, targets)
    return any(_one(term.operator, value, item) for value in term.values for item in _flat(targets))


class _Words(list[Any]):
    """Vocabulary words, to which texts are put as `of_vocabulary` says."""


def _equal(term: Term, targets: list[Any]) -> bool:
    words = of_vocabulary(term).values
    return any(
        _one("==", value, item)
        for target in targets for item in _flat([target])
        for value in (words if isinstance(target, _Words) else term.values)
    )


def _flat(targets: list[Any]) -> Iterator[Any]:
    for item in targets:
        if isinstance(item, list):
            yield from item
        else:
            yield item


def _targets(path: Path, operator: str, document: dict[str, Any], times: Times | None) -> list[Any] | None:
    """The target values of a path (an array counts as one); None where the target element does not exist."""
    level: list[dict[str, Any]] = [document]
    for depth, name in enumerate(path.names):
        below: list[dict[str, Any]] = []
        for item in level:
            inner = item.get(name)
            if isinstance(inner, dict):
                below.append(inner)
            elif isinstance(inner, list) and not depth:
                below.extend(inner)
        level = below
    if path.core in ("createdAt", "modifiedAt"):
        if times is None or not level:
            return None
        pair = times(path.names[0] if path.names else None)
        return [pair[path.core == "modifiedAt"]]
    found: list[Any] = []
    exists = False
    for item in level:
        if path.core is not None:
            if path.core in item:
                found.append(item[path.core])
                exists = True
            continue
        kind = item.get("type")
        key = VALUE_OF.get(kind) if isinstance(kind, str) else None
        if key is None or key not in item:
            continue
        value: Any = item[key]
        if kind in ("Relationship", "ListRelationship") and operator not in ("", "==", "!="):
            continue  # "any operator different than equal or unequal shall result in not matching"
        if kind == "ListRelationship":
            value = [entry["object"] for entry in value]
        if kind == "VocabProperty":
            value = _Words(value if isinstance(value, list) else [value])
        if kind == "LanguageProperty":
            if not path.trail or path.trail == ("*",):
                found.extend(value.values())
            elif len(path.trail) == 1 and path.trail[0] in value:
                found.append(value[path.trail[0]])
            else:
                continue
            exists = True
            continue
        for step in path.trail:
            if not isinstance(value, dict) or step not in value:
                break
            value = value[step]
        else:
            found.append(value)
            exists = True
    return found if exists else None


def _one(operator: str, wanted: Value | Range, item: Any) -> bool:
    if isinstance(wanted, Range):
        return _one(">=", wanted.low, item) and _one("<=", wanted.high, item)
    value = wanted.value
    if wanted.kind == "bool":
        return isinstance(item, bool) and item == value
    if wanted.kind == "number":
        if isinstance(item, bool) or not isinstance(item, int | float):
            return False
    elif not isinstance(item, str):
        return False
    if operator == "~=":
        return regexp(str(value)).search(item) is not None
    left: Any = item
    right: Any = value
    if wanted.kind == "time":
        left, right = left.rstrip("Z"), str(right).rstrip("Z")
    elif isinstance(left, str) and operator not in ("==",):
        left, right = left.encode("utf-8", "replace"), str(right).encode()
    if operator == "==":
        return bool(left == right)
    if operator == ">":
        return bool(left > right)
    if operator == ">=":
        return bool(left >= right)
    if operator == "<":
        return bool(left < right)
    return bool(left <= right)


def of_vocabulary(term: Term) -> Term:
    """The condition as it is put to stored vocabulary words: these are IRIs (4.5.20), stored as `jsonld` says.

    So a text equals one only if it is its IRI, as `expandValues` makes it.
    """
    if term.operator not in ("==", "!="):
        return term
    values = tuple(
        Value("text", CORE.compact(str(value.value)) if ":" in str(value.value) else f"@{value.value}")
        if isinstance(value, Value) and value.kind == "text" else value
        for value in term.values
    )
    return Term(term.path, term.operator, values)


# ---- SQLite -------------------------------------------------------------------------------------------------------

Sql = tuple[str, list[Any]]


class Reach(NamedTuple):
    """The entities that links may lead to: a condition with its parameters, `{e}` standing for the table's alias."""

    condition: str = "1=1"
    parameters: tuple[Any, ...] = ()
    table: str = "entities"


EVERYWHERE = Reach()

_SCALAR_TYPES = {
    "bool": "('true','false')", "number": "('integer','real')", "text": "('text')", "time": "('text')",
}


def compile_sqlite(node: Node, column: str = "e.doc", reach: Reach = EVERYWHERE) -> Sql:
    """The query as an SQLite condition over the JSON text in `column`, with its parameters in order.

    Times of creation and modification are read from the columns `created_at`, `modified_at` and `times` beside it.
    `reach` bounds the entities that links may lead to.
    """
    if isinstance(node, Term):
        return _sqlite_term(node, column)
    if isinstance(node, Linked):
        first, rest = "$" + _quoted(node.relation[:1]), _quoted(node.relation[1:])
        each = (
            f"json_each(CASE json_type({column},?) WHEN 'array' THEN json_extract({column},?) "
            f"ELSE json_array(json_extract({column},?)) END) i"
        )
        objects = (
            "json_each(CASE WHEN json_type(i.value,?)='array' THEN json_extract(i.value,?) WHEN json_type(i.value,?)='array' "
            "THEN json_extract(i.value,?) ELSE json_array(json_extract(i.value,?)) END) o"
        )
        ids = f"SELECT CASE o.type WHEN 'object' THEN json_extract(o.value,'$.object') ELSE o.value END FROM {each}, {objects}"
        listed, single = f"${rest}.objectList", f"${rest}.object"
        parameters: list[Any] = [first, first, first, listed, listed, single, single, single]
        return _follow(node, column, ids, parameters, reach, compile_sqlite,
                       "EXISTS (SELECT 1 FROM json_each({e}.doc,'$.type') t WHERE t.value=?)")
    parts = [compile_sqlite(part, column, reach) for part in node.parts]
    word = " AND " if isinstance(node, All) else " OR "
    return "(" + word.join(sql for sql, _ in parts) + ")", [p for _, ps in parts for p in ps]


def _follow(
    node: Linked, column: str, ids: str, parameters: list[Any], reach: Reach, compiled: Callable[..., Sql], typed: str
) -> Sql:
    """EXISTS over the linked entities: `ids` selects what the relationship names, `typed` is the test of a type."""
    alias = "l" + column.removesuffix(".doc").removeprefix("e")
    inner, inner_parameters = compiled(node.inner, f"{alias}.doc", reach)
    condition = f"{alias}.id IN ({ids}) AND {reach.condition.replace('{e}', alias)}"
    parameters = [*parameters, *reach.parameters]
    if node.hint is not None:
        condition += f" AND {typed.replace('{e}', alias)}"
        parameters.append(node.hint)
    sql = f"EXISTS (SELECT 1 FROM {reach.table} {alias} WHERE {condition} AND {inner})"
    return sql, [*parameters, *inner_parameters]


def _quoted(names: tuple[str, ...]) -> str:
    return "".join(f'."{name}"' for name in names)


def _sqlite_term(term: Term, column: str) -> Sql:
    path = term.path
    if path.core in ("createdAt", "modifiedAt"):
        return _system_time(term, column, "sqlite")
    if not path.names:
        return _sqlite_value(term, column, "$." + str(path.core))
    first = "$" + _quoted(path.names[:1])
    rest = _quoted(path.names[1:])
    alone, alone_parameters = _sqlite_instance(term, column, first + rest)
    each, each_parameters = _sqlite_instance(term, "i.value", "$" + rest)
    refusal, extra = "", []
    if term.operator in ("!=", "!~="):
        positive = Term(path, "==" if term.operator == "!=" else "~=", term.values)
        yes, yes_parameters = _sqlite_instance(positive, "i.value", "$" + rest)
        refusal = f"AND NOT EXISTS (SELECT 1 FROM json_each({column},?) i WHERE {yes})"
        extra = [first, *yes_parameters]
    sql = (
        f"CASE json_type({column},?) WHEN 'object' THEN ({alone}) WHEN 'array' THEN "
        f"(EXISTS (SELECT 1 FROM json_each({column},?) i WHERE {each}) {refusal}) ELSE 0 END"
    )
    parameters = [first, *alone_parameters, first, *each_parameters, *extra]
    if path.core is not None or not term.operator:
        return sql, parameters
    # Nearly always the attribute is one Property with a scalar value: then this alone decides.
    value = f"{first}{rest}.value{_quoted(path.trail)}"
    direct, own = _sqlite_scalar(term, f"json_type({column},?)", f"json_extract({column},?)", value)
    if term.operator == "!=":
        direct = f"NOT {direct}"
    elif term.operator == "!~=":
        direct, own = f"(json_type({column},?) = 'text' AND NOT {direct})", [value, *own]
    scalar = "('integer','real','text','true','false')"
    return f"CASE WHEN json_type({column},?) IN {scalar} THEN {direct} ELSE {sql} END", [value, *own, *parameters]


def _sqlite_instance(term: Term, source: str, base: str) -> Sql:
    """The condition on one attribute instance at path `base` of `source`."""
    path = term.path
    if path.core is not None:
        return _sqlite_value(term, source, f"{base}.{path.core}")
    trail = _quoted(path.trail)
    if not term.operator:
        if not path.trail:
            return f"json_type({source},?) IS NOT NULL", [f"{base}.type"]
        members = [f"{base}.value{trail}", f"{base}.json{trail}", f"{base}.languageMap{trail}"]
        if path.trail == ("*",):
            members.append(f"{base}.languageMap")
        return "(" + " OR ".join(f"json_type({source},?) IS NOT NULL" for _ in members) + ")", members
    branches: list[str] = []
    parameters: list[Any] = [f"{base}.type"]

    def when(kinds: str, condition: Sql) -> None:
        branches.append(f"WHEN {kinds} THEN ({condition[0]})")
        parameters.extend(condition[1])

    when("'Property'", _sqlite_value(term, source, f"{base}.value{trail}"))
    equality = term.operator in ("==", "!=")
    words = of_vocabulary(term)
    for kind in ("Relationship", "VocabProperty", "ListProperty", "JsonProperty", "GeoProperty"):
        if kind == "Relationship" and not equality:
            continue
        wanted = words if kind == "VocabProperty" else term
        when(f"'{kind}'", _sqlite_value(wanted, source, f"{base}.{VALUE_OF[kind]}{trail}"))
    if len(path.trail) == 1 and path.trail != ("*",):
        when("'LanguageProperty'", _sqlite_value(term, source, f"{base}.languageMap{trail}"))
    elif len(path.trail) < 2:
        when("'LanguageProperty'", _sqlite_members(term, source, f"{base}.languageMap"))
    if not path.trail and equality:
        when("'ListRelationship'", _sqlite_objects(term, source, f"{base}.objectList"))
    return f"CASE json_extract({source},?) {' '.join(branches)} ELSE 0 END", parameters


def _sqlite_value(term: Term, source: str, path: str) -> Sql:
    """The condition on the value at `path`: a scalar, or an array's elements."""
    if not term.operator:
        return f"json_type({source},?) IS NOT NULL", [path]
    positive, parameters = _sqlite_scalar(term, "v.type", "v.value")
    within = f"EXISTS (SELECT 1 FROM json_each({source},?) v WHERE {positive})"
    if term.operator == "!=":
        direct, direct_parameters = _sqlite_scalar(term, f"json_type({source},?)", f"json_extract({source},?)", path)
        sql = (
            f"(json_type({source},?) IS NOT NULL AND CASE json_type({source},?) WHEN 'array' THEN NOT {within} "
            f"WHEN 'object' THEN 1 ELSE NOT ({direct}) END)"
        )
        return sql, [path, path, path, *parameters, *direct_parameters]
    if term.operator == "!~=":
        texts = f"EXISTS (SELECT 1 FROM json_each({source},?) v WHERE v.type = 'text')"
        sql = (
            f"CASE json_type({source},?) WHEN 'array' THEN {texts} AND NOT {within} "
            f"WHEN 'text' THEN NOT regexp(?, json_extract({source},?)) ELSE 0 END"
        )
        return sql, [path, path, path, *parameters, _regexp_of(term), path]
    direct, direct_parameters = _sqlite_scalar(term, f"json_type({source},?)", f"json_extract({source},?)", path)
    sql = f"CASE json_type({source},?) WHEN 'array' THEN {within} WHEN 'object' THEN 0 ELSE ({direct}) END"
    return sql, [path, path, *parameters, *direct_parameters]


def _regexp_of(term: Term) -> Any:
    first = term.values[0]
    assert isinstance(first, Value)
    return first.value


def _sqlite_members(term: Term, source: str, path: str) -> Sql:
    """The condition on any text of a language map, whose members are texts or arrays of texts."""
    positive, parameters = _sqlite_scalar(term, "v.type", "v.value")
    any_text = (
        f"EXISTS (SELECT 1 FROM json_each({source},?) m, "
        f"json_each(CASE m.type WHEN 'array' THEN m.value ELSE json_array(m.value) END) v WHERE {positive})"
    )
    return (f"NOT {any_text}" if term.operator in ("!=", "!~=") else any_text), [path, *parameters]


def _sqlite_objects(term: Term, source: str, path: str) -> Sql:
    positive, parameters = _sqlite_scalar(term, "'text'", "json_extract(v.value,'$.object')")
    any_object = f"EXISTS (SELECT 1 FROM json_each({source},?) v WHERE {positive})"
    return (f"NOT {any_object}" if term.operator == "!=" else any_object), [path, *parameters]


def _sqlite_scalar(term: Term, kind: str, value: str, path: str | None = None) -> Sql:
    """Whether one scalar equals, exceeds ... any wanted value; for `!=` and `!~=` the positive of it.

    `kind` and `value` are SQL; where `path` is given each contains one mark for it.
    """
    own = [] if path is None else [path]
    operator = {"!=": "==", "!~=": "~="}.get(term.operator, term.operator)
    alternatives: list[str] = []
    parameters: list[Any] = []

    def compare(sign: str, wanted: Value) -> str:
        types = _SCALAR_TYPES[wanted.kind]
        if wanted.kind == "bool":
            parameters.extend([*own, "true" if wanted.value else "false"])
            return f"{kind} = ?"
        if sign == "~=":
            parameters.extend([*own, wanted.value, *own])
            return f"({kind} IN {types} AND regexp(?, {value}))"
        parameters.extend([*own, *own, wanted.value])
        sql_sign = "=" if sign == "==" else sign
        if wanted.kind == "time":
            parameters[-1] = str(wanted.value).rstrip("Z")
            return f"({kind} IN {types} AND rtrim({value},'Z') {sql_sign} ?)"
        return f"({kind} IN {types} AND {value} {sql_sign} ?)"

    for wanted in term.values:
        if isinstance(wanted, Range):
            low = compare(">=", wanted.low)
            alternatives.append(f"({low} AND {compare('<=', wanted.high)})")
        else:
            alternatives.append(compare(operator, wanted))
    return "(" + " OR ".join(alternatives) + ")", parameters


def _system_time(term: Term, column: str, dialect: str) -> Sql:
    """`createdAt` and `modifiedAt` of the entity, or of a top-level attribute, from the columns beside the document."""
    from tulou.context.forms import micros

    prefix = column.rpartition(".")[0]
    dot = prefix + "." if prefix else ""
    index = 0 if term.path.core == "createdAt" else 1
    if not term.path.names:
        moment, own, guard, guard_parameters = f"{dot}{('created_at', 'modified_at')[index]}", [], "1=1", []
    else:
        name = term.path.names[0]
        if dialect == "sqlite":
            moment = (
                f"coalesce(json_extract({dot}times,?),json_extract({dot}times,?),{dot}created_at)"
            )
            own = [f'$."{name}"[{index}]', f'$."*"[{index}]']
            guard, guard_parameters = f"json_type({column},?) IS NOT NULL", [f'$."{name}"']
        else:
            moment = (
                f"coalesce(({dot}times->?->>{index})::bigint,({dot}times->'*'->>{index})::bigint,{dot}created_at)"
            )
            own = [name]
            guard, guard_parameters = f"jsonb_exists({column},?)", [name]
    if not term.operator:
        return guard, list(guard_parameters)
    checks: list[str] = []
    parameters: list[Any] = list(guard_parameters)

    def compare(sign: str, wanted: Value) -> str:
        if wanted.kind not in ("time", "text"):
            return "1=0"
        text = str(wanted.value)
        text = text if "T" in text else text + "T00:00:00Z"
        parameters.extend([*own, micros(datetime_text(text, "q"))])
        return f"{moment} {sign} ?"

    for wanted in term.values:
        if isinstance(wanted, Range):
            low = compare(">=", wanted.low)
            checks.append(f"({low} AND {compare('<=', wanted.high)})")
        else:
            checks.append(compare("=" if term.operator in ("==", "!=") else term.operator, wanted))
    if term.operator in ("~=", "!~="):
        return "1=0", []
    joined = "(" + " OR ".join(checks) + ")"
    return f"({guard} AND {'NOT ' if term.operator == '!=' else ''}{joined})", parameters


# ---- PostgreSQL ---------------------------------------------------------------------------------------------------


def compile_postgres(node: Node, column: str = "e.doc", reach: Reach = EVERYWHERE) -> Sql:
    """The query as a PostgreSQL condition over the jsonb in `column`; `?` marks, parameters in order."""
    if isinstance(node, Term):
        return _postgres_term(node, column)
    if isinstance(node, Linked):
        path = list(node.relation[1:])
        ids = (
            f"SELECT o.o #>> '{{}}' FROM jsonb_array_elements(CASE jsonb_typeof({column}->?) WHEN 'array' THEN {column}->? "
            f"ELSE jsonb_build_array({column}->?) END) i(i), LATERAL jsonb_array_elements(CASE WHEN i.i #> ?::text[] IS NOT "
            "NULL THEN jsonb_path_query_array(i.i #> ?::text[],'$[*].object') WHEN jsonb_typeof(i.i #> ?::text[])='array' "
            "THEN i.i #> ?::text[] ELSE jsonb_build_array(i.i #> ?::text[]) END) o(o)"
        )
        objects, listed = [*path, "object"], [*path, "objectList"]
        parameters = [*[node.relation[0]] * 3, listed, listed, objects, objects, objects]
        return _follow(node, column, ids, parameters, reach, compile_postgres, "{e}.doc->'type' @> to_jsonb(?::text)")
    parts = [compile_postgres(part, column, reach) for part in node.parts]
    word = " AND " if isinstance(node, All) else " OR "
    return "(" + word.join(sql for sql, _ in parts) + ")", [p for _, ps in parts for p in ps]


_PG_VALUE = "coalesce(s.s->'value',s.s->'object',s.s->'vocab',s.s->'valueList',s.s->'json')"


def _postgres_term(term: Term, column: str) -> Sql:
    path = term.path
    if path.core in ("createdAt", "modifiedAt"):
        return _system_time(term, column, "postgresql")
    parameters: list[Any] = []
    if not path.names:
        source, target = f"(SELECT {column}) s(s)", f"s.s->'{path.core}'"
    else:
        parameters += [path.names[0]] * 3 + [list(path.names[1:])]
        source = (
            f"jsonb_array_elements(CASE jsonb_typeof({column}->?) WHEN 'array' THEN {column}->? "
            f"WHEN 'object' THEN jsonb_build_array({column}->?) ELSE '[]' END) i(i) "
            "CROSS JOIN LATERAL (SELECT i.i #> ?::text[]) s(s)"
        )
        if path.core is not None:
            target = f"s.s->'{path.core}'"
        elif path.trail == ("*",) or not path.trail:
            texts = "WHEN jsonb_exists(s.s,'languageMap') THEN jsonb_path_query_array(s.s,'$.languageMap.*[*]')"
            objects = "WHEN jsonb_exists(s.s,'objectList') THEN jsonb_path_query_array(s.s,'$.objectList[*].object')"
            value = _PG_VALUE if not path.trail else f"{_PG_VALUE}->'*'"
            target = f"CASE {texts} {objects if not path.trail else ''} ELSE {value} END"
        else:
            target = f"CASE WHEN jsonb_exists(s.s,'languageMap') THEN s.s->'languageMap' #> ?::text[] ELSE {_PG_VALUE} #> ?::text[] END"
            parameters += [list(path.trail)] * 2
    if path.core is None and term.operator not in ("", "==", "!="):
        target = f"CASE WHEN s.s->>'type' IN ('Relationship','ListRelationship') THEN NULL ELSE {target} END"
    found = f"{source} CROSS JOIN LATERAL (SELECT {target}) t(t)"
    exists = f"EXISTS (SELECT 1 FROM {found} WHERE t.t IS NOT NULL)"
    if not term.operator:
        return exists, parameters
    elements = "jsonb_array_elements(CASE jsonb_typeof(t.t) WHEN 'array' THEN t.t ELSE jsonb_build_array(t.t) END) v(v)"
    condition, wanted = _postgres_any(term)
    words = of_vocabulary(term)
    if words.values != term.values:
        other, of_words = _postgres_any(words)
        condition = f"CASE WHEN s.s->>'type'='VocabProperty' THEN ({other}) ELSE ({condition}) END"
        wanted = [*of_words, *wanted]
    positive = f"EXISTS (SELECT 1 FROM {found} CROSS JOIN LATERAL {elements} WHERE t.t IS NOT NULL AND ({condition}))"
    if term.operator == "!=":
        return f"({exists} AND NOT {positive})", [*parameters, *parameters, *wanted]
    if term.operator == "!~=":
        text = (
            f"EXISTS (SELECT 1 FROM {found} CROSS JOIN LATERAL {elements} "
            "WHERE t.t IS NOT NULL AND jsonb_typeof(v.v) = 'string')"
        )
        return f"({text} AND NOT {positive})", [*parameters, *parameters, *wanted]
    return positive, [*parameters, *wanted]


def _postgres_any(term: Term) -> Sql:
    """Whether the element `v.v` satisfies any wanted value; for `!=` and `!~=` the positive of it."""
    operator = {"!=": "==", "!~=": "~="}.get(term.operator, term.operator)
    alternatives: list[str] = []
    parameters: list[Any] = []

    def compare(sign: str, wanted: Value) -> str:
        sql_sign = "=" if sign == "==" else sign
        if wanted.kind == "bool":
            parameters.append(wanted.value)
            return "v.v = to_jsonb(?::boolean)"
        if wanted.kind == "number":
            parameters.append(wanted.value)
            return f"(CASE jsonb_typeof(v.v) WHEN 'number' THEN (v.v #>> '{{}}')::numeric {sql_sign} ?::numeric ELSE false END)"
        text = "(v.v #>> '{}')"
        if sign == "~=":
            parameters.append(wanted.value)
            return f"(CASE jsonb_typeof(v.v) WHEN 'string' THEN {text} ~ ? ELSE false END)"
        if wanted.kind == "time":
            parameters.append(str(wanted.value).rstrip("Z"))
            return f"(CASE jsonb_typeof(v.v) WHEN 'string' THEN rtrim({text},'Z') COLLATE \"C\" {sql_sign} ? ELSE false END)"
        parameters.append(wanted.value)
        return f"(CASE jsonb_typeof(v.v) WHEN 'string' THEN {text} COLLATE \"C\" {sql_sign} ? ELSE false END)"

    for wanted in term.values:
        if isinstance(wanted, Range):
            low = compare(">=", wanted.low)
            alternatives.append(f"({low} AND {compare('<=', wanted.high)})")
        else:
            alternatives.append(compare(operator, wanted))
    return " OR ".join(alternatives), parameters


def compile_sql(node: Node, dialect: str, reach: Reach = EVERYWHERE) -> Sql:
    """`compile_sqlite` or `compile_postgres` over `e.doc`; may be remembered, so the parameters must not be changed."""
    if not links(node):
        return _compiled(node, dialect)
    return (compile_postgres if dialect == "postgresql" else compile_sqlite)(node, "e.doc", reach)


@lru_cache(maxsize=1024)
def _compiled(node: Node, dialect: str) -> Sql:
    return compile_postgres(node) if dialect == "postgresql" else compile_sqlite(node)
