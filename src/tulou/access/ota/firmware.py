"""Firmware packages: kept in the object store, handed out whole or in chunks to the devices that are to have them.

Law: a package is never changed: its object has a name of its own, and its SHA-256 is that of the bytes which came in. A
device gets the package that its shadow names, of its own organisation and type, and no other. What is read of the store
is shared by all who download it, in so many blocks at most.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from tulou.access.models import devices, shadows
from tulou.access.ota.door import ASK, BAD, GOOD, LARGEST_CHUNK
from tulou.access.ota.engine import ABORTED, DONE
from tulou.access.ota.tables import firmware, rollouts
from tulou.access.products.offers import must_offer
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound, TooLarge, TulouError
from tulou.kernel.http import page
from tulou.kernel.objects import Objects
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.ota")

READ, CREATE, DELETE = "access.firmware.read", "access.firmware.create", "access.firmware.delete"
LARGEST = 1 << 30
"""Bytes of a package."""
BLOCK = 1 << 20
BLOCKS = 32
"""Blocks of packages that are kept in memory."""
TOGETHER = 16
"""Chunks that are read for gateways at once."""


def no_such_firmware(no: object) -> NotFound:
    """The one error for a package that is not there or must not be known."""
    return NotFound(f"没有固件 {no}", f"no firmware {no}", field="no", value=no)


def document(row: Any) -> dict[str, Any]:
    """A row of `firmware` as the API shows it."""
    return {name: getattr(row, name) for name in (
        "no", "org", "type", "title", "version", "size", "sha256", "created_at", "created_by"
    )}


def attributes(row: Any) -> dict[str, Any]:
    """What the shadow of a device says that is to have this package."""
    return {"fw_title": row.title, "fw_version": row.version, "fw_size": row.size, "fw_checksum": row.sha256,
            "fw_checksum_algorithm": "SHA256"}


class Firmwares:
    """The operations on firmware packages, and the answers to devices."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.policy, self.db = house.policy, house.db
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._room = asyncio.Semaphore(TOGETHER)

    @functools.cached_property
    def objects(self) -> Objects:
        """Where the packages are."""
        return Objects(self.house.settings)

    # -- operations

    @operation(CREATE)
    async def create(
        self, actor: Actor, org: str, kind: str, title: str, version: str, data: AsyncIterable[bytes],
        sha256: str | None = None,
    ) -> dict[str, Any]:
        """Keep a package for the devices of a type, as it streams in. With a `sha256` it is compared.

        Idempotent: the same bytes under the same names come back with `created` false; others are a `Conflict`. Raises
        `TooLarge` beyond `LARGEST` bytes.
        """
        self.policy.require(actor, CREATE, org)
        must_offer(self.house, kind, org)
        for name, value, most in (("title", title, 128), ("version", version, 64)):
            if not 0 < len(value) <= most or not value.isprintable():
                raise Invalid(f"{name} 应为 1 至 {most} 个可见字符", f"{name} has 1 to {most} printable characters", field=name,
                              value=value, rule=f"1..{most}")
        stored = await self.objects.put(f"{org}/firmware/{secrets.token_hex(16)}", _bounded(data))
        values = {
            "org": org, "type": kind, "title": title, "version": version, "size": stored.size, "sha256": stored.sha256,
            "key": stored.key, "created_at": utcnow(), "created_by": actor.id,
        }
        same = sa.select(firmware).where(*(firmware.c[name] == values[name] for name in ("org", "type", "title", "version")))

        def write(connection: sa.Connection) -> tuple[Any, bool]:
            before = connection.execute(same).first()
            if before is not None:
                return before, False
            row = connection.execute(firmware.insert().values(values).returning(firmware)).one()
            audit.record(connection, actor, CREATE, org, f"firmware {row.no}", {
                name: values[name] for name in ("type", "title", "version", "size", "sha256")
            })
            return row, True

        try:
            if sha256 is not None and sha256.lower() != stored.sha256:
                raise Invalid(f"SHA-256 不符，收到的是 {stored.sha256}", f"the SHA-256 of what came is {stored.sha256}",
                              field="sha256", value=sha256, rule="SHA-256 of the body, hex")
            if not stored.size:
                raise Invalid("固件为空", "the package is empty", field="body", rule=">= 1 byte")
            row, made = await self.db.write(write)
            if not made and row.sha256 != stored.sha256:
                raise Conflict(
                    f"{title} {version} 已存在，内容不同", f"{title} {version} is there already, with other bytes",
                    field="version", value=version, rule="one package per title and version",
                )
        except BaseException:
            await self.objects.delete(stored.key)
            raise
        if not made:
            await self.objects.delete(stored.key)
        return {**document(row), "created": made}

    @operation(READ)
    async def find(
        self, actor: Actor, *, org: str | None = None, kind: str | None = None, limit: int = 50, after: str | None = None
    ) -> dict[str, Any]:
        """Packages, newest first. Keyset-paged."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        query = sa.select(firmware)
        query = query.where(*within(firmware.c.org, orgs))
        if kind:
            query = query.where(firmware.c.type == kind)
        rows, more = await page(self.db, query, firmware.c.no, limit, after, newest=True)
        return {"items": [document(row) for row in rows], "next": more}

    @operation(READ)
    async def get(self, actor: Actor, no: int) -> dict[str, Any]:
        """One package. Raises `NotFound`."""
        return document(await self.mine(actor, READ, no))

    @operation(DELETE)
    async def delete(self, actor: Actor, no: int) -> None:
        """Delete a package. Raises `Conflict` while a roll-out that has not ended uses it."""
        row = await self.mine(actor, DELETE, no)
        using = sa.select(rollouts.c.no).where(
            rollouts.c.firmware_no == no, sa.or_(rollouts.c.state.not_in((ABORTED, DONE)), sa.not_(rollouts.c.settled))
        )

        def write(connection: sa.Connection) -> None:
            rollout = connection.scalar(using.limit(1))
            if rollout is not None:
                raise Conflict(f"发布 {rollout} 正在使用固件 {no}", f"the roll-out {rollout} uses the firmware {no}", field="no",
                               value=no, rule="no roll-out that has not ended")
            if connection.execute(firmware.delete().where(firmware.c.no == no)).rowcount:
                audit.record(connection, actor, DELETE, row.org, f"firmware {no}", {
                    "title": row.title, "version": row.version,
                })

        await self.db.write(write)
        await self.objects.delete(row.key)

    async def mine(self, actor: Actor, action: str, no: int) -> Any:
        """The package's row, if the actor may see it; then what he may not do to it is `Forbidden`."""
        row = await self.db.read(lambda c: c.execute(sa.select(firmware).where(firmware.c.no == no)).first())
        return self.policy.require_seen(actor, READ, action, row, no_such_firmware(no))

    # -- for devices

    async def assigned(self, entity: int) -> Any:
        """The package that the shadow of this device names. Raises `NotFound`."""
        query = sa.select(devices.c.org, devices.c.type, shadows.c.desired).where(
            devices.c.entity_no == entity, shadows.c.entity_no == devices.c.entity_no
        )

        def read(connection: sa.Connection) -> Any:
            device = connection.execute(query).first()
            desired = orjson.loads(device.desired) if device is not None else {}
            if device is None or "fw_title" not in desired or "fw_version" not in desired:
                return None
            return connection.execute(sa.select(firmware).where(
                firmware.c.org == device.org, firmware.c.type == device.type,
                firmware.c.title == str(desired["fw_title"]), firmware.c.version == str(desired["fw_version"]),
            )).first()

        row = await self.db.read(read)
        if row is None:
            raise NotFound("没有分配给此设备的固件", "no firmware is assigned to the device", field="firmware")
        return row

    async def chunk(self, row: Any, size: int, number: int) -> bytes:
        """The chunk `number` (from 0) of a package in chunks of `size` bytes; empty behind its end. Raises `Invalid`."""
        if not 0 < size <= LARGEST_CHUNK:
            raise Invalid(f"分块大小应为 1 至 {LARGEST_CHUNK} 字节", f"a chunk has 1 to {LARGEST_CHUNK} bytes", field="size",
                          value=size, rule=f"1..{LARGEST_CHUNK}")
        start = size * number
        return b"".join([part async for part in self.part(row, start, min(start + size, row.size))])

    async def part(self, row: Any, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes of a package from `start` to before `end`, a block at a time."""
        while start < end:
            block = await self._block(row.key, start // BLOCK)
            some = block[start % BLOCK : start % BLOCK + end - start]
            if not some:
                raise NotFound("固件不完整", "the package is not whole", field="firmware")
            yield some
            start += len(some)

    async def _block(self, key: str, number: int) -> bytes:
        known = self._blocks.get((key, number))
        if known is None:
            known = await asyncio.to_thread(self._read, key, number)
            self._blocks[key, number] = known
            while len(self._blocks) > BLOCKS:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end((key, number))
        return known

    def _read(self, key: str, number: int) -> bytes:
        with self.objects.open(key) as file:
            file.seek(number * BLOCK)
            return file.read(BLOCK)

    async def open(self) -> None:
        """Answer gateways; several processes share the questions."""
        await self.house.bus.answer(ASK, "firmware", self._asked)

    async def _asked(self, question: bytes) -> bytes:
        asked = orjson.loads(question)
        async with self._room:
            try:
                return GOOD + await self.chunk(await self.assigned(asked["entity"]), asked["size"], asked["chunk"])
            except TulouError as error:
                return BAD + error.both.encode()
            except Exception:
                log.exception("a chunk of firmware could not be read")
                return BAD + "暂时不可用 (not available now)".encode()


async def _bounded(data: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in data:
        size += len(chunk)
        if size > LARGEST:
            raise TooLarge(f"固件超过 {LARGEST} 字节", f"the package has more than {LARGEST} bytes", field="body",
                           rule=f"<= {LARGEST}")
        if chunk:
            yield chunk
