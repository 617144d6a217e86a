"""The door's side of context sources: registrations, discovery, source identity, and the distributed form of operations.

Law: the door turns a request into service calls and their results into an answer. The house's own part of a distributed
write is done by the very handler that does undistributed ones, with what is left of the body; a distributed read is the
undistributed handler over a service that asks sources, too. So no representation or rule exists twice.

Source: ETSI GS CIM 009 v1.9.1 clauses 6.3.17 to 6.3.19, 6.4 to 6.7, 6.8, 6.9, 6.14 to 6.17, 6.23, 6.31, 6.33 and 5.5.9.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from tulou.context import distribution, entity_map_routes, forms, matching, query, routes
from tulou.context import selection as selecting
from tulou.context.distribution import Part, RemoteProblem, entries_of, error_entry
from tulou.context.errors import RegistrationConflict, bad
from tulou.context.forms import Json, Reader, entity_id
from tulou.context.forwarding import Caller, Outcome, chain_of
from tulou.context.jsonld import CORE_URL, Context
from tulou.context.matching import EVERY
from tulou.context.registrations import Wanted, shown
from tulou.context.selection import Selection
from tulou.context.service import Page
from tulou.context.sources import Filters
from tulou.context.store import Row
from tulou.context.temporal import span
from tulou.kernel.errors import NotFound, TulouError
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.context.routes import Answer, Ask, Door

Handler = Callable[..., Awaitable["Answer"]]

_CREATE, _WRITE, _DELETE = "context.entity.create", "context.entity.write", "context.entity.delete"
_FILTERS = ("q", "scopeQ", "expandValues")
_PLACE = ("georel", "geometry", "coordinates", "geoproperty")
_BATCHES = {
    "create": ("createBatch", ("createEntity",)), "upsert": ("upsertBatch", ("createEntity", "updateEntity", "replaceEntity")),
    "update": ("updateBatch", ("appendAttrs", "updateEntity")), "merge": ("mergeBatch", ("mergeEntity",)),
    "delete": ("deleteBatch", ("deleteEntity",)),
}


def find(door: Door, ask: Ask, method: str, parts: list[str]) -> tuple[Handler, list[str]] | None:
    """The distributed handler of a request whose organisation has registrations in force; None for all others."""
    match parts:
        case ["entities"] if method == "GET" and entity_map_routes.wanted(ask):
            return partial(entity_map_routes.query, door), []
        case ["entities" | "entityOperations", *_]:
            pass
        case _:
            return None
    org = ask.tenant or ask.actor.org
    if org not in door.registrations.active or ask.parameters.get("local") == "true":
        return None
    match method, parts:
        case "GET", ["entities"]:
            return partial(reading, door, door.query), []
        case "GET", ["entities", id]:
            return partial(reading, door, door.retrieve), [id]
        case "POST", ["entityOperations", "query"]:
            return partial(reading, door, door.query_by_post), []
        case "POST", ["entities"]:
            return partial(create, door), []
        case "DELETE", ["entities"]:
            return partial(purge, door), []
        case "PATCH" | "PUT", ["entities", id]:
            return partial(change, door, "mergeEntity" if method == "PATCH" else "replaceEntity"), [id]
        case "DELETE", ["entities", id]:
            return partial(delete, door), [id]
        case "POST" | "PATCH", ["entities", id, "attrs"]:
            return partial(change, door, "appendAttrs" if method == "POST" else "updateEntity"), [id]
        case "PATCH" | "PUT" | "DELETE", ["entities", id, "attrs", name]:
            return partial(change_attribute, door), [id, name]
        case "POST", ["entityOperations", ("create" | "upsert" | "update" | "merge" | "delete") as kind]:
            return partial(batch, door), [kind]
    return None


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
        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        clone.receive = receive
        clone.headers = {**ask.headers, b"content-length": str(len(body)).encode()}
    return clone


def warned(answer: Answer, caller: Caller) -> Answer:
    """The answer with the warnings that sources caused (6.3.17)."""
    answer.headers = [*answer.headers, *((b"ngsild-warning", text.encode("latin-1", "replace")) for text in caller.warnings)]
    return answer


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
        """As `ContextService.query`."""
        return await self._door.sources.query(actor, selection, self._caller, self._filters, tenant=tenant, **paging)


def portable(parameters: Mapping[str, Any], context: Context, caller: Caller) -> bool:
    """Whether the filters of a query mean at a source what they mean here, as the client wrote them: they travel with
    their context, or name only what every context without an address names alike."""
    if caller.link is not None or context.identity:
        return True
    if "expandValues" in parameters:
        return False
    names = {context.stored(str(parameters["geoproperty"]))} if "geoproperty" in parameters else set()
    if isinstance(parameters.get("q"), str):
        names |= {name for path in query.paths(query.parse(parameters["q"], context)) for name in path.names}
    return all(":" not in name and context.shown(name) == name for name in names)


def filters_of(parameters: Mapping[str, Any], context: Context, caller: Caller) -> Filters:
    """How a query is executed, and what of it goes to sources."""
    texts = {name: str(parameters[name]) for name in _FILTERS if name in parameters}
    place = {name: parameters[name] for name in _PLACE if name in parameters}
    keep: set[str] = set()
    restricted = False
    for member in ("attrs", "pick"):
        value = parameters.get(member)
        if value:
            names = value if isinstance(value, list) else str(value).replace("|", ",").split(",")
            plain = {name.partition("{")[0].strip() for name in names} - {"id", "type", "scope", "expiresAt"}
            keep |= {context.stored(name) for name in plain if name}
            restricted = bool(keep)
    csf = parameters.get("csf")
    datasets = parameters.get("datasetId")
    split = parameters.get("splitEntities") in (True, "true")
    return Filters(
        texts, place or None, query.parse(csf, context) if isinstance(csf, str) else None,
        split or not portable(parameters, context, caller), frozenset(keep) if restricted else None,
        frozenset(datasets if isinstance(datasets, list) else datasets.split(",")) if datasets else frozenset(),
    )


async def reading(door: Door, handler: Any, ask: Ask, *arguments: str) -> Answer:
    """A reading handler over the house and its sources."""
    parameters: Mapping[str, Any] = ask.parameters
    data = None
    if ask.method == "POST":
        data = await ask.body()
        body, context, spec = await door.read(again(ask, data))
        place = body.get("geoQ") if isinstance(body, dict) else None
        parameters = {**(body if isinstance(body, dict) else {}), **(place if isinstance(place, dict) else {}), **parameters}
    else:
        context, spec = door.context(ask)
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
        raise bad("分布式查询不可排序；可加 local=true", "a distributed query cannot be ordered; add local=true",
                  field="orderBy", rule="CIM 009, 5.7.2.4")
    try:
        answer: Answer = await getattr(view, handler.__name__)(own, *arguments)
    except TulouError as error:
        if not caller.warnings:
            raise
        answer = routes.refusal(error)
    return warned(answer, caller)


# ---- writing: what came of the parts


class Done:
    """What came of one part: `status` and JSON body, or the error."""

    __slots__ = ("body", "error", "part", "status")

    def __init__(self, part: Part, status: int = 204, body: Any = None, error: TulouError | None = None) -> None:
        self.part = part
        self.status = status
        self.body = body
        self.error = error

    @property
    def source(self) -> str | None:
        """The registration, None for the house."""
        return self.part.registration.id if self.part.registration is not None else None

    @property
    def whole(self) -> bool:
        """Whether all of it was done."""
        return self.error is None and self.status != 207


def refused(part: Part) -> Done:
    """The outcome of a part whose source does not offer the operation, and alone may hold the data."""
    assert part.registration is not None
    return Done(part, error=RegistrationConflict(
        f"注册 {part.registration.id} 的来源不支持此操作", f"the source of registration {part.registration.id} does not offer this operation",
        field="operations", value=part.registration.id, rule="CIM 009, 4.3.6.3",
    ))


def done(part: Part, outcome: Outcome) -> Done:
    """The outcome of a part that was sent."""
    if outcome.error is not None:
        return Done(part, error=outcome.error)
    if not 200 <= outcome.status < 300:
        return Done(part, error=RemoteProblem(outcome.status, outcome.body, outcome.registration.id))
    return Done(part, outcome.status, outcome.body)


async def own_part(part: Part, run: Callable[[], Awaitable[Answer]]) -> Done:
    """The house's part."""
    try:
        answer = await run()
    except TulouError as error:
        return Done(part, error=error)
    return Done(part, answer.status, orjson.loads(answer.body) if answer.body else None)


async def carried_out(
    door: Door, caller: Caller, parts: Sequence[Part], run: Callable[[Part], Awaitable[Answer]],
    message: Callable[[Part], tuple[str, str, Sequence[tuple[str, str]], Any]],
) -> list[Done]:
    """Do every part: the house's with `run`, the sources' with the request that `message` makes, these all at once."""
    async def one(part: Part) -> Done:
        if part.registration is None:
            return await own_part(part, lambda: run(part))
        if part.refused:
            return refused(part)
        method, path, parameters, body = message(part)
        return done(part, await door.sources.send(part, caller, method, path, parameters, body))

    return list(await asyncio.gather(*(one(part) for part in parts)))


def single_failure(results: Sequence[Done]) -> TulouError | None:
    """The error of an operation that failed as a whole and for one reason (6.3.17)."""
    errors = [item.error for item in results if item.error is not None]
    if len(errors) < len(results) or not errors:
        return None
    if len(errors) == 1 or all(isinstance(error, RegistrationConflict) for error in errors):
        return errors[0]
    return errors[0] if all(error.status == 404 for error in errors) else None


def entity_result(door: Door, ask: Ask, id: str, results: Sequence[Done], created: bool = False) -> Answer:
    """201 or 204, or 207 with a BatchOperationResult (5.2.16). Raises what failed as a whole."""

    failure = single_failure(results)
    if failure is not None:
        raise failure
    errors: list[Json] = []
    for item in results:
        if item.error is not None:
            errors.append(error_entry(id, item.error, item.source))
        elif not item.whole:
            errors += entries_of(item.body, id, item.source or "")
    if errors:
        success = [id] if any(item.error is None for item in results) else []
        return routes.Answer(207, orjson.dumps({"success": success, "errors": errors}), list(routes._PLAIN))
    if created:
        return routes.Answer(201, None, [(b"location", f"{routes.ROOT}entities/{quote(id, safe=':')}".encode())])
    return routes.Answer(204)


def attributes_result(results: Sequence[Done], context: Context, caller: Caller) -> Answer:
    """204, or 207 with an UpdateResult (5.2.18). Raises what failed as a whole."""

    failure = single_failure(results)
    if failure is not None:
        raise failure
    if all(item.whole for item in results):
        return routes.Answer(204)
    updated: dict[str, None] = {}
    refused_: list[Json] = []
    for item in results:
        names = [context.shown(name) for name in sorted(item.part.names)]
        source = {"registrationId": item.source} if item.source is not None else {}
        if item.error is not None:
            refused_ += [{"attributeName": name, "reason": item.error.en, **source} for name in names]
        elif not item.whole:
            body = item.body if isinstance(item.body, dict) else {}
            given = [entry for entry in body.get("notUpdated") or () if isinstance(entry, dict) and "attributeName" in entry]
            if not given and source:
                given = [{"attributeName": name, "reason": "the source did only a part"} for name in names]
            refused_ += [
                {"attributeName": entry["attributeName"], "reason": str(entry.get("reason", "")), **source} for entry in given
            ]
            updated.update(dict.fromkeys(name for name in body.get("updated") or () if isinstance(name, str)))
        else:
            updated.update(dict.fromkeys(names))
    body = {"updated": list(updated), "notUpdated": refused_}
    return routes.Answer(207, orjson.dumps(body), list(routes._PLAIN))


# ---- writing: the operations


def remaining(raw: Json, context: Context, names: frozenset[str]) -> Json:
    """A body as the client wrote it, with these attributes alone."""
    kept = {}
    for key, value in raw.items():
        if key in forms.ENTITY_MEMBERS or key in ("@id", "@type") or key in forms.SYSTEM or context.stored(key) in names:
            kept[key] = value
    return kept


def portion(document: Json, names: frozenset[str]) -> Json:
    """A stored document with these attributes alone."""
    return {key: value for key, value in document.items() if key in forms.ENTITY_MEMBERS or key in names}


def written(door: Door, part: Part, caller: Caller, document: Json) -> Json:
    """A stored document in the names that a source is sent."""
    assert part.registration is not None
    context, _ = door.sources.forwarder.context(part.registration, caller)
    out = forms.write(portion(document, part.names), context, forms.Form())
    return {**out, "expiresAt": document["expiresAt"]} if "expiresAt" in document else out


async def create(door: Door, ask: Ask) -> Answer:
    """POST entities (5.6.1.4)."""
    ask.only(frozenset({"local"}))
    data = await ask.body()
    body, context, spec = await door.read(again(ask, data))
    document = Reader(context).entity(body)
    caller = caller_of(door, ask, context, spec)
    names = frozenset(forms.attributes(document))
    id: str = document["id"]
    parts = await door.sources.split(
        ask.actor, _CREATE, id, names, ("createEntity",), caller, tenant=ask.tenant, types=forms.types_of(document)
    )
    if not parts:
        return await door.create(again(ask, data))
    results = await carried_out(
        door, caller, parts,
        lambda part: door.create(again(ask, distribution.json_text(remaining(body, context, part.names)))),
        lambda part: ("POST", "entities", (), written(door, part, caller, document)),
    )
    return entity_result(door, ask, id, results, created=True)


def _kept(ask: Ask, *names: str) -> list[tuple[str, str]]:
    return [(name, ask.parameters[name]) for name in names if name in ask.parameters]


async def change(door: Door, operation: str, ask: Ask, id: str) -> Answer:
    """PATCH and PUT entities/{id}, POST and PATCH entities/{id}/attrs (5.6.17, 5.6.18, 5.6.3, 5.6.2)."""
    handlers = {"mergeEntity": door.merge, "replaceEntity": door.replace, "appendAttrs": door.append, "updateEntity": door.update}
    data = await ask.body()
    body, context, spec = await door.read(again(ask, data), patch=operation in ("mergeEntity", "updateEntity"))
    form = door.form(ask, context)
    document = Reader(
        context, nulls=operation != "replaceEntity", simplified=operation == "mergeEntity" and form.style == "simplified"
    ).fragment(body)
    caller = caller_of(door, ask, context, spec)
    names = frozenset(forms.attributes(document))
    parts = await door.sources.split(
        ask.actor, _WRITE, entity_id(id), names, (operation,), caller, tenant=ask.tenant, types=_types(ask, context)
    )
    if not parts:
        return await handlers[operation](again(ask, data), id)
    path = f"entities/{quote(id, safe=':')}" + ("/attrs" if operation in ("appendAttrs", "updateEntity") else "")
    kept = [
        *([("options", "noOverwrite")] if "noOverwrite" in ask.parameters.get("options", "").split(",") else []),
        *_kept(ask, "observedAt", "lang"),
    ]
    method = {"mergeEntity": "PATCH", "replaceEntity": "PUT", "appendAttrs": "POST", "updateEntity": "PATCH"}[operation]
    results = await carried_out(
        door, caller, parts,
        lambda part: handlers[operation](again(ask, distribution.json_text(remaining(body, context, part.names))), id),
        lambda part: (method, path, kept, written(door, part, caller, document)),
    )
    if operation in ("appendAttrs", "updateEntity"):
        return attributes_result(results, context, caller)
    return entity_result(door, ask, id, results)


def _types(ask: Ask, context: Context) -> list[str] | None:
    text = ask.parameters.get("type")
    return sorted(matching.leaves(selecting.type_tree(text, context))) if text else None


async def delete(door: Door, ask: Ask, id: str) -> Answer:
    """DELETE entities/{id} (5.6.6.4): everywhere, and here if it exists."""
    ask.only(frozenset({"local", "type"}))
    context, spec = door.context(ask)
    caller = caller_of(door, ask, context, spec)
    parts = await door.sources.split(
        ask.actor, _DELETE, entity_id(id), EVERY, ("deleteEntity",), caller, tenant=ask.tenant, types=_types(ask, context),
        whole=True,
    )
    if not parts:
        return await door.delete(ask, id)
    results = await carried_out(
        door, caller, parts, lambda part: door.delete(ask, id),
        lambda part: ("DELETE", f"entities/{quote(id, safe=':')}", _kept(ask, "type"), None),
    )
    return entity_result(door, ask, id, without_absent(results))


def without_absent(results: list[Done]) -> list[Done]:
    """The results without the house's own 404, where what is concerned may be held elsewhere alone (4.3.6.3)."""
    if not any(item.part.registration is not None and item.part.registration.proxied for item in results):
        return results
    return [item for item in results if item.source is not None or not isinstance(item.error, NotFound)]


async def change_attribute(door: Door, ask: Ask, id: str, name: str) -> Answer:
    """PATCH, PUT and DELETE entities/{id}/attrs/{name} (5.6.4, 5.6.19, 5.6.5)."""
    body: Any = None
    data = None
    if ask.method == "DELETE":
        context, spec = door.context(ask)
        operation, action, handler = "deleteAttrs", _DELETE, door.delete_attribute
    else:
        data = await ask.body()
        body, context, spec = await door.read(again(ask, data), patch=True)
        operation, handler = ("updateAttrs", door.partial) if ask.method == "PATCH" else ("replaceAttrs", door.replace_attribute)
        action = _WRITE
    stored = context.stored(name)
    caller = caller_of(door, ask, context, spec)
    parts = await door.sources.split(
        ask.actor, action, entity_id(id), frozenset({stored}), (operation,), caller, tenant=ask.tenant,
        types=_types(ask, context),
    )
    if not parts:
        return await handler(again(ask, data), id, name)

    def message(part: Part) -> tuple[str, str, Sequence[tuple[str, str]], Any]:
        assert part.registration is not None
        target, _ = door.sources.forwarder.context(part.registration, caller)
        path = f"entities/{quote(id, safe=':')}/attrs/{quote(target.shown(stored), safe='')}"
        fragment = body
        if isinstance(body, dict):
            fragment = {key: value for key, value in body.items() if key != "@context"}
            if target is not context:
                fragment = distribution.rewritten(fragment, context, target)
        return ask.method, path, _kept(ask, "datasetId", "deleteAll"), fragment

    results = await carried_out(door, caller, parts, lambda part: handler(again(ask, data), id, name), message)
    return entity_result(door, ask, id, results)


async def purge(door: Door, ask: Ask) -> Answer:
    """DELETE entities (5.6.21): at every source that may hold what the parameters select, and here."""

    context, spec = door.context(ask)
    caller = caller_of(door, ask, context, spec)
    chosen = door.selection(ask.parameters, context)
    filters = filters_of(ask.parameters, context, caller)
    asked = await door.sources.purging(ask.actor, chosen, caller, filters, tenant=ask.tenant)
    await door.purge(ask)

    async def one(part: Part, parameters: Sequence[tuple[str, str]]) -> Done:
        if part.refused:
            return refused(part)
        return done(part, await door.sources.send(part, caller, "DELETE", "entities", parameters))

    results = await asyncio.gather(*(one(part, parameters) for part, parameters in asked))
    failures = [item for item in results if item.error is not None]
    if not failures:
        return routes.Answer(204)
    errors = [error_entry("", item.error, item.source) for item in failures if item.error is not None]
    return routes.Answer(207, orjson.dumps({"success": [], "errors": errors}), [(b"content-type", b"application/json")])


# ---- batches


async def batch(door: Door, ask: Ask, kind: str) -> Answer:
    """POST entityOperations/{kind} (5.6.7 to 5.6.10, 5.6.20): every entity to whom it belongs, each source asked once."""
    data = await ask.body()
    body, context, spec = await door.read(again(ask, data), many=True)
    if not isinstance(body, list) or not body:
        return await door.batch(again(ask, data), kind)
    several, singles = _BATCHES[kind]
    specs: list[Any] = []
    work: list[tuple[str, Any, Json, list[Part]]] = []
    own: list[Any] = []
    caller = caller_of(door, ask, context, spec)
    if isinstance(body[0], dict) and "@context" in body[0]:
        specs = [item.get("@context") if isinstance(item, dict) else None for item in body]
        if all(item == specs[0] for item in specs):
            shared = door.spec(ask, specs[0])
            caller = caller_of(door, ask, door.contexts.get(shared), shared)
    for raw in body:
        try:
            id, names, document, types, used = _item(door, ask, raw, context, kind)
        except TulouError:
            own.append(raw)
            continue
        parts = await door.sources.split(
            ask.actor, {"delete": _DELETE, "create": _CREATE}.get(kind, _WRITE), id, names, (several, *singles), caller,
            tenant=ask.tenant, types=types, whole=kind == "delete",
        )
        for part in parts:
            if part.registration is None:
                own.append(raw if kind == "delete" else remaining(raw, used, part.names))
        if not parts:
            own.append(raw)
        else:
            work.append((id, raw, document, parts))
    if not work:
        return await door.batch(again(ask, data), kind)
    return await _carried_out(door, ask, kind, caller, work, own)


def _item(
    door: Door, ask: Ask, raw: Any, context: Context, kind: str
) -> tuple[str, frozenset[str], Json, list[str] | None, Context]:
    if kind == "delete":
        return entity_id(raw), EVERY, {}, None, context
    used = context
    if isinstance(raw, dict) and "@context" in raw:
        used = door.contexts.get(door.spec(ask, raw["@context"]))
    document = Reader(used, nulls=kind in ("merge", "update")).fragment(raw)
    types = forms.types_of(document) if "type" in document else None
    return document["id"] if "id" in document else entity_id(None), frozenset(forms.attributes(document)), document, types, used


async def _carried_out(
    door: Door, ask: Ask, kind: str, caller: Caller, work: Sequence[tuple[str, Any, Json, list[Part]]], own: list[Any]
) -> Answer:

    created: dict[str, None] = {}
    updated: dict[str, None] = {}
    errors: list[Json] = []
    proxied = {
        id for id, _, _, parts in work if any(p.registration is not None and p.registration.proxied for p in parts)
    }
    shares: dict[int, list[tuple[str, Part, Json]]] = {}
    for id, _, document, parts in work:
        for part in parts:
            if part.registration is None:
                continue
            if part.refused:
                error = refused(part).error
                assert error is not None
                errors.append(error_entry(id, error, part.registration.id))
            else:
                shares.setdefault(part.registration.no, []).append((id, part, document))
    answers = await asyncio.gather(*(_send_share(door, ask, kind, caller, share) for share in shares.values()))
    for made, changed, wrong in answers:
        created.update(dict.fromkeys(made))
        updated.update(dict.fromkeys(changed))
        errors += wrong
    if own:
        answer = await own_part(Part(None, EVERY), lambda: door.batch(again(ask, distribution.json_text(own)), kind))
        ids = [item if isinstance(item, str) else item.get("id") for item in own if isinstance(item, str | dict)]
        if answer.error is not None:
            if not work:
                raise answer.error
            errors += [error_entry(str(id), answer.error, None) for id in ids]
        elif answer.status == 201:
            created.update(dict.fromkeys(answer.body))
            updated.update(dict.fromkeys(id for id in ids if isinstance(id, str) and id not in answer.body))
        elif answer.status == 207:
            updated.update(dict.fromkeys(answer.body["success"]))
            errors += [
                item for item in answer.body["errors"]
                if not (kind == "delete" and item["entityId"] in proxied and item["error"].get("status") == 404)
            ]
        else:
            updated.update(dict.fromkeys(id for id in ids if isinstance(id, str)))
    failed = {item["entityId"] for item in errors}
    success = [id for id in dict.fromkeys((*created, *updated)) if id not in failed]
    if errors:
        return routes.Answer(207, orjson.dumps({"success": success, "errors": errors}), list(routes._PLAIN))
    if kind == "create" or (kind == "upsert" and created):
        return routes.Answer(201, orjson.dumps(list(created)), list(routes._PLAIN))
    return routes.Answer(204)


async def _send_share(
    door: Door, ask: Ask, kind: str, caller: Caller, share: Sequence[tuple[str, Part, Json]]
) -> tuple[list[str], list[str], list[Json]]:
    """One source's share of a batch: ids created, ids updated or deleted, errors."""
    several, _ = _BATCHES[kind]
    item = share[0][1].registration
    assert item is not None
    if item.offers(several) is None:
        return await _one_by_one(door, ask, kind, caller, share)
    ids = [id for id, _, _ in share]
    body = ids if kind == "delete" else [written(door, part, caller, document) for _, part, document in share]
    result = done(share[0][1], await door.sources.send(
        share[0][1], caller, "POST", f"entityOperations/{kind}", _kept(ask, "options"), body
    ))
    if result.error is not None:
        return [], [], [error_entry(id, result.error, item.id) for id in ids]
    if result.status == 201:
        made = [id for id in result.body if id in ids] if isinstance(result.body, list) else ids
        return made, [id for id in ids if id not in made], []
    if result.status == 207:
        said = result.body if isinstance(result.body, dict) else {}
        success = [id for id in said.get("success") or () if id in ids]
        wrong = [{**e, "registrationId": item.id} for e in said.get("errors") or () if isinstance(e, dict) and "entityId" in e]
        named = {e["entityId"] for e in wrong}
        wrong += [
            error_entry(id, RemoteProblem(502, {"detail": "no word about this entity"}, item.id), item.id)
            for id in ids if id not in success and id not in named
        ]
        return (success, [], wrong) if kind == "create" else ([], success, wrong)
    return (ids, [], []) if kind == "create" else ([], ids, [])


async def _one_by_one(
    door: Door, ask: Ask, kind: str, caller: Caller, share: Sequence[tuple[str, Part, Json]]
) -> tuple[list[str], list[str], list[Json]]:
    """The same for a source without the batch operation: entity by entity (5.6.7.4 and alike)."""
    created: list[str] = []
    updated: list[str] = []
    errors: list[Json] = []
    options = ask.parameters.get("options", "").split(",")
    for id, part, document in share:
        item = part.registration
        assert item is not None
        path = f"entities/{quote(id, safe=':')}"
        body = written(door, part, caller, document) if kind != "delete" else None
        tries: list[tuple[str, str, Any]] = []
        if kind in ("create", "upsert") and item.offers("createEntity"):
            tries.append(("POST", "entities", body))
        if kind == "upsert" and "update" in options and item.offers("updateEntity"):
            tries.append(("PATCH", path + "/attrs", body))
        elif kind == "upsert" and "update" not in options and item.offers("replaceEntity"):
            tries.append(("PUT", path, body))
        elif kind == "update":
            tries.append(("POST", path + "/attrs", body) if item.offers("appendAttrs") else ("PATCH", path + "/attrs", body))
        elif kind == "merge":
            tries.append(("PATCH", path, body))
        elif kind == "delete":
            tries.append(("DELETE", path, None))
        result = refused(part)
        for method, where, message in tries:
            parameters = _kept(ask, "options") if kind == "update" else []
            result = done(part, await door.sources.send(part, caller, method, where, parameters, message))
            if not (kind == "upsert" and result.error is not None and result.error.status == 409):
                break
        if result.error is not None:
            errors.append(error_entry(id, result.error, item.id))
        elif result.status == 207:
            errors += entries_of(result.body, id, item.id)
        elif result.status == 201:
            created.append(id)
        else:
            updated.append(id)
    return created, updated, errors


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


