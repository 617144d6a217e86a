"""Indicators, dashboards and layers over HTTP: what is answered, what is behind it, and what another organisation can learn."""

from __future__ import annotations

import csv
import datetime as dt
import io
from typing import Any

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa

from tests.access.conftest import ADMIN
from tests.indicators.conftest import Province
from tests.readings.test_readings import put
from tulou.access import Bulk, Devices, Directory
from tulou.context import entities
from tulou.kernel.readings import start_of

pytestmark = pytest.mark.asyncio(loop_scope="package")

MARCH = {"from": "2026-03-01", "to": "2026-04-01"}
PM25 = "/indicators/environment/pm25_mean"
EMPTY = {"value": None, "series": [], "groups": [], "ranking": []}


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def lead(province: Province) -> httpx.AsyncClient:
    """Looks at the whole province."""
    return await province.person("lead", "fujian", "viewer")


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def cangshan(province: Province) -> httpx.AsyncClient:
    """Looks at one county."""
    return await province.person("su", "fuzhou.cangshan", "viewer")


async def ask(client: httpx.AsyncClient, path: str = PM25, **params: Any) -> dict[str, Any]:
    answer = await client.get(path, params={**MARCH, **params})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_value_its_days_and_what_is_behind_it(province: Province, lead: httpx.AsyncClient) -> None:
    answer = await ask(lead)
    assert answer["value"] == pytest.approx((20 + 60 + 90) / 3 + 5.5)
    assert [day for day, _ in answer["series"]] == [1772294400000 + n * 86_400_000 for n in range(31)]  # midnight in Shanghai
    assert [value for _, value in answer["series"]] == pytest.approx([answer["value"]] * 31)
    made = answer["provenance"]
    assert (made["known"], made["reporting"], made["newest"], made["synthetic"]) == (4, 3, "2026-03-31", False)
    assert made["capture"] == pytest.approx(100 * 3 / 4 / 2)
    assert made["origins"] == {"measured": 3 * 31 * 12}
    assert (answer["indicator"]["owner"], answer["indicator"]["owner_name"], answer["indicator"]["version"]) == ("fujian.sthjt", "福建省生态环境厅", 1)
    by_hour = await ask(lead, to="2026-03-02", grain="hour")
    assert [value for _, value in by_hour["series"]] == pytest.approx([170 / 3 + hour for hour in range(12)])
    compared = await ask(lead, **{"from": "2026-03-30", "to": "2026-04-03"}, before=1)
    assert (compared["before"], len(compared["series"])) == (pytest.approx(answer["value"]), 2)


async def test_what_is_synthetic_counts_where_it_is_asked_for_and_is_named(lead: httpx.AsyncClient) -> None:
    answer = await ask(lead, synthetic=1)
    assert answer["value"] == pytest.approx(1170 / 4 + 5.5)
    assert (answer["provenance"]["synthetic"], answer["provenance"]["known"]) == (True, 5)
    assert answer["provenance"]["origins"]["synthetic"] == 31 * 12
    ranked = await ask(lead, group="thing", synthetic=1)
    assert [(item["name"], item["synthetic"]) for item in ranked["ranking"]][-1] == ("made-up", True)


async def test_groups_are_organisations_of_a_level(province: Province, lead: httpx.AsyncClient) -> None:
    cities = (await ask(lead, group="city", grain="month"))["groups"]
    assert [(g["id"], g["label_en"], g["known"], g["value"]) for g in cities] == [
        ("fuzhou", "Fuzhou", 3, pytest.approx(45.5)), ("xiamen", "Xiamen", 1, pytest.approx(95.5)),
    ]
    assert [value for _, value in cities[0]["series"]] == [pytest.approx(45.5)]
    counties = (await ask(lead, group="county"))["groups"]
    assert {g["id"] for g in counties} == {"fuzhou", "fuzhou.cangshan", "xiamen"}  # who is below no county stands for itself
    assert (await ask(lead, org="fuzhou"))["value"] == pytest.approx(45.5)
    assert (await ask(lead, org="fuzhou", group="city"))["groups"][0]["id"] == "fuzhou"


async def test_things_are_ranked_best_first(province: Province, lead: httpx.AsyncClient) -> None:
    answer = await ask(lead, group="thing")
    assert [(item["no"], item["value"]) for item in answer["ranking"]] == [
        (province.no["gulou"], pytest.approx(25.5)), (province.no["cangshan"], pytest.approx(65.5)), (province.no["siming"], pytest.approx(95.5)),
    ]
    assert answer["provenance"]["reporting"] == 3
    assert len((await ask(lead, group="thing", limit=1))["ranking"]) == 1
    within = await ask(lead, "/indicators/environment/pm25_days_within", group="thing")
    assert [item["value"] for item in within["ranking"]] == [100, 100, 0]


async def test_capture_counts_who_is_silent(lead: httpx.AsyncClient) -> None:
    answer = await ask(lead, "/indicators/environment/pm25_capture", group="city")
    assert answer["value"] == pytest.approx(37.5)
    assert {g["id"]: g["value"] for g in answer["groups"]} == {"fuzhou": pytest.approx(100 / 3), "xiamen": pytest.approx(50)}
    assert {value for _, value in answer["series"]} == {37.5}
    ranked = await ask(lead, "/indicators/environment/pm25_capture", group="thing")
    assert {item["value"] for item in ranked["ranking"]} == {50.0}


async def test_an_organisation_learns_nothing_of_another(province: Province, cangshan: httpx.AsyncClient, lead: httpx.AsyncClient) -> None:
    for params in ({}, {"org": "fuzhou"}, {"org": "fujian"}, {"group": "city"}, {"group": "thing"}, {"synthetic": 1}):
        answer = await ask(cangshan, **params)
        values = [answer["value"], *(g["value"] for g in answer["groups"]), *(item["value"] for item in answer["ranking"])]
        assert [v for v in values if v is not None] == pytest.approx([65.5] * max(1, len(values) - (params.get("group") == "thing"))), params
        assert {g["id"] for g in answer["groups"]} <= {"fuzhou.cangshan"}
        assert {item["no"] for item in answer["ranking"]} <= {province.no["cangshan"]}
        assert (answer["provenance"]["known"], answer["provenance"]["reporting"]) == (1, 1)
    for org in ("xiamen", "no-such"):
        answer = await ask(cangshan, org=org, group="city")
        assert {name: answer[name] for name in EMPTY} == EMPTY
        assert (answer["provenance"]["known"], answer["provenance"]["reporting"], answer["provenance"]["newest"]) == (0, 0, None)
        table = await cangshan.get(PM25, params={**MARCH, "org": org, "format": "csv"})
        assert len(table.text.strip().splitlines()) == 2  # the names, and a whole without a value
        assert "95.5" not in table.text
        shown = (await cangshan.get("/layers/environment/pm25", params={**MARCH, "org": org})).json()
        assert shown["no"] == []
    assert (await cangshan.get("/layers/environment/pm25", params=MARCH)).json()["no"] == [province.no["cangshan"]]


async def test_a_thing_that_was_claimed_away_is_named_no_more(province: Province) -> None:
    viewer = await province.person("chen", "xiamen", "viewer")
    (made,) = await province.house.service(Devices).create_many(ADMIN, Bulk(items=[
        {"org": "xiamen", "type": "AirQualityStation", "name": "huli", "id": "huli", "lon": 118.1, "lat": 24.5}]))
    may = {"from": "2026-05-01", "to": "2026-05-02", "group": "thing"}
    await put(province.house.readings, [(made["no"], "pm25", start_of(dt.date(2026, 5, 1)), 7.0)], token="huli", of=("xiamen", "AirQualityStation", 0))
    assert [item["name"] for item in (await ask(viewer, **may))["ranking"]] == ["huli"]
    await province.house.db.write(lambda c: c.execute(sa.update(entities).where(entities.c.no == made["no"]).values(org="fuzhou")) and None)
    await province.house.service(Directory).refresh([made["no"]])
    answer = await ask(viewer, **may)
    assert (answer["ranking"], answer["count"], answer["provenance"]["known"]) == ([], 0, 1)
    assert made["no"] not in (await viewer.get("/layers/environment/pm25", params=may)).json()["no"]
    await province.house.db.write(lambda c: c.execute(sa.delete(entities).where(entities.c.no == made["no"])) and None)
    await province.house.service(Directory).refresh([made["no"]])


async def test_who_has_no_role_sees_definitions_and_no_value(province: Province) -> None:
    clerk = await province.person("clerk", "xiamen", "auditor")
    assert len((await clerk.get("/indicators")).json()["items"]) >= 8
    assert (await clerk.get("/dashboards/environment/overview")).status_code == 200
    answer = await ask(clerk, group="thing")
    assert {name: answer[name] for name in EMPTY} == EMPTY
    assert answer["provenance"]["known"] == 0
    assert (await clerk.get("/layers/environment/oxygen")).json()["no"] == []
    stranger = province.client()
    for path in ("/indicators", PM25, "/dashboards", "/dashboards/environment/overview", "/layers/environment/pm25"):
        assert (await stranger.get(path)).status_code == 401, path


async def test_a_page_brings_its_definitions_along(lead: httpx.AsyncClient) -> None:
    (listed,) = [one for one in (await lead.get("/dashboards")).json()["items"] if one["pack"] == "environment"]
    page = (await lead.get(f"/dashboards/{listed['pack']}/{listed['id']}")).json()
    assert page["title"] == listed["title"]
    for section in page["sections"]:
        for widget in section["widgets"]:
            assert "indicator" not in widget or widget["indicator"] in page["indicators"]
            assert "layer" not in widget or widget["layer"] in page["layers"]
    assert page["layers"]["environment/pm25"]["levels"] == page["indicators"]["environment/pm25_mean"]["levels"]
    assert page["layers"]["environment/oxygen"]["unit"] == "mg/L"
    (one,) = [one for one in (await lead.get("/indicators")).json()["items"] if one["id"] == "pm25_mean"]
    assert [used["id"] for used in one["used_in"]] == ["overview"]


async def test_a_layer_has_things_with_places_and_values(province: Province, lead: httpx.AsyncClient) -> None:
    shown = (await lead.get("/layers/environment/pm25", params=MARCH)).json()
    assert dict(zip(shown["no"], shown["value"], strict=True)) == {
        province.no["gulou"]: pytest.approx(25.5), province.no["cangshan"]: pytest.approx(65.5), province.no["siming"]: pytest.approx(95.5),
        province.no["silent"]: None,
    }
    assert shown["synthetic"] is False
    with_all = (await lead.get("/layers/environment/pm25", params={**MARCH, "synthetic": 1})).json()
    assert sum(with_all["made_up"]) == 1


async def test_csv_says_what_it_is(lead: httpx.AsyncClient) -> None:
    answer = await lead.get(PM25, params={**MARCH, "format": "csv", "group": "city"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert rows[0] == {
        "indicator": "environment/pm25_mean v1", "unit": "µg/m³", "grain": "day", "time": "2026-03-01T00:00+08:00", "group": "",
        "value": rows[0]["value"], "synthetic": "no",
    }
    assert {row["group"] for row in rows} == {"", "fuzhou", "xiamen"}
    ranked = await lead.get(PM25, params={**MARCH, "format": "csv", "group": "thing", "synthetic": 1})
    rows = list(csv.DictReader(io.StringIO(ranked.content.decode("utf-8-sig"))))
    assert [(row["name"], row["synthetic"]) for row in rows][-1] == ("made-up", "yes")


@pytest.mark.parametrize(("params", "field"), [
    ({"from": "gestern"}, "from"), ({"to": "2026-02-31"}, "to"), ({"from": "2026-05-01"}, "from"), ({"grain": "week"}, "grain"),
    ({"group": "district"}, "group"), ({"from": "2025-01-01", "grain": "hour"}, "grain"), ({"group": "province"}, "group"), ({"from": "2010-01-01"}, "from"),
])
async def test_what_cannot_be_asked_is_named(lead: httpx.AsyncClient, params: dict[str, str], field: str) -> None:
    answer = await lead.get(PM25, params={**MARCH, **params})
    assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
    assert answer.json()["detail_zh"]


async def test_what_is_not_declared_is_not_found(lead: httpx.AsyncClient) -> None:
    for path in ("/indicators/environment/none", "/indicators/no-pack/pm25_mean", "/dashboards/environment/none", "/layers/environment/none"):
        assert (await lead.get(path)).status_code == 404, path
    answer = await lead.get("/indicators/environment/pm25_capture", params={**MARCH, "grain": "hour"})
    assert (answer.status_code, answer.json()["field"]) == (400, "grain")
