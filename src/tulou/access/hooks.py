"""What access contributes to the house."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tulou.access import deadletters, removal, writer
from tulou.access.alarms import Alarms
from tulou.access.applications import Applications
from tulou.access.certificates.service import Certificates
from tulou.access.claims import Claims
from tulou.access.deadletters import DeadLetters
from tulou.access.directory import Directory
from tulou.access.downlink import STREAM, Commands
from tulou.access.edge.service import Edges
from tulou.access.edge.uplink import Uplink
from tulou.access.entity_page import EntityPages
from tulou.access.groups.service import Groups
from tulou.access.http import HttpDoor
from tulou.access.live import Hub
from tulou.access.lorawan.servers import LoRaWanServers
from tulou.access.lorawan.service import NetworkServers
from tulou.access.lwm2m.service import Lwm2m
from tulou.access.notify import Channels
from tulou.access.ocpp.service import Charging
from tulou.access.opcua.service import OpcUaServers
from tulou.access.ota.firmware import Firmwares
from tulou.access.ota.rollouts import Rollouts
from tulou.access.polls import Polls
from tulou.access.products.service import Products
from tulou.access.products.tables import declared, every_product
from tulou.access.provisioning.service import Provisioning
from tulou.access.quotas import counting
from tulou.access.quotas.service import Quotas
from tulou.access.redecode import Redecodes
from tulou.access.rules.declared import SECTION as RULES
from tulou.access.rules.engine import Engine
from tulou.access.rules.examples import SECTION as EXAMPLES
from tulou.access.rules.service import Rules
from tulou.access.sensorthings.asked import SensorThingsAsked
from tulou.access.sensorthings.service import SensorThings
from tulou.access.service import Devices
from tulou.access.shadow import Shadows
from tulou.access.things import Things
from tulou.context import ContextService, Update
from tulou.kernel.bus import StreamSpec
from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.policy import EVERYWHERE
from tulou.kernel.readings import Rows

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from tulou.kernel.house import Check, House, Task
    from tulou.kernel.packs import Model, Section

EDGES = """
permit (principal, action, resource)
when {
  context.active && context.kind == "device" && context.roles.contains("edge") && context.engine == "access" &&
  context.thing == "uplink" && context.verb == "write"
};
"""
PRODUCTS = """
permit (principal, action, resource)
when {
  context.active && context.engine == "access" && context.thing == "product" &&
  ["create", "write", "delete"].contains(context.verb) && context.roles.contains("steward")
};
forbid (principal, action, resource)
when { context.engine == "access" && context.thing == "product" && context.verb != "read" }
unless { context.kind == "system" || context.roles.containsAny(["platform_admin", "admin", "steward"]) };
"""


@hookimpl
def migrations() -> Path:
    """The tables of access."""
    return Path(__file__).parent / "migrations"


@hookimpl
def policies() -> str:
    """What an edge may: bring what its devices said. Products are declared by stewards and administrators, not by operators."""
    return EDGES + PRODUCTS


@hookimpl
def protocols() -> Mapping[str, str]:
    """The protocols that the house speaks itself, beside MQTT and HTTP; by the last three field protocols it asks."""
    return {
        **{name: f"tulou.access.protocols.{name}" for name in (
            "hj212", "jt808", "gb32960", "sl651", "ais", "dtu", "dlt645", "cjt188", "modbus",
        )},
        "coap": "tulou.access.coap.payload", "lwm2m": "tulou.access.lwm2m.kept",
        "gb28181": "tulou.access.protocols.gb28181", "ocpp": "tulou.access.protocols.ocpp",
        "opcua": "tulou.access.opcua.kept", "lorawan": "tulou.access.lorawan.events",
    }


@hookimpl
def sections() -> Mapping[str, Section]:
    """The rules of packs, and examples of what they say."""
    return {"rules": RULES, "examples": EXAMPLES}


@hookimpl
def models(house: House) -> Mapping[str, tuple[str, Model]]:
    """Products."""
    return declared(house.db.read_now(lambda c: c.execute(every_product()).all()), house.packs)


@hookimpl
def streams(house: House) -> Sequence[StreamSpec]:
    """READINGS refuses what is new when full, which becomes back-pressure, and so do retained messages and sessions; the
    others drop what is oldest."""
    most = house.settings.stream_max_bytes
    return [
        StreamSpec("READINGS", ("tulou.readings.>",), most),
        StreamSpec("DEAD", ("tulou.dead.>",), min(most, 1 << 30), max_age=30 * 86400.0, discard_old=True),
        StreamSpec("EVENTS", ("tulou.events.>",), min(most, 1 << 30), max_age=30 * 86400.0, discard_old=True),
        StreamSpec(STREAM, ("tulou.commands.>",), min(most, 1 << 30), max_age=30 * 86400.0),
        StreamSpec("MQTT", ("tulou.mqtt.log.>",), min(most, 1 << 30), house.settings.mqtt_hours * 3600.0,
                   discard_old=True),
        StreamSpec("MQTT_RETAINED", ("tulou.mqtt.retained.>",), min(most, 512 << 20), last_only=True),
        StreamSpec("GB28181", ("tulou.gb28181.>",), min(most, 256 << 20), last_only=True),
        StreamSpec("MQTT_SESSIONS", ("tulou.mqtt.session.>",), min(most, 512 << 20), last_only=True),
    ]


@hookimpl
def services(house: House) -> Sequence[object]:
    """The operations of access, and the directory, hub and HTTP door of this process."""
    directory = Directory(house)
    quotas = Quotas(house)
    devices = Devices(house, directory, quotas)
    alarms, rules = Alarms(house, directory), Rules(house, directory)
    things = Things(house, directory, devices)
    calls = Commands(house, devices)
    shadows = Shadows(house, devices)
    firmwares = Firmwares(house)
    certificates, claims = Certificates(house, devices), Claims(house, devices)
    door = HttpDoor(house, calls, shadows, firmwares, certificates, quotas, claims)
    hub = Hub(house, directory)
    quotas.reported = lambda: [body.get("quotas", {}) for body in hub.told("gateway")]
    sensorthings = SensorThings(house, directory, door)
    return [
        devices, Lwm2m(house, devices), directory, alarms, things, calls, shadows, EntityPages(house, things), hub, door, rules,
        Engine(house, directory, alarms, rules), Channels(house, alarms.document), DeadLetters(house), Applications(house),
        sensorthings, SensorThingsAsked(house, sensorthings), Redecodes(house), Polls(house, devices),
        OpcUaServers(house, devices), NetworkServers(house), LoRaWanServers(house), Charging(house), firmwares, Rollouts(house, firmwares, shadows),
        Products(house, devices.codecs), certificates, Provisioning(house, devices, certificates), quotas, Groups(house), claims, Edges(house, devices, calls, quotas),
        Uplink(house, calls, shadows),
    ]


@hookimpl
def routes(house: House) -> Sequence[BaseRoute]:
    """`/api/v1`: devices and their life, things, live, alarms, dead letters, readings, and HTTP ingest; `/sta/v1.1`: SensorThings."""
    from tulou.access.certificates.routes import routes as certificate_routes
    from tulou.access.edge.routes import routes as edge_routes
    from tulou.access.groups.routes import routes as group_routes
    from tulou.access.lorawan.routes import routes as lorawan_routes
    from tulou.access.lwm2m.routes import routes as lwm2m_routes
    from tulou.access.ocpp.routes import routes as ocpp_routes
    from tulou.access.opcua.routes import routes as opcua_routes
    from tulou.access.ota.routes import routes as ota_routes
    from tulou.access.products.routes import routes as product_routes
    from tulou.access.provisioning.routes import routes as provisioning_routes
    from tulou.access.quotas.routes import routes as quota_routes
    from tulou.access.routes import routes as access_routes
    from tulou.access.sensorthings.routes import routes as sensorthings_routes

    found = (
        certificate_routes, provisioning_routes, product_routes, quota_routes, group_routes, ota_routes, access_routes, lwm2m_routes, ocpp_routes,
        opcua_routes, lorawan_routes, sensorthings_routes, edge_routes,
    )
    return [route for routes_of in found for route in routes_of(house)]


@hookimpl
async def started(house: House) -> None:
    """Read the directory, and listen for what makes it stale."""
    if hasattr(house, "bus"):
        await house.service(Products).open()
    if hasattr(house, "bus") and {"gateway", "api"} & set(house.roles):
        await house.service(Applications).open()
        await house.service(Commands).open()
        await house.service(Shadows).open()
        await house.service(Firmwares).open()
        await house.service(Charging).open()
        await house.service(Certificates).open()
        await house.service(Provisioning).open()
        await house.service(Claims).open()
    if house.settings.edge_hub and "worker" in house.roles:
        house.service(Uplink).configured()
    if not _mirrors(house):
        return
    directory = house.service(Directory)
    await directory.reload()
    if hasattr(house, "readings"):
        await directory.watermarks()
    if not hasattr(house, "bus"):
        return
    for what in ("things", "entities"):
        await house.bus.on_changed(what, directory.changed)
    await house.bus.on_changed("made", directory.made)
    if "rules" in house.roles:
        await house.bus.on_changed("rules", house.service(Engine).changed)
    if "api" in house.roles:
        devices = house.service(Devices)
        await devices.settle()
        await house.bus.on_changed("organisations", lambda _key: devices.settle())
        await house.service(Quotas).open()
        await house.service(HttpDoor).open()
        await house.service(NetworkServers).open()
        await house.service(Edges).open()
        await house.service(SensorThingsAsked).open()


@hookimpl
def tasks(house: House) -> Sequence[Task]:
    """Everything that runs beside the doors."""
    from tulou.kernel.house import Task

    found = [
        Task("access.writer", "writer", write), Task("access.removal", "writer", removal.run),
        Task("access.stored-readings", "writer", counting.run),
        Task("access.redecode", "writer", house.service(Redecodes).run),
        Task("access.dead-letters", "worker", deadletters.run),
        Task("access.commands", "worker", house.service(Commands).keep),
        Task("access.rules", "rules", house.service(Engine).run),
        Task("access.alarm-events", "rules", house.service(Alarms).announcing),
        Task("access.notify", "worker", house.service(Channels).run),
        Task("access.rollouts", "worker", house.service(Rollouts).run),
        Task("access.uplink", "worker", house.service(Uplink).run),
    ]
    role = next((role for role in ("writer", "api") if role in house.roles), "")
    if role:
        found.append(Task("access.products", role, house.service(Products).retain))
    role = _mirrors(house)
    if role:
        directory = house.service(Directory)
        found += [
            Task("access.directory", role, lambda _house: directory.follow()),
            Task("access.presence", role, lambda _house: directory.keep_seen()),
            Task("access.live", role, house.service(Hub).run),
        ]
    return found


def _mirrors(house: House) -> str:
    """The role for which this process keeps a directory, empty if it needs none (targets are measured by the writer)."""
    return next((role for role in ("api", "rules", "writer") if role in house.roles), "")


async def write(house: House) -> None:
    """The writer: after a group is stored, the entities' current state, which also tells `live` who was heard."""
    relay = house.service(Engine).relay if "rules" in house.roles else None
    await writer.run(house, on_latest(house), house.service(Redecodes).gate, relay)


def on_latest(house: House) -> Callable[[Rows], Awaitable[None]]:
    """What is done with the newest readings of a stored group, before it is acknowledged."""
    project = house.service(ContextService).project

    async def take(rows: Rows) -> None:
        await project([
            Update(no, prop, ts, math.nan, value, quality, origin) if isinstance(value, str)
            else Update(no, prop, ts, value, None, quality, origin)
            for no, prop, ts, value, quality, origin in rows.tuples()
        ])

    return take


@hookimpl
def checks(house: House) -> Sequence[Check]:
    """The gateway, the writer."""
    from tulou.kernel.house import Check

    async def gateway() -> tuple[bool, str, str]:
        told = house.service(Hub).told("gateway")
        if not told:
            return False, "没有网关在报告", "no gateway reports"
        if any(body.get("failing") for body in told):
            return False, "网关无法写入消息流，设备在等待确认", "a gateway cannot publish; devices wait for acknowledgements"
        connections = sum(body["connections"] for body in told)
        return True, f"网关正常，{connections} 个设备连接", f"gateway runs, {connections} device connections"

    async def storing() -> tuple[bool, str, str]:
        told = house.service(Hub).told("writer")
        if not told:
            return False, "没有写入器在报告", "no writer reports"
        bad = [body["error"] for body in told if body.get("error")]
        if bad:
            return False, f"读数无法入库：{bad[0]}", f"readings cannot be stored: {bad[0]}"
        return True, "写入器正常", "the writer runs"

    async def ruling() -> tuple[bool, str, str]:
        told = house.service(Hub).told("rules")
        if not told:
            return False, "没有规则引擎在报告", "no rules engine reports"
        missed = sum(body["missed"] for body in told)
        if missed:
            return False, f"规则引擎落后，{missed} 条消息未评估", f"the rules fell behind: {missed} messages were not evaluated"
        return True, "规则引擎正常", "the rules are evaluated"

    found = []
    if house.settings.edge_hub and "worker" in house.roles:
        found.append(Check("access.uplink", house.service(Uplink).check))
    if hasattr(house, "bus") and "api" in house.roles:
        if "gateway" in house.roles:
            found.append(Check("access.gateway", gateway))
        if "writer" in house.roles:
            found.append(Check("access.writer", storing))
        if "rules" in house.roles:
            found.append(Check("access.rules", ruling))
    return found


@hookimpl
def status(house: House) -> Mapping[str, Any]:
    """Figures of the gateways, the writers and the HTTP door."""
    hub, door = house.service(Hub), house.service(HttpDoor)
    gateways, writers = hub.told("gateway"), hub.told("writer")
    fields = [
        {"name": protocol, "gateway": body["name"], **figures}
        for body in gateways for protocol, figures in body.get("fields", {}).items()
    ]
    counters = hub.counters(EVERYWHERE)
    http = door.ingestor.counters.accepted if door.ingestor else 0
    return {
        "access.gateways": [{key: value for key, value in body.items() if key != "fields"} for body in gateways],
        "access.writers": writers, "access.rules": hub.told("rules"),
        "ingest": {
            "accepted": http + sum(body.get("accepted", 0) for body in gateways),
            "stored": sum(body.get("frames", 0) for body in writers),
            "lag_s": max((body.get("lag_s", 0.0) for body in writers), default=None),
            "waiting": sum(body.get("lag", 0) for body in writers),
            "dead": counters["dead_letters"],
            "readings_per_second": counters["readings_per_second"],
        },
        "access.live_clients": len(hub.clients),
        "access.at": time.time(),
        **({"access.field_doors": fields} if fields else {}),
        **({"access.uplink": house.service(Uplink).figures()} if house.settings.edge_hub else {}),
    }


@hookimpl
def systems() -> Mapping[str, tuple[str, str, str, str]]:
    """The systems that access serves, and how far."""
    return {
        "N2.3": (
            "partial", "MQTT、CoAP、LwM2M、HTTP、GB/T 28181、OCPP、HJ 212、JT/T 808、GB/T 32960、SL 651、AIS 接入，OPC UA 订阅，LoRaWAN 经 "
            "ChirpStack，DL/T 645、CJ/T 188、Modbus 轮询，都是同一设备；无 DTLS",
            "one device over MQTT, CoAP, LwM2M, HTTP, GB/T 28181, OCPP, HJ 212, JT/T 808, GB/T 32960, SL 651 or AIS, asked by DL/T 645, "
            "CJ/T 188 or Modbus, or subscribed to by OPC UA; LoRaWAN by way of ChirpStack; no DTLS", "tests/access/test_coap_house.py",
        ),
        "N2.4": (
            "partial", "登记、检索、地图与最新值在 10 万实体上测过；千万级未测",
            "register, search, map and latest values measured at 100,000 entities; ten million untested",
            "bench/things.py",
        ),
        "N2.5": (
            "partial", "设备开通（登记、密钥自助、证书请求）、令牌与 X.509 证书及轮换、认领、分组、机构配额、批量导入、在线状态、命令下发与影子、规则与告警、死信重放、编解码器修正后重读历史、固件分阶段发布；"
            "SensorThings 1.1 读取与写入读数（frost 客户端）；LwM2M 注册、观察、读写与执行",
            "devices: provisioned by people, by key or by certificate request; tokens and X.509 certificates with rotation, claiming, "
            "groups, quotas, bulk import, presence, commands and shadow, rules and alarms, dead "
            "letters with replay, history read again after a codec was mended, firmware in stages; "
            "SensorThings 1.1 to read and to write Observations (frost client); LwM2M: register, observe, read, write, execute",
            "tests/access/test_sensorthings_client.py",
        ),
        "C2.1": (
            "partial", "边缘节点断网自主运行，恢复后补传：每条一次、每台设备有序，过期命令不执行；无资源池，未测数百节点",
            "an edge runs alone when cut off and brings everything later, once and in order per device, and commands that expired do "
            "not run; no pools, hundreds of edges untested",
            "tests/access/test_edge.py",
        ),
        "F4.4": (
            "partial", "OCPP 1.6J 与 2.0.1：充电会话、电表值、卡、远程启停、充电曲线下发；无馈线容量内的有序充电，无 OCPI",
            "OCPP 1.6J and 2.0.1: transactions, meter values, cards, remote start and stop, charging profiles as commands; no smart "
            "charging under a feeder, no OCPI",
            "tests/access/test_ocpp_house.py",
        ),
    }
