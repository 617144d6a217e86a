"""What the demo contributes: the commands `tulou demo` and `tulou bench`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tulou.kernel.hookspecs import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def commands() -> Sequence[click.Command]:
    """`tulou demo` and `tulou bench`."""
    from tulou.demo.bench import bench
    from tulou.demo.command import demo

    return [demo, bench]
