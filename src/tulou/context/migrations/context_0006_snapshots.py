"""Snapshots: frozen copies of entities; which entities hold anything transient."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, Json

revision = "context_0006"
down_revision = "context_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "snapshots",
        sa.Column("no", BigId, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("doc", Json, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("modified_at", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_snapshots"),
        sa.UniqueConstraint("id", "org", name="uq_snapshots_id_org"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_snapshots_expires_at", "snapshots", ["expires_at"])
    op.create_table(
        "snapshot_entities",
        sa.Column("no", BigId, autoincrement=True, nullable=False),
        sa.Column("snapshot", sa.BigInteger, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("types", Json),
        sa.Column("doc", Json, nullable=False),
        sa.Column("times", Json),
        sa.Column("synthetic", sa.Boolean, nullable=False),
        sa.Column("lon", sa.Float),
        sa.Column("lat", sa.Float),
        sa.Column("west", sa.Float),
        sa.Column("south", sa.Float),
        sa.Column("east", sa.Float),
        sa.Column("north", sa.Float),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("modified_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_snapshot_entities"),
        sa.UniqueConstraint("snapshot", "id", "org", name="uq_snapshot_entities_snapshot_id_org"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_snapshot_entities_snapshot_type_no", "snapshot_entities", ["snapshot", "type", "no"])
    op.create_table(
        "transient_entities",
        sa.Column("no", sa.BigInteger, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("no", name="pk_transient_entities"),
    )


def downgrade() -> None:
    for table in ("transient_entities", "snapshot_entities", "snapshots"):
        op.drop_table(table)
