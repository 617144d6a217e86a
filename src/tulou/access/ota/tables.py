"""Tables and request bodies of firmware and roll-outs.

Law: a device is in one roll-out at a time: a unique index lets it wait or be told in one only.
"""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tulou.access.ota.engine import Stage
from tulou.kernel.sql import BigId, UtcDateTime, metadata

firmware = sa.Table(
    "firmware", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("type", sa.String(128), nullable=False),
    sa.Column("title", sa.String(128), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("key", sa.String(255), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.UniqueConstraint("org", "type", "title", "version"),
)
"""`key` is that of the object."""

rollouts = sa.Table(
    "rollouts", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("firmware_no", sa.BigInteger, nullable=False),
    sa.Column("selection", sa.Text, nullable=False),
    sa.Column("stages", sa.Text, nullable=False),
    sa.Column("device_s", sa.Float, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("stage", sa.SmallInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("settled", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("started_at", UtcDateTime),
    sa.Column("ended_at", UtcDateTime),
    sa.Index("ix_rollouts_org_no", "org", "no"),
    sa.Index("ix_rollouts_firmware_no", "firmware_no"),
    sa.Index("ix_rollouts_unsettled", "no", sqlite_where=sa.text("settled = 0"), postgresql_where=sa.text("NOT settled")),
)
"""`selection` and `stages` are JSON as text. `settled`: there is nothing that the worker would do about it."""

_OPEN = sa.text("state IN ('waiting', 'told')")

rollout_devices = sa.Table(
    "rollout_devices", metadata,
    sa.Column("rollout_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("device_id", sa.String(320), nullable=False),
    sa.Column("stage", sa.SmallInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("desired", sa.Boolean, nullable=False),
    sa.Column("announced", sa.Boolean, nullable=False),
    sa.Column("online", sa.Boolean, nullable=False),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("mark", sa.String(64), nullable=False),
    sa.Column("attempts", sa.SmallInteger, nullable=False),
    sa.Column("told_at", UtcDateTime),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("error", sa.Text, nullable=False),
    sa.Index("ix_rollout_devices_rollout_no_stage_state", "rollout_no", "stage", "state"),
    sa.Index("uq_rollout_devices_open", "entity_no", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    sa.Index("ix_rollout_devices_unannounced", "entity_no", sqlite_where=sa.text("announced = 0"),
             postgresql_where=sa.text("NOT announced")),
)
"""`desired`: its shadow has the values of this roll-out. `announced`: it was told what its shadow says now. `previous`: what
its shadow said before, JSON as text. `mark`: when it had said its `fw_state`, as it was told. `online`: it was then."""


def _rising(stages: list[Stage]) -> list[Stage]:
    percents = [stage.percent for stage in stages]
    if percents != sorted(set(percents)) or percents[-1] != 100:
        raise ValueError("percents must rise, up to 100")
    return stages


class NewRollout(BaseModel):
    """A roll-out to prepare: to the active devices of the firmware's organisation and type, of these `devices` (ids), of
    those whose id or name has the part `q`, of this `group`, where given. `device_s`: seconds after which a device that was told
    and is not updated counts as failed."""

    model_config = ConfigDict(extra="forbid")

    firmware: int = Field(ge=1)
    name: str = Field(min_length=1, max_length=200)
    devices: list[str] | None = Field(default=None, min_length=1, max_length=10_000)
    q: str = Field(default="", max_length=200)
    group: int | None = Field(default=None, ge=1)
    stages: Annotated[list[Stage], AfterValidator(_rising)] = Field(
        default_factory=lambda: [Stage(percent=percent) for percent in (1, 10, 50, 100)], min_length=1, max_length=20
    )
    device_s: float = Field(default=86_400, ge=1, le=30 * 86400, allow_inf_nan=False)
