"""The plan over the house's real HTTP routes, by people with tokens, on both relational stores."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from tulou.app import Front
from tulou.kernel.house import House
from tulou.kernel.organisations import Credentials, People
from tulou.kernel.organisations.models import NewToken, NewUser, RoleGrant
from tulou.kernel.policy import Actor, Binding

LEAD = "fujian.txglj"
REPORTS = "/api/v1/plan/targets/5g-stations/reports"
REPORT = {"value": 64000, "as_of": "2022-06-30T00:00:00Z", "evidence_text": "核查表"}

Client = Callable[..., Any]


@pytest.fixture
async def client(plan_house: House, admin: Actor) -> AsyncIterator[Client]:
    """`await client("li", "reporter")`: a client with a token of a new person of the lead agency."""
    app = Front(plan_house)
    made: list[httpx.AsyncClient] = []

    async def make(name: str = "", *roles: str, org: str = LEAD) -> httpx.AsyncClient:
        headers = {}
        if name:
            grants = [RoleGrant(org=org, role=role) for role in roles]  # type: ignore[arg-type]
            await plan_house.service(People).create(
                admin, NewUser(name=name, display=name, org=org, password="a long enough passphrase", roles=grants)
            )
            bindings = frozenset(Binding(org, role) for role in roles)
            actor = Actor(f"user:{name}", name, org, "user", bindings, None, f"user:{name}")
            token = await plan_house.service(Credentials).create_token(
                actor, NewToken(name="desk", org=org, scopes=["plan.*"])
            )
            headers["authorization"] = f"Bearer {token['token']}"
        made.append(httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app, client=("192.0.2.1", 1)), base_url="http://house", headers=headers
        ))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()


async def test_nobody_gets_nothing(client: Client) -> None:
    stranger = await client()
    for path in ("tasks", "targets", "targets/5g-stations", "systems", "score", "reports/1/evidence"):
        answer = await stranger.get(f"/api/v1/plan/{path}")
        assert answer.status_code == 401, path
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await stranger.post(REPORTS, json=REPORT)).status_code == 401


async def test_the_pages_have_the_documented_shape(client: Client) -> None:
    reader = await client("wang", "viewer")
    tasks = (await reader.get("/api/v1/plan/tasks")).json()
    assert {"id", "no", "section", "title_zh", "title_en", "agencies", "systems"} <= tasks[0].keys()
    assert {"id", "title_zh", "title_en", "state"} == tasks[0]["systems"][0].keys()
    targets = (await reader.get("/api/v1/plan/targets")).json()
    wanted = {
        "id", "title_zh", "title_en", "task", "systems", "unit", "goal", "deadline", "value", "state", "met", "as_of",
        "trend", "why_zh", "why_en", "version", "query",
    }  # fmt: skip
    assert all(wanted <= one.keys() for one in targets)
    one = (await reader.get("/api/v1/plan/targets/5g-stations")).json()
    assert wanted | {"definitions", "reports", "measurements"} <= one.keys()
    assert {"version", "query", "since", "by"} <= one["definitions"][0].keys()
    score = (await reader.get("/api/v1/plan/score")).json()
    assert {"as_of", "score", "tasks", "digest"} <= score.keys()
    again = (await reader.get("/api/v1/plan/score", params={"as_of": score["as_of"]})).json()
    assert again == score
    systems = (await reader.get("/api/v1/plan/systems")).json()
    assert sum(systems["counts"].values()) == len(systems["items"]) == 121


async def test_a_report_with_a_file_goes_through_two_people(client: Client) -> None:
    author, second = await client("li", "reporter", "approver"), await client("chen", "approver")
    body = {**REPORT, "evidence_name": "核查表.pdf", "evidence_base64": base64.b64encode(b"%PDF").decode()}
    made = await author.post(REPORTS, json=body)
    assert made.status_code == 201, made.text
    report = made.json()
    assert report["submitted_by"] == "user:li"
    assert report["submitted_name"] == "li"
    path = f"/api/v1/plan/reports/{report['id']}"
    refused = await author.post(f"{path}/approve", json={"note": ""})
    assert (refused.status_code, refused.json()["rule"]) == (403, "second person")
    evidence = await second.get(f"{path}/evidence")
    assert evidence.content == b"%PDF"
    assert evidence.headers["content-disposition"].startswith("attachment; filename*=UTF-8''%E6%A0%B8")
    assert (await second.post(f"{path}/approve")).json()["state"] == "approved"
    assert (await second.post(f"{path}/reject", json={"note": "晚了"})).status_code == 409
    target = (await second.get("/api/v1/plan/targets/5g-stations")).json()
    assert (target["state"], target["value"]) == ("reported", 64000)


DEFINITION = {"definition": {"query": "none", "note_zh": "测不了", "note_en": "cannot be measured"}}
REFUSALS = [
    ("POST", REPORTS, {**REPORT, "value": "many"}, 400, "value"),
    ("POST", REPORTS, {"value": 1, "evidence_text": "x"}, 400, "as_of"),
    ("POST", REPORTS, {**REPORT, "as_of": "2022-06-30"}, 400, "as_of"),
    ("POST", "/api/v1/plan/targets/castles/reports", REPORT, 404, "target"),
    ("GET", "/api/v1/plan/targets/castles", None, 404, "target"),
    ("POST", "/api/v1/plan/reports/0/approve", {}, 404, "report"),
    ("POST", "/api/v1/plan/reports/x/approve", {}, 404, "report"),
    ("POST", f"/api/v1/plan/reports/{'9' * 30}/approve", {}, 404, "report"),
    ("GET", "/api/v1/plan/score?as_of=yesterday", None, 400, "as_of"),
    ("GET", "/api/v1/plan/score?as_of=2022-01-01T00:00:00", None, 400, "as_of"),
    ("GET", "/api/v1/plan/score?as_of=2999-01-01T00:00:00Z", None, 400, "as_of"),
    ("POST", "/api/v1/plan/targets/5g-stations/definitions", {"definition": {"query": "all"}}, 400, "definition"),
    ("POST", "/api/v1/plan/targets/5g-stations/definitions", DEFINITION, 403, "action"),
    ("POST", "/api/v1/plan/measurements", None, 403, "action"),
    ("POST", "/api/v1/plan/score", None, 403, "action"),
]


async def test_refusals_name_the_field(client: Client) -> None:
    actor = await client("li", "reporter", "approver")
    for method, path, body, status, field in REFUSALS:
        answer = await actor.request(method, path, json=body)
        problem = answer.json()
        assert answer.status_code == status, (path, problem)
        assert problem["field"].startswith(field), (path, problem)
        assert problem["detail_zh"], path
        assert problem["detail_en"], path


async def test_a_time_with_a_plus_sign_is_understood(client: Client) -> None:
    reader = await client("wang", "viewer")
    answer = await reader.get("/api/v1/plan/score?as_of=2022-06-30T00:00:00%2B08:00")
    assert answer.json()["as_of"] == "2022-06-29T16:00:00Z"
