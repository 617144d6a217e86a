"""Attributes whose values are indexed."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId

revision = "context_0050"
down_revision = "context_0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "value_indexes",
        sa.Column("no", BigId, autoincrement=True, nullable=False),
        sa.Column("attribute", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_value_indexes"),
        sa.UniqueConstraint("attribute", name="uq_value_indexes_attribute"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("value_indexes")
