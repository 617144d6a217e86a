"""Delivery of notifications: MQTT to a real broker, endpoints that are slow or refused, owners who lose their rights, and a
process that is killed between a change and its notification."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tulou.context import ContextService, Subscriptions
from tulou.context.ldcontexts import StoredContexts
from tulou.context.registration_subscriptions import RegistrationSubscriptions
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.organisations import Credentials, Organisations, People
from tulou.kernel.organisations.models import NewToken, NewUser, RoleGrant, tokens, users
from tulou.kernel.policy import ROOT, Actor, Binding
from tulou.kernel.settings import Settings

from .conftest import XIAMEN, execute, plugins
from .test_subscriptions import Receiver, receiver, subscription, waiting, worker  # noqa: F401  fixtures

MOSQUITTO = shutil.which("mosquitto") or ("/usr/sbin/mosquitto" if Path("/usr/sbin/mosquitto").exists() else None)


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while True:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.02)


# ---- MQTT (7.2) ----------------------------------------------------------------------------------------------------


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A mosquitto that asks for a password and has TLS on the next port."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    port, secure = free_port(), free_port()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                    "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    (tmp_path / "passwords").touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", tmp_path / "passwords", "us er", "p@ss"], check=True, capture_output=True)
    (tmp_path / "mosquitto.conf").write_text(
        f"user {getpass.getuser()}\nper_listener_settings true\nlistener {port} 127.0.0.1\nallow_anonymous false\npassword_file {tmp_path}/passwords\n"
        f"listener {secure} 127.0.0.1\nallow_anonymous true\ncertfile {tmp_path}/cert.pem\nkeyfile {tmp_path}/key.pem\n"
    )
    process = subprocess.Popen([MOSQUITTO, "-c", tmp_path / "mosquitto.conf"], stdout=subprocess.DEVNULL, stderr=(tmp_path / "log").open("wb"))
    for number in (port, secure):
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", number)):
                break
            time.sleep(0.02)
        else:
            pytest.fail(f"mosquitto did not start: {(tmp_path / 'log').read_text()}")
    yield port, secure
    process.terminate()
    process.wait(10)


class Listener:
    """Subscribes to everything at a broker and keeps what comes."""

    def __init__(self, port: int) -> None:
        self.messages: list[Any] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.username_pw_set("us er", "p@ss")
        self.client.on_message = lambda _client, _data, message: self.messages.append(message)
        ready: list[bool] = []
        self.client.on_subscribe = lambda *_: ready.append(True)
        self.client.connect("127.0.0.1", port)
        self.client.subscribe("#", 2)
        while not ready:
            self.client.loop(0.1)
        self.client.loop_start()


@pytest.mark.parametrize(("version", "qos"), [("mqtt5.0", 0), ("mqtt5.0", 1), ("mqtt3.1.1", 2), ("mqtt3.1.1", 1), (None, None)])
async def test_mqtt_endpoints(api: httpx.AsyncClient, ground: House, broker: tuple[int, int], worker: None, version: str | None, qos: int | None) -> None:  # noqa: F811
    listener = await asyncio.to_thread(Listener, broker[0])
    info = [{"key": k, "value": str(v)} for k, v in (("MQTT-Version", version), ("MQTT-QoS", qos)) if v is not None]
    uri = f"mqtt://us%20er:p%40ss@127.0.0.1:{broker[0]}/a/b"
    made = await api.post("/subscriptions", json=subscription(uri, notification={
        "endpoint": {"uri": uri, "notifierInfo": info, "receiverInfo": [{"key": "X-Key", "value": "v"}]}}))
    assert made.status_code == 201, made.text
    for n in range(3):
        await api.post("/entityOperations/upsert", json=[{"id": "urn:x:1", "type": "T", "a": n}])
    await until(lambda: len(listener.messages) == 3)
    assert {(m.topic, m.qos) for m in listener.messages} == {("a/b", qos or 0)}
    bodies = [orjson.loads(m.payload) for m in listener.messages]
    assert [b["body"]["data"][0]["a"]["value"] for b in bodies] == [0, 1, 2]
    assert bodies[0]["metadata"]["Content-Type"] == "application/json"
    assert bodies[0]["metadata"]["X-Key"] == "v"
    assert "Link" in bodies[0]["metadata"]
    await until(lambda: waiting(ground) == 0)
    listener.client.loop_stop()


async def test_registrations_are_notified_over_mqtt_too(api: httpx.AsyncClient, ground: House, broker: tuple[int, int]) -> None:
    """7.2: the notification is the `body`, what HTTP has in headers the `metadata`."""
    listener = await asyncio.to_thread(Listener, broker[0])
    uri = f"mqtt://us%20er:p%40ss@127.0.0.1:{broker[0]}/sources"
    registration = {"type": "ContextSourceRegistration", "information": [{"entities": [{"type": "T"}]}],
                    "endpoint": "http://127.0.0.1:9"}
    delivering = asyncio.create_task(ground.service(RegistrationSubscriptions).deliver(ground))
    assert (await api.post("/csourceSubscriptions", json=subscription(uri))).status_code == 201
    assert (await api.post("/csourceRegistrations", json=registration)).status_code == 201
    await until(lambda: len(listener.messages) == 1)
    message = orjson.loads(listener.messages[0].payload)
    assert (message["body"]["type"], message["body"]["triggerReason"]) == ("ContextSourceNotification", "newlyMatching")
    assert message["metadata"]["NGSILD-Tenant"] == "xiamen"
    await until(lambda: execute(ground, "SELECT count(*) FROM csource_outbox")[0][0] == 0)
    delivering.cancel()
    await asyncio.gather(delivering, return_exceptions=True)
    listener.client.loop_stop()


async def test_mqtt_failures_are_told(api: httpx.AsyncClient, ground: House, broker: tuple[int, int], worker: None) -> None:  # noqa: F811
    cases = {
        f"mqtt://wrong:wrong@127.0.0.1:{broker[0]}/t": "Not authorized", f"mqtt://127.0.0.1:{free_port()}/t": "refused",
        f"mqtts://127.0.0.1:{broker[1]}/t": "ertificate",  # not signed by anyone whom the machine trusts
    }
    for number, uri in enumerate(cases):
        assert (await api.post("/subscriptions", json={"id": f"urn:s:{number}", **subscription(uri)})).status_code == 201
    await api.post("/entities", json={"id": "urn:x:1", "type": "T", "a": 1})
    for number, reason in enumerate(cases.values()):
        async def told(number: int = number, reason: str = reason) -> bool:
            shown = (await api.get(f"/subscriptions/urn:s:{number}")).json()["notification"]
            return shown.get("status") == "failed" and reason in shown["lastFailureReason"]
        await until(told)
    assert waiting(ground) == 3


# ---- endpoints -----------------------------------------------------------------------------------------------------


async def test_a_slow_endpoint_holds_up_no_other(api: httpx.AsyncClient, receiver: Receiver, worker: None) -> None:  # noqa: F811
    async def never(_reader: Any, _writer: Any) -> None:
        await asyncio.sleep(3600)

    silent = await asyncio.start_server(never, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    for n in range(300):  # more than are served at once
        made = await api.post("/subscriptions", json=subscription(f"http://127.0.0.1:{port}/{n}", notification={
            "endpoint": {"uri": f"http://127.0.0.1:{port}/{n}", "timeout": 1000}}))
        assert made.status_code == 201
    await api.post("/subscriptions", json=subscription(receiver.uri))
    for n in range(5):
        await api.post("/entityOperations/upsert", json=[{"id": "urn:x:1", "type": "T", "a": n}])
    await receiver.wait(5)
    assert [body["data"][0]["a"]["value"] for body in receiver.bodies] == [0, 1, 2, 3, 4]
    silent.close()


async def test_an_endpoint_that_is_refused_is_told_when_it_is_a_name(ground: House, door: Any, receiver: Receiver) -> None:  # noqa: F811
    """A name is judged when it is connected to, and what it resolves to is refused then."""
    api = door("xiamen")
    ground.outbound._allow.clear()
    made = await api.post("/subscriptions", json=subscription("http://127.0.0.1:9/x"))
    assert made.status_code == 400
    assert made.json()["field"] == "notification.endpoint.uri"
    assert "outbound_allow" in made.json()["detail_en"]
    assert "本机" in made.json()["detail_zh"]
    port = receiver.uri.split(":")[2]
    assert (await api.post("/subscriptions", json={"id": "urn:s:1", **subscription(f"http://ip6-localhost.localdomain:{port}")})).status_code == 201
    delivery = ground.service(Subscriptions).delivery
    document = {"notification": {"endpoint": {"uri": receiver.uri}}}
    from tulou.context.delivery import _Waiting

    sent, error = await delivery._send(_Waiting(XIAMEN, "user:x", document, None, True, [(1, "{}")]))
    assert sent == 0
    assert error is not None
    assert "loopback" in error


async def test_cooldown_and_pause(api: httpx.AsyncClient, receiver: Receiver, ground: House, worker: None) -> None:  # noqa: F811
    """5.2.15: after a failure nothing is sent until `cooldown` has passed."""
    receiver.refuse = 1
    made = await api.post("/subscriptions", json={"id": "urn:s:1", **subscription(receiver.uri, notification={
        "endpoint": {"uri": receiver.uri, "cooldown": 3_600_000}})})
    assert made.status_code == 201
    await api.post("/entities", json={"id": "urn:x:1", "type": "T", "a": 1})

    async def failed() -> bool:
        return (await api.get("/subscriptions/urn:s:1")).json()["notification"].get("timesFailed") == 1
    await until(failed)
    [state] = ground.service(Subscriptions).delivery._states.values()
    await until(lambda: not state.running)
    assert state.due - asyncio.get_running_loop().time() > 3000
    assert (waiting(ground), receiver.bodies) == (1, [])


async def test_time_intervals(api: httpx.AsyncClient, receiver: Receiver, worker: None) -> None:  # noqa: F811
    """5.8.6: with `timeInterval` a notification is sent periodically, whether anything changed or not."""
    await api.post("/entities", json={"id": "urn:x:1", "type": "T", "a": 1})
    await api.post("/subscriptions", json=subscription(receiver.uri, timeInterval=1, q="a==1"))
    await receiver.wait(2)
    assert receiver.bodies[1]["data"] == [{"id": "urn:x:1", "type": "T", "a": {"type": "Property", "value": 1}}]


# ---- the owner's rights --------------------------------------------------------------------------------------------

ADMIN = Actor("user:admin", "admin", ROOT, "user", frozenset({Binding(ROOT, "platform_admin", True)}), None, "user:admin")


@pytest.fixture
async def owned(ground: House) -> AsyncIterator[dict[str, Any]]:
    """A person and a token of hers, with the real authenticator and the delivering task."""
    ground.authenticator = ground.service(Credentials)
    people = ground.service(People)
    person = await people.create(ADMIN, NewUser(name="lin", display="Lin", org=XIAMEN, password="a-long-pass-phrase-9",
                                                roles=[RoleGrant(org=XIAMEN, role="steward")]))
    await ground.db.write(lambda c: c.execute(users.update().values(must_change_password=False)) and None)
    lin = Actor("user:lin", "Lin", XIAMEN, "user", frozenset({Binding(XIAMEN, "steward")}), None, "user:lin")
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    made = await ground.service(Credentials).create_token(lin, NewToken(name="t", org=XIAMEN, scopes=["context.*"], expires_at=soon))
    token = await ground.service(Credentials)._token(made["token"])
    task = asyncio.create_task(ground.service(Subscriptions).deliver(ground))
    yield {"person": person["id"], "lin": lin, "token": token.actor, "token_id": made["id"]}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _role_removed(house: House, owned: dict[str, Any]) -> None:
    await house.service(People).set_roles(ADMIN, owned["person"], [])


async def _disabled(house: House, owned: dict[str, Any]) -> None:
    await house.service(People).disable(ADMIN, owned["person"])


async def _revoked(house: House, owned: dict[str, Any]) -> None:
    await house.service(Credentials).revoke_token(ADMIN, owned["token_id"])


async def _expired(house: House, owned: dict[str, Any]) -> None:
    past = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    await house.db.write(lambda c: c.execute(tokens.update().values(expires_at=past)) and None)
    house.service(Credentials).forget()  # as the cache does when the time it keeps for the token has come


async def _suspended(house: House, owned: dict[str, Any]) -> None:
    await house.service(Organisations).suspend(ADMIN, XIAMEN)


@pytest.mark.parametrize(
    ("who", "lose"), [("lin", _role_removed), ("lin", _disabled), ("token", _disabled), ("token", _revoked), ("token", _expired), ("lin", _suspended), ("token", _suspended)],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)
async def test_who_may_no_longer_read_is_told_nothing(ground: House, owned: dict[str, Any], receiver: Receiver, who: str, lose: Any) -> None:  # noqa: F811
    service, entities = ground.service(Subscriptions), ground.service(ContextService)
    id = await service.create(owned[who], subscription(receiver.uri), None)
    await entities.create(ADMIN, {"id": "urn:x:1", "type": "T"}, tenant=XIAMEN)
    assert receiver.bodies == []  # an entity without attributes creates none
    await entities.append(ADMIN, "urn:x:1", {"a": {"type": "Property", "value": 1}}, tenant=XIAMEN)
    await receiver.wait(1)
    await until(lambda: waiting(ground) == 0)
    assert (await service.retrieve(ADMIN, id))["status"] == "active"
    await lose(ground, owned)
    await entities.append(ADMIN, "urn:x:1", {"a": {"type": "Property", "value": 2}}, tenant=XIAMEN)
    shown = await service.retrieve(ADMIN, id)  # at once, whatever the worker has done by now
    assert shown["status"] == "paused"
    assert "no longer read" in shown["statusReason"]
    await until(lambda: waiting(ground) == 0)
    assert len(receiver.bodies) == 1
    assert execute(ground, "SELECT blocked FROM subscriptions")[0][0]
    await until(lambda: not service.watches(XIAMEN))
    await entities.append(ADMIN, "urn:x:1", {"a": {"type": "Property", "value": 3}}, tenant=XIAMEN)
    assert waiting(ground) == 0  # nothing is even queued for him


async def test_a_right_that_returns_lets_the_subscription_run_again(ground: House, owned: dict[str, Any], receiver: Receiver) -> None:  # noqa: F811
    service, entities = ground.service(Subscriptions), ground.service(ContextService)
    id = await service.create(owned["lin"], subscription(receiver.uri), None)
    await _role_removed(ground, owned)
    await service.delivery.review()
    await entities.create(ADMIN, {"id": "urn:x:1", "type": "T", "a": {"type": "Property", "value": 1}}, tenant=XIAMEN)
    await ground.service(People).set_roles(ADMIN, owned["person"], [RoleGrant(org=XIAMEN, role="viewer")])
    await service.delivery.review()
    assert (await service.retrieve(ADMIN, id))["status"] == "active"
    await entities.append(ADMIN, "urn:x:1", {"a": {"type": "Property", "value": 2}}, tenant=XIAMEN)
    await receiver.wait(1)
    assert [body["data"][0]["a"]["value"] for body in receiver.bodies] == [2]  # what happened meanwhile was not his


async def test_whoever_changes_a_subscription_answers_for_it(ground: House, owned: dict[str, Any], receiver: Receiver) -> None:  # noqa: F811
    """Else someone could have another's rights send him what he may not read."""
    service = ground.service(Subscriptions)
    id = await service.create(owned["lin"], subscription(receiver.uri), None)
    await service.update(ADMIN, id, {"description": "d"}, None)
    assert execute(ground, "SELECT owner FROM subscriptions")[0][0] == ADMIN.id


# ---- a killed process ----------------------------------------------------------------------------------------------

CHANGES = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.context.conftest import ByName, person, plugins
from tulou.context import ContextService, Subscriptions
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

async def main():
    house = House(Settings(home=Path({home!r}), database_url={url!r}, outbound_allow="127.0.0.0/8"), plugins())
    await house.start(("worker",), bus=False)
    house.authenticator = ByName()
    actor = person("xiamen", "steward")
    entities = house.service(ContextService)
    n = {first}
    while True:
        await entities.append(actor, "urn:x:1", {{"a": {{"type": "Property", "value": n}}}})
        print(n, flush=True)  # acknowledged
        n += 1

asyncio.run(main())
"""


async def test_a_killed_process_loses_no_notification(database_url: str, tmp_path: Path, receiver: Receiver) -> None:  # noqa: F811
    """kill -9 between state and notification: every acknowledged change is told, in order; only the last may be told twice."""
    home = tmp_path / "home"

    async def opened() -> House:
        house = House(Settings(home=home, database_url=database_url, outbound_allow="127.0.0.0/8"), plugins())
        await house.start((), bus=False)
        from .conftest import ByName

        house.authenticator = ByName()  # type: ignore[assignment]
        return house

    from .conftest import person

    house = await opened()
    actor = person(XIAMEN, "steward")
    await house.service(Subscriptions).create(actor, subscription(receiver.uri), None)
    await house.service(ContextService).create(actor, {"id": "urn:x:1", "type": "T"})
    await house.stop()
    acknowledged = -1
    for _ in range(3):
        program = CHANGES.format(root=str(Path(__file__).parents[2]), home=str(home), url=database_url, first=acknowledged + 1)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        assert process.stdout is not None
        start = acknowledged
        while acknowledged < start + 150:
            acknowledged = int(await process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = await process.stdout.read()
        acknowledged = int(rest.split()[-1]) if rest.endswith(b"\n") and rest.split() else acknowledged
        await process.wait()
        # what was committed without having been acknowledged is overwritten by the next round's first change
    house = await opened()
    task = asyncio.create_task(house.service(Subscriptions).deliver(house))
    await until(lambda: waiting(house) == 0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await house.stop()
    values = [body["data"][0]["a"]["value"] for body in receiver.bodies]
    assert set(range(acknowledged + 1)) <= set(values)
    repeated = sum(count - 1 for count in Counter(body["id"] for body in receiver.bodies).values())
    assert repeated <= 3 * 100  # `BATCH` for each kill
    first = {body["id"]: at for at, body in reversed(list(enumerate(receiver.bodies)))}
    order = [receiver.bodies[at]["data"][0]["a"]["value"] for at in sorted(first.values())]
    assert order == sorted(order)


# ---- stored contexts (5.13) ----------------------------------------------------------------------------------------


async def test_contexts_are_fetched_only_from_origins_that_are_named(ground: House, api: httpx.AsyncClient) -> None:
    documents = {"/a.jsonld": b'{"@context": {"speed": "https://example.org/speed"}}', "/no": b"{}", "/broken": b"{", "/b.jsonld": b'{"@context": ["/a.jsonld"]}'}
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        asked.append(path)
        body = documents.get(path)
        head = b"HTTP/1.1 200 OK" if body is not None else b"HTTP/1.1 404 Not Found"
        writer.write(head + b"\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body or b"") + (body or b""))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    stored = ground.service(StoredContexts)

    async def create(path: str, id: str = "urn:x:1") -> httpx.Response:
        return await api.post("/entities", json={"id": id, "type": "T", "speed": 5, "@context": origin + path}, headers={"content-type": "application/ld+json"})

    assert (await create("/a.jsonld")).status_code == 504  # 5.5.6: not available
    assert asked == []
    stored._origins = frozenset({origin})
    assert (await create("/a.jsonld")).status_code == 201
    assert (await create("/a.jsonld", "urn:x:2")).status_code == 201
    assert asked == ["/a.jsonld"]
    assert "https://example.org/speed" in (await api.get("/entities/urn:x:1")).json()
    about = (await api.get("/jsonldContexts?details=true&kind=Cached")).json()
    assert [(item["URL"], item["kind"], item["numberOfHits"]) for item in about[1:]] == [(origin + "/a.jsonld", "Cached", 2)]
    assert (await create("/no", "urn:x:3")).status_code == 400  # 5.5.6: "If the remote JSON-LD @context is invalid ..."
    assert (await create("/broken", "urn:x:3")).status_code == 400
    assert (await create("/missing", "urn:x:3")).status_code == 504
    key = about[1]["localId"]
    documents["/a.jsonld"] = b'{"@context": {"speed": "https://example.org/other"}}'
    assert (await api.delete(f"/jsonldContexts/{key}?reload=true")).status_code == 204
    assert (await create("/a.jsonld", "urn:x:4")).status_code == 201
    assert "https://example.org/other" in (await api.get("/entities/urn:x:4")).json()
    server.close()
    await server.wait_closed()
    assert (await api.delete(f"/jsonldContexts/{key}?reload=true")).status_code == 504
    assert (await api.get(f"/jsonldContexts/{key}?details=true")).json()["kind"] == "Cached"  # 5.13.5.4: it stays
    assert (await api.delete(f"/jsonldContexts/{key}")).status_code == 204
    assert (await api.get(f"/jsonldContexts/{key}")).status_code == 404


async def test_a_subscription_with_an_inline_context_makes_one(api: httpx.AsyncClient, door: Any, receiver: Receiver, worker: None) -> None:  # noqa: F811
    """5.8.1.4 with 5.13: such a context is stored as ImplicitlyCreated, and the notifications name it."""
    spec = [{"speed": "https://example.org/speed"}]
    body = {**subscription(receiver.uri, watchedAttributes=["speed"]), "@context": spec}
    for id in ("urn:s:1", "urn:s:2"):
        assert (await api.post("/subscriptions", json={"id": id, **body}, headers={"content-type": "application/ld+json"})).status_code == 201
    [address] = (await api.get("/jsonldContexts?kind=ImplicitlyCreated")).json()
    shown = (await api.get("/subscriptions/urn:s:1")).json()
    assert shown["jsonldContext"] == address == (await api.get("/subscriptions/urn:s:2")).json()["jsonldContext"]
    assert (await api.get(address.removeprefix("http://tulou.test/ngsi-ld/v1"))).json() == {"@context": spec}
    assert (await door("fuzhou").get(address.removeprefix("http://tulou.test/ngsi-ld/v1"))).status_code == 404
    assert (await door("fuzhou").get("/jsonldContexts?kind=ImplicitlyCreated")).json() == []
    # it may be deleted: the subscription keeps what it was made of
    assert (await api.delete(address.removeprefix("http://tulou.test/ngsi-ld/v1"))).status_code == 204
    await api.post("/entities", json={"id": "urn:x:1", "type": "T", "https://example.org/speed": 1})
    await receiver.wait(2)
    assert receiver.bodies[0]["data"][0]["speed"]["value"] == 1
    assert address.split("/", 3)[3].encode() in receiver.headers[0]
