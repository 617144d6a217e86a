"""A publisher of MQTT 3.1.1 at QoS 1, as small as a sensor's: one connection, one access token.

Law: it knows of the house only what the standard and the device convention say (the token is the user name), and it
counts a message as sent only when the house has acknowledged it.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Self

TELEMETRY = "v1/devices/me/telemetry"
REFUSALS = {1: "protocol version", 2: "client id", 3: "unavailable", 4: "bad token", 5: "not authorised"}


class Refused(ConnectionError):
    """CONNACK with a return code other than 0 (3.2.2.3)."""


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data


def packet(first: int, body: bytes) -> bytes:
    """Fixed header, remaining length (2.2.3) and body."""
    length, size = bytearray(), len(body)
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (0x80 if size else 0))
        if not size:
            return bytes([first]) + bytes(length) + body


class Publisher:
    """One device's connection: `async with Publisher(...) as p: await p.publish(payload)`."""

    def __init__(self, host: str, port: int, token: str, *, client_id: str = "", keep_alive: int = 60, window: int = 32) -> None:
        self.host, self.port, self.token = host, port, token
        self.client_id, self.keep_alive = client_id, keep_alive
        self._free = asyncio.Semaphore(window)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._next = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self.host, self.port)
        connect = _text("MQTT") + bytes([4, 0x82]) + struct.pack("!H", self.keep_alive)
        self._writer.write(packet(0x10, connect + _text(self.client_id) + _text(self.token)))
        try:
            async with asyncio.timeout(30):  # wait_for of Python 3.11 can lose a cancellation
                answer = await self._reader.readexactly(4)
        except (TimeoutError, asyncio.IncompleteReadError) as error:
            self._writer.close()
            raise ConnectionError("no CONNACK") from error
        if answer[0] != 0x20 or answer[3] != 0:
            self._writer.close()
            raise Refused(REFUSALS.get(answer[3], f"return code {answer[3]}"))
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._keep())]
        return self

    async def publish(self, payload: bytes, topic: str = TELEMETRY) -> None:
        """Publish and wait for the acknowledgement. Raises `ConnectionError` when the connection goes first."""
        async with self._free:
            while True:
                self._next = self._next % 65_535 + 1
                if self._next not in self._waiting:
                    break
            number = self._next
            if self._writer.is_closing():
                raise ConnectionResetError("the connection is closed")
            done = asyncio.get_running_loop().create_future()
            self._waiting[number] = done
            self._writer.write(packet(0x32, _text(topic) + struct.pack("!H", number) + payload))
            await self._writer.drain()
            await done

    async def _listen(self) -> None:
        try:
            while True:
                first, size = await self._reader.readexactly(2)
                body = await self._reader.readexactly(size)  # PUBACK and PINGRESP are shorter than 128 bytes
                if first == 0x40 and (done := self._waiting.pop(struct.unpack("!H", body[:2])[0], None)):
                    done.set_result(None)
        except (OSError, asyncio.IncompleteReadError) as error:
            self._writer.close()
            for done in self._waiting.values():
                if not done.done():
                    done.set_exception(ConnectionResetError(str(error)))
            self._waiting.clear()

    async def _keep(self) -> None:
        while not self._writer.is_closing():
            await asyncio.sleep(self.keep_alive / 2)
            self._writer.write(packet(0xC0, b""))

    async def __aexit__(self, *_exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(OSError):
            self._writer.write(packet(0xE0, b""))
            self._writer.close()
            await self._writer.wait_closed()
        for done in self._waiting.values():
            done.cancel()
