"""Definitions, measurements, evidence, reports and scores."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, Json, UtcDateTime

revision = "plan001"
down_revision = None
branch_labels = ("plan",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "plan_definitions",
        sa.Column("target", sa.String(60), nullable=False),
        sa.Column("version", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("document", Json, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("source", sa.String(100), nullable=False),
        sa.Column("since", UtcDateTime, nullable=False),
        sa.Column("by", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("target", "version", name="pk_plan_definitions"),
        sa.CheckConstraint("version >= 1", name="version_counts_from_one"),
    )
    op.create_table(
        "plan_measurements",
        sa.Column("id", BigId, nullable=False),
        sa.Column("target", sa.String(60), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("as_of", UtcDateTime, nullable=False),
        sa.Column("value", sa.String(40)),
        sa.Column("known", sa.BigInteger, nullable=False),
        sa.Column("reported", sa.BigInteger, nullable=False),
        sa.Column("newest", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_plan_measurements"),
        sa.ForeignKeyConstraint(
            ["target", "version"], ["plan_definitions.target", "plan_definitions.version"],
            name="fk_plan_measurements_target",
        ),
    )
    op.create_index("ix_plan_measurements_target_as_of", "plan_measurements", ["target", "as_of"])
    op.create_table(
        "plan_evidence",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_plan_evidence"),
    )
    op.create_table(
        "plan_reports",
        sa.Column("id", BigId, nullable=False),
        sa.Column("target", sa.String(60), nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("value", sa.String(40), nullable=False),
        sa.Column("as_of", UtcDateTime, nullable=False),
        sa.Column("evidence_text", sa.Text, nullable=False),
        sa.Column("evidence_name", sa.String(255)),
        sa.Column("evidence_sha256", sa.String(64)),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("submitted_by", sa.String(128), nullable=False),
        sa.Column("submitted_name", sa.String(200), nullable=False),
        sa.Column("submitted_at", UtcDateTime, nullable=False),
        sa.Column("decided_by", sa.String(128)),
        sa.Column("decided_name", sa.String(200)),
        sa.Column("decided_at", UtcDateTime),
        sa.Column("note", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_plan_reports"),
        sa.ForeignKeyConstraint(
            ["evidence_sha256"], ["plan_evidence.sha256"], name="fk_plan_reports_evidence_sha256"
        ),
        sa.CheckConstraint("state IN ('submitted', 'approved', 'rejected')", name="known_state"),
        sa.CheckConstraint("decided_by IS NULL OR decided_by <> submitted_by", name="second_person"),
        sa.CheckConstraint(
            "(state = 'submitted') = (decided_by IS NULL) AND (decided_by IS NULL) = (decided_at IS NULL)",
            name="decided_when_decided",
        ),
        sa.CheckConstraint("length(trim(evidence_text)) > 0", name="has_evidence"),
    )
    op.create_index("ix_plan_reports_target", "plan_reports", ["target"])
    op.create_table(
        "plan_scores",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("as_of", UtcDateTime, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("made_by", sa.String(128), nullable=False),
        sa.Column("made_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_plan_scores"),
    )
    op.create_index("ix_plan_scores_as_of", "plan_scores", ["as_of"])


def downgrade() -> None:
    for table in ("plan_scores", "plan_reports", "plan_evidence", "plan_measurements", "plan_definitions"):
        op.drop_table(table)
