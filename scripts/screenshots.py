"""Make `docs/images/*.png`: a fresh house with the synthetic province, seen in Chromium.

Run in the developers' environment: `python scripts/screenshots.py`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.console.conftest import SOFTWARE_WEBGL, Browser  # noqa: E402
from tests.e2e.conftest import TULOU, Tulou  # noqa: E402

PAGES = {"cockpit": "/", "plan": "/plan/targets"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        house = Tulou(Path(folder) / "home")
        house.start()
        demo = subprocess.Popen([*TULOU, "demo", "--devices", "1500", "--rate", "6/min"], env=house.env)
        try:
            with house.sign_in() as client:
                while client.get("/api/v1/overview").json()["counters"]["readings_total"] < 1_000_000:
                    time.sleep(1)
                time.sleep(30)
                browser = Browser(house.url, Path(folder) / "chromium", *SOFTWARE_WEBGL)
                browser.cookie(client.cookies["tulou_session"])
                for language, theme, suffix in (("zh", "light", ""), ("en", "dark", "-en")):
                    browser.settings(language, theme)
                    for name, path in PAGES.items():
                        browser.open(path)
                        time.sleep(8)
                        browser.driver.save_screenshot(str(ROOT / f"docs/images/{name}{suffix}.png"))
                browser.driver.quit()
        finally:
            demo.terminate()
            demo.wait()
            house.stop()


if __name__ == "__main__":
    main()
