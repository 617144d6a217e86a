"""What is asked of the meters behind a device."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import UtcDateTime

revision = "access020"
down_revision = "access019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device_polls",
        sa.Column("entity_no", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("dials", sa.Boolean, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("updated_by", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("entity_no", name="pk_device_polls"),
    )


def downgrade() -> None:
    op.drop_table("device_polls")
