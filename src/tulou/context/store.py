"""SQL of entities: rows in and out, on SQLite and PostgreSQL, below SQLAlchemy's ORM and above the driver.

Law: statements are constant texts with marks; whatever a client sent is a parameter. Functions that write run inside
`Database.write`, with the cursor of its connection.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from tulou.context import forms
from tulou.context.columns import dumped
from tulou.context.forms import Json
from tulou.context.query import regexp
from tulou.kernel.sql import driver_of, insert_many

CHUNK = 500


class Row(NamedTuple):
    """A stored entity. `text` and `times_text` are JSON; times are µs."""

    no: int
    id: str
    org: str
    type: str
    text: str
    times_text: str | None
    synthetic: bool
    created_at: int
    modified_at: int
    version: int

    @property
    def document(self) -> Json:
        """The stored document."""
        found: Json = orjson.loads(self.text)
        return found

    def alive(self) -> Json:
        """The stored document without what has expired (4.22)."""
        found = self.document
        return forms.alive(found, time.time_ns() // 1000) if '"expiresAt"' in self.text else found

    @property
    def times(self) -> Json:
        """Times of the entity and its attributes, as `forms.stamp` takes them."""
        found: Json = orjson.loads(self.times_text) if self.times_text else {}
        found["@"] = [self.created_at, self.modified_at]
        return found


class Kind(NamedTuple):
    """What entities are counted by: their organisation and types (`types`: JSON of all, when there are several)."""

    org: str
    type: str
    types: str | None

    @classmethod
    def of(cls, org: str, type: str, types: str | None) -> Kind:
        """From columns, of which PostgreSQL writes JSON with spaces."""
        return cls(org, type, types and dumped(orjson.loads(types)))


class Store:
    """Statements for one dialect. Who writes entities gives `counted`, which is told what came and went of each kind."""

    def __init__(self, dialect: str, counted: Callable[[Counter[Kind]], None] | None = None) -> None:
        self.postgres = dialect == "postgresql"
        self._counted = counted
        self.types = "e.types::text" if self.postgres else "e.types"
        doc, times = ("e.doc::text", "e.times::text") if self.postgres else ("e.doc", "e.times")
        self.columns = (
            f"e.no,e.id,e.org,e.type,{doc},{times},e.synthetic,e.created_at,e.modified_at,e.version"
        )
        self._translated: dict[str, str] = {}
        self.by_id = f"SELECT {self.columns} FROM entities e WHERE e.id=? LIMIT 50"
        self.one = f"SELECT {self.columns} FROM entities e WHERE e.id=? AND e.org=?"

    def sql(self, text: str) -> str:
        """A statement with the driver's marks."""
        if not self.postgres:
            return text
        found = self._translated.get(text)
        if found is None:
            found = text.replace("?", "%s")
            if len(self._translated) > 5000:
                self._translated.clear()
            self._translated[text] = found
        return found

    def cursor(self, connection: sa.Connection) -> Any:
        """The driver's own cursor on an SQLAlchemy connection."""
        return driver_of(connection).cursor()

    def with_regexp(self, connection: Any) -> None:
        """Teach a driver's SQLite connection `regexp(pattern, text)`, run by RE2."""
        if not self.postgres:
            connection.create_function("regexp", 2, _regexp, deterministic=True)

    def among(self, column: str, count_or_json: Sequence[Any]) -> tuple[str, list[Any]]:
        """`column IN (...)` for any number of values, as one parameter."""
        if self.postgres:
            return f"{column} = ANY(?)", [list(count_or_json)]
        return f"{column} IN (SELECT value FROM json_each(?))", [dumped(list(count_or_json))]

    # ---- reading

    def get(self, cursor: Any, entity_id: str, org: str) -> Row | None:
        """One entity by its key."""
        row = cursor.execute(self.sql(self.one), (entity_id, org)).fetchone()
        return Row(*row) if row else None

    def near(self, cursor: Any, box: tuple[float, float, float, float], most: int) -> list[int] | None:
        """Numbers of the entities, of anybody, whose bounding boxes meet `box` (west, south, east, north), ascending;
        None for more than `most`."""
        west, south, east, north = box
        found: set[int] = set()
        for condition, values in (
            ("lon BETWEEN ? AND ? AND lat BETWEEN ? AND ?", (west, east, south, north)),
            ("west IS NOT NULL AND west <= ? AND east >= ? AND south <= ? AND north >= ?", (east, west, north, south)),
        ):
            sql = self.sql(f"SELECT no FROM entities WHERE {condition} LIMIT ?")
            found.update(row[0] for row in cursor.execute(sql, (*values, most + 1)).fetchall())
            if len(found) > most:
                return None
        return sorted(found)

    def get_many(self, cursor: Any, ids: Sequence[str], org: str) -> dict[str, Row]:
        """Entities of one organisation by id."""
        found: dict[str, Row] = {}
        for at in range(0, len(ids), CHUNK):
            condition, parameters = self.among("e.id", ids[at : at + CHUNK])
            rows = cursor.execute(
                self.sql(f"SELECT {self.columns} FROM entities e WHERE {condition} AND e.org=?"), (*parameters, org)
            ).fetchall()
            found.update((row[1], Row(*row)) for row in rows)
        return found

    def numbers(self, cursor: Any, ids: Sequence[str], org: str) -> dict[str, int]:
        """Numbers of entities of one organisation by id."""
        found: dict[str, int] = {}
        together = "json_object_agg" if self.postgres else "json_group_object"  # one row: see `insert_many`
        for at in range(0, len(ids), CHUNK):
            condition, parameters = self.among("e.id", ids[at : at + CHUNK])
            sql = self.sql(f"SELECT {together}(e.id,e.no) FROM entities e WHERE {condition} AND e.org=?")
            (rows,) = cursor.execute(sql, (*parameters, org)).fetchone()
            found |= rows or {} if self.postgres else orjson.loads(rows)
        return found

    def by_no(self, cursor: Any, numbers: Sequence[int], table: str = "entities") -> dict[int, Row]:
        """Entities by number."""
        found: dict[int, Row] = {}
        for at in range(0, len(numbers), CHUNK):
            condition, parameters = self.among("e.no", numbers[at : at + CHUNK])
            rows = cursor.execute(
                self.sql(f"SELECT {self.columns} FROM {table} e WHERE {condition}"), parameters
            ).fetchall()
            found.update((row[0], Row(*row)) for row in rows)
        return found

    # ---- writing

    _INSERT = (
        "INSERT INTO entities (id,org,type,types,name,doc,times,synthetic,lon,lat,west,south,east,north,created_at,"
        "modified_at,expires_at,version) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,1)"
    )
    _UPDATE = (
        "UPDATE entities SET type=?,types=?,name=?,doc=?,times=?,synthetic=?,lon=?,lat=?,west=?,south=?,east=?,north=?,"
        "modified_at=?,expires_at=?,version=version+1 WHERE no=?"
    )
    _SAME_PLACE = (
        "UPDATE entities SET name=?,doc=?,times=?,synthetic=?,modified_at=?,version=version+1 WHERE no=?"
    )
    _VALUES = "UPDATE entities SET doc=?,times=?,modified_at=?,version=version+1 WHERE no=?"

    _NOTE = "INSERT INTO transient_entities (no) VALUES (?) ON CONFLICT DO NOTHING"
    _NOTE_NEW = "INSERT INTO transient_entities (no) SELECT no FROM entities WHERE id=? AND org=? ON CONFLICT DO NOTHING"

    def insert(self, cursor: Any, rows: Iterable[tuple[Any, ...]]) -> None:
        """Insert rows made by `insertion`."""
        rows = list(rows)
        self._note(Counter(Kind(*row[1:4]) for row in rows))
        insert_many(cursor, self._INSERT, rows)
        transient = [row[:2] for row in rows if '"expiresAt"' in row[5]]
        if transient:
            cursor.executemany(self.sql(self._NOTE_NEW), transient)

    def update(self, cursor: Any, rows: Iterable[tuple[Any, ...]]) -> None:
        """Update rows made by `replacement`."""
        rows = list(rows)
        known = self.kinds(cursor, [row[-1] for row in rows])
        changes: Counter[Kind] = Counter()
        for row in rows:
            old = known.get(row[-1])
            if old is not None and old[1:] != row[:2]:
                changes[old] -= 1
                changes[Kind(old.org, *row[:2])] += 1
        self._note(changes)
        self._update(cursor, self._UPDATE, rows, 3)

    def kinds(self, cursor: Any, numbers: Sequence[int]) -> dict[int, Kind]:
        """Kinds of entities by number."""
        found: dict[int, Kind] = {}
        for at in range(0, len(numbers), CHUNK):
            condition, parameters = self.among("e.no", numbers[at : at + CHUNK])
            sql = self.sql(f"SELECT e.no,e.org,e.type,{self.types} FROM entities e WHERE {condition}")
            found.update((row[0], Kind.of(*row[1:])) for row in cursor.execute(sql, parameters).fetchall())
        return found

    def _note(self, changes: Counter[Kind]) -> None:
        if changes and self._counted is not None:
            self._counted(changes)

    def update_in_place(self, cursor: Any, rows: Iterable[tuple[Any, ...]]) -> None:
        """Update (name, doc, times, synthetic, modified_at, no) where no indexed column changed: they stay untouched."""
        self._update(cursor, self._SAME_PLACE, rows, 1)

    def update_values(self, cursor: Any, rows: Iterable[tuple[Any, ...]]) -> None:
        """Update (doc, times, modified_at, no) where neither name, type nor place changed."""
        self._update(cursor, self._VALUES, rows, 0)

    def _update(self, cursor: Any, sql: str, rows: Iterable[tuple[Any, ...]], doc: int) -> None:
        """Run an update of rows that hold the document at `doc` and the number last."""
        rows = list(rows)
        cursor.executemany(self.sql(sql), rows)
        transient = [row[-1:] for row in rows if '"expiresAt"' in row[doc]]
        if transient:
            cursor.executemany(self.sql(self._NOTE), transient)

    def delete(self, cursor: Any, numbers: Sequence[int]) -> None:
        """Delete entities by number, and queue the removal of their readings and history."""
        gone = [(no,) for no in numbers]
        changes: Counter[Kind] = Counter()
        changes.subtract(self.kinds(cursor, numbers).values())
        self._note(changes)
        if cursor.execute("SELECT 1 FROM temporal_entities LIMIT 1").fetchone() is not None:
            own = "SELECT t.no FROM temporal_entities t JOIN entities e ON e.id=t.id AND e.org=t.org WHERE e.no=?"
            cursor.executemany(self.sql(f"INSERT INTO removed_history (entity) SELECT -no FROM ({own}) o"), gone)
            cursor.executemany(self.sql(f"DELETE FROM temporal_entities WHERE no IN ({own})"), gone)
        cursor.executemany(self.sql("INSERT INTO removed_history (entity) VALUES (?) ON CONFLICT DO NOTHING"), gone)
        cursor.executemany(self.sql("DELETE FROM entities WHERE no=?"), gone)
        cursor.executemany(self.sql("INSERT INTO removed_entities (no) VALUES (?) ON CONFLICT DO NOTHING"), gone)


def _regexp(pattern: str, text: object) -> int:
    return 1 if isinstance(text, str) and regexp(pattern).search(text) is not None else 0
