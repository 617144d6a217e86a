"""Events of ChirpStack: who sends them, whose they are, and when they are taken.

Law: an API token sends them, of a person or program who may `access.uplink.write` in the device's organisation; another's
device is not there. An event is answered when it is durable, as at the other doors. One that ChirpStack posts again has the
same deduplication id, and is taken once; beyond what is remembered here, the same readings at the same time are stored once
anyway. What an event says of a command is on the stream of reports before it is answered.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import nats.errors
import orjson
import sqlalchemy as sa

from tulou.access.authenticate import DeviceIdentity, Identities
from tulou.access.batch import BatchBuilder
from tulou.access.courier import REPORT
from tulou.access.http import refused
from tulou.access.ingest import Ingestor, settle
from tulou.access.lorawan.downlinks import outcome
from tulou.access.lorawan.events import EVENTS, Unreadable, codec, dev_eui, opened, sealed
from tulou.access.lorawan.servers import CHANGED
from tulou.access.lorawan.tables import lorawan_devices
from tulou.access.quotas.service import Quotas
from tulou.access.telemetry import Chunk, RuleBook, Rules, decode
from tulou.kernel.errors import Invalid, NotFound, Unavailable
from tulou.kernel.policy import Actor, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

WRITE = "access.uplink.write"
REMEMBERED = 20_000
"""Deduplication ids, and applications of devices, that are remembered."""
APPLICATION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""A UUID as ChirpStack writes it; nothing else may become a part of a topic."""


class NetworkServers:
    """What network servers tell the house."""

    def __init__(self, house: House) -> None:
        self.house, self.policy = house, house.policy
        self.ingestor: Ingestor | None = None
        self._rules = RuleBook.of_packs(house.packs)
        self._identities = Identities(house.db, codec.name, self._class_of)
        self._applications: dict[int, tuple[str, str]] = {}
        self._taken: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def open(self) -> None:
        """Begin to take events; needs the bus."""
        bus = self.house.bus
        self.ingestor = Ingestor(
            bus.nc, bus.js, name="http-lorawan", protocol=codec.name, released=settle, pressure=lambda _on: None)
        await bus.on_changed("devices", self._identities.forget)

    @operation(WRITE)
    async def take(self, actor: Actor, event: str, body: bytes) -> bool:
        """Take an event; false if it was taken before. Raises `NotFound` for a device that is not there, `Invalid` for what
        cannot be read, which is kept as a dead letter."""
        visible = self.policy.require_any(actor, WRITE)
        if event not in EVENTS:
            raise Invalid(f"没有事件 {event}", f"there is no event {event}", field="event", value=event, rule=" | ".join(EVENTS))
        raw = sealed(event, body)
        try:
            said = opened(raw)[1]
        except Unreadable as error:
            raise refused(error.refusal, 0) from None
        identity = dev_eui(said)
        speaker = await self._identities.find(identity) if identity else None
        if speaker is None or speaker.device.org not in visible:
            shown = identity.decode() or None
            raise NotFound(
                f"没有 DevEUI 为 {shown} 的设备",
                f"there is no device of DevEUI {shown}",
                field="deviceInfo.devEui",
                value=shown,
                rule="tulou device identity --protocol lorawan",
            )
        self.policy.require(actor, WRITE, speaker.device.org)
        if self.ingestor is None:
            raise Unavailable("入口尚未打开", "the door is not open", rule="bus")
        await self._noted(speaker.device.entity, identity.decode(), said)
        await self._told(speaker.device.entity, event, said)
        key = (identity.decode() + event, str(said.get("deduplicationId") or ""))
        if key[1] and key in self._taken:
            return False
        self.house.service(Quotas).spend(speaker.device.org)
        chunk = Chunk(
            codec.name,
            speaker.device.entity,
            speaker.of,
            speaker.rules,
            [raw],
            self.ingestor.stamp(1),
            False,
            codec.name,
            codec,
        )
        decoded = decode([chunk], BatchBuilder(codec.name), time.time_ns() // 1_000_000)
        await self.ingestor.submit(chunk)
        self._taken[key] = None
        if len(self._taken) > REMEMBERED:
            self._taken.popitem(last=False)
        if decoded.dead:
            raise refused(decoded.dead[0].refusal, decoded.readings)
        return True

    async def _noted(self, entity: int, dev_eui: str, said: dict[str, Any]) -> None:
        """Note the application of a device, where downlinks are to go."""
        application = said["deviceInfo"].get("applicationId")
        if not isinstance(application, str) or not APPLICATION.fullmatch(application) or self._applications.get(entity) == (dev_eui, application):
            return
        here = lorawan_devices.c.entity_no == entity
        values = {"dev_eui": dev_eui, "application": application}

        def write(connection: sa.Connection) -> bool:
            before = connection.execute(sa.select(lorawan_devices).where(here)).first()
            if before is None:
                connection.execute(lorawan_devices.insert().values(entity_no=entity, **values))
            elif (before.dev_eui, before.application) != (dev_eui, application):
                connection.execute(lorawan_devices.update().where(here).values(values))
            else:
                return False
            return True

        if await self.house.db.write(write):
            await self.house.changed(CHANGED, str(entity))
        self._applications[entity] = dev_eui, application
        if len(self._applications) > REMEMBERED:
            del self._applications[next(iter(self._applications))]

    async def _told(self, entity: int, event: str, said: dict[str, Any]) -> None:
        """Report what an event says of a command of the device."""
        found = outcome(event, said)
        if found is None or found[0].entity != entity:
            return
        item, told = found
        report = {"no": item.no, "entity": entity, "at": time.time_ns() // 1000, "by": codec.name, **told}
        try:
            await self.house.bus.js.publish(REPORT, orjson.dumps([report]), timeout=5, headers={"Nats-Msg-Id": f"{item.id}-{event}-{told['what']}"})
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable("暂时无法记录命令的结果", f"what became of a command cannot be kept now: {error!r}", rule="bus") from None

    def _class_of(self, device: DeviceIdentity) -> tuple[tuple[str, str, int], Rules]:
        return (device.org, device.type, device.origin), self._rules.of(device.type)
