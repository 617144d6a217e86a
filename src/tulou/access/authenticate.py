"""Who a device is: by its access token, or by its identity in a field protocol.

Law: of a token only the SHA-256 is compared. A protocol password, which may be short, is compared with its argon2id hash
in a thread, and afterwards with a digest under a key of this process. Caches are bounded, and dropped when a device
changes; what is looked up while that happens is looked up again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tulou.access.telemetry import Rules
from tulou.kernel.sql import Database

_KEY = secrets.token_bytes(32)
T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """Who a connection is: the entity's number, organisation, type and origin (3 is synthetic), and the device."""

    entity: int
    org: str
    type: str
    origin: int
    device_id: str

    @classmethod
    def of(cls, row: Sequence[Any]) -> DeviceIdentity:
        """Of a row that begins with entity, organisation, type, origin and device."""
        return cls(int(row[0]), str(row[1]), str(row[2]), int(row[3]), str(row[4]))

    @property
    def synthetic(self) -> bool:
        return self.origin == 3


class Authenticator(Protocol):
    """Finds the device of an access token; None if there is none, or it is not active."""

    async def authenticate(self, token: str) -> DeviceIdentity | None: ...

    def known(self, token: str) -> DeviceIdentity | None:
        """The identity if it is in the cache: never asks the store."""
        ...

    def forget(self, device_id: str) -> None:
        """Drop what is cached of the device, or everything if the id is empty."""
        ...


class Known(Generic[V]):
    """What was looked up, by key, of so many at most; `device_of` says which device an entry is about."""

    def __init__(self, device_of: Callable[[V], str], size: int) -> None:
        self._device_of, self._size = device_of, size
        self._entries: OrderedDict[bytes, V] = OrderedDict()
        self._generation = 0
        self.get = self._entries.get

    def put(self, key: bytes, value: V) -> V:
        self._entries[key] = value
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return value

    async def steady(self, look: Callable[[], Awaitable[T]]) -> T:
        """What `look` finds, looked for again if a change came meanwhile."""
        while True:
            generation = self._generation
            found = await look()
            if generation == self._generation:
                return found

    def drop(self, key: bytes) -> None:
        """Drop one entry."""
        self._generation += 1
        self._entries.pop(key, None)

    def forget(self, device_id: str) -> None:
        """Drop what is about the device, or everything if the id is empty."""
        self._generation += 1
        if not device_id:
            self._entries.clear()
            return
        for key in [key for key, value in self._entries.items() if self._device_of(value) == device_id]:
            del self._entries[key]


class SqlAuthenticator:
    """Tokens of the table `devices` (their SHA-256, hexadecimal), with a bounded cache."""

    STATEMENT = "SELECT entity_no, org, type, origin, id FROM devices WHERE token_hash = ? AND status = 'active'"

    def __init__(self, db: Database, *, cached: int = 200_000) -> None:
        self._lookup = db.point(self.STATEMENT)
        self._cache: Known[DeviceIdentity] = Known(lambda identity: identity.device_id, cached)
        self._names: dict[str, str] = {}

    async def authenticate(self, token: str) -> DeviceIdentity | None:
        identity = self.known(token)
        if identity is not None:
            return identity
        digest = hashlib.sha256(token.encode())
        row = await self._cache.steady(lambda: self._lookup(digest.hexdigest()))
        if row is None:
            return None
        names = self._names
        org, kind = names.setdefault(row[1], row[1]), names.setdefault(row[2], row[2])
        return self._cache.put(digest.digest(), DeviceIdentity(int(row[0]), org, kind, int(row[3]), str(row[4])))

    def known(self, token: str) -> DeviceIdentity | None:
        return self._cache.get(hashlib.sha256(token.encode()).digest())

    def forget(self, device_id: str) -> None:
        self._cache.forget(device_id)


class Throttle:
    """Failed attempts by address: after `burst` in a row a new one is allowed every `refill` seconds. Bounded."""

    def __init__(self, burst: int = 20, refill: float = 3.0, size: int = 10_000) -> None:
        self._burst, self._refill, self._size = burst, refill, size
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until the address may try again; 0 if now."""
        entry = self._spent.get(address)
        if entry is None:
            return 0.0
        spent, at = entry
        spent -= (time.monotonic() - at) / self._refill
        return max(0.0, (spent - self._burst + 1) * self._refill)

    def failed(self, address: str) -> None:
        now = time.monotonic()
        spent, at = self._spent.pop(address, (0.0, now))
        self._spent[address] = (max(0.0, spent - (now - at) / self._refill) + 1, now)
        if len(self._spent) > self._size:
            self._spent.popitem(last=False)


class LookUps:
    """Look-ups of devices that are under way, by address: so many of all, and of one. Who is not recognised costs no more."""

    def __init__(self, most: int, of_one: int) -> None:
        self._most, self._of_one = most, of_one
        self._by: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(self._by.values())

    def begin(self, address: str) -> bool:
        """Whether one more may begin, which is then under way until `end`."""
        if self._by.get(address, 0) >= self._of_one or len(self) >= self._most:
            return False
        self._by[address] = self._by.get(address, 0) + 1
        return True

    def end(self, address: str) -> None:
        """One has ended."""
        self._by[address] -= 1
        if not self._by[address]:
            del self._by[address]


class Speaker:
    """The device of an identity, its class and rules, and the hash of its protocol password (empty: none is asked)."""

    __slots__ = ("_digest", "device", "of", "rules", "secret")

    def __init__(self, device: DeviceIdentity, of: tuple[str, str, int], rules: Rules, secret: str) -> None:
        self.device, self.of, self.rules, self.secret = device, of, rules, secret
        self._digest = b""

    def proves(self, credential: bytes) -> bool | None:
        """Whether the credential is right; None if that must be asked with `check`."""
        if not self._digest:
            return None
        return hmac.compare_digest(self._digest, _digest(credential))

    async def check(self, credential: bytes) -> bool:
        """Whether the credential has the hash; remembered if so."""
        right = await asyncio.to_thread(_matches, self.secret, credential)
        if right:
            self._digest = _digest(credential)
        return right


def _digest(credential: bytes) -> bytes:
    return hashlib.blake2b(credential, key=_KEY, digest_size=16).digest()


def _matches(secret: str, credential: bytes) -> bool:
    import argon2

    try:
        return argon2.PasswordHasher().verify(secret, credential)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


class Identities:
    """Devices by their identity in one protocol (table `device_identities`). Identities that are nobody's are remembered
    for `forget_after` seconds."""

    STATEMENT = (
        "SELECT d.entity_no, d.org, d.type, d.origin, d.id, i.password_hash FROM device_identities i"
        " JOIN devices d ON d.entity_no = i.entity_no"
        " WHERE i.protocol = ? AND i.identity = ? AND d.status = 'active'"
    )

    def __init__(
        self, db: Database, protocol: str, class_of: Callable[[DeviceIdentity], tuple[tuple[str, str, int], Rules]], *,
        cached: int = 200_000, forget_after: float = 30.0,
    ) -> None:
        self._lookup = db.point(self.STATEMENT)
        self._protocol, self._class_of = protocol, class_of
        self._forget_after = forget_after
        self._cache: Known[Speaker] = Known(lambda speaker: speaker.device.device_id, cached)
        self._strangers: OrderedDict[bytes, float] = OrderedDict()

    def known(self, identity: bytes) -> Speaker | None:
        """Who it is, if that is in the cache."""
        return self._cache.get(identity)

    def stranger(self, identity: bytes) -> bool:
        """Whether it was looked up in vain a moment ago."""
        until = self._strangers.get(identity)
        return until is not None and until > time.monotonic()

    async def find(self, identity: bytes) -> Speaker | None:
        """Who it is, by the store if need be."""
        known = self._cache.get(identity)
        if known is not None:
            return known
        text = identity.decode("ascii", "replace")
        row = None
        if text.isprintable() and text.isascii():
            row = await self._cache.steady(lambda: self._lookup(self._protocol, text))
        if row is None:
            self._strangers[identity] = time.monotonic() + self._forget_after
            if len(self._strangers) > 10_000:
                self._strangers.popitem(last=False)
            return None
        device = DeviceIdentity.of(row)
        return self._cache.put(identity, Speaker(device, *self._class_of(device), str(row[5])))

    def forget(self, device_id: str) -> None:
        """Drop what is cached of the device, or everything if the id is empty; and who was unknown."""
        self._strangers.clear()
        self._cache.forget(device_id)
