"""Delivery keeps its pauses in memory; a subscription may be blocked; stored contexts count their use."""

import sqlalchemy as sa
from alembic import op

revision = "context_0020"
down_revision = "context_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("subscriptions", sa.Column("blocked", sa.Text))
    op.drop_index("ix_notification_outbox_due_at", "notification_outbox")
    op.drop_column("notification_outbox", "due_at")
    op.drop_column("notification_outbox", "attempts")
    op.add_column("ld_contexts", sa.Column("hits", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("ld_contexts", sa.Column("last_usage", sa.BigInteger))


def downgrade() -> None:
    op.drop_column("ld_contexts", "last_usage")
    op.drop_column("ld_contexts", "hits")
    op.add_column("notification_outbox", sa.Column("attempts", sa.Integer, nullable=False, server_default="0"))
    op.add_column("notification_outbox", sa.Column("due_at", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("ix_notification_outbox_due_at", "notification_outbox", ["due_at"])
    op.drop_column("subscriptions", "blocked")
