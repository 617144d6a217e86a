"""The latest values in memory, for the one process that holds an embedded store.

Law: a mirror of the table `latest`, which stays the truth: it is read from it when the store opens and follows every
insert, because nobody else writes. Columns, not objects: about 40 bytes a value.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from tulou.kernel.readings.amend import Reading
from tulou.kernel.readings.interface import Value, value_of
from tulou.kernel.readings.rows import Rows, rows_of

MOST = 5_000_000
"""Values beyond which the table is asked instead."""

_BITS = np.uint64(20)
"""Bits of a key that number the property; the others number the entity."""


class Mirror:
    """Values by (entity, property), sorted. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self.ready = False
        self._properties: dict[str, int] = {}
        self._orgs: dict[str, int] = {}
        self._key = np.empty(0, np.uint64)
        self._ts = np.empty(0, np.int64)
        self._value = np.empty(0, np.float64)
        self._quality, self._origin = np.empty(0, np.uint8), np.empty(0, np.uint8)
        self._org = np.empty(0, np.int32)
        self._text: dict[int, str] = {}

    def load(self, table: pa.Table) -> None:
        """Start from the columns entity, property, org, t (µs), value, text, quality, origin."""
        with self._lock:
            self._clear()
            if len(table) > MOST:
                return
            property_ = _codes(table.column("property"), self._properties)
            org = _codes(table.column("org"), self._orgs).astype(np.int32)
            text = table.column("text").combine_chunks()
            with_text = np.flatnonzero(pa.compute.binary_length(text).to_numpy(zero_copy_only=False))
            keys = _keys(table.column("entity").to_numpy(), property_)
            self._put(
                keys, table.column("t").to_numpy(), table.column("value").to_numpy(),
                table.column("quality").to_numpy(), table.column("origin").to_numpy(), org,
                {int(keys[i]): text[i].as_py() for i in with_text.tolist()},
            )
            self.ready = True

    def follow(self, last: Rows) -> None:
        """Take the newest reading of each (entity, property) of an insert; of equally new ones the later counts."""
        if not self.ready or not len(last):
            return
        with self._lock:
            names = np.array([_number(self._properties, name) for name in last.properties], np.uint64)
            orgs = np.array([_number(self._orgs, of[0]) for of in last.classes], np.int32)
            origins = np.array([of[2] for of in last.classes], np.uint8)
            keys = _keys(last.entity, names[last.property])
            self._put(
                keys, last.ts, last.value, last.quality, origins[last.of], orgs[last.of],
                {int(keys[row]): text for row, text in last.text.items()},
            )
            if len(self._key) > MOST or len(self._properties) >= 1 << int(_BITS):
                self._clear()

    def _put(
        self, key: NDArray[np.uint64], ts: NDArray[np.int64], value: NDArray[np.float64], quality: NDArray[np.uint8],
        origin: NDArray[np.uint8], org: NDArray[np.int32], text: dict[int, str],
    ) -> None:
        at = np.searchsorted(self._key, key)
        known = at < len(self._key)
        known[known] = self._key[at[known]] == key[known]
        newer = known.copy()
        newer[known] = ts[known] >= self._ts[at[known]]
        place = at[newer]
        for column, fresh in self._pairs(ts, value, quality, origin, org):
            column[place] = fresh[newer]
        if self._text:
            for changed in key[newer].tolist():
                self._text.pop(changed, None)
        new = ~known
        if new.any():
            order = np.argsort(np.concatenate([self._key, key[new]]), kind="stable")
            self._key = np.concatenate([self._key, key[new]])[order]
            self._ts, self._value, self._quality, self._origin, self._org = (
                np.concatenate([column, fresh[new]])[order]
                for column, fresh in self._pairs(ts, value, quality, origin, org)
            )
        if text:
            stored = set(key[newer | new].tolist())
            self._text.update((k, v) for k, v in text.items() if k in stored)

    def _pairs(self, *fresh: NDArray[np.generic]) -> Iterable[tuple[NDArray[np.generic], NDArray[np.generic]]]:
        return zip((self._ts, self._value, self._quality, self._origin, self._org), fresh, strict=True)

    def replace(self, pairs: Iterable[tuple[int, str]], found: Sequence[Reading]) -> None:
        """Drop the values of these (entity, property), and take those found instead."""
        if not self.ready:
            return
        with self._lock:
            gone = np.array([
                entity << int(_BITS) | self._properties[name] for entity, name in pairs if name in self._properties
            ], np.uint64)
            self._keep(~np.isin(self._key, gone))
            for key in gone.tolist():
                self._text.pop(key, None)
        self.follow(rows_of(found))

    def forget(self, entities: NDArray[np.uint64]) -> None:
        """Drop entities."""
        with self._lock:
            self._keep(~np.isin(self._key >> _BITS, entities))
            gone = set(entities.tolist())
            self._text = {k: v for k, v in self._text.items() if k >> int(_BITS) not in gone}

    def _keep(self, keep: NDArray[np.bool_]) -> None:
        self._key, self._ts, self._value = self._key[keep], self._ts[keep], self._value[keep]
        self._quality, self._origin, self._org = self._quality[keep], self._origin[keep], self._org[keep]

    def get(
        self, entities: Sequence[int] | None, properties: Sequence[str] | None, orgs: Iterable[str] | None
    ) -> dict[int, dict[str, Value]]:
        """What `Readings.latest` promises."""
        with self._lock:
            if entities is None:
                rows = np.arange(len(self._key))
            else:
                first = np.unique(np.fromiter(entities, np.uint64)) << _BITS
                start = np.searchsorted(self._key, first)
                count = np.searchsorted(self._key, first + (np.uint64(1) << _BITS)) - start
                rows = np.repeat(start - np.cumsum(count) + count, count) + np.arange(count.sum())
            if properties is not None:
                wanted = [self._properties[name] for name in properties if name in self._properties]
                rows = rows[np.isin(self._key[rows] & _mask(), np.array(wanted, np.uint64))]
            if orgs is not None:
                allowed = [self._orgs[org] for org in orgs if org in self._orgs]
                rows = rows[np.isin(self._org[rows], np.array(allowed, np.int32))]
            key = self._key[rows]
            names = list(self._properties)
            text = self._text.copy() if self._text else {}
            columns = (
                (key >> _BITS).tolist(), (key & _mask()).tolist(),
                map(Value._make, zip(self._ts[rows].tolist(), self._value[rows].tolist(), self._quality[rows].tolist(),
                                     self._origin[rows].tolist(), strict=True)),
            )
        out: dict[int, dict[str, Value]] = {}
        for entity, prop, value in zip(*columns, strict=True):
            if value.value != value.value:
                words = text.get(entity << int(_BITS) | prop, "")
                value = value._replace(value=value_of(math.nan, words, value.quality))
            known = out.get(entity)
            if known is None:
                out[entity] = {names[prop]: value}
            else:
                known[names[prop]] = value
        return out


def _mask() -> np.uint64:
    return (np.uint64(1) << _BITS) - np.uint64(1)


def _keys(entity: NDArray[np.uint64], prop: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return entity << _BITS | prop


def _number(index: dict[str, int], name: str) -> int:
    return index.setdefault(name, len(index))


def _codes(column: pa.ChunkedArray, index: dict[str, int]) -> NDArray[np.uint64]:
    """The column of texts as numbers of `index`, which grows."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    numbers = np.array([_number(index, name) for name in encoded.dictionary.to_pylist()], np.uint64)
    out: NDArray[np.uint64] = numbers[encoded.indices.to_numpy(zero_copy_only=False)]
    return out
