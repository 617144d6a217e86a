"""Every listener of the gateway against who costs it something: connections that say nothing, that do not end what they begin, that send
garbage or too much, and too many of one address or one device. docs/security.md lists what bounds what."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.access.camera import REALM, SERVER
from tests.access.test_field import Fields, answer, data
from tests.access.test_gateway import TOKENS, certificate, until
from tests.access.test_hj212 import MN
from tulou.access import mqtt
from tulou.access.authenticate import SqlAuthenticator
from tulou.access.gateway import Config, Gateway, rss
from tulou.access.supervise import gateway_config, start_gateway
from tulou.kernel.bus import StreamSpec, free_port
from tulou.kernel.house import House
from tulou.kernel.settings import Settings
from tulou.kernel.sql import Database

FIELDS = ("hj212", "jt808", "gb32960", "sl651", "ais")
BEGUN = {
    "mqtt": b"\x10\xff\xff\x03\x00\x04MQTT", "hj212": b"##0900QN=2026", "jt808": b"\x7e\x02\x00", "gb32960": b"##\x02\xfeLFV", "sl651": b"\x7e\x7e\x01\x02",
    "ais": b"!AIVDM,1,1,,A,", "gb28181": b"MESSAGE sip:x SIP/2.0\r\nVia: ", "ocpp": b"GET /ocpp/CP-1 HTTP/1.1\r\nHost: ", "dtu": b"",
}
"""How a message begins, that then does not end."""
LISTENERS = [*BEGUN, "mqtts", *(f"{name}-tls" for name in FIELDS), "gb28181-tls", "ocpps", "dtu-tls"]


class Doors(Fields):
    """Every listener, in this process."""

    at: dict[str, int]
    here: Gateway

    async def open(self, **changes: Any) -> Doors:
        with contextlib.closing(sqlite3.connect(self.home / "devices.db")) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS device_polls (entity_no INTEGER PRIMARY KEY, dials BOOLEAN, document TEXT)")
        await self.bus.ensure([StreamSpec("GB28181", ("tulou.gb28181.>",), 1 << 28, last_only=True)])
        cert, key = certificate(self.home)
        ports = {name: free_port() for name in LISTENERS}
        self.at = {**ports, "coap": free_port(), "ais-udp": free_port()}
        self.database = Database(self.sql_url)
        config = Config(
            port=ports["mqtt"], tls_port=ports["mqtts"], ocpp_port=ports["ocpp"], ocpps_port=ports["ocpps"], coap_port=self.at["coap"],
            tls_certificate=str(cert), tls_key=str(key), connect_timeout=2, outbound={}, **changes,
            fields={name: {"codec": f"tulou.access.protocols.{name}", "port": ports[name], "tls_port": ports[f"{name}-tls"],
                           "udp_port": self.at["ais-udp"] if name == "ais" else 0} for name in (*FIELDS, "dtu")},
            gb28181={"port": ports["gb28181"], "tls_port": ports["gb28181-tls"], "server": SERVER, "realm": REALM, "media": ""},
        )
        self.here = Gateway(config, SqlAuthenticator(self.database), self.bus, self.database)
        await self.here.start()
        self.gateways.append(self.here)
        return self

    async def connect(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        trust = None
        if name.endswith("-tls") or name in ("mqtts", "ocpps"):
            trust = ssl.create_default_context(cafile=str(self.here.config.tls_certificate))
            trust.check_hostname = False
        return await asyncio.open_connection("127.0.0.1", self.at[name], ssl=trust)

    def pass_by(self, seconds: int) -> None:
        """Time goes by for every door."""
        self.here.tick += seconds
        self.here._sweep()
        for door in self.here.doors:
            door.sweep()
        assert self.here.polls is not None
        self.here.polls.sweep()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def doors(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Doors]:
    made = Doors(tmp_path_factory.mktemp("doors"))
    await made.start()
    yield await made.open(max_connections_address=400, max_connections_device=3)
    await made.stop()


async def ended(reader: asyncio.StreamReader, seconds: float = 20) -> bool:
    """Whether the other side ends the connection, whatever it says before."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        async with asyncio.timeout(seconds):
            while await reader.read(65536):
                pass
    return True


async def empty(doors: Doors) -> None:
    """Everybody is gone, also who spoke by datagrams that were still to be read."""
    async with asyncio.timeout(20):
        while doors.here._addresses:
            doors.pass_by(40_000)
            await asyncio.sleep(0.05)


async def works(doors: Doors) -> None:
    """A device among all this is answered."""
    reader, writer = await doors.connect("hj212")
    writer.write(data(1))
    async with asyncio.timeout(20):
        assert await reader.readline() == answer()
    writer.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", LISTENERS)
async def test_who_says_nothing_and_who_does_not_end_what_he_begins_is_closed(doors: Doors, name: str) -> None:
    silent, _writer = await doors.connect(name)
    slow, slowly = await doors.connect(name)
    plain = name.removesuffix("-tls").replace("mqtts", "mqtt").replace("ocpps", "ocpp")
    slowly.write(BEGUN[plain])
    ends = [asyncio.create_task(ended(one)) for one in (silent, slow)]
    for _ in range(75):
        await asyncio.sleep(0.005)
        if all(one.done() for one in ends):
            break
        with contextlib.suppress(ConnectionError):
            slowly.write(b"0")  # one byte now and then does not keep it open
        doors.pass_by(10 if not ends[1].done() else 600)
    async with asyncio.timeout(20):
        assert await asyncio.gather(*ends) == [True, True]
    await works(doors)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", [one for one in LISTENERS if "tls" in one or one in ("mqtts", "ocpps")])
async def test_a_handshake_of_tls_that_does_not_come_is_given_up(doors: Doors, name: str) -> None:
    reader, _writer = await asyncio.open_connection("127.0.0.1", doors.at[name])
    assert await ended(reader), "after connect_timeout"
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", doors.at[name], ssl=old)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", list(BEGUN))
@pytest.mark.parametrize("what", [b"\x00\xff\xfeGET / HTTP/1.1\r\n\r\n", b"A"])
async def test_garbage_and_what_is_too_long_end_the_connection_and_cost_no_memory(doors: Doors, name: str, what: bytes) -> None:
    before = rss()
    connections = [await doors.connect(name) for _ in range(10)]

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        sent, chunk = 0, (BEGUN[name] if len(what) == 1 else b"") + what * (65536 // len(what))
        with contextlib.suppress(ConnectionError):
            while sent < 8 << 20 and not reader.at_eof():
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
                await asyncio.sleep(0)
        return sent

    floods = [asyncio.create_task(flood(*one)) for one in connections]
    async with asyncio.timeout(60):
        await asyncio.wait(floods)
    doors.pass_by(40_000)
    for reader, _ in connections:
        assert await ended(reader)
    assert rss() - before < 40 << 20, "ten connections that were sent 80 MB"
    await works(doors)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ["coap", "gb28181", "ais-udp"])
async def test_garbage_by_udp_costs_no_memory(doors: Doors, name: str) -> None:
    before = rss()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect(("127.0.0.1", doors.at[name]))
        for number in range(20_000):
            with contextlib.suppress(ConnectionError, BlockingIOError):
                udp.send(bytes((number & 255, number >> 8 & 255)) * (30 + number % 600))
            if number % 200 == 0:
                await asyncio.sleep(0)
    assert rss() - before < 20 << 20
    await works(doors)


@pytest.mark.asyncio(loop_scope="module")
async def test_an_address_has_so_many_connections_at_all_doors_together(doors: Doors) -> None:
    await empty(doors)
    names = [name for name in BEGUN if name != "dtu"]
    held = [await doors.connect(names[number % len(names)]) for number in range(400)]
    await until(lambda: doors.here._addresses.get("127.0.0.1") == 400)
    for name in BEGUN:
        reader, _ = await doors.connect(name)
        assert await ended(reader), name
    elsewhere = socket.socket()
    elsewhere.bind(("127.0.0.2", 0))
    elsewhere.setblocking(False)
    await asyncio.get_running_loop().sock_connect(elsewhere, ("127.0.0.1", doors.at["hj212"]))
    reader, writer = await asyncio.open_connection(sock=elsewhere)
    writer.write(data(2))
    async with asyncio.timeout(20):
        assert await reader.readline() == answer(), "another address comes in"
    writer.close()
    for _, one in held:
        one.close()
    await empty(doors)
    await works(doors)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_device_has_so_many_connections(doors: Doors) -> None:
    async def come(client_id: str, level: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        reader, writer = await doors.connect("mqtt")
        writer.write(mqtt.connect(client_id, TOKENS[0], level=level))
        async with asyncio.timeout(20):
            head = await reader.readexactly(2)
            return reader, writer, head + await reader.readexactly(head[1])

    held = [await come(f"c{number}", 4) for number in range(3)]
    assert [one[2][3] for one in held] == [0, 0, 0]
    for level, code in ((4, 3), (5, 0x97)):
        reader, _, told = await come("more", level)
        assert told[3] == code
        assert await ended(reader)
    again = await come("c0", 4)
    assert again[2][3] == 0, "who takes over his own connection needs no room"
    for _, writer, _ in [*held, again]:
        writer.close()

    stations = [await doors.connect("hj212") for _ in range(4)]
    for reader, writer in stations[:3]:
        writer.write(data(3, MN))
        async with asyncio.timeout(20):
            assert await reader.readline() == answer()
    stations[3][1].write(data(4, MN))
    async with asyncio.timeout(20):
        assert await stations[3][0].readline() == b""
    for _, writer in stations:
        writer.close()


async def test_listeners_are_bound_and_closed_by_settings(tmp_path: Path) -> None:
    closed = House(Settings(home=tmp_path / "a", mqtt_port=0))
    await closed.start(("gateway", "api"))
    try:
        config = gateway_config(closed)
        ports = [config.port, config.tls_port, config.coap_port, config.ocpp_port, config.ocpps_port]
        assert (ports, config.fields, config.gb28181) == ([0] * 5, {}, None)
        assert await start_gateway(closed) is None, "no port, no process"
    finally:
        await closed.stop()
    cert, key = certificate(tmp_path)
    at = {name: free_port() for name in ("mqtt", "mqtts", "hj212", "hj212s", "ais", "coap", "sip", "sips", "ocpp", "ocpps")}
    house = House(Settings(
        home=tmp_path / "b", mqtt_port=at["mqtt"], mqtts_port=at["mqtts"], field_ports=f"hj212={at['hj212']}", field_tls_ports=f"hj212={at['hj212s']}",
        field_udp_ports=f"ais={at['ais']}", coap_port=at["coap"], gb28181_port=at["sip"], gb28181_tls_port=at["sips"], ocpp_port=at["ocpp"],
        ocpps_port=at["ocpps"], tls_certificate=str(cert), tls_key=str(key), max_connections_address=7, max_connections_device=5,
    ))
    await house.start(("gateway", "api"))
    try:
        await start_gateway(house)
        config = gateway_config(house)
        assert (config.max_connections_address, config.max_connections_device) == (7, 5)
        for name in ("mqtt", "hj212", "sip", "ocpp"):
            _, writer = await asyncio.open_connection("127.0.0.1", at[name])
            writer.close()
        trust = ssl.create_default_context(cafile=str(cert))
        trust.check_hostname = False
        for name in ("mqtts", "hj212s", "sips", "ocpps"):
            _, writer = await asyncio.open_connection("127.0.0.1", at[name], ssl=trust)
            assert writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
            writer.close()
        for name in ("coap", "ais", "sip"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, pytest.raises(OSError, match="in use"):
                udp.bind(("127.0.0.1", at[name]))
    finally:
        await house.stop()
