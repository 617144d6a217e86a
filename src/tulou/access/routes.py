"""The HTTP routes of access, exactly as docs/api.md lists them.

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from tulou.access import entity_page, redecode
from tulou.access.claims import Claim, Claims, NewClaim
from tulou.access.deadletters import DeadLetters
from tulou.access.downlink import Commands, no_such_command
from tulou.access.http import HttpDoor
from tulou.access.live import Hub
from tulou.access.models import Bulk, Identity, NewCommand, NewDevice
from tulou.access.polls import Poll, Polls
from tulou.access.rules.routes import routes as rule_routes
from tulou.access.service import Devices
from tulou.access.shadow import Desire, Shadows
from tulou.access.things import READ, Things, micros, no_such_thing
from tulou.kernel.errors import Invalid
from tulou.kernel.http import (
    API,
    Handler,
    body_json,
    body_model,
    checked,
    flag,
    json_response,
    limit_of,
    path_number,
    route,
)
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House

BULK_BODY = 16 << 20
MOST_WAIT = 120


class Query(BaseModel):
    """A free query of the readings store."""

    model_config = ConfigDict(extra="forbid")

    sql: str = Field(min_length=1, max_length=100_000)
    max_rows: int = Field(default=10_000, ge=1, le=1_000_000)
    seconds: float = Field(default=30, gt=0, le=600)


class Reread(BaseModel):
    """Frames to read again."""

    model_config = ConfigDict(extra="forbid")

    protocol: str = Field(min_length=1, max_length=32)
    org: str | None = Field(default=None, max_length=64)
    device: str | None = Field(default=None, max_length=320)
    start: str = Field(alias="from", max_length=64)
    end: str | None = Field(default=None, alias="to", max_length=64)
    dry_run: bool = False


class Replay(BaseModel):
    """Dead letters to send again."""

    model_config = ConfigDict(extra="forbid")

    ids: list[int] = Field(min_length=1, max_length=1000)


def _text(request: Request, name: str) -> str | None:
    return request.query_params.get(name) or None


def _no(request: Request) -> int:
    return path_number(request, "no", no_such_thing)


def _group(request: Request) -> int | None:
    """The group of devices that a list is narrowed to. Raises `Invalid`."""
    raw = _text(request, "group")
    if raw is not None and not (raw.isascii() and raw.isdigit() and len(raw) < 19):
        raise Invalid("group 应为分组序号", "group is the number of a group", field="group", value=raw, rule="number")
    return int(raw) if raw else None


def _wait(request: Request) -> float:
    """The seconds to wait for a command's end. Raises `Invalid`."""
    raw = request.query_params.get("wait", "0")
    if not (raw.isascii() and raw.isdigit() and len(raw) < 4 and int(raw) <= MOST_WAIT):
        raise Invalid(f"wait 应为 0 至 {MOST_WAIT} 秒", f"wait is 0 to {MOST_WAIT} seconds", field="wait", value=raw,
                      rule=f"0..{MOST_WAIT}")
    return int(raw)


def routes(house: House) -> list[BaseRoute]:
    """Every route of access."""
    devices, things = house.service(Devices), house.service(Things)
    calls, shadows = house.service(Commands), house.service(Shadows)
    hub, letters = house.service(Hub), house.service(DeadLetters)
    claims = house.service(Claims)
    redecodes, polls = house.service(redecode.Redecodes), house.service(Polls)

    async def device_list(request: Request, actor: Actor) -> Response:
        query = request.query_params
        return json_response(await devices.find(
            actor, q=query.get("q", ""), org=_text(request, "org"), kind=_text(request, "type"),
            status=_text(request, "status"), group=_group(request), limit=limit_of(request), after=_text(request, "after"),
            count=bool(flag(request, "count")),
        ))

    async def device_create(request: Request, actor: Actor) -> Response:
        made = await devices.create(actor, await body_model(request, NewDevice))
        return json_response(made, 201 if made["created"] else 200)

    async def device_bulk(request: Request, actor: Actor) -> Response:
        bulk = checked(Bulk, await body_json(request, BULK_BODY))
        return json_response({"items": await devices.create_many(actor, bulk)})

    async def device_get(request: Request, actor: Actor) -> Response:
        return json_response(await devices.get(actor, request.path_params["id"]))

    async def device_delete(request: Request, actor: Actor) -> Response:
        await devices.delete(actor, request.path_params["id"])
        return Response(status_code=204)

    async def device_token(request: Request, actor: Actor) -> Response:
        return json_response(await devices.rotate(actor, request.path_params["id"]))

    async def device_arm(request: Request, actor: Actor) -> Response:
        return json_response(await claims.arm(actor, request.path_params["id"], await body_model(request, NewClaim)), 201)

    async def device_disarm(request: Request, actor: Actor) -> Response:
        await claims.disarm(actor, request.path_params["id"])
        return Response(status_code=204)

    async def device_claim(request: Request, actor: Actor) -> Response:
        return json_response(await claims.claim(actor, await body_model(request, Claim)), 201)

    async def device_disable(request: Request, actor: Actor) -> Response:
        return json_response(await devices.disable(actor, request.path_params["id"]))

    async def device_enable(request: Request, actor: Actor) -> Response:
        return json_response(await devices.enable(actor, request.path_params["id"]))

    async def device_identify(request: Request, actor: Actor) -> Response:
        spoken = await body_model(request, Identity)
        return json_response(await devices.identify(actor, request.path_params["id"], spoken))

    async def device_unidentify(request: Request, actor: Actor) -> Response:
        await devices.unidentify(
            actor, request.path_params["id"], request.path_params["protocol"], request.path_params["identity"]
        )
        return Response(status_code=204)

    async def device_methods(request: Request, actor: Actor) -> Response:
        return json_response(await calls.methods(actor, request.path_params["id"]))

    async def command_send(request: Request, actor: Actor) -> Response:
        new = await body_model(request, NewCommand)
        return json_response(await calls.send(actor, request.path_params["id"], new, _wait(request)), 201)

    async def command_list(request: Request, actor: Actor) -> Response:
        return json_response(await calls.find(
            actor, device=request.path_params.get("id") or _text(request, "device"), state=_text(request, "state"),
            org=_text(request, "org"), limit=limit_of(request), after=_text(request, "after"),
        ))

    async def command_get(request: Request, actor: Actor) -> Response:
        return json_response(await calls.get(actor, path_number(request, "no", no_such_command), _wait(request)))

    async def command_cancel(request: Request, actor: Actor) -> Response:
        return json_response(await calls.cancel(actor, path_number(request, "no", no_such_command)))

    async def shadow_get(request: Request, actor: Actor) -> Response:
        return json_response(await shadows.get(actor, request.path_params["id"]))

    async def shadow_change(request: Request, actor: Actor) -> Response:
        desire = await body_model(request, Desire)
        return json_response(await shadows.change(actor, request.path_params["id"], desire))
    async def poll_get(request: Request, actor: Actor) -> Response:
        return json_response(await polls.get(actor, request.path_params["id"]))

    async def poll_put(request: Request, actor: Actor) -> Response:
        return json_response(await polls.put(actor, request.path_params["id"], await body_model(request, Poll)))

    async def poll_delete(request: Request, actor: Actor) -> Response:
        await polls.delete(actor, request.path_params["id"])
        return Response(status_code=204)

    async def thing_list(request: Request, actor: Actor) -> Response:
        query = request.query_params
        return json_response(await things.find(
            actor, q=query.get("q", "").strip(), kind=_text(request, "type"), org=_text(request, "org"),
            state=_text(request, "state"), synthetic=flag(request, "synthetic"), group=_group(request), limit=limit_of(request),
            after=_text(request, "after"), count=bool(flag(request, "count")),
        ))

    async def thing_get(request: Request, actor: Actor) -> Response:
        return json_response(await things.get(actor, _no(request)))

    async def thing_series(request: Request, actor: Actor) -> Response:
        query = request.query_params
        points = query.get("points", "500")
        return json_response(await things.series(
            actor, _no(request), query.get("property", ""), micros(query.get("from"), "from"),
            micros(query.get("to"), "to"), int(points) if points.isdigit() else 0,
        ))

    async def thing_frames(request: Request, actor: Actor) -> Response:
        return json_response(await things.frames(
            actor, _no(request), limit=limit_of(request), after=_text(request, "after")
        ))

    async def readings_history(request: Request, actor: Actor) -> Response:
        query = request.query_params
        start, end = micros(query.get("from"), "from"), micros(query.get("to"), "to")
        for name, value in (("type", query.get("type")), ("from", start), ("to", end)):
            if value is None:
                raise Invalid(f"缺少 {name}", f"{name} is missing", field=name, rule="required")
        assert start is not None
        assert end is not None
        return json_response(await things.history(
            actor, query["type"], start, end, org=_text(request, "org"), limit=limit_of(request, 20, 200),
            after=_text(request, "after"),
        ))

    async def model_list(_request: Request, actor: Actor) -> Response:
        return json_response(await things.models(actor))

    async def thing_map(request: Request, actor: Actor) -> Response:
        types = tuple(sorted({name for name in request.query_params.get("types", "").split(",") if name}))
        etag, body = await things.map(actor, types, request.headers.get("if-none-match"))
        headers = {"etag": etag, "cache-control": "private, no-cache", "vary": "accept-encoding, authorization, cookie"}
        if body is None:
            return Response(status_code=304, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(gzip.decompress(body), 200, headers, "application/json")
        return Response(body, 200, {**headers, "content-encoding": "gzip"}, "application/json")

    async def overview(_request: Request, actor: Actor) -> Response:
        orgs = house.policy.require_any(actor, READ)
        return json_response(await things.overview(actor, hub.counters(orgs), hub.rate(orgs)))

    async def live(request: Request, actor: Actor) -> Response:
        events = await hub.listen(actor, lambda: house.actor(request.scope))
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(events, 200, headers, "text/event-stream")

    async def letter_list(request: Request, actor: Actor) -> Response:
        return json_response(await letters.find(
            actor, org=_text(request, "org"), limit=limit_of(request), after=_text(request, "after"),
            count=bool(flag(request, "count")),
        ))

    async def letter_replay(request: Request, actor: Actor) -> Response:
        body = await body_model(request, Replay)
        return json_response({"items": await letters.replay(actor, body.ids)})

    async def redecode_ask(request: Request, actor: Actor) -> Response:
        body = await body_model(request, Reread)
        start, end = micros(body.start, "from"), micros(body.end, "to")
        return json_response(await redecodes.ask(actor, redecode.Request(
            protocol=body.protocol, org=body.org, device=body.device, start=start or 0,
            end=time.time_ns() // 1000 if end is None else end, dry_run=body.dry_run,
        )), 202)

    async def redecode_list(request: Request, actor: Actor) -> Response:
        return json_response(await redecodes.find(actor, limit=limit_of(request), after=_text(request, "after")))

    async def redecode_get(request: Request, actor: Actor) -> Response:
        return json_response(await redecodes.get(actor, path_number(request, "id", redecode.no_such_run)))

    async def redecode_cancel(request: Request, actor: Actor) -> Response:
        return json_response(await redecodes.cancel(actor, path_number(request, "id", redecode.no_such_run)))

    async def readings_sql(request: Request, actor: Actor) -> Response:
        query = await body_model(request, Query)
        return json_response(await things.sql(actor, query.sql, query.seconds, query.max_rows))

    def at(method: str, path: str, handler: Handler) -> BaseRoute:
        return route(house, method, API + path, handler)

    return [
        at("GET", "/devices", device_list),
        at("POST", "/devices", device_create),
        at("POST", "/devices/bulk", device_bulk),
        at("GET", "/devices/{id}", device_get),
        at("DELETE", "/devices/{id}", device_delete),
        at("POST", "/devices/{id}/token", device_token),
        at("POST", "/devices/{id}/claim", device_arm),
        at("DELETE", "/devices/{id}/claim", device_disarm),
        at("POST", "/claims", device_claim),
        at("POST", "/devices/{id}/disable", device_disable),
        at("POST", "/devices/{id}/enable", device_enable),
        at("POST", "/devices/{id}/identities", device_identify),
        at("DELETE", "/devices/{id}/identities/{protocol}/{identity}", device_unidentify),
        at("GET", "/devices/{id}/methods", device_methods),
        at("GET", "/devices/{id}/commands", command_list),
        at("POST", "/devices/{id}/commands", command_send),
        at("GET", "/devices/{id}/shadow", shadow_get),
        at("PATCH", "/devices/{id}/shadow", shadow_change),
        at("GET", "/commands", command_list),
        at("GET", "/commands/{no}", command_get),
        at("DELETE", "/commands/{no}", command_cancel),
        at("GET", "/devices/{id}/poll", poll_get),
        at("PUT", "/devices/{id}/poll", poll_put),
        at("DELETE", "/devices/{id}/poll", poll_delete),
        at("GET", "/things", thing_list),
        at("GET", "/things/{no}", thing_get),
        at("GET", "/things/{no}/series", thing_series),
        at("GET", "/things/{no}/frames", thing_frames),
        at("GET", "/models", model_list),
        at("GET", "/map", thing_map),
        at("GET", "/overview", overview),
        at("GET", "/live", live),
        at("GET", "/dead-letters", letter_list),
        at("POST", "/dead-letters/replay", letter_replay),
        at("POST", "/redecodes", redecode_ask),
        at("GET", "/redecodes", redecode_list),
        at("GET", "/redecodes/{id}", redecode_get),
        at("POST", "/redecodes/{id}/cancel", redecode_cancel),
        at("GET", "/readings", readings_history),
        at("POST", "/readings/sql", readings_sql),
        *rule_routes(house),
        *entity_page.routes(house),
        *house.service(HttpDoor).routes(),
    ]
