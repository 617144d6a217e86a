"""What is wrong with a pack is said with file, line, column and rule, all of it, in both languages; whatever the bytes are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packs.conftest import HOUSE, Make, with_folders
from tulou.kernel.errors import Invalid
from tulou.kernel.packs import LeftOut, Packs, Problem
from tulou.kernel.packs.models import within_range
from tulou.kernel.packs.scaffold import PACK
from tulou.kernel.packs.schema import schema

SCHEMA = Path(__file__).parents[2] / "docs/schemas/pack.schema.json"
GOOD = PACK.format(name="field", title="Field", kind="FieldDevice")
LAST = GOOD.count("\n") + 1


def read(folder: Path, text: str | bytes, **files: str) -> tuple[Packs, list[Problem]]:
    folder.mkdir(exist_ok=True)
    (folder / "pack.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    for name, more in files.items():
        (folder / f"{name}.yaml").write_text(more, "utf-8")
    packs = with_folders(folder)
    return packs, [problem for out in packs.left_out for problem in out.problems]


BROKEN = """\
name: Field
version: 1
label: {zh: 领域}
requires: {base: ">=7"}
models:
  FieldDevice:
    label: {zh: 设备, en: Device, fr: Appareil}
    properties:
      temperature: {label: {zh: 温度, en: Temperature}, min: 3, max: 2}
      depth: {kind: number, label: {zh: 深度, en: Depth}, alarm: {above: deep}}
      1st: {label: {zh: 甲, en: A}}
bogus: true
workflows: flow.yaml
rules: none.yaml
examples:
  - {label: {zh: 例, en: Example}, type: FieldDevice, readings: []}
"""
FLOW = """\
repair:
  label: {zh: 维修, en: Repair}
  create: [plumber]
  initial: open
  states: {open: {label: {zh: 开, en: Open}}}
  transitions: {}
"""


def test_every_problem_is_said_with_its_line_column_and_place(tmp_path: Path) -> None:
    _, problems = read(tmp_path / "field", BROKEN, flow=FLOW)
    lines = {"pack.yaml": BROKEN.splitlines(), "flow.yaml": FLOW.splitlines()}
    assert {(one.file, one.line, one.place): lines[one.file][one.line - 1][one.column - 1 :] for one in problems} == {
        ("pack.yaml", 1, "name"): "Field", ("pack.yaml", 2, "version"): "1", ("pack.yaml", 3, "label.en"): "{zh: 领域}",
        ("pack.yaml", 7, "models.FieldDevice.label.fr"): "fr: Appareil}",
        ("pack.yaml", 9, "models.FieldDevice.properties.temperature"): "{label: {zh: 温度, en: Temperature}, min: 3, max: 2}",
        ("pack.yaml", 10, "models.FieldDevice.properties.depth.alarm.above"): "deep}}",
        ("pack.yaml", 11, "models.FieldDevice.properties.1st"): "1st: {label: {zh: 甲, en: A}}",
        ("pack.yaml", 12, "bogus"): "bogus: true", ("flow.yaml", 3, "repair.create.0"): "plumber]",
        ("pack.yaml", 14, "rules"): "none.yaml", ("pack.yaml", 16, "examples.0.readings"): "[]}",
    }
    for one in problems:
        assert one.rule
        assert re.search(r"[\u4e00-\u9fff]", one.zh), one
        assert one.text("en", "field").startswith(f"field/{one.file}:{one.line}:{one.column}: {one.place}: ")


@pytest.mark.parametrize(("text", "line", "column", "rule"), [
    ("name: [", 2, 1, "YAML"),  # libyaml says where the file ends
    ("name: field\nname: again\n" + GOOD, 2, 1, "unique key"),
    (GOOD.replace("version: \"0.1\"", "version: !!python/object/apply:os.getcwd []"), 2, 10, "no tags"),
    (GOOD.replace("max: 200", "max: 2020-13-45"), 16, 14, "YAML"),
    (GOOD + "data: {a: ../secret.yaml}\n", LAST, 11, "inside the pack"),
    (GOOD + "data: {a: none.yaml}\n", LAST, 11, "file"),
    (b"\xff\xfe\x00", 1, 1, "UTF-8"), ("- a\n", 1, 1, "object"), ("", 1, 1, "object"), ("a: " + "[" * 100_000, 1, 67, "<= 64"),
    ("a: " + "- " * 100_000, 1, None, None), ("\n".join(" " * n + "a:" for n in range(400)), 65, 65, "<= 64"),
    ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [" + ",".join([f"*{chr(97 + n)}"] * 10) + "]\n" for n in range(8)),
     None, None, "<= 500000"),
    ("a: &a [*a]\n", 1, 4, "<= 64"), ("x" * (9 << 20), 1, 1, "<= 8388608"), ("? [a, b]\n: 1\n", 1, 3, "text"), ("<<: {a: 1}\n", 1, 1, "no tags"),
])
def test_what_is_no_yaml_of_a_pack(tmp_path: Path, text: str | bytes, line: int | None, column: int | None, rule: str | None) -> None:
    _, problems = read(tmp_path / "field", text)
    first = problems[0]
    assert line in (None, first.line), problems
    assert column in (None, first.column), problems
    assert rule in (None, first.rule), problems


def test_a_section_stands_in_the_pack_or_in_a_file(tmp_path: Path, make: Make) -> None:
    examples = yaml.safe_load(GOOD)["examples"]
    folder = make("field", examples="more/examples.yaml")
    (folder / "more").mkdir()
    (folder / "more/examples.yaml").write_text(yaml.safe_dump(examples, allow_unicode=True), "utf-8")
    packs = with_folders(folder)
    assert not packs.left_out
    (found,) = packs.packs["field"].section("examples")
    assert found.model_dump(mode="json")["raises"] == ["temperature.above"]
    assert packs.packs["field"].section("rules") is None


def test_engines_judge_a_pack(tmp_path: Path) -> None:
    text = GOOD.replace("https://smartdatamodels.org/dataModel.Environment/temperature", "https://example.org/t") + """\
rules:
  - {name: dry, label: {zh: 干, en: Dry}, type: Nothing, condition: {kind: threshold, property: temperature, above: 1}}
  - {name: dry, label: {zh: 干, en: Dry}, type: FieldDevice, condition: {kind: threshold, property: humidity, above: 1}}
"""
    _, problems = read(tmp_path / "field", text)
    assert [(one.line, one.place) for one in problems] == [
        (12, "models.FieldDevice.properties.temperature"), (LAST + 1, "rules.dry.type"), (LAST + 2, "rules.dry.condition"),
        (LAST + 2, "rules.dry.name"),
    ]


def out(packs: Packs) -> dict[str, str]:
    return {one.name: one.problems[0].place for one in packs.left_out}


def test_packs_require_others(make: Make) -> None:
    def needs(name: str, **versions: str) -> Path:
        return make(name, requires=versions, models=None, examples=None)

    a, b, c = needs("a", b=">=0.1,<1"), needs("b", base=""), needs("c", a="", tulou=">=0.1")
    packs = with_folders(c, a, b)
    assert (list(packs.packs)[-3:], packs.left_out) == (["b", "a", "c"], [])
    assert out(with_folders(a, c)) == {"a": "requires.b", "c": "requires.a"}
    assert out(with_folders(needs("d", e=""), needs("e", d=""))) == {"d": "requires.e", "e": "requires.d"}
    assert out(with_folders(needs("f", base=">=99"), needs("g", tulou="<0.1"))) == {"f": "requires.base", "g": "requires.tulou"}


@pytest.mark.parametrize(("version", "wanted", "holds"), [
    ("0.10", ">=0.9", True), ("1", "==1.0", True), ("1.0", "<1", False), ("2.1", ">=1,<2", False), ("0.1", "", True),
])
def test_versions_are_numbers(version: str, wanted: str, holds: bool) -> None:
    assert within_range(version, wanted) is holds


def test_the_later_of_two_gives_way(make: Make) -> None:
    organisations = [{"id": "fuzhou", "label": {"zh": "福州", "en": "Fuzhou"}, "kind": "city"},
                     {"id": "lost", "label": {"zh": "无", "en": "Lost"}, "kind": "city", "parent": "nowhere"}]
    first, second = make("first"), make("second", models=yaml.safe_load(GOOD)["models"], examples=None)
    third = make("third", models=yaml.safe_load(GOOD)["models"], examples=None)
    packs = with_folders(first, second, third, make("fourth", organisations=organisations))
    assert {one.name: [problem.place for problem in one.problems] for one in packs.left_out} == {
        "third": ["models.FieldDevice"], "fourth": ["organisations.fuzhou.id", "organisations.lost.parent"],
    }
    assert packs.pack_of["FieldDevice"] == "second"
    again = with_folders(first, first)
    assert out(again) == {"first": "name"}


# --- whatever the bytes are

PIECES = ["{", "}", "[", "]", ":", "- ", "\n", "  ", "\t", "&a", "*a", "!!int", "!x", "|", ">", "'", '"', "#", "<<", "0x", "2020-13-45", "null", "~",
          "é", "\u0000", "1e999", ".nan", "?", "%", "label", "zh", "models", "rules", "workflows", "examples", "requires", "data", "name"]
GOOD_RULES = GOOD + """\
rules:
  - {name: dry, label: {zh: 干, en: Dry}, type: FieldDevice, condition: {kind: expression, raise_if: temperature > 60}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated") / "field"


def judged(folder: Path, text: str) -> None:
    packs, problems = read(folder, text)
    if not packs.left_out:
        assert len(packs.packs) == len(HOUSE.packs) + 1
    for one in problems:
        assert one.line >= 1
        assert one.column >= 1
        assert one.text("zh")
        assert one.text("en")
        assert json.dumps([one.value, one.rule, one.place]) is not None


@settings(max_examples=300, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, len(GOOD_RULES)), st.integers(0, 30), st.sampled_from(PIECES) | st.text(max_size=4)), min_size=1, max_size=5))
def test_a_mutated_pack_is_read_or_left_out(folder: Path, edits: list[tuple[int, int, str]]) -> None:
    text = GOOD_RULES
    for at, cut, piece in edits:
        text = text[:at] + piece + text[at + cut :]
    judged(folder, text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(PIECES[26:]) | st.integers(), below, max_size=3), max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_value_at_any_place_is_read_or_left_out(folder: Path, data: st.DataObject) -> None:
    said: Any = yaml.safe_load(GOOD_RULES)
    at = said
    while True:
        key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else list(range(len(at)))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.integers(0, 3)) == 0:
            break
        at = at[key]
    at[key] = data.draw(VALUES)
    judged(folder, yaml.safe_dump(said, allow_unicode=True))


# --- the schema

def test_the_schema_is_up_to_date() -> None:
    assert json.loads(SCHEMA.read_text("utf-8")) == schema(HOUSE.known), "run: tulou pack schema --write docs/schemas/pack.schema.json"


JUDGE = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))


def said_by(folder: Path, *, whole: bool) -> Any:
    """`pack.yaml` as JSON, `whole` with the sections that stand in files."""
    said = yaml.load((folder / "pack.yaml").read_text("utf-8"), Loader=yaml.CSafeLoader)
    for key in HOUSE.known if whole else ():
        if isinstance(said.get(key), str):
            said[key] = yaml.load((folder / said[key]).read_text("utf-8"), Loader=yaml.CSafeLoader)
    return json.loads(json.dumps(said, default=str))


def test_an_outside_judge_agrees_with_the_schema(make: Make) -> None:
    jsonschema.Draft202012Validator.check_schema(JUDGE.schema)
    for folder in [*(pack.folder for pack in HOUSE.packs.values()), make("field")]:
        for whole in (False, True):
            assert [error.message for error in JUDGE.iter_errors(said_by(folder, whole=whole))] == [], folder


@pytest.mark.parametrize("change", [
    {"bogus": 1}, {"version": 1}, {"label": {"zh": "无"}}, {"models": {"A": {}}}, {"rules": [{"name": "x"}]}, {"requires": {"base": "7"}},
    {"workflows": {"x": {"label": {"zh": "甲", "en": "A"}}}}, {"models": {"A": {"label": {"zh": "甲", "en": "A"}, "retention_days": 0}}},
])
def test_what_the_schema_refuses_is_refused(make: Make, change: dict[str, Any]) -> None:
    folder = make("field", **{"examples": None, **change})
    assert list(JUDGE.iter_errors(said_by(folder, whole=False)))
    packs = with_folders(folder)
    assert [type(one) for one in packs.left_out] == [LeftOut]


def test_a_broken_pack_of_the_house_s_own_stops_it(make: Make, tmp_path: Path) -> None:
    packs = with_folders(make("field", label={"zh": "甲"}, bogus=1))
    packs.whole(tmp_path / "elsewhere")
    with pytest.raises(Invalid, match=r"pack\.yaml:\d+:\d+: label\.en: .*\(and 1 more\)") as caught:
        packs.whole(tmp_path)
    assert "还有 1 处" in caught.value.zh
