"""Stored entities as the JSON of an answer, kept while they are asked for again.

Law: what is kept depends on the version of a row and the terms of a context alone, and is looked up by both: a change needs
no telling. Rows of snapshots have numbers of their own and are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from tulou.context import forms
from tulou.context.jsonld import Context
from tulou.context.store import Row

MOST = 32 << 20
"""Bytes that are kept, by their text alone; then all are let go."""
WHOLE = forms.Form()


class Rendered:
    """Whole normalized entities (`Form.whole`), by context."""

    def __init__(self, most: int = MOST) -> None:
        self._most, self._size = most, 0
        self._kept: dict[tuple[Context, int, int], tuple[Mapping[str, str], bytes]] = {}

    def json(self, row: Row, context: Context, *, keep: bool = True) -> bytes:
        """The entity of `row`, which holds nothing that expires, as `context` shows it."""
        if context.identity:
            return row.text.encode()
        key = context, row.no, row.version
        found = self._kept.get(key) if keep else None
        if found is not None and found[0] is context.terms:
            return found[1]
        text = orjson.dumps(forms.write(row.document, context, WHOLE))
        if keep:
            if self._size > self._most:
                self._kept.clear()
                self._size = 0
            self._kept[key] = context.terms, text
            self._size += len(text)
        return text
