"""Firmware, and its roll-out to devices."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, UtcDateTime

revision = "access030"
down_revision = "access020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "firmware",
        sa.Column("no", BigId, primary_key=True),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("type", sa.String(128), nullable=False),
        sa.Column("title", sa.String(128), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.UniqueConstraint("org", "type", "title", "version"),
    )
    op.create_table(
        "rollouts",
        sa.Column("no", BigId, primary_key=True),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("firmware_no", sa.BigInteger, nullable=False),
        sa.Column("selection", sa.Text, nullable=False),
        sa.Column("stages", sa.Text, nullable=False),
        sa.Column("device_s", sa.Float, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("stage", sa.SmallInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("settled", sa.Boolean, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("started_at", UtcDateTime),
        sa.Column("ended_at", UtcDateTime),
    )
    op.create_index("ix_rollouts_org_no", "rollouts", ["org", "no"])
    op.create_index("ix_rollouts_firmware_no", "rollouts", ["firmware_no"])
    op.create_index("ix_rollouts_unsettled", "rollouts", ["no"], sqlite_where=sa.text("settled = 0"),
                    postgresql_where=sa.text("NOT settled"))
    op.create_table(
        "rollout_devices",
        sa.Column("rollout_no", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("device_id", sa.String(320), nullable=False),
        sa.Column("stage", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("desired", sa.Boolean, nullable=False),
        sa.Column("announced", sa.Boolean, nullable=False),
        sa.Column("online", sa.Boolean, nullable=False),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("mark", sa.String(64), nullable=False),
        sa.Column("attempts", sa.SmallInteger, nullable=False),
        sa.Column("told_at", UtcDateTime),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("error", sa.Text, nullable=False),
    )
    op.create_index("ix_rollout_devices_rollout_no_stage_state", "rollout_devices", ["rollout_no", "stage", "state"])
    still = sa.text("state IN ('waiting', 'told')")
    op.create_index("uq_rollout_devices_open", "rollout_devices", ["entity_no"], unique=True, sqlite_where=still,
                    postgresql_where=still)
    op.create_index("ix_rollout_devices_unannounced", "rollout_devices", ["entity_no"],
                    sqlite_where=sa.text("announced = 0"), postgresql_where=sa.text("NOT announced"))


def downgrade() -> None:
    for table in ("rollout_devices", "rollouts", "firmware"):
        op.drop_table(table)
