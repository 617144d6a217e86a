"""How many entries a second the ledger takes, and how long a balance as of a moment is asked for.

    PYTHONPATH=src python bench/ledger.py [--entries 20000] [--together 200] [--postgres postgresql+psycopg://...]

Entries of two postings between 100 accounts, with keys, over five years of days, by so many callers at once; then balances of all accounts
as of 200 moments, by the ledger and by the sum of all postings, which must be equal. One JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import platform
import random
import statistics
import tempfile
import time
from importlib import import_module
from pathlib import Path

import pluggy
import sqlalchemy as sa

from tulou.kernel import hookspecs, ledger
from tulou.kernel.house import House
from tulou.kernel.ledger.service import verify
from tulou.kernel.ledger.tables import postings
from tulou.kernel.policy import system
from tulou.kernel.settings import Settings

ACCOUNTS, DAYS = 100, 5 * 365
BEGIN = dt.datetime(2021, 1, 1, tzinfo=dt.UTC)
PLUGINS = ("organisations.hooks", "audit", "jobs", "workflows", "ledger", "system")


async def main(entries: int, together: int, url: str) -> dict[str, object]:
    """See the module."""
    manager = pluggy.PluginManager("tulou")
    manager.add_hookspecs(hookspecs)
    for name in (*(f"tulou.kernel.{one}" for one in PLUGINS), "tulou.packs.hooks"):
        manager.register(import_module(name), name)
    dice = random.Random(7)
    with tempfile.TemporaryDirectory() as folder:
        house = House(Settings(home=Path(folder), database_url=url), manager)
        await house.start((), bus=False)
        numbers = await house.db.write(lambda c: [
            ledger.open_account(c, org="fujian", code=f"bench/{n}", kind="asset", unit="CNY", label={"zh": "甲", "en": "a"}) for n in range(ACCOUNTS)
        ])
        actor = system("bench")
        drafts = []
        for n in range(entries):
            debit, credit = dice.sample(numbers, 2)
            at = BEGIN + dt.timedelta(days=dice.randrange(DAYS), seconds=dice.randrange(86400))
            amount = dice.randrange(1, 10**9)
            drafts.append(ledger.Draft("fujian", "CNY", at, "bench", {debit: amount, credit: -amount}, key=f"b{n}"))
        began, processor = time.perf_counter(), time.process_time()
        for start in range(0, entries, together):
            await asyncio.gather(*[
                house.db.write(lambda c, one=one: ledger.enter(c, actor, one).no) for one in drafts[start : start + together]
            ])
        wall, used = time.perf_counter() - began, time.process_time() - processor
        asked, summed = [], []
        for _ in range(200):
            at = BEGIN + dt.timedelta(seconds=dice.randrange(DAYS * 86400))
            began = time.perf_counter()
            found = await house.db.read(lambda c, at=at: ledger.balances(c, ledger.accounts.c.org == "fujian", at))
            asked.append(time.perf_counter() - began)
            began = time.perf_counter()
            query = sa.select(postings.c.account, sa.func.sum(postings.c.amount)).where(postings.c.at <= at).group_by(postings.c.account)
            sums = await house.db.read(lambda c, query=query: {row[0]: int(row[1]) for row in c.execute(query)})
            summed.append(time.perf_counter() - began)
            if {one.no: one.balance for one in found} != {no: sums.get(no, 0) for no in numbers}:
                raise SystemExit(f"the balances of {at} are wrong")
        verdict = await house.db.read(verify)
        await house.stop()
    return {
        "bench": "ledger", "machine": platform.machine(), "store": "postgresql" if url else "sqlite", "entries": entries, "together": together,
        "entries_per_s": round(entries / wall), "processor_s": round(used, 2), "balances_of_100_accounts_ms": round(1000 * statistics.median(asked), 2),
        "by_the_sum_of_all_postings_ms": round(1000 * statistics.median(summed), 2), "sound": verdict["ok"],
    }


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--entries", type=int, default=20_000)
    options.add_argument("--together", type=int, default=200)
    options.add_argument("--postgres", default="")
    given = options.parse_args()
    print(json.dumps(asyncio.run(main(given.entries, given.together, given.postgres))))
