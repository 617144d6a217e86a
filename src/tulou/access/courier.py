"""Commands on their way to devices, in a gateway: claimed from the house, handed to connections, reported back.

Law: the house decides (`downlink.py`), a gateway carries. It writes to a device only what it has claimed, and never
after the command's expiry. What a device acknowledged or answered is reported on the stream COMMANDS, synced, before
the device's message is acknowledged. What was written to a connection that ends is reported `returned`.

No device costs anything until it says that it takes commands: MQTT devices by their subscription, those of field
protocols by being known.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import nats.errors
import orjson
from nats.aio.msg import Msg

from tulou.access.gathering import Gathering
from tulou.access.protocols import ANSWERED, DELIVERED, REFUSED
from tulou.kernel.errors import TulouError

if TYPE_CHECKING:
    from tulou.kernel.bus import Bus

log = logging.getLogger("tulou.gateway")

CLAIM, RING, REPORT = "tulou.command.claim", "tulou.command.ring", "tulou.commands.report"
"""Subjects: a gateway asks for commands; the house says that there are some; what became of them (stream COMMANDS)."""
JSON = "json"
"""The bearer of commands as JSON, by MQTT or HTTP; the others are field protocols."""
RETURNED, HANDED_ON = "returned", "handed_on"
"""What a report says beside `DELIVERED`, `ANSWERED` and `REFUSED`: it is unknown whether the command came; another server has it now,
which says what becomes of it."""
LARGEST_ANSWER = 64 << 10
BATCH = 200
"""Reports in one message."""


@dataclass(slots=True)
class Call:
    """A claimed command. `params` are JSON as text; `expires` in ms since the epoch; `attempt` counts from one."""

    no: int
    entity: int
    bearer: str
    method: str
    params: str
    answer: bool
    expires: int
    attempt: int

    @property
    def late(self) -> bool:
        return time.time_ns() // 1_000_000 >= self.expires


class Target(Protocol):
    """Where a device takes commands: a connection of it that is open."""

    entity: int
    bearer: str

    def room(self) -> int:
        """How many commands more it takes now."""
        ...

    def deliver(self, call: Call) -> None:
        """Write the command to the device. Raises `TulouError` where it cannot be said in the bearer's protocol."""
        ...


class Courier:
    """The commands of one gateway, whose devices speak these `bearers` beside JSON. `released(receipts)` is called when the
    reports that came with them are durable."""

    def __init__(self, bus: Bus, name: str, bearers: Iterable[str], released: Callable[[list[Any]], None]) -> None:
        self.bus, self.name = bus, name
        self.bearers = (JSON, *bearers)
        self.run = secrets.token_hex(6)
        self.sent = self.handed_on = self.delivered = self.answered = self.returned = self.failed = 0
        self._released = released
        self._targets: dict[tuple[int, str], list[Target]] = {}
        self._full: dict[tuple[int, str], None] = {}
        self._reports: deque[tuple[dict[str, Any], Any]] = deque()
        self.claims: Gathering[tuple[int, str]] = Gathering(self._ask)
        """The devices, by bearer, that there may be commands for; its `run` is to be a task."""
        self._told = asyncio.Event()
        self._publishing = asyncio.Lock()

    async def open(self) -> None:
        """Listen for what the house has."""
        await self.bus.nc.subscribe(RING, cb=self._rung)

    # Called by connections

    def ready(self, target: Target) -> None:
        """The device takes commands here from now on."""
        self._targets.setdefault((target.entity, target.bearer), []).append(target)
        self.want(target)

    def gone(self, target: Target, undelivered: Iterable[Call]) -> None:
        """The device takes no more here; what it was told and did not acknowledge may not have come."""
        key = (target.entity, target.bearer)
        same = self._targets.get(key)
        if same is not None and target in same:
            same.remove(target)
            if not same:
                del self._targets[key]
        for call in undelivered:
            self.report(call.no, call.entity, RETURNED, attempt=call.attempt)

    def want(self, target: Target) -> None:
        """The device takes more now: ask whether there is any."""
        self.claims.add([(target.entity, target.bearer)])

    def report(self, no: int, entity: int, what: str, *, receipt: Any = None, **more: Any) -> None:
        """Say what became of a command. `more`: the `result` of an answer, the `error` of a refusal, the `attempt` that
        returned."""
        counter = {DELIVERED: "delivered", ANSWERED: "answered", RETURNED: "returned", REFUSED: "failed",
                   HANDED_ON: "handed_on"}[what]
        setattr(self, counter, getattr(self, counter) + 1)
        report = {"no": no, "entity": entity, "what": what, "at": time.time_ns() // 1000, "by": self.by, **more}
        self._reports.append((report, receipt))
        self._told.set()

    @property
    def by(self) -> str:
        """Who claims: this run of this gateway."""
        return f"{self.name}:{self.run}"

    def again(self) -> None:
        """What the house said may have been lost: ask for every device."""
        self.claims.add(self._targets)

    def tick(self) -> None:
        """Once a second: ask for devices that took no more, whose commands may have expired meanwhile."""
        if self._full:
            self.claims.add(self._full)
            self._full.clear()

    def stats(self) -> dict[str, int]:
        return {"devices": len(self._targets), "sent": self.sent, "handed_on": self.handed_on, "delivered": self.delivered,
                "answered": self.answered, "returned": self.returned, "failed": self.failed}

    async def _rung(self, message: Msg) -> None:
        for number in message.data.split():
            here = [key for bearer in self.bearers if (key := (int(number), bearer)) in self._targets]
            if here:
                self.claims.add(here)

    # Claims

    async def _ask(self, keys: list[tuple[int, str]]) -> None:
        asks: list[tuple[int, str, int]] = []
        for key in keys:
            targets = self._targets.get(key)
            if targets and (room := sum(target.room() for target in targets)):
                asks.append((*key, room))
            elif targets:
                self._full[key] = None
        if not asks:
            return
        body = orjson.dumps({"name": self.name, "run": self.run, "asks": asks})
        reply = orjson.loads((await self.bus.nc.request(CLAIM, body, timeout=10)).data)
        if reply["more"]:
            self.claims.add(map(tuple, reply["more"]))
        for fields in reply["calls"]:
            self._hand(Call(**fields))

    def _hand(self, call: Call) -> None:
        if call.late:
            return
        target = max(self._targets.get((call.entity, call.bearer), ()), key=lambda one: one.room(), default=None)
        if target is None or not target.room():
            self.report(call.no, call.entity, RETURNED, attempt=call.attempt)
            return
        self.sent += 1
        try:
            target.deliver(call)
        except TulouError as error:
            self.report(call.no, call.entity, REFUSED, error=error.both)
        except Exception:
            log.exception("a command cannot be said in %s", call.bearer)
            self.report(call.no, call.entity, REFUSED, error="网关内部错误 (a defect of the gateway)")

    # Reports

    async def tell(self) -> None:
        """Publish reports, for ever."""
        while True:
            await self._told.wait()
            if not await self._publish():
                await asyncio.sleep(0.2)

    async def _publish(self) -> bool:
        async with self._publishing:
            return await self._publish_some()

    async def _publish_some(self) -> bool:
        some = [self._reports[index] for index in range(min(BATCH, len(self._reports)))]
        if not some:
            self._told.clear()
            return True
        first = some[0][0]
        try:
            await self.bus.js.publish(
                REPORT, orjson.dumps([report for report, _ in some]), timeout=5,
                headers={"Nats-Msg-Id": f"{self.by}-{first['no']}-{first['at']}-{first['what']}-{len(some)}"},
            )
        except (nats.errors.Error, TimeoutError, OSError) as error:
            log.warning("reports of commands cannot be published: %r", error)
            return False
        for _ in some:
            self._reports.popleft()
        receipts = [receipt for _, receipt in some if receipt is not None]
        if receipts:
            self._released(receipts)
        return True

    async def drain(self, timeout: float = 3.0) -> None:
        """Publish what is still to be reported."""
        deadline = time.monotonic() + timeout
        while self._reports and time.monotonic() < deadline:
            if not await self._publish():
                await asyncio.sleep(0.1)


def answer_of(payload: bytes) -> dict[str, Any]:
    """The `result` in a device's answer, as the text of JSON: the payload, or a string where it is no JSON."""
    if len(payload) > LARGEST_ANSWER:
        return {"error": f"应答超过 {LARGEST_ANSWER} 字节 (the answer has more than {LARGEST_ANSWER} bytes)"}
    try:
        orjson.loads(payload or b"null")
    except orjson.JSONDecodeError:
        return {"result": orjson.dumps(payload.decode("utf-8", "replace")).decode()}
    return {"result": (payload or b"null").decode()}
