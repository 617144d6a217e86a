"""AIS: what published sentences mean, what is wrong and how that is named, and ships that pyais encodes, over TCP and UDP.

The sentences marked GPSD are of gpsd's `test/sample.aivdm` (BSD), with the values that its comments give; each was checked there with
other decoders (noaadata, Maritec). Of 24 and 27 it gives none: those are what pyais 3.3 reads, and so is the hour of arrival
in 5, of which the comment says 16."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.access.test_field import Fields, Station
from tests.access.test_gateway import until
from tulou.access import datagrams
from tulou.access.batch import BAD, UNCERTAIN, Batch
from tulou.access.field import FieldDoor
from tulou.access.protocols import Broken, Message, xor
from tulou.access.protocols.ais import HELD_GROUPS, HELD_SENTENCES, codec
from tulou.access.supervise import gateway_config
from tulou.access.telemetry import NAN
from tulou.kernel.errors import Invalid
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

MOORED = b"!AIVDM,1,1,,B,177KQJ5000G?tO`K>RA1wUbN0TKH,0*5C"  # of gpsd's text on AIVDM
DIADEM = (b"!AIVDM,2,1,1,A,55?MbV02;H;s<HtKR20EHE:0@T4@Dn2222222216L961O5Gf0NSQEp6ClRp8,0*1C", b"!AIVDM,2,2,1,A,88888888880,2*25")
AID = (b"!AIVDM,2,1,5,B,E1mg=5J1T4W0h97aRh6ba84<h2d;W:Te=eLvH50```q,0*46", b"!AIVDM,2,2,5,B,:D44QDlp0C1DU00,2*36")

GPSD: dict[str, tuple[tuple[bytes, ...], bytes, dict[str, Any], dict[str, int]]] = {
    "1 turning left": ((b"!AIVDM,1,1,,A,15RTgt0PAso;90TKcjM8h6g208CQ,0*4A",), b"371798000", {
        "navigationStatus": 0, "rateOfTurn": -10, "sog": 12.3, "positionAccuracy": 1, "longitude": -123.395383333,
        "latitude": 48.38163333333, "cog": 224, "heading": 215}, {"rateOfTurn": UNCERTAIN}),
    "1 without turn and heading": ((b"!AIVDM,1,1,,A,16SteH0P00Jt63hHaa6SagvJ087r,0*42",), b"440348000", {
        "navigationStatus": 0, "rateOfTurn": NAN, "sog": 0, "positionAccuracy": 0, "longitude": -70.7582,
        "latitude": 43.08015, "cog": 93.4, "heading": NAN}, {"rateOfTurn": BAD, "heading": BAD}),
    "2": ((b"!AIVDM,1,1,,B,25Cjtd0Oj;Jp7ilG7=UkKBoB0<06,0*60",), b"356302000", {
        "navigationStatus": 0, "rateOfTurn": 10, "sog": 13.9, "positionAccuracy": 0, "longitude": -71.626143333,
        "latitude": 40.392358333, "cog": 87.7, "heading": 91}, {"rateOfTurn": UNCERTAIN}),
    "3": ((b"!AIVDM,1,1,,A,38Id705000rRVJhE7cl9n;160000,0*40",), b"563808000", {
        "navigationStatus": 5, "rateOfTurn": 0, "sog": 0, "positionAccuracy": 1, "longitude": -76.327533333, "latitude": 36.91,
        "cog": 252, "heading": 352}, {}),
    "4": ((b"!AIVDM,1,1,,A,403OviQuMGCqWrRO9>E6fE700@GO,0*4D",), b"003669702", {
        "positionAccuracy": 1, "longitude": -76.35236166666667, "latitude": 36.88376666666667}, {}),
    "5": (DIADEM, b"351759000", {
        "imo": "9134270", "callSign": "3FOF8", "shipName": "EVER DIADEM", "shipType": 70, "toBow": 225, "toStern": 70, "toPort": 1,
        "toStarboard": 31, "eta": "05-15T14:00Z", "draught": 12.2, "destination": "NEW YORK"}, {}),
    "9": ((b"!AIVDM,1,1,,B,91b55wi;hbOS@OdQAC062Ch2089h,0*30",), b"111232511", {
        "altitude": 303, "sog": 42, "positionAccuracy": 0, "longitude": -6.278843333, "latitude": 58.144, "cog": 154.5}, {}),
    "11": ((b"!AIVDM,1,1,,B,;4R33:1uUK2F`q?mOt@@GoQ00000,0*5D,s28089,d-103,T39.44353985,x147521,r08TPHI1,1242958962",),
           b"304137000", {"positionAccuracy": 1, "longitude": -94.407683333, "latitude": 28.409116667}, {}),
    "18": ((b"!AIVDM,1,1,,A,B52K>;h00Fc>jpUlNV@ikwpUoP06,0*4C",), b"338087471", {
        "sog": 0.1, "positionAccuracy": 0, "longitude": -74.072131667, "latitude": 40.68454, "cog": 79.6, "heading": NAN},
        {"heading": BAD}),
    "19": ((b"!AIVDM,1,1,,B,C5N3SRgPEnJGEBT>NhWAwwo862PaLELTBJ:V00000000S0D:R220,0*0B",), b"367059850", {
        "sog": 8.7, "positionAccuracy": 0, "longitude": -88.810391667, "latitude": 29.543695, "cog": 335.9, "heading": NAN,
        "shipName": "CAPT.J.RIMES", "shipType": 70, "toBow": 5, "toStern": 21, "toPort": 4, "toStarboard": 4}, {"heading": BAD}),
    "21": (AID, b"123456789", {
        "aidType": 20, "aidName": "CHINA ROSE MURPHY EXPRESS ALERT", "positionAccuracy": 0, "longitude": -122.698591667,
        "latitude": 47.9206183333, "toBow": 5, "toStern": 5, "toPort": 5, "toStarboard": 5, "offPosition": 0, "virtual": 0}, {}),
    "24A": ((b"!AIVDM,1,1,,A,H42O0U0Lu`@Dno4000000000000,2*18",), b"271040660", {"shipName": "GOZDEM-1"}, {}),
    "24B": ((b"!AIVDM,1,1,,A,H42O0U4Ui3hhhlmI=mmhl000H060,0*2E",), b"271040660", {
        "shipType": 37, "vendor": "1C0", "callSign": "YM5504", "toBow": 0, "toStern": 24, "toPort": 0, "toStarboard": 6}, {}),
    "27": ((b"!AIVDM,1,1,,B,KC5E2b@U19PFdLbMuc5=ROv62<7m,0*16",), b"206914217", {
        "positionAccuracy": 0, "navigationStatus": 2, "longitude": 137.023333333, "latitude": 4.84, "sog": 57, "cog": 167}, {}),
}


def line(words: bytes) -> bytes:
    return b"!" + words + b"*%02X\r\n" % xor(words)


def tagged(tag: bytes, sentence: bytes) -> bytes:
    return b"\\" + tag + b"*%02X\\" % xor(tag) + sentence


def fed(*data: bytes) -> list[Message | Broken]:
    session = codec.session()
    return [one for part in data for one in session.feed(part)]


def values(raw: bytes) -> dict[str, Any]:
    samples, refusals = codec.decode(raw)
    assert refusals == []
    ((_, found, _),) = samples
    return found


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-6, nan_ok=True)), name


@pytest.mark.parametrize("name", sorted(GPSD))
def test_a_published_sentence_means_what_was_published(name: str) -> None:
    sentences, mmsi, wanted, worse = GPSD[name]
    (message,) = fed(*(sentence + b"\r\n" for sentence in sentences))
    assert isinstance(message, Message)
    assert message.identity == mmsi == codec.identify(message.raw)
    assert message.raw == b"".join(sentence + b"\r\n" for sentence in sentences)
    samples, refusals = codec.decode(message.raw)
    assert refusals == []
    ((_, found, quality),) = samples
    same(found, wanted)
    assert quality == (worse or None)


def test_the_text_of_gpsd_on_a_moored_ship() -> None:
    found = values(MOORED + b"\r\n")
    assert (found["navigationStatus"], found["sog"], found["cog"], found["heading"]) == (5, 0, 51, 181)
    assert (round(found["longitude"], 6), round(found["latitude"], 6)) == (-122.345833, 47.582833)


def test_a_base_station_says_its_own_time_and_others_are_timed_by_their_tag_block() -> None:
    ((at, _, _),) = codec.decode(GPSD["4"][0][0] + b"\r\n")[0]
    assert at == 1_179_172_659_000_000  # 2007-05-14T19:57:39Z
    ((at, _, _),) = codec.decode(b"!AIVDM,1,1,,A,402Fha0000Htt<tSF0l4Q@000d20,0*65\r\n")[0]  # GPSD: time not available
    assert at == 0
    for tag, wanted in ((b"s:FZ01,c:1775001600", 1_775_001_600_000_000), (b"c:1775001600123", 1_775_001_600_123_000), (b"s:FZ01", 0)):
        ((at, _, _),) = codec.decode(tagged(tag, MOORED) + b"\r\n")[0]
        assert at == wanted
    wrong = tagged(b"c:1775001600", MOORED).replace(b"c:1", b"c:2")
    assert codec.decode(wrong + b"\r\n")[0][0][0] == 0
    guard = MOORED + b",s28089,d-103,T39.44353985,x147521,r08TPHI1,1242958962\r\n"  # fields as in GPSD
    assert codec.decode(guard)[0][0][0] == 1_242_958_962_000_000


def test_a_receiver_is_named_by_its_tag_block() -> None:
    receiver, ship = fed(tagged(b"s:FZ01,c:1775001600", MOORED) + b"\r\n")
    assert isinstance(receiver, Message)
    assert isinstance(ship, Message)
    assert (receiver.identity, receiver.kept) == (b"s:FZ01", False)
    assert (ship.identity, ship.kept) == (b"477553000", True)
    assert codec.identify(ship.raw) == b"477553000"


def test_parts_find_together_between_others() -> None:
    """GPSD: two messages of several sentences at once, on channels A and B."""
    found = fed(
        b"!AIVDM,2,1,6,B,542M92h00001@<7;?G0PD4i@R0<tqA8tj37>220o0h:2240Ht50000000000,0*3B\r\n",
        b"!AIVDM,2,1,2,A,542M92h00001@<7;?G0PD4i@R0<tqA8tj37>220o0h:2240Ht500000000000000,0*3C\r\n",
        MOORED + b"\r\n", b"!AIVDM,2,2,2,A,0000002,2*24\r\n", b"!AIVDM,2,2,6,B,00000000000,2*21\r\n",
    )
    assert [one.identity for one in found if isinstance(one, Message)] == [b"477553000", b"271010059", b"271010059"]
    assert values(found[1].raw)["shipName"] == values(found[2].raw)["shipName"]


def test_parts_that_do_not_come_are_given_up() -> None:
    first, second = (sentence + b"\r\n" for sentence in DIADEM)
    (orphan,) = fed(second)
    assert isinstance(orphan, Broken)
    assert orphan.refusal.rule == "part"
    lost, whole = fed(first, first, second)
    assert isinstance(lost, Broken)
    assert isinstance(whole, Message)
    found = fed(first, *[MOORED + b"\r\n"] * (HELD_SENTENCES - 1), second)
    assert isinstance(found[-1], Message)
    assert found[-1].identity == b"351759000"
    waits = fed(first, *[MOORED + b"\r\n"] * HELD_SENTENCES, line(b"AIVDM,3,1,7,A,5000,0"), second)
    assert [one.raw for one in waits if isinstance(one, Broken)] == [first, second]
    crowd = fed(*(line(b"AIVDM,3,1,%d,%s,5000,0" % (n % 10, channel)) for channel in (b"A", b"B") for n in range(10)))
    assert len(crowd) == 20 - HELD_GROUPS


@pytest.mark.parametrize(("sentence", "code"), [
    (MOORED.replace(b"*5C", b"*5D"), "checksum"), (b"!AIVDM,2,2,1,B,00000000000,2*26", "part"),
    (line(b"AIVDM,1,2,,A,177KQJ5000G?tO`K>RA1wUbN0TKH,0").strip(), "part"), (b"!AIVDM,1,1,,B,177KQJ5000G?tO`K", "sentence"),
    (line(b"AIVDM,1,1,,A,177,0").strip(), "length"), (line(b"AIVDM,1,1,,A,\x7f77KQJ5000G?tO`K,0").strip(), "sentence"),
])
def test_what_is_broken_is_named(sentence: bytes, code: str) -> None:
    (broken,) = fed(sentence + b"\r\n")
    assert isinstance(broken, Broken)
    assert broken.refusal.rule == code
    assert broken.raw == sentence + b"\r\n"


def test_other_sentences_are_passed_over_and_what_is_none_is_counted() -> None:
    session = codec.session()
    alarm = b"AIALR,000000.00,007,V,V,AIS: UTC Lost"
    data = b"$" + alarm + b"*%02X\r\n" % xor(alarm) + MOORED + b"\r\n" + b"hello\r\n" + line(b"AIVSI,r003669945,1,013536.9,1,-99,0")
    assert [one.raw for one in session.feed(data)] == [MOORED + b"\r\n"]
    assert session.skipped == 5
    session.feed(b"x" * 5000)
    assert session.unfinished <= 1024
    assert [one.raw for one in session.feed(MOORED + b"\r\n")] == [MOORED + b"\r\n"]


def six(bits: str) -> bytes:
    codes = [int(bits[at : at + 6].ljust(6, "0"), 2) for at in range(0, len(bits), 6)]
    return bytes(code + 48 if code < 40 else code + 56 for code in codes)


def position(kind: int = 1, lon: int = 0, lat: int = 0, second: int = 7, size: int = 168) -> bytes:
    bits = f"{kind:06b}{0:02b}{412000001:030b}{15:04b}{0:08b}{1023:010b}0{lon & (1 << 28) - 1:028b}{lat & (1 << 27) - 1:027b}"
    bits = f"{bits}{3600:012b}{511:09b}{second:06b}".ljust(168, "0")
    payload = six(bits[:size])
    return line(b"AIVDM,1,1,,A,%s,%d" % (payload, len(payload) * 6 - size))


def test_not_available_is_no_number() -> None:
    ((_, found, worse),), refusals = codec.decode(position(lon=181 * 600_000, lat=91 * 600_000))
    assert refusals == []
    none = {"navigationStatus", "sog", "longitude", "latitude", "cog", "heading"}
    assert {name for name, value in found.items() if isinstance(value, float) and math.isnan(value)} == none
    assert worse == dict.fromkeys(none, BAD)


@pytest.mark.parametrize(("second", "quality"), [(61, UNCERTAIN), (62, UNCERTAIN), (63, BAD), (60, None), (7, None)])
def test_the_second_says_how_a_position_was_made(second: int, quality: int | None) -> None:
    ((_, _, worse),), _ = codec.decode(position(lon=1, lat=1, second=second))
    assert (worse or {}).get("latitude") == (worse or {}).get("longitude") == quality


def test_a_place_beyond_the_world_and_a_message_that_is_too_short_are_refused_and_the_rest_is_read() -> None:
    ((_, found, _),), (refusal,) = codec.decode(position(lon=-185 * 600_000, lat=26 * 600_000))
    assert (refusal.rule, refusal.field) == ("range", "longitude")
    assert found["latitude"] == 26
    assert "longitude" not in found
    ((_, found, _),), (refusal,) = codec.decode(position(lon=600_000, size=110))
    assert refusal.rule == "length"
    assert found["longitude"] == 1
    assert codec.decode(position(kind=8)) == ([], [])
    assert codec.decode(position(kind=40))[1][0].rule == "message"


@pytest.mark.parametrize("text", ["41200000", "4120000011", "s:", "s:a,b", "x", "s:" + "a" * 16])
def test_a_wrong_identity_is_named(text: str) -> None:
    with pytest.raises(Invalid):
        codec.identity(text)
    assert codec.identity("412000001") == b"412000001"
    assert codec.identity("s:FZ-01") == b"s:FZ-01"


# -- the door

SHIPS = {"412000001": 100, "412000002": 101, "s:FZ01": 102}
AIS = {"ais": {"codec": "tulou.access.protocols.ais", "port": -1, "tls_port": 0, "udp_port": -1}}


class Harbour(Fields):
    """The bus and the tables, with two ships and a receiver."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        with contextlib.closing(sqlite3.connect(home / "devices.db")) as db, db:
            db.executemany("INSERT INTO device_identities VALUES ('ais', ?, ?, '')", SHIPS.items())

    async def receive(self) -> FieldDoor:
        return await self.door(fields=AIS)

    async def latest(self) -> dict[tuple[int, str], Any]:
        found: dict[tuple[int, str], Any] = {}
        for message in await self.stored() if (await self.bus.js.stream_info("READINGS")).state.messages else []:
            batch = Batch.decode(message)
            for row, (entity, prop, value) in enumerate(zip(batch.r_entity.tolist(), batch.r_prop.tolist(), batch.r_val.tolist(), strict=True)):
                found[entity, batch.props[prop]] = batch.r_text.get(row, value)
        return found


@pytest.fixture
async def harbour(tmp_path: Path) -> AsyncIterator[Harbour]:
    harbour = Harbour(tmp_path)
    await harbour.start()
    yield harbour
    await harbour.stop()


async def sail(how: str, port: int, *messages: dict[str, Any]) -> None:
    """What pyais encodes, sent by its own process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.conformance.ships", how, str(port), stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate("\n".join(map(json.dumps, messages)).encode())
    assert process.returncode == 0, errors.decode()


VOYAGE: list[dict[str, Any]] = [
    {"type": 1, "mmsi": 412000001, "status": 0, "turn": 0, "speed": 12.3, "lon": 119.65, "lat": 26.05, "course": 87.5, "heading": 88,
     "second": 12},
    {"type": 5, "seq": 3, "mmsi": 412000001, "imo": 9134270, "callsign": "BVAB", "shipname": "FU ZHOU", "ship_type": 70, "to_bow": 100,
     "to_stern": 20, "to_port": 8, "to_starboard": 9, "month": 4, "day": 1, "hour": 8, "minute": 30, "draught": 7.5,
     "destination": "XIAMEN"},
    {"type": 18, "mmsi": 412000002, "speed": 5.5, "lon": 118.1, "lat": 24.4, "course": 200.1, "heading": 201, "second": 3},
    {"type": 24, "partno": 0, "mmsi": 412000002, "shipname": "MIN YU 1"},
    {"type": 24, "partno": 1, "mmsi": 412000002, "ship_type": 30, "callsign": "BWXY", "to_bow": 10, "to_stern": 5, "to_port": 2,
     "to_starboard": 3},
    {"type": 1, "mmsi": 999000001, "lon": 119.0, "lat": 25.0},
    {"type": 27, "mmsi": 412000001, "status": 0, "speed": 12, "lon": 119.7, "lat": 26.1, "course": 87},
]


@pytest.mark.parametrize("how", ["tcp", "udp"])
async def test_ships_that_pyais_encodes(harbour: Harbour, how: str) -> None:
    door = await harbour.receive()
    await sail(how, door.ports[how == "udp"], *VOYAGE)
    await until(lambda: door.stats()["acked"] == 6 and door.stats()["unknown"] == 1)
    found = await harbour.latest()
    wanted = {
        (100, "sog"): 12, (100, "cog"): 87, (100, "heading"): 88, (100, "longitude"): 119.7, (100, "latitude"): 26.1,
        (100, "rateOfTurn"): 0, (100, "navigationStatus"): 0, (100, "shipType"): 70, (100, "toBow"): 100, (100, "toStern"): 20,
        (100, "toPort"): 8, (100, "toStarboard"): 9, (100, "draught"): 7.5, (101, "sog"): 5.5, (101, "cog"): 200.1,
        (101, "heading"): 201, (101, "longitude"): 118.1, (101, "latitude"): 24.4, (101, "shipType"): 30, (101, "toBow"): 10,
    }
    assert {key: found[key] for key in wanted} == pytest.approx(wanted, abs=1e-3)
    texts = {(100, "imo"): "9134270", (100, "callSign"): "BVAB", (100, "shipName"): "FU ZHOU", (100, "destination"): "XIAMEN",
             (100, "eta"): "04-01T08:30Z", (101, "shipName"): "MIN YU 1", (101, "callSign"): "BWXY"}
    assert {key: found[key] for key in texts} == texts
    assert (await harbour.bus.js.stream_info("DEAD")).state.messages == 0


async def test_strangers_are_counted_kept_nowhere_and_end_no_connection(harbour: Harbour) -> None:
    door = await harbour.receive()
    station = await Station.connect(door.ports[0])
    for number in range(300):
        bits = f"{1:06b}00{300_000_000 + number:030b}".ljust(168, "0")
        station.send(line(b"AIVDM,1,1,,A,%s,0" % six(bits)))
    station.send(position(lon=600_000, lat=600_000))
    await until(lambda: door.stats()["acked"] == 1)
    assert (door.stats()["unknown"], door.stats()["throttled"], door.stats()["connections"]) == (300, 0, 1)
    assert (await harbour.bus.js.stream_info("DEAD")).state.messages == 0


async def test_a_receiver_is_present_by_its_tag_block(harbour: Harbour) -> None:
    door = await harbour.receive()
    station = await Station.connect(door.ports[0])
    station.send(tagged(b"s:FZ01,c:1775001600", MOORED) + b"\r\n")
    await until(lambda: "d2" in door.speaking and door.stats()["unknown"] == 1)
    assert (await harbour.bus.js.stream_info("READINGS")).state.messages == 0


async def test_addresses_over_udp_are_bounded_and_the_quietest_makes_room(harbour: Harbour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "MOST", 3)
    door = await harbour.receive()
    for count in range(1, 6):
        await sail("udp", door.ports[1], VOYAGE[0])
        await until(lambda count=count: door.stats()["acked"] == count)  # type: ignore[misc]
    assert len(door.connections) == 3


async def test_only_what_receivers_relay_comes_over_udp(tmp_path: Path) -> None:
    house = House(Settings(home=tmp_path, field_udp_ports="hj212=5212"))
    with pytest.raises(Invalid) as refused:
        gateway_config(house)
    assert (refused.value.field, refused.value.value) == ("field_udp_ports", "hj212")
