"""What ChirpStack v4 documents of its MQTT and HTTP integrations, in a process of its own, with a queue for each device of class A. It is not
ChirpStack: there is none among the packages. Written after `chirpstack-docs` (integrations/mqtt.md, http.md, events.md), `integration.proto`
and the source's handling of `DownlinkCommand`: strict about field names, an id is taken once, the application must be the device's, items
expire, one confirmed item is under way at a time.

    python -m tests.conformance.chirpstack MQTT-PORT EVENT-URL TOKEN APPLICATION

Lines on standard input: `up EUI [KEY=VALUE]` an uplink, after which the next item is sent; `ack EUI` the device confirms it; `nack EUI` it did
not; `queue EUI`; `events ID EVENT` posts an event about an item as it is. Each is answered by a line of JSON.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import sys
import threading
import time
import urllib.request
import uuid
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

PORT, URL, TOKEN, APPLICATION = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
FIELDS = {"id": str, "devEui": str, "confirmed": bool, "fPort": int, "data": str, "object": dict, "expiresAt": str}
queues: dict[str, list[dict[str, Any]]] = {}
refused: list[str] = []
counts: dict[str, int] = {}
lock, listening = threading.Lock(), threading.Event()


def now() -> str:
    return dt.datetime.now(dt.UTC).isoformat()


def post(event: str, eui: str, body: dict[str, Any]) -> int:
    info = {"tenantId": str(uuid.UUID(int=1)), "applicationId": APPLICATION, "deviceName": "lid", "devEui": eui, "tags": {}}
    data = json.dumps({"time": now(), "deviceInfo": info, **body}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    with urllib.request.urlopen(urllib.request.Request(f"{URL}?event={event}", data, headers), timeout=5) as answer:
        status: int = answer.status
        return status


def enqueue(topic: str, payload: bytes) -> None:
    _, application, _, eui, _, kind = topic.split("/")
    said = json.loads(payload)
    unknown = [name for name, value in said.items() if not isinstance(value, FIELDS.get(name, ()))]
    if kind != "down" or unknown or said["devEui"] != eui:
        raise ValueError(f"{kind} {unknown}")
    if application != APPLICATION:
        raise ValueError("Application ID from topic does not match application ID from device")
    if not 0 < said["fPort"] < 256:
        raise ValueError("fPort must be > 0")
    item = {"id": str(uuid.UUID(said.get("id") or str(uuid.uuid4()))), "confirmed": said.get("confirmed", False), "fPort": said["fPort"],
            "data": base64.b64decode(said.get("data", ""), validate=True).hex(), "object": said.get("object"),
            "expires": dt.datetime.fromisoformat(said["expiresAt"]).timestamp() if "expiresAt" in said else None, "pending": False}
    with lock:
        queue = queues.setdefault(eui, [])
        if any(one["id"] == item["id"] for one in queue):
            raise ValueError(f"Object already exists (id: {item['id']})")
        queue.append(item)


def message(_client: Any, _data: Any, told: Any) -> None:
    try:
        enqueue(told.topic, told.payload)
    except (ValueError, KeyError) as error:
        refused.append(str(error))


def send(eui: str) -> None:
    """The next item goes out in the receive window of an uplink."""
    with lock:
        queue = queues.setdefault(eui, [])
        while queue:
            item = queue[0]
            if item["pending"]:
                return
            if item["expires"] is not None and item["expires"] < time.time():
                queue.pop(0)
                post("log", eui, {"level": "ERROR", "code": "EXPIRED", "description": "Device queue-item discarded because it has expired",
                                  "context": {"queue_item_id": item["id"]}})
                continue
            if len(item["data"]) > 2 * 51:
                queue.pop(0)
                post("log", eui, {"level": "ERROR", "code": "DOWNLINK_PAYLOAD_SIZE", "description": "Device queue-item discarded because it exceeds the max. payload size",
                                  "context": {"item_size": str(len(item["data"]) // 2), "max_size": "51", "queue_item_id": item["id"]}})
                continue
            break
        else:
            return
        counts[eui] = item["count"] = counts.get(eui, -1) + 1
        if item["confirmed"]:
            item["pending"] = True
        else:
            queue.pop(0)
    post("txack", eui, {"downlinkId": 1, "queueItemId": item["id"], "fCntDown": item["count"], "gatewayId": "0016c001f153a14c", "txInfo": {}})


def confirm(eui: str, acknowledged: bool) -> None:
    with lock:
        item = queues[eui].pop(0)
    post("ack", eui, {"deduplicationId": str(uuid.uuid4()), "queueItemId": item["id"], "acknowledged": acknowledged, "fCntDown": item["count"]})


def subscribed(*_: Any) -> None:
    if not listening.is_set():
        listening.set()
        print(json.dumps("listening"), flush=True)


client = paho.Client(CallbackAPIVersion.VERSION2, client_id="chirpstack", protocol=paho.MQTTv5)
client.on_connect = lambda c, *_: c.subscribe("application/+/device/+/command/+", 0)
client.on_subscribe = subscribed
client.on_message = message
if len(sys.argv) > 5:
    client.username_pw_set(sys.argv[5], sys.argv[6])
client.connect("127.0.0.1", PORT)
client.loop_start()
for line in sys.stdin:
    verb, eui, *more = line.split()
    if verb == "up":
        post("up", eui, {"deduplicationId": str(uuid.uuid4()), "devAddr": "00189440", "fPort": 1, "data": "", "object": {
            name: float(value) for name, value in (one.split("=") for one in more)}})
        send(eui)
    elif verb in ("ack", "nack"):
        confirm(eui, verb == "ack")
    elif verb == "events":
        post(more[1], eui, {"queueItemId": more[0], "acknowledged": True})
    print(json.dumps({"queue": queues.get(eui, []), "refused": refused}), flush=True)
