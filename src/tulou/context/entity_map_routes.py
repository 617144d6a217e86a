"""The door's side of entity maps: `entityMaps`, `temporal/entityMaps`, and queries, also of the history, by a map.

Law: a map only fixes which entities are walked and in what order; what is answered is read, filtered and written by the
same handlers as without one.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.5.9.3, 5.5.14, 5.7.2.4, 5.7.3.4, 5.7.4.4, 6.4.3.2, 6.32, 6.34 and 6.35.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from tulou.context import routes, source_history_routes, source_routes, sources
from tulou.context.entity_maps import DEFAULT_US
from tulou.context.errors import TooManyResults, bad
from tulou.context.evolution import duration
from tulou.context.forms import Json
from tulou.context.paging import MAX_LIMIT
from tulou.context.selection import Selection
from tulou.context.service import Page
from tulou.context.store import Row
from tulou.kernel.errors import TulouError
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.context.routes import Answer, Ask, Door

HEADER = b"ngsild-entitymap"
MOST = 10_000
"""Most entities in a map."""
CHUNK = 100


def wanted(ask: Ask) -> bool:
    """Whether a query asks for a map, or brings one."""
    return HEADER in ask.headers or ask.parameters.get("entityMap") == "true"


def lifetime_of(ask: Ask) -> int:
    """The lifetime asked for, in µs. Raises `BadRequestData`."""
    text = ask.parameters.get("entityMapLifetime")
    if text is None:
        return DEFAULT_US
    try:
        found = duration(text)
    except TulouError:
        found = None
    if not found:
        raise bad("entityMapLifetime 应为 ISO 8601 时长", "entityMapLifetime must be an ISO 8601 duration",
                  field="entityMapLifetime", value=text, rule="CIM 009, table 6.4.3.2-1")
    return found


def links(ask: Ask, limit: int, offset: int, total: int) -> list[tuple[bytes, bytes]]:
    """`Link` headers to the neighbouring pages of a result that is paged by offset (6.3.10)."""
    def link(place: int, relation: str) -> tuple[bytes, bytes]:
        pairs = {**ask.parameters, "offset": str(place)}
        text = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in pairs.items())
        return b"link", f'<{ask.path}?{text}>;rel="{relation}";type="application/ld+json"'.encode()

    found = []
    if offset > 0:
        found.append(link(max(0, offset - limit), "prev"))
    if limit and offset + limit < total:
        found.append(link(offset + limit, "next"))
    return found


class _Query:
    """A query of the door as a function: everywhere that the request's organisation has sources, or here alone."""

    def __init__(self, door: Door, ask: Ask, *, free: bool = False) -> None:
        self.door, self.ask = door, ask
        self.context, self.spec = door.context(ask)
        self.selection = door.selection(ask.parameters, self.context, free=free or ask.flag("local"))
        self.caller = source_routes.caller_of(door, ask, self.context, self.spec)
        self.filters = sources.filters_of(ask.parameters, self.context, self.caller)
        org = ask.tenant or ask.actor.org
        self.everywhere = org in door.registrations.active and not ask.flag("local")

    async def rows(self, selection: Selection, limit: int) -> list[Row]:
        """At most `limit` entities. Raises `TooManyResults` if there are more."""
        ask = self.ask
        if self.everywhere:
            page = await self.door.sources.query(
                ask.actor, selection, self.caller, self.filters, tenant=ask.tenant, limit=limit
            )
        else:
            page = await self.door.entities.query(ask.actor, selection, tenant=ask.tenant, limit=limit)
        if page.next is not None:
            raise TooManyResults(f"实体映射最多 {limit} 个实体", f"an entity map holds at most {limit} entities",
                                 field="entityMap", rule=f"<= {limit}")
        return page.rows

    async def all(self) -> dict[str, list[str]]:
        """Every entity that the query finds, with where it is held."""
        rows = await self.rows(self.selection, MOST)
        return {row.id: self.filters.origins.get(row.id) or ["@none"] for row in rows}


def _location(id: str) -> str:
    return f"{routes.ROOT}entityMaps/{quote(id, safe=':')}"


async def query(door: Door, ask: Ask) -> Answer:
    """GET entities with `entityMap=true` or with a map (6.4.3.2, 5.5.9.3)."""
    limit, _, offset, count = door.paging(ask)
    lifetime = lifetime_of(ask)
    asked = _Query(door, ask)
    status, found = 200, await _given(door, ask)
    if found is None:
        status = 201
        found = await door.maps.create(ask.actor, await asked.all(), tenant=ask.tenant, lifetime=lifetime)
    ids = list(found["entityMap"])
    rows: list[Row] = []
    gone: list[str] = []
    at = 0
    kept: list[str] = []
    while at < len(ids) and (count or len(rows) < offset + limit + 1):
        chunk = ids[at : at + CHUNK]
        at += CHUNK
        fresh = {row.id: row for row in await asked.rows(sources.restricted(asked.selection, chunk), CHUNK)}
        rows += [fresh[id] for id in chunk if id in fresh]
        kept += [id for id in chunk if id in fresh]
        gone += [id for id in chunk if id not in fresh]
    if gone:
        await door.maps.prune(ask.actor, found["id"], gone, tenant=ask.tenant)
    total = len(rows) if at >= len(ids) else max(len(rows), len(ids) - len(gone))
    view = copy.copy(door)
    view.entities = _Fixed(door, rows[offset : offset + limit], total if count else None)  # type: ignore[assignment]
    own = copy.copy(ask)
    own.parameters = {
        key: value for key, value in ask.parameters.items()
        if key not in ("entityMap", "entityMapLifetime", "splitEntities", "offset", "cursor")
    }
    handler, _ = view.find("GET", ["entities"])
    answer = await handler(own)
    answer.status = status
    answer.headers = [
        *answer.headers, *links(ask, limit, offset, total), (HEADER, _location(found["id"]).encode()),
    ]
    return source_routes.warned(answer, asked.caller)


async def retrieve(door: Door, ask: Ask, id: str) -> Answer:
    """GET entities/{id} with `entityMap=true` or with a map (5.7.1.4): of that entity, with where it is held."""
    lifetime = lifetime_of(ask)
    own = _without(ask)
    handler, arguments = source_routes.find(door, own, "GET", ["entities", id]) or door.find("GET", ["entities", id])
    answer = await handler(own, *arguments)
    if answer.status >= 400:
        return answer
    found = await _given(door, ask)
    if found is None:
        plain = _without(ask, *ask.parameters, id=id, local=str(ask.flag("local")).lower())
        asked = _Query(door, plain, free=True)
        await asked.rows(asked.selection, 1)
        held = asked.filters.origins.get(id) or ["@none"]
        found = await door.maps.create(ask.actor, {id: held}, tenant=ask.tenant, lifetime=lifetime)
    answer.headers = [*answer.headers, (HEADER, _location(found["id"]).encode())]
    return answer


async def _given(door: Door, ask: Ask) -> Json | None:
    """The map that a request brings, None where it brings none that is alive: then a new one is made (5.7.2.4)."""
    if HEADER not in ask.headers:
        return None
    id = ask.headers[HEADER].decode("latin-1").strip().rsplit("/", 1)[-1]
    try:
        return await door.maps.retrieve(ask.actor, id, tenant=ask.tenant)
    except TulouError:
        return None


class _Fixed:
    """The entities' service of a query whose result is known."""

    def __init__(self, door: Door, rows: list[Row], count: int | None) -> None:
        self._door, self._rows, self._count = door, rows, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._door.entities, name)

    async def query(self, actor: Actor, selection: Selection, **_: Any) -> Any:
        """The rows; the policy was asked where they were read."""
        return Page(self._rows, count=self._count)


async def create(door: Door, ask: Ask) -> Answer:
    """GET entityMaps (6.34.3.1)."""
    media, (_, spec) = routes.negotiate(ask.header(b"accept")), door.context(ask)
    lifetime = lifetime_of(ask)
    asked = _Query(door, ask)
    found = await door.maps.create(ask.actor, await asked.all(), tenant=ask.tenant, lifetime=lifetime)
    more = [(HEADER, _location(found["id"]).encode())]
    return source_routes.warned(door.answer(ask, found, media, spec, status=201, more=more), asked.caller)


async def create_temporal(door: Door, ask: Ask) -> Answer:
    """GET temporal/entityMaps (6.35.3.1): of the entities whose history the query finds."""
    media, (_, spec) = routes.negotiate(ask.header(b"accept")), door.context(ask)
    made, warnings = await _map_of_histories(door, ask)
    more = [(HEADER, _location(made["id"]).encode()), *warnings]
    return door.answer(ask, made, media, spec, status=201, more=more)


def _without(ask: Ask, *names: str, **more: str) -> Ask:
    """The request less what is said of a map and the parameters `names`, with `more`."""
    own = copy.copy(ask)
    own.headers = {key: value for key, value in ask.headers.items() if key != HEADER}
    less = {"entityMap", "entityMapLifetime", *names}
    own.parameters = {**{key: value for key, value in ask.parameters.items() if key not in less}, **more}
    return own


async def _map_of_histories(door: Door, ask: Ask) -> tuple[Json, list[tuple[bytes, bytes]]]:
    """A new map of the entities whose history the query finds, and the warnings on the way. Raises `TooManyResults`."""
    lifetime = lifetime_of(ask)
    found: dict[str, list[str]] = {}
    warnings: dict[tuple[bytes, bytes], None] = {}
    offset = 0
    while True:
        own = _without(ask, "count", limit=str(MAX_LIMIT), offset=str(offset))
        own.headers.pop(b"accept", None)
        origins: dict[str, list[str]] = {}
        page = await source_history_routes.anywhere(door, own, ["temporal", "entities"], origins)
        items = orjson.loads(page.body or b"[]")
        found.update((item["id"], origins.get(item["id"], ["@none"])) for item in items)
        warnings.update((pair, None) for pair in page.headers if pair[0] == b"ngsild-warning")
        offset += MAX_LIMIT
        if not any(key == b"link" and b'rel="next"' in value for key, value in page.headers):
            break
        if len(found) > MOST:
            raise TooManyResults(f"实体映射最多 {MOST} 个实体", f"an entity map holds at most {MOST} entities",
                                 field="entityMap", rule=f"<= {MOST}")
    return await door.maps.create(ask.actor, found, tenant=ask.tenant, lifetime=lifetime), list(warnings)


async def query_temporal(door: Door, ask: Ask) -> Answer:
    """GET temporal/entities with `entityMap=true` or with a map (5.7.4.4): a page is a part of the map, less what does
    not fit any more."""
    limit, _, offset, count = door.paging(ask)
    fresh, found = False, await _given(door, ask)
    if found is None:
        fresh, (found, _) = True, await _map_of_histories(door, ask)
    context, spec = door.context(ask)
    chosen = sources.restricted(door.selection(ask.parameters, context, free=True), list(found["entityMap"]))
    allowed = {id for selector in chosen.selectors for id in selector.ids}
    ids = [id for id in found["entityMap"] if id in allowed]
    page = ids[offset : offset + limit]
    if page:
        own = _without(ask, "count", "offset", "cursor", "idPattern", id=",".join(page), limit=str(len(page)))
        answer = await source_history_routes.anywhere(door, own, ["temporal", "entities"])
    else:
        answer = door.answer(ask, [], door.negotiate(ask), spec)
    if fresh and answer.status == 200:
        answer.status = 201
    counted = [(b"ngsild-results-count", str(len(ids)).encode())] if count else []
    answer.headers = [
        *answer.headers, *counted, *links(ask, limit, offset, len(ids)), (HEADER, _location(found["id"]).encode()),
    ]
    return answer


async def retrieve_temporal(door: Door, ask: Ask, id: str) -> Answer:
    """GET temporal/entities/{id} with `entityMap=true` or with a map (5.7.3.4)."""
    lifetime = lifetime_of(ask)
    origins: dict[str, list[str]] = {}
    answer = await source_history_routes.anywhere(door, _without(ask), ["temporal", "entities", id], origins)
    if answer.status >= 400:
        return answer
    found = await _given(door, ask) or await door.maps.create(
        ask.actor, {id: origins.get(id, ["@none"])}, tenant=ask.tenant, lifetime=lifetime
    )
    answer.headers = [*answer.headers, (HEADER, _location(found["id"]).encode())]
    return answer


async def show(door: Door, ask: Ask, id: str) -> Answer:
    """GET entityMaps/{id} (6.32.3.1)."""
    ask.only(frozenset({"local"}))
    media, (_, spec) = routes.negotiate(ask.header(b"accept")), door.context(ask)
    return door.answer(ask, await door.maps.retrieve(ask.actor, id, tenant=ask.tenant), media, spec)


async def update(door: Door, ask: Ask, id: str) -> Answer:
    """PATCH entityMaps/{id} (6.32.3.2)."""
    body, _, _ = await door.read(ask, patch=True)
    await door.maps.update(ask.actor, id, body, tenant=ask.tenant)
    return routes.Answer(204)


async def delete(door: Door, ask: Ask, id: str) -> Answer:
    """DELETE entityMaps/{id} (6.32.3.3)."""
    await door.maps.delete(ask.actor, id, tenant=ask.tenant)
    return routes.Answer(204)
