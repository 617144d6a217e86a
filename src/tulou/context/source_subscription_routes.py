"""The door's side of subscriptions to context source registrations: `csourceSubscriptions`.

Law: the door turns a request into one service call and its result into an answer.

Source: ETSI GS CIM 009 v1.9.1 clauses 6.12 and 6.13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from tulou.context import entity_map_routes, routes
from tulou.context.forms import Json

if TYPE_CHECKING:
    from tulou.context.routes import Answer, Ask, Door


def _shown(ask: Ask, document: Json) -> Json:
    if "sysAttrs" not in ask.parameters.get("options", ""):
        document.pop("createdAt", None)
        document.pop("modifiedAt", None)
    return document


async def subscribe(door: Door, ask: Ask) -> Answer:
    """POST csourceSubscriptions (6.12.3.1)."""
    ask.only(frozenset({"local"}))
    body, _, spec = await door.read(ask)
    id = await door.source_subscriptions.create(ask.actor, body, spec, tenant=ask.tenant)
    return routes.Answer(201, None, [(b"location", f"{routes.ROOT}csourceSubscriptions/{quote(id, safe=':')}".encode())])


async def show_all(door: Door, ask: Ask) -> Answer:
    """GET csourceSubscriptions (6.12.3.2)."""
    ask.only(frozenset({"limit", "offset", "count", "options", "local"}))
    media, (_, spec) = routes.negotiate(ask.header(b"accept")), door.context(ask)
    limit, _, offset, count = door.paging(ask)
    found, total = await door.source_subscriptions.search(ask.actor, tenant=ask.tenant, limit=limit, offset=offset)
    more: list[tuple[bytes, bytes]] = [(b"ngsild-results-count", str(total).encode())] if count else []
    more += entity_map_routes.links(ask, limit, offset, total)
    return door.answer(ask, [_shown(ask, item) for item in found], media, spec, more=more)


async def show(door: Door, ask: Ask, id: str) -> Answer:
    """GET csourceSubscriptions/{id} (6.13.3.1)."""
    ask.only(frozenset({"options", "local"}))
    media, (_, spec) = routes.negotiate(ask.header(b"accept")), door.context(ask)
    found = await door.source_subscriptions.retrieve(ask.actor, id, tenant=ask.tenant)
    return door.answer(ask, _shown(ask, found), media, spec)


async def update(door: Door, ask: Ask, id: str) -> Answer:
    """PATCH csourceSubscriptions/{id} (6.13.3.2)."""
    ask.only(frozenset({"local"}))
    body, _, spec = await door.read(ask, patch=True)
    await door.source_subscriptions.update(ask.actor, id, body, spec, tenant=ask.tenant)
    return routes.Answer(204)


async def delete(door: Door, ask: Ask, id: str) -> Answer:
    """DELETE csourceSubscriptions/{id} (6.13.3.3)."""
    ask.only(frozenset({"local"}))
    await door.source_subscriptions.delete(ask.actor, id, tenant=ask.tenant)
    return routes.Answer(204)
