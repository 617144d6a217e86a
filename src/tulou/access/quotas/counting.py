"""How many readings organisations have, and whose quota of them is used up.

Law: counted from the coarsest roll-up, `area_hour`, each `EVERY` seconds, never from the readings: numbers that are not bad, and that
retention has not let expire. The role `writer` counts; who guards a door follows `quotas.used_up`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tulou.access.quotas.tables import quotas, stored_readings
from tulou.kernel.errors import TulouError
from tulou.kernel.organisations import Organisations
from tulou.kernel.sql import utcnow

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.quotas")

EVERY = 10.0
"""Seconds between two counts, and so what a door may be late by, beside what the writer is behind."""
SHARE = 100
"""As many times as long as a count took, at least, the next one waits."""


async def count(house: House) -> None:
    """Count once, and tell the doors whose quota is used up, or no longer."""
    found = await house.readings.totals()
    below = house.service(Organisations).below

    def write(connection: sa.Connection) -> list[str]:
        known = {row.org: row.readings for row in connection.execute(sa.select(stored_readings))}
        now = utcnow()
        for org in found.keys() | known.keys():
            values = {"readings": found.get(org, 0), "counted_at": now}
            if org not in known:
                connection.execute(stored_readings.insert().values(org=org, **values))
            elif known[org] != values["readings"]:
                connection.execute(stored_readings.update().where(stored_readings.c.org == org).values(values))
        turned = []
        for row in connection.execute(sa.select(quotas).where(quotas.c.readings.is_not(None) | quotas.c.used_up)).all():
            used_up = row.readings is not None and sum(found.get(org, 0) for org in below(row.org)) >= row.readings
            if used_up != row.used_up:
                connection.execute(quotas.update().where(quotas.c.org == row.org).values(used_up=used_up))
                turned.append(row.org)
        return turned

    for org in await house.db.write(write):
        log.info("the quota of stored readings of %s was used up, or is no longer", org)
        await house.changed("quotas", org)


async def run(house: House) -> None:
    """Count, for ever."""
    while True:
        began = time.monotonic()
        try:
            await count(house)
        except TulouError as error:  # the store is away: the doors go on with what was counted
            log.warning("stored readings cannot be counted now: %r", error)
        await asyncio.sleep(max(EVERY, SHARE * (time.monotonic() - began)))
