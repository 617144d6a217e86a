"""SensorThings over MQTT in the gateway (OGC 18-088, clause 14): who is told of what, and Observations that are made by publishing.

Law: nothing is done where nobody subscribes. An Observation is told when it is accepted, to whoever may read its organisation's readings by
then; what else changed is read by the house, in the name of who subscribed. An Observation that is published is acknowledged when it is
durable, in its turn; who may make one the house decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import nats.errors
import orjson

from tulou.access import mqtt
from tulou.access.sessions import Message
from tulou.kernel.errors import TulouError

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from tulou.access.application import Application
    from tulou.access.broker import Broker
    from tulou.access.sensorthings.topics import Resource
    from tulou.access.sessions import Session

log = logging.getLogger("tulou.broker")

READ, CREATE = "tulou.sensorthings.read", "tulou.sensorthings.create"
ROOT = "v1.1/"
SETTLE = 0.5
"""Seconds in which changes of entities are gathered."""
MOST = 1000
"""Changed entities that are told of one by one; of more only who asked for one of them is told."""
REASONS = {400: 0x99, 401: mqtt.NOT_ALLOWED, 403: mqtt.NOT_ALLOWED, 404: mqtt.NOT_ALLOWED, 409: 0x83, 413: 0x95, 429: mqtt.QUOTA, 501: mqtt.BAD_TOPIC}
"""Reason codes of a refused Observation (MQTT 5.0, table 2-6), by the status that HTTP would have."""


class Publishing:
    """Subscriptions to SensorThings of all topic spaces, and what is published to it. `base` is the service's address."""

    def __init__(self, broker: Broker, base: str, kinds: Mapping[str, Mapping[str, Any]]) -> None:
        self.broker, self.base, self.kinds = broker, base, kinds
        self.observations: dict[tuple[int, str] | None, dict[tuple[bytes, str], tuple[Session, Resource]]] = {}
        self.entities: dict[tuple[bytes, str], tuple[Session, Resource]] = {}
        self.created = self.refused = 0
        self._changed: set[int] = set()
        self._many = False
        self._news = asyncio.Event()
        self._told: dict[tuple[bytes, str, int], int] = {}
        self._creating: dict[Application, deque[tuple[str, bytes, int, bytes]]] = {}
        self._following: asyncio.Task[None] | None = None
        self._subscriptions: list[Any] = []

    # Subscriptions

    @staticmethod
    def concerns(wanted: str) -> bool:
        """Whether a topic, or filter, is of SensorThings."""
        if not wanted.startswith(ROOT):
            return False
        from tulou.access.sensorthings.topics import concerns

        return concerns(wanted)

    def refuses(self, application: Application, wanted: str) -> int:
        """The reason code with which a filter is refused, 0 if it is not."""
        from tulou.access.sensorthings.topics import resource

        if application.rights.orgs is not None and not application.rights.orgs:
            return mqtt.NOT_ALLOWED
        try:
            resource(wanted)
        except TulouError:
            return mqtt.BAD_FILTER
        return 0

    def add(self, session: Session, wanted: str) -> None:
        from tulou.access.sensorthings.topics import resource

        asked = resource(wanted)
        if asked.kind == "Observation":
            self.observations.setdefault(asked.stream, {})[session.key, wanted] = session, asked
        else:
            self.entities[session.key, wanted] = session, asked

    def remove(self, session: Session, wanted: str) -> None:
        key = session.key, wanted
        self.entities.pop(key, None)
        for stream in [stream for stream, those in self.observations.items() if key in those]:
            del self.observations[stream][key]
            if not self.observations[stream]:
                del self.observations[stream]
        for told in [told for told in self._told if told[:2] == key]:
            del self._told[told]

    # Observations

    def batch(self, data: bytes, touched: dict[bytes, None]) -> None:
        """A batch of readings that were accepted."""
        from tulou.access.sensorthings.topics import observed, payload

        for one in observed(data, self.observations):
            made: dict[tuple[str, ...], bytes] = {}
            known = self.kinds[one.type]["properties"].get(one.property) if one.type in self.kinds else None
            kind = known[0] if known else "number"
            for stream in ((one.entity, one.property), None):
                for (key, wanted), (session, asked) in self.observations.get(stream, {}).items():
                    application = self.broker.applications.get(key)
                    if application is None or not application.writable or not application.rights.sees(one.org):
                        continue
                    if asked.select not in made:
                        made[asked.select] = payload(one, kind, asked.select, self.base)
                    if self._offer(session, wanted, made[asked.select]):
                        touched[key] = None

    def _offer(self, session: Session, wanted: str, payload: bytes) -> bool:
        subscription = session.subscriptions.get(wanted)
        return subscription is not None and session.offer(
            Message(self.broker.head + 1, wanted.encode(), payload, 0, False, b"", 0.0, b""), [subscription])

    # What else changes

    async def watch(self) -> None:
        """Once a second: follow changes while somebody wants to know."""
        if self.entities and self._following is None:
            nc = self.broker.bus.nc
            self._subscriptions = [await nc.subscribe(f"tulou.changed.{what}", cb=self._heard) for what in ("things", "entities")]
            self._following = asyncio.create_task(self._follow())
        elif not self.entities and self._following is not None:
            await self.close()

    async def close(self) -> None:
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
        for subscription in self._subscriptions:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()
        self._subscriptions = []

    async def _heard(self, message: Msg) -> None:
        numbers = message.data.split()
        if not numbers or len(self._changed) + len(numbers) > MOST:
            self._many, self._changed = True, set()
        elif not self._many:
            self._changed.update(map(int, numbers))
        self._news.set()

    async def _follow(self) -> None:
        while True:
            await self._news.wait()
            await asyncio.sleep(SETTLE)
            self._news.clear()
            changed, many = self._changed, self._many
            self._changed, self._many = set(), False
            for (key, wanted), (session, asked) in list(self.entities.items()):
                application = self.broker.applications.get(key)
                if application is None or not application.writable:
                    continue
                whose = [asked.entity] if asked.entity is not None else sorted(changed)
                for entity in whose:
                    if many or entity in changed:
                        await self._tell(application, session, wanted, asked, entity)
                application.pump()

    async def _tell(self, application: Application, session: Session, wanted: str, asked: Resource, entity: int) -> None:
        """Read what a subscription is about, as who subscribed; tell it where it is another than before."""
        path = asked.path
        if asked.entity is None:
            path = f"Things({entity})/Datastreams" if asked.kind == "Datastream" else f"{asked.path}({entity})"
        body = await self._ask(READ, {"actor": application.rights.actor, "path": path, "select": ",".join(asked.select), "base": self.base})
        found = body.get("body") if body is not None else None
        if found is None:
            return
        several = asked.entity is None and asked.kind == "Datastream"
        for place, one in enumerate(found["value"] if several else [found]):
            payload = orjson.dumps(one)
            mark = session.key, wanted, entity << 20 | place
            if self._told.get(mark) != hash(payload):
                self._told[mark] = hash(payload)
                if len(self._told) > 100_000:
                    del self._told[next(iter(self._told))]
                self._offer(session, wanted, payload)

    async def _ask(self, subject: str, question: dict[str, Any]) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = orjson.loads((await self.broker.bus.nc.request(subject, orjson.dumps(question), timeout=10)).data)
            return answer
        except (nats.errors.Error, TimeoutError, OSError, orjson.JSONDecodeError) as error:
            log.warning("the house cannot be asked about SensorThings now: %r", error)
            return None

    # Publishing

    @staticmethod
    def creates(topic: str) -> bool:
        """Whether an Observation is made by publishing there."""
        from tulou.access.sensorthings.topics import created_at

        return created_at(topic)

    def create(self, application: Application, topic: str, payload: bytes, qos: int, packet_id: bytes) -> None:
        """Make an Observation, after those that the application published before."""
        waiting = self._creating.get(application)
        application.connection.hold(len(payload) + 200)
        if waiting is not None:
            waiting.append((topic, payload, qos, packet_id))
            return
        self._creating[application] = deque([(topic, payload, qos, packet_id)])
        self.broker.gateway.spawn(self._create(application))

    async def _create(self, application: Application) -> None:
        waiting, connection = self._creating[application], application.connection
        try:
            while waiting:
                topic, payload, qos, packet_id = waiting[0]
                question = {"actor": application.rights.actor, "path": topic.removeprefix(ROOT), "body": payload.decode("utf-8", "replace"),
                            "base": self.base}
                answer = await self._ask(CREATE, question)
                waiting.popleft()
                connection.release(len(payload) + 200)
                if connection.transport is None:
                    return
                if answer is not None and "made" in answer:
                    self.created += 1
                    if qos:
                        application.write(mqtt.pubacks([packet_id]))
                    continue
                self.refused += 1
                reason = mqtt.UNSPECIFIED if answer is None else REASONS.get(answer["status"], mqtt.UNSPECIFIED)
                why = "暂时无法查询 (the house cannot be asked now)" if answer is None else answer["why"]
                if not qos or connection.level != 5:
                    connection.close(why, reason)
                    return
                application.write(mqtt.acknowledgement(4, packet_id, reason, why))
        finally:
            del self._creating[application]
