"""Tables and request bodies of projects.

Law: a milestone is due when it was set to be, and done when somebody else than who reported it says so. A movement of money or quota is
submitted by one person and approved by another; only then is it an entry of the ledger. The store refuses a self-approval too.
"""

from __future__ import annotations

import datetime as dt
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Any, Literal, Self

import sqlalchemy as sa
from pydantic import AwareDatetime, Field, model_validator

from tulou.kernel.ledger.service import LARGEST
from tulou.kernel.packs import broken
from tulou.kernel.sql import BigId, UtcDateTime, metadata
from tulou.plan.papers import Body, Paper

SOURCES = ("budget", "special_bonds", "ppp", "reit", "own", "loans")
"""Where money comes from: budgets, local governments' special bonds, public-private partnership, infrastructure REITs, own funds, loans."""
USES = ("land", "works", "equipment", "software", "services", "other")
STAGES = ("planned", "committed", "received", "spent")
RESOURCES = {"land": "m2", "energy": "tce"}
MU = Decimal(2000) / 3
"""Square metres of a mu: 10,000 m² are 15 mu."""
TCE_PER_KWH = Decimal("0.0001229")
"""Tonnes of coal equivalent of a kilowatt-hour by its heat (GB/T 2589-2020, table A.1)."""

Source = Literal["budget", "special_bonds", "ppp", "reit", "own", "loans"]
Use = Literal["land", "works", "equipment", "software", "services", "other"]

_SUBMITTED = (
    sa.Column("evidence_text", sa.Text), sa.Column("evidence_name", sa.String(255)),
    sa.Column("evidence_sha256", sa.String(64), sa.ForeignKey("plan_evidence.sha256")),
    sa.Column("submitted_by", sa.String(128)), sa.Column("submitted_name", sa.String(200)), sa.Column("submitted_at", UtcDateTime),
    sa.Column("decided_by", sa.String(128)), sa.Column("decided_name", sa.String(200)), sa.Column("decided_at", UtcDateTime),
    sa.Column("note", sa.Text),
)


def _paper() -> list[sa.Column[Any]]:
    return [column._copy() for column in _SUBMITTED]


plan_projects = sa.Table(
    "plan_projects", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("org", sa.String(64), sa.ForeignKey("organisations.id"), nullable=False),
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
    sa.CheckConstraint("ends >= starts", name="ends_after_start"),
    sa.Index("uq_plan_projects_org_code", "org", "code", unique=True),
    sa.Index("ix_plan_projects_task_no", "task", "no"),
)
"""`org` leads the project; `target` is the target to which it counts once it is finished."""

plan_milestones = sa.Table(
    "plan_milestones", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("project", BigId, sa.ForeignKey("plan_projects.no"), nullable=False),
    sa.Column("title", sa.String(200), nullable=False),
    sa.Column("due", sa.Date, nullable=False),
    sa.Column("final", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("done_on", sa.Date),
    *_paper(),
    sa.CheckConstraint("state IN ('planned', 'reported', 'done')", name="known_state"),
    sa.CheckConstraint("state = 'planned' OR (done_on IS NOT NULL AND length(trim(evidence_text)) > 0)", name="has_evidence"),
    sa.CheckConstraint("decided_by IS NULL OR decided_by <> submitted_by", name="second_person"),
    sa.CheckConstraint("(state = 'done') = (decided_by IS NOT NULL)", name="decided_when_done"),
    sa.Index("uq_plan_milestones_project_title", "project", "title", unique=True),
    sa.Index("ix_plan_milestones_state_due", "state", "due"),
)
"""`final`: with it the project is finished. What was sent back is planned again, and `note` says why."""

plan_movements = sa.Table(
    "plan_movements", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("project", BigId, sa.ForeignKey("plan_projects.no"), nullable=False),
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("source", sa.String(16)),
    sa.Column("use", sa.String(16)),
    sa.Column("resource", sa.String(8)),
    sa.Column("unit", sa.String(8), nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("key", sa.String(100), nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("reverses", BigId, sa.ForeignKey("plan_movements.no")),
    sa.Column("entry", sa.BigInteger, sa.ForeignKey("ledger_entries.no")),
    *_paper(),
    sa.CheckConstraint("state IN ('submitted', 'approved', 'rejected')", name="known_state"),
    sa.CheckConstraint("amount > 0", name="positive"),
    sa.CheckConstraint("length(trim(evidence_text)) > 0", name="has_evidence"),
    sa.CheckConstraint("decided_by IS NULL OR decided_by <> submitted_by", name="second_person"),
    sa.CheckConstraint("(state = 'approved') = (entry IS NOT NULL) AND (state = 'submitted') = (decided_by IS NULL)", name="booked_when_approved"),
    sa.Index("uq_plan_movements_project_key", "project", "key", unique=True),
    sa.Index("ix_plan_movements_project_state", "project", "state", "no"),
)
"""`amount` in the smallest parts of `unit` (fen, 0.01 m², kg of coal equivalent); `entry` is the ledger's once it is approved."""


class NewProject(Body):
    """A project that an organisation leads. Its code is unique in the organisation; the same code again changes the project."""

    org: str = Field(max_length=64)
    code: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")
    task: str = Field(max_length=10)
    title: str = Field(min_length=1, max_length=200, pattern=r"\S")
    summary: str = Field(default="", max_length=4000)
    target: str | None = Field(default=None, max_length=60)
    place: str = Field(default="", max_length=200)
    lon: float | None = Field(default=None, ge=-180, le=180)
    lat: float | None = Field(default=None, ge=-90, le=90)
    starts: dt.date
    ends: dt.date
    synthetic: bool = False

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.ends < self.starts:
            raise broken("ends", "结束日期早于开始日期", "it ends before it starts")
        if (self.lon is None) != (self.lat is None):
            raise broken("place", "经度和纬度须同时给出", "longitude and latitude come together")
        return self


class NewMilestone(Body):
    """What is to be reached by a day. `final`: with it the project is finished."""

    title: str = Field(min_length=1, max_length=200, pattern=r"\S")
    due: dt.date
    final: bool = False


class Reached(Paper):
    """That a milestone was reached, on a day that is not in the future."""

    done_on: dt.date


class NewMovement(Paper):
    """A movement of a project's funds or quotas, for somebody else to approve.

    Funds in `fen`: `planned` (to be spent by `at`), `committed` by its funder, `received`, each of a `source`; `spent` of a source for a
    `use`. Quotas in `quantity` of `unit`: `granted` or `used` of a `resource`, land in m2 or mu, energy in tce or kWh.
    """

    kind: Literal["planned", "committed", "received", "spent", "granted", "used"]
    source: Source | None = None
    use: Use | None = None
    fen: int | None = Field(default=None, gt=0, le=LARGEST)
    resource: Literal["land", "energy"] | None = None
    quantity: Annotated[Decimal, Field(gt=0, lt=Decimal(10) ** 12)] | None = None
    unit: Literal["m2", "mu", "tce", "kWh"] | None = None
    at: AwareDatetime
    key: str = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        money = self.kind in STAGES
        if money and (self.source is None or self.fen is None or self.resource or self.quantity or self.unit):
            raise broken("money", "资金变动须有 source 和 fen", "a movement of funds has a source and fen, and no quantity")
        if (self.kind == "spent") != (self.use is not None):
            raise broken("use", "支出（且只有支出）须有 use", "what is spent, and nothing else, has a use")
        if not money:
            fits = {"land": ("m2", "mu"), "energy": ("tce", "kWh")}.get(self.resource or "", ())
            if self.quantity is None or self.unit not in fits or self.source or self.fen:
                raise broken("quota", "指标变动须有 resource、quantity 和相应的 unit", "a movement of a quota has a resource, a quantity and a unit of it")
            if self.parts()[0] < 1:
                raise broken("quantity", "数量小于最小单位", "less than the smallest part of the unit")
        return self

    def parts(self) -> tuple[int, str]:
        """The amount in the smallest parts of the ledger's unit, and the unit."""
        if self.fen is not None:
            return self.fen, "CNY"
        assert self.quantity is not None
        factor = {"m2": Decimal(100), "mu": MU * 100, "tce": Decimal(1000), "kWh": TCE_PER_KWH * 1000}[self.unit or ""]
        return int((self.quantity * factor).to_integral_value(ROUND_HALF_EVEN)), RESOURCES[self.resource or ""]


class Undo(Paper):
    """That an approved movement was wrong: its reversal, for somebody else to approve."""


class Decisions(Body):
    """What the second person says about papers of one project."""

    papers: list[int] = Field(min_length=1, max_length=500)
    note: str = Field(default="", max_length=4000)
