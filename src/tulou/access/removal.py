"""What a deleted entity leaves behind in access goes too: its device, its readings and its raw frames.

Law: the deletion of an entity queues its number in the same SQL transaction (`removed_entities`), and the number leaves
the queue only after the readings store has let go of it. Before that, everything that was accepted for the entity must
have been stored, or it would come back: the device is refused first, then the writer catches up.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tulou.access.service import Devices
from tulou.access.writer import DURABLE, STREAM
from tulou.context import removed

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.removal")

EVERY = 1.0
GRACE = 2.0
"""Seconds after which what a refused device had sent is in the stream."""
AT_ONCE = 5_000


async def run(house: House) -> None:
    """Work off the queue, for ever."""
    waiting = sa.select(removed.c.no).order_by(removed.c.no).limit(AT_ONCE)
    while True:
        await asyncio.sleep(EVERY)
        numbers = list(await house.db.read(lambda c: c.execute(waiting).scalars().all()))
        if not numbers:
            continue
        await house.service(Devices).orphaned(numbers)
        await asyncio.sleep(GRACE)
        await _stored(house)
        await house.readings.delete_entities(numbers)
        done = removed.delete().where(removed.c.no.in_(numbers))
        await house.db.write(lambda c, done=done: c.execute(done) and None)  # type: ignore[misc]
        log.info("readings of %d deleted entities are removed", len(numbers))


async def _stored(house: House) -> None:
    """Wait until the writer has acknowledged all that the stream holds now."""
    last = (await house.bus.js.stream_info(STREAM)).state.last_seq
    while True:
        consumer = await house.bus.js.consumer_info(STREAM, DURABLE)
        floor = consumer.ack_floor.stream_seq if consumer.ack_floor else 0
        if floor >= last or not (consumer.num_pending or consumer.num_ack_pending):
            return
        await asyncio.sleep(EVERY)
