"""A house with packs: it starts whatever they are, says why one is left out, and has no trace of one that was removed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from tests.access.conftest import Estate, eventually
from tests.kernel.conftest import Connect, Persons, connect, persons  # noqa: F401
from tests.packs.conftest import HOUSE, Make
from tulou.access.rules.service import Rules
from tulou.app import Front
from tulou.cli import main
from tulou.kernel import plugins as kernel_plugins
from tulou.kernel.audit import audit_log
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.packs.register import PackRegister
from tulou.kernel.policy import Actor
from tulou.kernel.settings import Settings
from tulou.kernel.system import System
from tulou.kernel.workflows import Workflows

WORKFLOW = {"mend": {
    "label": {"zh": "修理", "en": "Mend"}, "create": ["operator"], "initial": "new",
    "states": {"new": {"label": {"zh": "新", "en": "New"}}, "done": {"label": {"zh": "完", "en": "Done"}, "final": True}},
    "transitions": {"close": {"label": {"zh": "完成", "en": "Close"}, "source": ["new"], "target": "done", "roles": ["operator"]}},
}}
RULE = {"name": "scorched", "label": {"zh": "烤焦", "en": "Scorched"}, "type": "FieldDevice",
        "condition": {"kind": "threshold", "property": "temperature", "above": 90}}


def tulou(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--json", *words], env={"TULOU_HOME": str(home), "TULOU_LANG": "en"})


def answer(home: Path, *words: str) -> Any:
    result = tulou(home, *words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def settings(home: Path, **more: Any) -> Settings:
    return Settings(home=home, http_port=free_port(), mqtt_port=0, **more)


async def test_a_house_with_broken_packs_starts_and_says_why(
    tmp_path: Path, make: Make, admin: Actor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    broken = {
        "yaml": make("yaml"), "name": make("name", label={"zh": "甲"}), "type": make("type", models={"Device": {"label": {"zh": "甲", "en": "A"}}}),
        "needs": make("needs", requires={"none": ""}), "rule": make("rule", models=None, examples=None, rules=[{**RULE, "type": "None"}]),
        "flow": make("flow", models=None, examples=None, workflows={"x": {**WORKFLOW["mend"], "initial": "lost"}}),
        "term": make("term", models={"A": {"label": {"zh": "甲", "en": "A"}, "properties": {"temperature": {"label": {"zh": "甲", "en": "A"}}}}}, examples=None),
        "supervision": make("supervision", models=None, examples=None, organisations=[{"id": "xx", "label": {"zh": "甲", "en": "A"}, "kind": "city", "parent": "yy"}]),
    }
    (broken["yaml"] / "pack.yaml").write_text("name: [\n", "utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    gone = EntryPoint("gone", "tulou_nothing_of_this_name.hooks", "tulou")
    monkeypatch.setattr(kernel_plugins, "_installed", lambda: (gone,))
    good = make("good", workflows=WORKFLOW)
    house = House(settings(home, packs=":".join(map(str, [*broken.values(), empty, tmp_path / "nowhere", good]))))
    await house.start((), bus=False)
    try:
        assert {one.name for one in house.packs.left_out} == {*broken, "empty", "nowhere", "gone"}
        assert "good" in house.packs.packs
        (check,) = [one for one in await house.service(System).checks() if one["name"] == "packs"]
        assert check["ok"] is False
        for name in broken:
            assert f"{name}: " in check["en"], check
        assert "pack needs is left out" in caplog.text
        found = (await house.service(PackRegister).find(admin))["items"]
        assert {one["name"]: one["state"] for one in found} == {
            **dict.fromkeys(HOUSE.packs, "works"), "good": "works", **{one.name: "left_out" for one in house.packs.left_out}}
        shown = await house.service(PackRegister).get(admin, "term")
        assert [(one["file"], one["place"]) for one in shown["problems"]] == [("pack.yaml", "models.A.properties.temperature")]
        assert "mend" in {one["name"] for one in await house.service(Workflows).workflows(admin)}
    finally:
        await house.stop()


async def test_packs_over_http(persons: Persons, connect: Connect) -> None:  # noqa: F811
    li = await persons.sign_in("li", "xiamen", ("xiamen", "viewer", False))
    packs = (await li.get("/api/v1/packs")).json()["items"]
    assert [(one["name"], one["state"], one["source"]) for one in packs] == [(name, "works", "house") for name in HOUSE.packs]
    base = (await li.get("/api/v1/packs/base")).json()
    assert {"type": "Device", "label": {"zh": "通用设备", "en": "Device"}, "properties": 3, "entities": 0} in base["models"]
    assert base["missing"]
    assert (await li.get("/api/v1/packs/schema")).json()["$schema"].endswith("2020-12/schema")
    assert (await li.get("/api/v1/packs/none")).status_code == 404
    for path in ("", "/base", "/schema"):
        assert (await connect().get(f"/api/v1/packs{path}")).status_code == 401


def paths(app: Front) -> set[str]:
    return {route.path for route in app.router.routes} | {prefix for prefix, _ in app.doors}  # type: ignore[attr-defined]


@pytest.mark.slow
async def test_a_pack_that_is_removed_leaves_no_trace(tmp_path: Path, make: Make) -> None:
    home, folder = tmp_path / "home", make("field", rules=[RULE], workflows=WORKFLOW)
    async with Estate.opened(House(settings(home))) as without:
        bare = paths(without.app)
        lin = await without.person("lin", "fuzhou", "operator")
        context = (await lin.get("http://house/ngsi-ld/contexts/tulou.jsonld")).text
        assert (await lin.post("/devices", json={"org": "fuzhou", "type": "FieldDevice", "name": "x"})).status_code == 400
    assert answer(home, "pack", "install", str(folder))["installed"] is True

    async def entity(client: httpx.AsyncClient, id: str) -> httpx.Response:
        return await client.get(f"http://house/ngsi-ld/v1/entities/{id}", params={"options": "keyValues"}, headers={"NGSILD-Tenant": "fuzhou"})

    async def says(client: httpx.AsyncClient, id: str, value: float) -> bool:
        return bool((await entity(client, id)).json().get("temperature") == value)

    async with Estate.opened(House(settings(home))) as estate:
        lin = await estate.person("lin2", "fuzhou", "operator")
        made = await estate.device(lin, "fuzhou", "f-1", type="FieldDevice")
        device = estate.client()
        assert (await device.post(f"/{made['token']}/telemetry", json={"temperature": 95})).status_code == 200

        async def raised() -> bool:
            return {one["rule"] for one in (await lin.get("/alarms?state=open")).json()["items"]} == {"above", "scorched"}

        await eventually(raised)
        assert (await lin.get("/packs/field")).json()["models"][0]["entities"] == 1
        assert "FieldDevice" in (await lin.get("http://house/ngsi-ld/contexts/tulou.jsonld")).text
        await eventually(lambda: says(lin, made["entity_id"], 95))
    removed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "tulou", "--json", "pack", "remove", "field"], env={**os.environ, "TULOU_HOME": str(home)},
        capture_output=True, text=True,
    )
    assert removed.returncode == 0, removed.stdout + removed.stderr
    gone = json.loads(removed.stdout)
    assert gone["entities"] == {"FieldDevice": 1}

    async with Estate.opened(House(settings(home))) as after:
        lin = await after.person("lin3", "fuzhou", "operator")
        assert paths(after.app) == bare
        assert (await lin.get("http://house/ngsi-ld/contexts/tulou.jsonld")).text == context
        for path in ("/packs", "/rules", "/workflows", "/models"):
            told = await lin.get(path)
            assert told.status_code == 200, path
            for word in ("field", "FieldDevice", "scorched", "mend"):
                assert f'"{word}"' not in told.text, (path, word)
        assert (await lin.get("/packs/field")).status_code == 404
        assert not [rule for rule in after.house.service(Rules).declared if rule.type == "FieldDevice"]
        assert (await lin.post("/devices", json={"org": "fuzhou", "type": "FieldDevice", "name": "x"})).status_code == 400
        rows = await after.house.db.read(lambda c: c.execute(
            sa.select(audit_log.c.subject, audit_log.c.detail).where(audit_log.c.action == "packs.pack.manage").order_by(audit_log.c.seq)).all())
        assert [(subject, json.loads(detail)["change"]) for subject, detail in rows] == [("pack:field", "installed"), ("pack:field", "removed")]
        kept = (await entity(lin, made["entity_id"])).json()  # it stays, as data under no model
        assert (kept["type"], kept["temperature"]) == ("FieldDevice", 95)
        device = after.client()
        assert (await device.post(f"/{made['token']}/telemetry", json={"temperature": 999, "anything": 1})).status_code == 200

        await eventually(lambda: says(lin, made["entity_id"], 999))


def test_the_command_says_every_problem(tmp_path: Path, make: Make) -> None:
    home = tmp_path / "home"
    folder = make("field", label={"zh": "甲"}, bogus=1)
    result = tulou(home, "pack", "check", str(folder))
    said = json.loads(result.stdout)
    assert (result.exit_code, said["ok"]) == (1, False)
    assert {one["place"] for one in said["problems"]} == {"label.en", "bogus"}
    plain = CliRunner().invoke(main, ["pack", "check", str(folder)], env={"TULOU_HOME": str(home), "TULOU_LANG": "zh"})
    assert f"{folder}/pack.yaml:" in plain.output
    assert "bogus: 没有此项" in plain.output
    assert tulou(home, "pack", "install", str(folder)).exit_code == 1
    assert {one["name"] for one in answer(home, "pack", "list")} == set(HOUSE.packs)
    assert tulou(home, "pack", "check", "no-such-pack").exit_code == 1
    assert tulou(home, "pack", "new", "No Name", "--within", str(tmp_path)).exit_code == 1
    assert tulou(home, "pack", "new", "field", "--within", str(tmp_path)).exit_code == 1
