"""The operation that makes the report, from what the plan's other services answer as of a moment.

Law: the reader gets what he may see: projects are those of his organisations, and the report says so where there are none.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from tulou.kernel.errors import Invalid
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow
from tulou.plan.evaluation import Evaluations
from tulou.plan.evaluation.inputs import bounds
from tulou.plan.evaluation.models import plan_evaluations
from tulou.plan.models import moment
from tulou.plan.projects import Projects
from tulou.plan.report.content import Document, Figures, Language, build
from tulou.plan.report.pdf import pdf
from tulou.plan.report.word import word
from tulou.plan.service import Plans

if TYPE_CHECKING:
    from tulou.kernel.house import House

Format = Literal["pdf", "docx"]
MEDIA = {"pdf": "application/pdf", "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document"}
LATES = 40
"""Most late milestones that a report lists."""


class Reports:
    """Reports of the plan."""

    def __init__(self, house: House, plans: Plans, projects: Projects, evaluations: Evaluations) -> None:
        self.db, self.policy = house.db, house.policy
        self.plans, self.projects, self.evaluations = plans, projects, evaluations
        self.fonts = house.settings.report_fonts

    @operation("plan.score.read")
    async def content(self, actor: Actor, language: Language, at: dt.datetime | None = None, year: int | None = None) -> Document:
        """The report as of `at`, or of a whole `year` up to its end or now, with the year's evaluation."""
        self.policy.require(actor, "plan.score.read", self.plans.org)
        now = utcnow()
        when = min(bounds(year)[1], now) if year is not None else at or now
        if when > now or (year is not None and bounds(year)[0] > now):
            raise Invalid("不能报告将来", "as_of must not be in the future", field="as_of", value=moment(when), rule="<= now")
        head, names = self.plans.plan.head, self.plans.names
        sees = bool(self.policy.visible(actor, "plan.project.read"))
        tasks = await self.plans.tasks(actor)
        return build(language, Figures(
            plan={"title_zh": head.title_zh, "title_en": head.title_en}, at=when, score=await self.plans.score(actor, when), tasks=tasks,
            targets={one["id"]: one for one in await self.plans.targets(actor)},
            names={org: {"name_zh": text.zh, "name_en": text.en} for org, text in names.items()},
            systems=self.plans.figures["systems"], projects=await self.projects.overview(actor, when) if sees else None,
            lates=await self.projects.late(actor, when, LATES) if sees else [], evaluation=await self._evaluation(actor, when, year),
        ))

    async def _evaluation(self, actor: Actor, when: dt.datetime, year: int | None) -> dict[str, Any] | None:
        """The evaluation of the year that is in force, or the last that was published by the moment."""
        of = plan_evaluations.c
        which = of.year == year if year is not None else of.published_at <= when
        query = sa.select(of.year, of.version).where(of.published_at.is_not(None), which).order_by(of.year.desc(), of.version.desc()).limit(1)
        row = await self.db.read(lambda c: c.execute(query).first())
        return None if row is None else await self.evaluations.evaluation(actor, row.year, row.version)

    @operation("plan.score.read")
    async def make(
        self, actor: Actor, form: Format, language: Language, at: dt.datetime | None = None, year: int | None = None
    ) -> tuple[str, bytes, str]:
        """The report as a file: its name, content and media type. Raises `Unavailable` where the extra `reports` or a font is missing."""
        document = await self.content(actor, language, at, year)
        made = utcnow()
        content = await asyncio.to_thread(lambda: pdf(document, made, self.fonts) if form == "pdf" else word(document, made))
        day = made.strftime("%Y%m%d") if year is None else str(year)
        return f"{document.title}-{day}.{form}", content, MEDIA[form]
