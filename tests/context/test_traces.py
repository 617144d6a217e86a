"""What the audit says of writes over NGSI-LD: one row for each operation, in the same transaction, in one chain."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests.context.conftest import ACTORS
from tulou.context import ContextService, Update
from tulou.kernel import audit
from tulou.kernel.audit import Audit, audit_log, verify_chain
from tulou.kernel.house import House
from tulou.kernel.policy import Actor, Binding


def spot(n: int, **more: Any) -> dict[str, Any]:
    return {"id": f"urn:ngsi-ld:Spot:{n}", "type": "Spot", "free": {"type": "Property", "value": n}, **more}


async def rows(house: House) -> list[dict[str, Any]]:
    """The audit's rows of entities, oldest first, the chain being whole."""
    assert (await house.db.read(verify_chain)).ok
    query = sa.select(audit_log).where(audit_log.c.action.like("context.%")).order_by(audit_log.c.seq)
    return [audit.document(row) for row in await house.db.read(lambda c: c.execute(query).all())]


async def test_single_operations(ground: House, api: httpx.AsyncClient) -> None:
    """Who changed which attributes of which entity; the values stay out."""
    id = "urn:ngsi-ld:Spot:1"
    for method, path, body, status in (
        ("POST", "/entities", spot(1), 201),
        ("PATCH", f"/entities/{id}/attrs", {"free": {"type": "Property", "value": 8675309}}, 204),
        ("POST", f"/entities/{id}/attrs", {"shut": {"type": "Property", "value": False}}, 204),
        ("PATCH", f"/entities/{id}/attrs/free", {"value": 3}, 204),
        ("DELETE", f"/entities/{id}/attrs/shut", None, 204),
        ("PATCH", f"/entities/{id}", {"free": {"type": "Property", "value": 4}}, 204),
        ("PUT", f"/entities/{id}", spot(1), 204),
        ("DELETE", f"/entities/{id}", None, 204),
    ):
        answer = await api.request(method, path, json=body)
        assert answer.status_code == status, (method, path, answer.text)
    found = await rows(ground)
    assert [(row["action"].rsplit(".", 1)[1], row["detail"].get("attributes")) for row in found] == [
        ("create", None), ("write", ["free"]), ("write", ["shut"]), ("write", ["free"]), ("delete", ["shut"]),
        ("write", ["free"]), ("write", ["type", "free"]), ("delete", None),
    ]
    assert {(row["actor"], row["org"], row["subject"], row["outcome"]) for row in found} == {
        ("user:xiamen-steward", "xiamen", id, "ok")
    }
    assert "8675309" not in str(found)


async def test_what_changes_nothing_leaves_no_row(ground: House, api: httpx.AsyncClient) -> None:
    assert (await api.post("/entities", json=spot(1))).status_code == 201
    assert (await api.post("/entities", json=spot(1))).status_code == 409
    assert (await api.patch("/entities/urn:ngsi-ld:Spot:2/attrs", json={"free": 1})).status_code == 404
    assert (await api.delete("/entities/urn:ngsi-ld:Spot:2")).status_code == 404
    assert (await api.post("/entityOperations/update", json=[spot(2)])).status_code in (207, 404)
    assert len(await rows(ground)) == 1


async def test_a_batch_is_one_row_with_counts_and_the_digest_of_its_ids(ground: House, api: httpx.AsyncClient) -> None:
    assert (await api.post("/entityOperations/create", json=[spot(n) for n in range(3)])).status_code == 201
    upserted = await api.post("/entityOperations/upsert", json=[spot(n) for n in (9, 2, 1)])
    assert upserted.status_code == 201
    assert (await api.post("/entityOperations/delete", json=[f"urn:ngsi-ld:Spot:{n}" for n in (0, 1)])).status_code == 204
    assert (await api.delete("/entities", params={"type": "Spot"})).status_code == 204
    details = [row["detail"] for row in await rows(ground)]
    assert [{k: v for k, v in detail.items() if k != "ids_sha256"} for detail in details] == [
        {"operation": "batch create", "created": 3}, {"operation": "batch replace", "created": 1, "updated": 2},
        {"operation": "batch delete", "deleted": 2}, {"operation": "purge", "deleted": 2},
    ]
    ids = b"urn:ngsi-ld:Spot:1\nurn:ngsi-ld:Spot:2\nurn:ngsi-ld:Spot:9\n"
    assert details[1]["ids_sha256"] == hashlib.sha256(ids).hexdigest()


async def test_writes_of_one_commit_are_chained_in_order(ground: House, service: ContextService) -> None:
    """Many callers share a transaction; each has its row, also where a neighbour fails."""
    actor = ACTORS["xiamen"]

    def fails(_connection: sa.Connection) -> None:
        raise RuntimeError("a neighbour")

    await asyncio.gather(
        *(service.create(actor, spot(n)) for n in range(40)), ground.db.write(fails),
        *(service.create(actor, spot(n)) for n in range(40, 80)), return_exceptions=True,
    )
    found = await rows(ground)
    assert sorted(row["subject"] for row in found) == sorted(f"urn:ngsi-ld:Spot:{n}" for n in range(80))
    await asyncio.gather(
        *(audit.note(ground.db, actor, "context.test", "xiamen", str(n)) for n in range(20)),
        *(service.delete(actor, f"urn:ngsi-ld:Spot:{n}") for n in range(20)),
    )
    assert len(await rows(ground)) == 120


async def test_a_write_that_is_rolled_back_leaves_no_row(ground: House) -> None:
    def fails(_connection: sa.Connection) -> None:
        audit.record_soon(ground.db, audit.entry("user:x", "context.test", "xiamen", "never"))
        raise RuntimeError("rolled back")

    def works(_connection: sa.Connection) -> None:
        audit.record_soon(ground.db, audit.entry("user:x", "context.test", "xiamen", "kept"))

    done = await asyncio.gather(*(ground.db.write(f) for f in (works, fails, works, fails)), return_exceptions=True)
    assert [isinstance(each, RuntimeError) for each in done] == [False, True, False, True]
    assert [row["subject"] for row in await rows(ground)] == ["kept", "kept"]


async def test_what_devices_send_is_not_in_the_audit(ground: House, service: ContextService) -> None:
    no = await service.ensure_entity("xiamen", "WeatherStation", "urn:ngsi-ld:WeatherStation:1", "站")
    assert await service.project([Update(no, "temperature", 1_700_000_000_000_000, 21.5)]) == 1
    assert await rows(ground) == []


async def test_nobody_reads_the_traces_of_others(ground: House, api: httpx.AsyncClient) -> None:
    assert (await api.post("/entities", json=spot(1))).status_code == 201
    for org, seen in (("fuzhou", 0), ("xiamen", 1)):
        auditor = Actor(f"user:{org}", org, org, "user", frozenset({Binding(org, "auditor", True)}), None, org)
        found = await ground.service(Audit).records(auditor, action="context.entity.create")
        assert len(found) == seen




async def test_a_changed_trace_is_found(ground: House, api: httpx.AsyncClient) -> None:
    if ground.db.dialect != "sqlite":
        pytest.skip("the triggers are tested with the audit itself")
    await api.post("/entities", json=spot(1))

    def forge(connection: sa.Connection) -> None:
        for trigger in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type='trigger'").fetchall():
            connection.exec_driver_sql(f"DROP TRIGGER {trigger[0]}")
        connection.execute(audit_log.update().where(audit_log.c.action == "context.entity.create").values(actor="user:x"))

    await ground.db.write(forge)
    assert not (await ground.db.read(verify_chain)).ok


async def test_history_subscriptions_and_registrations(ground: House, api: httpx.AsyncClient) -> None:
    """Who wrote into the past, and who arranged that data leave the house: subject and members, no values."""
    past, watch, source = "urn:ngsi-ld:Spot:past", "urn:ngsi-ld:Subscription:1", "urn:ngsi-ld:ContextSourceRegistration:1"
    reading = {"type": "Property", "value": 8675309, "observedAt": "2026-11-01T00:00:00Z"}
    subscription = {
        "id": watch, "type": "Subscription", "entities": [{"type": "Spot"}],
        "notification": {"endpoint": {"uri": "http://127.0.0.1:9/8675309"}},
    }
    registration = {
        "id": source, "type": "ContextSourceRegistration", "information": [{"entities": [{"type": "Spot"}]}],
        "endpoint": "http://127.0.0.1:9/8675309",
    }
    for method, path, body, status in (
        ("POST", "/temporal/entities", {"id": past, "type": "Spot", "free": [reading]}, 201),
        ("POST", "/temporal/entities", {"id": past, "type": "Spot", "free": [reading]}, 204),
        ("POST", f"/temporal/entities/{past}/attrs", {"shut": [reading]}, 204),
        ("DELETE", f"/temporal/entities/{past}/attrs/nothing", None, 404),
        ("DELETE", f"/temporal/entities/{past}/attrs/shut", None, 204),
        ("DELETE", f"/temporal/entities/{past}", None, 204),
        ("POST", "/subscriptions", subscription, 201),
        ("POST", "/subscriptions", subscription, 409),
        ("PATCH", f"/subscriptions/{watch}", {"description": "8675309"}, 204),
        ("DELETE", f"/subscriptions/{watch}", None, 204),
        ("POST", "/csourceRegistrations", registration, 201),
        ("PATCH", f"/csourceRegistrations/{source}", {"description": "8675309"}, 204),
        ("DELETE", f"/csourceRegistrations/{source}", None, 204),
        ("POST", "/csourceSubscriptions", subscription, 201),
        ("PATCH", f"/csourceSubscriptions/{watch}", {"description": "8675309"}, 204),
        ("DELETE", f"/csourceSubscriptions/{watch}", None, 204),
    ):
        answer = await api.request(method, path, json=body)
        assert answer.status_code == status, (method, path, answer.text)
    found = await rows(ground)
    assert [(row["action"].removeprefix("context."), row["subject"], row["detail"]) for row in found] == [
        ("temporal.create", past, {"attributes": ["free"]}), ("temporal.write", past, {"attributes": ["free"]}),
        ("temporal.write", past, {"attributes": ["shut"]}), ("temporal.delete", past, {"attributes": ["shut"]}),
        ("temporal.delete", past, {}),
        *[
            (f"{thing}.{verb}", id, {"members": ["description"]} if verb == "write" else {})
            for thing, id in (("subscription", watch), ("source", source), ("sourcesubscription", watch))
            for verb in ("create", "write", "delete")
        ],
    ]
    assert "8675309" not in str(found)
    assert {(row["actor"], row["org"]) for row in found} == {("user:xiamen-steward", "xiamen")}
