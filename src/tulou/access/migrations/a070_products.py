"""Products: models that organisations declare."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, UtcDateTime

revision = "access070"
down_revision = "access060"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "products",
        sa.Column("no", BigId, primary_key=True),
        sa.Column("name", sa.String(128), nullable=False, unique=True),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("settled", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("updated_by", sa.String(128), nullable=False),
    )
    op.create_index("ix_products_org", "products", ["org"])


def downgrade() -> None:
    op.drop_table("products")
