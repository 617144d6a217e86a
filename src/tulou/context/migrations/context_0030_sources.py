"""Context source registrations, subscriptions to them with their outbox, and entity maps."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, Json

revision = "context_0030"
down_revision = "context_0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "csource_registrations",
        sa.Column("no", BigId, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("doc", Json, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("modified_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_csource_registrations"),
        sa.UniqueConstraint("id", "org", name="uq_csource_registrations_id_org"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_csource_registrations_org_no", "csource_registrations", ["org", "no"])
    op.create_table(
        "csource_subscriptions",
        sa.Column("no", BigId, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
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
        sa.Column("queued_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("no", name="pk_csource_subscriptions"),
        sa.UniqueConstraint("id", "org", name="uq_csource_subscriptions_id_org"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_csource_subscriptions_org_no", "csource_subscriptions", ["org", "no"])
    op.create_table(
        "csource_outbox",
        sa.Column("no", BigId, autoincrement=True, nullable=False),
        sa.Column("subscription", sa.BigInteger, nullable=False),
        sa.Column("body", Json, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_csource_outbox"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_csource_outbox_due_at", "csource_outbox", ["due_at"])
    op.create_index("ix_csource_outbox_subscription_no", "csource_outbox", ["subscription", "no"])
    op.create_table(
        "entity_maps",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("doc", Json, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_entity_maps"),
    )
    op.create_index("ix_entity_maps_expires_at", "entity_maps", ["expires_at"])


def downgrade() -> None:
    for name in ("entity_maps", "csource_outbox", "csource_subscriptions", "csource_registrations"):
        op.drop_table(name)
