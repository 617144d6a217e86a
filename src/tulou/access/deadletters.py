"""Dead letters: what could not be stored, with the raw message and the reason, kept until it can be replayed.

Law: the raw payload is kept as it came. Replaying puts it through the same door as a device's message, with the time
at which it was first received, so that what had been stored of it is a repeat and is not stored twice. The number of
letters and their age are bounded; the oldest go first.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import logging
from typing import TYPE_CHECKING, Any

import msgpack
import nats.errors
import sqlalchemy as sa
from nats.js.api import AckPolicy, ConsumerConfig

from tulou.access.ingest import Ingestor, settle
from tulou.access.models import devices
from tulou.access.service import Devices
from tulou.access.telemetry import ANY, ATTRIBUTES, TELEMETRY, Chunk, Rules
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, NotFound, TulouError
from tulou.kernel.http import page
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import BigId, UtcDateTime, metadata, utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.bus import Bus
    from tulou.kernel.house import House
    from tulou.kernel.sql import Database

log = logging.getLogger("tulou.deadletters")

STREAM, DURABLE = "DEAD", "dead-letters"
READ, WRITE = "access.deadletter.read", "access.deadletter.write"
KEEP = dt.timedelta(days=30)
MOST = 100_000
"""Letters that are kept."""

dead_letters = sa.Table(
    "dead_letters", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("stream_id", sa.String(64), nullable=False, unique=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("entity_no", sa.BigInteger, nullable=False),
    sa.Column("protocol", sa.String(32), nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("raw", sa.LargeBinary, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("field", sa.Text, nullable=False),
    sa.Column("replayed_at", UtcDateTime),
    sa.Index("ix_dead_letters_org_id", "org", "id"),
)
"""`at` is when the message was received; `stream_id` makes a redelivery a repeat."""


async def consume(db: Database, bus: Bus) -> None:
    """Move letters from the stream into SQL until cancelled; each is acknowledged after the commit."""
    info = await bus.js.stream_info(STREAM)
    era = int(info.created.timestamp()) if info.created else 0
    subscription = await bus.js.pull_subscribe(
        "", durable=DURABLE, stream=STREAM,
        config=ConsumerConfig(durable_name=DURABLE, ack_policy=AckPolicy.EXPLICIT, ack_wait=30, max_ack_pending=5000),
    )
    prune_at = 0.0
    loop = asyncio.get_running_loop()
    while True:
        try:
            messages = await subscription.fetch(500, timeout=5)
        except (nats.errors.TimeoutError, TimeoutError):
            messages = []
        except (nats.errors.Error, OSError):
            await asyncio.sleep(0.5)
            continue
        rows = [_row(f"{era}-{m.metadata.sequence.stream}", m.data) for m in messages]
        prune = loop.time() >= prune_at
        if prune:
            prune_at = loop.time() + 60
        if rows or prune:
            await db.write(lambda c, rows=rows, prune=prune: _store(c, rows, prune))  # type: ignore[misc]
        for message in messages:
            with contextlib.suppress(nats.errors.Error):
                await message.ack()


def _row(stream_id: str, body: bytes) -> dict[str, Any]:
    try:
        letter = msgpack.unpackb(body)
        return {
            "stream_id": stream_id, "at": dt.datetime.fromtimestamp(letter["ts"] / 1e6, dt.UTC),
            "org": letter["org"], "entity_no": letter["entity"], "protocol": letter["protocol"][:32],
            "topic": letter["topic"], "raw": letter["raw"], "reason": letter["reason"], "field": letter["field"] or "",
        }
    except Exception as error:
        return {
            "stream_id": stream_id, "at": utcnow(), "org": "house", "entity_no": 0, "protocol": "", "topic": "",
            "raw": body, "reason": f"不是死信 (not a dead letter): {error!r}", "field": "",
        }


def _store(connection: sa.Connection, rows: list[dict[str, Any]], prune: bool) -> None:
    if rows:
        ids = [row["stream_id"] for row in rows]
        there = set(connection.scalars(
            sa.select(dead_letters.c.stream_id).where(dead_letters.c.stream_id.in_(ids))
        ))
        new = [row for row in rows if row["stream_id"] not in there]
        if new:
            connection.execute(sa.insert(dead_letters), new)
    if prune:
        connection.execute(sa.delete(dead_letters).where(dead_letters.c.at < utcnow() - KEEP))
        last_kept = connection.scalar(
            sa.select(dead_letters.c.id).order_by(dead_letters.c.id.desc()).offset(MOST).limit(1)
        )
        if last_kept is not None:
            connection.execute(sa.delete(dead_letters).where(dead_letters.c.id <= last_kept))


def document(row: Any, shown: bytes) -> dict[str, Any]:
    """A row as the API shows it, with its raw message as it may be `shown`: text, or base64 where it is not UTF-8."""
    try:
        raw, encoding = shown.decode(), "utf-8"
    except UnicodeDecodeError:
        raw, encoding = base64.b64encode(shown).decode(), "base64"
    return {
        "id": row.id, "ts": row.at, "org": row.org, "entity": row.entity_no, "protocol": row.protocol,
        "topic": row.topic, "raw": raw, "encoding": encoding, "reason": row.reason, "field": row.field or None,
        "replayed_at": row.replayed_at,
    }


class DeadLetters:
    """The operations on dead letters."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.policy = house.policy
        self.db = house.db
        self._doors: dict[str, Ingestor] = {}

    @operation(READ)
    async def find(
        self, actor: Actor, *, org: str | None = None, limit: int = 50, after: str | None = None, count: bool = False
    ) -> dict[str, Any]:
        """Letters of the organisations that the actor may see, newest first. Keyset-paged."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        conditions = within(dead_letters.c.org, orgs)
        query = sa.select(dead_letters).where(*conditions)
        rows, more = await page(self.db, query, dead_letters.c.id, limit, after, newest=True)
        shown = self.house.service(Devices).shown
        answer: dict[str, Any] = {
            "items": [document(row, shown(row.protocol, row.raw)) for row in rows], "next": more,
        }
        if count:
            number = sa.select(sa.func.count()).select_from(dead_letters).where(*conditions)
            answer["count"] = await self.db.read(lambda c: c.execute(number).scalar_one())
        return answer

    @operation(WRITE)
    async def replay(self, actor: Actor, ids: list[int]) -> list[dict[str, Any]]:
        """Send letters through their door again, in the order of their age; a line per id: `{id, ok}` or
        `{id, error}`. What is refused again becomes a new letter."""
        visible = self.policy.require_any(actor, READ)
        wanted = sorted(set(ids))
        query = sa.select(dead_letters).where(dead_letters.c.id.in_(wanted), *within(dead_letters.c.org, visible))
        found = {row.id: row for row in await self.db.read(lambda c: c.execute(query).all())}
        lines: list[dict[str, Any]] = []
        for number in wanted:
            try:
                row = found.get(number)
                if row is None:
                    raise NotFound(f"没有死信 {number}", f"no dead letter {number}", field="ids", value=number)
                self.policy.require(actor, WRITE, row.org)
                await self._send(row)
                await self.db.write(lambda c, row=row: self._sent(c, actor, row))  # type: ignore[misc]
            except TulouError as error:
                lines.append({"id": number, "error": error.problem()})
            else:
                lines.append({"id": number, "ok": True})
        return lines

    async def _send(self, row: Any) -> None:
        kind = row.topic.rsplit("/", 1)[-1]
        known = self.house.service(Devices)
        codec = known.codecs.get(row.protocol)
        if kind not in (TELEMETRY, ATTRIBUTES) and codec is None:
            raise Conflict(
                f"主题 {row.topic!r} 的消息无法重放", f"messages of topic {row.topic!r} cannot be replayed",
                field="topic", value=row.topic, rule="telemetry | attributes",
            )
        if codec is not None and not row.entity_no:  # of nobody when it came
            device = await known.speaker(row.protocol, row.raw)
        else:
            query = sa.select(devices).where(devices.c.entity_no == row.entity_no, devices.c.org == row.org)
            device = await self.db.read(lambda c: c.execute(query).first())
        if device is None:
            raise NotFound(
                f"死信 {row.id} 的设备已不存在", f"the device of dead letter {row.id} is gone", field="entity",
                value=row.entity_no,
            )
        model = self.house.packs.models.get(device.type)
        chunk = Chunk(
            kind, device.entity_no, (device.org, device.type, device.origin), Rules.of(model) if model else ANY,
            [row.raw], round(row.at.timestamp() * 1e6), False, row.topic, codec,
        )
        await self._door(row.protocol).submit(chunk)

    def _sent(self, connection: sa.Connection, actor: Actor, row: Any) -> None:
        connection.execute(
            sa.update(dead_letters).where(dead_letters.c.id == row.id).values(replayed_at=utcnow())
        )
        audit.record(connection, actor, WRITE, row.org, f"dead-letter:{row.id}", {"entity": row.entity_no})

    def _door(self, protocol: str) -> Ingestor:
        door = self._doors.get(protocol)
        if door is None:
            bus = self.house.bus
            door = self._doors[protocol] = Ingestor(
                bus.nc, bus.js, name="replay", protocol=protocol, released=settle, pressure=lambda on: None
            )
        return door


async def run(house: House) -> None:
    """The background task of the role `worker`."""
    await consume(house.db, house.bus)
