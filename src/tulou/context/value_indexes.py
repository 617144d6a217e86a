"""Indexes over the values of attributes, so that a selective `q` need not look at every entity.

Law: an index only proposes. It holds each entity's number or text of one attribute, and a mark for whatever else the
attribute may be (several instances, arrays, languages, ...); what it proposes for a condition, marks included, is a
superset of what satisfies it, and the whole condition is then asked of those entities alone. Where it would propose
more than `MOST`, enough entities satisfy the condition for a walk in order to find a page soon, so it proposes none.

An index makes every write of an entity that has the attribute dearer (on SQLite about 14 µs), so there is none unless an
operator asks for it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from tulou.context import query
from tulou.context.errors import AlreadyExists, bad
from tulou.context.jsonld import Context
from tulou.context.store import Store
from tulou.kernel import audit
from tulou.kernel.errors import NotFound
from tulou.kernel.policy import ROOT, Actor, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, WRITE = "context.index.read", "context.index.write"
MOST = 10_000
"""Most entities that an index proposes."""
_UNSAFE = re.compile(r"['\"%{}?\\]")
REMEMBERED_S = 60.0
"""How long it is remembered that a condition has more."""


def expression(attribute: str, dialect: str) -> tuple[str, str]:
    """(indexed expression, which entities have it) in SQL over the column `doc`. `attribute` is a stored
    name that was accepted by `add`."""
    if dialect == "postgresql":
        of = f"doc->'{attribute}'"
        return (
            f"(CASE WHEN jsonb_typeof({of}->'value') IN ('number','string') THEN {of}->'value' "
            f"WHEN jsonb_typeof({of}->'object')='string' THEN {of}->'object' ELSE '[]'::jsonb END)",
            f"jsonb_exists(doc,'{attribute}')",
        )
    of = f"$.\"{attribute}\""
    return (
        f"(CASE WHEN json_type(doc,'{of}.value') IN ('integer','real','text') THEN json_extract(doc,'{of}.value') "
        f"WHEN json_type(doc,'{of}.object')='text' THEN json_extract(doc,'{of}.object') ELSE x'' END)",
        f"json_type(doc,'{of}') IS NOT NULL",
    )


def conjuncts(node: query.Node) -> Iterator[query.Term]:
    """The terms that must hold for the node to hold."""
    if isinstance(node, query.Term):
        yield node
    elif isinstance(node, query.All):
        for part in node.parts:
            yield from conjuncts(part)


def ranges(term: query.Term, dialect: str) -> list[tuple[str, list[Any]]] | None:
    """Conditions on the expression `{x}` that together cover what satisfies the term; None if no index can.

    Numbers sort before texts on SQLite, after them on PostgreSQL, whose texts sort by the database's collation: so there
    texts are only asked for equality.
    """
    path, postgres = term.path, dialect == "postgresql"
    if len(path.names) != 1 or path.trail or path.core is not None or not term.values:
        return None
    if term.operator not in ("==", ">", ">=", "<", "<="):
        return None
    mark = "CAST(? AS jsonb)" if postgres else "?"

    def put(value: Any) -> Any:
        return orjson.dumps(value).decode() if postgres else value

    found: list[tuple[str, list[Any]]] = [(f"{{x}}={mark}", ["[]" if postgres else b""])]
    for item in term.values:
        low, high = (item.low, item.high) if isinstance(item, query.Range) else (item, item)
        if low.kind != high.kind or low.kind not in ("number", "text") or isinstance(low.value, bool):
            return None
        number = low.kind == "number"
        if term.operator == "==" and low is high:
            found.append((f"{{x}}={mark}", [put(low.value)]))
        elif postgres and not number:
            return None
        elif term.operator == "==":
            found.append((f"{{x}}>={mark} AND {{x}}<={mark}", [put(low.value), put(high.value)]))
        elif term.operator in (">", ">="):
            end: Any = (False if postgres else "") if number else b""
            found.append((f"{{x}}{term.operator}{mark} AND {{x}}<{mark}", [put(low.value), put(end)]))
        elif number and postgres:
            found.append((f"{{x}}{term.operator}{mark} AND jsonb_typeof({{x}})='number'", [put(low.value)]))
        elif number:
            found.append((f"{{x}}{term.operator}{mark}", [low.value]))
        else:
            found.append((f"{{x}}{term.operator}{mark} AND {{x}}>=''", [low.value]))
    return found


class ValueIndexes:
    """The operations on indexes, for operators of the whole house; and what they propose."""

    def __init__(self, house: House, store: Store, names: Context) -> None:
        self.house = house
        self.db = house.db
        self.store = store
        self.names = names
        self.known: dict[str, int] = {}
        self._dense: dict[tuple[str, str, Any], float] = {}

    @property
    def _dialect(self) -> str:
        return "postgresql" if self.store.postgres else "sqlite"

    async def reload(self) -> None:
        """Read which there are."""
        rows = await self.db.read(lambda c: c.exec_driver_sql("SELECT attribute,no FROM value_indexes").fetchall())
        self.known = {row[0]: row[1] for row in rows}

    @operation(READ)
    async def search(self, actor: Actor) -> list[str]:
        """Attributes with an index, as the house's context names them."""
        self.house.policy.require(actor, READ, ROOT)
        return sorted(map(self.names.shown, self.known))

    @operation(WRITE)
    async def add(self, actor: Actor, name: str) -> None:
        """Index the values of an attribute; writing waits while it is made (about 3 µs an entity). Raises `AlreadyExists`,
        `BadRequestData`."""
        self.house.policy.require(actor, WRITE, ROOT)
        attribute = self.names.stored(name)
        if _UNSAFE.search(attribute):
            raise bad(f"{name} 中有不可索引的字符", f"{name} has characters that cannot be indexed", field="attribute",
                      value=name, rule=_UNSAFE.pattern)
        if attribute in self.known:
            raise AlreadyExists(f"{name} 已有索引", f"{name} is indexed already", field="attribute", value=name, rule="unique")

        def write(connection: sa.Connection) -> None:
            cursor = self.store.cursor(connection)
            cursor.execute(self.store.sql("INSERT INTO value_indexes (attribute,created_at) VALUES (?,?)"),
                           (attribute, time.time_ns() // 1000))
            no = cursor.execute(self.store.sql("SELECT no FROM value_indexes WHERE attribute=?"), (attribute,)).fetchone()[0]
            value, present = expression(attribute, self._dialect)
            cursor.execute(f"CREATE INDEX ix_entities_value_{no} ON entities ({value}) WHERE {present}")
            audit.record(connection, actor, WRITE, ROOT, attribute, {"index": "added"})

        await self.db.write(write)
        await self._changed()

    @operation(WRITE)
    async def remove(self, actor: Actor, name: str) -> None:
        """Drop the index of an attribute. Raises `NotFound`."""
        self.house.policy.require(actor, WRITE, ROOT)
        attribute = self.names.stored(name)
        no = self.known.get(attribute)
        if no is None:
            raise NotFound(f"{name} 没有索引", f"{name} has no index", field="attribute", value=name)

        def write(connection: sa.Connection) -> None:
            cursor = self.store.cursor(connection)
            cursor.execute(self.store.sql("DELETE FROM value_indexes WHERE no=?"), (no,))
            cursor.execute(f"DROP INDEX ix_entities_value_{no}")
            audit.record(connection, actor, WRITE, ROOT, attribute, {"index": "removed"})

        await self.db.write(write)
        await self._changed()

    async def _changed(self) -> None:
        await self.reload()
        bus = getattr(self.house, "bus", None)
        if bus is not None:
            await bus.changed("value_indexes", "")

    def propose(self, cursor: Any, node: query.Node | None) -> list[int] | None:
        """Numbers of all entities that may satisfy `node`, ascending; None where no index narrows it enough."""
        if node is None or not self.known:
            return None
        for term in conjuncts(node):
            if len(term.path.names) == 1 and term.path.names[0] in self.known:
                found = self._propose(cursor, term)
                if found is not None:
                    return found
        return None

    def _propose(self, cursor: Any, term: query.Term) -> list[int] | None:
        attribute = term.path.names[0]
        parts = ranges(term, self._dialect)
        key = (attribute, term.operator, term.values)
        if parts is None or self._dense.get(key, 0.0) > time.monotonic():
            return None
        value, present = expression(attribute, self._dialect)
        by = "" if self.store.postgres else f" INDEXED BY ix_entities_value_{self.known[attribute]}"
        found: set[int] = set()
        for condition, parameters in parts:
            sql = f"SELECT no FROM entities{by} WHERE {present} AND {condition.format(x=value)} LIMIT {MOST + 1}"
            found.update(row[0] for row in cursor.execute(self.store.sql(sql), parameters).fetchall())
            if len(found) > MOST:
                if len(self._dense) >= 10_000:
                    self._dense.clear()
                self._dense[key] = time.monotonic() + REMEMBERED_S
                return None
        return sorted(found)


def chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """The numbers in runs of `size`."""
    for at in range(0, len(numbers), size):
        yield numbers[at : at + size]
