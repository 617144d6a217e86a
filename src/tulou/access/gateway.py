"""The MQTT front door (3.1.1 and 5.0), and the process of it and of the field protocols' doors (`field.py`).

Law: what is acknowledged is in JetStream, synced. One event loop, no task and no future a message: a connection's
bytes are parsed into runs, runs wait in the `Ingestor`, and a durable batch answers each connection with one write.

Devices and applications come in by the same port and part at CONNECT. Applications have sessions and a topic space:
`broker.py`. What devices do not have, and are told: no session outlives its connection (CONNACK never says "session
present"); retained messages are stored as readings, never replayed; a will is stored when its topic is telemetry or
attributes. They may subscribe to their own `v1/devices/me/` topics and chunks of their firmware (`ota/door.py`) only; commands come on
one of the former (`courier.py`). Of 5.0 the packets are understood; session
expiry, topic aliases, subscription identifiers and shared subscriptions are declined in CONNACK.

Run as `python -m tulou.access.gateway '<settings JSON>'`, or with the JSON in `TULOU_GATEWAY`; see `Config`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import logging
import os
import re
import resource
import secrets
import signal
import ssl
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import orjson
import sqlalchemy as sa
import uvloop

from tulou.access import attributes, mqtt, mqtt_commands
from tulou.access.admission import Refused, Rights
from tulou.access.application import Application
from tulou.access.attributes import Attributes
from tulou.access.authenticate import Authenticator, DeviceIdentity, Identities, SqlAuthenticator, Throttle
from tulou.access.broker import Broker
from tulou.access.certificates import RESPONSE as CERTIFICATE
from tulou.access.courier import Courier, answer_of
from tulou.access.field import FieldDoor
from tulou.access.ingest import Ingestor, Item
from tulou.access.lorawan.door import BEARER, DownlinkDoor
from tulou.access.mqtt_commands import MqttTarget
from tulou.access.ota import door as ota
from tulou.access.peer import AUTH, PRESSURE, Peer, press, write_answers
from tulou.access.poll_door import PollDoor
from tulou.access.products.kinds import PRODUCTS, kind_of, rules_of
from tulou.access.protocols import ANSWERED, FieldCodec, load
from tulou.access.provisioning import door as provision
from tulou.access.provisioning.door import Applicant
from tulou.access.quotas.meters import USED_UP, Meters
from tulou.access.telemetry import ATTRIBUTES, TELEMETRY, UNKNOWN, Chunk, RuleBook, Rules
from tulou.kernel.addresses import household
from tulou.kernel.bus import Bus, end
from tulou.kernel.sql import Database

if TYPE_CHECKING:
    from tulou.access.certificates.door import CertificateDoor
    from tulou.kernel.outbound import Outbound

log = logging.getLogger("tulou.gateway")

TOPICS = {b"v1/devices/me/telemetry": TELEMETRY, b"v1/devices/me/attributes": ATTRIBUTES}
REQUEST_ATTRIBUTES = b"v1/devices/me/attributes/request/"
REQUEST_RPC = b"v1/devices/me/rpc/request/"
RESPONSE_RPC = b"v1/devices/me/rpc/response/"
REQUEST_CERTIFICATE = b"v1/devices/me/certificate/request"
GRANTED = re.compile(
    r"v1/devices/me/(attributes|certificate/response|(attributes/response|rpc/request|rpc/response)/[^/#]+)|" + ota.FILTERS
)
"""Topic filters that a device may subscribe to."""
LIMITS = "SELECT o.id, o.parent, q.messages_s, q.used_up FROM organisations o LEFT JOIN quotas q ON q.org = o.id"
CLAIM, ARM = b"v1/devices/me/claim", "tulou.claim.arm"
COMMAND_NO = re.compile(rb"[0-9]{1,18}")
ROOM = 60
"""Bytes that a message holds beside its payload while it waits."""


@dataclass(slots=True)
class Config:
    """What a gateway needs; the house passes it as JSON. A port of 0 closes that listener, -1 takes any free one.
    `models` is type -> what `products.kinds.kind_of` says of a pack's model; `fields` is field protocol ->
    {codec: its module, port, tls_port, udp_port}; `outbound` has the settings that judge addresses, without which nothing is polled.
    `coap_port` is UDP; `lwm2m` lets devices of LwM2M register there; `gb28181` has port, tls_port, server, realm and media.
    `opcua_home` is where the house's certificate for OPC UA is; without it no server is connected to. `tls_client`: "optional" or
    "required", whether MQTT over TLS asks for a client's certificate. `max_connections_address`, `max_connections_device`: of one address, of
    one device; 0 does not limit them. `sensorthings`: the address of that service, for links."""

    name: str = "gateway"
    host: str = "127.0.0.1"
    port: int = 1883
    tls_port: int = 0
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client: str = ""
    nats_url: str = "nats://127.0.0.1:4222"
    sql_url: str = ""
    max_packet: int = 1 << 20
    max_connections: int = 100_000
    max_connections_address: int = 0
    max_connections_device: int = 0
    connect_timeout: float = 10.0
    high: int = 64 << 20
    anonymous: str = ""
    longest_keep_alive: int = 0
    models: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    outbound: Mapping[str, Any] | None = None
    coap_port: int = 0
    lwm2m: bool = False
    gb28181: Mapping[str, Any] | None = None
    ocpp_port: int = 0
    ocpps_port: int = 0
    opcua_home: str = ""
    sensorthings: str = ""

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Raises `TypeError` for an unknown key."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)})


class Door(Protocol):
    """A way in beside MQTT. `name` is its protocol, `connections` counts against the most that there may be."""

    name: str
    ports: list[int]
    ingestor: Ingestor

    @property
    def connections(self) -> Collection[Any]: ...
    async def start(self) -> None: ...
    async def close(self) -> None: ...
    def changed(self, device_id: str) -> None:
        """A device changed (empty: many)."""
        ...
    def forget(self) -> None:
        """Changes may have been missed: look everything up again."""
        ...
    def sweep(self) -> None:
        """Once a second."""
        ...
    def stats(self) -> dict[str, Any]: ...


class OverQuota(mqtt.Publish):
    """Of a run: the packets that are refused, because the organisation has sent what it may."""

    __slots__ = ()


class Connection(Peer):
    """One client. States: before CONNECT, asking who it is (events wait), serving, closed."""

    __slots__ = ("_last_id", "applicant", "application", "client_id", "commands", "gateway", "identity", "keep_alive", "level", "of",
                 "packet_limit", "parser", "qos2", "receive_maximum", "rules", "waiting", "will")

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self.gateway = gateway
        self.parser: mqtt.Parser | None = mqtt.Parser(gateway.config.max_packet)
        self.identity: DeviceIdentity | None = None
        self.application: Application | None = None
        self.applicant: Applicant | None = None
        self.commands: MqttTarget | None = None
        self.waiting: list[Any] | None = None
        self.will: mqtt.Will | None = None
        self.qos2: dict[bytes, bool] | None = None
        self.keep_alive = 0.0
        self.client_id = ""
        self.level = 4
        self._last_id = 0

    # What uvloop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.gateway.arrived(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = self.parser = self.waiting = self.answers = None
        self.gateway.left(self)

    def data_received(self, data: bytes) -> None:
        parser = self.parser
        if parser is None:
            return
        gateway = self.gateway
        self.seen = gateway.tick
        events = parser.feed(data)
        if self.waiting is not None:
            self.waiting += events
            return
        identity = self.identity
        for number, event in enumerate(events):
            if type(event) is mqtt.Publish and identity is not None:
                kind = TOPICS.get(event.topic)
                if kind is not None and event.qos < 2:
                    self.hand_in(kind, event)
                    continue
            if not self.handle(event):
                if self.waiting is not None:
                    self.waiting += events[number + 1 :]
                return

    def hand_in(self, kind: str, run: mqtt.Publish, topic: str = "", *, counted: bool = False) -> None:
        """Give a run to the ingestor. A connection that has handed in much more than was released is not read."""
        gateway, payloads = self.gateway, run.payloads
        if gateway.meters.by_org and payloads and not counted:
            for part in self._metered(run):
                self.hand_in(kind, part, topic, counted=True)
            return
        ingestor = gateway.ingestor
        size = sum(map(len, payloads)) + ROOM * len(payloads)
        identity = cast(DeviceIdentity, self.identity)
        self.hold(size)
        ingestor.add(
            Chunk(kind, identity.entity, self.of, self.rules, payloads, ingestor.stamp(len(payloads)), run.dup, topic),
            (self, run), size,
        )

    def _metered(self, run: mqtt.Publish) -> list[mqtt.Publish]:
        """What of the run its organisation may send. The rest is refused where it can be (5.0, QoS 1 and 2: Quota exceeded),
        in its turn; else all is taken, and the device is read more slowly, or, if none may be stored, its connection ends."""
        count, meter = len(run.payloads), self.gateway.meters.by_org.get(self.of[0])
        if meter is None:
            return [run]
        if self.level != 5 or not run.qos:
            if meter.refuses(count):
                self.close(USED_UP[1], mqtt.QUOTA, told=True)
                return []
            self.slow(meter, count)
            return [run]
        may = meter.take(count, time.monotonic())
        if may == count:
            return [run]
        same = run.topic, run.qos, run.dup, run.retain
        parts = [mqtt.Publish(*same, run.ids[:may], run.payloads[:may])] if may else []
        return [*parts, OverQuota(*same, run.ids[may:], [])]

    def close(self, why: str, reason: int = 0, *, told: bool = False) -> None:
        """Close after what was written is sent; nothing more is read. `reason` is told to clients of 5.0, and if `told` (to
        applications always) why."""
        if self.parser is None:
            return
        self.parser = None
        if self.transport is not None:
            if reason and self.level == 5 and (self.identity or self.application or self.applicant):
                self.send(mqtt.disconnect(reason, why if told or self.application is not None else ""))
            log.debug("closing %s %r: %s", self.peer, self.client_id, why)
            self.gateway.closing(self)
            if self.application is not None:
                self.application.leave()
                if reason and self.level == 5 and self.transport.can_write_eof():
                    # Bytes that arrive at a closed socket would take the DISCONNECT away from the client.
                    with contextlib.suppress(OSError, RuntimeError):
                        self.transport.write_eof()
                        self.transport.resume_reading()
                        return
            self.transport.close()

    # Packets

    def handle(self, event: Any) -> bool:
        """Handle one packet off the fast path. False if the following ones must not be handled (now)."""
        kind = type(event)
        if kind is mqtt.ProtocolError:
            self.gateway.protocol_errors += 1
            self.close(str(event), event.reason)
            return False
        if self.application is not None:
            return self.application.handle(event)
        if self.applicant is not None:
            return self.applicant.handle(event)
        if kind is mqtt.Connect:
            return self._connect(event)
        if kind is mqtt.Publish:
            self._publish(event)
        elif kind is mqtt.PingRequest:
            self.send(mqtt.PINGRESP)
        elif kind is mqtt.Ack:
            if event.kind == 6:
                if self.qos2:
                    self.qos2.pop(event.id, None)
                self.send(mqtt.pubcomp(event.id))
            elif event.kind == 4 and self.commands is not None:
                self.commands.acknowledged(event.id, event.reason)
        elif kind is mqtt.Subscribe:
            self.send(mqtt.suback(event.id, [
                min(options & 3, 1) if GRANTED.fullmatch(topic) else mqtt.NOT_ALLOWED for topic, options in event.filters
            ], self.level))
            identity = cast(DeviceIdentity, self.identity)
            for topic, options in event.filters:
                if topic == mqtt_commands.FILTER:
                    self._take_commands(min(options & 3, 1))
                elif topic.encode() == attributes.TOPIC:
                    self.gateway.attributes.listen(self, identity.entity, min(options & 3, 1))
        elif kind is mqtt.Unsubscribe:
            self.send(mqtt.unsuback(event.id, bytes(len(event.filters)), self.level))
            if mqtt_commands.FILTER in event.filters:
                self.take_no_commands()
            if attributes.TOPIC.decode() in event.filters:
                self.gateway.attributes.leave(self, cast(DeviceIdentity, self.identity).entity)
        else:
            if not event.with_will:
                self.will = None
            self.close("DISCONNECT")
            return False
        return True

    def _connect(self, connect: mqtt.Connect) -> bool:
        self.level = connect.level
        if connect.level not in (4, 5):
            self._refuse(mqtt.BAD_LEVEL, f"protocol level {connect.level}")
            return False
        if not connect.client_id and not connect.clean and connect.level == 4:
            self._refuse(mqtt.BAD_CLIENT_ID, "empty client id with clean session 0 [MQTT-3.1.3-8]")
            return False
        gateway = self.gateway
        if connect.method:
            self._refuse(mqtt.BAD_METHOD, f"authentication method {connect.method!r} is not spoken")
            return False
        token = connect.user or ""
        certificates = gateway.certificates
        if certificates is not None and (certificates.required or not (token or connect.password)):
            der = self.certificate()
            if der is not None:
                self._look_up(self._certified(connect, der))
                return False
        if token == provision.USER and not connect.password:
            self._provision(connect)
            return True
        asks = gateway.broker.may_ask(connect)
        if not token and not asks and not connect.password:
            self._refuse(mqtt.NOT_AUTHORISED, "no access token as user name")
            return False
        known = None if asks else gateway.authenticator.known(token)
        if known is not None:
            return self._accept(connect, known)
        if gateway.throttle.wait(self.peer) > 0:
            gateway.throttled += 1
            self._refuse(mqtt.UNAVAILABLE, "too many failed attempts from this address")
            return False
        self._look_up(self._ask(connect, "" if asks else token))
        return False

    def _look_up(self, asking: Coroutine[Any, Any, None]) -> None:
        """Find out who it is; what comes meanwhile waits."""
        self.waiting = []
        self.pause(AUTH)
        self.gateway.spawn(asking)

    def certificate(self) -> bytes | None:
        """The certificate (DER) that the client showed in the TLS handshake, whose key it has."""
        ssl_object = self.transport.get_extra_info("ssl_object") if self.transport is not None else None
        return None if ssl_object is None else ssl_object.getpeercert(True)

    async def _certified(self, connect: mqtt.Connect, der: bytes) -> None:
        """Who it is, by its certificate."""
        gateway = self.gateway
        assert gateway.certificates is not None
        try:
            found = await gateway.certificates.identify(der)
        except Exception as error:
            log.warning("authentication is not possible: %r", error)
            self._refuse(mqtt.UNAVAILABLE, "authentication is not possible now")
            return
        if self.transport is None or self.parser is None:
            return
        if found is None:
            gateway.refused += 1
            self._refuse(mqtt.NOT_AUTHORISED, "this certificate is of no device, or not valid")
            return
        if not self._accept(connect, found.device):
            return
        gateway.certificates.entered(self, found)
        self._go_on()

    def refuse_now(self, why: str) -> None:
        """The credential by which the connection is open counts no more."""
        self.close(why, mqtt.NOT_ALLOWED, told=True)

    async def _ask(self, connect: mqtt.Connect, token: str) -> None:
        """Who it is: the device of the token, else an application or person."""
        gateway = self.gateway
        identity, rights = None, None
        try:
            if token:
                identity = await gateway.authenticator.authenticate(token)
            if identity is None and (not token or connect.password):
                rights = await gateway.broker.admit(connect, self.peer)
        except Refused as refused:
            gateway.refused += not refused.later
            if not refused.later:
                gateway.throttle.failed(self.peer)
            self._refuse(mqtt.UNAVAILABLE if refused.later else mqtt.NOT_AUTHORISED, str(refused))
            return
        except Exception as error:
            log.warning("authentication is not possible: %r", error)
            self._refuse(mqtt.UNAVAILABLE, "authentication is not possible now")
            return
        if self.transport is None or self.parser is None:
            return
        if rights is not None:
            await self._enter(connect, rights)
            return
        if identity is None:
            gateway.refused += 1
            gateway.throttle.failed(self.peer)
            self._refuse(mqtt.NOT_AUTHORISED, "unknown access token")
            return
        if self._accept(connect, identity):
            self._go_on()

    async def _enter(self, connect: mqtt.Connect, rights: Rights) -> None:
        """It is an application."""
        gateway = self.gateway
        self.client_id = connect.client_id
        self.keep_alive = connect.keep_alive * 1.5
        self.application = Application(gateway.broker, self, rights)
        try:
            await self.application.enter(connect)
        except Refused as refused:
            self.application = None
            self._refuse(mqtt.UNAVAILABLE if refused.later else mqtt.NOT_AUTHORISED, str(refused))
            return
        if self.transport is not None and self.parser is not None:
            gateway._anonymous.pop(self, None)
            self._go_on()

    def _go_on(self) -> None:
        """Handle what came while it was being looked up."""
        events, self.waiting = self.waiting or [], None
        self.resume(AUTH)
        for event in events:
            if not self.handle(event):
                return

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.application is not None:
            self.application.writable = False

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.commands is not None:
            self.gateway.courier.want(self.commands)
        if self.application is not None:
            self.application.writable = True
            if self.application.entered:
                self.application.pump()

    def _refuse(self, code: int, why: str) -> None:
        if code == mqtt.BAD_METHOD or (self.level == 5 and code == mqtt.NOT_AUTHORISED and self.waiting is not None):
            self.send(mqtt.refusal(mqtt.NOT_ALLOWED if code == mqtt.NOT_AUTHORISED else code, why))
        else:
            self.send(mqtt.connack(code, self.level))
        self.close(why)

    def _accept(self, connect: mqtt.Connect, identity: DeviceIdentity) -> bool:
        """It is this device; false if it has as many connections as it may."""
        here = self.gateway.devices.get(identity.device_id)
        if self.gateway.too_many(here) and (identity.entity, connect.client_id) not in self.gateway.entities:
            self.gateway.turned_away += 1
            self.send(mqtt.refusal(mqtt.QUOTA, "too many connections of this device") if self.level == 5 else mqtt.connack(mqtt.UNAVAILABLE, 4))
            self.close("too many connections of this device")
            return False
        self.identity = identity
        self.of, self.rules = self.gateway.class_of(identity)
        self.keep_alive = connect.keep_alive * 1.5
        self.client_id = connect.client_id
        self.receive_maximum, self.packet_limit = connect.receive_maximum, connect.packet_limit
        self.will = connect.will if connect.will and connect.will.topic in TOPICS else None
        self.gateway.welcomed(self)
        made = "" if connect.client_id else f"tulou-{secrets.token_hex(8)}"
        self.send(mqtt.connack(mqtt.ACCEPTED, self.level, client_id=made, packet_limit=self.gateway.config.max_packet))
        return True

    def _provision(self, connect: mqtt.Connect) -> None:
        """It has no credential yet, and asks for one."""
        gateway = self.gateway
        self.client_id, self.keep_alive = connect.client_id, connect.keep_alive * 1.5
        gateway._anonymous.pop(self, None)
        self.applicant = gateway.provisioning.enter(self)
        self.send(mqtt.connack(mqtt.ACCEPTED, self.level, packet_limit=gateway.config.max_packet))

    def _take_commands(self, qos: int) -> None:
        if self.commands is not None:
            self.commands.qos = qos
            return
        courier = self.gateway.courier
        self.commands = MqttTarget(self, courier, cast(DeviceIdentity, self.identity).entity, qos)
        courier.ready(self.commands)

    def publish(self, topic: bytes, payload: bytes) -> None:
        """Send a message at QoS 0."""
        self.send(mqtt.publish(topic, payload, level=self.level))

    def next_id(self) -> bytes:
        """A packet id for what the door publishes."""
        self._last_id = self._last_id % 0xFFFF + 1
        return self._last_id.to_bytes(2)

    def take_no_commands(self) -> None:
        """The device takes no commands here any more."""
        if self.commands is not None:
            self.commands.end()
            self.commands = None

    def _publish(self, run: mqtt.Publish) -> None:
        """A run that is not plain QoS 0 or 1 telemetry, or came while the client was being looked up."""
        if run.qos == 2:
            run = self._first_time(run)
            if not run.ids:
                return
        kind = TOPICS.get(run.topic)
        topic = ""
        if kind is None:
            if run.topic.startswith((REQUEST_ATTRIBUTES, REQUEST_RPC, ota.REQUEST)) or run.topic == REQUEST_CERTIFICATE:
                for payload in run.payloads:
                    self._answer(run.topic, payload)
                run = mqtt.Publish(run.topic, run.qos, run.dup, run.retain, run.ids, [])  # acknowledged in its turn
                kind = TELEMETRY
            elif run.topic == CLAIM:
                self.hold(sum(map(len, run.payloads)) + ROOM * len(run.payloads))
                self.gateway.spawn(self._claim(run))
                return
            elif run.topic.startswith(RESPONSE_RPC) and COMMAND_NO.fullmatch(run.topic, len(RESPONSE_RPC)):
                self._answered(int(run.topic[len(RESPONSE_RPC) :]), run)
                return
            else:
                kind, topic = UNKNOWN, run.topic.decode()
        self.hand_in(kind, run, topic)

    async def _claim(self, run: mqtt.Publish) -> None:
        """The device wants to be claimed; acknowledged when that is known."""
        device = cast(DeviceIdentity, self.identity)
        for payload in run.payloads:
            body = {"entity": device.entity, "id": device.device_id, "org": device.org, "said": payload[:4096].decode("utf-8", "replace")}
            try:
                await self.gateway.bus.nc.request(ARM, orjson.dumps(body), timeout=10)
            except Exception as error:
                log.warning("nobody takes claims: %r", error)
                self.close("nobody takes claims now", mqtt.SERVER_UNAVAILABLE)
                return
        self.release(sum(map(len, run.payloads)) + ROOM * len(run.payloads))
        self.acknowledge(run)
        answering, self.gateway.answering = self.gateway.answering, []
        write_answers(answering)

    def told(self, change: bytes, qos: int) -> None:
        """What the device is to be has changed."""
        self.send(mqtt.publish(attributes.TOPIC, change, qos, self.next_id() if qos else b"", level=self.level))

    def _answered(self, no: int, run: mqtt.Publish) -> None:
        """Answers to a command; acknowledged when the report of the last one is durable."""
        size = sum(map(len, run.payloads)) + ROOM * len(run.payloads)
        self.hold(size)
        entity, last = cast(DeviceIdentity, self.identity).entity, len(run.payloads) - 1
        for number, payload in enumerate(run.payloads):
            self.gateway.courier.report(no, entity, ANSWERED, receipt=(self, run, size) if number == last else None,
                                        **answer_of(payload))

    def _first_time(self, run: mqtt.Publish) -> mqtt.Publish:
        """QoS 2, method A of 4.3.3: an id that was not released by PUBREL is a repeat; answer it, store nothing."""
        if self.qos2 is None:
            self.qos2 = {}
        ids, payloads = [], []
        for packet_id, payload in zip(run.ids, run.payloads, strict=True):
            durable = self.qos2.get(packet_id)
            if durable is None:
                self.qos2[packet_id] = False
                ids.append(packet_id)
                payloads.append(payload)
            elif durable:
                self.send(mqtt.pubrecs([packet_id]))
        return mqtt.Publish(run.topic, 2, run.dup, run.retain, ids, payloads)

    def _answer(self, topic: bytes, payload: bytes) -> None:
        """Requests that a device may make of the door itself."""
        if topic.startswith(ota.REQUEST):
            self.gateway.firmware.asked(self, cast(DeviceIdentity, self.identity).entity, topic, payload)
            return
        if topic == REQUEST_CERTIFICATE:
            self._renew(payload)
            return
        if topic.startswith(REQUEST_ATTRIBUTES):
            self.hold(attributes.ROOM)
            self.gateway.spawn(self.gateway.attributes.answer(
                self, cast(DeviceIdentity, self.identity).entity, topic[len(REQUEST_ATTRIBUTES) :], payload
            ))
            return
        try:
            call = orjson.loads(payload)
        except orjson.JSONDecodeError:
            call = None
        method = call.get("method") if isinstance(call, dict) else None
        if method == "getSessionLimits":
            answer: dict[str, Any] = {
                "maxPayloadSize": self.gateway.config.max_packet, "maxInflightMessages": 1000, "rateLimits": {},
            }
        else:
            answer = {"error": f"unknown method {str(method)[:80]}"}
        self.send(mqtt.publish(RESPONSE_RPC + topic[len(REQUEST_RPC) :], orjson.dumps(answer), level=self.level))

    def _renew(self, csr: bytes) -> None:
        certificates, device = self.gateway.certificates, cast(DeviceIdentity, self.identity)
        if certificates is None or len(csr) > 16_384:
            self.publish(CERTIFICATE, orjson.dumps({"error": "此处不签发证书 (no certificates are issued here)"}))
            return
        self.gateway.spawn(certificates.renew(self, device, csr))

    def acknowledge(self, run: mqtt.Publish) -> None:
        """The run is durable: queue its PUBACKs or PUBRECs."""
        if not run.qos or self.transport is None:
            return
        if type(run) is OverQuota:
            if self.qos2 is not None:
                for packet_id in run.ids:
                    self.qos2.pop(packet_id, None)
            data = b"".join(mqtt.acknowledgement(run.qos + 3, packet_id, mqtt.QUOTA) for packet_id in run.ids)
        elif run.qos == 1:
            data = mqtt.pubacks(run.ids)
        else:
            if self.qos2 is not None:
                for packet_id in run.ids:
                    if packet_id in self.qos2:
                        self.qos2[packet_id] = True
            data = mqtt.pubrecs(run.ids)
        self.answer(data, self.gateway.answering)


class Gateway:
    """Listeners, connections and their upkeep. `start`, then `close`."""

    def __init__(
        self, config: Config, authenticator: Authenticator, bus: Bus, db: Database | None = None
    ) -> None:
        """`db` is where identities of field protocols are looked up; it may be left out where there are none."""
        self.config, self.authenticator, self.bus, self.db = config, authenticator, bus, db
        self.kinds = dict(config.models)
        """What is known of each type (`products.kinds`): of packs, and of products as they are now."""
        self.rules = RuleBook()
        self.rules.take({kind: rules_of(model) for kind, model in self.kinds.items()})
        self._declared = asyncio.Lock()
        self.throttle = Throttle()
        self.connections: set[Connection] = set()
        self.entities: dict[tuple[int, str], Connection] = {}
        self.devices: dict[str, set[Connection]] = {}
        self.answering: list[Peer] = []
        self.protocol_errors = self.refused = self.throttled = self.turned_away = 0
        self.tick = 0
        self.ports: list[int] = []
        self._classes: dict[tuple[str, str, int], tuple[tuple[str, str, int], Rules]] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._presence: deque[dict[str, Any]] = deque(maxlen=200_000)
        self._closing: dict[Peer, int] = {}
        self._anonymous: dict[Connection, int] = {}
        self._addresses: dict[str, int] = {}
        self.ingestor: Ingestor
        self.broker = Broker(self, bus)
        self.doors: list[Door] = [
            FieldDoor(self, cast(FieldCodec, load(of["codec"])), Identities(db, name, self.class_of), of["port"], of["tls_port"],
                      of.get("udp_port", 0))
            for name, of in config.fields.items() if db is not None and name != "dtu"
        ]
        self.attributes = Attributes(bus)
        self.firmware = ota.FirmwareDoor(bus)
        self.provisioning = provision.ProvisionDoor(self)
        self.meters = Meters()
        self.polls = None if db is None or config.outbound is None else _poll_door(self, db, config)
        self.certificates = None if db is None or not (config.tls_client and config.tls_port) else _certificate_door(self, db)
        if config.coap_port:
            self.doors += _coap_doors(self, db, config)
        if config.gb28181 is not None and db is not None:
            self.doors.append(_gb28181_door(self, db, config))
        if (config.ocpp_port or config.ocpps_port) and db is not None:
            self.doors.append(_ocpp_door(self, db, config))
        if db is not None and config.outbound is not None and config.opcua_home:
            self.doors.append(_opcua_door(self, db, config))
        self.downlinks = None if db is None or config.outbound is None else DownlinkDoor(self, db, functools.partial(_outbound, config))
        self.courier = Courier(bus, config.name, [*(door.name for door in self.doors), BEARER], self._told)

    async def start(self) -> None:
        """Open the listeners; `ports` says where."""
        config = self.config
        loop = asyncio.get_running_loop()
        self.ingestor = Ingestor(
            self.bus.nc, self.bus.js, name=config.name, protocol="mqtt", released=self._released,
            pressure=self._press, high=config.high,
        )
        await self.bus.on_changed("devices", self._changed)
        if self.db is not None:
            await self.bus.on_changed("products", lambda _name: self._read_products())
            await self.bus.nc.flush()
            await self._read_products()
            await self._read_quotas()
            for what in ("quotas", "organisations"):
                await self.bus.on_changed(what, lambda _org: self._read_quotas())
        if config.port:
            self._servers.append(await loop.create_server(
                self._accept, config.host, max(config.port, 0), backlog=4096
            ))
        if config.tls_port:
            tls = self.tls()
            if self.certificates is not None:
                self.certificates.context(tls["ssl"])
                await self.certificates.start()
            self._servers.append(await loop.create_server(
                self._accept, config.host, max(config.tls_port, 0), backlog=4096, **tls
            ))
        self.ports = [server.sockets[0].getsockname()[1] for server in self._servers]
        for door in self.doors:
            await door.start()
        if self.polls is not None:
            await self.polls.start()
        await self.courier.open()
        if self.downlinks is not None:
            await self.downlinks.start()
        await self.attributes.open()
        for work in (self._upkeep(), self.broker.open(), self.courier.claims.run(), self.courier.tell(), self.attributes.new.run()):
            self.spawn(work)

    def tls(self) -> dict[str, Any]:
        """How a listener speaks TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.config.tls_certificate, self.config.tls_key)
        return {"ssl": context, "ssl_handshake_timeout": self.config.connect_timeout}

    async def close(self) -> None:
        """Stop listening, make durable what was read, close every connection."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.pause(PRESSURE)
        await asyncio.gather(self.ingestor.close(), self.broker.log.drain(), *(door.close() for door in self.doors))
        if self.polls is not None:
            await self.polls.close()
        if self.downlinks is not None:
            await self.downlinks.close()
        for connection in list(self.connections):
            connection.take_no_commands()
            connection.close("the gateway stops", mqtt.SHUTTING_DOWN)
        await self.courier.drain()
        await self.broker.close()
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.close()
        await asyncio.sleep(0)
        await end(self._tasks, patience=0.5)

    def spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept(self) -> Connection:
        return Connection(self)

    # Called by connections

    def arrived(self, connection: Connection) -> None:
        self.connections.add(connection)
        self._anonymous[connection] = self.tick
        if self.crowded(connection):
            self.turned_away += 1
            connection.close("too many connections")
        elif self.ingestor.pressed:
            connection.pause(PRESSURE)

    def crowded(self, connection: Peer | None = None) -> bool:
        """Whether there are more connections, at all doors, than may be; of a connection that has arrived, also of its address."""
        if connection is not None:
            address = household(connection.peer)
            count = self._addresses[address] = self._addresses.get(address, 0) + 1
            if address and 0 < self.config.max_connections_address < count:
                return True
        lines = len(self.polls.lines) if self.polls is not None else 0
        return len(self.connections) + lines + sum(len(d.connections) for d in self.doors) > self.config.max_connections

    def welcomed(self, connection: Connection) -> None:
        identity = connection.identity
        assert identity is not None
        self._anonymous.pop(connection, None)
        if connection.client_id:
            key = (identity.entity, connection.client_id)
            before = self.entities.get(key)
            self.entities[key] = connection
            if before is not None:
                before.close("taken over by a new connection [MQTT-3.1.4-2]", mqtt.TAKEN_OVER)
        self.devices.setdefault(identity.device_id, set()).add(connection)
        self.present(identity, True)

    def closing(self, connection: Peer) -> None:
        """The connection was asked to close; if its peer does not let it, it is cut off."""
        self._closing[connection] = self.tick

    def left(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.closed(connection)
        self._anonymous.pop(connection, None)
        self.provisioning.open.pop(connection, None)
        if connection.application is not None:
            connection.application.leave()
        connection.take_no_commands()
        identity = connection.identity
        if identity is None:
            return
        self.attributes.leave(connection, identity.entity)
        if self.certificates is not None:
            self.certificates.open.pop(connection, None)
        key = (identity.entity, connection.client_id)
        if self.entities.get(key) is connection:
            del self.entities[key]
        same = self.devices.get(identity.device_id)
        if same is not None:
            same.discard(connection)
            if not same:
                del self.devices[identity.device_id]
                self.present(identity, False)
        will = connection.will
        if will is not None:
            connection.will = None
            connection.hand_in(TOPICS[will.topic], mqtt.Publish(will.topic, 0, False, False, [], [will.payload]))

    def closed(self, connection: Peer) -> None:
        """The connection, which had arrived, is closed."""
        self._closing.pop(connection, None)
        address = household(connection.peer)
        left = self._addresses.get(address, 0) - 1
        if left > 0:
            self._addresses[address] = left
        else:
            self._addresses.pop(address, None)

    def too_many(self, connections: Collection[Any] | None) -> bool:
        """Whether a device that has these connections may have no further one."""
        return connections is not None and 0 < self.config.max_connections_device <= len(connections)

    def class_of(self, identity: DeviceIdentity) -> tuple[tuple[str, str, int], Rules]:
        key = (identity.org, identity.type, identity.origin)
        found = self._classes.get(key)
        if found is None:
            found = self._classes[key] = (key, self.rules.of(identity.type))
            if identity.type not in self.kinds and self.db is not None:  # perhaps declared a moment ago
                self.spawn(self._read_products())
        return found

    # Called by the ingestor

    def _released(self, items: list[Item]) -> None:
        for _, (connection, run), size in items:
            connection.release(size)
            connection.acknowledge(run)
        answering, self.answering = self.answering, []
        write_answers(answering)

    def _told(self, receipts: list[tuple[Connection, mqtt.Publish, int]]) -> None:
        for connection, run, size in receipts:
            connection.release(size)
            connection.acknowledge(run)
        answering, self.answering = self.answering, []
        write_answers(answering)

    def _press(self, on: bool) -> None:
        log.warning("reading %s: %d bytes held", "paused" if on else "resumed", self.ingestor.held)
        press(self.connections, on)

    # Upkeep

    async def _changed(self, device_id: str) -> None:
        """A device changed: forget it, and disconnect it if its token is no longer valid."""
        self.authenticator.forget(device_id)
        if self.certificates is not None:
            self.certificates.forget(device_id)
        which = self.devices.get(device_id, set()) if device_id else self.connections
        for connection in list(which):
            if connection.identity is not None:
                connection.close("the device was changed; it may come back with a valid token", mqtt.ADMINISTRATIVE)
        for door in self.doors:
            door.changed(device_id)
        if self.polls is not None:
            self.polls.changed(device_id)
        if self.downlinks is not None:
            self.downlinks.changed(device_id)

    async def _read_products(self) -> None:
        """The types that organisations declare now."""
        assert self.db is not None
        async with self._declared:
            try:
                rows = await self.db.read(lambda c: c.execute(sa.text(PRODUCTS)).all())
            except Exception as error:
                log.warning("products cannot be read, those that were stay: %r", error)
                return
            packs = self.config.models
            found = {row.name: kind_of(orjson.loads(row.model)) for row in rows if row.name not in packs}
            if {**found, **packs} == self.kinds:
                return
            for kind in self.kinds.keys() - packs.keys() - found.keys():
                del self.kinds[kind]
            self.kinds.update(found)
            self.rules.take({kind: rules_of(model) for kind, model in self.kinds.items()})

    async def _read_quotas(self) -> None:
        """How much organisations may send now."""
        assert self.db is not None
        try:
            rows = await self.db.read(lambda c: c.execute(sa.text(LIMITS)).all())
        except Exception as error:
            log.warning("quotas cannot be read, those that were stay: %r", error)
            return
        self.meters.set({row.id: row.messages_s for row in rows if row.messages_s is not None},
                        {row.id: row.parent for row in rows}, time.monotonic(), [row.id for row in rows if row.used_up])

    def present(self, identity: DeviceIdentity, online: bool, **more: int) -> None:
        """Tell the house that a device was heard, or that its last connection closed. `more`: `at` if it was not now, `gone` when
        it is offline by its protocol if it is not heard again; both in µs."""
        self._presence.append({
            "entity": identity.entity, "device": identity.device_id, "online": online,
            "at": time.time_ns() // 1000, **more,
        })

    async def _upkeep(self) -> None:
        """Once a second: keep-alive and CONNECT limits, presence and statistics."""
        reconnects = self.bus.nc.stats["reconnects"]
        while True:
            await asyncio.sleep(1)
            self.tick += 1
            if reconnects != self.bus.nc.stats["reconnects"]:  # changes may have been told while we were away
                reconnects = self.bus.nc.stats["reconnects"]
                self.authenticator.forget("")
                if self.certificates is not None:
                    self.certificates.missed()
                if self.db is not None:
                    await self._read_products()
                    await self._read_quotas()
                for door in self.doors:
                    door.forget()
                self.courier.again()
                self.attributes.again()
                if self.polls is not None:
                    self.polls.missed()
                if self.downlinks is not None:
                    self.downlinks.missed()
            self.courier.tick()
            self._sweep()
            if self.certificates is not None:
                self.certificates.sweep()
            for door in self.doors:
                door.sweep()
            if self.polls is not None:
                self.polls.sweep()
            with contextlib.suppress(Exception):
                await self._report()

    def _sweep(self) -> None:
        tick = self.tick
        for connection, since in list(self._closing.items()):
            if tick - since > 5 and connection.transport is not None:
                connection.transport.abort()
        limit = self.config.connect_timeout
        for connection, since in list(self._anonymous.items()):
            if tick - since > limit and not connection.reasons:
                connection.close("no CONNECT in time [MQTT-3.1.0-1]")
        self.provisioning.sweep()
        if self.ingestor.pressed:
            return
        late = [
            c for c in self.connections if c.keep_alive and tick - c.seen > c.keep_alive + 1 and not c.reasons
        ]
        for connection in late:
            connection.close("keep-alive expired [MQTT-3.1.2-24]", mqtt.KEEP_ALIVE)

    async def _report(self) -> None:
        nc = self.bus.nc
        if not nc.is_connected:
            return
        while self._presence:
            some = [self._presence.popleft() for _ in range(min(1000, len(self._presence)))]
            await nc.publish("tulou.presence", orjson.dumps(some))
        await nc.publish("tulou.stats.gateway", orjson.dumps(self.stats()))

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and the state now."""
        doors: list[Gateway | Door] = [self, *self.doors]
        ingestors = [door.ingestor for door in doors]
        spoken = {door.name: figures for door in self.doors if (figures := door.stats())}
        lines = 0
        if self.polls is not None:
            ingestors += self.polls.ingestors.values()
            lines = len(self.polls.lines)
            if lines or self.polls.ports or self.polls.unreachable:
                spoken["dtu"] = self.polls.stats()
        if self.downlinks is not None and (figures := self.downlinks.stats()):
            spoken["lorawan"] = figures
        return {
            "name": self.config.name, "pid": os.getpid(), "connections": lines + sum(len(d.connections) for d in doors),
            **{
                name: sum(getattr(ingestor.counters, name) for ingestor in ingestors)
                for name in ("accepted", "acked", "readings", "dead", "bytes", "batches", "retries")
            },
            "held": sum(ingestor.held for ingestor in ingestors), "paused": any(ingestor.pressed for ingestor in ingestors),
            "failing": next((ingestor.failing for ingestor in ingestors if ingestor.failing), ""),
            "protocol_errors": self.protocol_errors, "refused": self.refused, "throttled": self.throttled,
            "applications": self.broker.stats(), "commands": self.courier.stats(),
            "turned_away": self.turned_away, "rss": rss(), "fields": spoken, "quotas": self.meters.report(time.monotonic()),
        }


def _certificate_door(gateway: Gateway, db: Database) -> CertificateDoor:
    from tulou.access.certificates.door import CertificateDoor

    return CertificateDoor(gateway, db)


def _coap_doors(gateway: Gateway, db: Database | None, config: Config) -> list[Door]:
    from tulou.access.coap.door import CoapDoor
    from tulou.access.lwm2m.server import Lwm2mDoor

    coap = CoapDoor(gateway, config.coap_port)
    if not config.lwm2m or db is None:
        return [coap]
    return [coap, Lwm2mDoor(gateway, coap, Identities(db, "lwm2m", gateway.class_of))]


def _gb28181_door(gateway: Gateway, db: Database, config: Config) -> Door:
    from tulou.access.gb28181.door import SipDoor
    from tulou.access.gb28181.media import MediaServer

    of = config.gb28181 or {}
    return SipDoor(gateway, Identities(db, "gb28181", gateway.class_of), MediaServer(of["media"], functools.partial(_outbound, config)), of)


def _ocpp_door(gateway: Gateway, db: Database, config: Config) -> Door:
    from tulou.access.ocpp.door import OcppDoor

    return OcppDoor(gateway, Identities(db, OcppDoor.name, gateway.class_of), config.ocpp_port, config.ocpps_port)


def _outbound(config: Config) -> Outbound:
    """The judge of addresses to dial, whose import is left until one is dialled."""
    from tulou.kernel.outbound import Outbound
    from tulou.kernel.settings import Settings

    return Outbound(Settings(**(config.outbound or {})))


def _opcua_door(gateway: Gateway, db: Database, config: Config) -> Door:
    from tulou.access.opcua.door import OpcUaDoor

    return OpcUaDoor(gateway, db, functools.partial(_outbound, config), Path(config.opcua_home))


def _poll_door(gateway: Gateway, db: Database, config: Config) -> PollDoor:
    of = config.fields.get("dtu", {})
    return PollDoor(gateway, db, functools.partial(_outbound, config), of.get("port", 0), of.get("tls_port", 0))


def rss() -> int:
    """Resident memory of this process in bytes."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def serve(config: Config, ready: Callable[[Gateway], Awaitable[None]] | None = None) -> None:
    """Run a gateway until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    bus = Bus(config.nats_url, name=config.name)
    await bus.connect()
    db = Database(config.sql_url, readers=2)
    gateway = Gateway(config, SqlAuthenticator(db), bus, db)
    await gateway.start()
    log.info("MQTT on %s %s", config.host, gateway.ports)
    for door in gateway.doors:
        log.info("%s on %s %s", door.name, config.host, door.ports)
    if gateway.polls is not None and gateway.polls.ports:
        log.info("dtu on %s %s", config.host, gateway.polls.ports)
    if ready is not None:
        await ready(gateway)
    await stop.wait()
    await gateway.close()
    await bus.close()
    await db.close()


def main(argv: list[str] | None = None) -> None:
    """The process: settings JSON as the first argument or in `TULOU_GATEWAY`."""
    arguments = sys.argv[1:] if argv is None else argv
    config = Config.from_json(arguments[0] if arguments else os.environ["TULOU_GATEWAY"])
    logging.basicConfig(level=os.environ.get("TULOU_LOG_LEVEL", "info").upper(),
                        format="%(asctime)s %(levelname)s %(name)s %(message)s")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = config.max_connections + 100
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    uvloop.run(serve(config))


if __name__ == "__main__":
    main()
