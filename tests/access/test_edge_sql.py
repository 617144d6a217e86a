"""The hub's side on both relational stores: what is under way when it crashes is settled exactly, and commands are handed out
until they are filed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.access.conftest import ADMIN
from tests.access.test_edge import group
from tests.access.writing import batch
from tulou.access.batch import Batch
from tulou.access.downlink import Commands
from tulou.access.edge.service import MARK, Announced, Announcement, Edges, Reports, Told, Took
from tulou.access.edge.tables import NewEdge, edges
from tulou.access.models import NewCommand, NewDevice, devices
from tulou.access.quotas.service import OverQuota, Quotas
from tulou.access.quotas.tables import Quota
from tulou.access.service import Devices
from tulou.access.shadow import Desire, Shadows
from tulou.access.writer import STREAM
from tulou.kernel.bus import free_port
from tulou.kernel.errors import Conflict, NotFound, Throttled, Unauthenticated
from tulou.kernel.house import House
from tulou.kernel.settings import Settings


@pytest.mark.postgres
async def test_the_hubs_side(database_url: str, tmp_path: Path) -> None:
    house = House(Settings(home=tmp_path / "home", http_port=free_port(), mqtt_port=0, database_url=database_url))
    await house.start(("api",))
    try:
        await _hubs_side(house)
    finally:
        await house.stop()


async def _hubs_side(house: House) -> None:
    service = house.service(Edges)
    first, second = [await service.create(ADMIN, NewEdge(org="fuzhou", name=name)) for name in ("a", "b")]
    actor, no = await service.admitted(first["token"], "192.0.2.1")
    other, other_no = await service.admitted(second["token"], "192.0.2.1")
    assert await service.meet(actor, no, "e1") == {"last": 0, "name": "a", "org": "fuzhou"}
    await service.meet(other, other_no, "e1")

    def station(entity: int, key: str | None, **more: Any) -> Announced:
        id = f"urn:ngsi-ld:AirQualityStation:{key or 'bare'}"
        return Announced(entity=entity, org="fuzhou", type="AirQualityStation", id=id, name=key or "bare", key=key, **more)

    said = Announcement(era="e1", entities=[station(4, "s4"), station(5, "s5"), station(6, None)])
    numbers = [item["no"] for item in (await service.announce(actor, no, said))["items"]]
    assert [item["no"] for item in (await service.announce(actor, no, said))["items"]] == numbers
    taken = await service.announce(other, other_no, Announcement(era="e1", entities=[station(1, "s4")]))
    assert taken["items"][0]["error"]["status"] == 409, "it is at another edge"

    def body(after: int, *messages: tuple[int, int]) -> bytes:
        at = time.time_ns() // 1000
        return group("e1", after, *((seq, batch([(entity, "pm25", at + seq, float(seq))], received=at)) for seq, entity in messages))

    async def stream() -> list[Batch]:
        state = (await house.bus.js.stream_info(STREAM)).state
        return [Batch.decode((await house.bus.js.get_msg(STREAM, seq)).data) for seq in range(1, state.last_seq + 1)]

    assert await service.take(actor, no, body(0, (2, 4), (3, 5), (4, 6))) == {"last": 4}
    assert [(b.edge, b.f_entity.tolist()) for b in await stream()] == [(str(no), numbers)], "one message of three"
    with pytest.raises(Conflict):
        await service.take(actor, no, body(0, (2, 4)))

    # The hub ends when it has stated a group and published a part of it: the rest comes, and nothing twice.
    floor = (await house.bus.js.stream_info(STREAM)).state.last_seq
    await house.db.write(lambda c: c.execute(edges.update().where(edges.c.no == no).values(floor=floor)) and None)
    await house.bus.js.publish(f"tulou.readings.edge-{no}", batch([(numbers[0], "pm25", 1, 5.0)]), headers={MARK: "5 e1"})
    with pytest.raises(Conflict) as conflict:
        await service.take(actor, no, body(4, (5, 4), (6, 4)))
    assert conflict.value.value == 5
    assert await service.take(actor, no, body(5, (6, 4))) == {"last": 6}
    assert len(await stream()) == 3

    # Or before it published anything.
    floor = (await house.bus.js.stream_info(STREAM)).state.last_seq
    await house.db.write(lambda c: c.execute(edges.update().where(edges.c.no == no).values(floor=floor)) and None)
    await service.open()
    assert (await service.meet(actor, no, "e1"))["last"] == 6

    # An organisation that may say no more: the edge keeps its group, until it may.
    await house.service(Quotas).put(ADMIN, "fuzhou", Quota(readings=0))
    with pytest.raises(OverQuota):
        await service.take(actor, no, body(6, (7, 4)))
    await house.service(Quotas).put(ADMIN, "fuzhou", Quota(messages_s=0.01))
    assert await service.take(actor, no, body(6, (7, 4))) == {"last": 7}
    with pytest.raises(Throttled):
        await service.take(actor, no, body(7, (8, 4)))
    await house.service(Quotas).put(ADMIN, "fuzhou", Quota())
    assert await service.take(actor, no, body(7, (8, 4))) == {"last": 8}

    # Commands are handed out until they are filed, those of this edge only.
    calls = house.service(Commands)
    told = await calls.send(ADMIN, "fuzhou:s4", NewCommand(method="open", params={"by": 1}, repeat=False))
    assert told["bearer"] == "edge"
    for _ in range(2):
        handed = (await service.orders(actor, no))["commands"]
        assert [(one["no"], one["entity"], one["method"]) for one in handed] == [(told["no"], 4, "open")]
    assert (await service.orders(other, other_no))["commands"] == []
    with pytest.raises(NotFound):
        await service.reported(other, other_no, Reports(items=[Told(no=told["no"], what="answered", result=1)]))
    await service.reported(actor, no, Reports(items=[Told(no=told["no"], what="taken")]))
    assert (await service.orders(actor, no))["commands"] == []
    for _ in range(2):
        await service.reported(actor, no, Reports(items=[Told(no=told["no"], what="answered", result={"x": 1})]))
    assert (await calls.get(ADMIN, told["no"]))["state"] == "done"

    # So are shadows, and firmware is left out.
    await house.service(Shadows).change(ADMIN, "fuzhou:s4", Desire(desired={"interval": 5, "fw_title": "x"}))
    for _ in range(2):
        assert (await service.orders(actor, no))["shadows"] == [{"entity": 4, "version": 1, "desired": {"interval": 5}}]
    await service.reported(other, other_no, Reports(shadows=[Took(entity=4, version=9)]))
    assert (await service.orders(actor, no))["shadows"] != []
    await service.reported(actor, no, Reports(shadows=[Took(entity=4, version=1)]))
    assert (await service.orders(actor, no))["shadows"] == []

    # One that is deleted here stays deleted; a new stream begins anew; a revoked edge is out, and its devices may go to another.
    await house.service(Devices).delete(ADMIN, "fuzhou:s5")
    answer = await service.take(actor, no, body(8, (9, 5)))
    assert answer == {"last": 8, "unknown": [5]}
    again = await service.announce(actor, no, Announcement(era="e1", entities=[station(5, "s5")]))
    assert again["items"][0]["error"]["status"] == 409
    assert (await service.meet(actor, no, "e2"))["last"] == 0
    assert (await service.get(ADMIN, no))["devices"] == 2, "they are still at this edge"
    anew = await service.announce(actor, no, Announcement(era="e2", entities=[station(44, "s4"), station(55, "s5")]))
    assert [item["no"] for item in anew["items"]] == [numbers[0], numbers[1]], "by other numbers the same entities"
    made = await house.service(Devices).create(ADMIN, NewDevice(org="fuzhou", type="AirQualityStation", name="own", id="own"))
    heard = devices.update().where(devices.c.entity_no == made["no"]).values(seen_at=1)
    await house.db.write(lambda c: c.execute(heard) and None)
    own = await service.announce(actor, no, Announcement(era="e2", entities=[station(66, "own")]))
    assert own["items"][0]["error"]["status"] == 409, "it speaks to the hub itself"
    await service.revoke(ADMIN, no)
    for refused in (service.admitted(first["token"], "192.0.2.1"), service.meet(actor, no, "e2")):
        with pytest.raises((Unauthenticated, NotFound)):
            await refused
    taken = await service.announce(other, other_no, Announcement(era="e1", entities=[station(1, "s4")]))
    assert taken["items"][0]["no"] == numbers[0]
    assert [one["state"] for one in (await service.find(ADMIN))["items"]] == ["connected", "revoked"]
