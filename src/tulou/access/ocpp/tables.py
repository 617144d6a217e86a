"""Tables and request bodies of charging: the cards that may charge, and the numbers of transactions."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints

from tulou.kernel.sql import BigId, UtcDateTime, metadata

id_tags = sa.Table(
    "id_tags", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("tag", sa.String(36), nullable=False),
    sa.Column("blocked", sa.Boolean, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.UniqueConstraint("tag", "org", name="uq_id_tags_tag_org"),
)
"""Cards (idTag of 1.6, idToken of 2.0.1) in small letters, because the standard does not tell their case apart."""

charging_transactions = sa.Table(
    "charging_transactions", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("entity_no", sa.BigInteger, nullable=False),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("meter_start", sa.BigInteger),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("entity_no", "key", name="uq_charging_transactions_entity_no_key"),
    sqlite_autoincrement=True,
)
"""`no` is the transactionId of 1.6 and never used again. `key` is a digest of what makes a transaction the same when it is sent
again. `place` is the connector of 1.6, the EVSE of 2.0.1; `meter_start` is in Wh."""


class IdTag(BaseModel):
    """A card, in the organisation whose stations and those below it take it."""

    model_config = ConfigDict(extra="forbid")

    org: str
    tag: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,36}$", to_lower=True)]
    status: Literal["accepted", "blocked"] = "accepted"
    label: Annotated[str, StringConstraints(max_length=200)] = ""
    expires_at: AwareDatetime | None = None

    @property
    def expires(self) -> dt.datetime | None:
        return None if self.expires_at is None else self.expires_at.astimezone(dt.UTC)
