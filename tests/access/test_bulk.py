"""Devices by the bulk: the rules of a single creation, line by line, in one transaction with their entities, on both stores."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.access.conftest import ADMIN, eventually
from tests.access.test_things_directory import rows_of
from tulou.access import Directory
from tulou.access.models import Bulk, NewDevice, devices
from tulou.access.quotas.service import Quotas
from tulou.access.quotas.tables import Quota
from tulou.access.service import Devices
from tulou.context import ContextService, entities
from tulou.kernel.audit import audit_log
from tulou.kernel.bus import free_port
from tulou.kernel.errors import TulouError
from tulou.kernel.house import House
from tulou.kernel.settings import Settings


def line(key: str, **more: Any) -> dict[str, Any]:
    return {"org": "fuzhou", "type": "Manhole", "name": f"井 {key}", "id": key, **more}


@pytest.mark.postgres
async def test_lines_are_judged_as_single_devices_are(database_url: str, tmp_path: Path) -> None:
    house = House(Settings(home=tmp_path / "home", http_port=free_port(), mqtt_port=0, database_url=database_url))
    await house.start(("api",))
    try:
        other = Directory(house)
        await other.reload()
        await house.bus.on_changed("made", other.made)
        await house.bus.on_changed("things", other.changed)
        following = asyncio.create_task(other.follow())
        await _judged(house)
        await _told(house, other)
        following.cancel()
    finally:
        await house.stop()


async def _judged(house: House) -> None:
    service, context = house.service(Devices), house.service(ContextService)
    alone, otherwise = [
        await context.ensure_entity("fuzhou", kind, f"urn:ngsi-ld:Manhole:{key}", "earlier")
        for key, kind in (("alone", "Manhole"), ("otherwise", "StreetLight"))
    ]
    await service.create(ADMIN, NewDevice(**line("there", protocol="hj212", identity="MN1")))
    await house.service(Quotas).put(ADMIN, "xiamen", Quota(devices=1))
    items: list[Any] = [
        line("a", lon=119.3, lat=26.1), line("a"), line("a", type="StreetLight"), line("there"),
        line("there", protocol="hj212", identity="MN2"), line("b", protocol="hj212", identity="MN1"),
        line("c", protocol="hj212", identity="MN3", password="123456"), line("d", protocol="hj212", identity="MN3"),
        line("alone"), line("otherwise"), line("urn:ngsi-ld:Manhole:a"), line("e", org="xiamen"), line("f", org="xiamen"),
        line("g", org="atlantis"), line("h", type="Nothing"), line("i", lon=200), 7, line("j", protocol="hj212"),
        *(line(f"many-{n}", org=("fuzhou", "ningde")[n % 2]) for n in range(700)),
    ]
    made = await service.create_many(ADMIN, Bulk(items=items))
    assert [one["line"] for one in made] == list(range(1, len(items) + 1))
    assert [(one["line"], one["error"]["status"]) for one in made if "error" in one] == [
        (3, 409), (5, 409), (6, 409), (8, 409), (10, 409), (11, 409), (13, 403), (14, 400), (15, 400), (16, 400), (17, 400), (18, 400),
    ]
    created = [one for one in made if one.get("created")]
    assert len({one["token"] for one in created}) == len(created) == 704
    assert made[1] == {**{key: value for key, value in made[0].items() if key != "token"}, "created": False, "line": 2}
    assert (made[8]["no"], made[8]["created"]) == (alone, True)
    assert otherwise not in {one["no"] for one in created}
    for item, one in zip(items, made, strict=True):
        if isinstance(item, dict) and one.get("error", {}).get("status") in (409, 403):
            with pytest.raises(TulouError) as refused:
                await service.create(ADMIN, NewDevice(**item))
            assert refused.value.problem() == one["error"]
    for key, no in (("a", made[0]["no"]), ("many-6", made[24]["no"])):
        shown = await service.get(ADMIN, f"fuzhou:{key}")
        assert (shown["no"], shown["status"]) == (no, "active")
        assert (await context.retrieve(ADMIN, shown["entity_id"], tenant="fuzhou")).document["name"]["value"] == f"井 {key}"
    again = await service.create_many(ADMIN, Bulk(items=items))
    assert not any(one.get("created") for one in again)
    assert [one.get("no") for one in again] == [one.get("no") for one in made]

    query = sa.select(audit_log.c.org, audit_log.c.detail).where(audit_log.c.subject.like("% devices"))
    audited = await house.db.read(lambda c: c.execute(query).all())
    assert sorted(row.org for row in audited) == ["fuzhou", "fuzhou", "ningde", "ningde"], "a row for each organisation and transaction"
    orphans = sa.select(sa.func.count()).select_from(devices).where(devices.c.entity_no.not_in(sa.select(entities.c.no)))
    assert await house.db.read(lambda c: c.execute(orphans).scalar_one()) == 0


async def _told(house: House, other: Directory) -> None:
    """Both directories, that of this process and one that only hears, are as one that is read anew."""
    anew = Directory(house)
    await anew.reload()
    assert rows_of(house.service(Directory)) == rows_of(anew)

    async def same() -> bool:
        return rows_of(other) == rows_of(anew)

    await eventually(same)
