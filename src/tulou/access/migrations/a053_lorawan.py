"""Network servers of LoRaWAN, and the applications of devices."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import UtcDateTime

revision = "access053"
down_revision = "access052"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lorawan_servers",
        sa.Column("org", sa.String(64), primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("updated_by", sa.String(128), nullable=False),
    )
    op.create_table(
        "lorawan_devices",
        sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("dev_eui", sa.String(16), nullable=False),
        sa.Column("application", sa.String(36), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("lorawan_devices")
    op.drop_table("lorawan_servers")
