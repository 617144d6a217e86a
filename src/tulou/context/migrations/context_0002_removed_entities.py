"""Numbers of deleted entities whose readings are still there."""

import sqlalchemy as sa
from alembic import op

revision = "context_0002"
down_revision = "context_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "removed_entities",
        sa.Column("no", sa.BigInteger, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("no", name="pk_removed_entities"),
    )


def downgrade() -> None:
    op.drop_table("removed_entities")
