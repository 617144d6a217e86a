"""Downlinks of ChirpStack v4 (`DownlinkCommand` of its `integration.proto`, by the JSON mapping of Protocol Buffers), and what its events
say of them.

Law: pure. The id of a queue item is a UUID of version 8 (RFC 9562, 5.8) that says the command, its entity, and whether the device is to
confirm. ChirpStack takes an id once, so a command that is published again is one item while it is queued; and an event needs no look-up.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
from pydantic import Field, model_validator

from tulou.access.protocols import ANSWERED, DELIVERED, REFUSED, Method
from tulou.access.protocols.params import Params, labelled

MARK = 0x2B7
"""What tells our ids from others': 11 bits."""
LARGEST = 242
"""Bytes of a payload, at the highest data rates (LoRaWAN regional parameters, RP002)."""
DISCARDED = frozenset({"EXPIRED", "DOWNLINK_PAYLOAD_SIZE", "F_CNT_DOWN"})
"""Codes of `log` events by which an item has left the queue without being sent."""


class Downlink(Params):
    """What is sent: bytes, or an object that the device profile's codec makes bytes of."""

    fPort: int = labelled("端口", "port", ge=1, le=223)
    data: str | None = labelled("负载，base64", "payload, base64", default=None, max_length=400)
    object: dict[str, Any] | None = labelled("对象，由 ChirpStack 的编解码器编码", "object, encoded by ChirpStack's codec", default=None)
    confirmed: bool = Field(default=False, title="要求设备确认", json_schema_extra={"title_en": "the device is to confirm"})

    @model_validator(mode="after")
    def _one(self) -> Downlink:
        if (self.data is None) == (self.object is None):
            raise ValueError("须给出 data 或 object 之一 (either data or object)")
        if self.data is not None:
            try:
                size = len(base64.b64decode(self.data, validate=True))
            except (binascii.Error, ValueError):
                raise ValueError("data 不是 base64 (data is not base64)") from None
            if size > LARGEST:
                raise ValueError(f"data 超过 {LARGEST} 字节 (data has more than {LARGEST} bytes)")
        return self


METHODS: Mapping[str, Method] = {"downlink": Method("下行", "downlink", Downlink)}


class Item(NamedTuple):
    """What the id of a queue item says."""

    no: int
    entity: int
    confirmed: bool

    @property
    def id(self) -> str:
        return str(uuid.UUID(int=self.entity << 80 | 8 << 76 | (MARK << 1 | self.confirmed) << 64 | 0b10 << 62 | self.no))


def item_of(text: object) -> Item | None:
    """The command of a queue item's id; None if it is not of us."""
    try:
        number = uuid.UUID(str(text)).int
    except ValueError:
        return None
    custom = number >> 64 & 0xFFF
    if number >> 76 & 0xF != 8 or number >> 62 & 0b11 != 0b10 or custom >> 1 != MARK:
        return None
    return Item(number & (1 << 62) - 1, number >> 80, bool(custom & 1))


def command(no: int, entity: int, dev_eui: str, said: Downlink, expires: int) -> bytes:
    """The payload of `application/<id>/device/<DevEUI>/command/down`. `expires` in ms since the epoch."""
    until = datetime.fromtimestamp(expires / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body: dict[str, Any] = {
        "id": Item(no, entity, said.confirmed).id, "devEui": dev_eui, "confirmed": said.confirmed, "fPort": said.fPort, "expiresAt": until,
    }
    return orjson.dumps(body | ({"data": said.data} if said.object is None else {"object": said.object}))


def outcome(event: str, said: Mapping[str, Any]) -> tuple[Item, dict[str, Any]] | None:
    """What an event says of a command: what became of it, and the result or error. None if it is about none of ours."""
    if event == "txack":
        item = item_of(said.get("queueItemId"))
        sent = {"gateway": said.get("gatewayId"), "fCntDown": said.get("fCntDown", 0)}
        if item is None:
            return None
        return item, {"what": DELIVERED} if item.confirmed else {"what": ANSWERED, "result": orjson.dumps(sent).decode()}
    if event == "ack":
        item = item_of(said.get("queueItemId"))
        if item is None:
            return None
        if said.get("acknowledged") is True:
            return item, {"what": ANSWERED, "result": orjson.dumps({"fCntDown": said.get("fCntDown", 0)}).decode()}
        return item, {"what": REFUSED, "error": "设备未确认 (the device did not acknowledge)"}
    context = said.get("context")
    if event == "log" and said.get("code") in DISCARDED and isinstance(context, dict):
        item = item_of(context.get("queue_item_id"))
        return None if item is None else (item, {"what": REFUSED, "error": f"{said['code']}: {said.get('description', '')}"[:1000]})
    return None
