"""SensorThings (OGC 18-088) over a house: its resource paths, options, isolation and what it stores."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest
import pytest_asyncio
import sqlalchemy as sa

from tests.access.conftest import Estate, eventually
from tulou.kernel.audit import audit_log

pytestmark = pytest.mark.asyncio(loop_scope="module")

STA = "http://house/sta/v1.1"
HOUR = 3_600_000
BEGIN = 1_795_737_600_000
"""2026-11-27T00:00:00Z in ms."""


class Sta:
    """A person's view of SensorThings."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, path: str, status: int = 200) -> Any:
        answer = await self.client.get(path if path.startswith("http") else f"{STA}/{path}")
        assert answer.status_code == status, (path, answer.text)
        return answer.json() if answer.content and "json" in answer.headers["content-type"] else answer.text

    async def ids(self, path: str) -> list[Any]:
        return [item["@iot.id"] for item in (await self.get(path))["value"]]

    async def all(self, path: str) -> list[Any]:
        """Every id, by following the links."""
        found: list[Any] = []
        link: str | None = path
        while link:
            page = await self.get(link)
            found += [item["@iot.id"] for item in page["value"]]
            link = page.get("@iot.nextLink")
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def station(estate: Estate, lin: httpx.AsyncClient) -> dict[str, Any]:
    """A station with 48 readings of pm25 (0 to 47, each half hour), and 2 of temperature."""
    made = await estate.device(lin, "fuzhou", "sta-1", name="鼓楼站")
    lines = [{"ts": BEGIN + n * HOUR // 2, "values": {"pm25": n}} for n in range(48)]
    answer = await estate.client().post(f"/{made['token']}/telemetry", json=lines)
    assert answer.status_code == 200
    await estate.client().post(f"/{made['token']}/telemetry", json=[
        {"ts": BEGIN, "values": {"temperature": 20.5}}, {"ts": BEGIN + HOUR, "values": {"temperature": 999}},
    ])
    await estate.latest(lin, made, "pm25", 47)
    await estate.latest(lin, made, "temperature", 999)
    return made


@pytest.fixture
def sta(lin: httpx.AsyncClient) -> Sta:
    return Sta(lin)


async def test_the_root_names_the_sets_and_what_holds(sta: Sta) -> None:
    """9.2."""
    root = await sta.get("")
    assert {item["name"] for item in root["value"]} == {
        "Things", "Locations", "HistoricalLocations", "Datastreams", "Sensors", "Observations", "ObservedProperties",
        "FeaturesOfInterest",
    }
    assert all(item["url"] == f"{STA}/{item['name']}" for item in root["value"])
    conformance = root["serverSettings"]["conformance"]
    assert "http://www.opengis.net/spec/iot_sensing/1.1/req/datamodel" in conformance
    assert not any("batch" in uri or "multi" in uri for uri in conformance)


async def test_every_relation_can_be_followed_there_and_back(sta: Sta, station: dict[str, Any]) -> None:
    """Clause 8 and 9.2."""
    no = station["no"]
    thing = await sta.get(f"Things({no})")
    assert thing["name"] == "鼓楼站"
    assert thing["description"] == "空气质量站 · Air quality station"
    assert thing["properties"] == {
        "id": station["entity_id"], "type": "AirQualityStation", "organisation": "fuzhou", "synthetic": False,
    }
    for name in ("Locations", "HistoricalLocations", "Datastreams"):
        page = await sta.get(thing[f"{name}@iot.navigationLink"])
        assert page["value"], name
    location = (await sta.get(f"Things({no})/Locations"))["value"][0]
    assert location["location"] == {"type": "Point", "coordinates": [119.3, 26.1]}
    assert location["encodingType"] == "application/geo+json"
    assert await sta.ids(f"Locations({no})/Things") == [no]
    history = await sta.get(f"Locations({no})/HistoricalLocations")
    assert (await sta.get(history["value"][0]["Thing@iot.navigationLink"]))["@iot.id"] == no
    stream = await sta.get(f"Datastreams('{no}:pm25')")
    assert stream["unitOfMeasurement"] == {
        "name": "GQ", "symbol": "µg/m³", "definition": "https://service.unece.org/trade/uncefact/vocabulary/rec20/#GQ",
    }
    assert stream["observationType"].endswith("OM_Measurement")
    assert (await sta.get(f"Datastreams('{no}:pm25')/Thing"))["@iot.id"] == no
    assert (await sta.get(f"Datastreams('{no}:pm25')/Sensor"))["@iot.id"] == "AirQualityStation"
    observed = await sta.get(f"Datastreams('{no}:pm25')/ObservedProperty")
    assert observed["definition"] == "https://smartdatamodels.org/dataModel.Environment/pm25"
    assert "细颗粒物" in observed["description"]
    newest = (await sta.get(f"Datastreams('{no}:pm25')/Observations?$top=1"))["value"][0]
    assert (newest["result"], newest["phenomenonTime"], newest["parameters"]) == (
        47, "2026-11-27T23:30:00Z", {"origin": "measured"})
    assert newest["@iot.id"] == f"{no}:pm25:{(BEGIN + 47 * HOUR // 2) * 1000}"
    assert (await sta.get(newest["@iot.selfLink"]))["result"] == 47
    assert (await sta.get(newest["Datastream@iot.navigationLink"]))["@iot.id"] == f"{no}:pm25"
    feature = await sta.get(newest["FeatureOfInterest@iot.navigationLink"])
    assert feature["feature"] == {"type": "Point", "coordinates": [119.3, 26.1]}
    assert f"{no}:pm25" in {o["@iot.id"].rpartition(":")[0] for o in (
        await sta.get(f"FeaturesOfInterest({no})/Observations"))["value"]}
    deep = f"Things({no})/Datastreams('{no}:pm25')/Observations('{newest['@iot.id']}')/Datastream/Thing"
    assert (await sta.get(deep))["@iot.id"] == no


async def test_where_a_thing_was(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, sta: Sta) -> None:
    """8.2.3: a HistoricalLocation is a time, and the Location then."""
    made = await estate.device(lin, "fuzhou", "moved", lon=119.1, lat=25.1)
    no, url = made["no"], f"http://house/ngsi-ld/v1/entities/{made['entity_id']}/attrs/location"
    moved = await lin.patch(url, headers={"ngsild-tenant": "fuzhou"}, json={
        "type": "GeoProperty", "value": {"type": "Point", "coordinates": [119.2, 25.2]}})
    assert moved.status_code == 204, moved.text
    page = await sta.get(f"Things({no})/HistoricalLocations?$expand=Locations&$orderby=time desc&$count=true")
    assert page["@iot.count"] == 2
    assert [h["Locations"][0]["location"]["coordinates"] for h in page["value"]] == [[119.2, 25.2], [119.1, 25.1]]
    assert [h["Locations"][0]["@iot.id"] == no for h in page["value"]] == [True, False]
    assert page["value"][0]["time"] > page["value"][1]["time"]
    old = await sta.get(page["value"][1]["@iot.selfLink"])
    assert (await sta.get(old["Thing@iot.navigationLink"]))["@iot.id"] == no
    then = (await sta.get(old["Locations@iot.navigationLink"]))["value"][0]
    assert (await sta.get(then["@iot.selfLink"]))["location"]["coordinates"] == [119.1, 25.1]
    assert await sta.ids(then["HistoricalLocations@iot.navigationLink"]) == [old["@iot.id"]]
    assert await sta.ids(f"Things({no})/Locations") == [no]
    assert (await chen.get(old["@iot.selfLink"])).status_code == (await chen.get(then["@iot.selfLink"])).status_code == 404


async def test_properties_values_and_references(
    estate: Estate, lin: httpx.AsyncClient, sta: Sta, station: dict[str, Any]
) -> None:
    """9.2: properties, `$value`, `$ref`."""
    no = station["no"]
    assert await sta.get(f"Things({no})/name") == {"name": "鼓楼站"}
    assert await sta.get(f"Things({no})/name/$value") == "鼓楼站"
    assert await sta.get(f"Datastreams('{no}:pm25')/unitOfMeasurement/symbol/$value") == "µg/m³"
    assert await sta.get(f"Datastreams('{no}:pm25')/Observations('{no}:pm25:{BEGIN * 1000}')/result/$value") == "0"
    await sta.get(f"Datastreams('{(await estate.device(lin, 'fuzhou', 'cover', type='Manhole'))['no']}:coverOpen')"
                  "/unitOfMeasurement/definition", 204)
    page = await sta.get(f"Things({no})/Datastreams/$ref?$top=2&$count=true")
    assert page["@iot.count"] == 28
    assert page["value"][0] == {"@iot.selfLink": f"{STA}/Datastreams('{no}:aqi')"}
    assert (await sta.get(page["@iot.nextLink"]))["value"][0].keys() == {"@iot.selfLink"}


@pytest.mark.parametrize(("path", "status"), [
    ("Things(999999)", 404), ("Things('x')", 404), ("Nothings", 404), ("Things(1)/Nothings", 404), ("Datastreams('x')", 404),
    ("Datastreams('{no}:nosuch')", 404), ("Things({no})/Datastreams('999:pm25')", 404), ("Observations('{no}:pm25:1')", 404),
    ("Sensors('NoSuch')", 404), ("ObservedProperties('nosuch')", 404), ("Things/name", 400), ("Things({no})/name/$nothing", 404),
    ("Things({no})/properties/nothing", 404),
    ("Things(", 400), ("Things?$filter=nosuch eq 1", 400), ("Things?$select=nosuch", 400), ("Things?$expand=nosuch", 400),
    ("Things?$orderby=nosuch", 400), ("Things?$filter=name eq", 400), ("Things?$top=x", 400), ("Things?$nothing=1", 400),
    ("Observations?$orderby=parameters", 400), ("Things?$skiptoken=rubbish", 400), ("Things?$resultFormat=dataArray", 400),
    ("Datastreams?$filter=Observations/result gt 5", 400),
])
async def test_errors_say_what_is_wrong(sta: Sta, station: dict[str, Any], path: str, status: int) -> None:
    answer = await sta.get(path.format(no=station["no"]), status)
    assert answer["code"] == answer["status"] == status
    assert answer["message"]
    assert answer["detail_zh"]
    assert answer["detail_en"]


async def test_pages_follow_each_other(estate: Estate, lin: httpx.AsyncClient, sta: Sta, station: dict[str, Any]) -> None:
    """9.3.3.2 to 9.3.3.4: nothing twice, nothing left out, whatever the order."""
    for n in range(5):
        await estate.device(lin, "fuzhou", f"page-{n}", type="NoiseStation", name=f"噪声 {n}")
    every = await sta.all("Things?$top=2")
    assert every == sorted(set(every))
    assert (await sta.get("Things?$count=true&$top=0"))["@iot.count"] == len(every)
    assert await sta.all("Things?$top=2&$orderby=name desc") != every
    assert sorted(await sta.all("Things?$top=2&$orderby=name desc,id")) == every
    streams = await sta.all("Datastreams?$top=3")
    assert len(streams) == len(set(streams)) == (await sta.get("Datastreams?$count=true&$top=1"))["@iot.count"]
    assert sorted(await sta.all("Datastreams?$top=3&$orderby=name")) == sorted(streams)
    no = station["no"]
    readings = await sta.all(f"Datastreams('{no}:pm25')/Observations?$top=7")
    assert len(readings) == len(set(readings)) == 48
    assert readings == list(reversed(await sta.all(f"Datastreams('{no}:pm25')/Observations?$top=7&$orderby=phenomenonTime asc")))
    assert sorted(await sta.all("Observations?$top=7")) == sorted(
        [*readings, *await sta.all(f"Datastreams('{no}:temperature')/Observations")])
    by_result = [o["result"] for o in (await sta.get(f"Datastreams('{no}:pm25')/Observations?$orderby=result&$top=3&$skip=2"))["value"]]
    assert by_result == [2, 3, 4]


async def test_filters_of_every_kind(estate: Estate, lin: httpx.AsyncClient, sta: Sta, station: dict[str, Any]) -> None:
    """9.3.3.5."""
    no = station["no"]
    far = await estate.device(lin, "fuzhou", "far", type="WeatherStation", name="福清 100%_站", lon=119.38, lat=25.72)
    for condition in (
        f"id eq {no}", "name eq '鼓楼站'", "startswith(name,'鼓楼')", "substringof('楼',name) and not endswith(name,'x')",
        "length(name) eq 3 and properties/type eq 'AirQualityStation'", f"properties/id eq '{station['entity_id']}'",
        f"concat(name,'!') eq '鼓楼站!' and id lt {no + 1}", f"tolower(name) eq '鼓楼站' and id ge {no}",
        f"id add 1 eq {no + 1}",
        "geo.distance(Locations/location, geography'POINT(119.3 26.1)') lt 0.01 and name eq '鼓楼站'",
        "st_within(Locations/location, geography'POLYGON((119.2 26, 119.35 26, 119.35 26.2, 119.2 26.2, 119.2 26))') "
        "and name eq '鼓楼站'",
    ):
        assert await sta.ids("Things?$filter=" + quote(condition)) == [no], condition
    assert await sta.ids("Things?$filter=" + quote("substringof('100%_', name)")) == [far["no"]]
    assert await sta.ids("Locations?$filter=" + quote("location eq geography'POINT(119.38 25.72)'")) == [far["no"]]
    assert await sta.ids("Datastreams?$filter=" + quote(
        "ObservedProperty/name eq 'windSpeed' and Thing/name eq '福清 100%_站'")) == [f"{far['no']}:windSpeed"]
    assert await sta.ids("Datastreams?$filter=" + quote(f"id eq '{no}:pm25'")) == [f"{no}:pm25"]
    assert (await sta.get("Datastreams?$count=true&$filter=" + quote(
        f"Thing/id eq {no} and unitOfMeasurement/symbol eq 'µg/m³'")))["@iot.count"] == 10
    assert "pm25" in await sta.ids("ObservedProperties?$filter=" + quote("substringof('PM2.5', description)"))
    assert await sta.ids("Sensors?$filter=" + quote("name eq 'Manhole'")) == ["Manhole"]
    base = f"Datastreams('{no}:pm25')/Observations?$count=true&$filter="
    for condition, count in (
        ("result gt 40", 7), ("result ge 40 and result lt 42", 2), ("result eq 5 or result eq 6", 2), ("not (result gt 5)", 6),
        ("phenomenonTime ge 2026-11-27T12:00:00Z", 24), ("phenomenonTime lt 2026-11-27T09:00:00+08:00", 2),
        ("phenomenonTime gt 2026-11-27T01:00:00Z and phenomenonTime le 2026-11-27T02:00:00Z", 2),
        ("hour(phenomenonTime) eq 5", 2), ("minute(resultTime) eq 30", 24), ("date(phenomenonTime) eq 2026-11-27", 48),
        ("result mod 2 eq 0", 24), ("result mul 2 add 1 eq 11", 1), ("result div 4 gt 10", 7), ("round(result div 10) eq 2", 10),
        ("result eq 'text'", 0), ("result ne 5", 47), ("resultQuality eq 'good'", 48), ("result eq null", 0),
        ("Datastream/Thing/name eq '鼓楼站'", 48), ("Datastream/Thing/name eq 'x'", 0),
        ("FeatureOfInterest/id eq 5555555", 0), ("true", 48), ("1 gt 2", 0),
    ):
        assert (await sta.get(base + quote(condition)))["@iot.count"] == count, condition
    bad = f"Datastreams('{no}:temperature')/Observations?$filter=" + quote("resultQuality eq 'bad'")
    assert [o["result"] for o in (await sta.get(bad))["value"]] == [999]
    across = "Observations?$orderby=phenomenonTime asc&$top=3&$filter="
    found = (await sta.get(across + quote(f"Datastream/Thing/id eq {no}")))["value"]
    assert [o["phenomenonTime"] for o in found] == ["2026-11-27T00:00:00Z"] * 2 + ["2026-11-27T00:30:00Z"]


async def test_expand_select_and_count_inside(sta: Sta, station: dict[str, Any]) -> None:
    """9.3.2."""
    no = station["no"]
    thing = await sta.get(
        f"Things({no})?$select=id,name&$expand=Locations($select=location),Datastreams($filter=ObservedProperty/name eq 'pm25';"
        "$count=true;$select=id;$expand=ObservedProperty($select=name),Sensor,Observations($top=2;$count=true;$select=result;"
        "$orderby=phenomenonTime desc))"
    )
    assert thing.keys() == {"@iot.id", "@iot.selfLink", "name", "Locations", "Datastreams", "Datastreams@iot.count"}
    assert thing["Locations"] == [{"location": {"type": "Point", "coordinates": [119.3, 26.1]}}]
    (stream,) = thing["Datastreams"]
    assert thing["Datastreams@iot.count"] == 1
    assert stream["ObservedProperty"] == {"name": "pm25"}
    assert stream["Sensor"]["@iot.id"] == "AirQualityStation"
    assert (stream["Observations"], stream["Observations@iot.count"]) == ([{"result": 47}, {"result": 46}], 48)
    following = await sta.get(stream["Observations@iot.nextLink"])
    assert [o["result"] for o in following["value"]] == [45, 44]
    latest = (await sta.get("Datastreams?$expand=Observations($top=1;$orderby=phenomenonTime desc)&$filter=" + quote(
        f"Thing/id eq {no}")))["value"]
    assert {s["@iot.id"].partition(":")[2]: [o["result"] for o in s["Observations"]] for s in latest if s["Observations"]} == {
        "pm25": [47], "temperature": [999],
    }
    assert (await sta.get("Sensors('AirQualityStation')?$expand=Datastreams/Thing"))["Datastreams"][0]["Thing"]["@iot.id"]


@pytest.mark.parametrize("path", [
    "Things?$expand=Datastreams", "Things?$expand=Datastreams/ObservedProperty", "Things?$expand=Datastreams($expand=ObservedProperty)",
    "Datastreams({ds})?$expand=Observations,ObservedProperty", "Datastreams({ds})?$expand=Observations($filter=result eq 1)",
    "Observations?$select=result,resultTime", "Datastreams({ds})?$select=id,Observations&$expand=ObservedProperty($select=name)",
    "Observations?$orderby=result", "Observations?$expand=Datastream&$orderby=Datastream/id desc, phenomenonTime",
    "Things?$top=5", "Observations?$top=5&$orderby=phenomenonTime%20desc", "Things?$skip=5", "Observations?$skip=2&$orderby=resultTime",
    "Things?$count=true", "Observations?$filter=result lt 10.00", "Observations?$filter=Datastream/id eq {ds}",
    "Datastreams?$filter=unitOfMeasurement/name eq 'Degree Celsius'",
    "Things?$filter=geo.distance(Locations/location,geography'POINT(-122, 43)') gt 1",
    "Observations?$filter=result gt 5.00 and Datastream/ObservedProperty/name eq 'temperature'",
    "Observations?$filter=phenomenonTime gt 2010-06-01T00:00:00Z and phenomenonTime lt 2010-07-01T00:00:00Z",
    "Datastreams({ds})/Observations?$filter=st_within(FeatureOfInterest/feature, geography'POLYGON((110 20, 130 20, 130 30, 110 30, 110 20))')",
    "Observations?$filter=st_within(FeatureOfInterest/feature, geography'POLYGON((110 20, 130 20, 130 30, 110 30, 110 20))')&$top=3",
    "Observations?$filter=year(resultTime) eq 2026 and month(resultTime) eq 11", "Things?$expand=Datastreams($count=true;$top=1)",
    "Datastreams({ds})/Observations?$filter=phenomenonTime ge now() sub duration'PT1H'", "Things({no})/Datastreams({ds})/Observations/$ref",
])
async def test_requests_as_the_standard_writes_them(sta: Sta, station: dict[str, Any], path: str) -> None:
    """Examples of 18-088, clause 9, with ids of this house."""
    page = await sta.get(path.format(ds=f"'{station['no']}:pm25'", no=station["no"]))
    assert "value" in page or "@iot.id" in page


async def test_observations_of_several_datastreams_in_order(sta: Sta, station: dict[str, Any]) -> None:
    no = station["no"]
    mine = quote(f"Datastream/Thing/id eq {no}")
    async def results(order: str, top: int) -> list[Any]:
        return [o["result"] for o in (await sta.get(f"Observations?$filter={mine}&$orderby={order}&$top={top}"))["value"]]

    assert await results("result desc,phenomenonTime", 3) == [999, 47, 46]
    assert await results("Datastream/id desc,phenomenonTime", 3) == [20.5, 999, 0]
    assert await results("Datastream/ObservedProperty/id,phenomenonTime desc", 2) == [47, 46]


async def test_a_full_answer_has_links_for_the_rest(
    sta: Sta, station: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tulou.access.sensorthings.answering.MOST_ASKED", 1)
    no = station["no"]
    ask = f"Things({no})?$expand=Datastreams($filter=ObservedProperty/id eq 'pm25' or ObservedProperty/id eq 'temperature';" \
        "$expand=Observations($top=2;$count=true))"
    one, two = (await sta.get(ask))["Datastreams"]
    assert len(one["Observations"]) == 2
    assert two["Observations"] == []
    assert (await sta.get(two["Observations@iot.nextLink"]))["@iot.count"] == 2
    monkeypatch.setattr("tulou.access.sensorthings.answering.MOST_EXPANDED", 5)
    small = (await sta.get(f"Things({no})?$expand=Datastreams"))
    assert len(small["Datastreams"]) == 4
    rest = await sta.all(small["Datastreams@iot.nextLink"])
    assert len(rest) == 24


async def test_a_data_array(sta: Sta, station: dict[str, Any]) -> None:
    """Clause 13."""
    no = station["no"]
    page = await sta.get(f"Datastreams('{no}:pm25')/Observations?$resultFormat=dataArray&$top=2&$select=phenomenonTime,result")
    assert page["value"] == [{
        "Datastream@iot.navigationLink": f"{STA}/Datastreams('{no}:pm25')", "components": ["phenomenonTime", "result"],
        "dataArray@iot.count": 2, "dataArray": [["2026-11-27T23:30:00Z", 47], ["2026-11-27T23:00:00Z", 46]],
    }]
    assert "@iot.nextLink" in page


async def test_an_observation_is_stored_as_reported(estate: Estate, lin: httpx.AsyncClient, sta: Sta, yang: httpx.AsyncClient) -> None:
    """Clauses 10 and 13."""
    made = await estate.device(lin, "fuzhou", "sta-write")
    no = made["no"]
    stream = {"@iot.id": f"{no}:pm10"}
    body = {"phenomenonTime": "2026-11-20T08:00:00+08:00", "result": 55.5, "Datastream": stream}
    answer = await lin.post(f"{STA}/Observations", json=body)
    assert answer.status_code == 201, answer.text

    async def stored() -> Any:
        found = await lin.get(answer.headers["location"])
        return found.json() if found.status_code == 200 else None

    kept = await eventually(stored)
    assert (kept["result"], kept["phenomenonTime"], kept["parameters"]) == (55.5, "2026-11-20T00:00:00Z", {"origin": "reported"})
    deep = await lin.post(f"{STA}/Things({no})/Datastreams('{no}:pm10')/Observations", json={"result": 56})
    assert deep.status_code == 201
    lines = await lin.post(f"{STA}/CreateObservations", json=[
        {"Datastream": {"@iot.id": f"{no}:o3"}, "components": ["phenomenonTime", "result"], "dataArray@iot.count": 3, "dataArray": [
            ["2026-11-20T00:00:00Z", 1], ["2026-11-20T01:00:00Z", "text"], ["2026-11-20T02:00:00Z", 3]]},
        {"Datastream": {"@iot.id": "999999:o3"}, "components": ["result"], "dataArray": [[1]]},
    ])
    assert lines.status_code == 201
    assert [line.startswith("error") for line in lines.json()] == [False, True, False, True]

    async def both() -> bool:
        return len(await sta.ids(f"Datastreams('{no}:o3')/Observations")) == 2

    await eventually(both)
    for bad, field in (
        ({"Datastream": stream}, "result"), ({"result": "x", "Datastream": stream}, "result"), ({"result": 1}, "Datastream"),
        ({"result": 1, "phenomenonTime": "yesterday", "Datastream": stream}, "phenomenonTime"),
        ({"result": 1, "phenomenonTime": "1970-01-01T00:00:00Z", "Datastream": stream}, "phenomenonTime"),
        ({"result": 1, "validTime": "x", "Datastream": stream}, "validTime"),
    ):
        refused = await lin.post(f"{STA}/Observations", json=bad)
        assert (refused.status_code, refused.json()["field"]) == (400, field), bad
    assert (await yang.post(f"{STA}/Observations", json=body)).status_code == 403
    query = sa.select(audit_log.c.actor, audit_log.c.detail).where(
        audit_log.c.action == "access.observation.create", audit_log.c.subject == made["entity_id"])
    rows = await estate.house.db.read(lambda connection: connection.execute(query).all())
    assert len({row.actor for row in rows}) == 1
    assert [orjson.loads(row.detail)["observations"] for row in rows] == [1, 1, 2]
    for method, path in (("POST", "Things"), ("PATCH", f"Things({no})"), ("PUT", f"Things({no})"), ("DELETE", f"Things({no})")):
        declined = await lin.request(method, f"{STA}/{path}", json={})
        assert declined.status_code == 501, declined.text


async def test_a_synthetic_thing_can_only_have_synthetic_observations(estate: Estate, lin: httpx.AsyncClient, sta: Sta) -> None:
    made = await estate.device(lin, "fuzhou", "sta-synthetic", synthetic=True)
    answer = await lin.post(f"{STA}/Observations", json={"result": 5, "Datastream": {"@iot.id": f"{made['no']}:pm10"}})
    assert answer.status_code == 201

    async def origin() -> Any:
        found = (await sta.get(f"Datastreams('{made['no']}:pm10')/Observations"))["value"]
        return found and found[0]["parameters"]["origin"]

    assert await eventually(origin) == "synthetic"


async def test_another_organisation_learns_nothing(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, station: dict[str, Any]
) -> None:
    """Not by path, list, count, filter, expansion or error."""
    no = station["no"]
    opened = await estate.device(lin, "fuzhou", "open", type="Device", name="开放")
    await estate.say(opened, onlyInFuzhou=5)
    await estate.latest(lin, opened, "onlyInFuzhou", 5)
    await estate.device(chen, "xiamen", "theirs", type="WeatherStation")
    mine, theirs = Sta(lin), Sta(chen)
    assert (await mine.get("ObservedProperties('onlyInFuzhou')"))["name"] == "onlyInFuzhou"
    assert f"{opened['no']}:onlyInFuzhou" in await mine.all("Datastreams?$top=50")
    newest = (await mine.ids(f"Datastreams('{no}:pm25')/Observations?$top=1"))[0]
    for path in (
        "Things({})", "Locations({})", "FeaturesOfInterest({})", "Datastreams('{}:pm25')",
        "Datastreams('{}:pm25')/Observations", "Things({})/Datastreams", "Observations('" + newest.replace(str(no), "{}", 1) + "')",
        "Things({})/name/$value", "FeaturesOfInterest({})/Observations",
    ):
        there, nowhere = await theirs.get(path.format(no), 404), await theirs.get(path.format(987654), 404)
        assert re.sub(rf"\b{no}\b", "?", str(there)) == str(nowhere).replace("987654", "?")
    await theirs.get("ObservedProperties('onlyInFuzhou')", 404)
    things = await theirs.get("Things?$count=true")
    assert things["@iot.count"] == len(things["value"])
    assert {t["properties"]["organisation"] for t in things["value"]} == {"xiamen"}
    streams = await theirs.get("Datastreams?$count=true&$top=1000")
    assert streams["@iot.count"] == len(streams["value"])
    assert not [s for s in streams["value"] if s["properties"]["organisation"] != "xiamen"]
    for condition in (f"id eq {no}", "name eq '鼓楼站'", "properties/organisation eq 'fuzhou'",
                      "geo.distance(Locations/location, geography'POINT(119.3 26.1)') lt 0.0001 and name eq '鼓楼站'"):
        found = await theirs.get("Things?$count=true&$filter=" + quote(condition))
        assert (found["@iot.count"], found["value"]) == (0, []), condition
    assert (await theirs.get("Observations?$count=true"))["@iot.count"] == 0
    assert await theirs.all("Observations") == []
    assert await theirs.ids("ObservedProperties('pm25')/Datastreams") == []
    written = await chen.post(f"{STA}/Observations", json={"result": 1, "Datastream": {"@iot.id": f"{no}:pm25"}})
    assert written.status_code == 404
    assert (await estate.client().get(f"{STA}/Things")).status_code == 401
    assert (await estate.client().get(STA)).status_code == 401


async def test_an_instant_has_one_observation(estate: Estate, lin: httpx.AsyncClient, sta: Sta) -> None:
    """An id names one reading: the first stays, another value for the same instant is a dead letter."""
    made = await estate.device(lin, "fuzhou", "ties")
    stream = f"Datastreams('{made['no']}:no2')"
    body = {"phenomenonTime": "2026-11-27T00:00:00Z", "result": 1}
    first = await lin.post(f"{STA}/{stream}/Observations", json=body)

    async def one() -> bool:
        return bool(await sta.ids(f"{stream}/Observations"))

    await eventually(one)
    again = await lin.post(f"{STA}/{stream}/Observations", json=body)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.headers["location"] == again.headers["location"]
    other = await lin.post(f"{STA}/{stream}/Observations", json={**body, "result": 2})
    assert (other.status_code, other.json()["field"]) == (409, "result")
    for _ in range(3):  # without a time each has its own
        await lin.post(f"{STA}/{stream}/Observations", json={"result": 5})

    async def four() -> bool:
        return (await sta.get(f"{stream}/Observations?$count=true"))["@iot.count"] == 4

    await eventually(four)
