"""The operations on groups of devices.

Law: every operation asks the policy; a group that the actor may not see is `NotFound`, and a device of another organisation
is answered like one that there is not. A change and its audit row are one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tulou.access.groups.tables import GroupChange, Members, NewGroup, device_group_members, device_groups
from tulou.access.models import devices
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, NotFound
from tulou.kernel.http import page
from tulou.kernel.organisations import Organisations
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, CREATE, WRITE, DELETE = (f"access.group.{verb}" for verb in ("read", "create", "write", "delete"))
PART = 500
"""Devices that are looked up together."""

_of, _in = device_groups.c, device_group_members.c


def no_such_group(no: object) -> NotFound:
    """The one error for a group that is not there or must not be known."""
    return NotFound(f"没有分组 {no}", f"no group {no}", field="no", value=no)


class Groups:
    """The operations on groups."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.policy, self.db = house.policy, house.db

    @operation(READ)
    async def find(self, actor: Actor, *, org: str | None = None, limit: int = 50, after: str | None = None) -> dict[str, Any]:
        """Groups with the count of their devices. Keyset-paged."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        query = sa.select(device_groups)
        query = query.where(*within(_of.org, orgs))
        rows, more = await page(self.db, query, _of.no, limit, after)
        return {"items": await self._documents(rows), "next": more}

    @operation(READ)
    async def get(self, actor: Actor, no: int) -> dict[str, Any]:
        """One group. Raises `NotFound`."""
        return (await self._documents([await self._mine(actor, READ, no)]))[0]

    @operation(CREATE)
    async def create(self, actor: Actor, new: NewGroup) -> dict[str, Any]:
        """Make a group. Raises `Conflict` where the organisation has one of this name."""
        self.policy.require(actor, CREATE, new.org)
        self.house.service(Organisations).must_have(new.org)

        def write(connection: sa.Connection) -> Any:
            row = connection.execute(device_groups.insert().values(
                **new.model_dump(), created_at=utcnow(), created_by=actor.id
            ).returning(device_groups)).one()
            audit.record(connection, actor, CREATE, new.org, f"group {row.no}", {"name": new.name})
            return row

        try:
            row = await self.db.write(write)
        except sa.exc.IntegrityError:
            raise _named(new.name) from None
        return (await self._documents([row]))[0]

    @operation(WRITE)
    async def change(self, actor: Actor, no: int, change: GroupChange) -> dict[str, Any]:
        """Give a group another name or note. Raises `NotFound`, `Conflict`."""
        row = await self._mine(actor, WRITE, no)
        values = {name: value for name, value in change.model_dump().items() if value is not None}

        def write(connection: sa.Connection) -> Any:
            changed = connection.execute(
                device_groups.update().where(_of.no == no).values(**values, org=row.org).returning(device_groups)
            ).first()
            if changed is None:
                raise no_such_group(no)
            audit.record(connection, actor, WRITE, row.org, f"group {no}", values)
            return changed

        try:
            changed = await self.db.write(write)
        except sa.exc.IntegrityError:
            raise _named(change.name or "") from None
        return (await self._documents([changed]))[0]

    @operation(DELETE)
    async def delete(self, actor: Actor, no: int) -> None:
        """Delete a group; its devices stay. Raises `NotFound`."""
        row = await self._mine(actor, DELETE, no)

        def write(connection: sa.Connection) -> None:
            connection.execute(device_group_members.delete().where(_in.group_no == no))
            if connection.execute(device_groups.delete().where(_of.no == no)).rowcount:
                audit.record(connection, actor, DELETE, row.org, f"group {no}", {"name": row.name})

        await self.db.write(write)

    @operation(WRITE)
    async def regroup(self, actor: Actor, no: int, change: Members) -> dict[str, Any]:
        """Put devices into a group and take others out; again changes nothing. Answers which there are not."""
        row = await self._mine(actor, WRITE, no)

        def write(connection: sa.Connection) -> dict[str, Any]:
            if connection.execute(sa.select(_of.no).where(_of.no == no).with_for_update()).first() is None:
                raise no_such_group(no)
            added = removed = 0
            unknown: list[str] = []
            for start in range(0, len(change.add), PART):
                found = _devices(connection, row.org, part := change.add[start : start + PART])
                unknown += [one for one in part if one not in found]
                there = set(connection.scalars(sa.select(_in.entity_no).where(
                    _in.group_no == no, _in.entity_no.in_(list(found.values()))
                )))
                fresh = [{"group_no": no, "entity_no": entity} for entity in set(found.values()) - there]
                if fresh:
                    connection.execute(device_group_members.insert(), fresh)
                added += len(fresh)
            for start in range(0, len(change.remove), PART):
                found = _devices(connection, row.org, part := change.remove[start : start + PART])
                unknown += [one for one in part if one not in found]
                removed += connection.execute(device_group_members.delete().where(
                    _in.group_no == no, _in.entity_no.in_(list(found.values()))
                )).rowcount
            if added or removed:
                audit.record(connection, actor, WRITE, row.org, f"group {no}", {"added": added, "removed": removed})
            return {"added": added, "removed": removed, "unknown": unknown}

        return await self.db.write(write)

    async def _mine(self, actor: Actor, action: str, no: int) -> Any:
        query = sa.select(device_groups).where(_of.no == no)
        row = await self.db.read(lambda c: c.execute(query).first())
        return self.policy.require_seen(actor, READ, action, row, no_such_group(no))

    async def _documents(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        count = sa.select(_in.group_no, sa.func.count()).where(_in.group_no.in_([row.no for row in rows])).group_by(_in.group_no)
        found = await self.db.read(lambda c: c.execute(count).all())
        counts: dict[int, int] = {row[0]: row[1] for row in found}
        return [{
            "no": row.no, "org": row.org, "name": row.name, "note": row.note, "devices": counts.get(row.no, 0),
            "created_at": row.created_at, "created_by": row.created_by,
        } for row in rows]


def _devices(connection: sa.Connection, org: str, ids: list[str]) -> dict[str, int]:
    query = sa.select(devices.c.id, devices.c.entity_no).where(devices.c.org == org, devices.c.id.in_(ids))
    return {row.id: row.entity_no for row in connection.execute(query)}


def _named(name: str) -> Conflict:
    return Conflict(f"已有分组 {name}", f"there is a group {name}", field="name", value=name, rule="one name, once")
