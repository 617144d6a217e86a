"""The door of snapshots: `/snapshots`, `/snapshots/{id}` and `/snapshots/{id}/clone`.

Law: as `routes`.

Source: ETSI GS CIM 009 v1.9.1 clauses 6.36 to 6.38.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tulou.context import source_routes
from tulou.context.errors import bad
from tulou.context.snapshots import checked
from tulou.context.sources import filters_of

if TYPE_CHECKING:
    from tulou.context.routes import Answer, Ask, Door

Handlers = dict[str, Callable[..., Awaitable["Answer"]]]


def find(door: Door, rest: list[str]) -> tuple[Handlers, list[str]] | None:
    """The handlers by method, and their arguments, of a path below `snapshots`; None for no such resource."""
    match rest:
        case []:
            return {"POST": partial(create, door), "DELETE": partial(purge, door)}, []
        case [id]:
            return {"GET": partial(retrieve, door), "PATCH": partial(update, door), "DELETE": partial(delete, door)}, [id]
        case [id, "clone"]:
            return {"POST": partial(clone, door)}, [id]
    return None


async def create(door: Door, ask: Ask) -> Answer:
    """POST snapshots (6.36.3.1)."""
    ask.only(frozenset())
    body, context, spec = await door.read(ask)
    checked(body)
    selections = [door.query_document(query, context)[0] for query in body["snapshotQueries"]]
    if source_routes.distributed(door, ask):
        caller = source_routes.caller_of(door, ask, context, spec)
        filters = [
            filters_of({**query, **(query.get("geoQ") or {})}, context, caller) for query in body["snapshotQueries"]
        ]
        queries = list(zip(selections, filters, strict=True))
        return _created(await door.source_snapshots.create(ask.actor, body, queries, caller, tenant=ask.tenant))
    return _created(await door.snapshots.create(ask.actor, body, selections, tenant=ask.tenant))


async def clone(door: Door, ask: Ask, id: str) -> Answer:
    """POST snapshots/{id}/clone (6.38.3.1)."""
    ask.only(frozenset())
    body, _, _ = await door.read(ask)
    return _created(await door.snapshots.clone(ask.actor, id, body, tenant=ask.tenant))


def _created(document: dict[str, Any]) -> Answer:
    from tulou.context.routes import ROOT, Answer

    return Answer(201, None, [(b"location", f"{ROOT}snapshots/{quote(document['id'], safe=':')}".encode())])


async def retrieve(door: Door, ask: Ask, id: str) -> Answer:
    """GET snapshots/{id} (6.37.3.1)."""
    return _shown(door, ask, await door.snapshots.retrieve(ask.actor, id, tenant=ask.tenant))


async def update(door: Door, ask: Ask, id: str) -> Answer:
    """PATCH snapshots/{id} (6.37.3.2)."""
    body, _, _ = await door.read(ask, patch=True)
    return _shown(door, ask, await door.snapshots.update(ask.actor, id, body, tenant=ask.tenant))


def _shown(door: Door, ask: Ask, document: dict[str, Any]) -> Answer:
    from tulou.context.routes import negotiate

    ask.only(frozenset())
    return door.answer(ask, document, negotiate(ask.header(b"accept")), door.context(ask)[1])


async def delete(door: Door, ask: Ask, id: str) -> Answer:
    """DELETE snapshots/{id} (6.37.3.3)."""
    from tulou.context.routes import Answer

    ask.only(frozenset())
    await door.snapshots.delete(ask.actor, id, tenant=ask.tenant)
    return Answer(204)


async def purge(door: Door, ask: Ask) -> Answer:
    """DELETE snapshots (6.36.3.2): those that `q` selects."""
    from tulou.context.routes import Answer

    ask.only(frozenset({"q"}))
    q = ask.parameters.get("q")
    if q is None:
        raise bad("须给出 q", "q is needed", field="q", rule="CIM 009, 5.16.7")
    await door.snapshots.purge(ask.actor, q, tenant=ask.tenant)
    return Answer(204)
