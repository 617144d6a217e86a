"""A grade is what a pack proved of the files that it has: each step is taken, and each is lost again by a change."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packs.conftest import HOUSE, Make, with_folders
from tulou.kernel.packs.proving import Grade, grade, proof_of, prove, try_out

TEST = '''\
import pytest

from tulou.kernel.packs import Pack


def test_ours(pack: Pack) -> None:
    assert pack.name == "field"


@pytest.mark.outside
def test_without_a_source() -> None:
    pass


@pytest.mark.outside(source="DIN 19227")
@pytest.mark.skipif({skip}, reason="not today")
def test_theirs() -> None:
    pass
'''
BENCH = '''\
def test_speed(figure) -> None:
    figure("readings", 12000, "1/s")
'''
TEXT = "FieldDevice measures the temperature of a field, and says when it is too hot. " * 6
CHINESE = "FieldDevice 测量田间温度，过热时告警；读数每小时一次，电池可用五年。" * 12


def graded(folder: Path, *, run: bool = True, bench: bool = False) -> Grade:
    packs = with_folders(folder)
    assert not packs.left_out
    pack = packs.packs["field"]
    if run:
        prove(pack, packs, bench=bench)
    return grade(pack)


def test_the_grades_one_after_the_other(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make("field")
    tests = folder / "tests/test_field.py"
    assert graded(folder, run=False)[:2] == ("bronze", "silver")
    tests.write_text(TEST.format(skip=True), "utf-8")
    reached = graded(folder)
    assert reached[:2] == ("silver", "gold")
    missing = "\n".join(en for _, en in reached.missing)
    for word in ("label must be in both languages", "README.md must say", "README.zh-CN.md must say", "no test against public data"):
        assert word in missing
    pack = folder / "pack.yaml"
    pack.write_text(pack.read_text("utf-8").replace("{zh: field, en: Field}", "{zh: 田间, en: Field}"), "utf-8")
    assert graded(folder, run=False)[:2] == ("bronze", "silver")
    (folder / "README.md").write_text(TEXT, "utf-8")
    (folder / "README.zh-CN.md").write_text(CHINESE, "utf-8")
    tests.write_text(TEST.format(skip=False), "utf-8")
    reached = graded(folder)
    assert reached[:2] == ("gold", "platinum"), reached
    proof = proof_of(folder)
    assert proof is not None
    assert [(one.test, one.source) for one in proof.outside] == [("tests/test_field.py::test_theirs", "DIN 19227")]
    (folder / "bench").mkdir()
    (folder / "bench/bench_field.py").write_text(BENCH, "utf-8")
    assert graded(folder, bench=True) == ("platinum", "", [])
    said = json.loads((folder / "proof.json").read_text("utf-8"))
    assert said["figures"] == [{"name": "readings", "value": 12000.0, "unit": "1/s"}]
    tests.write_text(TEST.format(skip=False) + "\n\ndef test_no() -> None:\n    assert False\n", "utf-8")
    reached = graded(folder)
    assert (reached.name, reached.missing[0][1]) == ("bronze", "1 tests and 0 examples fail")
    tests.write_text("import nothing_of_this_name\n", "utf-8")
    assert graded(folder).name == "bronze"


def test_an_example_that_does_not_hold(make: Make) -> None:
    folder = make("field")
    file = folder / "pack.yaml"
    file.write_text(file.read_text("utf-8").replace("clears: [temperature.above]", "clears: []"), "utf-8")
    packs = with_folders(folder)
    tried, (problem,) = try_out(packs.packs["field"], packs)
    assert (tried, problem.place, problem.rule) == (1, "examples.0.clears", "example")
    assert "cleared -, and has cleared temperature.above" in problem.en


@pytest.mark.parametrize("name", sorted(HOUSE.packs))
def test_what_ships_has_proved_what_it_says(name: str) -> None:
    folder = HOUSE.packs[name].folder
    before = proof_of(folder)
    done = subprocess.run([sys.executable, "-m", "tulou", "--json", "pack", "test", name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    after = proof_of(folder)
    assert before == after, f"the pack {name} changed since it was proved: the record is made anew, commit it"
    assert json.loads(done.stdout)["grade"] == grade(HOUSE.packs[name]).name != "bronze"
