"""The house as a user starts it: `tulou up` in its own process, with a fresh home and free ports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tulou.kernel.bus import free_port

ROOT = Path(__file__).parents[2]
PASSWORD = "a-house-of-rammed-earth-1308"
TULOU = [sys.executable, "-m", "tulou"]


def descendants(pid: int) -> list[int]:
    """Every living process below `pid` (Linux)."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def rss_mib(pid: int) -> float:
    """Resident memory in MiB, shared pages counted by share where the kernel says so."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1]) / 1024  # type: ignore[index]


class Tulou:
    """A `tulou up` of its own, with every role or some (`gateway,api`)."""

    def __init__(self, home: Path, roles: str = "", **settings: str) -> None:
        self.home = home
        self.roles = roles
        self.http_port, self.mqtt_port, self.mqtts_port = (free_port() for _ in range(3))
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("TULOU_")} | {
            "TULOU_HOME": str(home),
            "TULOU_HTTP_PORT": str(self.http_port),
            "TULOU_MQTT_PORT": str(self.mqtt_port),
            "TULOU_LANG": "zh",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])),
            **{f"TULOU_{key.upper()}": value for key, value in settings.items()},
        }
        self.secure = "tls_certificate" in settings
        host = "127.0.0.1" if settings.get("bind", "0.0.0.0") == "0.0.0.0" else settings["bind"]
        self.url = f"http{'s' if self.secure else ''}://{host}:{self.http_port}"
        self.command = ["up", *(["--role", roles] if roles else [])]
        self.inside: list[str] = []
        """What runs the command: nothing, or `ip netns exec ..`."""
        self.process: subprocess.Popen[bytes] | None = None
        self.seconds = 0.0

    def start(self, limit: float = 120) -> str:
        """Start and wait until it says that it is ready; returns what it printed."""
        began = time.monotonic()
        log, printed = (self.home.parent / f"{self.home.name}.{kind}" for kind in ("log", "out"))
        with log.open("a") as errors, printed.open("w") as output:
            self.process = subprocess.Popen(
                [*self.inside, *TULOU, *self.command],
                env=self.env, stdout=output, stderr=errors, cwd=self.home.parent,
            )
        while not printed.read_text().endswith("\n"):  # all of it is printed at once
            assert self.process.poll() is None, f"tulou up ended with {self.process.returncode}: {log.read_text()}"
            assert time.monotonic() - began < limit, f"not ready: {printed.read_text()} {log.read_text()}"
            time.sleep(0.02)
        self.seconds = time.monotonic() - began
        return printed.read_text()

    def stop(self) -> int:
        """Ctrl-C; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def kill(self) -> list[int]:
        """SIGKILL to the main process alone; returns the processes that were below it."""
        assert self.process is not None
        below = descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        return below

    def pids(self) -> list[int]:
        assert self.process is not None
        return [self.process.pid, *descendants(self.process.pid)]

    def run(self, *arguments: str, check: bool = True) -> str:
        """What `tulou ...` prints."""
        done = subprocess.run([*TULOU, *arguments], env=self.env, capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, f"{arguments}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run("--json", *arguments))

    def client(self, **kwargs: Any) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"x-tulou": "1"}, timeout=30, trust_env=False, verify=False, **kwargs
        )

    @contextmanager
    def sign_in(self, password: str = PASSWORD) -> Iterator[httpx.Client]:
        """A browser's session of the administrator; the first sign-in changes the printed password."""
        with self.client() as client:
            self._sign_in(client, password)
            yield client

    def _sign_in(self, client: httpx.Client, password: str) -> None:
        answer = client.post("/api/v1/session", json={"name": "admin", "password": password})
        if answer.status_code == 401 and (self.home / "first-password").is_file():
            first = (self.home / "first-password").read_text().strip()
            answer = client.post("/api/v1/session", json={"name": "admin", "password": first})
            assert answer.json()["user"]["must_change_password"]
            changed = client.post("/api/v1/session/password", json={"old": first, "new": password})
            assert changed.status_code == 204, changed.text
        assert answer.status_code == 200, answer.text

    def device(self, kind: str, org: str = "fuzhou", **more: Any) -> dict[str, Any]:
        """A new device with its token."""
        with self.sign_in() as client:
            answer = client.post(
                "/api/v1/devices",
                json={"org": org, "type": kind, "name": "测试站", "lon": 119.3, "lat": 26.08, **more},
            )
        assert answer.status_code in (200, 201), answer.text
        return dict(answer.json())


def eventually(check: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true result of `check`, asked again until `seconds` have passed."""
    last: Exception | None = None
    began = time.monotonic()
    while True:
        try:
            if result := check():
                return result
        except (AssertionError, LookupError, ValueError) as error:
            last = error
        if time.monotonic() - began > seconds:
            raise AssertionError(f"not within {seconds} s; {last!r}")
        time.sleep(0.05)


@pytest.fixture(scope="module")
def tulou(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tulou]:
    """One house that the tests share."""
    house = Tulou(tmp_path_factory.mktemp("e2e") / "home")
    house.start()
    yield house
    house.stop()


@pytest.fixture
def make_tulou(tmp_path: Path) -> Iterator[Callable[..., Tulou]]:
    """Houses of a test's own; all of them end with it."""
    made: list[Tulou] = []

    def make(roles: str = "", **settings: str) -> Tulou:
        made.append(Tulou(tmp_path / f"home{len(made)}", roles, **settings))
        return made[-1]

    yield make
    for house in made:
        if house.process is not None and house.process.poll() is None:
            house.stop()
