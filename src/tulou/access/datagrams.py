"""A field protocol over UDP: what an address sends is a connection of its own, so that messages in several datagrams find
together.

Law: as much as at a TCP door is held of an address, and what comes while it is not read is dropped beyond `HELD` bytes, and
counted: UDP promises nothing. Of so many addresses as `MOST` the one that was silent longest makes room.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, cast

MOST = 1000
HELD = 256 << 10


class _Way:
    """What a connection takes for its transport: the datagrams of one address."""

    def __init__(self, ways: Datagrams, address: tuple[Any, ...], protocol: asyncio.Protocol) -> None:
        self.ways, self.address, self.protocol = ways, address, protocol
        self.paused = self.closed = False
        self.waiting: deque[bytes] = deque()
        self.held = 0

    def take(self, data: bytes) -> None:
        if not self.paused and not self.waiting:
            self.protocol.data_received(data)
        elif self.held + len(data) > HELD:
            self.ways.dropped += 1
        else:
            self.waiting.append(data)
            self.held += len(data)

    def get_extra_info(self, name: str) -> Any:
        return self.address if name == "peername" else None

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        while self.waiting and not self.paused and not self.closed:
            data = self.waiting.popleft()
            self.held -= len(data)
            self.protocol.data_received(data)

    def write(self, data: bytes) -> None:
        """Nothing is said to an address that anybody may have written on a datagram."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.ways.left(self)
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close


class Datagrams(asyncio.DatagramProtocol):
    """A socket; `connect` makes the connection of an address, `end` follows each datagram."""

    def __init__(self, connect: Callable[[], asyncio.Protocol], end: bytes) -> None:
        self._connect, self._end = connect, end
        self._ways: OrderedDict[tuple[Any, ...], _Way] = OrderedDict()
        self._transport: asyncio.BaseTransport | None = None
        self.dropped = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        way = self._ways.get(addr)
        if way is None:
            while len(self._ways) >= MOST:
                next(iter(self._ways.values())).close()
            way = self._ways[addr] = _Way(self, addr, self._connect())
            way.protocol.connection_made(cast(asyncio.BaseTransport, way))
        else:
            self._ways.move_to_end(addr)
        if not way.closed:
            way.take(data + self._end)

    def left(self, way: _Way) -> None:
        if self._ways.get(way.address) is way:
            del self._ways[way.address]

    def close(self) -> None:
        """Take no more."""
        if self._transport is not None:
            self._transport.close()
