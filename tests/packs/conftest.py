"""Packs that a test may spoil."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tulou.kernel.packs import Packs
from tulou.kernel.packs.scaffold import write
from tulou.kernel.plugins import plugins, read_packs

HOUSE = read_packs(plugins())
"""The packs that ship, and what engines own."""

Make = Callable[..., Path]


def with_folders(*folders: Path) -> Packs:
    """The house's packs with those in these folders."""
    packs = HOUSE.copy()
    packs.add(folders)
    return packs


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A good pack by its name, with these keys besides or instead (None: without the key)."""
    def made(name: str, **keys: Any) -> Path:
        folder = write(name, tmp_path)
        if keys:
            file = folder / "pack.yaml"
            said = {**yaml.safe_load(file.read_text("utf-8")), **keys}
            file.write_text(yaml.safe_dump({k: v for k, v in said.items() if v is not None}, allow_unicode=True, sort_keys=False), "utf-8")
        return folder

    return made
