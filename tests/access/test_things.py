"""Things: search, detail, series, frames, map and overview; and what another organisation can learn from them."""

from __future__ import annotations

import asyncio
import base64
import gzip
from typing import Any

import httpx
import pytest

from tests.access.conftest import ADMIN, Estate, eventually
from tulou.access import Bulk, Directory, Things
from tulou.access.service import Devices
from tulou.kernel.organisations import Organisations

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_reading_is_everywhere(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "aq-1", name="鼓楼站")
    await estate.say(made, pm25=18, o3=90.5)
    thing = await estate.latest(lin, made, "o3", 90.5)
    assert thing["latest"]["pm25"]["value"] == 18
    assert thing["latest"]["pm25"]["unit"] == "µg/m³"
    assert (thing["org_name"], thing["synthetic"]) == ("福州市", False)

    async def ok() -> bool:  # a reading is in the store a moment before it is in the entity and a sign of life
        nonlocal thing
        thing = (await lin.get(f"/things/{made['no']}")).json()
        return bool(thing["state"] == "ok" and "pm25" in thing["doc"])

    await eventually(ok)
    assert thing["doc"]["type"] == "AirQualityStation"
    assert thing["doc"]["pm25"]["value"] == 18
    assert thing["device"]["id"] == made["id"]
    assert "token" not in str(thing["device"]).replace("token_prefix", "")
    assert thing["model"]["label_zh"] == "空气质量站"
    listed = (await lin.get("/things", params={"q": "鼓楼", "count": 1})).json()
    assert listed["count"] == 1
    assert listed["items"][0]["latest"]["o3"]["value"] == 90.5
    series = (await lin.get(f"/things/{made['no']}/series", params={"property": "pm25"})).json()
    assert series["resolution"] == "raw"
    assert [point[1:] for point in series["points"]] == [[18.0, 18.0, 18.0]]
    frames = (await lin.get(f"/things/{made['no']}/frames")).json()["items"]
    assert frames[0]["raw"] == '{"pm25":18,"o3":90.5}'
    assert (frames[0]["protocol"], frames[0]["encoding"]) == ("http", "utf-8")


async def test_a_new_thing_is_found_at_once(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "now")
    assert (await lin.get(f"/things/{made['no']}")).json()["state"] == "offline"
    assert (await lin.get("/things", params={"q": "now"})).json()["items"][0]["no"] == made["no"]


async def test_search_takes_any_part_in_any_case(estate: Estate, lin: httpx.AsyncClient) -> None:
    await estate.device(lin, "fuzhou", "Search-ABC", name="晋安区 五四北路 100%_站")
    for q in ("五", "四北", "search-abc", "SEARCH", "%_", "URN:ngsi-ld:AirQualityStation:Search"):
        found = (await lin.get("/things", params={"q": q})).json()["items"]
        assert [t["name"] for t in found] == ["晋安区 五四北路 100%_站"], q
    assert (await lin.get("/things", params={"q": "没有这个"})).json() == {"items": [], "next": None}


async def test_filters_and_pages(estate: Estate, lin: httpx.AsyncClient) -> None:
    items = [
        {"org": "fuzhou", "type": "NoiseStation", "name": f"噪声 {i:03}", "id": f"n-{i}", "synthetic": i % 2 == 1}
        for i in range(60)
    ]
    lines = await estate.house.service(Devices).create_many(ADMIN, Bulk(items=items))
    assert not any("error" in line for line in lines)
    every = {"type": "NoiseStation", "count": 1}
    assert (await lin.get("/things", params=every)).json()["count"] == 60
    assert (await lin.get("/things", params={**every, "synthetic": 1})).json()["count"] == 30
    assert (await lin.get("/things", params={**every, "state": "offline"})).json()["count"] == 60
    assert (await lin.get("/things", params={**every, "state": "ok"})).json()["count"] == 0
    assert (await lin.get("/things", params={**every, "q": "噪声 00"})).json()["count"] == 10
    seen: list[int] = []
    after: str | None = None
    while True:
        query = {"type": "NoiseStation", "limit": 7, **({"after": after} if after else {})}
        page = (await lin.get("/things", params=query)).json()
        seen += [t["no"] for t in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert len(seen) == 60
    assert seen == sorted(set(seen))


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/things?limit=0", "limit"), ("/things?limit=x", "limit"), ("/things?state=dead", "state"),
        ("/things?synthetic=maybe", "synthetic"), ("/things?after=x", "after"), ("/things/{no}/series?points=0", "points"),
        ("/things/{no}/series?property=pm25&from=yesterday", "from"),
        ("/things/{no}/series?property=pm25&to=2026-01-01T00:00:00", "to"),
    ],
)
async def test_bad_queries_name_the_field(estate: Estate, lin: httpx.AsyncClient, path: str, field: str) -> None:
    no = (await lin.get("/things", params={"limit": 1})).json()["items"][0]["no"]
    answer = await lin.get(path.format(no=no))
    assert (answer.status_code, answer.json()["field"]) == (400, field)


async def test_a_raw_frame_that_is_not_text_comes_as_base64(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "binary")
    refused = await estate.client().post(f"/{made['token']}/telemetry", content=b"\xff\xfe\x00")
    assert (refused.status_code, refused.json()["rule"]) == (400, "utf-8")

    async def letter() -> Any:
        items = (await lin.get("/dead-letters")).json()["items"]
        return next((i for i in items if i["entity"] == made["no"]), None)

    found = await eventually(letter)
    assert (base64.b64decode(found["raw"]), found["encoding"]) == (b"\xff\xfe\x00", "base64")


async def test_the_map_is_columns_and_has_an_etag(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "on-map", lon=119.5, lat=25.5)
    await estate.device(lin, "fuzhou", "no-place", lon=None, lat=None)
    answer = await lin.get("/map")
    assert answer.headers["content-encoding"] == "gzip"
    body = answer.json()
    assert {len(column) for name, column in body.items() if name != "types"} == {len(body["no"])}
    at = body["no"].index(made["no"])
    assert (body["lon"][at], body["lat"][at], body["state"][at]) == (119.5, 25.5, 2)
    assert body["types"][body["type"][at]] == "AirQualityStation"
    assert "站 no-place" not in body["name"]
    same = await lin.get("/map", headers={"if-none-match": answer.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    await estate.say(made, pm25=1)

    async def moved() -> bool:
        now = await lin.get("/map", headers={"if-none-match": answer.headers["etag"]})
        return now.status_code == 200 and now.json()["state"][at] == 0

    await eventually(moved)
    few = (await lin.get("/map", params={"types": "NoiseStation"})).json()
    assert few["no"] == []
    plain = await lin.get("/map", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json()["no"] == body["no"]


async def test_the_map_is_one_gzip_member(estate: Estate) -> None:
    """Browsers read the first member only."""
    import zlib

    _, body = await estate.house.service(Things).map(ADMIN, (), None)
    assert body is not None
    reader = zlib.decompressobj(31)
    text = reader.decompress(body)
    assert reader.eof
    assert reader.unused_data == b""
    assert text == gzip.decompress(body)


async def test_names_change_and_things_go(estate: Estate, lin: httpx.AsyncClient) -> None:
    """What other doors do to an entity is seen here."""
    made = await estate.device(lin, "fuzhou", "renamed")
    doors = {"ngsild-tenant": "fuzhou", "content-type": "application/json"}
    url = f"http://house/ngsi-ld/v1/entities/{made['entity_id']}"
    answer = await lin.patch(f"{url}/attrs", headers=doors, json={"name": {"type": "Property", "value": "新名"}})
    assert answer.status_code in (204, 207), answer.text

    async def renamed() -> bool:
        return (await lin.get(f"/things/{made['no']}")).json()["name"] == "新名"

    await eventually(renamed)
    assert (await lin.delete(f"/devices/{made['id']}")).status_code == 204
    assert (await lin.delete(url, headers=doors)).status_code == 204

    async def gone() -> bool:
        return (await lin.get(f"/things/{made['no']}")).status_code == 404

    await eventually(gone)


async def test_the_overview_counts_what_one_may_see(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    await estate.device(chen, "xiamen", "x-1", synthetic=True)
    mine, other = (await lin.get("/overview")).json(), (await chen.get("/overview")).json()
    directory = estate.house.service(Directory)
    assert mine["counters"]["entities"] == sum(t["count"] for t in mine["by_type"])
    assert other["counters"]["entities"] == sum(t["count"] for t in other["by_type"])
    assert mine["counters"]["entities"] + other["counters"]["entities"] == directory.size
    assert other["synthetic"] == {"entities": 1, "devices": 1}
    assert set(mine["counters"]) == {
        "entities", "devices", "online", "readings_total", "readings_per_second", "alarms_open", "dead_letters",
    }
    assert set(mine) == {"counters", "synthetic", "by_type", "targets", "rate", "systems"}


async def test_another_organisation_learns_nothing(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    mine = await estate.device(lin, "fuzhou", "quiet", name="独此一处")
    await estate.say(mine, pm25=42)
    await estate.latest(lin, mine, "pm25", 42)
    absent = 10**12
    for path in ("/things/{}", "/things/{}/series?property=pm25", "/things/{}/frames"):
        there, nowhere = await chen.get(path.format(mine["no"])), await chen.get(path.format(absent))
        assert there.status_code == nowhere.status_code == 404
        assert there.text.replace(str(mine["no"]), "?") == nowhere.text.replace(str(absent), "?")
    for query in ({"q": "独此"}, {"org": "fuzhou"}, {"q": mine["entity_id"]}, {"org": "fuzhou", "q": "quiet"}):
        found = (await chen.get("/things", params={**query, "count": 1})).json()
        assert (found["items"], found["count"]) == ([], 0), query
    listed = (await chen.get("/map")).json()
    assert mine["no"] not in listed["no"]
    assert set(listed["org"]) <= {"xiamen"}
    assert "AirQualityStation" in listed["types"] or not listed["no"]
    letters = (await chen.get("/dead-letters")).json()["items"]
    assert not any(letter["org"] == "fuzhou" for letter in letters)
    export = {"type": "AirQualityStation", "from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
    assert all(row[0] == "xiamen" for row in (await chen.get("/readings", params=export)).json()["items"])
    assert (await chen.post("/readings/sql", json={"sql": "SELECT count() FROM readings"})).status_code == 403


async def test_the_map_of_one_is_not_the_map_of_another(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    """Not even by the other's ETag, nor after the organisations that one may see have changed."""
    theirs = await lin.get("/map")
    mine = await chen.get("/map", headers={"if-none-match": theirs.headers["etag"]})
    assert mine.status_code == 200
    assert not set(mine.json()["no"]) & set(theirs.json()["no"])


async def test_a_type_that_only_others_have_is_not_named(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient) -> None:
    await estate.device(lin, "fuzhou", "only-here", type="EgressLink")
    assert "EgressLink" not in (await chen.get("/map")).json()["types"]
    assert "EgressLink" in (await lin.get("/map")).json()["types"]


async def test_organisations_below_are_seen_from_above(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "below")
    rows = estate.house.service(Organisations).rows
    parent = rows["fuzhou"]["parent"]
    above = await estate.person("wu", parent, "viewer")
    assert (await above.get(f"/things/{made['no']}")).status_code == 200


async def test_dead_letters_are_replayed_by_their_own_organisation_only(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    made = await estate.device(lin, "fuzhou", "letters", type="WeatherStation")
    assert (await estate.client().post(f"/{made['token']}/telemetry", json={"nonsense": 1})).status_code == 400

    async def letter() -> Any:
        items = (await lin.get("/dead-letters")).json()["items"]
        return next((i for i in items if i["entity"] == made["no"]), None)

    found = await eventually(letter)
    theirs = (await chen.post("/dead-letters/replay", json={"ids": [found["id"], 10**9]})).json()["items"]
    assert [line["error"]["status"] for line in theirs] == [404, 404]
    mine = (await lin.post("/dead-letters/replay", json={"ids": [found["id"]]})).json()["items"]
    assert mine == [{"id": found["id"], "ok": True}]


async def test_an_export_has_every_reading_once(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = [await estate.device(lin, "fuzhou", f"meter-{i}", type="SmartMeter") for i in range(5)]
    for n, device in enumerate(made):
        await estate.say(device, voltage=220 + n, current=1)
    await asyncio.gather(*(estate.latest(lin, d, "voltage", 220 + n) for n, d in enumerate(made)))
    rows: list[list[Any]] = []
    after: str | None = None
    while True:
        query = {"type": "SmartMeter", "from": "2026-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "limit": 2}
        page = (await lin.get("/readings", params={**query, **({"after": after} if after else {})})).json()
        rows += page["items"]
        after = page["next"]
        if after is None:
            break
    assert sorted((row[2], row[3], row[5]) for row in rows) == sorted(
        [(d["no"], "voltage", 220.0 + n) for n, d in enumerate(made)] + [(d["no"], "current", 1.0) for d in made]
    )
