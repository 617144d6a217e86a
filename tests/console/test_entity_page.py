"""The entity page in Chromium: anything with an identifier, with or without a device, here or at a context source."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest

from tests.e2e.conftest import Tulou

from .conftest import PASSWORD, Browser
from .test_browser import LOOKS

pytestmark = pytest.mark.browser

BUILDING = "urn:ngsi-ld:Building:承启楼/1"
STREET, CAMERA, BARE = "urn:ngsi-ld:Street:高北", "urn:ngsi-ld:Camera:1", "urn:ngsi-ld:Note:bare"
ORG = "longyan"


def address(id: str, **more: str) -> str:
    return f"/entities/{quote(id, safe='')}" + ("?" + "&".join(f"{k}={v}" for k, v in more.items()) if more else "")


def prop(value: Any, **more: Any) -> dict[str, Any]:
    return {"type": "Property", "value": value, **more}


def ngsi(client: httpx.Client, method: str, path: str, body: Any, org: str = ORG) -> None:
    headers = {"NGSILD-Tenant": org, "Content-Type": "application/json", "X-Tulou": "1"}
    answer = client.request(method, "/ngsi-ld/v1" + path, content=json.dumps(body), headers=headers)
    assert answer.status_code in (201, 204), answer.text


@pytest.fixture(scope="module")
def written(house: Tulou) -> None:
    """A building that a street is related to and a camera watches; two subscriptions; one identifier twice."""
    square = [[116.9, 24.6], [117.02, 24.6], [117.02, 24.72], [116.9, 24.72], [116.9, 24.6]]
    building = {
        "id": BUILDING, "type": "Building", "name": prop("承启楼"),
        "title": {"type": "LanguageProperty", "languageMap": {"zh": "圆楼之王", "en": "King of the round houses"}},
        "location": {"type": "GeoProperty", "value": {"type": "Polygon", "coordinates": [square]}},
        "visitors": prop(12, unitCode="C62"), "condition": {"type": "VocabProperty", "vocab": "good"},
        "record": {"type": "JsonProperty", "json": {"year": 1709}},
        "rings": prop(4, countedBy={"type": "Relationship", "object": CAMERA}),
        "locatedOn": {"type": "Relationship", "object": STREET},
    }
    notification = {"endpoint": {"uri": "http://192.0.2.1/x", "accept": "application/json"}}
    with house.sign_in() as client:
        ngsi(client, "POST", "/entities", {"id": STREET, "type": "Street", "name": prop("高北村道")})
        ngsi(client, "POST", "/entities", building)
        watches = {"type": "Relationship", "object": BUILDING}
        ngsi(client, "POST", "/entities", {"id": CAMERA, "type": "Camera", "name": prop("楼门摄像机"), "watches": watches})
        for name, q in (("crowded", "visitors>50"), ("anybody", "visitors>0")):
            subscription = {
                "id": f"urn:ngsi-ld:Subscription:{name}", "type": "Subscription", "subscriptionName": name, "q": q,
                "entities": [{"type": "Building"}], "notification": notification,
            }
            ngsi(client, "POST", "/subscriptions", subscription)
        for visitors, condition in ((30, "good"), (45, "fair"), (20, "fair")):
            fragment = {"visitors": prop(visitors), "condition": {"type": "VocabProperty", "vocab": condition}}
            ngsi(client, "PATCH", f"/entities/{quote(BUILDING, safe='')}/attrs", fragment)
        for org in (ORG, "xiamen"):
            ngsi(client, "POST", "/entities", {"id": BARE, "type": "Note"}, org)


@pytest.fixture
def here(page: Browser, written: None) -> Browser:
    return page


def within(page: Browser, name: str) -> str:
    return page.find(f"[data-testid={name}]").text


@pytest.mark.parametrize("path", [
    address(BUILDING), address(BUILDING, tab="chart", attribute="visitors"),
    address(BUILDING, tab="chart", attribute="condition"), address(BARE), address(BUILDING, tab="document"),
])  # fmt: skip
def test_it_looks_well_everywhere(here: Browser, path: str) -> None:
    """Nothing comes from elsewhere, nothing fails, nothing jumps, nothing overflows, everything has a name."""
    for number, (language, theme, width) in enumerate(look for looks in LOOKS for look in looks):
        here.size(width, 844 if width < 600 else 900)
        here.settings(language, theme)
        here.open(path)
        here.shot(f"entity-{path[-9:].replace('/', '_')}-{number}-{language}-{theme}-{width}")
        assert here.script("return document.querySelectorAll('h1').length") == 1
        assert here.script("return document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
        assert here.nameless() == []
        assert here.script("return window.shifted") < 0.1
    assert here.foreign() == []
    assert here.complaints() == []


def test_state_shows_every_kind_in_the_readers_language(here: Browser) -> None:
    here.open(address(BUILDING))
    here.until(lambda: here.find("h1").text == "承启楼", "no name")
    state = within(here, "latest")
    for words in ("圆楼之王 中文", "Polygon · 5 个顶点", "词汇", "fair", '{"year":1709}', STREET, "countedBy", CAMERA):
        assert words in state, words
    assert state.index("圆楼之王") < state.index("King of the round houses")
    here.settings("en")
    here.open(address(BUILDING))
    state = within(here, "latest")
    assert state.index("King of the round houses English") < state.index("圆楼之王")


def test_the_place_is_drawn_near_by_and_in_the_province(here: Browser) -> None:
    here.open(address(BUILDING))
    here.until(lambda: here.all("[data-testid=place] .place-area"), "no shape")
    here.until(lambda: "龙岩" in here.script("return document.querySelector('[data-testid=place]').textContent"), "no names")
    assert not here.all("[data-testid=place] .place-ring")
    next(e for e in here.all(".place-map .ant-segmented-item") if e.text == "全省").click()
    here.until(lambda: here.all("[data-testid=place] .place-ring"), "a speck without a ring")


def test_relationships_lead_there_and_back(here: Browser) -> None:
    here.open(address(BUILDING))

    def pointed_to() -> bool:
        """Other tests may have left more entities in this house than are looked at in one go."""
        for more in here.all("[data-testid=relations] .box-note button"):
            more.click()
        return "watches ←" in within(here, "relations")

    here.until(pointed_to, "nothing points to it")
    relations = within(here, "relations")
    assert "locatedOn →" in relations
    assert "rings.countedBy →" in relations
    here.until(lambda: next(e for e in here.all("[data-testid=relations] a") if e.text == "高北村道").click() or True, "no link")
    here.until(lambda: here.find("h1").text == "高北村道", "the street does not open")
    here.until(lambda: pointed_to() or "承启楼" in within(here, "relations"), "the building does not point to the street")


def test_numbers_are_drawn_and_words_are_a_timeline(here: Browser) -> None:
    here.open(address(BUILDING))
    here.find("tr[data-attribute=visitors] .attribute-history a").click()
    here.find("[data-testid=chart] canvas")
    assert "4 条" in within(here, "resolution")
    here.open(address(BUILDING, tab="chart", attribute="condition"))
    changes = here.until(lambda: here.all("[data-testid=timeline] li"), "no timeline")
    assert [change.text.split()[-2:] for change in changes] == [["fair", "×2"], ["good", "×2"]]


def test_readings_have_their_roll_ups(here: Browser, devices: list[dict[str, Any]]) -> None:
    here.open(f"/things/{devices[0]['no']}?tab=chart")
    here.until(lambda: "/entities/" in here.driver.current_url, "the number does not lead to the identifier")
    here.until(lambda: "原始读数" in within(here, "resolution"), "no raw readings")
    next(e for e in here.all(".ant-segmented-item") if e.text == "1 年").click()
    here.until(lambda: "汇总" in within(here, "resolution"), "no roll-up")


def test_subscriptions_say_whether_they_hold(here: Browser) -> None:
    here.open(address(BUILDING))
    here.until(lambda: len(here.all("[data-testid=watchers] li")) == 2, "no subscriptions")
    crowded, anybody = [item.text for item in here.all("[data-testid=watchers] li")]
    assert "现在不满足条件" in crowded
    assert "visitors>50" in crowded
    assert "现在满足条件" in anybody


def test_provenance_names_who_made_and_changed_it(here: Browser, devices: list[dict[str, Any]]) -> None:
    here.open(address(BUILDING))
    here.until(lambda: "context.entity.create" in within(here, "provenance"), "nobody made it")
    provenance = within(here, "provenance")
    assert "经接口写入" in provenance
    assert "由 user:" in provenance
    assert provenance.count("visitors, condition") == 3
    here.open(f"/things/{devices[0]['no']}")
    here.until(lambda: "末帧" in within(here, "provenance"), "no last frame")
    assert "设备上报" in within(here, "provenance")
    assert devices[0]["id"] in within(here, "provenance")


def test_one_identifier_in_two_organisations(here: Browser) -> None:
    here.open(address(BARE, org=ORG))
    here.sees("此实体没有属性。")
    here.sees("同一标识也见于")
    next(e for e in here.all(".thing-sub a") if e.text == "厦门市").click()
    here.until(lambda: "org=xiamen" in here.driver.current_url, "the other one does not open")
    here.until(lambda: "厦门市" in within(here, "provenance"), "the other one is not shown")


def test_who_may_not_see_it_learns_nothing(here: Browser, house: Tulou, secret: str) -> None:
    with house.sign_in() as admin:
        for name, org in (("looker", ORG), ("outsider", "xiamen")):
            person = {"name": name, "display": name, "org": org, "roles": [{"org": org, "role": "viewer", "subtree": True}]}
            first = admin.post("/api/v1/users", json=person).json()["password"]
            with house.client() as client:
                client.post("/api/v1/session", json={"name": name, "password": first})
                client.post("/api/v1/session/password", json={"old": first, "new": PASSWORD + name})
                here.cookie(client.cookies["tulou_session"])
            here.open(address(BUILDING))
            if name == "looker":
                here.until(lambda: "经接口写入" in within(here, "provenance"), "a viewer does not see it")
                assert "审计记录" not in here.text()
                assert "user:" not in within(here, "provenance")
                continue
            here.sees("没有这个实体")
            shown = here.text()
            here.open(address(BUILDING + "0"))
            here.sees("没有这个实体")
            assert here.text() == shown.replace(BUILDING, BUILDING + "0")
            here.open(address(BUILDING, org=ORG))
            here.sees("没有")
            assert "承启楼" not in here.find("h1").text


def test_lists_and_the_audit_lead_to_it(here: Browser) -> None:
    for path, within_, words in (("/things?q=承启楼", "[data-testid=things]", "承启楼"), ("/audit", ".ant-table", BUILDING)):
        here.open(path)
        here.until(
            lambda w=within_, t=words: next(e for e in here.all(f"{w} a") if e.text == t).click() or True
            if any(e.text == t for e in here.all(f"{w} a")) else False, f"no link on {path}",
        )
        here.until(lambda: here.all("[data-testid=provenance]") and here.find("h1").text == "承启楼", "it does not open")


class Source(BaseHTTPRequestHandler):
    """An NGSI-LD broker that has one entity."""

    def do_GET(self) -> None:
        found = unquote(self.path).partition("?")[0].endswith("urn:ngsi-ld:Museum:1")
        body = json.dumps({"id": "urn:ngsi-ld:Museum:1", "type": "Museum", "halls": prop(7)} if found else []).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def source() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Source)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_entity_that_only_a_context_source_has(source: str, browser: Browser, tmp_path: Any) -> None:
    """4.3.6: the house answers for registered sources; the page says that what it shows is not its own."""
    house = Tulou(tmp_path / "home", outbound_allow="127.0.0.0/8")
    house.start()
    base = browser.base
    try:
        with house.sign_in() as client:
            registration = {
                "id": "urn:ngsi-ld:ContextSourceRegistration:museums", "type": "ContextSourceRegistration",
                "registrationName": "博物馆平台", "information": [{"entities": [{"type": "Museum"}]}], "endpoint": source,
            }
            ngsi(client, "POST", "/csourceRegistrations", registration)
            browser.base = house.url
            browser.cookie(client.cookies["tulou_session"])
            browser.settings()
            browser.open(address("urn:ngsi-ld:Museum:1", org=ORG))
            browser.sees("此实体不在本系统中")
            assert "halls" in within(browser, "latest")
            browser.until(lambda: "博物馆平台" in within(browser, "provenance"), "the source is not named")
            assert "上下文源提供" in within(browser, "provenance")
            browser.shot("entity-source")
    finally:
        browser.base = base
        house.stop()
