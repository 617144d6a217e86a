"""Entity maps: what a query found, fixed for a while so that its pages can be walked (5.2.39, 5.5.9.3, 5.14).

Law: a map belongs to whoever made it and is nobody else's to see; it holds identifiers, never data, and what is answered
from it is checked against the query and the policy again. It ends after a bounded time.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.2.39, 5.5.9.3, 5.5.14, 5.7.2.4 and 5.14.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from tulou.context import forms
from tulou.context.columns import dumped
from tulou.context.errors import bad
from tulou.context.forms import Json
from tulou.context.jsonld import is_iri
from tulou.context.store import Store
from tulou.kernel.errors import NotFound
from tulou.kernel.policy import Actor, operation

if TYPE_CHECKING:
    from tulou.context.service import ContextService
    from tulou.kernel.house import House

READ, WRITE, DELETE = "context.entitymap.read", "context.entitymap.write", "context.entitymap.delete"

DEFAULT_US = 3_600_000_000
LONGEST_US = 24 * DEFAULT_US
PER_OWNER = 100
"""Most maps of one person; beyond it the one that ends first goes."""


class EntityMaps:
    """The operations on entity maps."""

    def __init__(self, house: House, entities: ContextService) -> None:
        self.db = house.db
        self.policy = house.policy
        self.entities = entities
        self.store = Store(house.db.dialect)

    @operation(READ)
    async def create(
        self, actor: Actor, found: Mapping[str, Sequence[str]], *, tenant: str | None = None, lifetime: int = DEFAULT_US
    ) -> Json:
        """Keep what a query of the actor found, for at most a day; returns the map (5.14.4)."""
        org = tenant or actor.org
        if tenant is not None:
            self.entities.readable(actor, tenant)
        self.policy.require(actor, READ, org)
        now = _now()
        id, expires = f"urn:ngsi-ld:entitymap:{uuid.uuid4()}", now + min(lifetime, LONGEST_US)
        document = {key: list(value) for key, value in found.items()}

        def write(connection: sa.Connection) -> None:
            cursor, sql = self.store.cursor(connection), self.store.sql
            cursor.execute(sql("DELETE FROM entity_maps WHERE expires_at<=?"), (now,))
            cursor.execute(
                sql("DELETE FROM entity_maps WHERE id IN (SELECT id FROM entity_maps WHERE owner=? "
                    "ORDER BY expires_at DESC LIMIT 100000 OFFSET ?)"), (actor.id, PER_OWNER - 1),
            )
            cursor.execute(
                sql("INSERT INTO entity_maps (id,org,owner,doc,expires_at) VALUES (?,?,?,?,?)"),
                (id, org, actor.id, dumped(document), expires),
            )

        await self.db.write(write)
        return _shown(id, document, expires)

    @operation(READ)
    async def retrieve(self, actor: Actor, id: str, *, tenant: str | None = None) -> Json:
        """One map (5.14.1). Raises `NotFound`, also for one that has ended or is somebody else's."""
        row = await self._row(actor, id, tenant, READ)
        return _shown(row[0], orjson.loads(row[1]), row[2])

    @operation(WRITE)
    async def update(self, actor: Actor, id: str, raw: Any, *, tenant: str | None = None) -> None:
        """Change when a map ends (5.14.2), within the longest time; what only the house writes is passed over."""
        await self._row(actor, id, tenant, WRITE)
        if not isinstance(raw, dict):
            raise bad("正文应为 JSON 对象", "the body must be a JSON object", field="body", rule="object")
        if "expiresAt" not in raw:
            return
        at = min(forms.micros(forms.datetime_text(raw["expiresAt"], "expiresAt")), _now() + LONGEST_US)
        sql = self.store.sql("UPDATE entity_maps SET expires_at=? WHERE id=?")
        await self.db.write(lambda c: self.store.cursor(c).execute(sql, (at, id)) and None)

    @operation(DELETE)
    async def delete(self, actor: Actor, id: str, *, tenant: str | None = None) -> None:
        """Delete a map (5.14.3)."""
        await self._row(actor, id, tenant, DELETE)
        sql = self.store.sql("DELETE FROM entity_maps WHERE id=?")
        await self.db.write(lambda c: self.store.cursor(c).execute(sql, (id,)) and None)

    @operation(READ)
    async def prune(self, actor: Actor, id: str, gone: Sequence[str], *, tenant: str | None = None) -> None:
        """Take entities that no longer fit out of a map (5.5.9.3)."""
        row = await self._row(actor, id, tenant, READ)
        document = {key: value for key, value in orjson.loads(row[1]).items() if key not in set(gone)}
        sql = self.store.sql("UPDATE entity_maps SET doc=? WHERE id=?")
        await self.db.write(lambda c: self.store.cursor(c).execute(sql, (dumped(document), id)) and None)

    async def _row(self, actor: Actor, id: str, tenant: str | None, action: str) -> Any:
        if not is_iri(id):
            raise bad(f"实体映射 id {id[:100]!r} 不是 URI", f"entity map id {id[:100]!r} is not a URI", field="id", value=id)
        org = tenant or actor.org
        if tenant is not None:
            self.entities.readable(actor, tenant)
        self.policy.require(actor, action, org)
        doc = "doc::text" if self.store.postgres else "doc"
        sql = self.store.sql(f"SELECT id,{doc},expires_at FROM entity_maps WHERE id=? AND org=? AND owner=? AND expires_at>?")
        row = await self.db.read(lambda c: self.store.cursor(c).execute(sql, (id, org, actor.id, _now())).fetchone())
        if row is None:
            raise NotFound(f"没有实体映射 {id}", f"there is no entity map {id}", field="id", value=id)
        return row


def _now() -> int:
    from tulou.context.service import now_us

    return now_us()


def _shown(id: str, document: Json, expires: int) -> Json:
    return {"id": id, "type": "EntityMap", "expiresAt": forms.moment(expires), "entityMap": document}
