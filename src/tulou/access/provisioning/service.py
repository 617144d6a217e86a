"""Provisioning: keys that people make for a type of devices, and what devices ask for with them.

Law: key and secret are checked first, and a wrong one is answered like one that there is not; guessing is slowed down by
address and by key. A `known` key gives credentials only to devices that were never heard and never provisioned, so that
nobody who has it can take over one that works. A device is counted before it is made, so that there are never more than
`most`. The answer is the only place where the credential is shown.

Requests and answers follow the convention that integrators know: `deviceName`, `provisionDeviceKey`,
`provisionDeviceSecret`, `credentialsType`; `status` is SUCCESS, NOT_FOUND or FAILURE. Beside `hash` (a certificate of the
device's own) a request may have `csr`, which the house's authority answers.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from tulou.access.certificates import x509
from tulou.access.certificates.service import Certificates
from tulou.access.certificates.tables import NewCertificate
from tulou.access.models import ACTIVE, NewDevice, devices, forget_devices
from tulou.access.products.offers import must_offer
from tulou.access.provisioning import ASK
from tulou.access.provisioning.tables import KeyChange, NewKey, provision_keys, provisioned
from tulou.access.service import Devices, new_token, token_hash
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound, Throttled, TulouError
from tulou.kernel.http import checked, page
from tulou.kernel.organisations import Organisations
from tulou.kernel.organisations.throttle import Throttle
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.provisioning")

READ, CREATE, WRITE, DELETE = (f"access.provision.{verb}" for verb in ("read", "create", "write", "delete"))
TOKEN, CERTIFICATE = "ACCESS_TOKEN", "X509_CERTIFICATE"
LARGEST = 32_768

_by = provision_keys.c


def no_such_key(no: object) -> NotFound:
    """The one error for a key that is not there or must not be known."""
    return NotFound(f"没有开通密钥 {no}", f"no provisioning key {no}", field="no", value=no)


class Provisioning:
    """The operations on keys, and the answers to devices."""

    def __init__(self, house: House, devices: Devices, certificates: Certificates) -> None:
        self.house, self.devices, self.certificates = house, devices, certificates
        self.policy, self.db = house.policy, house.db
        self.by_address = Throttle(10, 900)
        self.by_key = Throttle(50, 60)

    async def open(self) -> None:
        """Listen on the bus; several processes share the questions."""
        await self.house.bus.answer(ASK, "provisioning", self._asked)

    async def _asked(self, asked: bytes) -> bytes:
        body = orjson.loads(asked)
        try:
            return orjson.dumps(await self.provision(body["request"].encode(), body["address"]))
        except Throttled as error:
            return orjson.dumps(failure(error))

    # -- keys

    @operation(READ)
    async def find(self, actor: Actor, *, org: str | None = None, limit: int = 50, after: str | None = None) -> dict[str, Any]:
        """Keys, newest first. Keyset-paged."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        query = sa.select(provision_keys)
        query = query.where(*within(_by.org, orgs))
        rows, more = await page(self.db, query, _by.no, limit, after, newest=True)
        return {"items": [key_document(row) for row in rows], "next": more}

    @operation(CREATE)
    async def create(self, actor: Actor, new: NewKey) -> dict[str, Any]:
        """Make a key; its secret is shown only now. Raises `Invalid` for an organisation or type that there is not."""
        self.policy.require(actor, CREATE, new.org)
        self.house.service(Organisations).must_have(new.org)
        must_offer(self.house, new.type, new.org)
        secret = new_token()
        values = {
            **new.model_dump(), "key": secrets.token_hex(10), "secret_hash": token_hash(secret), "made": 0, "enabled": True,
            "created_at": utcnow(), "created_by": actor.id,
        }

        def write(connection: sa.Connection) -> Any:
            row = connection.execute(provision_keys.insert().values(values).returning(provision_keys)).one()
            audit.record(connection, actor, CREATE, new.org, f"provision key {row.no}", {
                "type": new.type, "strategy": new.strategy, "most": new.most,
            })
            return row

        return {**key_document(await self.db.write(write)), "secret": secret}

    @operation(WRITE)
    async def change(self, actor: Actor, no: int, change: KeyChange) -> dict[str, Any]:
        """Disable or enable a key, or give it other bounds. Raises `NotFound`."""
        row, values = await self._mine(actor, WRITE, no), change.values()
        if values.get("enabled", True) is None:
            raise Invalid("enabled 应为 true 或 false", "enabled is true or false", field="enabled", rule="boolean")

        def write(connection: sa.Connection) -> Any:
            changed = connection.execute(
                provision_keys.update().where(_by.no == no).values(**values, key=row.key).returning(provision_keys)
            ).first()
            if changed is None:
                raise no_such_key(no)
            audit.record(connection, actor, WRITE, row.org, f"provision key {no}", change.model_dump(mode="json", exclude_unset=True))
            return changed

        return key_document(await self.db.write(write))

    @operation(DELETE)
    async def delete(self, actor: Actor, no: int) -> None:
        """Delete a key; the devices that came by it stay. Raises `NotFound`."""
        row = await self._mine(actor, DELETE, no)

        def write(connection: sa.Connection) -> None:
            if connection.execute(provision_keys.delete().where(_by.no == no)).rowcount:
                audit.record(connection, actor, DELETE, row.org, f"provision key {no}", {"type": row.type})

        await self.db.write(write)

    async def _mine(self, actor: Actor, action: str, no: int) -> Any:
        query = sa.select(provision_keys).where(_by.no == no)
        row = await self.db.read(lambda c: c.execute(query).first())
        return self.policy.require_seen(actor, READ, action, row, no_such_key(no))

    # -- devices

    async def provision(self, request: bytes, address: str) -> dict[str, Any]:
        """The answer to a device's request. Raises `Throttled` for an address that guesses."""
        self.by_address.check(address)
        try:
            asked = orjson.loads(request)
        except orjson.JSONDecodeError:
            asked = None
        if not isinstance(asked, dict):
            return failure(Invalid("请求应为 JSON 对象", "the request is not a JSON object", rule="JSON object"))
        key, secret = (str(asked.get(name) or "")[:200] for name in ("provisionDeviceKey", "provisionDeviceSecret"))
        self.by_key.check(key)
        query = sa.select(provision_keys).where(_by.key == key)
        row = await self.db.read(lambda c: c.execute(query).first())
        if row is None or not hmac.compare_digest(row.secret_hash, token_hash(secret)):
            self.by_address.failed(address)
            self.by_key.failed(key)
            return failure(NotFound("没有此开通密钥或密码不符", "no such provisioning key, or another secret"))
        try:
            return await self._provision(row, asked)
        except TulouError as error:
            return failure(error)

    async def _provision(self, row: Any, asked: dict[str, Any]) -> dict[str, Any]:
        if not self.house.service(Organisations).active(row.org):
            raise Conflict("机构已停用", "the organisation is suspended")
        wanted = _certificate(asked)
        name = asked.get("deviceName") or f"dev-{secrets.token_hex(8)}"
        new = checked(NewDevice, {"org": row.org, "type": row.type, "name": name, "id": str(name).removeprefix(f"{row.org}:")})
        actor = Actor(f"provision:{row.key}", row.name, row.org, "device")
        await self._count(row)
        try:
            device, token = await (self._made if row.strategy == "create" else self._known)(actor, row, new)
            try:
                if wanted is None:
                    return {"status": "SUCCESS", "credentialsType": TOKEN, "credentialsValue": token, "deviceName": device.id}
                made = await self.certificates.give(actor, device, wanted)
            except TulouError:
                await self._undo(device, row)
                raise
        except TulouError:
            back = provision_keys.update().where(_by.no == row.no).values(made=_by.made - 1)
            await self.db.write(lambda c: c.execute(back) and None)
            raise
        answer = {"status": "SUCCESS", "credentialsType": CERTIFICATE, "credentialsValue": made["certificate"], "deviceName": device.id}
        return answer | ({"authorityCertificate": made["authority_certificate"]} if "authority_certificate" in made else {})

    async def _count(self, row: Any) -> None:
        """One more device by this key. Raises `Conflict` for a key that may make no more."""
        now = utcnow()
        take = provision_keys.update().where(
            _by.no == row.no, _by.enabled, sa.or_(_by.most.is_(None), _by.made < _by.most),
            sa.or_(_by.expires_at.is_(None), _by.expires_at > now),
        ).values(made=_by.made + 1, used_at=now)
        if not await self.db.write(lambda c: c.execute(take).rowcount):
            raise Conflict("开通密钥已停用、过期或用尽", "the provisioning key is disabled, expired or used up", rule="a key that is open")

    async def _made(self, actor: Actor, row: Any, new: NewDevice) -> tuple[Any, str]:
        made = await self.devices.make(actor, new)
        if not made["created"]:
            raise Conflict(f"设备 {new.id} 已存在", f"the device {new.id} exists", field="deviceName", value=new.id)
        device = await self._row(made["id"])

        def write(connection: sa.Connection) -> None:
            connection.execute(provisioned.insert().values(entity_no=device.entity_no, key_no=row.no, at=utcnow()))

        await self.db.write(write)
        return device, made["token"]

    async def _known(self, actor: Actor, row: Any, new: NewDevice) -> tuple[Any, str]:
        device, token = await self._row(new.device_id), new_token()
        refused = NotFound(f"没有待开通的设备 {new.id}", f"no device {new.id} waits to be provisioned", field="deviceName", value=new.id)
        if device is None or device.type != row.type:
            raise refused

        def write(connection: sa.Connection) -> None:
            changed = connection.execute(devices.update().where(
                devices.c.entity_no == device.entity_no, devices.c.status == ACTIVE, devices.c.seen_at.is_(None),
                devices.c.entity_no.not_in(sa.select(provisioned.c.entity_no)),
            ).values(token_hash=token_hash(token), token_prefix=token[:6], rotated_at=utcnow())).rowcount
            if not changed:
                raise refused
            connection.execute(provisioned.insert().values(entity_no=device.entity_no, key_no=row.no, at=utcnow()))
            audit.record(connection, actor, WRITE, row.org, device.id, {"change": "provisioned"})

        await self.db.write(write)
        await self.devices.changed([device.entity_no], device.id, "provisioned", device.org)
        return device, token

    async def _undo(self, device: Any, row: Any) -> None:
        """The certificate was refused: the device may try again."""
        def write(connection: sa.Connection) -> None:
            if row.strategy == "create":
                connection.execute(devices.delete().where(devices.c.entity_no == device.entity_no))
                forget_devices(connection, [device.entity_no])
            else:
                connection.execute(provisioned.delete().where(provisioned.c.entity_no == device.entity_no))

        await self.db.write(write)

    async def _row(self, device_id: str) -> Any:
        query = sa.select(devices).where(devices.c.id == device_id)
        return await self.db.read(lambda c: c.execute(query).first())


def _certificate(asked: dict[str, Any]) -> NewCertificate | None:
    """The certificate that is asked for; None for a token. Raises `Invalid`."""
    kind = asked.get("credentialsType") or TOKEN
    if kind == TOKEN and not asked.get("token"):
        return None
    if kind == TOKEN:
        raise Invalid("令牌由平台生成，请求中不可带 token", "the house makes tokens itself; leave token out", field="token",
                      rule="no token")
    if kind != CERTIFICATE:
        raise Invalid(f"不支持凭证类型 {kind}", f"credentials of the type {kind} are not offered", field="credentialsType",
                      value=kind, rule=f"{TOKEN} | {CERTIFICATE}")
    own, csr = asked.get("hash"), asked.get("csr")
    if bool(own) == bool(csr):
        raise Invalid("hash（设备证书）与 csr（证书请求）须给其一", "hash (the device's certificate) or csr (a request) is wanted",
                      field="hash", rule="one of hash and csr")
    if own:
        x509.from_pem(str(own), "hash")
        return NewCertificate(certificate=str(own))
    x509.request_key(str(csr))
    return NewCertificate(csr=str(csr))


def failure(error: TulouError) -> dict[str, Any]:
    """The error as the convention says it."""
    status = "NOT_FOUND" if isinstance(error, NotFound) else "FAILURE"
    return {"status": status, "errorMsg": error.both}


def key_document(row: Any) -> dict[str, Any]:
    """A row of `provision_keys` as the API shows it."""
    return {
        "no": row.no, "org": row.org, "type": row.type, "name": row.name, "key": row.key, "strategy": row.strategy,
        "most": row.most, "made": row.made, "expires_at": row.expires_at, "enabled": row.enabled,
        "created_at": row.created_at, "created_by": row.created_by, "used_at": row.used_at,
    }
