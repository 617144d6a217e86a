"""Tables of workflows: items, their steps, and what is due.

Law: an item's row says where it is, its steps how it came there; both change in one transaction, and (item, number) is a key, so a step
is made once. What is due belongs to the step that entered the state: it is gone when the item moves on.
"""

from __future__ import annotations

import sqlalchemy as sa

from tulou.kernel.sql import BigId, Json, UtcDateTime, metadata

items = sa.Table(
    "workflow_items", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("workflow", sa.String(64), nullable=False),
    sa.Column("org", sa.String(64), sa.ForeignKey("organisations.id"), nullable=False),
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
    sa.Index("uq_workflow_items_org_workflow_key", "org", "workflow", "key", unique=True),
    sa.Index("ix_workflow_items_org_final_no", "org", "final", "no"),
    sa.Index("ix_workflow_items_workflow_state_no", "workflow", "state", "no"),
    sa.Index("ix_workflow_items_subject", "subject"),
)
"""`step` counts the steps that were made, `level` the escalations since the state was entered; `due_at` is the next deadline."""

steps = sa.Table(
    "workflow_steps", metadata,
    sa.Column("item", BigId, sa.ForeignKey("workflow_items.no", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("transition", sa.String(64), nullable=False),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("target", sa.String(64), nullable=False),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("person", sa.String(128), nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("fields", Json, nullable=False),
    sa.Column("key", sa.String(128)),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Index("uq_workflow_steps_item_key", "item", "key", unique=True),
)
"""`key` is what a caller gives to be sure that a step that it asks for again is made once."""

due = sa.Table(
    "workflow_due", metadata,
    sa.Column("item", BigId, sa.ForeignKey("workflow_items.no", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    sa.Column("deadline", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False, index=True),
)
"""`deadline` is the number of the deadline in its state, `step` the step that entered it."""
