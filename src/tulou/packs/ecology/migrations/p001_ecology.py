"""Days to derive again, amendments under way, entries by hand, marks of the control, warnings."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, Json, UtcDateTime

revision = "ecology001"
down_revision = None
branch_labels = ("ecology",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ecology_due",
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("asked_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("day", name="pk_ecology_due"),
    )
    op.create_table(
        "ecology_pending",
        sa.Column("no", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("touches", Json, nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_ecology_pending"),
    )
    op.create_table(
        "ecology_entries",
        sa.Column("item", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("stored", sa.Boolean, nullable=False),
        sa.Column("zh", sa.Text, nullable=False),
        sa.Column("en", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("item", name="pk_ecology_entries"),
    )
    op.create_table(
        "ecology_marks",
        sa.Column("entity", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("property", sa.String(128), nullable=False),
        sa.Column("hour", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("rule", sa.String(16), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("zh", sa.Text, nullable=False),
        sa.Column("en", sa.Text, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("entity", "property", "hour", name="pk_ecology_marks"),
    )
    op.create_table(
        "ecology_warnings",
        sa.Column("id", BigId, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("identifier", sa.String(128), nullable=False),
        sa.Column("first", sa.BigInteger),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("document", Json, nullable=False),
        sa.Column("xml", sa.Text),
        sa.Column("drafted_by", sa.String(128), nullable=False),
        sa.Column("drafted_at", UtcDateTime, nullable=False),
        sa.Column("signed_by", sa.String(128)),
        sa.Column("published_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_ecology_warnings"),
        sa.UniqueConstraint("identifier", name="uq_ecology_warnings_identifier"),
        sa.CheckConstraint("(state = 'published') = (xml IS NOT NULL)", name="published_has_xml"),
        sa.CheckConstraint("(state = 'published') = (signed_by IS NOT NULL)", name="published_is_signed"),
        sa.CheckConstraint("signed_by IS NULL OR signed_by <> drafted_by", name="second_person"),
    )
    op.create_index("uq_ecology_warnings_first_version", "ecology_warnings", ["first", "version"], unique=True)
    op.create_index("ix_ecology_warnings_org_id", "ecology_warnings", ["org", "id"])


def downgrade() -> None:
    for table in ("ecology_warnings", "ecology_marks", "ecology_entries", "ecology_pending", "ecology_due"):
        op.drop_table(table)
