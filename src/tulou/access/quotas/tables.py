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
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("updated_by", sa.String(128), nullable=False),
)


class Quota(BaseModel):
    """The limits of an organisation; null: none."""

    model_config = ConfigDict(extra="forbid")

    devices: int | None = Field(default=None, ge=0, le=1_000_000_000)
    messages_s: float | None = Field(default=None, ge=0.01, le=1e9, allow_inf_nan=False)
