"""Devices without credential at the MQTT door, in a gateway: the user name is `provision`, the request goes to
`/provision/request`, the answer comes on `/provision/response`.

Law: such a connection may do nothing else, has one request under way, a few in all, and a minute; the house decides.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import nats.errors
import orjson

from tulou.access import mqtt
from tulou.access.provisioning import ASK

if TYPE_CHECKING:
    from tulou.access.gateway import Connection, Gateway

USER = "provision"
REQUEST, RESPONSE = b"/provision/request", b"/provision/response"
LARGEST = 32_768
MOST = 5
"""Requests of a connection."""
TOGETHER = 64
"""Requests of a gateway that are under way."""
LASTS = 60
"""Seconds that a connection may stay."""


class ProvisionDoor:
    """The connections of one gateway that ask for a credential."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.room = asyncio.Semaphore(TOGETHER)
        self.open: dict[Connection, int] = {}

    def enter(self, connection: Connection) -> Applicant:
        """A connection begins to ask."""
        self.open[connection] = self.gateway.tick
        return Applicant(self, connection)

    def sweep(self) -> None:
        """Once a second."""
        for connection, since in list(self.open.items()):
            if self.gateway.tick - since > LASTS:
                connection.close("no request in time", mqtt.ADMINISTRATIVE)


class Applicant:
    """A device that asks for its credential."""

    def __init__(self, door: ProvisionDoor, connection: Connection) -> None:
        self.door, self.connection = door, connection
        self.asked = 0
        self.asking = False

    def handle(self, event: Any) -> bool:
        """Handle one packet. False if the following ones must not be handled."""
        connection, kind = self.connection, type(event)
        if kind is mqtt.Publish and event.topic == REQUEST and event.qos < 2:
            for number, payload in enumerate(event.payloads):
                if self.asking or self.asked >= MOST or len(payload) > LARGEST:
                    connection.close("one request at a time, a few in all", mqtt.QUOTA, told=True)
                    return False
                self.asked += 1
                self.asking = True
                self.door.gateway.spawn(self._ask(payload, event.ids[number] if event.qos else None))
        elif kind is mqtt.Subscribe:
            codes = [0 if topic.encode() == RESPONSE else mqtt.NOT_ALLOWED for topic, _ in event.filters]
            connection.send(mqtt.suback(event.id, codes, connection.level))
        elif kind is mqtt.PingRequest:
            connection.send(mqtt.PINGRESP)
        elif kind is mqtt.Unsubscribe:
            connection.send(mqtt.unsuback(event.id, bytes(len(event.filters)), connection.level))
        else:
            connection.close("a device without credential may only ask for one", mqtt.NOT_ALLOWED)
            return False
        return True

    async def _ask(self, payload: bytes, receipt: bytes | None) -> None:
        body = orjson.dumps({"address": self.connection.peer, "request": payload.decode("utf-8", "replace")})
        try:
            async with self.door.room:
                answer = (await self.door.gateway.bus.nc.request(ASK, body, timeout=20)).data
        except (nats.errors.Error, TimeoutError, OSError):
            answer = orjson.dumps({"status": "FAILURE", "errorMsg": "暂时不可用 (not available now)"})
        finally:
            self.asking = False
        if receipt is not None:
            self.connection.send(mqtt.pubacks([receipt]))
        self.connection.publish(RESPONSE, answer)
