"""Which network server of LoRaWAN an organisation has.

Law: the address is judged as every one that people name, when it is given and when it is dialled. A password is kept and never shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tulou.access.lorawan.tables import NetworkServer, lorawan_servers
from tulou.access.quotas.service import no_such_org
from tulou.access.service import READ, WRITE
from tulou.kernel import audit
from tulou.kernel.errors import NotFound
from tulou.kernel.organisations import Organisations
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow

if TYPE_CHECKING:
    from tulou.kernel.house import House

CHANGED = "lorawan"


class LoRaWanServers:
    """The operations."""

    def __init__(self, house: House) -> None:
        self.house, self.policy, self.db = house, house.policy, house.db

    @operation(READ)
    async def get(self, actor: Actor, org: str) -> dict[str, Any]:
        """The organisation's own server, with `password` true where there is one. Raises `NotFound`."""
        self._mine(actor, READ, org)
        row = await self.db.read(lambda c: c.execute(sa.select(lorawan_servers).where(lorawan_servers.c.org == org)).first())
        if row is None:
            raise _none(org)
        body = NetworkServer.model_validate_json(row.document).model_dump()
        return {"org": org, **body, "password": body["password"] is not None, "updated_at": row.updated_at, "updated_by": row.updated_by}

    @operation(WRITE)
    async def put(self, actor: Actor, org: str, server: NetworkServer) -> dict[str, Any]:
        """Send downlinks by this server from now on. Without a password the one of the same user at the same address stays."""
        self._mine(actor, WRITE, org)
        self.house.outbound.check(server.url, ("mqtt", "mqtts"))
        here = lorawan_servers.c.org == org

        def write(connection: sa.Connection) -> None:
            wanted, before = server, connection.execute(sa.select(lorawan_servers).where(here)).first()
            if before is not None and server.password is None:
                old = NetworkServer.model_validate_json(before.document)
                if (old.url, old.user) == (server.url, server.user):
                    wanted = old
            values = {"document": wanted.model_dump_json(), "updated_at": utcnow(), "updated_by": actor.id}
            if before is None:
                connection.execute(lorawan_servers.insert().values(org=org, **values))
            else:
                connection.execute(lorawan_servers.update().where(here).values(values))
            audit.record(connection, actor, WRITE, org, org, {"change": "lorawan", "url": server.url})

        await self.db.write(write)
        await self.house.changed(CHANGED, org)
        return await self.get(actor, org)

    @operation(WRITE)
    async def delete(self, actor: Actor, org: str) -> None:
        """Send no downlinks by it any more. Raises `NotFound`."""
        self._mine(actor, WRITE, org)

        def write(connection: sa.Connection) -> None:
            if not connection.execute(lorawan_servers.delete().where(lorawan_servers.c.org == org)).rowcount:
                raise _none(org)
            audit.record(connection, actor, WRITE, org, org, {"change": "lorawan no more"})

        await self.db.write(write)
        await self.house.changed(CHANGED, org)

    def _mine(self, actor: Actor, action: str, org: str) -> None:
        if org not in self.policy.require_any(actor, READ) or org not in self.house.service(Organisations).rows:
            raise no_such_org(org)
        self.policy.require(actor, action, org)


def _none(org: str) -> NotFound:
    return NotFound(f"{org} 没有 LoRaWAN 网络服务器", f"{org} has no network server of LoRaWAN", field="org", value=org)
