"""What is asked of the meters behind a device: the document that the gateway polls by.

Law: a document is checked whole before it is kept, down to the request that each point becomes, so the gateway never finds
one that it cannot ask. It belongs to a device; the meters' readings are that device's, or those of devices that it names.
Changing it needs the right to write every device concerned, and takes effect at once.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tulou.access.models import device_polls
from tulou.access.poll_door import METERS
from tulou.access.protocols.polled import Point
from tulou.access.service import READ, WRITE, Devices
from tulou.access.telemetry import name_refusal
from tulou.kernel import audit
from tulou.kernel.errors import Invalid, NotFound
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow

if TYPE_CHECKING:
    from tulou.kernel.house import House


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _property(name: str) -> str:
    refusal = name_refusal(name)
    if refusal is not None:
        raise ValueError(refusal.en)
    return name


class PollPoint(_Body):
    """A value: the property that it becomes, the protocol's name of it (`item`), its layout (`type`), the factor, and how
    often it is asked for."""

    property: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_property)]
    item: str = Field(min_length=1, max_length=64)
    type: str = Field(default="", max_length=32)
    scale: float = Field(default=0.0, allow_inf_nan=False)
    period_s: int = Field(default=60, ge=1, le=86_400)


class PollMeter(_Body):
    """A meter: its protocol and address; `device` is whose readings its values are, if not those of the polled device."""

    protocol: Literal["dlt645", "cjt188", "modbus"]
    address: str = Field(min_length=1, max_length=64)
    device: str | None = Field(default=None, min_length=1, max_length=320)
    timeout_s: float = Field(default=3.0, ge=0.2, le=30.0)
    points: list[PollPoint] = Field(min_length=1, max_length=200)


class Poll(_Body):
    """The meters behind a device. With `host` and `port` the house dials out, without them the device dials in and
    registers. `heartbeat` is what it sends by itself, text or `hex:` and hexadecimal digits."""

    host: str | None = Field(default=None, min_length=1, max_length=255)
    port: int | None = Field(default=None, ge=1, le=65_535)
    heartbeat: str = Field(default="", max_length=128)
    meters: list[PollMeter] = Field(min_length=1, max_length=250)


class Polls:
    """The operations on what is polled."""

    def __init__(self, house: House, devices: Devices) -> None:
        self.house = house
        self.policy = house.policy
        self.db = house.db
        self.devices = devices

    @operation(READ)
    async def get(self, actor: Actor, device_id: str) -> dict[str, Any]:
        """The document of a device. Raises `NotFound`."""
        row = await self.devices.mine(actor, READ, device_id)
        self.policy.require(actor, READ, row.org)
        query = sa.select(device_polls).where(device_polls.c.entity_no == row.entity_no)
        found = await self.db.read(lambda c: c.execute(query).first())
        if found is None:
            raise NotFound(f"设备 {device_id} 没有轮询", f"nothing is polled by the device {device_id}", field="id", value=device_id)
        return {**Poll.model_validate_json(found.document).model_dump(exclude_defaults=True), "updated_at": found.updated_at,
                "updated_by": found.updated_by}

    @operation(WRITE)
    async def put(self, actor: Actor, device_id: str, poll: Poll) -> dict[str, Any]:
        """Poll by this document from now on. Raises `Invalid` for a point that cannot be asked for."""
        row = await self.devices.mine(actor, WRITE, device_id)
        self.policy.require(actor, WRITE, row.org)
        if (poll.host is None) is not (poll.port is None):
            missing = "host" if poll.host is None else "port"
            raise Invalid(f"缺少 {missing}：host 与 port 须同时给出", f"{missing} is missing: host and port go together",
                          field=missing, rule="host and port")
        if poll.heartbeat.startswith("hex:") and not re.fullmatch(r"hex:([0-9A-Fa-f]{2})+", poll.heartbeat):
            raise Invalid("hex: 之后应为十六进制数字", "after hex: come hexadecimal digits", field="heartbeat",
                          value=poll.heartbeat, rule="hex:([0-9A-F]{2})+")
        if poll.host is not None:
            host = f"[{poll.host}]" if ":" in poll.host else poll.host
            self.house.outbound.check(f"tcp://{host}:{poll.port}", ("tcp",))
        taken: set[tuple[str, str]] = set()
        for number, meter in enumerate(poll.meters):
            place = f"meters[{number}]"
            whose = device_id if meter.device is None else (await self.devices.mine(actor, WRITE, meter.device)).id
            try:
                METERS[meter.protocol].asks(meter.address, [
                    Point(point.property, point.item, point.type, point.scale) for point in meter.points])
            except Invalid as error:
                raise Invalid(error.zh, error.en, field=f"{place}.{error.field}", value=error.value, rule=error.rule) from None
            for point in meter.points:
                if (whose, point.property) in taken:
                    raise Invalid(
                        f"{whose} 的属性 {point.property} 出现两次", f"the property {point.property} of {whose} occurs twice",
                        field=f"{place}.points", value=point.property, rule="one point per property",
                    )
                taken.add((whose, point.property))
        values = {"dials": poll.host is not None, "document": poll.model_dump_json(), "updated_at": utcnow(),
                  "updated_by": actor.id}

        def write(connection: sa.Connection) -> None:
            here = device_polls.c.entity_no == row.entity_no
            if not connection.execute(device_polls.update().where(here).values(values)).rowcount:
                connection.execute(device_polls.insert().values(entity_no=row.entity_no, **values))
            audit.record(connection, actor, WRITE, row.org, device_id, {
                "change": "polled", "host": poll.host, "meters": len(poll.meters),
            })

        await self.db.write(write)
        await self.devices.changed([row.entity_no], device_id, "polled", row.org)
        return await self.get(actor, device_id)

    @operation(WRITE)
    async def delete(self, actor: Actor, device_id: str) -> None:
        """Poll no more by this device. Raises `NotFound`."""
        row = await self.devices.mine(actor, WRITE, device_id)
        self.policy.require(actor, WRITE, row.org)

        def write(connection: sa.Connection) -> None:
            if not connection.execute(device_polls.delete().where(device_polls.c.entity_no == row.entity_no)).rowcount:
                raise NotFound(f"设备 {device_id} 没有轮询", f"nothing is polled by the device {device_id}", field="id",
                               value=device_id)
            audit.record(connection, actor, WRITE, row.org, device_id, {"change": "polled no more"})

        await self.db.write(write)
        await self.devices.changed([row.entity_no], device_id, "polled", row.org)
