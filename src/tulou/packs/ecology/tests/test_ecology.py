"""What the pack declares, and its assessments against numbers that are not ours."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from tulou.access.protocols import hj212
from tulou.kernel.packs import Pack
from tulou.methods import aqi
from tulou.packs.ecology import assessment
from tulou.packs.ecology.control import control
from tulou.packs.ecology.derive import DERIVED
from tulou.packs.ecology.stations import KINDS

OLD, NEW = dt.date(2026, 2, 28), dt.date(2026, 3, 1)
CLEAN = {"SO2": 6.0, "NO2": 21.0, "CO": 0.6, "O3": 90.0, "PM10": 40.0, "PM2.5": 20.0}


def hours(**given: float) -> dict[str, np.ndarray]:
    """Two days of one station with the same number in every hour."""
    return {name: np.full((1, 48), value) for name, value in (CLEAN | {name.replace("_", "."): value for name, value in given.items()}).items()}


def test_what_is_assessed_and_derived_is_declared(pack: Pack) -> None:
    for kind, names in {"air": assessment.AIR.values(), "water": assessment.WATER.values(), "noise": [assessment.NOISE]}.items():
        declared = pack.models[KINDS[kind]].properties
        assert {*names, *DERIVED[kind], "reportInterval"} <= set(declared)
    assert {f"{name}Hour" for name in assessment.AIR.values()} <= set(pack.models["AirQualityStation"].properties)


def test_every_code_is_one_that_the_codec_can_say(pack: Pack) -> None:
    ends = {"Rtd", "ZsRtd", "hour", "minute", "RtdInterval"}
    for model in pack.models.values():
        assert {prop.codes["hj212"].rpartition("-")[2] for prop in model.properties.values() if prop.codes} <= ends


@pytest.mark.outside(source="HJ 212-2017, annex A: the segment whose CRC is 1C80")
def test_the_standards_own_frame_says_the_interval_of_reports(pack: Pack) -> None:
    segment = b"QN=20160801085857223;ST=32;CN=1062;PW=100000;MN=010000A8900016F000169DC0;Flag=5;CP=&&RtdInterval=30&&"
    frame = hj212.frame(segment)
    assert frame.endswith(b"&&1C80\r\n")
    ((_, values, _),), refused = hj212.codec.decode(frame)
    code = pack.models["AirQualityStation"].properties["reportInterval"].codes["hj212"]
    assert (values[code], refused) == (30, [])


@pytest.mark.outside(source="HJ 633-2026, table 3, and the published tests of a tool for it: PM2.5 of 75 is 114, PM10 of 150 is 112; both are 100 by HJ 633-2012, table 1")
@pytest.mark.parametrize(("day", "fine", "coarse"), [(OLD, 100, 100), (NEW, 114, 112)])
def test_the_edition_of_the_day_counts(day: dt.date, fine: float, coarse: float) -> None:
    found = assessment.air(hours(PM2_5=75), day)
    assert (found.day.aqi[0], assessment.primary(found.day, (0,))) == (fine, ["PM2.5"])
    assert assessment.air(hours(PM10=150), day).day.aqi[0] == coarse
    assert found.hour.aqi[0, 23] == fine


@pytest.mark.outside(source="GB 3838-2002, table 1, and 环办〔2011〕22号: limits, exceedance C/S - 1 of class III")
def test_a_class_of_water_and_its_main_pollutants() -> None:
    values = {"pH": 7.2, "DO": 5.5, "CODMn": 13.2, "NH3-N": 1.0, "TP": 0.2}
    found = assessment.water(
        {name: np.full((1, 24), value) for name, value in values.items()}, np.full((1, 24), np.nan), np.array([False]), np.array([3600.0]))
    assert int(found.overall[0]) == 5
    ((item, multiple),) = found.main[0]
    assert item == "CODMn"
    assert multiple == pytest.approx(1.2)


@pytest.mark.outside(source="GB 3096-2008, table 1: zone 2 has 60 dB(A) by day and 50 by night")
def test_noise_is_judged_by_its_zone() -> None:
    level = np.full((2, 24), 60.0)
    level[:, :6] = level[:, 22:] = 50.1
    found = assessment.sound(level, ["2", None])
    assert (found.day[0], found.night[0], found.day_over[0]) == (60, 50.1, 0)
    assert found.night_over[0] == pytest.approx(0.1)
    assert [name for name, _ in found.why(1, None)] == ["zone"]


def test_twenty_hours_make_a_day_and_nineteen_do_not() -> None:
    values = hours()
    values["PM2.5"][0, 24:28] = np.nan
    assert assessment.air(values, NEW).day.aqi[0] == 45
    values["PM2.5"][0, 28] = np.nan
    found = assessment.air(values, NEW)
    assert np.isnan(found.day.aqi[0])
    ((name, why),) = found.why(0)
    assert (name, why.rule, "19" in why.en) == ("PM2.5", "GB 3095, table 4", True)
    reason = found.why_no_aqi(0)
    assert reason is not None
    assert reason.rule == "HJ 633-2026, 5.3.1"
    assert assessment.air(values, OLD).day.aqi[0] == 45  # 2012 tells the AQI of what is there


def test_an_hour_needs_forty_five_minutes() -> None:
    mean, none = np.array([[10.0, 11.0, 12.0]]), np.full((1, 3), np.nan)
    origin = np.zeros((1, 3), np.int64)
    found = assessment.hours(mean, np.array([[90, 89, 0]]), origin, none, origin, np.array([30.0]))
    assert found.value[0].tolist()[:1] == [10]
    assert np.isnan(found.value[0, 1:]).all()
    whys = [assessment.why_no_hour(found, 0, hour, 30) for hour in range(3)]
    assert [why and why.rule for why in whys] == [None, "GB 3095, table 4", "absent"]
    own = np.array([[np.nan, 99.0, np.nan]])
    again = assessment.hours(mean, np.array([[90, 89, 0]]), origin, own, origin + 1, np.array([30.0]))
    assert (again.value[0, 1], again.origin[0, 1], again.own[0].tolist()) == (99, 1, [False, True, False])


def test_moving_means_of_2012_reach_into_the_day_before() -> None:
    values = hours()
    values["PM2.5"][0, :24] = 100
    found = assessment.air(values, OLD)
    assert found.hour.iaqi["PM2.5"][0, 0] == aqi.iaqi("PM2.5_24h", (23 * 100 + 20) / 24, aqi.HJ_633_2012)
    assert found.hour.iaqi["PM2.5"][0, 23] == aqi.iaqi("PM2.5_24h", 20, aqi.HJ_633_2012)
    assert assessment.air(values, NEW).hour.iaqi["PM2.5"][0, 0] == aqi.iaqi("PM2.5_1h", 20, aqi.HJ_633_2026)


def test_spikes_and_stuck_values_are_found_and_no_others() -> None:
    mean = np.array([[20.0, 900.0, 21.0, 22.0], [20.0, 900.0, 900.0, 21.0]])
    assert [(mark.station, mark.hour, mark.rule) for mark in control("pm25", mean, mean - 1, mean + 1)] == [(0, 1, "spike")]
    same = np.full((1, 30), 75.0)
    low, high = same.copy(), same.copy()
    high[0, 10] = 76
    assert [mark.hour for mark in control("pm25", same, low, high)] == list(range(11, 30))
    assert list(control("so2", same, same, same)) == []
    assert list(control("pm25", same[:, :11], same[:, :11], same[:, :11])) == []
