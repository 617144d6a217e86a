"""Edges at the hub: who they are, what they bring, and what is there for their devices.

Law: an edge may do one thing, `access.uplink.write`, in its organisation and those below; whose a reading is the hub knows
itself. A group is stated before it is published (`floor`) and counted after; one of which it is unknown how far it came is
settled by looking at the stream, which the writer keeps meanwhile. So the hub's `last` is exact, and what is behind it comes
in order, once. A command is handed out until the edge says that it has filed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import nats.errors
import orjson
import sqlalchemy as sa
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError
from pydantic import BaseModel, ConfigDict, Field

from tulou.access.attributes import CHANGED
from tulou.access.authenticate import Throttle
from tulou.access.batch import Batch
from tulou.access.courier import LARGEST_ANSWER, RING
from tulou.access.downlink import SENT, WAITING, Commands, document
from tulou.access.edge import BEARER, wire
from tulou.access.edge.tables import NewEdge, edge_devices, edges
from tulou.access.longpolls import LongPolls
from tulou.access.models import ACTIVE, MEASURED, SYNTHETIC, NewDevice, commands, devices, shadows
from tulou.access.protocols import ANSWERED, DELIVERED, REFUSED
from tulou.access.quotas.service import Quotas
from tulou.access.service import Devices, token_hash
from tulou.access.writer import STREAM
from tulou.context import ContextService, NewEntity, entities
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound, Throttled, TulouError, Unauthenticated, Unavailable
from tulou.kernel.http import checked, json_text, page
from tulou.kernel.organisations import Organisations
from tulou.kernel.policy import Actor, Binding, operation
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.edge")

READ, CREATE, DELETE, SPEAK = "access.edge.read", "access.edge.create", "access.edge.delete", "access.uplink.write"
PREFIX = "tulou_edge_"
ROLE = "edge"
"""What an edge is bound by; nobody can be given it."""
ONLINE_S = 45.0
"""Seconds since an edge's last word in which it counts as connected: it speaks each ten, or waits for commands."""
HANDED = 50
"""Commands, and shadows, in one answer."""
TOGETHER = 250
"""Devices that are made in one transaction."""
MARK = "Tulou-Edge"
"""Header of a message of READINGS that an edge brought: its era and the last sequence that the message covers."""
TAKEN = "taken"
"""What an edge says beside `DELIVERED`, `ANSWERED` and `REFUSED`: it has filed the command."""
Said = Literal["taken", "delivered", "answered", "refused"]


class Announced(BaseModel):
    """An entity of an edge; `key` is that of its device, without one it has none."""

    model_config = ConfigDict(extra="forbid")

    entity: int = Field(ge=1, lt=1 << 62)
    org: str = Field(min_length=1, max_length=64)
    type: str = Field(min_length=1, max_length=128)
    id: str = Field(min_length=1, max_length=255)
    name: str = Field(max_length=200)
    key: str | None = Field(default=None, max_length=200)
    lon: float | None = Field(default=None, ge=-180, le=180, allow_inf_nan=False)
    lat: float | None = Field(default=None, ge=-90, le=90, allow_inf_nan=False)
    synthetic: bool = False


class Announcement(BaseModel):
    """Entities of which an edge is going to speak."""

    model_config = ConfigDict(extra="forbid")

    era: str = Field(min_length=1, max_length=64)
    entities: list[Announced] = Field(max_length=1000)


class Told(BaseModel):
    """What became of a command."""

    model_config = ConfigDict(extra="forbid")

    no: int
    what: Said
    result: Any = None
    error: str = Field(default="", max_length=4000)


class Took(BaseModel):
    """The version of a device's shadow that an edge has taken over; `entity` is its number there."""

    model_config = ConfigDict(extra="forbid")

    entity: int
    version: int = Field(ge=0, lt=1 << 62)


class Reports(BaseModel):
    """What became of commands, in order, and which shadows were taken over."""

    model_config = ConfigDict(extra="forbid")

    items: list[Told] = Field(default=[], max_length=1000)
    shadows: list[Took] = Field(default=[], max_length=1000)


def no_such_edge(no: object) -> NotFound:
    """The one error for an edge that is not there or must not be known."""
    return NotFound(f"没有边缘节点 {no}", f"no edge {no}", field="no", value=no)


class Edges:
    """The operations on edges, and the answers to them."""

    def __init__(self, house: House, devices: Devices, calls: Commands, quotas: Quotas) -> None:
        self.house, self.devices, self.calls, self.quotas = house, devices, calls, quotas
        self.policy, self.db = house.policy, house.db
        self.throttle = Throttle()
        self._locks: dict[int, asyncio.Lock] = {}
        self._polls = LongPolls()

    async def open(self) -> None:
        """Hear of commands, and settle what an earlier process had begun."""
        for subject in (RING, CHANGED):
            await self.house.bus.nc.subscribe(subject, cb=self._rung)
        under_way = sa.select(edges).where(edges.c.floor.is_not(None))
        for row in await self.db.read(lambda c: c.execute(under_way).all()):
            with contextlib.suppress(TulouError):  # the edge's next word settles it
                async with self._lock(row.no):
                    await self._settled(row.no)

    async def _rung(self, _message: Msg) -> None:
        self._polls.tell_all()

    # -- operations

    @operation(CREATE)
    async def create(self, actor: Actor, new: NewEdge) -> dict[str, Any]:
        """Let an edge in; its token is shown only now. Raises `Invalid` for an organisation that there is not, `Conflict` for a
        name that another one of it has."""
        self.policy.require(actor, CREATE, new.org)
        self.house.service(Organisations).must_have(new.org)
        token = PREFIX + secrets.token_urlsafe(24)
        values = {
            "org": new.org, "name": new.name, "token_hash": token_hash(token), "token_prefix": token[: len(PREFIX) + 6],
            "created_at": utcnow(), "created_by": actor.id, "era": "", "last": 0, "lag": 0, "lag_s": 0.0, "missed": 0,
            "left_out": 0,
        }
        same = sa.select(edges.c.no).where(edges.c.org == new.org, edges.c.name == new.name, edges.c.revoked_at.is_(None))

        def write(connection: sa.Connection) -> Any:
            if connection.execute(same).first() is not None:
                raise Conflict(f"{new.org} 已有边缘节点 {new.name}", f"{new.org} has an edge {new.name} already", field="name",
                               value=new.name, rule="one name each")
            row = connection.execute(edges.insert().values(values).returning(edges)).one()
            audit.record(connection, actor, CREATE, new.org, f"edge {row.no}", {"name": new.name})
            return row

        return {**edge_document(await self.db.write(write), 0), "token": token}

    @operation(READ)
    async def find(self, actor: Actor, *, org: str | None = None, limit: int = 50, after: str | None = None) -> dict[str, Any]:
        """Edges, newest first. Keyset-paged."""
        query = sa.select(edges)
        query = query.where(*within(edges.c.org, self.policy.require_any(actor, READ).narrow(org)))
        rows, more = await page(self.db, query, edges.c.no, limit, after, newest=True)
        counts = await self._counts([row.no for row in rows])
        return {"items": [edge_document(row, counts.get(row.no, 0)) for row in rows], "next": more}

    @operation(READ)
    async def get(self, actor: Actor, no: int) -> dict[str, Any]:
        """One edge. Raises `NotFound`."""
        row = await self._mine(actor, READ, no)
        return edge_document(row, (await self._counts([no])).get(no, 0))

    @operation(DELETE)
    async def revoke(self, actor: Actor, no: int) -> dict[str, Any]:
        """Let the edge in no more, from now on; what it brought stays, and what was told its devices expires. Raises `NotFound`."""
        row = await self._mine(actor, DELETE, no)
        now = utcnow()

        def write(connection: sa.Connection) -> Any:
            changed = connection.execute(
                edges.update().where(edges.c.no == no, edges.c.revoked_at.is_(None)).values(revoked_at=now).returning(edges)
            ).first()
            if changed is not None:
                audit.record(connection, actor, DELETE, row.org, f"edge {no}", {"name": row.name})
            return changed or row

        changed = await self.db.write(write)
        self._polls.tell_all()
        return edge_document(changed, (await self._counts([no])).get(no, 0))

    async def _mine(self, actor: Actor, action: str, no: int) -> Any:
        row = await self._row(no)
        return self.policy.require_seen(actor, READ, action, row, no_such_edge(no))

    async def _row(self, no: int) -> Any:
        query = sa.select(edges).where(edges.c.no == no)
        return await self.db.read(lambda c: c.execute(query).first())

    async def _counts(self, numbers: Sequence[int]) -> dict[int, int]:
        query = sa.select(edge_devices.c.edge_no, sa.func.count()).where(
            edge_devices.c.edge_no.in_(numbers), edge_devices.c.no.is_not(None)
        ).group_by(edge_devices.c.edge_no)
        rows = await self.db.read(lambda c: c.execute(query).all())
        return {row[0]: row[1] for row in rows}

    # -- for edges

    async def admitted(self, token: str, address: str) -> tuple[Actor, int]:
        """The edge of a token, as an actor, and its number. Raises `Unauthenticated`, or `Throttled` for an address that guesses."""
        wait = self.throttle.wait(address)
        if wait > 0:
            raise Throttled("无效令牌尝试过多", "too many unknown tokens from this address", retry_after=wait)
        query = sa.select(edges).where(edges.c.token_hash == token_hash(token), edges.c.revoked_at.is_(None))
        row = await self.db.read(lambda c: c.execute(query).first()) if token.startswith(PREFIX) else None
        if row is None:
            self.throttle.failed(address)
            raise Unauthenticated("边缘节点令牌无效或已吊销", "unknown or revoked token of an edge", rule="token of an edge")
        return Actor(f"edge:{row.no}", row.name, row.org, "device", frozenset({Binding(row.org, ROLE, True)})), row.no

    async def _speaking(self, actor: Actor, no: int) -> Any:
        self.policy.require_any(actor, SPEAK)
        row = await self._row(no)
        if row is None or row.revoked_at is not None:
            raise no_such_edge(no)
        self.policy.require(actor, SPEAK, row.org)
        return row

    @operation(SPEAK)
    async def meet(self, actor: Actor, no: int, era: str) -> dict[str, Any]:
        """How far the edge's stream of this era was taken. A new era begins at 0 with other numbers of the same entities."""
        await self._speaking(actor, no)
        if not 0 < len(era) <= 64:
            raise Invalid("era 应为 1 至 64 个字符", "era has 1 to 64 characters", field="era", value=era, rule="1..64")
        async with self._lock(no):
            row = await self._settled(no)
            if row.era != era:
                mine = edge_devices.c.edge_no == no
                begun = edges.update().where(edges.c.no == no).values(era=era, last=0, floor=None)

                def write(connection: sa.Connection) -> None:
                    connection.execute(begun)
                    connection.execute(edge_devices.delete().where(mine, edge_devices.c.no.is_(None)))
                    connection.execute(edge_devices.update().where(mine).values(entity=-edge_devices.c.no))
                    audit.record(connection, actor, SPEAK, row.org, f"edge {no}", {"era": era, "after": row.last})

                await self.db.write(write)
        return {"last": row.last if row.era == era else 0, "name": row.name, "org": row.org}

    @operation(SPEAK)
    async def announce(self, actor: Actor, no: int, announced: Announcement) -> dict[str, Any]:
        """Learn of entities: an item for each, `{entity, no}` or `{entity, error}`. Of the edge's organisation and those below
        only, and not those that another edge speaks for, or that speak to the hub themselves."""
        row = await self._speaking(actor, no)
        if row.era != announced.era:
            raise _other_era(row.era)
        known = await self._known(no, [one.entity for one in announced.entities])
        answers: dict[int, int | TulouError] = {}
        fresh: list[tuple[Announced, NewDevice | None]] = []
        for one in announced.entities:
            try:
                self.policy.require(actor, SPEAK, one.org)
                if one.entity in known and known[one.entity] is None:
                    raise Conflict("设备在中心已删除", "the device is deleted at the hub", field="entity", value=one.entity)
                new = None if one.key is None else checked(NewDevice, {
                    "org": one.org, "type": one.type, "name": one.name or one.key, "id": one.key, "lon": one.lon, "lat": one.lat,
                    "synthetic": one.synthetic,
                })
                if new is not None and new.entity_id != one.id:
                    raise Invalid("id 与设备的键不符", "id is not that of the device's key", field="id", value=one.id, rule=new.entity_id)
                fresh.append((one, new))
            except TulouError as error:
                answers[one.entity] = error
        for start in range(0, len(fresh), TOGETHER):
            part = fresh[start : start + TOGETHER]
            made = iter(await self.devices.make_many(actor, [new for _, new in part if new is not None]))
            bare = iter(await self._bare([one for one, new in part if new is None]))
            found: dict[int, int] = {}
            for one, new in part:
                answer = next(made) if new is not None else next(bare)
                if isinstance(answer, TulouError):
                    answers[one.entity] = answer
                else:
                    found[one.entity] = answer["no"] if isinstance(answer, dict) else answer
            answers |= await self._place(no, row.era, found)
        return {"items": [
            {"entity": one.entity, "error": answer.problem()} if isinstance(answer := answers[one.entity], TulouError)
            else {"entity": one.entity, "no": answer} for one in announced.entities
        ]}

    async def _bare(self, wanted: Sequence[Announced]) -> list[int | TulouError]:
        """Entities without a device, made where they are new."""
        if not wanted:
            return []
        organisations = self.house.service(Organisations)
        for one in wanted:
            organisations.must_have(one.org)
        made = await self.house.service(ContextService).ensure_entities([
            NewEntity(one.org, one.type, one.id, one.name or one.id, one.lon, one.lat, one.synthetic) for one in wanted
        ])
        query = sa.select(entities.c.no, entities.c.type, entities.c.synthetic).where(
            entities.c.no.in_([no for no in made if isinstance(no, int)])
        )
        kinds = {row.no: (row.type, bool(row.synthetic)) for row in await self.db.read(lambda c: c.execute(query).all())}
        return [
            no if isinstance(no, TulouError) or kinds.get(no) == (one.type, one.synthetic)
            else Conflict(f"{one.id} 已存在，类型或来源不同", f"{one.id} exists with another type or origin", field="id", value=one.id)
            for no, one in zip(made, wanted, strict=True)
        ]

    async def _place(self, no: int, era: str, found: dict[int, int]) -> dict[int, int | TulouError]:
        """Note that these entities are at this edge; those that another one has, which is not revoked, are not."""
        def write(connection: sa.Connection) -> dict[int, int | TulouError]:
            if connection.scalar(sa.select(edges.c.era).where(edges.c.no == no)) != era:
                raise _other_era(era)
            spoke = {row.entity_no for row in connection.execute(sa.select(devices).where(
                devices.c.entity_no.in_(found.values()), devices.c.seen_at.is_not(None), ~devices.c.created_by.startswith("edge:"),
            ))}
            query = sa.select(edge_devices, edges.c.revoked_at).join(edges, edges.c.no == edge_devices.c.edge_no).where(
                edge_devices.c.no.in_(found.values())
            )
            held = {row.no: row for row in connection.execute(query)}
            answers: dict[int, int | TulouError] = {}
            for entity, ours in found.items():
                holder = held.get(ours)
                if holder is not None and (holder.edge_no, holder.entity) == (no, entity):
                    answers[entity] = ours
                    continue
                if holder is not None and holder.edge_no != no and holder.revoked_at is None:
                    answers[entity] = Conflict("设备属于另一边缘节点", "the device is at another edge", field="entity", value=entity)
                    continue
                if holder is None and ours in spoke:
                    answers[entity] = Conflict(
                        "设备已直接向中心上报；如要移到边缘节点，请先在中心删除（读数保留）",
                        "the device speaks to the hub itself; to move it to an edge, delete it at the hub first (its readings stay)",
                        field="entity", value=entity,
                    )
                    continue
                connection.execute(edge_devices.delete().where(sa.or_(
                    edge_devices.c.no == ours, sa.and_(edge_devices.c.edge_no == no, edge_devices.c.entity == entity),
                )))
                connection.execute(edge_devices.insert().values(edge_no=no, entity=entity, no=ours))
                answers[entity] = ours
            return answers

        return await self.db.write(write)

    async def _known(self, no: int, numbers: Sequence[int]) -> dict[int, int | None]:
        """Our numbers of an edge's entities, as far as they are known."""
        found: dict[int, int | None] = {}
        for start in range(0, len(numbers), 500):
            query = sa.select(edge_devices.c.entity, edge_devices.c.no).where(
                edge_devices.c.edge_no == no, edge_devices.c.entity.in_(numbers[start : start + 500])
            )
            found |= {row.entity: row.no for row in await self.db.read(lambda c, query=query: c.execute(query).all())}  # type: ignore[misc]
        return found

    @operation(SPEAK)
    async def take(self, actor: Actor, no: int, body: bytes, deflated: bool = False) -> dict[str, Any]:
        """Take a group of messages: `{last}` once they are durable, in order and once. `{last, unknown}` names entities that are
        to be announced first; nothing of the group was taken then. Raises `Conflict` for a group that is not the next one,
        `Invalid` for what is none, `Throttled` and `OverQuota` where an organisation of it may not say so much: the edge keeps it."""
        await self._speaking(actor, no)
        group, batches = await asyncio.to_thread(_read, body, deflated)
        async with self._lock(no):
            row = await self._settled(no)
            if row.era != group.era:
                raise _other_era(row.era)
            if row.last != group.after:
                raise Conflict(f"已收到 {row.last}，而非 {group.after}", f"the stream was taken up to {row.last}, not {group.after}",
                               field="after", value=row.last, rule=str(row.last))
            table, unknown = await self._table(actor, no, wire.numbers([batch for _, _, batch in batches]).tolist())
            if unknown:
                return {"last": row.last, "unknown": unknown[:1000]}
            for org, count in wire.spoken([batch for _, _, batch in batches], table).items():
                self.quotas.spend(org, count)
            now = time.time_ns() // 1000
            most = min(wire.TOGETHER, self.house.bus.nc.max_payload - wire.ROOM)
            messages, left_out = await asyncio.to_thread(wire.republished, batches, table, now, str(no), most)
            if messages:
                await self._publish(no, row, messages)
            last = group.messages[-1][0] if group.messages else row.last
            values: dict[str, Any] = {"contact_at": utcnow(), "lag": group.lag, "lag_s": group.lag_s}
            if group.messages:
                values |= {"last": last, "floor": None, "taken_at": values["contact_at"], "left_out": edges.c.left_out + left_out,
                           "missed": edges.c.missed + group.missed}
            done = edges.update().where(edges.c.no == no, edges.c.era == group.era).values(values)
            await self.db.write(lambda c: c.execute(done) and None)
        return {"last": last}

    async def _table(self, actor: Actor, no: int, numbers: Sequence[int]) -> tuple[wire.Table, list[int]]:
        """Of an edge's entities: those that may speak now, and those that are not known."""
        rows: dict[int, Any] = {}
        for start in range(0, len(numbers), 500):
            query = (
                sa.select(edge_devices.c.entity, entities.c.no, entities.c.org, entities.c.type, entities.c.synthetic,
                          devices.c.status, devices.c.origin)
                .join(entities, entities.c.no == edge_devices.c.no)
                .join(devices, devices.c.entity_no == edge_devices.c.no, isouter=True)
                .where(edge_devices.c.edge_no == no, edge_devices.c.entity.in_(numbers[start : start + 500]))
            )
            found = await self.db.read(lambda c, query=query: c.execute(query).all())  # type: ignore[misc]
            rows |= {row.entity: row for row in found}
        allowed = {org: self.policy.allows(actor, SPEAK, org) for org in {row.org for row in rows.values()}}
        table = wire.Table.made([
            (row.entity, row.no, (row.org, row.type, row.origin if row.origin is not None else SYNTHETIC if row.synthetic else MEASURED))
            for row in rows.values() if row.status in (None, ACTIVE) and allowed[row.org]
        ])
        return table, [number for number in numbers if number not in rows]

    def _lock(self, no: int) -> asyncio.Lock:
        return self._locks.setdefault(no, asyncio.Lock())

    async def _publish(self, no: int, row: Any, messages: Sequence[tuple[int, bytes]]) -> None:
        """State the group, and publish it, one message after the other. Raises `Unavailable`: its floor tells then where to look."""
        js = self.house.bus.js
        try:
            floor = (await js.stream_info(STREAM)).state.last_seq
            stated = edges.update().where(
                edges.c.no == no, edges.c.era == row.era, edges.c.last == row.last, edges.c.floor.is_(None), edges.c.revoked_at.is_(None)
            ).values(floor=floor)
            if not await self.db.write(lambda c: c.execute(stated).rowcount):
                raise Conflict("此边缘节点的另一请求正在处理", "another request of this edge is under way", field="after", value=row.last)
            for seq, data in messages:
                await js.publish(_subject(no), data, timeout=10, headers={
                    "Nats-Msg-Id": f"edge-{no}-{row.era}-{seq}", MARK: f"{seq} {row.era}",
                })
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable(f"消息流暂不可写：{error}", f"the stream takes nothing now: {error}", rule="durable") from None

    async def _settled(self, no: int) -> Any:
        """The edge's row, without a group under way: how far one came that was begun is looked up in the stream."""
        row = await self._row(no)
        if row.floor is None:
            return row
        last = row.last
        try:
            message = await self.house.bus.js.get_last_msg(STREAM, _subject(no))
            seq, _, era = ((message.headers or {}).get(MARK) or "0 ").partition(" ")
            if (message.seq or 0) > row.floor and era == row.era:
                last = max(last, int(seq))
        except NotFoundError:
            pass
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable(f"消息流暂不可读：{error}", f"the stream cannot be read now: {error}", rule="durable") from None
        done = edges.update().where(edges.c.no == no, edges.c.era == row.era).values(last=last, floor=None).returning(edges)
        return await self.db.write(lambda c: c.execute(done).first()) or await self._row(no)

    # -- commands

    @operation(SPEAK)
    async def orders(self, actor: Actor, no: int, timeout: float = 0) -> dict[str, Any]:
        """Commands for devices of the edge that it has not filed yet, and shadows that it has not taken over, waiting up to `timeout`
        seconds for one. Firmware is not an edge's: what shadows say of it is left out."""
        await self._speaking(actor, no)
        until = asyncio.get_running_loop().time() + timeout
        with self._polls.waiting(no, timeout) as news:
            while True:
                await self._speaking(actor, no)
                rows = await self.db.write(lambda c: _handed(c, no, utcnow())) if await self._any(no) else []
                wanted = await self.db.read(lambda c: c.execute(_untaken(no)).all())
                if rows or wanted:
                    break
                try:
                    async with asyncio.timeout_at(until):
                        await news.get()
                except TimeoutError:
                    break
        contact = edges.update().where(edges.c.no == no).values(contact_at=utcnow())
        await self.db.write(lambda c: c.execute(contact) and None)
        now = utcnow()
        return {
            "commands": [{**document(row), "entity": row.entity, "left_s": (row.expires_at - now).total_seconds()} for row in rows],
            "shadows": [{"entity": row.entity, "version": row.version, "desired": {
                name: value for name, value in orjson.loads(row.desired).items() if not name.startswith("fw_")
            }} for row in wanted],
        }

    async def _any(self, no: int) -> bool:
        query = _unfiled(no, utcnow()).limit(1)
        return await self.db.read(lambda c: c.execute(query).first()) is not None

    @operation(SPEAK)
    async def reported(self, actor: Actor, no: int, reports: Reports) -> None:
        """Learn what became of commands, and which shadows were taken over; what is said twice changes nothing. Raises `NotFound`
        for a command that the edge was not given: nothing was learnt then."""
        await self._speaking(actor, no)
        wanted = [one.no for one in reports.items]
        query = sa.select(commands.c.no, commands.c.entity_no, commands.c.claimed).where(commands.c.no.in_(wanted))
        rows = {row.no: row for row in await self.db.read(lambda c: c.execute(query).all())}
        for number in wanted:
            if number not in rows or rows[number].claimed not in (_by(no), _filed(no)):
                raise NotFound(f"没有命令 {number}", f"no command {number}", field="no", value=number)
        def write(connection: sa.Connection) -> None:
            for one in reports.shadows:
                connection.execute(edge_devices.update().where(
                    edge_devices.c.edge_no == no, edge_devices.c.entity == one.entity, edge_devices.c.shadow < one.version,
                ).values(shadow=one.version))

        if reports.shadows:
            await self.db.write(write)
        filed = commands.update().where(commands.c.no.in_(wanted), commands.c.claimed == _by(no)).values(claimed=_filed(no))
        await self.db.write(lambda c: c.execute(filed) and None)
        what = {"delivered": DELIVERED, "answered": ANSWERED, "refused": REFUSED}
        await self.calls.reported([{
            "no": one.no, "entity": rows[one.no].entity_no, "what": what[one.what],
            **({"result": json_text(one.result, "result", LARGEST_ANSWER)} if one.what == "answered" else {}),
            **({"error": one.error} if one.error else {}),
        } for one in reports.items if one.what != TAKEN])


def _read(body: bytes, deflated: bool) -> tuple[wire.Group, list[tuple[int, int, Batch]]]:
    group = wire.Group.unpacked(body, deflated)
    return group, [(seq, len(data), wire.batch_of(data)) for seq, data in group.messages]


def _subject(no: int) -> str:
    return f"tulou.readings.edge-{no}"


def _by(no: int) -> str:
    return f"edge-{no}"


def _filed(no: int) -> str:
    return f"edge-{no}:filed"


def _unfiled(no: int, now: dt.datetime) -> sa.Select[Any]:
    return sa.select(commands, edge_devices.c.entity).join(edge_devices, edge_devices.c.no == commands.c.entity_no).where(
        edge_devices.c.edge_no == no, commands.c.bearer == BEARER, commands.c.ended_at.is_(None), commands.c.expires_at > now,
        sa.or_(commands.c.state == WAITING, sa.and_(commands.c.state == SENT, commands.c.claimed == _by(no))),
    ).order_by(commands.c.no)


def _untaken(no: int) -> sa.Select[Any]:
    return sa.select(shadows.c.desired, shadows.c.version, edge_devices.c.entity).join(
        edge_devices, edge_devices.c.no == shadows.c.entity_no
    ).where(
        edge_devices.c.edge_no == no, edge_devices.c.entity > 0, shadows.c.version > edge_devices.c.shadow
    ).order_by(shadows.c.entity_no).limit(HANDED)


def _handed(connection: sa.Connection, no: int, now: dt.datetime) -> Sequence[Any]:
    """The next commands of an edge, marked as sent."""
    rows = connection.execute(_unfiled(no, now).limit(HANDED)).all()
    connection.execute(
        commands.update().where(commands.c.no.in_([row.no for row in rows]))
        .values(state=SENT, claimed=_by(no), sent_at=now, attempts=commands.c.attempts + 1)
    )
    return rows


def _other_era(era: str) -> Conflict:
    return Conflict("不是这个时期的消息流", "this is the stream of another era", field="era", value=era, rule=era)


def edge_document(row: Any, count: int) -> dict[str, Any]:
    """A row of `edges` as the API shows it (no hash)."""
    now = utcnow()
    online = row.revoked_at is None and row.contact_at is not None and (now - row.contact_at).total_seconds() <= ONLINE_S
    return {
        "no": row.no, "org": row.org, "name": row.name, "token_prefix": row.token_prefix,
        "state": "revoked" if row.revoked_at else "connected" if online else "away" if row.contact_at else "new",
        "created_at": row.created_at, "created_by": row.created_by, "revoked_at": row.revoked_at, "contact_at": row.contact_at,
        "taken_at": row.taken_at, "lag": row.lag, "lag_s": round(row.lag_s, 3), "missed": row.missed, "left_out": row.left_out,
        "last": row.last, "devices": count,
    }
