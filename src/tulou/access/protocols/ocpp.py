"""OCPP 1.6J (with the security extensions of its white paper) and 2.0.1 (part 4, OCPP-J): charging stations.

Law: pure, but for the standard's schemas (`access/ocpp/schemas.py`). A message is a JSON array: `[2, id, action, payload]` asks,
`[3, id, payload]` answers, `[4, id, code, description, details]` refuses. What is kept of a message that asks is one line and then the
frame as it came: the subprotocol, the station's identity, and what the house knew that the frame does not say, as
`ocpp1.6 CP-1 transaction=17 place=1`. So it can be read again by itself.

Readings have the names that the standard uses, in lower camel case, below where they belong:

    status, errorCode, firmwareVersion, ...              of the station
    connector1-status, connector1-voltage-L1-N           1.6: of a connector (0 is the station)
    evse1-connector1-status, evse1-powerActiveImport     2.0.1: of a connector of an EVSE, of an EVSE (0 is the station)
    evse1-Connector-AvailabilityState                    2.0.1: a variable of a component, in its own words

After a measurand come its phase, and its location where that is not the outlet. Values are in Wh, W, varh, var, VA, VA·h, A, V, Celsius,
percent, hertz: kilos, the multiplier of 2.0.1, kelvin and Fahrenheit are turned into them. Signed values stay in the frame.
Who charges (idTag, idToken) is not a reading, and is hidden where a frame is shown: a card's number is all that a copy of it needs.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
from pydantic import RootModel, model_validator

from tulou.access.ocpp import schemas
from tulou.access.ocpp.schemas import V16, V201
from tulou.access.protocols import Method, Sample
from tulou.access.telemetry import Refusal
from tulou.kernel.errors import Invalid

SUBPROTOCOLS = {"ocpp2.0.1": V201, "ocpp1.6": V16}
"""Subprotocols of the WebSocket, the preferred one first, and the versions that they name."""
NAMES = {version: name for name, version in SUBPROTOCOLS.items()}
IDENTITY = re.compile(r"[A-Za-z0-9*\-_=+|@.]{1,48}")
"""Identities (2.0.1 part 4, 3.1.1: an identifierString of 48 at most, without the colon that ends a user name)."""
CALL, RESULT, ERROR = 2, 3, 4
LONGEST_ID = 36
NO_ID = "-1"
"""The message id of an error about a message whose own could not be read (2.0.1 part 4, 4.2.3)."""
DESCRIPTION = 255

KEPT, LIVE = True, False
ACTIONS: dict[str, dict[str, bool]] = {
    V16: {
        "BootNotification": KEPT, "StatusNotification": KEPT, "MeterValues": KEPT, "StartTransaction": KEPT, "StopTransaction": KEPT,
        "DataTransfer": KEPT, "DiagnosticsStatusNotification": KEPT, "FirmwareStatusNotification": KEPT,
        "SecurityEventNotification": KEPT, "SignedFirmwareStatusNotification": KEPT, "LogStatusNotification": KEPT,
        "Heartbeat": LIVE, "Authorize": LIVE, "SignCertificate": LIVE,
    },
    V201: {
        "BootNotification": KEPT, "StatusNotification": KEPT, "MeterValues": KEPT, "TransactionEvent": KEPT, "NotifyReport": KEPT,
        "NotifyEvent": KEPT, "SecurityEventNotification": KEPT, "FirmwareStatusNotification": KEPT, "LogStatusNotification": KEPT,
        "PublishFirmwareStatusNotification": KEPT, "DataTransfer": KEPT, "NotifyMonitoringReport": KEPT,
        "ReportChargingProfiles": KEPT, "NotifyChargingLimit": KEPT, "ClearedChargingLimit": KEPT, "ReservationStatusUpdate": KEPT,
        "NotifyDisplayMessages": KEPT, "Heartbeat": LIVE, "Authorize": LIVE, "SignCertificate": LIVE,
    },
}
"""What a station may ask: kept, and answered when it is durable, or answered at once."""
FACTS = frozenset({"transaction", "place", "start"})
"""What the first line of a kept message may say: the transaction's number, its connector or EVSE, the meter at its start (Wh)."""


# -- Messages

@dataclass(slots=True)
class Call:
    """The station asks."""

    id: str
    action: str
    payload: dict[str, Any]


@dataclass(slots=True)
class Outcome:
    """The station answers a call: with a payload, or with `error`."""

    id: str
    payload: dict[str, Any]
    error: str = ""


@dataclass(slots=True)
class Fault:
    """A message that cannot be served: the standard's code of the answer, and the reason. Without an `id` nobody is answered."""

    id: str
    code: str
    refusal: Refusal


def read(frame: bytes, version: str) -> Call | Outcome | Fault | None:
    """One message; None for what the standard says to ignore (1.6, 4.1.3: unknown message types)."""
    nobody = NO_ID if version == V201 else ""
    malformed = "RpcFrameworkError" if version == V201 else "FormationViolation"
    try:
        parts = orjson.loads(frame)
    except (orjson.JSONDecodeError, RecursionError) as error:
        return Fault(nobody, malformed, Refusal("json", "不是 JSON", f"not JSON: {str(error)[:120]}", "frame"))
    if not isinstance(parts, list) or len(parts) < 2 or type(parts[0]) is not int:
        return Fault(nobody, malformed, Refusal("rpc", "不是 OCPP 消息数组", "not an array of an OCPP message", "frame"))
    kind, unique = parts[0], parts[1]
    if not isinstance(unique, str) or not 0 < len(unique) <= LONGEST_ID:
        return Fault(nobody, malformed, Refusal("id", f"消息标识须为 1 至 {LONGEST_ID} 个字符", f"a message id is 1 to {LONGEST_ID} characters", "[1]"))
    if kind == CALL:
        if len(parts) != 4 or not isinstance(parts[2], str) or not isinstance(parts[3], dict):
            return Fault(unique, malformed, Refusal("rpc", "须为 [2, 标识, 动作, 对象]", "a call is [2, id, action, object]", "frame"))
        return _checked(Call(unique, parts[2], parts[3]), version)
    if kind == RESULT and len(parts) == 3 and isinstance(parts[2], dict):
        return Outcome(unique, parts[2])
    if kind == ERROR and len(parts) >= 3:
        told = parts[3] if len(parts) > 3 and isinstance(parts[3], str) else ""
        return Outcome(unique, {}, f"{str(parts[2])[:50]} {told[:DESCRIPTION]}".strip())
    if kind in (RESULT, ERROR):
        return Outcome(unique, {}, "应答格式有误 (a malformed answer)")
    if version == V16:
        return None
    return Fault(unique, "MessageTypeNotSupported", Refusal("type", f"消息类型 {kind} 未知", f"message type {kind} is unknown", "[0]"))


def _checked(call: Call, version: str) -> Call | Fault:
    action = call.action
    if action not in ACTIONS[version]:
        name = action[:50]
        if schemas.known(version, action):
            return Fault(call.id, "NotSupported", Refusal("action", f"不支持动作 {name}", f"the action {name} is not supported here", "[2]"))
        return Fault(call.id, "NotImplemented", Refusal("action", f"没有动作 {name}", f"there is no action {name}", "[2]"))
    wrong = schemas.violation(version, action, call.payload) or _wide(call.payload)
    if wrong is None:
        return call
    at = wrong.at or "payload"
    return Fault(call.id, _code(wrong.rule, version), Refusal("schema", f"{at} 不符合 {action} 的定义：{wrong.why}", f"{at} breaks the schema of {action}", at))


def _wide(payload: dict[str, Any]) -> schemas.Violation | None:
    """The first number that an integer of the standard (32 bits: 1.6, 7; 2.0.1 part 2, 2.1.2) cannot be, of those that the house looks up."""
    evse = payload.get("evse")
    spots = [*((name, payload.get(name)) for name in ("connectorId", "evseId", "transactionId", "meterStart", "meterStop")),
             ("evse.id", evse.get("id") if isinstance(evse, dict) else None)]
    return next((schemas.Violation("maximum", at, "value is wider than 32 bits") for at, value in spots
                 if type(value) is int and not -(1 << 31) <= value < 1 << 31), None)


def _code(rule: str, version: str) -> str:
    """The error code for what a schema forbids (1.6J, 4.2.3; 2.0.1 part 4, 4.3). The spelling is the standard's."""
    if rule in ("required", "minItems", "maxItems"):
        return "OccurenceConstraintViolation"
    if rule == "type":
        return "TypeConstraintViolation"
    if rule in ("enum", "maxLength", "minLength", "minimum", "maximum", "multipleOf"):
        return "PropertyConstraintViolation"
    return "FormatViolation" if version == V201 else "FormationViolation"


def call_frame(unique: str, action: str, params: Any) -> bytes:
    """The house asks."""
    return orjson.dumps([CALL, unique, action, params])


def result_frame(unique: str, payload: dict[str, Any]) -> bytes:
    """The answer to a call."""
    return orjson.dumps([RESULT, unique, payload])


def error_frame(fault: Fault) -> bytes:
    """The answer to what cannot be served; empty if nobody can be answered."""
    if not fault.id:
        return b""
    refusal = fault.refusal
    details = {"field": refusal.field, "rule": refusal.rule}
    return orjson.dumps([ERROR, fault.id, fault.code, f"{refusal.en} ({refusal.zh})"[:DESCRIPTION], details])


def moment(at: int) -> str:
    """A time in µs, as the standard writes it."""
    return datetime.fromtimestamp(at / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def answer(version: str, call: Call, *, now: int, interval: int, tag: str = "", transaction: int = 0) -> dict[str, Any]:
    """The payload of the answer. `now` in µs; `interval` of heartbeats in s; `tag` is the status of the card in the call."""
    action, payload = call.action, call.payload
    if action == "Heartbeat":
        return {"currentTime": moment(now)}
    if action == "BootNotification":
        return {"currentTime": moment(now), "interval": interval, "status": "Accepted"}
    if action == "DataTransfer":
        return {"status": "UnknownVendorId"}
    if action == "SignCertificate":
        return {"status": "Rejected"}
    if version == V16:
        if action == "StartTransaction":
            return {"idTagInfo": {"status": tag}, "transactionId": transaction}
        return {"idTagInfo": {"status": tag}} if "idTag" in payload else {}
    return {"idTokenInfo": {"status": tag}} if "idToken" in payload else {}


def tag_of(call: Call) -> str:
    """The card in a call; empty if there is none, or if it says that none is needed."""
    token = call.payload.get("idToken")
    if isinstance(token, dict):
        return "" if token.get("type") == "NoAuthorization" else str(token.get("idToken", ""))
    return str(call.payload.get("idTag", ""))


# -- What is kept

def kept(version: str, identity: str, frame: bytes, **facts: int | None) -> bytes:
    """A frame in the form in which it is kept."""
    known = "".join(f" {name}={value}" for name, value in facts.items() if value is not None)
    return f"{NAMES[version]} {identity}{known}\n".encode() + frame


@dataclass(slots=True)
class Kept:
    """A kept message, taken apart."""

    version: str
    identity: str
    facts: dict[str, int]
    frame: bytes


def parted(raw: bytes) -> Kept | None:
    """A kept message's parts; None if it is none."""
    head, line, frame = raw.partition(b"\n")
    name, _, rest = head[:200].decode("ascii", "replace").partition(" ")
    identity, *words = rest.split(" ")
    facts = {}
    for word in words:
        fact, _, value = word.partition("=")
        if fact not in FACTS or not re.fullmatch(r"-?[0-9]{1,18}", value):
            return None
        facts[fact] = int(value)
    if not line or name not in SUBPROTOCOLS or not IDENTITY.fullmatch(identity):
        return None
    return Kept(SUBPROTOCOLS[name], identity, facts, frame)


# -- Values

NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)
KILO = {"kWh": 1000, "kvarh": 1000, "kW": 1000, "kVA": 1000, "kvar": 1000, "kVAh": 1000}
CELSIUS = {"K": (Decimal("-273.15"), Decimal(1)), "Fahrenheit": (Decimal(-32), Decimal(5) / Decimal(9))}
"""Of a temperature: what is added, then by what it is multiplied."""
MULTIPLIER = 24
"""The largest power of ten that a value may be multiplied with."""


class _Unreadable(Exception):
    """A part that cannot be read."""

    def __init__(self, rule: str, zh: str, en: str, value: Any = None) -> None:
        super().__init__(en)
        self.rule, self.zh, self.en, self.value = rule, zh, en, value


def micros(text: Any) -> int:
    """µs since the epoch of an RFC 3339 time; one without a zone is UTC. Raises `_Unreadable`."""
    try:
        at = datetime.fromisoformat(text)
        return math.floor((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()) * 1_000_000 + at.microsecond
    except (TypeError, ValueError, OverflowError):
        raise _Unreadable("time", "时间格式有误", "not a time of RFC 3339", _short(text)) from None


def measured(value: Any, unit: Any = None, multiplier: Any = None) -> float:
    """A value in the unit that it is stored in. Raises `_Unreadable`."""
    text = value.strip() if isinstance(value, str) else str(value) if type(value) in (int, float) else ""
    if not NUMBER.fullmatch(text):
        raise _Unreadable("number", "不是数值", "not a number", _short(value))
    power = 0 if multiplier is None else multiplier
    if type(power) is not int or abs(power) > MULTIPLIER:
        raise _Unreadable("multiplier", f"倍率指数须为 -{MULTIPLIER} 至 {MULTIPLIER} 的整数", f"the multiplier is a whole number from -{MULTIPLIER} to {MULTIPLIER}",
                          _short(multiplier))
    scale = KILO.get(unit) if isinstance(unit, str) else None
    shift = CELSIUS.get(unit) if isinstance(unit, str) else None
    if not power and scale is None and shift is None:
        return _finite(float(text))
    number = Decimal(text) * Decimal(10) ** power * (scale or 1)
    return _finite(float((number + shift[0]) * shift[1] if shift else number))


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise _Unreadable("float64", "数值超出 float64 范围", "a number beyond float64")
    return number


def _short(value: Any) -> Any:
    return value[:80] if isinstance(value, str) else value if isinstance(value, int | float) else type(value).__name__


@functools.lru_cache(1024)
def camel(words: str) -> str:
    """A measurand's name in lower camel case: `Energy.Active.Import.Register` is energyActiveImportRegister."""
    first, *rest = words.split(".")
    first = first.lower() if first.isupper() or first == "SoC" else first[:1].lower() + first[1:]
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


# -- Decoding

class _Reading:
    """The samples of one message as they are found, and what could not be read."""

    def __init__(self) -> None:
        self.samples: dict[int, dict[str, float | str]] = {}
        self.refusals: list[Refusal] = []

    def put(self, at: int, place: str, **values: Any) -> None:
        """Values observed at a time; those that are not there are left out, and the first of a name stays."""
        for name, value in values.items():
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                self.samples.setdefault(at, {}).setdefault(place + name, value if isinstance(value, str) else float(value))

    def refuse(self, problem: _Unreadable, field: str) -> None:
        self.refusals.append(Refusal(problem.rule, problem.zh, problem.en, field, problem.value))

    def time(self, text: Any, field: str) -> int | None:
        """A time; 0, which is when the message was received, if there is none; None, and a refusal, if it cannot be read."""
        if text is None:
            return 0
        try:
            return micros(text)
        except _Unreadable as problem:
            self.refuse(problem, field)
            return None

    def meter_values(self, values: Any, place: str, field: str, version: str) -> None:
        """`MeterValue`s (1.6, 7.32; 2.0.1 part 2, MeterValueType)."""
        for where, value in _objects(values, field):
            at = self.time(value.get("timestamp"), f"{where}.timestamp")
            if at is None:
                continue
            for spot, sample in _objects(value.get("sampledValue"), f"{where}.sampledValue"):
                if sample.get("format") == "SignedData":
                    continue
                unit, multiplier = sample.get("unit"), None
                if version == V201:
                    of = sample.get("unitOfMeasure")
                    unit, multiplier = (of.get("unit"), of.get("multiplier")) if isinstance(of, dict) else (None, None)
                name = camel(_text(sample.get("measurand")) or "Energy.Active.Import.Register")
                if phase := _text(sample.get("phase")):
                    name += f"-{phase}"
                if (location := _text(sample.get("location"))) and location != "Outlet":
                    name += f"-{location}"
                try:
                    self.put(at, place, **{name: measured(sample.get("value"), unit, multiplier)})
                except _Unreadable as problem:
                    self.refuse(problem, f"{spot}.value")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _objects(values: Any, field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(values, list):
        for number, value in enumerate(values):
            if isinstance(value, dict):
                yield f"{field}[{number}]", value


def _place(word: str, number: Any) -> str:
    return f"{word}{number}-" if type(number) is int and number > 0 else ""


def _evse(value: Any) -> str:
    """Where an EVSEType points."""
    return _place("evse", value.get("id")) + _place("connector", value.get("connectorId")) if isinstance(value, dict) else ""


def _read_16(action: str, payload: dict[str, Any], facts: dict[str, int], out: _Reading) -> None:
    said = payload.get
    connector = said("connectorId", facts.get("place"))
    place = _place("connector", connector)
    if action == "BootNotification":
        out.put(0, "", ocppVersion=V16, vendorName=said("chargePointVendor"), model=said("chargePointModel"),
                serialNumber=said("chargePointSerialNumber", said("chargeBoxSerialNumber")), firmwareVersion=said("firmwareVersion"),
                iccid=said("iccid"), imsi=said("imsi"), meterType=said("meterType"), meterSerialNumber=said("meterSerialNumber"))
    elif action == "StatusNotification":
        at = out.time(said("timestamp"), "timestamp")
        if at is not None:
            out.put(at, place, status=said("status"), errorCode=said("errorCode"), info=said("info"), vendorErrorCode=said("vendorErrorCode"))
    elif action == "MeterValues":
        out.meter_values(said("meterValue"), place, "meterValue", V16)
    elif action in ("StartTransaction", "StopTransaction"):
        at = out.time(said("timestamp"), "timestamp")
        number = facts.get("transaction") if action == "StartTransaction" else said("transactionId")
        if action == "StopTransaction":
            out.meter_values(said("transactionData"), place, "transactionData", V16)
        if at is None:
            return
        out.put(at, place, transactionId=None if number is None else str(number))
        if action == "StartTransaction":
            out.put(at, place, transactionEvent="Started", energyActiveImportRegister=said("meterStart"))
        else:
            start, stop = facts.get("start"), said("meterStop")
            spent = stop - start if start is not None and type(stop) is int else None
            out.put(at, place, transactionEvent="Ended", stoppedReason=said("reason", "Local"), energyActiveImportRegister=stop,
                    transactionEnergy=spent)
    else:
        _read_common(action, payload, out)


def _read_201(action: str, payload: dict[str, Any], facts: dict[str, int], out: _Reading) -> None:
    said = payload.get
    if action == "BootNotification":
        station = said("chargingStation")
        of = station.get if isinstance(station, dict) else {}.get
        modem = of("modem")
        sim = modem.get if isinstance(modem, dict) else {}.get
        out.put(0, "", ocppVersion=V201, vendorName=of("vendorName"), model=of("model"), serialNumber=of("serialNumber"),
                firmwareVersion=of("firmwareVersion"), iccid=sim("iccid"), imsi=sim("imsi"), bootReason=said("reason"))
    elif action == "StatusNotification":
        at = out.time(said("timestamp"), "timestamp")
        if at is not None:
            out.put(at, _place("evse", said("evseId")) + _place("connector", said("connectorId")), status=said("connectorStatus"))
    elif action == "MeterValues":
        out.meter_values(said("meterValue"), _place("evse", said("evseId")), "meterValue", V201)
    elif action == "TransactionEvent":
        evse, info = said("evse"), said("transactionInfo")
        place = _place("evse", evse.get("id") if isinstance(evse, dict) else facts.get("place"))
        of = info.get if isinstance(info, dict) else {}.get
        at = out.time(said("timestamp"), "timestamp")
        if at is not None:
            out.put(at, place, transactionEvent=said("eventType"), transactionId=of("transactionId"), chargingState=of("chargingState"),
                    stoppedReason=of("stoppedReason"), timeSpentCharging=of("timeSpentCharging"), triggerReason=said("triggerReason"))
        out.meter_values(said("meterValue"), place, "meterValue", V201)
    elif action == "NotifyEvent":
        for where, event in _objects(said("eventData"), "eventData"):
            at = out.time(event.get("timestamp"), f"{where}.timestamp")
            if at is not None:
                out.put(at, "", **{_variable(event): _plain(event.get("actualValue"))})
    elif action == "NotifyReport":
        at = out.time(said("generatedAt"), "generatedAt")
        for _, data in _objects(said("reportData"), "reportData"):
            for _, attribute in _objects(data.get("variableAttribute"), "variableAttribute"):
                if at is not None and attribute.get("type", "Actual") == "Actual":
                    out.put(at, "", **{_variable(data): _plain(attribute.get("value"))})
    else:
        _read_common(action, payload, out)


def _read_common(action: str, payload: dict[str, Any], out: _Reading) -> None:
    said = payload.get
    if action in ("FirmwareStatusNotification", "SignedFirmwareStatusNotification", "PublishFirmwareStatusNotification"):
        out.put(0, "", firmwareStatus=said("status"))
    elif action == "DiagnosticsStatusNotification":
        out.put(0, "", diagnosticsStatus=said("status"))
    elif action == "LogStatusNotification":
        out.put(0, "", logStatus=said("status"))
    elif action == "SecurityEventNotification":
        at = out.time(said("timestamp"), "timestamp")
        if at is not None:
            out.put(at, "", securityEvent=said("type"), securityEventInfo=said("techInfo"))
    elif action == "DataTransfer":
        told = {name: said(name) for name in ("vendorId", "messageId", "data") if name in payload}
        out.put(0, "", dataTransfer=orjson.dumps(told).decode())


def _variable(of: dict[str, Any]) -> str:
    """The name of a component's variable (2.0.1 part 1, 4.1): its words as they are, with instances between."""
    component, variable = of.get("component"), of.get("variable")
    words = []
    for one in (component, variable):
        if isinstance(one, dict):
            words += [word for key in ("name", "instance") if (word := _text(one.get(key)))]
    return (_evse(component.get("evse")) if isinstance(component, dict) else "") + "-".join(words)


def _plain(value: Any) -> Any:
    """A variable's value, which is written as text: a number where it is one."""
    if isinstance(value, str) and NUMBER.fullmatch(value):
        number = float(value)
        return number if math.isfinite(number) else value
    return value


def _decode(raw: bytes) -> tuple[list[Sample], list[Refusal]]:
    parts = parted(raw)
    if parts is None:
        return [], [Refusal("kept", "不是保留的 OCPP 消息", "not a kept message of OCPP", "frame")]
    try:
        frame = orjson.loads(parts.frame)
    except (orjson.JSONDecodeError, RecursionError) as error:
        return [], [Refusal("json", "不是 JSON", f"not JSON: {str(error)[:120]}", "frame")]
    if not (isinstance(frame, list) and len(frame) == 4 and isinstance(frame[2], str) and isinstance(frame[3], dict)):
        return [], [Refusal("rpc", "不是 OCPP 请求", "not a call of OCPP", "frame")]
    out = _Reading()
    (_read_16 if parts.version == V16 else _read_201)(frame[2], frame[3], parts.facts, out)
    if frame[2] not in ACTIONS[parts.version]:
        out.refusals.append(Refusal("action", f"没有动作 {frame[2][:50]}", f"there is no action {frame[2][:50]}", "[2]"))
    return [(at, values, None) for at, values in out.samples.items()], out.refusals


# -- Commands

SECRETS = {"authorizationkey", "basicauthpassword"}
"""Variables that a command may not set, in small letters."""
TOLD: dict[str, tuple[str, str]] = {
    "RemoteStartTransaction": ("远程启动充电（1.6）", "start a transaction (1.6)"),
    "RemoteStopTransaction": ("远程停止充电（1.6）", "stop a transaction (1.6)"),
    "RequestStartTransaction": ("远程启动充电（2.0.1）", "start a transaction (2.0.1)"),
    "RequestStopTransaction": ("远程停止充电（2.0.1）", "stop a transaction (2.0.1)"),
    "Reset": ("重启", "reset"), "ChangeAvailability": ("启用或停用", "change availability"), "UnlockConnector": ("解锁枪头", "unlock a connector"),
    "TriggerMessage": ("要求上报", "trigger a message"),
    "GetConfiguration": ("读取配置（1.6）", "get configuration (1.6)"), "ChangeConfiguration": ("修改配置（1.6）", "change configuration (1.6)"),
    "GetVariables": ("读取变量（2.0.1）", "get variables (2.0.1)"), "SetVariables": ("设置变量（2.0.1）", "set variables (2.0.1)"),
    "GetBaseReport": ("要求设备报告（2.0.1）", "get a report of all variables (2.0.1)"),
    "SetChargingProfile": ("下发充电曲线", "set a charging profile"), "ClearChargingProfile": ("清除充电曲线", "clear charging profiles"),
}
"""Actions that the house may ask of a station, each in the versions whose schemas have it."""


def refusal_of(action: str, params: Any, version: str) -> Refusal | None:
    """Why a station of this version cannot be asked this, or None."""
    wrong = schemas.violation(version, action, params)
    if wrong is not None:
        return Refusal(wrong.rule, f"{wrong.at or 'params'} 不符合 OCPP {version} 的 {action}：{wrong.why}", f"{wrong.at or 'params'} breaks {action} of OCPP {version}: {wrong.why}", wrong.at)
    keys = [params.get("key")] if action == "ChangeConfiguration" else [
        one["variable"]["name"] for one in params["setVariableData"]
    ] if action == "SetVariables" else []
    if any(str(key).lower() in SECRETS for key in keys):
        return Refusal("secret", "命令会被保留，不得携带口令", "commands are kept and read, so they do not carry a password", "key")
    return None


def versions_of(action: str) -> list[str]:
    """The versions that have an action."""
    return [version for version in schemas.VERSIONS if schemas.known(version, action)]


class _Params(RootModel[dict[str, Any]]):
    """Parameters of an action, in the standard's own words: they keep to its schema in one version at least."""

    @classmethod
    def action(cls) -> str:
        return cls.__name__

    @model_validator(mode="after")
    def _of_a_version(self) -> _Params:
        refusals = [refusal_of(self.action(), self.root, version) for version in versions_of(self.action())]
        if None not in refusals:
            raise ValueError("; ".join(refusal.reason for refusal in refusals if refusal is not None))
        return self

    @classmethod
    def model_json_schema(cls, *_args: Any, **_more: Any) -> dict[str, Any]:
        """The schemas of the versions; where there are two, the fields of both, and that one of the two must hold."""
        found = [of for version in versions_of(cls.action()) if (of := schemas.schema(version, cls.action()))]
        definitions = {name: one for of in found for name, one in of.get("definitions", {}).items()}
        fields: dict[str, Any] = {}
        for of in found:
            for name, one in of["properties"].items():
                if name != "customData":
                    fields[name] = _merged(fields.get(name), _resolved(one, definitions))
        required = [name for name in fields if all(name in of.get("required", ()) for of in found)]
        return {
            "type": "object", "properties": fields, "required": required, "definitions": definitions,
            **({"anyOf": [{"properties": of["properties"], "required": of.get("required", [])} for of in found]} if len(found) > 1 else {}),
        }


def _resolved(one: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    named = definitions.get(str(one.get("$ref", "")).removeprefix("#/definitions/"))
    return {key: value for key, value in (named or one).items() if key in ("type", "enum", "items", "properties", "required", "maxLength", "minItems")}


def _merged(one: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    if one is None or one == other or "enum" not in one or "enum" not in other:
        return one or other
    return {**one, "enum": [*one["enum"], *(word for word in other["enum"] if word not in one["enum"])]}


GOOD = frozenset({"Accepted", "Scheduled", "RebootRequired", "Unlocked"})
"""Statuses of answers that mean that the station does it."""


def outcome_of(payload: dict[str, Any]) -> str:
    """Why an answer is a no; empty if it is none."""
    status = payload.get("status")
    if not isinstance(status, str) or status in GOOD:
        return ""
    return f"充电桩答复 {status[:50]} (the station answered {status[:50]})"


CARD = re.compile(rb'("(?:idTag|parentIdTag|idToken|additionalIdToken)"\s*:\s*")((?:[^"\\]|\\.)*)')


class OcppMessages:
    """The codec (`protocols.Codec`)."""

    name = "ocpp"
    passwords = True
    methods: Mapping[str, Method] = {
        name: Method(zh, en, type(name, (_Params,), {"__doc__": f"{name}.req"})) for name, (zh, en) in TOLD.items()
    }

    def identity(self, text: str) -> bytes:
        if not IDENTITY.fullmatch(text):
            raise Invalid("标识须为 1 至 48 个字母、数字或 * - _ = + | @ .", "an identity is 1 to 48 letters, digits or * - _ = + | @ .",
                          field="identity", value=text, rule="OCPP identifierString without a colon")
        return text.encode()

    def identify(self, raw: bytes) -> bytes:
        parts = parted(raw)
        return b"" if parts is None else parts.identity.encode()

    def masked(self, raw: bytes) -> bytes:
        """Cards' numbers but for their last four signs."""
        return CARD.sub(lambda found: found[1] + b"*" * max(len(found[2]) - 4, min(len(found[2]), 4)) + found[2][4:][-4:], raw)

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        """The values of a kept message."""
        return _decode(raw)


codec = OcppMessages()
