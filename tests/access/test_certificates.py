"""Certificates of devices: mosquitto's client and openssl as they come, against a gateway in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as paho
import pytest
import pytest_asyncio
import sqlalchemy as sa
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from tests.access.conftest import Estate, eventually
from tulou.access.authenticate import SqlAuthenticator
from tulou.access.certificates import USED, x509
from tulou.access.certificates.service import FILE
from tulou.access.certificates.tables import device_certificates
from tulou.access.gateway import Gateway
from tulou.access.models import devices
from tulou.access.supervise import gateway_config, tcp_ping
from tulou.kernel.bus import Child, free_port
from tulou.kernel.house import House
from tulou.kernel.settings import Settings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.conformance]
TOPIC = "v1/devices/me/telemetry"


def openssl(*arguments: str, folder: Path) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def text(file: str) -> str:
    return Path(file).read_text()


class Authority:
    """A CA of somebody else, made by openssl."""

    def __init__(self, folder: Path, name: str = "Vendor CA") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key",
                "-out", "ca.pem", "-days", "30", "-subj", f"/CN={name}", folder=folder)
        self.pem = (folder / "ca.pem").read_text()

    def issue(self, subject: str, name: str, extension: str = "", days: str = "10") -> tuple[str, str]:
        """Certificate and key files of a client."""
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject,
                folder=self.folder)
        (self.folder / f"{name}.ext").write_text(f"extendedKeyUsage=clientAuth\n{extension}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", days,
                "-extfile", f"{name}.ext", "-out", f"{name}.pem", folder=self.folder)
        return str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")


class Secure(Estate):
    """An estate whose MQTT door over TLS asks for certificates."""

    folder: Path

    async def publish(
        self, certificate: tuple[str, str] | None, *more: str, value: int = 1, port: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """mosquitto_pub in its own process, at QoS 1."""
        shown = ["--cert", certificate[0], "--key", certificate[1]] if certificate else []
        return await asyncio.to_thread(
            subprocess.run,
            ["mosquitto_pub", "-h", "localhost", "-p", str(port or self.house.settings.mqtts_port), "--cafile",
             self.house.settings.tls_certificate, *shown, "-q", "1", "-t", TOPIC, "-m", json.dumps({"pm25": value}), *more],
            capture_output=True, text=True, timeout=30,
        )

    def write(self, name: str, made: dict[str, Any]) -> tuple[str, str]:
        """An issued certificate and its key as files."""
        (self.folder / f"{name}.pem").write_text(made["certificate"])
        if "private_key" in made:
            (self.folder / f"{name}.key").write_text(made["private_key"])
        return str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")

    async def staying(self, certificate: tuple[str, str]) -> Staying:
        return await Staying.enter(self, certificate)


class Staying:
    """paho with a certificate, MQTT 5, connected until it is told to go."""

    def __init__(self, estate: Secure, certificate: tuple[str, str]) -> None:
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.tls_set(estate.house.settings.tls_certificate, *certificate)
        self.loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[ReasonCode] = self.loop.create_future()
        self.ended: asyncio.Future[ReasonCode] = self.loop.create_future()
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.client.on_connect = lambda _c, _u, _f, code, _p: self.tell(self.connected, code)
        self.client.on_disconnect = lambda _c, _u, _f, code, _p: self.tell(self.ended, code)
        self.client.on_message = lambda _c, _u, message: self.loop.call_soon_threadsafe(self.heard.put_nowait, message.payload)

    def tell(self, future: asyncio.Future[ReasonCode], code: ReasonCode) -> None:
        self.loop.call_soon_threadsafe(lambda: future.done() or future.set_result(code))

    @classmethod
    async def enter(cls, estate: Secure, certificate: tuple[str, str], port: int = 0) -> Staying:
        made = cls(estate, certificate)
        await asyncio.to_thread(made.client.connect, "localhost", port or estate.house.settings.mqtts_port)
        made.client.loop_start()
        code = await asyncio.wait_for(made.connected, 20)
        assert code.value == 0, code
        return made

    async def gone(self) -> int:
        """The reason code; paho knows it only where a reason string follows it."""
        code = await asyncio.wait_for(self.ended, 20)
        self.client.loop_stop()
        return code.value

    async def leave(self) -> None:
        self.client.disconnect()
        await self.gone()


def server_certificate(folder: Path) -> tuple[str, str]:
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "server.key", "-out",
            "server.pem", "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", folder=folder)
    return str(folder / "server.pem"), str(folder / "server.key")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def estate(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secure]:
    folder = tmp_path_factory.mktemp("secure")
    certificate, key = server_certificate(folder)
    house = House(Settings(
        home=folder / "home", http_port=free_port(), mqtt_port=0, mqtts_port=free_port(), tls_certificate=certificate,
        tls_key=key, mqtts_client_certificate="optional",
    ))
    async with Secure.opened(house, "gateway", "api", "writer") as made:
        made.folder = folder
        yield made


async def issued(estate: Secure, lin: httpx.AsyncClient, key: str) -> tuple[dict[str, Any], dict[str, Any], tuple[str, str]]:
    """A device with a certificate of the house: both, and the files."""
    device = await estate.device(lin, "fuzhou", key)
    answer = await lin.post(f"/devices/{device['id']}/certificates", json={})
    assert answer.status_code == 201, answer.text
    return device, answer.json(), estate.write(key, answer.json())


async def test_the_house_issues_a_certificate_and_the_device_speaks_with_it(estate: Secure, lin: httpx.AsyncClient) -> None:
    device, made, files = await issued(estate, lin, "own-1")
    path = estate.house.settings.home / FILE
    assert path.stat().st_mode & 0o777 == 0o600
    (estate.folder / "authority.pem").write_text(made["authority_certificate"])
    openssl("verify", "-CAfile", "authority.pem", "-purpose", "sslclient", "own-1.pem", folder=estate.folder)
    done = await estate.publish(files, value=7)
    assert done.returncode == 0, done.stderr
    await estate.latest(lin, device, "pm25", 7)
    listed = (await lin.get(f"/devices/{device['id']}/certificates")).json()["items"]
    assert [one["status"] for one in listed] == ["active"]
    assert "private_key" not in listed[0]
    done = await estate.publish(files, "-V", "5", value=8)
    assert done.returncode == 0, done.stderr


async def test_a_token_is_accepted_beside_it_and_nothing_is_refused(estate: Secure, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "token-1")
    assert (await estate.publish(None, "-u", device["token"])).returncode == 0
    assert (await estate.publish(None)).returncode != 0


async def test_revocation_closes_what_is_open_and_only_that(estate: Secure, lin: httpx.AsyncClient) -> None:
    device, made, files = await issued(estate, lin, "revoked-1")
    _, _, others = await issued(estate, lin, "revoked-2")
    staying, other = await estate.staying(files), await estate.staying(others)
    answer = await lin.delete(f"/devices/{device['id']}/certificates/{made['no']}")
    assert answer.json()["status"] == "revoked"
    assert await staying.gone() == 0x87
    assert (await estate.publish(files)).returncode != 0
    assert not other.ended.done()
    await other.leave()
    again = await lin.post(f"/devices/{device['id']}/certificates", json={"certificate": made["certificate"]})
    assert again.status_code == 409, "what is revoked stays revoked"


async def test_disabling_the_device_closes_what_is_open(estate: Secure, lin: httpx.AsyncClient) -> None:
    device, _, files = await issued(estate, lin, "disabled-1")
    staying = await estate.staying(files)
    await lin.post(f"/devices/{device['id']}/disable")
    await staying.gone()
    assert (await estate.publish(files)).returncode != 0
    await lin.post(f"/devices/{device['id']}/enable")
    assert (await estate.publish(files)).returncode == 0


async def test_rotation_two_are_valid_and_the_use_of_the_new_one_revokes_the_old(estate: Secure, lin: httpx.AsyncClient) -> None:
    device, _, old = await issued(estate, lin, "rotates-1")
    path = f"/devices/{device['id']}/certificates"
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "next.key", "-out", "next.csr", "-subj", "/CN=whatever",
            folder=estate.folder)
    csr = (estate.folder / "next.csr").read_text()
    staying = await estate.staying(old)
    staying.client.subscribe("v1/devices/me/certificate/response")
    staying.client.publish("v1/devices/me/certificate/request", csr)
    renewed = json.loads(await asyncio.wait_for(staying.heard.get(), 20))
    assert [one["status"] for one in (await lin.get(path)).json()["items"]] == ["active", "active"]
    refused = await lin.post(path, json={})
    assert refused.status_code == 409, "a third one"
    staying.client.publish("v1/devices/me/certificate/request", csr)
    again = json.loads(await asyncio.wait_for(staying.heard.get(), 20))
    assert [one["status"] for one in (await lin.get(path)).json()["items"]] == ["active", "revoked", "active"]
    (estate.folder / "next.pem").write_text(again["certificate"])
    assert (await estate.publish(old)).returncode == 0
    assert (await estate.publish((str(estate.folder / "next.pem"), str(estate.folder / "next.key")), value=9)).returncode == 0
    assert await staying.gone() == 0x87
    assert [one["status"] for one in (await lin.get(path)).json()["items"]] == ["active", "revoked", "revoked"]
    (estate.folder / "next.pem").write_text(renewed["certificate"])
    for lost in (old, (str(estate.folder / "next.pem"), str(estate.folder / "next.key"))):
        assert (await estate.publish(lost)).returncode != 0


async def test_a_device_renews_over_http_with_its_token(estate: Secure, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "http-1")
    openssl("req", "-newkey", "ed25519", "-nodes", "-keyout", "http.key", "-out", "http.csr", "-subj", "/CN=x", folder=estate.folder)
    csr = (estate.folder / "http.csr").read_bytes()
    answer = await estate.client().post(f"/{device['token']}/certificate", content=csr)
    assert answer.status_code == 201, answer.text
    files = estate.write("http", answer.json())
    assert (await estate.publish(files)).returncode == 0
    assert (await estate.client().post(f"/{device['token']}/certificate", content=csr[:200])).status_code == 400
    assert (await estate.client().post("/nobody/certificate", content=csr)).status_code == 401


async def test_a_self_signed_certificate_is_registered_while_the_gateway_runs(
    estate: Secure, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    device = await estate.device(lin, "fuzhou", "self-1")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "self.key", "-out", "self.pem", "-days", "5", "-subj",
            "/CN=anything", folder=estate.folder)
    files = str(estate.folder / "self.pem"), str(estate.folder / "self.key")
    before = await estate.publish(files)
    assert before.returncode != 0
    body = {"certificate": text(files[0])}
    assert (await lin.post(f"/devices/{device['id']}/certificates", json=body)).status_code == 201

    async def speaks() -> bool:
        return (await estate.publish(files, value=21)).returncode == 0

    await eventually(speaks)
    await estate.latest(lin, device, "pm25", 21)
    theirs = await estate.device(chen, "xiamen", "self-2")
    assert (await chen.post(f"/devices/{theirs['id']}/certificates", json=body)).status_code == 409


async def test_an_outside_authority_names_devices_of_its_organisation_once_it_is_proven(
    estate: Secure, lin: httpx.AsyncClient, chen: httpx.AsyncClient
) -> None:
    vendor = Authority(estate.folder / "vendor")
    device = await estate.device(lin, "fuzhou", "vendor-1")
    await estate.device(chen, "xiamen", "vendor-2")
    body = {"org": "fuzhou", "name": "厂商", "certificate": vendor.pem}
    pending = (await lin.post("/device-authorities", json=body)).json()
    assert pending["status"] == "pending"
    first = vendor.issue("/CN=vendor-1/O=Vendor", "first")
    assert (await estate.publish(first)).returncode != 0, "not proven yet"

    async def prove(by: httpx.AsyncClient, no: int, subject: str) -> httpx.Response:
        file, _ = vendor.issue(subject, "proof")
        return await by.post(f"/device-authorities/{no}/prove", json={"certificate": text(file)})

    assert (await prove(lin, pending["no"], "/CN=not-the-code")).status_code == 400
    other = Authority(estate.folder / "other")
    wrong, _ = other.issue(f"/CN={pending['code']}", "proof")
    assert (await lin.post(
        f"/device-authorities/{pending['no']}/prove", json={"certificate": text(wrong)}
    )).status_code == 400
    assert (await prove(chen, pending["no"], f"/CN={pending['code']}")).status_code == 404
    assert (await prove(lin, pending["no"], f"/CN={pending['code']}")).json()["status"] == "active"

    async def speaks() -> bool:
        return (await estate.publish(first, value=33)).returncode == 0

    await eventually(speaks)
    await estate.latest(lin, device, "pm25", 33)
    by_san = vendor.issue("/O=Vendor", "san", "subjectAltName=URI:urn:tulou:device:fuzhou:vendor-1")
    assert (await estate.publish(by_san)).returncode == 0
    for subject in ("/CN=vendor-2", "/CN=xiamen:vendor-2", "/CN=nobody", "/O=only"):
        assert (await estate.publish(vendor.issue(subject, "foreign"))).returncode != 0, subject
    listed = (await lin.get(f"/devices/{device['id']}/certificates")).json()["items"]
    assert {one["authority"] for one in listed} == {pending["no"]}
    seen = (await chen.get("/device-authorities")).json()["items"]
    assert all(one["own"] for one in seen), "an organisation sees its own authorities, and the house's"

    mine = (await chen.post("/device-authorities", json={**body, "org": "xiamen"})).json()
    assert (await prove(chen, mine["no"], f"/CN={mine['code']}")).status_code == 409

    staying = await estate.staying(first)
    expiring = (await lin.get("/device-certificates?days=30")).json()["items"]
    assert device["id"] in {one["device"] for one in expiring}
    assert not (await chen.get("/device-certificates?days=30")).json()["items"]
    await lin.delete(f"/device-authorities/{pending['no']}")
    assert await staying.gone() == 0x87
    assert (await estate.publish(first)).returncode != 0


async def test_a_revoked_certificate_of_an_outside_authority_stays_revoked_when_the_device_is_made_again(
    estate: Secure, lin: httpx.AsyncClient
) -> None:
    vendor = Authority(estate.folder / "lasting", "Lasting CA")
    device = await estate.device(lin, "fuzhou", "lasting-1")
    pending = (await lin.post("/device-authorities", json={"org": "fuzhou", "name": "x", "certificate": vendor.pem})).json()
    proof, _ = vendor.issue(f"/CN={pending['code']}", "proof")
    await lin.post(f"/device-authorities/{pending['no']}/prove", json={"certificate": text(proof)})
    stolen, kept = vendor.issue("/CN=lasting-1", "stolen"), vendor.issue("/CN=lasting-1", "kept")

    async def speaks() -> bool:
        return (await estate.publish(stolen)).returncode == 0

    async def listed() -> list[dict[str, Any]]:
        return (await lin.get(f"/devices/{device['id']}/certificates")).json()["items"]

    await eventually(speaks)
    one = (await eventually(listed))[0]
    await lin.delete(f"/devices/{device['id']}/certificates/{one['no']}")
    assert (await lin.delete(f"/devices/{device['id']}")).status_code == 204
    assert (await estate.publish(kept)).returncode != 0, "there is no device"
    await estate.device(lin, "fuzhou", "lasting-1")
    assert (await estate.publish(kept)).returncode == 0
    assert (await estate.publish(stolen)).returncode != 0


async def test_certificates_end_with_their_device(estate: Secure, lin: httpx.AsyncClient) -> None:
    device, made, files = await issued(estate, lin, "deleted-1")
    known = sa.select(device_certificates.c.authority_no).where(device_certificates.c.fingerprint == made["fingerprint"])
    authority = await estate.house.db.read(lambda c: c.execute(known).scalar_one())
    staying = await estate.staying(files)
    await lin.delete(f"/devices/{device['id']}")
    await staying.gone()
    assert (await estate.publish(files)).returncode != 0
    count = sa.select(sa.func.count()).select_from(device_certificates).where(
        device_certificates.c.fingerprint == made["fingerprint"]
    )
    assert await estate.house.db.read(lambda c: c.execute(count).scalar_one()) == 0
    again = await estate.device(lin, "fuzhou", "deleted-1")
    assert (await estate.publish(files)).returncode != 0, "the house issued it to another device of that name"
    number = sa.select(devices.c.entity_no).where(devices.c.id == again["id"])
    late = {
        "der": x509.from_pem(text(files[0])).der.hex(), "authority": authority,
        "entity": await estate.house.db.read(lambda c: c.execute(number).scalar_one()),
    }
    assert await estate.house.bus.nc.request(USED, json.dumps(late).encode(), timeout=10)
    assert await estate.house.db.read(lambda c: c.execute(count).scalar_one()) == 0, "its first use was told of after its end"
    assert (await estate.publish(files)).returncode != 0


async def test_what_expires_is_closed(estate: Secure, lin: httpx.AsyncClient) -> None:
    _, made, files = await issued(estate, lin, "expires-1")
    house = estate.house
    config = replace(gateway_config(house), name="expiring", port=0, tls_port=-1)
    gateway = Gateway(config, SqlAuthenticator(house.db), house.bus, house.db)
    await gateway.start()
    try:
        staying = await Staying.enter(estate, files, gateway.ports[0])
        assert gateway.certificates is not None
        (connection, by), = gateway.certificates.open.items()
        assert by.until == dt.datetime.fromisoformat(made["not_after"]).timestamp()
        gateway.certificates.open[connection] = replace(by, until=0)
        assert await staying.gone() == 0x87
        past = device_certificates.update().where(device_certificates.c.no == made["no"]).values(
            not_after=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        )
        await house.db.write(lambda c: c.execute(past) and None)
        shown = (await lin.get("/devices/fuzhou:expires-1/certificates")).json()["items"]
        assert [one["status"] for one in shown] == ["expired"]
    finally:
        await gateway.close()


async def test_the_handshake_names_no_authority_and_refuses_what_nobody_vouches_for(estate: Secure, lin: httpx.AsyncClient) -> None:
    await issued(estate, lin, "quiet-1")
    stranger = Authority(estate.folder / "stranger", "Stranger CA")
    files = stranger.issue("/CN=quiet-1", "stranger")
    done = await asyncio.to_thread(
        subprocess.run, ["openssl", "s_client", "-connect", f"localhost:{estate.house.settings.mqtts_port}", "-CAfile",
                         estate.house.settings.tls_certificate, "-cert", files[0], "-key", files[1], "-tls1_3"],
        capture_output=True, text=True, timeout=30, input="",
    )
    told = done.stdout + done.stderr
    assert "No client certificate CA names sent" in told
    assert "Tulou devices" not in told
    refused = await estate.publish(files)
    assert refused.returncode != 0


async def test_weak_keys_expired_ones_and_rubbish_are_refused_by_name(estate: Secure, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "weak-1")
    path = f"/devices/{device['id']}/certificates"
    openssl("req", "-x509", "-newkey", "rsa:1024", "-nodes", "-keyout", "weak.key", "-out", "weak.pem", "-days", "5", "-subj", "/CN=w",
            folder=estate.folder)
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "forged.key", "-out", "forged.csr", "-subj", "/CN=w", folder=estate.folder)
    forged = (estate.folder / "forged.csr").read_text().splitlines()
    forged[-3] = forged[-3][::-1]
    for body, field in (
        ({"certificate": (estate.folder / "weak.pem").read_text()}, "certificate"), ({"certificate": "x"}, "certificate"),
        ({"csr": "\n".join(forged)}, "csr"), ({"csr": "x", "certificate": "x"}, "csr"),
    ):
        answer = await lin.post(path, json=body)
        assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
    leaf = Authority(estate.folder / "leaf").issue("/CN=leaf", "leaf")
    answer = await lin.post("/device-authorities", json={"org": "fuzhou", "name": "x", "certificate": text(leaf[0])})
    assert (answer.status_code, answer.json()["rule"]) == (400, "CA:TRUE")


async def test_where_a_certificate_is_required_nothing_else_lets_in(estate: Secure, lin: httpx.AsyncClient) -> None:
    device, _, files = await issued(estate, lin, "must-1")
    port = free_port()
    config = replace(gateway_config(estate.house), name="strict", tls_port=port, tls_client="required", lwm2m=False)
    child = Child("strict", [sys.executable, "-m", "tulou.access.gateway"], log_file=estate.folder / "strict.log",
                  env={**os.environ, "TULOU_GATEWAY": config.to_json()})
    await child.start()
    try:
        async def listens() -> bool:
            with contextlib.suppress(OSError):
                await tcp_ping("localhost", port)
                return True
            return False

        await eventually(listens)
        assert (await estate.publish(None, "-u", device["token"], port=port)).returncode != 0
        assert (await estate.publish(files, port=port)).returncode == 0
        assert (await estate.publish(files, "-u", "no-token", port=port)).returncode == 0, "the certificate says who it is"
        context = ssl.create_default_context(cafile=estate.house.settings.tls_certificate)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("localhost", port, ssl=context)
    finally:
        await child.stop()
