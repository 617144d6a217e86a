"""MQTT endpoints of notifications: publishes messages to a broker that a subscription names.

Law: a message counts as delivered when the broker has acknowledged it as its QoS says. The broker's address is judged by
`kernel.outbound` as that of any other endpoint, and the connection goes to the address that was judged.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.2.15 and 7.2; MQTT 3.1.1 and 5.0 are spoken by Eclipse Paho.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import orjson
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tulou.context.forms import Json
from tulou.context.subscription_form import pairs, topic_of
from tulou.kernel.outbound import NamedContext, Outbound, target_of

THREADS = 16


class Broker(NamedTuple):
    """Where and how to publish. `name` is the host as it was written, for the certificate."""

    address: str
    name: str
    port: int
    secure: bool
    user: str | None
    password: str | None
    topic: str
    qos: int
    version: int
    timeout: float


def message(body: Json, metadata: dict[str, str]) -> bytes:
    """The payload of clause 7.2: the notification beside what HTTP would say in headers."""
    return orjson.dumps({"metadata": metadata, "body": body})


class Publisher:
    """Publishes in threads of its own, so that a broker that does not answer holds up no other work."""

    def __init__(self, outbound: Outbound) -> None:
        self.outbound = outbound
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="mqtt-endpoint")

    async def publish(self, endpoint: Json, payloads: list[bytes], timeout: float) -> tuple[int, str | None]:
        """Publish in order; (how many were acknowledged, what went wrong then). Raises `Refused`, `Unreachable`."""
        target = target_of(endpoint["uri"], ("mqtt", "mqtts"))
        parts = urlsplit(endpoint["uri"])
        info = pairs(endpoint, "notifierInfo")
        addresses = await self.outbound.addresses(target.host, target.port)
        broker = Broker(
            addresses[0], target.host, target.port, target.scheme == "mqtts",
            unquote(parts.username) if parts.username else None, unquote(parts.password) if parts.password else None,
            topic_of(endpoint["uri"]), int(info.get("MQTT-QoS", "0")),
            paho.MQTTv311 if info.get("MQTT-Version") == "mqtt3.1.1" else paho.MQTTv5, timeout,
        )
        return await asyncio.get_running_loop().run_in_executor(self._threads, _publish, broker, payloads)

    def close(self) -> None:
        """Wait for no thread: what it does is bounded by its time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _publish(broker: Broker, payloads: list[bytes]) -> tuple[int, str | None]:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"tulou-{secrets.token_hex(6)}", protocol=broker.version)  # type: ignore[arg-type]
    state: dict[str, Any] = {"connected": None, "refused": {}}

    def connected(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        state["connected"] = reason  # of a refusal the loop makes an error of its own

    def published(_client: Any, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            state["refused"][mid] = str(reason)

    client.on_connect, client.on_publish = connected, published
    client.connect_timeout = broker.timeout
    if broker.user is not None:
        client.username_pw_set(broker.user, broker.password)
    if broker.secure:
        context = NamedContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_default_certs()
        context.name = broker.name
        client.tls_set_context(context)
    done = 0
    try:
        deadline = time.monotonic() + broker.timeout
        client.connect(broker.address, broker.port, keepalive=60)
        while state["connected"] is None:
            _step(client, deadline)
        for payload in payloads:
            deadline = time.monotonic() + broker.timeout
            info = client.publish(broker.topic, payload, broker.qos)
            while not info.is_published():
                _step(client, deadline)
            if info.mid in state["refused"]:
                return done, f"MQTT: {state['refused'][info.mid]}"
            done += 1
        client.disconnect()
        client.loop(0.01)
    except (OSError, ValueError, RuntimeError) as error:
        refused = state["connected"] is not None and state["connected"].is_failure
        return done, f"MQTT: {state['connected']}" if refused else f"MQTT: {type(error).__name__}: {error}"
    return done, None


def _step(client: paho.Client, deadline: float) -> None:
    """One turn of the client's loop. Raises `OSError` when the connection is lost or the time is up."""
    result = client.loop(0.05)
    if result != paho.MQTT_ERR_SUCCESS:
        raise ConnectionError(paho.error_string(result))
    if time.monotonic() > deadline:
        raise TimeoutError("no answer in time")
