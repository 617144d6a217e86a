"""Nobody sees, changes, counts or infers another organisation's entities, by any resource of the door."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tulou.context import ContextService, Update

SECRET = {"id": "urn:ngsi-ld:Secret:1", "type": "SecretType", "secretAttribute": {"type": "Property", "value": 8675309867},
          "location": {"type": "GeoProperty", "value": {"type": "Point", "coordinates": [118, 24]}}}
ID = SECRET["id"]


@pytest.fixture
async def secret(door: Any) -> str:
    """An entity of Xiamen, and its text as Xiamen sees it."""
    api = door("xiamen")
    assert (await api.post("/entities", json=SECRET)).status_code == 201
    return (await api.get(f"/entities/{ID}")).text  # type: ignore[no-any-return]


READS = [
    f"/entities/{ID}", "/entities?type=SecretType", "/entities?type=*", f"/entities?id={ID}&type=SecretType", "/entities?attrs=secretAttribute",
    "/entities?q=secretAttribute==8675309867", "/entities?type=SecretType&limit=0&count=true", "/entities?type=SecretType&idPattern=.*",
    "/entities?georel=near;maxDistance==99999&geometry=Point&coordinates=[118,24]&count=true", "/types", "/types?details=true",
    "/types/SecretType", "/attributes", "/attributes?details=true", "/attributes/secretAttribute", "/subscriptions?count=true",
]


async def test_reads_show_what_an_empty_house_shows(door: Any, secret: str) -> None:
    for url in READS:
        await _shows_nothing(door("fuzhou"), url)


async def _shows_nothing(other: httpx.AsyncClient, url: str) -> None:
    seen = await other.get(url)
    assert "8675309867" not in seen.text
    assert seen.headers.get("ngsild-results-count", "0") == "0"
    if seen.status_code == 200:
        body = seen.json()
        assert body == [] or not (body.get("typeList") or body.get("attributeList"))
    absent = await other.get(url.replace("Secret", "Absent").replace("secret", "absent"))
    assert seen.status_code == absent.status_code
    assert seen.text.replace("Secret", "Absent").replace("secret", "absent").split('"id"')[0] == absent.text.split('"id"')[0]


WRITES: list[tuple[str, str, Any]] = [
    ("PATCH", f"/entities/{ID}", {"secretAttribute": 1}), ("PUT", f"/entities/{ID}", {"type": "SecretType", "secretAttribute": 1}),
    ("DELETE", f"/entities/{ID}", None), ("POST", f"/entities/{ID}/attrs", {"x": 1}), ("PATCH", f"/entities/{ID}/attrs", {"secretAttribute": 1}),
    ("PATCH", f"/entities/{ID}/attrs/secretAttribute", {"value": 1}), ("DELETE", f"/entities/{ID}/attrs/secretAttribute", None),
    ("POST", "/entityOperations/update", [{"id": ID, "secretAttribute": 1}]), ("POST", "/entityOperations/merge", [{"id": ID, "secretAttribute": 1}]),
    ("POST", "/entityOperations/delete", [ID]), ("DELETE", "/entities?type=SecretType", None),
]


async def test_writes_change_nothing_and_say_what_they_say_of_nothing(door: Any, secret: str) -> None:
    other, own = door("fuzhou"), door("xiamen")
    for method, url, body in WRITES:
        answer = await other.request(method, url, json=body)
        elsewhere = body if not isinstance(body, list) else [
            item.replace(":1", ":2") if isinstance(item, str) else {**item, "id": ID[:-1] + "2"} for item in body
        ]
        absent = await other.request(method, url.replace("Secret:1", "Secret:2"), json=elsewhere)
        assert answer.status_code == absent.status_code
        assert answer.text.replace(":1", ":2") == absent.text
        assert (await own.get(f"/entities/{ID}")).text == secret


async def test_a_tenant_header_grants_nothing(door: Any, secret: str) -> None:
    other: httpx.AsyncClient = door("fuzhou")
    for tenant in ("xiamen", "no-such-org", "'; DROP TABLE entities; --"):
        for method, url, body in (
            ("GET", f"/entities/{ID}", None), ("GET", "/entities?type=SecretType", None), ("GET", "/types", None),
            ("POST", "/entities", SECRET), ("POST", "/entityOperations/upsert", [SECRET]),
            ("DELETE", f"/entities/{ID}", None), ("GET", "/subscriptions", None),
        ):
            answer = await other.request(method, url, json=body, headers={"ngsild-tenant": tenant})
            assert answer.status_code == 404, (method, url, answer.text)
            assert answer.json()["type"].endswith("/NonexistentTenant")


async def test_the_same_id_lives_in_two_organisations(door: Any, secret: str) -> None:
    other = door("fuzhou")
    mine = {**SECRET, "secretAttribute": {"type": "Property", "value": 7}}
    assert (await other.post("/entities", json=mine)).status_code == 201
    assert (await other.post("/entityOperations/upsert", json=[mine])).status_code == 204
    assert (await other.get(f"/entities/{ID}")).json()["secretAttribute"]["value"] == 7
    assert (await door("xiamen").get(f"/entities/{ID}")).text == secret
    admin = door("admin")
    assert (await admin.get(f"/entities/{ID}", headers={"ngsild-tenant": "fuzhou"})).json()["secretAttribute"]["value"] == 7
    assert (await admin.get(f"/entities/{ID}", headers={"ngsild-tenant": "xiamen"})).text == secret
    assert (await admin.delete(f"/entities/{ID}")).status_code == 400  # which one is not said


async def test_roles(door: Any, secret: str) -> None:
    viewer, stranger, nobody = door("xiamen-viewer"), door("stranger"), door(None)
    assert (await viewer.get(f"/entities/{ID}")).status_code == 200
    for method, url, body in WRITES:
        assert (await viewer.request(method, url, json=body)).status_code == 403, (method, url)
        assert (await stranger.request(method, url, json=body)).status_code == 403, (method, url)
        assert (await nobody.request(method, url, json=body)).status_code == 401, (method, url)
    for url in READS:
        assert (await stranger.get(url)).status_code == 403, url
        assert (await nobody.get(url)).status_code == 401, url


async def test_a_subscription_sees_its_own_organisation_only(door: Any, secret: str, service: ContextService) -> None:
    other = door("fuzhou")
    made = await other.post("/subscriptions", json={
        "type": "Subscription", "entities": [{"type": "SecretType"}], "notification": {"endpoint": {"uri": "http://127.0.0.1:9/x"}}})
    assert made.status_code == 201
    await door("xiamen").patch(f"/entities/{ID}/attrs", json={"secretAttribute": 43})
    await service.project([Update(1, "secretAttribute", 1_800_000_000_000_000, 44.0)])
    rows = await service.db.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM notification_outbox").scalar())
    assert rows == 0
    id = made.headers["location"].rpartition("/")[2]
    assert (await door("xiamen").get(f"/subscriptions/{id}")).status_code == 404
    assert (await door("xiamen").delete(f"/subscriptions/{id}")).status_code == 404
    assert (await door("xiamen").get("/subscriptions")).json() == []
    assert service.subscriptions.watches("fuzhou")
    assert not service.subscriptions.watches("xiamen")
