"""The examples in docs/methods.md run, and give what is written beside them (those that need no series)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

BLOCKS = re.findall(r"^```python\n(.*?)^```", (Path(__file__).parents[2] / "docs/methods.md").read_text("utf-8"), re.M | re.S)


def test_air() -> None:
    names: dict[str, object] = {}
    exec(BLOCKS[0], names)
    assert names["found"].aqi.tolist() == [52, 114]  # type: ignore[attr-defined]
    assert names["found"].primary["O3"].tolist() == [True, False]  # type: ignore[attr-defined]


def test_water_and_noise() -> None:
    names: dict[str, object] = {}
    exec(BLOCKS[1], names)
    assert names["found"].main == [[("NH3-N", pytest.approx(0.6)), ("CODMn", pytest.approx(0.22, abs=0.01)), ("DO", None)]]  # type: ignore[attr-defined]
    assert int(names["found"].overall) == 5  # type: ignore[attr-defined]


def test_river() -> None:
    names: dict[str, object] = {}
    exec(BLOCKS[2], names)
    found = eval(BLOCKS[2].split("\n", 3)[-1], names)
    assert [one.node for one in found] == ["farm", "mine"]
