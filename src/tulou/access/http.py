"""Devices over HTTP: `POST /api/v1/{token}/telemetry` and `/attributes`, commands by `GET` and `POST /rpc`, desired
attributes by `GET /attributes`: the convention that integrators know.

Law: 2xx is sent after the batch that carries the message is synced in JetStream, like an MQTT acknowledgement. What was
refused is answered with 400 naming the field, and kept as a dead letter; what could be read beside it is stored. A
command is delivered with the response that carries it, and not repeated.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tulou.access.authenticate import DeviceIdentity, SqlAuthenticator, Throttle
from tulou.access.batch import BatchBuilder
from tulou.access.downlink import Commands, number
from tulou.access.ingest import Ingestor, Item
from tulou.access.shadow import Shadows, names
from tulou.access.telemetry import ANY, ATTRIBUTES, TELEMETRY, Chunk, Refusal, Rules, decode
from tulou.kernel.errors import Invalid, Throttled, TulouError, Unauthenticated, Unavailable
from tulou.kernel.http import API, body_bytes, defect_response, json_response, problem_response

if TYPE_CHECKING:
    from tulou.kernel.house import House


log = logging.getLogger("tulou.access.http")

LONGEST_POLL = 300.0
"""Seconds that a request for a command may wait."""
NOT_STORED = {"cache-control": "no-store"}

class HttpDoor:
    """The door for devices that speak HTTP."""

    def __init__(self, house: House, commands: Commands, shadows: Shadows) -> None:
        self.house, self.commands, self.shadows = house, commands, shadows
        self.authenticator = SqlAuthenticator(house.db)
        self.throttle = Throttle()
        self.rules = {name: Rules.of(model) for name, model in house.packs.models.items()}
        self.ingestor: Ingestor | None = None

    async def open(self) -> None:
        """Begin to take messages; needs the bus."""
        bus = self.house.bus

        def released(items: list[Item]) -> None:
            for _, future, _ in items:
                if not future.done():
                    future.set_result(None)

        self.ingestor = Ingestor(
            bus.nc, bus.js, name="http", protocol="http", released=released, pressure=lambda _on: None
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
        payload = await body_bytes(request, self.house.settings.max_payload)
        rules = self.rules.get(device.type, ANY)
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
        row = await self.commands.poll(device, _timeout(request))
        if row is None:
            return Response(status_code=408, headers=NOT_STORED)
        return json_response({"id": str(row.no), "method": row.method, "params": orjson.Fragment(row.params)})

    async def answer(self, request: Request) -> Response:
        """The device's answer to a command: 200 once it is durable."""
        device = await self.identify(request)
        await self.commands.answered(
            device, number(request.path_params["no"]), await body_bytes(request, self.house.settings.max_payload)
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
        change = await self.shadows.poll(device, _timeout(request))
        return json_response(change) if change is not None else Response(status_code=408, headers=NOT_STORED)

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
        ]


def _timeout(request: Request) -> float:
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
