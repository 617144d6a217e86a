"""Packs: folders with a `pack.yaml` that declare entity models and seed data.

Law: a pack is data that is checked when it is read; an error names the file, the place in it and the rule. A model's
closed set of properties is what access checks readings against and what NGSI-LD contexts are generated from. Models that
people declare while the house runs (the hook `models`) keep the same rules; they come and go in the same mapping.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from tulou.kernel.errors import Invalid


def broken(code: str, zh: str, en: str) -> PydanticCustomError:
    """What a validator raises: a rule that is broken, in both languages."""
    return PydanticCustomError(code, "{en}", {"zh": zh, "en": en})


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

    id: str
    label: Text
    kind: Literal["province", "city", "county", "department", "enterprise"]
    parent: str | None = None
    lon: float | None = None
    lat: float | None = None
    code: str = ""


class Pack(Strict):
    """A declared pack. `data` names further files of the pack, read by the engine that owns their meaning."""

    name: str
    version: str
    label: Text
    models: dict[Name, Model] = Field(default_factory=dict)
    organisations: list[OrganisationSeed] = Field(default_factory=list)
    data: dict[str, str] = Field(default_factory=dict)
    folder: Path = Path()

    def read(self, name: str) -> Any:
        """The parsed YAML of the data file `name`. Raises `Invalid` if the pack does not name it."""
        if name not in self.data:
            raise Invalid(f"包 {self.name} 没有数据 {name}", f"pack {self.name} has no data {name}", field=name)
        return load_yaml(self.folder / self.data[name])


def load_yaml(path: Path) -> Any:
    """Parse a YAML file. Raises `Invalid` with file, line and column."""
    try:
        return yaml.load(path.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise Invalid(f"{where} 不是有效的 YAML", f"{where}: {error}", field=str(path), rule="YAML") from None


def refused(path: Path, error: ValidationError, within: str = "") -> Invalid:
    """The error for a file of a pack, with the place in it and the first rule that is broken; `within` is where the place begins."""
    first = error.errors()[0]
    place = ".".join([*([within] if within else []), *(str(part) for part in first["loc"])])
    return Invalid(
        f"{path} 的 {place}：{first.get('ctx', {}).get('zh') or first['msg']}", f"{path}: {place}: {first['msg']}",
        field=place, value=first.get("input"), rule=first["type"],
    )


def load_pack(folder: Path) -> Pack:
    """Read and check `folder/pack.yaml`. Raises `Invalid` naming file, place and rule."""
    path = folder / "pack.yaml"
    try:
        return Pack.model_validate({**load_yaml(path), "folder": folder})
    except ValidationError as error:
        raise refused(path, error) from None


class Packs:
    """All packs of the house, and the models by type name: theirs, and those that organisations declared."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.packs: dict[str, Pack] = {}
        self.own: dict[str, Model] = {}
        """The models of packs."""
        self.models: dict[str, Model] = {}
        """Those, and the models that organisations declared."""
        self.pack_of: dict[str, str] = {}
        """The pack of a type; of one that an organisation declared, `product of <organisation>`."""
        self.org_of: dict[str, str] = {}
        """The organisation that declared a type, of those that no pack has."""
        self.followers: list[Callable[[], Awaitable[None] | None]] = []
        """Called when the models of organisations have changed (`House.declare`): whoever holds what is made of models."""
        for folder in folders:
            pack = load_pack(folder)
            self.packs[pack.name] = pack
            for name, model in pack.models.items():
                if name in self.models:
                    raise Invalid(
                        f"类型 {name} 在包 {self.pack_of[name]} 与 {pack.name} 中重复",
                        f"type {name} is declared by packs {self.pack_of[name]} and {pack.name}",
                        field=name, rule="unique type name",
                    )
                self.own[name] = self.models[name] = model
                self.pack_of[name] = pack.name

    def declare(self, declared: Mapping[str, tuple[str, Model]]) -> bool:
        """The types that organisations declare are these from now on: type -> (organisation, model). A pack's type stays the
        pack's. Returns whether anything changed."""
        wanted = {name: of for name, of in declared.items() if name not in self.own}
        if wanted == {name: (org, self.models[name]) for name, org in self.org_of.items()}:
            return False
        for name in [name for name in self.org_of if name not in wanted]:
            del self.models[name], self.pack_of[name], self.org_of[name]
        for name, (org, model) in wanted.items():
            self.models[name], self.pack_of[name], self.org_of[name] = model, f"product of {org}", org
        return True


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
