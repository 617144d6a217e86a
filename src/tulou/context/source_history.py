"""The history of entities over the house and registered context sources.

Law: as of `sources`: nothing leaves the house before the policy has allowed the operation in the organisation whose
registration it is, and the house's own part asks again. Instances of all are one series before it is cut, counted from
the end or aggregated, so an answer does not depend on who holds what; where a source gave its history only up to a time,
the answer ends there, too.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.3.6, 4.5.5.3, 4.5.19, 5.2.9, 5.6.11 to 5.6.16, 5.7.3, 5.7.4 and 6.3.10.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from tulou.context import aggregates, evolution, forms, journal, matching, query
from tulou.context.aggregates import Summary
from tulou.context.distribution import Part, parts_of
from tulou.context.errors import NonexistentTenant, TooManyResults, bad
from tulou.context.evolution import Answer, Evolution, Found, Judge, Span, Told
from tulou.context.forms import Json
from tulou.context.forwarding import Caller, Outcome
from tulou.context.journal import Point
from tulou.context.jsonld import Context
from tulou.context.matching import EVERY, Index, Portion, Registration
from tulou.context.paging import MAX_LIMIT, Cursor
from tulou.context.selection import Selection
from tulou.context.service import now_us
from tulou.context.sources import MAX_UNION, PLACES, Filters, Sources, placed, text_of, type_text
from tulou.context.temporal import CREATE, DELETE, READ, WRITE, Temporal, no_such_history
from tulou.kernel.errors import NotFound
from tulou.kernel.policy import Actor, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

ACTIONS = {
    "upsertTemporal": CREATE, "appendAttrsTemporal": WRITE, "updateAttrInstanceTemporal": WRITE,
    "deleteAttrsTemporal": DELETE, "deleteAttrInstanceTemporal": DELETE, "deleteTemporal": DELETE,
}
"""What the policy is asked for before an operation is distributed."""
MAX_INSTANCES = 100_000
"""Most instances that one operation takes from a source, or aggregates of the house and its sources together."""
MAX_REQUESTS = 100
"""Most requests to one source for one operation."""
IDS = 50
"""Most identifiers in one request: an address must not be too long for its reader."""

Request = tuple[str, str, list[tuple[str, str]], Any]


class Heard(NamedTuple):
    """What one source tells of an entity: stored type names, times in µs (0: not told), (attribute, instance) in order."""

    id: str
    types: tuple[str, ...]
    created_at: int
    modified_at: int
    points: list[tuple[str, Point]]
    registration: Registration


class Reply(NamedTuple):
    """What a source replied by entity, and the time in µs up to which (with `lastN`: back to which) it is complete."""

    registration: Registration
    portion: Portion
    heard: dict[str, Heard]
    cut: int | None


# ---- reading what a source answers --------------------------------------------------------------------------------


def heard_of(raw: Any, context: Context, registration: Registration, names: frozenset[str], wanted: Span) -> Heard:
    """An EntityTemporal (5.2.20) that a source answered, cut to the attributes that it is registered for and to the time
    and the datasets that are wanted. Raises `BadRequestData`."""
    if not isinstance(raw, dict):
        raise bad("实体应为 JSON 对象", "an entity must be a JSON object", field="entity", rule="object")
    given = {name: value for name, value in raw.items() if value != []}  # a series that the source has cut away
    head, attributes = evolution.provided(given, context)
    points: list[tuple[str, Point]] = []
    for name, value in given.items():
        key = name if name == "scope" else context.stored(name)
        if key not in attributes or not (key == "scope" or names is EVERY or key in names):
            continue
        items = value if isinstance(value, list) else [value]
        for number, (body, item) in enumerate(zip(attributes[key], items, strict=False)):
            point = _point(key, body, item if isinstance(item, dict) else {}, number, registration.id, wanted)
            if point is not None and wanted.covers(point):
                points.append((key, point))
    created, modified = _moment(raw, "createdAt"), _moment(raw, "modifiedAt")
    return Heard(
        head["id"], tuple(forms.types_of(head)), created or modified or 0, modified or created or 0, points, registration
    )


def _point(name: str, body: Json, raw: Mapping[str, Any], number: int, source: str, wanted: Span) -> Point | None:
    created, modified = _moment(raw, "createdAt"), _moment(raw, "modifiedAt")
    if modified is not None:
        body = {**body, "modifiedAt": forms.moment(modified)}
    if "deletedAt" in raw:
        body = {**body, "deletedAt": forms.datetime_text(raw["deletedAt"], f"{name}.deletedAt")}
    at = created or modified or 0
    time = journal.time_of(body, wanted.timeproperty, at, windowed=wanted.windowed)
    if time is None:
        return None
    place = raw.get("instanceId")
    if not isinstance(place, str):
        return Point(time, number if at else -1 - number, "", at, body, source)
    return Point(time, 0 if at else -1, place, at, body, source)


def _moment(raw: Mapping[str, Any], member: str) -> int | None:
    text = raw.get(member)
    return None if text is None else forms.micros(forms.datetime_text(text, member))


_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?"
_RANGE = re.compile(rf"date-time\s+({_TIME})Z?-({_TIME})Z?/")


def cut_of(outcome: Outcome, wanted: Span, heard: Iterable[Heard]) -> int | None:
    """The time in µs at which a source has cut its answer (6.3.10), None where it has not."""
    if outcome.status != 206:
        return None
    match = _RANGE.match(outcome.headers.get("content-range", ""))
    if match is not None:
        return forms.micros(forms.datetime_text(match[2] + "Z", "Content-Range"))
    times = [point.time for item in heard for _, point in item.points]
    return (min(times) if wanted.last else max(times)) if times else None


def cut_at(wanted: Span, cut: int | None) -> Span:
    """A query of the time alone in which an answer that was cut is complete."""
    if cut is None:
        return wanted
    if wanted.last:
        return wanted._replace(start=cut if wanted.start is None else max(cut, wanted.start))
    return wanted._replace(end=cut + 1 if wanted.end is None else min(cut + 1, wanted.end))


def beyond(wanted: Span, cut: int) -> Span:
    """A query of what an answer that was cut has left out."""
    return wanted._replace(end=cut) if wanted.last else wanted._replace(start=cut + 1)


def window(wanted: Span, *, needed: bool = False) -> list[tuple[str, str]]:
    """The parameters of a temporal query (4.11); with `needed` all times are asked for where none is."""
    found: list[tuple[str, str]] = []
    if wanted.start is not None and wanted.end is not None:
        found += [("timerel", "between"), ("timeAt", forms.moment(wanted.start)), ("endTimeAt", forms.moment(wanted.end))]
    elif wanted.start is not None or wanted.end is not None:
        at = wanted.start if wanted.start is not None else wanted.end
        assert at is not None
        found += [("timerel", "after" if wanted.end is None else "before"), ("timeAt", forms.moment(at))]
    elif needed:
        found += [("timerel", "after"), ("timeAt", forms.moment(0))]
    if wanted.timeproperty != "observedAt":
        found.append(("timeproperty", wanted.timeproperty))
    if wanted.last is not None:
        found.append(("lastN", str(wanted.last)))
    if wanted.datasets is not None:
        found.append(("datasetId", ",".join(sorted(wanted.datasets))))
    return found


# ---- putting together ---------------------------------------------------------------------------------------------


def joined(first: Heard | None, more: Heard) -> Heard:
    """What a source told of an entity in two answers."""
    return more if first is None else first._replace(points=[*first.points, *more.points])


def told_of(heard: Iterable[Heard], hidden: frozenset[str], wanted: Span) -> Told:
    """What sources tell of the wanted attributes of an entity in the time."""
    points: list[tuple[str, Point]] = []
    spare: list[list[tuple[str, Point]]] = []
    for item in heard:
        own = [
            pair for pair in item.points if wanted.covers(pair[1]) and (wanted.names is None or pair[0] in wanted.names)
        ]
        if item.registration.mode == "auxiliary":
            spare.append(own)
        else:
            points += own
    return Told(points, spare, hidden)


def united(found: Found | None, heard: Sequence[Heard], org: str) -> Found:
    """An entity of the house and of sources, or of sources alone, which counts as one of `org`."""
    no, only, id, owner, types = (None, None, heard[0].id, org, ()) if found is None else found[:5]
    told = [(item.created_at, item.modified_at) for item in heard] + ([] if found is None else [found[5:]])
    return Found(
        no, only, id, owner, tuple(dict.fromkeys((*types, *(name for item in heard for name in item.types)))),
        min((created for created, _ in told if created), default=0), max((modified for _, modified in told), default=0),
    )


def satisfies(heard: Heard, selection: Selection, wanted: Span) -> bool:
    """Whether what a source told satisfies the filters of a query by itself (5.7.4.4)."""
    judge = Judge(Selection(selection.selectors, (), selection.q, selection.geo), wanted)
    for name, point in heard.points:
        judge.feed({name: [point.body]})
    return judge.holds


def summarised(found: Evolution, wanted: Span, origin: int, until: int) -> Evolution:
    """An evolution as aggregates (4.5.19) of its instances."""
    series: dict[tuple[str, str | None], aggregates.Series] = {}
    for name, points in sorted(found.points.items()):
        for number, point in enumerate(points if name != "scope" else ()):
            own = series.setdefault((name, point.body.get("datasetId")), aggregates.Series(point.body["type"], {}))
            own.values[number] = (point.time, forms.plain(point.body))
    summaries: dict[str, list[Summary]] = {}
    for (name, dataset), own in sorted(series.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        buckets = own.buckets(wanted.methods, origin, wanted.period)
        rows = aggregates.rows(buckets, wanted.methods, origin, wanted.period, until)
        summaries.setdefault(name, []).append(Summary(own.kind, dataset, rows))
    return Evolution(found.entity, {}, dict.fromkeys(summaries, ""), summaries)


# ---- the operations -----------------------------------------------------------------------------------------------


class SourceHistory:
    """Distributed operations on history."""

    def __init__(self, house: House, history: Temporal, sources: Sources) -> None:
        self.policy = house.policy
        self.history = history
        self.sources = sources

    @operation(READ)
    async def retrieve(
        self, actor: Actor, id: str, wanted: Span, caller: Caller, filters: Filters, *, tenant: str | None = None
    ) -> Answer:
        """The evolution of one entity of the house and of all sources that have a part of it (5.7.3). Raises `NotFound`.

        Of `filters` the origins are filled.
        """
        index = self.sources.index(actor, tenant)
        asked: list[tuple[Registration, Portion]] = []
        hidden: set[str] = set()
        for item in index.candidates(None, id) if index is not None else ():
            offered = item.names(id, None)
            if offered is None or not _serves(item, wanted, caller, "retrieveTemporal", "queryTemporal"):
                continue
            share = offered if wanted.names is None else _attributes(wanted.names, offered)
            if share:
                asked.append((item, Portion(_types(item, id), (id,), None, None if share is EVERY else share)))
                hidden |= offered if item.proxied else frozenset()
        if not asked:
            return await self.history.retrieve(actor, id, wanted, tenant=tenant)
        found: Found | None = None
        try:
            found = await self.history.find(actor, id, tenant=tenant)
        except NonexistentTenant:
            raise
        except NotFound:
            pass
        replies = await asyncio.gather(*(self._one(item, portion, caller, wanted) for item, portion in asked))
        heard = [own for reply in replies for own in reply.heard.values()]
        if not heard and (found is None or not hidden):
            return await self.history.retrieve(actor, id, wanted, tenant=tenant)
        entity = united(found, heard, self.sources.org(actor, tenant)) if heard else found
        if entity is None:
            raise no_such_history(id)
        filters.origins[id] = _origins(found, heard)
        left = EVERY if hidden >= EVERY else frozenset(hidden)
        return await self._answer([entity], wanted, {}, [heard], [left], _soonest(wanted, replies))

    @operation(READ)
    async def query(
        self, actor: Actor, selection: Selection, wanted: Span, caller: Caller, filters: Filters, *,
        tenant: str | None = None, limit: int = 20, cursor: Cursor | None = None, offset: int = 0, count: bool = False,
        order: str | None = None,
    ) -> Answer:
        """Entities of the house whose history satisfies `selection`, in order of number, then those that only sources
        have, in order of id (5.7.4). Each source judges its own instances, or the house does where the filters cannot
        travel. Raises `TooManyResults`."""
        index = self.sources.index(actor, tenant)
        asked = self._asked(index, selection, wanted, caller, filters) if index is not None else []
        if not asked:
            return await self.history.query(
                actor, selection, wanted, tenant=tenant, limit=limit, cursor=cursor, offset=offset, count=count, order=order
            )
        if order is not None:
            raise bad("分布式查询不可排序；可加 local=true", "a distributed query cannot be ordered; add local=true",
                      field="orderBy", rule="CIM 009, 5.7.4.4")
        start = cursor.no - PLACES if cursor is not None and cursor.no >= PLACES else offset
        replies = await asyncio.gather(*(
            self._several(item, portion, caller, filters, wanted, whole=filters.split) for item, portion in asked
        ))
        if filters.split:
            replies = [
                reply._replace(heard={id: own for id, own in reply.heard.items() if satisfies(own, selection, wanted)})
                for reply in replies
            ]
        remote = {id for reply in replies for id in reply.heard}
        if len(remote) > MAX_UNION:
            raise _too_many("entities", MAX_UNION)
        own = await self.history.matches(
            actor, selection, wanted, tenant=tenant, offset=start, limit=limit, known=remote, count=count
        )
        page: list[Found | None] = list(own.page)
        ids = [found.id for found in own.page]
        tail = sorted(remote - own.held)
        if own.total is not None and len(page) < limit:
            at = max(0, start - own.total)
            ids += tail[at : at + limit - len(page)]
            page += [None] * (len(ids) - len(page))
        replies = await self._completed(replies, set(ids), caller, filters, wanted)
        heard = [[reply.heard[id] for reply in replies if id in reply.heard] for id in ids]
        org = self.sources.org(actor, tenant)
        entities = [united(found, told, org) for found, told in zip(page, heard, strict=True)]
        hidden = [self._hidden(index, id, wanted) for id in ids]
        for found, id, told in zip(page, ids, heard, strict=True):
            filters.origins[id] = _origins(found, told)
        answer = await self._answer(entities, wanted, own.within, heard, hidden, _soonest(wanted, replies))
        total = own.total + len(tail) if own.total is not None else start + limit + 1
        around = placed([], start, limit, total, count)
        return answer._replace(next=around.next, prev=around.prev, total=around.count)

    def _asked(
        self, index: Index, selection: Selection, wanted: Span, caller: Caller, filters: Filters
    ) -> list[tuple[Registration, Portion]]:
        """Which registrations a query is sent to, and what each is asked."""
        types = frozenset(name for item in selection.selectors for name in matching.leaves(item.types))
        if any(item.types is None for item in selection.selectors):
            types = frozenset()
        names = None if wanted.names is None else _attributes(wanted.names, EVERY)
        if filters.split or names is EVERY:
            names = None
        found = []
        for item in index.candidates(types, None):
            if not _serves(item, wanted, caller, "queryTemporal") or (
                filters.csf is not None and not query.matches(filters.csf, item.properties)
            ) or not (filters.split or matching.place_meets(selection.geo, item.location)):
                continue
            for info in item.infos:
                found += [(item, portion) for portion in matching.narrowed(info, selection.selectors, names)]
        return found

    def _hidden(self, index: Index | None, id: str, wanted: Span) -> frozenset[str]:
        """The attributes of an entity whose history exclusive and redirect registrations keep for themselves."""
        found: frozenset[str] = frozenset()
        for item in index.all if index is not None else ():
            if item.proxied and _serves(item, wanted, None, "queryTemporal"):
                found |= item.names(id, None) or frozenset()
        return EVERY if found >= EVERY else found

    async def _answer(
        self, entities: Sequence[Found], wanted: Span, within: evolution.Within, heard: Sequence[Sequence[Heard]],
        hidden: Sequence[frozenset[str]], cut: int | None,
    ) -> Answer:
        """The evolutions of entities, of the house and of what was heard, up to where all of it is complete."""
        if not entities:
            return Answer([])
        if wanted.style == "aggregatedValues":
            plain = wanted._replace(style="normalized", last=None)
            told = [told_of(own, names, plain) for own, names in zip(heard, hidden, strict=True)]
            found = await self.history.evolutions(entities, plain, within, told, MAX_INSTANCES)
            if found.cut is not None:
                raise _too_many("instances", MAX_INSTANCES)
            times = [point.time for one in found.evolutions for own in one.points.values() for point in own]
            origin = wanted.start if wanted.start is not None else min(times, default=0)
            until = wanted.end if wanted.end is not None else now_us()
            return Answer([summarised(one, wanted, origin, until) for one in found.evolutions])
        narrow = cut_at(wanted, cut)
        told = [told_of(own, names, narrow) for own, names in zip(heard, hidden, strict=True)]
        answer = await self.history.evolutions(entities, narrow, within, told)
        if cut is None or answer.cut is not None:
            return answer
        times = [point.time for one in answer.evolutions for own in one.points.values() for point in own]
        return answer._replace(cut=evolution.span_of(
            wanted, cut if wanted.last else min(times, default=cut), max(times, default=cut) if wanted.last else cut
        ))

    # ---- asking sources

    async def _one(self, item: Registration, portion: Portion, caller: Caller, wanted: Span) -> Reply:
        """What a source has of one entity."""
        context, _ = self.sources.forwarder.context(item, caller)
        names = ",".join(sorted(map(context.shown, portion.names or ())))
        (id,) = portion.ids

        def request(span: Span, offset: int) -> Request:
            if item.offers("retrieveTemporal") is None:
                return self._querying(item, portion, caller, Filters(), span, offset)
            attrs = [("attrs", names)] if names else []
            return "GET", f"temporal/entities/{quote(id, safe=':')}", [*attrs, *window(span), ("options", "sysAttrs")], None

        return await self._reply(
            item, portion, caller, wanted, request, whole=wanted.style == "aggregatedValues", only=frozenset({id})
        )

    async def _several(
        self, item: Registration, portion: Portion, caller: Caller, filters: Filters, wanted: Span, *, whole: bool,
        only: frozenset[str] | None = None,
    ) -> Reply:
        """What a source answers to a query, among `only` these ids."""
        asked = portion if only is None else portion._replace(ids=tuple(sorted(only)), pattern=None)

        def request(span: Span, offset: int) -> Request:
            return self._querying(item, asked, caller, filters, span, offset)

        return await self._reply(item, portion, caller, wanted, request, whole=whole, only=only)

    async def _completed(
        self, replies: Sequence[Reply], ids: Collection[str], caller: Caller, filters: Filters, wanted: Span
    ) -> list[Reply]:
        """The replies about the entities of a page. Who had cut its answer is asked again for these alone; for aggregates
        until all of it is here."""
        async def one(reply: Reply) -> Reply:
            own = sorted(id for id in reply.heard if id in ids)
            if reply.cut is None or not own:
                return reply._replace(cut=None)
            parts = await asyncio.gather(*(
                self._several(
                    reply.registration, reply.portion, caller, filters, wanted, only=frozenset(own[at : at + IDS]),
                    whole=wanted.style == "aggregatedValues",
                )
                for at in range(0, len(own), IDS)
            ))
            heard = {id: found for part in parts for id, found in part.heard.items()}
            return reply._replace(heard=heard, cut=_soonest(wanted, parts))

        return list(await asyncio.gather(*(one(reply) for reply in replies)))

    async def _reply(
        self, item: Registration, portion: Portion, caller: Caller, wanted: Span,
        request: Callable[[Span, int], Request], *, whole: bool, only: frozenset[str] | None,
    ) -> Reply:
        """Ask a source page by page and, with `whole`, on where it cuts its answer in time. Raises `TooManyResults`."""
        first = wanted._replace(last=None) if wanted.style == "aggregatedValues" else wanted
        context, _ = self.sources.forwarder.context(item, caller)
        names = portion.names if portion.names is not None else EVERY
        heard: dict[str, Heard] = {}
        cut: int | None = None
        span, offset, size, full = first, 0, 0, False
        for _ in range(MAX_REQUESTS):
            (outcome,) = await self.sources.ask(caller, [(item, request(span, offset))])
            pieces = [
                piece for piece in self.sources.read(
                    outcome, caller, lambda raw: heard_of(raw, context, item, names, wanted), alone=only is not None
                ) if only is None or piece.id in only
            ]
            for piece in pieces:
                heard[piece.id] = joined(heard.get(piece.id), piece)
            size += sum(len(piece.points) for piece in pieces)
            if size > MAX_INSTANCES:
                raise _too_many("instances", MAX_INSTANCES)
            full = full or (isinstance(outcome.body, list) and len(outcome.body) >= MAX_LIMIT)
            at = cut_of(outcome, span, pieces)
            if at is not None and whole:
                span = beyond(span, at)
                continue
            if at is not None:
                cut = at if cut is None else (max if wanted.last else min)(cut, at)
            if not full:
                return Reply(item, portion, heard, cut)
            span, offset, full = first, offset + MAX_LIMIT, False
        raise _too_many("requests", MAX_REQUESTS)

    def _querying(
        self, item: Registration, portion: Portion, caller: Caller, filters: Filters, span: Span, offset: int
    ) -> Request:
        context, _ = self.sources.forwarder.context(item, caller)
        names = ",".join(sorted(map(context.shown, portion.names or ())))
        given = [
            ("type", type_text(portion.types, context)), ("id", ",".join(portion.ids)), ("idPattern", portion.pattern or ""),
            ("attrs", names), ("scopeQ", filters.texts.get("scopeQ", "")),
        ]
        if not filters.split:
            given += [(name, filters.texts.get(name, "")) for name in ("q", "expandValues")]
            given += [(name, text_of(value)) for name, value in (filters.geo or {}).items()]
        return "GET", "temporal/entities", [
            *((name, value) for name, value in given if value), *window(span, needed=True), ("options", "sysAttrs"),
            ("limit", str(MAX_LIMIT)), *([("offset", str(offset))] if offset else []),
        ], None

    # ---- writing

    @operation(WRITE)
    async def split(
        self, actor: Actor, id: str, names: frozenset[str], operation: str, caller: Caller, *, tenant: str | None = None,
        types: Sequence[str] | None = None, whole: bool = False,
    ) -> list[Part]:
        """Who does which part of a write of a history (5.6.11 to 5.6.16). An empty list: the house alone."""
        action = ACTIONS.get(operation, WRITE)
        org = self.history.entities.tenant(actor, tenant, action)
        self.policy.require(actor, action, org)
        index = self.sources.registrations.active.get(org)
        if index is None:
            return []
        now = now_us()
        serving = [
            (item, offered) for item in index.candidates(types, id)
            if matching.in_force(item, now, caller.chain) and (offered := item.names(id, types)) is not None
        ]
        parts = parts_of(names, serving, (operation,), whole=whole)
        return parts if any(part.registration is not None for part in parts) else []


def _serves(item: Registration, wanted: Span, caller: Caller | None, *operations: str) -> bool:
    """Whether a registration is in force, offers one of these operations, and may have something of what is wanted."""
    return (
        item.offers(*operations) is not None and matching.in_force(item, now_us(), caller.chain if caller is not None else ())
        and matching.of_the_time(item, wanted.timeproperty, wanted.start, wanted.end)
        and not (wanted.datasets and item.datasets and wanted.datasets.isdisjoint(item.datasets))
    )


def _origins(found: Found | None, heard: Iterable[Heard]) -> list[str]:
    """Where an entity is held (5.2.39)."""
    return [*(["@none"] if found is not None else []), *dict.fromkeys(item.registration.id for item in heard)]


def _attributes(names: frozenset[str], offered: frozenset[str]) -> frozenset[str]:
    """The attributes of these names that are offered; all that are, where only the scope is wanted."""
    wanted = names - {"scope"}
    return offered if not wanted else wanted if offered is EVERY else wanted & offered


def _types(item: Registration, id: str) -> Any:
    """The types that a registration names for an entity."""
    found = {name for info in item.infos for entity in info.entities if entity.serves(id, None) for name in entity.types}
    return matching.any_of(found) if found else None


def _soonest(wanted: Span, replies: Iterable[Reply]) -> int | None:
    """The time up to which (with `lastN`: back to which) all replies are complete."""
    cuts = [reply.cut for reply in replies if reply.cut is not None]
    return None if not cuts else max(cuts) if wanted.last else min(cuts)


def _too_many(what: str, most: int) -> TooManyResults:
    return TooManyResults(f"来源的历史过多（{what} 超过 {most}），请缩小查询", f"more than {most} {what} of sources: narrow the query",
                          field="query", rule=f"<= {most}")
