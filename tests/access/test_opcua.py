"""The house as the client of OPC UA servers: a real nats-server, and asyncua's server in a process of its own, which is
killed, and a line to it, which is cut."""

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

from tests.access.conftest import eventually
from tests.access.test_field import Fields
from tests.access.test_gateway import until
from tulou.access.authenticate import SqlAuthenticator
from tulou.access.batch import BAD, UNCERTAIN, Batch
from tulou.access.courier import Call
from tulou.access.gateway import Config, Gateway
from tulou.access.opcua.certificate import application_certificate
from tulou.access.opcua.door import OpcUaDoor, OpcUaTarget
from tulou.access.opcua.kept import Change, codec, sealed
from tulou.access.opcua.link import node_of, typed
from tulou.kernel.bus import free_port
from tulou.kernel.errors import Invalid
from tulou.kernel.sql import Database

# -- what is kept


def change(value: Any, kind: str = "Double", status: int = 0, source: int = 1_775_001_600_000_000, **more: Any) -> Change:
    return Change(
        **{
            "property": "level",
            "node": "ns=2;s=Level",
            "type": kind,
            "value": value,
            "status": status,
            "source": source,
            "server": 1_775_001_601_000_000,
            "scale": 1.0,
            **more,
        }
    )


def test_what_is_kept_is_read_again() -> None:
    raw = sealed(
        [
            change(1.5),
            change(7, "Int16", property="count", scale=0.1),
            change(True, "Boolean", property="open"),
            change("一号罐", "String", property="name"),
            change([1, 2], "Int32", property="array"),
            change(2.5, source=1_775_001_600_500_000),
        ]
    )
    samples, refusals = codec.decode(raw)
    assert refusals == []
    assert samples == [
        (
            1_775_001_600_000_000,
            {"level": 1.5, "count": pytest.approx(0.7), "open": 1.0, "name": "一号罐", "array": "[1,2]"},
            None,
        ),
        (1_775_001_600_500_000, {"level": 2.5}, None),
    ]


@pytest.mark.parametrize(("status", "quality"), [
    (0, None), (0x40900000, UNCERTAIN), (0x808C0000, BAD), (0x480, None), (0xC0000000, BAD),
])
def test_the_severity_of_a_status_code_is_the_quality(status: int, quality: int | None) -> None:
    ((_, values, worse),), _ = codec.decode(sealed([change(1.5, status=status)]))
    assert values == {"level": 1.5}
    assert (worse or {}).get("level") == quality


def test_the_time_is_the_sources_else_the_servers_else_that_of_receipt() -> None:
    for source, server, wanted in (
        (5 * 10**15, 1, 5 * 10**15),
        (0, 4 * 10**15, 4 * 10**15),
        (-11_644_473_600_000_000, 0, 0),
    ):
        ((at, _, _),), _ = codec.decode(sealed([change(1.0, source=source, server=server)]))
        assert at == wanted


def test_no_value_is_no_number_and_what_cannot_be_read_is_refused() -> None:
    for value in (None, "nan"):
        ((_, values, worse),), _ = codec.decode(sealed([change(value)]))
        assert math.isnan(values["level"])  # type: ignore[arg-type]
        assert worse == {"level": BAD}
    samples, (refusal,) = codec.decode(sealed([change("Thing(a=1)", "ExtensionObject"), change(1.0, property="other")]))
    assert (refusal.rule, refusal.field) == ("value", "level")
    assert samples[0][1] == {"other": 1.0}
    for rubbish in (
        b"",
        b"{}",
        b"[1]",
        b'{"changes": [[1]]}',
        b'{"changes": 4}',
        sealed([change({"a": 1}, "Double", status="x")]),
    ):
        assert codec.decode(rubbish)[0] == []
        assert codec.decode(rubbish)[1]
    first, again = codec.decode(sealed([change(1.0), change(2.0)]))[0]  # a server that says two values of one time
    assert (first[1], again[1]) == ({"level": 1.0}, {"level": 2.0})


def test_nodes_and_values_are_named_where_they_are_wrong() -> None:
    from asyncua import ua

    assert node_of("nsu=urn:plant;s=A", ["urn:other", "urn:plant"]).to_string() == "ns=1;s=A"
    for text in ("nsu=urn:none;s=A", "ns=x;s=A", "what"):
        with pytest.raises(Invalid):
            node_of(text, ["urn:plant"])
    assert typed(3, ua.VariantType.Float, "v") == 3.0
    for value, kind in (
        (256, "Byte"),
        (-1, "UInt16"),
        (1.5, "Int32"),
        ("x", "Double"),
        (2, "Boolean"),
        (1, "String"),
        ("%", "ByteString"),
    ):
        with pytest.raises(Invalid):
            typed(value, ua.VariantType[kind], "v")


# -- a server


class Plant:
    """The server's process."""

    def __init__(self, home: Path, port: int, *how: str) -> None:
        self.home, self.port, self.how = home, port, how
        self.process: asyncio.subprocess.Process
        self.first = ""

    async def start(self) -> Plant:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.conformance.plant",
            str(self.port),
            str(self.home),
            *self.how,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self.first = await self._line()
        return self

    async def _line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            return (await self.process.stdout.readline()).decode().strip()

    async def tell(self, words: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(words.encode() + b"\n")
        return await self._line()

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


class Line:
    """A relay to the server whose connections can be cut, in both directions, while the server lives."""

    def __init__(self, port: int) -> None:
        self.to, self.port = port, free_port()
        self.writers: list[asyncio.StreamWriter] = []
        self.closed = False

    async def start(self) -> Line:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            writer.close()
            return
        other, there = await asyncio.open_connection("127.0.0.1", self.to)
        self.writers += [writer, there]

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            target.close()

        await asyncio.gather(carry(reader, there), carry(other, writer))

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    async def stop(self) -> None:
        self.cut()
        self.server.close()


class Works(Fields):
    """The bus and the tables, with the devices 100 to 104, of which some have a server."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        with contextlib.closing(sqlite3.connect(home / "devices.db")) as db, db:
            db.execute("CREATE TABLE device_opcua (entity_no INTEGER PRIMARY KEY, document TEXT)")
            db.execute("CREATE TABLE device_polls (entity_no INTEGER PRIMARY KEY, dials BOOLEAN, document TEXT)")
        self.plants: list[Plant] = []

    async def plant(self, *how: str, port: int = 0) -> Plant:
        plant = await Plant(self.home, port or free_port(), *how).start()
        self.plants.append(plant)
        return plant

    def connected(self, entity: int, port: int, *nodes: tuple[str, str], **more: Any) -> None:
        node = {"device": None, "sampling_ms": 0, "queue": 1000, "deadband": 0.0, "scale": 1.0}
        folder = {**node, "depth": 3, "prefix": ""}
        document = {
            "url": f"opc.tcp://127.0.0.1:{port}/plant",
            "security": "None",
            "server_certificate": None,
            "user": None,
            "password": None,
            "publish_ms": 50,
            "commands": [],
            **more,
            "nodes": [{**node, "node": name, "property": prop} for name, prop in nodes],
            "folders": [{**folder, **one} for one in more.get("folders", [])],
        }
        with contextlib.closing(sqlite3.connect(self.home / "devices.db")) as db, db:
            db.execute("INSERT OR REPLACE INTO device_opcua VALUES (?, ?)", (entity, json.dumps(document)))

    async def opcua(self, **changes: Any) -> OpcUaDoor:
        self.database = Database(self.sql_url)
        config = Config(port=0, opcua_home=str(self.home), outbound={"outbound_allow": "127.0.0.1", **changes})
        gateway = Gateway(config, SqlAuthenticator(self.database), self.bus, self.database)
        await gateway.start()
        self.gateways.append(gateway)
        door = gateway.doors[-1]
        assert isinstance(door, OpcUaDoor)
        return door

    async def readings(self, entity: int, prop: str) -> list[Any]:
        """Every value in the stream, in order, once for each time: what the writer would store."""
        if not (await self.bus.js.stream_info("READINGS")).state.messages:
            return []
        found: dict[int, Any] = {}
        for message in await self.stored():
            batch = Batch.decode(message)
            for row, (no, name, ts, value) in enumerate(
                zip(batch.r_entity.tolist(), batch.r_prop.tolist(), batch.r_ts.tolist(), batch.r_val.tolist(), strict=True)
            ):
                if (no, batch.props[name]) == (entity, prop):
                    found[ts] = batch.r_text.get(row, value)
        return [found[ts] for ts in sorted(found)]

    async def until_read(self, entity: int, prop: str, value: Any) -> None:
        async def there() -> bool:
            return value in await self.readings(entity, prop)

        await eventually(there, 8)


@pytest.fixture
async def works(tmp_path: Path) -> AsyncIterator[Works]:
    works = Works(tmp_path)
    await works.start()
    yield works
    await works.stop()
    for plant in works.plants:
        await plant.kill()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    from tulou.access.opcua import door, link

    monkeypatch.setattr(door, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(door, "LONGEST_PAUSE", 0.5)
    monkeypatch.setattr(link, "AWAY", 1.0)


COUNT = ("ns=2;s=Count", "count")


async def test_changes_become_readings_with_their_quality_and_time(works: Works) -> None:
    plant = await works.plant()
    works.connected(
        100,
        plant.port,
        ("ns=2;s=Level", "level"),
        ("nsu=urn:plant:things;s=Name", "name"),
        ("ns=2;s=Open", "open"),
        ("ns=2;s=None", "none"),
    )
    door = await works.opcua()
    await works.until_read(100, "level", 1.0)
    await plant.tell("level 2.5")
    await works.until_read(100, "level", 2.5)
    assert (await works.readings(100, "name"), await works.readings(100, "open")) == (["一号罐"], [1.0])
    await plant.tell("status Level BadSensorFailure")

    async def bad() -> Any:
        last = Batch.decode((await works.stored())[-1])
        return last if last.r_quality.tolist() == [BAD] else None

    last = await eventually(bad)
    assert last.protocol == "opcua"
    samples, refusals = codec.decode(list(last.raws())[-1])
    assert refusals == []
    assert samples[0][0] == last.r_ts.tolist()[-1]
    assert list(door.stats()["refused_nodes"].values()) == ["BadNodeIdUnknown"]
    assert door.stats()["connections"] == 1


async def test_a_folder_is_browsed_and_a_deadband_is_the_servers(works: Works) -> None:
    plant = await works.plant()
    works.connected(
        100, plant.port, folders=[{"node": "ns=2;s=Plant", "prefix": "p"}, {"node": "ns=2;s=Boiler", "device": "d1"}]
    )
    works.connected(102, plant.port, ("ns=2;s=Level", "level"))
    with contextlib.closing(sqlite3.connect(works.home / "devices.db")) as db, db:
        (text,) = db.execute("SELECT document FROM device_opcua WHERE entity_no = 102").fetchone()
        document = json.loads(text)
        document["nodes"][0]["deadband"] = 5.0
        db.execute("UPDATE device_opcua SET document = ? WHERE entity_no = 102", (json.dumps(document),))
    await works.opcua()
    await works.until_read(100, "p.Tank.Setpoint", 20.0)
    await works.until_read(100, "p.Boiler.Heat", 80.5)
    await works.until_read(101, "Heat", 80.5)
    await works.until_read(102, "level", 1.0)
    for level in (3.0, 9.0):
        await plant.tell(f"level {level}")
    await works.until_read(102, "level", 9.0)
    await works.until_read(100, "p.Tank.Level", 9.0)
    assert await works.readings(102, "level") == [1.0, 9.0]


async def test_a_cut_line_loses_nothing_and_doubles_nothing(works: Works) -> None:
    plant = await works.plant()
    line = await Line(plant.port).start()
    works.connected(100, line.port, COUNT)
    door = await works.opcua()
    await works.until_read(100, "count", 0.0)
    for _ in range(3):
        counting = asyncio.create_task(plant.tell("count 200"))
        await asyncio.sleep(0.1)
        line.closed = True
        line.cut()
        await until(lambda: door.stats()["connections"] == 0)
        await counting
        line.closed = False
        await until(lambda: door.stats()["connections"] == 1)
    await works.until_read(100, "count", 600.0)
    assert await works.readings(100, "count") == [float(number) for number in range(601)]
    assert door.counters.resumed == 3
    assert (door.counters.begun, door.counters.missed) == (1, 0)
    await line.stop()


async def test_a_server_that_was_killed_is_found_again(works: Works) -> None:
    plant = await works.plant()
    works.connected(100, plant.port, COUNT)
    door = await works.opcua()
    await works.until_read(100, "count", 0.0)
    await plant.tell("count 5")
    await works.until_read(100, "count", 5.0)
    await plant.kill()
    await until(lambda: "d0" in door.unreachable and door.stats()["connections"] == 0)
    again = await works.plant(port=plant.port)
    await until(lambda: door.stats()["connections"] == 1)
    await again.tell("count 9")
    await works.until_read(100, "count", 9.0)
    assert door.counters.begun == 2
    assert door.unreachable == {}


@pytest.mark.parametrize("mode", ["Sign", "SignAndEncrypt"])
async def test_a_secure_server_is_the_one_that_was_named(works: Works, mode: str) -> None:
    plant = await works.plant("secure")
    secure = {"security": mode, "user": "operator", "password": "secret"}
    works.connected(100, plant.port, ("ns=2;s=Level", "level"), **secure, server_certificate=plant.first)
    works.connected(101, plant.port, ("ns=2;s=Level", "level"), **secure, server_certificate="0" * 64)
    works.connected(
        102, plant.port, ("ns=2;s=Level", "level"), **{**secure, "password": "wrong"}, server_certificate=plant.first
    )
    works.connected(103, plant.port, ("ns=2;s=Level", "level"))
    door = await works.opcua()
    await works.until_read(100, "level", 1.0)
    await until(lambda: len(door.unreachable) == 3)
    assert plant.first in door.unreachable["d1"]
    assert door.unreachable["d2"]
    assert door.unreachable["d3"]
    assert (await works.readings(101, "level"), await works.readings(102, "level"), await works.readings(103, "level")) == (
        [],
        [],
        [],
    )
    assert application_certificate(works.home).stat().st_mode & 0o777 == 0o600


async def test_commands_reach_the_nodes_that_are_named_and_no_other(works: Works) -> None:
    plant = await works.plant()
    works.connected(100, plant.port, ("ns=2;s=Level", "level"), commands=["ns=2;s=Setpoint", "ns=2;s=Double", "ns=2;s=Mode"])
    door = await works.opcua()
    await until(lambda: bool(door.links))
    reports: dict[int, tuple[str, dict[str, Any]]] = {}
    door.gateway.courier.report = lambda no, entity, what, **more: reports.update({no: (what, more)})  # type: ignore[method-assign]
    target = OpcUaTarget(door, door.links["d0"], 100)

    async def told(no: int, how: str, **params: Any) -> tuple[str, dict[str, Any]]:
        target.deliver(Call(no, 100, "opcua", how, json.dumps(params), True, 10**15, 1))
        await until(lambda: no in reports)
        return reports[no]

    assert await told(1, "write", node="ns=2;s=Setpoint", value=33) == ("answered", {"result": "null"})
    assert await plant.tell("get Setpoint") == "33.0"
    assert await told(2, "call", object="ns=2;s=Tank", method="ns=2;s=Double", arguments=[21]) == (
        "answered",
        {"result": "[42.0]"},
    )
    for no, how, params, why in [
        (3, "write", {"node": "ns=2;s=Level", "value": 1}, "名单"),
        (4, "write", {"node": "ns=2;s=Setpoint", "value": "x"}, "Float"),
        (5, "write", {"node": "ns=2;s=Mode", "value": 1}, "BadUserAccessDenied"),
        (6, "call", {"object": "ns=2;s=Tank", "method": "ns=2;s=Double", "arguments": []}, "1"),
    ]:
        what, more = await told(no, how, **params)
        assert what == "refused", (no, more)
        assert why in more["error"] or no == 5, more


async def test_an_address_that_people_may_not_name_is_not_dialled(works: Works) -> None:
    works.connected(100, free_port(), ("ns=2;s=Level", "level"))
    door = await works.opcua(outbound_allow="", outbound_deny="127.0.0.1")
    await until(lambda: "d0" in door.unreachable)
    assert "127.0.0.1" in door.unreachable["d0"]


async def test_a_document_that_changed_takes_effect_and_one_that_was_removed_ends(works: Works) -> None:
    plant = await works.plant()
    works.connected(100, plant.port, ("ns=2;s=Level", "level"))
    door = await works.opcua()
    await works.until_read(100, "level", 1.0)
    works.connected(100, plant.port, ("ns=2;s=Heat", "heat"))
    door.changed("d0")
    await works.until_read(100, "heat", 80.5)
    with contextlib.closing(sqlite3.connect(works.home / "devices.db")) as db, db:
        db.execute("DELETE FROM device_opcua")
    door.forget()
    await until(lambda: not door.links)
    assert door.stats() == {}
