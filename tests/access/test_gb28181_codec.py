"""What GB/T 28181 is made of, pure: SIP messages and streams, digests, MANSCDP, instructions, SDP."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tulou.access.coap import Unreadable
from tulou.access.gb28181 import digest, manscdp, media, sip
from tulou.access.presence import AFTERWARDS, SECOND, online
from tulou.access.protocols import BEIJING
from tulou.access.protocols import gb28181 as gb
from tulou.kernel.errors import Conflict, Invalid

CODE, CHANNEL = "34020000001180000001", "34020000001310000001"


def message(body: str | bytes, method: str = "MESSAGE", encoding: str = "gb18030", more: str = "") -> bytes:
    raw = body.encode(encoding) if isinstance(body, str) else body
    return (f"{method} sip:35000000002000000001@3500000000 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.9:5060;rport;branch=z9hG4bK1\r\n"
            f"From: <sip:{CODE}@3402000000>;tag=1\r\nTo: <sip:35000000002000000001@3500000000>\r\nCall-ID: c1\r\nCSeq: 20 {method}\r\n{more}"
            f"Content-Type: Application/MANSCDP+xml\r\nContent-Length: {len(raw)}\r\n\r\n").encode() + raw


# -- SIP


def test_compact_forms_and_folding() -> None:
    read = sip.parse(b"MESSAGE sip:a@b SIP/2.0\nv: SIP/2.0/UDP h;branch=z9hG4bK7\nf: \"A <x>; \\\" B\" <sip:u@h:5060>;tag=9\nt:\n <sip:a@b>\n"
                     b"i: 1\nCSEQ  : 4\n\t MESSAGE\nl: 2\n\nhi, and what follows")
    assert (read.get("call-id"), read.cseq, read.branch, read.sender, read.body) == ("1", (4, "MESSAGE"), "z9hG4bK7", "u", b"hi")
    assert sip.address(read.get("from"), "From")[1] == {"tag": "9"}


@pytest.mark.parametrize(("change", "field"), [
    ((b"Call-ID: c1\r\n", b""), "call-id"), ((b"CSeq: 20 MESSAGE", b"CSeq: 20 INFO"), "CSeq"), ((b"Length: 4", b"Length: 5"), "Content-Length"),
    ((b"Length: 4", b"Length: x"), "content-length"), ((b"SIP/2.0\r\nVia", b"HTTP/1.1\r\nVia"), "start line"), ((b"Call-ID: c1", b"Call-ID c1"), "header"),
    ((b"Call-ID: c1", b"Call-ID: \0"), "header"), ((b"From: <", b"From: "), "From"),
])
def test_what_is_not_sip_is_named(change: tuple[bytes, bytes], field: str) -> None:
    raw = message("abcd")
    assert change[0] in raw
    with pytest.raises(Unreadable) as refused:
        assert sip.parse(raw.replace(*change)).sender
    assert refused.value.refusal.field == field


def test_an_answer_mirrors_what_came() -> None:
    raw = message("x").replace(b"rport;", b"rport;received=9.9.9.9;").replace(b"Via:", b"Via: SIP/2.0/UDP proxy;branch=z9hG4bK0\r\nVia:", 1)
    answer = sip.parse(sip.answer(sip.parse(raw), 200, ("1.2.3.4", 77), "t").encode())
    assert answer.all("via") == ["SIP/2.0/UDP proxy;branch=z9hG4bK0;received=1.2.3.4;rport=77", "SIP/2.0/UDP 10.0.0.9:5060;rport;received=9.9.9.9;branch=z9hG4bK1"]
    assert (answer.status, answer.tag, answer.get("from"), answer.cseq) == (200, "t", f"<sip:{CODE}@3402000000>;tag=1", (20, "MESSAGE"))


@given(data=st.binary(max_size=600), cuts=st.lists(st.integers(0, 600), max_size=5))
@example(data=b"\r\n\r\n\r\n", cuts=[1])
@settings(max_examples=300, deadline=None)
def test_any_bytes_on_a_stream(data: bytes, cuts: list[int]) -> None:
    framer = sip.Framer()
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for a, b in itertools.pairwise(at):
        framer.feed(data[a:b])
        assert framer.unfinished <= sip.LARGEST


@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cuts=st.lists(st.integers(0, 900), max_size=6))
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_raises_nothing(at: int, byte: int, cuts: list[int]) -> None:
    """Whatever it makes of a message: the codec, the parser and the answer take it, or refuse it by name."""
    raw = bytearray(message(f"<Notify><CmdType>Alarm</CmdType><SN>1</SN><DeviceID>{CHANNEL}</DeviceID><AlarmPriority>1</AlarmPriority></Notify>",
                            more="Contact: <sip:a@b>\r\nAuthorization: Digest username=\"a\", nonce=\"b\", uri=\"c\", response=\"d\"\r\n"))
    raw[at % len(raw)] = byte
    data = bytes(raw)
    samples, refusals = gb.codec.decode(data)
    assert bool(samples) != bool(refusals)
    assert isinstance(gb.codec.identify(data), bytes)
    assert isinstance(gb.codec.masked(data), bytes)
    try:
        read = sip.parse(data)
        assert sip.answer(read, 200, ("h", 1), "t").encode()
        digest.parse(read.get("authorization"))
        assert read.tag is not None
    except Unreadable:
        pass
    framer = sip.Framer()
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found = [one for a, b in itertools.pairwise(places) for one in framer.feed(data[a:b])]
    assert len(found) <= 2


def test_how_a_stream_is_cut_changes_nothing() -> None:
    data = b"\r\n\r\n" + message("abc") + message("") + b"\r\n" + message("d" * 3000)
    for size in (1, 7, 4000):
        framer = sip.Framer()
        found = [raw for at in range(0, len(data), size) for _, raw in framer.feed(data[at : at + size])]
        assert (found, framer.broken, framer.unfinished) == ([message("abc"), message(""), message("d" * 3000)], None, 0)
        assert framer.pings == 1


# -- digests


def test_the_examples_of_rfc_7616() -> None:
    """3.9.1."""
    said = {"nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "nc": "00000001", "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
            "qop": "auth", "uri": "/dir/index.html"}
    for algorithm, right in (("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
                             ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1")):
        kept = digest.secret("Mufasa", "http-auth@example.org", "Circle of Life")
        credentials = {**said, "algorithm": algorithm, "response": right, "username": "Mufasa"}
        assert digest.proves(kept, "GET", credentials)
        assert not digest.proves(kept, "PUT", credentials)
        assert not digest.proves(digest.secret("Mufasa", "http-auth@example.org", "other"), "GET", credentials)
    assert digest.realm_of(kept) == "http-auth@example.org"
    assert digest.realm_of("$argon2id$v=19$x") == ""
    assert not digest.proves("$argon2id$v=19$x", "GET", credentials)


def test_the_example_of_rfc_2617_without_quality() -> None:
    """As old devices answer (RFC 2069 with its erratum 749)."""
    kept = digest.secret("Mufasa", "testrealm@host.com", "CircleOfLife")
    assert digest.proves(kept, "GET", {"nonce": "dcd98b7102dd2f0e8b11d0f600bfb0c093", "uri": "/dir/index.html", "response": "1949323746fe6a43ef61f9606e7febea"})


def test_nonces_are_ours_young_and_used_once() -> None:
    nonces = digest.Nonces()
    made = nonces.make(1000, "h")
    assert [nonces.judge(made, at, "h") for at in (1000, 1300, 1301)] == [digest.FRESH, digest.FRESH, digest.STALE]
    assert {digest.Nonces().judge(made, 1000, "h"), *(nonces.judge(one, 1000, "h") for one in ("", "zz" * 20, "é" * 40)), nonces.judge(made, 1000, "other")} == {digest.FOREIGN}
    assert [nonces.use(made, count) for count in ("1", "1", "x", "0a", None)] == [True, False, False, True, False]
    nonces.sweep(1302)
    assert not nonces._used


def test_nonces_that_are_forgotten_are_not_good_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "REMEMBERED", 2)
    nonces = digest.Nonces()
    made = [nonces.make(1000 + number, "h") for number in range(3)]
    assert all(nonces.use(nonce, None) for nonce in made)
    assert [nonces.judge(nonce, 1003, "h") for nonce in made] == [digest.STALE, digest.FRESH, digest.FRESH]


# -- MANSCDP


@pytest.mark.parametrize(("declared", "encoding"), [("GB2312", "gb18030"), ("GB2312", "utf-8"), ("UTF-8", "utf-8"), ("UTF-8", "gb18030"), ("GB18030", "gb18030")])
def test_what_is_declared_and_what_is_sent(declared: str, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{declared}"?><Notify><CmdType>Keepalive</CmdType><Name>鼓楼区东街口𠮷</Name></Notify>'
    assert manscdp.parse(text.encode(encoding)).get("Name") == "鼓楼区东街口𠮷"


@pytest.mark.parametrize(("document", "rule"), [
    ('<!DOCTYPE a [<!ENTITY b "c">]><Notify>&b;</Notify>', "dtd"), ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><Notify/>', "dtd"), ("<Notify>&b;</Notify>", "xml"),
    ("<Notify><a></Notify>", "xml"), ("", "xml"), ("<html/>", "root"), ("<Notify>" + "<a>" * 13 + "</a>" * 13 + "</Notify>", "size"),
    ("<Notify>" + "<a/>" * 20_001 + "</Notify>", "size"),
])
def test_documents_that_are_refused(document: str, rule: str) -> None:
    with pytest.raises(Unreadable) as refused:
        manscdp.parse(document.encode())
    assert refused.value.refusal.rule == rule


def decoded(xml: str, **more: Any) -> dict[str, Any]:
    samples, refusals = gb.codec.decode(message(xml, **more))
    assert refusals == []
    return {name: value for _, values, _ in samples for name, value in values.items()}


def test_a_catalogue() -> None:
    """A.2.6.9: a part of an answer; and a NOTIFY of a change, which says no more than the event."""
    found = decoded(
        f"<Response><CmdType>Catalog</CmdType><SN>1</SN><DeviceID>{CODE}</DeviceID><SumNum>7</SumNum><DeviceList Num='2'><Item><DeviceID>{CHANNEL}</DeviceID>"
        "<Name>东门</Name><Manufacturer>M</Manufacturer><ParentID>1</ParentID><Status>ON</Status><Longitude>119.3</Longitude><Info><PTZType>1</PTZType></Info>"
        "</Item><Item><DeviceID>350102</DeviceID><Name>鼓楼区</Name></Item></DeviceList></Response>")
    assert found["channelCount"] == 7
    assert orjson.loads(found[f"channel.{CHANNEL}"]) == {"id": CHANNEL, "name": "东门", "manufacturer": "M", "parent": "1", "status": "ON", "longitude": 119.3, "ptz": "1"}
    assert orjson.loads(found["channel.350102"])["name"] == "鼓楼区"
    found = decoded(f"<Notify><CmdType>Catalog</CmdType><SN>1</SN><DeviceID>{CODE}</DeviceID><SumNum>1</SumNum><DeviceList Num='1'><Item><DeviceID>{CHANNEL}</DeviceID>"
                    "<Event>OFF</Event></Item></DeviceList></Notify>", method="NOTIFY")
    assert found == {f"channelEvent.{CHANNEL}": "OFF"}


def test_positions_have_their_own_time() -> None:
    """A.2.5.6; of a channel with its code before the names; of 2022 several at once; one that cannot be read costs no other."""
    body = "<Notify><CmdType>MobilePosition</CmdType><SN>1</SN><DeviceID>{0}</DeviceID><Time>{1}</Time><Longitude>119.3</Longitude><Latitude>26</Latitude><Speed></Speed></Notify>"
    at = int(dt.datetime(2026, 4, 1, 8, 0, 1, tzinfo=BEIJING).timestamp()) * 1_000_000
    for text in ("2026-04-01T08:00:01", "2026-4-1 8:0:1", "2026-04-01T00:00:01Z", "2026-04-01T09:00:01+09:00"):
        assert gb.codec.decode(message(body.format(CODE, text))) == ([(at, {"longitude": 119.3, "latitude": 26.0}, None)], [])
    ((_, values, _),), _ = gb.codec.decode(message(body.format(CHANNEL, "2026-04-01T08:00:01.5")))
    assert set(values) == {f"{CHANNEL}.longitude", f"{CHANNEL}.latitude"}
    samples, refusals = gb.codec.decode(message(body.format(CODE, "2026-13-01T08:00:01")))
    assert (samples, [refusal.rule for refusal in refusals]) == ([], ["time"])
    item = f"<Item><DeviceID>{CODE}</DeviceID><CaptureTime>2026-04-01T08:00:01</CaptureTime><Longitude>1</Longitude><Altitude>high</Altitude></Item>"
    samples, refusals = gb.codec.decode(message(
        f"<Notify><CmdType>MobilePosition</CmdType><SN>1</SN><DeviceID>{CODE}</DeviceID><DeviceList>{item * 2}</DeviceList></Notify>"))
    assert (samples, [refusal.field for refusal in refusals]) == ([(at, {"longitude": 1.0}, None)] * 2, ["Altitude"] * 2)


def test_status_information_and_keepalives() -> None:
    assert decoded(f"<Notify><CmdType>Keepalive</CmdType><SN>1</SN><DeviceID>{CODE}</DeviceID><Status>ERROR</Status><Info><DeviceID>{CHANNEL}</DeviceID></Info></Notify>") == {
        "status": "ERROR", "faulty": f'["{CHANNEL}"]'}
    assert decoded(f"<Response><CmdType>DeviceStatus</CmdType><SN>1</SN><DeviceID>{CODE}</DeviceID><Result>OK</Result><Online>ONLINE</Online>"
                   f"<Alarmstatus Num='1'><Item><DeviceID>{CHANNEL}</DeviceID><DutyStatus>ALARM</DutyStatus></Item></Alarmstatus></Response>") == {
        "deviceOnline": "ONLINE", f"{CHANNEL}.dutyStatus": "ALARM"}
    assert decoded(f"<Response><CmdType>DeviceInfo</CmdType><SN>1</SN><DeviceID>{CODE}</DeviceID><Manufacturer>M</Manufacturer><Channel>4</Channel></Response>") == {
        "manufacturer": "M", "channelCount": 4}
    assert decoded(f"<Response><CmdType>RecordInfo</CmdType><SN>1</SN><DeviceID>{CODE}</DeviceID></Response>") == {}


def test_credentials_are_masked() -> None:
    raw = message("x", more='Authorization: Digest username="u", response="6629fae4"\r\n , nonce="n"\r\n')
    assert b"6629fae4" not in gb.codec.masked(raw)
    assert b'nonce="n"' not in gb.codec.masked(raw)
    assert b"Call-ID: c1" in gb.codec.masked(raw)
    with pytest.raises(Invalid):
        gb.codec.identity("123")


# -- instructions (A.3)


@pytest.mark.parametrize(("method", "params", "right"), [
    ("ptz", {}, "A50F010000000" + "0B5"), ("ptz", {"tilt": 32}, "A50F0108002000DD"), ("ptz", {"pan": 255}, "A50F0101FF0000B5"),
    ("ptz", {"pan": -1, "tilt": -1, "zoom": -15}, "A50F01260101F0CD"), ("lens", {"iris": -16}, "A50F014800100" + "00D"),
    ("lens", {"focus": 16}, "A50F01411000" + "0006"), ("preset", {"action": "set", "number": 1}, "A50F01810001" + "0037"),
    ("preset", {"action": "call", "number": 1}, "A50F0182000100" + "38"), ("preset", {"action": "delete", "number": 255}, "A50F018300FF0037"),
    ("cruise", {"action": "add", "group": 1, "preset": 2}, "A50F018401020" + "03C"), ("cruise", {"action": "dwell", "group": 1, "value": 300}, "A50F0187012C1079"),
    ("cruise", {"action": "start", "group": 1}, "A50F01880100003E"),
])
def test_instructions(method: str, params: dict[str, Any], right: str) -> None:
    body, wanted = gb.request(method, gb.METHODS[method].params.model_validate(params), 7, CODE)
    root = manscdp.parse(body)
    assert (root.name, root.get("PTZCmd"), root.get("SN"), root.get("DeviceID"), wanted) == ("Control", right, "7", CODE, "")
    raw = bytes.fromhex(right)
    assert (len(raw), sum(raw[:7]) & 0xFF) == (8, raw[7])
    assert (raw[1] & 0x0F) == ((raw[0] >> 4) + (raw[0] & 0x0F) + (raw[1] >> 4)) % 16  # A.3.1


def test_queries_and_controls() -> None:
    at = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)
    body, wanted = gb.request("record_info", gb.Recordings(start=at, end=at, channel=CHANNEL), 1, CODE)
    root = manscdp.parse(body)
    assert (root.name, root.get("StartTime"), root.get("DeviceID"), wanted) == ("Query", "2026-04-01T08:00:00", CHANNEL, "RecordInfo")
    body, wanted = gb.request("reset_alarm", gb.ResetAlarm(method="5", type="6"), 1, CODE)
    assert (manscdp.parse(body).get("Info", "AlarmType"), manscdp.parse(body).get("AlarmCmd"), wanted) == ("6", "ResetAlarm", "DeviceControl")
    for name, method in gb.METHODS.items():
        assert method.schema["type"] == "object"
        assert name in gb.CALLS or name in ("record_info", "preset", "cruise", "record", "guard", "subscribe") or manscdp.parse(
            gb.request(name, method.params(), 1, CODE)[0]).get("SN") == "1"


# -- media


def test_ssrcs_of_a_domain() -> None:
    """Annex C.2.4: the example's domain 13010000002000000001 gives 10000."""
    taken: set[str] = set()
    first = media.ssrc(media.LIVE, "13010000002000000001", taken, 9999)
    assert first == "0100009999"
    taken.add(first[6:])
    assert media.ssrc(media.PLAYBACK, "13010000002000000001", taken, 9999) == "1100000000"
    with pytest.raises(Conflict):
        media.ssrc(media.LIVE, "13010000002000000001", {f"{n:04d}" for n in range(10_000)}, 0)


def test_what_devices_answer_in_sdp() -> None:
    assert media.answered(b"v=0\r\nc=IN IP4 10.0.0.5\r\nm=video 6000 TCP/RTP/AVP 96\r\ny=0100000001\r\n") == {
        "ip": "10.0.0.5", "port": 6000, "protocol": "TCP/RTP/AVP", "ssrc": "0100000001"}
    with pytest.raises(Unreadable):
        media.answered(b"v=0\r\nm=audio 1 RTP/AVP 8\r\n")


# -- presence


@given(heard=st.integers(1, 10_000), now=st.integers(0, 20_000), after=st.integers(1, 5000), gone=st.integers(1, 20_000))
def test_what_a_protocol_says_counts_until_it_is_heard_again(heard: int, now: int, after: int, gone: int) -> None:
    seen, clock, away = heard * SECOND, now * SECOND, gone * SECOND
    if seen < away + AFTERWARDS:
        assert bool(online(seen, clock, after, away)) == (clock < away)
    else:
        assert bool(online(seen, clock, after, away)) == bool(online(seen, clock, after))
