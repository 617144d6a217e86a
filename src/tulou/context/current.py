"""The current values of properties as the entities' documents hold them: for engines that begin without the readings.

Law: only values with the time of their observation count; what it says is what `project` wrote, in the names of the
house's models.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from tulou.context import forms
from tulou.context.models import entities

if TYPE_CHECKING:
    from tulou.context.service import ContextService

PAGE = 2_000

Current = tuple[int, str, int, float]
"""Entity number, property of the model, observed at in µs, value."""


async def current_numbers(service: ContextService, wanted: Mapping[str, Collection[str]]) -> list[Current]:
    """The numeric values of the properties `wanted` (by the type's name in its model) of every entity of the house.

    For engines that act for the house: nobody's rights are asked.
    """
    stored = {
        kind: [(name, service.names.stored(name)) for name in properties] for kind, properties in wanted.items()
    }
    found: list[Current] = []
    after = 0
    while True:
        query = (
            sa.select(entities.c.no, entities.c.type, sa.cast(entities.c.doc, sa.Text).label("doc"))
            .where(entities.c.no > after, entities.c.type.in_(sorted(stored))).order_by(entities.c.no).limit(PAGE)
        )
        rows = await service.db.read(lambda c, query=query: c.execute(query).all())  # type: ignore[misc]
        for no, kind, text in rows:
            document = orjson.loads(text)
            for name, member in stored[kind]:
                instance = forms.default_instance(document[member]) if member in document else None
                value = instance.get("value") if instance else None
                if instance and "observedAt" in instance and isinstance(value, int | float):
                    found.append((no, name, forms.micros(instance["observedAt"]), float(value)))
        if len(rows) < PAGE:
            return found
        after = rows[-1].no


async def current_values(service: ContextService, numbers: Collection[int], names: Collection[str] | None) -> dict[int, dict[str, Any]]:
    """By entity number, the values of properties by name (of all if `names` is None), as the documents hold them.

    For engines that act for the house: nobody's rights are asked.
    """
    found = await current_observations(service, numbers, names)
    return {no: {name: value for name, (value, _) in values.items()} for no, values in found.items()}


async def current_observations(
    service: ContextService, numbers: Collection[int], names: Collection[str] | None
) -> dict[int, dict[str, tuple[Any, str]]]:
    """As `current_values`, each value with the time of its observation as the document has it, empty where it has none."""
    query = sa.select(entities.c.no, sa.cast(entities.c.doc, sa.Text)).where(entities.c.no.in_(numbers))
    rows = await service.db.read(lambda c: c.execute(query).all())
    found: dict[int, dict[str, tuple[Any, str]]] = {}
    for no, text in rows:
        document = orjson.loads(text)
        wanted = document if names is None else {service.names.stored(name) for name in names} & document.keys()
        values = found[no] = {}
        for member in wanted:
            instance = forms.default_instance(document[member]) if isinstance(document[member], dict | list) else None
            if instance and instance.get("type") == "Property" and "value" in instance:
                values[service.names.shown(member)] = instance["value"], str(instance.get("observedAt", ""))
    return found
