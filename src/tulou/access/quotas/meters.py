"""Messages a second of organisations, counted at a door; and whose messages are refused because they have as many readings as they may.

Law: pure but for the clock that the caller hands in. A limit holds for its organisation and all below it together, so a
message is taken from every bucket above its device or from none. Each process counts for itself: two gateways let through
twice as much. A bucket holds one second's worth.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

USED_UP = "机构的读数存储配额已用尽", "the organisation's quota of stored readings is used up"
AGAIN = 60.0
"""Seconds after which one may try again whose quota of stored readings is used up."""


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


@dataclass(slots=True, eq=False)
class Shut:
    """Of an organisation that has as many readings as it may: nothing more is stored of it and of those below it."""

    refused: int = 0


class Meter:
    """The buckets above one organisation's devices, and those above it that are shut."""

    __slots__ = ("buckets", "shut")

    def __init__(self, buckets: list[Bucket], shut: list[Shut] | None = None) -> None:
        self.buckets, self.shut = buckets, shut or []

    def refuses(self, count: int) -> bool:
        """Whether nothing more is stored; the messages are counted as refused then."""
        for one in self.shut:
            one.refused += count
        return bool(self.shut)

    def take(self, count: int, now: float) -> int:
        """How many of so many messages may come now; they are counted, the others as refused."""
        if self.refuses(count):
            return 0
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
        return max((-bucket.tokens / bucket.rate for bucket in self.buckets), default=0.0)

    def retry_after(self, now: float) -> float:
        """Seconds until one more message may come."""
        if self.shut:
            return AGAIN
        return max(0.0, self.wait(now) + max(1 / bucket.rate for bucket in self.buckets))


class Meters:
    """The meters of one process, by organisation; those without a limit have none."""

    def __init__(self) -> None:
        self.by_org: dict[str, Meter] = {}
        self._buckets: dict[str, Bucket] = {}
        self._shut: dict[str, Shut] = {}
        self._reported: dict[str, tuple[int, float]] = {}

    def set(self, limits: Mapping[str, float], parents: Mapping[str, str | None], now: float, used_up: Collection[str] = ()) -> None:
        """These are the limits now, in this tree, and whose quota of readings is used up; a bucket whose limit is unchanged keeps what
        it has."""
        buckets: dict[str, Bucket] = {}
        for org, rate in limits.items():
            old = self._buckets.get(org)
            if old is None or old.rate != rate:
                old = Bucket(rate, max(1.0, rate), now, old.taken if old else 0, old.refused if old else 0)
            buckets[org] = old
        self._buckets = buckets
        self._shut = {org: self._shut.get(org) or Shut() for org in used_up}
        meters: dict[str, Meter] = {}
        for org in {*parents, *limits, *used_up}:
            above: list[Bucket] = []
            shut: list[Shut] = []
            seen: set[str] = set()
            current: str | None = org
            while current is not None and current not in seen:
                seen.add(current)
                if current in buckets:
                    above.append(buckets[current])
                if current in self._shut:
                    shut.append(self._shut[current])
                current = parents.get(current)
            if above or shut:
                meters[org] = Meter(above, shut)
        self.by_org = meters

    def report(self, now: float) -> dict[str, dict[str, float]]:
        """By limited organisation: the limit and messages a second since the last report, where those are limited, and how many were refused in
        all."""
        found: dict[str, dict[str, float]] = {}
        for org, bucket in self._buckets.items():
            taken, at = self._reported.get(org, (0, now - 1))
            self._reported[org] = bucket.taken, now
            found[org] = {"limit": bucket.rate, "rate": round((bucket.taken - taken) / max(now - at, 0.001), 2), "refused": bucket.refused}
        for org, shut in self._shut.items():
            found.setdefault(org, {"refused": 0})["refused"] += shut.refused
        return found
