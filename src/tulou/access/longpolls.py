"""Requests of devices that wait at the HTTP door for what is new.

Law: so many of one device at most; what is told to nobody is not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tulou.kernel.errors import Throttled

MOST = 4
"""Requests of one device that may wait at once."""


class LongPolls:
    """Who waits in this process, by entity."""

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Queue[Any]]] = {}

    @contextmanager
    def waiting(self, entity: int, timeout: float) -> Iterator[asyncio.Queue[Any]]:
        """A queue of the first news of an entity that nobody took yet. Raises `Throttled`."""
        queues = self._waiting.setdefault(entity, set())
        if len(queues) >= MOST:
            raise Throttled("设备的等待请求过多", "too many requests of the device wait", retry_after=timeout, rule=f"<= {MOST}")
        news: asyncio.Queue[Any] = asyncio.Queue(1)
        queues.add(news)
        try:
            yield news
        finally:
            queues.discard(news)
            if not queues:
                del self._waiting[entity]

    def tell(self, entity: int, news: Any = None) -> None:
        """There is news of an entity."""
        for queue in self._waiting.get(entity, ()):
            if not queue.full():
                queue.put_nowait(news)

    def tell_all(self) -> None:
        """There may be news of anything."""
        for entity in list(self._waiting):
            self.tell(entity)
