"""Applications at the MQTT door with a real nats-server: sessions, retained messages and wills that outlive the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.access.test_gateway import House, command, until
from tulou.access import hooks, mqtt
from tulou.access.gateway import Config, Gateway
from tulou.access.sessions import QUEUE
from tulou.kernel.bus import free_port
from tulou.kernel.settings import Settings

NEVER = b"\x11\xff\xff\xff\xff"


class Home(House):
    """With the streams of applications, and clients without credentials let in."""

    async def start(self, max_bytes: int = 1 << 30) -> None:
        await super().start(max_bytes)
        await self.bus.ensure(hooks.streams(SimpleNamespace(settings=Settings(home=self.home)))[3:])  # type: ignore[arg-type]

    async def gateway(self, **changes: Any) -> Gateway:
        gateway = await super().gateway(anonymous="open", **changes)
        await until(lambda: gateway.broker.ready)
        return gateway

    async def spawn(self, port: int) -> asyncio.subprocess.Process:
        config = Config(port=port, nats_url=self.nats.url, sql_url=self.sql_url, anonymous="open")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tulou.access.gateway", config.to_json(), stderr=asyncio.subprocess.DEVNULL
        )
        self.processes.append(process)
        return process


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    made = Home(tmp_path)
    await made.start()
    yield made
    await made.stop()


class App:
    """A bare client: bytes out, packets in as (first byte, body)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, level: int) -> None:
        self.reader, self.writer, self.level = reader, writer, level
        self.early: list[tuple[int, bytes]] = []

    @classmethod
    async def connect(cls, port: int, client_id: str, *, level: int = 5, patience: float = 20, **more: Any) -> App:
        """Connected; tries again while the gateway is not there or not ready."""
        async with asyncio.timeout(patience):
            while True:
                with contextlib.suppress(OSError):
                    app = cls(*await asyncio.open_connection("127.0.0.1", port), level)
                    app.send(mqtt.connect(client_id, level=level, **more))
                    head, body = await app.packet()
                    if head == 0x20 and body[1] == 0:
                        app.present = body[0]
                        return app
                    app.writer.close()
                await asyncio.sleep(0.05)

    present = 0

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def packet(self, patience: float = 20) -> tuple[int, bytes]:
        """(0, b"") at the end of the connection."""
        async with asyncio.timeout(patience):
            try:
                head = (await self.reader.readexactly(1))[0]
                size = shift = 0
                while True:
                    digit = (await self.reader.readexactly(1))[0]
                    size |= (digit & 127) << shift
                    shift += 7
                    if digit < 128:
                        return head, await self.reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0, b""

    async def subscribe(self, *filters: tuple[str, int], number: int = 1) -> bytes:
        """The reason codes."""
        self.send(mqtt.subscribe(number.to_bytes(2), list(filters), self.level))
        while True:
            head, body = await self.packet()
            if head == 0x90:
                return body[3 if self.level == 5 else 2 :]
            assert head >> 4 == 3, head
            self.early.append((head, body))

    async def message(self, patience: float = 20) -> tuple[str, bytes, int, int]:
        """The next message: topic, payload, first byte, packet id; acknowledged if QoS 1."""
        head, body = self.early.pop(0) if self.early else await self.packet(patience)
        assert head >> 4 == 3, (head, body)
        return self.read(head, body)

    def read(self, head: int, body: bytes) -> tuple[str, bytes, int, int]:
        at = 2 + int.from_bytes(body[:2])
        topic, number = body[2:at].decode(), 0
        if head & 6:
            number = int.from_bytes(body[at : at + 2])
            at += 2
        if self.level == 5:
            assert body[at] < 128
            at += 1 + body[at]
        if head & 6 == 2:
            self.send(mqtt.pubacks([number.to_bytes(2)]))
        return topic, body[at:], head, number

    async def publish(self, topic: str, payload: bytes, qos: int = 1, number: int = 1, **more: Any) -> int:
        """Published and acknowledged (QoS 1); the reason code."""
        self.send(mqtt.publish(topic.encode(), payload, qos, number.to_bytes(2) if qos else b"", level=self.level, **more))
        while qos == 1:
            head, body = await self.packet()
            if head >> 4 != 3:
                assert head == 0x40, (head, body)
                return body[2] if len(body) > 2 else 0
            self.early.append((head, body))
        return 0

    async def silent(self) -> bool:
        if self.early:
            return False
        try:
            await self.packet(0.4)
        except TimeoutError:
            return True
        return False

    async def vanish(self) -> None:
        self.writer.transport.abort()  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)


async def test_without_the_setting_nobody_comes_in_without_credentials(home: Home) -> None:
    gateway = await House.gateway(home)
    for level in (4, 5):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.ports[0])
        writer.write(mqtt.connect("c", level=level))
        answer = await reader.read(100)
        assert answer[0] == 0x20
        assert answer[3] == (0x05 if level == 4 else 0x87)


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
async def test_mosquitto_clients(home: Home, version: str) -> None:
    gateway = await home.gateway()
    port = str(gateway.ports[0])
    absent = ("-c", "-x", "3600") if version == "mqttv5" else ("-c",)
    listen = ("mosquitto_sub", "-p", port, "-V", version, "-i", "s", *absent, "-q", "2", "-t", "a/#")
    assert (await command(*listen, "-E"))[0] == 0
    for qos in "012":
        assert await command("mosquitto_pub", "-p", port, "-V", version, "-q", qos, "-t", f"a/{qos}", "-m", qos) == (0, "")
    code, out = await command(*listen, "-C", "3", "-W", "20", "-F", "%t %p %q")
    assert (code, out.split("\n")[:3]) == (0, ["a/0 0 0", "a/1 1 1", "a/2 2 2"])


@pytest.mark.parametrize("protocol", [paho.MQTTv311, paho.MQTTv5])
async def test_paho(home: Home, protocol: paho.MQTTProtocolVersion) -> None:
    gateway = await home.gateway()

    got: list[bytes] = []

    def client(name: str) -> paho.Client:
        five = protocol == paho.MQTTv5
        made = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol,
                           clean_session=None if five else False)
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = 3600
        made.on_message = lambda _client, _data, message: got.append(message.payload)
        made.connect("127.0.0.1", gateway.ports[0], **({"clean_start": False, "properties": kept} if five else {}))
        made.loop_start()
        return made

    def work() -> list[bytes]:
        subscribed = threading.Event()
        listener = client("listener")
        listener.on_subscribe = lambda *_: subscribed.set()
        listener.subscribe("p/#", 2)
        assert subscribed.wait(20)
        listener.disconnect()
        listener.loop_stop()
        speaker = client("speaker")
        for number in range(60):
            speaker.publish(f"p/{number % 3}", str(number), qos=1 + number % 2).wait_for_publish(20)
        listener = client("listener")
        until = time.monotonic() + 20
        while len(got) < 60 and time.monotonic() < until:
            time.sleep(0.05)
        for one in (listener, speaker):
            one.disconnect()
            one.loop_stop()
        return got

    assert sorted(map(int, await asyncio.to_thread(work))) == list(range(60))


async def test_retained_messages_sessions_and_wills_survive_kill_9(home: Home) -> None:
    port = free_port()
    process = await home.spawn(port)
    app = await App.connect(port, "keeps", properties=NEVER)
    assert await app.subscribe(("news/#", 1), ("$share/g/work", 1)) == b"\1\1"
    wills = await App.connect(port, "wills", properties=NEVER, will=mqtt.Will(b"news/will", b"gone", 1, False))
    other = await App.connect(port, "other")
    assert await other.publish("kept", b"1", retain=True) == 0
    assert await other.publish("kept/too", b"2", retain=True) == 0
    assert await other.publish("kept", b"", retain=True) == 0
    await app.vanish()
    assert await other.publish("news/1", b"while away") == 0
    assert await other.publish("work", b"job") == 0
    process.kill()
    await process.wait()
    del wills
    await home.spawn(port)
    app = await App.connect(port, "keeps", clean=False, properties=NEVER)
    assert app.present == 1
    got = {(await app.message())[:2] for _ in range(3)}
    assert got == {("news/1", b"while away"), ("work", b"job"), ("news/will", b"gone")}
    assert await app.silent()
    app.send(mqtt.subscribe(b"\0\7", [("kept/#", 0)], 5))
    packets = [await app.packet() for _ in range(2)]
    assert sorted(head for head, _ in packets) == [0x31, 0x90]
    assert await app.silent()


async def test_kill_9_loses_nothing_and_repeats_nothing_of_qos_2(home: Home) -> None:
    """Exactly once from publisher to subscriber (4.3.3) while the gateway is killed again and again."""
    port = free_port()
    process = await home.spawn(port)
    total = 150
    got: dict[int, list[bytes]] = {1: [], 2: []}
    half_done: set[int] = set()

    async def listen() -> None:
        first = True
        while len(set(got[1])) < total or len(got[2]) < total or half_done:
            app = await App.connect(port, "listener", clean=False, properties=NEVER)
            if first:
                await app.subscribe(("q1", 1), ("q2", 2))
                first = False
                ready.set()
            assert not (app.present == 0 and got[2])
            while True:
                head, body = await app.packet(60)
                if not head:
                    break
                if head >> 4 == 3:
                    _, payload, head, number = app.read(head, body)
                    if head & 6 == 4:
                        if number not in half_done:
                            half_done.add(number)
                            got[2].append(payload)
                        app.send(mqtt.pubrecs([number.to_bytes(2)]))
                    else:
                        got[1].append(payload)
                elif head == 0x62:
                    half_done.discard(int.from_bytes(body[:2]))
                    app.send(mqtt.pubcomp(body[:2]))
                if len(set(got[1])) >= total and len(got[2]) >= total and not half_done:
                    break

    async def speak(qos: int) -> None:
        """Ten at a time; what was not acknowledged is sent again with DUP, what was received is released again."""
        sent = 0
        under_way: dict[int, bytes] = {}
        received: set[int] = set()
        while sent < total or under_way or received:
            app = await App.connect(port, f"speaker-{qos}", clean=False, properties=NEVER)
            for number, payload in under_way.items():
                app.send(mqtt.publish(b"q%d" % qos, payload, qos, number.to_bytes(2), dup=True, level=5))
            for number in received:
                app.send(mqtt.pubrel(number.to_bytes(2)))
            while sent < total or under_way or received:
                while sent < total and len(under_way) + len(received) < 10:
                    sent += 1
                    number = sent % 40 + 1
                    under_way[number] = b"%d" % sent
                    app.send(mqtt.publish(b"q%d" % qos, b"%d" % sent, qos, number.to_bytes(2), level=5))
                head, body = await app.packet(60)
                if not head:
                    break
                number = int.from_bytes(body[:2])
                if head == 0x40:
                    under_way.pop(number, None)
                elif head == 0x50:
                    if under_way.pop(number, None) is not None:
                        received.add(number)
                    app.send(mqtt.pubrel(body[:2]))
                elif head == 0x70:
                    received.discard(number)
                await asyncio.sleep(0.002)

    ready = asyncio.Event()
    listening = asyncio.create_task(listen())
    await asyncio.wait_for(ready.wait(), 30)
    speaking = [asyncio.create_task(speak(qos)) for qos in (1, 2)]
    rng = random.Random(5)
    for _ in range(4):
        await asyncio.sleep(0.2 + rng.random() * 0.4)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        process = await home.spawn(port)
    async with asyncio.timeout(90):
        await asyncio.gather(listening, *speaking)
    assert got[2] == [b"%d" % n for n in range(1, total + 1)]
    assert set(got[1]) == {b"%d" % n for n in range(1, total + 1)}


async def test_a_slow_subscriber_costs_bounded_memory_and_loses_nothing(home: Home) -> None:
    gateway = await home.gateway()
    port = gateway.ports[0]
    slow = await App.connect(port, "slow", properties=b"\x21\0\2")
    await slow.subscribe(("flood", 1))
    speaker = await App.connect(port, "speaker")
    total = 3 * QUEUE
    for start in range(0, total, 500):
        for number in range(start, start + 500):
            speaker.send(mqtt.publish(b"flood", b"%d" % number, 1, (number % 500 + 1).to_bytes(2), level=5))
        for _ in range(500):
            assert (await speaker.packet())[0] == 0x40
    (session,) = [s for s in gateway.broker.sessions.values() if s.client_id == "slow"]
    await until(lambda: not session.live)
    assert len(session.queue) <= QUEUE
    assert len(session.inflight) <= 2
    got = [(await slow.message())[1] for _ in range(total)]
    assert got == [b"%d" % number for number in range(total)]
    await until(lambda: session.live)


async def test_take_over_and_clean_start(home: Home) -> None:
    gateway = await home.gateway()
    port = gateway.ports[0]
    first = await App.connect(port, "x", properties=NEVER)
    await first.subscribe(("t", 1))
    second = await App.connect(port, "x", clean=False, properties=NEVER)
    assert second.present == 1
    head, body = await first.packet()
    assert (head, body[0]) == (0xE0, mqtt.TAKEN_OVER)
    assert (await first.packet())[0] == 0
    assert await (await App.connect(port, "p")).publish("t", b"1") == 0
    assert (await second.message())[1] == b"1"
    await second.vanish()
    third = await App.connect(port, "x")
    assert third.present == 0
    await until(lambda: not any(s.subscriptions for s in gateway.broker.sessions.values()))


async def test_a_silent_client_leaves_its_will_even_if_it_never_closes(home: Home) -> None:
    gateway = await home.gateway()
    port = gateway.ports[0]
    listener = await App.connect(port, "listener")
    await listener.subscribe(("w", 1))
    for number in range(2):
        silent = await App.connect(port, f"silent-{number}", keep_alive=10, will=mqtt.Will(b"w", b"gone", 1, False))
        gateway.tick += 100
        for _ in range(3):  # it does not close its end, and the clock goes on
            gateway._sweep()
        assert (await listener.message())[1] == b"gone"
        head, body = await silent.packet()
        assert (head, body[0]) == (0xE0, mqtt.KEEP_ALIVE)


async def test_shared_subscriptions_deal_out_and_wait_for_somebody(home: Home) -> None:
    gateway = await home.gateway()
    port = gateway.ports[0]
    members = [await App.connect(port, f"m{n}", properties=NEVER) for n in range(2)]
    for member in members:
        assert await member.subscribe(("$share/g/work/+", 1)) == b"\1"
    assert await members[0].subscribe(("$share//a", 1), ("$share/g", 1)) == b"\x8f\x8f"
    speaker = await App.connect(port, "speaker")
    for number in range(4):
        await speaker.publish("work/a", b"%d" % number)
    dealt = [[(await member.message())[1] for _ in range(2)] for member in members]
    assert sorted(dealt[0] + dealt[1]) == [b"0", b"1", b"2", b"3"]
    for member in members:
        await member.vanish()
    for number in range(4, 8):
        await speaker.publish("work/b", b"%d" % number)
    back = await App.connect(port, "m1", clean=False, properties=NEVER)
    assert [(await back.message())[1] for _ in range(4)] == [b"4", b"5", b"6", b"7"]
    assert await back.silent()


async def test_a_wildcard_flood_and_deep_topics_are_bounded(home: Home) -> None:
    gateway = await home.gateway()
    port = gateway.ports[0]
    app = await App.connect(port, "flood")
    filters = [("/".join("+" if n >> bit & 1 else "a" for bit in range(11)), 0) for n in range(2000)]
    codes = b"".join([await app.subscribe(*filters[at : at + 200]) for at in range(0, 2000, 200)])
    assert (codes.count(0), codes.count(mqtt.QUOTA)) == (1000, 1000)
    assert await app.subscribe(("/".join("a" * 200), 0)) == bytes([mqtt.BAD_FILTER])
    assert await app.publish("/".join("a" * 200), b"x") == mqtt.NOT_ALLOWED
    assert await app.publish("$tulou/fuzhou/x/1/telemetry", b"x") == mqtt.NOT_ALLOWED
    app.send(mqtt.publish(b"/".join([b"a"] * 11), b"one copy", level=5))
    assert (await app.message())[1] == b"one copy"
    assert await app.silent()


async def test_rubbish_on_the_wire_is_survived(home: Home) -> None:
    gateway = await home.gateway()
    port = gateway.ports[0]
    good = await App.connect(port, "good")
    await good.subscribe(("#", 2))
    rng = random.Random(7)
    valid = (
        mqtt.subscribe(b"\0\1", [("a/#", 2), ("$share/g/a", 1)], 5) + mqtt.publish(b"a/b", b"x", 2, b"\0\2", level=5)
        + mqtt.pubrel(b"\0\2") + mqtt.publish(b"a", b"x", 1, b"\0\3", retain=True, level=5, properties=b"\x23\0\1\2\0\0\0\1")
        + mqtt.publish(b"", b"x", 1, b"\0\4", level=5, properties=b"\x23\0\1") + mqtt.pubacks([b"\0\1"])
        + mqtt.pubrecs([b"\0\1"]) + mqtt.pubcomp(b"\0\1") + b"\xa2\x06\0\5\0\0\1a" + b"\xc0\0" + b"\xe0\2\4\0"
    )
    for number in range(300):
        data = bytearray(valid)
        for _ in range(rng.randint(0, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        hello = mqtt.connect(f"f{number % 20}", level=5, clean=bool(number % 3), properties=NEVER if number % 2 else b"",
                             will=mqtt.Will(b"w", b"x", number % 3, False))
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(hello + data[: rng.randint(1, len(data))])
        if number % 5:
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        await asyncio.sleep(0)
        writer.close()
    await until(lambda: len(gateway.connections) == 1)
    assert await good.subscribe(("end", 1), number=9) == b"\1"
    good.send(mqtt.publish(b"end", b"still here", 1, b"\0\7", level=5))
    while True:
        head, body = await good.packet()
        assert head
        if head >> 4 == 3 and good.read(head, body)[1] == b"still here":
            break


async def test_the_bus_killed_means_no_acknowledgement_and_no_loss(home: Home) -> None:
    gateway = await home.gateway()
    port = gateway.ports[0]
    listener, speaker = await App.connect(port, "listener"), await App.connect(port, "speaker")
    await listener.subscribe(("t", 1))
    assert await speaker.publish("t", b"before") == 0
    assert (await listener.message())[1] == b"before"
    assert home.nats.child.process is not None
    home.nats.child.process.kill()
    for number in range(20):
        speaker.send(mqtt.publish(b"t", b"%d" % number, 1, (number + 1).to_bytes(2), level=5))
    for _ in range(20):
        assert (await speaker.packet(60))[0] == 0x40
    assert [(await listener.message(60))[1] for _ in range(20)] == [b"%d" % number for number in range(20)]
