"""What a query selects: types, ids, attributes, q, place, scope; compiled to one SQL condition.

Law: pure; organisations are not part of it, they are added by the service from the policy.

Sources: ETSI GS CIM 009 v1.9.1 clauses 4.17 (entity type selection), 4.19 (scope query), 5.7.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import re2

from tulou.context import query
from tulou.context.errors import bad
from tulou.context.geo import GeoQuery
from tulou.context.jsonld import Context
from tulou.context.store import Store

TypeTree = str | tuple[str, tuple["TypeTree", ...]]
"""A stored type name, or ("and" | "or", parts)."""


@dataclass(frozen=True)
class Selector:
    """One of the alternatives of a query or subscription: type, ids, id pattern."""

    types: TypeTree | None = None
    ids: tuple[str, ...] = ()
    pattern: str | None = None


@dataclass(frozen=True)
class Selection:
    """Everything that an entity must satisfy. `attributes`: at least one of these stored names exists."""

    selectors: tuple[Selector, ...] = ()
    attributes: tuple[str, ...] = ()
    q: query.Node | None = None
    geo: GeoQuery | None = None
    scope: str | None = None
    snapshot: int | None = None
    """The number of the snapshot to look at, None for the current state."""

    @property
    def table(self) -> str:
        """The table that holds what is looked at."""
        return "entities" if self.snapshot is None else "snapshot_entities"


_TYPE_TOKEN = re.compile(r"[(),;|]|[^(),;|\s]+")


def type_tree(text: str, context: Context) -> TypeTree | None:
    """Parse a type selection: `A,B`, `A|B`, `A;B`, `(A;B)|C`; `*` is any type. Raises `BadRequestData`."""
    if text == "*":
        return None
    tokens = _TYPE_TOKEN.findall(text)
    if not tokens or len(text) > 4096 or len(tokens) > 200:
        raise _bad_type(text)
    at = 0

    def operand(depth: int) -> TypeTree:
        nonlocal at
        if at >= len(tokens) or depth > 20:
            raise _bad_type(text)
        word = tokens[at]
        at += 1
        if word == "(":
            inner = tree(depth + 1)
            if at >= len(tokens) or tokens[at] != ")":
                raise _bad_type(text)
            at += 1
            return inner
        if word in "),;|":
            raise _bad_type(text)
        return context.stored(word)

    def tree(depth: int) -> TypeTree:
        nonlocal at
        alternatives: list[TypeTree] = []
        parts = [operand(depth)]
        while at < len(tokens) and tokens[at] in ",;|":
            joint = tokens[at]
            at += 1
            if joint == ";":
                parts.append(operand(depth))
            else:
                alternatives.append(parts[0] if len(parts) == 1 else ("and", tuple(parts)))
                parts = [operand(depth)]
        alternatives.append(parts[0] if len(parts) == 1 else ("and", tuple(parts)))
        return alternatives[0] if len(alternatives) == 1 else ("or", tuple(alternatives))

    result = tree(0)
    if at != len(tokens):
        raise _bad_type(text)
    return result


def _bad_type(text: str) -> Exception:
    return bad("type 应为类型名，可用 , | ; 与括号组合", "type must be type names joined by , | ; and parentheses",
               field="type", value=text, rule="CIM 009, 4.17")


def type_matches(tree: TypeTree | None, types: list[str]) -> bool:
    """Whether an entity of these stored types is selected."""
    if tree is None:
        return True
    if isinstance(tree, str):
        return tree in types
    word, parts = tree
    return (all if word == "and" else any)(type_matches(part, types) for part in parts)


def pattern_of(text: str) -> str:
    """Check an `idPattern`. Raises `BadRequestData`."""
    try:
        query.regexp(text)
    except re2.error as error:
        raise bad(f"idPattern 不是有效的正则表达式：{error}", f"idPattern is not a regular expression: {error}",
                  field="idPattern", value=text, rule="regular expression") from None
    return text


def scope_pattern(text: str) -> str:
    """A scope query (clause 4.19) of alternatives as one regular expression. `;` needs `scope_patterns`."""
    alternatives = []
    for part in re.split(r"[|,]", text):
        part = part.strip("() ")
        if not re.fullmatch(r"/?(?:[\w+]+|#)(?:/(?:[\w+]+|#))*/?", part):
            raise bad("scopeQ 应为 /a/b、/a/+/b 或 /a/#", "scopeQ must be like /a/b, /a/+/b or /a/#",
                      field="scopeQ", value=text, rule="CIM 009, 4.19")
        steps = [s for s in part.split("/") if s]
        body = ""
        for step in steps:
            if step == "#":
                body += "(/.*)?"
            else:
                body += "/" + ("[^/]+" if step == "+" else re.escape(step))
        alternatives.append(body)
    return "^(?:" + "|".join(alternatives) + ")/?$"


def scope_patterns(text: str) -> list[str]:
    """The patterns that must each match some scope of the entity (`;` joins conjunctions)."""
    return [scope_pattern(part) for part in text.split(";")]


def scope_matches(text: str, document: dict[str, Any]) -> bool:
    """Whether an entity's scopes satisfy a scope query."""
    scope = document.get("scope")
    scopes = [scope] if isinstance(scope, str) else scope or []
    return all(
        any(query.regexp(p).search(s if s.startswith("/") else "/" + s) for s in scopes) for p in scope_patterns(text)
    )


def compile_selection(
    selection: Selection, store: Store, several: bool, type_name: Callable[[str], str],
    reach: query.Reach = query.EVERYWHERE,
) -> tuple[str, list[Any]]:
    """An SQL condition over `entities e`. `several`: whether any entity has more than one type; `reach`: see `query`.

    The geoquery becomes its bounding box only: the caller filters exactly with `GeoQuery.match`.
    """
    conditions: list[str] = []
    parameters: list[Any] = []
    if selection.snapshot is not None:
        conditions.append("e.snapshot=?")
        parameters.append(selection.snapshot)

    def types(tree: TypeTree) -> str:
        if isinstance(tree, str):
            name = type_name(tree)
            parameters.append(name)
            if not several:
                return "e.type=?"
            if store.postgres:
                parameters.append(name)
                return "(e.type=? OR jsonb_exists(e.types,?))"
            parameters.append(name)
            return "(e.type=? OR EXISTS (SELECT 1 FROM json_each(e.types) t WHERE t.value=?))"
        word, parts = tree
        if word == "or" and not several and all(isinstance(part, str) for part in parts):
            parameters.extend(type_name(part) for part in parts if isinstance(part, str))
            return "e.type IN (" + ",".join("?" * len(parts)) + ")"
        return "(" + (" AND " if word == "and" else " OR ").join(types(part) for part in parts) + ")"

    def selector(item: Selector) -> str:
        parts = []
        if item.types is not None:
            parts.append(types(item.types))
        if item.ids:
            sql, values = store.among("e.id", item.ids)
            parts.append(sql)
            parameters.extend(values)
        elif item.pattern is not None:
            parts.append("e.id ~ ?" if store.postgres else "regexp(?, e.id)")
            parameters.append(item.pattern)
        return " AND ".join(parts) or "1=1"

    if selection.selectors:
        each = [selector(item) for item in selection.selectors]
        conditions.append(each[0] if len(each) == 1 else "(" + " OR ".join(f"({sql})" for sql in each) + ")")
    if selection.attributes:
        if store.postgres:
            conditions.append("jsonb_exists_any(e.doc,?::text[])")
            parameters.append(list(selection.attributes))
        else:
            conditions.append("(" + " OR ".join("json_type(e.doc,?) IS NOT NULL" for _ in selection.attributes) + ")")
            parameters.extend(f'$."{name}"' for name in selection.attributes)
    if selection.q is not None:
        sql, values = query.compile_sql(selection.q, "postgresql" if store.postgres else "sqlite", reach)
        conditions.append(sql)
        parameters.extend(values)
    if selection.scope is not None:
        for pattern in scope_patterns(selection.scope):
            if store.postgres:
                conditions.append(
                    "EXISTS (SELECT 1 FROM jsonb_array_elements_text(CASE jsonb_typeof(e.doc->'scope') WHEN 'array' "
                    "THEN e.doc->'scope' WHEN 'string' THEN jsonb_build_array(e.doc->'scope') ELSE '[]' END) s(s) "
                    "WHERE ('/' || ltrim(s.s,'/')) ~ ?)"
                )
            else:
                conditions.append(
                    "EXISTS (SELECT 1 FROM json_each(e.doc,'$.scope') s WHERE regexp(?, '/' || ltrim(s.value,'/')))"
                )
            parameters.append(pattern)
    geo = selection.geo
    if geo is not None:
        if geo.geoproperty == "location":
            conditions.append("e.lon IS NOT NULL")
            if geo.box is not None:
                west, south, east, north = geo.box
                conditions.append(
                    "((e.west IS NULL AND e.lon BETWEEN ? AND ? AND e.lat BETWEEN ? AND ?) OR "
                    "(e.west <= ? AND e.east >= ? AND e.south <= ? AND e.north >= ?))"
                )
                parameters.extend([west, east, south, north, east, west, north, south])
        elif store.postgres:
            conditions.append("jsonb_exists(e.doc,?)")
            parameters.append(geo.geoproperty)
        else:
            conditions.append("json_type(e.doc,?) IS NOT NULL")
            parameters.append(f'$."{geo.geoproperty}"')
    return " AND ".join(conditions) or "1=1", parameters


def needs_regexp(selection: Selection) -> bool:
    """Whether the condition uses `regexp`."""
    return (
        selection.scope is not None or any(s.pattern is not None for s in selection.selectors)
        or (selection.q is not None and any(term.operator in ("~=", "!~=") for term in query.terms(selection.q)))
    )


def matches(selection: Selection, document: dict[str, Any], times: query.Times | None = None) -> bool:
    """The same in Python, for one stored document: what subscriptions ask."""
    types = document["type"] if isinstance(document["type"], list) else [document["type"]]

    def one(item: Selector) -> bool:
        if not type_matches(item.types, types):
            return False
        if item.ids:
            return document["id"] in item.ids
        return item.pattern is None or query.regexp(item.pattern).search(document["id"]) is not None

    if selection.selectors and not any(one(item) for item in selection.selectors):
        return False
    if selection.attributes and not any(name in document for name in selection.attributes):
        return False
    if selection.q is not None and not query.matches(selection.q, document, times):
        return False
    if selection.scope is not None and not scope_matches(selection.scope, document):
        return False
    return selection.geo is None or geo_matches(selection.geo, document)


def geo_matches(geo: GeoQuery, document: dict[str, Any]) -> bool:
    """Whether the document's geoproperty satisfies the geoquery."""
    attribute = document.get(geo.geoproperty)
    items = attribute if isinstance(attribute, list) else [attribute]
    return any(item and item.get("type") == "GeoProperty" and geo.match(item["value"]) for item in items)
