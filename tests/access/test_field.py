"""The doors of field protocols, with a real nats-server and real TCP connections."""

from __future__ import annotations

import asyncio
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
import pytest

from tests.access.test_gateway import House, certificate, until
from tests.access.test_hj212 import MN, crc, frame, kept
from tulou.access import field
from tulou.access.authenticate import SqlAuthenticator, Throttle
from tulou.access.batch import Batch
from tulou.access.field import FieldDoor
from tulou.access.gateway import Config, Gateway
from tulou.kernel.bus import free_port
from tulou.kernel.sql import Database

OTHER = b"010000A8900016F000169DC1"
GUARDED = b"010000A8900016F000169DC2"
NOBODYS = b"010000A8900016F000169DFF"
HJ212 = {"hj212": {"codec": "tulou.access.protocols.hj212", "port": -1, "tls_port": 0}}


class Fields(House):
    """The bus and the tables that a gateway reads, with devices 100 to 102 of HJ 212."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        secret = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("123456")
        with contextlib.closing(sqlite3.connect(home / "devices.db")) as db, db:
            db.execute("CREATE TABLE device_identities (protocol TEXT, identity TEXT, entity_no INTEGER,"
                       " password_hash TEXT, PRIMARY KEY (protocol, identity))")
            for number, (mn, held) in enumerate([(MN, ""), (OTHER, ""), (GUARDED, secret)]):
                db.execute("INSERT INTO device_identities VALUES ('hj212', ?, ?, ?)",
                           (mn.decode(), 100 + number, held))

    async def door(self, **changes: Any) -> FieldDoor:
        """A gateway in this process with the door of HJ 212."""
        self.database = Database(self.sql_url)
        config = Config(port=0, **{"fields": HJ212, **changes})
        gateway = Gateway(config, SqlAuthenticator(self.database), self.bus, self.database)
        await gateway.start()
        self.gateways.append(gateway)
        return gateway.doors[0]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Fields]:
    house = Fields(tmp_path)
    await house.start()
    yield house
    await house.stop()


class Station:
    """A bare client: bytes out, answers in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, **how: Any) -> Station:
        return cls(*await asyncio.open_connection("127.0.0.1", port, **how))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def line(self) -> bytes:
        """The next frame of HJ 212; empty at the end of the connection."""
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                return await self.reader.readline()
        return b""

    async def silent(self) -> bool:
        try:
            async with asyncio.timeout(0.3):
                await self.reader.readexactly(1)
        except TimeoutError:
            return True
        return False


def data(number: int, mn: bytes = MN) -> bytes:
    return frame(b"DataTime=202604010800%02d;w01018-Rtd=%d,w01018-Flag=N" % (number % 60, number), mn=mn)


def answer(mn: bytes = MN, values: bytes = b"", cn: int = 9014) -> bytes:
    return frame(values, cn=cn, flag=4, st=91, mn=mn)


async def test_answered_means_stored(house: Fields) -> None:
    door = await house.door()
    station = await Station.connect(door.ports[0])
    for number in range(50):
        station.send(data(number))
    for _ in range(50):
        assert await station.line() == answer()
    assert await house.raws() == [kept(data(number)) for number in range(50)]
    batch = Batch.decode((await house.stored())[0])
    assert (batch.protocol, batch.classes) == ("hj212", [("fujian", "Open", 3)])
    assert set(batch.f_entity.tolist()) == {100}
    assert set(batch.props) == {"w01018-Rtd", "w01018-Flag"}
    assert batch.r_ts.tolist()[0] == 1_775_001_600_000_000
    assert door.stats()["acked"] == 50


async def test_nothing_is_answered_while_the_bus_is_away(house: Fields) -> None:
    door = await house.door()
    station = await Station.connect(door.ports[0])
    station.send(data(1))
    assert await station.line() == answer()
    pid = house.nats.child.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    await until(lambda: all(") T " in (thread / "stat").read_text() for thread in threads.iterdir()))
    try:
        station.send(data(2))
        assert await station.silent()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await station.line() == answer()
    assert await house.raws() == [kept(data(1)), kept(data(2))]


async def test_one_connection_may_carry_many_devices(house: Fields) -> None:
    door = await house.door()
    station = await Station.connect(door.ports[0])
    station.send(data(1) + data(2, OTHER) + data(3) + data(4, NOBODYS) + data(5, OTHER))
    answers = [await station.line() for _ in range(5)]
    assert sorted(answers) == sorted([answer(), answer(OTHER), answer(), answer(OTHER),
                                      answer(NOBODYS, b"QnRtn=4", 9011)])
    entities = [no for message in await house.stored() for no in Batch.decode(message).f_entity.tolist()]
    assert sorted(entities) == [100, 100, 101, 101]


async def test_who_is_unknown_costs_one_look_up_and_one_dead_letter(house: Fields) -> None:
    door = await house.door()
    station = await Station.connect(door.ports[0])
    for number in range(20):
        station.send(data(number, NOBODYS))
        assert await station.line() == answer(NOBODYS, b"QnRtn=4", 9011)
    await until(lambda: not door.ingestor.held)
    (letter,) = await house.dead()
    assert (letter["org"], letter["entity"], letter["raw"]) == ("house", 0, kept(data(0, NOBODYS)))
    assert "没有设备登记此标识" in letter["reason"]
    assert door.stats()["unknown"] == 20
    assert (await house.bus.js.stream_info("READINGS")).state.messages == 0


async def test_only_strangers_are_cut_off_and_guessing_is_throttled(house: Fields) -> None:
    door = await house.door()
    door.throttle = Throttle(burst=3, refill=1000)
    known = await Station.connect(door.ports[0])
    known.send(data(1))
    assert await known.line() == answer()
    guesser = await Station.connect(door.ports[0])
    for number in range(field.REFUSALS):
        guesser.send(data(1, b"GUESS%d" % number))
    assert len([line async for line in guesser.reader]) == field.REFUSALS
    assert door.stats()["throttled"] == field.REFUSALS - 3
    await until(lambda: not door.ingestor.held)
    assert len(await house.dead()) == 3
    again = await Station.connect(door.ports[0])
    again.send(data(2))
    assert await again.line() == answer()


async def test_a_password_is_checked_where_one_is_set(house: Fields, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    door = await house.door()
    station = await Station.connect(door.ports[0])
    wrong = data(1, GUARDED).replace(b"PW=123456", b"PW=654321")
    wrong = wrong[:-6] + b"%04X\r\n" % crc(wrong[6:-6])
    station.send(wrong)
    assert b"CP=&&QnRtn=3&&" in await station.line()
    for number in range(3):
        station.send(data(number, GUARDED))
        assert await station.line() == answer(GUARDED)
    station.send(wrong)
    assert b"CP=&&QnRtn=3&&" in await station.line()
    assert await house.raws() == [kept(data(number, GUARDED)) for number in range(3)]
    assert door.stats()["denied"] == 2
    await until(lambda: not door.ingestor.held)
    (letter,) = await house.dead()
    assert (letter["org"], letter["entity"]) == ("fujian", 102)
    assert "654321" not in caplog.text
    assert "123456" not in caplog.text


async def test_a_broken_frame_is_a_dead_letter_and_costs_no_neighbour(house: Fields) -> None:
    door = await house.door()
    station = await Station.connect(door.ports[0])
    bad = data(2)[:-6] + b"0000\r\n"
    station.send(b"noise" + data(1) + bad + data(3))
    assert [await station.line() for _ in range(2)] == [answer(), answer()]
    await until(lambda: not door.ingestor.held)
    assert await house.raws() == [kept(data(1)), kept(data(3))]
    (letter,) = await house.dead()
    assert (letter["raw"], letter["field"], letter["protocol"]) == (kept(bad), "CRC", "hj212")
    assert (door.stats()["broken"], door.stats()["stray"]) == (1, len(b"noise" + bad))


async def test_what_a_sound_frame_says_wrongly_is_a_dead_letter_and_answered(house: Fields) -> None:
    door = await house.door()
    station = await Station.connect(door.ports[0])
    bad = frame(b"DataTime=20260401080000;w01018-Rtd=twelve;w21003-Rtd=0.5")
    late = frame(b"DataTime=20960401080000;w01018-Rtd=1")
    station.send(bad + late)
    assert [await station.line() for _ in range(2)] == [answer(), answer()]
    assert {letter["field"] for letter in await house.dead()} == {"w01018-Rtd", "ts"}
    assert await house.raws() == [kept(bad), kept(late)]
    assert sum(len(Batch.decode(message).r_val) for message in await house.stored()) == 1


async def test_garbage_unfinished_frames_and_silence_end_a_connection(house: Fields) -> None:
    door = await house.door()
    garbage, unfinished, silent, good = [await Station.connect(door.ports[0]) for _ in range(4)]
    good.send(data(1))
    assert await good.line() == answer()
    garbage.send(b"GET / HTTP/1.1\r\n" * 5000)
    assert await garbage.line() == b""
    unfinished.send(data(1) + data(1)[:40])
    assert await unfinished.line() == answer()
    gateway = door.gateway
    gateway.tick += field.UNFINISHED - 2
    unfinished.send(data(1)[40:50])
    await asyncio.sleep(1.2)
    assert not unfinished.reader.at_eof()
    gateway.tick += 4
    assert await unfinished.line() == b""
    gateway.tick += 600
    assert await silent.line() == b""
    good.send(data(2))
    assert await good.line() == answer()
    gateway.tick += 7200
    assert await good.line() == b""
    assert door.stats()["timed_out"] == 3


async def test_a_disabled_device_is_disconnected_and_stays_out(house: Fields) -> None:
    door = await house.door()
    station, other = await Station.connect(door.ports[0]), await Station.connect(door.ports[0])
    station.send(data(1))
    other.send(data(1, OTHER))
    assert [await station.line(), await other.line()] == [answer(), answer(OTHER)]
    with contextlib.closing(sqlite3.connect(house.home / "devices.db")) as db, db:
        db.execute("UPDATE devices SET status = 'disabled' WHERE id = 'd0'")
    await house.bus.changed("devices", "d0")
    assert await station.line() == b""
    station = await Station.connect(door.ports[0])
    station.send(data(2))
    assert b"QnRtn=4" in await station.line()
    other.send(data(2, OTHER))
    assert await other.line() == answer(OTHER)


async def test_over_tls(house: Fields) -> None:
    paths = certificate(house.home)
    fields = {"hj212": {**HJ212["hj212"], "port": 0, "tls_port": -1}}
    door = await house.door(fields=fields, tls_certificate=str(paths[0]), tls_key=str(paths[1]))
    trust = ssl.create_default_context(cafile=str(paths[0]))
    station = await Station.connect(door.ports[0], ssl=trust, server_hostname="127.0.0.1")
    station.send(data(1))
    assert await station.line() == answer()


async def test_a_killed_gateway_has_lost_nothing_that_it_answered(house: Fields) -> None:
    port = free_port()
    fields = {"hj212": {**HJ212["hj212"], "port": port}}
    config = Config(port=0, nats_url=house.nats.url, sql_url=house.sql_url, fields=fields)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tulou.access.gateway", env={**os.environ, "TULOU_GATEWAY": config.to_json()}
    )
    house.processes.append(process)
    station = None
    while station is None:
        with contextlib.suppress(OSError):
            station = await Station.connect(port)
        await asyncio.sleep(0.02)
    sent = [frame(b"DataTime=20260401080000;w01018-Rtd=%d" % number) for number in range(5000)]
    station.send(b"".join(sent))
    answered = 0
    while answered < 500 and await station.line():
        answered += 1
    process.kill()
    await process.wait()
    while await station.line():
        answered += 1
    stored = set(await house.raws())
    assert answered >= 500
    assert stored >= set(map(kept, sent[:answered]))
