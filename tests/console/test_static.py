"""The console's files: what is served, with which headers, and what a build must not contain."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from tulou.console import PAGES, Console
from tulou.console.build import SOURCES, sources_hash

STATIC = Console().static


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small built console."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html><title>土楼</title>", "utf-8")
    (tmp_path / "boot.js").write_text("1")
    script = tmp_path / "assets" / "main-0123abcd.js"
    script.write_text("let a = 1;" * 500)
    script.with_name("main-0123abcd.js.gz").write_bytes(gzip.compress(script.read_bytes()))
    return tmp_path


def client_of(static: Path) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(Starlette(routes=Console(static).routes()))
    return httpx.AsyncClient(transport=transport, base_url="http://console")


@pytest.fixture
def client(folder: Path) -> httpx.AsyncClient:
    return client_of(folder)


async def test_every_page_is_the_application(client: httpx.AsyncClient) -> None:
    for path in ["/", *[f"/{page}" for page in PAGES], "/things/42", "/plan/targets/5g-stations"]:
        answer = await client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        assert "土楼" in answer.text


def test_pages_are_those_of_the_application() -> None:
    routes = (SOURCES / "src" / "app.tsx").read_text("utf-8")
    for page in PAGES:
        assert f'path="{page}' in routes, f"{page} is served, but the application has no such page"


async def test_an_unknown_path_is_left_to_the_other_doors(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/nothing")).status_code == 404
    assert (await client.get("/assets/none.js")).status_code == 404


async def test_hashed_assets_are_kept_for_ever_and_compressed(client: httpx.AsyncClient) -> None:
    answer = await client.get("/assets/main-0123abcd.js", headers={"accept-encoding": "gzip"})
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["vary"] == "accept-encoding"
    assert answer.text == "let a = 1;" * 500
    plain = await client.get("/assets/main-0123abcd.js", headers={"accept-encoding": "br, gzip;q=0"})
    assert "content-encoding" not in plain.headers
    assert plain.text == answer.text


async def test_what_the_browser_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    tag = (await client.get("/")).headers["etag"]
    again = await client.get("/", headers={"if-none-match": f'"other", W/{tag}'})
    assert again.status_code == 304
    assert not again.content
    assert again.headers["etag"] == tag


async def test_nothing_outside_of_the_folder(client: httpx.AsyncClient, folder: Path) -> None:
    (folder.parent / "secret.js").write_text("secret")
    for path in ("/assets/../secret.js", "/assets/..%2f..%2fsecret.js", "/assets/%2e%2e/%2e%2e/secret.js"):
        assert "secret" not in (await client.get(path)).text


async def test_a_new_build_is_served_without_a_restart(client: httpx.AsyncClient, folder: Path) -> None:
    first = (await client.get("/")).headers["etag"]
    (folder / "index.html").write_text("<!doctype html><title>newer</title>")
    os.utime(folder / "index.html", ns=(1, 1))
    assert (await client.get("/")).headers["etag"] != first


async def test_without_a_build_the_page_says_what_to_do(tmp_path: Path) -> None:
    answer = await client_of(tmp_path).get("/things")
    assert answer.status_code == 503
    assert "控制台尚未构建" in answer.text
    assert "has not been built" in answer.text
    assert "python -m tulou.console.build" in answer.text


def test_sources_hash_sees_every_change(tmp_path: Path) -> None:
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "a.ts").write_text("1")
    first = sources_hash(tmp_path)
    (tmp_path / "node_modules" / "b.ts").write_text("1")
    assert sources_hash(tmp_path) == first
    (tmp_path / "a.ts").rename(tmp_path / "c.ts")
    assert sources_hash(tmp_path) != first


def test_the_lock_names_no_address() -> None:
    lock = json.loads((SOURCES / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    assert [name for name, entry in packages.items() if "resolved" in entry] == []
    assert [name for name, entry in packages.items() if "integrity" not in entry and not entry.get("inBundle")] == []


built = pytest.mark.skipif(not (STATIC / "index.html").is_file(), reason="the console has not been built")


@built
def test_the_page_has_no_inline_script_and_no_foreign_address() -> None:
    page = (STATIC / "index.html").read_text("utf-8")
    assert "http://" not in page
    assert "https://" not in page
    for script in page.split("<script")[1:]:
        assert "src=" in script.split(">")[0]


@built
def test_outlines_are_fujian() -> None:
    """The nine cities, decoded: closed rings of plausible degrees, every seat inside the province's extent."""
    (path,) = (STATIC / "assets").glob("outlines-*.json")
    features = json.loads(path.read_text())["features"]
    cities = [f for f in features if f["properties"]["kind"] == "city"]
    assert {f["properties"]["name"] for f in cities} == {
        "福州市",
        "厦门市",
        "莆田市",
        "三明市",
        "泉州市",
        "漳州市",
        "南平市",
        "龙岩市",
        "宁德市",
    }
    for feature in cities:
        lon, lat = feature["properties"]["label"]
        assert 115.8 < lon < 120.8
        assert 23.4 < lat < 28.4
        for polygon in feature["geometry"]["coordinates"]:
            for ring in polygon:
                assert len(ring) >= 4
                assert ring[0] == ring[-1]
                assert all(115.7 < x < 121 and 23.3 < y < 28.5 for x, y in ring)
