"""Workflows: who may, what is due, what is made once; a state machine against a model, with crashes and rivals."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from pydantic import ValidationError

from tests.conftest import kernel_plugins
from tests.kernel.workflow_examples import COMPLAINT
from tulou.kernel import audit
from tulou.kernel.audit import audit_log
from tulou.kernel.errors import Conflict, Forbidden, Invalid, NotFound, TulouError
from tulou.kernel.house import House
from tulou.kernel.policy import Actor, Binding
from tulou.kernel.settings import Settings
from tulou.kernel.workflows import Move, NewItem, Workflow, Workflows
from tulou.kernel.workflows.tables import due, items, steps

BEGIN = dt.datetime(2026, 4, 1, 8, tzinfo=dt.UTC)


class Clock:
    def __init__(self) -> None:
        self.at = BEGIN

    def __call__(self) -> dt.datetime:
        return self.at

    def passes(self, seconds: float) -> None:
        self.at += dt.timedelta(seconds=seconds)


def person(name: str, role: str, org: str = "xiamen") -> Actor:
    return Actor(f"user:{name}", name, org, "user", frozenset({Binding(org, role, True)}), None, f"user:{name}")


LIN, CHEN = person("lin", "operator"), person("chen", "operator")
WANG, STRANGER = person("wang", "approver"), person("he", "operator", "fuzhou")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workflows(kernel: House, clock: Clock) -> Workflows:
    return Workflows(kernel, {"complaint": COMPLAINT}, clock)


def complaint(**more: Any) -> NewItem:
    return NewItem(**{"workflow": "complaint", "org": "xiamen", "title": "夜间施工", "fields": {"place": "思明区"}, **more})


async def test_a_life(workflows: Workflows, kernel: House) -> None:
    made = await workflows.create(LIN, complaint())
    assert (made["state"], made["step"], made["due_at"]) == ("reported", 0, (BEGIN + dt.timedelta(hours=1)).isoformat())
    no = made["no"]
    await workflows.move(LIN, no, Move(transition="accept", step=0, fields={"level": 71.5}, assignee="user:lin"))
    await workflows.move(LIN, no, Move(transition="answer", step=1, fields={"found": "超标"}))
    with pytest.raises(Forbidden, match="another person"):
        await workflows.move(LIN, no, Move(transition="close", step=2))
    assert (await workflows.get(LIN, no))["may"] == ["back"]
    assert (await workflows.get(CHEN, no))["may"] == (await workflows.get(WANG, no))["may"] == ["back", "close"]
    closed = await workflows.move(WANG, no, Move(transition="close", step=2))
    assert (closed["state"], closed["final"], closed["assignee"], closed["due_at"]) == ("closed", True, "user:lin", None)
    assert closed["fields"] == {"place": "思明区", "level": 71.5, "found": "超标"}
    told = await workflows.get(WANG, no)
    assert [(one["transition"], one["source"], one["target"], one["actor"]) for one in told["steps"]] == [
        ("", "", "reported", "user:lin"), ("accept", "reported", "working", "user:lin"), ("answer", "working", "answered", "user:lin"),
        ("close", "answered", "closed", "user:wang"),
    ]
    kept = await kernel.db.read(lambda c: c.execute(
        sa.select(audit_log.c.action).where(audit_log.c.action.like("workflow.%")).order_by(audit_log.c.seq)
    ).scalars().all())
    assert kept == ["workflow.item.create", *["workflow.item.move"] * 3]


async def test_what_is_refused(workflows: Workflows) -> None:
    no = (await workflows.create(LIN, complaint()))["no"]
    for error, field, move in (
        (Invalid, "transition", Move(transition="fly", step=0)), (Conflict, "transition", Move(transition="answer", step=0, fields={"found": "x"})),
        (Conflict, "step", Move(transition="accept", step=1)), (Invalid, "fields.level", Move(transition="accept", step=0, fields={"level": 500})),
        (Invalid, "fields.found", Move(transition="accept", step=0, fields={"found": "not asked for here"})),
        (Invalid, "fields.found", Move(transition="answer", step=0)), (Invalid, "comment", Move(transition="back", step=0, comment=" ")),
    ):
        with pytest.raises(error) as caught:
            await workflows.move(LIN, no, move)
        assert caught.value.field == field
    for new, field in ((complaint(fields={}), "fields.place"), (complaint(fields={"place": 7}), "fields.place"),
                       (complaint(fields={"place": "x", "who": "y"}), "fields.who")):
        with pytest.raises(Invalid) as refused:
            await workflows.create(LIN, new)
        assert refused.value.field == field
    admin = person("admin", "admin")
    with pytest.raises(Forbidden):
        await workflows.move(admin, no, Move(transition="lapse", step=0))  # the house's own
    assert (await workflows.get(LIN, no))["step"] == 0


async def test_an_organisation_sees_its_own(workflows: Workflows) -> None:
    no = (await workflows.create(LIN, complaint(subject="urn:ngsi-ld:Site:1")))["no"]
    for ask in (workflows.get(STRANGER, no), workflows.move(STRANGER, no, Move(transition="accept", step=0))):
        with pytest.raises(NotFound):
            await ask
    assert (await workflows.find(STRANGER))["items"] == []
    with pytest.raises(Forbidden):
        await workflows.create(STRANGER, complaint())
    with pytest.raises(Forbidden):
        await workflows.move(WANG, no, Move(transition="accept", step=0))
    assert [one["no"] for one in (await workflows.find(WANG, subject="urn:ngsi-ld:Site:1"))["items"]] == [no]


async def test_the_inbox_and_its_pages(workflows: Workflows) -> None:
    numbers = [(await workflows.create(LIN, complaint(title=f"{n}")))["no"] for n in range(5)]
    await workflows.move(LIN, numbers[0], Move(transition="accept", step=0))
    await workflows.move(LIN, numbers[0], Move(transition="answer", step=1, fields={"found": "x"}))
    assert [one["no"] for one in (await workflows.find(WANG, inbox=True))["items"]] == [numbers[0]]
    first = await workflows.find(LIN, inbox=True, limit=3)
    rest = await workflows.find(LIN, inbox=True, limit=3, after=first["next"])
    assert [one["no"] for one in [*first["items"], *rest["items"]]] == numbers[::-1]
    assert rest["next"] is None
    assert [one["no"] for one in (await workflows.find(LIN, state="answered"))["items"]] == [numbers[0]]
    assert (await workflows.find(LIN, open=False))["items"] == []


async def test_a_key_makes_it_once(workflows: Workflows) -> None:
    made = await asyncio.gather(*[workflows.create(LIN, complaint(key="web-1")) for _ in range(5)])
    assert {one["no"] for one in made} == {made[0]["no"]}
    no = made[0]["no"]
    move = Move(transition="accept", step=0, key="k1")
    assert {one["step"] for one in await asyncio.gather(*[workflows.move(LIN, no, move) for _ in range(5)])} == {1}
    assert len((await workflows.get(LIN, no))["steps"]) == 2


async def test_deadlines(workflows: Workflows, clock: Clock) -> None:
    no = (await workflows.create(LIN, complaint()))["no"]
    assert await workflows.turn() == 0
    clock.passes(3600)
    await workflows.turn()
    clock.passes(2.5 * 3600)  # the house was away: it is told once, and next at the hour
    await workflows.turn()
    row = await workflows.get(LIN, no)
    assert (row["level"], row["due_at"]) == (2, (BEGIN + dt.timedelta(hours=4)).isoformat())
    clock.passes(86400)
    while await workflows.turn():
        pass
    row = await workflows.get(LIN, no)
    assert (row["state"], row["level"], row["steps"][-1]["actor"]) == ("closed", 0, "system:workflows")


async def test_what_was_due_is_gone_when_the_item_moves_on(workflows: Workflows, clock: Clock) -> None:
    no = (await workflows.create(LIN, complaint()))["no"]
    await workflows.move(LIN, no, Move(transition="accept", step=0))
    clock.passes(7201)
    await workflows.turn()
    row = await workflows.get(LIN, no)
    assert (row["state"], row["level"], row["due_at"]) == ("working", 1, None)
    clock.passes(10 * 86400)
    assert await workflows.turn() == 0


@pytest.mark.parametrize(("change", "says"), [
    (lambda d: d["states"].update(lost={"label": {"zh": "失", "en": "Lost"}, "final": True}), "nothing leads to it"),
    (lambda d: d["transitions"].pop("answer"), "there is no answer"),
    (lambda d: d["states"]["closed"].update(final=False), "nothing leads out of it"),
    (lambda d: d["transitions"]["back"]["source"].append("closed"), "closed is final"),
    (lambda d: d["transitions"]["accept"].update(roles=["mayor"]), "must be one of"),
    (lambda d: d["states"]["reported"]["deadlines"].append({"after_s": 1, "then": "accept", "every_s": 1}), "repeats an escalation"),
    (lambda d: d["states"]["working"]["deadlines"].append({"after_s": 1, "then": "answer"}), "only people give"),
    (lambda d: d["needs"].append("colour"), "there is no colour"),
])  # fmt: skip
def test_a_definition_that_does_not_hold(change: Any, says: str) -> None:
    body = copy.deepcopy(COMPLAINT.model_dump())
    change(body)
    with pytest.raises(ValidationError, match=says):
        Workflow.model_validate(body)


async def sound(house: House) -> None:
    """What holds at every moment: steps without a gap, each from where the one before led; what is due belongs to the last."""
    def read(connection: sa.Connection) -> tuple[Any, Any, Any, Any]:
        moves = sa.select(audit_log.c.subject, sa.func.count()).where(audit_log.c.action == "workflow.item.move").group_by(audit_log.c.subject)
        return (connection.execute(sa.select(items)).all(), connection.execute(sa.select(steps).order_by(steps.c.item, steps.c.number)).all(),
                connection.execute(sa.select(due)).all(), {row.subject: row[1] for row in connection.execute(moves)})

    rows, made, waiting, audited = await house.db.read(read)
    for row in rows:
        mine = [one for one in made if one.item == row.no]
        assert [one.number for one in mine] == list(range(row.step + 1))
        assert all(after.source == before.target for before, after in itertools.pairwise(mine))
        assert mine[-1].target == row.state
        assert row.final == (row.state == "closed")
        left = [one for one in waiting if one.item == row.no]
        assert all(one.step == row.step for one in left)
        assert row.due_at == min((one.at for one in left), default=None)
        assert audited.get(f"item {row.no}", 0) == row.step


class Machine(RuleBasedStateMachine):
    """Items against a model: rivals at the same step, callers that ask again, crashes before the commit, time that passes."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.house = House(Settings(home=Path(self.folder.name), database_url=self.url), kernel_plugins())
        self.loop.run_until_complete(self.house.start((), bus=False))
        self.loop.run_until_complete(self.house.db.write(lambda c: c.execute(items.delete()) and None))
        self.clock = Clock()
        self.workflows = [Workflows(self.house, {"complaint": COMPLAINT}, self.clock) for _ in range(2)]
        self.model: dict[int, list[str]] = {}
        self.entered: dict[int, dt.datetime] = {}
        self.keys = 0

    def teardown(self) -> None:
        self.loop.run_until_complete(self.house.stop())
        self.loop.close()
        self.folder.cleanup()

    def does(self, *asked: Any) -> list[Any]:
        async def together() -> list[Any]:
            return await asyncio.gather(*asked, return_exceptions=True)

        return self.loop.run_until_complete(together())

    def chosen(self, data: Any) -> tuple[int, str]:
        no = data.draw(st.sampled_from(sorted(self.model)))
        here = self.model[no][-1]
        name = data.draw(st.sampled_from([n for n, t in COMPLAINT.transitions.items() if here in t.source and t.roles] or ["accept"]))
        return no, name

    def move(self, no: int, name: str, key: str | None = None) -> Move:
        return Move(transition=name, step=len(self.model[no]) - 1, comment="退回", key=key, fields={"found": "x"} if name == "answer" else {})

    def led(self, no: int, name: str) -> None:
        self.model[no].append(COMPLAINT.transitions[name].target)
        self.entered[no] = self.clock.at

    @rule()
    def create(self) -> None:
        self.keys += 1
        made = self.does(*[w.create(LIN, complaint(key=f"c{self.keys}")) for w in self.workflows])
        assert len({one["no"] for one in made}) == 1
        self.model[made[0]["no"]] = ["reported"]
        self.entered[made[0]["no"]] = self.clock.at

    @rule(data=st.data())
    def rivals(self, data: Any) -> None:
        """Two people at the same step: one of them makes it."""
        if not self.model:
            return
        no, name = self.chosen(data)
        move = self.move(no, name)
        ends = self.does(self.workflows[0].move(CHEN, no, move), self.workflows[1].move(WANG if name in ("back", "close") else LIN, no, move))
        won = [one for one in ends if isinstance(one, dict)]
        if self.model[no][-1] in COMPLAINT.transitions[name].source:
            assert len(won) == 1 or name == "close"
            assert all(isinstance(one, dict | Conflict | Forbidden) for one in ends), ends
        else:
            assert won == []
            assert all(isinstance(one, TulouError) for one in ends)
        if won:
            self.led(no, name)

    @rule(data=st.data(), times=st.integers(1, 3))
    def asks_again(self, data: Any, times: int) -> None:
        """The answer was lost, and the caller asks again with its key."""
        if not self.model:
            return
        no, name = self.chosen(data)
        self.keys += 1
        move = self.move(no, name, f"m{self.keys}")
        ends = [self.does(self.workflows[n % 2].move(WANG if name == "close" else CHEN, no, move))[0] for n in range(times + 1)]
        if isinstance(ends[0], dict):
            self.led(no, name)
            assert {one["step"] for one in ends} == {len(self.model[no]) - 1}

    @rule(data=st.data())
    def crashes(self, data: Any) -> None:
        """Everything was written, and the process dies before the commit: nothing has happened."""
        if not self.model:
            return
        no, name = self.chosen(data)
        right = audit.record

        def dies(*_args: Any, **_more: Any) -> int:
            raise MemoryError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(audit, "record", dies)
            end, late = self.does(self.workflows[0].move(CHEN, no, self.move(no, name)), self.workflows[1].turn())
        assert audit.record is right
        assert isinstance(end, MemoryError | TulouError)
        assert late == 0 or isinstance(late, MemoryError)

    @rule(seconds=st.sampled_from([600, 3600, 5400, 7200, 90000]))
    def time_passes(self, seconds: float) -> None:
        self.clock.passes(seconds)
        for _ in range(4):
            for count in self.does(*[w.turn() for w in self.workflows]):
                assert isinstance(count, int)
        for no, states in self.model.items():
            if states[-1] == "reported" and self.clock.at - self.entered[no] >= dt.timedelta(days=1):
                self.led(no, "lapse")

    @invariant()
    def holds(self) -> None:
        self.loop.run_until_complete(sound(self.house))
        rows = self.loop.run_until_complete(self.house.db.read(lambda c: c.execute(sa.select(items.c.no, items.c.state, items.c.step)).all()))
        assert {row.no: (row.state, row.step) for row in rows} == {no: (states[-1], len(states) - 1) for no, states in self.model.items()}


def test_no_step_is_lost_or_doubled(database_url: str) -> None:
    class Here(Machine):
        url = database_url

    run_state_machine_as_test(Here, settings=settings(
        max_examples=10, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck),
    ))


WORKER = """
import asyncio, datetime as dt, itertools, os, sys
from pathlib import Path
from tests.conftest import kernel_plugins
from tests.kernel.test_workflows import CHEN, LIN, complaint
from tests.kernel.workflow_examples import COMPLAINT
from tulou.kernel.errors import TulouError
from tulou.kernel.house import House
from tulou.kernel.settings import Settings
from tulou.kernel.workflows import Move, Workflow, Workflows

async def main(home, url, first):
    house = House(Settings(home=Path(home), database_url=url), kernel_plugins())
    await house.start((), bus=False)
    quick = COMPLAINT.model_dump()
    quick["states"]["reported"]["deadlines"] = [{"after_s": 0.05, "every_s": 0.05}, {"after_s": 0.3, "then": "lapse"}]
    workflows = Workflows(house, {"complaint": Workflow.model_validate(quick)})
    keep = asyncio.create_task(workflows.run(house))
    print("ready", flush=True)
    for n in itertools.count(first):
        item = await workflows.create(LIN, complaint(key=f"k{n}"))
        print("made", n, item["no"], flush=True)
        for name, fields in (("accept", {}), ("answer", {"found": "x"})):
            try:
                item = await workflows.move(CHEN, item["no"], Move(transition=name, step=item["step"], fields=fields, key=f"{n}{name}"))
            except TulouError:
                break
            print("moved", item["no"], name, flush=True)
        await asyncio.sleep(0.01)

asyncio.run(main(*sys.argv[1:3], int(sys.argv[3])))
"""


@pytest.mark.slow
async def test_kill_9(database_url: str, tmp_path: Path) -> None:
    """Processes that make items, move them and see to deadlines are killed: what they said is there, once."""
    home = tmp_path / "home"
    said: list[list[str]] = []
    for turn in range(4):
        child = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", textwrap.dedent(WORKER), str(home), database_url, str(turn * 100_000)], stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        await asyncio.sleep(0.5 + 0.17 * turn)
        os.killpg(child.pid, signal.SIGKILL)
        lines = child.stdout.read().split("\n")
        child.wait()
        said += [line.split() for line in lines[:-1]]
    house = House(Settings(home=home, database_url=database_url), kernel_plugins())
    await house.start((), bus=False)
    try:
        await sound(house)
        rows = {row.key: row.no for row in await house.db.read(lambda c: c.execute(sa.select(items.c.key, items.c.no)).all())}
        made = {(one.item, one.transition) for one in await house.db.read(lambda c: c.execute(sa.select(steps.c.item, steps.c.transition)).all())}
        assert len([words for words in said if words[0] == "made"]) > 8
        for kind, *words in said:
            if kind == "made":
                assert rows[f"k{words[0]}"] == int(words[1])
            else:
                assert (int(words[0]), words[1]) in made
    finally:
        await house.stop()
