"""Tables and request bodies of the annual evaluation.

Law: a version's document is never changed (a trigger holds it); an appeal that is upheld makes the next version. Who made a draft does not
publish it, and who appealed does not decide; the store refuses both.
"""

from __future__ import annotations

import sqlalchemy as sa
from pydantic import Field

from tulou.kernel.sql import BigId, Json, UtcDateTime, metadata
from tulou.plan.evaluation.formula import Correction
from tulou.plan.papers import Body, Paper

plan_evaluations = sa.Table(
    "plan_evaluations", metadata,
    sa.Column("year", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
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
    sa.CheckConstraint("state IN ('draft', 'dropped', 'published', 'superseded', 'final')", name="known_state"),
    sa.CheckConstraint("published_by IS NULL OR published_by <> made_by OR appeal IS NOT NULL", name="second_person"),
    sa.CheckConstraint("(state IN ('draft', 'dropped')) = (published_by IS NULL) AND (state = 'final') = (finished_by IS NOT NULL)", name="signed"),
    sa.Index(
        "uq_plan_evaluations_in_force", "year", unique=True, sqlite_where=sa.text("state IN ('published', 'final')"),
        postgresql_where=sa.text("state IN ('published', 'final')"),
    ),
)
"""`document` is canonical JSON with the formula, all inputs and the scores, `digest` its SHA-256; `appeal` is the one that made a version."""

plan_appeals = sa.Table(
    "plan_appeals", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("year", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("org", sa.String(64), sa.ForeignKey("organisations.id"), nullable=False),
    sa.Column("corrections", Json, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("made", sa.Integer),
    sa.Column("evidence_text", sa.Text, nullable=False),
    sa.Column("evidence_name", sa.String(255)),
    sa.Column("evidence_sha256", sa.String(64), sa.ForeignKey("plan_evidence.sha256")),
    sa.Column("submitted_by", sa.String(128), nullable=False),
    sa.Column("submitted_name", sa.String(200), nullable=False),
    sa.Column("submitted_at", UtcDateTime, nullable=False),
    sa.Column("decided_by", sa.String(128)),
    sa.Column("decided_name", sa.String(200)),
    sa.Column("decided_at", UtcDateTime),
    sa.Column("note", sa.Text),
    sa.ForeignKeyConstraint(["year", "version"], ["plan_evaluations.year", "plan_evaluations.version"]),
    sa.CheckConstraint("state IN ('submitted', 'upheld', 'rejected')", name="known_state"),
    sa.CheckConstraint("length(trim(evidence_text)) > 0", name="has_evidence"),
    sa.CheckConstraint("decided_by IS NULL OR decided_by <> submitted_by", name="second_person"),
    sa.CheckConstraint("(state = 'submitted') = (decided_by IS NULL) AND (state = 'upheld') = (made IS NOT NULL)", name="decided_when_decided"),
    sa.Index(
        "uq_plan_appeals_open", "year", "org", unique=True, sqlite_where=sa.text("state = 'submitted'"),
        postgresql_where=sa.text("state = 'submitted'"),
    ),
)
"""`version` is the one appealed against, `made` the one that an upheld appeal made."""


class NewEvaluation(Body):
    """The year to evaluate."""

    year: int = Field(ge=2000, le=2100)


class NewAppeal(Paper):
    """An agency's appeal: which inputs are to be others, with evidence."""

    org: str = Field(max_length=64)
    corrections: list[Correction] = Field(min_length=1, max_length=100)


class Verdict(Body):
    """What is said about an appeal. `corrections` are those that are accepted, where they are not all that was asked for."""

    note: str = Field(default="", max_length=4000)
    corrections: list[Correction] | None = Field(default=None, min_length=1, max_length=100)
