"""A link between two houses that a test can cut, stall and break: a TCP proxy in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Literal

from tulou.kernel.bus import free_port

State = Literal["open", "cut", "stalled"]


class Link:
    """`http://127.0.0.1:<port>` leads to the port `to` while the link is open. Cut: connections are reset and refused. Stalled:
    they are accepted and stay, and nothing passes."""

    def __init__(self, to: int) -> None:
        self.to, self.port = to, free_port()
        self.state: State = "open"
        self.passed = 0
        self.break_after = 0
        """Bytes from now on towards the hub after which every connection is reset, once; 0: never."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()
        assert self._ready.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def be(self, state: State) -> None:
        self.state = state
        if state == "cut":
            self._loop.call_soon_threadsafe(self._reset)

    def close(self) -> None:
        self.state = "cut"
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._meet, "127.0.0.1", self.port))
        self._ready.set()
        self._loop.run_forever()

    async def _end(self) -> None:
        self._reset()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            await asyncio.wait(left, timeout=5)

    def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.state == "cut":
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        await asyncio.gather(self._pass(reader, back, True), self._pass(there, writer, False))

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                while self.state == "stalled":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                if up and self.break_after:
                    self.break_after -= len(data)
                    if self.break_after <= 0:
                        self.break_after = 0
                        self._reset()
                        return
                sink.write(data)
                self.passed += len(data)
                await sink.drain()
        with contextlib.suppress(OSError, RuntimeError):
            sink.close()
