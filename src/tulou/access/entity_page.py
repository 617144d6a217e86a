"""What people ask of one entity by its identifier, whether it has a device or not: the entity page's questions.

Law: each question asks the policy where its answer lies: entities, subscriptions and the audit have rights of their
own, and what the actor may not see is not found, as if it did not exist.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.access.things import READ, Things, no_such_thing
from tulou.context import ContextService, Neighbours, entities
from tulou.kernel.audit import Audit
from tulou.kernel.errors import Invalid
from tulou.kernel.http import API, cursor, from_cursor, json_response, limit_of, path_number, route
from tulou.kernel.organisations import Organisations
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import within

if TYPE_CHECKING:
    from tulou.kernel.house import House

MOST = 100
"""Most identifiers that are looked for at once."""
SAME = 500
"""Most entities of an answer: an identifier may be used by several organisations."""
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class EntityPages:
    """The operations behind the entity page that are not those of `Things` or of NGSI-LD."""

    def __init__(self, house: House, things: Things) -> None:
        self.house = house
        self.policy = house.policy
        self.things = things

    @operation(READ)
    async def named(self, actor: Actor, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The visible entities of these identifiers `{no, id, type, name, synthetic, org, org_name, org_name_en}`: one an
        identifier and organisation, the actor's own organisation first, at most `SAME`. Raises `Invalid`."""
        orgs = self.policy.require_any(actor, READ)
        if not 1 <= len(ids) <= MOST:
            raise Invalid(f"应有 1 至 {MOST} 个 id", f"there must be 1 to {MOST} ids", field="id", value=len(ids),
                          rule=f"1..{MOST}")
        table = entities.c
        query = sa.select(table.no, table.id, table.type, table.name, table.synthetic, table.org).where(table.id.in_(ids))
        query = query.where(*within(table.org, orgs))
        query = query.order_by(table.org != actor.org, table.no).limit(SAME)
        return [self._item(row) for row in await self.house.db.read(lambda c: c.execute(query).all())]

    def _item(self, row: Any) -> dict[str, Any]:
        known = self.house.service(Organisations).rows.get(row.org, {})
        return {
            "no": row.no, "id": row.id, "type": row.type, "name": row.name or "", "synthetic": bool(row.synthetic),
            "org": row.org, "org_name": known.get("name_zh", row.org), "org_name_en": known.get("name_en", row.org),
        }

    @operation(READ)
    async def incoming(self, actor: Actor, id: str, *, limit: int = 50, after: str | None = None) -> dict[str, Any]:
        """Visible entities that point to `id`, with the attributes that do: see `Neighbours.incoming`."""
        self.policy.require_any(actor, READ)
        last = from_cursor(after, 1)
        found, more = await self.house.service(Neighbours).incoming(
            actor, id, limit=limit, after=int(last[0]) if last else 0
        )
        return {
            "items": [{**self._item(row), "paths": row.paths} for row in found],
            "next": cursor([more]) if more is not None else None,
        }

    @operation(READ)
    async def subscriptions(self, actor: Actor, no: int) -> dict[str, Any]:
        """Subscriptions in force that name the thing: `{items: [{satisfied, subscription}]}`. Raises `NotFound`."""
        self.policy.require_any(actor, READ)
        id, org = await self.things.key(actor, no)
        found = await self.house.service(Neighbours).subscriptions(actor, id, tenant=org)
        return {"items": [{"satisfied": satisfied, "subscription": document} for document, satisfied in found]}

    @operation(READ)
    async def audit(self, actor: Actor, no: int) -> dict[str, Any]:
        """What the audit says of the thing and its device: `Audit.about`, with `created_at` and `modified_at`. Raises
        `NotFound`, and `Forbidden` for who may not read the audit of its organisation."""
        self.policy.require_any(actor, READ)
        id, org = await self.things.key(actor, no)
        row = await self.house.service(ContextService).retrieve(actor, id, tenant=org)
        device = await self.things.devices.of_entity(actor, no)
        made = EPOCH + dt.timedelta(microseconds=row.created_at)
        changed = EPOCH + dt.timedelta(microseconds=row.modified_at)
        subjects = [id] if device is None else [id, device["id"]]
        found = await self.house.service(Audit).about(actor, org, subjects, made)
        return {**found, "created_at": made.isoformat(), "modified_at": changed.isoformat()}


def routes(house: House) -> list[BaseRoute]:
    """The routes of the entity page, as docs/api.md lists them."""
    pages = house.service(EntityPages)

    def id_of(request: Request) -> str:
        found = request.query_params.get("id")
        if not found:
            raise Invalid("缺少 id", "id is missing", field="id", rule="required")
        return found

    def number(request: Request) -> int:
        return path_number(request, "no", no_such_thing)

    async def named(request: Request, actor: Actor) -> Response:
        return json_response({"items": await pages.named(actor, request.query_params.getlist("id"))})

    async def incoming(request: Request, actor: Actor) -> Response:
        after = request.query_params.get("after") or None
        return json_response(await pages.incoming(actor, id_of(request), limit=limit_of(request), after=after))

    def of_thing(question: Callable[[Actor, int], Awaitable[dict[str, Any]]]) -> Callable[..., Awaitable[Response]]:
        async def handler(request: Request, actor: Actor) -> Response:
            return json_response(await question(actor, number(request)))

        return handler

    return [
        route(house, "GET", f"{API}/entities", named),
        route(house, "GET", f"{API}/entities/incoming", incoming),
        route(house, "GET", API + "/things/{no}/subscriptions", of_thing(pages.subscriptions)),
        route(house, "GET", API + "/things/{no}/audit", of_thing(pages.audit)),
    ]
