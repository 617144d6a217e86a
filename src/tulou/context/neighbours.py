"""What stands around an entity: relationships that point to it, and subscriptions that look at it.

Law: an answer holds what the actor may read and nothing else: a relationship of an entity that he may not read, or a
subscription of an organisation whose subscriptions he may not read, is neither shown nor counted. A request looks at a
bounded number of entities and says where to go on.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.5.3 (relationships), 5.2.12 and 5.8.6 (what a subscription selects).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import sqlalchemy as sa

from tulou.context import forms
from tulou.context.columns import dumped
from tulou.context.errors import bad
from tulou.context.forms import Json
from tulou.context.jsonld import is_iri
from tulou.context.service import READ, ContextService, now_us
from tulou.context.subscriptions import READ as SUBSCRIPTION_READ
from tulou.context.subscriptions import Subscriptions
from tulou.kernel.policy import Actor, Orgs, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

LOOK = 100_000
"""Most entities that one request for incoming relationships looks at."""
MOST = 100
"""Most subscriptions of one answer."""


class Incoming(NamedTuple):
    """An entity that points to another. `paths`: the attributes that do, as the house's context names them; a
    relationship of an attribute is `attribute.relationship`."""

    no: int
    id: str
    org: str
    type: str
    name: str | None
    synthetic: bool
    paths: list[str]


def pointing(document: Json, id: str) -> Iterator[tuple[str, ...]]:
    """The paths of stored names at which a stored document has `id` as the object of a relationship."""
    for name in forms.attributes(document):
        yield from _pointing((name,), document[name], id)


def _pointing(path: tuple[str, ...], attribute: Any, id: str) -> Iterator[tuple[str, ...]]:
    for instance in forms.instances(attribute):
        if not isinstance(instance, dict) or instance.get("type") not in forms.VALUE_OF:
            continue
        own = forms.VALUE_OF[instance["type"]]
        found = instance.get(own) if own in ("object", "objectList") else ()
        if any((item.get("object") if isinstance(item, dict) else item) == id for item in forms.instances(found)):
            yield path
        for name, value in instance.items():
            if name != own and isinstance(value, dict | list):
                yield from _pointing((*path, name), value, id)


class Neighbours:
    """The operations on what stands around an entity."""

    def __init__(self, house: House, entities: ContextService, subscriptions: Subscriptions) -> None:
        self.db = house.db
        self.policy = house.policy
        self.entities = entities
        self.about = subscriptions
        self.store = entities.store

    @operation(READ)
    async def incoming(
        self, actor: Actor, id: str, *, limit: int = 50, after: int = 0
    ) -> tuple[list[Incoming], int | None]:
        """Readable entities of which a relationship points to `id`, in order of number from beyond `after`; and the
        number to go on after, None at the end. At most `LOOK` entities are looked at, so a page may be empty and not
        the last. Whether `id` itself exists is not asked. Raises `BadRequestData`."""
        orgs = self.policy.require_any(actor, READ)
        if not is_iri(id):
            raise bad(f"实体 id {id[:100]!r} 不是 URI", f"entity id {id[:100]!r} is not a URI", field="id", value=id, rule="URI")
        return await self.db.read(partial(self._incoming, orgs, id, limit, after))

    def _incoming(
        self, orgs: Orgs, id: str, limit: int, after: int, connection: sa.Connection
    ) -> tuple[list[Incoming], int | None]:
        cursor, store = self.store.cursor(connection), self.store
        condition, parameters = self.entities.within(orgs, "e.no > ?", [after])
        # `within` puts its own parameters around those that it is given, in the order of the text that it answers.
        last = cursor.execute(
            store.sql(f"SELECT e.no FROM entities e WHERE {condition} ORDER BY e.no LIMIT 1 OFFSET ?"), [*parameters, LOOK - 1]
        ).fetchone()
        text, holds = ("e.doc::text", "position(? in e.doc::text) > 0") if store.postgres else ("e.doc", "instr(e.doc, ?) > 0")
        bound, bounded = (" AND e.no <= ?", [last[0]]) if last else ("", [])
        rows = cursor.execute(
            store.sql(
                f"SELECT e.no,e.id,e.org,e.type,e.name,e.synthetic,{text} FROM entities e "
                f"WHERE {condition}{bound} AND {holds} ORDER BY e.no LIMIT ?"
            ),
            [*parameters, *bounded, dumped(id), limit + 1],
        ).fetchall()
        shown = self.entities.names.shown
        now, found = now_us(), []
        for no, own, org, kind, name, synthetic, document in rows[:limit]:
            paths = dict.fromkeys(".".join(map(shown, path)) for path in pointing(forms.alive(orjson.loads(document), now), id))
            if paths:
                found.append(Incoming(no, own, org, kind, name, bool(synthetic), list(paths)))
        if len(rows) > limit:
            return found, rows[limit - 1][0]
        return found, last[0] if last else None

    @operation(SUBSCRIPTION_READ)
    async def subscriptions(self, actor: Actor, id: str, *, tenant: str | None = None) -> list[tuple[Json, bool]]:
        """The subscriptions in force that name the entity by type, id or pattern, in order of creation, at most `MOST`;
        and of each whether the entity satisfies its `q`, `geoQ` and `scopeQ` now. Raises `NotFound`."""
        orgs = self.policy.require_any(actor, SUBSCRIPTION_READ)
        row = await self.entities.retrieve(actor, id, tenant=tenant)
        if row.org not in orgs:
            return []
        document, now = row.alive(), now_us()
        looking = list(itertools.islice(self.about.naming(row.org, document, now), MOST))
        shown = await self.about.shown([item.no for item in looking])

        def satisfied(connection: sa.Connection) -> list[bool]:
            cursor = self.store.cursor(connection)
            return [self.about.satisfied(cursor, item, document) for item in looking]

        holds = await self.db.read(satisfied)
        return [
            (shown[item.no], hold) for item, hold in zip(looking, holds, strict=True) if item.no in shown
        ]
