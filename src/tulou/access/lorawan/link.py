"""A connection to the broker of ChirpStack's MQTT integration, by Eclipse Paho (MQTT 5), which publishes downlinks.

Law: a downlink is on its way when the broker has acknowledged it (QoS 1), and returned where the connection ended before. A broker that
says that nobody subscribes (0x10) has not handed it on: it is returned too, and the server is left alone for `DEAF` seconds. Paho's thread
touches nothing here: what it hears is handled in the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import orjson
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import ValidationError

from tulou.access.courier import HANDED_ON, RETURNED, Call
from tulou.access.lorawan.downlinks import METHODS, Downlink, command
from tulou.access.protocols import REFUSED
from tulou.kernel.errors import Invalid
from tulou.kernel.outbound import NamedContext, Target

if TYPE_CHECKING:
    from tulou.access.courier import Courier
    from tulou.access.lorawan.door import LoRaTarget
    from tulou.access.lorawan.tables import NetworkServer

log = logging.getLogger("tulou.gateway")

PATIENCE = 10.0
"""Seconds for the broker to accept a connection."""
DEAF = 10.0
NO_SUBSCRIBERS = 0x10


class Link:
    """One connection; `judged()` gives the address to dial, `courier` takes what became of commands."""

    def __init__(self, server: NetworkServer, target: Target, judged: Callable[[], Awaitable[str]], courier: Courier) -> None:
        self.server, self.target, self.judged, self.courier = server, target, judged, courier
        self.up = False
        self.why = ""
        self.lost = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._deaf = 0.0
        self._inflight: dict[int, tuple[LoRaTarget, Call]] = {}
        self._connected: asyncio.Future[str] = self._loop.create_future()
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"tulou-{secrets.token_hex(6)}", protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        client.on_connect = lambda _c, _d, _f, reason, _p: self._tell(self._answered, str(reason) if reason.is_failure else "")
        client.on_disconnect = lambda _c, _d, _f, reason, _p: self._tell(self._ended, str(reason))
        client.on_publish = lambda _c, _d, mid, reason, _p: self._tell(self._published, mid, reason.value, str(reason))
        client.connect_timeout = PATIENCE
        if server.user is not None:
            client.username_pw_set(server.user, server.password)
        if target.scheme == "mqtts":
            context = NamedContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_default_certs()
            context.name = target.host
            client.tls_set_context(context)

    async def open(self) -> None:
        """Connect. Raises `TulouError`, `OSError`, `TimeoutError`."""
        address = await self.judged()
        await asyncio.to_thread(self._client.connect, address, self.target.port, keepalive=30)
        self._client.loop_start()
        async with asyncio.timeout(PATIENCE):
            refused = await self._connected
        if refused:
            raise ConnectionRefusedError(f"MQTT: {refused}")
        self.up = True

    async def close(self) -> None:
        """End the connection; what it had not handed on is returned."""
        self.up = False
        with contextlib.suppress(Exception):
            self._client.disconnect()
            await asyncio.to_thread(self._client.loop_stop)
        inflight, self._inflight = self._inflight, {}
        for target, call in inflight.values():
            target.inflight -= 1
            self.courier.report(call.no, call.entity, RETURNED, attempt=call.attempt)

    @property
    def takes(self) -> bool:
        """Whether downlinks may be published now."""
        return self.up and self._loop.time() >= self._deaf

    def send(self, target: LoRaTarget, call: Call) -> None:
        """Publish a downlink. Raises `Invalid` where it is none."""
        try:
            said = METHODS[call.method].params.model_validate(orjson.loads(call.params))
        except (KeyError, ValidationError) as error:
            raise Invalid(f"LoRaWAN 不支持此命令：{error}", f"LoRaWAN has no such command: {error}") from None
        assert isinstance(said, Downlink)
        topic = f"application/{target.application}/device/{target.dev_eui}/command/down"
        sent = self._client.publish(topic, command(call.no, call.entity, target.dev_eui, said, call.expires), 1)
        self._inflight[sent.mid] = target, call
        target.inflight += 1

    # What Paho's thread hears

    def _tell(self, what: Callable[..., None], *about: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what, *about)

    def _answered(self, refused: str) -> None:
        if not self._connected.done():
            self._connected.set_result(refused)

    def _ended(self, why: str) -> None:
        self.up, self.why = False, f"MQTT: {why}"
        self._answered(why)
        self.lost.set()

    def _published(self, mid: int, code: int, reason: str) -> None:
        target, call = self._inflight.pop(mid, (None, None))
        if target is None or call is None:
            return
        target.inflight -= 1
        if code == NO_SUBSCRIBERS:
            self._deaf, self.why = self._loop.time() + DEAF, "网络服务器未订阅下行命令 (the network server does not subscribe to commands)"
            self.courier.report(call.no, call.entity, RETURNED, attempt=call.attempt)
        elif code >= 0x80:
            self.courier.report(call.no, call.entity, REFUSED, error=f"MQTT: {reason}")
        else:
            self.why = ""
            self.courier.report(call.no, call.entity, HANDED_ON)
        self.courier.want(target)
