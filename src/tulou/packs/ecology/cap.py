"""Common Alerting Protocol 1.2 (OASIS, 2010): an alert as data, its XML, and back.

Law: pure. What `build` writes is in the order of the schema CAP-v1.2.xsd, with times as its pattern asks (an offset, never `Z`), and
`parse` reads that and what others wrote in the same namespace; whatever breaks a rule is named. Entities and document types are not read.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from xml.etree import ElementTree as ET

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tulou.kernel.errors import Invalid

NAMESPACE = "urn:oasis:names:tc:emergency:cap:1.2"
MOST = 1 << 20
"""Bytes of a document that is read."""


def _token(text: str) -> str:
    if re.search(r"[\s,<&]", text):
        raise ValueError("no white space, comma, < or &")
    return text


def _visible(text: str) -> str:
    if re.search("[\x00-\x08\x0b\x0c\x0e-\x1f￾￿\ud800-\udfff]", text):
        raise ValueError("characters that XML does not have")
    return text


Token = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_token), AfterValidator(_visible)]
Line = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_visible)]
Prose = Annotated[str, Field(min_length=1, max_length=20_000), AfterValidator(_visible)]


class Part(BaseModel):
    """A part of an alert; no fields but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Named(Part):
    """A value with a name: an event code, a parameter, a geocode."""

    name: Line
    value: Line


class Area(Part):
    """Where. `polygons` are rings of (latitude, longitude), WGS 84, the last point being the first; `circles` (latitude, longitude, km)."""

    description: Line
    polygons: list[Annotated[list[tuple[float, float]], Field(min_length=4, max_length=5000)]] = Field(default_factory=list, max_length=100)
    circles: list[tuple[float, float, float]] = Field(default_factory=list, max_length=100)
    geocodes: list[Named] = Field(default_factory=list, max_length=100)

    @model_validator(mode="after")
    def _sound(self) -> Area:
        for ring in self.polygons:
            if ring[0] != ring[-1]:
                raise ValueError("the last point of a polygon is its first")
        for latitude, longitude, *radius in (*(point for ring in self.polygons for point in ring), *self.circles):
            if not (-90 <= latitude <= 90 and -180 <= longitude <= 180 and all(one >= 0 for one in radius)):
                raise ValueError("a point is latitude -90..90, longitude -180..180")
        return self


class Info(Part):
    """What, how bad and what to do, in one language."""

    language: Annotated[str, Field(pattern=r"^[a-zA-Z]{1,8}(-[a-zA-Z0-9]{1,8})*$")] = "zh-CN"
    categories: list[Literal["Geo", "Met", "Safety", "Security", "Rescue", "Fire", "Health", "Env", "Transport", "Infra", "CBRNE", "Other"]] = Field(
        default=["Env"], min_length=1)
    event: Line
    responses: list[Literal["Shelter", "Evacuate", "Prepare", "Execute", "Avoid", "Monitor", "Assess", "AllClear", "None"]] = Field(default_factory=list)
    urgency: Literal["Immediate", "Expected", "Future", "Past", "Unknown"]
    severity: Literal["Extreme", "Severe", "Moderate", "Minor", "Unknown"]
    certainty: Literal["Observed", "Likely", "Possible", "Unlikely", "Unknown"]
    event_codes: list[Named] = Field(default_factory=list, max_length=50)
    effective: AwareDatetime | None = None
    onset: AwareDatetime | None = None
    expires: AwareDatetime | None = None
    sender_name: Line | None = None
    headline: Line | None = None
    description: Prose | None = None
    instruction: Prose | None = None
    contact: Line | None = None
    parameters: list[Named] = Field(default_factory=list, max_length=50)
    areas: list[Area] = Field(default_factory=list, max_length=100)

    @model_validator(mode="after")
    def _ordered(self) -> Info:
        begins = self.onset or self.effective
        if begins and self.expires and self.expires <= begins:
            raise ValueError("expires is after onset and effective")
        return self


class Alert(Part):
    """An alert. `references` are (sender, identifier, sent) of earlier ones, which an Update and a Cancel have."""

    identifier: Token
    sender: Token
    sent: AwareDatetime
    status: Literal["Actual", "Exercise", "System", "Test", "Draft"] = "Actual"
    kind: Literal["Alert", "Update", "Cancel", "Ack", "Error"] = "Alert"
    source: Line | None = None
    scope: Literal["Public", "Restricted", "Private"] = "Public"
    restriction: Line | None = None
    addresses: Line | None = None
    codes: list[Line] = Field(default_factory=list, max_length=50)
    note: Prose | None = None
    references: list[tuple[Token, Token, AwareDatetime]] = Field(default_factory=list, max_length=1000)
    info: list[Info] = Field(default_factory=list, max_length=50)

    @model_validator(mode="after")
    def _sound(self) -> Alert:
        if self.kind in ("Update", "Cancel", "Ack", "Error") and not self.references:
            raise ValueError(f"an {self.kind} names the earlier alerts in references")
        if (self.scope == "Restricted") != (self.restriction is not None):
            raise ValueError("restriction belongs to the scope Restricted")
        if self.scope == "Private" and self.addresses is None:
            raise ValueError("the scope Private names addresses")
        return self


def moment(at: dt.datetime) -> str:
    """A time as the schema wants it."""
    offset = at.utcoffset() or dt.timedelta()
    minutes = abs(int(offset.total_seconds())) // 60
    return f"{at:%Y-%m-%dT%H:%M:%S}{'-' if offset <= dt.timedelta() else '+'}{minutes // 60:02}:{minutes % 60:02}"


def build(alert: Alert) -> bytes:
    """The XML of an alert, UTF-8 with a declaration."""
    root = ET.Element(f"{{{NAMESPACE}}}alert")
    _fill(root, [
        ("identifier", alert.identifier), ("sender", alert.sender), ("sent", moment(alert.sent)), ("status", alert.status),
        ("msgType", alert.kind), ("source", alert.source), ("scope", alert.scope), ("restriction", alert.restriction),
        ("addresses", alert.addresses), *(("code", code) for code in alert.codes), ("note", alert.note),
        ("references", " ".join(f"{sender},{identifier},{moment(sent)}" for sender, identifier, sent in alert.references) or None),
    ])
    for info in alert.info:
        into = ET.SubElement(root, f"{{{NAMESPACE}}}info")
        _fill(into, [
            ("language", info.language), *(("category", one) for one in info.categories), ("event", info.event),
            *(("responseType", one) for one in info.responses), ("urgency", info.urgency), ("severity", info.severity),
            ("certainty", info.certainty),
        ])
        _pairs(into, "eventCode", info.event_codes)
        _fill(into, [
            *((name, moment(at) if at else None) for name, at in (("effective", info.effective), ("onset", info.onset), ("expires", info.expires))),
            ("senderName", info.sender_name), ("headline", info.headline), ("description", info.description),
            ("instruction", info.instruction), ("contact", info.contact),
        ])
        _pairs(into, "parameter", info.parameters)
        for area in info.areas:
            place = ET.SubElement(into, f"{{{NAMESPACE}}}area")
            _fill(place, [
                ("areaDesc", area.description),
                *(("polygon", " ".join(f"{lat:.6f},{lon:.6f}" for lat, lon in ring)) for ring in area.polygons),
                *(("circle", f"{lat:.6f},{lon:.6f} {radius:g}") for lat, lon, radius in area.circles),
            ])
            _pairs(place, "geocode", area.geocodes)
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", default_namespace=NAMESPACE)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + text


def _fill(into: ET.Element, values: list[tuple[str, str | None]]) -> None:
    for name, value in values:
        if value is not None:
            ET.SubElement(into, f"{{{NAMESPACE}}}{name}").text = value


def _pairs(into: ET.Element, name: str, values: list[Named]) -> None:
    for one in values:
        _fill(ET.SubElement(into, f"{{{NAMESPACE}}}{name}"), [("valueName", one.name), ("value", one.value)])


def parse(text: bytes) -> Alert:
    """The alert of a document. Raises `Invalid` naming the element. Elements of other namespaces (signatures) and resources are left out."""
    if len(text) > MOST:
        raise _wrong("alert", f"至多 {MOST} 字节", f"{MOST} bytes at most")
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise _wrong("alert", "不接受文档类型与实体", "document types and entities are not read")
    try:
        root = ET.fromstring(text)  # noqa: S314 - nothing but elements is left
    except ET.ParseError as error:
        raise _wrong("alert", f"不是 XML：{error}", f"not XML: {error}") from None
    if root.tag != f"{{{NAMESPACE}}}alert":
        raise _wrong("alert", f"根元素不是 {NAMESPACE} 的 alert", f"the root is no alert of {NAMESPACE}")
    try:
        return Alert.model_validate({
            **_texts(root, {"identifier": "identifier", "sender": "sender", "sent": "sent", "status": "status", "msgType": "kind",
                            "source": "source", "scope": "scope", "restriction": "restriction", "addresses": "addresses", "note": "note"}),
            "codes": _all(root, "code"),
            "references": [tuple(one.split(",")) for text in _all(root, "references") for one in text.split()],
            "info": [_info(one) for one in root.findall(f"{{{NAMESPACE}}}info")],
        })
    except ValidationError as error:
        first = error.errors()[0]
        raise _wrong(".".join(map(str, first["loc"])) or "alert", first["msg"], first["msg"]) from None
    except ValueError as error:
        raise _wrong("area", str(error), str(error)) from None


def _info(of: ET.Element) -> dict[str, Any]:
    said = _texts(of, {
        "language": "language", "event": "event", "urgency": "urgency", "severity": "severity", "certainty": "certainty",
        "effective": "effective", "onset": "onset", "expires": "expires", "senderName": "sender_name", "headline": "headline",
        "description": "description", "instruction": "instruction", "contact": "contact",
    })
    said.setdefault("language", "en-US")  # 3.2.2: if null, en-US
    return {
        **said, "categories": _all(of, "category"), "responses": _all(of, "responseType"), "event_codes": list(_named(of, "eventCode")),
        "parameters": list(_named(of, "parameter")),
        "areas": [{
            "description": next(iter(_all(area, "areaDesc")), None),
            "polygons": [[tuple(map(float, point.split(","))) for point in ring.split()] for ring in _all(area, "polygon")],
            "circles": [(*map(float, circle.split()[0].split(",")), float(circle.split()[1])) for circle in _all(area, "circle") if circle.split()[1:]],
            "geocodes": list(_named(area, "geocode")),
        } for area in of.findall(f"{{{NAMESPACE}}}area")],
    }


def _all(of: ET.Element, name: str) -> list[str]:
    return [(one.text or "").strip() for one in of.findall(f"{{{NAMESPACE}}}{name}")]


def _texts(of: ET.Element, names: dict[str, str]) -> dict[str, Any]:
    return {into: found[0] for name, into in names.items() if (found := _all(of, name)) and found[0]}


def _named(of: ET.Element, name: str) -> Iterator[dict[str, str]]:
    for one in of.findall(f"{{{NAMESPACE}}}{name}"):
        yield {"name": next(iter(_all(one, "valueName")), ""), "value": next(iter(_all(one, "value")), "")}


def _wrong(field: str, zh: str, en: str) -> Invalid:
    return Invalid(f"CAP {field}：{zh}", f"CAP {field}: {en}", field=field, rule="CAP 1.2")
