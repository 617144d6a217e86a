"""The five-minute tour of the README, run word for word against a running house.

Only the ports change (the test's house has free ones), and the virtual environment is the one that runs the test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from .conftest import ROOT, Tulou, eventually

TOUR = re.compile(r"^## Five minutes.*?(?=^## )", re.M | re.S)
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.M | re.S)
EXPECTED = {
    "ngsi-ld": ['"temperature":23.9', '"windSpeed":3.2', "鼓山气象站"],
    "readings sql": ["temperature", "23.9"],
    "plan targets": [],
    "demo --devices": ["messages"],
    "demo --remove": ["200"],
    "audit verify": [],
}
"""A word of a block -> what it must print."""


def _parts(blocks: list[tuple[str, str]], tulou: Tulou) -> list[str]:
    """The blocks as two shell scripts: until the last measurement is published, and the rest."""
    parts, script = [], []
    for number, (language, code) in enumerate(blocks):
        code = code.replace(". .venv/bin/activate\n", "")
        code = code.replace("1883", str(tulou.mqtt_port)).replace("8080", str(tulou.http_port))
        if language == "python":
            code = f"python - <<'PYTHON'\n{code}PYTHON\n"
        script.append(f"echo; echo '### {number}'\n{code}\n")
        if language == "python":
            parts.append("\n".join(script))
            script = []
    return [*parts, "\n".join(script)]


def _measured(client: httpx.Client, wind: float) -> bool:
    answer = client.get("/ngsi-ld/v1/entities?type=WeatherStation&options=keyValues", headers={"NGSILD-Tenant": "fuzhou"})
    return any(entity.get("windSpeed") == wind for entity in answer.json())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="mosquitto-clients is not installed")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_tour_of_the_readme(tulou: Tulou, tmp_path: Path) -> None:
    tour = TOUR.search((ROOT / "README.md").read_text("utf-8"))
    assert tour is not None
    blocks = BLOCK.findall(tour.group())
    assert len(blocks) >= 8
    (tmp_path / "bin").mkdir()
    for name, command in (("tulou", f'{sys.executable} -m tulou'), ("python", sys.executable)):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    env = tulou.env | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    printed = ""
    for part in _parts(blocks, tulou):
        done = subprocess.run(
            ["bash", "-c", "set -eu -o pipefail\n. ./exported 2>/dev/null || true\n" + part + "\nexport -p > exported"],
            env=env, cwd=tmp_path, capture_output=True, text=True, timeout=250,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        printed += done.stdout
        with tulou.sign_in() as client:  # what was published is there before the next part looks for it
            eventually(lambda: _measured(client, 3.2), 60)
    answers = dict(re.findall(r"^### (\d+)\n(.*?)(?=^### |\Z)", printed, re.M | re.S))
    for number, (_, code) in enumerate(blocks):
        for word, expected in EXPECTED.items():
            if word in code:
                answer = answers[str(number)]
                assert answer.strip(), code
                squeezed = re.sub(r'":\s+', '":', answer)
                for text in expected:
                    assert text in squeezed, f"{code}\n{answer}"
