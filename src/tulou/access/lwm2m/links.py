"""Core link format (RFC 6690), as LwM2M registrations use it (V1_0, 5.3.1): `</3303/0>;ver=1.1,</3/0>`.

Law: pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tulou.access.coap import Unreadable

LINKS = 1000
LINK = re.compile(r'<([^<>"]*)>((?:\s*;\s*[^\s;,="<>]+(?:=(?:"(?:[^"\\]|\\.)*"|[^\s;,"]*))?)*)\s*')
ATTRIBUTE = re.compile(r';\s*([^\s;,="<>]+)(?:=("(?:[^"\\]|\\.)*"|[^\s;,"]*))?')


@dataclass(slots=True)
class Link:
    """A target and its attributes, without quotation marks."""

    target: str
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> tuple[int, ...] | None:
        """The object, and the instance if it names one; None for what is not such a path."""
        parts = self.target.strip("/").split("/")
        if not 1 <= len(parts) <= 3 or not all(part.isdecimal() and part.isascii() and len(part) < 6 for part in parts):
            return None
        found = tuple(int(part) for part in parts)
        return found if max(found) < 1 << 16 else None


def decode(raw: bytes) -> list[Link]:
    """Read links. Raises `Unreadable`."""
    try:
        text = raw.decode().strip()
    except UnicodeDecodeError:
        raise Unreadable("utf-8", "链接不是 UTF-8", "links are not UTF-8") from None
    links: list[Link] = []
    at = 0
    while at < len(text):
        match = LINK.match(text, at)
        if match is None or len(links) >= LINKS:
            raise Unreadable("links", "链接格式有误，或过多", f"not core link format (RFC 6690), or more than {LINKS} links", f"character {at}",
                             text[at : at + 40])
        links.append(Link(match[1], {
            name: (value[1:-1] if value.startswith('"') else value) for name, value in ATTRIBUTE.findall(match[2])
        }))
        at = match.end()
        if at < len(text):
            if text[at] != ",":
                raise Unreadable("links", "链接之间须为逗号", "links are separated by commas", f"character {at}", text[at : at + 40])
            at += 1
            while at < len(text) and text[at].isspace():
                at += 1
    return links
