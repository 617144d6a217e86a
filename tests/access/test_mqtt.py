"""The MQTT codec against the normative statements of MQTT 3.1.1 (OASIS Standard, 29 October 2014)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.access import mqtt
from tulou.access.mqtt import Parser, ProtocolError

HELLO = mqtt.connect("c", "token")


def events(data: bytes, *, connected: bool = True, limit: int = 1 << 20, step: int = 0, level: int = 4) -> list[Any]:
    """Parse `data` (after a CONNECT if `connected`), in one piece or in steps; PUBLISH runs are flattened."""
    parser = Parser(limit)
    if connected:
        assert len(parser.feed(mqtt.connect("c", "token", level=level))) == 1
    pieces = [data[at : at + step] for at in range(0, len(data), step)] if step else [data]
    out: list[Any] = []
    for piece in pieces:
        for event in parser.feed(piece):
            if isinstance(event, mqtt.Publish):
                ids = event.ids or [b""] * len(event.payloads)
                out += [("publish", event.topic, event.qos, event.dup, event.retain, packet_id, payload)
                        for packet_id, payload in zip(ids, event.payloads, strict=True)]
            elif isinstance(event, ProtocolError):
                out.append(("error", event.rule))
            else:
                out.append(event)
    return out


def rule_of(data: bytes, *, connected: bool = True, limit: int = 1 << 20) -> str:
    """The rule that the bytes break."""
    (kind, rule) = events(data, connected=connected, limit=limit)[-1]
    assert kind == "error"
    return str(rule)


@pytest.mark.parametrize(("data", "rule"), [
    (b"\xc0\x00", "MQTT-3.1.0-1"),  # PINGREQ first
    (b"\x30\x05\x00\x01a12", "MQTT-3.1.0-1"),
    (b"\x11\x00", "MQTT-2.2.2-2"),  # CONNECT with a flag
    (b"\x10\x0e\x00\x04MQTX\x04\x02\x00\x00\x00\x02ab", "MQTT-3.1.2-1"),
    (b"\x10\x0e\x00\x04MQTT\x04\x03\x00\x00\x00\x02ab", "MQTT-3.1.2-3"),
    (b"\x10\x0e\x00\x04MQTT\x04\x0a\x00\x00\x00\x02ab", "MQTT-3.1.2-13"),
    (b"\x10\x0e\x00\x04MQTT\x04\x22\x00\x00\x00\x02ab", "MQTT-3.1.2-15"),
    (b"\x10\x14\x00\x04MQTT\x04\x1e\x00\x00\x00\x02ab\x00\x01t\x00\x01m", "MQTT-3.1.2-14"),
    (b"\x10\x14\x00\x04MQTT\x04\x06\x00\x00\x00\x02ab\x00\x01#\x00\x01m", "MQTT-4.7.1-1"),
    (b"\x10\x11\x00\x04MQTT\x04\x42\x00\x00\x00\x02ab\x00\x01p", "MQTT-3.1.2-22"),
    (b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02\xff\xfe", "MQTT-1.5.3-1"),
    (b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02a\x00", "MQTT-1.5.3-2"),
    (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x05a", "2.2.3"),  # ends within the client id
    (b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x00\x00\x02abc", "2.2.3"),  # a byte too many
    (b"\x10\xff\xff\xff\xff\x7f", "2.2.3"),  # five length bytes
    (b"\x10\xff\xff\x7f", "2.2.3"),  # over the limit for CONNECT
])
def test_connect_is_refused(data: bytes, rule: str) -> None:
    assert rule_of(data, connected=False) == rule


@pytest.mark.parametrize(("data", "rule"), [
    (HELLO, "MQTT-3.1.0-2"),
    (b"\x00\x00", "2.2.1"), (b"\xf0\x00", "2.2.1"), (b"\x20\x02\x00\x00", "2.2.1"), (b"\xd0\x00", "2.2.1"),
    (b"\x36\x07\x00\x01a\x00\x01xx", "MQTT-3.3.1-4"),
    (b"\x38\x05\x00\x01axx", "MQTT-3.3.1-2"),
    (b"\x30\x05\x00\x01+xx", "MQTT-3.3.2-2"), (b"\x30\x07\x00\x03a/#xx", "MQTT-3.3.2-2"),
    (b"\x30\x04\x00\x00xx", "MQTT-4.7.3-1"),
    (b"\x30\x05\x00\x01\xffxx", "MQTT-1.5.3-1"), (b"\x30\x05\x00\x01\x00xx", "MQTT-1.5.3-2"),
    (b"\x30\x07\x00\x03\xed\xa0\x80xx", "MQTT-1.5.3-1"),  # a surrogate
    (b"\x32\x07\x00\x01a\x00\x00xx", "MQTT-2.3.1-1"),
    (b"\x32\x04\x00\x01a\x01", "3.3.2"), (b"\x30\x02\x00\x05", "3.3.2"), (b"\x30\x01\x00", "3.3.2"),
    (b"\x60\x02\x00\x01", "MQTT-3.6.1-1"), (b"\x41\x02\x00\x01", "MQTT-2.2.2-2"),
    (b"\x40\x02\x00\x00", "MQTT-2.3.1-1"), (b"\x40\x03\x00\x01\x00", "2.2.3"),
    (b"\x80\x06\x00\x01\x00\x01a\x00", "MQTT-3.8.1-1"),
    (b"\x82\x06\x00\x00\x00\x01a\x00", "MQTT-2.3.1-1"),
    (b"\x82\x02\x00\x01", "MQTT-3.8.3-3"),
    (b"\x82\x06\x00\x01\x00\x01a\x03", "MQTT-3.8.3-4"),
    (b"\x82\x08\x00\x01\x00\x03#/a\x00", "MQTT-4.7.1-2"), (b"\x82\x07\x00\x01\x00\x02a#\x00", "MQTT-4.7.1-2"),
    (b"\x82\x07\x00\x01\x00\x02a+\x00", "MQTT-4.7.1-3"), (b"\x82\x05\x00\x01\x00\x00\x00", "MQTT-4.7.3-1"),
    (b"\xa0\x05\x00\x01\x00\x01a", "MQTT-3.10.1-1"), (b"\xa2\x02\x00\x01", "MQTT-3.10.3-2"),
    (b"\xc0\x01\x00", "2.2.3"), (b"\xe1\x00", "MQTT-3.14.1-1"),
])
def test_packet_is_refused(data: bytes, rule: str) -> None:
    assert rule_of(data) == rule


def test_a_packet_over_the_limit_is_refused_before_it_arrives() -> None:
    assert rule_of(b"\x30\x80\x10", limit=2047) == "2.2.3"
    assert events(b"\x30\x80\x10", limit=2048) == []


def test_what_came_before_the_error_is_delivered_and_nothing_after_it() -> None:
    good = mqtt.publish(b"t", b"1", 1, b"\0\1")
    got = events(good + b"\x36\x07\x00\x01a\x00\x01xx" + good)
    assert got == [("publish", b"t", 1, False, False, b"\0\1", b"1"), ("error", "MQTT-3.3.1-4")]


def test_a_topic_longer_than_its_packet_is_not_read_from_the_next_one() -> None:
    good = mqtt.publish(b"topic", b"x")
    short = b"\x30\x03\x00\x05t"
    assert rule_of(good + short + b"opic" + good) == "3.3.2"


def test_runs_share_one_object() -> None:
    parser = Parser()
    parser.feed(HELLO)
    same = [mqtt.publish(b"t", b"%d" % n, 1, n.to_bytes(2)) for n in range(1, 4)]
    runs = parser.feed(b"".join(same) + mqtt.publish(b"t", b"x") + mqtt.publish(b"u", b"y"))
    assert [(run.topic, len(run.payloads)) for run in runs] == [(b"t", 3), (b"t", 1), (b"u", 1)]  # type: ignore[union-attr]
    assert runs[0].ids == [b"\0\1", b"\0\2", b"\0\3"]  # type: ignore[union-attr]


def test_other_protocol_levels_are_told_apart() -> None:
    assert events(b"\x10\x0c\x00\x06MQIsdp\x03\x02\x00\x00", connected=False)[0].level == 3
    assert events(b"\x10\x0b\x00\x04MQTT\x06\x02\x00\x00\x00\x00", connected=False)[0].level == 6


def test_connect_with_everything() -> None:
    will = mqtt.Will(b"v1/devices/me/telemetry", b'{"a":1}', 1, True)
    data = mqtt.connect("厦门-1", "tok", password=b"\0\xff", keep_alive=60, clean=False, will=will)
    assert events(data, connected=False) == [mqtt.Connect(4, "厦门-1", False, 60, will, "tok", b"\0\xff")]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, mqtt.SIZE_LIMIT])
def test_length_bytes_are_those_of_table_2_4(size: int) -> None:
    count = 1 + (size > 127) + (size > 16_383) + (size > 2_097_151)
    encoded = mqtt.length(size)
    assert len(encoded) == count
    assert sum((byte & 127) << 7 * place for place, byte in enumerate(encoded)) == size


def test_what_the_server_sends() -> None:
    assert mqtt.connack(0) == b"\x20\x02\x00\x00"
    assert mqtt.connack(5) == b"\x20\x02\x00\x05"
    assert mqtt.connack(5, 5) == b"\x20\x03\x00\x87\x00"
    assert mqtt.suback(b"\0\7", [1, 0x87], 5) == b"\x90\x05\x00\x07\x00\x01\x87"
    assert mqtt.unsuback(b"\0\7", [0, 0], 5) == b"\xb0\x05\x00\x07\x00\x00\x00"
    assert mqtt.disconnect(mqtt.TAKEN_OVER) == b"\xe0\x01\x8e"
    assert mqtt.pubacks([b"\0\1", b"\0\2"]) == b"\x40\x02\x00\x01\x40\x02\x00\x02"
    assert mqtt.pubrecs([b"\0\1"]) == b"\x50\x02\x00\x01"
    assert mqtt.pubacks([]) == b""
    assert mqtt.pubrel(b"\0\1") == b"\x62\x02\x00\x01"
    assert mqtt.pubcomp(b"\0\1") == b"\x70\x02\x00\x01"
    assert mqtt.suback(b"\0\7", [1, 0x80]) == b"\x90\x04\x00\x07\x01\x80"
    assert mqtt.unsuback(b"\0\7") == b"\xb0\x02\x00\x07"
    assert mqtt.publish(b"t", b"x", 1, b"\0\1", dup=True, retain=True) == b"\x3b\x06\x00\x01t\x00\x01x"


@pytest.mark.parametrize(("data", "rule"), [
    (b"\x32\x08\x00\x01a\x00\x01\x05\x01x", "2.2.3"),  # properties end too early
    (b"\x32\x08\x00\x01a\x00\x01\x02\x7f\x00", "5.0 2.2.2.2"),  # no such property
    (b"\x32\x06\x00\x00\x00\x01\x00x", "5.0 MQTT-3.3.2-8"),  # neither topic nor alias
    (b"\x32\x08\x00\x01a\x00\x01\x02\x01\x02", "5.0 2.2.2.2"),  # payload format 2
    (b"\x32\x0a\x00\x01a\x00\x01\x04\x08\x00\x01#", "5.0 MQTT-3.3.2-14"),
    (b"\x82\x09\x00\x01\x02\x0b\x00\x00\x01a\x00", "5.0 2.2.2.2"),  # subscription identifier 0
    (b"\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x04", "5.0 MQTT-3.8.3-4"),
    (b"\x32\x0a\x00\x01a\x00\x01\x04\x01\x00\x01\x00", "5.0 2.2.2.2"),  # twice the same
    (b"\x32\x09\x00\x01a\x00\x01\xff\xff\xff\xff", "5.0 MQTT-1.5.5-1"),
    (b"\x32\x05\x00\x01a\x00\x01", "2.2.3"),  # no property length
    (b"\x82\x07\x00\x01\x00\x00\x01a\x40", "MQTT-3.8.3-4"), (b"\x82\x07\x00\x01\x00\x00\x01a\x33", "MQTT-3.8.3-4"),
    (b"\xf0\x00", "2.2.1"),  # AUTH, which was not negotiated
])
def test_packets_of_5_0_are_refused(data: bytes, rule: str) -> None:
    assert events(data, level=5)[-1] == ("error", rule)


def test_packets_of_5_0() -> None:
    user = b"\x26\x00\x01k\x00\x01v"
    data = (
        mqtt.publish(b"t", b"1", 1, b"\0\1", level=5) + b"\x32\x0e\x00\x01t\x00\x02\x07" + user + b"2"
        + b"\x40\x02\x00\x03" + b"\x62\x03\x00\x04\x92" + b"\x62\x04\x00\x05\x00\x00"
        + mqtt.subscribe(b"\0\6", [("a", 0x2D)], level=5) + b"\xe0\x02\x04\x00"
    )
    expected = [
        ("publish", b"t", 1, False, False, b"\0\1", b"1"), ("publish", b"t", 1, False, False, b"\0\2", b"2"),
        mqtt.Ack(4, b"\0\3"), mqtt.Ack(6, b"\0\4", 0x92), mqtt.Ack(6, b"\0\5"), mqtt.Subscribe(b"\0\6", [("a", 0x2D)]),
        mqtt.Disconnect(True),
    ]
    for step in (0, 1, 7):
        assert events(data, level=5, step=step) == expected


def test_connect_of_5_0() -> None:
    will = mqtt.Will(b"t", b"x", 0, False)
    assert events(mqtt.connect("c", "tok", will=will, level=5), connected=False) == [
        mqtt.Connect(5, "c", True, 0, will, "tok")
    ]
    properties = b"\x11\0\0\0\1\x21\0\x0a\x27\0\0\1\0"
    body = b"\0\4MQTT\5\2\0\0" + bytes((len(properties),)) + properties + b"\0\1c"
    assert events(b"\x10" + bytes((len(body),)) + body, connected=False) == [
        mqtt.Connect(5, "c", expiry=1, receive_maximum=10, packet_limit=256)
    ]


packet_ids = st.integers(1, 65_535).map(lambda n: n.to_bytes(2))
topics = st.sampled_from([b"v1/devices/me/telemetry", b"v1/devices/me/attributes", "主题".encode()])
publishes = st.builds(
    lambda topic, payload, qos, packet_id, dup, retain: mqtt.publish(
        topic, payload, qos, packet_id if qos else b"", dup=dup and qos > 0, retain=retain),
    topics, st.binary(max_size=300), st.integers(0, 2), packet_ids, st.booleans(), st.booleans(),
)
packets = st.one_of(
    publishes, publishes, publishes, packet_ids.map(mqtt.pubrel), packet_ids.map(lambda n: mqtt.pubacks([n])),
    st.just(b"\xc0\x00"),
    st.builds(mqtt.subscribe, packet_ids, st.lists(st.tuples(st.sampled_from(["a/+", "#", "b"]),
                                                             st.integers(0, 2)), min_size=1, max_size=3)),
)




@given(st.lists(st.tuples(st.sampled_from([200, 201, 202, 16_000]), st.integers(1, 2), st.booleans()), min_size=1,
                max_size=20))
def test_runs_of_like_sizes_are_told_apart(parts: list[tuple[int, int, bool]]) -> None:
    made = [(b"v1/devices/me/telemetry", bytes([n]) * size, qos, dup) for n, (size, qos, dup) in enumerate(parts)]
    data = b"".join(
        mqtt.publish(topic, payload, qos, (n + 1).to_bytes(2), dup=dup)
        for n, (topic, payload, qos, dup) in enumerate(made)
    )
    assert events(data) == events(data, step=50) == [
        ("publish", topic, qos, dup, False, (n + 1).to_bytes(2), payload)
        for n, (topic, payload, qos, dup) in enumerate(made)
    ]
    zero = mqtt.publish(made[0][0], made[0][1], made[0][2], b"\0\0", dup=made[0][3])
    assert events(data + zero)[-1] == ("error", "MQTT-2.3.1-1")
    assert events(data + data, limit=15_000)[-1] == (
        ("error", "2.2.3") if any(size == 16_000 for size, _, _ in parts) else events(data)[-1]
    )


@given(st.lists(packets, max_size=12), st.integers(1, 40))
def test_pieces_of_any_size_give_the_same_packets(parts: list[bytes], step: int) -> None:
    data = b"".join(parts)
    whole = events(data)
    assert len(whole) == len(parts)
    assert events(data, step=step) == whole
    assert events(data, step=1) == whole


@given(st.lists(packets, min_size=1, max_size=6), st.data(), st.sampled_from([4, 5]))
def test_mutated_packets_give_packets_or_one_typed_error(parts: list[bytes], data: st.DataObject, level: int) -> None:
    stream = bytearray(b"".join(parts))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(stream[: data.draw(st.integers(1, len(stream)))])
    whole = events(cut, limit=4096, level=level)
    assert [event for event in whole[:-1] if isinstance(event, tuple) and event[0] == "error"] == []
    assert events(cut, limit=4096, step=1, level=level) == whole
    assert events(cut, limit=4096, step=7, level=level) == whole


@given(st.binary(max_size=200), st.booleans(), st.sampled_from([4, 5]))
def test_random_bytes_give_packets_or_one_typed_error(data: bytes, connected: bool, level: int) -> None:
    whole = events(data, connected=connected, limit=4096, level=level)
    assert events(data, connected=connected, limit=4096, step=1, level=level) == whole


@given(topics, st.binary(max_size=20_000), st.integers(0, 2), packet_ids, st.booleans())
def test_publish_there_and_back(topic: bytes, payload: bytes, qos: int, packet_id: bytes, retain: bool) -> None:
    packet_id = packet_id if qos else b""
    got = events(mqtt.publish(topic, payload, qos, packet_id, retain=retain))
    assert got == [("publish", topic, qos, False, retain, packet_id, payload)]
