"""What a roll-out decides, whatever its devices do: the laws of its engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tulou.access.ota.engine import (
    ABORTED,
    DONE,
    FAILED,
    PAUSED,
    RUNNING,
    TOLD,
    UPDATED,
    WAITING,
    Count,
    Enter,
    Finish,
    Report,
    Stage,
    Stop,
    Tell,
    decide,
    judge,
    staged,
)

LIMIT = 100.0
percents = st.lists(st.integers(1, 99), max_size=4, unique=True).map(lambda some: [*sorted(some), 100])


@st.composite
def plans(draw: st.DrawFn) -> list[Stage]:
    share = st.integers(0, 100)
    return [
        Stage(percent=percent, wait_s=draw(st.integers(0, 50)), updated_min=draw(share), failed_max=draw(share),
              silent_max=draw(share)) for percent in draw(percents)
    ]


@dataclass
class Device:
    stage: int
    state: str = WAITING
    told_at: float = 0
    silent: bool = False


@dataclass
class World:
    """What is stored of a roll-out: a restart has this and nothing else."""

    stages: list[Stage]
    devices: list[Device]
    state: str = RUNNING
    stage: int = 0
    entered: list[int] = field(default_factory=lambda: [0])

    def counts(self) -> list[Count]:
        found = []
        for number in range(len(self.stages)):
            mine = [device for device in self.devices if device.stage == number]
            told = [device.told_at for device in mine if device.state != WAITING]
            states = [device.state for device in mine]
            found.append(Count(states.count(WAITING), states.count(TOLD), states.count(UPDATED), states.count(FAILED),
                               sum(device.silent for device in mine if device.state in (TOLD, UPDATED)),
                               max(told, default=None)))
        return found

    def gate_passed(self, number: int, now: float) -> bool:
        """As the documentation says it, written another way than the engine."""
        mine, gate = [device for device in self.devices if device.stage == number], self.stages[number]
        if not mine:
            return True
        share = 100 / len(mine)
        states = [device.state for device in mine]
        return (
            WAITING not in states and states.count(UPDATED) * share >= gate.updated_min - 1e-9
            and states.count(FAILED) * share <= gate.failed_max + 1e-9
            and sum(device.silent for device in mine if device.state in (TOLD, UPDATED)) * share <= gate.silent_max + 1e-9
            and now - max(device.told_at for device in mine) >= gate.wait_s
        )


class Rollout(RuleBasedStateMachine):
    """Devices do what they like; the engine is asked at any time."""

    @initialize(stages=plans(), count=st.integers(1, 40))
    def begin(self, stages: list[Stage], count: int) -> None:
        of = staged([f"d{number}" for number in range(count)], "1", stages)
        self.world = World(stages, [Device(stage) for stage in of.values()])
        self.now = 0.0
        self.told = 0

    @rule(seconds=st.integers(1, 120))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        for device in self.world.devices:
            if device.state == TOLD and self.now - device.told_at >= LIMIT:
                device.state = FAILED

    @rule(which=st.integers(0, 39), state=st.sampled_from([UPDATED, FAILED]))
    def a_device_ends(self, which: int, state: str) -> None:
        told = [device for device in self.world.devices if device.state == TOLD]
        if told:
            told[which % len(told)].state = state

    @rule(which=st.integers(0, 39), silent=st.booleans())
    def a_device_is_silent_or_back(self, which: int, silent: bool) -> None:
        self.world.devices[which % len(self.world.devices)].silent = silent

    @precondition(lambda self: self.world.state == RUNNING)
    @rule()
    def pause(self) -> None:
        self.world.state = PAUSED

    @precondition(lambda self: self.world.state == PAUSED)
    @rule()
    def resume(self) -> None:
        self.world.state = RUNNING

    @precondition(lambda self: self.world.state in (RUNNING, PAUSED))
    @rule()
    def retry(self) -> None:
        for device in self.world.devices:
            if device.state == FAILED:
                device.state = WAITING

    @rule(batch=st.integers(1, 10), looks=st.integers(1, 6))
    def the_worker_looks(self, batch: int, looks: int) -> None:
        for _ in range(looks):
            self.look(batch)

    def look(self, batch: int) -> None:
        world, counts = self.world, self.world.counts()
        action = decide(world.stages, LIMIT, world.state, world.stage, counts, self.now)
        assert action == decide(world.stages, LIMIT, world.state, world.stage, counts, self.now), "the same after a restart"
        reached = range(world.stage + 1)
        too_many = any(
            counts[number].failed * 100 > world.stages[number].failed_max * counts[number].total for number in reached
        )
        if world.state in (ABORTED, DONE):
            assert action is None
        elif too_many:
            assert isinstance(action, Stop)
            assert action.state == ABORTED
        if isinstance(action, Tell):
            assert world.state == RUNNING
            waiting = [device for device in world.devices if device.state == WAITING and device.stage <= action.stage]
            assert waiting
            for device in waiting[:batch]:
                assert device.stage in world.entered, "nobody of a stage that was not entered"
                device.state, device.told_at = TOLD, self.now
        elif isinstance(action, Enter):
            assert action.stage == world.stage + 1
            assert world.gate_passed(world.stage, self.now), "the gate before it passed"
            world.stage = action.stage
            world.entered.append(action.stage)
        elif isinstance(action, Stop):
            world.state = action.state
        elif isinstance(action, Finish):
            assert {device.state for device in world.devices} <= {UPDATED, FAILED}
            world.state = DONE

    @invariant()
    def nobody_of_a_later_stage_was_told(self) -> None:
        if hasattr(self, "world"):
            assert all(d.state == WAITING for d in self.world.devices if d.stage not in self.world.entered)


TestRollout = Rollout.TestCase
TestRollout.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


@given(plans(), st.integers(1, 60), st.integers(0, 100))
def test_left_alone_it_ends_or_says_why_it_waits(stages: list[Stage], count: int, seed: int) -> None:
    of = staged([f"d{number}" for number in range(count)], str(seed), stages)
    world, now = World(stages, [Device(stage) for stage in of.values()]), 0.0
    for _ in range(5_000):
        action = decide(stages, LIMIT, world.state, world.stage, world.counts(), now)
        if isinstance(action, Tell):
            for device in world.devices:
                if device.state == WAITING and device.stage <= action.stage:
                    device.state, device.told_at = TOLD, now
        elif isinstance(action, Enter):
            world.stage = action.stage
        elif isinstance(action, Stop | Finish):
            break
        else:
            now += 10
            for number, device in enumerate(world.devices):
                if device.state == TOLD:
                    device.state = FAILED if (seed + number) % 7 == 0 and seed % 2 else UPDATED
    else:
        pytest.fail("it neither ended nor stopped")


@given(st.lists(st.text(st.characters(codec="ascii"), min_size=1, max_size=8), unique=True, min_size=1, max_size=300), plans())
def test_stages_are_stable_and_as_large_as_they_say(ids: list[str], stages: list[Stage]) -> None:
    of = staged(ids, "7", stages)
    assert of == staged(reversed(ids), "7", stages)
    assert of.keys() == set(ids)
    for number, stage in enumerate(stages):
        upto = sum(at <= number for at in of.values())
        assert 0 <= upto - len(ids) * stage.percent / 100 < 1


@pytest.mark.parametrize(("report", "told_for", "verdict"), [
    (Report("app", "2"), 0, UPDATED),
    (Report("app", "1"), 5, None),
    (Report("app", "1", "FAILED", "now", "no space"), 5, FAILED),
    (Report("app", "1", "FAILED", "before"), 5, None),
    (Report("app", "1", "UPDATED", "now"), 5, None),
    (Report("", "", "UPDATED", "now"), 5, UPDATED),
    (Report("", "", "UPDATED", "before"), 5, None),
    (Report("app", "1", "DOWNLOADING", "now"), 100, FAILED),
    (Report("app", "2", "FAILED", "now"), 100, UPDATED),
])
def test_what_a_report_means(report: Report, told_for: float, verdict: str | None) -> None:
    found = judge("app", "2", report, "before", told_for, LIMIT)
    assert (found and found[0]) == verdict
    if report.error:
        assert found
        assert found[1] == "no space"
