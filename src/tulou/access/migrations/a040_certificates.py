"""Certificates of devices, and the authorities that issue them."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, UtcDateTime

revision = "access040"
down_revision = "access032"
branch_labels = None
depends_on = None

ACTIVE = sa.text("status = 'active'")


def upgrade() -> None:
    op.create_table(
        "device_authorities",
        sa.Column("no", BigId, primary_key=True),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("own", sa.Boolean, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("der", sa.LargeBinary, nullable=False),
        sa.Column("not_before", UtcDateTime, nullable=False),
        sa.Column("not_after", UtcDateTime, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("revoked_at", UtcDateTime),
    )
    op.create_index("ix_device_authorities_org_no", "device_authorities", ["org", "no"])
    op.create_index("uq_device_authorities_active", "device_authorities", ["fingerprint"], unique=True, sqlite_where=ACTIVE,
                    postgresql_where=ACTIVE)
    op.create_table(
        "device_certificates",
        sa.Column("no", BigId, primary_key=True),
        sa.Column("entity_no", sa.BigInteger, nullable=False),
        sa.Column("authority_no", sa.BigInteger),
        sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("serial", sa.String(64), nullable=False),
        sa.Column("der", sa.LargeBinary, nullable=False),
        sa.Column("not_before", UtcDateTime, nullable=False),
        sa.Column("not_after", UtcDateTime, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("replaces", sa.BigInteger),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("used_at", UtcDateTime),
        sa.Column("revoked_at", UtcDateTime),
    )
    op.create_index("ix_device_certificates_entity_no_no", "device_certificates", ["entity_no", "no"])
    op.create_index("ix_device_certificates_not_after", "device_certificates", ["not_after"], sqlite_where=ACTIVE,
                    postgresql_where=ACTIVE)


def downgrade() -> None:
    for table in ("device_certificates", "device_authorities"):
        op.drop_table(table)
