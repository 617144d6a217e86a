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
  context.active && context.engine == "plan" && context.verb == "read" &&
  !["report", "project", "draft", "appeal", "application"].contains(context.thing) &&
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
    return [
        plans, projects, evaluations, Reports(house, plans, projects, evaluations), Overviews(house, plans, projects),
        Openings(house, plans.org),
    ]


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
            "works",
            "25 项任务、牵头单位、21 个目标的口径、上报与第二人复核、可重算的计分；年度考评按公布的办法计算、可申诉、可重算；报告为 Word 和 PDF",
            "25 tasks, lead agencies, definitions of 21 targets, reports with a second person, recomputable scores; an annual evaluation by a "
            "published formula with appeal and recomputation; the report in Word and PDF",
            "tests/plan/test_evaluation.py",
        ),
        "G2": (
            "partial",
            "杆塔、管道、机房、站址开放登记，由近及远查找，他方申请、权属方裁定，不重复出让；按人口估需求尚未做",
            "towers, ducts, poles, rooms and sites are opened to others and found nearest first, applied for and decided on, no place given twice; "
            "no demand by population yet",
            "tests/plan/test_openings.py",
        ),
        "G3": (
            "partial",
            "项目用地、用能指标的获批与使用逐笔记入账簿；电力交易准入规则尚未做",
            "quotas of land and energy of projects, granted and used, entry by entry in the ledger; no eligibility rules for the power market yet",
            "tests/plan/test_projects.py",
        ),
        "G4": (
            "works",
            "应用场景征集：多人评分评审后裁定，双方可见；首用由入选的申请登记",
            "scenarios are called for, reviewed with scores by several, decided; first uses are the applications that were accepted",
            "tests/plan/test_openings.py",
        ),
        "G5": (
            "works",
            "项目资金按来源（预算、专项债、PPP、REITs、自有、贷款）计划、落实、到位、支出，每笔经第二人复核后记入复式账簿；里程碑附证据复核",
            "funds of projects by source (budget, special bonds, PPP, REIT, own, loans), planned, committed, received and spent, each "
            "movement approved by a second person and booked by double entry; milestones with evidence",
            "tests/kernel/test_ledger.py",
        ),
    }


async def keep_measuring(house: House) -> None:
    """Measure every target again and again; a failure is logged and tried again by the house."""
    plans = house.service(Plans)
    while True:
        began = time.monotonic()
        await plans.measure_due()
        await plans.refresh_figures()
        await asyncio.sleep(max(PERIOD, 20 * (time.monotonic() - began)))
