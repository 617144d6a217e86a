"""Commands of the house to devices of GB/T 28181, their answers, and subscriptions.

Law: a command is done when the device says so: by 200 where the standard has no more (A.2.3), else by its Response with the same
SN, which may come in several messages. Who may not be asked twice is the house's to say (`downlink.py`); here what was not answered is
`returned`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import nats.errors
import orjson

from tulou.access.courier import RETURNED, Call
from tulou.access.gb28181 import manscdp
from tulou.access.gb28181.calls import Refused, dialog, target_of
from tulou.access.gb28181.registration import Registration, Subscription
from tulou.access.gb28181.sip import Message
from tulou.access.gb28181.transactions import Lost
from tulou.access.protocols import ANSWERED, DELIVERED, REFUSED
from tulou.access.protocols.gb28181 import CALLS, METHODS, Subscribe, channel, request
from tulou.kernel.errors import Invalid, TulouError

if TYPE_CHECKING:
    from tulou.access.gb28181.door import SipDoor

log = logging.getLogger("tulou.gb28181")

FLYING = 4
"""Commands under way to one device."""
MULTIPLE = 10.0
"""Seconds within which the next part of an answer in several messages comes."""
RESULT, ITEMS = 48 << 10, 10_000
"""Bytes of a command's result; entries of an answer that are counted."""
AGAIN = 120.0
"""Seconds after which a subscription that failed is tried again."""


@dataclass(slots=True)
class Collector:
    """The answer to a query, which may come in several messages (SumNum)."""

    done: asyncio.Future[dict[str, Any]]
    moved: float = 0.0
    total: int = 0
    received: int = 0
    size: int = 0
    items: list[Any] = field(default_factory=list)

    def take(self, root: manscdp.Element) -> None:
        command = root.get("CmdType")
        if self.done.done():
            return
        if command not in ("Catalog", "RecordInfo"):
            plain = root.plain()
            self.done.set_result(plain if isinstance(plain, dict) else {})
            return
        total = root.get("SumNum")
        self.total = int(total) if total.isdecimal() and total.isascii() and len(total) < 8 else 0
        for item in root.all("DeviceList" if command == "Catalog" else "RecordList", "Item"):
            self.received += 1
            shown = channel(item) if command == "Catalog" else item.plain()
            self.size += len(orjson.dumps(shown)) + 1
            if self.size <= RESULT:
                self.items.append(shown)
        self.moved = time.monotonic()
        if self.received >= min(self.total, ITEMS):
            self.done.set_result(self.result())

    def result(self) -> dict[str, Any]:
        return {"total": self.total, "received": self.received, "complete": self.received >= self.total, "items": self.items}


class SipTarget:
    """A registered device that takes commands."""

    def __init__(self, door: SipDoor, registration: Registration) -> None:
        self.door, self.registration = door, registration
        self.entity, self.bearer = registration.speaker.device.entity, door.name
        self.flying = 0

    def room(self) -> int:
        return FLYING - self.flying if self.registration.awake and not self.registration.gone else 0

    def deliver(self, call: Call) -> None:
        from pydantic import ValidationError

        try:
            params = METHODS[call.method].params.model_validate(orjson.loads(call.params))
        except (KeyError, ValidationError) as error:
            raise Invalid(f"{self.bearer} 不支持此命令：{error}", f"{self.bearer} has no such command: {error}") from None
        self.flying += 1
        self.door.gateway.spawn(self._carry_out(call, params))

    async def _carry_out(self, call: Call, params: Any) -> None:
        courier = self.door.gateway.courier
        try:
            result = await self.door.commands.carry_out(self.registration, call, params)
        except Lost:  # it may have come, or not
            courier.report(call.no, call.entity, RETURNED, attempt=call.attempt)
        except TulouError as error:
            courier.report(call.no, call.entity, REFUSED, error=error.both)
        except Exception:
            log.exception("defect in a command")
            courier.report(call.no, call.entity, REFUSED, error="网关内部错误 (a defect of the gateway)")
        else:
            if result is not None:
                courier.report(call.no, call.entity, ANSWERED, result=orjson.dumps(result).decode())
        finally:
            self.flying -= 1
            courier.want(self)


class SipCommands:
    """What a door asks its devices."""

    def __init__(self, door: SipDoor) -> None:
        self.door = door
        self._collectors: dict[tuple[str, str, str], Collector] = {}

    def heed(self, identity: str, root: manscdp.Element) -> None:
        """A Response of a device: to a query, if its SN is one of ours."""
        collector = self._collectors.get((identity, root.get("CmdType"), root.get("SN")))
        if collector is not None:
            collector.take(root)

    async def carry_out(self, registration: Registration, call: Call, params: Any) -> Any:
        """Do what a command says; its result, or None if it expired meanwhile. Raises `Lost`, `TulouError`."""
        if call.method == "stop":
            return self.door.calls.stop(registration, params.session)
        if call.method in CALLS:
            return await self.door.calls.play(registration, params)
        if call.method == "subscribe":
            return await self._subscribe(registration, params)
        number = self.door.serial()
        body, wanted = request(call.method, params, number, registration.identity)
        key = registration.identity, wanted, str(number)
        collector = Collector(asyncio.get_running_loop().create_future())
        if wanted:
            self._collectors[key] = collector
        try:
            answer = await self.door.requests.ask(registration.way, self.door.request_to(registration, "MESSAGE", registration.identity, body=body))
            if answer.status >= 300:
                raise Refused(f"设备回答 {answer.status}", f"the device answered {answer.status}", rule="2xx")
            if not wanted:
                return {"status": answer.status}
            self.door.gateway.courier.report(call.no, call.entity, DELIVERED)
            if not call.answer:
                return None
            return await self._collected(collector, call.expires / 1000)
        finally:
            self._collectors.pop(key, None)

    async def _collected(self, collector: Collector, until: float) -> Any:
        while not collector.done.done():
            left = until - time.time()
            if left <= 0:
                return None
            await asyncio.wait([collector.done], timeout=min(left, 1.0))
            if collector.received and time.monotonic() - collector.moved > MULTIPLE and not collector.done.done():
                return collector.result()
        found = collector.done.result()
        if str(found.get("Result", "")).upper() == "ERROR":
            why = f"ERROR {found.get('Reason', '')}".strip()
            raise Refused(f"设备回答 {why}", f"the device answered {why}", rule="OK")
        return {name: value for name, value in found.items() if name not in ("SN", "CmdType")}

    async def _subscribe(self, registration: Registration, params: Subscribe) -> dict[str, Any]:
        before = registration.subscriptions.get(params.event)
        wanted = Subscription(params.event, params.seconds, params.interval, params.channel)
        if before is not None and before.channel == params.channel:
            wanted.dialog, wanted.cseq, wanted.target = before.dialog, before.cseq, before.target
        answer = await self._ask_for(registration, wanted)
        if answer.status >= 300:
            raise Refused(f"设备回答 {answer.status}", f"the device answered {answer.status}", field="event", value=params.event, rule="2xx")
        if params.seconds:
            registration.subscriptions[params.event] = wanted
        else:
            registration.subscriptions.pop(params.event, None)
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
            await self.door.keep(registration.identity, registration.record(), registration.expires - time.time())
        return {"event": params.event, "seconds": params.seconds, "status": answer.status}

    async def _ask_for(self, registration: Registration, wanted: Subscription) -> Message:
        """SUBSCRIBE, within its dialog if there is one. Raises `Lost`."""
        body, _ = request("subscribe", wanted, self.door.serial(), registration.identity)
        event = f"Catalog;id={self.door.serial()}" if wanted.event == "Catalog" else "presence"
        more = [("event", event), ("expires", str(wanted.seconds)), ("contact", self.door.contact(registration.way)),
                ("accept", "application/MANSCDP+xml"), ("content-type", "Application/MANSCDP+xml")]
        wanted.cseq += 1
        if wanted.dialog:
            made = self.door.within("SUBSCRIBE", wanted.target, wanted.dialog, wanted.cseq, registration.way, body=body, more=more)
        else:
            made = self.door.request_to(registration, "SUBSCRIBE", wanted.channel or registration.identity, body=body, more=more)
            wanted.cseq = 1
        answer = await self.door.requests.ask(registration.way, made)
        if answer.status < 300:
            wanted.dialog, wanted.target = dialog(made, answer), target_of(answer, made)
            wanted.until = time.time() + wanted.seconds
        else:
            wanted.dialog = []
        return answer

    async def renew(self, registration: Registration, wanted: Subscription) -> None:
        try:
            await self._ask_for(registration, wanted)
        except Lost:
            wanted.dialog = []
        finally:
            wanted.busy = False
            if not wanted.dialog:
                wanted.until = time.time() + AGAIN
