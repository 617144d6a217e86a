"""The ledger: accounts, entries, postings, turnover, and the triggers that hold them together."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, Json, UtcDateTime

revision = "kernel_0004"
down_revision = "kernel_0003"
branch_labels = None
depends_on = None

UNBALANCED = "the postings of a ledger entry sum to zero, and are of its organisation, unit and moment"
SEALED = "a ledger entry takes no posting after it was written"
KEPT = "the ledger is append-only"
SPANS = (("y", 4), ("m", 7), ("d", 10))


def upgrade() -> None:
    op.create_table(
        "ledger_accounts",
        sa.Column("no", BigId, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("code", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(9), nullable=False),
        sa.Column("unit", sa.String(8), nullable=False),
        sa.Column("label", Json, nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("engine", sa.String(32), nullable=False),
        sa.Column("guarded", sa.Boolean, nullable=False),
        sa.Column("debit", sa.BigInteger, nullable=False),
        sa.Column("credit", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_ledger_accounts"),
        sa.ForeignKeyConstraint(["org"], ["organisations.id"], name="fk_ledger_accounts_org"),
        sa.CheckConstraint("kind IN ('asset', 'liability', 'equity', 'income', 'expense')", name="known_kind"),
        sa.CheckConstraint(
            "NOT guarded OR CASE WHEN kind IN ('asset', 'expense') THEN debit >= credit ELSE credit >= debit END", name="not_overdrawn",
        ),
    )
    op.create_index("uq_ledger_accounts_org_code", "ledger_accounts", ["org", "code"], unique=True)
    op.create_index("ix_ledger_accounts_subject", "ledger_accounts", ["subject"])
    op.create_table(
        "ledger_entries",
        sa.Column("no", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("unit", sa.String(8), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("engine", sa.String(32), nullable=False),
        sa.Column("key", sa.String(200)),
        sa.Column("reverses", sa.BigInteger),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("recorded_at", UtcDateTime, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_ledger_entries"),
        sa.ForeignKeyConstraint(["org"], ["organisations.id"], name="fk_ledger_entries_org"),
        sa.ForeignKeyConstraint(["reverses"], ["ledger_entries.no"], name="fk_ledger_entries_reverses"),
    )
    op.create_index("uq_ledger_entries_org_key", "ledger_entries", ["org", "key"], unique=True)
    op.create_index("uq_ledger_entries_reverses", "ledger_entries", ["reverses"], unique=True)
    op.create_index("ix_ledger_entries_org_no", "ledger_entries", ["org", "no"])
    op.create_index("ix_ledger_entries_subject", "ledger_entries", ["subject", "no"])
    op.create_table(
        "ledger_postings",
        sa.Column("entry", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("account", BigId, autoincrement=False, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("entry", "account", name="pk_ledger_postings"),
        sa.ForeignKeyConstraint(
            ["entry"], ["ledger_entries.no"], name="fk_ledger_postings_entry", deferrable=True, initially="DEFERRED",
        ),
        sa.ForeignKeyConstraint(["account"], ["ledger_accounts.no"], name="fk_ledger_postings_account"),
        sa.CheckConstraint("amount <> 0", name="not_zero"),
    )
    op.create_index("ix_ledger_postings_account_at", "ledger_postings", ["account", "at", "entry"])
    op.create_table(
        "ledger_turnover",
        sa.Column("account", BigId, autoincrement=False, nullable=False),
        sa.Column("span", sa.String(1), nullable=False),
        sa.Column("period", sa.String(10), nullable=False),
        sa.Column("debit", sa.BigInteger, nullable=False),
        sa.Column("credit", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("account", "span", "period", name="pk_ledger_turnover"),
        sa.ForeignKeyConstraint(["account"], ["ledger_accounts.no"], name="fk_ledger_turnover_account"),
        sa.CheckConstraint("span IN ('y', 'm', 'd')", name="known_span"),
    )
    unsound = (
        "(SELECT coalesce(sum(p.amount), 1) FROM ledger_postings p WHERE p.entry = NEW.no) <> 0 OR EXISTS (SELECT 1 FROM ledger_postings p "
        "JOIN ledger_accounts a ON a.no = p.account WHERE p.entry = NEW.no AND (a.org <> NEW.org OR a.unit <> NEW.unit OR p.at <> NEW.at))"
    )
    sealed = "EXISTS (SELECT 1 FROM ledger_entries e WHERE e.no = NEW.entry)"
    if op.get_bind().dialect.name == "postgresql":
        _postgresql(unsound, sealed)
    else:
        _sqlite(unsound, sealed)


def _kept(day: str, most: str, excluded: str) -> str:
    """Statements that keep the totals and the turnover of a new posting."""
    debit, credit = f"{most}(NEW.amount, 0)", f"{most}(-NEW.amount, 0)"
    return (
        f"UPDATE ledger_accounts SET debit = debit + {debit}, credit = credit + {credit} WHERE no = NEW.account;\n" + "\n".join(
            "INSERT INTO ledger_turnover (account, span, period, debit, credit) "
            f"VALUES (NEW.account, '{span}', substr({day}, 1, {length}), {debit}, {credit}) "
            "ON CONFLICT (account, span, period) DO UPDATE SET "
            f"debit = ledger_turnover.debit + {excluded}.debit, credit = ledger_turnover.credit + {excluded}.credit;"
            for span, length in SPANS
        )
    )


def _postgresql(unsound: str, sealed: str) -> None:
    day = "to_char((NEW.at AT TIME ZONE 'UTC') + interval '8 hours', 'YYYY-MM-DD')"
    op.execute("CREATE SEQUENCE ledger_numbers OWNED BY ledger_entries.no")
    for name, body in (
        ("ledger_kept", f"RAISE EXCEPTION '{KEPT}' USING ERRCODE = 'integrity_constraint_violation';"),
        ("ledger_seal", f"IF {unsound} THEN RAISE EXCEPTION '{UNBALANCED}' USING ERRCODE = 'integrity_constraint_violation'; END IF; RETURN NEW;"),
        ("ledger_sealed", f"IF {sealed} THEN RAISE EXCEPTION '{SEALED}' USING ERRCODE = 'integrity_constraint_violation'; END IF; RETURN NEW;"),
        ("ledger_post", _kept(day, "greatest", "excluded") + " RETURN NULL;"),
    ):
        op.get_bind().exec_driver_sql(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    op.execute("CREATE TRIGGER ledger_seal BEFORE INSERT ON ledger_entries FOR EACH ROW EXECUTE FUNCTION ledger_seal()")
    op.execute("CREATE TRIGGER ledger_sealed BEFORE INSERT ON ledger_postings FOR EACH ROW EXECUTE FUNCTION ledger_sealed()")
    op.execute("CREATE TRIGGER ledger_post AFTER INSERT ON ledger_postings FOR EACH ROW EXECUTE FUNCTION ledger_post()")
    for table in ("ledger_entries", "ledger_postings"):
        op.execute(
            f"CREATE TRIGGER {table}_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION ledger_kept()"
        )
    op.execute(
        "CREATE TRIGGER ledger_accounts_kept BEFORE UPDATE OF no, org, code, kind, unit, engine OR DELETE OR TRUNCATE ON ledger_accounts "
        "FOR EACH STATEMENT EXECUTE FUNCTION ledger_kept()"
    )


def _sqlite(unsound: str, sealed: str) -> None:
    op.execute(
        f"CREATE TRIGGER ledger_seal BEFORE INSERT ON ledger_entries WHEN {unsound} BEGIN SELECT RAISE(ABORT, '{UNBALANCED}'); END"
    )
    op.execute(f"CREATE TRIGGER ledger_sealed BEFORE INSERT ON ledger_postings WHEN {sealed} BEGIN SELECT RAISE(ABORT, '{SEALED}'); END")
    day = "strftime('%Y-%m-%d', substr(NEW.at, 1, 19), '+8 hours')"  # SQLite rounds to milliseconds
    op.get_bind().exec_driver_sql(f"CREATE TRIGGER ledger_post AFTER INSERT ON ledger_postings BEGIN {_kept(day, 'max', 'excluded')} END")
    for table, verbs in (
        ("ledger_entries", ("UPDATE", "DELETE")), ("ledger_postings", ("UPDATE", "DELETE")),
        ("ledger_accounts", ("UPDATE OF no, org, code, kind, unit, engine", "DELETE")),
    ):
        for verb in verbs:
            op.execute(
                f"CREATE TRIGGER {table}_kept_{verb[:6].lower()} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, '{KEPT}'); END"
            )


def downgrade() -> None:
    raise NotImplementedError("the ledger is never dropped")
