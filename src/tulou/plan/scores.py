"""Standing and score of targets: what is known at a moment, and what it is worth.

Law: pure and deterministic. A standing is a function of stored definitions, measurements and decided reports and of
the moment asked for; a score is a function of standings. The same inputs give the same bytes, so anyone can recompute
a score from its own document (`recomputed`, `queries.digest`).

Formula (`METHOD`): a target's achievement a = min(1, value / goal), six decimals, half to even; 0 without data. A
task's score = 100 * sum(weight * a) / sum(weight) over its targets, four decimals; a task without targets has none.
The plan's score = the mean of its tasks' scores.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Literal, NamedTuple

from tulou.plan.document import Plan, Target
from tulou.plan.models import moment
from tulou.plan.queries import Definition

METHOD = "tulou-plan-1"
STALE = dt.timedelta(days=7)
"""A measurement older than this no longer speaks for the present."""

State = Literal["measured", "reported", "no_data"]


class DefinitionVersion(NamedTuple):
    """A stored version of a target's definition."""

    version: int
    definition: Definition
    since: dt.datetime
    by: str
    source: str


class Measurement(NamedTuple):
    """A stored result of a definition; `value` is None when no real thing of the kind was registered."""

    id: int
    version: int
    as_of: dt.datetime
    value: Decimal | None
    known: int
    reported: int
    newest: dt.datetime | None


class Report(NamedTuple):
    """An approved report."""

    id: int
    value: Decimal
    as_of: dt.datetime
    decided_at: dt.datetime
    submitted_name: str
    decided_name: str


class Standing(NamedTuple):
    """What is known of a target at a moment. `source` is `measurement:<id>`, `report:<id>` or empty."""

    state: State
    value: Decimal | None
    as_of: dt.datetime | None
    version: int | None
    source: str
    why_zh: str
    why_en: str


def in_force(versions: Iterable[DefinitionVersion], at: dt.datetime) -> DefinitionVersion | None:
    """The highest version that was in force at `at`."""
    return max((v for v in versions if v.since <= at), key=lambda v: v.version, default=None)


def standing(
    versions: Sequence[DefinitionVersion], measurements: Iterable[Measurement], reports: Iterable[Report],
    at: dt.datetime,
) -> Standing:
    """The standing at `at`: a fresh measurement by the definition in force; else the newest report approved by then;
    else no data. Only what was stored by `at` counts."""
    current = in_force(versions, at)
    version = current.version if current else None
    report = max(
        (r for r in reports if r.as_of <= at and r.decided_at <= at),
        key=lambda r: (r.as_of, r.decided_at, r.id), default=None,
    )
    last = max(
        (m for m in measurements if m.version == version and m.as_of <= at), key=lambda m: (m.as_of, m.id), default=None
    )
    if last is not None and last.value is not None and at - last.as_of <= STALE:
        state: State = "reported" if current is not None and current.definition.from_register else "measured"
        return Standing(state, last.value, last.as_of, version, f"measurement:{last.id}", *_measured(last, report, state))
    why_zh, why_en = _unmeasured(current, last)
    if report is not None:
        return Standing(
            "reported", report.value, report.as_of, version, f"report:{report.id}",
            f"上报值：{report.submitted_name} 附证据提交，{report.decided_name} 复核通过。{why_zh}",
            f"Reported: submitted with evidence by {report.submitted_name}, approved by {report.decided_name}. {why_en}",
        )
    return Standing(
        "no_data", None, None, version, "",
        f"{why_zh}也没有经复核的上报值。", f"{why_en} There is no approved report either.",
    )


def _measured(last: Measurement, report: Report | None, state: State) -> tuple[str, str]:
    if state == "reported":
        return (
            f"上报值：项目登记簿中计入本目标的非合成项目 {last.known} 个，其中 {last.reported} 个已完工（完工里程碑附证据上报，经第二人复核；口径第 {last.version} 版）。",
            f"Reported: of {last.known} real projects that the register counts to this target, {last.reported} are finished (the final milestone reported"
            f" with evidence, approved by a second person; definition {last.version}).",
        )
    zh = f"实测值：非合成的同类事物 {last.known} 个，其中 {last.reported} 个按时报送实测数据（口径第 {last.version} 版）。"
    en = (
        f"Measured: {last.known} real things of the kind are registered, of which {last.reported} sent measured readings"
        f" in time (definition {last.version})."
    )
    if report is not None:
        zh += f"另有上报值 {report.value:f}，以实测为准。"
        en += f" A report says {report.value:f}; the measurement stands."
    return zh, en


def _unmeasured(current: DefinitionVersion | None, last: Measurement | None) -> tuple[str, str]:
    if current is None:
        return "当时还没有口径。", "There was no definition at the time."
    if not current.definition.measures:
        return current.definition.note_zh, current.definition.note_en
    if last is None:
        return "还没有按现行口径测量过。", "Nothing has been measured by the present definition yet."
    if last.value is None:
        if current.definition.from_register:
            return "登记簿里还没有计入本目标的项目。", "The register has no project that counts to this target yet."
        return (
            "本系统里没有登记任何非合成的同类事物，无可测量；合成数据不计入。",
            "No real thing of the kind is registered in the house, so there is nothing to measure; synthetic data never counts.",
        )
    return (
        f"最近一次实测在 {moment(last.as_of)}，已超过 {STALE.days} 天，不再代表现状。",
        f"The last measurement, of {moment(last.as_of)}, is older than {STALE.days} days and no longer speaks for the present.",
    )


def achievement(value: Decimal | None, goal: Decimal) -> Decimal:
    """min(1, value / goal), six decimals, half to even; 0 without a value."""
    if value is None:
        return Decimal(0)
    return min(Decimal(1), value / goal).quantize(Decimal("0.000001"), ROUND_HALF_EVEN)


def number(value: Decimal | None) -> int | float | None:
    """The decimal as a JSON number."""
    if value is None:
        return None
    return int(value) if value == value.to_integral_value() else float(value)


def score_document(plan: Plan, standings: Mapping[str, Standing], at: dt.datetime) -> dict[str, Any]:
    """The score at `at` with all of its inputs: `{method, plan, pack, as_of, score, tasks, counts}`."""
    states = [standings[target.id].state for target in plan.targets.values()]
    return recomputed({
        "method": METHOD,
        "plan": plan.head.id,
        "pack": plan.version,
        "as_of": moment(at),
        "tasks": [
            {"id": task.id, "targets": [_input(target, standings[target.id]) for target in plan.targets_of(task.id)]}
            for task in plan.tasks.values()
        ],
        "counts": {state: states.count(state) for state in ("measured", "reported", "no_data")},
    })


def _input(target: Target, now: Standing) -> dict[str, Any]:
    return {
        "id": target.id,
        "weight": target.weight,
        "goal": number(target.goal),
        "compare": target.compare,
        "state": now.state,
        "value": number(now.value),
        "value_as_of": moment(now.as_of) if now.as_of else None,
        "version": now.version,
        "source": now.source,
    }


def _task_score(rows: Sequence[Mapping[str, Any]]) -> Decimal | None:
    weights: int = sum(row["weight"] for row in rows)
    if not weights:
        return None
    total = sum((row["weight"] * Decimal(str(row["achievement"])) for row in rows), Decimal(0))
    return (100 * total / weights).quantize(Decimal("0.0001"), ROUND_HALF_EVEN)


def _plan_score(tasks: Sequence[Mapping[str, Any]]) -> Decimal | None:
    scores = [Decimal(str(task["score"])) for task in tasks if task["score"] is not None]
    if not scores:
        return None
    return (sum(scores, Decimal(0)) / len(scores)).quantize(Decimal("0.0001"), ROUND_HALF_EVEN)


def recomputed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with every achievement, task score and the plan's score computed from its inputs.

    Equal to `document` exactly when the document is right; `digest` of both tells.
    """
    tasks = [_scored(task) for task in document["tasks"]]
    return {**document, "tasks": tasks, "score": number(_plan_score(tasks))}


def _scored(task: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for row in task["targets"]:
        value = None if row["value"] is None else Decimal(str(row["value"]))
        goal = Decimal(str(row["goal"]))
        met = value is not None and (value > goal if row["compare"] == ">" else value >= goal)
        rows.append({**row, "achievement": number(achievement(value, goal)), "met": met})
    return {**task, "targets": rows, "score": number(_task_score(rows))}

