"""The one page of extension points: everything that an engine or a pack may contribute to the house.

Law: the house's own engines use these same hooks; there is no other way in. A plugin is a module with functions of
these names marked `@hookimpl`; installed packages add theirs under the entry point group `tulou`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click
    import sqlalchemy as sa
    from pydantic_core import PydanticCustomError
    from starlette.routing import BaseRoute

    from tulou.kernel.bus import StreamSpec
    from tulou.kernel.house import ASGI, Check, House, JobKind, Task
    from tulou.kernel.packs import Model, Pack, Packs, Section
    from tulou.kernel.policy import Actor

hookspec = pluggy.HookspecMarker("tulou")
hookimpl = pluggy.HookimplMarker("tulou")


@hookspec
def packs() -> Sequence[Path]:  # type: ignore[empty-body]
    """Folders that hold a `pack.yaml`."""


@hookspec
def sections() -> Mapping[str, Section]:  # type: ignore[empty-body]
    """Keys of `pack.yaml` that the engine owns: name -> the type of the value, which stands there or in a YAML file of the pack that is
    named there; with it checks. `house.packs.section(name)` has the values."""


@hookspec
def judge_pack(pack: Pack, packs: Packs) -> Iterable[tuple[str, PydanticCustomError]]:  # type: ignore[empty-body]
    """What an engine has against a pack as a whole, among those before it (its own models are in `packs` too): the key of `pack.yaml`,
    and what `kernel.packs.broken` makes. A pack that anyone has something against is left out."""


@hookspec
def policies() -> str:  # type: ignore[empty-body]
    """Cedar policies, added to `kernel/policies.cedar`."""


@hookspec
def migrations() -> Path:  # type: ignore[empty-body]
    """Folder of Alembic revisions; its first revision has `down_revision = None` and its own `branch_labels`."""


@hookspec
def models(house: House) -> Mapping[str, tuple[str, Model]]:  # type: ignore[empty-body]
    """Entity types beside those of packs: name -> (organisation that declared it, model). Asked when the relational store is
    open, before services are made; whoever gives some calls `house.declare` when they change."""


@hookspec
def stored(house: House, connection: sa.Connection, actor: Actor) -> Mapping[str, int]:  # type: ignore[empty-body]
    """How many entities of each type the actor may see."""


@hookspec
def streams(house: House) -> Sequence[StreamSpec]:  # type: ignore[empty-body]
    """JetStream streams to ensure before anything publishes."""


@hookspec
def services(house: House) -> Sequence[object]:  # type: ignore[empty-body]
    """Service objects of an engine, found again by class with `house.service(Cls)`."""


@hookspec
def routes(house: House) -> Sequence[BaseRoute]:  # type: ignore[empty-body]
    """Starlette routes; paths are absolute."""


@hookspec
def doors(house: House) -> Mapping[str, ASGI]:  # type: ignore[empty-body]
    """Hot doors: path prefix -> bare ASGI application, asked before the router."""


@hookspec
def protocols() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Field protocols over TCP: name -> dotted module that has a `codec` (`tulou.access.protocols.Codec`)."""


@hookspec
def tasks(house: House) -> Sequence[Task]:  # type: ignore[empty-body]
    """Background tasks, each with the role that runs it."""


@hookspec
def jobs(house: House) -> Sequence[JobKind]:  # type: ignore[empty-body]
    """Kinds of jobs that the worker can run."""


@hookspec
def commands() -> Sequence[click.Command]:  # type: ignore[empty-body]
    """Commands or groups below `tulou`."""


@hookspec
def checks(house: House) -> Sequence[Check]:  # type: ignore[empty-body]
    """Checks of `tulou doctor` and the system page."""


@hookspec
def status(house: House) -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Named figures for the system page; merged, so names are prefixed by the engine."""


@hookspec
def systems() -> Mapping[str, tuple[str, str, str, str]]:  # type: ignore[empty-body]
    """Plan systems served: id -> (works | partial, evidence zh, evidence en, test or conformance reference)."""


@hookspec
async def started(house: House) -> None:
    """Runs once when stores are open and before doors open: seed data, first administrator."""
