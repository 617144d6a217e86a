"""Answers for clients of earlier versions: `Prefer: ngsi-ld=1.5` gets attributes of kinds that 1.5 knew.

Law: pure. What is newer becomes a Property with the same value, or the Relationship that it generalises; nothing is lost
but the kind.

Source: ETSI GS CIM 009 v1.9.1 clause 4.3.6.8; RFC 7240.
"""

from __future__ import annotations

import re
from typing import Any

from tulou.context.forms import ENTITY_MEMBERS, MEMBERS, VALUE_OF, Json

Version = tuple[int, int]

SINCE: dict[str, Version] = {
    "LanguageProperty": (1, 4), "VocabProperty": (1, 8), "JsonProperty": (1, 8), "ListProperty": (1, 8),
    "ListRelationship": (1, 8),
}
"""The version that introduced a kind of attribute (Table 4.3.6.8-1)."""

_PREFERENCE = re.compile(r'(?:^|[,;\s])ngsi-ld\s*=\s*"?(\d)\.(\d{1,2})"?(?=$|[,;\s])')


def preferred(header: str | None) -> Version | None:
    """The version that a `Prefer` header asks for, None if none."""
    match = _PREFERENCE.search(header) if header else None
    return None if match is None else (int(match.group(1)), int(match.group(2)))


def amend(document: Json, version: Version) -> Json:
    """A stored document in kinds of attributes that `version` knows; the very document if it has no others."""
    out = {
        name: value if name in ENTITY_MEMBERS else _amended(value, version) for name, value in document.items()
    }
    return document if all(out[name] is value for name, value in document.items()) else out


def _amended(attribute: Any, version: Version) -> Any:
    if isinstance(attribute, list):
        items = [_amended(item, version) for item in attribute]
        return attribute if all(a is b for a, b in zip(items, attribute, strict=True)) else items
    out: Json = {
        name: value if name in MEMBERS else _amended(value, version) for name, value in attribute.items()
    }
    kind = attribute["type"]
    if SINCE.get(kind, version) > version:
        value = out.pop(VALUE_OF[kind])
        if kind == "ListRelationship":
            out |= {"type": "Relationship", "object": [item["object"] for item in value]}
        else:
            out |= {"type": "Property", "value": value}
        return out
    return attribute if all(out[name] is value for name, value in attribute.items()) else out
