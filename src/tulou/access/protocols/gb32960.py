"""GB/T 32960.3, remote service and management of electric vehicles: the edition of 2016 (`##`), and of that of 2025
(`$$`) the header and the data units whose layout is known here.

Law: pure. Start, command, answer mark, VIN, encryption, length, data unit, exclusive or (6.2); big-endian, times in
Beijing time (6.4). A command is answered with its time alone, if its answer mark asks for it (6.3.2). A value that says
abnormal (FE, FFFE, ...) or invalid (FF, FFFF, ...) is no number: it is stored as not-a-number of quality bad.
"""

from __future__ import annotations

import functools
import re
import struct
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import getitem
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BaseModel, Field

from tulou.access.batch import BAD
from tulou.access.protocols import (
    ANSWERED,
    BEIJING,
    REFUSED,
    UNKNOWN,
    Broken,
    Message,
    Method,
    Reply,
    Sample,
    beijing,
    remember,
    xor,
)
from tulou.access.protocols.params import NoParams, Params, labelled
from tulou.access.telemetry import NAN, Refusal
from tulou.kernel.errors import Invalid

HEAD = 24
_INSIDE = struct.Struct(">BB17sBH")
START = re.compile(rb"(?:##|\$\$)[\x01-\xfe][\x01-\x07\xfe][0-9A-Za-z]{17}[\x01-\x05\xfe\xff]")
"""What a frame begins with: its first 22 bytes."""
MARKS = (b"##", b"$$")
MODERN_MARK = MARKS[1][0]
LOGIN, REALTIME, RESENT, LOGOUT, PLATFORM_LOGIN, PLATFORM_LOGOUT, HEARTBEAT, CLOCK = range(1, 9)
SPOKEN = frozenset({LOGIN, REALTIME, RESENT, LOGOUT, HEARTBEAT, CLOCK})
READ_PARAMETERS, SET_PARAMETERS, CONTROL = 0x80, 0x81, 0x82
_COMMANDS = frozenset({READ_PARAMETERS, SET_PARAMETERS, CONTROL})
_ANSWERED_AT_ONCE = frozenset({HEARTBEAT, CLOCK, PLATFORM_LOGIN, PLATFORM_LOGOUT})
DONE, ERROR, NO_VIN, COMMAND = 0x01, 0x02, 0x04, 0xFE
"""Answer marks (table 4); that there is no such VIN can be said since 2025."""
PLAIN = 0x01
_OF_PLATFORMS = bytes((PLATFORM_LOGIN,)), bytes((PLATFORM_LOGOUT,))


HELD_PEERS = 4096
MOTORS = 0x02
FEW, PLANS = 4, 1024
"""Motors of a frame that is read by a plan, and plans that are remembered."""
PARAMETERS: dict[int, tuple[str, int]] = {
    0x01: ("storage_period_ms", 2), 0x02: ("report_period_s", 2), 0x03: ("alarm_period_ms", 2),
    0x04: ("management_domain_length", 1), 0x05: ("management_domain", 0), 0x06: ("management_port", 2),
    0x07: ("hardware_version", 5), 0x08: ("firmware_version", 5), 0x09: ("heartbeat_period_s", 1),
    0x0A: ("terminal_timeout_s", 2), 0x0B: ("platform_timeout_s", 2), 0x0C: ("login_interval_min", 1),
    0x0D: ("public_domain_length", 1), 0x0E: ("public_domain", 0), 0x0F: ("public_port", 2), 0x10: ("sampling", 1),
}
"""Parameters (annex B): name and bytes; a domain has as many as the parameter before it says."""
_TEXTS = frozenset({"management_domain", "hardware_version", "firmware_version", "public_domain"})
_IDS = {name: number for number, (name, _) in PARAMETERS.items()}
CONTROLS = {"upgrade": 1, "power_off": 2, "reset": 3, "factory_settings": 4, "disconnect": 5, "alarm": 6, "sample": 7}


def _known(name: str) -> str:
    if name not in _IDS:
        raise ValueError(" | ".join(_IDS))
    return name


Name = Annotated[str, AfterValidator(_known)]


class Names(Params):
    names: list[Name] = Field(min_length=1, max_length=16)


class Values(Params):
    values: dict[Name, int | Annotated[str, Field(max_length=255)]] = Field(min_length=1)


class ControlParams(Params):
    """`level` is that of an alarm; `parameters` are those of an upgrade, as the standard joins them with `;`."""

    control: Literal["upgrade", "power_off", "reset", "factory_settings", "disconnect", "alarm", "sample"] = labelled(
        "控制", "control"
    )
    level: int | None = labelled("报警级别", "alarm level", default=None, ge=0, le=3)
    parameters: str = labelled("升级参数", "parameters of an upgrade", default="", max_length=500)


METHODS: dict[str, tuple[int, str, str, type[BaseModel]]] = {
    "read_parameters": (READ_PARAMETERS, "查询终端参数", "read parameters", Names),
    "read_every_parameter": (READ_PARAMETERS, "查询全部终端参数", "read every parameter", NoParams),
    "set_parameters": (SET_PARAMETERS, "设置终端参数", "set parameters", Values),
    "control": (CONTROL, "终端控制", "control the terminal", ControlParams),
}
"""Commands of the platform (annex B): number, what people read, parameters."""


def _value(name: str, value: int | str) -> bytes:
    if name in _TEXTS:
        size = PARAMETERS[_IDS[name]][1]
        raw = str(value).encode("ascii", "replace")
        return raw.ljust(size, b"\0")[:size] if size else raw
    return int(value).to_bytes(PARAMETERS[_IDS[name]][1])


def _command_data(params: Any) -> bytes:
    """What follows the time. Raises `OverflowError` or `ValueError` for a number that does not fit."""
    if isinstance(params, Values):
        values: dict[str, int | str] = {}
        for name, value in params.values.items():
            if name.endswith("_domain"):
                values[f"{name}_length"] = len(str(value).encode("ascii", "replace"))
            values[name] = value
        return bytes((len(values),)) + b"".join(bytes((_IDS[name],)) + _value(name, v) for name, v in values.items())
    if isinstance(params, ControlParams):
        more = b"" if params.level is None else bytes((params.level,))
        return bytes((CONTROLS[params.control],)) + more + params.parameters.encode("gb18030")
    ids = [_IDS[name] for name in params.names] if isinstance(params, Names) else sorted(PARAMETERS)
    return bytes((len(ids), *ids))


def _parameters(data: bytes) -> dict[str, int | str]:
    """What a terminal answers to 0x80 after the time: a count, then id and value each; stops at one that is unknown."""
    found: dict[str, int | str] = {}
    at = 1
    while at < len(data):
        name, size = PARAMETERS.get(data[at], ("", 0))
        if not name:
            found["rest"] = data[at:].hex()
            break
        size = size or int(found.get(f"{name}_length", 0))
        raw = data[at + 1 : at + 1 + size]
        found[name] = raw.rstrip(b"\0").decode("gb18030", "replace") if name in _TEXTS else int.from_bytes(raw)
        at += 1 + size
    return found


@dataclass(slots=True)
class Header:
    """The fixed part of a frame; `modern` is the edition of 2025, `when` the six bytes of time, if it has any."""

    number: int
    mark: int
    vin: bytes
    encryption: int
    modern: bool
    when: bytes


def frame(number: int, mark: int, vin: bytes, data: bytes, modern: bool = False) -> bytes:
    """A frame, not encrypted. Raises `ValueError` for a VIN that has not 17 bytes."""
    if len(vin) != 17:
        raise ValueError("a VIN has 17 bytes")
    inside = _INSIDE.pack(number, mark, vin, PLAIN, len(data)) + data
    return MARKS[modern] + inside + bytes((xor(inside),))


def time_bytes(us: int) -> bytes:
    """Six bytes of time: year since 2000, month, day, hour, minute, second in Beijing."""
    at = datetime.fromtimestamp(us / 1e6, BEIJING)
    return bytes((at.year - 2000, at.month, at.day, at.hour, at.minute, at.second))


@functools.lru_cache(8192)
def _instant(when: bytes) -> int:
    if len(when) != 6 or when[0] > 99:
        raise ValueError(when)
    return beijing("20" + "".join(f"{part:02d}" for part in when))


class Session:
    """The frames of one connection."""

    def __init__(self) -> None:
        self.skipped = 0
        self._rest = b""
        self._peers: dict[bytes, bool] = {}
        self._last = b"", False

    @property
    def unfinished(self) -> int:
        return len(self._rest)

    def feed(self, data: bytes) -> list[Message | Broken]:
        if self._rest:
            data = self._rest + data
        out: list[Message | Broken] = []
        at, length = 0, len(data)
        while at < length:
            if not START.match(data, at):
                found = START.search(data, at)
                start = _maybe(data, at) if found is None else found.start()
                self.skipped += start - at
                at = start
                if found is None:
                    break
            if length - at < HEAD:
                break
            end = at + HEAD + int.from_bytes(data[at + 22 : at + 24]) + 1
            if end > length:
                break
            if xor(data[at + 2 : end]):
                another = START.search(data, at + 2, end + 21)
                stop = end if another is None else min(end, another.start())
                refusal = Refusal("checksum", "校验码错误", "wrong check byte", "checksum", data[end - 1])
                out.append(Broken(_without_login(data[at:stop]), refusal))
                at = stop
                continue
            header = _header(data, at, end)
            if self._last != (header.vin, header.modern):
                self._last = header.vin, header.modern
                remember(self._peers, header.vin, header.modern, HELD_PEERS)
            out.append(_message(data[at:end], header))
            at = end
        self._rest = data[at:]
        return out

    def command(self, identity: bytes, method: str, params: Any, now: int) -> tuple[bytes, int]:
        """The answer is known by the command's number alone."""
        number = METHODS[method][0]
        try:
            data = time_bytes(now) + _command_data(params)
        except (OverflowError, ValueError) as error:
            raise Invalid(f"参数写不进命令：{error}", f"the parameters do not fit: {error}", field="params") from None
        return frame(number, COMMAND, identity, data, self._peers[identity]), number

    def accept(self, message: Message, now: int) -> bytes:
        header: Header = message.receipt
        if header.mark != COMMAND:
            return b""
        if header.number not in SPOKEN or header.encryption != PLAIN:
            return _answer(header, ERROR, header.when)
        return _answer(header, DONE, time_bytes(now) if header.number == CLOCK else header.when)

    def refuse(self, message: Message, why: str) -> bytes:
        header: Header = message.receipt
        if header.mark != COMMAND:
            return b""
        return _answer(header, NO_VIN if header.modern and why == UNKNOWN else ERROR, header.when)


def _maybe(data: bytes, at: int) -> int:
    """Where, within the last 21 bytes, a frame may begin whose start is not all there."""
    last = max(at, len(data) - 21)
    marks = [found for mark in MARKS if (found := data.find(mark, last)) >= 0]
    if data[-1:] in (b"#", b"$"):
        marks.append(len(data) - 1)
    return min(marks, default=len(data))


def _without_login(raw: bytes) -> bytes:
    """The same, of a platform's login without the data, which have a user name and password."""
    return raw[:HEAD] if raw[2:3] in _OF_PLATFORMS else raw


def _message(raw: bytes, header: Header) -> Message:
    number = header.number
    raw = _without_login(raw)
    kept = header.mark == COMMAND and number not in _ANSWERED_AT_ONCE
    reply = None
    if number in _COMMANDS and header.mark != COMMAND:
        if header.mark == DONE:
            reply = Reply(number, ANSWERED, _parameters(raw[HEAD + 6 : -1]) if number == READ_PARAMETERS else {})
        else:
            reply = Reply(number, REFUSED, error=f"应答标志 0x{header.mark:02X} (answer mark 0x{header.mark:02X})")
    return Message(header.vin, number, raw, header, kept, None, number == LOGOUT, reply)


def _header(data: bytes, at: int, end: int) -> Header:
    """The header of the frame that stands there."""
    return Header(data[at + 2], data[at + 3], data[at + 4 : at + 21], data[at + 21], data[at] == MODERN_MARK, _when(data, at, end))


def _when(data: bytes, at: int, end: int) -> bytes:
    return data[at + HEAD : at + HEAD + 6] if end - at > HEAD + 6 else b""


def _answer(header: Header, mark: int, data: bytes) -> bytes:
    return frame(header.number, mark, header.vin, data, header.modern)


class Gb32960:
    """The codec."""

    name = "gb32960"
    idle = 600.0
    first = 60.0
    passwords = False
    methods: Mapping[str, Method] = {name: Method(zh, en, params) for name, (_, zh, en, params) in METHODS.items()}

    def session(self) -> Session:
        return Session()

    def identity(self, text: str) -> bytes:
        """A VIN: 17 capital letters and digits (GB 16735)."""
        if not re.fullmatch(r"[0-9A-Z]{17}", text.upper()):
            raise Invalid("VIN 应为 17 位字母与数字", "a VIN is 17 letters and digits", field="identity", value=text,
                          rule="GB 16735")
        return text.upper().encode()

    def identify(self, raw: bytes) -> bytes:
        return raw[4:21]

    def masked(self, raw: bytes) -> bytes:
        return _without_login(raw)

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        if len(raw) < HEAD:  # a broken frame that is sent through the door again
            return [], [Refusal("length", "帧过短", "the frame is too short", "length", len(raw))]
        number, encryption, modern = raw[2], raw[21], raw[0] == MODERN_MARK
        if number not in SPOKEN:
            return [], [Refusal("command", f"不支持命令 0x{number:02X}", f"command 0x{number:02X} is not spoken", "command", number)]
        if encryption != PLAIN:
            return [], [Refusal("encrypted", "数据单元已加密", "the data unit is encrypted", "encryption", encryption)]
        when = _when(raw, 0, len(raw))
        try:
            observed = _instant(when)
        except ValueError:
            return [], [Refusal("time", "数据采集时间无效", "the time of the data is invalid", "time", when.hex())]
        values: dict[str, float | str] = {}
        refusals: list[Refusal] = []
        data = raw[HEAD + 6 : -1]
        kind = 0
        try:
            if number == LOGIN:
                _login(data, modern, values)
            elif number in (REALTIME, RESENT):
                edition = MODERN if modern else UNITS
                at = edition.begin(data, values)
                while at < len(data):
                    kind = data[at]
                    if kind == 0xFF and modern:  # the signature
                        break
                    if kind >= 0x80:  # a maker's own: its length, and bytes that are in the raw frame
                        at += 3 + int.from_bytes(data[at + 1 : at + 3])
                        continue
                    unit = edition.units.get(kind)
                    if unit is None:
                        refusals.append(Refusal("unit", "不支持此信息类型，其后未读", "the kind of data is not spoken; what follows is not read",
                                                f"0x{kind:02X}", kind))
                        break
                    at = unit(data, at + 1, values)
                if at > len(data):
                    raise IndexError
        except (struct.error, IndexError):
            refusals.append(Refusal("length", "数据单元过短", "the data unit is too short",
                                    f"0x{kind:02X}" if kind else "login", len(data)))
        worse = _no_numbers(values)
        if values.get("positioned") == 0.0:
            worse.update(longitude=BAD, latitude=BAD)
        return ([(observed, values, worse or None)] if values else []), refusals


def _no_numbers(values: Mapping[str, Any]) -> dict[str, int]:
    """The quality of those that are not-a-number; a sum with one of them is that too, and texts cannot be added up."""
    try:
        total = sum(values.values())
        if total == total:
            return {}
    except TypeError:
        pass
    return {name: BAD for name, value in values.items() if value != value}


Sampled = dict[str, float | str]
Unit = Callable[[bytes, int, Sampled], int]


class Scale(Protocol):
    """What a field's numbers mean, by number."""

    def __getitem__(self, number: int, /) -> float: ...


class Linear:
    """A scale that is computed: `limit` and above are no number, others are divided and moved."""

    def __init__(self, limit: int, divisor: int, offset: int) -> None:
        self.limit, self.divisor, self.offset = limit, divisor, offset

    def __getitem__(self, number: int, /) -> float:
        return NAN if number >= self.limit else number / self.divisor - self.offset


@functools.cache
def _scale(code: str, whole: bool, divisor: int, offset: int) -> Scale:
    """The scale of a field: as a table where it has one or two bytes, 512 KiB for two."""
    greatest = {"B": 0xFF, "H": 0xFFFF, "I": 0xFFFFFFFF}[code]
    scale = Linear(greatest + 1 if whole else greatest - 1, divisor, offset)
    if code == "I":
        return scale
    table = map(scale.__getitem__, range(greatest + 1))
    return tuple(table) if code == "B" else array("d", table)


class Fields:
    """Numbers of a fixed layout. `fields` are name, struct code, divisor and offset; the two greatest values of a
    field's width are abnormal and invalid, except where its name is in `whole`. `finish` makes of the numbers what they mean together."""

    def __init__(
        self, *fields: tuple[str, str, int, int], whole: tuple[str, ...] = (), finish: Callable[[Sampled], None] | None = None
    ) -> None:
        self.finish = finish
        self.layout = struct.Struct(">" + "".join(code for _, code, _, _ in fields))
        self.fields = [(code, name in whole, divisor, offset) for name, code, divisor, offset in fields]
        self._names = {"": tuple(name for name, _, _, _ in fields)}

    def names(self, prefix: str = "") -> tuple[str, ...]:
        found = self._names.get(prefix)
        if found is None:
            found = self._names[prefix] = tuple(prefix + name for name in self._names[""])
        return found

    @functools.cached_property
    def scales(self) -> tuple[Scale, ...]:
        """Made when the first frame is read."""
        return tuple(_scale(*field) for field in self.fields)

    def read(self, data: bytes, at: int, values: Sampled, prefix: str = "") -> int:
        """Put the numbers into `values`; returns where they end."""
        values.update(zip(self.names(prefix), map(getitem, self.scales, self.layout.unpack_from(data, at)), strict=True))
        if self.finish is not None:
            self.finish(values)
        return at + self.layout.size


def _gears(values: Sampled) -> None:
    """The gear byte (A.1) has the gear in its lower half, above it braking and driving force."""
    gear = int(values["gear"])
    values["gear"], values["brakingForce"], values["drivingForce"] = float(gear & 0x0F), float(gear >> 4 & 1), float(gear >> 5 & 1)


def _gears_2025(values: Sampled) -> None:
    """As in 2016; the highest bit says that the gear is invalid."""
    invalid = values["gear"] >= 0x80  # type: ignore[operator]
    _gears(values)
    if invalid:
        values["gear"] = NAN


def _hemispheres(values: Sampled) -> None:
    """Bit 0 of the state is one without a fix, bit 1 south, bit 2 west (table 15)."""
    state = int(values["positioned"])
    values["positioned"] = float(~state & 1)
    if state & 4:
        values["longitude"] = 0.0 - values["longitude"]  # type: ignore[operator]
    if state & 2:
        values["latitude"] = 0.0 - values["latitude"]  # type: ignore[operator]


_VEHICLE = (
    ("vehicleState", "B", 1, 0), ("chargeState", "B", 1, 0), ("operationMode", "B", 1, 0), ("speed", "H", 10, 0),
    ("mileage", "I", 10, 0), ("voltage", "H", 10, 0),
)
_AFTER_CURRENT = (("soc", "B", 1, 0), ("dcdcState", "B", 1, 0), ("gear", "B", 1, 0), ("insulationResistance", "H", 1, 0))
VEHICLE = Fields(
    *_VEHICLE, ("current", "H", 10, 1000), *_AFTER_CURRENT, ("accelerator", "B", 1, 0), ("brake", "B", 1, 0),
    whole=("gear", "insulationResistance"), finish=_gears,
)
VEHICLE_2025 = Fields(*_VEHICLE, ("current", "H", 10, 3000), *_AFTER_CURRENT, whole=("gear",), finish=_gears_2025)
MOTOR = Fields(
    ("State", "B", 1, 0), ("ControllerTemperature", "B", 1, 40), ("Speed", "H", 1, 20000), ("Torque", "H", 10, 2000),
    ("Temperature", "B", 1, 40), ("Voltage", "H", 10, 0), ("Current", "H", 10, 1000),
)
MOTOR_2025 = Fields(
    ("State", "B", 1, 0), ("ControllerTemperature", "B", 1, 40), ("Speed", "H", 1, 32000), ("Torque", "I", 10, 20000),
    ("Temperature", "B", 1, 40),
)
FUEL_CELL = Fields(("fuelCellVoltage", "H", 10, 0), ("fuelCellCurrent", "H", 10, 0), ("hydrogenConsumption", "H", 100, 0))
HYDROGEN = Fields(
    ("hydrogenMaxTemperature", "H", 10, 40), ("hydrogenMaxTemperatureProbe", "B", 1, 0),
    ("hydrogenMaxConcentration", "H", 1, 0), ("hydrogenMaxConcentrationSensor", "B", 1, 0),
    ("hydrogenMaxPressure", "H", 10, 0), ("hydrogenMaxPressureSensor", "B", 1, 0), ("fuelCellDcdcState", "B", 1, 0),
)
ENGINE = Fields(("engineState", "B", 1, 0), ("engineSpeed", "H", 1, 0), ("fuelRate", "H", 100, 0))
ENGINE_2025 = Fields(("engineSpeed", "H", 1, 0))
_COORDINATES = (("longitude", "I", 1_000_000, 0), ("latitude", "I", 1_000_000, 0))
POSITION = Fields(("positioned", "B", 1, 0), *_COORDINATES, whole=("positioned", "longitude", "latitude"), finish=_hemispheres)
POSITION_2025 = Fields(
    ("positioned", "B", 1, 0), ("coordinateSystem", "B", 1, 0), *_COORDINATES,
    whole=("positioned", "coordinateSystem", "longitude", "latitude"), finish=_hemispheres,
)
"""Tables 14 and 15; in 2025 with the coordinate system (1 WGS 84, 2 GCJ-02, 3 other)."""
EXTREMES = Fields(
    ("maxVoltageBattery", "B", 1, 0), ("maxVoltageCell", "B", 1, 0), ("maxCellVoltage", "H", 1000, 0),
    ("minVoltageBattery", "B", 1, 0), ("minVoltageCell", "B", 1, 0), ("minCellVoltage", "H", 1000, 0),
    ("maxTemperatureBattery", "B", 1, 0), ("maxTemperatureProbe", "B", 1, 0), ("maxTemperature", "B", 1, 40),
    ("minTemperatureBattery", "B", 1, 0), ("minTemperatureProbe", "B", 1, 0), ("minTemperature", "B", 1, 40),
)
ALARM = Fields(("alarmLevel", "B", 1, 0), ("alarmFlags", "I", 1, 0), whole=("alarmFlags",))
BATTERY = Fields(("Voltage", "H", 10, 0), ("Current", "H", 10, 1000), ("Cells", "H", 1, 0))
BATTERY_2025 = Fields(("Voltage", "H", 10, 0), ("Current", "H", 10, 3000))


def _motors(fields: Fields) -> Unit:
    def read(data: bytes, at: int, values: Sampled) -> int:
        """Tables 10 and 11: their count, then each with its number."""
        count, at = data[at], at + 1
        for _ in range(count):
            at = fields.read(data, at + 1, values, f"motor{data[at]}")
        return at

    return read


def _fuel_cell(data: bytes, at: int, values: Sampled) -> int:
    """Table 12."""
    at = FUEL_CELL.read(data, at, values)
    count = int.from_bytes(data[at : at + 2])
    values["fuelCellTemperatures"] = _list(data, at + 2, count, 1, 1, 40)
    return HYDROGEN.read(data, at + 2 + count, values)


def _alarms(modern: bool) -> Unit:
    def read(data: bytes, at: int, values: Sampled) -> int:
        """Tables 17 and 18: level, flags, and lists of the makers' own codes for battery, motor, engine and others."""
        at = ALARM.read(data, at, values)
        for name in ("batteryFaults", "motorFaults", "engineFaults", "otherFaults"):
            count, at = data[at], at + 1
            codes = [data[at + 4 * number : at + 4 * number + 4].hex() for number in range(count)]
            at += 4 * count
            if codes:
                values[name] = " ".join(codes)
        if modern:
            at += 1 + 2 * data[at]
        return at

    return read


def _list(data: bytes, at: int, count: int, width: int, divisor: int, offset: int) -> str:
    """Numbers as a JSON list; null where one is abnormal or invalid."""
    numbers = struct.unpack_from(f">{count}{'B' if width == 1 else 'H'}", data, at)
    limit = (1 << 8 * width) - 2
    return "[" + ",".join(
        "null" if number >= limit else f"{number / divisor:.3f}" if divisor > 1 else str(number - offset) for number in numbers
    ) + "]"


def _cells(data: bytes, at: int, values: Sampled) -> int:
    """Tables B.5 and B.6: batteries with the voltages of their cells from a first one, which other frames go on from."""
    count, at = data[at], at + 1
    for _ in range(count):
        name = f"battery{data[at]}"
        at = BATTERY.read(data, at + 1, values, name)
        first, cells = struct.unpack_from(">HB", data, at)
        values[f"{name}CellVoltages" + (str(first) if first > 1 else "")] = _list(data, at + 3, cells, 2, 1000, 0)
        at += 3 + 2 * cells
    return at


def _cells_2025(data: bytes, at: int, values: Sampled) -> int:
    count, at = data[at], at + 1
    for _ in range(count):
        name = f"battery{data[at]}"
        at = BATTERY_2025.read(data, at + 1, values, name)
        cells = int.from_bytes(data[at : at + 2])
        values[f"{name}CellVoltages"] = _list(data, at + 2, cells, 2, 1000, 0)
        at += 2 + 2 * cells
    return at


def _temperatures(data: bytes, at: int, values: Sampled) -> int:
    """Tables B.7 and B.8."""
    count, at = data[at], at + 1
    for _ in range(count):
        probes = int.from_bytes(data[at + 1 : at + 3])
        values[f"battery{data[at]}Temperatures"] = _list(data, at + 3, probes, 1, 1, 40)
        at += 3 + probes
    return at


def _login(data: bytes, modern: bool, values: Sampled) -> None:
    """Table 6: serial number, ICCID, and the codes of the batteries."""
    serial, iccid, batteries = struct.unpack_from(">H20sB", data)
    values["loginSerial"] = float(serial)
    if word := iccid.strip(b"\0 ").decode("ascii", "replace"):
        values["iccid"] = word
    if modern:
        at, count, size = 23 + batteries, sum(data[23 : 23 + batteries]), 24
    else:
        at, count, size = 24, batteries, data[23]
    if at + count * size > len(data):
        raise IndexError
    codes = [data[at + n * size : at + n * size + size].strip(b"\0 ").decode("ascii", "replace") for n in range(count)]
    if any(codes):
        values["batteryCodes"] = " ".join(codes)


@dataclass(slots=True)
class Plan:
    """Kinds of data with fixed places, read in one go."""

    layout: struct.Struct
    names: tuple[str, ...]
    scales: tuple[Scale, ...]
    finish: tuple[Callable[[Sampled], None], ...]


class Edition:
    """The kinds of data of an edition: `fixed` have one layout, motors have that of `motor` each, `alarms` end with so many
    `lists`, and `others` are read by themselves."""

    def __init__(self, fixed: dict[int, Fields], motor: Fields, alarms: int, lists: int, others: dict[int, Unit]) -> None:
        self.fixed, self.motor, self.alarms, self.lists = fixed, motor, alarms, bytes(lists)
        self.units: dict[int, Unit] = {
            **{kind: fields.read for kind, fields in fixed.items()}, MOTORS: _motors(motor), alarms: _alarms(lists > 4), **others,
        }
        self._sizes = {kind: 1 + fields.layout.size for kind, fields in fixed.items()}
        self._plans: dict[tuple[int | bytes, ...], Plan] = {}

    def begin(self, data: bytes, values: Sampled) -> int:
        """Read what stands at the beginning and has a fixed layout, as in most frames nearly all does: up to lists, a kind that
        comes twice, or one that is not all there. Returns where that ends."""
        sizes, end, at = self._sizes, len(data), 0
        key: list[int | bytes] = []
        while at < end:
            kind = data[at]
            size = sizes.get(kind)
            numbers = None
            if size is None:
                if kind == MOTORS:
                    step = 1 + self.motor.layout.size
                    count = data[at + 1] if at + 1 < end else FEW + 1
                    size = 2 + count * step
                    if count > FEW:
                        break
                    numbers = data[at + 2 : at + size : step]
                elif kind == self.alarms and data.startswith(self.lists, at + 6):
                    size = 6 + len(self.lists)
                else:
                    break
            if at + size > end or kind in key:
                break
            key.append(kind)
            if numbers is not None:
                key.append(numbers)
            at += size
        if key:
            kinds = tuple(key)
            plan = self._plans.get(kinds) or self._plan(kinds)
            values.update(zip(plan.names, map(getitem, plan.scales, plan.layout.unpack_from(data)), strict=True))
            for finish in plan.finish:
                finish(values)
        return at

    def _plan(self, kinds: tuple[int | bytes, ...]) -> Plan:
        layout = [">"]
        names: list[str] = []
        scales: list[Scale] = []
        finish: list[Callable[[Sampled], None]] = []

        def add(fields: Fields, before: str, prefix: str = "", after: str = "") -> None:
            layout.extend((before, fields.layout.format[1:], after))
            names.extend(fields.names(prefix))
            scales.extend(fields.scales)
            if fields.finish is not None:
                finish.append(fields.finish)

        for kind in kinds:
            if isinstance(kind, bytes):
                layout.append("x")
                for number in kind:
                    add(self.motor, "x", f"motor{number}")
            elif kind == MOTORS:
                layout.append("x")
            elif kind == self.alarms:
                add(ALARM, "x", after=f"{len(self.lists)}x")
            else:
                add(self.fixed[kind], "x")
        plan = Plan(struct.Struct("".join(layout)), tuple(names), tuple(scales), tuple(finish))
        remember(self._plans, kinds, plan, PLANS)
        return plan


UNITS = Edition(
    {0x01: VEHICLE, 0x04: ENGINE, 0x05: POSITION, 0x06: EXTREMES}, MOTOR, 0x07, 4,
    {0x03: _fuel_cell, 0x08: _cells, 0x09: _temperatures},
)
"""Kinds of data of 2016 (table 8, table B.3)."""
MODERN = Edition(
    {0x01: VEHICLE_2025, 0x04: ENGINE_2025, 0x05: POSITION_2025}, MOTOR_2025, 0x06, 5, {0x07: _cells_2025, 0x08: _temperatures},
)
"""Kinds of data of 2025; fuel cells (03, 30) and super-capacitors (31, 32) are not spoken."""

codec = Gb32960()
