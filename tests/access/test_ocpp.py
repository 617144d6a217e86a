"""The OCPP door with a real nats-server: what is answered when, and what strangers and broken stations cost."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import sqlite3
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import argon2
import orjson
import pytest
import websockets
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.frames import Frame, Opcode

from tests.access.test_gateway import TOKENS, House, certificate, until
from tulou.access.authenticate import SqlAuthenticator, Throttle
from tulou.access.batch import Batch
from tulou.access.courier import Call as Command
from tulou.access.gateway import Config, Gateway
from tulou.access.ocpp import door as ocpp_door
from tulou.access.ocpp.door import OcppDoor
from tulou.access.protocols.ocpp import kept
from tulou.kernel.bus import StreamSpec, free_port
from tulou.kernel.errors import Invalid
from tulou.kernel.sql import Database

PASSWORD = "a-password-of-16-signs"
KEY = bytes(range(1, 21))
AT = "2026-04-01T00:00:00Z"


class Stations(House):
    """Devices 100 (password), 101 (a binary key), 102 (its access token) with identities of OCPP."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        hasher = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
        with contextlib.closing(sqlite3.connect(home / "devices.db")) as db, db:
            db.execute("CREATE TABLE device_identities (protocol TEXT, identity TEXT, entity_no INTEGER,"
                       " password_hash TEXT, PRIMARY KEY (protocol, identity))")
            for number, secret in enumerate((PASSWORD, KEY.hex(), "")):
                db.execute("INSERT INTO device_identities VALUES ('ocpp', ?, ?, ?)",
                           (f"CP-{number}", 100 + number, hasher.hash(secret) if secret else ""))

    async def door(self, **changes: Any) -> OcppDoor:
        self.database = Database(self.sql_url)
        config = Config(port=0, **{"ocpp_port": -1, "connect_timeout": 2.0, **changes})
        gateway = Gateway(config, SqlAuthenticator(self.database), self.bus, self.database)
        await gateway.start()
        self.gateways.append(gateway)
        (door,) = gateway.doors
        assert isinstance(door, OcppDoor)
        return door


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Stations]:
    house = Stations(tmp_path)
    await house.start()
    yield house
    await house.stop()


def basic(user: str, password: str | bytes) -> dict[str, str]:
    secret = password.encode() if isinstance(password, str) else password
    return {"Authorization": "Basic " + base64.b64encode(user.encode() + b":" + secret).decode()}


def connect(port: int, identity: str = "CP-0", password: str | bytes = PASSWORD, *, version: str = "1.6", user: str = "", path: str = "",
            scheme: str = "ws", **more: Any) -> Any:
    options: dict[str, Any] = {"subprotocols": [f"ocpp{version}"], "additional_headers": basic(user or identity, password), **more}
    return websockets.connect(f"{scheme}://127.0.0.1:{port}{path or '/ocpp/' + identity}", **options)


def status(number: int, connector: int = 1) -> bytes:
    at = f"2026-04-01T00:{number // 60 % 60:02}:{number % 60:02}Z"
    return orjson.dumps([2, f"m{number}", "StatusNotification", {
        "connectorId": connector, "errorCode": "NoError", "status": "Available", "timestamp": at,
    }])


async def ask(station: Any, text: bytes | str) -> Any:
    await station.send(text if isinstance(text, str) else text.decode())
    async with asyncio.timeout(20):
        return orjson.loads(await station.recv())


async def refused(opening: Any) -> int:
    """The HTTP status with which a handshake is refused."""
    with pytest.raises(InvalidStatus) as info:
        async with opening:
            pass
    return int(info.value.response.status_code)


async def closed(station: Any) -> int:
    """The code with which the house closes the WebSocket."""
    async with asyncio.timeout(20):
        await station.wait_closed()
    return int(station.close_code)


# -- What is answered, and when

async def test_answered_means_stored(house: Stations) -> None:
    door = await house.door()
    async with connect(door.ports[0]) as station:
        assert station.subprotocol == "ocpp1.6"
        for number in range(30):
            await station.send(status(number).decode())
        assert [orjson.loads(await station.recv()) for _ in range(30)] == [[3, f"m{number}", {}] for number in range(30)]
    assert await house.raws() == [kept("1.6", "CP-0", status(number)) for number in range(30)]
    batch = Batch.decode((await house.stored())[0])
    assert (batch.protocol, batch.classes, set(batch.f_entity.tolist())) == ("ocpp", [("fujian", "Open", 3)], {100})
    assert set(batch.props) == {"connector1-status", "connector1-errorCode"}


async def test_while_the_bus_is_away_heartbeats_are_answered_and_nothing_else(house: Stations) -> None:
    door = await house.door()
    async with connect(door.ports[0]) as station:
        assert await ask(station, status(1)) == [3, "m1", {}]
        pid = house.nats.child.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        threads = Path(f"/proc/{pid}/task")
        await until(lambda: all(") T " in (thread / "stat").read_text() for thread in threads.iterdir()))
        try:
            await station.send(status(2).decode())
            answer = await ask(station, '[2,"h","Heartbeat",{}]')
            assert (answer[1], set(answer[2])) == ("h", {"currentTime"})
            assert door.ingestor.held > 0
        finally:
            os.kill(pid, signal.SIGCONT)
        assert orjson.loads(await station.recv()) == [3, "m2", {}]
    assert await house.raws() == [kept("1.6", "CP-0", status(number)) for number in (1, 2)]


async def test_what_was_answered_survives_kill_9_of_the_gateway(house: Stations) -> None:
    port = free_port()
    config = Config(port=0, ocpp_port=port, nats_url=house.nats.url, sql_url=house.sql_url)
    answered: set[str] = set()
    sent = 0
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tulou.access.gateway", env={**os.environ, "TULOU_GATEWAY": config.to_json()}
        )
        house.processes.append(process)
        async with asyncio.timeout(30):
            while True:
                try:
                    station = await connect(port, close_timeout=0)
                    break
                except (OSError, InvalidHandshake, EOFError):
                    await asyncio.sleep(0.05)
        begun = len(answered)
        try:
            while True:
                await station.send(status(sent).decode())
                sent += 1
                if len(answered) > begun + 40:
                    process.kill()
                answered.add(orjson.loads(await station.recv())[1])
        except ConnectionClosed:
            pass
        await process.wait()
    stored = [orjson.loads(raw.partition(b"\n")[2])[1] for raw in await house.raws()]
    assert len(answered) > 100
    assert answered <= set(stored)
    assert len(stored) == len(set(stored))


@pytest.mark.parametrize(("version", "text", "answer"), [
    ("1.6", '{"a":1}', None), ("1.6", '[2,"a"', None), ("1.6", "\0\1\2", None), ("1.6", "[]", None), ("1.6", "9" * 5000, None),
    ("1.6", "[" * 60_000, None), ("2.0.1", "[" * 60_000, [4, "-1", "RpcFrameworkError"]),
    ("2.0.1", "garbage", [4, "-1", "RpcFrameworkError"]), ("2.0.1", '[9,"a",{}]', [4, "a", "MessageTypeNotSupported"]),
    ("1.6", '[2,"a","Heartbeat"]', [4, "a", "FormationViolation"]), ("2.0.1", '[2,"a","Heartbeat",[]]', [4, "a", "RpcFrameworkError"]),
    ("1.6", f'[2,"{"x" * 37}","Heartbeat",{{}}]', None),
    ("1.6", '[2,"a","Reset",{"type":"Hard"}]', [4, "a", "NotSupported"]), ("1.6", '[2,"a","TransactionEvent",{}]', [4, "a", "NotImplemented"]),
    ("1.6", '[2,"a","../../Reset",{}]', [4, "a", "NotImplemented"]), ("2.0.1", '[2,"a","StartTransaction",{}]', [4, "a", "NotImplemented"]),
    ("1.6", '[2,"a","StatusNotification",{"connectorId":1,"errorCode":"NoError"}]', [4, "a", "OccurenceConstraintViolation"]),
    ("1.6", '[2,"a","StatusNotification",{"connectorId":"1","errorCode":"NoError","status":"Available"}]', [4, "a", "TypeConstraintViolation"]),
    ("1.6", '[2,"a","StatusNotification",{"connectorId":1,"errorCode":"NoError","status":"Sleeping"}]', [4, "a", "PropertyConstraintViolation"]),
    ("1.6", '[2,"a","Heartbeat",{"extra":1}]', [4, "a", "FormationViolation"]),
    ("2.0.1", '[2,"a","Heartbeat",{"extra":1}]', [4, "a", "FormatViolation"]),
    ("1.6", f'[2,"a","StartTransaction",{{"connectorId":1,"idTag":"x","meterStart":99999999999,"timestamp":"{AT}"}}]',
     [4, "a", "PropertyConstraintViolation"]),
])
async def test_a_bad_message_is_refused_by_the_standards_code_and_a_dead_letter(house: Stations, version: str, text: str, answer: Any) -> None:
    door = await house.door()
    async with connect(door.ports[0], version=version) as station:
        if answer is not None:
            assert (await ask(station, text))[:3] == answer
        else:
            await station.send(text)
        beat = await ask(station, '[2,"beat","Heartbeat",{}]')
        assert beat[:2] == [3, "beat"]  # its neighbour is served
    await until(lambda: not door.ingestor.held)
    (letter,) = await house.dead()
    assert (letter["org"], letter["entity"], letter["raw"]) == ("fujian", 100, kept(version, "CP-0", text.encode()))
    assert letter["reason"]


async def test_letters_are_bounded_and_a_card_is_not_in_the_reason(house: Stations) -> None:
    door = await house.door()
    async with connect(door.ports[0]) as station:
        for _ in range(60):
            answer = await ask(station, '[2,"a","Authorize",{"idTag":"SECRETCARD-0123456789-0123456789"}]')
            assert answer[2] == "PropertyConstraintViolation"
            assert "SECRETCARD" not in str(answer)
    await until(lambda: not door.ingestor.held)
    letters = await house.dead()
    assert 20 <= len(letters) < 30
    assert not any("SECRETCARD" in letter["reason"] for letter in letters)
    assert door.stats()["unkept"] == 60 - len(letters)


async def test_times_that_cannot_be_read_are_letters_and_their_neighbours_are_stored(house: Stations) -> None:
    door = await house.door()
    values = [{"timestamp": "yesterday", "sampledValue": [{"value": "1"}]},
              {"timestamp": AT, "sampledValue": [{"value": "x", "measurand": "Voltage"}, {"value": "3.5"}]}]
    async with connect(door.ports[0]) as station:
        assert await ask(station, orjson.dumps([2, "a", "MeterValues", {"connectorId": 2, "meterValue": values}])) == [3, "a", {}]
    letters = await house.dead()
    assert [letter["field"] for letter in letters] == ["meterValue[0].timestamp", "meterValue[1].sampledValue[0].value"]
    (batch,) = [Batch.decode(message) for message in await house.stored()]
    assert (batch.props, batch.r_val.tolist()) == (["connector2-energyActiveImportRegister"], [3.5])


async def test_without_the_house_no_transaction_has_a_number_and_no_card_is_judged(
    house: Stations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ocpp_door, "ANSWER", 1)
    door = await house.door()
    async with connect(door.ports[0]) as station:
        answer = await ask(station, '[2,"a","Authorize",{"idTag":"x"}]')
        assert answer[:3] == [4, "a", "InternalError"]
        assert await ask(station, status(1)) == [3, "m1", {}]
        await station.send('[2,"b","StartTransaction",{"connectorId":1,"idTag":"x","meterStart":1,"timestamp":"%s"}]' % AT)  # noqa: UP031
        await station.send(status(2).decode())  # is not served before its turn
        with pytest.raises(ConnectionClosed):
            await station.recv()
        assert station.close_code == 1013
    await until(lambda: not door.connections)
    assert await house.raws() == [kept("1.6", "CP-0", status(1))]


async def test_one_call_is_under_way_and_ends_by_its_answer_by_time_or_with_the_connection(
    house: Stations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ocpp_door, "ANSWER", 1)
    await house.bus.ensure([StreamSpec("COMMANDS", ("tulou.commands.>",), 1 << 28)])
    door = await house.door()
    courier = door.gateway.courier

    def call(no: int, method: str = "Reset", params: str = '{"type":"Soft"}') -> Command:
        return Command(no, 100, "ocpp", method, params, True, 1 << 62, 1)

    async with connect(door.ports[0]) as station:
        await until(lambda: door.stations)
        target = door.stations["CP-0"].target
        assert target is not None
        for wrong in (call(1, "GetVariables", '{"getVariableData":[]}'), call(2, "Heartbeat", "{}"), call(3, "Reset", '{"type":"Immediate"}')):
            with pytest.raises(Invalid):
                target.deliver(wrong)
        target.deliver(call(4))
        assert orjson.loads(await station.recv()) == [2, "4.1", "Reset", {"type": "Soft"}]
        assert target.room() == 0
        for other in ('[3,"3.1",{"status":"Accepted"}]', '[3,"9.9"]', '[3]'):  # another's, and what is none
            await station.send(other)
        await station.send('[3,"4.1",{"status":"Accepted"}]')
        await until(lambda: courier.answered == 1)
        assert target.room() == 1
        target.deliver(call(5))
        await until(lambda: courier.failed == 1)  # nobody answers
        await station.recv()
        await station.send('[3,"5.1",{"status":"Accepted"}]')  # too late
        assert (await ask(station, '[2,"h","Heartbeat",{}]'))[1] == "h"
        assert (courier.answered, courier.failed) == (1, 1)
        target.deliver(call(6))
        await station.recv()
        await station.send('[4,"6.1","NotSupported","no",{}]')
        await until(lambda: courier.failed == 2)
        target.deliver(call(7))
    await until(lambda: courier.returned == 1)


# -- Who comes in

async def test_who_may_come_in(house: Stations) -> None:
    door = await house.door()
    port = door.ports[0]
    for identity, secret in (("CP-1", KEY), ("CP-2", TOKENS[2])):
        for _ in range(2):  # by the store, then by the cache
            async with connect(port, identity, secret) as station:
                assert (await ask(station, '[2,"h","Heartbeat",{}]'))[:2] == [3, "h"]
    async with connect(port, "CP-0", version="2.0.1") as station:
        assert station.subprotocol == "ocpp2.0.1"
    async with websockets.connect(f"ws://127.0.0.1:{port}/ocpp/CP-0", subprotocols=["ocpp1.6", "ocpp2.0.1"],  # type: ignore[list-item]
                                  additional_headers=basic("CP-0", PASSWORD)) as station:
        assert station.subprotocol == "ocpp2.0.1"


async def test_who_may_not(house: Stations, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    door = await house.door()
    port = door.ports[0]
    assert await refused(connect(port, password="wrong-password")) == 401
    assert await refused(connect(port, "CP-9")) == 401
    assert await refused(connect(port, "CP-0", user="CP-1")) == 401
    assert await refused(connect(port, "CP-2", TOKENS[1])) == 401  # another device's token
    assert await refused(connect(port, "CP-2", "")) == 401
    assert await refused(connect(port, additional_headers={})) == 401
    assert await refused(connect(port, additional_headers={"Authorization": "Bearer x"})) == 401
    assert await refused(connect(port, path="/")) == 404
    assert await refused(connect(port, path="/ocpp/a%2Fb")) == 404
    assert await refused(connect(port, path="/ocpp/")) == 404
    assert door.stats()["devices"] == 0
    logged = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets.client")]
    assert any("closing ocpp" in line for line in logged)
    assert not any(secret in line for line in logged for secret in (PASSWORD, basic("CP-0", PASSWORD)["Authorization"][6:]))


async def test_guessing_is_throttled_and_who_is_known_is_not(house: Stations) -> None:
    door = await house.door()
    door.throttle = Throttle(burst=3, refill=1000)
    async with connect(door.ports[0]):
        pass
    codes = [await refused(connect(door.ports[0], password=f"guess-number-{number}")) for number in range(5)]
    assert codes == [401, 401, 401, 429, 429]
    async with connect(door.ports[0]) as station:
        assert (await ask(station, '[2,"h","Heartbeat",{}]'))[:2] == [3, "h"]


async def test_without_a_subprotocol_the_handshake_is_completed_and_closed(house: Stations) -> None:
    """1.6J, 3.2; 2.0.1 part 4, 3.2."""
    door = await house.door()
    for offered in (["ocpp1.5"], None):
        async with connect(door.ports[0], subprotocols=offered) as station:
            assert station.subprotocol is None
            assert await closed(station) == 1002


async def test_a_new_connection_of_an_identity_ends_the_one_before(house: Stations) -> None:
    door = await house.door()
    async with connect(door.ports[0]) as first:
        assert await ask(first, status(1)) == [3, "m1", {}]
        async with connect(door.ports[0]) as second:
            assert await closed(first) == 1008
            assert await ask(second, status(2)) == [3, "m2", {}]
            await until(lambda: len(door.connections) == 1)
            assert list(door.stations) == ["CP-0"]


async def test_over_tls(house: Stations, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    door = await house.door(ocpp_port=0, ocpps_port=-1, tls_certificate=str(cert), tls_key=str(key))
    trust = ssl.create_default_context(cafile=str(cert))
    trust.check_hostname = False
    async with connect(door.ports[0], scheme="wss", ssl=trust) as station:
        assert await ask(station, status(1)) == [3, "m1", {}]


async def test_compression_is_spoken(house: Stations) -> None:
    """2.0.1 part 4, 3.4: a CSMS supports RFC 7692."""
    door = await house.door()
    async with connect(door.ports[0], compression="deflate") as station:
        assert [extension.name for extension in station.protocol.extensions] == ["permessage-deflate"]
        assert await ask(station, status(1)) == [3, "m1", {}]
        await station.send("[" + " " * (2 << 20) + "]")  # some KiB on the wire
        assert await closed(station) == 1009


# -- What strangers and broken stations cost

class Raw:
    """Bytes, without a library in the way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> Raw:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @classmethod
    async def welcome(cls, port: int) -> Raw:
        """Past the handshake."""
        raw = await cls.connect(port)
        raw.writer.write(handshake())
        async with asyncio.timeout(20):
            assert b" 101 " in await raw.reader.readuntil(b"\r\n\r\n")
        return raw

    def frame(self, opcode: Opcode, data: bytes, fin: bool = True) -> None:
        self.writer.write(Frame(opcode, data, fin).serialize(mask=True))

    async def rest(self) -> bytes:
        """What comes until the house closes."""
        async with asyncio.timeout(30):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
        return b""


def handshake(end: bytes = b"\r\n\r\n", more: bytes = b"") -> bytes:
    auth = basic("CP-0", PASSWORD)["Authorization"].encode()
    return (b"GET /ocpp/CP-0 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: ocpp1.6\r\n" + more + b"Authorization: " + auth + end)


async def test_a_handshake_that_does_not_end(house: Stations) -> None:
    door = await house.door()
    slow = await Raw.connect(door.ports[0])
    slow.writer.write(handshake(end=b""))
    trickle = await Raw.connect(door.ports[0])
    trickle.writer.write(b"GET ")
    silent = await Raw.connect(door.ports[0])
    large = await Raw.connect(door.ports[0])
    large.writer.write(b"GET /" + b"x" * (ocpp_door.HEAD + 1))
    assert await large.rest() == b""

    async def drip() -> None:
        while True:
            trickle.writer.write(b"x")
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    assert [await one.rest() for one in (slow, trickle, silent)] == [b"", b"", b""]
    dripping.cancel()
    assert door.stats()["timed_out"] == 3
    await until(lambda: not door.connections)


@pytest.mark.parametrize("head", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
    b"POST /ocpp/CP-0 HTTP/1.1\r\n\r\n", handshake(more=b"X-Filler: " + b"x" * 9000 + b"\r\n"), handshake(more=b"X: y\r\n" * 200),
    handshake() + b"\x81\x85\0\0\0\0hello", handshake(more=b"Content-Length: 5\r\n"), handshake(more=b"Authorization: Basic eDp5\r\n"),
    handshake().replace(b"Upgrade: websocket\r\n", b""), handshake().replace(b"AAAAAAAAAAAAAAAAAAAAAA==", b"short"),
    handshake().replace(b"CP-0", b"\xff\xfe"),
])
async def test_what_is_no_handshake(house: Stations, head: bytes) -> None:
    door = await house.door()
    raw = await Raw.connect(door.ports[0])
    raw.writer.write(head)
    assert b" 101 " not in await raw.rest()
    async with connect(door.ports[0]) as station:
        assert await ask(station, status(1)) == [3, "m1", {}]


async def test_frames_that_are_none(house: Stations) -> None:
    door = await house.door()
    for data, code in (
        (b"\xff" * 50, 1002), (b"\x81\x05hello", 1002),  # reserved bits; not masked
        (Frame(Opcode.CONT, b"x").serialize(mask=True), 1002), (Frame(Opcode.BINARY, b"[]").serialize(mask=True), 1003),
        (b"\x81\xff" + (1 << 40).to_bytes(8) + b"\0\0\0\0", 1009), (b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0", 1009),
    ):
        raw = await Raw.welcome(door.ports[0])
        raw.writer.write(data)
        rest = await raw.rest()
        assert rest[0] == 0x88
        assert int.from_bytes(rest[2:4]) == code
    await until(lambda: not door.connections)


async def test_a_message_too_long_is_closed_in_one_frame_or_in_many(house: Stations) -> None:
    door = await house.door()
    async with connect(door.ports[0]) as station:
        await station.send("x" * (ocpp_door.LONGEST + 1))
        assert await closed(station) == 1009
    raw = await Raw.welcome(door.ports[0])
    raw.frame(Opcode.TEXT, b"x" * 1000, False)
    for _ in range(70):
        raw.frame(Opcode.CONT, b"x" * 1000, False)
    assert int.from_bytes((await raw.rest())[2:4]) == 1009
    async with connect(door.ports[0], max_size=None) as station:
        long = orjson.dumps([2, "a", "DataTransfer", {"vendorId": "v", "data": "x" * (ocpp_door.LONGEST - 100)}])
        assert (await ask(station, long))[2] == {"status": "UnknownVendorId"}


async def test_a_message_in_pieces_is_one(house: Stations) -> None:
    door = await house.door()
    raw = await Raw.welcome(door.ports[0])
    text = status(1)
    raw.frame(Opcode.TEXT, text[:5], False)
    raw.frame(Opcode.PING, b"there?")
    raw.frame(Opcode.CONT, text[5:20], False)
    raw.frame(Opcode.CONT, text[20:])
    async with asyncio.timeout(20):
        assert await raw.reader.readexactly(8) == b"\x8a\x06there?"
        assert (await raw.reader.readexactly(13))[2:] == b'[3,"m1",{}]'


async def test_a_message_that_does_not_end(house: Stations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocpp_door, "UNFINISHED", 1)
    door = await house.door()
    in_frames = await Raw.welcome(door.ports[0])
    in_frames.frame(Opcode.TEXT, b"[2,", False)
    assert int.from_bytes((await in_frames.rest())[2:4]) == 1008
    in_a_frame = await Raw.welcome(door.ports[0])
    in_a_frame.writer.write(Frame(Opcode.TEXT, status(1)).serialize(mask=True)[:-3])
    assert int.from_bytes((await in_a_frame.rest())[2:4]) == 1008


async def test_a_half_open_connection_is_found(house: Stations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocpp_door, "GRACE", 1)
    monkeypatch.setattr(ocpp_door, "HEARTBEAT", 0)
    door = await house.door()
    dead = await Raw.welcome(door.ports[0])
    async with connect(door.ports[0], "CP-2", TOKENS[2], ping_interval=None) as alive:
        rest = await dead.rest()
        assert rest[:2] == b"\x89\x00"  # a ping, which nobody answers
        assert int.from_bytes(rest[4:6]) == 1008
        assert await ask(alive, status(1)) == [3, "m1", {}]  # whose library answered the pings
    assert door.stats()["timed_out"] == 1


async def test_who_does_not_read_is_not_read(house: Stations) -> None:
    door = await house.door()
    raw = await Raw.welcome(door.ports[0])
    beat = Frame(Opcode.TEXT, b'[2,"h","Heartbeat",{}]').serialize(mask=True) * 2000
    (connection,) = door.connections

    async def flood() -> None:
        while True:
            raw.writer.write(beat)
            await raw.writer.drain()

    flooding = asyncio.create_task(flood())
    await until(lambda: connection.reasons)
    transport = connection.transport
    assert transport is not None
    assert transport.get_write_buffer_size() < 4 << 20
    async with connect(door.ports[0], "CP-2", TOKENS[2]) as station:
        assert await ask(station, status(1)) == [3, "m1", {}]
    flooding.cancel()
    raw.writer.transport.abort()
    await until(lambda: not door.connections)


async def test_the_gateway_stays_small_without_the_door() -> None:
    code = ("import sys, tulou.access.gateway as g; "
            "print(sorted({name.split('.')[0] for name in sys.modules} & {'websockets', 'ocpp', 'jsonschema_rs', 'jsonschema', 'pydantic'}))")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"
