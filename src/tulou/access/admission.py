"""What a gateway asks the house about an application that connects, over the bus (answered by `applications.py`).

Law: a gateway decides nothing here; it believes what it was told for at most `RECHECK` seconds, and asks again at once
when people, tokens or organisations changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from tulou.kernel.bus import Bus

ADMIT, RIGHTS = "tulou.mqtt.admit", "tulou.mqtt.rights"
RECHECK = 15.0
REFUSED, LATER = "refused", "later"


@dataclass(frozen=True, slots=True)
class Rights:
    """Of an application: its actor, whom its sessions belong to, its topic space, and what it may there. `orgs` are the
    organisations whose telemetry it may read; None: every one."""

    actor: str
    owner: str
    space: str
    read: bool
    write: bool
    orgs: frozenset[str] | None

    def sees(self, org: str) -> bool:
        return self.orgs is None or org in self.orgs


def nobody(space: str) -> Rights:
    """A client without credentials, where the setting `mqtt_anonymous` lets it in: a topic space of their own, which is
    no organisation's, and no telemetry."""
    return Rights("", "", f"~{space}", True, True, frozenset())


class Refused(Exception):
    """The house does not let this client in: `later` if it may try again; the text is Chinese and English."""

    def __init__(self, why: str, later: bool = False) -> None:
        super().__init__(why)
        self.later = later


def _rights(body: dict[str, Any]) -> Rights:
    orgs = body["orgs"]
    return Rights(body["actor"], body["owner"], body["space"], body["read"], body["write"],
                  None if orgs is None else frozenset(orgs))


async def admit(bus: Bus, user: str, password: str, address: str) -> Rights:
    """Who this is. Raises `Refused`, or what the bus raises when nobody answers."""
    asked = orjson.dumps({"user": user, "password": password, "address": address})
    answer = orjson.loads((await bus.nc.request(ADMIT, asked, timeout=10)).data)
    if "error" in answer:
        raise Refused(answer["why"], answer["error"] == LATER)
    return _rights(answer)


async def rights_now(bus: Bus, actors: list[str]) -> dict[str, Rights | None]:
    """What these actors may now; None for those who may nothing. Raises what the bus raises when nobody answers."""
    found: dict[str, Rights | None] = {}
    for start in range(0, len(actors), 500):
        asked = orjson.dumps({"actors": actors[start : start + 500]})
        answer = orjson.loads((await bus.nc.request(RIGHTS, asked, timeout=10)).data)
        found.update({name: None if body is None else _rights(body) for name, body in answer.items()})
    return found
