"""Counts of entities by organisation and type (CIM 009 v1.9.1, 5.5.10 "count", 5.7.5 to 5.7.10), kept with every change."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from tulou.context import ContextService, counts
from tulou.context.counts import key_of
from tulou.context.store import Kind
from tulou.kernel.errors import Forbidden
from tulou.kernel.house import House

from .conftest import ACTORS, FUZHOU, XIAMEN, execute

MIGRATION = Path(counts.__file__).parent / "migrations" / "context_0040_counts.py"


async def count(api: httpx.AsyncClient, **parameters: Any) -> int:
    answer = await api.get("/entities", params={"limit": 0, "count": "true", **parameters})
    assert answer.status_code == 200, answer.text
    return int(answer.headers["ngsild-results-count"])


def lamps(*numbers: int, type: Any = "Lamp", **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"urn:x:{n}", "type": type, "power": n, **more} for n in numbers]


def table(house: House) -> list[tuple[Any, ...]]:
    return sorted(map(tuple, execute(house, "SELECT org,type,n FROM entity_counts")))


async def right(house: House) -> None:
    """The table and the entities agree."""
    assert await house.db.read(house.service(ContextService).counts.wrong) == []


async def test_every_way_to_come_go_and_change_is_counted(api: httpx.AsyncClient, ground: House) -> None:
    await api.post("/entities", json=lamps(1)[0])
    await api.post("/entityOperations/create", json=lamps(1, 2, 3))  # the first is refused
    await api.post("/entityOperations/upsert", json=lamps(3, 4, 4))
    assert table(ground) == [(XIAMEN, "Lamp", 4)]
    await ground.service(ContextService).ensure_entity(XIAMEN, "Lamp", "urn:x:5", "")
    await ground.service(ContextService).ensure_entity(XIAMEN, "Lamp", "urn:x:5", "")
    assert await count(api, type="Lamp") == 5
    await api.delete("/entities/urn:x:1")
    await api.post("/entityOperations/delete", json=["urn:x:2", "urn:x:2", "urn:x:99"])
    assert table(ground) == [(XIAMEN, "Lamp", 3)]
    await api.post("/entityOperations/upsert", json=lamps(3, type="Post"))  # replaced by one of another type
    assert table(ground) == [(XIAMEN, "Lamp", 2), (XIAMEN, "Post", 1)]
    await api.post("/entities/urn:x:4/attrs", json={"type": "Post"})  # 5.6.3: types are added
    assert [await count(api, type=t) for t in ("Lamp", "Post", "Lamp;Post", "Lamp,Post", "(Lamp;Post),Car")] == [2, 2, 1, 3, 1]
    await right(ground)
    await api.delete("/entities", params={"type": "Lamp"})
    assert table(ground) == [(XIAMEN, "Post", 1)]
    await right(ground)


async def test_a_write_that_fails_counts_nothing(ground: House, service: ContextService, api: httpx.AsyncClient) -> None:
    await api.post("/entityOperations/create", json=lamps(1))

    def fails(connection: sa.Connection) -> None:
        service.store.delete(service.store.cursor(connection), [1])
        raise ZeroDivisionError

    good = service.create(ACTORS["xiamen"], {"id": "urn:x:8", "type": "Lamp"})
    with pytest.raises(ZeroDivisionError):
        await ground.db.write(fails)
    await good
    assert table(ground) == [(XIAMEN, "Lamp", 2)]
    await right(ground)


async def test_counts_are_those_of_who_asks(door: Any, ground: House) -> None:
    await door("xiamen").post("/entityOperations/create", json=lamps(1, 2))
    await door("fuzhou").post("/entityOperations/create", json=[*lamps(1, 2, 3), *lamps(4, type="Secret")])
    assert await count(door("xiamen"), type="Lamp") == 2
    assert await count(door("fuzhou"), type="Lamp") == 3
    assert await count(door("admin"), type="Lamp") == 5
    answer = await door("admin").get("/entities", params={"type": "Lamp", "limit": 0, "count": "true"},
                                     headers={"ngsild-tenant": FUZHOU})
    assert answer.headers["ngsild-results-count"] == "3"
    assert (await door("xiamen").get("/types")).json()["typeList"] == ["Lamp"]
    assert (await door("fuzhou").get("/types")).json()["typeList"] == ["Lamp", "Secret"]
    assert (await door("xiamen").get("/types/Secret")).status_code == 404
    assert (await door("fuzhou").get("/types/Lamp")).json()["entityCount"] == 3


async def test_what_has_expired_is_not_counted(api: httpx.AsyncClient, ground: House) -> None:
    await api.post("/entityOperations/create", json=[
        *lamps(1), *lamps(2, expiresAt="2999-01-01T00:00:00Z"), *lamps(3, type=["Lamp", "Post"], expiresAt="2999-01-01T00:00:00Z"),
    ])
    assert await count(api, type="Lamp") == 3
    with ground.db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE entities SET expires_at=1 WHERE expires_at IS NOT NULL"))
    assert [await count(api, type="Lamp"), await count(api, type="*", local="true")] == [1, 1]
    assert (await api.get("/types")).json()["typeList"] == ["Lamp"]


async def test_it_is_what_the_entities_say(api: httpx.AsyncClient, ground: House) -> None:
    """Random changes; then every selection by types counts as many as pages hold."""
    dice = random.Random(7)
    for _ in range(60):
        some = [
            {"id": f"urn:x:{dice.randrange(12)}", "type": dice.choice(["A", "B", ["A", "B"], ["B", "A"], ["A", "C"]])}
            for _ in range(dice.randrange(1, 5))
        ]
        kind = dice.choice(["create", "upsert", "upsert", "upsert?options=update", "update", "merge", "delete"])
        await api.post(f"/entityOperations/{kind}", json=[e["id"] for e in some] if kind == "delete" else some)
    await right(ground)
    for selection in ("A", "B", "C", "A;B", "A,C", "(A;B)|C", "*"):
        found = (await api.get("/entities", params={"type": selection, "limit": 1000, "local": "true"})).json()
        assert await count(api, type=selection) == len(found), selection
        assert await count(api, type=selection, orderBy="name") == len(found), selection


async def test_the_doctor_finds_wrong_counts_and_recount_repairs_them(
    api: httpx.AsyncClient, ground: House, service: ContextService
) -> None:
    await api.post("/entityOperations/create", json=[*lamps(1, 2), *lamps(3, type=["Lamp", "Post"])])
    assert (await service.counts.check())[0]
    with ground.db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE entity_counts SET n=n+5 WHERE types IS NULL"))
    assert await ground.db.read(service.counts.wrong) == [Kind(XIAMEN, "Lamp", None)]
    service.counts._found = None
    ok, _, en = await service.counts.check()
    assert not ok
    assert "xiamen Lamp" in en
    with pytest.raises(Forbidden):
        await service.recount(ACTORS["xiamen"])
    write = service.create(ACTORS["xiamen"], {"id": "urn:x:9", "type": "Lamp"})
    assert await service.recount(ACTORS["admin"]) == 2
    await write
    assert table(ground) == [(XIAMEN, "Lamp", 1), (XIAMEN, "Lamp", 3)]
    assert (await service.counts.check())[0]


async def test_a_store_of_before_is_counted_when_it_is_brought_up_to_date(api: httpx.AsyncClient, ground: House) -> None:
    await api.post("/entityOperations/create", json=[*lamps(1, 2), *lamps(3, type=["Lamp", "灯杆"])])
    known = table(ground)
    kinds = {row[0] for row in execute(ground, "SELECT kind FROM entity_counts")}
    assert kinds == {key_of("Lamp", None), key_of("Lamp", '["Lamp","灯杆"]')}
    with ground.db.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE entity_counts"))
        with Operations.context(MigrationContext.configure(connection)):
            runpy.run_path(str(MIGRATION))["upgrade"]()
    assert table(ground) == known
    assert {row[0] for row in execute(ground, "SELECT kind FROM entity_counts")} == kinds


async def test_attributes_of_many_entities_come_from_a_sample(
    api: httpx.AsyncClient, service: ContextService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5.7.8, 5.7.10: names and kinds; beyond `DESCRIBED` documents counts are estimates."""
    await api.post("/entityOperations/create", json=[
        *lamps(*range(400)), *lamps(*range(400, 800), type="Post", height={"object": "urn:x:1"}),
        *lamps(800, type=["Post", "Rare"], only={"value": 1}),
    ])
    exact = await service.attributes(ACTORS["xiamen"])
    assert (exact["power"]["count"], exact["height"]["count"], exact["only"]["count"]) == (801, 400, 1)
    monkeypatch.setattr(counts, "DESCRIBED", 300)
    estimate = await service.attributes(ACTORS["xiamen"])
    assert {name: (entry["types"], entry["kinds"]) for name, entry in estimate.items()} == {
        name: (entry["types"], entry["kinds"]) for name, entry in exact.items()}
    assert estimate["only"]["count"] == 1
    assert abs(estimate["power"]["count"] - 801) <= 2
    rare = (await api.get("/types/Rare")).json()
    assert rare["entityCount"] == 1
    assert {entry["attributeName"] for entry in rare["attributeDetails"]} == {"power", "only"}
