"""Claiming: a device is armed with a secret, and who knows it takes the device into his organisation.

Law: what the former organisation knows stays its own. The entity and its readings stay where they are, and nothing of them
is shown to the new organisation: there the device speaks for a new entity, with the credentials that it has. What the former
organisation told the device (commands, shadow, roll-outs, polls, groups) ends, and so do certificates of its authorities.
It is one transaction, with a row in the audit of each. A wrong secret, an unknown device and one that is not armed are
answered alike, and guessing is slowed down.
"""

from __future__ import annotations

import datetime as dt
import hmac
import secrets
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from tulou.access.authenticate import DeviceIdentity
from tulou.access.certificates.tables import ACTIVE as VALID
from tulou.access.certificates.tables import device_authorities, device_certificates
from tulou.access.gateway import ARM
from tulou.access.models import NewDevice, device_claims, device_document, device_identities, devices, forget_devices
from tulou.access.provisioning.tables import provisioned
from tulou.access.service import Devices, token_hash
from tulou.context import ContextService, NewEntity, entities
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, NotFound, TulouError
from tulou.kernel.http import checked, parsed
from tulou.kernel.organisations import Organisations
from tulou.kernel.organisations.throttle import Throttle
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow

if TYPE_CHECKING:
    from tulou.kernel.house import House

WRITE, CREATE = "access.device.write", "access.device.create"
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
LONGEST_DEVICE_MS = 7 * 86_400_000
LONGEST = 5 * 365 * 86_400


class NewClaim(BaseModel):
    """Who knows the secret may claim the device for so many seconds; without a secret one is made."""

    model_config = ConfigDict(extra="forbid")

    secret: str | None = Field(default=None, min_length=6, max_length=128, repr=False)
    seconds: int = Field(default=86_400, ge=1, le=LONGEST)


class Armed(BaseModel):
    """What a device says that wants to be claimed, by the convention that integrators know."""

    model_config = ConfigDict(extra="ignore")

    secretKey: str = Field(min_length=6, max_length=128, repr=False)
    durationMs: int = Field(default=60_000, ge=1_000, le=LONGEST_DEVICE_MS)


class Claim(BaseModel):
    """A claim to a device (its id) for an organisation."""

    model_config = ConfigDict(extra="forbid")

    device: str = Field(min_length=1, max_length=320)
    secret: str = Field(min_length=1, max_length=128, repr=False)
    org: str = Field(min_length=1, max_length=64)


def not_armed(device: str) -> NotFound:
    """The one error for a device that cannot be claimed so."""
    return NotFound("设备不存在、未开放认领、已过期或密码不符", "no such device, not open to be claimed, too late, or another secret",
                    field="device", value=device)


class Claims:
    """Arming devices, and claiming them."""

    def __init__(self, house: House, devices: Devices) -> None:
        self.house, self.devices = house, devices
        self.policy, self.db = house.policy, house.db
        self.by_person, self.by_device = Throttle(10, 900), Throttle(5, 900, forgive=600)

    async def open(self) -> None:
        """Listen on the bus; several processes share the questions."""
        await self.house.bus.answer(ARM, "claims", self._asked)

    async def _asked(self, asked: bytes) -> bytes:
        body = orjson.loads(asked)
        try:
            await self.armed(body["entity"], body["id"], body["org"], body["said"].encode())
        except TulouError as error:
            return orjson.dumps({"error": error.both})
        return b"{}"

    @operation(WRITE)
    async def arm(self, actor: Actor, device_id: str, new: NewClaim) -> dict[str, Any]:
        """Let another organisation claim the device; the answer has the secret. Raises `NotFound`."""
        device = await self.devices.mine(actor, WRITE, device_id)
        secret = new.secret or "".join(secrets.choice(LETTERS) for _ in range(12))
        expires = await self._arm(actor, device.entity_no, device.id, device.org, secret, new.seconds)
        return {"device": device.id, "secret": secret, "expires_at": expires}

    @operation(WRITE)
    async def disarm(self, actor: Actor, device_id: str) -> None:
        """Let nobody claim the device any more. Raises `NotFound`."""
        device = await self.devices.mine(actor, WRITE, device_id)

        def write(connection: sa.Connection) -> None:
            if connection.execute(device_claims.delete().where(device_claims.c.entity_no == device.entity_no)).rowcount:
                audit.record(connection, actor, WRITE, device.org, device.id, {"change": "not to be claimed"})

        await self.db.write(write)

    async def of_device(self, device: DeviceIdentity, said: bytes) -> None:
        """A device arms itself. Raises `Invalid`."""
        await self.armed(device.entity, device.device_id, device.org, said)

    async def armed(self, entity: int, device_id: str, org: str, said: bytes) -> None:
        body = checked(Armed, parsed(said))
        actor = Actor(f"device:{device_id}", device_id, org, "device")
        await self._arm(actor, entity, device_id, org, body.secretKey, body.durationMs / 1000)

    async def _arm(self, actor: Actor, entity: int, device_id: str, org: str, secret: str, seconds: float) -> Any:
        now = utcnow()
        values = {
            "secret_hash": token_hash(secret), "expires_at": now + dt.timedelta(seconds=seconds), "created_at": now,
            "created_by": actor.id,
        }

        def write(connection: sa.Connection) -> None:
            this = device_claims.c.entity_no == entity
            if not connection.execute(device_claims.update().where(this).values(values)).rowcount:
                connection.execute(device_claims.insert().values(entity_no=entity, **values))
            audit.record(connection, actor, WRITE, org, device_id, {"change": "may be claimed", "until": str(values["expires_at"])})

        await self.db.write(write)
        return values["expires_at"]

    @operation(CREATE)
    async def claim(self, actor: Actor, claim: Claim) -> dict[str, Any]:
        """Take a device into an organisation: the device as it is there now. Raises `NotFound` alike for whatever is wrong,
        `Conflict` where the organisation has one of its key, `Throttled`."""
        self.policy.require(actor, CREATE, claim.org)
        self.house.service(Organisations).must_have(claim.org)
        for throttle, key in ((self.by_person, actor.person or actor.id), (self.by_device, claim.device)):
            throttle.check(key)
        query = sa.select(devices, device_claims.c.secret_hash, device_claims.c.expires_at, entities.c.lon, entities.c.lat).join(
            device_claims, device_claims.c.entity_no == devices.c.entity_no
        ).join(entities, entities.c.no == devices.c.entity_no).where(devices.c.id == claim.device)
        old = await self.db.read(lambda c: c.execute(query).first())
        right = hmac.compare_digest(token_hash(claim.secret), old.secret_hash if old is not None else token_hash(""))
        if old is None or not right or old.expires_at < utcnow():
            for throttle, key in ((self.by_person, actor.person or actor.id), (self.by_device, claim.device)):
                throttle.failed(key)
            raise not_armed(claim.device)
        if old.org == claim.org:
            raise Conflict("设备已属于此机构", "the device is of this organisation already", field="org", value=claim.org)
        key = old.id.split(":", 1)[1]
        new = checked(NewDevice, {"org": claim.org, "type": old.type, "name": old.name, "id": key, "synthetic": old.origin == 3})
        there = Conflict(f"{new.org} 中已有 {new.id}", f"{new.org} has {new.id} already", field="device", value=new.id)
        entity = (await self.house.service(ContextService).ensure_entities([
            NewEntity(new.org, new.type, new.entity_id, new.name, old.lon, old.lat, new.synthetic)
        ]))[0]
        if not isinstance(entity, int):
            raise there

        def write(connection: sa.Connection) -> Any:
            this = device_claims.c.entity_no == old.entity_no
            if not connection.execute(device_claims.delete().where(this, device_claims.c.secret_hash == old.secret_hash)).rowcount:
                raise not_armed(claim.device)
            kind = connection.execute(sa.select(entities.c.type, entities.c.synthetic).where(entities.c.no == entity)).one()
            taken = sa.select(devices.c.id).where(sa.or_(devices.c.id == new.device_id, devices.c.entity_no == entity))
            if connection.execute(taken).first() is not None or (kind.type, bool(kind.synthetic)) != (new.type, new.synthetic):
                raise there
            gone = connection.execute(
                devices.delete().where(devices.c.entity_no == old.entity_no, devices.c.id == old.id).returning(devices)
            ).first()
            if gone is None:
                raise not_armed(claim.device)
            full = self.devices.quotas.room(connection)(new.org)
            if full is not None:
                raise full
            outside = sa.select(device_authorities.c.no).where(~device_authorities.c.own)
            connection.execute(device_certificates.delete().where(
                device_certificates.c.entity_no == old.entity_no, device_certificates.c.authority_no.in_(outside),
                device_certificates.c.status == VALID,
            ))
            for table in (device_identities, device_certificates, provisioned):
                connection.execute(table.update().where(table.c.entity_no == old.entity_no).values(entity_no=entity))
            forget_devices(connection, [old.entity_no])
            values = {**gone._mapping, "entity_no": entity, "id": new.device_id, "org": new.org, "entity_id": new.entity_id,
                      "created_at": utcnow(), "created_by": actor.id, "seen_at": None}
            row = connection.execute(devices.insert().values(values).returning(devices)).one()
            audit.record(connection, actor, CREATE, new.org, new.device_id, {"claimed": True})
            audit.record(connection, actor, WRITE, old.org, old.id, {"change": "claimed by another organisation"})
            return row

        row = await self.db.write(write)
        await self.devices.changed([old.entity_no], old.id, "claimed", old.org)
        await self.devices.changed([entity], row.id, "created", row.org)
        return device_document(row)
