"""Quotas of organisations: who sets them, and whether there is room for one more device.

Law: a quota is set by who may approve organisations below the parent, never by the organisation itself. Devices are
counted in the transaction that makes them, under a lock of the limit, so there are never more. Messages are counted by
each door (`meters.py`), which follows the table; so it does whose stored readings (`counting.py`) are as many as they may be.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tulou.access.models import devices
from tulou.access.quotas.meters import USED_UP, Meters
from tulou.access.quotas.tables import Quota, quotas, stored_readings
from tulou.kernel import audit
from tulou.kernel.errors import Forbidden, NotFound, Throttled, TulouError
from tulou.kernel.organisations import Organisations
from tulou.kernel.policy import ROOT, Actor, operation, refusal
from tulou.kernel.sql import utcnow

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.quotas")

READ, APPROVE = "access.quota.read", "access.quota.approve"
NAMES = ("devices", "messages_s", "readings")


class OverQuota(Forbidden):
    """An organisation has used what it may: 403."""

    code = "over-quota"
    title_zh, title_en = "超出配额", "Over quota"


def no_such_org(org: str) -> NotFound:
    """The one error for an organisation that is not there or must not be known."""
    return NotFound(f"没有机构 {org}", f"no organisation {org}", field="org", value=org)


def over_rate(org: str, wait: float) -> Throttled:
    """The error for a message beyond the organisation's messages a second."""
    return Throttled("机构的消息配额已用尽，请稍后重试", "the organisation's quota of messages is used up; try again later",
                     retry_after=wait, field="org", value=org, rule="messages a second")


def over_readings(org: str) -> OverQuota:
    """The error for a message of an organisation that has as many readings as it may."""
    return OverQuota(*USED_UP, field="org", value=org, rule="readings")


class Quotas:
    """The operations on quotas, and the meters of this process's own doors."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.policy, self.db = house.policy, house.db
        self.meters = Meters()
        self._limits: dict[str, float] = {}
        self._used_up: list[str] = []
        self.reported: Callable[[], list[dict[str, dict[str, float]]]] = lambda: []
        """What the gateways report of their meters."""

    async def open(self) -> None:
        """Follow the limits."""
        self.house.service(Organisations).when_changed.append(self._follow)
        await self.reload()
        await self.house.bus.on_changed("quotas", lambda _org: self.reload())

    async def reload(self) -> None:
        """Read the limits again."""
        query = sa.select(quotas.c.org, quotas.c.messages_s, quotas.c.used_up)
        rows = await self.db.read(lambda c: c.execute(query).all())
        self._limits = {row.org: row.messages_s for row in rows if row.messages_s is not None}
        self._used_up = [row.org for row in rows if row.used_up]
        self._follow()

    def _follow(self) -> None:
        rows = self.house.service(Organisations).rows
        self.meters.set(self._limits, {org: row["parent"] for org, row in rows.items()}, time.monotonic(), self._used_up)

    def spend(self, org: str, count: int = 1) -> None:
        """Count messages of the organisation, which come together. Raises `Throttled` where there is no room for one, `OverQuota` where it
        has as many readings as it may."""
        meter = self.meters.by_org.get(org)
        if meter is None:
            return
        if meter.refuses(count):
            raise over_readings(org)
        if not meter.buckets:
            return
        now = time.monotonic()
        if not meter.take(1, now):
            raise over_rate(org, meter.retry_after(now))
        meter.owe(count - 1, now)

    @operation(READ)
    async def get(self, actor: Actor, org: str) -> dict[str, Any]:
        """The limits of an organisation and of those above it, and what it uses. Raises `NotFound`."""
        self._seen(actor, org)
        return await self._document(org)

    @operation(APPROVE)
    async def put(self, actor: Actor, org: str, quota: Quota) -> dict[str, Any]:
        """Set the limits of an organisation, by who may do so in the one above it. Raises `NotFound`, `Forbidden`."""
        row = self.house.service(Organisations).rows.get(org)
        above = row["parent"] if row and row["parent"] else ROOT
        if row is None or not self.policy.allows(actor, APPROVE, above):
            self._seen(actor, org)
            await audit.note(self.db, actor, APPROVE, org, org, outcome="denied")
            raise refusal(actor, APPROVE)
        below = self.house.service(Organisations).below(org)

        def write(connection: sa.Connection) -> None:
            used_up = quota.readings is not None and _stored(connection, below) >= quota.readings
            values = {**quota.model_dump(), "used_up": used_up, "updated_at": utcnow(), "updated_by": actor.id}
            if not connection.execute(quotas.update().where(quotas.c.org == org).values(values)).rowcount:
                connection.execute(quotas.insert().values(org=org, **values))
            audit.record(connection, actor, APPROVE, org, org, quota.model_dump())

        await self.db.write(write)
        await self.reload()
        await self.house.changed("quotas", org)
        return await self._document(org)

    def _seen(self, actor: Actor, org: str) -> None:
        orgs = self.policy.require_any(actor, READ)
        if org not in orgs or org not in self.house.service(Organisations).rows:
            raise no_such_org(org)

    async def _document(self, org: str) -> dict[str, Any]:
        above = list(self.policy.ancestors(org))
        query = sa.select(quotas).where(quotas.c.org.in_(above))
        below = self.house.service(Organisations).below(org)
        mine = sa.select(sa.func.count()).select_from(devices).where(devices.c.org.in_(below))
        rows, count, stored = await self.db.read(lambda c: (
            {row.org: row for row in c.execute(query)}, c.execute(mine).scalar_one(), _stored(c, below)
        ))
        meters = [found[org] for found in [*self.reported(), self.meters.report(time.monotonic())] if org in found]
        row = rows.get(org)
        return {
            "org": org, "limits": _limits(row),
            "above": [{"org": one, **_limits(rows[one])} for one in above[1:] if one in rows],
            "use": {
                "devices": count, "messages_s": round(sum(one.get("rate", 0) for one in meters), 2) if meters else None,
                "readings": stored,
                "refused": sum(int(one["refused"]) for one in meters) if meters else None,
            },
            "updated_at": row.updated_at if row else None, "updated_by": row.updated_by if row else None,
        }

    def room(self, connection: sa.Connection) -> Callable[[str], TulouError | None]:
        """In a transaction that makes devices: counts one more of an organisation, or says why there is no room."""
        organisations = self.house.service(Organisations)
        left: dict[str, int | None] = {}

        def take(org: str) -> TulouError | None:
            above = list(self.policy.ancestors(org))
            for one in above:
                if one not in left:
                    limit = connection.scalar(sa.select(quotas.c.devices).where(quotas.c.org == one).with_for_update())
                    count = 0 if limit is None else connection.execute(
                        sa.select(sa.func.count()).select_from(devices).where(devices.c.org.in_(organisations.below(one)))
                    ).scalar_one()
                    left[one] = None if limit is None else limit - count
            full = next((one for one in above if left[one] is not None and left[one] <= 0), None)  # type: ignore[operator]
            if full is not None:
                return OverQuota("机构的设备配额已用尽", "the organisation's quota of devices is used up", field="org", value=org,
                                 rule="devices")
            for one in above:
                some = left[one]
                if some is not None:
                    left[one] = some - 1
            return None

        return take


def _stored(connection: sa.Connection, orgs: Collection[str]) -> int:
    """Readings of these organisations, as they were counted last."""
    query = sa.select(sa.func.coalesce(sa.func.sum(stored_readings.c.readings), 0)).where(stored_readings.c.org.in_(orgs))
    return int(connection.execute(query).scalar_one())


def _limits(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name, None) for name in NAMES}
