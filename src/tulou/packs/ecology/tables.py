"""Tables of the pack.

Law: what a crash must not lose: days that are to be derived again, and what an amendment under way touches. A published warning is
never changed; an update or a cancellation is a row of its own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa

from tulou.kernel.sql import BigId, Json, UtcDateTime, metadata, utcnow

due = sa.Table(
    "ecology_due", metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("asked_at", UtcDateTime, nullable=False),
)
"""Natural days whose derived values are to be made again."""

pending = sa.Table(
    "ecology_pending", metadata,
    sa.Column("no", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("touches", Json, nullable=False),
)
"""At most one row: what the amendment under way touches (`access.Amender`), and under `fresh` the readings that it must put in, where
they would be lost otherwise."""

entries = sa.Table(
    "ecology_entries", metadata,
    sa.Column("item", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("stored", sa.Boolean, nullable=False),
    sa.Column("zh", sa.Text, nullable=False),
    sa.Column("en", sa.Text, nullable=False),
)
"""What became of entries by hand that were approved: `item` is that of the workflow; `zh` and `en` say why one was not stored."""

marks = sa.Table(
    "ecology_marks", metadata,
    sa.Column("entity", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("property", sa.String(128), primary_key=True),
    sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("rule", sa.String(16), nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("zh", sa.Text, nullable=False),
    sa.Column("en", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
)
"""Hours (s since the epoch) whose readings the automatic control has marked bad, by which rule; `value` was the hour's mean."""

warnings = sa.Table(
    "ecology_warnings", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("identifier", sa.String(128), nullable=False, unique=True),
    sa.Column("first", sa.BigInteger),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("document", Json, nullable=False),
    sa.Column("xml", sa.Text),
    sa.Column("drafted_by", sa.String(128), nullable=False),
    sa.Column("drafted_at", UtcDateTime, nullable=False),
    sa.Column("signed_by", sa.String(128)),
    sa.Column("published_at", UtcDateTime),
    sa.Index("uq_ecology_warnings_first_version", "first", "version", unique=True),
    sa.Index("ix_ecology_warnings_org_id", "org", "id"),
)
"""`first` is the warning that this one updates or cancels, null for a first one; `version` counts from 1. `state`: draft | published."""


def ask_for(connection: sa.Connection, days: Sequence[dt.date]) -> None:
    """Days to derive again, within a write."""
    there = set(connection.execute(sa.select(due.c.day).where(due.c.day.in_(days))).scalars())
    missing = [{"day": day, "asked_at": utcnow()} for day in sorted(set(days) - there)]
    if missing:
        connection.execute(due.insert(), missing)
