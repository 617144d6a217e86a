"""The table and request body of quotas.

Law: what is null is not limited. A limit holds for the organisation and all below it together.
"""

from __future__ import annotations

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from tulou.kernel.sql import UtcDateTime, metadata

quotas = sa.Table(
    "quotas", metadata,
    sa.Column("org", sa.String(64), primary_key=True),
    sa.Column("devices", sa.Integer),
    sa.Column("messages_s", sa.Float),
    sa.Column("readings", sa.BigInteger),
    sa.Column("used_up", sa.Boolean, nullable=False, default=False, server_default=sa.false()),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("updated_by", sa.String(128), nullable=False),
)
"""`used_up`: the readings of the organisation, and of all below it, have reached `readings`."""

stored_readings = sa.Table(
    "stored_readings", metadata,
    sa.Column("org", sa.String(64), primary_key=True),
    sa.Column("readings", sa.BigInteger, nullable=False),
    sa.Column("counted_at", UtcDateTime, nullable=False),
)
"""What was counted last of the things of each organisation itself; `counted_at` is when it changed."""


class Quota(BaseModel):
    """The limits of an organisation; null: none."""

    model_config = ConfigDict(extra="forbid")

    devices: int | None = Field(default=None, ge=0, le=1_000_000_000)
    messages_s: float | None = Field(default=None, ge=0.01, le=1e9, allow_inf_nan=False)
    readings: int | None = Field(default=None, ge=0, le=10**15)
