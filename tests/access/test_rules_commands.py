"""`tulou rule` as a user types it, and rules that a pack declares."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.access.test_devices_commands import Tulou, tulou  # noqa: F401
from tulou.access.directory import Directory
from tulou.access.rules.models import Expression
from tulou.access.rules.service import Rules
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

FLOODED = {
    "name": "flooded", "label": {"zh": "积水", "en": "Flooded"}, "type": "Manhole", "severity": "critical", "escalate_s": 600,
    "condition": {"kind": "expression", "raise_if": "tilt > 15 and waterLevel > 1", "for_s": 60},
}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_rule_from_the_command_line(tulou: Tulou) -> None:  # noqa: F811
    made = await tulou(
        "rule", "create", "--org", "fuzhou", "--name", "热", "--type", "WeatherStation", "--severity", "minor",
        "--condition", '{"kind":"threshold","property":"temperature","above":40}',
    )
    assert (made["version"], made["severity"]) == (1, "minor")
    assert [r["name"] for r in (await tulou("rule", "list", "--org", "fuzhou"))["items"]] == ["热"]
    told = await tulou("rule", "test", str(made["id"]), "--from", "2026-11-26T00:00:00Z", "--to", "2026-11-27T00:00:00Z")
    assert told == {"readings": 0, "raised": 0, "cleared": 0, "changes": []}
    await tulou("rule", "create", "--org", "fuzhou", "--name", "x", "--type", "Manhole", "--condition", "{", code=2)
    await tulou("rule", "delete", str(made["id"]))
    await tulou("rule", "delete", str(made["id"]), code=1)


def rules_of(folder: Path, *rules: dict[str, object]) -> Rules:
    folder.mkdir(exist_ok=True)
    (folder / "pack.yaml").write_text(
        "name: more\nversion: '1'\nlabel: {zh: 更多, en: More}\nrules: rules.yaml\n", "utf-8"
    )
    (folder / "rules.yaml").write_text(yaml.safe_dump(list(rules), allow_unicode=True), "utf-8")
    house = House(Settings(home=folder / "home", packs=str(folder)))
    return Rules(house, Directory(house))


def test_a_pack_declares_rules(tmp_path: Path) -> None:
    (found,) = [rule for rule in rules_of(tmp_path, FLOODED).declared if rule.key == "flooded"]
    assert (found.org, found.title, found.severity, found.escalate_s) == (None, "积水 Flooded", "critical", 600)
    assert found.condition == Expression(kind="expression", raise_if="tilt > 15 and waterLevel > 1", for_s=60)


@pytest.mark.parametrize(("change", "place"), [
    ({"name": "above"}, "above.name"), ({"name": "rule-7"}, "rule-7.name"), ({"name": "Flooded"}, "Flooded.name"),
    ({"type": "Nothing"}, "flooded.type"), ({"more": 1}, "flooded.more"),
    ({"condition": {"kind": "expression", "raise_if": "tilt > 15 and nothing > 1"}}, "flooded.condition"),
    ({"condition": {"kind": "expression", "raise_if": "tilt >"}}, "flooded.condition.raise_if"),
    ({"condition": {"kind": "threshold", "property": "tilt"}}, "flooded.condition"),
])
def test_a_pack_with_a_rule_that_cannot_be_evaluated_is_left_out(tmp_path: Path, change: dict[str, object], place: str) -> None:
    service = rules_of(tmp_path, {**FLOODED, **change})
    assert not [rule for rule in service.declared if rule.title]
    (out,) = service.house.packs.left_out
    (problem,) = out.problems
    assert (out.name, problem.file, problem.place) == ("more", "rules.yaml", place)
    text = (tmp_path / "rules.yaml").read_text("utf-8").splitlines()
    assert text[problem.line - 1][problem.column - 1 :].startswith(
        ("more", "kind", str(change.get(place.rpartition(".")[2], "tilt >"))[:20], "'tilt")), text[problem.line - 1]
