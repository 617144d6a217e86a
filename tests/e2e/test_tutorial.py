"""The tutorial of packs, run word for word: from nothing to a page with alarms.

Only the ports change, and the virtual environment is the one that runs the test; `tulou up` is started as in a second terminal.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from tests.console.conftest import BROWSER, DRIVER, NO_WEBGL, Browser

from .conftest import ROOT, Tulou, eventually

BLOCK = re.compile(r"^(?:<!-- file: (\S+) -->\n)?```(?:sh|yaml)\n(.*?)^```", re.M | re.S)


def blocks(name: str) -> list[tuple[str, str]]:
    return BLOCK.findall((ROOT / "docs" / name).read_text("utf-8"))


def bare(text: str) -> str:
    return "\n".join(line.split("  #")[0].rstrip() for line in text.splitlines())


def test_both_languages_have_the_same_blocks() -> None:
    assert [(file, bare(text)) for file, text in blocks("tutorial-pack.md")] == [
        (file, bare(text)) for file, text in blocks("tutorial-pack.zh-CN.md")]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_tutorial_of_packs(tmp_path: Path) -> None:
    tulou = Tulou(tmp_path / "home")
    work = tmp_path / "work"
    (work / "bin").mkdir(parents=True)
    for name, command in (("tulou", f"{sys.executable} -m tulou"), ("python", sys.executable)):
        (work / "bin" / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (work / "bin" / name).chmod(0o755)
    env = tulou.env | {"PATH": f"{work / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    printed: dict[str, str] = {}
    try:
        for file, text in blocks("tutorial-pack.md"):
            if file:
                (work / file).write_text(text, "utf-8")
            elif text == "tulou up\n":
                tulou.start()
            else:
                script = "set -eu -o pipefail\n. ./exported 2>/dev/null || true\n" + text.replace("8080", str(tulou.http_port)) + "\nexport -p > exported"
                done = subprocess.run(["bash", "-c", script], env=env, cwd=work, capture_output=True, text=True, timeout=120)
                assert done.returncode == 0, text + done.stdout + done.stderr
                printed[text] = done.stdout
        said = {word: next(out for text, out in printed.items() if word in text) for word in ("pack check", "pack list", "alarms?", "grade", "remove")}
        assert "没有错误" in said["pack check"]
        assert "silver" in said["pack check"]
        assert "manhole" in said["pack list"]
        assert {(one["property"], one["rule"], one["severity"]) for one in json.loads(said["alarms?"])["items"]} == {
            ("tilt", "above", "critical"), ("", "washed-away", "critical")}
        assert "silver" in said["grade"]
        assert "1 个 ManholeCover 实体留作数据" in said["remove"]
        if BROWSER is not None and DRIVER is not None:
            _seen(tulou, tmp_path / "chromium")
    finally:
        tulou.stop()


def _seen(tulou: Tulou, profile: Path) -> None:
    """The pages show the cover and its alarms."""
    with tulou.sign_in() as client:
        session = client.cookies["tulou_session"]
    page = Browser(tulou.url, profile, *NO_WEBGL)
    try:
        page.settings()
        page.cookie(session)
        page.open("/alarms")
        page.sees("五四路12号井盖")
        page.sees("井盖可能被冲走")
        page.shot("pack-tutorial-alarms")
        page.open("/things")
        page.sees("五四路12号井盖")
        eventually(lambda: "井盖" in page.driver.find_element(By.TAG_NAME, "body").text)
    finally:
        page.driver.quit()
