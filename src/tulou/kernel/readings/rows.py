"""Columns of readings and frames on their way into the store.

Law: columns only; no function here touches a row in Python, except for text values, which are sparse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tulou.kernel.readings.amend import Reading

Class = tuple[str, str, int]
"""What entities have in common: (organisation, type, origin)."""


@dataclass(slots=True)
class Rows:
    """Readings as columns: one row per reading, all columns of one length.

    `property` and `of` index `properties` and `classes`; `ts` is µs since the epoch, UTC; `value` is NaN for text,
    which `text` holds by row number; `seq` and `frame` say which stream message and frame a reading came in.
    """

    entity: NDArray[np.uint64]
    property: NDArray[np.int32]
    ts: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint8]
    of: NDArray[np.int32]
    seq: NDArray[np.uint64]
    frame: NDArray[np.uint32]
    properties: Sequence[str]
    classes: Sequence[Class]
    text: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.entity)

    def take(self, rows: NDArray[np.intp]) -> Rows:
        """The rows of these numbers, in this order."""
        text: dict[int, str] = {}
        if self.text:
            with_text = np.zeros(len(self), bool)
            with_text[list(self.text)] = True
            at = np.flatnonzero(with_text[rows])
            text = {int(new): self.text[int(old)] for new, old in zip(at, rows[at], strict=True)}
        return Rows(
            self.entity[rows], self.property[rows], self.ts[rows], self.value[rows], self.quality[rows],
            self.of[rows], self.seq[rows], self.frame[rows], self.properties, self.classes, text,
        )

    def where(self, mask: NDArray[np.bool_]) -> Rows:
        """The rows where `mask` is true."""
        return self if mask.all() else self.take(np.flatnonzero(mask))

    def order(self) -> NDArray[np.intp]:
        """Row numbers by entity and name of property, otherwise as they come: the store's order, if times ascend."""
        ranks = np.empty(len(self.properties), np.uint64)
        ranks[np.argsort(np.array(self.properties, np.str_))] = np.arange(len(self.properties), dtype=np.uint64)
        return np.argsort(self.entity << np.uint64(20) | ranks[self.property], kind="stable")

    def last(self) -> Rows:
        """Per (entity, property) the row of the greatest `ts`; of equal ones the later row. Rows in `order`."""
        if len(self) == 0:
            return self
        ends = np.ones(len(self), bool)
        within = (self.entity[1:] == self.entity[:-1]) & (self.property[1:] == self.property[:-1])
        np.logical_not(within, out=ends[:-1])
        at = np.flatnonzero(ends)
        if (within & (self.ts[1:] < self.ts[:-1])).any():  # rows mostly come in the order of time; these do not
            run = np.repeat(np.arange(len(at)), np.diff(at, prepend=-1))
            at = np.lexsort((self.ts, run))[at]
        return self.take(at)

    def tuples(self) -> Iterator[tuple[int, str, int, float | str, int, int]]:
        """(entity, property, ts, value, quality, origin) of every row; a text value is a str."""
        names, origins = list(self.properties), [of[2] for of in self.classes]
        columns = zip(
            self.entity.tolist(), self.property.tolist(), self.ts.tolist(), self.value.tolist(),
            self.quality.tolist(), self.of.tolist(), strict=True,
        )
        for row, (entity, prop, ts, value, quality, of) in enumerate(columns):
            yield entity, names[prop], ts, self.text.get(row, value), quality, origins[of]

    def hours(self) -> pa.Table:
        """The rows rolled up as the store's `readings_hour` wants them; see `schema.HOURS` for the definition.

        Neighbouring rows of one hour become one, so rows in `order` give few; more would sum up to the same.
        """
        rows = self.where(np.isfinite(self.value) & (self.quality < 2))
        entity, property_, of, hour = rows.entity, rows.property, rows.of, rows.ts // 3_600_000_000
        starts = np.ones(len(rows), bool)
        starts[1:] = (
            (entity[1:] != entity[:-1]) | (property_[1:] != property_[:-1]) | (of[1:] != of[:-1]) | (hour[1:] != hour[:-1])
        )
        at = np.flatnonzero(starts)
        value, of = rows.value, of[at]
        return pa.table({
            **_classes(of, self.classes),
            "entity": entity[at],
            "property": _dictionary(property_[at], self.properties),
            "hour": pa.array(hour[at] * 3600).cast(pa.timestamp("s", "UTC")),
            "origin": np.array([c[2] for c in self.classes], np.uint8)[of],
            "count": np.diff(np.append(at, len(rows))).astype(np.int64),
            "sum": np.add.reduceat(value, at) if len(at) else value,
            "min": np.minimum.reduceat(value, at) if len(at) else value,
            "max": np.maximum.reduceat(value, at) if len(at) else value,
        })

    def texts(self) -> pa.Array:
        """The column of text values, empty where there is none."""
        codes = np.zeros(len(self), np.int32)
        index: dict[str, int] = {"": 0}
        for row, text in self.text.items():
            codes[row] = index.setdefault(text, len(index))
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(list(index), pa.string()))

    def arrow(self) -> pa.Table:
        """The table as the store's `readings` wants it: one record batch."""
        return pa.table({
            **_classes(self.of, self.classes),
            "entity": self.entity,
            "property": _dictionary(self.property, self.properties),
            "ts": _times(self.ts),
            "value": self.value,
            "text": self.texts(),
            "quality": self.quality,
            "origin": np.array([of[2] for of in self.classes], np.uint8)[self.of],
            "seq": self.seq,
            "frame": self.frame,
        })


def rows_of(readings: Sequence[Reading]) -> Rows:
    """Readings as columns, in `Rows.order`."""
    properties: dict[str, int] = {}
    classes: dict[Class, int] = {}
    rows = Rows(
        np.array([r.entity for r in readings], np.uint64),
        np.array([properties.setdefault(r.property, len(properties)) for r in readings], np.int32),
        np.array([r.ts for r in readings], np.int64), np.array([r.value for r in readings], np.float64),
        np.array([r.quality for r in readings], np.uint8),
        np.array([classes.setdefault((r.org, r.type, r.origin), len(classes)) for r in readings], np.int32),
        np.array([r.seq for r in readings], np.uint64), np.array([r.frame for r in readings], np.uint32),
        list(properties), list(classes), {at: r.text for at, r in enumerate(readings) if r.text},
    )
    return rows.take(rows.order())


@dataclass(slots=True)
class Frames:
    """Raw device messages as columns: frame i is `raw[ends[i-1]:ends[i]]`; `frame` is its number in message `seq`."""

    entity: NDArray[np.uint64]
    ts: NDArray[np.int64]
    of: NDArray[np.int32]
    protocol: NDArray[np.int32]
    dup: NDArray[np.uint8]
    seq: NDArray[np.uint64]
    frame: NDArray[np.uint32]
    raw: pa.Array
    classes: Sequence[Class]
    protocols: Sequence[str]

    def __len__(self) -> int:
        return len(self.entity)

    def where(self, mask: NDArray[np.bool_]) -> Frames:
        """The frames where `mask` is true."""
        if mask.all():
            return self
        return Frames(
            self.entity[mask], self.ts[mask], self.of[mask], self.protocol[mask], self.dup[mask], self.seq[mask],
            self.frame[mask], self.raw.filter(pa.array(mask)), self.classes, self.protocols,
        )

    def arrow(self) -> pa.Table:
        """The table as the store's `frames` wants it: one record batch."""
        return pa.table({
            **{name: column for name, column in _classes(self.of, self.classes).items() if name != "origin"},
            "entity": self.entity,
            "ts": _times(self.ts),
            "protocol": _dictionary(self.protocol, self.protocols),
            "raw": self.raw,
            "dup": self.dup,
            "seq": self.seq,
            "frame": self.frame,
        })


def raw_column(lengths: NDArray[np.uint32], raw: bytes) -> pa.Array:
    """Payloads of the given lengths, concatenated in `raw`, as an Arrow column without copying them."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return pa.Array.from_buffers(
        pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(raw)]
    )


def _times(ts: NDArray[np.int64]) -> pa.Array:
    return pa.array(ts.view("datetime64[us]")).cast(pa.timestamp("us", "UTC"))


def _dictionary(codes: NDArray[np.int32], names: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(list(names), pa.string()))


def _classes(of: NDArray[np.int32], classes: Sequence[Class]) -> dict[str, pa.Array]:
    columns = {}
    for name, place in (("org", 0), ("type", 1)):
        index: dict[str, int] = {}
        codes = np.array([index.setdefault(str(item[place]), len(index)) for item in classes], np.int32)
        columns[name] = _dictionary(codes[of], list(index))
    return columns
