"""Frames read again in a whole house, by the route and the command, as people do it."""

from __future__ import annotations

import httpx
import pytest

from tests.access.conftest import Estate, eventually
from tests.access.test_devices_commands import Tulou, tulou  # noqa: F401 - a fixture
from tests.access.test_field import Station, answer
from tests.access.test_field_house import port, register
from tests.access.test_hj212 import frame
from tulou.access.protocols import hj212

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_history_is_mended_from_the_command_line(
    estate: Estate, lin: httpx.AsyncClient, yang: httpx.AsyncClient, tulou: Tulou,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = await register(estate, lin, "redecoded", "REDECODED01")
    station = await Station.connect(port(estate))
    for minute in range(3):
        station.send(frame(b"DataTime=2026040108%02d00;w01018-Rtd=%d,w01018-Flag=D" % (minute, minute), mn=b"REDECODED01"))
        assert await station.line() == answer(b"REDECODED01")
    thing = await estate.latest(lin, device, "w01018-Rtd", 2)
    assert thing["latest"]["w01018-Rtd"]["quality"] == 2
    monkeypatch.setitem(hj212.FLAGS, "D", 1)  # as if the codec had been mended
    asked = ("frames", "redecode", "--protocol", "hj212", "--device", device["id"], "--from", "2026-01-01T00:00:00Z")
    dry = await tulou(*asked, "--dry-run")
    assert (dry["state"], dry["counts"]["frames"], dry["counts"]["changed"]) == ("done", 3, 3)
    assert dry["examples"][0]["before"] == {"value": 0.0, "quality": 2}
    assert (await lin.get(f"/things/{device['no']}")).json()["latest"]["w01018-Rtd"]["quality"] == 2
    done = await tulou(*asked)
    assert (done["state"], done["counts"]["changed"]) == ("done", 3)
    assert (await lin.get(f"/things/{device['no']}")).json()["latest"]["w01018-Rtd"]["quality"] == 1
    entity = await lin.get(f"http://house/ngsi-ld/v1/entities/{device['entity_id']}")
    shown = [v for k, v in entity.json().items() if k.endswith("w01018-Rtd")]
    assert shown[0]["quality"]["value"] == "uncertain"
    assert (await tulou(*asked))["counts"]["changed"] == 0

    body = {"protocol": "hj212", "from": "2026-01-01T00:00:00Z", "org": "fuzhou"}
    for client in (lin, yang):
        assert (await client.post("/redecodes", json=body)).status_code == 403
    assert done["id"] in [item["id"] for item in (await lin.get("/redecodes")).json()["items"]]
    admin = estate.client(authorization=f"Bearer {estate.house.local_token}")
    unknown = await admin.post("/redecodes", json={**body, "protocol": "mqtt"})
    assert (unknown.status_code, unknown.json()["field"]) == (400, "protocol")
    audited = (await admin.get("/audit", params={"action": "readings.frame.write"})).json()["items"]
    assert len(audited) >= 3


async def test_a_run_is_seen_by_its_organisation_only(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    admin = estate.client(authorization=f"Bearer {estate.house.local_token}")
    run = (await admin.post("/redecodes", json={
        "protocol": "hj212", "from": "2026-01-01T00:00:00Z", "org": "fuzhou", "dry_run": True,
    })).json()

    async def done() -> bool:
        return (await lin.get(f"/redecodes/{run['id']}")).json()["state"] == "done"

    await eventually(done)
    assert (await chen.get(f"/redecodes/{run['id']}")).status_code == 404
    assert (await admin.post(f"/redecodes/{run['id']}/cancel")).status_code == 409


async def test_a_run_without_an_organisation_is_of_the_one_above_all_that_one_may(
    estate: Estate, lin: httpx.AsyncClient
) -> None:
    asked = {"protocol": "hj212", "from": "2026-04-01T00:00:00Z", "to": "2026-04-02T00:00:00Z", "dry_run": True}
    wu, both = await estate.person("wu", "xiamen", "admin"), await estate.person("both", "fuzhou", "admin", "xiamen")
    run = (await wu.post("/redecodes", json=asked)).json()
    assert run["org"] == "xiamen"
    assert (await wu.get(f"/redecodes/{run['id']}")).status_code == 200
    assert (await lin.get(f"/redecodes/{run['id']}")).status_code == 404
    admin = estate.client(authorization=f"Bearer {estate.house.local_token}")
    of_all = (await admin.post("/redecodes", json=asked)).json()
    assert of_all["org"] == "house"
    assert (await wu.get(f"/redecodes/{of_all['id']}")).status_code == 404
    refused = await both.post("/redecodes", json=asked)
    assert (refused.status_code, refused.json()["field"]) == (400, "org")
