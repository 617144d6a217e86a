"""Operations on entities that are distributed among the house and registered context sources.

Law: a part goes to a source only after the policy has allowed the operation to the actor in the organisation whose
registration it is; the house's own part asks the policy again. An organisation's registrations serve its requests alone:
those of the tenant that a request names, else of the actor's own organisation.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.3.6, 5.6, 5.7.1, 5.7.2 and 6.3.17.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from tulou.context import forms, matching, query
from tulou.context import selection as selecting
from tulou.context.columns import dumped
from tulou.context.distribution import Part, Piece, merged, parts_of, piece_of
from tulou.context.errors import NonexistentTenant, TooManyResults
from tulou.context.forms import Json
from tulou.context.forwarding import Caller, Forwarder, Outcome, invalid, loop, warning
from tulou.context.jsonld import Context
from tulou.context.matching import EVERY, Index, Portion, Registration
from tulou.context.paging import MAX_LIMIT, Cursor
from tulou.context.registrations import Registrations
from tulou.context.selection import Selection, Selector, TypeTree
from tulou.context.service import ContextService, Page, no_such_entity, now_us
from tulou.context.store import Row
from tulou.kernel.errors import NotFound, TulouError
from tulou.kernel.policy import ROOT, Actor, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

T = TypeVar("T")

READ = "context.entity.read"
ACTIONS = {
    "createEntity": ("context.entity.create",), "createBatch": ("context.entity.create",),
    "upsertBatch": ("context.entity.create", "context.entity.write"), "deleteEntity": ("context.entity.delete",),
    "deleteAttrs": ("context.entity.delete",), "deleteBatch": ("context.entity.delete",),
}
"""What the policy is asked for before an operation is distributed; all others are writes."""
MAX_UNION = 10_000
"""Most entities that a distributed query takes from sources; and, where filters are applied here, of the house's own."""
FILTERS = ("q", "scopeQ", "expandValues")
PLACE = ("georel", "geometry", "coordinates", "geoproperty")
PLACES = 1 << 62
"""Cursors of distributed queries count places from here, those of others count entities' numbers."""


@dataclass(slots=True)
class Filters:
    """What of a query goes to sources as the client wrote it: parameters by name; and how it is executed (5.7.2)."""

    texts: dict[str, str] = field(default_factory=dict)
    geo: dict[str, Any] | None = None
    csf: query.Node | None = None
    split: bool = False
    names: frozenset[str] | None = None
    datasets: frozenset[str] = frozenset()
    origins: dict[str, list[str]] = field(default_factory=dict)
    """Filled by the query: which registrations answered each entity, `@none` for the house (5.2.39)."""


class Sources:
    """Distributed operations."""

    def __init__(self, house: House, entities: ContextService, registrations: Registrations) -> None:
        self.house = house
        self.policy = house.policy
        self.entities = entities
        self.registrations = registrations
        self.forwarder = Forwarder(house, entities.contexts)
        self.began = time.monotonic()

    def alias(self, org: str) -> str:
        """The name under which an organisation of this house appears in `Via` chains (5.2.40); stable, and unlike others'."""
        organisations = self.entities.organisations
        root = organisations.rows.get(ROOT, {}) if organisations is not None else {}
        birth = root.get("applied_at") or self.house.settings.home
        return "tulou-" + hashlib.sha256(f"{birth} {org}".encode()).hexdigest()[:20]

    def org(self, actor: Actor, tenant: str | None) -> str:
        """The organisation whose registrations a request is distributed by."""
        return tenant or actor.org

    @operation("context.source.read")
    async def identity(self, actor: Actor, *, tenant: str | None = None) -> Json:
        """Who this source is for an organisation (5.15.1, 5.2.40)."""
        org = self.org(actor, tenant)
        if tenant is not None:
            self.entities.readable(actor, tenant)
        self.policy.require(actor, "context.source.read", org)
        alias = self.alias(org)
        return {
            "id": f"urn:ngsi-ld:ContextSourceIdentity:{alias}", "type": "ContextSourceIdentity", "contextSourceAlias": alias,
            "contextSourceUptime": f"PT{int(time.monotonic() - self.began)}S",
            "contextSourceTimeAt": forms.moment(now_us() // 1000 * 1000),
        }

    # ---- reading

    def index(self, actor: Actor, tenant: str | None) -> Index | None:
        org = self.org(actor, tenant)
        return self.registrations.active.get(org) if self.policy.allows(actor, READ, org) else None

    @operation(READ)
    async def retrieve(
        self, actor: Actor, id: str, caller: Caller, *, tenant: str | None = None, names: frozenset[str] | None = None,
        types: TypeTree | None = None, datasets: frozenset[str] = frozenset(), told: Piece | None = None,
    ) -> Row:
        """One entity of the house and of all sources that have a part of it (5.7.1). Raises `NotFound`.

        `names`: the attributes wanted, None for all. `told`: what one source said of itself, which is not asked then.
        """
        row: Row | None = None
        try:
            row = await self.entities.retrieve(actor, id, tenant=tenant)
        except NonexistentTenant:
            raise
        except NotFound:
            pass
        index = self.index(actor, tenant)
        asked: list[tuple[Registration, frozenset[str]]] = []
        claims: list[frozenset[str]] = []
        if index is not None:
            for item, offered in index.serving(id, matching.leaves(types) or None, now_us(), caller.chain):
                if item.offers("retrieveEntity", "queryEntity", "queryBatch") is None or _apart(datasets, item) or (
                    told is not None and item.id == told.registration
                ):
                    continue
                share = offered if names is None else names if offered is EVERY else names & offered
                if not share:
                    continue
                asked.append((item, share))
                if item.proxied:
                    claims.append(offered)
        outcomes = await self.ask(caller, [(item, self._retrieving(item, share, id, caller)) for item, share in asked])
        pieces: list[Piece] = [told] if told is not None else []
        for (_, share), outcome in zip(asked, outcomes, strict=True):
            pieces += [piece for piece in self._pieces(outcome, caller, share, alone=True) if piece.document["id"] == id]
        found = merged(row, pieces, claims, now_us())
        if found is None:
            raise no_such_entity(id)
        return found if found.org else found._replace(org=self.org(actor, tenant))

    def _retrieving(
        self, item: Registration, names: frozenset[str], id: str, caller: Caller
    ) -> tuple[str, str, list[tuple[str, str]], Any]:
        context, _ = self.forwarder.context(item, caller)
        kind = item.offers("retrieveEntity", "queryEntity", "queryBatch")
        shown = sorted(map(context.shown, names)) if names is not EVERY else []
        if kind == "retrieveEntity":
            attrs = [("attrs", ",".join(shown))] if shown else []
            return "GET", f"entities/{quote(id, safe=':')}", [*attrs, ("options", "sysAttrs")], None
        types = sorted({name for info in item.infos for entity in info.entities if entity.serves(id, None) for name in entity.types})
        tree = matching.any_of(types) if types else None
        return self._querying(item, Portion(tree, (id,), None, names if names is not EVERY else None), caller, Filters(), 0)

    def _querying(
        self, item: Registration, portion: Portion, caller: Caller, filters: Filters, offset: int
    ) -> tuple[str, str, list[tuple[str, str]], Any]:
        context, _ = self.forwarder.context(item, caller)
        paging = [("options", "sysAttrs"), ("limit", str(MAX_LIMIT)), *([("offset", str(offset))] if offset else [])]
        if item.offers("queryEntity") is not None:
            return "GET", "entities", [*self._selecting(item, portion, caller, filters), *paging], None
        types = type_text(portion.types, context)
        names = sorted(map(context.shown, portion.names)) if portion.names else []
        selector: Json = {"type": types} if types else {}
        if portion.ids:
            selector["id"] = portion.ids[0] if len(portion.ids) == 1 else list(portion.ids)
        elif portion.pattern:
            selector["idPattern"] = portion.pattern
        body: Json = {"type": "Query", **({"entities": [selector]} if selector else {}), **({"attrs": names} if names else {})}
        if not filters.split:
            body |= filters.texts
            if filters.geo:
                body["geoQ"] = filters.geo
        return "POST", "entityOperations/query", paging, body

    def _selecting(self, item: Registration, portion: Portion, caller: Caller, filters: Filters) -> list[tuple[str, str]]:
        """The parameters that select what one source is asked."""
        context, _ = self.forwarder.context(item, caller)
        types = type_text(portion.types, context)
        names = ",".join(sorted(map(context.shown, portion.names))) if portion.names else ""
        parameters = [("type", types), ("id", ",".join(portion.ids)), ("idPattern", portion.pattern or ""), ("attrs", names)]
        if not filters.split:
            parameters += list(filters.texts.items())
            parameters += [(k, text_of(v)) for k, v in (filters.geo or {}).items()]
        return [(name, value) for name, value in parameters if value]

    async def ask(
        self, caller: Caller, asked: Sequence[tuple[Registration, tuple[str, str, Sequence[tuple[str, str]], Any]]]
    ) -> list[Outcome]:
        """The outcomes of reading requests, all at once; what went wrong becomes warnings of the caller."""
        if caller.looped:
            outcomes = [Outcome(item, 508, error=loop(item.id)) for item, _ in asked]
        else:
            outcomes = list(await asyncio.gather(*(
                self.forwarder.send(item, caller, method, path, parameters, body)
                for item, (method, path, parameters, body) in asked
            )))
        for outcome in outcomes:
            self.warn(caller, outcome)
        return outcomes

    def warn(self, caller: Caller, outcome: Outcome) -> None:
        text = warning(outcome)
        if text is not None and text not in caller.warnings:
            caller.warnings.append(text)
        passed = outcome.headers.get("ngsild-warning")
        if passed and passed.isprintable() and len(passed) < 4096 and passed not in caller.warnings:
            caller.warnings.append(passed)

    def read(self, outcome: Outcome, caller: Caller, reader: Callable[[Any], T], *, alone: bool = False) -> list[T]:
        """What `reader` makes of each entity in an outcome (`alone`: or of the one that it is); an invalid one is left out
        with a warning."""
        if not outcome.ok:
            return []
        body = outcome.body
        items = body if isinstance(body, list) else [body] if alone else None
        if items is None:
            self.warn(caller, invalid(outcome, "its answer is no array of entities"))
            return []
        found: list[T] = []
        for raw in items:
            try:
                found.append(reader(raw))
            except (TulouError, AttributeError, TypeError) as error:
                self.warn(caller, invalid(outcome, str(error)))
        return found

    def _pieces(self, outcome: Outcome, caller: Caller, names: frozenset[str], *, alone: bool = False) -> list[Piece]:
        context, _ = self.forwarder.context(outcome.registration, caller)
        return self.read(outcome, caller, lambda raw: piece_of(raw, context, outcome.registration, names), alone=alone)

    @operation(READ)
    async def query(
        self, actor: Actor, selection: Selection, caller: Caller, filters: Filters, *, tenant: str | None = None,
        limit: int = 20, cursor: Cursor | None = None, offset: int = 0, count: bool = False,
    ) -> Page:
        """Entities of the house, in order of number, then those that only sources have, in order of id (5.7.2).

        With `filters.split` sources and the house are asked without filters, which apply to what was put together.
        Raises `TooManyResults` where that is more than `MAX_UNION` entities.
        """
        start = cursor.no - PLACES if cursor is not None and cursor.no >= PLACES else offset
        remote = await self.remote(actor, selection, caller, filters, tenant)
        claims = self.claims(actor, selection, filters, tenant)
        now = now_us()
        org = self.org(actor, tenant)
        if filters.split:
            every = await self._local(actor, bare(selection), tenant)
            rows = [self.put(row, remote.get(row.id, []), claims(row.id), org, now) for row in every]
            known = {row.id for row in every}
            rows += [self.put(None, remote[id], (), org, now) for id in sorted(remote.keys() - known)]
            kept = [row for row in rows if row is not None and selecting.matches(selection, row.document, moments(row))]
            self._origins(filters, kept, remote, known)
            return placed(kept[start : start + limit], start, limit, len(kept), count)
        local = await self.entities.query(actor, selection, tenant=tenant, limit=limit, offset=start, count=True)
        total = local.count or 0
        held = await self._held(actor, selection, remote, tenant)
        tail = sorted(remote.keys() - held)
        found = [self.put(row, remote.get(row.id, []), claims(row.id), org, now) for row in local.rows]
        if len(found) < limit:
            at = max(0, start - total)
            found += [self.put(None, remote[id], (), org, now) for id in tail[at : at + limit - len(found)]]
        shown = [row for row in found if row is not None]
        self._origins(filters, shown, remote, {row.id for row in local.rows})
        return placed(shown, start, limit, total + len(tail), count)

    def _origins(self, filters: Filters, rows: Iterable[Row], remote: dict[str, list[Piece]], held: set[str]) -> None:
        for row in rows:
            own = ["@none"] if row.id in held else []
            filters.origins[row.id] = [*own, *dict.fromkeys(piece.registration for piece in remote.get(row.id, ()))]

    def put(self, row: Row | None, pieces: Sequence[Piece], claims: Sequence[frozenset[str]], org: str, now: int) -> Row | None:
        if row is not None and not pieces and not claims:
            return row
        found = merged(row, pieces, claims, now)
        return found if found is None or found.org else found._replace(org=org)

    def claims(self, actor: Actor, selection: Selection, filters: Filters, tenant: str | None) -> Any:
        """A function: entity id -> what exclusive and redirect registrations keep of it."""
        index = self.index(actor, tenant)
        if index is None:
            return lambda id: ()
        now = now_us()
        proxied = [item for item in index.all if item.proxied and matching.usable(item, now, ())]
        if not proxied:
            return lambda id: ()
        return lambda id: [names for item in proxied if (names := item.names(id, None)) is not None]

    async def _held(
        self, actor: Actor, selection: Selection, remote: dict[str, list[Piece]], tenant: str | None
    ) -> set[str]:
        """Which of the remote entities the house's own part of the query has, too."""
        held: set[str] = set()
        ids = sorted(remote)
        for at in range(0, len(ids), MAX_LIMIT):
            narrowed = restricted(selection, ids[at : at + MAX_LIMIT])
            page = await self.entities.query(actor, narrowed, tenant=tenant, limit=MAX_LIMIT)
            held.update(row.id for row in page.rows)
        return held

    async def _local(self, actor: Actor, selection: Selection, tenant: str | None) -> list[Row]:
        rows: list[Row] = []
        place: Cursor | None = None
        while True:
            page = await self.entities.query(actor, selection, tenant=tenant, limit=MAX_LIMIT, cursor=place)
            rows += page.rows
            if page.next is None:
                return rows
            if len(rows) >= MAX_UNION:
                raise _too_many()
            place = page.next

    def asked(
        self, index: Index, selection: Selection, caller: Caller, filters: Filters
    ) -> list[tuple[Registration, Portion]]:
        """Which registrations a query is sent to, and what each is asked."""
        types = frozenset(name for item in selection.selectors for name in matching.leaves(item.types))
        if any(item.types is None for item in selection.selectors):
            types = frozenset()
        now = now_us()
        names = filters.names
        if selection.attributes:
            names = frozenset(selection.attributes) if names is None else names & frozenset(selection.attributes)
        found = []
        for item in index.candidates(types, None):
            if (
                not matching.usable(item, now, caller.chain) or item.offers("queryEntity", "queryBatch") is None
                or _apart(filters.datasets, item)
                or (filters.csf is not None and not query.matches(filters.csf, item.properties))
                or (not filters.split and not matching.place_meets(selection.geo, item.location))
            ):
                continue
            for info in item.infos:
                for portion in matching.narrowed(info, selection.selectors, names):
                    found.append((item, portion))
        return found

    async def remote(
        self, actor: Actor, selection: Selection, caller: Caller, filters: Filters, tenant: str | None
    ) -> dict[str, list[Piece]]:
        """What sources answer to a query, by entity id."""
        index = self.index(actor, tenant)
        asked = self.asked(index, selection, caller, filters) if index is not None else []
        found: dict[str, list[Piece]] = {}
        offset = 0
        while asked:
            outcomes = await self.ask(
                caller, [(item, self._querying(item, portion, caller, filters, offset)) for item, portion in asked]
            )
            again = []
            for (item, portion), outcome in zip(asked, outcomes, strict=True):
                for piece in self._pieces(outcome, caller, portion.names if portion.names is not None else EVERY):
                    found.setdefault(piece.document["id"], []).append(piece)
                if outcome.ok and isinstance(outcome.body, list) and len(outcome.body) >= MAX_LIMIT:
                    again.append((item, portion))
            if len(found) > MAX_UNION:
                raise _too_many()
            asked = again
            offset += MAX_LIMIT
        return found

    # ---- types and attributes

    @operation(READ)
    async def described(
        self, actor: Actor, caller: Caller, operation: str, path: str, parameters: Sequence[tuple[str, str]] = (), *,
        tenant: str | None = None, name: str | None = None,
    ) -> list[tuple[Registration, Context, Any]]:
        """What the sources that offer `operation` say of their types or attributes (5.7.5 to 5.7.10): (registration, the
        context of the names, JSON body). `name` is a stored one, put in its source's terms at the end of `path`."""
        index = self.index(actor, tenant)
        asked = []
        for item in index.all if index is not None else ():
            if matching.usable(item, now_us(), caller.chain) and item.offers(operation) is not None:
                context, _ = self.forwarder.context(item, caller)
                where = path if name is None else f"{path}/{quote(context.shown(name), safe='')}"
                asked.append((item, ("GET", where, parameters, None)))
        return [
            (outcome.registration, self.forwarder.context(outcome.registration, caller)[0], outcome.body)
            for outcome in await self.ask(caller, asked) if outcome.ok and outcome.body is not None
        ]

    # ---- writing

    @operation("context.entity.write")
    async def split(
        self, actor: Actor, id: str, names: frozenset[str], operations: Sequence[str], caller: Caller, *,
        tenant: str | None = None, types: Sequence[str] | None = None, whole: bool = False,
    ) -> list[Part]:
        """Who does which part of a write that sources may be sent as one of `operations`, the first of which says what the
        policy is asked for. An empty list: the house alone."""
        org = ""
        for action in ACTIONS.get(operations[0], ("context.entity.write",)):
            org = self.entities.tenant(actor, tenant, action)
        index = self.registrations.active.get(org)
        if index is None:
            return []
        serving = index.serving(id, types, now_us(), caller.chain)
        parts = parts_of(names, serving, operations, whole=whole)
        return parts if any(part.registration is not None for part in parts) else []

    @operation("context.entity.delete")
    async def purging(
        self, actor: Actor, selection: Selection, caller: Caller, filters: Filters, *, tenant: str | None = None
    ) -> list[tuple[Part, list[tuple[str, str]]]]:
        """The sources that a purge (5.6.21) goes to, with its parameters for each."""
        org = self.entities.tenant(actor, tenant, "context.entity.delete")
        index = self.registrations.active.get(org)
        found: list[tuple[Part, list[tuple[str, str]]]] = []
        for item in index.all if index is not None else ():
            offered = item.offers("purgeEntity") is not None
            if item.mode == "auxiliary" or not matching.usable(item, now_us(), caller.chain) or not (offered or item.proxied):
                continue
            for info in item.infos:
                for portion in matching.narrowed(info, selection.selectors, filters.names):
                    part = Part(item, info.names or EVERY, not offered)
                    found.append((part, self._selecting(item, portion._replace(names=filters.names), caller, filters)))
        return found

    async def send(
        self, part: Part, caller: Caller, method: str, path: str, parameters: Sequence[tuple[str, str]] = (), body: Any = None
    ) -> Outcome:
        """Send a part that `split` has given to a source. Never raises."""
        assert part.registration is not None
        if caller.looped:
            return Outcome(part.registration, 508, error=loop(part.registration.id))
        return await self.forwarder.send(part.registration, caller, method, path, parameters, body)


def portable(parameters: Mapping[str, Any], context: Context, caller: Caller) -> bool:
    """Whether the filters of a query mean at a source what they mean here, as the client wrote them: they travel with
    their context, or name only what every context without an address names alike."""
    if caller.link is not None or context.identity:
        return True
    if "expandValues" in parameters:
        return False
    names = {context.stored(str(parameters["geoproperty"]))} if "geoproperty" in parameters else set()
    if isinstance(parameters.get("q"), str):
        try:
            found = query.parse(parameters["q"], context)
        except TulouError:
            return False  # the handler says what is wrong with it
        names |= {name for path in query.paths(found) for name in path.names}
    return all(":" not in name and context.shown(name) == name for name in names)


def filters_of(parameters: Mapping[str, Any], context: Context, caller: Caller) -> Filters:
    """How a query is executed, and what of it goes to sources."""
    texts = {name: str(parameters[name]) for name in FILTERS if name in parameters}
    place = {name: parameters[name] for name in PLACE if name in parameters}
    keep: set[str] = set()
    restricted = False
    for member in ("attrs", "pick"):
        value = parameters.get(member)
        if value:
            names = value if isinstance(value, list) else str(value).replace("|", ",").split(",")
            plain = {name.partition("{")[0].strip() for name in names} - {"id", "type", "scope", "expiresAt"}
            keep |= {context.stored(name) for name in plain if name}
            restricted = bool(keep)
    csf = parameters.get("csf")
    datasets = parameters.get("datasetId")
    split = parameters.get("splitEntities") in (True, "true")
    return Filters(
        texts, place or None, query.parse(csf, context) if isinstance(csf, str) else None,
        split or not portable(parameters, context, caller), frozenset(keep) if restricted else None,
        frozenset(datasets if isinstance(datasets, list) else datasets.split(",")) if datasets else frozenset(),
    )


def bare(selection: Selection) -> Selection:
    """The selection without the filters that apply to whole entities (5.7.2.4)."""
    return Selection(selection.selectors)


def restricted(selection: Selection, ids: Sequence[str]) -> Selection:
    """The selection among these identifiers alone."""
    own = []
    for item in selection.selectors or (Selector(),):
        kept = tuple(
            id for id in ids
            if (id in item.ids if item.ids else item.pattern is None or query.regexp(item.pattern).search(id) is not None)
        )
        if kept:
            own.append(Selector(item.types, kept, None))
    return Selection(
        tuple(own) or (Selector(None, ("urn:ngsi-ld:none",)),), selection.attributes, selection.q, selection.geo, selection.scope
    )


def placed(rows: list[Row], start: int, limit: int, total: int, count: bool) -> Page:
    """A page of a result of `total` entities that begins at place `start`."""
    following = Cursor(PLACES + start + limit) if limit and start + limit < total else None
    previous = Cursor(PLACES + max(0, start - limit)) if start > 0 else None
    return Page(rows, following, previous, total if count else None)


def type_text(tree: TypeTree | None, context: Context) -> str:
    """A type selection as a parameter, in the names of `context`."""
    if tree is None:
        return ""
    if isinstance(tree, str):
        return context.shown(tree)
    word, parts = tree
    texts = [f"({type_text(p, context)})" if not isinstance(p, str) else type_text(p, context) for p in parts]
    return (";" if word == "and" else ",").join(texts)


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else dumped(value)


def moments(row: Row) -> query.Times:
    """The system times of an entity (None) and of its attributes, as filters ask for them."""
    times = row.times

    def of(name: str | None) -> tuple[str, str]:
        pair = times["@"] if name is None else times.get(name) or times.get("*") or times["@"]
        return forms.moment(pair[0]), forms.moment(pair[1])

    return of


def _apart(datasets: frozenset[str], item: Registration) -> bool:
    return bool(datasets and item.datasets and datasets.isdisjoint(item.datasets))


def _too_many() -> TooManyResults:
    return TooManyResults(f"来源给出的实体多于 {MAX_UNION} 个，请缩小查询", f"more than {MAX_UNION} entities: narrow the query",
                          field="query", rule=f"<= {MAX_UNION}")
