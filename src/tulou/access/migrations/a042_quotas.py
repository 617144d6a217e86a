"""Quotas of organisations."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import UtcDateTime

revision = "access042"
down_revision = "access041"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "quotas",
        sa.Column("org", sa.String(64), primary_key=True),
        sa.Column("devices", sa.Integer),
        sa.Column("messages_s", sa.Float),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("updated_by", sa.String(128), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("quotas")
