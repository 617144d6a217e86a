"""The far end of a device's TCP connection, for the doors of the gateway.

Law: reading stops while any reason to stop holds, so that what one peer has handed in and not yet seen released is
bounded; answers wait for the end of a durable batch and are written together.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from tulou.access.quotas.meters import Meter

AUTH, WRITE, PRESSURE, UNRELEASED, QUOTA = 1, 2, 4, 8, 16
"""Reasons not to read: who it is is being asked, it does not read its answers, the door holds too much, it alone does, its
organisation sends more than it may."""
HELD = 1 << 20
"""Bytes that one connection may have handed in and not yet seen released before it is no longer read."""


class Clock(Protocol):
    """What counts seconds."""

    tick: int


class Peer(asyncio.Protocol):
    """A connection: its transport, why it is not read, what it holds, its answers under way."""

    __slots__ = ("answers", "clock", "held", "peer", "reasons", "seen", "transport")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.transport: asyncio.Transport | None = None
        self.answers: list[bytes] | None = None
        self.reasons = 0
        self.held = 0
        self.seen = clock.tick
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""

    def pause_writing(self) -> None:
        self.pause(WRITE)

    def resume_writing(self) -> None:
        self.resume(WRITE)

    def pause(self, reason: int) -> None:
        if not self.reasons and self.transport is not None:
            with contextlib.suppress(RuntimeError):
                self.transport.pause_reading()
        self.reasons |= reason

    def resume(self, reason: int) -> None:
        if self.reasons & reason:
            self.reasons &= ~reason
            self.seen = self.clock.tick
            if not self.reasons and self.transport is not None:
                with contextlib.suppress(RuntimeError):
                    self.transport.resume_reading()

    def hold(self, size: int) -> None:
        """Count bytes handed in; stops reading beyond `HELD`."""
        self.held += size
        if self.held > HELD:
            self.pause(UNRELEASED)

    def release(self, size: int) -> None:
        """Count bytes that became durable."""
        self.held -= size
        if self.reasons and self.held < HELD // 2:
            self.resume(UNRELEASED)

    def slow(self, meter: Meter, count: int) -> None:
        """Count messages that cannot be refused; nothing more is read until its organisation may send more."""
        wait = meter.owe(count, time.monotonic())
        if wait > 0 and not self.reasons & QUOTA:
            self.pause(QUOTA)
            asyncio.get_running_loop().call_later(wait, self._again, meter)

    def _again(self, meter: Meter) -> None:
        wait = meter.wait(time.monotonic())
        if wait > 0 and self.transport is not None:
            asyncio.get_running_loop().call_later(wait, self._again, meter)
        else:
            self.resume(QUOTA)

    def send(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def answer(self, data: bytes, answering: list[Peer]) -> None:
        """Queue an answer for `write_answers(answering)`."""
        if self.answers is None:
            self.answers = [data]
            answering.append(self)
        else:
            self.answers.append(data)


def write_answers(answering: list[Peer]) -> None:
    """Write the queued answers, once for each peer."""
    for peer in answering:
        answers = peer.answers
        if answers is not None:
            peer.answers = None
            peer.send(answers[0] if len(answers) == 1 else b"".join(answers))


def press(peers: Iterable[Peer], on: bool) -> None:
    """Stop reading, or go on, for a door that holds too much, or no longer."""
    for peer in peers:
        if on:
            peer.pause(PRESSURE)
        else:
            peer.resume(PRESSURE)
