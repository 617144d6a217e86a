"""Devices and alarms."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, UtcDateTime

revision = "access001"
down_revision = None
branch_labels = ("access",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("entity_no", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("id", sa.String(320), nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("entity_id", sa.String(255), nullable=False),
        sa.Column("type", sa.String(128), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("origin", sa.SmallInteger, nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("token_prefix", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("rotated_at", UtcDateTime),
        sa.Column("seen_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("entity_no", name="pk_devices"),
        sa.UniqueConstraint("id", name="uq_devices_id"),
        sa.UniqueConstraint("token_hash", name="uq_devices_token_hash"),
    )
    op.create_index("ix_devices_org_entity_no", "devices", ["org", "entity_no"])
    op.create_table(
        "alarms",
        sa.Column("id", BigId, nullable=False),
        sa.Column("entity_no", sa.BigInteger, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("property", sa.String(128), nullable=False),
        sa.Column("rule", sa.String(32), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("value", sa.Float),
        sa.Column("synthetic", sa.Boolean, nullable=False),
        sa.Column("raised_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("cleared_at", UtcDateTime),
        sa.Column("acknowledged_by", sa.String(128)),
        sa.Column("acknowledged_at", UtcDateTime),
        sa.Column("announced", sa.SmallInteger, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("id", name="pk_alarms"),
    )
    op.create_index("ix_alarms_org_id", "alarms", ["org", "id"])
    op.create_index(
        "uq_alarms_open", "alarms", ["entity_no", "property", "rule"], unique=True,
        sqlite_where=sa.text("cleared_at IS NULL"), postgresql_where=sa.text("cleared_at IS NULL"),
    )
    op.create_index(
        "ix_alarms_unannounced", "alarms", ["announced", "id"],
        sqlite_where=sa.text("announced < 2"), postgresql_where=sa.text("announced < 2"),
    )


def downgrade() -> None:
    op.drop_table("alarms")
    op.drop_table("devices")
