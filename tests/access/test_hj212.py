"""HJ 212: frames of the standard and frames that no one should have sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.access.protocols import Broken, Message, hj212
from tulou.access.telemetry import Refusal
from tulou.kernel.errors import Invalid

MN = b"010000A8900016F000169DC0"
EXAMPLE = (
    b"##0101QN=20160801085857223;ST=32;CN=1062;PW=100000;MN=010000A8900016F000169DC0;Flag=5;"
    b"CP=&&RtdInterval=30&&1C80\r\n"
)
"""HJ 212-2017, annex A: the text whose CRC is 1C80."""


def crc(segment: bytes) -> int:
    """Annex A, bit by bit as it is printed."""
    register = 0xFFFF
    for byte in segment:
        register = register >> 8 ^ byte
        for _ in range(8):
            register = register >> 1 ^ (0xA001 if register & 1 else 0)
    return register


def frame(values: bytes, *, cn: int = 2011, flag: int = 5, extra: bytes = b"", mn: bytes = MN, st: int = 31) -> bytes:
    """A frame by the bytes of 6.3, independent of the encoder."""
    segment = b"QN=20260401080000123;ST=%d;CN=%d;PW=123456;MN=%b;Flag=%d;%bCP=&&%b&&" % (
        st, cn, mn, flag, extra, values)
    return b"##" + str(len(segment)).zfill(4).encode() + segment + format(crc(segment), "04X").encode() + b"\r\n"


DATA = frame(b"DataTime=20260401080000;w01018-Rtd=12.5,w01018-Flag=N;w21003-Rtd=0.35,w21003-Flag=D")


def messages(*pieces: bytes) -> list[Message | Broken]:
    session = hj212.Session()
    return [message for piece in pieces for message in session.feed(piece)]


def kept(sent: bytes) -> bytes:
    """What is kept of a frame."""
    return sent.replace(b"PW=123456", b"PW=******")


def raws(found: list[Message | Broken]) -> list[bytes]:
    return [message.raw for message in found if isinstance(message, Message)]


def test_the_standards_own_example() -> None:
    (message,) = messages(EXAMPLE)
    assert isinstance(message, Message)
    assert (message.identity, message.command, message.credential) == (MN, 1062, b"100000")
    assert hj212.command(
        1062, qn=b"20160801085857223", st=b"32", mn=MN, password=b"100000", values=b"RtdInterval=30"
    ) == EXAMPLE


@given(st.binary(min_size=1, max_size=1200))
def test_the_folded_crc_is_that_of_annex_a(segment: bytes) -> None:
    assert hj212.crc(segment) == crc(segment)


def test_values_have_time_and_quality() -> None:
    ((observed, values, worse),), refusals = hj212.codec.decode(DATA)
    assert observed == 1_775_001_600_000_000  # 2026-04-01T00:00:00Z
    assert values == {"w01018-Rtd": 12.5, "w01018-Flag": "N", "w21003-Rtd": 0.35, "w21003-Flag": "D"}
    assert worse == {"w21003-Rtd": 2}
    assert refusals == []


@pytest.mark.parametrize(("flag", "quality"), [("N", None), ("S", 1), ("T", 1), ("Z", 1), ("F", 2), ("M", 2), ("D", 2),
                                               ("C", 2), ("B", 2)])
def test_flags_are_quality(flag: str, quality: int | None) -> None:
    ((_, _, worse),), _ = hj212.codec.decode(
        frame(b"DataTime=20260401080000;a34004-Rtd=1,a34004-Flag=%b" % flag.encode())
    )
    assert (worse or {}).get("a34004-Rtd") == quality


@pytest.mark.parametrize(("cn", "name"), [(2011, "w00000-Cou"), (2051, "w00000-Cou-minute"), (2061, "w00000-Cou-hour"),
                                          (2031, "w00000-Cou-day")])
def test_minutes_hours_and_days_at_one_time_are_apart(cn: int, name: str) -> None:
    ((_, values, _),), _ = hj212.codec.decode(frame(b"DataTime=20260401000000;w00000-Cou=1.5", cn=cn))
    assert values == {name: 1.5}


@pytest.mark.parametrize("value", [b"nan", b"inf", b"1_0", b"0x10", b"--", b"1e", "１".encode()])
def test_what_is_no_number_costs_only_itself(value: bytes) -> None:
    ((_, values, _),), (refusal,) = hj212.codec.decode(
        frame(b"DataTime=20260401080000;w01018-Rtd=%b;w21003-Rtd=2" % value)
    )
    assert values == {"w21003-Rtd": 2.0}
    assert (refusal.rule, refusal.field) == ("number", "w01018-Rtd")


@pytest.mark.parametrize("values", [b"w01018-Rtd=1", b"DataTime=20260230000000;w01018-Rtd=1", b"DataTime=2026;w01018-Rtd=1"])
def test_data_without_a_time_is_refused(values: bytes) -> None:
    samples, (refusal,) = hj212.codec.decode(frame(values))
    assert (samples, refusal.field) == ([], "DataTime")


def test_only_bit_a_of_flag_is_answered_and_notices_otherwise() -> None:
    session = hj212.Session()

    def answer(raw: bytes) -> bytes:
        (message,) = session.feed(raw)
        assert isinstance(message, Message)
        return session.accept(message, 0)

    assert answer(DATA) == frame(b"", cn=9014, flag=4, st=91)
    assert answer(frame(b"DataTime=20260401080000;w01018-Rtd=1", flag=4)) == b""
    assert b";CN=9013;" in answer(frame(b"PolId=w01018", cn=1013))
    assert b";Flag=0;" in answer(frame(b"DataTime=20260401080000;w01018-Rtd=1", flag=1))  # the edition of 2005
    assert answer(frame(b"ExeRtn=1", cn=9012)) == b""


def test_who_is_refused_is_told_which_field_is_wrong() -> None:
    session = hj212.Session()
    (message,) = session.feed(DATA)
    assert isinstance(message, Message)
    assert b";CN=9011;" in session.refuse(message, "unknown")
    assert b"CP=&&QnRtn=4&&" in session.refuse(message, "unknown")
    assert b"CP=&&QnRtn=3&&" in session.refuse(message, "denied")


def test_a_packet_without_its_time_is_kept_with_the_first() -> None:
    first = frame(b"DataTime=20260401080000;w01018-Rtd=1", flag=7, extra=b"PNUM=2;PNO=1;")
    second = frame(b"w21003-Rtd=2", flag=7, extra=b"PNUM=2;PNO=2;")
    found = messages(first, second)
    assert raws(found) == [kept(first), kept(first + second)]
    samples, refusals = hj212.codec.decode(first + second)
    assert [(ts, list(values)) for ts, values, _ in samples] == [
        (1_775_001_600_000_000, ["w01018-Rtd"]), (1_775_001_600_000_000, ["w21003-Rtd"])
    ]
    assert refusals == []


def test_texts_of_other_commands_are_kept() -> None:
    info = "DataTime=20260401080000;i13001-Info=//设备信息//".encode("gb18030")
    ((_, values, _),), _ = hj212.codec.decode(frame(info, cn=3020))
    assert values == {"i13001-Info": "//设备信息//"}
    ((observed, values, _),), _ = hj212.codec.decode(frame(b"RestartTime=20260401075900", cn=2081))
    assert (observed, values) == (1_775_001_600_000_000, {"RestartTime": "20260401075900"})


def test_passwords_are_not_shown() -> None:
    assert b"123456" not in hj212.codec.masked(DATA)
    assert b";MN=" + MN in hj212.codec.masked(DATA)


@pytest.mark.parametrize("text", ["", "MN;PW=1", "x" * 28, "站"])
def test_an_mn_is_letters_and_digits(text: str) -> None:
    with pytest.raises(Invalid):
        hj212.codec.identity(text)


@pytest.mark.parametrize(("bad", "rule"), [
    (DATA[:-6] + b"0000\r\n", "checksum"), (DATA[:-6] + b"ZZZZ\r\n", "checksum"), (DATA.replace(b"12.5", b"92.5"), "checksum"),
    (b"##0010" + DATA[6:], "length"), (b"##0500" + DATA[6:] + b"x" * 500, "length"),
])
def test_a_broken_frame_costs_no_neighbour(bad: bytes, rule: str) -> None:
    found = messages(DATA + bad + DATA + DATA)
    assert raws(found) == [kept(DATA)] * 3
    assert {b.refusal.rule for b in found if isinstance(b, Broken)} == {rule}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
def test_a_stream_may_be_cut_anywhere(size: int) -> None:
    stream = b"\r\n#" + DATA + b"rubbish##x" + DATA + b"###" + DATA
    session = hj212.Session()
    found = [m for at in range(0, len(stream), size) for m in session.feed(stream[at : at + size])]
    assert raws(found) == [kept(DATA)] * 3
    assert session.skipped == len(stream) - 3 * len(DATA)
    assert session.unfinished == 0


@given(st.lists(st.one_of(st.just(DATA), st.binary(max_size=40).filter(lambda b: b"#" not in b)), max_size=12),
       st.lists(st.integers(1, 60), max_size=60))
def test_neighbours_of_garbage_are_not_lost(parts: list[bytes], cuts: list[int]) -> None:
    stream, session, found = b"".join(parts), hj212.Session(), []
    for cut in [*cuts, len(stream)]:
        found += session.feed(stream[:cut])
        stream = stream[cut:]
    assert raws(found) == [kept(part) for part in parts if part == DATA]


@given(st.lists(st.one_of(st.binary(max_size=200), st.just(b"##"), st.just(DATA), st.sampled_from([DATA[:n] for n in range(30)]))))
def test_nothing_makes_it_fail_or_hold_more_than_a_frame(parts: list[bytes]) -> None:
    session = hj212.Session()
    total = 0
    for part in parts:
        for message in session.feed(part):
            total += len(message.raw)
            if isinstance(message, Message):
                hj212.codec.decode(message.raw)
                session.accept(message, 0)
                session.refuse(message, "unknown")
        assert session.unfinished <= 9999 + 12
    assert total + session.skipped + session.unfinished == sum(map(len, parts))


@given(st.binary(max_size=300))
def test_any_values_in_a_sound_frame_are_read_or_refused(values: bytes) -> None:
    for message in messages(frame(values)):
        if isinstance(message, Message):
            hj212.codec.decode(message.raw)


def test_the_password_is_not_kept_and_the_rest_is_read() -> None:
    session = hj212.Session()
    found = session.feed(DATA + DATA.replace(b"CP=", b"XP=") + b"##0020PW=secret;CN=2011;MN" + DATA)
    assert [b"123456" in one.raw or b"secret" in one.raw for one in found] == [False] * len(found)
    assert len(found) >= 3
    message = found[0]
    assert isinstance(message, Message)
    assert message.credential == b"123456"
    assert hj212.codec.identify(message.raw) == MN
    assert hj212.codec.decode(message.raw) == hj212.codec.decode(DATA)
    assert hj212.codec.masked(DATA) == message.raw


PAIRS = st.builds(
    "{}{}={}".format, st.sampled_from(["w01018", "a34004", "e301", "", "站"]),
    st.sampled_from(["-Rtd", "-Avg", "-Flag", "-Info", "-SampleTime", "-Other", "Time", ""]),
    st.one_of(st.sampled_from(["N", "D", "S", "Z", "", "1", "12.50", "-0.3", "+1", ".5", "5.", "007", "1e3", "1e999", "-", "1,2",
                               "nan", "[1]", "null", "a=b", "20260401080000"]), st.from_regex(r"[0-9]{1,4}\.[0-9]{1,4}", fullmatch=True)),
)


@given(st.lists(st.one_of(PAIRS, PAIRS, st.just("DataTime=20260401080000"), st.sampled_from(["DataTime=2026", "x", ""])), max_size=6),
       st.lists(st.sampled_from(",;"), min_size=6, max_size=6), st.sampled_from([2011, 2051, 3020]), st.sampled_from([0, 5]))
def test_data_read_by_their_layout_are_those_read_one_by_one(pairs: list[str], marks: list[str], cn: int, before: int) -> None:
    body = "".join(pair + mark for pair, mark in zip(pairs, marks, strict=False))[:-1]
    for _ in range(2):
        quick = hj212._read_alike(cn, body.encode(), before)
        refusals: list[Refusal] = []
        found = hj212._read_any(cn, body, before, refusals)
        if quick is not None:
            assert (quick, refusals) == (found, [])
            assert {type(value) for value in quick[1].values()} <= {float, str}


def test_usual_data_are_read_by_their_layout() -> None:
    body = b"DataTime=20260401080000;w01018-Rtd=12.5,w01018-Flag=N;w21003-Rtd=3,w21003-Flag=D"
    assert hj212._read_alike(2011, body, 0) == (
        1_775_001_600_000_000, {"w01018-Rtd": 12.5, "w01018-Flag": "N", "w21003-Rtd": 3.0, "w21003-Flag": "D"}, {"w21003-Rtd": 2}
    )


@pytest.mark.parametrize("head", [
    b"QN=20260401080000123;ST=31;CN=2011;PW=123456;MN=%b;Flag=5;", b"ST=31;CN=2011;PW=123456;MN=%b;Flag=5;QN=20260401080000123;",
    b"QN=20260401080000123;ST=31;CN=2011;DPW=123456;PW=123456;MN=%b;Flag=5;",
    b"QN=20260401080000123;ST=31;CN=2011;PW=123456;MN=%b;Flag=5;Padding=" + b"x" * 300 + b";",
])
def test_fields_may_come_in_any_order(head: bytes) -> None:
    segment = head % MN + b"CP=&&DataTime=20260401080000;w01018-Rtd=1&&"
    sent = b"##%04d%b%04X\r\n" % (len(segment), segment, crc(segment))
    session = hj212.Session()
    for _ in range(2):
        (message,) = session.feed(sent)
        assert isinstance(message, Message)
        assert (message.identity, message.credential, len(message.raw)) == (MN, b"123456", len(sent))
        assert b";PW=123456" not in message.raw
        assert session.accept(message, 0) == frame(b"", cn=9014, flag=4, st=91)
        assert hj212.codec.identify(message.raw) == MN
        assert hj212.codec.decode(message.raw)[0][0][1] == {"w01018-Rtd": 1.0}
