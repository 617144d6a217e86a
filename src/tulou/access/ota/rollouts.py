"""Roll-outs of firmware: prepared and steered by people, carried on by the worker as `engine.py` decides.

Law: every step is one transaction that locks the roll-out and looks at its state again, so nobody is told anything after
an abort, by whichever process. A device's state and its shadow change together; that it was told so is marked after the
message is sent, and sent again until it is marked. What the worker knows is in SQL: one that was killed goes on where it
stopped.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import nats.errors
import orjson
import sqlalchemy as sa

from tulou.access.groups.tables import device_groups, members
from tulou.access.models import ACTIVE, devices, shadows
from tulou.access.ota import engine
from tulou.access.ota.engine import (
    ABORTED,
    DONE,
    DRAFT,
    FAILED,
    PAUSED,
    RUNNING,
    TOLD,
    UPDATED,
    WAITING,
    WITHDRAWN,
    Count,
    Enter,
    Finish,
    Report,
    Stage,
    Stop,
    Tell,
)
from tulou.access.ota.firmware import Firmwares, attributes, no_such_firmware
from tulou.access.ota.tables import NewRollout, firmware, rollout_devices, rollouts
from tulou.access.presence import SECOND
from tulou.access.shadow import Shadows, impose
from tulou.context import ContextService, current_observations
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound
from tulou.kernel.http import page
from tulou.kernel.policy import Actor, Orgs, operation, system
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.ota")

READ, CREATE, WRITE = "access.rollout.read", "access.rollout.create", "access.rollout.write"
WORKER = system("access.rollouts")
NAMES = ("fw_title", "fw_version", "fw_size", "fw_checksum", "fw_checksum_algorithm")
REPORTED = ("current_fw_title", "current_fw_version", "fw_state", "fw_error")
PERIOD = 1.0
"""Seconds between two looks of the worker."""
BATCH = 500
"""Devices that are told, or taken back, in one transaction."""
LOOKS = 5_000
"""Devices that were told whose reports are read in one look; the next look goes on behind them."""
MOST = 500_000
"""Devices of a roll-out."""
PRESENCE_LATE = 60
"""Seconds by which the last sign of life in SQL may be late."""
OFFLINE_AFTER = 600

_of = rollout_devices.c


def no_such_rollout(no: object) -> NotFound:
    """The one error for a roll-out that is not there or must not be known."""
    return NotFound(f"没有发布 {no}", f"no roll-out {no}", field="no", value=no)


class Rollouts:
    """The operations on roll-outs, and the worker that carries them on."""

    def __init__(self, house: House, firmwares: Firmwares, shadows: Shadows) -> None:
        self.house, self.firmwares, self.shadows = house, firmwares, shadows
        self.policy, self.db = house.policy, house.db
        self._looked: dict[int, int] = {}

    # -- operations

    @operation(CREATE)
    async def create(self, actor: Actor, new: NewRollout) -> dict[str, Any]:
        """Prepare a roll-out; nothing happens until it starts. Raises `NotFound` for a firmware that there is not."""
        package = await self.firmwares.mine(actor, CREATE, new.firmware)
        if new.group is not None:
            group = sa.select(device_groups.c.no).where(device_groups.c.no == new.group, device_groups.c.org == package.org)
            if await self.db.read(lambda c: c.scalar(group)) is None:
                raise Invalid(f"{package.org} 中没有分组 {new.group}", f"{package.org} has no group {new.group}", field="group",
                              value=new.group, rule=f"a group of {package.org}")
        values = {
            "org": package.org, "name": new.name, "firmware_no": package.no,
            "selection": orjson.dumps({"devices": new.devices, "q": new.q, "group": new.group}).decode(),
            "stages": orjson.dumps([stage.model_dump() for stage in new.stages]).decode(), "device_s": new.device_s,
            "state": DRAFT, "stage": 0, "reason": "", "settled": True, "created_at": utcnow(), "created_by": actor.id,
        }

        def write(connection: sa.Connection) -> int:
            if connection.scalar(sa.select(firmware.c.no).where(firmware.c.no == package.no)) is None:
                raise no_such_firmware(package.no)
            no: int = connection.execute(rollouts.insert().values(values).returning(rollouts.c.no)).scalar_one()
            audit.record(connection, actor, CREATE, package.org, f"rollout {no}", {
                "firmware": package.no, "name": new.name,
            })
            return no

        return await self._document(await self._row(await self.db.write(write)))

    @operation(READ)
    async def find(
        self, actor: Actor, *, org: str | None = None, state: str | None = None, limit: int = 50, after: str | None = None
    ) -> dict[str, Any]:
        """Roll-outs, newest first. Keyset-paged."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        query = _rows()
        query = query.where(*within(rollouts.c.org, orgs))
        if state:
            query = query.where(rollouts.c.state == state)
        shown, more = await page(self.db, query, rollouts.c.no, limit, after, newest=True)
        counts = sa.select(_of.rollout_no, _of.state, sa.func.count()).where(
            _of.rollout_no.in_([row.no for row in shown])
        ).group_by(_of.rollout_no, _of.state)
        by_no: dict[int, dict[str, int]] = {row.no: {} for row in shown}
        for no, name, count in await self.db.read(lambda c: c.execute(counts).all()):
            by_no[no][name] = count
        return {
            "items": [{**_summary(row), "counts": by_no[row.no]} for row in shown], "next": more,
        }

    @operation(READ)
    async def get(self, actor: Actor, no: int) -> dict[str, Any]:
        """One roll-out with the counts of each stage. Raises `NotFound`."""
        return await self._document(await self._mine(actor, READ, no))

    @operation(READ)
    async def devices(
        self, actor: Actor, no: int, *, state: str | None = None, stage: int | None = None, limit: int = 50,
        after: str | None = None,
    ) -> dict[str, Any]:
        """The devices of a roll-out, in the order of their entities. Keyset-paged."""
        await self._mine(actor, READ, no)
        query = sa.select(rollout_devices).where(_of.rollout_no == no)
        if state:
            query = query.where(_of.state == state)
        if stage is not None:
            query = query.where(_of.stage == stage - 1)
        rows, more = await page(self.db, query, _of.entity_no, limit, after)
        return {
            "items": [{
                "device": row.device_id, "entity_no": row.entity_no, "stage": row.stage + 1, "state": row.state,
                "attempts": row.attempts, "told_at": row.told_at, "ended_at": row.ended_at, "error": row.error or None,
            } for row in rows],
            "next": more,
        }

    @operation(WRITE)
    async def start(self, actor: Actor, no: int) -> dict[str, Any]:
        """Freeze the selection and begin. Raises `Invalid` where it has no device, or names one that there is not;
        `Conflict` where a device is in another roll-out that has not ended."""
        row = await self._mine(actor, WRITE, no)
        selection = orjson.loads(row.selection)
        stages = _stages(row)
        query = sa.select(devices.c.entity_no, devices.c.id).where(
            devices.c.org == row.org, devices.c.type == row.type, devices.c.status == ACTIVE
        )
        if selection["q"]:
            like = "%" + selection["q"].replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"
            query = query.where(sa.or_(devices.c.id.ilike(like, escape="\\"), devices.c.name.ilike(like, escape="\\")))
        if selection.get("group") is not None:
            of = Orgs(False, frozenset({row.org}))
            query = query.where(devices.c.entity_no.in_(members(selection["group"], of)))
        if selection["devices"] is not None:
            query = query.where(devices.c.id.in_(selection["devices"]))

        def write(connection: sa.Connection) -> None:
            _expect(_locked(connection, no), DRAFT)
            if connection.scalar(sa.select(firmware.c.no).where(firmware.c.no == row.firmware_no)) is None:
                raise no_such_firmware(row.firmware_no)
            found = {device.id: device.entity_no for device in connection.execute(query.limit(MOST + 1))}
            missing = [one for one in selection["devices"] or () if one not in found]
            if missing:
                raise Invalid(f"{row.org} 中没有可用的 {row.type} 设备 {missing[0]}",
                              f"{missing[0]} is no active device of type {row.type} in {row.org}", field="devices",
                              value=missing[0], rule=f"an active {row.type} of {row.org}")
            if not 0 < len(found) <= MOST:
                raise Invalid(f"选中的设备应为 1 至 {MOST} 台", f"a roll-out has 1 to {MOST} devices", field="devices",
                              value=len(found), rule=f"1..{MOST}")
            _free(connection, found.values(), no)
            of = engine.staged(found, str(no), stages)
            connection.execute(rollout_devices.insert(), [{
                "rollout_no": no, "entity_no": entity, "device_id": device, "stage": of[device], "state": WAITING,
                "desired": False, "announced": True, "online": False, "previous": "{}", "mark": "", "attempts": 0,
                "error": "",
            } for device, entity in found.items()])
            self._turn(connection, actor, row, RUNNING, started_at=utcnow(), settled=False)

        await self._claim(write)
        return await self._changed(no)

    @operation(WRITE)
    async def pause(self, actor: Actor, no: int) -> dict[str, Any]:
        """Tell no more devices; those that were told go on. Raises `Conflict` if it does not run."""
        return await self._steer(actor, no, PAUSED, RUNNING)

    @operation(WRITE)
    async def resume(self, actor: Actor, no: int) -> dict[str, Any]:
        """Go on. Raises `Conflict` if it is not paused."""
        return await self._steer(actor, no, RUNNING, PAUSED)

    @operation(WRITE)
    async def abort(self, actor: Actor, no: int) -> dict[str, Any]:
        """End it: nobody is told any more, and devices that are not updated are to be what they were to be before.
        Raises `Conflict` if it has ended."""
        return await self._steer(actor, no, ABORTED, DRAFT, RUNNING, PAUSED)

    @operation(WRITE)
    async def retry(self, actor: Actor, no: int) -> dict[str, Any]:
        """Tell the failed devices again; one that is done runs again. Raises `Conflict` if it was aborted, or where a
        device is in another roll-out that has not ended."""
        row = await self._mine(actor, WRITE, no)

        def write(connection: sa.Connection) -> None:
            now = _locked(connection, no)
            _expect(now, RUNNING, PAUSED, DONE)
            if connection.scalar(sa.select(firmware.c.no).where(firmware.c.no == row.firmware_no)) is None:
                raise no_such_firmware(row.firmware_no)
            which = sa.and_(_of.rollout_no == no, _of.state == FAILED)
            _free(connection, connection.scalars(sa.select(_of.entity_no).where(which)).all(), no)
            count = connection.execute(
                rollout_devices.update().where(which).values(state=WAITING, ended_at=None, error="")
            ).rowcount
            if not count:
                raise Conflict("没有失败的设备", "no device failed", field="no", value=no, rule="failed devices")
            self._turn(connection, actor, row, now.state if now.state != DONE else RUNNING, retried=count, ended_at=None,
                       settled=False)

        await self._claim(write)
        return await self._changed(no)

    # -- of operations

    async def _claim(self, write: Callable[[sa.Connection], None]) -> None:
        """A write that puts devices into a roll-out. Raises `Conflict` where another process was first."""
        try:
            await self.db.write(write)
        except sa.exc.IntegrityError:
            raise _busy("", "?") from None

    async def _mine(self, actor: Actor, action: str, no: int) -> Any:
        return self.policy.require_seen(actor, READ, action, await self._row(no), no_such_rollout(no))

    async def _row(self, no: int) -> Any:
        query = _rows().where(rollouts.c.no == no)
        return await self.db.read(lambda c: c.execute(query).first())

    async def _steer(self, actor: Actor, no: int, state: str, *before: str) -> dict[str, Any]:
        row = await self._mine(actor, WRITE, no)

        def write(connection: sa.Connection) -> None:
            _expect(_locked(connection, no), *before)
            self._turn(connection, actor, row, state)

        await self.db.write(write)
        return await self._changed(no)

    def _turn(
        self, connection: sa.Connection, actor: Actor, row: Any, state: str, *, reason: str = "", retried: int = 0,
        **values: Any,
    ) -> None:
        """The roll-out, which is locked, goes to a state."""
        if state in (ABORTED, DONE):
            values |= {"ended_at": utcnow(), "settled": state == DONE}
        if state == ABORTED:
            connection.execute(
                rollout_devices.update().where(_of.rollout_no == row.no, _of.state.in_((WAITING, TOLD)))
                .values(state=WITHDRAWN, ended_at=utcnow())
            )
        connection.execute(rollouts.update().where(rollouts.c.no == row.no).values(state=state, reason=reason, **values))
        audit.record(connection, actor, WRITE, row.org, f"rollout {row.no}", {
            "state": state, **({"reason": reason} if reason else {}), **({"retried": retried} if retried else {}),
        })

    async def _changed(self, no: int) -> dict[str, Any]:
        """The roll-out, of whose state others are told."""
        row = await self._row(no)
        if hasattr(self.house, "bus"):
            try:
                await self.house.bus.event("rollout.changed", {"no": no, "org": row.org, "state": row.state})
            except (nats.errors.Error, TimeoutError, OSError) as error:
                log.warning("roll-out %d is %s, but the bus is away: %r", no, row.state, error)
        return await self._document(row)

    async def _document(self, row: Any) -> dict[str, Any]:
        stages = _stages(row)
        counts = await self.db.read(lambda c: self._counts(c, row, len(stages)))
        withdrawn = sa.select(_of.stage, sa.func.count().label("devices")).where(
            _of.rollout_no == row.no, _of.state == WITHDRAWN
        ).group_by(_of.stage)
        gone = {row.stage: row.devices for row in await self.db.read(lambda c: c.execute(withdrawn).all())}
        return {**_summary(row), "selection": orjson.loads(row.selection), "device_s": row.device_s, "stages": [
            {**stage.model_dump(), "waiting": count.waiting, "told": count.told, "updated": count.updated,
             "failed": count.failed, "withdrawn": gone.get(number, 0), "silent": count.silent}
            for number, (stage, count) in enumerate(zip(stages, counts, strict=True))
        ]}

    def _counts(self, connection: sa.Connection, row: Any, stages: int) -> list[Count]:
        """The devices of each stage."""
        found: list[dict[str, Any]] = [{} for _ in range(stages)]
        query = sa.select(_of.stage, _of.state, sa.func.count().label("count"), sa.func.max(_of.told_at).label("told_at")).where(
            _of.rollout_no == row.no, _of.state != WITHDRAWN
        ).group_by(_of.stage, _of.state)
        for stage, state, count, told_at in connection.execute(query):
            found[stage][state] = count
            if told_at is not None:
                found[stage]["told_at"] = max(told_at.timestamp(), found[stage].get("told_at", 0.0))
        silent = sa.select(_of.stage, sa.func.count()).where(
            _of.rollout_no == row.no, _of.state.in_((TOLD, UPDATED)), _of.online, devices.c.entity_no == _of.entity_no,
            devices.c.seen_at < self._heard_since(row.type),
        ).group_by(_of.stage)
        for stage, count in connection.execute(silent):
            found[stage]["silent"] = count
        return [Count(**counts) for counts in found]

    def _heard_since(self, kind: str) -> int:
        """Devices of this type that were heard after this time, in µs, are online."""
        model = self.house.packs.models.get(kind)
        after = (model.offline_after_s if model else OFFLINE_AFTER) + PRESENCE_LATE
        return int(utcnow().timestamp() - after) * SECOND

    # -- the worker

    async def run(self, _house: House) -> None:
        """Carry on what is not settled, for ever (role `worker`)."""
        open_ = _rows().where(sa.not_(rollouts.c.settled)).order_by(rollouts.c.no)
        while True:
            for row in await self.db.read(lambda c: c.execute(open_).all()):
                try:
                    await self.carry_on(row)
                except Exception:
                    log.exception("roll-out %d cannot be carried on", row.no)
            try:
                await self._announce()
            except (nats.errors.Error, TimeoutError, OSError) as error:
                log.warning("devices cannot be told now: %r", error)
            await asyncio.sleep(PERIOD)

    async def carry_on(self, row: Any) -> None:
        """One look at a roll-out: what devices report, then the next step."""
        if row.state == ABORTED:
            await self._take_back(row)
            return
        await self._judge(row)
        stages = _stages(row)
        counts = await self.db.read(lambda c: self._counts(c, row, len(stages)))
        action = engine.decide(stages, row.device_s, row.state, row.stage, counts, utcnow().timestamp())
        if isinstance(action, Tell):
            await self._tell(row)
        elif action is not None:
            await self._step(row, action)

    async def _judge(self, row: Any) -> None:
        """Look at what some of the devices that were told report."""
        after = self._looked.get(row.no, 0)
        query = sa.select(rollout_devices).where(
            _of.rollout_no == row.no, _of.state == TOLD, _of.entity_no > after
        ).order_by(_of.entity_no).limit(LOOKS)
        told = await self.db.read(lambda c: c.execute(query).all())
        self._looked[row.no] = told[-1].entity_no if len(told) == LOOKS else 0
        for start in range(0, len(told), BATCH):
            some = told[start : start + BATCH]
            reports = await self._reports([device.entity_no for device in some])
            now = utcnow()
            ended = []
            for device in some:
                verdict = engine.judge(
                    row.title, row.version, reports.get(device.entity_no, Report()), device.mark,
                    (now - device.told_at).total_seconds(), row.device_s,
                )
                if verdict is not None:
                    ended.append((device, *verdict))
            if ended:
                await self.db.write(lambda c, ended=ended, now=now: _end(c, ended, now))  # type: ignore[misc]

    async def _reports(self, numbers: Collection[int]) -> dict[int, Report]:
        found = await current_observations(self.house.service(ContextService), numbers, REPORTED)
        none = ("", "")
        return {
            no: Report(
                title=str(values.get("current_fw_title", none)[0]), version=str(values.get("current_fw_version", none)[0]),
                state=str(values.get("fw_state", none)[0]), mark=values.get("fw_state", none)[1],
                error=str(values.get("fw_error", none)[0])[:500],
            )
            for no, values in found.items()
        }

    async def _tell(self, row: Any) -> None:
        """Let some devices that wait have the firmware: their shadows say so."""
        query = sa.select(_of.entity_no).where(
            _of.rollout_no == row.no, _of.state == WAITING, _of.stage <= row.stage
        ).order_by(_of.stage, _of.entity_no).limit(BATCH)
        numbers = await self.db.read(lambda c: c.execute(query).scalars().all())
        reports = await self._reports(numbers)
        since = self._heard_since(row.type)

        def write(connection: sa.Connection) -> None:
            now = _locked(connection, row.no)
            if (now.state, now.stage) != (RUNNING, row.stage):
                return
            package = connection.execute(sa.select(firmware).where(firmware.c.no == row.firmware_no)).one()
            waiting = connection.execute(
                sa.select(_of.entity_no, _of.previous, _of.desired, devices.c.seen_at).where(
                    _of.rollout_no == row.no, _of.entity_no.in_(numbers), _of.state == WAITING,
                    devices.c.entity_no == _of.entity_no,
                )
            ).all()
            before = impose(connection, WORKER, row.org, f"rollout {row.no}",
                            {device.entity_no: attributes(package) for device in waiting})
            each = [{
                "no": device.entity_no, "online": device.seen_at is not None and device.seen_at >= since,
                "previous": device.previous if device.desired else orjson.dumps(before[device.entity_no]).decode(),
                "mark": reports.get(device.entity_no, Report()).mark,
            } for device in waiting]
            if each:
                connection.execute(
                    rollout_devices.update().where(_of.rollout_no == row.no, _of.entity_no == sa.bindparam("no")).values(
                        state=TOLD, desired=True, announced=False, told_at=utcnow(), attempts=_of.attempts + 1,
                        **{name: sa.bindparam(name) for name in ("online", "previous", "mark")},
                    ), each,
                )

        await self.db.write(write)
        await self._announce()

    async def _step(self, row: Any, action: Enter | Stop | Finish) -> None:
        def write(connection: sa.Connection) -> bool:
            now = _locked(connection, row.no)
            if (now.state, now.stage) != (row.state, row.stage):
                return False
            if isinstance(action, Enter):
                connection.execute(rollouts.update().where(rollouts.c.no == row.no).values(stage=action.stage))
                audit.record(connection, WORKER, WRITE, row.org, f"rollout {row.no}", {"stage": action.stage + 1})
            elif isinstance(action, Stop):
                self._turn(connection, WORKER, row, action.state, reason=f"{action.zh} ({action.en})")
            else:
                self._turn(connection, WORKER, row, DONE)
            return True

        if await self.db.write(write):
            await self._changed(row.no)

    async def _take_back(self, row: Any) -> None:
        """After an abort: devices that are not updated are to be what they were to be before, where nobody has said
        otherwise since."""
        while True:
            query = sa.select(_of.entity_no, _of.previous).where(
                _of.rollout_no == row.no, _of.desired, _of.state != UPDATED
            ).limit(BATCH)

            def write(connection: sa.Connection, query: Any = query) -> int:
                some = connection.execute(query).all()
                if not some:
                    connection.execute(rollouts.update().where(rollouts.c.no == row.no).values(settled=True))
                    return 0
                numbers = [device.entity_no for device in some]
                current = _desired(connection, numbers)
                impose(connection, WORKER, row.org, f"rollout {row.no}", {
                    device.entity_no: orjson.loads(device.previous) for device in some
                    if (current.get(device.entity_no, {}).get("fw_title"),
                        current.get(device.entity_no, {}).get("fw_version")) == (row.title, row.version)
                })
                connection.execute(rollout_devices.update().where(
                    _of.rollout_no == row.no, _of.entity_no.in_(numbers)
                ).values(desired=False, announced=False))
                return len(some)

            if not await self.db.write(write):
                return
            await self._announce()

    async def _announce(self) -> None:
        """Tell devices that their shadows changed, and mark that they were told."""
        query = sa.select(_of.rollout_no, _of.entity_no, _of.attempts, _of.desired).where(
            sa.not_(_of.announced)
        ).order_by(_of.entity_no).limit(BATCH)
        while rows := await self.db.read(lambda c: c.execute(query).all()):
            await self.shadows.announce([row.entity_no for row in rows], NAMES)
            await self.db.write(lambda c, rows=rows: _announced(c, rows))  # type: ignore[misc]


def _rows() -> sa.Select[Any]:
    return sa.select(rollouts, firmware.c.type, firmware.c.title, firmware.c.version).select_from(
        rollouts.outerjoin(firmware, firmware.c.no == rollouts.c.firmware_no)
    )


def _summary(row: Any) -> dict[str, Any]:
    return {
        "no": row.no, "org": row.org, "name": row.name, "state": row.state, "stage": row.stage + 1,
        "reason": row.reason or None, "firmware": row.firmware_no, "type": row.type, "title": row.title,
        "version": row.version, "created_at": row.created_at, "created_by": row.created_by,
        "started_at": row.started_at, "ended_at": row.ended_at,
    }


def _stages(row: Any) -> list[Stage]:
    return [Stage(**stage) for stage in orjson.loads(row.stages)]


def _locked(connection: sa.Connection, no: int) -> Any:
    return connection.execute(sa.select(rollouts).where(rollouts.c.no == no).with_for_update()).one()


def _expect(row: Any, *states: str) -> None:
    if row.state not in states:
        raise Conflict(f"发布 {row.no} 的状态是 {row.state}", f"the roll-out {row.no} is {row.state}", field="state",
                       value=row.state, rule=" | ".join(states))


def _free(connection: sa.Connection, entities: Collection[int], no: int) -> None:
    """Raises `Conflict` where one of these is in another roll-out that has not ended, or is not taken back yet."""
    wanted = set(entities)
    open_ = sa.select(_of.entity_no, _of.device_id, _of.rollout_no).where(
        sa.not_(rollouts.c.settled), _of.rollout_no == rollouts.c.no, _of.rollout_no != no,
        sa.or_(_of.state.in_((WAITING, TOLD)), sa.and_(_of.desired, _of.state != UPDATED)),
    )
    for row in connection.execute(open_):
        if row.entity_no in wanted:
            raise _busy(row.device_id, row.rollout_no)


def _busy(device: str, no: object) -> Conflict:
    return Conflict(f"设备 {device} 在尚未结束的发布 {no} 中", f"the device {device} is in the roll-out {no}, which has not ended",
                    field="devices", value=device, rule="one roll-out at a time")


def _desired(connection: sa.Connection, numbers: Collection[int]) -> dict[int, dict[str, Any]]:
    query = sa.select(shadows.c.entity_no, shadows.c.desired).where(shadows.c.entity_no.in_(numbers))
    return {no: orjson.loads(text) for no, text in connection.execute(query)}


def _end(connection: sa.Connection, ended: Sequence[tuple[Any, str, str]], now: dt.datetime) -> None:
    connection.execute(rollout_devices.update().where(
        _of.rollout_no == sa.bindparam("rollout"), _of.entity_no == sa.bindparam("no"), _of.state == TOLD,
        _of.attempts == sa.bindparam("told"),
    ).values(state=sa.bindparam("now"), error=sa.bindparam("why"), ended_at=now), [
        {"rollout": device.rollout_no, "no": device.entity_no, "told": device.attempts, "now": state, "why": error}
        for device, state, error in ended
    ])


def _announced(connection: sa.Connection, rows: Sequence[Any]) -> None:
    """One that was told something else meanwhile is told again."""
    connection.execute(rollout_devices.update().where(
        _of.rollout_no == sa.bindparam("rollout"), _of.entity_no == sa.bindparam("no"),
        _of.attempts == sa.bindparam("told"), _of.desired == sa.bindparam("wanted"),
    ).values(announced=True), [
        {"rollout": row.rollout_no, "no": row.entity_no, "told": row.attempts, "wanted": row.desired} for row in rows
    ])
