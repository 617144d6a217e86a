"""Subscriptions at context sources: a house's subscribers hear of what its sources hold.

Law: what is held at sources follows from the subscriptions and registrations in force, and is brought about again until it
is so, whatever was down meanwhile. What the house is about to ask of a source is written down before it asks, so that
nothing is left behind there. A source is asked for no more than it offers, told nothing of the subscriber, and believed
only about what it is registered for. The identifier of a subscription at a source is known to the house and the source
alone; who sends a notification with it is that source. Such a notification is acknowledged once it is in the outbox.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.3.3, 5.8.1.4, 5.8.2.4, 5.8.5.4 and 5.8.6.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import orjson
import sqlalchemy as sa

from tulou.context import forms, matching, notifications, query
from tulou.context import selection as selecting
from tulou.context.columns import dumped
from tulou.context.delivery import now_us
from tulou.context.distribution import piece_of
from tulou.context.errors import bad
from tulou.context.forms import Json
from tulou.context.forwarding import Caller, Outcome
from tulou.context.jsonld import Context
from tulou.context.matching import EVERY, Registration
from tulou.context.notifications import PREVIOUS
from tulou.context.registrations import Registrations, compiled
from tulou.context.selection import Selection
from tulou.context.sources import MAX_UNION, Sources, filters_of, portable, type_text
from tulou.context.store import Row
from tulou.context.subscription_form import VIA, WORDS
from tulou.context.subscriptions import Subscriptions
from tulou.context.watching import Active, Changed
from tulou.kernel.errors import NotFound, TulouError

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.context.remote")

NOTIFIED = "/ngsi-ld/ex/remote-notify"
"""Where sources send their notifications."""
LONGEST_PAUSE_S, REFUSED_PAUSE_S = 60.0, 600.0
GIVEN_UP_US = 86_400_000_000
"""How long a source that does not answer is asked to delete a subscription."""
_FILTERS = ("q", "geoQ", "scopeQ")
_ALIKE = ("notificationTrigger", "throttling", "expiresAt", "datasetId")
"""Members of a subscription that mean the same at a source."""


class Held(NamedTuple):
    """A row: a subscription at a source. `source` is the registration as JSON, `sent` what the source has accepted."""

    no: int
    subscription: int
    registration: int
    org: str
    id: str
    source: str
    sent: Json | None
    gone_at: int | None

    @property
    def key(self) -> tuple[int, int]:
        return self.subscription, self.registration


class Wish(NamedTuple):
    """What a source should hold: the copy of a subscription, less its id, and the registration as JSON."""

    org: str
    registration: Registration
    source: str
    copy: Json
    caller: Caller


class Owned(NamedTuple):
    """A running subscription with its document and the one who answers for it."""

    active: Active
    document: Json
    owner: str


class RemoteSubscriptions:
    """Keeps subscriptions at sources, and takes the notifications that come of them."""

    def __init__(self, house: House, subscriptions: Subscriptions, registrations: Registrations, sources: Sources) -> None:
        self.house = house
        self.db = house.db
        self.store = subscriptions.store
        self.subscriptions = subscriptions
        self.registrations = registrations
        self.sources = sources
        self._due: dict[int, tuple[float, int]] = {}
        """Row -> (when it is tried again, how often it failed in a row)."""
        self._changed = asyncio.Event()
        subscriptions.remote = self
        subscriptions.reloaded = registrations.reloaded = self._changed.set

    # ---- what sources should hold

    async def run(self, _house: House) -> None:
        """Bring about what sources should hold, for ever."""
        while True:
            self._changed.clear()
            try:
                await self.reconcile()
            except TulouError as error:
                log.warning("subscriptions at sources: %s", error.en)
            except Exception:
                log.exception("subscriptions at sources could not be looked at")
            now = time.monotonic()
            pause = min([LONGEST_PAUSE_S, *(max(due - now, 0.1) for due, _ in self._due.values())])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def reconcile(self) -> None:
        """One look at what sources hold and should hold, and one try at every difference."""
        held = await self._held()
        orgs = set(self.registrations.active)
        if not held and not orgs:
            self._due.clear()
            return
        wishes = {} if not orgs else await self._wishes(sorted(orgs))
        work = []
        for row in held:
            wish = wishes.get(row.key)
            if wish is None or wish.source != row.source or row.gone_at is not None:
                work.append(self._end(row))
            else:
                del wishes[row.key]
                if row.sent != wish.copy:
                    work.append(self._tell(row, wish))
        busy = {row.key for row in held}
        work += [self._begin(key, wish) for key, wish in wishes.items() if key not in busy]
        await asyncio.gather(*work)
        alive = {row.no for row in await self._held()} if self._due else set()
        self._due = {no: due for no, due in self._due.items() if no in alive}

    async def _held(self) -> list[Held]:
        sql = "SELECT no,subscription,registration,org,id,source,sent,gone_at FROM remote_subscriptions ORDER BY no"
        rows = await self.db.read(lambda c: self.store.cursor(c).execute(sql).fetchall())
        return [
            Held(no, subscription, registration, org, id, source, None if sent is None else orjson.loads(sent), gone_at)
            for no, subscription, registration, org, id, source, sent, gone_at in rows
        ]

    async def _wishes(self, orgs: list[str]) -> dict[tuple[int, int], Wish]:
        """(subscription, registration) -> what the source should hold."""
        condition, parameters = self.store.among("org", orgs)
        owned = await self._owned(condition, parameters)
        if not owned:
            return {}
        doc = "doc::text" if self.store.postgres else "doc"
        sql = self.store.sql(f"SELECT no,{doc} FROM csource_registrations WHERE {condition}")
        texts = dict(await self.db.read(lambda c: self.store.cursor(c).execute(sql, parameters).fetchall()))
        found: dict[tuple[int, int], Wish] = {}
        now = now_us()
        for active, document, _ in owned:
            index = self.registrations.active.get(active.org)
            if index is None or document.get("localOnly") or active.interval_us or (
                active.expires_at is not None and active.expires_at <= now
            ):
                continue
            caller = self._caller(active, document)
            pushed = not document.get("splitEntities") and portable(_texts(document), self._words(document), caller)
            types = frozenset(name for item in active.selection.selectors for name in matching.leaves(item.types))
            for item in index.candidates(types, None):
                if item.no not in texts or not matching.usable(item, now, caller.chain) or not item.offers("createSubscription"):
                    continue
                copy = self._copy(active, document, item, caller, pushed)
                if copy is not None:
                    source = dumped({"id": item.id, "doc": texts[item.no]})
                    found[active.no, item.no] = Wish(active.org, item, source, copy, caller)
        return found

    async def _owned(self, condition: str, parameters: Sequence[Any]) -> list[Owned]:
        """The running subscriptions that satisfy an SQL condition."""
        doc = "doc::text" if self.store.postgres else "doc"
        sql = self.store.sql(f"SELECT no,{doc},owner FROM subscriptions WHERE {condition} ORDER BY no")
        rows = await self.db.read(lambda c: self.store.cursor(c).execute(sql, parameters).fetchall())
        return [
            Owned(active, orjson.loads(text), owner) for no, text, owner in rows
            if (active := self.subscriptions.running(no)) is not None
        ]

    def _words(self, document: Json) -> Context:
        """The context of the query texts of a stored document."""
        spec = document.get(WORDS)
        return self.subscriptions.entities.names if spec is None else self.subscriptions.contexts.get(spec)

    def _caller(self, active: Active, document: Json) -> Caller:
        """Who asks a source: the house, for an organisation; in a context with an address only where its query texts mean
        something else without."""
        words, spec = self._words(document), document.get(WORDS)
        caller = Caller({}, self.sources.alias(active.org), tuple(document.get(VIA, ())))
        if isinstance(spec, str) and spec.startswith(("http://", "https://")) and not portable(_texts(document), words, caller):
            caller.link, caller.context = spec, words
        return caller

    def _copy(
        self, active: Active, document: Json, item: Registration, caller: Caller, pushed: bool
    ) -> Json | None:
        """What of a subscription goes to a source (5.8.1.4), its filters too where they are `pushed`; None where the source
        has nothing to say to it."""
        if document.get("csf") and not query.matches(query.parse(document["csf"], self._words(document)), item.properties):
            return None
        asks: list[matching.Portion] = []
        watched: frozenset[str] | None = frozenset()
        for info in item.infos:
            portions = matching.narrowed(info, active.selection.selectors, active.watched)
            asks += portions
            for portion in portions:
                watched = None if watched is None or portion.names is None else watched | portion.names
        if not asks:
            return None
        context, link = self.sources.forwarder.context(item, caller)
        copy: Json = {"type": "Subscription", **{key: document[key] for key in _ALIKE if key in document}}
        if all(ask.types or ask.ids or ask.pattern for ask in asks):
            copy["entities"] = [_selector(ask, context) for ask in asks]
        if watched is not None:
            copy["watchedAttributes"] = sorted(map(context.shown, watched))
        elif "entities" not in copy:
            copy["entities"] = [{"type": "*"}]
        if document.get("splitEntities"):
            copy["splitEntities"] = True
        elif pushed:
            copy |= {key: document[key] for key in _FILTERS if key in document}
            if "geoproperty" in copy.get("geoQ", ()):
                stored = self._words(document).stored(copy["geoQ"]["geoproperty"])
                copy["geoQ"] = {**copy["geoQ"], "geoproperty": context.shown(stored)}
        elif "scopeQ" in document:
            copy["scopeQ"] = document["scopeQ"]
        copy["jsonldContext"] = link
        copy["notification"] = {
            "sysAttrs": True, "endpoint": {"uri": self.subscriptions.address(NOTIFIED), "accept": "application/json"},
            **({"showChanges": True} if active.show_changes else {}),
        }
        return copy

    # ---- bringing it about

    async def _begin(self, key: tuple[int, int], wish: Wish) -> None:
        id = f"urn:ngsi-ld:Subscription:distsub-{secrets.token_hex(16)}"
        sql = self.store.sql("INSERT INTO remote_subscriptions (subscription,registration,org,id,source) VALUES (?,?,?,?,?)")
        number = self.store.sql("SELECT no FROM remote_subscriptions WHERE id=?")

        def write(connection: sa.Connection) -> int:
            cursor = self.store.cursor(connection)
            cursor.execute(sql, (*key, wish.org, id, wish.source))
            return int(cursor.execute(number, (id,)).fetchone()[0])

        no = await self.db.write(write)
        await self._tell(Held(no, *key, wish.org, id, wish.source, None, None), wish)

    async def _tell(self, row: Held, wish: Wish) -> None:
        """Create a subscription at a source, or change the one that is there."""
        if not self._is_due(row):
            return
        if row.sent is None:
            outcome = await self._send(wish, "POST", "subscriptions", {"id": row.id, **wish.copy})
            if outcome.status == 409:  # it was created before a crash
                outcome = await self._send(wish, "PATCH", _path(row.id), _changes({}, wish.copy))
        elif wish.registration.offers("updateSubscription") is None:
            await self._end(row)
            return
        else:
            outcome = await self._send(wish, "PATCH", _path(row.id), _changes(row.sent, wish.copy))
            if outcome.status == 404:
                outcome = await self._send(wish, "POST", "subscriptions", {"id": row.id, **wish.copy})
        if outcome.ok:
            self._due.pop(row.no, None)
            await self._write("UPDATE remote_subscriptions SET sent=? WHERE no=?", (dumped(wish.copy), row.no))
        else:
            self._failed(row, outcome)

    async def _end(self, row: Held) -> None:
        """Delete a subscription at a source, and forget it once it is gone there."""
        if row.gone_at is None:
            await self._write("UPDATE remote_subscriptions SET gone_at=? WHERE no=?", (now_us(), row.no))
        elif not self._is_due(row):
            return
        source = orjson.loads(row.source)
        item = compiled(row.registration, source["id"], row.org, orjson.loads(source["doc"]))
        if item.offers("deleteSubscription") is not None:
            caller = Caller({}, self.sources.alias(row.org))
            outcome = await self.sources.forwarder.send(item, caller, "DELETE", _path(row.id))
            silent = outcome.error is not None or outcome.status >= 500 or outcome.status == 429
            if silent and now_us() - (row.gone_at or now_us()) < GIVEN_UP_US:
                self._failed(row, outcome)
                return
        self._due.pop(row.no, None)
        await self._write("DELETE FROM remote_subscriptions WHERE no=?", (row.no,))
        self._changed.set()

    async def _send(self, wish: Wish, method: str, path: str, body: Json) -> Outcome:
        return await self.sources.forwarder.send(wish.registration, wish.caller, method, path, (), body)

    async def _write(self, sql: str, values: tuple[Any, ...]) -> None:
        text = self.store.sql(sql)
        await self.db.write(lambda c: self.store.cursor(c).execute(text, values) and None)

    def _is_due(self, row: Held) -> bool:
        return self._due.get(row.no, (0.0, 0))[0] <= time.monotonic()

    def _failed(self, row: Held, outcome: Outcome) -> None:
        _, failures = self._due.get(row.no, (0.0, 0))
        refused = outcome.error is None and 400 <= outcome.status < 500 and outcome.status != 429
        pause = REFUSED_PAUSE_S if refused else min(2.0 ** min(failures, 20), LONGEST_PAUSE_S)
        self._due[row.no] = (time.monotonic() + pause, failures + 1)
        why = outcome.error.en if outcome.error is not None else f"status {outcome.status}"
        log.warning("subscription %s at the source of registration %s: %s", row.id, outcome.registration.id, why)

    # ---- what sources say

    async def receive(self, raw: Any, context: Context | None) -> None:
        """Take a notification of a source (5.8.6). `context` is that of its names, None for the one it was asked to use.

        Raises `NotFound` for one that belongs to no running subscription, `BadRequestData` for one that is none.
        """
        id = raw.get("subscriptionId") if isinstance(raw, dict) else None
        if not isinstance(id, str) or not isinstance(raw.get("data"), list):
            raise bad("正文应为 Notification", "the body must be a Notification", field="body", rule="CIM 009, 5.3.1")
        doc = "s.doc::text" if self.store.postgres else "s.doc"
        sql = self.store.sql(
            f"SELECT r.subscription,r.registration,r.org,r.source,s.owner,{doc} FROM remote_subscriptions r "
            "JOIN subscriptions s ON s.no=r.subscription WHERE r.id=? AND r.gone_at IS NULL"
        )
        row = await self.db.read(lambda c: self.store.cursor(c).execute(sql, (id,)).fetchone())
        active = self.subscriptions.running(row[0]) if row is not None else None
        if row is None or active is None or not await self.subscriptions.delivery.may(row[4], row[2]):
            raise NotFound(f"没有订阅 {id[:200]}", f"there is no subscription {id[:200]}", field="subscriptionId", value=id)
        source = orjson.loads(row[3])
        item = compiled(row[1], source["id"], row[2], orjson.loads(source["doc"]))
        document = orjson.loads(row[5])
        caller = self._caller(active, document)
        names = context or self.sources.forwarder.context(item, caller)[0]
        told = [self._told(active, item, entity, names) for entity in raw["data"]]
        found = [one for one in told if one is not None]
        if document.get("splitEntities"):
            found = await self._merged(active, row[4], found, caller)
        elif "q" in document and not portable(_texts(document), self._words(document), caller):
            found = [one for one in found if one.deleted or selecting.matches(active.selection, one.change.document)]
        now = now_us()
        written = [(data, one.change.document) for one in found if (data := one.written(active, now)) is not None]
        if written:
            await self.subscriptions.tell(active, [data for data, _ in written], [about for _, about in written], now)

    def _told(self, active: Active, item: Registration, raw: Any, context: Context) -> Told | None:
        """What one entity of a notification says; None where the source may not say it, or nobody asked."""
        try:
            one = told(active.org, raw, context, item)
        except (TulouError, AttributeError, TypeError, KeyError) as error:
            log.warning("a notification of the source of registration %s: %s", item.id, error)
            return None
        if one is None or not selecting.matches(Selection(active.selection.selectors), one.change.document):
            return None
        return one

    async def _merged(self, active: Active, owner: str, found: list[Told], caller: Caller) -> list[Told]:
        """The entities put together with what the house and the other sources have of them, where they satisfy the whole
        of what the subscription asks."""
        actor = await self.subscriptions.delivery.owner(owner)
        if actor is None:
            return []
        kept = []
        for one in found:
            if not one.deleted:
                row = await self.sources.retrieve(
                    actor, one.change.document["id"], caller, tenant=active.org, told=one.piece
                )
                one = one._replace(change=one.change._replace(document=row.document, times=row.times))
                if not selecting.matches(active.selection, row.document):
                    continue
            kept.append(one)
        return kept

    # ---- subscriptions with an interval

    async def selected(self, active: Active, selection: Selection) -> list[Row] | None:
        """The entities that satisfy a subscription, of the house and its sources; None where the house has no sources."""
        if active.org not in self.registrations.active:
            return None
        owned = next(iter(await self._owned("no=?", [active.no])), None)
        if owned is None or owned.document.get("localOnly"):
            return None
        actor = await self.subscriptions.delivery.owner(owned.owner)
        if actor is None:
            return []
        words, caller = self._words(owned.document), self._caller(active, owned.document)
        filters = filters_of({**_texts(owned.document), "splitEntities": bool(owned.document.get("splitEntities"))}, words, caller)
        page = await self.sources.query(actor, selection, caller, filters, tenant=active.org, limit=MAX_UNION)
        return list(page.rows)


class Told(NamedTuple):
    """What a source says of an entity. `gone`: attributes that were deleted, as they were, by stored name."""

    change: Changed
    gone: Mapping[str, list[Json]]
    deleted: bool
    piece: Any

    def written(self, active: Active, now: int) -> Json | None:
        """As the subscriber gets it; None where nothing of it concerns him."""
        return notifications.passed_on(active, self.change, self.gone, now)


def told(org: str, raw: Any, context: Context, item: Registration) -> Told | None:
    """An entity of a notification in stored form, cut to what its source is registered for; None where it is not for the
    entity at all. Raises `BadRequestData`."""
    bare_entity: Json = {}
    before: dict[str, list[Json]] = {}
    gone: dict[str, list[Json]] = {}
    for key, value in raw.items():
        if not isinstance(value, dict | list) or key in forms.ENTITY_MEMBERS:
            bare_entity[key] = value
            continue
        kept = []
        for instance in forms.instances(value):
            kind: str = instance["type"]
            member = forms.VALUE_OF[kind]
            stored = context.stored(key)
            old = {"type": kind, member: _stored(kind, instance.get(PREVIOUS[kind]), context)}
            if "datasetId" in instance:
                old["datasetId"] = instance["datasetId"]
            if instance.get(member) in (forms.NULL, {"@none": forms.NULL}):
                gone.setdefault(stored, []).append(old)
            else:
                kept.append({name: part for name, part in instance.items() if name != PREVIOUS[kind]})
                if PREVIOUS[kind] in instance:
                    before.setdefault(stored, []).append(old)
        if kept:
            bare_entity[key] = kept if isinstance(value, list) else kept[0]
    deleted = "deletedAt" in raw
    names = item.names(raw["id"], [context.stored(name) for name in forms.types_of(raw)])
    if names is None:
        return None
    piece = piece_of(bare_entity, context, item, names)
    if names is not EVERY:
        gone = {name: found for name, found in gone.items() if name in names}
        before = {name: found for name, found in before.items() if name in names}
    document = piece.document
    if deleted:
        document = {**document, **{name: found[0] if len(found) == 1 else found for name, found in gone.items()}}
    changed = {*forms.attributes(piece.document), *gone}
    trigger = "entityDeleted" if deleted else "attributeUpdated"
    return Told(Changed(org, document, changed, trigger, before, piece.times), gone, deleted, piece)


def _stored(kind: str, value: Any, context: Context) -> Any:
    if kind == "VocabProperty" and value is not None:
        return [context.stored(word) for word in value] if isinstance(value, list) else context.stored(value)
    return value


def _texts(document: Json) -> Json:
    """The query texts of a stored document, as parameters of a query."""
    place = document.get("geoQ") or {}
    return {**{key: document[key] for key in ("q", "scopeQ", "expandValues") if key in document}, **place}


def _selector(ask: matching.Portion, context: Context) -> Json:
    selector: Json = {"type": type_text(ask.types, context) or "*"}
    if ask.ids:
        selector["id"] = ask.ids[0] if len(ask.ids) == 1 else list(ask.ids)
    elif ask.pattern:
        selector["idPattern"] = ask.pattern
    return selector


def _path(id: str) -> str:
    return f"subscriptions/{quote(id, safe=':')}"


def _changes(sent: Json, copy: Json) -> Json:
    """The fragment that makes one copy out of another (5.5.8)."""
    gone = dict.fromkeys(sent.keys() - copy.keys(), forms.NULL)
    return {**{key: value for key, value in copy.items() if key != "type" and sent.get(key) != value}, **gone}
