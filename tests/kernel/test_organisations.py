"""Organisations, people and roles: who may do what to whom."""

from __future__ import annotations

import httpx

from tests.kernel.conftest import PASSWORD, Persons
from tulou.kernel.house import House
from tulou.kernel.organisations import Organisations
from tulou.kernel.policy import ROOT

APPLICATION = {"id": "fuzhou.fgw", "name_zh": "福州市发改委", "name_en": "Fuzhou DRC", "kind": "department", "parent": "fuzhou"}


async def user_id(client: httpx.AsyncClient) -> int:
    return int((await client.get("/api/v1/session")).json()["user"]["id"])


async def test_the_packs_organisations_are_seeded_once(kernel: House) -> None:
    orgs = kernel.service(Organisations)
    count = len(orgs.rows)
    assert {"fujian", "fuzhou", "pingtan", ROOT} <= orgs.rows.keys()
    assert orgs.rows["fuzhou"]["parent"] == "fujian"
    assert orgs.rows["fujian"]["parent"] == ROOT
    await orgs.seed()
    assert len(orgs.rows) == count


async def test_an_application_is_decided_by_a_second_person_of_the_parent(persons: Persons) -> None:
    applicant = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    made = await applicant.post("/api/v1/orgs", json=APPLICATION)
    assert made.status_code == 201
    assert made.json()["state"] == "applied"
    own = await applicant.post("/api/v1/orgs/fuzhou.fgw/approve")
    assert own.status_code == 403
    assert own.json()["rule"] == "a second person decides"
    stranger = await persons.sign_in("wu", "xiamen", ("xiamen", "admin", True))
    assert (await stranger.post("/api/v1/orgs/fuzhou.fgw/approve")).status_code == 404
    second = await persons.sign_in("chen", "fuzhou", ("fuzhou", "admin", False))
    done = await second.post("/api/v1/orgs/fuzhou.fgw/approve", json={"reason": "材料齐全"})
    assert done.json()["state"] == "approved"
    assert (await second.post("/api/v1/orgs/fuzhou.fgw/approve")).status_code == 409


async def test_an_organisation_that_only_applied_holds_nothing(persons: Persons, kernel: House) -> None:
    applicant = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    await applicant.post("/api/v1/orgs", json=APPLICATION)
    body = {"name": "new", "display": "new", "org": "fuzhou.fgw", "roles": []}
    assert (await applicant.post("/api/v1/users", json=body)).status_code == 403
    below = {**APPLICATION, "id": "fuzhou.fgw.x", "parent": "fuzhou.fgw"}
    assert (await applicant.post("/api/v1/orgs", json=below)).status_code == 404


async def test_a_bad_application_names_field_and_rule(persons: Persons) -> None:
    client = await persons.sign_in("lin", "fuzhou")
    bad = await client.post("/api/v1/orgs", json={**APPLICATION, "id": "Fu Zhou"})
    assert bad.status_code == 400
    assert bad.json()["field"] == "id"
    assert (await client.post("/api/v1/orgs", json={**APPLICATION, "id": "fuzhou"})).status_code == 409


async def test_suspension_takes_everything_at_once_from_all_below(persons: Persons) -> None:
    boss = await persons.administrator()
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True), ("xiamen", "admin", False))
    token = (await client.post("/api/v1/tokens", json={"name": "t", "org": "fuzhou", "scopes": ["*"]})).json()["secret"]
    robot = persons.connect(headers={"authorization": f"Bearer {token}"})
    assert (await robot.get("/api/v1/users")).status_code == 200
    assert (await client.post("/api/v1/orgs/fuzhou/suspend")).status_code == 403
    assert (await boss.post("/api/v1/orgs/fuzhou/suspend", json={"reason": "test"})).json()["state"] == "suspended"
    assert (await client.get("/api/v1/users")).status_code == 401
    assert (await robot.get("/api/v1/users")).status_code == 401
    again = persons.connect()
    assert (await again.post("/api/v1/session", json={"name": "lin", "password": PASSWORD + "!"})).status_code == 403
    assert (await boss.post("/api/v1/orgs/fuzhou/resume")).json()["state"] == "approved"
    assert (await client.get("/api/v1/users")).status_code == 200
    assert (await robot.get("/api/v1/users")).status_code == 200


async def test_the_root_cannot_be_suspended(persons: Persons) -> None:
    boss = await persons.administrator()
    assert (await boss.post("/api/v1/orgs/house/suspend")).status_code == 400


async def test_lists_show_only_ones_own_and_what_is_above(persons: Persons) -> None:
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "viewer", False))
    await persons.make("wu", "xiamen")
    seen = [o["id"] for o in (await client.get("/api/v1/orgs")).json()["items"]]
    assert seen == ["fujian", "fuzhou", "house"]
    names = [u["name"] for u in (await client.get("/api/v1/users")).json()["items"]]
    assert names == ["lin"]
    assert (await client.get("/api/v1/users?org=xiamen")).json()["items"] == []


async def test_lists_are_paged_by_key(persons: Persons) -> None:
    boss = await persons.administrator()
    seen: list[str] = []
    after = ""
    while True:
        page = (await boss.get(f"/api/v1/orgs?limit=7{after}")).json()
        seen += [o["id"] for o in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert len(seen) == len(set(seen)) >= 28
    assert (await boss.get("/api/v1/orgs?after=nonsense")).status_code == 400


async def test_nobody_grants_what_he_does_not_administer(persons: Persons) -> None:
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", False))

    async def create(name: str, org: str, role: str, subtree: bool = False, home: str = "fuzhou") -> int:
        roles = [{"org": org, "role": role, "subtree": subtree}]
        body = {"name": name, "display": name, "org": home, "roles": roles}
        return (await client.post("/api/v1/users", json=body)).status_code

    assert await create("a", "fuzhou", "viewer") == 201
    assert await create("b", "fuzhou", "admin") == 201
    assert await create("c", "fuzhou", "admin", subtree=True) == 403
    assert await create("d", "xiamen", "viewer") == 403
    assert await create("e", "fuzhou", "platform_admin") == 403
    assert await create("f", "house", "platform_admin") == 403
    assert await create("g", "fuzhou", "viewer", home="xiamen") == 403
    assert await create("h", "fuzhou", "no-such-role") == 400


async def test_nobody_touches_a_person_who_holds_more(persons: Persons) -> None:
    """An administrator of a city could else reset the password of a colleague who runs the whole house."""
    boss = await persons.administrator()
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    mighty = await persons.make("mighty", "fuzhou", ("house", "platform_admin", True))
    assert (await client.post(f"/api/v1/users/{mighty}/password")).status_code == 403
    assert (await client.post(f"/api/v1/users/{mighty}/disable")).status_code == 403
    assert (await client.put(f"/api/v1/users/{mighty}/roles", json={"roles": []})).status_code == 403
    assert (await boss.post(f"/api/v1/users/{mighty}/disable")).status_code == 204


async def test_roles_of_other_organisations_stay_when_ours_change(persons: Persons) -> None:
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    other = await persons.make("wu", "fuzhou", ("xiamen", "viewer", False), ("fuzhou", "viewer", False))
    taken = await client.put(f"/api/v1/users/{other}/roles", json={"roles": []})
    assert taken.status_code == 403
    roles = [{"org": "xiamen", "role": "viewer", "subtree": False}, {"org": "fuzhou", "role": "operator", "subtree": False}]
    assert (await client.put(f"/api/v1/users/{other}/roles", json={"roles": roles})).status_code == 200


async def test_people_of_others_are_as_if_they_did_not_exist(persons: Persons) -> None:
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    other = await persons.make("wu", "xiamen")
    there = await client.post(f"/api/v1/users/{other}/disable")
    nowhere = await client.post("/api/v1/users/999999/disable")
    assert there.status_code == nowhere.status_code == 404
    assert there.json()["detail_en"].replace(str(other), "N") == nowhere.json()["detail_en"].replace("999999", "N")
    assert (await client.put(f"/api/v1/users/{other}/roles", json={"roles": []})).status_code == 404


async def test_the_last_platform_administrator_stays(persons: Persons) -> None:
    boss = await persons.administrator()
    me = await user_id(boss)
    assert (await boss.post(f"/api/v1/users/{me}/disable")).status_code == 409
    assert (await boss.put(f"/api/v1/users/{me}/roles", json={"roles": []})).status_code == 409


async def test_a_name_is_taken_whatever_its_case_and_width(persons: Persons) -> None:
    boss = await persons.administrator()
    await persons.make("lin", "fuzhou")
    body = {"name": "ＬＩＮ", "display": "x", "org": "fuzhou", "roles": []}
    assert (await boss.post("/api/v1/users", json=body)).status_code == 409


async def test_a_role_taken_is_gone_with_the_next_request(persons: Persons) -> None:
    boss = await persons.administrator()
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    assert (await client.post("/api/v1/users", json={"name": "a", "display": "a", "org": "fuzhou"})).status_code == 201
    await boss.put(f"/api/v1/users/{await user_id(client)}/roles", json={"roles": []})
    assert (await client.post("/api/v1/users", json={"name": "b", "display": "b", "org": "fuzhou"})).status_code == 403
