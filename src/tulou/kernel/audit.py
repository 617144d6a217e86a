"""The audit: an append-only, hash-chained record of what was done, tried and refused.

Law: a change and its audit row are committed together or not at all. `hash` is SHA-256 over the canonical bytes of the
row and the hash before it, so no row can be altered, removed or put in between without every later hash failing;
triggers refuse UPDATE and DELETE on both stores. Rows hold no secrets.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from tulou.kernel.errors import Invalid
from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.http import API, cursor, from_cursor, json_response, limit_of, route
from tulou.kernel.policy import ROOT, Actor, operation
from tulou.kernel.sql import BigId, Database, UtcDateTime, metadata, utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

audit_log = sa.Table(
    "audit_log", metadata,
    sa.Column("seq", BigId, primary_key=True, autoincrement=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.String(128), nullable=False, index=True),
    sa.Column("action", sa.String(128), nullable=False, index=True),
    sa.Column("org", sa.String(64), nullable=False, index=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("prev", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)

GENESIS = "0" * 64
LOCK = 0x7475_6C6F_75
"""Key of the PostgreSQL advisory lock under which the chain grows."""

_canonical = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str).encode
_head = sa.select(audit_log.c.seq, audit_log.c.hash).order_by(audit_log.c.seq.desc()).limit(1)


def digest(
    seq: int, at: dt.datetime, actor: str, action: str, org: str, subject: str, outcome: str, detail: str, prev: str
) -> str:
    """Hex SHA-256 of the row: a JSON array of its columns, `at` in integer microseconds since the epoch, UTF-8."""
    return _hash(seq, _micros(at), actor, action, org, subject, outcome, detail, prev)


def _micros(at: dt.datetime) -> int:
    return (at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _hash(*row: int | str) -> str:
    return hashlib.sha256(orjson.dumps(row)).hexdigest()


_NAMES = ",".join(column.name for column in audit_log.columns)
_INSERT = f"INSERT INTO audit_log ({_NAMES}) VALUES ({','.join(['?'] * len(audit_log.columns))})"
_INSERT_JSON = f"INSERT INTO audit_log ({_NAMES}) SELECT " + ",".join(
    f"json_extract(value,'$[{at}]')" for at in range(len(audit_log.columns))
) + " FROM json_each(?)"
"""One step for all rows: SQLite's driver gives up the interpreter lock at every step, and has to win it back. Its
functions end a text at a NUL."""


class Entry(NamedTuple):
    """A row before it has its place in the chain. `detail` is canonical JSON."""

    actor: str
    action: str
    org: str
    subject: str
    outcome: str
    detail: str


def entry(
    actor: Actor | str, action: str, org: str, subject: str = "", detail: dict[str, Any] | None = None,
    outcome: str = "ok",
) -> Entry:
    """The entry of something that was done."""
    who = actor if isinstance(actor, str) else actor.id
    try:
        text = orjson.dumps(detail or {}, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:
        text = _canonical(detail)
    return Entry(who[:128], action, org, subject, outcome, text)


def hold(connection: sa.Connection) -> None:
    """Keep the chain for this transaction, as its first row does. What locks rows of its own before it writes to the chain begins with
    this, so that no two processes wait for each other."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


def chain(connection: sa.Connection, entries: Sequence[Entry]) -> int:
    """Append rows inside the caller's transaction, all of this moment; returns the last one's sequence number."""
    remote = connection.dialect.name == "postgresql"
    hold(connection)
    head = connection.execute(_head).first()
    seq, prev = (head.seq, head.hash) if head else (0, GENESIS)
    at = utcnow()
    micros = _micros(at)
    stored = at if remote else at.replace(tzinfo=None).isoformat(" ", "microseconds")
    rows = []
    for own in entries:
        seq += 1
        found = _hash(seq, micros, *own, prev)
        rows.append((seq, stored, *own, prev, found))
        prev = found
    if remote:
        connection.exec_driver_sql(_INSERT.replace("?", "%s"), rows)
        return int(seq)
    together = orjson.dumps(rows).decode()
    if "\\u0000" in together:
        connection.exec_driver_sql(_INSERT, rows)
    else:
        connection.exec_driver_sql(_INSERT_JSON, (together,))
    return int(seq)


def record(
    connection: sa.Connection, actor: Actor | str, action: str, org: str, subject: str = "",
    detail: dict[str, Any] | None = None, outcome: str = "ok",
) -> int:
    """Append a row inside the caller's transaction (`db.write`); returns its sequence number."""
    return chain(connection, [entry(actor, action, org, subject, detail, outcome)])


def _chain_all(connection: sa.Connection, entries: list[Entry]) -> None:
    chain(connection, entries)


def record_soon(db: Database, made: Entry) -> None:
    """From inside a write: append a row before its transaction is committed, together with those of the other writes in
    it. For what is changed thousands of times a second."""
    db.at_end(_chain_all, made)


async def note(
    db: Database, actor: Actor | str, action: str, org: str, subject: str = "",
    detail: dict[str, Any] | None = None, outcome: str = "ok",
) -> int:
    """Append a row in a transaction of its own: refusals and sign-ins."""
    return await db.write(lambda c: record(c, actor, action, org, subject, detail, outcome))


class Verdict(NamedTuple):
    """The chain's verdict: `first_bad` is the first sequence number that breaks it, None when it holds."""

    ok: bool
    rows: int
    first_bad: int | None
    head: str


def verify_chain(
    connection: sa.Connection, progress: Callable[[int], None] | None = None, chunk: int = 5000
) -> Verdict:
    """Walk the whole chain in chunks of `chunk` rows; `progress(rows so far)` after each."""
    expected, prev, count = 1, GENESIS, 0
    while True:
        rows = connection.execute(
            sa.select(audit_log).where(audit_log.c.seq >= expected).order_by(audit_log.c.seq).limit(chunk)
        ).all()
        if not rows:
            return Verdict(True, count, None, prev)
        for row in rows:
            fine = row.seq == expected and row.prev == prev
            columns = (row.seq, row.at, row.actor, row.action, row.org, row.subject, row.outcome, row.detail)
            if not fine or digest(*columns, prev) != row.hash:
                return Verdict(False, count, expected, prev)
            prev, expected, count = row.hash, expected + 1, count + 1
        if progress:
            progress(count)


def document(row: Any) -> dict[str, Any]:
    """A row as the API shows it."""
    return {
        "seq": row.seq, "at": row.at.isoformat(), "actor": row.actor, "action": row.action, "org": row.org,
        "subject": row.subject, "outcome": row.outcome, "detail": json.loads(row.detail), "hash": row.hash,
    }


LOOK = 50_000
"""Rows of an organisation, from its newest, among which those about one subject are looked for."""
AROUND = 10_000
"""Most rows after a moment among which the making of a subject is looked for."""
EARLIER, LATER = dt.timedelta(seconds=2), dt.timedelta(seconds=30)
"""A row's time is that of its commit, some time after the change itself."""


def _first_after(connection: sa.Connection, moment: dt.datetime) -> int:
    """The lowest sequence number whose row is not older than `moment`: numbers have no gaps, and times do not go back."""
    head = connection.execute(_head).first()
    low, high = 1, (head.seq if head else 0) + 1
    while low < high:
        middle = (low + high) // 2
        at = connection.execute(sa.select(audit_log.c.at).where(audit_log.c.seq == middle)).scalar()
        if at is not None and at < moment:
            low = middle + 1
        else:
            high = middle
    return low


def _about(
    connection: sa.Connection, org: str, subjects: Sequence[str], made: dt.datetime, limit: int
) -> dict[str, Any]:
    first = _first_after(connection, made - EARLIER)
    mine = (audit_log.c.org == org) & audit_log.c.subject.in_(subjects) & (audit_log.c.outcome == "ok")
    near = sa.select(audit_log).where(
        mine, audit_log.c.seq >= first, audit_log.c.seq < first + AROUND, audit_log.c.at <= made + LATER
    ).order_by(audit_log.c.seq).limit(1)
    beginning = connection.execute(near).first()
    own = sa.select(audit_log.c.seq).where(audit_log.c.org == org).order_by(audit_log.c.seq.desc())
    since = connection.execute(own.offset(LOOK - 1).limit(1)).scalar() or 0
    newest = sa.select(audit_log).where(mine, audit_log.c.seq >= since).order_by(audit_log.c.seq.desc()).limit(limit)
    rows = connection.execute(newest).all()
    began = connection.execute(sa.select(audit_log.c.at).where(audit_log.c.seq == since)).scalar()
    return {
        "made": document(beginning) if beginning else None, "items": [document(row) for row in rows],
        "since": began.isoformat() if began else None,
    }


class Audit:
    """Reading the audit. Writing it is `record` and `note`."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.policy = house.policy

    @operation("audit.record.read")
    async def records(
        self, actor: Actor, *, by: str | None = None, action: str | None = None, org: str | None = None,
        limit: int = 50, before: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rows of the organisations whose audit the actor may read, newest first."""
        orgs = self.policy.require_any(actor, "audit.record.read").narrow(org)
        if not orgs:
            return []
        query = sa.select(audit_log).order_by(audit_log.c.seq.desc()).limit(limit)
        query = query.where(*within(audit_log.c.org, orgs))
        if by:
            query = query.where(audit_log.c.actor == by)
        if action:
            query = query.where(audit_log.c.action == action)
        if before is not None:
            query = query.where(audit_log.c.seq < before)
        return [document(row) for row in await self.house.db.read(lambda c: c.execute(query).all())]

    @operation("audit.record.read")
    async def about(
        self, actor: Actor, org: str, subjects: Sequence[str], made: dt.datetime, *, limit: int = 20
    ) -> dict[str, Any]:
        """What the organisation's rows say of a subject (known by any of `subjects`): `{made, items, since}`.

        `made` is the first row about it around the time `made`, `items` the newest of the organisation's last `LOOK`
        rows, `since` when these begin (None: with the first). Subjects have no index, for rows are written thousands of
        times a second: so the time of making is found by bisection, and the rest by a bounded look.
        """
        self.policy.require(actor, "audit.record.read", org)
        return await self.house.db.read(lambda c: _about(c, org, subjects, made, limit))

    @operation("audit.chain.read")
    async def verify(self, actor: Actor, expect: tuple[int, str] | None = None) -> dict[str, Any]:
        """Whether the whole chain holds: `{ok, count, first_bad, head}`.

        `expect` is a (sequence, hash) noted earlier: a chain that was cut or made anew does not have it.
        """
        self.policy.require_any(actor, "audit.chain.read")
        verdict = await self.house.db.read(verify_chain)
        if expect is not None and verdict.ok:
            query = sa.select(audit_log.c.hash).where(audit_log.c.seq == expect[0])
            if await self.house.db.read(lambda c: c.execute(query).scalar()) != expect[1]:
                verdict = verdict._replace(ok=False, first_bad=expect[0])
        return {"ok": verdict.ok, "count": verdict.rows, "first_bad": verdict.first_bad, "head": verdict.head}

    @operation("audit.record.read")
    async def export(self, actor: Actor) -> Iterator[bytes]:
        """Every row with its hashes as JSON lines, oldest first; for whoever may read the whole house's audit."""
        self.policy.require(actor, "audit.record.read", ROOT)
        return self._lines()

    def _lines(self) -> Iterator[bytes]:
        after = 0
        while True:
            query = sa.select(audit_log).where(audit_log.c.seq > after).order_by(audit_log.c.seq).limit(1000)
            rows: Sequence[Any] = self.house.db.read_now(lambda c, q=query: c.execute(q).all())  # type: ignore[misc]
            if not rows:
                return
            yield b"".join(
                orjson.dumps({**document(r), "detail": r.detail, "prev": r.prev}, option=orjson.OPT_APPEND_NEWLINE)
                for r in rows
            )
            after = rows[-1].seq


def _seq(after: list[Any] | None) -> int | None:
    if after is None:
        return None
    if not isinstance(after[0], int):
        raise Invalid("after 不是有效的游标", "after is not a cursor of this list", field="after", rule="cursor")
    return after[0]


@hookimpl
def migrations() -> Path:
    return Path(__file__).parent / "migrations"


@hookimpl
def services(house: House) -> Sequence[object]:
    return [Audit(house)]


@hookimpl
def routes(house: House) -> Sequence[BaseRoute]:
    audit = house.service(Audit)

    async def records(request: Request, actor: Actor) -> Response:
        query = request.query_params
        limit = limit_of(request)
        after = from_cursor(query.get("after"), 1)
        items = await audit.records(
            actor, by=query.get("actor") or None, action=query.get("action") or None, org=query.get("org") or None,
            limit=limit, before=_seq(after),
        )
        return json_response({"items": items, "next": cursor([items[-1]["seq"]]) if len(items) == limit else None})

    async def verify(request: Request, actor: Actor) -> Response:
        raw = request.query_params.get("expect")
        seq, _, known = (raw or "").partition(":")
        if raw and not (seq.isdigit() and len(seq) < 19 and len(known) == 64):
            raise Invalid("expect 应为 SEQ:HASH", "expect must be SEQ:HASH", field="expect", value=raw, rule="SEQ:HASH")
        return json_response(await audit.verify(actor, (int(seq), known) if raw else None))

    async def export(request: Request, actor: Actor) -> Response:
        return StreamingResponse(await audit.export(actor), media_type="application/x-ndjson")

    return [
        route(house, "GET", f"{API}/audit", records),
        route(house, "GET", f"{API}/audit/verify", verify),
        route(house, "GET", f"{API}/audit/export", export),
    ]
