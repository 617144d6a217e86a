"""Subscriptions: the operations on them, and what a change queues for them.

Law: every operation asks the policy. A subscription sees the entities of its own organisation only, and stands on the
rights of whoever wrote it last: while he may not read those entities it is blocked, and says so. A change queues its
notifications in its own transaction (`delivery` has the rest).

Source: ETSI GS CIM 009 v1.9.1 clauses 5.2.12 to 5.2.15, 5.8 and 6.3.8.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from tulou.context import forms, notifications, traces
from tulou.context import selection as selecting
from tulou.context.columns import dumped
from tulou.context.delivery import ENTITIES, Delivery, enqueue, now_us
from tulou.context.errors import AlreadyExists, bad
from tulou.context.forms import Json
from tulou.context.jsonld import Context, Contexts, is_iri
from tulou.context.selection import Selection, Selector
from tulou.context.store import Row, Store
from tulou.context.subscription_form import (
    DEFAULT_TRIGGERS,
    SCHEMES,
    VIA,
    WORDS,
    checked,
    shown_document,
    stored_document,
    with_names,
)
from tulou.context.watching import Active, Changed, Index, compiled
from tulou.kernel.errors import NotFound, TulouError
from tulou.kernel.outbound import Refused
from tulou.kernel.policy import Actor, operation

if TYPE_CHECKING:
    from tulou.context.remote_subscriptions import RemoteSubscriptions
    from tulou.context.service import ContextService
    from tulou.kernel.house import House

log = logging.getLogger("tulou.context.subscriptions")

READ, CREATE = "context.subscription.read", "context.subscription.create"
WRITE, DELETE = "context.subscription.write", "context.subscription.delete"

PER_INTERVAL = 10_000
"""Most entities of one notification round of a subscription with `timeInterval`."""
MAX_LINKED = 1_000
REVIEW = 5
"""Seconds between looks at whether owners may still read."""


class Subscriptions:
    """The operations on subscriptions, the matching of changes, and the task that delivers."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.db = house.db
        self.policy = house.policy
        self.store = Store(house.db.dialect)
        self.contexts: Contexts
        self.entities: ContextService
        self.delivery: Delivery
        self.imply: Callable[[str, Any], Awaitable[str]]
        """(organisation, inline context) -> the path of a stored one: `StoredContexts.imply`."""
        self.remote: RemoteSubscriptions | None = None
        self.reloaded: Callable[[], object] = lambda: None
        self._indexes: dict[str, Index] = {}
        self._periodic: list[Active] = []
        self._seconds = 0
        self._queued = False
        self._known: dict[int, tuple[int, str, Active | None]] = {}
        """Number -> (modified at, organisation, compiled) of every active subscription."""
        self._version = 0
        self._reloading = asyncio.Lock()
        self._asked = self._answered = 0

    def attach(self, entities: ContextService) -> None:
        """Give it the entities' service, which is made after it."""
        from tulou.context.service import HOUSE_CONTEXT

        self.entities = entities
        self.contexts = entities.contexts
        self.delivery = Delivery(self.house, ENTITIES, self.address, HOUSE_CONTEXT, self.changed)

    def address(self, path: str) -> str:
        """The absolute address of a path of this house, for those who are told of it outside a request."""
        if not path.startswith("/"):
            return path
        settings = self.house.settings
        host = socket.gethostname() if settings.bind in ("0.0.0.0", "::") else settings.bind  # noqa: S104
        own = f"http{'s' if settings.tls_certificate else ''}://{host}:{settings.http_port}"
        return (settings.public_url.rstrip("/") or own) + path

    # ---- matching, in the writer's thread

    def watches(self, org: str) -> bool:
        """Whether any active subscription looks at the organisation."""
        return org in self._indexes

    def queue(self, cursor: Any, changes: Sequence[Changed], now: int) -> None:
        """Write the notifications that `changes` cause to the outbox, in the transaction of `cursor`."""
        told: dict[int, tuple[Active, list[Json], list[Json]]] = {}
        for change in changes:
            index = self._indexes.get(change.org)
            if index is None:
                continue
            for subscription in index.offered(change):
                if subscription.expires_at is not None and subscription.expires_at <= now:
                    continue
                item = notifications.datum(subscription, change, now)
                if item is not None and self._reached(cursor, subscription, change.document["id"]):
                    _, data, documents = told.setdefault(subscription.no, (subscription, [], []))
                    data.append(item)
                    documents.append(change.document)
        for no in sorted(told):
            subscription, data, documents = told[no]
            self._enqueue(cursor, subscription, data, documents, now)

    def _enqueue(
        self, cursor: Any, subscription: Active, data: list[Json], documents: list[Json], now: int
    ) -> None:
        if subscription.join is not None:
            find = partial(self._linked, cursor, subscription.org, now)
            data = notifications.joined(subscription, data, documents, find)
        self._queued = True
        enqueue(
            cursor, self.store, subscription.no, subscription.id, data, now, feature=subscription.feature,
            throttling_us=subscription.throttling_us,
        )

    def _reached(self, cursor: Any, subscription: Active, id: str) -> bool:
        """Whether the entity, as it is stored by now, satisfies a `q` that follows relationships."""
        if subscription.linked is None:
            return True
        asked = Selection((Selector(None, (id,)),), (), subscription.linked)
        return bool(self.entities.satisfying(cursor.connection, subscription.org, asked, 1))

    def _linked(self, cursor: Any, org: str, now: int, ids: set[str]) -> Mapping[str, tuple[Json, Json]]:
        found: dict[str, tuple[Json, Json]] = {}
        for id, row in self.store.get_many(cursor, sorted(ids)[:MAX_LINKED], org).items():
            document = row.document
            if "expiresAt" not in document or forms.micros(document["expiresAt"]) > now:
                found[id] = document, row.times
        return found

    # ---- what is active

    async def reload(self) -> None:
        """Bring what is active up to date: read and compile what is new or changed. Calls that wait share one look."""
        self._asked += 1
        mine = self._asked
        async with self._reloading:
            if self._answered < mine:
                self._answered = self._asked
                await self._reload()

    async def _reload(self) -> None:
        active = "active" if self.store.postgres else "active=1"
        sql = f"SELECT no,org,modified_at FROM subscriptions WHERE {active} AND blocked IS NULL ORDER BY no"
        rows = await self.db.read(lambda c: self.store.cursor(c).execute(sql).fetchall())
        if self._version != self.contexts.version:
            self._version = self.contexts.version
            self._known.clear()
            self._indexes.clear()
        alive = {row[0] for row in rows}
        touched = {self._known.pop(no)[1] for no in self._known.keys() - alive}
        fresh = {no: (modified, org) for no, org, modified in rows if self._known.get(no, (None,))[0] != modified}
        for no, found in (await self.db.read(partial(self._read, sorted(fresh)))).items():
            modified, org = fresh[no]
            self._known[no] = modified, org, found
            touched.add(org)
        by_org: dict[str, list[Active]] = {org: [] for org in touched}
        for no in sorted(self._known):
            _, org, item = self._known[no]
            if org in by_org and item is not None:
                by_org[org].append(item)
        indexes = {**self._indexes, **{org: Index(items) for org, items in by_org.items()}}
        self._indexes = {org: index for org, index in indexes.items() if index.items}
        self._periodic = [item for _, _, item in self._known.values() if item is not None and item.interval_us]
        self.reloaded()

    def running(self, no: int) -> Active | None:
        """The subscription of this number if it is active, not blocked and can be compiled."""
        found = self._known.get(no)
        return None if found is None else found[2]

    def _read(self, numbers: list[int], connection: sa.Connection) -> dict[int, Active | None]:
        """Compiled subscriptions by number; None for one that cannot be compiled."""
        compiled_ones: dict[int, Active | None] = {}
        cursor = self.store.cursor(connection)
        for at in range(0, len(numbers), 500):
            condition, parameters = self.store.among("no", numbers[at : at + 500])
            sql = (
                f"SELECT no,id,org,{self._json('doc')},{self._json('context')},expires_at FROM subscriptions WHERE {condition}"
            )
            for no, id, org, text, context, expires in cursor.execute(self.store.sql(sql), parameters).fetchall():
                try:
                    compiled_ones[no] = self._compiled(
                        no, id, org, orjson.loads(text), orjson.loads(context or "null"), expires
                    )
                except TulouError as error:
                    log.warning("subscription %s of %s cannot be compiled: %s", id, org, error.en)
                    compiled_ones[no] = None
        return compiled_ones

    def _json(self, column: str) -> str:
        return f"{column}::text" if self.store.postgres else column

    def _compiled(self, no: int, id: str, org: str, document: Json, spec: Any, expires_at: int | None) -> Active:
        return compiled(self.contexts, self.entities.names, no, id, org, document, spec, expires_at)

    async def changed(self) -> None:
        """After a change of subscriptions: reload here, and tell every other process."""
        await self.reload()
        if hasattr(self.house, "bus"):
            await self.house.bus.changed("subscriptions")

    # ---- operations

    @operation(CREATE)
    async def create(
        self, actor: Actor, raw: Any, spec: Any, *, tenant: str | None = None, chain: Sequence[str] = ()
    ) -> str:
        """Create a subscription (5.8.1); `spec` is the @context that its names are in, `chain` the sources by which it
        comes. Returns its id."""
        org = self.entities.tenant(actor, tenant, CREATE)
        self.policy.require(actor, ENTITIES.action, org)
        document = stored_document(checked(raw), self._names(spec), spec)
        if chain:
            document[VIA] = list(chain)
        self.check_endpoint(document)
        id = document.setdefault("id", f"urn:ngsi-ld:Subscription:{uuid.uuid4()}")
        now = now_us()
        expires = _expiry(document, now)
        own = document.get("jsonldContext", spec)
        self._compiled(0, id, org, document, own, expires)
        if own is not None and not isinstance(own, str):
            document["jsonldContext"] = await self.imply(org, own)

        def write(connection: sa.Connection) -> bool:
            cursor = self.store.cursor(connection)
            sql = self.store.sql
            if cursor.execute(sql("SELECT 1 FROM subscriptions WHERE id=? AND org=?"), (id, org)).fetchone():
                return False
            cursor.execute(
                sql(
                    "INSERT INTO subscriptions (id,org,owner,doc,context,active,expires_at,created_at,modified_at,"
                    "times_sent,times_failed) VALUES (?,?,?,?,?,?,?,?,?,0,0)"
                ),
                (id, org, actor.id, dumped(document), dumped(own), bool(document.get("isActive", True)), expires, now,
                 now),
            )
            traces.arranged(self.db, actor, CREATE, org, id)
            return True

        if not await self.db.write(write):
            raise AlreadyExists(f"订阅 {id} 已存在", f"subscription {id} already exists", field="id", value=id)
        await self.changed()
        return str(id)

    def check_endpoint(self, document: Json) -> None:
        """Judge an endpoint as far as it can be before it is connected to. Raises `BadRequestData`."""
        uri = document["notification"]["endpoint"]["uri"]
        try:
            self.house.outbound.check(uri, SCHEMES)
        except Refused as error:
            raise bad(error.zh, error.en, field="notification.endpoint.uri", value=uri, rule=error.rule) from None

    def _names(self, spec: Any) -> Context:
        return self.entities.names if spec is None else self.contexts.get(spec)

    @operation(READ)
    async def retrieve(self, actor: Actor, id: str, spec: Any = None, *, tenant: str | None = None) -> Json:
        """One subscription with its status (5.8.3), its names under the context `spec`. Raises `NotFound`."""
        row = await self._row(actor, id, tenant, READ)
        if await self.delivery.settled(row[0]):
            row = await self._row(actor, id, tenant, READ)
        return self._shown(row, spec, await self._hindrance(row))

    @operation(READ)
    async def search(
        self, actor: Actor, spec: Any = None, *, tenant: str | None = None, limit: int = 20, offset: int = 0
    ) -> tuple[list[Json], int]:
        """A page of subscriptions in order of creation (5.8.4), and how many there are in all."""
        orgs = self.policy.require_any(actor, READ)
        if tenant is not None:
            orgs = orgs.narrow(self._seen_tenant(actor, tenant))

        def read(connection: sa.Connection) -> tuple[list[Any], int]:
            cursor = self.store.cursor(connection)
            condition = "1=1"
            parameters: list[Any] = []
            if not orgs.all:
                condition, parameters = self.store.among("org", sorted(orgs.ids))
            total = cursor.execute(self.store.sql(f"SELECT count(*) FROM subscriptions WHERE {condition}"), parameters)
            count = total.fetchone()[0]
            sql = f"SELECT {self._columns} FROM subscriptions WHERE {condition} ORDER BY no LIMIT ? OFFSET ?"
            return cursor.execute(self.store.sql(sql), [*parameters, limit, offset]).fetchall(), count

        rows, count = await self.db.read(read)
        return [self._shown(row, spec, await self._hindrance(row)) for row in rows], count

    @operation(WRITE)
    async def update(
        self, actor: Actor, id: str, raw: Any, spec: Any, *, tenant: str | None = None
    ) -> None:
        """Change members of a subscription (5.8.2); NGSI-LD Null deletes one. The subscription is the actor's then."""
        row = await self._row(actor, id, tenant, WRITE)
        self.policy.require(actor, ENTITIES.action, row[2])
        if not isinstance(raw, dict) or not raw:
            raise bad("正文应为 JSON 对象", "the body must be a JSON object", field="body", rule="object")
        own = orjson.loads(row[4] or "null")
        fresh = self._names(spec)
        document = orjson.loads(row[3])
        if WORDS not in document:
            document = stored_document(document, self._names(own), own)
        words = document.pop(WORDS)
        chain = document.pop(VIA, None)
        given: Json = {}
        for key, value in raw.items():
            if key in ("id", "@context"):
                if key == "id" and value != id:
                    raise bad("id 不可更改", "the id cannot change", field="id", value=value)
            elif value is None:
                raise bad(f"{key} 不可为 null", f"{key} must not be null", field=key, rule="NGSI-LD Null")
            elif value == forms.NULL:
                document.pop(key, None)
            else:
                given[key] = value
        # What is given is checked in the client's names with the rest beside it, then only what is given is translated.
        whole = checked({**document, **given})
        document = {**whole, **{key: value for key, value in with_names(whole, fresh.stored).items() if key in given}}
        if not given.keys().isdisjoint(("q", "geoQ", "csf", "expandValues")):
            words = spec
        now = now_us()
        expires = _expiry(document, now) if "expiresAt" in given else row[6] if "expiresAt" in document else None
        if "jsonldContext" in given:
            own = given["jsonldContext"]
        document[WORDS] = words
        if chain is not None:
            document[VIA] = chain
        if "notification" in given:
            self.check_endpoint(document)
        self._compiled(0, id, row[2], document, own, expires)
        sql = self.store.sql(
            "UPDATE subscriptions SET doc=?,context=?,active=?,expires_at=?,modified_at=?,owner=?,blocked=NULL WHERE no=?"
        )
        values = (dumped(document), dumped(own), bool(document.get("isActive", True)), expires, now, actor.id, row[0])

        def write(connection: sa.Connection) -> None:
            self.store.cursor(connection).execute(sql, values)
            traces.arranged(self.db, actor, WRITE, row[2], id, sorted(raw.keys() - {"@context", "id"}))

        await self.db.write(write)
        await self.changed()

    @operation(DELETE)
    async def delete(self, actor: Actor, id: str, *, tenant: str | None = None) -> None:
        """Delete a subscription and what it has still to deliver (5.8.5)."""
        row = await self._row(actor, id, tenant, DELETE)

        def write(connection: sa.Connection) -> None:
            cursor = self.store.cursor(connection)
            cursor.execute(self.store.sql("DELETE FROM notification_outbox WHERE subscription=?"), (row[0],))
            cursor.execute(self.store.sql("DELETE FROM subscriptions WHERE no=?"), (row[0],))
            traces.arranged(self.db, actor, DELETE, row[2], id)

        await self.db.write(write)
        await self.changed()

    def naming(self, org: str, document: Json, now: int) -> Iterator[Active]:
        """The subscriptions of `org` in force at `now` (µs) whose types, ids and patterns the entity satisfies."""
        for no in sorted(self._known):
            _, own, item = self._known[no]
            if own != org or item is None or (item.expires_at is not None and item.expires_at <= now):
                continue
            if selecting.matches(Selection(item.selection.selectors), document):
                yield item

    def satisfied(self, cursor: Any, item: Active, document: Json) -> bool:
        """Whether the entity satisfies the whole of what the subscription asks of entities."""
        return selecting.matches(item.selection, document) and self._reached(cursor, item, document["id"])

    async def tell(self, subscription: Active, data: list[Json], documents: list[Json], now: int) -> None:
        """Queue a notification of `data`, which is of the entities `documents`; returns when it is in the outbox."""
        await self.db.write(lambda c: self._enqueue(self.store.cursor(c), subscription, data, documents, now))
        self.wake()

    async def shown(self, numbers: Sequence[int]) -> dict[int, Json]:
        """Subscriptions as the house's context shows them, with their status, by number. The caller asks the policy."""
        condition, parameters = self.store.among("no", numbers)
        sql = self.store.sql(f"SELECT {self._columns} FROM subscriptions WHERE {condition}")
        rows = await self.db.read(lambda c: self.store.cursor(c).execute(sql, parameters).fetchall())
        return {row[0]: self._shown(row, None, await self._hindrance(row)) for row in rows}

    @property
    def _columns(self) -> str:
        return (
            f"no,id,org,{self._json('doc')},{self._json('context')},active,expires_at,created_at,modified_at,times_sent,"
            "times_failed,last_notification,last_success,last_failure,last_error,owner,blocked"
        )

    def _seen_tenant(self, actor: Actor, tenant: str) -> str:
        self.entities.readable(actor, tenant)
        return tenant

    async def _row(self, actor: Actor, id: str, tenant: str | None, action: str) -> Any:
        if not is_iri(id):
            raise bad(f"订阅 id {id[:100]!r} 不是 URI", f"subscription id {id[:100]!r} is not a URI", field="id", value=id)
        orgs = self.policy.require_any(actor, READ)
        if tenant is not None:
            orgs = orgs.narrow(self._seen_tenant(actor, tenant))
        sql = self.store.sql(f"SELECT {self._columns} FROM subscriptions WHERE id=? ORDER BY no LIMIT 50")
        rows = await self.db.read(lambda c: self.store.cursor(c).execute(sql, (id,)).fetchall())
        seen = [row for row in rows if row[2] in orgs]
        if not seen:
            raise NotFound(f"没有订阅 {id}", f"there is no subscription {id}", field="id", value=id)
        row = next((item for item in seen if item[2] == actor.org), seen[0])
        self.policy.require(actor, action, row[2])
        return row

    async def _hindrance(self, row: Any) -> str | None:
        """Why a subscription does not run although it is active."""
        try:
            self._compiled(row[0], row[1], row[2], orjson.loads(row[3]), orjson.loads(row[4] or "null"), row[6])
        except TulouError as error:
            return error.en
        return row[16] or (None if await self.delivery.may(row[15], row[2]) else ENTITIES.no_right)

    def _shown(self, row: Any, spec: Any, hindrance: str | None) -> Json:
        now = now_us()
        own = orjson.loads(row[4] or "null")
        document: Json = orjson.loads(row[3])
        if WORDS not in document:
            document = stored_document(document, self._names(own), own)
        document = shown_document(document, self._names(spec))
        expired = row[6] is not None and row[6] <= now
        document["status"] = "expired" if expired else "active" if row[5] and hindrance is None else "paused"
        if hindrance is not None and row[5] and not expired:
            document["statusReason"] = hindrance
        document["createdAt"], document["modifiedAt"] = forms.moment(row[7]), forms.moment(row[8])
        if "timeInterval" not in document:
            document.setdefault("notificationTrigger", list(DEFAULT_TRIGGERS))
        if isinstance(own, str):
            document.setdefault("jsonldContext", own)
        notification = document["notification"]
        for name, count in (("timesSent", row[9]), ("timesFailed", row[10])):
            if count:
                notification[name] = count
        for name, at in (("lastNotification", row[11]), ("lastSuccess", row[12]), ("lastFailure", row[13])):
            if at is not None:
                notification[name] = forms.moment(at)
        if row[11] is not None or row[14]:
            notification["status"] = "failed" if row[14] else "ok"
        if row[14]:
            notification["lastFailureReason"] = row[14]
        return document

    # ---- delivery

    def wake(self) -> None:
        """After a commit: tell the worker of this process, if it runs here, when something was queued."""
        if self._queued:
            self._queued = False
            self.delivery.wake()

    async def deliver(self, _house: House) -> None:
        """The worker: deliver what is due, for ever."""
        await self.delivery.run(self._tick)

    async def _tick(self) -> None:
        await self._intervals(now_us())
        self._seconds += 1
        if self._seconds % REVIEW == 0:
            await self.delivery.review()

    async def _intervals(self, now: int) -> None:
        """Write the notifications of subscriptions with a `timeInterval` that are due."""
        for subscription in self._periodic:
            if subscription.expires_at is None or subscription.expires_at > now:
                await self._interval(subscription, now)

    async def _interval(self, subscription: Active, now: int) -> None:
        asked = self.store.sql("SELECT queued_at FROM subscriptions WHERE no=?")
        row = await self.db.read(lambda c: self.store.cursor(c).execute(asked, (subscription.no,)).fetchone())
        if row is None or (row[0] is not None and now - row[0] < subscription.interval_us):
            return
        asked_for = subscription.selection if subscription.linked is None else replace(
            subscription.selection, q=subscription.linked
        )
        found: Sequence[Row] | None = None
        if self.remote is not None:
            found = await self.remote.selected(subscription, asked_for)
        if found is None:
            found = await self.db.read(
                lambda c: self.entities.selected(c, subscription.org, asked_for, PER_INTERVAL)
            )
        documents = [item.document for item in found]
        data = []
        for item, document in zip(found, documents, strict=True):
            written = notifications.entity(subscription, document, item.times)
            data.append(forms.feature(document, written, subscription.form) if subscription.feature else written)

        def write(connection: sa.Connection) -> None:
            cursor, sql = self.store.cursor(connection), self.store.sql
            cursor.execute(sql("UPDATE subscriptions SET queued_at=? WHERE no=?"), (now, subscription.no))
            if data:
                self._enqueue(cursor, subscription, data, documents, now)

        await self.db.write(write)
        self.wake()


def _expiry(document: Json, now: int) -> int | None:
    if "expiresAt" not in document:
        return None
    document["expiresAt"] = forms.datetime_text(document["expiresAt"], "expiresAt")
    at = forms.micros(document["expiresAt"])
    if at <= now:
        raise bad("expiresAt 已过去", "expiresAt is in the past", field="expiresAt", value=document["expiresAt"],
                  rule="in the future")
    return at
