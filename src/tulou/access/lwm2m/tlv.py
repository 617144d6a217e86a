"""TLV (content format 11542): OMA-TS-LightweightM2M-V1_0, 6.4.3; V1_1 Core, 7.4.3.

Law: pure. The structure only; what a value's bytes mean is the resource's type (`content.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tulou.access.coap import Unreadable

INSTANCE, RESOURCE_INSTANCE, MULTIPLE, RESOURCE = range(4)
"""Bits 7 and 6 of the type: object instance, resource instance, resource of several instances, resource."""
HOLDS = {INSTANCE: frozenset({RESOURCE, MULTIPLE}), MULTIPLE: frozenset({RESOURCE_INSTANCE})}
"""What may be within an entry that has entries."""
TOP = frozenset({INSTANCE, MULTIPLE, RESOURCE, RESOURCE_INSTANCE})
ENTRIES = 10_000


@dataclass(slots=True, frozen=True)
class Entry:
    """One entry: its kind, id, and bytes or entries."""

    kind: int
    id: int
    value: bytes | tuple[Entry, ...]


def decode(raw: bytes) -> tuple[Entry, ...]:
    """Read entries. Raises `Unreadable`."""
    return _entries(raw, 0, len(raw), TOP, [ENTRIES])


def _entries(raw: bytes, at: int, end: int, allowed: frozenset[int], left: list[int]) -> tuple[Entry, ...]:
    found = []
    while at < end:
        head = raw[at]
        kind, wide, sizing = head >> 6, head >> 5 & 1, head >> 3 & 3
        start = at + 2 + wide + sizing
        if start > end:
            raise Unreadable("tlv", "TLV 头不完整", "the header of an entry is cut off", f"byte {at}")
        number = int.from_bytes(raw[at + 1 : at + 2 + wide])
        length = int.from_bytes(raw[at + 2 + wide : start]) if sizing else head & 7
        if start + length > end:
            raise Unreadable("tlv", "TLV 长度超出消息", "the length of an entry goes beyond what holds it", f"byte {at}", length)
        if kind not in allowed:
            raise Unreadable("tlv", "TLV 嵌套有误", "an entry of this kind may not be here", f"byte {at}", kind)
        left[0] -= 1
        if left[0] < 0:
            raise Unreadable("count", f"超过 {ENTRIES} 项", f"more than {ENTRIES} entries")
        value = _entries(raw, start, start + length, HOLDS[kind], left) if kind in HOLDS else raw[start : start + length]
        found.append(Entry(kind, number, value))
        at = start + length
    return tuple(found)


def encode(entries: Sequence[Entry]) -> bytes:
    """Write entries."""
    out = bytearray()
    for entry in entries:
        body = entry.value if isinstance(entry.value, bytes) else encode(entry.value)
        wide = entry.id > 0xFF
        size = len(body)
        sizing = 0 if size < 8 else 1 if size < 1 << 8 else 2 if size < 1 << 16 else 3
        out.append(entry.kind << 6 | wide << 5 | sizing << 3 | (0 if sizing else size))
        out += entry.id.to_bytes(2 if wide else 1) + (size.to_bytes(sizing) if sizing else b"") + body
    return bytes(out)
