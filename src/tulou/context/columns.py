"""What the columns of a stored entity hold, made from its document.

Law: pure functions, for whoever reads entities, in whichever process.
"""

from __future__ import annotations

import contextlib
import re
from functools import lru_cache
from typing import Any

import orjson

from tulou.context import forms
from tulou.context.forms import Json

micros = lru_cache(maxsize=8192)(forms.micros)
_OBSERVED = re.compile('"observedAt":"([^"]+)"')

MADE = 14
"""Where the parameters of an insert hold the time of making."""

Span = tuple[int, int]
"""The earliest and the latest of times in µs."""


class Prepared:
    """An entity that was read: the parameters of its insert, and its document, opened when somebody needs it.

    `row` is None for a fragment that cannot be inserted: it has no type. `observed` is what `observed` says of its text,
    if it was asked already.
    """

    __slots__ = ("_document", "id", "observed", "row")

    def __init__(
        self, row: tuple[Any, ...] | None, document: Json | None = None, observed: Span | None = None
    ) -> None:
        self.row = row
        self.observed = observed
        self._document = document
        self.id: str = row[0] if row is not None else document["id"]  # type: ignore[index]

    @property
    def document(self) -> Json:
        """The document in stored form, the same object at each call."""
        if self._document is None:
            self._document = orjson.loads(self.row[5])  # type: ignore[index]
        return self._document


def dumped(value: Any) -> str:
    """JSON text. Raises `TypeError` (orjson's) for what cannot be written."""
    return orjson.dumps(value).decode()


def observed(text: str, at: int) -> Span:
    """A span that holds `at` and the times of a document's instances: all that its JSON names as observed."""
    times = [at]
    for moment in set(_OBSERVED.findall(text)):
        with contextlib.suppress(ValueError):  # a value that only looks like an attribute's
            times.append(micros(moment))
    return min(times), max(times)


def times_text(times: Json) -> str | None:
    """The `times` column of the times of a row."""
    kept = {key: value for key, value in times.items() if key != "@"}
    return dumped(kept) if kept else None


def columns_of(document: Json, type_name: Any) -> tuple[tuple[Any, ...], tuple[Any, ...], int | None]:
    """(type, types, name), (synthetic, lon, lat, west, south, east, north) and expires_at of a document.

    `type_name` maps a stored type to the name that the type column holds.
    """
    found = forms.facts(document)
    types = None if found.types is None else dumped([type_name(item) for item in found.types])
    box = found.bbox or (None, None, None, None)
    return (
        (type_name(found.type), types, found.name),
        (found.synthetic, found.lon, found.lat, *box),
        forms.micros(document["expiresAt"]) if "expiresAt" in document else None,
    )


def insertion(document: Json, org: str, now: int, type_name: Any) -> tuple[Any, ...]:
    """The parameters of an insert."""
    kind, place, expires = columns_of(document, type_name)
    return (document["id"], org, *kind, dumped(document), None, *place, now, now, expires)


def replacement(no: int, document: Json, times: Json, now: int, type_name: Any) -> tuple[Any, ...]:
    """The parameters of an update of everything."""
    kind, place, expires = columns_of(document, type_name)
    return (*kind, dumped(document), times_text(times), *place, now, expires, no)
