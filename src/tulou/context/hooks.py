"""What the context engine contributes to the house."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_core import PydanticCustomError

from tulou.context import api_routes
from tulou.context.entity_maps import EntityMaps
from tulou.context.jsonld import fresh_iris, terms_of, two_iris
from tulou.context.ldcontexts import StoredContexts
from tulou.context.linked import LinkedEntities
from tulou.context.neighbours import Neighbours
from tulou.context.registration_subscriptions import RegistrationSubscriptions
from tulou.context.registrations import Registrations
from tulou.context.remote_subscriptions import RemoteSubscriptions
from tulou.context.routes import Door
from tulou.context.service import READ, ContextService
from tulou.context.snapshots import Snapshots
from tulou.context.source_history import SourceHistory
from tulou.context.source_snapshots import SourceSnapshots
from tulou.context.sources import Sources
from tulou.context.subscriptions import Subscriptions
from tulou.context.temporal import Temporal
from tulou.context.transient import Transient
from tulou.kernel.errors import TulouError
from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.packs import Pack, Packs, broken

if TYPE_CHECKING:
    import sqlalchemy as sa
    from starlette.routing import BaseRoute

    from tulou.kernel.house import ASGI, Check, House, Task
    from tulou.kernel.policy import Actor


@hookimpl
def policies() -> str:
    """Who registers a context source sends others' requests elsewhere: administrators and stewards, no operators."""
    return """
forbid (principal, action, resource)
when { context.engine == "context" && context.thing == "source" && context.verb != "read" }
unless { context.kind == "system" || context.roles.containsAny(["platform_admin", "admin", "steward"]) };
"""


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
    registrations = Registrations(house, entities)
    history, sources = Temporal(house, entities), Sources(house, entities, registrations)
    snapshots = Snapshots(house, entities)
    return [
        entities, entities.indexes, subscriptions, stored, history, LinkedEntities(house, entities),
        snapshots, registrations, RegistrationSubscriptions(house, registrations, subscriptions.address),
        sources, SourceHistory(house, history, sources), SourceSnapshots(house, snapshots, sources),
        RemoteSubscriptions(house, subscriptions, registrations, sources), EntityMaps(house, entities),
        Neighbours(house, entities, subscriptions),
    ]


@hookimpl
def doors(house: House) -> Mapping[str, ASGI]:
    return {"/ngsi-ld/": Door(house)}


@hookimpl
def routes(house: House) -> Sequence[BaseRoute]:
    return api_routes.routes(house)


@hookimpl
def checks(house: House) -> Sequence[Check]:
    from tulou.kernel.house import Check

    return [Check("context.counts", house.service(ContextService).counts.check)]


@hookimpl
def tasks(house: House) -> Sequence[Task]:
    from tulou.kernel.house import Task

    entities, subscriptions = house.service(ContextService), house.service(Subscriptions)
    return [
        Task("context.usage", "api", house.service(StoredContexts).keep_usage),
        Task("context.read-ahead", "api", entities.reader.run),
        Task("context.deliver", "worker", subscriptions.deliver),
        Task("context.deliver-sources", "worker", house.service(RegistrationSubscriptions).deliver),
        Task("context.remote-subscriptions", "worker", house.service(RemoteSubscriptions).run),
        Task("context.expire", "worker", entities.expire),
        Task("context.transient", "worker", Transient(house, entities).run),
        Task("context.snapshots", "worker", house.service(Snapshots).expire),
        Task("context.history", "worker", entities.journal.tidy),
        *[Task("context.announce", role, entities.announce) for role in ("api", "writer") if role in house.roles][:1],
    ]


@hookimpl
def judge_pack(pack: Pack, packs: Packs) -> Iterable[tuple[str, PydanticCustomError]]:
    """A name has one IRI in the whole house, and entities have some names themselves."""
    terms = terms_of({name: model for name, model in packs.own.items() if name not in pack.models})
    for name, model in pack.models.items():
        try:
            fresh_iris(name, model, terms)
            for term, iri in terms_of({name: model}).items():
                if terms.setdefault(term, iri) != iri:
                    raise two_iris(term, name if term == name else f"{name}.{term}", iri, terms[term])
        except TulouError as error:
            prop = (error.field or "").removeprefix(name).removeprefix(".").removesuffix(".iri")
            at = (name, *(["properties" if prop in model.properties else "relationships", prop] if prop else []))
            yield "models", broken(error.rule or error.code, error.zh, error.en, at)


@hookimpl
def stored(house: House, connection: sa.Connection, actor: Actor) -> Mapping[str, int]:
    """By the counts that are kept."""
    counts = house.service(ContextService).kept_counts(connection, house.policy.visible(actor, READ))
    return {kind: sum(by_org.values()) for kind, by_org in counts.items()}


@hookimpl
async def started(house: House) -> None:
    subscriptions, stored = house.service(Subscriptions), house.service(StoredContexts)
    await stored.reload()
    await subscriptions.reload()
    registrations, watches = house.service(Registrations), house.service(RegistrationSubscriptions)
    await registrations.reload()
    await watches.reload()
    indexes = house.service(ContextService).indexes
    await indexes.reload()
    contexts = house.service(ContextService).contexts
    known = contexts.version

    async def renamed() -> None:
        """What was compiled with the house's names, where they changed with its models."""
        nonlocal known
        if known != contexts.version:
            known = contexts.version
            for compiled in (subscriptions, registrations, watches):
                await compiled.reload()

    house.packs.followers.append(renamed)
    if hasattr(house, "bus"):
        await house.bus.on_changed("ld_contexts", lambda _key: stored.reload())
        await house.bus.on_changed("subscriptions", lambda _key: subscriptions.reload())
        await house.bus.on_changed("csource_registrations", lambda _key: registrations.reload())
        await house.bus.on_changed("csource_subscriptions", lambda _key: watches.reload())
        await house.bus.on_changed("value_indexes", lambda _key: indexes.reload())
