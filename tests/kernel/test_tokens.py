"""API tokens: scoped, limited to an organisation, never more than their creator, revoked at once."""

from __future__ import annotations

import datetime as dt

import httpx
import pytest
import sqlalchemy as sa

from tests.kernel.conftest import Persons
from tulou.kernel.house import House
from tulou.kernel.organisations import Credentials
from tulou.kernel.organisations.credentials import limited
from tulou.kernel.organisations.models import tokens
from tulou.kernel.policy import ROOT, Binding


async def issue(client: httpx.AsyncClient, **body: object) -> dict[str, object]:
    answer = await client.post("/api/v1/tokens", json={"name": "robot", "org": "fuzhou", "scopes": ["*"], **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, object] = answer.json()
    return made


async def test_only_a_digest_is_stored_and_the_secret_is_shown_once(persons: Persons, kernel: House) -> None:
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    made = await issue(client)
    secret = str(made["secret"])
    assert secret.startswith(f"tulou_{made['prefix']}_")
    row = await kernel.db.read(lambda c: c.execute(sa.select(tokens)).one())
    assert secret not in str(tuple(row))
    listed = await client.get("/api/v1/tokens")
    assert [t["prefix"] for t in listed.json()["items"]] == [made["prefix"]]
    assert secret not in listed.text


async def test_a_token_needs_no_header_and_is_held_to_its_scopes(persons: Persons) -> None:
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    robot = persons.connect()
    made = await issue(client, scopes=["organisations.user.read"])
    robot.headers["authorization"] = f"Bearer {made['secret']}"
    assert [u["name"] for u in (await robot.get("/api/v1/users")).json()["items"]] == ["lin"]
    body = {"name": "x", "display": "x", "org": "fuzhou"}
    assert (await robot.post("/api/v1/users", json=body)).status_code == 403
    assert (await robot.get("/api/v1/audit")).status_code == 403


async def test_a_token_makes_no_tokens(persons: Persons) -> None:
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    robot = persons.connect(headers={"authorization": f"Bearer {(await issue(client))['secret']}"})
    again = await robot.post("/api/v1/tokens", json={"name": "x", "org": "fuzhou", "scopes": ["*"]})
    assert again.status_code == 403


async def test_a_creator_who_loses_a_role_takes_the_tokens_rights_along(persons: Persons) -> None:
    boss = await persons.administrator()
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    robot = persons.connect(headers={"authorization": f"Bearer {(await issue(client))['secret']}"})
    body = {"name": "x", "display": "x", "org": "fuzhou"}
    assert (await robot.post("/api/v1/users", json=body)).status_code == 201
    me = (await client.get("/api/v1/session")).json()["user"]["id"]
    await boss.put(f"/api/v1/users/{me}/roles", json={"roles": [{"org": "fuzhou", "role": "viewer", "subtree": False}]})
    assert (await robot.post("/api/v1/users", json={**body, "name": "y"})).status_code == 403
    assert (await boss.post(f"/api/v1/users/{me}/disable")).status_code == 204
    assert (await robot.get("/api/v1/users")).status_code == 401


async def test_a_token_of_one_organisation_does_not_reach_another(persons: Persons) -> None:
    client = await persons.sign_in("lin", "fujian", ("fujian", "admin", True))
    robot = persons.connect(headers={"authorization": f"Bearer {(await issue(client, org='fuzhou'))['secret']}"})
    body = {"name": "x", "display": "x", "org": "xiamen"}
    assert (await client.post("/api/v1/users", json=body)).status_code == 201
    assert (await robot.post("/api/v1/users", json={**body, "name": "y"})).status_code == 403
    assert (await robot.post("/api/v1/users", json={**body, "name": "z", "org": "fuzhou"})).status_code == 201


def test_what_a_token_has_of_its_creators_bindings() -> None:
    above = ("fuzhou", "fujian", ROOT)
    held = [
        Binding("fujian", "viewer", True), Binding("fujian", "auditor", False), Binding("fuzhou", "operator", False),
        Binding("xiamen", "admin", True),
    ]
    assert limited(held, "fuzhou", above) == {Binding("fuzhou", "viewer", True), Binding("fuzhou", "operator", False)}
    boss = [Binding(ROOT, "platform_admin", True)]
    assert limited(boss, "fuzhou", above) == {Binding("fuzhou", "admin", True)}
    assert limited(boss, ROOT, (ROOT,)) == set(boss)


async def test_revoked_and_expired_tokens_stop_at_once(
    persons: Persons, kernel: House, credentials: Credentials
) -> None:
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    made = await issue(client)
    robot = persons.connect(headers={"authorization": f"Bearer {made['secret']}"})
    assert (await robot.get("/api/v1/users")).status_code == 200
    assert (await client.delete(f"/api/v1/tokens/{made['id']}")).status_code == 204
    assert (await robot.get("/api/v1/users")).status_code == 401
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    second = await issue(client, expires_at=soon.isoformat())
    robot.headers["authorization"] = f"Bearer {second['secret']}"
    assert (await robot.get("/api/v1/users")).status_code == 200
    past = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
    await kernel.db.write(lambda c: c.execute(tokens.update().values(expires_at=past)) and None)
    credentials.forget()
    assert (await robot.get("/api/v1/users")).status_code == 401


async def test_anothers_token_cannot_be_revoked_or_seen(persons: Persons) -> None:
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "operator", False))
    made = await issue(client)
    other = await persons.sign_in("wu", "fuzhou", ("fuzhou", "operator", False))
    assert (await other.get("/api/v1/tokens")).json()["items"] == []
    assert (await other.delete(f"/api/v1/tokens/{made['id']}")).status_code == 404
    assert (await other.delete("/api/v1/tokens/99999")).status_code == 404
    chief = await persons.sign_in("chief", "fuzhou", ("fuzhou", "admin", False))
    assert (await chief.delete(f"/api/v1/tokens/{made['id']}")).status_code == 204


@pytest.mark.parametrize("scope", ["", "..", "context", "nonsense.*", "organisations.*.read.more", "Organisations.*"])
async def test_a_scope_must_look_like_an_action(persons: Persons, scope: str) -> None:
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    answer = await client.post("/api/v1/tokens", json={"name": "x", "org": "fuzhou", "scopes": [scope]})
    assert answer.status_code == 400
    assert answer.json()["field"] == "scopes"


async def test_guessing_tokens_is_throttled_but_known_ones_go_on(persons: Persons) -> None:
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    made = await issue(client)
    good = persons.connect("203.0.113.9", headers={"authorization": f"Bearer {made['secret']}"})
    assert (await good.get("/api/v1/users")).status_code == 200
    codes = []
    for n in range(40):
        guess = persons.connect("203.0.113.9", headers={"authorization": f"Bearer tulou_{made['prefix']}_{n}"})
        codes.append((await guess.get("/api/v1/users")).status_code)
    assert codes[0] == 401
    assert codes[-1] == 429
    assert (await good.get("/api/v1/users")).status_code == 200


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Basic YTpi", "Bearer tulou_", "Bearer tulou_a_b", "x" * 5000, "Bearer \xff"])
async def test_a_malformed_credential_is_nobodys(persons: Persons, value: str) -> None:
    client = persons.connect()
    answer = await client.get("/api/v1/users", headers=[(b"authorization", value.encode("latin-1"))])
    assert answer.status_code == 401


async def test_last_use_is_written_in_batches(persons: Persons, credentials: Credentials) -> None:
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    made = await issue(client)
    robot = persons.connect(headers={"authorization": f"Bearer {made['secret']}"})
    await robot.get("/api/v1/users")
    await credentials.write_used()
    assert (await client.get("/api/v1/tokens")).json()["items"][0]["used_at"] is not None
