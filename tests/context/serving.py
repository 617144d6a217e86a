"""A real HTTP server on loopback for ASGI applications: what plays a context source, or a second house, in tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import h11
import orjson


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The address of `app` while the block runs."""
    connections: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        wire = h11.Connection(h11.SERVER)
        try:
            while await _one(app, wire, reader, writer):
                wire.start_next_cycle()
        except (ConnectionError, h11.ProtocolError, asyncio.CancelledError):
            pass
        finally:
            connections.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _one(app: Any, wire: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    async def event() -> Any:
        while (found := wire.next_event()) is h11.NEED_DATA:
            wire.receive_data(await reader.read(65536))
        return found

    request = await event()
    if not isinstance(request, h11.Request):
        return False
    body = b""
    while isinstance(part := await event(), h11.Data):
        body += bytes(part.data)
    path, _, query = request.target.partition(b"?")
    scope = {
        "type": "http", "method": request.method.decode(), "path": path.decode(), "raw_path": path, "query_string": query,
        "headers": [(bytes(name).lower(), bytes(value)) for name, value in request.headers], "client": ("127.0.0.1", 1),
        "scheme": "http", "server": ("127.0.0.1", 80),
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            data = wire.send(h11.Response(status_code=message["status"], headers=message["headers"]))
        else:
            data = wire.send(h11.Data(data=message["body"])) + wire.send(h11.EndOfMessage())
        writer.write(data)
        await writer.drain()

    await app(scope, receive, send)
    return wire.our_state is h11.DONE and wire.their_state is h11.DONE


class Source:
    """A context source that answers what it is told and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []
        self.asked = asyncio.Event()
        self.pause = 0.0

    def answer(self, method: str, path: str, status: int, body: Any = None) -> None:
        """What to answer to requests of this method and path (without the query)."""
        self.answers[(method, path)] = (status, body)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        data = (await receive())["body"]
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        path = scope["path"] + (f"?{query}" if query else "")
        self.seen.append((scope["method"], path, headers, orjson.loads(data) if data else None))
        self.asked.set()
        await asyncio.sleep(self.pause)
        status, body = self.answers.get((scope["method"], scope["path"].removeprefix("/ngsi-ld/v1")), (404, {}))
        raw = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        await send({"type": "http.response.start", "status": status, "headers": [
            (b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode()),
        ]})
        await send({"type": "http.response.body", "body": raw})
