"""The entity page's questions: by identifier, incoming relationships, subscriptions, audit; and who is told."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.access.conftest import ADMIN, Estate
from tulou.context import ContextService, Subscriptions
from tulou.kernel import audit

pytestmark = pytest.mark.asyncio(loop_scope="module")

ID = "urn:ngsi-ld:Building:page/1?#"


async def put(estate: Estate, org: str, id: str, **attributes: Any) -> None:
    document = {"id": id, "type": "Building", "name": {"type": "Property", "value": f"楼 {org}"}, **attributes}
    await estate.house.service(ContextService).create(ADMIN, document, tenant=org)


async def item(client: httpx.AsyncClient, id: str) -> dict[str, Any]:
    found = (await client.get("/entities", params={"id": id})).json()["items"]
    assert len(found) == 1, found
    return dict(found[0])


async def test_an_identifier_is_found_in_each_organisation_that_one_may_see(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    await put(estate, "fuzhou", ID)
    await put(estate, "xiamen", ID)
    for client, org, name in ((lin, "fuzhou", "福州市"), (chen, "xiamen", "厦门市")):
        found = await item(client, ID)
        assert (found["id"], found["org"], found["org_name"], found["type"]) == (ID, org, name, "Building")
        thing = (await client.get(f"/things/{found['no']}")).json()
        assert (thing["id"], thing["device"]) == (ID, None)
    assert (await lin.get("/entities", params={"id": "urn:ngsi-ld:Building:none"})).json() == {"items": []}
    both = (await lin.get("/entities", params={"id": ["urn:ngsi-ld:Building:none", ID]})).json()["items"]
    assert [entry["id"] for entry in both] == [ID]
    refused = await lin.get("/entities")
    assert (refused.status_code, refused.json()["field"]) == (400, "id")


async def test_incoming_is_paged_and_names_the_attribute(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient) -> None:
    target = "urn:ngsi-ld:Building:target"
    for n in range(3):
        await put(estate, "fuzhou", f"urn:ngsi-ld:Building:in-{n}", partOf={"type": "Relationship", "object": target})
    seen: list[str] = []
    after = None
    while True:
        page = (await lin.get("/entities/incoming", params={"id": target, "limit": 2, **({"after": after} if after else {})})).json()
        seen += [entry["id"] for entry in page["items"]]
        assert all(entry["paths"] == ["partOf"] and entry["org_name"] == "福州市" for entry in page["items"])
        after = page["next"]
        if after is None:
            break
    assert seen == [f"urn:ngsi-ld:Building:in-{n}" for n in range(3)]
    assert (await chen.get("/entities/incoming", params={"id": target})).json() == {"items": [], "next": None}
    assert (await lin.get("/entities/incoming", params={"id": "no uri"})).json()["field"] == "id"


async def test_subscriptions_of_a_thing(estate: Estate, lin: httpx.AsyncClient, yang: httpx.AsyncClient, chen: httpx.AsyncClient) -> None:
    await put(estate, "fuzhou", "urn:ngsi-ld:Building:watched", floors={"type": "Property", "value": 4})
    subscription = {
        "id": "urn:ngsi-ld:Subscription:page", "type": "Subscription", "entities": [{"type": "Building"}], "q": "floors>9",
        "notification": {"endpoint": {"uri": "http://192.0.2.1/x", "accept": "application/json"}},
    }
    await estate.house.service(Subscriptions).create(ADMIN, subscription, None, tenant="fuzhou")
    no = (await item(lin, "urn:ngsi-ld:Building:watched"))["no"]
    for client in (lin, yang):
        found = (await client.get(f"/things/{no}/subscriptions")).json()["items"]
        assert [(entry["subscription"]["id"], entry["satisfied"]) for entry in found] == [(subscription["id"], False)]
    assert (await chen.get(f"/things/{no}/subscriptions")).status_code == 404
    assert (await lin.get("/things/x/subscriptions")).status_code == 404


async def test_the_audit_of_a_thing_is_for_who_may_read_the_audit(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = "urn:ngsi-ld:Building:traced"
    await put(estate, "fuzhou", id)
    service = estate.house.service(ContextService)
    for value in (4, 5):
        await service.append(ADMIN, id, {"floors": {"type": "Property", "value": value}}, tenant="fuzhou")
    no = (await item(lin, id))["no"]
    inspector = await estate.person("page-auditor", "fuzhou", "admin")
    found = (await inspector.get(f"/things/{no}/audit")).json()
    assert (found["made"]["action"], found["made"]["actor"]) == ("context.entity.create", "user:admin")
    assert [entry["action"] for entry in found["items"]] == ["context.entity.write"] * 2 + ["context.entity.create"]
    assert found["items"][0]["detail"] == {"attributes": ["floors"]}
    assert all(entry["subject"] == id for entry in found["items"])
    assert found["since"] is None
    monkeypatch.setattr(audit, "LOOK", 1)
    cut = (await inspector.get(f"/things/{no}/audit")).json()
    assert cut["made"] == found["made"]
    assert cut["since"] is not None
    assert len(cut["items"]) <= 1
    assert (await lin.get(f"/things/{no}/audit")).status_code == 403
    assert (await chen.get(f"/things/{no}/audit")).status_code == 404


async def test_a_device_was_made_by_somebody(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "page-device")
    inspector = await estate.person("page-auditor-2", "fuzhou", "admin")
    found = (await inspector.get(f"/things/{made['no']}/audit")).json()
    assert found["made"]["action"] == "access.device.create"
    assert found["made"]["subject"] == made["id"]
