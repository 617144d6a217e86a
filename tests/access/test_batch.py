"""The batch of docs/architecture.md: what is built is what is read."""

from __future__ import annotations

import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.access.batch import BAD, Batch, BatchBuilder, BatchFull
from tulou.kernel.errors import Invalid

OF = ("fujian.sthjt", "AirQualityObserved", 0)


def two_frames() -> BatchBuilder:
    builder = BatchBuilder("mqtt")
    first = builder.frames(7, OF, 1_000, [b'{"pm25":12}', b'{"note":"\xe9\x9b\xa8"}'])
    builder.frames(9, ("fuzhou", "Road", 3), 1_002, [b"{}"], dup=True)
    builder.reading(first, "pm25", 1_000, 12.0)
    builder.reading(first + 1, "note", 1_001, math.nan, "雨")
    builder.reading(first + 1, "pm25", 1_001, -1.0, quality=BAD)
    return builder


def test_there_and_back() -> None:
    batch = Batch.decode(two_frames().encode())
    assert batch.protocol == "mqtt"
    assert batch.classes == [OF, ("fuzhou", "Road", 3)]
    assert batch.f_entity.tolist() == [7, 7, 9]
    assert batch.f_ts.tolist() == [1_000, 1_001, 1_002]
    assert batch.f_class.tolist() == [0, 0, 1]
    assert batch.f_dup.tolist() == [0, 0, 1]
    assert batch.raws() == [b'{"pm25":12}', '{"note":"雨"}'.encode(), b"{}"]
    assert batch.props == ["pm25", "note"]
    assert batch.r_frame.tolist() == [0, 1, 1]
    assert batch.r_entity.tolist() == [7, 7, 7]
    assert [batch.props[n] for n in batch.r_prop] == ["pm25", "note", "pm25"]
    assert batch.r_ts.tolist() == [1_000, 1_001, 1_001]
    assert batch.r_val[0] == 12.0
    assert math.isnan(batch.r_val[1])
    assert batch.r_text == {1: "雨"}
    assert batch.r_quality.tolist() == [0, 0, BAD]


def test_quality_is_left_out_when_all_is_good() -> None:
    builder = BatchBuilder("http")
    builder.reading(builder.frames(1, OF, 5, [b"{}"]), "a", 5, 1.0)
    assert "r_quality" not in msgpack.unpackb(builder.encode(), strict_map_key=False)
    assert Batch.decode(builder.encode()).r_quality.tolist() == [0]


def test_columns_are_little_endian() -> None:
    body = msgpack.unpackb(two_frames().encode(), strict_map_key=False)
    assert body["v"] == 1
    assert body["f_entity"][:8] == (7).to_bytes(8, "little")
    assert body["f_len"][:4] == (11).to_bytes(4, "little")


def test_more_names_than_the_index_can_hold() -> None:
    builder = BatchBuilder("mqtt")
    for number in range(65_536):
        builder.prop(f"p{number}")
    with pytest.raises(BatchFull):
        builder.prop("one more")


@pytest.mark.parametrize(("key", "value", "field"), [
    ("v", 2, "v"), ("f_ts", b"", "f_ts"), ("f_raw", b"", "f_raw"), ("classes", [], "f_class"), ("props", [], "r_prop"),
    ("r_frame", b"\xff" * 12, "r_frame"), ("r_text", {99: "x"}, "r_text"), ("r_quality", b"", "r_quality"),
])
def test_a_batch_that_does_not_fit_together_is_refused(key: str, value: object, field: str) -> None:
    body = msgpack.unpackb(two_frames().encode(), strict_map_key=False)
    with pytest.raises(Invalid) as caught:
        Batch.decode(msgpack.packb({**body, key: value}))
    assert caught.value.field == field


@given(st.binary(max_size=100))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        Batch.decode(data)
