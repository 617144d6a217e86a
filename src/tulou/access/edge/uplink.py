"""The uplink: what an edge's stream has goes to the hub, and the hub's commands come back.

Law: the hub knows how far the stream was taken; it is asked after every start and every doubt, and a group is the next one
behind that. One group is under way at a time, in the stream's order, and the writer keeps what the hub does not have
(`writer._done_with`). Whatever fails, it is tried again: nothing is given up, and nothing of the edge waits for it. A command
is filed as one of the edge's own, with the hub's number as its key, before the hub hears that it is; one that has expired by
either clock is not filed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import random
import secrets
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import nats.errors
import numpy as np
import orjson
import sqlalchemy as sa
from nats.aio.msg import Msg

from tulou.access.batch import Batch
from tulou.access.downlink import ENDED, Commands
from tulou.access.edge import wire
from tulou.access.edge.tables import uplink_commands, uplink_position, uplink_shadows
from tulou.access.follower import Follower
from tulou.access.models import NewCommand, commands, devices
from tulou.access.shadow import Shadows, impose
from tulou.access.writer import STREAM
from tulou.context import entities
from tulou.kernel.bus import end
from tulou.kernel.errors import Invalid, Throttled, TulouError
from tulou.kernel.policy import system
from tulou.kernel.sql import utcnow

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.uplink")

DURABLE = "uplink"
GROUP_BYTES = 2 << 20
"""Bytes from which on no message more is put into a group."""
BEAT = 10.0
"""Seconds of silence after which the hub is told that there is nothing."""
POLL_S = 25
"""Seconds that a request for commands may wait."""
STALLED_S = 30.0
"""Seconds without a byte of an answer after which a connection is given up."""
LONGEST_PAUSE = 30.0
KEEP_EVERY = 1.0
"""Seconds between notes of how far the hub is."""
HUB = system("hub")


class Answered(Exception):
    """The hub answered, and said no."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('detail_en') or problem.get('detail') or ''}")
        self.status, self.problem = status, problem


def address_of(url: str) -> str:
    """The hub's address. Raises `Invalid` for one that would show the token to the network."""
    parts = urlsplit(url)
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost"))):
        raise Invalid(f"中心地址应为 https://…，现为 {url}", f"the hub's address is https://.., not {url}", field="edge_hub", value=url,
                      rule="https; http to this machine only")
    return url.rstrip("/")


class Uplink:
    """The task of an edge's role `worker`."""

    def __init__(self, house: House, calls: Commands, shadows: Shadows) -> None:
        self.house, self.calls, self.shadows, self.db = house, calls, shadows, house.db
        self.position = 0
        """The last sequence that the hub has."""
        self.missed = self.unreadable = 0
        """Messages that had left the stream, and that are no batches."""
        self.error = ""
        self.contact = 0.0
        self._follower = Follower(STREAM, DURABLE)
        self._refused: dict[int, str] = {}
        self._unsaid = 0
        self._hubs = 0
        self._kept_at = 0.0
        self._news = asyncio.Event()
        self._era = ""
        self._created: dt.datetime

    def figures(self) -> dict[str, Any]:
        """For the system page."""
        return {
            "hub": self.house.settings.edge_hub, "connected": self._connected, "contact": self.contact, "position": self.position,
            "lag": self._follower.lag, "missed": self.missed, "unreadable": self.unreadable, "refused": len(self._refused), "error": self.error,
        }

    @property
    def _connected(self) -> bool:
        return not self.error and time.time() - self.contact < BEAT + STALLED_S

    async def check(self) -> tuple[bool, str, str]:
        """For `tulou doctor`."""
        lag = self._follower.lag
        if not self._connected:
            return False, f"中心联系不上：{self.error}", f"the hub cannot be reached: {self.error}"
        if self._refused:
            reason = next(iter(self._refused.values()))
            return False, f"中心拒绝了 {len(self._refused)} 个设备：{reason}", f"the hub refused {len(self._refused)} devices: {reason}"
        return True, f"已连中心，待上传 {lag} 条", f"connected to the hub, {lag} messages to go"

    def configured(self) -> ssl.SSLContext:
        """How the hub is verified. Raises `Invalid` for settings with which it cannot be spoken to."""
        settings = self.house.settings
        address_of(settings.edge_hub)
        if not settings.edge_token.startswith("tulou_edge_"):
            raise Invalid("设置了 edge_hub，edge_token 应为 tulou edges create 给出的令牌",
                          "edge_hub is set: edge_token is the token that tulou edges create gave", field="edge_token", rule="tulou_edge_..")
        try:
            return ssl.create_default_context(cafile=settings.edge_ca or None)
        except (OSError, ssl.SSLError) as error:
            raise Invalid(f"edge_ca 不能读取：{error}", f"edge_ca cannot be read: {error}", field="edge_ca", value=settings.edge_ca,
                          rule="PEM") from None

    async def run(self, house: House) -> None:
        """Bring and fetch, for ever; ends at once where there is no hub."""
        settings = house.settings
        if not settings.edge_hub:
            return
        verify = self.configured()
        async with httpx.AsyncClient(
            base_url=address_of(settings.edge_hub) + "/api/v1/edge/", verify=verify, timeout=httpx.Timeout(STALLED_S, connect=10),
            headers={"authorization": f"Bearer {settings.edge_token}"}, limits=httpx.Limits(max_connections=4, keepalive_expiry=60),
        ) as client:
            self._client = client
            heard = await house.bus.nc.subscribe(ENDED, cb=self._ended)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._patiently(self._bring))
                    group.create_task(self._patiently(self._fetch))
                    group.create_task(self._patiently(self._report))
            finally:
                await heard.unsubscribe()
                await self._follower.drop()

    async def _patiently(self, work: Any) -> None:
        """Do `work` again and again, with growing pauses while the hub is away or says no."""
        pause = 0.5
        while True:
            began = self.contact
            try:
                await work()
                pause = 0.5
                continue
            except Answered as no:
                why = str(no)
                if no.status in (401, 403):
                    pause = LONGEST_PAUSE
            except httpx.HTTPError as error:
                why = f"{type(error).__name__}: {error}"
            if self.contact > began:
                pause = 0.5
            if why != self.error:
                log.warning("the hub: %s; again in %.1f s", why, pause)
            self.error = why
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _ask(self, method: str, path: str, *, wait: float = 0.0, **more: Any) -> Any:
        """The hub's answer. Raises `Answered`, `httpx.HTTPError`."""
        timeout = httpx.Timeout(STALLED_S + wait, connect=10)
        answer = await self._client.request(method, path, timeout=timeout, **more)
        try:
            body = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            body = {"detail": answer.text[:200]}
        if answer.status_code != 200 or not isinstance(body, dict):
            raise Answered(answer.status_code, body if isinstance(body, dict) else {})
        if self.error:
            log.warning("the hub answers again")
        self.contact, self.error = time.time(), ""
        return body

    # -- up

    async def _bring(self) -> None:
        """From the hub's position on, as long as nothing fails; the next messages are read while some are under way."""
        await self._follower.drop()
        await self._meet()
        self._refused.clear()
        reading = self._read(self.position)
        try:
            beat = time.monotonic()
            while True:
                messages = await reading
                reading = self._read(_seq(messages[-1]) if messages else self.position)
                gap = _seq(messages[0]) - 1 - self.position if messages else 0
                if gap > 0 and self.position:
                    self.missed, self._unsaid = self.missed + gap, self._unsaid + gap
                    log.error("%d messages had left the stream before the hub had them", gap)
                for part in _parts(messages):
                    await self._send(part)
                if not messages and time.monotonic() - beat > BEAT:
                    self._refused.clear()  # what the hub did not take may be mended there
                    await self._post(wire.Group(self._era, self._hubs, []))
                elif not messages:
                    continue
                beat = time.monotonic()
        finally:
            await end([reading])

    def _read(self, position: int) -> asyncio.Task[list[Msg]]:
        return asyncio.create_task(self._follower.read(self.house.bus, position, GROUP_BYTES, 1.0))

    async def _meet(self) -> None:
        """Ask how far the hub is. A stream that is behind that has been another one since: it begins anew."""
        info = await self.house.bus.js.stream_info(STREAM)
        assert info.created is not None
        self._created = info.created
        row = await self.db.read(lambda c: c.execute(sa.select(uplink_position)).first())
        plain = self._created.strftime("%Y%m%dT%H%M%S%f")
        self._era = row.era if row is not None and row.created == self._created else plain
        last = await self._last()
        if last > info.state.last_seq:
            log.error("the hub has %d messages of a stream that has %d; it gets this one from its beginning", last, info.state.last_seq)
            self._era = f"{plain}-{secrets.token_hex(4)}"
            last = await self._last()
        self.position = self._hubs = last
        await self._keep(last)

    async def _last(self) -> int:
        return int((await self._ask("GET", "position", params={"era": self._era}))["last"])

    async def _keep(self, seq: int) -> None:
        """Note how far the hub is: the writer purges below."""
        row = {"stream": STREAM, "created": self._created, "era": self._era, "seq": seq}

        def write(connection: sa.Connection) -> None:
            if not connection.execute(uplink_position.update().values(**row)).rowcount:
                connection.execute(uplink_position.insert().values(**row))

        await self.db.write(write)
        self._kept_at = time.monotonic()

    def _readable(self, messages: list[Msg]) -> list[tuple[int, bytes]]:
        """Sequences and bytes of what are batches, without the entities that the hub refused."""
        refused = np.array(sorted(self._refused), np.uint64)
        found = []
        for message in messages:
            try:
                data = wire.without(message.data, refused) if len(refused) else message.data
                Batch.decode(data)
            except Invalid:
                self.unreadable += 1  # the writer makes a dead letter of it
                continue
            found.append((_seq(message), data))
        return found

    async def _send(self, part: list[Msg]) -> None:
        """Bring a group, once the hub knows everything that it is about."""
        last, waiting = _seq(part[-1]), self._follower.lag
        behind = max(0.0, (utcnow() - part[0].metadata.timestamp).total_seconds()) if waiting else 0.0
        messages = await asyncio.to_thread(self._readable, part)
        while messages:
            answer = await self._post(wire.Group(self._era, self._hubs, messages, waiting, behind, self._unsaid))
            if "unknown" not in answer:
                self._hubs, self._unsaid = answer["last"], 0
                break
            await self._announce(answer["unknown"])
            messages = await asyncio.to_thread(self._readable, part)
        self.position = last
        if time.monotonic() - self._kept_at > KEEP_EVERY or not waiting:
            await self._keep(last)

    async def _post(self, group: wire.Group) -> Any:
        body, deflated = await asyncio.to_thread(group.packed)
        headers = {"content-type": "application/msgpack", **({"content-encoding": "deflate"} if deflated else {})}
        return await self._ask("POST", "readings", content=body, headers=headers)

    async def _announce(self, numbers: list[int]) -> None:
        """Say what these entities are, and remember which of them the hub does not take."""
        query = sa.select(
            entities.c.no, entities.c.id, entities.c.org, entities.c.type, entities.c.name, entities.c.synthetic, entities.c.lon,
            entities.c.lat, devices.c.id.label("device"), devices.c.name.label("called"),
        ).join(devices, devices.c.entity_no == entities.c.no, isouter=True).where(entities.c.no.in_(numbers))
        rows = await self.db.read(lambda c: c.execute(query).all())
        gone = set(numbers) - {row.no for row in rows}
        self._refused.update(dict.fromkeys(gone, "实体已不存在 (the entity exists no more)"))
        if not rows:
            return
        answer = await self._ask("POST", "entities", json={"era": self._era, "entities": [{
            "entity": row.no, "org": row.org, "type": row.type, "id": row.id, "name": (row.called or row.name or "")[:200],
            "key": row.device.split(":", 1)[1] if row.device else None, "lon": row.lon, "lat": row.lat, "synthetic": bool(row.synthetic),
        } for row in rows]})
        for item in answer["items"]:
            if "error" in item:
                why = f"{item['error'].get('detail_zh', '')} ({item['error'].get('detail_en', '')})"
                log.warning("the hub does not take entity %d: %s", item["entity"], why)
                self._refused[item["entity"]] = why

    # -- down

    @property
    def _link(self) -> str:
        """Which hub's numbers a row is about."""
        return self.house.settings.edge_token[:17]

    async def _fetch(self) -> None:
        """Fetch commands, file them, and what devices are to be, and say so."""
        began = time.time()
        answer = await self._ask("GET", "commands", wait=POLL_S, params={"timeout": POLL_S * 1000})
        for told in answer["commands"]:
            await self._file(told, began)
        if answer["commands"]:
            self._news.set()
        for wanted in answer["shadows"]:
            await self._desire(wanted)
        if answer["shadows"]:
            took = [{"entity": wanted["entity"], "version": wanted["version"]} for wanted in answer["shadows"]]
            await self._ask("POST", "reports", json={"shadows": took})

    async def _file(self, told: dict[str, Any], asked: float) -> None:
        left = min(dt.datetime.fromisoformat(told["expires_at"]).timestamp() - time.time(), told["left_s"])
        if left < 1:
            return  # the hub sees it expire
        row = await self.db.read(lambda c: c.execute(sa.select(devices.c.id).where(devices.c.entity_no == told["entity"])).first())
        number, error = None, ""
        try:
            if row is None:
                raise Invalid("边缘节点没有此设备", "the edge has no such device", field="device")
            made = await self.calls.send(HUB, row.id, NewCommand(
                method=told["method"], params=told["params"], answer=told["answer"], repeat=told["repeat"], expires_s=left,
                key=f"hub-{self._link}-{told['no']}",
            ))
            number = made["no"]
        except Throttled:
            return  # the hub hands it out again
        except TulouError as refused:
            error = refused.both
        values = {"link": self._link, "hub_no": told["no"], "no": number, "error": error, "told": ""}
        known = sa.select(uplink_commands.c.hub_no).where(uplink_commands.c.link == self._link, uplink_commands.c.hub_no == told["no"])

        def write(connection: sa.Connection) -> None:
            if connection.execute(known).first() is None:
                connection.execute(uplink_commands.insert().values(values))

        await self.db.write(write)

    async def _desire(self, wanted: dict[str, Any]) -> None:
        """Take a shadow over: its members are the device's, and what the hub wanted before and wants no more goes. What the edge
        itself wants beside it stays."""
        no, desired = wanted["entity"], wanted["desired"]
        mine = uplink_shadows.c.link == self._link, uplink_shadows.c.entity_no == no
        values = {"version": wanted["version"], "names": orjson.dumps(sorted(desired)).decode()}

        def write(connection: sa.Connection) -> set[str]:
            device = connection.execute(sa.select(devices.c.org, devices.c.id).where(devices.c.entity_no == no)).first()
            before = connection.scalar(sa.select(uplink_shadows.c.names).where(*mine))
            if device is None:
                return set()
            change = {**dict.fromkeys(orjson.loads(before or "[]")), **desired}
            impose(connection, HUB, device.org, device.id, {no: change})
            if not connection.execute(uplink_shadows.update().where(*mine).values(values)).rowcount:
                connection.execute(uplink_shadows.insert().values(link=self._link, entity_no=no, **values))
            return set(change)

        names = await self.db.write(write)
        with contextlib.suppress(nats.errors.Error, OSError):  # the device is told the delta when it is back
            await self.shadows.announce([no], names)

    async def _ended(self, _message: Msg) -> None:
        self._news.set()

    async def _report(self) -> None:
        """Tell the hub what became of its commands."""
        query = sa.select(
            uplink_commands, commands.c.state, commands.c.answer, commands.c.result, commands.c.error.label("why"),
        ).join(commands, commands.c.no == uplink_commands.c.no, isouter=True).where(
            uplink_commands.c.link == self._link, uplink_commands.c.told != "ended"
        ).order_by(uplink_commands.c.hub_no).limit(200)
        self._news.clear()
        rows = await self.db.read(lambda c: c.execute(query).all())
        reports, told = [], {}
        for row in rows:
            what = _said(row)
            if what is not None and what[0] != row.told:
                told[row.hub_no], report = what
                reports.append({"no": row.hub_no, **report})
        if reports:
            try:
                await self._ask("POST", "reports", json={"items": reports})
            except Answered as no:
                if no.status != 404:
                    raise
                told = {no.problem["value"]: "ended"}  # the hub knows it no more

            def write(connection: sa.Connection) -> None:
                for number, state in told.items():
                    connection.execute(uplink_commands.update().where(
                        uplink_commands.c.link == self._link, uplink_commands.c.hub_no == number
                    ).values(told=state))

            await self.db.write(write)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._news.wait()


def _seq(message: Msg) -> int:
    return int(message.metadata.sequence.stream)


def _parts(messages: list[Msg]) -> Iterator[list[Msg]]:
    """Groups of messages, none of more than `GROUP_BYTES` but those of one."""
    part: list[Msg] = []
    size = 0
    for message in messages:
        if part and size + len(message.data) > GROUP_BYTES:
            yield part
            part, size = [], 0
        part.append(message)
        size += len(message.data)
    if part:
        yield part


def _said(row: Any) -> tuple[str, dict[str, Any]] | None:
    """What the hub is to know of a command, as it is remembered and as it is said."""
    if row.no is None or row.error:
        return "ended", {"what": "refused", "error": row.error}
    if row.state in ("failed", "cancelled"):
        return "ended", {"what": "refused", "error": row.why or "在边缘节点被取消 (cancelled at the edge)"}
    if row.state == "done":
        return "ended", {"what": "answered", "result": orjson.loads(row.result or "null")} if row.answer else {"what": "delivered"}
    if row.state == "expired":
        return "ended", {"what": "taken"}
    if row.state == "delivered":
        return "delivered", {"what": "delivered"}
    return "taken", {"what": "taken"}
