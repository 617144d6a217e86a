"""The writer's place in its stream, and dead letters."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, UtcDateTime

revision = "access002"
down_revision = "access001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "writer_intent",
        sa.Column("stream", sa.String(64), nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("floor", sa.BigInteger, nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("stream", name="pk_writer_intent"),
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", BigId, nullable=False),
        sa.Column("stream_id", sa.String(64), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("entity_no", sa.BigInteger, nullable=False),
        sa.Column("protocol", sa.String(32), nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("field", sa.Text, nullable=False),
        sa.Column("replayed_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_dead_letters"),
        sa.UniqueConstraint("stream_id", name="uq_dead_letters_stream_id"),
    )
    op.create_index("ix_dead_letters_org_id", "dead_letters", ["org", "id"])


def downgrade() -> None:
    op.drop_table("dead_letters")
    op.drop_table("writer_intent")
