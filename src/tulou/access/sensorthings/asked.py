"""What a gateway asks the house about SensorThings over MQTT, over the bus.

Law: the policy is asked by the operation itself, for the actor as he is at this moment; who is nobody any more is told nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import orjson

from tulou.access.sensorthings import odata
from tulou.access.sensorthings.publishing import CREATE, READ
from tulou.access.sensorthings.service import SensorThings
from tulou.kernel.errors import TulouError, Unauthenticated
from tulou.kernel.organisations import Credentials
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.sensorthings")


class SensorThingsAsked:
    """Answers gateways."""

    def __init__(self, house: House, things: SensorThings) -> None:
        self.house, self.things = house, things

    async def open(self) -> None:
        """Listen on the bus; several processes share the questions."""
        await self.house.bus.answer(READ, "sensorthings", self._read)
        await self.house.bus.answer(CREATE, "sensorthings", self._create)

    async def _actor(self, name: str) -> Actor:
        actor = await self.house.service(Credentials).actor_named(name)
        if actor is None:
            raise Unauthenticated("凭据不再有效", "the credentials are no longer valid", rule="credentials")
        return actor

    async def _read(self, question: bytes) -> bytes:
        asked = orjson.loads(question)
        try:
            actor = await self._actor(asked["actor"])
            answer = await self.things.read(
                actor, odata.resource(asked["path"]), odata.options([("$select", asked["select"])] if asked["select"] else []), asked["base"])
        except TulouError as error:
            return _problem(error)
        return orjson.dumps({"body": answer.body}, option=orjson.OPT_UTC_Z)

    async def _create(self, question: bytes) -> bytes:
        asked = orjson.loads(question)
        try:
            actor = await self._actor(asked["actor"])
            try:
                body: Any = orjson.loads(asked["body"])
            except orjson.JSONDecodeError:
                body = None
            return orjson.dumps({"made": await self.things.create(actor, odata.resource(asked["path"]), body, asked["base"])})
        except TulouError as error:
            return _problem(error)


def _problem(error: TulouError) -> bytes:
    return orjson.dumps({"status": error.status, "why": error.both})
