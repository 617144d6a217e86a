"""History read again from the raw frames that were kept, after a codec was mended.

Law: what a frame gave is replaced by what it gives now, as if the codec had been so from the start: of several frames
that give a reading of one identity the first in the stream counts. A slice of frames is worked off at a time, while the
writer waits at its gate; what the slice will touch is stated in SQL before it is touched, so that after a crash it is
done again to the end. Doing it all again changes nothing.

Frames that were never kept (all that they said was stored already, or contradicted it) cannot be read again; the latter
are dead letters and can be replayed. Alarms that the wrong values raised stay: they are what people acted on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from tulou.access.amending import Amender, OnAmended, told
from tulou.access.batch import BatchBuilder, BatchFull
from tulou.access.protocols import Codec
from tulou.access.service import Devices
from tulou.access.telemetry import ANY, SKEW_MS, Chunk, Refusal, Rules, decode
from tulou.access.writer import HOUR, Gate
from tulou.context import entities
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound
from tulou.kernel.http import page
from tulou.kernel.policy import EVERYWHERE, ROOT, Actor, Orgs, operation
from tulou.kernel.readings import KeptFrame, Reading, Readings
from tulou.kernel.readings.amend import content, identity
from tulou.kernel.sql import BigId, Database, UtcDateTime, metadata, utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.redecode")

READ, WRITE = "readings.frame.read", "readings.frame.write"
SLICE = 4000
"""Frames of one slice."""
TOGETHER = 250
"""Frames that are decoded into one batch."""
EXAMPLES = 20
DAY = 24 * HOUR
QUEUED, RUNNING, DONE, CANCELLED = "queued", "running", "done", "cancelled"

redecodes = sa.Table(
    "redecodes", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("protocol", sa.String(32), nullable=False),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("orgs", sa.JSON),
    sa.Column("device", sa.String(320)),
    sa.Column("entity_no", sa.BigInteger),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("end", sa.BigInteger, nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("cancel", sa.Boolean, nullable=False),
    sa.Column("total", sa.BigInteger),
    sa.Column("place", sa.JSON),
    sa.Column("pending", sa.JSON),
    sa.Column("counts", sa.JSON, nullable=False),
    sa.Column("examples", sa.JSON, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("ended_at", UtcDateTime),
)
"""`orgs`: whose frames (null: everybody's); `place`: the last frame that is done; `pending`: what the slice after it
touches, from before it is touched until it is done."""


class Request(BaseModel):
    """What to read again: frames of a protocol received from `start` up to `end` (µs), of an organisation or a device."""

    model_config = ConfigDict(extra="forbid")

    protocol: str = Field(min_length=1, max_length=32)
    org: str | None = Field(default=None, max_length=64)
    device: str | None = Field(default=None, max_length=320)
    start: int
    end: int
    dry_run: bool = False


@dataclass(slots=True)
class Reread:
    """What frames say now; `unread` are those that the codec failed on, whose readings stay as they are."""

    readings: list[Reading] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    unread: set[tuple[int, int, int]] = field(default_factory=set)


@dataclass(slots=True)
class Change:
    """What a slice changes: readings to take out and to put in, with the counts of the summary."""

    gone: list[Reading]
    fresh: list[Reading]
    counts: dict[str, int]
    examples: list[dict[str, Any]]


def reread(frames: Sequence[KeptFrame], codec: Codec, rules: Callable[[str], Rules], origins: Mapping[int, int]) -> Reread:
    """Decode frames as the door did when they came; a reading further in the future than was allowed then is refused."""
    out = Reread()
    kinds: dict[str, list[KeptFrame]] = {}
    for frame in frames:
        kinds.setdefault(frame.type, []).append(frame)
    for kind, alike in kinds.items():
        for at in range(0, len(alike), TOGETHER):
            part = alike[at : at + TOGETHER]
            try:
                _decode(part, codec, rules(kind), origins, out)
            except Exception:
                log.exception("frames cannot be decoded together; one by one")
                for frame in part:
                    try:
                        _decode([frame], codec, rules(kind), origins, out)
                    except (Exception, BatchFull) as error:
                        out.unread.add((frame.entity, frame.seq, frame.frame))
                        out.refusals.append(Refusal("codec", "编解码器出错", f"the codec failed: {error!r}"))
    return out


def _decode(
    frames: Sequence[KeptFrame], codec: Codec, rules: Rules, origins: Mapping[int, int], out: Reread
) -> None:
    builder = BatchBuilder(codec.name)
    name = codec.name
    chunks = [
        Chunk(name, f.entity, (f.org, f.type, origins.get(f.entity, 0)), rules, [f.raw], f.ts, False, name, codec)
        for f in frames
    ]
    decoded = decode(chunks, builder, max(f.ts for f in frames) // 1000)
    names = list(builder._prop_index)
    found = []
    refusals = [letter.refusal for letter in decoded.dead]
    for row, at in enumerate(builder.r_frame):
        frame = frames[at]
        ts = builder.r_ts[row]
        if ts > frame.ts + SKEW_MS * 1000:
            refusals.append(Refusal("ts-future", "ts 在 24 小时以后", "ts is more than 24 hours in the future", "ts", ts))
            continue
        found.append(Reading(
            frame.org, frame.type, frame.entity, names[builder.r_prop[row]], ts, builder.r_val[row],
            builder.r_text.get(row, ""), builder.worse.get(row, 0), origins.get(frame.entity, 0), frame.seq, frame.frame,
        ))
    out.readings += found
    out.refusals += refusals


def compare(old: Sequence[Reading], new: Sequence[Reading], others: Sequence[Reading]) -> Change:
    """What must change for `new` to stand for `old`, both of the same frames; `others` are readings of other frames at
    the same identities. Of one identity the first in the stream counts."""
    counts = dict.fromkeys(("changed", "added", "removed", "conflicts"), 0)
    first: dict[tuple[int, str, int], Reading] = {}
    for reading in sorted(new, key=_place):
        there = first.setdefault(identity(reading), reading)
        if there is not reading and content(there) != content(reading):
            counts["conflicts"] += 1
    theirs = {identity(reading): reading for reading in others}
    before = {identity(reading): reading for reading in old}
    for key, reading in list(first.items()):
        other = theirs.get(key)
        if other is not None and _place(other) < _place(reading):
            del first[key]
            counts["conflicts"] += content(other) != content(reading)
    gone: list[Reading] = []
    fresh: list[Reading] = []
    examples: list[dict[str, Any]] = []

    def note(what: str, was: Reading | None, now: Reading | None) -> None:
        counts[what] += 1
        one = now or was
        if len(examples) < EXAMPLES and one is not None:
            examples.append({
                "no": one.entity, "property": one.property, "ts": one.ts, "before": _shown(was), "after": _shown(now),
            })

    for key, reading in first.items():
        was = before.pop(key, None) or theirs.get(key)
        if was == reading or (was is not None and was[:5] + was[6:] == reading[:5] + reading[6:]
                              and content(was) == content(reading)):
            continue
        if was is not None:
            gone.append(was)
        fresh.append(reading)
        if was is None:
            note("added", None, reading)
        elif content(was) != content(reading):
            note("changed", was, reading)
    for reading in before.values():
        gone.append(reading)
        note("removed", reading, None)
    return Change(gone, fresh, counts, examples)


def _place(reading: Reading) -> tuple[int, int]:
    return reading.seq, reading.frame


def _shown(reading: Reading | None) -> dict[str, Any] | None:
    if reading is None:
        return None
    value: float | str | None = reading.value if math.isfinite(reading.value) else reading.text or None
    return {"value": value, "quality": reading.quality}


class Redecoder:
    """Works off one run. `fault` is called with the name of every step, so that tests can stop there."""

    def __init__(
        self, readings: Readings, db: Database, gate: Gate, codec: Codec, rules: Callable[[str], Rules],
        retention: Mapping[str, int], on_amended: OnAmended, *, most: int = SLICE,
        fault: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.readings, self.db, self.gate, self.codec, self.rules = readings, db, gate, codec, rules
        self.retention, self.most, self.fault = retention, most, fault
        self.amender = Amender(readings, gate, on_amended, fault)

    async def run(self, row: Any) -> None:
        """Until the run is done or cancelled."""
        if row.total is None:
            total = await self.readings.count_frames(
                row.protocol, row.start, row.end, orgs=_orgs(row), entity=row.entity_no)
            row = await self._note(row, state=RUNNING, total=total)
        while True:
            if row.cancel and row.pending is None:
                await self._note(row, state=CANCELLED, ended_at=utcnow())
                return
            after = await self._slice(row)
            if after is None:
                await self._note(row, state=DONE, ended_at=utcnow(), error="")
                return
            row = after

    async def _slice(self, row: Any) -> Any | None:
        """The row after the next slice; None when there is none."""
        frames = await self.readings.kept_frames(
            row.protocol, row.start, row.end, orgs=_orgs(row), entity=row.entity_no,
            after=tuple(row.place) if row.place else None, limit=self.most,
        )
        if not frames and row.pending is None:
            return None
        numbers = sorted({frame.entity for frame in frames})
        synthetic = sa.select(entities.c.no, entities.c.synthetic).where(entities.c.no.in_(numbers))
        origins = {
            no: 3 if flag else 0 for no, flag in await self.db.read(lambda c: c.execute(synthetic).all())
        }
        found = await asyncio.to_thread(reread, frames, self.codec, self.rules, origins)
        self.fault("decoded")
        if row.dry_run:
            change = await self._change(frames, found)
            return await self._note(row, **self._done(row, frames, change.counts, found, change.examples))
        async with self.gate.lock:
            return await self._amend(row, frames, found)

    async def _change(self, frames: Sequence[KeptFrame], found: Reread) -> Change:
        """What is stored of these frames against what they say now, within what retention has left whole."""
        keys = [(f.entity, f.seq, f.frame) for f in frames]
        found.unread |= await self.readings.twins(keys)
        keys = [key for key in keys if key not in found.unread]
        mine = set(keys)
        now = time.time_ns() // 1000
        oldest = {
            kind: (now - days * DAY) // HOUR * HOUR + 2 * HOUR for kind, days in self.retention.items()
        }

        def whole(readings: Sequence[Reading]) -> list[Reading]:
            return [r for r in readings if r.ts >= oldest.get(r.type, r.ts)]

        old = whole(await self.readings.given_by(keys))
        new = [r for r in whole(found.readings) if (r.entity, r.seq, r.frame) in mine]
        moments = sorted({(r.entity, r.ts) for r in new})
        others = [
            r for r in await self.readings.stored_at(moments) if (r.entity, r.seq, r.frame) not in mine
        ]
        return await asyncio.to_thread(compare, old, new, others)

    async def _amend(self, row: Any, frames: Sequence[KeptFrame], found: Reread) -> Any:
        change = await self._change(frames, found)
        pending = await self._pending(row, change)
        if pending["entities"]:
            row = await self._note(row, pending=pending)
            self.fault("stated")
            await self.amender.amend(pending, change.gone, change.fresh)
        return await self._note(row, pending=None, **self._done(row, frames, pending["counts"], found, pending["examples"]))

    async def _pending(self, row: Any, change: Change) -> dict[str, Any]:
        """What this slice touches, with what it was to touch when it was begun before."""
        touches = await self.amender.touches(change.gone, change.fresh, row.pending)
        before = row.pending or {}
        return {
            **touches, "counts": before.get("counts", change.counts), "examples": before.get("examples", change.examples),
        }

    def _done(
        self, row: Any, frames: Sequence[KeptFrame], counts: Mapping[str, int], found: Reread,
        examples: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        """The columns that say so when a slice is done."""
        sums = dict(row.counts)
        for name, number in {**counts, "frames": len(frames), "refused": len(found.refusals),
                             "unread": len(found.unread)}.items():
            sums[name] = sums.get(name, 0) + number
        place = row.place
        if frames:
            last = frames[-1]
            place = [last.entity, last.ts, last.seq, last.frame]
        return {"place": place, "counts": sums, "error": "", "examples": [*row.examples, *examples][:EXAMPLES]}

    async def _note(self, row: Any, **values: Any) -> Any:
        update = redecodes.update().where(redecodes.c.id == row.id).values(**values).returning(redecodes)
        return await self.db.write(lambda c: c.execute(update).one())


def _orgs(row: Any) -> Orgs:
    return EVERYWHERE if row.orgs is None else Orgs(False, frozenset(row.orgs))


def document(row: Any) -> dict[str, Any]:
    """A run as the API shows it."""
    return {
        "id": row.id, "protocol": row.protocol, "org": row.org, "device": row.device, "from": row.start, "to": row.end,
        "dry_run": row.dry_run, "state": row.state, "cancel": row.cancel, "total": row.total, "error": row.error or None,
        "counts": {name: row.counts.get(name, 0) for name in COUNTS}, "examples": row.examples,
        "created_at": row.created_at, "created_by": row.created_by, "ended_at": row.ended_at,
    }


COUNTS = ("frames", "changed", "added", "removed", "conflicts", "refused", "unread")


class Redecodes:
    """The operations on runs, and the task of the role `writer` that works them off, one after another."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.policy = house.policy
        self.db = house.db
        self.gate = Gate()
        self._wake = asyncio.Event()

    @operation(WRITE)
    async def ask(self, actor: Actor, request: Request) -> dict[str, Any]:
        """Queue a run over a device, an organisation, or everything where the actor may. A run is of one organisation, whose
        people see it: without a name the one above all others in which he may.

        Raises `Invalid` for a protocol that no codec speaks, and where there are several such; `NotFound` for a device.
        """
        allowed = self.policy.require_any(actor, WRITE)
        codecs = self.house.service(Devices).codecs
        if request.protocol not in codecs:
            raise Invalid(
                f"协议 {request.protocol} 没有编解码器，其报文不能重读", f"no codec speaks {request.protocol}; its frames cannot be read again",
                field="protocol", value=request.protocol, rule=" | ".join(sorted(codecs)),
            )
        if request.end <= request.start:
            raise Invalid("止应晚于起", "the end must be after the start", field="to", value=request.end, rule="to > from")
        org, number = request.org, None
        if request.device is not None:
            device = await self.house.service(Devices).get(actor, request.device)
            if org not in (None, device["org"]):
                raise Invalid(
                    f"设备 {request.device} 不属于 {org}", f"the device {request.device} is not of {org}", field="org",
                    value=org, rule=device["org"],
                )
            org, number = device["org"], device["no"]
        if org is not None:
            self.policy.require(actor, WRITE, org)
            orgs: list[str] | None = [org]
        elif allowed.all:
            org, orgs = ROOT, None
        else:
            tops = [each for each in sorted(allowed.ids) if not allowed.ids.intersection([*self.policy.ancestors(each)][1:])]
            if len(tops) > 1:
                raise Invalid(
                    "请指明组织", "name the organisation", field="org", value=None, rule=" | ".join(tops),
                )
            org, orgs = tops[0], sorted(allowed.ids)
        values: dict[str, Any] = {
            "protocol": request.protocol, "org": org, "orgs": orgs, "device": request.device,
            "entity_no": number, "start": request.start, "end": request.end, "dry_run": request.dry_run,
            "state": QUEUED, "cancel": False, "counts": {}, "examples": [], "error": "", "created_at": utcnow(),
            "created_by": actor.id,
        }

        def write(connection: sa.Connection) -> Any:
            row = connection.execute(redecodes.insert().values(values).returning(redecodes)).one()
            audit.record(connection, actor, WRITE, row.org, f"redecode:{row.id}", {
                "protocol": request.protocol, "device": request.device, "from": request.start, "to": request.end,
                "dry_run": request.dry_run,
            })
            return row

        row = await self.db.write(write)
        self._wake.set()
        return document(row)

    @operation(READ)
    async def find(self, actor: Actor, *, limit: int = 50, after: str | None = None) -> dict[str, Any]:
        """Runs that the actor may see, newest first. Keyset-paged."""
        visible = self.policy.require_any(actor, READ)
        query = sa.select(redecodes).where(*within(redecodes.c.org, visible))
        rows, more = await page(self.db, query, redecodes.c.id, limit, after, newest=True)
        return {"items": [document(row) for row in rows], "next": more}

    @operation(READ)
    async def get(self, actor: Actor, number: int) -> dict[str, Any]:
        """One run. Raises `NotFound`."""
        return document(await self._row(actor, READ, number))

    @operation(WRITE)
    async def cancel(self, actor: Actor, number: int) -> dict[str, Any]:
        """End a run after the slice under way; what is done stays done. Raises `Conflict` when it has ended."""
        row = await self._row(actor, WRITE, number)

        def write(connection: sa.Connection) -> Any:
            here = redecodes.update().where(redecodes.c.id == number, redecodes.c.state.in_((QUEUED, RUNNING)))
            changed = connection.execute(here.values(cancel=True).returning(redecodes)).first()
            if changed is None:
                raise Conflict(f"重读 {number} 已结束", f"run {number} has ended", field="id", value=number)
            audit.record(connection, actor, WRITE, row.org, f"redecode:{number}", {"change": "cancelled"})
            return changed

        return document(await self.db.write(write))

    async def _row(self, actor: Actor, action: str, number: int) -> Any:
        query = sa.select(redecodes).where(redecodes.c.id == number)
        row = await self.db.read(lambda c: c.execute(query).first())
        return self.policy.require_seen(actor, READ, action, row, no_such_run(number))

    # -- the task

    async def run(self, house: House) -> None:
        """Work off runs, for ever; one that fails is tried again until it is done or cancelled."""
        waiting = sa.select(redecodes).where(redecodes.c.state.in_((QUEUED, RUNNING))).order_by(redecodes.c.id).limit(1)
        pause = 1.0
        while True:
            self._wake.clear()
            row = await self.db.read(lambda c: c.execute(waiting).first())
            if row is None:
                try:
                    async with asyncio.timeout(5):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                continue
            try:
                await self._redecoder(row.protocol).run(row)
                pause = 1.0
            except Exception as error:
                log.exception("redecode %d; again in %.0f s", row.id, pause)
                told = redecodes.update().where(redecodes.c.id == row.id).values(
                    error=f"{type(error).__name__}: {error}"[:2000])
                await self.db.write(lambda c, told=told: c.execute(told) and None)  # type: ignore[misc]
                await asyncio.sleep(pause)
                pause = min(pause * 2, 60.0)

    def _redecoder(self, protocol: str) -> Redecoder:
        house = self.house
        models = house.packs.models
        rules: dict[str, Rules] = {}

        def of(kind: str) -> Rules:
            if kind not in rules:
                rules[kind] = Rules.of(models[kind]) if kind in models else ANY
            return rules[kind]

        return Redecoder(
            house.readings, self.db, self.gate, house.service(Devices).codecs[protocol], of, house.retention(), told(house)
        )


def no_such_run(number: object) -> NotFound:
    """The one error for a run that is not there or must not be known."""
    return NotFound(f"没有重读 {number}", f"no run {number}", field="id", value=number)
