"""Subscriptions that the house holds at context sources for its own subscribers (CIM 009, 5.8.1.4)."""

import sqlalchemy as sa
from alembic import op

revision = "context_0080"
down_revision = "context_0070"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "remote_subscriptions",
        sa.Column("no", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False, autoincrement=True),
        sa.Column("subscription", sa.BigInteger, nullable=False),
        sa.Column("registration", sa.BigInteger, nullable=False),
        sa.Column("org", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("sent", sa.Text),
        sa.Column("gone_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("no", name="pk_remote_subscriptions"),
        sa.UniqueConstraint("id", name="uq_remote_subscriptions_id"),
    )


def downgrade() -> None:
    op.drop_table("remote_subscriptions")
