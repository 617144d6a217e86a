"""What charging stations say in OCPP 1.6 and 2.0.1, read message by message; and that no bytes break the reading."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tulou.access.ocpp import schemas
from tulou.access.protocols import ocpp
from tulou.access.protocols.ocpp import Call, Fault, codec, kept, measured, micros, read
from tulou.access.telemetry import Refusal
from tulou.kernel.errors import Invalid

AT = "2026-04-01T08:00:00+08:00"
TS = 1_775_001_600_000_000
V16, V201 = schemas.V16, schemas.V201


def say(version: str, action: str, payload: dict[str, Any], **facts: int | None) -> bytes:
    return kept(version, "CP-1", orjson.dumps([2, "1", action, payload]), **facts)


def values(version: str, action: str, payload: dict[str, Any], **facts: int | None) -> dict[int, dict[str, Any]]:
    """The samples by their times, of a message that the standard's schema allows and that is read without a refusal."""
    assert schemas.violation(version, action, payload) is None
    samples, refusals = codec.decode(say(version, action, payload, **facts))
    assert refusals == []
    return {at: found for at, found, _ in samples}


def test_a_station_of_1_6_says_what_it_is() -> None:
    assert values(V16, "BootNotification", {
        "chargePointVendor": "V", "chargePointModel": "M", "chargePointSerialNumber": "S", "firmwareVersion": "1", "meterType": "T",
    }) == {0: {"ocppVersion": "1.6", "vendorName": "V", "model": "M", "serialNumber": "S", "firmwareVersion": "1", "meterType": "T"}}
    assert values(V16, "StatusNotification", {"connectorId": 0, "errorCode": "NoError", "status": "Available"}) == {
        0: {"status": "Available", "errorCode": "NoError"}}
    assert values(V16, "StatusNotification", {
        "connectorId": 2, "errorCode": "OtherError", "status": "Faulted", "timestamp": AT, "vendorErrorCode": "7", "info": "hot",
    }) == {TS: {"connector2-status": "Faulted", "connector2-errorCode": "OtherError", "connector2-vendorErrorCode": "7", "connector2-info": "hot"}}
    assert values(V16, "DiagnosticsStatusNotification", {"status": "Uploading"}) == {0: {"diagnosticsStatus": "Uploading"}}
    assert values(V16, "FirmwareStatusNotification", {"status": "Installed"}) == {0: {"firmwareStatus": "Installed"}}
    assert values(V16, "SecurityEventNotification", {"type": "TamperDetectionActivated", "timestamp": AT}) == {
        TS: {"securityEvent": "TamperDetectionActivated"}}
    assert values(V16, "DataTransfer", {"vendorId": "v", "data": "x"}) == {0: {"dataTransfer": '{"vendorId":"v","data":"x"}'}}


def test_a_transaction_of_1_6() -> None:
    began = {"connectorId": 1, "idTag": "CARD", "meterStart": 1000, "timestamp": AT}
    assert values(V16, "StartTransaction", began, transaction=17, place=1, start=1000) == {TS: {
        "connector1-transactionId": "17", "connector1-transactionEvent": "Started", "connector1-energyActiveImportRegister": 1000}}
    ended = {"transactionId": 17, "meterStop": 1500, "timestamp": AT, "transactionData": [
        {"timestamp": "2026-04-01T00:00:00.500Z", "sampledValue": [{"value": "1.5", "unit": "kWh", "context": "Transaction.End"}]}]}
    assert values(V16, "StopTransaction", ended, place=1, start=1000) == {
        TS + 500_000: {"connector1-energyActiveImportRegister": 1500},
        TS: {"connector1-transactionId": "17", "connector1-transactionEvent": "Ended", "connector1-stoppedReason": "Local",
             "connector1-energyActiveImportRegister": 1500, "connector1-transactionEnergy": 500}}
    unknown = values(V16, "StopTransaction", {"transactionId": 99, "meterStop": 5, "timestamp": AT, "reason": "PowerLoss"})
    assert unknown == {TS: {"transactionId": "99", "transactionEvent": "Ended", "stoppedReason": "PowerLoss", "energyActiveImportRegister": 5}}


@pytest.mark.parametrize(("sample", "name", "value"), [
    ({"value": "12"}, "energyActiveImportRegister", 12),
    ({"value": "7.4", "measurand": "Power.Active.Import", "unit": "kW"}, "powerActiveImport", 7400),
    ({"value": "0.1", "measurand": "Energy.Reactive.Export.Interval", "unit": "kvarh"}, "energyReactiveExportInterval", 100),
    ({"value": "230.1", "measurand": "Voltage", "phase": "L1-N", "unit": "V", "location": "Outlet"}, "voltage-L1-N", 230.1),
    ({"value": "16", "measurand": "Current.Import", "phase": "L2", "location": "Inlet"}, "currentImport-L2-Inlet", 16),
    ({"value": "300.15", "measurand": "Temperature", "unit": "K", "location": "Body"}, "temperature-Body", 27),
    ({"value": "212", "measurand": "Temperature", "unit": "Fahrenheit"}, "temperature", 100),
    ({"value": "80", "measurand": "SoC", "unit": "Percent", "location": "EV"}, "soc-EV", 80),
    ({"value": "1500", "measurand": "RPM"}, "rpm", 1500), ({"value": " -1.5e2 ", "measurand": "Power.Factor"}, "powerFactor", -150),
])
def test_meter_values_of_1_6_in_one_unit(sample: dict[str, Any], name: str, value: float) -> None:
    found = values(V16, "MeterValues", {"connectorId": 1, "meterValue": [{"timestamp": AT, "sampledValue": [sample]}]})
    assert found == {TS: {f"connector1-{name}": value}}


def test_what_is_signed_stays_in_the_frame() -> None:
    assert values(V16, "MeterValues", {"connectorId": 1, "meterValue": [{"timestamp": AT, "sampledValue": [
        {"value": "3081AB", "format": "SignedData"}]}]}) == {}


def test_a_station_of_2_0_1_says_what_it_is() -> None:
    assert values(V201, "BootNotification", {"reason": "PowerUp", "chargingStation": {
        "vendorName": "V", "model": "M", "modem": {"iccid": "8986"},
    }}) == {0: {"ocppVersion": "2.0.1", "vendorName": "V", "model": "M", "iccid": "8986", "bootReason": "PowerUp"}}
    assert values(V201, "StatusNotification", {"timestamp": AT, "connectorStatus": "Occupied", "evseId": 2, "connectorId": 1}) == {
        TS: {"evse2-connector1-status": "Occupied"}}
    assert values(V201, "SecurityEventNotification", {"type": "x", "timestamp": AT, "techInfo": "y"}) == {
        TS: {"securityEvent": "x", "securityEventInfo": "y"}}
    assert values(V201, "NotifyMonitoringReport", {"requestId": 1, "seqNo": 0, "generatedAt": AT}) == {}


def test_a_transaction_of_2_0_1() -> None:
    started = {"eventType": "Started", "timestamp": AT, "triggerReason": "CablePluggedIn", "seqNo": 0, "evse": {"id": 1, "connectorId": 1},
               "transactionInfo": {"transactionId": "t", "chargingState": "EVConnected"}, "idToken": {"idToken": "CARD", "type": "ISO14443"}}
    assert values(V201, "TransactionEvent", started) == {TS: {
        "evse1-transactionEvent": "Started", "evse1-transactionId": "t", "evse1-chargingState": "EVConnected", "evse1-triggerReason": "CablePluggedIn"}}
    sampled = [{"value": 7.4, "measurand": "Power.Active.Import", "unitOfMeasure": {"unit": "kW"}},
               {"value": 15, "measurand": "Energy.Active.Import.Register", "unitOfMeasure": {"unit": "Wh", "multiplier": 2}},
               {"value": 230123, "measurand": "Voltage", "phase": "L1-N", "unitOfMeasure": {"unit": "V", "multiplier": -3}}]
    updated = {"eventType": "Updated", "timestamp": AT, "triggerReason": "MeterValuePeriodic", "seqNo": 1, "transactionInfo": {"transactionId": "t"},
               "meterValue": [{"timestamp": AT, "sampledValue": sampled}]}
    assert values(V201, "TransactionEvent", updated, place=1) == {TS: {
        "evse1-transactionEvent": "Updated", "evse1-transactionId": "t", "evse1-triggerReason": "MeterValuePeriodic",
        "evse1-powerActiveImport": 7400, "evse1-energyActiveImportRegister": 1500, "evse1-voltage-L1-N": 230.123}}


def test_events_and_reports_of_variables() -> None:
    where = {"name": "Connector", "evse": {"id": 1, "connectorId": 2}}
    event = {"eventId": 1, "timestamp": AT, "trigger": "Delta", "actualValue": "Available", "eventNotificationType": "CustomMonitor",
             "component": where, "variable": {"name": "AvailabilityState"}}
    assert values(V201, "NotifyEvent", {"generatedAt": AT, "seqNo": 0, "eventData": [event]}) == {
        TS: {"evse1-connector2-Connector-AvailabilityState": "Available"}}
    report = [{"component": {"name": "TxCtrlr"}, "variable": {"name": "EVConnectionTimeOut", "instance": "i"},
               "variableAttribute": [{"type": "MaxSet", "value": "900"}, {"value": "30"}]},
              {"component": {"name": "Secret"}, "variable": {"name": "Key"}, "variableAttribute": [{"mutability": "WriteOnly"}]}]
    assert values(V201, "NotifyReport", {"requestId": 1, "seqNo": 0, "generatedAt": AT, "reportData": report}) == {
        TS: {"TxCtrlr-EVConnectionTimeOut-i": 30}}


@pytest.mark.parametrize(("value", "more", "field"), [
    ("abc", {}, "number"), ("nan", {}, "number"), ("1_000", {}, "number"), ("", {}, "number"), (True, {}, "number"), (None, {}, "number"),
    ("9" * 400, {}, "number"), ("1e999", {}, "float64"), (1.0, {"multiplier": 1000}, "multiplier"), (1.0, {"multiplier": True}, "multiplier"),
    ("1e308", {"unit": "kWh"}, "float64"),
])
def test_a_value_that_is_none_is_refused(value: Any, more: dict[str, Any], field: str) -> None:
    with pytest.raises(Exception) as info:
        measured(value, **more)
    assert getattr(info.value, "rule", "") == field


@pytest.mark.parametrize(("text", "ts"), [
    ("2026-04-01T00:00:00Z", TS), ("2026-04-01T00:00:00.5Z", TS + 500_000), ("2026-04-01T08:00:00+08:00", TS), ("2026-04-01T00:00:00", TS),
])
def test_times(text: str, ts: int) -> None:
    assert micros(text) == ts


def test_answers_keep_to_the_standard() -> None:
    calls = {
        V16: {"StartTransaction": {"connectorId": 1, "idTag": "x", "meterStart": 0, "timestamp": AT}, "Authorize": {"idTag": "x"},
              "StopTransaction": {"transactionId": 1, "meterStop": 0, "timestamp": AT, "idTag": "x"}},
        V201: {"Authorize": {"idToken": {"idToken": "x", "type": "Central"}}, "TransactionEvent": {"idToken": {"idToken": "x", "type": "Central"}}},
    }
    for version, actions in ocpp.ACTIONS.items():
        for action in actions:
            said = Call("1", action, calls[version].get(action, {}))
            answer = ocpp.answer(version, said, now=TS, interval=300, tag="Accepted", transaction=7)
            assert schemas.violation(version, action, answer, answer=True) is None, (version, action, answer)
    assert ocpp.answer(V16, Call("1", "Heartbeat", {}), now=TS + 1000, interval=1) == {"currentTime": "2026-04-01T00:00:00.001Z"}


def test_every_action_that_is_told_has_a_schema() -> None:
    told = {name: ocpp.versions_of(name) for name in ocpp.TOLD}
    assert all(told.values())
    assert told["Reset"] == [V16, V201]
    assert (told["GetConfiguration"], told["GetVariables"]) == ([V16], [V201])


def test_cards_are_hidden_where_frames_are_shown() -> None:
    raw = say(V16, "StartTransaction", {"connectorId": 1, "idTag": "04AB12CD34EF80", "meterStart": 0, "timestamp": AT}, transaction=1)
    assert b'"idTag":"**********EF80"' in codec.masked(raw)
    assert codec.decode(codec.masked(raw)) == codec.decode(raw)
    token = say(V201, "Authorize", {"idToken": {"idToken": "AB\\\"1", "type": "x", "additionalInfo": [{"additionalIdToken": "ABC", "type": "y"}]}})
    assert b"ABC" not in codec.masked(token)
    assert codec.masked(b'ocpp1.6 CP-1\n[2,"1","Authorize",{"idTag":"SECRETCARD"') == b'ocpp1.6 CP-1\n[2,"1","Authorize",{"idTag":"******CARD"'


def test_identities() -> None:
    assert codec.identity("CP-1*a=b+c|d@e.f_g") == b"CP-1*a=b+c|d@e.f_g"
    for wrong in ("", "a:b", "a/b", "a b", "桩", "x" * 49):
        with pytest.raises(Invalid):
            codec.identity(wrong)
    assert codec.identify(say(V16, "Heartbeat", {})) == b"CP-1"
    assert codec.identify(b"x") == b""


def held(raw: bytes) -> None:
    samples, refusals = codec.decode(raw)
    assert all(isinstance(one, Refusal) for one in refusals)
    for ts, found, _ in samples:
        assert isinstance(ts, int)
        assert all(isinstance(name, str) and isinstance(value, float | str) for name, value in found.items())
    assert isinstance(codec.identify(raw), bytes)
    assert isinstance(codec.masked(raw), bytes)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=12) | st.sampled_from([AT, "kWh", "L1", "1.5"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
        "connectorId", "evseId", "timestamp", "meterValue", "sampledValue", "value", "unit", "unitOfMeasure", "multiplier", "measurand", "phase",
        "transactionInfo", "transactionId", "transactionData", "meterStop", "evse", "id", "eventData", "component", "variable", "name",
        "reportData", "variableAttribute", "chargingStation", "modem", "status", "idToken", "generatedAt", "x",
    ]), inner, max_size=5), max_leaves=25,
)


@given(version=st.sampled_from([V16, V201]), action=st.sampled_from(sorted({name for one in ocpp.ACTIONS.values() for name in one})), payload=JSON,
       start=st.integers(-(1 << 40), 1 << 40))
@settings(max_examples=400, deadline=None)
def test_whatever_a_payload_is_it_is_read_or_refused(version: str, action: str, payload: Any, start: int) -> None:
    frame = orjson.dumps([2, "1", action, payload], option=orjson.OPT_NON_STR_KEYS, default=str) if not _wide(payload) else b"[2]"
    held(kept(version, "CP-1", frame, place=1, start=start))
    found = read(frame, version)
    if isinstance(found, Fault):
        error = orjson.loads(ocpp.error_frame(found) or b"null")
        assert error is None or (error[0], len(error), len(error[3]) <= 255) == (4, 5, True)


def _wide(payload: Any) -> bool:
    """Whether orjson could not write it."""
    try:
        orjson.dumps(payload)
    except TypeError:
        return True
    return False


@given(raw=st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_bytes(raw: bytes) -> None:
    held(raw)
    held(b"ocpp1.6 CP-1 place=1\n" + raw)
    for version in (V16, V201):
        assert read(raw, version) is None or not isinstance(read(raw, version), Call)


@given(st.binary(max_size=60) | st.binary(max_size=20).map(b"CP-1:".__add__))
def test_any_authorization(told: bytes) -> None:
    from websockets.datastructures import Headers
    from websockets.http11 import Request

    from tulou.access.ocpp.door import _credential

    found = _credential(Request("/", Headers([("Authorization", f"Basic {base64.b64encode(told).decode()}")])), "CP-1")
    assert found == (told[5:] if told.startswith(b"CP-1:") and len(told) > 5 else None)
