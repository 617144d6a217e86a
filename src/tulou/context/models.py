"""Tables of the context engine.

Law: an entity's document is stored once, in the stored form of `forms`, with its dates and places beside it as
columns. Times are microseconds since the epoch, UTC, as everywhere that readings are near.
"""

from __future__ import annotations

import sqlalchemy as sa

from tulou.kernel.sql import BigId, Json, metadata

entities = sa.Table(
    "entities",
    metadata,
    sa.Column("no", BigId, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("types", Json),  # every type, when there are several
    sa.Column("name", sa.Text),
    sa.Column("doc", Json, nullable=False),
    sa.Column("times", Json),  # see forms.stamp; null when every attribute is as old as the entity
    sa.Column("synthetic", sa.Boolean, nullable=False),
    sa.Column("grade", sa.String(16)),
    sa.Column("lon", sa.Float),
    sa.Column("lat", sa.Float),
    sa.Column("west", sa.Float),  # the bounding box, of places that are not points
    sa.Column("south", sa.Float),
    sa.Column("east", sa.Float),
    sa.Column("north", sa.Float),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("modified_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("version", sa.Integer, nullable=False),
    sa.UniqueConstraint("id", "org"),
    sa.Index(None, "org", "type", "no"),
    sa.Index(None, "type", "no"),
    sa.Index(None, "lon", "lat"),
    sa.Index(
        "ix_entities_several_types", "no", sqlite_where=sa.text("types IS NOT NULL"),
        postgresql_where=sa.text("types IS NOT NULL"),
    ),
    sa.Index(
        "ix_entities_extents", "west", "east", "south", "north", sqlite_where=sa.text("west IS NOT NULL"),
        postgresql_where=sa.text("west IS NOT NULL"),
    ),
    sa.Index(
        "ix_entities_expires_at", "expires_at", sqlite_where=sa.text("expires_at IS NOT NULL"),
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)
"""`type` is the name that the house context gives it: a pack model's own name where it is one.

`no` is never used again after a delete: readings of a deleted entity must not become another's."""

counts = sa.Table(
    "entity_counts",
    metadata,
    sa.Column("org", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(32), primary_key=True),  # counts.key_of(type, types)
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("types", sa.Text),
    sa.Column("n", sa.BigInteger, nullable=False),
)
"""How many entities an organisation has with exactly these types; written in the transaction that changes it."""

removed = sa.Table(
    "removed_entities", metadata,
    sa.Column("no", sa.BigInteger, primary_key=True, autoincrement=False),
)
"""Numbers of deleted entities whose readings are still there; written in the transaction of the deletion."""

transient = sa.Table(
    "transient_entities", metadata,
    sa.Column("no", sa.BigInteger, primary_key=True, autoincrement=False),
)
"""Numbers of entities whose documents hold an `expiresAt`; written with them, and forgotten by the worker that cleans."""

subscriptions = sa.Table(
    "subscriptions",
    metadata,
    sa.Column("no", BigId, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("doc", Json, nullable=False),
    sa.Column("context", Json),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("modified_at", sa.BigInteger, nullable=False),
    sa.Column("times_sent", sa.BigInteger, nullable=False),
    sa.Column("times_failed", sa.BigInteger, nullable=False),
    sa.Column("last_notification", sa.BigInteger),
    sa.Column("last_success", sa.BigInteger),
    sa.Column("last_failure", sa.BigInteger),
    sa.Column("last_error", sa.Text),
    sa.Column("blocked", sa.Text),  # why it stands still although its owner wants it to run: he may no longer read
    sa.Column("queued_at", sa.BigInteger),  # when a notification was last written to the outbox: for throttling
    sa.UniqueConstraint("id", "org"),
    sa.Index(None, "org", "no"),
    sqlite_autoincrement=True,
)

outbox = sa.Table(
    "notification_outbox",
    metadata,
    sa.Column("no", BigId, primary_key=True, autoincrement=True),
    sa.Column("subscription", sa.BigInteger, nullable=False),
    sa.Column("body", Json, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index(None, "subscription", "no"),
    sqlite_autoincrement=True,
)
"""A notification that must still be delivered; written in the transaction of the change that caused it."""

contexts = sa.Table(
    "ld_contexts",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),  # Hosted: made here; ImplicitlyCreated: for a subscription; Cached: a remote one
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("doc", Json, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("modified_at", sa.BigInteger, nullable=False),
    sa.Column("hits", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("last_usage", sa.BigInteger),
    sa.UniqueConstraint("url", "org"),
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("no", BigId, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("doc", Json, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("modified_at", sa.BigInteger, nullable=False),
    sa.Column("used_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("id", "org"),
    sa.Index(None, "expires_at"),
    sqlite_autoincrement=True,
)

snapshot_entities = sa.Table(
    "snapshot_entities",
    metadata,
    sa.Column("no", BigId, primary_key=True, autoincrement=True),
    sa.Column("snapshot", sa.BigInteger, nullable=False),
    *[
        sa.Column(column.name, column.type, nullable=column.nullable)
        for column in entities.columns if column.name not in ("no", "name", "grade")
    ],
    sa.UniqueConstraint("snapshot", "id", "org"),
    sa.Index(None, "snapshot", "type", "no"),
    sqlite_autoincrement=True,
)
"""Copies of entities as they were: the same columns, so that the same queries run on them. Each keeps its organisation."""

history = sa.Table(
    "attribute_history",
    metadata,
    sa.Column("no", BigId, primary_key=True, autoincrement=True),
    sa.Column("entity", sa.BigInteger, nullable=False),  # entities.no, or less than 0: temporal_entities.no
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),  # when it was written
    sa.Column("changed", sa.BigInteger),  # when an instance of it was last modified, if one was
    sa.Column("whole", sa.Boolean, nullable=False),  # attributes that are not in it ended with it
    sa.Column("first", sa.BigInteger, nullable=False),  # the times of its instances: observedAt, else `at`
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("doc", sa.Text, nullable=False),
    sa.Index(None, "entity", "last", "first"),
)
"""What was written of an entity, a row a write: the document or the fragment of it that changed, in stored form."""

temporal_entities = sa.Table(
    "temporal_entities",
    metadata,
    sa.Column("no", BigId, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("types", Json),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("modified_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("id", "org"),
    sa.Index(None, "type", "no"),
    sqlite_autoincrement=True,
)
"""Entities whose history was provided while they had no current state."""

removed_history = sa.Table(
    "removed_history", metadata,
    sa.Column("entity", sa.BigInteger, primary_key=True, autoincrement=False),
)
"""What `attribute_history.entity` holds of deleted entities; their rows are deleted in small pieces afterwards."""

registrations = sa.Table(
    "csource_registrations",
    metadata,
    sa.Column("no", BigId, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("doc", Json, nullable=False),  # names in stored form
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("modified_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("id", "org"),
    sa.Index(None, "org", "no"),
    sqlite_autoincrement=True,
)
"""Context sources that an organisation has registered (CIM 009, 5.2.9)."""

source_subscriptions = sa.Table(
    "csource_subscriptions",
    metadata,
    sa.Column("no", BigId, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("owner", sa.Text, nullable=False, server_default=""),
    sa.Column("doc", Json, nullable=False),
    sa.Column("context", Json),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("modified_at", sa.BigInteger, nullable=False),
    sa.Column("times_sent", sa.BigInteger, nullable=False),
    sa.Column("times_failed", sa.BigInteger, nullable=False),
    sa.Column("last_notification", sa.BigInteger),
    sa.Column("last_success", sa.BigInteger),
    sa.Column("last_failure", sa.BigInteger),
    sa.Column("last_error", sa.Text),
    sa.Column("blocked", sa.Text),  # as in `subscriptions`
    sa.Column("queued_at", sa.BigInteger),
    sa.UniqueConstraint("id", "org"),
    sa.Index(None, "org", "no"),
    sqlite_autoincrement=True,
)

source_outbox = sa.Table(
    "csource_outbox",
    metadata,
    sa.Column("no", BigId, primary_key=True, autoincrement=True),
    sa.Column("subscription", sa.BigInteger, nullable=False),
    sa.Column("body", Json, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index(None, "subscription", "no"),
    sqlite_autoincrement=True,
)
"""Notifications about registrations that must still be delivered; written with the change that caused them."""

entity_maps = sa.Table(
    "entity_maps",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("doc", Json, nullable=False),  # entity id -> registrations, "@none" for the house
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Index(None, "expires_at"),
)
"""Entities that a query found, fixed for paging (CIM 009, 5.2.39)."""

value_indexes = sa.Table(
    "value_indexes",
    metadata,
    sa.Column("no", BigId, primary_key=True, autoincrement=True),
    sa.Column("attribute", sa.Text, nullable=False, unique=True),  # in stored form
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
"""Attributes whose values have an index, named `ix_entities_value_<no>`; see `value_indexes.py`."""
