"""What the demo contributes: the command `tulou demo`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tulou.kernel.hookspecs import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def commands() -> Sequence[click.Command]:
    """`tulou demo`."""
    from tulou.demo.command import demo

    return [demo]
