"""SensorThings as a client sees it that we did not write: Fraunhofer's frost_sta_client, unmodified, over HTTP."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.access.conftest import Estate, eventually

try:
    import demjson3
except ImportError:
    from tests.access import demjson3

    sys.modules["demjson3"] = demjson3

frost = pytest.importorskip("frost_sta_client")

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.conformance]

BEGIN = datetime(2026, 11, 27, tzinfo=UTC)


def service_of(url: str, token: str) -> Any:
    """The client with a bearer token, by its own extension point for credentials."""
    from frost_sta_client.service.auth_handler import AuthHandler

    class Bearer(AuthHandler):  # type: ignore[misc]
        def add_auth_header(self) -> Any:
            def sign(request: Any) -> Any:
                request.headers["Authorization"] = f"Bearer {token}"
                return request

            return sign

    return frost.SensorThingsService(url, auth_handler=Bearer())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(estate: Estate, lin: httpx.AsyncClient, address: str) -> Any:
    """lin's client."""
    answer = await lin.post("/tokens", json={"name": "sta", "org": "fuzhou", "scopes": ["access.*"]})
    assert answer.status_code == 201, answer.text
    return service_of(address.replace("/api/v1", "/sta/v1.1"), answer.json()["secret"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def station(estate: Estate, lin: httpx.AsyncClient) -> dict[str, Any]:
    made = await estate.device(lin, "fuzhou", "frost", name="客户端站")
    for n in range(3):
        await estate.device(lin, "fuzhou", f"frost-{n}", type="NoiseStation", name=f"噪声 {n}")
    lines = [{"ts": int(BEGIN.timestamp() * 1000) + n * 60_000, "values": {"pm25": n}} for n in range(250)]
    assert (await estate.client().post(f"/{made['token']}/telemetry", json=lines)).status_code == 200
    await estate.latest(lin, made, "pm25", 249)
    return made


async def test_list_order_count_and_follow_pages(client: Any, station: dict[str, Any]) -> None:
    def ask() -> Any:
        found = client.things().query().count().top(2).orderby("name", "ASC").list()
        return found.count, [thing.name for thing in found]

    count, names = await asyncio.to_thread(ask)
    assert count == len(names) == 4
    assert names == sorted(names)


async def test_filter_and_expand(client: Any, station: dict[str, Any]) -> None:
    def ask() -> Any:
        expansion = "Datastreams($filter=ObservedProperty/name eq 'pm25';$expand=Observations($top=1;" \
            "$orderby=phenomenonTime desc),ObservedProperty,Sensor),Locations"
        return client.things().query().filter("name eq '客户端站'").expand(expansion).list().get(0)

    thing = await asyncio.to_thread(ask)
    assert thing.id == station["no"]
    (stream,) = thing.datastreams.entities
    assert (stream.id, stream.unit_of_measurement.symbol) == (f"{station['no']}:pm25", "µg/m³")
    assert stream.observations.entities[0].result == 249
    assert stream.observed_property.definition == "https://smartdatamodels.org/dataModel.Environment/pm25"
    assert stream.sensor.id == "AirQualityStation"
    assert thing.locations.entities[0].location == {"type": "Point", "coordinates": [119.3, 26.1]}


async def test_find_and_follow_relations(client: Any, station: dict[str, Any]) -> None:
    def ask() -> Any:
        thing = client.things().find(station["no"])
        streams = thing.get_datastreams().query().select("id", "name").list()
        stream = client.datastreams().find(f"{station['no']}:pm25")
        return thing, [s.id for s in streams], stream

    thing, ids, stream = await asyncio.to_thread(ask)
    assert (thing.name, thing.properties["type"]) == ("客户端站", "AirQualityStation")
    assert f"{station['no']}:o3" in ids
    assert "细颗粒物" in stream.description


async def test_observations_by_time_over_pages(client: Any, station: dict[str, Any]) -> None:
    def ask() -> Any:
        stream = client.datastreams().find(f"{station['no']}:pm25")
        query = stream.get_observations().query().count().filter(
            "phenomenonTime ge 2026-11-27T01:00:00Z and phenomenonTime lt 2026-11-27T04:00:00Z and result mod 2 eq 0"
        ).orderby("phenomenonTime", "ASC").top(40)
        found = query.list()
        return found.count, [o.result for o in found]

    count, results = await asyncio.to_thread(ask)
    assert count == 90
    assert results == list(range(60, 240, 2))


async def test_create_observations(client: Any, lin: httpx.AsyncClient, station: dict[str, Any]) -> None:
    stream_id = f"{station['no']}:o3"

    def create() -> Any:
        stream = client.datastreams().find(stream_id)
        one = frost.Observation(result=12.5, phenomenon_time=BEGIN, datastream=frost.Datastream(id=stream_id))
        client.create(one)
        rows = frost.model.ext.data_array_value.DataArrayValue()
        rows.datastream = stream
        kind = frost.model.ext.data_array_value.DataArrayValue.Property
        rows.components = {kind.PHENOMENON_TIME, kind.RESULT}
        for n in range(1, 4):
            rows.add_observation(frost.Observation(
                result=n, phenomenon_time=BEGIN + timedelta(hours=n), datastream=stream))
        document = frost.model.ext.data_array_document.DataArrayDocument()
        document.add_data_array_value(rows)
        return one.id, client.observations().create(document)

    made, links = await asyncio.to_thread(create)
    assert made == f"{stream_id}:{int(BEGIN.timestamp()) * 1_000_000}"
    assert len(links) == 3
    assert not any(link.self_link.startswith("error") for link in links)

    async def stored() -> Any:
        found = await asyncio.to_thread(
            lambda: client.datastreams().find(stream_id).get_observations().query().orderby("result", "ASC").list().entities)
        return found if len(found) == 4 else None

    assert [o.result for o in await eventually(stored)] == [1, 2, 3, 12.5]


async def test_what_is_declined_raises(client: Any) -> None:
    import requests

    def create() -> None:
        client.create(frost.Thing(name="x", description="x"))

    with pytest.raises(requests.exceptions.HTTPError) as raised:
        await asyncio.to_thread(create)
    assert raised.value.response.status_code == 501
