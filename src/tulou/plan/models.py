"""Tables and request bodies of the plan.

Law: nothing is overwritten. A definition is superseded by a later version, a measurement by a later one, a report by a
later one; a report is decided once, by somebody other than its author, and the store itself refuses anything else.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Annotated

import sqlalchemy as sa
from pydantic import AfterValidator, AwareDatetime, Field

from tulou.kernel.sql import BigId, Json, UtcDateTime, metadata
from tulou.plan.papers import Body, Paper
from tulou.plan.queries import PLACES, Definition, Strict


class DecimalText(sa.TypeDecorator[Decimal]):
    """A decimal kept as text: exact on both stores (SQLite would make it a float)."""

    impl = sa.String(40)
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else format(value, "f")

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


plan_definitions = sa.Table(
    "plan_definitions", metadata,
    sa.Column("target", sa.String(60), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("document", Json, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("source", sa.String(100), nullable=False),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.Column("by", sa.String(128), nullable=False),
    sa.CheckConstraint("version >= 1", name="version_counts_from_one"),
)
"""`source`: `pack:<name>@<version>` or `house`; `since`: in force from then until the next version's `since`."""

plan_measurements = sa.Table(
    "plan_measurements", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("target", sa.String(60), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("as_of", UtcDateTime, nullable=False),
    sa.Column("value", DecimalText),
    sa.Column("known", sa.BigInteger, nullable=False),
    sa.Column("reported", sa.BigInteger, nullable=False),
    sa.Column("newest", UtcDateTime),
    sa.ForeignKeyConstraint(["target", "version"], ["plan_definitions.target", "plan_definitions.version"]),
    sa.Index("ix_plan_measurements_target_as_of", "target", "as_of"),
)
"""`value` is null when no real thing of the kind was registered; `known` and `reported` say what it was made of."""

plan_reports = sa.Table(
    "plan_reports", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("target", sa.String(60), nullable=False, index=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("value", DecimalText, nullable=False),
    sa.Column("as_of", UtcDateTime, nullable=False),
    sa.Column("evidence_text", sa.Text, nullable=False),
    sa.Column("evidence_name", sa.String(255)),
    sa.Column("evidence_sha256", sa.String(64), sa.ForeignKey("plan_evidence.sha256")),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("submitted_by", sa.String(128), nullable=False),
    sa.Column("submitted_name", sa.String(200), nullable=False),
    sa.Column("submitted_at", UtcDateTime, nullable=False),
    sa.Column("decided_by", sa.String(128)),
    sa.Column("decided_name", sa.String(200)),
    sa.Column("decided_at", UtcDateTime),
    sa.Column("note", sa.Text),
    sa.CheckConstraint("state IN ('submitted', 'approved', 'rejected')", name="known_state"),
    sa.CheckConstraint("decided_by IS NULL OR decided_by <> submitted_by", name="second_person"),
    sa.CheckConstraint(
        "(state = 'submitted') = (decided_by IS NULL) AND (decided_by IS NULL) = (decided_at IS NULL)",
        name="decided_when_decided",
    ),
    sa.CheckConstraint("length(trim(evidence_text)) > 0", name="has_evidence"),
)

plan_scores = sa.Table(
    "plan_scores", metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("as_of", UtcDateTime, nullable=False, index=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("made_by", sa.String(128), nullable=False),
    sa.Column("made_at", UtcDateTime, nullable=False),
)
"""`document` is the score's canonical JSON, its inputs included; `digest` is its SHA-256."""


def _six_places(value: Decimal) -> Decimal:
    if not value.is_finite() or value != value.quantize(PLACES):
        raise ValueError("a finite number with at most six decimals")
    return value


Value = Annotated[Decimal, Field(ge=0, lt=Decimal(10) ** 18), AfterValidator(_six_places)]


class NewReport(Paper):
    """A figure that the lead agency reports. `value` is in the target's unit."""

    value: Value
    as_of: AwareDatetime


class Decision(Body):
    """What the second person says about a paper."""

    note: str = Field("", max_length=4000)


class NewDefinition(Strict):
    """A new version of a target's definition, in force from now on."""

    definition: Definition


def moment(value: dt.datetime) -> str:
    """RFC 3339 in UTC with `Z`."""
    return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
