"""Which modules contribute to the house, and their registration.

Law: named as text, lowest floor first, because imports only go down; nothing is imported before it is registered.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from tulou.kernel import hookspecs

if TYPE_CHECKING:
    from tulou.kernel.packs import Packs
    from tulou.kernel.settings import Settings

log = logging.getLogger("tulou.plugins")

ROLES = ("gateway", "api", "writer", "rules", "worker")
"""What processes may do."""

PLUGINS = (
    "tulou.kernel.organisations.hooks",
    "tulou.kernel.audit",
    "tulou.kernel.jobs",
    "tulou.kernel.workflows",
    "tulou.kernel.packs.hooks",
    "tulou.kernel.ledger",
    "tulou.kernel.system",
    "tulou.context.hooks",
    "tulou.access.hooks",
    "tulou.indicators.hooks",
    "tulou.plan.hooks",
    "tulou.packs.hooks",
    "tulou.packs.ecology.hooks",
    "tulou.console.hooks",
)
"""The house's own engines."""

COMMANDS = (
    "tulou.kernel.commands",
    "tulou.context.commands",
    "tulou.access.commands",
    "tulou.indicators.commands",
    "tulou.plan.commands",
    "tulou.demo.commands",
)
"""The commands of the house's own engines, apart: whoever types one does not wait for the engines."""


def plugins(names: Sequence[str] = PLUGINS) -> Plugins:
    """The plugin manager with the plugins `names` of the house and those of installed packages."""
    manager = Plugins("tulou")
    manager.add_hookspecs(hookspecs)
    for name in names:
        manager.register(import_module(name), name)
    for point in _installed():
        try:
            manager.register(point.load(), point.name)
        except Exception as error:
            log.exception("the plugin %s (%s) is left out", point.name, point.value)
            manager.left_out[point.name] = f"{point.value}: {type(error).__name__}: {error}"
            with contextlib.suppress(AssertionError, ValueError):
                manager.unregister(name=point.name)
    return manager


class Plugins(pluggy.PluginManager):
    """The plugin manager; `left_out`: plugins of installed packages that cannot be loaded, and why."""

    def __init__(self, project: str) -> None:
        super().__init__(project)
        self.left_out: dict[str, str] = {}


def read_packs(manager: pluggy.PluginManager, settings: Settings | None = None, *, installed: bool = True) -> Packs:
    """The packs that plugins offer, under the sections that they own; with settings also those of the setting `packs`, and those that
    are installed in the home."""
    from tulou.kernel.packs import LeftOut, Packs, Problem
    from tulou.kernel.packs.installing import take_installed

    sections = {name: section for part in reversed(manager.hook.sections()) for name, section in part.items()}
    named = [Path(part) for part in settings.packs.split(":") if part] if settings else []
    packs = Packs([*flat(manager.hook.packs()), *named], sections, lambda pack, packs: flat(manager.hook.judge_pack(pack=pack, packs=packs)))
    for name, why in getattr(manager, "left_out", {}).items():
        zh, en = f"插件不能装入：{why}", f"the plugin cannot be loaded: {why}"
        packs.leave_out(LeftOut(name, "", Path(name), [Problem("plugin", 1, 1, "", "plugin", zh, en)]))
    if settings and installed:
        take_installed(packs, settings.home)
    return packs


@functools.cache
def _installed() -> tuple[EntryPoint, ...]:
    """Plugins of installed packages. Kept: Python opens the description of every package for this."""
    return tuple(entry_points(group="tulou"))


def flat(results: list[Any]) -> list[Any]:
    """Hook results in the order of registration (pluggy calls the last registered first)."""
    return [item for result in reversed(results) for item in result]
