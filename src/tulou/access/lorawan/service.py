"""Events of ChirpStack: who sends them, whose they are, and when they are taken.

Law: an API token sends them, of a person or program who may `access.uplink.write` in the device's organisation; another's
device is not there. An event is answered when it is durable, as at the other doors. One that ChirpStack posts again has the
same deduplication id, and is taken once; beyond what is remembered here, the same readings at the same time are stored once
anyway.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from tulou.access.authenticate import DeviceIdentity, Identities
from tulou.access.batch import BatchBuilder
from tulou.access.http import refused
from tulou.access.ingest import Ingestor, settle
from tulou.access.lorawan.events import EVENTS, Unreadable, codec, dev_eui, opened, sealed
from tulou.access.quotas.service import Quotas
from tulou.access.telemetry import ANY, Chunk, Rules, decode
from tulou.kernel.errors import Invalid, NotFound, Unavailable
from tulou.kernel.policy import Actor, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

WRITE = "access.uplink.write"
REMEMBERED = 20_000
"""Deduplication ids that are remembered."""


class NetworkServers:
    """What network servers tell the house."""

    def __init__(self, house: House) -> None:
        self.house, self.policy = house, house.policy
        self.ingestor: Ingestor | None = None
        self._rules = {name: Rules.of(model) for name, model in house.packs.models.items()}
        self._identities = Identities(house.db, codec.name, self._class_of)
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

    def _class_of(self, device: DeviceIdentity) -> tuple[tuple[str, str, int], Rules]:
        return (device.org, device.type, device.origin), self._rules.get(device.type, ANY)
