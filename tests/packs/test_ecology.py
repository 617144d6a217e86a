"""The pack of ecology in a whole house: from HJ 212 over TCP to an AQI that a person reads, and what a second person decides."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.access.conftest import Estate, eventually
from tests.access.test_field import Station
from tests.access.test_hj212 import EXAMPLE, MN, frame
from tulou.kernel.bus import free_port
from tulou.kernel.errors import Forbidden
from tulou.kernel.house import House
from tulou.kernel.policy import system
from tulou.kernel.readings import day_of, start_of
from tulou.kernel.readings.rows import rows_of
from tulou.kernel.settings import Settings
from tulou.packs.ecology import cap
from tulou.packs.ecology.service import Ecology
from tulou.packs.ecology.warnings import Warnings

pytestmark = pytest.mark.asyncio(loop_scope="module")

CODES = {"a21026": 6.0, "a21004": 21.0, "a21005": 0.6, "a05024": 90.0, "a34002": 150.0, "a34004": 75.0}
"""An hour's means of SO2, NO2, CO, O3, PM10 and PM2.5. PM2.5 of 75 is an IAQI of 114 by HJ 633-2026, PM10 of 150 one of 112."""
MISSING = 20
"""Hours of the day that the station sends; what is after them is entered by hand."""


def yesterday() -> dt.date:
    return day_of(time.time_ns() // 1000) - dt.timedelta(days=1)


def hour_frame(day: dt.date, hour: int, mn: bytes = MN, **flags: str) -> bytes:
    items = ";".join(f"{code}-Avg={value + hour % 3 / 100:g},{code}-Flag={flags.get(code, 'N')}" for code, value in CODES.items())
    return frame(f"DataTime={day:%Y%m%d}{hour:02}0000;{items}".encode(), cn=2061, mn=mn, st=22)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def estate(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Estate]:
    home = tmp_path_factory.mktemp("ecology") / "home"
    house = House(Settings(home=home, http_port=free_port(), mqtt_port=0, field_ports=f"hj212={free_port()}"))
    async with Estate.opened(house, "gateway", "api", "writer") as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lin(estate: Estate) -> httpx.AsyncClient:
    return await estate.person("lin", "fuzhou", "operator")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wu(estate: Estate) -> httpx.AsyncClient:
    return await estate.person("wu", "fuzhou", "approver")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chen(estate: Estate) -> httpx.AsyncClient:
    return await estate.person("chen", "xiamen", "operator")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def air(estate: Estate, lin: httpx.AsyncClient) -> dict[str, Any]:
    """A station whose frames of yesterday have come: of hour 3, PM2.5 of a faulty instrument; the last hours are missing."""
    device = await estate.device(lin, "fuzhou", "air", protocol="hj212", identity=MN.decode())
    station = await Station.connect(estate.house.settings.fields["hj212"][0])
    station.send(EXAMPLE)
    await station.line()
    await estate.latest(lin, device, "reportInterval", 30)  # the standard's own frame, CRC 1C80
    for hour in range(MISSING):
        station.send(hour_frame(yesterday(), hour, **({"a34004": "D"} if hour == 3 else {})))
        assert b"CN=9014" in await station.line()

    async def stored() -> bool:
        thing = (await lin.get(f"/things/{device['no']}")).json()
        return str(thing["latest"].get("pm25Hour", {}).get("ts", "")).startswith(
            dt.datetime.fromtimestamp(start_of(yesterday()) / 1e6 + (MISSING - 1) * 3600, dt.UTC).strftime("%Y-%m-%dT%H"))

    await eventually(stored)
    return device


async def ask(client: httpx.AsyncClient, path: str, **params: Any) -> Any:
    answer = await client.get(f"/ecology/{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def derive(estate: Estate) -> int:
    return await estate.house.service(Ecology).deriver.turn()


async def test_a_day_without_enough_hours_has_no_aqi_and_says_why(
    estate: Estate, air: dict[str, Any], lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    said = await ask(lin, f"air/{air['no']}", day=str(yesterday()))
    assert (said["edition"], said["aqi"], said["origin"]) == ("HJ 633-2026", 112, "measured")  # above 100: 5.3.1 does not keep it back
    fine = said["pollutants"]["PM2.5"]
    assert (fine["iaqi"], fine["hours"], fine["why"]["rule"]) == (None, MISSING - 1, "GB 3095, table 4")
    assert said["hours"][3]["why"] == {"PM2.5": {"rule": "absent", "zh": "没有有效读数", "en": "no valid reading"}}
    assert (said["hours"][2]["aqi"], said["hours"][2]["primary"], said["hours"][2]["category"]["zh"]) == (114, ["PM2.5"], "轻度污染")
    assert (await chen.get(f"/ecology/air/{air['no']}")).status_code == 404
    assert (await lin.get("/ecology/air/999999")).status_code == 404
    assert (await lin.get(f"/ecology/air/{air['no']}", params={"day": "2015-01-01"})).json()["field"] == "day"
    assert (await lin.get(f"/ecology/water/{air['no']}")).status_code == 404
    capture = await ask(lin, f"air/{air['no']}/capture", **{"from": str(yesterday()), "to": str(yesterday() + dt.timedelta(days=1))})
    assert {item["name"]: item["valid"] for item in capture["items"]} == dict.fromkeys(said["pollutants"], MISSING) | {"PM2.5": MISSING - 1}
    assert capture["items"][-1]["capture"] == pytest.approx(100 * (MISSING - 1) / 24, abs=0.01)


async def test_what_is_derived_is_on_the_page_and_there_once(estate: Estate, air: dict[str, Any], lin: httpx.AsyncClient) -> None:
    await derive(estate)
    assert await derive(estate) == 0
    thing = (await lin.get(f"/things/{air['no']}")).json()
    assert thing["latest"]["aqi"]["value"] == 112
    assert thing["latest"]["primaryPollutant"]["value"] == "PM10"
    assert "iaqiPM25" not in thing["latest"]
    number = await estate.house.readings.count(orgs=None, property="aqiHour")
    assert number == MISSING
    answer = (await lin.get("/indicators/ecology/good_days", params={"from": str(yesterday()), "to": str(yesterday() + dt.timedelta(days=1))})).json()
    assert (answer["value"], answer["provenance"]["origins"]) == (0, {"measured": 1})


async def test_late_hours_correct_what_was_told(estate: Estate, air: dict[str, Any], lin: httpx.AsyncClient) -> None:
    station = await Station.connect(estate.house.settings.fields["hj212"][0])
    station.send(hour_frame(yesterday(), MISSING))
    assert b"CN=9014" in await station.line()

    async def late() -> bool:
        return int((await ask(lin, f"air/{air['no']}", day=str(yesterday())))["pollutants"]["PM2.5"]["hours"]) == MISSING

    await eventually(late)
    assert await derive(estate) > 0
    thing = (await lin.get(f"/things/{air['no']}")).json()
    assert (thing["latest"]["aqi"]["value"], thing["latest"]["primaryPollutant"]["value"]) == (114, "PM2.5")
    assert await estate.house.readings.count(orgs=None, property="aqi") == 1
    assert await derive(estate) == 0


async def entered(client: httpx.AsyncClient, station: int, hour: int, value: float, prop: str = "pm25Hour") -> int:
    at = dt.datetime.fromtimestamp(start_of(yesterday()) / 1e6 + hour * 3600, dt.UTC).isoformat()
    made = await client.post("/items", json={
        "workflow": "ecology_entry", "org": "fuzhou", "title": "补录", "subject": str(station),
        "fields": {"station": station, "property": prop, "hour": at, "value": value, "reason": "通信中断，值取自站房记录"},
    })
    assert made.status_code == 201, made.text
    no = int(made.json()["no"])
    moved = await client.post(f"/items/{no}/steps", json={"transition": "submit", "step": 0, "fields": {"value": value}})
    assert moved.status_code == 200, moved.text
    return no


async def test_an_entry_by_hand_counts_when_a_second_person_has_approved_it(
    estate: Estate, air: dict[str, Any], lin: httpx.AsyncClient, wu: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    good, taken, wrong = [await entered(lin, air["no"], *of) for of in ((MISSING + 1, 80.0), (2, 1.0), (MISSING + 2, 99999.0))]
    await derive(estate)

    async def nothing_yet() -> bool:
        return int((await ask(lin, f"air/{air['no']}", day=str(yesterday())))["pollutants"]["PM2.5"]["hours"]) == MISSING

    await eventually(nothing_yet)
    assert (await lin.post(f"/items/{good}/steps", json={"transition": "approve", "step": 1})).status_code == 403
    for no in (good, taken, wrong):
        assert (await wu.post(f"/items/{no}/steps", json={"transition": "approve", "step": 1})).status_code == 200
    await derive(estate)
    assert (await ask(lin, f"entries/{good}"))["state"] == "stored"
    assert [(await ask(lin, f"entries/{no}"))["why"]["en"] for no in (taken, wrong)] == [
        "there is a value of this hour that is not bad", "the value 99999 is out of range"]
    assert (await chen.get(f"/ecology/entries/{good}")).status_code == 404
    said = await ask(lin, f"air/{air['no']}", day=str(yesterday()))
    assert (said["pollutants"]["PM2.5"]["hours"], said["origin"], said["aqi"]) == (MISSING + 1, "reported", 114)
    assert said["hours"][2]["iaqi"]["PM2.5"] == 114
    assert await derive(estate) == 0
    kept = await estate.house.readings.latest([air["no"]], ["aqi"], orgs=None)
    assert kept[air["no"]]["aqi"].origin == 1


async def test_a_spike_is_marked_and_left_out(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "spiky")
    start = start_of(yesterday()) // 1000
    answer = await estate.client().post(f"/{device['token']}/telemetry", json=[
        {"ts": start + hour * 3_600_000, "values": {"pm25": 900 if hour == 5 else 20 + hour / 10, "reportInterval": 3600}} for hour in range(24)
    ])
    assert answer.status_code == 200, answer.text
    await estate.latest(lin, device, "pm25", 22.3)
    ts = (start + 5 * 3_600_000) * 1000
    deriver, readings = estate.house.service(Ecology).deriver, estate.house.readings

    def crash(step: str) -> None:
        raise RuntimeError(step)

    deriver.fault = crash
    with pytest.raises(RuntimeError, match="stated"):
        await deriver.control("air", yesterday())
    deriver.fault = lambda step: None
    await readings.amend([r for r in await readings.stored_at([(device["no"], ts)]) if r.property == "pm25"], rows_of([]))  # cut short after this
    await derive(estate)
    said = await ask(lin, f"air/{device['no']}", day=str(yesterday()))
    assert [(one["property"], one["rule"]) for one in said["marked"]] == [("pm25", "spike")]
    assert (said["pollutants"]["PM2.5"]["hours"], said["aqi"], said["why"]["rule"]) == (23, None, "HJ 633-2026, 5.3.1")
    (reading,) = [r for r in await estate.house.readings.stored_at([(device["no"], ts)]) if r.property == "pm25"]
    assert (reading.value, reading.quality) == (900, 2)
    assert await derive(estate) == 0


async def test_water_and_noise_and_what_is_synthetic(estate: Estate, lin: httpx.AsyncClient) -> None:
    start = start_of(yesterday()) // 1000
    water = await estate.device(lin, "fuzhou", "water", type="WaterQualityStation")
    noise = await estate.device(lin, "fuzhou", "noise", type="NoiseStation", synthetic=True)
    values = {"pH": 7.2, "O2": 5.5, "CODMn": 13.2, "NH4": 1.0, "TP": 0.2}
    for device, messages in (
        (water, [{"ts": start + four * 14_400_000, "values": values} for four in range(4)]),
        (noise, [{"ts": start, "values": {"zone": "2"}},
                 *({"ts": start + hour * 3_600_000, "values": {"LAeqHour": 60 if 6 <= hour < 22 else 50.1}} for hour in range(24))]),
    ):
        answer = await estate.client().post(f"/{device['token']}/telemetry", json=messages)
        assert answer.status_code == 200, answer.text
    await estate.latest(lin, water, "TP", 0.2)
    await estate.latest(lin, noise, "LAeqHour", 50.1)
    await derive(estate)
    said = await ask(lin, f"water/{water['no']}", day=str(yesterday()))
    assert (said["class"], said["class_name"], said["main"]) == (5, "Ⅴ类", [{"item": "CODMn", "exceedance": pytest.approx(1.2)}])
    loud = await ask(lin, f"noise/{noise['no']}", day=str(yesterday()))
    assert (loud["Ld"], loud["Ln"], loud["night_over"], loud["origin"]) == (60, 50.1, pytest.approx(0.1), "synthetic")
    assert (await lin.get(f"/things/{water['no']}")).json()["latest"]["waterClass"]["value"] == 5
    latest = (await lin.get(f"/things/{noise['no']}")).json()["latest"]
    assert (latest["dayAttained"]["value"], latest["nightAttained"]["value"]) == (1, 0)
    kept = await estate.house.readings.latest([noise["no"]], ["Ln"], orgs=None)
    assert kept[noise["no"]]["Ln"].origin == 3
    night = (await lin.get("/indicators/ecology/noise_night", params={"from": str(yesterday()), "to": str(yesterday() + dt.timedelta(days=1))})).json()
    assert night["value"] is None  # nothing that is not synthetic


async def test_cities_and_stations_are_ranked(estate: Estate, air: dict[str, Any], lin: httpx.AsyncClient, chen: httpx.AsyncClient) -> None:
    city = await ask(lin, "air", day=str(yesterday()))
    assert [(item["org"], item["place"], item["aqi"], item["stations"]) for item in city["items"]] == [("fuzhou", None, None, 2)]
    assert city["items"][0]["why"]["rule"] == "75 %"  # one of two stations measures the other five pollutants
    station = await ask(lin, "air", day=str(yesterday()), by="station")
    assert next((item["no"], item["aqi"]) for item in station["items"]) == (air["no"], 114)
    assert station["items"][-1]["why"]["rule"] == "HJ 633-2026, 5.3.1"
    assert (await ask(chen, "air", day=str(yesterday())))["items"] == []
    assert (await lin.get("/ecology/air", params={"day": str(yesterday() + dt.timedelta(days=1))})).json()["field"] == "day"


DRAFT = {"org": "fuzhou", "info": [{
    "language": "zh-CN", "event": "重污染天气", "urgency": "Expected", "severity": "Moderate", "certainty": "Likely", "headline": "重污染天气黄色预警",
    "areas": [{"description": "福州市"}],
}]}


async def test_a_warning_is_signed_by_a_second_person_and_never_changed(
    estate: Estate, lin: httpx.AsyncClient, wu: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    both = await estate.person("both", "fuzhou", "operator")
    made = await lin.post("/ecology/warnings", json=DRAFT)
    assert made.status_code == 201, made.text
    first = made.json()["id"]
    assert (await lin.post(f"/ecology/warnings/{first}/signature")).status_code == 403
    with pytest.raises(Forbidden, match="named person"):
        await estate.house.service(Warnings).sign(system("cli"), first)
    assert (await chen.get(f"/ecology/warnings/{first}")).status_code == 404
    assert (await chen.get(f"/ecology/warnings/{first}.xml")).status_code == 404
    assert (await chen.post("/ecology/warnings", json=DRAFT)).status_code == 403
    signed = (await wu.post(f"/ecology/warnings/{first}/signature")).json()
    assert (signed["state"], signed["version"]) == ("published", 1)
    assert signed["drafted_by"] != signed["signed_by"]
    answer = await chen.get(f"/ecology/warnings/{first}.xml")  # what is published is everyone's
    assert answer.headers["content-type"] == "application/cap+xml"
    alert = cap.parse(answer.content)
    assert (alert.identifier, alert.status, alert.kind, alert.sender) == (signed["identifier"], "Actual", "Alert", "fuzhou@tulou")
    assert (await wu.post(f"/ecology/warnings/{first}/signature")).status_code == 409
    assert (await lin.delete(f"/ecology/warnings/{first}")).status_code == 409
    update = (await both.post("/ecology/warnings", json={**DRAFT, "kind": "Update", "changes": first})).json()["id"]
    assert (await lin.post("/ecology/warnings", json={**DRAFT, "kind": "Cancel", "changes": first})).status_code == 409  # one draft
    assert (await wu.post(f"/ecology/warnings/{update}/signature")).json()["version"] == 2
    cancel = (await lin.post("/ecology/warnings", json={**DRAFT, "kind": "Cancel", "changes": update, "synthetic": True})).json()["id"]
    assert (await wu.post(f"/ecology/warnings/{cancel}/signature")).status_code == 200
    last = cap.parse((await lin.get(f"/ecology/warnings/{cancel}.xml")).content)
    assert (last.kind, last.status, [one[1] for one in last.references]) == (
        "Cancel", "Exercise", [alert.identifier, (await lin.get(f"/ecology/warnings/{update}")).json()["identifier"]])
    assert (await lin.post("/ecology/warnings", json={**DRAFT, "kind": "Update", "changes": cancel})).json()["field"] == "changes"
    assert (await chen.get(f"/ecology/warnings/{first}.xml")).content == answer.content
    draft = (await lin.post("/ecology/warnings", json=DRAFT)).json()["id"]
    assert draft not in [one["id"] for one in (await chen.get("/ecology/warnings")).json()["items"]]
    assert draft in [one["id"] for one in (await lin.get("/ecology/warnings")).json()["items"]]
    assert (await lin.delete(f"/ecology/warnings/{draft}")).status_code == 204
