"""Natural days of Asia/Shanghai, by which the store cuts its days, and people read them.

Law: a day is a `datetime.date`; its first moment is midnight there, in µs since the epoch like every time of the store.
"""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

ZONE = "Asia/Shanghai"

_ZONE = ZoneInfo(ZONE)


def day_of(ts: int) -> dt.date:
    """The natural day in which a time (µs) lies."""
    return dt.datetime.fromtimestamp(ts / 1e6, _ZONE).date()


def start_of(day: dt.date) -> int:
    """The first moment of a natural day, in µs."""
    return int(dt.datetime.combine(day, dt.time(), _ZONE).timestamp()) * 1_000_000
