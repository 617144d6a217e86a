"""The house split by roles over processes that share nothing but PostgreSQL and an external NATS, as on three machines.

The readings are in chDB, which one process opens: `api` and `writer` are one process here. Several of them need a
ClickHouse server, which these tests cannot start; that size is untested.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tulou.kernel.bus import die_with_parent, free_port, nats_server_binary
from tulou.kernel.settings import Settings

from .conftest import PASSWORD, TULOU, Tulou, alive, eventually
from .test_postgres import latest, live_value, publish, values

pytestmark = pytest.mark.postgres


class Nats:
    """A nats-server that no house started, with JetStream and a user."""

    def __init__(self, folder: Path) -> None:
        port, secret = free_port(), secrets.token_hex(8)
        self.folder = folder
        self.config = folder / "nats.conf"
        self.config.write_text(
            f'listen: "127.0.0.1:{port}"\nserver_name: "alone"\nmax_payload: 8388608\n'
            f'authorization {{ user: "house", password: "{secret}" }}\n'
            f'jetstream {{ store_dir: "{folder / "jetstream"}", sync_interval: always, max_file_store: 20000000000 }}\n'
        )
        self.url = f"nats://house:{secret}@127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        with (self.folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(
                [nats_server_binary(Settings()), "-c", self.config], stdout=log, stderr=log, preexec_fn=die_with_parent
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    """An external nats-server."""
    server = Nats(tmp_path)
    yield server
    server.kill()


@dataclass
class Parts:
    """The processes of one house."""

    gateway: Tulou
    api: Tulou
    rules: Tulou

    def __iter__(self) -> Iterator[Tulou]:
        return iter((self.api, self.rules, self.gateway))


@pytest.fixture
def parts(make_tulou: Callable[..., Tulou], new_postgres: Callable[[], str], nats: Nats) -> Parts:
    """Started processes, all at the same moment: whoever comes first makes the tables."""
    common = {"database_url": new_postgres(), "nats_url": nats.url, "admin_password": PASSWORD}
    made = Parts(
        gateway=make_tulou("gateway", **common), api=make_tulou("api,writer", **common),
        rules=make_tulou("rules,worker", **common),
    )
    with ThreadPoolExecutor() as pool:
        list(pool.map(Tulou.start, made))
    return made


def test_the_spine_over_three_processes(parts: Parts) -> None:
    device = parts.api.device("WeatherStation")
    manhole = parts.api.device("Manhole")
    publish(parts.gateway.mqtt_port, device["token"], {"temperature": 23.5})
    with parts.api.sign_in() as client:
        as_tenant = {"NGSILD-Tenant": device["org"]}
        ngsi = f"/ngsi-ld/v1/entities/{device['entity_id']}"
        eventually(
            lambda: client.get(ngsi, params={"options": "keyValues"}, headers=as_tenant).json()["temperature"] == 23.5
        )
        eventually(lambda: values(client, device["no"], "temperature") == [23.5])
        live_value(parts.gateway, client, device, 24.5)

        # The rules of another process raise an alarm, and this one shows it.
        publish(parts.gateway.mqtt_port, manhole["token"], {"tilt": 40})
        found = eventually(lambda: client.get("/api/v1/alarms", params={"state": "open"}).json()["items"])
        assert [(a["no"], a["property"]) for a in found] == [(manhole["no"], "tilt")]

        # A device that is made, disabled or given another token is known to the gateway at once.
        fresh = parts.api.device("Manhole", name="新井盖")
        publish(parts.gateway.mqtt_port, fresh["token"], {"batteryLevel": 80})
        eventually(lambda: latest(client, fresh["no"], "batteryLevel") == 80)
        turned = client.post(f"/api/v1/devices/{fresh['id']}/token")
        assert turned.status_code in (200, 201), turned.text
        with pytest.raises((AssertionError, RuntimeError, ValueError)):
            publish(parts.gateway.mqtt_port, fresh["token"], {"batteryLevel": 79})
        publish(parts.gateway.mqtt_port, turned.json()["token"], {"batteryLevel": 78})
        eventually(lambda: latest(client, fresh["no"], "batteryLevel") == 78)

        # A job is taken by the worker of another process.
        assert client.get("/api/v1/jobs").status_code == 200
        checks = {c["name"]: c for c in client.get("/api/v1/system").json()["checks"]}
        assert checks["kernel.bus"]["ok"], checks
        eventually(lambda: client.get("/api/v1/system").json()["ingest"]["accepted"] >= 4)
        eventually(lambda: client.get("/api/v1/things", params={"q": "新井盖"}).json()["items"][0]["state"] == "ok")


def test_the_command_line_in_each_home(parts: Parts) -> None:
    """`tulou` beside the process with the API asks it; beside the others it says so and opens nothing twice."""
    assert parts.api.json("audit", "verify")["ok"]
    for part in (parts.gateway, parts.rules):
        refused = subprocess.run([*TULOU, "status"], env=part.env, capture_output=True, text=True, timeout=60)
        assert refused.returncode == 3
        assert "api" in refused.stderr


@pytest.mark.parametrize("missing", ["nats_url", "database_url"])
def test_a_part_of_a_house_needs_the_stores_of_the_whole(make_tulou: Callable[..., Tulou], missing: str) -> None:
    """A gateway with a bus or tables of its own would acknowledge what nobody ever stores."""
    given = {"nats_url": "nats://127.0.0.1:1", "database_url": "postgresql://127.0.0.1:1/x"}
    del given[missing]
    part = make_tulou("gateway", **given)
    refused = subprocess.run([*TULOU, "up", "--role", "gateway"], env=part.env, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert missing in refused.stderr
    assert not part.home.exists()


@pytest.mark.parametrize("which", ["gateway", "api", "rules"])
def test_one_process_killed_and_started_again_loses_nothing(parts: Parts, which: str) -> None:
    device, manhole = parts.api.device("WeatherStation"), parts.api.device("Manhole")
    base = int(time.time() * 1000)

    def send(first: int) -> None:
        publish(
            parts.gateway.mqtt_port, device["token"],
            *({"ts": base + n, "values": {"temperature": n / 10}} for n in range(first, first + 200)),
        )

    send(0)
    struck: Tulou = getattr(parts, which)
    below = struck.kill()
    eventually(lambda: not any(map(alive, below)))
    if which != "gateway":
        send(200)  # acknowledged while the other is away
        publish(parts.gateway.mqtt_port, manhole["token"], {"tilt": 40})
    struck.start()
    send(400)
    expected = [n / 10 for n in range(600) if which != "gateway" or not 200 <= n < 400]
    with parts.api.sign_in() as client:
        eventually(lambda: len(values(client, device["no"], "temperature")) >= len(expected))
        assert values(client, device["no"], "temperature") == expected
        eventually(lambda: latest(client, device["no"], "temperature") == 59.9)
        assert client.get("/api/v1/audit/verify").json()["ok"]
        if which != "gateway":
            found = eventually(lambda: client.get("/api/v1/alarms", params={"state": "open"}).json()["items"])
            assert [(a["no"], a["property"]) for a in found] == [(manhole["no"], "tilt")]
    for part in parts:
        assert part.stop() == 0


def test_the_bus_killed_and_started_again_loses_nothing(parts: Parts, nats: Nats) -> None:
    """Without the bus nothing is acknowledged; when it is back, the same message is, and every part goes on."""
    device, manhole = parts.api.device("WeatherStation"), parts.api.device("Manhole")
    base = int(time.time() * 1000)
    publish(parts.gateway.mqtt_port, device["token"], {"ts": base, "values": {"temperature": 1}})
    nats.kill()
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(
            publish, parts.gateway.mqtt_port, device["token"], {"ts": base + 1, "values": {"temperature": 2}}
        )
        time.sleep(1)
        assert not waits.done()
        nats.start()
        waits.result()
    publish(parts.gateway.mqtt_port, manhole["token"], {"tilt": 40})
    with parts.api.sign_in() as client:
        eventually(lambda: values(client, device["no"], "temperature") == [1, 2])
        eventually(lambda: client.get("/api/v1/alarms", params={"state": "open"}).json()["items"])
        live_value(parts.gateway, client, device, 24.5)
