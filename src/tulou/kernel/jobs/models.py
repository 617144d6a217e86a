"""Tables of jobs."""

from __future__ import annotations

import sqlalchemy as sa

from tulou.kernel.sql import BigId, Json, UtcDateTime, metadata

jobs = sa.Table(
    "jobs", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("org", sa.String(64), sa.ForeignKey("organisations.id"), nullable=False),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("arguments", Json, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("cancel", sa.Boolean, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("progress", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger),
    sa.Column("checkpoint", Json),
    sa.Column("result", Json),
    sa.Column("error", sa.Text),
    sa.Column("worker", sa.String(128)),
    sa.Column("seen_at", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("started_at", UtcDateTime),
    sa.Column("ended_at", UtcDateTime),
    sa.Index("ix_jobs_state_id", "state", "id"),
    sa.Index("ix_jobs_org_id", "org", "id"),
)

job_lines = sa.Table(
    "job_lines", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("job_id", BigId, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("line", sa.Text, nullable=False),
)
