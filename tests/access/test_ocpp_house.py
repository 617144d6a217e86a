"""OCPP in a whole house, with a charging station that was not written here (`tests/conformance/ocpp_station.py`), both versions."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from tests.access.conftest import Estate, eventually
from tests.access.test_devices_commands import Tulou, tulou  # noqa: F401 - a fixture
from tulou.access.live import Hub

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
CARD = "04AB12CD34EF80"
PASSWORD = "a-password-of-16-signs"


class Station:
    """The process, and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[tuple[str, Any]] = []

    async def until(self, what: str) -> Any:
        """What it says next under this name."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            while line := await self.process.stdout.readline():
                name, told = json.loads(line)
                self.said.append((name, told))
                if name == what:
                    return told
        raise AssertionError(f"the station ended without {what}: {self.said}")

    def told(self, what: str) -> list[Any]:
        return [told for name, told in self.said if name == what]


@asynccontextmanager
async def station(url: str, version: str, identity: str, password: str = PASSWORD) -> AsyncIterator[Station]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.conformance.ocpp_station", version, f"{url}/{identity}", identity, password, CARD,
        stdout=asyncio.subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
    )
    try:
        yield Station(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def url_of(estate: Estate) -> str:
    return f"ws://127.0.0.1:{estate.house.settings.ocpp_port}/ocpp"


async def register(estate: Estate, client: httpx.AsyncClient, identity: str, **more: Any) -> dict[str, Any]:
    return await estate.device(client, "fuzhou", identity, type="EVChargingStation", protocol="ocpp", identity=identity,
                               **{"password": PASSWORD, **more})


async def command(client: httpx.AsyncClient, device: dict[str, Any], method: str, **params: Any) -> dict[str, Any]:
    answer = await client.post(f"/devices/{device['id']}/commands", params={"wait": 20}, json={"method": method, "params": params})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture(scope="module")
async def card(lin: httpx.AsyncClient) -> dict[str, Any]:
    answer = await lin.put("/id-tags", json={"org": "fuzhou", "tag": CARD, "label": "林"})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.conformance
async def test_a_station_of_1_6(estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, card: dict[str, Any]) -> None:
    device = await register(estate, lin, "CP-16")
    async with station(url_of(estate), "1.6", "CP-16") as cp:
        await cp.until("ready")
        (boot,) = cp.told("BootNotification")
        assert (boot["status"], boot["interval"]) == ("Accepted", 300)
        assert cp.told("Authorize") == [{"id_tag_info": {"status": "Accepted"}}]
        assert cp.told("Stranger") == [{"id_tag_info": {"status": "Invalid"}}]
        assert cp.told("DataTransfer") == [{"status": "UnknownVendorId", "data": None}]
        (began,) = cp.told("StartTransaction")
        assert began["id_tag_info"]["status"] == "Accepted"
        assert began["transaction_id"] > 0
        await estate.latest(lin, device, "connector1-transactionEnergy", 500)

        done = await command(lin, device, "RemoteStartTransaction", connectorId=1, idTag=CARD)
        assert (done["state"], done["result"]) == ("done", {"status": "Accepted"})
        await cp.until("StopTransaction")
        second = cp.told("StartTransaction")[1]["transaction_id"]
        assert second != began["transaction_id"]
        assert cp.told("RemoteStartTransaction") == [{"connector_id": 1, "id_tag": CARD}]
        thing = await estate.latest(lin, device, "connector1-transactionEnergy", 600)
        values = {name: one["value"] for name, one in thing["latest"].items()}
        assert values | {
            "ocppVersion": "1.6", "vendorName": "Vendor", "firmwareVersion": "1.0", "connector1-status": "Available", "securityEvent": "StartupOfTheDevice",
            "connector1-powerActiveImport": 7200, "connector1-voltage-L1-N": 229.5, "connector1-temperature-Cable": 20,
            "connector1-energyActiveImportRegister": 2600, "connector1-transactionId": str(second), "connector1-transactionEvent": "Ended",
            "connector1-stoppedReason": "Remote",
        } == values
        assert thing["latest"]["connector1-transactionEnergy"]["ts"].startswith("2026-04-01T01:30:00")
        assert thing["state"] == "ok"

        assert (await command(lin, device, "RemoteStopTransaction", transactionId=second))["state"] == "done"
        assert (await command(lin, device, "GetConfiguration"))["result"]["configurationKey"][0]["value"] == "300"
        assert (await command(lin, device, "TriggerMessage", requestedMessage="Heartbeat"))["state"] == "done"
        profile = {"chargingProfileId": 1, "stackLevel": 0, "chargingProfilePurpose": "TxDefaultProfile", "chargingProfileKind": "Absolute",
                   "chargingSchedule": {"chargingRateUnit": "A", "chargingSchedulePeriod": [{"startPeriod": 0, "limit": 21.4}]}}
        assert (await command(lin, device, "SetChargingProfile", connectorId=1, csChargingProfiles=profile))["state"] == "done"
        no = await command(lin, device, "ChangeAvailability", connectorId=0, type="Inoperative")
        assert (no["state"], no["result"]) == ("failed", {"status": "Rejected"})
        assert "Rejected" in no["error"]
        unknown = await command(lin, device, "ClearChargingProfile")  # the library's station has no handler for it
        assert (unknown["state"], unknown["error"].split()[0]) == ("failed", "NotImplemented")
        later = await command(lin, device, "RequestStopTransaction", transactionId="x")
        assert (later["state"], "1.6" in later["error"]) == ("failed", True)
        reset = await command(lin, device, "Reset", type="Soft")
        assert reset["state"] == "done"
        await cp.until("Reset")

        frames = (await lin.get(f"/things/{device['no']}/frames", params={"limit": 50})).json()["items"]
        texts = [frame["raw"] for frame in frames if "StartTransaction" in frame["raw"]]
        assert len(texts) == 2
        assert all(text.startswith("ocpp1.6 CP-16 transaction=") and CARD not in text and CARD[-4:] in text for text in texts)
        assert (await chen.get(f"/devices/{device['id']}/commands")).status_code == 404

        assert (await lin.post(f"/devices/{device['id']}/disable")).status_code == 200
        assert await cp.until("closed") == 1008
    async with station(url_of(estate), "1.6", "CP-16") as cp:
        await cp.process.wait()
        assert cp.process.returncode != 0  # 401


@pytest.mark.conformance
async def test_a_station_of_2_0_1(estate: Estate, lin: httpx.AsyncClient, card: dict[str, Any]) -> None:
    device = await register(estate, lin, "CS-201", password=None)
    async with station(url_of(estate), "2.0.1", "CS-201", device["token"]) as cp:
        await cp.until("ready")
        assert cp.told("Authorize")[0]["id_token_info"]["status"] == "Accepted"
        assert cp.told("Stranger")[0]["id_token_info"]["status"] == "Invalid"
        assert cp.told("TransactionEvent Started")[0]["id_token_info"]["status"] == "Accepted"
        assert cp.told("TransactionEvent Updated")[0]["id_token_info"] is None
        await estate.latest(lin, device, "evse1-energyActiveImportRegister", 1500)
        token = {"idToken": CARD, "type": "ISO14443"}
        done = await command(lin, device, "RequestStartTransaction", evseId=1, remoteStartId=7, idToken=token)
        assert (done["state"], done["result"]) == ("done", {"status": "Accepted", "transactionId": "second"})
        await cp.until("TransactionEvent Ended")
        thing = await estate.latest(lin, device, "evse1-energyActiveImportRegister", 2600)
        values = {name: one["value"] for name, one in thing["latest"].items()}
        assert values | {
            "ocppVersion": "2.0.1", "firmwareVersion": "2.0", "bootReason": "PowerUp", "evse1-connector1-status": "Available",
            "evse1-transactionId": "second", "evse1-transactionEvent": "Ended", "evse1-stoppedReason": "Remote", "evse1-powerActiveImport": 7200,
            "evse1-voltage-L1-N": 229.5, "ChargingStation-Temperature": 41.5,
        } == values
        assert (await command(lin, device, "RequestStopTransaction", transactionId="second"))["state"] == "done"
        asked = {"component": {"name": "OCPPCommCtrlr"}, "variable": {"name": "HeartbeatInterval"}}
        got = await command(lin, device, "GetVariables", getVariableData=[asked])
        assert got["result"]["getVariableResult"][0]["attributeValue"] == "300"
        assert (await command(lin, device, "GetBaseReport", requestId=1, reportBase="FullInventory"))["state"] == "done"
        await estate.latest(lin, device, "OCPPCommCtrlr-HeartbeatInterval", 300)
        assert (await command(lin, device, "Reset", type="OnIdle"))["result"] == {"status": "Scheduled"}
        assert (await command(lin, device, "Reset", type="Hard"))["state"] == "failed"  # that is a reset of 1.6
        (figures,) = estate.house.service(Hub).told("gateway")
        assert figures["fields"]["ocpp"]["devices"] >= 1


@pytest.mark.parametrize(("method", "params", "names"), [
    ("Reset", {"type": "Fast"}, "type"), ("Reset", {}, "required"), ("RemoteStartTransaction", {"idTag": "x" * 21}, "idTag"),
    ("Explode", {}, "Explode"), ("ChangeConfiguration", {"key": "AuthorizationKey", "value": "x"}, "password"),
    ("SetVariables", {"setVariableData": [{"attributeValue": "x", "component": {"name": "SecurityCtrlr"},
                                           "variable": {"name": "BasicAuthPassword"}}]}, "password"),
])
async def test_a_wrong_command_is_named(
    estate: Estate, lin: httpx.AsyncClient, method: str, params: dict[str, Any], names: str
) -> None:
    answer = await lin.post("/devices", json={
        "org": "fuzhou", "type": "EVChargingStation", "name": "x", "id": "CP-wrong", "protocol": "ocpp", "identity": "CP-wrong",
    })
    answer = await lin.post(f"/devices/{answer.json()['id']}/commands", json={"method": method, "params": params})
    assert answer.status_code == 400, answer.text
    assert names in answer.text


async def test_what_a_station_can_be_told(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await register(estate, lin, "CP-methods")
    methods = (await lin.get(f"/devices/{device['id']}/methods")).json()["ocpp"]
    assert methods["Reset"]["schema"]["properties"]["type"]["enum"] == ["Hard", "Soft", "Immediate", "OnIdle"]
    assert methods["RemoteStartTransaction"]["schema"]["required"] == ["idTag"]
    assert methods["SetVariables"]["label"]["zh"]


async def test_a_command_that_expires_is_not_said(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await register(estate, lin, "CP-expiry")
    answer = await lin.post(f"/devices/{device['id']}/commands", params={"wait": 20}, json={
        "method": "Reset", "params": {"type": "Soft"}, "expires_s": 1,
    })
    assert answer.json()["state"] == "expired"
    async with station(url_of(estate), "1.6", "CP-expiry") as cp:
        await cp.until("ready")
        assert (await command(lin, device, "TriggerMessage", requestedMessage="Heartbeat"))["state"] == "done"
        await cp.until("TriggerMessage")
        assert cp.told("Reset") == []


async def test_cards_are_kept_apart(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient, card: dict[str, Any]
) -> None:
    assert card["tag"] == CARD.lower()
    assert [(await chen.put("/id-tags", json={"org": "fuzhou", "tag": "x"})).status_code, (await yang.get("/id-tags")).status_code] == [403, 403]
    assert CARD.lower() not in (await chen.get("/id-tags")).text
    assert (await chen.delete(f"/id-tags/{card['no']}")).status_code == 404
    assert (await chen.get("/id-tags", params={"org": "fuzhou"})).json()["items"] == []
    wrong = await lin.put("/id-tags", json={"org": "fuzhou", "tag": "卡"})
    assert (wrong.status_code, wrong.json()["field"]) == (400, "tag")
    blocked = (await lin.put("/id-tags", json={"org": "fuzhou", "tag": "BAD", "status": "blocked"})).json()
    assert (await lin.delete(f"/id-tags/{blocked['no']}")).status_code == 204
    assert (await lin.delete(f"/id-tags/{blocked['no']}")).status_code == 404


async def test_how_a_card_is_judged(estate: Estate, lin: httpx.AsyncClient) -> None:
    from tulou.access.ocpp.service import Charging

    charging = estate.house.service(Charging)
    admin = estate.client(authorization=f"Bearer {estate.house.local_token}")
    cards = {"OLD": {"expires_at": "2026-01-01T00:00:00Z"}, "Good": {"expires_at": "2099-01-01T00:00:00Z"}, "bad": {"status": "blocked"}}
    for tag, more in cards.items():
        assert (await lin.put("/id-tags", json={"org": "fuzhou", "tag": tag, **more})).status_code == 200
    for org, status in (("house", "accepted"), ("xiamen", "blocked")):
        assert (await admin.put("/id-tags", json={"org": org, "tag": "province", "status": status})).status_code == 200
    judged = [await charging.status("fuzhou", tag) for tag in ("old", "gOOD", "BAD", "nobodys", "province")]
    assert judged == ["Expired", "Accepted", "Blocked", "Invalid", "Accepted"]
    assert [await charging.status("xiamen", tag) for tag in ("good", "province")] == ["Invalid", "Blocked"]


async def test_a_transaction_sent_again_has_its_number(estate: Estate) -> None:
    from tulou.access.ocpp.service import Charging

    charging = estate.house.service(Charging)
    one = await charging.begin(77, [1, "A", "2026-04-01T00:00:00Z", 5], 1, 5)
    same = await charging.begin(77, [1, "A", "2026-04-01T00:00:00Z", 5], 1, 5)
    others = [await charging.begin(78, [1, "A", "2026-04-01T00:00:00Z", 5], 1, 5), await charging.begin(77, [2, "A", "2026-04-01T00:00:00Z", 5], 2, 5)]
    assert one.no == same.no
    assert len({one.no, *(row.no for row in others)}) == 3


async def test_from_the_command_line(estate: Estate, tulou: Tulou) -> None:  # noqa: F811
    made = await tulou("card", "put", "CLI-1", "--org", "fuzhou", "--label", "测试", "--expires", "2099-01-01")
    assert (made["tag"], made["status"]) == ("cli-1", "accepted")
    items = (await tulou("card", "list"))["items"]
    assert made["no"] in [item["no"] for item in items]
    await tulou("card", "delete", str(made["no"]))


async def test_frames_are_read_again(estate: Estate, lin: httpx.AsyncClient, card: dict[str, Any]) -> None:
    device = await register(estate, lin, "CP-again")
    async with station(url_of(estate), "1.6", "CP-again") as cp:
        await cp.until("ready")
    await estate.latest(lin, device, "connector1-transactionEnergy", 500)
    admin = estate.client(authorization=f"Bearer {estate.house.local_token}")
    run = (await admin.post("/redecodes", json={"protocol": "ocpp", "device": device["id"], "from": "2026-01-01T00:00:00Z", "dry_run": True})).json()

    async def done() -> Any:
        found = (await admin.get(f"/redecodes/{run['id']}")).json()
        return found if found["state"] not in ("queued", "running") else None

    counts = (await eventually(done))["counts"]
    assert counts["frames"] >= 7
    assert {counts[name] for name in ("changed", "added", "removed", "conflicts", "unread")} == {0}


async def test_what_a_transaction_is_survives_its_connection(estate: Estate, lin: httpx.AsyncClient, card: dict[str, Any]) -> None:
    device = await register(estate, lin, "CP-back")

    async def exchange(version: str, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
        """The answers to calls that are sent without waiting, on a connection of their own."""
        async with websockets.connect(
            f"{url_of(estate)}/CP-back".replace("//", f"//CP-back:{PASSWORD}@"), subprotocols=[websockets.Subprotocol(f"ocpp{version}")],
        ) as connection:
            for number, (action, payload) in enumerate(calls):
                await connection.send(json.dumps([2, str(number), action, payload]))
            async with asyncio.timeout(20):
                answers = [json.loads(await connection.recv()) for _ in calls]
        return [payload for _, _, payload in sorted(answers, key=lambda answer: int(answer[1]))]

    start = ("StartTransaction", {"connectorId": 2, "idTag": CARD, "meterStart": 10, "timestamp": "2026-05-01T00:00:00Z"})
    (first,) = await exchange("1.6", start)
    beat, again, other = await exchange("1.6", ("Heartbeat", {}), start, ("StartTransaction", {**start[1], "connectorId": 1}))
    assert (again, set(beat)) == (first, {"currentTime"})
    assert other["transactionId"] != first["transactionId"]
    stop = ("StopTransaction", {"transactionId": first["transactionId"], "meterStop": 25, "timestamp": "2026-05-01T01:00:00Z"})
    assert await exchange("1.6", ("Authorize", {"idTag": "stolen"}), stop) == [{"idTagInfo": {"status": "Invalid"}}, {}]
    await estate.latest(lin, device, "connector2-transactionEnergy", 15)

    event = {"triggerReason": "Authorized", "transactionInfo": {"transactionId": "long"}}
    await exchange("2.0.1", ("TransactionEvent", {**event, "eventType": "Started", "seqNo": 0, "timestamp": "2026-05-02T00:00:00Z", "evse": {"id": 3}}))
    await exchange("2.0.1", ("TransactionEvent", {**event, "eventType": "Ended", "seqNo": 1, "timestamp": "2026-05-02T01:00:00Z"}))
    await estate.latest(lin, device, "evse3-transactionEvent", "Ended")
