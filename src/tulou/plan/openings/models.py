"""Tables and request bodies of openings, applications and reviews.

Law: an application has two parties, so it is no workflow's item, which is one organisation's. It is decided by the opening's organisation and
never by who submitted it; of the places of an opening no more are given than there are.
"""

from __future__ import annotations

from typing import Literal, Self

import sqlalchemy as sa
from pydantic import AwareDatetime, Field, model_validator

from tulou.kernel.packs import broken
from tulou.kernel.sql import BigId, UtcDateTime, metadata
from tulou.plan.papers import Body, Paper

FACILITIES = ("tower", "duct", "pole", "room", "site")

plan_openings = sa.Table(
    "plan_openings", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("org", sa.String(64), sa.ForeignKey("organisations.id"), nullable=False),
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
    sa.CheckConstraint("kind IN ('tower', 'duct', 'pole', 'room', 'site', 'scenario')", name="known_kind"),
    sa.CheckConstraint("places >= 1 AND reviews >= 0", name="some_places"),
    sa.CheckConstraint("kind = 'scenario' OR (lon IS NOT NULL AND lat IS NOT NULL)", name="has_a_place"),
    sa.Index("ix_plan_openings_kind_lat_lon", "kind", "lat", "lon"),
)
"""`places` are how many applications may be accepted at a time, `reviews` how many reviews a decision needs."""

plan_applications = sa.Table(
    "plan_applications", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("opening", BigId, sa.ForeignKey("plan_openings.no"), nullable=False),
    sa.Column("org", sa.String(64), sa.ForeignKey("organisations.id"), nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
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
    sa.Column("ended_at", UtcDateTime),
    sa.CheckConstraint("state IN ('submitted', 'accepted', 'refused', 'ended')", name="known_state"),
    sa.CheckConstraint("decided_by IS NULL OR decided_by <> submitted_by", name="second_person"),
    sa.CheckConstraint("(state = 'submitted') = (decided_by IS NULL) AND (state = 'ended') = (ended_at IS NOT NULL)", name="decided_when_decided"),
    sa.Index(
        "uq_plan_applications_open", "opening", "org", unique=True, sqlite_where=sa.text("state IN ('submitted', 'accepted')"),
        postgresql_where=sa.text("state IN ('submitted', 'accepted')"),
    ),
    sa.Index("ix_plan_applications_org", "org"),
)

plan_reviews = sa.Table(
    "plan_reviews", metadata,
    sa.Column("application", BigId, sa.ForeignKey("plan_applications.no"), primary_key=True, autoincrement=False),
    sa.Column("person", sa.String(128), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("score", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.CheckConstraint("score BETWEEN 0 AND 100", name="between_0_and_100"),
)
"""A person reviews an application once."""


class NewOpening(Body):
    """A facility to share, at a place; or a scenario to apply for, whose applications are reviewed by at least two."""

    org: str = Field(max_length=64)
    kind: Literal["tower", "duct", "pole", "room", "site", "scenario"]
    title: str = Field(min_length=1, max_length=200, pattern=r"\S")
    text: str = Field(default="", max_length=4000)
    places: int = Field(default=1, ge=1, le=10_000)
    reviews: int = Field(default=0, ge=0, le=50)
    lon: float | None = Field(default=None, ge=-180, le=180)
    lat: float | None = Field(default=None, ge=-90, le=90)
    closes: AwareDatetime | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.lon is None) != (self.lat is None) or (self.kind != "scenario" and self.lon is None):
            raise broken("place", "设施须有经度和纬度", "a facility has a longitude and a latitude")
        if self.kind == "scenario" and self.reviews < 2:
            raise broken("reviews", "应用场景至少由两人评审", "applications for a scenario are reviewed by two at least")
        return self


class NewApplication(Paper):
    """What an organisation wants it for, or proposes."""

    org: str = Field(max_length=64)


class NewReview(Body):
    """A score from 0 to 100 and why."""

    score: int = Field(ge=0, le=100)
    text: str = Field(min_length=1, max_length=4000, pattern=r"\S")
