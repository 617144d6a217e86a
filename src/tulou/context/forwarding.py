"""Requests to registered context sources: what travels with them, and what their answers count as.

Law: nothing of the caller travels on but the `@context`, the `Via` chain and headers that the registration asks for by
name, never his credentials. A source is asked within its time-out, not again within its cool-down after it failed to
answer, and an answer is read up to a bound. What a source does wrong is a warning for a reader and an error for a writer,
never the house's own failure.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.3.6.4 to 4.3.6.6, 5.2.34, 6.3.17 to 6.3.19.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from tulou.context.errors import LoopDetected, SourceFailed, SourceSilent
from tulou.context.jsonld import CORE, CORE_URL, LINK_REL, Context, Contexts
from tulou.context.matching import Registration
from tulou.context.registrations import CREDENTIALS, OWN_PORT, REQUEST
from tulou.kernel.errors import TulouError
from tulou.kernel.outbound import Refused, Response, Unreachable

if TYPE_CHECKING:
    from tulou.kernel.house import House

TIMEOUT_S = 5.0
LIMIT = 16 << 20
AT_ONCE = 64
ROOT = "/ngsi-ld/v1/"
_OF_THE_BINDING = CREDENTIALS - {"authorization"} | {
    "host", "content-length", "content-type", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade",
    "via", "link", "accept", "accept-encoding", "ngsild-tenant",
}
"""Header names that a registration cannot set: they belong to HTTP, the tenant and the chain (4.3.6.5)."""


@dataclass(slots=True)
class Caller:
    """What of an incoming request matters to those that it causes: its headers, `Via` chain and context.

    `link` is the address of the context that the names in it are written in, None for one that has no address to give.
    """

    headers: Mapping[bytes, bytes]
    alias: str
    chain: tuple[str, ...] = ()
    link: str | None = None
    context: Context = CORE
    warnings: list[str] = field(default_factory=list)

    @property
    def looped(self) -> bool:
        """Whether the request has been here before."""
        return self.alias in self.chain


@dataclass(slots=True)
class Outcome:
    """What a source answered: `body` is its JSON, None where there is none; `error` says what was wrong."""

    registration: Registration
    status: int
    body: Any = None
    error: TulouError | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it did what was asked."""
        return self.error is None and 200 <= self.status < 300


def chain_of(header: str | None) -> tuple[str, ...]:
    """The pseudonyms of a `Via` header (RFC 9110, 7.6.3) in order."""
    found = []
    for part in (header or "").split(","):
        words = part.split()
        if len(words) >= 2:
            found.append(words[1])
    return tuple(found)


class Forwarder:
    """Sends requests to sources."""

    def __init__(self, house: House, contexts: Contexts) -> None:
        self.house = house
        self.contexts = contexts
        self._failed: dict[tuple[str, str], float] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)

    def context(self, registration: Registration, caller: Caller) -> tuple[Context, str]:
        """The context that names are sent in, and its address (4.3.6.6, jsonldContext); the core's where the caller's has
        none, so that nobody's default context is in between."""
        if registration.context is not None:
            try:
                return self.contexts.get(registration.context), registration.context
            except TulouError:
                return CORE, CORE_URL
        return (caller.context, caller.link) if caller.link is not None else (CORE, CORE_URL)

    async def send(
        self, registration: Registration, caller: Caller, method: str, path: str,
        parameters: Sequence[tuple[str, str]] = (), body: Any = None,
    ) -> Outcome:
        """One request; never raises. `path` is below `/ngsi-ld/v1/` and quoted; `body` is JSON in `context`'s names."""
        key = (registration.org, registration.endpoint)
        if registration.cooldown and time.monotonic() < self._failed.get(key, 0.0) + registration.cooldown:
            return Outcome(registration, 504, error=_silent(registration, "it is left alone after it did not answer"))
        headers, payload = self._message(registration, caller, body)
        given = [*parameters, *([("local", "true")] if registration.local_only and parameters_lack(parameters, "local") else [])]
        text = "&".join(f"{quote(name, safe='')}={quote(value, safe=':,;()*=~!')}" for name, value in given)
        url = f"{registration.endpoint}{ROOT}{path}" + (f"?{text}" if text else "")
        try:
            async with self._gate:
                answer = await self.house.outbound.request(
                    method, url, content=payload, headers=headers, timeout=registration.timeout or TIMEOUT_S, limit=LIMIT,
                )
        except Unreachable as error:
            if registration.cooldown:
                self._failed[key] = time.monotonic()
            return Outcome(registration, 504, error=_silent(registration, error.en))
        except Refused as error:
            if error.rule == OWN_PORT:
                return Outcome(registration, 508, error=loop(registration.id))
            return Outcome(registration, 502, error=_failed(registration, error.en))
        if registration.cooldown and answer.status >= 500:
            self._failed[key] = time.monotonic()
        else:
            self._failed.pop(key, None)
        return self._read(registration, answer)

    def _message(self, registration: Registration, caller: Caller, body: Any) -> tuple[dict[str, str], bytes | None]:
        _, link = self.context(registration, caller)
        headers: dict[str, str] = {}
        for name, value in registration.headers:
            if name.lower() in _OF_THE_BINDING:
                continue
            if value == REQUEST:
                found = caller.headers.get(name.lower().encode("latin-1"))
                if found is None or name.lower() in CREDENTIALS:
                    continue
                value = found.decode("latin-1")
            headers[name] = value
        headers["Via"] = ", ".join(f"1.1 {name}" for name in (*caller.chain, caller.alias))
        headers["Accept"] = registration.accept or "application/json"
        if registration.tenant is not None:
            headers["NGSILD-Tenant"] = registration.tenant
        payload = None
        inline = registration.content_type == "application/ld+json" and body is not None
        if body is not None:
            if inline:
                body = (
                    [{**item, "@context": link} if isinstance(item, dict) else item for item in body]
                    if isinstance(body, list) else {**body, "@context": link}
                )
            headers["Content-Type"] = "application/ld+json" if inline else "application/json"
            payload = orjson.dumps(body)
        if not inline:
            headers["Link"] = f'<{link}>; rel="{LINK_REL}"; type="application/ld+json"'
        return headers, payload

    def _read(self, registration: Registration, answer: Response) -> Outcome:
        if answer.status == 508:
            return Outcome(registration, 508, error=loop(registration.id), headers=answer.headers)
        if not answer.complete:
            return Outcome(registration, 502, error=_failed(registration, f"its answer exceeds {LIMIT} bytes"))
        body: Any = None
        if answer.body:
            try:
                body = orjson.loads(answer.body)
            except orjson.JSONDecodeError:
                if answer.ok:
                    return Outcome(registration, 502, error=_failed(registration, "its answer is not JSON"))
        return Outcome(registration, answer.status, body, headers=answer.headers)


def parameters_lack(parameters: Sequence[tuple[str, str]], name: str) -> bool:
    """Whether none of the parameters has this name."""
    return all(key != name for key, _ in parameters)


def loop(registration: str) -> LoopDetected:
    """The error for a source that leads back here."""
    return LoopDetected(f"注册 {registration} 指回本系统", f"registration {registration} leads back to this house",
                        field="Via", value=registration, rule="CIM 009, 6.3.17")


def _silent(registration: Registration, why: str) -> SourceSilent:
    return SourceSilent(f"注册 {registration.id} 的来源未应答", f"the source of registration {registration.id} did not answer: {why}",
                        field="endpoint", value=registration.id, rule="CIM 009, 6.3.17")


def _failed(registration: Registration, why: str) -> SourceFailed:
    return SourceFailed(f"注册 {registration.id} 的来源应答无效", f"the source of registration {registration.id} failed: {why}",
                        field="endpoint", value=registration.id, rule="CIM 009, 6.3.17")


def invalid(outcome: Outcome, why: str) -> Outcome:
    """The outcome of an answer that turned out not to be what was asked for."""
    return Outcome(outcome.registration, 502, error=_failed(outcome.registration, why), headers=outcome.headers)


def warning(outcome: Outcome) -> str | None:
    """The `NGSILD-Warning` value that a reader gets for an outcome (table 6.3.17-1), None if nothing was wrong."""
    agent = outcome.registration.alias or outcome.registration.id
    if isinstance(outcome.error, LoopDetected):
        return f'199 {agent} "a registration loop was detected"'
    if isinstance(outcome.error, SourceSilent):
        return f'199 {agent} "no response within the time-out"'
    if outcome.error is not None:
        return f'111 {agent} "the response was invalid and is left out"'
    if outcome.status >= 300 and outcome.status != 404:
        return f'299 {agent} "the source answered with status {outcome.status}"'
    return None
