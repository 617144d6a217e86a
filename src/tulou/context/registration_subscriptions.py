"""Subscriptions to context source registrations, and what a change of one queues for them.

Law: a notification is a row written in the transaction of the registration's change; `delivery` has the rest, and holds it
back where the subscription's owner may no longer read registrations. A subscription sees the registrations of its own
organisation only, and never what they say to their sources.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.3.2, 5.3.3 and 5.11.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import sqlalchemy as sa

from tulou.context import forms, geo, query, subscription_form, traces
from tulou.context import selection as selecting
from tulou.context.columns import dumped
from tulou.context.delivery import REGISTRATIONS, Delivery
from tulou.context.errors import AlreadyExists, bad
from tulou.context.evolution import span
from tulou.context.forms import Json
from tulou.context.jsonld import Context, is_iri
from tulou.context.registrations import Registrations, Wanted, compiled, found_by, shown
from tulou.context.selection import Selector
from tulou.context.store import Store
from tulou.context.subscription_form import SCHEMES
from tulou.kernel.errors import NotFound, TulouError
from tulou.kernel.outbound import Refused
from tulou.kernel.policy import Actor, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, CREATE = "context.sourcesubscription.read", "context.sourcesubscription.create"
WRITE, DELETE = "context.sourcesubscription.write", "context.sourcesubscription.delete"
REVIEW = 5
"""Seconds between looks at whether owners may still read."""


class Watch(NamedTuple):
    """A subscription compiled for matching."""

    no: int
    id: str
    wanted: tuple[Wanted, ...]
    context: Context
    expires_at: int | None
    interval_us: int
    throttling_us: int

    def sees(self, document: Json | None) -> Json | None:
        """The registration as the subscriber gets it, with what matches of its information; None if nothing does."""
        if document is None:
            return None
        item = compiled(0, document["id"], "", document)
        kept = sorted({at for wanted in self.wanted for at in found_by(wanted, item, document) or ()})
        if not kept:
            return None
        out = {key: value for key, value in document.items() if key != "contextSourceInfo"}
        out["information"] = [document["information"][at] for at in kept]
        return shown(out, self.context)


class RegistrationSubscriptions:
    """The operations on subscriptions to registrations, and their worker. `address(path)` makes an absolute address of a
    path of this house."""

    def __init__(self, house: House, registrations: Registrations, address: Callable[[str], str]) -> None:
        from tulou.context.service import HOUSE_CONTEXT

        self.house = house
        self.db = house.db
        self.policy = house.policy
        self.entities = registrations.entities
        self.store = Store(house.db.dialect)
        self._active: dict[str, list[Watch]] = {}
        self._seconds = 0
        self.delivery = Delivery(house, REGISTRATIONS, address, HOUSE_CONTEXT, self._changed)
        registrations.subscriptions = self

    # ---- what is active

    async def reload(self) -> None:
        """Read and compile every active subscription."""
        rows = await self.db.read(
            lambda c: self.store.cursor(c).execute(
                f"SELECT {self._columns} FROM csource_subscriptions WHERE blocked IS NULL AND active"
                + ("" if self.store.postgres else "=1")
            ).fetchall()
        )
        active: dict[str, list[Watch]] = {}
        for row in rows:
            with contextlib.suppress(TulouError):
                watch = self.watch(row[0], row[1], orjson.loads(row[3]), orjson.loads(row[4] or "null"), row[6])
                active.setdefault(row[2], []).append(watch)
        self._active = active

    def watch(self, no: int, id: str, document: Json, spec: Any, expires_at: int | None) -> Watch:
        """A subscription document as something to match with. Raises `BadRequestData`."""
        context = self.entities.contexts.get(spec) if spec is not None else self.entities.names
        watched = document.get("watchedAttributes")
        names = frozenset(map(context.stored, watched)) if watched else None
        nodes = tuple(query.parse(document[key], context) for key in ("q", "csf") if key in document)
        place = document.get("geoQ")
        where = geo.parse(
            place.get("georel"), place.get("geometry"), place.get("coordinates"),
            context.stored(place.get("geoproperty", "location")),
        ) if place else None
        temporal = document.get("temporalQ")
        period = None
        if temporal is not None:
            if not isinstance(temporal, dict):
                raise bad("temporalQ 应为对象", "temporalQ must be an object", field="temporalQ", value=temporal)
            when = span({k: str(temporal[k]) for k in ("timerel", "timeAt", "endTimeAt") if k in temporal}, needed=True,
                        style="normalized")
            period = (str(temporal.get("timeproperty", "observedAt")), when.start, when.end)
        selectors: list[Selector | None] = [
            Selector(
                selecting.type_tree(item["type"], context) if item.get("type") else None,
                (item["id"],) if isinstance(item.get("id"), str) else tuple(item.get("id", ())),
                selecting.pattern_of(item["idPattern"]) if item.get("idPattern") and not item.get("id") else None,
            )
            for item in document.get("entities", ())
        ] or [None]
        wanted = tuple(Wanted(item, names, nodes, where, document.get("scopeQ"), period) for item in selectors)
        return Watch(
            no, id, wanted, context, expires_at, int(float(document.get("timeInterval", 0)) * 1e6),
            int(float(document.get("throttling", 0)) * 1e6),
        )

    # ---- matching, in the writer's thread

    def queue(self, cursor: Any, org: str, before: Json | None, after: Json | None, now: int) -> None:
        """Write the notifications that a change of a registration causes, in its transaction (5.11.7)."""
        for watch in self._active.get(org, ()):
            if watch.interval_us or (watch.expires_at is not None and watch.expires_at <= now):
                continue
            old, new = watch.sees(before), watch.sees(after)
            reason = "updated" if old and new else "newlyMatching" if new else "noLongerMatching"
            if new or old:
                self._enqueue(cursor, watch, [new or old or {}], reason, now)

    def _enqueue(self, cursor: Any, watch: Watch, data: Sequence[Json], reason: str, now: int) -> None:
        sql = self.store.sql
        if watch.throttling_us:
            row = cursor.execute(sql("SELECT queued_at FROM csource_subscriptions WHERE no=?"), (watch.no,)).fetchone()
            if row is None or (row[0] is not None and now - row[0] < watch.throttling_us):
                return
        cursor.execute(sql("UPDATE csource_subscriptions SET queued_at=? WHERE no=?"), (now, watch.no))
        body = {
            "id": f"urn:ngsi-ld:ContextSourceNotification:{uuid.uuid4()}", "type": "ContextSourceNotification",
            "subscriptionId": watch.id, "notifiedAt": forms.moment(now), "triggerReason": reason, "data": list(data),
        }
        cursor.execute(
            sql("INSERT INTO csource_outbox (subscription,body,created_at) VALUES (?,?,?)"),
            (watch.no, dumped(body), now),
        )

    def _all(self, cursor: Any, org: str, watch: Watch, now: int) -> list[Json]:
        doc = "doc::text" if self.store.postgres else "doc"
        rows = cursor.execute(
            self.store.sql(f"SELECT {doc} FROM csource_registrations WHERE org=? AND (expires_at IS NULL OR expires_at>?) ORDER BY no"),
            (org, now),
        ).fetchall()
        return [seen for row in rows if (seen := watch.sees(orjson.loads(row[0]))) is not None]

    # ---- operations

    @operation(CREATE)
    async def create(self, actor: Actor, raw: Any, spec: Any, *, tenant: str | None = None) -> str:
        """Create a subscription (5.11.2); what matches already is notified at once. Returns its id."""
        org = self.entities.tenant(actor, tenant, CREATE)
        self.policy.require(actor, REGISTRATIONS.action, org)
        document = self._checked(raw)
        id: str = document.setdefault("id", f"urn:ngsi-ld:Subscription:{uuid.uuid4()}")
        now = _now()
        expires = _expiry(document, now)
        spec = document.get("jsonldContext", spec)
        self.watch(0, id, document, spec, expires)

        def write(connection: sa.Connection) -> TulouError | None:
            cursor, sql = self.store.cursor(connection), self.store.sql
            if cursor.execute(sql("SELECT 1 FROM csource_subscriptions WHERE id=? AND org=?"), (id, org)).fetchone():
                return AlreadyExists(f"订阅 {id} 已存在", f"subscription {id} already exists", field="id", value=id)
            active = bool(document.get("isActive", True))
            cursor.execute(
                sql("INSERT INTO csource_subscriptions (id,org,owner,doc,context,active,expires_at,created_at,modified_at,"
                    "times_sent,times_failed) VALUES (?,?,?,?,?,?,?,?,?,0,0)"),
                (id, org, actor.id, dumped(document), dumped(spec), active, expires, now, now),
            )
            no = cursor.execute(sql("SELECT no FROM csource_subscriptions WHERE id=? AND org=?"), (id, org)).fetchone()[0]
            if active:
                self._notify_all(cursor, org, self.watch(no, id, document, spec, expires), now)
            traces.arranged(self.db, actor, CREATE, org, id)
            return None

        error = await self.db.write(write)
        if error is not None:
            raise error
        await self._after_change()
        return id

    def _notify_all(self, cursor: Any, org: str, watch: Watch, now: int) -> None:
        data = self._all(cursor, org, watch, now)
        if data:
            self._enqueue(cursor, watch, data, "newlyMatching", now)

    @operation(READ)
    async def retrieve(self, actor: Actor, id: str, *, tenant: str | None = None) -> Json:
        """One subscription with its status (5.11.4). Raises `NotFound`."""
        row = await self._row(actor, id, tenant, READ)
        if await self.delivery.settled(row[0]):
            row = await self._row(actor, id, tenant, READ)
        return await self._shown(row)

    @operation(READ)
    async def search(
        self, actor: Actor, *, tenant: str | None = None, limit: int = 20, offset: int = 0
    ) -> tuple[list[Json], int]:
        """Subscriptions in order of creation (5.11.5), and how many there are."""
        orgs = self.policy.require_any(actor, READ)
        if tenant is not None:
            self.entities.readable(actor, tenant)
            orgs = orgs.narrow(tenant)

        def read(connection: sa.Connection) -> tuple[list[Any], int]:
            cursor, sql = self.store.cursor(connection), self.store.sql
            condition, parameters = ("1=1", []) if orgs.all else self.store.among("org", sorted(orgs.ids))
            count = cursor.execute(sql(f"SELECT count(*) FROM csource_subscriptions WHERE {condition}"), parameters).fetchone()[0]
            rows = cursor.execute(
                sql(f"SELECT {self._columns} FROM csource_subscriptions WHERE {condition} ORDER BY no LIMIT ? OFFSET ?"),
                [*parameters, limit, offset],
            ).fetchall()
            return rows, count

        rows, count = await self.db.read(read)
        return [await self._shown(row) for row in rows], count

    @operation(WRITE)
    async def update(self, actor: Actor, id: str, raw: Any, spec: Any, *, tenant: str | None = None) -> None:
        """Update members (5.11.3); all that matches then is notified. A member given replaces the old one, NGSI-LD Null
        deletes it. The subscription is the actor's then."""
        row = await self._row(actor, id, tenant, WRITE)
        self.policy.require(actor, REGISTRATIONS.action, row[2])
        if not isinstance(raw, dict) or not raw:
            raise bad("正文应为非空的 JSON 对象", "the body must be a non-empty JSON object", field="body", rule="object")
        document = orjson.loads(row[3])
        for key, value in raw.items():
            if key == "id" and value != id:
                raise bad("id 不可更改", "the id cannot change", field="id", value=value)
            if key in ("id", "@context"):
                continue
            if value == forms.NULL:
                document.pop(key, None)
            else:
                document[key] = value
        document = self._checked(document)
        now = _now()
        expires = _expiry(document, now, past="expiresAt" in raw) if "expiresAt" in document else None
        spec = document.get("jsonldContext", spec if spec is not None else orjson.loads(row[4] or "null"))
        watch = self.watch(row[0], id, document, spec, expires)
        active = bool(document.get("isActive", True))

        def write(connection: sa.Connection) -> None:
            cursor = self.store.cursor(connection)
            cursor.execute(
                self.store.sql("UPDATE csource_subscriptions SET doc=?,context=?,active=?,expires_at=?,modified_at=?,owner=?,"
                               "blocked=NULL WHERE no=?"),
                (dumped(document), dumped(spec), active, expires, now, actor.id, row[0]),
            )
            if active and (expires is None or expires > now):
                self._notify_all(cursor, row[2], watch, now)
            traces.arranged(self.db, actor, WRITE, row[2], id, sorted(raw.keys() - {"@context", "id"}))

        await self.db.write(write)
        await self._after_change()

    @operation(DELETE)
    async def delete(self, actor: Actor, id: str, *, tenant: str | None = None) -> None:
        """Delete a subscription and what it has still to deliver (5.11.6)."""
        row = await self._row(actor, id, tenant, DELETE)

        def write(connection: sa.Connection) -> None:
            cursor = self.store.cursor(connection)
            cursor.execute(self.store.sql("DELETE FROM csource_outbox WHERE subscription=?"), (row[0],))
            cursor.execute(self.store.sql("DELETE FROM csource_subscriptions WHERE no=?"), (row[0],))
            traces.arranged(self.db, actor, DELETE, row[2], id)

        await self.db.write(write)
        await self._after_change()

    def _checked(self, raw: Any) -> Json:
        document = subscription_form.checked(raw)
        uri = document["notification"]["endpoint"]["uri"]
        try:
            self.house.outbound.check(uri, SCHEMES)
        except Refused as error:
            raise bad(error.zh, error.en, field="notification.endpoint.uri", value=uri, rule=error.rule) from None
        return document

    @property
    def _columns(self) -> str:
        cast = "::text" if self.store.postgres else ""
        return (
            f"no,id,org,doc{cast},context{cast},active,expires_at,created_at,modified_at,times_sent,times_failed,"
            "last_notification,last_success,last_failure,last_error,owner,blocked"
        )

    async def _row(self, actor: Actor, id: str, tenant: str | None, action: str) -> Any:
        if not is_iri(id):
            raise bad(f"订阅 id {id[:100]!r} 不是 URI", f"subscription id {id[:100]!r} is not a URI", field="id", value=id)
        orgs = self.policy.require_any(actor, READ)
        if tenant is not None:
            self.entities.readable(actor, tenant)
            orgs = orgs.narrow(tenant)
        sql = self.store.sql(f"SELECT {self._columns} FROM csource_subscriptions WHERE id=? ORDER BY no LIMIT 50")
        rows = await self.db.read(lambda c: self.store.cursor(c).execute(sql, (id,)).fetchall())
        seen = [row for row in rows if row[2] in orgs]
        if not seen:
            raise NotFound(f"没有订阅 {id}", f"there is no subscription {id}", field="id", value=id)
        row = next((item for item in seen if item[2] == actor.org), seen[0])
        self.policy.require(actor, action, row[2])
        return row

    async def _shown(self, row: Any) -> Json:
        document: Json = orjson.loads(row[3])
        expired = row[6] is not None and row[6] <= _now()
        hindrance = row[16] or (None if await self.delivery.may(row[15], row[2]) else REGISTRATIONS.no_right)
        document["status"] = "expired" if expired else "active" if row[5] and hindrance is None else "paused"
        if hindrance is not None and row[5] and not expired:
            document["statusReason"] = hindrance
        document["createdAt"], document["modifiedAt"] = forms.moment(row[7]), forms.moment(row[8])
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

    async def _changed(self) -> None:
        await self.reload()
        if hasattr(self.house, "bus"):
            await self.house.bus.changed("csource_subscriptions")

    async def _after_change(self) -> None:
        await self._changed()
        self.wake()

    # ---- delivery

    def wake(self) -> None:
        """Tell the worker of this process, if it runs here, that there may be something to deliver."""
        self.delivery.wake()

    async def deliver(self, _house: House) -> None:
        """The worker: deliver what is due, for ever."""
        await self.delivery.run(self._tick)

    async def _tick(self) -> None:
        await self._intervals(_now())
        self._seconds += 1
        if self._seconds % REVIEW == 0:
            await self.delivery.review()

    async def _intervals(self, now: int) -> None:
        """Queue what subscriptions with a `timeInterval` are due."""
        for org, own in list(self._active.items()):
            for watch in own:
                if not watch.interval_us or (watch.expires_at is not None and watch.expires_at <= now):
                    continue

                def write(connection: sa.Connection, org: str = org, watch: Watch = watch) -> None:
                    cursor = self.store.cursor(connection)
                    row = cursor.execute(
                        self.store.sql("SELECT queued_at FROM csource_subscriptions WHERE no=?"), (watch.no,)
                    ).fetchone()
                    if row is not None and (row[0] is None or now - row[0] >= watch.interval_us):
                        self._notify_all(cursor, org, watch, now)

                await self.db.write(write)
                self.wake()


def _now() -> int:
    from tulou.context.service import now_us

    return now_us()


def _expiry(document: Json, now: int, *, past: bool = True) -> int | None:
    """When it ends in µs; with `past` a moment before now is refused."""
    if "expiresAt" not in document:
        return None
    document["expiresAt"] = forms.datetime_text(document["expiresAt"], "expiresAt")
    at = forms.micros(document["expiresAt"])
    if past and at <= now:
        raise bad("expiresAt 已过去", "expiresAt is in the past", field="expiresAt", value=document["expiresAt"],
                  rule="in the future")
    return at
