"""Topic spaces and sessions of applications at the MQTT door (MQTT 3.1.1 and 5.0).

Law: every message goes through the log (`messages.py`) and comes back from it in one order, so that all gateways and all
sessions see the same; it is acknowledged when it is durable there. A topic space belongs to one organisation and there
is no way from one to another. Of a session that outlives its connection everything that a client can rely on is
durable before the client is told: its subscriptions before SUBACK, the packet id of a message of QoS 2 before PUBLISH,
its receipt before PUBREL, its release before PUBCOMP.

Decided in docs/decisions/0011-mqtt-sessions.md, with its limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from nats.js.errors import NotFoundError

from tulou.access import messages, mqtt, telemetry_topics
from tulou.access.admission import RECHECK, Refused, Rights, admit, nobody, rights_now
from tulou.access.application import HOUSE, Application
from tulou.access.messages import LOG, RETAINED, SESSIONS, SUBJECTS, Follower, MessageLog
from tulou.access.peer import press, write_answers
from tulou.access.sensorthings.publishing import Publishing
from tulou.access.sessions import (
    NEVER,
    PLACES,
    Group,
    Message,
    Session,
    Subscription,
    record_written,
)
from tulou.access.topics import LEVELS, Names, Subscriptions, matches, shared
from tulou.kernel.bus import Bus

if TYPE_CHECKING:
    from tulou.access.gateway import Gateway

log = logging.getLogger("tulou.broker")

RETAINED_TOPICS, RETAINED_BYTES = 10_000, 32 << 20
"""Of one topic space."""
CATCHING_UP = 4
"""Sessions that read the log at the same time."""
REFRESH = 60.0
"""Seconds after which the record of a session that is there is written again."""


class Space:
    """A topic space: who subscribed to what, the shared subscriptions, the retained messages. `head` is the last position
    that was dispatched, `written` the last that this gateway wrote."""

    __slots__ = ("groups", "head", "name", "retained", "retained_bytes", "sessions", "subscriptions", "written")

    def __init__(self, name: str, head: int) -> None:
        self.name = name
        self.head = self.written = head
        self.subscriptions: Subscriptions[bytes, tuple[Session | Group, Subscription | None]] = Subscriptions()
        self.groups: dict[str, Group] = {}
        self.sessions = 0
        self.retained: Names[Message] = Names()
        self.retained_bytes = 0

    def retain(self, message: Message) -> None:
        """Put the message in place of the one of its topic; without payload it only takes that away (3.3.1.3)."""
        before = self.retained.get(message.topic)
        if before is not None:
            if before.position > message.position:
                return
            self.retained_bytes -= before.size
            self.retained.delete(message.topic)
        if message.payload:
            self.retained.set(message.topic, message)
            self.retained_bytes += message.size

    def forget_expired(self, now: float) -> None:
        """Take retained messages away that have expired."""
        for message in [m for wanted in (b"#", b"$SYS/#") for m in self.retained.match(wanted)]:
            if message.expires and message.expires <= now:
                self.retained_bytes -= message.size
                self.retained.delete(message.topic)


class Broker:
    """All topic spaces and sessions of one gateway. `open` ends when the streams are there; until then applications are
    asked to come later."""

    def __init__(self, gateway: Gateway, bus: Bus) -> None:
        self.gateway, self.bus = gateway, bus
        self.spaces: dict[str, Space] = {}
        self.sessions: dict[bytes, Session] = {}
        self.applications: dict[bytes, Application] = {}
        self.house: Subscriptions[bytes, Session] = Subscriptions()
        """Subscriptions to telemetry of devices, of all topic spaces."""
        self.things = Publishing(self, gateway.config.sensorthings, gateway.kinds)
        self.dirty: set[bytes] = set()
        """Sessions whose record may be written with the next second."""
        self.head = 0
        self.ready = False
        self.answering: list[Any] = []
        self.dispatched = self.delivered = 0
        self.log = MessageLog(bus, self._released, self._press)
        self._follower: Follower
        self._retained_room = 0
        self._telemetry: Follower | None = None
        self._saves: dict[bytes, None] = {}
        self._saving = False
        self._saved_at: dict[bytes, float] = {}
        self._readers = asyncio.Semaphore(CATCHING_UP)
        self._catching: set[bytes] = set()
        self._wills: dict[bytes, asyncio.TimerHandle] = {}
        self._checked = time.monotonic()
        self._recheck = asyncio.Event()

    # Opening

    async def open(self) -> None:
        """Read what was kept, and follow the log."""
        while True:
            try:
                await self._load()
                break
            except NotFoundError:
                await asyncio.sleep(1)
            except Exception as error:
                log.warning("applications must wait: %r", error)
                await asyncio.sleep(1)
        self.ready = True
        for what in ("tokens", "organisations"):
            await self.bus.on_changed(what, self._changed)
        self.gateway.spawn(self._keep_rights())
        self.gateway.spawn(self._keep())

    def _changed(self, _key: str) -> None:
        self._recheck.set()

    async def _load(self) -> None:
        self.spaces.clear()
        self.sessions.clear()
        last = (await self.bus.js.stream_info(LOG)).state.last_seq
        self._retained_room = ((await self.bus.js.stream_info(RETAINED)).config.max_bytes or 0) // 2
        await self.bus.js.stream_info(SESSIONS)
        self.head = last << 16 | PLACES
        records: dict[str, bytes] = {}
        mine = f"{SUBJECTS[SESSIONS]}.{self.gateway.config.name}.>"
        async for _, subject, data in messages.read(self.bus, SESSIONS, mine):
            records[subject] = data
        there: dict[bytes, tuple[Session, int]] = {}
        for data in records.values():
            if not data:
                continue
            try:
                session = Session.from_record(data)
                written = record_written(data)
            except Exception:
                log.exception("a session's record cannot be read")
                continue
            self.sessions[session.key] = session
            self.space(session.space).sessions += 1
            self._saved_at[session.key] = 0.0
            if not session.until:
                there[session.key] = session, written
        if there:
            await self._received_since(there)
        async for _, subject, data in messages.read(self.bus, RETAINED, f"{SUBJECTS[RETAINED]}.>"):
            if data:
                self.space(subject.split(".")[3]).retain(messages.decode_retained(data))
        self._regroup()
        self._follower = Follower(self.bus, LOG, f"{SUBJECTS[LOG]}.>", self._dispatch, last + 1)
        await self._follower.open()
        now = time.time()
        for session in list(self.sessions.values()):
            if not session.until:  # its client was there when the gateway was killed
                session.until = float("inf") if session.expiry == NEVER else now + session.expiry
                if session.will is not None:
                    session.will_at = now + min(session.will.delay, session.expiry)
                if session.expiry:
                    self.save(session)
            if session.will is not None and session.will_at:
                self.will_later(session, max(0.0, session.will_at - now))
            elif not session.expiry:
                self.end(session)

    async def _received_since(self, there: dict[bytes, tuple[Session, int]]) -> None:
        """Messages of QoS 2 that were taken after the records of their publishers' sessions were made: their repeats must
        be known (4.3.3)."""
        start = min(written for _, written in there.values()) >> 16
        async for sequence, _, data in messages.read(self.bus, LOG, f"{SUBJECTS[LOG]}.>", start):
            for message, number in messages.decode(sequence, data):
                found = there.get(message.source) if number else None
                if found is not None and message.position > found[1]:
                    found[0].received[number] = True

    def _regroup(self) -> None:
        """Shared subscriptions as the sessions' records have them. They go on where the records of clients that were
        there agree that all was dealt out, which may deal a message out again and loses none."""
        known: dict[tuple[str, str], list[tuple[bool, int]]] = {}
        for session in self.sessions.values():
            for wanted, subscription in session.shares.items():
                self.subscribed(session, subscription)
                at = session.groups.get(wanted, self.head)
                known.setdefault((session.space, wanted), []).append((not session.until, at))
        for (name, wanted), places in known.items():
            group = self.space(name).groups[wanted]
            there = [at for present, at in places if present]
            group.position = min(there) if there else max(at for _, at in places)
            group.live = False

    def space(self, name: str) -> Space:
        found = self.spaces.get(name)
        if found is None:
            found = self.spaces[name] = Space(name, self.head)
        return found

    async def close(self) -> None:
        """Make durable what was taken, and keep every session."""
        await self.log.close()
        self.ready = False
        for handle in self._wills.values():
            handle.cancel()
        if hasattr(self, "_follower"):
            await self._follower.close()
        if self._telemetry is not None:
            await self._telemetry.close()
        await self.things.close()

    # Who may

    def may_ask(self, connect: mqtt.Connect) -> bool:
        """Whether the client shows what only an application does, or shows nothing where that is let in."""
        return (connect.user or "").startswith("tulou_") or (connect.password or b"").startswith(b"tulou_") or (
            not connect.user and not connect.password and bool(self.gateway.config.anonymous)
        )

    async def admit(self, connect: mqtt.Connect, address: str) -> Rights:
        """What the client may. Raises `Refused`, or what the bus raises."""
        if not self.ready:
            raise Refused("消息服务尚未就绪 (the broker is not ready yet)", later=True)
        if not connect.user and not connect.password:
            return nobody(self.gateway.config.anonymous)
        password = (connect.password or b"").decode("utf-8", "replace")
        return await admit(self.bus, connect.user or "", password, address)

    def refuses(self, application: Application, wanted: str) -> int:
        """The reason code with which a topic filter is refused, 0 if it is not."""
        rights = application.rights
        if wanted.count("/") >= LEVELS + 2:
            return mqtt.BAD_FILTER
        try:
            share = shared(wanted)
        except ValueError:
            return mqtt.BAD_FILTER
        if share is not None and (share[1].startswith("$") or self.things.concerns(share[1])):
            return mqtt.NOT_ALLOWED
        if wanted.startswith(HOUSE):
            org = wanted.split("/")[1]
            if org in ("+", "#"):
                return 0 if rights.orgs is None or rights.orgs else mqtt.NOT_ALLOWED
            return 0 if rights.sees(org) else mqtt.NOT_ALLOWED
        if self.things.concerns(wanted):
            return self.things.refuses(application, wanted)
        return 0 if rights.read else mqtt.NOT_ALLOWED

    async def _keep_rights(self) -> None:
        """Ask again what applications may: each `RECHECK` seconds, and soon after something changed."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECHECK):
                    await self._recheck.wait()
                self._recheck.clear()
                await asyncio.sleep(0.2)  # the process that answers hears of the change at the same moment
            actors = {a.rights.actor for a in self.applications.values() if a.rights.actor}
            if not actors:
                continue
            try:
                now = await rights_now(self.bus, sorted(actors))
            except Exception as error:
                log.warning("rights of applications cannot be looked up: %r", error)
                continue
            for application in list(self.applications.values()):
                rights = now.get(application.rights.actor, application.rights)
                if rights is None or rights.space != application.rights.space:
                    application.refused("the credentials are no longer valid")
                else:
                    application.rights = rights
                    self.prune(application)

    def prune(self, application: Application) -> None:
        """End the subscriptions that the rights do not cover any more."""
        if not application.entered:
            return
        session = application.session
        for wanted in list(session.subscriptions):
            if self.refuses(application, wanted) == mqtt.NOT_ALLOWED:
                before = session.unsubscribe(wanted)
                if before is not None:
                    self.unsubscribed(session, before)
                if session.expiry:
                    self.save(session)

    # Sessions

    def keeps(self, session: Session) -> bool:
        """Whether the session has a record: it outlives its connection, or its will outlives this process."""
        return session.expiry > 0 or session.will is not None

    def attach(self, session: Session) -> None:
        """The client is there: its subscriptions get messages."""
        handle = self._wills.pop(session.key, None)
        if handle is not None:
            handle.cancel()
        for subscription in session.subscriptions.values():
            self.subscribed(session, subscription)

    def subscribed(self, session: Session, subscription: Subscription) -> None:
        space = self.space(session.space)
        if subscription.filter.startswith(HOUSE):
            self.house.add(subscription.filter.encode(), session.key, session)
            return
        if self.things.concerns(subscription.filter):
            self.things.add(session, subscription.filter)
            return
        if not subscription.share:
            space.subscriptions.add(
                subscription.filter.encode(), session.key + subscription.filter.encode(), (session, subscription)
            )
            return
        group = space.groups.get(subscription.filter)
        if group is None:
            group = space.groups[subscription.filter] = Group(subscription.filter, space.head)
            space.subscriptions.add(group.wanted, subscription.filter.encode(), (group, None))
        group.members[session.key] = (session, subscription)

    def unsubscribed(self, session: Session, subscription: Subscription) -> None:
        space = self.space(session.space)
        wanted = subscription.filter
        if wanted.startswith(HOUSE):
            self.house.remove(wanted.encode(), session.key)
        elif self.things.concerns(wanted):
            self.things.remove(session, wanted)
        elif not subscription.share:
            space.subscriptions.remove(wanted.encode(), session.key + wanted.encode())
        else:
            group = space.groups.get(wanted)
            if group is not None:
                group.members.pop(session.key, None)
                if not group.members:
                    del space.groups[wanted]
                    space.subscriptions.remove(group.wanted, wanted.encode())

    def part(self, session: Session) -> None:
        """The client is gone: only shared subscriptions remember the session."""
        for subscription in session.subscriptions.values():
            if not subscription.share:
                self.unsubscribed(session, subscription)
        space = self.space(session.space)
        for delivery in session.park(space.head):
            self._redeal(space, delivery.share, delivery.message)

    def _redeal(self, space: Space, share: str, message: Message | None) -> None:
        """Give what was dealt to a client that is gone to another one of its group, or let the group go back to it."""
        group = space.groups.get(share)
        if group is None or message is None:
            return
        got = group.offer(message, self.applications)
        if got is not None:
            self.applications[got.key].pump()
        else:
            group.position = min(group.position if not group.live else space.head, message.position - 1)
            group.live = False

    def end(self, session: Session) -> None:
        """The session is over: its will is due now (MQTT-3.1.3-9), its record goes."""
        handle = self._wills.pop(session.key, None)
        if handle is not None:
            handle.cancel()
        had = self.keeps(session) or session.key in self._saved_at
        if session.will is not None and session.key not in self.applications:
            self._send_will(session)
        for subscription in list(session.subscriptions.values()):
            self.unsubscribed(session, subscription)
        space = self.space(session.space)
        if self.sessions.pop(session.key, None) is not None:
            space.sessions -= 1
        self.dirty.discard(session.key)
        for delivery in session.inflight.values():
            if delivery.share and delivery.state < 2 and delivery.qos == 1 and delivery.message is not None:
                self._redeal(space, delivery.share, delivery.message)
        if had:
            self.save(session)

    async def restore(self, session: Session) -> None:
        """Read the messages of the session's deliveries again."""
        for delivery in session.missing():
            message = await messages.fetch(self.bus, delivery.position)
            if message is None:
                space = self.space(session.space)
                message = next((m for m in space.retained.match(b"#") if m.position == delivery.position), None)
            delivery.message = message

    # Records

    def save(self, session: Session) -> None:
        """Write the session's record, soon; then what its connection holds back for that."""
        self._saves[session.key] = None
        self._saved_at[session.key] = time.monotonic()
        if not self._saving:
            self._saving = True
            self.log.spawn(self._save())

    async def _save(self) -> None:
        while self._saves:
            keys, self._saves = list(self._saves)[:200], dict.fromkeys(list(self._saves)[200:])
            await asyncio.gather(*(self._save_one(key) for key in keys))
        self._saving = False

    async def _save_one(self, key: bytes) -> None:
        subject = f"{SUBJECTS[SESSIONS]}.{self.gateway.config.name}.{key.hex()}"
        session, application = self.sessions.get(key), self.applications.get(key)
        held: list[bytes] = []
        if application is not None:
            held, application.held = application.held, []
        self.dirty.discard(key)
        if session is None or not self.keeps(session):
            self._saved_at.pop(key, None)
            await self.log.publish(subject, b"", ttl=messages.GONE)
        else:
            space = self.space(session.space)
            groups = {
                wanted: space.head if group.live else group.position
                for wanted in session.shares if (group := space.groups.get(wanted)) is not None
            }
            await self.log.publish(subject, session.record(space.head, max(space.head, space.written), groups))
        if held and application is not None and application.there:
            application.saving = False
            application.write(b"".join(held))

    # Wills

    def will_later(self, session: Session, delay: float) -> None:
        self._wills[session.key] = asyncio.get_running_loop().call_later(delay, self._will_due, session)

    def _will_due(self, session: Session) -> None:
        self._wills.pop(session.key, None)
        if self.sessions.get(session.key) is session and session.key not in self.applications:
            self.publish_will(session)
            if session.expiry:
                self.save(session)
            else:
                self.end(session)

    def publish_will(self, session: Session) -> None:
        """Publish the will, once."""
        self._send_will(session)
        session.will, session.will_at = None, 0.0

    def _send_will(self, session: Session) -> None:
        will = session.will
        if will is None:
            return
        kept, expires = b"", 0.0
        if will.properties is not None:
            kept = will.properties.kept
            if will.properties.expiry is not None:
                expires = time.time() + will.properties.expiry
        self.log.add(
            session.space, (will.topic, will.payload, will.qos | will.retain << 2, kept, expires, session.key, 0), None
        )

    def over_quota(self, name: str, topic: bytes, size: int) -> bool:
        """Whether one more retained message is too much for the topic space, or for the stream that keeps them."""
        space = self.space(name)
        before = space.retained.get(topic)
        if before is not None and size <= len(before.payload):
            return False
        for attempt in (1, 2):
            everyone = sum(other.retained_bytes for other in self.spaces.values())
            if len(space.retained) < RETAINED_TOPICS and (
                space.retained_bytes + size < RETAINED_BYTES and everyone + size < self._retained_room
            ):
                return False
            if attempt == 1:
                space.forget_expired(time.time())
        return True

    # Messages

    def _released(self, name: str, position: int, retained: list[Message], receipts: list[Any]) -> None:
        space = self.space(name)
        space.written = position
        for message in retained:
            space.retain(message)
        for receipt in receipts:
            if receipt is not None:
                application, qos, packet_id, size = receipt
                application.released(qos, packet_id, size)
        answering, self.answering = self.answering, []
        write_answers(answering)

    def _press(self, on: bool) -> None:
        log.warning("reading %s: %d bytes held", "paused" if on else "resumed", self.log.held)
        press([application.connection for application in self.applications.values()], on)

    def _dispatch(self, sequence: int, subject: str, data: bytes) -> None:
        """A batch of the log: to every session of its topic space that it concerns."""
        space = self.space(subject.split(".", 3)[3])
        touched: dict[bytes, None] = {}
        now = time.time()
        for message, _ in messages.decode(sequence, data):
            self.dispatched += 1
            if message.retain:
                space.retain(message)
            if not message.expires or message.expires > now:
                self._route(space, message, touched)
            space.head = message.position
        space.head = self.head = sequence << 16 | PLACES
        for key in touched:
            application = self.applications.get(key)
            if application is not None:
                application.pump()

    def _route(self, space: Space, message: Message, touched: dict[bytes, None]) -> None:
        found = space.subscriptions.match(message.topic)
        if not found:
            return
        meant: dict[bytes, tuple[Session, list[Subscription]]] = {}
        for _, (who, subscription) in found:
            if isinstance(who, Group):
                if who.live:
                    got = who.offer(message, self.applications)
                    if got is not None:
                        touched[got.key] = None
                    else:
                        who.live, who.position = False, message.position - 1
            elif who.live and subscription is not None:
                meant.setdefault(who.key, (who, []))[1].append(subscription)
        for key, (session, subscriptions) in meant.items():
            if session.offer(message, subscriptions):
                touched[key] = None
            else:  # no room: it goes on from here by reading the log
                session.live, session.position = False, message.position - 1

    def catch_up(self, session: Session) -> None:
        """Let a session that is behind read the log, if it does not yet."""
        if session.key not in self._catching:
            self._catching.add(session.key)
            self.gateway.spawn(self._catch_up(session))

    async def _catch_up(self, session: Session) -> None:
        """Read the log from the session's position until it is full, gone, or has arrived at the head."""
        space = self.space(session.space)

        def take(message: Message) -> bool:
            subscriptions = session.meets(message)
            if not subscriptions or session.offer(message, subscriptions):
                return True
            application = self.applications.get(session.key)
            if application is not None and application.entered:
                application.pump()
            return session.offer(message, subscriptions)

        def wants() -> bool:
            application = self.applications.get(session.key)
            return application is not None and application.session is session and not session.live

        try:
            async with self._readers:
                await self._read_on(space, session, take, wants)
        except Exception as error:
            log.warning("a session cannot go on reading now: %r", error)
            await asyncio.sleep(1)
        finally:
            self._catching.discard(session.key)
        application = self.applications.get(session.key)
        if application is not None and application.entered:
            application.pump()

    async def _read_on(self, space: Space, feed: Session | Group, take: Any, wants: Any) -> None:
        while wants():
            head = space.head
            subject = f"{SUBJECTS[LOG]}.{space.name}"
            if feed.position < head:
                async for sequence, _, data in messages.read(self.bus, LOG, subject, (feed.position + 1) >> 16):
                    for message, _ in messages.decode(sequence, data):
                        if message.position <= feed.position:
                            continue
                        if not wants() or not take(message):
                            return
                        feed.position = message.position
                    feed.position = max(feed.position, sequence << 16 | PLACES)
                    if isinstance(feed, Session):
                        application = self.applications.get(feed.key)
                        if application is not None and application.entered:
                            application.pump()
                feed.position = max(feed.position, head)
            if wants() and feed.position >= space.head:
                feed.live = True

    def recover_groups(self, session: Session) -> None:
        session.groups = {}
        self.deal(session)

    def deal(self, session: Session) -> None:
        """Let the session's shared subscriptions that wait for a client with room go on."""
        space = self.space(session.space)
        for wanted in session.shares:
            group = space.groups.get(wanted)
            key = (space.name + "/" + wanted).encode()
            if group is not None and not group.live and key not in self._catching and session.hungry:
                self._catching.add(key)
                self.gateway.spawn(self._deal(space, group, key))

    async def _deal(self, space: Space, group: Group, key: bytes) -> None:
        touched: dict[bytes, None] = {}

        def take(message: Message) -> bool:
            if not matches(group.wanted, message.topic):
                return True
            got = group.offer(message, self.applications)
            if got is None:
                return False
            touched[got.key] = None
            return True

        def wants() -> bool:
            return not group.live and any(member in self.applications for member in group.members)

        try:
            async with self._readers:
                await self._read_on(space, group, take, wants)
        except Exception as error:
            log.warning("a shared subscription cannot go on now: %r", error)
            await asyncio.sleep(1)
        finally:
            self._catching.discard(key)
        for member in touched:
            application = self.applications.get(member)
            if application is not None and application.entered:
                application.pump()

    # Telemetry of devices

    def _telemetry_batch(self, _sequence: int, _subject: str, data: bytes) -> None:
        touched: dict[bytes, None] = {}
        position = self.head + 1
        told = telemetry_topics.messages(data, lambda topic: bool(self.house.match(topic))) if len(self.house) else ()
        for org, topic, payload in told:
            message = Message(position, topic, payload(), 0, False, b"", 0.0, b"")
            for key, session in self.house.match(topic):
                application = self.applications.get(key)
                if application is None or not application.writable or not application.rights.sees(org):
                    continue
                wanted = [s for s in session.meets(message) if s.filter.startswith(HOUSE)]
                if wanted:
                    session.offer(message, wanted)
                    touched[key] = None
        if self.things.observations:
            self.things.batch(data, touched)
        for key in touched:
            application = self.applications.get(key)
            if application is not None:
                application.pump()

    # Upkeep

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(1)
            try:
                await self.watch()
            except Exception as error:  # the bus is away; the next second tries again
                log.debug("upkeep: %r", error)

    async def watch(self) -> None:
        """Once a second: the followers, records, sessions that have ended."""
        await self._follower.watch()
        await self.things.watch()
        wanted = len(self.house) or self.things.observations
        if wanted and self._telemetry is None:
            self._telemetry = Follower(self.bus, "READINGS", "tulou.readings.>", self._telemetry_batch)
            await self._telemetry.open()
        elif not wanted and self._telemetry is not None:
            await self._telemetry.close()
            self._telemetry = None
        elif self._telemetry is not None:
            await self._telemetry.watch()
        now, tick = time.time(), time.monotonic()
        for key in self.applications:
            session = self.sessions.get(key)
            if session is not None and session.expiry and tick - self._saved_at.get(key, 0.0) > REFRESH:
                self.dirty.add(key)
        for key in list(self.dirty):
            session = self.sessions.get(key)
            if session is not None:
                self.save(session)
        for session in list(self.sessions.values()):
            if session.until and session.until <= now and session.key not in self.applications:
                self.end(session)

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and the state now."""
        return {
            "ready": self.ready, "applications": len(self.applications), "sessions": len(self.sessions),
            "accepted": self.log.accepted, "batches": self.log.batches, "held": self.log.held,
            "dispatched": self.dispatched, "failing": self.log.failing,
        }
