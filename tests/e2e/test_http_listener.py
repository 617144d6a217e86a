"""The HTTP server of a running house against connections that cost it something."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tulou.app import HEADER_MS, Running
from tulou.kernel import http
from tulou.kernel.bus import free_port
from tulou.kernel.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    made = Running(Settings(home=tmp_path_factory.mktemp("http") / "home", http_port=free_port(), mqtt_port=0, max_http_connections=2000), ("api", "writer"))
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.settings.http_port}", trust_env=False, timeout=20) as made:
        made.headers["authorization"] = f"Bearer {running.house.local_token}"
        yield made


async def begun(running: Running, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.settings.http_port)
    writer.write(data)
    return reader, writer


async def rest(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(HEADER_MS / 1000 + 20):
            return await reader.read()
    return b""


async def test_silent_and_slow_connections_keep_nobody_out_and_are_closed(running: Running, client: httpx.AsyncClient) -> None:
    head = b"GET /api/v1/models HTTP/1.1\r\nHost: x\r\nX-Slow: "
    many = [await begun(running, b"" if number % 2 else head) for number in range(1500)]
    assert (await client.get("/api/v1/models")).status_code == 200, "another is served beside 1,500"
    slow = asyncio.create_task(rest(many[0][0]))
    while not slow.done():
        with contextlib.suppress(ConnectionError):
            many[0][1].write(b"a")
        await asyncio.wait([slow], timeout=1)
    for reader, writer in many:
        await rest(reader)
        writer.close()
    assert (await client.get("/api/v1/models")).status_code == 200


async def test_what_is_too_large_is_refused(running: Running, client: httpx.AsyncClient) -> None:
    reader, _ = await begun(running, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 20))
    assert (await rest(reader)).startswith(b"HTTP/1.1 431")
    reader, _ = await begun(running, b"\x00\xff" * 1000)
    assert (await rest(reader)).startswith((b"HTTP/1.1 400", b""))
    answer = await client.post("/api/v1/devices", content=b" " * (http.MAX_BODY + 1), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["field"]) == (413, "body")


async def test_a_body_that_does_not_come_is_given_up(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PATIENCE", 1.0)
    auth = f"Authorization: Bearer {running.house.local_token}\r\n".encode()
    reader, writer = await begun(running, b"POST /api/v1/devices HTTP/1.1\r\nHost: x\r\n" + auth + b"Content-Length: 100000\r\n\r\n{")
    slow = asyncio.create_task(reader.readline())
    while not slow.done():
        writer.write(b" ")
        await asyncio.wait([slow], timeout=0.2)
    assert slow.result().startswith(b"HTTP/1.1 408")
    writer.close()
