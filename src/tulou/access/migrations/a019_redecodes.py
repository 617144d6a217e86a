"""Runs that read stored frames again."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, UtcDateTime

revision = "access019"
down_revision = "access010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "redecodes",
        sa.Column("id", BigId, nullable=False),
        sa.Column("protocol", sa.String(32), nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("orgs", sa.JSON, nullable=True),
        sa.Column("device", sa.String(320), nullable=True),
        sa.Column("entity_no", sa.BigInteger, nullable=True),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("end", sa.BigInteger, nullable=False),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("cancel", sa.Boolean, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=True),
        sa.Column("place", sa.JSON, nullable=True),
        sa.Column("pending", sa.JSON, nullable=True),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("examples", sa.JSON, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("ended_at", UtcDateTime, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_redecodes"),
    )


def downgrade() -> None:
    op.drop_table("redecodes")
