"""A roll-out in a house that is killed with SIGKILL again and again: nobody is skipped, nobody is told too early."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from .conftest import Tulou, eventually

DEVICES = 60


def test_a_rollout_survives_kill_9(make_tulou: Callable[..., Tulou]) -> None:
    house = make_tulou()
    house.start()
    with house.sign_in() as client:
        items = [{"org": "fuzhou", "type": "AirQualityStation", "name": "站", "id": f"k-{n}"} for n in range(DEVICES)]
        made = client.post("/api/v1/devices/bulk", json={"items": items}).json()["items"]
        tokens = {device["id"]: device["token"] for device in made}
        where = {"org": "fuzhou", "type": "AirQualityStation", "title": "station", "version": "9"}
        package = client.post("/api/v1/firmware", params=where, content=b"x" * 100_000).json()
        gate = {"wait_s": 0, "updated_min": 100, "failed_max": 0, "silent_max": 100}
        rollout = client.post("/api/v1/rollouts", json={
            "firmware": package["no"], "name": "r", "stages": [{"percent": percent, **gate} for percent in (10, 50, 100)],
        }).json()
        assert client.post(f"/api/v1/rollouts/{rollout['no']}/start").status_code == 200
    at = f"/api/v1/rollouts/{rollout['no']}"
    updated: set[str] = set()
    for turn in itertools.count():
        with house.sign_in() as client:

            def told(client: Any = client) -> list[dict[str, Any]] | str:
                state = client.get(at).json()["state"]
                items = client.get(f"{at}/devices", params={"state": "told", "limit": 1000}).json()["items"]
                fresh: list[dict[str, Any]] = [item for item in items if item["device"] not in updated]
                return fresh or (state if state != "running" else [])

            found = eventually(told, 60)
            if isinstance(found, str):
                break
            for item in found:
                token = tokens[item["device"]]
                shared = client.get(f"/api/v1/{token}/attributes", params={"sharedKeys": "fw_version"}).json()["shared"]
                assert shared == {"fw_version": "9"}, "whoever is told has it in the shadow"
                assert len(client.get(f"/api/v1/{token}/firmware").content) == 100_000
                body = {"fw_state": "UPDATED", "current_fw_title": "station", "current_fw_version": "9"}
                assert client.post(f"/api/v1/{token}/telemetry", json=body).status_code == 200
                updated.add(item["device"])
        if turn < 3:
            house.kill()
            house.start()
    assert found == "done"
    assert updated == set(tokens)
    with house.sign_in() as client:
        items = client.get(f"{at}/devices", params={"limit": 1000}).json()["items"]
    assert {item["state"] for item in items} == {"updated"}
    assert {item["attempts"] for item in items} == {1}
    for stage in (2, 3):
        begun = min(item["told_at"] for item in items if item["stage"] == stage)
        assert begun >= max(item["ended_at"] for item in items if item["stage"] < stage)
