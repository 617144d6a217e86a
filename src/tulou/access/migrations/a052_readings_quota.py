"""How many readings organisations may have, and have."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import UtcDateTime

revision = "access052"
down_revision = "access044"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("quotas", sa.Column("readings", sa.BigInteger))
    op.add_column("quotas", sa.Column("used_up", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "stored_readings",
        sa.Column("org", sa.String(64), primary_key=True),
        sa.Column("readings", sa.BigInteger, nullable=False),
        sa.Column("counted_at", UtcDateTime, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("stored_readings")
    with op.batch_alter_table("quotas") as batch:
        batch.drop_column("used_up")
        batch.drop_column("readings")
