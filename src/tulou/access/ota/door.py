"""Chunks of firmware at the MQTT door, in a gateway: `v2/fw/request/<id>/chunk/<n>`, the convention that integrators know.

Law: the house decides what a device may have (`firmware.py`), a gateway carries it. A connection has `WINDOW` requests
under way at most, a gateway `TOGETHER`; a connection that does not read its answers is not read either. What cannot be
had is said on `v2/fw/error`.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import nats.errors
import orjson

from tulou.access import mqtt
from tulou.kernel.bus import Bus

if TYPE_CHECKING:
    from tulou.access.gateway import Connection

ASK = "tulou.firmware.ask"
"""Subject: a gateway asks for a chunk. The answer is `GOOD` and its bytes, or `BAD` and why not."""
GOOD, BAD = b"+", b"-"
REQUEST = b"v2/fw/request/"
FILTERS = r"v2/fw/(error|response/[^#]+)"
"""What a device may subscribe to."""
LARGEST_CHUNK = 512 << 10
WINDOW = 4
TOGETHER = 64

_TOPIC = re.compile(rb"v2/fw/request/([^/]{1,32})/chunk/([0-9]{1,9})")
_SIZE = re.compile(rb"[0-9]{1,7}")


class FirmwareDoor:
    """The chunks that the devices of one gateway asked for."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._asking: dict[Connection, int] = {}
        self._room = asyncio.Semaphore(TOGETHER)

    def asked(self, connection: Connection, entity: int, topic: bytes, payload: bytes) -> None:
        """A device asks for a chunk; `payload` is the size of its chunks."""
        found = _TOPIC.fullmatch(topic)
        if found is None or not _SIZE.fullmatch(payload) or not 0 < int(payload) <= LARGEST_CHUNK:
            self._refuse(connection, f"v2/fw/request/<id>/chunk/<n>, 1..{LARGEST_CHUNK}".encode())
        elif self._asking.get(connection, 0) >= WINDOW:
            self._refuse(connection, f"同时请求过多，至多 {WINDOW} 个 (more than {WINDOW} requests under way)".encode())
        else:
            size = int(payload)
            self._asking[connection] = self._asking.get(connection, 0) + 1
            connection.hold(size)
            connection.gateway.spawn(self._answer(connection, entity, found[1], int(found[2]), size))

    async def _answer(self, connection: Connection, entity: int, request: bytes, number: int, size: int) -> None:
        body = orjson.dumps({"entity": entity, "chunk": number, "size": size})
        try:
            async with self._room:
                reply = (await self.bus.nc.request(ASK, body, timeout=30)).data
        except (nats.errors.Error, TimeoutError, OSError):
            reply = BAD + "暂时不可用 (not available now)".encode()
        finally:
            left = self._asking.pop(connection) - 1
            if left:
                self._asking[connection] = left
            connection.release(size)
        if reply[:1] != GOOD:
            self._refuse(connection, reply[1:])
            return
        packet = mqtt.publish(b"v2/fw/response/%b/chunk/%d" % (request, number), reply[1:], level=connection.level)
        if connection.packet_limit and len(packet) > connection.packet_limit:
            self._refuse(connection, f"{len(packet)} > {connection.packet_limit}".encode())
        else:
            connection.send(packet)

    def _refuse(self, connection: Connection, why: bytes) -> None:
        connection.send(mqtt.publish(b"v2/fw/error", why, level=connection.level))
