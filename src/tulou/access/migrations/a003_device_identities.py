"""Identities of devices in field protocols."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import UtcDateTime

revision = "access003"
down_revision = "access002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device_identities",
        sa.Column("protocol", sa.String(32), nullable=False),
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("entity_no", sa.BigInteger, nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("protocol", "identity", name="pk_device_identities"),
    )
    op.create_index("ix_device_identities_entity_no", "device_identities", ["entity_no"])


def downgrade() -> None:
    op.drop_table("device_identities")
