"""Which modules contribute to the house, and their registration.

Law: named as text, lowest floor first, because imports only go down; nothing is imported before it is registered.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from tulou.kernel import hookspecs

ROLES = ("gateway", "api", "writer", "rules", "worker")
"""What processes may do."""

PLUGINS = (
    "tulou.kernel.organisations.hooks",
    "tulou.kernel.audit",
    "tulou.kernel.jobs",
    "tulou.kernel.workflows",
    "tulou.kernel.ledger",
    "tulou.kernel.system",
    "tulou.context.hooks",
    "tulou.access.hooks",
    "tulou.plan.hooks",
    "tulou.packs.hooks",
    "tulou.console.hooks",
)
"""The house's own engines."""

COMMANDS = (
    "tulou.kernel.commands",
    "tulou.context.commands",
    "tulou.access.commands",
    "tulou.plan.commands",
    "tulou.demo.commands",
)
"""The commands of the house's own engines, apart: whoever types one does not wait for the engines."""


def plugins(names: Sequence[str] = PLUGINS) -> pluggy.PluginManager:
    """The plugin manager with the plugins `names` of the house and those of installed packages."""
    manager = pluggy.PluginManager("tulou")
    manager.add_hookspecs(hookspecs)
    for name in names:
        manager.register(import_module(name), name)
    for point in _installed():
        manager.register(point.load(), point.name)
    return manager


@functools.cache
def _installed() -> tuple[EntryPoint, ...]:
    """Plugins of installed packages. Kept: Python opens the description of every package for this."""
    return tuple(entry_points(group="tulou"))


def flat(results: list[Any]) -> list[Any]:
    """Hook results in the order of registration (pluggy calls the last registered first)."""
    return [item for result in reversed(results) for item in result]
