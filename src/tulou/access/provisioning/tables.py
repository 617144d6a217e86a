"""Tables and request bodies of provisioning.

Law: of a secret only the SHA-256 is kept. A device is provisioned once: `provisioned` has its entity.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Literal

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from tulou.kernel.sql import BigId, UtcDateTime, metadata

provision_keys = sa.Table(
    "provision_keys", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("type", sa.String(128), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("key", sa.String(32), nullable=False, unique=True),
    sa.Column("secret_hash", sa.String(64), nullable=False),
    sa.Column("strategy", sa.String(16), nullable=False),
    sa.Column("most", sa.Integer),
    sa.Column("made", sa.Integer, nullable=False),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("used_at", UtcDateTime),
    sa.Index("ix_provision_keys_org_no", "org", "no"),
)
"""`made`: devices that came by it, of `most` at most."""

provisioned = sa.Table(
    "provisioned", metadata,
    sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("key_no", sa.BigInteger, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
)


class NewKey(BaseModel):
    """A key for devices of a type. `create`: it makes devices that are not there; `known`: it gives those that are there,
    and were never heard, their credential."""

    model_config = ConfigDict(extra="forbid")

    org: str = Field(min_length=1, max_length=64)
    type: str = Field(min_length=1, max_length=128)
    name: str = Field(min_length=1, max_length=200)
    strategy: Literal["create", "known"] = "create"
    most: int | None = Field(default=None, ge=1, le=10_000_000)
    expires_at: AwareDatetime | None = None


class KeyChange(BaseModel):
    """What of a key changes; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool | None = None
    most: int | None = Field(default=None, ge=1, le=10_000_000)
    expires_at: AwareDatetime | None = None

    def values(self) -> dict[str, bool | int | dt.datetime | None]:
        return self.model_dump(exclude_unset=True)


def forget_provisioned(connection: sa.Connection, entities: Sequence[int]) -> None:
    """The devices of these entities are deleted."""
    connection.execute(provisioned.delete().where(provisioned.c.entity_no.in_(entities)))
