"""The plan's data: what the plan names is all there, once, and bad data is refused by name."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tulou.kernel.errors import Invalid
from tulou.kernel.packs import Packs
from tulou.kernel.plugins import plugins, read_packs
from tulou.packs.hooks import packs as folders
from tulou.plan.document import Plan, load_plan

PACKS = read_packs(plugins())
PLAN = load_plan(PACKS)

SYSTEMS = {
    "N1": 8, "N2": 6, "N3": 3, "N4": 10, "T1": 5, "T2": 7, "C1": 6, "C2": 1, "C3": 3, "S1": 4, "S2": 4, "S3": 4,
    "F1": 4, "F2": 7, "F3": 7, "F4": 5, "F5": 5, "F6": 7, "F7": 3, "F8": 4, "F9": 4, "P1": 1, "P2": 1, "P3": 2, "P4": 5,
}  # fmt: skip
"""Systems named in each task of the plan, in its order."""

LEADS = {
    "N1": "txglj", "N2": "fgw szb", "N3": "gxt", "N4": "fgw szb gfkgb", "T1": "fgw szb", "T2": "fgw szb",
    "C1": "fgw szb", "C2": "txglj", "C3": "fgw szb", "S1": "wxb", "S2": "wxb", "S3": "mmglj fgw szb", "F1": "nynct",
    "F2": "zjt fgw szb", "F3": "jtt", "F4": "fgw gxt", "F5": "jyt", "F6": "wjw", "F7": "sthjt", "F8": "hyyyj",
    "F9": "gdj", "P1": "fgw kjt", "P2": "kjt fgw", "P3": "fgw szb", "P4": "fgw szb",
}  # fmt: skip
"""Lead agencies by the plan's annex, in its order."""

GOALS = {
    "5g-stations": 80_000, "gigabit-access": 1, "egress-bandwidth": 40, "ipv6-users": 60, "sensing-nodes": 10_000_000,
    "iot-platforms": 50, "iot-terminals": 5_000, "national-iot-platforms": 3, "industrial-identifiers": 1,
    "provincial-industrial-platforms": 10, "national-industrial-platforms": 3, "5g-ai-projects": 100,
    "blockchain-applications": 100, "racks-in-use": 100_000, "government-clouds": 11, "computing-power": 1,
    "smart-city-zones": 10, "smart-communities": 15, "energy-demonstrations": 10, "internet-hospitals": 20,
    "public-data-system": 1,
}  # fmt: skip


def test_the_plan_has_25_tasks_in_six_sections() -> None:
    assert list(PLAN.tasks) == list(SYSTEMS)
    assert Counter(PLAN.sections.values()) == {
        "network": 4, "technology": 2, "computing": 3, "security": 3, "integrated": 9, "platforms": 4
    }


def test_every_system_is_there_once() -> None:
    wanted = [f"{task}.{n}" for task, count in SYSTEMS.items() for n in range(1, count + 1)]
    found = [system.id for task in PLAN.tasks.values() for system in task.systems]
    assert found == wanted
    assert [system.id for system in PLAN.safeguards] == ["G1", "G2", "G3", "G4", "G5"]
    assert len(PLAN.systems) == 121


def test_the_lead_agencies_are_those_of_the_annex() -> None:
    assert {task.id: " ".join(a.removeprefix("fujian.") for a in task.agencies) for task in PLAN.tasks.values()} == LEADS


def test_the_21_targets_have_the_plan_s_figures_and_end_with_2022() -> None:
    assert {key: target.goal for key, target in PLAN.targets.items()} == GOALS
    assert {PLAN.deadline(target).isoformat() for target in PLAN.targets.values()} == {"2022-12-31"}
    assert [key for key, target in PLAN.targets.items() if target.compare == ">"] == ["ipv6-users"]


def test_every_text_is_in_both_languages() -> None:
    def texts(value: Any) -> list[tuple[str, str]]:
        found = []
        for name, text in value:
            if name.endswith("_zh"):
                found.append((text, getattr(value, name[:-3] + "_en")))
        return found

    everything = [*PLAN.tasks.values(), *PLAN.systems.values(), *PLAN.targets.values(), PLAN.head]
    for one in [*everything, *[target.definition for target in PLAN.targets.values()]]:
        for zh, en in texts(one):
            assert bool(zh) == bool(en)
            assert not re.search(r"[\u4e00-\u9fff]", en), en


def test_a_target_without_a_query_says_why() -> None:
    for target in PLAN.targets.values():
        if not target.definition.measures:
            assert len(target.definition.note_zh) > 10
            assert len(target.definition.note_en) > 30


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the shipped packs that a test may spoil."""
    for folder in folders():
        shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path


def _load(copy: Path) -> Plan:
    return load_plan(Packs(sorted(path.parent for path in copy.glob("*/pack.yaml")), PACKS.known))


def _spoil(path: Path, change: Any) -> None:
    data = yaml.safe_load(path.read_text("utf-8"))
    change(data)
    path.write_text(yaml.safe_dump(data, allow_unicode=True), "utf-8")


def test_a_copy_loads_alike(copy: Path) -> None:
    assert _load(copy) == PLAN


@pytest.mark.parametrize(
    ("file", "change", "field", "rule"),
    [
        ("targets.yaml", lambda d: d[0].update(goal=-1), "5g-stations.goal", "greater than 0"),
        ("targets.yaml", lambda d: d[0].update(lead="fujian.jyt"), "5g-stations.lead", "leads task N1"),
        ("targets.yaml", lambda d: d[0].update(task="N9"), "5g-stations.task", "known task"),
        ("targets.yaml", lambda d: d[0].update(systems=["N2.1"]), "5g-stations.systems", "a system of task N1"),
        ("targets.yaml", lambda d: d[0].update(speed=1), "5g-stations.speed", "Extra inputs"),
        ("targets.yaml", lambda d: d.append(dict(d[0])), "5g-stations.id", "unique target id"),
        (
            "targets.yaml", lambda d: d[0]["definition"]["query"]["count"].update(types=["Castle"]),
            "5g-stations.definition.query.count.types", "a type of a pack",
        ),
        (
            "targets.yaml", lambda d: d[0]["definition"]["query"]["count"]["where"][0].update(property="moat"),
            "5g-stations.definition.query.count", "a property of Site5G",
        ),
        ("tasks/security.yaml", lambda d: d[0].update(agencies=["fujian.none"]), "S1.agencies", "known organisation"),
        ("tasks/security.yaml", lambda d: d[0]["systems"][1].update(id="S1.1"), "S1.1.id", "unique system id"),
        ("tasks/security.yaml", lambda d: d[0]["systems"][1].update(id="S2.9"), "S2.9.id", "begins with S1."),
        ("tasks/security.yaml", lambda d: d[0].update(id="N1"), "N1.id", "unique task id"),
        ("safeguards.yaml", lambda d: d[0].update(id="N1.1"), "N1.1.id", "unique system id"),
        ("plan.yaml", lambda d: d.update(organisation="nowhere"), "organisation", "known organisation"),
    ],
)
def test_bad_data_is_refused_naming_file_field_and_rule(
    copy: Path, file: str, change: Any, field: str, rule: str
) -> None:
    _spoil(copy / "plan" / file, change)
    with pytest.raises(Invalid) as caught:
        _load(copy)
    assert str(copy / "plan" / file) in caught.value.en
    assert str(copy / "plan" / file) in caught.value.zh
    assert caught.value.field == field
    assert rule in str(caught.value.rule) or rule in caught.value.en


def test_exactly_one_pack_holds_the_plan() -> None:
    with pytest.raises(Invalid, match="exactly one"):
        load_plan(Packs([]))
