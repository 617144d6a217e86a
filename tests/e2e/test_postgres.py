"""The whole house on PostgreSQL, as a user starts it: the spine, the doctor, a backup, a restart and a kill."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import httpx
import paho.mqtt.client as paho
import psycopg
import pytest

from .conftest import PASSWORD, Tulou, alive, eventually
from .test_spine import seen_everywhere

TELEMETRY = "v1/devices/me/telemetry"

pytestmark = pytest.mark.postgres


def publish(port: int, token: str, *bodies: Any) -> None:
    """Send over paho at QoS 1 and wait for every PUBACK."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"pg-{time.monotonic_ns()}")
    client.username_pw_set(token)
    client.connect("127.0.0.1", port)
    client.loop_start()
    sent = [client.publish(TELEMETRY, json.dumps(body), qos=1) for body in bodies]
    for message in sent:
        message.wait_for_publish(20)
        assert message.is_published()
    client.disconnect()
    client.loop_stop()


def values(client: httpx.Client, no: int, name: str) -> list[float]:
    """What SQL over the readings says, oldest first."""
    query = f"SELECT value FROM readings WHERE entity = {no} AND property = '{name}' ORDER BY ts"
    answer = client.post("/api/v1/readings/sql", json={"sql": query})
    assert answer.status_code == 200, answer.text
    return [row[0] for row in answer.json()["rows"]]


def latest(client: httpx.Client, no: int, name: str) -> Any:
    return client.get(f"/api/v1/things/{no}").json()["latest"][name]["value"]


def live_value(house: Tulou, client: httpx.Client, device: dict[str, Any], value: float) -> None:
    """A page that listens to `/api/v1/live` sees the value that is published meanwhile."""
    with client.stream("GET", "/api/v1/live", timeout=20) as answer:
        lines = answer.iter_lines()
        assert any(line.startswith("event: counters") for line in lines)
        publish(house.mqtt_port, device["token"], {"temperature": value})
        for line in lines:
            if line.startswith("data: [") and any(
                item["no"] == device["no"] and item["value"] == value for item in json.loads(line[6:])
            ):
                return
    raise AssertionError("the live stream ended")


def test_the_house_on_postgresql(make_tulou: Callable[..., Tulou], new_postgres: Callable[[], str]) -> None:
    database = new_postgres()
    house = make_tulou(database_url=database)
    house.start()
    assert not (house.home / "tulou.db").exists()
    device = house.device("WeatherStation")
    manhole = house.device("Manhole")

    # mosquitto_pub's reading is at every door.
    if shutil.which("mosquitto_pub"):
        subprocess.run(
            ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(house.mqtt_port), "-q", "1", "-u", device["token"],
             "-t", TELEMETRY, "-m", '{"temperature": 23.5}'], check=True, timeout=20,
        )
    else:
        publish(house.mqtt_port, device["token"], {"temperature": 23.5})
    seen_everywhere(house, device, "temperature", 23.5)
    with house.sign_in() as client:
        as_tenant = {"NGSILD-Tenant": device["org"]}
        live_value(house, client, device, 24.5)

        # NGSI-LD writes, a query compiled for PostgreSQL, the plan and an alarm.
        made = client.post(
            "/ngsi-ld/v1/entities", headers=as_tenant,
            json={"id": "urn:ngsi-ld:ParkingSpot:1", "type": "ParkingSpot", "free": {"type": "Property", "value": 7}},
        )
        assert made.status_code == 201, made.text
        found = client.get("/ngsi-ld/v1/entities", params={"type": "ParkingSpot", "q": "free>5"}, headers=as_tenant)
        assert [entity["id"] for entity in found.json()] == ["urn:ngsi-ld:ParkingSpot:1"]
        measured = client.post("/api/v1/plan/measurements", params={"target": "iot-terminals"})
        assert measured.status_code < 300, measured.text
        assert client.get("/api/v1/plan/targets/iot-terminals").json()["state"] == "measured"
        publish(house.mqtt_port, manhole["token"], {"tilt": 40})
        found = eventually(lambda: client.get("/api/v1/alarms", params={"state": "open"}).json()["items"])
        assert [(alarm["no"], alarm["property"]) for alarm in found] == [(manhole["no"], "tilt")]
        pages = [
            "overview", "map", "things", "devices", "dead-letters", "plan/targets", "plan/score", "orgs", "users",
            "tokens", "audit", "jobs", "system",
        ]
        wrong = {p: r.text for p in pages if (r := client.get(f"/api/v1/{p}")).status_code != 200}
        assert wrong == {}
        assert client.get("/api/v1/system").json()["sql"]["dialect"] == "postgresql"

        # PostgreSQL ends every connection, as a restart of it does: nobody notices.
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        for n in range(5):
            changed = client.patch(
                "/ngsi-ld/v1/entities/urn:ngsi-ld:ParkingSpot:1/attrs", headers=as_tenant,
                json={"free": {"type": "Property", "value": n}},
            )
            assert changed.status_code == 204, changed.text
            assert client.get("/api/v1/orgs").status_code == 200

    # The command line, by the running house.
    findings = json.loads(house.run("--json", "doctor", check=False))
    assert [f for f in findings if not f["ok"] and f["name"] not in ("disk", "kernel.disk", "console", "files")] == []
    assert next(f for f in findings if f["name"] == "kernel.sql")["en"].startswith("postgresql")
    assert house.json("audit", "verify")["ok"]

    # A backup of the running house, restored into another database, answers the same.
    backup = house.home.parent / "house.tar"
    house.run("backup", str(backup))
    other = make_tulou(database_url=new_postgres())
    other.run("restore", str(backup), "--home", str(other.home))
    other.start()
    with other.sign_in() as client:
        eventually(lambda: values(client, device["no"], "temperature") == [23.5, 24.5])
        assert latest(client, device["no"], "temperature") == 24.5
        assert client.get("/api/v1/audit/verify").json()["ok"]
    publish(other.mqtt_port, device["token"], {"temperature": 25.5})
    assert other.stop() == 0

    # A restart keeps everything.
    assert house.stop() == 0
    house.start()
    with house.sign_in() as client:
        assert latest(client, device["no"], "temperature") == 24.5
        publish(house.mqtt_port, device["token"], {"temperature": 26.5})
        eventually(lambda: values(client, device["no"], "temperature") == [23.5, 24.5, 26.5])
        assert client.get("/api/v1/audit/verify").json()["ok"]


def test_kill_9_on_postgresql_loses_nothing_acknowledged(
    make_tulou: Callable[..., Tulou], new_postgres: Callable[[], str]
) -> None:
    house = make_tulou(database_url=new_postgres(), admin_password=PASSWORD)
    house.start()
    device = house.device("WeatherStation")
    base = int(time.time() * 1000)
    for blow in range(3):
        numbers = range(blow * 200, blow * 200 + 200)
        publish(
            house.mqtt_port, device["token"],
            *({"ts": base + number, "values": {"temperature": number / 10}} for number in numbers),
        )
        below = house.kill()
        eventually(lambda below=below: not any(map(alive, below)))
        house.start()
    with house.sign_in() as client:
        eventually(lambda: len(values(client, device["no"], "temperature")) == 600)
        assert values(client, device["no"], "temperature") == [number / 10 for number in range(600)]
        eventually(lambda: latest(client, device["no"], "temperature") == 59.9)


def test_a_secret_of_the_database_is_not_shown(
    make_tulou: Callable[..., Tulou], new_postgres: Callable[[], str]
) -> None:
    """The password of the address is in no answer, log or run file."""
    url = new_postgres()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE house LOGIN SUPERUSER PASSWORD 'earth-wall-77'")
    house = make_tulou(database_url=url.replace("tulou@", "house:earth-wall-77@"))
    house.start()
    try:
        with house.sign_in() as client:
            shown = client.get("/api/v1/system").text + house.run("--json", "config", "show")
        files = [path for path in house.home.parent.rglob("*") if path.is_file() and path.suffix in (".log", ".json", ".out")]
        assert "earth-wall-77" not in shown
        assert [path for path in files if b"earth-wall-77" in path.read_bytes()] == []
    finally:
        house.stop()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("REASSIGN OWNED BY house TO tulou")
            connection.execute("DROP OWNED BY house")
            connection.execute("DROP ROLE house")
