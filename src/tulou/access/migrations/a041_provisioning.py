"""Keys by which devices get their credential, and the devices that did."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, UtcDateTime

revision = "access041"
down_revision = "access040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "provision_keys",
        sa.Column("no", BigId, primary_key=True),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("type", sa.String(128), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("key", sa.String(32), nullable=False, unique=True),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("strategy", sa.String(16), nullable=False),
        sa.Column("most", sa.Integer),
        sa.Column("made", sa.Integer, nullable=False),
        sa.Column("expires_at", UtcDateTime),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("used_at", UtcDateTime),
    )
    op.create_index("ix_provision_keys_org_no", "provision_keys", ["org", "no"])
    op.create_table(
        "provisioned",
        sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("key_no", sa.BigInteger, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
    )


def downgrade() -> None:
    for table in ("provisioned", "provision_keys"):
        op.drop_table(table)
