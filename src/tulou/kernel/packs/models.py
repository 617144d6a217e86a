"""What a pack declares: entity models with their properties and commands, organisations, and what the pack says of itself.

Law: a declaration is data that is checked when it is read. A model's closed set of properties is what access checks readings against
and what NGSI-LD contexts are generated from. Models that people declare while the house runs (the hook `models`) keep the same rules.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tulou.kernel.errors import Invalid
from tulou.kernel.packs.reading import broken


def _name(text: str) -> str:
    if len(text) > 128 or not re.fullmatch(r"[^\W\d_][\w-]*", text):
        raise broken("name", "字母开头，只含字母、数字、下划线与连字符，至多 128 个字符", "a letter, then letters, digits, _ and -, 128 characters at most")
    return text


Name = Annotated[str, AfterValidator(_name)]
"""A type's or a property's name, a term of NGSI-LD (CIM 009, 4.6.2)."""
Bound = Annotated[float, Field(allow_inf_nan=False)]


class Strict(BaseModel):
    """What is declared: it has no fields but its own, and stays as it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Text(Strict):
    """A text for people in Chinese and English."""

    zh: str = Field(min_length=1, max_length=200)
    en: str = Field(min_length=1, max_length=200)


class Threshold(Strict):
    """Raise an alarm when the value is above or below a bound for `for_s` seconds; clear at `clear`."""

    above: float | None = None
    below: float | None = None
    clear: float | None = None
    for_s: int = 0
    severity: Literal["critical", "major", "minor", "warning"] = "major"


class Property(Strict):
    """A property of a model. `unit` is a UN/CEFACT code, `symbol` what people read, `lwm2m` the path of the LwM2M
    resource that says it (3303/0/5700). `codes`: what field protocols call it, by protocol (`hj212: a34004-Rtd`); a number
    that came under a code is multiplied by `scale`, then `offset` is added."""

    kind: Literal["number", "boolean", "string", "json"] = "number"
    label: Text
    unit: str = Field(default="", max_length=16)
    symbol: str = Field(default="", max_length=32)
    min: Bound | None = None
    max: Bound | None = None
    iri: str = Field(default="", max_length=2048)
    alarm: Threshold | None = None
    lwm2m: str = Field(default="", pattern=r"^(\d{1,5}/\d{1,5}/\d{1,5}(/\d{1,5})?)?$")
    codes: dict[str, Annotated[str, Field(min_length=1, max_length=128)]] = Field(default_factory=dict, max_length=20)
    scale: Bound = 1.0
    offset: Bound = 0.0

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise broken("range", f"最小值 {self.min:g} 大于最大值 {self.max:g}", f"min {self.min:g} is above max {self.max:g}")
        if not self.scale:
            raise broken("scale", "倍率不能为 0", "scale is not 0")
        if "lwm2m" in self.codes:
            raise broken("codes", "LwM2M 的资源路径写在 lwm2m 中", "the path of an LwM2M resource is said in lwm2m")
        return self


class Command(Strict):
    """What a device of a model can be told. `answer`: it answers; `repeat`: it may be sent again where it is unknown
    whether it arrived."""

    label: Text
    params: dict[str, Property] = Field(default_factory=dict)
    optional: list[str] = Field(default_factory=list)
    answer: bool = True
    repeat: bool = True
    expires_s: float = 60


class Model(Strict):
    """An entity type. A closed model refuses readings of unknown properties; an open one stores them. Where it has
    commands, its devices are told no others."""

    label: Text
    icon: str = ""
    iri: str = ""
    open: bool = False
    properties: dict[Name, Property] = Field(default_factory=dict, max_length=1000)
    relationships: dict[Name, Text] = Field(default_factory=dict, max_length=100)
    commands: dict[str, Command] = Field(default_factory=dict, max_length=200)
    retention_days: int | None = Field(default=None, ge=1, le=36_500)
    offline_after_s: int = Field(default=600, ge=1, le=31_536_000)

    @model_validator(mode="after")
    def _once(self) -> Self:
        """A code of a protocol, and a path of LwM2M, says one property."""
        said: dict[tuple[str, str], str] = {}
        for name, prop in self.properties.items():
            for protocol, code in (*prop.codes.items(), *([("lwm2m", prop.lwm2m)] if prop.lwm2m else ())):
                other = said.setdefault((protocol, code), name)
                if other != name:
                    raise broken(
                        "codes", f"属性 {other} 与 {name} 使用了协议 {protocol} 的同一代码 {code}",
                        f"properties {other} and {name} have the same code {code} of {protocol}",
                    )
        return self


class OrganisationSeed(Strict):
    """An organisation that ships with the pack, created approved when the house first starts."""

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)*$", min_length=2, max_length=64)
    label: Text
    kind: Literal["province", "city", "county", "department", "enterprise"]
    parent: str | None = None
    lon: float | None = Field(default=None, ge=-180, le=180)
    lat: float | None = Field(default=None, ge=-90, le=90)
    code: str = Field(default="", max_length=32)


class Description(Strict):
    """What something is for, in a few sentences."""

    zh: str = Field(min_length=1, max_length=2000)
    en: str = Field(min_length=1, max_length=2000)


class Provenance(Strict):
    """Where data of a pack are from. `of` names what they are: a section, or a file of the pack."""

    of: str = Field(min_length=1, max_length=200)
    source: str = Field(min_length=1, max_length=2000)
    licence: str = Field(min_length=1, max_length=200)
    retrieved: dt.date | None = None


PackName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=63)]
_VERSION = r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}"
_CONDITION = rf"(>=|<|==){_VERSION}"
Version = Annotated[str, Field(pattern=rf"^{_VERSION}$")]
"""Numbers between points; 0.10 is after 0.9, and 1 is 1.0."""
Range = Annotated[str, Field(pattern=rf"^({_CONDITION}(,{_CONDITION})*)?$", max_length=100)]
"""Conditions on a version, all of which hold: `>=1.2,<2`; empty: any."""


def version_of(text: str) -> tuple[int, ...]:
    """A version as it is compared."""
    numbers = [int(part) for part in text.split(".")]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def within_range(version: str, wanted: str) -> bool:
    """Whether a `Version` fulfils every condition of a `Range`."""
    mine = version_of(version)
    for condition in filter(None, wanted.split(",")):
        bound = version_of(condition.lstrip("<>="))
        if not {">": mine >= bound, "<": mine < bound, "=": mine == bound}[condition[0]]:
            return False
    return True


class Declaration(Strict):
    """The keys of `pack.yaml` that the house itself knows; engines add theirs (the hook `sections`). `requires`: packs that it needs,
    with their versions; `tulou` is the house. `serves`: ids of the plan's systems and targets. `data`: further files, which no section
    types and an engine reads by name."""

    name: PackName
    version: Version
    label: Text
    description: Description | None = None
    requires: dict[PackName, Range] = Field(default_factory=dict, max_length=100)
    serves: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default_factory=list, max_length=200)
    provenance: list[Provenance] = Field(default_factory=list, max_length=200)
    models: dict[Name, Model] = Field(default_factory=dict)
    organisations: list[OrganisationSeed] = Field(default_factory=list)
    data: dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(min_length=1, max_length=200)]] = Field(default_factory=dict)


_KINDS: dict[str, TypeAdapter[Any]] = {
    "number": TypeAdapter(Annotated[float, Field(allow_inf_nan=False)]), "boolean": TypeAdapter(bool),
    "string": TypeAdapter(Annotated[str, Field(max_length=65536)]), "json": TypeAdapter(Any),
}


def check_values(properties: Mapping[str, Property], values: Any, needed: Collection[str], within: str) -> None:
    """Raises `Invalid` for the first of the `needed` that is missing, and for the first value that has no property here, or is not of
    its kind and range. `within` is the field that holds them."""
    if not isinstance(values, dict):
        raise Invalid(f"{within} 应为对象", f"{within} must be an object", field=within, rule="object")
    for name in needed:
        if name not in values:
            raise Invalid(f"缺少 {within}.{name}", f"{within}.{name} is missing", field=f"{within}.{name}", rule="required")
    for name, value in values.items():
        prop = properties.get(name)
        place = f"{within}.{name}"
        if prop is None:
            raise Invalid(f"没有 {place}", f"there is no {place}", field=place, rule=" | ".join(properties))
        try:
            _KINDS[prop.kind].validate_python(value, strict=True)
        except ValidationError:
            raise Invalid(f"{place} 应为 {prop.kind}", f"{place} must be of kind {prop.kind}", field=place, value=value,
                          rule=prop.kind) from None
        for ok, rule in ((prop.min is None or value >= prop.min, f">= {prop.min}"),
                         (prop.max is None or value <= prop.max, f"<= {prop.max}")):
            if prop.kind == "number" and not ok:
                raise Invalid(f"{place} 应 {rule}", f"{place} must be {rule}", field=place, value=value, rule=rule)
