"""An index of the bounding boxes of entities whose place is no point; there are few."""

import sqlalchemy as sa
from alembic import op

revision = "context_0090"
down_revision = "context_0080"
branch_labels = None
depends_on = None

INDEX = "ix_entities_extents"
EXTENDED = sa.text("west IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        INDEX, "entities", ["west", "east", "south", "north"], sqlite_where=EXTENDED, postgresql_where=EXTENDED
    )


def downgrade() -> None:
    op.drop_index(INDEX, "entities")
