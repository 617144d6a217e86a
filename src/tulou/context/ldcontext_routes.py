"""The door's part for stored @contexts (CIM 009 v1.9.1 clauses 6.29 and 6.30).

Law: as in `routes`: a request becomes one service call and its result an answer; nothing is decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from tulou.context import routes
from tulou.context.errors import InvalidRequest, UnsupportedMediaType, bad
from tulou.context.ldcontexts import KINDS, PATH

if TYPE_CHECKING:
    from tulou.context.routes import Answer, Ask, Door


async def add(door: Door, ask: Ask) -> Answer:
    """POST jsonldContexts (6.29.3.1). `?url=` stores it in the place of the remote one at that address."""
    ask.only(frozenset({"url", "local"}))
    data = await ask.body()
    kind = (ask.header(b"content-type") or "").partition(";")[0].strip().lower()
    if kind not in (routes.JSON, routes.LD):
        raise UnsupportedMediaType("正文应为 JSON", "the body must be JSON", field="Content-Type", value=kind)
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"正文不是有效的 JSON：{error}", f"the body is not JSON: {error}", field="body") from None
    id = await door.stored.add(ask.actor, document, tenant=ask.tenant, url=ask.parameters.get("url"))
    return routes.Answer(201, None, [(b"location", (PATH + id).encode())])


async def search(door: Door, ask: Ask) -> Answer:
    """GET jsonldContexts (6.29.3.2)."""
    ask.only(frozenset({"details", "kind", "local"}))
    kind = ask.parameters.get("kind")
    if kind is not None and kind not in KINDS:
        raise bad(f"kind 应为 {', '.join(KINDS)}", f"kind must be among {', '.join(KINDS)}", field="kind", value=kind)
    found = await door.stored.search(ask.actor, kind=kind, tenant=ask.tenant)
    details = ask.flag("details")
    body = [_detailed(door, ask, about) if details else door.address(ask, url) for url, about in found]
    return routes.Answer(200, orjson.dumps(body), list(routes._PLAIN))


def _detailed(door: Door, ask: Ask, about: dict[str, Any]) -> dict[str, Any]:
    return {**about, "URL": door.address(ask, about["URL"])}


async def retrieve(door: Door, ask: Ask, id: str) -> Answer:
    """GET jsonldContexts/{id} (6.30.3.1)."""
    ask.only(frozenset({"details", "local"}))
    details = ask.flag("details")
    document, about = await door.stored.retrieve(ask.actor, door._local(ask, id), tenant=ask.tenant)
    if details:
        return routes.Answer(200, orjson.dumps(_detailed(door, ask, about)), list(routes._PLAIN))
    media = routes.negotiate(ask.header(b"accept")) if ask.headers.get(b"accept") else routes.LD
    return door.context_document(ask, document, media)


async def delete(door: Door, ask: Ask, id: str) -> Answer:
    """DELETE jsonldContexts/{id} (6.30.3.2)."""
    ask.only(frozenset({"reload", "local"}))
    reload = ask.flag("reload")
    await door.stored.delete(ask.actor, door._local(ask, id), tenant=ask.tenant, reload=reload)
    return routes.Answer(204)
