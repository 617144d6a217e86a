"""Subscriptions to registrations are delivered as others are: they have an owner, and may be blocked.

Who wrote those that exist was not kept: they stand still until somebody changes them, which makes them his.
"""

import sqlalchemy as sa
from alembic import op

revision = "context_0060"
down_revision = "context_0050"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("csource_subscriptions", sa.Column("owner", sa.Text, nullable=False, server_default=""))
    op.add_column("csource_subscriptions", sa.Column("last_error", sa.Text))
    op.add_column("csource_subscriptions", sa.Column("blocked", sa.Text))
    op.drop_index("ix_csource_outbox_due_at", "csource_outbox")
    op.drop_column("csource_outbox", "attempts")
    op.execute("ALTER TABLE csource_outbox RENAME COLUMN due_at TO created_at")


def downgrade() -> None:
    op.execute("ALTER TABLE csource_outbox RENAME COLUMN created_at TO due_at")
    op.add_column("csource_outbox", sa.Column("attempts", sa.Integer, nullable=False, server_default="0"))
    op.create_index("ix_csource_outbox_due_at", "csource_outbox", ["due_at"])
    for name in ("blocked", "last_error", "owner"):
        op.drop_column("csource_subscriptions", name)
