"""The temporal resources of the NGSI-LD door: `temporal/entities` and what is below it, and the query by POST.

Law: as of the door: a request becomes one service call and its result an answer.

Source: ETSI GS CIM 009 v1.9.1 clauses 6.18 to 6.22, 6.24 and, for temporal pages, 6.3.10.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import orjson

from tulou.context import evolution, forms, query
from tulou.context.errors import InvalidRequest, OperationNotSupported, bad
from tulou.context.forms import Json, Reader, entity_id
from tulou.context.jsonld import Context, is_iri
from tulou.context.paging import link
from tulou.context.selection import Selection
from tulou.kernel.errors import NotFound

if TYPE_CHECKING:
    from tulou.context.routes import Answer, Ask, Door

Handler = Callable[..., Awaitable["Answer"]]

_REPRESENTATION = frozenset({"options", "format", "attrs", "pick", "omit", "lang", "local", "datasetId"})
_TIME = frozenset({"timerel", "timeAt", "endTimeAt", "timeproperty", "lastN", "aggrMethods", "aggrPeriodDuration"})
_SELECT = frozenset(
    {"type", "id", "idPattern", "q", "georel", "geometry", "coordinates", "geoproperty", "scopeQ", "csf", "expandValues"}
)
_PAGE = frozenset({"limit", "offset", "count", "cursor"})
_STYLES = frozenset({"normalized", "concise", "temporalValues", "aggregatedValues"})
_MEMBERS = frozenset({"id", "type", "scope"})


class View(NamedTuple):
    """How an answer is to be written, and which members it is to have."""

    style: str
    system: bool
    lang: str | None
    keep: frozenset[str] | None
    drop: frozenset[str]
    names: frozenset[str] | None
    datasets: frozenset[str] | None

    def entity(self, found: evolution.Evolution, wanted: evolution.Span, context: Context) -> Json:
        """The representation of an entity."""
        def shown(name: str) -> bool:
            return name not in self.drop and (self.keep is None or name in self.keep)

        points = {name: own for name, own in found.points.items() if shown(name)}
        summaries = {name: own for name, own in found.summaries.items() if shown(name)}
        return evolution.write(
            found._replace(points=points, summaries=summaries), wanted, context, system=self.system, lang=self.lang,
            keep=self.keep, drop=self.drop,
        )


def find(door: Door, parts: Sequence[str]) -> tuple[dict[str, Handler], list[str]] | None:
    """The handlers of a path below `temporal/` by method, and their arguments; None if there is no such path."""
    def bound(handler: Handler) -> Handler:
        return partial(handler, door)

    match list(parts):
        case ["entities"]:
            return {"GET": bound(query_history), "POST": bound(provide)}, []
        case ["entities", id]:
            return {"GET": bound(retrieve), "DELETE": bound(delete)}, [id]
        case ["entities", id, "attrs"]:
            return {"POST": bound(add_attributes)}, [id]
        case ["entities", id, "attrs", name]:
            return {"DELETE": bound(delete_attribute)}, [id, name]
        case ["entities", id, "attrs", name, instance]:
            return {"PATCH": bound(modify_instance), "DELETE": bound(delete_instance)}, [id, name, instance]
        case ["entityOperations", "query"]:
            return {"POST": bound(query_by_post)}, []
    return None


def view(parameters: Mapping[str, str], ask: Ask, context: Context) -> View:
    """Read options, format, attrs, pick, omit, lang and datasetId (6.18.3.2). Raises `InvalidRequest`, `BadRequestData`."""
    style, system = "normalized", False
    for option in filter(None, ask.parameters.get("options", "").split(",")):
        if option in _STYLES:
            style = option
        elif option == "sysAttrs":
            system = True
        elif option != "count":
            raise InvalidRequest(f"没有选项 {option}", f"there is no option {option}", field="options", value=option)
    given = ask.parameters.get("format")
    if given is not None:
        if given not in _STYLES:
            raise InvalidRequest(f"没有格式 {given}", f"there is no format {given}", field="format", value=given,
                                 rule=", ".join(sorted(_STYLES)))
        style = given
    attrs, pick, omit = (_names(parameters, name) for name in ("attrs", "pick", "omit"))
    if attrs is not None and (pick is not None or omit is not None):
        raise bad("attrs 不可与 pick、omit 同用", "attrs excludes pick and omit", field="attrs", rule="CIM 009, 6.18.3.2")
    chosen = frozenset(name if name in _MEMBERS else context.stored(name) for name in pick or ())
    drop = frozenset(name if name in _MEMBERS else context.stored(name) for name in omit or ())
    if chosen & drop:
        raise bad("同一成员不可既在 pick 又在 omit", "a member cannot be in both pick and omit", field="omit",
                  value=parameters.get("omit"), rule="CIM 009, 4.21")
    names = None
    if attrs is not None:
        names = frozenset(context.stored(name) for name in attrs)
    elif pick is not None and chosen - {"id", "type"}:
        names = chosen - {"id", "type"}
    datasets = _names(parameters, "datasetId")
    if datasets is not None and not all(item == "@none" or is_iri(item) for item in datasets):
        raise bad("datasetId 应为 URI 或 @none", "datasetId must be a URI or @none", field="datasetId",
                  value=parameters["datasetId"])
    return View(style, system, parameters.get("lang"), chosen if pick is not None else None, drop, names,
                frozenset(datasets) if datasets is not None else None)


def _names(parameters: Mapping[str, str], name: str) -> list[str] | None:
    raw = parameters.get(name)
    if raw is None:
        return None
    items = [item.strip() for item in raw.split(",")]
    if not all(items):
        raise bad(f"{name} 不可为空", f"{name} must not be empty", field=name, value=raw)
    return items


def _wanted(seen: View, parameters: Mapping[str, str], *, needed: bool) -> evolution.Span:
    wanted = evolution.span(parameters, needed=needed, style=seen.style)
    return wanted._replace(names=seen.names, datasets=seen.datasets)


async def retrieve(door: Door, ask: Ask, id: str) -> Answer:
    """GET temporal/entities/{id} (6.19.3.1)."""
    ask.only(_REPRESENTATION | _TIME)
    media, (context, spec) = door.negotiate(ask), door.context(ask)
    seen = view(ask.parameters, ask, context)
    wanted = _wanted(seen, ask.parameters, needed=False)
    found = await door.history.retrieve(ask.actor, entity_id(id), wanted, tenant=ask.tenant)
    context, spec = _naming(door, found, context, spec)
    body = seen.entity(found.evolutions[0], wanted, context)
    if not body or (seen.keep is not None and not body.keys() - {"createdAt", "modifiedAt"}):
        raise NotFound(f"实体 {id} 没有所要的成员", f"entity {id} has none of these members", field="pick", value=id)
    return _answer(door, ask, body, found, wanted, media, spec, [])


async def query_history(door: Door, ask: Ask) -> Answer:
    """GET temporal/entities (6.18.3.2)."""
    ask.only(_REPRESENTATION | _TIME | _SELECT | _PAGE | {"orderBy"})
    media, (context, spec) = door.negotiate(ask), door.context(ask)
    seen = view(ask.parameters, ask, context)
    selects = {name: value for name, value in ask.parameters.items() if name != "attrs"}
    enough = seen.names is not None and bool(seen.names - forms.SYSTEM - _MEMBERS)
    chosen = door.selection(selects, context, free=enough or ask.flag("local"))
    if "csf" in ask.parameters:
        query.parse(ask.parameters["csf"], context)
    return await _histories(door, ask, chosen, seen, _wanted(seen, ask.parameters, needed=True), context, spec, media)


async def query_by_post(door: Door, ask: Ask) -> Answer:
    """POST temporal/entityOperations/query (6.24.3.1)."""
    ask.only(_PAGE | {"options", "format", "local"})
    media = door.negotiate(ask)
    body, context, spec = await door.read(ask)
    chosen, texts = door.query_document(body, context)
    if chosen.q is not None and query.links(chosen.q):
        raise OperationNotSupported("历史查询的 q 不能深入关联实体", "q of a temporal query cannot follow links", field="q",
                                    value=body.get("q"), rule="CIM 009, 5.7.4")
    asked = body.get("temporalQ")
    if not isinstance(asked, dict):
        raise bad("缺少 temporalQ", "temporalQ is missing", field="temporalQ", rule="CIM 009, 5.2.23")
    extra = body.get("aggrParams")
    if extra is not None and not isinstance(extra, dict):
        raise bad("aggrParams 应为对象", "aggrParams must be an object", field="aggrParams", rule="CIM 009, 5.2.44")
    parameters = {
        name: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in {**asked, **(extra or {})}.items()
    }
    seen = view(texts | _datasets(body), ask, context)
    if "aggrMethods" in parameters and "format" not in ask.parameters and seen.style == "normalized":
        seen = seen._replace(style="aggregatedValues")
    chosen = Selection(chosen.selectors, (), chosen.q, chosen.geo, chosen.scope)
    return await _histories(door, ask, chosen, seen, _wanted(seen, parameters, needed=True), context, spec, media)


def _datasets(body: Mapping[str, Any]) -> dict[str, str]:
    found = body.get("datasetId")
    if found is None:
        return {}
    items = found if isinstance(found, list) else [found]
    return {"datasetId": ",".join(map(str, items))}


def _order(ask: Ask) -> str | None:
    """"asc" or "desc" for an `orderBy`, which may only be of the id (5.7.4.4). Raises `BadRequestData`."""
    raw = ask.parameters.get("orderBy")
    if raw is None:
        return None
    name, _, direction = raw.partition(";")
    if name != "id" or direction not in ("", "asc", "desc"):
        raise bad("历史只可按 id 排序", "a history can only be ordered by id", field="orderBy", value=raw,
                  rule="CIM 009, 5.7.4.4")
    return direction or "asc"


async def _histories(
    door: Door, ask: Ask, chosen: Selection, seen: View, wanted: evolution.Span, context: Context, spec: Any, media: str
) -> Answer:
    limit, place, offset, count = door.paging(ask)
    order = _order(ask)
    found = await door.history.query(
        ask.actor, chosen, wanted, tenant=ask.tenant, limit=limit, cursor=place, offset=offset, count=count, order=order,
    )
    context, spec = _naming(door, found, context, spec)
    items = [seen.entity(one, wanted, context) for one in found.evolutions]
    more: list[tuple[bytes, bytes]] = []
    if found.total is not None:
        more.append((b"ngsild-results-count", str(found.total).encode()))
    if ask.method == "GET":
        pairs = list(ask.parameters.items())
        for neighbour, relation in ((found.next, "next"), (found.prev, "prev")):
            if neighbour is not None and order is None:
                more.append((b"link", link(ask.path, pairs, neighbour, relation).encode()))
            elif neighbour is not None:
                kept = [(k, v) for k, v in pairs if k != "offset"] + [("offset", str(neighbour.no))]
                text = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in kept)
                more.append((b"link", f'<{ask.path}?{text}>;rel="{relation}";type="application/ld+json"'.encode()))
    return _answer(door, ask, items, found, wanted, media, spec, more)


def _naming(door: Door, found: evolution.Answer, context: Context, spec: Any) -> tuple[Context, Any]:
    """As `Door.naming`, of histories."""
    def texts() -> Iterator[str]:
        for one in found.evolutions:
            yield from one.entity.types
            yield from one.kinds
            for points in one.points.values():
                yield orjson.dumps([point.body for point in points]).decode()

    return door.naming(context, spec, texts())


def _answer(
    door: Door, ask: Ask, body: Any, found: evolution.Answer, wanted: evolution.Span, media: str, spec: Any,
    more: list[tuple[bytes, bytes]],
) -> Answer:
    """200, or 206 with the time that the answer covers (6.3.10)."""
    if found.cut is None:
        return door.answer(ask, body, media, spec, more=more)
    start, end = (forms.moment(at).rstrip("Z") for at in found.cut)
    covers = f"date-time {start}-{end}/{wanted.last or '*'}"
    return door.answer(ask, body, media, spec, status=206, more=[*more, (b"content-range", covers.encode())])


# ---- writing ------------------------------------------------------------------------------------------------------


async def provide(door: Door, ask: Ask) -> Answer:
    """POST temporal/entities (6.18.3.1): 201 for a new one, 204 for more of a known one."""
    ask.only(frozenset({"local"}))
    body, context, _ = await door.read(ask)
    head, attributes = evolution.provided(body, context)
    fresh = await door.history.provide(ask.actor, head, attributes, tenant=ask.tenant)
    if not fresh:
        return door.done()
    place = f"/ngsi-ld/v1/temporal/entities/{quote(head['id'], safe=':')}"
    return door.done(201, [(b"location", place.encode())])


async def add_attributes(door: Door, ask: Ask, id: str) -> Answer:
    """POST temporal/entities/{id}/attrs (6.20.3.1)."""
    ask.only(frozenset({"local"}))
    id = entity_id(id)
    body, context, _ = await door.read(ask)
    head, attributes = evolution.provided(body, context, fragment=True)
    if head.get("id", id) != id:
        raise bad("正文中的 id 与地址不同", "the id in the body is not the one in the address", field="id",
                  value=head["id"], rule="same id")
    await door.history.add_attributes(ask.actor, id, attributes, tenant=ask.tenant)
    return door.done()


async def delete_attribute(door: Door, ask: Ask, id: str, name: str) -> Answer:
    """DELETE temporal/entities/{id}/attrs/{name} (6.21.3.1)."""
    ask.only(frozenset({"deleteAll", "datasetId", "local"}))
    id, stored = entity_id(id), _attribute(door, ask, name)
    dataset = ask.parameters.get("datasetId")
    if dataset is not None and not is_iri(dataset):
        raise bad("datasetId 应为 URI", "datasetId must be a URI", field="datasetId", value=dataset, rule="URI")
    await door.history.delete_attribute(
        ask.actor, id, stored, tenant=ask.tenant, dataset=dataset, all_instances=ask.flag("deleteAll")
    )
    return door.done()


async def modify_instance(door: Door, ask: Ask, id: str, name: str, instance: str) -> Answer:
    """PATCH temporal/entities/{id}/attrs/{name}/{instanceId} (6.22.3.1)."""
    ask.only(frozenset({"local"}))
    id, instance = entity_id(id), evolution.instance_uri(instance)
    body, context, _ = await door.read(ask, patch=True)
    stored = name if name == "scope" else context.stored(name)
    if not isinstance(body, dict):
        raise bad("正文应为一个实例", "the body must be an instance", field="body", rule="CIM 009, 5.6.14")
    patch = Reader(context, nulls=True).instance(name, {key: value for key, value in body.items() if key != "@context"})
    await door.history.modify_instance(ask.actor, id, stored, instance, patch, tenant=ask.tenant)
    return door.done()


async def delete_instance(door: Door, ask: Ask, id: str, name: str, instance: str) -> Answer:
    """DELETE temporal/entities/{id}/attrs/{name}/{instanceId} (6.22.3.2)."""
    ask.only(frozenset({"local"}))
    id, stored, instance = entity_id(id), _attribute(door, ask, name), evolution.instance_uri(instance)
    await door.history.delete_instance(ask.actor, id, stored, instance, tenant=ask.tenant)
    return door.done()


async def delete(door: Door, ask: Ask, id: str) -> Answer:
    """DELETE temporal/entities/{id} (6.19.3.2)."""
    ask.only(frozenset({"local"}))
    await door.history.delete(ask.actor, entity_id(id), tenant=ask.tenant)
    return door.done()


def _attribute(door: Door, ask: Ask, name: str) -> str:
    """The stored form of an attribute's name in the address."""
    return name if name == "scope" else door.context(ask)[0].stored(name)
