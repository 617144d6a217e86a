"""Operations on stored @contexts (jsonldContexts), and fetching of those that an operator of the house allows.

Law: nothing is fetched from the network but from the origins that the setting `context_fetch` names (none by default); what
was fetched is kept in the store. A context that an administrator put at a remote address is a document of the house: names
are no secret, data are. Others are listed, served and deleted only for those who may see their organisation. Replacing or
deleting a context never changes what is stored in entities, because entities hold IRIs.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.5.6, 5.13, 6.29 and 6.30.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import orjson
import sqlalchemy as sa

from tulou.context import forms
from tulou.context.columns import dumped
from tulou.context.errors import AlreadyExists, InvalidRequest, LdContextNotAvailable, bad
from tulou.context.jsonld import CORE_DOCUMENT, CORE_URL, Contexts, is_iri
from tulou.context.service import HOUSE_CONTEXT, ContextService, now_us
from tulou.context.store import Store
from tulou.kernel.errors import NotFound, TulouError
from tulou.kernel.policy import ROOT, Actor, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, CREATE, DELETE = "context.ldcontext.read", "context.ldcontext.create", "context.ldcontext.delete"
PATH = "/ngsi-ld/v1/jsonldContexts/"
KINDS = ("Hosted", "Cached", "ImplicitlyCreated")
LARGEST = 1 << 20
FETCH_TIMEOUT_S = 10.0
OWN = {"core": CORE_URL, "tulou": HOUSE_CONTEXT}


class _Row(NamedTuple):
    """What is known of a stored context without its document."""

    org: str
    kind: str
    url: str
    created_at: int
    hits: int
    last_usage: int | None


class StoredContexts:
    """The operations on stored contexts."""

    def __init__(self, house: House, entities: ContextService) -> None:
        self.house = house
        self.db = house.db
        self.policy = house.policy
        self.entities = entities
        self.contexts: Contexts = entities.contexts
        self.store = Store(house.db.dialect)
        self._rows: dict[str, _Row] = {}
        self._fetching = asyncio.Lock()
        self._origins = frozenset(
            origin for part in house.settings.context_fetch.split(",") if (origin := _origin(part.strip()))
        )

    async def reload(self) -> None:
        """Read every stored context."""
        doc = "doc::text" if self.store.postgres else "doc"
        rows = await self.db.read(
            lambda c: self.store.cursor(c).execute(
                f"SELECT id,org,kind,url,created_at,hits,last_usage,{doc} FROM ld_contexts ORDER BY created_at"
            ).fetchall()
        )
        found = {row[0]: _Row(*row[1:7]) for row in rows}
        for id, known in self._rows.items():
            if id not in found:
                self.contexts.remove(known.url)
                self.contexts.remove(PATH + id)
        for row in rows:
            document = orjson.loads(row[7])
            self.contexts.put(PATH + row[0], document)
            if row[3] != PATH + row[0]:
                self.contexts.put(row[3], document)
        self._rows = found

    @operation(CREATE)
    async def add(self, actor: Actor, document: Any, *, tenant: str | None = None, url: str | None = None) -> str:
        """Store a context (5.13.2); returns its id. With `url` it stands in for the remote one at that address; for that
        the actor needs the right in the whole house. Raises `InvalidRequest`, `BadRequestData`, `AlreadyExists`."""
        org = self.entities.tenant(actor, tenant, CREATE)
        if not isinstance(document, dict) or "@context" not in document:
            raise InvalidRequest("正文应含 @context", "the body must contain @context", field="@context",
                                 rule="CIM 009, 5.13.2")
        self.contexts.check(document["@context"])
        if url is not None:
            if not is_iri(url):
                raise bad("url 应为 URI", "url must be a URI", field="url", value=url, rule="URI")
            self.policy.require(actor, CREATE, ROOT)
            if url in self.contexts:
                raise AlreadyExists(f"@context {url} 已存在", f"@context {url} is stored already", field="url", value=url)
        return await self._insert(org, "Cached" if url else "Hosted", document["@context"], url)

    async def imply(self, org: str, spec: Any) -> str:
        """The path of the context that stands for `spec`, which a subscription of `org` came with (5.8.1.4): one of its
        own, made once. For `Subscriptions`, which has asked the policy."""
        doc = "doc::text" if self.store.postgres else "doc"
        sql = self.store.sql(f"SELECT id,{doc} FROM ld_contexts WHERE org=? AND kind='ImplicitlyCreated'")
        for id, text in await self.db.read(lambda c: self.store.cursor(c).execute(sql, (org,)).fetchall()):
            if orjson.loads(text) == {"@context": spec}:
                self.contexts.uses[PATH + id] = self.contexts.uses.get(PATH + id, 0) + 1
                return PATH + str(id)
        id = await self._insert(org, "ImplicitlyCreated", spec, None)
        self.contexts.uses[PATH + id] = 1
        return PATH + id

    async def _insert(self, org: str, kind: str, spec: Any, url: str | None) -> str:
        id, now = secrets.token_hex(12), now_us()
        values = (id, org, kind, url or PATH + id, dumped({"@context": spec}), now, now)
        sql = self.store.sql(
            "INSERT INTO ld_contexts (id,org,kind,url,doc,created_at,modified_at,hits) VALUES (?,?,?,?,?,?,?,0) "
            "ON CONFLICT DO NOTHING"
        )
        await self.db.write(lambda c: self.store.cursor(c).execute(sql, values) and None)
        await self._after_change()
        return id

    @operation(READ)
    async def search(
        self, actor: Actor, *, kind: str | None = None, tenant: str | None = None
    ) -> list[tuple[str, dict[str, Any]]]:
        """(path, details) of the contexts that the actor may see, the house's own first (5.13.3)."""
        orgs = self.policy.require_any(actor, READ) if tenant is None else self.entities.readable(actor, tenant)
        self.policy.require_any(actor, READ)
        found: list[tuple[str, dict[str, Any]]] = []
        if kind in (None, "Cached"):
            found.append((CORE_URL, self._own("core")))
        if kind in (None, "Hosted"):
            found.append((HOUSE_CONTEXT, self._own("tulou")))
        for id, row in self._rows.items():
            if (row.org in orgs or row.org == ROOT) and kind in (None, row.kind):
                found.append((row.url, self._details(id, row)))
        return found

    def _own(self, id: str) -> dict[str, Any]:
        began = forms.moment(int(self.house.began * 1e6))
        return {"URL": OWN[id], "localId": id, "kind": "Cached" if id == "core" else "Hosted", "createdAt": began}

    def _details(self, id: str, row: _Row) -> dict[str, Any]:
        """The members of 5.13.3.5."""
        more = sum(self.contexts.uses.get(address, 0) for address in {row.url, PATH + id})
        details: dict[str, Any] = {
            "URL": row.url, "localId": id, "kind": row.kind, "createdAt": forms.moment(row.created_at),
            "numberOfHits": row.hits + more,
        }
        if row.last_usage is not None:
            details["lastUsage"] = forms.moment(row.last_usage)
        return details

    def _seen(self, actor: Actor, id: str, tenant: str | None) -> tuple[str, _Row]:
        """The stored context that `id` (local id or address) means to the actor. Raises `NotFound`."""
        orgs = self.policy.require_any(actor, READ) if tenant is None else self.entities.readable(actor, tenant)
        for key, row in self._rows.items():
            if (row.org in orgs or row.org == ROOT) and id in (key, row.url, PATH + key):
                return key, row
        raise no_such_context(id)

    @operation(READ)
    async def retrieve(
        self, actor: Actor, id: str, *, tenant: str | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """(document, details) of a context by local id or address (5.13.4). Raises `NotFound`."""
        self.policy.require_any(actor, READ)
        if id == "core" or self.contexts.is_core(id):
            return CORE_DOCUMENT, self._own("core")
        if id in ("tulou", HOUSE_CONTEXT):
            return self.entities.document, self._own("tulou")
        key, row = self._seen(actor, id, tenant)
        doc = "doc::text" if self.store.postgres else "doc"
        sql = self.store.sql(f"SELECT {doc} FROM ld_contexts WHERE id=?")
        found = await self.db.read(lambda c: self.store.cursor(c).execute(sql, (key,)).fetchone())
        if found is None:
            raise no_such_context(id)
        return orjson.loads(found[0]), self._details(key, row)

    @operation(DELETE)
    async def delete(self, actor: Actor, id: str, *, tenant: str | None = None, reload: bool = False) -> None:
        """Forget a stored context, or with `reload` fetch a cached one again (5.13.5): one that cannot be fetched stays.

        Raises `NotFound`, `BadRequestData` for the house's own and for reloading what is not cached,
        `LdContextNotAvailable`.
        """
        self.policy.require_any(actor, READ)
        if id == "core" or self.contexts.is_core(id):
            if reload:
                raise _not_fetched(CORE_URL)
            raise bad("系统自带的 @context 不可删除", "the house's own contexts cannot be deleted", field="id", value=id)
        if id in ("tulou", HOUSE_CONTEXT):
            raise bad("系统自带的 @context 不可删除", "the house's own contexts cannot be deleted", field="id", value=id)
        try:
            key, row = self._seen(actor, id, tenant)
        except NotFound:
            if reload:
                raise bad("reload 只用于已缓存的 @context", "only a cached @context can be reloaded", field="reload",
                          value=id, rule="CIM 009, 5.13.5") from None
            raise
        self.policy.require(actor, DELETE, row.org)
        if not reload:
            sql = self.store.sql("DELETE FROM ld_contexts WHERE id=?")
            await self.db.write(lambda c: self.store.cursor(c).execute(sql, (key,)) and None)
            await self._after_change()
            return
        if row.kind != "Cached":
            raise bad("reload 只用于已缓存的 @context", "only a cached @context can be reloaded", field="reload",
                      value=row.kind, rule="CIM 009, 5.13.5")
        if _origin(row.url) not in self._origins:
            raise _not_fetched(row.url)
        spec = await self._download(row.url)
        sql = self.store.sql("UPDATE ld_contexts SET doc=?,modified_at=? WHERE id=?")
        values = (dumped({"@context": spec}), now_us(), key)
        await self.db.write(lambda c: self.store.cursor(c).execute(sql, values) and None)
        await self._after_change()

    # ---- fetching

    async def fetch(self, actor: Actor, url: Any, tenant: str | None) -> bool:
        """Fetch and keep the context at `url`, if its origin may be fetched from; whether it is there now.

        It is then the tenant's, else the actor's organisation's. Raises `LdContextNotAvailable` if it cannot be had,
        `BadRequestData` if it is none (5.5.6).
        """
        if not self._origins or not isinstance(url, str) or _origin(url) not in self._origins:
            return False
        orgs = self.policy.visible(actor, READ)
        org = actor.org if tenant is None else tenant
        if org not in orgs or not self.entities.known(org):
            return False
        async with self._fetching:
            if url not in self.contexts:
                await self._insert(org, "Cached", await self._download(url), url)
        return True

    async def fetch_all(self, actor: Actor, specs: Iterable[Any], tenant: str | None) -> None:
        """Fetch what is missing of these contexts and may be fetched; what cannot be had is left to its own error."""
        if not self._origins:
            return
        addresses = {item for spec in specs for item in (spec if isinstance(spec, list) else [spec]) if isinstance(item, str)}
        for address in sorted(addresses):
            if address not in self.contexts:
                try:
                    await self.fetch(actor, address, tenant)
                except TulouError:
                    continue

    async def _download(self, url: str) -> Any:
        """The `@context` at a remote address."""
        try:
            answer = await self.house.outbound.request(
                "GET", url, headers={"accept": "application/ld+json, application/json;q=0.9"}, timeout=FETCH_TIMEOUT_S,
                limit=LARGEST,
            )
        except TulouError as error:
            raise LdContextNotAvailable(f"@context {url} 无法获取：{error.zh}", f"@context {url}: {error.en}",
                                        field="@context", value=url) from None
        if not answer.ok:
            raise LdContextNotAvailable(f"@context {url} 无法获取：HTTP {answer.status}", f"@context {url}: HTTP {answer.status}",
                                        field="@context", value=url)
        try:
            document = orjson.loads(answer.body) if answer.complete else None
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict) or "@context" not in document:
            raise bad(f"{url} 不是 @context", f"{url} is no @context, or larger than {LARGEST} bytes", field="@context",
                      value=url, rule="CIM 009, 5.5.6")
        self.contexts.check(document["@context"])
        return document["@context"]

    # ---- use

    async def write_usage(self) -> None:
        """Write how often contexts were used since the last call."""
        uses, self.contexts.uses = self.contexts.uses, {}
        now = now_us()
        rows = []
        for key, row in self._rows.items():
            count = sum(uses.get(address, 0) for address in {row.url, PATH + key})
            if count:
                rows.append((count, now, key))
                self._rows[key] = row._replace(hits=row.hits + count, last_usage=now)
        if rows:
            sql = self.store.sql("UPDATE ld_contexts SET hits=hits+?,last_usage=? WHERE id=?")

            def write(connection: sa.Connection) -> None:
                self.store.cursor(connection).executemany(sql, rows)

            await self.db.write(write)

    async def keep_usage(self, _house: House) -> None:
        """The background task: `write_usage` every 10 s."""
        while True:
            await asyncio.sleep(10)
            await self.write_usage()

    async def _after_change(self) -> None:
        await self.reload()
        if hasattr(self.house, "bus"):
            await self.house.bus.changed("ld_contexts")


def _origin(url: str) -> str:
    """`scheme://host:port` of an address, in lower case; empty when it is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.hostname}:{port}" if parts.hostname and port else ""


def _not_fetched(url: str) -> LdContextNotAvailable:
    return LdContextNotAvailable(
        f"不从 {url} 下载 @context；可由设置 context_fetch 允许其来源",
        f"@contexts are not fetched from {url}; the setting context_fetch can allow its origin", field="reload", value=url,
        rule="context_fetch",
    )


def no_such_context(id: str) -> NotFound:
    """The error for a context that is not stored, or not the actor's to see."""
    return NotFound(f"没有 @context {id[:200]}", f"there is no @context {id[:200]}", field="id", value=id)
