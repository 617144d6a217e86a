"""The MQTT door with a real nats-server and clients that were not written here."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import ipaddress
import json
import os
import random
import shutil
import signal
import sqlite3
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgpack
import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tulou.access import mqtt
from tulou.access.batch import Batch
from tulou.access.gateway import Config, Gateway, SqlAuthenticator, Throttle
from tulou.kernel.bus import Bus, NatsServer, StreamSpec, free_port
from tulou.kernel.settings import Settings
from tulou.kernel.sql import Database

TELEMETRY = b"v1/devices/me/telemetry"
TOKENS = [f"token-{number}" for number in range(5)]
MODELS = {"Closed": {"open": False, "properties": {"pm25": ["number", 0, 1000]}}}


class House:
    """What a gateway needs: the bus with its streams, and a table of devices."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.nats = NatsServer(Settings(home=home))
        self.bus = Bus(self.nats.url)
        self.sql_url = f"sqlite:///{home / 'devices.db'}"
        self.gateways: list[Gateway] = []
        self.processes: list[asyncio.subprocess.Process] = []
        with contextlib.closing(sqlite3.connect(home / "devices.db")) as db, db:
            db.execute("CREATE TABLE devices (id TEXT PRIMARY KEY, entity_no INTEGER, org TEXT, type TEXT,"
                       " origin INTEGER, token_hash TEXT UNIQUE, status TEXT)")
            for number, token in enumerate(TOKENS):
                kind = "Closed" if number == 4 else "Open"
                db.execute("INSERT INTO devices VALUES (?, ?, 'fujian', ?, 3, ?, 'active')",
                           (f"d{number}", 100 + number, kind, hashlib.sha256(token.encode()).hexdigest()))

    async def start(self, max_bytes: int = 1 << 30) -> None:
        await self.nats.start()
        await self.bus.connect()
        await self.bus.ensure([StreamSpec("READINGS", ("tulou.readings.>",), max_bytes),
                               StreamSpec("DEAD", ("tulou.dead.>",), 1 << 28)])

    async def gateway(self, **changes: Any) -> Gateway:
        """A gateway in this process, on a free port."""
        self.database = Database(self.sql_url)
        gateway = Gateway(Config(port=-1, models=MODELS, **changes), SqlAuthenticator(self.database), self.bus)
        await gateway.start()
        self.gateways.append(gateway)
        return gateway

    async def process(self) -> tuple[asyncio.subprocess.Process, int]:
        """A gateway as its own process; returns it and its port once it listens."""
        port = free_port()
        config = Config(port=port, nats_url=self.nats.url, sql_url=self.sql_url)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tulou.access.gateway", env={**os.environ, "TULOU_GATEWAY": config.to_json()}
        )
        self.processes.append(process)
        for _ in range(500):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.02)
        return process, port

    async def stored(self, stream: str = "READINGS") -> list[bytes]:
        """Every message of the stream."""
        info = await self.bus.js.stream_info(stream)
        out = []
        for seq in range(info.state.first_seq, info.state.last_seq + 1):
            out.append((await self.bus.js.get_msg(stream, seq)).data or b"")
        return out

    async def raws(self) -> list[bytes]:
        """The raw payload of every stored frame, in order."""
        return [raw for message in await self.stored() for raw in Batch.decode(message).raws()]

    async def dead(self) -> list[dict[str, Any]]:
        return [msgpack.unpackb(message) for message in await self.stored("DEAD")]

    async def stop(self) -> None:
        for gateway in self.gateways:
            for connection in list(gateway.connections):
                connection.close("test ends")
            gateway.ingestor._tasks and [task.cancel() for task in gateway.ingestor._tasks]
            await gateway.close()
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self.gateways:
            await self.database.close()
        await self.bus.close()
        await self.nats.stop()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.start()
    yield house
    await house.stop()


class Device:
    """A bare client: bytes out, packets in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, token: str = TOKENS[0], **changes: Any) -> Device:
        device = cls(*await asyncio.open_connection("127.0.0.1", port))
        device.send(mqtt.connect(changes.pop("client_id", ""), token, **changes))
        assert await device.packet() == mqtt.connack(0)
        return device

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def packet(self) -> bytes:
        """The next packet, whole; empty at the end of the connection."""
        async with asyncio.timeout(20):
            try:
                head = await self.reader.readexactly(2)
                return head + await self.reader.readexactly(head[1])
            except (asyncio.IncompleteReadError, ConnectionError):
                return b""

    def publish(self, payload: bytes, number: int = 1, qos: int = 1, topic: bytes = TELEMETRY, dup: bool = False) -> None:
        self.send(mqtt.publish(topic, payload, qos, number.to_bytes(2) if qos else b"", dup=dup))

    async def silent(self) -> bool:
        """Whether nothing arrives in a while."""
        try:
            async with asyncio.timeout(0.3):
                await self.reader.readexactly(1)
        except TimeoutError:
            return True
        return False


def puback(number: int) -> bytes:
    return mqtt.pubacks([number.to_bytes(2)])


async def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of other people's objects
            await asyncio.sleep(0.01)


async def command(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(30):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_acknowledged_means_stored(house: House) -> None:
    gateway = await house.gateway()
    device = await Device.connect(gateway.ports[0])
    for number in range(1, 201):
        device.publish(b'{"a":%d}' % number, number)
    for number in range(1, 201):
        assert await device.packet() == puback(number)
    assert await house.raws() == [b'{"a":%d}' % number for number in range(1, 201)]
    batch = Batch.decode((await house.stored())[0])
    assert set(batch.f_entity.tolist()) == {100}
    assert batch.classes == [("fujian", "Open", 3)]
    assert batch.protocol == "mqtt"


async def test_stamps_never_repeat(house: House) -> None:
    gateway = await house.gateway()
    devices = [await Device.connect(gateway.ports[0], token) for token in TOKENS[:3]]
    for device in devices:
        for number in range(1, 101):
            device.publish(b'{"a":1}', number)
    for device in devices:
        for number in range(1, 101):
            assert await device.packet() == puback(number)
    stamps = [ts for message in await house.stored() for ts in Batch.decode(message).r_ts.tolist()]
    assert len(set(stamps)) == 300


async def test_bad_payload_is_acknowledged_when_its_dead_letter_is_durable(house: House) -> None:
    gateway = await house.gateway()
    device = await Device.connect(gateway.ports[0])
    device.publish(b'{"a":1}', 1)
    device.publish(b"[" * 10_000, 2)
    device.publish(b'{"a":2}', 3)
    device.publish(b"x", 4, topic=b"some/topic")
    assert [await device.packet() for _ in range(4)] == [puback(n) for n in (1, 2, 3, 4)]
    assert await house.raws() == [b'{"a":1}', b'{"a":2}']
    letters = {letter["raw"]: letter for letter in await house.dead()}
    assert letters[b"[" * 10_000]["entity"] == 100
    assert letters[b"[" * 10_000]["org"] == "fujian"
    assert letters[b"[" * 10_000]["topic"] == "telemetry"
    assert "nested" in letters[b"[" * 10_000]["reason"]
    assert letters[b"x"]["topic"] == "some/topic"
    assert gateway.stats()["dead"] == 2


async def test_a_flood_of_rubbish_keeps_its_order_and_holds_up_nobody_else(house: House) -> None:
    gateway = await house.gateway()
    good, bad = await Device.connect(gateway.ports[0]), await Device.connect(gateway.ports[0], TOKENS[1])
    for number in range(1, 2001):
        bad.publish(b"rubbish" if number % 10 else b'{"good":%d}' % number, number)
    await bad.writer.drain()
    await until(lambda: gateway.ingestor._lagging)
    for number in range(1, 51):
        good.publish(b'{"a":1}', number)
        assert await good.packet() == puback(number)
    assert gateway.ingestor._lagging
    for number in range(1, 2001):
        assert await bad.packet() == puback(number)
    assert len(await house.dead()) == 1800
    assert len(await house.raws()) == 250
    assert not gateway.ingestor._lagging
    assert gateway.ingestor.held == 0


async def test_models_are_kept(house: House) -> None:
    gateway = await house.gateway()
    device = await Device.connect(gateway.ports[0], TOKENS[4])
    device.publish(b'{"pm25":2000,"unknown":1}', 1)
    assert await device.packet() == puback(1)
    batch = Batch.decode((await house.stored())[0])
    assert (batch.props, batch.r_quality.tolist()) == (["pm25"], [2])
    (letter,) = await house.dead()
    assert letter["field"] == "unknown"


async def test_qos_2_is_stored_once(house: House) -> None:
    gateway = await house.gateway()
    device = await Device.connect(gateway.ports[0])
    device.publish(b'{"a":1}', 1, qos=2)
    assert await device.packet() == mqtt.pubrecs([b"\0\1"])
    device.publish(b'{"a":1}', 1, qos=2, dup=True)
    assert await device.packet() == mqtt.pubrecs([b"\0\1"])
    for _ in range(2):
        device.send(mqtt.pubrel(b"\0\1"))
        assert await device.packet() == mqtt.pubcomp(b"\0\1")
    assert await house.raws() == [b'{"a":1}']
    device.publish(b'{"a":2}', 1, qos=2)
    assert await device.packet() == mqtt.pubrecs([b"\0\1"])
    assert await house.raws() == [b'{"a":1}', b'{"a":2}']


async def test_pings_subscriptions_and_requests(house: House) -> None:
    gateway = await house.gateway()
    device = await Device.connect(gateway.ports[0])
    device.send(b"\xc0\x00")
    assert await device.packet() == mqtt.PINGRESP
    wanted = ["v1/devices/me/attributes", "v1/devices/me/attributes/response/+", "v1/devices/me/rpc/request/+",
              "#", "v1/devices/other/attributes", "$SYS/#"]
    device.send(mqtt.subscribe(b"\0\7", [(topic, 1) for topic in wanted]))
    assert await device.packet() == mqtt.suback(b"\0\7", [1, 1, 1, 128, 128, 128])
    device.publish(b'{"clientKeys":"a"}', 2, topic=b"v1/devices/me/attributes/request/3")
    got = {await device.packet(), await device.packet()}
    assert got == {mqtt.publish(b"v1/devices/me/attributes/response/3", b'{"error":"not available now"}'), puback(2)}
    device.send(b"\xa2\x05\x00\x08\x00\x01#")
    assert await device.packet() == mqtt.unsuback(b"\0\x08")


@pytest.mark.parametrize("bad", [
    b"\x36\x07\x00\x01a\x00\x01xx", b"\xf0\x00", mqtt.connect("again", TOKENS[0]), b"\x30\xff\xff\xff\x7f",
    mqtt.publish(b"a/#", b"x"), b"\x32\x07\x00\x01a\x00\x00xx",
])
async def test_a_broken_rule_closes_only_that_connection(house: House, bad: bytes) -> None:
    gateway = await house.gateway()
    good, broken = await Device.connect(gateway.ports[0]), await Device.connect(gateway.ports[0], TOKENS[1])
    broken.send(bad)
    assert await broken.packet() == b""
    good.publish(b'{"a":1}')
    assert await good.packet() == puback(1)
    assert gateway.stats()["protocol_errors"] == 1


async def test_rubbish_on_the_wire_is_survived(house: House, caplog: pytest.LogCaptureFixture) -> None:
    gateway = await house.gateway()
    good = await Device.connect(gateway.ports[0])
    rng = random.Random(4)
    valid = (
        mqtt.connect("", TOKENS[1]) + mqtt.publish(TELEMETRY, b'{"a":1}', 1, b"\0\1")
        + mqtt.publish(TELEMETRY, b'{"a":1}', 2, b"\0\2") + mqtt.pubrel(b"\0\2")
        + mqtt.subscribe(b"\0\3", [("v1/devices/me/attributes", 1)]) + b"\xc0\x00"
        + mqtt.publish(b"v1/devices/me/rpc/request/1", b'{"method":"getSessionLimits"}') + b"\xe0\x00"
    )
    for number in range(200):
        data = bytearray(valid if number % 2 else rng.randbytes(rng.randint(1, 60)))
        for _ in range(rng.randint(0, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.ports[0])
        writer.write(data[: rng.randint(1, len(data))])
        writer.close()
    await until(lambda: len(gateway.connections) == 1)
    good.publish(b'{"a":1}')
    assert await good.packet() == puback(1)
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


async def test_a_change_while_a_token_is_looked_up_is_not_missed(tmp_path: Path) -> None:
    class Slow:
        """A store that answers after the device was revoked: first the old row, then the truth."""

        def __init__(self) -> None:
            self.answers: list[Any] = [(1, "fujian", "Open", 0, "d0"), None]
            self.authenticator: SqlAuthenticator | None = None

        def point(self, statement: str) -> Any:
            async def lookup(digest: str) -> Any:
                if len(self.answers) == 2 and self.authenticator is not None:
                    self.authenticator.forget("d0")
                return self.answers.pop(0)

            return lookup

    store = Slow()
    store.authenticator = SqlAuthenticator(store)  # type: ignore[arg-type]
    assert await store.authenticator.authenticate("token") is None
    assert store.authenticator.known("token") is None


async def test_refused_connections(house: House) -> None:
    gateway = await house.gateway()
    for hello, code in [
        (mqtt.connect("c", "wrong"), mqtt.NOT_AUTHORISED), (mqtt.connect("c"), mqtt.NOT_AUTHORISED),
        (mqtt.connect("", TOKENS[0], clean=False), mqtt.BAD_CLIENT_ID),
        (b"\x10\x0b\x00\x04MQTT\x06\x02\x00\x00\x00\x00", mqtt.BAD_LEVEL),
    ]:
        device = Device(*await asyncio.open_connection("127.0.0.1", gateway.ports[0]))
        device.send(hello)
        assert await device.packet() == mqtt.connack(code)
        assert await device.packet() == b""


async def test_packets_sent_with_connect_wait_for_the_answer(house: House) -> None:
    gateway = await house.gateway()
    device = Device(*await asyncio.open_connection("127.0.0.1", gateway.ports[0]))
    device.send(mqtt.connect("c", TOKENS[0]) + mqtt.publish(TELEMETRY, b'{"a":1}', 1, b"\0\1"))
    assert await device.packet() == mqtt.connack(0)
    assert await device.packet() == puback(1)


async def test_guessing_is_throttled_but_known_devices_still_get_in(house: House) -> None:
    gateway = await house.gateway()
    gateway.throttle = Throttle(burst=3, refill=1000)
    await Device.connect(gateway.ports[0])
    codes = []
    for number in range(5):
        device = Device(*await asyncio.open_connection("127.0.0.1", gateway.ports[0]))
        device.send(mqtt.connect("c", f"guess-{number}"))
        codes.append((await device.packet())[3])
    assert codes == [5, 5, 5, 3, 3]
    await Device.connect(gateway.ports[0])


def test_the_throttle_is_bounded() -> None:
    throttle = Throttle(burst=1, size=100)
    for number in range(1000):
        throttle.failed(str(number))
    assert throttle.wait("0") == 0
    assert throttle.wait("999") > 0
    assert len(throttle._spent) == 100


async def test_a_revoked_token_is_disconnected_and_stays_out(house: House) -> None:
    gateway = await house.gateway()
    device, other = await Device.connect(gateway.ports[0]), await Device.connect(gateway.ports[0], TOKENS[1])
    with contextlib.closing(sqlite3.connect(house.home / "devices.db")) as db, db:
        db.execute("UPDATE devices SET status = 'revoked' WHERE id = 'd0'")
    await house.bus.changed("devices", "d0")
    assert await device.packet() == b""
    device = Device(*await asyncio.open_connection("127.0.0.1", gateway.ports[0]))
    device.send(mqtt.connect("c", TOKENS[0]))
    assert await device.packet() == mqtt.connack(mqtt.NOT_AUTHORISED)
    other.publish(b'{"a":1}')
    assert await other.packet() == puback(1)


async def test_the_same_client_id_takes_over_but_only_of_the_same_device(house: House) -> None:
    gateway = await house.gateway()
    first = await Device.connect(gateway.ports[0], client_id="x")
    stranger = await Device.connect(gateway.ports[0], TOKENS[1], client_id="x")
    second = await Device.connect(gateway.ports[0], client_id="x")
    assert await first.packet() == b""
    for device in (stranger, second):
        device.publish(b'{"a":1}')
        assert await device.packet() == puback(1)


async def test_a_will_is_stored_unless_the_client_says_goodbye(house: House) -> None:
    gateway = await house.gateway()
    for payload, goodbye in ((b'{"lost":1}', b""), (b'{"lost":2}', b"\xe0\x00")):
        device = await Device.connect(gateway.ports[0], will=mqtt.Will(TELEMETRY, payload, 1, False))
        device.send(goodbye)
        await device.writer.drain()
        device.writer.close()
        await until(lambda: not gateway.connections)
    await until(lambda: gateway.ingestor.counters.acked == 1)
    assert await house.raws() == [b'{"lost":1}']


async def test_silent_clients_are_closed_by_the_clock(house: House) -> None:
    gateway = await house.gateway()
    mute = Device(*await asyncio.open_connection("127.0.0.1", gateway.ports[0]))
    slow = Device(*await asyncio.open_connection("127.0.0.1", gateway.ports[0]))
    slow.send(b"\x10\x20\x00")
    sleepy = await Device.connect(gateway.ports[0], keep_alive=10)
    awake = await Device.connect(gateway.ports[0], TOKENS[1], keep_alive=0)
    await until(lambda: len(gateway.connections) == 4)
    gateway.tick += 100
    gateway._sweep()
    for device in (mute, slow, sleepy):
        assert await device.packet() == b""
    awake.publish(b'{"a":1}')
    assert await awake.packet() == puback(1)


async def test_too_many_connections(house: House) -> None:
    gateway = await house.gateway(max_connections=2)
    first, _second = await Device.connect(gateway.ports[0]), await Device.connect(gateway.ports[0], TOKENS[1])
    third = Device(*await asyncio.open_connection("127.0.0.1", gateway.ports[0]))
    assert await third.packet() == b""
    first.publish(b'{"a":1}')
    assert await first.packet() == puback(1)


async def test_bus_killed_nothing_acknowledged_is_lost_and_nothing_stored_twice(house: House) -> None:
    gateway = await house.gateway(high=200_000)
    device = await Device.connect(gateway.ports[0])
    device.publish(b'{"a":0}', 1)
    assert await device.packet() == puback(1)
    assert house.nats.child.pid is not None
    os.kill(house.nats.child.pid, signal.SIGKILL)
    padding = b"x" * 1000
    for number in range(1, 2001):
        device.publish(b'{"a":%d,"padding":"%s"}' % (number, padding), number)
    await until(lambda: gateway.ingestor.pressed)
    assert gateway.stats()["paused"]
    gateway.tick += 1000
    gateway._sweep()  # a paused client is not late
    for number in range(1, 2001):
        assert await device.packet() == puback(number)
    assert not gateway.ingestor.pressed
    stored = [json.loads(raw)["a"] for raw in await house.raws()]
    assert sorted(stored) == list(range(2001))


async def test_a_full_stream_stops_acknowledgements_until_there_is_room(tmp_path: Path) -> None:
    house = House(tmp_path)
    # Room for the largest batch, which holds each of these payloads as a frame and as a text: one that never fits waits for ever.
    await house.start(max_bytes=2_500_000)
    try:
        gateway = await house.gateway(high=500_000)
        device = await Device.connect(gateway.ports[0])
        payload = b'{"a":"%s"}' % (b"x" * 1000)
        for number in range(1, 3001):
            device.publish(payload, number)
        await until(lambda: gateway.ingestor.failing and gateway.ingestor.pressed)
        assert gateway.ingestor.held < 500_000 + 300_000

        async def drain() -> None:
            while True:
                await house.bus.js.purge_stream("READINGS")
                await asyncio.sleep(0.05)

        draining = asyncio.create_task(drain())
        for number in range(1, 3001):
            assert await device.packet() == puback(number)
        draining.cancel()
    finally:
        await house.stop()


async def test_statistics_and_presence_are_announced(house: House) -> None:
    stats, presence = [], []

    async def on_stats(message: Any) -> None:
        stats.append(json.loads(message.data))

    async def on_presence(message: Any) -> None:
        presence.extend(json.loads(message.data))

    await house.bus.nc.subscribe("tulou.stats.gateway", cb=on_stats)
    await house.bus.nc.subscribe("tulou.presence", cb=on_presence)
    gateway = await house.gateway()
    device = await Device.connect(gateway.ports[0])
    device.writer.close()
    await until(lambda: stats and len(presence) >= 2)
    assert [(p["entity"], p["device"], p["online"]) for p in presence] == [(100, "d0", True), (100, "d0", False)]
    assert stats[-1]["rss"] > 1_000_000


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
async def test_mosquitto_clients(house: House, version: str) -> None:
    gateway = await house.gateway()
    port = str(gateway.ports[0])
    for qos in "012":
        code, out = await command("mosquitto_pub", "-p", port, "-u", TOKENS[0], "-q", qos, "-V", version,
                                  "-t", TELEMETRY.decode(), "-m", f'{{"qos":{qos}}}')
        assert (code, out) == (0, "")
    await until(lambda: gateway.ingestor.counters.acked == 3)
    assert await house.raws() == [b'{"qos":0}', b'{"qos":1}', b'{"qos":2}']
    code, out = await command("mosquitto_pub", "-p", port, "-u", "wrong", "-V", version, "-t", "t", "-m", "x")
    assert code == (5 if version == "mqttv311" else 135)
    assert "not authori" in out.lower()
    code, out = await command("mosquitto_rr", "-p", port, "-u", TOKENS[0], "-V", version, "-W", "10",
                              "-t", "v1/devices/me/attributes/request/1", "-m", "{}",
                              "-e", "v1/devices/me/attributes/response/1")
    assert (code, out.strip()) == (0, '{"error":"not available now"}'), "there is no house behind this gateway"


@pytest.mark.parametrize("protocol", [paho.MQTTv311, paho.MQTTv5])
async def test_paho(house: House, protocol: paho.MQTTProtocolVersion) -> None:
    gateway = await house.gateway()

    def work() -> list[bool]:
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="paho", protocol=protocol)
        client.username_pw_set(TOKENS[0])
        client.connect("127.0.0.1", gateway.ports[0], keepalive=5)
        client.loop_start()
        sent = [client.publish(TELEMETRY.decode(), json.dumps({"qos": n % 3, "n": n}), qos=n % 3) for n in range(60)]
        for info in sent:
            info.wait_for_publish(20)
        done = [info.is_published() for info in sent]
        client.disconnect()
        client.loop_stop()
        return done

    assert all(await asyncio.to_thread(work))
    await until(lambda: gateway.ingestor.counters.acked == 60)
    assert sorted(json.loads(raw)["n"] for raw in await house.raws()) == list(range(60))


TB_CLIENT = """
import json, sys, threading
from tb_device_mqtt import TBDeviceMqttClient

client = TBDeviceMqttClient("127.0.0.1", int(sys.argv[1]), sys.argv[2])
client.connect(timeout=10)
results = [
    client.send_telemetry({"temperature": 21.5}).get(),
    client.send_telemetry({"ts": 1700000000000, "values": {"temperature": 22}}).get(),
    client.send_telemetry([{"ts": 1700000001000, "values": {"temperature": 23}}]).get(),
    client.send_attributes({"firmware": "1.2"}).get(),
]
answered, answers = threading.Event(), []
client.request_attributes(["firmware"], callback=lambda content, *rest: (answers.append(content), answered.set()))
answered.wait(10)
print(json.dumps([results, answers]), flush=True)
client.disconnect()
client.stop()
"""


async def test_tb_mqtt_client(house: House) -> None:
    gateway = await house.gateway()
    code, out = await command(sys.executable, "-c", TB_CLIENT, str(gateway.ports[0]), TOKENS[0])
    assert (code, json.loads(out.splitlines()[-1])) == (0, [[0, 0, 0, 0], [{"error": "not available now"}]]), out
    rows = {}
    for message in await house.stored():
        batch = Batch.decode(message)
        for n in range(len(batch.r_val)):
            rows[batch.r_text.get(n, float(batch.r_val[n]))] = int(batch.r_ts[n])
    assert set(rows) == {21.5, 22.0, 23.0, "1.2"}
    assert rows[22.0] == 1_700_000_000_000_000


def certificate(home: Path, address: str = "127.0.0.1") -> tuple[Path, Path]:
    """A self-signed certificate for an address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tulou test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (home / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (home / "key.pem").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))
    return home / "cert.pem", home / "key.pem"


async def test_tls(house: House, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    gateway = await house.gateway(tls_port=-1, tls_certificate=str(cert), tls_key=str(key))
    code, out = await command(
        "mosquitto_pub", "-h", "127.0.0.1", "-p", str(gateway.ports[1]), "--cafile", str(cert), "-u", TOKENS[0], "-q", "1",
        "-t", TELEMETRY.decode(), "-m", '{"tls":1}',
    )
    assert (code, out) == (0, "")
    assert await house.raws() == [b'{"tls":1}']
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", gateway.ports[1], ssl=old)


@pytest.mark.skipif(not shutil.which("nats-server", path=str(Path(sys.executable).parent)), reason="needs the wheel")
async def test_kill_9_of_gateway_and_bus_loses_nothing_acknowledged(house: House) -> None:
    acknowledged: set[tuple[int, int]] = set()
    for round_ in range(3):
        process, port = await house.process()

        async def load(which: int, port: int = port, round_: int = round_) -> None:
            with contextlib.suppress(OSError, AssertionError):
                device = await Device.connect(port, TOKENS[which])
                base = round_ * 100_000
                number = 0
                while number < 60_000:
                    for _ in range(50):
                        number += 1
                        device.publish(b'{"w":%d,"n":%d}' % (which, base + number), number)
                    for n in range(number - 49, number + 1):
                        if await device.packet() != puback(n):
                            return
                        acknowledged.add((which, base + n))

        clients = [asyncio.create_task(load(which)) for which in range(4)]
        before = len(acknowledged)
        await until(lambda before=before: len(acknowledged) > before + 500)
        assert house.nats.child.pid is not None
        os.kill(house.nats.child.pid, signal.SIGKILL)
        process.kill()
        await process.wait()
        await asyncio.gather(*clients)
        await asyncio.sleep(0.5)
        await until(lambda: house.bus.nc.is_connected)
    stored = [(doc["w"], doc["n"]) for doc in map(json.loads, await house.raws())]
    assert acknowledged <= set(stored)
    assert len(stored) == len(set(stored))


async def test_sigterm_under_load_acknowledges_what_it_stored_and_ends(house: House) -> None:
    process, port = await house.process()
    device = await Device.connect(port)
    for number in range(1, 5001):
        device.publish(b'{"n":%d}' % number, number)
    assert await device.packet() == puback(1)
    process.terminate()
    acknowledged = 1
    while packet := await device.packet():
        acknowledged += 1
        assert packet == puback(acknowledged)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    stored = [json.loads(raw)["n"] for raw in await house.raws()]
    assert stored == list(range(1, len(stored) + 1))
    assert len(stored) >= acknowledged
