"""The annual evaluation on both relational stores: what is counted, who may, appeals that make versions, and recomputation."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.plan.test_projects import money, project

from tulou.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from tulou.kernel.house import House
from tulou.kernel.policy import Actor
from tulou.kernel.workflows import Move, NewItem, Workflows
from tulou.plan.document import holder
from tulou.plan.evaluation import Evaluations
from tulou.plan.evaluation.formula import Correction, Formula, corrected, in_force, load, recomputed
from tulou.plan.evaluation.models import NewAppeal, NewEvaluation, Verdict, plan_appeals, plan_evaluations
from tulou.plan.models import Decision, NewReport
from tulou.plan.projects import Projects
from tulou.plan.projects.models import Decisions, NewMilestone, Reached
from tulou.plan.queries import digest
from tulou.plan.service import Plans

Person = Callable[..., Actor]
AGENCY = "fujian.szb"
YEAR = 2025
END = dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=8)))


@pytest.fixture
def evaluations(plan_house: House) -> Evaluations:
    return plan_house.service(Evaluations)


class People:
    def __init__(self, person: Person) -> None:
        self.steward, self.approver = person("ma", "fujian", "steward", "approver"), person("gao", "fujian", "approver", subtree=True)
        self.judge = person("song", "fujian", "approver")
        self.reporter, self.second = person("li", AGENCY, "reporter", "approver"), person("chen", AGENCY, "approver")
        self.viewer = person("wang", "xiamen", "viewer")


@pytest.fixture
def people(person: Person) -> People:
    return People(person)


@pytest.fixture
async def year(plan_house: House, people: People) -> dict[str, Any]:
    """Facts of 2025 of one agency: a milestone in time, one late, one never; funds; a report; two supervision items; a synthetic project."""
    projects, plans, workflows = (plan_house.service(cls) for cls in (Projects, Plans, Workflows))
    no = (await projects.put(people.reporter, project()))["no"]
    ghost = (await projects.put(people.reporter, project("GHOST", synthetic=True)))["no"]
    marks = {}
    for name, due, done in (("早", "2025-03-31", "2025-03-01"), ("迟", "2025-06-30", "2025-08-15"), ("无", "2025-09-30", None), ("前年", "2023-01-01", None)):
        mark = await projects.plan_milestone(people.reporter, no, NewMilestone(title=name, due=dt.date.fromisoformat(due)))
        marks[name] = mark["no"]
        if done:
            await projects.reached(people.reporter, mark["no"], Reached(done_on=dt.date.fromisoformat(done), evidence_text="验收"))
            await projects.decide_milestone(people.second, mark["no"], True, Decision())
    await projects.plan_milestone(people.reporter, ghost, NewMilestone(title="幽灵", due=dt.date(2025, 5, 1)))
    within, after = END - dt.timedelta(days=30), END + dt.timedelta(days=30)
    papers = [(await projects.submit(people.reporter, no, one))["no"] for one in (
        money("planned", 1000, at=within), money("planned", 5000, at=after, key="next"), money("received", 800, at=within), money("spent", 600, at=within),
    )]
    await projects.decide(people.second, no, True, Decisions(papers=papers))
    report = await plans.submit_report(people.reporter, "racks-in-use", NewReport(value=Decimal(40_000), as_of=END - dt.timedelta(days=2), evidence_text="核查表"))
    await plans.approve(people.second, report["id"], Decision())
    await plans.db.write(lambda c: c.execute(sa.text("UPDATE plan_reports SET decided_at = as_of")))
    clock = END - dt.timedelta(days=100)
    workflows.now = lambda: clock
    made = []
    for _ in range(2):
        item = await workflows.create(people.steward, NewItem(workflow="supervision", org="fujian", title="督办", fields={"demand": "x", "task": "C1"}))
        made.append(item["no"])
    await workflows.db.write(lambda c: c.execute(sa.text("UPDATE workflow_items SET org = :o"), {"o": AGENCY}))
    clock += dt.timedelta(days=2)
    await workflows.move(people.reporter, made[0], Move(transition="accept", step=0))
    clock += dt.timedelta(days=2)
    await workflows.move(people.reporter, made[1], Move(transition="accept", step=0))
    for no_ in made:
        await workflows.move(people.reporter, no_, Move(transition="report", step=1, fields={"progress": "办结"}))
        await workflows.move(people.second, no_, Move(transition="close", step=2))
    return {"project": no, "marks": marks, "items": made}


def row_of(document: dict[str, Any], name: str, of: str = "agencies") -> dict[str, Any]:
    return next(row for row in document[of] if row["id"] == name)


async def published(evaluations: Evaluations, people: People) -> dict[str, Any]:
    draft = await evaluations.draft(people.steward, NewEvaluation(year=YEAR))
    await evaluations.publish(people.approver, YEAR, draft["version"])
    return await evaluations.evaluation(people.viewer, YEAR)


async def test_what_a_year_is_worth(evaluations: Evaluations, people: People, year: dict[str, Any]) -> None:
    told = await published(evaluations, people)
    document = told["document"]
    own = row_of(document, AGENCY)
    assert {one["id"]: one["value"] for one in own["targets"] if one["value"] is not None} == {"racks-in-use": 40_000}
    assert [one["no"] for one in own["milestones"]] == [year["marks"][name] for name in ("早", "迟", "无")]
    assert own["funds"] == [{"project": year["project"], "planned": 1000, "spent": 600}]
    assert [one["late"] for one in own["items"]] == [False, True]
    targets = round(0.4 / len(own["targets"]), 6)
    assert own["criteria"] == {"targets": pytest.approx(targets), "milestones": 0.5, "funds": 0.6, "items": 0.5}
    assert own["score"] == pytest.approx(50 * targets + 20 * 0.5 + 15 * 0.6 + 15 * 0.5, abs=1e-4)
    assert own["grade"]["en"] == "Poor"
    task = row_of(document, "C1", "tasks")
    assert (len(task["milestones"]), len(task["items"]), task["funds"]) == (3, 2, own["funds"])
    assert not any(word in str(document) for word in ("东南大数据中心", "督办")), "what is published names nobody's projects and items"
    nobody = row_of(document, "fujian.gdj")
    assert (nobody["score"], nobody["grade"]) == (None, None), "nothing to judge is no score"
    assert (document["as_of"], document["method"]) == ("2025-12-31T15:59:59.999999Z", "tulou-evaluation-1")


async def test_the_same_inputs_give_the_same_bytes(evaluations: Evaluations, people: People, year: dict[str, Any]) -> None:
    first = await evaluations.draft(people.steward, NewEvaluation(year=YEAR))
    second = await evaluations.draft(people.steward, NewEvaluation(year=YEAR))
    assert (first["version"], second["version"], first["digest"]) == (1, 2, second["digest"])
    told = await evaluations.evaluation(people.approver, YEAR, 2)
    assert told["recomputes"]
    assert digest(recomputed(told["document"])) == digest(json.loads(json.dumps(told["document"]))) == first["digest"]
    row = await evaluations.db.read(lambda c: c.execute(sa.select(plan_evaluations).where(plan_evaluations.c.version == 1)).one())
    assert (row.state, hashlib.sha256(row.document.encode()).hexdigest()) == ("dropped", row.digest)
    changed = recomputed({**told["document"], "agencies": [{**one, "funds": []} for one in told["document"]["agencies"]]})
    assert digest(changed) != first["digest"]


async def test_nobody_decides_on_his_own_paper(evaluations: Evaluations, people: People, year: dict[str, Any], person: Person) -> None:
    draft = await evaluations.draft(people.steward, NewEvaluation(year=YEAR))
    with pytest.raises(NotFound):
        await evaluations.evaluation(people.viewer, YEAR, draft["version"])
    assert await evaluations.evaluations(people.viewer) == []
    with pytest.raises(Forbidden) as own:
        await evaluations.publish(people.steward, YEAR, 1)
    assert own.value.rule == "second person"
    for who in (people.reporter, people.viewer):
        with pytest.raises(Forbidden):
            await evaluations.publish(who, YEAR, 1)
    await evaluations.publish(people.approver, YEAR, 1)
    with pytest.raises(Conflict):
        await evaluations.draft(people.steward, NewEvaluation(year=YEAR))
    ask = NewAppeal(org=AGENCY, evidence_text="验收日期有误", corrections=[
        Correction(criterion="milestones", subject=str(year["marks"]["迟"]), field="done_on", value=dt.date(2025, 6, 29))
    ])
    with pytest.raises(Forbidden):
        await evaluations.appeal(person("he", "fujian.gxt", "reporter"), YEAR, ask)
    double = person("double", AGENCY, "reporter")
    appeal = await evaluations.appeal(double, YEAR, ask)
    with pytest.raises(Conflict):
        await evaluations.appeal(people.reporter, YEAR, ask)
    inside = Actor("user:in", "in", AGENCY, "user", people.judge.roles, None, "user:in")
    same = Actor("token:9", "token", "fujian", "token", people.judge.roles, None, double.person)
    for who, rule in ((people.steward, "second person"), (inside, "another organisation"), (same, "second person")):
        with pytest.raises(Forbidden) as refused:
            await evaluations.decide(who, appeal["no"], True, Verdict())
        assert refused.value.rule == rule
    with pytest.raises(Forbidden):
        await evaluations.decide(people.second, appeal["no"], True, Verdict())
    with pytest.raises(NotFound):
        await evaluations.decide(people.viewer, appeal["no"], True, Verdict())
    with pytest.raises(Invalid):
        await evaluations.decide(people.judge, appeal["no"], False, Verdict())
    for table, wrong in ((plan_appeals, {"decided_by": "user:double", "state": "rejected"}), (plan_evaluations, {"published_by": "user:ma"}),
                         (plan_evaluations, {"document": "{}"})):
        with pytest.raises(sa.exc.IntegrityError):
            await evaluations.db.write(lambda c, table=table, wrong=wrong: c.execute(table.update().values(**wrong)))


async def test_an_appeal_that_is_upheld_makes_a_version(evaluations: Evaluations, people: People, year: dict[str, Any]) -> None:
    before = await published(evaluations, people)
    ask = NewAppeal(org=AGENCY, evidence_text="验收日期有误", corrections=[
        Correction(criterion="milestones", subject=str(year["marks"]["迟"]), field="done_on", value=dt.date(2025, 6, 29)),
        Correction(criterion="funds", subject=str(year["project"]), field="spent", value=Decimal(1000)),
    ])
    appeal = await evaluations.appeal(people.reporter, YEAR, ask)
    with pytest.raises(Conflict, match="wait"):
        await evaluations.finish(people.approver, YEAR, 1)
    upheld = await evaluations.decide(people.judge, appeal["no"], True, Verdict(note="采纳第一项", corrections=ask.corrections[:1]))
    assert (upheld["state"], upheld["made"]) == ("upheld", 2)
    now = await evaluations.evaluation(people.viewer, YEAR)
    assert (now["version"], now["state"], now["appeal"], now["recomputes"]) == (2, "published", appeal["no"], True)
    assert row_of(now["document"], AGENCY)["criteria"]["milestones"] == row_of(now["document"], "C1", "tasks")["criteria"]["milestones"] == 0.666667
    assert row_of(now["document"], AGENCY)["criteria"]["funds"] == 0.6
    assert now["document"]["adjustments"] == [{
        "appeal": appeal["no"], "org": AGENCY, "criterion": "milestones", "subject": str(year["marks"]["迟"]), "field": "done_on", "was": "2025-08-15",
        "is": "2025-06-29",
    }]
    assert now["appeals"] == [], "who may not see appeals sees the version alone"
    old = await evaluations.evaluation(people.viewer, YEAR, 1)
    assert (old["state"], old["document"], old["digest"]) == ("superseded", before["document"], before["digest"])
    again = await evaluations.appeal(people.reporter, YEAR, NewAppeal(org=AGENCY, evidence_text="再议", corrections=ask.corrections[1:]))
    with pytest.raises(Forbidden):
        await evaluations.decide(people.judge, again["no"], False, Verdict(note="本人裁定过"))
    rejected = await evaluations.decide(people.approver, again["no"], False, Verdict(note="凭证不足"))
    assert (rejected["state"], rejected["made"]) == ("rejected", None)
    with pytest.raises(Conflict, match="not over"):
        await evaluations.finish(people.approver, YEAR, 2)
    evaluations.now = lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=16)
    with pytest.raises(Conflict, match="is over"):
        await evaluations.appeal(people.reporter, YEAR, ask)
    assert (await evaluations.finish(people.approver, YEAR, 2))["state"] == "final"
    with pytest.raises(NotFound):
        await evaluations.appeal(people.reporter, YEAR, ask)
    assert [(one["version"], one["state"]) for one in await evaluations.evaluations(people.viewer)] == [(2, "final"), (1, "superseded")]


async def test_what_is_no_input_is_not_corrected(evaluations: Evaluations, people: People, year: dict[str, Any]) -> None:
    document = (await published(evaluations, people))["document"]
    with pytest.raises(Invalid):
        await evaluations.draft(people.steward, NewEvaluation(year=2099))
    for one in (
        Correction(criterion="targets", subject="5g-stations", field="value", value=Decimal(1)),
        Correction(criterion="milestones", subject="999", field="done_on", value=dt.date(2025, 1, 1)),
        Correction(criterion="funds", subject=str(year["project"]), field="spent", value=Decimal(600)),
    ):
        with pytest.raises(Invalid):
            corrected(document, AGENCY, 1, [one])
    for wrong in ({"field": "late", "value": True}, {"value": "2025-01-01"}, {"value": -1}, {"value": None}):
        with pytest.raises(ValidationError):
            Correction.model_validate({"criterion": "funds", "subject": "1", "field": "spent", "value": 5, **wrong})


def test_formulas_are_declared_by_year(plan_house: House) -> None:
    (first,) = load(holder(plan_house.packs))
    later = first.model_copy(update={"id": "tulou-evaluation-2", "from_year": 2027})
    assert [in_force([first, later], year).id for year in (2020, 2026, 2027, 2030)] == [first.id, first.id, later.id, later.id]
    with pytest.raises(Invalid):
        in_force([first], 2019)
    body = first.model_dump(by_alias=True)
    for wrong in ({"grades": body["grades"][:2]}, {"weights": {"targets": 0}}, {"weights": {"castles": 1}}, {"late_milestone": 2}):
        with pytest.raises(ValidationError):
            Formula.model_validate({**body, **wrong})


MARK = st.fixed_dictionaries({
    "due": st.dates(dt.date(2025, 1, 1), dt.date(2025, 12, 31)).map(str), "done_on": st.none() | st.dates(dt.date(2024, 1, 1), dt.date(2026, 12, 31)).map(str),
})
FUNDS = st.fixed_dictionaries({"planned": st.integers(0, 10**15), "spent": st.integers(0, 10**15)})
TARGET = st.fixed_dictionaries({
    "weight": st.integers(1, 100), "goal": st.decimals("0.000001", 10**6, places=6).map(float), "value": st.none() | st.integers(0, 10**7),
})
ROW = st.fixed_dictionaries({
    "id": st.just("x"), "targets": st.lists(TARGET, max_size=4), "milestones": st.lists(MARK, max_size=4), "funds": st.lists(FUNDS, max_size=3),
    "items": st.lists(st.fixed_dictionaries({"late": st.booleans()}), max_size=4),
})
FORMULA = {
    "weights": {"targets": 50, "milestones": 20, "funds": 15, "items": 15}, "late_milestone": "0.5",
    "grades": [{"at_least": "60", "zh": "合格", "en": "Fair"}, {"at_least": "0", "zh": "不合格", "en": "Poor"}],
}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROW, min_size=1, max_size=3), st.randoms())
def test_scores_are_between_0_and_100_and_do_not_depend_on_order(rows: list[dict[str, Any]], random: Any) -> None:
    document = recomputed({"formula": FORMULA, "agencies": rows, "tasks": []})
    for row in document["agencies"]:
        assert row["score"] is None or 0 <= row["score"] <= 100
        assert (row["score"] is None) == (all(value is None for value in row["criteria"].values()))
        better = {**row, "milestones": [{**one, "done_on": one["due"]} for one in row["milestones"]], "items": [{"late": False} for _ in row["items"]]}
        (best,) = recomputed({"formula": FORMULA, "agencies": [better], "tasks": []})["agencies"]
        assert row["score"] is None or best["score"] >= row["score"], "doing better is never worth less"
    assert digest(recomputed(document)) == digest(document)
    for row in rows:
        for name in ("targets", "milestones", "funds", "items"):
            random.shuffle(row[name])
    again = recomputed({"formula": FORMULA, "agencies": rows, "tasks": []})
    assert [row["score"] for row in again["agencies"]] == [row["score"] for row in document["agencies"]]
