"""Linked entity retrieval: the entities that Relationships lead to, inside the linking ones or beside them.

Law: a linked entity is looked up as the actor, so what he may not see stays a URI. One look-up serves a whole level,
whatever the number of entities on it; levels, look-ups and copies are bounded. A link back to an entity on its own path
is not followed.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.5.23, 5.7.1.4 and 5.7.2.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from tulou.context import forms
from tulou.context.errors import TooManyResults, bad
from tulou.context.forms import Json
from tulou.context.jsonld import is_iri
from tulou.context.projection import Projection
from tulou.context.selection import Selection
from tulou.context.store import CHUNK, Row
from tulou.kernel.policy import Actor, operation

if TYPE_CHECKING:
    from tulou.context.service import ContextService
    from tulou.kernel.house import House

READ = "context.entity.read"

STYLES = ("inline", "flat")
MAX_LEVELS = 10
MAX_LINKED = 10_000
"""Most entities that links are followed to in one answer, and most copies of them inside others."""


class Join(NamedTuple):
    """What is asked for: `style` inline or flat, `levels` of links, ids that are not followed again (`containedBy`),
    and what is wanted of the entities."""

    style: str
    levels: int
    contained: frozenset[str] = frozenset()
    pick: Projection | None = None
    omit: Projection | None = None


def join_of(style: Any, level: Any, contained: Sequence[str]) -> Join | None:
    """Read `join`, `joinLevel` (a whole number or its text) and `containedBy`; None where nothing is to be joined.

    Raises `BadRequestData` naming the parameter.
    """
    if style is not None and style not in (*STYLES, "@none"):
        raise bad("join 应为 inline、flat 或 @none", "join must be inline, flat or @none", field="join", value=style,
                  rule="CIM 009, 4.5.23")
    if level is not None:
        number = int(level) if isinstance(level, str) and level.isascii() and level.isdigit() and len(level) < 5 else level
        if type(number) is not int or not 1 <= number <= MAX_LEVELS:
            raise bad(f"joinLevel 应为 1 至 {MAX_LEVELS} 的整数", f"joinLevel must be 1..{MAX_LEVELS}", field="joinLevel",
                      value=level, rule=f"1..{MAX_LEVELS}")
        level = number
    if not all(is_iri(item) for item in contained):
        raise bad("containedBy 应为 URI", "containedBy must be URIs", field="containedBy", value=list(contained), rule="URI")
    return None if style not in STYLES else Join(style, level or 1, frozenset(contained))


class Linked(NamedTuple):
    """An entity of an answer: its row, and what is wanted of it."""

    row: Row
    document: Json
    pick: Projection | None
    omit: Projection | None


class Graph:
    """The entities of an answer and those that their links lead to."""

    def __init__(self, join: Join, actor_org: str) -> None:
        self.join = join
        self.actor_org = actor_org
        self.known: dict[str, list[tuple[Row, Json]]] = {}
        self.first: list[Linked] = []
        self.others: list[Linked] = []
        """What links lead to, in the order in which they were met, each once."""

    def target(self, id: str, org: str) -> tuple[Row, Json] | None:
        """The entity that `id` means in a document of `org`: that organisation's, else the actor's, else the first."""
        found = self.known.get(id)
        if not found:
            return None
        for wanted in (org, self.actor_org):
            for item in found:
                if item[0].org == wanted:
                    return item
        return found[0]


class LinkedEntities:
    """The look-ups of linked entities."""

    def __init__(self, house: House, entities: ContextService) -> None:
        self.db = house.db
        self.policy = house.policy
        self.entities = entities

    @operation(READ)
    async def find(
        self, actor: Actor, ids: Sequence[str], *, tenant: str | None = None, snapshot: int | None = None
    ) -> list[Row]:
        """The entities with these ids that the actor may see, of every organisation that `tenant` covers."""
        entities, store = self.entities, self.entities.store
        orgs = entities.readable(actor, tenant)
        table = Selection(snapshot=snapshot).table

        def read(connection: sa.Connection) -> list[Row]:
            cursor = store.cursor(connection)
            found: list[Row] = []
            for at in range(0, len(ids), CHUNK):
                condition, parameters = store.among("e.id", ids[at : at + CHUNK])
                if snapshot is not None:
                    condition, parameters = condition + " AND e.snapshot=?", [*parameters, snapshot]
                condition, parameters = entities.within(orgs, condition, parameters)
                sql = f"SELECT {store.columns} FROM {table} e WHERE {condition} ORDER BY e.no"
                found += [Row(*row) for row in cursor.execute(store.sql(sql), parameters).fetchall()]
            return found

        return await self.db.read(read)

    async def follow(
        self, actor: Actor, rows: Sequence[tuple[Row, Json]], join: Join, *, tenant: str | None = None,
        snapshot: int | None = None,
    ) -> Graph:
        """The graph from `rows` (each with its document) down to `join.levels`. Raises `TooManyResults`."""
        graph = Graph(join, actor.org)
        graph.first = front = [Linked(row, document, join.pick, join.omit) for row, document in rows]
        beside = {row.no for row, _ in rows}
        seen = {(item.row.no, id(item.pick), id(item.omit)) for item in front}
        for _ in range(join.levels):
            wanted = {
                target: None for item in front for _, instance in relations(item) for target in objects(instance)
                if target not in join.contained and target not in graph.known
            }
            if len(graph.known) + len(wanted) > MAX_LINKED:
                raise too_many()
            if wanted:
                graph.known.update((target, []) for target in wanted)
                for row in await self.find(actor, list(wanted), tenant=tenant, snapshot=snapshot):
                    graph.known[row.id].append((row, row.alive()))
            below: list[Linked] = []
            for item in front:
                for name, instance in relations(item):
                    for target in objects(instance):
                        found = graph.target(target, item.row.org)
                        if found is None:
                            continue
                        linked = Linked(*found, beneath(item.pick, name), beneath(item.omit, name))
                        key = (linked.row.no, id(linked.pick), id(linked.omit))
                        if key in seen:
                            continue
                        seen.add(key)
                        below.append(linked)
                        if linked.row.no not in beside:
                            beside.add(linked.row.no)
                            graph.others.append(linked)
            front = below
        return graph


def relations(item: Linked) -> Iterator[tuple[str, Json]]:
    """(stored name, instance) of the relationships of an entity that its projection leaves in the answer."""
    for name in forms.attributes(item.document):
        if (item.pick is not None and name not in item.pick) or (item.omit and name in item.omit and item.omit[name] is None):
            continue
        for instance in forms.instances(item.document[name]):
            if instance["type"] in ("Relationship", "ListRelationship"):
                yield name, instance


def objects(instance: Json) -> list[str]:
    """The ids that a relationship's instance names, in order."""
    if instance["type"] == "ListRelationship":
        return [entry["object"] for entry in instance["objectList"]]
    found = instance["object"]
    return found if isinstance(found, list) else [found]


def beneath(tree: Projection | None, name: str) -> Projection | None:
    """What a projection says of the entities that `name` links to."""
    return None if tree is None else tree.get(name)


Write = Callable[[Linked, Json], Json]
"""Writes an entity as the request wants it: (the entity, the document to write) -> JSON."""


def inline(graph: Graph, write: Write) -> list[Json]:
    """The first entities, each linked one inside its relationship as `entity` or `entityList` (4.5.23.2).

    Raises `TooManyResults`.
    """
    copies = 0

    def one(item: Linked, level: int, trail: frozenset[str]) -> Json:
        nonlocal copies
        document = item.document
        if level < graph.join.levels:
            trail |= {item.row.id}
            fresh: dict[str, list[Json]] = {}
            for name, instance in relations(item):
                inside: list[Any] = []
                for target in objects(instance):
                    found = None if target in trail else graph.target(target, item.row.org)
                    if found is not None:
                        copies += 1
                        if copies > MAX_LINKED:
                            raise too_many()
                        linked = Linked(*found, beneath(item.pick, name), beneath(item.omit, name))
                        inside.append(one(linked, level + 1, trail))
                if inside:
                    many = instance["type"] == "ListRelationship"
                    lone = not many and isinstance(instance["object"], str)
                    known = fresh.setdefault(name, list(forms.instances(document[name])))
                    place = next(at for at, item in enumerate(known) if item is instance)
                    known[place] = {**instance, "entityList" if many else "entity": inside[0] if lone else inside}
            if fresh:
                document = {**document, **{
                    name: instances if isinstance(document[name], list) else instances[0]
                    for name, instances in fresh.items()
                }}
        return write(item, document)

    return [one(item, 0, graph.join.contained) for item in graph.first]


def flat(graph: Graph, write: Write) -> list[Json]:
    """The first entities, and after them each linked one once (4.5.23.3)."""
    return [write(item, item.document) for item in [*graph.first, *graph.others]]


def too_many() -> TooManyResults:
    """The error for a graph that is larger than the house gives at once."""
    return TooManyResults(f"关联实体超过 {MAX_LINKED} 个", f"more than {MAX_LINKED} linked entities", field="join",
                          rule=f"<= {MAX_LINKED}")
