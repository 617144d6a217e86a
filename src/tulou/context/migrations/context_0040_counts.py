"""How many entities each organisation has of each type, counted once here and kept from now on."""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "context_0040"
down_revision = "context_0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    counts = op.create_table(
        "entity_counts",
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("types", sa.Text),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("org", "kind", name="pk_entity_counts"),
    )
    types = "types::text" if op.get_bind().dialect.name == "postgresql" else "types"
    found = op.get_bind().execute(sa.text(f"SELECT org, type, {types}, count(*) FROM entities GROUP BY 1, 2, 3"))
    rows = []
    for org, type, several, n in found.all():
        text = None if several is None else json.dumps(json.loads(several), ensure_ascii=False, separators=(",", ":"))
        kind = hashlib.blake2b((text or type).encode(), digest_size=16).hexdigest()
        rows.append({"org": org, "kind": kind, "type": type, "types": text, "n": n})
    if rows:
        op.bulk_insert(counts, rows)


def downgrade() -> None:
    op.drop_table("entity_counts")
