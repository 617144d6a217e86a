"""What an edge and its hub say to each other: a group is what it was, and batches say the same in the hub's numbers."""

from __future__ import annotations

import math
import zlib

import msgpack
import numpy as np
import pytest

from tulou.access.batch import Batch, BatchBuilder
from tulou.access.edge import wire
from tulou.access.edge.uplink import address_of
from tulou.kernel.errors import Invalid, TooLarge

NOW = 1_795_428_000_000_000
DAY = 86_400_000_000
THERE = ("nowhere", "Anything", 3)
TABLE = wire.Table.made([(5, 105, ("fuzhou", "Pump", 0)), (7, 107, ("fuzhou.a", "Manhole", 0)), (9, 109, ("fuzhou", "Pump", 0))])


def made(protocol: str, *frames: tuple[int, int, bytes, dict[str, float | str]], quality: int = 0) -> Batch:
    """Frames of (entity, received at, raw, values)."""
    builder = BatchBuilder(protocol)
    for entity, at, raw, values in frames:
        frame = builder.frames(entity, THERE, at, [raw])
        for name, value in values.items():
            if isinstance(value, str):
                builder.reading(frame, name, at, math.nan, value, quality)
            else:
                builder.reading(frame, name, at, value, None, quality)
    return wire.batch_of(builder.encode())


def told(data: bytes) -> list[tuple[object, ...]]:
    """(class, entity, received at, raw, [(property, time, value)]) of every frame."""
    b = Batch.decode(data)
    found = []
    for i, raw in enumerate(b.raws()):
        rows = np.flatnonzero(b.r_frame == i).tolist()
        assert all(b.r_entity[row] == b.f_entity[i] for row in rows)
        values = [(b.props[b.r_prop[row]], int(b.r_ts[row]), b.r_text.get(row, float(b.r_val[row])), int(b.r_quality[row])) for row in rows]
        found.append((b.classes[b.f_class[i]], int(b.f_entity[i]), int(b.f_ts[i]), raw, values))
    return found


def test_a_group_is_what_it_was() -> None:
    group = wire.Group("e", 4, [(5, b"x" * 1000), (9, b"")], 3, 1.5, 2)
    body, deflated = group.packed()
    assert deflated
    assert wire.Group.unpacked(body, True) == group
    body, deflated = wire.Group("e", 4, [(5, bytes(np.random.default_rng(1).integers(0, 256, 5000, np.uint8)))]).packed()
    assert not deflated, "it does not pay"
    assert wire.Group.unpacked(body, False).after == 4
    with pytest.raises(TooLarge):
        wire.inflated(zlib.compress(bytes(wire.LARGEST + 1)))


def test_batches_say_the_same_in_the_hubs_numbers() -> None:
    batches = [
        (11, 100, made("mqtt", (5, NOW, b"one", {"p": 1.0, "q": 2.0}), (7, NOW + 1, b"two", {"q": 3.0, "t": "开"}))),
        (12, 100, made("mqtt", (9, NOW + 2, b"three", {"q": 4.0, "p": 5.0}), (5, NOW + 3, b"", {}), quality=1)),
        (15, 100, made("hj212", (7, NOW + 4, b"four", {"p": 6.0}))),
        (16, 100, made("mqtt", (5, NOW + 5, b"five", {"z": 7.0}))),
    ]
    assert wire.numbers([b for _, _, b in batches]).tolist() == [5, 7, 9]
    out, left_out = wire.republished(batches, TABLE, NOW + 100, "3")
    assert left_out == 0
    assert [seq for seq, _ in out] == [12, 15, 16], "neighbours of one protocol together"
    pump, manhole = ("fuzhou", "Pump", 0), ("fuzhou.a", "Manhole", 0)
    assert told(out[0][1]) == [
        (pump, 105, NOW, b"one", [("p", NOW, 1.0, 0), ("q", NOW, 2.0, 0)]),
        (manhole, 107, NOW + 1, b"two", [("q", NOW + 1, 3.0, 0), ("t", NOW + 1, "开", 0)]),
        (pump, 109, NOW + 2, b"three", [("q", NOW + 2, 4.0, 1), ("p", NOW + 2, 5.0, 1)]),
        (pump, 105, NOW + 3, b"", []),
    ]
    assert told(out[1][1]) == [(manhole, 107, NOW + 4, b"four", [("p", NOW + 4, 6.0, 0)])]
    assert [Batch.decode(data).edge for _, data in out] == ["3", "3", "3"]
    assert [seq for seq, _ in wire.republished(batches, TABLE, NOW + 100, "3", 150)[0]] == [11, 12, 15, 16], "no larger than the bus takes"


def test_what_may_not_speak_and_times_that_no_door_takes_are_left_out() -> None:
    batch = made("mqtt", (6, NOW, b"stranger", {"p": 1.0}), (5, NOW + 5_000_000, b"ahead", {"p": 2.0, "q": 3.0}), (5, 7, b"1970", {"p": 4.0}))
    out, left_out = wire.republished([(1, 100, batch)], TABLE, NOW, "3")
    assert left_out == 3, "a frame with its reading, and one of 1970"
    assert [(row[2], row[3], len(row[4])) for row in told(out[0][1])] == [(NOW + 5_000_000, b"ahead", 2), (946_684_800_000_000, b"1970", 0)]
    far = made("mqtt", (5, NOW + 9 * DAY, b"", {}))
    assert told(wire.republished([(1, 100, far)], TABLE, NOW, "3")[0][0][1])[0][2] == NOW + DAY
    assert wire.republished([(1, 100, made("mqtt", (6, NOW, b"", {"p": 1.0})))], TABLE, NOW, "3") == ([], 2)


def test_a_message_without_refused_entities() -> None:
    data = BatchBuilder("mqtt")
    for entity in (5, 6, 5):
        frame = data.frames(entity, THERE, NOW, [b"raw%d" % entity])
        data.reading(frame, "p", NOW, math.nan, f"text {entity}")
    body = data.encode()
    assert wire.without(body, np.array([8], np.uint64)) is body
    left = told(wire.without(body, np.array([5], np.uint64)))
    assert [(row[1], row[3], row[4]) for row in left] == [(6, b"raw6", [("p", NOW, "text 6", 0)])]


@pytest.mark.parametrize("name", ["props", "r_text", "r_quality", "f_dup", "protocol"])
def test_what_no_door_would_write_is_refused(name: str) -> None:
    whole = msgpack.unpackb(wire.encoded(made("mqtt", (5, NOW, b"x", {"p": 1.0}))), strict_map_key=False)
    wrong = {"props": [7], "r_text": {0: 5}, "r_quality": b"\3", "f_dup": b"\2", "protocol": 5}[name]
    with pytest.raises(Invalid) as refused:
        wire.batch_of(msgpack.packb({**whole, name: wrong}))
    assert refused.value.field == name


@pytest.mark.parametrize("url", ["http://hub.example", "ftp://hub.example", "hub.example", "https://", ""])
def test_a_token_is_not_shown_to_the_network(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        address_of(url)
    assert refused.value.field == "edge_hub"
    assert address_of("https://hub.example:8443/") == "https://hub.example:8443"
    assert address_of("http://127.0.0.1:8080") == "http://127.0.0.1:8080"
