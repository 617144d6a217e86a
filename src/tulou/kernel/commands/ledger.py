"""`tulou ledger`."""

from __future__ import annotations

import sys
from typing import Any

import click

from tulou.kernel.settings import API


@click.group("ledger")
def ledger_commands() -> None:
    """账簿。The ledger: accounts, entries, show, reverse, verify. Amounts in the smallest parts of their unit (fen)."""


@ledger_commands.command("accounts")
@click.option("--org")
@click.option("--subject", help="科目所属事物，如 project:12 / what accounts are about")
@click.option("--as-of", help="截至时间 / as of (RFC 3339)")
@click.pass_obj
def accounts_command(obj: Any, org: str | None, subject: str | None, as_of: str | None) -> None:
    """科目与余额。Accounts with their balances."""
    answer = obj.call("GET", f"{API}/ledger/accounts", params={"org": org, "subject": subject, "as_of": as_of})
    obj.output(answer["items"], ("no", "org", "code", "kind", "unit", "debit", "credit", "balance"))


@ledger_commands.command("entries")
@click.option("--org")
@click.option("--subject")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@click.pass_obj
def entries_command(obj: Any, org: str | None, subject: str | None, limit: int) -> None:
    """分录，新的在前。Entries, newest first."""
    answer = obj.call("GET", f"{API}/ledger/entries", params={"org": org, "subject": subject, "limit": limit})
    obj.output(answer["items"], ("no", "org", "at", "text", "unit", "reverses", "by"))


@ledger_commands.command("show")
@click.argument("entry", type=int)
@click.pass_obj
def show_command(obj: Any, entry: int) -> None:
    """一笔分录的借贷。An entry with its postings."""
    answer = obj.call("GET", f"{API}/ledger/entries/{entry}")
    if obj.json:
        obj.output(answer)
        return
    obj.output({key: answer[key] for key in ("no", "org", "at", "text", "unit", "reverses", "reversed_by", "by", "digest")})
    obj.output(answer["postings"], ("account", "code", "amount"))


@ledger_commands.command("reverse")
@click.argument("entry", type=int)
@click.argument("why")
@click.pass_obj
def reverse_command(obj: Any, entry: int, why: str) -> None:
    """冲销一笔分录，说明理由。Undo an entry by its reversal, saying why."""
    obj.output(obj.call("POST", f"{API}/ledger/entries/{entry}/reverse", {"text": why}))


@ledger_commands.command("verify")
@click.pass_obj
def verify_command(obj: Any) -> None:
    """重算全部账簿；不符时退出码为 1。Add up all of the books again; exit code 1 where something is wrong."""
    verdict = obj.call("GET", f"{API}/ledger/verify")
    obj.output(verdict)
    if not verdict["ok"]:
        sys.exit(1)
