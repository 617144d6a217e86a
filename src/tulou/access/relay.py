"""Batches from the writer to the rules of the same process, so that a message is fetched and decoded once.

Law: consecutive messages in the stream's order, each as soon as the writer has read it, stored or not. At most `limit`
bytes are kept, the newest: who is further behind, or where no writer reads, reads the stream himself. Nothing depends on
what is here; it may be dropped at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from nats.aio.msg import Msg

from tulou.access.batch import Batch
from tulou.kernel.errors import Invalid


@dataclass(slots=True)
class Arrival:
    """A message of the stream: its sequence, its size in bytes, its batch, or why it is none."""

    message: Msg
    seq: int
    size: int
    batch: Batch | None
    why: str = ""


def read(messages: Sequence[Msg]) -> list[Arrival]:
    """Decode messages. Those that are batches lose their bytes: the batch has them."""
    out = []
    for message in messages:
        seq, size = int(message.metadata.sequence.stream), len(message.data)
        try:
            out.append(Arrival(message, seq, size, Batch.decode(message.data)))
            message.data = b""
        except Invalid as error:
            out.append(Arrival(message, seq, size, None, f"batch: {error.zh} ({error.en})"))
    return out


class Relay:
    """One writer, one reader, one event loop."""

    def __init__(self, limit: int = 32 << 20) -> None:
        self.open = False
        """Whether a writer reads the stream."""
        self.quiet = False
        """Whether it waits for a stream that had nothing more."""
        self.pending = 0
        """Messages that were behind the last one."""
        self._limit = limit
        self._kept: deque[Arrival] = deque()
        self._size = 0
        self._after = self._last = 0
        self._came = asyncio.Event()

    def start(self, position: int, pending: int) -> None:
        """A writer goes on behind `position`, where the stream has `pending` messages."""
        self.open, self.quiet, self.pending = True, False, pending
        self._kept.clear()
        self._size, self._after, self._last = 0, position, position

    def stop(self) -> None:
        """The writer reads no more."""
        self.open = self.quiet = False
        self._kept.clear()
        self._came.set()

    def put(self, arrivals: Sequence[Arrival], pending: int) -> None:
        """The writer has read these; `pending` more are behind them."""
        self._kept.extend(arrivals)
        self._size += sum(arrival.size for arrival in arrivals)
        self._last, self.pending = arrivals[-1].seq, pending
        while self._size > self._limit:
            self._pop()
        self._came.set()

    def reaches(self, position: int) -> bool:
        """Whether what comes behind `position` comes through here."""
        return self.open and self._after <= position

    async def take(self, position: int, size: int, patience: float) -> list[Arrival]:
        """What came behind `position`, at most about `size` bytes; waits for it up to `patience` seconds."""
        if self._last <= position:
            self._came.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._came.wait()
        found: list[Arrival] = []
        while self.reaches(position) and self._kept and size > 0:
            arrival = self._pop()
            if arrival.seq > position:
                found.append(arrival)
                size -= arrival.size
                position = arrival.seq
        return found

    @property
    def behind(self) -> int:
        """Messages that were not taken yet, in the stream too."""
        return len(self._kept) + self.pending

    def _pop(self) -> Arrival:
        arrival = self._kept.popleft()
        self._size -= arrival.size
        self._after = arrival.seq
        return arrival
