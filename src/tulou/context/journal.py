"""The journal of entities: what was written of them, kept row by row; instances of attributes are made from it.

Law: a row is written in the transaction of the change that it tells of. It holds what was written, in stored form, and
is opened only when someone asks; an instance is named by its row and its place in it, so that it can be found again.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.5.6 to 4.5.8, 5.6.11 to 5.6.16.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import sqlalchemy as sa

from tulou.context import columns, forms
from tulou.context.columns import dumped, micros
from tulou.context.forms import Json
from tulou.context.store import Row, Store
from tulou.kernel.sql import insert_many

if TYPE_CHECKING:
    from tulou.kernel.house import House

ROWS = 500
"""Rows that are read, or deleted, at a time."""
SPREAD = 200
"""Most instances of one row of provided history: so that a row spans little time and is quick to write again."""
PROPERTIES = ("observedAt", "createdAt", "modifiedAt", "deletedAt")
DAY = 86_400_000_000

Entry = tuple[int, str, int, bool, int, int, str]
"""(entity, type, at, whole, first, last, document text): the parameters of a new row."""


class Line(NamedTuple):
    """A row of the journal, with its document opened."""

    no: int
    entity: int
    at: int
    changed: int | None
    whole: bool
    document: Json


class Point(NamedTuple):
    """An instance of an attribute: its time in µs (as the query's `timeproperty` says), and its place in the journal.

    `place` is empty where it is in no row: a reading, or the end of an attribute that a whole document left out. What a
    context source told has its registration as `source`, its `instanceId` as `place`, and as `at` when it was created.
    """

    time: int
    no: int
    place: str
    at: int
    body: Json
    source: str | None = None


# ---- what a write leaves -----------------------------------------------------------------------------------------


def span(document: Json, at: int) -> tuple[int, int]:
    """The earliest and the latest time of the instances of a document or fragment: observedAt, else `at`."""
    first = last = None
    seen: object = ""
    for value in document.values():
        kind = type(value)
        if kind is dict:
            items = (value,)
        elif kind is list and value and type(value[0]) is dict:
            items = value
        else:
            continue
        for item in items:
            text = item.get("observedAt")
            if text == seen:  # most have the time of their neighbour
                continue
            seen = text
            time = at if text is None else micros(text)
            if first is None or last is None:
                first = last = time
            elif time < first:
                first = time
            elif time > last:
                last = time
    if first is None or last is None:
        return at, at
    return (min(first, at), max(last, at)) if "scope" in document else (first, last)


def entry(entity: int, type: str, at: int, fragment: Json) -> Entry:
    """A new row of a fragment."""
    first, last = span(fragment, at)
    return (entity, type, at, False, first, last, dumped(fragment))


def whole(entity: int, type: str, at: int, text: str, observed: columns.Span | None = None) -> Entry:
    """A new row of a whole document's JSON; `observed` as `columns.observed` says, if it has been asked already."""
    first, last = observed or columns.observed(text, at)
    return (entity, type, at, True, first, last, text)


def changes(before: Json, after: Json, names: Iterable[str], at: int) -> Json:
    """The fragment of `after` that is new: instances that are not the ones of `before`, and the ends of those gone.

    Instances that a change leaves alone must be the same objects in both.
    """
    out: Json = {}
    gone = forms.moment(at)
    for name in dict.fromkeys(names):
        if name in forms.ENTITY_MEMBERS:
            if name == "scope" and before.get("scope") != after.get("scope"):
                out["scope"] = after.get("scope") or {"type": "Property", "value": [], "deletedAt": gone}
            continue
        old = forms.instances(before[name]) if name in before else []
        new = forms.instances(after[name]) if name in after else []
        items = [item for item in new if not any(item is known for known in old)]
        kept = {item.get("datasetId") for item in new}
        items += [_ended(item, gone) for item in old if item.get("datasetId") not in kept]
        if items:
            out[name] = items[0] if len(items) == 1 else items
    return out


def _ended(instance: Json, at: str) -> Json:
    """The instance that says that an attribute was deleted (4.5.7)."""
    kind = instance["type"]
    value: Any = {"@none": forms.NULL} if kind == "LanguageProperty" else forms.NULL
    out = {"type": kind, forms.VALUE_OF[kind]: value, "deletedAt": at}
    if "datasetId" in instance:
        out["datasetId"] = instance["datasetId"]
    return out


def provided(entity: int, type: str, attributes: Mapping[str, Sequence[Json]], at: int) -> list[Entry]:
    """The rows of instances that a client provides, in order of their times so that each row spans little time."""
    items = sorted(
        ((micros(item["observedAt"]) if "observedAt" in item else at, name, item)
         for name, own in attributes.items() for item in own),
        key=lambda found: found[0],
    )
    rows = []
    for number, start in enumerate(range(0, len(items), SPREAD)):
        part = items[start : start + SPREAD]
        document: Json = {}
        for _, name, item in part:
            document.setdefault(name, []).append(item)
        rows.append((entity, type, at + number, False, part[0][0], part[-1][0], dumped(document)))
    return rows


# ---- instances ----------------------------------------------------------------------------------------------------


def owner(org: str, id: str) -> str:
    """What the ids of an entity's instances begin with: they tell nothing that their reader does not see."""
    return hashlib.blake2b(f"{org} {id}".encode(), digest_size=8).hexdigest()


def instance_id(of: str, name: str, point: Point) -> str:
    """The `instanceId` of a point of the entity whose `owner` is `of`."""
    if point.place:
        return f"urn:ngsi-ld:Instance:{of}-{point.at:x}-{point.place}"
    mark = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    return f"urn:ngsi-ld:Instance:{of}-{point.time:x}-r{mark}"


_INSTANCE = re.compile(r"urn:ngsi-ld:Instance:([0-9a-f]{16})-([0-9a-f]{1,16})-(?:(\d{1,6})\.(\d{1,6})|r[0-9a-f]{8})")


class Place(NamedTuple):
    """Where an instance is: when its row was written, the attribute's and the instance's number in it; None: a reading."""

    at: int
    attribute: int | None
    item: int | None


def place_of(instance: str, of: str) -> Place | None:
    """The place that an `instanceId` names, None if it is none of this entity's."""
    match = _INSTANCE.fullmatch(instance)
    if match is None or match[1] != of:
        return None
    return Place(int(match[2], 16), int(match[3]) if match[3] else None, int(match[4]) if match[4] else None)


def points(
    line: Line, timeproperty: str, names: Collection[str] | None, *, windowed: bool
) -> Iterator[tuple[str, Point]]:
    """(attribute, instance) of a row with their times. With `windowed`, those without the time property are left out.

    Scopes come as instances of the attribute `scope` (4.5.6).
    """
    for number, (name, value) in enumerate(line.document.items()):
        if name in forms.ENTITY_MEMBERS and name != "scope":
            continue
        if names is not None and name not in names:
            continue
        items = value if isinstance(value, list) else [value]
        if name == "scope" and value and not isinstance(items[0], dict | None):
            items = [{"type": "Property", "value": value, "observedAt": forms.moment(line.at)}]
        for place, item in enumerate(items):
            if item is None:
                continue  # was deleted
            moment = time_of(item, timeproperty, line.at, windowed=windowed)
            if moment is not None:
                yield name, Point(moment, line.no, f"{number}.{place}", line.at, item)


def time_of(item: Json, timeproperty: str, at: int, *, windowed: bool) -> int | None:
    """The time of an instance in µs, None if it has none or is not to be shown: what was deleted is seen by deletedAt."""
    if timeproperty == "deletedAt":
        return micros(item["deletedAt"]) if "deletedAt" in item else None
    if "deletedAt" in item:
        return None
    if timeproperty == "observedAt":
        text = item.get("observedAt")
        if text is not None:
            return micros(text)
        return None if windowed else at
    if timeproperty == "modifiedAt" and "modifiedAt" in item:
        return micros(item["modifiedAt"])
    return at


class Ends:
    """Finds where attributes ended because a whole document did not have them any more: rows in order are fed to it."""

    def __init__(self) -> None:
        self.present: dict[int, dict[str, str]] = {}

    def feed(self, line: Line) -> Iterator[tuple[str, Point]]:
        """(attribute, deleted instance) for each that ended with this row."""
        found = {
            name: forms.instances(value)[0] for name, value in line.document.items()
            if name not in forms.ENTITY_MEMBERS and value and forms.instances(value)[0] is not None
        }
        state = self.present.setdefault(line.entity, {})
        if line.whole:
            for name in [name for name in state if name not in found]:
                yield name, Point(line.at, line.no, "", line.at, _ended({"type": state.pop(name)}, forms.moment(line.at)))
        for name, item in found.items():
            if "deletedAt" in item:
                state.pop(name, None)
            else:
                state[name] = item["type"]


# ---- the store ----------------------------------------------------------------------------------------------------

_COLUMNS = "h.no,h.entity,h.at,h.changed,h.whole,h.doc"
RECENT = 20_000
"""Rows that are noted in `history_recent` (SQLite) before all of them go to `history_places` in order."""


class Journal:
    """The journal's statements. What writes runs inside `Database.write`.

    PostgreSQL finds an entity's rows by an index. On SQLite, where each new entry of such an index writes a page of its
    own, triggers note where rows are in `history_recent`, in the order of their writing, and `place` moves all of them
    to `history_places`, in the order of entities and times: many entries a page. A row is noted in exactly one of them.
    """

    _ADD = "INSERT INTO attribute_history (entity,type,at,whole,first,last,doc) VALUES (?,?,?,?,?,?,?)"

    def __init__(self, store: Store, *, notes: bool = True) -> None:
        self.store = store
        self.notes = notes
        """Whether changes of the current state are kept; what is provided as history always is."""
        self._low: dict[str, int] = {}
        self._recent: int | None = None
        self._arms = ("",) if store.postgres else ("history_places", "history_recent")

    def add(self, cursor: Any, entries: Sequence[Entry]) -> None:
        """Insert rows made by `entry` or `whole` (of changes, only while `notes`) or `provided`."""
        insert_many(cursor, self._ADD, entries)
        if not self.store.postgres:
            if self._recent is None:
                self._recent = cursor.execute("SELECT count(*) FROM history_recent").fetchone()[0]
            else:
                self._recent += len(entries)
            if self._recent >= RECENT:
                self.place(cursor)

    def place(self, cursor: Any) -> None:
        """Move what `history_recent` notes to `history_places`."""
        cursor.execute("INSERT INTO history_places (entity,last,first,no) "
                       "SELECT entity,last,first,no FROM history_recent ORDER BY entity,last,first,no")
        cursor.execute("DELETE FROM history_recent")
        self._recent = 0

    def _rows_of(self, entities: Sequence[int]) -> tuple[str, list[Any]]:
        """A query of the numbers of these entities' rows."""
        condition, parameters = self.store.among("entity", list(entities))
        tables = [arm or "attribute_history" for arm in self._arms]
        sql = " UNION ALL ".join(f"SELECT no FROM {table} WHERE {condition}" for table in tables)
        return sql, parameters * len(tables)

    def written(self, cursor: Any, number: int, type: str, at: int, text: str) -> None:
        """Note that the whole document of an entity was written; `text` is its JSON."""
        if self.notes:
            self.add(cursor, [whole(number, type, at, text)])

    def change(self, cursor: Any, row: Row, before: Json, after: Json, names: Iterable[str], at: int) -> None:
        """Note what a change of an entity with a current state changed."""
        if not self.notes:
            return
        fragment = changes(before, after, names, at)
        if fragment:
            self.add(cursor, [entry(row.no, row.type, at, fragment)])

    def lines(
        self, cursor: Any, numbers: Sequence[int], timeproperty: str, start: int | None, end: int | None, *,
        newest_first: bool = False, name: str | None = None, bound: Callable[[], int | None] = lambda: None,
    ) -> Iterator[Line]:
        """Rows of entities that may hold instances with `start <= time < end` (µs), in the order of their times.

        For `deletedAt` all rows before `end` come, in the order of their writing: an end is known by what was before.
        `bound()` is a time beyond which nothing is wanted any more. `name`: only rows that mention it. Entity by
        entity, so that the index gives the order.
        """
        for number in numbers:
            yield from self._lines(cursor, number, timeproperty, start, end, newest_first, name, bound)

    def _lines(
        self, cursor: Any, number: int, timeproperty: str, start: int | None, end: int | None, newest_first: bool,
        name: str | None, bound: Callable[[], int | None],
    ) -> Iterator[Line]:
        observed = timeproperty == "observedAt"
        p = "h" if self.store.postgres else "p"
        condition = f"{p}.entity=?"
        parameters: list[Any] = [number]
        if name is not None:
            condition += " AND position(? in h.doc)>0" if self.store.postgres else " AND instr(h.doc,?)>0"
            parameters.append(dumped(name))
        if observed:
            if start is not None:
                condition += f" AND {p}.last>=?"
                parameters.append(start)
            if end is not None:
                condition += f" AND {p}.first<?"
                parameters.append(end)
        else:
            if end is not None:
                condition += " AND h.at<?"
                parameters.append(end)
            if start is not None and timeproperty != "deletedAt":
                condition += " AND coalesce(h.changed,h.at)>=?"
                parameters.append(start)
        key, down = (f"{p}.last", newest_first) if observed else (f"{p}.no", newest_first and timeproperty != "deletedAt")
        after: tuple[int, int] | None = None
        while True:
            more, own = "", list(parameters)
            limit = bound()
            if limit is not None and observed:
                more += f" AND {p}.last>=?" if down else f" AND {p}.first<=?"
                own.append(limit)
            if after is not None:
                more += f" AND ({key},{p}.no){'<' if down else '>'}(?,?)"
                own += after
            order = "DESC" if down else "ASC"
            rows = []
            for arm in self._arms:
                source = f"{arm} p CROSS JOIN attribute_history h ON h.no=p.no" if arm else "attribute_history h"
                sql = (f"SELECT {_COLUMNS},{key} FROM {source} WHERE {condition}{more} "
                       f"ORDER BY {key} {order},{p}.no {order} LIMIT {ROWS}")
                rows += cursor.execute(self.store.sql(sql), own).fetchall()
            if len(self._arms) > 1:
                rows = sorted(rows, key=lambda row: (row[6], row[0]), reverse=down)[:ROWS]
            for no, entity, at, changed, whole, text, _ in rows:
                yield Line(no, entity, at, changed, bool(whole), orjson.loads(text))
            if len(rows) < ROWS:
                return
            after = (rows[-1][6], rows[-1][0])

    def any(self, cursor: Any, numbers: Sequence[int]) -> bool:
        """Whether there is any row of these entities."""
        sql, parameters = self._rows_of(numbers)
        return cursor.execute(self.store.sql(f"{sql} LIMIT 1"), parameters).fetchone() is not None

    def at(self, cursor: Any, numbers: Sequence[int], at: int) -> list[Line]:
        """Rows of these entities written at one time."""
        own, parameters = self._rows_of(numbers)
        sql = f"SELECT {_COLUMNS} FROM attribute_history h WHERE h.no IN ({own}) AND h.at=?"
        rows = cursor.execute(self.store.sql(sql), [*parameters, at]).fetchall()
        return [Line(no, of, at, changed, bool(whole), orjson.loads(doc)) for no, of, at, changed, whole, doc in rows]

    def write_again(self, cursor: Any, line: Line, now: int) -> None:
        """Store a row whose document was changed; the row goes when nothing is left in it.

        A place that was emptied stays as null, so that the others keep their names.
        """
        left: list[Json] = []
        plain = False
        for name, value in line.document.items():
            if name in forms.ENTITY_MEMBERS and name != "scope":
                continue
            items = value if isinstance(value, list) else [value]
            left += [item for item in items if isinstance(item, dict)]
            plain = plain or any(isinstance(item, str) for item in items)
        if not left and not plain:
            cursor.execute(self.store.sql("DELETE FROM attribute_history WHERE no=?"), (line.no,))
            return
        times = [micros(item["observedAt"]) if "observedAt" in item else line.at for item in left]
        if plain:
            times.append(line.at)
        sql = "UPDATE attribute_history SET doc=?,first=?,last=?,changed=? WHERE no=?"
        cursor.execute(self.store.sql(sql), (dumped(line.document), min(times), max(times), now, line.no))

    def forget(self, cursor: Any, numbers: Sequence[int]) -> None:
        """Delete every row of these entities."""
        own, parameters = self._rows_of(numbers)
        cursor.execute(self.store.sql(f"DELETE FROM attribute_history WHERE no IN ({own})"), parameters)

    # ---- what is old, or of deleted entities

    def sweep(self, connection: sa.Connection) -> None:
        """Delete some rows of deleted entities."""
        cursor = self.store.cursor(connection)
        some = f"SELECT entity FROM removed_history ORDER BY entity LIMIT {ROWS}"
        gone = [row[0] for row in cursor.execute(some).fetchall()]
        if not gone:
            return
        own, parameters = self._rows_of(gone)
        sql = f"DELETE FROM attribute_history WHERE no IN ({own} LIMIT {4 * ROWS})"
        if cursor.execute(self.store.sql(sql), parameters).rowcount < 4 * ROWS:
            condition, parameters = self.store.among("entity", gone)
            cursor.execute(self.store.sql(f"DELETE FROM removed_history WHERE {condition}"), parameters)

    def age(self, connection: sa.Connection, type: str, before: int) -> bool:
        """Delete some rows of a type that were written before a time; False when none are left.

        Rows are numbered in the order of their writing, so the search goes on where it ended. (The newest numbers may
        be used again after their rows are deleted.)
        """
        cursor = self.store.cursor(connection)
        newest = cursor.execute("SELECT max(no) FROM attribute_history").fetchone()[0] or 0
        low = min(self._low.get(type, 0), newest)
        sql = self.store.sql(f"SELECT no,at FROM attribute_history WHERE no>? ORDER BY no LIMIT 1 OFFSET {10 * ROWS - 1}")
        edge = cursor.execute(sql, (low,)).fetchone()
        sql = "DELETE FROM attribute_history WHERE no>? AND type=? AND at<?" + ("" if edge is None else " AND no<=?")
        cursor.execute(self.store.sql(sql), (low, type, before, *(() if edge is None else (edge[0],))))
        if edge is None or edge[1] >= before:
            return False
        self._low[type] = edge[0]
        return True

    async def tidy(self, house: House) -> None:
        """Every second: delete the history of deleted entities in small pieces. Every hour: what a model says is old."""
        due = 0.0
        loop = asyncio.get_running_loop()
        waiting = sa.text("SELECT 1 FROM removed_history LIMIT 1")
        while True:
            while await house.db.read(lambda c: c.execute(waiting).first()):
                await house.db.write(self.sweep)
            if loop.time() >= due:
                await self.retain(house)
                due = loop.time() + 3600
            await asyncio.sleep(1)

    async def retain(self, house: House) -> None:
        """Delete what is older than its model's `retention_days`."""
        now = time.time_ns() // 1000
        for type, days in house.retention().items():
            before = now - days * DAY
            more = True
            while more:
                more = await house.db.write(partial(self.age, type=type, before=before))
