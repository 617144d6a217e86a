"""A few rounds of `kill9.py`, whose law is: acknowledged is stored exactly once. The full number runs by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.durability.kill9 import trial


@pytest.mark.slow
@pytest.mark.parametrize(("what", "rounds"), [("tree", 3), ("nats", 2), ("gateway", 2)])
async def test_what_was_acknowledged_is_stored_exactly_once(what: str, rounds: int, tmp_path: Path) -> None:
    figures = await trial(what, rounds, devices=4, window=20, pause=0.002, longest=1.5, folder=tmp_path)
    assert figures["holds"], figures
    assert figures["acknowledged"] > 0
    assert figures["exit_code"] == 0


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
async def test_a_full_disk_loses_nothing_and_the_house_goes_on(tmp_path: Path) -> None:
    figures = await trial("disk", 1, devices=4, window=20, pause=0.002, longest=1.5, folder=tmp_path)
    assert figures["holds"], figures
