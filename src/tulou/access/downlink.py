"""Commands to devices: made by people and programs, claimed by the door at which the device is, ended by its answer.

Law: every change of a command is in SQL before anyone acts upon it. A door claims a command, which marks it sent and
commits, before it writes it to the device; so after a crash the house knows what may have arrived. Such a command is
sent again under the same number, or fails where it may not be repeated. A command that has expired is neither claimed nor
written. The event of its end is on the stream EVENTS, also after a crash.

    waiting -> sent -> delivered -> done | failed        and from any of the first three: expired | cancelled
       ^________|  (unknown whether it came, and repeatable)

A command that wants no answer is done when the device has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import secrets
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import nats.errors
import orjson
import sqlalchemy as sa
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from tulou.access.authenticate import DeviceIdentity
from tulou.access.courier import CLAIM, HANDED_ON, JSON, RETURNED, RING, answer_of
from tulou.access.edge import BEARER as EDGE
from tulou.access.edge.tables import edge_devices, edges
from tulou.access.longpolls import LongPolls
from tulou.access.models import NewCommand, commands, device_identities, device_opcua
from tulou.access.protocols import ANSWERED, DELIVERED, REFUSED
from tulou.access.service import Devices
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound, Throttled
from tulou.kernel.http import checked, json_text, page
from tulou.kernel.packs import Command, Property, check_values
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.downlink")

READ, WRITE = "access.command.read", "access.command.write"
STREAM, DURABLE = "COMMANDS", "commands"
WAITING, SENT, DONE, FAILED, EXPIRED, CANCELLED = "waiting", "sent", "done", "failed", "expired", "cancelled"
LARGEST = 64 << 10
"""Bytes of a command's parameters."""
WAITING_MOST = 100
"""Commands that one device may have open."""
EXPIRES_S = 60.0
LOOK = 1.0
"""Seconds after which who waits for an end looks for himself."""
REPLY = 1 << 20
"""Bytes of parameters in one answer to a gateway."""
ENDED = "tulou.live.command"
"""Core NATS subject: a command that ended, as the API shows it."""
UNKNOWN_ARRIVAL = "不知是否送达，且不可重发 (unknown whether it arrived, and it may not be repeated)"

_is_open = commands.c.ended_at.is_(None)


def no_such_command(number: object) -> NotFound:
    """The one error for a command that is not there or must not be known."""
    return NotFound(f"没有命令 {number}", f"no command {number}", field="no", value=number)


def document(row: Any) -> dict[str, Any]:
    """A row of `commands` as the API shows it."""
    return {
        "no": row.no, "device": row.device_id, "org": row.org, "entity_no": row.entity_no, "method": row.method,
        "params": orjson.Fragment(row.params), "bearer": row.bearer, "answer": row.answer, "repeat": row.repeat,
        "key": row.key, "state": row.state, "attempts": row.attempts, "created_at": row.created_at,
        "created_by": row.created_by, "expires_at": row.expires_at, "sent_at": row.sent_at,
        "delivered_at": row.delivered_at, "ended_at": row.ended_at,
        "result": None if row.result is None else orjson.Fragment(row.result), "error": row.error or None,
    }


class Commands:
    """The operations on commands, and the answers to the doors that carry them."""

    def __init__(self, house: House, devices: Devices) -> None:
        self.house, self.devices = house, devices
        self.policy, self.db = house.policy, house.db
        self._ends: dict[int, set[asyncio.Future[None]]] = {}
        self._polls = LongPolls()
        self._runs: dict[str, str] = {}
        self._unannounced = asyncio.Event()
        self._me = f"http:{secrets.token_hex(6)}"

    # -- operations

    @operation(WRITE)
    async def send(self, actor: Actor, device_id: str, new: NewCommand, wait: float = 0) -> dict[str, Any]:
        """Make a command and ring at the doors; it comes back at once, or when it ended, after `wait` seconds at most.

        Raises `Invalid` for a method or parameters that the device does not know, `Conflict` for a key that stands for
        another command, `Throttled` where too many wait for the device.
        """
        device = await self.devices.mine(actor, WRITE, device_id)
        bearer = await self._bearer(device, new)
        spec = self._checked(device.type, bearer, new)
        text = json_text(new.params, "params", LARGEST)
        now = utcnow()
        expires = new.expires_s if new.expires_s is not None else spec.expires_s if spec else EXPIRES_S
        values = {
            "entity_no": device.entity_no, "device_id": device.id, "org": device.org, "method": new.method,
            "params": text, "bearer": bearer, "answer": _either(new.answer, spec.answer if spec else True),
            "repeat": _either(new.repeat, spec.repeat if spec else True), "key": new.key, "state": WAITING,
            "claimed": "", "attempts": 0, "created_at": now, "created_by": actor.id,
            "expires_at": now + dt.timedelta(seconds=expires), "error": "", "announced": False,
        }
        mine = commands.c.entity_no == device.entity_no

        def write(connection: sa.Connection) -> tuple[Any, bool]:
            if new.key is not None:
                before = connection.execute(sa.select(commands).where(mine, commands.c.key == new.key)).first()
                if before is not None:
                    return before, False
            waiting = connection.scalar(sa.select(sa.func.count()).select_from(commands).where(mine, _is_open)) or 0
            if waiting >= WAITING_MOST:
                raise Throttled(
                    f"设备已有 {waiting} 条命令在等待", f"{waiting} commands wait for the device already", retry_after=expires,
                    field="device", value=device.id, rule=f"<= {WAITING_MOST}",
                )
            row = connection.execute(commands.insert().values(values).returning(commands)).one()
            audit.record(connection, actor, WRITE, device.org, device.id, {
                "command": row.no, "method": new.method, "expires_s": expires,
            })
            return row, True

        row, made = await self.db.write(write)
        if not made and (row.method, row.params, row.bearer) != (new.method, text, bearer):
            raise Conflict(f"key {new.key} 已用于另一条命令", f"the key {new.key} stands for another command", field="key",
                           value=new.key, rule="one command per key")
        with self._ending(row.no) as ended:
            if made:
                await self._ring([row.entity_no])
            return await self._when_ended(row, ended, wait)

    @operation(READ)
    async def find(
        self, actor: Actor, *, device: str | None = None, state: str | None = None, org: str | None = None,
        limit: int = 50, after: str | None = None,
    ) -> dict[str, Any]:
        """Commands, newest first; `state` is one of theirs, or `open`. Keyset-paged."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        query = sa.select(commands)
        query = query.where(*within(commands.c.org, orgs))
        if device is not None:
            query = query.where(commands.c.entity_no == (await self.devices.mine(actor, READ, device)).entity_no)
        if state is not None:
            query = query.where(_is_open if state == "open" else commands.c.state == state)
        rows, more = await page(self.db, query, commands.c.no, limit, after, newest=True)
        return {"items": [document(row) for row in rows], "next": more}

    @operation(READ)
    async def get(self, actor: Actor, no: int, wait: float = 0) -> dict[str, Any]:
        """One command, now or when it ended, after `wait` seconds at most. Raises `NotFound`."""
        with self._ending(no) as ended:
            return await self._when_ended(await self._mine(actor, READ, no), ended, wait)

    @operation(WRITE)
    async def cancel(self, actor: Actor, no: int) -> dict[str, Any]:
        """End a command. One that was sent may be carried out all the same. Raises `Conflict` if it has ended."""
        row = await self._mine(actor, WRITE, no)
        now = utcnow()

        def write(connection: sa.Connection) -> Any:
            changed = connection.execute(
                commands.update().where(commands.c.no == no, _is_open)
                .values(state=CANCELLED, ended_at=now).returning(commands)
            ).first()
            if changed is not None:
                audit.record(connection, actor, WRITE, row.org, row.device_id, {"command": no, "change": CANCELLED})
            return changed

        changed = await self.db.write(write)
        if changed is None:
            raise Conflict(f"命令 {no} 已结束", f"the command {no} has ended", field="no", value=no, rule="open")
        await self._told([changed])
        return document(changed)

    @operation(READ)
    async def methods(self, actor: Actor, device_id: str) -> dict[str, Any]:
        """What the device can be told, by bearer: a JSON Schema of the parameters, and a label, of each method. `null`
        stands for any method."""
        device = await self.devices.mine(actor, READ, device_id)
        model = self.house.packs.models.get(device.type)
        found: dict[str, Any] = {JSON: {
            name: {"label": one.label.model_dump(), "schema": _schema(one), "answer": one.answer}
            for name, one in model.commands.items()
        } if model and model.commands else None}
        if await self._at_edge(device.entity_no):
            return {EDGE: None}
        for protocol in await self._protocols(device.entity_no):
            found[protocol] = {
                name: {"label": method.label, "schema": method.schema, "answer": True}
                for name, method in self.devices.codecs[protocol].methods.items()
            }
        return found

    # -- of operations

    async def _mine(self, actor: Actor, action: str, no: int) -> Any:
        query = sa.select(commands).where(commands.c.no == no)
        row = await self.db.read(lambda c: c.execute(query).first())
        return self.policy.require_seen(actor, READ, action, row, no_such_command(no))

    async def _protocols(self, entity: int) -> list[str]:
        """The field protocols in which the device has an identity, of those that take commands."""
        query = sa.select(device_identities.c.protocol).where(device_identities.c.entity_no == entity).distinct()
        dialled = sa.select(sa.literal("opcua")).where(sa.exists().where(device_opcua.c.entity_no == entity))
        spoken = await self.db.read(lambda c: c.execute(query.union(dialled).order_by("protocol")).scalars().all())
        codecs = self.devices.codecs
        return [name for name in spoken if name in codecs and codecs[name].methods]

    async def _at_edge(self, entity: int) -> bool:
        """Whether an edge takes the device's commands."""
        query = sa.select(edges.c.no).join(edge_devices, edge_devices.c.edge_no == edges.c.no).where(
            edge_devices.c.no == entity, edges.c.revoked_at.is_(None)
        )
        return await self.db.read(lambda c: c.execute(query).first()) is not None

    async def _bearer(self, device: Any, new: NewCommand) -> str:
        if new.bearer in (None, EDGE) and await self._at_edge(device.entity_no):
            return EDGE
        spoken = await self._protocols(device.entity_no)
        if new.bearer is None:
            return spoken[0] if spoken else JSON
        if new.bearer != JSON and new.bearer not in spoken:
            raise Invalid(
                f"设备没有可下行的协议 {new.bearer}", f"the device takes no commands in {new.bearer}", field="bearer",
                value=new.bearer, rule=" | ".join([JSON, *spoken]),
            )
        return new.bearer

    def _checked(self, kind: str, bearer: str, new: NewCommand) -> Command | None:
        """What the model says of the method, if it says something. Raises `Invalid`. What a device of an edge can be told the
        edge knows."""
        if bearer == EDGE:
            return None
        if bearer != JSON:
            methods = self.devices.codecs[bearer].methods
            method = methods.get(new.method)
            if method is None:
                raise _no_method(new.method, methods)
            checked(method.params, new.params, "params")
            return None
        model = self.house.packs.models.get(kind)
        if model is None or not model.commands:
            return None
        spec = model.commands.get(new.method)
        if spec is None:
            raise _no_method(new.method, model.commands)
        check_values(spec.params, new.params, [name for name in spec.params if name not in spec.optional], "params")
        return spec

    @contextlib.contextmanager
    def _ending(self, no: int) -> Any:
        future = asyncio.get_running_loop().create_future()
        self._ends.setdefault(no, set()).add(future)
        try:
            yield future
        finally:
            waiting = self._ends[no]
            waiting.discard(future)
            if not waiting:
                del self._ends[no]

    async def _when_ended(self, row: Any, ended: asyncio.Future[None], wait: float) -> dict[str, Any]:
        query = sa.select(commands).where(commands.c.no == row.no)
        until = asyncio.get_running_loop().time() + wait
        while row.ended_at is None and (left := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait([ended], timeout=min(left, LOOK))  # what the bus says may be lost
            row = await self.db.read(lambda c: c.execute(query).one())
        return document(row)

    async def _ring(self, entities: Iterable[int]) -> None:
        with contextlib.suppress(nats.errors.Error, OSError):  # doors ask again when the bus is back
            await self.house.bus.nc.publish(RING, " ".join(map(str, entities)).encode())

    async def _told(self, ended: Sequence[Any]) -> None:
        """Say that commands ended: to those who wait, then on the stream of events."""
        if not ended:
            return
        with contextlib.suppress(nats.errors.Error, OSError):
            for row in ended:
                await self.house.bus.nc.publish(ENDED, orjson.dumps(document(row), option=orjson.OPT_UTC_Z))
        self._unannounced.set()

    # -- for doors

    async def open(self) -> None:
        """Answer gateways (several processes share the questions), and hear what ended and what is new."""
        await self.house.bus.answer(CLAIM, "commands", self._claim)
        nc = self.house.bus.nc
        await nc.subscribe(ENDED, cb=self._ended)
        await nc.subscribe(RING, cb=self._rung)

    async def _ended(self, message: Msg) -> None:
        for future in self._ends.get(orjson.loads(message.data)["no"], ()):
            if not future.done():
                future.set_result(None)

    async def _rung(self, message: Msg) -> None:
        for number in message.data.split():
            self._polls.tell(int(number))

    async def _claim(self, question: bytes) -> bytes:
        asked = orjson.loads(question)
        name, run = asked["name"], asked["run"]
        by = f"{name}:{run}"
        if self._runs.get(name) != run:
            await self._release(f"{name}:", by)
            self._runs[name] = run
        room = {(entity, bearer): limit for entity, bearer, limit in asked["asks"]}
        rows, more = await self.claim(by, room)
        return orjson.dumps({
            "calls": [{
                "no": row.no, "entity": row.entity_no, "bearer": row.bearer, "method": row.method,
                "params": row.params, "answer": row.answer, "expires": int(row.expires_at.timestamp() * 1000),
                "attempt": row.attempts,
            } for row in rows],
            "more": more,
        })

    async def claim(
        self, by: str, room: dict[tuple[int, str], int], delivered: bool = False
    ) -> tuple[list[Any], list[tuple[int, str]]]:
        """Mark waiting commands of these (entity, bearer) sent, so many of each; and which of them have more.

        `delivered`: they are with the device when it has the answer to its request.
        """
        now = utcnow()
        wanted = (
            sa.select(commands.c.no, commands.c.entity_no, commands.c.bearer, sa.func.length(commands.c.params))
            .where(commands.c.entity_no.in_({entity for entity, _ in room}), _is_open, commands.c.state == WAITING,
                   commands.c.expires_at > now)
            .order_by(commands.c.no)
        )
        if not await self.db.read(lambda c: c.execute(wanted.limit(1)).first()):
            return [], []

        def write(connection: sa.Connection) -> tuple[list[Any], list[tuple[int, str]]]:
            left, size = dict(room), 0
            chosen: list[int] = []
            more: dict[tuple[int, str], None] = {}
            for no, entity, bearer, length in connection.execute(wanted):
                key = (entity, bearer)
                if not left.get(key):
                    continue
                if size > REPLY:
                    more[key] = None
                    continue
                left[key] -= 1
                size += length
                chosen.append(no)
            if not chosen:
                return [], []
            changes: dict[str, Any] = {
                "state": SENT, "claimed": by, "sent_at": now, "attempts": commands.c.attempts + 1,
            }
            if delivered:
                changes |= {
                    "state": sa.case((commands.c.answer, DELIVERED), else_=DONE), "delivered_at": now,
                    "ended_at": sa.case((commands.c.answer, sa.null()), else_=now),
                }
            rows = connection.execute(
                commands.update().where(commands.c.no.in_(chosen), commands.c.state == WAITING)
                .values(changes).returning(commands)
            ).all()
            return sorted(rows, key=lambda row: row.no), list(more)

        return await self.db.write(write)

    async def _release(self, prefix: str, but: str) -> None:
        """A gateway began anew: what its earlier runs claimed and did not report may not have arrived."""
        which = (
            commands.c.claimed.startswith(prefix, autoescape=True) & (commands.c.claimed != but)
            & (commands.c.state == SENT) & _is_open
        )
        await self._told(await self.db.write(lambda c: _returned(c, which, utcnow())))

    async def poll(self, device: DeviceIdentity, timeout: float) -> Any:
        """The next command of a device that asks by HTTP, waiting up to `timeout` seconds; None if there is none."""
        until = asyncio.get_running_loop().time() + timeout
        with self._polls.waiting(device.entity, timeout) as news:
            while True:
                rows, _ = await self.claim(self._me, {(device.entity, JSON): 1}, delivered=True)
                if rows:
                    await self._told([row for row in rows if row.ended_at is not None])
                    return rows[0]
                try:
                    async with asyncio.timeout_at(until):  # around this alone: what is claimed must be answered
                        await news.get()
                except TimeoutError:
                    return None

    async def answered(self, device: DeviceIdentity, no: int, payload: bytes) -> None:
        """The device's answer by HTTP. Raises `NotFound` if it was not told this."""
        report = {"no": no, "entity": device.entity, "what": ANSWERED, **answer_of(payload)}

        def write(connection: sa.Connection) -> tuple[bool, list[Any]]:
            known = connection.scalar(sa.select(commands.c.no).where(
                commands.c.no == no, commands.c.entity_no == device.entity, commands.c.sent_at.is_not(None)
            ))
            return known is not None, _apply(connection, [report], utcnow())[0]

        known, ended = await self.db.write(write)
        if not known:
            raise no_such_command(no)
        await self._told(ended)

    async def reported(self, reports: Sequence[dict[str, Any]]) -> None:
        """Apply what became of commands, as a gateway says it; durable when it returns, and may be repeated."""
        ended, again = await self.db.write(lambda c: _apply(c, reports, utcnow()))
        await self._told(ended)
        if again:
            await self._ring(again)

    # -- tasks

    async def keep(self, _house: House) -> None:
        """Apply reports of gateways, end what expires, announce what ended; for ever (role `worker`)."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reports())
            group.create_task(self._expire())
            group.create_task(self._announce())

    async def _reports(self) -> None:
        subscription = await self.house.bus.js.pull_subscribe(
            "", durable=DURABLE, stream=STREAM,
            config=ConsumerConfig(durable_name=DURABLE, ack_policy=AckPolicy.EXPLICIT, ack_wait=30),
        )
        while True:
            try:
                messages = await subscription.fetch(100, timeout=5)
            except (nats.errors.TimeoutError, TimeoutError):
                continue
            except (nats.errors.Error, OSError):
                await asyncio.sleep(0.5)
                continue
            reports = [report for message in messages for report in orjson.loads(message.data)]
            await self.reported(reports)
            for message in messages:
                await message.ack()

    async def _expire(self) -> None:
        while True:
            now = utcnow()
            due = commands.c.expires_at <= now

            def write(connection: sa.Connection, now: dt.datetime = now, due: Any = due) -> Sequence[Any]:
                return connection.execute(
                    commands.update().where(due, _is_open).values(state=EXPIRED, ended_at=now).returning(commands)
                ).all()

            first = sa.select(commands.c.no).where(due, _is_open).limit(1)
            if await self.db.read(lambda c, first=first: c.execute(first).first()):  # type: ignore[misc]
                await self._told(await self.db.write(write))
            await asyncio.sleep(0.5)

    async def _announce(self) -> None:
        """Events of what ended, `tulou.events.command.<state>`; a repeat has the same message id."""
        query = (
            sa.select(commands).where(commands.c.ended_at.is_not(None), sa.not_(commands.c.announced))
            .order_by(commands.c.no).limit(500)
        )
        while True:
            rows = await self.db.read(lambda c: c.execute(query).all())
            if rows:
                await asyncio.gather(*(
                    self.house.bus.js.publish(
                        f"tulou.events.command.{row.state}", orjson.dumps(document(row), option=orjson.OPT_UTC_Z),
                        headers={"Nats-Msg-Id": f"command-{row.no}-{row.state}"},
                    ) for row in rows
                ))
                numbers = [row.no for row in rows]
                await self.db.write(lambda c, numbers=numbers: c.execute(  # type: ignore[misc]
                    commands.update().where(commands.c.no.in_(numbers)).values(announced=True)
                ))
                continue
            self._unannounced.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self._unannounced.wait()


def _apply(connection: sa.Connection, reports: Iterable[dict[str, Any]], now: dt.datetime) -> tuple[list[Any], list[int]]:
    """Reports in their order: what they ended, and the entities of what waits again. A repeat changes nothing."""
    ended: list[Any] = []
    again: list[int] = []
    for report in reports:
        this = (commands.c.no == report["no"]) & (commands.c.entity_no == report["entity"])
        what, error = report["what"], report.get("error", "")
        if what == RETURNED:
            mine = this & (commands.c.state == SENT) & (commands.c.claimed == report["by"])
            ended += _returned(connection, mine & (commands.c.attempts == report["attempt"]) & _is_open, now)
            again.append(report["entity"])
            continue
        if what == HANDED_ON:  # nobody returns it any more
            connection.execute(commands.update().where(
                this & (commands.c.state == SENT) & (commands.c.claimed == report["by"]) & _is_open
            ).values(claimed=""))
            continue
        if what == DELIVERED:
            changes = {"state": sa.case((commands.c.answer, DELIVERED), else_=DONE), "delivered_at": now,
                       "ended_at": sa.case((commands.c.answer, sa.null()), else_=now)}
            of = commands.c.state == SENT
        else:
            failed = what == REFUSED or error
            changes = {"state": FAILED if failed else DONE, "ended_at": now, "error": error,
                       "result": report.get("result")}
            if what == ANSWERED:
                changes["delivered_at"] = sa.func.coalesce(commands.c.delivered_at, now)
            of = commands.c.sent_at.is_not(None)
        row = connection.execute(
            commands.update().where(this, of, _is_open).values(changes).returning(commands)
        ).first()
        if row is not None and row.ended_at is not None:
            ended.append(row)
        elif row is None and what == ANSWERED and report.get("result") is not None:  # it came too late
            connection.execute(commands.update().where(
                this, commands.c.state == EXPIRED, commands.c.sent_at.is_not(None), commands.c.result.is_(None)
            ).values(result=report["result"]))
    return ended, again


def _returned(connection: sa.Connection, which: Any, now: dt.datetime) -> list[Any]:
    """It is unknown whether these arrived: they wait again, or failed; the latter come back."""
    failed = connection.execute(
        commands.update().where(which, sa.not_(commands.c.repeat))
        .values(state=FAILED, ended_at=now, error=UNKNOWN_ARRIVAL).returning(commands)
    ).all()
    connection.execute(commands.update().where(which, commands.c.repeat).values(state=WAITING, claimed=""))
    return list(failed)


def _either(chosen: bool | None, otherwise: bool) -> bool:
    return otherwise if chosen is None else chosen


def _no_method(method: str, known: Iterable[str]) -> Invalid:
    names = sorted(known)
    return Invalid(f"设备没有方法 {method}，可用 {'、'.join(names)}", f"the device has no method {method}, but {', '.join(names)}",
                   field="method", value=method, rule=" | ".join(names))


_KINDS = {"number": "number", "boolean": "boolean", "string": "string"}



def _schema(spec: Command) -> dict[str, Any]:
    def of(prop: Property) -> dict[str, Any]:
        schema: dict[str, Any] = {"title": prop.label.zh, "title_en": prop.label.en}
        if prop.kind in _KINDS:
            schema["type"] = _KINDS[prop.kind]
        for name, bound in (("minimum", prop.min), ("maximum", prop.max), ("unit", prop.symbol or None)):
            if bound is not None:
                schema[name] = bound
        return schema

    return {
        "type": "object", "properties": {name: of(prop) for name, prop in spec.params.items()},
        "required": [name for name in spec.params if name not in spec.optional], "additionalProperties": False,
    }
