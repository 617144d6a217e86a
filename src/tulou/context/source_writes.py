"""Distributed writes at the door: who does which part, and one answer of all.

Law: the house's own part is done by the very handler that does undistributed writes, with what is left of the body, so no
rule exists twice. Nothing is sent before the body was read without fault and the policy has allowed the operation. What
was done in part is said part by part.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.2.16 to 5.2.19, 5.6.1 to 5.6.10, 5.6.17 to 5.6.21 and 6.3.17.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from tulou.context import distribution, forms, matching, routes, source_routes, sources
from tulou.context import selection as selecting
from tulou.context.distribution import Part, RemoteProblem, entries_of, error_entry
from tulou.context.errors import RegistrationConflict
from tulou.context.forms import Json, Reader, entity_id
from tulou.context.forwarding import Caller, Outcome
from tulou.context.jsonld import Context
from tulou.context.matching import EVERY
from tulou.kernel.errors import NotFound, TulouError

if TYPE_CHECKING:
    from tulou.context.routes import Answer, Ask, Door

_BATCHES = {
    "create": ("createBatch", ("createEntity",)), "upsert": ("upsertBatch", ("createEntity", "updateEntity", "replaceEntity")),
    "update": ("updateBatch", ("appendAttrs", "updateEntity")), "merge": ("mergeBatch", ("mergeEntity",)),
    "delete": ("deleteBatch", ("deleteEntity",)),
}


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
    body, context, spec = await door.read(source_routes.again(ask, data))
    document = Reader(context).entity(body)
    caller = source_routes.caller_of(door, ask, context, spec)
    names = frozenset(forms.attributes(document))
    id: str = document["id"]
    parts = await door.sources.split(
        ask.actor, id, names, ("createEntity",), caller, tenant=ask.tenant, types=forms.types_of(document)
    )
    if not parts:
        return await source_routes.here(door, ask, data, "entities")
    results = await carried_out(
        door, caller, parts,
        lambda part: source_routes.here(door, ask, distribution.json_text(remaining(body, context, part.names)), "entities"),
        lambda part: ("POST", "entities", (), written(door, part, caller, document)),
    )
    return entity_result(door, ask, id, results, created=True)


def _kept(ask: Ask, *names: str) -> list[tuple[str, str]]:
    return [(name, ask.parameters[name]) for name in names if name in ask.parameters]


async def change(door: Door, operation: str, ask: Ask, id: str) -> Answer:
    """PATCH and PUT entities/{id}, POST and PATCH entities/{id}/attrs (5.6.17, 5.6.18, 5.6.3, 5.6.2)."""
    where = ("entities", id, "attrs") if operation in ("appendAttrs", "updateEntity") else ("entities", id)
    data = await ask.body()
    body, context, spec = await door.read(source_routes.again(ask, data), patch=operation in ("mergeEntity", "updateEntity"))
    form = door.form(ask, context)
    document = Reader(
        context, nulls=operation != "replaceEntity", simplified=operation == "mergeEntity" and form.style == "simplified"
    ).fragment(body)
    caller = source_routes.caller_of(door, ask, context, spec)
    names = frozenset(forms.attributes(document))
    parts = await door.sources.split(
        ask.actor, entity_id(id), names, (operation,), caller, tenant=ask.tenant, types=_types(ask, context)
    )
    if not parts:
        return await source_routes.here(door, ask, data, *where)
    path = f"entities/{quote(id, safe=':')}" + "/attrs" * (len(where) - 2)
    kept = [
        *([("options", "noOverwrite")] if "noOverwrite" in ask.parameters.get("options", "").split(",") else []),
        *_kept(ask, "observedAt", "lang"),
    ]
    method = {"mergeEntity": "PATCH", "replaceEntity": "PUT", "appendAttrs": "POST", "updateEntity": "PATCH"}[operation]
    results = await carried_out(
        door, caller, parts,
        lambda part: source_routes.here(door, ask, distribution.json_text(remaining(body, context, part.names)), *where),
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
    caller = source_routes.caller_of(door, ask, context, spec)
    parts = await door.sources.split(
        ask.actor, entity_id(id), EVERY, ("deleteEntity",), caller, tenant=ask.tenant, types=_types(ask, context),
        whole=True,
    )
    if not parts:
        return await source_routes.here(door, ask, None, "entities", id)
    results = await carried_out(
        door, caller, parts, lambda part: source_routes.here(door, ask, None, "entities", id),
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
        operation = "deleteAttrs"
    else:
        data = await ask.body()
        body, context, spec = await door.read(source_routes.again(ask, data), patch=True)
        operation = "updateAttrs" if ask.method == "PATCH" else "replaceAttrs"
    stored = context.stored(name)
    caller = source_routes.caller_of(door, ask, context, spec)
    parts = await door.sources.split(
        ask.actor, entity_id(id), frozenset({stored}), (operation,), caller, tenant=ask.tenant,
        types=_types(ask, context),
    )
    if not parts:
        return await source_routes.here(door, ask, data, "entities", id, "attrs", name)

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

    results = await carried_out(
        door, caller, parts, lambda part: source_routes.here(door, ask, data, "entities", id, "attrs", name), message
    )
    return entity_result(door, ask, id, results)


async def purge(door: Door, ask: Ask) -> Answer:
    """DELETE entities (5.6.21): here, and at every source that may hold what the parameters select.

    Of a source that is registered for some attributes only those are deleted (4.3.6.1).
    """
    context, spec = door.context(ask)
    caller = source_routes.caller_of(door, ask, context, spec)
    chosen = door.selection(ask.parameters, context)
    filters = sources.filters_of(ask.parameters, context, caller)
    asked = await door.sources.purging(ask.actor, chosen, caller, filters, tenant=ask.tenant)
    await source_routes.here(door, ask, None, "entities")
    named: dict[str, frozenset[str]] = {
        member: frozenset(context.stored(name.strip()) for name in ask.parameters[member].split(","))
        for member in ("keep", "drop") if member in ask.parameters
    }

    async def one(part: Part, parameters: Sequence[tuple[str, str]]) -> Done:
        if part.refused:
            return refused(part)
        assert part.registration is not None
        target, _ = door.sources.forwarder.context(part.registration, caller)
        concerned = stripped(part.names, named)
        more = [(member, ",".join(sorted(map(target.shown, names)))) for member, names in concerned.items()]
        return done(part, await door.sources.send(part, caller, "DELETE", "entities", [*parameters, *more]))

    results = await asyncio.gather(*(one(part, parameters) for part, parameters in asked))
    failures = [item for item in results if item.error is not None]
    if not failures:
        return routes.Answer(204)
    errors = [error_entry("", item.error, item.source) for item in failures if item.error is not None]
    return routes.Answer(207, orjson.dumps({"success": [], "errors": errors}), [(b"content-type", b"application/json")])


def stripped(registered: frozenset[str], named: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Which attributes a purge is about at a source registered for these: as the client said, within them."""
    if registered is EVERY:
        return named
    if "keep" in named:
        return {"drop": registered - named["keep"]}
    return {"drop": registered & named["drop"] if "drop" in named else registered}


# ---- batches


async def batch(door: Door, ask: Ask, kind: str) -> Answer:
    """POST entityOperations/{kind} (5.6.7 to 5.6.10, 5.6.20): every entity to whom it belongs, each source asked once."""
    data = await ask.body()
    body, context, spec = await door.read(source_routes.again(ask, data), many=True)
    if not isinstance(body, list) or not body:
        return await source_routes.here(door, ask, data, "entityOperations", kind)
    several, singles = _BATCHES[kind]
    specs: list[Any] = []
    work: list[tuple[str, Any, Json, list[Part]]] = []
    own: list[Any] = []
    caller = source_routes.caller_of(door, ask, context, spec)
    if isinstance(body[0], dict) and "@context" in body[0]:
        specs = [item.get("@context") if isinstance(item, dict) else None for item in body]
        if all(item == specs[0] for item in specs):
            shared = door.spec(ask, specs[0])
            caller = source_routes.caller_of(door, ask, door.contexts.get(shared), shared)
    for raw in body:
        try:
            id, names, document, types, used = _item(door, ask, raw, context, kind)
        except TulouError:
            own.append(raw)
            continue
        parts = await door.sources.split(
            ask.actor, id, names, (several, *singles), caller, tenant=ask.tenant, types=types, whole=kind == "delete",
        )
        for part in parts:
            if part.registration is None:
                own.append(raw if kind == "delete" else remaining(raw, used, part.names))
        if not parts:
            own.append(raw)
        else:
            work.append((id, raw, document, parts))
    if not work:
        return await source_routes.here(door, ask, data, "entityOperations", kind)
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
        answer = await own_part(Part(None, EVERY), lambda: source_routes.here(door, ask, distribution.json_text(own), "entityOperations", kind))
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
