"""The shadow of a device: what it is to be (desired), what it says it is (reported), and the difference (delta).

Law: desired is a document with a version in SQL, committed before the device hears of it; reported is the entity's
current state, which the device's own messages make. Nothing is queued: a device that was away is told the delta when it
is back, so that it gets where it should be whatever was lost on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import nats.errors
import orjson
import sqlalchemy as sa
from nats.aio.msg import Msg
from pydantic import BaseModel, ConfigDict, Field

from tulou.access.attributes import ASK, CHANGED, DELTA, told
from tulou.access.authenticate import DeviceIdentity
from tulou.access.longpolls import LongPolls
from tulou.access.models import shadows
from tulou.access.service import Devices
from tulou.context import ContextService, current_values
from tulou.kernel import audit
from tulou.kernel.errors import Conflict
from tulou.kernel.http import json_text
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.shadow")

READ, WRITE = "access.shadow.read", "access.shadow.write"
LARGEST = 64 << 10


class Desire(BaseModel):
    """A change of the desired state: members replace those of the same name, null removes. `version` is that which the
    caller has seen; another one is a conflict."""

    model_config = ConfigDict(extra="forbid")

    desired: dict[str, Any] = Field(max_length=200)
    version: int | None = Field(default=None, ge=0)


class Shadows:
    """The operations on shadows, and the answers to devices."""

    def __init__(self, house: House, devices: Devices) -> None:
        self.house, self.devices = house, devices
        self.policy, self.db = house.policy, house.db
        self._polls = LongPolls()

    # -- operations

    @operation(READ)
    async def get(self, actor: Actor, device_id: str) -> dict[str, Any]:
        """Desired, reported (of what is desired) and their delta. Version 0: nothing was ever desired."""
        return await self._document((await self.devices.mine(actor, READ, device_id)).entity_no)

    @operation(WRITE)
    async def change(self, actor: Actor, device_id: str, desire: Desire) -> dict[str, Any]:
        """Change the desired state and tell the device. Raises `Conflict` for another version than the stored one."""
        device = await self.devices.mine(actor, WRITE, device_id)
        now = utcnow()
        no = device.entity_no

        def write(connection: sa.Connection) -> tuple[dict[str, Any], list[str]]:
            row = connection.execute(sa.select(shadows).where(shadows.c.entity_no == no).with_for_update()).first()
            version = row.version if row else 0
            if desire.version is not None and desire.version != version:
                raise Conflict(f"影子已是版本 {version}", f"the shadow is at version {version}", field="version",
                               value=desire.version, rule=f"{version}")
            before = orjson.loads(row.desired) if row else {}
            after = _merged(before, desire.desired)
            text = json_text(after, "desired", LARGEST)
            put = {k: v for k, v in after.items() if k not in before or before[k] != v}
            gone = sorted(before.keys() - after.keys())
            if not put and not gone:
                return put, gone
            values = {"desired": text, "version": version + 1, "changed_at": now, "changed_by": actor.id}
            if row:
                connection.execute(shadows.update().where(shadows.c.entity_no == no).values(values))
            else:
                connection.execute(shadows.insert().values(entity_no=no, **values))
            audit.record(connection, actor, WRITE, device.org, device.id, {
                "version": version + 1, "names": sorted({*put, *gone})[:50],
            })
            return put, gone

        put, gone = await self.db.write(write)
        if put or gone:
            body = {"entity": no, "set": put, "deleted": gone}
            with contextlib.suppress(nats.errors.Error, OSError):  # the device is told the delta when it is back
                await self.house.bus.nc.publish(CHANGED, orjson.dumps(body))
        return await self._document(no)

    # -- for the house itself

    async def announce(self, numbers: Collection[int], names: Collection[str]) -> None:
        """Tell these devices what their shadows say of these names now. Raises what the bus does; may be repeated."""
        rows = await self._rows(numbers)
        for no in numbers:
            desired = orjson.loads(rows[no].desired) if no in rows else {}
            body = {"entity": no, "set": {name: desired[name] for name in names if name in desired},
                    "deleted": sorted(name for name in names if name not in desired)}
            await self.house.bus.nc.publish(CHANGED, orjson.dumps(body))
        await self.house.bus.nc.flush(10)

    # -- of operations

    async def _document(self, no: int) -> dict[str, Any]:
        row = (await self._rows([no])).get(no)
        desired = orjson.loads(row.desired) if row else {}
        reported = (await self._reported([no], desired)).get(no, {})
        return {
            "desired": desired, "reported": reported, "delta": _delta(desired, reported),
            "version": row.version if row else 0, "changed_at": row.changed_at if row else None,
            "changed_by": row.changed_by if row else None,
        }

    async def _rows(self, numbers: Collection[int]) -> dict[int, Any]:
        query = sa.select(shadows).where(shadows.c.entity_no.in_(numbers))
        return {row.entity_no: row for row in await self.db.read(lambda c: c.execute(query).all())}

    async def _reported(self, numbers: Collection[int], names: Collection[str] | None) -> dict[int, dict[str, Any]]:
        if names is not None and not names:
            return {}
        return await current_values(self.house.service(ContextService), numbers, names)

    # -- for devices

    async def open(self) -> None:
        """Answer gateways (several processes share the questions), and hear of changes."""
        bus = self.house.bus
        await bus.answer(DELTA, "shadows", self._deltas)
        await bus.answer(ASK, "shadows", self._asked)
        await bus.nc.subscribe(CHANGED, cb=self._changed)

    async def _deltas(self, question: bytes) -> bytes:
        """By entity, what these devices are to be and are not."""
        rows = await self._rows(orjson.loads(question)["entities"])
        desired = {no: orjson.loads(row.desired) for no, row in rows.items()}
        reported = await self._reported(list(desired), {name for wanted in desired.values() for name in wanted})
        deltas = {no: _delta(wanted, reported.get(no, {})) for no, wanted in desired.items()}
        return orjson.dumps({no: delta for no, delta in deltas.items() if delta}, option=orjson.OPT_NON_STR_KEYS)

    async def _asked(self, question: bytes) -> bytes:
        asked = orjson.loads(question)
        return orjson.dumps(await self.attributes(asked["entity"], asked["client"], asked["shared"]))

    async def attributes(
        self, no: int, client: list[str] | None, shared: list[str] | None
    ) -> dict[str, Any]:
        """What a device asks for: its reported (`client`) and desired (`shared`) values of these names; of all where
        it names neither."""
        if client is None and shared is None:
            row = (await self._rows([no])).get(no)
            return {"client": (await self._reported([no], None)).get(no, {}),
                    "shared": orjson.loads(row.desired) if row else {}}
        answer: dict[str, Any] = {}
        if client is not None:
            answer["client"] = (await self._reported([no], client)).get(no, {})
        if shared is not None:
            row = (await self._rows([no])).get(no)
            desired = orjson.loads(row.desired) if row else {}
            answer["shared"] = {name: desired[name] for name in shared if name in desired}
        return answer

    async def poll(self, device: DeviceIdentity, timeout: float) -> dict[str, Any] | None:
        """The next change of the desired state, as devices are told it; None if there was none in time."""
        with self._polls.waiting(device.entity, timeout) as news, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                change: dict[str, Any] = await news.get()
                return change
        return None

    async def _changed(self, message: Msg) -> None:
        body = orjson.loads(message.data)
        self._polls.tell(body["entity"], told(body))


def impose(
    connection: sa.Connection, actor: Actor, org: str, subject: str, changes: Mapping[int, Mapping[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Within a write: change the desired state of many devices of an organisation for the house itself, by entity; null
    removes. `subject` names in the audit what it is done for. Returns what they were to be before, of the same names;
    what is missing is null. They hear of it by `announce`, or when they are back."""
    if not changes:
        return {}
    query = sa.select(shadows).where(shadows.c.entity_no.in_(changes)).with_for_update()
    rows = {row.entity_no: row for row in connection.execute(query)}
    now = utcnow()
    before: dict[int, dict[str, Any]] = {}
    new: list[dict[str, Any]] = []
    other: list[dict[str, Any]] = []
    for no, change in changes.items():
        row = rows.get(no)
        desired = orjson.loads(row.desired) if row else {}
        before[no] = {name: desired.get(name) for name in change}
        if before[no] == change:
            continue
        values = {"desired": json_text(_merged(desired, change), "desired", LARGEST),
                  "version": (row.version if row else 0) + 1, "changed_at": now, "changed_by": actor.id}
        if row:
            other.append({"no": no, **values})
        else:
            new.append({"entity_no": no, **values})
    if new:
        connection.execute(shadows.insert(), new)
    if other:
        connection.execute(shadows.update().where(shadows.c.entity_no == sa.bindparam("no")), other)
    audit.record(connection, actor, WRITE, org, subject, {
        "entities": sorted(changes), "names": sorted({name for change in changes.values() for name in change}),
    })
    return before


def _merged(desired: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A desired state after a change of it; null removes."""
    return {name: value for name, value in {**desired, **change}.items() if value is not None}


def _delta(desired: dict[str, Any], reported: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in desired.items() if name not in reported or not _same(value, reported[name])}


def _same(wanted: Any, said: Any) -> bool:
    """Whether a value is the wanted one; objects and lists are kept as the text of their JSON."""
    if isinstance(wanted, dict | list) and isinstance(said, str):
        try:
            return bool(orjson.loads(said) == wanted)
        except orjson.JSONDecodeError:
            return False
    return bool(wanted == said)
