"""The LwM2M server with a real nats-server. The client is written here, on aiocoap; what a client that is not ours says is
in docs/coap.md (wakaama's lightclient, run by hand)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import aiocoap
import cbor2
import orjson
import pytest
from aiocoap import resource

from tests.access.test_gateway import House, until
from tulou.access.authenticate import SqlAuthenticator
from tulou.access.batch import Batch
from tulou.access.coap import message as m
from tulou.access.coap.endpoint import Lost
from tulou.access.coap.message import Message, parse
from tulou.access.gateway import Config, Gateway
from tulou.access.lwm2m import server, tlv
from tulou.access.lwm2m.server import Lwm2mDoor
from tulou.kernel.bus import free_port
from tulou.kernel.sql import Database

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ENDPOINT = "urn:imei:350001230000001"
MODELS = {"Mapped": {"open": False, "properties": {"temperature": ["number", -50, 60]}, "lwm2m": {"3303/0/5700": "temperature"}}}


class Endpoints(House):
    """Devices 100 (open model), 101 (its model maps a resource), and 102, disabled; endpoint names end in 1 to 3."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        with contextlib.closing(sqlite3.connect(home / "devices.db")) as db, db:
            db.execute("CREATE TABLE device_identities (protocol TEXT, identity TEXT, entity_no INTEGER,"
                       " password_hash TEXT, PRIMARY KEY (protocol, identity))")
            db.execute("UPDATE devices SET type = 'Mapped' WHERE entity_no = 101")
            db.execute("UPDATE devices SET status = 'disabled' WHERE entity_no = 102")
            for number in range(3):
                db.execute("INSERT INTO device_identities VALUES ('lwm2m', ?, ?, '')", (f"{ENDPOINT[:-1]}{number + 1}", 100 + number))

    async def door(self, **changes: Any) -> Lwm2mDoor:
        self.database = Database(self.sql_url)
        config = Config(port=0, coap_port=-1, lwm2m=True, models=MODELS, **changes)
        gateway = Gateway(config, SqlAuthenticator(self.database), self.bus, self.database)
        await gateway.start()
        self.gateways.append(gateway)
        return cast(Lwm2mDoor, gateway.doors[1])

    async def values(self) -> list[tuple[int, str, float]]:
        """Every stored reading: entity, property, value."""
        found = []
        for message in await self.stored():
            batch = Batch.decode(message)
            found += list(zip(batch.r_entity.tolist(), [batch.props[at] for at in batch.r_prop.tolist()], batch.r_val.tolist(), strict=True))
        return found


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Endpoints]:
    house = Endpoints(tmp_path)
    await house.start()
    yield house
    await house.stop()


def number(at: int, value: float) -> tlv.Entry:
    import struct

    return tlv.Entry(tlv.RESOURCE, at, struct.pack(">d", value))


class Temperature(resource.ObservableResource):
    """/3303/0 in TLV."""

    def __init__(self) -> None:
        super().__init__()
        self.value = 21.5

    def say(self, value: float) -> None:
        self.value = value
        self.updated_state()

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=tlv.encode([number(5700, self.value), tlv.Entry(tlv.RESOURCE, 5701, b"Cel")]), content_format=11542)


class Single(Temperature):
    """/3303/0/5700 in plain text, which can be executed and written too."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, bytes, int | None]] = []

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=str(self.value).encode(), content_format=0)

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        self.told.append(("put", request.payload, request.opt.content_format))
        return aiocoap.Message(code=aiocoap.CHANGED)

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        self.told.append(("post", request.payload, request.opt.content_format))
        return aiocoap.Message(code=aiocoap.CHANGED)


class Large(Single):
    """More than a block, in plain text unless something else is accepted; what is observed is in CBOR."""

    text = "m" * 3000

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        if request.opt.observe is None and request.opt.accept != 60:
            return aiocoap.Message(payload=self.text.encode(), content_format=0)
        return aiocoap.Message(payload=cbor2.dumps(self.text), content_format=60)


class Client:
    """A client of LwM2M: resources, and one socket for both directions."""

    def __init__(self, door: Lwm2mDoor) -> None:
        self.door = door
        self.site = resource.Site()
        self.temperature, self.single, self.large = Temperature(), Single(), Large()
        self.site.add_resource(["3303", "0"], self.temperature)
        self.site.add_resource(["3303", "0", "5700"], self.single)
        self.site.add_resource(["3", "0", "0"], self.large)
        self.site.add_resource(["3", "0", "4"], self.single)
        self.context: aiocoap.Context
        self.location = ""

    async def open(self) -> Client:
        self.context = await aiocoap.Context.create_server_context(self.site, bind=("127.0.0.1", free_port()), transports=["udp6"])
        return self

    async def ask(self, code: Any, path: str, payload: bytes = b"", content_format: int | None = None) -> aiocoap.Message:
        message = aiocoap.Message(code=code, uri=f"coap://127.0.0.1:{self.door.ports[0]}{path}", payload=payload)
        if content_format is not None:
            message.opt.content_format = content_format
        async with asyncio.timeout(20):
            return await self.context.request(message).response

    async def register(self, endpoint: str = ENDPOINT, more: str = "", links: bytes = b"</>;rt=\"oma.lwm2m\",</1/0>,</3/0>,</3303/0>") -> aiocoap.Message:
        answer = await self.ask(aiocoap.POST, f"/rd?ep={endpoint}&lt=60&lwm2m=1.0{more}", links, 40)
        self.location = "/" + "/".join(answer.opt.location_path)
        return answer

    async def close(self) -> None:
        await self.context.shutdown()


@pytest.fixture
async def door(house: Endpoints) -> Lwm2mDoor:
    return await house.door()


@pytest.fixture
async def client(door: Lwm2mDoor) -> AsyncIterator[Client]:
    made = await Client(door).open()
    yield made
    await made.close()


async def observed(door: Lwm2mDoor, *paths: tuple[int, ...], device: str = "d0") -> None:
    await until(lambda: set(paths) <= set(door.of_device[device].observations))


async def test_registered_then_observed_then_readings(house: Endpoints, door: Lwm2mDoor, client: Client) -> None:
    assert (await client.register()).code == aiocoap.CREATED
    assert client.location.startswith("/rd/")
    await observed(door, (3303, 0))
    client.temperature.say(22.5)
    await until(lambda: door.ingestor.counters.acked >= 2)
    found = await house.values()
    assert [value for entity, name, value in found if (entity, name) == (100, "3303/0/5700")] == [21.5, 22.5]
    assert {name for _, name, _ in found} == {"3303/0/5700", "3303/0/5701"}
    document = door.of_device["d0"].document()
    assert (document["endpoint"], document["version"], document["observed"]) == (ENDPOINT, "1.0", ["3303/0"])
    assert {batch.protocol for batch in map(Batch.decode, await house.stored())} == {"lwm2m"}


async def test_a_model_may_map_resources_to_its_names(house: Endpoints, door: Lwm2mDoor, client: Client) -> None:
    await client.register(ENDPOINT[:-1] + "2")
    await observed(door, (3303, 0, 5700), device="d1")
    client.single.say(-60)
    await until(lambda: door.ingestor.counters.acked >= 2)
    assert await house.values() == [(101, "temperature", 21.5), (101, "temperature", -60.0)]
    assert [Batch.decode(message).r_quality.tolist() for message in await house.stored()] == [[0], [2]]
    assert (await house.bus.js.stream_info("DEAD")).state.messages == 0


@pytest.mark.parametrize(("query", "payload", "code"), [
    ("ep=nobody", b"</3/0>", aiocoap.FORBIDDEN), (f"ep={ENDPOINT[:-1]}3", b"</3/0>", aiocoap.FORBIDDEN), ("lt=60", b"", aiocoap.BAD_REQUEST),
    (f"ep={ENDPOINT}&lwm2m=2.0", b"</3/0>", aiocoap.PRECONDITION_FAILED), (f"ep={ENDPOINT}&lt=soon", b"</3/0>", aiocoap.BAD_REQUEST),
    (f"ep={ENDPOINT}", b"3/0", aiocoap.BAD_REQUEST),
])
async def test_what_is_wrong_with_a_registration_is_said(door: Lwm2mDoor, client: Client, query: str, payload: bytes, code: Any) -> None:
    answer = await client.ask(aiocoap.POST, f"/rd?{query}", payload, 40)
    assert answer.code == code
    assert answer.payload
    assert not door.registrations


async def test_update_deregister_and_what_is_over(door: Lwm2mDoor, client: Client) -> None:
    await client.register()
    assert (await client.ask(aiocoap.POST, client.location + "?lt=5000", b"</3303/0>,</3304/0>")).code == aiocoap.CHANGED
    registration = door.of_device["d0"]
    assert (registration.lifetime, registration.paths) == (5000, [(3303, 0), (3304, 0)])
    first = client.location
    await client.register()
    assert len(door.registrations) == 1
    assert (await client.ask(aiocoap.POST, first)).code == aiocoap.NOT_FOUND
    assert (await client.ask(aiocoap.DELETE, client.location)).code == aiocoap.DELETED
    assert (door.registrations, door.of_device, door.endpoint.observations) == ({}, {}, {})
    await client.register()
    door.gateway.tick += 71
    door.sweep()
    assert door.registrations == {}
    assert [(p["device"], p["online"]) for p in door.gateway._presence][-2:] == [("d0", True), ("d0", False)]


async def test_a_changed_device_must_register_again(house: Endpoints, door: Lwm2mDoor, client: Client) -> None:
    await client.register()
    await observed(door, (3303, 0))
    with contextlib.closing(sqlite3.connect(house.home / "devices.db")) as db, db:
        db.execute("UPDATE devices SET status = 'disabled' WHERE id = 'd0'")
    await house.bus.changed("devices", "d0")
    await until(lambda: not door.registrations)
    assert door.endpoint.observations == {}
    assert (await client.ask(aiocoap.POST, client.location)).code == aiocoap.NOT_FOUND
    assert (await client.register()).code == aiocoap.FORBIDDEN
    before = door.ingestor.counters.accepted
    client.temperature.say(30)
    await until(lambda: door.endpoint.resets)
    assert door.ingestor.counters.accepted == before


async def test_read_write_execute_observe_cancel(door: Lwm2mDoor, client: Client) -> None:
    await client.register()
    await observed(door, (3303, 0))

    async def ask(op: str, path: str, value: Any = None) -> dict[str, Any]:
        return await door.ask({"device": "d0", "op": op, "path": path, "value": value, "wait": 20})

    assert (await ask("read", "3303/0"))["values"] == {"3303/0/5700": 21.5, "3303/0/5701": "Cel"}
    assert (await ask("read", "3/0/0"))["values"] == {"3/0/0": "m" * 3000}
    assert (await ask("read", "9/9"))["code"] == "4.04"
    assert (await ask("write", "3303/0/5700", 3.5))["code"] == "2.04"
    assert client.single.told[-1] == ("put", tlv.encode([number(5700, 3.5)]), 11542)
    assert (await ask("execute", "3/0/4", "0='now'"))["code"] == "2.04"
    assert client.single.told[-1] == ("post", b"0='now'", None)
    assert (await ask("observe", "3303/0/5700"))["values"] == {"3303/0/5700": 21.5}
    assert (3303, 0, 5700) in door.of_device["d0"].observations
    await ask("cancel", "3303/0/5700")
    assert (3303, 0, 5700) not in door.of_device["d0"].observations
    with pytest.raises(ValueError, match="not of the resource's type"):
        await ask("write", "3303/0/5700", "warm")
    with pytest.raises(ValueError, match="object/instance/resource"):
        await ask("read", "temperature")
    with pytest.raises(Lost):
        await door.ask({"device": "d1", "op": "read", "path": "3/0"})


async def test_formats_are_those_that_the_device_announces(door: Lwm2mDoor, client: Client) -> None:
    await client.register(links=b'</>;rt="oma.lwm2m";ct="60 110",</3303/0>', more="&b=UQ")
    assert door.of_device["d0"].queue
    await door.ask({"device": "d0", "op": "write", "path": "3303/0/5700", "value": 3.5})
    assert orjson.loads(client.single.told[-1][1]) == [{"n": "/3303/0/5700", "v": 3.5}]


async def test_a_sleeping_device_is_asked_after_its_update(door: Lwm2mDoor, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "AWAKE", 0.0)
    await client.register(more="&b=UQ")
    await observed(door, (3303, 0))
    question = {"device": "d0", "op": "execute", "path": "3/0/4", "wait": 20}
    waiting = asyncio.create_task(door.ask(question))
    await until(lambda: door.of_device["d0"].waiting)
    with pytest.raises(Lost, match="sleeps"):
        await door.ask({**question, "wait": 0.2})
    assert client.single.told == []
    monkeypatch.setattr(server, "AWAKE", 60.0)
    await client.ask(aiocoap.POST, client.location)
    assert (await waiting)["code"] == "2.04"
    assert len(client.single.told) == 1


async def test_a_notification_is_acknowledged_when_it_is_durable(house: Endpoints, door: Lwm2mDoor, client: Client) -> None:
    await client.register()
    await observed(door, (3303, 0))
    await until(lambda: door.ingestor.counters.acked)
    door.ingestor._timeout = 0.5
    pid = house.nats.child.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    await until(lambda: all(") T " in (thread / "stat").read_text() for thread in threads.iterdir()))
    key: Any = ()
    try:
        client.temperature.say(30)
        await until(lambda: door.ingestor.counters.accepted == 2)
        await until(lambda: door.ingestor.failing)
        (key, (_, answer)), *_ = reversed(door.endpoint.recent._owners["d0"].items())
        assert answer == b""
    finally:
        os.kill(pid, signal.SIGCONT)
    await until(lambda: door.ingestor.counters.acked == 2)
    assert parse(door.endpoint.recent.get("d0", key) or b"").kind == m.ACK
    assert [value for _, name, value in await house.values() if name == "3303/0/5700"] == [21.5, 30.0]


async def test_what_is_observed_may_come_in_blocks(house: Endpoints, door: Lwm2mDoor, client: Client) -> None:
    await client.register(links=b"</3/0>")
    assert (await door.ask({"device": "d0", "op": "observe", "path": "3/0/0"}))["values"] == {"3/0/0": "m" * 3000}
    assert (3, 0, 0) in door.of_device["d0"].observations
    client.large.text = "n" * 3000
    client.large.updated_state()
    await until(lambda: door.ingestor.counters.acked >= 2)
    last = Batch.decode((await house.stored())[-1])
    assert last.r_text == {0: "n" * 3000}


async def test_rubbish_on_the_wire_is_survived(door: Lwm2mDoor, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    await client.register()
    await observed(door, (3303, 0))
    (observation,) = door.endpoint.observations.values()
    rng = random.Random(5)
    links, query = (m.CONTENT_FORMAT, m.uint(40)), m.path_options((f"ep={ENDPOINT}", "lt=60"), m.URI_QUERY)
    valid = [
        Message(m.CON, m.POST, 1, b"a", [*m.path_options(("rd",)), *query, links, (m.BLOCK1, b"\x0e")], b"</3303/0>,</3/0>").encode(),
        Message(m.NON, m.POST, 2, b"b", [*m.path_options(("api", "v1", "token-0", "telemetry")), (m.CONTENT_FORMAT, b"p")], b'[{"n":"a","v":1}]').encode(),
        Message(m.CON, m.CONTENT, 3, observation.token, [(m.OBSERVE, b"\5"), (m.CONTENT_FORMAT, m.uint(11542)), (m.BLOCK2, b"\6")],
                tlv.encode([number(5700, 3.0)])).encode(),
        Message(m.CON, m.DELETE, 4, b"d", m.path_options(("rd", "nobody"))).encode(),
    ]
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=("127.0.0.1", door.ports[0]))
    for _ in range(3000):
        data = bytearray(rng.choice(valid))
        for _ in range(rng.randint(0, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        raw = bytes(data[: rng.randint(1, len(data))] if rng.random() < 0.2 else data)
        if rng.random() < 0.5:
            transport.sendto(raw)
        else:  # as if the device itself had sent it
            door.endpoint.datagram_received(raw, observation.peer)
        await asyncio.sleep(0)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert (await client.register()).code == aiocoap.CREATED
    transport.close()


async def test_people_ask_over_the_bus(house: Endpoints, door: Lwm2mDoor, client: Client) -> None:
    await client.register()
    nc = house.bus.nc
    name = (await nc.request(server.WHO, b"d0", timeout=5)).data.decode()
    assert name == "gateway"
    answer = await nc.request(f"{server.ASK}.{name}", orjson.dumps({"device": "d0", "op": "state"}), timeout=5)
    assert orjson.loads(answer.data)["state"]["endpoint"] == ENDPOINT
    answer = await nc.request(f"{server.ASK}.{name}", orjson.dumps({"device": "d0", "op": "read", "path": "x"}), timeout=5)
    assert orjson.loads(answer.data)["error"] == "invalid"
    assert door.gateway.stats()["fields"]["lwm2m"]["connections"] == 1
