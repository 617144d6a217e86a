"""An edge in a network namespace of its own, as `tulou edge` starts it, over TLS; the cable is pulled."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.access.test_edge import House, Pair, batch_of
from tests.access.test_gateway import certificate
from tests.e2e.conftest import PASSWORD, Tulou, eventually

HUB, EDGE, HERE, THERE = "10.231.77.1", "10.231.77.2", "10.231.78.1", "10.231.78.2"
"""The link between hub and edge, and another one by which the test looks at the edge."""
NAME = f"tulou{os.getpid()}"
CABLE, LOOK = f"up{os.getpid()}", f"lo{os.getpid()}"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def namespace() -> Iterator[str]:
    try:
        ip("netns", "add", NAME)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces are not allowed here: {error}")
    try:
        ip("-n", NAME, "link", "set", "lo", "up")
        for cable, mine, other in ((CABLE, HUB, EDGE), (LOOK, HERE, THERE)):
            ip("link", "add", cable, "type", "veth", "peer", "name", "there", "netns", NAME)
            ip("-n", NAME, "link", "set", "there", "name", cable)
            ip("addr", "add", f"{mine}/30", "dev", cable)
            ip("-n", NAME, "addr", "add", f"{other}/30", "dev", cable)
            ip("link", "set", cable, "up")
            ip("-n", NAME, "link", "set", cable, "up")
        yield NAME
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not allowed here: {error.stderr!r}")
    finally:
        for cable in (CABLE, LOOK):
            subprocess.run(["ip", "link", "del", cable], capture_output=True)
        ip("netns", "del", NAME)


@pytest.mark.slow
def test_a_pulled_cable(namespace: str, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, HUB)
    (tmp_path / "other").mkdir()
    stranger, _ = certificate(tmp_path / "other", HUB)
    hub = House.started(Tulou(
        tmp_path / "hub", admin_password=PASSWORD, bind="0.0.0.0", tls_certificate=str(cert), tls_key=str(key), mqtt_port="0",
    ))
    made = hub.post("/edges", {"org": "fuzhou", "name": "泵站"})
    (tmp_path / "token").write_text(made["token"] + "\n")
    small = Tulou(tmp_path / "at-edge", admin_password=PASSWORD, bind=THERE)
    small.inside = ["ip", "netns", "exec", namespace]
    small.command = ["edge", "--hub", f"https://{HUB}:{hub.tulou.http_port}", "--token-file", str(tmp_path / "token"), "--ca", str(stranger)]
    edge = House.started(small)
    try:
        pair = Pair(hub, edge, None, made["no"], made["token"])  # type: ignore[arg-type]
        device = edge.device("far")
        now = int(time.time() * 1000) - 600_000
        edge.say(device, *batch_of(now, 0, 3))

        def refused() -> bool:
            checks = {check["name"]: check for check in edge.get("/system")["checks"]}
            return "CERTIFICATE_VERIFY_FAILED" in checks["access.uplink"]["en"]

        eventually(refused)
        assert hub.get("/edges")["items"][0]["state"] == "new", "a hub whose certificate is another's is told nothing"
        small.stop()
        small.command[-1] = str(cert)
        small.start()
        edge.sign_in()
        pair.caught_up()

        ip("link", "set", CABLE, "down")
        edge.say(device, *batch_of(now + 60_000, 10, 50))
        command = hub.post("/devices/fuzhou:far/commands", {"method": "open", "expires_s": 120})
        eventually(lambda: len(edge.readings()) == edge.said)
        time.sleep(3)
        assert len(hub.readings()) == 3
        ip("link", "set", CABLE, "up")
        pair.caught_up(90)
        assert hub.frames() == edge.frames()
        polled = edge.client.get(f"/api/v1/{device['token']}/rpc", params={"timeout": 60_000}, timeout=90).json()
        assert polled["method"] == "open"
        edge.client.post(f"/api/v1/{device['token']}/rpc/{polled['id']}", json=1)
        assert hub.get(f"/commands/{command['no']}", wait=20)["state"] == "done"
        assert pair.row()["missed"] == 0
    finally:
        small.stop()
        hub.tulou.stop()
