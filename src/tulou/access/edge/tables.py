"""Tables and request bodies of edges: the first two at the hub, the others at the edge.

Law: of a token only the SHA-256 is kept. The hub's `last` is the truth about how far an edge's stream was taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from tulou.kernel.sql import BigId, UtcDateTime, metadata

_LIVE = sa.text("revoked_at IS NULL")

edges = sa.Table(
    "edges", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("token_prefix", sa.String(24), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("revoked_at", UtcDateTime),
    sa.Column("era", sa.String(64), nullable=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("floor", sa.BigInteger),
    sa.Column("contact_at", UtcDateTime),
    sa.Column("taken_at", UtcDateTime),
    sa.Column("lag", sa.BigInteger, nullable=False),
    sa.Column("lag_s", sa.Float, nullable=False),
    sa.Column("missed", sa.BigInteger, nullable=False),
    sa.Column("left_out", sa.BigInteger, nullable=False),
    sa.Index("ix_edges_org_no", "org", "no"),
    sa.Index("uq_edges_live", "org", "name", unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE),
)
"""`era`: which stream of the edge `last` counts in. `floor`: while a group is being published, the last sequence of READINGS
before it. `lag` and `lag_s`: messages, and seconds, that were still to come when it spoke last. `missed`: messages that had
left the edge's stream; `left_out`: frames and readings that were not taken."""

edge_devices = sa.Table(
    "edge_devices", metadata,
    sa.Column("edge_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("entity", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("no", sa.BigInteger, unique=True),
    sa.Column("shadow", sa.BigInteger, nullable=False, server_default="0"),
)
"""An edge's entity numbers, and ours; none for one that was deleted here. Where a new era of the edge has not named one yet, its
number is ours below zero. `shadow`: the version of the device's shadow that the edge has."""

uplink_position = sa.Table(
    "uplink_position", metadata,
    sa.Column("stream", sa.String(64), primary_key=True),
    sa.Column("created", UtcDateTime, nullable=False),
    sa.Column("era", sa.String(64), nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
)
"""Up to where the hub has this edge's stream, as it said last."""

uplink_commands = sa.Table(
    "uplink_commands", metadata,
    sa.Column("link", sa.String(24), primary_key=True),
    sa.Column("hub_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("no", sa.BigInteger),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("told", sa.String(16), nullable=False),
    sa.Index("ix_uplink_commands_open", "link", "hub_no", sqlite_where=sa.text("told <> 'ended'"),
             postgresql_where=sa.text("told <> 'ended'")),
)
"""The hub's commands by its number, and ours; `error` where it could not be filed. `told`: what the hub knows of it."""


uplink_shadows = sa.Table(
    "uplink_shadows", metadata,
    sa.Column("link", sa.String(24), primary_key=True),
    sa.Column("entity_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("names", sa.Text, nullable=False),
)
"""What the hub wants devices of this edge to be: the version that was taken over, and the names in it (JSON)."""


class NewEdge(BaseModel):
    """An edge that is to be let in."""

    model_config = ConfigDict(extra="forbid")

    org: str = Field(min_length=1, max_length=64)
    name: str = Field(min_length=1, max_length=200)


def forget_placed(connection: sa.Connection, entities: Sequence[int]) -> None:
    """The devices of these entities are deleted: what an edge still says of them is left out."""
    connection.execute(edge_devices.update().where(edge_devices.c.no.in_(entities)).values(no=None))
