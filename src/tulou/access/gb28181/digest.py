"""Digest authentication (RFC 2617, RFC 7616) with MD5 and SHA-256, for REGISTER.

Law: pure; time is a parameter. A challenge costs no memory: its nonce says when it was made, and for which
address, under a key of this process; so who answers it receives what is sent there. A nonce
that proved something is remembered until it is too old: without a count it is used up, with one (`qop=auth`) the count has to
grow; so nothing that was overheard can be said again. Passwords are not kept, but what both sides compute from them (HA1), which
is worth as much as the password within its realm.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping

from tulou.access.coap import Unreadable

MD5, SHA256 = "MD5", "SHA-256"
HASHES = {MD5: hashlib.md5, SHA256: hashlib.sha256}
LIFETIME = 300
"""Seconds for which a nonce is good."""
REMEMBERED = 200_000
_PAIR = re.compile(r'([A-Za-z\-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]*)\s*(?:,\s*|$)')

FRESH, STALE, FOREIGN = "fresh", "stale", "foreign"
"""A nonce: good; ours, but too old or used up; not ours."""


def hashed(algorithm: str, *parts: str) -> str:
    """The hash of the parts with colons between, in hexadecimal."""
    return HASHES[algorithm](":".join(parts).encode()).hexdigest()


def secret(username: str, realm: str, password: str) -> str:
    """What is kept of a password: HA1 for both algorithms, with its realm."""
    return "$".join(["ha1", realm, *(hashed(name, username, realm, password) for name in HASHES)])


def realm_of(kept: str) -> str:
    """The realm for which a password was kept; empty if it was not kept so."""
    kind, _, rest = kept.partition("$")
    return rest.partition("$")[0] if kind == "ha1" else ""


def response(algorithm: str, ha1: str, method: str, credentials: Mapping[str, str]) -> str:
    """The response that proves the password (RFC 7616, 3.4.1; RFC 2069 without qop)."""
    ha2 = hashed(algorithm, method, credentials.get("uri", ""))
    middle = [credentials["nonce"]]
    if "qop" in credentials:
        middle += [credentials.get("nc", ""), credentials.get("cnonce", ""), credentials["qop"]]
    return hashed(algorithm, ha1, *middle, ha2)


def parse(text: str) -> dict[str, str]:
    """The parameters of an Authorization header. Raises `Unreadable`."""
    scheme, _, rest = text.partition(" ")
    rest = rest.strip()
    found: dict[str, str] = {}
    at = 0
    for one in _PAIR.finditer(rest):
        if one.start() != at:
            break
        at = one.end()
        found[one[1].lower()] = one[2].strip('"')
    missing = next((name for name in ("username", "nonce", "uri", "response") if not found.get(name)), "")
    if scheme.lower() != "digest" or at != len(rest) or missing:
        raise Unreadable("digest", "不是完整的 Digest 凭证", "not complete credentials of Digest (RFC 7616, 3.4)", missing or "Authorization")
    return found


def proves(kept: str, method: str, credentials: Mapping[str, str]) -> bool:
    """Whether the credentials are of the kept password."""
    algorithm = credentials.get("algorithm", MD5).upper()
    parts = kept.split("$")
    if algorithm not in HASHES or len(parts) != 4 or parts[0] != "ha1" or credentials.get("qop", "auth") != "auth":
        return False
    right = response(algorithm, parts[2 if algorithm == MD5 else 3], method, credentials)
    return hmac.compare_digest(right.encode(), credentials["response"].lower().encode())


class Nonces:
    """Makes nonces, and knows which were used."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._used: OrderedDict[str, int] = OrderedDict()
        self._floor = 0

    def make(self, now: int, host: str) -> str:
        """A nonce for an address, at `now` in seconds."""
        said = f"{now:08x}{secrets.token_hex(6)}"
        return said + self._seal(said, host)

    def _seal(self, said: str, host: str) -> str:
        return hmac.digest(self._key, f"{said} {host}".encode(), "sha256")[:10].hex()

    def judge(self, nonce: str, now: int, host: str) -> str:
        """What a nonce from an address is: `FRESH` also if it was used."""
        said, seal = nonce[:20], nonce[20:]
        if not hmac.compare_digest(self._seal(said, host).encode(), seal.encode("utf-8", "replace")):
            return FOREIGN
        made = int(said[:8], 16)
        return FRESH if made >= self._floor and now - made <= LIFETIME else STALE

    def use(self, nonce: str, count: str | None) -> bool:
        """Use a nonce that is fresh and whose credentials are right; False if it was used so before."""
        number = 0
        if count is not None:
            if not re.fullmatch(r"[0-9a-fA-F]{1,8}", count):
                return False
            number = int(count, 16)
        before = self._used.get(nonce)
        if before is not None and number <= before:
            return False
        self._used[nonce] = number
        if len(self._used) > REMEMBERED:  # what is forgotten must not be good again
            oldest, _ = self._used.popitem(last=False)
            self._floor = max(self._floor, int(oldest[:8], 16) + 1)
        return True

    def sweep(self, now: int) -> None:
        """Forget nonces that are too old."""
        while self._used:
            oldest = next(iter(self._used))
            if now - int(oldest[:8], 16) <= LIFETIME + 1:
                break
            del self._used[oldest]


def challenge(realm: str, nonce: str, algorithm: str, stale: bool) -> str:
    """A WWW-Authenticate header."""
    return f'Digest realm="{realm}", nonce="{nonce}", algorithm={algorithm}, qop="auth"' + (", stale=true" if stale else "")
