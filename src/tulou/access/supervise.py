"""The gateway as a supervised child process.

Law: the child gets what it needs by its environment, because it holds secrets (the bus's token, the database's
password) that a command line would show to everyone on the machine.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tulou.access.gateway import Config
from tulou.access.ocpp.schemas import missing
from tulou.access.poll_door import METERS
from tulou.access.products.kinds import kind_of
from tulou.access.protocols import BroadcastCodec, FieldCodec, load
from tulou.kernel.bus import Child
from tulou.kernel.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from tulou.kernel.house import House

OUTBOUND = (
    "outbound_allow", "outbound_deny", "http_port", "mqtt_port", "mqtts_port", "field_ports", "field_tls_ports", "gb28181_port",
    "gb28181_tls_port", "ocpp_port", "ocpps_port",
)
"""Settings by which addresses to dial are judged."""
START = 20.0
"""Seconds within which a gateway must listen."""


def gateway_config(house: House) -> Config:
    """What the gateway of this house needs."""
    settings = house.settings
    spoken = {name: where for part in house.hooks.hook.protocols() for name, where in part.items()}
    for protocol in settings.fields:
        if protocol not in spoken:
            raise Invalid(
                f"没有现场协议 {protocol}，可用 {'、'.join(sorted(spoken))}",
                f"there is no field protocol {protocol}, but {', '.join(sorted(spoken))}",
                field="field_ports", value=protocol, rule="a spoken protocol",
            )
        if protocol in METERS:
            raise Invalid(
                f"{protocol} 的表计由平台轮询，端口用于其网关：dtu={settings.fields[protocol][0]}",
                f"meters of {protocol} are polled; the port is their gateways': dtu={settings.fields[protocol][0]}",
                field="field_ports", value=protocol, rule="a protocol whose devices speak by themselves",
            )
        if not isinstance(load(spoken[protocol]), FieldCodec):
            raise Invalid(
                f"协议 {protocol} 有自己的端口设置：coap_port、gb28181_port、ocpp_port",
                f"{protocol} has a setting of its own for its port: coap_port, gb28181_port, ocpp_port",
                field="field_ports", value=protocol, rule="a field protocol over TCP",
            )
    for protocol in settings.udp_fields:
        if protocol not in spoken or not isinstance(load(spoken[protocol]), BroadcastCodec):
            raise Invalid(
                f"协议 {protocol} 不经 UDP", f"{protocol} does not come over UDP", field="field_udp_ports", value=protocol,
                rule="a protocol over UDP",
            )
    if settings.lwm2m not in ("", "nosec") or (settings.lwm2m and not settings.coap_port):
        raise Invalid(
            f"设置项 lwm2m 为空或 nosec（须设 coap_port），现为 {settings.lwm2m!r}",
            f"setting lwm2m is empty or nosec, with a coap_port, not {settings.lwm2m!r}",
            field="lwm2m", value=settings.lwm2m, rule="nosec",
        )
    if not re.fullmatch(r"[0-9]{20}", settings.gb28181_id) or not re.fullmatch(r"[A-Za-z0-9.-]{1,40}", settings.sip_realm):
        raise Invalid(
            f"gb28181_id 须为 20 位数字，gb28181_realm 只含字母、数字、点与连字符，现为 {settings.gb28181_id!r} 与 {settings.gb28181_realm!r}",
            f"gb28181_id has 20 digits, gb28181_realm letters, digits, dots and hyphens, not {settings.gb28181_id!r} and {settings.gb28181_realm!r}",
            field="gb28181_id", value=settings.gb28181_id, rule="20 digits",
        )
    if (settings.ocpp_port or settings.ocpps_port) and not all(map(find_spec, ("ocpp", "websockets", "jsonschema_rs"))):
        raise missing()
    if settings.mqtt_anonymous and not re.fullmatch(r"[a-z0-9-]{1,64}", settings.mqtt_anonymous):
        raise Invalid(
            f"设置项 mqtt_anonymous 只能含小写字母、数字与连字符，现为 {settings.mqtt_anonymous!r}",
            f"setting mqtt_anonymous is lower-case letters, digits and hyphens, not {settings.mqtt_anonymous!r}",
            field="mqtt_anonymous", value=settings.mqtt_anonymous, rule="[a-z0-9-]{1,64}",
        )
    if settings.mqtts_client_certificate not in ("", "optional", "required"):
        raise Invalid(
            f"设置项 mqtts_client_certificate 为空、optional 或 required，现为 {settings.mqtts_client_certificate!r}",
            f"setting mqtts_client_certificate is empty, optional or required, not {settings.mqtts_client_certificate!r}",
            field="mqtts_client_certificate", value=settings.mqtts_client_certificate, rule="optional | required",
        )
    name = "gateway"
    if settings.nats_url:  # several machines may each run one: the name keeps their subjects and times apart
        name += "-" + re.sub(r"[^a-z0-9-]", "-", socket.gethostname().lower())
    return Config(
        name=name, host=settings.bind, port=settings.mqtt_port, tls_port=settings.mqtts_port,
        tls_certificate=settings.tls_certificate, tls_key=settings.tls_key,
        tls_client=settings.mqtts_client_certificate, nats_url=house.bus.url,
        sql_url=settings.sql_url, max_packet=settings.max_payload, max_connections=settings.max_connections,
        max_connections_address=settings.max_connections_address, max_connections_device=settings.max_connections_device,
        anonymous=settings.mqtt_anonymous, longest_keep_alive=settings.mqtt_keep_alive,
        models={kind: kind_of(model.model_dump(mode="json")) for kind, model in house.packs.own.items()},
        fields={
            protocol: {
                "codec": spoken[protocol], **dict(zip(("port", "tls_port"), settings.fields.get(protocol, (0, 0)), strict=True)),
                "udp_port": settings.udp_fields.get(protocol, 0),
            }
            for protocol in {**settings.fields, **settings.udp_fields}
        },
        outbound={name: getattr(settings, name) for name in OUTBOUND},
        coap_port=settings.coap_port, lwm2m=bool(settings.lwm2m), opcua_home=str(settings.home),
        gb28181={
            "port": settings.gb28181_port, "tls_port": settings.gb28181_tls_port, "server": settings.gb28181_id,
            "realm": settings.sip_realm, "media": settings.gb28181_media,
        } if settings.gb28181_port or settings.gb28181_tls_port else None,
        ocpp_port=settings.ocpp_port, ocpps_port=settings.ocpps_port,
        sensorthings=(settings.public_url or f"http://{settings.bind}:{settings.http_port}").rstrip("/") + "/sta/v1.1",
    )


async def start_gateway(house: House) -> Child | None:
    """Start the gateway as a child of this process and wait until it listens; None if every port is closed.

    Raises `Unavailable` if a port is taken or the gateway does not come up.
    """
    config = gateway_config(house)
    ports = [(config.port, "mqtt_port"), (config.tls_port, "mqtts_port"), (config.ocpp_port, "ocpp_port"), (config.ocpps_port, "ocpps_port")]
    ports += [(of[key], f"field_{key}s") for of in config.fields.values() for key in ("port", "tls_port")]
    listens = [(port, setting, socket.SOCK_STREAM) for port, setting in ports if port]
    if config.coap_port:
        listens.append((config.coap_port, "coap_port", socket.SOCK_DGRAM))
    if config.gb28181 is not None:
        listens += [(config.gb28181[key], f"gb28181_{key}", socket.SOCK_STREAM) for key in ("port", "tls_port") if config.gb28181[key]]
    silent = [(of["udp_port"], "field_udp_ports", socket.SOCK_DGRAM) for of in config.fields.values() if of["udp_port"]]
    if config.gb28181 is not None and config.gb28181["port"]:
        silent.append((config.gb28181["port"], "gb28181_port", socket.SOCK_DGRAM))
    if not listens and not silent:
        return None
    for port, setting, kind in (*listens, *silent):
        _free(config.host, port, setting, kind)
    child = Child(
        "gateway", [sys.executable, "-m", "tulou.access.gateway"],
        env={**os.environ, "TULOU_GATEWAY": config.to_json(), "TULOU_LOG_LEVEL": house.settings.log_level},
        log_file=house.settings.home / "gateway.log",
    )
    await child.start()
    house.children.append(child)
    deadline = asyncio.get_running_loop().time() + START
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::", "") else config.host  # noqa: S104
    for port, setting, kind in listens:
        while True:
            try:
                await (tcp_ping if kind == socket.SOCK_STREAM else coap_ping)(host, port)
                break
            except OSError:
                if child.restarts or asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(
                        f"设备网关未能启动，详见 {child.log_file}", f"the gateway did not come up; see {child.log_file}",
                        field=setting, value=port,
                    ) from None
                await asyncio.sleep(0.02)
    return child


async def tcp_ping(host: str, port: int) -> None:
    """Connect, and leave. Raises `OSError`."""
    _, writer = await asyncio.open_connection(host, port)
    writer.close()


async def coap_ping(host: str, port: int) -> None:
    """Wait for the reset that answers an empty confirmable message (RFC 7252, 4.3). Raises `OSError`."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        probe.connect((host, port))
        probe.send(b"\x40\0\0\1")
        await asyncio.wait_for(loop.sock_recv(probe, 16), 0.5)


def _free(host: str, port: int, setting: str, kind: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Unavailable(
                f"无法监听 {host}:{port}：{error.strerror}", f"cannot listen on {host}:{port}: {error.strerror}",
                field=setting, value=port, rule="a free port",
            ) from error
