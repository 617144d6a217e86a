"""Projects, milestones, movements of their funds and quotas."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, UtcDateTime

revision = "plan002"
down_revision = "plan001"
branch_labels = None
depends_on = "kernel_0004"


def _paper() -> list[sa.Column[Any]]:
    return [
        sa.Column("evidence_text", sa.Text), sa.Column("evidence_name", sa.String(255)), sa.Column("evidence_sha256", sa.String(64)),
        sa.Column("submitted_by", sa.String(128)), sa.Column("submitted_name", sa.String(200)), sa.Column("submitted_at", UtcDateTime),
        sa.Column("decided_by", sa.String(128)), sa.Column("decided_name", sa.String(200)), sa.Column("decided_at", UtcDateTime),
        sa.Column("note", sa.Text),
    ]


def upgrade() -> None:
    op.create_table(
        "plan_projects",
        sa.Column("no", BigId, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("code", sa.String(60), nullable=False),
        sa.Column("task", sa.String(10), nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("target", sa.String(60)),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("lon", sa.Float),
        sa.Column("lat", sa.Float),
        sa.Column("starts", sa.Date, nullable=False),
        sa.Column("ends", sa.Date, nullable=False),
        sa.Column("synthetic", sa.Boolean, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_plan_projects"),
        sa.ForeignKeyConstraint(["org"], ["organisations.id"], name="fk_plan_projects_org"),
        sa.CheckConstraint("ends >= starts", name="ends_after_start"),
    )
    op.create_index("uq_plan_projects_org_code", "plan_projects", ["org", "code"], unique=True)
    op.create_index("ix_plan_projects_task_no", "plan_projects", ["task", "no"])
    op.create_table(
        "plan_milestones",
        sa.Column("no", BigId, nullable=False),
        sa.Column("project", BigId, nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("due", sa.Date, nullable=False),
        sa.Column("final", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("done_on", sa.Date),
        *_paper(),
        sa.PrimaryKeyConstraint("no", name="pk_plan_milestones"),
        sa.ForeignKeyConstraint(["project"], ["plan_projects.no"], name="fk_plan_milestones_project"),
        sa.ForeignKeyConstraint(["evidence_sha256"], ["plan_evidence.sha256"], name="fk_plan_milestones_evidence_sha256"),
        sa.CheckConstraint("state IN ('planned', 'reported', 'done')", name="known_state"),
        sa.CheckConstraint("state = 'planned' OR (done_on IS NOT NULL AND length(trim(evidence_text)) > 0)", name="has_evidence"),
        sa.CheckConstraint("decided_by IS NULL OR decided_by <> submitted_by", name="second_person"),
        sa.CheckConstraint("(state = 'done') = (decided_by IS NOT NULL)", name="decided_when_done"),
    )
    op.create_index("uq_plan_milestones_project_title", "plan_milestones", ["project", "title"], unique=True)
    op.create_index("ix_plan_milestones_state_due", "plan_milestones", ["state", "due"])
    op.create_table(
        "plan_movements",
        sa.Column("no", BigId, nullable=False),
        sa.Column("project", BigId, nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("source", sa.String(16)),
        sa.Column("use", sa.String(16)),
        sa.Column("resource", sa.String(8)),
        sa.Column("unit", sa.String(8), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("key", sa.String(100), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("reverses", BigId),
        sa.Column("entry", sa.BigInteger),
        *_paper(),
        sa.PrimaryKeyConstraint("no", name="pk_plan_movements"),
        sa.ForeignKeyConstraint(["project"], ["plan_projects.no"], name="fk_plan_movements_project"),
        sa.ForeignKeyConstraint(["reverses"], ["plan_movements.no"], name="fk_plan_movements_reverses"),
        sa.ForeignKeyConstraint(["entry"], ["ledger_entries.no"], name="fk_plan_movements_entry"),
        sa.ForeignKeyConstraint(["evidence_sha256"], ["plan_evidence.sha256"], name="fk_plan_movements_evidence_sha256"),
        sa.CheckConstraint("state IN ('submitted', 'approved', 'rejected')", name="known_state"),
        sa.CheckConstraint("amount > 0", name="positive"),
        sa.CheckConstraint("length(trim(evidence_text)) > 0", name="has_evidence"),
        sa.CheckConstraint("decided_by IS NULL OR decided_by <> submitted_by", name="second_person"),
        sa.CheckConstraint(
            "(state = 'approved') = (entry IS NOT NULL) AND (state = 'submitted') = (decided_by IS NULL)", name="booked_when_approved",
        ),
    )
    op.create_index("uq_plan_movements_project_key", "plan_movements", ["project", "key"], unique=True)
    op.create_index("ix_plan_movements_project_state", "plan_movements", ["project", "state", "no"])


def downgrade() -> None:
    for table in ("plan_movements", "plan_milestones", "plan_projects"):
        op.drop_table(table)
