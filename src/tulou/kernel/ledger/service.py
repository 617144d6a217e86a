"""Double entry: accounts, entries, reversals, balances as of a moment.

Law: an entry, its audit and what it adds to the totals are one transaction; postings of an entry sum to zero; nothing is changed
afterwards, a correction is an entry that reverses. With a `key` an entry is made once however often it is asked for. A balance as of a
moment is read from the turnover of years, months and days before it and the postings of its own day, never from the whole history.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import orjson
import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound
from tulou.kernel.http import cursor, from_cursor, page
from tulou.kernel.ledger.tables import DEBIT, UNITS, accounts, entries, postings, turnover
from tulou.kernel.packs import Text
from tulou.kernel.policy import ROOT, Actor, operation
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, OPEN = "ledger.account.read", "ledger.account.create"
ENTER, SEE = "ledger.entry.create", "ledger.entry.read"
LARGEST = 10**15
"""Most that one posting moves, in the unit's smallest parts."""
FUJIAN = dt.timezone(dt.timedelta(hours=8))
Kind = Literal["asset", "liability", "equity", "income", "expense"]
Unit = Literal["CNY", "m2", "tce"]
Key = Annotated[str, Field(min_length=1, max_length=200)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewAccount(Body):
    """An account to open. `subject` is what it is about; a `guarded` one is never overdrawn."""

    org: str = Field(max_length=64)
    code: str = Field(pattern=r"^[a-z0-9][a-z0-9._/-]{0,199}$")
    kind: Kind
    unit: Unit = "CNY"
    label: Text
    subject: str = Field(default="", max_length=200)
    guarded: bool = False


class NewPosting(Body):
    """A debit (positive) or a credit (negative) of an account, in the smallest parts of its unit."""

    account: int = Field(ge=1)
    amount: int = Field(ge=-LARGEST, le=LARGEST)


class NewEntry(Body):
    """An entry to make: what happened `at` a moment, in words, and its postings, which sum to zero."""

    org: str = Field(max_length=64)
    text: str = Field(min_length=1, max_length=2000, pattern=r"\S")
    at: AwareDatetime
    postings: list[NewPosting] = Field(min_length=2, max_length=200)
    subject: str = Field(default="", max_length=200)
    key: Key | None = None


class Reversal(Body):
    """Why an entry is undone; `at` is now, or the entry's own moment where that is later."""

    text: str = Field(min_length=1, max_length=2000, pattern=r"\S")
    at: AwareDatetime | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry that an engine makes within its own transaction: account number -> amount."""

    org: str
    unit: str
    at: dt.datetime
    text: str
    postings: Mapping[int, int]
    subject: str = ""
    engine: str = ""
    key: str | None = None
    reverses: int | None = None


class Balance(NamedTuple):
    """What was debited and credited up to a moment; `balance` in the direction in which the account grows."""

    no: int
    code: str
    kind: str
    unit: str
    debit: int
    credit: int

    @property
    def balance(self) -> int:
        return self.debit - self.credit if self.kind in DEBIT else self.credit - self.debit


def no_such_account(no: object) -> NotFound:
    return NotFound(f"没有科目 {no}", f"there is no account {no}", field="account", value=no)


def no_such_entry(no: object) -> NotFound:
    return NotFound(f"没有分录 {no}", f"there is no entry {no}", field="entry", value=no)


def open_account(
    connection: sa.Connection, *, org: str, code: str, kind: Kind, unit: Unit, label: Mapping[str, str], subject: str = "",
    engine: str = "", guarded: bool = False,
) -> int:
    """The number of the account of this organisation and code, which is opened if there is none. Raises `Conflict` where there is one
    of another kind, unit or engine. In the caller's transaction."""
    query = sa.select(accounts).where(accounts.c.org == org, accounts.c.code == code)
    row = connection.execute(query).first()
    if row is None:
        values = {
            "org": org, "code": code, "kind": kind, "unit": unit, "label": dict(label), "subject": subject, "engine": engine,
            "guarded": guarded, "debit": 0, "credit": 0,
        }
        try:
            with connection.begin_nested():
                return int(connection.execute(accounts.insert().values(**values).returning(accounts.c.no)).scalar_one())
        except sa.exc.IntegrityError:  # another process opened it, or there is no such organisation
            row = connection.execute(query).first()
            if row is None:
                raise Invalid(f"没有组织 {org}", f"there is no organisation {org}", field="org", value=org, rule="organisation") from None
    if (row.kind, row.unit, row.engine) != (kind, unit, engine):
        raise Conflict(
            f"科目 {code} 已存在（{row.kind}，{row.unit}）", f"the account {code} is there already ({row.kind}, {row.unit})", field="code",
            value=code, rule="unique",
        )
    return int(row.no)


def enter(connection: sa.Connection, actor: Actor, draft: Draft) -> Any:
    """Make the entry in the caller's transaction: its row. One that was made with the same key is answered again; `Conflict` where that
    says something else, or where an account would be overdrawn. Raises `Invalid` for postings that do not sum to zero."""
    if draft.unit not in UNITS or len(draft.postings) < 2 or sum(draft.postings.values()) != 0 or 0 in draft.postings.values():
        raise Invalid(
            "一笔分录至少两个科目，金额不为零，借贷相等", "an entry has two accounts at least, no zero, and sums to zero", field="postings",
            value=sum(draft.postings.values()), rule="= 0",
        )
    said = digest(draft)
    audit.hold(connection)
    if draft.key is not None:
        known = connection.execute(sa.select(entries).where(entries.c.org == draft.org, entries.c.key == draft.key)).first()
        if known is not None:
            if known.digest != said:
                raise Conflict(
                    f"键 {draft.key} 已用于内容不同的分录 {known.no}", f"the key {draft.key} was used by entry {known.no}, which says something else",
                    field="key", value=draft.key, rule="unique",
                )
            return known
    no = _next(connection)
    try:
        connection.execute(postings.insert(), [
            {"entry": no, "account": account, "at": draft.at, "amount": amount} for account, amount in sorted(draft.postings.items())
        ])
        row = connection.execute(entries.insert().values(
            no=no, org=draft.org, unit=draft.unit, at=draft.at, text=draft.text, subject=draft.subject, engine=draft.engine, key=draft.key,
            reverses=draft.reverses, actor=actor.id, recorded_at=utcnow(), digest=said,
        ).returning(entries)).one()
    except sa.exc.IntegrityError as error:
        if "not_overdrawn" in str(error.orig):
            raise Conflict("科目余额不足", "an account would be overdrawn", field="postings", rule="not overdrawn") from None
        if "reverses" in str(error.orig):
            raise Conflict(
                f"分录 {draft.reverses} 已被冲销", f"entry {draft.reverses} is reversed already", field="entry", value=draft.reverses,
                rule="reversed once",
            ) from None
        raise
    audit.record(connection, actor, ENTER, draft.org, f"entry {no}", {"digest": said, "key": draft.key})
    return row


def reversal(connection: sa.Connection, row: Any, text: str, at: dt.datetime | None, key: str | None = None) -> Draft:
    """The draft that undoes the entry `row`."""
    made = connection.execute(sa.select(postings.c.account, postings.c.amount).where(postings.c.entry == row.no)).all()
    return Draft(
        row.org, row.unit, at or max(utcnow(), row.at), text, {one.account: -one.amount for one in made}, row.subject, row.engine,
        key or f"reverses:{row.no}", row.no,
    )


def digest(draft: Draft) -> str:
    """Hex SHA-256 of what an entry says: a JSON array, the moment in integer microseconds since the epoch."""
    micros = (draft.at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
    return hashlib.sha256(orjson.dumps([
        draft.org, draft.unit, micros, draft.text, sorted(draft.postings.items()), draft.subject, draft.engine, draft.key, draft.reverses,
    ])).hexdigest()


def _next(connection: sa.Connection) -> int:
    if connection.dialect.name == "postgresql":
        return int(connection.execute(sa.text("SELECT nextval('ledger_numbers')")).scalar_one())
    return int(connection.execute(sa.select(sa.func.coalesce(sa.func.max(entries.c.no), 0) + 1)).scalar_one())


def balances(connection: sa.Connection, which: sa.ColumnElement[bool], at: dt.datetime | None = None) -> list[Balance]:
    """Of the accounts `which` (a condition on them), by code: what was debited and credited up to and at the moment `at`, or all that was
    ever entered."""
    about = connection.execute(sa.select(accounts).where(which).order_by(accounts.c.code)).all()
    if at is None:
        return [Balance(row.no, row.code, row.kind, row.unit, row.debit, row.credit) for row in about]
    sums = _as_of(connection, sa.select(accounts.c.no).where(which), at)
    return [Balance(row.no, row.code, row.kind, row.unit, *sums.get(row.no, (0, 0))) for row in about]


def as_of_query(numbers: Any, at: dt.datetime) -> sa.Select[Any]:
    """Debits and credits of accounts (numbers, or a query of them) up to `at`: whole years, the year's whole months, the month's whole
    days, the day's postings."""
    local = at.astimezone(FUJIAN)
    day = local.date().isoformat()
    midnight = dt.datetime.combine(local.date(), dt.time(), FUJIAN).astimezone(dt.UTC)
    spans = [("y", "", day[:4]), ("m", day[:4], day[:7]), ("d", day[:7], day)]
    parts: list[sa.Select[Any]] = [
        sa.select(turnover.c.account, turnover.c.debit, turnover.c.credit).where(
            turnover.c.account.in_(numbers), turnover.c.span == span, turnover.c.period > first, turnover.c.period < end
        ) for span, first, end in spans
    ]
    positive = sa.case((postings.c.amount > 0, postings.c.amount), else_=0)
    negative = sa.case((postings.c.amount < 0, -postings.c.amount), else_=0)
    parts.append(sa.select(postings.c.account, positive.label("debit"), negative.label("credit")).where(
        postings.c.account.in_(numbers), postings.c.at >= midnight, postings.c.at <= at
    ))
    every = sa.union_all(*parts).subquery()
    return sa.select(every.c.account, sa.func.sum(every.c.debit), sa.func.sum(every.c.credit)).group_by(every.c.account)


def _as_of(connection: sa.Connection, numbers: Any, at: dt.datetime) -> dict[int, tuple[int, int]]:
    return {row[0]: (int(row[1]), int(row[2])) for row in connection.execute(as_of_query(numbers, at))}


def months(connection: sa.Connection, subject: str) -> dict[str, list[tuple[str, int, int]]]:
    """Of the accounts about `subject`, by code: (month, debited, credited), oldest first."""
    rows = connection.execute(
        sa.select(accounts.c.code, turnover.c.period, turnover.c.debit, turnover.c.credit)
        .join(accounts, accounts.c.no == turnover.c.account)
        .where(accounts.c.subject == subject, turnover.c.span == "m").order_by(accounts.c.code, turnover.c.period)
    ).all()
    found: dict[str, list[tuple[str, int, int]]] = {}
    for code, month, debit, credit in rows:
        found.setdefault(code, []).append((month, debit, credit))
    return found


def entry_document(row: Any, made: Sequence[Any] = ()) -> dict[str, Any]:
    """An entry as the API shows it."""
    return {
        "no": row.no, "org": row.org, "unit": row.unit, "at": row.at, "text": row.text, "subject": row.subject, "engine": row.engine,
        "key": row.key, "reverses": row.reverses, "by": row.actor, "recorded_at": row.recorded_at, "digest": row.digest,
        "postings": [{"account": one.account, "code": one.code, "label": one.label, "amount": one.amount} for one in made],
    }


class Ledger:
    """The books of the organisations. An entry is one organisation's own: all of its accounts are."""

    def __init__(self, house: House) -> None:
        self.house, self.db, self.policy = house, house.db, house.policy

    @operation(OPEN)
    async def open(self, actor: Actor, new: NewAccount) -> dict[str, Any]:
        """Open an account. Raises `Conflict` where the organisation has one of this code."""
        self.policy.require(actor, OPEN, new.org)

        def write(connection: sa.Connection) -> Any:
            if connection.execute(sa.select(accounts.c.no).where(accounts.c.org == new.org, accounts.c.code == new.code)).first():
                raise Conflict(f"科目 {new.code} 已存在", f"the account {new.code} is there already", field="code", value=new.code, rule="unique")
            no = open_account(connection, **{**new.model_dump(), "label": new.label.model_dump()})
            audit.record(connection, actor, OPEN, new.org, f"account {no}", {"code": new.code, "kind": new.kind, "unit": new.unit})
            return connection.execute(sa.select(accounts).where(accounts.c.no == no)).one()

        return _account(await self.db.write(write))

    @operation(READ)
    async def accounts(
        self, actor: Actor, *, org: str | None = None, subject: str | None = None, at: dt.datetime | None = None, limit: int = 200,
        after: str | None = None,
    ) -> dict[str, Any]:
        """Accounts with their balances as of `at`, or of all that was entered: `{items, next}`."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        query = sa.select(accounts).where(*within(accounts.c.org, orgs))
        if subject is not None:
            query = query.where(accounts.c.subject == subject)
        found, more = await page(self.db, query, accounts.c.no, limit, after)
        if at is None:
            return {"items": [_account(row) for row in found], "next": more}
        sums = await self.db.read(lambda c: _as_of(c, [row.no for row in found], at))
        return {"items": [_account(row, sums.get(row.no, (0, 0))) for row in found], "next": more}

    @operation(READ)
    async def statement(
        self, actor: Actor, no: int, *, since: dt.datetime | None = None, until: dt.datetime | None = None, limit: int = 100,
        after: str | None = None,
    ) -> dict[str, Any]:
        """Postings of an account between two moments, oldest first, each with the balance after it: `{account, opening, items, next}`."""
        found = await self.db.read(lambda c: c.execute(sa.select(accounts).where(accounts.c.no == no)).first())
        row = self.policy.require_seen(actor, READ, READ, found, no_such_account(no))
        last = _place(after)
        query = sa.select(postings.c.entry, postings.c.at, postings.c.amount, entries.c.text, entries.c.reverses).join(
            entries, entries.c.no == postings.c.entry
        ).where(postings.c.account == no).order_by(postings.c.at, postings.c.entry).limit(limit + 1)
        if until is not None:
            query = query.where(postings.c.at <= until)
        if last:
            query = query.where(sa.or_(postings.c.at > last[0], sa.and_(postings.c.at == last[0], postings.c.entry > last[1])))
        elif since is not None:
            query = query.where(postings.c.at >= since)
        before = since - dt.timedelta(microseconds=1) if since is not None else None

        def read(connection: sa.Connection) -> tuple[int, Sequence[Any]]:
            if last:
                begins = last[2]
            else:
                begins = 0 if before is None else balances(connection, accounts.c.no == no, before)[0].balance
            return begins, connection.execute(query).all()

        opening, rows = await self.db.read(read)
        sign, running, items = (1 if row.kind in DEBIT else -1), opening, []
        for one in rows[:limit]:
            running += sign * one.amount
            items.append({"entry": one.entry, "at": one.at, "amount": one.amount, "balance": running, "text": one.text, "reverses": one.reverses})
        more = cursor([items[-1]["at"].isoformat(), items[-1]["entry"], running]) if len(rows) > limit else None
        return {"account": _account(row), "opening": opening, "items": items, "next": more}

    @operation(ENTER)
    async def enter(self, actor: Actor, new: NewEntry) -> dict[str, Any]:
        """Make an entry. Raises `NotFound` for an account that is not the organisation's, and as the function `enter`."""
        self.policy.require(actor, ENTER, new.org)
        amounts: dict[int, int] = {}
        for one in new.postings:
            amounts[one.account] = amounts.get(one.account, 0) + one.amount

        def write(connection: sa.Connection) -> Any:
            found = connection.execute(sa.select(accounts).where(accounts.c.no.in_(list(amounts)), accounts.c.org == new.org)).all()
            for missing in sorted(set(amounts) - {row.no for row in found}):
                raise no_such_account(missing)
            for row in found:
                _by_hand(row)
            units = sorted({row.unit for row in found})
            if len(units) != 1:
                raise Invalid("一笔分录只用一种单位", "an entry is in one unit", field="postings", value=", ".join(units), rule="one unit")
            return enter(connection, actor, Draft(new.org, units[0], new.at, new.text, amounts, new.subject, "", new.key))

        return await self._written(write)

    @operation(ENTER)
    async def reverse(self, actor: Actor, no: int, why: Reversal) -> dict[str, Any]:
        """Undo an entry by its reversal. Asked again, the reversal that is there. Raises `NotFound`, `Conflict`."""
        row = await self._entry(actor, no, ENTER)
        _by_hand(row)
        if row.reverses is not None:
            raise Conflict("冲销分录不再冲销", "a reversal is not reversed", field="entry", value=no, rule="no reversal")
        return await self._written(lambda c: self._reversed(c, actor, row, why))

    @staticmethod
    def _reversed(connection: sa.Connection, actor: Actor, row: Any, why: Reversal) -> Any:
        audit.hold(connection)
        there = connection.execute(sa.select(entries).where(entries.c.reverses == row.no)).first()
        return there or enter(connection, actor, reversal(connection, row, why.text, why.at))

    async def _written(self, write: Any) -> dict[str, Any]:
        row = await self.db.write(write)
        return await self.db.read(lambda c: entry_document(row, _postings(c, row.no)))

    @operation(SEE)
    async def entries(
        self, actor: Actor, *, org: str | None = None, subject: str | None = None, limit: int = 50, after: str | None = None
    ) -> dict[str, Any]:
        """Entries, newest first: `{items, next}`."""
        orgs = self.policy.require_any(actor, SEE).narrow(org)
        query = sa.select(entries).where(*within(entries.c.org, orgs))
        if subject is not None:
            query = query.where(entries.c.subject == subject)
        found, more = await page(self.db, query, entries.c.no, limit, after, newest=True)
        made: dict[int, list[Any]] = {}
        for one in await self.db.read(lambda c: _postings(c, *(row.no for row in found))):
            made.setdefault(one.entry, []).append(one)
        return {"items": [entry_document(row, made.get(row.no, ())) for row in found], "next": more}

    @operation(SEE)
    async def entry(self, actor: Actor, no: int) -> dict[str, Any]:
        """An entry with its postings, and the one that reversed it (`reversed_by`)."""
        row = await self._entry(actor, no, SEE)

        def read(connection: sa.Connection) -> dict[str, Any]:
            undone = connection.execute(sa.select(entries.c.no).where(entries.c.reverses == no)).scalar()
            return {**entry_document(row, _postings(connection, no)), "reversed_by": undone}

        return await self.db.read(read)

    async def _entry(self, actor: Actor, no: int, action: str) -> Any:
        row = await self.db.read(lambda c: c.execute(sa.select(entries).where(entries.c.no == no)).first())
        return self.policy.require_seen(actor, SEE, action, row, no_such_entry(no))

    @operation(READ)
    async def verify(self, actor: Actor) -> dict[str, Any]:
        """Whether every entry sums to zero and says what its digest says, and the totals and the turnover are the sums of the postings:
        `{ok, entries, accounts, wrong}`; `wrong` names what is not. Reads all of the books; for whoever may read the whole house's."""
        self.policy.require(actor, READ, ROOT)
        return await self.db.read(verify)


def verify(connection: sa.Connection, chunk: int = 2000) -> dict[str, Any]:
    """See `Ledger.verify`."""
    wrong: list[str] = []
    sums: dict[int, list[int]] = {}
    spans: dict[tuple[int, str, str], list[int]] = {}
    count, last = 0, 0
    while rows := connection.execute(sa.select(entries).where(entries.c.no > last).order_by(entries.c.no).limit(chunk)).all():
        last, count = rows[-1].no, count + len(rows)
        made: dict[int, dict[int, int]] = {}
        for one in connection.execute(sa.select(postings).where(postings.c.entry >= rows[0].no, postings.c.entry <= last)):
            made.setdefault(one.entry, {})[one.account] = one.amount
            day = one.at.astimezone(FUJIAN).date().isoformat()
            for total in (sums.setdefault(one.account, [0, 0]), *(
                spans.setdefault((one.account, span, day[:length]), [0, 0]) for span, length in (("y", 4), ("m", 7), ("d", 10))
            )):
                total[one.amount < 0] += abs(one.amount)
        for row in rows:
            draft = Draft(row.org, row.unit, row.at, row.text, made.get(row.no, {}), row.subject, row.engine, row.key, row.reverses)
            if sum(draft.postings.values()) or digest(draft) != row.digest:
                wrong.append(f"entry {row.no}")
    found = connection.execute(sa.select(accounts.c.no, accounts.c.debit, accounts.c.credit)).all()
    wrong += [f"account {row.no}" for row in found if [row.debit, row.credit] != sums.get(row.no, [0, 0])]
    kept = {(row.account, row.span, row.period): [row.debit, row.credit] for row in connection.execute(sa.select(turnover))}
    wrong += [f"turnover {' '.join(map(str, key))}" for key in sorted(set(kept) | set(spans)) if kept.get(key) != spans.get(key)]
    return {"ok": not wrong, "entries": count, "accounts": len(found), "wrong": wrong[:100]}


def _place(after: str | None) -> tuple[dt.datetime, int, int] | None:
    """Where a statement goes on: the last posting's moment and entry, and the balance after it. Raises `Invalid` for what is no cursor."""
    values = from_cursor(after, 3)
    if values is None:
        return None
    try:
        at = dt.datetime.fromisoformat(values[0]).astimezone(dt.UTC)
        return at, int(values[1]), int(values[2])
    except (TypeError, ValueError):
        raise Invalid("after 不是有效的游标", "after is not a cursor of this list", field="after", value=after, rule="cursor") from None


def _by_hand(row: Any) -> None:
    """What an engine keeps is posted to by its operations alone."""
    if row.engine:
        raise Conflict(
            f"由“{row.engine}”记账，不能手工记入", f"it is kept by {row.engine}, not by hand", field="account", value=row.no, rule=row.engine
        )


def _postings(connection: sa.Connection, *numbers: int) -> Sequence[Any]:
    """Of these entries, the debits first."""
    query = sa.select(postings.c.entry, postings.c.account, postings.c.amount, accounts.c.code, accounts.c.label).join(
        accounts, accounts.c.no == postings.c.account
    ).where(postings.c.entry.in_(numbers)).order_by(postings.c.entry, postings.c.amount.desc(), accounts.c.code)
    return connection.execute(query).all()


def _account(row: Any, sums: tuple[int, int] | None = None) -> dict[str, Any]:
    debit, credit = sums if sums is not None else (row.debit, row.credit)
    return {
        "no": row.no, "org": row.org, "code": row.code, "kind": row.kind, "unit": row.unit, "label": row.label, "subject": row.subject,
        "engine": row.engine, "guarded": row.guarded, "debit": debit, "credit": credit,
        "balance": debit - credit if row.kind in DEBIT else credit - debit,
    }
