"""The ledger: what the service and the store hold, balances from the turnover, rivals, crashes, and `kill -9`."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.conftest import kernel_plugins
from tests.kernel.conftest import Persons
from tulou.kernel import audit
from tulou.kernel.audit import audit_log
from tulou.kernel.errors import Conflict, Forbidden, Invalid, NotFound, TulouError
from tulou.kernel.house import House
from tulou.kernel.http import cursor
from tulou.kernel.ledger import Draft, Ledger, NewAccount, NewEntry, NewPosting, Reversal, balances, enter, open_account
from tulou.kernel.ledger.service import as_of_query, verify
from tulou.kernel.ledger.tables import accounts, entries, postings, turnover
from tulou.kernel.policy import Actor, Binding
from tulou.kernel.settings import Settings

BEGIN = dt.datetime(2021, 1, 31, 15, 59, 59, 999_999, tzinfo=dt.UTC)
"""The last microsecond of January in Fujian."""


def person(name: str, role: str, org: str = "xiamen", subtree: bool = True) -> Actor:
    return Actor(f"user:{name}", name, org, "user", frozenset({Binding(org, role, subtree)}), None, f"user:{name}")


LIN, STRANGER = person("lin", "steward"), person("he", "steward", "fuzhou")


@pytest.fixture
def ledger(kernel: House) -> Ledger:
    return kernel.service(Ledger)


async def opened(ledger: Ledger, code: str, kind: str, **more: Any) -> int:
    new = NewAccount.model_validate({"org": "xiamen", "code": code, "kind": kind, "label": {"zh": "科目", "en": "Account"}, **more})
    return int((await ledger.open(LIN, new))["no"])


def entry(debit: int, credit: int, amount: int, at: dt.datetime = BEGIN, **more: Any) -> NewEntry:
    lines = [NewPosting(account=debit, amount=amount), NewPosting(account=credit, amount=-amount)]
    return NewEntry(org="xiamen", text="拨款", at=at, postings=lines, **more)


async def balance(ledger: Ledger, no: int, at: dt.datetime | None = None) -> int:
    return (await ledger.db.read(lambda c: balances(c, accounts.c.no == no, at)))[0].balance


async def test_a_life(ledger: Ledger, kernel: House) -> None:
    cash, funds = await opened(ledger, "cash", "asset", guarded=True), await opened(ledger, "funds", "equity")
    made = await ledger.enter(LIN, entry(cash, funds, 1_000_000, key="first"))
    again = await ledger.enter(LIN, entry(cash, funds, 1_000_000, key="first"))
    assert (made["no"], [(one["code"], one["amount"]) for one in made["postings"]]) == (again["no"], [("cash", 1_000_000), ("funds", -1_000_000)])
    with pytest.raises(Conflict) as used:
        await ledger.enter(LIN, entry(cash, funds, 2, key="first"))
    assert used.value.field == "key"
    later = BEGIN + dt.timedelta(microseconds=1)
    works = await opened(ledger, "works", "expense")
    spent = await ledger.enter(LIN, entry(works, cash, 300, later))
    assert [await balance(ledger, cash, at) for at in (BEGIN - dt.timedelta(microseconds=1), BEGIN, later, None)] == [0, 1_000_000, 999_700, 999_700]
    with pytest.raises(Conflict, match="overdrawn"):
        await ledger.enter(LIN, entry(works, cash, 1_000_000, later))
    undone = await ledger.reverse(LIN, spent["no"], Reversal(text="重复入账"))
    assert (await ledger.reverse(LIN, spent["no"], Reversal(text="再点一次")))["no"] == undone["no"], "once"
    with pytest.raises(Conflict):
        await ledger.reverse(LIN, undone["no"], Reversal(text="冲回冲销"))
    assert (await ledger.entry(LIN, spent["no"]))["reversed_by"] == undone["no"]
    assert (await balance(ledger, works), await balance(ledger, works, later)) == (0, 300), "what was believed then stays told"
    told = await ledger.statement(LIN, cash, since=later, limit=1)
    assert (told["opening"], [(one["amount"], one["balance"]) for one in told["items"]]) == (1_000_000, [(-300, 999_700)])
    more = await ledger.statement(LIN, cash, since=later, after=told["next"])
    assert [(one["amount"], one["balance"]) for one in more["items"]] == [(300, 1_000_000)]
    kept = await kernel.db.read(lambda c: c.execute(
        sa.select(audit_log.c.action, audit_log.c.subject).where(audit_log.c.action == "ledger.entry.create").order_by(audit_log.c.seq)
    ).all())
    assert [row.subject for row in kept] == [f"entry {no}" for no in (made["no"], spent["no"], undone["no"])]


async def test_what_is_refused(ledger: Ledger) -> None:
    cash, funds, land = await opened(ledger, "cash", "asset"), await opened(ledger, "funds", "equity"), await opened(ledger, "land", "asset", unit="m2")
    kept = await ledger.db.write(lambda c: open_account(
        c, org="xiamen", code="kept", kind="asset", unit="CNY", label={"zh": "甲", "en": "a"}, engine="plan"
    ))
    theirs = await ledger.db.write(lambda c: open_account(c, org="fuzhou", code="cash", kind="asset", unit="CNY", label={"zh": "甲", "en": "a"}))
    unequal = NewEntry(org="xiamen", text="x", at=BEGIN, postings=[NewPosting(account=cash, amount=5), NewPosting(account=funds, amount=-4)])
    for error, new in (
        (Invalid, unequal), (Invalid, entry(cash, land, 5)), (Conflict, entry(kept, funds, 5)), (NotFound, entry(theirs, funds, 5)),
        (NotFound, entry(999, funds, 5)), (Invalid, entry(cash, cash, 5)), (Invalid, entry(cash, funds, 0)),
    ):
        with pytest.raises(error):
            await ledger.enter(LIN, new)
    with pytest.raises(Conflict):
        await opened(ledger, "cash", "asset")
    assert await ledger.db.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(entries)).scalar_one()) == 0


async def test_an_organisation_sees_its_own(ledger: Ledger, admin: Actor) -> None:
    cash, funds = await opened(ledger, "cash", "asset", subject="project:1"), await opened(ledger, "funds", "equity")
    no = (await ledger.enter(LIN, entry(cash, funds, 5, subject="project:1")))["no"]
    asked: list[Awaitable[Any]] = [
        ledger.entry(STRANGER, no), ledger.reverse(STRANGER, no, Reversal(text="x")), ledger.statement(STRANGER, cash),
    ]
    for one in asked:
        with pytest.raises(NotFound):
            await one
    assert (await ledger.entries(STRANGER))["items"] == (await ledger.accounts(STRANGER, subject="project:1"))["items"] == []
    with pytest.raises(Forbidden):
        await ledger.enter(STRANGER, entry(cash, funds, 5))
    with pytest.raises(Forbidden):
        await ledger.reverse(person("gao", "auditor"), no, Reversal(text="x"))
    with pytest.raises(Forbidden):
        await ledger.verify(LIN)
    above = person("ma", "auditor", "fujian")
    assert [one["no"] for one in (await ledger.entries(above, subject="project:1"))["items"]] == [no]
    assert await ledger.verify(admin) == {"ok": True, "entries": 1, "accounts": 2, "wrong": []}


async def test_the_store_itself_refuses(ledger: Ledger, kernel: House) -> None:
    """What no service asks for, and a defect or a hand at the database might."""
    cash, funds = await opened(ledger, "cash", "asset"), await opened(ledger, "funds", "equity")
    no = (await ledger.enter(LIN, entry(cash, funds, 5)))["no"]
    row = {"org": "xiamen", "unit": "CNY", "at": BEGIN, "text": "x", "subject": "", "engine": "", "actor": "x", "recorded_at": BEGIN,
           "digest": "x"}

    def one(account: int, amount: int, number: int, at: dt.datetime = BEGIN) -> Any:
        return postings.insert().values(entry=number, account=account, amount=amount, at=at)

    statements = {
        "unbalanced": [one(cash, 5, 900), one(funds, -4, 900), entries.insert().values(no=900, **row)],
        "empty": [entries.insert().values(no=901, **row)],
        "another moment": [one(cash, 5, 902), one(funds, -5, 902, BEGIN + dt.timedelta(1)), entries.insert().values(no=902, **row)],
        "another unit": [one(cash, 5, 903), one(funds, -5, 903), entries.insert().values(no=903, **{**row, "unit": "m2"})],
        "another organisation": [one(cash, 5, 904), one(funds, -5, 904), entries.insert().values(no=904, **{**row, "org": "fuzhou"})],
        "sealed": [one(await opened(ledger, "more", "asset"), 5, no)],
        "no entry": [one(cash, 5, 905), one(funds, -5, 905)],
        "changed": [postings.update().values(amount=7)], "deleted": [postings.delete()], "rewritten": [entries.update().values(text="y")],
        "removed": [entries.delete()], "moved": [accounts.update().values(kind="expense")],
    }
    for what, made in statements.items():
        with pytest.raises(sa.exc.IntegrityError):
            await kernel.db.write(lambda c, made=made: [c.execute(statement) for statement in made])
        verdict = await kernel.db.read(verify)
        assert (verdict["ok"], verdict["entries"]) == (True, 1), what
    await kernel.db.write(lambda c: c.execute(accounts.update().where(accounts.c.no == cash).values(debit=6)))
    await kernel.db.write(lambda c: c.execute(turnover.delete().where(turnover.c.account == funds, turnover.c.span == "y")))
    assert (await kernel.db.read(verify))["wrong"] == [f"account {cash}", f"turnover {funds} y 2021"], "what is not kept by constraints is found"


async def test_a_balance_reads_no_history(kernel: House) -> None:
    if kernel.db.dialect != "sqlite":
        pytest.skip("SQLite says its plan in words that do not depend on how much is stored")
    query = as_of_query([1, 2], BEGIN).compile(kernel.db.engine, compile_kwargs={"literal_binds": True})
    plan = await kernel.db.read(lambda c: [row[-1] for row in c.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all()])
    looks = [line for line in plan if line.startswith(("SCAN", "SEARCH")) and "ledger_" in line]
    assert len(looks) == 4
    assert all("(account=? AND " in line and (">? AND" in line or "<?" in line) for line in looks), looks


KINDS = ("asset", "equity", "expense", "asset", "liability")
MOMENTS = [
    BEGIN + dt.timedelta(microseconds=1), BEGIN, dt.datetime(2020, 12, 31, 16, tzinfo=dt.UTC), dt.datetime(2020, 12, 31, 15, 59, 59, tzinfo=dt.UTC),
    dt.datetime(2021, 2, 1, 3, tzinfo=dt.UTC), dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC), dt.datetime(2022, 12, 31, tzinfo=dt.UTC),
]
"""Around the turns of days, months and years in Fujian, out of order."""


class Machine(RuleBasedStateMachine):
    """Two processes' ledgers over one store, against a model: a list of what was entered."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.home = tempfile.TemporaryDirectory()
        own = Settings(home=Path(self.home.name), database_url=self.url)
        self.houses = [House(own, kernel_plugins()) for _ in range(2 if self.url else 1)]
        for house in self.houses:
            self.loop.run_until_complete(house.start((), bus=False))
        self.ledgers = [house.service(Ledger) for house in (self.houses[0], self.houses[-1])]
        self.kinds = {}
        for number, kind in enumerate(KINDS):
            code = f"m{os.urandom(4).hex()}.{number}"
            self.kinds[self.loop.run_until_complete(opened(self.ledgers[0], code, kind, guarded=number == 3))] = kind
        self.numbers = list(self.kinds)
        self.model: dict[int, tuple[dt.datetime, dict[int, int]]] = {}
        self.reversed: set[int] = set()
        self.keys = 0

    def teardown(self) -> None:
        for house in self.houses:
            self.loop.run_until_complete(house.stop())
        self.loop.close()
        self.home.cleanup()

    def does(self, *asked: Any) -> list[Any]:
        async def together() -> list[Any]:
            return await asyncio.gather(*asked, return_exceptions=True)

        return self.loop.run_until_complete(together())

    def left(self, account: int) -> int:
        return sum(amounts.get(account, 0) for _, amounts in self.model.values())

    def took(self, answer: dict[str, Any], at: dt.datetime) -> None:
        self.model[answer["no"]] = (at, {one["account"]: one["amount"] for one in answer["postings"]})

    @rule(data=st.data(), amount=st.integers(1, 1000), at=st.sampled_from(MOMENTS))
    def asks_again(self, data: Any, amount: int, at: dt.datetime) -> None:
        """The same entry with the same key, by both at once and once more."""
        debit, credit = data.draw(st.permutations([n for i, n in enumerate(self.numbers) if i != 3]))[:2]
        self.keys += 1
        new = entry(debit, credit, amount, at, key=f"{id(self)}.{self.keys}")
        ends = self.does(*[one.enter(LIN, new) for one in (*self.ledgers, *self.ledgers)])
        assert len({one["no"] for one in ends}) == 1, ends
        self.took(ends[0], at)

    @rule(amounts=st.lists(st.integers(1, 700), min_size=2, max_size=4), fill=st.integers(0, 1000))
    def spend_at_once(self, amounts: list[int], fill: int) -> None:
        """Rivals for a guarded account: never more goes than is there."""
        guarded, other = self.numbers[3], self.numbers[1]
        if fill:
            self.took(self.does(self.ledgers[0].enter(LIN, entry(guarded, other, fill)))[0], BEGIN)
        before = self.left(guarded)
        ends = self.does(*[self.ledgers[i % 2].enter(LIN, entry(other, guarded, amount)) for i, amount in enumerate(amounts)])
        assert all(isinstance(one, dict | Conflict) for one in ends), ends
        for one in ends:
            if isinstance(one, dict):
                self.took(one, BEGIN)
        refused = [amount for amount, one in zip(amounts, ends, strict=True) if not isinstance(one, dict)]
        assert 0 <= self.left(guarded) <= before
        assert all(amount > self.left(guarded) for amount in refused)

    @rule(data=st.data())
    def reverse_at_once(self, data: Any) -> None:
        open_ones = sorted(set(self.model) - self.reversed)
        if not open_ones:
            return
        no = data.draw(st.sampled_from(open_ones))
        at = data.draw(st.sampled_from(MOMENTS))
        ends = self.does(*[one.reverse(LIN, no, Reversal(text="更正", at=at)) for one in self.ledgers])
        if all(isinstance(one, Conflict) for one in ends):
            assert -self.model[no][1].get(self.numbers[3], 0) + self.left(self.numbers[3]) < 0
            return
        assert len({one["no"] for one in ends}) == 1, ends
        self.took(ends[0], at)
        self.reversed |= {no, ends[0]["no"]}

    @rule(amount=st.integers(1, 9))
    def crashes(self, amount: int) -> None:
        """Everything was written, and the process dies before the commit: nothing has happened."""

        def dies(*_args: Any, **_more: Any) -> int:
            raise MemoryError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(audit, "record", dies)
            (end,) = self.does(self.ledgers[0].enter(LIN, entry(self.numbers[0], self.numbers[1], amount)))
        assert isinstance(end, MemoryError)

    @invariant()
    def holds(self) -> None:
        """The books are sound, and as of any moment every account has the sum of what was entered up to it."""
        db = self.ledgers[-1].db
        verdict = self.loop.run_until_complete(db.read(verify))
        assert verdict["ok"], verdict
        for at in (*MOMENTS, None):
            found = self.loop.run_until_complete(db.read(lambda c, at=at: balances(c, accounts.c.no.in_(self.numbers), at)))
            for one in found:
                own = sum(amounts.get(one.no, 0) for moment, amounts in self.model.values() if at is None or moment <= at)
                assert one.debit - one.credit == own, (one, at)


def test_nothing_is_lost_or_doubled(database_url: str) -> None:
    class Here(Machine):
        url = database_url

    run_state_machine_as_test(Here, settings=settings(
        max_examples=6, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck),
    ))


WORKER = """
import asyncio, itertools, sys
from pathlib import Path
from tests.conftest import kernel_plugins
from tests.kernel.test_ledger import LIN, entry
from tulou.kernel.house import House
from tulou.kernel.ledger import Ledger
from tulou.kernel.settings import Settings

async def main(home, url, cash, funds, first):
    house = House(Settings(home=Path(home), database_url=url), kernel_plugins())
    await house.start((), bus=False)
    ledger = house.service(Ledger)
    print("ready", flush=True)
    async def enters(n):
        made = await ledger.enter(LIN, entry(cash, funds, n % 97 + 1, key=f"k{n}"))
        print(n, made["no"], flush=True)
    for n in itertools.count(first, 4):
        await asyncio.gather(*[enters(n + i) for i in range(4)])

asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
"""


@pytest.mark.slow
async def test_kill_9(database_url: str, tmp_path: Path) -> None:
    """A process that enters four at once is killed again and again: what it said is there, once, and the books are sound."""
    own = Settings(home=tmp_path / "home", database_url=database_url)
    house = House(own, kernel_plugins())
    await house.start((), bus=False)
    ledger = house.service(Ledger)
    cash, funds = await opened(ledger, "cash", "asset"), await opened(ledger, "funds", "equity")
    await house.stop()
    said: dict[int, int] = {}
    for turn in range(3):
        child = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", textwrap.dedent(WORKER), str(own.home), database_url, str(cash), str(funds), str(turn * 100_000)],
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        await asyncio.sleep(0.4 + 0.17 * turn)
        os.killpg(child.pid, signal.SIGKILL)
        said |= {int(n): int(no) for n, no in (line.split() for line in child.stdout.read().split("\n")[:-1])}
        child.wait()
    house = House(own, kernel_plugins())
    await house.start((), bus=False)
    try:
        rows = await house.db.read(lambda c: c.execute(sa.select(entries.c.key, entries.c.no)).all())
        kept = {int(row.key[1:]): row.no for row in rows}
        assert len(said) > 20
        assert said.items() <= kept.items()
        verdict = await house.db.read(verify)
        assert verdict["ok"], verdict
        (total,) = await house.db.read(lambda c: balances(c, accounts.c.no == cash, BEGIN))
        assert total.balance == sum(n % 97 + 1 for n in kept)
    finally:
        await house.stop()


async def test_an_engine_books_with_its_own_change(kernel: House) -> None:
    """`enter` in the transaction of an engine: both or neither."""
    def write(connection: sa.Connection, amount: int) -> int:
        made = [
            open_account(connection, org="xiamen", code=code, kind=kind, unit="CNY", label={"zh": "甲", "en": "a"}, engine="plan", guarded=kind == "asset")
            for code, kind in (("p/cash", "asset"), ("p/use", "expense"))
        ]
        return int(enter(connection, LIN, Draft("xiamen", "CNY", BEGIN, "x", {made[0]: -amount, made[1]: amount}, engine="plan")).no)

    with pytest.raises(TulouError):
        await kernel.db.write(lambda c: write(c, 5))
    assert await kernel.db.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(accounts)).scalar_one()) == 0


async def test_the_books_over_http(kernel: House, persons: Persons) -> None:
    client = await persons.sign_in("lin", "xiamen", ("xiamen", "steward", True))
    numbers = []
    for code, kind in (("cash", "asset"), ("funds", "equity")):
        body = {"org": "xiamen", "code": code, "kind": kind, "label": {"zh": "科目", "en": "account"}, "subject": "purchase"}
        made = await client.post("/api/v1/ledger/accounts", json=body)
        assert made.status_code == 201, made.text
        numbers.append(made.json()["no"])
    lines = [{"account": numbers[0], "amount": 700}, {"account": numbers[1], "amount": -700}]
    new = {"org": "xiamen", "text": "拨款", "at": "2021-03-05T12:00:00+08:00", "postings": lines, "key": "once"}
    entered = [(await client.post("/api/v1/ledger/entries", json=new)).json()["no"] for _ in range(2)]
    assert entered[0] == entered[1]
    undone = await client.post(f"/api/v1/ledger/entries/{entered[0]}/reverse", json={"text": "更正"})
    assert (undone.status_code, undone.json()["reverses"]) == (201, entered[0])
    then = (await client.get("/api/v1/ledger/accounts?subject=purchase&as_of=2022-01-01T00:00:00Z")).json()["items"]
    assert [one["balance"] for one in then] == [700, 700]
    told = (await client.get(f"/api/v1/ledger/accounts/{numbers[0]}/statement")).json()
    assert [(one["amount"], one["balance"]) for one in told["items"]] == [(700, 700), (-700, 0)]
    assert len((await client.get("/api/v1/ledger/entries?org=xiamen")).json()["items"]) == 2
    for body, field in (({**new, "at": "2021-03-05"}, "at"), ({**new, "key": "other", "postings": lines[:1]}, "postings"),
                        ({**new, "key": "other", "postings": [lines[0], {**lines[1], "amount": -1}]}, "postings")):
        refused = await client.post("/api/v1/ledger/entries", json=body)
        assert (refused.status_code, refused.json()["field"]) == (400, field)
    for after in ("x", cursor([1, 2, 3]), cursor(["2021-01-01T00:00:00+00:00", "a", 3])):
        assert (await client.get(f"/api/v1/ledger/accounts/{numbers[0]}/statement?after={after}")).json()["field"] == "after"
    assert (await client.get("/api/v1/ledger/entries/999")).status_code == 404
    assert (await client.get("/api/v1/ledger/verify")).status_code == 403
