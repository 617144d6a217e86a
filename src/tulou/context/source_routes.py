"""The door's side of context sources: registrations, discovery, source identity, and the distributed form of operations.

Law: the door turns a request into service calls and their results into an answer. The house's own part of a distributed
write is done by the very handler that does undistributed ones, with what is left of the body; a distributed read is the
undistributed handler over a service that asks sources, too. So no representation or rule exists twice.

Source: ETSI GS CIM 009 v1.9.1 clauses 6.3.17 to 6.3.19, 6.4 to 6.7, 6.8, 6.9, 6.14 to 6.17, 6.23, 6.31, 6.33 and 5.5.9.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tulou.context import entity_map_routes, query, routes, source_history_routes, source_writes
from tulou.context import selection as selecting
from tulou.context.errors import bad
from tulou.context.evolution import span
from tulou.context.forms import Json
from tulou.context.forwarding import Caller, chain_of
from tulou.context.jsonld import CORE_URL, Context
from tulou.context.registrations import Wanted, shown
from tulou.context.selection import Selection
from tulou.context.service import Page
from tulou.context.source_discovery import Described
from tulou.context.sources import Filters, filters_of
from tulou.context.store import Row
from tulou.kernel.errors import TulouError
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.context.routes import Answer, Ask, Door

Handler = Callable[..., Awaitable["Answer"]]


def find(door: Door, ask: Ask, method: str, parts: list[str]) -> tuple[Handler, list[str]] | None:
    """The distributed handler of a request whose organisation has registrations in force; None for all others, and for
    requests to a snapshot, which is the house's."""
    if b"ngsild-snapshot" in ask.headers:
        return None
    match parts:
        case ["entities"] if method == "GET" and entity_map_routes.wanted(ask):
            return partial(entity_map_routes.query, door), []
        case ["entities", id] if method == "GET" and entity_map_routes.wanted(ask):
            return partial(entity_map_routes.retrieve, door), [id]
        case ["temporal", "entities"] if method == "GET" and entity_map_routes.wanted(ask):
            return partial(entity_map_routes.query_temporal, door), []
        case ["temporal", "entities", id] if method == "GET" and entity_map_routes.wanted(ask):
            return partial(entity_map_routes.retrieve_temporal, door), [id]
        case ["entities" | "entityOperations" | "types" | "attributes" | "temporal", *_]:
            pass
        case _:
            return None
    if not distributed(door, ask):
        return None
    match method, parts:
        case _, ["temporal", *rest]:
            return source_history_routes.find(door, method, rest)
        case ("GET", ["entities"] | ["entities", _]) | ("POST", ["entityOperations", "query"]):
            return partial(reading, door, method, parts), []
        case "GET", ["types" | "attributes", *_]:
            return partial(describing, door, parts), []
        case "POST", ["entities"]:
            return partial(source_writes.create, door), []
        case "DELETE", ["entities"]:
            return partial(source_writes.purge, door), []
        case "PATCH" | "PUT", ["entities", id]:
            return partial(source_writes.change, door, "mergeEntity" if method == "PATCH" else "replaceEntity"), [id]
        case "DELETE", ["entities", id]:
            return partial(source_writes.delete, door), [id]
        case "POST" | "PATCH", ["entities", id, "attrs"]:
            return partial(source_writes.change, door, "appendAttrs" if method == "POST" else "updateEntity"), [id]
        case "PATCH" | "PUT" | "DELETE", ["entities", id, "attrs", name]:
            return partial(source_writes.change_attribute, door), [id, name]
        case "POST", ["entityOperations", ("create" | "upsert" | "update" | "merge" | "delete") as kind]:
            return partial(source_writes.batch, door), [kind]
    return None


def distributed(door: Door, ask: Ask) -> bool:
    """Whether a request's organisation has registrations in force, and it does not say `local`."""
    return (ask.tenant or ask.actor.org) in door.registrations.active and ask.parameters.get("local") != "true"


def caller_of(door: Door, ask: Ask, context: Context, spec: Any) -> Caller:
    """What of a request goes with those that it causes."""
    alias = door.sources.alias(ask.tenant or ask.actor.org)
    address = spec
    if isinstance(spec, list):
        others = [item for item in spec if item != CORE_URL]
        address = others[0] if len(others) == 1 else None
    if isinstance(address, str) and address.startswith(("http://", "https://")):
        return Caller(ask.headers, alias, chain_of(ask.header(b"via")), address, context)
    return Caller(ask.headers, alias, chain_of(ask.header(b"via")))


def again(ask: Ask, body: bytes | None) -> Ask:
    """The request once more, with another body or with the one that was read already."""
    clone = copy.copy(ask)
    if body is not None:
        clone.given = body
    return clone


def warned(answer: Answer, caller: Caller) -> Answer:
    """The answer with the warnings that sources caused (6.3.17)."""
    answer.headers = [*answer.headers, *((b"ngsild-warning", text.encode("latin-1", "replace")) for text in caller.warnings)]
    return answer


async def warning_of(caller: Caller, answering: Awaitable[Answer]) -> Answer:
    """An answer, or the refusal that there is instead, with the warnings that sources caused on the way."""
    try:
        answer = await answering
    except TulouError as error:
        if not caller.warnings:
            raise
        answer = routes.refusal(error)
    return warned(answer, caller)


async def question(door: Door, ask: Ask) -> tuple[bytes | None, Mapping[str, Any], Context, Any]:
    """The body of a query by POST; its members, or the parameters of one by GET; their context and its value."""
    if ask.method != "POST":
        return None, ask.parameters, *door.context(ask)
    data = await ask.body()
    body, context, spec = await door.read(again(ask, data))
    place = body.get("geoQ") if isinstance(body, dict) else None
    given = {**(body if isinstance(body, dict) else {}), **(place if isinstance(place, dict) else {}), **ask.parameters}
    return data, given, context, spec


# ---- reading


class Everywhere:
    """The entities' service as reading handlers use it, over sources too; everything else is the service's own."""

    def __init__(self, door: Door, caller: Caller, filters: Filters, types: Any) -> None:
        self._door = door
        self._caller = caller
        self._filters = filters
        self._types = types

    def __getattr__(self, name: str) -> Any:
        return getattr(self._door.entities, name)

    async def retrieve(self, actor: Actor, id: str, *, tenant: str | None = None) -> Row:
        """As `ContextService.retrieve`."""
        return await self._door.sources.retrieve(
            actor, id, self._caller, tenant=tenant, names=self._filters.names, types=self._types,
            datasets=self._filters.datasets,
        )

    async def query(self, actor: Actor, selection: Selection, *, tenant: str | None = None, **paging: Any) -> Page:
        """As `ContextService.query`; a distributed query has no order (5.7.2.4), so an `order` there is None."""
        paging.pop("order", None)
        return await self._door.sources.query(actor, selection, self._caller, self._filters, tenant=tenant, **paging)


async def here(door: Door, ask: Ask, body: bytes | None, *parts: str) -> Answer:
    """The house alone: the handler of these parts of a path, with this body (None: the request's own)."""
    handler, arguments = door.find("GET" if ask.method == "HEAD" else ask.method, list(parts))
    return await handler(again(ask, body), *arguments)


async def reading(door: Door, method: str, parts: list[str], ask: Ask) -> Answer:
    """A reading handler over the house and its sources."""
    data, parameters, context, spec = await question(door, ask)
    caller = caller_of(door, ask, context, spec)
    filters = filters_of(parameters, context, caller)
    if filters.names is not None and "geo+json" in (ask.header(b"accept") or ""):
        filters.names |= {context.stored(ask.parameters.get("geometryProperty", "location"))}
    types = ask.parameters.get("type")
    view = copy.copy(door)
    view.entities = Everywhere(door, caller, filters, selecting.type_tree(types, context) if types else None)  # type: ignore[assignment]
    own = again(ask, data)
    own.parameters = {name: value for name, value in ask.parameters.items() if name != "splitEntities"}
    if "orderBy" in ask.parameters:
        index = door.registrations.active[ask.tenant or ask.actor.org]
        chosen = door.selection(ask.parameters, context, free=True)
        if not door.sources.asked(index, chosen, caller, filters):
            return await here(door, ask, data, *parts)
        raise bad("分布式查询不可排序；可加 local=true", "a distributed query cannot be ordered; add local=true",
                  field="orderBy", rule="CIM 009, 5.7.2.4")
    handler, arguments = view.find(method, parts)
    return await warning_of(caller, handler(own, *arguments))


async def describing(door: Door, parts: list[str], ask: Ask) -> Answer:
    """GET types and attributes, of the house and its sources."""
    context, spec = door.context(ask)
    caller = caller_of(door, ask, context, spec)
    name = context.stored(parts[1]) if len(parts) > 1 else None
    view = copy.copy(door)
    view.entities = Described(  # type: ignore[assignment]
        door, caller, name if parts[0] == "types" else None, name if parts[0] == "attributes" else None
    )
    handler, arguments = view.find("GET", parts)
    return await warning_of(caller, handler(ask, *arguments))


# ---- registrations


def _registration_answer(door: Door, ask: Ask, document: Json, context: Context) -> Json:
    out = shown(document, context)
    if "sysAttrs" not in ask.parameters.get("options", ""):
        out.pop("createdAt", None)
        out.pop("modifiedAt", None)
    return out


async def register(door: Door, ask: Ask) -> Answer:
    """POST csourceRegistrations (6.8.3.1)."""

    ask.only(frozenset({"local"}))
    body, context, _ = await door.read(ask)
    id = await door.registrations.create(ask.actor, body, context, tenant=ask.tenant)
    return routes.Answer(201, None, [(b"location", f"{routes.ROOT}csourceRegistrations/{quote(id, safe=':')}".encode())])


async def registration(door: Door, ask: Ask, id: str) -> Answer:
    """GET csourceRegistrations/{id} (6.9.3.1)."""

    ask.only(frozenset({"options", "local"}))
    media, (context, spec) = routes.negotiate(ask.header(b"accept")), door.context(ask)
    found = await door.registrations.retrieve(ask.actor, id, tenant=ask.tenant)
    return door.answer(ask, _registration_answer(door, ask, found, context), media, spec)


async def discover(door: Door, ask: Ask) -> Answer:
    """GET csourceRegistrations (6.8.3.2)."""

    ask.only(frozenset({
        "type", "id", "idPattern", "attrs", "q", "csf", "georel", "geometry", "coordinates", "geoproperty", "scopeQ",
        "timerel", "timeAt", "endTimeAt", "timeproperty", "limit", "offset", "count", "options", "local", "datasetId",
        "expandValues",
    }))
    media, (context, spec) = routes.negotiate(ask.header(b"accept")), door.context(ask)
    limit, _, offset, count = door.paging(ask)
    wanted = wanted_of(door, ask.parameters, context)
    found, total = await door.registrations.search(ask.actor, wanted, tenant=ask.tenant, limit=limit, offset=offset)
    more: list[tuple[bytes, bytes]] = [(b"ngsild-results-count", str(total).encode())] if count else []
    more += entity_map_routes.links(ask, limit, offset, total)
    return door.answer(ask, [_registration_answer(door, ask, item, context) for item in found], media, spec, more=more)


def wanted_of(door: Door, parameters: Mapping[str, str], context: Context) -> Wanted:
    """What discovery looks for (5.10.2.4). Raises `BadRequestData`, also when nothing narrows it."""
    given = {name: value for name, value in parameters.items() if value != ""}
    chosen = door.selection({k: v for k, v in given.items() if k not in ("q", "timerel")}, context, free=True)
    nodes = tuple(query.parse(given[name], context) for name in ("q", "csf") if name in given)
    period = None
    if "timerel" in given or "timeAt" in given:
        kind = given.get("timeproperty", "observedAt")
        if kind not in ("observedAt", "createdAt", "modifiedAt", "deletedAt"):
            raise bad("timeproperty 不合规则", "timeproperty must be observedAt, createdAt, modifiedAt or deletedAt",
                      field="timeproperty", value=kind)
        when = span({k: v for k, v in given.items() if k in ("timerel", "timeAt", "endTimeAt")}, needed=True, style="normalized")
        period = (kind, when.start, when.end)
    if not any(name in given for name in ("type", "attrs", "id", "idPattern", "q", "csf", "georel", "scopeQ")):
        raise bad("须给出 type、attrs、id、idPattern、q、csf 或地理条件之一",
                  "one of type, attrs, id, idPattern, q, csf or a geoquery is needed", field="type", rule="CIM 009, 5.10.2.4")
    return Wanted(
        chosen.selectors[0] if chosen.selectors else None, frozenset(chosen.attributes) or None, nodes, chosen.geo,
        chosen.scope, period, frozenset(given["datasetId"].split(",")) if "datasetId" in given else frozenset(),
    )


async def reregister(door: Door, ask: Ask, id: str) -> Answer:
    """PATCH csourceRegistrations/{id} (6.9.3.2)."""

    ask.only(frozenset({"local"}))
    body, context, _ = await door.read(ask, patch=True)
    await door.registrations.update(ask.actor, id, body, context, tenant=ask.tenant)
    return routes.Answer(204)


async def unregister(door: Door, ask: Ask, id: str) -> Answer:
    """DELETE csourceRegistrations/{id} (6.9.3.3)."""

    ask.only(frozenset({"local"}))
    await door.registrations.delete(ask.actor, id, tenant=ask.tenant)
    return routes.Answer(204)


async def identity(door: Door, ask: Ask) -> Answer:
    """GET info/sourceIdentity (6.33.3.1)."""

    ask.only(frozenset())
    media, (_, spec) = routes.negotiate(ask.header(b"accept")), door.context(ask)
    return door.answer(ask, await door.sources.identity(ask.actor, tenant=ask.tenant), media, spec)


