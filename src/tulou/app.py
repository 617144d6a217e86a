"""The front door: `tulou up` puts the house together, serves HTTP and keeps the children alive.

Law: the address is printed only when everything that was asked for is ready; a signal ends everything in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import orjson
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from tulou import __version__, access
from tulou.kernel.house import ASGI, House
from tulou.kernel.http import SECURITY_HEADERS, Scope, not_found, problem_response
from tulou.kernel.plugins import flat
from tulou.kernel.settings import Settings

log = logging.getLogger("tulou.app")

HEADER_MS = 10_000
"""Milliseconds within which the head of a request comes, the first and each further one of a connection."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Front:
    """The ASGI application: hot doors by prefix first, then the router; security headers on every answer."""

    def __init__(self, house: House) -> None:
        self.doors: list[tuple[str, ASGI]] = []
        for part in reversed(house.hooks.hook.doors(house=house)):
            self.doors.extend(part.items())
        self.router = Starlette(routes=flat(house.hooks.hook.routes(house=house)), exception_handlers={404: _missing})
        secure = bool(house.settings.tls_certificate)
        self.headers = [
            *SECURITY_HEADERS,
            *([(b"strict-transport-security", b"max-age=31536000")] if secure else []),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = self.headers

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        path = scope["path"]
        for prefix, door in self.doors:
            if path.startswith(prefix):
                await door(scope, receive, secured)
                return
        await self.router(scope, receive, secured)


def _allow_files(connections: int) -> None:
    """As many open files as connections need, as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 1000
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


async def _missing(_request: Request, _error: Exception) -> Response:
    return problem_response(not_found())


def address(settings: Settings) -> str:
    """The address people open."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    scheme = "https" if settings.tls_certificate else "http"
    host = "127.0.0.1" if settings.bind in ("0.0.0.0", "::", "") else settings.bind  # noqa: S104
    return f"{scheme}://{host}:{settings.http_port}"


class Running:
    """A started house with its HTTP server, for `up` and for tests: `await start()`, `await stop()`."""

    def __init__(self, settings: Settings, roles: tuple[str, ...]) -> None:
        self.settings = settings
        self.roles = roles
        self.house = House(settings)
        self.server: Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.run_file = settings.home / "run.json"

    async def start(self) -> None:
        _allow_files(self.settings.max_http_connections)
        await self.house.start(self.roles)
        if "gateway" in self.roles:
            await access.start_gateway(self.house)
        if "api" in self.roles:
            settings = self.settings
            # In its mode `auto` the server waits for ever for the first byte of a connection, and takes no more of them than `backpressure`.
            self.server = Server(
                Front(self.house), address=settings.bind, port=settings.http_port, interface=Interfaces.ASGINL, http=HTTPModes.http1,
                http1_settings=HTTP1Settings(header_read_timeout=HEADER_MS), backpressure=settings.max_http_connections,
                log_enabled=False, websockets=False, backlog=1024,
                ssl_cert=Path(settings.tls_certificate) if settings.tls_certificate else None,
                ssl_key=Path(settings.tls_key) if settings.tls_key else None,
            )
            self._serving = asyncio.create_task(self.server.serve(), name="http")
            await self._listening()
        self._write_run_file()

    async def _listening(self) -> None:
        host = "127.0.0.1" if self.settings.bind in ("0.0.0.0", "::", "") else self.settings.bind  # noqa: S104
        for _ in range(500):
            if self._serving is not None and self._serving.done():
                await self._serving
                raise RuntimeError("the HTTP server ended")
            try:
                _, writer = await asyncio.open_connection(host, self.settings.http_port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return
        raise RuntimeError(f"HTTP did not come up on {host}:{self.settings.http_port}")

    def _write_run_file(self) -> None:
        temporary = self.run_file.with_suffix(".tmp")
        temporary.touch(0o600)
        temporary.write_bytes(
            orjson.dumps(
                {
                    "pid": os.getpid(),
                    "address": address(self.settings),
                    "token": self.house.local_token,
                    "roles": self.roles,
                    "version": __version__,
                    "started": time.time(),
                }
            )
        )
        temporary.replace(self.run_file)

    async def stop(self) -> None:
        self.run_file.unlink(missing_ok=True)
        if self.server is not None and self._serving is not None:
            self.house.service(access.Hub).close()
            self.server.stop()  # type: ignore[no-untyped-call]
            await asyncio.wait([self._serving], timeout=10)
        await self.house.stop()


def collect_rarely() -> None:
    """What start-up made stays out of garbage collections, which look at what requests make, and less often.

    A collection of everything takes 25-50 ms, in which nothing is answered.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def up(settings: Settings, roles: tuple[str, ...], ready: Callable[[Running], None]) -> None:
    """Run the house until SIGINT or SIGTERM; calls `ready` when every door is open."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    running = Running(settings, roles)
    try:
        await running.start()
        collect_rarely()
        ready(running)
        await stopping.wait()
    finally:
        await running.stop()
