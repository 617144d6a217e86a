"""Context: the NGSI-LD engine, the spine for entities and their current state (ETSI GS CIM 009 v1.9.1).

Face: `ContextService` (operations on entities, `ensure_entities` of `NewEntity`s, `project`), `Update` (a last value for `project`),
`current_values` and `current_observations` (what the documents hold), the tables `entities` and `removed` (deleted entities whose readings are still there), `Subscriptions`, `Temporal` (what an entity was, asked for by a `Span`), and
`Neighbours` (what points to an entity and what looks at it), `terms_of`, `fitted`, `fresh_iris` (the IRIs of models' names), `haversine` (metres
between places). They are imported when they are named: `batch_reader` needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tulou.context.current import current_observations, current_values
    from tulou.context.evolution import Span
    from tulou.context.geo import haversine
    from tulou.context.jsonld import fitted, fresh_iris, terms_of
    from tulou.context.models import entities, removed
    from tulou.context.neighbours import Neighbours
    from tulou.context.service import ContextService, NewEntity, Update
    from tulou.context.subscriptions import Subscriptions
    from tulou.context.temporal import Temporal

__all__ = [
    "ContextService", "Neighbours", "NewEntity", "Span", "Subscriptions", "Temporal", "Update", "current_observations", "current_values", "entities",
    "fitted", "fresh_iris", "haversine", "removed", "terms_of",
]

_HOME = {
    "ContextService": "service", "Neighbours": "neighbours", "NewEntity": "service", "Span": "evolution", "Subscriptions": "subscriptions",
    "Temporal": "temporal", "Update": "service", "current_observations": "current", "current_values": "current", "entities": "models", "removed": "models",
    "fitted": "jsonld", "fresh_iris": "jsonld", "haversine": "geo", "terms_of": "jsonld",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
