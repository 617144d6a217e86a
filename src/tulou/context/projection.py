"""The attribute projection language: what `pick` and `omit` say, down into linked entities.

Law: pure. Names come out in their stored form; a tree deeper than the linked entity retrieval that was asked for is
refused, because it could not be satisfied.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.21, 5.7.1.4 and 5.7.2.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Union

from tulou.context.errors import bad
from tulou.context.forms import ENTITY_MEMBERS, SYSTEM
from tulou.context.jsonld import Context

Projection = Mapping[str, Union["Projection", None]]
"""Stored names; beneath a name, what is wanted of the entities that it links to (None: nothing is said)."""

MAX_TOKENS = 2_000
MAX_DEPTH = 20
HEAD = ENTITY_MEMBERS - {"@context"}
"""Members of an entity that are projected like attributes and have no other name."""
_MEMBERS = HEAD | SYSTEM
_TOKEN = re.compile(r"[{},|]|[^{},|\s]+")


def parse(text: str, context: Context, field: str) -> Projection:
    """Parse `a,b{c|d}` (`,` and `|` are the same or). Raises `BadRequestData` naming `field`."""
    tokens = _TOKEN.findall(text)
    if len(tokens) > MAX_TOKENS:
        raise _malformed(field, text)
    at = 0

    def terms(depth: int) -> Projection:
        nonlocal at
        found: dict[str, Projection | None] = {}
        while True:
            if at >= len(tokens) or tokens[at] in "{},|" or depth > MAX_DEPTH:
                raise _malformed(field, text)
            word = tokens[at]
            name = word if word in _MEMBERS else context.stored(word)
            at += 1
            inner: Projection | None = None
            if at < len(tokens) and tokens[at] == "{":
                at += 1
                inner = terms(depth + 1)
                if at >= len(tokens) or tokens[at] != "}":
                    raise _malformed(field, text)
                at += 1
            found[name] = inner
            if at >= len(tokens) or tokens[at] not in ",|":
                return found
            at += 1

    tree = terms(0)
    if at != len(tokens):
        raise _malformed(field, text)
    return tree


def depth(tree: Projection | None) -> int:
    """How many links a projection follows."""
    return 0 if tree is None else max((1 + depth(inner) for inner in tree.values() if inner is not None), default=0)


def check(pick: Projection | None, omit: Projection | None, levels: int) -> None:
    """Raise `BadRequestData` where both name a member, or one goes deeper than `levels` of linked entities."""
    both = {name for name in pick or () if omit and name in omit and omit[name] is None and (pick or {})[name] is None}
    if both:
        raise bad("同一成员不可既在 pick 又在 omit", "a member cannot be in both pick and omit", field="omit",
                  value=", ".join(sorted(both)), rule="CIM 009, 4.21")
    for field, tree in (("pick", pick), ("omit", omit)):
        if depth(tree) > levels:
            raise bad(f"{field} 深入 {depth(tree)} 层关联实体，而 joinLevel 只到 {levels}",
                      f"{field} goes {depth(tree)} linked entities deep; join and joinLevel reach {levels}",
                      field=field, value=depth(tree), rule="CIM 009, 5.7.1.4: <= joinLevel")


def _malformed(field: str, text: str) -> Exception:
    return bad(f"{field} 应为 a,b{{c}} 形式的名称", f"{field} must be names such as a,b{{c}}", field=field, value=text,
               rule="CIM 009, 4.21")
