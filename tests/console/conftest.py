"""A running house with a few things in it, and a Chromium that reaches nothing but this machine."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.e2e.conftest import PASSWORD, ROOT, Tulou

__all__ = ["PASSWORD", "Browser", "Tulou"]

SCREENSHOTS = ROOT / "tests" / "_screenshots"
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")
T = TypeVar("T")
PATIENCE = 90
"""Seconds that something may take on a busy machine before it counts as missing: how quick it is, `bench/` says."""

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--force-device-scale-factor=1", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
SOFTWARE_WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
NO_WEBGL = ("--disable-gpu", "--disable-3d-apis")
SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


class Browser:
    """One Chromium with what the tests ask of it."""

    def __init__(self, base: str, profile: Path, *flags: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER or ""
        for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.base = base
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": SHIFTS})
        self.size(1440, 900)

    def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def settings(self, language: str = "zh", theme: str = "light") -> None:
        """Choose language and appearance as the console keeps them."""
        if not self.driver.current_url.startswith(self.base):
            self.driver.get(f"{self.base}/tulou.svg")
        chosen = json.dumps({"language": language, "theme": theme})
        self.driver.execute_script("localStorage.setItem('tulou.settings', arguments[0])", chosen)

    def switch(self, language: str, theme: str, width: int) -> None:
        """Change the look of the page that is open, as another tab or a turned screen does."""
        self.settings(language, theme)
        self.size(width, 844 if width < 600 else 900)
        self.script("dispatchEvent(new StorageEvent('storage', {key: 'tulou.settings'}))")
        lang = {"zh": "zh-CN", "en": "en"}[language]
        self.until(lambda: self.script("return document.documentElement.lang") == lang, "the language does not change")
        self.settled()

    def cookie(self, secret: str | None) -> None:
        """Be the person of this session, or nobody."""
        if not self.driver.current_url.startswith(self.base):
            self.driver.get(f"{self.base}/tulou.svg")
        self.driver.delete_all_cookies()
        if secret is not None:
            self.driver.add_cookie({"name": "tulou_session", "value": secret, "path": "/"})

    def open(self, path: str) -> None:
        """Load a page and wait until it has what it asked for."""
        self.driver.get(self.base + path)
        self.settled()

    def settled(self) -> None:
        self.until(
            lambda: self.script(
                "return document.readyState === 'complete' && !!document.querySelector('h1')"
                " && !document.querySelector('.ant-skeleton, .ant-spin-spinning, .waiting, .boot')"
            ),
            "the page is still loading",
        )

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def until(self, check: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
        """The first true result of `check`."""
        end = time.monotonic() + seconds
        while True:
            try:
                if result := check():
                    return result
            except (StaleElementReferenceException, ElementClickInterceptedException):
                pass  # drawn anew, or something still moves over it
            if time.monotonic() > end:
                self.shot("failure")
                raise AssertionError(f"{what}: {self.driver.current_url}\n{self.text()[:2000]}")
            time.sleep(0.05)

    def find(self, css: str) -> WebElement:
        """The first visible element, waited for."""
        return self.until(lambda: next((e for e in self.all(css) if e.is_displayed()), None), f"no {css}")

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def button(self, text: str, within: str = "") -> WebElement:
        """The visible button of this text."""
        return self.until(
            lambda: next(
                (e for e in self.all(f"{within} button") if e.is_displayed() and e.text.strip() == text), None
            ),
            f"no button {text}",
        )

    def press(self, text: str, within: str = "") -> None:
        """Click the button of this text, found again when it is drawn anew meanwhile."""
        self.until(lambda: self.button(text, within).click() or True, f"cannot press {text}")

    def fill(self, css: str, value: str) -> None:
        field = self.find(css)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value)

    def pick(self, css: str, value: str) -> None:
        """Choose an option of a select by typing."""
        field = self.find(css)
        field.send_keys(value)
        self.until(lambda: self.all(".ant-select-item-option-active"), f"no option {value}")
        field.send_keys(Keys.ENTER)

    def text(self) -> str:
        return str(self.script("return document.body.innerText"))

    def sees(self, text: str, seconds: float = PATIENCE) -> None:
        self.until(lambda: text in self.text(), f"does not see {text!r}", seconds)

    def shot(self, name: str) -> Path:
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.driver.save_screenshot(str(path))
        return path

    def requests(self) -> list[str]:
        """Addresses asked for since the last call, whatever came of it."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                parameters = message["params"]
                found.append(parameters.get("request", parameters)["url"])
        return found

    def foreign(self) -> list[str]:
        """Requests since the last call that left this house."""
        own = urlsplit(self.base).netloc
        return [
            url for url in self.requests()
            if urlsplit(url).scheme not in ("data", "blob", "chrome", "chrome-untrusted", "about") and urlsplit(url).netloc != own
        ]  # fmt: skip

    def complaints(self) -> list[str]:
        """Errors of the page's console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def nameless(self) -> list[str]:
        """Things to press or to fill in that have no name for a screen reader."""
        return list(
            self.script(
                "return [...document.querySelectorAll('button, a[href], input:not([type=hidden])')].filter((e) =>"
                " e.offsetParent && !(e.innerText || '').trim() && !e.ariaLabel && !e.title && !e.placeholder"
                " && !e.labels?.length && !e.closest('label, .ant-select')"
                " && !e.querySelector('img[alt], [aria-label]')).map((e) => e.outerHTML)"
            )
        )

    def place(self, lon: float, lat: float) -> tuple[int, int]:
        """Where a place lies on the window while the map shows the whole province (console/src/map/style.ts)."""
        west, south, east, north = 115.75, 23.45, 120.75, 28.4

        def x_of(degrees: float) -> float:
            return (degrees + 180) / 360

        def y_of(degrees: float) -> float:
            return (1 - math.log(math.tan(math.pi / 4 + math.radians(degrees) / 2)) / math.pi) / 2

        box = self.script("return document.querySelector('[data-testid=map]').getBoundingClientRect().toJSON()")
        scale = min((box["width"] - 24) / (x_of(east) - x_of(west)), (box["height"] - 24) / (y_of(south) - y_of(north)))
        x = box["x"] + box["width"] / 2 + (x_of(lon) - (x_of(west) + x_of(east)) / 2) * scale
        y = box["y"] + box["height"] / 2 + (y_of(lat) - (y_of(south) + y_of(north)) / 2) * scale
        return round(x), round(y)

    def mouse(self, kind: str, x: int, y: int) -> None:
        button = "none" if kind == "mouseMoved" else "left"
        event = {"type": kind, "x": x, "y": y, "button": button, "clickCount": int(button == "left")}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tulou]:
    """One house that the tests of a file share: it and a browser with a live map keep a core busy."""
    house = Tulou(tmp_path_factory.mktemp("console") / "home")
    house.start()
    yield house
    house.stop()


@pytest.fixture(scope="module")
def fresh(house: Tulou, browser: Browser) -> str:
    """The first administrator's printed password, before anybody used it."""
    return (house.home / "first-password").read_text().strip()


@pytest.fixture(scope="module")
def browser(house: Tulou, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A Chromium with WebGL in software."""
    if BROWSER is None or DRIVER is None:
        pytest.skip("Chromium or chromedriver is not installed")
    browser = Browser(house.url, tmp_path_factory.mktemp("chromium"), *SOFTWARE_WEBGL)
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def secret(house: Tulou) -> str:
    """The administrator's session."""
    with house.sign_in() as client:
        return client.cookies["tulou_session"]


@pytest.fixture(scope="module")
def devices(house: Tulou) -> list[dict[str, Any]]:
    """A weather station in each of three cities that spoke, and forty synthetic manholes that did not."""
    stations = [
        {"org": "fuzhou", "type": "WeatherStation", "name": "鼓山气象站", "id": "gushan", "lon": 119.38, "lat": 26.06},
        {
            "org": "longyan",
            "type": "WeatherStation",
            "name": "永定气象站",
            "id": "yongding",
            "lon": 116.73,
            "lat": 24.72,
        },
        {
            "org": "nanping",
            "type": "WeatherStation",
            "name": "武夷山气象站",
            "id": "wuyishan",
            "lon": 118.03,
            "lat": 27.76,
        },
    ]
    manholes = [
        {
            "org": "xiamen", "type": "Manhole", "name": f"合成井盖 {n:02}", "id": f"m{n}", "synthetic": True,
            "lon": 117.9 + n % 8 * 0.04, "lat": 24.5 + n // 8 * 0.05,
        }
        for n in range(40)
    ]  # fmt: skip
    with house.sign_in() as client:
        answer = client.post("/api/v1/devices/bulk", json={"items": stations + manholes})
        assert answer.status_code == 200, answer.text
        made = answer.json()["items"]
        assert all("error" not in line for line in made), made
        now = int(time.time() * 1000)
        for device in made[:3]:
            past = [
                {"ts": now - minute * 60_000, "values": {"temperature": 20 + minute % 7, "windSpeed": 3.5}}
                for minute in range(180, 0, -1)
            ]
            sent = client.post(f"/api/v1/{device['token']}/telemetry", json=past)
            assert sent.status_code in (200, 204), sent.text
        wrong = client.post(f"/api/v1/{made[0]['token']}/telemetry", json={"temperature": "hot"})
        assert wrong.status_code == 400, wrong.text
    return list(made)


@pytest.fixture
def page(browser: Browser, secret: str, devices: list[dict[str, Any]]) -> Browser:
    """The browser, signed in as the administrator, Chinese, light, 1440 wide."""
    browser.size(1440, 900)
    browser.cookie(secret)
    browser.settings()
    browser.driver.get_log("browser")
    browser.driver.get_log("performance")
    return browser
