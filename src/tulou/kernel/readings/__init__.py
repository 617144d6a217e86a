"""The readings store: every value that a device ever sent, its roll-ups and its latest state.

Law: one interface, one SQL, two engines: chDB in the process, or a ClickHouse server. Rows of several organisations
are only returned through an explicit `orgs`: `None` is the whole house, and only callers that act for it pass it.
"""

from __future__ import annotations

from tulou.kernel.readings.amend import Reading, Touched
from tulou.kernel.readings.conditions import Condition, Constant, Field, Term
from tulou.kernel.readings.days import day_of, start_of
from tulou.kernel.readings.interface import (
    METHODS,
    OVER_READINGS,
    STATISTICS,
    Aggregate,
    Area,
    Asked,
    Figure,
    Frame,
    Grain,
    Hours,
    KeptFrame,
    OfThings,
    OrgFilter,
    Provenance,
    Readings,
    Series,
    Stored,
    Table,
    Value,
)
from tulou.kernel.readings.rows import Class, Frames, Rows, raw_column

__all__ = [
    "METHODS", "OVER_READINGS", "STATISTICS", "Aggregate", "Area", "Asked", "Class", "Condition", "Constant", "Field", "Figure",
    "Frame", "Frames", "Grain", "Hours", "KeptFrame", "OfThings", "OrgFilter", "Provenance", "Reading", "Readings", "Rows", "Series", "Stored",
    "Table", "Term", "Touched", "Value", "day_of", "open_readings", "raw_column", "start_of",
]


def open_readings(dsn: str, *, readers: int = 3) -> Readings:
    """Open a store: `chdb:///path` or `http(s)://user:password@host:port/database[?cluster=name]`.

    `readers` threads answer queries, one more writes. Raises `Unavailable` if the store cannot be reached.
    """
    from tulou.kernel.readings.clickhouse import ClickHouseReadings  # chDB takes 0.3 s to import

    return ClickHouseReadings(dsn, readers=readers)
