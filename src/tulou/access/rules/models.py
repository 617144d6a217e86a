"""Rules as people and packs declare them: one class per kind of condition.

Law: a rule is checked when it is declared, whoever declares it; what is declared here can be evaluated. A rule of an
organisation watches that organisation's entities, a rule of a pack everybody's. Every condition but absence may ask that
it holds for `for_s` seconds of the readings' own time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import Field, field_validator, model_validator
from shapely.errors import ShapelyError
from shapely.geometry import shape

from tulou.access.rules.expression import parse
from tulou.kernel import packs as declared
from tulou.kernel.packs import Strict, broken
from tulou.kernel.sql import BigId, Json, UtcDateTime, metadata

SEVERITIES = ("warning", "minor", "major", "critical")
"""From the least to the worst."""
Severity = Literal["critical", "major", "minor", "warning"]
DAY = 86_400
POINTS = 2_000
"""Positions in the area of a geofence."""

Name = Annotated[str, Field(min_length=1, max_length=128)]
Hold = Annotated[int, Field(ge=0, le=30 * DAY)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

rules = sa.Table(
    "rules", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("type", sa.String(128), nullable=False),
    sa.Column("entities", Json),
    sa.Column("condition", Json, nullable=False),
    sa.Column("severity", sa.String(16), nullable=False),
    sa.Column("escalate_s", sa.Integer),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Index("ix_rules_org_id", "org", "id"),
    sqlite_autoincrement=True,
)
"""`entities`: ids of the entities it is limited to, or null for all of the type in the organisation. A number
is never used again: alarms name it."""

rule_checkpoint = sa.Table(
    "rule_checkpoint", metadata,
    sa.Column("stream", sa.String(64), primary_key=True),
    sa.Column("created", UtcDateTime, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),
)
"""The evaluator as it was after message `seq` of the stream that was created then (`engine.py`)."""


class _Bound(Strict):
    property: Name
    above: Finite | None = None
    below: Finite | None = None
    clear: Finite | None = None
    for_s: Hold = 0

    @model_validator(mode="after")
    def _one_side(self) -> _Bound:
        if (self.above is None) == (self.below is None):
            raise broken("bound", "above 与 below 应恰有其一", "exactly one of above and below must be given")
        if self.clear is not None and (
            self.clear > self.above if self.above is not None else self.clear < (self.below or 0.0)
        ):
            raise broken("clear", "clear 应在界限的正常一侧", "clear must lie on the good side of the bound")
        return self

    def names(self) -> tuple[str, ...]:
        return (self.property,)


class Threshold(_Bound):
    """The value is above (or below) a bound; over when it is back at `clear`, or at the bound without one."""

    kind: Literal["threshold"] = "threshold"


class Rate(_Bound):
    """The value changes by more than `above` (less than `below`: falls) within `per_s` seconds, from one reading to the
    next."""

    kind: Literal["rate"]
    per_s: float = Field(default=1.0, gt=0, le=DAY)


class Absence(Strict):
    """No value for `after_s` seconds by the house's clock, of an entity that has had one."""

    kind: Literal["absence"]
    property: Name
    after_s: int = Field(ge=1, le=30 * DAY)

    def names(self) -> tuple[str, ...]:
        return (self.property,)


class Geofence(Strict):
    """The position is inside (outside) an area: GeoJSON, Polygon or MultiPolygon, WGS 84; its edge is inside."""

    kind: Literal["geofence"]
    area: dict[str, Any]
    when: Literal["inside", "outside"] = "outside"
    longitude: Name = "longitude"
    latitude: Name = "latitude"
    for_s: Hold = 0

    @field_validator("area")
    @classmethod
    def _area(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value.get("type") not in ("Polygon", "MultiPolygon") or set(value) - {"type", "coordinates"}:
            raise broken("area", "area 应为 GeoJSON 的 Polygon 或 MultiPolygon", "area must be a GeoJSON Polygon or MultiPolygon")
        if str(value.get("coordinates")).count("[") > POINTS + 100:
            raise broken("area", f"area 超过 {POINTS} 个点", f"area has more than {POINTS} positions")
        try:
            made = shape(value)
            valid = made.is_valid and not made.is_empty
            west, south, east, north = made.bounds
        except (ShapelyError, ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise broken("area", "area 不是 GeoJSON", "area is not GeoJSON") from None
        if not valid or not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
            raise broken("area", "area 应为有效的多边形，单位为度，经度在前", "area must be a valid polygon in degrees, longitude first")
        return value

    def names(self) -> tuple[str, ...]:
        return (self.longitude, self.latitude)


class Expression(Strict):
    """`raise_if` is true of the latest values; over when `clear_if` is, or without one when `raise_if` is not."""

    kind: Literal["expression"]
    raise_if: str
    clear_if: str | None = None
    for_s: Hold = 0

    @field_validator("raise_if", "clear_if")
    @classmethod
    def _text(cls, value: str | None) -> str | None:
        return None if value is None else parse(value).text

    def names(self) -> tuple[str, ...]:
        texts = [text for text in (self.raise_if, self.clear_if) if text is not None]
        return tuple(dict.fromkeys(name for text in texts for name in parse(text).properties))


class Presence(Strict):
    """A device is heard within its model's `offline_after_s`: followed by the directory (`alarms.absence`), not by values."""

    def names(self) -> tuple[str, ...]:
        return ()


Identity = tuple[str, str, str, int]
"""Type, property, key and version of a rule."""
Condition = Annotated[Threshold | Rate | Absence | Geofence | Expression, Field(discriminator="kind")]


class Declared(Strict):
    """What packs and organisations say of a rule alike. An alarm that nobody acknowledges becomes one step more severe
    after each `escalate_s` seconds."""

    type: Name
    condition: Condition
    severity: Severity = "major"
    escalate_s: int | None = Field(default=None, ge=60, le=30 * DAY)


class NewRule(Declared):
    """A rule of an organisation, with the ids of the entities that it is limited to."""

    org: str = Field(min_length=1, max_length=64)
    name: str = Field(min_length=1, max_length=200)
    entities: list[Annotated[str, Field(min_length=1, max_length=255)]] | None = Field(
        default=None, min_length=1, max_length=1000
    )
    enabled: bool = True


class PackRule(Declared):
    """A rule of a pack: `name` is what its alarms carry, `label` what people read."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")
    label: declared.Text


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule to be evaluated. `key` is what alarms carry: `above` and `below` of a model's property, a pack rule's name,
    `rule-<id>` of an organisation's; `org` and `entities` None mean all."""

    key: str
    type: str
    condition: Threshold | Rate | Absence | Geofence | Expression | Presence
    severity: str
    title: str = ""
    org: str | None = None
    entities: frozenset[int] | None = None
    id: int | None = None
    version: int = 1
    escalate_s: int | None = None

    @property
    def about(self) -> str:
        """The property that its alarms name; empty where there are several."""
        names = self.condition.names()
        return names[0] if len(names) == 1 else ""

    @property
    def identity(self) -> Identity:
        """What makes it the same rule as another time."""
        return self.type, self.about, self.key, self.version


def key_of(rule_id: int) -> str:
    """What the alarms of an organisation's rule carry."""
    return f"rule-{rule_id}"


def of_models(models: Mapping[str, declared.Model]) -> list[Rule]:
    """The thresholds of models' properties, as rules: `above` and `below`."""
    found = []
    for kind, model in models.items():
        for name, prop in model.properties.items():
            bound = prop.alarm
            if bound is None:
                continue
            if bound.above is not None:
                clear = None if bound.clear is None else min(bound.clear, bound.above)
                condition = Threshold(property=name, above=bound.above, clear=clear, for_s=bound.for_s)
                found.append(Rule("above", kind, condition, bound.severity))
            if bound.below is not None:
                clear = None if bound.clear is None else max(bound.clear, bound.below)
                condition = Threshold(property=name, below=bound.below, clear=clear, for_s=bound.for_s)
                found.append(Rule("below", kind, condition, bound.severity))
    return found
