"""On SQLite the index of the journal is filled in large sorted pieces: where rows are is noted first, and placed later.

Triggers keep the notes true to the rows whoever writes them. PostgreSQL keeps the index of context_0010.
"""

from alembic import op

revision = "context_0070"
down_revision = "context_0060"
branch_labels = None
depends_on = None

INDEX = "ix_attribute_history_entity_last_first"
FORGET = (
    "DELETE FROM history_recent WHERE no=old.no; "
    "DELETE FROM history_places WHERE entity=old.entity AND last=old.last AND first=old.first AND no=old.no;"
)
NOTE = "INSERT INTO history_recent (no,entity,last,first) VALUES (new.no,new.entity,new.last,new.first);"


def upgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    op.drop_index(INDEX, "attribute_history")
    for statement in (
        "CREATE TABLE history_places (entity INTEGER NOT NULL, last INTEGER NOT NULL, first INTEGER NOT NULL, "
        "no INTEGER NOT NULL, PRIMARY KEY (entity, last, first, no)) WITHOUT ROWID",
        "CREATE TABLE history_recent (no INTEGER PRIMARY KEY, entity INTEGER NOT NULL, last INTEGER NOT NULL, "
        "first INTEGER NOT NULL)",
        "INSERT INTO history_places SELECT entity,last,first,no FROM attribute_history ORDER BY 1,2,3,4",
        f"CREATE TRIGGER attribute_history_insert AFTER INSERT ON attribute_history BEGIN {NOTE} END",
        f"CREATE TRIGGER attribute_history_delete AFTER DELETE ON attribute_history BEGIN {FORGET} END",
        f"CREATE TRIGGER attribute_history_update AFTER UPDATE OF first,last ON attribute_history BEGIN {FORGET} {NOTE} END",
    ):
        op.execute(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    for verb in ("insert", "delete", "update"):
        op.execute(f"DROP TRIGGER attribute_history_{verb}")
    op.drop_table("history_recent")
    op.drop_table("history_places")
    op.create_index(INDEX, "attribute_history", ["entity", "last", "first"])
