"""Objects of the OMA registry: their resources' names, types, operations and units (`objects.txt`).

Law: what is here is the registry's; nothing is guessed. A resource that is not here has no type, and its TLV value stays
bytes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

FLOAT, INTEGER, UNSIGNED, STRING, BOOLEAN, OPAQUE, TIME, OBJECT_LINK, CORE_LINK, NONE = "fiusbotlc-"
NUMERIC = frozenset({FLOAT, INTEGER, UNSIGNED, BOOLEAN})
NOT_OBSERVED = frozenset({0, 1, 2, 5, 7})
"""Objects of the protocol itself, which say nothing about the world: security, server, access, firmware, statistics."""


@dataclass(slots=True, frozen=True)
class Resource:
    """A resource of an object. `operations` has R, W, E; `unit` is empty where the registry says none."""

    name: str
    type: str
    operations: str
    multiple: bool
    unit: str


@functools.cache
def registry() -> dict[int, tuple[str, dict[int, Resource]]]:
    """Object id -> its name and resources."""
    found: dict[int, tuple[str, dict[int, Resource]]] = {}
    of: dict[int, Resource] = {}
    for line in resources.files(__package__).joinpath("objects.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        fields = line.split("\t")
        if fields[0]:
            of = {}
            found[int(fields[0])] = (fields[1], of)
        else:
            _, number, name, kind, operations, multiple, unit = fields
            of[int(number)] = Resource(name, kind, operations, multiple == "m", "" if unit == "-" else unit)
    return found


def resource(path: tuple[int, ...]) -> Resource | None:
    """The resource of a path object/instance/resource[/instance]."""
    if len(path) < 3 or path[0] not in registry():
        return None
    return registry()[path[0]][1].get(path[2])


def observed(path: tuple[int, ...]) -> bool:
    """Whether an instance is worth observing: an object of the registry with a numeric resource that can be read."""
    if len(path) != 2 or path[0] in NOT_OBSERVED or path[0] not in registry():
        return False
    return any("R" in r.operations and r.type in NUMERIC for r in registry()[path[0]][1].values())
