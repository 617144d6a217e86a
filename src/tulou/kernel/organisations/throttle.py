"""Slows guessing down: exponential pauses per key (an address, a name, both), in bounded tables.

Law: the tables live in the process and forget; they hold no secrets, and an attacker who floods them with new keys
evicts his own oldest ones first.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from tulou.kernel.errors import Throttled


class Throttle:
    """Failures by key. After `free` failures each further one blocks the key for 1, 2, 4 .. `longest` seconds.

    One failure is forgiven each `forgive` seconds, so that the people behind one address are not shut out for the
    slips that any crowd makes.
    """

    def __init__(self, free: int, longest: float, *, forgive: float = 60.0, size: int = 20_000) -> None:
        self.free = free
        self.longest = longest
        self.forgive = forgive
        self.size = size
        self._failures: OrderedDict[str, tuple[float, float, float]] = OrderedDict()

    def check(self, key: str) -> None:
        """Raise `Throttled` while `key` is blocked."""
        entry = self._failures.get(key)
        if entry is None:
            return
        wait = entry[1] - time.monotonic()
        if wait > 0:
            raise Throttled(
                f"尝试次数过多，请在 {wait:.0f} 秒后再试", f"too many attempts; try again in {wait:.0f} s", retry_after=wait
            )

    def failed(self, key: str) -> None:
        """Count a failure of `key`."""
        now = time.monotonic()
        count, _, last = self._failures.pop(key, (0.0, 0.0, now))
        count = max(0.0, count - (now - last) / self.forgive) + 1
        over = round(count) - self.free
        until = now + min(2.0 ** min(over - 1, 30), self.longest) if over > 0 else 0.0
        self._failures[key] = (count, until, now)
        while len(self._failures) > self.size:
            self._failures.popitem(last=False)

    def succeeded(self, key: str) -> None:
        """Forget the failures of `key`."""
        self._failures.pop(key, None)
