"""What the pack contributes beside its declarations; nothing where the house has left the pack out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tulou.kernel.hookspecs import hookimpl

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from tulou.kernel.house import House, Task

NAME = "ecology"

POLICIES = """
// Assessments are of whoever sees the stations; days are derived again by the stewards of the whole house.
permit (principal, action, resource)
when {
  context.active && context.engine == "ecology" && context.thing == "assessment" && context.verb == "read" &&
  context.roles.containsAny(["steward", "operator", "analyst", "viewer"])
};

permit (principal, action, resource)
when {
  context.active && context.engine == "ecology" && context.thing == "derivation" && context.verb == "create" &&
  context.roles.contains("steward")
};

// Drafts of warnings are of the organisation: operators write them, approvers sign; what is published is for everyone who is signed in.
permit (principal, action, resource)
when {
  context.active && context.engine == "ecology" && context.thing == "warning" && context.verb == "read" &&
  context.roles.containsAny(["steward", "operator", "approver"])
};

permit (principal, action, resource)
when {
  context.active && context.engine == "ecology" && context.thing == "warning" && context.verb == "create" &&
  context.roles.contains("operator")
};

permit (principal, action, resource)
when {
  context.active && context.engine == "ecology" && context.thing == "warning" && context.verb == "approve" &&
  context.roles.contains("approver")
};

permit (principal, action, resource)
when {
  context.active && context.engine == "ecology" && context.thing == "published" && context.verb == "read" &&
  ["user", "token"].contains(context.kind)
};
"""


def _here(house: House) -> bool:
    return NAME in house.packs.packs


@hookimpl
def policies() -> str:
    """Who may read assessments and have days derived again."""
    return POLICIES


@hookimpl
def migrations() -> Path:
    """The pack's tables."""
    return Path(__file__).parent / "migrations"


@hookimpl
def services(house: House) -> Sequence[object]:
    """`Ecology`, `Warnings`."""
    from tulou.packs.ecology.service import Ecology
    from tulou.packs.ecology.warnings import Warnings

    return [Ecology(house), Warnings(house)] if _here(house) else []


@hookimpl
def routes(house: House) -> Sequence[BaseRoute]:
    """`/api/v1/ecology`."""
    from tulou.packs.ecology.routes import routes as ecology_routes

    return ecology_routes(house) if _here(house) else []


@hookimpl
def tasks(house: House) -> Sequence[Task]:
    """What derives readings, beside the writer."""
    from tulou.kernel.house import Task
    from tulou.packs.ecology.service import keep_deriving

    return [Task("ecology.derive", "writer", keep_deriving)] if _here(house) else []


@hookimpl
def systems() -> Mapping[str, tuple[str, str, str, str]]:
    """The systems that the pack serves, and how far."""
    return {
        "F7.1": (
            "partial", "空气、地表水、污染源与噪声站经 HJ 212 接入，按标准判定有效性并计算 AQI、水质类别与昼夜声级，捕获率；无质控任务单",
            "stations of air, surface water, pollution sources and noise over HJ 212; validity, AQI, classes of water and levels by "
            "day and night by the standards, capture rates; no quality-control work orders", "tests/packs/test_ecology.py",
        ),
        "F7.3": (
            "partial", "地表水单因子类别与主要污染物、城市空气排名；趋势、超标溯源、绿盈乡村评分未接入",
            "classes of surface water and their main pollutants, ranking of cities by air; trends, attribution upstream and green "
            "villages are not connected", "tests/packs/test_ecology.py",
        ),
    }
