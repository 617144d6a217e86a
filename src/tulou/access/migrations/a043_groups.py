"""Groups of devices."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, UtcDateTime

revision = "access043"
down_revision = "access042"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device_groups",
        sa.Column("no", BigId, primary_key=True),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.UniqueConstraint("org", "name"),
    )
    op.create_table(
        "device_group_members",
        sa.Column("group_no", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
    )
    op.create_index("ix_device_group_members_entity_no", "device_group_members", ["entity_no"])


def downgrade() -> None:
    for table in ("device_group_members", "device_groups"):
        op.drop_table(table)
