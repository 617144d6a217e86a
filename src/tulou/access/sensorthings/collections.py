"""Collections of SensorThings: which items they have, in which order, how many, and how an item is found by its id.

Law: only of the organisations given. Nothing is scanned in secret: lists go by key, time is a range of the readings'
index, a latest Observation is a maintained value, a count is an index's; a condition that must be tested item by item
is tested on at most `MOST_TESTED` items, and an `Invalid` names that rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import sqlalchemy as sa

from tulou.access.directory import Directory
from tulou.access.sensorthings.evaluate import evaluate, folded, holds, no_property, resolve
from tulou.access.sensorthings.model import (
    DATASTREAM,
    FIELDS,
    HISTORICAL,
    LOCATION,
    OBSERVATION,
    PLACED,
    PROPERTY,
    SENSOR,
    SET_OF,
    THING,
    Item,
    Place,
    Reading,
    Stream,
    Vocabulary,
    moment_key,
    observation_key,
    stream_key,
)
from tulou.access.sensorthings.odata import Node, Options, Path, bad, conjuncts
from tulou.access.sensorthings.selection import (
    Asked,
    EntitySql,
    NotPushed,
    asked_of,
    indexed,
    stream_conditions,
    where_of,
)
from tulou.context import Span, Temporal, entities
from tulou.kernel.errors import Forbidden, Invalid, NotFound
from tulou.kernel.http import cursor, from_cursor
from tulou.kernel.policy import Actor, Orgs
from tulou.kernel.readings import Value
from tulou.kernel.sql import within

if TYPE_CHECKING:
    from tulou.kernel.house import House

PAGE, EXPANDED, LARGEST = 100, 25, 1_000
"""Entities of a page without `$top`, of an expanded one, and at most."""
MOST_TESTED = 20_000
"""Entities or Datastreams that one request tests one by one, or sorts by what no index has."""
MOST_UNINDEXED = 200_000
"""Entities among which SQL looks for what it has no index for: a name, a part of a text, an order other than by id."""
MOST_STREAMS = 100
"""Datastreams whose Observations one request sorts together or counts."""
MOST_EXPANDED, MOST_ASKED = 10_000, 500
"""Entities in one answer, everything expanded included; collections of Observations that the store is asked for."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A collection: all of a kind, or those that an item leads to."""

    kind: str
    of: tuple[str, Item] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Items in order; `following` replaces `$skip` or `$skiptoken` where there are more."""

    items: Sequence[Item]
    following: tuple[str, str] | None = None
    count: int | None = None


def no_such(kind: str, key: Any) -> NotFound:
    """The one error for an entity that is not there or must not be known."""
    return NotFound(f"没有 {kind}({key})", f"no {kind}({key})", field="id", value=key)


def too_many(what_zh: str, what_en: str, most: int, field: str = "$filter") -> Invalid:
    """The error for what would be a scan."""
    return Invalid(f"{what_zh}（最多 {most}）；请缩小范围", f"{what_en} (at most {most}); ask for less", field=field,
                   rule=f"<= {most}")


@dataclass(slots=True)
class Walk:
    """How Datastreams are enumerated: SQL on their entities, what is left to test, and names by type."""

    where: list[sa.ColumnElement[bool]]
    left: list[Node]
    declared: dict[str, list[str]]
    wanted: Callable[[str, str], bool]


class Collections:
    """The collections of one request."""

    def __init__(self, house: House, directory: Directory, words: Vocabulary, actor: Actor, orgs: Orgs) -> None:
        self.house = house
        self.actor = actor
        self.directory = directory
        self.words = words
        self.orgs = orgs
        self.db = house.db
        self.readings = house.readings

    # -- one entity by its id

    async def fetch(self, kind: str, key: int | str) -> Item:
        """The entity of an id. Raises `NotFound`, also for one of an organisation that must not be known."""
        found: Item | None = None
        if kind in (LOCATION, HISTORICAL) and (then := moment_key(key)) is not None:
            found = await self._place_at(*then)
            if kind == LOCATION and found is not None and found.current:
                found = None
        elif kind in PLACED and kind != HISTORICAL:
            found = await self._place(key) if isinstance(key, int) else None
            if found is not None and kind == LOCATION and found.lon is None:
                found = None
        elif kind == DATASTREAM:
            pair = stream_key(key)
            found = None if pair is None else await self._stream(*pair)
        elif kind == OBSERVATION:
            triple = observation_key(key)
            stream = None if triple is None else await self._stream(*triple[:2])
            if triple is not None and stream is not None:
                values = await self._values(stream, Asked(triple[2], triple[2] + 1), limit=1)
                found = Reading(stream, values[0]) if values else None
        elif kind in (SENSOR, PROPERTY) and isinstance(key, str) and key in await self._names(kind, key):
            found = key
        if found is None:
            raise no_such(SET_OF[kind], key)
        return found

    async def _place(self, no: int) -> Place | None:
        rows = await self._rows([entities.c.no == no], limit=1)
        return rows[0] if rows else None

    async def _place_at(self, no: int, since: int) -> Place | None:
        place = await self._place(no)
        if place is None or (place.since == since and place.lon is not None):
            return place
        return next((then for then in await self._places_of(place) if then.since == since), None)

    async def _places_of(self, place: Place) -> list[Place]:
        """Where a thing is and was, newest first: at most the newest `LARGEST` that the house kept."""
        found = [] if place.lon is None else [place]
        wanted = Span(names=frozenset({"location"}), last=LARGEST)
        try:
            answer = await self.house.service(Temporal).retrieve(self.actor, place.id, wanted, tenant=place.org)
        except (NotFound, Forbidden):  # no history, or none that he may read
            return found
        points = answer.evolutions[0].points.get("location", [])
        for point in sorted(points, key=lambda point: point.time, reverse=True):
            shape = point.body.get("value")
            here = found[-1] if found else None
            if not isinstance(shape, dict) or (here is not None and (
                point.time >= here.since or (here is place and shape == self.words.field(LOCATION, place, "location"))
            )):
                continue
            found.append(place._replace(geometry=shape, since=point.time, current=False))
        return found

    async def _stream(self, no: int, name: str) -> Stream | None:
        place = await self._place(no)
        if place is None:
            return None
        if name in self.words.properties(place.type):
            return Stream(place, name)
        return Stream(place, name) if await self.readings.latest([no], [name], orgs=self.orgs) else None

    async def _names(self, kind: str, key: str | None = None) -> list[str]:
        """Sensors or ObservedProperties; with `key` that one also if only things show that there is one."""
        if kind == SENSOR:
            directory = self.directory
            mask = directory.within(self.orgs)
            seen = {directory.types[code] for code in set(directory.type[mask].tolist())}
            return sorted({*self.words.models, *seen})
        names = sorted(self.words.declared)
        if key is not None and key not in self.words.declared:
            found = await self.readings.latest(None, [key], orgs=self.orgs)
            return [key] if found else []
        return names

    # -- pages

    async def page(self, scope: Scope, options: Options) -> Page:
        """The items of a collection that the options select."""
        if options.data_array and scope.kind != OBSERVATION:
            raise bad("dataArray 仅用于 Observations", "dataArray is for Observations", field="$resultFormat",
                      rule="18-088, clause 13")
        options = replace(options, filter=None if options.filter is None else folded(options.filter))
        if scope.kind == OBSERVATION:
            return await self._observations(scope, options)
        if scope.of is not None and isinstance(scope.of[1], Place):
            return self._here(scope.kind, await self._around(scope.kind, scope.of[0], scope.of[1]), options)
        if scope.kind in PLACED:
            return await self._places(scope, options)
        if scope.kind == DATASTREAM:
            return await self._streams(scope, options)
        return self._here(scope.kind, await self._names(scope.kind), options)

    async def _around(self, kind: str, of: str, place: Place) -> Sequence[Item]:
        """What a thing or its place leads to, which needs no look at other things."""
        if kind == DATASTREAM:
            walk = self._walk_of(Scope(DATASTREAM), [], DATASTREAM)
            extras = (await self._extras(walk, [place]))[place.no]
            return [Stream(place, name) for name in sorted([*walk.declared.get(place.type, ()), *extras])]
        if kind == HISTORICAL and of == THING:
            return await self._places_of(place)
        return [] if kind != THING and place.lon is None else [place]

    def _here(self, kind: str, items: Sequence[Item], options: Options) -> Page:
        """A page of few items, which are all here."""
        parts = conjuncts(options.filter)
        found = [item for item in items if all(holds(part, self._resolver(kind, item)) for part in parts)]
        return self._sorted(kind, found, options)

    def _resolver(self, kind: str, item: Item) -> Callable[[tuple[str, ...]], Any]:
        return partial(resolve, self.words, kind, item)

    def _sorted(self, kind: str, items: list[Any], options: Options) -> Page:
        """A page of items that are all here, in the order asked for."""
        for node, descending in reversed(options.orderby):
            def key(item: Item, node: Node = node) -> tuple[bool, Any]:
                value = evaluate(node, self._resolver(kind, item))
                return (value is None, "" if value is None else value)

            try:
                items.sort(key=key, reverse=descending)
            except TypeError:
                raise bad("不能按此排序", "this cannot be sorted by", field="$orderby", rule="values of one type") from None
        top, skip = size_of(options), options.skip
        more = len(items) > skip + top > 0 and top > 0
        return Page(items[skip : skip + top], ("$skip", str(skip + top)) if more else None,
                    len(items) if options.count else None)

    def _within(self, scope: Scope) -> list[sa.ColumnElement[bool]]:
        """Which entities a collection of places or Datastreams is about."""
        where: list[sa.ColumnElement[bool]] = []
        if scope.kind in (LOCATION, HISTORICAL):
            where.append(entities.c.lon.is_not(None))
        match scope.of:
            case (_, Place() as place):
                where.append(entities.c.no == place.no)
            case ("Sensor", str() as kind):
                where.append(entities.c.type == kind)
        return where

    async def _rows(
        self, where: Sequence[sa.ColumnElement[bool]], *, after: int = 0, limit: int,
        order: Sequence[Any] = (), offset: int = 0,
    ) -> list[Place]:
        c = entities.c
        query = sa.select(
            c.no, c.id, c.org, c.type, sa.func.coalesce(c.name, "").label("name"), c.synthetic, c.lon, c.lat,
            sa.case((c.west.is_not(None), c.doc)).label("doc"), c.times, c.created_at,
        ).where(*where)
        query = query.where(*within(c.org, self.orgs))
        if after:
            query = query.where(c.no > after)
        query = query.order_by(*order, c.no).limit(limit)
        if offset:
            query = query.offset(offset)
        return [_place_of(row) for row in await self.db.read(lambda connection: connection.execute(query).all())]

    async def _counted(self, where: Sequence[sa.ColumnElement[bool]]) -> dict[str, int]:
        """How many entities, by type."""
        c = entities.c
        query = sa.select(c.type, sa.func.count()).where(*where).group_by(c.type)
        query = query.where(*within(c.org, self.orgs))
        rows = await self.db.read(lambda connection: connection.execute(query).all())
        return {row[0]: row[1] for row in rows}

    def _split(self, kind: str, parts: Iterable[Node]) -> tuple[list[sa.ColumnElement[bool]], list[Node]]:
        """SQL conditions, and what must be tested item by item."""
        compiler = EntitySql(self.words, kind, self.db.dialect)
        where: list[sa.ColumnElement[bool]] = []
        left: list[Node] = []
        for part in parts:
            try:
                where.append(compiler.pushed(part))
            except NotPushed:
                left.append(part)
                if (implied := compiler.implied(part)) is not None:
                    where.append(implied)
        return where, left

    def _afford(self, kind: str, scope: Scope, parts: Sequence[Node], sorts: bool = False) -> None:
        """Raises `Invalid` where SQL would have to look through more than `MOST_UNINDEXED` entities."""
        if scope.of is not None or not (parts or sorts) or any(indexed(kind, part) for part in parts):
            return
        if int(self.directory.within(self.orgs).sum()) > MOST_UNINDEXED:
            raise too_many(
                "实体过多，此条件或排序没有索引；请同时给出 id、properties/type 或地点",
                "too many entities for a condition or an order without an index; name an id, properties/type or a place too",
                MOST_UNINDEXED, "$filter" if parts else "$orderby",
            )

    async def _places(self, scope: Scope, options: Options) -> Page:
        kind = scope.kind
        parts = conjuncts(options.filter)
        self._afford(kind, scope, parts, sorts=not _natural(options))
        where, left = self._split(kind, parts)
        where += self._within(scope)
        top, skip = size_of(options), options.skip
        natural = _natural(options)
        if not left:
            count = sum((await self._counted(where)).values()) if options.count else None
            if top == 0:
                return Page([], None, count)
            after = from_cursor(options.skiptoken, 1) if natural else None
            order = [] if natural else self._order(kind, options)
            if order is not None:
                rows = await self._rows(where, after=_whole(after, 0), limit=top + 1, order=order, offset=skip)
                return Page(rows[:top], _following(rows, top, natural, skip, lambda row: [row.no]), count)
        begin = 0 if options.count or not natural else _whole(from_cursor(options.skiptoken, 1), 0)
        source = self._all_places(where, after=begin)
        return await self._tested(kind, source, left, options, natural, lambda item: [item.no])

    def _order(self, kind: str, options: Options) -> list[Any] | None:
        compiler = EntitySql(self.words, kind, self.db.dialect)
        try:
            return [
                compiler.sorted_by(node).desc() if down else compiler.sorted_by(node).asc()
                for node, down in options.orderby
            ]
        except NotPushed:
            return None

    async def _all_places(
        self, where: Sequence[sa.ColumnElement[bool]], *, after: int = 0, chunk: int = 1000
    ) -> AsyncIterator[Place]:
        while True:
            rows = await self._rows(where, after=after, limit=chunk)
            for row in rows:
                yield row
            if len(rows) < chunk:
                return
            after = rows[-1].no

    async def _tested(
        self, kind: str, source: AsyncIterator[Any], left: Sequence[Node], options: Options, natural: bool,
        key: Callable[[Any], list[Any]],
    ) -> Page:
        """A page of what passes `left`, of at most `MOST_TESTED` candidates."""
        top, skip = size_of(options), options.skip
        after = from_cursor(options.skiptoken, 2 if kind == DATASTREAM else 1) if natural else None
        whole = options.count or not natural
        found: list[Any] = []
        number = tested = 0
        async for item in source:
            tested += 1
            if tested > MOST_TESTED and (left or not natural):
                raise too_many("此条件或排序没有索引，须逐个检查", "this condition or order has no index and would be tested one by one",
                               MOST_TESTED, "$filter" if left else "$orderby")
            if left and not all(holds(part, self._resolver(kind, item)) for part in left):
                continue
            number += 1
            if not natural:
                found.append(item)
            elif after is None or key(item) > after:
                found.append(item)
                if len(found) > skip + top and not whole:
                    break
        if not natural:
            return self._sorted(kind, found, options)
        page = found[skip : skip + top]
        more = len(found) > skip + top and bool(page)
        return Page(page, ("$skiptoken", cursor(key(page[-1]))) if more else None, number if options.count else None)

    # -- Datastreams

    async def _streams(self, scope: Scope, options: Options) -> Page:
        parts = conjuncts(options.filter)
        walk = self._walk_of(scope, parts, DATASTREAM)
        natural = _natural(options)
        count = await self._count_streams(walk) if options.count and not walk.left else None
        if natural and size_of(options) == 0:
            return Page([], None, count)
        after = from_cursor(options.skiptoken, 2) if natural else None
        chunk = 1000 if walk.left or not natural else min(1000, size_of(options) + options.skip + 1)
        source = self._all_streams(walk, _whole(after, 0), chunk)
        asked = replace(options, count=options.count and bool(walk.left))
        if options.count and walk.left:
            source = self._all_streams(walk, 0, chunk)
        page = await self._tested(DATASTREAM, source, walk.left, asked, natural, lambda s: [s.place.no, s.property])
        return replace(page, count=page.count if count is None else count)

    def _walk_of(self, scope: Scope, parts: Sequence[Node], kind: str) -> Walk:
        """How to enumerate the Datastreams of a collection of Datastreams or Observations."""
        decided = stream_conditions(parts, kind)
        other = [part for part in parts if part not in decided]
        self._afford(kind, scope, other)
        where, left = self._split(kind, other)
        where += self._within(Scope(DATASTREAM, scope.of))
        only = scope.of[1] if scope.of and scope.of[0] == PROPERTY else None

        def wanted(type: str, name: str) -> bool:
            if only is not None and name != only:
                return False
            stream = Stream(Place(0, "", "", type, "", False, None, None, None, 0), name)
            item: Item = stream if kind == DATASTREAM else Reading(stream, Value(0, 0.0, 0, 0))
            return all(holds(part, self._resolver(kind, item)) for part in decided)

        declared = {
            type: sorted(name for name in model.properties if wanted(type, name))
            for type, model in self.words.models.items()
        }
        barren = sorted(type for type, names in declared.items() if not names and self.words.closed(type))
        if barren:
            where.append(entities.c.type.not_in(barren))
        return Walk(where, left, declared, wanted)

    async def _extras(self, walk: Walk, places: Sequence[Place]) -> dict[int, list[str]]:
        """Names of properties that no model declares and that these entities have readings of."""
        nos = [place.no for place in places if not self.words.closed(place.type)]
        latest = await self.readings.latest(nos, orgs=self.orgs) if nos else {}
        return {
            place.no: [
                name for name in latest.get(place.no, ())
                if name not in self.words.properties(place.type) and walk.wanted(place.type, name)
            ]
            for place in places
        }

    async def _all_streams(self, walk: Walk, from_no: int, chunk: int) -> AsyncIterator[Stream]:
        after = max(from_no - 1, 0)
        while True:
            rows = await self._rows(walk.where, after=after, limit=chunk)
            extras = await self._extras(walk, rows)
            for row in rows:
                for name in sorted([*walk.declared.get(row.type, ()), *extras[row.no]]):
                    yield Stream(row, name)
            if len(rows) < chunk:
                return
            after = rows[-1].no

    async def _count_streams(self, walk: Walk) -> int:
        counted = await self._counted(walk.where)
        total = sum(n * len(walk.declared.get(type, ())) for type, n in counted.items())
        loose = [type for type in counted if not self.words.closed(type)]
        if loose:
            if sum(counted[type] for type in loose) > 10 * MOST_TESTED:
                raise too_many("开放类型的实体过多，无法计数其数据流", "too many things of open types to count their Datastreams",
                               10 * MOST_TESTED, "$count")
            after = 0
            while True:
                rows = await self._rows([*walk.where, entities.c.type.in_(loose)], after=after, limit=5000)
                total += sum(map(len, (await self._extras(walk, rows)).values()))
                if len(rows) < 5000:
                    break
                after = rows[-1].no
        return total

    # -- Observations

    async def _values(
        self, stream: Stream, asked: Asked, order: Order | None = None, *, skip: int = 0, limit: int
    ) -> list[Value]:
        if asked.empty:
            return []
        order = order or Order()
        return await self.readings.observations(
            stream.place.no, stream.property, asked.start, asked.end, orgs=self.orgs, where=asked.condition,
            order=order.by, descending=order.descending, newest_first=order.newest_first, skip=skip, limit=limit,
        )

    async def _count(self, streams: Sequence[Stream], asked: Asked) -> int:
        if asked.empty:
            return 0
        return sum(await asyncio.gather(*(
            self.readings.tally(stream.place.no, stream.property, asked.start, asked.end, orgs=self.orgs,
                                where=asked.condition)
            for stream in streams
        )))

    async def _observations(self, scope: Scope, options: Options) -> Page:
        asked = asked_of(conjuncts(options.filter))
        order = order_of_readings(options)
        if scope.of is not None and isinstance(scope.of[1], Stream):
            stream = scope.of[1]
            if all(holds(part, self._resolver(OBSERVATION, Reading(stream, Value(0, 0.0, 0, 0)))) for part in asked.streams):
                return await self._of_stream(stream, asked, order, options)
            return Page([], None, 0 if options.count else None)
        walk = self._walk_of(scope, asked.streams, OBSERVATION)
        if options.orderby or options.count:
            streams = await self._few_streams(walk)
            if len(streams) == 1:
                return await self._of_stream(streams[0], asked, order, options)
            count = await self._count(streams, asked) if options.count else None
            if options.orderby:
                return replace(await self._merged(streams, asked, order, options), count=count)
            return replace(await self._by_stream(walk, asked, options), count=count)
        return await self._by_stream(walk, asked, options)

    async def _passing(self, walk: Walk, from_no: int = 0, chunk: int = 200) -> AsyncIterator[Stream]:
        tested = 0
        async for stream in self._all_streams(walk, from_no, chunk):
            tested += 1
            if walk.left:
                if tested > MOST_TESTED:
                    raise too_many("此条件没有索引，须逐个检查数据流", "this condition has no index: Datastreams would be tested one by one",
                                   MOST_TESTED)
                item = Reading(stream, Value(0, 0.0, 0, 0))
                if not all(holds(part, self._resolver(OBSERVATION, item)) for part in walk.left):
                    continue
            yield stream

    async def _few_streams(self, walk: Walk) -> list[Stream]:
        """All Datastreams that have Observations. Raises `Invalid` for more than `MOST_STREAMS`."""
        found: list[Stream] = []
        batch: list[Stream] = []

        async def known() -> None:
            nos = sorted({stream.place.no for stream in batch})
            latest = await self.readings.latest(nos, orgs=self.orgs) if nos else {}
            found.extend(stream for stream in batch if stream.property in latest.get(stream.place.no, {}))
            batch.clear()
            if len(found) > MOST_STREAMS:
                raise too_many("跨数据流排序或计数的数据流过多", "too many Datastreams to sort or count Observations across",
                               MOST_STREAMS, "$orderby")

        async for stream in self._passing(walk):
            batch.append(stream)
            if len(batch) >= 1000:
                await known()
        await known()
        return found

    async def _of_stream(
        self, stream: Stream, asked: Asked, order: Order, options: Options
    ) -> Page:
        """A page of one Datastream, by the index of its time."""
        top, skip = size_of(options), options.skip
        count = await self._count([stream], asked) if options.count else None
        if top == 0:
            return Page([], None, count)
        token = from_cursor(options.skiptoken, 1) if order.by == "ts" else None
        if token is None and order == Order() and top == 1 and not skip and asked == Asked():
            latest = await self.readings.latest([stream.place.no], [stream.property], orgs=self.orgs)
            return self.newest(stream, latest.get(stream.place.no, {}).get(stream.property), count)
        if token is not None:
            asked = replace(asked)
            if order.descending:
                asked.until(_whole(token, 0))
            else:
                asked.since(_whole(token, 0) + 1)
        values = await self._values(stream, asked, order, skip=skip, limit=top + 1)
        more = len(values) > top
        values = values[:top]
        following = None
        if more and order.by == "ts":
            following = ("$skiptoken", cursor([values[-1].ts]))
        elif more:
            following = ("$skip", str(skip + top))
        return Page([Reading(stream, value) for value in values], following, count)

    def newest(self, stream: Stream, value: Value | None, count: int | None = None) -> Page:
        """The newest Observation; whether there is an older one is not looked up, its link may lead to an empty page."""
        if value is None:
            return Page([], None, count)
        return Page([Reading(stream, value)], ("$skiptoken", cursor([value.ts])), count)

    async def _merged(
        self, streams: Sequence[Stream], asked: Asked, order: Order, options: Options
    ) -> Page:
        """A page of several Datastreams in one order."""
        top, skip = size_of(options), options.skip
        if skip + top > 10 * LARGEST:
            raise too_many("$skip 过大", "$skip is too large", 10 * LARGEST, "$skip")
        parts = await asyncio.gather(*(
            self._values(stream, asked, order, limit=skip + top + 1) for stream in streams
        ))
        every = [Reading(stream, value) for stream, values in zip(streams, parts, strict=True) for value in values]
        plain = replace(options, count=False)
        return self._sorted(OBSERVATION, every, plain)

    async def _by_stream(self, walk: Walk, asked: Asked, options: Options) -> Page:
        """A page in the order of the store: Datastream by Datastream, each newest first. May be shorter than asked for."""
        top = size_of(options)
        if options.skip:
            raise bad("跨数据流请用 @iot.nextLink 翻页", "across Datastreams follow @iot.nextLink instead", field="$skip",
                      value=options.skip, rule="@iot.nextLink")
        token = from_cursor(options.skiptoken, 3)
        at = None if token is None else (_whole(token, 0), str(token[1]))
        items: list[Reading] = []
        asks = 0
        async for stream in self._passing(walk, 0 if at is None else at[0], 50):
            here = (stream.place.no, stream.property)
            if top == 0:
                break
            if at is not None and here < at:
                continue
            mine = asked
            if here == at and (before := _whole(token, 2)):
                mine = replace(asked)
                mine.until(before)
            room = top - len(items)
            if room == 0 or asks >= MOST_STREAMS:  # enough for one request: the rest by the link
                return Page(items, ("$skiptoken", cursor([*here, 0])))
            values = await self._values(stream, mine, limit=room + 1)
            asks += 1
            items += [Reading(stream, value) for value in values[:room]]
            if len(values) > room:
                return Page(items, ("$skiptoken", cursor([*here, items[-1].value.ts])))
        return Page(items)

    # -- the newest Observations

    async def all_latest(self, kind: str, items: Sequence[Item], options: Options) -> dict[int, dict[str, Value]] | None:
        """The newest Observations of all Datastreams at once, where that is all that is expanded of them."""
        inner = options.expand.get("Observations") if kind == DATASTREAM else None
        if inner is None or inner.top != 1 or inner.filter or inner.skip or inner.count or inner.skiptoken:
            return None
        if order_of_readings(inner) != Order():
            return None
        streams = [item for item in items if isinstance(item, Stream)]
        return await self.readings.latest(
            sorted({s.place.no for s in streams}), sorted({s.property for s in streams}), orgs=self.orgs
        ) if streams else {}


def _place_of(row: Any) -> Place:
    geometry = None
    if row.doc is not None:
        location = row.doc.get("location")
        one = location[0] if isinstance(location, list) else location
        geometry = one.get("value") if isinstance(one, dict) else None
    times = row.times or {}
    pair = times.get("location") or times.get("*") or [row.created_at] * 2
    return Place(row.no, row.id, row.org, row.type, row.name, bool(row.synthetic), row.lon, row.lat, geometry, pair[1])


def size_of(options: Options) -> int:
    """Entities of a page: a `$top` beyond the service's own limit is discarded (18-088, 9.3.3.2)."""
    return PAGE if options.top is None else min(options.top, LARGEST)


def _natural(options: Options) -> bool:
    return not options.orderby or options.orderby in tuple(((Path((name,)), False),) for name in ("id", "@iot.id"))


def _following(
    rows: Sequence[Any], top: int, natural: bool, skip: int, key: Callable[[Any], list[Any]]
) -> tuple[str, str] | None:
    if len(rows) <= top:
        return None
    return ("$skiptoken", cursor(key(rows[top - 1]))) if natural else ("$skip", str(skip + top))


def _whole(token: list[Any] | None, at: int) -> int:
    """A whole number of a cursor, 0 without one. Raises `Invalid`."""
    value = 0 if token is None else token[at]
    if not isinstance(value, int):
        raise bad("$skiptoken 不是本列表的", "$skiptoken is not of this list", field="$skiptoken", value=value, rule="cursor")
    return value


class Order(NamedTuple):
    """How the Observations of one Datastream are sorted: by time or value, and equal values by time."""

    by: Literal["ts", "value"] = "ts"
    descending: bool = True
    newest_first: bool = True


_KEYS: dict[tuple[str, ...], Literal["ts", "value"]] = {
    ("phenomenonTime",): "ts", ("resultTime",): "ts", ("id",): "ts", ("@iot.id",): "ts", ("result",): "value",
}


def order_of_readings(options: Options) -> Order:
    """The order within one Datastream; newest first if nothing is said. What is of the Datastream is the same for all."""
    keys: list[tuple[Literal["ts", "value"], bool]] = []
    for node, descending in options.orderby:
        parts = node.parts if isinstance(node, Path) else ()
        if parts in _KEYS:
            keys.append((_KEYS[parts], descending))
            continue
        kind, rest = where_of(OBSERVATION, parts)
        if parts and (not rest or rest[0] not in ("id", "@iot.id", *FIELDS[kind])):
            raise no_property(parts, kind)
        if kind in (OBSERVATION, "") or parts[0] not in ("Datastream", "FeatureOfInterest"):
            raise bad("读数只能按 phenomenonTime、resultTime、id、result 或其数据流排序",
                      "Observations can be sorted by phenomenonTime, resultTime, id, result, or what is of their Datastream",
                      field="$orderby", rule="phenomenonTime | resultTime | id | result | Datastream/...")
    if not keys:
        return Order()
    by, descending = keys[0]
    return Order(by, descending, next((down for name, down in keys[1:] if name == "ts"), True))
