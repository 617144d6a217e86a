"""Operations on context source registrations: register, update, delete, retrieve, discover.

Law: every operation takes the actor and asks the policy; a registration is of one organisation (= tenant) and of use to
that one alone. Those in force are compiled and indexed in memory, so that an organisation without any costs one look-up.
What a registration says to a source in its headers may be a secret: it is shown to those who may change it.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.2.8 to 5.2.11, 5.2.34, 5.9, 5.10 and 4.3.6.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import re2
import sqlalchemy as sa

from tulou.context import forms, geo, matching, query, traces
from tulou.context import selection as selecting
from tulou.context.columns import dumped
from tulou.context.errors import AlreadyExists, RegistrationConflict, TooManyResults, bad
from tulou.context.evolution import duration
from tulou.context.forms import Json, Reader
from tulou.context.jsonld import CORE, Context, is_iri
from tulou.context.matching import EntityInfo, Index, Info, Registration
from tulou.context.selection import Selection, Selector
from tulou.context.store import Store
from tulou.kernel.errors import NotFound, TulouError
from tulou.kernel.outbound import Refused
from tulou.kernel.policy import Actor, operation

if TYPE_CHECKING:
    from tulou.context.registration_subscriptions import RegistrationSubscriptions
    from tulou.context.service import ContextService
    from tulou.kernel.house import House

READ, CREATE = "context.source.read", "context.source.create"
WRITE, DELETE = "context.source.write", "context.source.delete"

KIND = "ContextSourceRegistration"
MAX_INFORMATION = 1000
MOST = 1000
"""Most registrations of one organisation: each may be asked by every query."""
REQUEST = "urn:ngsi-ld:request"
OWN_PORT = "outbound: own port"
"""The rule by which the house refuses to connect to itself."""
CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie", "x-tulou"})
"""Headers of a caller that are never sent on."""
_TEXTS = ("registrationName", "description", "tenant", "contextSourceAlias")
_GEOMETRIES = ("location", "observationSpace", "operationSpace")
_INTERVALS = ("observationInterval", "managementInterval")
_OUTPUT = frozenset({"status", "timesSent", "timesFailed", "lastSuccess", "lastFailure", "createdAt", "modifiedAt"})
_KNOWN = frozenset({
    "id", "type", "information", "endpoint", "contextSourceInfo", "scope", "mode", "operations", "refreshRate",
    "management", "datasetId", "localOnly", "expiresAt", *_TEXTS, *_GEOMETRIES, *_INTERVALS,
})
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_TENANT = re.compile(r"[\x21-\x7e]{1,256}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What discovery (5.10.2) looks for. `selector` and `names` as in a query; `properties` are filters on the source's
    own properties; `span` is (timeproperty, start, end) in µs, None for sources of the latest information."""

    selector: Selector | None = None
    names: frozenset[str] | None = None
    properties: tuple[query.Node, ...] = ()
    place: geo.GeoQuery | None = None
    scope: str | None = None
    span: tuple[str, int | None, int | None] | None = None
    datasets: frozenset[str] = frozenset()


class Registrations:
    """The operations on registrations, and those in force."""

    def __init__(self, house: House, entities: ContextService) -> None:
        self.house = house
        self.db = house.db
        self.policy = house.policy
        self.entities = entities
        self.store = Store(house.db.dialect)
        self.subscriptions: RegistrationSubscriptions
        self.active: dict[str, Index] = {}
        """The registrations in force by organisation; no entry for an organisation without any."""
        self.reloaded: Callable[[], object] = lambda: None

    # ---- what is in force

    async def reload(self) -> None:
        """Read and compile every registration that has not expired."""
        doc = "doc::text" if self.store.postgres else "doc"
        rows = await self.db.read(
            lambda c: self.store.cursor(c).execute(
                self.store.sql(f"SELECT no,id,org,{doc} FROM csource_registrations WHERE expires_at IS NULL OR expires_at>?"),
                (_now(),),
            ).fetchall()
        )
        found: dict[str, list[Registration]] = {}
        for no, id, org, text in rows:
            found.setdefault(org, []).append(compiled(no, id, org, orjson.loads(text)))
        self.active = {org: Index(own) for org, own in found.items()}
        self.reloaded()

    async def _after_change(self) -> None:
        await self.reload()
        self.subscriptions.wake()
        if hasattr(self.house, "bus"):
            await self.house.bus.changed("csource_registrations")

    # ---- operations

    @operation(CREATE)
    async def create(self, actor: Actor, raw: Any, context: Context, *, tenant: str | None = None) -> str:
        """Register a context source (5.9.2); returns its id.

        Raises `AlreadyExists`, and `RegistrationConflict` where it claims what the house or another source holds.
        """
        org = self.entities.tenant(actor, tenant, CREATE)
        document = checked(raw, context)
        self._reachable(document["endpoint"])
        id: str = document.setdefault("id", f"urn:ngsi-ld:{KIND}:{uuid.uuid4()}")
        now = _now()
        expires = _expiry(document, now)
        fresh = compiled(0, id, org, document)

        def write(connection: sa.Connection) -> TulouError | None:
            cursor, sql = self.store.cursor(connection), self.store.sql
            cursor.execute(sql("DELETE FROM csource_registrations WHERE org=? AND expires_at<=?"), (org, now))
            if cursor.execute(sql("SELECT 1 FROM csource_registrations WHERE id=? AND org=?"), (id, org)).fetchone():
                return AlreadyExists(f"注册 {id} 已存在", f"registration {id} already exists", field="id", value=id)
            held = cursor.execute(sql("SELECT count(*) FROM csource_registrations WHERE org=?"), (org,)).fetchone()[0]
            if held >= MOST:
                return TooManyResults(f"一个机构最多 {MOST} 个注册", f"an organisation holds at most {MOST} registrations",
                                      field="org", rule=f"<= {MOST}")
            contested = self._contested(connection, fresh, now)
            if contested is not None:
                return contested
            cursor.execute(
                sql("INSERT INTO csource_registrations (id,org,doc,expires_at,created_at,modified_at) VALUES (?,?,?,?,?,?)"),
                (id, org, dumped(document), expires, now, now),
            )
            self.subscriptions.queue(cursor, org, None, document, now)
            traces.arranged(self.db, actor, CREATE, org, id)
            return None

        error = await self.db.write(write)
        if error is not None:
            raise error
        await self._after_change()
        return id

    @operation(WRITE)
    async def update(self, actor: Actor, id: str, raw: Any, context: Context, *, tenant: str | None = None) -> None:
        """Update members of a registration (5.9.3); NGSI-LD Null, or the null of RFC 7396, deletes a member."""
        row = await self._row(actor, id, tenant, WRITE)
        if not isinstance(raw, dict) or not {key for key in raw if key != "@context"}:
            raise bad("正文应为非空的 JSON 对象", "the body must be a non-empty JSON object", field="body", rule="object")
        if raw.get("id", id) != id:
            raise bad("id 不可更改", "the id cannot change", field="id", value=raw["id"])
        now = _now()

        def write(connection: sa.Connection) -> TulouError | None:
            cursor = self.store.cursor(connection)
            found = self._get(cursor, row[0])
            if found is None:
                return _none(id)
            before: Json = orjson.loads(found[3])
            try:
                document = patched(before, raw, context)
                expires = _expiry(document, now) if raw.get("expiresAt") is not None else (
                    found[4] if "expiresAt" in document else None
                )
                self._reachable(document["endpoint"])
                contested = self._contested(connection, compiled(row[0], id, row[2], document), now)
            except TulouError as error:
                return error
            if contested is not None:
                return contested
            cursor.execute(
                self.store.sql("UPDATE csource_registrations SET doc=?,expires_at=?,modified_at=? WHERE no=?"),
                (dumped(document), expires, now, row[0]),
            )
            self.subscriptions.queue(cursor, row[2], before, document, now)
            traces.arranged(self.db, actor, WRITE, row[2], id, sorted(raw.keys() - {"@context", "id"}))
            return None

        error = await self.db.write(write)
        if error is not None:
            raise error
        await self._after_change()

    @operation(DELETE)
    async def delete(self, actor: Actor, id: str, *, tenant: str | None = None) -> None:
        """Delete a registration (5.9.4)."""
        row = await self._row(actor, id, tenant, DELETE)

        def write(connection: sa.Connection) -> None:
            cursor = self.store.cursor(connection)
            found = self._get(cursor, row[0])
            if found is not None:
                cursor.execute(self.store.sql("DELETE FROM csource_registrations WHERE no=?"), (row[0],))
                self.subscriptions.queue(cursor, row[2], orjson.loads(found[3]), None, _now())
                traces.arranged(self.db, actor, DELETE, row[2], id)

        await self.db.write(write)
        await self._after_change()

    @operation(READ)
    async def retrieve(self, actor: Actor, id: str, *, tenant: str | None = None) -> Json:
        """One registration in stored form, with its times (5.10.1). Raises `NotFound`."""
        row = await self._row(actor, id, tenant, READ)
        return self._seen(actor, row)

    @operation(READ)
    async def search(
        self, actor: Actor, wanted: Wanted, *, tenant: str | None = None, limit: int = 20, offset: int = 0
    ) -> tuple[list[Json], int]:
        """Registrations that match (5.10.2) in order of creation, and how many there are; only what matches of their
        `information` is shown."""
        orgs = self.policy.require_any(actor, READ)
        if tenant is not None:
            self.entities.readable(actor, tenant)
            orgs = orgs.narrow(tenant)
        now = _now()

        def read(connection: sa.Connection) -> list[Any]:
            cursor = self.store.cursor(connection)
            condition, parameters = ("1=1", []) if orgs.all else self.store.among("org", sorted(orgs.ids))
            sql = (
                f"SELECT {self._columns} FROM csource_registrations WHERE {condition} AND "
                "(expires_at IS NULL OR expires_at>?) ORDER BY no"
            )
            rows: list[Any] = cursor.execute(self.store.sql(sql), [*parameters, now]).fetchall()
            return rows

        found = []
        for row in await self.db.read(read):
            document = self._seen(actor, row)
            kept = found_by(wanted, compiled(row[0], row[1], row[2], document), document)
            if kept is not None:
                document["information"] = [document["information"][at] for at in kept]
                found.append(document)
        return found[offset : offset + limit], len(found)

    # ---- helpers

    def _reachable(self, endpoint: str) -> None:
        """Refuse an endpoint that the house may not connect to. One at the house itself is only a loop: it is never
        connected to, and found out as soon as it is used."""
        try:
            self.house.outbound.check(endpoint)
        except Refused as error:
            if error.rule != OWN_PORT:
                raise

    @property
    def _columns(self) -> str:
        return "no,id,org," + ("doc::text" if self.store.postgres else "doc") + ",expires_at,created_at,modified_at"

    def _get(self, cursor: Any, no: int) -> Any:
        return cursor.execute(
            self.store.sql(f"SELECT {self._columns} FROM csource_registrations WHERE no=?"), (no,)
        ).fetchone()

    async def _row(self, actor: Actor, id: str, tenant: str | None, action: str) -> Any:
        if not is_iri(id):
            raise bad(f"注册 id {id[:100]!r} 不是 URI", f"registration id {id[:100]!r} is not a URI", field="id", value=id)
        orgs = self.policy.require_any(actor, READ)
        if tenant is not None:
            self.entities.readable(actor, tenant)
            orgs = orgs.narrow(tenant)
        sql = self.store.sql(f"SELECT {self._columns} FROM csource_registrations WHERE id=? ORDER BY no LIMIT 50")
        rows = await self.db.read(lambda c: self.store.cursor(c).execute(sql, (id,)).fetchall())
        seen = [row for row in rows if row[2] in orgs and (row[4] is None or row[4] > _now())]
        if not seen:
            raise _none(id)
        row = next((item for item in seen if item[2] == actor.org), seen[0])
        self.policy.require(actor, action, row[2])
        return row

    def _seen(self, actor: Actor, row: Any) -> Json:
        document: Json = orjson.loads(row[3])
        if "contextSourceInfo" in document and not self.policy.allows(actor, WRITE, row[2]):
            document["contextSourceInfo"] = [{"key": item["key"], "value": "***"} for item in document["contextSourceInfo"]]
        document["createdAt"], document["modifiedAt"] = forms.moment(row[5]), forms.moment(row[6])
        return document

    def _contested(self, connection: sa.Connection, fresh: Registration, now: int) -> TulouError | None:
        """Why the registration may not claim what it claims (5.9.2.4, 4.3.6.3)."""
        if not fresh.proxied:
            return None
        cursor, sql = self.store.cursor(connection), self.store.sql
        rows = cursor.execute(
            sql(f"SELECT {self._columns} FROM csource_registrations WHERE org=? AND (expires_at IS NULL OR expires_at>?)"),
            (fresh.org, now),
        ).fetchall()
        for row in rows:
            if row[1] != fresh.id and matching.contest(fresh, compiled(row[0], row[1], row[2], orjson.loads(row[3]))):
                return RegistrationConflict(
                    f"与注册 {row[1]} 冲突：独占的属性只能由一个来源持有",
                    f"registration {row[1]} stands against it: what is exclusive is held by one source",
                    field="information", value=row[1], rule="CIM 009, 4.3.6.3",
                )
        for info in fresh.infos:
            selectors = tuple(
                Selector(matching.any_of(item.types) if item.types else None, (item.id,) if item.id else (), item.pattern)
                for item in info.entities
            )
            present = self.entities.selected(
                connection, fresh.org, Selection(selectors, tuple(sorted(info.names))), 1
            )
            if present:
                return RegistrationConflict(
                    f"本系统已持有实体 {present[0].id} 的这些数据", f"entity {present[0].id} is held here already",
                    field="information", value=present[0].id, rule="CIM 009, 5.9.2.4",
                )
        return None


def found_by(wanted: Wanted, item: Registration, document: Json) -> list[int] | None:
    """Which elements of `information` match (5.12), None when the registration does not."""
    if wanted.span is None:
        if not item.latest:
            return None
    else:
        interval = item.observed if wanted.span[0] == "observedAt" else item.managed
        if interval is None or not matching.overlap(interval, wanted.span[1:]):
            return None
    if wanted.datasets and item.datasets and wanted.datasets.isdisjoint(item.datasets):
        return None
    if wanted.place is not None:
        place = document.get(wanted.place.geoproperty)
        if not isinstance(place, dict) or not wanted.place.match(place):
            return None
    if wanted.scope is not None and not selecting.scope_matches(wanted.scope, document):
        return None
    if not all(query.matches(node, item.properties) for node in wanted.properties):
        return None
    selectors = (wanted.selector,) if wanted.selector is not None else ()
    kept = [at for at, info in enumerate(item.infos) if matching.narrowed(info, selectors, wanted.names)]
    return kept or None


def _now() -> int:
    from tulou.context.service import now_us

    return now_us()


def _none(id: str) -> NotFound:
    return NotFound(f"没有注册 {id}", f"there is no registration {id}", field="id", value=id)


def _expiry(document: Json, now: int) -> int | None:
    if "expiresAt" not in document:
        return None
    at = forms.micros(document["expiresAt"])
    if at <= now:
        raise bad("expiresAt 已过去", "expiresAt is in the past", field="expiresAt", value=document["expiresAt"],
                  rule="in the future")
    return at


# ---- documents


def patched(before: Json, raw: Mapping[str, Any], context: Context) -> Json:
    """A registration after a patch (5.5.8), checked. Raises `BadRequestData`."""
    document = shown(before, CORE)
    for key, value in raw.items():
        if key in ("@context", "createdAt", "modifiedAt"):
            continue
        stored = key if key in _KNOWN else CORE.shown(context.stored(key))
        if value is None or value == forms.NULL:
            document.pop(stored, None)
        elif key == "information":
            document[key] = _information(value, context)
            document[key] = shown({"information": document[key]}, CORE)["information"]
        elif key == "management" and isinstance(value, dict):
            document[key] = {k: v for k, v in {**document.get(key, {}), **value}.items() if v not in (None, forms.NULL)}
        else:
            document[stored] = value
    return checked(document, CORE)


def shown(document: Json, context: Context) -> Json:
    """A stored registration with the names of `context`."""
    out: Json = {}
    for key, value in document.items():
        if key == "information":
            out[key] = [_shown_info(item, context) for item in value]
        elif key in _KNOWN or key in _OUTPUT:
            out[key] = value
        else:
            out[context.shown(key)] = value
    return out


def _shown_info(info: Json, context: Context) -> Json:
    out = dict(info)
    if "entities" in info:
        out["entities"] = [
            {**item, "type": _named(item["type"], context)} if "type" in item else item for item in info["entities"]
        ]
    for key in ("propertyNames", "relationshipNames"):
        if key in info:
            out[key] = [context.shown(name) for name in info[key]]
    return out


def _named(kind: Any, context: Context) -> Any:
    return context.shown(kind) if isinstance(kind, str) else [context.shown(item) for item in kind]


def checked(raw: Any, context: Context) -> Json:
    """A registration (5.2.9) with names in stored form and without what only the house writes.

    Raises `BadRequestData` naming the member.
    """
    if not isinstance(raw, dict):
        raise bad("注册应为 JSON 对象", "a registration must be a JSON object", field="body", rule="object")
    document: Json = {}
    for key, value in raw.items():
        if key == "@context" or key in _OUTPUT:
            continue
        if value is None:
            raise bad(f"{key} 不可为 null", f"{key} must not be null", field=key, rule="CIM 009, 5.2.9")
        document[key if key in _KNOWN else context.stored(key)] = value
    if document.get("type") != KIND:
        raise bad(f"type 应为 {KIND}", f"type must be {KIND}", field="type", value=document.get("type"))
    if "id" in document and not is_iri(document["id"]):
        raise bad("id 应为 URI", "id must be a URI", field="id", value=document["id"], rule="URI")
    for key in _TEXTS:
        if key in document and (not isinstance(document[key], str) or not document[key] or len(document[key]) > 8192):
            raise bad(f"{key} 应为文本", f"{key} must be a text", field=key, value=document[key])
    for key in ("tenant", "contextSourceAlias"):
        if key in document and not _TENANT.fullmatch(document[key]):
            raise bad(f"{key} 只可含可见 ASCII 字符", f"{key} must be visible ASCII characters", field=key, value=document[key])
    if not isinstance(document.get("endpoint"), str):
        raise bad("缺少 endpoint", "endpoint is missing", field="endpoint", rule="CIM 009, 5.2.9")
    if "expiresAt" in document:
        document["expiresAt"] = forms.datetime_text(document["expiresAt"], "expiresAt")
    for key in _GEOMETRIES:
        if key in document:
            value = document[key]
            if isinstance(value, dict) and value.get("type") == "GeoProperty":
                value = document[key] = value.get("value")
            geo.check(value, key)
    for key in _INTERVALS:
        if key in document:
            _interval(document[key], key)
    if "scope" in document:
        document["scope"] = Reader(CORE).scope(document["scope"])
    for key in ("localOnly",):
        if key in document and not isinstance(document[key], bool):
            raise bad(f"{key} 应为布尔值", f"{key} must be a boolean", field=key, value=document[key])
    if "refreshRate" in document:
        _duration(document["refreshRate"], "refreshRate")
    _datasets(document)
    _management(document)
    _source_info(document.get("contextSourceInfo"), "contextSourceInfo" in document)
    document["information"] = _information(document.get("information"), context)
    _mode(document)
    return document


def _interval(value: Any, field: str) -> None:
    if not isinstance(value, dict):
        raise bad(f"{field} 应为时间区间", f"{field} must be an interval", field=field, value=value, rule="CIM 009, 5.2.11")
    start = forms.micros(forms.datetime_text(value.get("startAt"), f"{field}.startAt"))
    if "endAt" in value and forms.micros(forms.datetime_text(value["endAt"], f"{field}.endAt")) < start:
        raise bad(f"{field}.endAt 早于 startAt", f"{field}.endAt is before startAt", field=f"{field}.endAt",
                  value=value["endAt"])


def _duration(value: Any, field: str) -> None:
    try:
        if isinstance(value, str):
            duration(value)
            return
    except TulouError:
        pass
    raise bad(f"{field} 应为 ISO 8601 时长（如 PT5M）", f"{field} must be an ISO 8601 duration", field=field, value=value)


def _datasets(document: Json) -> None:
    if "datasetId" not in document:
        return
    value = document["datasetId"]
    items = value if isinstance(value, list) else [value]
    if not items or not all(item == "@none" or is_iri(item) for item in items):
        raise bad("datasetId 应为 URI 或 @none", "datasetId must be URIs or @none", field="datasetId", value=value)


def _management(document: Json) -> None:
    if "management" not in document:
        return
    value = document["management"]
    if not isinstance(value, dict):
        raise bad("management 应为对象", "management must be an object", field="management", value=value, rule="5.2.34")
    if "cacheDuration" in value:
        _duration(value["cacheDuration"], "management.cacheDuration")
    for key in ("cooldown", "timeout"):
        number = value.get(key)
        if key in value and (isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < 1e9):
            raise bad(f"management.{key} 应为正数（毫秒）", f"management.{key} must be positive milliseconds",
                      field=f"management.{key}", value=number, rule="CIM 009, 5.2.34")
    if "localOnly" in value and not isinstance(value["localOnly"], bool):
        raise bad("management.localOnly 应为布尔值", "management.localOnly must be a boolean",
                  field="management.localOnly", value=value["localOnly"])


def _source_info(value: Any, given: bool) -> None:
    if not given:
        return
    if not isinstance(value, list) or len(value) > 100:
        raise bad("contextSourceInfo 应为 {key, value} 的数组", "contextSourceInfo must be an array of {key, value}",
                  field="contextSourceInfo", value=value)
    for item in value:
        if (
            not isinstance(item, dict) or not isinstance(item.get("key"), str) or not isinstance(item.get("value"), str)
            or not _TOKEN.fullmatch(item["key"]) or not item["value"].isprintable() or len(item["value"]) > 4096
        ):
            raise bad("contextSourceInfo 应为 {key, value}", "contextSourceInfo must be {key, value} of texts",
                      field="contextSourceInfo", value=item, rule="CIM 009, 5.2.22")
        if item["value"] == REQUEST and item["key"].lower() in CREDENTIALS:
            raise bad("调用者的凭证从不转发", "a caller's credentials are never sent on", field="contextSourceInfo",
                      value=item["key"], rule="no credentials")


def _information(value: Any, context: Context) -> list[Json]:
    if not isinstance(value, list) or not value or len(value) > MAX_INFORMATION:
        raise bad("information 应为非空数组", "information must be a non-empty array", field="information", value=value,
                  rule="CIM 009, 5.2.9")
    return [_info(item, context) for item in value]


def _info(raw: Any, context: Context) -> Json:
    if not isinstance(raw, dict) or not raw:
        raise bad("information 的每项应为对象", "every item of information must be an object", field="information", value=raw)
    info: Json = {}
    for key, value in raw.items():
        if key == "entities":
            if not isinstance(value, list) or not value or len(value) > MAX_INFORMATION:
                raise bad("information.entities 应为非空数组", "information.entities must be a non-empty array",
                          field="information.entities", value=value)
            info[key] = [_entity(item, context) for item in value]
        elif key in ("propertyNames", "relationshipNames"):
            if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
                raise bad(f"information.{key} 应为非空的名称数组", f"information.{key} must be a non-empty array of names",
                          field=f"information.{key}", value=value)
            info[key] = [context.stored(name) for name in value]
        else:
            raise bad(f"information 没有成员 {key}", f"information has no member {key}", field=f"information.{key}",
                      rule="CIM 009, 5.2.10")
    return info


def _entity(raw: Any, context: Context) -> Json:
    if not isinstance(raw, dict) or not raw.keys() & {"id", "idPattern", "type"}:
        raise bad("entities 的每项应有 type、id 或 idPattern", "every item of entities needs type, id or idPattern",
                  field="information.entities", value=raw, rule="CIM 009, 5.2.8")
    entity = dict(raw)
    if "id" in entity and not is_iri(entity["id"]):
        raise bad("entities.id 应为 URI", "entities.id must be a URI", field="information.entities.id", value=entity["id"])
    if "idPattern" in entity:
        if not isinstance(entity["idPattern"], str):
            raise bad("idPattern 应为文本", "idPattern must be a text", field="information.entities.idPattern",
                      value=entity["idPattern"])
        try:
            query.regexp(entity["idPattern"])
        except re2.error as error:
            raise bad(f"idPattern 不是有效的正则表达式：{error}", f"idPattern is not a regular expression: {error}",
                      field="information.entities.idPattern", value=entity["idPattern"]) from None
    if "type" in entity:
        kinds = entity["type"] if isinstance(entity["type"], list) else [entity["type"]]
        if not kinds or not all(isinstance(kind, str) for kind in kinds):
            raise bad("entities.type 应为名称", "entities.type must be a name", field="information.entities.type",
                      value=entity["type"])
        stored = [context.stored(kind) for kind in kinds]
        entity["type"] = stored if isinstance(entity["type"], list) else stored[0]
    return entity


def _mode(document: Json) -> None:
    mode = document.get("mode", "inclusive")
    if mode not in matching.MODES:
        raise bad(f"mode 应为 {', '.join(matching.MODES)}", f"mode must be among {', '.join(matching.MODES)}", field="mode",
                  value=mode, rule="CIM 009, 5.2.9")
    operations = document.get("operations")
    if "operations" in document and not (
        isinstance(operations, list) and operations
        and all(isinstance(name, str) and (name in matching.OPERATIONS or name in matching.GROUPS) for name in operations)
    ):
        raise bad("operations 应为操作名或操作组的数组", "operations must be an array of operations or groups of them",
                  field="operations", value=operations, rule="CIM 009, 4.20")
    if mode == "auxiliary" and not operations_of(document) <= matching.READING:
        raise bad("auxiliary 来源只可提供读取操作", "an auxiliary source offers operations of consumption only",
                  field="operations", value=operations, rule="CIM 009, 5.9.2.4")
    if mode == "exclusive":
        for info in document["information"]:
            named = info.get("propertyNames") or info.get("relationshipNames")
            if not named or not info.get("entities") or any(
                "id" not in item or "idPattern" in item for item in info["entities"]
            ):
                raise bad("exclusive 注册须给出实体 id 与属性，不可用 idPattern 或仅用 type",
                          "an exclusive registration names entity ids and attributes, neither a pattern nor types alone",
                          field="information", value=info, rule="CIM 009, 4.3.6.3")


def operations_of(document: Json) -> frozenset[str]:
    """The operations of a registration, its groups resolved; `federationOps` where it names none (4.20)."""
    named: Sequence[str] = document.get("operations") or ("federationOps",)
    return frozenset(single for name in named for single in matching.GROUPS.get(name, (name,)))


def compiled(no: int, id: str, org: str, document: Json) -> Registration:
    """A checked registration for matching and forwarding."""
    infos = []
    for info in document["information"]:
        entities = tuple(
            EntityInfo(
                frozenset() if "type" not in item else frozenset([item["type"]] if isinstance(item["type"], str) else item["type"]),
                item.get("id"), item.get("idPattern") if "id" not in item else None,
            )
            for item in info.get("entities", ())
        )
        infos.append(Info(entities, frozenset(info.get("propertyNames", ())) | frozenset(info.get("relationshipNames", ()))))
    management = document.get("management", {})
    pairs = [(item["key"], item["value"]) for item in document.get("contextSourceInfo", ())]
    special = {key.lower(): value for key, value in pairs if key.lower() in ("jsonldcontext", "contenttype", "accept")}
    datasets = document.get("datasetId", [])
    return Registration(
        no, id, org, document.get("mode", "inclusive"), operations_of(document), tuple(infos),
        document["endpoint"].rstrip("/").removesuffix("/ngsi-ld/v1"), document.get("tenant"),
        document.get("contextSourceAlias"),
        tuple((key, value) for key, value in pairs if key.lower() not in ("jsonldcontext", "contenttype", "accept")),
        special.get("jsonldcontext"), special.get("contenttype"), special.get("accept"),
        bool(document.get("localOnly") or management.get("localOnly")),
        management["timeout"] / 1000 if "timeout" in management else None, management.get("cooldown", 0) / 1000,
        forms.micros(document["expiresAt"]) if "expiresAt" in document else None, document.get("location"),
        frozenset(datasets if isinstance(datasets, list) else [datasets]), _span(document.get("observationInterval")),
        _span(document.get("managementInterval")), _properties(document),
    )


def _span(value: Json | None) -> tuple[int, int | None] | None:
    if value is None:
        return None
    return forms.micros(value["startAt"]), forms.micros(value["endAt"]) if "endAt" in value else None


def _properties(document: Json) -> Json:
    """What a filter on sources (4.9, csf) can ask about: the source's own properties and the members that are texts."""
    found: Json = {"id": document.get("id", ""), "type": KIND}
    for key, value in document.items():
        if key in ("id", "type", "information", "contextSourceInfo", "management") or key in _GEOMETRIES:
            continue
        if isinstance(value, dict) and value.get("type") in forms.VALUE_OF and forms.VALUE_OF[value["type"]] in value:
            found[key] = value
        else:
            found[key if key not in _KNOWN else CORE.stored(key)] = {"type": "Property", "value": value}
    return found
