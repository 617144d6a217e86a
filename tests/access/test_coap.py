"""The CoAP door with a real nats-server. The judge is `aiocoap-client`, unmodified; bare datagrams show what it does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import cbor2
import pytest

from tests.access.test_gateway import TOKENS, House, command, until
from tulou.access.authenticate import Throttle
from tulou.access.batch import Batch
from tulou.access.coap import message as m
from tulou.access.coap.door import ASKING_OF, CoapDoor
from tulou.access.coap.message import Block, Message, parse
from tulou.access.gateway import Gateway


async def door_of(house: House, **changes: Any) -> CoapDoor:
    gateway = await house.gateway(coap_port=-1, **changes)
    return cast(CoapDoor, gateway.doors[0])


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.start()
    yield house
    await house.stop()


async def client(door: CoapDoor, path: str, *more: str) -> tuple[int, str]:
    """What `aiocoap-client` says."""
    return await command(sys.executable, "-W", "ignore", "-m", "aiocoap.cli.client", *more, f"coap://127.0.0.1:{door.ports[0]}{path}")


async def post(door: CoapDoor, payload: str, *more: str, token: str = TOKENS[0], kind: str = "telemetry") -> str:
    _, out = await client(door, f"/api/v1/{token}/{kind}", "-m", "POST", "--payload", payload, *more)
    return out


class Thing(asyncio.DatagramProtocol):
    """A bare client: datagrams out, messages in."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[Message] = asyncio.Queue()

    @classmethod
    async def connect(cls, door: CoapDoor) -> Thing:
        loop = asyncio.get_running_loop()
        transport, thing = await loop.create_datagram_endpoint(cls, remote_addr=("127.0.0.1", door.ports[0]))
        thing.transport = transport
        return thing

    transport: asyncio.DatagramTransport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.came.put_nowait(parse(data))

    def say(self, payload: bytes, number: int = 1, *options: tuple[int, bytes], token: str = TOKENS[0], kind: int = m.CON,
            code: int = m.POST) -> None:
        path = m.path_options(["api", "v1", token, "telemetry"])
        self.transport.sendto(Message(kind, code, number, b"tk", [*path, *options], payload).encode())

    async def answer(self) -> Message:
        async with asyncio.timeout(20):
            return await self.came.get()

    async def silent(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await self.came.get()
                return False
        return True


@pytest.mark.conformance
async def test_aiocoap_client_in_every_format(house: House) -> None:
    door = await door_of(house)
    code, out = await client(door, f"/api/v1/{TOKENS[0]}/telemetry", "-m", "POST", "--payload", '{"pm25": 18}',
                             "--content-format", "application/json")
    assert (code, out) == (0, "")
    assert await post(door, '{"ts":1775001600000,"values":{"a":1}}', kind="telemetry") == ""
    (house.home / "cbor").write_bytes(cbor2.dumps({"a": {"b": 1}}))
    assert await post(door, f"@{house.home / 'cbor'}", "--content-format", "application/cbor") == ""
    assert await post(door, '[{"n":"t","u":"Cel","v":21.5}]', "--content-format", "application/senml+json") == ""
    assert await post(door, '{"serial":"x1"}', kind="attributes") == ""
    batches = [Batch.decode(message) for message in await house.stored()]
    assert {batch.protocol for batch in batches} == {"coap"}
    assert [name for batch in batches for name in batch.props] == ["pm25", "a", "a", "t", "serial"]
    assert batches[1].r_ts.tolist() == [1_775_001_600_000_000]
    assert batches[2].r_text == {0: '{"b":1}'}
    assert batches[3].r_val.tolist() == [21.5]
    assert (await house.raws())[0] == b'{"pm25": 18}'
    _, out = await client(door, "/.well-known/core")
    assert "/api/v1" in out
    assert door.stats()["acked"] == 5


@pytest.mark.conformance
async def test_aiocoap_client_is_told_what_is_wrong(house: House) -> None:
    door = await door_of(house, max_packet=5000)
    assert "4.01 Unauthorized" in await post(door, "{}", token="nobody")
    wrong = await post(door, '{"ts":1,"values":{"a":1}}')
    assert "4.00 Bad Request" in wrong
    assert "ts=1: ts 早于 2000 年" in wrong
    assert "4.15" in await post(door, "x", "--content-format", "41")
    assert "4.00" in await post(door, '[{"n":"a b","v":1}]', "--content-format", "application/senml+json")
    assert "4.04" in (await client(door, "/nowhere"))[1]
    assert "4.05" in (await client(door, f"/api/v1/{TOKENS[0]}/telemetry"))[1]
    assert "4.13" in await post(door, '{"a":"%s"}' % ("x" * 6000))
    assert {letter["protocol"] for letter in await house.dead()} == {"coap"}
    assert len(await house.dead()) == 2
    assert await house.raws() == [b'{"ts":1,"values":{"a":1}}', (await house.raws())[1]]


@pytest.mark.conformance
async def test_aiocoap_client_sends_large_messages_in_blocks(house: House) -> None:
    door = await door_of(house)
    payload = '{"a":"%s"}' % ("x" * 30_000)
    assert await post(door, payload) == ""
    assert await house.raws() == [payload.encode()]
    assert door.endpoint.transfers.held == 0


async def test_acknowledged_means_stored_and_a_repeat_is_stored_once(house: House) -> None:
    door = await door_of(house)
    thing = await Thing.connect(door)
    for _ in range(3):
        thing.say(b'{"a":1}', 7)
        answer = await thing.answer()
        assert (answer.kind, answer.code, answer.id, answer.token) == (m.ACK, m.CHANGED, 7, b"tk")
    thing.say(b'{"a":2}', 8, kind=m.NON)
    answer = await thing.answer()
    assert (answer.kind, answer.code, answer.token) == (m.NON, m.CHANGED, b"tk")
    assert await house.raws() == [b'{"a":1}', b'{"a":2}']
    assert door.stats()["repeats"] == 2


async def test_nothing_is_acknowledged_while_the_bus_is_away(house: House) -> None:
    door = await door_of(house)
    thing = await Thing.connect(door)
    thing.say(b'{"a":1}', 1)
    assert (await thing.answer()).code == m.CHANGED
    door.ingestor._timeout = 0.5
    pid = house.nats.child.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    await until(lambda: all(") T " in (thread / "stat").read_text() for thread in threads.iterdir()))
    try:
        thing.say(b'{"a":2}', 2)
        thing.say(b'{"a":2}', 2)
        assert await thing.silent()
        await until(lambda: door.ingestor.failing)
        thing.say(b'{"a":3}', 3)
        refused = await thing.answer()
        assert (refused.id, refused.code, refused.uint(m.MAX_AGE)) == (3, m.UNAVAILABLE, 5)
    finally:
        os.kill(pid, signal.SIGCONT)
    answer = await thing.answer()
    assert (answer.id, answer.code) == (2, m.CHANGED)
    assert await house.raws() == [b'{"a":1}', b'{"a":2}']


async def test_a_disabled_device_is_refused_at_once(house: House) -> None:
    door = await door_of(house)
    thing = await Thing.connect(door)
    thing.say(b'{"a":1}', 1)
    assert (await thing.answer()).code == m.CHANGED
    with contextlib.closing(sqlite3.connect(house.home / "devices.db")) as db, db:
        db.execute("UPDATE devices SET status = 'disabled' WHERE id = 'd0'")
    await house.bus.changed("devices", "d0")
    await until(lambda: door.gateway.authenticator.known(TOKENS[0]) is None)
    thing.say(b'{"a":2}', 2)
    assert (await thing.answer()).code == m.UNAUTHORIZED
    thing.say(b'{"a":1}', 1)  # even the repeat of what was accepted
    assert (await thing.answer()).code == m.UNAUTHORIZED


async def test_a_flood_of_unknown_tokens_is_looked_up_a_few_at_a_time(house: House) -> None:
    door = await door_of(house)
    thing = await Thing.connect(door)
    most, find = 0, door.gateway.authenticator.authenticate

    async def slow(token: str) -> Any:
        nonlocal most
        most = max(most, len(door._asking))
        await asyncio.sleep(0.05)
        return await find(token)

    door.gateway.authenticator.authenticate = slow  # type: ignore[method-assign]
    for number in range(60):
        thing.say(b"{}", number, token=f"guess{number}")
    await until(lambda: door.refused + door.dropped + door.throttled == 60)
    assert 0 < most <= ASKING_OF
    assert door.dropped > 0
    assert len(door._asking) == 0


async def test_guessing_is_throttled_and_leaves_nothing_behind(house: House) -> None:
    door = await door_of(house)
    door.throttle = Throttle(burst=3, refill=1000)
    thing = await Thing.connect(door)
    for number in range(3):
        thing.say(b"{}", number, token=f"guess{number}")
        assert (await thing.answer()).code == m.UNAUTHORIZED
    thing.say(b"{}", 4, (m.BLOCK1, Block(0, True, 0).value()), token="guess")
    refused = await thing.answer()
    assert (refused.code, bool(refused.uint(m.MAX_AGE))) == (m.TOO_MANY, True)
    assert (len(door.endpoint.recent), door.endpoint.transfers.held, len(door._asking)) == (0, 0, 0)
    other = await Thing.connect(door)
    other.say(b'{"a":1}', 1)
    assert (await other.answer()).code == m.TOO_MANY
    await door.gateway.authenticator.authenticate(TOKENS[0])
    other.say(b'{"a":1}', 2)  # who is known comes in from there all the same
    assert (await other.answer()).code == m.CHANGED


async def test_one_device_may_not_hold_everything(house: House) -> None:
    door = await door_of(house)
    thing = await Thing.connect(door)
    await door.gateway.authenticator.authenticate(TOKENS[0])
    door._held.add("d0", (1 << 20) + 1)
    thing.say(b'{"a":1}', 1)
    assert (await thing.answer()).code == m.TOO_MANY


async def test_ping_options_and_rubbish(house: House) -> None:
    door = await door_of(house)
    thing = await Thing.connect(door)
    thing.transport.sendto(Message(m.CON, 0, 9).encode())
    assert await thing.answer() == Message(m.RST, 0, 9)
    thing.transport.sendto(bytes.fromhex("40017d34ff"))
    assert await thing.answer() == Message(m.RST, 0, 0x7D34)
    thing.say(b"{}", 3, (65001, b"critical"))
    assert (await thing.answer()).code == m.BAD_OPTION
    thing.say(b"{}", 4, (m.BLOCK1, b"\x07"))
    await door.gateway.authenticator.authenticate(TOKENS[0])
    assert (await thing.answer()).code == m.BAD_REQUEST
    for data in (b"", b"x", bytes(64), b"\xff" * 64):
        thing.transport.sendto(data)
    thing.transport.sendto(Message(m.CON, m.CONTENT, 5, b"??", [], b"x").encode())  # a response that nobody asked for
    assert await thing.answer() == Message(m.RST, 0, 5)
    thing.say(b'{"a":1}', 6)
    assert (await thing.answer()).code == m.CHANGED


async def test_cbor_and_senml_are_kept_so_that_they_can_be_read_again(house: House) -> None:
    door = await door_of(house)
    thing = await Thing.connect(door)
    sent = cbor2.dumps([{-2: "urn:dev:mac:0024befffe804ff1:", 0: "t", 2: 21.5}])
    thing.say(sent, 1, (m.CONTENT_FORMAT, m.uint(112)))
    assert (await thing.answer()).code == m.CHANGED
    (raw,) = await house.raws()
    kept = parse(raw)
    assert (kept.payload, kept.uint(m.CONTENT_FORMAT), kept.texts(m.URI_PATH)) == (sent, 112, ["telemetry"])
    batch = Batch.decode((await house.stored())[0])
    assert (batch.props, batch.r_val.tolist()) == (["t"], [21.5])


async def test_the_gateway_counts_this_door(house: House) -> None:
    gateway: Gateway = (await door_of(house)).gateway
    thing = await Thing.connect(cast(CoapDoor, gateway.doors[0]))
    thing.say(b'{"a":1}')
    await thing.answer()
    stats = gateway.stats()
    assert (stats["accepted"], stats["acked"], stats["readings"], stats["connections"]) == (1, 1, 1, 1)
    assert stats["fields"]["coap"]["datagrams"] == 1
    assert [presence["device"] for presence in gateway._presence] == ["d0"]


async def test_a_closed_port_is_closed(house: House) -> None:
    assert (await house.gateway(coap_port=0)).doors == []
