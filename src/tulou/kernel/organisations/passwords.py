"""Passwords: argon2id (RFC 9106), checked in threads, two at a time.

Law: a password is never logged, never stored, and never compared but through argon2; a check for a person who does
not exist costs the same as for one who does.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2

from tulou.kernel.errors import Invalid

MIN_LENGTH = 8
COMMON = frozenset(
    ["12345678", "123456789", "1234567890", "password", "password1", "passw0rd", "admin123", "admin1234", "administrator", "qwertyui", "qwerty123", "11111111", "88888888", "00000000", "66666666", "abcd1234", "a1234567", "iloveyou", "letmein1", "changeme", "welcome1", "tulou123", "fujian123"]
)
READABLE = "abcdefghjkmnpqrstuvwxyz23456789"

_hasher = argon2.PasswordHasher()
_threads = ThreadPoolExecutor(2, thread_name_prefix="argon2")


@functools.cache
def _nobody() -> str:
    return _hasher.hash(secrets.token_urlsafe())


T = TypeVar("T")


async def _run(fn: Callable[..., T], *args: str) -> T:
    return await asyncio.get_running_loop().run_in_executor(_threads, fn, *args)


def check_rules(name: str, password: str) -> None:
    """Raise `Invalid` if `password` is too short, common, or the name itself (NIST SP 800-63B, 5.1.1.2)."""
    if len(password) < MIN_LENGTH:
        raise Invalid(
            f"口令至少 {MIN_LENGTH} 个字符", f"a password has at least {MIN_LENGTH} characters",
            field="password", rule=f"length >= {MIN_LENGTH}",
        )
    if password.casefold() in COMMON or password.casefold() == name.casefold():
        raise Invalid(
            "口令过于常见或与用户名相同", "the password is a common one, or the name itself",
            field="password", rule="not common, not the name",
        )


def random_password() -> str:
    """Twenty readable characters in groups of five: 97 random bits."""
    return "-".join("".join(secrets.choice(READABLE) for _ in range(5)) for _ in range(4))


async def hashed(password: str) -> str:
    """The argon2id hash, with its parameters and salt."""
    return await _run(_hasher.hash, password)


async def matches(stored: str | None, password: str) -> bool:
    """Whether `password` has the hash `stored`; None takes as long and is always no."""
    try:
        await _run(lambda: str(_hasher.verify(stored or _nobody(), password)))
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False
    return stored is not None


def outdated(stored: str) -> bool:
    """Whether the hash was made with weaker parameters than today's."""
    return _hasher.check_needs_rehash(stored)
