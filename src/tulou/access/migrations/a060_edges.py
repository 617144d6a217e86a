"""Edges: at the hub who they are and how far their streams were taken, at the edge how far the hub is."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, UtcDateTime

revision = "access060"
down_revision = "access053"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "edges",
        sa.Column("no", BigId, primary_key=True),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("token_prefix", sa.String(24), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("revoked_at", UtcDateTime),
        sa.Column("era", sa.String(64), nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("floor", sa.BigInteger),
        sa.Column("contact_at", UtcDateTime),
        sa.Column("taken_at", UtcDateTime),
        sa.Column("lag", sa.BigInteger, nullable=False),
        sa.Column("lag_s", sa.Float, nullable=False),
        sa.Column("missed", sa.BigInteger, nullable=False),
        sa.Column("left_out", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("token_hash", name="uq_edges_token_hash"),
    )
    op.create_index("ix_edges_org_no", "edges", ["org", "no"])
    live = sa.text("revoked_at IS NULL")
    op.create_index("uq_edges_live", "edges", ["org", "name"], unique=True, sqlite_where=live, postgresql_where=live)
    op.create_table(
        "edge_devices",
        sa.Column("edge_no", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("entity", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("no", sa.BigInteger),
        sa.Column("shadow", sa.BigInteger, nullable=False, server_default="0"),
        sa.UniqueConstraint("no", name="uq_edge_devices_no"),
    )
    op.create_table(
        "uplink_position",
        sa.Column("stream", sa.String(64), primary_key=True),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("era", sa.String(64), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "uplink_commands",
        sa.Column("link", sa.String(24), primary_key=True),
        sa.Column("hub_no", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("no", sa.BigInteger),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("told", sa.String(16), nullable=False),
    )
    still = sa.text("told <> 'ended'")
    op.create_index("ix_uplink_commands_open", "uplink_commands", ["link", "hub_no"], sqlite_where=still, postgresql_where=still)
    op.create_table(
        "uplink_shadows",
        sa.Column("link", sa.String(24), primary_key=True),
        sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("names", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("uplink_shadows", "uplink_commands", "uplink_position", "edge_devices", "edges"):
        op.drop_table(table)
