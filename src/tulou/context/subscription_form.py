"""Subscription documents: what a client may write, checked; and their names, stored and shown.

Law: pure functions. A document is stored with its names in the stored form of `jsonld`, so that another context may
change or read it; only `q`, `csf` and `geoQ` keep the words they were written in, with the context of those words
beside them in the member `WORDS`.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.2.12 to 5.2.15, 5.2.22, 7.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from tulou.context import forms
from tulou.context.errors import bad
from tulou.context.forms import Json
from tulou.context.jsonld import Context, is_iri
from tulou.kernel.errors import TulouError
from tulou.kernel.outbound import target_of

WORDS = "@words"
"""Member of a stored document: the context of its query texts."""
VIA = "@via"
"""Member of a stored document: the sources by which a subscription came (4.3.6.4), where it came by any."""
SCHEMES = ("http", "https", "mqtt", "mqtts")
TRIGGERS = frozenset(
    {"entityCreated", "entityUpdated", "entityDeleted", "attributeCreated", "attributeUpdated", "attributeDeleted"}
)
DEFAULT_TRIGGERS = ("attributeCreated", "attributeUpdated")
MQTT_VERSIONS = ("mqtt3.1.1", "mqtt5.0")

_MEMBERS = frozenset(
    {
        "id", "type", "subscriptionName", "description", "entities", "watchedAttributes", "notificationTrigger",
        "timeInterval", "q", "geoQ", "csf", "isActive", "notification", "expiresAt", "throttling", "temporalQ",
        "scopeQ", "lang", "datasetId", "jsonldContext", "expandValues", "jsonKeys", "splitEntities", "localOnly",
    }
)
_OUTPUT = frozenset({"status", "createdAt", "modifiedAt"})
_NOTIFICATION = frozenset(
    {"attributes", "pick", "omit", "format", "endpoint", "showChanges", "sysAttrs", "join", "joinLevel", "containedBy"}
)
_NOTIFICATION_OUTPUT = frozenset({"timesSent", "timesFailed", "lastNotification", "lastSuccess", "lastFailure", "status"})
_ENDPOINT = frozenset({"uri", "accept", "timeout", "cooldown", "receiverInfo", "notifierInfo"})
_MEDIA = ("application/json", "application/ld+json", "application/geo+json")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-type", "link"})
_TYPE_NAME = re.compile(r"[^(),;|\s]+")
MAX_JOIN = 5


def checked(raw: Any) -> Json:
    """A subscription document (5.2.12), checked, without what only the house writes. Raises `BadRequestData`."""
    if not isinstance(raw, dict):
        raise bad("订阅应为 JSON 对象", "a subscription must be a JSON object", field="body", rule="object")
    document = {key: value for key, value in raw.items() if key != "@context" and key not in _OUTPUT}
    for key, value in document.items():
        if key not in _MEMBERS:
            raise bad(f"订阅没有成员 {key}", f"a subscription has no member {key}", field=key, rule="CIM 009, 5.2.12")
        if value is None:
            raise bad(f"{key} 不可为 null", f"{key} must not be null", field=key)
    if document.get("type") != "Subscription":
        raise bad("type 应为 Subscription", "type must be Subscription", field="type", value=document.get("type"))
    if "id" in document and not is_iri(document["id"]):
        raise bad("id 应为 URI", "id must be a URI", field="id", value=document["id"], rule="URI")
    for key in ("subscriptionName", "description", "q", "scopeQ", "csf", "lang", "jsonldContext"):
        if key in document and (not isinstance(document[key], str) or not document[key] or len(document[key]) > 8192):
            raise bad(f"{key} 应为文本", f"{key} must be a text", field=key, value=document[key])
    _check_flags(document, ("isActive", "splitEntities", "localOnly"), "")
    if "jsonldContext" in document and not (is_iri(document["jsonldContext"]) or document["jsonldContext"].startswith("/")):
        raise bad("jsonldContext 应为 URI", "jsonldContext must be a URI", field="jsonldContext",
                  value=document["jsonldContext"], rule="URI")
    for key in ("timeInterval", "throttling"):
        value = document.get(key)
        if key in document and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e8):
            raise bad(f"{key} 应为正数（秒）", f"{key} must be a positive number of seconds", field=key, value=value)
    if "timeInterval" in document and ("throttling" in document or "watchedAttributes" in document):
        raise bad("timeInterval 不可与 throttling、watchedAttributes 同用",
                  "timeInterval excludes throttling and watchedAttributes", field="timeInterval", rule="5.2.12")
    if not any(key in document for key in ("entities", "watchedAttributes")):
        raise bad("entities 与 watchedAttributes 至少一个", "entities or watchedAttributes is needed", field="entities")
    _check_entities(document.get("entities"), "entities" in document)
    _check_names(document, "watchedAttributes", "watchedAttributes")
    triggers = document.get("notificationTrigger")
    if "notificationTrigger" in document and not (
        isinstance(triggers, list) and triggers and all(isinstance(item, str) and item in TRIGGERS for item in triggers)
    ):
        raise bad("notificationTrigger 不合规则", f"notificationTrigger must be among {sorted(TRIGGERS)}",
                  field="notificationTrigger", value=triggers, rule="CIM 009, 5.2.12")
    if "geoQ" in document and not isinstance(document["geoQ"], dict):
        raise bad("geoQ 应为对象", "geoQ must be an object", field="geoQ", value=document["geoQ"])
    datasets = document.get("datasetId")
    if "datasetId" in document:
        items = [datasets] if isinstance(datasets, str) else datasets
        if not isinstance(items, list) or not items or not all(item == "@none" or is_iri(item) for item in items):
            raise bad("datasetId 应为 URI 或 @none 的数组", "datasetId must be URIs or @none", field="datasetId",
                      value=datasets, rule="CIM 009, 5.2.12")
    document["notification"] = _notification(document.get("notification"))
    return document


def _check_flags(document: Json, keys: tuple[str, ...], within: str) -> None:
    for key in keys:
        if key in document and not isinstance(document[key], bool):
            raise bad(f"{within}{key} 应为布尔值", f"{within}{key} must be a boolean", field=within + key,
                      value=document[key], rule="boolean")


def _check_entities(items: Any, given: bool) -> None:
    if not given:
        return
    if not isinstance(items, list) or not items or len(items) > 1000:
        raise bad("entities 应为非空数组", "entities must be a non-empty array", field="entities", value=items)
    for item in items:
        if not isinstance(item, dict) or not item.get("type"):
            raise bad("entities 的每项应有 type", "every item of entities needs a type", field="entities", value=item)
        if not isinstance(item["type"], str):
            raise bad("entities.type 应为文本", "entities.type must be a text", field="entities.type", value=item["type"])
        ids = item.get("id")
        if ids is not None and not (is_iri(ids) or (isinstance(ids, list) and ids and all(is_iri(i) for i in ids))):
            raise bad("entities.id 应为 URI", "entities.id must be a URI", field="entities.id", value=ids, rule="URI")
        if "idPattern" in item and not isinstance(item["idPattern"], str):
            raise bad("idPattern 应为文本", "idPattern must be a text", field="entities.idPattern")


def _check_names(document: Json, key: str, field: str) -> None:
    names = document.get(key)
    if key in document and not (isinstance(names, list) and names and all(isinstance(n, str) and n for n in names)):
        raise bad(f"{field} 应为非空的名称数组", f"{field} must be a non-empty array of names", field=field, value=names)


def _notification(raw: Any) -> Json:
    if not isinstance(raw, dict):
        raise bad("缺少 notification", "notification is missing", field="notification", rule="CIM 009, 5.2.14")
    document = {key: value for key, value in raw.items() if key not in _NOTIFICATION_OUTPUT}
    for key in document:
        if key not in _NOTIFICATION:
            raise bad(f"notification 没有成员 {key}", f"notification has no member {key}", field=f"notification.{key}",
                      rule="CIM 009, 5.2.14")
    for key in ("attributes", "pick", "omit"):
        _check_names(document, key, f"notification.{key}")
    if "attributes" in document and ("pick" in document or "omit" in document):
        raise bad("attributes 不可与 pick、omit 同用", "attributes excludes pick and omit", field="notification.attributes",
                  rule="CIM 009, 4.21")
    both = set(document.get("pick", ())) & set(document.get("omit", ()))
    if both:
        raise bad("pick 与 omit 不可有相同成员", "pick and omit must not share members", field="notification.omit",
                  value=sorted(both), rule="CIM 009, 4.21")
    style = document.get("format", "normalized")
    if not isinstance(style, str) or style not in forms.STYLES:
        raise bad("notification.format 不合规则", f"notification.format must be among {sorted(forms.STYLES)}",
                  field="notification.format", value=document.get("format"))
    _check_flags(document, ("showChanges", "sysAttrs"), "notification.")
    if document.get("showChanges") and forms.STYLES[style] == "simplified":
        raise bad("showChanges 不可与简化格式同用", "showChanges excludes the simplified format",
                  field="notification.showChanges", value=style, rule="CIM 009, 5.2.14")
    if document.get("join", "@none") not in ("flat", "inline", "@none"):
        raise bad("notification.join 应为 flat、inline 或 @none", "notification.join must be flat, inline or @none",
                  field="notification.join", value=document["join"], rule="CIM 009, 5.2.14")
    level = document.get("joinLevel", 1)
    if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level <= MAX_JOIN:
        raise bad(f"notification.joinLevel 应为 1 至 {MAX_JOIN}", f"notification.joinLevel must be 1..{MAX_JOIN}",
                  field="notification.joinLevel", value=level, rule=f"1..{MAX_JOIN}")
    document["endpoint"] = _endpoint(document.get("endpoint"))
    return document


def _endpoint(raw: Any) -> Json:
    if not isinstance(raw, dict):
        raise bad("缺少 notification.endpoint", "notification.endpoint is missing", field="notification.endpoint")
    for key in raw:
        if key not in _ENDPOINT:
            raise bad(f"endpoint 没有成员 {key}", f"endpoint has no member {key}", field=f"notification.endpoint.{key}",
                      rule="CIM 009, 5.2.15")
    uri = raw.get("uri")
    where = "notification.endpoint.uri"
    try:
        target = target_of(uri, SCHEMES) if isinstance(uri, str) and is_iri(uri) else None
    except TulouError:
        target = None
    if target is None:
        raise bad("endpoint.uri 应为 http、https、mqtt 或 mqtts 地址",
                  "endpoint.uri must be an http, https, mqtt or mqtts address", field=where, value=uri, rule="CIM 009, 5.2.15")
    if target.scheme in ("http", "https") and "@" in str(uri).split("/", 3)[2]:
        raise bad("http 地址不可含用户信息；请用 receiverInfo", "an http address must not hold credentials; use receiverInfo",
                  field=where, rule="CIM 009, 5.2.15")
    if target.scheme in ("mqtt", "mqtts"):
        topic = topic_of(str(uri))
        if not topic or any(c in topic for c in "+#\x00") or len(topic) > 2000:
            raise bad("MQTT 地址的路径应为主题名", "the path of an MQTT address must be a topic name", field=where,
                      value=uri, rule="CIM 009, 7.2")
    if raw.get("accept", "application/json") not in _MEDIA:
        raise bad("endpoint.accept 不合规则", "endpoint.accept must be application/json, ld+json or geo+json",
                  field="notification.endpoint.accept", value=raw.get("accept"))
    for key in ("timeout", "cooldown"):
        value = raw.get(key)
        if key in raw and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9):
            raise bad(f"endpoint.{key} 应为正数（毫秒）", f"endpoint.{key} must be positive milliseconds",
                      field=f"notification.endpoint.{key}", value=value)
    for name in ("receiverInfo", "notifierInfo"):
        _check_pairs(raw.get(name), f"notification.endpoint.{name}", headers=name == "receiverInfo")
    if target.scheme in ("mqtt", "mqtts"):
        info = pairs(raw, "notifierInfo")
        if info.get("MQTT-QoS", "0") not in ("0", "1", "2"):
            raise bad("MQTT-QoS 应为 0、1 或 2", "MQTT-QoS must be 0, 1 or 2", field="notification.endpoint.notifierInfo",
                      value=info["MQTT-QoS"], rule="CIM 009, 7.2")
        if info.get("MQTT-Version", "mqtt5.0") not in MQTT_VERSIONS:
            raise bad("MQTT-Version 应为 mqtt3.1.1 或 mqtt5.0", "MQTT-Version must be mqtt3.1.1 or mqtt5.0",
                      field="notification.endpoint.notifierInfo", value=info["MQTT-Version"], rule="CIM 009, 7.2")
    return raw


def topic_of(uri: str) -> str:
    """The topic that an MQTT address names: its path, with whatever follows it (7.2)."""
    return unquote(uri.split("/", 3)[3]) if uri.count("/") > 2 else ""


def _check_pairs(items: Any, field: str, *, headers: bool) -> None:
    if items is None:
        return
    if not isinstance(items, list) or len(items) > 100:
        raise bad(f"{field} 应为数组", f"{field} must be an array", field=field, value=items, rule="CIM 009, 5.2.22")
    for item in items:
        if (
            not isinstance(item, dict) or not isinstance(item.get("key"), str) or not isinstance(item.get("value"), str)
            or not _HEADER.fullmatch(item["key"]) or not item["value"].isprintable() or len(item["value"]) > 4096
            or (headers and item["key"].lower() in _OWN_HEADERS)
        ):
            raise bad(f"{field} 应为文本的 {{key, value}}", f"{field} must be {{key, value}} of texts that can be headers",
                      field=field, value=item, rule="CIM 009, 5.2.22")


def pairs(endpoint: Json, name: str) -> dict[str, str]:
    """`receiverInfo` or `notifierInfo` of an endpoint as a mapping."""
    return {item["key"]: item["value"] for item in endpoint.get(name) or ()}


def with_names(document: Json, change: Callable[[str], str]) -> Json:
    """A document with every name in it changed: types, attributes, members of projections."""
    out = dict(document)
    if "entities" in out:
        out["entities"] = [{**item, "type": type_text(item["type"], change)} for item in out["entities"]]
    if "watchedAttributes" in out:
        out["watchedAttributes"] = list(map(change, out["watchedAttributes"]))
    notification = dict(out["notification"])
    for key in ("attributes", "pick", "omit"):
        if key in notification:
            notification[key] = list(map(change, notification[key]))
    out["notification"] = notification
    return out


def type_text(text: str, change: Callable[[str], str]) -> str:
    """A type selection (4.17) with its names changed."""
    return text if text == "*" else _TYPE_NAME.sub(lambda match: change(match.group()), text)


def stored_document(document: Json, context: Context, spec: Any) -> Json:
    """A checked document as it is stored. Raises `BadRequestData` for a name that cannot be one."""
    return {**with_names(document, context.stored), WORDS: spec}


def shown_document(document: Json, context: Context) -> Json:
    """A stored document as a client of `context` sees it."""
    out = with_names(document, context.shown)
    out.pop(WORDS, None)
    out.pop(VIA, None)
    return out
