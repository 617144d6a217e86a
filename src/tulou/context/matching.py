"""Which registered context source serves which part of an operation.

Law: pure. Names are stored names, identifiers are texts; nothing here knows HTTP, stores or people. A registration is
never asked for more than it offers: types, identifiers and attributes of what it is sent are cut to its own.

Sources: ETSI GS CIM 009 v1.9.1 clauses 4.3.6.1 to 4.3.6.4, 4.20, 5.2.8 to 5.2.10 and 5.12.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tulou.context import query
from tulou.context.geo import GeoQuery
from tulou.context.selection import Selector, TypeTree

MODES = ("inclusive", "exclusive", "redirect", "auxiliary")

_DISCOVERY = (
    "retrieveEntityTypes", "retrieveEntityTypeDetails", "retrieveEntityTypeInfo", "retrieveAttrTypes",
    "retrieveAttrTypeDetails", "retrieveAttrTypeInfo",
)
_SUBSCRIPTION = (
    "createSubscription", "updateSubscription", "retrieveSubscription", "querySubscription", "deleteSubscription",
)
_MAPS = ("retrieveEntityMap", "updateEntityMap", "deleteEntityMap", "createEntityMapQueryEntity")
READING = frozenset({
    "retrieveEntity", "queryEntity", "queryBatch", "retrieveTemporal", "queryTemporal", "createEntityMapQueryTemporal",
    *_DISCOVERY, *_SUBSCRIPTION, *_MAPS,
})
"""Operations of context information consumption, all that an auxiliary source may offer (4.3.6.2)."""
WRITING = frozenset({
    "createEntity", "updateEntity", "appendAttrs", "updateAttrs", "deleteAttrs", "deleteEntity", "mergeEntity",
    "replaceEntity", "replaceAttrs", "purgeEntity", "createBatch", "upsertBatch", "updateBatch", "deleteBatch",
    "mergeBatch", "upsertTemporal", "appendAttrsTemporal", "deleteAttrsTemporal", "updateAttrInstanceTemporal",
    "deleteAttrInstanceTemporal", "deleteTemporal",
})
_ASSOCIATION = ("retrieveEntity", "queryEntity", "queryBatch", *_DISCOVERY, *_SUBSCRIPTION)
GROUPS: Mapping[str, tuple[str, ...]] = {
    "retrieveOps": ("retrieveEntity", "queryEntity"),
    "updateOps": ("updateEntity", "updateAttrs", "replaceEntity", "replaceAttrs"),
    "associationOps": _ASSOCIATION,
    "federationOps": (*_ASSOCIATION, *_MAPS),
    "redirectionOps": (
        "createEntity", "updateEntity", "appendAttrs", "updateAttrs", "deleteAttrs", "deleteEntity", "mergeEntity",
        "replaceEntity", "replaceAttrs", "purgeEntity", "retrieveEntity", "queryEntity", *_DISCOVERY, *_MAPS,
    ),
}
"""Named groups of operations (table 4.20-2)."""
OPERATIONS = READING | WRITING

EVERY = frozenset({"*"})
"""Stands for all attributes."""


class EntityInfo(NamedTuple):
    """Which entities are offered (5.2.8): by id, by pattern, or all; of any of these types."""

    types: frozenset[str]
    id: str | None = None
    pattern: str | None = None

    def serves(self, id: str, types: Collection[str] | None) -> bool:
        """Whether it covers the entity; `types` None where they are not known (5.12)."""
        if types and self.types and self.types.isdisjoint(types):
            return False
        if self.id is not None:
            return self.id == id
        return self.pattern is None or query.regexp(self.pattern).search(id) is not None


class Info(NamedTuple):
    """A RegistrationInfo (5.2.10): no entities means any, no names means every attribute."""

    entities: tuple[EntityInfo, ...]
    names: frozenset[str]

    def serves(self, id: str, types: Collection[str] | None) -> bool:
        """Whether it covers the entity."""
        return not self.entities or any(item.serves(id, types) for item in self.entities)


@dataclass(slots=True, eq=False)
class Registration:
    """A registration compiled for matching and forwarding; times in seconds, `expires_at` in µs."""

    no: int
    id: str
    org: str
    mode: str
    operations: frozenset[str]
    infos: tuple[Info, ...]
    endpoint: str
    tenant: str | None = None
    alias: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    context: str | None = None
    content_type: str | None = None
    accept: str | None = None
    local_only: bool = False
    timeout: float | None = None
    cooldown: float = 0.0
    expires_at: int | None = None
    location: dict[str, Any] | None = None
    datasets: frozenset[str] = frozenset()
    observed: tuple[int, int | None] | None = None
    managed: tuple[int, int | None] | None = None
    properties: dict[str, Any] = field(default_factory=dict)

    @property
    def latest(self) -> bool:
        """Whether it offers the latest information, not that of an interval of the past."""
        return self.observed is None and self.managed is None

    @property
    def proxied(self) -> bool:
        """Whether what it covers is held there alone (4.3.6.3)."""
        return self.mode in ("exclusive", "redirect")

    def offers(self, *operations: str) -> str | None:
        """The first of these operations that it supports."""
        return next((name for name in operations if name in self.operations), None)

    def names(self, id: str, types: Collection[str] | None) -> frozenset[str] | None:
        """The attributes that it offers of this entity: `EVERY`, some, or None for nothing at all."""
        found: set[str] = set()
        hit = False
        for info in self.infos:
            if info.serves(id, types):
                hit = True
                if not info.names:
                    return EVERY
                found |= info.names
        return frozenset(found) if hit else None


class Index:
    """The registrations of one organisation, found by type or identifier without looking at all of them."""

    __slots__ = ("_by_id", "_by_type", "_unnamed", "_untyped", "all")

    def __init__(self, registrations: Iterable[Registration]) -> None:
        self.all = sorted(registrations, key=lambda item: item.no)
        self._by_type: dict[str, list[Registration]] = {}
        self._by_id: dict[str, list[Registration]] = {}
        self._untyped: list[Registration] = []
        self._unnamed: list[Registration] = []
        for item in self.all:
            entities = [entity for info in item.infos for entity in info.entities]
            free = any(not info.entities for info in item.infos)
            if free or any(not entity.types for entity in entities):
                self._untyped.append(item)
            for name in {name for entity in entities for name in entity.types}:
                self._by_type.setdefault(name, []).append(item)
            if free or any(entity.id is None for entity in entities):
                self._unnamed.append(item)
            for id in {entity.id for entity in entities if entity.id is not None}:
                self._by_id.setdefault(id, []).append(item)

    def candidates(self, types: Collection[str] | None, id: str | None) -> list[Registration]:
        """Registrations that may cover an entity or query, in order of creation."""
        if types:
            found = [*self._untyped, *(item for name in types for item in self._by_type.get(name, ()))]
        elif id is not None:
            found = [*self._unnamed, *self._by_id.get(id, ())]
        else:
            return self.all
        return sorted(dict.fromkeys(found), key=lambda item: item.no)

    def serving(
        self, id: str, types: Collection[str] | None, now: int, seen: Collection[str] = ()
    ) -> Iterator[tuple[Registration, frozenset[str]]]:
        """(registration, attributes) of those in force that cover the entity and are not in the `Via` chain (4.3.6.4)."""
        for item in self.candidates(types, id):
            if usable(item, now, seen):
                names = item.names(id, types)
                if names is not None:
                    yield item, names


def in_force(item: Registration, now: int, seen: Collection[str]) -> bool:
    """Whether a registration has not expired and its source is not yet part of the chain."""
    return (item.expires_at is None or item.expires_at > now) and (item.alias is None or item.alias not in seen)


def usable(item: Registration, now: int, seen: Collection[str]) -> bool:
    """Whether a registration is in force, of the latest information, and not yet part of the chain of sources."""
    return item.latest and in_force(item, now, seen)


def of_the_time(item: Registration, timeproperty: str, start: int | None, end: int | None) -> bool:
    """Whether a source can have something of a time in µs: by its observation or management interval, where it has
    either (5.2.9)."""
    if item.latest or (start is None and end is None):
        return True
    interval = item.observed if timeproperty == "observedAt" else item.managed
    return interval is not None and overlap(interval, (start, end))


# ---- queries


class Portion(NamedTuple):
    """What one source is asked: narrowed types (None: any), ids, pattern, attributes (None: all)."""

    types: TypeTree | None
    ids: tuple[str, ...]
    pattern: str | None
    names: frozenset[str] | None


def leaves(tree: TypeTree | None) -> frozenset[str]:
    """The type names of a type selection."""
    if tree is None:
        return frozenset()
    if isinstance(tree, str):
        return frozenset({tree})
    return frozenset(name for part in tree[1] for name in leaves(part))


def _alternatives(tree: TypeTree | None) -> tuple[str, ...] | None:
    """The names of a selection that is a plain list of alternatives; None for one that is not."""
    if isinstance(tree, str):
        return (tree,)
    if tree is not None and tree[0] == "or" and all(isinstance(part, str) for part in tree[1]):
        return tuple(part for part in tree[1] if isinstance(part, str))
    return None


def narrowed(info: Info, selectors: Collection[Selector], names: frozenset[str] | None) -> list[Portion]:
    """What a query asks of the source of `info` (5.12), nothing when it cannot match.

    `names`: the attributes that the query is about, None for any.
    """
    wanted = names
    if info.names:
        wanted = info.names if names is None else names & info.names
        if not wanted:
            return []
    found: dict[Portion, None] = {}
    for selector in selectors or (Selector(),):
        for entity in info.entities or (EntityInfo(frozenset()),):
            hit = _meet(entity, selector)
            if hit is not None:
                found[Portion(*hit, wanted)] = None
    return _joined(list(found))


def _meet(entity: EntityInfo, selector: Selector) -> tuple[TypeTree | None, tuple[str, ...], str | None] | None:
    types = selector.types
    if entity.types:
        plain = _alternatives(types)
        if types is None:
            types = any_of(entity.types)
        elif plain is not None:
            both = [name for name in plain if name in entity.types]
            if not both:
                return None
            types = any_of(both)
        elif leaves(types).isdisjoint(entity.types):
            return None
    ids, pattern = selector.ids, selector.pattern if not selector.ids else None
    if entity.id is not None:
        if ids:
            return (types, (entity.id,), None) if entity.id in ids else None
        if pattern is not None and query.regexp(pattern).search(entity.id) is None:
            return None
        return types, (entity.id,), None
    if entity.pattern is not None:
        if ids:
            ids = tuple(id for id in ids if query.regexp(entity.pattern).search(id) is not None)
            return (types, ids, None) if ids else None
        return types, (), pattern or entity.pattern
    return types, ids, pattern


def any_of(names: Collection[str]) -> TypeTree:
    parts = tuple(names if isinstance(names, list) else sorted(names))
    return parts[0] if len(parts) == 1 else ("or", parts)


def _joined(asks: list[Portion]) -> list[Portion]:
    """Asks for single ids of the same types as one ask."""
    kept: list[Portion] = []
    by_types: dict[Any, int] = {}
    for ask in asks:
        if not ask.ids:
            kept.append(ask)
        elif ask.types in by_types:
            at = by_types[ask.types]
            kept[at] = kept[at]._replace(ids=tuple(dict.fromkeys((*kept[at].ids, *ask.ids))))
        else:
            by_types[ask.types] = len(kept)
            kept.append(ask)
    return kept


def place_meets(wanted: GeoQuery | None, location: dict[str, Any] | None) -> bool:
    """Whether entities inside a registration's location can satisfy a geoquery (5.2.9, location)."""
    if wanted is None or location is None or wanted.relation == "disjoint" or wanted.least:
        return True
    if wanted.metres is not None:
        return wanted.match(location)
    return GeoQuery("intersects", wanted.reference, None, False, wanted.geoproperty).match(location)


def overlap(first: tuple[int, int | None], second: tuple[int | None, int | None]) -> bool:
    """Whether two intervals in µs, the first closed and the second with open ends as None, have a moment in common."""
    start, end = first
    return (second[1] is None or start <= second[1]) and (second[0] is None or end is None or end >= second[0])


def contest(first: Registration, second: Registration) -> bool:
    """Whether two registrations claim the same attribute of the same entity for themselves (4.3.6.3)."""
    if "exclusive" not in (first.mode, second.mode) or not (first.proxied and second.proxied):
        return False
    owner, other = (first, second) if first.mode == "exclusive" else (second, first)
    for info in owner.infos:
        for entity in info.entities:
            if entity.id is None:
                continue
            claimed = other.names(entity.id, entity.types or None)
            if claimed is not None and (claimed is EVERY or not claimed.isdisjoint(info.names)):
                return True
    return False
