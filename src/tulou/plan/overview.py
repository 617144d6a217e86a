"""The plan in one answer: of one task, and of everything for a screen on the wall.

Law: each part is what the service that owns it answers to this actor; where he may see none, the part is null and not empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tulou.kernel.errors import NotFound
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow, within
from tulou.kernel.workflows.service import document
from tulou.kernel.workflows.tables import items
from tulou.plan.evaluation.inputs import SUPERVISION
from tulou.plan.evaluation.models import plan_evaluations
from tulou.plan.models import moment
from tulou.plan.projects import Projects
from tulou.plan.service import Plans

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ_ITEMS = "workflow.item.read"
SHOWN = 12
"""Most late milestones, and most late items, on a screen."""


class Overviews:
    """The plan by task, and as a whole."""

    def __init__(self, house: House, plans: Plans, projects: Projects) -> None:
        self.db, self.policy = house.db, house.policy
        self.plans, self.projects = plans, projects

    @operation("plan.task.read")
    async def task(self, actor: Actor, task_id: str) -> dict[str, Any]:
        """A task as in `Plans.tasks`, with its score, its `items` (supervision, newest 100) and what its projects are together
        (`projects`)."""
        self.policy.require(actor, "plan.task.read", self.plans.org)
        task = next((one for one in await self.plans.tasks(actor) if one["id"] == task_id), None)
        if task is None:
            raise NotFound(f"没有任务 {task_id}", f"there is no task {task_id}", field="task", value=task_id)
        scored = next(one for one in (await self.plans.score(actor))["tasks"] if one["id"] == task_id)
        found = await self._projects(actor)
        mine = items.c.fields["task"].as_string() == task_id
        return {
            **task, "score": scored["score"], "items": await self._items(actor, mine, 100),
            "projects": None if found is None else found["tasks"].get(task_id),
        }

    @operation("plan.score.read")
    async def screen(self, actor: Actor) -> dict[str, Any]:
        """Everything that a screen on the wall shows of the plan: `{at, score, counts, met, systems, tasks, targets, projects, late_milestones,
        late_items, evaluation}`."""
        self.policy.require(actor, "plan.score.read", self.plans.org)
        scored = await self.plans.score(actor)
        found = await self._projects(actor)
        by_task = (found or {}).get("tasks", {})
        titles = self.plans.plan
        rows = {row["id"]: row for task in scored["tasks"] for row in task["targets"]}
        return {
            "at": moment(utcnow()), "score": scored["score"], "counts": scored["counts"], "met": sum(row["met"] for row in rows.values()),
            "systems": self.plans.figures["systems"],
            "tasks": [{
                "id": one["id"], "title_zh": titles.tasks[one["id"]].title_zh, "title_en": titles.tasks[one["id"]].title_en, "score": one["score"],
                "projects": by_task.get(one["id"], {}).get("projects", 0), "late": by_task.get(one["id"], {}).get("late", 0),
            } for one in scored["tasks"]],
            "targets": [{
                "id": key, "title_zh": one.title_zh, "title_en": one.title_en, "unit_zh": one.unit_zh, "unit_en": one.unit_en,
                **{name: rows[key][name] for name in ("goal", "compare", "value", "state", "achievement", "met")},
            } for key, one in titles.targets.items()],
            "projects": None if found is None else {name: value for name, value in found.items() if name != "tasks"},
            "late_milestones": None if found is None else await self.projects.late(actor, limit=SHOWN),
            "late_items": await self._items(actor, sa.and_(items.c.final.is_(False), items.c.level > 0), SHOWN),
            "evaluation": await self._evaluation(),
        }

    async def _projects(self, actor: Actor) -> dict[str, Any] | None:
        return await self.projects.overview(actor) if self.policy.visible(actor, "plan.project.read") else None

    async def _items(self, actor: Actor, which: sa.ColumnElement[bool], limit: int) -> list[dict[str, Any]] | None:
        orgs = self.policy.visible(actor, READ_ITEMS)
        if not orgs:
            return None
        query = sa.select(items).where(items.c.workflow == SUPERVISION, which, *within(items.c.org, orgs)).order_by(items.c.no.desc()).limit(limit)
        return [document(row) for row in await self.db.read(lambda c: c.execute(query).all())]

    async def _evaluation(self) -> dict[str, Any] | None:
        """The last one in force, by its head."""
        of = plan_evaluations.c
        query = sa.select(of.year, of.version, of.state).where(of.state.in_(("published", "final"))).order_by(of.year.desc()).limit(1)
        row = await self.db.read(lambda c: c.execute(query).first())
        return None if row is None else {"year": row.year, "version": row.version, "state": row.state}
