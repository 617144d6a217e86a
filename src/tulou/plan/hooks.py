"""What the plan engine contributes to the house."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.workflows import Workflows
from tulou.plan.document import holder
from tulou.plan.evaluation import Evaluations
from tulou.plan.evaluation.formula import load
from tulou.plan.evaluation.inputs import SUPERVISION
from tulou.plan.facts import MeasuredFacts
from tulou.plan.openings import Openings
from tulou.plan.overview import Overviews
from tulou.plan.projects import Projects
from tulou.plan.report import Reports
from tulou.plan.service import Plans

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from tulou.kernel.house import House, Task

log = logging.getLogger("tulou.plan")

PERIOD = 15.0
"""Seconds between measurements; a slow one waits longer, so that measuring takes at most a twentieth of the time."""

POLICIES = """
// The plan and its figures are open to everyone who is signed in; reports and their evidence are not.
permit (principal, action, resource)
when {
  context.active && context.engine == "plan" && context.verb == "read" && !["report", "project", "draft", "appeal", "application"].contains(context.thing) &&
  ["user", "token"].contains(context.kind)
};

// Projects, their milestones and funds: whoever has a role in the organisation that leads them.
permit (principal, action, resource)
when {
  context.active && context.engine == "plan" && context.thing == "project" && context.verb == "read" &&
  context.roles.containsAny(["steward", "operator", "analyst", "viewer", "auditor", "reporter", "approver"])
};

permit (principal, action, resource)
when {
  context.active && context.engine == "plan" && context.thing == "project" && context.verb == "create" &&
  context.roles.contains("reporter")
};

permit (principal, action, resource)
when {
  context.active && context.engine == "plan" && context.thing == "project" && context.verb == "approve" &&
  context.roles.contains("approver")
};

permit (principal, action, resource)
when {
  context.active && context.engine == "plan" && context.thing == "report" && context.verb == "read" &&
  context.roles.containsAny(["reporter", "approver", "steward", "auditor"])
};

permit (principal, action, resource)
when {
  context.active && context.engine == "plan" && context.thing == "report" && context.verb == "create" &&
  context.roles.contains("reporter")
};

permit (principal, action, resource)
when {
  context.active && context.engine == "plan" && context.thing == "report" && context.verb == "approve" &&
  context.roles.contains("approver")
};

permit (principal, action, resource)
when {
  context.active && context.engine == "plan" && ["definition", "measurement", "score", "evaluation"].contains(context.thing) &&
  context.verb == "create" && context.roles.contains("steward")
};

// Evaluations and openings are published to everyone; drafts, appeals and applications are not.
permit (principal, action, resource)
when {
  context.active && context.engine == "plan" && ["draft", "appeal", "application"].contains(context.thing) && context.verb == "read" &&
  context.roles.containsAny(["reporter", "approver", "steward", "auditor"])
};

permit (principal, action, resource)
when {
  context.active && context.engine == "plan" && ["appeal", "application", "opening"].contains(context.thing) && context.verb == "create" &&
  context.roles.contains("reporter")
};

permit (principal, action, resource)
when {
  context.active && context.engine == "plan" && ["evaluation", "appeal", "application"].contains(context.thing) && context.verb == "approve" &&
  context.roles.contains("approver")
};
"""


@hookimpl
def policies() -> str:
    """Who may read the plan, report, approve and define."""
    return POLICIES


@hookimpl
def migrations() -> Path:
    """The plan's tables."""
    return Path(__file__).parent / "migrations"


@hookimpl
def services(house: House) -> Sequence[object]:
    """`Plans`, `Projects`, `Evaluations`, `Reports`, `Overviews`, `Openings`."""
    plans = Plans(house, MeasuredFacts(house), house.hooks.hook.systems)
    formulas = load(holder(house.packs))
    workflow = house.service(Workflows).definitions.get(SUPERVISION)
    projects = Projects(house, plans.plan)
    evaluations = Evaluations(house, plans, formulas, workflow)
    return [plans, projects, evaluations, Reports(house, plans, projects, evaluations), Overviews(house, plans, projects), Openings(house, plans.org)]


@hookimpl
def routes(house: House) -> Sequence[BaseRoute]:
    """`/api/v1/plan`."""
    from tulou.plan.evaluation.routes import routes as evaluation_routes
    from tulou.plan.openings.routes import routes as opening_routes
    from tulou.plan.projects.routes import routes as project_routes
    from tulou.plan.report.routes import routes as report_routes
    from tulou.plan.routes import routes as plan_routes

    return [*plan_routes(house), *project_routes(house), *evaluation_routes(house), *report_routes(house), *opening_routes(house)]


@hookimpl
def tasks(house: House) -> Sequence[Task]:
    """The periodic measurement, where the readings store and the directory are."""
    from tulou.kernel.house import Task

    return [Task("plan.measure", "api", keep_measuring)]


@hookimpl
def status(house: House) -> Mapping[str, Any]:
    """Counts of targets and systems, for the cockpit."""
    figures = house.service(Plans).figures
    return {"plan.targets": figures["targets"], "plan.systems": figures["systems"]}


@hookimpl
async def started(house: House) -> None:
    """Store the pack's definitions; the gateway leaves that to the main process."""
    if house.roles and not {"api", "writer"} & set(house.roles):
        return
    added = await house.service(Plans).seed()
    await house.service(Plans).refresh_figures()
    if added:
        log.info("%d definitions of targets are new", added)


@hookimpl
def systems() -> Mapping[str, tuple[str, str, str, str]]:
    """The systems that this engine serves."""
    return {
        "G1": (
            "partial",
            "25 项任务、牵头单位、21 个目标的口径、上报与第二人复核、可重算的计分；申诉尚未做",
            "25 tasks, lead agencies, definitions of 21 targets, reports with a second person, recomputable scores; "
            "no appeal yet",
            "tests/plan/test_service.py",
        )
    }


async def keep_measuring(house: House) -> None:
    """Measure every target again and again; a failure is logged and tried again by the house."""
    plans = house.service(Plans)
    while True:
        began = time.monotonic()
        await plans.measure_due()
        await plans.refresh_figures()
        await asyncio.sleep(max(PERIOD, 20 * (time.monotonic() - began)))
