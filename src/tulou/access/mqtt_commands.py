"""Commands to a device over MQTT: `v1/devices/me/rpc/request/<number>`, the convention that integrators know.

Law: a command goes out at the quality of service that the device subscribed with. At QoS 1 the device has it when it
sends PUBACK; at QoS 0 when it was written. The answer comes on `v1/devices/me/rpc/response/<number>`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from tulou.access import mqtt
from tulou.access.courier import JSON, Call, Courier
from tulou.access.peer import WRITE
from tulou.access.protocols import DELIVERED, REFUSED
from tulou.kernel.errors import TooLarge

if TYPE_CHECKING:
    from tulou.access.gateway import Connection

FILTER = "v1/devices/me/rpc/request/+"
REQUEST = b"v1/devices/me/rpc/request/"
WINDOW = 8
"""Commands that a device may have without having acknowledged them."""


class MqttTarget:
    """A connection that subscribed to its commands."""

    __slots__ = ("bearer", "connection", "courier", "entity", "inflight", "qos")

    def __init__(self, connection: Connection, courier: Courier, entity: int, qos: int) -> None:
        self.connection, self.courier, self.entity, self.qos = connection, courier, entity, qos
        self.bearer = JSON
        self.inflight: dict[bytes, Call] = {}

    def room(self) -> int:
        connection = self.connection
        if connection.transport is None or connection.parser is None or connection.reasons & WRITE:
            return 0
        for packet_id in [packet_id for packet_id, call in self.inflight.items() if call.late]:
            del self.inflight[packet_id]
        return max(0, min(WINDOW, connection.receive_maximum) - len(self.inflight))

    def deliver(self, call: Call) -> None:
        connection = self.connection
        packet_id = connection.next_id() if self.qos else b""
        payload = b'{"method":%b,"params":%b}' % (orjson.dumps(call.method), call.params.encode())
        packet = mqtt.publish(REQUEST + str(call.no).encode(), payload, self.qos, packet_id, level=connection.level)
        if connection.packet_limit and len(packet) > connection.packet_limit:
            raise TooLarge(f"命令 {len(packet)} 字节，设备只收 {connection.packet_limit} 字节",
                           f"the command has {len(packet)} bytes, the device takes {connection.packet_limit}")
        if self.qos:
            self.inflight[packet_id] = call
        connection.send(packet)
        if not self.qos:
            self.courier.report(call.no, call.entity, DELIVERED)

    def acknowledged(self, packet_id: bytes, reason: int) -> None:
        """The device sent PUBACK."""
        call = self.inflight.pop(packet_id, None)
        if call is None:
            return
        if reason < 0x80:
            self.courier.report(call.no, call.entity, DELIVERED)
        else:
            self.courier.report(call.no, call.entity, REFUSED, error=f"PUBACK 0x{reason:02X}")
        self.courier.want(self)

    def end(self) -> None:
        """The connection or the subscription ends."""
        self.courier.gone(self, self.inflight.values())
        self.inflight.clear()
