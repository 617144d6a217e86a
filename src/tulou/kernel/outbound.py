"""Outbound: the one place that makes requests to addresses that people named.

Law: an address is judged after its name was resolved, and the connection goes to the very address that was judged, so
neither a name, nor a second answer of the name server, nor a redirect (none is followed), leads the house to where it
must not go. Refused are, unless `outbound_allow` names them: loopback, link-local (where clouds keep their metadata),
unspecified, multicast and reserved addresses. The house's own listening ports are refused unless named with the port.
`outbound_deny` wins over everything. Private networks are allowed: the users are on intranets.

An entry of the two settings is a network (`10.1.0.0/16`), an address, a host name (with all its addresses) or
`*.domain`; an address or name may carry a port (`127.0.0.1:9000`, `[::1]:9000`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpcore

from tulou.kernel.errors import Invalid, TulouError
from tulou.kernel.settings import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "192.0.0.192", "fd00:ec2::254")))
"""Where clouds serve credentials outside the link-local range: Alibaba, Oracle, Amazon over IPv6."""
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
DEFAULT_PORTS = {"http": 80, "https": 443, "mqtt": 1883, "mqtts": 8883}
CONNECTIONS = 32
"""Connections to one peer."""
PEERS = 256
"""Peers whose connections are kept; more than these only while all are in use."""


class Refused(Invalid):
    """The house does not connect to this address: 400."""

    code = "address-refused"
    title_zh, title_en = "不允许访问此地址", "Address refused"


class Unreachable(TulouError):
    """No answer: the name is unknown, the connection failed or broke, or the time was up: 502."""

    status, code = 502, "unreachable"
    title_zh, title_en = "对方无法访问", "Unreachable"


class Target(NamedTuple):
    """An address that somebody named, in parts. `path` has the query."""

    scheme: str
    host: str
    port: int
    path: str


class NamedContext(ssl.SSLContext):
    """Checks the certificate against the name that was written, while the connection goes to the judged address: for clients that know
    only the latter."""

    name = ""

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*args, **{**kwargs, "server_hostname": self.name})


class Response(NamedTuple):
    """An answer: header names in lower case; `complete` is False when the body was cut at the limit."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


class _Rule(NamedTuple):
    network: Network | None
    name: str
    port: int | None

    def covers(self, host: str, address: Address, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return address.version == self.network.version and address in self.network
        return host.endswith(self.name[1:]) if self.name.startswith("*.") else host == self.name


def target_of(url: str, schemes: Iterable[str] = ("http", "https")) -> Target:
    """The parts of an address. Raises `Refused` for another scheme, a missing host or a bad port."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _not_an_address(url, schemes) from None
    if parts.scheme not in schemes or not parts.hostname or any(c <= " " for c in url) or port == 0:
        raise _not_an_address(url, schemes)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, _host(parts.hostname), port or DEFAULT_PORTS[parts.scheme], path)


def _not_an_address(url: str, schemes: Iterable[str]) -> Refused:
    known = "、".join(schemes)
    return Refused(f"地址应为 {known} 地址", f"the address must be one of {', '.join(schemes)}",
                   field="url", value=url, rule="RFC 3986")


def _host(name: str) -> str:
    try:
        plain = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        plain = name
    return plain.lower().rstrip(".")


def literal(host: str) -> Address | None:
    """The address that a host text is by itself, in any of the forms that resolvers take (`127.1`, `0x7f000001`)."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def embedded(address: Address) -> Address:
    """The IPv4 address inside a mapped, 6to4 or NAT64 one, else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in ipaddress.IPv6Network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


class Outbound:
    """What may be reached, and the connections to it. One per house; `await close()` at the end."""

    def __init__(self, settings: Settings) -> None:
        self._allow = rules(settings.outbound_allow, "outbound_allow")
        self._deny = rules(settings.outbound_deny, "outbound_deny")
        self._own = frozenset(settings.listening)
        self._pools: OrderedDict[tuple[str, str, int], httpcore.AsyncConnectionPool] = OrderedDict()
        self._tls: ssl.SSLContext | None = None

    def judge(self, host: str, address: Address, port: int) -> str | None:
        """Why a connection to `address`, which `host` means, is refused; None if it is allowed."""
        plain = embedded(address)
        if any(rule.covers(host, plain, port) for rule in self._deny):
            return "outbound_deny"
        allowed = [rule for rule in self._allow if rule.covers(host, plain, port)]
        if port in self._own and not any(rule.port for rule in allowed) and _is_own(plain):
            return "own port"
        if allowed:
            return None
        if plain.is_loopback:
            return "loopback"
        if plain.is_link_local or plain in METADATA:
            return "link-local or metadata"
        if plain.is_unspecified or plain in _THIS_NETWORK:
            return "unspecified"
        if plain.is_multicast:
            return "multicast"
        return "reserved" if plain.is_reserved else None

    def check(self, url: str, schemes: Iterable[str] = ("http", "https")) -> Target:
        """Judge an address that is about to be stored, as far as that needs no name server. Raises `Refused`."""
        target = target_of(url, schemes)
        address = literal(target.host)
        if address is None and (target.host == "localhost" or target.host.endswith(".localhost")):
            address = ipaddress.IPv4Address("127.0.0.1")
        reason = None if address is None else self.judge(target.host, address, target.port)
        if reason is not None:
            raise _refusal(target.host, target.port, reason)
        return target

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of `host` that may be reached, in the resolver's order. Raises `Refused` if there is none,
        `Unreachable` for an unknown name."""
        host = _host(host)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"无法解析 {host}", f"{host} cannot be resolved: {error}", field="host", value=host) from None
        allowed: list[str] = []
        reason = ""
        for text in dict.fromkeys(str(item[4][0]) for item in found):
            address = ipaddress.ip_address(text.partition("%")[0])
            refused = self.judge(host, address, port)
            if refused is None:
                allowed.append(text)
            else:
                reason = refused
        if not allowed:
            raise _refusal(host, port, reason)
        return allowed

    async def request(
        self, method: str, url: str, *, content: bytes | None = None, headers: Mapping[str, str] | None = None,
        timeout: float = 5.0, limit: int = 1 << 16,
    ) -> Response:
        """One HTTP request, `timeout` seconds in all, at most `limit` bytes of the answer's body kept.

        Connections are kept alive. Raises `Refused`, `Unreachable`.
        """
        target = target_of(url)
        own = {name.lower(): (name, value) for name, value in (headers or {}).items()}
        default = DEFAULT_PORTS[target.scheme] == target.port
        host = f"[{target.host}]" if ":" in target.host else target.host
        own["host"] = "Host", host if default else f"{host}:{target.port}"
        if content is not None:
            own["content-length"] = "Content-Length", str(len(content))
        try:
            request = httpcore.Request(
                method, httpcore.URL(scheme=target.scheme.encode(), host=target.host.encode(), port=target.port,
                                     target=target.path.encode()),
                headers=[(name.encode("latin-1"), value.encode("utf-8")) for name, value in own.values()],
                content=content,
            )
            async with asyncio.timeout(timeout):
                return await self._exchange(await self._pool(target), request, limit)
        except TimeoutError:
            raise _unreachable(target, f"no answer within {timeout:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError, ValueError) as error:
            raise _unreachable(target, f"{type(error).__name__}: {error}") from None

    async def _pool(self, target: Target) -> httpcore.AsyncConnectionPool:
        """The connections to one peer. Each has its own: a pool looks at all of its connections for every request."""
        key = target.scheme, target.host, target.port
        pool = self._pools.get(key)
        if pool is None:
            self._tls = self._tls or ssl.create_default_context()
            pool = self._pools[key] = httpcore.AsyncConnectionPool(
                ssl_context=self._tls, max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS,
                keepalive_expiry=30.0, network_backend=_Judged(self),
            )
            if len(self._pools) > PEERS:
                await self._forget(key)
        self._pools.move_to_end(key)
        return pool

    async def _forget(self, new: tuple[str, str, int]) -> None:
        """Close the connections to the peer that was asked longest ago and is not being asked."""
        for key, pool in self._pools.items():
            if key != new and all(one.is_idle() for one in pool.connections):
                del self._pools[key]
                return await pool.aclose()

    async def _exchange(self, pool: httpcore.AsyncConnectionPool, request: httpcore.Request, limit: int) -> Response:
        answer = await pool.handle_async_request(request)
        body, complete = bytearray(), True
        try:
            async for part in answer.aiter_stream():
                body += part
                if len(body) > limit:
                    complete = False
                    break
        finally:
            await answer.aclose()
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
        return Response(answer.status, headers, bytes(body[:limit]), complete)

    async def close(self) -> None:
        """Close the connections."""
        while self._pools:
            await self._pools.popitem()[1].aclose()


class _Judged(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were judged, whatever the pool asks for."""

    def __init__(self, outbound: Outbound) -> None:
        self.outbound = outbound

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: OSError | None = None
        for address in await self.outbound.addresses(host, port):
            try:
                return await _Stream.open(address, port)
            except OSError as error:
                failure = error
        raise httpcore.ConnectError(failure)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Reader(asyncio.StreamReader):
    """Knows whether there is anything to read: bytes, or the end."""

    waiting, ended = 0, False

    def feed_data(self, data: Any) -> None:
        self.waiting += len(data)
        super().feed_data(data)

    def feed_eof(self) -> None:
        self.ended = True
        super().feed_eof()

    async def read(self, n: int = -1) -> bytes:
        data = await super().read(n)
        self.waiting -= len(data)
        return data


class _Stream(httpcore.AsyncNetworkStream):
    """A connection on asyncio's own streams, which cost half of httpcore's; its time is bounded by the request's."""

    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, address: str, port: int) -> _Stream:
        """Raises `OSError`."""
        loop, reader = asyncio.get_running_loop(), _Reader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.create_connection(lambda: protocol, address, port)
        return cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return await self.reader.read(max_bytes)
        except OSError as error:
            raise httpcore.ReadError(error) from None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self.writer.write(buffer)
            await self.writer.drain()
        except OSError as error:
            raise httpcore.WriteError(error) from None

    async def aclose(self) -> None:
        self.writer.close()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            await self.writer.start_tls(ssl_context, server_hostname=server_hostname)
        except OSError as error:
            raise httpcore.ConnectError(error) from None
        return self

    def get_extra_info(self, info: str) -> Any:
        """`is_readable`: whether an idle connection has ended, or has something to say that nobody asked for."""
        if info == "is_readable":
            return self.reader.ended or self.reader.waiting > 0
        return self.writer.get_extra_info(info)


def rules(text: str, name: str) -> list[_Rule]:
    """The entries of a setting. Raises `Invalid` naming the entry that is none."""
    found = []
    for entry in filter(None, (part.strip().lower() for part in text.split(","))):
        try:
            found.append(_rule(entry))
        except ValueError:
            raise Invalid(f"设置项 {name} 中的 {entry} 不是网络、地址或主机名",
                          f"{entry} in setting {name} is no network, address or host name",
                          field=name, value=entry, rule="10.0.0.0/8, 10.1.2.3:80, host, *.domain") from None
    return found


def _rule(entry: str) -> _Rule:
    try:
        return _Rule(ipaddress.ip_network(entry), "", None)
    except ValueError:
        pass
    parts = urlsplit("//" + entry)
    if "/" in entry or not parts.hostname or parts.username is not None:
        raise ValueError(entry)
    address = literal(parts.hostname)
    return _Rule(None if address is None else ipaddress.ip_network(address), _host(parts.hostname), parts.port)


def _is_own(address: Address) -> bool:
    """Whether the address is one of this machine's: only those can be bound to."""
    if address.is_unspecified or address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def _refusal(host: str, port: int, reason: str) -> Refused:
    zh = {
        "outbound_deny": "设置 outbound_deny 禁止", "own port": "本系统自己的端口", "loopback": "本机地址",
        "link-local or metadata": "链路本地或云元数据地址", "unspecified": "未指定地址", "multicast": "组播地址",
        "reserved": "保留地址",
    }[reason]
    return Refused(
        f"不访问 {host}:{port}：{zh}；可由管理员用设置 outbound_allow 放行",
        f"the house does not connect to {host}:{port}: {reason}; the setting outbound_allow can allow it",
        field="url", value=f"{host}:{port}", rule=f"outbound: {reason}",
    )


def _unreachable(target: Target, why: str) -> Unreachable:
    return Unreachable(f"无法访问 {target.host}:{target.port}：{why}", f"{target.host}:{target.port}: {why}",
                       field="url", value=f"{target.scheme}://{target.host}:{target.port}")
