"""Starting, stopping, being killed, and starting again."""

from __future__ import annotations

import re
import ssl
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import paho.mqtt.client as paho
import pytest

from .conftest import TULOU, Tulou, alive, eventually, rss_mib


def test_first_start_restart_and_kill(make_tulou: Callable[..., Tulou], record_property: Callable[..., None]) -> None:
    house = make_tulou()
    printed = house.start()
    first = house.seconds
    assert house.url in printed
    assert re.search(r"口令 \S+", printed)
    assert stat.S_IMODE(house.home.stat().st_mode) == 0o700

    device = house.device("WeatherStation")
    with house.client() as client:
        path = f"/api/v1/{device['token']}/telemetry"
        assert client.post(path, json={"temperature": 19.5}).status_code == 200
    memory = sum(map(rss_mib, house.pids()))
    assert house.stop() == 0
    assert not (house.home / "run.json").exists()

    # A restart keeps everything: people, devices, readings.
    printed = house.start()
    second = house.seconds
    with house.sign_in() as client:
        eventually(
            lambda: client.get(f"/api/v1/things/{device['no']}").json()["latest"]["temperature"]["value"] == 19.5
        )
    with house.client() as client:
        assert client.post(path, json={"temperature": 20.5}).status_code == 200

    # kill -9 of the main process leaves no child, and what was acknowledged is there after the next start.
    below = house.kill()
    assert below
    for _ in range(100):
        if not any(map(alive, below)):
            break
        time.sleep(0.1)
    assert [pid for pid in below if alive(pid)] == []
    house.start()
    with house.sign_in() as client:
        eventually(
            lambda: client.get(f"/api/v1/things/{device['no']}").json()["latest"]["temperature"]["value"] == 20.5
        )
        assert client.get("/api/v1/audit/verify").json()["ok"]
    print(f"\nfirst start {first:.1f} s, second {second:.1f} s, memory {memory:.0f} MiB (PSS, all processes, idle)")
    record_property("memory_mib", round(memory))


def test_two_houses_cannot_share_a_home(tulou: Tulou) -> None:
    refused = subprocess.run(
        [*TULOU, "up"],
        env=tulou.env, capture_output=True, text=True, timeout=60,
    )
    assert refused.returncode == 1
    assert "已有一座土楼" in refused.stderr


def test_wrong_settings_are_named(tmp_path: Path, make_tulou: Callable[..., Tulou]) -> None:
    house = make_tulou(http_port="eighty")
    with pytest.raises(AssertionError, match="http_port"):
        house.start()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A self-signed certificate for 127.0.0.1."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )
    return str(cert), str(key)


def test_tls_on_both_doors(make_tulou: Callable[..., Tulou], certificate: tuple[str, str]) -> None:
    cert, key = certificate
    house = make_tulou(tls_certificate=cert, tls_key=key)
    house.env["TULOU_MQTTS_PORT"] = str(house.mqtts_port)
    house.start()
    device = house.device("WeatherStation")
    answer = httpx.get(f"{house.url}/healthz", verify=ssl.create_default_context(cafile=cert), trust_env=False)
    assert answer.status_code == 200
    assert "strict-transport-security" in answer.headers

    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="tls")
    client.tls_set(ca_certs=cert)
    client.username_pw_set(device["token"])
    client.connect("127.0.0.1", house.mqtts_port)
    client.loop_start()
    message = client.publish("v1/devices/me/telemetry", '{"temperature": 12.5}', qos=1)
    message.wait_for_publish(10)
    assert message.is_published()
    client.disconnect()
    client.loop_stop()
    with house.sign_in() as session:
        path = f"/api/v1/things/{device['no']}"
        eventually(lambda: session.get(path).json()["latest"]["temperature"]["value"] == 12.5)
