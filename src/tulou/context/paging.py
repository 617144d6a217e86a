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


def link(
    path: str, parameters: Sequence[tuple[str, str]], place: Cursor | int, relation: str, media: str = "application/ld+json"
) -> str:
    """A `Link` header value to another page of the same request: after a cursor, or at an offset."""
    kept = [(k, v) for k, v in parameters if k not in ("cursor", "offset")]
    kept.append(("offset", str(place)) if isinstance(place, int) else ("cursor", place.text()))
    query = "&".join(f"{quote(k, safe='')}={quote(v, safe=_LEGAL)}" for k, v in sorted(kept))
    return f'<{path.rstrip("/")}?{query}>; rel="{relation}"; type="{media}"'


_LEGAL = ":/?@!$'()*"
"""What a query may hold unquoted (RFC 3986, 3.4), less what parts parameters and the members of a `Link` header."""


def neighbours(
    path: str, parameters: Mapping[str, str], following: Cursor | None, previous: Cursor | None, limit: int, media: str,
    *, keyset: bool = True,
) -> list[tuple[bytes, bytes]]:
    """`Link` headers to the next and the previous page.

    Who pages by `offset` is led on by offsets, as far as they reach; who says nothing of offsets, or comes with a cursor,
    by cursors, which cost the same on every page and lose nothing. Without `keyset` (a list in an order of its own)
    there are offsets alone.
    """
    offset = int(parameters.get("offset", "0"))
    by_offset = not keyset or ("offset" in parameters and "cursor" not in parameters)
    places: list[tuple[Cursor | int, str]] = []
    if following is not None and (keyset or offset + limit <= MAX_OFFSET):
        places.append((offset + limit if by_offset and offset + limit <= MAX_OFFSET else following, "next"))
    if previous is not None:
        places.append((max(0, offset - limit) if by_offset else previous, "prev"))
    pairs = list(parameters.items())
    return [(b"link", link(path, pairs, place, relation, media).encode()) for place, relation in places]


def whole_number(parameters: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """An integer parameter. Raises `BadRequestData` outside least..most."""
    raw = parameters.get(name)
    if raw is None:
        return default
    if raw.isascii() and raw.isdigit() and len(raw) < 12 and least <= int(raw) <= most:
        return int(raw)
    raise bad(f"{name} 应为 {least} 至 {most} 的整数", f"{name} must be {least}..{most}",
              field=name, value=raw, rule=f"{least}..{most}")
