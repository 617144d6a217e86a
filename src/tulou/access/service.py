"""Devices: creating, finding, disabling and deleting them, and their tokens.

Law: every operation asks the policy; a device that the actor may not see is `NotFound`, exactly as one that does not
exist. A change and its audit row are one transaction, and after it every gateway is told to forget the device. A token
is shown once, by the operation that made it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import string
from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import nats.errors
import sqlalchemy as sa

from tulou.access.directory import Directory, Thing, runs
from tulou.access.groups.tables import members
from tulou.access.models import (
    ACTIVE,
    DISABLED,
    MEASURED,
    SUSPENDED,
    SYNTHETIC,
    Bulk,
    Identity,
    NewDevice,
    device_document,
    device_identities,
    devices,
    forget_devices,
    identity_document,
)
from tulou.access.products.offers import must_offer
from tulou.access.protocols import Digested, load
from tulou.access.quotas.service import Quotas
from tulou.context import ContextService, NewEntity, entities
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound, TulouError
from tulou.kernel.http import checked, page
from tulou.kernel.organisations import Organisations, passwords
from tulou.kernel.policy import Actor, operation, system
from tulou.kernel.sql import insert_rows, utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access")

ALPHABET = (string.ascii_letters + string.digits).encode()
_SIGNS, _NO_SIGNS = ALPHABET * 4 + bytes(8), bytes(range(248, 256))
READ, CREATE, WRITE, DELETE = (f"access.device.{verb}" for verb in ("read", "create", "write", "delete"))
ORPHANED = system("access.removal")
TOGETHER = 512
"""Lines of a bulk request that share a transaction."""


def new_token() -> str:
    """An access token: 30 letters and digits, 178 bits."""
    return new_tokens(1)[0]


def new_tokens(count: int) -> list[str]:
    """So many of them, with one question to the system for all."""
    letters = b""
    while len(letters) < 30 * count:  # a byte is one of 62 signs, as often each, or none
        letters += secrets.token_bytes(40 * count).translate(_SIGNS, _NO_SIGNS)
    text = letters.decode()
    return [text[at : at + 30] for at in range(0, 30 * count, 30)]


def token_hash(token: str) -> str:
    """Hex SHA-256 of a token, as the store keeps it."""
    return hashlib.sha256(token.encode()).hexdigest()


def no_such_device(device_id: str) -> NotFound:
    """The one error for a device that is not there or must not be known."""
    return NotFound(f"没有设备 {device_id}", f"no device {device_id}", field="id", value=device_id)


def other_kind(new: NewDevice) -> Conflict:
    """The error for an id whose device or entity is there already but not the same kind of thing."""
    return Conflict(
        f"{new.org} 中 {new.id} 已存在，且类型、身份或来源（实测/合成）不同",
        f"{new.id} exists in {new.org} with another type, identity or origin (measured or synthetic)",
        field="id", value=new.id, rule="same type and origin as before",
    )


def other_identity(new: NewDevice) -> Conflict:
    """The error for a device that is there already, without this identity."""
    return Conflict(
        f"{new.org} 中 {new.id} 已存在，但没有此协议标识；请另行添加", f"{new.id} exists in {new.org} without this identity; add it to the device",
        field="identity", value=new.identity, rule="the identity it was created with",
    )


def identity_taken(spoken: Identity) -> Conflict:
    """The error for an identity that speaks for a device already, whosever it is."""
    return Conflict(
        f"{spoken.protocol} 标识 {spoken.identity} 已被占用", f"the {spoken.protocol} identity {spoken.identity} is taken",
        field="identity", value=spoken.identity, rule="one device per identity",
    )


def _known(
    connection: sa.Connection, ids: Collection[str], news: Sequence[NewDevice]
) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str], int]]:
    """The devices of these ids that are there, and for whom the identities of `news` speak already."""
    identities = [new.identity for new in news if new.identity]
    spoken = sa.select(device_identities).where(device_identities.c.identity.in_(identities))
    return (
        {row.id: device_document(row) for row in connection.execute(sa.select(devices).where(devices.c.id.in_(ids)))},
        {(row.protocol, row.identity): row.entity_no for row in connection.execute(spoken)} if identities else {},
    )


def _again(new: NewDevice, old: dict[str, Any], owners: Mapping[tuple[str, str], int]) -> dict[str, Any] | TulouError:
    """The answer for a device that is there already."""
    if old["type"] != new.type or old["synthetic"] != new.synthetic:
        return other_kind(new)
    owner = owners.get((new.protocol or "", new.identity or ""))
    if new.identity and owner != old["no"]:
        return other_identity(new) if owner is None else identity_taken(Identity(protocol=new.protocol or "", identity=new.identity))
    return {**old, "created": False}


class Devices:
    """The operations on devices."""

    def __init__(self, house: House, directory: Directory, quotas: Quotas) -> None:
        self.house, self.quotas = house, quotas
        self.policy = house.policy
        self.db = house.db
        self.directory = directory
        self.context = house.service(ContextService)
        self.codecs = {
            name: load(where) for part in house.hooks.hook.protocols() for name, where in part.items()
        }

    @operation(CREATE)
    async def create(self, actor: Actor, new: NewDevice) -> dict[str, Any]:
        """Make a device and the entity it speaks for; returns it with its token, which is shown only now.

        Idempotent on (org, id): a device that is there already comes back without token and with `created` false.
        Raises `Conflict` if it is of another type, or synthetic where the request is not (or the other way round).
        """
        self.policy.require(actor, CREATE, new.org)
        return await self.make(actor, new)

    async def make(self, actor: Actor, new: NewDevice) -> dict[str, Any]:
        """As `create`, for who has the right."""
        (device,), _ = await self._create(actor, [self._checked(new)])
        if isinstance(device, TulouError):
            raise device
        if device["created"]:
            await self.changed([device["no"]], device["id"], "created", new.org)
        return device

    async def make_many(self, actor: Actor, news: Sequence[NewDevice]) -> list[dict[str, Any] | TulouError]:
        """As `make`, of many in one transaction; a document or an error for each."""
        wanted: list[NewDevice | TulouError] = []
        for new in news:
            try:
                wanted.append(self._checked(new))
            except TulouError as error:
                wanted.append(error)
        return await self._create_sound(actor, wanted)

    @operation(CREATE)
    async def create_many(self, actor: Actor, bulk: Bulk) -> list[dict[str, Any]]:
        """Create devices, each for itself; returns a line per item: `{line, ...device}` or `{line, error}`.

        `line` counts from 1. Sending the same list again creates nothing twice. The audit has one row for each
        organisation and `TOGETHER` lines, which names the devices.
        """
        self.policy.require_any(actor, CREATE)
        answers: list[dict[str, Any] | TulouError] = []
        for start in range(0, len(bulk.items), TOGETHER):
            part: list[NewDevice | TulouError] = []
            for item in bulk.items[start : start + TOGETHER]:
                try:
                    new = checked(NewDevice, item)
                    self.policy.require(actor, CREATE, new.org)
                    part.append(self._checked(new))
                except TulouError as error:
                    part.append(error)
            answers += await self._create_sound(actor, part)
        return [
            {"line": line, "error": answer.problem()} if isinstance(answer, TulouError) else {"line": line, **answer}
            for line, answer in enumerate(answers, 1)
        ]

    def _checked(self, new: NewDevice) -> NewDevice:
        """The same with its key settled. Raises `Invalid` for an organisation or a type that there is not."""
        self.house.service(Organisations).must_have(new.org)
        must_offer(self.house, new.type, new.org)
        key = (new.id or "dev-" + secrets.token_hex(8)).removeprefix(f"{new.org}:")
        spoken = new.spoken
        if spoken is None and (new.protocol or new.identity or new.password):
            missing = "identity" if new.protocol else "protocol"
            raise Invalid(
                f"缺少 {missing}：协议与标识须同时给出", f"{missing} is missing: protocol and identity go together",
                field=missing, rule="protocol and identity",
            )
        identity = None if spoken is None else self._canonical(spoken).identity
        if (key, identity) == (new.id, new.identity):
            return new
        return new.model_copy(update={"id": key, "identity": identity})

    def _canonical(self, spoken: Identity) -> Identity:
        """The same with the identity as the protocol's frames are compared by it. Raises `Invalid`."""
        codec = self.codecs.get(spoken.protocol)
        if codec is None:
            raise Invalid(
                f"没有现场协议 {spoken.protocol}", f"there is no field protocol {spoken.protocol}", field="protocol",
                value=spoken.protocol, rule=" | ".join(sorted(self.codecs)),
            )
        if spoken.password and not codec.passwords:
            raise Invalid(
                f"协议 {spoken.protocol} 不带口令", f"the protocol {spoken.protocol} carries no password",
                field="password", rule="a protocol with a password",
            )
        return spoken.model_copy(update={"identity": codec.identity(spoken.identity).decode()})

    async def _secret(self, spoken: Identity | None) -> str:
        """What is kept of a protocol password; empty if there is none."""
        if spoken is None or not spoken.password:
            return ""
        codec = self.codecs[spoken.protocol]
        if isinstance(codec, Digested):
            return codec.secret(spoken.identity, spoken.password, self.house.settings.sip_realm)
        return await passwords.hashed(spoken.password)

    async def _create_sound(self, actor: Actor, wanted: Sequence[NewDevice | TulouError]) -> list[dict[str, Any] | TulouError]:
        """Make those that are no errors, and tell of them; the errors keep their places."""
        made, things = await self._create(actor, [new for new in wanted if isinstance(new, NewDevice)])
        await self._made([answer["no"] for answer in made if isinstance(answer, dict) and answer["created"]], things)
        answers = iter(made)
        return [new if isinstance(new, TulouError) else next(answers) for new in wanted]

    async def _create(self, actor: Actor, news: list[NewDevice]) -> tuple[list[dict[str, Any] | TulouError], list[Thing]]:
        """Make what is missing of these devices, with their entities in one transaction; a document or an error for each, and
        the entities that are new."""
        found, owners = await self.db.read(lambda c: _known(c, {new.device_id for new in news}, news)) if news else ({}, {})
        missing: dict[str, NewDevice] = {}
        for new in news:
            if new.device_id not in found:
                missing.setdefault(new.device_id, new)
        if not missing:
            return [_again(new, found[new.device_id], owners) for new in news], []
        ensure = self.context.ensuring([
            NewEntity(new.org, new.type, new.entity_id, new.name, new.lon, new.lat, new.synthetic) for new in missing.values()
        ])
        tokens = dict(zip(missing, new_tokens(len(missing)), strict=True))
        secret = [key for key, new in missing.items() if new.password]
        hashes = dict(zip(secret, await asyncio.gather(*[self._secret(missing[key].spoken) for key in secret]), strict=True))
        now = utcnow()
        statuses = {org: self._status(org) for org in {new.org for new in missing.values()}}
        columns = {key: {
            "entity_no": 0, "id": key, "org": new.org, "entity_id": new.entity_id, "type": new.type, "name": new.name,
            "origin": SYNTHETIC if new.synthetic else MEASURED, "token_hash": token_hash(tokens[key]),
            "token_prefix": tokens[key][:6], "status": statuses[new.org], "created_at": now, "created_by": actor.id, "rotated_at": None,
        } for key, new in missing.items()}
        documents = {key: device_document(SimpleNamespace(**values)) for key, values in columns.items()}

        def write(connection: sa.Connection) -> tuple[list[dict[str, Any] | TulouError], list[Thing]]:
            meanwhile, identities = _known(connection, missing, news)
            known = found | meanwhile
            ensured, made = ensure(connection)
            numbers = dict(zip(missing, ensured, strict=True))
            fresh: dict[int, NewDevice] = {}
            for new, no in zip(missing.values(), ensured, strict=True):
                if no in made:
                    fresh.setdefault(no, new)
            kinds = {no: (new.type, new.synthetic) for no, new in fresh.items()}
            old = [no for no in ensured if isinstance(no, int) and no not in made]
            speaks: set[int] = set()
            if old:
                there = sa.select(entities.c.no, entities.c.type, entities.c.synthetic).where(entities.c.no.in_(old))
                kinds.update((row.no, (row.type, bool(row.synthetic))) for row in connection.execute(there))
                speaking = sa.select(devices.c.entity_no).where(devices.c.entity_no.in_(old))
                speaks.update(connection.execute(speaking).scalars())
            room = self.quotas.room(connection)
            answers: list[dict[str, Any] | TulouError] = []
            rows: list[dict[str, Any]] = []
            spoken: list[dict[str, Any]] = []
            for new in news:
                device_id = new.device_id
                if device_id in known:
                    answers.append(_again(new, known[device_id], identities))
                    continue
                if new.identity and (new.protocol, new.identity) in identities:
                    answers.append(identity_taken(Identity(protocol=new.protocol or "", identity=new.identity)))
                    continue
                no = numbers[device_id]
                if isinstance(no, TulouError):
                    answers.append(no)
                    continue
                if no in speaks or kinds.get(no) != (new.type, new.synthetic):
                    answers.append(other_kind(new))
                    continue
                full = room(new.org)
                if full is not None:
                    answers.append(full)
                    continue
                rows.append({**columns[device_id], "entity_no": no})
                if new.protocol and new.identity:
                    identities[new.protocol, new.identity] = no
                    spoken.append({
                        "protocol": new.protocol, "identity": new.identity, "entity_no": no,
                        "password_hash": hashes.get(device_id, ""), "created_at": now, "created_by": actor.id,
                    })
                speaks.add(no)
                known[device_id] = {**documents[device_id], "no": no}
                answers.append({**known[device_id], "created": True, "token": tokens[device_id]})
            insert_rows(connection, devices, rows)
            insert_rows(connection, device_identities, spoken)
            for org in dict.fromkeys(values["org"] for values in rows):
                ids = [values["id"] for values in rows if values["org"] == org]
                audit.record(connection, actor, CREATE, org, ids[0] if len(ids) == 1 else f"{len(ids)} devices", {"devices": ids})
            return answers, [
                Thing(no, new.entity_id, new.org, new.type, new.name, new.synthetic, new.lon, new.lat, no in speaks)
                for no, new in fresh.items()
            ]

        made = await self.db.write(write)
        self.context.touched(())
        return made

    @operation(READ)
    async def find(
        self, actor: Actor, *, q: str = "", org: str | None = None, kind: str | None = None,
        status: str | None = None, group: int | None = None, limit: int = 50, after: str | None = None, count: bool = False,
    ) -> dict[str, Any]:
        """Devices in the order of their entities; `q` is a part of id or name. Keyset-paged."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        conditions = within(devices.c.org, orgs)
        if group is not None:
            conditions.append(devices.c.entity_no.in_(members(group, orgs)))
        if kind:
            conditions.append(devices.c.type == kind)
        if status:
            conditions.append(devices.c.status == status)
        if q:
            like = "%" + q.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"
            conditions.append(
                sa.or_(devices.c.id.ilike(like, escape="\\"), devices.c.name.ilike(like, escape="\\"))
            )
        rows, more = await page(self.db, sa.select(devices).where(*conditions), devices.c.entity_no, limit, after)
        answer: dict[str, Any] = {"items": [device_document(row) for row in rows], "next": more}
        if count:
            number = sa.select(sa.func.count()).select_from(devices).where(*conditions)
            answer["count"] = await self.db.read(lambda c: c.execute(number).scalar_one())
        return answer

    @operation(READ)
    async def get(self, actor: Actor, device_id: str) -> dict[str, Any]:
        """One device, with its identities in field protocols. Raises `NotFound`."""
        return await self._document(await self.mine(actor, READ, device_id))

    async def _document(self, row: Any) -> dict[str, Any]:
        query = sa.select(device_identities).where(device_identities.c.entity_no == row.entity_no).order_by(
            device_identities.c.protocol, device_identities.c.identity
        )
        found = await self.db.read(lambda c: c.execute(query).all())
        return {**device_document(row), "identities": [identity_document(one) for one in found]}

    @operation(WRITE)
    async def identify(self, actor: Actor, device_id: str, spoken: Identity) -> dict[str, Any]:
        """Let the device speak under an identity of a field protocol; again, to change or drop its password.

        Raises `Conflict` if the identity is another device's.
        """
        row = await self.mine(actor, WRITE, device_id)
        spoken = self._canonical(spoken)
        secret = await self._secret(spoken)
        table = device_identities
        this = sa.and_(table.c.protocol == spoken.protocol, table.c.identity == spoken.identity)
        values = {
            "protocol": spoken.protocol, "identity": spoken.identity, "entity_no": row.entity_no,
            "password_hash": secret, "created_at": utcnow(), "created_by": actor.id,
        }

        def write(connection: sa.Connection) -> None:
            owner = connection.scalar(sa.select(table.c.entity_no).where(this))
            if owner is not None and owner != row.entity_no:
                raise identity_taken(spoken)
            if owner is None:
                connection.execute(table.insert(), values)
            else:
                connection.execute(table.update().where(this).values(password_hash=secret))
            audit.record(connection, actor, WRITE, row.org, row.id, {
                "change": "identified", "protocol": spoken.protocol, "identity": spoken.identity,
            })

        await self.db.write(write)
        await self.changed([row.entity_no], row.id, "identified", row.org)
        return {"protocol": spoken.protocol, "identity": spoken.identity, "password": bool(secret)}

    @operation(WRITE)
    async def unidentify(self, actor: Actor, device_id: str, protocol: str, identity: str) -> None:
        """Take an identity from the device, which is refused under it at once. Raises `NotFound`."""
        row = await self.mine(actor, WRITE, device_id)
        table = device_identities

        def write(connection: sa.Connection) -> None:
            gone = connection.execute(table.delete().where(
                table.c.protocol == protocol, table.c.identity == identity, table.c.entity_no == row.entity_no
            )).rowcount
            if not gone:
                raise NotFound(f"设备 {device_id} 没有此标识", f"the device {device_id} has no such identity",
                               field="identity", value=identity)
            audit.record(connection, actor, WRITE, row.org, row.id, {
                "change": "unidentified", "protocol": protocol, "identity": identity,
            })

        await self.db.write(write)
        await self.changed([row.entity_no], row.id, "unidentified", row.org)

    def shown(self, protocol: str, raw: bytes) -> bytes:
        """A raw message as people may see it: without the password that a field protocol puts into it."""
        codec = self.codecs.get(protocol)
        return raw if codec is None else codec.masked(raw)

    async def speaker(self, protocol: str, raw: bytes) -> Any:
        """The row of the device that a kept message of a field protocol names, or None."""
        codec = self.codecs.get(protocol)
        if codec is None:
            return None
        query = sa.select(devices).join(
            device_identities, device_identities.c.entity_no == devices.c.entity_no
        ).where(device_identities.c.protocol == protocol,
                device_identities.c.identity == codec.identify(raw).decode("ascii", "replace"))
        return await self.db.read(lambda c: c.execute(query).first())

    @operation(READ)
    async def of_entity(self, actor: Actor, no: int) -> dict[str, Any] | None:
        """The device that speaks for an entity, with its identities, or None."""
        conditions = within(devices.c.org, self.policy.visible(actor, READ))
        query = sa.select(devices).where(devices.c.entity_no == no, *conditions)
        row = await self.db.read(lambda c: c.execute(query).first())
        return await self._document(row) if row is not None else None

    @operation(WRITE)
    async def rotate(self, actor: Actor, device_id: str) -> dict[str, Any]:
        """Give the device a new token, shown only now; the old one stops working at once."""
        row = await self.mine(actor, WRITE, device_id)
        token = new_token()
        values = {"token_hash": token_hash(token), "token_prefix": token[:6], "rotated_at": utcnow()}
        row = await self._update(actor, row, values, "rotated")
        return {**device_document(row), "token": token}

    @operation(WRITE)
    async def disable(self, actor: Actor, device_id: str) -> dict[str, Any]:
        """Refuse the device from now on; its connections are closed."""
        row = await self.mine(actor, WRITE, device_id)
        return device_document(await self._update(actor, row, {"status": DISABLED}, "disabled"))

    @operation(WRITE)
    async def enable(self, actor: Actor, device_id: str) -> dict[str, Any]:
        """Accept a disabled device again, with the token it had."""
        row = await self.mine(actor, WRITE, device_id)
        return device_document(await self._update(actor, row, {"status": self._status(row.org)}, "enabled"))

    @operation(DELETE)
    async def delete(self, actor: Actor, device_id: str) -> None:
        """Delete the device and its token. The entity and its readings stay: they are history."""
        row = await self.mine(actor, DELETE, device_id)

        def write(connection: sa.Connection) -> None:
            if connection.execute(devices.delete().where(devices.c.id == device_id)).rowcount:
                forget_devices(connection, [row.entity_no])
                audit.record(connection, actor, DELETE, row.org, device_id, {"type": row.type})

        await self.db.write(write)
        await self.changed([row.entity_no], device_id, "deleted", row.org)

    async def orphaned(self, numbers: Sequence[int]) -> None:
        """Delete the devices of these entities, which exist no more: a device speaks for an entity."""
        which = devices.delete().where(devices.c.entity_no.in_(numbers))

        def write(connection: sa.Connection) -> Sequence[Any]:
            rows = connection.execute(which.returning(devices.c.id, devices.c.org, devices.c.entity_no)).all()
            forget_devices(connection, numbers)
            for row in rows:
                audit.record(connection, ORPHANED, DELETE, row.org, row.id, {"because": "its entity is deleted"})
            return rows

        for row in await self.db.write(write):
            await self.changed([row.entity_no], row.id, "deleted", row.org)

    def _status(self, org: str) -> str:
        return ACTIVE if self.house.service(Organisations).active(org) else SUSPENDED

    async def settle(self) -> None:
        """Refuse the devices of suspended organisations, and accept them again when these are resumed."""
        organisations = self.house.service(Organisations)
        await organisations.reload()
        closed = [org for org in organisations.rows if not organisations.active(org)]
        status = devices.c.status
        off = devices.update().where(status == ACTIVE, devices.c.org.in_(closed)).values(status=SUSPENDED)
        on = devices.update().where(status == SUSPENDED, devices.c.org.not_in(closed)).values(status=ACTIVE)

        def write(connection: sa.Connection) -> list[str]:
            connection.execute(on)
            return list(connection.execute(off.returning(devices.c.id)).scalars())

        gone = await self.db.write(write)
        for device_id in gone if len(gone) <= 1000 else [""]:
            await self.house.bus.changed("devices", device_id)

    async def _update(self, actor: Actor, row: Any, values: dict[str, Any], what: str) -> Any:
        def write(connection: sa.Connection) -> Any:
            changed = connection.execute(
                devices.update().where(devices.c.id == row.id).values(values).returning(devices)
            ).first()
            if changed is None:
                raise no_such_device(row.id)
            audit.record(connection, actor, WRITE, row.org, row.id, {"change": what})
            return changed

        changed = await self.db.write(write)
        await self.changed([row.entity_no], row.id, what, row.org)
        return changed

    async def changed(self, nos: list[int], device_id: str, what: str, org: str) -> None:
        """Read these entities again, and tell other directories, gateways and the stream of events of the device."""
        if self.directory.kept:
            await self.directory.refresh(nos)
        if not hasattr(self.house, "bus"):
            return
        try:
            await self.house.bus.changed("devices", device_id)
            await self.house.bus.changed("things", " ".join(map(str, nos)))
            await self.house.bus.event("device.changed", {"id": device_id, "org": org, "change": what})
        except (nats.errors.Error, TimeoutError, OSError) as error:
            # The change is committed, and the client's buffer delivers `changed` when the bus is back.
            log.warning("device %s was %s, but the bus is away: %r", device_id, what, error)

    async def _made(self, nos: Sequence[int], things: Sequence[Thing]) -> None:
        """Tell other directories of the new devices of a bulk, and of the new entities: no gateway knows them, and they make
        no event each."""
        new = [thing.no for thing in things]
        old = sorted(set(nos).difference(new))
        if self.directory.kept:
            await self.directory.add(things)
            await self.directory.refresh(old)
        if new:
            await self.house.changed("made", runs(new))
        if old:
            await self.house.changed("things", " ".join(map(str, old)))

    async def _row(self, device_id: str) -> Any:
        query = sa.select(devices).where(devices.c.id == device_id)
        return await self.db.read(lambda c: c.execute(query).first())

    async def mine(self, actor: Actor, action: str, device_id: str) -> Any:
        """The device's row, if the actor may see it; then what he may not do to it is `Forbidden`."""
        return self.policy.require_seen(actor, READ, action, await self._row(device_id), no_such_device(device_id))
