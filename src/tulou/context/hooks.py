"""What the context engine contributes to the house."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tulou.context.ldcontexts import StoredContexts
from tulou.context.linked import LinkedEntities
from tulou.context.routes import Door
from tulou.context.service import ContextService
from tulou.context.snapshots import Snapshots
from tulou.context.subscriptions import Subscriptions
from tulou.context.temporal import Temporal
from tulou.context.transient import Transient
from tulou.kernel.hookspecs import hookimpl

if TYPE_CHECKING:
    from tulou.kernel.house import ASGI, House, Task


@hookimpl
def migrations() -> Path:
    return Path(__file__).parent / "migrations"


@hookimpl
def services(house: House) -> Sequence[object]:
    subscriptions = Subscriptions(house)
    entities = ContextService(house, subscriptions)
    subscriptions.attach(entities)
    stored = StoredContexts(house, entities)
    subscriptions.imply = stored.imply
    return [entities, subscriptions, stored, Temporal(house, entities), LinkedEntities(house, entities),
            Snapshots(house, entities)]


@hookimpl
def doors(house: House) -> Mapping[str, ASGI]:
    return {"/ngsi-ld/": Door(house)}


@hookimpl
def tasks(house: House) -> Sequence[Task]:
    from tulou.kernel.house import Task

    entities, subscriptions = house.service(ContextService), house.service(Subscriptions)
    return [
        Task("context.usage", "api", house.service(StoredContexts).keep_usage),
        Task("context.deliver", "worker", subscriptions.deliver),
        Task("context.expire", "worker", entities.expire),
        Task("context.transient", "worker", Transient(house, entities).run),
        Task("context.snapshots", "worker", house.service(Snapshots).expire),
        Task("context.history", "worker", entities.journal.tidy),
        *[Task("context.announce", role, entities.announce) for role in ("api", "writer") if role in house.roles][:1],
    ]


@hookimpl
async def started(house: House) -> None:
    subscriptions, stored = house.service(Subscriptions), house.service(StoredContexts)
    await stored.reload()
    await subscriptions.reload()
    if hasattr(house, "bus"):
        await house.bus.on_changed("ld_contexts", lambda _key: stored.reload())
        await house.bus.on_changed("subscriptions", lambda _key: subscriptions.reload())
