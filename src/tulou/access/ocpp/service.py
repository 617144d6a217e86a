"""What the house decides about charging: which cards may charge, and the number of each transaction.

Law: every operation asks the policy. A card's number is enough to make a copy of it, so to see the list one must be able to change it.
A gateway is answered when what it was told is committed; the same transaction, sent again, has the same number, also after a
crash, and no number is given twice. A card is judged by the nearest organisation that knows it, from the station's own upwards.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from tulou.access.ocpp import ASK
from tulou.access.ocpp.tables import IdTag, charging_transactions, id_tags
from tulou.access.protocols import ocpp
from tulou.kernel import audit
from tulou.kernel.errors import Invalid, NotFound
from tulou.kernel.http import page
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

MANAGE = "access.idtag.manage"
ALL, LISTED = "all", "list"
"""Values of the setting `ocpp_tags`."""
ACCEPTED, BLOCKED, EXPIRED, STRANGE = "Accepted", "Blocked", "Expired", "Invalid"
"""Statuses of a card (1.6, AuthorizationStatus), which 2.0.1 has too."""


def no_such_tag(no: object) -> NotFound:
    """The one error for a card that is not there or must not be known."""
    return NotFound(f"没有卡 {no}", f"no card {no}", field="no", value=no)


def document(row: Any) -> dict[str, Any]:
    """A row of `id_tags` as the API shows it."""
    return {"no": row.no, "org": row.org, "tag": row.tag, "status": "blocked" if row.blocked else "accepted", "label": row.label,
            "expires_at": row.expires_at, "created_at": row.created_at, "created_by": row.created_by}


class Charging:
    """The operations on cards, and the answers to gateways."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.policy, self.db = house.policy, house.db
        if house.settings.ocpp_tags not in (ALL, LISTED):
            raise Invalid(
                f"设置项 ocpp_tags 为 {ALL} 或 {LISTED}，现为 {house.settings.ocpp_tags!r}",
                f"setting ocpp_tags is {ALL} or {LISTED}, not {house.settings.ocpp_tags!r}",
                field="ocpp_tags", value=house.settings.ocpp_tags, rule=f"{ALL} | {LISTED}",
            )

    # -- operations

    @operation(MANAGE)
    async def put(self, actor: Actor, card: IdTag) -> dict[str, Any]:
        """Let a card charge, or block it; again, to change what is known of it."""
        self.policy.require(actor, MANAGE, card.org)
        this = sa.and_(id_tags.c.org == card.org, id_tags.c.tag == card.tag)
        values = {"blocked": card.status == "blocked", "label": card.label, "expires_at": card.expires}

        def write(connection: sa.Connection) -> Any:
            if not connection.execute(id_tags.update().where(this).values(values)).rowcount:
                connection.execute(id_tags.insert().values(
                    org=card.org, tag=card.tag, created_at=utcnow(), created_by=actor.id, **values,
                ))
            audit.record(connection, actor, MANAGE, card.org, f"card {_shortened(card.tag)}", {"change": card.status})
            return connection.execute(sa.select(id_tags).where(this)).one()

        return document(await self.db.write(write))

    @operation(MANAGE)
    async def find(self, actor: Actor, *, org: str | None = None, limit: int = 50, after: str | None = None) -> dict[str, Any]:
        """Cards, newest first. Keyset-paged."""
        orgs = self.policy.require_any(actor, MANAGE).narrow(org)
        query = sa.select(id_tags)
        query = query.where(*within(id_tags.c.org, orgs))
        rows, more = await page(self.db, query, id_tags.c.no, limit, after, newest=True)
        return {"items": [document(row) for row in rows], "next": more}

    @operation(MANAGE)
    async def delete(self, actor: Actor, no: int) -> None:
        """Forget a card. Raises `NotFound`."""
        this = id_tags.c.no == no
        found = await self.db.read(lambda c: c.execute(sa.select(id_tags).where(this)).first())
        row = self.policy.require_seen(actor, MANAGE, MANAGE, found, no_such_tag(no))

        def write(connection: sa.Connection) -> None:
            if connection.execute(id_tags.delete().where(this)).rowcount:
                audit.record(connection, actor, MANAGE, row.org, f"card {_shortened(row.tag)}", {"change": "deleted"})

        await self.db.write(write)

    # -- for doors

    async def open(self) -> None:
        """Answer gateways; several processes share the questions."""
        await self.house.bus.answer(ASK, "charging", self._answer)

    async def _answer(self, question: bytes) -> bytes:
        asked = orjson.loads(question)
        answer: dict[str, Any] = {}
        if asked.get("free"):
            answer["tag"] = ACCEPTED
        elif asked["tag"]:
            answer["tag"] = await self.status(asked["org"], asked["tag"])
        row = None
        if "begin" in asked:
            row = await self.begin(asked["entity"], asked["begin"], asked["place"], asked.get("start"))
        elif "number" in asked:
            row = await self._found(asked["entity"], charging_transactions.c.no == asked["number"])
        elif "find" in asked:
            row = await self._found(asked["entity"], charging_transactions.c.key == digest(asked["find"]))
        if row is not None:
            answer |= {"transaction": row.no, "place": row.place, "start": row.meter_start}
        return orjson.dumps(answer)

    async def status(self, org: str, tag: str) -> str:
        """Whether a card may charge at a station of the organisation."""
        if self.house.settings.ocpp_tags == ALL:
            return ACCEPTED
        above = list(self.policy.ancestors(org))
        query = sa.select(id_tags).where(id_tags.c.tag == tag.lower(), id_tags.c.org.in_(above))
        rows = {row.org: row for row in await self.db.read(lambda c: c.execute(query).all())}
        row = next((rows[one] for one in above if one in rows), None)
        if row is None:
            return STRANGE
        if row.blocked:
            return BLOCKED
        return EXPIRED if row.expires_at is not None and row.expires_at <= utcnow() else ACCEPTED

    async def begin(self, entity: int, what: list[Any], place: int, start: int | None) -> Any:
        """The transaction's row, made if it is not there."""
        key = digest(what)
        this = sa.and_(charging_transactions.c.entity_no == entity, charging_transactions.c.key == key)

        def write(connection: sa.Connection) -> Any:
            before = connection.execute(sa.select(charging_transactions).where(this)).first()
            if before is not None:
                return before
            return connection.execute(charging_transactions.insert().values(
                entity_no=entity, key=key, place=place, meter_start=start, created_at=utcnow(),
            ).returning(charging_transactions)).one()

        return await self.db.write(write)

    async def _found(self, entity: int, which: Any) -> Any:
        query = sa.select(charging_transactions).where(charging_transactions.c.entity_no == entity, which)
        return await self.db.read(lambda c: c.execute(query).first())


def digest(what: list[Any]) -> str:
    """What makes a transaction the same: of 1.6 connector, card, time and meter, of 2.0.1 the station's own id."""
    return hashlib.sha256(orjson.dumps(what)).hexdigest()


def _shortened(tag: str) -> str:
    return ocpp.codec.masked(b'"idTag":"%b' % tag.encode())[9:].decode()
