"""Certificates of devices: registering, issuing, renewing and revoking them, and the authorities behind them.

Law: every operation asks the policy. An outside authority counts only after its organisation proved that it has the key,
and speaks for devices of that organisation only. The house's own authority is made when it is first needed; its key is the
file `device-ca.pem` in the home, mode 0600, and is in no backup: a house without it makes another, and what the former one
issued stays valid. A device has at most `AT_ONCE` certificates that the house knows as valid; the first use of the newer
revokes the one that it replaces. After a change every gateway is told.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from tulou.access.authenticate import DeviceIdentity
from tulou.access.certificates import RENEW, USED, x509
from tulou.access.certificates.tables import (
    ACTIVE,
    AT_ONCE,
    PENDING,
    REVOKED,
    NewAuthority,
    NewCertificate,
    Proof,
    device_authorities,
    device_certificates,
)
from tulou.access.models import devices
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound, TulouError
from tulou.kernel.http import checked, page
from tulou.kernel.organisations import Organisations
from tulou.kernel.policy import ROOT, Actor, operation, system
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.access.service import Devices
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.certificates")

READ, CREATE, DELETE = (f"access.certificate.{verb}" for verb in ("read", "create", "delete"))
READ_AUTHORITY, CREATE_AUTHORITY, DELETE_AUTHORITY = (f"access.authority.{verb}" for verb in ("read", "create", "delete"))
HOUSE = system("access.certificates")
FILE = "device-ca.pem"
MOST_ROWS = 50
"""Certificates of an outside authority that are remembered of a device."""

_of, _by = device_certificates.c, device_authorities.c


def no_such_certificate(no: object) -> NotFound:
    """The one error for a certificate that is not there or must not be known."""
    return NotFound(f"没有证书 {no}", f"no certificate {no}", field="no", value=no)


def no_such_authority(no: object) -> NotFound:
    """The one error for an authority that is not there or must not be known."""
    return NotFound(f"没有签发机构 {no}", f"no authority {no}", field="no", value=no)


class Certificates:
    """The operations, and what devices and gateways ask of the house."""

    def __init__(self, house: House, devices: Devices) -> None:
        self.house, self.devices = house, devices
        self.policy, self.db = house.policy, house.db
        self._own: tuple[int, bytes, str] | None = None
        self._making = asyncio.Lock()

    async def open(self) -> None:
        """Listen on the bus; several processes share the questions."""
        await self.house.bus.answer(USED, "certificates", self._used)
        await self.house.bus.answer(RENEW, "certificates", self._renew)
        await self.house.bus.on_changed("authorities", self._forget)

    def _forget(self, _key: str) -> None:
        self._own = None

    # -- certificates

    @operation(READ)
    async def find(self, actor: Actor, device_id: str) -> dict[str, Any]:
        """The certificates of a device, newest first. Raises `NotFound`."""
        row = await self.devices.mine(actor, READ, device_id)
        query = sa.select(device_certificates).where(_of.entity_no == row.entity_no).order_by(_of.no.desc())
        return {"items": [certificate_document(one) for one in await self.db.read(lambda c: c.execute(query).all())]}

    @operation(READ)
    async def expiring(
        self, actor: Actor, *, days: int = 30, org: str | None = None, limit: int = 50, after: str | None = None
    ) -> dict[str, Any]:
        """Valid certificates that end within so many days, or have ended, with their devices. Keyset-paged."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        query = sa.select(device_certificates, devices.c.id.label("device")).join(
            devices, devices.c.entity_no == _of.entity_no
        ).where(_of.status == ACTIVE, _of.not_after < utcnow() + dt.timedelta(days=days))
        query = query.where(*within(devices.c.org, orgs))
        rows, more = await page(self.db, query, _of.no, limit, after)
        return {"items": [{"device": row.device, **certificate_document(row)} for row in rows], "next": more}

    @operation(CREATE)
    async def add(self, actor: Actor, device_id: str, new: NewCertificate) -> dict[str, Any]:
        """Register a certificate, or issue one. Raises `Invalid`, or `Conflict` where two are valid already."""
        row = await self.devices.mine(actor, CREATE, device_id)
        if new.certificate and new.csr:
            raise Invalid("certificate 与 csr 只能给一个", "certificate or csr, not both", field="csr", rule="one of them")
        return await self.give(actor, row, new)

    async def give(self, actor: Actor, device: Any, new: NewCertificate, *, renewal: bool = False) -> dict[str, Any]:
        """A certificate for the device, for who has the right. In a renewal, one that was never used makes room."""
        key, authority, made = "", None, None
        now = utcnow()
        if new.certificate:
            found = x509.from_pem(new.certificate)
            if not found.valid(now):
                raise Invalid("证书不在有效期内", "the certificate is not valid now", field="certificate",
                              value=found.not_after.isoformat(), rule="valid now")
            authority = await self._issuer(found, device.org)
        else:
            if new.csr:
                public = x509.request_key(new.csr)
            else:
                private = x509.new_key()
                public, key = private.public_key(), x509.key_pem(private)
            authority, made, secret = await self.own()
            days = self.house.settings.certificate_days
            found = await asyncio.to_thread(x509.issue, public, device.id, made, secret, days, now)
        values = {
            "entity_no": device.entity_no, "authority_no": authority, "fingerprint": found.fingerprint,
            "subject": found.subject, "serial": found.serial, "der": found.der, "not_before": found.not_before,
            "not_after": found.not_after, "status": ACTIVE, "created_at": now, "created_by": actor.id, "used_at": None,
            "revoked_at": None,
        }

        def write(connection: sa.Connection) -> tuple[Any, list[str]]:
            present = connection.execute(
                sa.select(device_certificates).where(
                    _of.entity_no == device.entity_no, _of.status == ACTIVE, _of.not_after > now
                ).order_by(_of.no)
            ).all()
            gone: list[str] = []
            if renewal and len(present) >= AT_ONCE and present[-1].used_at is None:
                gone.append(present[-1].fingerprint)
                _revoke(connection, [present[-1].no])
                present = present[:-1]
            if len(present) >= AT_ONCE:
                raise Conflict(f"已有 {AT_ONCE} 个有效证书，请先吊销其一", f"{AT_ONCE} certificates are valid; revoke one first",
                               field="certificate", rule=f"at most {AT_ONCE} at a time")
            known = connection.scalar(sa.select(_of.no).where(_of.fingerprint == found.fingerprint))
            if known is not None:
                raise Conflict("此证书已登记或已吊销", "this certificate is registered or revoked already", field="certificate",
                               value=found.fingerprint, rule="one device, once")
            row = connection.execute(device_certificates.insert().values(
                **values, replaces=present[-1].no if present else None
            ).returning(device_certificates)).one()
            audit.record(connection, actor, CREATE, device.org, device.id, {
                "certificate": row.no, "fingerprint": found.fingerprint, "authority": authority, "revoked": gone,
            })
            return row, gone

        row, gone = await self.db.write(write)
        for fingerprint in (*gone, found.fingerprint):
            await self.house.changed("certificates", fingerprint)
        answer = certificate_document(row)
        if made is not None:
            answer |= {"authority_certificate": x509.pem(made)}
        return answer | ({"private_key": key} if key else {})

    @operation(DELETE)
    async def revoke(self, actor: Actor, device_id: str, no: int) -> dict[str, Any]:
        """Refuse a certificate from now on, and close what is open by it. Raises `NotFound`."""
        device = await self.devices.mine(actor, DELETE, device_id)

        def write(connection: sa.Connection) -> Any:
            if not _revoke(connection, [no], device.entity_no):
                raise no_such_certificate(no)
            row = connection.execute(sa.select(device_certificates).where(_of.no == no)).one()
            audit.record(connection, actor, DELETE, device.org, device.id, {"certificate": no, "fingerprint": row.fingerprint})
            return row

        row = await self.db.write(write)
        await self.house.changed("certificates", row.fingerprint)
        return certificate_document(row)

    async def renew(self, device: DeviceIdentity, csr: str) -> dict[str, Any]:
        """The next certificate of a device that showed its present credential. Raises `Invalid`."""
        query = sa.select(devices).where(devices.c.entity_no == device.entity, devices.c.id == device.device_id)
        row = await self.db.read(lambda c: c.execute(query).first())
        if row is None:
            raise NotFound("设备不存在", "the device is not there any more", field="device")
        actor = Actor(f"device:{device.device_id}", row.name, row.org, "device")
        return await self.give(actor, row, checked(NewCertificate, {"csr": csr or " "}), renewal=True)

    async def _renew(self, asked: bytes) -> bytes:
        body = orjson.loads(asked)
        try:
            of = body["device"]
            made = await self.renew(DeviceIdentity(of["entity"], of["org"], of["type"], of["origin"], of["id"]), body["csr"])
        except TulouError as error:
            return orjson.dumps({"error": error.both})
        return orjson.dumps({name: made[name] for name in ("certificate", "authority_certificate", "not_after")})

    async def _used(self, asked: bytes) -> bytes:
        """A certificate was used for the first time: one of an outside authority is known from now on, and what it replaces is
        revoked. Not one whose device was deleted before this came: it would be the next device's of that name."""
        body = orjson.loads(asked)
        found = x509.from_der(bytes.fromhex(body["der"]))
        now = utcnow()

        def write(connection: sa.Connection) -> str | None:
            row = connection.execute(sa.select(device_certificates).where(_of.fingerprint == found.fingerprint)).first()
            if row is None:
                outside = sa.select(_by.no).where(_by.no == body["authority"], _by.status == ACTIVE, sa.not_(_by.own))
                speaks = sa.select(devices.c.id).where(devices.c.entity_no == body["entity"]).with_for_update(read=True)
                some = sa.select(sa.func.count()).select_from(device_certificates).where(_of.entity_no == body["entity"])
                if (
                    connection.execute(outside).first() and connection.execute(speaks).first()
                    and connection.execute(some).scalar_one() < MOST_ROWS
                ):
                    connection.execute(device_certificates.insert().values(
                        entity_no=body["entity"], authority_no=body["authority"], fingerprint=found.fingerprint,
                        subject=found.subject, serial=found.serial, der=found.der, not_before=found.not_before,
                        not_after=found.not_after, status=ACTIVE, created_at=now, created_by=HOUSE.id, used_at=now,
                    ))
                return None
            if row.used_at is not None:
                return None
            connection.execute(device_certificates.update().where(_of.no == row.no).values(used_at=now))
            old = connection.execute(
                sa.select(device_certificates, devices.c.id, devices.c.org)
                .join(devices, devices.c.entity_no == _of.entity_no)
                .where(_of.no == row.replaces, _of.status == ACTIVE)
            ).first()
            if old is None:
                return None
            _revoke(connection, [old.no])
            audit.record(connection, HOUSE, DELETE, old.org, old.id, {"certificate": old.no, "replaced_by": row.no})
            return str(old.fingerprint)

        gone = await self.db.write(write)
        if gone:
            await self.house.changed("certificates", gone)
        return b"{}"

    async def _issuer(self, found: x509.Certificate, org: str) -> int | None:
        """The active authority that issued the certificate, None if there is none. Raises `Conflict` for another's."""
        query = sa.select(device_authorities).where(_by.status == ACTIVE)
        for row in await self.db.read(lambda c: c.execute(query).all()):
            if x509.subject_of(row.der) == found.issuer and x509.issued_by(found.der, row.der):
                if row.own or row.org != org:
                    raise Conflict("此证书由他方机构签发，不能登记", "the certificate is of another's authority", field="certificate",
                                   rule="self-signed, or of this organisation's authority")
                return int(row.no)
        return None

    # -- authorities

    @operation(READ_AUTHORITY)
    async def authorities(
        self, actor: Actor, *, org: str | None = None, limit: int = 50, after: str | None = None
    ) -> dict[str, Any]:
        """The authorities of organisations, and the house's. Keyset-paged."""
        orgs = self.policy.require_any(actor, READ_AUTHORITY).narrow(org)
        query = sa.select(device_authorities)
        if not orgs.all:
            query = query.where(sa.or_(_by.org.in_(sorted(orgs.ids)), _by.own))
        mine = self.policy.visible(actor, CREATE_AUTHORITY)
        rows, more = await page(self.db, query, _by.no, limit, after)
        return {"items": [authority_document(row, code=row.org in mine) for row in rows], "next": more}

    @operation(CREATE_AUTHORITY)
    async def register(self, actor: Actor, new: NewAuthority) -> dict[str, Any]:
        """Name an authority; it counts once `prove` has shown that its key is at hand. Raises `Invalid`."""
        self.policy.require(actor, CREATE_AUTHORITY, new.org)
        self.house.service(Organisations).must_have(new.org)
        found = x509.from_pem(new.certificate)
        now = utcnow()
        if not found.authority or not found.valid(now):
            raise Invalid("应为有效的签发机构证书（basicConstraints CA:TRUE，可签证书）",
                          "not a valid authority's certificate (basicConstraints CA:TRUE, allowed to sign certificates)",
                          field="certificate", value=found.subject, rule="CA:TRUE")
        values = {
            "org": new.org, "name": new.name, "own": False, "fingerprint": found.fingerprint, "subject": found.subject,
            "der": found.der, "not_before": found.not_before, "not_after": found.not_after, "status": PENDING,
            "code": secrets.token_hex(16), "created_at": now, "created_by": actor.id,
        }

        def write(connection: sa.Connection) -> Any:
            connection.execute(device_authorities.delete().where(
                _by.org == new.org, _by.fingerprint == found.fingerprint, _by.status == PENDING
            ))
            row = connection.execute(device_authorities.insert().values(values).returning(device_authorities)).one()
            audit.record(connection, actor, CREATE_AUTHORITY, new.org, f"authority {row.no}", {"subject": found.subject})
            return row

        return authority_document(await self.db.write(write), code=True)

    @operation(CREATE_AUTHORITY)
    async def prove(self, actor: Actor, no: int, proof: Proof) -> dict[str, Any]:
        """Show a certificate of the authority whose CN is its code: from now on it vouches for devices.

        Raises `Invalid`; `Conflict` where it is proven already, whosever it is.
        """
        row = await self._authority(actor, CREATE_AUTHORITY, no)
        taken = Conflict("此签发机构已启用", "this authority counts already", field="no", value=no, rule="pending")
        if row.status != PENDING:
            raise taken
        found = x509.from_pem(proof.certificate)
        if found.names != (row.code,) or not found.valid(utcnow()) or not await asyncio.to_thread(
            x509.issued_by, found.der, row.der
        ):
            raise Invalid(f"应为该机构签发、CN 为 {row.code} 的证书", f"a certificate of this authority with the CN {row.code} is wanted",
                          field="certificate", value=found.subject, rule="issued by the authority, CN is the code")

        def write(connection: sa.Connection) -> Any:
            changed = connection.execute(
                device_authorities.update().where(_by.no == no, _by.status == PENDING).values(status=ACTIVE)
                .returning(device_authorities)
            ).first()
            if changed is None:
                raise taken
            audit.record(connection, actor, CREATE_AUTHORITY, row.org, f"authority {no}", {"status": ACTIVE})
            return changed

        try:
            changed = await self.db.write(write)
        except sa.exc.IntegrityError:
            raise taken from None
        await self.house.changed("authorities", str(no))
        return authority_document(changed)

    @operation(DELETE_AUTHORITY)
    async def withdraw(self, actor: Actor, no: int) -> dict[str, Any]:
        """Trust an authority no more: its certificates are refused at once, and what is open by them closed."""
        row = await self._authority(actor, DELETE_AUTHORITY, no)

        def write(connection: sa.Connection) -> Any:
            changed = connection.execute(
                device_authorities.update().where(_by.no == no).values(status=REVOKED, revoked_at=utcnow())
                .returning(device_authorities)
            ).one()
            audit.record(connection, actor, DELETE_AUTHORITY, row.org, f"authority {no}", {"subject": row.subject})
            return changed

        changed = await self.db.write(write)
        self._own = None
        await self.house.changed("authorities", str(no))
        return authority_document(changed)

    async def _authority(self, actor: Actor, action: str, no: int) -> Any:
        query = sa.select(device_authorities).where(_by.no == no)
        row = await self.db.read(lambda c: c.execute(query).first())
        return self.policy.require_seen(actor, READ_AUTHORITY, action, row, no_such_authority(no))

    async def own(self) -> tuple[int, bytes, str]:
        """The house's authority: its number, certificate and key. Made if this home has none that counts and lasts."""
        async with self._making:
            lasting = utcnow() + dt.timedelta(days=self.house.settings.certificate_days)
            if self._own is None or x509.from_der(self._own[1]).not_after < lasting:
                self._own = await self._load(lasting) or await self._make()
            return self._own

    async def _load(self, lasting: dt.datetime) -> tuple[int, bytes, str] | None:
        path = self.house.settings.home / FILE
        if not await asyncio.to_thread(path.is_file):
            return None
        text = await asyncio.to_thread(path.read_text)
        begin = text.index("-----BEGIN CERTIFICATE-----")
        found = x509.from_pem(text[begin:])
        query = sa.select(device_authorities).where(_by.fingerprint == found.fingerprint, _by.own)
        row = await self.db.read(lambda c: c.execute(query).first())
        if found.not_after < lasting or (row is not None and row.status != ACTIVE):
            return None
        return (row.no if row is not None else await self._keep(found)), found.der, text[:begin]

    async def _make(self) -> tuple[int, bytes, str]:
        key, der = await asyncio.to_thread(x509.new_authority, f"Tulou devices {secrets.token_hex(4)}", utcnow())
        found = x509.from_der(der)
        await asyncio.to_thread(_store, self.house.settings.home / FILE, key + found.pem)
        return await self._keep(found), der, key

    async def _keep(self, found: x509.Certificate) -> int:
        def write(connection: sa.Connection) -> int:
            no: int = connection.execute(device_authorities.insert().values(
                org=ROOT, name="土楼 (the house)", own=True, fingerprint=found.fingerprint, subject=found.subject,
                der=found.der, not_before=found.not_before, not_after=found.not_after, status=ACTIVE, code="",
                created_at=utcnow(), created_by=HOUSE.id,
            ).returning(_by.no)).scalar_one()
            audit.record(connection, HOUSE, CREATE_AUTHORITY, ROOT, f"authority {no}", {"subject": found.subject})
            return no

        no = await self.db.write(write)
        await self.house.changed("authorities", str(no))
        return no


def _store(path: Path, text: str) -> None:
    """Keep a secret: the file is there whole, for its owner only, or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.touch(0o600)
    temporary.chmod(0o600)
    with temporary.open("w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _revoke(connection: sa.Connection, numbers: list[int], entity: int | None = None) -> int:
    query = device_certificates.update().where(_of.no.in_(numbers), _of.status == ACTIVE)
    if entity is not None:
        query = query.where(_of.entity_no == entity)
    return connection.execute(query.values(status=REVOKED, revoked_at=utcnow())).rowcount


def certificate_document(row: Any) -> dict[str, Any]:
    """A row of `device_certificates` as the API shows it."""
    status = "expired" if row.status == ACTIVE and row.not_after < utcnow() else row.status
    return {
        "no": row.no, "status": status, "subject": row.subject, "serial": row.serial, "fingerprint": row.fingerprint,
        "authority": row.authority_no, "not_before": row.not_before, "not_after": row.not_after, "used_at": row.used_at,
        "revoked_at": row.revoked_at, "created_at": row.created_at, "created_by": row.created_by,
        "certificate": x509.pem(row.der),
    }


def authority_document(row: Any, *, code: bool = False) -> dict[str, Any]:
    """A row of `device_authorities` as the API shows it."""
    status = "expired" if row.status == ACTIVE and row.not_after < utcnow() else row.status
    return {
        "no": row.no, "org": row.org, "name": row.name, "own": row.own, "status": status, "subject": row.subject,
        "fingerprint": row.fingerprint, "not_before": row.not_before, "not_after": row.not_after,
        "created_at": row.created_at, "created_by": row.created_by, "revoked_at": row.revoked_at,
        "certificate": x509.pem(row.der), **({"code": row.code} if code and row.status == PENDING else {}),
    }
