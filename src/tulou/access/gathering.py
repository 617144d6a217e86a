"""Keys that wait to be asked for over the bus, put together: a storm of devices is a few requests.

Law: a key that was added is asked for after it was added, and again until the asking succeeded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

import nats.errors

log = logging.getLogger("tulou.gateway")

K = TypeVar("K")
TOGETHER = 500
LINGER = 0.005
"""Seconds for which more is waited for."""


class Gathering(Generic[K]):
    """What waits, each key once; `ask(keys)` asks for so many at once and may raise what the bus raises."""

    def __init__(self, ask: Callable[[list[K]], Awaitable[None]]) -> None:
        self._ask = ask
        self._waiting: dict[K, None] = {}
        self._work = asyncio.Event()

    def add(self, keys: Iterable[K]) -> None:
        """Ask for these soon."""
        self._waiting.update(dict.fromkeys(keys))
        self._work.set()

    async def run(self) -> None:
        """Ask, for ever."""
        pause = 0.1
        while True:
            await self._work.wait()
            await asyncio.sleep(LINGER)
            keys, self._waiting = list(self._waiting), {}
            self._work.clear()
            for start in range(0, len(keys), TOGETHER):
                try:
                    await self._ask(keys[start : start + TOGETHER])
                    pause = 0.1
                except (nats.errors.Error, TimeoutError, OSError) as error:
                    log.debug("the house cannot be asked now: %r", error)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 5.0)
                    self.add(keys[start:])
                    break
