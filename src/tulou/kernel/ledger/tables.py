"""Tables of the ledger: accounts, entries, postings, and what each account turned over by year, month and day.

Law: entries and postings are only added. An entry is written after its postings and seals them: the store refuses one whose postings do
not sum to zero or are not of its organisation, unit and moment, and a posting to an entry that is sealed. Totals and turnover are kept
by the store itself with every posting, so nothing can be posted past them. Triggers hold this on both stores (revision kernel_0004).
"""

from __future__ import annotations

import sqlalchemy as sa

from tulou.kernel.sql import BigId, Json, UtcDateTime, metadata

ACCOUNTS = ("asset", "liability", "equity", "income", "expense")
"""Kinds of accounts. Assets and expenses grow by debits, the others by credits."""
DEBIT = ("asset", "expense")
UNITS = {"CNY": 100, "m2": 100, "tce": 1000}
"""Units, and of how many smallest parts each is made: amounts are integers of those (fen; 0.01 m²; kilograms of coal equivalent)."""

accounts = sa.Table(
    "ledger_accounts", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("org", sa.String(64), sa.ForeignKey("organisations.id"), nullable=False),
    sa.Column("code", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(9), nullable=False),
    sa.Column("unit", sa.String(8), nullable=False),
    sa.Column("label", Json, nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("engine", sa.String(32), nullable=False),
    sa.Column("guarded", sa.Boolean, nullable=False),
    sa.Column("debit", sa.BigInteger, nullable=False),
    sa.Column("credit", sa.BigInteger, nullable=False),
    sa.CheckConstraint("kind IN ('asset', 'liability', 'equity', 'income', 'expense')", name="known_kind"),
    sa.CheckConstraint(
        "NOT guarded OR CASE WHEN kind IN ('asset', 'expense') THEN debit >= credit ELSE credit >= debit END", name="not_overdrawn",
    ),
    sa.Index("uq_ledger_accounts_org_code", "org", "code", unique=True),
    sa.Index("ix_ledger_accounts_subject", "subject"),
)
"""`subject` is what the account is about; `engine` whose operations alone post to it (empty: anybody who may); a `guarded` account is
never overdrawn; `debit` and `credit` are the sums of all postings."""

entries = sa.Table(
    "ledger_entries", metadata,
    sa.Column("no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("org", sa.String(64), sa.ForeignKey("organisations.id"), nullable=False),
    sa.Column("unit", sa.String(8), nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("engine", sa.String(32), nullable=False),
    sa.Column("key", sa.String(200)),
    sa.Column("reverses", sa.BigInteger, sa.ForeignKey("ledger_entries.no")),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("recorded_at", UtcDateTime, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Index("uq_ledger_entries_org_key", "org", "key", unique=True),
    sa.Index("uq_ledger_entries_reverses", "reverses", unique=True),
    sa.Index("ix_ledger_entries_org_no", "org", "no"),
    sa.Index("ix_ledger_entries_subject", "subject", "no"),
)
"""`at` is when it happened, `recorded_at` when it was written; `digest` is the SHA-256 of what it says, also in the audit."""

postings = sa.Table(
    "ledger_postings", metadata,
    sa.Column(
        "entry", sa.BigInteger, sa.ForeignKey("ledger_entries.no", deferrable=True, initially="DEFERRED"), primary_key=True,
        autoincrement=False,
    ),
    sa.Column("account", BigId, sa.ForeignKey("ledger_accounts.no"), primary_key=True, autoincrement=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.CheckConstraint("amount <> 0", name="not_zero"),
    sa.Index("ix_ledger_postings_account_at", "account", "at", "entry"),
)
"""`amount` is positive for a debit, negative for a credit."""

turnover = sa.Table(
    "ledger_turnover", metadata,
    sa.Column("account", BigId, sa.ForeignKey("ledger_accounts.no"), primary_key=True, autoincrement=False),
    sa.Column("span", sa.String(1), primary_key=True),
    sa.Column("period", sa.String(10), primary_key=True),
    sa.Column("debit", sa.BigInteger, nullable=False),
    sa.Column("credit", sa.BigInteger, nullable=False),
    sa.CheckConstraint("span IN ('y', 'm', 'd')", name="known_span"),
)
"""Debits and credits of a year (`y`, 2021), a month (`m`, 2021-03) or a day (`d`, 2021-03-05) in Fujian (UTC+8)."""
