"""The Eclipse Paho interoperability tests against a started gateway: `python -m tests.conformance.mqtt --suite FOLDER`.

Law: the suite is somebody else's and is only run, never changed and never copied here; give its checkout with `--suite`
or `PAHO_SUITE`. Runs `interoperability/client_test.py` (3.1.1) and `client_test5.py` (5.0) against a real `nats-server`
and a real gateway that lets clients without credentials in; `--broker mosquitto` runs them against that, for reference.
Prints counts and every failure; `--json FILE` keeps them.

Arranged for the suite: `mqtt_keep_alive` is 60, which test_server_keep_alive expects, and the filter `test/nosubscribe`
is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from tulou.kernel.bus import free_port

ROOT = Path(__file__).parents[2]
FILES = {"3.1.1": "client_test.py", "5.0": "client_test5.py"}
RUN = """
import runpy, sys, unittest
path, port, names = sys.argv[1], sys.argv[2], sys.argv[3:]
sys.argv = [path, "--hostname", "127.0.0.1", "-p", port]
main = unittest.main
unittest.main = lambda: main(argv=[path, "-v", *names])
runpy.run_path(path, run_name="__main__")
"""
"""Runs a file of the suite as a program; its own arguments do not reach `unittest`, which would refuse them."""


async def serve(home: Path, port: int) -> None:
    """A nats-server with the house's streams, and a gateway on `port`."""
    from types import SimpleNamespace

    from tulou.access import application, broker, gateway, hooks, mqtt
    from tulou.kernel.bus import Bus, NatsServer
    from tulou.kernel.settings import Settings

    class Refusing(broker.Broker):
        def refuses(self, who: application.Application, wanted: str) -> int:
            return mqtt.UNSPECIFIED if wanted == "test/nosubscribe" else super().refuses(who, wanted)

    gateway.Broker = Refusing  # type: ignore[misc]
    settings = Settings(home=home)
    nats = NatsServer(settings)
    await nats.start()
    bus = Bus(nats.url)
    await bus.connect()
    await bus.ensure(hooks.streams(SimpleNamespace(settings=settings)))  # type: ignore[arg-type]

    async def ready(_gateway: gateway.Gateway) -> None:
        print("ready", flush=True)

    config = gateway.Config(
        port=port, nats_url=nats.url, sql_url=f"sqlite:///{home / 'none.db'}", anonymous="suite", longest_keep_alive=60
    )
    await gateway.serve(config, ready)
    await bus.close()
    await nats.stop()


PATIENCE = 60.0
"""Seconds of silence after which a test is given up."""


def start(broker: str, home: Path, port: int) -> subprocess.Popen[bytes]:
    """The broker, once it listens."""
    if broker == "mosquitto":
        config = home / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_keepalive 60\n")
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        process = subprocess.Popen([program, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1)
        return process
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.conformance.mqtt", "--serve", str(port), "--home", home], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=(home / "gateway.log").open("wb"),
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
    )
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise SystemExit(f"the gateway did not start:\n{(home / 'gateway.log').read_text()}")
    return process


def run(suite: Path, version: str, port: int, names: list[str]) -> dict[str, tuple[str, str]]:
    """Test -> (ok, FAIL or ERROR; the last line of its traceback). A test that does not end is given up, and the others
    are run without it."""
    folder = suite / "interoperability"
    if not names:
        text = (folder / FILES[version]).read_text("utf-8")
        names = [f"Test.{name}" for name in sorted(re.findall(r"^    def (test\w+)\(", text, re.MULTILINE))]
    found: dict[str, tuple[str, str]] = {}
    left = names
    while left:
        with tempfile.TemporaryFile() as out:
            process = subprocess.Popen(
                [sys.executable, "-u", "-c", RUN, FILES[version], str(port), *left], cwd=folder, stdout=out,
                stderr=subprocess.STDOUT,
            )
            size, since = 0, time.monotonic()
            while process.poll() is None and time.monotonic() - since < PATIENCE:
                time.sleep(0.5)
                if os.fstat(out.fileno()).st_size != size:
                    size, since = os.fstat(out.fileno()).st_size, time.monotonic()
            process.kill()
            process.wait()
            out.seek(0)
            told = out.read().decode(errors="replace")
        before = len(found)
        found.update(results(told))
        left = [name for name in left if name.removeprefix("Test.") not in found]
        if len(found) == before:
            found["the suite itself"] = ("ERROR", told[-500:])
            break
    return found


def results(told: str) -> dict[str, tuple[str, str]]:
    """What `unittest` said of each test."""
    found: dict[str, tuple[str, str]] = {}
    parts = re.split(r"^(test\w*) \(__main__\.Test[^)]*\)", told.split("\n=====")[0].split("\n-----")[0], flags=re.MULTILINE)
    for name, rest in zip(parts[1::2], parts[2::2], strict=True):
        found[name] = ("ok", "") if re.search(r"\bok\s*$", rest) else ("FAIL", "did not end")
    for kind, name, text in re.findall(r"^(FAIL|ERROR): (\w+) .*?\n(.*?)(?=^=====|^Ran )", told, re.MULTILINE | re.DOTALL):
        lines = [line for line in text.splitlines() if line.strip("- ")]
        found[name] = (kind, lines[-1] if lines else "")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="tests, as Test.test_basic (default: all)")
    parser.add_argument("--suite", type=Path, default=os.environ.get("PAHO_SUITE"), help="checkout of paho.mqtt.testing")
    parser.add_argument("--version", choices=FILES, action="append", help="only this version of MQTT")
    parser.add_argument("--broker", choices=("tulou", "mosquitto"), default="tulou")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.home, options.serve))
        return
    if options.suite is None or not (options.suite / "interoperability").is_dir():
        raise SystemExit("give the suite's checkout with --suite or PAHO_SUITE; it is not part of this project")
    results: dict[str, Any] = {}
    for version in options.version or FILES:
        with tempfile.TemporaryDirectory(prefix="tulou-paho-") as folder:
            port = free_port()
            process = start(options.broker, Path(folder), port)
            try:
                found = results[version] = run(options.suite.resolve(), version, port, options.names)
            finally:
                process.terminate()
                process.wait(30)
        for name, (status, text) in found.items():
            if status != "ok":
                print(f"{status} {version} {name}: {text}")
        print(f"MQTT {version}: {sum(status == 'ok' for status, _ in found.values())} of {len(found)} passed")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
