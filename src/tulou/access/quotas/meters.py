"""Messages a second of organisations, counted at a door.

Law: pure but for the clock that the caller hands in. A limit holds for its organisation and all below it together, so a
message is taken from every bucket above its device or from none. Each process counts for itself: two gateways let through
twice as much. A bucket holds one second's worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Bucket:
    """Of one limit: `tokens` may be below zero where messages were taken that could not be refused."""

    rate: float
    tokens: float
    at: float
    taken: int = 0
    refused: int = 0

    def fill(self, now: float) -> None:
        self.tokens = min(max(1.0, self.rate), self.tokens + (now - self.at) * self.rate)
        self.at = now


class Meter:
    """The buckets above one organisation's devices."""

    __slots__ = ("buckets",)

    def __init__(self, buckets: list[Bucket]) -> None:
        self.buckets = buckets

    def take(self, count: int, now: float) -> int:
        """How many of so many messages may come now; they are counted, the others as refused."""
        least = float(count)
        for bucket in self.buckets:
            bucket.fill(now)
            least = min(least, bucket.tokens)
        may = max(0, int(least))
        for bucket in self.buckets:
            bucket.tokens -= may
            bucket.taken += may
            bucket.refused += count - may
        return may

    def owe(self, count: int, now: float) -> float:
        """Count messages that were taken whatever the limit is; seconds until nothing is owed any more."""
        for bucket in self.buckets:
            bucket.fill(now)
            bucket.tokens -= count
            bucket.taken += count
        return self.wait(now)

    def wait(self, now: float) -> float:
        """Seconds until nothing is owed."""
        for bucket in self.buckets:
            bucket.fill(now)
        return max(-bucket.tokens / bucket.rate for bucket in self.buckets)

    def retry_after(self, now: float) -> float:
        """Seconds until one more message may come."""
        return max(0.0, self.wait(now) + max(1 / bucket.rate for bucket in self.buckets))


class Meters:
    """The meters of one process, by organisation; those without a limit have none."""

    def __init__(self) -> None:
        self.by_org: dict[str, Meter] = {}
        self._buckets: dict[str, Bucket] = {}
        self._reported: dict[str, tuple[int, float]] = {}

    def set(self, limits: Mapping[str, float], parents: Mapping[str, str | None], now: float) -> None:
        """These are the limits now, in this tree; a bucket whose limit is unchanged keeps what it has."""
        buckets: dict[str, Bucket] = {}
        for org, rate in limits.items():
            old = self._buckets.get(org)
            if old is None or old.rate != rate:
                old = Bucket(rate, max(1.0, rate), now, old.taken if old else 0, old.refused if old else 0)
            buckets[org] = old
        self._buckets = buckets
        meters: dict[str, Meter] = {}
        for org in {*parents, *limits}:
            above: list[Bucket] = []
            seen: set[str] = set()
            current: str | None = org
            while current is not None and current not in seen:
                seen.add(current)
                if current in buckets:
                    above.append(buckets[current])
                current = parents.get(current)
            if above:
                meters[org] = Meter(above)
        self.by_org = meters

    def report(self, now: float) -> dict[str, dict[str, float]]:
        """By limited organisation: the limit, messages a second since the last report, and how many were refused in all."""
        found: dict[str, dict[str, float]] = {}
        for org, bucket in self._buckets.items():
            taken, at = self._reported.get(org, (0, now - 1))
            self._reported[org] = bucket.taken, now
            found[org] = {"limit": bucket.rate, "rate": round((bucket.taken - taken) / max(now - at, 0.001), 2), "refused": bucket.refused}
        return found
