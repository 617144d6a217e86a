"""Subscriptions and their durable outbox.

Law: a notification is a row written in the transaction of the change that caused it, so none is lost and none is sent
for a change that was rolled back. It is delivered at least once, in order within a subscription, with growing pauses,
and given up (and counted as failed) after a bounded number of attempts. A subscription sees the entities of its own
organisation only.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.2.12 to 5.2.15, 5.8 and 6.3.8.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import orjson
import sqlalchemy as sa

from tulou.context import forms, geo, query
from tulou.context import selection as selecting
from tulou.context.errors import AlreadyExists, bad
from tulou.context.forms import Form, Json
from tulou.context.jsonld import CORE_URL, LINK_REL, Context, Contexts, is_iri
from tulou.context.paging import Cursor
from tulou.context.store import Store, dumped
from tulou.kernel.errors import NotFound, TulouError
from tulou.kernel.policy import Actor, operation

if TYPE_CHECKING:
    from tulou.context.service import ContextService
    from tulou.kernel.house import House

log = logging.getLogger("tulou.context.subscriptions")

READ, CREATE = "context.subscription.read", "context.subscription.create"
WRITE, DELETE = "context.subscription.write", "context.subscription.delete"

ATTEMPTS = 12
LONGEST_PAUSE_S = 300
QUEUE = 10_000
"""Most undelivered notifications of one subscription; beyond it the oldest are given up."""
PER_NOTIFICATION = 100
TRIGGERS = frozenset(
    {"entityCreated", "entityUpdated", "entityDeleted", "attributeCreated", "attributeUpdated", "attributeDeleted"}
)
_DEFAULT_TRIGGERS = frozenset({"attributeCreated", "attributeUpdated"})
_MEMBERS = frozenset(
    {
        "id", "type", "subscriptionName", "description", "entities", "watchedAttributes", "notificationTrigger",
        "timeInterval", "q", "geoQ", "csf", "isActive", "notification", "expiresAt", "throttling", "temporalQ",
        "scopeQ", "lang", "datasetId", "jsonldContext", "expandValues", "jsonKeys", "splitEntities", "localOnly",
    }
)
_OUTPUT = frozenset({"status", "createdAt", "modifiedAt"})
_NOTIFICATION_OUTPUT = frozenset({"timesSent", "timesFailed", "lastNotification", "lastSuccess", "lastFailure", "status"})
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


class Changed(NamedTuple):
    """A change of an entity in stored form. `names`: attributes changed, None for all of them."""

    org: str
    document: Json
    names: set[str] | None
    trigger: str
    before: Json | None = None


@dataclass(slots=True)
class Active:
    """A subscription compiled for matching."""

    no: int
    id: str
    org: str
    selection: selecting.Selection
    watched: frozenset[str] | None
    triggers: frozenset[str]
    form: Form
    context: Context
    spec: Any
    accept: str
    throttling_us: int
    expires_at: int | None
    interval_us: int
    feature: bool


class Subscriptions:
    """The operations on subscriptions, the matching of changes, and the worker that delivers."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.db = house.db
        self.policy = house.policy
        self.store = Store(house.db.dialect)
        self.contexts: Contexts
        self.entities: ContextService
        self._active: dict[str, list[Active]] = {}
        self._wake: asyncio.Event | None = None

    def attach(self, entities: ContextService) -> None:
        """Give it the entities' service, which is made after it."""
        self.entities = entities
        self.contexts = entities.contexts

    # ---- matching, in the writer's thread

    def watches(self, org: str) -> bool:
        """Whether any active subscription looks at the organisation."""
        return org in self._active

    def queue(self, cursor: Any, changes: Sequence[Changed], now: int) -> None:
        """Write the notifications that `changes` cause to the outbox, in the transaction of `cursor`."""
        by_org: dict[str, list[Changed]] = {}
        for change in changes:
            if change.org in self._active:
                by_org.setdefault(change.org, []).append(change)
        for org, own in by_org.items():
            for subscription in self._active.get(org, ()):
                if subscription.interval_us or (subscription.expires_at is not None and subscription.expires_at <= now):
                    continue
                data = [item for change in own if (item := self._datum(subscription, change, now)) is not None]
                if data:
                    self._enqueue(cursor, subscription, data, now)

    def _enqueue(self, cursor: Any, subscription: Active, data: list[Json], now: int) -> None:
        sql = self.store.sql
        if subscription.throttling_us:
            row = cursor.execute(sql("SELECT queued_at FROM subscriptions WHERE no=?"), (subscription.no,)).fetchone()
            if row is None or (row[0] is not None and now - row[0] < subscription.throttling_us):
                return
            cursor.execute(sql("UPDATE subscriptions SET queued_at=? WHERE no=?"), (now, subscription.no))
        rows = []
        for at in range(0, len(data), PER_NOTIFICATION):
            part: Any = data[at : at + PER_NOTIFICATION]
            if subscription.feature:
                part = {"type": "FeatureCollection", "features": part}
            body = {
                "id": f"urn:ngsi-ld:Notification:{uuid.uuid4()}", "type": "Notification",
                "subscriptionId": subscription.id, "notifiedAt": forms.moment(now), "data": part,
            }
            rows.append((subscription.no, dumped(body), now, now))
        cursor.executemany(
            sql("INSERT INTO notification_outbox (subscription,body,created_at,due_at,attempts) VALUES (?,?,?,?,0)"), rows
        )

    def _datum(self, subscription: Active, change: Changed, now: int) -> Json | None:
        if not _triggered(subscription, change):
            return None
        document = change.document
        if change.trigger == "entityDeleted":
            if not selecting.matches(subscription.selection, document):
                return None
            kind = document["type"]
            shown = subscription.context.shown
            return {
                "id": document["id"], "type": shown(kind) if isinstance(kind, str) else [shown(k) for k in kind],
                "deletedAt": forms.moment(now),
            }
        if not selecting.matches(subscription.selection, document):
            return None
        form = subscription.form
        if form.keep is not None and not any(name in form.keep for name in forms.attributes(document)):
            return None
        times = {"@": [now, now], "*": [now, now]} if form.system else None
        written = forms.write(document, subscription.context, form, times)
        return forms.feature(document, written, form) if subscription.feature else written

    # ---- what is active

    async def reload(self) -> None:
        """Read and compile every active subscription."""
        rows = await self.db.read(
            lambda c: self.store.cursor(c).execute(
                f"SELECT no,id,org,{self._json('doc')},{self._json('context')},expires_at FROM subscriptions WHERE active"
                + ("" if self.store.postgres else "=1") + " ORDER BY no"
            ).fetchall()
        )
        active: dict[str, list[Active]] = {}
        for no, id, org, text, context, expires in rows:
            try:
                compiled = self.compiled(no, id, org, orjson.loads(text), orjson.loads(context or "null"), expires)
            except TulouError as error:
                log.warning("subscription %s of %s cannot be compiled: %s", id, org, error.en)
                continue
            active.setdefault(org, []).append(compiled)
        self._active = active

    def _json(self, column: str) -> str:
        return f"{column}::text" if self.store.postgres else column

    def compiled(self, no: int, id: str, org: str, document: Json, spec: Any, expires_at: int | None) -> Active:
        """A subscription document as something to match with. Raises `BadRequestData`."""
        context = self.contexts.get(spec) if spec is not None else self.entities.names
        notification = document["notification"]
        selectors = tuple(
            selecting.Selector(
                selecting.type_tree(item["type"], context) if item.get("type") else None,
                (item["id"],) if isinstance(item.get("id"), str) else tuple(item.get("id", ())),
                selecting.pattern_of(item["idPattern"]) if item.get("idPattern") else None,
            )
            for item in document.get("entities", ())
        )
        place = document.get("geoQ")
        expand = document.get("expandValues")
        chosen = selecting.Selection(
            selectors, (),
            query.parse(document["q"], context, expand=frozenset(map(context.stored, expand.split(",") if expand else ())))
            if document.get("q") else None,
            geo.parse(
                place.get("georel"), place.get("geometry"), place.get("coordinates"),
                context.stored(place.get("geoproperty", "location")),
            ) if place else None,
            document.get("scopeQ"),
        )
        watched = document.get("watchedAttributes")
        keep = notification.get("attributes") or notification.get("pick")
        endpoint = notification["endpoint"]
        accept = endpoint.get("accept", "application/json")
        form = Form(
            forms.STYLES[notification.get("format", "normalized")], bool(notification.get("sysAttrs")),
            frozenset(map(context.stored, keep)) if keep else None,
            frozenset(map(context.stored, notification.get("omit", ()))), document.get("lang"),
        )
        return Active(
            no, id, org, chosen, frozenset(map(context.stored, watched)) if watched else None,
            frozenset(document.get("notificationTrigger", _DEFAULT_TRIGGERS)), form, context, spec, accept,
            int(float(document.get("throttling", 0)) * 1e6), expires_at,
            int(float(document.get("timeInterval", 0)) * 1e6), accept == "application/geo+json",
        )

    async def _after_change(self) -> None:
        await self.reload()
        if hasattr(self.house, "bus"):
            await self.house.bus.changed("subscriptions")

    # ---- operations

    @operation(CREATE)
    async def create(self, actor: Actor, raw: Any, spec: Any, *, tenant: str | None = None) -> str:
        """Create a subscription (5.8.1); `spec` is the @context that its names are in. Returns its id."""
        org = self.entities.tenant(actor, tenant, CREATE)
        self.policy.require(actor, "context.entity.read", org)
        document = checked(raw)
        id = document.setdefault("id", f"urn:ngsi-ld:Subscription:{uuid.uuid4()}")
        now = self._now()
        expires = _expiry(document, now)
        spec = document.get("jsonldContext", spec)
        self.compiled(0, id, org, document, spec, expires)

        def write(connection: sa.Connection) -> None:
            cursor = self.store.cursor(connection)
            sql = self.store.sql
            if cursor.execute(sql("SELECT 1 FROM subscriptions WHERE id=? AND org=?"), (id, org)).fetchone():
                raise AlreadyExists(f"订阅 {id} 已存在", f"subscription {id} already exists", field="id", value=id)
            cursor.execute(
                sql(
                    "INSERT INTO subscriptions (id,org,owner,doc,context,active,expires_at,created_at,modified_at,"
                    "times_sent,times_failed) VALUES (?,?,?,?,?,?,?,?,?,0,0)"
                ),
                (id, org, actor.id, dumped(document), dumped(spec), bool(document.get("isActive", True)), expires, now,
                 now),
            )

        await self.db.write(write)
        await self._after_change()
        return str(id)

    @operation(READ)
    async def retrieve(self, actor: Actor, id: str, *, tenant: str | None = None) -> Json:
        """One subscription as its creator wrote it, with its status (5.8.3). Raises `NotFound`."""
        return self._shown(await self._row(actor, id, tenant, READ))

    @operation(READ)
    async def search(
        self, actor: Actor, *, tenant: str | None = None, limit: int = 20, cursor: Cursor | None = None,
        offset: int = 0,
    ) -> tuple[list[Json], Cursor | None, int]:
        """Subscriptions in order of creation (5.8.4), the next page's cursor, and how many there are."""
        orgs = self.policy.require_any(actor, READ)
        if tenant is not None:
            orgs = orgs.narrow(self._seen_tenant(actor, tenant))
        after = cursor.no if cursor else 0

        def read(connection: sa.Connection) -> tuple[list[Any], int]:
            cursor = self.store.cursor(connection)
            condition = "1=1"
            parameters: list[Any] = []
            if not orgs.all:
                condition, parameters = self.store.among("org", sorted(orgs.ids))
            total = cursor.execute(self.store.sql(f"SELECT count(*) FROM subscriptions WHERE {condition}"), parameters)
            count = total.fetchone()[0]
            sql = f"SELECT {self._columns} FROM subscriptions WHERE {condition} AND no>? ORDER BY no LIMIT ? OFFSET ?"
            rows = cursor.execute(self.store.sql(sql), [*parameters, after, limit + 1, 0 if after else offset]).fetchall()
            return rows, count

        rows, count = await self.db.read(read)
        following = Cursor(rows[limit - 1][0]) if limit and len(rows) > limit else None
        return [self._shown(row) for row in rows[:limit]], following, count

    @operation(WRITE)
    async def update(
        self, actor: Actor, id: str, raw: Any, spec: Any, *, tenant: str | None = None
    ) -> None:
        """Update members of a subscription (5.8.2); NGSI-LD Null deletes a member."""
        row = await self._row(actor, id, tenant, WRITE)
        if not isinstance(raw, dict) or not raw:
            raise bad("正文应为 JSON 对象", "the body must be a JSON object", field="body", rule="object")
        document = orjson.loads(row[3])
        for key, value in raw.items():
            if key in ("id", "@context"):
                if key == "id" and value != id:
                    raise bad("id 不可更改", "the id cannot change", field="id", value=value)
            elif value == forms.NULL or value is None:
                if value is None:
                    raise bad(f"{key} 不可为 null", f"{key} must not be null", field=key, rule="NGSI-LD Null")
                document.pop(key, None)
            elif key == "notification" and isinstance(value, dict):
                merged = {**document["notification"], **value}
                document["notification"] = {k: v for k, v in merged.items() if v != forms.NULL}
            else:
                document[key] = value
        document = checked(document)
        now = self._now()
        expires = _expiry(document, now) if "expiresAt" in raw else row[6]
        if "expiresAt" not in document:
            expires = None
        if "jsonldContext" in document:
            spec = document["jsonldContext"]
        elif spec is None:
            spec = orjson.loads(row[4] or "null")
        self.compiled(0, id, row[2], document, spec, expires)
        sql = self.store.sql(
            "UPDATE subscriptions SET doc=?,context=?,active=?,expires_at=?,modified_at=? WHERE no=?"
        )
        values = (dumped(document), dumped(spec), bool(document.get("isActive", True)), expires, now, row[0])
        await self.db.write(lambda c: self.store.cursor(c).execute(sql, values) and None)
        await self._after_change()

    @operation(DELETE)
    async def delete(self, actor: Actor, id: str, *, tenant: str | None = None) -> None:
        """Delete a subscription and what it has still to deliver (5.8.5)."""
        row = await self._row(actor, id, tenant, DELETE)

        def write(connection: sa.Connection) -> None:
            cursor = self.store.cursor(connection)
            cursor.execute(self.store.sql("DELETE FROM notification_outbox WHERE subscription=?"), (row[0],))
            cursor.execute(self.store.sql("DELETE FROM subscriptions WHERE no=?"), (row[0],))

        await self.db.write(write)
        await self._after_change()

    @property
    def _columns(self) -> str:
        return (
            f"no,id,org,{self._json('doc')},{self._json('context')},active,expires_at,created_at,modified_at,times_sent,"
            "times_failed,last_notification,last_success,last_failure,last_error"
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

    def _shown(self, row: Any) -> Json:
        now = self._now()
        document: Json = orjson.loads(row[3])
        document["isActive"] = bool(row[5])
        document["status"] = "expired" if row[6] is not None and row[6] <= now else "active" if row[5] else "paused"
        document["createdAt"], document["modifiedAt"] = forms.moment(row[7]), forms.moment(row[8])
        if row[4] and row[4] != "null" and "jsonldContext" not in document:
            spec = orjson.loads(row[4])
            if isinstance(spec, str):
                document["jsonldContext"] = spec
        notification = document["notification"]
        notification["timesSent"], notification["timesFailed"] = row[9], row[10]
        for name, at in (("lastNotification", row[11]), ("lastSuccess", row[12]), ("lastFailure", row[13])):
            if at is not None:
                notification[name] = forms.moment(at)
        notification["status"] = "failed" if row[14] else "ok"
        return document

    @staticmethod
    def _now() -> int:
        from tulou.context.service import now_us

        return now_us()

    # ---- delivery

    def wake(self) -> None:
        """Tell the worker of this process, if it runs here, that there may be something to deliver."""
        if self._wake is not None:
            self._wake.set()

    async def deliver(self, _house: House) -> None:
        """The worker: deliver what is due, for ever."""
        self._wake = asyncio.Event()
        async with httpx.AsyncClient(
            timeout=httpx.Timeout(5.0), follow_redirects=False, trust_env=False,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=32),
        ) as client:
            tidied = 0
            while True:
                now = self._now()
                if now - tidied > 5_000_000:
                    tidied = now
                    await self._bound()
                    await self._intervals(now)
                if not await self._round(client):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.5):  # `wait_for` of Python 3.11 may lose a cancellation
                            await self._wake.wait()
                    self._wake.clear()
                    await asyncio.sleep(0.02)

    async def _round(self, client: httpx.AsyncClient) -> bool:
        """Deliver one batch; False when nothing was due."""
        sql = self.store.sql(
            f"SELECT o.no,o.subscription,{self._json('o.body')},o.attempts,{self._json('s.doc')},{self._json('s.context')} "
            "FROM notification_outbox o JOIN subscriptions s ON s.no=o.subscription "
            "WHERE o.due_at<=? ORDER BY o.no LIMIT 500"
        )
        rows = await self.db.read(lambda c: self.store.cursor(c).execute(sql, (self._now(),)).fetchall())
        if not rows:
            return False
        queues: dict[int, list[Any]] = {}
        for row in rows:
            queues.setdefault(row[1], []).append(row)
        gate = asyncio.Semaphore(32)

        async def one(queue: list[Any]) -> None:
            async with gate:
                await self._drain(client, queue)

        await asyncio.gather(*(one(queue) for queue in queues.values()))
        return True

    async def _drain(self, client: httpx.AsyncClient, queue: list[Any]) -> None:
        """Deliver a subscription's notifications in order, up to the first that fails."""
        done: list[int] = []
        failed: tuple[int, int, str] | None = None
        for no, _, body, attempts, document, context in queue:
            error = await self._send(client, body, orjson.loads(document), orjson.loads(context or "null"))
            if error is None:
                done.append(no)
            else:
                failed = (no, attempts + 1, error)
                break
        subscription, now = queue[0][1], self._now()

        def write(connection: sa.Connection) -> None:
            cursor, sql = self.store.cursor(connection), self.store.sql
            if done:
                cursor.executemany(sql("DELETE FROM notification_outbox WHERE no=?"), [(no,) for no in done])
                cursor.execute(
                    sql("UPDATE subscriptions SET times_sent=times_sent+?,last_notification=?,last_success=?,"
                        "last_error=NULL WHERE no=?"), (len(done), now, now, subscription),
                )
            if failed is not None:
                no, attempts, error = failed
                pause = min(2 ** (attempts - 1), LONGEST_PAUSE_S) * 1_000_000
                if attempts >= ATTEMPTS:
                    cursor.execute(sql("DELETE FROM notification_outbox WHERE no=?"), (no,))
                else:
                    cursor.execute(sql("UPDATE notification_outbox SET attempts=? WHERE no=?"), (attempts, no))
                cursor.execute(
                    sql("UPDATE notification_outbox SET due_at=? WHERE subscription=?"), (now + pause, subscription)
                )
                cursor.execute(
                    sql("UPDATE subscriptions SET times_failed=times_failed+1,last_failure=?,last_notification=?,"
                        "last_error=? WHERE no=?"), (now, now, error[:500], subscription),
                )

        await self.db.write(write)

    async def _send(self, client: httpx.AsyncClient, body: str, document: Json, spec: Any) -> str | None:
        """POST one notification; None, or what went wrong."""
        endpoint = document["notification"]["endpoint"]
        accept = endpoint.get("accept", "application/json")
        headers = {item["key"]: item["value"] for item in endpoint.get("receiverInfo", ())}
        payload = body.encode() if isinstance(body, str) else orjson.dumps(body)
        address = spec if isinstance(spec, str) else None
        if accept == "application/ld+json":
            message = orjson.loads(payload)
            message["@context"] = ld_context(spec, self.entities.document)
            payload = orjson.dumps(message)
        else:
            headers["Link"] = f'<{address or CORE_URL}>; rel="{LINK_REL}"; type="application/ld+json"'
        headers["Content-Type"] = accept
        timeout = min(float(endpoint.get("timeout", 5000)) / 1000, 30.0)
        try:
            response = await client.post(endpoint["uri"], content=payload, headers=headers, timeout=timeout)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return None if response.is_success else f"HTTP {response.status_code}"

    async def _bound(self) -> None:
        """Give up the oldest notifications of subscriptions that have more than `QUEUE` waiting."""
        rows = await self.db.read(
            lambda c: self.store.cursor(c).execute(
                "SELECT subscription,count(*) FROM notification_outbox GROUP BY subscription "
                f"HAVING count(*)>{QUEUE}"
            ).fetchall()
        )
        for subscription, count in rows:
            extra = count - QUEUE

            def write(connection: sa.Connection, subscription: int = subscription, extra: int = extra) -> None:
                cursor, sql = self.store.cursor(connection), self.store.sql
                cursor.execute(
                    sql("DELETE FROM notification_outbox WHERE no IN (SELECT no FROM notification_outbox "
                        "WHERE subscription=? ORDER BY no LIMIT ?)"), (subscription, extra),
                )
                cursor.execute(
                    sql("UPDATE subscriptions SET times_failed=times_failed+?,last_failure=?,last_error=? WHERE no=?"),
                    (extra, self._now(), "the queue was full; the oldest notifications were given up", subscription),
                )

            log.warning("subscription %s: %s undelivered notifications given up", subscription, extra)
            await self.db.write(write)

    async def _intervals(self, now: int) -> None:
        """Write the notifications of subscriptions with a `timeInterval` that are due."""
        for org, own in list(self._active.items()):
            for subscription in own:
                if not subscription.interval_us:
                    continue

                def write(connection: sa.Connection, org: str = org, subscription: Active = subscription) -> None:
                    cursor, sql = self.store.cursor(connection), self.store.sql
                    row = cursor.execute(
                        sql("SELECT queued_at FROM subscriptions WHERE no=?"), (subscription.no,)
                    ).fetchone()
                    if row is None or (row[0] is not None and now - row[0] < subscription.interval_us):
                        return
                    cursor.execute(sql("UPDATE subscriptions SET queued_at=? WHERE no=?"), (now, subscription.no))
                    data = []
                    for found in self.entities.selected(connection, org, subscription.selection, 1000):
                        written = forms.write(found.document, subscription.context, subscription.form, found.times)
                        data.append(
                            forms.feature(found.document, written, subscription.form) if subscription.feature else written
                        )
                    if data:
                        self._enqueue(cursor, subscription, data, now)

                if subscription.expires_at is None or subscription.expires_at > now:
                    await self.db.write(write)


def _triggered(subscription: Active, change: Changed) -> bool:
    triggers = subscription.triggers
    if change.trigger == "entityDeleted":
        return "entityDeleted" in triggers
    created = change.trigger == "entityCreated"
    if created and "entityCreated" in triggers:
        return True
    document, before = change.document, change.before or {}
    names = change.names if change.names is not None else set(forms.attributes(document))
    relevant = names if subscription.watched is None else names & subscription.watched
    if not relevant:
        return False
    if not created and "entityUpdated" in triggers:
        return True
    for name in relevant:
        kind = (
            "attributeDeleted" if name not in document
            else "attributeCreated" if created or name not in before
            else "attributeUpdated"
        )
        if kind in triggers:
            return True
    return False


def ld_context(spec: Any, house: Json) -> Any:
    """The `@context` of an answer under the context `spec`."""
    if spec is None:
        return house["@context"]
    return spec if spec == CORE_URL or (isinstance(spec, list) and CORE_URL in spec) else [
        *(spec if isinstance(spec, list) else [spec]), CORE_URL,
    ]


def _expiry(document: Json, now: int) -> int | None:
    if "expiresAt" not in document:
        return None
    document["expiresAt"] = forms.datetime_text(document["expiresAt"], "expiresAt")
    at = forms.micros(document["expiresAt"])
    if at <= now:
        raise bad("expiresAt 已过去", "expiresAt is in the past", field="expiresAt", value=document["expiresAt"],
                  rule="in the future")
    return at


def checked(raw: Any) -> Json:
    """A subscription document (5.2.12), checked, without what only the house writes. Raises `BadRequestData`."""
    if not isinstance(raw, dict):
        raise bad("订阅应为 JSON 对象", "a subscription must be a JSON object", field="body", rule="object")
    document = {key: value for key, value in raw.items() if key != "@context" and key not in _OUTPUT}
    for key, value in document.items():
        if key not in _MEMBERS:
            raise bad(f"订阅没有成员 {key}", f"a subscription has no member {key}", field=key, rule="CIM 009, 5.2.12")
        if value is None:
            raise bad(f"{key} 不可为 null", f"{key} must not be null", field=key)
    if document.get("type") != "Subscription":
        raise bad("type 应为 Subscription", "type must be Subscription", field="type", value=document.get("type"))
    if "id" in document and not is_iri(document["id"]):
        raise bad("id 应为 URI", "id must be a URI", field="id", value=document["id"], rule="URI")
    for key in ("subscriptionName", "description", "q", "scopeQ", "csf", "lang"):
        if key in document and (not isinstance(document[key], str) or not document[key] or len(document[key]) > 8192):
            raise bad(f"{key} 应为文本", f"{key} must be a text", field=key, value=document[key])
    if "isActive" in document and not isinstance(document["isActive"], bool):
        raise bad("isActive 应为布尔值", "isActive must be a boolean", field="isActive", value=document["isActive"])
    for key in ("timeInterval", "throttling"):
        value = document.get(key)
        if key in document and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e8):
            raise bad(f"{key} 应为正数（秒）", f"{key} must be a positive number of seconds", field=key, value=value)
    if "timeInterval" in document and ("throttling" in document or "watchedAttributes" in document):
        raise bad("timeInterval 不可与 throttling、watchedAttributes 同用",
                  "timeInterval excludes throttling and watchedAttributes", field="timeInterval", rule="5.2.12")
    if not any(key in document for key in ("entities", "watchedAttributes")):
        raise bad("entities 与 watchedAttributes 至少一个", "entities or watchedAttributes is needed", field="entities")
    _check_entities(document.get("entities"), "entities" in document)
    _check_names(document, "watchedAttributes", "watchedAttributes")
    triggers = document.get("notificationTrigger")
    if "notificationTrigger" in document and not (
        isinstance(triggers, list) and triggers and all(isinstance(item, str) and item in TRIGGERS for item in triggers)
    ):
        raise bad("notificationTrigger 不合规则", f"notificationTrigger must be among {sorted(TRIGGERS)}",
                  field="notificationTrigger", value=triggers, rule="CIM 009, 5.2.12")
    if "geoQ" in document and not isinstance(document["geoQ"], dict):
        raise bad("geoQ 应为对象", "geoQ must be an object", field="geoQ", value=document["geoQ"])
    document["notification"] = _notification(document.get("notification"))
    return document


def _check_entities(items: Any, given: bool) -> None:
    if not given:
        return
    if not isinstance(items, list) or not items or len(items) > 1000:
        raise bad("entities 应为非空数组", "entities must be a non-empty array", field="entities", value=items)
    for item in items:
        if not isinstance(item, dict) or not item.get("type"):
            raise bad("entities 的每项应有 type", "every item of entities needs a type", field="entities", value=item)
        if not isinstance(item["type"], str):
            raise bad("entities.type 应为文本", "entities.type must be a text", field="entities.type", value=item["type"])
        ids = item.get("id")
        if ids is not None and not (is_iri(ids) or (isinstance(ids, list) and ids and all(is_iri(i) for i in ids))):
            raise bad("entities.id 应为 URI", "entities.id must be a URI", field="entities.id", value=ids, rule="URI")
        if "idPattern" in item and not isinstance(item["idPattern"], str):
            raise bad("idPattern 应为文本", "idPattern must be a text", field="entities.idPattern")


def _check_names(document: Json, key: str, field: str) -> None:
    names = document.get(key)
    if key in document and not (isinstance(names, list) and names and all(isinstance(n, str) and n for n in names)):
        raise bad(f"{field} 应为非空的名称数组", f"{field} must be a non-empty array of names", field=field, value=names)


def _notification(raw: Any) -> Json:
    if not isinstance(raw, dict):
        raise bad("缺少 notification", "notification is missing", field="notification", rule="CIM 009, 5.2.14")
    document = {key: value for key, value in raw.items() if key not in _NOTIFICATION_OUTPUT}
    for key in ("attributes", "pick", "omit"):
        _check_names(document, key, f"notification.{key}")
    style = document.get("format", "normalized")
    if not isinstance(style, str) or style not in forms.STYLES:
        raise bad("notification.format 不合规则", f"notification.format must be among {sorted(forms.STYLES)}",
                  field="notification.format", value=document.get("format"))
    endpoint = document.get("endpoint")
    if not isinstance(endpoint, dict):
        raise bad("缺少 notification.endpoint", "notification.endpoint is missing", field="notification.endpoint")
    uri = endpoint.get("uri")
    parts = urlsplit(uri) if isinstance(uri, str) and is_iri(uri) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise bad("endpoint.uri 应为 http 或 https 地址", "endpoint.uri must be an http or https address",
                  field="notification.endpoint.uri", value=uri, rule="CIM 009, 5.2.15")
    if endpoint.get("accept", "application/json") not in (
        "application/json", "application/ld+json", "application/geo+json"
    ):
        raise bad("endpoint.accept 不合规则", "endpoint.accept must be application/json, ld+json or geo+json",
                  field="notification.endpoint.accept", value=endpoint.get("accept"))
    for key in ("timeout", "cooldown"):
        value = endpoint.get(key)
        if key in endpoint and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
            raise bad(f"endpoint.{key} 应为正数（毫秒）", f"endpoint.{key} must be positive milliseconds",
                      field=f"notification.endpoint.{key}", value=value)
    for item in endpoint.get("receiverInfo") or ():
        if (
            not isinstance(item, dict) or not isinstance(item.get("key"), str) or not isinstance(item.get("value"), str)
            or not _TOKEN.fullmatch(item["key"]) or not item["value"].isprintable() or len(item["value"]) > 4096
            or item["key"].lower() in ("host", "content-length", "transfer-encoding", "connection")
        ):
            raise bad("endpoint.receiverInfo 应为 {key, value}", "endpoint.receiverInfo must be {key, value} of HTTP headers",
                      field="notification.endpoint.receiverInfo", value=item)
    return document

