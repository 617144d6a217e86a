"""The systems page: generated, up to date, and nothing is said to work without a test that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tulou.kernel.errors import Invalid
from tulou.kernel.packs import Packs
from tulou.kernel.plugins import plugins
from tulou.packs.hooks import packs as folders
from tulou.plan.commands import systems_page
from tulou.plan.document import load_plan
from tulou.plan.systems import SystemState, collect, counts

ROOT = Path(__file__).parents[2]
PLAN = load_plan(Packs(folders()))
SHOWN = ("partial", "部分", "a part", "tests/plan/test_systems.py")


def test_what_nobody_declares_is_none() -> None:
    states = collect(PLAN, [{"N2.3": SHOWN}])
    assert states["N2.3"] == SystemState("partial", "部分", "a part", ("tests/plan/test_systems.py",))
    assert states["N2.4"] == SystemState()
    assert counts(states.values()) == {"works": 0, "partial": 1, "none": 120}


def test_a_system_of_two_engines_works_only_if_both_say_so() -> None:
    full = ("works", "全部", "all of it", "tests/b.py")
    both = collect(PLAN, [{"N2.5": full}, {"N2.5": SHOWN}])["N2.5"]
    assert (both.state, both.evidence_en, len(both.tests)) == ("partial", "all of it; a part", 2)
    assert collect(PLAN, [{"N2.5": full}, {"N2.5": full}])["N2.5"].state == "works"


@pytest.mark.parametrize(
    ("system", "declaration", "rule"),
    [
        ("X1.1", SHOWN, "a system of the plan"),
        ("N2.3", ("done", "好", "good", "tests/a.py"), "works | partial"),
        ("N2.3", ("none", "无", "nothing", "tests/a.py"), "works | partial"),
        ("N2.3", ("works", "", "good", "tests/a.py"), "evidence in Chinese and English"),
        ("N2.3", ("works", "好", "good", " "), "a test or conformance reference"),
    ],
)
def test_an_empty_claim_is_refused(system: str, declaration: tuple[str, str, str, str], rule: str) -> None:
    with pytest.raises(Invalid) as caught:
        collect(PLAN, [{system: declaration}])
    assert (caught.value.field, caught.value.rule) == (f"systems.{system}", rule)


def test_every_reference_exists() -> None:
    for part in plugins().hook.systems():
        for system, (_, _, _, reference) in part.items():
            for one in reference.split(", "):
                path, _, name = one.partition("::")
                assert (ROOT / path.partition("#")[0]).is_file(), f"{system}: {one}"
                assert not name or f"def {name}" in (ROOT / path).read_text("utf-8"), f"{system}: {one}"


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "systems.md").read_text("utf-8") == systems_page(), (
        "run: tulou plan systems --write docs/systems.md"
    )
