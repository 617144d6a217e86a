"""GB/T 28181-2016 and -2022, information transport, exchange and control of video surveillance: what is kept of a device's
messages, and what it can be told.

Law: pure. What is kept is the SIP request as it came (MESSAGE or NOTIFY with a body in MANSCDP); From names the device, and DeviceID in
the body the device or one of its channels. Values of a channel have its code before their name (`34020000001320000001.longitude`),
but those of alarms, which say it in `alarmChannel`. Alarms are stored at the time of receipt, because several come within the
second that they name (`alarmTime`); positions at their own time, in Beijing time if they name no zone. Each channel of a catalogue
is a reading `channel.<code>`, JSON.

Read against the text of 2016 and what is known of 2022; clauses are those of 2016. Registration, digests and the exchange are in `access/gb28181`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime

from tulou.access.coap import Unreadable
from tulou.access.gb28181 import digest, sip
from tulou.access.gb28181.manscdp import CODE, Element, document, parse
from tulou.access.protocols import BEIJING, Method, Sample
from tulou.access.protocols.params import NoParams, Params, labelled
from tulou.access.telemetry import Refusal
from tulou.kernel.errors import Invalid

CHANNELS = 2000
"""Channels of one message that become readings."""
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_CREDENTIALS = re.compile(rb"(?im)^((?:proxy-)?authorization[ \t]*:)[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*")
_TIME = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})[T ]([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:?[0-9]{2})?", re.ASCII)
ITEM = {
    "Name": "name", "Manufacturer": "manufacturer", "Model": "model", "Owner": "owner", "CivilCode": "civilCode", "Block": "block",
    "Address": "address", "Parental": "parental", "ParentID": "parent", "Status": "status", "Longitude": "longitude",
    "Latitude": "latitude", "IPAddress": "ip", "Port": "port", "BusinessGroupID": "businessGroup",
}
"""Of a channel in a catalogue (A.2.1.1) what is kept in `channel.<code>`; with `ptz`, from Info."""
NOTICES = frozenset({"Keepalive", "Alarm", "MobilePosition", "Catalog", "MediaStatus"})
ANSWERS = frozenset({
    "Catalog", "DeviceInfo", "DeviceStatus", "RecordInfo", "DeviceControl", "PresetQuery", "ConfigDownload", "DeviceConfig", "Alarm",
    "MobilePosition",
})
"""Command types that are read, of Notify and of Response (9.3 to 9.11); some have nothing that becomes a reading."""


# -- what it can be told


def _code(text: str) -> str:
    if not CODE.fullmatch(text):
        raise ValueError("20 digits")
    return text


class Channel(Params):
    """Of which channel; without it, of the device itself."""

    channel: Annotated[str, AfterValidator(_code)] | None = labelled("通道编码", "channel", default=None)


class Move(Channel):
    """A.3.2: speeds with their direction; all 0 stops. Left, down and out are negative."""

    pan: int = labelled("水平速度（左负右正）", "pan speed, left negative", default=0, ge=-255, le=255)
    tilt: int = labelled("垂直速度（下负上正）", "tilt speed, down negative", default=0, ge=-255, le=255)
    zoom: int = labelled("变倍速度（缩小为负）", "zoom speed, out negative", default=0, ge=-15, le=15)


class Lens(Channel):
    """A.3.3: speeds; all 0 stops. Near and closing are negative."""

    focus: int = labelled("聚焦速度（近负远正）", "focus speed, near negative", default=0, ge=-255, le=255)
    iris: int = labelled("光圈速度（关负开正）", "iris speed, closing negative", default=0, ge=-255, le=255)


class Preset(Channel):
    """A.3.4."""

    action: Literal["set", "call", "delete"] = labelled("动作", "action")
    number: int = labelled("预置位号", "number", ge=1, le=255)


class Cruise(Channel):
    """A.3.5: `value` is the speed, or the seconds at a point. A cruise is stopped by `ptz` without speeds."""

    action: Literal["add", "remove", "speed", "dwell", "start"] = labelled("动作", "action")
    group: int = labelled("巡航组号", "group", ge=0, le=255)
    preset: int = labelled("预置位号（删除时 0 为整组）", "preset; to remove, 0 is the whole group", default=0, ge=0, le=255)
    value: int = labelled("速度或停留秒数", "speed, or seconds", default=0, ge=0, le=4095)


class Switch(Channel):
    on: bool = labelled("开", "on")


class ResetAlarm(Channel):
    """A.2.3.1.6: alarms of this method and type only, if they are named."""

    method: str = labelled("报警方式", "alarm method", default="", pattern=r"^[0-7]{0,7}$")
    type: str = labelled("报警类型", "alarm type", default="", pattern=r"^[0-9]{0,3}$")


class Recordings(Channel):
    start: AwareDatetime = labelled("开始", "start")
    end: AwareDatetime = labelled("结束", "end")
    kind: Literal["all", "time", "alarm", "manual"] = labelled("录像类型", "kind", default="all")


class Subscribe(Channel):
    """9.11: `seconds` of 0 ends it. It is renewed for as long as the device is registered."""

    event: Literal["Catalog", "Alarm", "MobilePosition"] = labelled("事件", "event")
    seconds: int = labelled("有效期（秒）", "for (s)", default=86400, ge=0, le=7 * 86400)
    interval: int = labelled("位置间隔（秒）", "interval of positions (s)", default=5, ge=1, le=3600)


class Play(Channel):
    transport: Literal["udp", "tcp-active", "tcp-passive"] = labelled("媒体传输（本方主动或被动）", "transport of media, active or passive on our side", default="udp")


class Playback(Play):
    start: AwareDatetime = labelled("开始", "start")
    end: AwareDatetime = labelled("结束", "end")


class Stop(Params):
    session: str = labelled("媒体会话", "session", min_length=1, max_length=40)


METHODS: dict[str, Method] = {
    "ptz": Method("云台与变倍", "pan, tilt and zoom", Move),
    "lens": Method("聚焦与光圈", "focus and iris", Lens),
    "preset": Method("预置位", "presets", Preset),
    "cruise": Method("巡航", "cruises", Cruise),
    "reboot": Method("远程启动", "reboot", NoParams),
    "record": Method("录像控制", "record", Switch),
    "guard": Method("布防或撤防", "guard", Switch),
    "reset_alarm": Method("报警复位", "reset alarms", ResetAlarm),
    "catalog": Method("目录查询", "ask for the catalogue", NoParams),
    "device_info": Method("设备信息查询", "ask for the device's information", Channel),
    "device_status": Method("设备状态查询", "ask for the device's status", Channel),
    "record_info": Method("录像检索", "ask for recordings", Recordings),
    "presets": Method("预置位查询", "ask for presets", Channel),
    "subscribe": Method("订阅", "subscribe", Subscribe),
    "play": Method("实时点播", "play live", Play),
    "playback": Method("历史回放", "play a recording", Playback),
    "stop": Method("停止点播", "stop playing", Stop),
}
CALLS = frozenset({"play", "playback", "stop"})
"""Methods that are calls (9.2, 9.8), not messages."""


def instruction(code: int, first: int = 0, second: int = 0, third: int = 0) -> str:
    """The eight bytes of A.3.1 in hexadecimal: A5, version 0 with its check, address, code, data, checksum. `third` has four bits."""
    head = bytes((0xA5, 0x0F, 0x01, code, first, second, third << 4))
    return (head + bytes((sum(head) & 0xFF,))).hex().upper()


def _ptz(params: Any) -> str:
    if isinstance(params, Move):
        code = (0x20 if params.zoom < 0 else 0x10 if params.zoom else 0) | (0x08 if params.tilt > 0 else 0x04 if params.tilt else 0)
        code |= 0x02 if params.pan < 0 else 0x01 if params.pan else 0
        return instruction(code, abs(params.pan), abs(params.tilt), abs(params.zoom))
    if isinstance(params, Lens):
        code = 0x40 | (0x08 if params.iris < 0 else 0x04 if params.iris else 0) | (0x02 if params.focus < 0 else 0x01 if params.focus else 0)
        return instruction(code, abs(params.focus), abs(params.iris))
    if isinstance(params, Preset):
        return instruction({"set": 0x81, "call": 0x82, "delete": 0x83}[params.action], 0, params.number)
    code = {"add": 0x84, "remove": 0x85, "speed": 0x86, "dwell": 0x87, "start": 0x88}[params.action]
    if code in (0x86, 0x87):
        return instruction(code, params.group, params.value & 0xFF, params.value >> 8)
    return instruction(code, params.group, 0 if code == 0x88 else params.preset)


def request(method: str, params: Any, number: int, device: str) -> tuple[bytes, str]:
    """The body of a command in MANSCDP with the serial number SN, and the CmdType of the device's answer (empty: it gives none
    beside 200)."""
    target = getattr(params, "channel", None) or device
    if method in ("ptz", "lens", "preset", "cruise"):
        return document("Control", "DeviceControl", number, target, [("PTZCmd", _ptz(params)), ("Info", [("ControlPriority", "5")])]), ""
    if method == "reboot":
        return document("Control", "DeviceControl", number, target, [("TeleBoot", "Boot")]), ""
    if method == "record":
        return document("Control", "DeviceControl", number, target, [("RecordCmd", "Record" if params.on else "StopRecord")]), "DeviceControl"
    if method == "guard":
        return document("Control", "DeviceControl", number, target, [("GuardCmd", "SetGuard" if params.on else "ResetGuard")]), "DeviceControl"
    if method == "reset_alarm":
        named = [(name, value) for name, value in (("AlarmMethod", params.method), ("AlarmType", params.type)) if value]
        return document("Control", "DeviceControl", number, target,
                        [("AlarmCmd", "ResetAlarm"), *([("Info", named)] if named else [])]), "DeviceControl"
    if method == "record_info":
        return document("Query", "RecordInfo", number, target, [
            ("StartTime", local(params.start)), ("EndTime", local(params.end)), ("Secrecy", "0"), ("Type", params.kind),
        ]), "RecordInfo"
    if method == "subscribe":
        return document("Query", params.event, number, target, {
            "Catalog": [], "MobilePosition": [("Interval", str(params.interval))],
            "Alarm": [("StartAlarmPriority", "0"), ("EndAlarmPriority", "0"), ("AlarmMethod", "0")],
        }[params.event]), ""
    command = {"catalog": "Catalog", "device_info": "DeviceInfo", "device_status": "DeviceStatus", "presets": "PresetQuery"}[method]
    return document("Query", command, number, target), command


def local(at: datetime) -> str:
    """A time as MANSCDP has it: Beijing, no zone."""
    return at.astimezone(BEIJING).strftime("%Y-%m-%dT%H:%M:%S")


# -- what it says


def moment(text: str) -> int:
    """µs since the epoch; Beijing time if no zone is named. Raises `ValueError`."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    year, month, day, hour, minute, second = (int(found[at]) for at in range(1, 7))
    at = datetime(year, month, day, hour, minute, second, tzinfo=BEIJING)
    zone = found[8]
    if zone is not None:
        shift = timedelta() if zone == "Z" else timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:])) * (-1 if zone[0] == "-" else 1)
        at += timedelta(hours=8) - shift
    return int(at.timestamp()) * 1_000_000 + (int(float(found[7]) * 1e6) if found[7] else 0)


def _value(text: str) -> float | str:
    """A number where it is one."""
    return float(text) if len(text) < 40 and _NUMBER.fullmatch(text) and math.isfinite(float(text)) else text


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def channel(item: Element) -> dict[str, Any]:
    """An entry of a catalogue as it is kept and shown."""
    found: dict[str, Any] = {"id": item.get("DeviceID")}
    for name, ours in ITEM.items():
        text = item.get(name)
        if text:
            found[ours] = _value(text) if ours in ("longitude", "latitude", "parental", "port") else text
    ptz = item.get("Info", "PTZType") or item.get("PTZType")
    return {**found, "ptz": ptz} if ptz else found


def _samples(root: Element, own: str) -> tuple[list[Sample], list[Refusal]]:
    command, subject = root.get("CmdType"), root.get("DeviceID")
    if command not in (NOTICES if root.name == "Notify" else ANSWERS if root.name == "Response" else ()):
        raise Unreadable("command", "不支持的命令类型", "a command type that is not read", "CmdType", f"{root.name} {command}"[:60])
    if not CODE.fullmatch(subject):
        raise Unreadable("code", "DeviceID 须为 20 位数字", "DeviceID has 20 digits (annex D)", "DeviceID", subject[:40])
    before = "" if subject == own else f"{subject}."
    values: dict[str, float | str] = {}
    refusals: list[Refusal] = []
    if command == "Keepalive":
        values["status"] = root.get("Status") or "OK"
        faulty = [one.text for one in root.all("Info", "DeviceID") if one.text]
        if faulty:
            values["faulty"] = _dumps(faulty)
    elif command == "Alarm" and root.name == "Notify":
        return [(0, _alarm(root, subject), None)], []
    elif command == "MobilePosition" and root.name == "Notify":
        return _positions(root, own, before)
    elif command == "Catalog":
        return _catalogue(root)
    elif command == "MediaStatus":
        values[f"{before}mediaStatus"] = _value(root.get("NotifyType"))
    elif command == "DeviceInfo":
        for name, ours in (("DeviceName", "deviceName"), ("Manufacturer", "manufacturer"), ("Model", "model"), ("Firmware", "firmware"),
                           ("Channel", "channelCount")):
            text = root.get(name)
            if text:
                values[before + ours] = _value(text) if ours == "channelCount" else text
    elif command == "DeviceStatus":
        for name, ours in (("Online", "deviceOnline"), ("Status", "deviceStatus"), ("Encode", "encode"), ("Record", "record"),
                           ("DeviceTime", "deviceTime"), ("Reason", "reason")):
            if root.get(name):
                values[before + ours] = root.get(name)
        for one in root.all("Alarmstatus", "Item") or root.all("AlarmStatus", "Item"):
            if CODE.fullmatch(one.get("DeviceID")):
                values[f"{one.get('DeviceID')}.dutyStatus"] = one.get("DutyStatus") or "?"
    return ([(0, values, None)] if values else []), refusals


def _alarm(root: Element, subject: str) -> dict[str, float | str]:
    values: dict[str, float | str] = {"alarmChannel": subject}
    for name, ours in (
        ("AlarmPriority", "alarmPriority"), ("AlarmMethod", "alarmMethod"), ("AlarmTime", "alarmTime"), ("AlarmDescription", "alarmDescription"),
        ("Longitude", "alarmLongitude"), ("Latitude", "alarmLatitude"),
    ):
        text = root.get(name)
        if text:
            values[ours] = text if ours in ("alarmTime", "alarmDescription") else _value(text)
    kind = root.get("Info", "AlarmType") or root.get("AlarmType")
    if kind:
        values["alarmType"] = _value(kind)
    more = root.get("Info", "AlarmTypeParam", "EventType")
    if more:
        values["alarmEventType"] = _value(more)
    return values


def _positions(root: Element, own: str, before: str) -> tuple[list[Sample], list[Refusal]]:
    samples: list[Sample] = []
    refusals: list[Refusal] = []
    listed = root.all("DeviceList", "Item")  # of 2022: several at once
    for one in listed or [root]:
        code = one.get("DeviceID")
        prefix = before if one is root else "" if code == own else f"{code[:20]}."
        text = one.get("Time") or one.get("CaptureTime") or root.get("Time")
        try:
            at = moment(text)
        except ValueError:
            refusals.append(Refusal("time", "位置时间不可读", "the time of a position cannot be read", f"{prefix}Time", text[:40]))
            continue
        values: dict[str, float | str] = {}
        for name in ("Longitude", "Latitude", "Speed", "Direction", "Altitude"):
            text = one.get(name)
            value = _value(text)
            if isinstance(value, float):
                values[prefix + name.lower()] = value
            elif text:
                refusals.append(Refusal("number", f"{name} 不是数", f"{name} is not a number", f"{prefix}{name}", text[:40]))
        if values:
            samples.append((at, values, None))
    return samples, refusals


def _catalogue(root: Element) -> tuple[list[Sample], list[Refusal]]:
    values: dict[str, float | str] = {}
    refusals: list[Refusal] = []
    total = _value(root.get("SumNum"))
    if isinstance(total, float) and root.name == "Response":
        values["channelCount"] = total
    items = root.all("DeviceList", "Item")
    if len(items) > CHANNELS:
        refusals.append(Refusal("count", f"一条消息的目录项多于 {CHANNELS} 个", f"more than {CHANNELS} entries in one message", "DeviceList", len(items)))
    for number, item in enumerate(items[:CHANNELS]):
        code = item.get("DeviceID")
        if not re.fullmatch(r"[0-9]{2,20}", code, re.ASCII):  # 2 to 8 digits are an administrative division
            refusals.append(Refusal("code", "目录项编码须为 2 至 20 位数字", "the code of an entry has 2 to 20 digits", f"Item[{number}].DeviceID", code[:40]))
            continue
        event = item.get("Event")
        if event:
            values[f"channelEvent.{code}"] = event
        if not event or event in ("ADD", "UPDATE"):
            values[f"channel.{code}"] = _dumps(channel(item))
    return ([(0, values, None)] if values else []), refusals


class Gb28181:
    """The codec (`protocols.Codec`), and what is kept of passwords (`protocols.Digested`)."""

    name = "gb28181"
    passwords = True
    methods: Mapping[str, Method] = METHODS

    def identity(self, text: str) -> bytes:
        if not CODE.fullmatch(text):
            raise Invalid("国标编码须为 20 位数字", "a code of GB/T 28181 has 20 digits", field="identity", value=text, rule="GB/T 28181 annex D")
        return text.encode()

    def secret(self, identity: str, password: str, realm: str) -> str:
        return digest.secret(identity, realm, password)

    def identify(self, raw: bytes) -> bytes:
        try:
            sender = sip.parse(raw).sender
        except Unreadable:
            return b""
        return sender.encode() if CODE.fullmatch(sender) else b""

    def masked(self, raw: bytes) -> bytes:
        return _CREDENTIALS.sub(rb"\1 *", raw) if b"uthorization" in raw or b"UTHORIZATION" in raw else raw

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        try:
            message = sip.parse(raw)
            if message.method not in ("MESSAGE", "NOTIFY"):
                raise Unreadable("method", "不是 MESSAGE 或 NOTIFY", "neither MESSAGE nor NOTIFY", "method", message.method or message.status)
            return _samples(parse(message.body), message.sender)
        except Unreadable as error:
            return [], [error.refusal]


codec = Gb28181()
