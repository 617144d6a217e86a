"""What an edge and its hub say to each other, and batches in the hub's numbers.

Law: pure, no I/O. What comes from an edge is believed in nothing but values: whose an entity is, of what type and origin is
taken from the hub's own table; readings outside the doors' range of times are left out, times of receipt are put into it, and what a batch must not have is `Invalid`, naming it.

A group is one msgpack map, `{v, era, after, messages: [[sequence, batch], ..], lag, lag_s, missed}`, deflated where that pays.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from tulou.access.batch import BAD, VERSION, Batch
from tulou.access.telemetry import EARLIEST_MS, MAX_NAME, SKEW_MS
from tulou.kernel.errors import Invalid, TooLarge

LARGEST = 12 << 20
"""Bytes of a group, deflated or not: one message of the bus, which is the least, has at most eight MiB."""
TOGETHER = 2 << 20
"""Bytes of messages that are put together into one at most."""
ROOM = 64 << 10
"""Bytes less than what the bus takes, for classes and the header."""
PAYS = 0.9
"""What deflating must leave at most."""
MOST_TEXT = 1 << 20
Class = tuple[str, str, int]


@dataclass(slots=True)
class Group:
    """Consecutive messages of an edge's stream behind the sequence `after`."""

    era: str
    after: int
    messages: list[tuple[int, bytes]]
    lag: int = 0
    lag_s: float = 0.0
    missed: int = 0

    def packed(self) -> tuple[bytes, bool]:
        """The bytes to send, and whether they are deflated."""
        body: bytes = msgpack.packb({
            "v": VERSION, "era": self.era, "after": self.after, "messages": self.messages, "lag": self.lag,
            "lag_s": self.lag_s, "missed": self.missed,
        })
        small = zlib.compress(body, 1)
        return (small, True) if len(small) < PAYS * len(body) else (body, False)

    @classmethod
    def unpacked(cls, body: bytes, deflated: bool) -> Group:
        """Read a group. Raises `Invalid` naming what is wrong, `TooLarge`."""
        if deflated:
            body = inflated(body)
        try:
            said = msgpack.unpackb(body)
            group = cls(said["era"], said["after"], [(seq, data) for seq, data in said["messages"]], said["lag"],
                        float(said["lag_s"]), said["missed"])
        except (KeyError, ValueError, TypeError, msgpack.UnpackException) as error:
            raise Invalid(f"不是一组消息：{error!r}", f"not a group of messages: {error!r}", field="body", rule="group v1") from None
        places = [group.after, *(seq for seq, _ in group.messages)]
        if not all(type(n) is int and 0 <= n < 1 << 62 for n in (*places, group.lag, group.missed)):
            raise _wrong("messages", "0 <= sequence")
        if any(later <= before for before, later in itertools.pairwise(places)):
            raise _wrong("messages", "rising sequences behind `after`")
        if not all(isinstance(data, bytes) for _, data in group.messages) or not isinstance(group.era, str):
            raise _wrong("messages", "batches")
        if not 0 <= group.lag_s < 1e10 or not 0 < len(group.era) <= 64:
            raise _wrong("era", "1 to 64 characters")
        return group


def inflated(body: bytes) -> bytes:
    """Deflated bytes as they were. Raises `Invalid`, or `TooLarge` beyond `LARGEST`."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(body, LARGEST)
    except zlib.error as error:
        raise Invalid(f"不能解压：{error}", f"cannot be inflated: {error}", field="body", rule="deflate") from None
    if stream.unconsumed_tail:
        raise TooLarge(f"解压后超过 {LARGEST} 字节", f"more than {LARGEST} bytes when inflated", field="body", rule=f"<= {LARGEST}")
    if not stream.eof:
        raise Invalid("压缩内容不完整", "the deflated body is cut", field="body", rule="deflate")
    return plain


@dataclass(slots=True)
class Table:
    """An edge's entities that may speak, by its numbers in order: ours, and each one's class in `classes`."""

    theirs: NDArray[np.uint64]
    ours: NDArray[np.uint64]
    of: NDArray[np.intp]
    classes: list[Class]

    @classmethod
    def made(cls, rows: Sequence[tuple[int, int, Class]]) -> Table:
        """Of (their number, ours, class)."""
        index: dict[Class, int] = {}
        rows = sorted(rows)
        of = np.array([index.setdefault(row[2], len(index)) for row in rows], np.intp)
        return cls(np.array([row[0] for row in rows], np.uint64), np.array([row[1] for row in rows], np.uint64), of, list(index))

    def find(self, numbers: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Rows of these numbers of theirs, and which there are."""
        if not len(self.theirs):
            return np.zeros(len(numbers), np.intp), np.zeros(len(numbers), bool)
        at = np.minimum(np.searchsorted(self.theirs, numbers), len(self.theirs) - 1)
        return at, self.theirs[at] == numbers


def numbers(batches: Sequence[Batch]) -> NDArray[np.uint64]:
    """The entities of which these say something."""
    parts = [part for b in batches for part in (b.f_entity, b.r_entity)]
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.uint64)


def spoken(batches: Sequence[Batch], table: Table) -> dict[str, int]:
    """Frames of each organisation."""
    counts: Counter[str] = Counter()
    for batch in batches:
        at, known = table.find(batch.f_entity)
        for row, count in enumerate(np.bincount(table.of[at[known]], minlength=len(table.classes)).tolist()):
            counts[table.classes[row][0]] += count
    return dict(counts)


def batch_of(data: bytes) -> Batch:
    """A batch that says nothing which a door of ours would not. Raises `Invalid`."""
    try:
        batch = Batch.decode(data)
    except (TypeError, AttributeError, ValueError) as error:
        raise Invalid(f"不是批次：{error!r}", f"not a batch: {error!r}", field="messages", rule="batch v1") from None
    if not isinstance(batch.protocol, str) or not 0 < len(batch.protocol) <= 32:
        raise _wrong("protocol", "1 to 32 characters")
    if not isinstance(batch.props, list) or not all(isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable() for name in batch.props):
        raise _wrong("props", f"names of 1 to {MAX_NAME} characters")
    if not isinstance(batch.r_text, dict) or not all(
        isinstance(text, str) and len(text) <= MOST_TEXT for text in batch.r_text.values()
    ):
        raise _wrong("r_text", "text")
    if len(batch.r_quality) and int(batch.r_quality.max()) > BAD:
        raise _wrong("r_quality", f"<= {BAD}")
    if len(batch.f_dup) and int(batch.f_dup.max()) > 1:
        raise _wrong("f_dup", "0 or 1")
    if not isinstance(batch.f_raw, bytes):
        raise _wrong("f_raw", "bytes")
    return batch


def placed(batch: Batch, table: Table, now: int) -> tuple[Batch, int]:
    """The batch in our numbers and classes, and how many frames and readings were left out: of entities that may not speak,
    and with times that no door takes. `now` in µs."""
    earliest, latest = EARLIEST_MS * 1000, now + SKEW_MS * 1000
    at, keep = table.find(batch.f_entity)
    r_at, speaks = table.find(batch.r_entity)
    stay = keep[batch.r_frame] & speaks & (batch.r_ts >= earliest) & (batch.r_ts <= latest)
    number = np.cumsum(keep) - 1
    raws = batch.raws()
    kept = np.flatnonzero(keep)
    row = np.cumsum(stay) - 1
    moved = replace(
        batch, classes=table.classes,
        f_entity=table.ours[at[keep]], f_ts=np.clip(batch.f_ts[keep], earliest, latest), f_class=table.of[at[keep]].astype(np.uint16),
        f_len=batch.f_len[keep], f_dup=batch.f_dup[keep],
        f_raw=batch.f_raw if keep.all() else b"".join(raws[i] for i in kept.tolist()),
        r_frame=number[batch.r_frame[stay]].astype(np.uint32), r_entity=table.ours[r_at[stay]], r_prop=batch.r_prop[stay],
        r_ts=batch.r_ts[stay], r_val=batch.r_val[stay], r_quality=batch.r_quality[stay],
        r_text={int(row[i]): text for i, text in batch.r_text.items() if stay[i]},
    )
    return moved, int(len(keep) - keep.sum() + len(stay) - stay.sum())


def together(batches: Sequence[Batch]) -> Batch:
    """Batches of one protocol, one behind the other in one; its classes are those of the first."""
    first = batches[0]
    if len(batches) == 1:
        return first
    props: dict[str, int] = {}
    frames = rows = 0
    r_frame, r_prop, text = [], [], {}
    for b in batches:
        names = np.array([props.setdefault(name, len(props)) for name in b.props], np.uint16)
        r_prop.append(names[b.r_prop])
        r_frame.append(b.r_frame + np.uint32(frames))
        text.update({rows + row: value for row, value in b.r_text.items()})
        frames += len(b.f_entity)
        rows += len(b.r_val)

    def join(name: str) -> Any:
        return np.concatenate([getattr(b, name) for b in batches])

    columns = {name: join(name) for name in
               ("f_entity", "f_ts", "f_class", "f_len", "f_dup", "r_entity", "r_ts", "r_val", "r_quality")}
    return replace(first, f_raw=b"".join(b.f_raw for b in batches), props=list(props), r_text=text,
                   r_frame=np.concatenate(r_frame), r_prop=np.concatenate(r_prop), **columns)


def encoded(batch: Batch, edge: str = "") -> bytes:
    """The batch as a message, marked with the edge that brought it."""
    columns = ("f_entity", "f_ts", "f_class", "f_len", "f_dup", "r_frame", "r_entity", "r_prop", "r_ts", "r_val")
    body: dict[str, Any] = {
        "v": VERSION, "protocol": batch.protocol, "classes": batch.classes, "f_raw": batch.f_raw, "props": batch.props,
        "r_text": batch.r_text, **{name: getattr(batch, name).tobytes() for name in columns},
    }
    if batch.r_quality.any():
        body["r_quality"] = batch.r_quality.tobytes()
    if edge:
        body["edge"] = edge
    packed: bytes = msgpack.packb(body)
    return packed


def republished(
    batches: Sequence[tuple[int, int, Batch]], table: Table, now: int, edge: str, most: int = TOGETHER
) -> tuple[list[tuple[int, bytes]], int]:
    """Messages for the hub's stream, in order, each with the last sequence of the edge's that it covers; and how much was
    left out. `batches`: sequence, size in bytes, batch. Neighbours of one protocol are put together, up to `most` bytes; of nothing
    no message is made."""
    out: list[tuple[int, bytes]] = []
    left_out = size = last = 0
    waiting: list[Batch] = []

    def flush() -> None:
        nonlocal left_out, size
        moved, less = placed(together(waiting), table, now)
        left_out += less
        if len(moved.f_entity):
            out.append((last, encoded(moved, edge)))
        waiting.clear()
        size = 0

    for seq, length, batch in batches:
        if waiting and (waiting[0].protocol != batch.protocol or size + length > most
                        or len(batch.props) + sum(len(b.props) for b in waiting) > 0xFFFF):
            flush()
        last = seq
        waiting.append(batch)
        size += length
    if waiting:
        flush()
    return out, left_out


def without(data: bytes, refused: NDArray[np.uint64]) -> bytes:
    """A message without the frames and readings of these entities; the same bytes where it has none of them."""
    batch = Batch.decode(data)
    keep = ~np.isin(batch.f_entity, refused)
    r_keep = keep[batch.r_frame] & ~np.isin(batch.r_entity, refused)
    if keep.all() and r_keep.all():
        return data
    number, row, raws = np.cumsum(keep) - 1, np.cumsum(r_keep) - 1, batch.raws()
    return encoded(replace(
        batch, **{name: getattr(batch, name)[keep] for name in ("f_entity", "f_ts", "f_class", "f_len", "f_dup")},
        **{name: getattr(batch, name)[r_keep] for name in ("r_entity", "r_prop", "r_ts", "r_val", "r_quality")},
        f_raw=b"".join(raws[i] for i in np.flatnonzero(keep).tolist()),
        r_frame=number[batch.r_frame[r_keep]].astype(np.uint32),
        r_text={int(row[i]): text for i, text in batch.r_text.items() if r_keep[i]},
    ))


def _wrong(name: str, rule: str) -> Invalid:
    return Invalid(f"{name} 不合规则：{rule}", f"{name} breaks the rule {rule}", field=name, rule=rule)
