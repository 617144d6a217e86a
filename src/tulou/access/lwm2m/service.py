"""What people may do with a device of LwM2M: read, write, execute, observe (V1_0, 5.4 and 5.5).

Law: every operation asks the policy, by way of the device: one that the actor may not see is `NotFound`. What changes a
device is in the audit before it is sent. The gateway that has the registration is found on the bus; the answer is the
device's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nats.errors
import orjson

from tulou.access.lwm2m.server import ASK, WHO
from tulou.access.service import Devices
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, Unavailable
from tulou.kernel.policy import Actor, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, WRITE = "access.device.read", "access.device.write"
WAIT, LONGEST = 30.0, 300.0
"""Seconds for which a device may sleep before a request to it is given up: usual, and at most."""
FOUND = 1.0
"""Seconds within which a gateway says that it has the device."""
EXCHANGE = 160.0
"""Seconds that an exchange with a device that is awake may take (RFC 7252, 4.8.2)."""
REFUSED = {
    "4.00": Invalid, "4.02": Invalid, "4.04": Invalid, "4.05": Invalid, "4.06": Invalid, "4.08": Invalid, "4.13": Invalid, "4.15": Invalid,
}


class Lwm2m:
    """The operations."""

    def __init__(self, house: House, devices: Devices) -> None:
        self.house, self.devices = house, devices
        self.policy = house.policy

    @operation(READ)
    async def state(self, actor: Actor, device_id: str) -> dict[str, Any]:
        """The registration: endpoint, version, lifetime, paths, what is observed. Raises `Conflict` if there is none."""
        device = await self.devices.get(actor, device_id)
        found: dict[str, Any] = (await self._ask(device, {"op": "state"}, WAIT))["state"]
        return found

    @operation(READ)
    async def read(self, actor: Actor, device_id: str, path: str, *, wait: float = WAIT) -> dict[str, Any]:
        """The values at a path and below it: `{values: {path: value}}`; bytes as base64."""
        device = await self.devices.get(actor, device_id)
        return await self._ask(device, {"op": "read", "path": path}, wait)

    @operation(WRITE)
    async def write(self, actor: Actor, device_id: str, path: str, value: Any, *, wait: float = WAIT) -> dict[str, Any]:
        """Write a resource, or resources of an instance (an object of ids and values)."""
        return await self._change(actor, device_id, "write", path, value, wait)

    @operation(WRITE)
    async def execute(self, actor: Actor, device_id: str, path: str, arguments: str = "", *, wait: float = WAIT) -> dict[str, Any]:
        """Execute a resource, with arguments as text."""
        return await self._change(actor, device_id, "execute", path, arguments, wait)

    @operation(WRITE)
    async def observe(self, actor: Actor, device_id: str, path: str, *, wait: float = WAIT) -> dict[str, Any]:
        """Observe a path: its values become readings until the registration ends."""
        return await self._change(actor, device_id, "observe", path, None, wait)

    @operation(WRITE)
    async def cancel(self, actor: Actor, device_id: str, path: str, *, wait: float = WAIT) -> dict[str, Any]:
        """Observe a path no longer."""
        return await self._change(actor, device_id, "cancel", path, None, wait)

    async def _change(self, actor: Actor, device_id: str, op: str, path: str, value: Any, wait: float) -> dict[str, Any]:
        device = await self.devices.get(actor, device_id)
        self.policy.require(actor, WRITE, device["org"])
        await self.house.db.write(lambda c: audit.record(
            c, actor, WRITE, device["org"], device["id"], {"change": f"lwm2m.{op}", "path": path, "value": str(value)[:200]}
        ))
        return await self._ask(device, {"op": op, "path": path, "value": value}, wait)

    async def _ask(self, device: dict[str, Any], question: dict[str, Any], wait: float) -> dict[str, Any]:
        if not 0 < wait <= LONGEST:
            raise Invalid(f"wait 须为 0 至 {LONGEST:.0f} 秒", f"wait is above 0 and at most {LONGEST:.0f} seconds", field="wait", value=wait,
                          rule="seconds")
        nc, device_id = self.house.bus.nc, device["id"]
        try:
            gateway = (await nc.request(WHO, device_id.encode(), timeout=FOUND)).data.decode()
        except nats.errors.Error:
            raise Conflict(
                f"设备 {device_id} 没有 LwM2M 注册", f"device {device_id} has no LwM2M registration", field="id", value=device_id,
                rule="a registered device",
            ) from None
        body = orjson.dumps({**question, "device": device_id, "wait": wait})
        try:
            answer: dict[str, Any] = orjson.loads((await nc.request(f"{ASK}.{gateway}", body, timeout=wait + EXCHANGE)).data)
        except nats.errors.Error:
            raise Unavailable(f"网关 {gateway} 没有应答", f"gateway {gateway} does not answer", rule="gateway") from None
        error = answer.get("error")
        if error == "invalid":
            raise Invalid(answer["zh"], answer["en"], field=answer["field"] or None, rule=answer["rule"])
        if error:
            raise Unavailable(f"{answer['zh']}：{answer['en']}", f"{answer['zh']}: {answer['en']}", field="id", value=device_id, rule=f"device awake within {wait:.0f} s")
        code = answer.get("code", "2.05")
        if not code.startswith("2."):
            raise REFUSED.get(code, Conflict)(
                f"设备回答 {code} {answer['told']}", f"the device answered {code} {answer['told']}", field="path",
                value=question.get("path"), rule=f"CoAP {code}",
            )
        return answer
