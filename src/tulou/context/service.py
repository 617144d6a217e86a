"""Operations on entities: create, read, query, change, delete, in batches and one by one; and their current state.

Law: every operation takes the actor and asks the policy. An entity of an organisation that the actor may not see does
not exist for him: not in answers, counts, errors or types. A change, and the notifications that it causes, are one
SQL transaction.

The tenant (header `NGSILD-Tenant`) is an organisation's id. It chooses, it never grants: without it a write goes to
the actor's own organisation, and a read covers every organisation that he may see.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.5, 5.6 and 5.7.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import sqlalchemy as sa

from tulou.context import forms, geo, journal, ordering, traces
from tulou.context import selection as selecting
from tulou.context.batch_reader import BatchReader
from tulou.context.columns import MADE, Prepared, Span, dumped, insertion, replacement, times_text
from tulou.context.counts import Counts
from tulou.context.errors import AlreadyExists, NonexistentTenant, TooManyResults, bad
from tulou.context.forms import Change, Json, Reader, entity_id
from tulou.context.journal import Entry, Journal
from tulou.context.jsonld import CORE_URL, DEFAULT_VOCAB, Context, Contexts, house_document
from tulou.context.ordering import Ordering
from tulou.context.paging import MAX_LIMIT, Cursor
from tulou.context.query import Reach
from tulou.context.selection import Selection
from tulou.context.store import Row
from tulou.context.subscriptions import Subscriptions
from tulou.context.value_indexes import ValueIndexes, chunks
from tulou.context.watching import Changed
from tulou.kernel.errors import Invalid, NotFound, TulouError
from tulou.kernel.organisations import Organisations
from tulou.kernel.policy import ROOT, Actor, Orgs, operation, system
from tulou.kernel.sql import TooLong, driver_of

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, CREATE = "context.entity.read", "context.entity.create"
WRITE, DELETE = "context.entity.write", "context.entity.delete"

HOUSE_CONTEXT = "/ngsi-ld/contexts/tulou.jsonld"
QUALITY = {1: "uncertain", 2: "bad"}
BATCH = 10_000
YEAR_9999 = 253_370_764_800_000_000
GEO_CHUNK = 5_000
ANNOUNCED = 5_000
"""Most entities that other engines are told of one by one; beyond it they look at all."""
SHORT = 40_000
"""SQLite instructions (some milliseconds) that a query may run in the event loop's thread."""


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


def no_such_entity(value: str) -> NotFound:
    """The one error for an entity that is not there or must not be known."""
    return NotFound(f"没有实体 {value}", f"there is no entity {value}", field="id", value=value)


@dataclass(slots=True)
class Page:
    """Entities of a page in order of number; cursors of the neighbouring pages; the count where it was asked for."""

    rows: list[Row]
    next: Cursor | None = None
    prev: Cursor | None = None
    count: int | None = None


@dataclass(slots=True)
class BatchResult:
    """What a batch did: ids created, updated or deleted, and the errors by id (clause 5.2.16)."""

    created: list[str]
    updated: list[str]
    errors: list[tuple[str, TulouError]]


class NewEntity(NamedTuple):
    """An entity that an engine needs; `type` is a model's name."""

    org: str
    type: str
    id: str
    name: str
    lon: float | None = None
    lat: float | None = None
    synthetic: bool = False


class Update(NamedTuple):
    """A last value of a property for `ContextService.project`: `text` where the value is no number."""

    no: int
    property: str
    ts: int
    value: float
    text: str | None = None
    quality: int = 0
    origin: int = 0


class ContextService:
    """The operations on entities."""

    def __init__(self, house: House, subscriptions: Subscriptions) -> None:
        self.house = house
        self.db = house.db
        self.policy = house.policy
        self.subscriptions = subscriptions
        self.counts = Counts(house.db, lambda name: self.names.stored(name))
        self.store = self.counts.store
        self.journal = Journal(self.store, notes=house.settings.entity_history)
        self.organisations = house.service(Organisations) if house.has_service(Organisations) else None
        self.document = house_document(house.packs.models, house.packs.org_of)
        self.contexts = Contexts(origins=[house.settings.public_url])
        self.contexts.put(HOUSE_CONTEXT, self.document)
        self.names: Context = self.contexts.get(HOUSE_CONTEXT)
        """The house context: what is used where a client gives none (clause 5.5.5)."""
        self.indexes = ValueIndexes(house, self.store, self.names)
        self.reader = BatchReader()
        self._of_the_house = re.compile("|".join(map(re.escape, namespaces(self.document))) or "(?!)").search
        self._by_id = self.db.point(self.store.by_id)
        self._units: dict[tuple[str, str], tuple[str, str | None, str]] = {}
        self._changed: set[int] = set()
        house.packs.followers.append(self._declared)

    def _declared(self) -> None:
        """Models changed: units of properties are others, and so are the house's names where they have IRIs."""
        self._units.clear()
        document = house_document(self.house.packs.models, self.house.packs.org_of)
        if document != self.document:
            self.document = document
            self.contexts.put(HOUSE_CONTEXT, document)
            fresh = self.contexts.get(HOUSE_CONTEXT)
            self.names.become(fresh.terms)
            self.names.identity = fresh.identity
            self._of_the_house = re.compile("|".join(map(re.escape, namespaces(document))) or "(?!)").search

    def kept_counts(self, connection: sa.Connection, orgs: Orgs) -> dict[str, dict[str, int]]:
        """How many entities of each type there are in each of these organisations, by the counts that are kept."""
        found: dict[str, dict[str, int]] = {}
        for item in self.counts.kept(self.store.cursor(connection), orgs):
            for name in item.types:
                of = found.setdefault(name, {})
                of[item.kind.org] = of.get(item.kind.org, 0) + item.number
        return found

    # ---- who may

    def tenant(self, actor: Actor, tenant: str | None, action: str) -> str:
        """The organisation that a write goes to. Raises `NonexistentTenant` for one he may not see, else as `require`."""
        org = tenant or actor.org
        if tenant is not None or not self.known(org):
            visible = self.policy.require_any(actor, READ)
            if not self.known(org) or (org not in visible and not self.policy.allows(actor, action, org)):
                if tenant is None:
                    raise bad("请用 NGSILD-Tenant 指定机构", "name an organisation with NGSILD-Tenant",
                              field="NGSILD-Tenant", rule="an organisation's id")
                raise no_such_tenant(org)
        self.policy.require(actor, action, org)
        return org

    def of_the_house(self, stored: str) -> bool:
        """Whether a stored name, or the JSON text of a stored document, may hold a name that only the house's context
        shortens: if not, the core context shows it just as well."""
        return self._of_the_house(stored) is not None

    def known(self, org: str) -> bool:
        """Whether the organisation exists."""
        return bool(org) and (self.organisations is None or org in self.organisations.rows)

    def readable(self, actor: Actor, tenant: str | None) -> Orgs:
        """The organisations that a read covers. Raises `NonexistentTenant` for a tenant he may not see."""
        orgs = self.policy.require_any(actor, READ)
        if tenant is None:
            return orgs
        if tenant not in orgs or not self.known(tenant):
            raise no_such_tenant(tenant)
        return orgs.narrow(tenant)

    async def _row(self, actor: Actor, id: str, tenant: str | None, *, only: bool = False) -> Row:
        """The entity that `id` means to this actor: in his tenant, else his own organisation, else the first visible.

        With `only`, several visible ones outside his own organisation are an error, so that nothing is changed by
        chance.
        """
        orgs = self.readable(actor, tenant)
        found = await self._by_id(id)
        if found is None:
            raise no_such_entity(id)
        if found[2] in orgs and (tenant is not None or found[2] == actor.org):
            return Row(*found)
        rows = await self.db.read(
            lambda c: self.store.cursor(c).execute(self.store.sql(self.store.by_id), (id,)).fetchall()
        )
        seen = sorted(Row(*row) for row in rows if row[2] in orgs)
        if not seen:
            raise no_such_entity(id)
        own = next((row for row in seen if row.org == actor.org), None)
        if own is not None:
            return own
        if only and len(seen) > 1:
            raise bad(f"{id} 在多个机构中存在，请用 NGSILD-Tenant 指定", f"{id} exists in several organisations; say which with NGSILD-Tenant",
                      field="NGSILD-Tenant", rule="one organisation")
        return seen[0]

    async def _target(self, actor: Actor, id: str, tenant: str | None, action: str) -> Row:
        """The entity to change, the policy having been asked for `action` in its organisation."""
        row = await self._row(actor, id, tenant, only=True)
        self.policy.require(actor, action, row.org)
        return row

    # ---- reading

    @operation(READ)
    async def retrieve(self, actor: Actor, id: str, *, tenant: str | None = None) -> Row:
        """One entity (5.7.1). Raises `NotFound`."""
        row = await self._row(actor, id, tenant)
        if '"expiresAt"' in row.text and _expired(row):
            raise no_such_entity(id)
        return row

    @operation(READ)
    async def query(
        self, actor: Actor, selection: Selection, *, tenant: str | None = None, limit: int = 20,
        cursor: Cursor | None = None, offset: int = 0, count: bool = False, order: Ordering | None = None,
    ) -> Page:
        """Entities that satisfy `selection` (5.7.2), in order of number: keyset-paged; `limit` 0 only counts.

        With `order` (4.23) they are paged by `offset` alone, and the cursors of the page only say that there is more.
        """
        orgs = self.readable(actor, tenant)
        if not self.store.postgres and selection.geo is None and not count and not offset and order is None:
            # Most queries take less time than handing them to a thread; a longer one is stopped and handed over.
            with contextlib.suppress(TooLong), self.db.brief(SHORT) as own:
                return self._query(own, orgs, selection, limit, cursor, 0, False)
        return await self.db.read(
            lambda c: self._query(driver_of(c), orgs, selection, limit, cursor, offset, count, order)
        )

    def _query(
        self, connection: Any, orgs: Orgs, selection: Selection, limit: int, place: Cursor | None,
        offset: int, count: bool, order: Ordering | None = None,
    ) -> Page:
        """The query on a driver's connection."""
        store = self.store
        if selecting.needs_regexp(selection):
            store.with_regexp(connection)
        cursor = connection.cursor()
        if store.postgres:
            cursor.execute("SET LOCAL statement_timeout = '30s'")
        table = selection.table
        several = cursor.execute(f"SELECT 1 FROM {table} WHERE types IS NOT NULL LIMIT 1").fetchone() is not None
        reach = self._reach(orgs, selection)
        condition, parameters = selecting.compile_selection(selection, store, several, self.names.shown, reach)
        condition, parameters = self.within(orgs, condition, parameters)
        total = self.counts.of(cursor, orgs, selection) if count else None
        if order is not None:
            return self._query_ordered(cursor, selection, condition, parameters, limit, offset, count, order, total)
        if selection.geo is not None:
            return self._query_places(cursor, selection, condition, parameters, limit, place, offset, count)
        proposed = self.indexes.propose(cursor, selection.q) if selection.snapshot is None else None
        if proposed is not None:
            return self._query_proposed(cursor, proposed, condition, parameters, limit, place, offset, count)
        if count and total is None:
            total = cursor.execute(store.sql(f"SELECT count(*) FROM {table} e WHERE {condition}"), parameters).fetchone()[0]
        if limit == 0:
            return Page([], count=total)
        forward = place is None or place.forward
        keyed, own = condition, list(parameters)
        if place is not None:
            keyed += " AND e.no > ?" if forward else " AND e.no < ?"
            own.append(place.no)
        sql = f"SELECT {store.columns} FROM {table} e WHERE {keyed} ORDER BY e.no {'' if forward else 'DESC'} LIMIT ?"
        own.append(limit + 1)
        if offset and place is None:
            sql += " OFFSET ?"
            own.append(offset)
        found = [Row(*row) for row in cursor.execute(store.sql(sql), own).fetchall()]
        return page_of(found, limit, place, offset, total)

    def _query_proposed(
        self, cursor: Any, proposed: Sequence[int], condition: str, parameters: list[Any], limit: int,
        place: Cursor | None, offset: int, count: bool,
    ) -> Page:
        """The query among the entities that an index proposes, ascending."""
        store = self.store
        total = None
        if count:
            total = 0
            for part in chunks(proposed, GEO_CHUNK):
                among, own = store.among("e.no", part)
                sql = f"SELECT count(*) FROM entities e WHERE {among} AND {condition}"
                total += cursor.execute(store.sql(sql), [*own, *parameters]).fetchone()[0]
        if limit == 0:
            return Page([], count=total)
        forward = place is None or place.forward
        if place is not None:
            at = bisect_right(proposed, place.no) if forward else bisect_left(proposed, place.no)
            proposed = proposed[at:] if forward else proposed[:at][::-1]
        skipped = offset if place is None else 0
        wanted = skipped + limit + 1
        found: list[Row] = []
        for part in chunks(proposed, 10 * wanted):
            among, own = store.among("e.no", part)
            sql = f"SELECT {store.columns} FROM entities e WHERE {among} AND {condition} ORDER BY e.no {'' if forward else 'DESC'} LIMIT ?"
            rows = cursor.execute(store.sql(sql), [*own, *parameters, wanted - len(found)]).fetchall()
            found += [Row(*row) for row in rows]
            if len(found) == wanted:
                break
        return page_of(found[skipped:], limit, place, offset, total)

    def selected(self, connection: sa.Connection, org: str, selection: Selection, limit: int) -> list[Row]:
        """The first `limit` entities of one organisation that satisfy `selection`; for the house itself."""
        return self.satisfying(driver_of(connection), org, selection, limit)

    def satisfying(self, connection: Any, org: str, selection: Selection, limit: int) -> list[Row]:
        """As `selected`, on a driver's connection."""
        return self._query(connection, Orgs(False, frozenset({org})), selection, limit, None, 0, False).rows

    def _reach(self, orgs: Orgs, selection: Selection) -> Reach:
        """What links in `q` may lead to: entities that the actor may see, of the same state."""
        condition, parameters = "({e}.expires_at IS NULL OR {e}.expires_at > ?)", [now_us()]
        if selection.snapshot is not None:
            condition, parameters = condition + " AND {e}.snapshot=?", [*parameters, selection.snapshot]
        if not orgs.all:
            sql, own = self.store.among("{e}.org", sorted(orgs.ids))
            condition, parameters = f"{condition} AND {sql}", [*parameters, *own]
        return Reach(condition, tuple(parameters), selection.table)

    def _query_ordered(
        self, cursor: Any, selection: Selection, condition: str, parameters: list[Any], limit: int, offset: int,
        count: bool, order: Ordering, total: int | None,
    ) -> Page:
        """The query in an order asked for (4.23): sorted in SQL, or here where distances, collations or an exact test
        of places need it; `total` where it is known. Raises `TooManyResults` for more candidates than are sorted by what
        documents hold."""
        store, dialect, table = self.store, "postgresql" if self.store.postgres else "sqlite", selection.table
        most = order.most
        if total is None and selection.geo is None and (count or not order.by_columns):
            bounded = "" if count else f" LIMIT {most + 1}"
            sql = f"SELECT count(*) FROM (SELECT 1 FROM {table} e WHERE {condition}{bounded}) c"
            total = cursor.execute(store.sql(sql), parameters).fetchone()[0]
        hits: set[int] | None = None
        if selection.geo is not None:
            hits = {no for no, hit in self._candidates(cursor, selection, condition, parameters, None) if hit}
            total = len(hits)
        if total is not None and total > most and not order.by_columns:
            raise TooManyResults(
                f"超过 {most} 个实体，无法按此排序；请缩小查询范围",
                f"more than {most} entities cannot be sorted by this; narrow the query", field="orderBy",
                rule=f"<= {most}",
            )
        if limit == 0:
            return Page([], count=total)
        columns, own = ordering.columns(order, dialect)
        sql = f"SELECT e.no AS no, {columns} FROM {table} e WHERE {condition}"
        if hits is None and order.in_sql:
            sql = f"SELECT o.no FROM ({sql}) o ORDER BY {ordering.order(order, dialect)} LIMIT ? OFFSET ?"
            chosen = [
                row[0] for row in cursor.execute(store.sql(sql), [*own, *parameters, limit + 1, offset]).fetchall()
            ]
        else:
            rows = cursor.execute(store.sql(f"{sql} ORDER BY e.no"), [*own, *parameters]).fetchall()
            ranked = ordering.ranked(order, [row for row in rows if hits is None or row[0] in hits], dialect)
            chosen = ranked[offset : offset + limit + 1]
        found = store.by_no(cursor, chosen[:limit], table)
        page = [found[no] for no in chosen[:limit] if no in found]
        more, less = len(chosen) > limit, bool(page) and offset > 0
        return Page(page, Cursor(chosen[-1]) if more else None, Cursor(chosen[0], False) if less else None,
                    total if count else None)

    def numbers(self, connection: sa.Connection, orgs: Orgs, selection: Selection, limit: int) -> list[int]:
        """Numbers of the first `limit` entities that `selection` selects among these organisations, without documents."""
        driver = driver_of(connection)
        if selecting.needs_regexp(selection):
            self.store.with_regexp(driver)
        condition, parameters = selecting.compile_selection(
            selection, self.store, True, self.names.shown, self._reach(orgs, selection)
        )
        condition, parameters = self.within(orgs, condition, parameters)
        cursor = driver.cursor()
        if selection.geo is not None:
            candidates = self._candidates(cursor, selection, condition, parameters, None)
            return list(itertools.islice((no for no, hit in candidates if hit), limit))
        sql = f"SELECT e.no FROM {selection.table} e WHERE {condition} ORDER BY e.no LIMIT ?"
        return [row[0] for row in cursor.execute(self.store.sql(sql), [*parameters, limit]).fetchall()]

    def within(self, orgs: Orgs, condition: str, parameters: list[Any]) -> tuple[str, list[Any]]:
        """A condition over `entities e`, narrowed to what is not expired and of these organisations."""
        condition += " AND (e.expires_at IS NULL OR e.expires_at > ?)"
        parameters = [*parameters, now_us()]
        if orgs.all:
            return condition, parameters
        if len(orgs.ids) == 1:
            return "e.org=? AND " + condition, [*orgs.ids, *parameters]
        sql, own = self.store.among("e.org" if self.store.postgres else "+e.org", sorted(orgs.ids))
        return f"{sql} AND {condition}", [*own, *parameters]

    def _query_places(
        self, cursor: Any, selection: Selection, condition: str, parameters: list[Any], limit: int,
        place: Cursor | None, offset: int, count: bool,
    ) -> Page:
        """The query with an exact test of places: candidates by bounding box, then geometry in chunks."""
        forward = place is None or place.forward
        wanted = limit + 1 + offset
        chosen: list[int] = []
        total = 0
        after = place.no if place is not None else None
        for no, hit in self._candidates(cursor, selection, condition, parameters, None if count else place):
            if not hit:
                continue
            total += 1
            beyond = after is None or (no > after if forward else no < after)
            if beyond and (forward or not count):
                if len(chosen) < wanted:
                    chosen.append(no)
                elif not count:
                    break
            elif beyond:
                chosen.append(no)
        if count and not forward:
            chosen = chosen[-wanted:][::-1]
        chosen = chosen[offset:] if place is None else chosen
        rows = self.store.by_no(cursor, chosen[: limit + 1], selection.table) if limit else {}
        found = [rows[no] for no in chosen if no in rows]
        return page_of(found, limit, place, offset, total if count else None)

    def _candidates(
        self, cursor: Any, selection: Selection, condition: str, parameters: list[Any], place: Cursor | None
    ) -> Iterator[tuple[int, bool]]:
        """(no, matches) of the candidates of a geoquery in order."""
        wanted = selection.geo
        assert wanted is not None
        store = self.store
        forward = place is None or place.forward
        at = place.no if place is not None else (0 if forward else 1 << 62)
        by_column = wanted.geoproperty == "location"
        if by_column:
            shape = "CASE WHEN e.west IS NULL THEN NULL ELSE e.doc" + ("::text END" if store.postgres else " END")
        else:
            shape = "e.doc::text" if store.postgres else "e.doc"
        if by_column and wanted.box is not None and selection.snapshot is None:
            near = store.near(cursor, wanted.box, GEO_CHUNK)
            if near is not None:
                among, own = store.among("e.no", near)
                condition, parameters = f"{among} AND {condition}", [*own, *parameters]
        sql = store.sql(
            f"SELECT e.no,e.lon,e.lat,{shape} FROM {selection.table} e WHERE {condition} AND e.no {'>' if forward else '<'} ? "
            f"ORDER BY e.no {'' if forward else 'DESC'} LIMIT {GEO_CHUNK}"
        )
        while True:
            rows = cursor.execute(sql, [*parameters, at]).fetchall()
            points = [i for i, row in enumerate(rows) if row[3] is None]
            hits = [False] * len(rows)
            if points:
                found = wanted.match_points([rows[i][1] for i in points], [rows[i][2] for i in points])
                for i, hit in zip(points, found, strict=True):
                    hits[i] = hit
            for i, row in enumerate(rows):
                if row[3] is not None:
                    hits[i] = selecting.geo_matches(wanted, orjson.loads(row[3]))
            for row, hit in zip(rows, hits, strict=True):
                yield row[0], hit
            if len(rows) < GEO_CHUNK:
                return
            at = rows[-1][0]

    @operation(READ)
    async def types(self, actor: Actor, *, tenant: str | None = None) -> dict[str, int]:
        """Stored type names with how many entities have each (5.7.5)."""
        orgs = self.readable(actor, tenant)

        return await self.db.read(lambda c: self.counts.types(self.store.cursor(c), orgs))

    @operation(READ)
    async def attributes(
        self, actor: Actor, *, tenant: str | None = None, type: str | None = None
    ) -> dict[str, dict[str, Any]]:
        """Stored attribute names: `{count, types: {entity types}, kinds: {attribute types}}` (5.7.8, 5.7.10); of many
        entities a sample (`counts.DESCRIBED`)."""
        orgs = self.readable(actor, tenant)
        return await self.db.read(lambda c: self.counts.attributes(self.store.cursor(c), orgs, type))

    @operation("context.entity.manage")
    async def recount(self, actor: Actor) -> int:
        """Make the counts of entities anew, of the whole house; returns how many kinds (organisation, types) there are."""
        self.policy.require(actor, "context.entity.manage", ROOT)
        return await self.counts.recount()

    # ---- writing, one by one

    @operation(CREATE)
    async def create(self, actor: Actor, document: Json, *, tenant: str | None = None) -> str:
        """Create an entity from its stored form (5.6.1). Returns its id. Raises `AlreadyExists`."""
        org = self.tenant(actor, tenant, CREATE)
        now = now_us()
        row = self._insertion(document, org, now)

        def write(connection: sa.Connection) -> int | None:
            cursor = self.store.cursor(connection)
            old = self.store.get(cursor, document["id"], org)
            if old is not None and not _expired(old):
                return None
            if old is not None:
                self.store.delete(cursor, [old.no])
            self.store.insert(cursor, [row])
            no = self.store.numbers(cursor, [document["id"]], org)[document["id"]]
            self.journal.written(cursor, no, row[2], now, row[5])
            self.subscriptions.queue(cursor, [Changed(org, document, None, "entityCreated")], now)
            traces.changed(self.db, actor, CREATE, org, document["id"])
            return no

        no = await self.db.write(write)
        if no is None:
            raise already_exists(document["id"])
        self.touched([no])
        id: str = document["id"]
        return id

    async def _change(
        self, actor: Actor, id: str, tenant: str | None, change: Callable[[Json, Json, int], Change],
        action: str = WRITE, *, whole: bool = False,
    ) -> Change:
        """Run `change(document, times, now)` on the entity in a write; it says what it changed, or makes it anew."""
        target = await self._target(actor, id, tenant, action)
        org, now = target.org, now_us()

        def write(connection: sa.Connection) -> tuple[Change, bool, int] | TulouError:
            cursor = self.store.cursor(connection)
            row = self.store.get(cursor, id, org)
            if row is None or _expired(row):
                return no_such_entity(id)
            document, times = row.alive(), row.times
            before = dict(document)
            try:
                done = change(document, times, now)
                if row.synthetic:
                    keep_synthetic(document)
                text = _checked_text(document)
            except TulouError as error:
                return error  # raised here it would make the writer run its whole group again
            if not done.updated:
                return done, False, row.no
            heavy = self.rewrite(cursor, row, before, document, text, times, now)
            if whole:
                self.journal.written(cursor, row.no, row.type, now, text)
            else:
                self.journal.change(cursor, row, before, document, done.updated, now)
            changed = Changed(org, document, set(done.updated), "entityUpdated", before, times)
            self.subscriptions.queue(cursor, [changed], now)
            traces.changed(self.db, actor, action, org, id, done.updated)
            return done, heavy, row.no

        outcome = await self.db.write(write)
        if isinstance(outcome, TulouError):
            raise outcome
        done, heavy, no = outcome
        self.touched([no] if heavy else [])
        return done

    def rewrite(
        self, cursor: Any, row: Row, before: Json, document: Json, text: str, times: Json, now: int
    ) -> bool:
        """Store a changed document; True where columns beside it may have changed too."""
        heavy = any(
            before.get(key) is not document.get(key) for key in ("type", "name", "location", "synthetic", "expiresAt")
        )
        if heavy:
            self.store.update(cursor, [self._replacement(row.no, document, times, now)])
        else:
            self.store.update_values(cursor, [(text, times_text(times), now, row.no)])
        return heavy

    def _insertion(self, document: Json, org: str, now: int) -> tuple[Any, ...]:
        try:
            return insertion(document, org, now, self.names.shown)
        except TypeError as error:
            raise _unwritable(error) from None

    def _replacement(self, no: int, document: Json, times: Json, now: int) -> tuple[Any, ...]:
        try:
            return replacement(no, document, times, now, self.names.shown)
        except TypeError as error:
            raise _unwritable(error) from None

    @operation(WRITE)
    async def append(
        self, actor: Actor, id: str, fragment: Json, *, tenant: str | None = None, overwrite: bool = True
    ) -> Change:
        """Append attributes (5.6.3)."""
        return await self._change(
            actor, id, tenant, lambda d, t, now: forms.append(d, t, fragment, now, overwrite=overwrite)
        )

    @operation(WRITE)
    async def update(self, actor: Actor, id: str, fragment: Json, *, tenant: str | None = None) -> Change:
        """Update attributes (5.6.2)."""
        return await self._change(actor, id, tenant, lambda d, t, now: forms.update(d, t, fragment, now))

    @operation(WRITE)
    async def merge(
        self, actor: Actor, id: str, fragment: Json, *, tenant: str | None = None, observed_at: str | None = None
    ) -> Change:
        """Merge an entity (5.6.17)."""
        return await self._change(
            actor, id, tenant, lambda d, t, now: forms.merge(d, t, fragment, now, observed_at=observed_at)
        )

    @operation(WRITE)
    async def replace(self, actor: Actor, id: str, document: Json, *, tenant: str | None = None) -> None:
        """Replace an entity (5.6.18); its types may not shrink."""
        def change(old: Json, times: Json, now: int) -> Change:
            if document.get("id", id) != id:
                raise bad("正文中的 id 与地址不同", "the id in the body is not the one in the address",
                          field="id", value=document["id"], rule="same id")
            fresh = {"id": id, "type": old["type"], **document}
            kept = set(forms.types_of(old)) - set(forms.types_of(fresh))
            if kept:
                raise bad("不可去掉实体的类型", "an entity's types cannot be taken away", field="type", value=sorted(kept))
            names = [*forms.attributes(old), *forms.attributes(fresh)]
            old.clear()
            old.update(fresh)
            entity_times = times["@"]
            times.clear()
            times.update({"@": entity_times, "*": [now, now]})
            return Change(list(dict.fromkeys(["type", *names])), [])

        await self._change(actor, id, tenant, change, whole=True)

    @operation(WRITE)
    async def update_attribute(
        self, actor: Actor, id: str, name: str, read: Callable[[Json], Json], *, tenant: str | None = None,
        replace: bool = False,
    ) -> None:
        """Partial update (5.6.4) or replacement (5.6.19) of an attribute instance.

        `name` is stored; `read(known)` gives the fragment in stored form for what is there. Raises `NotFound`.
        """
        def change(document: Json, times: Json, now: int) -> Change:
            if name not in document:
                raise no_such_attribute(name)
            default = forms.default_instance(document[name])
            assert default is not None
            patch = read(default)
            known = forms.find_instance(document[name], patch.get("datasetId"))
            if known is None:
                raise no_such_attribute(name)
            if forms.is_null(patch):
                forms.drop_instance(document, name, patch.get("datasetId"))
                return Change([name], [])
            if not replace and known["type"] != patch["type"]:
                raise bad(f"{name} 的类别是 {known['type']}", f"{name} is a {known['type']}", field=f"{name}.type",
                          value=patch["type"], rule="same attribute type")
            fresh = patch if replace else forms.merge_instance(known, patch, deep=False)
            single = Change([name], [])
            forms.append(document, times, {name: fresh}, now)
            return single

        await self._change(actor, id, tenant, change)

    @operation(DELETE)
    async def delete_attribute(
        self, actor: Actor, id: str, name: str, *, tenant: str | None = None, dataset: str | None = None,
        all_instances: bool = False,
    ) -> None:
        """Delete an attribute or one instance of it (5.6.5). `name` is stored. Raises `NotFound`."""
        def change(document: Json, times: Json, now: int) -> Change:
            if name not in document or name in forms.ENTITY_MEMBERS - {"scope"}:
                raise no_such_attribute(name)
            if all_instances or name == "scope":
                del document[name]
            elif not forms.drop_instance(document, name, dataset):
                raise no_such_attribute(name)
            return Change([name], [])

        await self._change(actor, id, tenant, change, DELETE)

    @operation(DELETE)
    async def delete(self, actor: Actor, id: str, *, tenant: str | None = None) -> None:
        """Delete an entity (5.6.6). Raises `NotFound`."""
        row = await self._target(actor, id, tenant, DELETE)
        await self._delete(actor, row.org, [id], "delete")

    @operation(DELETE)
    async def purge(self, actor: Actor, selection: Selection, *, tenant: str | None = None) -> int:
        """Delete every entity of one organisation that `selection` selects (5.6.21); returns how many."""
        org = self.tenant(actor, tenant, DELETE)
        count, place = 0, None
        own = Orgs(False, frozenset({org}))
        while True:
            page = await self.db.read(
                lambda c, place=place: self._query(driver_of(c), own, selection, MAX_LIMIT, place, 0, False)  # type: ignore[misc]
            )
            if page.rows:
                with contextlib.suppress(NotFound):
                    count += len(await self._delete(actor, org, [row.id for row in page.rows], "purge"))
            if page.next is None:
                return count
            place = page.next

    @operation(DELETE)
    async def purge_attributes(
        self, actor: Actor, selection: Selection, *, tenant: str | None = None, keep: frozenset[str] | None = None,
        drop: frozenset[str] | None = None,
    ) -> int:
        """Delete the attributes `drop`, or all but `keep`, of every entity that `selection` selects in one organisation
        (5.6.21); returns how many entities lost any. Names are stored ones. One transaction a thousand entities."""
        org = self.tenant(actor, tenant, DELETE)
        count, place = 0, None
        own = Orgs(False, frozenset({org}))

        def strip(ids: Sequence[str], connection: sa.Connection) -> list[int]:
            cursor, now = self.store.cursor(connection), now_us()
            changes: list[Changed] = []
            heavy: list[int] = []
            for row in self.store.get_many(cursor, ids, org).values():
                document, times = row.document, row.times
                before = dict(document)
                names = set(forms.attributes(document))
                gone = names & drop if drop is not None else names - (keep or frozenset())
                for name in gone:
                    del document[name]
                if row.synthetic:
                    keep_synthetic(document)
                if document == before:
                    continue
                if self.rewrite(cursor, row, before, document, dumped(document), times, now):
                    heavy.append(row.no)
                self.journal.change(cursor, row, before, document, list(gone), now)
                changes.append(Changed(org, document, gone, "entityUpdated", before))
            self.subscriptions.queue(cursor, changes, now)
            ids = [change.document["id"] for change in changes]
            traces.batch(self.db, actor, DELETE, org, "purge attributes", updated=ids)
            return [len(changes), *heavy]

        while True:
            page = await self.db.read(
                lambda c, place=place: self._query(driver_of(c), own, selection, MAX_LIMIT, place, 0, False)  # type: ignore[misc]
            )
            if page.rows:
                changed, *heavy = await self.db.write(partial(strip, [row.id for row in page.rows]))
                count += changed
                self.touched(heavy)
            if page.next is None:
                return count
            place = page.next

    async def _delete(self, actor: Actor, org: str, ids: Sequence[str], operation: str) -> list[str]:
        now = now_us()

        def write(connection: sa.Connection) -> list[tuple[str, int]]:
            cursor = self.store.cursor(connection)
            rows = self.store.get_many(cursor, ids, org)
            self.store.delete(cursor, [row.no for row in rows.values()])
            if self.subscriptions.watches(org):
                gone = [Changed(org, row.document, None, "entityDeleted", None, row.times) for row in rows.values()]
                self.subscriptions.queue(cursor, gone, now)
            traces.batch(self.db, actor, DELETE, org, operation, deleted=list(rows))
            return [(row.id, row.no) for row in rows.values()]

        gone = await self.db.write(write)
        if not gone and len(ids) == 1:
            raise no_such_entity(ids[0])
        self.touched([no for _, no in gone])
        return [id for id, _ in gone]

    # ---- writing, in batches

    def read_batch(self, raw: Any, read: Callable[[Any], Json]) -> tuple[list[Json], list[tuple[str, TulouError]]]:
        """Read each entity of a batch; what cannot be read becomes an error of its own.

        Raises `BadRequestData` for a batch that is no array, is empty or is too long.
        """
        if not isinstance(raw, list) or not raw:
            raise bad("批量操作的正文应为非空数组", "a batch must be a non-empty array", field="body", rule="CIM 009, 5.5.11")
        if len(raw) > BATCH:
            raise bad(f"一批最多 {BATCH} 个实体", f"at most {BATCH} entities in a batch", field="body", rule=f"<= {BATCH}")
        if None in raw:
            raise bad("批量操作的数组中不可有 null", "a batch must not contain null", field="body", rule="CIM 009, 5.5.4")
        documents: list[Json] = []
        errors: list[tuple[str, TulouError]] = []
        for item in raw:
            try:
                documents.append(read(item))
            except TulouError as error:
                id = item.get("id") if isinstance(item, dict) else None
                errors.append((str(id)[:2048] if id is not None else "", error))
        return documents, errors

    @operation(CREATE)
    async def read_ahead(
        self, actor: Actor, data: bytes, context: Context, *, tenant: str | None = None
    ) -> list[Prepared] | None:
        """A batch of whole entities, read in a process beside this one; None where it is to be read here."""
        org = self.tenant(actor, tenant, CREATE)
        found = await self.reader.read(data, context, self.names, org, now_us())
        return found if found and len(found) <= BATCH else None

    @operation(CREATE)
    async def create_many(
        self, actor: Actor, documents: Sequence[Json | Prepared], *, tenant: str | None = None
    ) -> BatchResult:
        """Create entities (5.6.7): of one id the first is created, the others are errors."""
        return await self._batch(actor, documents, tenant, "create")

    @operation(CREATE)
    async def upsert_many(
        self, actor: Actor, documents: Sequence[Json | Prepared], *, tenant: str | None = None, update: bool = False
    ) -> BatchResult:
        """Create entities or replace (with `update`: append to) those that exist (5.6.8)."""
        return await self._batch(actor, documents, tenant, "update" if update else "replace")

    @operation(WRITE)
    async def update_many(
        self, actor: Actor, documents: Sequence[Json | Prepared], *, tenant: str | None = None, overwrite: bool = True
    ) -> BatchResult:
        """Append to entities that exist (5.6.9)."""
        return await self._batch(actor, documents, tenant, "append" if overwrite else "append-new")

    @operation(WRITE)
    async def merge_many(
        self, actor: Actor, documents: Sequence[Json | Prepared], *, tenant: str | None = None
    ) -> BatchResult:
        """Merge entities that exist (5.6.20)."""
        return await self._batch(actor, documents, tenant, "merge")

    @operation(DELETE)
    async def delete_many(self, actor: Actor, ids: Sequence[Any], *, tenant: str | None = None) -> BatchResult:
        """Delete entities by id (5.6.10)."""
        org = self.tenant(actor, tenant, DELETE)
        checked: list[str] = []
        errors: list[tuple[str, TulouError]] = []
        for item in ids:
            try:
                checked.append(entity_id(item))
            except TulouError as error:
                errors.append((str(item), error))
        gone: list[str] = []
        with contextlib.suppress(NotFound):
            gone = await self._delete(actor, org, list(dict.fromkeys(checked)), "batch delete") if checked else []
        left = set(gone)
        for id in checked:  # in order (5.5.11): what is named twice is gone the second time
            if id in left:
                left.discard(id)
            else:
                errors.append((id, no_such_entity(id)))
        return BatchResult([], gone, errors)

    async def _batch(
        self, actor: Actor, documents: Sequence[Json | Prepared], tenant: str | None, mode: str
    ) -> BatchResult:
        creates = mode in ("create", "replace", "update")
        org = self.tenant(actor, tenant, CREATE if creates else WRITE)
        if mode in ("replace", "update"):
            self.policy.require(actor, WRITE, org)
        read = next((item.row for item in documents if isinstance(item, Prepared)), None)
        now = now_us() if read is None else read[MADE]
        errors: list[tuple[str, TulouError]] = []
        prepared: list[Prepared] = []
        for document in documents:
            if isinstance(document, Prepared):
                prepared.append(document)
                continue
            try:
                if creates and "type" in document:
                    prepared.append(Prepared(self._insertion(document, org, now), document))
                else:
                    _checked_text(document)
                    prepared.append(Prepared(None, document))
            except TulouError as error:
                errors.append((document["id"], error))

        def write(connection: sa.Connection) -> tuple[list[str], list[str], list[tuple[str, TulouError]], list[int]]:
            done = self._write_batch(self.store.cursor(connection), org, prepared, mode, now)
            traces.batch(self.db, actor, CREATE if creates else WRITE, org, f"batch {mode}", created=done[0], updated=done[1])
            return done

        created, updated, refused, touched = await self.db.write(write)
        self.touched(touched)
        return BatchResult(created, updated, errors + refused)

    def _write_batch(
        self, cursor: Any, org: str, prepared: Sequence[Prepared], mode: str, now: int
    ) -> tuple[list[str], list[str], list[tuple[str, TulouError]], list[int]]:
        watched = self.subscriptions.watches(org)
        fresh_times = dumped({"*": [now, now]})
        updated: list[str] = []
        ids = [item.id for item in prepared]
        rows: dict[str, Row]
        places: dict[str, list[Any]] = {}
        if mode == "create" or (mode == "replace" and not watched):
            rows, places = self._present(cursor, org, ids)
        else:
            rows = self.store.get_many(cursor, ids, org)
        created: list[str] = []
        renamed: set[int] = set()
        refused: list[tuple[str, TulouError]] = []
        changes: list[Changed] = []
        fresh: dict[str, Prepared] = {}
        replaced: dict[str, tuple[Any, ...]] = {}
        in_place: dict[str, tuple[Any, ...]] = {}
        state: dict[str, tuple[Json, Json, Json]] = {}
        anew: dict[str, tuple[int, str, str, Span | None]] = {}
        entries: list[Entry] = []
        parts: dict[str, int] = {}
        for item in prepared:
            id, inserting = item.id, item.row
            row = rows.get(id)
            if row is None and id not in fresh:
                if inserting is None:
                    refused.append((id, _no_type() if mode in ("replace", "update", "create") else no_such_entity(id)))
                    continue
                fresh[id] = item
                created.append(id)
                continue
            if mode == "create":
                refused.append((id, already_exists(id)))
                continue
            if row is None:
                before = fresh[id].document
                merged = dict(item.document) if mode == "replace" else dict(before)
                if mode == "replace":
                    merged.setdefault("type", before["type"])
                else:
                    forms.append(merged, {"@": [now, now]}, item.document, now)
                fresh[id] = Prepared(self._insertion(merged, org, now), merged)
                continue
            try:
                if mode == "replace":
                    if inserting is None:
                        raise _no_type()
                    times = {"@": [row.created_at, now], "*": [now, now]}
                    if row.synthetic and not inserting[7]:
                        keep_synthetic(item.document)
                        replaced[id] = self._replacement(row.no, item.document, times, now)
                        in_place.pop(id, None)
                        anew[id] = (row.no, *replaced[id][:4:3], None)
                    else:
                        if id in places and places[id][1:] == [*inserting[2:4], *inserting[8:14], inserting[16]]:
                            if places[id][0] != inserting[4] or row.synthetic != inserting[7]:
                                renamed.add(row.no)
                            in_place[id] = (*inserting[4:6], fresh_times, inserting[7], now, row.no)
                            replaced.pop(id, None)
                        else:
                            replaced[id] = (*inserting[2:6], fresh_times, *inserting[7:14], now, inserting[16], row.no)
                            in_place.pop(id, None)
                            places.pop(id, None)
                        anew[id] = (row.no, inserting[2], inserting[5], item.observed)
                    if watched:
                        before, after = orjson.loads(row.text), item.document
                        names = {*forms.attributes(before), *forms.attributes(after)}
                else:
                    before, after, times = state.get(id) or (row.document, row.alive(), row.times)
                    work, work_times = dict(after), dict(times)
                    if mode == "merge":
                        done = forms.merge(work, work_times, item.document, now)
                    else:
                        done = forms.append(work, work_times, item.document, now, overwrite=mode != "append-new")
                    if row.synthetic:
                        keep_synthetic(work)
                    replaced[id] = self._replacement(row.no, work, work_times, now)
                    at = now + parts.get(id, 0)
                    fragment = journal.changes(after, work, done.updated, at) if self.journal.notes else None
                    if fragment:
                        parts[id] = parts.get(id, 0) + 1
                        entries.append(journal.entry(row.no, row.type, at, fragment))
                    after, times, names = work, work_times, set(done.updated)
                    state[id] = (before, after, times)
                    if done.unchanged:
                        refused.append((id, AlreadyExists(
                            "部分属性已存在", "some attributes exist and were not overwritten", field="attributes",
                            value=", ".join(self.names.shown(name) for name, _ in done.unchanged),
                        )))
            except TulouError as error:
                refused.append((id, error))
                continue
            if id not in updated[-1:]:
                updated.append(id)
            if watched:
                changes.append(Changed(org, after, names, "entityUpdated", before, times))
        self.store.insert(cursor, [item.row for item in fresh.values() if item.row is not None])
        self.store.update(cursor, list(replaced.values()))
        self.store.update_in_place(cursor, list(in_place.values()))
        if watched:
            changes = [Changed(org, item.document, None, "entityCreated") for item in fresh.values()] + changes
            self.subscriptions.queue(cursor, changes, now)
        touched = [row[-1] for row in replaced.values()] + sorted(renamed)
        numbers = self.store.numbers(cursor, created, org)
        if self.journal.notes:
            anew.update(
                (id, (numbers[id], item.row[2], item.row[5], item.observed)) for id, item in fresh.items() if item.row is not None
            )
            entries += [journal.whole(no, type, now, text, observed) for no, type, text, observed in anew.values()]
            self.journal.add(cursor, entries)
        if len(created) <= ANNOUNCED:
            touched += numbers.values()
        else:
            touched.append(0)
        return created, list(dict.fromkeys(updated)), refused, touched

    def _present(
        self, cursor: Any, org: str, ids: list[str]
    ) -> tuple[dict[str, Row], dict[str, list[Any]]]:
        """Which of these exist, without their documents; and their name, and what their indexed columns hold."""
        found: dict[str, Row] = {}
        places: dict[str, list[Any]] = {}
        types = "e.types::text" if self.store.postgres else "e.types"
        for at in range(0, len(ids), 500):
            condition, parameters = self.store.among("e.id", ids[at : at + 500])
            sql = (
                f"SELECT e.no,e.id,e.synthetic,e.created_at,e.name,e.type,{types},e.lon,e.lat,e.west,e.south,e.east,e.north,"
                f"e.expires_at FROM entities e WHERE {condition} AND e.org=?"
            )
            for no, id, synthetic, created, *place in cursor.execute(self.store.sql(sql), (*parameters, org)).fetchall():
                found[id] = Row(no, id, org, place[1], "{}", None, synthetic, created, created, 0)
                places[id] = place
        return found, places

    # ---- for the other engines

    async def ensure_entity(
        self, org: str, type: str, id: str, name: str, lon: float | None = None, lat: float | None = None,
        synthetic: bool = False,
    ) -> int:
        """As `ensure_entities`, of one. Raises `BadRequestData` if its id or place is bad."""
        (no,) = await self.ensure_entities([NewEntity(org, type, id, name, lon, lat, synthetic)])
        if isinstance(no, TulouError):
            raise no
        return no

    async def ensure_entities(self, news: Sequence[NewEntity]) -> list[int | TulouError]:
        """The numbers of entities, made first where they are new, in one transaction; an error for one whose id or
        place is bad. For engines that have asked the policy themselves. Of one that exists nothing is changed."""
        numbers, made = await self.db.write(self.ensuring(news))
        self.touched(list(made))
        return numbers

    def ensuring(self, news: Sequence[NewEntity]) -> Callable[[sa.Connection], tuple[list[int | TulouError], set[int]]]:
        """As `ensure_entities`, for a write of the engine's own: what to call there, which gives the numbers of all and
        those of which were made. After the commit the engine calls `touched`, with those that it does not tell of itself."""
        now = now_us()
        refused: dict[int, TulouError] = {}
        rows: dict[str, dict[str, tuple[Json, tuple[Any, ...]]]] = {}
        for at, new in enumerate(news):
            own = rows.setdefault(new.org, {})
            try:
                if new.id not in own:
                    document = self._first_document(new)
                    own[new.id] = document, self._insertion(document, new.org, now)
            except TulouError as error:
                refused[at] = error

        def write(connection: sa.Connection) -> tuple[list[int | TulouError], set[int]]:
            cursor = self.store.cursor(connection)
            numbers: dict[str, dict[str, int]] = {}
            made: set[int] = set()
            for org, own in rows.items():
                known = numbers[org] = self.store.numbers(cursor, list(own), org)
                fresh = [id for id in own if id not in known]
                if not fresh:
                    continue
                self.store.insert(cursor, [own[id][1] for id in fresh])
                if self.subscriptions.watches(org):
                    self.subscriptions.queue(cursor, [Changed(org, own[id][0], None, "entityCreated") for id in fresh], now)
                known |= self.store.numbers(cursor, fresh, org)
                if self.journal.notes:
                    self.journal.add(cursor, [journal.whole(known[id], own[id][1][2], now, own[id][1][5], (now, now)) for id in fresh])
                made.update(known[id] for id in fresh)
            return [refused[at] if at in refused else numbers[new.org][new.id] for at, new in enumerate(news)], made

        return write

    def _first_document(self, new: NewEntity) -> Json:
        document: Json = {
            "id": entity_id(new.id), "type": self.names.stored(new.type), "name": {"type": "Property", "value": new.name},
        }
        if new.synthetic:
            keep_synthetic(document)
        if new.lon is not None and new.lat is not None:
            point = {"type": "Point", "coordinates": [new.lon, new.lat]}
            geo.check(point, "location")
            document["location"] = {"type": "GeoProperty", "value": point}
        return document

    def _property(self, type: str, name: str) -> tuple[str, str | None, str]:
        """(stored name, unit code, kind) of a model's property."""
        found = self._units.get((type, name))
        if found is None:
            model = self.house.packs.models.get(type)
            prop = model.properties.get(name) if model is not None else None
            try:
                stored = self.names.stored(name)
            except Invalid:
                stored = ""
            found = (stored, prop.unit or None if prop else None, prop.kind if prop else "number")
            if len(self._units) > 50_000:
                self._units.clear()
            self._units[(type, name)] = found
        return found

    async def project(
        self, updates: Sequence[Update | tuple[Any, ...]], amended: Mapping[int, Mapping[str, int]] | None = None
    ) -> int:
        """Merge last values of properties into the current state of entities; returns how many entities changed.

        Of several values of one property the newest counts, and only if it is newer than what is there, so a repeat
        changes nothing. One transaction holds the changes and the notifications they cause. For the writer, which acts
        for the house; readings of entities that no longer exist are passed over. `amended` names, by entity and
        property, the time of a last value that is no longer true: it gives way to an older one, or goes.
        """
        amended = amended or {}
        newest: dict[int, dict[str, Update]] = {}
        for item in updates:
            update = item if isinstance(item, Update) else Update(*item)
            own = newest.setdefault(update.no, {})
            known = own.get(update.property)
            if known is None or update.ts > known.ts:
                own[update.property] = update
        if not newest and not amended:
            return 0
        now = now_us()
        numbers = sorted({*newest, *amended})
        moments: dict[int, str] = {}

        def write(connection: sa.Connection) -> int:
            cursor = self.store.cursor(connection)
            changes: list[Changed] = []
            count = 0
            for at in range(0, len(numbers), 500):
                rows: list[tuple[Any, ...]] = []
                for no, row in self.store.by_no(cursor, numbers[at : at + 500]).items():
                    document, times = row.document, orjson.loads(row.times_text) if row.times_text else {}
                    watched = self.subscriptions.watches(row.org)
                    before = dict(document) if watched else None
                    names = self._merge_values(
                        row, document, times, newest.get(no, {}), now, moments, amended.get(no, {})
                    )
                    if names:
                        rows.append((dumped(document), dumped(times), now, no))
                        if watched:
                            times["@"] = [row.created_at, now]
                            changes.append(Changed(row.org, document, names, "entityUpdated", before, times))
                self.store.update_values(cursor, rows)
                count += len(rows)
            if changes:
                self.subscriptions.queue(cursor, changes, now)
            return count

        count = await self.db.write(write)
        self.subscriptions.wake()
        await self._live(newest)
        return count

    def _merge_values(
        self, row: Row, document: Json, times: Json, values: dict[str, Update], now: int, moments: dict[int, str],
        amended: Mapping[str, int],
    ) -> set[str]:
        """Put newer values into a document, after those that are no longer true went; returns the names of the
        attributes changed.

        `moments` remembers the texts of times, of which a call has few; an empty one is no time.
        """
        everything = times.get("*") or (row.created_at,)
        names: set[str] = set()
        for name, ts in amended.items():
            stored = self._property(row.type, name)[0]
            known = forms.find_instance(document.get(stored), None)
            if stored in forms.ENTITY_MEMBERS or known is None or known.get("observedAt") != forms.moment(ts):
                continue
            forms.drop_instance(document, stored, None)
            names.add(stored)
        for name, update in values.items():
            stored, unit, kind = self._units.get((row.type, name)) or self._property(row.type, name)
            if not stored or stored in forms.ENTITY_MEMBERS:
                continue
            _, _, ts, value, text, quality, _ = update
            if text is not None or kind == "boolean" or value - value != 0:
                value = _value_of(update, kind)
                if value is None:
                    continue
            at = moments.get(ts)
            if at is None:
                at = moments[ts] = forms.moment(ts) if 0 <= ts < YEAR_9999 else ""
            if not at:
                continue
            present = document.get(stored)
            several = isinstance(present, list)
            known = forms.find_instance(present, None) if several else present
            if known is not None and known.get("observedAt", "").rstrip("Z") >= at[:-1]:
                continue
            fresh: Json = {"type": "Property", "value": value, "observedAt": at}
            if unit:
                fresh["unitCode"] = unit
            if quality:
                fresh["quality"] = {"type": "Property", "value": QUALITY.get(quality, "bad")}
            if several:
                forms.put_instance(document, stored, fresh)
            else:
                document[stored] = fresh
            first = now if known is None else (times.get(stored) or everything)[0]
            times[stored] = [first, now]
            names.add(stored)
        return names

    async def _live(self, newest: dict[int, dict[str, Update]]) -> None:
        """Tell who watches: core NATS `tulou.live.latest`, JSON arrays of [no, property, ts, value]."""
        bus = getattr(self.house, "bus", None)
        if bus is None:
            return
        items = [
            (no, name, ts, value if text is None else text)
            for own in newest.values() for no, name, ts, value, text, _, _ in own.values()
        ]
        for at in range(0, len(items), 5_000):
            await bus.nc.publish("tulou.live.latest", orjson.dumps(items[at : at + 5_000]))

    # ---- telling others

    def touched(self, numbers: Sequence[int]) -> None:
        """Remember that these entities were made, renamed, moved or deleted; `announce` tells the other engines.

        The number 0 stands for more entities than are worth naming.
        """
        self.subscriptions.wake()
        self._changed.update(numbers)

    async def announce(self, _house: House) -> None:
        """Every 200 ms: `changed("entities", numbers)`, numbers joined by spaces; empty when there are many."""
        while True:
            await asyncio.sleep(0.2)
            if self._changed and hasattr(self.house, "bus"):
                numbers, self._changed = self._changed, set()
                key = "" if 0 in numbers or len(numbers) > ANNOUNCED else " ".join(map(str, sorted(numbers)))
                await self.house.bus.changed("entities", key)

    def _rows(self, sql: str, parameters: Sequence[Any], connection: sa.Connection) -> list[Any]:
        found: list[Any] = self.store.cursor(connection).execute(sql, parameters).fetchall()
        return found

    async def expire(self, _house: House) -> None:
        """Every 10 s: delete transient entities (5.2.4, expiresAt) whose time has come."""
        while True:
            await asyncio.sleep(10)
            sql = self.store.sql("SELECT id,org FROM entities WHERE expires_at IS NOT NULL AND expires_at<=? LIMIT 1000")
            due = await self.db.read(partial(self._rows, sql, (now_us(),)))
            for id, org in due:
                with contextlib.suppress(NotFound):
                    await self._delete(system("expiry"), org, [id], "expire")


def page_of(found: list[Row], limit: int, place: Cursor | None, offset: int, count: int | None) -> Page:
    """Cut a result of up to `limit` + 1 rows to a page with its neighbours."""
    more = len(found) > limit
    rows = found[:limit]
    forward = place is None or place.forward
    if not forward:
        rows.reverse()
    if not rows:
        return Page([], count=count)
    after, before = Cursor(rows[-1].no, True), Cursor(rows[0].no, False)
    if forward:
        return Page(rows, after if more else None, before if place is not None or offset else None, count)
    return Page(rows, after, before if more else None, count)


def namespaces(document: Json) -> tuple[str, ...]:
    """The beginnings of the IRIs that a context gives its terms, less the default vocabulary's."""
    iris = [iri for iri in document["@context"][0].values() if not iri.startswith(DEFAULT_VOCAB)]
    return tuple(sorted({iri[: max(iri.rfind("/"), iri.rfind("#"), iri.rfind(":")) + 1] for iri in iris}))


def keep_synthetic(document: Json) -> None:
    """Label a document as synthetic, if it is not labelled."""
    if forms.plain(document.get("synthetic")) is not True:
        document["synthetic"] = {"type": "Property", "value": True}


def already_exists(id: str) -> AlreadyExists:
    """The error for an id that is taken in the organisation."""
    return AlreadyExists(f"实体 {id} 已存在", f"entity {id} already exists", field="id", value=id, rule="unique")


def no_such_tenant(tenant: str) -> NonexistentTenant:
    """The error for a tenant that does not exist or must not be known."""
    return NonexistentTenant(f"没有机构 {tenant}", f"there is no tenant {tenant}", field="NGSILD-Tenant", value=tenant)


def no_such_attribute(name: str) -> NotFound:
    """The error for an attribute or instance that the entity does not have."""
    return NotFound(f"实体没有属性 {name}", f"the entity has no attribute {name}", field="attribute", value=name)


def _no_type() -> TulouError:
    return bad("实体缺少 type", "the entity has no type", field="type", rule="CIM 009, 5.2.4")


def _expired(row: Row) -> bool:
    if '"expiresAt"' not in row.text:
        return False
    at = row.document.get("expiresAt")
    return isinstance(at, str) and forms.micros(at) <= now_us()


def _checked_text(document: Json) -> str:
    try:
        return dumped(document)
    except TypeError as error:
        raise _unwritable(error) from None


def _unwritable(error: TypeError) -> TulouError:
    return bad("实体无法存储：嵌套过深或含有无效文本", f"the entity cannot be stored: {error}", field="entity", rule="JSON")


def _value_of(update: Update, kind: str) -> Any:
    """The value of a reading as its model's kind of property says; None if there is none."""
    if update.text is not None:
        if kind == "json":
            try:
                return orjson.loads(update.text)
            except orjson.JSONDecodeError:
                return update.text
        return update.text.replace("\x00", "�")
    value = update.value
    if value != value or value in (float("inf"), float("-inf")):
        return None
    return bool(value) if kind == "boolean" else value


__all__ = [
    "CORE_URL", "HOUSE_CONTEXT", "MAX_LIMIT", "BatchResult", "ContextService", "Page", "Reader", "TooManyResults",
    "Update",
]
