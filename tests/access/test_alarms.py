"""Alarms: the state machine, and what of it is kept, announced and acknowledged."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.access.conftest import Estate, eventually
from tulou.access import Alarms
from tulou.access.alarms import Change, Evaluator, Rule, Watch, absence, rules_of
from tulou.access.models import alarms
from tulou.kernel.packs import Threshold

S = 1_000_000
ABOVE = Rule("above", 10.0, 7.0, 5 * S, "major")
BELOW = Rule("below", 2.0, 3.0, 0, "minor")
WATCHES = {("T", "p"): Watch((ABOVE, BELOW), -100.0, 100.0)}


def kinds(changes: list[Change]) -> list[tuple[str, str, int]]:
    return [(c.kind, c.rule, c.at // S) for c in changes]


def test_raised_after_the_duration_and_cleared_with_hysteresis() -> None:
    e = Evaluator(WATCHES)
    assert kinds(e.value(1, "T", "p", 0 * S, 11)) == []
    assert kinds(e.value(1, "T", "p", 4 * S, 12)) == []
    assert kinds(e.value(1, "T", "p", 5 * S, 11)) == [("raised", "above", 5)]
    assert kinds(e.value(1, "T", "p", 6 * S, 9)) == []  # below the bound, not yet at `clear`
    assert kinds(e.value(1, "T", "p", 7 * S, 13)) == [("worse", "above", 7)]
    assert kinds(e.value(1, "T", "p", 8 * S, 7)) == [("cleared", "above", 8)]


def test_the_value_of_an_alarm_is_the_worst() -> None:
    e = Evaluator(WATCHES)
    for ts, value in ((0, 11), (1, 50), (2, 20)):
        e.value(1, "T", "p", ts * S, value)
    assert e.tick(5 * S)[0].value == 50


def test_a_dip_starts_the_duration_again() -> None:
    e = Evaluator(WATCHES)
    e.value(1, "T", "p", 0 * S, 11)
    e.value(1, "T", "p", 3 * S, 9)
    e.value(1, "T", "p", 4 * S, 11)
    assert e.tick(8 * S) == []
    assert kinds(e.tick(9 * S)) == [("raised", "above", 9)]


def test_silence_completes_the_duration() -> None:
    e = Evaluator(WATCHES)
    e.value(1, "T", "p", 0 * S, 11)
    assert kinds(e.tick(60 * S)) == [("raised", "above", 5)]
    assert e.tick(61 * S) == []


def test_late_and_repeated_and_faulty_values_change_nothing() -> None:
    e = Evaluator(WATCHES)
    e.value(1, "T", "p", 10 * S, 5)
    for ts, value in ((9, 0), (10, 0), (11, math.nan), (12, 1e9), (13, -101)):
        assert e.value(1, "T", "p", ts * S, value) == []
    assert e.value(1, "T", "other", 20 * S, 1e9) == []


def test_bounds_on_both_sides() -> None:
    above, below = rules_of(Threshold(above=9, below=6))
    assert (above.clear, below.clear) == (9, 6)
    above, below = rules_of(Threshold(above=9, below=6, clear=7))
    assert (above.clear, below.clear) == (7, 7)
    assert rules_of(None) == ()


class Machine(RuleBasedStateMachine):
    """Against a model that remembers everything: at most one alarm is open, and it is open when the model says so."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.evaluator = Evaluator(WATCHES)
        self.inputs: list[tuple[Any, ...]] = []
        self.log: list[Change] = []
        self.open: dict[tuple[int, str], bool] = {}
        self.since: dict[tuple[int, str], int | None] = {}

    def take(self, changes: list[Change]) -> None:
        for change in changes:
            key = (change.entity, change.rule)
            if change.kind == "raised":
                assert not self.open.get(key)
                self.open[key] = True
            elif change.kind == "cleared":
                assert self.open.get(key)
                self.open[key] = False
            else:
                assert self.open.get(key)
        self.log += changes

    @rule(entity=st.integers(1, 3), step=st.integers(1, 4), value=st.integers(-1, 14))
    def speak(self, entity: int, step: int, value: int) -> None:
        self.now += step * S
        self.inputs.append(("value", entity, self.now, float(value)))
        before = dict(self.open)
        self.take(self.evaluator.value(entity, "T", "p", self.now, float(value)))
        for one in (ABOVE, BELOW):
            key = (entity, one.name)
            if before.get(key):
                assert self.open[key] == (not one.clears(value))
                if one.clears(value):
                    self.since[key] = None
                continue
            if not one.breaks(value):
                self.since[key] = None
                assert not self.open.get(key)
                continue
            if self.since.get(key) is None:
                self.since[key] = self.now
            assert bool(self.open.get(key)) == (self.now - (self.since[key] or 0) >= one.hold)

    @rule(entity=st.integers(1, 3), back=st.integers(0, 10), value=st.integers(-1, 14))
    @precondition(lambda self: self.inputs)
    def speak_late(self, entity: int, back: int, value: int) -> None:
        last = max((ts for kind, who, ts, *_ in self.inputs if kind == "value" and who == entity), default=None)
        if last is not None:
            ts = last - back * S
            self.inputs.append(("late", entity, ts, float(value)))
            assert self.evaluator.value(entity, "T", "p", ts, float(value)) == []

    @rule(step=st.integers(0, 8))
    def tick(self, step: int) -> None:
        self.now += step * S
        due = self._due()
        self.inputs.append(("tick", 0, self.now))
        changes = self.evaluator.tick(self.now)
        assert {(c.entity, c.rule) for c in changes} == due
        self.take(changes)

    def _due(self) -> set[tuple[int, str]]:
        return {
            key for key, since in self.since.items()
            if since is not None and not self.open.get(key) and self.now - since >= ABOVE.hold and key[1] == "above"
        }

    @invariant()
    def replaying_gives_the_same(self) -> None:
        if len(self.inputs) % 7:
            return
        again, log = Evaluator(WATCHES), []
        for kind, entity, ts, *value in self.inputs:
            log += again.tick(ts) if kind == "tick" else again.value(entity, "T", "p", ts, value[0])
        assert log == self.log


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase


def fake_directory(rows: list[tuple[int, int, int, int]]) -> Any:
    """The columns of a directory: (no, seen in s, timeout in s, device)."""
    from tulou.access.directory import Directory

    made = SimpleNamespace(
        no=np.array([r[0] for r in rows], np.int64), seen=np.array([r[1] * S for r in rows], np.int64),
        device=np.array([r[3] for r in rows], np.uint8), size=len(rows),
        offline_after=lambda: np.array([r[2] for r in rows], np.int64),
    )
    made.rows = lambda nos: Directory.rows(made, nos)
    return made


def test_absence_is_raised_once_and_cleared_when_it_speaks() -> None:
    directory = fake_directory([(1, 100, 10, 1), (2, 100, 100, 1), (3, 0, 10, 1), (4, 100, 10, 0)])
    raised = absence(directory, 120 * S, 0, set())
    assert [(c.kind, c.entity) for c in raised] == [("raised", 1)]  # 2 has time, 3 never spoke, 4 has no device
    assert absence(directory, 120 * S, 0, {1}) == []
    directory.seen[0] = 121 * S
    assert [(c.kind, c.entity) for c in absence(directory, 122 * S, 0, {1})] == [("cleared", 1)]


def test_silence_while_the_house_did_not_listen_is_no_alarm() -> None:
    directory = fake_directory([(1, 100, 10, 1)])
    assert absence(directory, 1009 * S, 1000 * S, set()) == []
    assert [c.kind for c in absence(directory, 1011 * S, 1000 * S, set())] == ["raised"]


def test_the_alarm_of_a_deleted_thing_is_cleared() -> None:
    assert [(c.kind, c.entity) for c in absence(fake_directory([]), 0, 0, {9})] == [("cleared", 9)]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1)), min_size=1, max_size=20))
def test_absence_never_opens_twice(moves: list[tuple[int, int]]) -> None:
    directory = fake_directory([(1, 1, 10, 1)])
    is_open: set[int] = set()
    now = S
    for step, speaks in moves:
        now += step * S
        if speaks:
            directory.seen[0] = now
        for change in absence(directory, now, 0, is_open):
            assert (change.kind == "raised") == (change.entity not in is_open)
            (is_open.add if change.kind == "raised" else is_open.remove)(change.entity)
        assert bool(is_open) == (now - int(directory.seen[0]) > 10 * S)


# --- in the house -------------------------------------------------------------------------------------------------


async def alarm_of(client: httpx.AsyncClient, no: int, state: str) -> Any:
    items = (await client.get("/alarms", params={"state": state, "no": no})).json()["items"]
    return items[0] if items else None


async def state_is(client: httpx.AsyncClient, no: int, state: str) -> bool:
    return bool((await client.get(f"/things/{no}")).json()["state"] == state)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_value_raises_and_clears_an_alarm(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "well-1", type="Manhole")
    inbox = await estate.house.bus.js.subscribe("tulou.events.alarm.>", ordered_consumer=True)
    await estate.say(made, tilt=20)
    found = await eventually(lambda: alarm_of(lin, made["no"], "open"))
    assert (found["property"], found["rule"], found["severity"], found["value"]) == ("tilt", "above", "critical", 20.0)
    assert (found["entity_id"], found["name"], found["synthetic"]) == (made["entity_id"], "站 well-1", False)
    await eventually(lambda: state_is(lin, made["no"], "alarm"))
    assert (await lin.get("/overview")).json()["counters"]["alarms_open"] >= 1
    await estate.say(made, tilt=25)

    async def worse() -> bool:
        return bool((await alarm_of(lin, made["no"], "open"))["value"] == 25.0)

    await eventually(worse)
    await estate.say(made, tilt=10)  # between clear and the bound: still open
    await asyncio.sleep(1.2)
    assert (await alarm_of(lin, made["no"], "open"))["value"] == 25.0
    await estate.say(made, tilt=2)
    cleared = await eventually(lambda: alarm_of(lin, made["no"], "cleared"))
    assert cleared["id"] == found["id"]
    await eventually(lambda: state_is(lin, made["no"], "ok"))
    events = [await inbox.next_msg(5) for _ in range(2)]
    assert [e.subject.rsplit(".", 1)[1] for e in events] == ["raised", "cleared"]
    assert orjson.loads(events[0].data)["id"] == found["id"]
    query = sa.select(alarms.c.announced).where(alarms.c.id == found["id"])

    async def announced() -> bool:
        return bool(await estate.house.db.read(lambda c: c.execute(query).scalar_one()) == 2)

    await eventually(announced)


@pytest.mark.asyncio(loop_scope="module")
async def test_an_alarm_is_acknowledged_by_its_own_organisation(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient
) -> None:
    made = await estate.device(lin, "fuzhou", "well-2", type="Manhole", synthetic=True)
    await estate.say(made, tilt=90)
    found = await eventually(lambda: alarm_of(lin, made["no"], "open"))
    assert found["synthetic"]
    path = f"/alarms/{found['id']}/acknowledge"
    nowhere = f"/alarms/{found['id'] + 10**6}/acknowledge"
    theirs, absent = await chen.post(path), await chen.post(nowhere)
    assert theirs.status_code == absent.status_code == 404
    assert theirs.text.replace(str(found["id"]), "?") == absent.text.replace(str(found["id"] + 10**6), "?")
    assert (await chen.get("/alarms", params={"count": 1})).json()["count"] == 0
    assert (await chen.get("/alarms", params={"no": made["no"], "count": 1})).json()["count"] == 0
    assert (await yang.post(path)).status_code == 403
    first = (await lin.post(path)).json()
    assert first["acknowledged_by"] == "user:lin"
    again = (await lin.post(path)).json()
    assert again["acknowledged_at"] == first["acknowledged_at"]


@pytest.mark.asyncio(loop_scope="module")
async def test_what_a_crash_kept_back_is_announced(estate: Estate, lin: httpx.AsyncClient) -> None:
    service = estate.house.service(Alarms)
    found = await eventually(lambda: alarm_of(lin, (await_no(estate, "well-2")), "open"))
    undo = alarms.update().where(alarms.c.id == found["id"]).values(announced=0)
    await estate.house.db.write(lambda c: c.execute(undo) and None)
    await service._announce()
    query = sa.select(alarms.c.announced).where(alarms.c.id == found["id"])
    assert await estate.house.db.read(lambda c: c.execute(query).scalar_one()) == 1


def await_no(estate: Estate, key: str) -> int:
    """The number of a thing by the end of its id."""
    from tulou.access import Directory

    directory = estate.house.service(Directory)
    return int(directory.no[next(i for i, name in enumerate(directory.ids) if name.endswith(key))])


@pytest.mark.asyncio(loop_scope="module")
async def test_writing_the_same_changes_again_changes_nothing(estate: Estate, lin: httpx.AsyncClient) -> None:
    no = await_no(estate, "well-1")
    service = estate.house.service(Alarms)
    raised = Change("raised", no, "waterLevel", "above", "major", 2.0, 10**15)
    for _ in range(3):
        await service._apply([raised])
    query = sa.select(sa.func.count()).select_from(alarms).where(
        alarms.c.entity_no == no, alarms.c.property == "waterLevel"
    )
    assert await estate.house.db.read(lambda c: c.execute(query).scalar_one()) == 1
    for _ in range(2):
        await service._apply([raised._replace(kind="cleared")])
    assert await estate.house.db.read(lambda c: c.execute(query).scalar_one()) == 1
