"""Devices over HTTP: `POST /api/v1/{token}/telemetry` and `/attributes`, commands by `GET` and `POST /rpc`, desired
attributes by `GET /attributes`, firmware by `GET /firmware`: the convention that integrators know.

Law: 2xx is sent after the batch that carries the message is synced in JetStream, like an MQTT acknowledgement. What was
refused is answered with 400 naming the field, and kept as a dead letter; what could be read beside it is stored. A
command is delivered with the response that carries it, and not repeated.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tulou.access.attributes import names
from tulou.access.authenticate import DeviceIdentity, SqlAuthenticator, Throttle
from tulou.access.batch import BatchBuilder
from tulou.access.certificates.service import Certificates
from tulou.access.claims import Claims
from tulou.access.downlink import Commands, no_such_command
from tulou.access.ingest import Ingestor, settle
from tulou.access.ota.firmware import Firmwares
from tulou.access.quotas.service import Quotas
from tulou.access.shadow import Shadows
from tulou.access.telemetry import ATTRIBUTES, TELEMETRY, Chunk, Refusal, RuleBook, decode
from tulou.kernel.errors import Invalid, NotFound, Throttled, TulouError, Unauthenticated, Unavailable
from tulou.kernel.http import API, body_bytes, defect_response, json_response, path_number, problem_response

if TYPE_CHECKING:
    from tulou.kernel.house import House


log = logging.getLogger("tulou.access.http")

LONGEST_POLL = 300.0
"""Seconds that a request for a command may wait."""
NOT_STORED = {"cache-control": "no-store"}
RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII | re.IGNORECASE)


class HttpDoor:
    """The door for devices that speak HTTP."""

    def __init__(
        self, house: House, commands: Commands, shadows: Shadows, firmwares: Firmwares, certificates: Certificates,
        quotas: Quotas, claims: Claims,
    ) -> None:
        self.house, self.commands, self.shadows, self.firmwares = house, commands, shadows, firmwares
        self.certificates, self.quotas, self.claims = certificates, quotas, claims
        self.authenticator = SqlAuthenticator(house.db)
        self.throttle = Throttle()
        self.rules = RuleBook.of_packs(house.packs)
        self.ingestor: Ingestor | None = None

    async def open(self) -> None:
        """Begin to take messages; needs the bus."""
        bus = self.house.bus
        self.ingestor = Ingestor(
            bus.nc, bus.js, name="http", protocol="http", released=settle, pressure=lambda _on: None
        )
        await bus.on_changed("devices", self.authenticator.forget)

    async def identify(self, request: Request) -> DeviceIdentity:
        """The device of the token in the path. Raises `Unauthenticated`, or `Throttled` for an address that guesses."""
        token = request.path_params["token"]
        known = self.authenticator.known(token)
        if known is not None:
            return known
        address = request.client.host if request.client else ""
        wait = self.throttle.wait(address)
        if wait > 0:
            raise Throttled("无效令牌尝试过多", "too many unknown tokens from this address", retry_after=wait)
        found = await self.authenticator.authenticate(token)
        if found is None:
            self.throttle.failed(address)
            raise Unauthenticated("设备令牌无效", "unknown access token", field="token", rule="token of an active device")
        return found

    async def take(self, request: Request, kind: str) -> Response:
        """One message: 200 once it is durable."""
        if self.ingestor is None:
            raise Unavailable("入口尚未打开", "the door is not open", rule="bus")
        device = await self.identify(request)
        self.quotas.spend(device.org)
        payload = await body_bytes(request, self.house.settings.max_payload)
        rules = self.rules.get(device.type)
        chunk = Chunk(
            kind, device.entity, (device.org, device.type, device.origin), rules, [payload], self.ingestor.stamp(1)
        )
        decoded = decode([chunk], BatchBuilder("http"), time.time_ns() // 1_000_000)
        await self.ingestor.submit(chunk)
        if decoded.dead:
            raise refused(decoded.dead[0].refusal, decoded.readings)
        return json_response({})

    async def next_command(self, request: Request) -> Response:
        """The device's next command: `{id, method, params}`, or 408 when there was none within `timeout` ms."""
        device = await self.identify(request)
        row = await self.commands.poll(device, timeout_of(request))
        if row is None:
            return Response(status_code=408, headers=NOT_STORED)
        return json_response({"id": str(row.no), "method": row.method, "params": orjson.Fragment(row.params)})

    async def answer(self, request: Request) -> Response:
        """The device's answer to a command: 200 once it is durable."""
        device = await self.identify(request)
        await self.commands.answered(
            device, path_number(request, "no", no_such_command), await body_bytes(request, self.house.settings.max_payload)
        )
        return json_response({})

    async def attributes(self, request: Request) -> Response:
        """What the device says it is (`client`) and is to be (`shared`), of `clientKeys` and `sharedKeys`."""
        device, query = await self.identify(request), request.query_params
        return json_response(await self.shadows.attributes(
            device.entity, names(query.get("clientKeys")), names(query.get("sharedKeys"))
        ))

    async def next_attributes(self, request: Request) -> Response:
        """The next change of what the device is to be, or 408 when there was none within `timeout` ms."""
        device = await self.identify(request)
        change = await self.shadows.poll(device, timeout_of(request))
        return json_response(change) if change is not None else Response(status_code=408, headers=NOT_STORED)

    async def firmware(self, request: Request) -> Response:
        """The firmware that is assigned to the device: whole, the `chunk` of this number in chunks of `size` bytes, or
        the part that the header Range asks for. `title` and `version` are those of its attributes."""
        device, query = await self.identify(request), request.query_params
        row = await self.firmwares.assigned(device.entity)
        for name, value in (("title", row.title), ("version", row.version)):
            if query.get(name, value) != value:
                raise NotFound(f"分配给此设备的固件不是 {query[name]}", f"the firmware {query[name]} is not assigned to the device",
                               field=name, value=query[name])
        size, number = (_count(query.get(name), name) for name in ("size", "chunk"))
        if size:
            return Response(await self.firmwares.chunk(row, size, number), headers=NOT_STORED,
                            media_type="application/octet-stream")
        start, end, status = 0, row.size, 200
        headers = {"accept-ranges": "bytes", "etag": f'"{row.sha256}"', "cache-control": "private, no-cache"}
        asked = _range(request.headers.get("range", ""), row.size)
        if asked is not None and request.headers.get("if-range", headers["etag"]) == headers["etag"]:
            start, end = asked
            status = 206 if start < end else 416
            headers["content-range"] = f"bytes {start}-{end - 1}/{row.size}" if start < end else f"bytes */{row.size}"
        headers["content-length"] = str(max(0, end - start))
        return StreamingResponse(self.firmwares.part(row, start, end), status, headers, "application/octet-stream")

    async def certificate(self, request: Request) -> Response:
        """The device's next certificate, for the request (PEM) in the body."""
        device = await self.identify(request)
        csr = (await body_bytes(request, 16_384)).decode("utf-8", "replace")
        made = await self.certificates.renew(device, csr)
        return json_response({name: made[name] for name in ("certificate", "authority_certificate", "not_after")}, 201)

    async def claim(self, request: Request) -> Response:
        """The device wants to be claimed: `{secretKey, durationMs}`."""
        device = await self.identify(request)
        await self.claims.of_device(device, await body_bytes(request, 4096))
        return json_response({})

    def route(self, method: str, path: str, handle: Callable[[Request], Awaitable[Response]]) -> Route:
        """A route without an actor: the token in the path says which device speaks."""

        async def endpoint(request: Request) -> Response:
            try:
                return await handle(request)
            except TulouError as error:
                return problem_response(error)
            except Exception:
                log.exception("defect in HTTP ingest")
                return defect_response()

        return Route(f"{API}/{{token}}/{path}", endpoint, methods=[method])

    def routes(self) -> list[Route]:
        """Every route of the door."""
        return [
            *(self.route("POST", kind, lambda request, kind=kind: self.take(request, kind))  # type: ignore[misc]
              for kind in (TELEMETRY, ATTRIBUTES)),
            self.route("GET", "rpc", self.next_command), self.route("POST", "rpc/{no}", self.answer),
            self.route("GET", ATTRIBUTES, self.attributes),
            self.route("GET", f"{ATTRIBUTES}/updates", self.next_attributes),
            self.route("GET", "firmware", self.firmware), self.route("POST", "certificate", self.certificate),
            self.route("POST", "claim", self.claim),
        ]


def _count(text: str | None, name: str) -> int:
    """A number from 0; 0 without one. Raises `Invalid`."""
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Invalid(f"{name} 应为非负整数", f"{name} is a number from 0", field=name, value=text, rule=">= 0")
    return int(text or 0)


def _range(header: str, size: int) -> tuple[int, int] | None:
    """The bytes that a header Range asks for, first and behind the last (RFC 9110, 14.1.2); none of them where it cannot
    be satisfied, None where it asks for all, for several parts or in another unit."""
    found = RANGE.fullmatch(header)
    if found is None or found[1] == found[2] == "":
        return None
    if found[1] == "":
        return (max(0, size - int(found[2])), size) if int(found[2]) else (0, 0)
    first = int(found[1])
    if found[2] and int(found[2]) < first:
        return None
    return (first, min(int(found[2] or size) + 1, size)) if first < size else (0, 0)


def timeout_of(request: Request) -> float:
    """The `timeout` of a request that waits, given in ms, in seconds. Raises `Invalid`."""
    timeout = request.query_params.get("timeout", "20000")
    if not timeout.isascii() or not timeout.isdigit() or len(timeout) > 6:
        raise Invalid("timeout 应为毫秒数", "timeout is in milliseconds", field="timeout", value=timeout, rule="0..999999")
    return min(int(timeout) / 1000, LONGEST_POLL)


def refused(refusal: Refusal, stored: int) -> Invalid:
    """The error for what could not be read; says how many readings beside it were stored."""
    beside_zh = f"；其余 {stored} 个读数已存" if stored else ""
    beside_en = f"; the other {stored} readings are stored" if stored else ""
    return Invalid(
        f"{refusal.zh}{beside_zh}", f"{refusal.en}{beside_en}", field=refusal.field or None, value=refusal.value,
        rule=refusal.rule,
    )
