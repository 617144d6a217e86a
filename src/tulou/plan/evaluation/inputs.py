"""The inputs of an evaluation, read from what the house holds: targets, milestones, funds and supervision items of a year.

Law: what is read is a fact of the year up to a moment: the year's end, or now while it runs. Synthetic projects are never read. A document
is published, so it holds numbers, days and sums, which make the score, and no titles or words of projects and items.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tulou.kernel import ledger
from tulou.kernel.ledger import FUJIAN
from tulou.kernel.workflows import Workflow
from tulou.kernel.workflows.tables import items, steps
from tulou.plan.document import Plan
from tulou.plan.evaluation.formula import Formula, recomputed
from tulou.plan.models import moment
from tulou.plan.projects import funds
from tulou.plan.projects.models import plan_milestones, plan_projects
from tulou.plan.scores import Standing, number

SUPERVISION = "supervision"
"""The workflow whose items are kept in time or not."""


def bounds(year: int) -> tuple[dt.datetime, dt.datetime]:
    """The first moment of the year in Fujian, and its last microsecond."""
    first = dt.datetime(year, 1, 1, tzinfo=FUJIAN)
    return first.astimezone(dt.UTC), (first.replace(year=year + 1) - dt.timedelta(microseconds=1)).astimezone(dt.UTC)


def document(
    connection: sa.Connection, plan: Plan, formula: Formula, year: int, at: dt.datetime, standings: Mapping[str, Standing],
    workflow: Workflow | None, within: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """The evaluation of `year` up to `at`, scored. `within`: organisation -> itself and those above it."""
    marks, money = _milestones(connection, year, at), _funds(connection, at)
    supervised = _items(connection, year, at, workflow)
    agencies = sorted({org for task in plan.tasks.values() for org in task.agencies})
    targets = [{
        "id": one.id, "task": one.task, "lead": one.lead, "weight": one.weight, "goal": number(one.goal), "value": number(standings[one.id].value),
        "state": standings[one.id].state, "source": standings[one.id].source,
    } for one in plan.targets.values()]

    def row(name: str, mine: Any) -> dict[str, Any]:
        return {
            "id": name, "targets": [_without(one, "task", "lead") for one in targets if mine(one["lead"], one["task"])],
            **{what: [_without(one, "org", "task") for one in rows if mine(one["org"], one["task"])]
               for what, rows in (("milestones", marks), ("funds", money), ("items", supervised))},
        }

    return recomputed({
        "method": formula.id, "formula": formula.model_dump(mode="json", by_alias=True), "plan": plan.head.id, "pack": plan.version, "year": year,
        "as_of": moment(at), "adjustments": [],
        "agencies": [row(agency, lambda org, _task, agency=agency: agency in within.get(org, (org,))) for agency in agencies],
        "tasks": [row(task, lambda _org, own, task=task: own == task) for task in plan.tasks],
    })


def _without(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in names}


def _milestones(connection: sa.Connection, year: int, at: dt.datetime) -> list[dict[str, Any]]:
    """Those that were due in the year, up to the day."""
    of, project = plan_milestones.c, plan_projects.c
    rows = connection.execute(
        sa.select(of.no, of.project, of.due, of.state, of.done_on, project.org, project.task).join(plan_projects, project.no == of.project)
        .where(project.synthetic.is_(False), of.due >= dt.date(year, 1, 1), of.due <= min(dt.date(year, 12, 31), at.astimezone(FUJIAN).date()))
        .order_by(of.no)
    )
    return [{
        "no": row.no, "project": row.project, "due": row.due.isoformat(),
        "done_on": row.done_on.isoformat() if row.state == "done" else None, "org": row.org, "task": row.task,
    } for row in rows]


def _funds(connection: sa.Connection, at: dt.datetime) -> list[dict[str, Any]]:
    """Fen planned and spent of every project, up to the moment."""
    by_project: dict[int, list[ledger.Balance]] = {}
    for one in ledger.balances(connection, ledger.accounts.c.engine == funds.ENGINE, at):
        by_project.setdefault(int(one.code.split("/")[1]), []).append(one)
    rows = connection.execute(sa.select(plan_projects).where(plan_projects.c.synthetic.is_(False)).order_by(plan_projects.c.no))
    found = []
    for row in rows:
        total = funds.figures(by_project.get(row.no, []))["total"]
        if total["planned"] or total["spent"]:
            found.append({"project": row.no, "planned": total["planned"], "spent": total["spent"], "org": row.org, "task": row.task})
    return found


def _items(connection: sa.Connection, year: int, at: dt.datetime, workflow: Workflow | None) -> list[dict[str, Any]]:
    """Supervision items that were made in the year, and whether any was in a state longer than its deadline."""
    if workflow is None:
        return []
    first, last = bounds(year)
    mine = sa.and_(items.c.workflow == SUPERVISION, items.c.created_at >= first, items.c.created_at <= min(last, at))
    rows = connection.execute(sa.select(items).where(mine).order_by(items.c.no)).all()
    made: dict[int, list[Any]] = {}
    for step in connection.execute(
        sa.select(steps.c.item, steps.c.target, steps.c.at).join(items, items.c.no == steps.c.item).where(mine, steps.c.at <= at)
        .order_by(steps.c.item, steps.c.number)
    ):
        made.setdefault(step.item, []).append(step)
    return [{
        "no": row.no, "late": late(workflow, made[row.no], at), "org": row.org, "task": str(row.fields.get("task", "")),
    } for row in rows if row.state != "withdrawn"]


def late(workflow: Workflow, made: Sequence[Any], at: dt.datetime) -> bool:
    """Whether an item with these steps (`target`, `at`) was in a state longer than the state's first deadline."""
    for number_, step in enumerate(made):
        state = workflow.states.get(step.target)
        allowed = min((one.after_s for one in state.deadlines if one.then is None), default=None) if state else None
        left = made[number_ + 1].at if number_ + 1 < len(made) else at
        if allowed is not None and (left - step.at).total_seconds() > allowed:
            return True
    return False
