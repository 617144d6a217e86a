"""Packs: folders with a `pack.yaml` that declare entity models and seed data.

Law: a pack is data that is checked when it is read; an error names the file, the place in it and the rule. A model's
closed set of properties is what access checks readings against and what NGSI-LD contexts are generated from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tulou.kernel.errors import Invalid


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Text(_Strict):
    """A text for people in Chinese and English."""

    zh: str
    en: str


class Threshold(_Strict):
    """Raise an alarm when the value is above or below a bound for `for_s` seconds; clear at `clear`."""

    above: float | None = None
    below: float | None = None
    clear: float | None = None
    for_s: int = 0
    severity: Literal["critical", "major", "minor", "warning"] = "major"


class Property(_Strict):
    """A property of a model. `unit` is a UN/CEFACT code, `symbol` what people read, `lwm2m` the path of the LwM2M
    resource that says it (3303/0/5700)."""

    kind: Literal["number", "boolean", "string", "json"] = "number"
    label: Text
    unit: str = ""
    symbol: str = ""
    min: float | None = None
    max: float | None = None
    iri: str = ""
    alarm: Threshold | None = None
    lwm2m: str = Field(default="", pattern=r"^(\d{1,5}/\d{1,5}/\d{1,5}(/\d{1,5})?)?$")


class Command(_Strict):
    """What a device of a model can be told. `answer`: it answers; `repeat`: it may be sent again where it is unknown
    whether it arrived."""

    label: Text
    params: dict[str, Property] = Field(default_factory=dict)
    optional: list[str] = Field(default_factory=list)
    answer: bool = True
    repeat: bool = True
    expires_s: float = 60


class Model(_Strict):
    """An entity type. A closed model refuses readings of unknown properties; an open one stores them. Where it has
    commands, its devices are told no others."""

    label: Text
    icon: str = ""
    iri: str = ""
    open: bool = False
    properties: dict[str, Property] = Field(default_factory=dict)
    relationships: dict[str, Text] = Field(default_factory=dict)
    commands: dict[str, Command] = Field(default_factory=dict)
    retention_days: int | None = None
    offline_after_s: int = 600


class OrganisationSeed(_Strict):
    """An organisation that ships with the pack, created approved when the house first starts."""

    id: str
    label: Text
    kind: Literal["province", "city", "county", "department", "enterprise"]
    parent: str | None = None
    lon: float | None = None
    lat: float | None = None
    code: str = ""


class Pack(_Strict):
    """A declared pack. `data` names further files of the pack, read by the engine that owns their meaning."""

    name: str
    version: str
    label: Text
    models: dict[str, Model] = Field(default_factory=dict)
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


def load_pack(folder: Path) -> Pack:
    """Read and check `folder/pack.yaml`. Raises `Invalid` naming file, place and rule."""
    path = folder / "pack.yaml"
    try:
        return Pack.model_validate({**load_yaml(path), "folder": folder})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Invalid(
            f"{path} 的 {place}：{first['msg']}",
            f"{path}: {place}: {first['msg']}",
            field=place, value=first.get("input"), rule=first["type"],
        ) from None


class Packs:
    """All packs of the house, and their models by type name."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.packs: dict[str, Pack] = {}
        self.models: dict[str, Model] = {}
        self.pack_of: dict[str, str] = {}
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
                self.models[name] = model
                self.pack_of[name] = pack.name


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
