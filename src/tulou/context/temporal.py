"""Temporal evolution of entities: readings of devices and the journal of what was written, as one history.

Law: readings stay in the readings store and are never copied; the journal holds what came by this interface. What is
read at once is bounded: an answer that would be larger is cut at a time, for all attributes alike, and says where.
An instance is what was observed at one time: of several writes of the same attribute, dataset and observedAt the last
one is shown; by createdAt and modifiedAt all are.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.5.6 to 4.5.9, 4.5.19, 4.11, 5.6.11 to 5.6.16, 5.7.3, 5.7.4, 6.3.10.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from tulou.context import aggregates, forms, journal, traces
from tulou.context import selection as selecting
from tulou.context.aggregates import Summary
from tulou.context.columns import dumped, micros
from tulou.context.errors import OperationNotSupported, TooManyResults, bad
from tulou.context.evolution import (
    ONLY_HISTORY,
    Answer,
    Evolution,
    Found,
    Gathered,
    Judge,
    Matches,
    Scopes,
    Span,
    Told,
    Within,
    span_of,
)
from tulou.context.forms import Json
from tulou.context.journal import Ends, Line, Point
from tulou.context.paging import Cursor
from tulou.context.selection import Selection
from tulou.context.service import ContextService, no_such_attribute, no_such_entity, now_us
from tulou.kernel.errors import NotFound, TulouError
from tulou.kernel.policy import Actor, Orgs, operation
from tulou.kernel.sql import driver_of

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, CREATE = "context.temporal.read", "context.temporal.create"
WRITE, DELETE = "context.temporal.write", "context.temporal.delete"

AT_ONCE = 50
"""Entities whose history is read at a time."""
READINGS = 5_000
"""Readings of a property that are looked at at a time for a query's conditions."""
AGGREGATED = 500_000
"""Most instances of the journal that one answer may aggregate."""
# ---- operations ---------------------------------------------------------------------------------------------------


class Temporal:
    """The operations on history."""

    def __init__(self, house: House, entities: ContextService) -> None:
        self.house = house
        self.db = house.db
        self.policy = house.policy
        self.entities = entities
        self.store = entities.store
        self.journal = entities.journal
        self.limit = house.settings.temporal_instances

    @operation(READ)
    async def retrieve(self, actor: Actor, id: str, wanted: Span, *, tenant: str | None = None) -> Answer:
        """The evolution of one entity (5.7.3). Raises `NotFound` if it has no history, or none of `wanted.names`."""
        found = await self._find(actor, id, tenant)
        answer = await self.evolutions([found], wanted, {})
        if not answer.evolutions[0].kinds and not await self._has_history(found, wanted):
            raise no_such_history(id)
        return answer

    @operation(READ)
    async def query(
        self, actor: Actor, selection: Selection, wanted: Span, *, tenant: str | None = None, limit: int = 20,
        cursor: Cursor | None = None, offset: int = 0, count: bool = False, order: str | None = None,
    ) -> Answer:
        """Entities with instances in the time that satisfy `selection` (5.7.4), in order of number, or of id.

        `order` is None, "asc" or "desc". `limit` 0 only counts.
        """
        orgs = self._readable(actor, tenant)
        forward = cursor is None or cursor.forward
        place = None if cursor is None or order is not None else cursor.no
        page: list[Found] = []
        within: Within = {}
        matched = 0
        more = False
        async for found, scopes in self._matching(orgs, selection, wanted, place, forward, order):
            matched += 1
            if matched <= offset:
                continue
            if len(page) < limit:
                if selection.scope is not None:
                    within[len(page)] = scopes
                page.append(found)
            else:
                more = True
                if not count or place is not None:
                    break
        if count and place is not None:
            matched = 0
            async for _ in self._matching(orgs, selection, wanted, None, True, None):
                matched += 1
        if not forward:
            page.reverse()
            within = {len(page) - 1 - at: scopes for at, scopes in within.items()}
        answer = await self.evolutions(page, wanted, within) if page else Answer([])
        following = previous = None
        if page and order is None:
            if more or not forward:
                following = Cursor(page[-1].cursor, True)
            if (cursor is not None or offset) and (forward or more):
                previous = Cursor(page[0].cursor, False)
        elif more:
            following = Cursor(offset + limit)  # the door makes an offset of it
        return answer._replace(next=following, prev=previous, total=matched if count else None)

    @operation(READ)
    async def find(self, actor: Actor, id: str, *, tenant: str | None = None) -> Found:
        """The entity, with or without a history. Raises `NotFound`."""
        return await self._find(actor, id, tenant)

    @operation(READ)
    async def matches(
        self, actor: Actor, selection: Selection, wanted: Span, *, tenant: str | None = None, offset: int = 0,
        limit: int = 20, known: Collection[str] = frozenset(), count: bool = False,
    ) -> Matches:
        """The entities of a page of a query (5.7.4) in order of number, and which of `known` are among its result.

        Without `count` it looks no further than the page reaches.
        """
        found = Matches([], {}, set(), None)
        total = 0
        async for entity, scopes in self._matching(self._readable(actor, tenant), selection, wanted, None, True, None):
            if total >= offset + limit and not count:
                return found
            if offset <= total < offset + limit:
                if selection.scope is not None:
                    found.within[len(found.page)] = scopes
                found.page.append(entity)
            if entity.id in known:
                found.held.add(entity.id)
            total += 1
        return found._replace(total=total)

    async def _matching(
        self, orgs: Orgs, selection: Selection, wanted: Span, place: int | None, forward: bool, order: str | None
    ) -> AsyncIterator[tuple[Found, Scopes]]:
        """The entities that satisfy a query, some read at a time."""
        at: Any = place
        while True:
            chunk = await self.db.read(
                lambda c, at=at: self._candidates(driver_of(c), orgs, selection, at, forward, order)  # type: ignore[misc]
            )
            for found, scopes in zip(chunk, await self._judge(chunk, selection, wanted), strict=True):
                if scopes is not None:
                    yield found, scopes
            if len(chunk) < AT_ONCE:
                return
            at = chunk[-1].cursor if order is None else (chunk[-1].id, chunk[-1].org)

    @operation(CREATE)
    async def provide(
        self, actor: Actor, head: Json, attributes: Mapping[str, Sequence[Json]], *, tenant: str | None = None
    ) -> bool:
        """Create the temporal evolution of an entity, or add to it (5.6.11); True if it was created."""
        org = self.entities.tenant(actor, tenant, CREATE)
        _checked(attributes)
        now = now_us()
        stamped = _stamped(attributes, now)

        def write(connection: sa.Connection) -> bool:
            cursor = self.store.cursor(connection)
            row = self.store.get(cursor, head["id"], org)
            if row is not None:
                number, kind, fresh = row.no, row.type, False
            else:
                only, kind, fresh = self._only(cursor, head, org, now)
                number = -only
            self.journal.add(cursor, journal.provided(number, kind, stamped, now))
            traces.changed(self.db, actor, CREATE if fresh else WRITE, org, head["id"], list(attributes))
            return fresh

        return await self.db.write(write)

    def _only(self, cursor: Any, head: Json, org: str, now: int) -> tuple[int, str, bool]:
        """(number, type name, whether new) of an entity without a current state; its types are added to."""
        shown = self.entities.names.shown
        given = [shown(name) for name in forms.types_of(head)]
        types = "types::text" if self.store.postgres else "types"
        sql = self.store.sql(f"SELECT no,type,{types} FROM temporal_entities WHERE id=? AND org=?")
        known = cursor.execute(sql, (head["id"], org)).fetchone()
        if known is not None:
            before = orjson.loads(known[2]) if known[2] else [known[1]]
            after = list(dict.fromkeys([*before, *given]))
            sql = self.store.sql("UPDATE temporal_entities SET types=?,modified_at=? WHERE no=?")
            cursor.execute(sql, (dumped(after) if len(after) > 1 else None, now, known[0]))
            return known[0], known[1], False
        sql = self.store.sql("INSERT INTO temporal_entities (id,org,type,types,created_at,modified_at) VALUES (?,?,?,?,?,?)")
        cursor.execute(sql, (head["id"], org, given[0], dumped(given) if len(given) > 1 else None, now, now))
        sql = self.store.sql("SELECT no FROM temporal_entities WHERE id=? AND org=?")
        return cursor.execute(sql, (head["id"], org)).fetchone()[0], given[0], True

    @operation(WRITE)
    async def add_attributes(
        self, actor: Actor, id: str, attributes: Mapping[str, Sequence[Json]], *, tenant: str | None = None
    ) -> None:
        """Add instances of attributes to a temporal evolution (5.6.12). Raises `NotFound`."""
        _checked(attributes)
        now = now_us()

        def change(cursor: Any, found: Found) -> None:
            kind = self.entities.names.shown(found.types[0])
            rows = journal.provided(found.numbers[0], kind, _stamped(attributes, now), now)
            self.journal.add(cursor, rows)

        await self._write(actor, id, tenant, WRITE, change, list(attributes))

    @operation(DELETE)
    async def delete_attribute(
        self, actor: Actor, id: str, name: str, *, tenant: str | None = None, dataset: str | None = None,
        all_instances: bool = False,
    ) -> None:
        """Delete an attribute's instances of one dataset, or all, from a temporal evolution (5.6.13).

        `name` is stored. Raises `NotFound`, and `OperationNotSupported` where devices have sent readings of it.
        """
        found = await self._find(actor, id, tenant, DELETE)
        if dataset is None:
            await self._refuse_readings(found, name)

        def change(cursor: Any, found: Found) -> None:
            now = now_us()
            gone = 0
            for line in self.journal.lines(cursor, found.numbers, "createdAt", None, None, name=name):
                gone += _drop(line, name, lambda item: all_instances or item.get("datasetId") == dataset, self, cursor, now)
            if not gone:
                raise no_such_attribute(self.entities.names.shown(name))

        await self._write(actor, id, tenant, DELETE, change, [name])

    @operation(WRITE)
    async def modify_instance(
        self, actor: Actor, id: str, name: str, instance: str, patch: Json, *, tenant: str | None = None
    ) -> None:
        """Change an instance of an attribute (5.6.14); it keeps its id. `name` is stored. Raises `NotFound`."""
        def change(cursor: Any, found: Found) -> None:
            now = now_us()
            line, item, put = self._instance(cursor, found, name, instance)
            if item["type"] != patch["type"]:
                raise bad(f"{name} 的类别是 {item['type']}", f"{name} is a {item['type']}", field=f"{name}.type",
                          value=patch["type"], rule="same attribute type")
            fresh = {**forms.merge_instance(item, patch, deep=False), "modifiedAt": forms.moment(now)}
            self._drop_hidden(cursor, found, name, line, item, now)
            put(fresh)
            self.journal.write_again(cursor, line, now)

        await self._write(actor, id, tenant, WRITE, change, [name])

    @operation(DELETE)
    async def delete_instance(
        self, actor: Actor, id: str, name: str, instance: str, *, tenant: str | None = None
    ) -> None:
        """Delete an instance of an attribute (5.6.15). `name` is stored. Raises `NotFound`."""
        def change(cursor: Any, found: Found) -> None:
            now = now_us()
            line, item, put = self._instance(cursor, found, name, instance)
            self._drop_hidden(cursor, found, name, line, item, now)
            put(None)
            self.journal.write_again(cursor, line, now)

        await self._write(actor, id, tenant, DELETE, change, [name])

    @operation(DELETE)
    async def delete(self, actor: Actor, id: str, *, tenant: str | None = None) -> None:
        """Delete a temporal evolution (5.6.16); a current entity stays. Raises `NotFound`, `OperationNotSupported`."""
        found = await self._find(actor, id, tenant, DELETE)
        await self._refuse_readings(found, None)

        def change(cursor: Any, found: Found) -> None:
            if found.no is not None and found.only is None and not self.journal.any(cursor, found.numbers):
                raise no_such_history(id)
            if found.no is not None:
                self.journal.forget(cursor, [found.no])
            if found.only is not None:
                cursor.execute(self.store.sql("DELETE FROM temporal_entities WHERE no=?"), (found.only,))
                cursor.execute(self.store.sql("INSERT INTO removed_history (entity) VALUES (?)"), (-found.only,))

        await self._write(actor, id, tenant, DELETE, change)

    # ---- writing

    async def _write(
        self, actor: Actor, id: str, tenant: str | None, action: str, change: Callable[[Any, Found], None],
        attributes: Sequence[str] | None = None,
    ) -> None:
        """Run `change(cursor, entity)` in a write, on the entity as it is then; the audit names `attributes`."""
        target = await self._find(actor, id, tenant, action)
        own = Orgs(False, frozenset({target.org}))

        def write(connection: sa.Connection) -> TulouError | None:
            found = self._by_id(driver_of(connection), own, id)
            if not found:
                return no_such_history(id)
            try:
                change(self.store.cursor(connection), found[0])
            except TulouError as error:
                return error  # raised here it would make the writer run its whole group again
            traces.changed(self.db, actor, action, target.org, id, attributes)
            return None

        error = await self.db.write(write)
        if error is not None:
            raise error

    def _instance(
        self, cursor: Any, found: Found, name: str, instance: str
    ) -> tuple[Line, Json, Callable[[Json | None], None]]:
        """(row, instance, function that puts another in its place) of an `instanceId`."""
        place = journal.place_of(instance, journal.owner(found.org, found.id))
        if place is not None and place.attribute is None:
            raise _not_of_the_journal(instance)
        if place is not None and place.attribute is not None and place.item is not None:
            for line in self.journal.at(cursor, found.numbers, place.at):
                keys = list(line.document)
                if place.attribute >= len(keys) or keys[place.attribute] != name:
                    continue
                value = line.document[name]
                items = value if isinstance(value, list) else [value]
                if place.item < len(items) and isinstance(items[place.item], dict):
                    line.document[name] = items

                    def put(fresh: Json | None, items: list[Any] = items, at: int = place.item) -> None:
                        items[at] = fresh

                    return line, items[place.item], put
        raise NotFound(f"没有实例 {instance}", f"there is no instance {instance}", field="instanceId", value=instance)

    def _drop_hidden(self, cursor: Any, found: Found, name: str, line: Line, item: Json, now: int) -> None:
        """Delete earlier writes of the same observation, which would come to light when this one goes."""
        text = item.get("observedAt")
        if text is None:
            return
        at = micros(text)

        def same(other: Json) -> bool:
            return (other.get("datasetId") == item.get("datasetId") and "observedAt" in other
                    and micros(other["observedAt"]) == at)

        for other in list(self.journal.lines(cursor, found.numbers, "observedAt", at, at + 1, name=name)):
            if other.no != line.no:
                _drop(other, name, same, self, cursor, now)

    async def _refuse_readings(self, found: Found, name: str | None) -> None:
        if found.no is None or not hasattr(self.house, "readings"):
            return
        properties = None if name is None else [self.entities.names.shown(name)]
        if await self.house.readings.history([found.no], properties, None, None, orgs=[found.org], limit=1):
            raise OperationNotSupported(
                "设备上报的读数是证据，只随实体一起删除", "readings that devices sent go only with their entity",
                field="attribute" if name else "id", value=name or found.id, rule="evidence",
            )

    # ---- which entities

    def _readable(self, actor: Actor, tenant: str | None) -> Orgs:
        """The organisations whose entities and whose history the actor may read."""
        orgs, own = self.entities.readable(actor, tenant), self.policy.require_any(actor, READ)
        if orgs.all:
            return own
        return orgs if own.all else Orgs(False, orgs.ids & own.ids)

    async def _find(self, actor: Actor, id: str, tenant: str | None, action: str = READ) -> Found:
        """The entity that `id` means to this actor, the policy having been asked for `action` in its organisation."""
        orgs = self._readable(actor, tenant)
        seen = await self.db.read(lambda c: self._by_id(driver_of(c), orgs, id))
        if not seen:
            raise no_such_history(id)
        own = next((found for found in seen if found.org == actor.org), None)
        if own is None and len(seen) > 1 and action != READ:
            raise bad(f"{id} 在多个机构中存在，请用 NGSILD-Tenant 指定",
                      f"{id} exists in several organisations; say which with NGSILD-Tenant",
                      field="NGSILD-Tenant", rule="one organisation")
        found = own or seen[0]
        self.policy.require(actor, action, found.org)
        return found

    def _by_id(self, connection: Any, orgs: Orgs, id: str) -> list[Found]:
        chosen = Selection((selecting.Selector(None, (id,)),))
        return self._candidates(connection, orgs, chosen, None, True, "asc")

    def _candidates(
        self, connection: Any, orgs: Orgs, selection: Selection, place: Any, forward: bool, order: str | None
    ) -> list[Found]:
        """The next entities by type, id and organisation alone, after `place`: a number, or (id, org) with `order`."""
        store = self.store
        chosen = Selection(selection.selectors)
        if selecting.needs_regexp(chosen):
            store.with_regexp(connection)
        cursor = connection.cursor()
        several = cursor.execute("SELECT 1 FROM entities WHERE types IS NOT NULL LIMIT 1").fetchone() is not None
        types = ("e.types::text", "t.types::text") if store.postgres else ("e.types", "t.types")

        def part(only: bool) -> tuple[str, list[Any]]:
            condition, parameters = selecting.compile_selection(chosen, store, only or several, self.entities.names.shown)
            if not orgs.all:
                sql, own = store.among("e.org", sorted(orgs.ids))
                condition, parameters = f"{sql} AND {condition}", [*own, *parameters]
            if only:
                return (
                    f"SELECT NULL AS no,e.no AS own,e.id,e.org,e.type,{types[0]},NULL,NULL,e.created_at,e.modified_at "
                    "FROM temporal_entities e WHERE NOT EXISTS (SELECT 1 FROM entities x WHERE x.id=e.id AND x.org=e.org) "
                    f"AND {condition}"
                ), parameters
            return (
                f"SELECT e.no AS no,t.no AS own,e.id,e.org,e.type,{types[0]},t.type,{types[1]},e.created_at,e.modified_at "
                "FROM entities e LEFT JOIN temporal_entities t ON t.id=e.id AND t.org=e.org "
                f"WHERE (e.expires_at IS NULL OR e.expires_at>?) AND {condition}"
            ), [now_us(), *parameters]

        if order is not None:
            (first, own), (second, more) = part(False), part(True)
            down = order == "desc"
            keyed, key = "", []
            if place is not None:
                keyed, key = f"WHERE (id,org){'<' if down else '>'}(?,?)", list(place)
            direction = "DESC" if down else "ASC"
            sql = (f"SELECT * FROM ({first} UNION ALL {second}) u {keyed} ORDER BY id {direction},org {direction} "
                   f"LIMIT {AT_ONCE}")
            return [self._found(row) for row in cursor.execute(store.sql(sql), [*own, *more, *key]).fetchall()]
        found: list[Found] = []
        for only in (False, True) if forward else (True, False):
            sql, parameters = part(only)
            base = ONLY_HISTORY if only else 0
            if place is not None:
                sql += f" AND e.no{'>' if forward else '<'}?"
                parameters.append(min(max(place - base, -1), 1 << 62))
            sql += f" ORDER BY e.no {'' if forward else 'DESC'} LIMIT {AT_ONCE - len(found)}"
            found += [self._found(row) for row in cursor.execute(store.sql(sql), parameters).fetchall()]
            if len(found) == AT_ONCE:
                break
        return found

    def _found(self, row: Sequence[Any]) -> Found:
        no, own, id, org, *names, created, modified = row
        types: list[str] = []
        for name, several in (names[:2], names[2:]):
            types += orjson.loads(several) if several else [name] if name else []
        return Found(no, own, id, org, tuple(map(self.entities.names.stored, dict.fromkeys(types))), created, modified)

    async def _has_history(self, found: Found, wanted: Span) -> bool:
        """Whether there was ever anything of the wanted attributes."""
        if wanted.names is None:
            if found.only is not None:
                return True
            if await self.db.read(lambda c: self.journal.any(self.store.cursor(c), found.numbers)):
                return True
            wanted = Span()
        ever = await self.evolutions([found], Span(last=1, names=wanted.names), {})
        return bool(ever.evolutions[0].kinds)

    # ---- reading

    def _lines(
        self, cursor: Any, numbers: Sequence[int], wanted: Span, names: frozenset[str] | None,
        bound: Callable[[], int | None] = lambda: None,
    ) -> Iterator[tuple[int, str, Point]]:
        """(number, attribute, point) of the journal in the time and of the datasets."""
        ends = Ends()
        lines = self.journal.lines(
            cursor, numbers, wanted.timeproperty, wanted.start, wanted.end, newest_first=wanted.last is not None,
            bound=bound,
        )
        for line in lines:
            found = list(journal.points(line, wanted.timeproperty, names, windowed=wanted.windowed))
            if wanted.timeproperty == "deletedAt":
                found += [(name, point) for name, point in ends.feed(line) if names is None or name in names]
            for name, point in found:
                if wanted.covers(point):
                    yield line.entity, name, point

    def _readings_of(self, wanted: Span) -> bool:
        """Whether readings take part: they are of the default dataset, and of their time only observedAt is known."""
        return (
            wanted.timeproperty == "observedAt" and hasattr(self.house, "readings")
            and (wanted.datasets is None or "@none" in wanted.datasets)
        )

    def _reading(self, type: str, name: str, ts: int, value: float | str) -> tuple[str, Point] | None:
        stored, unit, kind = self.entities._property(type, name)
        if not stored:
            return None
        body: Json = {"type": "Property", "value": _plain(value, kind), "observedAt": forms.moment(ts)}
        if unit:
            body["unitCode"] = unit
        return stored, Point(ts, -1, "", ts, body)

    def _type(self, found: Found) -> str:
        return self.entities.names.shown(found.types[0])

    async def _judge(self, entities: Sequence[Found], selection: Selection, wanted: Span) -> list[Scopes | None]:
        """For each entity its scopes if it satisfies the query (empty ones without a scope query), else None."""
        if not entities:
            return []
        judges = [Judge(selection, wanted) for _ in entities]
        within: Within = {}

        def read(connection: sa.Connection) -> None:
            cursor = self.store.cursor(connection)
            for at, (found, judge) in enumerate(zip(entities, judges, strict=True)):
                if selection.scope is not None:
                    within[at] = self._scopes(cursor, found, selection.scope, wanted)
                    if not within[at].times:
                        continue
                for _, name, point in self._lines(cursor, found.numbers, wanted, judge.names):
                    judge.see(name)
                    if at not in within or within[at].has(point.time):
                        judge.feed({name: [point.body]})
                    if judge.decided:
                        break

        await self.db.read(read)
        if self._readings_of(wanted):
            await self._judge_readings(entities, judges, within, wanted)
        return [within.get(at, Scopes([], [])) if judge.holds else None for at, judge in enumerate(judges)]

    async def _judge_readings(
        self, entities: Sequence[Found], judges: Sequence[Judge], within: Within, wanted: Span
    ) -> None:
        """Feed the judges what devices sent, a piece of time after the other."""
        place = {
            found.no: at for at, found in enumerate(entities)
            if found.no is not None and not judges[at].decided and (at not in within or within[at].times)
        }
        names = judges[0].names
        properties = None if names is None else [self.entities.names.shown(name) for name in names]
        limit = READINGS if judges[0].state or within else 1
        waiting: dict[str | None, tuple[list[int], int | None]] = {None: (list(place), wanted.start)}
        orgs = sorted({found.org for found in entities})
        while waiting:
            only, (numbers, start) = waiting.popitem()
            if not numbers:
                continue
            found = await self.house.readings.history(
                numbers, properties if only is None else [only], start, wanted.end, orgs=orgs, limit=limit
            )
            again: dict[str, tuple[list[int], int]] = {}
            for number, attributes in found.items():
                at = place[number]
                for name, values in attributes.items():
                    bodies = []
                    for value in values:
                        if value.value is None:
                            continue
                        reading = self._reading(self._type(entities[at]), name, value.ts, value.value)
                        if reading is None:
                            break
                        judges[at].see(reading[0])
                        if at not in within or within[at].has(value.ts):
                            bodies.append(reading[1].body)
                    if bodies and reading is not None:
                        judges[at].feed({reading[0]: bodies})
                    if limit > 1 and len(values) == limit and not judges[at].decided:
                        known = again.get(name, ([], values[-1].ts + 1))
                        again[name] = ([*known[0], number], min(known[1], values[-1].ts + 1))
            waiting.update(again)

    def _scopes(self, cursor: Any, found: Found, text: str, wanted: Span) -> Scopes:
        """When the entity's scopes satisfied a scope query: each holds until the next one is told (5.7.4.4)."""
        told: dict[int, Point] = {}
        for line in self.journal.lines(cursor, found.numbers, wanted.timeproperty, None, wanted.end, name="scope"):
            for _, point in journal.points(line, wanted.timeproperty, {"scope"}, windowed=False):
                told[point.time] = point
        times, shown = [], []
        starts = sorted(told)
        for start, end in zip(starts, [*starts[1:], 1 << 62], strict=False):
            point = told[start]
            if (wanted.end is not None and start >= wanted.end) or (wanted.start is not None and end <= wanted.start):
                continue
            if selecting.scope_matches(text, {"scope": point.body["value"]}):
                times.append((start, end))
                shown.append(point)
        return Scopes(times, shown)

    async def evolutions(
        self, entities: Sequence[Found], wanted: Span, within: Within, told: Sequence[Told] = (), limit: int | None = None
    ) -> Answer:
        """The evolutions of entities that an actor was found to see, with what sources `told` of each (or of none).

        At most `limit` instances, else the house's. Aggregates are of the house alone.
        """
        if wanted.style == "aggregatedValues":
            return await self._aggregated(entities, wanted, within)
        gathered = Gathered(limit or self.limit, wanted.last)
        names = wanted.names
        observed = wanted.timeproperty == "observedAt"
        place = {number: at for at, found in enumerate(entities) for number in found.numbers}

        def read(connection: sa.Connection) -> None:
            cursor = self.store.cursor(connection)
            for number, name, point in self._lines(cursor, list(place), wanted, names, lambda: gathered.bound):
                at = place[number]
                if told and told[at].hides(name):
                    continue
                if at not in within or (name != "scope" and within[at].has(point.time)):
                    gathered.add(at, name, point, observed=observed)

        if self._readings_of(wanted):
            for start in range(0, len(entities), AT_ONCE):
                await self._gather_readings(
                    entities[start : start + AT_ONCE], start, gathered, wanted, within, told[start : start + AT_ONCE]
                )
        await self.db.read(read)
        for at, own in enumerate(told):
            for name, point in own.points:
                gathered.add(at, name, point, observed=observed)
            for spare in own.spare:
                fixed = {name for of, name in gathered.kinds if of == at}
                for name, point in spare:
                    if name not in fixed:
                        gathered.add(at, name, point, observed=observed)
        cut = gathered.finish()
        evolutions = []
        for at, found in enumerate(entities):
            points = {
                name: sorted(kept.values(), key=lambda p: (p.time, p.no))
                for (of, name), kept in gathered.points.items() if of == at and (kept or cut)
            }
            kinds = {name: kind for (of, name), kind in gathered.kinds.items() if of == at}
            if cut:
                points = {name: points.get(name, []) for name in kinds}
            if at in within and (names is None or "scope" in names):
                points["scope"] = within[at].points
                kinds["scope"] = "Property"
            evolutions.append(Evolution(found, points, kinds, {}))
        if not cut:
            return Answer(evolutions)
        times = [point.time for kept in gathered.points.values() for point in kept.values()]
        return Answer(evolutions, span_of(wanted, min(times), max(times)))

    async def _gather_readings(
        self, entities: Sequence[Found], base: int, gathered: Gathered, wanted: Span, within: Within, told: Sequence[Told]
    ) -> None:
        place = {found.no: at for at, found in enumerate(entities) if found.no is not None}
        if not place:
            return
        start, end = wanted.start, wanted.end
        if gathered.bound is not None and not wanted.last:
            end = gathered.bound + 1
        elif gathered.bound is not None:
            start = gathered.bound
        history = await self.house.readings.history(
            list(place), self._properties(wanted), start, end, orgs=sorted({found.org for found in entities}),
            limit=min(wanted.last or gathered.limit + 1, gathered.limit + 1), order="desc" if wanted.last else "asc",
        )
        for number, attributes in history.items():
            at = place[number]
            kind = self._type(entities[at])
            for name, values in attributes.items():
                for value in values:
                    if value.value is None:
                        continue
                    reading = self._reading(kind, name, value.ts, value.value)
                    if reading is None or (told and told[at].hides(reading[0])):
                        break
                    if base + at not in within or within[base + at].has(value.ts):
                        gathered.add(base + at, *reading, observed=True)

    def _properties(self, wanted: Span) -> list[str] | None:
        return None if wanted.names is None else [self.entities.names.shown(name) for name in sorted(wanted.names)]

    async def _aggregated(self, entities: Sequence[Found], wanted: Span, within: Within) -> Answer:
        """Aggregates (4.5.19): the journal's are made here, the readings' by their store."""
        place = {number: at for at, found in enumerate(entities) for number in found.numbers}
        series: dict[tuple[int, str, str | None], aggregates.Series] = {}
        seen: dict[Any, int] = {}

        def read(connection: sa.Connection) -> None:
            cursor = self.store.cursor(connection)
            for number, name, point in self._lines(cursor, list(place), wanted._replace(last=None), wanted.names):
                at = place[number]
                if name == "scope" or (at in within and not within[at].has(point.time)):
                    continue
                dataset = point.body.get("datasetId")
                own = series.setdefault((at, name, dataset), aggregates.Series(point.body["type"], {}))
                key = point.time if wanted.timeproperty == "observedAt" else (point.time, point.no, point.place)
                known = seen.get((at, name, dataset, key))
                if known is None or point.no >= known:
                    seen[(at, name, dataset, key)] = point.no
                    own.values[key] = (point.time, forms.plain(point.body))
                if len(seen) > AGGREGATED:
                    raise TooManyResults("所选时间内的实例过多，请缩短时间", "too many instances to aggregate; ask for less time",
                                         field="timeAt", rule=f"<= {AGGREGATED}")

        await self.db.read(read)
        origin = wanted.start
        numbers = [found.no for found in entities if found.no is not None] if self._readings_of(wanted) else []
        orgs = sorted({found.org for found in entities})
        if origin is None:
            first = [time for own in series.values() for time, _ in own.values.values()]
            if numbers:
                history = await self.house.readings.history(
                    numbers, self._properties(wanted), None, wanted.end, orgs=orgs, limit=1)
                first += [value.ts for own in history.values() for values in own.values() for value in values]
            origin = min(first, default=0)
        buckets: dict[tuple[int, str, str | None], dict[int, dict[str, float | None]]] = {}
        for key, own in series.items():
            buckets[key] = own.buckets(wanted.methods, origin, wanted.period)
        kinds = {key: own.kind for key, own in series.items()}
        both: dict[tuple[int, str, str | None], dict[int, dict[str, Any]]] = {}
        if numbers and not within:
            found = await self.house.readings.aggregate(
                aggregates.needed(wanted.methods), orgs=orgs, entities=numbers, properties=self._properties(wanted),
                start=origin, end=wanted.end, period=wanted.period,
            )
            for bucket in found:
                assert bucket.entity is not None
                assert bucket.property is not None
                at = place[bucket.entity]
                name = self.entities._property(self._type(entities[at]), bucket.property)[0]
                if not name:
                    continue
                key = (at, name, None)
                kinds.setdefault(key, "Property")
                number = 0 if bucket.start is None or not wanted.period else (bucket.start - origin) // wanted.period
                known = buckets.setdefault(key, {})
                if key in series and key not in both:
                    both[key] = series[key].buckets(tuple(bucket.values), origin, wanted.period)
                mine = both.get(key, {}).get(number)
                values = aggregates.merged(bucket.values, mine) if mine else bucket.values
                known[number] = {method: values.get(method) for method in wanted.methods}
        until = wanted.end if wanted.end is not None else now_us()
        evolutions = []
        for at, found_entity in enumerate(entities):
            summaries: dict[str, list[Summary]] = {}
            for (of, name, dataset), own_buckets in sorted(buckets.items(), key=lambda item: (item[0][1], item[0][2] or "")):
                if of == at:
                    summaries.setdefault(name, []).append(Summary(
                        kinds[(of, name, dataset)], dataset,
                        aggregates.rows(own_buckets, wanted.methods, origin, wanted.period, until),
                    ))
            evolutions.append(Evolution(found_entity, {}, dict.fromkeys(summaries, ""), summaries))
        return Answer(evolutions)


def _drop(
    line: Line, name: str, wanted: Callable[[Json], bool], service: Temporal, cursor: Any, now: int
) -> int:
    """Delete instances of an attribute from a row; returns how many."""
    value = line.document.get(name)
    items = value if isinstance(value, list) else [] if value is None else [value]
    if name == "scope" and items and isinstance(items[0], str):
        if not wanted({}):
            return 0
        line.document[name] = []
        service.journal.write_again(cursor, line, now)
        return 1
    kept = [None if isinstance(item, dict) and wanted(item) else item for item in items]
    gone = sum(1 for old, new in zip(items, kept, strict=True) if old is not None and new is None)
    if gone:
        line.document[name] = kept
        service.journal.write_again(cursor, line, now)
    return gone


def _stamped(attributes: Mapping[str, Sequence[Json]], now: int) -> dict[str, list[Json]]:
    """Instances as they are kept; a scope that came without a time is of the time of its writing (4.5.6)."""
    return {
        name: [{"observedAt": forms.moment(now), **item} for item in own] if name == "scope" else list(own)
        for name, own in attributes.items()
    }


def _checked(attributes: Mapping[str, Sequence[Json]]) -> None:
    try:
        dumped(attributes)
    except TypeError as error:
        raise bad("实例无法存储：嵌套过深或含有无效文本", f"the instances cannot be stored: {error}", field="entity",
                  rule="JSON") from None


def no_such_history(id: str) -> NotFound:
    """The one error for a temporal evolution that is not there or must not be known."""
    return no_such_entity(id)


def _not_of_the_journal(instance: str) -> OperationNotSupported:
    return OperationNotSupported("设备上报的读数不可更改", "a reading that a device sent cannot be changed",
                                 field="instanceId", value=instance, rule="evidence")


def _plain(value: float | str, kind: str) -> Any:
    return bool(value) if kind == "boolean" and isinstance(value, float) else value
