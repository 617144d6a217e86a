"""Context source registrations (CIM 009, 5.9, 5.10) and subscriptions to them (5.11): what is kept, shown and refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.context.conftest import ACTORS, ByName, execute, plugins
from tests.context.serving import Source, served
from tulou.context.registration_subscriptions import RegistrationSubscriptions
from tulou.context.routes import Door
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

ID = "urn:ngsi-ld:ContextSourceRegistration:1"
CONTEXT = {"@context": {"Vehicle": "https://example.org/Vehicle", "speed": "https://example.org/speed"}}


def registration(**members: Any) -> dict[str, Any]:
    """A registration of vehicles at a far source."""
    return {"id": ID, "type": "ContextSourceRegistration", "information": [{"entities": [{"type": "Vehicle"}]}],
            "endpoint": "http://10.0.0.9:1026", **members}


async def put(api: httpx.AsyncClient, **members: Any) -> httpx.Response:
    """Register."""
    return await api.post("/csourceRegistrations", json=registration(**members))


async def test_a_registration_comes_back_in_the_names_that_are_asked_for(api: httpx.AsyncClient) -> None:
    """5.10.1: 'term to URI expansion of Attribute names shall be observed'."""
    body = registration(information=[{"entities": [{"type": "Vehicle"}], "propertyNames": ["speed"]}], **CONTEXT)
    made = await api.post("/csourceRegistrations", json=body, headers={"content-type": "application/ld+json"})
    assert made.status_code == 201
    assert made.headers["location"] == f"/ngsi-ld/v1/csourceRegistrations/{ID}"
    info = (await api.get(f"/csourceRegistrations/{ID}")).json()["information"][0]
    assert info == {"entities": [{"type": "https://example.org/Vehicle"}], "propertyNames": ["https://example.org/speed"]}
    assert (await put(api)).status_code == 409


async def test_a_patch_changes_members_and_null_takes_them_away(api: httpx.AsyncClient) -> None:
    """5.9.3: an update of the members given; the others stay."""
    assert (await put(api, expiresAt="2099-01-01T00:00:00Z", description="first")).status_code == 201
    path = f"/csourceRegistrations/{ID}"
    assert (await api.patch(path, json={"description": "second", "expiresAt": "urn:ngsi-ld:null"})).status_code == 204
    after = (await api.get(path)).json()
    assert after["description"] == "second"
    assert "expiresAt" not in after
    assert after["endpoint"] == "http://10.0.0.9:1026"
    assert (await api.patch(path, json={"information": []})).status_code == 400
    assert (await api.patch(path, json={"endpoint": "urn:ngsi-ld:null"})).status_code == 400
    assert (await api.delete(path)).status_code == 204
    assert (await api.get(path)).status_code == 404
    assert (await api.delete(path)).status_code == 404


@pytest.mark.parametrize(("members", "field"), [
    ({"type": "Subscription"}, "type"), ({"information": None}, "information"), ({"information": []}, "information"),
    ({"information": [{"entities": []}]}, "information.entities"), ({"information": [{"entities": [{}]}]}, "information.entities"),
    ({"information": [{"entities": [{"idPattern": "(", "type": "A"}]}]}, "information.entities.idPattern"),
    ({"endpoint": "ftp://x"}, "url"), ({"endpoint": "http://169.254.169.254"}, "url"), ({"mode": "loud"}, "mode"),
    ({"operations": ["fly"]}, "operations"), ({"expiresAt": "2000-01-01T00:00:00Z"}, "expiresAt"),
    ({"expiresAt": "2099-01-01T00:00:00+01:00"}, "expiresAt"), ({"management": {"timeout": 0}}, "management.timeout"),
    ({"management": {"cacheDuration": "5 minutes"}}, "management.cacheDuration"), ({"localOnly": "yes"}, "localOnly"),
    ({"mode": "exclusive"}, "information"), ({"mode": "auxiliary", "operations": ["createEntity"]}, "operations"),
    ({"mode": "exclusive", "information": [{"entities": [{"idPattern": ".*"}], "propertyNames": ["a"]}]}, "information"),
    ({"contextSourceInfo": [{"key": "Authorization", "value": "urn:ngsi-ld:request"}]}, "contextSourceInfo"),
    ({"contextSourceInfo": [{"key": "X", "value": "a\r\nHost: b"}]}, "contextSourceInfo"),
])
async def test_what_breaks_a_rule_is_refused_by_name(api: httpx.AsyncClient, members: dict[str, Any], field: str) -> None:
    """5.9.2.4: data types, cardinalities and restrictions; 4.3.6.3 for exclusive, 4.3.6.2 for auxiliary registrations."""
    answer = await put(api, **members)
    assert answer.status_code == 400, answer.text
    assert answer.json()["field"] == field
    assert (await api.get(f"/csourceRegistrations/{ID}")).status_code == 404


async def test_what_the_house_or_another_source_holds_cannot_be_claimed(api: httpx.AsyncClient) -> None:
    """5.9.2.4: Conflict; 4.3.6.3: 'no further exclusive or redirect registration', but redirects may overlap."""
    entity = {"id": "urn:ngsi-ld:Vehicle:1", "type": "Vehicle", "speed": {"type": "Property", "value": 1}}
    assert (await api.post("/entities", json=entity)).status_code == 201
    own = [{"entities": [{"id": entity["id"], "type": "Vehicle"}], "propertyNames": ["speed"]}]
    for members in ({"mode": "exclusive", "information": own}, {"mode": "redirect"}):
        answer = await put(api, **members)
        assert answer.status_code == 409, answer.text
        assert answer.json()["type"].endswith("/Conflict")
    other = [{"entities": [{"id": "urn:ngsi-ld:Vehicle:2", "type": "Vehicle"}], "propertyNames": ["speed"]}]
    assert (await put(api, mode="exclusive", information=other)).status_code == 201
    for mode in ("exclusive", "redirect"):
        assert (await put(api, id=ID + "2", mode=mode, information=other)).status_code == 409
    assert (await put(api, id=ID + "2", mode="inclusive")).status_code == 201
    free = [{"entities": [{"type": "Bus"}]}]
    assert (await put(api, id=ID + "3", mode="redirect", information=free)).status_code == 201
    assert (await put(api, id=ID + "4", mode="redirect", information=free)).status_code == 201
    assert (await api.patch(f"/csourceRegistrations/{ID}2", json={"mode": "exclusive", "information": own})).status_code == 409


async def test_discovery_matches_information_and_properties(api: httpx.AsyncClient) -> None:
    """5.10.2.4 and 5.12: types, ids, patterns, attributes, the source's own properties, place, scope, interval."""
    place = {"type": "Point", "coordinates": [118.1, 24.5]}
    await put(api, location=place, scope="/Fujian/Xiamen", kindOfSource="sensor",
              information=[{"entities": [{"type": "Vehicle", "idPattern": "^urn:v:"}], "propertyNames": ["speed"]},
                           {"entities": [{"type": "Bus", "id": "urn:b:1"}]}])
    await put(api, id=ID + "2", observationInterval={"startAt": "2020-01-01T00:00:00Z", "endAt": "2021-01-01T00:00:00Z"})

    async def found(query: str) -> list[str]:
        answer = await api.get(f"/csourceRegistrations?{query}")
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()]

    for query in ("type=Vehicle", "attrs=speed", "type=Vehicle&id=urn:v:7", "type=Bus&idPattern=b:1", "type=Vehicle,Boat",
                  "csf=kindOfSource==%22sensor%22", "type=Bus&scopeQ=/Fujian/%23",
                  "type=Bus&georel=near;maxDistance==5000&geometry=Point&coordinates=[118.1,24.5]"):
        assert await found(query) == [ID], query
    for query in ("type=Boat", "type=Vehicle&attrs=colour", "type=Vehicle&id=urn:w:7", "type=Bus&id=urn:b:2",
                  "csf=kindOfSource==%22archive%22", "type=Bus&scopeQ=/Beijing"):
        assert await found(query) == [], query
    assert await found("type=Vehicle&timerel=before&timeAt=2020-06-01T00:00:00Z") == [ID + "2"]
    assert await found("type=Vehicle&timerel=after&timeAt=2022-06-01T00:00:00Z") == []
    shown = (await api.get("/csourceRegistrations?type=Bus")).json()[0]["information"]
    assert shown == [{"entities": [{"type": "Bus", "id": "urn:b:1"}]}], "only what matches is shown"
    assert (await api.get("/csourceRegistrations")).status_code == 400


async def test_nobody_of_another_organisation_sees_or_changes_it(door: Any) -> None:
    own, other = door("xiamen"), door("fuzhou")
    await put(own)
    path = f"/csourceRegistrations/{ID}"
    absent = await other.get("/csourceRegistrations/urn:ngsi-ld:ContextSourceRegistration:none")
    for answer in (await other.get(path), await other.patch(path, json={"description": "x"}), await other.delete(path)):
        assert (answer.status_code, answer.json()["type"]) == (404, absent.json()["type"])
    assert (await other.get("/csourceRegistrations?type=Vehicle&count=true")).headers["ngsild-results-count"] == "0"
    assert (await put(other)).status_code == 201, "the id is free in another organisation"
    assert (await own.get(path)).status_code == 200


async def test_who_may_register_and_who_sees_what_is_said_to_the_source(door: Any) -> None:
    secret = [{"key": "Authorization", "value": "Bearer of-the-source"}]
    assert (await put(door("xiamen-viewer"))).status_code == 403
    assert (await put(door("stranger"))).status_code in (401, 403, 404)
    assert (await put(door("xiamen"), contextSourceInfo=secret)).status_code == 201
    path = f"/csourceRegistrations/{ID}"
    assert (await door("xiamen").get(path)).json()["contextSourceInfo"] == secret
    assert "of-the-source" not in (await door("xiamen-viewer").get(path)).text
    assert "of-the-source" not in (await door("xiamen-viewer").get("/csourceRegistrations?type=Vehicle")).text


async def test_the_identity_of_an_organisation_is_its_own_and_lasts(door: Any) -> None:
    """5.2.40: 'this id shall be identifying a specific Tenant within a registered Context Source'."""
    first = (await door("xiamen").get("/info/sourceIdentity")).json()
    assert first["type"] == "ContextSourceIdentity"
    assert first["contextSourceUptime"].startswith("PT")
    assert (await door("xiamen").get("/info/sourceIdentity")).json()["contextSourceAlias"] == first["contextSourceAlias"]
    assert (await door("fuzhou").get("/info/sourceIdentity")).json()["contextSourceAlias"] != first["contextSourceAlias"]


# ---- subscriptions to registrations


@pytest.fixture
async def listening(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[House, httpx.AsyncClient, Source, str]]:
    """A house that may reach loopback, with its worker running; Xiamen's client; a subscriber and its address."""
    house = House(Settings(home=tmp_path / "home", database_url=database_url, outbound_allow="127.0.0.0/8"), plugins())
    await house.start((), bus=False)
    house.authenticator = ByName()  # type: ignore[assignment]
    worker = asyncio.create_task(house.service(RegistrationSubscriptions).deliver(house))
    subscriber = Source()
    subscriber.answer("POST", "/notify", 200)
    transport = httpx.ASGITransport(Door(house))
    async with served(subscriber) as url, httpx.AsyncClient(
        transport=transport, base_url="http://tulou.test/ngsi-ld/v1", headers={"authorization": "Bearer xiamen"}
    ) as api:
        yield house, api, subscriber, url
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    await house.stop()


async def heard(subscriber: Source, count: int) -> list[dict[str, Any]]:
    """The bodies of the first `count` notifications."""
    async with asyncio.timeout(20):
        while len(subscriber.seen) < count:
            subscriber.asked.clear()
            await subscriber.asked.wait()
    return [body for _, _, _, body in subscriber.seen]


async def test_changes_of_matching_registrations_are_notified_with_their_reason(listening: Any) -> None:
    """5.11.7 and 5.3.2: initially, and on creation, update and deletion; newlyMatching, updated, noLongerMatching."""
    house, api, subscriber, url = listening
    await put(api, contextSourceInfo=[{"key": "Authorization", "value": "Bearer of-the-source"}])
    subscription = {"id": "urn:ngsi-ld:Subscription:1", "type": "Subscription", "entities": [{"type": "Vehicle"}],
                    "notification": {"endpoint": {"uri": f"{url}/notify"}}}
    assert (await api.post("/csourceSubscriptions", json=subscription)).status_code == 201
    assert (await api.post("/csourceSubscriptions", json=subscription)).status_code == 409
    path = f"/csourceRegistrations/{ID}"
    await put(api, id=ID + "bus", information=[{"entities": [{"type": "Bus"}]}])
    await api.patch(path, json={"description": "changed"})
    await api.patch(path, json={"information": [{"entities": [{"type": "Bus"}]}]})
    await api.patch(path, json={"information": [{"entities": [{"type": "Vehicle"}]}]})
    await api.delete(path)
    bodies = await heard(subscriber, 5)
    assert [body["triggerReason"] for body in bodies] == [
        "newlyMatching", "updated", "noLongerMatching", "newlyMatching", "noLongerMatching",
    ]
    assert all(body.keys() == {"id", "type", "subscriptionId", "notifiedAt", "triggerReason", "data"} for body in bodies)
    assert {item["id"] for body in bodies for item in body["data"]} == {ID}
    assert "of-the-source" not in str(bodies)
    for _ in range(1000):
        if not execute(house, "SELECT count(*) FROM csource_outbox")[0][0]:
            break
        await asyncio.sleep(0.02)
    shown = (await api.get("/csourceSubscriptions/urn:ngsi-ld:Subscription:1")).json()
    assert shown["notification"]["timesSent"] == 5
    assert shown["status"] == "active"
    assert (await api.delete("/csourceSubscriptions/urn:ngsi-ld:Subscription:1")).status_code == 204
    assert (await api.get("/csourceSubscriptions")).json() == []


async def test_a_subscription_hears_nothing_of_another_organisation(listening: Any) -> None:
    house, api, subscriber, url = listening
    subscription = {"type": "Subscription", "entities": [{"type": "Vehicle"}], "notification": {"endpoint": {"uri": f"{url}/notify"}}}
    assert (await api.post("/csourceSubscriptions", json=subscription)).status_code == 201
    api.headers["authorization"] = "Bearer fuzhou"
    assert (await put(api)).status_code == 201
    assert (await api.get("/csourceSubscriptions")).json() == []
    assert execute(house, "SELECT count(*) FROM csource_outbox")[0][0] == 0
    assert subscriber.seen == []


async def test_notifications_of_registrations_stand_on_their_owners_rights(
    listening: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of entities do: who lost the right to read registrations is sent nothing more, and is told why."""
    house, api, subscriber, url = listening
    subscription = {"id": "urn:ngsi-ld:Subscription:1", "type": "Subscription", "entities": [{"type": "Vehicle"}],
                    "notification": {"endpoint": {"uri": f"{url}/notify"}}}
    assert (await api.post("/csourceSubscriptions", json=subscription)).status_code == 201
    monkeypatch.setitem(ACTORS, "xiamen", replace(ACTORS["xiamen"], roles=frozenset()))
    api.headers["authorization"] = "Bearer admin"
    assert (await api.post(
        "/csourceRegistrations", json=registration(), headers={"NGSILD-Tenant": "xiamen"}
    )).status_code == 201
    for _ in range(1000):
        if execute(house, "SELECT blocked FROM csource_subscriptions")[0][0]:
            break
        await asyncio.sleep(0.02)
    shown = (await api.get("/csourceSubscriptions/urn:ngsi-ld:Subscription:1")).json()
    assert (shown["status"], "no longer read" in shown["statusReason"]) == ("paused", True)
    assert (execute(house, "SELECT count(*) FROM csource_outbox")[0][0], subscriber.seen) == (0, [])
    # who changes it answers for it from then on, and hears at once what matches
    changed = await api.patch("/csourceSubscriptions/urn:ngsi-ld:Subscription:1", json={"description": "mine"})
    assert changed.status_code == 204
    assert [body["triggerReason"] for body in await heard(subscriber, 1)] == ["newlyMatching"]
