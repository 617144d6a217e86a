"""LwM2M's codecs. Examples are those of the OMA's text (V1_0, 6.4); any other bytes are values or one refusal."""

from __future__ import annotations

import base64
from typing import Any

import cbor2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.access.coap import Unreadable
from tulou.access.coap import message as m
from tulou.access.coap.payload import kept
from tulou.access.lwm2m import content, links, objects, tlv
from tulou.access.lwm2m.content import Node, decode, encode, path_of, text_of
from tulou.access.lwm2m.kept import codec

DEVICE = bytes.fromhex(
    "C800144F70656E204D6F62696C6520416C6C69616E6365 C801164C69676874776569676874204D324D20436C69656E74"
    "C80209333435303030313233 C303312E30 8606410001410105 880708 42000ED842011388 870841007D42010384 C10964 C10A0F"
    "830B410000 C40D5182428F C60E2B30323A3030 C11055".replace(" ", ""))
"""6.4.3.1: the answer to Read /3/0."""
SAID: dict[str, Any] = {
    "3/0/0": "Open Mobile Alliance", "3/0/1": "Lightweight M2M Client", "3/0/2": "345000123", "3/0/3": "1.0", "3/0/6/0": 1, "3/0/6/1": 5,
    "3/0/7/0": 3800, "3/0/7/1": 5000, "3/0/8/0": 125, "3/0/8/1": 900, "3/0/9": 100, "3/0/10": 15, "3/0/11/0": 0,
    "3/0/13": 1367491215, "3/0/14": "+02:00", "3/0/16": "U",
}
JSON = orjson.dumps({"bn": "/3/0/", "e": [
    {"n": "/".join(path.split("/")[2:]), ("sv" if isinstance(value, str) else "v"): value} for path, value in SAID.items()
]})
"""6.4.4: the same in LwM2M JSON."""


def said(nodes: list[Node]) -> dict[str, Any]:
    return {text_of(node.path): node.value for node in nodes}


def test_the_device_of_the_specification_in_tlv() -> None:
    assert said(decode((3, 0), m.TLV, DEVICE)) == SAID
    assert tlv.encode(tlv.decode(DEVICE)) == DEVICE
    whole = tlv.encode([tlv.Entry(tlv.INSTANCE, 0, tlv.decode(DEVICE))])
    assert whole.startswith(bytes.fromhex("080079"))  # as in 6.4.3.2, Read /3
    assert said(decode((3,), m.TLV, whole)) == SAID


def test_several_instances_in_tlv() -> None:
    """6.4.3.3: Read /2, access control."""
    raw = bytes.fromhex("08000EC10001C1010083024 17F07C1037F".replace(" ", "") + "080212C10003C101008702417F076101360 1C1037F".replace(" ", ""))
    assert said(decode((2,), m.TLV, raw)) == {
        "2/0/0": 1, "2/0/1": 0, "2/0/2/127": 7, "2/0/3": 127, "2/2/0": 3, "2/2/1": 0, "2/2/2/127": 7, "2/2/2/310": 1, "2/2/3": 127,
    }
    assert tlv.encode(tlv.decode(raw)) == raw


def test_the_device_of_the_specification_in_json() -> None:
    assert said(decode((3, 0), m.LWM2M_JSON, JSON)) == SAID


def test_times_of_a_json_notification() -> None:
    """6.4.4: values of /72/1/2 with base time; the object is not of the registry."""
    raw = b'{"bn":"/72/","bt":25462634,"e":[{"n":"1/2","v":22.4,"t":-5},{"n":"1/2","v":22.9,"t":-30}]}'
    assert decode((72,), m.LWM2M_JSON, raw) == [Node((72, 1, 2), 22.4, 25462629.0), Node((72, 1, 2), 22.9, 25462604.0)]


def test_senml_of_1_1() -> None:
    """V1_1 Core, 7.4.4 and 7.4.5: names are paths."""
    raw = b'[{"bn":"/3/0/","n":"0","vs":"Open Mobile Alliance"},{"n":"9","v":95},{"n":"22/0","vlo":"10:1"}]'
    assert said(decode((3, 0), m.SENML_JSON, raw)) == {"3/0/0": "Open Mobile Alliance", "3/0/9": 95.0, "3/0/22/0": "10:1"}
    packed = cbor2.dumps([{-2: "/3303/0/", 0: "5700", 2: 21.5}])
    assert said(decode((3303, 0), m.SENML_CBOR, packed)) == {"3303/0/5700": 21.5}


@pytest.mark.parametrize(("path", "content_format", "raw", "value"), [
    ("3303/0/5700", 0, b"21.5", 21.5), ("3/0/9", 0, b"100", 100), ("6/0/5", 0, b"1367491215", 1367491215), ("3306/0/5850", 0, b"1", True),
    ("3/0/0", None, b"maker", "maker"), ("5/0/0", 42, b"\x00\x01", b"\x00\x01"), ("5/0/0", 0, b"AAE=", b"\x00\x01"), ("3/0/9", 60, b"\x18\x64", 100),
    ("3303/0/5700", m.TLV, bytes.fromhex("E8164408 4035800000000000".replace(" ", "")), 21.5),
    ("3303/0/5700", m.TLV, bytes.fromhex("E4164441AC0000"), 21.5), ("3/0/7/1", m.TLV, bytes.fromhex("42011388"), 5000),
    ("1/0/7", m.TLV, bytes.fromhex("C10755"), "U"),
])
def test_single_values(path: str, content_format: int | None, raw: bytes, value: Any) -> None:
    (node,) = decode(path_of(path), content_format, raw)
    assert (text_of(node.path), node.value, type(node.value)) == (path, value, type(value))


@pytest.mark.parametrize(("path", "content_format", "raw"), [
    ("3303/0/5700", 0, b"warm"), ("3303/0/5700", 0, b"nan"), ("3306/0/5850", 0, b"yes"), ("3/0/9", 0, b"9" * 30), ("3/0", 0, b"1"), ("5/0/0", 0, b"*"),
    ("3303/0/5700", m.TLV, bytes.fromhex("E316440102 03".replace(" ", ""))), ("3/0/9", m.TLV, bytes.fromhex("C30964")), ("3/0/9", m.TLV, b"\xc8"),
    ("3/0/9", m.TLV, bytes.fromhex("C10A0F")), ("3/0", m.TLV, bytes.fromhex("0801 02 0102".replace(" ", ""))), ("3/0/9", 9999, b"1"), ("3", m.SENML_JSON, b'[{"n":"/3","v":1}]'),
    ("3/0", m.LWM2M_JSON, b'{"e":[{"n":"9","v":"x"}]}'), ("3/0", m.LWM2M_JSON, b'{"e":[{"n":"9"}]}'), ("3/0", m.LWM2M_JSON, b'{"e":1}'),
    ("3/0/9", 60, b"\x81\x01"),
])
def test_what_cannot_be_read_is_refused(path: str, content_format: int, raw: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(path_of(path), content_format, raw)


formats = st.sampled_from([None, 0, 42, 60, 110, 112, 11542, 11543])
paths = st.sampled_from(["", "3", "3/0", "3/0/9", "3/0/7/1", "3303/0", "3303/0/5700", "3306/0/5850", "5/0/0", "40000/1/2"])
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), 1 << 63), st.floats(), st.text(max_size=6), st.binary(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(
        st.sampled_from(["bn", "n", "v", "sv", "bv", "ov", "e", "t", "bt", "vs", "vd", "vlo"]), inner, max_size=4)), max_leaves=10,
)


@given(paths, formats, st.one_of(st.binary(max_size=60), plain.map(cbor2.dumps), plain.map(lambda v: orjson.dumps(v, default=str))))
def test_any_payload_is_values_or_one_refusal(path: str, content_format: int | None, raw: bytes) -> None:
    try:
        nodes = decode(path_of(path), content_format, raw)
    except Unreadable as error:
        nodes = []
        refused = error.refusal
    assert nodes or content_format is not None or refused.en
    samples, refusals = codec.decode(kept(path.split("/"), content_format or 0, raw, 1, "ep=x"))
    assert not (samples and refusals)


entries = st.one_of(
    st.builds(tlv.Entry, st.just(tlv.RESOURCE), st.integers(0, 0xFFFF), st.binary(max_size=300)),
    st.builds(tlv.Entry, st.just(tlv.MULTIPLE), st.integers(0, 0xFFFF), st.lists(
        st.builds(tlv.Entry, st.just(tlv.RESOURCE_INSTANCE), st.integers(0, 0xFFFF), st.binary(max_size=30)), max_size=3).map(tuple)),
    st.builds(tlv.Entry, st.just(tlv.INSTANCE), st.integers(0, 0xFFFF), st.lists(
        st.builds(tlv.Entry, st.just(tlv.RESOURCE), st.integers(0, 0xFFFF), st.binary(max_size=30)), max_size=3).map(tuple)),
)


@given(st.lists(entries, max_size=4).map(tuple))
def test_tlv_round_trips(some: tuple[tlv.Entry, ...]) -> None:
    assert tlv.decode(tlv.encode(some)) == some


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "3303/0/5700": st.floats(allow_nan=False, allow_infinity=False), "3/0/9": st.integers(-(1 << 63), (1 << 63) - 1), "3/0/13": st.integers(0, 1 << 40),
    "3306/0/5850": st.booleans(), "3/0/14": st.text(max_size=20), "5/0/0": st.binary(max_size=20).map(lambda raw: base64.b64encode(raw).decode()),
    "3/0/22": st.just("10:1"),
}


@given(st.sampled_from(sorted(VALUES)).flatmap(lambda path: st.tuples(st.just(path), VALUES[path])),
       st.sampled_from([0, 60, 110, 112, 11542, 11543]))
def test_what_is_written_is_read_back(what: tuple[str, Any], content_format: int) -> None:
    path = path_of(what[0])
    (node,) = decode(path, content_format, encode(path, what[1], content_format))
    wanted = content.typed(path, what[1])
    assert node.path == path
    if content_format in (110, 112) and type(wanted) is int and abs(wanted) >= 1 << 53:
        assert node.value == float(wanted)  # SenML's numbers are read as float64
    else:
        assert node.value == wanted


def test_an_instance_is_written_with_an_object() -> None:
    raw = encode((1, 0), {"1": 300, "7": "U"}, m.TLV)
    assert said(decode((1, 0), m.TLV, raw)) == {"1/0/1": 300, "1/0/7": "U"}


@pytest.mark.parametrize(("path", "value"), [
    ("3303/0/5700", "warm"), ("3/0/9", 1.5), ("3/0/9", True), ("3306/0/5850", 1), ("5/0/0", "*"), ("3/0/22", "70000:1"), ("3/0", 1), ("3/0/9", {"1": 1}),
    ("3", {"0": 1}), ("3/0", {"x": 1}), ("3/0/9", None), ("3/0/9", 1 << 64),
])
def test_a_value_of_another_type_is_not_written(path: str, value: Any) -> None:
    with pytest.raises(Unreadable):
        encode(path_of(path), value, m.TLV)


# Links


def test_links_of_a_registration() -> None:
    """V1_0, 8.2.3, and RFC 6690, 5."""
    read = links.decode(b'</>;rt="oma.lwm2m";ct=11543, </1/0>,</3/0>,</3303/0>;ver=1.1,</s,1>;title="a;b,c"')
    assert [(link.path, link.attributes) for link in read] == [
        (None, {"rt": "oma.lwm2m", "ct": "11543"}), ((1, 0), {}), ((3, 0), {}), ((3303, 0), {"ver": "1.1"}), (None, {"title": "a;b,c"}),
    ]
    assert links.decode(b"") == []


@pytest.mark.parametrize("bad", [b"3/0", b"</3/0>;", b"</3/0> </1/0>", b"<", b"\xff", b"</3/0>;a=\"b", b",".join([b"</1/0>"] * 1001)])
def test_links_that_are_none(bad: bytes) -> None:
    with pytest.raises(Unreadable):
        links.decode(bad)


@given(st.one_of(st.binary(max_size=80), st.text("</>0123;=\",a b", max_size=60).map(str.encode)))
def test_any_bytes_are_links_or_refused(raw: bytes) -> None:
    try:
        read: Any = links.decode(raw)
    except Unreadable as error:
        read = error.refusal
    assert read is not None


# Registry and kept messages


def test_the_registry_is_the_omas() -> None:
    temperature = objects.resource((3303, 0, 5700))
    assert temperature == objects.Resource("Sensor Value", objects.FLOAT, "R", False, "")
    level = objects.resource((3, 0, 9))
    assert level is not None
    assert (level.name, level.unit) == ("Battery Level", "/100")
    assert all(number in objects.registry() for number in (1, 3, 4, 5, 6, 3303, 3304, 3305, 3306, 3311, 3313, 3315, 3316, 3323, 3325, 3336))
    assert [objects.observed((number, 0)) for number in (1, 3, 5, 6, 3303, 40000)] == [False, True, False, True, True, False]


def test_a_kept_message_says_who_and_when() -> None:
    at = 1_775_001_600_000_000
    raw = kept(["3303", "0"], m.SENML_JSON, b'[{"bn":"/3303/0/","n":"5700","v":21.5},{"n":"5701","vs":"Cel","t":-10}]', at,
               "ep=urn:imei:350", "as=temperature=3303/0/5700")
    assert codec.identify(raw) == b"urn:imei:350"
    assert codec.decode(raw) == ([(0, {"temperature": 21.5}, None), (at - 10_000_000, {"3303/0/5701": "Cel"}, None)], [])
    assert codec.identity("urn:imei:350") == b"urn:imei:350"
    assert codec.identify(b"x") == b""
    assert codec.decode(b"x")[1][0].rule == "header"
