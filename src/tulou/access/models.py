"""Tables and request bodies of access: devices, alarms, commands, and the marks of presence.

Law: a device is a credential that speaks for one entity. Of its token only the SHA-256 is kept. Its id carries its
organisation (`<org>:<key>`), so that ids of two organisations can neither collide nor be inferred.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import sqlalchemy as sa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tulou.access.certificates.tables import forget_certificates
from tulou.access.edge.tables import forget_placed
from tulou.access.groups.tables import forget_members
from tulou.access.lorawan.tables import forget_applications
from tulou.access.ota.tables import rollout_devices
from tulou.access.provisioning.tables import forget_provisioned
from tulou.kernel.sql import BigId, UtcDateTime, metadata, utcnow

ACTIVE, DISABLED, SUSPENDED = "active", "disabled", "suspended"
"""Status of a device: suspended means that its organisation is."""
MEASURED, SYNTHETIC = 0, 3
"""Values of `origin` that a device can have (docs/architecture.md)."""

devices = sa.Table(
    "devices", metadata,
    sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("id", sa.String(320), nullable=False, unique=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("entity_id", sa.String(255), nullable=False),
    sa.Column("type", sa.String(128), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("origin", sa.SmallInteger, nullable=False),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("token_prefix", sa.String(16), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("rotated_at", UtcDateTime),
    sa.Column("seen_at", sa.BigInteger),
    sa.Index("ix_devices_org_entity_no", "org", "entity_no"),
)
"""`seen_at`: the last frame or connection, µs since the epoch; written coarsely (`presence.py`)."""

device_identities = sa.Table(
    "device_identities", metadata,
    sa.Column("protocol", sa.String(32), primary_key=True),
    sa.Column("identity", sa.String(64), primary_key=True),
    sa.Column("entity_no", sa.BigInteger, nullable=False),
    sa.Column("password_hash", sa.String(255), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Index("ix_device_identities_entity_no", "entity_no"),
)
"""Who a device is in a field protocol: MN, terminal phone, VIN. `password_hash` is argon2id, or what a digest is
computed from (`protocols.Digested`), empty where none is asked."""

device_polls = sa.Table(
    "device_polls", metadata,
    sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("dials", sa.Boolean, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("updated_by", sa.String(128), nullable=False),
)
"""What is asked of the meters behind a device (`polls.py`), as JSON; `dials`: the house dials it."""

device_opcua = sa.Table(
    "device_opcua", metadata,
    sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("updated_by", sa.String(128), nullable=False),
)
"""The server of OPC UA that a device stands for (`opcua/service.py`), as JSON."""

device_claims = sa.Table(
    "device_claims", metadata,
    sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("secret_hash", sa.String(64), nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
)
"""Devices that another organisation may claim (`claims.py`)."""

alarms = sa.Table(
    "alarms", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("entity_no", sa.BigInteger, nullable=False),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("property", sa.String(128), nullable=False),
    sa.Column("rule", sa.String(32), nullable=False),
    sa.Column("severity", sa.String(16), nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("synthetic", sa.Boolean, nullable=False),
    sa.Column("raised_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("cleared_at", UtcDateTime),
    sa.Column("acknowledged_by", sa.String(128)),
    sa.Column("acknowledged_at", UtcDateTime),
    sa.Column("announced", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("rule_version", sa.Integer, nullable=False, server_default="1"),
    sa.Column("title", sa.Text, nullable=False, server_default=""),
    sa.Column("group_id", sa.BigInteger),
    sa.Column("assigned_to", sa.String(128)),
    sa.Column("silenced_until", UtcDateTime),
    sa.Column("escalate_s", sa.Integer),
    sa.Column("escalate_at", UtcDateTime),
    sa.Column("cleared_by", sa.String(128)),
    sa.Index("ix_alarms_org_id", "org", "id"),
    sa.Index("ix_alarms_entity_no_property_rule_id", "entity_no", "property", "rule", "id"),
    sa.Index("ix_alarms_org_rule_raised_at", "org", "rule", "raised_at"),
    sa.Index("ix_alarms_group_id", "group_id"),
    sa.Index(
        "ix_alarms_escalate_at", "escalate_at",
        sqlite_where=sa.text("escalate_at IS NOT NULL"), postgresql_where=sa.text("escalate_at IS NOT NULL"),
    ),
    sa.Index(
        "uq_alarms_open", "entity_no", "property", "rule", unique=True,
        sqlite_where=sa.text("cleared_at IS NULL"), postgresql_where=sa.text("cleared_at IS NULL"),
    ),
    sa.Index(
        "ix_alarms_unannounced", "announced", "id",
        sqlite_where=sa.text("announced < 2"), postgresql_where=sa.text("announced < 2"),
    ),
)
"""`announced`: events published so far: 0 none, 1 `alarm.raised`, 2 `alarm.cleared` too. `rule` is the key of the rule in
its `rule_version`, `title` the rule's name. `group_id` is the first alarm of those that came together."""

alarm_notes = sa.Table(
    "alarm_notes", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("alarm_id", sa.BigInteger, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Index("ix_alarm_notes_alarm_id_id", "alarm_id", "id"),
)
"""What was done about an alarm, by whom: acknowledged, assigned, silenced, commented, escalated, cleared."""

_OPEN = sa.text("ended_at IS NULL")
_UNANNOUNCED = sa.text("ended_at IS NOT NULL AND NOT announced")

commands = sa.Table(
    "commands", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("entity_no", sa.BigInteger, nullable=False),
    sa.Column("device_id", sa.String(320), nullable=False),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("method", sa.String(128), nullable=False),
    sa.Column("params", sa.Text, nullable=False),
    sa.Column("bearer", sa.String(32), nullable=False),
    sa.Column("answer", sa.Boolean, nullable=False),
    sa.Column("repeat", sa.Boolean, nullable=False),
    sa.Column("key", sa.String(128)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("claimed", sa.String(128), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("sent_at", UtcDateTime),
    sa.Column("delivered_at", UtcDateTime),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("announced", sa.Boolean, nullable=False),
    sa.UniqueConstraint("entity_no", "key"),
    sa.Index("ix_commands_entity_no_no", "entity_no", "no"),
    *(
        sa.Index(name, *columns, sqlite_where=_OPEN, postgresql_where=_OPEN)
        for name, columns in (("ix_commands_open", ("entity_no", "no")), ("ix_commands_open_expiry", ("expires_at",)),
                              ("ix_commands_open_claimed", ("claimed",)))
    ),
    sa.Index("ix_commands_unannounced", "no", sqlite_where=_UNANNOUNCED, postgresql_where=_UNANNOUNCED),
)
"""`params` and `result` are JSON as text. `claimed`: the door that took it to send it. `answer`: the device is to answer. `key`: the caller's own, for repeats.
`announced`: the event of its end is on the stream."""

shadows = sa.Table(
    "shadows", metadata,
    sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("desired", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("changed_by", sa.String(128), nullable=False),
)
"""What devices are to be: `desired` is a JSON object as text."""

KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:-]*[A-Za-z0-9])?")


def _key(value: str) -> str:
    if not KEY.fullmatch(value):
        raise ValueError("letters, digits and . _ : - only, beginning and ending with a letter or digit")
    return value


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Identity(_Body):
    """An identity of a device in a field protocol, with the password that the protocol carries, if one is to be asked."""

    protocol: str = Field(min_length=1, max_length=32)
    identity: str = Field(min_length=1, max_length=64)
    password: str | None = Field(default=None, min_length=1, max_length=64, repr=False)


class NewDevice(_Body):
    """A device to create.

    `id` is a key within the organisation (made at random if absent); with the organisation before it, it becomes the
    device's id. A key that is a URN is the entity's id, else that is `urn:ngsi-ld:<type>:<key>`.
    """

    org: str = Field(min_length=1, max_length=64)
    type: str = Field(min_length=1, max_length=128)
    name: str = Field(min_length=1, max_length=200)
    id: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_key)] | None = None
    lon: float | None = Field(default=None, ge=-180, le=180, allow_inf_nan=False)
    lat: float | None = Field(default=None, ge=-90, le=90, allow_inf_nan=False)
    synthetic: bool = False
    protocol: str | None = Field(default=None, min_length=1, max_length=32)
    identity: str | None = Field(default=None, min_length=1, max_length=64)
    password: str | None = Field(default=None, min_length=1, max_length=64, repr=False)

    @property
    def spoken(self) -> Identity | None:
        """Its identity in a field protocol."""
        if self.protocol is None or self.identity is None:
            return None
        return Identity(protocol=self.protocol, identity=self.identity, password=self.password)

    @property
    def device_id(self) -> str:
        """The device's id in the house."""
        return f"{self.org}:{self.id}"

    @property
    def entity_id(self) -> str:
        """The NGSI-LD id of the entity it speaks for."""
        key = self.id or ""
        return key if key.startswith("urn:") else f"urn:ngsi-ld:{self.type}:{key}"


class NewCommand(_Body):
    """A command to a device. It waits for the device until it expires, and may be sent again while it is unknown whether
    it arrived, unless `repeat` is false. With the same `key` the same command comes back. `bearer` is "json" (MQTT, HTTP)
    or a field protocol; without it, the device's own."""

    method: str = Field(min_length=1, max_length=128)
    params: Any = Field(default_factory=dict)
    answer: bool | None = None
    repeat: bool | None = None
    expires_s: float | None = Field(default=None, ge=1, le=30 * 86400, allow_inf_nan=False)
    bearer: str | None = Field(default=None, min_length=1, max_length=32)
    key: str | None = Field(default=None, min_length=1, max_length=128)


class Bulk(_Body):
    """Devices to create; each line is checked and answered for itself."""

    items: list[Any] = Field(max_length=10_000)


def forget_devices(connection: sa.Connection, entities: Sequence[int]) -> None:
    """The devices of these entities are deleted: end what waits for them, and what they are to be."""
    connection.execute(device_identities.delete().where(device_identities.c.entity_no.in_(entities)))
    connection.execute(device_polls.delete().where(device_polls.c.entity_no.in_(entities)))
    connection.execute(device_opcua.delete().where(device_opcua.c.entity_no.in_(entities)))
    forget_applications(connection, entities)
    forget_certificates(connection, entities)
    forget_provisioned(connection, entities)
    forget_members(connection, entities)
    forget_placed(connection, entities)
    connection.execute(device_claims.delete().where(device_claims.c.entity_no.in_(entities)))
    connection.execute(shadows.delete().where(shadows.c.entity_no.in_(entities)))
    connection.execute(rollout_devices.delete().where(rollout_devices.c.entity_no.in_(entities)))
    connection.execute(
        commands.update().where(commands.c.entity_no.in_(entities), commands.c.ended_at.is_(None))
        .values(state="cancelled", ended_at=utcnow(), error="设备已删除 (the device is deleted)")
    )


def identity_document(row: Any) -> dict[str, Any]:
    """A row of `device_identities` as the API shows it (no hash)."""
    return {"protocol": row.protocol, "identity": row.identity, "password": bool(row.password_hash)}


def device_document(row: Any) -> dict[str, Any]:
    """A row of `devices` as the API shows it (no hash)."""
    return {
        "id": row.id, "no": row.entity_no, "entity_id": row.entity_id, "org": row.org, "type": row.type,
        "name": row.name, "synthetic": row.origin == SYNTHETIC, "status": row.status,
        "token_prefix": row.token_prefix, "created_at": row.created_at, "created_by": row.created_by,
        "rotated_at": row.rotated_at,
    }
