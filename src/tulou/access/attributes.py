"""Desired attributes in a gateway: `v1/devices/me/attributes` of MQTT, the convention that integrators know, and what CoAP
observes.

Law: the house knows what devices are to be (`shadow.py`), a gateway tells them. A device that subscribes is told what
it is not yet; after that, what changes. Questions are put together: a storm of devices is a few requests.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

import nats.errors
import orjson
from nats.aio.msg import Msg

from tulou.access import mqtt
from tulou.access.gathering import Gathering
from tulou.kernel.bus import Bus

if TYPE_CHECKING:
    from tulou.access.gateway import Connection

log = logging.getLogger("tulou.gateway")

DELTA, ASK, CHANGED = "tulou.shadow.delta", "tulou.shadow.ask", "tulou.shadow.changed"
"""Subjects: what devices are not yet; what one asks for; what is desired anew."""
TOPIC = b"v1/devices/me/attributes"
RESPONSE = b"v1/devices/me/attributes/response/"
ROOM = 1024
"""Bytes that a question of a device holds until it is answered."""


class Listener(Protocol):
    """A connection or an observation that is told of changes: the JSON of a change, at the quality of service it asked for."""

    def told(self, change: bytes, qos: int) -> None: ...


class Attributes:
    """The devices of one gateway that want to hear what they are to be."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._listening: dict[int, dict[Listener, int]] = {}
        self.new: Gathering[int] = Gathering(self._ask)
        """The entities whose devices are to be told; its `run` is to be a task."""

    async def open(self) -> None:
        """Hear of changes."""
        await self.bus.nc.subscribe(CHANGED, cb=self._changed)

    def listen(self, listener: Listener, entity: int, qos: int) -> None:
        """The device subscribed: it is told what it is not yet."""
        self.watch(listener, entity, qos)
        self.new.add([entity])

    def watch(self, listener: Listener, entity: int, qos: int = 0) -> None:
        """The device is told what changes from now on."""
        self._listening.setdefault(entity, {})[listener] = qos

    def leave(self, listener: Listener, entity: int) -> None:
        """The device listens here no more."""
        same = self._listening.get(entity)
        if same is not None and same.pop(listener, None) is not None and not same:
            del self._listening[entity]

    def again(self) -> None:
        """What the house said may have been lost: ask for every device."""
        self.new.add(self._listening)

    async def _ask(self, entities: list[int]) -> None:
        """Tell devices that are new what they are not yet."""
        here = [no for no in entities if no in self._listening]
        if here:
            reply = await self.bus.nc.request(DELTA, orjson.dumps({"entities": here}), timeout=10)
            for no, delta in orjson.loads(reply.data).items():
                self._tell(int(no), delta)

    async def _changed(self, message: Msg) -> None:
        change = orjson.loads(message.data)
        if change["entity"] in self._listening:
            self._tell(change["entity"], told(change))

    def _tell(self, entity: int, values: dict[str, Any]) -> None:
        payload = orjson.dumps(values)
        for listener, qos in self._listening.get(entity, {}).items():
            listener.told(payload, qos)

    async def answer(self, connection: Connection, entity: int, number: bytes, payload: bytes) -> None:
        """A device asks for values: `{"clientKeys": "a,b", "sharedKeys": "c"}`; of all without either."""
        try:
            asked = orjson.loads(payload or b"{}")
            wanted = {
                name: names(None if asked.get(key) is None else str(asked[key]))
                for name, key in (("client", "clientKeys"), ("shared", "sharedKeys"))
            }
            reply = (await self.bus.nc.request(ASK, orjson.dumps({"entity": entity, **wanted}), timeout=10)).data
        except (orjson.JSONDecodeError, AttributeError):
            reply = b'{"error":"not a JSON object"}'
        except (nats.errors.Error, TimeoutError, OSError):
            reply = b'{"error":"not available now"}'
        connection.release(ROOM)
        connection.send(mqtt.publish(RESPONSE + number, reply, level=connection.level))


def told(change: dict[str, Any]) -> dict[str, Any]:
    """A change as devices are told it: the new values, and the names of what is gone under `deleted`."""
    return {**change["set"], **({"deleted": change["deleted"]} if change["deleted"] else {})}


def names(text: str | None) -> list[str] | None:
    """A list of names with commas between, as devices ask for values."""
    return None if text is None else [name for name in text.split(",") if name][:200]
