"""The door's part for subscriptions (CIM 009 v1.9.1 clauses 6.10 and 6.11).

Law: as in `routes`: a request becomes one service call and its result an answer; nothing is decided here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tulou.context import routes
from tulou.context.errors import InvalidRequest, LoopDetected, MethodNotAllowed, bad
from tulou.context.forms import Json
from tulou.context.forwarding import chain_of
from tulou.context.paging import DEFAULT_LIMIT, MAX_LIMIT, MAX_OFFSET, whole_number

if TYPE_CHECKING:
    from tulou.context.routes import Answer, Ask, Door, Headers

_ONE = frozenset({"options", "local"})
_LIST = _ONE | {"limit", "offset", "count"}
_VERSION = re.compile(r'\s*ngsi-ld\s*=\s*"?(1\.\d)"?\s*(;.*)?', re.IGNORECASE)


async def create(door: Door, ask: Ask) -> Answer:
    """POST subscriptions (6.10.3.1)."""
    ask.only(frozenset({"local"}))
    body, spec = await _read(door, ask, patch=False)
    chain = chain_of(ask.header(b"via"))
    if door.sources.alias(ask.tenant or ask.actor.org) in chain:
        raise LoopDetected("订阅转了一圈又回到本系统", "the subscription has come back to this house", field="Via",
                           rule="CIM 009, 6.3.17")
    if ask.flag("local") and isinstance(body, dict):
        body["localOnly"] = True
    id = await door.subscriptions.create(ask.actor, body, spec, tenant=ask.tenant, chain=chain)
    return routes.Answer(201, None, [(b"location", f"{routes.ROOT}subscriptions/{quote(id, safe=':')}".encode())])


async def _read(door: Door, ask: Ask, *, patch: bool) -> tuple[Any, Any]:
    """The body and its context; a list of one context is that context."""
    try:
        body, _, spec = await door.read(ask, patch=patch)
    except InvalidRequest as error:
        if error.rule == "CIM 009, 6.3.4":  # an empty object is JSON: it breaks rules of the data (5.8.1.4)
            raise bad(error.zh, error.en, field=error.field, rule="CIM 009, 5.2.12") from None
        raise
    if isinstance(spec, list) and len(spec) == 1 and isinstance(spec[0], str):
        spec = spec[0]
    return body, spec


async def search(door: Door, ask: Ask) -> Answer:
    """GET subscriptions (6.10.3.2)."""
    ask.only(_LIST)
    media, (_, spec) = routes.negotiate(ask.header(b"accept")), door.context(ask)
    count = ask.flag("count")
    limit = whole_number(ask.parameters, "limit", DEFAULT_LIMIT, 0 if count else 1, MAX_LIMIT)
    offset = whole_number(ask.parameters, "offset", 0, 0, MAX_OFFSET)
    found, total = await door.subscriptions.search(ask.actor, spec, tenant=ask.tenant, limit=limit, offset=offset)
    more: Headers = [(b"ngsild-results-count", str(total).encode())] if count else []
    if offset and limit:
        more.append((b"link", _page(ask, limit, max(offset - limit, 0), "prev")))
    if limit and offset + limit < total:
        more.append((b"link", _page(ask, limit, offset + limit, "next")))
    return door.answer(ask, [_stamped(door, ask, item) for item in found], media, spec, more=more)


def _page(ask: Ask, limit: int, offset: int, relation: str) -> bytes:
    kept = [(k, v) for k, v in ask.parameters.items() if k not in ("limit", "offset")]
    pairs = [("limit", str(limit)), ("offset", str(offset)), *kept]
    text = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in pairs)
    return f'<{ask.path.rstrip("/")}?{text}>;rel="{relation}";type="application/ld+json"'.encode()


def _stamped(door: Door, ask: Ask, document: Json) -> Json:
    if "sysAttrs" not in ask.parameters.get("options", ""):
        document.pop("createdAt", None)
        document.pop("modifiedAt", None)
    if document.get("jsonldContext", "").startswith("/"):
        document["jsonldContext"] = door.address(ask, document["jsonldContext"])
    return document


def _preference(ask: Ask) -> Headers:
    """`Preference-Applied` for a preferred version (6.3.6): a subscription has no older form, so any is satisfied."""
    for part in (ask.header(b"prefer") or "").split(","):
        match = _VERSION.fullmatch(part)
        if match is not None:
            return [(b"preference-applied", f"ngsi-ld={match.group(1)}".encode())]
    return []


async def retrieve(door: Door, ask: Ask, id: str) -> Answer:
    """GET subscriptions/{id} (6.11.3.1)."""
    ask.only(_ONE)
    media, (_, spec) = routes.negotiate(ask.header(b"accept")), door.context(ask)
    found = await door.subscriptions.retrieve(ask.actor, id, spec, tenant=ask.tenant)
    return door.answer(ask, _stamped(door, ask, found), media, spec, more=_preference(ask))


async def update(door: Door, ask: Ask, id: str) -> Answer:
    """PATCH subscriptions/{id} (6.11.3.2)."""
    ask.only(frozenset({"local"}))
    body, spec = await _read(door, ask, patch=True)
    await door.subscriptions.update(ask.actor, id, body, spec, tenant=ask.tenant)
    return routes.Answer(204)


async def delete(door: Door, ask: Ask, id: str) -> Answer:
    """DELETE subscriptions/{id} (6.11.3.3)."""
    ask.only(frozenset({"local"}))
    await door.subscriptions.delete(ask.actor, id, tenant=ask.tenant)
    return routes.Answer(204)


async def notified(door: Door, ask: Ask) -> Answer:
    """POST of a Notification by a context source (5.8.6, 6.3.8)."""
    if ask.method != "POST":
        raise MethodNotAllowed("此资源只支持 POST", "POST is the only method of this resource", field="method",
                               value=ask.method, rule="POST")
    named = b"link" in ask.headers or (ask.header(b"content-type") or "").startswith(routes.LD)
    body, context, _ = await door.read(ask)
    await door.remote.receive(body, context if named else None)
    return routes.Answer(200)
