"""What a notification says of a changed entity: its form, what was deleted, what it was before, and linked entities.

Law: pure functions. What was deleted is said with NGSI-LD Null and, with system attributes, `deletedAt`; what it was
before with `previousValue` and its kin, only where there was something before.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.5.0, 4.5.23, 4.8, 5.2.14, 5.3.1, 5.8.6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tulou.context import forms
from tulou.context import selection as selecting
from tulou.context.forms import NULL, VALUE_OF, Json
from tulou.context.jsonld import Context
from tulou.context.watching import Active, Changed, concerned

PREVIOUS = {kind: "previous" + key[0].upper() + key[1:] for kind, key in VALUE_OF.items()}
_BARE = frozenset({"Property", "GeoProperty", "Relationship", "ListProperty", "ListRelationship"})

Find = Callable[[set[str]], Mapping[str, tuple[Json, Json]]]
"""Entity ids -> (stored document, times) of those that exist."""


def datum(subscription: Active, change: Changed, now: int) -> Json | None:
    """What `subscription` is told of `change` at `now` (µs); None when it is told nothing."""
    names = concerned(subscription, change)
    if names is None or not selecting.matches(subscription.selection, change.document):
        return None
    if change.trigger == "entityDeleted":
        return _deleted(subscription, change, names, now)
    times = {"@": [now, now], "*": [now, now]} if change.times is None else {
        **change.times, "@": [change.times["@"][0], now],
    }
    return _changed(subscription, change, names, _gone(subscription, change, names), times, now)


def passed_on(subscription: Active, change: Changed, gone: Mapping[str, list[Json]], now: int) -> Json | None:
    """What `subscription` is told of a change that a source has notified (5.8.6): the source has said what changed, and
    which attributes are `gone`, as they were; None when nothing of it is to be shown."""
    assert change.names is not None
    assert change.times is not None
    if change.trigger == "entityDeleted":
        return _deleted(subscription, change, change.names, now)
    seen = {name: lost for name, lost in gone.items() if _shown(subscription, name)}
    return _changed(subscription, change, change.names, seen, change.times, now)


def _changed(
    subscription: Active, change: Changed, names: set[str], gone: Mapping[str, list[Json]], times: Json, now: int
) -> Json | None:
    document, form = change.document, subscription.form
    if form.keep is not None and not any(name in form.keep for name in (*forms.attributes(document), *gone)):
        return None
    written = entity(subscription, document, times)
    if subscription.show_changes and change.before is not None:
        for name in names:
            if name in document and name in change.before:
                _before(written, name, change.before[name], subscription)
    for name, instances in gone.items():
        _put_gone(written, name, instances, change, subscription, now)
    return forms.feature(document, written, form) if subscription.feature else written


def entity(subscription: Active, document: Json, times: Json) -> Json:
    """An entity in the form of the subscription's notifications."""
    form = subscription.form
    written = forms.write(document, subscription.context, form, times if form.system else None)
    if subscription.members is not None:
        written = dict(written)
        for member in ("id", "type"):
            if member not in subscription.members:
                written.pop(member, None)
    elif form.whole:
        written = dict(written)
    if form.drop & {"id", "type"}:
        for member in form.drop & {"id", "type"}:
            written.pop(member, None)
    return written


def _shown(subscription: Active, name: str) -> bool:
    form = subscription.form
    return name not in form.drop and (form.keep is None or name in form.keep)


def _gone(subscription: Active, change: Changed, names: set[str]) -> dict[str, list[Json]]:
    """Instances that `change` deleted, by stored name, of attributes that the subscription is told of."""
    before = change.before
    if before is None or subscription.triggers.isdisjoint(("attributeDeleted", "entityUpdated")):
        return {}
    found: dict[str, list[Json]] = {}
    for name in sorted(names):
        if name not in before or name in forms.ENTITY_MEMBERS or not _shown(subscription, name):
            continue
        old = forms.instances(before[name])
        after = change.document.get(name)
        if after is None:
            default = forms.default_instance(before[name])
            assert default is not None
            found[name] = [old[0] if len(old) == 1 else {k: v for k, v in default.items() if k != "datasetId"}]
            continue
        lost = [item for item in old if forms.find_instance(after, item.get("datasetId")) is None]
        if lost:
            found[name] = lost
    return found


def _deleted(subscription: Active, change: Changed, names: set[str], now: int) -> Json:
    document, form, shown = change.document, subscription.form, subscription.context.shown
    kind = document["type"]
    out: Json = {"id": document["id"], "type": shown(kind) if isinstance(kind, str) else [shown(k) for k in kind]}
    if form.system and change.times is not None:
        out["createdAt"], out["modifiedAt"] = (forms.moment(at) for at in change.times["@"])
    out["deletedAt"] = forms.moment(now)
    if subscription.show_changes or "attributeDeleted" in subscription.triggers:
        for name in forms.attributes(document):
            if name in names and _shown(subscription, name):
                default = forms.default_instance(document[name])
                if default is not None:
                    old = forms.instances(document[name])
                    lost = old if len(old) == 1 else [{k: v for k, v in default.items() if k != "datasetId"}]
                    _put_gone(out, name, lost, change, subscription, now)
    return out


def _null(kind: str) -> Any:
    return {"@none": NULL} if kind == "LanguageProperty" else NULL


def _put_gone(out: Json, name: str, instances: list[Json], change: Changed, subscription: Active, now: int) -> None:
    """Add deleted instances to a written entity."""
    context, style, shown = subscription.context, subscription.form.style, subscription.context.shown(name)
    if style == "simplified":
        values = {
            item.get("datasetId", "@none"): _null(item["type"]) if item["type"] in _BARE
            else {VALUE_OF[item["type"]]: _null(item["type"])} for item in instances
        }
        present = out.get(shown)
        if present is None and set(values) == {"@none"}:
            out[shown] = values["@none"]
        else:
            kept = present["dataset"] if isinstance(present, dict) and "dataset" in present else (
                {} if present is None else {"@none": present}
            )
            out[shown] = {"dataset": {**kept, **values}}
        return
    written = []
    for item in instances:
        kind = item["type"]
        made: Json = {"type": kind, VALUE_OF[kind]: _null(kind)}
        if "datasetId" in item:
            made["datasetId"] = item["datasetId"]
        if subscription.form.system:
            times = change.times or {"@": [now, now], "*": [now, now]}
            made = {**forms.stamp(name, made, times), "deletedAt": forms.moment(now)}
        if subscription.show_changes:
            made[PREVIOUS[kind]] = _in_context(kind, item[VALUE_OF[kind]], context)
        if style == "concise":
            del made["type"]
        written.append(made)
    present = out.get(shown)
    kept = [] if present is None else present if isinstance(present, list) else [present]
    every = [*kept, *written]
    out[shown] = every[0] if len(every) == 1 else every


def _before(out: Json, name: str, before: Any, subscription: Active) -> None:
    """Add what an updated attribute was before to its written instances."""
    context = subscription.context
    shown = context.shown(name)
    if shown not in out:
        return
    written = out[shown]
    changed = []
    for item in written if isinstance(written, list) else [written]:
        made = dict(item) if isinstance(item, dict) and not _is_geometry(item) else {"value": item}
        old = forms.find_instance(before, made.get("datasetId"))
        if old is not None:
            made[PREVIOUS[old["type"]]] = _in_context(old["type"], old[VALUE_OF[old["type"]]], context)
        changed.append(made)
    out[shown] = changed if isinstance(written, list) else changed[0]


def _is_geometry(item: Json) -> bool:
    return "coordinates" in item or "geometries" in item


def _in_context(kind: str, value: Any, context: Context) -> Any:
    if kind == "VocabProperty":
        return [context.shown(item) for item in value] if isinstance(value, list) else context.shown(value)
    return value


# ---- linked entities (4.5.23) --------------------------------------------------------------------------------------


def targets(document: Json, subscription: Active, *, top: bool) -> set[str]:
    """Ids that an entity's relationships point to, of those that the subscription shows."""
    found: set[str] = set()
    for name in forms.attributes(document):
        if not top or _shown(subscription, name):
            for item in forms.instances(document[name]):
                found.update(_objects(item))
    return found


def _objects(instance: Json) -> list[str]:
    kind = instance["type"]
    if kind == "Relationship":
        value = instance["object"]
        return value if isinstance(value, list) else [value]
    return [entry["object"] for entry in instance["objectList"]] if kind == "ListRelationship" else []


def joined(subscription: Active, data: list[Json], documents: list[Json], find: Find) -> list[Json]:
    """`data`, written from `documents`, with the entities that they are linked to, `joinLevel` steps far.

    Linked entities are shown whole, in the form of the notification; of one that does not exist nothing is said.
    """
    assert subscription.join is not None
    kind, level = subscription.join
    known: dict[str, tuple[Json, Json]] = {}
    front = documents
    for step in range(level):
        wanted = {id for document in front for id in targets(document, subscription, top=step == 0)} - known.keys()
        found = find(wanted) if wanted else {}
        known.update(found)
        front = [document for document, _ in found.values()]
        if not front:
            break
    form = subscription.form._replace(keep=None, drop=frozenset())

    def written(id: str) -> Json:
        document, times = known[id]
        return dict(forms.write(document, subscription.context, form, times if form.system else None))

    if kind == "flat":
        shown = {document["id"] for document in documents}
        more = {id: written(id) for id in known if id not in shown}
        if subscription.feature:
            more = {id: forms.feature(known[id][0], item, form) for id, item in more.items()}
        return [*data, *more.values()]

    def fill(out: Json, document: Json, left: int, *, top: bool) -> None:
        if not left:
            return
        for name in forms.attributes(document):
            if top and not _shown(subscription, name):
                continue
            shown = subscription.context.shown(name)
            for item in forms.instances(document[name]):
                ids = [id for id in _objects(item) if id in known]
                if ids and shown in out:
                    inner = []
                    for id in ids:
                        made = written(id)
                        fill(made, known[id][0], left - 1, top=False)
                        inner.append(made)
                    out[shown] = _inlined(out[shown], item, inner, form.style)

    for out, document in zip(data, documents, strict=True):
        fill(out.get("properties", out) if subscription.feature else out, document, level, top=True)
    return data


def _inlined(present: Any, instance: Json, inner: list[Json], style: str) -> Any:
    several = instance["type"] == "ListRelationship" or isinstance(instance.get("object"), list)
    if style == "simplified":
        value: Any = inner if several else inner[0]
        if isinstance(present, dict) and "dataset" in present:
            return {"dataset": {**present["dataset"], instance.get("datasetId", "@none"): value}}
        return value
    added = {"entityList": inner} if several else {"entity": inner[0]}
    if isinstance(present, list):
        return [{**item, **added} if item.get("datasetId") == instance.get("datasetId") else item for item in present]
    return {**present, **added}
