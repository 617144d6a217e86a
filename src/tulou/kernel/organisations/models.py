"""Tables and request bodies of organisations, people and their credentials.

Law: no secret is stored. A password is an argon2id hash; a session, a token and an OIDC state are SHA-256 digests of
values with at least 128 random bits.
"""

from __future__ import annotations

import datetime as dt
import unicodedata
from typing import Annotated, Literal

import sqlalchemy as sa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tulou.kernel.policy import ROLES
from tulou.kernel.sql import BigId, Json, UtcDateTime, metadata

organisations = sa.Table(
    "organisations", metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name_zh", sa.Text, nullable=False),
    sa.Column("name_en", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("parent", sa.String(64), sa.ForeignKey("organisations.id"), index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("code", sa.String(32), nullable=False),
    sa.Column("lon", sa.Float),
    sa.Column("lat", sa.Float),
    sa.Column("applied_by", sa.String(128), nullable=False),
    sa.Column("applied_at", UtcDateTime, nullable=False),
    sa.Column("decided_by", sa.String(128)),
    sa.Column("decided_at", UtcDateTime),
    sa.Column("reason", sa.Text, nullable=False),
)

users = sa.Table(
    "users", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("display", sa.Text, nullable=False),
    sa.Column("org", sa.String(64), sa.ForeignKey("organisations.id"), nullable=False, index=True),
    sa.Column("password_hash", sa.Text),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("must_change_password", sa.Boolean, nullable=False),
    sa.Column("email", sa.Text),
    sa.Column("oidc_issuer", sa.Text),
    sa.Column("oidc_subject", sa.String(255)),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("signed_in_at", UtcDateTime),
    sa.UniqueConstraint("oidc_issuer", "oidc_subject"),
)

role_bindings = sa.Table(
    "role_bindings", metadata,
    sa.Column("user_id", BigId, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("org", sa.String(64), sa.ForeignKey("organisations.id"), primary_key=True),
    sa.Column("role", sa.String(16), primary_key=True),
    sa.Column("subtree", sa.Boolean, nullable=False),
)

sessions = sa.Table(
    "sessions", metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("user_id", BigId, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("method", sa.String(16), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
)

tokens = sa.Table(
    "tokens", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("prefix", sa.String(16), nullable=False, unique=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("org", sa.String(64), sa.ForeignKey("organisations.id"), nullable=False, index=True),
    sa.Column("user_id", BigId, sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("scopes", Json, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("revoked_at", UtcDateTime),
    sa.Column("used_at", UtcDateTime),
)

oidc_requests = sa.Table(
    "oidc_requests", metadata,
    sa.Column("state", sa.String(64), primary_key=True),
    sa.Column("browser", sa.String(64), nullable=False),
    sa.Column("nonce", sa.Text, nullable=False),
    sa.Column("verifier", sa.Text, nullable=False),
    sa.Column("redirect_uri", sa.Text, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
)


def normal_name(name: str) -> str:
    """A sign-in name as it is stored and compared: NFKC, lower case, no surrounding spaces."""
    return unicodedata.normalize("NFKC", name).strip().casefold()


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", str_max_length=4096)


Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)*$", min_length=2, max_length=64)]
Title = Annotated[str, Field(min_length=1, max_length=200)]
Name = Annotated[
    str, Field(pattern=r"^[^\s:/\x00-\x1f\x7f]+$", min_length=1, max_length=64), AfterValidator(normal_name)
]
Role = Literal[
    "platform_admin", "admin", "steward", "operator", "analyst", "viewer", "auditor", "reporter", "approver"
]
assert set(Role.__args__) == set(ROLES)  # type: ignore[attr-defined]


class Application(_Body):
    """An organisation that asks to be admitted below `parent`."""

    id: Slug
    name_zh: Title
    name_en: Title
    kind: Literal["province", "city", "county", "department", "enterprise"]
    parent: Slug = "house"
    code: str = Field(default="", max_length=32)
    lon: float | None = Field(default=None, ge=-180, le=180)
    lat: float | None = Field(default=None, ge=-90, le=90)


class Decision(_Body):
    """Why an application is decided, or an organisation suspended."""

    reason: str = Field(default="", max_length=1000)


class RoleGrant(_Body):
    """A role in an organisation, or in it and everything below it."""

    org: str
    role: Role
    subtree: bool = False


class NewUser(_Body):
    """A person. Without a password a random one is made and shown once."""

    name: Name
    display: Title
    org: str
    password: str | None = None
    email: str | None = Field(default=None, max_length=254)
    roles: list[RoleGrant] = Field(default_factory=list, max_length=200)


class RoleGrants(_Body):
    """All roles of a person."""

    roles: list[RoleGrant] = Field(max_length=200)


class SignIn(_Body):
    """Name and password."""

    name: str = Field(max_length=256)
    password: str = Field(max_length=1024)


class PasswordChange(_Body):
    """One's own password, old and new."""

    old: str = Field(max_length=1024)
    new: str = Field(max_length=1024)


class NewToken(_Body):
    """An API token: rights of its creator in `org`, limited to `scopes` (patterns such as `context.*`).

    `user` is the person whose rights it has; only the command line on the house's own machine may name another.
    """

    name: Title
    org: str
    scopes: list[str] = Field(min_length=1, max_length=50)
    expires_at: dt.datetime | None = None
    user: str | None = None
