"""The page of a pack and the catalogue of indicators in Chromium: figures, map, ranking; nothing measured, and what is made up, said so."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest

from tests.console.conftest import Browser, Tulou

PAGE = "/packs/environment"
CITIES = {"fuzhou": (119.3, 26.07), "xiamen": (118.1, 24.5), "nanping": (118.1, 27.3), "quanzhou": (118.6, 24.9)}
PERIOD_DAYS = 8


@pytest.fixture(scope="module")
def stations(house: Tulou) -> list[dict[str, Any]]:
    """Synthetic stations of air, water and noise in four cities with eight days of hours, and one real station that is silent."""
    kinds = {"AirQualityStation": ("空气站", {"pm25": 30, "no2": 25}), "WaterQualityStation": ("水质站", {"O2": 6, "NH4": 0.6}),
             "NoiseStation": ("噪声站", {"LAeq": 55, "LAmax": 80})}
    items = [
        {"org": org, "type": kind, "name": f"合成{name} {org} {n}", "id": f"{kind}-{org}-{n}", "synthetic": True,
         "lon": lon + n * 0.13, "lat": lat + n * 0.09}
        for org, (lon, lat) in CITIES.items() for kind, (name, _) in kinds.items() for n in range(3)
    ]
    items.append({"org": "fuzhou", "type": "AirQualityStation", "name": "鼓楼站", "id": "gulou", "synthetic": False, "lon": 119.29, "lat": 26.08})
    with house.sign_in() as client:
        answer = client.post("/api/v1/devices/bulk", json={"items": items})
        assert answer.status_code == 200, answer.text
        made = answer.json()["items"]
        now = int(time.time() * 1000) // 3_600_000 * 3_600_000
        for place, (item, device) in enumerate(zip(items[:-1], made[:-1], strict=True)):
            _, values = kinds[str(item["type"])]
            past = [
                {"ts": now - hour * 3_600_000,
                 "values": {name: round(base * (1 + place / 40 + 0.3 * math.sin(hour / 9)), 3) for name, base in values.items()}}
                for hour in range(PERIOD_DAYS * 24, 0, -1)
            ]
            sent = client.post(f"/api/v1/{device['token']}/telemetry", json=past)
            assert sent.status_code in (200, 204), sent.text
        until = time.monotonic() + 60
        while True:  # the last message of the last device is stored
            shown = client.get("/api/v1/indicators/environment/noise_capture", params={"synthetic": 1}).json()
            if shown["provenance"]["origins"].get("synthetic") == 12 * PERIOD_DAYS * 24:
                return list(made)
            assert time.monotonic() < until, shown["provenance"]
            time.sleep(0.2)


def widgets(page: Browser, kind: str) -> int:
    return len(page.all(f"[data-widget={kind}]"))


def test_a_page_says_what_would_fill_it_and_counts_no_synthetic_thing_unasked(page: Browser, stations: list[dict[str, Any]]) -> None:
    page.open(PAGE)
    page.sees("环境质量一览")
    page.sees("这段时间没有数据")
    page.sees("登记空气质量站并收到“细颗粒物 PM2.5”读数后，这里会显示数值。")
    page.sees("未计入")
    page.shot("dashboard-empty")
    page.press("看合成数据")
    page.until(lambda: "synthetic=1" in page.driver.current_url, "the address does not keep it")
    page.sees("不可当作实测使用")
    page.until(lambda: page.all("[data-widget=tile] .tile-value"), "no figure")


def test_the_page_in_both_languages_wide_and_narrow_light_and_dark(page: Browser, house: Tulou, stations: list[dict[str, Any]]) -> None:
    page.open(f"{PAGE}?synthetic=1&days=7")
    page.until(lambda: page.all("[data-testid=layer-map][data-ready=true]"), "the map does not load")
    page.until(lambda: len(page.all("[data-testid=indicator-chart] canvas")) >= 4, "charts are missing")
    assert (widgets(page, "tile"), widgets(page, "map"), widgets(page, "ranking")) == (8, 2, 2)
    with house.sign_in() as client:
        shown = client.get("/api/v1/indicators/environment/pm25_mean", params={
            "from": page.script("return document.querySelectorAll('.period-range input')[0].value"), "synthetic": 1}).json()
    value = page.find("[data-widget=tile] .tile-value").text
    assert value.startswith(f"{shown['value']:.3g}"), (value, shown["value"])
    assert page.all("[data-widget=tile] .synthetic-tag")
    page.sees("12 个中的前 10 名，优者在前")
    for language, theme, width in (("zh", "light", 1440), ("en", "dark", 1440), ("zh", "light", 390), ("en", "dark", 390)):
        page.switch(language, theme, width)
        page.sees({"zh": "各市 PM2.5", "en": "PM2.5 by city"}[language])
        page.until(lambda: page.all("[data-testid=layer-map][data-ready=true]"), "the map does not load again")
        time.sleep(0.5)
        height = page.script("return document.querySelector('[data-testid=dashboard]').scrollHeight") + 60
        page.size(width, height)
        time.sleep(1.5)
        page.shot(f"dashboard-{language}-{theme}-{width}")
        page.size(width, 844 if width < 600 else 900)
        wider = page.script("const c = document.querySelector('#content'); return [c.scrollWidth, c.clientWidth, document.documentElement.scrollWidth]")
        assert wider[0] <= wider[1], f"overflow at {width}: {wider}"
        assert wider[2] <= width, f"overflow at {width}: {wider}"
        assert page.nameless() == []
    page.switch("zh", "light", 1440)
    assert page.foreign() == []
    assert page.complaints() == []


def test_what_is_chosen_is_kept_in_the_address(page: Browser, stations: list[dict[str, Any]]) -> None:
    page.open(f"{PAGE}?synthetic=1&days=7&org=fuzhou")
    page.until(lambda: len(page.all(".ranking li")) == 6, "not the stations of Fuzhou")
    assert all("fuzhou" in item.text for item in page.all(".ranking li"))
    page.until(lambda: next((e for e in page.all(".period-bar .ant-segmented-item") if e.text == "90 天"), None), "no span").click()
    page.until(lambda: "days=90" in page.driver.current_url and "org=fuzhou" in page.driver.current_url, "the address does not follow")
    page.find(".ranking li button").click()
    page.until(lambda: page.all(".ant-drawer-open"), "a thing of the ranking does not open")
    csv = page.script("return document.querySelector('[data-widget=ranking] a[href*=csv]').href")
    assert "org=fuzhou" in csv
    text = page.driver.execute_async_script("const done = arguments[1]; fetch(arguments[0]).then((r) => r.text()).then(done)", csv)
    assert len(text.strip().splitlines()) == 4


def test_the_catalogue_says_what_is_counted_and_where_it_is_shown(page: Browser, stations: list[dict[str, Any]]) -> None:
    page.open("/indicators")
    page.sees("PM2.5 平均浓度")
    page.sees("福建省生态环境厅")
    page.shot("indicators")
    page.open("/indicators?show=environment/pm25_capture&synthetic=1&days=7")
    page.sees("有数的小时占应有小时的比例")
    page.find("[data-testid=indicator] a[href='/packs/environment/overview']")
    page.until(lambda: page.all("[data-testid=indicator] [data-testid=indicator-chart] canvas"), "no course")
    time.sleep(1)
    page.shot("indicator")
    page.switch("en", "dark", 390)
    page.sees("hours with numbers of all hours")
    time.sleep(1)
    page.shot("indicator-en-dark-390")
    assert page.nameless() == []
    page.switch("zh", "light", 1440)
    assert page.foreign() == []


def test_a_menu_has_an_entry_for_each_pack_with_pages(page: Browser) -> None:
    page.open("/indicators")
    entry = page.find(f"nav a[href='{PAGE}']")
    assert entry.text == "环境监测"
    page.driver.get(f"{page.base}/packs/no-such-pack")
    page.until(lambda: page.all(".ant-result"), "a page of a pack that is not there")
    assert not page.all("[data-testid=dashboard]")


def test_the_command_line_says_the_same(house: Tulou, stations: list[dict[str, Any]], tmp_path: Path) -> None:
    assert {"pm25_mean", "noise_peak"} <= {one["id"] for one in house.json("indicators", "list")}
    assert "PM2.5" in house.run("indicators", "list")
    ranked = house.json("indicators", "show", "environment/pm25_mean", "--group", "thing", "--synthetic", "--limit", "3")
    assert [item["synthetic"] for item in ranked["ranking"]] == [True] * 3
    values = [item["value"] for item in ranked["ranking"]]
    assert values == sorted(values)
    shown = house.run("indicators", "show", "environment/pm25_mean", "--group", "city", "--synthetic")
    assert "12 / 13" in shown
    file = tmp_path / "cities.csv"
    house.run("indicators", "show", "environment/pm25_mean", "--group", "city", "--synthetic", "--csv", str(file))
    lines = file.read_text("utf-8-sig").splitlines()
    assert lines[0].startswith("indicator,unit,grain,time,group,value,synthetic")
    assert any(",xiamen," in line and line.endswith(",yes") for line in lines)
