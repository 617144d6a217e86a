"""Tables and request bodies of device certificates and of the authorities that issue them.

Law: certificates are public and kept whole; no private key is in the store. A fingerprint is the SHA-256 of the
certificate's DER. What is revoked keeps its row, so that it stays revoked whatever becomes of the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from tulou.kernel.sql import BigId, UtcDateTime, metadata

PENDING, ACTIVE, REVOKED = "pending", "active", "revoked"
AT_ONCE = 2
"""Certificates of a device that may be valid at a time: the present one and the next."""

_ACTIVE = sa.text("status = 'active'")

device_authorities = sa.Table(
    "device_authorities", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("own", sa.Boolean, nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("der", sa.LargeBinary, nullable=False),
    sa.Column("not_before", UtcDateTime, nullable=False),
    sa.Column("not_after", UtcDateTime, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("code", sa.String(64), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("revoked_at", UtcDateTime),
    sa.Index("ix_device_authorities_org_no", "org", "no"),
    sa.Index("uq_device_authorities_active", "fingerprint", unique=True, sqlite_where=_ACTIVE, postgresql_where=_ACTIVE),
)
"""`own`: the house's. `code`: what a certificate of a pending authority must name to prove that the key is at hand."""

device_certificates = sa.Table(
    "device_certificates", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("entity_no", sa.BigInteger, nullable=False),
    sa.Column("authority_no", sa.BigInteger),
    sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("serial", sa.String(64), nullable=False),
    sa.Column("der", sa.LargeBinary, nullable=False),
    sa.Column("not_before", UtcDateTime, nullable=False),
    sa.Column("not_after", UtcDateTime, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("replaces", sa.BigInteger),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("used_at", UtcDateTime),
    sa.Column("revoked_at", UtcDateTime),
    sa.Index("ix_device_certificates_entity_no_no", "entity_no", "no"),
    sa.Index("ix_device_certificates_not_after", "not_after", sqlite_where=_ACTIVE, postgresql_where=_ACTIVE),
)
"""`authority_no`: none where the certificate itself was registered. `replaces`: the one that is revoked when this one is
first used; `used_at` is that time."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewCertificate(_Body):
    """A credential of a device: its own certificate (PEM), or a request (`csr`, PEM) for one of the house's; with neither,
    the house makes the key too and shows it once."""

    certificate: str | None = Field(default=None, min_length=1, max_length=16_384)
    csr: str | None = Field(default=None, min_length=1, max_length=16_384)


class NewAuthority(_Body):
    """An authority (PEM) whose certificates name devices of the organisation."""

    org: str = Field(min_length=1, max_length=64)
    name: str = Field(min_length=1, max_length=200)
    certificate: str = Field(min_length=1, max_length=16_384)


class Proof(_Body):
    """A certificate (PEM) of the authority whose CN is the code that was asked for."""

    certificate: str = Field(min_length=1, max_length=16_384)


def forget_certificates(connection: sa.Connection, entities: Sequence[int]) -> None:
    """The devices of these entities are deleted: their certificates end with them. Revoked ones are remembered."""
    connection.execute(device_certificates.delete().where(
        device_certificates.c.entity_no.in_(entities), device_certificates.c.status == ACTIVE
    ))
