"""The house's own packs, offered through the same hook as anyone's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tulou.kernel.hookspecs import hookimpl


@hookimpl
def packs() -> Sequence[Path]:
    """Folders beside this file that hold a `pack.yaml`, by name."""
    return sorted(path.parent for path in Path(__file__).parent.glob("*/pack.yaml"))
