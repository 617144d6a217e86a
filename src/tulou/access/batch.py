"""The batch: what a door writes to the stream READINGS (docs/architecture.md, "The batch").

Law: pure; columns in, one msgpack map out, and back. The building side uses only the standard library's arrays, so
that a gateway stays small; numpy is imported where a batch is read.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack

from tulou.kernel.errors import Invalid

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
GOOD, UNCERTAIN, BAD = 0, 1, 2

if array("I").itemsize != 4:  # pragma: no cover - no such platform has wheels
    raise ImportError("array('I') is not 32 bits wide here")


def column(kind: str, data: bytes) -> array[Any]:
    """A column as the standard library's array, for who reads a batch without numpy."""
    found = array(kind)
    found.frombytes(data)
    if sys.byteorder == "big":  # pragma: no cover - the format is little-endian
        found.byteswap()
    return found


class BatchFull(Exception):
    """The batch cannot take this many property names; make two of it."""


class BatchBuilder:
    """Columns of one batch under construction.

    The columns are public, so that a decoder can extend them in bulk; `frames` and `reading` are the plain way in.
    """

    __slots__ = ("_class_index", "_prop_index", "f_class", "f_dup", "f_entity", "f_ts", "protocol", "r_entity",
                 "r_frame", "r_prop", "r_text", "r_ts", "r_val", "raws", "worse")

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self._class_index: dict[tuple[str, str, int], int] = {}
        self._prop_index: dict[str, int] = {}
        self.f_entity = array("Q")
        self.f_ts = array("q")
        self.f_class = array("H")
        self.f_dup = bytearray()
        self.raws: list[bytes] = []
        self.r_frame = array("I")
        self.r_entity = array("Q")
        self.r_prop = array("H")
        self.r_ts = array("q")
        self.r_val = array("d")
        self.r_text: dict[int, str] = {}
        self.worse: dict[int, int] = {}

    def prop(self, name: str) -> int:
        """Index of the property in this batch. Raises `BatchFull` beyond 65,536 names."""
        index = self._prop_index
        number = index.setdefault(name, len(index))
        if number > 0xFFFF:
            raise BatchFull("more than 65,536 property names in one batch")
        return number

    def frames(self, entity: int, of: tuple[str, str, int], ts: int, raws: Sequence[bytes], dup: bool = False) -> int:
        """Append frames of one entity (class `of` = org, type, origin), received at `ts`, `ts` + 1, ... (µs).
        Returns the index of the first."""
        first, count = len(self.raws), len(raws)
        index = self._class_index
        self.f_entity.extend(array("Q", (entity,)) * count)
        self.f_class.extend(array("H", (index.setdefault(of, len(index)),)) * count)
        self.f_ts.extend(range(ts, ts + count))
        self.f_dup += (b"\1" if dup else b"\0") * count
        self.raws.extend(raws)
        return first

    def reading(self, frame: int, prop: str, ts: int, value: float, text: str | None = None,
                quality: int = GOOD) -> None:
        """Append a reading of the frame; `ts` in µs; a text value comes with NaN as `value`."""
        row = len(self.r_val)
        self.r_val.append(value)
        self.r_frame.append(frame)
        self.r_entity.append(self.f_entity[frame])
        self.r_prop.append(self.prop(prop))
        self.r_ts.append(ts)
        if text is not None:
            self.r_text[row] = text
        if quality:
            self.worse[row] = quality

    def org_of(self, frame: int) -> str:
        """The organisation of a frame's entity."""
        return list(self._class_index)[self.f_class[frame]][0]

    def encode(self) -> bytes:
        """The batch as msgpack."""
        body: dict[str, Any] = {
            "v": VERSION,
            "protocol": self.protocol,
            "classes": list(self._class_index),
            "f_entity": _little(self.f_entity),
            "f_ts": _little(self.f_ts),
            "f_class": _little(self.f_class),
            "f_len": _little(array("I", map(len, self.raws))),
            "f_dup": bytes(self.f_dup),
            "f_raw": b"".join(self.raws),
            "props": list(self._prop_index),
            "r_frame": _little(self.r_frame),
            "r_entity": _little(self.r_entity),
            "r_prop": _little(self.r_prop),
            "r_ts": _little(self.r_ts),
            "r_val": _little(self.r_val),
            "r_text": self.r_text,
        }
        if self.worse:
            quality = bytearray(len(self.r_val))
            for row, value in self.worse.items():
                quality[row] = value
            body["r_quality"] = bytes(quality)
        packed: bytes = msgpack.packb(body)
        return packed


def _little(column: array[Any]) -> bytes:
    if sys.byteorder == "big":  # pragma: no cover - the format is little-endian
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()


@dataclass(slots=True)
class Batch:
    """A decoded batch: read-only numpy views on the message, one row per frame (`f_`) or per reading (`r_`)."""

    protocol: str
    classes: list[tuple[str, str, int]]
    f_entity: NDArray[np.uint64]
    f_ts: NDArray[np.int64]
    f_class: NDArray[np.uint16]
    f_len: NDArray[np.uint32]
    f_dup: NDArray[np.uint8]
    f_raw: bytes
    props: list[str]
    r_frame: NDArray[np.uint32]
    r_entity: NDArray[np.uint64]
    r_prop: NDArray[np.uint16]
    r_ts: NDArray[np.int64]
    r_val: NDArray[np.float64]
    r_text: dict[int, str]
    r_quality: NDArray[np.uint8]
    edge: str = ""
    """The edge that brought it, which may be later than others' batches."""

    @classmethod
    def decode(cls, message: bytes) -> Batch:
        """Read a batch. Raises `Invalid` naming the key if the message is not one."""
        import numpy as np

        try:
            body = msgpack.unpackb(message, strict_map_key=False)
            if body["v"] != VERSION:
                raise Invalid(
                    f"批次版本 {body['v']} 未知", f"unknown batch version {body['v']}", field="v", value=body["v"],
                    rule=f"v = {VERSION}",
                )
            column = {
                key: np.frombuffer(body[key], kind)
                for key, kind in (
                    ("f_entity", "<u8"), ("f_ts", "<i8"), ("f_class", "<u2"), ("f_len", "<u4"), ("f_dup", "u1"),
                    ("r_frame", "<u4"), ("r_entity", "<u8"), ("r_prop", "<u2"), ("r_ts", "<i8"), ("r_val", "<f8"),
                )
            }
            rows = len(column["r_val"])
            quality = body.get("r_quality")
            batch = cls(
                protocol=body["protocol"], classes=[(o, t, n) for o, t, n in body["classes"]], f_raw=body["f_raw"],
                props=body["props"], r_text=body["r_text"],
                r_quality=np.zeros(rows, np.uint8) if quality is None else np.frombuffer(quality, np.uint8), edge=body.get("edge", ""),
                **column,
            )
        except (KeyError, ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
            raise Invalid(f"不是批次：{error!r}", f"not a batch: {error!r}", rule="batch v1") from None
        batch._check()
        return batch

    def _check(self) -> None:
        frames, rows = len(self.f_entity), len(self.r_val)
        wrong = ""
        for names, count in ((("f_ts", "f_class", "f_len", "f_dup"), frames),
                             (("r_frame", "r_entity", "r_prop", "r_ts", "r_quality"), rows)):
            for name in names:
                if len(getattr(self, name)) != count:
                    wrong = name
        if int(self.f_len.sum()) != len(self.f_raw):
            wrong = "f_raw"
        elif frames and int(self.f_class.max()) >= len(self.classes):
            wrong = "f_class"
        elif rows and int(self.r_frame.max()) >= frames:
            wrong = "r_frame"
        elif rows and int(self.r_prop.max()) >= len(self.props):
            wrong = "r_prop"
        elif self.r_text and not all(isinstance(row, int) and 0 <= row < rows for row in self.r_text):
            wrong = "r_text"
        if wrong:
            raise Invalid(f"批次的 {wrong} 列不一致", f"column {wrong} of the batch does not fit", field=wrong,
                          rule="batch v1")

    def raws(self) -> list[bytes]:
        """The raw payload of every frame."""
        out, at, raw = [], 0, self.f_raw
        for size in self.f_len.tolist():
            out.append(raw[at : at + size])
            at += size
        return out
