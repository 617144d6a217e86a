"""Tables and request bodies of groups of devices.

Law: a group and its devices are of one organisation; a device is in as many groups as it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from tulou.kernel.policy import Orgs
from tulou.kernel.sql import BigId, UtcDateTime, metadata, within

device_groups = sa.Table(
    "device_groups", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.UniqueConstraint("org", "name"),
)

device_group_members = sa.Table(
    "device_group_members", metadata,
    sa.Column("group_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Index("ix_device_group_members_entity_no", "entity_no"),
)


class NewGroup(BaseModel):
    """A group of devices."""

    model_config = ConfigDict(extra="forbid")

    org: str = Field(min_length=1, max_length=64)
    name: str = Field(min_length=1, max_length=128)
    note: str = Field(default="", max_length=1000)


class GroupChange(BaseModel):
    """What of a group changes; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, min_length=1, max_length=128)
    note: str | None = Field(default=None, max_length=1000)


class Members(BaseModel):
    """Devices (ids) to put into a group, and to take out of it."""

    model_config = ConfigDict(extra="forbid")

    add: list[str] = Field(default_factory=list, max_length=10_000)
    remove: list[str] = Field(default_factory=list, max_length=10_000)


def members(no: int, orgs: Orgs) -> sa.Select[Any]:
    """The entities of a group's devices, none where the group is of none of these organisations."""
    return sa.select(device_group_members.c.entity_no).join(
        device_groups, device_groups.c.no == device_group_members.c.group_no
    ).where(device_groups.c.no == no, *within(device_groups.c.org, orgs))


def forget_members(connection: sa.Connection, entities: Sequence[int]) -> None:
    """The devices of these entities are deleted."""
    connection.execute(device_group_members.delete().where(device_group_members.c.entity_no.in_(entities)))
