"""Workflows: items, steps, deadlines."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, Json, UtcDateTime

revision = "kernel_0003"
down_revision = "kernel_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workflow_items",
        sa.Column("no", BigId, nullable=False),
        sa.Column("workflow", sa.String(64), nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("state", sa.String(64), nullable=False),
        sa.Column("final", sa.Boolean, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("fields", Json, nullable=False),
        sa.Column("assignee", sa.String(128), nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("entered_at", UtcDateTime, nullable=False),
        sa.Column("due_at", UtcDateTime),
        sa.Column("key", sa.String(128)),
        sa.PrimaryKeyConstraint("no", name="pk_workflow_items"),
        sa.ForeignKeyConstraint(["org"], ["organisations.id"], name="fk_workflow_items_org"),
    )
    op.create_index("uq_workflow_items_org_workflow_key", "workflow_items", ["org", "workflow", "key"], unique=True)
    op.create_index("ix_workflow_items_org_final_no", "workflow_items", ["org", "final", "no"])
    op.create_index("ix_workflow_items_workflow_state_no", "workflow_items", ["workflow", "state", "no"])
    op.create_index("ix_workflow_items_subject", "workflow_items", ["subject"])
    op.create_table(
        "workflow_steps",
        sa.Column("item", BigId, nullable=False, autoincrement=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("transition", sa.String(64), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("person", sa.String(128), nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("fields", Json, nullable=False),
        sa.Column("key", sa.String(128)),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("item", "number", name="pk_workflow_steps"),
        sa.ForeignKeyConstraint(["item"], ["workflow_items.no"], name="fk_workflow_steps_item", ondelete="CASCADE"),
    )
    op.create_index("uq_workflow_steps_item_key", "workflow_steps", ["item", "key"], unique=True)
    op.create_table(
        "workflow_due",
        sa.Column("item", BigId, nullable=False, autoincrement=False),
        sa.Column("deadline", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("item", "deadline", name="pk_workflow_due"),
        sa.ForeignKeyConstraint(["item"], ["workflow_items.no"], name="fk_workflow_due_item", ondelete="CASCADE"),
    )
    op.create_index("ix_workflow_due_at", "workflow_due", ["at"])


def downgrade() -> None:
    op.drop_table("workflow_due")
    op.drop_table("workflow_steps")
    op.drop_table("workflow_items")
