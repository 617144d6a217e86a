"""Facilities to share and scenarios to apply for, on both relational stores: nearest first, two parties, reviews, places."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from tulou.context import haversine
from tulou.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from tulou.kernel.house import House
from tulou.kernel.policy import Actor
from tulou.kernel.sql import utcnow
from tulou.plan.models import Decision
from tulou.plan.openings import Openings
from tulou.plan.openings.models import NewApplication, NewOpening, NewReview

Person = Callable[..., Actor]
OWNER, GUEST = "fujian.txglj", "fujian.zjt"


@pytest.fixture
def openings(plan_house: House) -> Openings:
    return plan_house.service(Openings)


def pole(lon: float = 119.3, lat: float = 26.08, **more: Any) -> NewOpening:
    return NewOpening.model_validate({"org": OWNER, "kind": "pole", "title": "智慧杆", "lon": lon, "lat": lat, **more})


def asks(org: str = GUEST) -> NewApplication:
    return NewApplication(org=org, evidence_text="挂载交通摄像机两台，总重 12 kg")


async def test_the_nearest_come_first(openings: Openings, person: Person) -> None:
    owner, guest = person("li", OWNER, "reporter"), person("he", "xiamen")
    places = [(119.3, 26.08), (119.31, 26.08), (119.3, 26.3), (118.1, 24.48), (119.2999, 26.0801)]
    made = [await openings.offer(owner, pole(lon, lat, title=f"杆 {n}")) for n, (lon, lat) in enumerate(places)]
    await openings.offer(owner, pole(119.3, 26.08, kind="tower"))
    await openings.close(owner, (await openings.offer(owner, pole()))["no"])
    await openings.offer(owner, pole(closes=utcnow() - dt.timedelta(seconds=1)))
    found = await openings.find(guest, kind="pole", near=(119.3, 26.08), within_m=2000)
    assert [one["title"] for one in found] == ["杆 0", "杆 4", "杆 1"]
    assert [one["distance_m"] for one in found] == [round(haversine(*places[n], 119.3, 26.08)) for n in (0, 4, 1)]
    wide = await openings.find(guest, kind="pole", near=(119.3, 26.08), within_m=250_000)
    assert [one["no"] for one in wide] == [made[n]["no"] for n in (0, 4, 1, 2, 3)]
    assert [one["no"] for one in await openings.find(guest, kind="pole")] == [one["no"] for one in reversed(made)]


async def test_a_claim_concerns_two_and_nobody_else(openings: Openings, person: Person) -> None:
    owner, guest = person("li", OWNER, "reporter", "approver"), person("wang", GUEST, "reporter", "approver")
    no = (await openings.offer(owner, pole()))["no"]
    claim = await openings.apply(guest, no, asks())
    with pytest.raises(Conflict):
        await openings.apply(guest, no, asks())
    with pytest.raises(Conflict):
        await openings.apply(owner, no, asks(OWNER))
    stranger = person("he", "fujian.gxt", "reporter", "approver")
    assert (await openings.opening(stranger, no))["applications"] == []
    assert [one["no"] for one in (await openings.opening(guest, no))["applications"]] == [claim["no"]]
    with pytest.raises(NotFound):
        await openings.decide(stranger, claim["no"], True, Decision())
    with pytest.raises(Forbidden):
        await openings.decide(guest, claim["no"], True, Decision())
    with pytest.raises(Invalid):
        await openings.decide(owner, claim["no"], False, Decision())
    same = Actor("token:1", "token", OWNER, "token", owner.roles, None, guest.person)
    with pytest.raises(Forbidden, match="who submitted"):
        await openings.decide(same, claim["no"], True, Decision())
    assert (await openings.decide(owner, claim["no"], True, Decision(note="同意")))["state"] == "accepted"
    assert (await openings.opening(stranger, no))["free"] == 0
    other = await openings.apply(stranger, no, asks("fujian.gxt"))
    with pytest.raises(Conflict, match="no place"):
        await openings.decide(owner, other["no"], True, Decision())
    with pytest.raises(Forbidden):
        await openings.end(owner, claim["no"])
    assert (await openings.end(guest, claim["no"]))["state"] == "ended"
    assert (await openings.decide(owner, other["no"], True, Decision()))["state"] == "accepted"


async def test_a_place_is_not_given_twice(openings: Openings, person: Person) -> None:
    owner, second = person("li", OWNER, "reporter", "approver"), person("chen", OWNER, "approver")
    no = (await openings.offer(owner, pole(places=2)))["no"]
    claims = [(await openings.apply(person(f"p{org}", org, "reporter"), no, asks(org)))["no"] for org in ("xiamen", "fuzhou", "putian", "sanming")]
    ends = await asyncio.gather(
        *[openings.decide(who, claim, True, Decision()) for claim in claims for who in (owner, second)], return_exceptions=True
    )
    assert sum(isinstance(one, dict) for one in ends) == 2
    assert all(isinstance(one, dict | Conflict) for one in ends), ends
    assert (await openings.opening(owner, no))["free"] == 0


async def test_a_scenario_is_reviewed_by_several(openings: Openings, person: Person) -> None:
    owner, guest = person("li", OWNER, "reporter", "approver"), person("wang", GUEST, "reporter", "approver")
    with pytest.raises(ValidationError):
        NewOpening(org=OWNER, kind="scenario", title="无人机巡检", reviews=1)
    no = (await openings.offer(owner, NewOpening(org=OWNER, kind="scenario", title="无人机巡检", reviews=2)))["no"]
    claim = (await openings.apply(guest, no, asks()))["no"]
    first, second = person("r1", OWNER, "approver"), person("r2", OWNER, "approver")
    await openings.review(first, claim, NewReview(score=80, text="方案完整"))
    with pytest.raises(Conflict):
        await openings.review(first, claim, NewReview(score=90, text="再评一次"))
    with pytest.raises(Conflict, match="2 reviews are needed"):
        await openings.decide(owner, claim, True, Decision())
    with pytest.raises(Forbidden):
        await openings.review(guest, claim, NewReview(score=100, text="自评"))
    told = await openings.review(second, claim, NewReview(score=91, text="可落地"))
    assert told["applications"][0]["mean"] == 85.5
    assert (await openings.opening(guest, no))["applications"][0]["reviews"] == [], "reviews are the owner's"
    assert (await openings.decide(owner, claim, True, Decision(note="入选")))["state"] == "accepted"
    with pytest.raises(Conflict):
        await openings.review(person("r3", OWNER, "approver"), claim, NewReview(score=1, text="迟到"))
