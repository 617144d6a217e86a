"""Entities, subscriptions with their outbox, and stored contexts."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, Json

revision = "context_0001"
down_revision = None
branch_labels = ("context",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "entities",
        sa.Column("no", BigId, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("types", Json),
        sa.Column("name", sa.Text),
        sa.Column("doc", Json, nullable=False),
        sa.Column("times", Json),
        sa.Column("synthetic", sa.Boolean, nullable=False),
        sa.Column("grade", sa.String(16)),
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
        sa.PrimaryKeyConstraint("no", name="pk_entities"),
        sa.UniqueConstraint("id", "org", name="uq_entities_id_org"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_entities_org_type_no", "entities", ["org", "type", "no"])
    op.create_index("ix_entities_type_no", "entities", ["type", "no"])
    op.create_index("ix_entities_lon_lat", "entities", ["lon", "lat"])
    for name, column, condition in (
        ("ix_entities_several_types", "no", "types IS NOT NULL"),
        ("ix_entities_expires_at", "expires_at", "expires_at IS NOT NULL"),
    ):
        op.create_index(
            name, "entities", [column], sqlite_where=sa.text(condition), postgresql_where=sa.text(condition)
        )
    op.create_table(
        "subscriptions",
        sa.Column("no", BigId, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("doc", Json, nullable=False),
        sa.Column("context", Json),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("modified_at", sa.BigInteger, nullable=False),
        sa.Column("times_sent", sa.BigInteger, nullable=False),
        sa.Column("times_failed", sa.BigInteger, nullable=False),
        sa.Column("last_notification", sa.BigInteger),
        sa.Column("last_success", sa.BigInteger),
        sa.Column("last_failure", sa.BigInteger),
        sa.Column("last_error", sa.Text),
        sa.Column("queued_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("no", name="pk_subscriptions"),
        sa.UniqueConstraint("id", "org", name="uq_subscriptions_id_org"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_subscriptions_org_no", "subscriptions", ["org", "no"])
    op.create_table(
        "notification_outbox",
        sa.Column("no", BigId, autoincrement=True, nullable=False),
        sa.Column("subscription", sa.BigInteger, nullable=False),
        sa.Column("body", Json, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_notification_outbox"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_notification_outbox_due_at", "notification_outbox", ["due_at"])
    op.create_index("ix_notification_outbox_subscription_no", "notification_outbox", ["subscription", "no"])
    op.create_table(
        "ld_contexts",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("doc", Json, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("modified_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ld_contexts"),
        sa.UniqueConstraint("url", "org", name="uq_ld_contexts_url_org"),
    )


def downgrade() -> None:
    for table in ("ld_contexts", "notification_outbox", "subscriptions", "entities"):
        op.drop_table(table)
