"""Requests to addresses that people named: what is refused, and that the address judged is the address connected to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tulou.kernel.errors import Invalid
from tulou.kernel.outbound import Outbound, Refused, Unreachable
from tulou.kernel.settings import Settings

Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def outbound(**settings: Any) -> Outbound:
    return Outbound(Settings(home=Path("unused"), **settings))


@asynccontextmanager
async def server(answer: bytes, *, pause: float = 0.0, host: str = "127.0.0.1") -> AsyncIterator[tuple[int, list[bytes]]]:
    """An HTTP server that gives one answer to every request: (port, first bytes of every connection)."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = b""
        seen.append(connection)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                seen[-1] += head
                await asyncio.sleep(pause)
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, host, 0)
    try:
        yield listener.sockets[0].getsockname()[1], seen
    finally:
        listener.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nhi"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1/", "loopback"), ("http://127.8.9.1:99/x", "loopback"), ("http://localhost/", "loopback"),
        ("http://LOCALHOST./", "loopback"), ("http://a.localhost/", "loopback"), ("http://[::1]/", "loopback"),
        ("http://[::ffff:127.0.0.1]/", "loopback"), ("http://2130706433/", "loopback"), ("http://0x7f.1/", "loopback"),
        ("http://[64:ff9b::7f00:1]/", "loopback"), ("http://[2002:7f00:1::]/", "loopback"),
        ("http://169.254.169.254/latest/meta-data", "link-local or metadata"),
        ("http://100.100.100.200/latest/meta-data", "link-local or metadata"),
        ("http://[fe80::1]/", "link-local or metadata"), ("http://[fd00:ec2::254]/", "link-local or metadata"),
        ("http://0.0.0.0/", "unspecified"), ("http://0.1.2.3/", "unspecified"), ("http://[::]/", "unspecified"),
        ("http://224.0.0.1/", "multicast"), ("http://[ff02::1]/", "multicast"), ("http://255.255.255.255/", "reserved"),
    ],
)
async def test_addresses_of_the_machine_and_of_clouds_are_refused_by_default(url: str, reason: str) -> None:
    out = outbound()
    with pytest.raises(Refused) as at_creation:
        out.check(url)
    assert reason in str(at_creation.value)
    assert "outbound_allow" in at_creation.value.zh
    with pytest.raises((Refused, Unreachable)):  # a.localhost may be unknown
        await out.request("GET", url)
    await out.close()


@pytest.mark.parametrize("url", ["http://10.1.2.3/", "http://192.168.1.1:8080/x?y=1", "https://[fd12::1]/", "http://example.cn"])
def test_intranets_are_allowed_by_default(url: str) -> None:
    assert outbound().check(url).host in url


@pytest.mark.parametrize("url", ["ftp://10.0.0.1/", "http:///x", "http://10.0.0.1:99999/", "http://a b/", "/x", "mqtt://10.0.0.1"])
def test_what_is_no_http_address_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        outbound().check(url)
    with pytest.raises(Refused):
        outbound(outbound_deny="10.0.0.0/8").check("mqtt://10.0.0.1", ("mqtt",))


def test_deny_wins_over_allow() -> None:
    out = outbound(outbound_allow="127.0.0.0/8, [::1]:9000", outbound_deny="127.0.0.2,10.0.0.0/8,*.example.cn,bad.cn")
    assert out.check("http://127.0.0.1:99/").port == 99
    assert out.check("http://[::1]:9000/").port == 9000
    for url in ("http://127.0.0.2/", "http://10.9.9.9/", "http://[::1]:9001/", "http://[::ffff:10.9.9.9]/"):
        with pytest.raises(Refused):
            out.check(url)


async def test_names_are_judged_by_what_they_resolve_to() -> None:
    async with server(OK) as (port, _):
        with pytest.raises(Refused):
            await outbound().addresses("localhost", port)
        out = outbound(outbound_allow="localhost")
        assert (await out.request("GET", f"http://localhost:{port}/")).body == b"hi"
        with pytest.raises(Refused):
            await out.request("GET", f"http://127.0.0.1:{port}/")
        with pytest.raises(Refused):
            await outbound(outbound_allow="127.0.0.0/8,::1", outbound_deny="localhost").request(
                "GET", f"http://localhost:{port}/"
            )
        await out.close()
    with pytest.raises(Unreachable):
        await outbound().addresses("no-such-host.invalid", 80)


async def test_the_address_that_was_judged_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers differently each time (DNS rebinding) is asked once for a connection."""
    async with server(OK) as (port, seen):
        answers = iter(["127.0.0.1", "169.254.169.254", "127.0.0.1"])
        real = socket.getaddrinfo

        def rebinding(host: Any, *args: Any, **kwargs: Any) -> Any:
            return real(next(answers) if host == "rebind.test" else host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        out = outbound(outbound_allow="127.0.0.0/8")
        assert (await out.request("GET", f"http://rebind.test:{port}/")).ok
        assert f"host: rebind.test:{port}".encode() in seen[0].lower()
        await out.close()
        with pytest.raises(Refused):
            await out.request("GET", f"http://rebind.test:{port}/")
        await out.close()


async def test_the_own_ports_are_refused_even_where_the_network_is_allowed() -> None:
    async with server(OK) as (port, seen):
        for settings in ({"http_port": port}, {"mqtt_port": port}, {"mqtts_port": port}):
            with pytest.raises(Refused, match="own port"):
                await outbound(outbound_allow="127.0.0.0/8", **settings).request("GET", f"http://127.0.0.1:{port}/")
        assert not seen
        named = outbound(outbound_allow=f"127.0.0.1:{port}", http_port=port)
        assert (await named.request("GET", f"http://127.0.0.1:{port}/")).ok
        await named.close()


async def test_answers_are_bounded_and_redirects_are_not_followed() -> None:
    out = outbound(outbound_allow="127.0.0.0/8")
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000
    async with server(big) as (port, seen):
        answer = await out.request("GET", f"http://127.0.0.1:{port}/", limit=1000)
        assert (answer.status, len(answer.body), answer.complete) == (200, 1000, False)
    async with server(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n") as (port, seen):
        answer = await out.request("POST", f"http://127.0.0.1:{port}/a?b=1", content=b"{}", headers={"X-Key": "值"})
        assert (answer.status, answer.ok, answer.headers["location"]) == (302, False, "http://127.0.0.1/")
        assert len(seen) == 1
        assert seen[0].startswith(b"POST /a?b=1 HTTP/1.1\r\n")
        assert "x-key: 值".encode() in seen[0].lower()
    await out.close()


async def test_connections_are_kept_and_the_time_is_bounded_in_all() -> None:
    out = outbound(outbound_allow="127.0.0.0/8")
    async with server(OK) as (port, seen):
        for _ in range(5):
            assert (await out.request("GET", f"http://127.0.0.1:{port}/")).complete
        assert len(seen) == 1
    async with server(OK, pause=30) as (port, _):
        with pytest.raises(Unreachable, match=r"0\.2 s"):
            await out.request("GET", f"http://127.0.0.1:{port}/", timeout=0.2)
    with pytest.raises(Unreachable):
        await out.request("GET", f"http://127.0.0.1:{port}/", headers={"bad header": "x"})
    await out.close()


@pytest.mark.parametrize("text", ["10.0.0.0/33", "a/b", "http://x", "10.0.0.1:99999"])
def test_a_setting_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(Invalid) as error:
        outbound(outbound_allow=f"127.0.0.1,{text}")
    assert error.value.field == "outbound_allow"


async def test_a_connection_that_the_peer_ended_or_spoke_on_is_not_used_again() -> None:
    """A peer may close an idle connection, or send something that nobody asked for, at any time."""
    extra: list[bytes] = [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"]
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(extra[connections % 2])
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    out = outbound(outbound_allow="127.0.0.1")
    for number in range(1, 5):
        assert (await out.request("GET", f"http://127.0.0.1:{port}/")).body == b"hi"
        assert connections == number
        await asyncio.sleep(0.1)
    await out.close()
    listener.close()


async def test_connections_are_kept_to_so_many_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tulou.kernel.outbound.PEERS", 2)
    out = outbound(outbound_allow="127.0.0.1")
    async with server(OK) as (one, _), server(OK) as (two, _), server(OK) as (three, seen), server(OK, pause=0.3) as (slow, _):
        slower = asyncio.create_task(out.request("GET", f"http://127.0.0.1:{slow}/"))
        await asyncio.sleep(0.05)
        for port in (one, two, three, one, two, three):
            assert (await out.request("GET", f"http://127.0.0.1:{port}/")).body == b"hi"
        assert len(out._pools) <= 3
        assert (await slower).body == b"hi"
        assert len(seen) == 2, "its connection was closed meanwhile"
        await out.close()
