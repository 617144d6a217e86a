"""Cards that may charge, and the numbers of charging transactions."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, UtcDateTime

revision = "access031"
down_revision = "access030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "id_tags",
        sa.Column("no", BigId, primary_key=True),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("tag", sa.String(36), nullable=False),
        sa.Column("blocked", sa.Boolean, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("expires_at", UtcDateTime),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.UniqueConstraint("tag", "org", name="uq_id_tags_tag_org"),
    )
    op.create_table(
        "charging_transactions",
        sa.Column("no", BigId, primary_key=True),
        sa.Column("entity_no", sa.BigInteger, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("meter_start", sa.BigInteger),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.UniqueConstraint("entity_no", "key", name="uq_charging_transactions_entity_no_key"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    for table in ("charging_transactions", "id_tags"):
        op.drop_table(table)
