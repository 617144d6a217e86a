"""Meters behind transparent gateways, with a real nats-server, real lines, and meters that were not written here."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.access.conftest import eventually
from tests.access.test_field import Fields
from tests.access.test_gateway import until
from tests.conformance.meters import ADDRESS
from tulou.access.authenticate import SqlAuthenticator
from tulou.access.batch import Batch
from tulou.access.gateway import Config, Gateway
from tulou.access.poll_door import REST, PollDoor, Station
from tulou.access.protocols import dlt645 as wire
from tulou.access.protocols.dlt645 import codec as dlt645
from tulou.access.protocols.polled import opened
from tulou.access.telemetry import ANY
from tulou.kernel.bus import free_port
from tulou.kernel.sql import Database

POINTS = {
    "energy": ("00010000", 123456.78), "voltage": ("02010100", 220.5), "current": ("02020100", -12.345),
    "power": ("02030000", 1.2345), "factor": ("02060000", -0.985), "frequency": ("02800002", 49.98),
}
REGISTERS = {
    "plain": ("holding:0", "", 1001.0), "signed": ("holding:10", "int16", -7.0), "wide": ("holding:20", "uint32", 70000.0),
    "float": ("holding:30", "float32", 1.5), "double": ("holding:40", "float64", -2.25), "input": ("input:100", "", 555.0),
    "coil": ("coil:3", "", 1.0), "discrete": ("discrete:4", "", 0.0),
}


class Lines(Fields):
    """The bus and the tables, with the devices 100 (a gateway, DTU0001) to 104, and what is polled."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        with contextlib.closing(sqlite3.connect(home / "devices.db")) as db, db:
            db.execute("CREATE TABLE device_polls (entity_no INTEGER PRIMARY KEY, dials BOOLEAN, document TEXT)")
            db.execute("INSERT INTO device_identities VALUES ('dtu', 'DTU0001', 100, '')")
            db.execute("INSERT INTO device_identities VALUES ('dtu', '0102ff', 101, '')")

    def polled(self, entity: int, *meters: dict[str, Any], **more: Any) -> None:
        document = {"host": None, "port": None, "heartbeat": "", **more, "meters": [
            {"device": None, "timeout_s": 1.0, **meter, "points": [
                {"type": "", "scale": 0.0, "period_s": 0.2, **point} for point in meter["points"]]} for meter in meters]}
        with contextlib.closing(sqlite3.connect(self.home / "devices.db")) as db, db:
            db.execute("INSERT OR REPLACE INTO device_polls VALUES (?, ?, ?)",
                       (entity, document["host"] is not None, json.dumps(document)))

    async def lines(self, **changes: Any) -> PollDoor:
        """A gateway in this process with the door that asks."""
        self.database = Database(self.sql_url)
        fields = {"dtu": {"codec": "tulou.access.protocols.dtu", "port": -1, "tls_port": 0}}
        config = Config(port=0, fields=fields, outbound={"outbound_allow": "127.0.0.1", **changes})
        gateway = Gateway(config, SqlAuthenticator(self.database), self.bus, self.database)
        await gateway.start()
        self.gateways.append(gateway)
        assert gateway.polls is not None
        return gateway.polls

    async def stored(self, stream: str = "READINGS") -> list[bytes]:
        if not (await self.bus.js.stream_info(stream)).state.messages:
            return []
        return await super().stored(stream)

    async def dead_letters(self, count: int) -> list[dict[str, Any]]:
        async def there() -> Any:
            found = await self.dead()
            return found if len(found) >= count else None

        found: list[dict[str, Any]] = await eventually(there)
        return found

    async def readings(self) -> dict[tuple[int, str], float]:
        """The last value of each property of each entity in the stream."""
        found = {}
        for message in await self.stored():
            batch = Batch.decode(message)
            for entity, prop, value in zip(batch.r_entity.tolist(), batch.r_prop.tolist(), batch.r_val.tolist(), strict=True):
                found[entity, batch.props[prop]] = value
        return found

    async def until_read(self, *wanted: tuple[int, str]) -> dict[tuple[int, str], float]:
        async def there() -> Any:
            found = await self.readings()
            return found if set(wanted) <= set(found) else None

        found: dict[tuple[int, str], float] = await eventually(there, 30)
        return found


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Lines]:
    house = Lines(tmp_path)
    await house.start()
    yield house
    await house.stop()


def electric(*names: str, **more: Any) -> dict[str, Any]:
    return {"protocol": "dlt645", "address": ADDRESS, "points": [
        {"property": name, "item": POINTS[name][0]} for name in names or POINTS], **more}


def registers(framing: str, unit: int = 1, **more: Any) -> dict[str, Any]:
    return {"protocol": "modbus", "address": f"{framing}:{unit}", "points": [
        {"property": name, "item": item, "type": kind} for name, (item, kind, _) in REGISTERS.items()], **more}


@contextlib.asynccontextmanager
async def judge(what: str) -> AsyncIterator[int]:
    """A meter of somebody else's in its own process; its port."""
    package = "dlt645" if what == "dlt645" else "pymodbus"
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.conformance.meters", what, str(port), stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            while b"listening" not in (line := await process.stdout.readline()):
                assert line, f"{what} does not start"
        yield port
    finally:
        process.kill()
        await process.wait()


class Dtu:
    """A transparent gateway: dials in, registers, and carries bytes to a bus of meters and back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.asked: list[bytes] = []

    @classmethod
    async def dial(cls, port: int, packet: bytes) -> Dtu:
        dtu = cls(*await asyncio.open_connection("127.0.0.1", port))
        dtu.writer.write(packet)
        return dtu

    async def carry(self, port: int) -> None:
        """Be the wire to a bus of meters behind a TCP port, until the line is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(4096):
                    sink.write(data)

        try:
            await asyncio.gather(copy(self.reader, writer), copy(reader, self.writer))
        finally:
            writer.close()

    async def question(self) -> bytes:
        async with asyncio.timeout(20):
            return await self.reader.read(4096)


@pytest.mark.conformance
async def test_an_electricity_meter_behind_a_gateway_that_dials_in(house: Lines) -> None:
    house.polled(100, electric())
    door = await house.lines()
    async with judge("dlt645") as port:
        dtu = await Dtu.dial(door.ports[0], b"DTU0001\r\n")
        carrying = asyncio.create_task(dtu.carry(port))
        found = await house.until_read(*((100, name) for name in POINTS))
        carrying.cancel()
    assert found == {(100, name): value for name, (_, value) in POINTS.items()}
    raws = await house.raws()
    ask, answer = opened(raws[0])
    assert dlt645.find(ask.request, answer) is not None
    assert (door.mismatches, door.errors) == (0, 0)
    assert Batch.decode((await house.stored())[0]).protocol == "dlt645"


@pytest.mark.conformance
@pytest.mark.parametrize(("what", "framing"), [("modbus", "tcp"), ("modbus-rtu", "rtu")])
async def test_modbus_devices_that_the_house_dials(house: Lines, what: str, framing: str) -> None:
    async with judge(what) as port:
        house.polled(102, registers(framing), registers(framing, 2, device="d3"), host="127.0.0.1", port=port)
        door = await house.lines()
        found = await house.until_read(*((entity, name) for entity in (102, 103) for name in REGISTERS))
    assert {name: found[102, name] for name in REGISTERS} == {name: value for name, (_, _, value) in REGISTERS.items()}
    assert found[103, "plain"] == 1002.0
    assert (door.mismatches, door.errors) == (0, 0)


@pytest.mark.conformance
async def test_a_register_that_is_not_there_is_said_so(house: Lines) -> None:
    async with judge("modbus") as port:
        meter = registers("tcp")
        meter["points"] = [*meter["points"][:1], {"property": "gone", "item": "holding:9000", "period_s": 60}]
        house.polled(102, meter, host="127.0.0.1", port=port)
        door = await house.lines()
        await house.until_read((102, "plain"))
        await until(lambda: door.errors > 0)
        dead = await house.dead_letters(1)
    assert "illegal data address" in dead[0]["reason"]
    assert (dead[0]["entity"], dead[0]["protocol"]) == (102, "modbus")


def reply(address: str, item: str, data: str) -> bytes:
    return wire.frame(address, 0x91, bytes.fromhex(item)[::-1] + bytes.fromhex(data))


async def test_a_dead_meter_costs_its_timeout_and_stops_nobody(house: Lines) -> None:
    house.polled(100, electric("energy", address="000000000001", device="d3", timeout_s=0.2), electric("voltage"))
    door = await house.lines()
    dtu = await Dtu.dial(door.ports[0], b"DTU0001")
    for _ in range(20):
        question = await dtu.question()
        if bytes.fromhex(ADDRESS)[::-1] in question:
            dtu.writer.write(reply(ADDRESS, "02010100", "0522"))
    await until(lambda: door.answered >= 10)
    assert (await house.until_read((100, "voltage")))[100, "voltage"] == 220.5
    assert door.timeouts == 3
    assert door.stats()["down_meters"] == ["d3 dlt645 000000000001"]


def test_a_meter_that_fails_rests_longer_and_longer() -> None:
    station = Station(dlt645, ADDRESS, None, ("", "", 0), ANY, 1.0)  # type: ignore[arg-type]
    rests = []
    for _ in range(12):
        station.failed(0.0)
        rests.append(station.until)
    assert rests[:5] == [0.0, 0.0, REST, 2 * REST, 4 * REST]
    assert rests[-1] == 900.0


async def test_what_is_no_answer_is_a_dead_letter_and_the_right_one_still_counts(house: Lines) -> None:
    house.polled(100, electric("voltage"), heartbeat="hex:AA55")
    door = await house.lines()
    dtu = await Dtu.dial(door.ports[0], b"DTU0001")
    await dtu.question()
    dtu.writer.write(b"\xaa\x55" + reply("000000999999", "02010100", "1111") + reply(ADDRESS, "00010000", "00000000")
                     + reply(ADDRESS, "02010100", "0522"))
    await house.until_read((100, "voltage"))
    assert door.mismatches == 2
    await dtu.question()
    dtu.writer.write(reply(ADDRESS, "02010100", "0522"))
    await until(lambda: door.answered == 2)
    dtu.writer.write(b"DTU0001")  # registers again, as some do
    dtu.writer.write(b"hello")
    await dtu.question()
    await until(lambda: door.stray == 5)
    dead = await house.dead_letters(3)
    assert ["another meter" in d["reason"] or "another identifier" in d["reason"] for d in dead[:2]] == [True, True]
    assert dead[2]["raw"] == b"hello"


async def test_an_answer_in_pieces(house: Lines) -> None:
    house.polled(101, electric("energy"))
    door = await house.lines()
    dtu = await Dtu.dial(door.ports[0], b"\x01\x02\xff")
    await dtu.question()
    for byte in reply(ADDRESS, "00010000", "78563412"):
        dtu.writer.write(bytes((byte,)))
        await asyncio.sleep(0.002)
    assert (await house.until_read((101, "energy")))[101, "energy"] == 123456.78


async def test_who_is_nobody_is_closed_and_a_gateway_that_dials_anew_replaces_its_line(house: Lines) -> None:
    house.polled(100, electric("energy"))
    door = await house.lines()
    for packet in (b"NOBODY", b"x" * 100, b"DTU0002\n"):
        stranger = await Dtu.dial(door.ports[0], packet)
        assert await stranger.question() == b""
    assert door.unknown == 3
    first = await Dtu.dial(door.ports[0], b"DTU0001")
    assert (await first.question()).startswith(b"\xfe")
    second = await Dtu.dial(door.ports[0], b"DTU0001")
    assert (await second.question()).startswith(b"\xfe")
    while await first.question():
        pass
    assert len(door.lines) == 1


async def test_a_changed_document_takes_effect_at_once(house: Lines) -> None:
    house.polled(100, electric("energy"))
    door = await house.lines()
    dtu = await Dtu.dial(door.ports[0], b"DTU0001")
    await dtu.question()
    house.polled(100, electric("voltage"))
    await house.bus.changed("devices", "d0")
    while await dtu.question():
        pass
    dtu = await Dtu.dial(door.ports[0], b"DTU0001")
    assert bytes(byte + 0x33 for byte in bytes.fromhex("00010102")) in await dtu.question()


async def test_changes_that_were_missed_are_noticed_and_other_lines_stay(house: Lines) -> None:
    house.polled(100, electric("energy"))
    house.polled(101, electric("energy"))
    door = await house.lines()
    changing, staying = await Dtu.dial(door.ports[0], b"DTU0001"), await Dtu.dial(door.ports[0], b"\x01\x02\xff")
    await changing.question()
    await staying.question()
    house.polled(100, electric("voltage"))
    door.missed()
    while await changing.question():
        pass
    assert await staying.question()


async def test_an_address_that_may_not_be_dialled_is_not(house: Lines) -> None:
    house.polled(102, electric(), host="169.254.169.254", port=80)
    door = await house.lines()
    await until(lambda: bool(door.unreachable))
    assert "169.254.169.254" in door.unreachable["d2"]
    house.polled(102, electric())
    await house.bus.changed("devices", "d2")
    await until(lambda: not door.unreachable)


async def test_nothing_is_asked_while_the_bus_holds_too_much(house: Lines) -> None:
    house.polled(100, electric("energy"))
    door = await house.lines()
    door.ingestors["dlt645"].pressed = True
    dtu = await Dtu.dial(door.ports[0], b"DTU0001")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await dtu.reader.read(100)
    door.ingestors["dlt645"].pressed = False
    assert await dtu.question()
