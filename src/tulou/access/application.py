"""The connection of an application at the MQTT door: what it has agreed on, its packets, and what is sent to it.

Law: nothing is decided here about other connections; that is the broker's (`broker.py`). What a client can rely on later
is durable before it is told (`hold`).
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from tulou.access import mqtt
from tulou.access.admission import Refused, Rights
from tulou.access.messages import Row
from tulou.access.sessions import NEVER, WINDOW, Client, Message, Session, Subscription
from tulou.access.topics import LEVELS

if TYPE_CHECKING:
    from tulou.access.broker import Broker
    from tulou.access.gateway import Connection

RECEIVE_MAXIMUM = 1000
"""Messages of QoS 1 and 2 that a client of 5.0 may have under way to us."""
ALIASES = 32
"""Topic aliases, either way."""
SUBSCRIPTIONS = 1000
"""Of one session."""
SESSIONS_HERE, SESSIONS_OF_SPACE = 100_000, 10_000
"""Of one gateway, and of one topic space in it."""
HOUSE, THINGS = "$tulou/", b"v1.1/"
"""Where telemetry of devices is, and SensorThings."""


class Application:
    """The connection of an application, and what it has agreed on."""

    __slots__ = ("aliases", "broker", "catching", "client", "connection", "entered", "held", "pending", "rights", "saving",
                 "session", "writable")

    def __init__(self, broker: Broker, connection: Connection, rights: Rights) -> None:
        self.broker, self.connection, self.rights = broker, connection, rights
        self.session: Session
        self.client = Client(connection.level)
        self.aliases: dict[int, bytes] = {}
        self.pending = 0
        """Messages of QoS 1 that we have not acknowledged yet."""
        self.entered = False
        self.writable = True
        self.catching = False
        self.held: list[bytes] = []
        """What may be written once the session's record is durable, and is part of no record under way."""
        self.saving = False
        """Nothing may be written but through `held`: CONNACK is still there."""

    @property
    def there(self) -> bool:
        """Whether the connection still stands for the session."""
        return self.connection.transport is not None and self.broker.applications.get(self.session.key) is self

    # Coming and going

    async def enter(self, connect: mqtt.Connect) -> None:
        """Take up the session and answer CONNECT (3.1.4). Raises `Refused`."""
        broker, connection = self.broker, self.connection
        client_id, made = connect.client_id, ""
        if not client_id:
            client_id = made = f"tulou-{secrets.token_hex(12)}"
        if len(client_id) > 1024:
            raise Refused("客户端标识过长 (the client id is too long)")
        if connect.will is not None and not self._may_publish(connect.will.topic):
            raise Refused("不允许在遗嘱主题上发布 (the will's topic is not allowed)")
        space = broker.space(self.rights.space)
        fresh = Session(space.name, self.rights.owner, client_id, space.head)
        key = fresh.key
        other = broker.applications.get(key)
        if other is not None:
            other.connection.close("taken over by a new connection [MQTT-3.1.4-3]", mqtt.TAKEN_OVER)
            other.leave()
        found = broker.sessions.get(key)
        if found is not None and (connect.clean or found.until <= time.time()):
            broker.end(found)
            found = None
        if found is None and (len(broker.sessions) >= SESSIONS_HERE or space.sessions >= SESSIONS_OF_SPACE):
            raise Refused("会话过多，请稍后重试 (too many sessions; try again later)", later=True)
        self.session = session = found or fresh
        broker.applications[key] = self
        if found is None:
            broker.sessions[key] = session
            space.sessions += 1
        else:
            await broker.restore(session)
            if not self.there:
                return
        session.until = 0.0
        session.will, session.will_at = connect.will, 0.0
        session.expiry = connect.expiry if connect.level == 5 else 0 if connect.clean else NEVER
        self.client = Client(
            connect.level, min(connect.receive_maximum, WINDOW), connect.packet_limit, min(connect.alias_maximum, ALIASES)
        )
        longest = broker.gateway.config.longest_keep_alive
        keep_alive = None
        if connect.level == 5 and longest and not 0 < connect.keep_alive <= longest:
            keep_alive = longest
            connection.keep_alive = longest * 1.5
        if found is None:
            session.live = True
            session.position = space.head
        session.resume()
        broker.attach(session)
        answer = mqtt.welcome(
            connect.level, found is not None, receive_maximum=RECEIVE_MAXIMUM, client_id=made, keep_alive=keep_alive,
            packet_limit=broker.gateway.config.max_packet, alias_maximum=ALIASES,
        )
        self.entered = True
        broker.prune(self)
        if broker.keeps(session):
            self.saving = True
            self.hold(answer)
        else:
            self.write(answer)
        self.pump()
        broker.recover_groups(session)

    def leave(self) -> None:
        """The connection is gone: the session goes on without it, or ends (4.1), and its will is due (3.1.2.5)."""
        broker = self.broker
        session = getattr(self, "session", None)
        if session is None or broker.applications.get(session.key) is not self:
            return
        del broker.applications[session.key]
        if not self.entered:
            if session.until == 0.0:
                broker.end(session)
            return
        self.entered = False
        broker.part(session)
        if session.will is not None:
            delay = min(session.will.delay, session.expiry)
            if delay:
                session.will_at = time.time() + delay
                broker.will_later(session, delay)
            else:
                broker.publish_will(session)
        if session.expiry:
            session.until = time.time() + session.expiry if session.expiry != NEVER else float("inf")
            broker.save(session)
        else:
            broker.end(session)

    def refused(self, why: str) -> None:
        """The rights have ended, and with them the will."""
        if self.entered:
            self.session.will = None
        self.connection.close(why, mqtt.NOT_ALLOWED)

    # Writing

    def write(self, data: bytes) -> None:
        if self.saving:
            self.hold(data)
        elif self.connection.transport is not None:
            self.connection.transport.write(data)

    def hold(self, data: bytes) -> None:
        """Write `data` once the session as it is now is durable."""
        self.held.append(data)
        self.broker.save(self.session)

    def pump(self) -> None:
        """Send what may be sent."""
        session = self.session
        kept = session.expiry > 0
        while self.writable and self.entered and session.queue:
            data, bound = session.pump(self.client, time.time())
            if not data:
                break
            if self.held or (bound and kept):
                self.hold(data)
            else:
                self.write(data)
            if kept:
                self.broker.dirty.add(session.key)
        if not session.live and session.hungry and self.entered:
            self.broker.catch_up(session)
        if session.shares:
            self.broker.deal(session)

    # Packets

    def handle(self, event: Any) -> bool:
        """Handle one packet. False if the following ones must not be handled."""
        kind = type(event)
        if kind is mqtt.Publish:
            return self._publish(event)
        if kind is mqtt.Ack:
            self._ack(event)
        elif kind is mqtt.PingRequest:
            self.write(mqtt.PINGRESP)
        elif kind is mqtt.Subscribe:
            self._subscribe(event)
        elif kind is mqtt.Unsubscribe:
            self._unsubscribe(event)
        else:
            return self._disconnect(event)
        return True

    def _disconnect(self, event: mqtt.Disconnect) -> bool:
        session = self.session
        if event.expiry is not None:
            if event.expiry and not session.expiry:
                self.connection.close("session expiry that CONNECT did not ask for [5.0 3.14.2.2.2]", mqtt.PROTOCOL_ERROR)
                return False
            session.expiry = event.expiry
        if not event.with_will:
            session.will = None
        self.leave()
        self.connection.close("DISCONNECT")
        return False

    def _may_publish(self, topic: bytes) -> bool:
        return self.rights.write and not topic.startswith((b"$tulou/", b"$SYS/", b"$share/")) and topic.count(b"/") < LEVELS and not (
            topic.startswith(THINGS) and self.broker.things.concerns(topic.decode())
        )

    def _publish(self, run: mqtt.Publish) -> bool:
        """PUBLISH packets: into the log, and acknowledged from there (3.3.4)."""
        broker, session, connection = self.broker, self.session, self.connection
        five = connection.level == 5
        allowed = self._may_publish(run.topic)
        for place, payload in enumerate(run.payloads):
            topic, number = run.topic, 0
            properties = run.properties.get(place) if run.properties else None
            if properties is not None and properties.alias is not None:
                alias = properties.alias
                if not 0 < alias <= ALIASES or (not topic and alias not in self.aliases):
                    connection.close("topic alias that is not valid [5.0 3.3.2.3.4]", mqtt.BAD_ALIAS)
                    return False
                if topic:
                    self.aliases[alias] = topic
                else:
                    topic = self.aliases[alias]
                    allowed = self._may_publish(topic)
            if not allowed and run.qos < 2 and topic.startswith(THINGS) and broker.things.creates(topic.decode()):
                broker.things.create(self, topic.decode(), payload, run.qos, run.ids[place] if run.qos else b"")
                continue
            if run.qos:
                number = int.from_bytes(run.ids[place])
                if run.qos == 2 and number in session.received:
                    if session.received[number]:  # else PUBREC comes when the first one is durable
                        self._answer(5, run.ids[place])
                    continue
                if five and self.pending + len(session.received) >= RECEIVE_MAXIMUM:
                    connection.close("more than Receive Maximum under way [5.0 3.3.4]", mqtt.OVER_RECEIVE_MAXIMUM)
                    return False
            reason = 0 if allowed else mqtt.NOT_ALLOWED
            if allowed and run.retain and payload and broker.over_quota(session.space, topic, len(payload)):
                reason = mqtt.QUOTA
            if reason:
                if run.qos and five:
                    self.write(mqtt.acknowledgement(
                        4 if run.qos == 1 else 5, run.ids[place], reason,
                        "不允许在此主题上发布 (you may not publish here)" if reason == mqtt.NOT_ALLOWED
                        else "保留消息已达上限 (too many retained messages)",
                    ))
                    continue
                connection.close("not allowed to publish [MQTT-3.3.5-2]", reason)
                return False
            expires = 0.0
            kept = b""
            if properties is not None:
                kept = properties.kept
                if properties.expiry is not None:
                    expires = time.time() + properties.expiry
            if run.qos == 2:
                session.received[number] = False
            self.pending += run.qos == 1
            row: Row = (
                topic, payload, run.qos | run.retain << 2, kept, expires, session.key, number if run.qos == 2 else 0
            )
            size = len(payload) + len(topic) + len(kept) + 200
            connection.hold(size)
            broker.log.add(session.space, row, (self, run.qos, run.ids[place] if run.qos else b"", size))
        return True

    def released(self, qos: int, packet_id: bytes, size: int) -> None:
        """A message is durable. PUBREC goes to whoever stands for the session by now."""
        self.connection.release(size)
        if qos == 1:
            self.pending -= 1
            self._answer(4, packet_id)
        elif qos == 2 and (number := int.from_bytes(packet_id)) in self.session.received:
            self.session.received[number] = True
            now = self.broker.applications.get(self.session.key)
            if now is not None and now.session is self.session:
                now._answer(5, packet_id)

    def _answer(self, kind: int, packet_id: bytes) -> None:
        answer = mqtt.pubacks([packet_id]) if kind == 4 else mqtt.pubrecs([packet_id])
        if not self.entered:
            return
        if self.saving:
            self.hold(answer)
        else:
            self.connection.answer(answer, self.broker.answering)

    def _ack(self, ack: mqtt.Ack) -> None:
        session, number = self.session, int.from_bytes(ack.id)
        five = self.connection.level == 5
        kept = session.expiry > 0
        if ack.kind == 6:
            known = number in session.received
            session.received.pop(number, None)
            answer = mqtt.pubcomp(ack.id) if known or not five else mqtt.acknowledgement(7, ack.id, mqtt.ID_NOT_FOUND)
            if known and kept:
                self.hold(answer)
            else:
                self.write(answer)
            return
        known = number in session.inflight
        if session.acknowledged(self.client, ack.kind, number, ack.reason):
            if kept:
                self.hold(mqtt.pubrel(ack.id))
            else:
                self.write(mqtt.pubrel(ack.id))
        elif ack.kind == 5 and not known and five and ack.reason < 0x80:
            self.write(mqtt.acknowledgement(6, ack.id, mqtt.ID_NOT_FOUND))
        if kept:
            self.broker.dirty.add(session.key)
        self.pump()

    def _subscribe(self, packet: mqtt.Subscribe) -> None:
        broker, session = self.broker, self.session
        space = broker.space(session.space)
        codes = []
        retained: list[tuple[Message, Subscription]] = []
        for wanted, options in packet.filters:
            reason = broker.refuses(self, wanted)
            if not reason and wanted not in session.subscriptions and len(session.subscriptions) >= SUBSCRIPTIONS:
                reason = mqtt.QUOTA
            if reason:
                codes.append(reason)
                continue
            house = wanted.startswith(HOUSE) or broker.things.concerns(wanted)
            qos = 0 if house else options & 3
            made = Subscription(
                wanted, qos, options & 4 != 0, options & 8 != 0, options >> 4 & 3, packet.identifier,
                max(space.head, space.written),
            )
            before = session.subscribe(made)
            broker.subscribed(session, made)
            codes.append(qos)
            if not house and not made.share and (made.handling == 0 or (made.handling == 1 and before is None)):
                retained += [(message, made) for message in space.retained.match(wanted.encode())]
        answer = mqtt.suback(packet.id, codes, self.connection.level)
        if session.expiry:
            self.hold(answer)
        else:
            self.write(answer)
        now = time.time()
        for message, made in retained:
            if not message.expires or message.expires > now:
                session.retained(message, made)
        self.pump()

    def _unsubscribe(self, packet: mqtt.Unsubscribe) -> None:
        codes = []
        for wanted in packet.filters:
            before = self.session.unsubscribe(wanted)
            if before is not None:
                self.broker.unsubscribed(self.session, before)
            codes.append(0 if before is not None else mqtt.NO_SUBSCRIPTION)
        answer = mqtt.unsuback(packet.id, codes, self.connection.level)
        if self.session.expiry:
            self.hold(answer)
        else:
            self.write(answer)
