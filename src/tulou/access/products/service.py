"""The operations on products.

Law: every operation asks the policy. An organisation sees its own products and those of the organisations above it; another's is
answered like one that there is not, but that its name is taken. What a product may not say is refused before it is committed; what
is committed every process follows: this one before it answers, the others by `tulou.changed.products`, and whoever lost that
when its connection to the bus is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa
from pydantic import ValidationError

from tulou.access.products.tables import (
    Draft,
    NewProduct,
    ProductChange,
    above,
    declared,
    document_of,
    every_product,
    model_of,
    names_of,
    products,
)
from tulou.access.protocols import Codec
from tulou.context import ContextService, fitted, fresh_iris, terms_of
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound, TulouError
from tulou.kernel.http import broken_rules, page
from tulou.kernel.organisations import Organisations
from tulou.kernel.packs import Model
from tulou.kernel.policy import EVERYWHERE, ROOT, Actor, Orgs, operation
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.products")

READ, CREATE, WRITE, DELETE, MANAGE = (f"access.product.{verb}" for verb in ("read", "create", "write", "delete", "manage"))
CHANGED = "products"
PER_ORG = 500
LARGEST = 512 << 10
"""Bytes of one model."""

_of = products.c


def no_such_product(name: object) -> NotFound:
    """The one error for a product that is not there or must not be known."""
    return NotFound(f"没有产品 {name}", f"no product {name}", field="name", value=name)


class Products:
    """The operations on products."""

    def __init__(self, house: House, codecs: Mapping[str, Codec]) -> None:
        self.house, self.codecs = house, codecs
        self.policy, self.db = house.policy, house.db
        self.context = house.service(ContextService)
        self._reading = asyncio.Lock()
        self._retained = house.retention()
        self._news = asyncio.Event()
        house.packs.followers.append(self._news.set)

    async def open(self) -> None:
        """Follow what other processes change; needs the bus."""
        bus = self.house.bus
        await bus.on_changed(CHANGED, lambda _name: self.reload())
        bus.returned.append(self.reload)
        await bus.nc.flush()
        await self.reload()

    async def reload(self) -> None:
        """Hold what the store has."""
        async with self._reading:
            rows = await self.db.read(lambda c: c.execute(every_product()).all())
            await self.house.declare(await asyncio.to_thread(declared, rows, self.house.packs))

    async def retain(self, house: House) -> None:
        """The task of a process with readings: how long they are kept follows the products."""
        while True:
            self._news.clear()
            wanted = house.retention()
            if wanted != self._retained:
                await house.readings.apply_retention(wanted)
                self._retained = wanted
            await self._news.wait()

    # -- operations

    @operation(READ)
    async def find(self, actor: Actor, *, org: str | None = None, limit: int = 50, after: str | None = None) -> dict[str, Any]:
        """Products, those of the organisations above included. Keyset-paged."""
        orgs = self.policy.require_any(actor, READ)
        query = sa.select(products)
        query = query.where(*within(_of.org, above(self.policy, orgs).narrow(org)))
        rows, more = await page(self.db, query, _of.no, limit, after)
        return {"items": await self._documents(actor, rows, orgs), "next": more}

    @operation(READ)
    async def get(self, actor: Actor, name: str) -> dict[str, Any]:
        """One product with its model. Raises `NotFound`."""
        row, orgs = await self._seen(actor, name)
        return {**(await self._documents(actor, [row], orgs))[0], "model": orjson.loads(row.model)}

    @operation(CREATE)
    async def create(self, actor: Actor, new: NewProduct) -> dict[str, Any]:
        """Declare a product; devices of the type can be made from then on. Raises `Invalid`, `Conflict`."""
        self.policy.require(actor, CREATE, new.org)
        self.house.service(Organisations).must_have(new.org)
        self._speakable(new.model)

        def write(connection: sa.Connection) -> None:
            self._alone(connection)
            self._nameable(connection, new.org, new.name)
            mine = sa.select(sa.func.count()).select_from(products).where(_of.org == new.org)
            if connection.execute(mine).scalar_one() >= PER_ORG:
                raise Conflict(f"{new.org} 的产品已达 {PER_ORG} 个", f"{new.org} has {PER_ORG} products", field="org", value=new.org,
                               rule=f"<= {PER_ORG}")
            settled = self._settled(connection, actor, new.name, new.model, None)
            now = utcnow()
            connection.execute(products.insert().values(
                name=new.name, org=new.org, model=_text(new.model), settled=orjson.dumps(settled).decode(), version=1,
                created_at=now, created_by=actor.id, updated_at=now, updated_by=actor.id,
            ))
            audit.record(connection, actor, CREATE, new.org, f"product {new.name}", {"properties": sorted(new.model.properties)[:50]})

        try:
            await self.db.write(write)
        except sa.exc.IntegrityError:
            raise _taken(new.name) from None
        await self._changed(new.name)
        return await self.get(actor, new.name)

    @operation(WRITE)
    async def replace(self, actor: Actor, name: str, change: ProductChange) -> dict[str, Any]:
        """Say anew what a product is. Raises `NotFound`, `Invalid`; `Conflict` where somebody changed it meanwhile, and where
        there are entities of the type whose values rest on what would change."""
        row, _ = await self._seen(actor, name)
        self.policy.require(actor, WRITE, row.org)
        self._speakable(change.model)

        def write(connection: sa.Connection) -> None:
            self._alone(connection)
            before = connection.execute(sa.select(products).where(_of.no == row.no)).first()
            if before is None:
                raise no_such_product(name)
            if before.version != change.version:
                raise _meanwhile(before.version, change.version)
            settled = self._settled(connection, actor, name, change.model, before)
            connection.execute(products.update().where(_of.no == row.no).values(
                model=_text(change.model), settled=orjson.dumps(settled).decode(), version=before.version + 1,
                updated_at=utcnow(), updated_by=actor.id,
            ))
            audit.record(connection, actor, WRITE, row.org, f"product {name}", {
                "version": before.version + 1, "properties": sorted(change.model.properties)[:50],
            })

        await self.db.write(write)
        await self._changed(name)
        return await self.get(actor, name)

    @operation(DELETE)
    async def delete(self, actor: Actor, name: str) -> None:
        """Delete a product. Raises `NotFound`; `Conflict` while there are entities of the type."""
        row, _ = await self._seen(actor, name)
        self.policy.require(actor, DELETE, row.org)

        def write(connection: sa.Connection) -> None:
            self._alone(connection)
            number = sum(self.context.kept_counts(connection, EVERYWHERE).get(name, {}).values())
            if number:
                raise Conflict(
                    f"尚有 {number} 个 {name} 类型的实体，不能删除此产品", f"there are {number} entities of the type {name}: it cannot be deleted",
                    field="name", value=name, rule="no entities of the type",
                )
            if connection.execute(products.delete().where(_of.no == row.no)).rowcount:
                audit.record(connection, actor, DELETE, row.org, f"product {name}", {"version": row.version})

        await self.db.write(write)
        await self._changed(name)

    @operation(CREATE)
    async def check(self, actor: Actor, draft: Draft) -> dict[str, Any]:
        """Every rule that a product would break, for who is writing it. Nothing is made."""
        self.policy.require(actor, CREATE, draft.org)
        found: list[TulouError] = []
        new: NewProduct | None = None
        try:
            new = NewProduct.model_validate({"org": draft.org, "name": draft.name, "model": draft.model})
        except ValidationError as error:
            found += broken_rules(error)

        def read(connection: sa.Connection) -> None:
            before = None
            if draft.version is None:
                self._nameable(connection, draft.org, draft.name)
            else:
                mine = sa.select(products).where(_of.name == draft.name, _of.org == draft.org)
                before = connection.execute(mine).first()
                if before is None:
                    raise no_such_product(draft.name)
                if before.version != draft.version:
                    raise _meanwhile(before.version, draft.version)
            if new is not None:
                self._speakable(new.model)
                self._settled(connection, actor, new.name, new.model, before)

        try:
            await self.db.read(read)
        except TulouError as error:
            found.append(error)
        return {"errors": [error.problem() for error in found]}

    # -- rules

    def _alone(self, connection: sa.Connection) -> None:
        """Within a write: nobody else changes products or the counts of entities until the commit."""
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": audit.LOCK})

    def _nameable(self, connection: sa.Connection, org: str, name: str) -> None:
        """Raises `Conflict` for a name that is taken: by a pack, a product, or entities of organisations that would not have it."""
        packs = self.house.packs
        if name in packs.own:
            raise Conflict(f"类型 {name} 属于包 {packs.pack_of[name]}", f"the type {name} is of the pack {packs.pack_of[name]}",
                           field="name", value=name, rule="one name, once")
        if connection.execute(sa.select(_of.no).where(_of.name == name)).first() is not None:
            raise _taken(name)
        counts = self.context.kept_counts(connection, EVERYWHERE).get(name, {})
        if any(org not in self.policy.ancestors(whose) for whose in counts):
            raise _taken(name)

    def _speakable(self, model: Model) -> None:
        """Raises `Invalid` for codes of a protocol that the house does not speak, and what does not fit the store."""
        for name, prop in model.properties.items():
            for protocol in prop.codes:
                if protocol not in self.codecs:
                    known = sorted(self.codecs.keys() - {"lwm2m"})
                    raise Invalid(
                        f"没有协议 {protocol}，可用 {'、'.join(known)}", f"there is no protocol {protocol}, but {', '.join(known)}",
                        field=f"model.properties.{name}.codes", value=protocol, rule="a spoken protocol",
                    )
        if len(document_of(model)) > LARGEST:
            raise Invalid(f"模型超过 {LARGEST} 字节", f"the model has more than {LARGEST} bytes", field="model", rule=f"<= {LARGEST}")

    def _settled(
        self, connection: sa.Connection, actor: Actor, name: str, model: Model, before: Any | None
    ) -> dict[str, list[str]]:
        """What is to be kept of kinds and IRIs. Raises `Invalid` for IRIs that contradict the house's, or that only who
        administers the house may give; `Conflict` for a change of what stored values rest on."""
        others = declared(
            [row for row in connection.execute(every_product()).all() if row.name != name], self.house.packs
        )
        terms = terms_of({**self.house.packs.own, **{kind: known for kind, (_, known) in others.items()}})
        try:
            fresh = fresh_iris(name, model, terms)
        except Invalid as error:
            error.field = _place(name, error.field)
            raise
        own = names_of(name, fitted(name, model, terms))
        old: dict[str, list[str]] = {} if before is None else orjson.loads(before.settled)
        fresh = [where for where in fresh if (key := where.removeprefix(name).removeprefix(".")) not in old or old[key][1] != own[key][1]]
        if fresh and not self.policy.allows(actor, MANAGE, ROOT):
            raise Invalid(
                f"{fresh[0]}：名称的 IRI 全平台共用，新的 IRI 只有平台管理员可以给出；可留空",
                f"{fresh[0]}: a name's IRI is the whole house's, and a new one is given by who administers it; it may be left empty",
                field=_place(name, fresh[0]), rule="an IRI that the house has",
            )
        if before is None or not self.context.kept_counts(connection, EVERYWHERE).get(name):
            return own
        for key, (kind, iri) in own.items():
            if key in old and old[key] != [kind, iri]:
                what = ("kind", "类型", old[key][0]) if old[key][0] != kind else ("iri", "IRI", old[key][1])
                raise Conflict(
                    f"已有 {name} 类型的实体，属性 {key or name} 的{what[1]}须保持 {what[2] or '空'}",
                    f"there are entities of the type {name}: the {what[0]} of {key or name} stays {what[2] or 'empty'}",
                    field=f"model.properties.{key}.{what[0]}" if key else "model.iri", value=kind if what[0] == "kind" else iri,
                    rule="no entities of the type",
                )
        return {**old, **own}

    # -- rows

    async def _seen(self, actor: Actor, name: str) -> tuple[Any, Orgs]:
        """The product that the actor may see, and the organisations in which he may."""
        orgs = self.policy.require_any(actor, READ)
        query = sa.select(products).where(_of.name == name)
        row = await self.db.read(lambda c: c.execute(query).first())
        if row is None or row.org not in above(self.policy, orgs):
            raise no_such_product(name)
        return row, orgs

    async def _documents(self, actor: Actor, rows: Sequence[Any], orgs: Orgs) -> list[dict[str, Any]]:
        counts = await self.db.read(lambda c: self.context.kept_counts(c, orgs)) if rows else {}
        return [{
            **_document(row), "entities": sum(counts.get(row.name, {}).values()), "writable": self.policy.allows(actor, WRITE, row.org),
        } for row in rows]

    async def _changed(self, name: str) -> None:
        await self.reload()
        await self.house.changed(CHANGED, name)


def _document(row: Any) -> dict[str, Any]:
    model = None
    try:
        model = model_of(row.model)
    except ValidationError:
        log.debug("product %s was made by another version of the house", row.name)
    return {
        "name": row.name, "org": row.org, "version": row.version,
        "label_zh": model.label.zh if model else row.name, "label_en": model.label.en if model else row.name,
        "icon": model.icon or None if model else None, "open": bool(model and model.open),
        "properties": len(model.properties) if model else 0, "commands": len(model.commands) if model else 0,
        "created_at": row.created_at, "created_by": row.created_by, "updated_at": row.updated_at, "updated_by": row.updated_by,
    }


def _text(model: Model) -> str:
    return document_of(model).decode()


def _place(name: str, where: str | None) -> str:
    """A place of the house's context (`Type`, `Type.property`) as a field of the request."""
    key = (where or "").removeprefix(name).removeprefix(".")
    return f"model.properties.{key}.iri" if key else "model.iri"


def _taken(name: str) -> Conflict:
    return Conflict(f"类型名称 {name} 已被占用", f"the name {name} is taken", field="name", value=name, rule="one name, once")


def _meanwhile(version: int, seen: int) -> Conflict:
    return Conflict(f"产品已是版本 {version}，有人在此期间作了更改", f"the product is at version {version}: it was changed meanwhile",
                    field="version", value=seen, rule=str(version))
