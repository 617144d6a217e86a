"""Commands to devices."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, UtcDateTime

revision = "access005"
down_revision = "access003"
branch_labels = None
depends_on = None

OPEN = sa.text("ended_at IS NULL")
UNANNOUNCED = sa.text("ended_at IS NOT NULL AND NOT announced")


def upgrade() -> None:
    op.create_table(
        "commands",
        sa.Column("no", BigId, primary_key=True),
        sa.Column("entity_no", sa.BigInteger, nullable=False),
        sa.Column("device_id", sa.String(320), nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("method", sa.String(128), nullable=False),
        sa.Column("params", sa.Text, nullable=False),
        sa.Column("bearer", sa.String(32), nullable=False),
        sa.Column("answer", sa.Boolean, nullable=False),
        sa.Column("repeat", sa.Boolean, nullable=False),
        sa.Column("key", sa.String(128)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("claimed", sa.String(128), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.Column("sent_at", UtcDateTime),
        sa.Column("delivered_at", UtcDateTime),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("announced", sa.Boolean, nullable=False),
        sa.UniqueConstraint("entity_no", "key", name="uq_commands_entity_no_key"),
    )
    op.create_index("ix_commands_entity_no_no", "commands", ["entity_no", "no"])
    for name, columns in (("ix_commands_open", ["entity_no", "no"]), ("ix_commands_open_expiry", ["expires_at"]),
                          ("ix_commands_open_claimed", ["claimed"])):
        op.create_index(name, "commands", columns, sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_index("ix_commands_unannounced", "commands", ["no"], sqlite_where=UNANNOUNCED,
                    postgresql_where=UNANNOUNCED)


def downgrade() -> None:
    op.drop_table("commands")
