"""HTTP for every door: problem documents, who is asking, paging, security headers.

Law: a door turns a request into one service call and its result into a response; it decides nothing. Errors are RFC
9457 problem documents; a defect is logged and answered with 500 and no detail.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import sqlalchemy as sa
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tulou.kernel.errors import Invalid, NotFound, Throttled, TooLarge, TooSlow, TulouError, in_chinese
from tulou.kernel.policy import Actor
from tulou.kernel.settings import API as API

if TYPE_CHECKING:
    from tulou.kernel.house import House
    from tulou.kernel.sql import Database

log = logging.getLogger("tulou.http")

Scope = MutableMapping[str, Any]
M = TypeVar("M", bound=BaseModel)
Handler = Callable[[Request, Actor], Awaitable[Response]]

MAX_BODY = 8 << 20
PATIENCE, SLOWEST = 30.0, 16 << 10
"""Seconds for the beginning of a body, and bytes a second that it must come with after that."""

SECURITY_HEADERS: list[tuple[bytes, bytes]] = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"geolocation=(), camera=(), microphone=()"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
        b"worker-src 'self' blob:; connect-src 'self'; font-src 'self' data:; object-src 'none'; "
        b"base-uri 'none'; frame-ancestors 'none'; form-action 'self'",
    ),
]


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; datetimes become RFC 3339 UTC with `Z`."""
    data = orjson.dumps(body, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)
    return Response(data, status, {"cache-control": "no-store", **(headers or {})}, "application/json")


def problem_response(error: TulouError) -> Response:
    """The error as `application/problem+json`."""
    headers = {"cache-control": "no-store"}
    if isinstance(error, Throttled):
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(orjson.dumps(error.problem()), error.status, headers, "application/problem+json")


def defect_response() -> Response:
    """What is answered for a defect."""
    return problem_response(TulouError("内部错误，已记入日志", "internal error; it has been logged"))


async def body_bytes(request: Request, limit: int = MAX_BODY) -> bytes:
    """The whole body, refused with 413 beyond `limit` bytes before it is held in memory, and with 408 where it comes more slowly than
    `SLOWEST` after its first `PATIENCE` seconds."""
    size = 0
    chunks: list[bytes] = []
    began = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(PATIENCE) as late:
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"请求体超过 {limit} 字节", f"body exceeds {limit} bytes", field="body", rule=f"<= {limit}")
                chunks.append(chunk)
                late.reschedule(began + PATIENCE + size / SLOWEST)
    except TimeoutError:
        raise TooSlow("请求体到达过慢", "the body comes too slowly", field="body", rule=f">= {SLOWEST} bytes/s") from None
    return b"".join(chunks)


async def body_json(request: Request, limit: int = MAX_BODY) -> Any:
    """The body as JSON. Raises `Invalid` if it is not."""
    return parsed(await body_bytes(request, limit))


def parsed(data: bytes) -> Any:
    """`data` as JSON. Raises `Invalid` if it is not."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"请求体不是有效的 JSON：{error}", f"body is not JSON: {error}", field="body", rule="JSON") from None


async def body_model(request: Request, model: type[M]) -> M:
    """The body as `model`. Raises `Invalid` naming the first field that breaks a rule."""
    return checked(model, await body_json(request))


def checked(model: type[M], data: Any, within: str = "") -> M:
    """Validate `data`. Raises `Invalid` naming the first field that breaks a rule; `within` is the field that holds it."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise broken_rules(error, within)[0] from None


def broken_rules(error: ValidationError, within: str = "") -> list[Invalid]:
    """Every rule that is broken, each with its field."""
    found = []
    for one in error.errors(include_url=False):
        place = ".".join([*([within] if within else []), *(str(part) for part in (*one["loc"], *one.get("ctx", {}).get("at", ())))]) or "body"
        found.append(Invalid(
            f"{place} 不合规则：{in_chinese(one)}", f"{place}: {one['msg']}", field=place, value=one.get("input"), rule=one["type"],
        ))
    return found


def json_text(value: Any, field: str, most: int) -> str:
    """`value` as the text of JSON, as it is stored. Raises `Invalid`, or `TooLarge` beyond `most` bytes."""
    try:
        text = orjson.dumps(value)
    except TypeError as error:
        raise Invalid(f"{field} 不能存为 JSON：{error}", f"{field}: {error}", field=field, rule="JSON") from None
    if len(text) > most:
        raise TooLarge(f"{field} 超过 {most} 字节", f"{field} has more than {most} bytes", field=field, rule=f"<= {most}")
    return text.decode()


def limit_of(request: Request, default: int = 50, most: int = 1000) -> int:
    """The `limit` parameter. Raises `Invalid` outside 1..most."""
    raw = request.query_params.get("limit")
    if raw is None:
        return default
    if not raw.isdigit() or not 1 <= int(raw) <= most:
        raise Invalid(f"limit 应为 1 至 {most}", f"limit must be 1..{most}", field="limit", value=raw, rule=f"1..{most}")
    return int(raw)


def flag(request: Request, name: str) -> bool | None:
    """A boolean parameter, None when absent. Raises `Invalid` for anything but 0/1/true/false."""
    raw = request.query_params.get(name)
    if raw is None or raw == "":
        return None
    if raw not in ("0", "1", "true", "false"):
        raise Invalid(f"{name} 应为 0 或 1", f"{name} must be 0 or 1", field=name, value=raw, rule="boolean")
    return raw in ("1", "true")


def moment_of(request: Request, name: str) -> dt.datetime | None:
    """A moment among the parameters, None when absent. Raises `Invalid` for anything but RFC 3339 with its zone."""
    text = request.query_params.get(name)
    if not text:
        return None
    try:
        at = dt.datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise Invalid(
            f"{name} 应为带时区的 RFC 3339 时间", f"{name} must be an RFC 3339 time with its zone", field=name, value=text, rule="RFC 3339",
        )
    return at.astimezone(dt.UTC)


def cursor(values: list[Any]) -> str:
    """An opaque keyset cursor of the last row's key values."""
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def from_cursor(text: str | None, parts: int) -> list[Any] | None:
    """The key values of a cursor, None when absent. Raises `Invalid` if it is not one of ours."""
    if not text:
        return None
    try:
        values = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError):
        values = None
    if not isinstance(values, list) or len(values) != parts:
        raise Invalid("after 不是有效的游标", "after is not a cursor of this list", field="after", value=text, rule="cursor")
    return values


async def page(
    db: Database, query: sa.Select[Any], key: sa.ColumnElement[int], limit: int, after: str | None, *, newest: bool = False
) -> tuple[Sequence[Any], str | None]:
    """The rows of `query` behind the cursor `after` in the order of `key`, `newest` first or last, and the cursor of the
    next page. Raises `Invalid` for what is no cursor."""
    last = from_cursor(after, 1)
    if last:
        query = query.where(key < int(last[0]) if newest else key > int(last[0]))
    query = query.order_by(key.desc() if newest else key).limit(limit + 1)
    rows = await db.read(lambda c: c.execute(query).all())
    shown = rows[:limit]
    return shown, cursor([getattr(shown[-1], key.key or "")]) if len(rows) > limit else None


def path_number(request: Request, name: str, missing: Callable[[str], TulouError]) -> int:
    """An integer of the path; for what is none, raises what `missing` makes of it."""
    raw: str = request.path_params[name]
    if not raw.isascii() or not raw.isdigit() or len(raw) > 18:
        raise missing(raw)
    return int(raw)


def route(house: House, method: str, path: str, handler: Handler) -> Route:
    """A route whose handler gets the actor; TulouErrors become problem documents, defects 500."""

    async def endpoint(request: Request) -> Response:
        try:
            actor = await house.actor(request.scope)
            return await handler(request, actor)
        except TulouError as error:
            return problem_response(error)
        except Exception:
            log.exception("defect in %s %s", method, path)
            return defect_response()

    return Route(path, endpoint, methods=[method])


def header(scope: Scope, name: bytes) -> str | None:
    """The first header `name` (lower case) of an ASGI scope."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


def not_found() -> NotFound:
    """The error for a path that no door serves."""
    return NotFound("没有这个地址", "no such address", field="path")
