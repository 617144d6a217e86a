"""The current values of properties as the entities' documents hold them: for engines that need no more than the values.

Law: read in SQL at once for many entities; nobody's rights are asked.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from tulou.context import forms
from tulou.context.models import entities

if TYPE_CHECKING:
    from tulou.context.service import ContextService


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
