"""The journal of what was written of entities, and entities that only have a history."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, Json

revision = "context_0010"
down_revision = "context_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attribute_history",
        sa.Column("no", BigId, autoincrement=True, nullable=False),
        sa.Column("entity", sa.BigInteger, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger),
        sa.Column("whole", sa.Boolean, nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("doc", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_attribute_history"),
    )
    op.create_index("ix_attribute_history_entity_last_first", "attribute_history", ["entity", "last", "first"])
    op.create_table(
        "temporal_entities",
        sa.Column("no", BigId, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("types", Json),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("modified_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_temporal_entities"),
        sa.UniqueConstraint("id", "org", name="uq_temporal_entities_id_org"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_temporal_entities_type_no", "temporal_entities", ["type", "no"])
    op.create_table(
        "removed_history",
        sa.Column("entity", sa.BigInteger, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("entity", name="pk_removed_history"),
    )


def downgrade() -> None:
    for table in ("removed_history", "temporal_entities", "attribute_history"):
        op.drop_table(table)
