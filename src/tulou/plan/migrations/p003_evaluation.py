"""The annual evaluation: versions and appeals."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, Json, UtcDateTime

revision = "plan003"
down_revision = "plan002"
branch_labels = None
depends_on = None

KEPT = "the document of an evaluation is not changed"


def upgrade() -> None:
    op.create_table(
        "plan_evaluations",
        sa.Column("year", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("method", sa.String(60), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("appeal", BigId),
        sa.Column("made_by", sa.String(128), nullable=False),
        sa.Column("made_name", sa.String(200), nullable=False),
        sa.Column("made_at", UtcDateTime, nullable=False),
        sa.Column("published_by", sa.String(128)),
        sa.Column("published_name", sa.String(200)),
        sa.Column("published_at", UtcDateTime),
        sa.Column("finished_by", sa.String(128)),
        sa.Column("finished_at", UtcDateTime),
        sa.PrimaryKeyConstraint("year", "version", name="pk_plan_evaluations"),
        sa.CheckConstraint("state IN ('draft', 'dropped', 'published', 'superseded', 'final')", name="known_state"),
        sa.CheckConstraint("published_by IS NULL OR published_by <> made_by OR appeal IS NOT NULL", name="second_person"),
        sa.CheckConstraint(
            "(state IN ('draft', 'dropped')) = (published_by IS NULL) AND (state = 'final') = (finished_by IS NOT NULL)", name="signed",
        ),
    )
    one = sa.text("state IN ('published', 'final')")
    op.create_index("uq_plan_evaluations_in_force", "plan_evaluations", ["year"], unique=True, sqlite_where=one, postgresql_where=one)
    op.create_table(
        "plan_appeals",
        sa.Column("no", BigId, nullable=False),
        sa.Column("year", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("corrections", Json, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("made", sa.Integer),
        sa.Column("evidence_text", sa.Text, nullable=False),
        sa.Column("evidence_name", sa.String(255)),
        sa.Column("evidence_sha256", sa.String(64)),
        sa.Column("submitted_by", sa.String(128), nullable=False),
        sa.Column("submitted_name", sa.String(200), nullable=False),
        sa.Column("submitted_at", UtcDateTime, nullable=False),
        sa.Column("decided_by", sa.String(128)),
        sa.Column("decided_name", sa.String(200)),
        sa.Column("decided_at", UtcDateTime),
        sa.Column("note", sa.Text),
        sa.PrimaryKeyConstraint("no", name="pk_plan_appeals"),
        sa.ForeignKeyConstraint(["org"], ["organisations.id"], name="fk_plan_appeals_org"),
        sa.ForeignKeyConstraint(["evidence_sha256"], ["plan_evidence.sha256"], name="fk_plan_appeals_evidence_sha256"),
        sa.ForeignKeyConstraint(["year", "version"], ["plan_evaluations.year", "plan_evaluations.version"], name="fk_plan_appeals_year"),
        sa.CheckConstraint("state IN ('submitted', 'upheld', 'rejected')", name="known_state"),
        sa.CheckConstraint("length(trim(evidence_text)) > 0", name="has_evidence"),
        sa.CheckConstraint("decided_by IS NULL OR decided_by <> submitted_by", name="second_person"),
        sa.CheckConstraint("(state = 'submitted') = (decided_by IS NULL) AND (state = 'upheld') = (made IS NOT NULL)", name="decided_when_decided"),
    )
    waiting = sa.text("state = 'submitted'")
    op.create_index("uq_plan_appeals_open", "plan_appeals", ["year", "org"], unique=True, sqlite_where=waiting, postgresql_where=waiting)
    columns = "year, version, method, digest, document, appeal, made_by, made_at"
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION plan_evaluations_kept() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{KEPT}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
        )
        op.execute(
            f"CREATE TRIGGER plan_evaluations_kept BEFORE UPDATE OF {columns} OR DELETE OR TRUNCATE ON plan_evaluations "
            "FOR EACH STATEMENT EXECUTE FUNCTION plan_evaluations_kept()"
        )
    else:
        for name, verb in (("update", f"UPDATE OF {columns}"), ("delete", "DELETE")):
            op.execute(
                f"CREATE TRIGGER plan_evaluations_kept_{name} BEFORE {verb} ON plan_evaluations BEGIN SELECT RAISE(ABORT, '{KEPT}'); END"
            )


def downgrade() -> None:
    raise NotImplementedError("evaluations are never dropped")
