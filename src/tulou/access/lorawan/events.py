"""Events of ChirpStack v4 in JSON (its `integration.proto` by the JSON mapping of Protocol Buffers), in the form in which
they are kept.

Law: pure. What is kept is the name of the event, a line feed, and the bytes that came. The device is `deviceInfo.devEui`,
the time is `time`. Values that the mapping leaves out are zero (`dr`, `fCnt`, `rssi`, `snr`, `margin`).

`object`, which ChirpStack's codec made of the payload, is the readings, by the names on the way with points between; lists
are the text of JSON. What the network says beside it begins with `lora.`; of several gateways it is that of the strongest.
An uplink without `object` is its payload in base64, `lora.data`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from tulou.access.batch import BAD
from tulou.access.lorawan.downlinks import METHODS
from tulou.access.protocols import Method, Sample
from tulou.access.telemetry import NAN, Refusal
from tulou.kernel.errors import Invalid

DEEPEST = 8
"""How deep an object is read; what is below is the text of JSON."""
Values = dict[str, float | str]


class Unreadable(ValueError):
    """Why an event cannot be read."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.en)
        self.refusal = refusal


def sealed(event: str, body: bytes) -> bytes:
    """What is kept of an event."""
    return event.encode() + b"\n" + body


def opened(raw: bytes) -> tuple[str, dict[str, Any]]:
    """The event's name, and the event. Raises `Unreadable`."""
    name, _, body = raw.partition(b"\n")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unreadable(Refusal("json", f"不是 JSON：{error}", f"not JSON: {error}")) from None
    if not isinstance(found, dict):
        raise Unreadable(Refusal("object", "事件不是 JSON 对象", "the event is no JSON object"))
    return name.decode("ascii", "replace"), found


def dev_eui(event: Mapping[str, Any]) -> bytes:
    """The device of an event, in small letters; empty if there is none."""
    info = event.get("deviceInfo")
    text = info.get("devEui") if isinstance(info, dict) else None
    return text.lower().encode() if isinstance(text, str) and re.fullmatch("[0-9A-Fa-f]{16}", text) else b""


def _time(event: Mapping[str, Any]) -> int:
    """µs; 0 without a time. Raises `Unreadable`."""
    text = event.get("time")
    if text is None:
        return 0
    try:
        at = datetime.fromisoformat(text)
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000)
    except (TypeError, ValueError, OverflowError):
        raise Unreadable(Refusal("time", "时间不是 RFC 3339", "the time is not RFC 3339", "time", str(text)[:80])) from None


def _flat(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, float | str]]:
    if isinstance(value, bool | int | float):
        yield name, float(value)
    elif isinstance(value, str):
        yield name, value
    elif isinstance(value, dict) and depth < DEEPEST:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key, depth + 1)
    elif value is not None:
        yield name, orjson.dumps(value).decode()


def _number(of: Mapping[str, Any], key: str) -> float:
    """A number, zero where the mapping left it out. Raises `Unreadable`."""
    value = of.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unreadable(Refusal("number", f"{key} 不是数", f"{key} is no number", key, str(value)[:80]))
    return float(value)


def _up(event: Mapping[str, Any]) -> Values:
    found: Values = {}
    decoded = event.get("object")
    if isinstance(decoded, dict):
        found |= _flat(decoded, "")
    elif isinstance(event.get("data"), str):
        found["lora.data"] = event["data"]
    gateways = [one for one in event.get("rxInfo") or () if isinstance(one, dict)]
    if gateways:
        best = max(gateways, key=lambda one: _number(one, "rssi"))
        found |= {
            "lora.rssi": _number(best, "rssi"),
            "lora.snr": _number(best, "snr"),
            "lora.gateways": float(len(gateways)),
        }
        if isinstance(best.get("gatewayId"), str):
            found["lora.gateway"] = best["gatewayId"]
    sent = event.get("txInfo")
    if isinstance(sent, dict):
        found["lora.frequency"] = _number(sent, "frequency")
    found |= {"lora.dr": _number(event, "dr"), "lora.fCnt": _number(event, "fCnt")}
    if "fPort" in event:
        found["lora.fPort"] = _number(event, "fPort")
    return found


def _status(event: Mapping[str, Any]) -> Values:
    powered = event.get("externalPowerSource") is True
    found: Values = {"lora.margin": _number(event, "margin"), "lora.externalPower": float(powered)}
    if event.get("batteryLevelUnavailable") is True:
        found["lora.battery"] = NAN
    elif not powered:
        found["lora.battery"] = _number(event, "batteryLevel")
    return found


def _join(event: Mapping[str, Any]) -> Values:
    return {"lora.devAddr": event["devAddr"]} if isinstance(event.get("devAddr"), str) else {}


def _ack(event: Mapping[str, Any]) -> Values:
    return {"lora.acknowledged": float(event.get("acknowledged") is True), "lora.fCntDown": _number(event, "fCntDown")}


def _txack(event: Mapping[str, Any]) -> Values:
    return {"lora.fCntDown": _number(event, "fCntDown")}


def _log(event: Mapping[str, Any]) -> Values:
    return {
        "lora.log": f"{event.get('level', 'INFO')} {event.get('code', 'UNKNOWN')}: {event.get('description', '')}"[:1000]
    }


def _location(event: Mapping[str, Any]) -> Values:
    place = event.get("location")
    if not isinstance(place, dict):
        raise Unreadable(Refusal("location", "没有位置", "there is no location", "location"))
    return {name: _number(place, name) for name in ("latitude", "longitude", "altitude")}


EVENTS: Mapping[str, Callable[[Mapping[str, Any]], Values]] = {
    "up": _up, "status": _status, "join": _join, "ack": _ack, "txack": _txack, "log": _log, "location": _location,
    "integration": lambda event: {},
}
"""Event -> what it says. That of another integration is kept, and read as nothing."""


class LoRaWan:
    """The codec (`protocols.Codec`)."""

    name = "lorawan"
    passwords = False
    methods: Mapping[str, Method] = METHODS

    def identity(self, text: str) -> bytes:
        """A DevEUI of 16 hexadecimal digits, with or without `-` and `:` between."""
        digits = re.sub("[-:]", "", text).lower()
        if not re.fullmatch("[0-9a-f]{16}", digits):
            raise Invalid(
                "DevEUI 应为 16 位十六进制数字",
                "a DevEUI is 16 hexadecimal digits",
                field="identity",
                value=text,
                rule="EUI-64",
            )
        return digits.encode()

    def identify(self, raw: bytes) -> bytes:
        try:
            return dev_eui(opened(raw)[1])
        except Unreadable:
            return b""

    def masked(self, raw: bytes) -> bytes:
        return raw

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        try:
            name, event = opened(raw)
            read = EVENTS.get(name)
            if read is None:
                return [], [Refusal("event", f"没有事件 {name[:40]}", f"there is no event {name[:40]}", "event", name[:40])]
            values, at = read(event), _time(event)
        except Unreadable as error:
            return [], [error.refusal]
        worse = {key: BAD for key, value in values.items() if value != value}
        return ([(at, values, worse or None)] if values else []), []


codec = LoRaWan()
