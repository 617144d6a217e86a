"""One connection to a server of OPC UA: its subscription, what people browse and commands do there.

Law: a notification is acknowledged (with the next Publish) when what it says is durable, so the server keeps it until then.
A session and its subscription outlive their connection (part 4, 6.7): the next connection activates the session again, and
asks for what was missed (Republish). Where the server has forgotten it, a new subscription begins with the current values;
those that are stored already are repeats. A subscription is not transferred to a new session: its number may by then be
another's. A sequence number is taken once. What is written and called is named in the device's document, and nothing else.

The server's certificate must be the one that a person named. The address is judged before each connection, and is the one
that is connected to.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import hashlib
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asyncua import Client, ua
from asyncua.client.ua_client import UaClientState
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.crypto.uacrypto import CertProperties
from cryptography.hazmat.primitives import serialization

from tulou.access.opcua.certificate import URI, application_certificate
from tulou.access.opcua.kept import NUMBERS, OVERFLOW, Change
from tulou.kernel.errors import Invalid, TulouError, Unavailable, said

log = logging.getLogger("tulou.gateway")
logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # it says of every lost connection what the door says once

TIMEOUT, PROBE = 10.0, 5.0
"""Seconds for an answer, and between looks whether the server is there."""
OUTLIVES, ALIVE, SILENT = 600, 10, 45
"""Seconds for which a subscription outlives its connection, after which a silent one says that it is there, and after which
one that does not is given up."""
AWAY = 30.0
"""Seconds between two attempts to come back, at most."""
TOGETHER = 500
"""Monitored items made, and nodes browsed, with one request."""
MOST_ITEMS = 5000
MISSED = 1000
"""Notifications that are asked for again at most."""


class Lost(Exception):
    """It is unknown whether the server did it."""


@dataclass(slots=True)
class Item:
    """A node that is monitored, and what its values become. `whose` is the door's: whose readings they are."""

    node: str
    property: str
    whose: Any
    sampling_ms: float
    queue: int
    deadband: float
    scale: float


@dataclass(slots=True)
class Folder:
    """Variables below a node that are monitored, by the names on the way to them."""

    node: str
    depth: int
    prefix: str
    whose: Any
    sampling_ms: float
    queue: int
    deadband: float
    scale: float


@dataclass(slots=True)
class Server:
    """Where to connect, and how."""

    url: str
    host: str
    port: int
    security: str
    certificate: str
    user: str
    password: str
    publish_ms: float
    items: list[Item]
    folders: list[Folder]
    commands: frozenset[str]


@dataclass(slots=True)
class Running:
    """A subscription on the server: what outlives a connection."""

    id: int
    items: dict[int, Item]
    last: int = 0


@dataclass(slots=True)
class Counters:
    """Counts since the start, of all links."""

    notifications: int = 0
    changes: int = 0
    republished: int = 0
    missed: int = 0
    overflows: int = 0
    resumed: int = 0
    begun: int = 0


class _Client(Client):  # type: ignore[misc]
    """A client that connects to an address that was judged, whatever the name says by then."""

    judged: Callable[[], Awaitable[str]]
    port = 0
    sessions = 0
    """How many were made: a server that was started anew may give a session the name of an earlier one."""

    async def create_session(self) -> Any:
        self.sessions += 1
        return await super().create_session()

    async def connect_socket(self) -> None:
        await self.uaclient.connect_socket(await self.judged(), self.port)


@dataclass(slots=True, eq=False)
class Link:
    """A server that is connected to. `judged()` gives the address to dial; `took(changes)` is to return when they are
    durable; `heard()` is told that the server is there, `turned(up)` that the connection came or went. `lost` is set when
    it is to be made anew, and `why` says why not at once."""

    server: Server
    home: Path
    counters: Counters
    judged: Callable[[], Awaitable[str]]
    took: Callable[[list[tuple[Item, Change]]], Awaitable[None]]
    heard: Callable[[], None]
    turned: Callable[[bool], None]
    running: Running | None = None
    up: bool = False
    why: str = ""
    silent_since: float = 0.0
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    refused: dict[str, str] = field(default_factory=dict)
    client: _Client | None = None
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _taking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _following: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, and begin a subscription. Raises `OSError`, `TimeoutError`, `TulouError`, `ua.UaError`."""
        server = self.server
        client = self.client = _Client(server.url, timeout=TIMEOUT, watchdog_intervall=PROBE)
        client.judged, client.port = self.judged, server.port
        client.name = client.description = "Tulou"
        client.application_uri, client.product_uri = URI, "urn:tulou"
        client.session_timeout = OUTLIVES * 1000
        if server.user:
            client.set_user(server.user)
            client.set_password(server.password)
        if server.security != "None":
            await self._secure(client)
        await client.connect(auto_reconnect=True, reconnect_max_delay=AWAY, reconnect_request_timeout=PROBE)
        await self._begin()
        self._turn(True)
        self._following = asyncio.create_task(self._follow(client))

    async def close(self) -> None:
        """End the session and its subscription."""
        self.lost.set()
        self.up = False
        if self._following is not None:
            self._following.cancel()
        if self.client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(3):
                    await self.client.disconnect()

    def _turn(self, up: bool) -> None:
        self.up = up
        self.silent_since = asyncio.get_running_loop().time()
        self.turned(up)

    def look(self) -> None:
        """Now and then: a subscription that says nothing, not even that it is there, is begun anew."""
        if self.up and not self._taking.locked() and asyncio.get_running_loop().time() - self.silent_since > max(
            SILENT, 4 * self.server.publish_ms / 1000
        ):
            self.lost.set()

    async def _follow(self, client: _Client) -> None:
        """What becomes of the connection, which asyncua makes anew by itself."""
        sessions = client.sessions
        async with client.uaclient.subscribe_state() as states:
            while True:
                state = client.uaclient.state
                if state is UaClientState.CONNECTED and not self.up:
                    same, sessions = sessions == client.sessions and self.running is not None, client.sessions
                    try:
                        async with asyncio.timeout(60):
                            await self._come_back(same)
                    except (OSError, TimeoutError):  # it broke again
                        await asyncio.sleep(1)
                        continue
                    except (ua.UaError, TulouError) as error:
                        log.warning("a subscription of OPC UA cannot go on: %r", error)
                        self.lost.set()
                        return
                    self._turn(True)
                elif state is not UaClientState.CONNECTED and self.up:
                    self._turn(False)
                await states.next_change()

    async def _come_back(self, same: bool) -> None:
        """The connection is there again, with the same session or a new one."""
        if not same:
            await self._begin()
            return
        assert self.running is not None
        self.counters.resumed += 1
        async with self._taking:
            while await self._again(self.running.last + 1):
                pass

    async def _secure(self, client: _Client) -> None:
        mode = ua.MessageSecurityMode[self.server.security]
        offered = [
            endpoint for endpoint in await client.connect_and_get_server_endpoints()
            if endpoint.SecurityMode == mode and endpoint.SecurityPolicyUri == SecurityPolicyBasic256Sha256.URI
        ]
        if not offered:
            raise Unavailable(
                f"服务器不提供 Basic256Sha256 {mode.name}",
                f"the server does not offer Basic256Sha256 {mode.name}",
                rule="security",
            )
        shown = offered[0].ServerCertificate or b""
        shown = shown[: int.from_bytes(shown[2:4]) + 4]  # the first of a chain (X.690, 8.1.3)
        print_ = hashlib.sha256(shown).hexdigest()
        if print_ != self.server.certificate:
            raise Unavailable(
                f"服务器证书的 SHA-256 为 {print_}，与设定不符",
                f"the server shows a certificate of SHA-256 {print_}, not the one that was named",
                field="server_certificate",
                value=print_,
                rule=self.server.certificate or "a fingerprint",
            )
        pem = (await asyncio.to_thread(application_certificate, self.home)).read_bytes()
        await client.set_security(
            SecurityPolicyBasic256Sha256, CertProperties(pem, "pem"), CertProperties(_key(pem), "pem"),
            server_certificate=CertProperties(shown, "der"), mode=mode,
        )

    # -- the subscription

    async def _begin(self) -> None:
        """A new subscription; the server reports the current values first."""
        self.running = None
        session, period = self._client.uaclient.session, self.server.publish_ms
        items = [*self.server.items, *[item for folder in self.server.folders for item in await self._below(folder)]]
        params = ua.CreateSubscriptionParameters()
        params.RequestedPublishingInterval = period
        params.RequestedMaxKeepAliveCount = max(1, round(ALIVE * 1000 / period))
        params.RequestedLifetimeCount = max(3 * params.RequestedMaxKeepAliveCount, round(OUTLIVES * 1000 / period))
        params.MaxNotificationsPerPublish = 1000
        params.PublishingEnabled = True
        async with self._taking:  # the first notification waits until it is known whose it is
            subscription = (await session.create_subscription(params, self._published)).SubscriptionId
            running = self.running = Running(subscription, dict(enumerate(items[:MOST_ITEMS], 1)))
        self.counters.begun += 1
        namespaces = await self._namespaces(items)
        numbered = list(running.items.items())
        try:
            for start in range(0, len(numbered), TOGETHER):
                await self._monitor(running.id, numbered[start : start + TOGETHER], namespaces)
        except BaseException:
            self.running = None
            raise

    async def _monitor(self, subscription: int, numbered: Sequence[tuple[int, Item]], namespaces: list[str]) -> None:
        wanted = ua.CreateMonitoredItemsParameters()
        wanted.SubscriptionId = subscription
        wanted.TimestampsToReturn = ua.TimestampsToReturn.Both
        requests: list[ua.MonitoredItemCreateRequest] = []
        named: list[Item] = []
        for handle, item in numbered:
            try:
                node = node_of(item.node, namespaces)
            except Invalid as error:
                self._refuse(item.node, error.en)
                continue
            request = ua.MonitoredItemCreateRequest()
            request.ItemToMonitor = ua.ReadValueId(node, ua.AttributeIds.Value)
            request.MonitoringMode = ua.MonitoringMode.Reporting
            how = request.RequestedParameters = ua.MonitoringParameters()
            how.ClientHandle, how.SamplingInterval, how.QueueSize, how.DiscardOldest = (
                handle,
                item.sampling_ms,
                item.queue,
                True,
            )
            if item.deadband:
                how.Filter = ua.DataChangeFilter(ua.DataChangeTrigger.StatusValue, ua.DeadbandType.Absolute, item.deadband)
            requests.append(request)
            named.append(item)
        if not requests:
            return
        wanted.ItemsToCreate = requests
        for item, result in zip(named, await self._client.uaclient.session.create_monitored_items(wanted), strict=True):
            if not result.StatusCode.is_good():
                self._refuse(item.node, result.StatusCode.name)

    def _refuse(self, node: str, why: str) -> None:
        if len(self.refused) < 50:
            self.refused[node] = why

    async def _again(self, number: int) -> bool:
        """Ask for a notification again, and take it; false if the server has it not."""
        assert self.running is not None
        try:
            message = await self._client.uaclient.session.republish(self.running.id, number)
        except ua.UaStatusCodeError:
            message = None
        if message is None or not message.NotificationData:
            return False
        self.counters.republished += 1
        await self._take(message)
        self.running.last = number
        return True

    async def _published(self, result: Any) -> None:
        """A notification; asyncua acknowledges it when this returns, also by an exception, but not when the task is
        cancelled."""
        try:
            async with self._taking:
                await self._accept(result)
        except TulouError as error:  # it may come again when there is room
            self.why = said(error)
            self.lost.set()
            raise asyncio.CancelledError from None
        except Exception:
            log.exception("a notification of OPC UA cannot be taken")
            self.lost.set()
            raise asyncio.CancelledError from None

    async def _accept(self, result: Any) -> None:
        message, running = result.NotificationMessage, self.running
        if running is None or self.lost.is_set() or result.SubscriptionId != running.id:
            raise asyncio.CancelledError  # ends asyncua's loop: what nobody takes is not acknowledged
        self.silent_since = asyncio.get_running_loop().time()
        self.heard()
        if not message.NotificationData:
            return
        number = int(message.SequenceNumber)
        if number <= running.last:
            return
        if running.last:
            for missing in range(max(running.last + 1, number - MISSED), number):
                if not await self._again(missing):
                    self.counters.missed += 1
        await self._take(message)
        running.last = number

    async def _take(self, message: Any) -> None:
        changes: list[tuple[Item, Change]] = []
        assert self.running is not None
        for data in message.NotificationData:
            if isinstance(data, ua.DataChangeNotification):
                for one in data.MonitoredItems or ():
                    item = self.running.items.get(one.ClientHandle)
                    if item is not None:
                        changes.append((item, change_of(item, one.Value)))
            elif isinstance(data, ua.StatusChangeNotification) and not data.Status.is_good():
                self.lost.set()
        self.counters.notifications += 1
        self.counters.changes += len(changes)
        self.counters.overflows += sum(change.status & OVERFLOW == OVERFLOW for _, change in changes)
        if changes:
            await self.took(changes)
            self.silent_since = asyncio.get_running_loop().time()

    # -- the address space

    @property
    def _client(self) -> _Client:
        if self.client is None:
            raise Lost("not connected")
        return self.client

    async def _namespaces(self, items: Sequence[Item | Folder]) -> list[str]:
        return await self._client.get_namespace_array() if any(item.node.startswith("nsu=") for item in items) else []

    async def _below(self, folder: Folder) -> list[Item]:
        """The variables below a node, by the names on the way; their own properties are none."""
        found: list[Item] = []
        seen: set[Any] = set()
        level = [(node_of(folder.node, await self._namespaces([folder])), folder.prefix)]
        for _ in range(folder.depth):
            deeper: list[tuple[Any, str]] = []
            for node, name in level:
                references, _ = await self._references(node)
                for one in references:
                    node_id = one.NodeId
                    if node_id in seen or one.ReferenceTypeId == ua.NodeId(ua.ObjectIds.HasProperty):
                        continue
                    seen.add(node_id)
                    path = f"{name}.{one.BrowseName.Name}" if name else str(one.BrowseName.Name)
                    if one.NodeClass == ua.NodeClass.Variable:
                        found.append(
                            Item(
                                node_id.to_string(),
                                path,
                                folder.whose,
                                folder.sampling_ms,
                                folder.queue,
                                folder.deadband,
                                folder.scale,
                            )
                        )
                    if one.NodeClass in (ua.NodeClass.Object, ua.NodeClass.Variable):
                        deeper.append((node_id, path))
                    if len(found) >= MOST_ITEMS:
                        return found
            level = deeper
        return found

    async def _references(self, node: Any) -> tuple[list[Any], bool]:
        """What is hierarchically below a node, so many at most; whether there is more."""
        params = ua.BrowseParameters()
        params.RequestedMaxReferencesPerNode = TOGETHER
        params.NodesToBrowse = [
            ua.BrowseDescription(
                node,
                ua.BrowseDirection.Forward,
                ua.NodeId(ua.ObjectIds.HierarchicalReferences),
                True,
                0,
                ua.BrowseResultMask.All,
            )
        ]
        session = self._client.uaclient.session
        (result,) = await session.browse(params)
        result.StatusCode.check()
        if result.ContinuationPoint:
            await session.browse_next(ua.BrowseNextParameters(True, [result.ContinuationPoint]))
        return list(result.References or ()), bool(result.ContinuationPoint)

    async def browse(self, text: str) -> dict[str, Any]:
        """What is below a node, with the values of variables. Raises `Invalid`, `ua.UaError`."""
        client = self._client
        node = node_of(text, await client.get_namespace_array())
        references, more = await self._references(node)
        variables = [one.NodeId for one in references if one.NodeClass == ua.NodeClass.Variable]
        params = ua.ReadParameters()
        params.NodesToRead = [ua.ReadValueId(one, ua.AttributeIds.Value) for one in variables]
        values = dict(zip(variables, await client.uaclient.session.read(params), strict=True)) if variables else {}
        items = []
        for one in references:
            shown = {"node": one.NodeId.to_string(), "name": one.BrowseName.Name, "label": one.DisplayName.Text,
                     "class": ua.NodeClass(one.NodeClass).name}
            if one.NodeId in values:
                kind, value = plain(values[one.NodeId].Value)
                status = values[one.NodeId].StatusCode or ua.StatusCode()
                shown |= {"type": kind, "value": value, "status": status.name}
            items.append(shown)
        return {"items": items, "more": more}

    # -- commands

    async def command(self, method: str, params: dict[str, Any]) -> Any:
        """Carry out a command; what the server gave back. Raises `Invalid` for what is not said or not permitted,
        `ua.UaError` for what the server refuses, `Lost`."""
        named = params["node"] if method == "write" else params["method"]
        if named not in self.server.commands:
            raise Invalid(f"节点 {named} 不在允许下达命令的名单中", f"the node {named} is not among those that commands may name",
                          field="commands", value=named, rule=" | ".join(sorted(self.server.commands)) or "none")
        client = self._client
        namespaces = await client.get_namespace_array()
        async with self._writing:
            try:
                if method == "write":
                    node = client.get_node(node_of(named, namespaces))
                    kind = await node.read_data_type_as_variant_type()
                    await node.write_value(ua.DataValue(ua.Variant(typed(params["value"], kind, "params.value"), kind)))
                    return None
                target, call = client.get_node(node_of(params["object"], namespaces)), node_of(named, namespaces)
                result = await target.call_method(call, *await self._arguments(call, params.get("arguments", [])))
                return [plain(ua.Variant(one))[1] for one in (result if isinstance(result, list) else [result])]
            except (ConnectionError, TimeoutError, asyncio.CancelledError) as error:
                raise Lost(repr(error)) from None

    async def _arguments(self, method: Any, given: Sequence[Any]) -> list[Any]:
        """The arguments in the types that the method declares."""
        declared: list[Any] = []
        with contextlib.suppress(ua.UaStatusCodeError):
            declared = await (await self._client.get_node(method).get_child("0:InputArguments")).read_value() or []
        if len(declared) != len(given):
            raise Invalid(
                f"方法需要 {len(declared)} 个参数",
                f"the method takes {len(declared)} arguments",
                field="params.arguments",
                value=len(given),
                rule=", ".join(str(one.Name) for one in declared) or "none",
            )
        out = []
        for number, (value, one) in enumerate(zip(given, declared, strict=True)):
            kind = (
                ua.VariantType(one.DataType.Identifier)
                if one.DataType.NamespaceIndex == 0 and one.DataType.Identifier <= 25
                else None
            )
            if kind is None:
                raise Invalid("不支持此参数类型", "arguments of this type are not spoken", field=f"params.arguments[{number}]",
                              value=one.DataType.to_string(), rule="a built-in type")
            out.append(ua.Variant(typed(value, kind, f"params.arguments[{number}]"), kind))
        return out


def _key(pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(pem, None)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def node_of(text: str, namespaces: Sequence[str]) -> Any:
    """The node of `ns=2;s=Level`, `i=85`, or `nsu=URI;s=Level` in a server of these namespaces. Raises `Invalid`."""
    try:
        if text.startswith("nsu="):
            uri, _, rest = text[4:].partition(";")
            return ua.NodeId.from_string(f"ns={namespaces.index(uri)};{rest}")
        return ua.NodeId.from_string(text)
    except (ua.UaError, ValueError):
        raise Invalid(
            f"没有节点 {text}", f"there is no node {text}", field="node", value=text, rule="ns=2;s=NAME | nsu=URI;s=NAME"
        ) from None


def typed(value: Any, kind: Any, place: str) -> Any:
    """A value of JSON in the type that the server wants. Raises `Invalid`."""
    if isinstance(value, list):
        return [typed(one, kind, place) for one in value]
    name = kind.name
    try:
        if name == "Boolean":
            if value in (0, 1):
                return bool(value)
        elif name in ("Float", "Double") and isinstance(value, int | float):
            return float(value)
        elif name in NUMBERS and isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
            bits = {"SByte": 8, "Byte": 8, "Int16": 16, "UInt16": 16, "Int32": 32, "UInt32": 32, "StatusCode": 32}.get(
                name, 64
            )
            low = 0 if name[0] == "U" or name in ("Byte", "StatusCode") else -(1 << bits - 1)
            if low <= value < low + (1 << bits):
                return int(value)
        elif isinstance(value, str):
            if name in ("String", "XmlElement"):
                return value
            if name == "LocalizedText":
                return ua.LocalizedText(value)
            if name == "DateTime":
                return dt.datetime.fromisoformat(value)
            if name == "Guid":
                return uuid.UUID(value)
            if name == "ByteString":
                return base64.b64decode(value, validate=True)
            if name == "NodeId":
                return ua.NodeId.from_string(value)
    except (ValueError, OverflowError, ua.UaError):
        pass
    raise Invalid(f"值不是 {name}", f"the value is no {name}", field=place, value=str(value)[:80], rule=name)


def change_of(item: Item, data: Any) -> Change:
    """A data change as it is kept."""
    try:
        kind, value = plain(data.Value)
    except Exception as error:  # whatever a server sent must not stop what comes after it; the decoder refuses this
        kind, value = "Unreadable", f"{error!r} {data!r}"[:1000]
    status = 0 if data.StatusCode is None else int(data.StatusCode.value)
    return Change(
        item.property,
        item.node,
        kind,
        value,
        status,
        _micros(data.SourceTimestamp),
        _micros(data.ServerTimestamp),
        item.scale,
    )


def plain(variant: Any) -> tuple[str, Any]:
    """The built-in type and the value as JSON."""
    if variant is None or variant.Value is None:
        return "Null" if variant is None else variant.VariantType.name, None
    return variant.VariantType.name, _plain(variant.Value)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dt.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).isoformat()
    if isinstance(value, ua.LocalizedText):
        return value.Text or ""
    if isinstance(value, ua.QualifiedName | ua.NodeId):
        return value.to_string()
    if isinstance(value, ua.StatusCode):
        return int(value.value)
    if isinstance(value, ua.Variant):
        return _plain(value.Value)
    return str(value)[:1000]


def _micros(at: dt.datetime | None) -> int:
    if at is None:
        return 0
    return int((at if at.tzinfo else at.replace(tzinfo=dt.UTC)).timestamp() * 1_000_000)
