"""Who a client of the MQTT port over TLS is, by its certificate; in a gateway.

Law: OpenSSL's store only decides who gets through the handshake (it has every authority and every certificate that was
registered itself, and grows without a restart); who it is, whether that is revoked, expired or of an authority that is
trusted no more, is decided here, at CONNECT and for as long as the connection is open. So what stays in the store too long
lets nobody in. The handshake names no authority: nobody learns whose certificates the house knows.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nats.errors
import orjson
import sqlalchemy as sa

from tulou.access.authenticate import DeviceIdentity, Known
from tulou.access.certificates import RENEW, RESPONSE, USED, x509
from tulou.kernel.errors import Invalid

if TYPE_CHECKING:
    from tulou.access.gateway import Connection, Gateway
    from tulou.kernel.sql import Database

log = logging.getLogger("tulou.gateway.certificates")

SLICE = 100
"""Certificates that are put into OpenSSL's store at a time: each is sorted in, which takes longer the more there are."""
EVERY = 30
"""Seconds after which what may have been missed is looked up."""

AUTHORITIES = sa.text("SELECT no, org, own, der FROM device_authorities WHERE status = 'active'")
ANCHORS = sa.text(
    "SELECT no, der FROM device_certificates WHERE no > :after AND authority_no IS NULL ORDER BY no LIMIT :limit"
)
CERTIFICATE = (
    "SELECT c.status, c.authority_no, c.used_at, d.entity_no, d.org, d.type, d.origin, d.id, d.status"
    " FROM device_certificates c LEFT JOIN devices d ON d.entity_no = c.entity_no WHERE c.fingerprint = ?"
)
DEVICE = "SELECT entity_no, org, type, origin, id FROM devices WHERE id = ? AND status = 'active'"


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority that vouches for devices of `org`; the house's `own` for those that it issued to."""

    no: int
    org: str
    own: bool
    der: bytes


@dataclass(frozen=True, slots=True)
class Certified:
    """A device by its certificate: until when (seconds since the epoch), and by which authority."""

    device: DeviceIdentity
    fingerprint: str
    authority: int | None
    until: float
    used: bool


class CertificateDoor:
    """The certificates of one gateway's clients."""

    def __init__(self, gateway: Gateway, db: Database) -> None:
        self.gateway, self.db = gateway, db
        self._certificate, self._device = db.point(CERTIFICATE), db.point(DEVICE)
        self._authorities: dict[bytes, list[Authority]] = {}
        self._numbers: frozenset[int] = frozenset()
        self._cache: Known[Certified] = Known(lambda found: found.device.device_id, 100_000)
        self._told: set[str] = set()
        self._context: ssl.SSLContext | None = None
        self._anchored = 0
        self._stored: set[bytes] = set()
        self._catching = asyncio.Lock()
        self._renewing: set[Connection] = set()
        self.open: dict[Connection, Certified] = {}

    def context(self, context: ssl.SSLContext) -> None:
        """Let this context ask for certificates."""
        context.verify_mode = ssl.CERT_REQUIRED if self.required else ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._context = context

    @property
    def required(self) -> bool:
        return self.gateway.config.tls_client == "required"

    async def start(self) -> None:
        """Read what vouches for devices, and follow its changes."""
        await self.gateway.bus.on_changed("certificates", self._changed)
        await self.gateway.bus.on_changed("authorities", lambda _no: self._read_authorities())
        await self._read_authorities()
        self.gateway.spawn(self._read_anchors())

    async def _read_authorities(self) -> None:
        rows = await self.db.read(lambda c: c.execute(AUTHORITIES).all())
        found: dict[bytes, list[Authority]] = {}
        for row in rows:
            der = bytes(row.der)
            found.setdefault(x509.subject_of(der), []).append(Authority(row.no, row.org, bool(row.own), der))
            self._trust(der)
        self._authorities, self._numbers = found, frozenset(row.no for row in rows)
        self._cache.forget("")
        for connection, by in list(self.open.items()):
            if by.authority is not None and by.authority not in self._numbers:
                connection.refuse_now("its authority is not trusted any more")

    async def _read_anchors(self) -> None:
        """Put what was registered since into OpenSSL's store, a slice at a time."""
        async with self._catching:
            while True:
                some = {"after": self._anchored, "limit": SLICE}
                rows = await self.db.read(lambda c, some=some: c.execute(ANCHORS, some).all())  # type: ignore[misc]
                for row in rows:
                    self._trust(bytes(row.der))
                    self._anchored = row.no
                if len(rows) < SLICE:
                    return
                await asyncio.sleep(0.05)

    def _trust(self, der: bytes) -> None:
        digest = bytes.fromhex(x509.fingerprint(der))
        if self._context is not None and digest not in self._stored:
            self._stored.add(digest)
            self._context.load_verify_locations(cadata=der)

    async def _changed(self, fingerprint: str) -> None:
        """A certificate was registered, issued or revoked."""
        key = bytes.fromhex(fingerprint)
        self._told.discard(fingerprint)
        self._cache.drop(key)
        await self._read_anchors()
        for connection, by in list(self.open.items()):
            if by.fingerprint == fingerprint and await self.identify(connection.certificate() or b"") is None:
                connection.refuse_now("its certificate was revoked")

    def forget(self, device_id: str) -> None:
        """A device changed (empty: many)."""
        self._cache.forget(device_id)

    def missed(self) -> None:
        """Changes may have been told while we were away."""
        self._cache.forget("")
        self.gateway.spawn(self._catch_up())

    async def _catch_up(self) -> None:
        await self._read_authorities()
        await self._read_anchors()
        for connection in list(self.open):
            if await self.identify(connection.certificate() or b"") is None:
                connection.refuse_now("its certificate is not valid any more")

    def sweep(self) -> None:
        """Once a second: close what has expired; look now and then for what nobody told of."""
        now = time.time()
        for connection, by in list(self.open.items()):
            if by.until < now:
                connection.refuse_now("its certificate has expired")
        if self.gateway.tick % EVERY == 0:
            self.gateway.spawn(self._catch_up())

    async def identify(self, der: bytes) -> Certified | None:
        """The device of a certificate whose key the client has; None if there is none, or it is not valid now."""
        digest = x509.fingerprint(der)
        key, now = bytes.fromhex(digest), time.time()
        known = self._cache.get(key)
        if known is None:
            found = await self._cache.steady(lambda: self._look(der, digest))
            known = None if found is None else self._cache.put(key, found)
        if known is None or known.until < now or (known.authority is not None and known.authority not in self._numbers):
            return None
        return known

    async def _look(self, der: bytes, digest: str) -> Certified | None:
        try:
            found = x509.from_der(der)
        except Invalid:
            return None
        if not found.valid(dt.datetime.now(dt.UTC)):
            return None
        until = found.not_after.timestamp()
        row = await self._certificate(digest)
        if row is not None:
            if row[0] != "active" or row[8] != "active":
                return None
            return Certified(DeviceIdentity.of(row[3:8]), digest, row[1], until, row[2] is not None)
        for authority in self._authorities.get(found.issuer, ()):
            if authority.own or len(found.names) != 1 or not x509.issued_by(der, authority.der):
                continue
            name = found.names[0].removeprefix("urn:tulou:device:").removeprefix(f"{authority.org}:")
            device = await self._device(f"{authority.org}:{name}")
            if device is not None:
                ends = x509.from_der(authority.der).not_after.timestamp()
                return Certified(DeviceIdentity.of(device), digest, authority.no, min(until, ends), False)
        return None

    def entered(self, connection: Connection, by: Certified) -> None:
        """The connection is the device's; the house hears of the first use."""
        self.open[connection] = by
        if not by.used and by.fingerprint not in self._told:
            if len(self._told) > 100_000:
                self._told.clear()
            self._told.add(by.fingerprint)
            self.gateway.spawn(self._tell(connection.certificate() or b"", by))

    async def _tell(self, der: bytes, by: Certified) -> None:
        body = {"der": der.hex(), "entity": by.device.entity, "authority": by.authority}
        try:
            await self.gateway.bus.nc.request(USED, orjson.dumps(body), timeout=10)
        except (nats.errors.Error, TimeoutError, OSError):
            self._told.discard(by.fingerprint)  # told when it connects again

    async def renew(self, connection: Connection, device: DeviceIdentity, csr: bytes) -> None:
        """A device asks for its next certificate; the answer comes on `RESPONSE`."""
        answer: dict[str, Any] = {"error": "证书请求正在处理 (one request at a time)"}
        if connection not in self._renewing:
            self._renewing.add(connection)
            body = {"csr": csr.decode("utf-8", "replace"), "device": {
                "entity": device.entity, "org": device.org, "type": device.type, "origin": device.origin,
                "id": device.device_id,
            }}
            try:
                answer = orjson.loads((await self.gateway.bus.nc.request(RENEW, orjson.dumps(body), timeout=10)).data)
            except (nats.errors.Error, TimeoutError, OSError):
                answer = {"error": "暂时不可用 (not available now)"}
            finally:
                self._renewing.discard(connection)
        connection.publish(RESPONSE, orjson.dumps(answer))
