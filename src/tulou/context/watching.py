"""What subscriptions watch: a subscription compiled for matching, and the index that finds those a change may concern.

Law: pure, no store. The index may offer a subscription that does not match, never miss one that does: each stands
under the rarest thing that its condition cannot do without (an entity's id, a value, a bound, a watched attribute, a
type), and what the index offers is then tried in full.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.9, 5.2.12, 5.8.6.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote

from tulou.context import forms, geo, query
from tulou.context import selection as selecting
from tulou.context.forms import Form, Json
from tulou.context.jsonld import CORE, Context, Contexts
from tulou.context.subscription_form import DEFAULT_TRIGGERS, MAX_JOIN, WORDS, stored_document


class Changed(NamedTuple):
    """A change of an entity in stored form. `names`: attributes changed, None for all of them; `times`: as `forms.stamp`
    takes them."""

    org: str
    document: Json
    names: set[str] | None
    trigger: str
    before: Json | None = None
    times: Json | None = None


@dataclass(slots=True)
class Active:
    """A subscription compiled for matching."""

    no: int
    id: str
    org: str
    selection: selecting.Selection
    watched: frozenset[str] | None
    triggers: frozenset[str]
    form: Form
    members: frozenset[str] | None
    """What `pick` names (4.21), None without it: then `id` and `type` are always shown."""
    show_changes: bool
    join: tuple[str, int] | None
    context: Context
    throttling_us: int
    expires_at: int | None
    interval_us: int
    feature: bool
    linked: query.Node | None
    """A `q` that follows relationships: the store must answer it (4.9), so `selection` is without it."""


def compiled(
    contexts: Contexts, default: Context, no: int, id: str, org: str, document: Json, spec: Any, expires_at: int | None
) -> Active:
    """A stored document as something to match with; `spec` is the context of its notifications.

    Raises `BadRequestData`, `LdContextNotAvailable`.
    """
    context = contexts.get(spec) if spec is not None else default
    if WORDS not in document:
        document = stored_document(document, context, spec)
    words = contexts.get(document[WORDS]) if document[WORDS] is not None else default
    notification = document["notification"]
    selectors = tuple(
        selecting.Selector(
            selecting.type_tree(item["type"], CORE),
            (item["id"],) if isinstance(item.get("id"), str) else tuple(item.get("id", ())),
            selecting.pattern_of(item["idPattern"]) if item.get("idPattern") else None,
        )
        for item in document.get("entities", ())
    )
    place, expand = document.get("geoQ"), document.get("expandValues")
    names = frozenset(map(words.stored, expand.split(",") if isinstance(expand, str) else expand or ()))
    if document.get("csf"):
        query.parse(unquote(document["csf"]), words)
    q = query.parse(unquote(document["q"]), words, expand=names, levels=MAX_JOIN) if document.get("q") else None
    linked = q if q is not None and query.links(q) else None
    chosen = selecting.Selection(
        selectors, (), None if linked is not None else q,
        geo.parse(
            place.get("georel"), place.get("geometry"), place.get("coordinates"),
            words.stored(place.get("geoproperty", "location")),
        ) if place else None,
        document.get("scopeQ"),
    )
    if chosen.scope is not None:
        selecting.scope_patterns(chosen.scope)
    watched = document.get("watchedAttributes")
    keep, datasets = notification.get("attributes") or notification.get("pick"), document.get("datasetId")
    form = Form(
        forms.STYLES[notification.get("format", "normalized")], bool(notification.get("sysAttrs")),
        frozenset(keep) if keep else None, frozenset(notification.get("omit", ())), document.get("lang"),
        datasets=None if datasets is None else frozenset([datasets] if isinstance(datasets, str) else datasets),
    )
    join = notification.get("join", "@none")
    return Active(
        no, id, org, chosen, frozenset(watched) if watched else None,
        frozenset(document.get("notificationTrigger", DEFAULT_TRIGGERS)), form,
        frozenset(notification["pick"]) if "pick" in notification else None, bool(notification.get("showChanges")),
        None if join == "@none" else (join, notification.get("joinLevel", 1)), context,
        int(float(document.get("throttling", 0)) * 1e6), expires_at, int(float(document.get("timeInterval", 0)) * 1e6),
        notification["endpoint"].get("accept") == "application/geo+json", linked,
    )


# ---- whether a change concerns a subscription --------------------------------------------------------------------


def concerned(subscription: Active, change: Changed) -> set[str] | None:
    """The attributes by which `change` triggers the subscription; None when it does not."""
    triggers, watched = subscription.triggers, subscription.watched
    names = change.names if change.names is not None else set(forms.attributes(change.document))
    relevant = names if watched is None else names & watched
    if change.trigger == "entityDeleted":
        return relevant if "entityDeleted" in triggers or (relevant and "attributeDeleted" in triggers) else None
    created = change.trigger == "entityCreated"
    if created and "entityCreated" in triggers:
        return relevant
    if not relevant:
        return None
    if not created and "entityUpdated" in triggers:
        return relevant
    before = change.before or {}
    found = {name for name in relevant if not triggers.isdisjoint(kinds(before.get(name), change.document.get(name)))}
    return found or None


def kinds(before: Any, after: Any) -> set[str]:
    """The triggers that a change of one attribute pulls, looking at its instances (4.5.5)."""
    if before is None or after is None:
        return {"attributeDeleted" if after is None else "attributeCreated"}
    old = {item.get("datasetId"): item for item in forms.instances(before)}
    new = {item.get("datasetId"): item for item in forms.instances(after)}
    found = set()
    if old.keys() - new.keys():
        found.add("attributeDeleted")
    if new.keys() - old.keys():
        found.add("attributeCreated")
    if not found or any(new[key] != old[key] for key in new.keys() & old.keys()):
        found.add("attributeUpdated")
    return found


# ---- the index ----------------------------------------------------------------------------------------------------


class _Bounds:
    """Subscriptions that need a number above (or below) their bound."""

    __slots__ = ("bounds", "items")

    def __init__(self, entries: list[tuple[float, Active]]) -> None:
        entries.sort(key=lambda entry: entry[0])
        self.bounds = [bound for bound, _ in entries]
        self.items = [item for _, item in entries]


class _Group:
    """Subscriptions of one type (or of any)."""

    __slots__ = ("above", "below", "equal", "ids", "rest", "watched")

    def __init__(self, items: Iterable[tuple[Active, selecting.Selector | None]]) -> None:
        self.ids: dict[str, list[Active]] = {}
        self.equal: dict[str, dict[Any, list[Active]]] = {}
        self.watched: dict[str, list[Active]] = {}
        self.rest: list[Active] = []
        above: dict[str, list[tuple[float, Active]]] = {}
        below: dict[str, list[tuple[float, Active]]] = {}
        for item, selector in items:
            if selector is not None and selector.ids:
                for id in selector.ids:
                    self.ids.setdefault(id, []).append(item)
                continue
            found = _key(item.selection.q)
            if found is not None:
                name, operator, value = found
                if operator == "==":
                    self.equal.setdefault(name, {}).setdefault(value, []).append(item)
                else:
                    (above if operator[0] == ">" else below).setdefault(name, []).append((float(value), item))
            elif item.watched is not None and item.triggers.isdisjoint(("entityCreated", "entityDeleted")):
                for name in item.watched:
                    self.watched.setdefault(name, []).append(item)
            else:
                self.rest.append(item)
        self.above = {name: _Bounds(entries) for name, entries in above.items()}
        self.below = {name: _Bounds(entries) for name, entries in below.items()}

    def offer(self, document: Json, names: Iterable[str], found: dict[int, Active]) -> None:
        """Add those that a change of `names` may concern to `found`, by number."""
        for item in self.rest:
            found[item.no] = item
        if self.ids:
            for item in self.ids.get(document["id"], ()):
                found[item.no] = item
        if self.watched:
            for name in names:
                for item in self.watched.get(name, ()):
                    found[item.no] = item
        for name, table in self.equal.items():
            for value in _values(document.get(name)):
                for item in table.get(value, ()):
                    found[item.no] = item
        for name, bounds in self.above.items():
            numbers = [value for value in _values(document.get(name)) if _is_number(value)]
            if numbers:
                for item in bounds.items[: bisect_right(bounds.bounds, max(numbers))]:
                    found[item.no] = item
        for name, bounds in self.below.items():
            numbers = [value for value in _values(document.get(name)) if _is_number(value)]
            if numbers:
                for item in bounds.items[bisect_left(bounds.bounds, min(numbers)) :]:
                    found[item.no] = item


class Index:
    """The subscriptions of one organisation that look at changes."""

    def __init__(self, items: Iterable[Active]) -> None:
        self.items = [item for item in items if not item.interval_us]
        by_type: dict[str | None, list[tuple[Active, selecting.Selector | None]]] = {}
        for item in self.items:
            for selector in item.selection.selectors or (None,):
                for kind in _types(selector.types if selector is not None else None):
                    by_type.setdefault(kind, []).append((item, selector))
        self._groups = {kind: _Group(found) for kind, found in by_type.items()}

    def offered(self, change: Changed) -> list[Active]:
        """The subscriptions that `change` may concern, in order of creation."""
        document = change.document
        kind = document["type"]
        names = change.names if change.names is not None else list(forms.attributes(document))
        found: dict[int, Active] = {}
        for name in (kind, None) if isinstance(kind, str) else (*kind, None):
            group = self._groups.get(name)
            if group is not None:
                group.offer(document, names, found)
        return [found[no] for no in sorted(found)]


def _types(tree: selecting.TypeTree | None) -> list[str | None]:
    """Types of which an entity must have at least one to be selected; [None] when it may have any."""
    if tree is None or isinstance(tree, str):
        return [tree]
    word, parts = tree
    if word == "and":
        return min((_types(part) for part in parts), key=len)
    return list(dict.fromkeys(kind for part in parts for kind in _types(part)))


def _key(node: query.Node | None) -> tuple[str, str, Any] | None:
    """(stored name, operator, value) of a condition that must hold for `q` to: equality before bounds."""
    parts = node.parts if isinstance(node, query.All) else (node,)
    found: tuple[str, str, Any] | None = None
    for part in parts:
        if not isinstance(part, query.Term) or len(part.values) != 1 or len(part.path.names) != 1:
            continue
        value = part.values[0]
        if part.path.trail or part.path.core is not None or not isinstance(value, query.Value):
            continue
        if part.operator == "==" and value.kind in ("number", "text", "bool"):
            return part.path.names[0], "==", value.value
        if part.operator in (">", ">=", "<", "<=") and value.kind == "number" and found is None:
            found = part.path.names[0], part.operator, value.value
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _values(attribute: Any) -> list[Any]:
    """Every plain value that a condition on an attribute could be compared with."""
    if attribute is None:
        return []
    if isinstance(attribute, dict):
        value = attribute.get("value")
        if isinstance(value, str | int | float):
            return [value]
    found: list[Any] = []
    for instance in attribute if isinstance(attribute, list) else (attribute,):
        value = instance.get(forms.VALUE_OF.get(instance.get("type"), ""))
        items: Iterable[Any] = value if isinstance(value, list) else (value,)
        if instance.get("type") == "LanguageProperty" and isinstance(value, dict):
            items = value.values()
        for item in items:
            if isinstance(item, dict):
                item = item.get("object")
            found += [plain for plain in (item if isinstance(item, list) else (item,)) if isinstance(plain, str | int | float)]
    return found
