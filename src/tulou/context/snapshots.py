"""Snapshots: what queries find at one moment, kept as it was and queried like the current state.

Law: a snapshot is filled in one transaction, so it is a moment that was; what context sources have is asked for before, and
the snapshot is `preparing` until it is filled. It belongs to an organisation; every entity in
it keeps its own, and who looks sees what he may see today of what was there then. It ends by itself.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.2.41, 5.2.42, 5.16 and 6.3.22.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import sqlalchemy as sa

from tulou.context import forms, models, query
from tulou.context.columns import columns_of, dumped
from tulou.context.errors import AlreadyExists, OperationNotSupported, TooManyResults, bad, ngsi_problem
from tulou.context.forms import Json, entity_id
from tulou.context.jsonld import CORE
from tulou.context.selection import Selection
from tulou.context.service import ContextService, now_us
from tulou.context.store import CHUNK, Store
from tulou.context.store import Row as Entity
from tulou.kernel.errors import NotFound, TulouError
from tulou.kernel.policy import Actor, Orgs, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, CREATE = "context.snapshot.read", "context.snapshot.create"
WRITE, DELETE = "context.snapshot.write", "context.snapshot.delete"

MAX_ENTITIES = 50_000
"""Most entities of a snapshot: they are copied in one transaction, which every other write waits for."""
MAX_QUERIES = 20
LIFETIME_S = 86_400
LONGEST_S = 366 * 86_400
PRIORITY = 5
USED_EVERY_US = 60_000_000
PREPARING = "preparing"
ABANDONED_US = 1_800_000_000

_MUTABLE = frozenset({"snapshotPriority", "snapshotLifetime"})
_MEMBERS = _MUTABLE | {"id", "type", "snapshotQueries"}
_ASKABLE = _MUTABLE | {"id", "snapshotStatus", "lastUsedAt"}
"""Members that the `q` of a purge may name, beside the system times."""
_DURATION = re.compile(r"P(?=.)(?:(\d{1,5})D)?(?:T(?=.)(?:(\d{1,6})H)?(?:(\d{1,7})M)?(?:(\d{1,9})S)?)?")

_COLUMNS = ",".join(
    column.name for column in models.snapshot_entities.columns if column.name not in ("no", "snapshot")
)


_ADD = (
    "INSERT INTO snapshot_entities (snapshot,id,org,type,types,doc,times,synthetic,lon,lat,west,south,east,north,created_at,"
    "modified_at,expires_at,version) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
)


class Part(NamedTuple):
    """What one query puts into a snapshot: the house's entities of `selection`, which `join` puts together with what sources
    have; `problems` (ProblemDetails) with sources; the error of a query that cannot be run."""

    selection: Selection
    join: Callable[[list[Entity]], list[Entity]] | None = None
    problems: Sequence[Json] = ()
    error: TulouError | None = None


class Row(NamedTuple):
    """A stored snapshot; times are µs."""

    no: int
    id: str
    org: str
    text: str
    created_at: int
    modified_at: int
    used_at: int
    expires_at: int

    @property
    def document(self) -> Json:
        """The snapshot as a client sees it."""
        found: Json = orjson.loads(self.text)
        for name, us in (("createdAt", self.created_at), ("modifiedAt", self.modified_at), ("lastUsedAt", self.used_at),
                         ("expiresAt", self.expires_at)):
            found[name] = forms.moment(us)
        return found


class Snapshots:
    """The operations on snapshots."""

    def __init__(self, house: House, entities: ContextService) -> None:
        self.db = house.db
        self.policy = house.policy
        self.entities = entities
        self.store = Store(house.db.dialect)
        doc = "doc::text" if self.store.postgres else "doc"
        self._select = f"SELECT no,id,org,{doc},created_at,modified_at,used_at,expires_at FROM snapshots"

    @operation(CREATE)
    async def create(
        self, actor: Actor, raw: Any, selections: Sequence[Selection], *, tenant: str | None = None
    ) -> Json:
        """Create a snapshot and fill it with what `selections` (its `snapshotQueries`, read) find (5.16.1).

        Raises `BadRequestData`, `AlreadyExists`. A query that cannot be run is a detail of the snapshot's status.
        """
        org = self.entities.tenant(actor, tenant, CREATE)
        orgs = self.entities.readable(actor, tenant)
        document = self._fresh(raw)
        now = now_us()

        def write(connection: sa.Connection) -> None:
            no = self._insert(connection, org, actor, document, now)
            self._fill(connection, no, document, orgs, [Part(selection) for selection in selections], now)

        await self.db.write(write)
        return document

    @operation(CREATE)
    async def begin(self, actor: Actor, raw: Any, *, tenant: str | None = None) -> tuple[int, Orgs, Json]:
        """Create a snapshot that is still to be filled: its number, whose entities it may hold, and itself."""
        org = self.entities.tenant(actor, tenant, CREATE)
        orgs = self.entities.readable(actor, tenant)
        document = {**self._fresh(raw), "snapshotStatus": PREPARING}
        no = await self.db.write(lambda connection: self._insert(connection, org, actor, document, now_us()))
        return no, orgs, document

    async def fill(self, no: int, orgs: Orgs, parts: Sequence[Part]) -> None:
        """Fill a snapshot that was begun, unless it is gone."""
        doc = "doc::text" if self.store.postgres else "doc"
        sql = self.store.sql(f"SELECT {doc} FROM snapshots WHERE no=?")

        def write(connection: sa.Connection) -> None:
            row = self.store.cursor(connection).execute(sql, (no,)).fetchone()
            if row is not None:
                self._fill(connection, no, orjson.loads(row[0]), orgs, parts, now_us())

        await self.db.write(write)

    def _fresh(self, raw: Any) -> Json:
        document = checked(raw)
        document.setdefault("id", f"urn:ngsi-ld:Snapshot:{uuid.uuid4()}")
        return document

    def _fill(
        self, connection: sa.Connection, no: int, document: Json, orgs: Orgs, parts: Sequence[Part], now: int
    ) -> None:
        details: list[Json] = []
        total = 0
        for part in parts:
            if part.error is not None:
                details.append({"resultStatus": "failure", "errorDetails": [ngsi_problem(part.error)]})
                continue
            try:
                found = self.entities.numbers(connection, orgs, part.selection, MAX_ENTITIES + 1)
                rows: list[Entity] = []
                if part.join is not None and len(found) <= MAX_ENTITIES:
                    known = self.store.by_no(self.store.cursor(connection), found)
                    own = [known[number] for number in found]
                    rows = part.join(own)
                    unchanged = {id(row) for row in own} & {id(row) for row in rows}
                    found = [row.no for row in own if id(row) in unchanged]
                    rows = [row for row in rows if id(row) not in unchanged]
                total += len(found) + len(rows)
                if total > MAX_ENTITIES:
                    raise TooManyResults(f"快照最多 {MAX_ENTITIES} 个实体", f"a snapshot holds at most {MAX_ENTITIES} entities")
                self._copy(connection, no, "entities", found)
                self._add(connection, no, rows)
                details.append({
                    "resultStatus": "success" if found or rows else "empty",
                    **({"errorDetails": list(part.problems)} if part.problems else {}),
                })
            except TooManyResults as error:
                details.append({"resultStatus": "failure", "errorDetails": [ngsi_problem(error)]})
        document["snapshotStatus"] = _status([item["resultStatus"] for item in details])
        document["snapshotQueriesDetails"] = details
        self._rewrite(connection, no, document, now)

    @operation(CREATE)
    async def clone(self, actor: Actor, id: str, raw: Any, *, tenant: str | None = None) -> Json:
        """A snapshot of the same entities as another one, with its own priority and lifetime (5.16.2)."""
        org = self.entities.tenant(actor, tenant, CREATE)
        source = await self._row(actor, id, tenant, READ)
        if source.document.get("snapshotStatus") == PREPARING:
            raise OperationNotSupported(f"快照 {id} 尚未备好", f"snapshot {id} is still being prepared", field="id", value=id)
        wanted = changes(raw if raw is not None else {})
        kept = {k: v for k, v in source.document.items() if k in _MEMBERS | {"snapshotStatus", "snapshotQueriesDetails"}}
        own = raw.get("id") if isinstance(raw, dict) else None
        document = {**kept, **wanted, "id": entity_id(own) if own else f"urn:ngsi-ld:Snapshot:{uuid.uuid4()}"}
        now = now_us()

        def write(connection: sa.Connection) -> bool:
            cursor = self.store.cursor(connection)
            if cursor.execute(self.store.sql("SELECT 1 FROM snapshots WHERE no=?"), (source.no,)).fetchone() is None:
                return False
            no = self._insert(connection, org, actor, document, now)
            cursor.execute(
                self.store.sql(f"INSERT INTO snapshot_entities (snapshot,{_COLUMNS}) SELECT ?,{_COLUMNS} FROM "
                               "snapshot_entities WHERE snapshot=? ORDER BY no"), (no, source.no),
            )
            return True

        if not await self.db.write(write):
            raise no_such_snapshot(id)
        return document

    @operation(READ)
    async def retrieve(self, actor: Actor, id: str, *, tenant: str | None = None) -> Json:
        """A snapshot's status (5.16.3). Raises `NotFound`."""
        return (await self._row(actor, id, tenant, READ)).document

    @operation(READ)
    async def use(self, actor: Actor, id: str, *, tenant: str | None = None) -> int:
        """The number of a snapshot that is to be looked at (6.3.22); notes that it was used. Raises `NotFound`."""
        row = await self._row(actor, id, tenant, READ)
        now = now_us()
        if now - row.used_at > USED_EVERY_US:
            sql = self.store.sql("UPDATE snapshots SET used_at=? WHERE no=?")

            def write(connection: sa.Connection) -> None:
                self.store.cursor(connection).execute(sql, (now, row.no))

            await self.db.write(write)
        return row.no

    @operation(WRITE)
    async def update(self, actor: Actor, id: str, raw: Any, *, tenant: str | None = None) -> Json:
        """Change a snapshot's priority or lifetime (5.16.4); returns it."""
        row = await self._row(actor, id, tenant, WRITE)
        wanted = changes(raw)
        if not wanted:
            raise bad("没有可更改的成员", "there is nothing to change", field="body", rule=", ".join(sorted(_MUTABLE)))
        document = {**orjson.loads(row.text), **wanted}
        now = now_us()
        expires = row.created_at + lifetime_us(document)

        def write(connection: sa.Connection) -> None:
            self._rewrite(connection, row.no, document, now, expires)

        await self.db.write(write)
        return row._replace(text=dumped(document), modified_at=now, expires_at=expires).document

    @operation(DELETE)
    async def delete(self, actor: Actor, id: str, *, tenant: str | None = None) -> None:
        """Delete a snapshot with its copies (5.16.5)."""
        row = await self._row(actor, id, tenant, DELETE)
        await self._delete([row.no])

    @operation(DELETE)
    async def purge(self, actor: Actor, q: str, *, tenant: str | None = None) -> int:
        """Delete the snapshots of an organisation that satisfy `q`, over members of a Snapshot (5.16.7); returns how many.

        Raises `BadRequestData` for a `q` that names anything else.
        """
        org = self.entities.tenant(actor, tenant, DELETE)
        node = query.parse(q, CORE)
        for path in query.paths(node):
            if path.trail or len(path.names) > 1 or not _ASKABLE.issuperset(path.names):
                raise bad("q 只可用快照的成员", "q may name members of a snapshot alone", field="q", value=q,
                          rule=", ".join(sorted(_ASKABLE)))
        sql = self.store.sql(self._select + " WHERE org=?")
        rows = await self.db.read(lambda c: self.store.cursor(c).execute(sql, (org,)).fetchall())
        gone = [row.no for row in map(Row._make, rows) if _satisfies(row, node)]
        await self._delete(gone)
        return len(gone)

    async def expire(self, _house: House) -> None:
        """Every 30 s: delete the snapshots whose time has come, and end those that nobody prepares any more."""
        sql = self.store.sql("SELECT no FROM snapshots WHERE expires_at<=? LIMIT 100")
        while True:
            await asyncio.sleep(30)
            due = await self.db.read(lambda c: self.store.cursor(c).execute(sql, (now_us(),)).fetchall())
            await self._delete([row[0] for row in due])
            await self.abandon(now_us() - ABANDONED_US)

    async def abandon(self, before: int) -> None:
        """Say `failure` of the snapshots that have been preparing since before a time in µs: their process has ended."""
        status = "doc->>'snapshotStatus'" if self.store.postgres else "json_extract(doc,'$.snapshotStatus')"
        sql = self.store.sql(self._select + f" WHERE created_at<? AND {status}=?")

        def write(connection: sa.Connection) -> None:
            for row in map(Row._make, self.store.cursor(connection).execute(sql, (before, PREPARING)).fetchall()):
                self._rewrite(connection, row.no, {**orjson.loads(row.text), "snapshotStatus": "failure"}, now_us())

        await self.db.write(write)

    # ---- rows

    async def _row(self, actor: Actor, id: str, tenant: str | None, action: str) -> Row:
        """The live snapshot that `id` means to this actor, who may do `action` with it: his own organisation's first."""
        orgs = self.policy.require_any(actor, READ)
        if tenant is not None:
            orgs = self.entities.readable(actor, tenant)
        sql = self.store.sql(self._select + " WHERE id=? AND expires_at>? ORDER BY no")
        rows = await self.db.read(lambda c: self.store.cursor(c).execute(sql, (id, now_us())).fetchall())
        seen = [row for row in map(Row._make, rows) if row.org in orgs]
        if not seen:
            raise no_such_snapshot(id)
        row = next((row for row in seen if row.org == actor.org), seen[0])
        self.policy.require(actor, action, row.org)
        return row

    def _insert(self, connection: sa.Connection, org: str, actor: Actor, document: Json, now: int) -> int:
        cursor, sql = self.store.cursor(connection), self.store.sql
        found = "SELECT no FROM snapshots WHERE id=? AND org=?"
        if cursor.execute(sql(found), (document["id"], org)).fetchone() is not None:
            raise AlreadyExists(f"快照 {document['id']} 已存在", f"snapshot {document['id']} already exists", field="id",
                                value=document["id"], rule="unique")
        cursor.execute(
            sql("INSERT INTO snapshots (id,org,owner,doc,created_at,modified_at,used_at,expires_at) VALUES (?,?,?,?,?,?,?,?)"),
            (document["id"], org, actor.id, dumped(document), now, now, now, now + lifetime_us(document)),
        )
        return int(cursor.execute(sql(found), (document["id"], org)).fetchone()[0])

    def _rewrite(
        self, connection: sa.Connection, no: int, document: Json, now: int, expires: int | None = None
    ) -> None:
        expiry, own = ("", []) if expires is None else (",expires_at=?", [expires])
        sql = self.store.sql(f"UPDATE snapshots SET doc=?,modified_at=?{expiry} WHERE no=?")
        self.store.cursor(connection).execute(sql, [dumped(document), now, *own, no])

    def _copy(self, connection: sa.Connection, no: int, table: str, numbers: Sequence[int]) -> None:
        cursor = self.store.cursor(connection)
        for at in range(0, len(numbers), CHUNK):
            condition, parameters = self.store.among("e.no", numbers[at : at + CHUNK])
            sql = (
                f"INSERT INTO snapshot_entities (snapshot,{_COLUMNS}) SELECT ?,{_COLUMNS} FROM {table} e "
                f"WHERE {condition} ORDER BY e.no ON CONFLICT DO NOTHING"
            )
            cursor.execute(self.store.sql(sql), [no, *parameters])

    def _add(self, connection: sa.Connection, no: int, rows: Sequence[Entity]) -> None:
        """Insert entities that are stored nowhere as they are."""
        names = self.entities.names.shown
        values = []
        for row in rows:
            (kind, types, _), place, expires = columns_of(row.document, names)
            values.append((no, row.id, row.org, kind, types, row.text, row.times_text, *place, row.created_at, row.modified_at,
                           expires, row.version))
        if values:
            self.store.cursor(connection).executemany(self.store.sql(_ADD), values)

    async def _delete(self, numbers: Sequence[int]) -> None:
        for no in numbers:
            def write(connection: sa.Connection, no: int = no) -> None:
                cursor = self.store.cursor(connection)
                cursor.execute(self.store.sql("DELETE FROM snapshot_entities WHERE snapshot=?"), (no,))
                cursor.execute(self.store.sql("DELETE FROM snapshots WHERE no=?"), (no,))

            await self.db.write(write)


def checked(raw: Any) -> Json:
    """A Snapshot (5.2.41) as its creator gave it. Raises `BadRequestData`, `OperationNotSupported`."""
    if not isinstance(raw, dict) or raw.get("type") != "Snapshot":
        raise bad("正文应为 type 为 Snapshot 的对象", "the body must be an object of type Snapshot", field="type",
                  rule="CIM 009, 5.2.41")
    queries = raw.get("snapshotQueries")
    for name in ("snapshotTemporalQueries", "endpoint"):
        if name in raw:
            raise OperationNotSupported(f"快照不提供 {name}", f"snapshots do not offer {name}", field=name, rule="CIM 009, 5.2.41")
    if not isinstance(queries, list) or not 0 < len(queries) <= MAX_QUERIES or not all(isinstance(q, dict) for q in queries):
        raise bad(f"snapshotQueries 应为 1 至 {MAX_QUERIES} 个 Query", f"snapshotQueries must be 1..{MAX_QUERIES} queries",
                  field="snapshotQueries", rule="CIM 009, 5.2.41")
    if any("temporalQ" in item for item in queries):
        raise bad("snapshotQueries 不可含 temporalQ", "snapshotQueries cannot have a temporalQ", field="snapshotQueries.temporalQ",
                  rule="CIM 009, 5.2.41")
    for name in raw:
        if name not in _MEMBERS and name != "@context":
            raise bad(f"快照没有成员 {name}", f"a snapshot has no member {name} to give", field=name, rule=", ".join(sorted(_MEMBERS)))
    document: Json = {"type": "Snapshot", "snapshotQueries": queries, "snapshotPriority": PRIORITY, **changes(raw, all_members=True)}
    if "id" in raw:
        document["id"] = entity_id(raw["id"])
    return document


def changes(raw: Any, *, all_members: bool = False) -> Json:
    """The members that may change. Raises `BadRequestData` for others, unless `all_members`."""
    if not isinstance(raw, dict):
        raise bad("正文应为 JSON 对象", "the body must be a JSON object", field="body", rule="object")
    others = set(raw) - _MUTABLE - {"type", "id", "@context"}
    if others and not all_members:
        raise bad(f"不可更改 {', '.join(sorted(others))}", f"{', '.join(sorted(others))} cannot be changed",
                  field=sorted(others)[0], rule=f"CIM 009, 5.16.4: {', '.join(sorted(_MUTABLE))}")
    found = {name: raw[name] for name in _MUTABLE if name in raw}
    priority = found.get("snapshotPriority", PRIORITY)
    if type(priority) is not int or not 1 <= priority <= 10:
        raise bad("snapshotPriority 应为 1 至 10 的整数", "snapshotPriority must be 1..10", field="snapshotPriority",
                  value=priority, rule="1..10")
    lifetime_us(found)
    return found


def lifetime_us(document: Json) -> int:
    """Microseconds of the ISO 8601 duration `snapshotLifetime` (days and smaller). Raises `BadRequestData`."""
    text = document.get("snapshotLifetime", f"PT{LIFETIME_S}S")
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total = days * 86_400 + hours * 3_600 + minutes * 60 + seconds
        if 0 < total <= LONGEST_S:
            return total * 1_000_000
    raise bad("snapshotLifetime 应为 ISO 8601 时长，最长 366 天", "snapshotLifetime must be an ISO 8601 duration of at most 366 days",
              field="snapshotLifetime", value=text, rule="P1D, PT12H")


def _status(results: Sequence[str]) -> str:
    """The status of the whole from those of its queries (5.16.1.4)."""
    kinds = set(results)
    return kinds.pop() if len(kinds) == 1 else "partial"


def _satisfies(row: Row, node: query.Node) -> bool:
    document = {
        name: {"type": "Property", "value": value} for name, value in row.document.items() if name in _ASKABLE
    }
    document["expiresAt"] = forms.moment(row.expires_at)  # type: ignore[assignment]
    return query.matches(node, document, lambda _name: (forms.moment(row.created_at), forms.moment(row.modified_at)))


def no_such_snapshot(id: str) -> NotFound:
    """The error for a snapshot that is not there, has expired, or must not be known."""
    return NotFound(f"没有快照 {id[:200]}", f"there is no snapshot {id[:200]}", field="NGSILD-Snapshot", value=id)
