"""Who an application at the MQTT door is, and what it may: the house's answers to gateways (`admission.py`).

Law: the policy is asked here, in a process that holds it. An application is whoever shows an API token (as user name or password) or a person's name and
password. It may read topics of its organisation with `access.topic.read`, write them with `access.topic.write`, and
read the telemetry of the organisations of `access.thing.read`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import orjson

from tulou.access.admission import ADMIT, LATER, REFUSED, RIGHTS
from tulou.kernel.errors import Throttled, TulouError, Unauthenticated
from tulou.kernel.organisations import Credentials
from tulou.kernel.policy import Actor, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.applications")

READ, WRITE, TELEMETRY = "access.topic.read", "access.topic.write", "access.thing.read"
PREFIX = "tulou_"
"""With which every API token begins."""


class Applications:
    """The house's side: answers gateways."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.policy = house.policy

    async def open(self) -> None:
        """Listen on the bus; several processes share the questions."""
        for subject, answer in ((ADMIT, self._admit), (RIGHTS, self._rights)):
            await self.house.bus.answer(subject, "applications", _answering(answer))

    async def _admit(self, asked: dict[str, str]) -> dict[str, Any]:
        try:
            actor = await self._actor(asked["user"], asked["password"], asked["address"])
            rights = await self.rights(actor)
        except Throttled as error:
            return {"error": LATER, "why": error.both}
        except TulouError as error:
            return {"error": REFUSED, "why": error.both}
        return rights

    async def _actor(self, user: str, password: str, address: str) -> Actor:
        """Whoever shows these. Raises `Unauthenticated`, `Throttled` or `Forbidden`."""
        credentials = self.house.service(Credentials)
        for secret in (password, user):
            if secret.startswith(PREFIX):
                scope = {
                    "headers": [(b"authorization", b"Bearer " + secret.encode())], "client": (address, 0), "method": "GET"
                }
                actor = await credentials.actor_of(scope)
                if actor is None:
                    break
                return actor
        if not user or not password:
            raise Unauthenticated("请先登录", "sign in first", rule="credentials")
        person = await credentials.proven(user, password, address)
        found = await credentials.actor_named(f"user:{person.name}")
        if found is None:
            raise Unauthenticated("账号或所属组织未启用", "your account or organisation is not active", rule="active")
        return found

    async def _rights(self, asked: dict[str, list[str]]) -> dict[str, Any]:
        """What the actors may now; None for one who may nothing any more."""
        credentials = self.house.service(Credentials)
        found: dict[str, Any] = {}
        for name in asked["actors"]:
            found[name] = None
            actor = await credentials.actor_named(name)
            if actor is not None:
                with contextlib.suppress(TulouError):
                    found[name] = await self.rights(actor)
        return found

    @operation(WRITE)
    async def writes(self, actor: Actor) -> bool:
        """Whether the actor may publish to topics of its organisation."""
        return self.policy.allows(actor, WRITE, actor.org)

    @operation(READ)
    async def rights(self, actor: Actor) -> dict[str, Any]:
        """What the actor may at the MQTT door, as `rights_of` reads it. Raises `Forbidden` if he may nothing there."""
        telemetry = self.policy.visible(actor, TELEMETRY)
        write = await self.writes(actor)
        read = self.policy.allows(actor, READ, actor.org)
        if not (read or write or telemetry):
            self.policy.require(actor, READ, actor.org)
        return {
            "actor": actor.id, "owner": actor.person or actor.id, "space": actor.org, "read": read, "write": write,
            "orgs": None if telemetry.all else sorted(telemetry.ids),
        }


def _answering(answer: Callable[[Any], Awaitable[Any]]) -> Callable[[bytes], Awaitable[bytes]]:
    async def handle(asked: bytes) -> bytes:
        try:
            body = await answer(orjson.loads(asked))
        except Exception:
            log.exception("an application could not be looked up")
            body = {"error": LATER, "why": "现在无法验证身份 (authentication is not possible now)"}
        return orjson.dumps(body)

    return handle
