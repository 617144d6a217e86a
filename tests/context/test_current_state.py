"""The projection of readings into entities, and history out of the readings store."""

from __future__ import annotations

import time

import httpx
import numpy as np
import pytest

from tulou.context import ContextService, Update
from tulou.context.routes import Door
from tulou.kernel.house import House
from tulou.kernel.policy import Actor
from tulou.kernel.readings import Class, Frames, Rows

from .conftest import ACTORS, ByName, execute

KIND = "AirQualityStation"
T0 = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z


async def test_last_values_are_merged_once_and_never_backwards(service: ContextService, api: httpx.AsyncClient) -> None:
    no = await service.ensure_entity("xiamen", KIND, "urn:x:1", "站", 118.0, 24.5, False)
    batch = [(no, "pm25", T0, 1.0), (no, "pm25", T0 + 2_000_000, 3.0), Update(no, "pm25", T0 + 1_000_000, 2.0), (no, "no2", T0, 7.0, None, 2, 0)]
    assert await service.project(batch) == 1
    first = (await api.get("/entities/urn:x:1")).json()
    assert first["pm25"] == {"type": "Property", "value": 3.0, "observedAt": "2026-01-01T00:00:02Z", "unitCode": "GQ"}
    assert first["no2"]["quality"] == {"type": "Property", "value": "bad"}
    assert await service.project(batch) == 0
    assert await service.project([(no, "pm25", T0 + 2_000_000, 99.0), (no, "pm25", T0, 98.0)]) == 0
    assert (await api.get("/entities/urn:x:1")).json() == first
    assert await service.project([(no, "pm25", T0 + 2_000_001, 4.0)]) == 1
    full = (await api.get("/entities/urn:x:1?options=sysAttrs")).json()
    assert full["pm25"]["value"] == 4.0
    assert full["pm25"]["modifiedAt"] > full["name"]["modifiedAt"]


async def test_what_cannot_be_projected_harms_no_neighbour(service: ContextService, api: httpx.AsyncClient) -> None:
    no = await service.ensure_entity("xiamen", KIND, "urn:x:1", "站")
    assert await service.project([]) == 0
    assert await service.project([
        (99_999, "pm25", T0, 1.0), (no, "pm10", T0, float("nan")), (no, "a b", T0, 1.0), (no, "id", T0, 1.0), (no, "type", T0, 1.0),
        (no, "so2", T0, float("inf")), (no, "o3", 10**18, 1.0), (no, "co", -5, 1.0), (no, "mode", T0, float("nan"), "x\x00y"), (no, "pm25", T0, 5.0),
    ]) == 1
    document = (await api.get("/entities/urn:x:1")).json()
    assert set(document) == {"id", "type", "name", "pm25", "mode"}
    assert document["mode"]["value"] == "x\ufffdy"


async def test_a_projected_value_notifies_in_the_same_transaction(service: ContextService, api: httpx.AsyncClient, ground: House) -> None:
    no = await service.ensure_entity("xiamen", KIND, "urn:x:1", "站")
    await api.post("/subscriptions", json={
        "type": "Subscription", "entities": [{"type": KIND}], "q": "pm25>100", "watchedAttributes": ["pm25"],
        "notification": {"endpoint": {"uri": "http://127.0.0.1:9/x"}}})
    await service.project([(no, "pm25", T0, 5.0)])
    assert execute(ground, "SELECT count(*) FROM notification_outbox")[0][0] == 0
    await service.project([(no, "pm25", T0 + 1, 500.0), (no, "no2", T0 + 1, 1.0)])
    assert execute(ground, "SELECT count(*) FROM notification_outbox")[0][0] == 1


def stored(no: int, values: list[float]) -> tuple[Rows, Frames]:
    """Readings of pm25, one a minute."""
    n = len(values)
    ts = np.arange(n, dtype=np.int64) * 60_000_000 + T0
    return (
        Rows.of([Class("xiamen", KIND, 0)], ["pm25"], entity=np.full(n, no, np.uint64), prop=np.zeros(n, np.uint16), ts=ts, value=np.array(values)),
        Frames.empty(),
    ) if hasattr(Rows, "of") else pytest.skip("readings rows are built elsewhere")


async def test_history_of_an_entity_without_readings(house: House) -> None:
    service = house.service(ContextService)
    await service.ensure_entity("xiamen", KIND, "urn:x:1", "站")
    house.authenticator = ByName()  # type: ignore[assignment]
    transport = httpx.ASGITransport(Door(house))
    async with httpx.AsyncClient(transport=transport, base_url="http://t/ngsi-ld/v1", headers={"authorization": "Bearer xiamen"}) as api:
        base = {"timerel": "after", "timeAt": "2025-12-31T00:00:00Z"}
        found = await api.get("/temporal/entities/urn:x:1", params=base)
        assert found.status_code == 200, found.text
        assert found.json() == {"id": "urn:x:1", "type": KIND}
        assert (await api.get("/temporal/entities", params={"type": KIND, **base})).json() == []
        for bad in ({}, {"timerel": "after"}, {"timerel": "x", "timeAt": base["timeAt"]}, {"timerel": "between", "timeAt": base["timeAt"]},
                    {**base, "lastN": "0"}, {**base, "options": "aggregatedValues"}, {**base, "options": "aggregatedValues", "aggrMethods": "median"},
                    {**base, "options": "aggregatedValues", "aggrMethods": "avg", "aggrPeriodDuration": "1h"}):
            answer = await api.get("/temporal/entities", params={"type": KIND, **bad})
            assert answer.status_code == 400, bad
        other = {"authorization": "Bearer fuzhou"}
        assert (await api.get("/temporal/entities/urn:x:1", params=base, headers=other)).status_code == 404
    assert time.time() > 0
    assert isinstance(ACTORS["xiamen"], Actor)
