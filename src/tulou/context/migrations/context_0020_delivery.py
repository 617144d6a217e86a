"""Delivery keeps its pauses in memory; a subscription may be blocked; stored contexts count their use."""

import sqlalchemy as sa
from alembic import op

revision = "context_0020"
down_revision = "context_0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("subscriptions", sa.Column("blocked", sa.Text))
    op.drop_index("ix_notification_outbox_due_at", "notification_outbox")
    op.drop_column("notification_outbox", "due_at")
    op.drop_column("notification_outbox", "attempts")
    with op.batch_alter_table("ld_contexts") as table:
        table.add_column(sa.Column("hits", sa.BigInteger, nullable=False, server_default="0"))
        table.add_column(sa.Column("last_usage", sa.BigInteger))
        table.alter_column("kind", type_=sa.String(32), existing_type=sa.String(16), existing_nullable=False)


def downgrade() -> None:
    op.execute("DELETE FROM ld_contexts WHERE kind='ImplicitlyCreated'")
    with op.batch_alter_table("ld_contexts") as table:
        table.alter_column("kind", type_=sa.String(16), existing_type=sa.String(32), existing_nullable=False)
        table.drop_column("last_usage")
        table.drop_column("hits")
    op.add_column("notification_outbox", sa.Column("attempts", sa.Integer, nullable=False, server_default="0"))
    op.add_column("notification_outbox", sa.Column("due_at", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("ix_notification_outbox_due_at", "notification_outbox", ["due_at"])
    op.drop_column("subscriptions", "blocked")
