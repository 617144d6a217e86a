"""The NGSI-LD door: `/ngsi-ld/v1` and the house's context, as one bare ASGI application.

Law: the door turns a request into one or two service calls and their result into an answer; it decides nothing. It is
bare ASGI because the framework's router and request objects cost more than the retrieval of an entity does.

Source: ETSI GS CIM 009 v1.9.1 clause 6.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote

import orjson

from tulou.context import (
    compatibility,
    entity_map_routes,
    forms,
    geo,
    ldcontext_routes,
    linked,
    ordering,
    projection,
    query,
    snapshot_routes,
    source_routes,
    source_subscription_routes,
    subscription_routes,
    temporal,
    temporal_routes,
)
from tulou.context import selection as selecting
from tulou.context.batch_reader import LEAST
from tulou.context.columns import Prepared
from tulou.context.delivery import ld_context
from tulou.context.entity_maps import EntityMaps
from tulou.context.errors import (
    InvalidRequest,
    LdContextNotAvailable,
    LengthRequired,
    MethodNotAllowed,
    NotAcceptable,
    OperationNotSupported,
    TooManyResults,
    UnsupportedMediaType,
    bad,
    ngsi_problem,
)
from tulou.context.forms import Form, Json, Reader, entity_id
from tulou.context.jsonld import CORE, CORE_URL, LINK_REL, Context, is_iri, link_context
from tulou.context.ldcontexts import StoredContexts
from tulou.context.paging import DEFAULT_LIMIT, MAX_LIMIT, MAX_OFFSET, Cursor, cursor, neighbours, whole_number
from tulou.context.registration_subscriptions import RegistrationSubscriptions
from tulou.context.registrations import Registrations
from tulou.context.remote_subscriptions import NOTIFIED, RemoteSubscriptions
from tulou.context.rendering import Rendered
from tulou.context.selection import Selection, Selector
from tulou.context.service import HOUSE_CONTEXT, BatchResult, ContextService, Page, no_such_entity
from tulou.context.snapshots import Snapshots
from tulou.context.source_history import SourceHistory
from tulou.context.source_snapshots import SourceSnapshots
from tulou.context.sources import Sources
from tulou.context.store import Row
from tulou.context.subscriptions import Subscriptions
from tulou.kernel.errors import NotFound, Throttled, TooLarge, TulouError
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.context.routes")

ROOT = "/ngsi-ld/v1/"
MAX_BODY = 16 << 20
MAX_FETCHES = 10

JSON, LD, GEO = "application/json", "application/ld+json", "application/geo+json"
MERGE_PATCH = "application/merge-patch+json"

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_PLAIN: Headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
_JOIN = frozenset({"join", "joinLevel", "containedBy"})
_REPRESENTATION = _JOIN | {"options", "format", "attrs", "pick", "omit", "lang", "geometryProperty", "datasetId", "local"}
_RETRIEVE = _REPRESENTATION | {"type", "jsonKeys", "entityMap", "via"}
_SELECT = frozenset(
    {"type", "id", "idPattern", "attrs", "q", "georel", "geometry", "coordinates", "geoproperty", "scopeQ", "csf",
     "expandValues", "jsonKeys"}
)
_PAGE = frozenset({"limit", "offset", "count", "cursor"})
_ORDER = frozenset({"orderBy", "orderFrom", "collation"})
_QUERY = _SELECT | _REPRESENTATION | _PAGE | _ORDER
_SNAPSHOTS = frozenset({"retrieve", "query", "query_by_post"})
"""Handlers that look at a snapshot where NGSILD-Snapshot names one (6.3.22)."""


class Ask:
    """A request: method, headers, parameters, who asks, and the context of the names in it."""

    __slots__ = (
        "actor", "amended", "counted", "given", "headers", "method", "parameters", "path", "receive", "scope", "snapshot",
    )

    def __init__(self, scope: Any, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.given: bytes | None = None  # the body, where it has been read or is another one
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name == b"link" and name in self.headers:
                self.headers[name] += b", " + value
            else:
                self.headers[name] = value
        raw = scope["query_string"]
        self.parameters: dict[str, str] = {}
        if raw:
            try:
                pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
            except ValueError:
                raise InvalidRequest("查询参数不是 UTF-8 或过多", "query parameters are not UTF-8, or too many",
                                     field="query", rule="RFC 3986") from None
            self.parameters = dict(pairs)
        self.counted: set[str] = set()
        """Contexts that this request, in all its copies, has been counted for."""
        self.actor: Actor
        self.snapshot: int | None = None
        self.amended: bool | None = None
        """Whether the answer was changed for an earlier version of the standard, None where none was preferred."""

    def header(self, name: bytes) -> str | None:
        """A header's text."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def tenant(self) -> str | None:
        """The tenant asked for."""
        value = self.headers.get(b"ngsild-tenant")
        return None if value is None or not value.strip() else value.strip().decode("latin-1")

    def only(self, allowed: frozenset[str]) -> None:
        """Refuse parameters that this resource does not have (6.3.20)."""
        for name in self.parameters:
            if name not in allowed:
                raise InvalidRequest(f"没有参数 {name}", f"there is no parameter {name} here", field=name,
                                     rule="CIM 009, 6.3.20")

    def flag(self, name: str) -> bool:
        """A boolean parameter. Raises `BadRequestData`."""
        raw = self.parameters.get(name, "false")
        if raw not in ("true", "false"):
            raise bad(f"{name} 应为 true 或 false", f"{name} must be true or false", field=name, value=raw)
        return raw == "true"

    def names(self, name: str) -> list[str] | None:
        """A comma-separated parameter. Raises `BadRequestData` for an empty one."""
        raw = self.parameters.get(name)
        if raw is None:
            return None
        items = [item.strip() for item in raw.replace("|", ",").split(",")]
        if not all(items):
            raise bad(f"{name} 不可为空", f"{name} must not be empty", field=name, value=raw)
        return items

    async def body(self) -> bytes:
        """The whole body. Raises `LengthRequired`, `TooLarge`."""
        if self.given is not None:
            return self.given
        length = self.headers.get(b"content-length")
        if length is None:
            raise LengthRequired("缺少 Content-Length", "Content-Length is missing", field="Content-Length", rule="6.3.4")
        if not length.isdigit() or int(length) > MAX_BODY:
            raise TooLarge(f"正文超过 {MAX_BODY} 字节", f"the body exceeds {MAX_BODY} bytes", field="body",
                           rule=f"<= {MAX_BODY}")
        message = await self.receive()
        data: bytes = message.get("body", b"")
        while message.get("more_body"):
            message = await self.receive()
            data += message.get("body", b"")
            if len(data) > MAX_BODY:
                raise TooLarge(f"正文超过 {MAX_BODY} 字节", f"the body exceeds {MAX_BODY} bytes", field="body",
                               rule=f"<= {MAX_BODY}")
        self.given = data
        return data


_accepted: dict[tuple[str, bool], str] = {}


def negotiate(accept: str | None, *, places: bool = False) -> str:
    """The media type to answer with (6.3.4): JSON, JSON-LD or, with `places`, GeoJSON. Raises `NotAcceptable`."""
    if accept is None or accept == "*/*" or accept == JSON:
        return JSON
    key = (accept, places)
    found = _accepted.get(key)
    if found is None:
        offered = [JSON, LD, GEO] if places else [JSON, LD]
        ranges = list(_ranges(accept))
        best = 0.0
        for offer in offered:  # of equal weight the first of 6.3.4's list; the most specific range gives the weight
            own = [(specific, weight) for media, weight in ranges if (specific := _specificity(media, offer)) > 0]
            weight = max(own)[1] if own else 0.0
            if weight > best:
                best, found = weight, offer
        if found is None:
            raise NotAcceptable("可用的类型：application/json、application/ld+json、application/geo+json",
                                f"available: {', '.join(offered)}", field="Accept", value=accept, rule="CIM 009, 6.3.4")
        if len(_accepted) > 500:
            _accepted.clear()
        _accepted[key] = found
    return found


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """(media range, weight) of an Accept value (RFC 9110, 12.5.1); an unreadable weight is none, that is 1."""
    for part in accept.split(","):
        media, *arguments = (item.strip().lower() for item in part.split(";"))
        weight = 1.0
        for argument in arguments:
            if argument.startswith("q="):
                try:
                    weight = float(argument[2:])
                except ValueError:
                    weight = 1.0
        if 0.0 <= weight <= 1.0:
            yield media, weight


def _specificity(media: str, offer: str) -> int:
    return 3 if media == offer else 2 if media == "application/*" else 1 if media == "*/*" else 0


class Answer:
    """A response: status, body bytes (None for none) and headers."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes | None = None, headers: Headers | None = None) -> None:
        self.status = status
        self.body = body
        self.headers = headers if headers is not None else []


class Door:
    """The application."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.entities = house.service(ContextService)
        self.subscriptions = house.service(Subscriptions)
        self.stored = house.service(StoredContexts)
        self.history = house.service(temporal.Temporal)
        self.linked = house.service(linked.LinkedEntities)
        self.snapshots = house.service(Snapshots)
        self.registrations = house.service(Registrations)
        self.sources = house.service(Sources)
        self.remote = house.service(RemoteSubscriptions)
        self.source_history = house.service(SourceHistory)
        self.source_snapshots = house.service(SourceSnapshots)
        self.source_subscriptions = house.service(RegistrationSubscriptions)
        self.maps = house.service(EntityMaps)
        self.contexts = self.entities.contexts
        self.house_names = self.entities.names
        self.rendered = Rendered()
        self._links: dict[bytes, tuple[bytes, bytes]] = {}
        self.origin = house.settings.public_url.rstrip("/").encode()
        self._core_link = (b"link", f'<{CORE_URL}>; rel="{LINK_REL}"; type="application/ld+json"'.encode())

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        head = scope["method"] == "HEAD"
        ask: Ask | None = None
        try:
            ask = Ask(scope, receive)
            ask.actor = await self.house.actor(scope)
            answer = await self.answered(ask)
        except (LengthRequired, NotAcceptable, UnsupportedMediaType) as error:
            answer = Answer(error.status)
        except TulouError as error:
            answer = refusal(error)
        except Exception:
            log.exception("defect in %s %s", scope["method"], scope["path"])
            answer = refusal(TulouError("内部错误，已记入日志", "internal error; it has been logged"))
        body = answer.body or b""
        headers = answer.headers
        if ask is not None and ask.amended is not None and answer.status == 200:  # 4.3.6.8
            version = compatibility.preferred(ask.header(b"prefer")) or (1, 9)
            headers = [*headers, (b"preference-applied", f"ngsi-ld={version[0]}.{version[1]}".encode())]
            answer.status = 203 if ask.amended else 200
        if ask is not None and b"ngsild-tenant" in ask.headers and all(name != b"ngsild-tenant" for name, _ in headers):
            headers = [*headers, (b"ngsild-tenant", ask.headers[b"ngsild-tenant"])]  # 6.3.14
        if body or answer.status not in (204, 304):
            headers = [*headers, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else body})

    async def answered(self, ask: Ask) -> Answer:
        """Dispatch; and again for each @context that was missing and may be fetched (setting `context_fetch`)."""
        for _ in range(MAX_FETCHES):
            try:
                return await self.dispatch(ask)
            except LdContextNotAvailable as error:
                if not await self.stored.fetch(ask.actor, error.value, ask.tenant):
                    raise
        return await self.dispatch(ask)

    async def dispatch(self, ask: Ask) -> Answer:
        path = ask.path
        if not path.startswith(ROOT):
            if path == HOUSE_CONTEXT:
                return self.house_document(ask)
            if path == NOTIFIED:
                return await subscription_routes.notified(self, ask)
            raise NotFound("没有这个地址", "no such address", field="path", value=path)
        rest = path[len(ROOT) :]
        if rest.startswith("entities/") and "%" not in rest and b"ngsild-snapshot" not in ask.headers:
            raw = ask.scope.get("raw_path")
            if raw is None or b"%" not in raw:
                key = rest[9:].rstrip("/")
                if key and "/" not in key and ask.method in ("GET", "HEAD") and not entity_map_routes.wanted(ask) and not (
                    self.registrations.active and (ask.tenant or ask.actor.org) in self.registrations.active
                ):
                    return await self.retrieve(ask, key)
        raw = ask.scope.get("raw_path")
        text = raw.decode("latin-1").partition("?")[0] if raw else quote(path, safe="/:%")
        parts = [unquote(part) for part in text[len(ROOT) :].strip("/").split("/")]
        method = "GET" if ask.method == "HEAD" else ask.method
        if parts == ["entities"] and text.endswith("/") and method in ("PATCH", "PUT"):
            raise bad("缺少实体 id", "the entity's id is missing", field="id", rule="CIM 009, 5.6.17: URI")
        snapshot = ask.header(b"ngsild-snapshot")
        if snapshot is None:
            handler, arguments = source_routes.find(self, ask, method, parts) or self.find(method, parts)
            return await handler(ask, *arguments)
        handler, arguments = self.find(method, parts)
        if getattr(handler, "__name__", "") not in _SNAPSHOTS:
            raise OperationNotSupported("快照上不提供此操作", "this operation is not offered on a snapshot",
                                        field="NGSILD-Snapshot", value=snapshot, rule="CIM 009, 6.3.22")
        ask.snapshot = await self.snapshots.use(ask.actor, snapshot.strip(), tenant=ask.tenant)
        answer = await handler(ask, *arguments)
        answer.headers = [*answer.headers, (b"ngsild-snapshot", snapshot.strip().encode("latin-1"))]
        return answer

    def find(self, method: str, parts: list[str]) -> tuple[Callable[..., Awaitable[Answer]], list[str]]:
        """The handler of a path. Raises `NotFound`, `MethodNotAllowed`."""
        table: dict[str, Callable[..., Awaitable[Answer]]]
        arguments: list[str] = []
        match parts:
            case ["entities"]:
                table = {"GET": self.query, "POST": self.create, "DELETE": self.purge}
            case ["entities", id]:
                table = {"GET": self.retrieve, "PATCH": self.merge, "PUT": self.replace, "DELETE": self.delete}
                arguments = [id]
            case ["entities", id, "attrs"]:
                table = {"POST": self.append, "PATCH": self.update}
                arguments = [id]
            case ["entities", id, "attrs", name]:
                table = {"PATCH": self.partial, "PUT": self.replace_attribute, "DELETE": self.delete_attribute}
                arguments = [id, name]
            case ["entityOperations", "query"]:
                table = {"POST": self.query_by_post}
            case ["entityOperations", ("create" | "upsert" | "update" | "merge" | "delete") as kind]:
                table = {"POST": self.batch}
                arguments = [kind]
            case ["snapshots", *rest] if (found := snapshot_routes.find(self, rest)) is not None:
                table, arguments = found
            case ["types"]:
                table = {"GET": self.types}
            case ["types", name]:
                table = {"GET": self.type}
                arguments = [name]
            case ["attributes"]:
                table = {"GET": self.attributes}
            case ["attributes", name]:
                table = {"GET": self.attribute}
                arguments = [name]
            case ["subscriptions"]:
                table = {"GET": partial(subscription_routes.search, self), "POST": partial(subscription_routes.create, self)}
            case ["subscriptions", id]:
                table = {
                    "GET": partial(subscription_routes.retrieve, self), "PATCH": partial(subscription_routes.update, self),
                    "DELETE": partial(subscription_routes.delete, self),
                }
                arguments = [id]
            case ["temporal", "entityMaps"]:
                table = {"GET": partial(entity_map_routes.create_temporal, self)}
            case ["temporal", *rest] if (found := temporal_routes.find(self, rest)) is not None:
                table, arguments = found
            case ["csourceRegistrations"]:
                table = {"GET": partial(source_routes.discover, self), "POST": partial(source_routes.register, self)}
            case ["csourceRegistrations", id]:
                table = {"GET": partial(source_routes.registration, self), "PATCH": partial(source_routes.reregister, self),
                         "DELETE": partial(source_routes.unregister, self)}
                arguments = [id]
            case ["csourceSubscriptions"]:
                table = {"GET": partial(source_subscription_routes.show_all, self),
                         "POST": partial(source_subscription_routes.subscribe, self)}
            case ["csourceSubscriptions", id]:
                table = {"GET": partial(source_subscription_routes.show, self),
                         "PATCH": partial(source_subscription_routes.update, self),
                         "DELETE": partial(source_subscription_routes.delete, self)}
                arguments = [id]
            case ["info", "sourceIdentity"]:
                table = {"GET": partial(source_routes.identity, self)}
            case ["entityMaps"]:
                table = {"GET": partial(entity_map_routes.create, self)}
            case ["entityMaps", id]:
                table = {"GET": partial(entity_map_routes.show, self), "PATCH": partial(entity_map_routes.update, self),
                         "DELETE": partial(entity_map_routes.delete, self)}
                arguments = [id]
            case ["jsonldContexts"]:
                table = {"GET": partial(ldcontext_routes.search, self), "POST": partial(ldcontext_routes.add, self)}
            case ["jsonldContexts", *rest] if rest:
                table = {"GET": partial(ldcontext_routes.retrieve, self), "DELETE": partial(ldcontext_routes.delete, self)}
                arguments = ["/".join(rest)]
            case _:
                raise NotFound("没有这个地址", "no such address", field="path", value="/".join(parts))
        handler = table.get(method)
        if handler is None:
            raise MethodNotAllowed(f"此资源不支持 {method}", f"{method} is not a method of this resource",
                                   field="method", value=method, rule=", ".join(sorted(table)))
        return handler, arguments

    # ---- contexts

    def context(self, ask: Ask) -> tuple[Context, Any]:
        """The context of a request without body, and its spec (None: the house's)."""
        raw = ask.headers.get(b"link")
        if raw is None:
            return self.house_names, None
        url = link_context(raw.decode("latin-1"))
        if url is None:
            return self.house_names, None
        url = self._local(ask, url)
        return (self.house_names, None) if url == HOUSE_CONTEXT else (self._used(ask, url), url)

    def _used(self, ask: Ask, spec: Any) -> Context:
        """The context that a request names, which is one use of it (5.13.3) however often it is looked up."""
        key = spec if isinstance(spec, str) else orjson.dumps(spec).decode()
        if key in ask.counted:
            return self.contexts.get(spec)
        found = self.contexts.use(spec)
        ask.counted.add(key)
        return found

    def naming(self, context: Context, spec: Any, stored: Iterable[str]) -> tuple[Context, Any]:
        """The context of an answer, as `context` gives it. Where the client gave none and none of these names, or texts of
        documents, needs the house's, it is the core context: then the stored names are what it shows."""
        if spec is None:
            for text in stored:
                if self.entities.of_the_house(text):
                    return context, None
            return CORE, CORE_URL
        return context, spec

    def _local(self, ask: Ask, url: str) -> str:
        """An address at this house as a path."""
        host = ask.headers.get(b"host")
        if host is not None:
            for scheme in ("http://", "https://"):
                origin = scheme + host.decode("latin-1")
                if url.startswith(origin + "/ngsi-ld/"):
                    return url[len(origin) :]
        return url

    def spec(self, ask: Ask, spec: Any) -> Any:
        """The `@context` of a body, addresses at this house as paths."""
        if isinstance(spec, str):
            return self._local(ask, spec)
        return [self.spec(ask, item) for item in spec] if isinstance(spec, list) else spec

    def address(self, ask: Ask, spec: Any) -> str:
        """The absolute address of a context for a `Link` header."""
        path = spec if isinstance(spec, str) else HOUSE_CONTEXT if spec is None else CORE_URL
        if not path.startswith("/"):
            return path
        if self.origin:
            return self.origin.decode() + path
        host = ask.header(b"host") or ""
        return f"{ask.scope.get('scheme', 'http')}://{host}{path}"

    def link_header(self, ask: Ask, spec: Any) -> tuple[bytes, bytes]:
        """The `Link` header that names the context of a JSON answer (6.3.5)."""
        if spec is None:
            host = ask.headers.get(b"host", b"")
            found = self._links.get(host)
            if found is None:
                if len(self._links) > 100:
                    self._links.clear()
                found = self._links[host] = self._link(ask, None)
            return found
        return self._core_link if spec == CORE_URL else self._link(ask, spec)

    def _link(self, ask: Ask, spec: Any) -> tuple[bytes, bytes]:
        text = f'<{self.address(ask, spec)}>; rel="{LINK_REL}"; type="application/ld+json"'
        return b"link", text.encode("latin-1", "replace")

    def ld(self, ask: Ask, spec: Any) -> Any:
        """The `@context` of a JSON-LD answer."""
        if spec is None:
            return [self.address(ask, None), CORE_URL]
        if isinstance(spec, str):
            return self.address(ask, spec)
        return ld_context(spec, self.entities.document)

    def house_document(self, ask: Ask) -> Answer:
        """The house's context; open to all, for it only names terms."""
        if ask.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("只可读取", "only GET", field="method", value=ask.method, rule="GET")
        return self.context_document(ask, self.entities.document, LD)

    @staticmethod
    def context_document(ask: Ask, document: Json, media: str) -> Answer:
        """A context for those who expand with it: they keep it, and ask with its entity tag (RFC 9110, 13.1.2)."""
        body = orjson.dumps(document)
        tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        headers = [(b"etag", tag.encode()), (b"cache-control", b"private, no-cache"), (b"vary", b"accept, ngsild-tenant")]
        known = {one.strip().removeprefix("W/") for one in (ask.header(b"if-none-match") or "").split(",")}
        if tag in known or "*" in known:
            return Answer(304, None, headers)
        return Answer(200, body, [(b"content-type", media.encode()), *headers])

    # ---- bodies

    async def read(self, ask: Ask, *, patch: bool = False, many: bool = False) -> tuple[Any, Context, Any]:
        """The body as JSON with its context (6.3.5). For an array of JSON-LD the items bring their own.

        Raises `UnsupportedMediaType`, `InvalidRequest`, `BadRequestData`, `LdContextNotAvailable`.
        """
        data = await ask.body()
        kind = (ask.header(b"content-type") or "").partition(";")[0].strip().lower()
        if kind not in (JSON, LD) and not (patch and kind == MERGE_PATCH):
            raise UnsupportedMediaType("正文应为 application/json 或 application/ld+json",
                                       "the body must be application/json or application/ld+json",
                                       field="Content-Type", value=kind)
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(f"正文不是有效的 JSON：{error}", f"the body is not JSON: {error}", field="body",
                                 rule="RFC 8259") from None
        if kind == LD:
            if ask.headers.get(b"link") is not None and link_context(ask.header(b"link")) is not None:
                raise bad("application/ld+json 不可再用 Link 给出 @context", "with application/ld+json the @context is in the body",
                          field="Link", rule="CIM 009, 6.3.5")
            if many and isinstance(body, list):
                await self.stored.fetch_all(ask.actor, [item.get("@context") for item in body if isinstance(item, dict)], ask.tenant)
                return body, self.house_names, LD
            if not isinstance(body, dict):
                raise InvalidRequest("正文应为 JSON 对象", "the body must be a JSON object", field="body", rule="CIM 009, 5.5.4")
            if "@context" not in body:
                raise bad("application/ld+json 的正文缺少 @context", "the JSON-LD body has no @context",
                          field="@context", rule="CIM 009, 6.3.5")
            spec = self.spec(ask, body["@context"])
            return body, self._used(ask, spec), spec
        if isinstance(body, dict) and "@context" in body:
            raise bad("application/json 的正文不可含 @context", "a JSON body must not contain @context",
                      field="@context", rule="CIM 009, 6.3.5")
        context, spec = self.context(ask)
        return body, context, spec

    def form(self, ask: Ask, context: Context, *, places: bool = False) -> Form:
        """How the request wants entities written (6.3.7, 6.3.15 to 6.3.19)."""
        parameters = ask.parameters
        if not parameters:
            return _WHOLE
        style, system = "normalized", False
        for option in filter(None, parameters.get("options", "").split(",")):
            if option in forms.STYLES:
                style = forms.STYLES[option]
            elif option == "sysAttrs":
                system = True
            elif option not in _OPTIONS:
                raise InvalidRequest(f"没有选项 {option}", f"there is no option {option}", field="options", value=option)
        if "format" in parameters:
            if parameters["format"] not in forms.STYLES:
                raise InvalidRequest(f"没有格式 {parameters['format']}", f"there is no format {parameters['format']}",
                                     field="format", value=parameters["format"], rule=", ".join(forms.STYLES))
            style = forms.STYLES[parameters["format"]]
        names = context.stored
        attrs = ask.names("attrs")
        join = linked.join_of(parameters.get("join"), parameters.get("joinLevel"), ask.names("containedBy") or ())
        pick, omit = (
            projection.parse(parameters[field], context, field) if field in parameters else None for field in ("pick", "omit")
        )
        if attrs is not None and (pick is not None or omit is not None):
            raise bad("attrs 不可与 pick、omit 同用", "attrs excludes pick and omit", field="attrs", rule="6.4.3.2")
        projection.check(pick, omit, join.levels if join else 0)
        if join is not None:
            join = join._replace(pick=pick, omit=omit)
        keep, drop = kept(pick, omit)
        if attrs is not None:
            keep = frozenset(names(name) for name in attrs) | {"id", "type", "scope"}
        datasets = ask.names("datasetId")
        if datasets is not None and not all(d == "@none" or is_iri(d) for d in datasets):
            raise bad("datasetId 应为 URI 或 @none", "datasetId must be a URI or @none", field="datasetId",
                      value=parameters["datasetId"])
        if "geometryProperty" in parameters and not places:
            raise bad("geometryProperty 只用于 GeoJSON", "geometryProperty needs GeoJSON", field="geometryProperty",
                      rule="CIM 009, 6.4.3.2")
        geometry = names(parameters["geometryProperty"]) if "geometryProperty" in parameters else "location"
        return Form(style, system, keep, drop, parameters.get("lang"), geometry,
                    frozenset(datasets) if datasets is not None else None, join)

    # ---- reading entities

    async def retrieve(self, ask: Ask, id: str) -> Answer:
        """GET entities/{id} (6.5.3.1)."""
        media = negotiate(ask.header(b"accept"), places=True)
        context, spec = self.context(ask)
        if ask.parameters:
            ask.only(_RETRIEVE)
        form = self.form(ask, context, places=media == GEO)
        if ask.snapshot is None:
            row = await self.entities.retrieve(ask.actor, entity_id(id), tenant=ask.tenant)
        else:
            found = await self.linked.find(ask.actor, [entity_id(id)], tenant=ask.tenant, snapshot=ask.snapshot)
            if not found:
                raise no_such_entity(id)
            row = found[0]
        if "type" in ask.parameters:
            tree = selecting.type_tree(ask.parameters["type"], context)
            if not selecting.type_matches(tree, forms.types_of(row.document)):
                raise no_such_entity(id)
        if form.whole and media == JSON and b"prefer" not in ask.headers:
            context, spec = self.naming(context, spec, (row.text,))
            if '"expiresAt"' not in row.text:
                body = self.rendered.json(row, context, keep=ask.snapshot is None)
                return Answer(200, body, [*_PLAIN, self.link_header(ask, spec)])
        document = row.alive()
        keep = form.keep
        if keep is not None and not ("*" in keep and keep & projection.HEAD & document.keys()):
            missing = keep.isdisjoint(document.keys() - projection.HEAD)
            if missing:
                raise NotFound(f"实体 {id} 没有所要的属性", f"entity {id} has none of these attributes", field="attrs",
                               value=ask.parameters.get("attrs") or ask.parameters.get("pick"))
        items, context, spec = await self.written(ask, [(row, document)], context, spec, form, media)
        if len(items) > 1 or (media == GEO and form.join is not None and form.join.style == "flat"):
            return self.list_answer(ask, items, media, spec)
        if not items[0]:
            raise NotFound(f"实体 {id} 没有所要的成员", f"entity {id} has none of these members", field="omit")
        return self.one_answer(ask, items[0], media, spec)

    async def written(
        self, ask: Ask, rows: Sequence[tuple[Row, Json]], context: Context, spec: Any, form: Form, media: str
    ) -> tuple[list[Json], Context, Any]:
        """Entities as the request wants them, with those that they are linked to; and the context that names them."""
        version = compatibility.preferred(ask.header(b"prefer"))
        if version is not None:
            amended = [(row, compatibility.amend(document, version)) for row, document in rows]
            ask.amended = any(new[1] is not old[1] for new, old in zip(amended, rows, strict=True))
            rows = amended
        if form.join is None:
            context, spec = self.naming(context, spec, (row.text for row, _ in rows))
            items = [self.write(row, document, context, form) for row, document in rows]
            if media == GEO:
                items = [forms.feature(row[1], item, form) for row, item in zip(rows, items, strict=True)]
            return items, context, spec
        graph = await self.linked.follow(ask.actor, rows, form.join, tenant=ask.tenant, snapshot=ask.snapshot)
        every = (row.text for found in graph.known.values() for row, _ in found)
        context, spec = self.naming(context, spec, [*(row.text for row, _ in rows), *every])
        first = set(map(id, graph.first))
        flat = form.join.style == "flat"

        def write(item: linked.Linked, document: Json) -> Json:
            keep, drop = kept(item.pick, item.omit)
            outer = id(item) in first
            own = form if outer else form._replace(keep=keep, drop=drop, datasets=None)
            found = self.write(item.row, document, context, own)
            return forms.feature(document, found, own) if media == GEO and (flat or outer) else found

        return (linked.flat if flat else linked.inline)(graph, write), context, spec

    def write(self, row: Row, document: Json, context: Context, form: Form) -> Json:
        """An entity as the request wants it."""
        written = forms.write(document, context, form, row.times if form.system else None)
        if form.keep is not None and "*" in form.keep:
            for name in ("id", "type"):
                if name not in form.keep:
                    written.pop(name, None)
        for name in form.drop & {"id", "type"}:
            written.pop(name, None)
        return written

    def one_answer(self, ask: Ask, item: Json, media: str, spec: Any) -> Answer:
        """One entity, or Feature, in the media type asked for."""
        headers = [(b"content-type", media.encode()), (b"cache-control", b"no-store")]
        if media == LD or (media == GEO and "body=json" not in (ask.header(b"prefer") or "")):
            item = {**item, "@context": self.ld(ask, spec)}
        else:
            headers.append(self.link_header(ask, spec))
        return Answer(200, orjson.dumps(item), headers)

    def list_answer(self, ask: Ask, items: list[Json], media: str, spec: Any, headers: Headers | None = None) -> Answer:
        """Entities, or Features, in the media type asked for."""
        headers = [(b"content-type", media.encode()), (b"cache-control", b"no-store"), *(headers or [])]
        body: Any = items
        if media == GEO:
            body = {"type": "FeatureCollection", "features": items}
            if "body=json" not in (ask.header(b"prefer") or ""):
                body["@context"] = self.ld(ask, spec)
            else:
                headers.append(self.link_header(ask, spec))
        elif media == LD:
            shown = self.ld(ask, spec)
            body = [{**item, "@context": shown} for item in items]
        else:
            headers.append(self.link_header(ask, spec))
        return Answer(200, orjson.dumps(body), headers)

    def selection(self, parameters: Mapping[str, Any], context: Context, *, free: bool = False) -> Selection:
        """What GET parameters select (6.4.3.2). Raises `BadRequestData` for none, unless `free`."""
        types = parameters.get("type")
        if types == "*" and parameters.get("local") == "false":
            raise bad("type=* 只用于本系统之内（local）", "type=* is for local queries", field="type", value=types,
                      rule="CIM 009, 4.17")
        ids = parameters.get("id")
        pattern = parameters.get("idPattern")
        selectors: tuple[Selector, ...] = ()
        if types is not None or ids is not None or pattern is not None:
            wanted = tuple(entity_id(item) for item in ids.split(",")) if ids is not None else ()
            selectors = (
                Selector(
                    selecting.type_tree(types, context) if types is not None else None, wanted,
                    selecting.pattern_of(pattern) if pattern is not None else None,
                ),
            )
        attrs = parameters.get("attrs")
        names = tuple(context.stored(name) for name in attrs.split(",")) if attrs else ()
        if "id" in names or "type" in names:
            raise bad("id 与 type 不是属性，请用 pick", "id and type are no attributes; use pick", field="attrs", value=attrs,
                      rule="CIM 009, 5.7.2.4")
        q = parameters.get("q")
        expand = parameters.get("expandValues")
        node = None
        if q is not None:
            join = linked.join_of(parameters.get("join"), parameters.get("joinLevel"), ())
            words = frozenset(map(context.stored, expand.split(","))) if expand else frozenset()
            node = query.parse(q, context, expand=words, levels=join.levels if join else 0)
        if parameters.get("csf") is not None:
            query.parse(parameters["csf"], context)
        place = None
        if any(name in parameters for name in ("georel", "geometry", "coordinates")):
            place = geo.parse(
                parameters.get("georel"), parameters.get("geometry"), parameters.get("coordinates"),
                context.stored(parameters.get("geoproperty", "location")),
            )
        scope = parameters.get("scopeQ")
        if scope is not None:
            selecting.scope_patterns(scope)
        found = Selection(selectors, names, node, place, scope)
        narrow = not forms.SYSTEM.issuperset(names) or (node is not None and any(path.names for path in query.paths(node)))
        if not free and types is None and not narrow and place is None:
            raise bad("须给出 type、attrs、q 或地理条件之一", "one of type, attrs, q or a geoquery is needed",
                      field="type", rule="CIM 009, 6.4.3.2")
        return found

    def paging(self, ask: Ask) -> tuple[int, Cursor | None, int, bool]:
        """(limit, cursor, offset, count) of a request (6.3.10)."""
        parameters = ask.parameters
        count = ask.flag("count")
        raw = parameters.get("limit")
        if raw is not None and raw.isascii() and raw.isdigit() and len(raw) < 10 and int(raw) > MAX_LIMIT:
            raise TooManyResults(f"limit 最多 {MAX_LIMIT}", f"limit is at most {MAX_LIMIT}", field="limit", value=raw,
                                 rule=f"<= {MAX_LIMIT}")
        limit = whole_number(parameters, "limit", DEFAULT_LIMIT, 0 if count else 1, MAX_LIMIT)
        offset = whole_number(parameters, "offset", 0, 0, MAX_OFFSET)
        return limit, cursor(parameters.get("cursor")), offset, count

    async def query(self, ask: Ask) -> Answer:
        """GET entities (6.4.3.2)."""
        media = negotiate(ask.header(b"accept"), places=True)
        context, spec = self.context(ask)
        ask.only(_QUERY)
        limit, place, offset, count = self.paging(ask)
        chosen = self.selection(ask.parameters, context, free=ask.flag("local"))
        form = self.form(ask, context, places=media == GEO)
        order = None
        if "orderBy" in ask.parameters:
            order = ordering.parse(
                ordering.split(ask.parameters["orderBy"]), context, coordinates=ask.parameters.get("orderFrom"),
                geometry=ask.parameters.get("geometry") if "georel" not in ask.parameters else None,
                collation=ask.parameters.get("collation"),
            )
            if place is not None:
                raise bad("排好序的结果按 offset 翻页", "an ordered result is paged by offset", field="cursor", rule="offset")
        page = await self.entities.query(
            ask.actor, self.chosen(ask, chosen, form), tenant=ask.tenant, limit=limit, cursor=place, offset=offset,
            count=count, order=order,
        )
        links = neighbours(ask.path, ask.parameters, page.next, page.prev, limit, media, keyset=order is None)
        return await self.page_answer(ask, page, context, spec, form, media, links)

    def chosen(self, ask: Ask, selection: Selection, form: Form) -> Selection:
        """The selection narrowed to entities that have one of the picked attributes (6.4.3.2), in the snapshot asked for."""
        if form.keep is not None and "*" in form.keep and not form.keep & projection.HEAD and not selection.attributes:
            selection = replace(selection, attributes=tuple(sorted(form.keep - {"*"})))
        return selection if ask.snapshot is None else replace(selection, snapshot=ask.snapshot)

    async def page_answer(
        self, ask: Ask, page: Page, context: Context, spec: Any, form: Form, media: str, links: Headers
    ) -> Answer:
        """A page of entities, with `links` to its neighbours and the count where asked for."""
        if page.count is not None:
            links = [(b"ngsild-results-count", str(page.count).encode()), *links]
        if form.whole and media == JSON and b"prefer" not in ask.headers:
            context, spec = self.naming(context, spec, (row.text for row in page.rows))
            if all('"expiresAt"' not in row.text for row in page.rows):
                body = b",".join([self.rendered.json(row, context, keep=ask.snapshot is None) for row in page.rows])
                return Answer(200, b"[" + body + b"]", [*_PLAIN, self.link_header(ask, spec), *links])
        rows = [(row, row.alive()) for row in page.rows]
        items, context, spec = await self.written(ask, rows, context, spec, form, media)
        return self.list_answer(ask, items, media, spec, links)

    async def query_by_post(self, ask: Ask) -> Answer:
        """POST entityOperations/query (6.23.3.1)."""
        media = negotiate(ask.header(b"accept"), places=True)
        body, context, spec = await self.read(ask)
        ask.only(_PAGE | {"options", "format", "local"})
        limit, place, offset, count = self.paging(ask)
        chosen, parameters = self.query_document(body, context)
        if "temporalQ" in body:
            raise bad("temporalQ 只用于查询历史", "temporalQ is for queries of the history", field="temporalQ",
                      rule="CIM 009, 5.2.23")
        ask.parameters = {**ask.parameters, **parameters}
        form = self.form(ask, context, places=media == GEO)
        page = await self.entities.query(
            ask.actor, self.chosen(ask, chosen, form), tenant=ask.tenant, limit=limit, cursor=place, offset=offset,
            count=count, order=ordering_of(body, context),
        )
        return await self.page_answer(ask, page, context, spec, form, media, [])

    def query_document(self, body: Any, context: Context) -> tuple[Selection, dict[str, str]]:
        """A Query (5.2.23) as a selection, and its parameters of representation."""
        if not isinstance(body, dict) or body.get("type") != "Query":
            raise bad("正文应为 type 为 Query 的对象", "the body must be an object of type Query", field="type",
                      rule="CIM 009, 5.2.23")
        selectors = []
        entities = body.get("entities")
        if entities is not None and (not isinstance(entities, list) or not entities):
            raise bad("entities 应为非空数组", "entities must be a non-empty array", field="entities", value=entities)
        for item in entities or ():
            if not isinstance(item, dict) or not isinstance(item.get("type"), str):
                raise bad("entities 的每项应有 type", "every item of entities needs a type", field="entities", value=item)
            ids = item.get("id", [])
            ids = [ids] if isinstance(ids, str) else ids
            if not isinstance(ids, list):
                raise bad("entities.id 应为 URI", "entities.id must be a URI", field="entities.id", value=ids)
            pattern = item.get("idPattern")
            if pattern is not None and not isinstance(pattern, str):
                raise bad("idPattern 应为文本", "idPattern must be a text", field="entities.idPattern", value=pattern)
            selectors.append(Selector(
                selecting.type_tree(item["type"], context), tuple(map(entity_id, ids)),
                selecting.pattern_of(pattern) if pattern is not None else None,
            ))
        texts: dict[str, str] = {}
        for name in ("attrs", "pick", "omit"):
            names = body.get(name)
            if names is not None:
                if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
                    raise bad(f"{name} 应为非空的名称数组", f"{name} must be a non-empty array of names", field=name, value=names)
                texts[name] = ",".join(names)
        for name in ("q", "scopeQ", "lang"):
            if name in body:
                if not isinstance(body[name], str):
                    raise bad(f"{name} 应为文本", f"{name} must be a text", field=name, value=body[name])
                texts[name] = body[name]
        for name in ("containedBy", "datasetId", "expandValues", "jsonKeys"):
            if name in body:
                listed = body[name] if isinstance(body[name], list) else [body[name]]
                if not listed or not all(isinstance(item, str) for item in listed):
                    raise bad(f"{name} 应为文本的数组", f"{name} must be texts", field=name, value=body[name],
                              rule="CIM 009, 5.2.23")
                texts[name] = ",".join(listed)
        join = linked.join_of(body.get("join"), body.get("joinLevel"), ())
        if join is not None:
            texts |= {"join": join.style, "joinLevel": str(join.levels)}
        parameters: dict[str, Any] = {k: v for k, v in texts.items() if k in _SELECTING}
        if "csf" in body:
            parameters["csf"] = body["csf"] if isinstance(body["csf"], str) else ""
        place = body.get("geoQ")
        if place is not None:
            if not isinstance(place, dict):
                raise bad("geoQ 应为对象", "geoQ must be an object", field="geoQ", value=place)
            if not isinstance(place.get("coordinates"), list) or not isinstance(place.get("geoproperty", ""), str):
                raise bad("geoQ.coordinates 应为数组", "geoQ.coordinates must be an array", field="geoQ.coordinates",
                          value=place.get("coordinates"), rule="CIM 009, 5.2.13")
            parameters.update({k: v for k, v in place.items() if k in ("georel", "geometry", "coordinates", "geoproperty")})
            parameters.setdefault("georel", None)
        chosen = self.selection(parameters, context, free=bool(selectors))
        chosen = Selection(tuple(selectors), chosen.attributes, chosen.q, chosen.geo, chosen.scope)
        return chosen, {k: v for k, v in texts.items() if k in _REPRESENTATION}

    # ---- writing entities

    async def create(self, ask: Ask) -> Answer:
        """POST entities (6.4.3.1)."""
        ask.only(frozenset({"local"}))
        body, context, _ = await self.read(ask)
        document = Reader(context).entity(body)
        id = await self.entities.create(ask.actor, document, tenant=ask.tenant)
        return Answer(201, None, [(b"location", f"{ROOT}entities/{quote(id, safe=':')}".encode())])

    async def gate(self, ask: Ask, id: str, context: Context) -> None:
        """Refuse the entity as not found when a `type` parameter selects none of its types (4.17, 5.6.2 to 5.6.6)."""
        if "type" in ask.parameters:
            tree = selecting.type_tree(ask.parameters["type"], context)
            row = await self.entities.retrieve(ask.actor, entity_id(id), tenant=ask.tenant)
            if not selecting.type_matches(tree, forms.types_of(row.document)):
                raise no_such_entity(id)

    async def merge(self, ask: Ask, id: str) -> Answer:
        """PATCH entities/{id} (6.5.3.4)."""
        ask.only(frozenset({"options", "format", "observedAt", "lang", "type", "local"}))
        body, context, _ = await self.read(ask, patch=True)
        form = self.form(ask, context)
        observed = ask.parameters.get("observedAt")
        if observed is not None:
            observed = forms.datetime_text(observed, "observedAt")
        fragment = Reader(context, merging=True, simplified=form.style == "simplified").fragment(body)
        _same_id(fragment, id)
        await self.gate(ask, id, context)
        await self.entities.merge(ask.actor, entity_id(id), fragment, tenant=ask.tenant, observed_at=observed)
        return Answer(204)

    async def replace(self, ask: Ask, id: str) -> Answer:
        """PUT entities/{id} (6.5.3.3)."""
        ask.only(frozenset({"local", "type"}))
        body, context, _ = await self.read(ask)
        document = Reader(context).fragment(body)
        _same_id(document, id)
        await self.gate(ask, id, context)
        await self.entities.replace(ask.actor, entity_id(id), document, tenant=ask.tenant)
        return Answer(204)

    async def delete(self, ask: Ask, id: str) -> Answer:
        """DELETE entities/{id} (6.5.3.2)."""
        ask.only(frozenset({"local", "type"}))
        await self.gate(ask, id, self.context(ask)[0])
        await self.entities.delete(ask.actor, entity_id(id), tenant=ask.tenant)
        return Answer(204)

    async def purge(self, ask: Ask) -> Answer:
        """DELETE entities (6.4.3.3): delete every entity that the parameters select, or attributes of them."""
        ask.only(_SELECT | {"local", "keep", "drop"})
        context, _ = self.context(ask)
        chosen = self.selection(ask.parameters, context, free=ask.flag("local"))
        keep, drop = (
            None if (names := ask.names(field)) is None else frozenset(map(context.stored, names))
            for field in ("keep", "drop")
        )
        if keep is not None and drop is not None:
            raise bad("keep 与 drop 不可同用", "keep excludes drop", field="keep", rule="CIM 009, 6.4.3.3")
        if keep is None and drop is None:
            await self.entities.purge(ask.actor, chosen, tenant=ask.tenant)
        else:
            await self.entities.purge_attributes(ask.actor, chosen, tenant=ask.tenant, keep=keep, drop=drop)
        return Answer(204)

    async def append(self, ask: Ask, id: str) -> Answer:
        """POST entities/{id}/attrs (6.6.3.1)."""
        ask.only(frozenset({"options", "local", "type"}))
        body, context, _ = await self.read(ask)
        fragment = Reader(context, nulls=True).fragment(body)
        _same_id(fragment, id)
        await self.gate(ask, id, context)
        overwrite = "noOverwrite" not in ask.parameters.get("options", "").split(",")
        done = await self.entities.append(
            ask.actor, entity_id(id), fragment, tenant=ask.tenant, overwrite=overwrite
        )
        return self.change_answer(done)

    async def update(self, ask: Ask, id: str) -> Answer:
        """PATCH entities/{id}/attrs (6.6.3.2)."""
        ask.only(frozenset({"options", "local", "type"}))
        body, context, _ = await self.read(ask, patch=True)
        fragment = Reader(context, nulls=True).fragment(body)
        _same_id(fragment, id)
        await self.gate(ask, id, context)
        done = await self.entities.update(ask.actor, entity_id(id), fragment, tenant=ask.tenant)
        return self.change_answer(done)

    def change_answer(self, done: forms.Change) -> Answer:
        """204, or 207 with an UpdateResult (5.2.18) where something was refused; its names are IRIs, for it has no context."""
        if not done.unchanged:
            return Answer(204)
        body = {
            "updated": [CORE.expand(name) for name in dict.fromkeys(done.updated)],
            "notUpdated": [{"attributeName": CORE.expand(name), "reason": why} for name, why in done.unchanged],
        }
        return Answer(207, orjson.dumps(body), list(_PLAIN))

    async def partial(self, ask: Ask, id: str, name: str) -> Answer:
        """PATCH entities/{id}/attrs/{name} (6.7.3.1)."""
        return await self.change_attribute(ask, id, name, replace=False)

    async def replace_attribute(self, ask: Ask, id: str, name: str) -> Answer:
        """PUT entities/{id}/attrs/{name} (6.7.3.3)."""
        return await self.change_attribute(ask, id, name, replace=True)

    async def change_attribute(self, ask: Ask, id: str, name: str, *, replace: bool) -> Answer:
        """A fragment of one attribute: its kind may be left out, and in a partial update its value too."""
        ask.only(frozenset({"options", "local", "type"}))
        body, context, _ = await self.read(ask, patch=True)
        if not isinstance(body, dict):
            raise bad("正文应为 JSON 对象", "the body must be a JSON object", field="body", rule="object")
        fragment = {key: value for key, value in body.items() if key != "@context"}
        if not fragment:
            raise bad("正文为空", "the body is empty", field="body")
        stored = context.stored(name)
        if stored in forms.ENTITY_MEMBERS:
            raise bad(f"{name} 不是属性，不可部分更新", f"{name} is no attribute; it cannot be changed by itself", field="attribute",
                      value=name, rule="CIM 009, 5.6.4.4")
        await self.gate(ask, id, context)
        reader = Reader(context, nulls=not replace)

        def read(known: Json) -> Json:
            kind = fragment.get("type", known["type"])
            key = forms.VALUE_OF.get(kind) if isinstance(kind, str) else None
            if key is None:
                raise bad(f"{name}.type 不是属性类别", f"{name}.type is no attribute type", field=f"{name}.type", value=kind)
            if not replace and key not in fragment and kind == known["type"]:
                instance = reader.instance(name, {**fragment, "type": kind, key: known[key]})
                if kind == "VocabProperty":
                    instance[key] = known[key]
                return instance
            return reader.instance(name, {**fragment, "type": kind})

        await self.entities.update_attribute(
            ask.actor, entity_id(id), stored, read, tenant=ask.tenant, replace=replace
        )
        return Answer(204)

    async def delete_attribute(self, ask: Ask, id: str, name: str) -> Answer:
        """DELETE entities/{id}/attrs/{name} (6.7.3.2)."""
        ask.only(frozenset({"datasetId", "deleteAll", "local", "type"}))
        context, _ = self.context(ask)
        dataset = ask.parameters.get("datasetId")
        if dataset is not None and not is_iri(dataset):
            raise bad("datasetId 应为 URI", "datasetId must be a URI", field="datasetId", value=dataset)
        await self.gate(ask, id, context)
        await self.entities.delete_attribute(
            ask.actor, entity_id(id), context.stored(name), tenant=ask.tenant, dataset=dataset,
            all_instances=ask.flag("deleteAll"),
        )
        return Answer(204)

    # ---- batches

    async def batch(self, ask: Ask, kind: str) -> Answer:
        """POST entityOperations/{create, upsert, update, merge, delete} (6.14 to 6.17, 6.31)."""
        ask.only(frozenset({"options", "local"}))
        if kind == "delete":
            body, _, _ = await self.read(ask, many=True)
            if not isinstance(body, list) or not body:
                raise bad("正文应为非空的 id 数组", "the body must be a non-empty array of ids", field="body")
            return self.batch_answer(await self.entities.delete_many(ask.actor, body, tenant=ask.tenant), kind)
        documents: Sequence[Json | Prepared] | None = await self._read_ahead(ask) if kind in ("create", "upsert") else None
        errors: list[tuple[str, TulouError]] = []
        if documents is None:
            documents, errors = await self._read_batch(ask, kind)
        options = ask.parameters.get("options", "").split(",")
        entities = self.entities
        if not documents:
            self.entities.tenant(ask.actor, ask.tenant, "context.entity.write")
            result = BatchResult([], [], [])
        elif kind == "create":
            result = await entities.create_many(ask.actor, documents, tenant=ask.tenant)
        elif kind == "upsert":
            result = await entities.upsert_many(ask.actor, documents, tenant=ask.tenant, update="update" in options)
        elif kind == "update":
            result = await entities.update_many(
                ask.actor, documents, tenant=ask.tenant, overwrite="noOverwrite" not in options
            )
        else:
            result = await entities.merge_many(ask.actor, documents, tenant=ask.tenant)
        result.errors = errors + result.errors
        return self.batch_answer(result, kind)

    async def _read_ahead(self, ask: Ask) -> list[Prepared] | None:
        """A large batch of whole entities as plain JSON, read beside this process; None where it is to be read here."""
        data = await ask.body()
        if len(data) < LEAST or (ask.header(b"content-type") or "").partition(";")[0].strip().lower() != JSON:
            return None
        return await self.entities.read_ahead(ask.actor, data, self.context(ask)[0], tenant=ask.tenant)

    async def _read_batch(self, ask: Ask, kind: str) -> tuple[list[Json], list[tuple[str, TulouError]]]:
        """The entities of a batch, and the errors of those that cannot be read."""
        body, context, spec = await self.read(ask, many=True)
        nulls, merging = kind in ("merge", "update"), kind == "merge"
        needs_type = kind in ("create", "upsert")
        if spec == LD:
            def read(raw: Any) -> Json:
                if not isinstance(raw, dict) or "@context" not in raw:
                    raise bad("application/ld+json 的实体缺少 @context", "the JSON-LD entity has no @context", field="@context")
                return _with_id(Reader(self.contexts.get(self.spec(ask, raw["@context"])), nulls=nulls, merging=merging).fragment(raw), needs_type)
        else:
            reader = Reader(context, nulls=nulls, merging=merging)

            def read(raw: Any) -> Json:
                if isinstance(raw, dict) and "@context" in raw:
                    raise bad("application/json 的实体不可含 @context", "a JSON entity must not contain @context", field="@context")
                return _with_id(reader.fragment(raw), needs_type)

        return self.entities.read_batch(body, read)

    def batch_answer(self, result: BatchResult, kind: str) -> Answer:
        """201 with the ids created, 204, or 207 with a BatchOperationResult (5.2.16)."""
        if result.errors:
            body = {
                "success": result.created + result.updated,
                "errors": [{"entityId": id, "error": ngsi_problem(error)} for id, error in result.errors],
            }
            return Answer(207, orjson.dumps(body), list(_PLAIN))
        if result.created:
            return Answer(201, orjson.dumps(result.created), list(_PLAIN))
        return Answer(204)

    # ---- discovery

    async def types(self, ask: Ask) -> Answer:
        """GET types (6.25.3.1)."""
        ask.only(frozenset({"details", "local"}))
        media, (context, spec) = negotiate(ask.header(b"accept")), self.context(ask)
        found = await self.entities.types(ask.actor, tenant=ask.tenant)
        attributes = await self.entities.attributes(ask.actor, tenant=ask.tenant) if ask.flag("details") else {}
        context, spec = self.naming(context, spec, [*found, *attributes])
        if not ask.flag("details"):
            body: Any = {
                "id": _random_id("EntityTypeList"), "type": "EntityTypeList",
                "typeList": sorted(context.shown(name) for name in found),
            }
            return self.answer(ask, body, media, spec)
        body = [
            {
                "id": CORE.expand(name), "type": "EntityType", "typeName": context.shown(name),
                "attributeNames": sorted(context.shown(a) for a, entry in attributes.items() if name in entry["types"]),
            }
            for name in sorted(found)
        ]
        return self.answer(ask, body, media, spec)

    async def type(self, ask: Ask, name: str) -> Answer:
        """GET types/{type} (6.26.3.1)."""
        ask.only(frozenset({"local"}))
        media, (context, spec) = negotiate(ask.header(b"accept")), self.context(ask)
        stored = context.stored(name)
        found = await self.entities.types(ask.actor, tenant=ask.tenant)
        if stored not in found:
            raise NotFound(f"没有类型 {name}", f"there is no entity of type {name}", field="type", value=name)
        attributes = await self.entities.attributes(ask.actor, tenant=ask.tenant, type=stored)
        context, spec = self.naming(context, spec, [stored, *attributes])
        body = {
            "id": CORE.expand(stored), "type": "EntityTypeInfo", "typeName": context.shown(stored),
            "entityCount": found[stored],
            "attributeDetails": [
                {
                    "id": CORE.expand(a), "type": "Attribute", "attributeName": context.shown(a),
                    "attributeTypes": sorted(entry["kinds"]),
                }
                for a, entry in sorted(attributes.items())
            ],
        }
        return self.answer(ask, body, media, spec)

    async def attributes(self, ask: Ask) -> Answer:
        """GET attributes (6.27.3.1)."""
        ask.only(frozenset({"details", "local"}))
        media, (context, spec) = negotiate(ask.header(b"accept")), self.context(ask)
        found = await self.entities.attributes(ask.actor, tenant=ask.tenant)
        context, spec = self.naming(context, spec, [*found, *(kind for entry in found.values() for kind in entry["types"])])
        if not ask.flag("details"):
            body: Any = {
                "id": _random_id("AttributeList"), "type": "AttributeList",
                "attributeList": sorted(context.shown(name) for name in found),
            }
            return self.answer(ask, body, media, spec)
        body = [
            {
                "id": CORE.expand(name), "type": "Attribute", "attributeName": context.shown(name),
                "typeNames": sorted(context.shown(kind) for kind in entry["types"]),
            }
            for name, entry in sorted(found.items())
        ]
        return self.answer(ask, body, media, spec)

    async def attribute(self, ask: Ask, name: str) -> Answer:
        """GET attributes/{attribute} (6.28.3.1)."""
        ask.only(frozenset({"local"}))
        media, (context, spec) = negotiate(ask.header(b"accept")), self.context(ask)
        stored = context.stored(name)
        entry = (await self.entities.attributes(ask.actor, tenant=ask.tenant)).get(stored)
        if entry is None:
            raise NotFound(f"没有属性 {name}", f"there is no attribute {name}", field="attribute", value=name)
        context, spec = self.naming(context, spec, [stored, *entry["types"]])
        body = {
            "id": CORE.expand(stored), "type": "Attribute", "attributeName": context.shown(stored),
            "attributeCount": entry["count"], "attributeTypes": sorted(entry["kinds"]),
            "typeNames": sorted(context.shown(kind) for kind in entry["types"]),
        }
        return self.answer(ask, body, media, spec)

    def negotiate(self, ask: Ask) -> str:
        """JSON or JSON-LD, as the request accepts."""
        return negotiate(ask.header(b"accept"))

    def done(self, status: int = 204, headers: Headers | None = None) -> Answer:
        """An answer without a body."""
        return Answer(status, None, headers)

    def answer(self, ask: Ask, body: Any, media: str, spec: Any, *, status: int = 200, more: Sequence[Any] = ()) -> Answer:
        """A JSON or JSON-LD answer."""
        headers: Headers = [(b"content-type", media.encode()), (b"cache-control", b"no-store"), *more]
        if media == LD:
            shown = self.ld(ask, spec)
            body = [{**item, "@context": shown} for item in body] if isinstance(body, list) else {**body, "@context": shown}
        else:
            headers.append(self.link_header(ask, spec))
        return Answer(status, orjson.dumps(body), headers)


def kept(pick: projection.Projection | None, omit: projection.Projection | None) -> tuple[frozenset[str] | None, frozenset[str]]:
    """`keep` and `drop` of a Form for one level of a projection."""
    keep = None if pick is None else frozenset(pick) | {"*"}
    return keep, frozenset(name for name, inner in (omit or {}).items() if inner is None)


def ordering_of(body: Json, context: Context) -> ordering.Ordering | None:
    """The `ordering` of a Query (5.2.43), None where there is none. Raises `BadRequestData`."""
    wanted = body.get("ordering")
    if wanted is None:
        return None
    names = wanted.get("orderBy") if isinstance(wanted, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise bad("ordering.orderBy 应为文本的数组", "ordering.orderBy must be an array of texts", field="ordering.orderBy",
                  value=names, rule="CIM 009, 5.2.43")
    coordinates = wanted.get("coordinates")
    if coordinates is not None and not isinstance(coordinates, list):
        raise bad("ordering.coordinates 应为数组", "ordering.coordinates must be an array", field="ordering.coordinates",
                  value=coordinates, rule="CIM 009, 5.2.43")
    return ordering.parse(names, context, coordinates=coordinates, geometry=wanted.get("geometry"),
                          collation=wanted.get("collation"))


_WHOLE = Form()
_SELECTING = frozenset({"q", "scopeQ", "attrs", "expandValues", "join", "joinLevel"})
_OPTIONS = frozenset({"noOverwrite", "update", "sysAttrs", "temporalValues", "count"})


def _same_id(fragment: Json, id: str) -> None:
    if fragment.get("id", id) != id:
        raise bad("正文中的 id 与地址不同", "the id in the body is not the one in the address", field="id",
                  value=fragment["id"], rule="same id")
    fragment.pop("id", None)


def _with_id(document: Json, needs_type: bool) -> Json:
    if "id" not in document:
        raise bad("实体缺少 id", "the entity has no id", field="id", rule="CIM 009, 5.2.4")
    if needs_type and "type" not in document:
        raise bad("实体缺少 type", "the entity has no type", field="type", rule="CIM 009, 5.2.4")
    return document


def _random_id(kind: str) -> str:
    return f"urn:ngsi-ld:{kind}:{uuid.uuid4()}"


def refusal(error: TulouError) -> Answer:
    """The answer for an error: ProblemDetails with an NGSI-LD type, as plain JSON ("implementations shall use the standard
    JSON MIME type", 5.5.3)."""
    headers: Headers = list(_PLAIN)
    if isinstance(error, Throttled):
        headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, MethodNotAllowed) and error.rule:
        headers.append((b"allow", error.rule.encode()))
    return Answer(error.status, orjson.dumps(ngsi_problem(error)), headers)

