"""Projects on both relational stores: who may, milestones and movements with a second person, the ledger beneath, tables of many."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tulou.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from tulou.kernel.house import House
from tulou.kernel.ledger import Balance, Ledger, Reversal, balances
from tulou.kernel.ledger import accounts as ledger_accounts
from tulou.kernel.ledger.service import verify
from tulou.kernel.policy import Actor, system
from tulou.kernel.sql import utcnow
from tulou.kernel.workflows import NewItem, Workflows
from tulou.plan.models import Decision
from tulou.plan.overview import Overviews
from tulou.plan.projects import Projects, funds
from tulou.plan.projects.models import (
    SOURCES,
    Decisions,
    NewMilestone,
    NewMovement,
    NewProject,
    Reached,
    Undo,
    plan_milestones,
    plan_movements,
)
from tulou.plan.projects.service import today
from tulou.plan.projects.table import lines
from tulou.plan.service import Plans

Person = Callable[..., Actor]
ORG = "fujian.szb"
AT = dt.datetime(2021, 3, 5, 4, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@pytest.fixture
def projects(plan_house: House) -> Projects:
    return plan_house.service(Projects)


def project(code: str = "C1-001", **more: Any) -> NewProject:
    return NewProject.model_validate({
        "org": ORG, "code": code, "task": "C1", "title": "东南大数据中心二期", "starts": "2020-09-01", "ends": "2022-06-30", "lon": 119.5, "lat": 25.9, **more
    })


def money(kind: str, fen: int, source: str = "budget", key: str = "", **more: Any) -> NewMovement:
    return NewMovement.model_validate({
        "kind": kind, "fen": fen, "source": source, "at": AT, "key": key or f"{kind}-{source}-{fen}", "evidence_text": "闽财指〔2021〕1 号",
        **({"use": "works"} if kind == "spent" else {}), **more,
    })


@pytest.fixture
def li(person: Person) -> Actor:
    return person("li", ORG, "reporter", "approver")


@pytest.fixture
def chen(person: Person) -> Actor:
    return person("chen", ORG, "approver")


async def approved(projects: Projects, li: Actor, chen: Actor, no: int, *new: NewMovement) -> list[dict[str, Any]]:
    papers = [(await projects.submit(li, no, one))["no"] for one in new]
    return await projects.decide(chen, no, True, Decisions(papers=papers))


async def test_funds_are_entries_of_the_ledger(projects: Projects, plan_house: House, li: Actor, chen: Actor) -> None:
    no = (await projects.put(li, project()))["no"]
    paper = await projects.submit(li, no, money("received", 500_00))
    assert (paper["state"], paper["entry"]) == ("submitted", None)
    assert (await projects.submit(li, no, money("received", 500_00)))["no"] == paper["no"], "the same key again"
    with pytest.raises(Conflict):
        await projects.submit(li, no, money("received", 1, key="received-budget-50000"))
    assert (await projects.project(li, no))["funds"]["total"]["received"] == 0, "nothing counts before a second person says so"
    (own,) = await projects.decide(li, no, True, Decisions(papers=[paper["no"]]))
    assert own["error"]["rule"] == "second person"
    (done,) = await projects.decide(chen, no, True, Decisions(papers=[paper["no"]]))
    assert (done["state"], done["decided_by"]) == ("approved", "user:chen")
    rest = await approved(
        projects, li, chen, no, money("planned", 900_00, at=AT + 400 * DAY), money("committed", 700_00), money("received", 200_00, "loans"),
        money("spent", 120_00), money("spent", 30_00, "loans", use="equipment", at=AT + 40 * DAY),
    )
    assert all(one["state"] == "approved" for one in rest)
    (over,) = await approved(projects, li, chen, no, money("spent", 400_00))
    assert over["error"]["rule"] == "not overdrawn"
    assert next(one for one in (await projects.project(li, no))["movements"] if one["no"] == over["no"])["state"] == "submitted"
    told = await projects.project(li, no)
    assert told["funds"]["sources"] == [
        {"source": "budget", "planned": 900_00, "committed": 700_00, "received": 500_00, "spent": 120_00},
        {"source": "loans", "planned": 0, "committed": 0, "received": 200_00, "spent": 30_00},
    ]
    assert told["funds"]["uses"] == [{"use": "works", "spent": 120_00}, {"use": "equipment", "spent": 30_00}]
    assert told["months"] == [{"month": "2021-03", "received": 700_00, "spent": 120_00}, {"month": "2021-04", "received": 0, "spent": 30_00}]
    assert (await projects.project(li, no, AT))["funds"]["total"] == {"planned": 0, "committed": 700_00, "received": 700_00, "spent": 120_00}
    entry = await plan_house.service(Ledger).entry(chen, done["entry"])
    assert [(one["code"], one["amount"]) for one in entry["postings"]] == [(f"project/{no}/cash/budget", 500_00), (f"project/{no}/funding/budget", -500_00)]
    steward = Actor("user:s", "s", ORG, "user", frozenset(li.roles | {next(iter(li.roles))._replace(role="steward")}), None, "user:s")
    with pytest.raises(Conflict, match="kept by plan"):
        await plan_house.service(Ledger).reverse(steward, done["entry"], Reversal(text="绕过第二人"))
    assert (await projects.db.read(verify))["ok"]


async def test_a_wrong_movement_is_undone_by_its_reversal(projects: Projects, li: Actor, chen: Actor) -> None:
    no = (await projects.put(li, project()))["no"]
    (wrong,) = await approved(projects, li, chen, no, money("received", 500_00))
    undo = Undo(evidence_text="重复登记")
    paper = await projects.undo(li, wrong["no"], undo)
    assert (await projects.undo(li, wrong["no"], undo))["no"] == paper["no"]
    await projects.decide(chen, no, False, Decisions(papers=[paper["no"]], note="凭据不足"))
    again = await projects.undo(li, wrong["no"], undo)
    assert again["no"] != paper["no"], "after a refusal one may ask again"
    await projects.decide(chen, no, True, Decisions(papers=[again["no"]]))
    assert (await projects.project(li, no))["funds"]["total"]["received"] == 0
    assert (await projects.project(li, no, AT + DAY))["funds"]["total"]["received"] == 500_00, "what was believed then"
    with pytest.raises(Conflict):
        await projects.undo(li, again["no"], undo)


async def test_two_who_approve_at_once_book_once(projects: Projects, plan_house: House, li: Actor, chen: Actor, person: Person) -> None:
    no = (await projects.put(li, project()))["no"]
    papers = Decisions(papers=[(await projects.submit(li, no, money("received", n)))["no"] for n in range(1, 9)])
    ends = await asyncio.gather(*[
        projects.decide(who, no, True, papers) for who in (chen, person("wang", ORG, "approver"), person("zhao", ORG, "approver"))
    ])
    won = [one["no"] for end in ends for one in end if "error" not in one]
    assert sorted(won) == papers.papers
    assert (await projects.project(li, no))["funds"]["total"]["received"] == sum(range(1, 9))
    assert (await projects.db.read(verify))["entries"] == 8


async def test_quotas_are_granted_and_used(projects: Projects, li: Actor, chen: Actor) -> None:
    no = (await projects.put(li, project()))["no"]

    def quota(kind: str, resource: str, quantity: str, unit: str) -> NewMovement:
        return NewMovement.model_validate({
            "kind": kind, "resource": resource, "quantity": quantity, "unit": unit, "at": AT, "key": f"{kind}{resource}{unit}", "evidence_text": "批复",
        })

    await approved(projects, li, chen, no, quota("granted", "land", "15", "mu"), quota("used", "land", "10500.5", "m2"),
                   quota("granted", "energy", "200", "tce"), quota("used", "energy", "1000000", "kWh"))
    assert (await projects.project(li, no))["funds"]["quotas"] == [
        {"resource": "land", "unit": "m2", "granted": 10_000_00, "used": 10_500_50}, {"resource": "energy", "unit": "tce", "granted": 200_000, "used": 122_900},
    ]


async def test_a_milestone_is_done_when_somebody_else_says_so(projects: Projects, li: Actor, chen: Actor) -> None:
    no = (await projects.put(li, project()))["no"]
    mark = await projects.plan_milestone(li, no, NewMilestone(title="主体封顶", due=today() - DAY))
    assert (mark["state"], mark["late"]) == ("planned", True)
    assert (await projects.plan_milestone(li, no, NewMilestone(title="主体封顶", due=today() - DAY)))["no"] == mark["no"]
    with pytest.raises(Conflict):
        await projects.plan_milestone(li, no, NewMilestone(title="主体封顶", due=today() + DAY))
    with pytest.raises(Invalid):
        await projects.reached(li, mark["no"], Reached(done_on=today() + DAY, evidence_text="x"))
    with pytest.raises(Conflict):
        await projects.decide_milestone(chen, mark["no"], True, Decision())
    reached = Reached(done_on=today() - DAY, evidence_text="验收单", evidence_name="验收.pdf", evidence_base64="QUJD")
    await projects.reached(li, mark["no"], reached)
    assert await projects.evidence(chen, "milestone", mark["no"]) == ("验收.pdf", b"ABC")
    with pytest.raises(Forbidden):
        await projects.decide_milestone(li, mark["no"], True, Decision())
    with pytest.raises(Invalid):
        await projects.decide_milestone(chen, mark["no"], False, Decision())
    back = await projects.decide_milestone(chen, mark["no"], False, Decision(note="日期不符"))
    assert (back["state"], back["note"], back["done_on"]) == ("planned", "日期不符", None)
    await projects.reached(li, mark["no"], reached)
    done = await projects.decide_milestone(chen, mark["no"], True, Decision())
    assert (done["state"], done["late"], done["decided_by"]) == ("done", False, "user:chen")
    told = await projects.project(li, no)
    assert (told["milestones"][0]["state"], told["done"], told["finished"]) == ("done", 1, 0)
    with pytest.raises(sa.exc.IntegrityError):
        await projects.db.write(lambda c: c.execute(plan_milestones.update().values(decided_by="user:li")))


async def test_an_organisation_sees_its_own(projects: Projects, li: Actor, chen: Actor, person: Person, admin: Actor) -> None:
    no = (await projects.put(li, project()))["no"]
    (made,) = await approved(projects, li, chen, no, money("received", 5))
    mark = await projects.plan_milestone(li, no, NewMilestone(title="开工", due=today()))
    stranger = person("he", "fujian.gxt", "reporter", "approver", "steward")
    for asked in (
        projects.project(stranger, no), projects.submit(stranger, no, money("received", 6)), projects.undo(stranger, made["no"], Undo(evidence_text="x")),
        projects.decide(stranger, no, True, Decisions(papers=[1])), projects.reached(stranger, mark["no"], Reached(done_on=today(), evidence_text="x")),
        projects.decide_milestone(stranger, mark["no"], True, Decision()), projects.evidence(stranger, "movement", made["no"]),
        projects.plan_milestone(stranger, no, NewMilestone(title="x", due=today())),
    ):
        with pytest.raises(NotFound):
            await asked
    assert (await projects.find(stranger))["items"] == []
    assert (await projects.overview(stranger))["projects"] == 0
    with pytest.raises(Forbidden):
        await projects.put(stranger, project("X"))
    with pytest.raises(Forbidden):
        await projects.decide(person("viewer", ORG, "viewer"), no, True, Decisions(papers=[made["no"]]))
    with pytest.raises(Forbidden, match="named people"):
        await projects.submit(system("plan"), no, money("received", 7))
    above = person("ma", "fujian", "viewer", subtree=True)
    assert [one["no"] for one in (await projects.find(above, task="C1"))["items"]] == [no]
    await projects.put(li, project("S-1", synthetic=True))
    everything = await projects.overview(admin)
    assert (everything["projects"], everything["synthetic"], everything["tasks"]["C1"]["funds"]["total"]["received"]) == (1, 1, 5)


async def test_what_is_refused(projects: Projects, li: Actor) -> None:
    for bad in ({"ends": "2020-01-01"}, {"lat": None}, {"code": "有空格 "}):
        with pytest.raises(ValidationError):
            project(**bad)
    for bad, field in (({"task": "Z9"}, "task"), ({"target": "5g-stations"}, "target")):
        with pytest.raises(Invalid) as caught:
            await projects.put(li, project(**bad))
        assert caught.value.field == field
    no = (await projects.put(li, project()))["no"]
    assert (await projects.put(li, project()))["outcome"] == "unchanged"
    assert (await projects.put(li, project(title="改名")))["outcome"] == "changed"
    for frozen in ({"task": "C2"}, {"target": "racks-in-use"}, {"synthetic": True}):
        with pytest.raises(Conflict) as kept:
            await projects.put(li, project(**frozen))
        assert kept.value.field == next(iter(frozen))
    with pytest.raises(Invalid):
        await projects.submit(li, no, money("received", 5, at=utcnow() + DAY))
    for bad in ({"fen": 0}, {"source": None}, {"use": "works"}, {"kind": "spent"}, {"quantity": "1", "unit": "mu"}):
        with pytest.raises(ValidationError):
            NewMovement.model_validate({"kind": "received", "fen": 5, "source": "own", "at": AT, "key": "k", "evidence_text": "x", **bad})


async def test_tables_of_many(projects: Projects, li: Actor, chen: Actor) -> None:
    register = "\ufefforg,code,task,title,starts,ends,lon,lat\n" + "\n".join(
        [f"{ORG},P{n},C1,机房 {n},2020-09-01,2022-06-30,119.{n},26.1" for n in range(3)]
        + [f"{ORG},P9,Z1,无此任务,2020-09-01,2022-06-30,,", "fujian.gxt,P1,N3,别家的,2020-09-01,2022-06-30,,", f"{ORG},P8,C1,缺列"]
    )
    first = await projects.bring_in(li, lines("projects", register.encode()))
    assert [one.get("outcome") or one["error"]["field"] for one in first] == ["created"] * 3 + ["task", "action", "line"]
    assert [one["line"] for one in first] == [2, 3, 4, 5, 6, 7]
    again = await projects.bring_in(li, lines("projects", register.encode("gb18030").replace("\ufeff".encode("gb18030"), b"")))
    assert [one.get("outcome") for one in again[:3]] == ["unchanged"] * 3
    marks = f"org,code,title,due,final\n{ORG},P0,竣工,2022-06-30,true\n{ORG},P7,竣工,2022-06-30,\n"
    assert [one.get("outcome") or one["error"]["status"] for one in await projects.bring_in(li, lines("milestones", marks.encode()))] == ["created", 404]
    moves = (
        "org,code,kind,source,use,yuan,resource,quantity,unit,at,key,evidence\n"
        f'{ORG},P0,received,special_bonds,,"1,234,567.89",,,,2021-03-05,b1,债券到账\n'
        f"{ORG},P0,spent,special_bonds,works,0.001,,,,2021-03-06,b2,支付\n{ORG},P0,granted,,,,land,15,mu,2021-01-01,l1,用地批复\n"
    )
    for outcome in ("created", "unchanged"):
        told = await projects.bring_in(li, lines("movements", moves.encode()))
        assert [one.get("outcome") or one["error"]["field"] for one in told] == [outcome, "yuan", outcome]
    no = told[0]["project"]
    await projects.decide(chen, no, True, Decisions(papers=[told[0]["no"], told[2]["no"]]))
    shown = (await projects.project(li, no))["funds"]
    assert (shown["sources"][0]["received"], shown["quotas"][0]["granted"]) == (123_456_789, 10_000_00)
    for what, text in (("castles", "a"), ("projects", "org,moat\n"), ("projects", "org\n"), ("projects", b"\xff\xff\xff")):
        with pytest.raises(Invalid):
            lines(what, text if isinstance(text, bytes) else text.encode())


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(["planned", "committed", "received", "spent"]), st.sampled_from(SOURCES), st.integers(1, 10**12)), max_size=30))
def test_sources_and_uses_agree(moves: list[tuple[str, str, int]]) -> None:
    """Whatever is booked: figures by source are its sums, and what was spent by source is what was spent by use."""
    sums: dict[str, list[Any]] = {}
    for kind, source, amount in moves:
        for account, sign in zip(funds.sides(kind, source, "works" if kind == "spent" else None, None), (1, -1), strict=True):
            row = sums.setdefault(account.code, [account.kind, 0, 0])
            row[1 if sign > 0 else 2] += amount
    told = funds.figures(Balance(0, f"project/1/{code}", kind, "CNY", debit, credit) for code, (kind, debit, credit) in sums.items())
    for stage, total in told["total"].items():
        assert total == sum(amount for kind, _, amount in moves if kind == stage)
        for row in told["sources"]:
            assert row[stage] == sum(amount for kind, source, amount in moves if (kind, source) == (stage, row["source"]))
    assert sum(one["spent"] for one in told["uses"]) == told["total"]["spent"]


def test_units_are_exact() -> None:
    def parts(quantity: str, unit: str) -> int:
        resource = "land" if unit in ("m2", "mu") else "energy"
        return NewMovement(kind="granted", resource=resource, quantity=Decimal(quantity), unit=unit, at=AT, key="k", evidence_text="x").parts()[0]  # type: ignore[arg-type]

    assert [parts("1", "mu"), parts("3", "mu"), parts("0.01", "m2"), parts("8136.7", "kWh"), parts("1.5", "tce")] == [66_667, 200_000, 1, 1000, 1500]


async def test_the_movements_table_holds_a_second_person(projects: Projects, li: Actor, chen: Actor) -> None:
    no = (await projects.put(li, project()))["no"]
    await approved(projects, li, chen, no, money("received", 5))
    for wrong in ({"decided_by": "user:li"}, {"entry": None}, {"amount": -5}):
        with pytest.raises(sa.exc.IntegrityError):
            await projects.db.write(lambda c, wrong=wrong: c.execute(plan_movements.update().values(**wrong)))
    mine = await projects.db.read(lambda c: balances(c, ledger_accounts.c.subject == funds.subject(no)))
    assert len(mine) == 2


async def test_a_task_and_the_whole_in_one_answer(projects: Projects, plan_house: House, li: Actor, chen: Actor, person: Person) -> None:
    overviews, workflows = plan_house.service(Overviews), plan_house.service(Workflows)
    no = (await projects.put(li, project()))["no"]
    await projects.plan_milestone(li, no, NewMilestone(title="开工", due=today() - DAY))
    steward = person("ma", ORG, "steward")
    item = await workflows.create(steward, NewItem(workflow="supervision", org=ORG, title="督办", fields={"demand": "x", "task": "C1"}))
    await workflows.create(steward, NewItem(workflow="supervision", org=ORG, title="别的任务", fields={"demand": "x", "task": "C2"}))
    told = await overviews.task(li, "C1")
    assert ([one["no"] for one in told["items"]], told["projects"]["projects"], told["projects"]["late"]) == ([item["no"]], 1, 1)
    outsider = await overviews.task(person("he", "xiamen"), "C1")
    assert (outsider["items"], outsider["projects"], outsider["title_en"]) == (None, None, told["title_en"])
    with pytest.raises(NotFound):
        await overviews.task(li, "Z9")
    wall = await overviews.screen(li)
    assert (len(wall["tasks"]), len(wall["targets"]), [one["title"] for one in wall["late_milestones"]], wall["late_items"]) == (25, 21, ["开工"], [])
    hidden = await overviews.screen(person("he", "xiamen"))
    assert (hidden["projects"], hidden["late_milestones"], hidden["late_items"]) == (None, None, None)


async def test_a_target_counts_the_register(projects: Projects, plan_house: House, li: Actor, chen: Actor, admin: Actor) -> None:
    """Finished projects are a reported figure: never measured, and never the synthetic ones."""
    plans, target = plan_house.service(Plans), "5g-ai-projects"
    assert await plans.measure(admin, target)
    assert ((await plans.target(admin, target))["state"], (await plans.target(admin, target))["value"]) == ("no_data", None)
    for code, synthetic, ends in (("A", False, True), ("B", False, False), ("S", True, True)):
        no = (await projects.put(li, project(code, task="T1", target=target, synthetic=synthetic)))["no"]
        mark = await projects.plan_milestone(li, no, NewMilestone(title="验收", due=today(), final=ends))
        await projects.reached(li, mark["no"], Reached(done_on=today(), evidence_text="验收意见"))
        assert (await plans.measure(admin, target))[0]["value"] == (0 if code == "A" else 1), "before a second person says so"
        await projects.decide_milestone(chen, mark["no"], True, Decision())
    assert [(row["value"], row["known"], row["reported"]) for row in await plans.measure(admin, target)] == [(1, 2, 1)]
    now = await plans.target(admin, target)
    assert (now["state"], now["value"], now["met"]) == ("reported", 1, False)
    assert "第二人复核" in now["why_zh"]
    assert "second person" in now["why_en"]
    assert [value for _, value in now["trend"]][-1] == 1
    assert (await plans.score(admin))["counts"]["reported"] == 1
