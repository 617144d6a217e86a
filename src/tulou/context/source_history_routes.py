"""The door's side of distributed operations on history.

Law: as of `source_routes` and `source_writes`: a distributed read is the undistributed handler over a service that asks
sources, too; the house's own part of a distributed write is done by the undistributed handler with what is left of the
body.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.6.11 to 5.6.16, 5.7.3, 5.7.4, 6.3.17, 6.18 to 6.22 and 6.24.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tulou.context import distribution, evolution, forms, routes, source_routes, source_writes
from tulou.context.distribution import Part
from tulou.context.errors import bad
from tulou.context.forms import Json, Reader, entity_id
from tulou.context.forwarding import Caller
from tulou.context.jsonld import Context, is_iri
from tulou.context.matching import EVERY
from tulou.context.selection import Selection
from tulou.context.source_writes import Done, carried_out
from tulou.context.sources import Filters, filters_of
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.context.routes import Answer, Ask, Door

Handler = Callable[..., Awaitable["Answer"]]


def find(door: Door, method: str, rest: Sequence[str]) -> tuple[Handler, list[str]] | None:
    """The distributed handler of a path below `temporal/`, and its arguments; None where there is none."""
    match method, list(rest):
        case ("GET", ["entities"] | ["entities", _]) | ("POST", ["entityOperations", "query"]):
            return partial(reading, door, method, ["temporal", *rest], None), []
        case "POST", ["entities"]:
            return partial(provide, door), []
        case "DELETE", ["entities", id]:
            return partial(delete, door), [id]
        case "POST", ["entities", id, "attrs"]:
            return partial(add_attributes, door), [id]
        case "DELETE", ["entities", id, "attrs", name]:
            return partial(delete_attribute, door), [id, name]
        case "PATCH" | "DELETE", ["entities", id, "attrs", name, instance]:
            return partial(change_instance, door), [id, name, instance]
    return None


# ---- reading


class Everywhere:
    """The service of histories as reading handlers use it, over sources too; everything else is the service's own."""

    def __init__(self, door: Door, caller: Caller, filters: Filters) -> None:
        self._door = door
        self._caller = caller
        self._filters = filters

    def __getattr__(self, name: str) -> Any:
        return getattr(self._door.history, name)

    async def retrieve(
        self, actor: Actor, id: str, wanted: evolution.Span, *, tenant: str | None = None
    ) -> evolution.Answer:
        """As `Temporal.retrieve`."""
        return await self._door.source_history.retrieve(actor, id, wanted, self._caller, self._filters, tenant=tenant)

    async def query(
        self, actor: Actor, selection: Selection, wanted: evolution.Span, *, tenant: str | None = None, **paging: Any
    ) -> evolution.Answer:
        """As `Temporal.query`."""
        return await self._door.source_history.query(
            actor, selection, wanted, self._caller, self._filters, tenant=tenant, **paging
        )


async def reading(
    door: Door, method: str, parts: list[str], origins: dict[str, list[str]] | None, ask: Ask
) -> Answer:
    """A reading handler over the house and its sources; `origins` is filled with where each entity is held."""
    data, parameters, context, spec = await source_routes.question(door, ask)
    caller = source_routes.caller_of(door, ask, context, spec)
    filters = filters_of(parameters, context, caller)
    if origins is not None:
        filters.origins = origins
    view = copy.copy(door)
    view.history = Everywhere(door, caller, filters)  # type: ignore[assignment]
    handler, arguments = view.find(method, parts)
    return await source_routes.warning_of(caller, handler(source_routes.again(ask, data), *arguments))


async def anywhere(door: Door, ask: Ask, parts: list[str], origins: dict[str, list[str]] | None = None) -> Answer:
    """A GET handler over the sources of the request's organisation, where it has any, else of the house alone."""
    if source_routes.distributed(door, ask):
        return await reading(door, "GET", parts, origins, ask)
    return await source_routes.here(door, ask, None, *parts)


# ---- writing


def _where(id: str, *more: str) -> str:
    return "/".join(("temporal/entities", quote(id, safe=":"), *(quote(part, safe=":") for part in more)))


def _written(door: Door, part: Part, caller: Caller, head: Json, attributes: Mapping[str, Sequence[Json]]) -> Json:
    """A part of a temporal representation in the names that its source is sent."""
    assert part.registration is not None
    context, _ = door.sources.forwarder.context(part.registration, caller)
    out: Json = {name: value for name, value in head.items() if name in ("id", "expiresAt")}
    if "type" in head:
        types = [context.shown(name) for name in forms.types_of(head)]
        out["type"] = types[0] if len(types) == 1 else types
    for name, items in attributes.items():
        if name == "scope" or part.names is EVERY or name in part.names:
            out[name if name == "scope" else context.shown(name)] = [forms.rename(item, context, True) for item in items]
    return out


def somewhere(results: list[Done]) -> list[Done]:
    """The results without the 404 of those who do not have what another one had: it is held in one place alone."""
    missing = [item for item in results if item.error is not None and item.error.status == 404]
    return results if len(missing) == len(results) else [item for item in results if item not in missing]


async def provide(door: Door, ask: Ask) -> Answer:
    """POST temporal/entities (5.6.11)."""
    ask.only(frozenset({"local"}))
    data = await ask.body()
    body, context, spec = await door.read(source_routes.again(ask, data))
    head, attributes = evolution.provided(body, context)
    caller = source_routes.caller_of(door, ask, context, spec)
    id: str = head["id"]
    parts = await door.source_history.split(
        ask.actor, id, frozenset(attributes) - {"scope"}, "upsertTemporal", caller, tenant=ask.tenant, types=forms.types_of(head)
    )
    if not parts:
        return await source_routes.here(door, ask, data, "temporal", "entities")
    results = await carried_out(
        door, caller, parts,
        lambda part: source_routes.here(door, ask, _left(body, context, part), "temporal", "entities"),
        lambda part: ("POST", "temporal/entities", (), _written(door, part, caller, head, attributes)),
    )
    answer = source_writes.entity_result(door, ask, id, results)
    if answer.status == 204 and any(item.status == 201 for item in results):
        return door.done(201, [(b"location", f"{routes.ROOT}{_where(id)}".encode())])
    return answer


def _left(body: Json, context: Context, part: Part) -> bytes:
    return distribution.json_text(source_writes.remaining(body, context, part.names))


async def add_attributes(door: Door, ask: Ask, id: str) -> Answer:
    """POST temporal/entities/{id}/attrs (5.6.12)."""
    ask.only(frozenset({"local"}))
    data = await ask.body()
    body, context, spec = await door.read(source_routes.again(ask, data))
    head, attributes = evolution.provided(body, context, fragment=True)
    if head.get("id", id) != id:
        raise bad("正文中的 id 与地址不同", "the id in the body is not the one in the address", field="id",
                  value=head["id"], rule="same id")
    caller = source_routes.caller_of(door, ask, context, spec)
    parts = await door.source_history.split(
        ask.actor, entity_id(id), frozenset(attributes) - {"scope"}, "appendAttrsTemporal", caller, tenant=ask.tenant,
        types=forms.types_of(head) if "type" in head else None,
    )
    where = ("temporal", "entities", id, "attrs")
    if not parts:
        return await source_routes.here(door, ask, data, *where)
    results = await carried_out(
        door, caller, parts, lambda part: source_routes.here(door, ask, _left(body, context, part), *where),
        lambda part: ("POST", _where(id, "attrs"), (), _written(door, part, caller, head, attributes)),
    )
    return source_writes.attributes_result(results, context, caller)


async def delete(door: Door, ask: Ask, id: str) -> Answer:
    """DELETE temporal/entities/{id} (5.6.16): everywhere."""
    ask.only(frozenset({"local"}))
    context, spec = door.context(ask)
    caller = source_routes.caller_of(door, ask, context, spec)
    parts = await door.source_history.split(
        ask.actor, entity_id(id), EVERY, "deleteTemporal", caller, tenant=ask.tenant, whole=True
    )
    where = ("temporal", "entities", id)
    if not parts:
        return await source_routes.here(door, ask, None, *where)
    results = await carried_out(
        door, caller, parts, lambda part: source_routes.here(door, ask, None, *where),
        lambda part: ("DELETE", _where(id), (), None),
    )
    return source_writes.entity_result(door, ask, id, somewhere(results))


async def delete_attribute(door: Door, ask: Ask, id: str, name: str) -> Answer:
    """DELETE temporal/entities/{id}/attrs/{name} (5.6.13)."""
    ask.only(frozenset({"deleteAll", "datasetId", "local"}))
    dataset = ask.parameters.get("datasetId")
    if dataset is not None and not is_iri(dataset):
        raise bad("datasetId 应为 URI", "datasetId must be a URI", field="datasetId", value=dataset, rule="URI")
    kept = [(key, ask.parameters[key]) for key in ("datasetId", "deleteAll") if key in ask.parameters]
    return await _of_attribute(door, ask, "deleteAttrsTemporal", id, name, None, kept, None)


async def change_instance(door: Door, ask: Ask, id: str, name: str, instance: str) -> Answer:
    """PATCH and DELETE temporal/entities/{id}/attrs/{name}/{instanceId} (5.6.14, 5.6.15), wherever the instance is."""
    ask.only(frozenset({"local"}))
    evolution.instance_uri(instance)
    body = None
    if ask.method == "PATCH":
        body, context, _ = await door.read(ask, patch=True)
        if not isinstance(body, dict):
            raise bad("正文应为一个实例", "the body must be an instance", field="body", rule="CIM 009, 5.6.14")
        body = {key: value for key, value in body.items() if key != "@context"}
        Reader(context, nulls=True).instance(name, body)
    operation = "updateAttrInstanceTemporal" if ask.method == "PATCH" else "deleteAttrInstanceTemporal"
    return await _of_attribute(door, ask, operation, id, name, instance, [], body)


async def _of_attribute(
    door: Door, ask: Ask, operation: str, id: str, name: str, instance: str | None,
    parameters: Sequence[tuple[str, str]], body: Json | None,
) -> Answer:
    """An operation on an attribute, or an instance of it."""
    context, spec = door.context(ask)
    if body is not None:
        _, context, spec = await door.read(ask, patch=True)
    stored = name if name == "scope" else context.stored(name)
    caller = source_routes.caller_of(door, ask, context, spec)
    parts = await door.source_history.split(
        ask.actor, entity_id(id), frozenset({stored}), operation, caller, tenant=ask.tenant
    )
    more = () if instance is None else (instance,)
    where = ("temporal", "entities", id, "attrs", name, *more)
    if not parts:
        return await source_routes.here(door, ask, None, *where)

    def message(part: Part) -> tuple[str, str, Sequence[tuple[str, str]], Any]:
        assert part.registration is not None
        target, _ = door.sources.forwarder.context(part.registration, caller)
        shown = name if name == "scope" else target.shown(stored)
        fragment = body if body is None or target is context else distribution.rewritten(body, context, target)
        return ask.method, _where(id, "attrs", shown, *more), parameters, fragment

    results = await carried_out(door, caller, parts, lambda part: source_routes.here(door, ask, None, *where), message)
    return source_writes.entity_result(door, ask, id, somewhere(results))
