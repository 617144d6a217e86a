"""The server of OPC UA of a device: where it is, what of it becomes readings, and what people find there.

Law: a document is checked whole before it is kept. Changing it needs the right to write every device that it names, and
takes effect at once. A password is kept and never shown. Every operation asks the policy, by way of the device.
"""

from __future__ import annotations

import asyncio
import importlib.util
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import nats.errors
import orjson
import sqlalchemy as sa
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tulou.access.models import device_opcua
from tulou.access.opcua.certificate import public_part
from tulou.access.opcua.door import ASK, PORT, WHO
from tulou.access.service import READ, WRITE, Devices
from tulou.access.telemetry import name_refusal
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound, Unavailable
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow

if TYPE_CHECKING:
    from tulou.kernel.house import House

FOUND, WAIT = 1.0, 30.0
"""Seconds within which a gateway says that it has the device, and within which it answers."""
OBJECTS = "i=85"
"""The folder in which a server's address space begins (part 5, 8.2.4)."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _property(name: str) -> str:
    refusal = name_refusal(name) if name else None
    if refusal is not None:
        raise ValueError(refusal.en)
    return name


NodeText = Annotated[str, Field(min_length=3, max_length=512, pattern=r"^((ns=[0-9]{1,5}|nsu=[^;]+);)?[isgb]=.+$")]


class _Monitored(_Body):
    """How nodes are monitored. `sampling_ms` -1 is the publishing interval; `queue` is what the server keeps between two
    publishes; `deadband` the change of a number below which it says nothing."""

    device: str | None = Field(default=None, min_length=1, max_length=320)
    sampling_ms: float = Field(default=-1.0, ge=-1, le=3_600_000)
    queue: int = Field(default=10, ge=1, le=10_000)
    deadband: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    scale: float = Field(default=1.0, allow_inf_nan=False)


class OpcUaNode(_Monitored):
    """A variable, and the property that it becomes."""

    node: NodeText
    property: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_property)]


class OpcUaFolder(_Monitored):
    """Every variable below a node, so deep; the property is the names on the way with points between."""

    node: NodeText
    depth: int = Field(default=2, ge=1, le=6)
    prefix: Annotated[str, Field(max_length=64), AfterValidator(_property)] = ""


class OpcUaServer(_Body):
    """A server. `server_certificate` is the SHA-256 of its certificate, in hexadecimal; `commands` are the variables that
    may be written and the methods that may be called."""

    url: str = Field(min_length=11, max_length=512, pattern=r"^opc\.tcp://[^@\s]+$")
    security: Literal["None", "Sign", "SignAndEncrypt"] = "None"
    server_certificate: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    user: str | None = Field(default=None, min_length=1, max_length=128)
    password: str | None = Field(default=None, min_length=1, max_length=256)
    publish_ms: float = Field(default=1000.0, ge=50, le=3_600_000)
    nodes: list[OpcUaNode] = Field(default_factory=list, max_length=2000)
    folders: list[OpcUaFolder] = Field(default_factory=list, max_length=20)
    commands: list[NodeText] = Field(default_factory=list, max_length=200)


class OpcUaServers:
    """The operations."""

    def __init__(self, house: House, devices: Devices) -> None:
        self.house, self.devices = house, devices
        self.policy, self.db = house.policy, house.db

    @operation(READ)
    async def get(self, actor: Actor, device_id: str) -> dict[str, Any]:
        """The document of a device, with `password` true where there is one. Raises `NotFound`."""
        row = await self.devices.mine(actor, READ, device_id)
        self.policy.require(actor, READ, row.org)
        found = await self._row(row.entity_no)
        if found is None:
            raise _none(device_id)
        body = OpcUaServer.model_validate_json(found.document).model_dump(exclude_defaults=True)
        if "password" in body:
            body["password"] = True
        return {**body, "updated_at": found.updated_at, "updated_by": found.updated_by}

    @operation(WRITE)
    async def put(self, actor: Actor, device_id: str, server: OpcUaServer) -> dict[str, Any]:
        """Subscribe by this document from now on. Without a password the one of the same user at the same address stays."""
        row = await self.devices.mine(actor, WRITE, device_id)
        self.policy.require(actor, WRITE, row.org)
        if importlib.util.find_spec("asyncua") is None:
            raise Unavailable(
                "OPC UA 需要 asyncua：安装 tulou[opcua]", "OPC UA needs asyncua: install tulou[opcua]", rule="tulou[opcua]"
            )
        self.house.outbound.check("tcp" + _with_port(server.url).removeprefix("opc.tcp"), ("tcp",))
        if server.security != "None" and server.server_certificate is None:
            raise Invalid(
                "加密连接须给出服务器证书的 SHA-256", "a secure connection needs the SHA-256 of the server's certificate",
                field="server_certificate", rule="64 hexadecimal digits",
            )
        if not server.nodes and not server.folders and not server.commands:
            raise Invalid(
                "没有节点、文件夹或命令",
                "there are neither nodes, folders nor commands",
                field="nodes",
                rule="something to do",
            )
        taken: set[tuple[str, str]] = set()
        for number, node in enumerate(server.nodes):
            whose = device_id if node.device is None else (await self.devices.mine(actor, WRITE, node.device)).id
            if (whose, node.property) in taken:
                raise Invalid(
                    f"{whose} 的属性 {node.property} 出现两次", f"the property {node.property} of {whose} occurs twice",
                    field=f"nodes[{number}].property", value=node.property, rule="one node per property",
                )
            taken.add((whose, node.property))
        for folder in server.folders:
            if folder.device is not None:
                await self.devices.mine(actor, WRITE, folder.device)
        before = await self._row(row.entity_no)
        if server.password is None and server.user is not None and before is not None:
            old = OpcUaServer.model_validate_json(before.document)
            if (old.user, old.url, old.security, old.server_certificate) == (
                server.user, server.url, server.security, server.server_certificate
            ):
                server = server.model_copy(update={"password": old.password})
        values = {"document": server.model_dump_json(), "updated_at": utcnow(), "updated_by": actor.id}

        def write(connection: sa.Connection) -> None:
            here = device_opcua.c.entity_no == row.entity_no
            if not connection.execute(device_opcua.update().where(here).values(values)).rowcount:
                connection.execute(device_opcua.insert().values(entity_no=row.entity_no, **values))
            audit.record(
                connection,
                actor,
                WRITE,
                row.org,
                device_id,
                {
                    "change": "opcua",
                    "url": server.url,
                    "security": server.security,
                    "nodes": len(server.nodes),
                    "commands": server.commands,
                },
            )

        await self.db.write(write)
        await self.devices.changed([row.entity_no], device_id, "opcua", row.org)
        return await self.get(actor, device_id)

    @operation(WRITE)
    async def delete(self, actor: Actor, device_id: str) -> None:
        """Connect no more. Raises `NotFound`."""
        row = await self.devices.mine(actor, WRITE, device_id)
        self.policy.require(actor, WRITE, row.org)

        def write(connection: sa.Connection) -> None:
            if not connection.execute(device_opcua.delete().where(device_opcua.c.entity_no == row.entity_no)).rowcount:
                raise _none(device_id)
            audit.record(connection, actor, WRITE, row.org, device_id, {"change": "opcua no more"})

        await self.db.write(write)
        await self.devices.changed([row.entity_no], device_id, "opcua", row.org)

    @operation(READ)
    async def browse(self, actor: Actor, device_id: str, node: str = OBJECTS) -> dict[str, Any]:
        """What is below a node of the server, one level: `{items: [{node, name, label, class, type?, value?, status?}],
        more}`. Raises `Conflict` while there is no connection."""
        row = await self.devices.mine(actor, READ, device_id)
        self.policy.require(actor, READ, row.org)
        nc = self.house.bus.nc
        try:
            gateway = (await nc.request(WHO, row.id.encode(), timeout=FOUND)).data.decode()
        except nats.errors.Error:
            raise _away(device_id, "没有网关连接它", "no gateway connects to it") from None
        try:
            asked = orjson.dumps({"device": row.id, "node": node})
            answer: dict[str, Any] = orjson.loads((await nc.request(f"{ASK}.{gateway}", asked, timeout=WAIT)).data)
        except nats.errors.Error:
            raise Unavailable(f"网关 {gateway} 没有应答", f"gateway {gateway} does not answer", rule="gateway") from None
        error = answer.get("error")
        if error == "invalid":
            raise Invalid(answer["zh"], answer["en"], field="node", value=node, rule=answer["rule"])
        if error == "status":
            raise Invalid(
                f"服务器拒绝：{answer['en']}",
                f"the server refused: {answer['en']}",
                field="node",
                value=node,
                rule="OPC UA status code",
            )
        if error:
            raise _away(device_id, answer["en"], answer["en"])
        return answer

    @operation(READ)
    async def certificate(self, actor: Actor, device_id: str) -> bytes:
        """The house's own certificate (PEM), for the device's server to trust."""
        row = await self.devices.mine(actor, READ, device_id)
        self.policy.require(actor, READ, row.org)
        return (await asyncio.to_thread(public_part, self.house.settings.home)).public_bytes(Encoding.PEM)

    async def _row(self, entity: int) -> Any:
        query = sa.select(device_opcua).where(device_opcua.c.entity_no == entity)
        return await self.db.read(lambda c: c.execute(query).first())


def _with_port(url: str) -> str:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname or port == 0:
        raise Invalid(
            "地址应为 opc.tcp://主机:端口/路径",
            "an address is opc.tcp://host:port/path",
            field="url",
            value=url,
            rule="opc.tcp://",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or PORT}"


def _none(device_id: str) -> NotFound:
    return NotFound(
        f"设备 {device_id} 没有 OPC UA 服务器",
        f"the device {device_id} has no server of OPC UA",
        field="id",
        value=device_id,
    )


def _away(device_id: str, zh: str, en: str) -> Conflict:
    return Conflict(f"没有到 {device_id} 服务器的连接：{zh}", f"there is no connection to the server of {device_id}: {en}", field="id",
                    value=device_id, rule="a connected server")
