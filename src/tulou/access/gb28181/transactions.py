"""Requests of the house to devices: client transactions of SIP (RFC 3261, 17.1).

Law: a request goes where the device registered from, and only an answer from there counts. Over UDP it is repeated, as the timers
say; over a stream it is not. A refused INVITE is acknowledged here, one that was accepted by who asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tulou.access.gb28181.sip import Message

if TYPE_CHECKING:
    from tulou.access.gb28181.registration import Way

T1, T2, TIMEOUT = 0.5, 4.0, 32.0
"""Seconds: timers A and E begin with T1; E grows to T2; B and F."""
RINGING = 60.0
"""Seconds for a final answer to INVITE after a provisional one."""


class Lost(Exception):
    """A request was not answered."""


@dataclass(slots=True)
class _Transaction:
    answer: asyncio.Future[Message]
    host: str
    provisional: bool = False


class Transactions:
    """What waits for its final answer; `write` writes bytes to a device."""

    def __init__(self, write: Callable[[Way, bytes], None]) -> None:
        self._write = write
        self._waiting: dict[str, _Transaction] = {}
        self.unanswered = 0

    async def ask(self, way: Way, message: Message) -> Message:
        """Send a request and return its final answer. Raises `Lost`."""
        if not way.port or (way.link is not None and way.link.transport is None):
            raise Lost("the device's connection is closed")
        loop = asyncio.get_running_loop()
        waiting = self._waiting[message.branch] = _Transaction(loop.create_future(), way.host)
        data, inviting, rings = message.encode(), message.method == "INVITE", False
        pause, until = T1, loop.time() + TIMEOUT
        try:
            self._write(way, data)
            while True:
                quiet = way.link is not None or rings
                await asyncio.wait([waiting.answer], timeout=max(0.0, min(until - loop.time(), 1.0 if quiet else pause)))
                if waiting.answer.done():
                    break
                if inviting and waiting.provisional and not rings:
                    rings, until = True, loop.time() + RINGING
                elif loop.time() >= until:
                    self.unanswered += 1
                    if rings:
                        self._write(way, of_invite("CANCEL", message).encode())
                    raise Lost("the device does not answer")
                elif not quiet:
                    self._write(way, data)
                    pause = pause * 2 if inviting else min(pause * 2, T2)
            answer = waiting.answer.result()
            if inviting and answer.status >= 300:
                self._write(way, of_invite("ACK", message, answer.get("to")).encode())
            return answer
        finally:
            waiting.answer.cancel()
            self._waiting.pop(message.branch, None)

    async def attempt(self, way: Way, message: Message) -> None:
        """Send a request whose answer does not matter."""
        with contextlib.suppress(Lost):
            await self.ask(way, message)

    def answered(self, message: Message, host: str) -> bool:
        """A response came; whether a transaction waits for it."""
        waiting = self._waiting.get(message.branch)
        if waiting is None or waiting.host != host:
            return False
        if message.status < 200:
            waiting.provisional = True
        elif not waiting.answer.done():
            waiting.answer.set_result(message)
        return True


def of_invite(method: str, invite: Message, to: str = "") -> Message:
    """CANCEL, or the ACK of a refusal: of the transaction of an INVITE (9.1, 17.1.1.3)."""
    return Message(method, invite.uri, headers=[
        ("via", invite.get("via")), ("from", invite.get("from")), ("to", to or invite.get("to")), ("call-id", invite.get("call-id")),
        ("cseq", f"{invite.cseq[0]} {method}"), ("max-forwards", "70"),
    ])
