"""What the audit says of changes over NGSI-LD: of entities and their history, subscriptions and registrations.

Law: one row for each operation, in the transaction of the change. A row names the entity and the attributes that were
changed, or the members of a subscription or registration, never their values; a batch names how many, and the digest of
their ids. What devices send is not here: it is
kept as frames and readings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from tulou.kernel import audit
from tulou.kernel.policy import Actor
from tulou.kernel.sql import Database

NAMED = 50
"""Most attributes that a row names; beyond it `attributes_in_all` says how many there were."""


def digest_of(ids: Sequence[str]) -> str:
    """Hexadecimal SHA-256 of entity ids, sorted, each ended by a line feed: what `ids_sha256` holds."""
    return hashlib.sha256("".join(f"{id}\n" for id in sorted(ids)).encode()).hexdigest()


def changed(
    db: Database, actor: Actor | str, action: str, org: str, id: str, attributes: Sequence[str] | None = None
) -> None:
    """From inside a write: one entity was created, changed or deleted."""
    detail: dict[str, Any] | None = None
    if attributes is not None:
        detail = {"attributes": list(attributes[:NAMED])}
        if len(attributes) > NAMED:
            detail["attributes_in_all"] = len(attributes)
    audit.record_soon(db, audit.entry(actor, action, org, id, detail))


def arranged(
    db: Database, actor: Actor | str, action: str, org: str, id: str, members: Sequence[str] | None = None
) -> None:
    """From inside a write: a subscription or registration was created, deleted, or changed in these `members`."""
    audit.record_soon(db, audit.entry(actor, action, org, id, None if members is None else {"members": list(members)}))


def batch(db: Database, actor: Actor | str, action: str, org: str, operation: str, **ids: Sequence[str]) -> None:
    """From inside a write: a batch changed the entities `ids`, given by what was done with them. None is no row."""
    every = [id for some in ids.values() for id in some]
    if every:
        counts = {name: len(some) for name, some in ids.items() if some}
        detail = {"operation": operation, **counts, "ids_sha256": digest_of(every)}
        audit.record_soon(db, audit.entry(actor, action, org, every[0] if len(every) == 1 else "", detail))
