"""The console in the house: its routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tulou.console import Console
from tulou.kernel.hookspecs import hookimpl

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from tulou.kernel.house import House


@hookimpl
def routes(house: House) -> Sequence[BaseRoute]:
    """Pages and assets."""
    return Console().routes()
