"""What the made-up devices measure: plausible signals with a daily rhythm.

Law: pure functions of (device seed, time), so the same seed tells the same story whenever it is asked, and a repeated
message repeats the same value. The numbers are invented; only their shapes follow the field: air warms until mid
afternoon and humidity mirrors it; ozone follows the sun, nitrogen dioxide the two rush hours; dissolved oxygen peaks
in the afternoon; meters and base stations follow people's evenings; street lights follow the dark. Now and then a
device misbehaves, so that alarms have something to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import TypeAlias

Value: TypeAlias = float | int | bool | str
DAY = 86_400
SHANGHAI = 8 * 3_600


def hour(t: float) -> float:
    """Hour of the day in Asia/Shanghai, 0 to 24, of `t` seconds since the epoch."""
    return ((t + SHANGHAI) % DAY) / 3_600


def swing(t: float, peak: float) -> float:
    """A daily cosine, 1 at the hour `peak`, -1 twelve hours away."""
    return math.cos((hour(t) - peak) / 24 * 2 * math.pi)


def bump(t: float, peak: float, width: float) -> float:
    """A daily bell of height 1 at the hour `peak`, `width` hours wide."""
    away = abs(hour(t) - peak)
    away = min(away, 24 - away)
    return math.exp(-((away / width) ** 2))


class Signal:
    """The seeded character of one device: offsets that stay, and noise that is smooth in time."""

    def __init__(self, seed: str) -> None:
        random = Random(seed)  # noqa: S311
        self.bias = [random.gauss(0, 1) for _ in range(8)]
        self._phases = [random.random() * 2 * math.pi for _ in range(24)]
        self._offset = random.random()
        self.born = random.randint(0, 4_000)

    def noise(self, t: float, channel: int) -> float:
        """Smooth noise of the order of 1; channels 0 to 7 differ."""
        a, b, c = self._phases[channel * 3 : channel * 3 + 3]
        return 0.6 * math.sin(t / 173 + a) + 0.5 * math.sin(t / 1_907 + b) + 0.7 * math.sin(t / 21_611 + c)

    def episode(self, t: float, every: float, lasts: float) -> bool:
        """Whether `t` (s) falls into one of the device's episodes: `lasts` seconds, once in `every` seconds."""
        return (t + self._offset * every) % every < lasts


def _weather(s: Signal, t: float) -> dict[str, Value]:
    temperature = 21 + 1.5 * s.bias[0] + 5 * swing(t, 14.5) + 0.8 * s.noise(t, 0)
    wet = max(0.0, s.noise(t, 1) - 1.1)
    return {
        "temperature": round(temperature, 1),
        "relativeHumidity": round(min(100, max(20, 72 - 14 * swing(t, 14.5) + 4 * s.noise(t, 2) + 20 * wet)), 1),
        "atmosphericPressure": round(1008 + 3 * s.bias[1] + 1.2 * swing(t, 10) + s.noise(t, 3), 1),
        "windSpeed": round(max(0, 2.8 + 1.6 * swing(t, 15) + 1.4 * s.noise(t, 4)), 1),
        "windDirection": round((120 + 60 * s.noise(t, 5)) % 360),
        "precipitation": round(wet * 12, 1),
    }


def _air(s: Signal, t: float) -> dict[str, Value]:
    rush = bump(t, 8, 1.8) + bump(t, 18.5, 2.2)
    bad = 90.0 if s.episode(t, 6 * DAY, 2 * 3_600) else 0.0
    pm25 = max(3, 24 + 5 * s.bias[0] + 9 * rush + 5 * s.noise(t, 0) + bad)
    weather = _weather(s, t)
    return {
        "pm25": round(pm25),
        "pm10": round(pm25 * 1.6 + max(0, 6 * s.noise(t, 1))),
        "so2": round(max(2, 6 + 2 * s.noise(t, 2))),
        "no2": round(max(4, 15 + 14 * rush + 4 * s.noise(t, 3))),
        "co": round(max(0.2, 0.5 + 0.25 * rush + 0.08 * s.noise(t, 4)), 2),
        "o3": round(max(8, 62 + 48 * swing(t, 14) + 9 * s.noise(t, 5))),
        "temperature": weather["temperature"],
        "relativeHumidity": weather["relativeHumidity"],
    }


def _water(s: Signal, t: float) -> dict[str, Value]:
    spill = s.episode(t, 9 * DAY, 3 * 3_600)
    return {
        "temperature": round(20.5 + s.bias[0] + 1.2 * swing(t, 16) + 0.2 * s.noise(t, 0), 2),
        "pH": round(7.2 + 0.2 * s.bias[1] + 0.15 * swing(t, 15) + 0.05 * s.noise(t, 1), 2),
        "O2": round(max(0.5, 7.6 + 0.4 * s.bias[2] + 0.9 * swing(t, 15) + 0.2 * s.noise(t, 2) - 5 * spill), 2),
        "NH4": round(max(0.02, 0.25 + 0.06 * s.noise(t, 3) + 1.7 * spill), 3),
        "turbidity": round(max(1, 14 + 4 * s.bias[3] + 4 * s.noise(t, 4)), 1),
        "conductivity": round(max(30, 140 + 25 * s.bias[4] + 8 * s.noise(t, 5))),
    }


def _sound(s: Signal, t: float) -> dict[str, Value]:
    level = 52 + 2.5 * s.bias[0] + 8 * swing(t, 14) + 3 * bump(t, 20, 2) + 2 * s.noise(t, 0)
    level += 18 if s.episode(t, 3 * DAY, 1_800) else 0
    return {
        "LAeq": round(level, 1),
        "LAmax": round(level + 9 + 2 * abs(s.noise(t, 1)), 1),
        "batteryLevel": _battery(s, t),
    }


def _manhole(s: Signal, t: float) -> dict[str, Value]:
    lifted = s.episode(t, 20 * DAY, 2_400)
    flood = 1.9 if s.episode(t + 7_777, 12 * DAY, 3_600) else 0.0
    return {
        "coverOpen": lifted,
        "tilt": round(38.0 + 4 * s.noise(t, 0), 1) if lifted else round(abs(0.8 + 0.3 * s.noise(t, 0)), 1),
        "waterLevel": round(max(0, 0.25 + 0.1 * s.bias[0] + 0.08 * s.noise(t, 1) + flood), 2),
        "batteryLevel": _battery(s, t),
    }


def _light(s: Signal, t: float) -> dict[str, Value]:
    h = hour(t) + 0.1 * s.bias[0]
    on = h >= 18.2 or h < 6.0
    level = 0 if not on else 60 if 0 <= h < 5 else 100
    voltage = 228 + s.bias[1] + 2.5 * s.noise(t, 0)
    power = 0.0 if not on else 120 * level / 100 + 2 * s.noise(t, 1)
    return {
        "powerState": "on" if on else "off",
        "illuminanceLevel": level,
        "activePower": round(power, 1),
        "voltage": round(voltage, 1),
        "current": round(power / voltage, 3),
    }


def _meter(s: Signal, t: float) -> dict[str, Value]:
    voltage = 230 + s.bias[0] + 2.5 * s.noise(t, 0)
    power = max(120, 900 + 260 * s.bias[1] + 900 * bump(t, 20, 2.5) + 450 * bump(t, 12, 1.5) + 180 * s.noise(t, 1))
    hours = max(0, t - 1_577_836_800) / 3_600  # since 2020-01-01, at the mean of the daily curve
    return {
        "totalActiveEnergyImport": round(s.born + 1.15 * hours, 2),
        "activePower": round(power),
        "voltage": round(voltage, 1),
        "current": round(power / voltage, 2),
        "frequency": round(50 + 0.02 * s.noise(t, 2), 3),
    }


def _tower(s: Signal, t: float) -> dict[str, Value]:
    busy = max(0.05, 0.35 + 0.3 * swing(t, 17) + 0.35 * bump(t, 21, 2) + 0.06 * s.noise(t, 0))
    outage = s.episode(t, 15 * DAY, 2_700)
    return {
        "serviceState": "onBattery" if outage else "inService",
        "connectedUsers": round(420 * busy * (1 + 0.2 * abs(s.bias[0]))),
        "downlinkThroughput": round(640 * busy, 1),
        "activePower": round(900 + 1_900 * busy),
        "batteryVoltage": round((45.4 if outage else 53.6) + 0.15 * s.noise(t, 1), 2),
        "temperature": round(31 + 4 * swing(t, 15) + 3 * busy + s.noise(t, 2), 1),
    }


def _battery(s: Signal, t: float) -> int:
    """A cell that lasts about 400 days and is then changed."""
    return round(100 - 92 * ((t / DAY + s.born) % 400) / 400)


SIGNALS: dict[str, Callable[[Signal, float], dict[str, Value]]] = {
    "AirQualityStation": _air,
    "WaterQualityStation": _water,
    "WeatherStation": _weather,
    "NoiseStation": _sound,
    "Manhole": _manhole,
    "StreetLight": _light,
    "SmartMeter": _meter,
    "Site5G": _tower,
}
"""Entity type -> what such a device says at `t` seconds since the epoch."""
