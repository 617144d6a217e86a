"""The door of GB/T 28181 with a real nats-server. The camera is written here; what clients that are not ours say is in
test_gb28181_house.py (SIPp, tshark)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.access.camera import CODE, PASSWORD, REALM, SERVER, Camera, Said
from tests.access.test_gateway import House, certificate, until
from tulou.access.authenticate import SqlAuthenticator
from tulou.access.batch import Batch
from tulou.access.gateway import Config, Gateway
from tulou.access.gb28181 import digest
from tulou.access.gb28181.door import SipDoor
from tulou.kernel.bus import StreamSpec, free_port
from tulou.kernel.sql import Database

OTHER, OPEN = "34020000001320000002", "34020000001320000003"
ALARM = (
    "<Notify><CmdType>Alarm</CmdType><SN>{sn}</SN><DeviceID>34020000001320000009</DeviceID><AlarmPriority>1</AlarmPriority>"
    "<AlarmMethod>5</AlarmMethod><AlarmTime>2026-04-01T08:00:00</AlarmTime><AlarmDescription>越界</AlarmDescription>"
    "<Longitude>119.3</Longitude><Latitude>26.1</Latitude><Info><AlarmType>6</AlarmType></Info></Notify>"
)


class Site(House):
    """Devices 100 (`CODE`, with a password), 101 (`OTHER`, alike) and 102 (`OPEN`, without)."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        with contextlib.closing(sqlite3.connect(home / "devices.db")) as db, db:
            db.execute("CREATE TABLE device_identities (protocol TEXT, identity TEXT, entity_no INTEGER,"
                       " password_hash TEXT, PRIMARY KEY (protocol, identity))")
            for number, code in enumerate((CODE, OTHER, OPEN)):
                kept = "" if code == OPEN else digest.secret(code, REALM, PASSWORD)
                db.execute("INSERT INTO device_identities VALUES ('gb28181', ?, ?, ?)", (code, 100 + number, kept))

    async def start(self, max_bytes: int = 1 << 30) -> None:
        await super().start(max_bytes)
        await self.bus.ensure([StreamSpec("GB28181", ("tulou.gb28181.>",), 1 << 28, last_only=True),
                               StreamSpec("COMMANDS", ("tulou.commands.>",), 1 << 28)])

    async def door(self, port: int = 0, **changes: Any) -> SipDoor:
        self.database = Database(self.sql_url)
        of = {"port": port or free_port(), "tls_port": 0, "server": SERVER, "realm": REALM, "media": "", **changes}
        cert, key = certificate(self.home) if of["tls_port"] else ("", "")
        config = Config(port=0, gb28181=of, tls_certificate=str(cert), tls_key=str(key))
        gateway = Gateway(config, SqlAuthenticator(self.database), self.bus, self.database)
        await gateway.start()
        self.gateways.append(gateway)
        (door,) = gateway.doors
        assert isinstance(door, SipDoor)
        self.marks: list[dict[str, Any]] = []
        present = gateway.present

        def watch(identity: Any, online: bool, **more: int) -> None:
            present(identity, online, **more)
            self.marks.append({"entity": identity.entity, "online": online, **more})

        gateway.present = watch  # type: ignore[method-assign]
        return door

    async def values(self) -> list[tuple[int, str, float | str]]:
        """Every stored reading: entity, property, value."""
        found: list[tuple[int, str, float | str]] = []
        for message in await self.stored():
            batch = Batch.decode(message)
            found += [(int(entity), batch.props[prop], batch.r_text.get(row, float(value))) for row, (entity, prop, value) in
                      enumerate(zip(batch.r_entity, batch.r_prop, batch.r_val, strict=True))]
        return found


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Site]:
    house = Site(tmp_path)
    await house.start()
    yield house
    await house.stop()


@pytest.fixture
async def door(house: Site) -> SipDoor:
    return await house.door()


@pytest.fixture(params=["udp", "tcp"])
async def camera(door: SipDoor, request: pytest.FixtureRequest) -> AsyncIterator[Camera]:
    made = await Camera(door.ports[0], stream=request.param == "tcp").open()
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def another(door: SipDoor, **changes: Any) -> AsyncIterator[Camera]:
    made = await Camera(door.ports[0], **changes).open()
    try:
        yield made
    finally:
        await made.close()


async def test_registered_kept_alive_and_gone(house: Site, door: SipDoor, camera: Camera) -> None:
    answer = await camera.register()
    assert answer.status == 200
    assert answer["date"].startswith("20")
    assert "T" in answer["date"]  # 9.10: a device sets its clock by it
    assert answer["expires"] == "3600"
    (info,) = [await until_told(camera, "DeviceInfo")]
    assert info["from"].startswith(f"<sip:{SERVER}@")
    await until_told(camera, "Catalog")
    assert (await camera.keepalive()).status == 200
    assert (await camera.keepalive()).status == 200
    await until(lambda: door.ingestor.counters.acked == 1)  # the first says its status, the second nothing new
    assert await house.values() == [(100, "status", "OK")]
    mark = house.marks[-1]
    assert mark["online"]
    assert 180e6 <= mark["gone"] - time.time() * 1e6 <= 200e6  # three keepalives of 60 s
    assert (await camera.register(expires=0)).status == 200
    assert not house.marks[-1]["online"]
    assert house.marks[-1]["gone"] <= time.time() * 1e6
    assert (await camera.keepalive()).status == 403
    assert door.registrations == {}


async def until_told(camera: Camera, command: str, times: int = 1) -> Any:
    await until(lambda: sum(said.text("CmdType") == command for said in camera.told) >= times)
    return [said for said in camera.told if said.text("CmdType") == command][-1]


@pytest.mark.parametrize("qop", [False, True])
async def test_wrong_passwords_and_strangers_are_refused_alike(house: Site, door: SipDoor, qop: bool) -> None:
    async with another(door) as right, another(door, code="34020000001320009999") as stranger:
        assert (await right.register(password="guess", qop=qop)).status == 403
        assert (await stranger.register(qop=qop)).status == 403
        assert (door.denied, door.unknown, list(door.unknown_codes)) == (1, 1, ["34020000001320009999"])
        assert door.registrations == {}
        assert (await right.register(qop=qop)).status == 200


async def test_a_device_without_password_is_not_challenged(house: Site, door: SipDoor) -> None:
    async with another(door, code=OPEN) as camera:
        assert (await camera.send(camera.registering(3600))).status == 200


async def test_guessing_is_throttled(house: Site, door: SipDoor) -> None:
    async with another(door) as camera:
        for _ in range(20):
            assert (await camera.register(password="guess")).status == 403
        challenge = (await camera.send(camera.registering(3600)))["www-authenticate"]
        with pytest.raises(TimeoutError):  # even the right one has to wait now
            await camera.send(camera.registering(3600, camera.credentials(challenge)), seconds=0.3)
        assert door.throttled >= 1


async def test_an_edition_of_2022_is_offered_sha_256(house: Site, door: SipDoor) -> None:
    async with another(door) as camera:
        camera.version = "3.0"
        first = await camera.send(camera.registering(3600))
        offers = first.all("www-authenticate")
        assert ["SHA-256" in offers[0], "MD5" in offers[1]] == [True, True]
        assert (await camera.send(camera.registering(3600, camera.credentials(offers[0], qop=True)))).status == 200


async def test_what_was_overheard_cannot_be_said_again(house: Site, door: SipDoor) -> None:
    async with another(door) as camera, another(door) as thief:
        for qop in (False, True):
            challenge = (await camera.send(camera.registering(3600)))["www-authenticate"]
            credentials = camera.credentials(challenge, qop=qop)
            assert (await camera.send(camera.registering(3600, credentials))).status == 200
            again = await thief.send(thief.registering(0, credentials))
            assert (again.status, "stale=true" in again["www-authenticate"]) == (401, True)
        # with a count the same nonce may be used further
        assert (await camera.send(camera.registering(3600, camera.credentials(challenge, qop=True, nc="00000002")))).status == 200
        assert (await camera.send(camera.registering(3600, camera.credentials(challenge, qop=True, nc="00000002")))).status == 401
        foreign = challenge.replace('nonce="', 'nonce="f')
        assert (await camera.send(camera.registering(3600, camera.credentials(foreign)))).status == 401
        assert list(door.registrations) == [CODE]


async def test_an_alarm_is_answered_when_it_is_durable_and_stored_once(house: Site, door: SipDoor, camera: Camera) -> None:
    await camera.register()
    body = ALARM.format(sn=7)
    answer = await camera.say(body, call_id="c1", cseq="77", branch="z9hG4bKsame")
    assert answer.status == 200
    assert (await camera.say(body, call_id="c1", cseq="77", branch="z9hG4bKsame")).status == 200
    found = {name: value for _, name, value in await house.values()}
    assert found == {
        "alarmChannel": "34020000001320000009", "alarmPriority": 1, "alarmMethod": 5, "alarmTime": "2026-04-01T08:00:00",
        "alarmDescription": "越界", "alarmLongitude": 119.3, "alarmLatitude": 26.1, "alarmType": 6,
    }
    (raw,) = await house.raws()
    assert raw.startswith(b"MESSAGE sip:")
    assert "越界".encode("gb18030") in raw
    assert door.repeats == 1
    (await camera.say(ALARM.format(sn=8), method="NOTIFY", headers=("Event: presence", "Subscription-State: active")))
    assert len(await house.raws()) == 2


async def test_nothing_is_answered_while_the_bus_is_away(house: Site, door: SipDoor) -> None:
    async with another(door) as camera:
        await camera.register()
        await house.nats.stop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(camera.say(ALARM.format(sn=1), call_id="c2", cseq="90", branch="z9hG4bKaway"), 1.5)
        await house.nats.start()
        assert (await camera.say(ALARM.format(sn=1), call_id="c2", cseq="90", branch="z9hG4bKaway")).status == 200
        assert len(await house.raws()) == 1


async def test_a_restart_keeps_registrations(house: Site, door: SipDoor) -> None:
    async with another(door) as camera:
        await camera.register()
        await camera.keepalive()
        port = door.ports[0]
        await house.gateways.pop().close()
        second = await house.door(port)
        assert list(second.registrations) == [CODE]
        assert (await camera.keepalive()).status == 200  # it goes on as if nothing had been
        assert second.registrations[CODE].awake


async def test_presence_ends_after_three_keepalives_and_with_the_registration(house: Site, door: SipDoor) -> None:
    async with another(door) as camera:
        await camera.register(expires=100)
        registration = door.registrations[CODE]
        await camera.keepalive()
        assert registration.until == int(registration.expires * 1e6)  # 100 s come before 190
        registration.expires = time.time() + 9999
        registration.heard -= 191_000_000
        door.gateway.tick = 5
        door.sweep()
        assert (registration.awake, registration.until < time.time() * 1e6) == (False, True)
        await camera.keepalive()
        assert (registration.awake, house.marks[-1]["gone"] > time.time() * 1e6) == (True, True)
        registration.beat -= 300  # it shows that it speaks each 300 s: then 900 are its patience
        await camera.keepalive()
        assert house.marks[-1]["gone"] > (time.time() + 900) * 1e6
        registration.expires = time.time() - 1
        assert (await camera.keepalive()).status == 403  # also before it was swept away
        door.sweep()
        assert door.registrations == {}
        assert house.marks[-1]["online"] is False


async def test_another_address_is_not_the_device(house: Site, door: SipDoor) -> None:
    async with another(door) as camera:
        await camera.register()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            thief.bind(("127.0.0.2", 0))
            thief.setblocking(False)
            thief.sendto(camera.build("MESSAGE", ["Content-Type: Application/MANSCDP+xml"], ALARM.encode("gb18030")), ("127.0.0.1", door.ports[0]))
            async with asyncio.timeout(10):
                assert (await asyncio.get_running_loop().sock_recv(thief, 2000)).startswith(b"SIP/2.0 403")
        assert door.ingestor.counters.accepted == 0


async def test_answers_go_where_the_datagram_came_from(house: Site, door: SipDoor) -> None:
    """Via and Contact name somebody else, who hears nothing; and an answer is not much longer than the question."""
    async with another(door) as camera:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as victim:
            victim.bind(("127.0.0.1", 0))
            victim.setblocking(False)
            here = ":".join(map(str, victim.getsockname()))
            question = camera.registering(3600, via=here)
            answer = await camera.send(question)
            assert (answer.status, f"received={camera.here[0]};rport={camera.here[1]}" in answer["via"]) == (401, True)
            assert len("\r\n".join(f"{n}: {t}" for n, t in answer.headers)) < len(question) + 250
            with pytest.raises(BlockingIOError):
                victim.recv(2000)


async def test_garbage_costs_nothing_and_xml_bombs_are_refused(house: Site, door: SipDoor, camera: Camera) -> None:
    await camera.register()
    bomb = '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><Notify><CmdType>Alarm</CmdType><DeviceID>&b;</DeviceID></Notify>'
    for body, why in ((bomb, "DTD"), ("<Notify><CmdType>", "well-formed"), ("<a/>", "root"), ("", "well-formed"),
                      ("<Notify>" * 13 + "</Notify>" * 13, "deeper"),
                      (f"<Notify><CmdType>Dance</CmdType><DeviceID>{CODE}</DeviceID></Notify>", "command type")):
        answer = await camera.say(body)
        assert (answer.status, why in answer["warning"]) == (400, True), answer["warning"]
    letters = await house.dead()
    assert len(letters) == 6
    assert all(letter["protocol"] == "gb28181" and letter["entity"] == 100 for letter in letters)
    if not camera.stream:
        for rubbish in (b"\0" * 60_000, b"GET / HTTP/1.1\r\n\r\n", b"REGISTER", b"\r\n\r\n", camera.build("MESSAGE", [])[:120],
                        camera.build("MESSAGE", [f"X-{n}: y" for n in range(200)])):
            await camera.write(rubbish)
    assert (await camera.keepalive()).status == 200
    assert door.broken >= (0 if camera.stream else 4)


async def test_streams_that_are_not_sip_end(house: Site, door: SipDoor) -> None:
    for rubbish in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + b"\0" * 800, b"REGISTER sip:a@b SIP/2.0\r\nX: " + b"y" * 20_000,
                    b"MESSAGE sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=b\r\nFrom: <sip:a@b>\r\nTo: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 MESSAGE\r\n"
                    b"Content-Length: 99999999\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", door.ports[0])
        writer.write(rubbish)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", door.ports[0])
    writer.write(b"REGISTER sip:a")  # a message that does not end
    await until(lambda: any(link.begun for link in door.links))
    door.gateway.tick += 40
    door.sweep()
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
    assert door.timed_out == 1


@pytest.mark.slow
async def test_a_hundred_thousand_half_registrations_hold_nothing(house: Site, door: SipDoor) -> None:
    """From as many forged sources; afterwards the device registers as ever."""
    async with another(door) as camera:
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # hears the answers, and reads none
        sink.bind(("0.0.0.0", 0))
        port = sink.getsockname()[1]
        known = camera.registering(3600)
        for number in range(100_000):
            octets = number.to_bytes(3)
            code = f"3402000000118{number:07d}"
            door.datagram_received(known.replace(CODE.encode(), code.encode()), (f"127.{octets[0]}.{octets[1]}.{octets[2]}", port))
            if number % 10_000 == 0:
                await asyncio.sleep(0)
        assert (len(door.registrations), len(door.recent), len(door.nonces._used)) == (0, 0, 0)
        assert len(door.strangers._spent) <= 10_000
        assert len(door._asking) <= 500
        await until(lambda: not door._asking)
        sink.close()
        assert (await camera.register()).status == 200


async def test_a_flood_from_one_source_is_answered_little(house: Site, door: SipDoor) -> None:
    async with another(door) as camera:
        data = camera.build("OPTIONS", [])
        before = door.throttled
        for _ in range(3000):
            door.datagram_received(data, ("127.0.0.9", 5060))
        assert door.throttled - before >= 2000


async def test_a_device_that_changed_registers_again(house: Site, door: SipDoor) -> None:
    async with another(door) as camera:
        await camera.register()
        door.changed("d0")  # its name, say
        await asyncio.sleep(0.1)
        assert (await camera.keepalive()).status == 200
        with contextlib.closing(sqlite3.connect(house.home / "devices.db")) as db, db:
            db.execute("UPDATE devices SET status = 'disabled' WHERE entity_no = 100")
        door.changed("d0")
        await until(lambda: not door.registrations)
        assert (await camera.keepalive()).status == 403
        assert (await camera.register()).status == 403


async def test_over_tls_and_with_the_expiry_in_contact(house: Site) -> None:
    door = await house.door(tls_port=-1)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", door.ports[1], ssl=context)
    camera = Camera(door.ports[0], OPEN, stream=True)
    camera.here = ("127.0.0.1", 5061)
    for seconds, left in ((120, 1), (0, 0)):
        writer.write(camera.build("REGISTER", [f"m: <sip:{OPEN}@127.0.0.1>;expires={seconds}"]))
        async with asyncio.timeout(20):
            said = Said(await reader.readuntil(b"\r\n\r\n"))
            while not said.status:  # what the house asks a new device
                await reader.readexactly(int(said["content-length"]))
                assert "SIP/2.0/TLS" in said["via"]
                said = Said(await reader.readuntil(b"\r\n\r\n"))
        assert (said.status, said["expires"], len(door.registrations)) == (200, str(seconds), left)
    writer.close()
