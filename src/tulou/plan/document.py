"""The plan as a document: its tasks, systems, targets and first definitions, read from a pack.

Law: pure data, checked when it is read. Every reference (agency, system, section) must exist, every system belongs to
exactly one task or to the safeguards, and an error names the file, the place in it and the rule.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from tulou.kernel.errors import Invalid
from tulou.kernel.packs import Pack, Packs
from tulou.plan.queries import Definition, Strict

T = TypeVar("T")

SystemId = Annotated[str, Field(pattern=r"^[A-Z]\d{1,2}(\.\d{1,2})?$")]
TaskId = Annotated[str, Field(pattern=r"^[A-Z]\d{1,2}$")]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]


class System(Strict):
    """A system that the plan names: the job that makes it real, its room in the house, the standard at its door, and
    who outside the house says that it works."""

    id: SystemId
    title_zh: str
    title_en: str
    job_zh: str
    job_en: str
    rooms: list[str] = Field(min_length=1)
    door: str = ""
    check_en: str = ""
    check_zh: str = ""

    @model_validator(mode="after")
    def _named_alike(self) -> System:
        """A check that is only a proper name is written once."""
        return self if self.check_zh else self.model_copy(update={"check_zh": self.check_en})


class Task(Strict):
    """One of the plan's tasks, with the agencies that lead it."""

    id: TaskId
    title_zh: str
    title_en: str
    summary_zh: str
    summary_en: str
    agencies: list[str] = Field(min_length=1)
    systems: list[System] = Field(min_length=1)


class Target(Strict):
    """A number the plan promises. `goal` is in `unit`; `weight` is its share in its task's score."""

    id: Slug
    task: TaskId
    systems: list[SystemId] = Field(min_length=1)
    title_zh: str
    title_en: str
    unit_zh: str
    unit_en: str
    goal: Decimal = Field(gt=0)
    compare: Literal[">=", ">"] = ">="
    deadline: dt.date | None = None
    lead: str
    weight: int = Field(1, ge=1, le=100)
    definition: Definition

    def met(self, value: Decimal) -> bool:
        """Whether `value` (in the target's unit) reaches the goal."""
        return value > self.goal if self.compare == ">" else value >= self.goal


class Section(Strict):
    """A section of the plan; its tasks' ids begin with `letter`."""

    id: Slug
    letter: str = Field(pattern=r"^[A-Z]$")
    title_zh: str
    title_en: str


class Head(Strict):
    """What the plan is; `organisation` is the one that the plan and its figures belong to."""

    id: Slug
    title_zh: str
    title_en: str
    issuer_zh: str
    issuer_en: str
    issued: dt.date
    published: dt.date
    ends: dt.date
    organisation: str
    sections: list[Section] = Field(min_length=1)


class Plan(BaseModel):
    """The whole plan. `tasks` and `targets` are in the plan's order."""

    head: Head
    version: str
    tasks: dict[str, Task]
    sections: dict[str, str]
    safeguards: list[System]
    targets: dict[str, Target]

    @cached_property
    def systems(self) -> dict[str, System]:
        """Every system by id, the safeguards last."""
        found = {system.id: system for task in self.tasks.values() for system in task.systems}
        return {**found, **{system.id: system for system in self.safeguards}}

    def targets_of(self, task: str) -> list[Target]:
        """The targets of a task, in the plan's order."""
        return [target for target in self.targets.values() if target.task == task]

    def deadline(self, target: Target) -> dt.date:
        """The day by which the target is due."""
        return target.deadline or self.head.ends


def holder(packs: Packs) -> Pack:
    """The one pack that has a data file `plan`."""
    holders = [pack for pack in packs.packs.values() if "plan" in pack.data]
    if len(holders) != 1:
        names = ", ".join(pack.name for pack in holders) or "none"
        raise Invalid(
            f"应当恰好有一个包提供计划，现有：{names}", f"exactly one pack must hold the plan, found: {names}",
            field="packs", value=names, rule="exactly one",
        )
    return holders[0]


def load_plan(packs: Packs) -> Plan:
    """The plan of the house. Raises `Invalid` naming file, place and rule."""
    pack = holder(packs)
    head = _read(pack, "plan", TypeAdapter(Head))
    tasks: dict[str, Task] = {}
    sections: dict[str, str] = {}
    for section in head.sections:
        for task in _read(pack, section.id, TypeAdapter(list[Task])):
            _rule(pack, section.id, task.id not in tasks, f"{task.id}.id", task.id, "unique task id")
            _rule(pack, section.id, task.id[0] == section.letter, f"{task.id}.id", task.id, f"begins with {section.letter}")
            tasks[task.id] = task
            sections[task.id] = section.id
    safeguards = _read(pack, "safeguards", TypeAdapter(list[System]))
    targets: dict[str, Target] = {}
    for target in _read(pack, "targets", TypeAdapter(list[Target])):
        _rule(pack, "targets", target.id not in targets, f"{target.id}.id", target.id, "unique target id")
        targets[target.id] = target
    plan = Plan(
        head=head, version=pack.version, tasks=tasks, sections=sections, safeguards=safeguards, targets=targets
    )
    _check_references(pack, plan, {o.id for p in packs.packs.values() for o in p.organisations}, packs.models)
    return plan


def _check_references(pack: Pack, plan: Plan, organisations: set[str], models: Mapping[str, Any]) -> None:
    _rule(pack, "plan", plan.head.organisation in organisations, "organisation", plan.head.organisation, "known organisation")
    seen: set[str] = set()
    for task in plan.tasks.values():
        file = plan.sections[task.id]
        for agency in task.agencies:
            _rule(pack, file, agency in organisations, f"{task.id}.agencies", agency, "known organisation")
        for system in task.systems:
            _rule(pack, file, system.id.startswith(f"{task.id}."), f"{system.id}.id", system.id, f"begins with {task.id}.")
            _rule(pack, file, system.id not in seen, f"{system.id}.id", system.id, "unique system id")
            seen.add(system.id)
    for system in plan.safeguards:
        _rule(pack, "safeguards", system.id not in seen, f"{system.id}.id", system.id, "unique system id")
        seen.add(system.id)
    for target in plan.targets.values():
        at = target.id
        held = plan.tasks.get(target.task)
        _rule(pack, "targets", held is not None, f"{at}.task", target.task, "known task")
        assert held is not None
        _rule(pack, "targets", target.lead in held.agencies, f"{at}.lead", target.lead, f"leads task {held.id}")
        for system_id in target.systems:
            own = any(system.id == system_id for system in held.systems)
            _rule(pack, "targets", own, f"{at}.systems", system_id, f"a system of task {held.id}")
        query = target.definition.query
        if not isinstance(query, str) and query.projects is not None:
            _rule(pack, "targets", query.projects.target == at, f"{at}.definition.query.projects", query.projects.target, "the target itself")
        for problem in target.definition.problems(models):
            _rule(pack, "targets", False, f"{at}.definition.{problem.field}", problem.value, problem.rule)


def _read(pack: Pack, name: str, adapter: TypeAdapter[T]) -> T:
    data = pack.read(name)
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(_place(data, first["loc"]))
        raise _broken(pack, name, place, first.get("input"), first["msg"]) from None


def _place(data: Any, path: Iterable[int | str]) -> Iterable[str]:
    """The path of an error, list items named by their id where they have one."""
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
            yield str(part)
        else:
            data = data[part] if isinstance(data, list) and isinstance(part, int) and part < len(data) else None
            yield str(data["id"]) if isinstance(data, dict) and "id" in data else str(part)


def _rule(pack: Pack, name: str, holds: bool, field: str, value: object, rule: str) -> None:
    if not holds:
        raise _broken(pack, name, field, value, rule)


def _broken(pack: Pack, name: str, field: str, value: object, rule: str) -> Invalid:
    path = pack.folder / pack.data.get(name, name)
    return Invalid(
        f"{path} 的 {field}：值 {value!r} 不合规则“{rule}”", f"{path}: {field}: {value!r} breaks the rule: {rule}",
        field=field, value=value, rule=rule,
    )
