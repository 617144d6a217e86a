"""Warnings: drafted by one person, signed by a second, published as CAP 1.2, and never changed after.

Law: what is published is kept as the bytes that were signed. A change is an Update, the end a Cancel: each a draft of its own that names
the earlier ones and is signed in the same way. A warning of synthetic data is an Exercise, whatever its author says.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Forbidden, NotFound
from tulou.kernel.http import page
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow, within
from tulou.packs.ecology.cap import Alert, Info, build
from tulou.packs.ecology.tables import warnings

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, DRAFT, SIGN = "ecology.warning.read", "ecology.warning.create", "ecology.warning.approve"
PUBLIC = "ecology.published.read"
DRAFTED, PUBLISHED = "draft", "published"
ZONE = dt.timezone(dt.timedelta(hours=8))


class NewWarning(BaseModel):
    """A draft. `changes` is the published warning that it updates or cancels. `info` is CAP's, in each language."""

    model_config = ConfigDict(extra="forbid")

    org: str = Field(min_length=1, max_length=64)
    kind: Literal["Alert", "Update", "Cancel"] = "Alert"
    changes: int | None = None
    synthetic: bool = False
    note: str | None = Field(default=None, max_length=2000)
    info: list[Info] = Field(min_length=1, max_length=8)


def no_such_warning(no: object) -> NotFound:
    """There is no such warning, or none that the actor may see."""
    return NotFound(f"没有预警 {no}", f"there is no warning {no}", field="id", value=no)


def document(row: Any) -> dict[str, Any]:
    """A warning as the API shows it."""
    return {
        "id": row.id, "org": row.org, "identifier": row.identifier, "first": row.first, "version": row.version, "state": row.state,
        **row.document, "drafted_by": row.drafted_by, "drafted_at": row.drafted_at, "signed_by": row.signed_by,
        "published_at": row.published_at,
    }


class Warnings:
    """The operations on warnings."""

    def __init__(self, house: House) -> None:
        self.house, self.db, self.policy = house, house.db, house.policy

    @operation(DRAFT)
    async def draft(self, actor: Actor, new: NewWarning) -> dict[str, Any]:
        """Write a draft. Raises `NotFound`, and `Conflict` where `changes` is no published warning of this organisation that still holds."""
        self.policy.require(actor, DRAFT, new.org)
        if (new.kind == "Alert") != (new.changes is None):
            raise Conflict("Update 与 Cancel 须指明 changes，Alert 没有", "Update and Cancel name what they change, an Alert does not",
                           field="changes", value=new.changes, rule="changes")

        def write(connection: sa.Connection) -> Any:
            first, version = None, 1
            if new.changes is not None:
                before = connection.execute(sa.select(warnings).where(
                    warnings.c.id == new.changes, warnings.c.org == new.org, warnings.c.state == PUBLISHED)).first()
                if before is None:
                    raise no_such_warning(new.changes)
                first = before.first or before.id
                last = _chain(connection, first)[-1]
                if last.state == DRAFTED:
                    raise Conflict(f"已有草稿 {last.id}", f"there is a draft {last.id} already", field="changes", value=new.changes, rule="one draft")
                if last.document["kind"] == "Cancel":
                    raise Conflict(f"预警 {first} 已解除", f"the warning {first} is cancelled", field="changes", value=new.changes, rule="not cancelled")
                version = last.version + 1
            row = connection.execute(warnings.insert().values(
                org=new.org, identifier=f"draft-{actor.id}-{utcnow():%Y%m%d%H%M%S%f}", first=first, version=version, state=DRAFTED,
                document={"kind": new.kind, "synthetic": new.synthetic, "note": new.note, "info": [one.model_dump(mode="json") for one in new.info]},
                drafted_by=_person(actor), drafted_at=utcnow(),
            ).returning(warnings)).one()
            row = connection.execute(warnings.update().where(warnings.c.id == row.id).values(
                identifier=f"{new.org}.{row.drafted_at:%Y%m%d}.{row.id}").returning(warnings)).one()
            audit.record(connection, actor, DRAFT, new.org, f"warning {row.id}", {"kind": new.kind, "changes": new.changes})
            return row

        return document(await self.db.write(write))

    @operation(SIGN)
    async def sign(self, actor: Actor, id: int) -> dict[str, Any]:
        """Sign and publish a draft. Raises `Forbidden` for who drafted it, `Conflict` when it is published already."""
        seen = await self._row(actor, SIGN, id)
        if not actor.person:
            raise Forbidden("预警须由具名的人签发", "a warning is signed by a named person", field="actor", value=actor.id, rule="a person")
        if _person(actor) == seen.drafted_by:
            raise Forbidden("须由起草人以外的人签发", "another person than the author signs", field="id", value=id, rule="second person")

        def write(connection: sa.Connection) -> Any:
            row = connection.execute(sa.select(warnings).where(warnings.c.id == id).with_for_update()).one()
            if row.state != DRAFTED:
                raise Conflict(f"预警 {id} 已发布", f"the warning {id} is published", field="id", value=id, rule="draft")
            earlier = [one for one in _chain(connection, row.first) if one.state == PUBLISHED] if row.first else []
            sent = utcnow().replace(microsecond=0)
            xml = build(Alert(
                identifier=row.identifier, sender=_sender(row.org), sent=sent.astimezone(ZONE), kind=row.document["kind"],
                status="Exercise" if row.document["synthetic"] else "Actual",
                note=row.document["note"] or ("Exercise: synthetic data 演练：合成数据" if row.document["synthetic"] else None),
                references=[(_sender(one.org), one.identifier, one.published_at.astimezone(ZONE)) for one in earlier],
                info=[Info.model_validate(one) for one in row.document["info"]],
            )).decode()
            made = connection.execute(warnings.update().where(warnings.c.id == id, warnings.c.state == DRAFTED).values(
                state=PUBLISHED, xml=xml, signed_by=_person(actor), published_at=sent).returning(warnings)).one()
            audit.record(connection, actor, SIGN, row.org, f"warning {id}", {"identifier": row.identifier, "version": row.version})
            return made

        return document(await self.db.write(write))

    @operation(DRAFT)
    async def drop(self, actor: Actor, id: int) -> None:
        """Throw a draft away. Raises `Conflict` for what is published."""
        row = await self._row(actor, DRAFT, id)

        def write(connection: sa.Connection) -> None:
            if not connection.execute(warnings.delete().where(warnings.c.id == id, warnings.c.state == DRAFTED)).rowcount:
                raise Conflict(f"预警 {id} 已发布", f"the warning {id} is published", field="id", value=id, rule="draft")
            audit.record(connection, actor, DRAFT, row.org, f"warning {id}", {"dropped": True})

        await self.db.write(write)

    @operation(READ)
    async def get(self, actor: Actor, id: int) -> dict[str, Any]:
        """One warning, also a draft. Raises `NotFound`."""
        return document(await self._row(actor, READ, id))

    @operation(PUBLIC)
    async def find(self, actor: Actor, *, limit: int = 50, after: str | None = None) -> dict[str, Any]:
        """Published warnings of everyone, and drafts of organisations whose drafts the actor sees; newest first."""
        self.policy.require_any(actor, PUBLIC)
        drafts = self.policy.visible(actor, READ)
        query = sa.select(warnings).where(sa.or_(warnings.c.state == PUBLISHED, sa.and_(sa.true(), *within(warnings.c.org, drafts))))
        rows, more = await page(self.db, query, warnings.c.id, limit, after, newest=True)
        return {"items": [document(row) for row in rows], "next": more}

    @operation(PUBLIC)
    async def xml(self, actor: Actor, id: int) -> bytes:
        """The CAP document of a published warning. Raises `NotFound`."""
        self.policy.require_any(actor, PUBLIC)
        query = sa.select(warnings.c.xml).where(warnings.c.id == id, warnings.c.state == PUBLISHED)
        text = await self.db.read(lambda c: c.execute(query).scalar())
        if text is None:
            raise no_such_warning(id)
        return bytes(text, "utf-8")

    async def _row(self, actor: Actor, action: str, id: int) -> Any:
        row = await self.db.read(lambda c: c.execute(sa.select(warnings).where(warnings.c.id == id)).first())
        return self.policy.require_seen(actor, READ, action, row, no_such_warning(id))


def _chain(connection: sa.Connection, first: int) -> list[Any]:
    """A warning and what came after it, in order."""
    return list(connection.execute(sa.select(warnings).where(
        sa.or_(warnings.c.id == first, warnings.c.first == first)).order_by(warnings.c.version)).all())


def _person(actor: Actor) -> str:
    return actor.person or actor.id


def _sender(org: str) -> str:
    """The sender of an organisation, unique as CAP asks."""
    return f"{org}@tulou"
