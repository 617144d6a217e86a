"""The tables of LoRaWAN, and the request body of a network server.

Law: an organisation has one network server, which sends downlinks to its devices and those of the organisations below it that have none.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from tulou.kernel.sql import UtcDateTime, metadata

lorawan_servers = sa.Table(
    "lorawan_servers", metadata,
    sa.Column("org", sa.String(64), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("updated_by", sa.String(128), nullable=False),
)

lorawan_devices = sa.Table(
    "lorawan_devices", metadata,
    sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("dev_eui", sa.String(16), nullable=False),
    sa.Column("application", sa.String(36), nullable=False),
)
"""The application of ChirpStack that a device's events named last."""


def forget_applications(connection: sa.Connection, entities: Sequence[int]) -> None:
    """The devices of these entities are deleted."""
    connection.execute(lorawan_devices.delete().where(lorawan_devices.c.entity_no.in_(entities)))


class NetworkServer(BaseModel):
    """The broker of ChirpStack's MQTT integration."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(min_length=8, max_length=512, pattern=r"^mqtts?://[^@\s]+$")
    user: str | None = Field(default=None, min_length=1, max_length=128)
    password: str | None = Field(default=None, min_length=1, max_length=256)
