"""The projection of readings into entities, and history out of the readings store."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np

from tulou.context import ContextService, Update
from tulou.context.routes import Door
from tulou.kernel.house import House
from tulou.kernel.readings import Class, Frames, Rows, raw_column

from .conftest import XIAMEN, ByName, execute, person

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
    """Readings of pm25, one a minute from T0 on, each with its frame."""
    n = len(values)
    of: Class = ("xiamen", KIND, 0)
    entity = np.full(n, no, np.uint64)
    ts = np.arange(n, dtype=np.int64) * 60_000_000 + T0
    rows = Rows(
        entity, np.zeros(n, np.int32), ts, np.array(values, np.float64), np.zeros(n, np.uint8), np.zeros(n, np.int32),
        np.full(n, 1, np.uint64), np.arange(n, dtype=np.uint32), ["pm25"], [of],
    )
    raw = raw_column(np.full(n, 1, np.uint32), b"x" * n)
    frames = Frames(
        entity, ts, rows.of, np.zeros(n, np.int32), np.zeros(n, np.uint8), rows.seq, rows.frame, raw, [of], ["mqtt"],
    )
    return rows, frames


async def test_history(house: House) -> None:
    service = house.service(ContextService)
    no = await service.ensure_entity("xiamen", KIND, "urn:x:1", "站")
    await service.ensure_entity("xiamen", KIND, "urn:x:2", "无读数")
    await house.readings.insert(*stored(no, [10.0, 20.0, 30.0, 40.0]), "test")
    house.authenticator = ByName()  # type: ignore[assignment]
    transport = httpx.ASGITransport(Door(house))
    async with httpx.AsyncClient(transport=transport, base_url="http://t/ngsi-ld/v1", headers={"authorization": "Bearer xiamen"}) as api:
        base = {"timerel": "after", "timeAt": "2025-12-31T00:00:00Z"}
        silent = await api.get("/temporal/entities/urn:x:2", params=base)
        assert silent.json() == {"id": "urn:x:2", "type": KIND}
        found = (await api.get("/temporal/entities/urn:x:1", params=base)).json()
        assert [item["value"] for item in found["pm25"]] == [10.0, 20.0, 30.0, 40.0]
        assert {k: v for k, v in found["pm25"][1].items() if k != "instanceId"} == {
            "type": "Property", "value": 20.0, "observedAt": "2026-01-01T00:01:00Z", "unitCode": "GQ"}
        one = (await api.get("/temporal/entities", params={"type": KIND, **base})).json()
        assert [item["id"] for item in one] == ["urn:x:1"]
        between = {"timerel": "between", "timeAt": "2026-01-01T00:00:30Z", "endTimeAt": "2026-01-01T00:02:30Z"}
        values = (await api.get("/temporal/entities/urn:x:1", params={**between, "options": "temporalValues"})).json()
        assert values["pm25"]["values"] == [[20.0, "2026-01-01T00:01:00Z"], [30.0, "2026-01-01T00:02:00Z"]]
        last = (await api.get("/temporal/entities/urn:x:1", params={**base, "lastN": "1"})).json()
        assert last["pm25"][0]["value"] == 40.0
        before = {"timerel": "before", "timeAt": "2026-01-01T00:01:00Z", "options": "temporalValues"}
        assert len((await api.get("/temporal/entities/urn:x:1", params=before)).json()["pm25"]["values"]) == 1
        sums = (await api.get("/temporal/entities/urn:x:1", params={
            "timerel": "between", "timeAt": "2025-12-31T23:59:59Z", "endTimeAt": "2026-01-01T01:00:00Z",
            "options": "aggregatedValues", "aggrMethods": "avg,max,totalCount"})).json()["pm25"]
        assert (sums["avg"][0][0], sums["max"][0][0], sums["totalCount"][0][0]) == (25.0, 40.0, 4.0)
        by_post = await api.post("/temporal/entityOperations/query", json={
            "type": "Query", "entities": [{"type": KIND}], "temporalQ": base, "attrs": ["pm25"]})
        assert len(by_post.json()[0]["pm25"]) == 4
        hidden = await api.get("/temporal/entities", params={"type": KIND, **base}, headers={"authorization": "Bearer fuzhou"})
        assert hidden.json() == []
        for bad in ({}, {"timerel": "after"}, {"timerel": "x", "timeAt": base["timeAt"]}, {"timerel": "between", "timeAt": base["timeAt"]},
                    {**base, "lastN": "0"}, {**base, "options": "aggregatedValues"}, {**base, "options": "aggregatedValues", "aggrMethods": "median"},
                    {**base, "options": "aggregatedValues", "aggrMethods": "avg", "aggrPeriodDuration": "1h"}):
            answer = await api.get("/temporal/entities", params={"type": KIND, **bad})
            assert answer.status_code == 400, bad
        other = {"authorization": "Bearer fuzhou"}
        assert (await api.get("/temporal/entities/urn:x:1", params=base, headers=other)).status_code == 404


async def test_a_batch_tells_the_other_engines_what_they_must_read_again(service: ContextService) -> None:
    def stations(name: str, value: int) -> list[dict[str, Any]]:
        return [
            {"id": f"urn:x:announced:{n}", "type": "Station", "name": {"type": "Property", "value": name},
             "level": {"type": "Property", "value": value}} for n in range(150)
        ]

    async def told(name: str, value: int) -> set[int]:
        service._changed.clear()
        await service.upsert_many(person(XIAMEN, "steward"), stations(name, value))
        return set(service._changed)

    made = await told("测站", 1)
    assert len(made) == 150
    assert 0 not in made
    assert await told("测站", 2) == set()
    assert await told("新名", 2) == made
