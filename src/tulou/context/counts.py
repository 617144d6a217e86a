"""How many entities there are of each organisation and type, kept so that nobody has to count millions of them.

Law: the table `entity_counts` changes in the transaction that inserts, deletes or retypes entities, once for all writes in
it, so it is never wrong by what is under way. An organisation's row is told only to who may see that organisation. What
attributes a type has is read from the documents: from all of them up to `DESCRIBED`, beyond it from a sample.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.2.24 to 5.2.28 and 5.7.5 to 5.7.10.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from tulou.context.selection import Selection, type_matches
from tulou.context.store import CHUNK, Kind, Store
from tulou.kernel.audit import LOCK
from tulou.kernel.policy import EVERYWHERE, Orgs
from tulou.kernel.sql import Database, driver_of

DESCRIBED = 50_000
"""Most documents that are read to say which attributes there are."""
STRIDES = 40
"""Places at which a sample of one kind is taken, spread evenly over its numbers."""
REST = 100
"""A finding about the counts stands for so many times as long as it took to find."""


class Counted(NamedTuple):
    """`number` entities of one kind; `types` are names as the columns hold them."""

    kind: Kind
    types: list[str]
    number: int


def key_of(type: str, types: str | None) -> str:
    """What stands for a set of types in the table's key: an index cannot hold them at any length."""
    return hashlib.blake2b((types or type).encode(), digest_size=16).hexdigest()


class Counts:
    """The counts of one store. `stored` gives the stored name of a type from the one that the columns hold."""

    def __init__(self, db: Database, stored: Callable[[str], str]) -> None:
        self._db = db
        self._stored = stored
        self.store = Store(db.dialect, self.note)
        self._found: tuple[float, tuple[bool, str, str]] | None = None

    # ---- keeping them

    def note(self, changes: Counter[Kind]) -> None:
        """From inside a write: entities came or went."""
        self._db.at_end(self._apply, changes)

    def _apply(self, connection: sa.Connection, items: list[Counter[Kind] | None]) -> None:
        """Add everything that a transaction changed (None: count anew), in one order, behind the lock that its audit rows
        take anyway: two processes never wait for each other crosswise."""
        if None in items:
            self._recount(driver_of(connection).cursor())
            return
        total: dict[Kind, int] = {}
        for item in items:
            for kind, change in (item or {}).items():
                total[kind] = total.get(kind, 0) + change
        rows = sorted((kind.org, key_of(*kind[1:]), kind.type, kind.types, n) for kind, n in total.items() if n)
        if not rows:
            return
        cursor = driver_of(connection).cursor()
        if self.store.postgres:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        cursor.executemany(self.store.sql(
            "INSERT INTO entity_counts (org,kind,type,types,n) VALUES (?,?,?,?,?) "
            "ON CONFLICT (org,kind) DO UPDATE SET n=entity_counts.n+excluded.n"
        ), rows)
        gone = [row[:2] for row in rows if row[4] < 0]
        if gone:
            cursor.executemany(self.store.sql("DELETE FROM entity_counts WHERE org=? AND kind=? AND n=0"), gone)

    # ---- asking them

    def kept(self, cursor: Any, orgs: Orgs) -> list[Counted]:
        """The counts of these organisations, less what has expired and waits to be deleted."""
        store = self.store
        condition, parameters = ("1=1", []) if orgs.all else store.among("e.org", sorted(orgs.ids))
        sql = f"SELECT e.org,e.type,e.types,e.n FROM entity_counts e WHERE {condition} AND e.n>0"
        found = {Kind(*row[:3]): row[3] for row in cursor.execute(store.sql(sql), parameters).fetchall()}
        sql = f"SELECT e.org,e.type,{store.types} FROM entities e WHERE e.expires_at<=?"
        expired = cursor.execute(store.sql(sql), (time.time_ns() // 1000,)).fetchall()
        for kind in (Kind.of(*row) for row in expired):
            if kind in found:
                found[kind] -= 1
        return [
            Counted(kind, orjson.loads(kind.types) if kind.types else [kind.type], count)
            for kind, count in sorted(found.items(), key=lambda item: (item[0].org, item[0].type, item[0].types or ""))
            if count > 0
        ]

    def of(self, cursor: Any, orgs: Orgs, selection: Selection) -> int | None:
        """How many entities `selection` selects, None if types alone do not tell it."""
        selectors = selection.selectors
        if selection != Selection(selectors) or any(selector.ids or selector.pattern for selector in selectors):
            return None
        return sum(
            item.number for item in self.kept(cursor, orgs)
            if not selectors or any(type_matches(s.types, [self._stored(name) for name in item.types]) for s in selectors)
        )

    def types(self, cursor: Any, orgs: Orgs) -> dict[str, int]:
        """Stored type names with how many entities have each."""
        found: dict[str, int] = {}
        for item in self.kept(cursor, orgs):
            for name in map(self._stored, item.types):
                found[name] = found.get(name, 0) + item.number
        return found

    def attributes(self, cursor: Any, orgs: Orgs, type: str | None) -> dict[str, dict[str, Any]]:
        """Stored attribute names of entities of a stored type (None: any): `{count, types, kinds}`.

        Beyond `DESCRIBED` entities it is what a sample of each kind holds, and counts are estimates.
        """
        kinds = [item for item in self.kept(cursor, orgs) if type is None or type in map(self._stored, item.types)]
        found: dict[str, dict[str, Any]] = {}
        exact = sum(item.number for item in kinds) <= DESCRIBED
        for item in kinds:
            sample = [] if exact else self._sample(cursor, item, DESCRIBED // len(kinds))
            weight = item.number / len(sample) if sample else 1.0
            for name, kind, count in self._members(cursor, item.kind, sample):
                entry = found.setdefault(name, {"count": 0, "types": set(), "kinds": set()})
                entry["count"] += round(count * weight)
                entry["types"].add(self._stored(item.kind.type))
                entry["kinds"].add(kind)
        return found

    def _of_kind(self, kind: Kind) -> tuple[str, list[Any]]:
        """The condition of one kind, over its index."""
        condition, parameters = "e.org=? AND e.type=? AND e.types IS NULL", [kind.org, kind.type]
        if kind.types is not None:
            condition = "e.org=? AND e.type=? AND e.types=?" + ("::jsonb" if self.store.postgres else "")
            parameters.append(kind.types)
        return condition + " AND (e.expires_at IS NULL OR e.expires_at>?)", [*parameters, time.time_ns() // 1000]

    def _sample(self, cursor: Any, item: Counted, most: int) -> list[int]:
        """Numbers of about `most` entities of a kind; all of them if there are no more. Empty: there is no need to choose."""
        if item.number <= most:
            return []
        condition, parameters = self._of_kind(item.kind)
        sql = "SELECT min(e.no),max(e.no) FROM entities e WHERE e.org=? AND e.type=?"
        low, high = cursor.execute(self.store.sql(sql), parameters[:2]).fetchone()
        each = max(1, most // STRIDES)
        numbers: set[int] = set()
        sql = self.store.sql(f"SELECT e.no FROM entities e WHERE {condition} AND e.no>=? ORDER BY e.no LIMIT ?")
        for step in range(STRIDES):
            start = low + (high - low) * step // STRIDES
            numbers.update(row[0] for row in cursor.execute(sql, [*parameters, start, each]).fetchall())
        return sorted(numbers)

    def _members(self, cursor: Any, kind: Kind, numbers: Sequence[int]) -> Iterable[tuple[str, str, int]]:
        """(attribute, its type, how many entities) of a kind, or of those of it that have these numbers."""
        condition, parameters = self._of_kind(kind)
        if self.store.postgres:
            members = (
                "SELECT k.k,CASE jsonb_typeof(e.doc->k.k) WHEN 'array' THEN e.doc->k.k->0->>'type' "
                "ELSE e.doc->k.k->>'type' END,count(*) FROM entities e, jsonb_object_keys(e.doc) k(k) "
                "WHERE {} AND jsonb_typeof(e.doc->k.k) IN ('object','array') AND k.k NOT IN ('type','scope') GROUP BY 1,2"
            )
        else:
            members = (
                "SELECT k.key,CASE k.type WHEN 'array' THEN json_extract(k.value,'$[0].type') "
                "ELSE json_extract(k.value,'$.type') END,count(*) FROM entities e, json_each(e.doc) k "
                "WHERE {} AND k.type IN ('object','array') AND k.key NOT IN ('type','scope') GROUP BY 1,2"
            )
        if not numbers:
            yield from cursor.execute(self.store.sql(members.format(condition)), parameters).fetchall()
            return
        for at in range(0, len(numbers), CHUNK):
            condition, parameters = self.store.among("e.no", numbers[at : at + CHUNK])
            yield from cursor.execute(self.store.sql(members.format(condition)), parameters).fetchall()

    # ---- verifying them

    def wrong(self, connection: sa.Connection) -> list[Kind]:
        """Kinds of which the table and the entities disagree, for the doctor: one statement, so one moment."""
        store = self.store
        sql = (
            f"SELECT e.org,e.type,{store.types},count(*) FROM entities e WHERE e.types IS NOT NULL GROUP BY 1,2,3 "
            "UNION ALL SELECT e.org,e.type,NULL,count(*) FROM entities e GROUP BY 1,2 "
            "UNION ALL SELECT e.org,e.type,e.types,-e.n FROM entity_counts e WHERE e.types IS NOT NULL "
            "UNION ALL SELECT e.org,e.type,NULL,-sum(e.n) FROM entity_counts e GROUP BY 1,2"
        )
        balance: Counter[Kind] = Counter()
        for org, type, types, count in store.cursor(connection).execute(store.sql(sql)).fetchall():
            balance[Kind.of(org, type, types)] += int(count)
        return [kind for kind, count in balance.items() if count]

    async def check(self) -> tuple[bool, str, str]:
        """The doctor's finding. It reads an index of all entities, so one finding stands for a while."""
        if self._found is not None and time.monotonic() < self._found[0]:
            return self._found[1]
        began = time.monotonic()
        wrong = await self._db.read(self.wrong)
        took = time.monotonic() - began
        if wrong:
            names = "、".join(f"{kind.org} {kind.type}" for kind in wrong[:3])
            finding = (
                False, f"{len(wrong)} 类实体的计数有误（{names}）；运行 tulou context recount",
                f"the counts of {len(wrong)} kinds of entities are wrong ({names}); run tulou context recount",
            )
        else:
            finding = (True, f"实体计数与实体一致（核对用时 {took:.2f} 秒）", f"the counts of entities are right (checked in {took:.2f} s)")
            self._found = (time.monotonic() + REST * took, finding)
        return finding

    async def recount(self) -> int:
        """Count everything anew; returns how many kinds there are."""
        await self._db.write(lambda _connection: self._db.at_end(self._apply, None))
        return await self._db.read(lambda c: len(self.kept(self.store.cursor(c), EVERYWHERE)))

    def _recount(self, cursor: Any) -> None:
        """In a write, after all that it changed."""
        store = self.store
        if store.postgres:
            cursor.execute("LOCK TABLE entities IN SHARE MODE")
        sql = f"SELECT e.org,e.type,{store.types},count(*) FROM entities e GROUP BY 1,2,3"
        found = [(Kind.of(*row[:3]), row[3]) for row in cursor.execute(sql).fetchall()]
        cursor.execute("DELETE FROM entity_counts")
        cursor.executemany(
            store.sql("INSERT INTO entity_counts (org,kind,type,types,n) VALUES (?,?,?,?,?)"),
            [(kind.org, key_of(*kind[1:]), kind.type, kind.types, count) for kind, count in found],
        )
