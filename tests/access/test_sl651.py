"""SL 651-2014: frames that others published, both ways, and what is no frame.

Sources of the frames: ARTICLE, "SL651-2014 全协议解析" (toymoban.com/news/detail-686475, e-com-net.com/article/1736683930196697088);
MAKER, a maker's document of common commands in github.com/aaasoft/Quick.SL651 (doc/); LIBRARY, the test-suite of a C library
of the protocol, whose frames repeat in part the article's; PARSER, the examples of a Java parser of 2018; GUANGDONG, annex I.1
of that province's implementing rules; FUJIAN, examples of that province's access rules V1.0 (2023), as a toolkit's tests have
them; NJNRS, an online parser's example; KEY, a maker's frame with extended elements in the same tests.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tulou.access.protocols import Broken, Message, beijing, crc_16, sl651
from tulou.access.protocols.sl651 import ACK, ESC, NAK, codec, frame, identifiers, query, span, stamp
from tulou.kernel.errors import Invalid

UPLINKS = {
    "ARTICLE 2F": "7E7E01001234567812342F0008020003591011155111036BCA",
    "ARTICLE 2F, not this century": "7E7E00987654321012342F0008027E0822101110074703C3AE",
    "ARTICLE 30": "7E7E010012345678123430002B020003591011154947F1F1001234567848F0F0591011154920190000052619000005392300000127381211150320FA",
    "ARTICLE 32": "7E7E05001122334403E832002B020034170718110016F1F1001122334448F0F01707181100201900004026190000403923000104903812109903A421",
    "MAKER 2F": "7E7E020012345678000A2F000802000C14120509435703FB2D",
    "MAKER 32": "7E7E02001234567804D232002B020012141205110002F1F1001234567848F0F014120511002019000100261900010039230001442038121220039FE1",
    "MAKER 33": "7E7E02001234567804D2330025020008141205105002F1F1001234567848F0F014120510502019000100261900010038121220 0317B4",
    "MAKER 32 of 2019": "7E7E0000000000220000 32002B020001190305150035F1F1000000002248F0F01903051500221900005 01A1900005020190000502619000050038A15",
    "LIBRARY 31": "7E7E05001122334403E831004E020031170718110005F1F1001122334448F0F0170718100504180000053923000001220000012200000285"
                  "0001049000010490FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF0001049000010490037AC7",
    "LIBRARY 35": "7E7E01001234567812343500110200045910111551 45F2F25120312E323334034602",
    "LIBRARY 35, words": "7E7E1000123456781234350021 02000F130325095804F2F279616E7975313938383A59435A2D32412D31303121212103B698",
    "LIBRARY 37": "7E7E010012345678123437002B020009591011161403F1F1001234567848F0F0591011161420190000152619000015392300000122381211080338FE",
    "LIBRARY 39": "7E7E0100123456781234390011020014170718100630F2F25120312E3233340346AA",
    "LIBRARY 3A rain": "7E7E05001122334403E83A0025020037170718110226F1F1001122334448F0F01707181005F4600500000014FFFFFFFFFF000003074E",
    "LIBRARY 3A level": "7E7E05001122334403E83A0031020038170718110235F1F1001122334448F0F01707181005F5C0000C000C001C00310031"
                        "FFFFFFFFFFFFFFFFFFFF00310031033CAF",
    "LIBRARY 38": "7E7E100012345678123438 00DE020031130325110533F1F1001234567848F0F013032410000418000000F460" + "00" * 192 + "1716F5",
    "PARSER 2F": "7E7E00001234567812342F00080200071401211457130395E5",
    "PARSER 30": "7E7E000012345678123430002B020007140121145707F1F1001234567848F0F01401211457201900000526190000053923000002393812115303B078",
    "PARSER 31": "7E7E62004455667704D231004E02007E140121170015F1F1004455667748F0F0140121160504180000003923000020010000211800002140000021"
                 "39000021440000216800002203000022130000223300002236000022620000227103A3BE",
    "PARSER 32": "7E7E62004455667704D232005A02007C140121170005F1F1004455667748F0F01401211605F4600A05050A000F050A0A0A0A0AF5C00064006F0072"
                 "00710072007400780079007B007B007E007FF0F01401211700201900011026190001103923000022743812115303779B",
    "PARSER 33": "7E7E62004455667704D233002B020076140121165723F1F1004455667748F0F014012116572019000110392300002260261900011038121153 0368BE",
    "PARSER 34": "7E7E62004455667704D234006802007D140121170010F1F1004455667748F0F01401211605F4600A05050A000F050A0A0A0A0AF0F01401211700"
                 "2619000110F0F01401211605F5C00064006F007200710072007400780079007B007B007E007FF0F0140121170020190001103923000022713812115303"
                 "0111",
    "GUANGDONG 34": "7E7E1000123456781234340038020001140612020000F1F1001234567850F0F01406120200F460000000000000000000000000"
                    "261900000020190000001A1900000038121290034383",
    "FUJIAN 31": "7E7E011000000006000031004E022F7E221205110019F1F1100000000648F0F02212051005041800000539230002896000028960"
                 "00028960000289600002896000028960000289600002896000028960000289600002896000028960035B94",
    "NJNRS 32": "7E7E2500418D23370000320030020C06230601010314F1F100418D23374BF0F0230601010020190000003B23000378652219000000"
                "261900000038121285035AC6",
    "KEY 33": "7e7e011234567890000233008e020001230308111501f1f1123456789048f0f023030811143923000003453a230000030503110254283600000041"
              "952029360000003660002736000000785520361b000304371b0006003c1b0003453d1b000305c15500000000000001165134c25500000000000001"
              "0165204919000969471100794a1900096845200000000138121204c91100517a0800ca100100032c63",
}
DOWNLINKS = {
    "ARTICLE 30": "7E7E00123456780112343080080200035910111549471B75D4",
    "ARTICLE 32": "7E7E00112233440503E83280080200341707181100161BE5D4",
    "MAKER 32": "7E7E00123456780204D23280080200121412051100021BBD6C",
    "MAKER 33": "7E7E00123456780204D23380080200081412051050021BA2EE",
    "LIBRARY 30": "7E7E001234567810123430800802000214061202152504 19AF",
    "LIBRARY 31": "7E7E00112233440503E83180080200311707181100051B291C",
    "LIBRARY 35": "7E7E00123456780112343580080200045910111551451BF118",
    "LIBRARY 36": "7E7E001234567801123436800802000017071809525505BB17",
    "LIBRARY 37": "7E7E001234567801123437800802000017071809540405ABC8",
    "LIBRARY 38": "7E7E001234567810123438801702000013032511053313032410130325100418000000F46005F800",
    "LIBRARY 39": "7E7E00123456780112343980080200001707181007200568 32",
    "LIBRARY 3A": "7E7E00112233440503E83A8012020000170718110258 1F19201926193812392305 84B9",
}
PICTURES = [
    "7E7E010012345678123436011C1600D0010005591011161118F1F1001234567848F0F05910111611F3F3FFD8FFE000104A46494600010100000100010000"
    "FFDB004300090606070606090707070909090A0C150D0C0C0C0C1912130F151E191F1E1C191C1C21242E2721222B221C1C2837282B30313434341F27393D"
    "39333C2E333431FFDB0043010909090C0A0C180D0D1831211C21313131313131313131313131313131313131313131313131313131313131313131313131"
    "3131313131313131313131313131FFC4001F0000010501010101010100000000000000000102030405060708090A0BFFC400B51000020103030204030505"
    "04040000017D01020300041105122131410613516107227114328191A1082342B1C11552D1F02433627282090A161718191A1796CB",
    "7E7E01001234567812343600F41600D00D471F9D49A5EB66783C8548A268DB01635C2840063033F5FD28E633EA692DE4C41064FC860FE7522CEE461A4623"
    "D09AAB81FFD5A1E66697CCF7AA331AD27151349C52B81FFFD6C4792AB4AFC1A0CCA4B22ABAE72BB5B231D3A63FAF6ABF0CA0E39EB4D324FFD7E5655DF01C"
    "7A83FAD615B5BDAD9CD2290A240C5031392D5E96395ECFCCE3A2FA162E59552197F78019002147DEC838CE6AB6A23F7A8C3FBBFE35E63DCDCFFFD0F2F0DD"
    "B356F4694A6A3807865C7E87FF00AD48C8E995F1D2A457A2E33FFED1C70F4A64C77A0CC6993DE98589A407FFD2E7C8623A544D193458C8AD25A67914C432"
    "43F4FD0D023FFFD900B703679B",
]


def raw(text: str) -> bytes:
    return bytes.fromhex(re.sub(r"\s", "", text))


def one(data: bytes) -> Message:
    (message,) = codec.session().feed(data)
    assert isinstance(message, Message), message
    return message


def values(name: str) -> dict[str, Any]:
    samples, refusals = codec.decode(one(raw(UPLINKS[name])).raw)
    assert refusals == []
    return {key: value for _, found, _ in samples for key, value in found.items()}


@pytest.mark.parametrize("name", UPLINKS)
def test_published_frames_of_stations_are_read(name: str) -> None:
    message = one(raw(UPLINKS[name]))
    assert message.command == int(name.split()[1].rstrip(",")[:2], 16)
    assert message.identity.decode() in UPLINKS[name].upper().replace(" ", "")
    samples, refusals = codec.decode(message.raw)
    assert [r for r in refusals if "this century" not in name] == []
    assert bool(samples) is (message.command != sl651.LINK)
    assert message.kept is (message.command != sl651.LINK)


def test_values_are_those_that_the_sources_explain() -> None:
    assert values("ARTICLE 30") == {"PJ": 0.5, "PT": 0.5, "Z": 0.127, "VT": 11.15}
    assert values("ARTICLE 32") == {"PJ": 4.0, "PT": 4.0, "Z": 10.49, "VT": 10.99}
    assert values("MAKER 32") == {"PJ": 10.0, "PT": 10.0, "Z": 14.42, "VT": 12.2}
    assert values("LIBRARY 35") == {"RGZS": "Q 1.234"}
    assert values("LIBRARY 35, words") == {"RGZS": "yanyu1988:YCZ-2A-101!!!"}
    assert values("NJNRS 32") == {"PJ": 0.0, "ZU": 37.865, "PN05": 0.0, "PT": 0.0, "VT": 12.85}
    assert values("KEY 33")["Z"] == 0.345
    assert values("KEY 33")["ZT"] == 1.0
    (sample,), _ = codec.decode(raw(UPLINKS["ARTICLE 30"]))
    assert sample[0] == beijing("20591011154900")


def test_twelve_values_of_an_hour_begin_at_the_time_of_observation() -> None:
    samples, _ = codec.decode(raw(UPLINKS["PARSER 34"]))
    rain = [(ts, found["DRP"]) for ts, found, _ in samples if "DRP" in found]
    assert rain[0] == (beijing("20140121160500"), 1.0)
    assert [value for _, value in rain] == [1.0, 0.5, 0.5, 1.0, 0.0, 1.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert rain[-1][0] == beijing("20140121170000")
    level = [found["DRZ1"] for _, found, _ in samples if "DRZ1" in found]
    assert (level[0], level[-1], len(level)) == (1.0, 1.27, 12)
    assert (beijing("20140121170000"), 11.0) in [(ts, found["PJ"]) for ts, found, _ in samples if "PJ" in found]


def test_a_value_that_is_none_is_bad() -> None:
    samples, _ = codec.decode(raw(UPLINKS["LIBRARY 3A rain"]))
    rain = [(found["DRP"], (worse or {}).get("DRP", 0)) for _, found, worse in samples]
    assert [v for v, quality in rain if not quality] == [0.5, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0]
    assert len([v for v, quality in rain if quality == 2 and v != v]) == 5


def test_a_series_of_even_steps() -> None:
    samples, _ = codec.decode(raw(UPLINKS["LIBRARY 31"]))
    assert [found["Z"] for _, found, worse in samples if not worse] == [0.122, 0.122, 0.285, 10.49, 10.49, 10.49, 10.49]
    assert [ts for ts, _, _ in samples] == [beijing("20170718100500") + n * 300_000_000 for n in range(12)]
    samples, _ = codec.decode(raw(UPLINKS["LIBRARY 38"]))
    assert len(samples) == 16 * 12
    samples, _ = codec.decode(raw(UPLINKS["PARSER 31"]))  # a step of zeros, which stands for five minutes
    assert [ts for ts, _, _ in samples] == [beijing("20140121160500") + n * 300_000_000 for n in range(12)]
    assert (samples[0][1], samples[-1][1]) == ({"Z": 2.001}, {"Z": 2.271})


@pytest.mark.parametrize(("digits", "value"), [
    ("FF001234", -1.234), ("FFFFFFFF", None), ("00001234", 1.234), ("FF000000", -0.0), ("99999999", 99999.999),
])
def test_signs_and_decimals(digits: str, value: float | None) -> None:
    body = stamp(1, beijing("20260101080000")) + raw("F1F1001234567848F0F026010108003923" + digits)
    (sample,), refusals = codec.decode(frame(0x32, "0012345678", body, end=3, up=True))
    found = sample[1]["Z"]
    assert refusals == []
    assert (found, sample[2]) == (value, {}) if value is not None else (found != found and sample[2] == {"Z": 2})


def test_an_extended_identifier() -> None:
    body = stamp(1, beijing("20260101080000")) + raw("F1F1001234567848F0F02601010800FF3311020538121200")
    (sample,), refusals = codec.decode(frame(0x32, "0012345678", body, end=3, up=True))
    assert (sample[1], refusals) == ({"FF33": 20.5, "VT": 12.0}, [])


@pytest.mark.parametrize("name", DOWNLINKS)
def test_published_frames_of_centres_are_made(name: str) -> None:
    sent = raw(DOWNLINKS[name])
    station, centre, password, body = sent[2:7].hex(), sent[7], sent[8:10], sent[14:-3]
    assert frame(sent[10], station, body, centre=centre, password=password, end=sent[-3]) == sent
    refused = codec.session().feed(sent)
    assert all(isinstance(one, Broken) for one in refused)
    assert refused


def test_queries_are_made_from_names() -> None:
    at = beijing("20170718110258")
    made = query(0x3A, "0011223344", at, identifiers(("PD", 3, 1), ("PJ", 3, 1), ("PT", 3, 1), ("VT", 2, 2), ("Z", 4, 3)),
                 centre=5, password=raw("03E8"))
    assert made == raw(DOWNLINKS["LIBRARY 3A"])
    made = query(0x37, "0012345678", beijing("20170718095404"), password=raw("1234"))
    assert made == raw(DOWNLINKS["LIBRARY 37"])
    assert span("13032410", "13032510", 90, ("Z", 4, 3)).hex() == "1303241013032510041800013039" + "23"


def test_a_report_is_confirmed() -> None:
    session = codec.session()
    (message,) = session.feed(raw(UPLINKS["ARTICLE 32"]))
    assert isinstance(message, Message)
    answer = session.accept(message, beijing("20170718110016"))
    expected = raw(DOWNLINKS["ARTICLE 32"])[:-3] + b"\x04"
    assert answer == expected + crc_16(expected).to_bytes(2)
    assert ESC == 0x1B
    (link,) = session.feed(raw(UPLINKS["MAKER 2F"]))
    assert isinstance(link, Message)
    assert session.accept(link, 0) == b""
    more = one(raw(UPLINKS["LIBRARY 38"]))
    assert session.accept(more, 0)[-3] == ACK


def test_a_picture_is_kept_and_refused_once_and_its_packets_are_asked_for() -> None:
    session = codec.session()
    first, last = (session.feed(raw(picture))[0] for picture in PICTURES)
    assert isinstance(first, Message)
    assert isinstance(last, Message)
    assert [len(codec.decode(message.raw)[1]) for message in (first, last)] == [1, 0]
    assert session.accept(first, 0) == b""
    asked = session.accept(last, 0)
    size = 17 + 3 + 8
    frames = [asked[n : n + size] for n in range(0, len(asked), size)]
    assert [(int.from_bytes(f[14:17]), f[-3]) for f in frames] == [(0x00D000 | n, NAK) for n in range(2, 10)]


def packets(total: int) -> list[bytes]:
    body = stamp(9, beijing("20260101080000")) + raw("F1F1001234567848F0F026010108000418000005" + "3923" + "00001000" * 30)
    size = -(-len(body) // total)
    return [
        frame(0x31, "0012345678", body[n * size : n * size + size], end=3 if n == total - 1 else 0x17, up=True,
              packet=(total, n + 1), password=raw("1234"))
        for n in range(total)
    ]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [0, 0, 2, 1]])
def test_a_message_in_packets_is_read_once(order: list[int]) -> None:
    session, sent = codec.session(), packets(3)
    found, answers = [], b""
    for number in order:
        for message in session.feed(sent[number]):
            assert isinstance(message, Message)
            found += codec.decode(message.raw)[0]
            answers += session.accept(message, beijing("20260101080100"))
    assert len(found) == 30
    assert answers.endswith(frame(0x31, "0012345678", stamp(9, beijing("20260101080100")), password=raw("1234"), end=4,
                                  packet=(3, 3)))


def text(words: str, function: int = 0x32) -> bytes:
    body = f"{stamp(1, beijing('20260601120000'), True).decode()}{words}".encode("gb18030")
    return frame(function, "1234567890", body, centre=0x37, password=raw("ABCD"), end=3, up=True, text=True)


def test_the_ascii_coding() -> None:
    session = codec.session()
    (message,) = session.feed(text("ST 1234567890 H TT 2506011200 Z 12.345 Q -5.678 PT M VT 12.6 ZT 00000010 "))
    assert isinstance(message, Message)
    assert (message.identity, message.credential) == (b"1234567890", b"ABCD")
    assert b"ABCD" not in message.raw
    (sample,), refusals = codec.decode(message.raw)
    assert refusals == []
    assert (sample[0], sample[1]["Z"], sample[1]["Q"], sample[1]["VT"], sample[1]["ZT"]) == (
        beijing("20250601120000"), 12.345, -5.678, 12.6, 16.0)
    assert sample[2] == {"PT": 2}
    answer = session.accept(message, beijing("20260601120000"))
    assert answer[:25] == b"\x01123456789037ABCD328010\x020"
    assert answer[-5:-4] == b"\x04"


def test_ascii_series() -> None:
    sent = text("ST 1234567890 H TT 2205100500 DRN05 005 Z PN05 28.96 0.5 28.97 M 28.98 1 ", 0x31)
    samples, refusals = codec.decode(one(sent).raw)
    assert refusals == []
    assert [found for _, found, worse in samples if not worse] == [{"Z": 28.96, "PN05": 0.5}, {"Z": 28.98, "PN05": 1.0}]
    assert samples[1][0] - samples[0][0] == 300_000_000
    samples, _ = codec.decode(one(text("ST 1234567890 H TT 2205100500 DRP " + "0A" * 11 + "FF PT 1.0 ", 0x34)).raw)
    assert len([1 for _, found, _ in samples if "DRP" in found]) == 12
    (sample,), _ = codec.decode(one(text("RGZS K 12345 水位 1.2 ", 0x35)).raw)
    assert sample[1] == {"RGZS": "K 12345 水位 1.2"}


@pytest.mark.parametrize(("change", "rule"), [
    (lambda f: f[:-1] + bytes((f[-1] ^ 1,)), "crc"),
    (lambda f: f[:12] + b"\x21" + f[13:], "length"),
    (lambda f: f[:13] + b"\x07" + f[14:], "start"),
    (lambda f: f[:-3] + b"\x05" + crc_16(f[:-3] + b"\x05").to_bytes(2), "end"),
])
def test_what_is_no_frame_is_named_and_costs_only_itself(change: Any, rule: str) -> None:
    good = raw(UPLINKS["ARTICLE 30"])
    found = codec.session().feed(change(good) + good + good)
    broken = [b for b in found if isinstance(b, Broken)]
    assert broken[0].refusal.rule == rule
    assert len([m for m in found if isinstance(m, Message)]) == 2
    assert broken[0].raw[8:10] == b"\0\0"


def test_a_series_has_twelve_values_whatever_its_definition_says() -> None:
    """A frame in the toolkit's tests, whose F5 has a wrong definition."""
    sent = raw("7E7E100012345678123434003A020003140612020000F1F1001234567848F0F01406120200F55C0AAA0AAA" + "FF" * 20
               + "391A0027303812129003ADF7")
    samples, refusals = codec.decode(one(sent).raw)
    assert refusals == []
    assert [found["DRZ1"] for _, found, worse in samples if "DRZ1" in found and not worse] == [27.3, 27.3]
    assert {k: v for _, found, _ in samples for k, v in found.items() if k != "DRZ1"} == {"Z": 27.3, "VT": 12.9}


def test_another_stations_data_are_not_read() -> None:
    body = stamp(1, beijing("20260101080000")) + raw("F1F1001234567848F0F026010108003812120 0F1F1008765432148F0F0260101080038121100".replace(" ", ""))
    (sample,), (refusal,) = codec.decode(frame(0x32, "0012345678", body, end=3, up=True))
    assert (sample[1], refusal.field) == ({"VT": 12.0}, "ST")


@pytest.mark.parametrize(("body", "field"), [
    ("F0F0269901080038121200", "TT"), ("F0F02601010800381212", "38"), ("F0F0260101080038 12ABCD", "VT"), ("38001200", "VT"),
    ("F0F02601010800FDF60102", "FD"), ("F0F026010108000418 0000AA", "DR"),
])
def test_what_cannot_be_read_is_named(body: str, field: str) -> None:
    whole = stamp(1, beijing("20260101080000")) + raw("F1F1001234567848" + body)
    _, refusals = codec.decode(frame(0x32, "0012345678", whole, end=3, up=True))
    assert field in [refusal.field for refusal in refusals]


def test_identities() -> None:
    assert codec.identity("12345678") == b"0012345678"
    assert codec.identity("00418d2337") == b"00418D2337"
    with pytest.raises(Invalid, match="station's address"):
        codec.identity("123")
    for sent in UPLINKS.values():
        message = one(raw(sent))
        assert codec.identify(message.raw) == message.identity
        assert codec.masked(raw(sent)) == message.raw
