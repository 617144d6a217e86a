"""Paging of lists: keyset cursors, opaque to clients (CIM 009 v1.9.1 clause 5.5.9.1).

Law: a page is found by key, never by counting rows, so the thousandth page costs what the first does; rows added or
deleted while someone pages cause neither repeats nor gaps among the others.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from tulou.context.errors import bad

DEFAULT_LIMIT = 20
MAX_LIMIT = 1000
MAX_OFFSET = 100_000


class Cursor(NamedTuple):
    """A place between rows: before or after the row with this number."""

    no: int
    forward: bool = True

    def text(self) -> str:
        """The opaque form."""
        raw = (">" if self.forward else "<") + str(self.no)
        return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")


def cursor(text: str | None) -> Cursor | None:
    """Read an opaque cursor, None when absent. Raises `BadRequestData` if it is not one of ours."""
    if text is None:
        return None
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
        if raw[:1] in ("<", ">") and raw[1:].isdigit() and len(raw) < 21:
            return Cursor(int(raw[1:]), raw[0] == ">")
    except (ValueError, binascii.Error):
        pass
    raise bad("cursor 不是有效的游标", "cursor is not one of this list", field="cursor", value=text, rule="opaque")


def link(path: str, parameters: Sequence[tuple[str, str]], place: Cursor, relation: str) -> str:
    """A `Link` header value to another page of the same request."""
    kept = [(k, v) for k, v in parameters if k not in ("cursor", "offset")]
    query = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in [*kept, ("cursor", place.text())])
    return f'<{path}?{query}>;rel="{relation}";type="application/ld+json"'


def whole_number(parameters: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """An integer parameter. Raises `BadRequestData` outside least..most."""
    raw = parameters.get(name)
    if raw is None:
        return default
    if raw.isascii() and raw.isdigit() and len(raw) < 12 and least <= int(raw) <= most:
        return int(raw)
    raise bad(f"{name} 应为 {least} 至 {most} 的整数", f"{name} must be {least}..{most}",
              field=name, value=raw, rule=f"{least}..{most}")
