"""Openings, applications, reviews."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, UtcDateTime

revision = "plan004"
down_revision = "plan003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "plan_openings",
        sa.Column("no", BigId, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("places", sa.Integer, nullable=False),
        sa.Column("reviews", sa.Integer, nullable=False),
        sa.Column("lon", sa.Float),
        sa.Column("lat", sa.Float),
        sa.Column("closes", UtcDateTime),
        sa.Column("closed", sa.Boolean, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_plan_openings"),
        sa.ForeignKeyConstraint(["org"], ["organisations.id"], name="fk_plan_openings_org"),
        sa.CheckConstraint("kind IN ('tower', 'duct', 'pole', 'room', 'site', 'scenario')", name="known_kind"),
        sa.CheckConstraint("places >= 1 AND reviews >= 0", name="some_places"),
        sa.CheckConstraint("kind = 'scenario' OR (lon IS NOT NULL AND lat IS NOT NULL)", name="has_a_place"),
    )
    op.create_index("ix_plan_openings_kind_lat_lon", "plan_openings", ["kind", "lat", "lon"])
    op.create_table(
        "plan_applications",
        sa.Column("no", BigId, nullable=False),
        sa.Column("opening", BigId, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
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
        sa.Column("ended_at", UtcDateTime),
        sa.PrimaryKeyConstraint("no", name="pk_plan_applications"),
        sa.ForeignKeyConstraint(["opening"], ["plan_openings.no"], name="fk_plan_applications_opening"),
        sa.ForeignKeyConstraint(["org"], ["organisations.id"], name="fk_plan_applications_org"),
        sa.ForeignKeyConstraint(["evidence_sha256"], ["plan_evidence.sha256"], name="fk_plan_applications_evidence_sha256"),
        sa.CheckConstraint("state IN ('submitted', 'accepted', 'refused', 'ended')", name="known_state"),
        sa.CheckConstraint("decided_by IS NULL OR decided_by <> submitted_by", name="second_person"),
        sa.CheckConstraint(
            "(state = 'submitted') = (decided_by IS NULL) AND (state = 'ended') = (ended_at IS NOT NULL)", name="decided_when_decided",
        ),
    )
    held = sa.text("state IN ('submitted', 'accepted')")
    op.create_index("uq_plan_applications_open", "plan_applications", ["opening", "org"], unique=True, sqlite_where=held, postgresql_where=held)
    op.create_index("ix_plan_applications_org", "plan_applications", ["org"])
    op.create_table(
        "plan_reviews",
        sa.Column("application", BigId, autoincrement=False, nullable=False),
        sa.Column("person", sa.String(128), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("score", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("application", "person", name="pk_plan_reviews"),
        sa.ForeignKeyConstraint(["application"], ["plan_applications.no"], name="fk_plan_reviews_application"),
        sa.CheckConstraint("score BETWEEN 0 AND 100", name="between_0_and_100"),
    )


def downgrade() -> None:
    for table in ("plan_reviews", "plan_applications", "plan_openings"):
        op.drop_table(table)
