"""The ETSI NGSI-LD Robot suite against started houses: `python -m tests.conformance.ngsild --suite FOLDER [part ...]`.

Law: the suite is somebody else's and is only run, never changed and never copied here; give its checkout with
`--suite` or `ETSI_SUITE`. Parts are paths below `TP/NGSI-LD` (all of it by default) or `IOP`, for the interoperability
cases, which run over five houses. Prints counts by group and every failure; `--json FILE` keeps them.

The Robot Framework and the libraries that the suite names are installed by name into an environment of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import xml.etree.ElementTree as ET
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tulou.kernel.bus import free_port

ROOT = Path(__file__).parents[2]
LIBRARIES = (
    "robotframework==7.4.1", "robotframework-jsonlibrary==0.5", "robotframework-requests==0.9.7", "deepdiff==8.6.1",
    "prettydiff==0.1.0", "paho-mqtt==1.6.1", "robotframework-mqttlibrary==0.7.1.post3",
)
"""What the suite's own requirements say, less its linters."""

EMPTY = (
    "https://fiware.github.io/NGSI-LD_TestSuite/ldContext/testContext.jsonld",
    "https://fiware.github.io/data-models/context.jsonld",
)
"""Contexts that cases only name, without using a term of theirs, and that the checkout does not hold."""

SETTINGS = {"temporal_instances": 30}
"""The suite takes an implementation for granted that pages a history of 40 instances (6.3.10 leaves the number open)."""

REMOTE = "https://raw.githubusercontent.com/marek-mraz/ngsi-ld-test-suite/main/resources/jsonld-contexts/"


def robot(suite: Path, folder: Path) -> Path:
    """The `robot` program, installed on first use."""
    program = folder / "bin" / "robot"
    if not program.exists():
        print(f"installing the Robot Framework in {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *LIBRARIES,
                        suite / "libraries" / "robotframework-httpctrl"], check=True)
    return program


def contexts(suite: Path) -> dict[str, str]:
    """Contexts that the suite expects on the web -> files of the checkout; no file: an empty context stands in."""
    found = {REMOTE + path.name: str(path) for path in (suite / "resources" / "jsonld-contexts").glob("*.jsonld")}
    easy = "https://easy-global-market.github.io/ngsild-api-data-models/ngsildTestSuite/"
    found[easy + "ngsildTestSuiteV1.8-compound.jsonld"] = found[REMOTE + "ngsi-ld-test-suite-compound.jsonld"]
    found.update(dict.fromkeys(EMPTY, ""))
    return found


def house(stack: ExitStack, folder: Path, port: int, suite: Path, context_server: int) -> str:
    """Start one; returns the address of its NGSI-LD door. It may fetch contexts from the suite's own server."""
    settings = {
        **SETTINGS, "context_fetch": f"http://127.0.0.1:{context_server}", **json.loads(os.environ.get("ETSI_SETTINGS", "{}")),
    }
    log = (folder.parent / f"{folder.name}.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.conformance.broker", "--home", folder, "--port", str(port),
         "--contexts", json.dumps(contexts(suite)), "--settings", json.dumps(settings)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
    )
    stack.callback(process.wait, 30)
    stack.callback(process.terminate)
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise SystemExit(f"the house did not start; see {log.name}")
    return f"http://127.0.0.1:{port}/ngsi-ld/v1"


def mosquitto(stack: ExitStack, folder: Path, port: int) -> None:
    """The broker that MQTT notifications go to, in place of the suite's container."""
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    if not Path(program).exists():
        print("mosquitto is not installed; the MQTT cases will fail", file=sys.stderr)
        return
    config = folder / f"mosquitto-{port}.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([program, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait, 10)
    stack.callback(process.terminate)


def read(output: Path) -> list[tuple[str, str, str, str]]:
    """(group, case, PASS/FAIL/SKIP, message) of every case."""
    found = []

    def walk(element: ET.Element, group: str) -> None:
        for child in element:
            if child.tag == "suite":
                source = child.get("source", "")
                walk(child, str(Path(source).parent) if source.endswith(".robot") else source)
            elif child.tag == "test":
                status = child.find("status")
                assert status is not None
                found.append((group, child.get("name", ""), status.get("status", ""), status.text or ""))

    walk(ET.parse(output).getroot(), "")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="paths below TP/NGSI-LD, or IOP (default: all of TP/NGSI-LD)")
    parser.add_argument("--suite", type=Path, default=os.environ.get("ETSI_SUITE"), help="checkout of the suite")
    parser.add_argument("--venv", type=Path, default=Path(os.environ.get("ETSI_VENV", ROOT / ".venv" / "etsi")))
    parser.add_argument("--output", type=Path, help="keep Robot's own report in this folder")
    parser.add_argument("--json", type=Path, help="write counts and failures to this file")
    parser.add_argument("--robot", action="append", default=[], help="a further argument for robot")
    options = parser.parse_args()
    if options.suite is None or not (options.suite / "TP").is_dir():
        raise SystemExit("give the suite's checkout with --suite or ETSI_SUITE; it is not part of this project")
    suite = options.suite.resolve()
    program = robot(suite, options.venv.absolute())
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tulou-etsi-")))
        output = options.output.absolute() if options.output else folder / "results"
        notify, source, server, mqtt = (free_port() for _ in range(4))
        for port in (1883, mqtt):  # apart, for another run beside this one may hold 1883
            mosquitto(stack, folder, port)
        interop = options.parts == ["IOP"]
        url = house(stack, folder / "house", free_port(), suite, server)
        variables = {
            "url": url, "temporal_api_url": url, "notification_server_host": "127.0.0.1",
            "notification_server_port": notify, "mqtt_broker_host": "127.0.0.1", "mqtt_broker_non_default_port": mqtt,
            "context_source_host": "127.0.0.1", "context_source_port": source, "context_server_host": "127.0.0.1",
            "context_server_port": server,
        }
        if interop:
            for number in range(1, 6):
                variables[f"b{number}_url"] = house(stack, folder / f"house-{number}", free_port(), suite, server)
        paths = ["IOP_TP/NGSI-LD"] if interop else [f"TP/NGSI-LD/{part}".rstrip("/") for part in options.parts or [""]]
        run: list[Any] = [program, "--outputdir", output, "--console", "dotted", "--log", "NONE", "--report", "NONE"]
        for name, value in variables.items():
            run += ["--variable", f"{name}:{value}"]
        subprocess.run([*run, *options.robot, *paths], cwd=suite, check=False)
        cases = read(output / "output.xml")
    groups: dict[str, Counter[str]] = {}
    for group, _, status, _ in cases:
        groups.setdefault(str(Path(group).relative_to(suite)), Counter())[status] += 1
    for group, count in sorted(groups.items()):
        print(f"{count['PASS']:5} of {sum(count.values()):5}  {group}")
    failures = [(str(Path(g).relative_to(suite)), name, text) for g, name, status, text in cases if status == "FAIL"]
    for group, name, text in failures:
        print(f"FAIL {group}: {name}: {' '.join(text.split())[:300]}")
    passed = sum(count["PASS"] for count in groups.values())
    print(f"{passed} of {len(cases)} passed, {len(failures)} failed, {time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps({"passed": passed, "cases": len(cases), "failures": failures}, indent=1))


if __name__ == "__main__":
    main()
