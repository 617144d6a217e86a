"""A charging station that was not written here, in a process of its own: the charge point of PyPI `ocpp`, unmodified, over PyPI `websockets`.

    python -m tests.conformance.ocpp_station 1.6|2.0.1 ws://host:port/ocpp/CP-1 CP-1 PASSWORD CARD

It boots, beats, shows its card, and goes through a transaction with meter values; then it waits to be started and stopped from afar, and to be reset.
Every answer of the house, and every call of it, is a line of JSON; the library checks both against the standard's schemas.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import websockets
from ocpp.routing import on

CARD = sys.argv[5]
BEGAN = datetime(2026, 4, 1, tzinfo=UTC)


def say(what: str, told: Any = None) -> None:
    print(json.dumps([what, asdict(told) if is_dataclass(told) and not isinstance(told, type) else told], default=float), flush=True)


def at(minutes: int) -> str:
    return (BEGAN + timedelta(minutes=minutes)).isoformat()


def station_16(name: str, connection: Any) -> Any:
    from ocpp.v16 import ChargePoint, call, call_result

    class Station(ChargePoint):
        @on("RemoteStartTransaction")
        def started(self, **told: Any) -> Any:
            say("RemoteStartTransaction", told)
            asyncio.get_running_loop().create_task(self.charge(60, 2000, 2600))
            return call_result.RemoteStartTransaction(status="Accepted")

        @on("RemoteStopTransaction")
        def stopped(self, **told: Any) -> Any:
            say("RemoteStopTransaction", told)
            return call_result.RemoteStopTransaction(status="Accepted")

        @on("Reset")
        def reset(self, **told: Any) -> Any:
            say("Reset", told)
            return call_result.Reset(status="Accepted")

        @on("GetConfiguration")
        def configuration(self, **told: Any) -> Any:
            say("GetConfiguration", told)
            return call_result.GetConfiguration(configuration_key=[{"key": "HeartbeatInterval", "readonly": False, "value": "300"}])

        @on("ChangeAvailability")
        def availability(self, **told: Any) -> Any:
            say("ChangeAvailability", told)
            return call_result.ChangeAvailability(status="Rejected")

        @on("TriggerMessage")
        def trigger(self, **told: Any) -> Any:
            say("TriggerMessage", told)
            return call_result.TriggerMessage(status="Accepted")

        @on("SetChargingProfile")
        def profile(self, **told: Any) -> Any:
            say("SetChargingProfile", told)
            return call_result.SetChargingProfile(status="Accepted")

        async def charge(self, minute: int, begin: int, end: int) -> None:
            began = await self.call(call.StartTransaction(connector_id=1, id_tag=CARD, meter_start=begin, timestamp=at(minute)))
            say("StartTransaction", began)
            say("MeterValues", await self.call(call.MeterValues(connector_id=1, transaction_id=began.transaction_id, meter_value=[{
                "timestamp": at(minute + 1), "sampledValue": [
                    {"value": "7.2", "measurand": "Power.Active.Import", "unit": "kW"},
                    {"value": "229.5", "measurand": "Voltage", "phase": "L1-N", "unit": "V"},
                    {"value": "68.0", "measurand": "Temperature", "unit": "Fahrenheit", "location": "Cable"},
                ],
            }])))
            say("StopTransaction", await self.call(call.StopTransaction(
                transaction_id=began.transaction_id, meter_stop=end, timestamp=at(minute + 30), reason="Remote", id_tag=CARD,
            )))

        async def live(self) -> None:
            say("BootNotification", await self.call(call.BootNotification(charge_point_vendor="Vendor", charge_point_model="Model", firmware_version="1.0")))
            say("Heartbeat", await self.call(call.Heartbeat()))
            say("Authorize", await self.call(call.Authorize(id_tag=CARD)))
            say("Stranger", await self.call(call.Authorize(id_tag="nobodys")))
            say("StatusNotification", await self.call(call.StatusNotification(connector_id=1, error_code="NoError", status="Available", timestamp=at(0))))
            say("SecurityEventNotification", await self.call(call.SecurityEventNotification(type="StartupOfTheDevice", timestamp=at(0), tech_info="x")))
            say("DataTransfer", await self.call(call.DataTransfer(vendor_id="org.example", message_id="x", data="1")))
            await self.charge(1, 1000, 1500)
            say("ready")

    return Station(name, connection)


def station_201(name: str, connection: Any) -> Any:
    from ocpp.v201 import ChargePoint, call, call_result

    class Station(ChargePoint):
        @on("RequestStartTransaction")
        def started(self, **told: Any) -> Any:
            say("RequestStartTransaction", told)
            asyncio.get_running_loop().create_task(self.charge(60, "second", 2000, 2600))
            return call_result.RequestStartTransaction(status="Accepted", transaction_id="second")

        @on("RequestStopTransaction")
        def stopped(self, **told: Any) -> Any:
            say("RequestStopTransaction", told)
            return call_result.RequestStopTransaction(status="Accepted")

        @on("Reset")
        def reset(self, **told: Any) -> Any:
            say("Reset", told)
            return call_result.Reset(status="Scheduled")

        @on("GetVariables")
        def variables(self, **told: Any) -> Any:
            say("GetVariables", told)
            return call_result.GetVariables(get_variable_result=[
                {"attributeStatus": "Accepted", "attributeValue": "300", **one} for one in told["get_variable_data"]
            ])

        @on("GetBaseReport")
        def report(self, **told: Any) -> Any:
            say("GetBaseReport", told)
            asyncio.get_running_loop().create_task(self.call(call.NotifyReport(
                request_id=told["request_id"], generated_at=at(90), seq_no=0, report_data=[{
                    "component": {"name": "OCPPCommCtrlr"}, "variable": {"name": "HeartbeatInterval"},
                    "variableAttribute": [{"value": "300", "mutability": "ReadWrite"}],
                }],
            )))
            return call_result.GetBaseReport(status="Accepted")

        async def event(self, minute: int, kind: str, transaction: str, seq: int, reason: str, **more: Any) -> None:
            info = {"transactionId": transaction, **more.pop("info", {})}
            say(f"TransactionEvent {kind}", await self.call(call.TransactionEvent(
                event_type=kind, timestamp=at(minute), trigger_reason=reason, seq_no=seq, transaction_info=info, **more,
            )))

        async def charge(self, minute: int, transaction: str, begin: int, end: int) -> None:
            def meter(when: int, *values: dict[str, Any]) -> list[dict[str, Any]]:
                return [{"timestamp": at(when), "sampledValue": list(values)}]

            await self.event(minute, "Started", transaction, 0, "Authorized", evse={"id": 1, "connectorId": 1},
                             id_token={"idToken": CARD, "type": "ISO14443"}, info={"chargingState": "Charging"},
                             meter_value=meter(minute, {"value": begin, "context": "Transaction.Begin"}))
            await self.event(minute + 1, "Updated", transaction, 1, "MeterValuePeriodic", meter_value=meter(
                minute + 1, {"value": 72, "measurand": "Power.Active.Import", "unitOfMeasure": {"unit": "W", "multiplier": 2}},
                {"value": 229.5, "measurand": "Voltage", "phase": "L1-N"},
            ))
            await self.event(minute + 30, "Ended", transaction, 2, "RemoteStop", info={"stoppedReason": "Remote"},
                             meter_value=meter(minute + 30, {"value": end, "context": "Transaction.End"}))

        async def live(self) -> None:
            say("BootNotification", await self.call(call.BootNotification(
                charging_station={"vendorName": "Vendor", "model": "Model", "firmwareVersion": "2.0"}, reason="PowerUp",
            )))
            say("Heartbeat", await self.call(call.Heartbeat()))
            say("Authorize", await self.call(call.Authorize(id_token={"idToken": CARD, "type": "ISO14443"})))
            say("Stranger", await self.call(call.Authorize(id_token={"idToken": "nobodys", "type": "ISO14443"})))
            say("StatusNotification", await self.call(call.StatusNotification(
                timestamp=at(0), connector_status="Available", evse_id=1, connector_id=1,
            )))
            say("NotifyEvent", await self.call(call.NotifyEvent(generated_at=at(0), seq_no=0, event_data=[{
                "eventId": 1, "timestamp": at(0), "trigger": "Delta", "actualValue": "41.5", "eventNotificationType": "HardWiredNotification",
                "component": {"name": "ChargingStation"}, "variable": {"name": "Temperature"},
            }])))
            await self.charge(1, "first", 1000, 1500)
            say("ready")

    return Station(name, connection)


async def main(version: str, url: str, name: str, password: str) -> None:
    authority = url.split("//", 1)
    options: dict[str, Any] = {}
    if url.startswith("wss:"):
        options["ssl"] = ssl.create_default_context()
        options["ssl"].check_hostname, options["ssl"].verify_mode = False, ssl.CERT_NONE
    async with websockets.connect(f"{authority[0]}//{name}:{password}@{authority[1]}", subprotocols=[f"ocpp{version}"], **options) as connection:  # type: ignore[list-item]
        station = (station_16 if version == "1.6" else station_201)(name, connection)
        listening = asyncio.create_task(station.start())
        await station.live()
        try:
            await listening
        except websockets.ConnectionClosed as closed:
            say("closed", closed.rcvd.code if closed.rcvd else None)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
