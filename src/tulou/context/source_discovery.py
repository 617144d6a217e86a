"""Types and attributes over context sources (5.7.5 to 5.7.10): what the house has, and what sources say that they have.

Law: a source's word counts for the types and attributes that it is registered for. Counts are sums: an entity of which two
have a part is counted by both, for nobody sends entities to be counted.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.2.24 to 5.2.28, 5.7.5 to 5.7.10 and 4.3.6.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tulou.context.forwarding import Caller
from tulou.context.jsonld import Context
from tulou.context.matching import Registration
from tulou.kernel.errors import Invalid
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.context.routes import Door


class Described:
    """The entities' service as the handlers of `types` and `attributes` use it, over sources too.

    `type` and `attribute` are the stored name that a request is about, None for a list.
    """

    def __init__(self, door: Door, caller: Caller, type: str | None, attribute: str | None) -> None:
        self._door = door
        self._caller = caller
        self._type = type
        self._attribute = attribute
        self._kinds: dict[str, set[str]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._door.entities, name)

    async def types(self, actor: Actor, *, tenant: str | None = None) -> dict[str, int]:
        """As `ContextService.types`; of a type that is in a list only, a source tells no count."""
        found = dict(await self._door.entities.types(actor, tenant=tenant))
        sources = self._door.sources
        if self._type is not None:
            said = await sources.described(
                actor, self._caller, "retrieveEntityTypeInfo", "types", tenant=tenant, name=self._type
            )
            for item, context, body in said:
                if isinstance(body, dict) and _offered(item, self._type):
                    found[self._type] = found.get(self._type, 0) + _count(body.get("entityCount"))
                    for entry in _entries(body.get("attributeDetails")):
                        self._add(item, context, entry.get("attributeName"), entry.get("attributeTypes"))
            return found
        for item, context, body in await sources.described(actor, self._caller, "retrieveEntityTypes", "types", tenant=tenant):
            for name in _names(body.get("typeList") if isinstance(body, dict) else None, context):
                if _offered(item, name):
                    found.setdefault(name, 0)
        return found

    def _add(self, item: Registration, context: Context, name: Any, kinds: Any) -> None:
        for stored in _names([name], context):
            if _named(item, stored):
                self._kinds.setdefault(stored, set()).update(kind for kind in kinds or () if isinstance(kind, str))

    async def attributes(
        self, actor: Actor, *, tenant: str | None = None, type: str | None = None
    ) -> dict[str, dict[str, Any]]:
        """As `ContextService.attributes`."""
        found = await self._door.entities.attributes(actor, tenant=tenant, type=type)
        if type is not None:
            for name, kinds in self._kinds.items():
                _entry(found, name)["kinds"] |= kinds
            return found
        sources = self._door.sources
        if self._attribute is not None:
            said = await sources.described(
                actor, self._caller, "retrieveAttrTypeInfo", "attributes", tenant=tenant, name=self._attribute
            )
            for item, context, body in said:
                types = _names(body.get("typeNames"), context) if isinstance(body, dict) else []
                offered = {name for name in types if _offered(item, name)}
                if offered and _named(item, self._attribute):
                    entry = _entry(found, self._attribute)
                    entry["count"] += _count(body.get("attributeCount"))
                    entry["kinds"] |= {kind for kind in body.get("attributeTypes") or () if isinstance(kind, str)}
                    entry["types"] |= offered
            return found
        said = await sources.described(
            actor, self._caller, "retrieveAttrTypeDetails", "attributes", [("details", "true")], tenant=tenant
        )
        for item, context, body in said:
            for described in _entries(body):
                for name in _names([described.get("attributeName")], context):
                    offered = {kind for kind in _names(described.get("typeNames"), context) if _offered(item, kind)}
                    if _named(item, name) and offered:
                        _entry(found, name)["types"] |= offered
        return found


def _entry(found: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    return found.setdefault(name, {"count": 0, "types": set(), "kinds": set()})


def _entries(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _names(value: Any, context: Context) -> list[str]:
    """The stored forms of the names in a list that a source sent; what is no name is passed over."""
    found = []
    for item in value if isinstance(value, list) else ():
        try:
            found.append(context.stored(item))
        except (ValueError, TypeError, Invalid):
            continue
    return found


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else 0


def _offered(item: Registration, type: str) -> bool:
    """Whether the registration covers entities of the type."""
    return any(
        not info.entities or any(not entity.types or type in entity.types for entity in info.entities) for info in item.infos
    )


def _named(item: Registration, attribute: str) -> bool:
    """Whether the registration covers the attribute."""
    return any(not info.names or attribute in info.names for info in item.infos)
