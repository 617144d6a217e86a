"""Operations on the plan, on both relational stores: who may do what, and what a figure says of itself."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Forbidden, Invalid, NotFound, TooLarge, Unauthenticated
from tulou.kernel.house import House
from tulou.kernel.migrate import heads
from tulou.kernel.policy import ANONYMOUS, Actor, system
from tulou.kernel.sql import utcnow
from tulou.plan.models import Decision, NewReport, plan_definitions, plan_measurements, plan_reports, plan_scores
from tulou.plan.papers import MAX_EVIDENCE
from tulou.plan.queries import Definition, Selection, Tally, digest
from tulou.plan.scores import recomputed
from tulou.plan.service import Plans

Person = Callable[..., Actor]
TARGET = "5g-stations"
LEAD = "fujian.txglj"


def figure(value: float = 64_000, **more: Any) -> NewReport:
    as_of = utcnow() - dt.timedelta(days=1)
    return NewReport.model_validate({"value": value, "as_of": as_of, "evidence_text": "核查表第 3 页", **more})


class Found:
    """Facts that always find the same."""

    def __init__(self, tally: Tally) -> None:
        self.found = tally

    async def tally(self, selection: Selection, at: dt.datetime) -> Tally:
        return self.found

    async def finished(self, target: str) -> Tally:
        return self.found


async def test_everyone_signed_in_reads_the_plan_and_nobody_else(plans: Plans, person: Person) -> None:
    reader = person("wang", "xiamen")
    tasks = await plans.tasks(reader)
    assert (len(tasks), sum(len(task["systems"]) for task in tasks)) == (25, 116)
    assert tasks[0]["agencies"] == [
        {"id": LEAD, "name_zh": "福建省通信管理局", "name_en": "Fujian Communications Administration"}
    ]
    targets = await plans.targets(reader)
    assert len(targets) == 21
    assert all(one["state"] == "no_data" and one["value"] is None and one["met"] is None for one in targets)
    assert all(one["why_zh"] and one["why_en"] and one["version"] == 1 for one in targets)
    assert (await plans.summary(reader))["targets"] == {
        "measured": 0, "reported": 0, "no_data": 21, "met": 0, "total": 21
    }
    for ask in (plans.tasks, plans.targets, plans.systems, plans.score, plans.summary):
        with pytest.raises(Unauthenticated):
            await ask(ANONYMOUS)
    device = Actor("device:d", "d", "xiamen", "device")
    with pytest.raises(Forbidden):
        await plans.targets(device)


async def test_a_report_counts_only_after_a_second_person_approves(plans: Plans, person: Person) -> None:
    author, second = person("li", LEAD, "reporter", "approver"), person("chen", LEAD, "approver")
    report = await plans.submit_report(author, TARGET, figure(64_000.5))
    assert (report["state"], report["submitted_by"], report["value"]) == ("submitted", "user:li", 64_000.5)
    assert (await plans.target(author, TARGET))["state"] == "no_data"
    for decide in (plans.approve, plans.reject):
        with pytest.raises(Forbidden, match="does not decide"):
            await decide(author, report["id"], Decision(note="好"))
    approved = await plans.approve(second, report["id"], Decision())
    assert (approved["state"], approved["decided_by"]) == ("approved", "user:chen")
    now = await plans.target(author, TARGET)
    assert (now["state"], now["value"], now["met"]) == ("reported", 64_000.5, False)
    assert "li" in now["why_zh"]
    assert "chen" in now["why_en"]
    assert now["trend"] == [[int(dt.datetime.fromisoformat(report["as_of"]).timestamp() * 1000), 64_000.5]]
    with pytest.raises(Conflict, match="chen"):
        await plans.reject(person("zhao", LEAD, "approver"), report["id"], Decision(note="晚了"))


async def test_a_person_cannot_decide_by_another_of_his_credentials(plans: Plans, person: Person) -> None:
    author = person("li", LEAD, "reporter", "approver")
    report = await plans.submit_report(author, TARGET, figure())
    token = replace(author, id="token:7", kind="token", scopes=frozenset({"plan.*"}))
    with pytest.raises(Forbidden, match="does not decide"):
        await plans.approve(token, report["id"], Decision())


async def test_the_house_itself_neither_reports_nor_approves(plans: Plans, person: Person) -> None:
    machine = system("cli")
    with pytest.raises(Forbidden, match="named people"):
        await plans.submit_report(machine, TARGET, figure())
    report = await plans.submit_report(person("li", LEAD, "reporter"), TARGET, figure())
    with pytest.raises(Forbidden, match="named people"):
        await plans.approve(machine, report["id"], Decision())


async def test_the_store_itself_refuses_the_same_person(plans: Plans, person: Person) -> None:
    report = await plans.submit_report(person("li", LEAD, "reporter"), TARGET, figure())
    mine = plan_reports.update().where(plan_reports.c.id == report["id"])
    changes: list[dict[str, Any]] = [
        {"state": "approved", "decided_by": "user:li", "decided_at": utcnow()},
        {"state": "approved"},
        {"state": "approved", "decided_by": "user:chen"},
        {"decided_by": "user:chen", "decided_at": utcnow()},
        {"state": "true", "decided_by": "user:chen", "decided_at": utcnow()},
        {"evidence_text": "  "},
    ]
    for change in changes:
        with pytest.raises(sa.exc.IntegrityError):
            await plans.db.write(lambda c, change=change: c.execute(mine.values(**change)))  # type: ignore[misc]


async def test_only_the_lead_agency_s_reporters_and_approvers_do_so(plans: Plans, person: Person) -> None:
    elsewhere = person("wu", "fujian.gxt", "reporter", "approver")
    for actor in (elsewhere, person("sun", LEAD, "viewer"), person("xu", LEAD, "approver")):
        with pytest.raises(Forbidden):
            await plans.submit_report(actor, TARGET, figure())
    report = await plans.submit_report(person("li", LEAD, "reporter"), TARGET, figure())
    with pytest.raises(NotFound):
        await plans.approve(elsewhere, report["id"], Decision())
    with pytest.raises(Forbidden):
        await plans.approve(person("he", LEAD, "reporter"), report["id"], Decision())
    above = person("fu", "fujian", "approver", subtree=True)
    assert (await plans.approve(above, report["id"], Decision()))["state"] == "approved"


async def test_reports_are_seen_by_their_author_and_the_agency_only(plans: Plans, person: Person) -> None:
    author, other = person("li", LEAD, "reporter"), person("wang", "xiamen", "viewer")
    file = {"evidence_name": "表.xlsx", "evidence_base64": base64.b64encode(b"figures").decode()}
    report = await plans.submit_report(author, TARGET, figure(**file))
    assert report["evidence_sha256"] == hashlib.sha256(b"figures").hexdigest()
    assert await plans.evidence(author, report["id"]) == ("表.xlsx", b"figures")
    assert len((await plans.target(author, TARGET))["reports"]) == 1
    assert (await plans.target(other, TARGET))["reports"] == []
    for key in (report["id"], 999):
        with pytest.raises(NotFound) as caught:
            await plans.evidence(other, key)
        assert caught.value.en == f"there is no report {key}"


async def test_a_rejection_says_why_and_never_counts(plans: Plans, person: Person) -> None:
    report = await plans.submit_report(person("li", LEAD, "reporter"), TARGET, figure())
    second = person("chen", LEAD, "approver")
    with pytest.raises(Invalid) as caught:
        await plans.reject(second, report["id"], Decision(note=" "))
    assert caught.value.field == "note"
    assert (await plans.reject(second, report["id"], Decision(note="口径不对")))["state"] == "rejected"
    assert (await plans.target(second, TARGET))["state"] == "no_data"


@pytest.mark.parametrize(
    "bad",
    [
        {"value": -1}, {"value": "NaN"}, {"value": "Infinity"}, {"value": "1e30"}, {"value": "0.0000001"},
        {"as_of": "2022-01-01T00:00:00"}, {"evidence_text": ""}, {"evidence_text": " \n "}, {"evidence_name": "a/b"},
        {"note": "x"},
    ],
)  # fmt: skip
def test_a_report_s_fields_are_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        figure(**bad)


async def test_a_report_s_evidence_and_time_are_checked(plans: Plans, person: Person) -> None:
    author = person("li", LEAD, "reporter")
    tomorrow = utcnow() + dt.timedelta(days=1)
    big = base64.b64encode(b"\0" * (MAX_EVIDENCE + 1)).decode()
    for bad, error, field in (
        ({"as_of": tomorrow}, Invalid, "as_of"),
        ({"evidence_base64": "AAAA"}, Invalid, "evidence_name"),
        ({"evidence_base64": "!", "evidence_name": "a"}, Invalid, "evidence_base64"),
        ({"evidence_base64": big, "evidence_name": "a"}, TooLarge, "evidence_base64"),
    ):
        with pytest.raises(error) as caught:
            await plans.submit_report(author, TARGET, figure(**bad))
        assert caught.value.field == field
    with pytest.raises(NotFound):
        await plans.submit_report(author, "castles", figure())


async def test_a_measurement_beats_a_report(plans: Plans, person: Person, admin: Actor) -> None:
    report = await plans.submit_report(person("li", LEAD, "reporter"), TARGET, figure(70_000))
    await plans.approve(person("chen", LEAD, "approver"), report["id"], Decision())
    plans.facts = Found(Tally(81_000, 80_500, Decimal(80_000), utcnow()))
    stored = await plans.measure(admin, TARGET)
    assert [(row["target"], row["value"], row["known"], row["reported"]) for row in stored] == [
        (TARGET, 80_000, 81_000, 80_500)
    ]
    now = await plans.target(admin, TARGET)
    assert (now["state"], now["value"], now["met"]) == ("measured", 80_000, True)
    assert "70000" in now["why_zh"]
    assert "80500" in now["why_en"]
    assert len(now["measurements"]) == 1
    assert now["trend"][-1][1] == 80_000


async def test_the_periodic_measurement_stores_what_changes(plans: Plans, admin: Actor) -> None:
    plans.facts = Found(Tally(3, 2, Decimal(2), utcnow()))
    measurable = sum(target.definition.measures for target in plans.plan.targets.values())
    assert await plans.measure_due() == measurable == 11
    assert await plans.measure_due() == 0
    plans.facts = Found(Tally(3, 3, Decimal(3), utcnow()))
    assert await plans.measure_due() == 11
    earlier = utcnow() - dt.timedelta(minutes=11)
    await plans.db.write(lambda c: c.execute(plan_measurements.update().values(as_of=earlier)))
    assert await plans.measure_due() == 11, "an unchanged value is stored again after a while"
    with pytest.raises(Forbidden):
        await plans.measure(Actor("user:x", "x", "xiamen", "user", frozenset(), None, "user:x"))


async def test_a_trend_spans_the_whole_history_and_ends_with_the_newest(plans: Plans, admin: Actor) -> None:
    now = utcnow()
    rows = [
        {"target": TARGET, "version": 1, "as_of": now - dt.timedelta(hours=hour), "value": Decimal(1000 - hour),
         "known": 9, "reported": 9}
        for hour in range(130)
    ]  # fmt: skip
    await plans.db.write(lambda c: c.execute(plan_measurements.insert(), rows))
    trend = (await plans.target(admin, TARGET))["trend"]
    assert 30 <= len(trend) <= 60
    assert trend[-1] == [int(now.timestamp() * 1000), 1000]
    assert trend[0][1] < 880
    assert trend == sorted(trend)
    plans.facts = Found(Tally(9, 9, Decimal(2000), now))
    await plans.measure(admin, TARGET)
    assert (await plans.target(admin, TARGET))["trend"][-1][1] == 2000


async def test_definitions_are_versioned(plans: Plans, person: Person) -> None:
    keeper, reader = person("ma", "fujian", "steward"), person("wang", "xiamen")
    assert await plans.seed() == 0, "the pack's definitions are there already"
    new = Definition.model_validate(
        {"query": {"count": {"types": ["Site5G"], "reported_within_days": 1}}, "note_zh": "一天", "note_en": "one day"}
    )
    with pytest.raises(Forbidden):
        await plans.define(reader, TARGET, new)
    plans.facts = Found(Tally(5, 4, Decimal(4), utcnow()))
    await plans.measure(keeper, TARGET)
    before = utcnow()
    assert (await plans.define(keeper, TARGET, new))["version"] == 2
    now = await plans.target(reader, TARGET)
    assert [one["version"] for one in now["definitions"]] == [1, 2]
    assert [one["source"][:5] for one in now["definitions"]] == ["pack:", "house"]
    assert (now["version"], now["state"]) == (2, "no_data"), "the old measurement was by the old definition"
    with pytest.raises(Conflict):
        await plans.define(keeper, TARGET, new)
    for spoiled, field in (
        ({"types": ["Castle"], "reported_within_days": 1}, "definition.query.count.types"),
        ({"types": ["Site5G"], "reported_within_days": 1, "distinct": "moat"}, "definition.query.count"),
    ):
        bad = Definition.model_validate({"query": {"count": spoiled}, "note_zh": "坏", "note_en": "bad"})
        with pytest.raises(Invalid) as caught:
            await plans.define(keeper, TARGET, bad)
        assert caught.value.field == field
    assert (await plans.score(reader, before))["counts"]["measured"] == 1, "at that time version 1 was in force"
    assert await plans.seed() == 0, "a version of the house is not overruled by an unchanged pack"


async def test_a_pack_s_changed_definition_becomes_a_version(plans: Plans) -> None:
    old = plans.plan.targets[TARGET]
    plans.plan.targets[TARGET] = old.model_copy(
        update={"definition": old.definition.model_copy(update={"note_en": "Counts differently."})}
    )
    assert await plans.seed() == 1
    assert await plans.seed() == 0
    count = sa.select(sa.func.count()).select_from(plan_definitions).where(plan_definitions.c.target == TARGET)
    assert await plans.db.read(lambda c: c.execute(count).scalar_one()) == 2


async def test_a_score_is_deterministic_filed_once_and_recomputable(plans: Plans, person: Person) -> None:
    keeper = person("ma", "fujian", "steward")
    report = await plans.submit_report(person("li", LEAD, "reporter"), TARGET, figure(40_000))
    await plans.approve(person("chen", LEAD, "approver"), report["id"], Decision())
    at = utcnow()
    first = await plans.file_score(keeper, at)
    later = await plans.submit_report(person("li", LEAD, "reporter"), "egress-bandwidth", figure(40))
    await plans.approve(person("chen", LEAD, "approver"), later["id"], Decision())
    second = await plans.file_score(keeper, at)
    assert first == second, "what was approved later changes nothing for that moment"
    assert (await plans.score(keeper))["score"] > first["score"]
    document = {key: value for key, value in first.items() if key != "digest"}
    assert digest(recomputed(document)) == first["digest"]
    rows = await plans.db.read(lambda c: c.execute(sa.select(plan_scores)).all())
    assert [row.digest for row in rows] == [first["digest"]]
    assert hashlib.sha256(rows[0].document.encode()).hexdigest() == first["digest"]
    with pytest.raises(Invalid):
        await plans.score(keeper, utcnow() + dt.timedelta(hours=1))
    with pytest.raises(Forbidden):
        await plans.file_score(person("wang", "xiamen", "viewer"))


async def test_what_was_done_is_in_the_audit(plan_house: House, plans: Plans, person: Person) -> None:
    report = await plans.submit_report(person("li", LEAD, "reporter"), TARGET, figure())
    await plans.approve(person("chen", LEAD, "approver"), report["id"], Decision())
    log = sa.select(audit.audit_log.c.action, audit.audit_log.c.actor).order_by(audit.audit_log.c.seq.desc()).limit(2)
    assert [tuple(row) for row in await plans.db.read(lambda c: c.execute(log).all())] == [
        ("plan.report.approve", "user:chen"), ("plan.report.create", "user:li")
    ]


async def test_the_tables_are_those_of_the_revisions(plan_house: House) -> None:
    tables = [name for name in plan_definitions.metadata.tables if name.startswith("plan_")]
    assert len(tables) >= 8

    def compare(connection: sa.Connection) -> None:
        inspector = sa.inspect(connection)
        for name in tables:
            declared = plan_definitions.metadata.tables[name]
            there = {column["name"]: column["nullable"] for column in inspector.get_columns(name)}
            assert there == {column.name: column.nullable for column in declared.columns}
            indexes = {index["name"] for index in inspector.get_indexes(name)}
            assert indexes == {index.name for index in declared.indexes}
            checks = {one["name"] for one in inspector.get_check_constraints(name)}
            assert checks == {c.name for c in declared.constraints if isinstance(c, sa.CheckConstraint)}

    await plan_house.db.read(compare)
    applied = await plan_house.db.read(lambda c: {row[0] for row in c.execute(sa.text("SELECT version_num FROM alembic_version"))})
    assert applied == heads(plan_house.hooks.hook.migrations()), "a start looks no further"
