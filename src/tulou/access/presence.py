"""Presence: whether a device is online, from the time it last spoke.

Law: pure. Online is a function of two times and the model's `offline_after_s`, nothing else: a device that speaks within
its timeout is online however often it reconnects (a sleeping meter connects, speaks and leaves), and a connection that
stays open in silence does not keep it online. A frame and an accepted connection both count as speaking; what counts
is when the house heard it, not the time written in the reading, so that data sent late counts as life now.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

SECOND = 1_000_000
AFTERWARDS = 10 * SECOND
OK, ALARM, OFFLINE = 0, 1, 2
STATES = ("ok", "alarm", "offline")
"""States of a thing, by their number in the map."""

T = TypeVar("T", int, NDArray[np.int64])


def online(seen: T, now: int, offline_after: T, gone: T | int = 0) -> bool | NDArray[np.bool_]:
    """Whether what was last heard at `seen` (µs; 0: never) is online at `now`, with a timeout in seconds.

    The timeout is inclusive: heard exactly `offline_after` seconds ago is still online. Takes numbers or arrays.
    `gone` (µs; 0: nothing is said) is when it is offline by its protocol, unless it was heard after that; `AFTERWARDS`, because
    what it said last may be stored a little later.
    """
    told = (gone > 0) & (seen < gone + AFTERWARDS)
    answer: bool | NDArray[np.bool_] = (seen > 0) & ((told & (now < gone)) | (np.logical_not(told) & (now - seen <= offline_after * SECOND)))
    return answer


def states(
    seen: NDArray[np.int64], now: int, offline_after: NDArray[np.int64], device: NDArray[np.uint8],
    alarms: NDArray[np.int32], gone: NDArray[np.int64] | int = 0,
) -> NDArray[np.uint8]:
    """States of things as columns. What no device speaks for is never offline; offline hides an alarm."""
    away = (device > 0) & ~np.asarray(online(seen, now, offline_after, gone))
    return np.where(away, OFFLINE, np.where(alarms > 0, ALARM, OK)).astype(np.uint8)
