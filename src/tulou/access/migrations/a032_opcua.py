"""Servers of OPC UA that devices stand for."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import UtcDateTime

revision = "access032"
down_revision = "access031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device_opcua",
        sa.Column("entity_no", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("updated_by", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("entity_no", name="pk_device_opcua"),
    )


def downgrade() -> None:
    op.drop_table("device_opcua")
