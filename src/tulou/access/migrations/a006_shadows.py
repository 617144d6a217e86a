"""The desired state of devices."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import UtcDateTime

revision = "access006"
down_revision = "access005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shadows",
        sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("desired", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("changed_at", UtcDateTime, nullable=False),
        sa.Column("changed_by", sa.String(128), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("shadows")
