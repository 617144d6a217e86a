"""A device's reading becomes a target's number, through every part of the house that it really passes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as mqtt
import pytest

from tulou.app import Running
from tulou.kernel.bus import free_port
from tulou.kernel.settings import Settings

ROLES = ("gateway", "api", "writer", "rules", "worker")


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, int, Path]]:
    """A running house: a client of its HTTP port, its MQTT port, its home."""
    settings = Settings(home=tmp_path / "home", http_port=free_port(), mqtt_port=free_port())
    running = Running(settings, ROLES)
    try:
        await running.start()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.http_port}", trust_env=False) as client:
            client.headers["authorization"] = f"Bearer {running.house.local_token}"
            yield client, settings.mqtt_port, settings.home
    finally:
        await running.stop()


async def target(api: httpx.AsyncClient, key: str) -> dict[str, Any]:
    (await api.post("/api/v1/plan/measurements", params={"target": key})).raise_for_status()
    answer: dict[str, Any] = (await api.get(f"/api/v1/plan/targets/{key}")).json()
    return answer


async def device(api: httpx.AsyncClient, kind: str, name: str, **more: Any) -> dict[str, Any]:
    answer = await api.post("/api/v1/devices", json={"org": "fuzhou", "type": kind, "name": name, "id": name, **more})
    assert answer.status_code in (200, 201), answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_what_a_device_says_is_what_the_plan_shows(doors: tuple[httpx.AsyncClient, int, Path]) -> None:
    api, mqtt_port, home = doors
    assert (await target(api, "5g-stations"))["state"] == "no_data"
    real, fake = await device(api, "Site5G", "site-1"), await device(api, "Site5G", "site-2", synthetic=True)
    before = await target(api, "5g-stations")
    assert (before["state"], before["value"]) == ("measured", 0), "one real station is registered and silent"

    def publish(token: str) -> None:
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.username_pw_set(token)
        seen: list[str] = []
        client.on_log = lambda *what: seen.append(f"{time.monotonic():.1f} {what[-1]}")
        client.connect("127.0.0.1", mqtt_port)
        client.loop_start()
        sent = client.publish(
            "v1/devices/me/telemetry", json.dumps({"serviceState": "in_service", "activePower": 812.5}), qos=1
        )
        sent.wait_for_publish(60)  # of disks that are slow to sync; what is lost is not sent again by this client
        assert sent.is_published(), "\n".join([*seen, (home / "gateway.log").read_text()[-5000:]])
        client.disconnect()
        client.loop_stop()

    for one in (real, fake):
        await asyncio.to_thread(publish, one["token"])
    for _ in range(100):
        now = await target(api, "5g-stations")
        if now["value"]:
            break
        await asyncio.sleep(0.2)
    assert (now["state"], now["value"], now["met"]) == ("measured", 1, False), "the synthetic one never counts"
    assert now["trend"][-1][1] == 1
    assert (await target(api, "iot-terminals"))["value"] == 0.0001
    counts = (await api.get("/api/v1/overview")).json()["targets"]
    assert counts["total"] == 21
