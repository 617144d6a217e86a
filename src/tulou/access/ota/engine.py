"""What a roll-out does next: a pure function of its plan, where it stands, and counts of its devices.

Law: no I/O, no clock, no chance. A device of a later stage is told nothing before the gate of the stage before it
passed. The roll-out is aborted as soon as the failed share of any stage that was reached is above its bound; what is
aborted or done tells nobody anything. What is decided follows from what is stored, so a restart changes nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

DRAFT, RUNNING, PAUSED, ABORTED, DONE = "draft", "running", "paused", "aborted", "done"
"""States of a roll-out."""
WAITING, TOLD, UPDATED, FAILED, WITHDRAWN = "waiting", "told", "updated", "failed", "withdrawn"
"""States of a device in it."""


class Stage(BaseModel):
    """A part of the devices, up to `percent` of all, and the gate behind it: the next stage begins when `wait_s` seconds
    have passed since its last device was told, at least `updated_min` % of its devices are updated, and at most
    `silent_max` % have fallen silent. More than `failed_max` % failed abort the roll-out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    percent: float = Field(gt=0, le=100, allow_inf_nan=False)
    wait_s: float = Field(default=600, ge=0, le=30 * 86400, allow_inf_nan=False)
    updated_min: float = Field(default=95, ge=0, le=100, allow_inf_nan=False)
    failed_max: float = Field(default=5, ge=0, le=100, allow_inf_nan=False)
    silent_max: float = Field(default=5, ge=0, le=100, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Count:
    """The devices of a stage by state. `silent`: those told or updated that were online when they were told and are not
    now. `told_at`: when the last of them was told, in seconds; None while none was."""

    waiting: int = 0
    told: int = 0
    updated: int = 0
    failed: int = 0
    silent: int = 0
    told_at: float | None = None

    @property
    def total(self) -> int:
        return self.waiting + self.told + self.updated + self.failed


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell devices that wait in this stage or an earlier one."""

    stage: int


@dataclass(frozen=True, slots=True)
class Enter:
    """The gate passed: go on with this stage."""

    stage: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Go to `state` (paused or aborted) for a reason, in Chinese and English."""

    state: str
    zh: str
    en: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Every device was told and has ended."""


Action = Tell | Enter | Stop | Finish


def decide(
    stages: Sequence[Stage], device_s: float, state: str, stage: int, counts: Sequence[Count], now: float
) -> Action | None:
    """The next step of a roll-out whose current stage is `stage` (from 0); None: wait. `device_s` is the time limit of a
    device, `counts` are of each stage, times are in seconds."""
    if state not in (RUNNING, PAUSED):
        return None
    for number in range(stage + 1):
        count, most = counts[number], stages[number].failed_max
        if count.failed * 100 > most * count.total:
            return Stop(ABORTED, f"第 {number + 1} 阶段 {count.total} 台中 {count.failed} 台失败，上限 {most:g}%",
                        f"stage {number + 1}: {count.failed} of {count.total} devices failed, at most {most:g} % may")
    if state == PAUSED:
        return None
    if any(count.waiting for count in counts[: stage + 1]):
        return Tell(stage)
    here, gate, last = counts[stage], stages[stage], stage == len(stages) - 1
    if last and any(count.told for count in counts):
        return None
    if here.total and here.told_at is not None:
        if not last and here.updated * 100 < gate.updated_min * here.total:
            if (here.updated + here.told) * 100 >= gate.updated_min * here.total:
                return None
            return Stop(PAUSED, f"第 {stage + 1} 阶段无法达到 {gate.updated_min:g}% 已升级",
                        f"stage {stage + 1} cannot reach {gate.updated_min:g} % updated")
        since = now - here.told_at
        if since < gate.wait_s:
            return None
        if here.silent * 100 > gate.silent_max * here.total:  # a device that restarts is silent for a while
            if since < device_s:
                return None
            return Stop(ABORTED, f"第 {stage + 1} 阶段 {here.total} 台中 {here.silent} 台失联，上限 {gate.silent_max:g}%",
                        f"stage {stage + 1}: {here.silent} of {here.total} devices fell silent, at most "
                        f"{gate.silent_max:g} % may")
    return Finish() if last else Enter(stage + 1)


@dataclass(frozen=True, slots=True)
class Report:
    """What a device says: the firmware that it runs, `fw_state` with a mark of when it was said, `fw_error`."""

    title: str = ""
    version: str = ""
    state: str = ""
    mark: str = ""
    error: str = ""


def judge(
    title: str, version: str, report: Report, before: str, told_for: float, device_s: float
) -> tuple[str, str] | None:
    """What became of a device that was told this firmware `told_for` seconds ago: its state and the error; None: not yet
    known. `before` is the mark that its `fw_state` had then.

    The version that it runs decides. Its word that it is updated counts where it never says what it runs.
    """
    fresh = report.mark != before
    if (report.title, report.version) == (title, version) or (
        fresh and report.state == "UPDATED" and not report.version
    ):
        return UPDATED, ""
    if fresh and report.state == "FAILED":
        return FAILED, report.error or "FAILED"
    if told_for >= device_s:
        return FAILED, f"{device_s:g} 秒内未升级 (not updated within {device_s:g} s)"
    return None


def staged(devices: Iterable[str], seed: str, stages: Sequence[Stage]) -> dict[str, int]:
    """The stage of each device: the order is that of a hash of the seed and its id. Percents are rounded up, so the first
    stage has one device at least; a later one may have none."""
    order = sorted(devices, key=lambda device: hashlib.sha256(f"{seed}:{device}".encode()).digest())
    ends = [math.ceil(len(order) * stage.percent / 100) for stage in stages]
    found: dict[str, int] = {}
    number = 0
    for at, device in enumerate(order):
        while at >= ends[number]:
            number += 1
        found[device] = number
    return found
