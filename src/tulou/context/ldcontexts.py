"""Operations on stored @contexts (jsonldContexts).

Law: what is stored by one organisation serves only requests of that house's users who may read it in the list, but a
context that is put at its own public address is a document of the house: names are no secret, data are. Replacing one
never changes what is stored in entities, because entities hold IRIs.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.13 and 6.29, 6.30.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from tulou.context import forms
from tulou.context.errors import AlreadyExists, bad
from tulou.context.jsonld import CORE_DOCUMENT, CORE_URL, Contexts, is_iri
from tulou.context.service import HOUSE_CONTEXT, ContextService, now_us
from tulou.context.store import Store, dumped
from tulou.kernel.errors import Conflict, NotFound
from tulou.kernel.policy import Actor, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, CREATE, DELETE = "context.ldcontext.read", "context.ldcontext.create", "context.ldcontext.delete"
PATH = "/ngsi-ld/v1/jsonldContexts/"
KINDS = ("Hosted", "Cached", "ImplicitlyCreated")


class StoredContexts:
    """The operations on stored contexts."""

    def __init__(self, house: House, entities: ContextService) -> None:
        self.house = house
        self.db = house.db
        self.policy = house.policy
        self.entities = entities
        self.contexts: Contexts = entities.contexts
        self.store = Store(house.db.dialect)
        self._rows: dict[str, tuple[str, str, str, int]] = {}

    async def reload(self) -> None:
        """Read every stored context."""
        doc = "doc::text" if self.store.postgres else "doc"
        rows = await self.db.read(
            lambda c: self.store.cursor(c).execute(
                f"SELECT id,org,kind,url,{doc},created_at FROM ld_contexts ORDER BY created_at"
            ).fetchall()
        )
        found = {row[0]: (row[1], row[2], row[3], row[5]) for row in rows}
        for id, (_, _, url, _) in self._rows.items():
            if id not in found:
                self.contexts.remove(url)
                self.contexts.remove(PATH + id)
        for row in rows:
            document = orjson.loads(row[4])
            self.contexts.put(PATH + row[0], document)
            if row[3] != PATH + row[0]:
                self.contexts.put(row[3], document)
        self._rows = found

    @operation(CREATE)
    async def add(self, actor: Actor, document: Any, *, tenant: str | None = None, url: str | None = None) -> str:
        """Store a context; returns its id. With `url` it stands in for the remote one at that address, which the house
        never fetches; for that the actor needs the right in the whole house. Raises `BadRequestData`."""
        org = self.entities.tenant(actor, tenant, CREATE)
        if not isinstance(document, dict) or "@context" not in document:
            raise bad("正文应含 @context", "the body must contain @context", field="@context", rule="CIM 009, 5.13.2")
        self.contexts.check(document["@context"])
        id = secrets.token_hex(12)
        if url is not None:
            if not is_iri(url):
                raise bad("url 应为 URI", "url must be a URI", field="url", value=url, rule="URI")
            self.policy.require(actor, CREATE, "house")
        address = url or PATH + id
        if url is not None and url in self.contexts:
            raise AlreadyExists(f"@context {url} 已存在", f"@context {url} is stored already", field="url", value=url)
        now = now_us()
        values = (id, org, "Cached" if url else "Hosted", address, dumped({"@context": document["@context"]}), now, now)
        sql = self.store.sql("INSERT INTO ld_contexts (id,org,kind,url,doc,created_at,modified_at) VALUES (?,?,?,?,?,?,?)")

        def write(connection: sa.Connection) -> None:
            self.store.cursor(connection).execute(sql, values)

        await self.db.write(write)
        await self._after_change()
        return id

    @operation(READ)
    async def search(
        self, actor: Actor, *, kind: str | None = None, tenant: str | None = None
    ) -> list[tuple[str, dict[str, Any]]]:
        """(path, details) of the contexts that the actor may see, the house's own first (5.13.3)."""
        orgs = self.policy.require_any(actor, READ)
        if tenant is not None:
            orgs = orgs.narrow(tenant)
        found: list[tuple[str, dict[str, Any]]] = []
        if kind in (None, "Cached"):
            found.append((CORE_URL, {"URL": CORE_URL, "localId": "core", "kind": "Cached"}))
        if kind in (None, "Hosted"):
            found.append((HOUSE_CONTEXT, {"URL": HOUSE_CONTEXT, "localId": "tulou", "kind": "Hosted"}))
        for id, (org, own_kind, url, created) in self._rows.items():
            if org in orgs and kind in (None, own_kind):
                found.append(
                    (url, {"URL": url, "localId": id, "kind": own_kind, "timestamp": forms.moment(created)})
                )
        return found

    @operation(READ)
    async def retrieve(self, actor: Actor, id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """(document, details) of a context by local id or address. Raises `NotFound`."""
        orgs = self.policy.require_any(actor, READ)
        if id in ("core", CORE_URL):
            return CORE_DOCUMENT, {"URL": CORE_URL, "localId": "core", "kind": "Cached"}
        if id in ("tulou", HOUSE_CONTEXT):
            return self.entities.document, {"URL": HOUSE_CONTEXT, "localId": "tulou", "kind": "Hosted"}
        key = self._key(id)
        row = self._rows.get(key) if key else None
        if key is None or row is None or row[0] not in orgs:
            raise no_such_context(id)
        doc = "doc::text" if self.store.postgres else "doc"
        sql = self.store.sql(f"SELECT {doc} FROM ld_contexts WHERE id=?")
        found = await self.db.read(lambda c: self.store.cursor(c).execute(sql, (key,)).fetchone())
        if found is None:
            raise no_such_context(id)
        return orjson.loads(found[0]), {
            "URL": row[2], "localId": key, "kind": row[1], "timestamp": forms.moment(row[3]),
        }

    @operation(DELETE)
    async def delete(self, actor: Actor, id: str) -> None:
        """Forget a stored context (5.13.5). Raises `NotFound`, `Conflict` for the house's own."""
        orgs = self.policy.require_any(actor, READ)
        if id in ("core", "tulou", CORE_URL, HOUSE_CONTEXT):
            raise Conflict("系统自带的 @context 不可删除", "the house's own contexts cannot be deleted", field="id", value=id)
        key = self._key(id)
        row = self._rows.get(key) if key else None
        if key is None or row is None or row[0] not in orgs:
            raise no_such_context(id)
        self.policy.require(actor, DELETE, row[0])
        sql = self.store.sql("DELETE FROM ld_contexts WHERE id=?")

        def write(connection: sa.Connection) -> None:
            self.store.cursor(connection).execute(sql, (key,))

        await self.db.write(write)
        await self._after_change()

    def _key(self, id: str) -> str | None:
        if id in self._rows:
            return id
        tail = id.rpartition(PATH)[2]
        if tail in self._rows:
            return tail
        return next((key for key, row in self._rows.items() if row[2] == id), None)

    async def _after_change(self) -> None:
        await self.reload()
        if hasattr(self.house, "bus"):
            await self.house.bus.changed("ld_contexts")


def no_such_context(id: str) -> NotFound:
    """The error for a context that is not stored, or not the actor's to see."""
    return NotFound(f"没有 @context {id[:200]}", f"there is no @context {id[:200]}", field="id", value=id)
